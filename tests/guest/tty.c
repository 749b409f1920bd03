// Terminals: pseudo-terminal pairs, line discipline, sessions' controlling terminals, job control signals.
#include "t.h"
#include <pty.h>
#include <termios.h>

static volatile int got;
static void on(int s) { got = s; }
static int master, slave;
static void pair(void) {
    OK(openpty(&master, &slave, NULL, NULL, NULL));
}
static void raw(int fd) {
    struct termios t;
    OK(tcgetattr(fd, &t));
    cfmakeraw(&t);
    OK(tcsetattr(fd, TCSANOW, &t));
}
static void text(int fd, const char *want) {
    char b[256];
    size_t n = 0;
    while (n < strlen(want)) {
        struct pollfd p = {fd, POLLIN, 0};
        if (poll(&p, 1, 3000) != 1) FAIL("only %zu bytes of %s", n, want);
        ssize_t r = OK(read(fd, b + n, sizeof b - 1 - n));
        n += r;
    }
    b[n] = 0;
    STREQ(b, want);
}

TEST(open_and_name) {
    int m = OK(posix_openpt(O_RDWR | O_NOCTTY));
    char n[64];
    int num, lock = 1;
    ERR(ptsname_r(99, n, sizeof n) ? (errno = EBADF, -1) : 0, EBADF);
    OK(ioctl(m, TIOCGPTN, &num));
    snprintf(n, sizeof n, "/dev/pts/%d", num);
    ERR(open(n, O_RDWR | O_NOCTTY), EIO); // locked
    lock = 0;
    OK(ioctl(m, TIOCSPTLCK, &lock));
    int s = OK(open(n, O_RDWR | O_NOCTTY));
    EQ(isatty(m), 1);
    EQ(isatty(s), 1);
    char t[64];
    EQ(ttyname_r(s, t, sizeof t), 0);
    STREQ(t, n);
    struct stat st;
    OK(fstat(s, &st));
    CK(S_ISCHR(st.st_mode));
    close(s), close(m);
    ERR(open(n, O_RDWR | O_NOCTTY), ENOENT);
}
TEST(canonical_and_echo) {
    pair();
    OK(write(master, "hel\177lp\n", 7)); // 0177 erases
    char b[32] = "";
    EQ(read(slave, b, 32), 5);
    STREQ(b, "help\n");
    text(master, "hel\b \blp\r\n");
    OK(write(slave, "out\n", 4));
    text(master, "out\r\n");
    OK(write(master, "no newline", 10));
    OK(fcntl(slave, F_SETFL, O_NONBLOCK));
    ERR(read(slave, b, 32), EAGAIN);
    OK(write(master, "\4", 1)); // ^D pushes what is there
    EQ(read(slave, b, 32), 10);
    OK(write(master, "\4", 1));
    EQ(read(slave, b, 32), 0);
}
TEST(line_by_line) {
    pair();
    OK(write(master, "one\ntwo\n", 8));
    char b[32] = "";
    EQ(read(slave, b, 32), 4);
    EQ(read(slave, b, 2), 2);
    EQ(read(slave, b, 32), 2);
}
TEST(raw_mode) {
    pair();
    raw(slave);
    OK(write(master, "a\003\r", 3));
    char b[8];
    EQ(read(slave, b, 8), 3);
    EQ(b[1], 3);
    EQ(b[2], '\r');
    OK(write(slave, "x\n", 2));
    text(master, "x\n");
}
TEST(vmin_vtime) {
    pair();
    raw(slave);
    struct termios t;
    OK(tcgetattr(slave, &t));
    t.c_cc[VMIN] = 0, t.c_cc[VTIME] = 1;
    OK(tcsetattr(slave, TCSANOW, &t));
    char b[8];
    int64_t s = now_ns();
    EQ(read(slave, b, 8), 0);
    CK(now_ns() - s >= 90000000);
}
TEST(attributes) {
    pair();
    struct termios t, u;
    OK(tcgetattr(slave, &t));
    CK(t.c_lflag & ICANON && t.c_lflag & ECHO && t.c_lflag & ISIG && t.c_oflag & OPOST);
    t.c_lflag &= ~ECHO;
    OK(tcsetattr(slave, TCSAFLUSH, &t));
    OK(tcgetattr(master, &u));
    EQ(u.c_lflag & ECHO, 0);
    ERR(tcgetattr(OK(open("/dev/null", O_RDWR)), &u), ENOTTY);
}
TEST(window_size) {
    pair();
    struct winsize w = {24, 80, 0, 0}, v;
    OK(ioctl(master, TIOCSWINSZ, &w));
    OK(ioctl(slave, TIOCGWINSZ, &v));
    EQ(v.ws_row, 24);
    EQ(v.ws_col, 80);
}
TEST(hangup) {
    pair();
    raw(slave);
    close(master);
    char b;
    EQ(read(slave, &b, 1), 0);
    ERR(write(slave, "x", 1), EIO);
    pair();
    close(slave);
    ERR(read(master, &b, 1), EIO);
    struct pollfd p = {master, POLLIN, 0};
    EQ(poll(&p, 1, 0), 1);
    CK(p.revents & POLLHUP);
}
// A session with the slave as its terminal.
#define SESSION(...)                        \
    SPAWN({                                 \
        OK(setsid());                       \
        OK(ioctl(slave, TIOCSCTTY, 0));     \
        __VA_ARGS__;                        \
    })
