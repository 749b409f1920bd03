// What rtnetlink and ioctls make of routes and neighbours, and what connections agree upon, in a network namespace of one's own.
#include "net.h"
#include <netinet/tcp.h>

struct request {
    struct nlmsghdr h;
    char body[300];
};
static void more(struct request *r, const void *data, int len) {
    memcpy((char *)r + r->h.nlmsg_len, data, len);
    r->h.nlmsg_len = NLMSG_ALIGN(r->h.nlmsg_len + len);
}
static void with(struct request *r, int type, const void *data, int len) {
    struct rtattr a = {RTA_LENGTH(len), type};
    more(r, &a, sizeof a);
    more(r, data, len);
}
static struct request begin(int type, int flags, const void *head, int len) {
    struct request r = {.h = {NLMSG_HDRLEN, type, NLM_F_REQUEST | flags, 1, 0}};
    more(&r, head, len);
    return r;
}
static void with_ip(struct request *r, int type, int family, const char *ip) {
    unsigned char a[16];
    EQ(inet_pton(family, ip, a), 1);
    with(r, type, a, family == AF_INET ? 4 : 16);
}
// The first message of the answer; an error, or how many messages there are.
static int answer(struct request *r, struct request *first) {
    int s = OK(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)), count = 0;
    struct sockaddr_nl to = {.nl_family = AF_NETLINK};
    OK(sendto(s, r, r->h.nlmsg_len, 0, (void *)&to, sizeof to));
    for (;;) {
        static char b[1 << 16];
        int left = OK(recv(s, b, sizeof b, 0));
        for (struct nlmsghdr *h = (void *)b; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
            int error = h->nlmsg_type == NLMSG_ERROR ? ((struct nlmsgerr *)NLMSG_DATA(h))->error : 0;
            if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR) {
                close(s);
                return error ? error : count;
            }
            if (!count++ && first) memcpy(first, h, h->nlmsg_len < sizeof *first ? h->nlmsg_len : sizeof *first);
            if (!(h->nlmsg_flags & NLM_F_MULTI)) {
                close(s);
                return count;
            }
        }
    }
}

