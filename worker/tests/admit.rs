//! Every refusal by name, with what is allowed; and what admission makes of a good request.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may")]

use std::{collections::BTreeMap, time::Duration};

use hearth_schemas::{
    job::{self, JobRequest, Lane, LimitsRequest},
    manifest::Entry,
    result::{Refusal, RefusalCode},
};
use hearth_worker::admit::{Content, Job, JobFile, Limits, Offer, Producer, Terms, admit, base_env};
use serde_json::{Value, json};

const PRODUCER: Producer<'_> = Producer { fallback_id: "made-up", tenant: "acme", may_name_tenant: false };

fn terms() -> Terms {
    let offer = |vm_memory_mib, file: &str, argv: &[&str]| Offer {
        vm_memory_mib,
        scratch_mib: 512,
        entry: Entry::new(file, argv.iter().copied()),
        languages: BTreeMap::new(),
    };
    Terms::new(BTreeMap::from([
        ("gcc".to_owned(), offer(512, "main.c", &["sh", "-c", "gcc main.c && ./a.out"])),
        ("python".to_owned(), offer(384, "main.py", &["python3", "main.py"])),
    ]))
}

fn admitted(request: &Value) -> Result<Job, Refusal> {
    let request = job::parse(&serde_json::to_vec(request).unwrap())?;
    admit(request, &terms(), &PRODUCER)
}

/// A good request with some fields replaced.
fn with(fields: Value) -> Value {
    let mut request = json!({"runtime": "python", "stages": [{"name": "run", "argv": ["true"]}]});
    let Value::Object(fields) = fields else { panic!("an object") };
    for (name, value) in fields {
        match value {
            Value::Null => drop(request.as_object_mut().unwrap().remove(&name)),
            value => drop(request.as_object_mut().unwrap().insert(name, value)),
        }
    }
    request
}

fn stage(fields: Value) -> Value {
    let mut stage = json!({"name": "run", "argv": ["true"]});
    stage.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    with(json!({"stages": [stage]}))
}

fn file(fields: Value) -> Value {
    let mut file = json!({"path": "a", "text": "x"});
    for (name, value) in fields.as_object().unwrap() {
        file[name] = value.clone();
    }
    with(json!({"files": [file]}))
}

fn files(paths: &[&str]) -> Value {
    let files: Vec<Value> = paths.iter().map(|path| json!({"path": path, "text": ""})).collect();
    with(json!({"files": files}))
}

fn refuses(table: Vec<(Value, RefusalCode, &str, &[&str])>) {
    for (request, code, field, parts) in table {
        let shown: String = request.to_string().chars().take(300).collect();
        let refusal = admitted(&request).err().unwrap_or_else(|| panic!("{shown} was admitted"));
        assert_eq!((refusal.code, refusal.field.as_deref()), (code, Some(field)), "{shown}: {refusal}");
        for part in parts {
            assert!(refusal.message.contains(part), "{shown}: `{refusal}` lacks `{part}`");
        }
        assert!(refusal.message.len() < 600, "{shown}: the answer stays short");
    }
}

const INVALID: RefusalCode = RefusalCode::Invalid;
const NAME: &[&str] = &["1 to 64 of A-Z, a-z, 0-9"];

#[test]
fn names_are_plain_and_runtimes_are_known() {
    let long = "x".repeat(65);
    refuses(vec![
        (with(json!({"id": "a/b"})), INVALID, "id", NAME),
        (with(json!({"id": ""})), INVALID, "id", NAME),
        (with(json!({"id": "ä"})), INVALID, "id", NAME),
        (with(json!({"id": long})), INVALID, "id", NAME),
        (with(json!({"id": "x".repeat(100_000)})), INVALID, "id", NAME),
        (with(json!({"tenant": "a b"})), INVALID, "tenant", NAME),
        (with(json!({"tenant": "other"})), INVALID, "tenant", &["`other`", "allowed is `acme`"]),
        (with(json!({"runtime": "../x"})), INVALID, "runtime", NAME),
        (
            with(json!({"runtime": "ruby"})),
            RefusalCode::UnknownRuntime,
            "runtime",
            &["`ruby`", "gcc, python"],
        ),
        (with(json!({"version": 2})), RefusalCode::Version, "version", &["allowed is 1"]),
    ]);
    assert!(admitted(&with(json!({"id": "x".repeat(64), "tenant": "acme"}))).is_ok());
}

