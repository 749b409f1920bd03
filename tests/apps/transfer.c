// A stream each way over one connection, each byte checked against what it must be.
//   transfer serve PORT            waits for one connection
//   transfer ask ADDRESS PORT MIB  sends so much, and is sent the same amount
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PIECE (1 << 16)

static void fail(const char *what) {
    printf("%s: %s\n", what, strerror(errno));
    exit(1);
}

// The bytes of a stream, from an xorshift generator.
static void fill(uint64_t *state, uint64_t *b) {
    for (int i = 0; i < PIECE / 8; i++) {
        *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
        b[i] = *state;
    }
}

static void put(int fd, const void *p, size_t n) {
    for (ssize_t r; n; p = (const char *)p + r, n -= r)
        if ((r = send(fd, p, n, MSG_NOSIGNAL)) <= 0) fail("send");
}
static void get(int fd, void *p, size_t n) {
    for (ssize_t r; n; p = (char *)p + r, n -= r) {
        errno = 0;
        if ((r = recv(fd, p, n, 0)) <= 0) fail("recv");
    }
}

static uint64_t out[PIECE / 8], in[PIECE / 8], want[PIECE / 8];
static void give(int fd, uint64_t seed, uint64_t pieces) {
    for (; pieces; pieces--) fill(&seed, out), put(fd, out, PIECE);
}
static void take(int fd, uint64_t seed, uint64_t pieces) {
    for (uint64_t at = 0; at < pieces; at++) {
        fill(&seed, want), get(fd, in, PIECE);
        if (memcmp(want, in, PIECE)) {
            printf("damaged in piece %llu of %llu\n", (unsigned long long)at, (unsigned long long)pieces);
            exit(1);
        }
    }
}
static double since(struct timespec *t) {
    struct timespec n;
    clock_gettime(CLOCK_MONOTONIC, &n);
    return n.tv_sec - t->tv_sec + (n.tv_nsec - t->tv_nsec) / 1e9;
}

int main(int argc, char **argv) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1, serves = argc == 3 && !strcmp(argv[1], "serve");
    struct sockaddr_in a = {.sin_family = AF_INET};
    uint64_t pieces;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (serves) {
        a.sin_port = htons(atoi(argv[2]));
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind(fd, (void *)&a, sizeof a) || listen(fd, 1)) fail("listen");
        int c = accept(fd, NULL, NULL);
        if (c < 0) fail("accept");
        get(c, &pieces, 8);
        take(c, 1, pieces), give(c, 2, pieces);
        char end;
        if (recv(c, &end, 1, 0) != 0) fail("end");
        return 0;
    }
    if (argc != 5) return 2;
    inet_aton(argv[2], &a.sin_addr), a.sin_port = htons(atoi(argv[3]));
    if (connect(fd, (void *)&a, sizeof a)) fail("connect");
    pieces = strtoull(argv[4], NULL, 10) << 4;
    struct timespec start, half;
    clock_gettime(CLOCK_MONOTONIC, &start);
    put(fd, &pieces, 8), give(fd, 1, pieces);
    double there = since(&start);
    clock_gettime(CLOCK_MONOTONIC, &half);
    take(fd, 2, pieces);
    printf("intact %s MiB each way: %.0f and %.0f Mbit/s\n", argv[4], (pieces << 19) / there / 1e6,
           (pieces << 19) / since(&half) / 1e6);
    return 0;
}
