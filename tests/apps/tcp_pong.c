// One byte each way over a TCP connection: what a round trip takes.
//   tcp_pong serve PORT                       answers whoever connects, one after the other
//   tcp_pong use ADDRESS PORT MILLISECONDS    says how many round trips a second there were
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int fail(const char *what) {
    perror(what);
    return 1;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int serve(int s, struct sockaddr_in *a) {
    int on = 1;
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(s, (void *)a, sizeof *a) || listen(s, 8)) return fail("listen");
    for (;;) {
        int c = accept(s, NULL, NULL);
        if (c < 0) return fail("accept");
        setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        for (char b; recv(c, &b, 1, 0) == 1 && send(c, &b, 1, MSG_NOSIGNAL) == 1;);
        close(c);
    }
}

int main(int argc, char **argv) {
    int s = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in a = {.sin_family = AF_INET};
    if (argc == 3 && !strcmp(argv[1], "serve")) return a.sin_port = htons(atoi(argv[2])), serve(s, &a);
    if (argc != 5 || !inet_aton(argv[2], &a.sin_addr)) return 2;
    a.sin_port = htons(atoi(argv[3]));
    // Until the server is there.
    for (int i = 0; connect(s, (void *)&a, sizeof a); i++) {
        if (i == 500) return fail("connect");
        close(s), s = socket(AF_INET, SOCK_STREAM, 0);
        usleep(10000);
    }
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    long trips = 0;
    double start = now(), end = start + atoi(argv[4]) / 1000.0, at;
    do {
        char b = 1;
        if (send(s, &b, 1, 0) != 1 || recv(s, &b, 1, 0) != 1) return fail("round trip");
        trips++;
    } while ((at = now()) < end);
    printf("%.0f\n", trips / (at - start));
    return 0;
}
