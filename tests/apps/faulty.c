// A faulty wire: hands packets from one interface to another and back, loses some, delays all, reorders and doubles some. For machines whose kernel
// has no netem.   faulty IF1 IF2 LOSS% DELAY_us REORDER% SEED [DUPLICATE%] [whole]
// A packet that stands for several on the wire (segmentation offload) is cut into its segments unless `whole` is given; then it is
// lost as one, as netem does it.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEAD (int)sizeof(struct virtio_net_hdr)
#define MOST 65536

struct packet {
    uint64_t at;
    int to, len;
    struct packet *next;
    unsigned char data[];
};

static struct packet *first, **tail = &first;
static double loss, reorder, twice;
static uint64_t delay, seed;
static int whole, s[2];
static unsigned long passed, dropped;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int chance(double percent) {
    seed ^= seed >> 12, seed ^= seed << 25, seed ^= seed >> 27;
    return (seed * 0x2545f4914f6cdd1dull >> 11) / 9007199254740992.0 * 100 < percent;
}

static void queue(int to, const void *head, const void *data, int len, const void *more, int more_len) {
    if (chance(loss)) {
        dropped++;
        return;
    }
    if (twice && chance(twice)) {
        double saved = loss, again = twice;
        loss = twice = 0;
        queue(to, head, data, len, more, more_len);
        loss = saved, twice = again;
    }
    passed++;
    struct packet *p = malloc(sizeof *p + HEAD + len + more_len);
    if (!p) return;
    *p = (struct packet){now() + delay, to, HEAD + len + more_len, NULL};
    memcpy(p->data, head, HEAD);
    memcpy(p->data + HEAD, data, len);
    memcpy(p->data + HEAD + len, more, more_len);
    // One that is reordered is not delayed.
    if (chance(reorder)) {
        p->at = 0, p->next = first, first = p;
        if (tail == &first) tail = &p->next;
    } else {
        *tail = p, tail = &p->next;
    }
}

// Cuts a TCP/IPv4 packet into segments, whose checksums are left to whoever looks at them.
static void cut(int to, unsigned char *b, int len) {
    struct virtio_net_hdr *v = (void *)b, part = *v;
    unsigned char *eth = b + HEAD;
    struct iphdr *ip = (void *)(eth + 14);
    struct tcphdr *tcp = (void *)((char *)ip + ip->ihl * 4);
    int headers = 14 + ip->ihl * 4 + tcp->doff * 4, left = len - HEAD - headers, at = 0, size = v->gso_size;
    uint32_t seq = ntohl(tcp->seq);
    int push = tcp->psh, fin = tcp->fin;
    part.gso_type = VIRTIO_NET_HDR_GSO_NONE, part.gso_size = 0, part.hdr_len = headers, part.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    part.csum_start = 14 + ip->ihl * 4, part.csum_offset = 16;
    for (; left > 0; left -= size, at += size) {
        int n = left < size ? left : size;
        tcp->seq = htonl(seq + at), tcp->psh = push && n == left, tcp->fin = fin && n == left;
        ip->tot_len = htons(headers - 14 + n), ip->check = 0;
        uint32_t sum = 0;
        for (int i = 0; i < ip->ihl * 2; i++) sum += ((uint16_t *)ip)[i];
        sum = (sum & 0xffff) + (sum >> 16), ip->check = ~(sum + (sum >> 16));
        // The pseudo header's sum, as NEEDS_CSUM has it.
        sum = (ip->saddr & 0xffff) + (ip->saddr >> 16) + (ip->daddr & 0xffff) + (ip->daddr >> 16) + htons(6) +
              htons(headers - 14 - ip->ihl * 4 + n);
        while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
        tcp->check = sum;
        queue(to, &part, eth, headers, eth + headers + at, n);
    }
}

static int open_one(const char *name) {
    int fd = socket(AF_PACKET, SOCK_RAW, 0), on = 1, big = 64 << 20;
    struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = if_nametoindex(name)};
    setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on);
    setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big);
    if (fd < 0 || bind(fd, (void *)&a, sizeof a)) perror(name), exit(1);
    return fd;
}

static void report(int sig) {
    unsigned missed = 0;
    for (int i = 0; i < 2; i++) {
        struct tpacket_stats t = {0};
        socklen_t len = sizeof t;
        getsockopt(s[i], SOL_PACKET, PACKET_STATISTICS, &t, &len);
        missed += t.tp_drops;
    }
    fprintf(stderr, "%lu passed, %lu lost, %u missed\n", passed, dropped, missed);
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc < 7) return 2;
    loss = atof(argv[3]), delay = atof(argv[4]) * 1000, reorder = atof(argv[5]), seed = atoll(argv[6]) * 2 + 1;
    for (int i = 7; i < argc; i++) {
        if (!strcmp(argv[i], "whole")) whole = 1;
        else twice = atof(argv[i]);
    }
    signal(SIGTERM, report);
    s[0] = open_one(argv[1]), s[1] = open_one(argv[2]);
    static unsigned char b[HEAD + MOST + 64];
    for (;;) {
        struct pollfd p[2] = {{s[0], POLLIN, 0}, {s[1], POLLIN, 0}};
        uint64_t t = now(), left = first && first->at > t ? first->at - t : 0;
        struct timespec wait = {left / 1000000000, left % 1000000000};
        ppoll(p, 2, first ? &wait : NULL, NULL);
        for (int i = 0; i < 2; i++) {
            for (int k = 0; k < 64 && p[i].revents; k++) {
                int n = recv(s[i], b, sizeof b, MSG_DONTWAIT);
                if (n < HEAD + 14) break;
                struct virtio_net_hdr *v = (void *)b;
                if (!whole && (v->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == VIRTIO_NET_HDR_GSO_TCPV4) cut(!i, b, n);
                else queue(!i, b, b + HEAD, n - HEAD, b, 0);
            }
        }
        for (t = now(); first && first->at <= t;) {
            struct packet *one = first;
            if (send(s[one->to], one->data, one->len, 0) < 0 && errno != ENOBUFS) perror("send");
            first = one->next;
            if (!first) tail = &first;
            free(one);
        }
    }
}
