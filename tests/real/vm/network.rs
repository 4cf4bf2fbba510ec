//! Jobs with a network, by the `hearth` command. The host that it sees and the world beyond are namespaces.

use std::process::Command;

use hearth_schemas::result::{JobResult, Verdict};
use hearth_tests::real::{Machine, Worker};
use serde_json::{Value, json};

use crate::{machine, only, room, stdout, world::World};

const PUBLIC: &str = "93.184.216.34";
const METADATA: &str = "169.254.169.254";

/// What a job prints: `reached` or `not`, for each place.
const REACH: &str = "for to in \"$@\"; do \
    if (exec 3<>/dev/tcp/$to && echo hi >&3 && read -t 30 line <&3 && [ \"$line\" = hi ]) 2>/dev/null; \
    then echo reached; else echo not; fi; done";

/// Runs `hearth` on the host of this world, which asks the world's own name server.
fn hearth(machine: &Machine, world: &World, run_dir: &std::path::Path, arguments: &[&str]) -> Command {
    let resolv_conf = run_dir.join("resolv.conf");
    std::fs::write(&resolv_conf, format!("nameserver {}\n", world.server().ip())).unwrap();
    let hearth = machine.command(run_dir);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\""]);
    command.arg(resolv_conf).arg(hearth.get_program()).args(hearth.get_args()).args(arguments);
    for (name, value) in hearth.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

fn job(network: &Value, places: &[&str]) -> Value {
    let mut argv = vec!["bash", "-c", REACH, "reach"];
    argv.extend(places);
    json!({"runtime": "bash", "network": network, "limits": {"wall_ms": 300_000},
           "stages": [{"name": "run", "argv": argv}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_reaches_what_it_names_and_nothing_else() {
    let Some(machine) = machine() else { return };
    if !crate::world::usable() {
        return;
    }
    let _room = room().await;
    let run_dir = Worker::run_dir().unwrap();
    let world = World::make(&[PUBLIC, METADATA], &[80, 81]).await;
    world.name("api.example.com", &[PUBLIC], 60);
    let run = |arguments: &[&str]| {
        let mut command = hearth(machine, &world, run_dir.path(), arguments);
        world.host.run(move || command.output()).unwrap()
    };
    let baked = run(&["bake", "bash", "bash+net"]);
    assert!(baked.status.success(), "{}", String::from_utf8_lossy(&baked.stderr));

    let file = run_dir.path().join("job.json");
    let result = |job: &Value| -> JobResult {
        std::fs::write(&file, job.to_string()).unwrap();
        let output = run(&["run", "--json", file.to_str().unwrap()]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    };
    let places = [
        "93.184.216.34/80",
        "93.184.216.34/81",
        "api.example.com/81",
        "other.example.com/81",
        "169.254.169.254/80",
        "93.184.0.1/80",
    ];
    let allow = json!({"allow": [format!("{PUBLIC}:80"), "api.example.com:81"]});
    let networked = result(&job(&allow, &places));
    assert_eq!(networked.verdict, Some(Verdict::Accepted), "{networked:#?}");
    assert_eq!(networked.runtime, "bash");
    let printed = stdout(only(&networked));
    assert_eq!(
        printed.split_whitespace().collect::<Vec<_>>(),
        ["reached", "not", "reached", "not", "not", "not"]
    );
    world.until("nothing is left on the host", || world.links().is_empty()).await;

    // Everybody's variant has none.
    let alone = result(&job(&json!("none"), &places));
    assert_eq!(stdout(only(&alone)).matches("not").count(), places.len(), "{alone:#?}");
}
