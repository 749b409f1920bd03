// Signals: masks, queues, alternate stacks, SA_* flags, restart, frames with vector state, stop and continue, faults.
#include "t.h"
#include <immintrin.h>
#include <setjmp.h>
#include <ucontext.h>

static volatile sig_atomic_t hits, last;
static volatile siginfo_t info; // volatile all: libc declares raise and kill as leaf functions
static void on(int s) { hits++, last = s; }
static void on_info(int s, siginfo_t *i, void *c) { hits++, last = s, info = *i, (void)c; }
static void act(int sig, void (*h)(int), int flags) {
    struct sigaction a = {.sa_handler = h, .sa_flags = flags};
    OK(sigaction(sig, &a, NULL));
}
static void act_info(int sig, void (*h)(int, siginfo_t *, void *), int flags) {
    struct sigaction a = {.sa_sigaction = h, .sa_flags = flags | SA_SIGINFO};
    OK(sigaction(sig, &a, NULL));
}
static sigset_t set(int a, int b) {
    sigset_t m;
    sigemptyset(&m);
    if (a) sigaddset(&m, a);
    if (b) sigaddset(&m, b);
    return m;
}

TEST(deliver_and_default) {
    act(SIGUSR1, on, 0);
    EQ(kill(getpid(), SIGUSR1), 0);
    EQ(hits, 1);
    raise(SIGUSR1);
    EQ(hits, 2);
    int st, sigs[] = {SIGTERM, SIGHUP, SIGINT, SIGKILL, SIGUSR2, SIGRTMIN, SIGPIPE, SIGALRM};
    for (size_t i = 0; i < sizeof sigs / sizeof *sigs; i++) {
        pid_t c = SPAWN(pause());
        kill(c, sigs[i]);
        OK(waitpid(c, &st, 0));
        CK(WIFSIGNALED(st));
        EQ(WTERMSIG(st), sigs[i]);
    }
    pid_t c = SPAWN({
        raise(SIGCHLD);
        raise(SIGURG);
        raise(SIGWINCH);
        raise(SIGCONT);
    });
    WAIT0(c);
}
TEST(mask_and_pending) {
    act(SIGUSR1, on, 0);
    sigset_t m = set(SIGUSR1, 0), p, old;
    OK(sigprocmask(SIG_BLOCK, &m, NULL));
    raise(SIGUSR1);
    raise(SIGUSR1);
    EQ(hits, 0);
    OK(sigpending(&p));
    EQ(sigismember(&p, SIGUSR1), 1);
    OK(sigprocmask(SIG_UNBLOCK, &m, &old));
    EQ(hits, 1); // a standard signal is queued once
    EQ(sigismember(&old, SIGUSR1), 1);
    sigset_t k = set(SIGKILL, SIGSTOP);
    OK(sigprocmask(SIG_SETMASK, &k, NULL));
    OK(sigprocmask(SIG_SETMASK, NULL, &old));
    EQ(sigismember(&old, SIGKILL), 0);
    ERR(sigprocmask(77, &k, NULL), EINVAL);
    ERR(syscall(SYS_rt_sigprocmask, 0, &m, NULL, 4), EINVAL);
}
static volatile int order[16], norder;
static void in_order(int s) { order[norder++] = s; }
TEST(realtime_queue_and_order) {
    for (int i = 0; i < 3; i++) act(SIGRTMIN + i, in_order, 0);
    sigset_t m;
    sigfillset(&m);
    OK(sigprocmask(SIG_SETMASK, &m, NULL));
    union sigval v = {.sival_int = 1};
    OK(sigqueue(getpid(), SIGRTMIN + 2, v));
    OK(sigqueue(getpid(), SIGRTMIN, v));
    OK(sigqueue(getpid(), SIGRTMIN, v));
    OK(sigqueue(getpid(), SIGRTMIN + 1, v));
    siginfo_t i;
    EQ(sigwaitinfo(&m, &i), SIGRTMIN); // lowest number first
    EQ(i.si_value.sival_int, 1);
    EQ(i.si_code, SI_QUEUE);
    EQ(sigwaitinfo(&m, &i), SIGRTMIN);
    EQ(sigwaitinfo(&m, &i), SIGRTMIN + 1);
    EQ(sigwaitinfo(&m, &i), SIGRTMIN + 2);
}
TEST(sigtimedwait_timeout) {
    sigset_t m = set(SIGUSR1, 0);
    OK(sigprocmask(SIG_BLOCK, &m, NULL));
    struct timespec t = {0, 30000000};
    int64_t s = now_ns();
    ERR(sigtimedwait(&m, NULL, &t), EAGAIN);
    CK(now_ns() - s >= 29000000);
    t.tv_nsec = -1;
    ERR(sigtimedwait(&m, NULL, &t), EINVAL);
    pid_t me = getpid(), c = SPAWN({
        ms(50);
        kill(me, SIGUSR1);
    });
    siginfo_t i;
    EQ(sigwaitinfo(&m, &i), SIGUSR1);
    EQ(i.si_pid, c);
    WAIT0(c);
}
TEST(siginfo_of_kill_and_tgkill) {
    act_info(SIGUSR1, on_info, 0);
    kill(getpid(), SIGUSR1);
    EQ(info.si_code, SI_USER);
    EQ(info.si_pid, getpid());
    EQ(info.si_uid, getuid());
    syscall(SYS_tgkill, getpid(), getpid(), SIGUSR1);
    EQ(info.si_code, SI_TKILL);
    ERR(syscall(SYS_tgkill, getpid(), 1 << 22, SIGUSR1), ESRCH);
    ERR(syscall(SYS_tgkill, 0, 0, SIGUSR1), EINVAL);
    ERR(kill(getpid(), 65), EINVAL);
    ERR(kill(getpid(), -1), EINVAL);
    OK(kill(getpid(), 0));
    ERR(kill(1 << 22, 0), ESRCH);
}
static sigset_t seen_mask;
static void see_mask(int s) { (void)s, sigprocmask(SIG_BLOCK, NULL, &seen_mask); }
TEST(mask_during_handler) {
    struct sigaction a = {.sa_handler = see_mask, .sa_mask = set(SIGUSR2, 0)};
    sigaction(SIGUSR1, &a, NULL);
    raise(SIGUSR1);
    EQ(sigismember(&seen_mask, SIGUSR1), 1);
    EQ(sigismember(&seen_mask, SIGUSR2), 1);
    a.sa_flags = SA_NODEFER;
    sigaction(SIGUSR1, &a, NULL);
    raise(SIGUSR1);
    EQ(sigismember(&seen_mask, SIGUSR1), 0);
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    EQ(sigismember(&now, SIGUSR2), 0);
}
TEST(resethand_and_sigaction_rules) {
    act(SIGUSR1, on, SA_RESETHAND);
    raise(SIGUSR1);
    struct sigaction o;
    OK(sigaction(SIGUSR1, NULL, &o));
    CK(o.sa_handler == SIG_DFL);
    o.sa_handler = on;
    ERR(sigaction(SIGKILL, &o, NULL), EINVAL);
    ERR(sigaction(SIGSTOP, &o, NULL), EINVAL);
    ERR(syscall(SYS_rt_sigaction, 65, NULL, NULL, 8), EINVAL);
    ERR(syscall(SYS_rt_sigaction, SIGUSR1, NULL, NULL, 4), EINVAL);
    ERR(syscall(SYS_rt_sigaction, SIGUSR1, (void *)8, NULL, 8), EFAULT);
}
static void *volatile handler_sp;
static void where(int s) {
    int x;
    (void)s, handler_sp = &x, hits++;
}
TEST(altstack) {
    static char stack[65536];
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack}, old;
    OK(sigaltstack(&ss, NULL));
    act(SIGUSR1, where, SA_ONSTACK);
    raise(SIGUSR1);
    CK((char *)handler_sp > stack && (char *)handler_sp < stack + sizeof stack);
    act(SIGUSR1, where, 0);
    raise(SIGUSR1);
    CK(!((char *)handler_sp > stack && (char *)handler_sp < stack + sizeof stack));
    OK(sigaltstack(NULL, &old));
    EQ(old.ss_flags, 0);
    CK(old.ss_sp == stack);
    ss.ss_size = 100;
    ERR(sigaltstack(&ss, NULL), ENOMEM);
    ss.ss_flags = 77;
    ERR(sigaltstack(&ss, NULL), EINVAL);
    ss.ss_flags = SS_DISABLE;
    OK(sigaltstack(&ss, NULL));
    OK(sigaltstack(NULL, &old));
    EQ(old.ss_flags, SS_DISABLE);
}
static sigjmp_buf jb;
static void jump(int s, siginfo_t *i, void *c) {
    (void)s, (void)c;
    info = *i;
    hits++;
    siglongjmp(jb, 1);
}
TEST(segv_address_and_code) {
    act_info(SIGSEGV, jump, 0);
    char *p = MAPOK(mmap(0, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (!sigsetjmp(jb, 1)) p[10] = 1;
    EQ(hits, 1);
    CK(info.si_addr == p + 10);
    EQ(info.si_code, SEGV_ACCERR);
    OK(munmap(p, 8192));
    if (!sigsetjmp(jb, 1)) *(volatile char *)(p + 5000);
    EQ(hits, 2);
    CK(info.si_addr == p + 5000);
    EQ(info.si_code, SEGV_MAPERR);
    if (!sigsetjmp(jb, 1)) *(volatile int *)NULL = 1;
    EQ(hits, 3);
    CK(info.si_addr == NULL);
    if (!sigsetjmp(jb, 1)) *(volatile int *)0x8000000000000000 = 1; // not canonical: general protection
    EQ(hits, 4);
    EQ(info.si_code, SI_KERNEL);
}
TEST(jump_to_bad_address) {
    act_info(SIGSEGV, jump, 0);
    if (!sigsetjmp(jb, 1)) ((void (*)(void))0x1230)();
    CK(info.si_addr == (void *)0x1230);
    static char data[16] = {(char)0xc3};
    if (!sigsetjmp(jb, 1)) ((void (*)(void))data)();
    CK(info.si_addr == data);
    EQ(info.si_code, SEGV_ACCERR);
    EQ(hits, 2);
}
static void fix(int s, siginfo_t *i, void *c) {
    (void)s;
    hits++;
    mprotect((void *)((uintptr_t)i->si_addr & ~4095ul), 4096, PROT_READ | PROT_WRITE);
    last = ((ucontext_t *)c)->uc_mcontext.gregs[REG_ERR];
}
TEST(segv_handler_repairs) {
    act_info(SIGSEGV, fix, 0);
    volatile char *p = MAPOK(mmap(0, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    p[4097] = 7;
    EQ(hits, 1);
    EQ(p[4097], 7);
    EQ(last & 2, 2); // the error code says: a write
}
TEST(segv_without_handler_kills) {
    int st, how;
    for (how = 0; how < 3; how++) {
        pid_t c = SPAWN({
            sigset_t m = set(SIGSEGV, 0);
            if (how == 1) sigprocmask(SIG_BLOCK, &m, NULL);
            if (how == 2) signal(SIGSEGV, SIG_IGN);
            *(volatile int *)NULL = 1;
        });
        OK(waitpid(c, &st, 0));
        CK(WIFSIGNALED(st) && WTERMSIG(st) == SIGSEGV);
    }
}
TEST(fpe_ill_trap_bus) {
    act_info(SIGFPE, jump, 0), act_info(SIGILL, jump, 0), act_info(SIGTRAP, jump, 0), act_info(SIGBUS, jump, 0), act_info(SIGSEGV, jump, 0);
    if (!sigsetjmp(jb, 1)) {
        volatile int a = 1, b = 0;
        a = a / b;
    }
    EQ(info.si_signo, SIGFPE);
    EQ(info.si_code, FPE_INTDIV);
    if (!sigsetjmp(jb, 1)) __asm__ volatile("ud2");
    EQ(info.si_signo, SIGILL);
    EQ(info.si_code, ILL_ILLOPN);
    if (!sigsetjmp(jb, 1)) __asm__ volatile("int3");
    EQ(info.si_signo, SIGTRAP);
    put("f", "x");
    int fd = OK(open("f", O_RDWR));
    char *p = MAPOK(mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    if (!sigsetjmp(jb, 1)) *(volatile char *)(p + 4096);
    EQ(info.si_signo, SIGBUS);
    EQ(info.si_code, BUS_ADRERR);
    CK(info.si_addr == p + 4096);
    if (!sigsetjmp(jb, 1)) __asm__ volatile("hlt");
    EQ(info.si_signo, SIGSEGV);
    EQ(info.si_code, SI_KERNEL);
    EQ(hits, 5);
}
static void spoil(int s) {
    (void)s;
    hits++;
    __asm__ volatile("pxor %%xmm0,%%xmm0; pxor %%xmm15,%%xmm15; fninit; xor %%r12,%%r12" ::: "xmm0", "xmm15", "r12");
}
__attribute__((target("avx"))) static void avx_part(void) {
    float in[8] = {1, 2, 3, 4, 5, 6, 7, 8}, out[8];
    pid_t me = getpid();
    __asm__ volatile("vmovups %1, %%ymm7\n"
                     "mov %2, %%edi\n mov %3, %%esi\n mov $62, %%eax\n syscall\n" // kill(me, SIGUSR1): the handler spoils all
                     "vmovups %%ymm7, %0\n"
                     : "=m"(out)
                     : "m"(in), "r"(me), "r"(SIGUSR1)
                     : "xmm7", "rax", "rdi", "rsi", "rcx", "r11", "memory");
    for (int i = 0; i < 8; i++) CK(out[i] == in[i]);
}
__attribute__((target("avx"))) static void spoil_avx(int s) {
    hits++, (void)s;
    __asm__ volatile("vzeroall" ::: "xmm7");
}
TEST(vector_state_preserved) {
    act(SIGUSR1, spoil, 0);
    double d = 3.25;
    __asm__ volatile("movsd %1, %%xmm15\n mov %2, %%edi\n mov $10, %%esi\n mov $62, %%eax\n syscall\n movsd %%xmm15, %0"
                     : "=m"(d)
                     : "m"(d), "r"(getpid())
                     : "xmm15", "rax", "rdi", "rsi", "rcx", "r11", "memory");
    CK(d == 3.25);
    EQ(hits, 1);
    if (!__builtin_cpu_supports("avx")) SKIP("no AVX");
    act(SIGUSR1, spoil_avx, 0);
    avx_part();
    EQ(hits, 2);
}
TEST(registers_preserved_async) {
    act(SIGALRM, spoil, SA_RESTART);
    struct itimerval it = {{0, 500}, {0, 500}};
    setitimer(ITIMER_REAL, &it, NULL);
    unsigned long a = 1, b = 2, c = 3;
    double x = 1.0;
    int64_t end = now_ns() + 300000000;
    unsigned long n = 0;
    // Longer on a machine that is busy.
    for (int64_t most = end + 10000000000LL; now_ns() < (hits > 20 ? end : most);)
        for (int i = 0; i < 10000; i++) {
            a += 3, b = b * 5 + a, c ^= b;
            x += 0.5;
            n++;
        }
    unsigned long a2 = 1, b2 = 2, c2 = 3;
    double x2 = 1.0;
    struct itimerval off = {0};
    setitimer(ITIMER_REAL, &off, NULL);
    for (unsigned long i = 0; i < n; i++) a2 += 3, b2 = b2 * 5 + a2, c2 ^= b2, x2 += 0.5;
    EQ(a, a2);
    EQ(b, b2);
    EQ(c, c2);
    CK(x == x2);
    CK(hits > 20);
}
TEST(eintr_and_restart) {
    int p[2];
    OK(pipe(p));
    // Again and again: one may come before the call does.
    struct itimerval it = {{0, 50000}, {0, 50000}};
    char b;
    act(SIGALRM, on, 0);
    setitimer(ITIMER_REAL, &it, NULL);
    ERR(read(p[0], &b, 1), EINTR);
    CK(hits);
    act(SIGALRM, on, SA_RESTART);
    pid_t c = SPAWN({
        ms(200);
        OK(write(p[1], "x", 1));
    });
    hits = 0;
    EQ(read(p[0], &b, 1), 1);
    while (!hits) ms(1);
    WAIT0(c);
    ERR(poll(NULL, 0, 3000), EINTR); // never restarted
    ERR(pause(), EINTR);
    struct timespec t = {3, 0}, rem = {0};
    ERR(nanosleep(&t, &rem), EINTR);
    CK(rem.tv_sec < 3 && rem.tv_sec * 1000000000L + rem.tv_nsec > 1000000000);
}
TEST(ignored_does_not_interrupt) {
    signal(SIGALRM, SIG_IGN);
    struct itimerval it = {{0, 0}, {0, 30000}};
    setitimer(ITIMER_REAL, &it, NULL);
    int64_t t = now_ns();
    EQ(poll(NULL, 0, 100), 0);
    CK(now_ns() - t >= 99000000);
}
TEST(partial_write_interrupted) {
    int p[2];
    OK(pipe(p));
    act(SIGALRM, on, 0);
    // Again and again: one may come before the call does.
    struct itimerval it = {{0, 100000}, {0, 100000}};
    setitimer(ITIMER_REAL, &it, NULL);
    static char b[100000];
    EQ(write(p[1], b, sizeof b), 65536);
    CK(hits);
}
TEST(stop_and_continue) {
    act(SIGCHLD, on, SA_RESTART);
    pid_t c = SPAWN(for (;;) pause());
    int st;
    kill(c, SIGSTOP);
    EQ(waitpid(c, &st, WUNTRACED), c);
    CK(WIFSTOPPED(st) && WSTOPSIG(st) == SIGSTOP);
    CK(state_is(c, "T"));
    kill(c, SIGUSR1); // pending while stopped
    EQ(waitpid(c, &st, WNOHANG | WUNTRACED), 0);
    kill(c, SIGCONT);
    siginfo_t i;
    OK(waitid(P_PID, c, &i, WCONTINUED | WEXITED | WNOWAIT));
    OK(waitpid(c, &st, 0));
    CK(WIFSIGNALED(st) && WTERMSIG(st) == SIGUSR1);
    CK(hits >= 2);
}
TEST(stopped_process_does_nothing) {
    int *n = MAPOK(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    pid_t c = SPAWN(for (;;) __atomic_add_fetch(n, 1, __ATOMIC_RELAXED));
    ms(30);
    kill(c, SIGSTOP);
    int st;
    EQ(waitpid(c, &st, WUNTRACED), c);
    int a = __atomic_load_n(n, __ATOMIC_RELAXED);
    ms(50);
    EQ(__atomic_load_n(n, __ATOMIC_RELAXED), a);
    kill(c, SIGCONT);
    for (int i = 0; i < 200 && __atomic_load_n(n, __ATOMIC_RELAXED) == a; i++) ms(5);
    CK(__atomic_load_n(n, __ATOMIC_RELAXED) != a);
    kill(c, SIGKILL);
    OK(waitpid(c, &st, 0));
    EQ(WTERMSIG(st), SIGKILL);
}
TEST(kill_spinning_process) {
    pid_t c = SPAWN(for (;;) __asm__ volatile("pause"));
    ms(20);
    kill(c, SIGTERM);
    int st;
    OK(waitpid(c, &st, 0));
    EQ(WTERMSIG(st), SIGTERM);
}
TEST(sigsuspend_atomic) {
    act(SIGUSR1, on, 0);
    sigset_t m = set(SIGUSR1, 0), none = set(0, 0), now;
    sigprocmask(SIG_BLOCK, &m, NULL);
    raise(SIGUSR1);
    ERR(sigsuspend(&none), EINTR);
    EQ(hits, 1);
    sigprocmask(SIG_BLOCK, NULL, &now);
    EQ(sigismember(&now, SIGUSR1), 1);
}
static void nest(int s) {
    order[norder++] = s;
    if (s == SIGUSR1) raise(SIGUSR2);
    order[norder++] = -s;
}
TEST(nested_handlers) {
    act(SIGUSR1, nest, 0), act(SIGUSR2, nest, 0);
    raise(SIGUSR1);
    EQ(norder, 4);
    EQ(order[0], SIGUSR1);
    EQ(order[1], SIGUSR2);
    EQ(order[2], -SIGUSR2);
    EQ(order[3], -SIGUSR1);
}
static void edit(int s, siginfo_t *i, void *c) {
    (void)s, (void)i;
    ucontext_t *u = c;
    u->uc_mcontext.gregs[REG_RIP] += 2; // over ud2
    u->uc_mcontext.gregs[REG_RBX] = 0x1234;
    sigaddset(&u->uc_sigmask, SIGUSR2);
}
TEST(handler_edits_context) {
    act_info(SIGILL, edit, 0);
    unsigned long v;
    __asm__ volatile("xor %%ebx,%%ebx\n ud2\n mov %%rbx,%0" : "=r"(v)::"rbx");
    EQ(v, 0x1234);
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    EQ(sigismember(&now, SIGUSR2), 1);
}
TEST(kill_group_and_permission) {
    pid_t g = SPAWN({
        setpgid(0, 0);
        pid_t k = SPAWN(pause());
        (void)k;
        pause();
    });
    setpgid(g, g);
    ms(50);
    OK(kill(-g, SIGTERM));
    int st;
    OK(waitpid(g, &st, 0));
    EQ(WTERMSIG(st), SIGTERM);
    if (geteuid()) return;
    pid_t c = SPAWN(pause());
    WAIT0(SPAWN({
        OK(setresuid(1000, 1000, 1000));
        ERR(kill(c, SIGTERM), EPERM);
        ERR(kill(c, 0), EPERM);
    }));
    kill(c, SIGKILL);
    OK(waitpid(c, &st, 0));
}
TEST(stack_overflow_on_altstack) {
    static char stack[65536];
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};
    OK(sigaltstack(&ss, NULL));
    act_info(SIGSEGV, jump, SA_ONSTACK);
    struct rlimit r = {1 << 20, 1 << 20};
    OK(setrlimit(RLIMIT_STACK, &r));
    if (!sigsetjmp(jb, 1)) {
        volatile char *sp = __builtin_frame_address(0);
        for (long i = 0;; i += 4096) sp[-i] = 1;
    }
    EQ(hits, 1);
}
TEST(alarm_and_sigchld_info) {
    act_info(SIGCHLD, on_info, 0);
    pid_t c = SPAWN(_exit(7));
    while (!hits) ms(5);
    EQ(info.si_code, CLD_EXITED);
    EQ(info.si_status, 7);
    EQ(info.si_pid, c);
    int st;
    OK(waitpid(c, &st, 0));
    EQ(alarm(100) > 0, 1); // the frame's own alarm
    CK(alarm(20) > 90);
}
// As a container's init: what it has blocked waits for it, whatever its default action; the rest does not reach it.
int t_child(int argc, char **argv) {
    (void)argc, (void)argv;
    sigset_t m;
    sigemptyset(&m), sigaddset(&m, SIGTERM);
    if (getpid() != 1 || sigprocmask(SIG_BLOCK, &m, NULL)) return 2;
    pid_t c = fork();
    if (!c) _exit(kill(1, SIGINT) || kill(1, SIGKILL) || kill(1, SIGTERM));
    struct timespec ts = {5, 0};
    siginfo_t i;
    if (sigtimedwait(&m, &i, &ts) != SIGTERM || i.si_pid != c) return 3;
    int st;
    if (waitpid(c, &st, 0) != c || st) return 4;
    // Unblocked with the default action: dropped.
    if (kill(1, SIGTERM) || sigprocmask(SIG_UNBLOCK, &m, NULL)) return 5;
    return 7;
}
