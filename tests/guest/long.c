// Calls that move much: they stay in one piece where Linux keeps them so, end when they must, and leave others their turn.
#include "t.h"
#include <sys/random.h>
#include <sys/sendfile.h>

enum { MB = 1 << 20 };
static char *block(size_t n, int c) {
    char *b = MAPOK(mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (c) memset(b, c, n);
    return b;
}
// A file of numbers: each word holds its own index.
static int numbers(size_t n, uint32_t **words) {
    // A file with a name: Linux does not guard the position of a memfd.
    int f = (int)OK(open("numbers", O_RDWR | O_CREAT | O_TRUNC, 0600));
    OK(ftruncate(f, (off_t)n));
    uint32_t *w = MAPOK(mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0));
    for (size_t i = 0; i < n / 4; i++) w[i] = (uint32_t)i;
    if (words) *words = w;
    return f;
}
static void uniform(const char *b, size_t n) {
    for (size_t i = 1; i < n; i++)
        if (b[i] != b[0]) FAIL("byte %zu is %c, the first %c", i, b[i], b[0]);
}
static void all_end(pid_t *c, int n) {
    for (int i = 0; i < n; i++) {
        int st;
        OK(waitpid(c[i], &st, 0));
        EQ(st, 0);
    }
}
// The longest of many small calls, in ms, over a second and a half.
static double worst_call(int f, int *calls) {
    struct stat s;
    double worst = 0;
    *calls = 0;
    for (int64_t end = now_ns() + 1500000000; now_ns() < end; ++*calls) {
        int64_t from = now_ns();
        getppid();
        if (f >= 0) fstat(f, &s);
        double t = (double)(now_ns() - from) / 1e6;
        if (t > worst) worst = t;
        usleep(1000);
    }
    return worst;
}
// Children that do something for ever, and what a bystander notices of it.
#define BESIDE(n, f, ...)                                                        \
    do {                                                                         \
        pid_t kids[n];                                                           \
        for (int i = 0; i < (n); i++) kids[i] = SPAWN(for (;;) { __VA_ARGS__; }); \
        ms(100);                                                                 \
        int calls;                                                               \
        double worst;                                                            \
        /* A machine that is busy with other things is so for a while. */        \
        for (int i = 0; i < 6; i++)                                              \
            if ((worst = worst_call(f, &calls)) <= 700 && calls >= 20) break;    \
        for (int i = 0; i < (n); i++) kill(kids[i], SIGKILL);                    \
        for (int i = 0; i < (n); i++) waitpid(kids[i], NULL, 0);                 \
        dprintf(2, "%d calls, the longest %.1f ms\n", calls, worst);             \
        if (worst > 700 || calls < 20) FAIL("%d calls, the longest %.1f ms", calls, worst); \
    } while (0)

