//! Live events of jobs in real VMs, over the connection that the guest makes.

use std::{path::PathBuf, time::Duration};

use hearth_pool::pool::Lane;
use hearth_schemas::{
    event::{Event, LiveBy, State, What},
    result::{Cause, JobResult, Status, Verdict},
};
use hearth_tests::{real::Worker, wait::until_some};
use hearth_worker::live::Events;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::Instant,
};

use crate::{only, with_python};

fn watched(id: &str, code: &str) -> Value {
    let limits = json!({"wall_ms": 60_000, "cpu_ms": 60_000, "output_kib": 65_536});
    json!({"id": id, "runtime": "python", "code": code, "stream": true, "limits": limits})
}

/// The events of the job that begins now.
async fn events(worker: &Worker) -> Events {
    until_some(Duration::from_secs(120), "the attempt begins", async || worker.watched()).await
}

/// Everything that is left, numbered as it must be.
async fn rest(events: &mut Events, mut all: Vec<Event>) -> Vec<Event> {
    while let Some(event) = events.next().await {
        all.push(event);
    }
    assert!(all.iter().zip(1..).all(|(event, seq)| event.seq == seq && event.attempt == 1), "{all:#?}");
    all
}

#[derive(Debug, Default)]
struct Seen {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    dropped: u64,
    marks: usize,
    states: Vec<State>,
}

fn seen(events: &[Event]) -> Seen {
    let mut seen = Seen::default();
    for event in events {
        match &event.what {
            What::Stdout(chunk) => seen.stdout.extend(chunk.content.decode().unwrap()),
            What::Stderr(chunk) => seen.stderr.extend(chunk.content.decode().unwrap()),
            What::Dropped(mark) => {
                seen.dropped += mark.bytes;
                seen.marks += 1;
            }
            What::State(state) => seen.states.push(state.clone()),
        }
    }
    assert_eq!(seen.states[1], State::Claimed { live: LiveBy::Connection }, "{:#?}", seen.states);
    seen
}

fn accepted(result: &JobResult) {
    assert_eq!(result.verdict, Some(Verdict::Accepted), "{result:#?}");
}

