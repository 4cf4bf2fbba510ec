//! Files by reference, through real VMs and real stores.

use std::{fs, process::Stdio, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hearth_schemas::result::{OutputContent, Verdict};
use hearth_tests::{
    objects::Stores,
    real::{Machine, Worker},
    wait::until_some,
};
use serde_json::{Value, json};

use super::{machine, only, room, stdout};

const SCRIPT: &str = "import hashlib, os
print(hashlib.sha256(open('f', 'rb').read()).hexdigest())
mode = lambda path: oct(os.stat(path).st_mode & 0o777)
for top in ('t', 'i'):
    print(mode(top + '/bin/run'), mode(top + '/data'), os.listdir(top + '/empty'), os.access(top + '/empty', os.W_OK))
os.rename('f', 'large')
open('small', 'w').write('s')
";

fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind, mode, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes).unwrap();
    };
    add("empty/", tar::EntryType::Directory, 0o700, b"");
    add("bin/run", tar::EntryType::Regular, 0o4711, b"#!/bin/sh");
    add("data", tar::EntryType::Regular, 0o666, b"data");
    tar.into_inner().unwrap()
}

/// An object and two directories go in; what is large goes to the store, and what is small into the result.
async fn in_and_out(machine: &Machine, stores: Stores) {
    let bytes: Vec<u8> = (0..6_000_000_u32).map(|n| (n % 253) as u8).collect();
    let file = stores.put("default/x/f", &bytes).await.unwrap();
    let mut tree = stores.put("default/x/t.tar", &archive()).await.unwrap();
    let object = tree.as_object_mut().unwrap().remove("object").unwrap();
    tree["tar_object"] = object;
    tree["path"] = "t".into();
    let inline = json!({"path": "i", "tar_base64": STANDARD.encode(archive())});
    let job = json!({
        "id": "j", "runtime": "python", "code": SCRIPT, "files": [file, tree, inline], "outputs": ["large", "small"],
    });
    let worker = Worker::open_with(machine, &[("python", 1)], &stores.settings().unwrap()).await.unwrap();
    let result = worker.run(&job).await.unwrap();
    assert_eq!(result.verdict, Some(Verdict::Accepted), "{result:#?}");
    let sha256 = file_sha256(&job);
    let modes = "0o755 0o644 [] True";
    assert_eq!(stdout(only(&result)), format!("{sha256}\n{modes}\n{modes}\n"));
    let [large, small] = &result.outputs[..] else { panic!("{:#?}", result.outputs) };
    assert_eq!(small.content, OutputContent::Text("s".into()));
    assert_eq!((large.size_bytes, large.sha256.as_str()), (6_000_000, sha256.as_str()));
    let OutputContent::Object(kept) = &large.content else { panic!("{large:#?}") };
    assert!(kept.contains("://outputs/kept/default/j/1-") && kept.ends_with("/large"), "{kept}");
    let wrong = json!({"runtime": "python", "code": "", "files": [
        {"path": "f", "object": job["files"][0]["object"], "sha256": sha256, "size": 5_999_999}]});
    let wrong = worker.run(&wrong).await.unwrap();
    assert_eq!((wrong.verdict, wrong.snapshot.as_ref()), (Some(Verdict::FileError), None), "no VM was taken");
    worker.close().await.unwrap();
}

fn file_sha256(job: &Value) -> String {
    job["files"][0]["sha256"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_go_in_and_outputs_come_out_by_reference() {
    let Some(machine) = machine() else { return };
    let _room = room().await;
    let stores =
        [Some(Stores::folder().unwrap()), Stores::s3().await.unwrap(), Stores::azure().await.unwrap()];
    for stores in stores.into_iter().flatten() {
        in_and_out(machine, stores).await;
    }
}

/// The most memory that `hearth run` had, in KiB, for an object of so many bytes in and out again.
async fn peak(machine: &Machine, stores: &Stores, bytes: usize) -> u64 {
    let mut file = stores.put("default/f", &vec![b'x'; bytes]).await.unwrap();
    file["path"] = "f".into();
    let directory = tempfile::tempdir().unwrap();
    let (job, objects) = (directory.path().join("job.json"), directory.path().join("objects.toml"));
    let request = json!({"runtime": "python", "files": [file], "outputs": ["out"], "limits": {"disk_mib": 400},
        "stages": [{"name": "run", "argv": ["mv", "f", "out"]}]});
    fs::write(&job, request.to_string()).unwrap();
    fs::write(&objects, stores.table()).unwrap();
    let run_dir = Worker::run_dir().unwrap();
    let mut hearth = machine.command(run_dir.path());
    hearth.arg("run").arg(&job).arg("--objects").arg(&objects).arg("--json");
    let mut child = hearth.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let within = Duration::from_secs(600);
    until_some(within, "the job ends", async || {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(kib.unwrap_or(0));
        child.try_wait().unwrap()
    })
    .await;
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["outputs"][0]["size_bytes"], bytes, "{result:#}");
    assert!(result["outputs"][0]["object"].is_string(), "{result:#}");
    peak
}

/// A transfer takes at most 8 MiB of the worker's memory, however large the file. Here there are three, one after the other,
/// and none leaves anything for the next: from the store to the spool, into the VM, and from the VM to the store.
#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_a_file() {
    let Some(machine) = machine() else { return };
    let _room = room().await;
    machine.baked("python").unwrap();
    let Some(stores) = Stores::s3().await.unwrap() else { return };
    let small = peak(machine, &stores, 100_000).await;
    let large = peak(machine, &stores, 256 << 20).await;
    eprintln!("VmHWM of hearth run: {small} KiB for 100 KB, {large} KiB for 256 MiB");
    assert!(large < small + 8 * 1024, "{small} KiB, then {large} KiB");
}
