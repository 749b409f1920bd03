// Micro benchmarks: each prints `name nanoseconds`, the median of several rounds, per operation. Runs alike natively and in
// any container: `micro [DIR [NAME…]]`, with files in DIR (/tmp), and only the benchmarks named. `micro notify` measures the
// bare round trip of a seccomp notification (native only, needs root). `micro turns DIR` and `micro turns-notified` do one round
// of a benchmark for each line of the input that names one, so that several of them can take turns. `micro list` prints the names.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP 1
#endif
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif

static const char *self, *tmp = "/tmp";
static char **only; // names, or NULL for all
static int wanted(const char *name) {
    if (!only || !*only) return 1;
    for (char **n = only; *n; n++)
        if (!strcmp(*n, name)) return 1;
    return 0;
}
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}
static int cmp(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
#define ROUNDS 9
typedef struct {
    const char *name;
    int count; // operations a round
    void (*op)(int);
} bench_t;
static double round_of(const bench_t *b) {
    double t = now();
    b->op(b->count);
    return (now() - t) / b->count;
}
// The first round warms up and does not count.
static void bench(const bench_t *b) {
    double r[ROUNDS];
    if (!wanted(b->name)) return;
    b->op(b->count / 4 + 1);
    for (int i = 0; i < ROUNDS; i++) r[i] = round_of(b);
    qsort(r, ROUNDS, sizeof *r, cmp);
    printf("%s %.1f\n", b->name, r[ROUNDS / 2]);
    fflush(stdout);
}
static void die(const char *what) {
    perror(what);
    exit(1);
}

static void b_getppid(int n) { while (n--) syscall(SYS_getppid); }
static void b_clock(int n) {
    struct timespec t;
    while (n--) clock_gettime(CLOCK_MONOTONIC, &t);
}
static void b_fork(int n) {
    while (n--) {
        pid_t p = fork();
        if (p < 0) die("fork");
        if (!p) _exit(0);
        if (waitpid(p, NULL, 0) != p) die("waitpid");
    }
}
static void b_exec(int n) {
    while (n--) {
        pid_t p = vfork();
        if (p < 0) die("vfork");
        if (!p) {
            execl(self, self, "nothing", NULL);
            _exit(1);
        }
        int st;
        if (waitpid(p, &st, 0) != p || st) die("exec");
    }
}
static void b_mmap(int n) {
    while (n--) {
        char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) die("mmap");
        *(volatile char *)p = 1;
        munmap(p, 4096);
    }
}
static void b_faults(int n) { // n pages
    size_t len = (size_t)n * 4096;
    char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) die("mmap");
    madvise(p, len, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < len; i += 4096) *(volatile char *)(p + i) = 1;
    munmap(p, len);
}
static void b_pipe(int n) {
    int a[2], b[2];
    char c = 0;
    if (pipe(a) || pipe(b)) die("pipe");
    pid_t p = fork();
    if (p < 0) die("fork");
    if (!p) {
        for (int i = 0; i < n; i++)
            if (read(a[0], &c, 1) != 1 || write(b[1], &c, 1) != 1) _exit(1);
        _exit(0);
    }
    for (int i = 0; i < n; i++)
        if (write(a[1], &c, 1) != 1 || read(b[0], &c, 1) != 1) die("ping");
    waitpid(p, NULL, 0);
    close(a[0]), close(a[1]), close(b[0]), close(b[1]);
}
static char path[256];
static int file_fd;
static void b_open(int n) {
    while (n--) {
        int f = open(path, O_RDONLY);
        if (f < 0) die("open");
        close(f);
    }
}
static void b_stat(int n) {
    struct stat s;
    while (n--)
        if (stat(path, &s)) die("stat");
}
static char page[4096];
static void b_read(int n) {
    while (n--)
        if (pread(file_fd, page, 4096, 0) != 4096) die("pread");
}
static void b_write(int n) {
    while (n--)
        if (pwrite(file_fd, page, 4096, 0) != 4096) die("pwrite");
}

