//! What admission makes of `code`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may")]

use std::collections::BTreeMap;

use hearth_schemas::{
    job::{self, LimitsRequest},
    manifest::{Compile, Entry},
    result::{Refusal, RefusalCode},
};
use hearth_worker::admit::{Job, Offer, Producer, Terms, admit};
use serde_json::{Value, json};

const PRODUCER: Producer<'_> = Producer { fallback_id: "made-up", tenant: "acme", may_name_tenant: false };

fn terms() -> Terms {
    let compiled = |file: &str, compiler: &str| {
        let limits =
            LimitsRequest { wall_ms: Some(30_000), processes: Some(100), ..LimitsRequest::default() };
        let compile = Some(Compile { argv: vec![compiler.into(), file.into()], limits });
        Entry { compile, ..Entry::new(file, ["./main"]) }
    };
    let offer = |entry, languages| Offer { vm_memory_mib: 384, scratch_mib: 512, entry, languages };
    let c = Entry { language: Some("c".into()), ..compiled("main.c", "gcc") };
    let cpp = BTreeMap::from([("cpp".to_owned(), compiled("main.cpp", "g++"))]);
    let python = Entry::new("main.py", ["python3", "main.py"]);
    Terms::new(BTreeMap::from([
        ("gcc".to_owned(), offer(c, cpp)),
        ("python".to_owned(), offer(python, BTreeMap::new())),
    ]))
}

fn admitted(request: &Value) -> Result<Job, Refusal> {
    admit(job::parse(&serde_json::to_vec(request).unwrap())?, &terms(), &PRODUCER)
}

fn refused(request: &Value) -> (String, String) {
    let refusal = admitted(request).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Invalid);
    (refusal.field.unwrap(), refusal.message)
}

/// Name and command of each stage.
fn commands(job: &Job) -> Vec<(&str, &[String])> {
    job.stages.iter().map(|stage| (stage.name.as_str(), &stage.argv[..])).collect()
}

#[test]
fn a_language_that_is_compiled_takes_two_stages() {
    for (language, file, compiler) in
        [(json!(null), "main.c", "gcc"), (json!("c"), "main.c", "gcc"), (json!("cpp"), "main.cpp", "g++")]
    {
        let job = admitted(&json!({"runtime": "gcc", "code": "x", "language": language})).unwrap();
        assert_eq!(
            commands(&job),
            [("compile", &[compiler.to_owned(), file.to_owned()][..]), ("run", &["./main".to_owned()][..])]
        );
        assert_eq!((job.files.len(), job.files[0].path.as_str()), (1, file));
        assert!(!job.stages[0].continue_on_failure);
    }
    let python = admitted(&json!({"runtime": "python", "code": "x"})).unwrap();
    assert_eq!(commands(&python).len(), 1);
}

#[test]
fn the_limits_of_a_job_are_for_its_program_and_the_compiler_has_its_own() {
    let limits = json!({"wall_ms": 2000, "cpu_ms": 1000, "memory_mib": 16, "processes": 1, "disk_mib": 5, "open_files": 16});
    let job = admitted(&json!({"runtime": "gcc", "code": "x", "limits": limits})).unwrap();
    let [compile, run] = [job.stages[0].limits, job.stages[1].limits];
    assert_eq!((run.wall_ms, run.cpu_ms, run.memory_bytes, run.processes), (2000, 1000, 16 << 20, 1));
    assert_eq!((run.disk_bytes, run.open_files), (5 << 20, Some(16)));
    assert_eq!((compile.wall_ms, compile.cpu_ms, compile.memory_bytes), (30_000, 30_000, 320 << 20));
    assert_eq!((compile.processes, compile.open_files), (100, None));
    assert_eq!(compile.disk_bytes, 5 << 20, "the disk is one");
    let (field, _) = refused(&json!({"runtime": "gcc", "code": "x", "limits": {"memory_mib": 4000}}));
    assert_eq!(field, "limits.memory_mib", "and is checked all the same");
}

#[test]
fn a_language_that_is_not_known_is_refused_with_those_that_are() {
    let (field, message) = refused(&json!({"runtime": "gcc", "code": "x", "language": "d"}));
    assert_eq!((field.as_str(), message.contains("allowed: c, cpp")), ("language", true), "{message}");
    let (field, message) = refused(&json!({"runtime": "python", "code": "x", "language": "cpp"}));
    assert_eq!((field.as_str(), message.contains("no language")), ("language", true), "{message}");
    let (field, _) = refused(&json!({"runtime": "gcc", "code": "x", "language": "a b"}));
    assert_eq!(field, "language");
    let stages = json!([{"name": "a", "argv": ["x"]}]);
    let (field, message) = refused(&json!({"runtime": "gcc", "stages": stages, "language": "c"}));
    assert_eq!((field.as_str(), message.contains("`code`")), ("language", true), "{message}");
}

#[test]
fn the_language_is_part_of_what_makes_a_job_the_same() {
    let digest = |request: Value| admitted(&request).unwrap().digest;
    let plain = digest(json!({"runtime": "gcc", "code": "x"}));
    assert_ne!(plain, digest(json!({"runtime": "gcc", "code": "x", "language": "cpp"})));
    assert_eq!(plain, digest(json!({"runtime": "gcc", "code": "x", "language": null})));
}
