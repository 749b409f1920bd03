// What rtnetlink and ioctls make of routes and neighbours, and what connections agree upon, in a network namespace of one's own.
#include "net.h"
#include <linux/neighbour.h>
#include <net/if_arp.h>
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

static int neigh(int type, int flags, int index, const char *ip, struct request *first) {
    int family = strchr(ip, ':') ? AF_INET6 : AF_INET;
    struct ndmsg m = {.ndm_family = family, .ndm_ifindex = index, .ndm_flags = flags};
    struct request r = begin(type, type == RTM_GETNEIGH ? 0 : NLM_F_ACK | NLM_F_CREATE, &m, sizeof m);
    if (*ip) with_ip(&r, NDA_DST, family, ip);
    return answer(&r, first);
}
static int count(int flags, int index) {
    struct ndmsg m = {.ndm_ifindex = index, .ndm_flags = flags};
    struct request r = begin(RTM_GETNEIGH, NLM_F_DUMP, &m, sizeof m);
    int n = answer(&r, &r);
    if (n > 0) EQ(((struct ndmsg *)NLMSG_DATA(&r.h))->ndm_flags & NTF_PROXY, flags);
    return n;
}
TEST(proxies) {
    own_net();
    need_nic();
    int s = OK(socket(AF_INET, SOCK_DGRAM, 0)), nic = OK(if_nametoindex("nic0"));
    OK(set_flags(s, "nic0", IFF_UP));
    EQ(count(NTF_PROXY, 0), 0);
    EQ(neigh(RTM_NEWNEIGH, NTF_PROXY, nic, "10.7.7.7", NULL), 0);
    EQ(neigh(RTM_NEWNEIGH, NTF_PROXY, nic, "10.7.7.7", NULL), 0);
    EQ(neigh(RTM_NEWNEIGH, NTF_PROXY | NTF_ROUTER, nic, "fd00::7", NULL), 0);
    EQ(neigh(RTM_NEWNEIGH, NTF_PROXY, 0, "10.7.7.8", NULL), 0);
    // One that is for every link stands for that of a link.
    EQ(neigh(RTM_NEWNEIGH, NTF_PROXY, nic, "10.7.7.8", NULL), 0);
    EQ(neigh(RTM_NEWNEIGH, NTF_PROXY, 12345, "10.7.7.8", NULL), -ENODEV);
    EQ(neigh(RTM_NEWNEIGH, NTF_PROXY, nic, "", NULL), -EINVAL);
    EQ(count(NTF_PROXY, 0), 3);
    CK(!strstr(get("/proc/net/arp"), "10.7.7.9"));
    CK(strstr(get("/proc/net/arp"), "10.7.7.7         0x1         0xc         00:00:00:00:00:00     *        nic0\n"));
    CK(strstr(get("/proc/net/arp"), "10.7.7.8         0x0         0xc         00:00:00:00:00:00     *        *\n"));
    struct request first;
    EQ(neigh(RTM_GETNEIGH, NTF_PROXY, nic, "fd00::7", &first), 1);
    struct ndmsg *m = NLMSG_DATA(&first.h);
    EQ(m->ndm_flags, NTF_PROXY | NTF_ROUTER);
    EQ(m->ndm_state, 0);
    EQ(m->ndm_ifindex, nic);
    EQ(first.h.nlmsg_len, NLMSG_LENGTH(sizeof *m) + RTA_SPACE(16));
    EQ(neigh(RTM_GETNEIGH, NTF_PROXY, nic, "10.7.7.8", &first), 1);
    EQ(m->ndm_ifindex, 0);
    EQ(neigh(RTM_GETNEIGH, NTF_PROXY, nic, "10.7.7.9", NULL), -ENOENT);
    EQ(neigh(RTM_DELNEIGH, NTF_PROXY, nic, "10.7.7.8", NULL), -ENOENT);
    EQ(neigh(RTM_DELNEIGH, NTF_PROXY, 0, "10.7.7.8", NULL), 0);
    EQ(neigh(RTM_DELNEIGH, NTF_PROXY, nic, "10.7.7.7", NULL), 0);
    EQ(neigh(RTM_NEWNEIGH, NTF_PROXY, 1, "10.7.7.1", NULL), 0);
    // They go when the link goes down.
    OK(set_flags(s, "nic0", 0));
    EQ(count(NTF_PROXY, 0), 1);
    OK(set_flags(s, "lo", IFF_UP));
    OK(set_flags(s, "lo", 0));
    EQ(count(NTF_PROXY, 0), 0);
}

