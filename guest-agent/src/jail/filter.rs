//! The system calls that a job may not make. Namespaces do not confine all of them (AF_VSOCK reaches the host), some
//! are made where no filter sees them (io_uring), and most of the rest is the part of the kernel in which holes are
//! found, for which no job of a judge has any use.
//!
//! What a program may try without meaning harm gets an error; calls of foreign ABIs, whose numbers mean something
//! else, end it.

#![allow(unsafe_code, reason = "a seccomp filter is given to prctl(2) as a pointer")]

use std::ptr;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W,
    SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS, sock_filter, sock_fprog,
};
use rustix::io::Errno;

/// Offsets in `struct seccomp_data` (linux/seccomp.h); of an argument the low half, on little endian.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: [u32; 3] = [16, 24, 32];

/// What of a socket's type is no flag (linux/net.h: `SOCK_TYPE_MASK`).
const SOCKET_TYPE: u32 = 0xf;

/// linux/audit.h.
#[cfg(target_arch = "x86_64")]
const OWN_ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const OWN_ARCHITECTURE: u32 = 0xc000_00b7;
/// Calls of x32 have this bit (asm/unistd.h: `__X32_SYSCALL_BIT`); no other ABI has numbers that large.
const FOREIGN_NUMBERS: u32 = 0x4000_0000;
/// `syscall(-1)`, which is nobody's call and harmless.
const NO_NUMBER: u32 = u32::MAX;
/// Every CLONE_NEW* of linux/sched.h that clone(2) takes.
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

const ALLOW: u32 = SECCOMP_RET_ALLOW;
const KILL: u32 = SECCOMP_RET_KILL_PROCESS;
const REFUSED: u32 = SECCOMP_RET_ERRNO | libc::EPERM as u32;
const NO_SUCH_CALL: u32 = SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const NO_SUCH_FAMILY: u32 = SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32;
const NO_SUCH_PROTOCOL: u32 = SECCOMP_RET_ERRNO | libc::EPROTONOSUPPORT as u32;

/// As on a kernel that is too old: libc does without. What clone3 asks for is in memory, where no filter looks.
const ABSENT: &[i64] =
    &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Not permitted, whoever asks.
const DENIED: &[i64] = &[
    // File systems and roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_acct,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    // Namespaces.
    libc::SYS_unshare,
    libc::SYS_setns,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // The kernel and the machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// To the end of a tree; how far that is comes when the tree is whole.
const PASS: sock_filter = sock_filter { code: (BPF_JMP | BPF_JA) as u16, jt: 0, jf: 0, k: u32::MAX };

const fn load(offset: u32) -> sock_filter {
    sock_filter { code: (BPF_LD | BPF_W | BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}

/// Skips `jt` instructions when the comparison of the loaded value with `value` holds, `jf` when not.
const fn jump(comparison: u32, value: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | comparison | BPF_K) as u16, jt, jf, k: value }
}

const fn answer(action: u32) -> sock_filter {
    sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k: action }
}

const fn keep(bits: u32) -> sock_filter {
    sock_filter { code: (BPF_ALU | BPF_AND | BPF_K) as u16, jt: 0, jf: 0, k: bits }
}

/// Which sockets may be made. Comes after the call's number was loaded, and answers where it is one of these calls;
/// else it is passed through with the number still loaded.
fn sockets(ip: bool) -> Vec<sock_filter> {
    let [family, kind, protocol] = ARGUMENTS.map(load);
    let pair = [
        jump(BPF_JEQ, libc::SYS_socketpair as u32, 0, 4),
        family,
        jump(BPF_JEQ, libc::AF_UNIX as u32, 0, 1),
        answer(ALLOW),
        answer(NO_SUCH_FAMILY),
    ];
    let local = [family, jump(BPF_JEQ, libc::AF_UNIX as u32, 0, 1), answer(ALLOW)];
    let other = [answer(NO_SUCH_FAMILY)];
    // TCP and UDP: no raw sockets, whose packets say what they like, and none of the rarer protocols.
    let internet = [
        jump(BPF_JEQ, libc::AF_INET as u32, 2, 0),
        jump(BPF_JEQ, libc::AF_INET6 as u32, 1, 0),
        answer(NO_SUCH_FAMILY),
        kind,
        keep(SOCKET_TYPE),
        jump(BPF_JEQ, libc::SOCK_STREAM as u32, 2, 0),
        jump(BPF_JEQ, libc::SOCK_DGRAM as u32, 1, 0),
        answer(REFUSED),
        protocol,
        jump(BPF_JEQ, 0, 2, 0),
        jump(BPF_JEQ, libc::IPPROTO_TCP as u32, 1, 0),
        jump(BPF_JEQ, libc::IPPROTO_UDP as u32, 0, 1),
        answer(ALLOW),
        answer(NO_SUCH_PROTOCOL),
    ];
    let rest: &[sock_filter] = if ip { &internet } else { &other };
    let single: Vec<_> = local.iter().chain(rest).copied().collect();
    let skip = jump(BPF_JEQ, libc::SYS_socket as u32, 0, single.len() as u8);
    pair.into_iter().chain([skip]).chain(single).collect()
}

