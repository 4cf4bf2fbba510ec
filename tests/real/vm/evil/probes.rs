//! What a job sees of its machine, what it is refused, and that ordinary programs notice nothing of that.

use std::collections::BTreeMap;

use hearth_schemas::result::Verdict;
use hearth_tests::real::Worker;
use serde_json::{Value, json};

use super::{Evil, in_arena, unleash};
use crate::{machine, only, room, stdout, with_python};

/// Names in `found` with what must have come of them, where that is not EPERM.
const REFUSED: [(&str, &str); 8] = [
    ("clone3", "ENOSYS"),
    ("io_uring_setup", "ENOSYS"),
    ("io_uring_enter", "ENOSYS"),
    ("no_such_call", "ENOSYS"),
    ("netlink", "EAFNOSUPPORT"),
    ("packet", "EAFNOSUPPORT"),
    ("vsock", "EAFNOSUPPORT"),
    ("vsock_pair", "EAFNOSUPPORT"),
];

fn expected(name: &str) -> &'static [&'static str] {
    if let Some((_, error)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return std::slice::from_ref(error);
    }
    match name.split_once('_') {
        _ if ["family_1", "pair"].contains(&name) => &["worked"],
        Some(("family", _)) => &["EAFNOSUPPORT"],
        Some(("dev", _)) => &["ENOENT"],
        Some(("write", path)) if path.starts_with("/proc/1/") => &["ENOENT"],
        Some(("write", path)) if path.starts_with("/proc/") => &["EACCES", "EPERM"],
        Some(("write", _)) => &["EROFS", "EACCES", "ENOENT"],
        Some(("read", "/proc/kcore" | "/proc/kmsg" | "/etc/shadow")) => &["EACCES", "EPERM", "ENOENT"],
        Some(("read", _)) => &["ENOENT"],
        _ => &["EPERM"],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_refused_what_it_has_no_business_with() {
    with_python(1, async |worker| {
        let job = json!({"runtime": "python", "code": include_str!("probe.py")});
        let result = worker.run(&job).await.unwrap();
        assert_eq!(result.verdict, Some(Verdict::Accepted), "{result:#?}");
        let found: BTreeMap<String, Value> = serde_json::from_str(&stdout(only(&result))).unwrap();
        let wrong: Vec<_> = found
            .iter()
            .filter_map(|(name, outcome)| Some((name, outcome.as_str()?)))
            .filter(|(name, outcome)| *name != "cwd" && !expected(name).contains(outcome))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        let none = "0000000000000000";
        let status = json!({
            "CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
            "NoNewPrivs": "1", "Seccomp": "2", "NSpid": "2",
        });
        let dev = ["fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"];
        for (name, expected) in [
            ("status", status),
            ("dev", json!(dev)),
            ("listed", json!({"/sys": [], "/run": [], "/scratch": [], "/dev/shm": []})),
            ("processes", json!(["2"])),
            ("interfaces", json!(["lo"])),
            ("fds", json!(["0", "1", "2"])),
            ("cwd", json!("/work")),
            ("writable", json!(["/dev/shm", "/tmp", "/work"])),
        ] {
            assert_eq!(found[name], expected, "{name}");
        }
    })
    .await;
}

/// Puts x86 machine code into executable memory and calls it.
fn machine_code(bytes: &str) -> String {
    format!(
        "import ctypes, mmap\ncode = bytes.fromhex('{bytes}')\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(code)\n\
         at = ctypes.addressof(ctypes.c_char.from_buffer(m))\nprint(ctypes.CFUNCTYPE(ctypes.c_long)(at)(), flush=True)"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_abis_end_the_program() {
    let programs = [
        // mov eax, 39; syscall; ret: getpid, to show that the code is run.
        Evil::python("own", &machine_code("b8270000000f05c3")).prints("2\n"),
        // mov eax, 20; int 0x80; ret: getpid of i386.
        Evil::python("i386", &machine_code("b814000000cd80c3")).dies_of(31),
        // mov eax, 0x40000027; syscall; ret: getpid of x32.
        Evil::python("x32", &machine_code("b8270000400f05c3")).dies_of(31),
    ];
    in_arena("python", async |arena| drop(unleash(arena, &programs).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_programs_notice_nothing() {
    let programs = [
        Evil::python("threads", "import threading\nt = [threading.Thread(target=print, args=(n,)) for n in range(3)]\nfor x in t: x.start(); x.join()").prints("0\n1\n2\n"),
        Evil::python("processes", "import multiprocessing\nwith multiprocessing.Pool(2) as p: print(p.map(abs, [-1, -2]))").prints("[1, 2]\n"),
        Evil::python("subprocess", "import subprocess; print(subprocess.check_output(['echo', 'x']))").prints("b'x\\n'\n"),
        Evil::python("numpy", "import numpy; a = numpy.ones((200, 200)); print(int((a @ a).sum()))").prints("8000000\n"),
        Evil::python("asyncio", "import asyncio\nasync def f(): await asyncio.sleep(0.01); print('slept')\nasyncio.run(f())").prints("slept\n"),
        Evil::python("opens-stdin", "print(open('/dev/stdin').read())").reads("fed").prints("fed\n"),
        Evil::shell("opens-stdout", "echo out > /dev/stdout; echo err > /dev/stderr; cat < /dev/stdin > /dev/null").reads("x").prints("out\n"),
        Evil::shell("no-stdin", "cat /dev/stdin; echo end").prints("end\n"),
        Evil::shell("dev", "head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; echo > /dev/null; ls /dev/fd/0").prints("3\n3\n/dev/fd/0\n"),
        Evil::shell("cwd", "mkdir -p in && cd in && pwd && cd .. && pwd").prints("/work/in\n/work\n"),
        Evil::shell("sees-itself", "ps_self=$(cat /proc/$$/comm); echo $ps_self $$").prints("sh 2\n"),
    ];
    in_arena("python", async |arena| drop(unleash(arena, &programs).await)).await;
}

const GCC: &str = r#"
#include <pthread.h>
#include <stdio.h>
static void *add(void *n) { *(int *)n += 1; return 0; }
int main(void) {
    int n; pthread_t thread;
    if (!freopen("/dev/stdin", "r", stdin) || scanf("%d", &n) != 1) return 3;
    if (pthread_create(&thread, 0, add, &n) || pthread_join(thread, 0)) return 4;
    printf("%d\n", n);
}"#;
const NODE: &str = "const {Worker} = require('worker_threads'); \
    const n = Number(require('fs').readFileSync('/dev/stdin')); \
    new Worker(`require('worker_threads').parentPort.postMessage(${n} + 1)`, {eval: true}).on('message', console.log)";

#[tokio::test(flavor = "multi_thread")]
async fn other_runtimes_notice_nothing_either() {
    let Some(machine) = machine() else { return };
    let _room = room().await;
    let gcc = json!([
        {"name": "compile", "argv": ["gcc", "-O1", "-pthread", "main.c", "-o", "main"]},
        {"name": "run", "argv": ["./main"], "stdin": "41"},
    ]);
    let node = json!([{"name": "run", "argv": ["node", "-e", NODE], "stdin": "41"}]);
    let files = json!([{"path": "main.c", "text": GCC}]);
    for (runtime, stages, files) in [("gcc", gcc, files), ("node", node, json!([]))] {
        let worker = Worker::open(machine, &[(runtime, 1)]).await.unwrap();
        let job = json!({"runtime": runtime, "stages": stages, "files": files, "limits": {"wall_ms": 60_000, "cpu_ms": 60_000}});
        let result = worker.run(&job).await.unwrap();
        assert_eq!(result.verdict, Some(Verdict::Accepted), "{result:#?}");
        assert_eq!(stdout(&result.stages.last().unwrap().run), "42\n");
        worker.close().await.unwrap();
    }
}
