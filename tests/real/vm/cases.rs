//! Stages with cases, in real VMs.

use hearth_schemas::result::{Cause, JobResult, Status, Verdict};
use serde_json::{Value, json};

use crate::with_runtime;

/// Verdict, cause and message of each case of a stage.
fn cases(result: &JobResult, stage: usize) -> Vec<(Verdict, Option<Cause>, &str)> {
    assert_eq!(result.status, Status::Finished, "{result:#?}");
    let cases = result.stages[stage].cases.iter();
    cases.map(|case| (case.run.verdict, case.run.cause, case.run.message.as_deref().unwrap_or(""))).collect()
}

/// Reads numbers and prints their sum, or does what its argument says.
const SUM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "crash")) abort();
    if (argc > 1 && !strcmp(argv[1], "hog")) for (;;) memset(malloc(1 << 20), 1, 1 << 20);
    if (argc > 1 && !strcmp(argv[1], "loop")) for (;;) ;
    if (argc > 1 && !strcmp(argv[1], "write")) for (;;) puts("and so on");
    double x, sum = 0;
    while (scanf("%lf", &x) == 1) sum += x;
    printf("%g\n", sum);
    return argc > 1 ? atoi(argv[1]) : 0;
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn output_beyond_its_limit_is_told_however_soon_its_command_ends() {
    with_runtime("bash", 1, async |worker| {
        // All of it fits the pipe, so the command has ended before anybody reads.
        let job = json!({
            "runtime": "bash",
            "stages": [{"name": "run", "argv": ["/bin/echo"], "limits": {"output_kib": 1}, "cases": [
                {"name": "short", "argv_extra": ["x"]},
                {"name": "long", "argv_extra": ["x".repeat(2000)]},
                {"name": "again", "argv_extra": ["x".repeat(2000)]},
            ]}],
        });
        let result = worker.run(&job).await.unwrap();
        let over = (Verdict::OutputLimit, Some(Cause::Stdout), "");
        assert_eq!(cases(&result, 0), [(Verdict::Accepted, None, ""), over, over]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compiled_once_and_run_many_times_with_every_kind_of_match() {
    with_runtime("gcc", 1, async |worker| {
        let case = |name: &str, stdin: &str, how: Value, stdout: &str| {
            json!({"name": name, "stdin": stdin, "expect": {"stdout": stdout, "match": how}})
        };
        let with = |argument: &str| json!({"name": argument, "stdin": "1", "argv_extra": [argument], "expect": {"stdout": "1\n"}});
        let job = json!({
            "runtime": "gcc",
            "files": [{"path": "sum.c", "text": SUM}],
            "stages": [
                {"name": "compile", "argv": ["gcc", "-O1", "-o", "sum", "sum.c"], "limits": {"wall_ms": 60_000}},
                {"name": "run", "argv": ["./sum"], "continue_on_failure": true,
                 "limits": {"wall_ms": 30_000, "cpu_ms": 5000, "memory_mib": 16, "output_kib": 64},
                 "cases": [
                    case("exact", "1 2", json!("exact"), "3\n"),
                    case("strict", "1 2", json!("exact"), "3"),
                    case("trim", "1 2", json!("trim"), "3"),
                    case("tokens", "4", json!("tokens"), " 4 "),
                    case("wrong", "4", json!("tokens"), "5"),
                    case("near", "0.1 0.2", json!({"float": {"abs": 0.01}}), "0.305"),
                    case("far", "0.1 0.2", json!({"float": {"rel": 0.01}}), "0.31"),
                    case("any", "1", json!("none"), ""),
                    with("7"), with("crash"), with("loop"), with("hog"), with("write"),
                 ]},
                {"name": "after", "argv": ["./sum"], "stdin": "20 22"},
            ],
        });
        let result = worker.run(&job).await.unwrap();
        let wrong = (Verdict::WrongAnswer, Some(Cause::Mismatch));
        let accepted = (Verdict::Accepted, None, "");
        assert_eq!(
            cases(&result, 1),
            [
                accepted,
                (wrong.0, wrong.1, "line 1, column 2: expected the end, got \"3\\n\""),
                accepted,
                accepted,
                (wrong.0, wrong.1, "line 1, token 1: expected \"5\", got \"4\""),
                accepted,
                (wrong.0, wrong.1, "line 1, token 1: expected \"0.31\", got \"0.3\""),
                accepted,
                (Verdict::NonzeroExit, None, ""),
                (Verdict::Signalled, None, ""),
                (Verdict::TimeLimit, Some(Cause::Cpu), ""),
                (Verdict::MemoryLimit, Some(Cause::Oom), ""),
                (Verdict::OutputLimit, Some(Cause::Stdout), ""),
            ]
        );
        assert_eq!((result.verdict, result.stages[1].run.cause), (Some(wrong.0), wrong.1));
        assert_eq!(crate::stdout(&result.stages[2].run), "42\n");
        for case in &result.stages[1].cases {
            let usage = case.run.usage.unwrap();
            assert!(usage.wall_ms.as_micros() > 0 && usage.memory_peak_bytes.unwrap() > 0, "{}", case.name);
        }
    })
    .await;
}

/// A directory among the outputs is all that is in it.
#[tokio::test(flavor = "multi_thread")]
async fn an_output_may_be_a_directory() {
    crate::with_python(1, async |worker| {
        let script = "mkdir -p plots/more empty other; echo 1 > plots/a; echo 2 > plots/more/b; ln -s /etc plots/etc; echo 3 > other/c; echo 4 > file";
        let job = json!({
            "runtime": "python", "stages": [{"name": "run", "argv": ["sh", "-c", script]}],
            "outputs": ["plots", "other/", "file", "empty/", "none", "file/"],
        });
        let result = worker.run(&job).await.unwrap();
        assert_eq!(result.verdict, Some(Verdict::Accepted), "{result:#?}");
        let mut paths: Vec<_> = result.outputs.iter().map(|output| output.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["file", "other/c", "plots/a", "plots/more/b"]);
        assert_eq!(result.missing_outputs, ["empty/", "none", "file/"]);
        let skipped: Vec<_> = result.skipped_outputs.iter().map(|skipped| skipped.path.as_str()).collect();
        assert_eq!(skipped, ["plots/etc"], "no link is followed");
    })
    .await;
}

/// Prints what it finds of others, and leaves whatever one argument names.
const LEAVER: &str = r#"
import ctypes, os, subprocess, sys
what = sys.argv[1]
libc = ctypes.CDLL(None)
def look():
    found = []
    for top in ["/work", "/tmp", "/dev/shm"]:
        for path, dirs, files in os.walk(top):
            found += [os.path.join(path, name) for name in dirs + files]
    pids = [p for p in os.listdir("/proc") if p.isdigit()]
    shm = len(open("/proc/sysvipc/shm").readlines()) + len(open("/proc/sysvipc/sem").readlines()) - 2
    state = os.stat("/work/in/data").st_mode & 0o777, open("/work/in/data").read(), os.stat("/work").st_mode & 0o777
    return sorted(found), pids, shm, state
expected = (["/work/in", "/work/in/data", "/work/leaver.py"], [str(os.getpid())], 0, (0o644, "input", 0o755))
print("clean" if look() == expected and os.getpid() == 2 else look())
if what == "files":
    for place in ["/work/new", "/tmp/new", "/dev/shm/new"]: open(place, "w").write("secret")
    os.makedirs("/work/a/b/c"); os.symlink("/etc", "/work/link"); os.mkfifo("/tmp/fifo")
elif what == "inputs":
    os.chmod("/work/in/data", 0o600); open("/work/in/data", "a").write("changed"); os.chmod("/work", 0o777)
elif what == "removed":
    os.remove("/work/in/data"); os.rmdir("/work/in"); os.rename("/work/leaver.py", "/work/other.py")
elif what == "memory":
    assert libc.shmget(77, 1 << 20, 0o1600) >= 0 and libc.semget(77, 1, 0o1600) >= 0 and libc.msgget(77, 0o1600) >= 0
elif what == "processes":
    for command in [["sleep", "1000"], ["setsid", "sleep", "1000"], ["sh", "-c", "(setsid sleep 1000 &) & sleep 1000"]]:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
elif what == "disk":
    try:
        with open("/work/big", "wb", buffering=0) as big:
            while True: big.write(bytes(1 << 20))
    except OSError: pass
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_case_sees_nothing_of_the_one_before() {
    crate::with_python(1, async |worker| {
        let leaves = ["files", "inputs", "removed", "memory", "processes", "disk"];
        let case = |name: String, what: &str| json!({"name": name, "argv_extra": [what], "expect": {"stdout": "clean\n"}});
        let pairs = leaves.iter().flat_map(|what| [case((*what).to_owned(), what), case(format!("after-{what}"), "nothing")]);
        let job = json!({
            "runtime": "python",
            "files": [{"path": "leaver.py", "text": LEAVER}, {"path": "in/data", "text": "input"}],
            "stages": [
                {"name": "run", "argv": ["python3", "leaver.py"], "cases": pairs.collect::<Vec<_>>(), "continue_on_failure": true,
                 "limits": {"wall_ms": 40_000, "disk_mib": 16, "files": 64}},
                {"name": "after", "argv": ["python3", "leaver.py", "nothing"]},
            ],
            "outputs": ["**"],
        });
        let result = worker.run(&job).await.unwrap();
        let accepted = (Verdict::Accepted, None, "");
        for (case, what) in cases(&result, 0).chunks(2).zip(leaves) {
            let first = if what == "disk" { (Verdict::DiskLimit, Some(Cause::Enospc), "") } else { accepted };
            assert_eq!(case, [first, accepted], "{what}: {:#?}", result.stages[0]);
        }
        assert_eq!(crate::stdout(&result.stages[1].run), "clean\n", "nor does a later stage");
        let outputs: Vec<_> = result.outputs.iter().map(|output| output.path.as_str()).collect();
        assert_eq!(outputs, ["in/data", "leaver.py"], "nor the outputs");
    })
    .await;
}

/// Accepts what is twice the input, looks for what it must and must not find, or fails as its first argument says.
const CHECKER: &str = r#"
import os, sys
how, given, output, answer = sys.argv[1:]
read = lambda path: open(path).read()
if how == "exit": sys.exit(7)
if how == "loop":
    while True: pass
assert read(answer) == "the answer" and not os.path.exists("left-by-case"), "not a fresh copy"
for path in sys.argv[2:]:
    try: open(path, "a"); sys.exit("could write " + path)
    except OSError: pass
open("left-by-checker", "w").write(read(answer))
if how == "long": sys.exit(len(read(output)) != 3_000_000)
if int(read(output)) != 2 * int(read(given)): sys.exit("twice %s is not %s" % (read(given), read(output)))
"#;

/// Doubles its input, after it has looked everywhere for what only a checker may see.
const DOUBLE: &str = r#"
import os, sys
if len(sys.argv) > 1: print("x" * 3_000_000, end=""); sys.exit()
assert not os.path.exists("left-by-checker") and os.listdir("/mnt") == [], os.listdir("/mnt")
open("left-by-case", "w")
for top in ["/mnt", "/run", "/scratch", "/tmp", "/work", "/dev", "/proc/1", "/proc/self", "/sys"]:
    for path, dirs, files in os.walk(top):
        for name in files:
            full = os.path.join(path, name)
            if name in ("main.py", "check.py") or not os.path.isfile(full): continue
            try: found = b"the " + b"answer" in open(full, "rb").read(1 << 16)
            except OSError: continue
            assert not found, full
print(2 * int(input()))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_checker_decides_and_nobody_else_sees_its_files() {
    crate::with_python(1, async |worker| {
        let case = |name: &str, how: &str, extra: &[&str]| {
            json!({"name": name, "stdin": "21", "argv_extra": extra, "expect": {
                "stdout": "the answer", "match": {"checker": {"argv": ["python3", "check.py", how]}}}})
        };
        let job = json!({
            "runtime": "python",
            "files": [{"path": "main.py", "text": DOUBLE}, {"path": "check.py", "text": CHECKER}],
            "stages": [{"name": "run", "argv": ["python3", "main.py"], "continue_on_failure": true,
                "limits": {"wall_ms": 40_000, "cpu_ms": 15_000, "output_kib": 4096},
                "cases": [
                    case("right", "twice", &[]),
                    case("again", "twice", &[]),
                    case("long", "long", &["long"]),
                    case("no-number", "twice", &["long"]),
                    case("exits", "exit", &[]),
                    case("loops", "loop", &[]),
                ]},
                {"name": "after", "argv": ["python3", "main.py"], "stdin": "4"}],
            "outputs": ["**"],
        });
        let result = worker.run(&job).await.unwrap();
        let cases = cases(&result, 0);
        let accepted = (Verdict::Accepted, None, "");
        assert_eq!(cases[..3], [accepted; 3], "{:#?}", result.stages[0]);
        let (verdict, cause, said) = cases[3];
        assert_eq!((verdict, cause), (Verdict::WrongAnswer, Some(Cause::Checker)));
        assert!(said.contains("ValueError"), "{said}");
        let failed = (Verdict::FileError, Some(Cause::CheckerFailed));
        assert_eq!(cases[4], (failed.0, failed.1, "the checker exited with 7: "));
        assert_eq!(cases[5], (failed.0, failed.1, "the checker ran into its time_limit"));
        assert_eq!(crate::stdout(&result.stages[1].run), "8\n");
        let outputs: Vec<_> = result.outputs.iter().map(|output| output.path.as_str()).collect();
        assert_eq!(outputs, ["check.py", "left-by-case", "main.py"]);
    })
    .await;
}
