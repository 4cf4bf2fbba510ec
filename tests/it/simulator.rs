//! The simulator against the pool over fake VMs: the same jobs, once in real time, once in virtual time.

use std::sync::Arc;

use hearth_pool::{
    fakes::{FakeHypervisor, Knobs, Ran},
    scale::scaler::Policy,
};
use hearth_tests::agreement::{RESTORE, agreement, steady, step};

fn fake() -> FakeHypervisor {
    let knobs = Knobs { restore_takes: RESTORE, ..Knobs::default() };
    FakeHypervisor::new(knobs, Arc::new(|_| Ran::prints("")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_is_simulated_as_it_is() {
    agreement(fake(), "python", "every slot filled", None, &steady()).await.hold();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_follows_its_load_is_simulated_as_it_is() {
    agreement(fake(), "python", "following the load", Some(Policy::default()), &step()).await.hold();
}
