// Options of sockets over loopback that change what happens: time limits of TCP, MSG_ZEROCOPY, segmentation of datagrams,
// classic BPF filters.
#include "inet.h"
#include <linux/errqueue.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/sockios.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <sys/un.h>
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000
#endif

static long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}
static short polled(int fd, short events, int timeout) {
    struct pollfd p = {fd, events, 0};
    OK(poll(&p, 1, timeout));
    return p.revents;
}

TEST(connect_gives_up) {
    int l = listener(0);
    dial(port_of(l));
    int c = OK(socket(AF_INET, SOCK_STREAM, 0));
    OK(setsockopt(c, SOL_TCP, TCP_USER_TIMEOUT, &(int){1300}, 4));
    struct sockaddr_in a = lo(port_of(l));
    long before = now_ms();
    ERR(connect(c, (void *)&a, sizeof a), ETIMEDOUT);
    CK(now_ms() - before >= 1200);
    // It may try again, and gets through as soon as there is room.
    OK(fcntl(c, F_SETFL, O_NONBLOCK));
    ERR(connect(c, (void *)&a, sizeof a), EINPROGRESS);
    EQ(polled(c, POLLOUT, 50), 0);
    OK(accept(l, NULL, NULL));
    EQ(polled(c, POLLOUT, 10000), POLLOUT);
}

TEST(deferred_but_silent) {
    int l = listener(5);
    OK(setsockopt(l, SOL_TCP, TCP_DEFER_ACCEPT, &(int){1}, 4));
    int c = dial(port_of(l));
    // After its time a connection is accepted all the same.
    EQ(polled(l, POLLIN, 300), 0);
    EQ(polled(l, POLLIN, 10000), POLLIN);
    int s = OK(accept(l, NULL, NULL));
    EQ(write(s, "late", 4), 4);
    char b[8];
    EQ(read(c, b, 8), 4);
}

TEST(who_does_not_read_is_given_up) {
    int c, s;
    pair(&c, &s);
    OK(fcntl(c, F_SETFL, O_NONBLOCK));
    OK(setsockopt(c, SOL_TCP, TCP_USER_TIMEOUT, &(int){400}, 4));
    static char b[65536];
    long sent = 0, got = 0, n;
    while ((n = write(c, b, sizeof b)) > 0) sent += n;
    EQ(errno, EAGAIN);
    CK(polled(c, 0, 10000) & POLLERR);
    int error = 0;
    socklen_t len = sizeof error;
    OK(getsockopt(c, SOL_SOCKET, SO_ERROR, &error, &len));
    EQ(error, ETIMEDOUT);
    ERR(send(c, "x", 1, MSG_NOSIGNAL), EPIPE);
    // The other side has what got there, and learns the rest when it says that there is room again.
    while ((n = read(s, b, sizeof b)) > 0) got += n;
    EQ(n, -1);
    EQ(errno, ECONNRESET);
    CK(got > 0 && got < sent);
}

TEST(what_arrived_may_wait) {
    int c, s;
    pair(&c, &s);
    OK(setsockopt(c, SOL_TCP, TCP_USER_TIMEOUT, &(int){200}, 4));
    EQ(write(c, "abc", 3), 3);
    ms(900);
    EQ(polled(c, POLLOUT, 0), POLLOUT);
    char b[8];
    EQ(read(s, b, 8), 3);
}

// What the error queue says of zero-copy sends: first and last number, and the code.
static int completed(int fd, unsigned *lo, unsigned *hi) {
    char control[200];
    struct msghdr m = {.msg_control = control, .msg_controllen = sizeof control};
    if (recvmsg(fd, &m, MSG_ERRQUEUE) < 0) return -1;
    CK(m.msg_flags & MSG_ERRQUEUE);
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    CK(h);
    EQ(h->cmsg_level, SOL_IP);
    EQ(h->cmsg_type, IP_RECVERR);
    struct sock_extended_err *e = (void *)CMSG_DATA(h);
    EQ(e->ee_errno, 0);
    EQ(e->ee_origin, SO_EE_ORIGIN_ZEROCOPY);
    *lo = e->ee_info, *hi = e->ee_data;
    return e->ee_code;
}

