//! The schemas in `schemas/json/` are those of the types, and say what the contract says as far as a schema can.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may; UPDATE_SCHEMAS is the test's own switch"
)]

use std::{fs, path::PathBuf};

use hearth_schemas::json_schemas;
use jsonschema::Validator;
use serde_json::{Value, json};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn validator(name: &str) -> Validator {
    let schemas = json_schemas();
    let (_, text) = schemas.iter().find(|(found, _)| *found == name).unwrap();
    let schema: Value = serde_json::from_str(text).unwrap();
    assert!(jsonschema::meta::is_valid(&schema), "{name}: not a JSON Schema");
    jsonschema::validator_for(&schema).unwrap()
}

#[test]
fn the_schemas_are_fresh() {
    for (name, text) in json_schemas() {
        let path = folder("json").join(format!("{name}.schema.json"));
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
        assert!(
            parse(&written) == parse(&text),
            "{} is stale. Run `UPDATE_SCHEMAS=1 cargo test -p hearth-schemas --test schemas` and commit what it writes.",
            path.display()
        );
    }
}

#[test]
fn every_field_says_what_it_is() {
    fn walk(value: &Value, at: &str) {
        if let Some(Value::Object(properties)) = value.get("properties") {
            for (name, property) in properties {
                let described = property.get("description").is_some() || at.contains("/oneOf/");
                assert!(described, "{at}: {name} has no description");
            }
        }
        match value {
            Value::Object(members) => {
                members.iter().for_each(|(name, member)| walk(member, &format!("{at}/{name}")))
            }
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(n, item)| walk(item, &format!("{at}/{n}")))
            }
            _ => {}
        }
    }
    for (name, text) in json_schemas() {
        assert!(!text.contains("[`"), "{name}: a link that only rustdoc can follow");
        walk(&serde_json::from_str(&text).unwrap(), name);
    }
}

#[test]
fn every_example_is_valid() {
    let schema = validator("job");
    let mut seen = 0;
    for entry in fs::read_dir(folder("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let example: Value = serde_json::from_slice(&bytes).unwrap();
        let valid = schema.validate(&example).map_err(|error| error.to_string());
        assert_eq!(valid, Ok(()), "{}", path.display());
        hearth_schemas::job::parse(&bytes).unwrap();
        seen += 1;
    }
    assert!(seen >= 7, "the examples are found");
}

#[test]
fn what_a_schema_can_refuse_it_refuses() {
    let schema = validator("job");
    let stage = |stage: Value| json!({"runtime": "python", "stages": [stage]});
    let file = |file: Value| json!({"runtime": "python", "code": "", "files": [file]});
    let limits = |limits: Value| json!({"runtime": "python", "code": "", "limits": limits});
    let code = |name: &str, value: Value| {
        let mut job = json!({"runtime": "python", "code": ""});
        job.as_object_mut().unwrap().insert(name.to_owned(), value);
        job
    };
    let bad = [
        json!([]),
        json!({}),
        json!({"runtime": "python"}),
        json!({"code": ""}),
        json!({"runtime": "a/b", "code": ""}),
        json!({"runtime": "python", "code": 1}),
        json!({"runtime": "python", "stages": []}),
        json!({"runtime": "python", "code": "", "stages": [{"name": "a", "argv": ["b"]}]}),
        code("version", json!(2)),
        code("unknown", json!(1)),
        code("id", json!("a/b")),
        code("id", json!("x".repeat(65))),
        code("lane", json!("fast")),
        code("network", json!("all")),
        code("deadline_ms", json!(0)),
        code("outputs", json!([""])),
        code("metadata", json!([])),
        limits(json!({"wall_ms": 0})),
        limits(json!({"wall_ms": -1})),
        limits(json!({"wall_ms": 1.5})),
        limits(json!({"wall": 1})),
        limits(json!([1])),
        file(json!({"path": "a"})),
        file(json!({"text": "a"})),
        file(json!({"path": "a", "text": "", "base64": ""})),
        file(json!({"path": "a", "object": "s3://b/k"})),
        file(json!({"path": "/a", "text": ""})),
        file(json!({"path": "a/../b", "text": ""})),
        file(json!({"path": "..", "text": ""})),
        file(json!({"path": "a//b", "text": ""})),
        file(json!({"path": "a", "text": "", "mode": "rwx"})),
        stage(json!({"name": "a"})),
        stage(json!({"name": "a", "argv": []})),
        stage(json!({"name": "a", "argv": "ls"})),
        stage(json!({"name": "a b", "argv": ["b"]})),
        stage(json!({"name": "a", "argv": ["b"], "env": {"A=": "b"}})),
        stage(json!({"name": "a", "argv": ["b"], "env": {"A": 1}})),
        stage(json!({"name": "a", "argv": ["b"], "cases": [{"name": "1", "expect": {"match": "fuzzy"}}]})),
        stage(
            json!({"name": "a", "argv": ["b"], "cases": [{"name": "1", "expect": {"match": {"float": {"abs": -1}}}}]}),
        ),
    ];
    for job in bad {
        assert!(!schema.is_valid(&job), "{job} is valid");
    }
    let good = [
        json!({"runtime": "python", "code": "", "id": null, "stages": [], "network": {"allow": ["a:1"]}}),
        file(json!({"path": "..a/b..", "text": null, "base64": "AA=="})),
        file(json!({"path": "a", "object": "s3://b/k", "size": 1, "sha256": "00".repeat(32)})),
        stage(
            json!({"name": "a", "argv": ["b"], "cases": [{"name": "1", "expect": {"match": {"float": {"abs": 1e-6}}}}]}),
        ),
    ];
    for job in good {
        assert_eq!(schema.validate(&job).map_err(|error| error.to_string()), Ok(()), "{job}");
    }
}
