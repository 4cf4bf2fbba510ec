//! `hearth plan`: the real binary over traces, and over a real Prometheus where there is one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod hearth;

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use hearth::{assert_complaint, assert_data, hearth, stderr, stdout};
use hearth_pool::scale::sim::{LoadShape, load};
use serde_json::Value;
use tempfile::TempDir;

const SETTINGS: &str = "[slots]\npython = 30\n[pool]\nrestores_at_once = 8\n";

/// Three jobs a second for five minutes, in a directory with settings.
fn scene() -> TempDir {
    let dir = TempDir::new().unwrap();
    let second = Duration::from_secs(1);
    let mut csv = "arrival,runtime,duration,lane\n".to_owned();
    for job in load(LoadShape::Step { from: 3.0, to: 3.0, at: second }, 300 * second, second, 7) {
        let (at, takes) = (job.at.as_secs_f64(), job.takes.as_secs_f64());
        writeln!(csv, "{at:.4},python,{takes:.4},normal").unwrap();
    }
    fs::write(dir.path().join("jobs.csv"), csv).unwrap();
    fs::write(dir.path().join("worker.toml"), SETTINGS).unwrap();
    dir
}

fn path(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).display().to_string()
}

#[test]
fn two_settings_stand_side_by_side_as_table_json_and_picture() {
    let dir = scene();
    let (jobs, settings, picture) =
        (path(&dir, "jobs.csv"), path(&dir, "worker.toml"), path(&dir, "plan.svg"));
    let told = ["plan", &jobs, "--config", &settings, "--set", "pool.mode=auto", "--svg", &picture];
    let table = hearth(&told);
    assert_data(&table, 0);
    let text = stdout(&table);
    let head: Vec<_> = text.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["current", "proposed"], "{text}");
    for row in [
        "hit ratio",
        "wait, p50",
        "wait, p95",
        "wait, p99",
        "memory, mean",
        "memory, peak",
        "CPU of restores",
    ] {
        assert!(text.contains(row), "{row} is not in\n{text}");
    }
    let svg = fs::read_to_string(&picture).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("proposed") && svg.contains("hit ratio"), "{svg:.200}");
    let json = hearth(&[&told[..6], &["--json"]].concat());
    let json: Value = serde_json::from_str(stdout(&json)).unwrap();
    let report = |number: usize| &json["outcomes"][number]["report"];
    assert!(
        report(0)["hit_ratio"].as_f64().unwrap() > 0.99 && report(1)["hit_ratio"].as_f64().unwrap() > 0.97
    );
    let memory = |number: usize| report(number)["memory_mean_mib"].as_f64().unwrap();
    assert!(memory(1) < memory(0) / 2.0, "following the load holds less: {} {}", memory(1), memory(0));
    assert_eq!(report(0)["jobs"], report(1)["jobs"]);
    assert!(report(1)["points"].as_array().unwrap().len() > 100);
}

#[test]
fn a_recommendation_reaches_its_targets_or_says_that_nothing_does() {
    let dir = scene();
    let (jobs, settings) = (path(&dir, "jobs.csv"), path(&dir, "worker.toml"));
    let told = ["plan", &jobs, "--config", &settings, "--recommend", "--target-wait-ms", "100", "--json"];
    let found = hearth(&[&told[..], &["--target-hit", "0.95"]].concat());
    assert_eq!(found.status.code(), Some(0), "{}", stderr(&found));
    let found: Value = serde_json::from_str(stdout(&found)).unwrap();
    let report = &found["recommendation"]["outcome"]["report"];
    assert!(report["within"].as_f64().unwrap() >= 0.95);
    assert!(
        report["memory_gib_hours"].as_f64() < found["outcomes"][0]["report"]["memory_gib_hours"].as_f64()
    );
    let hopeless = hearth(&[&told[..7], &["--set", "slots.python=2"]].concat());
    assert_eq!(hopeless.status.code(), Some(1), "{}", stderr(&hopeless));
    assert!(stdout(&hopeless).contains("None of"), "{}", stdout(&hopeless));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let dir = scene();
    let (jobs, settings) = (path(&dir, "jobs.csv"), path(&dir, "worker.toml"));
    fs::write(dir.path().join("bad.jsonl"), "{\"arrival\":1,\"runtime\":\"python\",\"duration\":1}\n{}\n")
        .unwrap();
    let bad = path(&dir, "bad.jsonl");
    for (told, code, what) in [
        (vec!["plan", &bad, "--config", &settings], 65, "bad.jsonl: line 2: missing field"),
        (vec!["plan", "/nowhere.csv", "--config", &settings], 66, "/nowhere.csv"),
        (vec!["plan", &jobs], 78, "set slots.python"),
        (vec!["plan", &jobs, "--config", &settings, "--set", "pool.mode=wild"], 78, "pool.mode"),
        (vec!["plan", &jobs, "--config", &settings, "--set", "mode"], 78, "such as pool.target_wait_ms=100"),
        (vec!["plan", &jobs, "--config", &settings, "--restore-ms", "soon"], 64, "--restore-ms"),
        (vec!["plan", "--prometheus", "http://127.0.0.1:1", "--config", &settings], 69, "cannot be reached"),
        (vec!["plan", "--prometheus", "https://x", "--config", &settings], 69, "allowed is http://"),
        (vec!["plan"], 64, "TRACE"),
    ] {
        let said = hearth(&told);
        assert!(stderr(&said).contains(what), "{told:?}: {}", stderr(&said));
        assert_complaint(&said, code);
    }
}

