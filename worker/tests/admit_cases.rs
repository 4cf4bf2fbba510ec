//! What is refused of cases, by its field, and what admission makes of good ones.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may")]

use std::collections::BTreeMap;

use hearth_schemas::{job, manifest::Entry, result::Refusal};
use hearth_worker::{
    admit::{Expectation, Job, Offer, Producer, Terms, admit},
    compare::Comparison,
};
use serde_json::{Value, json};

fn admitted(stages: &Value) -> Result<Job, Refusal> {
    let offer = Offer {
        vm_memory_mib: 384,
        scratch_mib: 512,
        entry: Entry::new("main.py", ["python3", "main.py"]),
        languages: BTreeMap::new(),
    };
    let terms = Terms::new(BTreeMap::from([("python".to_owned(), offer)]));
    let producer = Producer { fallback_id: "made-up", tenant: "acme", may_name_tenant: false };
    let request = json!({"runtime": "python", "stages": stages});
    admit(job::parse(&serde_json::to_vec(&request).unwrap())?, &terms, &producer)
}

/// One stage with these cases.
fn stage(cases: &Value) -> Value {
    json!([{"name": "run", "argv": ["./a"], "stdin": "own", "limits": {"wall_ms": 1000}, "cases": cases}])
}

fn refused(stages: &Value, field: &str, parts: &[&str]) {
    let refusal = admitted(stages).err().unwrap_or_else(|| panic!("{field}: admitted"));
    assert_eq!(refusal.field.as_deref(), Some(field), "{refusal}");
    for part in parts {
        assert!(refusal.message.contains(part), "`{refusal}` lacks `{part}`");
    }
    assert!(refusal.message.len() < 600, "{field}: the answer stays short");
}

fn case_refused(case: Value, field: &str, parts: &[&str]) {
    refused(&stage(&json!([{"name": "ok"}, case])), &format!("stages[0].cases[1].{field}"), parts);
}

#[test]
fn what_is_wrong_with_a_case_is_said_by_its_field() {
    case_refused(json!({"name": "a b"}), "name", &["1 to 64 of"]);
    case_refused(json!({"name": "ok"}), "name", &["`ok` is the name of cases[0]", "once"]);
    case_refused(json!({"name": "1", "argv_extra": ["a\0"]}), "argv_extra[0]", &["NUL"]);
    case_refused(json!({"name": "1", "argv_extra": ["x".repeat(49_000)]}), "argv_extra", &["49152"]);
    case_refused(json!({"name": "1", "stdin": "x".repeat(8_388_609)}), "stdin", &["8388609", "8388608"]);
    for how in [json!("exact"), json!("trim"), json!("tokens"), json!({"float": {"abs": 1}})] {
        case_refused(json!({"name": "1", "expect": {"match": how}}), "expect.stdout", &["is missing"]);
    }
    case_refused(json!({"name": "1", "expect": {}}), "expect.stdout", &["is missing"]);
    for member in ["abs", "rel"] {
        let expect = json!({"stdout": "1", "match": {"float": {member: -0.5}}});
        case_refused(
            json!({"name": "1", "expect": expect}),
            &format!("expect.match.float.{member}"),
            &["-0.5", "0 or more"],
        );
    }
}

#[test]
fn cases_are_bounded_in_number_and_in_time_and_both_numbers_are_named() {
    let many = |count: usize| -> Value {
        (0..count).map(|n| json!({"name": n.to_string()})).collect::<Vec<_>>().into()
    };
    assert_eq!(admitted(&stage(&many(1000))).unwrap().stages[0].cases.len(), 1000);
    refused(&stage(&many(1001)), "stages[0].cases", &["1001", "0 to 1000"]);
    let mut two = stage(&many(600));
    let mut second = two[0].clone();
    second["name"] = "second".into();
    two.as_array_mut().unwrap().push(second);
    refused(&two, "stages[1].cases", &["1200", "0 to 1000", "all stages together"]);
    let mut long = stage(&many(200));
    long[0]["limits"]["wall_ms"] = 6001.into();
    refused(&long, "limits.wall_ms", &["1200200", "1 to 1200000", "once for each"]);
    long[0]["limits"]["wall_ms"] = 6000.into();
    assert!(admitted(&long).is_ok());
    let idle = json!([{"name": "run", "argv": ["a"], "stop_on_failure": true}]);
    refused(&idle, "stages[0].stop_on_failure", &["no cases", "allowed is false"]);
}

#[test]
fn a_case_has_its_own_input_or_that_of_its_stage() {
    let job = admitted(&stage(&json!([
        {"name": "1", "stdin": "mine", "argv_extra": ["-v"], "expect": {"stdout": "x"}},
        {"name": "2", "expect": {"match": "none"}},
        {"name": "3", "stdin": "", "expect": {"stdout": "x", "match": "trim"}},
    ])));
    let job = job.unwrap();
    let cases = &job.stages[0].cases;
    assert_eq!(
        (&cases[0].stdin[..], &cases[1].stdin[..], &cases[2].stdin[..]),
        (&b"mine"[..], &b"own"[..], &b""[..])
    );
    assert_eq!(cases[0].argv_extra, ["-v"]);
    let output = |how| Expectation::Output { expected: "x".into(), how };
    assert_eq!(cases[0].expect, output(Comparison::Exact));
    assert_eq!(cases[1].expect, Expectation::Nothing);
    assert_eq!(cases[2].expect, output(Comparison::Trim));
}
