//! Exit codes and signals come out as the kernel gave them, through the init that stands between.

use hearth_schemas::result::Verdict;

use super::{Evil, in_arena, unleash};

/// Each signal that ends a process which does not handle it (signal(7)), the first and the last real-time one too.
const FATAL: [i32; 26] =
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 24, 25, 26, 27, 29, 30, 31, 34, 50, 64];

#[tokio::test(flavor = "multi_thread")]
async fn every_fatal_signal_is_told() {
    let to_itself =
        |signal: &i32| Evil::shell("signal", &format!("kill -{signal} $$; sleep 100")).dies_of(*signal);
    let programs: Vec<_> = FATAL.iter().map(to_itself).collect();
    in_arena("python", async |arena| drop(unleash(arena, &programs).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_exit_code_passes_unchanged() {
    let programs: Vec<_> =
        (0..=255).map(|code| Evil::shell("code", &format!("exit {code}")).exits(code)).collect();
    in_arena("bash", async |arena| drop(unleash(arena, &programs).await)).await;
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
    in_arena("python", async |arena| drop(unleash(arena, &programs).await)).await;
}
