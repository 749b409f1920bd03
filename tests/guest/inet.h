// Sockets of IPv4 on the loopback interface, for the guest programs.
#include "t.h"
#include <arpa/inet.h>
#include <netinet/in.h>

static inline struct sockaddr_in lo(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return a;
}
static inline int port_of(int fd) {
    struct sockaddr_in a;
    socklen_t n = sizeof a;
    OK(getsockname(fd, (void *)&a, &n));
    return ntohs(a.sin_port);
}
static inline int bound(int kind) {
    int fd = OK(socket(AF_INET, kind, 0));
    struct sockaddr_in a = lo(0);
    OK(bind(fd, (void *)&a, sizeof a));
    return fd;
}
static inline int listener(int backlog) {
    int fd = bound(SOCK_STREAM | SOCK_CLOEXEC);
    OK(listen(fd, backlog));
    return fd;
}
static inline int dial(int port) {
    int fd = OK(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct sockaddr_in a = lo(port);
    OK(connect(fd, (void *)&a, sizeof a));
    return fd;
}
static inline void pair(int *c, int *s) {
    int l = listener(5);
    *c = dial(port_of(l));
    *s = OK(accept(l, NULL, NULL));
    close(l);
}