TEST(zero_copy_streams) {
    int c, s;
    pair(&c, &s);
    static char b[20000], r[20000];
    memset(b, 'z', sizeof b);
    // Without the option the flag means nothing.
    EQ(send(c, b, sizeof b, MSG_ZEROCOPY), sizeof b);
    EQ(recv(s, r, sizeof r, MSG_WAITALL), sizeof r);
    unsigned lo, hi;
    ERR(completed(c, &lo, &hi), EAGAIN);
    ERR(setsockopt(c, SOL_SOCKET, SO_ZEROCOPY, &(int){2}, 4), EINVAL);
    OK(setsockopt(c, SOL_SOCKET, SO_ZEROCOPY, &(int){1}, 4));
    int on;
    socklen_t n = sizeof on;
    OK(getsockopt(c, SOL_SOCKET, SO_ZEROCOPY, &on, &n));
    EQ(on, 1);
    for (int i = 0; i < 3; i++) {
        EQ(send(c, b, sizeof b, MSG_ZEROCOPY), sizeof b);
        EQ(recv(s, r, sizeof r, MSG_WAITALL), sizeof r);
        CK(!memcmp(b, r, sizeof b));
    }
    // One without the flag has no number; one of nothing neither.
    EQ(send(c, b, 10, 0), 10);
    EQ(send(c, b, 0, MSG_ZEROCOPY), 0);
    EQ(send(c, b, 10, MSG_ZEROCOPY), 10);
    unsigned next = 0;
    while (next < 4) {
        CK(polled(c, 0, 10000) & POLLERR);
        EQ(completed(c, &lo, &hi), SO_EE_CODE_ZEROCOPY_COPIED);
        EQ(lo, next);
        CK(hi >= lo && hi < 4);
        next = hi + 1;
    }
    ERR(completed(c, &lo, &hi), EAGAIN);
    EQ(polled(c, 0, 0), 0);
    // Neither is it an error of the connection.
    EQ(send(c, b, 10, 0), 10);
}

TEST(zero_copy_datagrams) {
    int r = bound(SOCK_DGRAM), s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    struct sockaddr_in a = lo(port_of(r));
    OK(setsockopt(s, SOL_SOCKET, SO_ZEROCOPY, &(int){1}, 4));
    char b[3000], got[3000];
    memset(b, 'd', sizeof b);
    EQ(sendto(s, b, sizeof b, MSG_ZEROCOPY, (void *)&a, sizeof a), sizeof b);
    EQ(sendto(s, b, sizeof b, MSG_ZEROCOPY, (void *)&a, sizeof a), sizeof b);
    EQ(recv(r, got, sizeof got, 0), sizeof b);
    EQ(recv(r, got, sizeof got, 0), sizeof b);
    unsigned lo, hi, next = 0;
    while (next < 2) {
        CK(polled(s, 0, 10000) & POLLERR);
        EQ(completed(s, &lo, &hi), SO_EE_CODE_ZEROCOPY_COPIED);
        EQ(lo, next);
        next = hi + 1;
    }
    int u[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, u));
    ERR(setsockopt(u[0], SOL_SOCKET, SO_ZEROCOPY, &(int){1}, 4), EOPNOTSUPP);
}