/// Answers the calls that are judged by their number alone, found by halving; any other is passed through. When a filter
/// is put on, the kernel runs it for every number that there is: one comparison after the other takes it longer than four
/// times starting a program.
fn by_number(calls: impl Iterator<Item = (u32, u32)>) -> Vec<sock_filter> {
    let mut calls: Vec<_> = calls.collect();
    calls.sort_unstable();
    let mut tree = halves(&calls);
    let length = tree.len();
    for (at, step) in tree.iter_mut().enumerate() {
        if *step == PASS {
            step.k = (length - at - 1) as u32;
        }
    }
    tree
}

fn halves(calls: &[(u32, u32)]) -> Vec<sock_filter> {
    /// So few are compared one by one.
    const FEW: usize = 3;
    let (lower, upper) = calls.split_at(calls.len() / 2);
    match upper.first() {
        Some((middle, _)) if calls.len() > FEW => {
            let lower = halves(lower);
            let choice = jump(BPF_JGE, *middle, lower.len() as u8, 0);
            [choice].into_iter().chain(lower).chain(halves(upper)).collect()
        }
        _ => {
            let one = |(number, action): &(u32, u32)| [jump(BPF_JEQ, *number, 0, 1), answer(*action)];
            calls.iter().flat_map(one).chain([PASS]).collect()
        }
    }
}

/// A filter, ready to be put on.
#[derive(Clone, Debug)]
pub(crate) struct Filter(Vec<sock_filter>);

impl Filter {
    /// The filter of every job; `ip` lets it have TCP and UDP.
    pub(crate) fn of_jobs(ip: bool) -> Self {
        let head = [
            load(ARCHITECTURE),
            jump(BPF_JEQ, OWN_ARCHITECTURE, 1, 0),
            answer(KILL),
            load(NUMBER),
            jump(BPF_JGE, FOREIGN_NUMBERS, 0, 3),
            jump(BPF_JEQ, NO_NUMBER, 0, 1),
            answer(NO_SUCH_CALL),
            answer(KILL),
        ];
        let absent = ABSENT.iter().map(|number| (*number as u32, NO_SUCH_CALL));
        let denied = DENIED.iter().map(|number| (*number as u32, REFUSED));
        let clones = [
            jump(BPF_JEQ, libc::SYS_clone as u32, 0, 3),
            load(ARGUMENTS[0]),
            jump(BPF_JSET, NAMESPACES, 0, 1),
            answer(REFUSED),
            answer(ALLOW),
        ];
        Self(
            head.into_iter()
                .chain(by_number(absent.chain(denied)))
                .chain(sockets(ip))
                .chain(clones)
                .collect(),
        )
    }

