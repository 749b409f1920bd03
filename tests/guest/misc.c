// Clocks and timers, credentials, limits, system information, /proc, and odd arguments.
#include "t.h"
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/sysinfo.h>
#include <sys/times.h>
#include <sys/utsname.h>

static volatile int hits;
static siginfo_t info;
static void on(int s) { (void)s, hits++; }
static void on_info(int s, siginfo_t *i, void *c) { (void)s, (void)c, info = *i, hits++; }

TEST(clocks_advance) {
    int ids[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE};
    for (int i = 0; i < 6; i++) {
        struct timespec a, b, r;
        OK(syscall(SYS_clock_gettime, ids[i], &a));
        OK(clock_gettime(ids[i], &b));
        long d = (b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec;
        CK(d > -20000000 && d < 500000000);
        OK(clock_getres(ids[i], &r));
        CK(r.tv_sec == 0 && r.tv_nsec > 0);
    }
    struct timespec t;
    ERR(clock_gettime(77, &t), EINVAL);
    ERR(syscall(SYS_clock_gettime, CLOCK_REALTIME, 8), EFAULT);
    CK(labs(time(NULL) - (clock_gettime(CLOCK_REALTIME, &t), t.tv_sec)) <= 1);
}
TEST(cpu_clocks) {
    struct timespec a, b;
    OK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a));
    // Longer on a machine that is busy.
    long d = 0;
    for (int64_t e = now_ns() + 50000000, most = e + 5000000000; now_ns() < (d > 5000000 ? e : most);) {
        for (volatile int i = 0; i < 10000; i++) {}
        OK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b));
        d = (b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec;
    }
    CK(d > 5000000);
    OK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b));
    struct rusage u;
    OK(getrusage(RUSAGE_SELF, &u));
    CK(u.ru_maxrss > 0);
    struct tms t;
    CK(times(&t) != -1);
}
TEST(nanosleep_rules) {
    struct timespec t = {0, 20000000}, bad = {0, 1000000000};
    int64_t s = now_ns();
    OK(nanosleep(&t, NULL));
    CK(now_ns() - s >= 20000000);
    ERR(nanosleep(&bad, NULL), EINVAL);
    bad.tv_sec = -1;
    ERR(nanosleep(&bad, NULL), EINVAL);
    ERR(nanosleep((void *)8, NULL), EFAULT);
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += 30000000;
    if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
    EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL), 0);
    struct timespec n;
    clock_gettime(CLOCK_MONOTONIC, &n);
    CK(n.tv_sec > t.tv_sec || (n.tv_sec == t.tv_sec && n.tv_nsec >= t.tv_nsec));
}
TEST(setitimer_repeats) {
    struct sigaction a = {.sa_handler = on};
    sigaction(SIGALRM, &a, NULL);
    struct itimerval it = {{0, 10000}, {0, 10000}}, cur;
    OK(setitimer(ITIMER_REAL, &it, NULL));
    while (hits < 5) pause();
    OK(getitimer(ITIMER_REAL, &cur));
    EQ(cur.it_interval.tv_usec, 10000);
    it = (struct itimerval){0};
    OK(setitimer(ITIMER_REAL, &it, &cur));
    ERR(setitimer(9, &it, NULL), EINVAL);
    it.it_value.tv_usec = 2000000;
    ERR(setitimer(ITIMER_REAL, &it, NULL), EINVAL);
}
TEST(cpu_timers_fire) {
    struct sigaction a = {.sa_handler = on};
    sigaction(SIGPROF, &a, NULL), sigaction(SIGVTALRM, &a, NULL);
    struct itimerval it = {{0, 0}, {0, 20000}};
    OK(setitimer(ITIMER_PROF, &it, NULL));
    for (int64_t e = now_ns() + 5000000000; !hits && now_ns() < e;) {}
    EQ(hits, 1);
    OK(setitimer(ITIMER_VIRTUAL, &it, NULL));
    for (int64_t e = now_ns() + 5000000000; hits < 2 && now_ns() < e;) {}
    EQ(hits, 2);
}
TEST(posix_timers) {
    struct sigaction a = {.sa_sigaction = on_info, .sa_flags = SA_SIGINFO};
    sigaction(SIGRTMIN, &a, NULL);
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 99};
    timer_t t;
    OK(timer_create(CLOCK_MONOTONIC, &ev, &t));
    struct itimerspec it = {{0, 0}, {0, 20000000}}, cur;
    OK(timer_settime(t, 0, &it, NULL));
    while (!hits) ms(1);
    EQ(info.si_code, SI_TIMER);
    EQ(info.si_value.sival_int, 99);
    OK(timer_gettime(t, &cur));
    EQ(cur.it_value.tv_nsec, 0);
    sigset_t m;
    sigemptyset(&m), sigaddset(&m, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &m, NULL);
    it = (struct itimerspec){{0, 5000000}, {0, 5000000}};
    OK(timer_settime(t, 0, &it, NULL));
    ms(100);
    sigprocmask(SIG_UNBLOCK, &m, NULL);
    CK(info.si_overrun >= 5);
    OK(timer_delete(t));
    ERR(syscall(SYS_timer_delete, 1234), EINVAL);
    ERR(timer_create(77, &ev, &t), EINVAL);
}
TEST(uid_changes) {
    if (geteuid()) SKIP("needs root");
    uid_t r, e, s;
    OK(setresuid(1000, 1001, 1002));
    OK(getresuid(&r, &e, &s));
    EQ(r, 1000);
    EQ(e, 1001);
    EQ(s, 1002);
    ERR(setresuid(-1, 0, -1), EPERM);
    OK(setuid(1002));
    EQ(geteuid(), 1002);
    OK(setreuid(1002, 1000));
    OK(getresuid(&r, &e, &s));
    EQ(r, 1002);
    EQ(e, 1000);
    EQ(s, 1000);
    ERR(setuid(0), EPERM);
    ERR(setgid(5), EPERM);
    gid_t g = 5;
    ERR(syscall(SYS_setgroups, 1, &g), EPERM);
    EQ(syscall(SYS_setfsuid, -1), 1000);
}
TEST(groups) {
    if (geteuid()) SKIP("needs root");
    gid_t g[3] = {10, 20, 30}, o[4];
    OK(syscall(SYS_setgroups, 3, g));
    EQ(getgroups(0, NULL), 3);
    EQ(getgroups(4, o), 3);
    EQ(o[1], 20);
    ERR(getgroups(2, o), EINVAL);
    ERR(syscall(SYS_setgroups, 1 << 20, g), EINVAL);
}
TEST(capabilities) {
    if (geteuid()) SKIP("needs root");
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2], had[2];
    OK(syscall(SYS_capget, &h, had));
    CK(had[0].effective & (1 << CAP_CHOWN));
    memcpy(d, had, sizeof d);
    d[0].effective &= ~(1u << CAP_CHOWN);
    OK(syscall(SYS_capset, &h, d));
    put("f", "");
    ERR(chown("f", 5, 5), EPERM);
    OK(syscall(SYS_capset, &h, had));
    OK(chown("f", 5, 5));
    d[0].permitted &= ~(1u << CAP_CHOWN);
    OK(syscall(SYS_capset, &h, d));
    ERR(syscall(SYS_capset, &h, had), EPERM);
    h.version = 77;
    ERR(syscall(SYS_capget, &h, d), EINVAL);
    EQ(h.version, _LINUX_CAPABILITY_VERSION_3);
    OK(prctl(PR_CAPBSET_READ, CAP_CHOWN));
    ERR(prctl(PR_CAPBSET_READ, 99), EINVAL);
    OK(setresuid(1000, 1000, 1000));
    h = (struct __user_cap_header_struct){_LINUX_CAPABILITY_VERSION_3, 0};
    OK(syscall(SYS_capget, &h, d));
    EQ(d[0].effective, 0);
    EQ(d[0].permitted, 0);
}
TEST(keepcaps) {
    if (geteuid()) SKIP("needs root");
    OK(prctl(PR_SET_KEEPCAPS, 1));
    OK(setresuid(1000, 1000, 1000));
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2];
    OK(syscall(SYS_capget, &h, d));
    EQ(d[0].effective, 0);
    CK(d[0].permitted != 0);
}
TEST(limits) {
    struct rlimit r, o;
    OK(getrlimit(RLIMIT_NOFILE, &r));
    r.rlim_cur = 220;
    OK(setrlimit(RLIMIT_NOFILE, &r));
    int last = -1, fd;
    while ((fd = dup(0)) >= 0) last = fd;
    EQ(errno, EMFILE);
    EQ(last, 219);
    ERR(dup2(0, 230), EBADF);
    OK(prlimit(0, RLIMIT_NOFILE, NULL, &o));
    EQ(o.rlim_cur, 220);
    r.rlim_cur = r.rlim_max + 1;
    if (r.rlim_max != RLIM_INFINITY) ERR(setrlimit(RLIMIT_NOFILE, &r), EINVAL);
    ERR(getrlimit(99, &r), EINVAL);
    WAIT0(SPAWN({
        OK(getrlimit(RLIMIT_NOFILE, &o));
        EQ(o.rlim_cur, 220);
    }));
}
TEST(fsize_limit) {
    struct rlimit r = {1000, 1000};
    OK(setrlimit(RLIMIT_FSIZE, &r));
    signal(SIGXFSZ, on);
    int fd = OK(open("f", O_CREAT | O_RDWR, 0600));
    char b[2000] = "";
    EQ(write(fd, b, 2000), 1000);
    ERR(write(fd, b, 1), EFBIG);
    EQ(hits, 1);
    ERR(ftruncate(fd, 5000), EFBIG);
}
TEST(system_information) {
    struct utsname u;
    OK(uname(&u));
    STREQ(u.sysname, "Linux");
    STREQ(u.machine, "x86_64");
    CK(u.release[0] >= '4' && u.release[0] <= '9');
    char h[65], v[70];
    OK(gethostname(h, sizeof h));
    STREQ(h, u.nodename);
    snprintf(v, sizeof v, "%s\n", u.release);
    STREQ(get("/proc/sys/kernel/osrelease"), v);
    struct sysinfo s;
    OK(sysinfo(&s));
    CK(s.totalram > 0 && s.freeram <= s.totalram && s.procs > 0 && s.mem_unit > 0);
    unsigned long m[16];
    CK(sched_getaffinity(0, sizeof m, (void *)m) == 0);
    ERR(syscall(SYS_sched_getaffinity, 0, 1, m), EINVAL);
    unsigned cpu = 99999, node;
    OK(syscall(SYS_getcpu, &cpu, &node, NULL));
    CK(cpu < 4096);
}
TEST(random_bytes) {
    unsigned char a[64], b[64];
    EQ(getrandom(a, 64, 0), 64);
    EQ(getrandom(b, 64, GRND_NONBLOCK), 64);
    CK(memcmp(a, b, 64));
    ERR(getrandom(a, 64, 0x80), EINVAL);
    ERR(syscall(SYS_getrandom, (void *)8, 64, 0), EFAULT);
}
TEST(priorities) {
    EQ(getpriority(PRIO_PROCESS, 0), 0);
    OK(setpriority(PRIO_PROCESS, 0, 5));
    EQ(getpriority(PRIO_PROCESS, 0), 5);
    ERR(getpriority(9, 0), EINVAL);
    ERR(getpriority(PRIO_PROCESS, 1 << 22), ESRCH);
    EQ(sched_getscheduler(0), SCHED_OTHER);
    OK(sched_yield());
}
TEST(proc_self) {
    char want[64], l[PATH_MAX] = "", cwd[PATH_MAX];
    snprintf(want, sizeof want, "%d", getpid());
    OK(readlink("/proc/self", l, sizeof l - 1));
    STREQ(l, want);
    char *s = get("/proc/self/stat");
    EQ(atoi(s), getpid());
    CK(s = strrchr(s, ')'));
    char st;
    int pp, pg, sid;
    EQ(sscanf(s, ") %c %d %d %d", &st, &pp, &pg, &sid), 4);
    EQ(st, 'R');
    EQ(pp, getppid());
    EQ(pg, getpgrp());
    EQ(sid, getsid(0));
    char *t = get("/proc/self/status");
    const char *keys[] = {"Name:", "State:", "Tgid:", "Pid:", "PPid:", "Uid:", "Gid:", "VmSize:", "VmRSS:", "Threads:", "SigQ:", "SigBlk:", "CapEff:"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!strstr(t, keys[i])) FAIL("no %s in status", keys[i]);
    long sz, rss;
    EQ(sscanf(get("/proc/self/statm"), "%ld %ld", &sz, &rss), 2);
    CK(sz >= rss && rss > 0);
    memset(l, 0, sizeof l);
    OK(readlink("/proc/self/exe", l, sizeof l - 1));
    STREQ(l, t_self);
    memset(l, 0, sizeof l);
    OK(readlink("/proc/self/cwd", l, sizeof l - 1));
    STREQ(l, getcwd(cwd, sizeof cwd));
    CK(strstr(get("/proc/self/limits"), "Max open files"));
    CK(strstr(get("/proc/self/mountinfo"), " / / "));
    CK(strstr(get("/proc/mounts"), " /proc proc "));
    get("/proc/self/environ"), get("/proc/self/oom_score_adj"), get("/proc/self/cgroup"), get("/proc/self/io");
}
TEST(proc_self_fd) {
    put("file", "x");
    int fd = OK(open("file", O_RDONLY | O_APPEND));
    OK(lseek(fd, 1, SEEK_SET));
    char p[64], l[PATH_MAX] = "";
    snprintf(p, sizeof p, "/proc/self/fd/%d", fd);
    OK(readlink(p, l, sizeof l - 1));
    CK(strstr(l, "/file"));
    snprintf(p, sizeof p, "/proc/self/fdinfo/%d", fd);
    CK(strstr(get(p), "pos:\t1\n"));
    CK(strstr(get(p), "flags:\t"));
    DIR *d = opendir("/proc/self/fd");
    int seen = 0;
    struct dirent *e;
    while ((e = readdir(d))) seen |= atoi(e->d_name) == fd;
    CK(seen);
    OK(close(fd));
    snprintf(p, sizeof p, "/proc/self/fd/%d", fd);
    ERR(readlink(p, l, 10), ENOENT);
}
TEST(proc_system_files) {
    CK(strstr(get("/proc/meminfo"), "MemTotal:") && strstr(get("/proc/meminfo"), "MemAvailable:"));
    CK(strstr(get("/proc/cpuinfo"), "processor\t: 0") && strstr(get("/proc/cpuinfo"), "flags\t\t:"));
    CK(strstr(get("/proc/stat"), "cpu0 ") && strstr(get("/proc/stat"), "btime "));
    CK(strstr(get("/proc/version"), "Linux version "));
    double a, b;
    EQ(sscanf(get("/proc/uptime"), "%lf %lf", &a, &b), 2);
    EQ(sscanf(get("/proc/loadavg"), "%lf", &a), 1);
    CK(strstr(get("/proc/filesystems"), "\ttmpfs\n") && strstr(get("/proc/filesystems"), "nodev\tproc\n"));
    CK(atoi(get("/proc/sys/kernel/pid_max")) > 1000);
    CK(atoi(get("/proc/sys/fs/pipe-max-size")) >= 65536);
    get("/proc/self/net/unix");
    ERR(open("/proc/nope", O_RDONLY), ENOENT);
    ERR(open("/proc/new", O_CREAT | O_RDWR, 0600), ENOENT);
    ERR(mkdir("/proc/newdir", 0700), ENOENT);
}
TEST(proc_of_others) {
    pid_t c = SPAWN(pause());
    char p[64];
    snprintf(p, sizeof p, "/proc/%d/status", c);
    char want[64];
    snprintf(want, sizeof want, "PPid:\t%d\n", getpid());
    CK(strstr(get(p), want));
    snprintf(p, sizeof p, "/proc/%d", c);
    int seen = 0;
    DIR *d = opendir("/proc");
    struct dirent *e;
    while ((e = readdir(d))) seen |= atoi(e->d_name) == c;
    CK(seen);
    int fd = OK(open(p, O_RDONLY | O_DIRECTORY));
    kill(c, SIGKILL);
    OK(waitpid(c, NULL, 0));
    ERR(open(p, O_RDONLY), ENOENT);
    ERR(openat(fd, "status", O_RDONLY), ESRCH);
}
TEST(odd_pointers_and_numbers) {
    void *bad[] = {(void *)8, (void *)0x7fffffffffff, (void *)0xffff800000000000, (void *)-1};
    int p[2];
    OK(pipe(p));
    OK(write(p[1], "xxxxxxxxxx", 10));
    for (int i = 0; i < 4; i++) {
        ERR(read(p[0], bad[i], 1), EFAULT);
        ERR(write(p[1], bad[i], 1), EFAULT);
        ERR(stat(bad[i], (void *)&p), EFAULT);
        ERR(syscall(SYS_stat, ".", bad[i]), EFAULT);
        ERR(syscall(SYS_uname, bad[i]), EFAULT);
        ERR(syscall(SYS_pipe, bad[i]), EFAULT);
        ERR(syscall(SYS_getrlimit, RLIMIT_CORE, bad[i]), EFAULT);
        ERR(syscall(SYS_rt_sigpending, bad[i], 8), EFAULT);
    }
    for (int n = 0; n < 3; n++) {
        int fd = (int[]){-1, 9999, INT_MIN}[n];
        char b[8];
        struct stat s;
        ERR(read(fd, b, 1), EBADF);
        ERR(write(fd, b, 1), EBADF);
        ERR(fstat(fd, &s), EBADF);
        ERR(ioctl(fd, FIONREAD, b), EBADF);
        ERR(fcntl(fd, F_GETFL), EBADF);
        ERR(ftruncate(fd, 0), EBADF);
        ERR(syscall(SYS_getdents64, fd, b, 8), EBADF);
        ERR(fchmod(fd, 0), EBADF);
        ERR(listen(fd, 0), EBADF);
        ERR(syscall(SYS_epoll_ctl, fd, 1, 0, &s), EBADF);
    }
    int f = OK(open("f", O_CREAT | O_RDWR, 0600));
    ERR(ioctl(f, TCGETS, &p), ENOTTY);
    ERR(ioctl(f, 0xdeadbeef, 0), ENOTTY);
}
TEST(unknown_numbers) {
    long nrs[] = {387, 400, 423, 600, 1000, 4096, 0x40000000, INT_MAX, -1L, -100L, 0xffffffffL};
    for (size_t i = 0; i < sizeof nrs / sizeof *nrs; i++) ERR(syscall(nrs[i], 1, 2, 3, 4, 5, 6), ENOSYS);
}
TEST(usage_counts_waits) {
    struct rusage a, b;
    OK(getrusage(RUSAGE_SELF, &a));
    for (int i = 0; i < 20; i++) ms(1);
    OK(getrusage(RUSAGE_SELF, &b));
    CK(b.ru_nvcsw - a.ru_nvcsw >= 20 && b.ru_nvcsw - a.ru_nvcsw < 100);
    OK(getrusage(RUSAGE_THREAD, &b));
    CK(b.ru_nvcsw - a.ru_nvcsw >= 20);
    OK(getrusage(RUSAGE_CHILDREN, &a));
    WAIT0(SPAWN(for (int i = 0; i < 20; i++) ms(1)));
    OK(getrusage(RUSAGE_CHILDREN, &b));
    CK(b.ru_nvcsw - a.ru_nvcsw >= 20 && b.ru_nivcsw >= a.ru_nivcsw);
}
TEST(files_of_the_kernel_refuse) {
    int fd = OK(open("/proc/self/oom_score_adj", O_WRONLY));
    ERR(write(fd, "5000\n", 5), EINVAL);
    ERR(write(fd, "nonsense", 8), EINVAL);
    fd = OK(open("/proc/self/coredump_filter", O_WRONLY));
    ERR(write(fd, "x", 1), EINVAL);
}
