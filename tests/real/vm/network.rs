//! Jobs with a network, by the `hearth` command and by a worker behind a real broker. The host that it sees and the world beyond are namespaces.

use std::{
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
};

use hearth_pool::net::Namespace;
use hearth_schemas::result::{JobResult, Status, Verdict};
use hearth_tests::real::{Machine, Worker};
use serde_json::{Value, json};

use crate::{
    machine, only, room,
    service::{Service, Vhost},
    stdout,
    world::World,
};

const PUBLIC: &str = "93.184.216.34";
const METADATA: &str = "169.254.169.254";

/// What a job prints: `reached` or `not`, for each place.
const REACH: &str = "for to in \"$@\"; do \
    case $to in udp/*) ;; *) to=tcp/$to;; esac; \
    if (exec 3<>/dev/$to && echo hi >&3 && read -t 30 line <&3 && [ \"$line\" = hi ]) 2>/dev/null; \
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

/// Where the broker of this machine is for a host that is a namespace.
fn lead_to_the_broker(host: &Namespace) {
    let listener = host.run(|| TcpListener::bind("127.0.0.1:5672")).unwrap();
    thread::spawn(move || {
        for near in listener.incoming() {
            let near = near.unwrap();
            let Ok(far) = TcpStream::connect("127.0.0.1:5672") else { continue };
            for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_a_network_goes_through_the_broker_to_a_worker_that_has_such_vms() {
    let Some(machine) = machine() else { return };
    if !crate::world::usable() {
        return;
    }
    let Some(vhost) = Vhost::new("network") else { return };
    let _room = room().await;
    let world = World::make(&[PUBLIC, METADATA], &[80, 81]).await;
    let host = world.host_address();
    let run_dir = Worker::run_dir().unwrap();
    let mut bake = hearth(machine, &world, run_dir.path(), &["bake", "bash", "bash+net"]);
    let baked = world.host.run(move || bake.output()).unwrap();
    assert!(baked.status.success(), "{}", String::from_utf8_lossy(&baked.stderr));
    lead_to_the_broker(&world.host);
    let allow = json!({"allow": [format!("{PUBLIC}:80"), format!("{host}:80")]});
    let places = [
        "93.184.216.34/80",
        "93.184.0.1/80",
        "93.184.0.1/81",
        "93.184.216.34/81",
        "169.254.169.254/80",
        "udp/93.184.216.34/80",
        "udp/93.184.0.1/80",
        "2001:db8::1/80",
    ];
    let job = job(&allow, &places);

    // Without such VMs a worker says at once what there is instead.
    let mut without = Service::start_in(&world.host, machine, vhost, "[slots]\nbash = 1\n");
    without.ready().await;
    let refused: JobResult = serde_json::from_value(without.submit(&job).await).unwrap();
    assert_eq!(refused.status, Status::Refused, "{refused:#?}");
    let said = format!("{:?}", refused.refusal);
    assert!(
        said.contains("no VM of `bash` has a network here") && said.contains("hearth bake bash+net"),
        "{said}"
    );
    let vhost = without.drain().await;

    let settings = format!(
        "[slots]\n\"bash+net\" = 1\n[network]\nhost = [\"{host}:80\"]\nresolvers = [\"{}\"]\n",
        world.server()
    );
    let mut service = Service::start_in(&world.host, machine, vhost, &settings);
    service.ready().await;
    let result: JobResult = serde_json::from_value(service.submit(&job).await).unwrap();
    assert_eq!((result.verdict, result.runtime.as_str()), (Some(Verdict::Accepted), "bash"), "{result:#?}");
    let printed = stdout(only(&result));
    assert_eq!(
        printed.split_whitespace().collect::<Vec<_>>(),
        ["reached", "reached", "not", "not", "not", "not", "not", "not"]
    );
    assert!(service.vhost.queues().contains("hearth.run.bash+net."), "{}", service.vhost.queues());
    drop(service.drain().await);
    world.until("nothing is left on the host", || world.links().is_empty()).await;
}
