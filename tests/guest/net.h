// Network namespaces of one's own, and changing their links, for the guest programs.
#include "t.h"
#include <arpa/inet.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>

#define SYS "/proc/sys/net/"

// In a new network namespace of a new user namespace, as its root.
static inline void own_net(void) {
    char map[40];
    uid_t u = geteuid(), g = getegid();
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET)) SKIP("no user namespaces: %s", strerror(errno));
    put("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "0 %d 1", u);
    put("/proc/self/uid_map", map);
    snprintf(map, sizeof map, "0 %d 1", g);
    put("/proc/self/gid_map", map);
}
static inline void need_writable(void) {
    int fd = open(SYS "core/somaxconn", O_WRONLY);
    if (fd < 0 && errno == EROFS) SKIP("/proc/sys cannot be written");
    if (fd >= 0) close(fd);
}
static inline const char *has(const char *path) {
    char *t = get(path);
    t[strcspn(t, "\n")] = 0;
    return t;
}
// What `ip link add NAME type dummy`, `ip link set NAME name NEW` and `ip link del NAME` do.
struct ask {
    struct nlmsghdr h;
    struct ifinfomsg i;
    char attrs[128];
};
static inline int attr(struct ask *a, int type, const void *data, int len) {
    int at = a->h.nlmsg_len;
    struct rtattr *r = (void *)((char *)a + at);
    r->rta_type = type;
    r->rta_len = RTA_LENGTH(len);
    memcpy(RTA_DATA(r), data, len);
    a->h.nlmsg_len = at + RTA_SPACE(len);
    return at;
}
static inline int asked(struct ask *a) {
    int s = OK(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    struct sockaddr_nl to = {.nl_family = AF_NETLINK};
    OK(sendto(s, a, a->h.nlmsg_len, 0, (void *)&to, sizeof to));
    struct {
        struct nlmsghdr h;
        struct nlmsgerr e;
        char more[200];
    } answer;
    OK(recv(s, &answer, sizeof answer, 0));
    close(s);
    return answer.e.error;
}
static inline struct ask about(int type, int flags, int index) {
    return (struct ask){.h = {NLMSG_LENGTH(sizeof(struct ifinfomsg)), type, NLM_F_REQUEST | NLM_F_ACK | flags, 0, 0}, .i.ifi_index = index};
}
static inline int add_link(const char *kind, const char *name) {
    struct ask a = about(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0);
    attr(&a, IFLA_IFNAME, name, strlen(name) + 1);
    int at = attr(&a, IFLA_LINKINFO, "", 0);
    attr(&a, IFLA_INFO_KIND, kind, strlen(kind));
    ((struct rtattr *)((char *)&a + at))->rta_len = a.h.nlmsg_len - at;
    return asked(&a);
}
// Not every host has the modules.
static inline int add_some(const char *name) {
    int error = add_link("dummy", name);
    return error == -EOPNOTSUPP ? add_link("bridge", name) : error;
}

static inline void up(const char *name) {
    struct ask a = about(RTM_NEWLINK, 0, OK(if_nametoindex(name)));
    a.i.ifi_flags = a.i.ifi_change = IFF_UP;
    EQ(asked(&a), 0);
}

static inline int net_io(int s, int cmd, const char *name, struct ifreq *r) {
    memset(r->ifr_name, 0, sizeof r->ifr_name);
    strncpy(r->ifr_name, name, sizeof r->ifr_name - 1);
    return ioctl(s, cmd, r);
}
static inline int set_flags(int s, const char *name, int flags) {
    struct ifreq r = {.ifr_flags = flags};
    return net_io(s, SIOCSIFFLAGS, name, &r);
}
static inline int flags_of(int s, const char *name) {
    struct ifreq r = {0};
    OK(net_io(s, SIOCGIFFLAGS, name, &r));
    return (unsigned short)r.ifr_flags;
}
static inline struct sockaddr_in at(const char *ip, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    CK(inet_pton(AF_INET, ip, &a.sin_addr) == 1);
    return a;
}
static inline int set_addr(int s, int cmd, const char *name, const char *ip) {
    struct sockaddr_in a = at(ip, 0);
    struct ifreq r = {0};
    memcpy(&r.ifr_addr, &a, sizeof a);
    return net_io(s, cmd, name, &r);
}
static inline void need_nic(void) {
    int error = add_some("nic0");
    if (error == -EOPNOTSUPP) SKIP("no links of the kinds dummy and bridge");
    EQ(error, 0);
}
