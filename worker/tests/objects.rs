//! Files by reference: who may name what, and whole jobs over a folder of objects and fake VMs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod rig;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use hearth_pool::fakes::Ran;
use hearth_schemas::result::{Cause, JobResult, OutputContent, RefusalCode, SkippedReason, Status, Verdict};
use hearth_worker::{
    intake::Intake,
    objects::{ObjectSettings, Objects},
};
use rig::Rig;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use ulid::Ulid;

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A worker with a folder of inputs and one of outputs.
struct Setup {
    rig: Rig,
    inputs: TempDir,
    outputs: TempDir,
    spool: TempDir,
}

impl Setup {
    fn new(outputs: &str) -> Self {
        let mut rig = Rig::new(1, |asked| {
            let listing: Vec<_> =
                asked.files.iter().map(|(path, bytes)| format!("{path} {}", bytes.len())).collect();
            let big = vec![7; 3 << 20];
            Ran {
                files: [("big".to_owned(), big.into()), ("small".to_owned(), "s".into())].into(),
                ..Ran::prints(listing.join("\n"))
            }
        });
        let [inputs_dir, outputs_dir, spool] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
        let text = format!(
            "[objects]\njob_max_mib = 300\n\
             [objects.stores.\"file://in\"]\nfolder = \"{}\"\n\
             [objects.stores.\"file://out\"]\nfolder = \"{}\"\n\
             [objects.tenants]\nalice = [\"file://in/alice\", \"file://in/both\"]\n\"*\" = [\"file://in/of/{{tenant}}\"]\n\
             {outputs}",
            inputs_dir.path().display(),
            outputs_dir.path().display()
        );
        let settings = ObjectSettings::parse(&text, &|_| None).unwrap();
        let objects = Objects::open(&settings, spool.path().to_owned()).unwrap();
        let mut terms = rig.service.intake().terms.clone();
        terms.objects = settings.terms();
        rig.service.set_intake(Intake { objects, ..Intake::embedded(terms, "w1") });
        rig.serve();
        Self { rig, inputs: inputs_dir, outputs: outputs_dir, spool }
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Value {
        let path = self.inputs.path().join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        json!({"path": "f", "object": format!("file://in/{key}"), "sha256": sha256(bytes), "size": bytes.len()})
    }

    async fn run(&self, files: Value) -> JobResult {
        let id = Ulid::generate().to_string();
        let job = json!({"id": id, "tenant": "alice", "runtime": "python", "files": files, "outputs": ["big", "small"],
            "stages": [{"name": "a", "argv": ["x"]}, {"name": "b", "argv": ["y"]}]});
        self.rig.submit(job).await
    }

    async fn end(mut self) {
        self.rig.check().await;
        assert_eq!(fs::read_dir(self.spool.path()).unwrap().count(), 0, "the spool has no names");
    }
}

fn with(file: &Value, fields: Value) -> Value {
    let mut file = file.clone();
    for (name, value) in fields.as_object().unwrap() {
        match value {
            Value::Null => drop(file.as_object_mut().unwrap().remove(name)),
            value => file[name] = value.clone(),
        }
    }
    json!([file])
}

#[tokio::test(start_paused = true)]
async fn an_object_goes_into_the_tree_and_a_large_output_into_the_store() {
    let setup = Setup::new("[objects.outputs]\nto = \"file://out/kept\"\n");
    let bytes = vec![1; 300_000];
    let file = setup.put("alice/x/data", &bytes);
    let mine = setup.put("of/alice/data", b"mine");
    let files =
        json!([with(&file, json!({}))[0], with(&mine, json!({"path": "g"}))[0], {"path": "h", "text": "hi"}]);
    let result = setup.run(files).await;
    assert_eq!(result.verdict, Some(Verdict::Accepted), "{result:#?}");
    assert_eq!(result.stages[0].run.stdout.content.decode().unwrap(), b"f 300000\ng 4\nh 2");
    assert!(result.timings.fetch_ms.is_some());
    let [big, small] = &result.outputs[..] else { panic!("{:#?}", result.outputs) };
    assert_eq!(small.content, OutputContent::Text("s".into()), "what is small stays in the result");
    let OutputContent::Object(reference) = &big.content else { panic!("{big:?}") };
    let key = reference.strip_prefix(&format!("file://out/kept/alice/{}/1-", result.id)).unwrap();
    assert!(key.ends_with("/big"), "{reference}");
    let kept = fs::read(setup.outputs.path().join(reference.strip_prefix("file://out/").unwrap())).unwrap();
    assert_eq!((kept.len() as u64, sha256(&kept)), (big.size_bytes, big.sha256.clone()));
    setup.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_store_a_large_output_is_skipped_and_says_what_could_be_done() {
    let mut rig = Rig::new(1, |_| Ran {
        files: [("big".to_owned(), vec![0; (8 << 20) + 1].into())].into(),
        ..Ran::default()
    });
    rig.serve();
    let result = rig.submit(json!({"runtime": "python", "code": "x", "outputs": ["big"]})).await;
    let [skipped] = &result.skipped_outputs[..] else { panic!("{result:#?}") };
    assert_eq!((skipped.reason, skipped.size_bytes), (SkippedReason::TooLarge, Some((8 << 20) + 1)));
    let message = skipped.message.as_deref().unwrap();
    assert!(message.contains("8388608") && message.contains("objects.outputs"), "{message}");
    rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_tenant_reads_what_it_may_and_nothing_else() {
    let setup = Setup::new("");
    let file = setup.put("alice/data", b"data");
    let named = |object: &str| with(&file, json!({"object": object}));
    for (files, field, parts) in [
        (
            named("file://in/bob/data"),
            "files[0].object",
            &["`alice`", "file://in/alice/, file://in/both/, file://in/of/alice/"],
        ),
        (named("file://in/alicex/data"), "files[0].object", &["may not be read", "file://in/alice/"]),
        (named("file://in/of/bob/data"), "files[0].object", &["may not be read", "file://in/of/alice/"]),
        (named("file://in/alice/../bob/data"), "files[0].object", &["`..`", "key"]),
        (named("file://in/alice/%2e%2e/bob/data"), "files[0].object", &["'%'", "as it is written"]),
        (named("file://in/alice//data"), "files[0].object", &["empty component", "key"]),
        (named("file://out/alice/data"), "files[0].object", &["may not be read", "file://in/alice/"]),
        (named("s3://in/alice/data"), "files[0].object", &["may not be read", "file://in/alice/"]),
        (named("http://169.254.169.254/x"), "files[0].object", &["no known scheme", "s3://"]),
        (with(&file, json!({"sha256": null})), "files[0].sha256", &["missing", "required"]),
        (with(&file, json!({"size": null})), "files[0].size", &["missing", "required"]),
        (with(&file, json!({"sha256": "AB"})), "files[0].sha256", &["64", "lower case"]),
        (with(&file, json!({"text": "x"})), "files[0]", &["text and object", "allowed is one of"]),
        (with(&file, json!({"size": 400 << 20})), "files[0].size", &["419430400", "0 to 314572800"]),
        (with(&file, json!({"size": 280 << 20})), "files[0].size", &["0 to 268435456", "`disk_mib`"]),
    ] {
        let refused = setup.run(files).await.refusal.expect("refused");
        assert_eq!(refused.field.as_deref(), Some(field), "{refused}");
        assert!(matches!(refused.code, RefusalCode::Invalid | RefusalCode::TooLarge));
        parts.iter().for_each(|part| assert!(refused.message.contains(part), "{refused}: {part}"));
    }
    let bob = json!({"tenant": "bob", "runtime": "python", "code": "x", "files": [file]});
    let refused = setup.rig.submit(bob).await.refusal.unwrap();
    assert!(refused.message.contains("what is below file://in/of/bob/"), "{refused}");
    assert_eq!(setup.rig.runs(), 0, "no VM was taken");
    setup.end().await;
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_configured_nothing_may_be_named() {
    let mut rig = Rig::new(1, |_| Ran::default());
    rig.serve();
    let file = json!({"path": "f", "object": "s3://b/k", "sha256": sha256(b""), "size": 0});
    let refused =
        rig.submit(json!({"runtime": "python", "code": "x", "files": [file]})).await.refusal.unwrap();
    assert_eq!(refused.field.as_deref(), Some("files[0].object"));
    assert!(refused.message.contains("the operator allows tenant `default` no objects"), "{refused}");
    rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_not_what_the_job_says_is_the_first_stages_file_error() {
    let setup = Setup::new("");
    let file = setup.put("alice/data", b"data");
    let secret = setup.outputs.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let inside = setup.inputs.path().join("alice");
    symlink(&secret, inside.join("link")).unwrap();
    symlink(setup.outputs.path(), inside.join("folder")).unwrap();
    fs::create_dir(inside.join("directory")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        inside.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o666),
        0,
    )
    .unwrap();
    let named = |object: &str| with(&file, json!({"object": object, "sha256": sha256(b"secret"), "size": 6}));
    for (files, said) in [
        (with(&file, json!({"sha256": sha256(b"atad")})), "does not have the SHA-256 that the job says"),
        (with(&file, json!({"size": 3})), "3 bytes, not 4"),
        (with(&file, json!({"size": 5})), "5 bytes, not 4"),
        (with(&file, json!({"object": "file://in/alice/none"})), "is not there"),
        (with(&file, json!({"object": "file://in/alice/data/x"})), "is not there"),
        (named("file://in/alice/link"), "a link, which is not followed"),
        (named("file://in/alice/folder/secret"), "a link, which is not followed"),
        (named("file://in/alice/directory"), "not a regular file"),
        (named("file://in/alice/pipe"), "not a regular file"),
        (
            json!([{"path": "d", "tar_object": file["object"], "sha256": file["sha256"], "size": 4}]),
            "files[0].tar_object: file://in/alice/data is no tar archive",
        ),
    ] {
        let result = setup.run(files).await;
        let run = &result.stages[0].run;
        assert_eq!((result.status, result.verdict), (Status::Finished, Some(Verdict::FileError)));
        assert_eq!((run.cause, result.stages[1].run.verdict), (Some(Cause::Path), Verdict::Skipped));
        let message = run.message.as_deref().unwrap();
        assert!(message.starts_with("files[0].") && message.contains(said), "{message}: {said}");
        assert_eq!((result.attempt, result.snapshot), (0, None), "no VM was taken");
    }
    assert_eq!(setup.rig.runs(), 0);
    setup.end().await;
}

#[tokio::test(start_paused = true)]
async fn cases_of_a_job_without_its_object_are_skipped_by_name() {
    let setup = Setup::new("");
    let file = with(&setup.put("alice/data", b"data"), json!({"object": "file://in/alice/none"}));
    let stage = json!({"name": "a", "argv": ["x"], "cases": [{"name": "1"}, {"name": "2"}]});
    let job =
        json!({"id": "cases", "tenant": "alice", "runtime": "python", "files": file, "stages": [stage]});
    let result = setup.rig.submit(job).await;
    assert_eq!(result.verdict, Some(Verdict::FileError));
    let cases: Vec<_> =
        result.stages[0].cases.iter().map(|case| (case.name.as_str(), case.run.verdict)).collect();
    assert_eq!(cases, [("1", Verdict::Skipped), ("2", Verdict::Skipped)]);
    setup.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_directory_comes_as_an_archive_inline_or_by_reference() {
    let setup = Setup::new("");
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o700);
    header.set_size(5);
    tar.append_data(&mut header, "./bin/run", &b"#!run"[..]).unwrap();
    header.set_mode(0o600);
    tar.append_data(&mut header, format!("{}/deep", "d".repeat(120)), &b"12345"[..]).unwrap();
    let archive = tar.into_inner().unwrap();
    let file = setup.put("alice/a.tar", &archive);
    let object =
        json!({"path": "o", "tar_object": file["object"], "sha256": file["sha256"], "size": file["size"]});
    let inline = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &archive);
    let result = setup.run(json!([object, {"path": "i", "tar_base64": inline}])).await;
    assert_eq!(result.verdict, Some(Verdict::Accepted), "{result:#?}");
    let deep = "d".repeat(120);
    let expected = format!("i/bin/run 5\ni/{deep}/deep 5\no/bin/run 5\no/{deep}/deep 5");
    assert_eq!(result.stages[0].run.stdout.content.decode().unwrap(), expected.as_bytes());
    setup.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_our_fault_and_tried_again() {
    let setup = Setup::new("");
    let file = setup.put("alice/data", b"data");
    // Nobody, this process's user included, can open it for now: the disk's fault, as it were.
    let spool = setup.spool.path().to_owned();
    fs::remove_dir(&spool).unwrap();
    let (result, ()) = tokio::join!(setup.run(json!([file])), async {
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        fs::create_dir(&spool).unwrap();
        fs::set_permissions(&spool, fs::Permissions::from_mode(0o700)).unwrap();
    });
    assert_eq!((result.verdict, result.attempt), (Some(Verdict::Accepted), 1), "{result:#?}");
    setup.end().await;
}

/// In one process a job need not have an id; it gets one, and keeps it when it is tried again.
#[tokio::test(start_paused = true)]
async fn attempts_at_a_job_without_an_id_are_counted() {
    let setup = Setup::new("[objects.outputs]\nto = \"file://out\"\n");
    fs::remove_dir(setup.outputs.path()).unwrap();
    let job = json!({"runtime": "python", "code": "x", "outputs": ["big"]});
    let result = setup.rig.submit(job).await;
    assert_eq!((result.status, setup.rig.runs()), (Status::InfraError, 3), "{result:#?}");
    assert_eq!(result.infra_error.unwrap().attempts.len(), 3);
    fs::create_dir(setup.outputs.path()).unwrap();
    setup.end().await;
}
