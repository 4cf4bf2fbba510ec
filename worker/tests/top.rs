//! `hearth top` over real workers with fake VMs, asked by HTTP, on a real terminal.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod amqp_rig;
mod broker;
mod terminal;

use std::{net::TcpListener, os::unix::process::ExitStatusExt as _, process::Command, sync::Arc};

use amqp_rig::{Producer, Setup, job, quick};
use broker::{Vhost, prefix, until, vhost};
use hearth_pool::{fakes::Knobs, hypervisor::RestoreError};
use hearth_worker::{
    amqp::names::Names,
    meters,
    run::{Order, Parts, RunError, Stopped, run},
    settings::Settings,
    top::{Address, Samples, Since, View, ask_all, draw, quantile, text},
};
use ratatui::{Terminal as Screen, backend::TestBackend};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use terminal::Terminal;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

struct Worker {
    orders: mpsc::Sender<Order>,
    running: JoinHandle<Result<Stopped, RunError>>,
    address: String,
    producer: Producer,
    _spool: TempDir,
    _vhost: Arc<Vhost>,
}

/// The first restore fails.
fn once_broken() -> Knobs {
    let failure = RestoreError::Vmm("no room for it".into());
    Knobs { fail_restores: [failure].into(), ..quick() }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A worker that has run three jobs, the first VM of which could not be restored. `None` without a broker.
async fn worker() -> Option<Worker> {
    let vhost = vhost()?;
    let prefix = prefix();
    let setup = Setup { knobs: once_broken, ..Setup::new(&vhost.endpoint, &Names::new(&prefix).unwrap()) };
    let (spool, address) = (tempfile::tempdir().unwrap(), format!("127.0.0.1:{}", free_port()));
    let text = format!(
        "[broker]\nurl = \"{}\"\nprefix = \"{prefix}\"\nshards = 2\n[worker]\nspool = \"{}\"\nadmin = \"{address}\"\n",
        vhost.url,
        spool.path().display()
    );
    let metrics = meters::start().unwrap();
    let settings = Settings::parse(&text, &|_| None).unwrap();
    let (orders, taken) = mpsc::channel(1);
    let parts = Parts {
        name: "worker-7".into(),
        pool: setup.pool("worker-7"),
        slots: 2,
        offers: Setup::offers(),
        ledger: setup.ledger.clone(),
        ledger_trouble: watch::channel(None).1,
        metrics,
        object_spool: spool.path().join("objects"),
    };
    let running = tokio::spawn(run(settings, parts, taken));
    let asked = [address.parse::<Address>().unwrap()];
    until("it is ready", async || ask_all(&asked).await[0].as_ref().is_ok_and(|answer| answer.status.ready))
        .await;
    let producer = setup.producer().await;
    for number in 0..3 {
        producer.send(&job(&format!("j{number}"), "x")).await;
        producer.result().await;
    }
    Some(Worker { orders, running, address, producer, _spool: spool, _vhost: vhost })
}

impl Worker {
    async fn drain(self) {
        self.orders.send(Order::Drain).await.unwrap();
        assert_eq!(self.running.await.unwrap().unwrap(), Stopped::Drained);
    }
}

fn hearth_top(arguments: &[&str]) -> Command {
    let mut hearth = Command::new(env!("CARGO_BIN_EXE_hearth"));
    hearth.arg("top").args(arguments).env_remove("HEARTH_TOP");
    hearth
}

#[tokio::test(flavor = "multi_thread")]
async fn what_workers_do_is_seen_and_one_that_is_away_is_seen_as_such() {
    let Some(worker) = worker().await else { return };
    let away = format!("127.0.0.1:{}", free_port());
    let names = [worker.address.clone(), away.clone()];
    let asked = names.clone().map(|name| name.parse::<Address>().unwrap());
    let mut first = ask_all(&asked).await;
    until("all three are counted", async || {
        first = ask_all(&asked).await;
        View::new(&names, None, &first).results_per_s.get("finished").is_some_and(|rate| *rate > 0.0)
    })
    .await;
    let view = View::new(&names, None, &first);
    assert!(view.workers[1].unreachable.is_some() && view.workers[0].unreachable.is_none());
    assert_eq!(view.workers[0].status.as_ref().unwrap().worker, "worker-7");
    let python = &view.runtimes["python"];
    assert_eq!((python.target, python.slots.values().sum::<f64>()), (2.0, 2.0), "{python:?}");
    assert!(python.rates.claims_per_s > 0.0 && python.rates.hit_ratio.is_some(), "{python:?}");
    assert!(python.rates.wait_p95_s >= python.rates.wait_p50_s && python.rates.wait_p50_s.is_some());
    assert!(view.failures.iter().any(|failed| failed.failure.why.contains("no room for it")), "{view:?}");

    // On a screen, by what happened between two looks only.
    for number in 0..4 {
        worker.producer.send(&job(&format!("k{number}"), "x")).await;
        worker.producer.result().await;
    }
    let mut second = Vec::new();
    until("VMs are ready again", async || {
        second = ask_all(&asked).await;
        View::new(&names, None, &second).runtimes["python"].slots.get("ready") == Some(&2.0)
    })
    .await;
    let view = View::new(&names, Some((&first, std::time::Duration::from_secs(2))), &second);
    assert_eq!(view.runtimes["python"].rates.claims_per_s, 2.0, "four in two seconds");
    let mut screen = Screen::new(TestBackend::new(150, 30)).unwrap();
    screen.draw(|frame| draw(&view, frame.area(), frame.buffer_mut())).unwrap();
    let shown = screen.backend().to_string();
    for what in [
        "1 of 2 workers ready, over 2.0 s",
        "worker-7",
        &away,
        "unreachable: ",
        "python",
        "2.0",
        "no room for it",
    ] {
        assert!(shown.contains(what), "{what:?} is not in\n{shown}");
    }
    assert!(text(&view, 150).contains("python"));
    // However small it is.
    for (width, height) in [(1, 1), (20, 3), (500, 2)] {
        let mut small = Screen::new(TestBackend::new(width, height)).unwrap();
        small.draw(|frame| draw(&view, frame.area(), frame.buffer_mut())).unwrap();
    }

    on_a_terminal(&worker, &away).await;
    for_scripts(&worker, &away);
    worker_that_goes(worker).await;
}

/// A worker that no longer answers is seen as such, and the terminal is given back as ever.
async fn worker_that_goes(worker: Worker) {
    let mut terminal = Terminal::run(hearth_top(&["--interval", "0.2", &worker.address]));
    terminal.see("1 of 1 workers ready").await;
    worker.drain().await;
    terminal.see("0 of 1 workers ready").await;
    terminal.see("unreachable: ").await;
    terminal.press(b"q");
    let (status, contents) = terminal.end().await;
    assert_eq!(status.code(), Some(0), "{contents}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_gives_the_terminal_back_and_is_read_there() {
    if !cfg!(feature = "failpoints") {
        eprintln!(
            "SKIPPED: panics of `hearth top`: it is built without failpoints (--all-features has them)"
        );
        return;
    }
    let away = format!("127.0.0.1:{}", free_port());
    let mut top = hearth_top(&["--interval", "0.2", &away]);
    // Not the first drawing: the terminal is its own by then.
    top.env("FAILPOINTS", "top::draws=5*off->panic(as the test says)");
    // Wherever this runs: a trace is longer than the terminal is high.
    top.env("RUST_BACKTRACE", "0");
    let (status, contents) = Terminal::run(top).end().await;
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "as shipped, without unwinding:\n{contents}");
    assert!(contents.contains("as the test says"), "{contents}");
    assert!(!contents.contains("workers ready"), "what was there before is back:\n{contents}");
}

/// How it is ended, with which exit code, and by what.
type End = (&'static str, Option<i32>, fn(&mut Terminal));

/// Keys and signals end it, and the terminal is as it was.
async fn on_a_terminal(worker: &Worker, away: &str) {
    let ends: [End; 4] = [
        ("q", Some(0), |terminal| terminal.press(b"q")),
        ("Esc", Some(0), |terminal| terminal.press(b"\x1b")),
        ("Ctrl-C", Some(0), |terminal| terminal.press(b"\x03")),
        ("SIGTERM", Some(143), |terminal| {
            let pid = Pid::from_raw(i32::try_from(terminal.pid()).unwrap()).unwrap();
            kill_process(pid, Signal::TERM).unwrap();
        }),
    ];
    for (how, code, end) in ends {
        let mut terminal = Terminal::run(hearth_top(&["--interval", "0.2", &worker.address, away]));
        terminal.see("1 of 2 workers ready, over 0.").await;
        terminal.see("worker-7").await;
        assert!(terminal.is_taken());
        terminal.press(b"x");
        end(&mut terminal);
        let (status, contents) = terminal.end().await;
        assert_eq!(status.code(), code, "{how}:\n{contents}");
        assert!(!contents.contains("worker-7"), "{how}: what was there before is back:\n{contents}");
    }
}

fn for_scripts(worker: &Worker, away: &str) {
    let once = hearth_top(&["--once", &worker.address]).output().unwrap();
    let said = String::from_utf8(once.stdout).unwrap();
    assert!(once.status.success() && said.contains("python") && !said.contains('\x1b'), "{said}");
    let json = hearth_top(&["--once", "--json", &worker.address, away]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["runtimes"]["python"]["target"], 2.0);
    assert!(json["workers"][1]["unreachable"].is_string(), "{json}");
    let nobody = hearth_top(&["--once", away]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&nobody.stdout).contains("unreachable: "));
    let wrong = hearth_top(&["--once", "https://somewhere"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(64), "{wrong:?}");
}

#[test]
fn quantiles_are_as_prometheus_reckons_them() {
    let buckets = [(0.1, 50.0), (0.5, 90.0), (1.0, 100.0), (f64::INFINITY, 100.0)];
    assert_eq!(quantile(0.5, &buckets), Some(0.1));
    assert_eq!(quantile(0.95, &buckets), Some(0.75));
    assert_eq!(quantile(0.25, &buckets), Some(0.05));
    assert_eq!(
        quantile(0.99, &[(0.1, 0.0), (1.0, 0.0), (f64::INFINITY, 3.0)]),
        Some(1.0),
        "beyond the last bound"
    );
    assert_eq!((quantile(0.5, &[]), quantile(0.5, &[(1.0, 0.0)])), (None, None));
}

#[test]
fn a_worker_that_began_anew_counts_from_its_start() {
    let answer = |uptime_s: f64, claims: u32| {
        let page = format!(
            "hearth_pool_target{{runtime=\"python\"}} 3\nhearth_pool_claims_total{{runtime=\"python\",outcome=\"hit\"}} {claims}\n"
        );
        let status = hearth_worker::status::Status {
            worker: "w".into(),
            version: "0".into(),
            uptime_s,
            ready: true,
            reasons: Vec::new(),
            failures: Vec::new(),
        };
        Ok(hearth_worker::top::Answer { status, samples: Samples::parse(&page) })
    };
    let names = ["a".to_owned()];
    let passed = std::time::Duration::from_secs(10);
    let rate = |before, now| {
        let view = View::new(&names, Some((&[before], passed)), &[now]);
        assert_eq!(view.since, Since::Seconds(10.0));
        view.runtimes["python"].rates.claims_per_s
    };
    assert_eq!(rate(answer(100.0, 50), answer(110.0, 70)), 2.0);
    assert_eq!(rate(answer(100.0, 50), answer(5.0, 20)), 4.0, "twenty in the five seconds that it is up");
    assert_eq!(rate(Err("away".to_owned()), answer(500.0, 900)), 0.0, "when it claimed those is not known");
}
