// Network namespaces: each has its own /proc/sys/net, which who administers it may write.
#include "t.h"
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/un.h>

#define SYS "/proc/sys/net/"

// In a new network namespace of a new user namespace, as its root.
static void own_net(void) {
    char map[40];
    uid_t u = geteuid(), g = getegid();
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET)) SKIP("no user namespaces: %s", strerror(errno));
    put("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "0 %d 1", u);
    put("/proc/self/uid_map", map);
    snprintf(map, sizeof map, "0 %d 1", g);
    put("/proc/self/gid_map", map);
}
static void become(uid_t u) {
    if (geteuid()) SKIP("not root");
    OK(syscall(SYS_setresgid, u, u, u));
    OK(syscall(SYS_setresuid, u, u, u));
    OK(syscall(SYS_prctl, 4 /* PR_SET_DUMPABLE */, 1, 0, 0, 0));
}
static void need_writable(void) {
    int fd = open(SYS "core/somaxconn", O_WRONLY);
    if (fd < 0 && errno == EROFS) SKIP("/proc/sys cannot be written");
    if (fd >= 0) close(fd);
}
static int writes(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_TRUNC);
    if (fd < 0) return -1;
    int n = write(fd, text, strlen(text)), e = errno;
    close(fd);
    errno = e;
    return n;
}
static const char *has(const char *path) {
    char *t = get(path);
    t[strcspn(t, "\n")] = 0;
    return t;
}
static int exists(const char *path) { return access(path, F_OK) == 0; }
// What `ip link add NAME type dummy`, `ip link set NAME name NEW` and `ip link del NAME` do.
struct ask {
    struct nlmsghdr h;
    struct ifinfomsg i;
    char attrs[128];
};
static int attr(struct ask *a, int type, const void *data, int len) {
    int at = a->h.nlmsg_len;
    struct rtattr *r = (void *)((char *)a + at);
    r->rta_type = type;
    r->rta_len = RTA_LENGTH(len);
    memcpy(RTA_DATA(r), data, len);
    a->h.nlmsg_len = at + RTA_SPACE(len);
    return at;
}
static int asked(struct ask *a) {
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
static struct ask about(int type, int flags, int index) {
    return (struct ask){.h = {NLMSG_LENGTH(sizeof(struct ifinfomsg)), type, NLM_F_REQUEST | NLM_F_ACK | flags, 0, 0}, .i.ifi_index = index};
}
static int add_link(const char *kind, const char *name) {
    struct ask a = about(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0);
    attr(&a, IFLA_IFNAME, name, strlen(name) + 1);
    int at = attr(&a, IFLA_LINKINFO, "", 0);
    attr(&a, IFLA_INFO_KIND, kind, strlen(kind));
    ((struct rtattr *)((char *)&a + at))->rta_len = a.h.nlmsg_len - at;
    return asked(&a);
}
// Not every host has the modules.
static int add_some(const char *name) {
    int error = add_link("dummy", name);
    return error == -EOPNOTSUPP ? add_link("bridge", name) : error;
}

static void up(const char *name) {
    struct ask a = about(RTM_NEWLINK, 0, OK(if_nametoindex(name)));
    a.i.ifi_flags = a.i.ifi_change = IFF_UP;
    EQ(asked(&a), 0);
}

TEST(new_values) {
    own_net();
    STREQ(has(SYS "core/somaxconn"), "4096");
    STREQ(has(SYS "ipv4/ip_forward"), "0");
    STREQ(has(SYS "ipv4/ip_local_port_range"), "32768\t60999");
    // Group 1 is nobody here.
    STREQ(has(SYS "ipv4/ping_group_range"), "65534\t0");
    STREQ(has(SYS "ipv4/ip_unprivileged_port_start"), "1024");
    STREQ(has(SYS "ipv4/tcp_keepalive_time"), "7200");
    STREQ(has(SYS "ipv6/conf/lo/hop_limit"), "64");
    STREQ(has(SYS "unix/max_dgram_qlen"), "10");
    // The machine's.
    CK(exists(SYS "core/rmem_max"));
    ERR(writes(SYS "core/rmem_max", "300000"), EACCES);
    CK(!exists(SYS "core/netdev_max_backlog"));
    CK(!exists(SYS "ipv4/tcp_max_orphans"));
}

TEST(of_their_own) {
    need_writable();
    // What an open file is about stays; what a path leads to depends on who walks it.
    int outer = OK(open(SYS "core/somaxconn", O_RDONLY)), dir = OK(open(SYS "core", O_RDONLY | O_DIRECTORY));
    char before[20], inner[20] = "";
    snprintf(before, sizeof before, "%s", has(SYS "core/somaxconn"));
    WAIT0(SPAWN({
        own_net();
        CK(writes(SYS "core/somaxconn", "17\n") == 3);
        STREQ(has(SYS "core/somaxconn"), "17");
        OK(pread(outer, inner, sizeof inner - 1, 0));
        CK(atoi(inner) == atoi(before));
        int through = OK(openat(dir, "somaxconn", O_RDONLY));
        CK(read(through, inner, sizeof inner - 1) > 0);
        // Whether a directory is the opener's or the walker's is nobody's business.
        ERR(openat(dir, "nothing", O_RDONLY), ENOENT);
        OK(chdir(SYS "core"));
        STREQ(has("somaxconn"), "17");
        STREQ(has("../core/somaxconn"), "17");
        STREQ(has("../../net/core/somaxconn"), "17");
        char cwd[100];
        CK(getcwd(cwd, sizeof cwd));
        STREQ(cwd, "/proc/sys/net/core");
        WAIT0(SPAWN({
            OK(unshare(CLONE_NEWNET));
            STREQ(has(SYS "core/somaxconn"), "4096");
        }));
        STREQ(has("somaxconn"), "17");
    }));
    STREQ(has(SYS "core/somaxconn"), before);
}

TEST(unprivileged_owner) {
    need_writable();
    WAIT0(SPAWN({
        become(1000);
        ERR(open(SYS "core/somaxconn", O_WRONLY), EACCES);
        own_net();
        struct stat st;
        OK(stat(SYS "core/somaxconn", &st));
        EQ(st.st_uid, 0);
        EQ(st.st_mode, S_IFREG | 0644);
        CK(access(SYS "core/somaxconn", W_OK) == 0);
        put(SYS "core/somaxconn", "5");
        put(SYS "ipv4/ip_unprivileged_port_start", "0");
        // Groups as the writer and the reader know them.
        ERR(writes(SYS "ipv4/ping_group_range", "0 7"), EINVAL);
        int ping = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
        CK(ping < 0 && errno == EACCES);
        put(SYS "ipv4/ping_group_range", "0 0");
        STREQ(has(SYS "ipv4/ping_group_range"), "0\t0");
        OK(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
        ERR(open("/proc/sys/kernel/msgmax", O_WRONLY), EACCES);
        // In a user namespace below, the network is somebody else's.
        WAIT0(SPAWN({
            OK(unshare(CLONE_NEWUSER));
            ERR(open(SYS "core/somaxconn", O_WRONLY), EACCES);
            OK(close(OK(open(SYS "core/somaxconn", O_RDONLY))));
        }));
    }));
}

// Power over the network is that of its owner's namespace.
TEST(power) {
    WAIT0(SPAWN({
        become(1000);
        ERR(socket(AF_INET, SOCK_RAW, IPPROTO_UDP), EPERM);
        own_net();
        up("lo");
        OK(socket(AF_INET, SOCK_RAW, IPPROTO_UDP));
        OK(socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)));
        int s = OK(socket(AF_INET, SOCK_DGRAM, 0)), on = 1;
        OK(setsockopt(s, IPPROTO_IP, IP_TRANSPARENT, &on, sizeof on));
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        OK(bind(s, (void *)&a, sizeof a));
        OK(unshare(CLONE_NEWUSER));
        ERR(socket(AF_INET, SOCK_RAW, IPPROTO_UDP), EPERM);
        ERR(socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), EPERM);
        s = OK(socket(AF_INET, SOCK_DGRAM, 0));
        ERR(setsockopt(s, IPPROTO_IP, IP_TRANSPARENT, &on, sizeof on), EPERM);
        a.sin_port = htons(54);
        ERR(bind(s, (void *)&a, sizeof a), EACCES);
    }));
}

