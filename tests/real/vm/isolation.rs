//! One job per VM: nothing of one is visible in the next, and bytes go both ways unharmed.

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::STANDARD};
use hearth_schemas::result::{OutputContent, Verdict};
use serde_json::{Value, json};

use crate::{only, stdout, with_python};

/// Leaves traces wherever a job can write, and prints what it finds of others and what its machine is.
const TRACES: &str = r#"
import json, os, pathlib, socket, subprocess
places = ["/work", "/tmp", "/dev/shm", "/run", "/var/tmp", "/home", "/"]
found = [str(p) for place in places for p in pathlib.Path(place).glob("trace-*")]
for place in places:
    try: pathlib.Path(place, "trace-left").write_text("secret")
    except OSError: pass
mine = {os.getpid(), os.getppid()}
running = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try: line = pathlib.Path("/proc", pid, "cmdline").read_bytes()
    except OSError: continue
    if b"sleep" in line: running.append(pid)
subprocess.Popen(["setsid", "sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(json.dumps({
    "found": found, "running": running, "random": os.urandom(16).hex(), "hostname": socket.gethostname(),
    "boot_id": pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    "machine_id": pathlib.Path("/etc/machine-id").read_text().strip(),
    "now": __import__("time").time(),
}))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn ten_jobs_in_a_row_see_nothing_of_each_other() {
    with_python(2, async |worker| {
        let mut seen: Vec<Value> = Vec::new();
        for _ in 0..10 {
            let result = worker.run(&json!({"runtime": "python", "code": TRACES})).await.unwrap();
            assert_eq!(result.verdict, Some(Verdict::Accepted), "{result:#?}");
            let mut machine: Value = serde_json::from_str(&stdout(only(&result))).unwrap();
            let now =
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
            let off = (machine["now"].as_f64().unwrap() - now).abs();
            assert!(off < 30.0, "the guest's clock is {off} s off");
            machine["snapshot"] = result.snapshot.into();
            seen.push(machine);
        }
        for machine in &seen {
            assert_eq!(
                (&machine["found"], &machine["running"]),
                (&json!([]), &json!([])),
                "traces of another job"
            );
        }
        for what in ["random", "hostname", "boot_id", "machine_id"] {
            let distinct: BTreeSet<String> = seen.iter().map(|machine| machine[what].to_string()).collect();
            assert_eq!(distinct.len(), 10, "{what}: {distinct:?}");
        }
        let snapshots: BTreeSet<String> =
            seen.iter().map(|machine| machine["snapshot"].to_string()).collect();
        assert_eq!(snapshots.len(), 1, "all from one snapshot");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_files_go_both_ways_unharmed() {
    with_python(1, async |worker| {
        let bytes: Vec<u8> = (0..=255u8).cycle().take(3_000_000).chain([0, 10, 13, 0]).collect();
        let job = json!({
            "runtime": "python",
            "files": [{"path": "in/every.bin", "base64": STANDARD.encode(&bytes), "mode": "0600"}],
            "code": "d = open('in/every.bin', 'rb').read(); open('out.bin', 'wb').write(d[::-1])",
            "outputs": ["out.bin", "in/*", "none/*"],
        });
        let result = worker.run(&job).await.unwrap();
        assert_eq!(result.verdict, Some(Verdict::Accepted), "{:?}", only(&result));
        assert_eq!(result.missing_outputs, ["none/*"]);
        let output = |path: &str| {
            let output = result.outputs.iter().find(|output| output.path == path).unwrap();
            let OutputContent::Base64(content) = &output.content else { panic!("{path} is no text") };
            (STANDARD.decode(content).unwrap(), output.mode.clone())
        };
        let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
        assert!(output("out.bin").0 == reversed);
        assert!(output("in/every.bin") == (bytes, "0600".to_owned()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_job_is_nobody_and_the_root_is_not_writable() {
    with_python(1, async |worker| {
        let code = "import os\n\
            print(os.getuid(), os.getgid(), os.getgroups(), os.getcwd())\n\
            for p in ['/etc/x', '/usr/x', '/x']:\n  \
              try: open(p, 'w'); print('wrote', p)\n  \
              except OSError as e: print(type(e).__name__)\n\
            print(open('/proc/self/status').read().split('NoNewPrivs:')[1].split()[0])";
        let result = worker.run(&json!({"runtime": "python", "code": code})).await.unwrap();
        let out = stdout(only(&result));
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines[0], "10000 10000 [] /work", "{out}");
        assert!(!out.contains("wrote"), "{out}");
        assert_eq!(lines.last(), Some(&"1"), "no new privileges");
    })
    .await;
}