TEST(segments_together) {
    int r = bound(SOCK_DGRAM), s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    struct sockaddr_in a = lo(port_of(r));
    OK(connect(s, (void *)&a, sizeof a));
    char b[1000], got[2000], control[100];
    for (int i = 0; i < 1000; i++) b[i] = i / 10;
    OK(setsockopt(s, IPPROTO_UDP, UDP_SEGMENT, &(int){300}, 4));
    // Apart for who has not asked,
    EQ(send(s, b, 1000, 0), 1000);
    for (int i = 0; i < 3; i++) EQ(recv(r, got, sizeof got, 0), 300);
    EQ(recv(r, got, sizeof got, 0), 100);
    // and in one piece, with its segments' size, for who has.
    OK(setsockopt(r, IPPROTO_UDP, UDP_GRO, &(int){1}, 4));
    EQ(send(s, b, 1000, 0), 1000);
    struct iovec v = {got, sizeof got};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    EQ(recvmsg(r, &m, 0), 1000);
    CK(!memcmp(b, got, 1000));
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    CK(h && h->cmsg_level == IPPROTO_UDP && h->cmsg_type == UDP_GRO);
    EQ(*(int *)CMSG_DATA(h), 300);
    // A single one says nothing of it.
    m.msg_controllen = sizeof control;
    EQ(send(s, b, 300, 0), 300);
    EQ(recvmsg(r, &m, 0), 300);
    CK(!CMSG_FIRSTHDR(&m));
    // The size of one call; more than 128 segments are refused.
    char cm[CMSG_SPACE(2)] = {0};
    struct msghdr w = {.msg_iov = &(struct iovec){b, 500}, .msg_iovlen = 1, .msg_control = cm, .msg_controllen = sizeof cm};
    struct cmsghdr *c = CMSG_FIRSTHDR(&w);
    c->cmsg_level = IPPROTO_UDP, c->cmsg_type = UDP_SEGMENT, c->cmsg_len = CMSG_LEN(2);
    *(uint16_t *)CMSG_DATA(c) = 100;
    EQ(sendmsg(s, &w, 0), 500);
    m.msg_controllen = sizeof control;
    EQ(recvmsg(r, &m, 0), 500);
    EQ(*(int *)CMSG_DATA(CMSG_FIRSTHDR(&m)), 100);
    *(uint16_t *)CMSG_DATA(c) = 1;
    ERR(sendmsg(s, &w, 0), EINVAL);
}

static void attach(int fd, struct sock_filter *code, int n) {
    struct sock_fprog p = {n, code};
    OK(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p));
}
#define ATTACH(fd, ...)                             \
    do {                                            \
        struct sock_filter f_[] = {__VA_ARGS__};    \
        attach(fd, f_, sizeof f_ / sizeof *f_);     \
    } while (0)

TEST(filters_of_datagrams) {
    int r = bound(SOCK_DGRAM), s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    struct sockaddr_in a = lo(port_of(r));
    OK(connect(s, (void *)&a, sizeof a));
    // Only those whose payload begins with 'y'; a UDP header has 8 bytes. Of the payload, 4 bytes at most.
    ATTACH(r, BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 8), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'y', 0, 1),
           BPF_STMT(BPF_RET | BPF_K, 12), BPF_STMT(BPF_RET | BPF_K, 0));
    EQ(send(s, "no", 2, 0), 2);
    EQ(send(s, "yes, it is", 10, 0), 10);
    EQ(send(s, "no", 2, 0), 2);
    EQ(send(s, "ya", 2, 0), 2);
    char b[100];
    EQ(recv(r, b, sizeof b, 0), 4);
    CK(!memcmp(b, "yes,", 4));
    EQ(recv(r, b, sizeof b, 0), 2);
    ERR(recv(r, b, sizeof b, MSG_DONTWAIT), EAGAIN);
    // Its port is in the header, the address in the network header below, the length without either.
    ATTACH(r, BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 2), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, port_of(r), 0, 5),
           BPF_STMT(BPF_LD | BPF_W | BPF_ABS, SKF_NET_OFF + 16), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, INADDR_LOOPBACK, 0, 3),
           BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 11, 0, 1),
           BPF_STMT(BPF_RET | BPF_K, -1), BPF_STMT(BPF_RET | BPF_K, 0));
    EQ(send(s, "abcd", 4, 0), 4);
    EQ(send(s, "abc", 3, 0), 3);
    EQ(recv(r, b, sizeof b, 0), 3);
    // A load past the end is an answer: 0.
    ATTACH(r, BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 10), BPF_STMT(BPF_RET | BPF_K, -1));
    EQ(send(s, "ab", 2, 0), 2);
    EQ(send(s, "abc", 3, 0), 3);
    EQ(recv(r, b, sizeof b, 0), 3);
    OK(setsockopt(r, SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, 4));
    ERR(setsockopt(r, SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, 4), ENOENT);
    EQ(send(s, "ab", 2, 0), 2);
    EQ(recv(r, b, sizeof b, 0), 2);
}

