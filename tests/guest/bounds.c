// Limits on what processes can make the kernel keep: pages of pipes, queued signals, timers, tasks, descriptors; and
// that many of a kind cost no more than their number.
#include "t.h"
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>

// Nobody else runs as these users.
#define USER (54321 + getpid() % 1000)

static void become(int user) {
    OK(setresgid(user, user, user));
    OK(setresuid(user, user, user));
}
static void limit(int which, long n) {
    struct rlimit r = {n, n};
    OK(setrlimit(which, &r));
}
static void files(long n) {
    struct rlimit r;
    OK(getrlimit(RLIMIT_NOFILE, &r));
    if ((long)r.rlim_max < n) SKIP("RLIMIT_NOFILE's hard limit is below %ld", n);
    r.rlim_cur = n;
    OK(setrlimit(RLIMIT_NOFILE, &r));
}

TEST(many_pipes_of_a_user_are_small) {
    files(2200);
    if (getuid() != 0) SKIP("needs root");
    become(USER);
    int p[2], n = 0, first = -1;
    for (;; n++) {
        if (n > 1050) FAIL("%d pipes and all of them large", n);
        OK(pipe(p));
        if (first < 0) first = p[0];
        int size = OK(fcntl(p[0], F_GETPIPE_SZ));
        if (size == 8192) break;
        EQ(size, 65536);
    }
    CK(n >= 1000);
    ERR(fcntl(p[0], F_SETPIPE_SZ, 65536), EPERM);
    EQ(fcntl(p[0], F_SETPIPE_SZ, 4096), 4096);
    for (int fd = first; fd <= p[1]; fd++) close(fd);
    OK(pipe(p));
    EQ(fcntl(p[0], F_GETPIPE_SZ), 65536);
}
TEST(pipe_shrinks_with_its_bytes) {
    int p[2];
    char b[3000], c[3000];
    OK(pipe(p));
    EQ(fcntl(p[0], F_SETPIPE_SZ, 1 << 20), 1 << 20);
    char *big = MAPOK(mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EQ(write(p[1], big, 1 << 20), 1 << 20);
    EQ(read(p[0], big, (1 << 20) - 3000), (1 << 20) - 3000);
    EQ(read(p[0], c, 3000), 3000);
    for (int i = 0; i < 3000; i++) b[i] = i;
    EQ(write(p[1], b, 3000), 3000);
    EQ(fcntl(p[0], F_SETPIPE_SZ, 4096), 4096);
    EQ(read(p[0], c, 3000), 3000);
    EQ(memcmp(b, c, 3000), 0);
}
TEST(queued_signals_count_by_user) {
    if (getuid() != 0) SKIP("needs root");
    become(USER);
    limit(RLIMIT_SIGPENDING, 50);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    int n = 0, go[2];
    OK(pipe(go));
    pid_t child = SPAWN({
        char c;
        close(go[1]);
        read(go[0], &c, 1);
        _exit(0);
    });
    while (n <= 60 && sigqueue(n & 1 ? child : getpid(), SIGRTMIN, (union sigval){.sival_int = n}) == 0) n++;
    EQ(errno, EAGAIN);
    EQ(n, 50);
    ERR(sigqueue(child, SIGRTMIN + 1, (union sigval){0}), EAGAIN);
    OK(kill(getpid(), SIGUSR1)); // these need no place, but take one
    siginfo_t info;
    sigset_t one;
    sigemptyset(&one), sigaddset(&one, SIGRTMIN);
    EQ(sigwaitinfo(&one, &info), SIGRTMIN);
    EQ(info.si_value.sival_int, 0);
    ERR(sigqueue(child, SIGRTMIN + 1, (union sigval){0}), EAGAIN);
    EQ(sigwaitinfo(&one, &info), SIGRTMIN);
    EQ(info.si_value.sival_int, 2);
    OK(sigqueue(child, SIGRTMIN + 1, (union sigval){0}));
    close(go[0]), close(go[1]);
    WAIT0(child);
}
TEST(timers_count_with_signals) {
    if (getuid() != 0) SKIP("needs root");
    become(USER);
    limit(RLIMIT_SIGPENDING, 20);
    timer_t t[30];
    struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    int n = 0;
    while (n < 30 && timer_create(CLOCK_MONOTONIC, &e, &t[n]) == 0) n++;
    EQ(errno, EAGAIN);
    EQ(n, 20);
    OK(timer_delete(t[3]));
    OK(timer_create(CLOCK_MONOTONIC, &e, &t[3]));
}
TEST(signals_of_many_timers_all_come) {
    enum { N = 300 };
    timer_t t[N];
    sigset_t s;
    char seen[N] = {0};
    sigemptyset(&s), sigaddset(&s, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &s, NULL);
    struct itimerspec often = {{0, 1000000}, {0, 1000000}}, off = {{0, 0}, {0, 0}};
    for (int i = 0; i < N; i++) {
        struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = i};
        OK(timer_create(CLOCK_MONOTONIC, &e, &t[i]));
        OK(timer_settime(t[i], 0, &often, NULL));
    }
    ms(60);
    for (int i = 0; i < N; i++) OK(timer_settime(t[i], 0, &off, NULL));
    siginfo_t info;
    struct timespec none = {0, 0};
    int got = 0, overruns = 0;
    while (sigtimedwait(&s, &info, &none) == SIGRTMIN) {
        CK(info.si_value.sival_int >= 0 && info.si_value.sival_int < N);
        CK(!seen[info.si_value.sival_int]);
        seen[info.si_value.sival_int] = 1, got++;
        overruns += info.si_overrun > 0;
    }
    // Disarming a timer takes back its signal on newer kernels; whatever came, came once.
    CK(got == N || got == 0);
    CK(got == 0 || overruns > N / 2);
}
TEST(tasks_count_by_user) {
    if (getuid() != 0) SKIP("needs root");
    int go[2], n = 0;
    OK(pipe(go));
    become(USER);
    limit(RLIMIT_NPROC, 6);
    pid_t p[10];
    for (; n < 10; n++) {
        p[n] = fork();
        if (p[n] < 0) break;
        if (p[n] == 0) {
            char c;
            close(go[1]);
            read(go[0], &c, 1);
            _exit(0);
        }
    }
    EQ(errno, EAGAIN);
    EQ(n, 5);
    close(go[1]);
    for (int i = 0; i < n; i++) WAIT0(p[i]);
    WAIT0(SPAWN(_exit(0)));
}
TEST(root_may_have_more_tasks) {
    if (getuid() != 0) SKIP("needs root");
    limit(RLIMIT_NPROC, 1);
    WAIT0(SPAWN(_exit(0)));
}
TEST(high_descriptor_numbers) {
    files(20000);
    int p[2], q[2];
    OK(pipe(p));
    OK(pipe(q));
    EQ(dup2(p[1], 19999), 19999);
    EQ(dup2(p[1], 1023), 1023);
    EQ(dup2(p[1], 1024), 1024);
    EQ(fcntl(p[0], F_DUPFD, 1022), 1022);
    EQ(fcntl(p[0], F_DUPFD, 1022), 1025);
    ERR(fcntl(p[0], F_DUPFD, 19999), EMFILE);
    ERR(dup2(p[0], 20000), EBADF);
    OK(fcntl(1024, F_SETFD, FD_CLOEXEC));
    WAIT0(SPAWN({
        EQ(write(19999, "x", 1), 1);
        OK(close(19999));
        ERR(close(19999), EBADF);
        EQ(fcntl(1024, F_GETFD), FD_CLOEXEC);
        EQ(fcntl(1023, F_GETFD), 0);
        OK(syscall(SYS_close_range, 1023, 1024, 0));
        ERR(fcntl(1023, F_GETFD), EBADF);
        ERR(fcntl(1024, F_GETFD), EBADF);
        OK(fcntl(1025, F_GETFD));
        EQ(fcntl(p[0], F_DUPFD, 1000), 1000);
        EQ(fcntl(p[0], F_DUPFD, 1022), 1023);
    }));
    OK(fcntl(19999, F_GETFD));
}
TEST(poll_of_one_file_many_times) {
    enum { N = 15000 };
    files(N);
    struct pollfd *p = calloc(N, sizeof *p);
    int e = OK(eventfd(0, 0));
    for (int i = 0; i < N; i++) p[i] = (struct pollfd){.fd = e, .events = POLLIN};
    int64_t start = now_ns();
    EQ(poll(p, N, 20), 0);
    CK(now_ns() - start < 3000000000);
    uint64_t one = 1;
    EQ(write(e, &one, 8), 8);
    EQ(poll(p, N, 1000), N);
}
static long switches(const char *name) {
    char *at = strstr(get("/proc/self/status"), name);
    if (!at) FAIL("no %s in /proc/self/status", name);
    return atol(at + strlen(name));
}
TEST(waiting_is_a_voluntary_switch) {
    long before = switches("\nvoluntary_ctxt_switches:");
    for (int i = 0; i < 20; i++) ms(2);
    long after = switches("\nvoluntary_ctxt_switches:");
    CK(after >= before + 20 && after < before + 200);
}
TEST(losing_the_processor_is_none) {
    long before = switches("nonvoluntary_ctxt_switches:");
    pid_t other[4];
    for (int i = 0; i < 4; i++) {
        other[i] = fork();
        if (other[i] == 0) {
            int64_t end = now_ns() + 1000000000;
            while (now_ns() < end) {}
            _exit(0);
        }
    }
    // With more that run than processors there are, all of them lose theirs sometimes.
    if (sysconf(_SC_NPROCESSORS_ONLN) > 4) SKIP("too many processors");
    int64_t end = now_ns() + 800000000;
    while (now_ns() < end) {}
    CK(switches("nonvoluntary_ctxt_switches:") > before);
    for (int i = 0; i < 4; i++) WAIT0(other[i]);
}
