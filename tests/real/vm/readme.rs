//! What the README shows is true.

#![allow(clippy::disallowed_methods, reason = "whether there is time is told by the environment")]

use std::{collections::BTreeMap, fs};

use hearth_pool::runtime::Runtime;
use hearth_schemas::result::{JobResult, Verdict};
use hearth_tests::{real::Worker, workspace};

use crate::{evil, machine, room, stdout};

/// The first block of the README that begins with this line.
fn block(first_line: &str) -> String {
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    let begins = readme.find(&format!("\n{first_line}\n")).unwrap_or_else(|| panic!("no block {first_line}"));
    let block = &readme[begins + 1..];
    block[..block.find("```").unwrap()].to_owned()
}

#[test]
fn the_runtime_of_the_readme_is_valid() {
    let rust = Runtime::parse("rust.toml", &block("name = \"rust\"")).unwrap();
    assert!(rust.entry.compile.is_some() && !rust.warm_up.is_empty());
}

/// Installs a compiler from the mirror, which takes minutes: only where there is time.
#[tokio::test(flavor = "multi_thread")]
async fn the_runtime_of_the_readme_is_baked_and_runs() {
    if std::env::var_os("HEARTH_TEST_FULL").is_none() {
        eprintln!("SKIPPED: the bake of a runtime from the mirror; `make test-full` runs it");
        return;
    }
    let Some(machine) = machine() else { return };
    let _room = room().await;
    let run_dir = Worker::run_dir().unwrap();
    let runtimes = run_dir.path().join("runtimes");
    fs::create_dir(&runtimes).unwrap();
    fs::write(runtimes.join("rust.toml"), block("name = \"rust\"")).unwrap();
    let source = run_dir.path().join("main.rs");
    fs::write(
        &source,
        "fn main() { let v: Vec<u32> = (1..=6).collect(); println!(\"{}\", v.iter().product::<u32>()); }",
    )
    .unwrap();
    let hearth = |arguments: &[&str]| {
        let mut command = machine.command(run_dir.path());
        command.arg("--runtimes").arg(&runtimes).args(arguments).output().unwrap()
    };
    let bake = hearth(&["bake", "rust"]);
    assert!(bake.status.success(), "{}", String::from_utf8_lossy(&bake.stderr));
    let run =
        hearth(&["run", "--json", "--runtime", "rust", "--timeout-ms", "60000", source.to_str().unwrap()]);
    let result: JobResult = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(result.verdict, Some(Verdict::Accepted), "{result:#?}");
    assert_eq!(stdout(&result.stages.last().unwrap().run), "720\n");
}

/// Runs `env` in a VM and compares what it prints with the README; also the directory, the locale and the like.
async fn environment(runtime: &str, arena: &evil::Arena) {
    let round = arena.round().await;
    let env = round.exec(&evil::Evil::new("env", &["env"])).await;
    let lines = |text: &str| -> BTreeMap<String, String> {
        let pairs = text.lines().map(|line| line.split_once('=').unwrap());
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    assert_eq!(lines(&stdout(&env)), lines(&block("HOME=/work")), "{runtime}");
    let script = "pwd; id -u; id -g; umask; date +%Z; locale 2>/dev/null | grep LC_ALL; stat -c %U /work; test -w /tmp && echo writable; hostname >/dev/null && echo named";
    let seen = round.exec(&evil::Evil::shell("world", script)).await;
    assert_eq!(stdout(&seen), "/work\n10000\n10000\n0022\nUTC\nLC_ALL=\njob\nwritable\nnamed\n", "{runtime}");
    clocks(runtime, &round).await;
    round.end().await;
}

/// The guest's wall clock lies between the host's before and after, give or take a second; it goes as fast as the
/// monotonic one, which has not counted the time that the snapshot lay on the disk.
async fn clocks(runtime: &str, round: &evil::Round<'_>) {
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let sample = "date +%s.%N; cut -d' ' -f1 /proc/uptime; sleep 1; date +%s.%N; cut -d' ' -f1 /proc/uptime";
    let before = now();
    let report = round.exec(&evil::Evil::shell("clocks", sample)).await;
    let after = now();
    let numbers: Vec<f64> = stdout(&report).lines().map(|line| line.parse().unwrap()).collect();
    let [wall, uptime, wall_later, uptime_later] = numbers[..] else { panic!("{numbers:?}") };
    assert!(
        (before - 1.0..=after + 1.0).contains(&wall),
        "{runtime}: {wall} is not from {before} to {after}"
    );
    assert!(
        uptime < 3600.0,
        "{runtime}: up {uptime} s: the bake's own minutes and the VM's, not the snapshot's age"
    );
    let (wall, monotonic) = (wall_later - wall, uptime_later - uptime);
    assert!(wall >= 1.0 && monotonic >= 0.99, "{runtime}: a second of sleep took {wall} and {monotonic}");
    assert!((wall - monotonic).abs() < 1.0, "{runtime}: the wall clock was stepped: {wall} and {monotonic}");
    let (one, began) = (round.session().ping(std::time::Duration::from_secs(60)).await.unwrap(), now());
    let report = round.exec(&evil::Evil::shell("wait", "sleep 1")).await;
    assert_eq!(report.verdict, Verdict::Accepted);
    let (took, two) =
        (now() - began, round.session().ping(std::time::Duration::from_secs(60)).await.unwrap());
    let guest = (two.monotonic_ns - one.monotonic_ns) as f64 / 1e9;
    assert!((0.9..=took + 10.0).contains(&guest), "{runtime}: {guest} s in the guest, {took} s here");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_world_is_the_same_in_python() {
    evil::in_arena("python", async |arena| environment("python", arena).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_world_is_the_same_in_gcc() {
    evil::in_arena("gcc", async |arena| environment("gcc", arena).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_world_is_the_same_in_node() {
    evil::in_arena("node", async |arena| environment("node", arena).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_world_is_the_same_in_bash() {
    evil::in_arena("bash", async |arena| environment("bash", arena).await).await;
}
