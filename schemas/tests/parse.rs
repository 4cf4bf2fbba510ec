//! What a producer is told about a request that is not one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

use hearth_schemas::{
    job::{self, Lane, Match, NetworkRequest, ParseError, Probe},
    limits::REQUEST_MAX_BYTES,
    result::{Refusal, RefusalCode},
};

/// Every field of the contract, as the design writes it.
const EVERYTHING: &str = r#"{
  "version": 1, "id": "01J", "runtime": "python",
  "files": [ {"path":"main.py","text":"x","mode":"0644"}, {"path":"x.bin","base64":"AA=="}, {"path":"dir","tar_base64":"AA=="},
             {"path":"big","object":"s3://b/k","sha256":"00","size":123} ],
  "stages": [ {"name":"compile","argv":["gcc","-O2","main.c","-o","main"],"limits":{},"cwd":".","env":{},"continue_on_failure":false},
              {"name":"run","argv":["./main"],"stdin":"x",
               "cases":[{"name":"1","stdin":"x","argv_extra":[],"expect":{"stdout":"x","match":"trim"}},
                        {"name":"2","stdin":"x","expect":{"stdout":"x","match":{"float":{"abs":1e-6,"rel":1e-6}}}},
                        {"name":"3","stdin":"x","expect":{"match":{"checker":{"argv":["python3","check.py"]}}}}],
               "stop_on_failure": true } ],
  "outputs": ["result.json","plots/*.png"],
  "limits": {"wall_ms":10000,"cpu_ms":5000,"memory_mib":192,"output_kib":1024,"processes":64,"disk_mib":256,"files":1024},
  "network": {"allow":["api.example.com:443","10.1.0.0/16:5432"]},
  "lane": "batch", "tenant":"t", "deadline_ms": 60000, "stream": true, "metadata": {"a":[1,2.5,null]},
  "session": {"x": 1}, "checkpoint": "c" }"#;

#[test]
fn every_field_of_the_contract_parses_and_survives() {
    let request = job::parse(EVERYTHING.as_bytes()).unwrap();
    assert_eq!(request.lane, Some(Lane::Batch));
    assert!(matches!(&request.network, NetworkRequest::Allow(list) if list.len() == 2));
    let [_, run] = &request.stages[..] else { panic!("two stages") };
    let hows: Vec<_> = run.cases.iter().map(|case| case.expect.clone().unwrap().how).collect();
    assert!(matches!(&hows[..], [Match::Trim, Match::Float(_), Match::Checker(_)]));
    let again = job::parse(&serde_json::to_vec(&request).unwrap()).unwrap();
    assert_eq!(again, request);
}

#[test]
fn what_is_absent_is_not_written() {
    let request = job::parse(br#"{"runtime":"python","code":"print(1)"}"#).unwrap();
    assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"runtime":"python","code":"print(1)"}"#);
}