#[test]
fn limits_stay_within_what_is_offered_and_both_numbers_are_named() {
    let job = |limits: Value| with(json!({ "limits": limits }));
    let own = |limits: Value| stage(json!({ "limits": limits }));
    refuses(vec![
        (
            job(json!({"memory_mib": 321})),
            INVALID,
            "limits.memory_mib",
            &["321", "4 to 320", "384 MiB, 64 of"],
        ),
        (job(json!({"memory_mib": 3})), INVALID, "limits.memory_mib", &["3 ", "4 to 320"]),
        (
            job(json!({"memory_mib": u64::MAX})),
            INVALID,
            "limits.memory_mib",
            &["18446744073709551615", "320"],
        ),
        (own(json!({"memory_mib": 321})), INVALID, "stages[0].limits.memory_mib", &["321", "4 to 320"]),
        (job(json!({"disk_mib": 513})), INVALID, "limits.disk_mib", &["513", "1 to 512", "scratch disk"]),
        (job(json!({"disk_mib": 0})), INVALID, "limits.disk_mib", &["0 ", "1 to 512"]),
        (job(json!({"wall_ms": 0})), INVALID, "limits.wall_ms", &["0 ", "1 to 600000"]),
        (job(json!({"wall_ms": 600_001})), INVALID, "limits.wall_ms", &["600001", "1 to 600000"]),
        (own(json!({"wall_ms": 0})), INVALID, "stages[0].limits.wall_ms", &["0 ", "1 to 600000"]),
        (job(json!({"cpu_ms": 0})), INVALID, "limits.cpu_ms", &["1 to 600000"]),
        (job(json!({"cpu_ms": 600_001})), INVALID, "limits.cpu_ms", &["600001", "1 to 600000"]),
        (job(json!({"output_kib": 0})), INVALID, "limits.output_kib", &["1 to 65536"]),
        (job(json!({"output_kib": 65_537})), INVALID, "limits.output_kib", &["65537", "1 to 65536"]),
        (job(json!({"processes": 0})), INVALID, "limits.processes", &["1 to 1024"]),
        (job(json!({"processes": 1025})), INVALID, "limits.processes", &["1025", "1 to 1024"]),
        (job(json!({"files": 0})), INVALID, "limits.files", &["1 to 65536"]),
        (job(json!({"files": 65_537})), INVALID, "limits.files", &["65537", "1 to 65536"]),
        (job(json!({"open_files": 15})), INVALID, "limits.open_files", &["15", "16 to 16384"]),
        (own(json!({"open_files": 16_385})), INVALID, "stages[0].limits.open_files", &["16 to 16384"]),
        (job(json!({"file_size_mib": 0})), INVALID, "limits.file_size_mib", &["0 ", "1 to 512"]),
        (own(json!({"file_size_mib": 513})), INVALID, "stages[0].limits.file_size_mib", &["513", "512 MiB"]),
        (with(json!({"deadline_ms": 0})), INVALID, "deadline_ms", &["1 to 86400000"]),
        (with(json!({"deadline_ms": 86_400_001})), INVALID, "deadline_ms", &["86400001", "1 to 86400000"]),
    ]);
    let stages: Vec<Value> = (0..3)
        .map(|n| json!({"name": format!("s{n}"), "argv": ["x"], "limits": {"wall_ms": 500_000}}))
        .collect();
    let all = with(json!({ "stages": stages }));
    refuses(vec![(all, INVALID, "limits.wall_ms", &["1500000", "1 to 1200000", "all stages together"])]);
}

