//! The simulator against the pool over VMs that are processes: real starts, handshakes, wakes and ends, in real time.

use hearth_tests::{
    agreement::{RESTORE, agreement, steady},
    process::{RUNTIME, run_dir},
};

use super::machine;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_of_processes_is_simulated_as_it_is() {
    let Some(machine) = machine() else { return };
    let directory = run_dir().unwrap();
    let (hypervisor, _) = machine.hypervisor(directory.path(), "w", RESTORE, None).await.unwrap();
    agreement(hypervisor, RUNTIME, "every slot filled", None, &steady()).await.hold();
}
