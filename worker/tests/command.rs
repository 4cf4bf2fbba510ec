//! The real binary: exit codes, and what goes where. Nothing here needs a VM, root or QEMU.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod hearth;

use hearth::{assert_complaint, assert_data, hearth, stderr, stdout};

const COMMANDS: [&[&str]; 17] = [
    &["run"],
    &["bake"],
    &["runtime"],
    &["runtime", "list"],
    &["runtime", "show"],
    &["schema"],
    &["doctor"],
    &["worker"],
    &["submit"],
    &["cancel"],
    &["dead"],
    &["dead", "list"],
    &["dead", "retry"],
    &["dead", "drop"],
    &["topology"],
    &["plan"],
    &[],
];

#[test]
fn help_and_version_are_data() {
    assert_data(&hearth(&["--version"]), 0);
    let help = hearth(&["--help"]);
    assert!(stdout(&help).contains("Examples:"));
    assert!(!stdout(&help).contains("guard"), "nobody starts a guard by hand");
    for command in COMMANDS {
        let help = hearth(&[command, &["--help"]].concat());
        assert_data(&help, 0);
        assert!(stdout(&help).contains("Usage: hearth"), "{}", stdout(&help));
        assert!(stdout(&help).contains("--data-dir"), "{}", stdout(&help));
    }
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    for arguments in [
        &[][..],
        &["no-such-command"],
        &["run"],
        &["run", "job.txt"],
        &["run", "job.json", "--runtime", "python"],
        &["run", "job.json", "--timeout-ms", "5"],
        &["run", "hello.py", "--timeout-ms", "soon"],
        &["bake"],
        &["bake", "python", "--all"],
        &["schema", "no-such-schema"],
        &["runtime", "show"],
        &["--log-format", "xml", "schema"],
        &["--log", "=[", "schema"],
        &["-q", "-v", "schema"],
    ] {
        assert_complaint(&hearth(arguments), 64);
    }
}

#[test]
fn every_schema_is_printed() {
    for name in ["job", "result", "manifest"] {
        let schema = hearth(&["schema", name]);
        assert_data(&schema, 0);
        let json: serde_json::Value = serde_json::from_str(stdout(&schema)).unwrap();
        assert!(json["properties"].is_object());
    }
    assert_eq!(hearth(&["schema"]).stdout, hearth(&["schema", "job"]).stdout);
}

#[test]
fn runtimes_are_listed_and_shown_as_they_are_written() {
    let list = hearth(&["runtime", "list", "--json"]);
    assert_data(&list, 0);
    let json: Vec<serde_json::Value> = serde_json::from_str(stdout(&list)).unwrap();
    let names: Vec<&str> = json.iter().map(|runtime| runtime["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["bash", "gcc", "node", "python"]);

    let shown = hearth(&["runtime", "show", "python"]);
    assert_data(&shown, 0);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("python.toml"), &shown.stdout).unwrap();
    let again = hearth(&["--runtimes", directory.path().to_str().unwrap(), "runtime", "show", "python"]);
    assert_eq!(again.stdout, shown.stdout);
    assert_data(&hearth(&["runtime", "list"]), 0);
}

#[test]
fn an_unknown_runtime_is_refused_with_those_there_are() {
    for arguments in [&["runtime", "show", "cobol"][..], &["bake", "cobol"], &["bake", "python", "cobol"]] {
        let output = hearth(arguments);
        assert_complaint(&output, 65);
        assert!(stderr(&output).contains("bash, gcc, node, python"));
    }
}

#[test]
fn wrong_runtime_files_are_a_configuration_error_that_names_file_and_field() {
    assert_complaint(&hearth(&["--runtimes", "/no/such/directory", "runtime", "list"]), 78);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("zig.toml"), "name = \"zig\"\nvcpus = 0\n").unwrap();
    for command in
        [&["runtime", "list"][..], &["doctor"], &["run", "-", "--runtime", "zig"], &["bake", "zig"]]
    {
        let output = hearth(&[&["--runtimes", directory.path().to_str().unwrap()], command].concat());
        assert_complaint(&output, 78);
        assert!(stderr(&output).contains("zig.toml"), "{}", stderr(&output));
    }
}

#[test]
fn doctor_says_as_json_whether_jobs_can_run() {
    let nobody = "127.0.0.1:1"; // tcpmux, which nobody runs
    let (broker, redis) = (format!("amqp://u:secret@{nobody}"), format!("redis://:secret@{nobody}"));
    let arguments = ["doctor", "--broker", &broker, "--redis", &redis];
    let output = hearth(&[&arguments[..], &["--json"]].concat());
    // Nothing is baked in an empty data directory.
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let report: serde_json::Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(report["jobs_can_run"], false);
    let findings = report["findings"].as_array().unwrap();
    for name in
        ["kvm", "qemu", "vsock", "firecracker", "jailer", "cgroup", "memory", "snapshot python", "redis"]
    {
        let finding = findings.iter().find(|finding| finding["name"] == name);
        let finding = finding.unwrap_or_else(|| panic!("no line about {name}"));
        let level = finding["level"].as_str().unwrap();
        assert!(["ok", "warn", "fail"].contains(&level));
        assert!(level == "ok" || finding["remedy"].is_string() || finding["detail"].is_string());
    }
    let python = findings.iter().find(|finding| finding["name"] == "snapshot python").unwrap();
    assert!(python["remedy"].as_str().unwrap().contains("hearth bake python"), "{python}");
    let table = hearth(&arguments);
    assert_eq!(table.status.code(), Some(69));
    assert!(!stdout(&table).contains("secret") && !stdout(&output).contains("secret"));
    assert!(stdout(&table).contains(nobody));
}

#[test]
fn doctor_judges_a_workers_settings() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("worker.toml");
    let finding = |settings: &str| {
        std::fs::write(&file, settings).unwrap();
        let output = hearth(&["doctor", "--json", "--config", file.to_str().unwrap()]);
        let report: serde_json::Value = serde_json::from_str(stdout(&output)).unwrap();
        let findings = report["findings"].as_array().unwrap().clone();
        findings.into_iter().find(|finding| finding["name"] == "worker").unwrap()
    };
    let said = finding(
        "[broker]\nurl = \"amqp://h\"\n[slots]\npython = 4\n[pool]\nmode = \"auto\"\ntarget_wait_ms = 50\n\
         memory_budget_mib = 8192\ndormant = { python = 2 }\n",
    );
    let detail = said["detail"].as_str().unwrap();
    assert!(detail.contains("slots of python"), "{said}");
    assert!(said["level"] == "fail" || detail.ends_with("dormant python: 2"), "{said}");
    let wrong = finding("[slots]\npython = 0\n");
    assert_eq!(wrong["level"], "fail");
    let detail = wrong["detail"].as_str().unwrap();
    assert!(detail.contains("slots.python") && detail.contains("broker.url"), "{wrong}");
}
