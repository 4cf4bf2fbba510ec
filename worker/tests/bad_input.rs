//! What `hearth run` refuses: with a result, a message that names the field and what is allowed, and exit code 65, before
//! any VM is taken. Nothing here needs a VM, root or QEMU.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod hearth;

use hearth::{assert_complaint, hearth_with, stderr, stdout};
use serde_json::{Value, json};

/// A job that is fine but for what `change` does to it.
fn job(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut job =
        json!({"runtime": "python", "stages": [{"name": "run", "argv": ["python3", "-c", "print(1)"]}]});
    change(&mut job);
    job.to_string().into_bytes()
}

/// Sends it; it must be refused with every one of `words` in the message.
fn refused(body: &[u8], words: &[&str]) -> Value {
    let output = hearth_with(&["run", "-", "--json"], body);
    let shown = String::from_utf8_lossy(body.get(..300).unwrap_or(body)).into_owned();
    assert_eq!(output.status.code(), Some(65), "{shown}: {output:?}");
    let result: Value = serde_json::from_str(stdout(&output)).expect("stdout is one result");
    assert_eq!(result["status"], "refused");
    for word in words {
        assert!(stderr(&output).contains(word), "{shown}: no {word:?} in {}", stderr(&output));
    }
    assert!(stderr(&output).contains(result["refusal"]["message"].as_str().unwrap()));
    result
}

/// A field with a wrong value, and what the message says.
fn wrong(field: &str, value: Value, words: &[&str]) {
    let body = job(|job| {
        let pointer = format!("/{}", field.replace(['[', '.'], "/").replace(']', ""));
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = job.pointer_mut(parent).unwrap();
        match parent {
            Value::Array(items) => items[name.parse::<usize>().unwrap()] = value.clone(),
            other => other[name] = value.clone(),
        }
    });
    refused(&body, words);
}

#[test]
fn malformed_json_says_where() {
    refused(b"", &["not valid JSON", "line 1"]);
    refused(b"{\"runtime\": \"python\",\n oops}", &["not valid JSON", "line 2"]);
    refused(b"\xff\xfe", &["not valid JSON"]);
    refused(b"{} {}", &["runtime"]);
    refused(b"[]", &["request", "expected an object"]);
}

#[test]
fn wrong_types_and_unknown_fields_are_named() {
    wrong("runtime", json!(7), &["runtime", "string"]);
    wrong("stages", json!({}), &["stages", "array"]);
    wrong("stages[0].argv", json!("true"), &["stages[0].argv", "array"]);
    wrong("limits", json!({"wall_ms": "1s"}), &["limits.wall_ms", "whole number"]);
    wrong("limits", json!({"wall_ms": -1}), &["limits.wall_ms", "whole number"]);
    wrong("colour", json!("red"), &["colour", "expected one of"]);
    wrong("stages[0].color", json!(1), &["stages[0].color"]);
    refused(b"{\"code\": \"1\"}", &["runtime", "required"]);
}

#[test]
fn a_wrong_version_is_named_before_its_fields() {
    wrong("version", json!(2), &["version", "2", "1"]);
    refused(b"{\"version\": 9, \"brand_new\": true}", &["version", "9"]);
}

#[test]
fn names_are_checked() {
    wrong("runtime", json!("cobol"), &["runtime", "cobol", "bash, gcc, node, python"]);
    for name in ["a/b", "", "a b", "../x", &"x".repeat(65)] {
        wrong("id", json!(name), &["id", "1 to 64"]);
        wrong("tenant", json!(name), &["tenant", "1 to 64"]);
    }
    wrong("runtime", json!("a/b"), &["runtime"]);
}

#[test]
fn limits_above_what_the_runtime_offers_name_both_numbers() {
    wrong("limits", json!({"memory_mib": 4096}), &["limits.memory_mib", "4096", "320"]);
    wrong("limits", json!({"disk_mib": 100_000}), &["limits.disk_mib", "100000", "512"]);
}

