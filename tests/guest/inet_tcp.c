// TCP over the loopback interface: what waits, what wakes, what goes through, what signals.
#include "inet.h"
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>

static void all(int fd, const void *p, size_t n) {
    while (n) {
        ssize_t r = OK(write(fd, p, n));
        p = (const char *)p + r;
        n -= r;
    }
}
static short polled(int fd, int timeout) {
    struct pollfd p = {fd, POLLIN | POLLOUT | POLLPRI | POLLRDHUP, 0};
    OK(poll(&p, 1, timeout));
    return p.revents;
}

TEST(echoes_between_processes) {
    int l = listener(5);
    pid_t p = SPAWN({
        int s = OK(accept(l, NULL, NULL));
        char b[4096];
        ssize_t n;
        while ((n = read(s, b, sizeof b)) > 0) all(s, b, n);
        EQ(n, 0);
    });
    int c = dial(port_of(l));
    for (int i = 0; i < 1000; i++) {
        char out[64], in[64];
        int n = snprintf(out, sizeof out, "message %d", i);
        all(c, out, n);
        EQ(recv(c, in, n, MSG_WAITALL), n);
        CK(!memcmp(in, out, n));
    }
    OK(shutdown(c, SHUT_WR));
    char b[1];
    EQ(read(c, b, 1), 0);
    WAIT0(p);
}

TEST(refused) {
    int l = listener(1);
    int port = port_of(l);
    close(l);
    int c = OK(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_in a = lo(port);
    ERR(connect(c, (void *)&a, sizeof a), ECONNREFUSED);
    ERR(connect(c, (void *)&a, sizeof a), ECONNREFUSED);
    // The same socket can be used later on.
    l = OK(socket(AF_INET, SOCK_STREAM, 0));
    OK(setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &(int){1}, 4));
    OK(bind(l, (void *)&a, sizeof a));
    OK(listen(l, 1));
    OK(connect(c, (void *)&a, sizeof a));
    ERR(connect(c, (void *)&a, sizeof a), EISCONN);
}