const SLOW: &str = "import sys, time
for n in range(40):
    print('out', n, flush=True)
    print('err', n, file=sys.stderr, flush=True)
    time.sleep(0.05)";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_prints_is_seen_while_it_runs_each_stream_in_order() {
    with_python(1, async |worker| {
        let job = watched("slow", SLOW);
        let mut running = std::pin::pin!(worker.run(&job));
        let (mut all, mut live) = (Vec::new(), None);
        // Both streams are seen before the job has a result.
        while !all.iter().any(|event: &Event| matches!(event.what, What::Stderr(_))) {
            tokio::select! {
                biased;
                _ = &mut running => panic!("the job is over and was not seen: {all:#?}"),
                event = async {
                    if live.is_none() {
                        live = Some(events(worker).await);
                    }
                    live.as_mut().unwrap().next().await
                } => all.push(event.unwrap()),
            }
        }
        let result = running.await.unwrap();
        accepted(&result);
        let seen = seen(&rest(live.as_mut().unwrap(), all).await);
        let report = only(&result);
        assert_eq!(seen.stdout, report.stdout.content.decode().unwrap());
        assert_eq!(seen.stderr, report.stderr.content.decode().unwrap());
        assert_eq!((seen.dropped, seen.states.len()), (0, 6));
        let end = State::Finished { status: Status::Finished, verdict: Some(Verdict::Accepted) };
        assert_eq!(seen.states.last(), Some(&end));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_every_kind_and_output_of_the_last_moment_arrive() {
    with_python(1, async |worker| {
        let code = "import os\nfor n in range(40): os.write(1, bytes(range(256)) * 8)\nos._exit(3)";
        let job = watched("bytes", code);
        let result = worker.run(&job).await.unwrap();
        let mut events = worker.watched().unwrap();
        let seen = seen(&rest(&mut events, Vec::new()).await);
        assert_eq!((only(&result).exit_code, only(&result).stdout.bytes), (Some(3), 81_920));
        assert_eq!((seen.stdout.len(), seen.dropped), (81_920, 0));
        let expected: Vec<u8> = (0..=255).collect();
        assert!(seen.stdout.chunks(256).all(|chunk| chunk == expected));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_that_nobody_reads_takes_no_longer_and_its_marks_add_up() {
    with_python(1, async |worker| {
        let flood = "import subprocess\nsubprocess.run('yes | head -c 60000000', shell=True, check=True)";
        let mut walls = [Duration::MAX; 2];
        for round in 0..2 {
            for stream in [false, true] {
                let mut job = watched(&format!("flood-{round}-{stream}"), flood);
                job["stream"] = stream.into();
                let result = worker.run(&job).await.unwrap();
                accepted(&result);
                let (bytes, wall) = (only(&result).stdout.bytes, only(&result).usage.unwrap().wall_ms);
                assert_eq!(bytes, 60_000_000);
                let best = &mut walls[usize::from(stream)];
                *best = (*best).min(wall.into());
                if !stream {
                    continue;
                }
                // Nobody has read until now.
                let mut events = worker.watched().unwrap();
                let seen = seen(&rest(&mut events, Vec::new()).await);
                assert_eq!(seen.stdout.len() as u64 + seen.dropped, bytes);
                assert!(
                    seen.marks > 0 && seen.stdout.len() < 4 << 20,
                    "{} {}",
                    seen.marks,
                    seen.stdout.len()
                );
            }
        }
        eprintln!("a flood of 60 MB: {:?} unwatched, {:?} watched by nobody who reads", walls[0], walls[1]);
        assert!(walls[1] < walls[0] * 2 + Duration::from_secs(2), "{walls:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_job_is_cancelled_like_any_other() {
    with_python(1, async |worker| {
        let job = watched("endless", "while True: print('on and on', flush=True)");
        let (result, all) = tokio::join!(worker.run(&job), async {
            let mut live = events(worker).await;
            let mut all = Vec::new();
            while !all.iter().any(|event: &Event| matches!(event.what, What::Stdout(_))) {
                all.push(live.next().await.unwrap());
            }
            worker.cancel("endless").await.unwrap();
            rest(&mut live, all).await
        });
        let result = result.unwrap();
        assert_eq!(result.status, Status::Cancelled);
        let seen = seen(&all);
        assert_eq!(seen.stdout.len() as u64 + seen.dropped, only(&result).stdout.bytes);
        let states = &seen.states[seen.states.len() - 2..];
        let ended = matches!(states[0], State::StageEnded { cause: Some(Cause::Cancelled), .. });
        let finished = State::Finished { status: Status::Cancelled, verdict: None };
        assert!(ended && states[1] == finished, "{states:#?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_cannot_run_holds_no_event_up() {
    with_python(1, async |worker| {
        let stage =
            |name: &str, argv: &[&str]| json!({"name": name, "argv": argv, "continue_on_failure": true});
        let stages = [stage("a", &["/nonexistent"]), stage("b", &["echo", "b"])];
        let job = json!({"id": "stages", "runtime": "python", "stages": stages, "stream": true});
        worker.run(&job).await.unwrap();
        let mut events = worker.watched().unwrap();
        let seen = seen(&rest(&mut events, Vec::new()).await);
        assert_eq!((seen.stdout, seen.dropped, seen.states.len()), (b"b\n".to_vec(), 0, 8));
    })
    .await;
}

/// The socket where a guest arrives that dials `port`, once somebody listens; connected.
async fn intrude(run_dir: PathBuf, port: u16) -> UnixStream {
    let vms = run_dir.join("vms");
    let suffix = format!("_{port}");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        // No pause: the guest comes within milliseconds.
        let directories = std::fs::read_dir(&vms).into_iter().flatten().flatten();
        let sockets = directories.flat_map(|vm| std::fs::read_dir(vm.path()).into_iter().flatten().flatten());
        let socket = sockets.map(|entry| entry.path()).find(|path| path.to_string_lossy().ends_with(&suffix));
        // It has a name a moment before it is listened on.
        if let Some(socket) = socket
            && let Ok(stream) = UnixStream::connect(socket).await
        {
            return stream;
        }
        assert!(Instant::now() < deadline, "nobody listens on port {port}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_without_the_nonce_is_dropped_and_the_guest_is_let_in() {
    with_python(1, async |worker| {
        let deadline = Instant::now() + Duration::from_secs(120);
        let claim = worker.local().pool().claim("python", Lane::Normal, deadline).await.unwrap();
        let (nonce, port) = (claim.vm().nonce, claim.vm().identity.port);
        let intruder = tokio::spawn(intrude(worker.path().into(), port));
        tokio::task::yield_now().await;
        let (live, intruder) = tokio::join!(claim.live(), async {
            let mut intruder = intruder.await.unwrap();
            let mut wrong = nonce;
            wrong[0] ^= 0x80;
            // It may have been let go already.
            let _ = intruder.write_all(&wrong).await;
            intruder
        });
        let mut reader = live.expect("the guest is let in");
        let mut intruder = intruder;
        let read = intruder.read(&mut [0; 1]).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        // Later nobody listens, and the nonce opens nothing.
        assert!(claim.live().await.is_err(), "once in a claim");
        let command = hearth_pool::session::Command {
            fresh: false,
            argv: vec!["/bin/echo".into(), "copied".into()],
            env: Default::default(),
            cwd: String::new(),
            limits: Default::default(),
            user: hearth_schemas::guest::messages::User::Job,
            ip: false,
        };
        let running = claim.session().exec_live(command, false, 9).await.unwrap();
        let exited = running.finish(bytes::Bytes::new(), |_, _| {}, std::future::pending()).await.unwrap();
        assert_eq!(exited.exit_code, Some(0));
        let piece = reader.next().await.unwrap().unwrap();
        assert_eq!(piece.live, 9);
        let copied = hearth_pool::live::LiveWhat::Data(bytes::Bytes::from_static(b"copied\n"));
        assert_eq!((piece.channel, piece.what), (hearth_pool::session::Channel::Stdout, copied));
    })
    .await;
}

/// Each case of a stage is told of, and what it prints where the stage asks for that, before the job is over.
#[tokio::test(flavor = "multi_thread")]
async fn cases_are_told_of_one_by_one() {
    with_python(1, async |worker| {
        let code = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)\nprint('!', file=sys.stderr)";
        let case = |name: &str, right: &str| json!({"name": name, "stdin": format!("{name}\n"), "expect": {"stdout": right}});
        let cases = [case("one", "one\n"), case("two", "2\n"), case("three", "three\n")];
        for stream_cases in [false, true] {
            let stage = json!({"name": "run", "argv": ["python3", "main.py"], "cases": cases, "stream_cases": stream_cases});
            let files = json!([{"path": "main.py", "text": code}]);
            let id = format!("cases-{stream_cases}");
            let job = json!({"id": id, "runtime": "python", "files": files, "stages": [stage], "stream": true});
            let result = worker.run(&job).await.unwrap();
            assert_eq!(result.verdict, Some(Verdict::WrongAnswer), "{result:#?}");
            let events = rest(&mut worker.watched().unwrap(), Vec::new()).await;
            let seen = seen(&events);
            let verdicts = seen.states.iter().filter_map(|state| match state {
                State::CaseEnded { case, verdict, .. } => Some((case.as_str(), *verdict)),
                _ => None,
            });
            let (right, wrong) = (Verdict::Accepted, Verdict::WrongAnswer);
            assert_eq!(verdicts.collect::<Vec<_>>(), [("one", right), ("two", wrong), ("three", right)]);
            let expected = if stream_cases { ("one\ntwo\nthree\n", "!\n!\n!\n") } else { ("", "") };
            let [stdout, stderr] = [seen.stdout, seen.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
            assert_eq!((stdout.as_str(), stderr.as_str(), seen.dropped), (expected.0, expected.1, 0));
            // Whose it is.
            let mut current = None;
            for event in &events {
                match &event.what {
                    What::State(State::CaseStarted { case, .. }) => current = Some(case.clone()),
                    What::State(State::CaseEnded { case, .. }) => assert_eq!(current.take().as_ref(), Some(case)),
                    What::Stdout(chunk) => {
                        let text = String::from_utf8(chunk.content.decode().unwrap()).unwrap();
                        assert_eq!((Some(text.trim()), &chunk.case), (current.as_deref(), &current));
                    }
                    _ => {}
                }
            }
        }
    })
    .await;
}