struct way {
    int kind, scope, oif, flags;
    const char *via;
};
static int add(struct way w) {
    int v6 = w.flags & 0x10000, family = v6 ? AF_INET6 : AF_INET;
    struct rtmsg m = {.rtm_family = family, .rtm_dst_len = v6 ? 128 : 32, .rtm_table = 100, .rtm_protocol = RTPROT_BOOT};
    m.rtm_type = w.kind, m.rtm_scope = w.scope, m.rtm_flags = w.flags & 0xffff;
    struct request r = begin(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE, &m, sizeof m);
    with_ip(&r, RTA_DST, family, v6 ? "fd00::9" : "10.9.1.1");
    struct request any = r;
    if (w.oif) with(&r, RTA_OIF, &w.oif, 4);
    if (w.via) with_ip(&r, RTA_GATEWAY, family, w.via);
    int error = answer(&r, NULL);
    if (!error) {
        any.h.nlmsg_type = RTM_DELROUTE, any.h.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
        EQ(answer(&any, NULL), 0);
    }
    return error;
}
TEST(scopes_of_routes) {
    own_net();
    need_nic();
    int s = OK(socket(AF_INET, SOCK_DGRAM, 0)), nic = OK(if_nametoindex("nic0"));
    OK(set_flags(s, "lo", IFF_UP));
    OK(set_addr(s, SIOCSIFADDR, "nic0", "10.1.2.3"));
    OK(set_flags(s, "nic0", IFF_UP));
    int scopes[] = {RT_SCOPE_UNIVERSE, RT_SCOPE_SITE, RT_SCOPE_LINK, RT_SCOPE_HOST, RT_SCOPE_NOWHERE};
    int least[] = {256, 0, RT_SCOPE_HOST, RT_SCOPE_LINK, RT_SCOPE_LINK, 0};
    for (int kind = RTN_UNSPEC; kind <= RTN_MULTICAST; kind++)
        for (int i = 0; i < 5; i++)
            EQ(add((struct way){kind, scopes[i], nic, 0, NULL}), scopes[i] < least[kind] || i == 4 ? -EINVAL : 0);
    for (int kind = RTN_BLACKHOLE; kind <= RTN_THROW; kind++)
        for (int i = 0; i < 5; i++) {
            EQ(add((struct way){kind, scopes[i], 0, 0, NULL}), 0);
            EQ(add((struct way){kind, scopes[i], nic, 0, NULL}), -EINVAL);
            EQ(add((struct way){kind, scopes[i], 0, 0, "10.1.2.4"}), -EINVAL);
        }
    EQ(add((struct way){RTN_NAT, RT_SCOPE_UNIVERSE, nic, 0, NULL}), -EINVAL);
    // A gateway is nearer than what it leads to.
    EQ(add((struct way){RTN_UNICAST, RT_SCOPE_UNIVERSE, 0, 0, "10.1.2.4"}), 0);
    EQ(add((struct way){RTN_UNICAST, RT_SCOPE_SITE, 0, 0, "10.1.2.4"}), 0);
    EQ(add((struct way){RTN_UNICAST, RT_SCOPE_LINK, 0, 0, "10.1.2.4"}), -ENETUNREACH);
    EQ(add((struct way){RTN_UNICAST, RT_SCOPE_HOST, 0, 0, "10.1.2.4"}), -EINVAL);
    EQ(add((struct way){RTN_LOCAL, RT_SCOPE_HOST, nic, 0, "10.1.2.4"}), -EINVAL);
    EQ(add((struct way){RTN_UNICAST, RT_SCOPE_UNIVERSE, nic, RTNH_F_ONLINK, "10.8.2.4"}), 0);
    EQ(add((struct way){RTN_UNICAST, RT_SCOPE_LINK, nic, RTNH_F_ONLINK, "10.8.2.4"}), -EINVAL);
    EQ(add((struct way){RTN_UNICAST, RT_SCOPE_UNIVERSE, nic, RTNH_F_ONLINK, NULL}), -EINVAL);
    EQ(add((struct way){RTN_LOCAL, RT_SCOPE_HOST, 0, 0, NULL}), -ENODEV);
    // What is this host's needs no link that is up.
    OK(set_flags(s, "nic0", 0));
    EQ(add((struct way){RTN_LOCAL, RT_SCOPE_HOST, nic, 0, NULL}), 0);
    EQ(add((struct way){RTN_UNICAST, RT_SCOPE_HOST, nic, 0, NULL}), 0);
    EQ(add((struct way){RTN_BROADCAST, RT_SCOPE_LINK, nic, 0, NULL}), -ENETDOWN);
    EQ(add((struct way){RTN_UNICAST, RT_SCOPE_UNIVERSE, nic, 0, NULL}), -ENETDOWN);
    // IPv6 has no scopes.
    OK(set_flags(s, "nic0", IFF_UP));
    EQ(add((struct way){RTN_UNSPEC, RT_SCOPE_UNIVERSE, nic, 0x10000, NULL}), 0);
    EQ(add((struct way){RTN_LOCAL, RT_SCOPE_UNIVERSE, nic, 0x10000, NULL}), 0);
    EQ(add((struct way){RTN_BLACKHOLE, RT_SCOPE_UNIVERSE, nic, 0x10000, NULL}), 0);
}

// TCPI_OPT_ECN and TCPI_OPT_ECN_SEEN.
static int marks(int s) {
    struct tcp_info i;
    socklen_t n = sizeof i;
    OK(getsockopt(s, IPPROTO_TCP, TCP_INFO, &i, &n));
    return i.tcpi_options & 0x18;
}
TEST(ecn) {
    need_writable();
    own_net();
    int u = OK(socket(AF_INET, SOCK_DGRAM, 0));
    OK(set_flags(u, "lo", IFF_UP));
    for (int setting = 0; setting < 3; setting++) {
        char b[100] = {'0' + setting, 0};
        put(SYS "ipv4/tcp_ecn", b);
        int l = OK(socket(AF_INET, SOCK_STREAM, 0)), c = OK(socket(AF_INET, SOCK_STREAM, 0)), ecn = setting == 1 ? 8 : 0;
        struct sockaddr_in a = at("127.0.0.1", 7000 + setting);
        OK(bind(l, (void *)&a, sizeof a));
        OK(listen(l, 1));
        OK(connect(c, (void *)&a, sizeof a));
        int s = OK(accept(l, NULL, NULL));
        put(SYS "ipv4/tcp_ecn", "2");
        EQ(marks(c), ecn);
        EQ(marks(s), ecn);
        // Only data can be marked.
        EQ(send(c, b, sizeof b, 0), sizeof b);
        EQ(recv(s, b, sizeof b, MSG_WAITALL), sizeof b);
        EQ(marks(c), ecn);
        EQ(marks(s), ecn * 3);
        EQ(send(s, b, sizeof b, 0), sizeof b);
        EQ(recv(c, b, sizeof b, MSG_WAITALL), sizeof b);
        EQ(marks(c), ecn * 3);
    }
}
