//! Programs that eat what there is: memory in every way, and the disk, and what they may write to.

use hearth_schemas::result::{Cause, SkippedReason, Verdict};
use serde_json::json;

use super::{Evil, in_arena, unleash};
use crate::with_python;

#[tokio::test(flavor = "multi_thread")]
async fn memory_runs_out_however_it_is_eaten() {
    let hog = |name, code| {
        Evil::python(name, code)
            .within(json!({"memory_mib": 48, "processes": 200}))
            .gets(Verdict::MemoryLimit, Cause::Oom)
    };
    let programs = [
        hog("malloc", "b = []\nwhile True: b.append(bytearray(1 << 20))"),
        hog("mmap", "import mmap\nm = mmap.mmap(-1, 1 << 28)\nfor at in range(0, 1 << 28, 4096): m[at] = 1"),
        hog("shared", "import mmap\nm = mmap.mmap(-1, 1 << 28, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)\nfor at in range(0, 1 << 28, 4096): m[at] = 1"),
        hog("shm", "f = open('/dev/shm/big', 'wb')\nwhile True: f.write(b'x' * 65536)"),
        hog("processes", "import os, time\nfor n in range(40):\n  if os.fork() == 0:\n    b = bytearray(b'x') * (4 << 20)\n    time.sleep(1000)\ntime.sleep(1000)"),
        hog("immune", "open('/proc/self/oom_score_adj', 'w').write('1000')\nb = []\nwhile True: b.append(bytearray(1 << 20))"),
        Evil::python("exempt", "try:\n  with open('/proc/self/oom_score_adj', 'w') as f: f.write('-1000')\nexcept PermissionError: print('refused')").prints("refused\n"),
        // Reserved is not used.
        Evil::python("reserves", "import mmap\nmmap.mmap(-1, 1 << 40, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000); print('kept')")
            .within(json!({"memory_mib": 48}))
            .prints("kept\n"),
        Evil::python("shm-is-new", "import os; print(os.listdir('/dev/shm'))").prints("[]\n"),
    ];
    in_arena("python", async |arena| drop(unleash(arena, &programs).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_is_filled_and_stays_usable() {
    let full = |name, code, cause| {
        Evil::python(name, code).within(json!({"disk_mib": 16, "files": 500})).gets(Verdict::DiskLimit, cause)
    };
    let programs = [
        full(
            "tmp",
            "f = open('/tmp/big', 'wb')\nwhile True: f.write(b'x' * 65536); f.flush()",
            Cause::Enospc,
        ),
        Evil::shell("clear", "rm -f /tmp/big; echo gone").prints("gone\n"),
        full("inodes", "n = 0\nwhile True: open(f'/tmp/f{n}', 'w').close(); n += 1", Cause::Files),
        Evil::shell("again", "find /tmp -type f -delete; echo gone").prints("gone\n"),
        full("dirs", "import os\nn = 0\nwhile True: os.mkdir(f'd{n}'); n += 1", Cause::Files),
    ];
    in_arena("python", async |arena| drop(unleash(arena, &programs).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_never_leave_the_tree() {
    let traps = "ln -s /etc/passwd passwd; ln -s /etc etc; ln -s /proc/1/mem mem; ln -s .. up; mkfifo fifo; mkdir real; \
                 echo kept > real/file; ln -s real alias; chmod 000 real/file; ln real/file real/hard; \
                 python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'";
    with_python(1, async |worker| {
        let job = json!({
            "runtime": "python", "stages": [{"name": "traps", "argv": ["sh", "-c", traps]}],
            "outputs": ["passwd", "etc/passwd", "mem", "up/etc/passwd", "fifo", "sock", "real/*", "alias/*", "**/shadow"],
        });
        let result = worker.run(&job).await.unwrap();
        assert_eq!(result.verdict, Some(Verdict::Accepted), "{result:#?}");
        let mut paths: Vec<_> = result.outputs.iter().map(|output| output.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["real/file", "real/hard"], "{result:#?}");
        let mut skipped: Vec<_> =
            result.skipped_outputs.iter().map(|skipped| (skipped.path.as_str(), skipped.reason)).collect();
        skipped.sort_by_key(|(path, _)| *path);
        let irregular = |path| (path, SkippedReason::NotRegular);
        assert_eq!(skipped, ["fifo", "mem", "passwd", "sock"].map(irregular));
    })
    .await;
}
