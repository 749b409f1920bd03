// UDP, ICMP and raw packets over the loopback interface.
#include "inet.h"
#include <linux/errqueue.h>
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

static int receiver(int *port) {
    int fd = bound(SOCK_DGRAM);
    *port = port_of(fd);
    return fd;
}
static unsigned short sum(const void *p, size_t n) {
    const unsigned char *b = p;
    unsigned s = 0;
    for (size_t i = 0; i + 1 < n; i += 2) s += b[i] << 8 | b[i + 1];
    if (n & 1) s += b[n - 1] << 8;
    while (s >> 16) s = (s & 0xffff) + (s >> 16);
    return htons(~s);
}

TEST(asks_and_answers) {
    int port;
    int s = receiver(&port);
    pid_t p = SPAWN({
        for (int i = 0; i < 500; i++) {
            char b[100];
            struct sockaddr_in from;
            socklen_t n = sizeof from;
            ssize_t r = OK(recvfrom(s, b, sizeof b, 0, (void *)&from, &n));
            EQ(n, sizeof from);
            EQ(sendto(s, b, r, 0, (void *)&from, n), r);
        }
    });
    int c = OK(socket(AF_INET, SOCK_DGRAM, 0));
    struct sockaddr_in a = lo(port);
    OK(connect(c, (void *)&a, sizeof a));
    for (int i = 0; i < 500; i++) {
        char out[32], in[32];
        int n = snprintf(out, sizeof out, "%d?", i);
        EQ(send(c, out, n, 0), n);
        EQ(recv(c, in, sizeof in, 0), n);
        CK(!memcmp(in, out, n));
    }
    WAIT0(p);
}

TEST(waits_in_vain) {
    int port;
    int s = receiver(&port);
    char b;
    ERR(recv(s, &b, 1, MSG_DONTWAIT), EAGAIN);
    struct timeval tv = {0, 40000};
    OK(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    int64_t t0 = now_ns();
    ERR(recv(s, &b, 1, 0), EAGAIN);
    CK(now_ns() - t0 >= 35000000);
}

TEST(a_full_queue_loses) {
    int port;
    int s = receiver(&port);
    OK(setsockopt(s, SOL_SOCKET, SO_RCVBUF, &(int){10000}, 4));
    int c = OK(socket(AF_INET, SOCK_DGRAM, 0));
    struct sockaddr_in a = lo(port);
    for (int i = 0; i < 1000; i++) EQ(sendto(c, &i, sizeof i, 0, (void *)&a, sizeof a), sizeof i);
    int got = 0, i;
    while (recv(s, &i, sizeof i, MSG_DONTWAIT) == sizeof i) EQ(i, got++);
    CK(got > 5 && got < 200);
}

TEST(many_in_one_call) {
    int port;
    int s = receiver(&port);
    int c = OK(socket(AF_INET, SOCK_DGRAM, 0));
    struct sockaddr_in a = lo(port);
    struct mmsghdr m[8] = {0};
    struct iovec v[8];
    char b[8][16], from[8][16];
    for (int i = 0; i < 8; i++) {
        v[i] = (struct iovec){b[i], snprintf(b[i], 16, "number %d", i)};
        m[i].msg_hdr = (struct msghdr){.msg_iov = &v[i], .msg_iovlen = 1, .msg_name = &a, .msg_namelen = sizeof a};
    }
    EQ(sendmmsg(c, m, 8, 0), 8);
    memset(b, 0, sizeof b);
    for (int i = 0; i < 8; i++) {
        v[i].iov_len = 16;
        m[i].msg_hdr.msg_name = from[i];
        m[i].msg_hdr.msg_namelen = 16;
    }
    EQ(recvmmsg(s, m, 8, MSG_DONTWAIT, NULL), 8);
    STREQ(b[7], "number 7");
    EQ(m[7].msg_len, 8);
    OK(setsockopt(c, IPPROTO_UDP, UDP_SEGMENT, &(int){4}, 4));
    EQ(sendto(c, "onetwo3", 7, 0, (void *)&a, sizeof a), 7);
    EQ(recv(s, b, 16, MSG_DONTWAIT), 4);
    EQ(recv(s, b, 16, MSG_DONTWAIT), 3);
}

// What is written to the guest together is as if each message had been.
TEST(many_and_bad_memory) {
    enum { N = 100 };
    int port;
    int s = receiver(&port), c = OK(socket(AF_INET, SOCK_DGRAM, 0));
    struct sockaddr_in a = lo(port), from[N];
    struct mmsghdr m[N];
    struct iovec v[N];
    char b[N][8];
    OK(connect(c, (void *)&a, sizeof a));
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < N; i++) {
            char text[8] = {i, 'x', 'y', 'z', 'y', 'x', 'w', 'v'};
            EQ(send(c, text, 1 + i % 8, 0), 1 + i % 8);
            v[i] = (struct iovec){b[i], 6};
            m[i].msg_hdr = (struct msghdr){.msg_iov = &v[i], .msg_iovlen = 1, .msg_name = &from[i], .msg_namelen = sizeof *from};
            m[i].msg_len = 0;
        }
        memset(b, '-', sizeof b);
        int want = N;
        if (round == 1) v[want = 70].iov_base = (void *)8;
        if (round == 2) m[want = 1].msg_hdr.msg_name = (void *)8;
        if (round == 3) v[want = 0].iov_base = (void *)8;
        if (want) EQ(recvmmsg(s, m, N, MSG_WAITFORONE, NULL), want);
        else ERR(recvmmsg(s, m, N, MSG_WAITFORONE, NULL), EFAULT);
        for (int i = 0; i < want; i++) {
            int len = 1 + i % 8, kept = len < 6 ? len : 6;
            EQ(m[i].msg_len, kept);
            EQ(m[i].msg_hdr.msg_flags, len > 6 ? MSG_TRUNC : 0);
            EQ(m[i].msg_hdr.msg_namelen, sizeof *from);
            EQ(from[i].sin_family, AF_INET);
            CK(b[i][0] == i && b[i][kept - 1] == (kept == 1 ? i : "?xyzyxwv"[kept - 1]));
            for (int at = kept; at < 8; at++) CK(b[i][at] == '-');
        }
        // Of the others some are lost.
        for (char x[8]; recv(s, x, sizeof x, MSG_DONTWAIT) >= 0 || errno == EFAULT;);
        EQ(errno, EAGAIN);
    }
}

