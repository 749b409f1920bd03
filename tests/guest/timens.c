// Time namespaces: offsets, who sets them and when, clocks and absolute timeouts under them.
#include "t.h"
#include <linux/nsfs.h>
#include <sys/prctl.h>
#include <sys/sysinfo.h>
#include <sys/timerfd.h>
#include <linux/futex.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#define DAY 86400LL

static int map_own(const char *name, const char *text) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/%s", name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t n = write(fd, text, strlen(text));
    int e = errno;
    close(fd);
    errno = e;
    return n < 0 ? -1 : 0;
}
static void need_time_ns(void) {
    pid_t p = fork();
    if (!p) _exit(unshare(CLONE_NEWTIME) ? 1 : 0);
    int st;
    waitpid(p, &st, 0);
    if (st) SKIP("no time namespaces here");
}
static long long now(int clock) {
    struct timespec t;
    OK(syscall(SYS_clock_gettime, clock, &t));
    return t.tv_sec;
}
static char *ns_of(const char *path) {
    static char out[4][64];
    static int n;
    char *o = out[n++ % 4];
    ssize_t l = readlink(path, o, 63);
    if (l < 0) FAIL("readlink %s: %s", path, strerror(errno));
    o[l] = 0;
    return o;
}
#define NEAR(a, b)                                                                      \
    do {                                                                                \
        long long t_x = (a), t_y = (b);                                                 \
        if (t_x < t_y - 2 || t_x > t_y + 20) FAIL("%s is %lld, want about %lld", #a, t_x, t_y); \
    } while (0)

TEST(for_children_only) {
    need_time_ns();
    char *own = ns_of("/proc/self/ns/time");
    OK(unshare(CLONE_NEWTIME));
    STREQ(ns_of("/proc/self/ns/time"), own);
    CK(strcmp(ns_of("/proc/self/ns/time_for_children"), own));
    long long m = now(CLOCK_MONOTONIC), b = now(CLOCK_BOOTTIME), r = now(CLOCK_REALTIME);
    OK(map_own("timens_offsets", "monotonic 86400 500000000\nboottime 864000 0"));
    CK(strstr(get("/proc/self/timens_offsets"), "86400 500000000"));
    NEAR(now(CLOCK_MONOTONIC), m);
    char *theirs = ns_of("/proc/self/ns/time_for_children");
    WAIT0(SPAWN({
        STREQ(ns_of("/proc/self/ns/time"), theirs);
        NEAR(now(CLOCK_MONOTONIC), m + DAY);
        NEAR(now(CLOCK_MONOTONIC_RAW), m + DAY);
        NEAR(now(CLOCK_MONOTONIC_COARSE), m + DAY);
        NEAR(now(CLOCK_BOOTTIME), b + 10 * DAY);
        NEAR(now(CLOCK_REALTIME), r);
        struct sysinfo s;
        OK(sysinfo(&s));
        CK(s.uptime > 10 * DAY);
        CK(atoll(get("/proc/uptime")) > 10 * DAY);
        // Too late.
        ERR(map_own("timens_offsets", "monotonic 1 0"), EACCES);
    }));
    ERR(map_own("timens_offsets", "monotonic 1 0"), EACCES);
}

TEST(what_is_written) {
    need_time_ns();
    OK(unshare(CLONE_NEWTIME));
    ERR(map_own("timens_offsets", "realtime 1 0"), EINVAL);
    ERR(map_own("timens_offsets", "monotonic 1"), EINVAL);
    ERR(map_own("timens_offsets", "monotonic 1 1000000000"), EINVAL);
    ERR(map_own("timens_offsets", "monotonic -1000000000000 0"), ERANGE);
    ERR(map_own("timens_offsets", "boottime 9000000000000000000 0"), ERANGE);
    OK(map_own("timens_offsets", "monotonic -1 0\n"));
    OK(map_own("timens_offsets", "7 100 0\n"));
}

TEST(absolute_times) {
    need_time_ns();
    OK(unshare(CLONE_NEWTIME));
    OK(map_own("timens_offsets", "monotonic 86400 0\nboottime 86400 0"));
    WAIT0(SPAWN({
        struct timespec t;
        OK(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t));
        t.tv_nsec += 50000000;
        if (t.tv_nsec >= 1000000000) {
            t.tv_sec++;
            t.tv_nsec -= 1000000000;
        }
        // Each comes soon: not a day from now, and not at once either.
        long long before = now(CLOCK_REALTIME);
        OK(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0));
        struct timespec u;
        OK(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &u));
        CK(u.tv_sec > t.tv_sec || (u.tv_sec == t.tv_sec && u.tv_nsec >= t.tv_nsec));
        t.tv_sec += 1;
        int word = 0;
        ERR(syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, 0, &t, 0, FUTEX_BITSET_MATCH_ANY), ETIMEDOUT);
        OK(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &u));
        CK(u.tv_sec > t.tv_sec || (u.tv_sec == t.tv_sec && u.tv_nsec >= t.tv_nsec));
        int fd = OK(timerfd_create(CLOCK_BOOTTIME, 0));
        struct itimerspec s = {{0}, {0}};
        OK(syscall(SYS_clock_gettime, CLOCK_BOOTTIME, &s.it_value));
        s.it_value.tv_sec += 1;
        OK(timerfd_settime(fd, TFD_TIMER_ABSTIME, &s, 0));
        struct itimerspec left;
        OK(timerfd_gettime(fd, &left));
        CK(left.it_value.tv_sec <= 1);
        uint64_t n;
        EQ(read(fd, &n, 8), 8);
        timer_t id;
        struct sigevent e = {.sigev_notify = SIGEV_NONE};
        OK(syscall(SYS_timer_create, CLOCK_MONOTONIC, &e, &id));
        OK(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &s.it_value));
        s.it_value.tv_sec += 100;
        OK(syscall(SYS_timer_settime, (long)(int)(intptr_t)id, TIMER_ABSTIME, &s, 0));
        OK(syscall(SYS_timer_gettime, (long)(int)(intptr_t)id, &left));
        CK(left.it_value.tv_sec >= 97 && left.it_value.tv_sec <= 100);
        CK(now(CLOCK_REALTIME) - before < 30);
    }));
}