#[test]
fn paths_stay_inside_and_out_of_each_others_way() {
    let path = |path: &str| files(&[path]);
    let at = "files[0].path";
    refuses(vec![
        (path("/etc/passwd"), INVALID, at, &["absolute", "relative to the working tree"]),
        (path("../x"), INVALID, at, &["`..`", "stays inside"]),
        (path("a/../../x"), INVALID, at, &["`..`"]),
        (path("a//b"), INVALID, at, &["empty component"]),
        (path("a/"), INVALID, at, &["empty component"]),
        (path("./a"), INVALID, at, &["`.`"]),
        (path(""), INVALID, at, &["empty"]),
        (path("a\0b"), INVALID, at, &["NUL"]),
        (path(&"x".repeat(256)), INVALID, at, &["256", "1 to 255"]),
        (path(&"x/".repeat(600)), INVALID, at, &["1200", "1 to 1024"]),
        (files(&["a", "b", "a"]), INVALID, "files[2].path", &["`a` is also the path of files[0]"]),
        (files(&["d/x", "d-x", "d"]), INVALID, "files[2].path", &["`d/x` needs a directory", "files[0]"]),
        (files(&["d", "c", "d/x/y"]), INVALID, "files[2].path", &["`d/x/y` needs a directory", "files[0]"]),
        (
            with(json!({"files": vec![json!({"path": "a", "text": ""}); 1025]})),
            INVALID,
            "files",
            &["1025", "1024"],
        ),
        (stage(json!({"cwd": "/tmp"})), INVALID, "stages[0].cwd", &["absolute"]),
        (stage(json!({"cwd": "../.."})), INVALID, "stages[0].cwd", &["`..`"]),
        (stage(json!({"cwd": ""})), INVALID, "stages[0].cwd", &["empty"]),
        (with(json!({"outputs": ["ok", "../*"]})), INVALID, "outputs[1]", &["`..`"]),
        (with(json!({"outputs": ["/tmp/*"]})), INVALID, "outputs[0]", &["absolute"]),
        (with(json!({"outputs": ["[a"]})), INVALID, "outputs[0]", &["[a-z]"]),
        (with(json!({"outputs": ["a**b"]})), INVALID, "outputs[0]", &["`**` as a whole component"]),
        (with(json!({"outputs": ["{a,b}"]})), INVALID, "outputs[0]", &["`{`", "`*`, `?`"]),
        (with(json!({"outputs": vec!["a"; 65]})), INVALID, "outputs", &["65", "0 to 64"]),
    ]);
    assert!(admitted(&files(&["d/x", "d-x", "d.x", "e/d"])).is_ok());
}

#[test]
fn a_file_has_one_content_that_can_be_decoded() {
    let one_of: &[&str] = &["allowed is one of `text`, `base64`, `tar_base64`, `object` and `tar_object`"];
    let none = with(json!({"files": [{"path": "a"}]}));
    let base64 = |text: &str| with(json!({"files": [{"path": "a", "base64": text}]}));
    let large = "x".repeat(8 * 1024 * 1024 + 1);
    let large64 = "AAAA".repeat(8 * 1024 * 1024 / 3 + 1);
    let too_large = RefusalCode::TooLarge;
    refuses(vec![
        (none, INVALID, "files[0]", one_of),
        (file(json!({"base64": "AA=="})), INVALID, "files[0]", &["text and base64", one_of[0]]),
        (base64("AA=\n"), INVALID, "files[0].base64", &["invalid base64", "without line breaks"]),
        (base64("A*=="), INVALID, "files[0].base64", &["'*' at offset 1", "standard alphabet"]),
        (base64("AA"), INVALID, "files[0].base64", &["padded"]),
        (base64("_w=="), INVALID, "files[0].base64", &["'_' at offset 0"]),
        (file(json!({"text": large})), too_large, "files[0].text", &["8388609", "0 to 8388608"]),
        (base64(&large64), too_large, "files[0].base64", &["8388609", "0 to 8388608"]),
        (file(json!({"mode": "rwx"})), INVALID, "files[0].mode", &["\"rwx\"", "0000 to 0777"]),
        (file(json!({"mode": "0888"})), INVALID, "files[0].mode", &["0000 to 0777"]),
        (file(json!({"mode": "4755"})), INVALID, "files[0].mode", &["0000 to 0777"]),
        (file(json!({"mode": "+44"})), INVALID, "files[0].mode", &["0000 to 0777"]),
        (file(json!({"size": 1})), INVALID, "files[0].size", &["only with `object`"]),
        (file(json!({"sha256": "00"})), INVALID, "files[0].sha256", &["only with `object`"]),
        (stage(json!({"stdin": large})), too_large, "stages[0].stdin", &["8388609", "0 to 8388608"]),
        (with(json!({"metadata": {"a": "x".repeat(16_384)}})), too_large, "metadata", &["0 to 16384"]),
    ]);
}

