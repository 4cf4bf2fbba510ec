# Tries what no job may do, and says for each what came of it: the name of an error, or that it worked.
import ctypes, errno, json, os, pathlib, socket

libc = ctypes.CDLL(None, use_errno=True)
found = {}


def call(name, number, *arguments):
    """A system call by its number on x86-64."""
    returned = libc.syscall(number, *arguments)
    found[name] = errno.errorcode[ctypes.get_errno()] if returned < 0 else "worked"


def attempt(name, action):
    try:
        action()
        found[name] = "worked"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]


call("mount", 165, b"none", b"/tmp", b"tmpfs", 0, None)
call("umount", 166, b"/proc", 2)
call("move_mount", 429, -1, b"/", -1, b"/tmp", 0)
call("fsopen", 430, b"tmpfs", 0)
call("open_tree", 428, -100, b"/", 0)
call("pivot_root", 155, b"/tmp", b"/tmp")
call("chroot", 161, b"/tmp")
call("ptrace_init", 101, 16, os.getppid(), 0, 0)
call("ptrace_me", 101, 0, 0, 0, 0)
call("process_vm_readv", 310, os.getppid(), None, 0, None, 0, 0)
call("unshare_user", 272, 0x10000000)
call("unshare_mount", 272, 0x20000)
call("unshare_net", 272, 0x40000000)
call("setns", 308, 0, 0)
call("clone_user", 56, 0x10000000 | 17, 0, 0, 0, 0)
call("clone3", 435, None, 0)
call("reboot", 169, 0xFEE1DEAD, 672274793, 0x4321FEDC, None)
call("kexec_load", 246, 0, 0, None, 0)
call("kexec_file_load", 320, -1, -1, 0, None, 0)
call("bpf", 321, 0, None, 0)
call("perf_event_open", 298, None, 0, -1, -1, 0)
call("userfaultfd", 323, 0)
call("io_uring_setup", 425, 1, None)
call("io_uring_enter", 426, 0, 0, 0, 0, None, 0)
call("keyctl", 250, 0, -3, 0)
call("add_key", 248, b"user", b"x", b"y", 1, -3)
call("request_key", 249, b"user", b"x", None, 0)
call("open_by_handle_at", 304, -100, None, 0)
call("name_to_handle_at", 303, -100, b"/", None, None, 0)
call("init_module", 175, None, 0, b"")
call("finit_module", 313, -1, b"", 0)
call("delete_module", 176, b"vsock", 0)
call("swapon", 167, b"/work/x", 0)
call("acct", 163, None)
call("quotactl", 179, 0, None, 0, None)
call("syslog", 103, 3, None, 0)
call("settimeofday", 164, None, None)
call("sethostname", 170, b"x", 1)
call("iopl", 172, 3)
call("kill_init", 62, 1, 9)
call("setuid", 105, 0)
call("no_such_call", -1)

for family in range(1, 46):
    attempt(f"family_{family}", lambda: socket.socket(family, socket.SOCK_STREAM).close())
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close())
attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close())
attempt("vsock", lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).connect((2, 9000)))
attempt("pair", lambda: socket.socketpair())
attempt("vsock_pair", lambda: socket.socketpair(socket.AF_VSOCK))

for device in ["vda", "vdb", "ttyS0", "ttyS1", "vsock", "console", "tty", "kmsg", "mem", "port", "ptmx", "kvm"]:
    attempt(f"dev_{device}", lambda: open(f"/dev/{device}", "rb").close())
attempt("mknod", lambda: os.mknod("/work/vda", 0o60600, os.makedev(254, 0)))
for path in ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/dev/x", "/sys/x",
             "/run/x", "/scratch/x", "/etc/x", "/usr/x", "/x", "/proc/1/oom_score_adj", "/var/tmp/x", "/home/x"]:
    attempt(f"write_{path}", lambda: open(path, "w").close())
for path in ["/proc/1/mem", "/proc/1/environ", "/proc/1/maps", "/proc/1/root/etc/passwd", "/proc/kcore", "/proc/kmsg",
             "/etc/shadow", "/scratch/work/main.py", "/sys/fs/cgroup/cgroup.procs", "/run/hearth/hostname"]:
    attempt(f"read_{path}", lambda: open(path, "rb").read(1))

status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
found["status"] = {key: status[key].strip() for key in
                   ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "NSpid"]}
found["dev"] = sorted(os.listdir("/dev"))
found["listed"] = {place: os.listdir(place) for place in ["/sys", "/run", "/scratch", "/dev/shm"]}
found["processes"] = [name for name in os.listdir("/proc") if name.isdigit()]
found["interfaces"] = [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]]
found["fds"] = sorted(os.listdir("/proc/self/fd"))[:3]
found["cwd"] = os.getcwd()
places = {line.split()[1] for line in open("/proc/self/mounts")}
found["writable"] = sorted(place for place in places if os.access(place, os.W_OK))
print(json.dumps(found))
