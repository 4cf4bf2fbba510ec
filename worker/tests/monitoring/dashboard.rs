//! Makes `deploy/grafana/hearth.json`, and looks at what is written there.

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use hearth_worker::meters;
use serde_json::{Value, json};

use super::{deploy, panels::ROWS, promql, text};

const FILE: &str = "grafana/hearth.json";
/// Grafana's grid has that many columns.
const COLUMNS: u32 = 24;
/// Rows of the grid that a panel takes.
const HEIGHT: u32 = 8;
/// Of one that shows a number.
const NUMBER_HEIGHT: u32 = 4;

pub struct Row {
    pub title: &'static str,
    pub panels: &'static [Panel],
}

pub struct Panel {
    pub title: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    /// By Grafana's name.
    pub unit: &'static str,
    pub width: u32,
    /// Expression and legend. What is called `target` is drawn dashed.
    pub queries: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Number,
    Lines,
    Stack,
}

fn made() -> Value {
    let (mut panels, mut id, mut y) = (Vec::new(), 0, 0);
    for row in ROWS {
        let at = json!({"h": 1, "w": COLUMNS, "x": 0, "y": y});
        id += 1;
        panels.push(json!({"id": id, "type": "row", "title": row.title, "collapsed": false, "gridPos": at, "panels": []}));
        (y, id) = (y + 1, id);
        let (mut x, mut height) = (0, 0);
        for panel in row.panels {
            if x + panel.width > COLUMNS {
                (x, y) = (0, y + height);
            }
            height = if panel.kind == Kind::Number { NUMBER_HEIGHT } else { HEIGHT };
            id += 1;
            panels.push(panel.json(id, &json!({"h": height, "w": panel.width, "x": x, "y": y})));
            x += panel.width;
        }
        y += height;
    }
    json!({
        "uid": "hearth",
        "title": "Hearth",
        "description": "Made from worker/tests/monitoring/panels.rs; a test says when it is stale.",
        "tags": ["hearth"],
        "schemaVersion": 39,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": variables()},
        "annotations": {"list": []},
        "links": [],
        "panels": panels,
    })
}

fn source() -> Value {
    json!({"type": "prometheus", "uid": "${source}"})
}

