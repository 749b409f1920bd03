// SIGIO and SIGURG: O_ASYNC, F_SETOWN, F_SETSIG on sockets, pipes and terminals.
#include "t.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pty.h>

static volatile sig_atomic_t came, last_code, last_fd, last_sig;
static volatile long last_band;
static void on(int sig, siginfo_t *info, void *c) {
    came++;
    last_sig = sig, last_code = info->si_code, last_fd = info->si_fd, last_band = info->si_band;
}
static void handle(int sig) {
    struct sigaction a = {.sa_sigaction = on, .sa_flags = SA_SIGINFO | SA_RESTART};
    OK(sigaction(sig, &a, NULL));
    came = last_code = last_fd = last_sig = 0, last_band = 0;
}
static void async(int fd, int sig) {
    OK(fcntl(fd, F_SETOWN, getpid()));
    if (sig) OK(fcntl(fd, F_SETSIG, sig));
    OK(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC));
}
static void wait_for(int count) {
    for (int i = 0; i < 2000 && came < count; i++) ms(1);
    CK(came >= count);
}
static int listener(int *port) {
    int l = OK(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    OK(bind(l, (void *)&a, n));
    OK(listen(l, 5));
    OK(getsockname(l, (void *)&a, &n));
    *port = ntohs(a.sin_port);
    return l;
}
static int dial(int port) {
    int c = OK(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    OK(connect(c, (void *)&a, sizeof a));
    return c;
}

TEST(data_on_a_pair) {
    int p[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
    handle(SIGIO);
    async(p[0], 0);
    EQ(fcntl(p[0], F_GETOWN), getpid());
    EQ(came, 0);
    EQ(write(p[1], "x", 1), 1);
    // It is sent while the other's call lasts: here to the very caller.
    EQ(came, 1);
    EQ(last_code, SI_KERNEL);
    EQ(write(p[1], "y", 1), 1);
    EQ(came, 2);
    OK(fcntl(p[0], F_SETFL, 0));
    EQ(write(p[1], "z", 1), 1);
    ms(20);
    EQ(came, 2);
}

TEST(a_signal_of_ones_choice_says_more) {
    int p[2], sig = SIGRTMIN + 3;
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
    handle(sig);
    async(p[0], sig);
    EQ(fcntl(p[0], F_GETSIG), sig);
    EQ(write(p[1], "x", 1), 1);
    EQ(came, 1);
    EQ(last_sig, sig);
    EQ(last_code, POLL_IN);
    EQ(last_fd, p[0]);
    EQ(last_band, POLLIN | POLLRDNORM);
    close(p[1]);
    wait_for(2);
    EQ(last_code, POLL_HUP);
    EQ(last_band, POLLHUP | POLLERR);
}

TEST(real_time_ones_queue) {
    int p[2], sig = SIGRTMIN;
    OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, p));
    handle(sig);
    async(p[0], sig);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, sig);
    OK(sigprocmask(SIG_BLOCK, &set, NULL));
    for (int i = 0; i < 3; i++) EQ(send(p[1], "x", 1, 0), 1);
    EQ(came, 0);
    siginfo_t info;
    for (int i = 0; i < 3; i++) EQ(sigwaitinfo(&set, &info), sig);
    EQ(info.si_code, POLL_IN);
    EQ(info.si_fd, p[0]);
    ERR(sigtimedwait(&set, &info, &(struct timespec){0, 0}), EAGAIN);
}

TEST(connections) {
    int port, l = listener(&port), sig = SIGRTMIN + 1;
    handle(sig);
    async(l, sig);
    int c = dial(port);
    wait_for(1);
    EQ(last_fd, l);
    EQ(last_code, POLL_IN);
    int s = OK(accept(l, NULL, NULL));
    // What is accepted is as any new socket.
    EQ(fcntl(s, F_GETFL) & O_ASYNC, 0);
    EQ(fcntl(s, F_GETOWN), 0);
    async(s, sig);
    came = 0;
    EQ(write(c, "hello", 5), 5);
    wait_for(1);
    EQ(last_fd, s);
    EQ(last_code, POLL_IN);
    came = 0;
    struct linger now = {1, 0};
    OK(setsockopt(c, SOL_SOCKET, SO_LINGER, &now, sizeof now));
    close(c);
    wait_for(1);
    EQ(last_code, POLL_ERR);
}

TEST(connecting) {
    int port, l = listener(&port), sig = SIGRTMIN + 1;
    int c = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    handle(sig);
    async(c, sig);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(c, (void *)&a, sizeof a) < 0) EQ(errno, EINPROGRESS);
    wait_for(1);
    EQ(last_code, POLL_OUT);
    CK(last_band & POLLOUT);
    OK(accept(l, NULL, NULL));
}

