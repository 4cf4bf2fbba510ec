//! Whatever arrives: no panic, and what is admitted is what the contract's schema allows and stays the same job.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may")]

use std::{collections::BTreeMap, sync::LazyLock};

use hearth_schemas::{job, limits::COMMAND_MAX_BYTES, manifest::Entry, paths::check_path};
use hearth_worker::admit::{Job, Offer, Producer, Terms, admit};
use proptest::{prelude::*, sample::Index};
use serde_json::{Value, json};

static TERMS: LazyLock<Terms> = LazyLock::new(|| {
    let entry = Entry::new("main.py", ["python3", "main.py"]);
    let offer = Offer { vm_memory_mib: 384, scratch_mib: 512, entry, languages: BTreeMap::new() };
    Terms::new(BTreeMap::from([("python".to_owned(), offer)]))
});

static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let [(_, schema), ..] = hearth_schemas::json_schemas();
    jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap()
});

const PRODUCER: Producer<'_> = Producer { fallback_id: "id", tenant: "t", may_name_tenant: true };

fn parse_and_admit(bytes: &[u8]) -> Option<(job::JobRequest, Job)> {
    let request = job::parse(bytes).ok()?;
    Some((request.clone(), admit(request, &TERMS, &PRODUCER).ok()?))
}

fn check(value: &Value) -> Result<bool, TestCaseError> {
    let bytes = serde_json::to_vec(value).unwrap();
    let _ = job::probe(&bytes);
    let Some((request, job)) = parse_and_admit(&bytes) else { return Ok(false) };
    prop_assert!(SCHEMA.is_valid(value), "admitted, but not what the schema allows: {value}");
    let again = serde_json::to_vec(&request).unwrap();
    let (request_again, job_again) = parse_and_admit(&again).unwrap();
    prop_assert_eq!(request_again, request);
    prop_assert_eq!(&job_again, &job);
    prop_assert!(job.files.iter().all(|file| check_path(&file.path).is_ok() && file.mode <= 0o777));
    for stage in &job.stages {
        let env: usize = stage.env.iter().map(|(name, value)| name.len() + value.len()).sum();
        prop_assert!(stage.argv.iter().map(String::len).sum::<usize>() + env <= COMMAND_MAX_BYTES);
        prop_assert!(stage.limits.wall_ms > 0 && stage.limits.memory_bytes <= 320 << 20);
    }
    Ok(true)
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            "", ".", "..", "/", "a/b", "none", "normal", "python", "0644", "AA==", "\0", "a=b"
        ])
        .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(field_name(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn field_name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "version",
            "id",
            "runtime",
            "code",
            "files",
            "stages",
            "outputs",
            "limits",
            "network",
            "lane",
            "tenant",
            "deadline_ms",
            "stream",
            "metadata",
            "session",
            "path",
            "text",
            "base64",
            "mode",
            "name",
            "argv",
            "env",
            "cwd",
            "stdin",
            "cases",
            "wall_ms",
            "memory_mib",
            "allow",
            "expect",
            "match",
            "float",
            "abs",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ]
}

fn good() -> Value {
    json!({
        "version": 1, "id": "j", "runtime": "python", "tenant": "t", "lane": "batch", "deadline_ms": 1000,
        "files": [{"path": "a.py", "text": "x", "mode": "0755"}, {"path": "d/b", "base64": "AAE="}],
        "stages": [
            {"name": "one", "argv": ["a", "b"], "env": {"K": "v"}, "cwd": ".", "limits": {"wall_ms": 10, "files": 9}},
            {"name": "two", "argv": ["c"], "stdin": "in", "cwd": "d", "continue_on_failure": true,
             "cases": [{"name": "1", "argv_extra": ["x"], "expect": {"stdout": "y", "match": {"float": {"abs": 1}}}},
                       {"name": "2", "expect": {"match": "none"}}], "stop_on_failure": true}],
        "outputs": ["*.txt", "d/**"], "limits": {"memory_mib": 64, "cpu_ms": 5}, "network": "none",
        "stream": false, "metadata": {"k": [1, 2.5, {"x": null}]},
    })
}

/// Every place in a value, as pointers.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(item, &format!("{at}/{index}"), found);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                let name = name.replace('~', "~0").replace('/', "~1");
                places(member, &format!("{at}/{name}"), found);
            }
        }
        _ => {}
    }
}

#[derive(Clone, Debug)]
enum Change {
    Replace(Value),
    Insert(String, Value),
    Remove,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any_json().prop_map(Change::Replace),
        (field_name(), any_json()).prop_map(|(name, value)| Change::Insert(name, value)),
        Just(Change::Remove),
    ]
}

fn apply(value: &mut Value, place: &Index, change: Change) {
    let mut found = Vec::new();
    places(value, "", &mut found);
    let pointer = place.get(&found).clone();
    match change {
        Change::Replace(new) => *value.pointer_mut(&pointer).unwrap() = new,
        Change::Insert(name, new) => match value.pointer_mut(&pointer).unwrap() {
            Value::Object(members) => drop(members.insert(name, new)),
            Value::Array(items) => items.push(new),
            other => *other = new,
        },
        Change::Remove => {
            let (parent, last) = pointer.rsplit_once('/').unwrap_or(("", ""));
            let last = last.replace("~1", "/").replace("~0", "~");
            match value.pointer_mut(parent) {
                Some(Value::Object(members)) => drop(members.remove(&last)),
                // The whole value has no parent to be removed from.
                Some(Value::Array(items)) if !pointer.is_empty() => drop(items.remove(last.parse().unwrap())),
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = job::probe(&bytes);
        let _ = parse_and_admit(&bytes);
    }

    #[test]
    fn any_value_never_panics(value in any_json()) {
        check(&value)?;
    }

    #[test]
    fn any_change_of_a_good_job_is_refused_or_still_a_good_job(
        changes in prop::collection::vec((any::<Index>(), change()), 0..4),
    ) {
        let mut value = good();
        for (place, change) in changes {
            apply(&mut value, &place, change);
        }
        check(&value)?;
    }
}

#[test]
fn the_good_job_is_admitted() {
    assert!(check(&good()).unwrap());
}
