// Calls in quick succession, which a platform may carry by other ways than single ones: each is made once, in order, and gets
// its own answer, whatever signals, threads, forks and mappings come between.
#include "t.h"
#include <pthread.h>
#include <sys/epoll.h>

#define MANY 20000
static volatile int ticks;
static void on_tick(int s) {
    int e = errno;
    // A handler's own calls are as hot as those it interrupts.
    char c;
    if (syscall(SYS_getppid) <= 0) _exit(90);
    if (read(-1, &c, 1) != -1 || errno != EBADF) _exit(91);
    ticks++;
    errno = e;
}
// What a call takes here, in microseconds, as the tick's handler makes them.
static int call_us(void) {
    enum { CALLS = 64 };
    int64_t before = now_ns();
    for (int i = 0; i < CALLS; i++) syscall(SYS_getppid);
    return (int)((now_ns() - before) / CALLS / 1000);
}
// A tick every `us`; where calls are dear it comes later, or nothing but its handler would ever run.
static void tick_every(int us, int flags) {
    us += 50 * call_us();
    struct sigaction sa = {.sa_handler = on_tick, .sa_flags = flags};
    EQ(sigaction(SIGALRM, &sa, NULL), 0);
    struct itimerval it = {{0, us}, {0, us}};
    EQ(setitimer(ITIMER_REAL, &it, NULL), 0);
}
static void tick_no_more(void) {
    struct itimerval it = {{0, 0}, {0, 0}};
    EQ(setitimer(ITIMER_REAL, &it, NULL), 0);
}
// Every byte once and in order, with timers interrupting all the while.
static void through_a_pipe(int rounds) {
    int p[2];
    EQ(pipe(p), 0);
    for (int i = 0; i < rounds; i++) {
        unsigned v = 0, w = (unsigned)i * 2654435761u;
        EQ(write(p[1], &w, sizeof w), (long)sizeof w);
        EQ(read(p[0], &v, sizeof v), (long)sizeof v);
        EQ(v, w);
    }
    int left = 7;
    EQ(ioctl(p[0], FIONREAD, &left), 0);
    EQ(left, 0);
    close(p[0]);
    close(p[1]);
}
TEST(signals_between_calls) {
    pid_t parent = getppid();
    tick_every(300, SA_RESTART);
    for (int i = 0; i < 5 * MANY; i++) EQ(getppid(), parent);
    through_a_pipe(MANY);
    int seen = ticks;
    tick_no_more();
    CK(seen > 3);
}
TEST(offsets_advance_once) {
    int fd = open("f", O_CREAT | O_RDWR | O_TRUNC, 0600);
    CK(fd >= 0);
    tick_every(500, SA_RESTART);
    for (unsigned i = 0; i < MANY; i++) EQ(write(fd, &i, sizeof i), (long)sizeof i);
    EQ(lseek(fd, 0, SEEK_CUR), (long)(MANY * sizeof(unsigned)));
    EQ(lseek(fd, 0, SEEK_SET), 0);
    for (unsigned i = 0; i < MANY; i++) {
        unsigned v = ~i;
        EQ(read(fd, &v, sizeof v), (long)sizeof v);
        EQ(v, i);
    }
    tick_no_more();
    close(fd);
}
TEST(interrupted_reads) {
    int p[2];
    EQ(pipe(p), 0);
    through_a_pipe(2000);
    tick_every(2000, 0);
    char c;
    for (int i = 0; i < 50; i++) {
        errno = 0;
        EQ(read(p[0], &c, 1), -1);
        EQ(errno, EINTR);
    }
    tick_every(2000, SA_RESTART);
    pid_t kid = fork();
    if (kid == 0) {
        tick_no_more();
        for (int i = 0; i < 50; i++) {
            ms(3);
            if (write(p[1], "x", 1) != 1) _exit(1);
        }
        _exit(0);
    }
    for (int i = 0; i < 50; i++) EQ(read(p[0], &c, 1), 1);
    tick_no_more();
    int st;
    EQ(waitpid(kid, &st, 0), kid);
    EQ(st, 0);
}
static char *area;
static void *own_part(void *a) {
    int me = (int)(intptr_t)a, fd = open("data", O_RDONLY);
    char b[64], want[64];
    memset(want, 'a' + me, sizeof want);
    for (int i = 0; i < MANY / 4; i++) {
        memset(b, 0, sizeof b);
        if (pread(fd, b, sizeof b, me * 4096 + i % 64 * 64) != (long)sizeof b || memcmp(b, want, sizeof b)) return (void *)1;
    }
    close(fd);
    return NULL;
}
TEST(threads_get_their_own_answers) {
    area = malloc(8 * 4096);
    for (int i = 0; i < 8; i++) memset(area + i * 4096, 'a' + i, 4096);
    int fd = open("data", O_CREAT | O_WRONLY, 0600);
    EQ(write(fd, area, 8 * 4096), 8 * 4096);
    // Hot before there are others.
    EQ((intptr_t)own_part(0), 0);
    pthread_t t[8];
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 8; i++) EQ(pthread_create(&t[i], NULL, own_part, (void *)(intptr_t)i), 0);
        for (int i = 0; i < 8; i++) {
            void *r;
            EQ(pthread_join(t[i], &r), 0);
            EQ((intptr_t)r, 0);
        }
    }
}
TEST(forks_of_a_hot_process) {
    pid_t me = getpid();
    for (int i = 0; i < MANY; i++) getppid();
    for (int k = 0; k < 20; k++) {
        pid_t kid = fork();
        CK(kid >= 0);
        if (kid == 0) {
            for (int i = 0; i < 2000; i++)
                if (getppid() != me) _exit(1);
            through_a_pipe(200);
            _exit(k);
        }
        for (int i = 0; i < 500; i++) CK(getppid() != me);
        int st;
        EQ(waitpid(kid, &st, 0), kid);
        CK(WIFEXITED(st));
        EQ(WEXITSTATUS(st), k);
    }
}
TEST(stopped_killed_and_ended_amid_calls) {
    for (int k = 0; k < 10; k++) {
        pid_t kid = fork();
        if (kid == 0)
            for (;;) syscall(SYS_getppid), getppid();
        ms(10 + k);
        int st;
        for (int i = 0; i < 5; i++) {
            EQ(kill(kid, SIGSTOP), 0);
            EQ(waitpid(kid, &st, WUNTRACED), kid);
            CK(WIFSTOPPED(st));
            EQ(kill(kid, SIGCONT), 0);
            ms(1);
        }
        EQ(kill(kid, k % 2 ? SIGKILL : SIGTERM), 0);
        EQ(waitpid(kid, &st, 0), kid);
        CK(WIFSIGNALED(st));
    }
}
static void *for_ever(void *a) {
    for (;;) getppid();
    return a;
}
TEST(exits_and_execs_with_hot_threads) {
    for (int k = 0; k < 6; k++) {
        pid_t kid = fork();
        if (kid == 0) {
            pthread_t t;
            for (int i = 0; i < 3; i++) pthread_create(&t, NULL, for_ever, NULL);
            for (int i = 0; i < 3000; i++) getppid();
            if (k % 2) execl("/proc/self/exe", "hot", "--child", "exit7", NULL);
            exit(7);
        }
        int st;
        EQ(waitpid(kid, &st, 0), kid);
        CK(WIFEXITED(st));
        EQ(WEXITSTATUS(st), 7);
    }
}
// A program may map what it likes wherever it likes before it has made many calls: the low addresses, too.
static int low_memory(void) {
    unsigned long at = 0x5000000, len = 0x200000;
    char *m = mmap((void *)at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    EQ((unsigned long)m, at);
    memset(m, 0x5a, len);
    pid_t parent = getppid();
    for (int i = 0; i < MANY; i++) EQ(getppid(), parent);
    through_a_pipe(2000);
    for (unsigned long i = 0; i < len; i += 4096) EQ(m[i], 0x5a);
    EQ(munmap(m, len), 0);
    for (int i = 0; i < MANY; i++) EQ(getppid(), parent);
    return 0;
}
int t_child(int argc, char **argv) {
    if (argc < 1) return 1;
    if (!strcmp(argv[0], "low")) return low_memory();
    if (!strcmp(argv[0], "code")) {
        // The first byte of a function that is called often, as it is in memory.
        for (int i = 0; i < MANY; i++) getppid();
        printf("%02x\n", *(unsigned char *)getppid);
        return 0;
    }
    if (strcmp(argv[0], "exit7")) return 1;
    for (int i = 0; i < 3000; i++) getppid();
    return 7;
}
TEST(low_memory_is_the_programs) {
    pid_t kid = fork();
    if (kid == 0) {
        execl("/proc/self/exe", "hot", "--child", "low", NULL);
        _exit(9);
    }
    int st;
    EQ(waitpid(kid, &st, 0), kid);
    EQ(st, 0);
}
TEST(segment_bases_stay_the_programs) {
    unsigned long gs = 1;
    EQ(syscall(SYS_arch_prctl, 0x1004, &gs), 0);
    EQ(gs, 0ul);
    static unsigned long block[8] = {0x1122334455667788ul};
    for (int i = 0; i < MANY; i++) getppid();
    EQ(syscall(SYS_arch_prctl, 0x1001, block), 0);
    for (int i = 0; i < MANY; i++) {
        unsigned long v;
        getppid();
        asm volatile("mov %%gs:0, %0" : "=r"(v));
        EQ(v, block[0]);
    }
    EQ(syscall(SYS_arch_prctl, 0x1004, &gs), 0);
    EQ(gs, (unsigned long)block);
    EQ(syscall(SYS_arch_prctl, 0x1001, 0), 0);
    pid_t parent = getppid();
    for (int i = 0; i < MANY; i++) EQ(getppid(), parent);
}
TEST(epoll_in_a_loop) {
    int p[2], e = epoll_create1(0);
    EQ(pipe(p), 0);
    struct epoll_event ev = {.events = EPOLLIN, .data.u32 = 5}, got;
    for (int i = 0; i < MANY / 4; i++) {
        EQ(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev), 0);
        EQ(epoll_wait(e, &got, 1, 0), 0);
        EQ(write(p[1], "x", 1), 1);
        EQ(epoll_wait(e, &got, 1, -1), 1);
        EQ(got.data.u32, 5u);
        char c;
        EQ(read(p[0], &c, 1), 1);
        EQ(epoll_ctl(e, EPOLL_CTL_DEL, p[0], NULL), 0);
    }
}
// Where a thread may run is its own affair, whatever the platform does with the CPUs meanwhile.
TEST(affinity_stays_the_programs) {
    cpu_set_t all, one, now;
    EQ(sched_getaffinity(0, sizeof all, &all), 0);
    if (CPU_COUNT(&all) < 2) SKIP("one CPU");
    pid_t parent = getppid();
    for (int cpu = 0, seen = 0; cpu < CPU_SETSIZE && seen < 4; cpu++) {
        if (!CPU_ISSET(cpu, &all)) continue;
        seen++;
        for (int i = 0; i < MANY / 4; i++) EQ(getppid(), parent);
        EQ(sched_getaffinity(0, sizeof now, &now), 0);
        CK(CPU_EQUAL(&now, &all));
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        EQ(sched_setaffinity(0, sizeof one, &one), 0);
        for (int i = 0; i < MANY / 4; i++) {
            EQ(getppid(), parent);
            EQ(sched_getcpu(), cpu);
        }
        EQ(sched_getaffinity(0, sizeof now, &now), 0);
        CK(CPU_EQUAL(&now, &one));
        EQ(sched_setaffinity(0, sizeof all, &all), 0);
    }
}
