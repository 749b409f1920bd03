// Frame of every guest test: a file holds TEST(name) { … } blocks; each block runs in its own child process, in its own
// empty working directory, under an alarm. Output: `ok name`, `ok name # SKIP why` or `not ok name: why`, last `done N`.
// The same program must pass on Linux itself before it says anything about the sandbox.
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct t_test {
    const char *name;
    void (*fn)(void);
};
extern const struct t_test *const __start_t_tests[], *const __stop_t_tests[];
static const char *t_name = "?";
static int t_out = 1;
static char t_self[PATH_MAX];
int t_child(int argc, char **argv) __attribute__((weak));

#define TEST(n)                                                                              \
    static void n(void);                                                                     \
    static const struct t_test t_info_##n = {#n, n};                                         \
    static const struct t_test *const t_ptr_##n __attribute__((used, section("t_tests"))) = &t_info_##n; \
    static void n(void)

__attribute__((noreturn, format(printf, 2, 3), unused)) static void t_fail(int line, const char *fmt, ...) {
    char b[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(b, sizeof b, fmt, ap);
    va_end(ap);
    dprintf(t_out, "not ok %s: line %d: %s\n", t_name, line, b);
    _exit(99);
}
__attribute__((noreturn, format(printf, 1, 2), unused)) static void SKIP(const char *fmt, ...) {
    char b[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(b, sizeof b, fmt, ap);
    va_end(ap);
    dprintf(t_out, "ok %s # SKIP %s\n", t_name, b);
    _exit(98);
}
#define FAIL(...) t_fail(__LINE__, __VA_ARGS__)
#define CK(c)                                                          \
    do {                                                               \
        if (!(c)) FAIL("%s (errno %d %s)", #c, errno, strerror(errno)); \
    } while (0)
#define EQ(a, b)                                                                                                   \
    do {                                                                                                           \
        long long t_a = (long long)(a), t_b = (long long)(b);                                                      \
        if (t_a != t_b) FAIL("%s is %lld, want %lld (errno %d %s)", #a, t_a, t_b, errno, strerror(errno));          \
    } while (0)
// The value of a call that must succeed.
#define OK(e)                                                                            \
    ({                                                                                   \
        long long t_v = (long long)(e);                                                  \
        if (t_v < 0) FAIL("%s: %lld errno %d %s", #e, t_v, errno, strerror(errno));      \
        t_v;                                                                             \
    })
// A call that must fail with one errno.
#define ERR(e, want)                                                                                        \
    do {                                                                                                    \
        errno = 0;                                                                                          \
        long long t_v = (long long)(e);                                                                     \
        int t_e = errno;                                                                                    \
        if (t_v != -1) FAIL("%s gave %lld, want errno %d %s", #e, t_v, want, strerror(want));               \
        if (t_e != (want))                                                                                  \
            FAIL("%s: errno %d %s, want %d %s", #e, t_e, strerror(t_e), want, strerrorname_np(want));       \
    } while (0)
#define STREQ(a, b)                                                                        \
    do {                                                                                   \
        const char *t_a = (a), *t_b = (b);                                                 \
        if (strcmp(t_a, t_b)) FAIL("%s is \"%.200s\", want \"%.200s\"", #a, t_a, t_b);     \
    } while (0)
#define MAPOK(e)                                                                          \
    ({                                                                                    \
        void *t_p = (e);                                                                  \
        if (t_p == MAP_FAILED) FAIL("%s: errno %d %s", #e, errno, strerror(errno));       \
        t_p;                                                                              \
    })

// Runs a statement in a child; the statement's end is exit code 0.
#define SPAWN(...)               \
    ({                           \
        pid_t t_p = fork();      \
        if (t_p < 0) FAIL("fork: %s", strerror(errno)); \
        if (t_p == 0) {          \
            __VA_ARGS__;         \
            _exit(0);            \
        }                        \
        t_p;                     \
    })
static inline void t_wait0(int line, pid_t p) {
    int st;
    pid_t r;
    while ((r = waitpid(p, &st, 0)) < 0 && errno == EINTR) {}
    if (r != p) t_fail(line, "waitpid %d: %d %s", p, r, strerror(errno));
    if (WIFEXITED(st) && WEXITSTATUS(st) >= 98) _exit(WEXITSTATUS(st));
    if (st != 0) t_fail(line, "child ended with status 0x%x", st);
}
#define WAIT0(...) t_wait0(__LINE__, (__VA_ARGS__))

static inline void put(const char *path, const char *text) {
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) FAIL("put %s: %s", path, strerror(errno));
    close(fd);
}
static inline char *get(const char *path) {
    static char b[65536];
    int fd = open(path, O_RDONLY);
    if (fd < 0) FAIL("get %s: %s", path, strerror(errno));
    size_t n = 0;
    ssize_t r;
    while (n < sizeof b - 1 && (r = read(fd, b + n, sizeof b - 1 - n)) > 0) n += r;
    b[n] = 0;
    close(fd);
    return b;
}
static inline int64_t now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}
// A descriptor through a socket, beside some text.
static inline ssize_t send_fd(int s, int fd, const char *text) {
    char c[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec v = {(void *)text, strlen(text)};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    *h = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(h), &fd, sizeof fd);
    return sendmsg(s, &m, 0);
}
static inline int recv_fd(int s, int flags) {
    char c[CMSG_SPACE(sizeof(int))] = {0}, b[64];
    struct iovec v = {b, sizeof b};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
    OK(recvmsg(s, &m, flags));
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    if (!h || h->cmsg_type != SCM_RIGHTS) return -1;
    int fd;
    memcpy(&fd, CMSG_DATA(h), sizeof fd);
    return fd;
}
static inline void ms(int n) {
    struct timespec ts = {n / 1000, n % 1000 * 1000000L};
    while (nanosleep(&ts, &ts) < 0 && errno == EINTR) {}
}
// Waits (bounded) until a process is in one of the /proc states given.
static inline int state_is(pid_t p, const char *states) {
    char path[64], b[512];
    snprintf(path, sizeof path, "/proc/%d/stat", p);
    for (int i = 0; i < 500; i++) {
        int fd = open(path, O_RDONLY);
        if (fd < 0) return 0;
        ssize_t n = read(fd, b, sizeof b - 1);
        close(fd);
        if (n > 0) {
            b[n] = 0;
            char *c = strrchr(b, ')');
            if (c && c[1] && strchr(states, c[2])) return 1;
        }
        ms(10);
    }
    return 0;
}

static int t_rm(const char *p, const struct stat *s, int f, struct FTW *w) {
    (void)s, (void)f, (void)w;
    return remove(p), 0;
}

int main(int argc, char **argv) {
    if (getenv("T_EMPTY")) return !(argc == 1 && !argv[0][0]); // exec.c's empty_argv
    ssize_t n = readlink("/proc/self/exe", t_self, sizeof t_self - 1);
    if (n < 0) strcpy(t_self, argv[0]);
    if (argc > 1 && !strcmp(argv[1], "--child")) return t_child ? t_child(argc - 2, argv + 2) : 1;
    if (argc > 1 && !strcmp(argv[1], "--list")) {
        for (const struct t_test *const *t = __start_t_tests; t < __stop_t_tests; t++) puts((*t)->name);
        return 0;
    }
    // Whoever starts us may have ignored or blocked some (a shell's background jobs ignore SIGINT).
    for (int s = 1; s < 32; s++)
        if (s != SIGKILL && s != SIGSTOP) signal(s, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int limit = getenv("T_ALARM") ? atoi(getenv("T_ALARM")) : 20, count = 0, bad = 0;
    t_out = fcntl(1, F_DUPFD_CLOEXEC, 200);
    if (t_out < 0) t_out = 1;
    const char *tmp = getenv("T_TMP") ? getenv("T_TMP") : "/tmp";
    for (const struct t_test *const *t = __start_t_tests; t < __stop_t_tests; t++) {
        if (argc > 1) {
            int found = 0;
            for (int i = 1; i < argc; i++) found |= !strcmp(argv[i], (*t)->name);
            if (!found) continue;
        }
        count++;
        t_name = (*t)->name;
        char dir[PATH_MAX];
        snprintf(dir, sizeof dir, "%s/t.%d.%s", tmp, getpid(), t_name);
        mkdir(dir, 0755);
        pid_t p = fork();
        if (p < 0) return dprintf(t_out, "not ok %s: fork: %s\n", t_name, strerror(errno)), 2;
        if (p == 0) {
            umask(022);
            alarm(limit);
            if (chdir(dir) < 0) FAIL("chdir %s: %s", dir, strerror(errno));
            (*t)->fn();
            _exit(0);
        }
        int st = 0;
        while (waitpid(p, &st, 0) < 0 && errno == EINTR) {}
        if (st == 0)
            dprintf(t_out, "ok %s\n", t_name);
        else if (WIFEXITED(st) && WEXITSTATUS(st) == 98)
            ;
        else {
            bad++;
            if (WIFSIGNALED(st) && WTERMSIG(st) == SIGALRM)
                dprintf(t_out, "not ok %s: still running after %d s\n", t_name, limit);
            else if (!WIFEXITED(st) || WEXITSTATUS(st) != 99)
                dprintf(t_out, "not ok %s: ended with status 0x%x\n", t_name, st);
        }
        nftw(dir, t_rm, 32, FTW_DEPTH | FTW_PHYS);
    }
    dprintf(t_out, "done %d\n", count);
    return bad != 0;
}
