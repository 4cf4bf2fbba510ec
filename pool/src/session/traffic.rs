//! How much goes over a session, for metrics.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Bytes of files and standard streams that went over a session so far; clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Traffic(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    to_vm: AtomicU64,
    from_vm: AtomicU64,
}

impl Traffic {
    pub(super) fn sent(&self, bytes: usize) {
        self.0.to_vm.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.0.from_vm.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes that went into the VM.
    pub fn to_vm(&self) -> u64 {
        self.0.to_vm.load(Ordering::Relaxed)
    }

    /// Bytes that came out of it.
    pub fn from_vm(&self) -> u64 {
        self.0.from_vm.load(Ordering::Relaxed)
    }
}
