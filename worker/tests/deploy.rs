//! What operators copy is right: the example settings, the unit, the compose file.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use hearth_worker::settings::Settings;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

fn settings(text: &str) -> Settings {
    Settings::parse(text, &|_| None).unwrap_or_else(|wrong| panic!("{wrong}"))
}

#[test]
fn the_example_settings_are_taken_and_say_the_defaults() {
    let example = settings(&text("worker.toml"));
    let least = settings("[broker]\nurl = \"amqp://hearth:secret@rabbitmq:5672/%2f\"\n");
    assert_eq!(example.broker, least.broker);
    assert_eq!((example.job_wall_max, example.deadline_ms), (least.job_wall_max, least.deadline_ms));
    assert_eq!((example.grace, example.spool_max_bytes), (least.grace, least.spool_max_bytes));
    let unit = text("hearth-worker.service");
    assert!(unit.contains("\nStateDirectory=hearth\n"), "the spool's place is there and may be written");
    assert_eq!(example.spool, least.with_data_dir(Path::new("/var/lib/hearth")).spool);
    assert!(example.redis.is_some() && example.admin.is_some());
    let with_traces = text("worker.toml").replace("# otlp_endpoint", "otlp_endpoint");
    assert!(settings(&with_traces).telemetry.otlp_endpoint.is_some());
}

#[test]
fn the_command_checks_the_example_and_says_every_mistake() {
    let hearth = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
        command.args(arguments).envs(environment.iter().copied()).output().unwrap()
    };
    let example = path("worker.toml");
    let check = ["worker", "--config", example.to_str().unwrap(), "--check"];
    assert_eq!(hearth(&check, &[]).status.code(), Some(0));
    let wrong =
        [("HEARTH_WORKER_BROKER_SHARDS", "0"), ("HEARTH_WORKER_TELEMETRY_OTLP_ENDPOINT", "https://x")];
    let refused = hearth(&check, &wrong);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(wrong.iter().all(|(name, _)| said.contains(name)), "{said}");
}

#[test]
fn the_unit_gives_a_drain_its_time_and_systemd_takes_it() {
    let unit = text("hearth-worker.service");
    let stop = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
    let stop = Duration::from_secs(stop.parse().unwrap());
    assert!(stop > settings(&text("worker.toml")).grace, "a drain is not cut short");
    let Ok(verify) =
        Command::new("systemd-analyze").arg("verify").arg(path("hearth-worker.service")).output()
    else {
        eprintln!("SKIPPED: no systemd-analyze here");
        return;
    };
    let said = String::from_utf8_lossy(&verify.stderr);
    let ours: Vec<_> = said.lines().filter(|line| line.contains("hearth-worker")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

#[test]
fn the_compose_file_keeps_what_workers_need_kept() {
    let compose: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text("compose.yaml")).unwrap();
    let redis: Vec<_> = compose["services"]["redis"]["command"]
        .as_sequence()
        .unwrap()
        .iter()
        .filter_map(|word| word.as_str())
        .collect();
    assert!(redis.windows(2).any(|pair| pair == ["--appendonly", "yes"]));
    assert!(redis.windows(2).any(|pair| pair == ["--maxmemory-policy", "noeviction"]));
    let rabbitmq = compose["configs"]["rabbitmq"]["content"].as_str().unwrap();
    let timeout_ms = settings(&text("worker.toml")).broker.consumer_timeout.as_millis();
    assert!(rabbitmq.contains(&format!("consumer_timeout = {timeout_ms}")), "{rabbitmq}");
}