int t_child(int argc, char **argv) {
    // As programs read clocks: with the C library's help.
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    printf("%lld\n", (long long)t.tv_sec);
    return 0;
}

TEST(programs_read_clocks_with_offsets) {
    need_time_ns();
    int p[2];
    OK(pipe(p));
    long long m = now(CLOCK_MONOTONIC);
    OK(unshare(CLONE_NEWTIME));
    OK(map_own("timens_offsets", "monotonic 86400 0"));
    WAIT0(SPAWN({
        dup2(p[1], 1);
        execl(t_self, t_self, "--child", NULL);
        _exit(9);
    }));
    char out[64] = {0};
    OK(read(p[0], out, 63));
    NEAR(atoll(out), m + DAY);
    // Also who executes a program itself, without a fork.
    WAIT0(SPAWN({
        OK(unshare(CLONE_NEWTIME));
        OK(map_own("timens_offsets", "monotonic 172800 0"));
        dup2(p[1], 1);
        execl(t_self, t_self, "--child", NULL);
        _exit(9);
    }));
    memset(out, 0, sizeof out);
    OK(read(p[0], out, 63));
    NEAR(atoll(out), m + 2 * DAY);
}

TEST(setns_and_files) {
    need_time_ns();
    OK(unshare(CLONE_NEWTIME));
    OK(map_own("timens_offsets", "monotonic 86400 0"));
    long long m = now(CLOCK_MONOTONIC);
    int fd = OK(open("/proc/self/ns/time_for_children", O_RDONLY));
    EQ(ioctl(fd, NS_GET_NSTYPE), CLONE_NEWTIME);
    OK(setns(fd, CLONE_NEWTIME));
    NEAR(now(CLOCK_MONOTONIC), m + DAY);
    STREQ(ns_of("/proc/self/ns/time"), ns_of("/proc/self/ns/time_for_children"));
}
