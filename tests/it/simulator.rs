//! The simulator against the pool over fake VMs, whose clock is virtual, too: thousands of the same jobs, and no machine that
//! makes anything late. So what differs is what the simulator does otherwise than the pool.

use std::{sync::Arc, time::Duration};

use hearth_pool::fakes::{FakeHypervisor, Knobs, Ran};
use hearth_tests::agreement::{RESTORE, agreement, policy, steady, step};

fn fake() -> FakeHypervisor {
    let knobs = Knobs { restore_takes: RESTORE, dial_takes: Duration::ZERO, ..Knobs::default() };
    FakeHypervisor::new(knobs, Arc::new(|_| Ran::prints("")))
}

#[tokio::test(start_paused = true)]
async fn a_full_pool_is_simulated_as_it_is() {
    agreement(fake(), "python", None, &steady(300, 1)).await.hold("every slot filled", 0.5, 0.03);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_follows_its_load_is_simulated_as_it_is() {
    for seed in 1..4 {
        agreement(fake(), "python", Some(policy()), &step(300, seed)).await.hold("following", 0.5, 0.03);
    }
}
