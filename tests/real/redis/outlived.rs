//! VMs with jobs when Redis is away for longer than leases last: real processes behind real locks of this host.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hearth_pool::{
    lease::redis::{RedisLeaseConfig, RedisLeases},
    phase::Phase,
    pool::{
        Claim, Config, Lane, Pool, RuntimeSlots,
        events::{Event, Farewell, LeaseEvent},
    },
    session::{Channel, Command},
};
use hearth_schemas::guest::messages::{ExecLimits, User};
use hearth_tests::{
    process::{Left, ProcessMachine, RUNTIME, run_dir},
    redis::RealRedis,
    wait::{until, until_passed},
};
use tokio::time::Instant;

use crate::leases::{Shared, config, settled};

/// How long leases last: less than the server is away, more than a busy host dozes.
const TTL: Duration = Duration::from_secs(4);
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);
/// How long the server is away.
const STALL: Duration = Duration::from_secs(10);

fn machine() -> Option<ProcessMachine> {
    let (agent, worker) = (env!("CARGO_BIN_EXE_process-agent"), env!("CARGO_BIN_EXE_process-worker"));
    ProcessMachine::find(Path::new(agent), Path::new(worker))
        .expect("processes that play VMs are required here")
}

fn sh(script: &str) -> Command {
    Command {
        argv: ["bash", "-c", script].map(str::to_owned).into(),
        env: BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]),
        cwd: String::new(),
        limits: ExecLimits { wall_ms: Some(60_000), ..ExecLimits::default() },
        user: User::Job,
        ip: false,
        fresh: false,
    }
}

/// Runs a command in the claimed VM that ends when `over` says so.
async fn job(claim: &Claim, over: impl Future<Output = ()>) -> String {
    let running = claim.session().exec(sh("while [ ! -e over ]; do sleep 0.05; done; echo done"), false);
    let running = running.await.unwrap();
    let mut output = Vec::new();
    let keep = |channel, bytes: Bytes| {
        if channel == Channel::Stdout {
            output.extend_from_slice(&bytes);
        }
    };
    let end = async {
        over.await;
        let touch = claim.session().exec(sh("touch over"), false).await.unwrap();
        touch.finish(Bytes::new(), |_, _| {}, std::future::pending()).await.unwrap();
    };
    let (exited, ()) = tokio::join!(running.finish(Bytes::new(), keep, std::future::pending()), end);
    assert_eq!(exited.unwrap().exit_code, Some(0));
    String::from_utf8(output).unwrap()
}

struct Setup {
    pool: Pool,
    claim: Claim,
    /// Idle VMs that went with their leases, and claimed ones that did not.
    went: Arc<AtomicU32>,
    stayed: Arc<AtomicU32>,
    directory: tempfile::TempDir,
    machine: ProcessMachine,
}

impl Setup {
    /// Two VMs, one of them with a job, and no identity for a third.
    async fn new(redis: &RealRedis) -> Option<Self> {
        let machine = machine()?;
        let directory = run_dir().unwrap();
        let (hypervisor, _) = machine.hypervisor(directory.path(), "w", Duration::ZERO, None).await.unwrap();
        let mut told = Config::new(vec![RuntimeSlots { name: RUNTIME.into(), slots: 2, warm_up: None }]);
        told.lease_margin = TTL / 4;
        let (went, stayed) = (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
        let counts = (went.clone(), stayed.clone());
        told.observer = Some(Arc::new(move |event| match event {
            Event::Retired { why: Farewell::LeaseAtRisk, .. } => {
                counts.0.fetch_add(1, Ordering::SeqCst);
            }
            Event::Lease { event: LeaseEvent::Outlived, .. } => {
                counts.1.fetch_add(1, Ordering::SeqCst);
            }
            _ => {}
        }));
        let leases = RedisLeaseConfig { ttl: TTL, ..config("host", 2) };
        let pool = Pool::spawn(told, hypervisor, RedisLeases::new(redis.server(), leases));
        let claim = pool.claim(RUNTIME, Lane::Normal, Instant::now() + LONG).await.unwrap();
        let setup = Self { pool, claim, went, stayed, directory, machine };
        setup.ready(1).await;
        Some(setup)
    }

    async fn ready(&self, count: u32) {
        let phases = self.pool.phases();
        until(LONG, "so many are Ready", async || phases.borrow().total(Phase::Ready) == count).await;
    }

    /// The idle VM has gone, and the one with the job has not.
    async fn outlived(&self) {
        let count = |count: &AtomicU32| count.load(Ordering::SeqCst);
        until(LONG, "the lease is over", async || count(&self.went) > 0 && count(&self.stayed) == 1).await;
    }

    /// The job is still there, and whoever has a VM beside it has another CID.
    async fn end(self) {
        let other = self.pool.claim(RUNTIME, Lane::Normal, Instant::now() + LONG).await.unwrap();
        assert_ne!(other.vm().identity.cid, self.claim.vm().identity.cid);
        assert!(self.claim.session().ping(LONG).await.is_ok());
        drop((other, self.claim));
        self.pool.close(Duration::from_secs(5)).await.unwrap();
        drop(self.pool);
        let left = Left::within(self.directory.path(), &self.machine.cgroups, Duration::from_secs(5));
        assert_eq!(left, Left::default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_while_redis_is_stalled_for_10_s_and_idle_vms_end() {
    let Some(Shared(redis)) = settled().await else { return };
    let Some(setup) = Setup::new(&redis).await else { return };
    redis.stall();
    let stalled = Instant::now();
    let over = async {
        setup.outlived().await;
        assert!(stalled.elapsed() < STALL, "an idle VM ends before its lease does");
        until_passed(stalled + STALL).await;
        redis.go_on();
        // By now the job's identity has been given to nobody, or to somebody who met the lock.
        setup.ready(1).await;
    };
    assert_eq!(job(&setup.claim, over).await, "done\n");
    setup.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_when_redis_comes_back_without_its_data() {
    let Some(Shared(mut redis)) = settled().await else { return };
    let Some(setup) = Setup::new(&redis).await else { return };
    let over = async {
        redis.restart_without_data().await;
        // Not the truth: somebody says that nobody holds anything.
        redis.server().trust_new_data().await.unwrap();
        setup.outlived().await;
        setup.ready(1).await;
    };
    assert_eq!(job(&setup.claim, over).await, "done\n");
    setup.end().await;
}