TEST(filters_compute) {
    int p[2];
    OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, p));
    // Length = 2 * first byte + indexed byte, by way of memory and X.
    ATTACH(p[0], BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0), BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 1), BPF_STMT(BPF_ST, 3),
           BPF_STMT(BPF_LDX | BPF_IMM, 1), BPF_STMT(BPF_LD | BPF_B | BPF_IND, 0), BPF_STMT(BPF_LDX | BPF_MEM, 3),
           BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0), BPF_STMT(BPF_RET | BPF_A, 0));
    char b[100];
    EQ(send(p[1], "\x01\x03-----------", 13, 0), 13);
    EQ(recv(p[0], b, sizeof b, 0), 5);
    // The low half of the first byte, four times: the header length of IP.
    ATTACH(p[0], BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0), BPF_STMT(BPF_MISC | BPF_TXA, 0), BPF_STMT(BPF_ALU | BPF_XOR | BPF_K, 2),
           BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 7), BPF_STMT(BPF_RET | BPF_A, 0));
    EQ(send(p[1], "\x42-----------", 12, 0), 12);
    EQ(recv(p[0], b, sizeof b, 0), 3);
    // What is lost is no error.
    ATTACH(p[0], BPF_STMT(BPF_RET | BPF_K, 0));
    EQ(send(p[1], "x", 1, 0), 1);
    ERR(recv(p[0], b, sizeof b, MSG_DONTWAIT), EAGAIN);
}

TEST(filters_that_are_none) {
    int s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    struct sock_filter bad[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0)};
    struct sock_fprog p = {1, bad};
    ERR(setsockopt(s, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p), EINVAL);
    bad[0] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JA, 5, 0, 0);
    ERR(setsockopt(s, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p), EINVAL);
    bad[0] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 1);
    p.len = 0;
    ERR(setsockopt(s, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p), EINVAL);
    p.len = 1;
    ERR(setsockopt(s, SOL_SOCKET, SO_ATTACH_FILTER, &p, 8), EINVAL);
    p.filter = (void *)8;
    ERR(setsockopt(s, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p), EFAULT);
    p.filter = bad;
    OK(setsockopt(s, SOL_SOCKET, SO_LOCK_FILTER, &(int){1}, 4));
    ERR(setsockopt(s, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p), EPERM);
    ERR(setsockopt(s, SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, 4), EPERM);
}