TEST(others_go_on_while_many_write) {
    int f = (int)OK(memfd_create("f", 0));
    char *b = block(128 * MB, 0);
    BESIDE(20, f, if (pwrite(f, b, 128 * MB, 0) < 0) _exit(1));
}
TEST(others_go_on_while_many_read) {
    int f = (int)OK(memfd_create("f", 0)), z = (int)OK(open("/dev/zero", O_RDONLY));
    OK(ftruncate(f, 128 * MB));
    char *b = block(16 * MB, 0);
    BESIDE(20, f, pread(f, b, 16 * MB, 0); read(z, b, 16 * MB); getrandom(b, 16 * MB, 0));
}
TEST(others_go_on_while_many_copy) {
    int f = (int)OK(memfd_create("f", 0)), g = (int)OK(memfd_create("g", 0));
    OK(ftruncate(f, 64 * MB));
    char *b = block(16 * MB, 0);
    struct iovec v = {b, 16 * MB};
    BESIDE(20, f, off_t o = 0; off_t p = 0; copy_file_range(f, &o, g, &p, 64 * MB, 0);
           process_vm_readv(getpid(), &v, 1, &v, 1, 0));
}
TEST(others_go_on_while_many_allocate) {
    int f = (int)OK(memfd_create("f", 0));
    BESIDE(20, f, fallocate(f, 0, 0, 128 * MB);
           fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 128 * MB); ftruncate(f, 0); fsync(f));
}
TEST(writes_stay_in_one_piece) {
    int f = (int)OK(memfd_create("f", 0));
    enum { N = 5 * MB + 4321 };
    char *b = block(N, 0);
    for (int round = 0; round < 5; round++) {
        pid_t c[4];
        for (int i = 0; i < 4; i++)
            c[i] = SPAWN(char *mine = block(N, 'a' + i); for (int k = 0; k < 3; k++) EQ(pwrite(f, mine, N, 0), N));
        all_end(c, 4);
        EQ(pread(f, b, N, 0), N);
        uniform(b, N);
    }
}
TEST(short_writes_wait_for_long_ones) {
    int f = (int)OK(memfd_create("f", 0));
    enum { N = 6 * MB };
    char *b = block(N, 0);
    for (int round = 0; round < 5; round++) {
        pid_t c[2];
        c[0] = SPAWN(char *mine = block(N, 'L'); for (int k = 0; k < 5; k++) EQ(pwrite(f, mine, N, 0), N));
        // Across the ends of what might be steps.
        c[1] = SPAWN(char *mine = block(2 * 4096, 'S');
                     for (int k = 0; k < 200; k++) EQ(pwrite(f, mine, 8192, (k % 5 + 1) * MB - 4096), 8192));
        all_end(c, 2);
        EQ(pread(f, b, N, 0), N);
        for (int k = 1; k < 6; k++) uniform(b + k * MB - 4096, 8192);
    }
}
TEST(appends_stay_in_one_piece) {
    enum { N = 3 * MB + 77, WRITERS = 4, TIMES = 3 };
    int f = (int)OK(open("log", O_RDWR | O_CREAT | O_APPEND, 0600));
    pid_t c[WRITERS];
    for (int i = 0; i < WRITERS; i++)
        c[i] = SPAWN(int mine = (int)OK(open("log", O_WRONLY | O_APPEND)); char *b = block(N, 'a' + i);
                     for (int k = 0; k < TIMES; k++) EQ(write(mine, b, N), N));
    all_end(c, WRITERS);
    struct stat s;
    OK(fstat(f, &s));
    EQ(s.st_size, (long)N * WRITERS * TIMES);
    char *b = block(N, 0);
    for (int i = 0; i < WRITERS * TIMES; i++) {
        EQ(pread(f, b, N, (off_t)i * N), N);
        uniform(b, N);
    }
}
TEST(a_shared_position_moves_once_for_each) {
    enum { N = 2 * MB + 4096, KIDS = 4, TIMES = 3 };
    int f = (int)OK(open("f", O_RDWR | O_CREAT, 0600));
    pid_t c[KIDS];
    for (int i = 0; i < KIDS; i++)
        c[i] = SPAWN(char *b = block(N, 'a' + i); for (int k = 0; k < TIMES; k++) EQ(write(f, b, N), N));
    all_end(c, KIDS);
    EQ(lseek(f, 0, SEEK_CUR), (long)N * KIDS * TIMES);
    char *b = block(N, 0);
    for (int i = 0; i < KIDS * TIMES; i++) {
        EQ(pread(f, b, N, (off_t)i * N), N);
        uniform(b, N);
    }

    int g = numbers((size_t)N * KIDS * TIMES, NULL), p[2];
    OK(pipe(p));
    for (int i = 0; i < KIDS; i++)
        c[i] = SPAWN(uint32_t *w = (uint32_t *)block(N, 0); for (int k = 0; k < TIMES; k++) {
            EQ(read(g, w, N), N);
            for (size_t j = 1; j < N / 4; j++)
                if (w[j] != w[0] + j) FAIL("word %zu is %u after %u", j, w[j], w[0]);
            write(p[1], w, 4);
        });
    all_end(c, KIDS);
    char seen[KIDS * TIMES] = {0};
    for (int i = 0; i < KIDS * TIMES; i++) {
        uint32_t first;
        EQ(read(p[0], &first, 4), 4);
        EQ(first % (N / 4), 0);
        CK(first / (N / 4) < KIDS * TIMES && !seen[first / (N / 4)]++);
    }
}
TEST(the_killed_give_their_turn_on) {
    int f = (int)OK(memfd_create("f", 0));
    char *b = block(256 * MB, 0);
    for (int n = 0; n < 10; n++) {
        pid_t c[6];
        for (int i = 0; i < 6; i++)
            c[i] = SPAWN(for (;;) if (i % 2) write(f, b, 256 * MB), lseek(f, 0, SEEK_SET); else pwrite(f, b, 256 * MB, 0));
        ms(rand() % 30);
        for (int i = 0; i < 6; i++) kill(c[i], i == 5 ? SIGTERM : SIGKILL);
        for (int i = 0; i < 6; i++) OK(waitpid(c[i], NULL, 0));
        EQ(pwrite(f, b, 4096, 0), 4096);
        OK(lseek(f, 0, SEEK_SET));
        EQ(write(f, b, 2 * MB), 2 * MB);
    }
}
static volatile int caught;
static void handler(int s) { caught++, (void)s; }
TEST(signals_do_not_cut_files) {
    struct sigaction a = {.sa_handler = handler};
    OK(sigaction(SIGALRM, &a, NULL));
    struct itimerval t = {{0, 500}, {0, 500}};
    OK(setitimer(ITIMER_REAL, &t, NULL));
    int f = (int)OK(memfd_create("f", 0));
    char *b = block(64 * MB, 0);
    for (int i = 0; i < 3; i++) {
        EQ(pwrite(f, b, 64 * MB, 0), 64 * MB);
        EQ(pread(f, b, 64 * MB, 0), 64 * MB);
    }
    CK(caught > 0);
    // Of a device they get what was there by then.
    int z = (int)OK(open("/dev/zero", O_RDONLY));
    for (int i = 0; i < 5; i++) CK(OK(read(z, b, 64 * MB)) > 0 && OK(getrandom(b, 16 * MB, 0)) > 0);
}
TEST(stopped_and_continued_amid_a_long_write) {
    int f = (int)OK(memfd_create("f", 0));
    pid_t c = SPAWN(char *b = block(128 * MB, 0); for (int i = 0; i < 4; i++) EQ(pwrite(f, b, 128 * MB, 0), 128 * MB));
    for (int i = 0; i < 20; i++) ms(1), kill(c, SIGSTOP), ms(1), kill(c, SIGCONT);
    all_end(&c, 1);
}
TEST(content_arrives_whole) {
    enum { N = 7 * MB + 4 * 1001 };
    uint32_t *w;
    int f = numbers(N, &w), g = (int)OK(open("copy", O_RDWR | O_CREAT, 0600));
    char *b = block(N, 0), *end = b + N;
    // Ranges that no step ends with.
    struct iovec v[8];
    for (int i = 0; i < 8; i++) v[i] = (struct iovec){b + (size_t)i * 900001, 900001};
    v[7].iov_len = (size_t)(end - (char *)v[7].iov_base);
    EQ(preadv(f, v, 8, 0), N);
    CK(!memcmp(b, w, N));
    EQ(writev(g, v, 8), N);
    memset(b, 0, N);
    EQ(pread(g, b, N, 0), N);
    CK(!memcmp(b, w, N));
    EQ(pread(f, b, N, 3 * MB), N - 3 * MB);
    CK(!memcmp(b, (char *)w + 3 * MB, N - 3 * MB));
    OK(ftruncate(g, 0)), OK(lseek(g, 0, SEEK_SET)), OK(lseek(f, 0, SEEK_SET));
    EQ(sendfile(g, f, NULL, N), N);
    EQ(lseek(f, 0, SEEK_CUR), N);
    memset(b, 0, N);
    EQ(pread(g, b, N, 0), N);
    CK(!memcmp(b, w, N));
    int h = (int)OK(open("copy2", O_RDWR | O_CREAT, 0600));
    EQ(copy_file_range(g, &(off_t){0}, h, NULL, N, 0), N);
    memset(b, 0, N);
    EQ(pread(h, b, N, 0), N);
    CK(!memcmp(b, w, N));
    memset(b, 0, N);
    struct iovec here = {b, N}, there = {w, N};
    EQ(process_vm_readv(getpid(), &here, 1, &there, 1, 0), N);
    CK(!memcmp(b, w, N));
    // The part before a hole in memory counts.
    OK(munmap(b + 4 * MB, MB));
    EQ(pread(f, b, N, 0), 4 * MB);
    ERR(pread(f, b + 4 * MB, 2 * MB, 0), EFAULT);
}
TEST(limits_are_where_they_were) {
    struct rlimit l = {5 * MB + 10, 5 * MB + 10};
    signal(SIGXFSZ, SIG_IGN);
    OK(setrlimit(RLIMIT_FSIZE, &l));
    int f = (int)OK(open("f", O_RDWR | O_CREAT, 0600));
    char *b = block(8 * MB, 'x');
    EQ(write(f, b, 8 * MB), 5 * MB + 10);
    ERR(write(f, b, 8 * MB), EFBIG);
    EQ(lseek(f, 0, SEEK_CUR), 5 * MB + 10);
    ERR(fallocate(f, 0, 0, 8 * MB), EFBIG);
}