TEST(bounds) {
    need_writable();
    own_net();
    ERR(writes(SYS "ipv4/ip_default_ttl", "256"), EINVAL);
    ERR(writes(SYS "ipv4/ip_default_ttl", "0"), EINVAL);
    ERR(writes(SYS "core/somaxconn", "x"), EINVAL);
    put(SYS "core/somaxconn", "0x10\n");
    STREQ(has(SYS "core/somaxconn"), "16");
    // The numbers that are not given stay.
    put(SYS "ipv4/tcp_rmem", "8192 90000");
    CK(!strncmp(has(SYS "ipv4/tcp_rmem"), "8192\t90000\t", 11));
    ERR(writes(SYS "ipv4/tcp_congestion_control", "nonesuch"), ENOENT);
    put(SYS "ipv4/tcp_congestion_control", "reno\n");
    STREQ(has(SYS "ipv4/tcp_congestion_control"), "reno");
    char name[20] = "";
    socklen_t len = sizeof name;
    OK(getsockopt(OK(socket(AF_INET, SOCK_STREAM, 0)), IPPROTO_TCP, TCP_CONGESTION, name, &len));
    STREQ(name, "reno");
}

TEST(obeyed) {
    need_writable();
    WAIT0(SPAWN({
        own_net();
        up("lo");
        put(SYS "ipv4/ip_local_port_range", "40000 40001");
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof a;
        int s = OK(socket(AF_INET, SOCK_DGRAM, 0));
        OK(bind(s, (void *)&a, sizeof a));
        OK(getsockname(s, (void *)&a, &len));
        CK(ntohs(a.sin_port) == 40000 || ntohs(a.sin_port) == 40001);
        put(SYS "ipv4/ip_default_ttl", "33");
        int ttl;
        len = sizeof ttl;
        OK(getsockopt(s, IPPROTO_IP, IP_TTL, &ttl, &len));
        EQ(ttl, 33);
        // Datagrams that wait in a unix socket.
        put(SYS "unix/max_dgram_qlen", "2");
        int u = OK(socket(AF_UNIX, SOCK_DGRAM, 0)), from = OK(socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0));
        struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = "\0q"};
        OK(bind(u, (void *)&at, sizeof(sa_family_t) + 2));
        int sent = 0;
        while (sendto(from, "x", 1, 0, (void *)&at, sizeof(sa_family_t) + 2) == 1) sent++;
        EQ(errno, EAGAIN);
        EQ(sent, 3);
    }));
    // And by nobody else.
    int ttl;
    socklen_t len = sizeof ttl;
    OK(getsockopt(OK(socket(AF_INET, SOCK_DGRAM, 0)), IPPROTO_IP, IP_TTL, &ttl, &len));
    CK(ttl != 33);
}