TEST(datagrams) {
    int r = OK(socket(AF_INET, SOCK_DGRAM, 0)), sig = SIGRTMIN + 2;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    OK(bind(r, (void *)&a, n));
    OK(getsockname(r, (void *)&a, &n));
    handle(sig);
    async(r, sig);
    int s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    EQ(sendto(s, "x", 1, 0, (void *)&a, n), 1);
    wait_for(1);
    EQ(last_code, POLL_IN);
    EQ(last_fd, r);
}

TEST(urgent_data) {
    int port, l = listener(&port), c = dial(port), s = OK(accept(l, NULL, NULL));
    handle(SIGURG);
    // An owner is enough for this one.
    OK(fcntl(s, F_SETOWN, getpid()));
    EQ(send(c, "!", 1, MSG_OOB), 1);
    wait_for(1);
    EQ(last_sig, SIGURG);
    EQ(last_code, SI_KERNEL);
}

TEST(pipes) {
    int p[2], sig = SIGRTMIN + 4;
    OK(pipe2(p, O_NONBLOCK));
    handle(sig);
    async(p[0], sig);
    EQ(write(p[1], "x", 1), 1);
    EQ(came, 1);
    EQ(last_code, POLL_IN);
    EQ(last_fd, p[0]);
    async(p[1], sig);
    char b[65536] = {0};
    while (write(p[1], b, sizeof b) > 0) {}
    came = 0;
    OK(read(p[0], b, sizeof b));
    CK(came >= 1);
    EQ(last_fd, p[1]);
    EQ(last_code, POLL_OUT);
    came = 0;
    close(p[1]);
    wait_for(1);
    EQ(last_fd, p[0]);
    EQ(last_code, POLL_IN);
}

TEST(terminals) {
    int m, s, sig = SIGRTMIN + 5;
    OK(openpty(&m, &s, NULL, NULL, NULL));
    handle(sig);
    async(s, sig);
    EQ(write(m, "line\n", 5), 5);
    wait_for(1);
    EQ(last_fd, s);
    EQ(last_code, POLL_IN);
}

TEST(owners) {
    int p[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
    EQ(fcntl(p[0], F_GETOWN), 0);
    ERR(fcntl(p[0], F_SETOWN, 999999), ESRCH);
    ERR(fcntl(p[0], F_SETSIG, 65), EINVAL);
    ERR(fcntl(p[0], F_SETSIG, -1), EINVAL);
    // A thread, and a group.
    struct f_owner_ex ex = {F_OWNER_TID, gettid()}, got;
    OK(fcntl(p[0], F_SETOWN_EX, &ex));
    OK(fcntl(p[0], F_GETOWN_EX, &got));
    EQ(got.type, F_OWNER_TID);
    EQ(got.pid, gettid());
    handle(SIGIO);
    OK(ioctl(p[0], FIOASYNC, &(int){1}));
    CK(fcntl(p[0], F_GETFL) & O_ASYNC);
    EQ(write(p[1], "x", 1), 1);
    EQ(came, 1);
    OK(setpgid(0, 0));
    OK(fcntl(p[0], F_SETOWN, -getpid()));
    int ready[2];
    OK(pipe(ready));
    pid_t child = SPAWN({
        handle(SIGIO);
        EQ(write(ready[1], "r", 1), 1);
        for (int i = 0; i < 5000 && !came; i++) ms(1);
        EQ(came, 1);
    });
    char b;
    EQ(read(ready[0], &b, 1), 1);
    EQ(write(p[1], "x", 1), 1);
    EQ(came, 2);
    WAIT0(child);
    // Nobody.
    OK(fcntl(p[0], F_SETOWN, 0));
    EQ(write(p[1], "x", 1), 1);
    ms(20);
    EQ(came, 2);
}

TEST(others_owners_need_the_right) {
    if (getuid()) SKIP("needs root");
    int p[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
    handle(SIGIO);
    int go[2];
    OK(pipe(go));
    pid_t parent = getpid();
    pid_t child = SPAWN({
        OK(setresuid(1234, 1234, 1234));
        OK(fcntl(p[0], F_SETOWN, parent));
        OK(fcntl(p[0], F_SETFL, O_ASYNC));
        EQ(write(p[1], "x", 1), 1);
    });
    WAIT0(child);
    ms(20);
    EQ(came, 0);
}

TEST(files_have_none) {
    int fd = OK(open("f", O_CREAT | O_RDWR, 0600));
    ERR(ioctl(fd, FIOASYNC, &(int){1}), ENOTTY);
    OK(fcntl(fd, F_SETFL, O_ASYNC));
}

TEST(it_ends_with_the_file) {
    int p[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
    handle(SIGIO);
    async(p[0], 0);
    int q = OK(dup(p[0]));
    close(p[0]);
    EQ(write(p[1], "x", 1), 1);
    EQ(came, 1);
    close(q);
    int r[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, r));
    EQ(write(r[1], "x", 1), 1);
    EQ(came, 1);
}
