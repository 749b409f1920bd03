// fcntl record locks (POSIX and open file description), flock, leases of descriptors: dup, fcntl, close_range.
#include "t.h"
#include <linux/close_range.h>
#include <sys/file.h>

static int lk(int fd, int cmd, int type, off_t start, off_t len) {
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
    return fcntl(fd, cmd, &l);
}

TEST(posix_conflict) {
    int fd = OK(open("f", O_CREAT | O_RDWR, 0600));
    OK(lk(fd, F_SETLK, F_WRLCK, 10, 10));
    pid_t me = getpid();
    WAIT0(SPAWN({
        int g = OK(open("f", O_RDWR));
        ERR(lk(g, F_SETLK, F_WRLCK, 15, 1), EAGAIN);
        ERR(lk(g, F_SETLK, F_RDLCK, 0, 0), EAGAIN);
        OK(lk(g, F_SETLK, F_WRLCK, 0, 10));
        OK(lk(g, F_SETLK, F_WRLCK, 20, 0));
        struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 12, .l_len = 100};
        OK(fcntl(g, F_GETLK, &l));
        EQ(l.l_type, F_WRLCK);
        EQ(l.l_pid, me);
        EQ(l.l_start, 10);
        EQ(l.l_len, 10);
    }));
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0};
    OK(fcntl(fd, F_GETLK, &l));
    EQ(l.l_type, F_UNLCK);
}
TEST(posix_split_and_merge) {
    int fd = OK(open("f", O_CREAT | O_RDWR, 0600));
    OK(lk(fd, F_SETLK, F_WRLCK, 0, 100));
    OK(lk(fd, F_SETLK, F_UNLCK, 40, 20));
    OK(lk(fd, F_SETLK, F_RDLCK, 0, 10));
    WAIT0(SPAWN({
        OK(lk(fd, F_SETLK, F_WRLCK, 40, 20));
        ERR(lk(fd, F_SETLK, F_WRLCK, 39, 1), EAGAIN);
        ERR(lk(fd, F_SETLK, F_WRLCK, 60, 1), EAGAIN);
        OK(lk(fd, F_SETLK, F_RDLCK, 0, 10));
        ERR(lk(fd, F_SETLK, F_RDLCK, 10, 1), EAGAIN);
    }));
}
TEST(posix_released_on_any_close) {
    int fd = OK(open("f", O_CREAT | O_RDWR, 0600)), other = OK(open("f", O_RDONLY));
    OK(lk(fd, F_SETLK, F_WRLCK, 0, 0));
    OK(close(other));
    WAIT0(SPAWN(OK(lk(OK(open("f", O_RDWR)), F_SETLK, F_WRLCK, 0, 0))));
}
TEST(posix_wait_and_wake) {
    int fd = OK(open("f", O_CREAT | O_RDWR, 0600)), p[2];
    OK(pipe(p));
    OK(lk(fd, F_SETLK, F_WRLCK, 0, 0));
    pid_t c = SPAWN({
        int g = OK(open("f", O_RDWR));
        int64_t t = now_ns();
        OK(write(p[1], "r", 1));
        OK(lk(g, F_SETLKW, F_WRLCK, 0, 0));
        CK(now_ns() - t > 50000000);
    });
    char b;
    EQ(read(p[0], &b, 1), 1);
    ms(150);
    OK(lk(fd, F_SETLK, F_UNLCK, 0, 0));
    WAIT0(c);
}
TEST(posix_deadlock) {
    int fd = OK(open("f", O_CREAT | O_RDWR, 0600)), p[2];
    OK(pipe(p));
    OK(lk(fd, F_SETLK, F_WRLCK, 0, 1));
    pid_t c = SPAWN({
        OK(lk(fd, F_SETLK, F_WRLCK, 1, 1));
        OK(write(p[1], "r", 1));
        OK(lk(fd, F_SETLKW, F_WRLCK, 0, 1));
    });
    char b;
    EQ(read(p[0], &b, 1), 1);
    CK(state_is(c, "S"));
    ms(50);
    ERR(lk(fd, F_SETLKW, F_WRLCK, 1, 1), EDEADLK);
    OK(lk(fd, F_SETLK, F_UNLCK, 0, 0));
    WAIT0(c);
}
static void nop(int s) { (void)s; }
TEST(posix_wait_interrupted) {
    int fd = OK(open("f", O_CREAT | O_RDWR, 0600)), p[2];
    OK(pipe(p));
    OK(lk(fd, F_SETLK, F_WRLCK, 0, 0));
    pid_t c = SPAWN({
        struct sigaction sa = {.sa_handler = nop};
        sigaction(SIGUSR1, &sa, NULL);
        OK(write(p[1], "r", 1));
        ERR(lk(fd, F_SETLKW, F_WRLCK, 0, 0), EINTR);
    });
    char b;
    EQ(read(p[0], &b, 1), 1);
    CK(state_is(c, "S"));
    ms(50);
    kill(c, SIGUSR1);
    WAIT0(c);
}
TEST(posix_mode_rules) {
    put("f", "x");
    int r = OK(open("f", O_RDONLY)), w = OK(open("f", O_WRONLY));
    ERR(lk(r, F_SETLK, F_WRLCK, 0, 0), EBADF);
    ERR(lk(w, F_SETLK, F_RDLCK, 0, 0), EBADF);
    OK(lk(r, F_SETLK, F_RDLCK, 0, 0));
    ERR(lk(r, F_SETLK, 9, 0, 0), EINVAL);
    ERR(lk(r, F_SETLK, F_RDLCK, -5, 2), EINVAL);
    ERR(fcntl(r, F_SETLK, (void *)8), EFAULT);
}
TEST(ofd_locks) {
    int a = OK(open("f", O_CREAT | O_RDWR, 0600)), b = OK(open("f", O_RDWR));
    OK(lk(a, F_OFD_SETLK, F_WRLCK, 0, 0));
    ERR(lk(b, F_OFD_SETLK, F_WRLCK, 0, 0), EAGAIN);
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    OK(fcntl(b, F_OFD_GETLK, &l));
    EQ(l.l_pid, -1);
    WAIT0(SPAWN(OK(lk(a, F_OFD_SETLK, F_WRLCK, 0, 0)))); // inherited with the description
    int d = OK(dup(a));
    OK(close(a));
    ERR(lk(b, F_OFD_SETLK, F_WRLCK, 0, 0), EAGAIN);
    OK(close(d));
    OK(lk(b, F_OFD_SETLK, F_WRLCK, 0, 0));
}
TEST(flock_rules) {
    int a = OK(open("f", O_CREAT | O_RDWR, 0600)), b = OK(open("f", O_RDONLY));
    OK(flock(a, LOCK_SH));
    OK(flock(b, LOCK_SH));
    ERR(flock(b, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    OK(flock(a, LOCK_UN));
    OK(flock(b, LOCK_EX | LOCK_NB));
    ERR(flock(a, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    int d = OK(dup(b));
    OK(close(b));
    ERR(flock(a, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    OK(close(d));
    OK(flock(a, LOCK_EX | LOCK_NB));
    OK(lk(OK(open("f", O_RDWR)), F_SETLK, F_WRLCK, 0, 0)); // the two kinds don't see each other
    ERR(flock(a, 77), EINVAL);
    ERR(flock(99, LOCK_SH), EBADF);
}
TEST(flock_blocks) {
    int a = OK(open("f", O_CREAT | O_RDWR, 0600)), p[2];
    OK(pipe(p));
    OK(flock(a, LOCK_EX));
    pid_t c = SPAWN({
        int b = OK(open("f", O_RDWR));
        OK(write(p[1], "r", 1));
        OK(flock(b, LOCK_EX));
    });
    char x;
    EQ(read(p[0], &x, 1), 1);
    CK(state_is(c, "S"));
    OK(flock(a, LOCK_UN));
    WAIT0(c);
}
TEST(dup_family) {
    int fd = OK(open("/dev/null", O_RDWR));
    EQ(dup2(fd, 50), 50);
    EQ(dup2(fd, fd), fd);
    ERR(dup2(99, 99), EBADF);
    ERR(dup2(99, 5), EBADF);
    ERR(dup2(fd, -1), EBADF);
    ERR(dup3(fd, fd, 0), EINVAL);
    EQ(dup3(fd, 51, O_CLOEXEC), 51);
    EQ(fcntl(51, F_GETFD), FD_CLOEXEC);
    EQ(fcntl(50, F_GETFD), 0);
    ERR(dup3(fd, 52, O_APPEND), EINVAL);
    EQ(fcntl(fd, F_DUPFD, 60), 60);
    EQ(fcntl(fd, F_DUPFD, 60), 61);
    EQ(fcntl(fd, F_DUPFD_CLOEXEC, 60), 62);
    EQ(fcntl(62, F_GETFD), FD_CLOEXEC);
    ERR(fcntl(fd, F_DUPFD, -1), EINVAL);
    ERR(fcntl(fd, F_DUPFD, 1 << 30), EINVAL);
    ERR(dup(99), EBADF);
    ERR(fcntl(99, F_GETFD), EBADF);
    ERR(fcntl(fd, 12345, 0), EINVAL);
}
TEST(setfl_only_some) {
    int fd = OK(open("f", O_CREAT | O_RDWR, 0600));
    OK(fcntl(fd, F_SETFL, O_APPEND | O_NONBLOCK | O_WRONLY | O_TRUNC));
    EQ(fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK | O_TRUNC), O_RDWR | O_APPEND | O_NONBLOCK);
    OK(fcntl(fd, F_SETFD, FD_CLOEXEC));
    EQ(fcntl(fd, F_GETFD), 1);
}
TEST(close_range_call) {
    for (int i = 100; i < 110; i++) OK(dup2(0, i));
    OK(syscall(SYS_close_range, 102, 105, 0));
    ERR(fcntl(103, F_GETFD), EBADF);
    OK(fcntl(101, F_GETFD));
    OK(fcntl(106, F_GETFD));
    OK(syscall(SYS_close_range, 106, 108, CLOSE_RANGE_CLOEXEC));
    EQ(fcntl(107, F_GETFD), 1);
    ERR(syscall(SYS_close_range, 10, 5, 0), EINVAL);
    ERR(syscall(SYS_close_range, 1, 2, 64), EINVAL);
    OK(syscall(SYS_close_range, 3, ~0u, 0));
    t_out = 1;
}
TEST(close_twice) {
    int fd = OK(open("/dev/null", O_RDWR));
    OK(close(fd));
    ERR(close(fd), EBADF);
    ERR(close(-1), EBADF);
}
TEST(owner_and_sig) {
    int p[2];
    OK(pipe(p));
    EQ(fcntl(p[0], F_GETOWN), 0);
    OK(fcntl(p[0], F_SETOWN, getpid()));
    EQ(fcntl(p[0], F_GETOWN), getpid());
    OK(fcntl(p[0], F_SETSIG, SIGUSR1));
    EQ(fcntl(p[0], F_GETSIG), SIGUSR1);
}
