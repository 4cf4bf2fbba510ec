//! Jobs in real microVMs. Each test says aloud that it is skipped when this machine cannot run them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod cases;
mod code;
mod command;
mod crash;
mod dormant;
mod evil;
mod examples;
mod isolation;
mod judge;
mod limits;
mod live;
mod network;
mod objects;
mod readme;
mod serial;
mod service;
mod turnover;
#[path = "../../../pool/tests/world/mod.rs"]
mod world;

use std::sync::OnceLock;

use hearth_schemas::result::{JobResult, RunReport};
use hearth_tests::real::{Machine, Worker};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Tests that have VMs at once: two processors do not emulate more.
static ROOM: Semaphore = Semaphore::const_new(2);

/// The machine, or `None` after it was said aloud what is missing.
pub fn machine() -> Option<&'static Machine> {
    static MACHINE: OnceLock<Option<Machine>> = OnceLock::new();
    MACHINE.get_or_init(|| Machine::find().expect("real VMs are required here")).as_ref()
}

/// Runs a test with a worker that has `slots` VMs of `python`, and sees to it that nothing is left.
pub async fn with_python(slots: u32, test: impl AsyncFnOnce(&Worker)) {
    with_runtime("python", slots, test).await;
}

/// The same with another runtime.
pub async fn with_runtime(runtime: &str, slots: u32, test: impl AsyncFnOnce(&Worker)) {
    let Some(machine) = machine() else { return };
    let _room = room().await;
    let worker = Worker::open(machine, &[(runtime, slots)]).await.unwrap();
    test(&worker).await;
    worker.close().await.unwrap();
}

/// Waits until few enough tests have VMs.
pub async fn room() -> SemaphorePermit<'static> {
    ROOM.acquire().await.unwrap()
}

/// The report of a job's only stage.
pub fn only(result: &JobResult) -> &RunReport {
    assert_eq!(result.stages.len(), 1, "{result:#?}");
    &result.stages[0].run
}

/// What a stage printed.
pub fn stdout(report: &RunReport) -> String {
    String::from_utf8(report.stdout.content.decode().unwrap()).unwrap()
}
