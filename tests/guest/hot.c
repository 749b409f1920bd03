// Calls in quick succession, which a platform may carry by other ways than single ones: each is made once, in order, and gets
// its own answer, whatever signals, threads, forks and mappings come between.
#include "t.h"
#include <pthread.h>
#include <sys/epoll.h>

static volatile int ticks;
// So many rounds, or as many as there is time for where calls are dear and the machine is busy.
static int64_t begun;
static int goes_on(int round, int rounds) {
    if (round == 0) begun = now_ns();
    return round < rounds && now_ns() - begun < 5000000000;
}
static void on_tick(int s) {
    int e = errno;
    // A handler's own calls are as hot as those it interrupts.
    char c;
    if (syscall(SYS_getppid) <= 0) _exit(90);
    if (read(-1, &c, 1) != -1 || errno != EBADF) _exit(91);
    ticks++;
    errno = e;
}
// What a call takes here, in microseconds, as the tick's handler makes them: at best, so that losing the CPU is not counted.
static int call_us(void) {
    enum { CALLS = 16 };
    int64_t least = INT64_MAX;
    for (int n = 0; n < 4; n++) {
        int64_t before = now_ns();
        for (int i = 0; i < CALLS; i++) syscall(SYS_getppid);
        if (now_ns() - before < least) least = now_ns() - before;
    }
    return (int)(least / CALLS / 1000);
}
// Calls that are many: where they are dear nothing is done about it, and fewer will do.
static int many(void) {
    static int calls;
    if (!calls) calls = call_us() < 8 ? 20000 : 4000;
    return calls;
}
#define MANY many()
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
    for (int i = 0; goes_on(i, 5 * MANY) || (ticks < 4 && i < 100 * MANY); i++) EQ(getppid(), parent);
    through_a_pipe(MANY);
    int seen = ticks;
    tick_no_more();
    CK(seen > 3);
}
TEST(offsets_advance_once) {
    int fd = open("f", O_CREAT | O_RDWR | O_TRUNC, 0600);
    CK(fd >= 0);
    tick_every(500, SA_RESTART);
    for (unsigned i = 0; i < (unsigned)MANY; i++) EQ(write(fd, &i, sizeof i), (long)sizeof i);
    EQ(lseek(fd, 0, SEEK_CUR), (long)(MANY * sizeof(unsigned)));
    EQ(lseek(fd, 0, SEEK_SET), 0);
    for (unsigned i = 0; i < (unsigned)MANY; i++) {
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
static void *ends(void *none) { return none; }
// The C library's read is another one once there have been threads.
TEST(reads_before_and_after_threads) {
    tick_every(300, SA_RESTART);
    through_a_pipe(MANY / 10);
    pthread_t t;
    EQ(pthread_create(&t, NULL, ends, NULL), 0);
    through_a_pipe(MANY / 10);
    EQ(pthread_join(t, NULL), 0);
    pid_t kid = fork();
    if (kid == 0) {
        through_a_pipe(MANY / 10);
        _exit(0);
    }
    through_a_pipe(MANY / 10);
    tick_no_more();
    int st;
    EQ(waitpid(kid, &st, 0), kid);
    EQ(st, 0);
}
// A thread that waits in a call has its registers, as a handler sees them: those of the call, which has been made.
extern const char waits_here[], waited_here[];
__asm__(".globl waits_here, waited_here\n"
        "raw_read: mov $0, %eax\nwaits_here: syscall\nwaited_here: ret\n");
static long raw_read(int fd, void *to, unsigned long len) {
    long r;
    register long r10 __asm__("r10") = 0x1010, r8 __asm__("r8") = 0x808, r9 __asm__("r9") = 0x909;
    __asm__ volatile("sub $128, %%rsp\ncall raw_read\nadd $128, %%rsp"
                     : "=a"(r), "+r"(r10), "+r"(r8), "+r"(r9)
                     : "D"((long)fd), "S"(to), "d"(len), "b"(0xb0b0L)
                     : "rcx", "r11", "memory", "cc");
    if (r10 != 0x1010 || r8 != 0x808 || r9 != 0x909) return -1000;
    return r;
}
static volatile int calls, in_call, wrong;
static char *read_to;
static int read_from;
static void looks(int s, siginfo_t *si, void *c) {
    (void)s;
    (void)si;
    static int last;
    greg_t *g = ((ucontext_t *)c)->uc_mcontext.gregs;
    if (g[REG_RIP] != (greg_t)waited_here || g[REG_RAX] != -EINTR) return;
    // Two ticks may come upon the same end of a call.
    in_call += last != calls;
    last = calls;
    if (g[REG_RDI] != read_from || g[REG_RSI] != (greg_t)read_to || g[REG_RDX] != 9) wrong++;
    if (g[REG_R10] != 0x1010 || g[REG_R8] != 0x808 || g[REG_R9] != 0x909 || g[REG_RBX] != 0xb0b0) wrong++;
}
static void *echoes(void *ends) {
    int *e = ends;
    char c;
    while (read(e[0], &c, 1) == 1)
        if (write(e[1], &c, 1) != 1) break;
    return NULL;
}
TEST(registers_of_who_waits) {
    int there[2], back[2];
    EQ(pipe(there), 0);
    EQ(pipe(back), 0);
    int ends[2] = {there[0], back[1]};
    // The ticks are for who waits here: the other thread, interrupted, would end.
    sigset_t alarm;
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    EQ(pthread_sigmask(SIG_BLOCK, &alarm, NULL), 0);
    pthread_t t;
    EQ(pthread_create(&t, NULL, echoes, ends), 0);
    EQ(pthread_sigmask(SIG_UNBLOCK, &alarm, NULL), 0);
    char got[9];
    read_to = got;
    read_from = back[0];
    struct sigaction sa = {.sa_sigaction = looks, .sa_flags = SA_SIGINFO};
    EQ(sigaction(SIGALRM, &sa, NULL), 0);
    // Seldom: where a signal is dear there must be time for more than that.
    int us = 1000 + 200 * call_us(), interrupted = 0;
    struct itimerval it = {{0, us}, {0, us}};
    EQ(setitimer(ITIMER_REAL, &it, NULL), 0);
    for (int i = 0; i < MANY / 4; i++) {
        // Now and then nothing comes but the signal.
        int send = i % 50 != 0;
        if (send) EQ(write(there[1], "x", 1), 1);
        long r;
        while (calls++, (r = raw_read(back[0], got, 9)) == -EINTR) {
            interrupted++;
            if (!send) break;
        }
        EQ(r, send ? 1 : -EINTR);
    }
    tick_no_more();
    CK(interrupted >= in_call);
    CK(in_call > 0);
    EQ(wrong, 0);
    close(there[1]);
    EQ(pthread_join(t, NULL), 0);
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
            for (int i = 0; i < MANY / 10; i++)
                if (getppid() != me) _exit(1);
            through_a_pipe(MANY / 100);
            _exit(k);
        }
        for (int i = 0; i < MANY / 40; i++) CK(getppid() != me);
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
            for (int i = 0; i < MANY / 7; i++) getppid();
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
    through_a_pipe(MANY / 10);
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
    for (int i = 0; i < MANY / 7; i++) getppid();
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
// A mask that holds for a wait: signals come while it lasts and at no other time.
TEST(masks_of_waits) {
    int p[2], q[2];
    EQ(pipe(p), 0);
    EQ(pipe(q), 0);
    EQ(write(q[1], "x", 1), 1);
    sigset_t alarm, none, now;
    sigemptyset(&none);
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    EQ(sigprocmask(SIG_BLOCK, &alarm, NULL), 0);
    tick_every(2000, SA_RESTART);
    struct pollfd ready = {q[0], POLLIN, 0}, never = {p[0], POLLIN, 0};
    for (int round = 0; round < 30; round++) {
        int before = ticks;
        fd_set r;
        FD_ZERO(&r);
        for (int i = 0; i < MANY / 40; i++) {
            FD_SET(q[0], &r);
            EQ(pselect(q[0] + 1, &r, NULL, NULL, NULL, &none), 1);
            CK(FD_ISSET(q[0], &r));
            EQ(ppoll(&ready, 1, NULL, &none), 1);
        }
        EQ(ticks, before);
        FD_ZERO(&r);
        FD_SET(p[0], &r);
        errno = 0;
        EQ(round % 2 ? pselect(p[0] + 1, &r, NULL, NULL, NULL, &none) : ppoll(&never, 1, NULL, &none), -1);
        EQ(errno, EINTR);
        EQ(ticks, before + 1);
        EQ(sigprocmask(SIG_BLOCK, NULL, &now), 0);
        CK(sigismember(&now, SIGALRM));
    }
    tick_no_more();
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
// Buffers where the memory ends, or where there is none: what fits is read and written, the rest fails as ever, and nothing is
// lost by it.
TEST(buffers_at_the_edge) {
    enum { PAGE = 4096 };
    char *two = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CK(two != MAP_FAILED);
    char *end = two + 2 * PAGE;
    EQ(mprotect(end, PAGE, PROT_NONE), 0);
    char *fixed = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CK(fixed != MAP_FAILED);
    int fd = open("f", O_CREAT | O_RDWR | O_TRUNC, 0600), p[2], s[2];
    CK(fd >= 0);
    char text[8192];
    for (unsigned i = 0; i < sizeof text; i++) text[i] = (char)(i * 7 + i / 256);
    EQ(write(fd, text, sizeof text), (long)sizeof text);
    EQ(pipe(p), 0);
    EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
    int ep = epoll_create1(0);
    strcpy(end - 2, "f");
    tick_every(300, SA_RESTART);
    static const int lens[] = {1, 7, 8, 9, 255, 256, 3071, 3072, 3073, 4096, 5000};
    for (int round = 0; goes_on(round, MANY / 8); round++) {
        int len = lens[round % (int)(sizeof lens / sizeof *lens)], at = round % 100;
        // Up to the last byte, from an odd address or not.
        memset(end - len - 1, 0x55, (size_t)len + 1);
        if (len > 1) strcpy(end - 2, "f");
        EQ(pread(fd, end - len, (size_t)len, at), len);
        EQ(memcmp(end - len, text + at, (size_t)len), 0);
        EQ(end[-len - 1], 0x55);
        EQ(write(p[1], end - len, (size_t)len), len);
        // Less than there is room for, and for the rest there is no memory.
        EQ(read(p[0], end - len, (size_t)len + 100), len);
        EQ(memcmp(end - len, text + at, (size_t)len), 0);
        // No memory for any of it, or none that may be written: it is there still.
        EQ(write(s[1], text, 5), 5);
        ERR(read(s[0], end, 5), EFAULT);
        ERR(read(s[0], fixed, 5), EFAULT);
        ERR(recv(s[0], NULL, 5, 0), EFAULT);
        EQ(recv(s[0], end - 5, 5, 0), 5);
        EQ(memcmp(end - 5, text, 5), 0);
        ERR(write(s[1], end, 5), EFAULT);
        ERR(send(s[1], NULL, 5, 0), EFAULT);
        EQ(write(s[1], fixed, 1), 1);
        EQ(read(s[0], two, 1), 1);
        EQ(*two, 0);
        struct epoll_event *ev = (struct epoll_event *)(end - sizeof *ev), out;
        *ev = (struct epoll_event){.events = EPOLLIN, .data.u64 = 0x1122334455667788u + (unsigned)round};
        out = *ev;
        EQ(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], ev), 0);
        ERR(epoll_ctl(ep, EPOLL_CTL_MOD, p[0], (struct epoll_event *)end), EFAULT);
        EQ(write(p[1], "x", 1), 1);
        memset(ev, 0, sizeof *ev);
        EQ(epoll_wait(ep, ev, 1, 1000), 1);
        EQ(ev->data.u64, out.data.u64);
        ERR(epoll_wait(ep, (struct epoll_event *)end, 1, 0), EFAULT);
        EQ(epoll_ctl(ep, EPOLL_CTL_DEL, p[0], NULL), 0);
        EQ(read(p[0], two, 9), 1);
        strcpy(end - 2, "f");
        EQ(access(end - 2, R_OK), 0);
        end[-1] = 'f';
        ERR(access(end - 2, R_OK), EFAULT);
        ERR(access(end, R_OK), EFAULT);
        struct stat *st = (struct stat *)(end - sizeof *st);
        EQ(fstat(fd, st), 0);
        EQ(st->st_size, (long)sizeof text);
        ERR(fstat(fd, (struct stat *)(end - 100)), EFAULT);
    }
    tick_no_more();
}
// What is written in parts: few or many, short or long, listed and lying where the memory ends, or where there is none.
TEST(parts_of_a_buffer) {
    volatile int negative = -1, too_many = 2000;
    enum { PAGE = 4096, MOST = 12 };
    char *two = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CK(two != MAP_FAILED);
    char *end = two + 2 * PAGE, *list = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CK(list != MAP_FAILED);
    list += PAGE;
    EQ(mprotect(end, PAGE, PROT_NONE), 0);
    EQ(mprotect(list, PAGE, PROT_NONE), 0);
    for (int i = 0; i < 2 * PAGE; i++) two[i] = (char)(i * 7 + i / 256);
    int p[2], s[2];
    EQ(pipe(p), 0);
    EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
    tick_every(300, SA_RESTART);
    static const int lens[] = {0, 1, 7, 200, 16, 1000, 3, 2900, 64, 0, 1500};
    char got[2 * PAGE], want[2 * PAGE];
    for (int round = 0; goes_on(round, MANY / 8); round++) {
        int n = round % (MOST + 1), all = 0;
        struct iovec *parts = (struct iovec *)list - n;
        for (int i = 0; i < n; i++) {
            int len = lens[(round + i * 3) % (int)(sizeof lens / sizeof *lens)];
            if (all + len > PAGE) len = PAGE - all;
            // Every other one up to the last byte.
            char *at = i % 2 ? end - len : two + round % 100;
            parts[i] = (struct iovec){at, (size_t)len};
            memcpy(want + all, at, (size_t)len);
            all += len;
        }
        struct iovec *held = parts;
        EQ(writev(p[1], parts, n), all);
        CK(parts == held);
        if (all) EQ(read(p[0], got, sizeof got), all);
        EQ(memcmp(got, want, (size_t)all), 0);
        EQ(writev(s[1], parts, n), all);
        if (all) EQ(read(s[0], got, sizeof got), all);
        EQ(memcmp(got, want, (size_t)all), 0);
        // The list, or a part, is not there.
        ERR(writev(s[1], parts, n + 1), EFAULT);
        struct iovec bad[] = {{two, 5}, {end, 5}}, ok = {two, 5};
        ERR(writev(s[1], bad + 1, 1), EFAULT);
        ERR(writev(s[1], bad, 2), EFAULT);
        ERR(writev(s[1], &ok, negative), EINVAL);
        ERR(writev(s[1], &ok, too_many), EINVAL);
        bad[1] = (struct iovec){two, (size_t)-1};
        ERR(writev(s[1], bad, 2), EINVAL);
        ERR(recv(s[0], got, 1, MSG_DONTWAIT), EAGAIN);
    }
    tick_no_more();
}
// stat(2) and lstat(2) as older C libraries make them.
__asm__(".globl old_stat, old_lstat\nold_stat: mov $4, %eax\nsyscall\nret\nold_lstat: mov $6, %eax\nsyscall\nret\n");
extern const char old_stat[], old_lstat[];
static long by_number(int nr, const char *path, struct stat *st) {
    long r;
    __asm__ volatile("sub $128, %%rsp\ncall *%[call]\nadd $128, %%rsp"
                     : "=a"(r)
                     : [call] "r"(nr == SYS_stat ? old_stat : old_lstat), "D"(path), "S"(st)
                     : "rcx", "r11", "memory", "cc");
    return r;
}
// What is asked about files by paths, short and long, and the answers, lying where the memory ends, in each other, or where
// there is none.
TEST(paths_and_what_they_lead_to) {
    enum { PAGE = 4096 };
    char *two = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CK(two != MAP_FAILED);
    char *end = two + 2 * PAGE, *page = two + PAGE;
    EQ(mprotect(end, PAGE, PROT_NONE), 0);
    char *fixed = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CK(fixed != MAP_FAILED);
    int fd = open("f", O_CREAT | O_RDWR | O_TRUNC, 0600);
    CK(fd >= 0);
    EQ(write(fd, two, 1234), 1234);
    EQ(symlink("f", "link"), 0);
    struct stat want, link, got;
    EQ(fstat(fd, &want), 0);
    EQ(fstatat(AT_FDCWD, "link", &link, AT_SYMLINK_NOFOLLOW), 0);
    CK(link.st_ino != want.st_ino);
    tick_every(300, SA_RESTART);
    static const int dots[] = {0, 1, 20, 125, 126, 127, 128, 300, 1000};
    for (int round = 0; goes_on(round, MANY / 8); round++) {
        // "././f", up to the memory's last byte, or across two pages.
        int n = 2 * dots[round % (int)(sizeof dots / sizeof *dots)] + 2;
        char *path = round % 2 ? end - n : page - n / 2;
        for (int i = 0; i < n - 2; i++) path[i] = i % 2 ? '/' : '.';
        strcpy(path + n - 2, "f");
        struct stat *at = (struct stat *)(two + round % 100);
        EQ(fstatat(AT_FDCWD, path, at, 0), 0);
        EQ(at->st_ino, want.st_ino);
        EQ(at->st_size, 1234);
        EQ(by_number(SYS_stat, path, &got), 0);
        EQ(memcmp(&got, &want, sizeof got), 0);
        EQ(by_number(SYS_lstat, "link", &got), 0);
        EQ(got.st_ino, link.st_ino);
        EQ(fstatat(fd, "", &got, AT_EMPTY_PATH), 0);
        EQ(memcmp(&got, &want, sizeof got), 0);
        struct statx *x = (struct statx *)(end - sizeof *x);
        char text[] = "f";
        EQ(statx(AT_FDCWD, n < 100 ? path : text, 0, STATX_BASIC_STATS, n < 100 ? (struct statx *)two : x), 0);
        if (n < 100) memcpy(x, two, sizeof *x);
        EQ(x->stx_ino, want.st_ino);
        EQ(x->stx_size, 1234u);
        ERR(statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS, (struct statx *)(end - sizeof *x + 1)), EFAULT);
        int again = open("f", O_RDONLY);
        CK(again >= 0);
        EQ(close(again), 0);
        // The answer takes the path's place, or that of a part of it.
        memset(end - sizeof got - 20, 0, sizeof got + 20);
        strcpy(end - 20, "link");
        at = (struct stat *)(end - sizeof got);
        EQ(fstatat(AT_FDCWD, end - 20, at, AT_SYMLINK_NOFOLLOW), 0);
        EQ(memcmp(at, &link, sizeof link), 0);
        strcpy(end - sizeof got, "f");
        EQ(by_number(SYS_stat, (char *)at, at), 0);
        EQ(memcmp(at, &want, sizeof want), 0);
        // There is no such file: nothing is written.
        memset(&got, 0x55, sizeof got);
        ERR(fstatat(AT_FDCWD, "no", &got, 0), ENOENT);
        EQ(by_number(SYS_stat, "", &got), -ENOENT);
        for (unsigned i = 0; i < sizeof got; i++) EQ(((char *)&got)[i], 0x55);
        // No memory for the answer, or for the path.
        ERR(fstatat(AT_FDCWD, "f", (struct stat *)(end - 100), 0), EFAULT);
        ERR(fstatat(AT_FDCWD, "f", (struct stat *)fixed, 0), EFAULT);
        EQ(by_number(SYS_stat, "f", NULL), -EFAULT);
        ERR(fstatat(AT_FDCWD, "no", NULL, 0), ENOENT);
        memset(end - 300, '/', 300);
        ERR(fstatat(AT_FDCWD, end - 300, &got, 0), EFAULT);
        EQ(by_number(SYS_lstat, end - 1, &got), -EFAULT);
        EQ(by_number(SYS_lstat, end, &got), -EFAULT);
        ERR(open(end - 7, O_RDONLY), EFAULT);
    }
    tick_no_more();
    EQ(unlink("link"), 0);
}
static char *volatile shaky;
static volatile int shaken;
static void *shakes(void *none) {
    while (!shaken) {
        mprotect(shaky, 4096, PROT_NONE);
        mprotect(shaky, 4096, PROT_READ | PROT_WRITE);
        sched_yield();
    }
    return NULL;
}
// Memory that comes and goes under a call is no concern of the program's but by EFAULT.
TEST(buffers_that_come_and_go) {
    shaky = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CK(shaky != MAP_FAILED);
    int fd = open("f", O_CREAT | O_RDWR | O_TRUNC, 0600), done = 0;
    EQ(write(fd, "0123456789", 10), 10);
    pthread_t t;
    EQ(pthread_create(&t, NULL, shakes, NULL), 0);
    for (int i = 0; goes_on(i, MANY / 2); i++) {
        long r = pread(fd, shaky + 64, 10, 0);
        if (r != 10 && !(r == -1 && errno == EFAULT)) FAIL("read: %ld, %s", r, strerror(errno));
        done += r == 10;
        r = pwrite(fd, shaky + 128, 3, 100);
        if (r != 3 && !(r == -1 && errno == EFAULT)) FAIL("write: %ld, %s", r, strerror(errno));
    }
    shaken = 1;
    EQ(pthread_join(t, NULL), 0);
    CK(done > 0);
}
