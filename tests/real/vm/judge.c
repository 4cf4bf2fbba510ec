/* Says `clean` if nothing of another case is to be seen, leaves what its first argument names, and ends as the second says. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static int found;

static void see(const char *where, const char *what) {
    found = 1;
    printf("left: %s %s\n", where, what);
}

/* What is in a directory beside what may be there. */
static void in(const char *directory, const char *allowed) {
    DIR *d = opendir(directory);
    if (!d) return see(directory, "cannot be read");
    for (struct dirent *e; (e = readdir(d));) {
        char name[300];
        snprintf(name, sizeof name, " %s ", e->d_name);
        if (!strstr(allowed, name)) see(directory, e->d_name);
    }
    closedir(d);
}

static int lines(const char *path) {
    FILE *f = fopen(path, "r");
    int n = 0, c;
    if (!f) return 0;
    while ((c = getc(f)) != EOF) n += c == '\n';
    fclose(f);
    return n;
}

static int abstract_socket(void) {
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "\0left"};
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    if (s >= 0 && bind(s, (struct sockaddr *)&name, sizeof(sa_family_t) + 5) == 0) return s;
    close(s);
    return -1;
}

static void look(void) {
    struct stat work;
    struct itimerval timer;
    in("/work", " . .. main.c main ");
    in("/tmp", " . .. ");
    in("/dev/shm", " . .. ");
    if (stat("/work", &work) || (work.st_mode & 0777) != 0755) see("/work", "has another mode");
    DIR *d = opendir("/proc");
    for (struct dirent *e; d && (e = readdir(d));)
        if (atoi(e->d_name) > 0 && atoi(e->d_name) != getpid()) see("process", e->d_name);
    if (d) closedir(d);
    if (lines("/proc/sysvipc/shm") > 1) see("System V", "shared memory");
    if (lines("/proc/sysvipc/sem") > 1) see("System V", "semaphores");
    if (lines("/proc/sysvipc/msg") > 1) see("System V", "a message queue");
    if (mq_open("/left", O_RDONLY) >= 0) see("POSIX", "a message queue");
    if (shm_open("/left", O_RDONLY, 0) >= 0) see("POSIX", "shared memory");
    if (lines("/proc/self/timers") > 0) see("timer", "timer_create");
    for (int which = ITIMER_REAL; which <= ITIMER_PROF; which++)
        if (getitimer(which, &timer) || timer.it_value.tv_sec || timer.it_value.tv_usec) see("timer", "setitimer");
    int s = abstract_socket();
    if (s < 0) see("socket", "abstract");
    close(s);
}

static void touch(const char *path) {
    int f = open(path, O_CREAT | O_WRONLY, 0666);
    if (f < 0 || write(f, "secret", 6) != 6) exit(90);
    close(f);
}

/* A process of its own session that nobody waits for; 1 in it. */
static int daemon_of_mine(void) {
    pid_t first = fork();
    if (first < 0) exit(91);
    if (first > 0) return 0;
    setsid();
    if (fork() != 0) _exit(0);
    for (int fd = 0; fd < 3; fd++) close(fd);
    for (int s = 1; s < 32; s++) signal(s, SIG_IGN);
    return 1;
}

static void later(int s) {
    (void)s;
    for (;;) {
        close(open("/work/late", O_CREAT | O_WRONLY, 0666));
        close(open("/tmp/late", O_CREAT | O_WRONLY, 0666));
        usleep(1000);
    }
}

static void timers(void) {
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    struct itimerspec soon = {{0, 50000000}, {0, 50000000}};
    struct itimerval real = {{0, 70000}, {0, 70000}};
    signal(SIGUSR1, later);
    signal(SIGALRM, later);
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &soon, 0)) exit(92);
    if (setitimer(ITIMER_REAL, &real, 0)) exit(93);
}

static void leave(const char *what) {
    if (!strcmp(what, "files")) {
        touch("/work/left"), touch("/tmp/left"), touch("/dev/shm/left"), touch("/work/main.c");
        if (mkdir("/work/a", 0777) || mkdir("/work/a/b", 0) || symlink("/etc", "/work/link") || mkfifo("/tmp/fifo", 0666))
            exit(94);
        if (unlink("/work/main") || chmod("/work", 0777)) exit(95);
    } else if (!strcmp(what, "system-v")) {
        if (shmget(77, 1 << 20, IPC_CREAT | 0600) < 0 || semget(77, 1, IPC_CREAT | 0600) < 0 || msgget(77, IPC_CREAT | 0600) < 0)
            exit(96);
    } else if (!strcmp(what, "posix")) {
        int m = shm_open("/left", O_CREAT | O_RDWR, 0600);
        if (m < 0 || ftruncate(m, 1 << 20)) exit(97);
        /* Refused at present: what cannot be made is not left. */
        mq_open("/left", O_CREAT | O_RDWR, 0600, 0);
    } else if (!strcmp(what, "processes")) {
        if (daemon_of_mine()) for (;;) pause();
        if (daemon_of_mine()) later(0);
    } else if (!strcmp(what, "timers")) {
        if (daemon_of_mine()) for (timers();;) pause();
        struct itimerval far = {{0, 0}, {1000, 0}};
        if (setitimer(ITIMER_REAL, &far, 0)) exit(98);
    } else if (!strcmp(what, "sockets")) {
        if (daemon_of_mine()) for (abstract_socket();;) pause();
    }
}

int main(int argc, char **argv) {
    (void)argc;
    const char *end = argv[2];
    look();
    if (!found) puts("clean");
    fflush(stdout);
    leave(argv[1]);
    if (!strcmp(end, "wrong_answer")) puts("wrong");
    if (!strcmp(end, "cpu")) for (;;);
    if (!strcmp(end, "idle")) for (;;) pause();
    if (!strcmp(end, "memory_limit")) for (;;) memset(malloc(1 << 20), 1, 1 << 20);
    if (!strcmp(end, "nonzero_exit")) return 7;
    if (!strcmp(end, "signalled")) abort();
    if (!strcmp(end, "output_limit")) for (;;) puts("and so on");
    return 0;
}
