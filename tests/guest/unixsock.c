// AF_UNIX: stream, datagram, seqpacket, abstract names, SCM_RIGHTS, credentials.
#include "t.h"
#include <sys/un.h>
#include <linux/sockios.h>

static socklen_t name(struct sockaddr_un *a, const char *n) {
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    if (n[0] == '@') {
        memcpy(a->sun_path + 1, n + 1, strlen(n) - 1);
        return offsetof(struct sockaddr_un, sun_path) + strlen(n);
    }
    strcpy(a->sun_path, n);
    return sizeof *a;
}
static int server(int type, const char *n) {
    struct sockaddr_un a;
    socklen_t l = name(&a, n);
    int s = OK(socket(AF_UNIX, type, 0));
    OK(bind(s, (void *)&a, l));
    if ((type & 15) != SOCK_DGRAM) OK(listen(s, 5));
    return s;
}
static int client(int type, const char *n) {
    struct sockaddr_un a;
    socklen_t l = name(&a, n);
    int s = OK(socket(AF_UNIX, type, 0));
    OK(connect(s, (void *)&a, l));
    return s;
}
TEST(stream_pair) {
    int s[2];
    char b[16] = "";
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    EQ(write(s[0], "abc", 3), 3);
    EQ(write(s[0], "def", 3), 3);
    EQ(read(s[1], b, 16), 6);
    STREQ(b, "abcdef");
    OK(shutdown(s[0], SHUT_WR));
    EQ(read(s[1], b, 16), 0);
    EQ(write(s[1], "back", 4), 4);
    EQ(read(s[0], b, 16), 4);
    signal(SIGPIPE, SIG_IGN);
    ERR(write(s[0], "x", 1), EPIPE);
    ERR(send(s[0], "x", 1, MSG_NOSIGNAL), EPIPE);
}
TEST(stream_server) {
    int l = server(SOCK_STREAM, "sock");
    pid_t c = SPAWN({
        int k = client(SOCK_STREAM, "sock");
        EQ(write(k, "ping", 4), 4);
        char b[8] = "";
        EQ(read(k, b, 8), 4);
        STREQ(b, "pong");
    });
    struct sockaddr_un a;
    socklen_t n = sizeof a;
    int k = OK(accept4(l, (void *)&a, &n, SOCK_CLOEXEC));
    EQ(n, sizeof(sa_family_t));
    EQ(fcntl(k, F_GETFD), 1);
    char b[8] = "";
    EQ(read(k, b, 8), 4);
    EQ(write(k, "pong", 4), 4);
    WAIT0(c);
    n = sizeof a;
    OK(getsockname(k, (void *)&a, &n));
    STREQ(a.sun_path, "sock");
    struct stat st;
    OK(stat("sock", &st));
    CK(S_ISSOCK(st.st_mode));
}
TEST(connect_errors) {
    struct sockaddr_un a;
    int k = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    socklen_t l = name(&a, "missing");
    ERR(connect(k, (void *)&a, l), ENOENT);
    put("plain", "");
    l = name(&a, "plain");
    ERR(connect(k, (void *)&a, l), ECONNREFUSED);
    close(server(SOCK_STREAM, "dead"));
    l = name(&a, "dead");
    ERR(connect(k, (void *)&a, l), ECONNREFUSED);
    ERR(bind(k, (void *)&a, l), EADDRINUSE);
    server(SOCK_DGRAM, "dg");
    l = name(&a, "dg");
    ERR(connect(k, (void *)&a, l), EPROTOTYPE);
    ERR(accept(k, NULL, NULL), EINVAL);
    ERR(listen(0, 1), ENOTSOCK);
    a.sun_family = AF_INET;
    ERR(connect(k, (void *)&a, l), EINVAL);
    l = name(&a, "@nobody");
    ERR(connect(k, (void *)&a, l), ECONNREFUSED);
    ERR(getpeername(k, (void *)&a, &l), ENOTCONN);
    ERR(socket(AF_UNIX, 7, 0), ESOCKTNOSUPPORT);
    ERR(socket(AF_UNIX, SOCK_STREAM, 6), EPROTONOSUPPORT);
    ERR(socket(12345, SOCK_STREAM, 0), EAFNOSUPPORT);
}
TEST(dgram_boundaries) {
    int s = server(SOCK_DGRAM, "dg"), k = OK(socket(AF_UNIX, SOCK_DGRAM, 0));
    struct sockaddr_un a, me;
    socklen_t l = name(&a, "dg"), ml = name(&me, "me");
    OK(bind(k, (void *)&me, ml));
    EQ(sendto(k, "one", 3, 0, (void *)&a, l), 3);
    EQ(sendto(k, "second", 6, 0, (void *)&a, l), 6);
    EQ(sendto(k, "", 0, 0, (void *)&a, l), 0);
    char b[16] = "";
    struct sockaddr_un from;
    socklen_t fl = sizeof from;
    EQ(recvfrom(s, b, 16, 0, (void *)&from, &fl), 3);
    STREQ(from.sun_path, "me");
    EQ(recv(s, b, 2, MSG_TRUNC), 6);
    EQ(recv(s, b, 16, 0), 0);
    ERR(recv(s, b, 16, MSG_DONTWAIT), EAGAIN);
    ERR(send(k, "x", 1, 0), ENOTCONN);
    OK(connect(k, (void *)&a, l));
    EQ(send(k, "x", 1, 0), 1);
    EQ(recv(s, b, 16, MSG_PEEK), 1);
    EQ(recv(s, b, 16, 0), 1);
}
TEST(seqpacket) {
    int s[2];
    OK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s));
    EQ(write(s[0], "abc", 3), 3);
    EQ(write(s[0], "defg", 4), 4);
    char b[16] = "";
    struct iovec v = {b, 2};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    EQ(recvmsg(s[1], &m, 0), 2);
    CK(m.msg_flags & MSG_TRUNC);
    EQ(read(s[1], b, 16), 4);
    close(s[0]);
    EQ(read(s[1], b, 16), 0);
}
TEST(abstract_names) {
    char n[64];
    snprintf(n, sizeof n, "@chitin-%d", getpid());
    int l = server(SOCK_STREAM, n);
    struct sockaddr_un a;
    socklen_t len = name(&a, n);
    int x = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    ERR(bind(x, (void *)&a, len), EADDRINUSE);
    int k = client(SOCK_STREAM, n);
    int s = OK(accept(l, NULL, NULL));
    EQ(write(k, "x", 1), 1);
    char c;
    EQ(read(s, &c, 1), 1);
    struct sockaddr_un p;
    socklen_t pl = sizeof p;
    OK(getpeername(k, (void *)&p, &pl));
    EQ(pl, len);
    CK(!memcmp(&a, &p, len));
    close(l);
    OK(bind(x, (void *)&a, len));
    int auto_ = OK(socket(AF_UNIX, SOCK_DGRAM, 0)); // autobind
    sa_family_t f = AF_UNIX;
    OK(bind(auto_, (void *)&f, sizeof f));
    pl = sizeof p;
    OK(getsockname(auto_, (void *)&p, &pl));
    EQ(pl, 8);
    EQ(p.sun_path[0], 0);
}
TEST(scm_rights) {
    int s[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    put("f", "content");
    int f = OK(open("f", O_RDONLY));
    EQ(send_fd(s[0], f, "m"), 1);
    OK(close(f));
    WAIT0(SPAWN({
        int g = recv_fd(s[1], MSG_CMSG_CLOEXEC);
        CK(g >= 0);
        EQ(fcntl(g, F_GETFD), 1);
        char b[16] = "";
        EQ(read(g, b, 16), 7);
        STREQ(b, "content");
    }));
    ERR(send_fd(s[0], 99, "m"), EBADF);
    EQ(send_fd(s[0], s[0], "m"), 1); // a socket in flight through itself
    CK(recv_fd(s[1], 0) > 0);
}
TEST(scm_rights_dropped_and_truncated) {
    int s[2], p[2];
    OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s));
    OK(pipe(p));
    EQ(send_fd(s[0], p[1], "m"), 1);
    close(p[1]);
    char c;
    EQ(read(s[1], &c, 1), 1); // plain read throws the descriptor away
    EQ(read(p[0], &c, 1), 0);
    OK(pipe(p));
    EQ(send_fd(s[0], p[1], "m"), 1);
    close(p[1]);
    char ctl[CMSG_SPACE(0)];
    struct iovec v = {&c, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = ctl, .msg_controllen = sizeof ctl};
    EQ(recvmsg(s[1], &m, 0), 1);
    CK(m.msg_flags & MSG_CTRUNC);
    EQ(read(p[0], &c, 1), 0);
}
TEST(in_flight_fd_freed_with_socket) {
    int s[2], p[2];
    OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s));
    OK(pipe(p));
    EQ(send_fd(s[0], p[1], "m"), 1);
    close(p[1]);
    close(s[0]);
    close(s[1]);
    char c;
    EQ(read(p[0], &c, 1), 0);
}
TEST(credentials) {
    int s[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    struct ucred u;
    socklen_t l = sizeof u;
    OK(getsockopt(s[0], SOL_SOCKET, SO_PEERCRED, &u, &l));
    EQ(u.pid, getpid());
    EQ(u.uid, getuid());
    int on = 1;
    OK(setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
    pid_t c = SPAWN(EQ(write(s[0], "x", 1), 1));
    char ctl[CMSG_SPACE(sizeof u)], b;
    struct iovec v = {&b, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = ctl, .msg_controllen = sizeof ctl};
    EQ(recvmsg(s[1], &m, 0), 1);
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    CK(h && h->cmsg_type == SCM_CREDENTIALS);
    memcpy(&u, CMSG_DATA(h), sizeof u);
    EQ(u.pid, c);
    WAIT0(c);
}
TEST(nonblocking_and_limits) {
    int s[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s));
    char b[4096];
    memset(b, 'x', sizeof b);
    ERR(read(s[0], b, 1), EAGAIN);
    long n = 0;
    ssize_t r;
    while ((r = write(s[0], b, sizeof b)) > 0) n += r;
    EQ(errno, EAGAIN);
    CK(n >= 65536 && n < 4 << 20);
    struct pollfd p = {s[0], POLLOUT, 0};
    EQ(poll(&p, 1, 0), 0);
    long m = 0;
    while ((r = read(s[1], b, sizeof b)) > 0) m += r;
    EQ(m, n);
    EQ(poll(&p, 1, 0), 1);
    int v, t;
    socklen_t l = sizeof v;
    OK(getsockopt(s[0], SOL_SOCKET, SO_TYPE, &t, &l));
    EQ(t, SOCK_STREAM);
    OK(getsockopt(s[0], SOL_SOCKET, SO_DOMAIN, &v, &l));
    EQ(v, AF_UNIX);
}
TEST(blocking_transfer) {
    int s[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    static char b[1 << 20];
    pid_t c = SPAWN({
        for (size_t i = 0; i < sizeof b; i++) b[i] = i * 7;
        EQ(send(s[0], b, sizeof b, 0), sizeof b);
    });
    close(s[0]);
    EQ(recv(s[1], b, sizeof b, MSG_WAITALL), sizeof b);
    for (size_t i = 0; i < sizeof b; i++) EQ(b[i], (char)(i * 7));
    WAIT0(c);
}
TEST(hup_and_reset) {
    int s[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    struct pollfd p = {s[0], POLLIN | POLLRDHUP, 0};
    OK(shutdown(s[1], SHUT_WR));
    EQ(poll(&p, 1, 0), 1);
    EQ(p.revents, POLLIN | POLLRDHUP);
    OK(write(s[0], "unread", 6));
    close(s[1]);
    EQ(poll(&p, 1, 0), 1);
    CK(p.revents & POLLHUP);
    char c;
    ERR(read(s[0], &c, 1), ECONNRESET); // the other end closed with our bytes unread
    EQ(read(s[0], &c, 1), 0);
}
TEST(sendmmsg_recvmmsg) {
    int s[2];
    OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s));
    struct iovec v[3] = {{"a", 1}, {"bb", 2}, {"ccc", 3}};
    struct mmsghdr m[3] = {0};
    for (int i = 0; i < 3; i++) m[i].msg_hdr = (struct msghdr){.msg_iov = &v[i], .msg_iovlen = 1};
    EQ(sendmmsg(s[0], m, 3, 0), 3);
    EQ(m[2].msg_len, 3);
    char b[3][8];
    for (int i = 0; i < 3; i++) v[i] = (struct iovec){b[i], 8};
    EQ(recvmmsg(s[1], m, 3, 0, NULL), 3);
    EQ(m[1].msg_len, 2);
    CK(!memcmp(b[2], "ccc", 3));
}
TEST(receive_timeout) {
    int s[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    struct timeval tv = {0, 50000};
    OK(setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    char c;
    int64_t t = now_ns();
    ERR(read(s[0], &c, 1), EAGAIN);
    CK(now_ns() - t >= 45000000);
}
TEST(accept_blocks_and_backlog) {
    int l = server(SOCK_STREAM, "s");
    pid_t c = SPAWN(OK(accept(l, NULL, NULL)));
    CK(state_is(c, "S"));
    client(SOCK_STREAM, "s");
    WAIT0(c);
    OK(fcntl(l, F_SETFL, O_NONBLOCK));
    ERR(accept(l, NULL, NULL), EAGAIN);
    struct pollfd p = {l, POLLIN, 0};
    EQ(poll(&p, 1, 0), 0);
    client(SOCK_STREAM, "s");
    EQ(poll(&p, 1, 0), 1);
}
