// Network namespaces: each has its own /proc/sys/net, links, addresses and routes, which who administers it may change.
#include "net.h"
#include <linux/if_ether.h>
#include <net/route.h>
#include <netpacket/packet.h>
#include <sys/mount.h>
#include <netinet/tcp.h>
#include <sys/un.h>

static void become(uid_t u) {
    if (geteuid()) SKIP("not root");
    OK(syscall(SYS_setresgid, u, u, u));
    OK(syscall(SYS_setresuid, u, u, u));
    OK(syscall(SYS_prctl, 4 /* PR_SET_DUMPABLE */, 1, 0, 0, 0));
}
static int writes(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_TRUNC);
    if (fd < 0) return -1;
    int n = write(fd, text, strlen(text)), e = errno;
    close(fd);
    errno = e;
    return n;
}
static int exists(const char *path) { return access(path, F_OK) == 0; }
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
        // A port that is kept for who names it.
        put(SYS "ipv4/ip_local_reserved_ports", "40000,50000-50010,50011\n");
        STREQ(has(SYS "ipv4/ip_local_reserved_ports"), "40000,50000-50011");
        ERR(writes(SYS "ipv4/ip_local_reserved_ports", "70000"), EINVAL);
        close(s);
        s = OK(socket(AF_INET, SOCK_DGRAM, 0));
        a.sin_port = 0;
        OK(bind(s, (void *)&a, sizeof a));
        len = sizeof a;
        OK(getsockname(s, (void *)&a, &len));
        EQ(ntohs(a.sin_port), 40001);
        a.sin_port = htons(40000);
        OK(bind(OK(socket(AF_INET, SOCK_DGRAM, 0)), (void *)&a, sizeof a));
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
    // What ip(8) asks before it makes one.
    struct ask probe = about(RTM_NEWLINK, 0, 0);
    EQ(asked(&probe), -ENODEV);
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

// Power over addresses of IPv6.
TEST(disable_ipv6) {
    need_writable();
    own_net();
    up("lo");
    struct sockaddr_in6 own = {.sin6_family = AF_INET6, .sin6_port = htons(9), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(10)};
    OK(sendto(OK(socket(AF_INET6, SOCK_DGRAM, 0)), "x", 1, 0, (void *)&own, sizeof own));
    put(SYS "ipv6/conf/all/disable_ipv6", "1");
    STREQ(has(SYS "ipv6/conf/lo/disable_ipv6"), "1");
    STREQ(has(SYS "ipv6/conf/default/disable_ipv6"), "1");
    EQ(get("/proc/net/if_inet6")[0], 0);
    int s = OK(socket(AF_INET6, SOCK_DGRAM, 0));
    ERR(sendto(s, "x", 1, 0, (void *)&own, sizeof own), EADDRNOTAVAIL);
    ERR(bind(OK(socket(AF_INET6, SOCK_DGRAM, 0)), (void *)&own, sizeof own), EADDRNOTAVAIL);
    s = OK(socket(AF_INET6, SOCK_DGRAM, 0));
    ERR(connect(OK(socket(AF_INET6, SOCK_STREAM, 0)), (void *)&own, sizeof own), EADDRNOTAVAIL);
    // Those of IPv4 are served on.
    OK(bind(s, (void *)&any, sizeof any));
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(10), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    OK(sendto(OK(socket(AF_INET, SOCK_DGRAM, 0)), "y", 1, 0, (void *)&four, sizeof four));
    char c = 0;
    EQ(recv(s, &c, 1, 0), 1);
    EQ(c, 'y');
    struct {
        struct in6_addr addr;
        unsigned prefix;
        int index;
    } more = {.prefix = 128, .index = 1};
    inet_pton(AF_INET6, "fd00::1", &more.addr);
    ERR(ioctl(s, SIOCSIFADDR, &more), EACCES);
    put(SYS "ipv6/conf/lo/disable_ipv6", "0");
    STREQ(has(SYS "ipv6/conf/all/disable_ipv6"), "1");
    CK(strstr(get("/proc/net/if_inet6"), "00000000000000000000000000000001 01 80 10 80       lo"));
    OK(ioctl(s, SIOCSIFADDR, &more));
    OK(sendto(s, "x", 1, 0, (void *)&own, sizeof own));
    // Links of less than IPv6 needs.
    struct ifreq r = {.ifr_name = "lo", .ifr_mtu = 1279};
    OK(ioctl(s, SIOCSIFMTU, &r));
    EQ(get("/proc/net/if_inet6")[0], 0);
}

