//! Programs that multiply, and programs that will not end.

use hearth_schemas::result::{Cause, Verdict};
use serde_json::json;

use super::{Evil, in_arena, unleash};

#[tokio::test(flavor = "multi_thread")]
async fn bombs_are_stopped_however_they_fork() {
    let bomb = |name, code| {
        Evil::python(name, code).within(json!({"processes": 24})).gets(Verdict::ProcessLimit, Cause::Pids)
    };
    let programs = [
        bomb("fork", "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"),
        bomb(
            "fork-setsid",
            "import os\nwhile True:\n  try:\n    if os.fork() == 0: os.setsid()\n  except OSError: pass",
        ),
        bomb(
            "double-fork",
            "import os\nwhile True:\n  try:\n    if os.fork() == 0:\n      if os.fork(): os._exit(0)\n  except OSError: pass",
        ),
        bomb(
            "threads",
            "import threading, time\nwhile True:\n  try: threading.Thread(target=time.sleep, args=(1000,)).start()\n  except RuntimeError: pass",
        ),
        Evil::shell("shell", "b() { b | b & }; b; sleep 1000")
            .within(json!({"processes": 24}))
            .gets(Verdict::ProcessLimit, Cause::Pids),
        // As many as are allowed, to the last one: the init is not one of them.
        Evil::shell("four-of-four", "sleep 0.1 & sleep 0.1 & sleep 0.1 & wait; echo all")
            .within(json!({"processes": 4}))
            .prints("all\n"),
        Evil::shell("five-of-four", "sleep 9 & sleep 9 & sleep 9 & sleep 9 & wait")
            .within(json!({"processes": 4}))
            .gets(Verdict::ProcessLimit, Cause::Pids),
        Evil::shell("one-of-one", "echo alone").within(json!({"processes": 1})).prints("alone\n"),
    ];
    in_arena("python", async |arena| {
        let reports = unleash(arena, &programs).await;
        let peak = |name: &str| {
            let at = programs.iter().position(|program| program.name == name).unwrap();
            reports[at].usage.as_ref().unwrap().processes_peak.unwrap()
        };
        assert_eq!((peak("four-of-four"), peak("one-of-one")), (4, 1));
        assert!(peak("fork") <= 24);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_will_not_end_is_ended() {
    let idle = |name, script| {
        Evil::shell(name, script).within(json!({"wall_ms": 5000})).gets(Verdict::TimeLimit, Cause::Idle)
    };
    let programs = [
        idle("deaf", "trap '' HUP INT QUIT TERM USR1 USR2 ALRM PIPE CHLD; sleep 1000"),
        idle("stops-itself", "kill -STOP $$"),
        idle("stops-its-group", "kill -STOP 0"),
        Evil::shell("spins", "trap '' TERM INT HUP; while :; do :; done")
            .within(json!({"cpu_ms": 1000}))
            .gets(Verdict::TimeLimit, Cause::Cpu),
        Evil::shell("many-spin", "for i in 1 2 3 4; do (setsid sh -c 'while :; do :; done' &); done; sleep 1000")
            .within(json!({"cpu_ms": 1000}))
            .gets(Verdict::TimeLimit, Cause::Cpu),
        Evil::shell("leaves-a-daemon", "(setsid sh -c 'trap \"\" TERM HUP; sleep 1000' </dev/null >/dev/null 2>&1 &); exit 5").exits(5),
        Evil::shell("leaves-a-writer", "(setsid sh -c 'while :; do echo; sleep 0.05; done' >/tmp/noise &); exit 6").exits(6),
        Evil::shell("leaves-its-stdout-open", "sleep 1000 & exit 7").exits(7),
        // PID 1 is the agent's, and another user's.
        Evil::python(
            "stops-its-parent",
            "import os, signal\nfor s in (signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM):\n  try: os.kill(os.getppid(), s); print('sent')\n  except PermissionError: print('refused')",
        )
        .prints("refused\nrefused\nrefused\n"),
        Evil::shell("kills-all", "sleep 1000 & kill -9 -1; echo alone").prints("alone\n"),
        Evil::shell("kills-its-group", "kill -9 0").dies_of(9),
        Evil::python("hangs-up", "import os\nfor fd in range(100):\n  try: os.close(fd)\n  except OSError: pass\nos._exit(8)").exits(8),
    ];
    in_arena("python", async |arena| drop(unleash(arena, &programs).await)).await;
}