static int program_of(int fd, struct sock_filter *to, int room) {
    socklen_t n = room;
    int r = getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, to, &n);
    return r ? -errno : (int)n;
}
TEST(filters_are_told) {
    int un[2], kinds[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET}, fds[8], count = 0;
    for (int i = 0; i < 3; i++) {
        OK(socketpair(AF_UNIX, kinds[i], 0, un));
        fds[count++] = un[0];
    }
    fds[count++] = OK(socket(AF_INET, SOCK_STREAM, 0));
    fds[count++] = OK(socket(AF_INET6, SOCK_STREAM, 0));
    fds[count++] = OK(socket(AF_INET, SOCK_DGRAM, 0));
    fds[count++] = OK(socket(AF_NETLINK, SOCK_RAW, 0));
    for (int i = 0; i < count; i++) {
        struct sock_filter got[4] = {{0}};
        EQ(program_of(fds[i], got, 4), 0);
        ATTACH(fds[i], BPF_STMT(BPF_LD | BPF_IMM, 7), BPF_STMT(BPF_MISC | BPF_TAX, 0), BPF_STMT(BPF_RET | BPF_K, 77));
        // Without room only how many there are; their room is counted in instructions, too.
        EQ(program_of(fds[i], got, 0), 3);
        EQ(program_of(fds[i], got, 2), -EINVAL);
        EQ(program_of(fds[i], got, -1), -EINVAL);
        EQ(program_of(fds[i], got, 4), 3);
        CK(got[0].code == (BPF_LD | BPF_IMM) && got[0].k == 7 && got[2].k == 77 && got[3].code == 0);
        EQ(program_of(fds[i], (void *)8, 4), -EFAULT);
        OK(setsockopt(fds[i], SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, 4));
        EQ(program_of(fds[i], got, 4), 0);
        ERR(setsockopt(fds[i], SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, 4), ENOENT);
    }
}

