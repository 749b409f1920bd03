// POSIX message queues: making and finding, order, limits, blocking and time-outs, notification, what poll and stat show.
#include "t.h"
#include <mqueue.h>
#include <sys/mount.h>
#include <pthread.h>

static char name[64];
static const char *q(void) {
    snprintf(name, sizeof name, "/chitin-%d", getpid());
    return name;
}
static mqd_t make(int flags, long count, long size) {
    struct mq_attr a = {.mq_maxmsg = count, .mq_msgsize = size};
    return OK(mq_open(q(), O_CREAT | O_EXCL | flags, 0600, &a));
}
static void post(mqd_t d, const char *text, unsigned prio) { OK(mq_send(d, text, strlen(text), prio)); }
static const char *take(mqd_t d) {
    static char b[8193];
    unsigned prio = 0;
    long n = OK(mq_receive(d, b, 8192, &prio));
    b[n] = 0;
    snprintf(b + n, sizeof b - n, ":%u", prio);
    return b;
}

TEST(open_and_unlink) {
    struct mq_attr a, bad = {.mq_maxmsg = 0, .mq_msgsize = 8};
    ERR(mq_open(q(), O_RDWR), ENOENT);
    ERR(mq_open(q(), O_RDWR | O_CREAT, 0600, &bad), EINVAL);
    mqd_t d = OK(mq_open(q(), O_RDWR | O_CREAT, 0640, NULL));
    EQ(fcntl(d, F_GETFD), FD_CLOEXEC);
    EQ(fcntl(d, F_GETFL) & O_ACCMODE, O_RDWR);
    OK(mq_getattr(d, &a));
    EQ(a.mq_maxmsg, 10);
    EQ(a.mq_msgsize, 8192);
    EQ(a.mq_curmsgs, 0);
    EQ(a.mq_flags, 0);
    ERR(mq_open(q(), O_RDWR | O_CREAT | O_EXCL, 0600, NULL), EEXIST);
    ERR(syscall(SYS_mq_open, "a/b", O_RDWR, 0, NULL), EACCES);
    ERR(syscall(SYS_mq_open, ".", O_RDWR, 0, NULL), EACCES);
    ERR(syscall(SYS_mq_open, "", O_RDWR, 0, NULL), ENOENT);
    ERR(syscall(SYS_mq_open, name + 1, O_RDWR | O_WRONLY, 0, NULL), EINVAL);
    struct stat s;
    OK(fstat(d, &s));
    EQ(s.st_mode, S_IFREG | 0640);
    EQ(s.st_size, 80);
    OK(mq_unlink(name));
    ERR(mq_unlink(name), ENOENT);
    post(d, "still there", 0);
    CK(!strcmp(take(d), "still there:0"));
    OK(mq_close(d));
}
TEST(order_and_sizes) {
    mqd_t d = make(O_RDWR | O_NONBLOCK, 4, 8);
    post(d, "low", 1);
    post(d, "high", 7);
    post(d, "low2", 1);
    post(d, "high2", 7);
    ERR(mq_send(d, "x", 1, 0), EAGAIN);
    ERR(mq_send(d, "123456789", 9, 0), EMSGSIZE);
    ERR(mq_send(d, "x", 1, MQ_PRIO_MAX), EINVAL);
    char b[8];
    ERR(mq_receive(d, b, 7, NULL), EMSGSIZE);
    CK(!strcmp(take(d), "high:7"));
    CK(!strcmp(take(d), "high2:7"));
    CK(!strcmp(take(d), "low:1"));
    CK(!strcmp(take(d), "low2:1"));
    ERR(mq_receive(d, b, 8, NULL), EAGAIN);
    OK(mq_send(d, NULL, 0, 3));
    CK(!strcmp(take(d), ":3"));
    ERR(mq_send(d, (char *)1, 4, 0), EFAULT);
    mqd_t r = OK(mq_open(name, O_RDONLY)), w = OK(mq_open(name, O_WRONLY));
    ERR(mq_send(r, "x", 1, 0), EBADF);
    ERR(mq_receive(w, b, 8, NULL), EBADF);
    ERR(mq_send(0, "x", 1, 0), EBADF);
    OK(mq_unlink(name));
}
TEST(permissions) {
    if (getuid()) SKIP("needs root");
    mqd_t d = make(O_RDWR, 2, 8);
    (void)d;
    pid_t c = SPAWN({
        OK(setuid(1234));
        if (mq_open(name, O_RDONLY) != -1 || errno != EACCES) _exit(1);
        if (mq_unlink(name) != -1 || errno != EACCES) _exit(2); // the directory is sticky
        struct mq_attr a = {.mq_maxmsg = 11, .mq_msgsize = 8};
        if (mq_open("/chitin-too-many", O_CREAT | O_RDWR, 0600, &a) != -1 || errno != EINVAL) _exit(3);
        int n = 0;
        char b[64];
        for (; n < 20; n++) {
            snprintf(b, sizeof b, "/chitin-%d-%d", getpid(), n);
            if (mq_open(b, O_CREAT | O_RDWR, 0600, NULL) == -1) break;
            mq_unlink(b);
        }
        // RLIMIT_MSGQUEUE: 819200 bytes
        if (n != 9 || errno != EMFILE) _exit(10 + n);
    });
    WAIT0(c);
    OK(mq_unlink(name));
}
TEST(blocking) {
    mqd_t d = make(O_RDWR, 1, 8);
    pid_t c = SPAWN({
        usleep(50000);
        post(d, "one", 0);
        post(d, "two", 0); // waits for room
    });
    CK(!strcmp(take(d), "one:0"));
    CK(!strcmp(take(d), "two:0"));
    WAIT0(c);
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    char b[8];
    ERR(mq_timedreceive(d, b, 8, NULL, &t), ETIMEDOUT);
    post(d, "full", 0);
    ERR(mq_timedsend(d, "more", 4, 0, &t), ETIMEDOUT);
    t.tv_nsec = 1000000000;
    ERR(mq_timedsend(d, "more", 4, 0, &t), EINVAL);
    OK(mq_unlink(name));
}
static volatile int got;
static siginfo_t info;
static void on(int s, siginfo_t *i, void *u) { got = s, info = *i; }
TEST(signals) {
    mqd_t d = make(O_RDWR, 2, 8);
    struct sigaction a = {.sa_sigaction = on, .sa_flags = SA_SIGINFO};
    OK(sigaction(SIGUSR1, &a, NULL));
    OK(sigaction(SIGALRM, &a, NULL));
    char b[8];
    // Again and again: one may come before the call does.
    struct itimerval v = {{0, 30000}, {0, 30000}}, never = {0};
    OK(setitimer(ITIMER_REAL, &v, NULL));
    ERR(mq_receive(d, b, 8, NULL), EINTR);
    OK(setitimer(ITIMER_REAL, &never, NULL));
    struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 42};
    OK(mq_notify(d, &e));
    ERR(mq_notify(d, &e), EBUSY);
    pid_t c = SPAWN({
        if (mq_notify(d, &e) != -1 || errno != EBUSY) _exit(1);
        char t[90];
        long n = read(d, t, sizeof t - 1);
        t[n > 0 ? n : 0] = 0;
        char want[90];
        snprintf(want, sizeof want, "QSIZE:%-10d NOTIFY:%-5d SIGNO:%-5d NOTIFY_PID:%-6d\n", 0, SIGEV_SIGNAL, SIGUSR1, getppid());
        if (strcmp(t, want)) _exit(2);
        post(d, "hello", 0);
    });
    WAIT0(c);
    EQ(got, SIGUSR1);
    EQ(info.si_code, SI_MESGQ);
    EQ(info.si_value.sival_int, 42);
    EQ(info.si_pid, c);
    EQ(info.si_uid, getuid());
    // Once only, and not while there is something in it.
    got = 0;
    OK(mq_notify(d, &e));
    post(d, "second", 0);
    EQ(got, 0);
    take(d), take(d);
    post(d, "third", 0);
    EQ(got, SIGUSR1);
    take(d);
    // Taken back, and gone with a close.
    got = 0;
    OK(mq_notify(d, &e));
    OK(mq_notify(d, NULL));
    post(d, "x", 0);
    take(d);
    OK(mq_notify(d, &e));
    int other = OK(mq_open(name, O_RDONLY));
    OK(mq_close(other));
    post(d, "x", 0);
    take(d);
    EQ(got, 0);
    OK(mq_unlink(name));
}
static void called(union sigval v) { *(volatile int *)v.sival_ptr = 1; }
TEST(a_thread_is_told) {
    mqd_t d = make(O_RDWR, 2, 8);
    volatile int told = 0;
    struct sigevent e = {.sigev_notify = SIGEV_THREAD, .sigev_value.sival_ptr = (void *)&told};
    e.sigev_notify_function = called;
    if (mq_notify(d, &e)) FAIL("mq_notify: %s", strerror(errno));
    post(d, "x", 0);
    for (int i = 0; i < 1000 && !told; i++) usleep(10000);
    EQ(told, 1);
    OK(mq_unlink(name));
}
TEST(ready) {
    mqd_t d = make(O_RDWR, 1, 8);
    struct pollfd p = {d, POLLIN | POLLOUT, 0};
    EQ(poll(&p, 1, 0), 1);
    EQ(p.revents, POLLOUT);
    post(d, "x", 0);
    EQ(poll(&p, 1, 0), 1);
    EQ(p.revents, POLLIN);
    pid_t c = SPAWN({
        usleep(30000);
        take(d);
    });
    p.events = POLLOUT;
    EQ(poll(&p, 1, 2000), 1);
    WAIT0(c);
    struct mq_attr a = {.mq_flags = O_NONBLOCK}, old;
    OK(mq_setattr(d, &a, &old));
    EQ(old.mq_flags, 0);
    EQ(fcntl(d, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    a.mq_flags = O_APPEND;
    ERR(mq_setattr(d, &a, NULL), EINVAL);
    OK(mq_unlink(name));
}
TEST(the_file_system) {
    if (getuid() || unshare(CLONE_NEWNS | CLONE_NEWIPC)) SKIP("needs root");
    OK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    mqd_t d = make(O_RDWR, 2, 8);
    OK(mkdir("m", 0755));
    OK(mount("none", "m", "mqueue", 0, NULL));
    char path[80];
    snprintf(path, sizeof path, "m%s", name);
    OK(access(path, F_OK));
    post(d, "12345", 0);
    char t[90];
    int f = OK(open(path, O_RDONLY));
    long n = OK(read(f, t, sizeof t - 1));
    t[n] = 0;
    CK(!strncmp(t, "QSIZE:5 ", 8));
    EQ(OK(open("m/made", O_CREAT | O_RDWR, 0600)) >= 0, 1);
    mqd_t e = OK(mq_open("/made", O_RDONLY));
    struct mq_attr a;
    OK(mq_getattr(e, &a));
    EQ(a.mq_maxmsg, 10);
    ERR(mkdir("m/dir", 0755), EPERM);
    OK(unlink(path));
    ERR(mq_open(name, O_RDONLY), ENOENT);
    // Another namespace has queues of its own.
    pid_t c = SPAWN({
        OK(unshare(CLONE_NEWIPC));
        if (mq_open("/made", O_RDONLY) != -1 || errno != ENOENT) _exit(1);
    });
    WAIT0(c);
}
