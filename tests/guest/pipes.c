// Pipes, FIFOs, splice and tee.
#include "t.h"

TEST(basic_eof_epipe) {
    int p[2];
    char b[8] = "";
    OK(pipe(p));
    EQ(write(p[1], "hello", 5), 5);
    EQ(read(p[0], b, 3), 3);
    EQ(read(p[0], b, 8), 2);
    OK(close(p[1]));
    EQ(read(p[0], b, 8), 0);
    OK(pipe(p));
    OK(close(p[0]));
    signal(SIGPIPE, SIG_IGN);
    ERR(write(p[1], "x", 1), EPIPE);
    signal(SIGPIPE, SIG_DFL);
    int st;
    pid_t c = SPAWN(write(p[1], "x", 1));
    OK(waitpid(c, &st, 0));
    CK(WIFSIGNALED(st) && WTERMSIG(st) == SIGPIPE);
}
TEST(pipe2_flags) {
    int p[2];
    OK(pipe2(p, O_CLOEXEC | O_NONBLOCK));
    EQ(fcntl(p[0], F_GETFD), 1);
    CK(fcntl(p[1], F_GETFL) & O_NONBLOCK);
    char b;
    ERR(read(p[0], &b, 1), EAGAIN);
    ERR(pipe2(p, O_APPEND), EINVAL);
    ERR(pipe((int *)8), EFAULT);
}
TEST(capacity_and_resize) {
    int p[2];
    OK(pipe2(p, O_NONBLOCK));
    EQ(fcntl(p[0], F_GETPIPE_SZ), 65536);
    char b[4096];
    memset(b, 'x', sizeof b);
    int n = 0;
    while (write(p[1], b, sizeof b) == 4096) n++;
    EQ(errno, EAGAIN);
    EQ(n, 16);
    ERR(write(p[1], b, 1), EAGAIN);
    ERR(fcntl(p[0], F_SETPIPE_SZ, 4096), EBUSY);
    EQ(read(p[0], b, 4096), 4096);
    EQ(fcntl(p[0], F_SETPIPE_SZ, 100000), 131072);
    EQ(write(p[1], b, 4096), 4096);
    int avail;
    OK(ioctl(p[0], FIONREAD, &avail));
    EQ(avail, 65536);
}
TEST(atomic_small_writes) {
    int p[2];
    OK(pipe2(p, O_NONBLOCK));
    char b[4096];
    memset(b, 'x', sizeof b);
    for (int i = 0; i < 15; i++) EQ(write(p[1], b, 4096), 4096);
    EQ(write(p[1], b, 4000), 4000);
    ERR(write(p[1], b, 4096), EAGAIN); // ≤ PIPE_BUF goes whole or not at all
    char big[20000];
    memset(big, 'y', sizeof big);
    EQ(read(p[0], b, 4096), 4096);
    ssize_t n = OK(write(p[1], big, sizeof big));
    CK(n > 0 && n < 20000);
}
TEST(blocking_read_wakes) {
    int p[2];
    OK(pipe(p));
    pid_t c = SPAWN({
        char b[4];
        EQ(read(p[0], b, 4), 2);
    });
    CK(state_is(c, "S"));
    OK(write(p[1], "ab", 2));
    WAIT0(c);
}
TEST(blocking_write_wakes) {
    int p[2];
    OK(pipe(p));
    static char b[200000];
    pid_t c = SPAWN(EQ(write(p[1], b, sizeof b), sizeof b));
    close(p[1]);
    size_t n = 0;
    ssize_t r;
    while ((r = OK(read(p[0], b, 7777))) > 0) n += r;
    EQ(n, sizeof b);
    WAIT0(c);
}
TEST(close_wakes_reader) {
    int p[2];
    OK(pipe(p));
    pid_t c = SPAWN({
        close(p[1]);
        char b;
        EQ(read(p[0], &b, 1), 0);
    });
    CK(state_is(c, "S"));
    close(p[1]);
    WAIT0(c);
}
TEST(many_writers) {
    int p[2];
    OK(pipe(p));
    pid_t c[8];
    for (int i = 0; i < 8; i++)
        c[i] = SPAWN({
            char m[100];
            memset(m, 'a' + i, 100);
            for (int k = 0; k < 200; k++) EQ(write(p[1], m, 100), 100);
        });
    close(p[1]);
    char m[100];
    int n[8] = {0};
    for (;;) {
        size_t got = 0;
        ssize_t r = 0;
        while (got < 100 && (r = OK(read(p[0], m + got, 100 - got))) > 0) got += r;
        if (!got) break;
        for (int i = 1; i < 100; i++) EQ(m[i], m[0]);
        n[m[0] - 'a']++;
    }
    for (int i = 0; i < 8; i++) {
        EQ(n[i], 200);
        WAIT0(c[i]);
    }
}
TEST(fifo_open_rules) {
    OK(mkfifo("f", 0600));
    ERR(mkfifo("f", 0600), EEXIST);
    ERR(open("f", O_WRONLY | O_NONBLOCK), ENXIO);
    int r = OK(open("f", O_RDONLY | O_NONBLOCK));
    char b[4];
    EQ(read(r, b, 4), 0);
    int w = OK(open("f", O_WRONLY | O_NONBLOCK));
    ERR(read(r, b, 4), EAGAIN);
    EQ(write(w, "ab", 2), 2);
    EQ(read(r, b, 4), 2);
    close(w);
    EQ(read(r, b, 4), 0);
    int rw = OK(open("f", O_RDWR));
    EQ(write(rw, "z", 1), 1);
    EQ(read(rw, b, 4), 1);
}
TEST(fifo_rendezvous) {
    OK(mkfifo("f", 0600));
    pid_t c = SPAWN({
        int w = OK(open("f", O_WRONLY));
        OK(write(w, "hi", 2));
    });
    CK(state_is(c, "S"));
    int r = OK(open("f", O_RDONLY));
    char b[4];
    EQ(read(r, b, 4), 2);
    EQ(read(r, b, 4), 0);
    WAIT0(c);
}
TEST(poll_events) {
    int p[2];
    OK(pipe(p));
    struct pollfd f[2] = {{p[0], POLLIN, 0}, {p[1], POLLOUT, 0}};
    EQ(poll(f, 2, 0), 1);
    EQ(f[0].revents, 0);
    EQ(f[1].revents, POLLOUT);
    OK(write(p[1], "x", 1));
    EQ(poll(f, 1, 0), 1);
    EQ(f[0].revents, POLLIN);
    close(p[1]);
    EQ(poll(f, 1, 0), 1);
    EQ(f[0].revents, POLLIN | POLLHUP);
    char b;
    read(p[0], &b, 1);
    EQ(poll(f, 1, 0), 1);
    EQ(f[0].revents, POLLHUP);
    OK(pipe(p));
    close(p[0]);
    f[1] = (struct pollfd){p[1], POLLOUT, 0};
    EQ(poll(f + 1, 1, 0), 1);
    EQ(f[1].revents, POLLOUT | POLLERR);
}
TEST(splice_tee_vmsplice) {
    int a[2], b[2];
    OK(pipe(a));
    OK(pipe(b));
    put("f", "0123456789");
    int f = OK(open("f", O_RDWR));
    off_t off = 2;
    EQ(splice(f, &off, a[1], NULL, 5, 0), 5);
    EQ(off, 7);
    EQ(tee(a[0], b[1], 3, 0), 3);
    char x[16] = "";
    EQ(read(b[0], x, 16), 3);
    STREQ(x, "234");
    EQ(splice(a[0], NULL, b[1], NULL, 100, 0), 5);
    EQ(read(b[0], x, 16), 5);
    struct iovec v = {"vm", 2};
    EQ(vmsplice(a[1], &v, 1, 0), 2);
    off = 0;
    EQ(splice(a[0], NULL, f, &off, 2, 0), 2);
    STREQ(get("f"), "vm23456789");
    ERR(splice(f, NULL, f, NULL, 2, 0), EINVAL);
    ERR(splice(a[0], &off, b[1], NULL, 2, 0), ESPIPE);
}
TEST(fstat_pipe) {
    int p[2];
    OK(pipe(p));
    struct stat s;
    OK(fstat(p[0], &s));
    CK(S_ISFIFO(s.st_mode));
    char l[64] = "", q[64];
    snprintf(q, sizeof q, "/proc/self/fd/%d", p[0]);
    OK(readlink(q, l, 63));
    char want[64];
    snprintf(want, sizeof want, "pipe:[%lu]", (unsigned long)s.st_ino);
    STREQ(l, want);
    int r = OK(open(q, O_RDWR | O_NONBLOCK));
    OK(write(r, "q", 1));
    char b;
    EQ(read(p[0], &b, 1), 1);
}
TEST(zero_length) {
    int p[2];
    OK(pipe2(p, O_NONBLOCK));
    EQ(write(p[1], "", 0), 0);
    EQ(read(p[0], NULL, 0), 0);
}