TEST(controlling_terminal) {
    pair();
    WAIT0(SPAWN({
        ERR(ioctl(slave, TIOCSCTTY, 0), EPERM); // no session leader
        OK(setsid());
        ERR(open("/dev/tty", O_RDWR), ENXIO);
        OK(ioctl(slave, TIOCSCTTY, 0));
        OK(open("/dev/tty", O_RDWR));
        EQ(tcgetpgrp(slave), getpgrp());
        EQ(tcgetsid(slave), getsid(0));
        ERR(tcsetpgrp(slave, 1 << 20), ESRCH);
        signal(SIGHUP, SIG_IGN);
        OK(ioctl(slave, TIOCNOTTY, 0));
        ERR(open("/dev/tty", O_RDWR), ENXIO);
    }));
}
TEST(interrupt_quit_suspend) {
    pair();
    int p[2];
    OK(pipe(p));
    pid_t c = SESSION({
        struct sigaction a = {.sa_handler = on};
        sigaction(SIGINT, &a, NULL), sigaction(SIGQUIT, &a, NULL), sigaction(SIGTSTP, &a, NULL), sigaction(SIGWINCH, &a, NULL);
        int want[] = {SIGINT, SIGQUIT, SIGTSTP, SIGWINCH};
        sigset_t m, old;
        sigfillset(&m);
        sigprocmask(SIG_BLOCK, &m, &old);
        for (int i = 0; i < 4; i++) {
            got = 0;
            OK(write(p[1], "r", 1));
            while (!got) sigsuspend(&old);
            EQ(got, want[i]);
        }
    });
    char b;
    for (int i = 0; i < 4; i++) {
        OK(read(p[0], &b, 1));
        struct winsize w = {10 + i, 20, 0, 0};
        if (i < 3) OK(write(master, &"\003\034\032"[i], 1));
        else OK(ioctl(master, TIOCSWINSZ, &w));
    }
    WAIT0(c);
}
TEST(background_read_stops) {
    pair();
    pid_t c = SESSION({
        pid_t bg = SPAWN({
            setpgid(0, 0);
            char b;
            read(slave, &b, 1);
        });
        setpgid(bg, bg);
        int st;
        EQ(waitpid(bg, &st, WUNTRACED), bg);
        CK(WIFSTOPPED(st) && WSTOPSIG(st) == SIGTTIN);
        signal(SIGTTOU, SIG_IGN);
        OK(tcsetpgrp(slave, bg));
        kill(bg, SIGCONT);
        OK(write(master, "x\n", 2));
        EQ(waitpid(bg, &st, 0), bg);
        EQ(st, 0);
    });
    WAIT0(c);
}
TEST(background_write_and_settings) {
    pair();
    WAIT0(SESSION({
        struct termios t;
        OK(tcgetattr(slave, &t));
        pid_t bg = SPAWN({
            setpgid(0, 0);
            tcsetattr(slave, TCSANOW, &t);
        });
        setpgid(bg, bg);
        int st;
        EQ(waitpid(bg, &st, WUNTRACED), bg);
        CK(WIFSTOPPED(st) && WSTOPSIG(st) == SIGTTOU);
        kill(bg, SIGKILL);
        OK(waitpid(bg, &st, 0));
        t.c_lflag |= TOSTOP;
        OK(tcsetattr(slave, TCSANOW, &t));
        bg = SPAWN({
            setpgid(0, 0);
            write(slave, "x", 1);
        });
        setpgid(bg, bg);
        EQ(waitpid(bg, &st, WUNTRACED), bg);
        CK(WIFSTOPPED(st) && WSTOPSIG(st) == SIGTTOU);
        kill(bg, SIGKILL);
        OK(waitpid(bg, &st, 0));
        WAIT0(SPAWN({
            setpgid(0, 0);
            signal(SIGTTIN, SIG_IGN);
            char b;
            ERR(read(slave, &b, 1), EIO);
        }));
    }));
}
TEST(leader_exit_hangs_up) {
    pair();
    int p[2];
    OK(pipe(p));
    pid_t c = SESSION({
        pid_t k = SPAWN({
            OK(write(p[1], "r", 1));
            pause();
        });
        (void)k;
        char b;
        OK(read(p[0], &b, 1));
    });
    WAIT0(c);
    close(p[1]);
    char b;
    EQ(read(p[0], &b, 1), 0); // the foreground group got SIGHUP, so the pipe's last writer is gone
}
TEST(packet_bytes_available) {
    pair();
    OK(write(slave, "12345", 5));
    int n;
    struct pollfd p = {master, POLLIN, 0};
    EQ(poll(&p, 1, 2000), 1);
    OK(ioctl(master, FIONREAD, &n));
    EQ(n, 5);
    OK(ioctl(slave, TIOCOUTQ, &n));
    OK(tcflush(master, TCIFLUSH));
    OK(tcdrain(slave));
}
