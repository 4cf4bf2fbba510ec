//! `deploy/prometheus/hearth.rules.yml`: what it asks, and that Prometheus's own tool has seen every alert fire and stay silent.

use std::{collections::BTreeMap, process::Command};

use serde_yaml_ng::Value;

use super::{deploy, promql, text};

const RULES: &str = "prometheus/hearth.rules.yml";
const TESTS: &str = "prometheus/hearth.rules.test.yml";

fn yaml(name: &str) -> Value {
    serde_yaml_ng::from_str(&text(name)).unwrap()
}

fn rules() -> Vec<Value> {
    let groups = yaml(RULES)["groups"].as_sequence().unwrap().clone();
    groups.iter().flat_map(|group| group["rules"].as_sequence().unwrap().clone()).collect()
}

#[test]
fn every_alert_asks_for_what_is_measured() {
    let mistakes: Vec<_> =
        rules().iter().flat_map(|rule| promql::mistakes(rule["expr"].as_str().unwrap())).collect();
    assert!(mistakes.is_empty(), "{mistakes:#?}");
}

#[test]
fn every_alert_has_a_case_that_fires_and_one_that_is_silent() {
    let mut cases: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    let tests = yaml(TESTS);
    for case in tests["tests"]
        .as_sequence()
        .unwrap()
        .iter()
        .flat_map(|test| test["alert_rule_test"].as_sequence())
        .flatten()
    {
        let (fires, silent) = cases.entry(case["alertname"].as_str().unwrap().to_owned()).or_default();
        let alerts = case["exp_alerts"].as_sequence().unwrap();
        (*fires, *silent) = (*fires || !alerts.is_empty(), *silent || alerts.is_empty());
    }
    let names: Vec<_> = rules().iter().map(|rule| rule["alert"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names.len(), cases.len());
    for name in names {
        assert_eq!(cases.get(&name), Some(&(true, true)), "{name}: fires, is silent");
    }
}

#[test]
fn prometheus_sees_them_fire_and_stay_silent() {
    if Command::new("promtool").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no promtool here; `deploy/install-deps.sh test` installs it");
        return;
    }
    let promtool = |what: &str, file: &std::path::Path| {
        let ran = Command::new("promtool").args([what, "rules"]).arg(file).output().unwrap();
        let said = [ran.stdout, ran.stderr].concat();
        (ran.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let (fine, said) = promtool("check", &deploy(RULES));
    assert!(fine, "{said}");
    let (fine, said) = promtool("test", &deploy(TESTS));
    assert!(fine, "{said}");
    // The cases decide: with a rule that never fires, or always does, they fail.
    let directory = tempfile::tempdir().unwrap();
    let copy = |rules: &Value| {
        std::fs::write(directory.path().join("hearth.rules.yml"), serde_yaml_ng::to_string(rules).unwrap())
            .unwrap();
        std::fs::write(directory.path().join("test.yml"), text(TESTS)).unwrap();
        promtool("test", &directory.path().join("test.yml"))
    };
    let written = yaml(RULES);
    assert!(copy(&written).0);
    for number in 0..rules().len() {
        for instead in ["vector(1) > 2", "vector(1)"] {
            let mut rules = written.clone();
            let rule = &mut rules["groups"][0]["rules"][number];
            rule["expr"] = instead.into();
            let name = rule["alert"].as_str().unwrap().to_owned();
            assert!(!copy(&rules).0, "{name} as {instead} passes");
        }
    }
}