TEST(control_messages) {
    int port;
    int s = receiver(&port);
    int c = OK(socket(AF_INET, SOCK_DGRAM, 0));
    OK(setsockopt(s, IPPROTO_IP, IP_PKTINFO, &(int){1}, 4));
    OK(setsockopt(s, IPPROTO_IP, IP_RECVTTL, &(int){1}, 4));
    struct sockaddr_in a = lo(port);
    char cbuf[CMSG_SPACE(sizeof(struct in_pktinfo)) + CMSG_SPACE(4)] = {0};
    struct iovec v = {"x", 1};
    struct msghdr m = {.msg_name = &a, .msg_namelen = sizeof a, .msg_iov = &v, .msg_iovlen = 1, .msg_control = cbuf, .msg_controllen = sizeof cbuf};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    *h = (struct cmsghdr){CMSG_LEN(sizeof(struct in_pktinfo)), IPPROTO_IP, IP_PKTINFO};
    struct in_pktinfo info = {.ipi_spec_dst.s_addr = htonl(0x7f000007)};
    memcpy(CMSG_DATA(h), &info, sizeof info);
    h = CMSG_NXTHDR(&m, h);
    *h = (struct cmsghdr){CMSG_LEN(4), IPPROTO_IP, IP_TTL};
    memcpy(CMSG_DATA(h), &(int){33}, 4);
    EQ(sendmsg(c, &m, 0), 1);
    char b, got[200];
    struct sockaddr_in from;
    v = (struct iovec){&b, 1};
    m = (struct msghdr){.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &v, .msg_iovlen = 1, .msg_control = got, .msg_controllen = sizeof got};
    EQ(recvmsg(s, &m, 0), 1);
    EQ(ntohl(from.sin_addr.s_addr), 0x7f000007);
    int ttl = 0, index = 0;
    for (h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
        if (h->cmsg_type == IP_TTL) memcpy(&ttl, CMSG_DATA(h), 4);
        if (h->cmsg_type == IP_PKTINFO) {
            memcpy(&info, CMSG_DATA(h), sizeof info);
            index = info.ipi_ifindex;
            EQ(ntohl(info.ipi_addr.s_addr), INADDR_LOOPBACK);
        }
    }
    EQ(ttl, 33);
    EQ(index, 1);
}

