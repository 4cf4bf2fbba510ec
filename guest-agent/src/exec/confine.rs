//! The system calls that a job may not make: what a network namespace does not confine (AF_VSOCK reaches the host),
//! io_uring (which makes calls that no filter sees), and the calls of foreign ABIs.

#![allow(unsafe_code, reason = "a seccomp filter is given to prctl(2) as a pointer")]

use std::ptr;

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS, sock_filter, sock_fprog,
};
use rustix::io::Errno;

/// Offsets in `struct seccomp_data` (linux/seccomp.h); of the first argument the low half, on little endian.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// linux/audit.h.
#[cfg(target_arch = "x86_64")]
const OWN_ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const OWN_ARCHITECTURE: u32 = 0xc000_00b7;
/// Calls of x32 have this bit (asm/unistd.h: `__X32_SYSCALL_BIT`); no other ABI has numbers that large.
const FOREIGN_NUMBERS: u32 = 0x4000_0000;

const ALLOW: u32 = SECCOMP_RET_ALLOW;
const NO_SUCH_CALL: u32 = SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const NO_SUCH_FAMILY: u32 = SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32;

const fn load(offset: u32) -> sock_filter {
    sock_filter { code: (BPF_LD | BPF_W | BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}

/// Skips so many instructions when the loaded value is `value`, others when it is not.
const fn equal(value: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | BPF_JEQ | BPF_K) as u16, jt, jf, k: value }
}

const fn at_least(value: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | BPF_JGE | BPF_K) as u16, jt, jf, k: value }
}

const fn answer(action: u32) -> sock_filter {
    sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k: action }
}

static FILTER: [sock_filter; 15] = [
    load(ARCHITECTURE),
    equal(OWN_ARCHITECTURE, 1, 0),
    answer(SECCOMP_RET_KILL_PROCESS),
    load(NUMBER),
    at_least(FOREIGN_NUMBERS, 5, 0),
    equal(libc::SYS_io_uring_setup as u32, 4, 0),
    equal(libc::SYS_io_uring_enter as u32, 3, 0),
    equal(libc::SYS_io_uring_register as u32, 2, 0),
    equal(libc::SYS_socket as u32, 2, 0),
    equal(libc::SYS_socketpair as u32, 1, 4),
    answer(NO_SUCH_CALL),
    load(FIRST_ARGUMENT),
    equal(libc::AF_UNIX as u32, 1, 0),
    answer(NO_SUCH_FAMILY),
    answer(ALLOW),
];

/// Puts the filter on this process and all that it starts, for good. Needs no_new_privs. Only system calls.
pub(super) fn confine() -> Result<(), Errno> {
    let program = sock_fprog { len: FILTER.len() as u16, filter: ptr::from_ref(&FILTER).cast_mut().cast() };
    // SAFETY: the kernel copies the program, which lives for ever, and writes nothing.
    let done = unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, ptr::from_ref(&program), 0, 0)
    };
    if done == 0 { Ok(()) } else { Err(super::spawn::last_errno()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel would.
    fn verdict(architecture: u32, number: i64, argument: u32) -> u32 {
        let (mut at, mut loaded) = (0usize, 0u32);
        loop {
            let step = FILTER[at];
            at += 1;
            let jump = |yes: bool| usize::from(if yes { step.jt } else { step.jf });
            match u32::from(step.code) {
                code if code == BPF_RET | BPF_K => return step.k,
                code if code == BPF_JMP | BPF_JEQ | BPF_K => at += jump(loaded == step.k),
                code if code == BPF_JMP | BPF_JGE | BPF_K => at += jump(loaded >= step.k),
                _ => {
                    loaded = match step.k {
                        NUMBER => number as u32,
                        ARCHITECTURE => architecture,
                        _ => argument,
                    }
                }
            }
        }
    }

    #[test]
    fn only_local_sockets_and_own_calls_pass() {
        let own = |number, argument| verdict(OWN_ARCHITECTURE, number, argument);
        assert_eq!(own(libc::SYS_read, 0), ALLOW);
        assert_eq!(own(libc::SYS_execve, 40), ALLOW);
        for call in [libc::SYS_socket, libc::SYS_socketpair] {
            assert_eq!(own(call, libc::AF_UNIX as u32), ALLOW);
            for family in [libc::AF_VSOCK, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET] {
                assert_eq!(own(call, family as u32), NO_SUCH_FAMILY);
            }
        }
        for call in [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register] {
            assert_eq!(own(call, 0), NO_SUCH_CALL);
        }
        assert_eq!(own(i64::from(FOREIGN_NUMBERS) + libc::SYS_socket, 1), NO_SUCH_CALL);
        assert_eq!(verdict(0x4000_0003, 102, 1), SECCOMP_RET_KILL_PROCESS, "i386's socketcall");
    }
}