static int entries(const char *path, const char *name) {
    DIR *d = opendir(path);
    CK(d);
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) n += !strcmp(e->d_name, name);
    closedir(d);
    return n;
}

TEST(conf_of_links) {
    need_writable();
    own_net();
    CK(exists(SYS "ipv4/conf/lo/rp_filter"));
    ERR(open(SYS "ipv4/conf/nic0/rp_filter", O_RDONLY), ENOENT);
    put(SYS "ipv4/conf/default/rp_filter", "1");
    // Nobody has set lo's.
    STREQ(has(SYS "ipv4/conf/lo/rp_filter"), "1");
    int error = add_some("nic0");
    if (error == -EOPNOTSUPP) SKIP("no links of the kinds dummy and bridge");
    EQ(error, 0);
    EQ(entries(SYS "ipv4/conf", "nic0"), 1);
    EQ(entries(SYS "ipv6/conf", "nic0"), 1);
    EQ(entries(SYS "ipv4/conf", "lo"), 1);
    EQ(entries(SYS "ipv4/conf", "all"), 1);
    EQ(entries(SYS "ipv4/conf/nic0", "rp_filter"), 1);
    STREQ(has(SYS "ipv4/conf/nic0/rp_filter"), "1");
    put(SYS "ipv4/conf/nic0/rp_filter", "2");
    put(SYS "ipv4/conf/default/rp_filter", "0");
    STREQ(has(SYS "ipv4/conf/nic0/rp_filter"), "2");
    STREQ(has(SYS "ipv4/conf/lo/rp_filter"), "0");
    put(SYS "ipv4/conf/all/rp_filter", "1");
    STREQ(has(SYS "ipv4/conf/lo/rp_filter"), "0");
    // Switches for all.
    put(SYS "ipv4/ip_forward", "1");
    STREQ(has(SYS "ipv4/conf/all/forwarding"), "1");
    STREQ(has(SYS "ipv4/conf/nic0/forwarding"), "1");
    STREQ(has(SYS "ipv4/conf/default/forwarding"), "1");
    put(SYS "ipv4/conf/nic0/forwarding", "0");
    STREQ(has(SYS "ipv4/ip_forward"), "1");
    put(SYS "ipv6/conf/all/forwarding", "1");
    STREQ(has(SYS "ipv6/conf/nic0/forwarding"), "1");
    // A new name goes on with the settings; a new link of the name does not.
    struct ask a = about(RTM_NEWLINK, 0, OK(if_nametoindex("nic0")));
    attr(&a, IFLA_IFNAME, "nic.1", 6);
    EQ(asked(&a), 0);
    ERR(open(SYS "ipv4/conf/nic0/rp_filter", O_RDONLY), ENOENT);
    STREQ(has(SYS "ipv4/conf/nic.1/rp_filter"), "2");
    int fd = OK(open(SYS "ipv4/conf/nic.1/rp_filter", O_RDONLY));
    a = about(RTM_DELLINK, 0, OK(if_nametoindex("nic.1")));
    EQ(asked(&a), 0);
    char c;
    ERR(read(fd, &c, 1), ENOENT);
    CK(!exists(SYS "ipv4/conf/nic.1"));
    EQ(add_some("nic.1"), 0);
    STREQ(has(SYS "ipv4/conf/nic.1/rp_filter"), "0");
    // Another namespace has other links.
    WAIT0(SPAWN({
        OK(unshare(CLONE_NEWNET));
        CK(!exists(SYS "ipv4/conf/nic.1"));
        EQ(entries(SYS "ipv4/conf", "nic.1"), 0);
        STREQ(has(SYS "ipv6/conf/all/forwarding"), "0");
    }));
    CK(exists(SYS "ipv4/conf/nic.1"));
}

TEST(gone_with_its_namespace) {
    need_writable();
    int fds[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
    pid_t p = SPAWN({
        own_net();
        int fd = OK(open(SYS "core/somaxconn", O_RDONLY));
        EQ(send_fd(fds[0], fd, "x"), 1);
    });
    WAIT0(p);
    char b[20];
    int fd = recv_fd(fds[1], 0);
    CK(fd >= 0);
    // Namespaces go when there is time.
    int64_t until = now_ns() + 10000000000LL;
    while (pread(fd, b, sizeof b, 0) >= 0 && now_ns() < until) ms(10);
    EQ(errno, ENOENT);
}
