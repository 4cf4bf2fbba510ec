//! Few threads: most of what a job costs is waking and sleeping, and a thread more is one more to wake. So work that would
//! keep all others waiting steps aside.

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::settings::Settings;

/// Slots that one thread serves: it does a thousand jobs a second, and a VM lives for a tenth of a second at least.
const SLOTS_OF_A_THREAD: usize = 128;
/// Work on more bytes than this steps aside: it takes longer than a thread takes to wake, a millisecond against tens of
/// microseconds.
const HEAVY_BYTES: usize = 256 * 1024;

/// How many threads a worker with so many slots runs its tasks on, where there are so many cores: one for each 128 slots,
/// and half of the cores at most, since VMs, broker and ledger have to run, too. At least one. What blocks has
/// threads of its own, and so has each connection to the broker.
pub fn threads(slots: usize, cores: usize) -> usize {
    slots.div_ceil(SLOTS_OF_A_THREAD).min(cores / 2).max(1)
}

/// The same, of a worker with these settings on this machine.
pub fn threads_here(settings: &Settings) -> usize {
    let slots = settings.slots.values().map(|slots| *slots as usize).sum();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    settings.threads.unwrap_or_else(|| threads(slots, cores))
}

/// Does work on so many bytes; if they are many, while another thread goes on with the tasks of this one.
pub(crate) fn heavy<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let many = || Handle::try_current().is_ok_and(|here| here.runtime_flavor() == RuntimeFlavor::MultiThread);
    match bytes > HEAVY_BYTES && many() {
        true => tokio::task::block_in_place(work),
        false => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{Receiver, SyncSender, sync_channel},
        time::Duration,
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn threads_go_with_slots_and_leave_half_of_the_cores() {
        assert_eq!(threads(0, 1), 1);
        assert_eq!(threads(10, 2), 1);
        assert_eq!(threads(1000, 2), 1);
        assert_eq!(threads(128, 64), 1);
        assert_eq!(threads(129, 64), 2);
        assert_eq!(threads(1000, 8), 4);
        assert_eq!(threads(1000, 64), 8);
    }

    /// Each waits in the middle of its work for the other to be in the middle of its own.
    #[test]
    fn heavy_work_keeps_nobody_waiting_on_a_single_thread() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(async {
            let ((to_one, one), (to_other, other)) = (sync_channel(1), sync_channel(1));
            let work = |say: SyncSender<()>, hear: Receiver<()>| {
                tokio::spawn(async move {
                    heavy(HEAVY_BYTES + 1, || say.send(()).is_ok() && hear.recv_timeout(LIMIT).is_ok())
                })
            };
            let (one, other) = (work(to_other, one), work(to_one, other));
            assert!(one.await.unwrap() && other.await.unwrap());
        });
    }

    #[tokio::test]
    async fn where_no_thread_could_take_over_it_is_just_done() {
        assert_eq!(heavy(HEAVY_BYTES + 1, || 1), 1);
    }
}