// Links, addresses and routes by ioctl, as ifconfig(8) and route(8) do it.
struct six_addr {
    struct in6_addr addr;
    unsigned prefix;
    int index;
};
static int set_int(int s, int cmd, const char *name, int value) {
    struct ifreq r = {.ifr_mtu = value};
    return net_io(s, cmd, name, &r);
}
static const char *addr_of(int s, int cmd, const char *name) {
    static char text[20];
    struct ifreq r = {0};
    OK(net_io(s, cmd, name, &r));
    struct sockaddr_in a;
    memcpy(&a, &r.ifr_addr, sizeof a);
    EQ(a.sin_family, AF_INET);
    return inet_ntop(AF_INET, &a.sin_addr, text, sizeof text);
}
static int say(int s, const char *ip) {
    struct sockaddr_in a = at(ip, 9);
    return sendto(s, "x", 1, 0, (void *)&a, sizeof a);
}
TEST(link_by_ioctl) {
    own_net();
    int s = OK(socket(AF_INET, SOCK_DGRAM, 0)), u = OK(socket(AF_UNIX, SOCK_DGRAM, 0)), p = OK(socket(AF_PACKET, SOCK_RAW, 0));
    EQ(flags_of(s, "lo"), IFF_LOOPBACK);
    ERR(say(s, "127.0.0.1"), ENETUNREACH);
    struct ifreq r;
    ERR(net_io(s, SIOCGIFADDR, "lo", &r), EADDRNOTAVAIL);
    ERR(net_io(u, SIOCGIFADDR, "lo", &r), ENOTTY);
    OK(set_flags(s, "lo", IFF_UP));
    EQ(flags_of(s, "lo"), IFF_UP | IFF_LOOPBACK | IFF_RUNNING);
    STREQ(addr_of(s, SIOCGIFADDR, "lo"), "127.0.0.1");
    STREQ(addr_of(s, SIOCGIFNETMASK, "lo"), "255.0.0.0");
    STREQ(addr_of(p, SIOCGIFDSTADDR, "lo"), "127.0.0.1");
    STREQ(addr_of(s, SIOCGIFBRDADDR, "lo"), "0.0.0.0");
    OK(say(s, "127.0.0.1"));
    CK(strstr(get("/proc/net/if_inet6"), "00000000000000000000000000000001 01 80 10 80       lo"));
    OK(set_int(u, SIOCSIFMTU, "lo", 1300));
    OK(net_io(s, SIOCGIFMTU, "lo", &r));
    EQ(r.ifr_mtu, 1300);
    struct sockaddr_in me = at("127.0.0.1", 9);
    OK(connect(s, (void *)&me, sizeof me));
    int mtu;
    socklen_t len = sizeof mtu;
    OK(getsockopt(s, IPPROTO_IP, IP_MTU, &mtu, &len));
    EQ(mtu, 1300);
    ERR(set_int(s, SIOCSIFMTU, "lo", -1), EINVAL);
    ERR(set_int(s, SIOCSIFMTU, "lo0", 1300), ENODEV);
    OK(set_int(s, SIOCSIFMTU, "lo", 65536));
    ERR(set_int(s, SIOCSIFMETRIC, "lo", 1), EOPNOTSUPP);
    // As any other, down by a socket of another family.
    OK(set_flags(u, "lo", 0));
    EQ(flags_of(s, "lo"), IFF_LOOPBACK);
    struct sockaddr_ll ll = {.sll_family = AF_PACKET, .sll_ifindex = 1, .sll_protocol = htons(ETH_P_IP)};
    char frame[60] = "";
    ERR(sendto(p, frame, sizeof frame, 0, (void *)&ll, sizeof ll), ENETDOWN);
    EQ(get("/proc/net/if_inet6")[0], 0);
    // IPv4's addresses stay.
    STREQ(addr_of(s, SIOCGIFADDR, "lo"), "127.0.0.1");
    int b = OK(socket(AF_INET, SOCK_STREAM, 0)), six = OK(socket(AF_INET6, SOCK_DGRAM, 0));
    OK(bind(b, (void *)&me, sizeof me));
    struct sockaddr_in6 own = {.sin6_family = AF_INET6, .sin6_port = htons(9), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    ERR(sendto(six, "x", 1, 0, (void *)&own, sizeof own), EADDRNOTAVAIL);
    ERR(bind(OK(socket(AF_INET6, SOCK_DGRAM, 0)), (void *)&own, sizeof own), EADDRNOTAVAIL);
    OK(set_flags(s, "lo", IFF_UP));
    OK(listen(b, 1));
    OK(connect(OK(socket(AF_INET, SOCK_STREAM, 0)), (void *)&me, sizeof me));
    OK(sendto(six, "x", 1, 0, (void *)&own, sizeof own));
}

TEST(links_need_power) {
    own_net();
    int s = OK(socket(AF_INET, SOCK_DGRAM, 0)), six = OK(socket(AF_INET6, SOCK_DGRAM, 0));
    OK(unshare(CLONE_NEWUSER));
    struct ifreq r = {0};
    for (unsigned i = 0; i < 2; i++) {
        const char *name = i ? "nothing" : "lo";
        ERR(set_flags(s, name, IFF_UP), EPERM);
        ERR(set_int(s, SIOCSIFMTU, name, 1300), EPERM);
        ERR(set_int(s, SIOCSIFTXQLEN, name, 10), EPERM);
        ERR(net_io(s, SIOCSIFHWADDR, name, &r), EPERM);
        ERR(net_io(s, SIOCSIFNAME, name, &r), EPERM);
        ERR(set_addr(s, SIOCSIFADDR, name, "10.0.0.1"), EPERM);
        ERR(set_addr(s, SIOCSIFNETMASK, name, "255.0.0.0"), EPERM);
        ERR(set_addr(s, SIOCSIFBRDADDR, name, "10.255.255.255"), EPERM);
    }
    struct rtentry rt = {0};
    ERR(ioctl(s, SIOCADDRT, &rt), EPERM);
    ERR(ioctl(s, SIOCDELRT, &rt), EPERM);
    struct six_addr a = {.prefix = 64, .index = 1};
    ERR(ioctl(six, SIOCSIFADDR, &a), EPERM);
    OK(net_io(s, SIOCGIFFLAGS, "lo", &r));
}

TEST(addresses_by_ioctl) {
    own_net();
    need_nic();
    int s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    struct ifreq r;
    ERR(set_addr(s, SIOCSIFNETMASK, "nic0", "255.255.0.0"), EADDRNOTAVAIL);
    ERR(set_addr(s, SIOCSIFADDR, "nic0", "224.0.0.1"), EINVAL);
    OK(set_addr(s, SIOCSIFADDR, "nic0", "10.1.2.3"));
    STREQ(addr_of(s, SIOCGIFADDR, "nic0"), "10.1.2.3");
    STREQ(addr_of(s, SIOCGIFNETMASK, "nic0"), "255.0.0.0");
    STREQ(addr_of(s, SIOCGIFBRDADDR, "nic0"), "10.255.255.255");
    ERR(set_addr(s, SIOCSIFNETMASK, "nic0", "255.0.255.0"), EINVAL);
    OK(set_addr(s, SIOCSIFNETMASK, "nic0", "255.255.255.0"));
    STREQ(addr_of(s, SIOCGIFNETMASK, "nic0"), "255.255.255.0");
    STREQ(addr_of(s, SIOCGIFBRDADDR, "nic0"), "10.1.2.255");
    OK(set_addr(s, SIOCSIFBRDADDR, "nic0", "10.1.2.127"));
    OK(set_addr(s, SIOCSIFNETMASK, "nic0", "255.255.255.128"));
    STREQ(addr_of(s, SIOCGIFBRDADDR, "nic0"), "10.1.2.127");
    OK(set_flags(s, "nic0", flags_of(s, "nic0") | IFF_UP));
    CK(strstr(get("/proc/net/route"), "nic0\t0002010A\t00000000\t0001\t0\t0\t0\t80FFFFFF"));
    // Aliases.
    OK(set_addr(s, SIOCSIFADDR, "nic0:1", "192.168.7.8"));
    STREQ(addr_of(s, SIOCGIFADDR, "nic0:1"), "192.168.7.8");
    STREQ(addr_of(s, SIOCGIFNETMASK, "nic0:1"), "255.255.255.0");
    STREQ(addr_of(s, SIOCGIFADDR, "nic0"), "10.1.2.3");
    ERR(net_io(s, SIOCGIFADDR, "nic0:2", &r), EADDRNOTAVAIL);
    ERR(set_addr(s, SIOCSIFADDR, "nic0:2", "192.168.7.8"), EEXIST);
    struct ifreq all[8];
    struct ifconf c = {.ifc_len = sizeof all, .ifc_req = all};
    OK(ioctl(s, SIOCGIFCONF, &c));
    EQ(c.ifc_len, 2 * sizeof *all);
    STREQ(all[0].ifr_name, "nic0");
    STREQ(all[1].ifr_name, "nic0:1");
    ERR(set_flags(s, "nic0:3", 0), EADDRNOTAVAIL);
    OK(set_flags(s, "nic0:1", 0));
    CK(flags_of(s, "nic0") & IFF_UP);
    ERR(net_io(s, SIOCGIFADDR, "nic0:1", &r), EADDRNOTAVAIL);
    int b = OK(socket(AF_INET, SOCK_DGRAM, 0));
    struct sockaddr_in gone = at("192.168.7.8", 0), here = at("10.1.2.3", 0);
    ERR(bind(b, (void *)&gone, sizeof gone), EADDRNOTAVAIL);
    OK(bind(b, (void *)&here, sizeof here));
    OK(set_addr(s, SIOCSIFADDR, "nic0", "0.0.0.0"));
    ERR(net_io(s, SIOCGIFADDR, "nic0", &r), EADDRNOTAVAIL);
    CK(!strstr(get("/proc/net/route"), "nic0"));
    // IPv6.
    int six = OK(socket(AF_INET6, SOCK_DGRAM, 0));
    struct six_addr a = {.prefix = 64, .index = OK(if_nametoindex("nic0"))};
    inet_pton(AF_INET6, "fd00::5", &a.addr);
    OK(ioctl(six, SIOCSIFADDR, &a));
    ERR(ioctl(six, SIOCSIFADDR, &a), EEXIST);
    CK(strstr(get("/proc/net/if_inet6"), "fd000000000000000000000000000005"));
    OK(ioctl(six, SIOCDIFADDR, &a));
    ERR(ioctl(six, SIOCDIFADDR, &a), EADDRNOTAVAIL);
    CK(!strstr(get("/proc/net/if_inet6"), "fd000000000000000000000000000005"));
    a.prefix = 129;
    ERR(ioctl(six, SIOCSIFADDR, &a), EINVAL);
}

static int route(int s, int cmd, const char *dst, const char *mask, const char *gateway, const char *dev, int flags) {
    struct rtentry rt = {.rt_flags = flags, .rt_dev = (char *)dev};
    struct sockaddr_in d = at(dst, 0), m = at(mask, 0), g = at(gateway, 0);
    memcpy(&rt.rt_dst, &d, sizeof d);
    memcpy(&rt.rt_genmask, &m, sizeof m);
    memcpy(&rt.rt_gateway, &g, sizeof g);
    return ioctl(s, cmd, &rt);
}

TEST(routes_by_ioctl) {
    own_net();
    need_nic();
    int s = OK(socket(AF_INET, SOCK_DGRAM, 0));
    OK(set_addr(s, SIOCSIFADDR, "nic0", "10.1.2.3"));
    OK(set_addr(s, SIOCSIFNETMASK, "nic0", "255.255.255.0"));
    ERR(route(s, SIOCADDRT, "10.9.0.0", "255.255.0.0", "0.0.0.0", "nic0", RTF_UP), ENETDOWN);
    OK(set_flags(s, "nic0", flags_of(s, "nic0") | IFF_UP));
    ERR(say(s, "10.9.0.1"), ENETUNREACH);
    OK(route(s, SIOCADDRT, "10.9.0.0", "255.255.0.0", "0.0.0.0", "nic0", RTF_UP));
    OK(say(s, "10.9.0.1"));
    ERR(route(s, SIOCADDRT, "10.9.0.0", "255.255.0.0", "0.0.0.0", "nic0", RTF_UP), EEXIST);
    ERR(route(s, SIOCADDRT, "10.9.0.1", "255.255.0.0", "0.0.0.0", "nic0", RTF_UP), EINVAL);
    ERR(route(s, SIOCADDRT, "10.8.0.0", "255.0.255.0", "0.0.0.0", "nic0", RTF_UP), EINVAL);
    ERR(route(s, SIOCADDRT, "10.8.0.0", "255.255.0.0", "0.0.0.0", "nic1", RTF_UP), ENODEV);
    ERR(route(s, SIOCADDRT, "0.0.0.0", "0.0.0.0", "10.7.0.1", NULL, RTF_UP | RTF_GATEWAY), ENETUNREACH);
    ERR(route(s, SIOCADDRT, "0.0.0.0", "0.0.0.0", "0.0.0.0", NULL, RTF_UP | RTF_GATEWAY), EINVAL);
    OK(route(s, SIOCADDRT, "0.0.0.0", "0.0.0.0", "10.1.2.9", NULL, RTF_UP | RTF_GATEWAY));
    CK(strstr(get("/proc/net/route"), "nic0\t00000000\t0902010A\t0003\t0\t0\t0\t00000000"));
    OK(say(s, "8.8.8.8"));
    OK(route(s, SIOCADDRT, "8.8.8.8", "0.0.0.0", "0.0.0.0", NULL, RTF_UP | RTF_HOST | RTF_REJECT));
    int f = OK(socket(AF_INET, SOCK_DGRAM, 0));
    ERR(say(f, "8.8.8.8"), EHOSTUNREACH);
    OK(route(s, SIOCDELRT, "8.8.8.8", "0.0.0.0", "0.0.0.0", NULL, RTF_UP | RTF_HOST | RTF_REJECT));
    OK(say(f, "8.8.8.8"));
    OK(route(s, SIOCDELRT, "0.0.0.0", "0.0.0.0", "0.0.0.0", NULL, RTF_UP));
    ERR(route(s, SIOCDELRT, "0.0.0.0", "0.0.0.0", "0.0.0.0", NULL, RTF_UP), ESRCH);
    ERR(say(f, "8.8.8.8"), ENETUNREACH);
    // With the link, its routes go, and those of its addresses alone come back.
    OK(set_flags(s, "nic0", 0));
    ERR(say(f, "10.1.2.9"), ENETUNREACH);
    struct sockaddr_in here = at("10.1.2.3", 0);
    OK(bind(OK(socket(AF_INET, SOCK_DGRAM, 0)), (void *)&here, sizeof here));
    OK(set_flags(s, "nic0", IFF_UP));
    OK(say(f, "10.1.2.9"));
    ERR(say(f, "10.9.0.1"), ENETUNREACH);
}

// The interfaces that a sysfs shows are those of the namespace that it was mounted from.
TEST(sysfs) {
    if (!exists("/sys/class/net/lo/mtu")) SKIP("no /sys");
    own_net();
    OK(unshare(CLONE_NEWNS));
    OK(mkdir("sys", 0755));
    if (mount("sysfs", "sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) {
        if (errno == EPERM) SKIP("/sys is not all visible here");
        FAIL("mount: %s", strerror(errno));
    }
    EQ(entries("sys/class/net", "lo"), 1);
    EQ(entries("sys/class/net", "nic0"), 0);
    need_nic();
    EQ(entries("sys/class/net", "nic0"), 1);
    EQ(entries("sys/devices/virtual/net", "nic0"), 1);
    EQ(entries("/sys/class/net", "nic0"), 0);
    ERR(open("/sys/class/net/nic0/mtu", O_RDONLY), ENOENT);
    int s = OK(socket(AF_INET, SOCK_DGRAM, 0)), fd = OK(open("sys/class/net/nic0/mtu", O_RDONLY));
    STREQ(has("sys/class/net/nic0/mtu"), "1500");
    OK(set_int(s, SIOCSIFMTU, "nic0", 1400));
    STREQ(has("sys/class/net/nic0/mtu"), "1400");
    char b[20];
    snprintf(b, sizeof b, "%d", if_nametoindex("nic0"));
    STREQ(has("sys/class/net/nic0/ifindex"), b);
    STREQ(has("sys/class/net/nic0/type"), "1");
    STREQ(has("sys/class/net/lo/type"), "772");
    STREQ(has("sys/class/net/lo/flags"), "0x8");
    up("lo");
    STREQ(has("sys/class/net/lo/flags"), "0x9");
    STREQ(has("sys/class/net/lo/carrier"), "1");
    OK(say(s, "127.0.0.1"));
    struct stat link, dir;
    OK(stat("sys/class/net/nic0", &link));
    OK(stat("sys/devices/virtual/net/nic0", &dir));
    EQ(link.st_ino, dir.st_ino);
    STREQ(has("sys/class/net/nic0/subsystem/lo/ifindex"), "1");
    // Whoever looks.
    WAIT0(SPAWN({
        OK(unshare(CLONE_NEWNET));
        EQ(entries("sys/class/net", "nic0"), 1);
    }));
    struct ask a = about(RTM_DELLINK, 0, OK(if_nametoindex("nic0")));
    EQ(asked(&a), 0);
    EQ(entries("sys/class/net", "nic0"), 0);
    ERR(pread(fd, b, sizeof b, 0), ENODEV);
    ERR(open("sys/class/net/nic0/mtu", O_RDONLY), ENOENT);
}

// A packet that comes by `lo`, which takes what is sent on it, and is for somebody behind another link; what leaves there.
static void comes(int s, int v4, const void *packet, int len) {
    struct sockaddr_ll lo = {.sll_family = AF_PACKET, .sll_ifindex = 1, .sll_halen = 6, .sll_protocol = htons(v4 ? ETH_P_IP : ETH_P_IPV6)};
    EQ(sendto(s, packet, len, 0, (void *)&lo, sizeof lo), len);
}
static void four(unsigned char b[28], const char *from, const char *to, int ttl) {
    unsigned char head[28] = {0x45, 0, 0, 28, 0, 9, 0, 0, ttl, IPPROTO_UDP, [20] = 0, 5, 0, 6, 0, 8};
    inet_pton(AF_INET, from, head + 12), inet_pton(AF_INET, to, head + 16);
    unsigned sum = 0;
    for (int i = 0; i < 20; i += 2) sum += head[i] << 8 | head[i + 1];
    sum = (sum & 0xffff) + (sum >> 16), sum = ~((sum & 0xffff) + (sum >> 16));
    head[10] = sum >> 8, head[11] = sum;
    memcpy(b, head, 28);
}
// The next packet that leaves for an address, if one does.
static int leaves(int tap, unsigned char *b, int size, int family, const char *to, int wait) {
    unsigned char dst[16];
    EQ(inet_pton(family, to, dst), 1);
    int at = family == AF_INET ? 16 : 24, len = family == AF_INET ? 4 : 16;
    for (struct pollfd p = {tap, POLLIN, 0}; poll(&p, 1, wait) == 1;) {
        int n = OK(recv(tap, b, size, 0));
        if (n >= at + len && b[0] >> 4 == (family == AF_INET ? 4 : 6) && !memcmp(b + at, dst, len)) return n;
    }
    return -1;
}
TEST(forwarding) {
    need_writable();
    own_net();
    need_nic();
    int s = OK(socket(AF_INET, SOCK_DGRAM, 0)), in = OK(socket(AF_PACKET, SOCK_DGRAM, 0)), six = OK(socket(AF_INET6, SOCK_DGRAM, 0));
    int index = OK(if_nametoindex("nic0")), tap = OK(socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_ALL)));
    put(SYS "ipv4/conf/all/rp_filter", "0");
    put(SYS "ipv4/conf/lo/rp_filter", "0");
    OK(set_flags(s, "lo", IFF_UP));
    OK(set_addr(s, SIOCSIFADDR, "nic0", "10.1.2.3"));
    OK(set_flags(s, "nic0", IFF_UP | IFF_NOARP));
    struct six_addr a = {.prefix = 64, .index = index};
    EQ(inet_pton(AF_INET6, "fd00:1::3", &a.addr), 1);
    OK(ioctl(six, SIOCSIFADDR, &a));
    struct sockaddr_ll where = {.sll_family = AF_PACKET, .sll_ifindex = index, .sll_protocol = htons(ETH_P_ALL)};
    OK(bind(tap, (void *)&where, sizeof where));
    unsigned char b[28], got[2000], want[28];
    four(b, "10.9.9.9", "10.1.2.77", 5);
    comes(in, 1, b, sizeof b);
    EQ(leaves(tap, got, sizeof got, AF_INET, "10.1.2.77", 300), -1);
    // Only when it is asked for; one hop less is left.
    put(SYS "ipv4/ip_forward", "1");
    comes(in, 1, b, sizeof b);
    EQ(leaves(tap, got, sizeof got, AF_INET, "10.1.2.77", 5000), 28);
    four(want, "10.9.9.9", "10.1.2.77", 4);
    EQ(memcmp(got, want, 28), 0);
    // The last hop is somebody else's; and nobody knows the way.
    for (int i = 0; i < 2; i++) {
        four(b, "10.9.9.9", i ? "172.16.0.1" : "10.1.2.77", i ? 5 : 1);
        comes(in, 1, b, sizeof b);
        EQ(leaves(tap, got, sizeof got, AF_INET, "10.9.9.9", 5000), 56);
        EQ(got[9], IPPROTO_ICMP);
        EQ(memcmp(got + 12, "\n\1\2\3", 4), 0);
        EQ(got[20], i ? 3 : 11);
        EQ(got[21], 0);
        EQ(memcmp(got + 28, b, 28), 0);
    }
    // From here, from nowhere.
    const char *odd[] = {"10.1.2.3", "0.0.0.0", "224.0.0.1", "255.255.255.255"};
    for (int i = 0; i < 4; i++) {
        four(b, odd[i], "10.1.2.77", 5);
        comes(in, 1, b, sizeof b);
    }
    EQ(leaves(tap, got, sizeof got, AF_INET, "10.1.2.77", 300), -1);
    unsigned char v6[48] = {0x60, 0, 0, 0, 0, 8, IPPROTO_UDP, 5, [40] = 0, 5, 0, 6, 0, 8, 1, 2};
    inet_pton(AF_INET6, "fd00:1::9", v6 + 8), inet_pton(AF_INET6, "fd00:1::77", v6 + 24);
    comes(in, 0, v6, sizeof v6);
    EQ(leaves(tap, got, sizeof got, AF_INET6, "fd00:1::77", 300), -1);
    put(SYS "ipv6/conf/all/forwarding", "1");
    comes(in, 0, v6, sizeof v6);
    EQ(leaves(tap, got, sizeof got, AF_INET6, "fd00:1::77", 5000), 48);
    EQ(got[7], 4);
    v6[7] = 4;
    EQ(memcmp(got, v6, 48), 0);
}