static const bench_t benches[] = {
    {"getppid", 20000, b_getppid},
    {"clock_gettime", 200000, b_clock},
    {"fork_exit_wait", 100, b_fork},
    {"vfork_exec_wait", 100, b_exec},
    {"mmap_touch_munmap", 3000, b_mmap},
    {"page_fault", 16384, b_faults},
    {"pipe_round_trip", 3000, b_pipe},
    {"open_close", 5000, b_open},
    {"stat", 5000, b_stat},
    {"read_4k", 10000, b_read},
    {"write_4k", 10000, b_write},
};
#define BENCHES (sizeof benches / sizeof *benches)
static void turns(void) {
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        for (size_t i = 0; i < BENCHES; i++)
            if (!strcmp(benches[i].name, line)) printf("%s %.1f\n", line, round_of(&benches[i]));
        fflush(stdout);
    }
}

// ---- the bare notification: one process calls getppid, another answers ----
static int install(void) {
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog p = {sizeof f / sizeof *f, f};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) die("no_new_privs");
    int fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &p);
    if (fd < 0) die("seccomp");
    return fd;
}
static void send_fd(int s, int fd) {
    char c[CMSG_SPACE(sizeof fd)] = {0}, b = 0;
    struct iovec v = {&b, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET, h->cmsg_type = SCM_RIGHTS, h->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(h), &fd, sizeof fd);
    if (sendmsg(s, &m, 0) != 1) die("sendmsg");
}
static int recv_fd(int s) {
    int fd;
    char c[CMSG_SPACE(sizeof fd)] = {0}, b;
    struct iovec v = {&b, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
    if (recvmsg(s, &m, 0) != 1 || !CMSG_FIRSTHDR(&m)) die("recvmsg");
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    return fd;
}
// What the notified process does: the benchmark, or turns.
enum what { DEFAULT_WAKE, SYNC_WAKE, TURNS };
static void notify(enum what what) {
    int s[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, s)) die("socketpair");
    pid_t p = fork();
    if (!p) {
        int fd = install();
        char b;
        send_fd(s[1], fd);
        close(fd);
        if (read(s[1], &b, 1) != 1) _exit(1);
        if (what == TURNS) turns();
        else if (what == SYNC_WAKE) bench(&(bench_t){"notify_sync", 20000, b_getppid});
        else bench(&(bench_t){"notify_default", 2000, b_getppid});
        _exit(0);
    }
    int fd = recv_fd(s[0]);
    if (what != DEFAULT_WAKE && ioctl(fd, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)) {
        fprintf(stderr, "no SYNC_WAKE_UP here: %s\n", strerror(errno));
        kill(p, SIGKILL);
        waitpid(p, NULL, 0);
        return;
    }
    if (write(s[0], "g", 1) != 1) die("go");
    struct seccomp_notif n;
    for (;;) {
        memset(&n, 0, sizeof n);
        if (ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, &n)) {
            if (errno == EINTR) continue;
            break;
        }
        struct seccomp_notif_resp r = {.id = n.id, .val = 1};
        if (ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &r) && errno != ENOENT) break;
    }
    waitpid(p, NULL, 0);
}
int main(int argc, char **argv) {
    self = argv[0];
    if (argc > 1 && !strcmp(argv[1], "nothing")) return 0;
    if (argc > 1 && !strcmp(argv[1], "notify")) {
        for (int i = SYNC_WAKE; i >= DEFAULT_WAKE; i--) {
            pid_t p = fork();
            if (!p) notify(i), _exit(0);
            waitpid(p, NULL, 0);
        }
        return 0;
    }
    if (argc > 1 && !strcmp(argv[1], "list")) {
        for (size_t i = 0; i < BENCHES; i++) puts(benches[i].name);
        return 0;
    }
    if (argc > 1 && !strcmp(argv[1], "turns-notified")) return notify(TURNS), 0;
    int by_turns = argc > 2 && !strcmp(argv[1], "turns");
    if (by_turns) argv++, argc--;
    if (argc > 1) tmp = argv[1], only = argv + 2;
    snprintf(path, sizeof path, "%s/bench-file", tmp);
    file_fd = open(path, O_CREAT | O_RDWR | O_TRUNC, 0600);
    if (file_fd < 0) die(path);
    b_write(1);
    if (by_turns) turns();
    else
        for (size_t i = 0; i < BENCHES; i++) bench(&benches[i]);
    unlink(path);
    return 0;
}
