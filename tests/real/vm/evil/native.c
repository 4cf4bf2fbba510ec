// Programs in C that mean harm: the first argument says which.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile char sink;
static void touch(char *at, size_t size) { for (size_t n = 0; n < size; n += 4096) at[n] = 1; }
static void forever(void) { for (;;) pause(); }
static void refused(const char *what, long result) { printf("%s %s\n", what, result < 0 ? strerrorname_np(errno) : "worked"); }

// Memory.
static void hog_malloc(void) { for (;;) { char *at = malloc(1 << 20); if (at) touch(at, 1 << 20); } }
static void hog_mmap(void) {
    char *at = mmap(0, 1L << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    touch(at, 1L << 30);
}
static void hog_populate(void) {
    for (;;) mmap(0, 1 << 22, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
}
static void hog_memfd(void) {
    static char block[1 << 16];
    int fd = memfd_create("hog", 0);
    for (;;) if (write(fd, block, sizeof block) < 0) forever();
}
static void hog_shm(void) {
    int id = shmget(IPC_PRIVATE, 1L << 30, IPC_CREAT | SHM_NORESERVE | 0600);
    char *at = shmat(id, 0, 0);
    if (at == (char *)-1) { refused("shm", -1); exit(9); }
    touch(at, 1L << 30);
}
static void hog_children(void) {
    for (int n = 0; n < 60; n++) if (!fork()) { touch(malloc(4 << 20), 4 << 20); forever(); }
    forever();
}
static void hog_pipes(void) {
    static char block[1 << 16];
    int ends[2];
    while (pipe2(ends, O_NONBLOCK) == 0) {
        fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);
        while (write(ends[1], block, sizeof block) > 0) {}
    }
    refused("pipe", -1);
}
static void hog_locked(void) { refused("mlockall", mlockall(MCL_CURRENT)); hog_malloc(); }
static int deep(int n) { char room[4096]; touch(room, sizeof room); sink = room[n % 4096]; return deep(n + 1) + room[0]; }
static void stack(void) { sink = deep(0); }
static void *deep_thread(void *none) { sink = deep(0); return none; }
static void stack_thread(void) { pthread_t thread; pthread_create(&thread, 0, deep_thread, 0); pthread_join(thread, 0); }

// Processes.
static void bomb(void) { for (;;) fork(); }
static void bomb_setsid(void) { for (;;) if (!fork()) setsid(); }
static void bomb_double(void) { for (;;) if (!fork() && fork()) _exit(0); }
static void bomb_vfork(void) { for (;;) if (!vfork()) { execl("/proc/self/exe", "native", "bomb_vfork", (char *)0); _exit(1); } }
static void *idle(void *none) { forever(); return none; }
static void bomb_threads(void) { pthread_t thread; for (;;) pthread_create(&thread, 0, idle, 0); }
static void bomb_deaf(void) { for (int n = 1; n < 65; n++) signal(n, SIG_IGN); bomb_double(); }

// Time.
static void spin(void) { for (;;) sink++; }
static void spin_children(void) { for (int n = 0; n < 3; n++) if (!fork()) { setsid(); if (fork()) _exit(0); spin(); } forever(); }
static void deaf(void) { sigset_t all; sigfillset(&all); sigprocmask(SIG_BLOCK, &all, 0); forever(); }
static void stop_itself(void) { raise(SIGSTOP); forever(); }
static void stop_family(void) { if (!fork()) { kill(getppid(), SIGSTOP); forever(); } kill(0, SIGSTOP); forever(); }
static void stop_parent(void) { int all[] = {SIGSTOP, SIGKILL, SIGTERM}; for (int n = 0; n < 3; n++) refused("kill", kill(getppid(), all[n])); }
static void orphan(void) { if (!fork()) { setsid(); if (fork()) _exit(0); close(0); close(1); close(2); spin(); } wait(0); exit(3); }

// Output.
static void flood(int fd) { static char block[65536]; for (;;) if (write(fd, block, sizeof block) < 0) exit(9); }
static void flood_out(void) { flood(1); }
static void flood_err(void) { flood(2); }
static void flood_both(void) { if (!fork()) flood(2); flood(1); }
static void flood_bytes(void) { for (;;) if (write(1, "x", 1) < 0) exit(9); }
static void slowly(void) { for (int n = 0; n < 20; n++) { if (write(1, "s", 1) < 0) exit(9); usleep(50000); } }
static void all_bytes(void) { for (int n = 0; n < 256; n++) putchar(n); }
static void nuls(void) { static char block[1000]; fwrite(block, 1, sizeof block, stdout); }
static void long_line(void) { for (int n = 0; n < 1 << 20; n++) putchar('l'); }

// The machine.
static void sockets(void) {
    int opened = 0;
    for (int family = 0; family < 64; family++)
        for (int type = 1; type <= 10; type++)
            if (family != AF_UNIX && (socket(family, type, 0) >= 0 || errno != EAFNOSUPPORT)) opened++;
    printf("others %d\n", opened);
    refused("unix", socket(AF_UNIX, SOCK_STREAM, 0));
    int pair[2];
    refused("vsock_pair", socketpair(AF_VSOCK, SOCK_STREAM, 0, pair));
}
static void dial(void) {
    unsigned cids[] = {VMADDR_CID_HOST, VMADDR_CID_LOCAL, 3, 4, 5, 6, 7, 8, 9, 10, VMADDR_CID_ANY};
    int made = 0, reached = 0;
    for (unsigned n = 0; n < sizeof cids / sizeof *cids; n++)
        for (unsigned port = 8999; port < 10001; port++) {
            // 8999 and 10000 stand for the agent's own.
            struct sockaddr_vm to = {.svm_family = AF_VSOCK, .svm_cid = cids[n], .svm_port = port == 8999 || port == 10000 ? 1000 : port};
            int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
            made += fd >= 0;
            // Whatever descriptor this is: it must not become a way.
            reached += connect(fd >= 0 ? fd : 1, (struct sockaddr *)&to, sizeof to) == 0;
            if (fd >= 0) close(fd);
        }
    unsigned own = 0;
    int dev = open("/dev/vsock", O_RDONLY);
    printf("made %d reached %d dev %d\n", made, reached, dev >= 0 && ioctl(dev, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &own) == 0);
}
static void machine(void) {
    refused("chroot", chroot("/tmp"));
    refused("mount", mount("none", "/tmp", "tmpfs", 0, 0));
    refused("umount", umount2("/proc", MNT_DETACH));
    refused("ptrace_init", ptrace(PTRACE_ATTACH, 1, 0, 0));
    refused("ptrace_me", ptrace(PTRACE_TRACEME, 0, 0, 0));
    refused("reboot", reboot(RB_AUTOBOOT));
    refused("kexec", syscall(SYS_kexec_load, 0, 0, 0, 0));
    refused("swapon", syscall(SYS_swapon, "/work/x", 0));
    refused("setuid", setuid(0));
    refused("nice", setpriority(PRIO_PROCESS, 0, -20));
    struct sched_param first = {.sched_priority = 99};
    refused("realtime", sched_setscheduler(0, SCHED_FIFO, &first));
    struct rlimit more = {1 << 20, 1 << 20};
    refused("nofile", setrlimit(RLIMIT_NOFILE, &more));
    struct timeval then = {0, 0};
    refused("clock", settimeofday(&then, 0));
    refused("hostname", sethostname("evil", 4));
    refused("unshare", unshare(CLONE_NEWUSER));
    refused("kill_init", kill(1, SIGKILL));
    refused("kill_others", kill(-1, 0));
}
static void devices(void) {
    refused("mknod", mknod("disk", S_IFBLK | 0600, makedev(254, 0)));
    refused("mknod_mem", mknod("mem", S_IFCHR | 0600, makedev(1, 1)));
    int opened = 0;
    char path[64];
    const char *names[] = {"vda", "vdb", "vdc", "sda", "mem", "kmem", "port", "kmsg", "ttyS0", "ttyS1", "hvc0", "console", "tty",
                           "ptmx", "vsock", "kvm", "fuse", "net/tun", "loop-control", "mapper/control", "hpet", "rtc0", "nvram"};
    for (unsigned n = 0; n < sizeof names / sizeof *names; n++) {
        snprintf(path, sizeof path, "/dev/%s", names[n]);
        if (open(path, O_RDONLY) >= 0) { printf("opened %s\n", path); opened++; }
    }
    printf("devices %d\n", opened);
}

// The disk.
static void sparse(void) { int fd = open("sparse", O_CREAT | O_RDWR, 0600); refused("truncate", ftruncate(fd, 1L << 40)); }
static void sync_storm(void) {
    static char block[4096];
    int fd = open("storm", O_CREAT | O_RDWR, 0600);
    for (;;) if (pwrite(fd, block, sizeof block, 0) < 0 || fsync(fd) < 0) exit(9);
}
static void small_files(void) {
    char name[32];
    for (int n = 0; n < 1000000; n++) {
        snprintf(name, sizeof name, "small/%d", n);
        int fd = open(name, O_CREAT | O_WRONLY, 0600);
        if (fd < 0 || write(fd, "x", 1) != 1) { refused("small", -1); forever(); }
        close(fd);
    }
}
static void links(void) {
    char name[32];
    close(open("one", O_CREAT | O_WRONLY, 0600));
    for (int n = 0;; n++) {
        snprintf(name, sizeof name, "small/l%d", n);
        if (symlink("/etc/passwd", name) < 0) { refused("symlink", -1); forever(); }
    }
}

// IP, where it is given.
static void loopback(void) {
    int server = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    if (bind(server, (struct sockaddr *)&at, size) || listen(server, 1) || getsockname(server, (struct sockaddr *)&at, &size)) { perror("listen"); exit(9); }
    if (connect(client, (struct sockaddr *)&at, size)) { perror("connect"); exit(9); }
    int one = accept(server, 0, 0);
    if (write(client, "over tcp", 9) != 9) exit(9);
    char got[9] = "";
    if (read(one, got, 9) != 9) exit(9);
    puts(got);
    int udp = socket(AF_INET6, SOCK_DGRAM, 0);
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    size = sizeof six;
    if (bind(udp, (struct sockaddr *)&six, size) || getsockname(udp, (struct sockaddr *)&six, &size)) { perror("bind"); exit(9); }
    if (sendto(udp, "over udp", 9, 0, (struct sockaddr *)&six, size) != 9 || recv(udp, got, 9, 0) != 9) { perror("udp"); exit(9); }
    puts(got);
    refused("raw", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    refused("raw6", socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6));
    refused("ping", socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
    refused("packet", socket(AF_PACKET, SOCK_RAW, 0));
    refused("netlink", socket(AF_NETLINK, SOCK_RAW, 0));
    refused("vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
    struct sockaddr_in out = {.sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(0x0a000001)};
    refused("outside", connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&out, sizeof out));
}

#define PROGRAM(name) {#name, name}
static const struct { const char *name; void (*run)(void); } PROGRAMS[] = {
    PROGRAM(hog_malloc), PROGRAM(hog_mmap), PROGRAM(hog_populate), PROGRAM(hog_memfd), PROGRAM(hog_shm), PROGRAM(hog_children),
    PROGRAM(hog_pipes), PROGRAM(hog_locked), PROGRAM(stack), PROGRAM(stack_thread), PROGRAM(bomb), PROGRAM(bomb_setsid),
    PROGRAM(bomb_double), PROGRAM(bomb_vfork), PROGRAM(bomb_threads), PROGRAM(bomb_deaf), PROGRAM(spin), PROGRAM(spin_children),
    PROGRAM(deaf), PROGRAM(stop_itself), PROGRAM(stop_family), PROGRAM(stop_parent), PROGRAM(orphan), PROGRAM(flood_out),
    PROGRAM(flood_err), PROGRAM(flood_both), PROGRAM(flood_bytes), PROGRAM(slowly), PROGRAM(all_bytes), PROGRAM(nuls),
    PROGRAM(long_line), PROGRAM(sockets), PROGRAM(dial), PROGRAM(machine), PROGRAM(devices), PROGRAM(sparse), PROGRAM(sync_storm),
    PROGRAM(small_files), PROGRAM(links), PROGRAM(loopback), PROGRAM(abort),
};

int main(int count, char **words) {
    for (unsigned n = 0; n < sizeof PROGRAMS / sizeof *PROGRAMS; n++)
        if (count > 1 && !strcmp(words[1], PROGRAMS[n].name)) { PROGRAMS[n].run(); return 0; }
    return 99;
}