static void wait_for(int fd, int bytes) {
    for (int i = 0, n = 0; i < 100; i++, usleep(20000)) {
        OK(ioctl(fd, FIONREAD, &n));
        if (n >= bytes) return;
    }
    FAIL("%d bytes do not come", bytes);
}
TEST(filters_of_streams) {
    int c, s, none = 0, n;
    pair(&c, &s);
    char b[100];
    // All is lost, and sent again until it gets through; so is the end.
    ATTACH(s, BPF_STMT(BPF_RET | BPF_K, 0));
    EQ(send(c, "first", 5, 0), 5);
    EQ(send(c, " and second", 11, 0), 11);
    OK(shutdown(c, SHUT_WR));
    usleep(100000);
    ERR(recv(s, b, sizeof b, MSG_DONTWAIT), EAGAIN);
    OK(ioctl(c, SIOCOUTQ, &n));
    EQ(n, 17);
    struct tcp_info info;
    socklen_t len = sizeof info;
    OK(getsockopt(c, IPPROTO_TCP, TCP_INFO, &info, &len));
    EQ(info.tcpi_state, TCP_FIN_WAIT1);
    // What this side says arrives all the same.
    EQ(send(s, "back", 4, 0), 4);
    EQ(recv(c, b, sizeof b, 0), 4);
    OK(setsockopt(s, SOL_SOCKET, SO_DETACH_FILTER, &none, 4));
    EQ(recv(s, b, sizeof b, MSG_WAITALL), 16);
    CK(!memcmp(b, "first and second", 16));
    EQ(recv(s, b, sizeof b, 0), 0);
    close(c), close(s);
}
TEST(filters_look_into_segments) {
    int c, s;
    pair(&c, &s);
    char b[100];
    // The first byte of the data, behind as much header as the header says; ports where they belong.
    ATTACH(s, BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 2), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, port_of(s), 0, 8),
           BPF_STMT(BPF_LD | BPF_W | BPF_ABS, SKF_NET_OFF + 16), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, INADDR_LOOPBACK, 0, 6),
           BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 12), BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 2), BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x3c),
           BPF_STMT(BPF_MISC | BPF_TAX, 0), BPF_STMT(BPF_LD | BPF_B | BPF_IND, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'n', 0, 1),
           BPF_STMT(BPF_RET | BPF_K, 0), BPF_STMT(BPF_RET | BPF_K, -1));
    EQ(send(c, "yes", 3, 0), 3);
    EQ(recv(s, b, sizeof b, 0), 3);
    EQ(send(c, "no", 2, 0), 2);
    usleep(50000);
    // It has to come first.
    EQ(send(c, "yes", 3, 0), 3);
    usleep(50000);
    ERR(recv(s, b, sizeof b, MSG_DONTWAIT), EAGAIN);
    // Three bytes of data get through at a time.
    ATTACH(s, BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 12), BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 2), BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x3c),
           BPF_STMT(BPF_ALU | BPF_ADD | BPF_K, 3), BPF_STMT(BPF_RET | BPF_A, 0));
    wait_for(s, 3);
    OK(setsockopt(s, SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, 4));
    EQ(recv(s, b, 5, MSG_WAITALL), 5);
    CK(!memcmp(b, "noyes", 5));
    close(c), close(s);
}
TEST(filters_of_listeners) {
    int l = listener(5), one = 1;
    // No SYN is heard.
    ATTACH(l, BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13), BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 2, 0, 1), BPF_STMT(BPF_RET | BPF_K, 0),
           BPF_STMT(BPF_RET | BPF_K, -1));
    int c = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    struct sockaddr_in a = lo(port_of(l));
    ERR(connect(c, (void *)&a, sizeof a), EINPROGRESS);
    struct pollfd p = {c, POLLOUT, 0};
    EQ(poll(&p, 1, 200), 0);
    OK(setsockopt(l, SOL_SOCKET, SO_DETACH_FILTER, &one, 4));
    EQ(poll(&p, 1, 5000), 1);
    int s = OK(accept(l, NULL, NULL));
    close(c), close(s);
    // What is accepted has its listener's filter, lock and all.
    ATTACH(l, BPF_STMT(BPF_RET | BPF_K, -1));
    OK(setsockopt(l, SOL_SOCKET, SO_LOCK_FILTER, &one, 4));
    c = dial(port_of(l));
    s = OK(accept(l, NULL, NULL));
    struct sock_filter got[2];
    EQ(program_of(s, got, 2), 1);
    EQ(got[0].k, 0xffffffff);
    EQ(program_of(c, got, 2), 0);
    ERR(setsockopt(s, SOL_SOCKET, SO_DETACH_FILTER, &one, 4), EPERM);
    socklen_t n = sizeof one;
    OK(getsockopt(s, SOL_SOCKET, SO_LOCK_FILTER, &one, &n));
    EQ(one, 1);
    ERR(setsockopt(s, SOL_SOCKET, SO_LOCK_FILTER, &(int){0}, 4), EPERM);
    close(c);
    // A caller that hears no answer.
    c = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    ATTACH(c, BPF_STMT(BPF_RET | BPF_K, 0));
    ERR(connect(c, (void *)&a, sizeof a), EINPROGRESS);
    p.fd = c;
    EQ(poll(&p, 1, 200), 0);
    OK(setsockopt(c, SOL_SOCKET, SO_DETACH_FILTER, &one, 4));
    EQ(poll(&p, 1, 5000), 1);
    EQ(p.revents, POLLOUT);
}

