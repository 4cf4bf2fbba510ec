//! Limits that hold, and what a job is told when one did.

use hearth_schemas::result::{Cause, JobResult, Status, Verdict};
use hearth_tests::real::Worker;
use serde_json::{Value, json};

use crate::{only, stdout, with_python};

async fn python(worker: &Worker, code: &str, limits: Value) -> JobResult {
    let result = worker.run(&json!({"runtime": "python", "code": code, "limits": limits})).await.unwrap();
    assert_eq!(result.status, Status::Finished, "{result:#?}");
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn hello_and_a_traceback() {
    with_python(1, async |worker| {
        let hello = python(worker, "print('hello')", json!({})).await;
        assert_eq!((hello.verdict, stdout(only(&hello))), (Some(Verdict::Accepted), "hello\n".to_owned()));
        let usage = only(&hello).usage.unwrap();
        assert!(
            usage.memory_peak_bytes.unwrap() > 1 << 20 && usage.processes_peak.unwrap() >= 1,
            "{usage:?}"
        );
        let traceback = python(worker, "1 / 0", json!({})).await;
        assert_eq!((traceback.verdict, only(&traceback).exit_code), (Some(Verdict::NonzeroExit), Some(1)));
        let stderr = only(&traceback).stderr.content.decode().unwrap();
        assert!(String::from_utf8_lossy(&stderr).contains("ZeroDivisionError"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_runs_out_asleep_and_at_work() {
    with_python(1, async |worker| {
        let asleep = "import time; print('kept', flush=True); time.sleep(600)";
        let asleep = python(worker, asleep, json!({"wall_ms": 8000})).await;
        assert_eq!((asleep.verdict, asleep.cause), (Some(Verdict::TimeLimit), Some(Cause::Idle)));
        assert_eq!(stdout(only(&asleep)), "kept\n");
        let at_work = python(worker, "while True: pass", json!({"wall_ms": 30_000, "cpu_ms": 1500})).await;
        assert_eq!((at_work.verdict, at_work.cause), (Some(Verdict::TimeLimit), Some(Cause::Cpu)));
        let usage = only(&at_work).usage.unwrap();
        assert!(usage.user_ms.as_micros() + usage.system_ms.as_micros() >= 1_500_000, "{usage:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_is_stopped_and_the_agent_answers() {
    with_python(1, async |worker| {
        let bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass";
        let bomb = python(worker, bomb, json!({"processes": 32, "wall_ms": 60_000, "cpu_ms": 60_000})).await;
        assert_eq!((bomb.verdict, bomb.cause), (Some(Verdict::ProcessLimit), Some(Cause::Pids)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_hog_is_stopped_by_the_kernel() {
    with_python(1, async |worker| {
        let hog = "b = []\nwhile True: b.append(bytearray(1 << 20))";
        let hog = python(worker, hog, json!({"memory_mib": 64, "wall_ms": 60_000})).await;
        assert_eq!((hog.verdict, hog.cause), (Some(Verdict::MemoryLimit), Some(Cause::Oom)));
        let peak = only(&hog).usage.unwrap().memory_peak_bytes.unwrap();
        assert!((48 << 20..=66 << 20).contains(&peak), "{peak}");
        // A limit that is not reached is no verdict, whatever numpy maps.
        let numpy = "import numpy; print(int(numpy.ones(1000).sum()))";
        let numpy = python(worker, numpy, json!({"memory_mib": 256, "wall_ms": 60_000})).await;
        assert_eq!((numpy.verdict, stdout(only(&numpy))), (Some(Verdict::Accepted), "1000\n".to_owned()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_flood_is_cut_and_its_head_and_tail_kept() {
    with_python(1, async |worker| {
        let flood = "import sys\nn = 0\nwhile True:\n  print(n)\n  n += 1";
        let flood = python(worker, flood, json!({"output_kib": 256, "wall_ms": 60_000})).await;
        assert_eq!((flood.verdict, flood.cause), (Some(Verdict::OutputLimit), Some(Cause::Stdout)));
        let out = &only(&flood).stdout;
        assert!(stdout(only(&flood)).starts_with("0\n1\n2\n"));
        assert!(out.tail.is_some() && out.truncated_bytes > 0, "{} of {}", out.truncated_bytes, out.bytes);
        let stderr = python(worker, "import sys\nwhile True: sys.stderr.write('e' * 4096)", json!({})).await;
        assert_eq!((stderr.verdict, stderr.cause), (Some(Verdict::OutputLimit), Some(Cause::Stderr)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_ends_where_the_job_was_told() {
    with_python(1, async |worker| {
        let fill = "f = open('big', 'wb')\nwhile True: f.write(b'x' * 65536); f.flush()";
        let fill = python(worker, fill, json!({"disk_mib": 16, "wall_ms": 60_000})).await;
        assert_eq!((fill.verdict, fill.cause), (Some(Verdict::DiskLimit), Some(Cause::Enospc)));
        let many = "n = 0\nwhile True:\n  open(f'f{n}', 'w').close()\n  n += 1";
        let many = python(worker, many, json!({"files": 200, "wall_ms": 60_000})).await;
        assert_eq!((many.verdict, many.cause), (Some(Verdict::DiskLimit), Some(Cause::Files)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_grows_no_larger_than_it_may_and_no_more_are_open() {
    with_python(1, async |worker| {
        let head = |limits: Value| json!({"name": "head", "argv": ["head", "-c", "3M", "/dev/zero"], "limits": limits});
        let grow = |script: &str| json!({"runtime": "python", "stages": [{
            "name": "grow", "argv": ["sh", "-c", script], "limits": {"file_size_mib": 2, "wall_ms": 60_000}}]});
        for (script, verdict, cause) in [
            ("exec head -c 3M /dev/zero > large", Verdict::DiskLimit, Some(Cause::FileSize)),
            ("exec head -c 3M /dev/zero > /dev/shm/large", Verdict::DiskLimit, Some(Cause::FileSize)),
            // What kills a child is the child's; its parent says what comes of that.
            ("head -c 3M /dev/zero > large; echo ended by $?; stat -c %s large", Verdict::Accepted, None),
            ("exec head -c 2M /dev/zero > large", Verdict::Accepted, None),
            ("kill -XFSZ $$", Verdict::DiskLimit, Some(Cause::FileSize)),
        ] {
            let result = worker.run(&grow(script)).await.unwrap();
            assert_eq!((result.verdict, result.cause), (Some(verdict), cause), "{script}: {result:#?}");
        }
        let result = worker.run(&json!({"runtime": "python", "stages": [head(json!({"file_size_mib": 1}))]})).await;
        assert_eq!(result.unwrap().verdict, Some(Verdict::OutputLimit), "a pipe is no file");
        let python = "import errno\ntry:\n  with open('large', 'wb') as f: f.write(bytes(3 << 20))\n\
                      except OSError as e: print(errno.errorcode[e.errno])";
        let ignored = self::python(worker, python, json!({"file_size_mib": 2})).await;
        assert_eq!((ignored.verdict, stdout(only(&ignored))), (Some(Verdict::Accepted), "EFBIG\n".to_owned()));
        let opens = "import errno, os\nn = 0\ntry:\n  while True: os.open('/dev/null', os.O_RDONLY); n += 1\n\
                     except OSError as e: print(n, errno.errorcode[e.errno])";
        for (limits, opened) in [(json!({"open_files": 64}), "61 EMFILE\n"), (json!({}), "1021 EMFILE\n")] {
            let result = self::python(worker, opens, limits).await;
            assert_eq!((result.verdict, stdout(only(&result))), (Some(Verdict::Accepted), opened.to_owned()));
        }
        let fewest = self::python(worker, "print('runs')", json!({"open_files": 16})).await;
        assert_eq!((fewest.verdict, stdout(only(&fewest))), (Some(Verdict::Accepted), "runs\n".to_owned()));
    })
    .await;
}