/// A real server over blocks of the past: counters that grew by 5 a second, then by 10.
#[test]
fn rates_come_out_of_a_real_prometheus() {
    let dir = scene();
    let Some(server) = Prometheus::start(dir.path()) else { return };
    let settings = path(&dir, "worker.toml");
    let told = [
        "plan",
        "--prometheus",
        &server.url,
        "--config",
        &settings,
        "--from",
        "2026-11-01T00:00:00Z",
        "--to",
        "2026-11-01T00:20:00Z",
        "--step-s",
        "30",
        "--json",
    ];
    let found = hearth(&told);
    assert_eq!(found.status.code(), Some(0), "{}", stderr(&found));
    let found: Value = serde_json::from_str(stdout(&found)).unwrap();
    let jobs = found["outcomes"][0]["report"]["jobs"].as_u64().unwrap();
    assert!((8_100..9_900).contains(&jobs), "600 s of 5 and of 10 a second: {jobs}");
    let wrong = hearth(&[&told[..11], &["--query", "sum by ("]].concat());
    assert_eq!(wrong.status.code(), Some(69));
    assert!(
        stderr(&wrong).contains("says 400") && stderr(&wrong).contains("parse error"),
        "{}",
        stderr(&wrong)
    );
    let none = hearth(&[&told[..11], &["--query", "sum(hearth_pool_claims_total)"]].concat());
    assert!(stderr(&none).contains("no label runtime"), "{}", stderr(&none));
}

struct Prometheus {
    url: String,
    process: Child,
}

impl Prometheus {
    fn start(dir: &Path) -> Option<Self> {
        let found = |name: &str| Command::new(name).arg("--version").output().is_ok();
        if !found("prometheus") || !found("promtool") {
            eprintln!("SKIPPED: no prometheus and promtool here (apt-get install prometheus)");
            return None;
        }
        let (history, data) = (dir.join("history.om"), dir.join("data"));
        fs::write(&history, openmetrics()).unwrap();
        let made = Command::new("promtool")
            .args(["tsdb", "create-blocks-from", "openmetrics"])
            .args([&history, &data])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::write(dir.join("prometheus.yml"), "global: {}\n").unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .args(["--storage.tsdb.retention.time=100y", "--log.level=error"])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { url: format!("http://127.0.0.1:{port}"), process };
        // It may take its time to start; each try ends when it answers or refuses.
        let mut tries = 0..3000;
        while !ready(port) {
            assert!(tries.next().is_some(), "prometheus is not ready");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Some(server)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn ready(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let asked = stream.write_all(b"GET /-/ready HTTP/1.0\r\n\r\n").is_ok();
    let mut answer = String::new();
    asked && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.0 200")
}

fn openmetrics() -> String {
    // 2026-11-01T00:00:00Z, and a minute before, so that there is a rate from the beginning.
    let (begins, mut text, mut hit) =
        (1_793_491_200_u64, "# TYPE hearth_pool_claims counter\n".to_owned(), 0);
    for step in 0..=88 {
        let at = begins - 120 + step * 15;
        writeln!(text, "hearth_pool_claims_total{{runtime=\"python\",outcome=\"hit\"}} {hit} {at}").unwrap();
        hit += 15 * if at < begins + 600 { 5 } else { 10 };
    }
    text + "# EOF\n"
}