// What the receiving side alone shows, which holds for sockets of a host as well.
TEST(filters_hold_back) {
    int c, s, none = 0, n;
    pair(&c, &s);
    char b[100];
    EQ(send(c, "zero", 4, 0), 4);
    wait_for(s, 4);
    ATTACH(s, BPF_STMT(BPF_RET | BPF_K, 0));
    EQ(send(c, "first", 5, 0), 5);
    usleep(50000);
    // What was there before, and no more.
    EQ(recv(s, b, sizeof b, MSG_PEEK), 4);
    EQ(recv(s, b, sizeof b, 0), 4);
    ERR(recv(s, b, sizeof b, MSG_DONTWAIT), EAGAIN);
    OK(ioctl(s, FIONREAD, &n));
    EQ(n, 0);
    struct pollfd p = {s, POLLIN | POLLRDHUP, 0};
    EQ(poll(&p, 1, 300), 0);
    OK(setsockopt(s, SOL_SOCKET, SO_DETACH_FILTER, &none, 4));
    EQ(recv(s, b, sizeof b, 0), 5);
    CK(!memcmp(b, "first", 5));
    // The end alone is lost.
    ATTACH(s, BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13), BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 1),
           BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 1), BPF_STMT(BPF_RET | BPF_K, 0), BPF_STMT(BPF_RET | BPF_K, -1));
    EQ(send(c, "data", 4, 0), 4);
    EQ(recv(s, b, sizeof b, 0), 4);
    OK(shutdown(c, SHUT_WR));
    usleep(50000);
    ERR(recv(s, b, sizeof b, MSG_DONTWAIT), EAGAIN);
    EQ(poll(&p, 1, 100), 0);
    OK(setsockopt(s, SOL_SOCKET, SO_DETACH_FILTER, &none, 4));
    EQ(poll(&p, 1, 10000), 1);
    EQ(p.revents, POLLIN | POLLRDHUP);
    EQ(recv(s, b, sizeof b, 0), 0);
    close(c), close(s);
    // A caller waits for the listener's filter to change, and has it then.
    int l = listener(5);
    ATTACH(l, BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13), BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 2, 0, 1), BPF_STMT(BPF_RET | BPF_K, 0),
           BPF_STMT(BPF_RET | BPF_K, -1));
    c = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    struct sockaddr_in a = lo(port_of(l));
    ERR(connect(c, (void *)&a, sizeof a), EINPROGRESS);
    p = (struct pollfd){l, POLLIN, 0};
    EQ(poll(&p, 1, 200), 0);
    OK(fcntl(l, F_SETFL, O_NONBLOCK));
    ERR(accept(l, NULL, NULL), EAGAIN);
    ATTACH(l, BPF_STMT(BPF_RET | BPF_K, 60));
    EQ(poll(&p, 1, 10000), 1);
    s = OK(accept(l, NULL, NULL));
    struct sock_filter got[2];
    EQ(program_of(s, got, 2), 1);
    EQ(got[0].k, 60);
    close(c), close(s), close(l);
}

// MSG_FASTOPEN without cookies: a connection, and then the data.
TEST(data_with_a_connection) {
    int l = listener(5), one = 1, s;
    char b[100];
    struct sockaddr_in a = lo(port_of(l));
    int c = OK(socket(AF_INET, SOCK_STREAM, 0));
    ERR(send(c, "data", 4, MSG_FASTOPEN), EINVAL);
    EQ(sendto(c, "data", 4, MSG_FASTOPEN, (void *)&a, sizeof a), 4);
    s = OK(accept(l, NULL, NULL));
    EQ(recv(s, b, sizeof b, 0), 4);
    ERR(sendto(c, "data", 4, MSG_FASTOPEN, (void *)&a, sizeof a), EISCONN);
    ERR(send(c, "data", 4, MSG_FASTOPEN), EISCONN);
    EQ(send(c, "more", 4, 0), 4);
    ERR(setsockopt(c, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, 4), EINVAL);
    close(c), close(s);
    c = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    ERR(sendto(c, "data", 4, MSG_FASTOPEN, (void *)&a, sizeof a), EINPROGRESS);
    struct pollfd p = {c, POLLOUT, 0};
    EQ(poll(&p, 1, 5000), 1);
    EQ(send(c, "data", 4, 0), 4);
    s = OK(accept(l, NULL, NULL));
    close(c), close(s);
    // Nor is anything put off.
    c = OK(socket(AF_INET, SOCK_STREAM, 0));
    OK(setsockopt(c, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, 4));
    socklen_t n = sizeof one;
    OK(connect(c, (void *)&a, sizeof a));
    OK(getsockopt(c, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, &n));
    EQ(one, 1);
    s = OK(accept(l, NULL, NULL));
    close(c), close(s), close(l);
    c = OK(socket(AF_INET, SOCK_STREAM, 0));
    ERR(sendto(c, "data", 4, MSG_FASTOPEN, (void *)&a, sizeof a), ECONNREFUSED);
    close(c);
    // To datagrams it says nothing.
    c = OK(socket(AF_INET, SOCK_DGRAM, 0));
    EQ(sendto(c, "data", 4, MSG_FASTOPEN, (void *)&a, sizeof a), 4);
    close(c);
}

