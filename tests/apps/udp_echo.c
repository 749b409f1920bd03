// UDP echo at a rate. `serve PORT` answers whatever comes; `use ADDRESS PORT PACKETS RATE` has up to 128 packets on their way, checks
// what comes back, and says whether the rate was reached in the best of five rounds. 128 small packets fit into any socket.
// `pace ADDRESS PORT RATE MILLISECONDS LOSS` sends at a rate whatever comes back, and says whether each answer belongs to a request
// that was not answered before, and no more than LOSS in a thousand were lost; stderr has the counts.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MANY 64
#define SIZE 64
#define WINDOW 128

static struct mmsghdr m[MANY];
static struct iovec v[MANY];
static struct sockaddr_storage from[MANY];
static char data[MANY][SIZE];

static void prepare(int n, int names) {
    for (int i = 0; i < n; i++) {
        v[i] = (struct iovec){data[i], SIZE};
        m[i].msg_hdr = (struct msghdr){.msg_iov = &v[i], .msg_iovlen = 1};
        if (names) m[i].msg_hdr.msg_name = &from[i], m[i].msg_hdr.msg_namelen = sizeof from[i];
    }
}

static int fail(const char *what) {
    perror(what);
    return 1;
}

static int serve(const char *port) {
    int s = socket(AF_INET6, SOCK_DGRAM, 0);
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port))};
    if (s < 0 || bind(s, (void *)&any, sizeof any)) return fail("bind");
    for (;;) {
        prepare(MANY, 1);
        int n = recvmmsg(s, m, MANY, MSG_WAITFORONE, NULL);
        if (n < 0) return fail("recvmmsg");
        for (int i = 0; i < n; i++) v[i].iov_len = m[i].msg_len;
        for (int done = 0; done < n;) {
            int k = sendmmsg(s, m + done, n - done, 0);
            if (k < 0) return fail("sendmmsg");
            done += k;
        }
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

// One round: packets per second that came back, or less than 0.
static double once(int s, uint32_t packets, uint32_t base) {
    uint32_t sent = 0, back = 0;
    double start = now();
    while (back < packets) {
        uint32_t room = WINDOW - (sent - back), left = packets - sent;
        int n = room < left ? room : left;
        if (n > MANY) n = MANY;
        if (n) {
            prepare(n, 0);
            for (int i = 0; i < n; i++) {
                uint32_t number = base + sent + i;
                memset(data[i], number & 255, SIZE);
                memcpy(data[i], &number, 4);
            }
            int k = sendmmsg(s, m, n, 0);
            if (k < 0) return fail("sendmmsg"), -1;
            sent += k;
        }
        struct pollfd p = {s, POLLIN, 0};
        if (poll(&p, 1, 2000) <= 0) {
            printf("%u sent, %u back, then nothing\n", sent, back);
            return -1;
        }
        prepare(MANY, 0);
        n = recvmmsg(s, m, MANY, MSG_DONTWAIT, NULL);
        if (n < 0) return fail("recvmmsg"), -1;
        for (int i = 0; i < n; i++, back++) {
            // Neither a network of one wire nor loopback reorders what one thread sends.
            uint32_t number = base + back;
            if (m[i].msg_len != SIZE || memcmp(data[i], &number, 4) || data[i][SIZE - 1] != (char)number) {
                printf("packet %u is not what was sent\n", back);
                return -1;
            }
        }
    }
    return packets / (now() - start);
}

// Takes what has come; less than 0 if anything is not an answer to come.
static int gather(int s, uint32_t base, uint32_t sent, char *answered, uint32_t *back) {
    for (;;) {
        prepare(MANY, 0);
        int n = recvmmsg(s, m, MANY, MSG_DONTWAIT, NULL);
        if (n < 0) return errno == EAGAIN ? 0 : (fail("recvmmsg"), -1);
        for (int i = 0; i < n; i++, ++*back) {
            uint32_t number;
            memcpy(&number, data[i], 4);
            uint32_t at = number - base;
            if (m[i].msg_len != SIZE || at >= sent || data[i][SIZE - 1] != (char)number) return printf("an answer to nothing\n"), -1;
            if (answered[at]++) return printf("two answers to packet %u\n", at), -1;
        }
        if (n < MANY) return 0;
    }
}

static int pace(int s, uint32_t rate, uint32_t length, uint32_t loss) {
    uint32_t packets = (uint64_t)rate * length / 1000, sent = 0, back = 0, base = 1 << 20;
    char *answered = calloc(packets, 1);
    double start = now(), end = 0;
    // Who sends is late now and then; then more is sent at once, as long as a socket holds it.
    while (!end || (back < packets && now() - end < 1)) {
        uint32_t due = (now() - start) * rate;
        if (due > packets) due = packets;
        while (sent < due) {
            int n = due - sent < MANY ? due - sent : MANY;
            prepare(n, 0);
            for (int i = 0; i < n; i++) {
                uint32_t number = base + sent + i;
                memset(data[i], number & 255, SIZE);
                memcpy(data[i], &number, 4);
            }
            n = sendmmsg(s, m, n, 0);
            if (n < 0) return fail("sendmmsg");
            sent += n;
            if (gather(s, base, sent, answered, &back) < 0) return 1;
        }
        if (sent == packets && !end) end = now();
        // A millisecond is a batch.
        struct timespec rest = {0, 1000000};
        struct pollfd p = {s, POLLIN, 0};
        if (end) poll(&p, 1, 100);
        else nanosleep(&rest, NULL);
        if (gather(s, base, sent, answered, &back) < 0) return 1;
    }
    fprintf(stderr, "%u sent in %.2f s, %.0f per second; %u back, %.2f%% lost\n", sent, end - start, sent / (end - start), back,
            100.0 * (sent - back) / sent);
    if ((uint64_t)(sent - back) * 1000 > (uint64_t)sent * loss) return printf("%u of %u lost\n", sent - back, sent), 1;
    printf("%u a second for %u ms, %u in a thousand lost at most\n", rate, length, loss);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "serve")) return serve(argv[2]);
    int paced = argc == 7 && !strcmp(argv[1], "pace");
    if (argc != 6 && !paced) return 2;
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[3]))};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(argv[3]))};
    int six = inet_pton(AF_INET6, argv[2], &v6.sin6_addr) == 1;
    if (!six && inet_pton(AF_INET, argv[2], &v4.sin_addr) != 1) return 2;
    int s = socket(six ? AF_INET6 : AF_INET, SOCK_DGRAM, 0);
    if (connect(s, six ? (void *)&v6 : (void *)&v4, six ? sizeof v6 : sizeof v4)) return fail("connect");
    // Until the server is there.
    for (int i = 0; i < 300; i++) {
        char c = 0;
        struct pollfd p = {s, POLLIN, 0};
        send(s, &c, 1, 0);
        if (poll(&p, 1, 100) == 1 && recv(s, &c, 1, MSG_DONTWAIT) == 1) break;
        usleep(10000);
    }
    usleep(200000);
    for (char c; recv(s, &c, 1, MSG_DONTWAIT) >= 0 || errno == ECONNREFUSED;);
    if (paced) return pace(s, atoi(argv[4]), atoi(argv[5]), atoi(argv[6]));
    uint32_t packets = atoi(argv[4]), rate = atoi(argv[5]);
    double best = 0;
    for (int i = 0; i < 5 && best < rate; i++) {
        double r = once(s, packets, i * packets);
        if (r < 0) return 1;
        if (r > best) best = r;
    }
    fprintf(stderr, "%.0f packets per second\n", best);
    if (best < rate) printf("only %.0f packets per second\n", best);
    else printf("%u packets back, %u per second\n", packets, rate);
    return best < rate;
}
