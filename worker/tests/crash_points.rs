//! DESIGN's crash points (a) to (h): a worker dies between two steps, and the job still has one result.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod rig;

use std::sync::{Arc, Mutex, atomic::Ordering};

use fail::FailScenario;
use hearth_pool::fakes::Ran;
use hearth_schemas::result::{JobResult, Status, Verdict};
use hearth_worker::{
    handle::{Handled, handle},
    seams::{Delivery, Properties, Receipt, Settled, Settlement},
};
use rig::Rig;
use serde_json::json;

fn hello() -> Rig {
    Rig::new(2, |_| Ran::prints("hello\n"))
}

/// Dies once at a point, then lives. Returns the result, how often the code ran, and what was published.
async fn dies_once_at(point: &str) -> (JobResult, usize, Vec<bytes::Bytes>) {
    let scenario = FailScenario::setup();
    fail::cfg(point, "1*return->off").unwrap();
    let mut rig = hello();
    rig.serve();
    let result = rig.submit(json!({"id": "j", "runtime": "python", "code": "print('hello')"})).await;
    rig.check().await;
    scenario.teardown();
    assert_eq!(result.status, Status::Finished);
    assert_eq!(result.verdict, Some(Verdict::Accepted));
    (result, rig.runs(), rig.published())
}

#[tokio::test(start_paused = true)]
async fn a_before_begin_a_redelivery_starts_clean() {
    let (result, runs, published) = dies_once_at("before-begin").await;
    assert_eq!((result.attempt, runs, published.len()), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn b_begun_not_committed_is_the_next_attempt_once_the_heartbeat_lapses() {
    let (result, runs, published) = dies_once_at("begun").await;
    assert_eq!((result.attempt, runs, published.len()), (2, 1, 1), "the silent owner counts as an attempt");
}

#[tokio::test(start_paused = true)]
async fn c_a_commit_whose_answer_was_lost_is_repeated_with_the_same_token() {
    let _alone = FailScenario::setup();
    let mut rig = hello();
    rig.service.ledger.lose_commit_answers.store(2, Ordering::SeqCst);
    rig.serve();
    let result = rig.submit(json!({"id": "j", "runtime": "python", "code": "x"})).await;
    assert_eq!((result.verdict, rig.runs(), rig.published().len()), (Some(Verdict::Accepted), 1, 1));
    rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn d_committed_not_published_is_published_from_the_ledger() {
    let (_, runs, published) = dies_once_at("committed").await;
    assert_eq!((runs, published.len()), (1, 1), "the code does not run again");
}

#[tokio::test(start_paused = true)]
async fn e_a_lost_confirm_publishes_the_same_bytes_again() {
    let _alone = FailScenario::setup();
    let mut rig = hello();
    rig.service.sink.lose_confirms.store(3, Ordering::SeqCst);
    rig.serve();
    rig.submit(json!({"id": "j", "runtime": "python", "code": "x"})).await;
    rig.check().await;
    let published = rig.published();
    assert_eq!((rig.runs(), published.len()), (1, 4));
    assert!(published.iter().all(|bytes| *bytes == published[0]));
}

#[tokio::test(start_paused = true)]
async fn f_confirmed_not_marked_publishes_the_same_bytes_again() {
    let (_, runs, published) = dies_once_at("published").await;
    assert_eq!((runs, published.len()), (1, 2));
    assert_eq!(published[0], published[1]);
}

#[tokio::test(start_paused = true)]
async fn g_done_not_acked_is_only_acked() {
    let (_, runs, published) = dies_once_at("marked").await;
    assert_eq!((runs, published.len()), (1, 1));
}

/// A receipt of a broker that has forgotten the delivery.
struct Stale(Arc<Mutex<Vec<Settlement>>>);

impl Receipt for Stale {
    async fn settle(self, settlement: Settlement) -> Settled {
        self.0.lock().unwrap().push(settlement);
        Settled::Stale
    }
}

#[tokio::test(start_paused = true)]
async fn h_a_stale_ack_counts_and_the_redelivered_copy_is_acked() {
    let _alone = FailScenario::setup();
    let mut rig = hello();
    let settled = Arc::new(Mutex::new(Vec::new()));
    let delivery = |redelivered| Delivery {
        body: serde_json::to_vec(&json!({"id": "j", "runtime": "python", "code": "x"})).unwrap().into(),
        properties: Properties { reply_to: Some("nobody".into()), redelivered, ..Properties::default() },
        receipt: Stale(settled.clone()),
    };
    assert_eq!(handle(&rig.service, delivery(false)).await, Handled::Settled(Settled::Stale));
    assert_eq!(handle(&rig.service, delivery(true)).await, Handled::Settled(Settled::Stale));
    assert_eq!(*settled.lock().unwrap(), [Settlement::Ack, Settlement::Ack]);
    assert_eq!((rig.runs(), rig.published().len()), (1, 1));
    rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn who_has_not_been_told_is_told_though_the_message_came_before() {
    let _alone = FailScenario::setup();
    let mut rig = hello();
    let settled = Arc::new(Mutex::new(Vec::new()));
    let delivery = |reply_to: &str, redelivered| Delivery {
        body: serde_json::to_vec(&json!({"id": "j", "runtime": "python", "code": "x"})).unwrap().into(),
        properties: Properties { reply_to: Some(reply_to.into()), redelivered, ..Properties::default() },
        receipt: Stale(settled.clone()),
    };
    handle(&rig.service, delivery("first", false)).await;
    // Sent again by a producer whose queue was gone, taken by a worker that died of it.
    handle(&rig.service, delivery("second", true)).await;
    assert_eq!((rig.runs(), rig.published().len()), (1, 2));
    handle(&rig.service, delivery("second", true)).await;
    assert_eq!((rig.runs(), rig.published().len()), (1, 2), "told once");
    rig.check().await;
}
