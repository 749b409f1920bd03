// How connections are, and what rtnetlink makes of routes, in a network namespace of one's own.
#include "net.h"
#include <netinet/tcp.h>

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