/// (request, field, parts of the message)
const WRONG_SHAPES: &[(&str, &str, &[&str])] = &[
    (r#"{"code":"x"}"#, "runtime", &["required"]),
    (r#"{"runtime":7}"#, "runtime", &["integer `7`", "expected a string"]),
    (r#"{"runtime":"a","runtime":"b"}"#, "runtime", &["duplicate field"]),
    (r#"{"runtime":"a","cpus":1}"#, "cpus", &["unknown field `cpus`", "`runtime`", "`stages`", "`limits`"]),
    (r#"{"runtime":"a","limits":{"wall":1}}"#, "limits.wall", &["unknown field `wall`", "`wall_ms`"]),
    (r#"{"runtime":"a","limits":{"wall_ms":-1}}"#, "limits.wall_ms", &["`-1`", "whole number from 0"]),
    (r#"{"runtime":"a","limits":{"wall_ms":1.5}}"#, "limits.wall_ms", &["`1.5`", "whole number"]),
    (r#"{"runtime":"a","limits":{"wall_ms":"1"}}"#, "limits.wall_ms", &["string \"1\"", "whole number"]),
    (r#"{"runtime":"a","limits":[1]}"#, "limits", &["array", "expected an object"]),
    (r#"[1,"id","python","print(1)"]"#, "request", &["array", "expected an object"]),
    (r#""python""#, "request", &["string", "expected an object"]),
    (r#"{"runtime":"a","files":{}}"#, "files", &["object", "expected an array"]),
    (r#"{"runtime":"a","files":[{"text":"x"}]}"#, "files[0].path", &["required"]),
    (r#"{"runtime":"a","files":[["main.py"]]}"#, "files[0]", &["array", "expected an object"]),
    (r#"{"runtime":"a","stages":[{"name":"r"}]}"#, "stages[0].argv", &["required"]),
    (r#"{"runtime":"a","stages":[{"name":"r","argv":"ls"}]}"#, "stages[0].argv", &["expected an array"]),
    (
        r#"{"runtime":"a","stages":[{"name":"r","argv":["a",1]}]}"#,
        "stages[0].argv[1]",
        &["expected a string"],
    ),
    (r#"{"runtime":"a","stages":[{"name":"r","argv":[],"env":{"A":1}}]}"#, "stages[0].env.A", &["a string"]),
    (
        r#"{"runtime":"a","stages":[{"name":"r","argv":[],"limits":{"wall_ms":true}}]}"#,
        "stages[0].limits.wall_ms",
        &["boolean `true`", "whole number"],
    ),
    (
        r#"{"runtime":"a","stages":[{"name":"r","argv":[],"cases":[{"name":"1","expect":{"match":"fuzzy"}}]}]}"#,
        "stages[0].cases[0].expect.match",
        &["`fuzzy`", "`exact`", "`trim`", "`tokens`", "`none`", "`float`", "`checker`"],
    ),
    (r#"{"runtime":"a","lane":"fast"}"#, "lane", &["`fast`", "`interactive`", "`normal`", "`batch`"]),
    (r#"{"runtime":"a","network":"all"}"#, "network", &["`all`", "`none`", "`allow`"]),
    (r#"{"runtime":"a","lane":{"normal":null}}"#, "lane", &["object", "plain word"]),
    (r#"{"runtime":"a","lane":1}"#, "lane", &["integer `1`", "a word"]),
    (r#"{"runtime":"a","network":{"none":null}}"#, "network", &["object", "plain word"]),
    (r#"{"runtime":"a","network":"allow"}"#, "network", &["plain word", "object"]),
    (r#"{"runtime":"a","network":{"allow":[1]}}"#, "network.allow[0]", &["expected a string"]),
    (r#"{"runtime":"a","network":{"allow":[],"x":1}}"#, "network", &["one member"]),
    (r#"{"runtime":"a","stream":"yes"}"#, "stream", &["expected true or false"]),
    (r#"{"runtime":"a","metadata":[]}"#, "metadata", &["expected an object"]),
];

#[test]
fn a_wrong_shape_is_named_by_its_path_and_what_is_allowed() {
    for (json, path, parts) in WRONG_SHAPES {
        let error = job::parse(json.as_bytes()).unwrap_err();
        let ParseError::Field { field, message, line: 1, .. } = &error else { panic!("{json}: {error:?}") };
        assert_eq!(field, path, "{json}: {message}");
        for part in *parts {
            assert!(message.contains(part), "{json}: `{message}` lacks `{part}`");
        }
        let refusal = Refusal::from(error);
        assert_eq!((refusal.code, refusal.field.as_deref()), (RefusalCode::Invalid, Some(*path)));
    }
}

#[test]
fn what_is_not_json_is_told_line_and_column() {
    let table = [
        ("", 1),
        ("{\n  \"runtime\": \"a\",\n}", 3),
        ("{\"runtime\":\"a\"} x", 1),
        ("{\"runtime\":\"\\ud800\"}", 1),
        ("nonsense", 1),
    ];
    for (json, expected) in table {
        let error = job::parse(json.as_bytes()).unwrap_err();
        let ParseError::Malformed { line, .. } = &error else { panic!("{json}: {error:?}") };
        assert_eq!(*line, expected, "{json}: {error}");
        assert!(error.to_string().contains(&format!("line {expected}, column ")), "{error}");
        assert_eq!(Refusal::from(error).code, RefusalCode::Malformed);
    }
    let deep = [b"{\"metadata\":{\"a\":".as_slice(), &b"[".repeat(100_000)].concat();
    assert!(matches!(job::parse(&deep), Err(ParseError::Malformed { .. })));
    assert!(matches!(job::parse(b"{\"runtime\":\"\xff\"}"), Err(ParseError::Malformed { .. })));
}

#[test]
fn another_version_is_named_before_its_unknown_fields() {
    for json in
        [r#"{"version":2,"runtime":"a","gpu":1}"#, r#"{"runtime":"a","version":2}"#, r#"{"version":"1"}"#]
    {
        let error = job::parse(json.as_bytes()).unwrap_err();
        assert!(matches!(error, ParseError::Version { .. }), "{json}: {error:?}");
        assert!(error.to_string().contains("allowed is 1"), "{error}");
        assert_eq!(Refusal::from(error).code, RefusalCode::Version);
    }
}

#[test]
fn sixteen_mib_and_no_more() {
    let padded = |bytes: usize| {
        let mut json = br#"{"runtime":"a"}"#.to_vec();
        json.resize(bytes, b' ');
        json
    };
    assert!(job::parse(&padded(REQUEST_MAX_BYTES)).is_ok());
    let error = job::parse(&padded(REQUEST_MAX_BYTES + 1)).unwrap_err();
    assert_eq!(error, ParseError::TooLarge { bytes: REQUEST_MAX_BYTES + 1 });
    assert!(error.to_string().contains("16777217") && error.to_string().contains("16777216"));
}

#[test]
fn names_are_found_in_requests_that_fail() {
    let found = job::probe(br#"{"id":"j1","runtime":"no such","tenant":"t","gpu":{}}"#);
    assert_eq!(found, Probe { id: Some("j1".into()), runtime: None, tenant: Some("t".into()) });
    for nothing in ["", "[]", "{", "{}", r#"{"id":7}"#, r#"{"id":"a/b"}"#] {
        assert_eq!(job::probe(nothing.as_bytes()), Probe::default(), "{nothing}");
    }
}
