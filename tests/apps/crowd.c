// Several threads write to one connection at once, from both ends; each byte says whose it is and which.
//   crowd serve PORT            waits for one connection
//   crowd ask ADDRESS PORT MIB  each thread at each end writes so much
// A call's bytes stay together, or are cut where others' come in between: each thread's own are in order all the same.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define WRITERS 4
#define MOST (1 << 18)

static void fail(const char *what) {
    printf("%s: %s\n", what, strerror(errno));
    exit(1);
}

static int fd;
static uint64_t each;

// The next bytes of a writer: its number in the two high bits, and a count in the others.
static void fill(unsigned char *b, size_t n, int who, uint64_t from) {
    for (size_t i = 0; i < n; i++) b[i] = who << 6 | ((from + i) & 63);
}

static void *writer(void *arg) {
    int who = (intptr_t)arg;
    unsigned char *b = malloc(MOST);
    uint64_t seed = 88172645463325252ull + who;
    for (uint64_t done = 0; done < each;) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        // Short and long ones.
        size_t n = seed >> 40 & 1 ? 1 + (seed >> 8) % MOST : 1 + (seed >> 8) % 3000;
        if (n > each - done) n = each - done;
        fill(b, n, who, done);
        ssize_t r;
        if (seed >> 41 & 1) {
            struct iovec v[2] = {{b, n / 3}, {b + n / 3, n - n / 3}};
            r = sendmsg(fd, &(struct msghdr){.msg_iov = v, .msg_iovlen = 2}, MSG_NOSIGNAL);
        } else {
            r = send(fd, b, n, MSG_NOSIGNAL);
        }
        if (r <= 0) fail("send");
        done += r;
    }
    free(b);
    return NULL;
}

static void check(void) {
    unsigned char *b = malloc(MOST);
    uint64_t got[WRITERS] = {0}, left = each * WRITERS;
    while (left) {
        ssize_t r = recv(fd, b, MOST, 0);
        if (r <= 0) fail("recv");
        for (ssize_t i = 0; i < r; i++) {
            int who = b[i] >> 6;
            if ((b[i] & 63) != (got[who]++ & 63)) {
                printf("damaged at byte %llu of writer %d\n", (unsigned long long)got[who], who);
                exit(1);
            }
        }
        left -= r;
    }
    for (int i = 0; i < WRITERS; i++)
        if (got[i] != each) printf("writer %d: %llu bytes\n", i, (unsigned long long)got[i]), exit(1);
    free(b);
}

int main(int argc, char **argv) {
    int s = socket(AF_INET, SOCK_STREAM, 0), on = 1, serves = argc == 3 && !strcmp(argv[1], "serve");
    struct sockaddr_in a = {.sin_family = AF_INET};
    pthread_t t[WRITERS];
    char end;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (serves) {
        a.sin_port = htons(atoi(argv[2]));
        setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind(s, (void *)&a, sizeof a) || listen(s, 1)) fail("listen");
        if ((fd = accept(s, NULL, NULL)) < 0) fail("accept");
        if (recv(fd, &each, 8, MSG_WAITALL) != 8) fail("how much");
    } else {
        if (argc != 5) return 2;
        inet_aton(argv[2], &a.sin_addr), a.sin_port = htons(atoi(argv[3]));
        each = strtoull(argv[4], NULL, 10) << 20, fd = s;
        // The server may be about to start.
        for (int tries = 0; connect(fd, (void *)&a, sizeof a); usleep(20000))
            if (errno != ECONNREFUSED || tries++ > 200) fail("connect");
        if (send(fd, &each, 8, 0) != 8) fail("how much");
    }
    for (intptr_t i = 0; i < WRITERS; i++)
        if (pthread_create(&t[i], NULL, writer, (void *)i)) fail("pthread_create");
    check();
    for (int i = 0; i < WRITERS; i++) pthread_join(t[i], NULL);
    shutdown(fd, SHUT_WR);
    if (recv(fd, &end, 1, 0) != 0) fail("end");
    if (!serves) printf("in order, %s MiB of each\n", argv[4]);
    return 0;
}
