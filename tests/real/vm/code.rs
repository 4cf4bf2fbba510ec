//! The shorthand in each runtime: what is compiled, what is not, and what goes wrong.

use hearth_schemas::result::{JobResult, Verdict};
use hearth_tests::real::Worker;
use serde_json::{Value, json};

use crate::{machine, room, stdout};

async fn run(worker: &Worker, job: Value) -> JobResult {
    worker.run(&job).await.unwrap()
}

/// Name and verdict of each stage.
fn stages(result: &JobResult) -> Vec<(&str, Verdict)> {
    result.stages.iter().map(|stage| (stage.name.as_str(), stage.run.verdict)).collect()
}

fn printed(result: &JobResult) -> String {
    stdout(&result.stages.last().unwrap().run)
}

const C: &str = "#include <math.h>\n#include <stdio.h>\nint main(void) { double x; scanf(\"%lf\", &x); printf(\"%.3f\\n\", sqrt(2)); }";
const CPP: &str = "#include <iostream>\n#include <map>\n#include <string>\n\
    int main() { std::map<std::string, int> m{{\"a\", 42}}; for (auto& [k, v] : m) std::cout << k << v << std::endl; }";

#[tokio::test(flavor = "multi_thread")]
async fn code_in_c_and_cpp_is_compiled_and_run() {
    let Some(machine) = machine() else { return };
    let _room = room().await;
    let worker = Worker::open(machine, &[("gcc", 1)]).await.unwrap();
    let limits = json!({"wall_ms": 20_000, "cpu_ms": 1000, "memory_mib": 16, "processes": 1});
    let c = run(&worker, json!({"runtime": "gcc", "code": C, "limits": limits})).await;
    assert_eq!(stages(&c), [("compile", Verdict::Accepted), ("run", Verdict::Accepted)], "{c:#?}");
    assert_eq!(printed(&c), "1.414\n");
    let cpp = run(&worker, json!({"runtime": "gcc", "language": "cpp", "code": CPP, "limits": limits})).await;
    assert_eq!(stages(&cpp), [("compile", Verdict::Accepted), ("run", Verdict::Accepted)], "{cpp:#?}");
    assert_eq!(printed(&cpp), "a42\n");

    for (language, code, says) in [
        ("c", "int main(void) { return x; }", "'x' undeclared"),
        ("cpp", CPP.trim_end_matches('}'), "expected '}'"),
    ] {
        let broken = run(&worker, json!({"runtime": "gcc", "language": language, "code": code})).await;
        assert_eq!(
            stages(&broken),
            [("compile", Verdict::NonzeroExit), ("run", Verdict::Skipped)],
            "{broken:#?}"
        );
        assert_eq!((broken.verdict, broken.stages[0].run.exit_code), (Some(Verdict::NonzeroExit), Some(1)));
        let diagnostics = broken.stages[0].run.stderr.content.decode().unwrap();
        let diagnostics = String::from_utf8(diagnostics).unwrap().replace(['\u{2018}', '\u{2019}'], "'");
        assert!(
            diagnostics.contains(&format!("main.{language}:")) && diagnostics.contains(says),
            "{diagnostics}"
        );
    }
    let wrong = run(&worker, json!({"runtime": "gcc", "code": "int main(void) { return 3; }"})).await;
    assert_eq!(stages(&wrong), [("compile", Verdict::Accepted), ("run", Verdict::NonzeroExit)]);
    assert_eq!(wrong.stages[1].run.exit_code, Some(3));
    worker.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hearth_run_knows_a_language_by_its_extension() {
    let Some(machine) = machine() else { return };
    let _room = room().await;
    let run_dir = Worker::run_dir().unwrap();
    for (runtime, file, code) in [
        ("gcc", "prog.c", "#include <stdio.h>\nint main(void) { puts(\"prog.c\"); }"),
        ("gcc", "prog.cpp", "#include <iostream>\nint main() { std::cout << \"prog.cpp\\n\"; }"),
        ("node", "prog.js", "console.log('prog.js')"),
        ("bash", "prog.sh", "[[ a < b ]] && echo prog.sh"),
        ("python", "prog.py", "import numpy\nprint('prog.py' * int(numpy.ones(1)[0]))"),
    ] {
        machine.baked(runtime).unwrap();
        let path = run_dir.path().join(file);
        std::fs::write(&path, code).unwrap();
        let path = path.to_str().unwrap();
        let output = machine
            .command(run_dir.path())
            .args(["run", "--json", "--timeout-ms", "60000", path])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let result: JobResult =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
        assert_eq!((output.status.code(), printed(&result)), (Some(0), format!("{file}\n")), "{result:#?}");
    }
}