#[test]
fn commands_can_be_executed_as_they_are() {
    let many: Vec<Value> = (0..17).map(|n| json!({"name": format!("s{n}"), "argv": ["x"]})).collect();
    let twice = json!([{"name": "a", "argv": ["x"]}, {"name": "a", "argv": ["y"]}]);
    let too_large = RefusalCode::TooLarge;
    refuses(vec![
        (stage(json!({"argv": []})), INVALID, "stages[0].argv", &["no command"]),
        (stage(json!({"argv": ["", "x"]})), INVALID, "stages[0].argv", &["no command"]),
        (stage(json!({"argv": ["a", "b\0"]})), INVALID, "stages[0].argv[1]", &["NUL"]),
        (stage(json!({"argv": ["x".repeat(48 * 1024)]})), too_large, "stages[0].argv", &["49152", "file"]),
        (stage(json!({"argv": vec![""; 20_000]})), INVALID, "stages[0].argv", &["no command"]),
        (stage(json!({"argv": vec!["x"; 20_000]})), too_large, "stages[0].argv", &["100", "49152"]),
        (stage(json!({"env": {"A": "x".repeat(48 * 1024)}})), too_large, "stages[0].argv", &["49152"]),
        (stage(json!({"env": {"A=B": "x"}})), INVALID, "stages[0].env", &["\"A=B\"", "none of them `=`"]),
        (stage(json!({"env": {"": "x"}})), INVALID, "stages[0].env", &["at least one character"]),
        (stage(json!({"env": {"A\0": "x"}})), INVALID, "stages[0].env", &["NUL"]),
        (stage(json!({"env": {"A": "x\0"}})), INVALID, "stages[0].env.A", &["NUL"]),
        (stage(json!({"name": "a/b"})), INVALID, "stages[0].name", NAME),
        (with(json!({"stages": twice})), INVALID, "stages[1].name", &["`a`", "stages[0]"]),
        (with(json!({"stages": many})), INVALID, "stages", &["17", "1 to 16"]),
        (with(json!({"stages": []})), INVALID, "stages", &["1 to 16", "`code`"]),
        (with(json!({"stages": null})), INVALID, "stages", &["1 to 16", "`code`"]),
        (with(json!({"code": "x"})), INVALID, "code", &["one of them"]),
    ]);
    let code = json!({"runtime": "python", "code": "", "files": [{"path": "x", "text": ""}, {"path": "main.py", "text": ""}]});
    refuses(vec![(code, INVALID, "files[1].path", &["`main.py` is also the path of code"])]);
}

#[test]
fn what_is_not_built_yet_is_refused_by_name() {
    let code = RefusalCode::NotSupported;
    let yet: &[&str] = &["not yet supported"];
    refuses(vec![
        (with(json!({"session": {}})), code, "session", yet),
        (with(json!({"checkpoint": "x"})), code, "checkpoint", yet),
        (with(json!({"network": {"allow": ["a:1"]}})), code, "network", &["python+net", "\"none\""]),
    ]);
    let off = json!({"stream": false, "network": "none", "session": null, "checkpoint": null});
    assert!(admitted(&with(off)).is_ok_and(|job| !job.stream));
    assert!(admitted(&with(json!({"stream": true}))).is_ok_and(|job| job.stream));
}

