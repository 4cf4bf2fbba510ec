//! A claim that waits longer than it may leads to its VM: one line of the log names both.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod rig;

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use hearth_pool::{fakes::Ran, scale::scaler::Policy};
use hearth_schemas::result::Verdict;
use rig::Rig;
use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Log {
    /// The lines that say this.
    fn lines(&self, message: &str) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["fields"]["message"] == message).collect()
    }
}

/// Two jobs for one VM at a time, each of which takes so long. What the log says of claims that waited long.
async fn slow_claims(target_wait: Option<Duration>, takes: Duration) -> (Vec<Value>, Log) {
    let log = Log::default();
    let subscriber =
        tracing_subscriber::fmt().json().with_max_level(tracing::Level::INFO).with_writer(log.clone());
    let _here = tracing::subscriber::set_default(subscriber.finish());
    let script = move |_: &_| Ran { takes, ..Ran::default() };
    let mut rig = Rig::with(1, script, |config| {
        config.scaling = target_wait.map(|target_wait| Policy { target_wait, ..Policy::default() });
    });
    rig.serve();
    let job = |id: &str| json!({"id": id, "runtime": "python", "code": "x"});
    // Not before the first has its VM, so that the second is the one that waits.
    let first = rig.submit(job("first"));
    let second = async {
        rig.running().await;
        rig.submit(job("second")).await
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.verdict, second.verdict), (Some(Verdict::Accepted), Some(Verdict::Accepted)));
    let seen = rig.hypervisor.seen();
    assert!(seen.wrong.is_empty());
    rig.check().await;
    (log.lines("a claim waited long"), log)
}

#[tokio::test(start_paused = true)]
async fn a_slow_claim_names_its_job_its_vm_and_the_steps_of_its_restore() {
    let (slow, log) = slow_claims(Some(Duration::from_millis(600)), Duration::from_secs(2)).await;
    let [line] = &slow[..] else { panic!("{slow:#?}") };
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["span"]["job"], "second", "{line:#}");
    let (fields, slot) = (&line["fields"], "python-0");
    assert_eq!(
        (fields["slot"].as_str(), line["span"]["slot"].as_str()),
        (Some(slot), Some(slot)),
        "{line:#}"
    );
    assert!(fields["cid"].as_u64().unwrap() >= 3 && fields["cid"] == line["span"]["cid"], "{line:#}");
    let steps = fields["steps"].as_str().unwrap();
    assert!(["fake ", "dial ", "hello ", "wake "].iter().all(|step| steps.contains(step)), "{steps}");
    assert_eq!(
        (fields["target_wait"].as_str(), fields["outcome"].as_str()),
        (Some("Some(600ms)"), Some("Wait"))
    );
    let claims = log.lines("claimed");
    assert_eq!(claims.len(), 1, "the first, which did not wait long: {claims:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_claim_within_its_promise_is_no_warning() {
    let (slow, _) = slow_claims(Some(Duration::from_secs(10)), Duration::from_secs(2)).await;
    assert!(slow.is_empty(), "{slow:#?}");
    let (slow, _) = slow_claims(None, Duration::from_secs(2)).await;
    assert!(slow.is_empty(), "nothing is promised, and five seconds are not over: {slow:#?}");
    let (slow, _) = slow_claims(None, Duration::from_secs(6)).await;
    assert_eq!(slow.len(), 1);
}