fn variables() -> Vec<Value> {
    let of = |name: &str, label: &str, query: &str| {
        json!({
            "name": name, "label": label, "type": "query", "datasource": source(),
            "query": {"query": query, "refId": name},
            "refresh": 2, "sort": 1, "multi": true, "includeAll": true, "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        })
    };
    vec![
        json!({"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}),
        of("runtime", "Runtime", "label_values(hearth_pool_target, runtime)"),
        of("instance", "Worker", "label_values(hearth_worker_ready, instance)"),
    ]
}

impl Panel {
    fn json(&self, id: u32, at: &Value) -> Value {
        let query = |(number, (expr, legend)): (usize, &(&str, &str))| {
            let ref_id = char::from(b'A' + u8::try_from(number).unwrap()).to_string();
            json!({"refId": ref_id, "expr": expr, "legendFormat": legend, "datasource": source(), "range": true})
        };
        let targets: Vec<_> = self.queries.iter().enumerate().map(query).collect();
        let mut panel = json!({
            "id": id, "title": self.title, "description": self.help, "gridPos": at, "datasource": source(),
            "targets": targets,
        });
        let (kind, options, fields) = self.look();
        panel["type"] = json!(kind);
        panel["options"] = options;
        panel["fieldConfig"] = fields;
        panel
    }

    fn look(&self) -> (&'static str, Value, Value) {
        if self.kind == Kind::Number {
            let options = json!({
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false},
                "colorMode": "value", "graphMode": "area", "justifyMode": "auto", "textMode": "auto",
                "orientation": "auto", "wideLayout": true, "showPercentChange": false, "percentChangeColorMode": "standard",
            });
            let defaults =
                json!({"unit": self.unit, "decimals": if self.unit == "percentunit" { 1 } else { 0 }});
            return ("stat", options, json!({"defaults": defaults, "overrides": []}));
        }
        let (stacking, fill) = if self.kind == Kind::Stack { ("normal", 30) } else { ("none", 0) };
        let options = json!({
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        });
        let custom = json!({
            "drawStyle": "line", "lineWidth": 1, "fillOpacity": fill, "showPoints": "never", "spanNulls": false,
            "stacking": {"mode": stacking, "group": "A"},
        });
        let dashed = json!({
            "matcher": {"id": "byRegexp", "options": "/target$/"},
            "properties": [{"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 8]}}],
        });
        let fields =
            json!({"defaults": {"unit": self.unit, "min": 0, "custom": custom}, "overrides": [dashed]});
        ("timeseries", options, fields)
    }
}

fn written() -> Value {
    serde_json::from_str(&text(FILE)).unwrap()
}

/// Every expression that is written, as Prometheus would get it.
fn expressions() -> Vec<String> {
    let written = written();
    let panels = written["panels"].as_array().unwrap();
    let queries = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    queries.map(|query| query["expr"].as_str().unwrap().replace("$__rate_interval", "5m")).collect()
}

#[test]
fn the_dashboard_is_not_stale() {
    let made = serde_json::to_string_pretty(&made()).unwrap() + "\n";
    #[expect(clippy::disallowed_methods, reason = "a test's own switch")]
    if std::env::var("UPDATE_DASHBOARD").is_ok() {
        std::fs::write(deploy(FILE), made).unwrap();
    } else {
        assert!(
            std::fs::read_to_string(deploy(FILE)).unwrap_or_default() == made,
            "deploy/{FILE} is stale. Run `UPDATE_DASHBOARD=1 cargo test -p hearth-worker --test monitoring stale` and commit it."
        );
    }
}

#[test]
fn every_expression_asks_for_what_is_measured_and_every_metric_is_shown() {
    let expressions = expressions();
    let mistakes: Vec<_> = expressions.iter().flat_map(|expression| promql::mistakes(expression)).collect();
    assert!(mistakes.is_empty(), "{mistakes:#?}");
    let shown: BTreeSet<_> = expressions.iter().flat_map(|expression| promql::metrics(expression)).collect();
    let all: BTreeSet<_> = meters::ALL.iter().map(|metric| metric.name).collect();
    assert_eq!(
        all.difference(&shown).collect::<Vec<_>>(),
        Vec::<&&str>::new(),
        "metrics that no panel shows"
    );
}

#[test]
fn variables_choose_by_labels_that_there_are_and_legends_name_what_is_kept() {
    let written = written();
    for variable in written["templating"]["list"].as_array().unwrap() {
        let Some(definition) = variable["query"]["query"].as_str() else { continue };
        let asked = definition.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).unwrap();
        let (metric, label) = asked.split_once(", ").unwrap();
        let grouped = format!("sum by ({label}) ({metric})");
        assert_eq!(promql::mistakes(&grouped), Vec::<String>::new());
    }
    for query in
        written["panels"].as_array().unwrap().iter().filter_map(|panel| panel["targets"].as_array()).flatten()
    {
        let (expr, mut legend) = (query["expr"].as_str().unwrap(), query["legendFormat"].as_str().unwrap());
        while let Some((_, rest)) = legend.split_once("{{") {
            let (label, rest) = rest.split_once("}}").unwrap();
            let kept = expr.split("by (").skip(1).filter_map(|kept| kept.split(')').next());
            assert!(
                kept.clone().all(|kept| kept.split(", ").any(|kept| kept == label)),
                "{label} is not kept by {expr}"
            );
            legend = rest;
        }
    }
}

#[test]
fn panels_do_not_overlap() {
    let written = written();
    let at = |panel: &Value| ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
    let places: Vec<_> = written["panels"].as_array().unwrap().iter().map(at).collect();
    for (n, [x, y, w, h]) in places.iter().enumerate() {
        assert!(x + w <= u64::from(COLUMNS));
        for [x2, y2, w2, h2] in &places[n + 1..] {
            assert!(
                x + w <= *x2 || x2 + w2 <= *x || y + h <= *y2 || y2 + h2 <= *y,
                "at {x},{y} and {x2},{y2}"
            );
        }
    }
}

/// Where `deploy/install-deps.sh test` puts Grafana's own types and a compiler that checks against them.
fn grafana_types() -> Option<PathBuf> {
    let tools = Command::new(deploy("install-deps.sh")).arg("where-grafana-schema").output().ok()?;
    let at = PathBuf::from(String::from_utf8(tools.stdout).ok()?.trim());
    at.join("node_modules/.bin/tsc").exists().then_some(at)
}

#[test]
fn grafana_s_own_schema_takes_the_dashboard() {
    let Some(at) = grafana_types() else {
        eprintln!("SKIPPED: Grafana's schema is not here; `deploy/install-deps.sh test` installs it");
        return;
    };
    let check = |dashboard: &Value| {
        let directory = tempfile::tempdir_in(&at).unwrap();
        let types = text("grafana/schema.ts");
        let program = format!("{types}\nexport const dashboard: Written = {dashboard};\n");
        std::fs::write(directory.path().join("dashboard.ts"), program).unwrap();
        let mut tsc = Command::new(at.join("node_modules/.bin/tsc"));
        tsc.args([
            "--noEmit",
            "--strict",
            "--skipLibCheck",
            "--module",
            "esnext",
            "--moduleResolution",
            "bundler",
        ]);
        let checked = tsc.arg("dashboard.ts").current_dir(directory.path()).output().unwrap();
        (checked.status.success(), String::from_utf8_lossy(&checked.stdout).into_owned())
    };
    let (taken, said) = check(&written());
    assert!(taken, "{said}");
    let panel = written()["panels"]
        .as_array()
        .unwrap()
        .iter()
        .position(|panel| panel["type"] == "timeseries")
        .unwrap();
    for (wrong, value) in [
        ("/schemaVersion", json!("39")),
        ("/graphTooltip", json!(7)),
        (&*format!("/panels/{panel}/gridPos/w"), json!("wide")),
        (&*format!("/panels/{panel}/fieldConfig/defaults/custom/drawStyle"), json!("scribble")),
        (&*format!("/panels/{panel}/options/tooltip/mode"), json!("many")),
    ] {
        let mut dashboard = written();
        *dashboard.pointer_mut(wrong).unwrap() = value;
        assert!(!check(&dashboard).0, "{wrong} is taken");
    }
}