#[test]
fn a_network_is_what_the_operator_offers_and_the_job_names() {
    let mut terms = terms();
    let offer = terms.runtimes["python"].clone();
    terms.runtimes.insert("python+net".to_owned(), offer);
    let admitted = |network: Value| {
        let request = job::parse(&serde_json::to_vec(&with(json!({"network": network}))).unwrap())?;
        admit(request, &terms, &PRODUCER)
    };
    let job = admitted(json!({"allow": ["api.example.com:443", "1.2.3.0/24:80"]})).unwrap();
    assert_eq!((job.runtime.as_str(), job.pool_key().as_str()), ("python", "python+net"));
    assert!(job.stages.iter().all(|stage| stage.ip));
    let none = admitted(json!("none")).unwrap();
    assert_eq!(none.pool_key(), "python");
    assert!(!none.stages[0].ip && none.network.is_none());
    let many = vec!["a.example:1"; 65];
    for (network, field, part) in [
        (json!({"allow": []}), "network.allow", "1 to 64"),
        (json!({"allow": many}), "network.allow", "1 to 64"),
        (json!({"allow": ["a.example:1", "a.example"]}), "network.allow[1]", "port"),
        (json!({"allow": ["127.0.0.1:80"]}), "network.allow[0]", "cannot be reached"),
        (json!({"allow": ["10.1.2.3:80"]}), "network.allow", "network.private"),
        (json!({"allow": ["10.0.0.5:80"]}), "network.allow", "network.host"),
        (json!({"allow": ["1.2.3.4:1", "[2001:db8::1]:80"]}), "network.allow[1]", "IPv6"),
    ] {
        let refusal = admitted(network).unwrap_err();
        assert_eq!(refusal.field.as_deref(), Some(field));
        assert!(refusal.message.contains(part), "{refusal:?}");
    }
    let unknown = with(json!({"runtime": "cobol", "network": {"allow": ["a.example:1"]}}));
    let request = job::parse(&serde_json::to_vec(&unknown).unwrap()).unwrap();
    let refusal = admit(request, &terms, &PRODUCER).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::UnknownRuntime);
    assert!(!refusal.message.contains("+net"), "{refusal:?}");
    terms.network.private = vec!["10.1.0.0/16".parse().unwrap()];
    let named = with(json!({"network": {"allow": ["10.1.2.3:80"]}}));
    let request = job::parse(&serde_json::to_vec(&named).unwrap()).unwrap();
    assert!(admit(request, &terms, &PRODUCER).is_ok());
}

fn inline(file: &JobFile) -> &[u8] {
    let Content::Inline(bytes) = &file.content else { panic!("inline: {file:?}") };
    bytes
}

#[test]
fn code_becomes_one_file_and_one_stage() {
    let job = admitted(&json!({"runtime": "python", "code": "print(1)"})).unwrap();
    assert_eq!((job.key.tenant.as_str(), job.key.id.as_str()), ("acme", "made-up"));
    assert_eq!((job.lane, job.deadline), (Lane::Normal, Duration::from_secs(3600)));
    let [file] = &job.files[..] else { panic!("one file") };
    assert_eq!((file.path.as_str(), file.mode, inline(file)), ("main.py", 0o644, &b"print(1)"[..]));
    let [stage] = &job.stages[..] else { panic!("one stage") };
    assert_eq!((stage.name.as_str(), stage.cwd.as_str()), ("run", ""));
    assert_eq!(stage.argv, ["python3", "main.py"]);
    assert_eq!(stage.env, base_env());
    let mib = 1024 * 1024;
    let expected = Limits {
        wall_ms: 10_000,
        cpu_ms: 10_000,
        memory_bytes: 320 * mib,
        output_bytes: mib,
        processes: 64,
        disk_bytes: 256 * mib,
        files: 1024,
        open_files: None,
        file_size_bytes: None,
    };
    assert_eq!(stage.limits, expected);
}