#[test]
fn limits_out_of_range_name_what_is_allowed() {
    for limit in ["wall_ms", "cpu_ms", "memory_mib", "output_kib", "processes", "disk_mib", "files"] {
        let field = format!("limits.{limit}");
        wrong("limits", json!({limit: 0}), &[&field, "allowed are"]);
        wrong("limits", json!({limit: 1_u64 << 60}), &[&field, "1152921504606846976"]);
        wrong("stages[0].limits", json!({limit: 0}), &[&format!("stages[0].{field}")]);
    }
    wrong("deadline_ms", json!(0), &["deadline_ms"]);
}

#[test]
fn paths_stay_in_the_working_tree() {
    for path in ["../x", "/etc/passwd", "a/../../b", "", "a//b", "./a", "a\u{0}b"] {
        wrong("files", json!([{"path": path, "text": ""}]), &["files[0].path"]);
    }
    wrong("stages[0].cwd", json!("../up"), &["stages[0].cwd"]);
    wrong("outputs", json!(["/etc/*"]), &["outputs[0]"]);
    wrong("outputs", json!(["ok", "../*"]), &["outputs[1]"]);
}

#[test]
fn commands_are_checked() {
    wrong("stages[0].argv", json!([]), &["stages[0].argv"]);
    wrong("stages[0].argv", json!([""]), &["stages[0].argv"]);
    wrong("stages", json!([]), &["stages"]);
    wrong("code", json!("print(1)"), &["code", "stages"]);
    wrong("stages[0].env", json!({"A=B": "x"}), &["stages[0].env"]);
}

#[test]
fn files_are_checked() {
    wrong("files", json!([{"path": "x", "base64": "%%%"}]), &["files[0].base64"]);
    wrong("files", json!([{"path": "x"}]), &["files[0]", "text"]);
    wrong("files", json!([{"path": "x", "text": "", "base64": ""}]), &["files[0]"]);
    wrong("files", json!([{"path": "x", "text": "", "mode": "0999"}]), &["files[0].mode"]);
    wrong("files", json!([{"path": "x", "text": "1"}, {"path": "x", "text": "2"}]), &["files[1]", "x"]);
    let large = "x".repeat(8 * 1024 * 1024 + 1);
    wrong("files", json!([{"path": "x", "text": large}]), &["files[0].text", "8388609", "8388608"]);
    refused(&vec![b' '; 16 * 1024 * 1024 + 1], &["16777216"]);
}

#[test]
fn what_is_not_yet_supported_is_refused_by_name() {
    wrong("network", json!({"allow": ["h"]}), &["network.allow[0]", "port"]);
    wrong("session", json!({}), &["session", "not yet supported"]);
    wrong("checkpoint", json!(1), &["checkpoint", "not yet supported"]);
}

#[test]
fn source_that_is_no_text_is_refused() {
    let output = hearth_with(&["run", "-", "--runtime", "python"], b"\xff");
    assert_complaint(&output, 65);
    assert!(stderr(&output).contains("code: not UTF-8"));
    let output = hearth_with(&["run", "-", "--runtime", "cobol", "--json"], b"");
    assert_eq!(output.status.code(), Some(65));
    assert!(stderr(&output).contains("runtime: "));
    let output = hearth_with(&["run", "-", "--runtime", "python", "--timeout-ms", "0"], b"");
    assert_eq!(output.status.code(), Some(65));
    assert!(stderr(&output).contains("limits.wall_ms"));
}

#[test]
fn an_input_that_is_not_there_is_code_66() {
    for path in ["no/such/job.json", "no/such/hello.py"] {
        let output = hearth_with(&["run", path], b"");
        assert_complaint(&output, 66);
        assert!(stderr(&output).contains(path));
    }
    assert_complaint(&hearth_with(&["run", "/", "--runtime", "python"], b""), 66);
}

#[test]
fn a_good_job_without_a_snapshot_is_code_69_and_says_what_to_run() {
    let output = hearth_with(&["run", "-"], &job(|_| {}));
    assert_complaint(&output, 69);
    // Where there is no QEMU either, that comes first.
    assert!(stderr(&output).contains("hearth bake python") || stderr(&output).contains("hearth doctor"));
}