// An echo request to this host; raw and packet sockets see it come in.
static void echo(int raw, int id) {
    struct sockaddr_in a = lo(0);
    struct {
        struct icmphdr h;
        char data[12];
    } m = {{.type = ICMP_ECHO, .un.echo.id = htons(id), .un.echo.sequence = htons(1)}, "echo, echo"};
    uint32_t sum = 0;
    for (unsigned i = 0; i < sizeof m / 2; i++) sum += ((uint16_t *)&m)[i];
    sum = (sum >> 16) + (sum & 0xffff);
    m.h.checksum = ~(sum + (sum >> 16));
    EQ(sendto(raw, &m, sizeof m, 0, (void *)&a, sizeof a), sizeof m);
}

TEST(filters_of_packets) {
    int f = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), raw = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    if (f < 0 || raw < 0) SKIP("no packet sockets: %s", strerror(errno));
    // One kind of echo request over IPv4, as tcpdump says it, that comes in.
    ATTACH(f, BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IP, 0, 10),
           BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 23), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_ICMP, 0, 8),
           BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 14), BPF_STMT(BPF_LD | BPF_B | BPF_IND, 14),
           BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ICMP_ECHO, 0, 5), BPF_STMT(BPF_LD | BPF_H | BPF_IND, 18),
           BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x4322, 0, 3), BPF_STMT(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_PKTTYPE),
           BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_HOST, 0, 1), BPF_STMT(BPF_RET | BPF_K, 44), BPF_STMT(BPF_RET | BPF_K, 0));
    echo(raw, 0x4321);
    echo(raw, 0x4322);
    char got[200];
    // Cut after 14 + 20 + 8 + 2 bytes.
    EQ(recv(f, got, sizeof got, MSG_TRUNC), 44);
    CK(!memcmp(got + 42, "ec", 2));
    ERR(recv(f, got, sizeof got, MSG_DONTWAIT), EAGAIN);
}

TEST(filters_of_raw_sockets) {
    int f = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    if (f < 0) SKIP("no raw sockets: %s", strerror(errno));
    // From the IP header on.
    ATTACH(f, BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0), BPF_STMT(BPF_LD | BPF_H | BPF_IND, 4),
           BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x4322, 0, 3), BPF_STMT(BPF_LD | BPF_B | BPF_IND, 0),
           BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ICMP_ECHO, 0, 1), BPF_STMT(BPF_RET | BPF_K, -1), BPF_STMT(BPF_RET | BPF_K, 0));
    echo(f, 0x4321);
    echo(f, 0x4322);
    char got[200];
    EQ(recv(f, got, sizeof got, 0), 40);
    CK(!memcmp(got + 28, "echo, echo", 10));
    ERR(recv(f, got, sizeof got, MSG_DONTWAIT), EAGAIN);
}

TEST(filters_of_netlink) {
    int s = OK(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    struct {
        struct nlmsghdr h;
        char family[4];
    } ask = {{sizeof ask, 18 /* RTM_GETLINK */, NLM_F_REQUEST | NLM_F_DUMP, 7, 0}, {0}};
    // Messages of the sequence 8 only.
    ATTACH(s, BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 8), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 8, 0, 1), BPF_STMT(BPF_RET | BPF_K, -1),
           BPF_STMT(BPF_RET | BPF_K, 0));
    static char b[65536];
    ask.h.nlmsg_seq = 8;
    EQ(send(s, &ask, sizeof ask, 0), sizeof ask);
    CK(recv(s, b, sizeof b, 0) > 0);
    EQ(((struct nlmsghdr *)b)->nlmsg_seq, 8);
}
