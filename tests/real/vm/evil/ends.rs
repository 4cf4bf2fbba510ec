//! Exit codes and signals come out as the kernel gave them, through the init that stands between.

use hearth_schemas::result::Verdict;

use super::{Evil, unleash};
use crate::with_python;

/// Each signal that ends a process which does not handle it (signal(7)), the first and the last real-time one too.
const FATAL: [i32; 26] =
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 24, 25, 26, 27, 29, 30, 31, 34, 50, 64];
/// At most this many stages beside the harmless one.
const STAGES: usize = 15;

#[tokio::test(flavor = "multi_thread")]
async fn every_fatal_signal_is_told() {
    let dash = |signal: &i32| {
        let code = format!("import os; os.kill(os.getpid(), {signal}); import time; time.sleep(100)");
        Evil::new("signal", &["python3", "-S", "-E", "-c", &code]).dies_of(*signal)
    };
    // Python ignores SIGPIPE and SIGXFSZ, and handles SIGINT.
    let shell =
        |signal: &i32| Evil::shell("signal", &format!("kill -{signal} $$; sleep 100")).dies_of(*signal);
    with_python(1, async |worker| {
        for signals in FATAL.chunks(STAGES) {
            let one = |signal: &i32| if [2, 13, 25].contains(signal) { shell(signal) } else { dash(signal) };
            unleash(worker, &numbered(signals.iter().map(one))).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_pass_unchanged() {
    let codes = [0, 1, 2, 9, 42, 99, 126, 127, 128, 137, 139, 143, 254, 255];
    let exits = codes.iter().map(|code| Evil::shell("code", &format!("exit {code}")).exits(*code));
    with_python(1, async |worker| drop(unleash(worker, &numbered(exits)).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_a_signal() {
    let programs = [
        Evil::python("null", "import ctypes; ctypes.string_at(0)").dies_of(11),
        Evil::python("abort", "import os; os.abort()").dies_of(6),
        Evil::python(
            "recursion",
            "import ctypes, sys\nF = ctypes.CFUNCTYPE(None)\nsys.setrecursionlimit(10**9)\ndef f(): g()\ng = F(f)\nf()",
        )
        .dies_of(11),
        Evil::python("raises", "raise SystemExit('no')").gets(Verdict::NonzeroExit, None).exits(1),
    ];
    with_python(1, async |worker| drop(unleash(worker, &programs).await)).await;
}

/// Names of stages must differ.
fn numbered(programs: impl Iterator<Item = Evil>) -> Vec<Evil> {
    const NAMES: [&str; STAGES] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o"];
    programs.zip(NAMES).map(|(program, name)| Evil { name, ..program }).collect()
}