    /// Puts it on this process and all that it starts, for good. Needs no_new_privs. Only system calls.
    pub(crate) fn put_on(&self) -> Result<(), Errno> {
        let program = sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: the kernel copies the program, which outlives the call, and writes nothing.
        let done = unsafe {
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, ptr::from_ref(&program), 0, 0)
        };
        if done == 0 { Ok(()) } else { Err(super::last_errno()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel would.
    fn verdict(ip: bool, architecture: u32, number: i64, arguments: [u32; 3]) -> u32 {
        let filter = Filter::of_jobs(ip).0;
        let (mut at, mut loaded) = (0usize, 0u32);
        loop {
            let step = filter[at];
            at += 1;
            let jump = |yes: bool| usize::from(if yes { step.jt } else { step.jf });
            match u32::from(step.code) {
                code if code == BPF_RET | BPF_K => return step.k,
                code if code == BPF_JMP | BPF_JEQ | BPF_K => at += jump(loaded == step.k),
                code if code == BPF_JMP | BPF_JGE | BPF_K => at += jump(loaded >= step.k),
                code if code == BPF_JMP | BPF_JSET | BPF_K => at += jump(loaded & step.k != 0),
                code if code == BPF_ALU | BPF_AND | BPF_K => loaded &= step.k,
                code if code == BPF_JMP | BPF_JA => at += step.k as usize,
                _ => {
                    loaded = match step.k {
                        NUMBER => number as u32,
                        ARCHITECTURE => architecture,
                        at => arguments[ARGUMENTS.iter().position(|argument| *argument == at).unwrap()],
                    }
                }
            }
        }
    }

    fn own(number: i64, argument: u32) -> u32 {
        // What nobody asks for must not make a difference.
        verdict(false, OWN_ARCHITECTURE, number, [argument, libc::SOCK_STREAM as u32, 0])
    }

    fn socket(ip: bool, family: i32, kind: i32, protocol: i32) -> u32 {
        let arguments = [family, kind, protocol].map(|argument| argument as u32);
        verdict(ip, OWN_ARCHITECTURE, libc::SYS_socket, arguments)
    }

    #[test]
    fn only_local_sockets_pass() {
        for call in [libc::SYS_socket, libc::SYS_socketpair] {
            assert_eq!(own(call, libc::AF_UNIX as u32), ALLOW);
            for family in [libc::AF_VSOCK, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET] {
                assert_eq!(own(call, family as u32), NO_SUCH_FAMILY);
            }
        }
    }

    #[test]
    fn with_ip_tcp_and_udp_pass_and_nothing_else() {
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        for family in [libc::AF_INET, libc::AF_INET6] {
            for (kind, protocol) in [
                (libc::SOCK_STREAM, 0),
                (libc::SOCK_STREAM | flags, libc::IPPROTO_TCP),
                (libc::SOCK_DGRAM, 0),
                (libc::SOCK_DGRAM | flags, libc::IPPROTO_UDP),
            ] {
                assert_eq!(socket(true, family, kind, protocol), ALLOW);
                assert_eq!(socket(false, family, kind, protocol), NO_SUCH_FAMILY);
            }
            for kind in [libc::SOCK_RAW, libc::SOCK_SEQPACKET, libc::SOCK_RAW | flags, 0] {
                assert_eq!(socket(true, family, kind, 0), REFUSED);
            }
            for protocol in [libc::IPPROTO_ICMP, libc::IPPROTO_RAW, libc::IPPROTO_SCTP, 262] {
                assert_eq!(socket(true, family, libc::SOCK_DGRAM, protocol), NO_SUCH_PROTOCOL);
            }
        }
        assert_eq!(socket(true, libc::AF_UNIX, libc::SOCK_SEQPACKET, 0), ALLOW);
        let open = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
        for family in (0..64).filter(|family| !open.contains(family)) {
            assert_eq!(socket(true, family, libc::SOCK_STREAM, 0), NO_SUCH_FAMILY, "family {family}");
            assert_eq!(socket(false, family, libc::SOCK_STREAM, 0), NO_SUCH_FAMILY, "family {family}");
        }
        let pair = |family| verdict(true, OWN_ARCHITECTURE, libc::SYS_socketpair, [family as u32, 1, 0]);
        assert_eq!((pair(libc::AF_UNIX), pair(libc::AF_INET)), (ALLOW, NO_SUCH_FAMILY));
    }

    #[test]
    fn with_ip_everything_else_is_as_without() {
        for call in (0..500).filter(|call| *call != libc::SYS_socket) {
            for argument in [0, 1, 2, 17, u32::MAX, NAMESPACES] {
                let of = |ip| verdict(ip, OWN_ARCHITECTURE, call, [argument; 3]);
                assert_eq!(of(true), of(false), "call {call} with {argument}");
            }
        }
    }

    #[test]
    fn threads_and_forks_pass_and_namespaces_do_not() {
        let thread =
            libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
        assert_eq!(own(libc::SYS_clone, thread as u32), ALLOW);
        assert_eq!(own(libc::SYS_clone, (libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD) as u32), ALLOW);
        for kind in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWPID | libc::SIGCHLD] {
            assert_eq!(own(libc::SYS_clone, kind as u32), REFUSED);
        }
        assert_eq!(own(libc::SYS_clone3, 0), NO_SUCH_CALL);
    }

    #[test]
    fn every_listed_call_is_refused_and_others_pass() {
        assert!(DENIED.iter().all(|call| own(*call, 0) == REFUSED));
        assert!(ABSENT.iter().all(|call| own(*call, 0) == NO_SUCH_CALL));
        for call in [libc::SYS_read, libc::SYS_execve, libc::SYS_mmap, libc::SYS_futex, libc::SYS_personality]
        {
            assert_eq!(own(call, 40), ALLOW);
        }
    }

    #[test]
    fn a_foreign_abi_is_the_end() {
        assert_eq!(verdict(true, 0x4000_0003, 102, [1; 3]), KILL, "i386's socketcall");
        assert_eq!(own(i64::from(FOREIGN_NUMBERS) + libc::SYS_socket, 1), KILL, "x32");
        assert_eq!(own(-1, 0), NO_SUCH_CALL);
    }
}