static void *later_connect(void *arg) {
    ms(100);
    int c = dial((int)(long)arg);
    ms(50);
    close(c);
    return NULL;
}
TEST(accept_waits) {
    int l = listener(5);
    pthread_t t;
    pthread_create(&t, NULL, later_connect, (void *)(long)port_of(l));
    int s = OK(accept4(l, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
    CK(fcntl(s, F_GETFL) & O_NONBLOCK);
    CK(fcntl(s, F_GETFD) & FD_CLOEXEC);
    pthread_join(t, NULL);
    char b;
    EQ(read(s, &b, 1), 0);
    struct timeval tv = {0, 50000};
    OK(setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    int64_t t0 = now_ns();
    ERR(accept(l, NULL, NULL), EAGAIN);
    CK(now_ns() - t0 >= 45000000);
}

TEST(connect_waits_for_the_backlog) {
    int l = listener(0);
    int port = port_of(l);
    int first = dial(port);
    int c = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    struct sockaddr_in a = lo(port);
    ERR(connect(c, (void *)&a, sizeof a), EINPROGRESS);
    ERR(connect(c, (void *)&a, sizeof a), EALREADY);
    ERR(send(c, "x", 1, 0), EAGAIN);
    EQ(polled(c, 0), 0);
    int s = OK(accept(l, NULL, NULL));
    EQ(polled(c, 10000), POLLOUT);
    int err = 1;
    socklen_t n = sizeof err;
    OK(getsockopt(c, SOL_SOCKET, SO_ERROR, &err, &n));
    EQ(err, 0);
    OK(connect(c, (void *)&a, sizeof a));
    ERR(connect(c, (void *)&a, sizeof a), EISCONN);
    int s2 = OK(accept(l, NULL, NULL));
    all(c, "hello", 5);
    char b[8];
    EQ(read(s2, b, 8), 5);
    close(first), close(s);
}

TEST(receiving) {
    int c, s;
    pair(&c, &s);
    char b[64];
    ERR(recv(s, b, 8, MSG_DONTWAIT), EAGAIN);
    struct timeval tv = {0, 30000};
    OK(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    ERR(recv(s, b, 8, 0), EAGAIN);
    all(c, "abcdef", 6);
    EQ(recv(s, b, 3, MSG_PEEK), 3);
    EQ(recv(s, b, 4, 0), 4);
    // Not all that was wanted comes in time.
    EQ(recv(s, b, 8, MSG_WAITALL), 2);
    all(c, "12345678", 8);
    EQ(recv(s, b, 5, MSG_TRUNC), 5);
    EQ(recv(s, b, 5, 0), 3);
    CK(!memcmp(b, "678", 3));
    // A low-water mark holds poll and read back.
    OK(setsockopt(s, SOL_SOCKET, SO_RCVLOWAT, &(int){4}, 4));
    all(c, "xy", 2);
    EQ(polled(s, 0) & POLLIN, 0);
    all(c, "zw", 2);
    EQ(polled(s, 1000) & POLLIN, POLLIN);
    EQ(recv(s, b, 64, 0), 4);
    struct iovec v[3] = {{"one", 3}, {"two", 3}, {"three", 5}};
    EQ(writev(c, v, 3), 11);
    struct iovec r[2] = {{b, 5}, {b + 10, 20}};
    EQ(readv(s, r, 2), 11);
    CK(!memcmp(b, "onetw", 5) && !memcmp(b + 10, "othree", 6));
}

static volatile int alarms;
static void on_alarm(int sig) { alarms++; }
TEST(interrupted) {
    int c, s;
    pair(&c, &s);
    struct sigaction sa = {.sa_handler = on_alarm};
    sigaction(SIGUSR1, &sa, NULL);
    pid_t me = getpid();
    pid_t p = SPAWN({
        for (int i = 0; i < 3; i++) {
            ms(100);
            CK(state_is(me, "S"));
            if (i < 2) kill(me, SIGUSR1);
        }
        all(c, "x", 1);
    });
    char b;
    ERR(recv(s, &b, 1, 0), EINTR);
    sa.sa_flags = SA_RESTART;
    sigaction(SIGUSR1, &sa, NULL);
    EQ(recv(s, &b, 1, 0), 1);
    EQ(alarms, 2);
    WAIT0(p);
}

static volatile int pipes;
static void on_pipe(int sig) { pipes++; }
TEST(broken_pipes) {
    int c, s;
    pair(&c, &s);
    signal(SIGPIPE, on_pipe);
    close(s);
    EQ(polled(c, 1000), POLLIN | POLLOUT | POLLRDHUP);
    EQ(write(c, "a", 1), 1);
    EQ(polled(c, 1000), POLLIN | POLLOUT | POLLRDHUP | POLLHUP | POLLERR);
    ERR(write(c, "a", 1), EPIPE);
    EQ(pipes, 1);
    ERR(send(c, "a", 1, MSG_NOSIGNAL), EPIPE);
    EQ(pipes, 1);
    char b;
    EQ(read(c, &b, 1), 0);
}

TEST(resets) {
    int c, s;
    pair(&c, &s);
    char b[8];
    all(c, "unread", 6);
    // Somebody waits while the peer goes.
    pid_t p = SPAWN({
        close(s);
        char b2[8];
        ERR(read(c, b2, 8), ECONNRESET);
        EQ(read(c, b2, 8), 0);
    });
    ms(100);
    close(s);
    WAIT0(p);
    pair(&c, &s);
    struct linger l = {1, 0};
    OK(setsockopt(s, SOL_SOCKET, SO_LINGER, &l, sizeof l));
    all(s, "last", 4);
    close(s);
    EQ(read(c, b, 8), 4);
    ERR(read(c, b, 8), ECONNRESET);
    EQ(read(c, b, 8), 0);
}

TEST(half_closed) {
    int c, s;
    pair(&c, &s);
    OK(shutdown(c, SHUT_WR));
    char b[8];
    EQ(read(s, b, 8), 0);
    EQ(polled(s, 0), POLLIN | POLLOUT | POLLRDHUP);
    all(s, "still", 5);
    EQ(read(c, b, 8), 5);
    struct tcp_info i;
    socklen_t n = sizeof i;
    OK(getsockopt(s, SOL_TCP, TCP_INFO, &i, &n));
    EQ(i.tcpi_state, TCP_CLOSE_WAIT);
    n = sizeof i;
    OK(getsockopt(c, SOL_TCP, TCP_INFO, &i, &n));
    EQ(i.tcpi_state, TCP_FIN_WAIT2);
    close(s);
    EQ(polled(c, 1000), POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
    ERR(shutdown(c, SHUT_WR), ENOTCONN);
}

static void *later_shutdown(void *arg) {
    ms(100);
    shutdown((int)(long)arg, SHUT_RDWR);
    return NULL;
}
TEST(shutdown_wakes) {
    int c, s;
    pair(&c, &s);
    pthread_t t;
    pthread_create(&t, NULL, later_shutdown, (void *)(long)s);
    char b;
    EQ(read(s, &b, 1), 0);
    pthread_join(t, NULL);
    int l = listener(1);
    pthread_create(&t, NULL, later_shutdown, (void *)(long)l);
    ERR(accept(l, NULL, NULL), EINVAL);
    pthread_join(t, NULL);
}

TEST(epoll_edges) {
    int c, s;
    pair(&c, &s);
    int ep = OK(epoll_create1(0));
    struct epoll_event e = {EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.fd = s}}, got[4];
    OK(epoll_ctl(ep, EPOLL_CTL_ADD, s, &e));
    EQ(epoll_wait(ep, got, 4, 0), 1);
    EQ(got[0].events, EPOLLOUT);
    EQ(epoll_wait(ep, got, 4, 0), 0);
    all(c, "a", 1);
    EQ(epoll_wait(ep, got, 4, 1000), 1);
    EQ(got[0].events, EPOLLIN | EPOLLOUT);
    EQ(epoll_wait(ep, got, 4, 0), 0);
    // More data is another edge, though nothing was read.
    all(c, "b", 1);
    EQ(epoll_wait(ep, got, 4, 1000), 1);
    char b[8];
    EQ(read(s, b, 8), 2);
    EQ(epoll_wait(ep, got, 4, 0), 0);
    // Room is an edge for who was told there is none.
    int n = 0;
    char block[65536] = {0};
    fcntl(s, F_SETFL, O_NONBLOCK);
    while (write(s, block, sizeof block) > 0) n++;
    EQ(errno, EAGAIN);
    EQ(epoll_wait(ep, got, 4, 0), 0);
    fcntl(c, F_SETFL, O_NONBLOCK);
    while (read(c, block, sizeof block) > 0) {}
    EQ(epoll_wait(ep, got, 4, 1000), 1);
    EQ(got[0].events, EPOLLOUT);
    OK(shutdown(c, SHUT_WR));
    EQ(epoll_wait(ep, got, 4, 1000), 1);
    EQ(got[0].events, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
    close(c);
    all(s, "x", 1);
    EQ(epoll_wait(ep, got, 4, 1000), 1);
    CK(got[0].events & EPOLLHUP);
}

// Numbered words, so that what is lost, doubled or out of order shows.
static void fill(uint32_t *w, size_t n, uint32_t from) {
    for (size_t i = 0; i < n; i++) w[i] = from + i;
}
TEST(streams_both_ways) {
    int c, s;
    pair(&c, &s);
    enum { TOTAL = 16 << 20, STEP = 50000 };
    pid_t kids[4];
    int ends[2] = {c, s};
    for (int k = 0; k < 4; k++)
        kids[k] = SPAWN({
            int fd = ends[k & 1];
            static uint32_t w[STEP / 4 * 4];
            if (k < 2) {
                for (uint32_t at = 0; at < TOTAL / 4;) {
                    size_t n = 1 + (at * 7919 + k) % (STEP / 4);
                    if (n > TOTAL / 4 - at) n = TOTAL / 4 - at;
                    fill(w, n, at);
                    all(fd, w, n * 4);
                    at += n;
                }
                OK(shutdown(fd, SHUT_WR));
            } else {
                uint32_t at = 0;
                size_t have = 0;
                ssize_t r;
                while ((r = OK(read(fd, (char *)w + have, STEP - have))) > 0) {
                    have += r;
                    size_t n = have / 4;
                    for (size_t i = 0; i < n; i++)
                        if (w[i] != at + i) FAIL("word %zu is %u", (size_t)at + i, w[i]);
                    at += n;
                    memmove(w, w + n, have - n * 4);
                    have -= n * 4;
                }
                EQ(at, TOTAL / 4);
            }
        });
    for (int k = 0; k < 4; k++) WAIT0(kids[k]);
}

TEST(sendfile_and_splice) {
    int c, s;
    pair(&c, &s);
    int f = OK(open("data", O_RDWR | O_CREAT, 0600));
    static char out[300000], in[300000];
    for (size_t i = 0; i < sizeof out; i++) out[i] = i * 31 >> 3;
    all(f, out, sizeof out);
    pid_t p = SPAWN({
        off_t at = 0;
        while (at < (off_t)sizeof out) OK(sendfile(c, f, &at, sizeof out - at));
        int pp[2];
        OK(pipe(pp));
        OK(lseek(f, 0, SEEK_SET));
        for (size_t left = sizeof out; left;) {
            ssize_t n = OK(splice(f, NULL, pp[1], NULL, left, 0));
            left -= n;
            while (n > 0) n -= OK(splice(pp[0], NULL, c, NULL, n, SPLICE_F_MORE));
        }
        OK(shutdown(c, SHUT_WR));
    });
    EQ(recv(s, in, sizeof in, MSG_WAITALL), sizeof in);
    CK(!memcmp(in, out, sizeof in));
    int pp[2];
    OK(pipe(pp));
    size_t have = 0;
    ssize_t n;
    memset(in, 0, sizeof in);
    while ((n = OK(splice(s, NULL, pp[1], NULL, 32768, 0))) > 0) {
        EQ(read(pp[0], in + have, n), n);
        have += n;
    }
    EQ(have, sizeof in);
    CK(!memcmp(in, out, sizeof in));
    WAIT0(p);
}

TEST(groups_share_connections) {
    int l[4], port = 0;
    for (int i = 0; i < 4; i++) {
        l[i] = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
        OK(setsockopt(l[i], SOL_SOCKET, SO_REUSEPORT, &(int){1}, 4));
        struct sockaddr_in a = lo(port);
        OK(bind(l[i], (void *)&a, sizeof a));
        OK(listen(l[i], 100));
        port = port_of(l[i]);
    }
    for (int i = 0; i < 100; i++) dial(port);
    int sum = 0;
    for (int i = 0; i < 4; i++) {
        int n = 0;
        while (accept(l[i], NULL, NULL) >= 0) n++;
        CK(n > 5);
        sum += n;
    }
    EQ(sum, 100);
}

TEST(deferred_accept) {
    int l = listener(5);
    OK(setsockopt(l, SOL_TCP, TCP_DEFER_ACCEPT, &(int){5}, 4));
    fcntl(l, F_SETFL, O_NONBLOCK);
    int c = dial(port_of(l));
    ms(50);
    ERR(accept(l, NULL, NULL), EAGAIN);
    all(c, "now", 3);
    EQ(polled(l, 1000), POLLIN);
    int s = OK(accept(l, NULL, NULL));
    char b[8];
    EQ(read(s, b, 8), 3);
}

TEST(urgent) {
    int c, s;
    pair(&c, &s);
    EQ(send(c, "ab!", 3, MSG_OOB), 3);
    EQ(polled(s, 1000) & (POLLPRI | POLLIN), POLLPRI | POLLIN);
    char b[8];
    int mark;
    OK(ioctl(s, SIOCATMARK, &mark));
    EQ(mark, 0);
    EQ(read(s, b, 8), 2);
    OK(ioctl(s, SIOCATMARK, &mark));
    EQ(mark, 1);
    EQ(recv(s, b, 1, MSG_OOB), 1);
    EQ(b[0], '!');
    ERR(recv(s, b, 1, MSG_OOB), EINVAL);
}

TEST(messages_in_numbers) {
    int c, s;
    pair(&c, &s);
    struct mmsghdr m[3] = {0};
    struct iovec v[3] = {{"first", 5}, {"second", 6}, {"third", 5}};
    for (int i = 0; i < 3; i++) m[i].msg_hdr = (struct msghdr){.msg_iov = &v[i], .msg_iovlen = 1};
    EQ(sendmmsg(c, m, 3, 0), 3);
    EQ(m[1].msg_len, 6);
    char b[3][8];
    for (int i = 0; i < 3; i++) v[i] = (struct iovec){b[i], 6};
    EQ(recvmmsg(s, m, 3, MSG_WAITFORONE, NULL), 3);
    CK(!memcmp(b[0], "firsts", 6) && m[2].msg_len == 4);
}

TEST(ten_thousand) {
    struct rlimit r = {25000, 25000};
    if (setrlimit(RLIMIT_NOFILE, &r) < 0) SKIP("cannot have 25000 descriptors: %s", strerror(errno));
    enum { N = 10000 };
    static int c[N], s[N];
    int l = listener(4096), port = port_of(l);
    for (int i = 0; i < N; i++) {
        c[i] = dial(port);
        s[i] = OK(accept(l, NULL, NULL));
    }
    int ep = OK(epoll_create1(0));
    for (int i = 0; i < N; i++) OK(epoll_ctl(ep, EPOLL_CTL_ADD, s[i], &(struct epoll_event){EPOLLIN, {.u32 = i}}));
    for (int i = 0; i < N; i += 7) EQ(write(c[i], &i, sizeof i), sizeof i);
    struct epoll_event e[64];
    int seen = 0, n;
    while ((n = OK(epoll_wait(ep, e, 64, 0))) > 0)
        for (int k = 0; k < n; k++) {
            int at = -1;
            EQ(read(s[e[k].data.u32], &at, sizeof at), sizeof at);
            EQ(at, e[k].data.u32);
            seen++;
        }
    EQ(seen, (N + 6) / 7);
    for (int i = 0; i < N; i++) close(i & 1 ? c[i] : s[i]);
    for (int i = 0; i < N; i++) {
        char b;
        EQ(read(i & 1 ? s[i] : c[i], &b, 1), 0);
        close(i & 1 ? s[i] : c[i]);
    }
}