#[test]
fn a_stage_goes_before_the_job_and_the_job_before_the_default() {
    let job = admitted(&json!({
        "runtime": "gcc", "id": "j", "lane": "batch", "deadline_ms": 5,
        "limits": {"wall_ms": 2000, "memory_mib": 100},
        "files": [{"path": "b/x", "base64": "/wA=", "mode": "755"}],
        "stages": [{"name": "a", "argv": ["x"], "limits": {"wall_ms": 3000, "cpu_ms": 9}, "continue_on_failure": true},
                   {"name": "b", "argv": ["y"], "cwd": "b", "stdin": "in", "env": {"TZ": "CET", "A": "b"}}],
    }))
    .unwrap();
    assert_eq!((job.lane, job.deadline, job.key.id.as_str()), (Lane::Batch, Duration::from_millis(5), "j"));
    assert_eq!((inline(&job.files[0]), job.files[0].mode), (&[0xff, 0][..], 0o755));
    let [a, b] = &job.stages[..] else { panic!("two stages") };
    assert_eq!((a.limits.wall_ms, a.limits.cpu_ms, a.limits.memory_bytes >> 20), (3000, 9, 100));
    assert_eq!((b.limits.wall_ms, b.limits.cpu_ms, b.limits.processes), (2000, 2000, 64));
    assert!(a.continue_on_failure && !b.continue_on_failure);
    assert_eq!((b.cwd.as_str(), &b.stdin[..]), ("b", &b"in"[..]));
    assert_eq!((b.env["TZ"].as_str(), b.env["A"].as_str(), b.env["HOME"].as_str()), ("CET", "b", "/work"));
}

#[test]
fn tenants_are_named_by_those_who_may() {
    let request =
        JobRequest { tenant: Some("other".into()), code: Some(String::new()), ..JobRequest::new("python") };
    let trusted = Producer { may_name_tenant: true, ..PRODUCER };
    assert_eq!(admit(request, &terms(), &trusted).unwrap().key.tenant, "other");
    let request = JobRequest { code: Some(String::new()), ..JobRequest::new("python") };
    let odd = Producer { fallback_id: "a/b", ..PRODUCER };
    assert_eq!(admit(request, &terms(), &odd).unwrap_err().field.as_deref(), Some("id"));
}

#[test]
fn a_digest_is_of_the_request_and_not_of_how_it_was_sent() {
    let digest =
        |json: &str| admit(job::parse(json.as_bytes()).unwrap(), &terms(), &PRODUCER).unwrap().digest;
    let one = digest(r#"{"runtime":"python","code":"1","metadata":{"b":{"y":1,"x":2.50},"a":[]}}"#);
    for same in [
        r#"{ "metadata":{"a":[],"b":{"x":2.5,"y":1}}, "code":"1", "runtime":"python", "id":"j", "tenant":"acme" }"#,
        r#"{"version":1,"runtime":"python","code":"\u0031","limits":{},"files":[],"stream":true,
            "metadata":{"a":[],"b":{"x":25e-1,"y":1}}}"#,
    ] {
        assert_eq!(digest(same), one, "{same}");
    }
    for other in [
        r#"{"runtime":"python","code":"2","metadata":{"b":{"y":1,"x":2.50},"a":[]}}"#,
        r#"{"runtime":"python","code":"1"}"#,
        r#"{"runtime":"python","code":"1","limits":{"wall_ms":10000},"metadata":{"b":{"y":1,"x":2.50},"a":[]}}"#,
    ] {
        assert_ne!(digest(other), one, "{other}");
    }
    // Golden: the ledger keeps digests across upgrades.
    assert_eq!(one, "2a7193ab88efe28d580c6dd383d4bc56131633aad6743906d92357c063853c04");
}

#[test]
fn defaults_give_way_to_a_small_runtime() {
    let mut small = terms();
    small.runtimes.get_mut("python").unwrap().scratch_mib = 64;
    let request = JobRequest { code: Some(String::new()), ..JobRequest::new("python") };
    let job = admit(request.clone(), &small, &PRODUCER).unwrap();
    assert_eq!(job.stages[0].limits.disk_bytes >> 20, 64);
    let none = Terms::new(BTreeMap::new());
    assert!(admit(request, &none, &PRODUCER).unwrap_err().message.contains("none is baked"));
    assert!(LimitsRequest::default().is_empty());
}
