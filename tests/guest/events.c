// eventfd, timerfd, signalfd, epoll, poll, select.
#include "t.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

TEST(eventfd_counter) {
    int e = OK(eventfd(3, EFD_NONBLOCK));
    uint64_t v = 4;
    EQ(write(e, &v, 8), 8);
    EQ(read(e, &v, 8), 8);
    EQ(v, 7);
    ERR(read(e, &v, 8), EAGAIN);
    v = UINT64_MAX;
    ERR(write(e, &v, 8), EINVAL);
    v = UINT64_MAX - 1;
    EQ(write(e, &v, 8), 8);
    v = 1;
    ERR(write(e, &v, 8), EAGAIN);
    ERR(read(e, &v, 4), EINVAL);
    ERR(eventfd(0, 077), EINVAL);
    struct pollfd p = {e, POLLIN | POLLOUT, 0};
    EQ(poll(&p, 1, 0), 1);
    EQ(p.revents, POLLIN);
}
TEST(eventfd_semaphore_blocks) {
    int e = OK(eventfd(0, EFD_SEMAPHORE));
    pid_t c = SPAWN({
        uint64_t v;
        for (int i = 0; i < 3; i++) {
            EQ(read(e, &v, 8), 8);
            EQ(v, 1);
        }
    });
    CK(state_is(c, "S"));
    uint64_t v = 3;
    OK(write(e, &v, 8));
    WAIT0(c);
}
TEST(timerfd_oneshot_and_interval) {
    int t = OK(timerfd_create(CLOCK_MONOTONIC, 0));
    struct itimerspec it = {{0, 20000000}, {0, 30000000}};
    int64_t s = now_ns();
    OK(timerfd_settime(t, 0, &it, NULL));
    uint64_t n;
    EQ(read(t, &n, 8), 8);
    CK(now_ns() - s >= 30000000);
    CK(n >= 1);
    ms(100);
    EQ(read(t, &n, 8), 8);
    CK(n >= 3);
    struct itimerspec cur;
    OK(timerfd_gettime(t, &cur));
    EQ(cur.it_interval.tv_nsec, 20000000);
    CK(cur.it_value.tv_nsec > 0 && cur.it_value.tv_nsec <= 20000000);
    memset(&it, 0, sizeof it);
    OK(timerfd_settime(t, 0, &it, &cur));
    OK(fcntl(t, F_SETFL, O_NONBLOCK));
    ERR(read(t, &n, 8), EAGAIN);
    it.it_value.tv_nsec = 2000000000;
    ERR(timerfd_settime(t, 0, &it, NULL), EINVAL);
    ERR(timerfd_create(77, 0), EINVAL);
    ERR(timerfd_settime(0, 0, &cur, NULL), EINVAL);
}
TEST(timerfd_absolute) {
    int t = OK(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK));
    struct itimerspec it = {{0, 0}, {1, 0}}; // long past
    OK(timerfd_settime(t, TFD_TIMER_ABSTIME, &it, NULL));
    struct pollfd p = {t, POLLIN, 0};
    EQ(poll(&p, 1, 1000), 1);
    uint64_t n;
    EQ(read(t, &n, 8), 8);
    EQ(n, 1);
}
TEST(signalfd_reads) {
    sigset_t m;
    sigemptyset(&m);
    sigaddset(&m, SIGUSR1);
    sigaddset(&m, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &m, NULL);
    int s = OK(signalfd(-1, &m, SFD_NONBLOCK));
    struct signalfd_siginfo i[3];
    ERR(read(s, i, sizeof i), EAGAIN);
    ERR(read(s, i, 10), EINVAL);
    kill(getpid(), SIGUSR1);
    union sigval v = {.sival_int = 42};
    sigqueue(getpid(), SIGRTMIN, v);
    struct pollfd p = {s, POLLIN, 0};
    EQ(poll(&p, 1, 0), 1);
    EQ(read(s, i, sizeof i), 2 * sizeof i[0]);
    EQ(i[0].ssi_signo, SIGUSR1);
    EQ(i[0].ssi_pid, getpid());
    EQ(i[0].ssi_code, SI_USER);
    EQ(i[1].ssi_signo, SIGRTMIN);
    EQ(i[1].ssi_int, 42);
    EQ(i[1].ssi_code, SI_QUEUE);
    ERR(read(s, i, sizeof i), EAGAIN);
    sigdelset(&m, SIGUSR1);
    EQ(signalfd(s, &m, 0), s);
    kill(getpid(), SIGUSR1);
    ERR(read(s, i, sizeof i), EAGAIN);
}
TEST(epoll_level_and_edge) {
    int e = OK(epoll_create1(EPOLL_CLOEXEC)), p[2];
    OK(pipe(p));
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 0x1122334455667788}, out[4];
    OK(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev));
    ERR(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev), EEXIST);
    EQ(epoll_wait(e, out, 4, 0), 0);
    OK(write(p[1], "x", 1));
    for (int i = 0; i < 3; i++) {
        EQ(epoll_wait(e, out, 4, 0), 1);
        EQ(out[0].events, EPOLLIN);
        EQ(out[0].data.u64, 0x1122334455667788);
    }
    ev.events = EPOLLIN | EPOLLET;
    OK(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &ev));
    EQ(epoll_wait(e, out, 4, 0), 1);
    EQ(epoll_wait(e, out, 4, 0), 0);
    OK(write(p[1], "y", 1));
    EQ(epoll_wait(e, out, 4, 0), 1);
    EQ(epoll_wait(e, out, 4, 0), 0);
    OK(epoll_ctl(e, EPOLL_CTL_DEL, p[0], NULL));
    ERR(epoll_ctl(e, EPOLL_CTL_DEL, p[0], NULL), ENOENT);
}
TEST(epoll_oneshot) {
    int e = OK(epoll_create1(0)), p[2];
    OK(pipe(p));
    struct epoll_event ev = {.events = EPOLLIN | EPOLLONESHOT}, out[4];
    OK(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev));
    OK(write(p[1], "x", 1));
    EQ(epoll_wait(e, out, 4, 0), 1);
    OK(write(p[1], "x", 1));
    EQ(epoll_wait(e, out, 4, 0), 0);
    OK(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &ev));
    EQ(epoll_wait(e, out, 4, 0), 1);
}
TEST(epoll_errors) {
    int e = OK(epoll_create1(0)), f = OK(open("f", O_CREAT | O_RDWR, 0600));
    struct epoll_event ev = {.events = EPOLLIN}, out[4];
    ERR(epoll_ctl(e, EPOLL_CTL_ADD, f, &ev), EPERM);
    ERR(epoll_ctl(e, EPOLL_CTL_ADD, e, &ev), EINVAL);
    ERR(epoll_ctl(f, EPOLL_CTL_ADD, OK(eventfd(0, 0)), &ev), EINVAL);
    ERR(epoll_ctl(e, 9, OK(dup(e)), &ev), EINVAL);
    ERR(epoll_ctl(e, EPOLL_CTL_ADD, 99, &ev), EBADF);
    ERR(epoll_wait(e, out, 0, 0), EINVAL);
    ERR(epoll_wait(99, out, 1, 0), EBADF);
    ERR(epoll_wait(f, out, 1, 0), EINVAL);
    ERR(epoll_create(0), EINVAL);
    int a = OK(epoll_create1(0)), b = OK(epoll_create1(0));
    OK(epoll_ctl(a, EPOLL_CTL_ADD, b, &ev));
    ERR(epoll_ctl(b, EPOLL_CTL_ADD, a, &ev), ELOOP);
}
TEST(epoll_nested_and_wakeup) {
    int in = OK(epoll_create1(0)), out = OK(epoll_create1(0)), v = OK(eventfd(0, 0));
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = v}, r;
    OK(epoll_ctl(in, EPOLL_CTL_ADD, v, &ev));
    ev.data.fd = in;
    OK(epoll_ctl(out, EPOLL_CTL_ADD, in, &ev));
    pid_t c = SPAWN({
        EQ(epoll_wait(out, &r, 1, 10000), 1);
        EQ(r.data.fd, in);
        EQ(epoll_wait(in, &r, 1, 0), 1);
        EQ(r.data.fd, v);
    });
    CK(state_is(c, "S"));
    uint64_t one = 1;
    OK(write(v, &one, 8));
    WAIT0(c);
}
TEST(epoll_closed_fd_leaves) {
    int e = OK(epoll_create1(0)), p[2];
    OK(pipe(p));
    struct epoll_event ev = {.events = EPOLLIN}, r;
    OK(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev));
    OK(write(p[1], "x", 1));
    int d = OK(dup(p[0]));
    OK(close(p[0]));
    EQ(epoll_wait(e, &r, 1, 0), 1); // the description is still open
    OK(close(d));
    EQ(epoll_wait(e, &r, 1, 0), 0);
}
TEST(epoll_hup_and_timeout) {
    int e = OK(epoll_create1(0)), p[2];
    OK(pipe(p));
    struct epoll_event ev = {.events = 0}, r;
    OK(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev));
    int64_t t = now_ns();
    EQ(epoll_wait(e, &r, 1, 50), 0);
    CK(now_ns() - t >= 49000000);
    close(p[1]);
    EQ(epoll_wait(e, &r, 1, 0), 1);
    EQ(r.events, EPOLLHUP);
}
static void nop(int s) { (void)s; }
TEST(epoll_pwait_mask) {
    int e = OK(epoll_create1(0));
    struct sigaction sa = {.sa_handler = nop};
    sigaction(SIGUSR1, &sa, NULL);
    sigset_t m, none;
    sigemptyset(&none);
    sigemptyset(&m);
    sigaddset(&m, SIGUSR1);
    sigprocmask(SIG_BLOCK, &m, NULL);
    kill(getpid(), SIGUSR1);
    struct epoll_event r;
    EQ(epoll_wait(e, &r, 1, 10), 0);
    ERR(epoll_pwait(e, &r, 1, 5000, &none), EINTR);
    sigset_t cur;
    sigprocmask(SIG_BLOCK, NULL, &cur);
    EQ(sigismember(&cur, SIGUSR1), 1);
}
TEST(poll_rules) {
    struct pollfd p[3] = {{-1, POLLIN, 77}, {99, POLLIN, 0}, {OK(open("/dev/null", O_RDWR)), POLLIN | POLLOUT, 0}};
    EQ(poll(p, 3, 0), 2);
    EQ(p[0].revents, 0);
    EQ(p[1].revents, POLLNVAL);
    EQ(p[2].revents, POLLIN | POLLOUT);
    int64_t t = now_ns();
    EQ(poll(NULL, 0, 30), 0);
    CK(now_ns() - t >= 29000000);
    ERR(poll((void *)8, 1, 0), EFAULT);
    ERR(poll(p, 100000000, 0), EINVAL);
}
TEST(ppoll_timeout_and_signal) {
    struct timespec ts = {0, 20000000};
    EQ(ppoll(NULL, 0, &ts, NULL), 0);
    ts.tv_nsec = 2000000000;
    ERR(ppoll(NULL, 0, &ts, NULL), EINVAL);
    struct sigaction sa = {.sa_handler = nop};
    sigaction(SIGALRM, &sa, NULL);
    // Again and again: one may come before the call does.
    struct itimerval it = {{0, 30000}, {0, 30000}};
    setitimer(ITIMER_REAL, &it, NULL);
    ERR(poll(NULL, 0, 5000), EINTR);
}
TEST(select_rules) {
    int p[2];
    OK(pipe(p));
    fd_set r, w;
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_SET(p[0], &r);
    FD_SET(p[1], &w);
    struct timeval tv = {0, 0};
    EQ(select(p[1] + 1, &r, &w, NULL, &tv), 1);
    CK(!FD_ISSET(p[0], &r) && FD_ISSET(p[1], &w));
    OK(write(p[1], "x", 1));
    FD_SET(p[0], &r);
    EQ(select(p[1] + 1, &r, &w, NULL, NULL), 2);
    FD_ZERO(&r);
    FD_SET(150, &r);
    ERR(select(151, &r, NULL, NULL, &tv), EBADF);
    ERR(select(-1, NULL, NULL, NULL, &tv), EINVAL);
    tv = (struct timeval){0, 40000};
    EQ(select(0, NULL, NULL, NULL, &tv), 0);
    EQ(tv.tv_sec, 0);
    EQ(tv.tv_usec, 0); // Linux writes the time that is left
    struct timespec ts = {0, 1000000};
    EQ(pselect(0, NULL, NULL, NULL, &ts, NULL), 0);
}
TEST(select_writes_where_it_can) {
    char *m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CK(m != MAP_FAILED);
    int e = OK(eventfd(1, 0));
    long *r = (long *)(m + 4096 - 8);
    struct timeval *tv = (struct timeval *)(m + 4096 + 8);
    *r = 1L << e;
    tv->tv_sec = 5;
    // The time beside it may stay as it is, the set must not.
    OK(mprotect(m + 4096, 4096, PROT_READ));
    EQ(syscall(SYS_select, e + 1, r, NULL, NULL, tv), 1);
    EQ(*r, 1L << e);
    EQ(tv->tv_sec, 5);
    OK(mprotect(m, 8192, PROT_READ));
    ERR(syscall(SYS_select, e + 1, r, NULL, NULL, tv), EFAULT);
    OK(mprotect(m + 4096, 4096, PROT_NONE));
    ERR(syscall(SYS_select, e + 1, r, NULL, NULL, tv), EFAULT);
    OK(mprotect(m, 4096, PROT_READ | PROT_WRITE));
    EQ(syscall(SYS_select, e + 1, r, NULL, NULL, NULL), 1);
    ERR(syscall(SYS_select, e + 1, r, NULL, m + 4096, NULL), EFAULT);
}
TEST(regular_files_always_ready) {
    int f = OK(open("f", O_CREAT | O_RDWR, 0600));
    struct pollfd p = {f, POLLIN | POLLOUT | POLLPRI, 0};
    EQ(poll(&p, 1, 0), 1);
    EQ(p.revents, POLLIN | POLLOUT);
}