TEST(nobody_there) {
    int port;
    close(receiver(&port));
    int c = OK(socket(AF_INET, SOCK_DGRAM, 0));
    struct sockaddr_in a = lo(port);
    OK(connect(c, (void *)&a, sizeof a));
    EQ(send(c, "x", 1, 0), 1);
    char b;
    ERR(recv(c, &b, 1, 0), ECONNREFUSED);
    OK(setsockopt(c, IPPROTO_IP, IP_RECVERR, &(int){1}, 4));
    EQ(send(c, "yz", 2, 0), 2);
    struct pollfd p = {c, POLLIN, 0};
    EQ(poll(&p, 1, 1000), 1);
    EQ(p.revents, POLLERR);
    char got[200], data[8];
    struct sockaddr_in to;
    struct iovec v = {data, 8};
    struct msghdr m = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &v, .msg_iovlen = 1, .msg_control = got, .msg_controllen = sizeof got};
    EQ(recvmsg(c, &m, MSG_ERRQUEUE), 2);
    CK(m.msg_flags & MSG_ERRQUEUE);
    EQ(ntohs(to.sin_port), port);
    struct sock_extended_err *e = (void *)CMSG_DATA(CMSG_FIRSTHDR(&m));
    EQ(e->ee_errno, ECONNREFUSED);
    EQ(e->ee_origin, SO_EE_ORIGIN_ICMP);
}

TEST(no_way) {
    int c = OK(socket(AF_INET, SOCK_DGRAM, 0));
    struct sockaddr_in a = lo(9);
    a.sin_addr.s_addr = inet_addr("192.0.2.1");
    ERR(sendto(c, "x", 1, 0, (void *)&a, sizeof a), ENETUNREACH);
    int t = OK(socket(AF_INET, SOCK_STREAM, 0));
    ERR(connect(t, (void *)&a, sizeof a), ENETUNREACH);
    ERR(bind(t, (void *)&a, sizeof a), EADDRNOTAVAIL);
}

TEST(groups) {
    int r = OK(socket(AF_INET, SOCK_DGRAM, 0)), port;
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t n = sizeof a;
    OK(bind(r, (void *)&a, n));
    OK(getsockname(r, (void *)&a, &n));
    port = ntohs(a.sin_port);
    struct ip_mreqn q = {.imr_multiaddr.s_addr = inet_addr("239.7.7.7"), .imr_ifindex = 1};
    OK(setsockopt(r, IPPROTO_IP, IP_ADD_MEMBERSHIP, &q, sizeof q));
    int s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    OK(setsockopt(s, IPPROTO_IP, IP_MULTICAST_IF, &q, sizeof q));
    a.sin_addr = q.imr_multiaddr;
    a.sin_port = htons(port);
    EQ(sendto(s, "to all", 6, 0, (void *)&a, sizeof a), 6);
    char b[16];
    EQ(recv(r, b, sizeof b, 0), 6);
}

static void echo(int fd, int type, struct sockaddr *to, socklen_t len, int reply, int head) {
    unsigned char q[32] = {type, 0, 0, 0, 0x12, 0x34, 0, 9}, b[100];
    if (type == ICMP_ECHO) {
        unsigned short s = sum(q, sizeof q);
        memcpy(q + 2, &s, 2);
    }
    EQ(sendto(fd, q, sizeof q, 0, to, len), sizeof q);
    struct timeval tv = {5, 0};
    OK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    for (;;) {
        ssize_t n = OK(recv(fd, b, sizeof b, 0));
        EQ(n, sizeof q + head);
        if (b[head] != type) break;
    }
    EQ(b[head], reply);
    EQ(b[head + 7], 9);
}
TEST(raw_pings) {
    int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    if (fd < 0 && errno == EPERM) SKIP("no CAP_NET_RAW");
    OK(fd);
    struct sockaddr_in a = lo(0);
    echo(fd, ICMP_ECHO, (void *)&a, sizeof a, ICMP_ECHOREPLY, 20);
    struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    fd = OK(socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6));
    echo(fd, ICMP6_ECHO_REQUEST, (void *)&a6, sizeof a6, ICMP6_ECHO_REPLY, 0);
}
TEST(pings) {
    int fd = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
    if (fd < 0 && errno == EACCES) SKIP("net.ipv4.ping_group_range lets nobody");
    OK(fd);
    struct sockaddr_in a = lo(0);
    echo(fd, ICMP_ECHO, (void *)&a, sizeof a, ICMP_ECHOREPLY, 0);
    ERR(sendto(fd, "nothing.", 8, 0, (void *)&a, sizeof a), EINVAL);
    struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    fd = OK(socket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6));
    echo(fd, ICMP6_ECHO_REQUEST, (void *)&a6, sizeof a6, ICMP6_ECHO_REPLY, 0);
}
