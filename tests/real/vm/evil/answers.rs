//! The agent answers while a job eats all there is.

use std::time::Duration;

use bytes::Bytes;
use hearth_pool::session::Session;
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::{Evil, Round, in_arena};

/// What a ping may take. The promise is a second. Where a guest's instructions are emulated on a host that does other
/// things besides, as where these tests mostly run, the emulator itself may wait that long for a processor: there it is
/// the half of all pings that must keep the promise, and none may take longer than `EMULATED_MAX`.
const PROMISE: Duration = Duration::from_secs(1);
const EMULATED_MAX: Duration = Duration::from_secs(5);
/// How often the agent is asked while one program eats.
const PINGS: usize = 25;
/// How long a program may take until it eats.
const EATS_WITHIN: Duration = Duration::from_secs(60);

/// Programs that say `eating` once they are at it, and do not end before they are killed.
fn eaters() -> Vec<Evil> {
    let eater = |name, code: &str| Evil::python(name, code);
    vec![
        eater("processors", "import os\nfor n in range(40): os.fork() if n < 5 else None\nprint('eating', flush=True)\nwhile True: pass")
            .within(json!({"processes": 64})),
        eater("forks", "import os\nprint('eating', flush=True)\nwhile True:\n  if os.fork() == 0: os._exit(0)\n  os.wait()"),
        // As much as is allowed and not a page more, read again and again: the kernel reclaims all the time.
        eater("reclaim", "import os\nwith open('big', 'wb') as f:\n  for _ in range(160): f.write(os.urandom(1 << 20))\nprint('eating', flush=True)\nwhile True:\n  with open('big', 'rb', 0) as f:\n    while f.read(1 << 20): pass")
            .within(json!({"memory_mib": 64})),
        eater("memory", "import mmap\nm = mmap.mmap(-1, 180 << 20)\nfor at in range(0, len(m), 4096): m[at] = 1\nprint('eating', flush=True)\nwhile True:\n  for at in range(0, len(m), 4096): m[at] = (m[at] + 1) % 256")
            .within(json!({"memory_mib": 200})),
        eater("disk", "import os\nf = os.open('io', os.O_RDWR | os.O_CREAT)\nb = b'x' * (4 << 20)\nprint('eating', flush=True)\nwhile True: os.pwrite(f, b, 0); os.fsync(f)"),
        eater("files", "import os\nprint('eating', flush=True)\nwhile True:\n  for n in range(200): open(f'f{n}', 'w').write('x')\n  for n in range(200): os.unlink(f'f{n}')"),
        eater("output", "import os\nos.write(1, b'eating\\n')\nb = b'x' * 65536\nwhile True: os.write(1, b); os.write(2, b)")
            .within(json!({"output_kib": 65_536})),
        eater("threads", "import threading\nprint('eating', flush=True)\ndef spin():\n  while True: pass\nfor _ in range(200): threading.Thread(target=spin, daemon=True).start()\nspin()")
            .within(json!({"processes": 600})),
    ]
}

/// Pings while `program` eats; how long each took.
async fn pings_beside(round: &Round<'_>, program: &Evil) -> Vec<Duration> {
    let (command, _) = round.command(program);
    let running = round.session().exec(command, false).await.unwrap();
    let (eats, eating) = tokio::sync::oneshot::channel();
    let mut eats = Some(eats);
    let output = |_, data: Bytes| {
        if data.starts_with(b"eating") {
            eats.take().map(|eats| eats.send(()));
        }
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = running.finish(Bytes::new(), output, async { drop(stopped.await) });
    let pinging = async {
        timeout(EATS_WITHIN, eating).await.expect("it begins to eat in time").unwrap();
        let took = pings(round.session()).await;
        drop(stop);
        took
    };
    let (exited, took) = tokio::join!(running, pinging);
    assert!(exited.unwrap().killed, "{} ate to the end", program.name);
    took
}

async fn pings(session: &Session) -> Vec<Duration> {
    let mut took = Vec::new();
    for _ in 0..PINGS {
        let asked = Instant::now();
        session.ping(Duration::from_secs(60)).await.unwrap();
        took.push(asked.elapsed());
    }
    took.sort();
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_is_answered_within_a_second_whatever_the_job_eats() {
    in_arena("python", async |arena| {
        let round = arena.round().await;
        let idle = pings(round.session()).await;
        eprintln!("measured idle: half within {:?}, all within {:?}", idle[PINGS / 2], idle[PINGS - 1]);
        let most = if arena.is_emulated() { EMULATED_MAX } else { PROMISE };
        let mut late = Vec::new();
        for program in eaters() {
            let took = pings_beside(&round, &program).await;
            let (half, all) = (took[PINGS / 2], took[PINGS - 1]);
            eprintln!("measured {}: half within {half:?}, all within {all:?}", program.name);
            if half > PROMISE || all > most {
                late.push((program.name, half, all));
            }
        }
        assert!(late.is_empty(), "{late:?}");
        round.end().await;
    })
    .await;
}