static int arp(int s, int cmd, const char *ip, int flags, const char *dev, const char *mask) {
    struct arpreq r = {.arp_flags = flags, .arp_ha.sa_data = "\2\0\0\0\0\7"};
    struct sockaddr_in a = at(ip, 0), m = at(mask, 0);
    memcpy(&r.arp_pa, &a, sizeof a);
    memcpy(&r.arp_netmask, &m, sizeof m);
    strcpy(r.arp_dev, dev);
    return ioctl(s, cmd, &r);
}
TEST(proxies_by_ioctl) {
    need_writable();
    own_net();
    need_nic();
    int s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    OK(set_flags(s, "nic0", IFF_UP));
    OK(arp(s, SIOCSARP, "10.7.8.1", ATF_PUBL, "nic0", "0.0.0.0"));
    OK(arp(s, SIOCSARP, "10.7.8.2", ATF_PUBL, "", "0.0.0.0"));
    ERR(arp(s, SIOCSARP, "10.7.8.3", ATF_PUBL | ATF_COM, "", "0.0.0.0"), ENODEV);
    OK(arp(s, SIOCSARP, "10.7.8.3", ATF_PUBL | ATF_COM, "nic0", "0.0.0.0"));
    OK(arp(s, SIOCSARP, "10.7.8.4", ATF_PUBL | ATF_NETMASK, "nic0", "255.255.255.255"));
    ERR(arp(s, SIOCSARP, "10.7.8.5", ATF_PUBL | ATF_NETMASK, "nic0", "255.255.255.0"), EINVAL);
    ERR(arp(s, SIOCSARP, "10.7.8.5", ATF_DONTPUB, "nic0", "0.0.0.0"), EINVAL);
    EQ(count(NTF_PROXY, 0), 4);
    ERR(arp(s, SIOCGARP, "10.7.8.1", ATF_PUBL, "nic0", "0.0.0.0"), ENXIO);
    // All of them.
    OK(arp(s, SIOCSARP, "10.7.8.6", ATF_PUBL | ATF_NETMASK, "nic0", "0.0.0.0"));
    STREQ(has(SYS "ipv4/conf/nic0/proxy_arp"), "1");
    STREQ(has(SYS "ipv4/conf/all/proxy_arp"), "0");
    OK(arp(s, SIOCSARP, "10.7.8.6", ATF_PUBL | ATF_NETMASK, "", "0.0.0.0"));
    STREQ(has(SYS "ipv4/conf/all/proxy_arp"), "1");
    OK(arp(s, SIOCDARP, "10.7.8.6", ATF_PUBL | ATF_NETMASK, "nic0", "0.0.0.0"));
    OK(arp(s, SIOCDARP, "10.7.8.6", ATF_PUBL | ATF_NETMASK, "", "0.0.0.0"));
    STREQ(has(SYS "ipv4/conf/nic0/proxy_arp"), "0");
    STREQ(has(SYS "ipv4/conf/all/proxy_arp"), "0");
    OK(arp(s, SIOCDARP, "10.7.8.1", ATF_PUBL, "nic0", "0.0.0.0"));
    ERR(arp(s, SIOCDARP, "10.7.8.1", ATF_PUBL, "nic0", "0.0.0.0"), ENOENT);
    OK(arp(s, SIOCDARP, "10.7.8.2", ATF_PUBL, "", "0.0.0.0"));
    ERR(arp(s, SIOCDARP, "10.7.8.3", ATF_PUBL | ATF_COM, "", "0.0.0.0"), ENOENT);
    ERR(arp(s, SIOCDARP, "10.7.8.4", ATF_PUBL | ATF_NETMASK, "nic0", "255.255.0.0"), EINVAL);
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
