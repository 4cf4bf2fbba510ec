//! What is freed goes back to the kernel.
#![allow(
    unsafe_code,
    reason = "the C library's allocator is told by a call that has no safe form; see SAFETY below"
)]

/// glibc maps what is larger, one by one, and unmaps it when it is freed. It begins with this size, too, but with the first
/// large thing that is freed it goes up to the size of that, and keeps up to twice as much in the heap of every thread:
/// one buffer of 5 MiB, and a worker's memory grows with its threads instead of with its work.
#[cfg(target_env = "gnu")]
const MAPPED_FROM_BYTES: std::ffi::c_int = 128 * 1024;

/// Keeps the memory of this process flat, however large what it carries. Before anything else runs.
pub fn keep_flat() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets one number of the allocator, under the allocator's own lock.
    let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES) };
}
