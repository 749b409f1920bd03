// seccomp(2): modes, actions, precedence, inheritance, threads, user notification, and which calls filters see.
#include "t.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <ucontext.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#define OFF(f) offsetof(struct seccomp_data, f)
#define LDW(off) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, off)
#define RET(v) BPF_STMT(BPF_RET | BPF_K, v)
#define JEQ(v, t, f) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, v, t, f)
#define PROG(...)                                    \
    ({                                               \
        static struct sock_filter t_f[] = {__VA_ARGS__}; \
        (struct sock_fprog){sizeof t_f / sizeof *t_f, t_f}; \
    })

// glibc's wrapper does not expect a failure.
#define GPP() syscall(SYS_getppid)

static long sec(unsigned op, unsigned flags, void *arg) { return syscall(SYS_seccomp, op, flags, arg); }
static void nnp(void) { OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); }
static long install(struct sock_fprog p, unsigned flags) { return sec(SECCOMP_SET_MODE_FILTER, flags, &p); }
// One call gets an answer, all others pass.
static struct sock_fprog only(unsigned nr, unsigned answer) {
    struct sock_filter *f = malloc(4 * sizeof *f);
    struct sock_filter c[] = {LDW(OFF(nr)), JEQ(nr, 0, 1), RET(answer), RET(SECCOMP_RET_ALLOW)};
    memcpy(f, c, sizeof c);
    return (struct sock_fprog){4, f};
}
static int wstatus(pid_t p) {
    int st;
    OK(waitpid(p, &st, 0));
    return st;
}
static int field(const char *name) {
    char *s = get("/proc/thread-self/status"), *p = strstr(s, name);
    return p ? atoi(p + strlen(name)) : -1;
}

TEST(privilege_and_arguments) {
    struct sock_fprog ok = only(SYS_getppid, SECCOMP_RET_ERRNO | 5);
    ERR(sec(99, 0, NULL), EINVAL);
    ERR(sec(SECCOMP_SET_MODE_STRICT, 1, NULL), EINVAL);
    ERR(sec(SECCOMP_SET_MODE_STRICT, 0, &ok), EINVAL);
    ERR(install(ok, 1 << 20), EINVAL);
    ERR(install(ok, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV), EINVAL);
    ERR(install(ok, SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_NEW_LISTENER), EINVAL);
    ERR(sec(SECCOMP_SET_MODE_FILTER, 0, (void *)8), EFAULT);
    ERR(install((struct sock_fprog){0, ok.filter}, 0), EINVAL);
    ERR(install((struct sock_fprog){4097, ok.filter}, 0), EINVAL);
    ERR(prctl(PR_SET_SECCOMP, 7, 0, 0, 0), EINVAL);
    ERR(prctl(PR_SET_SECCOMP, 0, 0, 0, 0), EINVAL);
    // Without privilege, no_new_privs is asked for before the program is read.
    WAIT0(SPAWN({
        OK(setresuid(1000, 1000, 1000));
        ERR(install((struct sock_fprog){4, (void *)8}, 0), EACCES);
        ERR(install(ok, 0), EACCES);
        nnp();
        ERR(install((struct sock_fprog){4, (void *)8}, 0), EFAULT);
        ERR(install(PROG(LDW(OFF(nr))), 0), EINVAL);
        ERR(install(PROG(LDW(2), RET(0)), 0), EINVAL);
        ERR(install(PROG(LDW(64), RET(0)), 0), EINVAL);
        ERR(install(PROG(BPF_STMT(BPF_LD | BPF_MEM, 1), RET(0)), 0), EINVAL);
        OK(install(ok, 0));
        ERR(GPP(), 5);
    }));
}
TEST(queries) {
    unsigned a[] = {SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, SECCOMP_RET_TRAP, SECCOMP_RET_ERRNO,
                    SECCOMP_RET_USER_NOTIF, SECCOMP_RET_TRACE, SECCOMP_RET_LOG, SECCOMP_RET_ALLOW};
    for (unsigned i = 0; i < sizeof a / sizeof *a; i++) OK(sec(SECCOMP_GET_ACTION_AVAIL, 0, &a[i]));
    unsigned bad = 0x12340000;
    ERR(sec(SECCOMP_GET_ACTION_AVAIL, 0, &bad), EOPNOTSUPP);
    ERR(sec(SECCOMP_GET_ACTION_AVAIL, 1, &a), EINVAL);
    ERR(sec(SECCOMP_GET_ACTION_AVAIL, 0, (void *)8), EFAULT);
    struct seccomp_notif_sizes s;
    OK(sec(SECCOMP_GET_NOTIF_SIZES, 0, &s));
    EQ(s.seccomp_notif, sizeof(struct seccomp_notif));
    EQ(s.seccomp_notif_resp, sizeof(struct seccomp_notif_resp));
    EQ(s.seccomp_data, sizeof(struct seccomp_data));
    STREQ(get("/proc/sys/kernel/seccomp/actions_avail"),
          "kill_process kill_thread trap errno user_notif trace log allow\n");
}
TEST(status_and_prctl) {
    int base = field("Seccomp_filters:");
    OK(install(only(SYS_getppid, SECCOMP_RET_ERRNO | 1), 0));
    EQ(prctl(PR_GET_SECCOMP, 0, 0, 0, 0), 2);
    EQ(field("Seccomp:"), 2);
    EQ(field("Seccomp_filters:"), base + 1);
    struct sock_fprog two = only(SYS_getpgrp, SECCOMP_RET_ERRNO | 2);
    OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &two, 0, 0));
    EQ(field("Seccomp_filters:"), base + 2);
    ERR(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0), EINVAL);
    pid_t c = SPAWN({
        EQ(field("Seccomp_filters:"), base + 2);
        ERR(GPP(), 1);
    });
    WAIT0(c);
}
TEST(errno_values) {
    OK(install(only(SYS_getppid, SECCOMP_RET_ERRNO), 0));
    EQ(syscall(SYS_getppid), 0);
    OK(install(only(SYS_getpgrp, SECCOMP_RET_ERRNO | 4095), 0));
    ERR(syscall(SYS_getpgrp), 4095);
    OK(install(only(SYS_getuid, SECCOMP_RET_ERRNO | 0xffff), 0));
    ERR(syscall(SYS_getuid), 4095);
    OK(install(only(SYS_geteuid, SECCOMP_RET_ERRNO | 600), 0));
    ERR(syscall(SYS_geteuid), 600);
}
TEST(arguments_are_seen) {
    // lseek(x, 0x1_0000_0002, …): both halves; fd by its low half.
    OK(install(PROG(LDW(OFF(nr)), JEQ(SYS_lseek, 0, 7), LDW(OFF(args[1])), JEQ(2, 0, 5), LDW(OFF(args[1]) + 4),
                    JEQ(1, 0, 3), LDW(OFF(args[0])), JEQ(77, 0, 1), RET(SECCOMP_RET_ERRNO | 11),
                    RET(SECCOMP_RET_ALLOW)),
               0));
    ERR(lseek(77, 0x100000002, SEEK_SET), 11);
    ERR(lseek(77, 0x200000002, SEEK_SET), EBADF);
    ERR(lseek(78, 0x100000002, SEEK_SET), EBADF);
}
TEST(precedence) {
    // The strictest action wins, whoever came first; of equal ones the newest filter's value counts.
    OK(install(only(SYS_getppid, SECCOMP_RET_ERRNO | 1), 0));
    OK(install(only(SYS_getppid, SECCOMP_RET_LOG), 0));
    ERR(GPP(), 1);
    OK(install(only(SYS_getppid, SECCOMP_RET_ERRNO | 3), 0));
    ERR(GPP(), 3);
    OK(install(only(SYS_getppid, SECCOMP_RET_TRACE), 0));
    ERR(GPP(), 3);
    int st = wstatus(SPAWN({
        OK(install(only(SYS_getppid, SECCOMP_RET_KILL_PROCESS), 0));
        GPP();
    }));
    CK(WIFSIGNALED(st) && WTERMSIG(st) == SIGSYS);
    OK(install(only(SYS_getuid, SECCOMP_RET_TRACE), 0));
    ERR(syscall(SYS_getuid), ENOSYS);
    OK(install(only(SYS_getgid, SECCOMP_RET_LOG), 0));
    EQ(getgid(), syscall(SYS_getegid));
}
TEST(unknown_action_kills) {
    int st = wstatus(SPAWN({
        OK(install(only(SYS_getppid, 0x00010000), 0));
        GPP();
    }));
    CK(WIFSIGNALED(st) && WTERMSIG(st) == SIGSYS);
}
TEST(exec_keeps_filters) {
    nnp();
    OK(install(only(SYS_getppid, SECCOMP_RET_ERRNO | 7), 0));
    pid_t c = SPAWN(execl(t_self, t_self, "--child", "getppid", NULL));
    EQ(wstatus(c), 7 << 8);
}

static volatile int traps;
// Volatile: the compiler believes that syscall() changes nothing here.
static volatile siginfo_t trapped;
static volatile greg_t trap_ax;
static volatile unsigned long trap_ip;
static void on_sys(int s, siginfo_t *i, void *u) {
    ucontext_t *uc = u;
    traps++;
    memcpy((void *)&trapped, i, sizeof *i);
    trap_ax = uc->uc_mcontext.gregs[REG_RAX];
    trap_ip = uc->uc_mcontext.gregs[REG_RIP];
    uc->uc_mcontext.gregs[REG_RAX] = 4242;
}
TEST(trap) {
    struct sigaction sa = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO};
    OK(sigaction(SIGSYS, &sa, NULL));
    OK(install(only(SYS_getppid, SECCOMP_RET_TRAP | 0x1234), 0));
    EQ(syscall(SYS_getppid), 4242);
    EQ(traps, 1);
    EQ(trapped.si_signo, SIGSYS);
    EQ(trapped.si_code, 1);
    EQ(trapped.si_errno, 0x1234);
    EQ(trapped.si_syscall, SYS_getppid);
    EQ(trapped.si_arch, AUDIT_ARCH_X86_64);
    EQ((unsigned long)trapped.si_call_addr, trap_ip);
    EQ(trap_ax, SYS_getppid);
    // A call that needs all registers (the platform's other way in).
    OK(install(only(SYS_fork, SECCOMP_RET_TRAP | 9), 0));
    EQ(syscall(SYS_fork), 4242);
    EQ(trapped.si_errno, 9);
    EQ(trapped.si_syscall, SYS_fork);
    EQ(trap_ax, SYS_fork);
}
TEST(trap_blocked_or_ignored_kills) {
    int st = wstatus(SPAWN({
        signal(SIGSYS, SIG_IGN);
        OK(install(only(SYS_getppid, SECCOMP_RET_TRAP), 0));
        GPP();
    }));
    CK(WIFSIGNALED(st) && WTERMSIG(st) == SIGSYS);
    st = wstatus(SPAWN({
        sigset_t s;
        sigemptyset(&s);
        sigaddset(&s, SIGSYS);
        sigprocmask(SIG_BLOCK, &s, NULL);
        struct sigaction sa = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO};
        sigaction(SIGSYS, &sa, NULL);
        OK(install(only(SYS_getppid, SECCOMP_RET_TRAP), 0));
        GPP();
    }));
    CK(WIFSIGNALED(st) && WTERMSIG(st) == SIGSYS);
}
TEST(all_ways_into_the_kernel) {
    // Calls that are finished natively, by the stub, or with all registers.
    unsigned nrs[] = {SYS_mmap, SYS_munmap, SYS_mprotect, SYS_madvise, SYS_brk, SYS_sched_yield, SYS_clone, SYS_vfork,
                      SYS_clone3, SYS_execve, SYS_execveat, SYS_shmat, SYS_arch_prctl, SYS_membarrier, SYS_futex,
                      SYS_gettimeofday, SYS_clock_gettime, SYS_time, SYS_getcpu, SYS_rseq, SYS_mremap, SYS_msync};
    for (unsigned i = 0; i < sizeof nrs / sizeof *nrs; i++) {
        WAIT0(SPAWN({
            OK(install(only(nrs[i], SECCOMP_RET_ERRNO | 123), 0));
            long r;
            __asm__ volatile("xor %%r10d,%%r10d; xor %%r8d,%%r8d; xor %%r9d,%%r9d; syscall"
                             : "=a"(r)
                             : "a"((long)nrs[i]), "D"(0), "S"(0), "d"(0)
                             : "rcx", "r11", "r10", "r8", "r9", "memory");
            if (r != -123) FAIL("call %u gave %ld", nrs[i], r);
        }));
    }
}
static void nothing(int s) {}
TEST(sigreturn_can_be_forbidden) {
    // The handler's return is a call as well: it fails, and the code after the restorer's call traps.
    int st = wstatus(SPAWN({
        signal(SIGUSR1, nothing);
        OK(install(only(SYS_rt_sigreturn, SECCOMP_RET_KILL_PROCESS), 0));
        raise(SIGUSR1);
    }));
    CK(WIFSIGNALED(st) && WTERMSIG(st) == SIGSYS);
}
TEST(restart_syscall_is_seen) {
    // SIGSTOP and SIGCONT in a sleep: the rest of it is restart_syscall.
    pid_t c = SPAWN({
        OK(install(only(SYS_restart_syscall, SECCOMP_RET_ERRNO | 77), 0));
        struct timespec ts = {5, 0};
        errno = 0;
        int r = nanosleep(&ts, NULL);
        _exit(r == -1 && errno == 77 ? 0 : 90);
    });
    CK(state_is(c, "S"));
    OK(kill(c, SIGSTOP));
    CK(state_is(c, "T"));
    OK(kill(c, SIGCONT));
    EQ(wstatus(c), 0);
    // One that is restarted as a whole is checked again as itself: here it still may pass.
    int p[2];
    OK(pipe(p));
    c = SPAWN({
        OK(install(only(SYS_restart_syscall, SECCOMP_RET_KILL_PROCESS), 0));
        char b;
        EQ(read(p[0], &b, 1), 1);
    });
    CK(state_is(c, "S"));
    OK(kill(c, SIGSTOP));
    CK(state_is(c, "T"));
    OK(kill(c, SIGCONT));
    ms(20);
    EQ(write(p[1], "x", 1), 1);
    EQ(wstatus(c), 0);
}
TEST(foreign_numbers) {
    // x32 numbers and -1 pass the filters as any other.
    OK(install(PROG(LDW(OFF(nr)), JEQ(0x40000027, 0, 1), RET(SECCOMP_RET_ERRNO | 55), JEQ(0xffffffff, 0, 1),
                    RET(SECCOMP_RET_ERRNO | 56), RET(SECCOMP_RET_ALLOW)),
               0));
    ERR(syscall(0x40000027), 55);
    ERR(syscall(-1), 56);
    ERR(syscall(0x40000190), ENOSYS);
    ERR(syscall(100000), ENOSYS);
}
TEST(other_architecture) {
    // int $0x80 is a call of i386; where there is none it is a fault, as it is here or ENOSYS.
    int st = wstatus(SPAWN({
        OK(install(PROG(LDW(OFF(arch)), JEQ(AUDIT_ARCH_I386, 0, 1), RET(SECCOMP_RET_ERRNO | 99), RET(SECCOMP_RET_ALLOW)), 0));
        long r;
        __asm__ volatile("int $0x80" : "=a"(r) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
        _exit(r == -99 ? 0 : 91);
    }));
    if (WIFSIGNALED(st) && WTERMSIG(st) == SIGSEGV) SKIP("no i386 calls");
    EQ(st, 0);
}

static pid_t tids[2];
static volatile int go, seen[2];
static void *waiter(void *a) {
    int i = (int)(long)a;
    tids[i] = syscall(SYS_gettid);
    while (!go) ms(1);
    errno = 0;
    seen[i] = syscall(SYS_getppid) == -1 ? errno : 0;
    seen[i] += 1000 * prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
    return NULL;
}
static void *diverges(void *a) {
    OK(install(only(SYS_getpgrp, SECCOMP_RET_ERRNO | 9), 0));
    return waiter(a);
}
TEST(tsync) {
    pthread_t t[2];
    for (long i = 0; i < 2; i++) EQ(pthread_create(&t[i], NULL, waiter, (void *)i), 0);
    while (!tids[0] || !tids[1]) ms(1);
    nnp();
    OK(install(only(SYS_getppid, SECCOMP_RET_ERRNO | 21), SECCOMP_FILTER_FLAG_TSYNC));
    go = 1;
    for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
    EQ(seen[0], 1021);
    EQ(seen[1], 1021);
}
TEST(tsync_refuses_strays) {
    pthread_t t;
    EQ(pthread_create(&t, NULL, diverges, (void *)0), 0);
    while (!tids[0]) ms(1);
    ms(20);
    EQ(install(only(SYS_getppid, SECCOMP_RET_ERRNO | 21), SECCOMP_FILTER_FLAG_TSYNC), tids[0]);
    ERR(install(only(SYS_getppid, SECCOMP_RET_ERRNO | 21), SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH), ESRCH);
    CK(GPP() > 0);
    go = 1;
    pthread_join(t, NULL);
}
static void *getppid_dies(void *a) {
    GPP();
    return (void *)1;
}
TEST(kill_thread_and_process) {
    int st = wstatus(SPAWN({
        OK(install(only(SYS_getppid, SECCOMP_RET_KILL_THREAD), 0));
        pthread_t t;
        pthread_create(&t, NULL, getppid_dies, NULL);
        ms(50);
        _exit(7);
    }));
    EQ(st, 7 << 8);
    st = wstatus(SPAWN({
        OK(install(only(SYS_getppid, SECCOMP_RET_KILL_PROCESS), 0));
        pthread_t t;
        pthread_create(&t, NULL, getppid_dies, NULL);
        ms(2000);
        _exit(7);
    }));
    CK(WIFSIGNALED(st) && WTERMSIG(st) == SIGSYS);
    // The only thread: as the process.
    st = wstatus(SPAWN({
        OK(install(only(SYS_getppid, SECCOMP_RET_KILL_THREAD), 0));
        GPP();
    }));
    CK(WIFSIGNALED(st) && WTERMSIG(st) == SIGSYS);
}
TEST(strict) {
    int st = wstatus(SPAWN({
        OK(sec(SECCOMP_SET_MODE_STRICT, 0, NULL));
        write(1, "", 0);
        syscall(SYS_exit, 5);
    }));
    EQ(st, 5 << 8);
    st = wstatus(SPAWN({
        OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
        syscall(SYS_getpid);
    }));
    CK(WIFSIGNALED(st) && WTERMSIG(st) == SIGKILL);
}
TEST(chain_limit) {
    static struct sock_filter f[4096];
    for (int i = 0; i < 4096; i++) f[i] = (struct sock_filter)RET(SECCOMP_RET_ALLOW);
    int n = 0;
    while (install((struct sock_fprog){4096, f}, 0) == 0) n++;
    EQ(errno, ENOMEM);
    CK(n >= 3 && n <= 7); // Linux counts what it translates them to
}

// User notification: a child with the filter; the listener comes over by a shared table.
static int shared_clone(void) { return syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0); }
static volatile int *box;
static int start(unsigned nr, unsigned flags, long (*fn)(void)) {
    box = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    box[0] = -1;
    pid_t c = shared_clone();
    if (c == 0) {
        int l = install(only(nr, SECCOMP_RET_USER_NOTIF), SECCOMP_FILTER_FLAG_NEW_LISTENER | flags);
        box[0] = l < 0 ? -100 : l;
        if (l < 0) _exit(94);
        _exit(fn());
    }
    while (box[0] == -1) ms(1);
    box[1] = c;
    return box[0];
}
static long ask_getppid(void) {
    long r = syscall(SYS_getppid);
    return r == -1 ? errno : r;
}
static struct seccomp_notif rq;
static void recv_rq(int l) {
    memset(&rq, 0, sizeof rq);
    OK(ioctl(l, SECCOMP_IOCTL_NOTIF_RECV, &rq));
}
static int answer(int l, int64_t val, int err, unsigned flags) {
    struct seccomp_notif_resp r = {rq.id, val, err, flags};
    return ioctl(l, SECCOMP_IOCTL_NOTIF_SEND, &r);
}
static int events(int l) {
    struct pollfd p = {l, POLLIN | POLLOUT, 0};
    poll(&p, 1, 0);
    return p.revents;
}
TEST(notify_value) {
    int l = start(SYS_getppid, 0, ask_getppid);
    CK(fcntl(l, F_GETFD) & FD_CLOEXEC);
    recv_rq(l);
    EQ(rq.pid, box[1]);
    EQ(rq.data.nr, SYS_getppid);
    EQ(rq.data.arch, AUDIT_ARCH_X86_64);
    EQ(rq.flags, 0);
    OK(ioctl(l, SECCOMP_IOCTL_NOTIF_ID_VALID, &rq.id));
    EQ(events(l), POLLOUT);
    OK(answer(l, 41, 0, 0));
    EQ(wstatus(box[1]), 41 << 8);
    ERR(ioctl(l, SECCOMP_IOCTL_NOTIF_ID_VALID, &rq.id), ENOENT);
    EQ(events(l), POLLHUP);
    memset(&rq, 0, sizeof rq);
    ERR(ioctl(l, SECCOMP_IOCTL_NOTIF_RECV, &rq), ENOENT);
}
TEST(notify_errno_and_poll) {
    int l = start(SYS_getppid, 0, ask_getppid);
    struct pollfd p = {l, POLLIN | POLLOUT, 0};
    EQ(poll(&p, 1, 5000), 1);
    EQ(p.revents, POLLIN);
    recv_rq(l);
    OK(answer(l, 0, -17, 0));
    EQ(wstatus(box[1]), 17 << 8);
}
TEST(notify_continue) {
    int l = start(SYS_getppid, 0, ask_getppid);
    recv_rq(l);
    OK(answer(l, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE));
    EQ(wstatus(box[1]), (getpid() & 0xff) << 8);
}
static long ask_mmap(void) {
    char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return errno;
    p[5000] = 1;
    return 88;
}
TEST(notify_continue_native) {
    // A call that the platform finishes natively, after a wait that is short and one that is long.
    for (int i = 0; i < 2; i++) {
        int l = start(SYS_mmap, 0, ask_mmap);
        recv_rq(l);
        if (i) ms(300);
        OK(answer(l, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE));
        EQ(wstatus(box[1]), 88 << 8);
        close(l);
    }
}
static long ask_fork(void) {
    long r = syscall(SYS_fork);
    if (r == 0) _exit(0);
    return r < 0 ? errno : r == 66 ? 66 : waitpid(r, NULL, 0) == r ? 87 : 86;
}
TEST(notify_fork) {
    int l = start(SYS_fork, 0, ask_fork);
    recv_rq(l);
    OK(answer(l, 66, 0, 0));
    EQ(wstatus(box[1]), 66 << 8);
    close(l);
    l = start(SYS_fork, 0, ask_fork);
    recv_rq(l);
    OK(answer(l, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE));
    EQ(wstatus(box[1]), 87 << 8);
}
TEST(notify_errors) {
    int l = start(SYS_getppid, 0, ask_getppid);
    rq.id = 12345;
    ERR(answer(l, 0, 0, 0), ENOENT);
    ERR(answer(l, 0, 0, 8), EINVAL);
    ERR(answer(l, 1, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE), EINVAL);
    ERR(ioctl(l, SECCOMP_IOCTL_NOTIF_ID_VALID, &rq.id), ENOENT);
    ERR(ioctl(l, SECCOMP_IOCTL_NOTIF_RECV, (void *)8), EFAULT);
    memset(&rq, 1, sizeof rq);
    ERR(ioctl(l, SECCOMP_IOCTL_NOTIF_RECV, &rq), EINVAL);
    ERR(ioctl(l, 0x2199, 0), EINVAL);
    char b;
    ERR(read(l, &b, 1), EINVAL);
    recv_rq(l);
    OK(answer(l, 3, 0, 0));
    int r = answer(l, 3, 0, 0); // already answered, or already gone
    CK(r == -1 && (errno == EINPROGRESS || errno == ENOENT));
    EQ(wstatus(box[1]), 3 << 8);
}
TEST(notify_only_one_listener) {
    WAIT0(SPAWN({
        OK(install(only(SYS_getppid, SECCOMP_RET_USER_NOTIF), SECCOMP_FILTER_FLAG_NEW_LISTENER));
        ERR(install(only(SYS_getuid, SECCOMP_RET_USER_NOTIF), SECCOMP_FILTER_FLAG_NEW_LISTENER), EBUSY);
    }));
    // Without any listener.
    OK(install(only(SYS_getppid, SECCOMP_RET_USER_NOTIF), 0));
    ERR(GPP(), ENOSYS);
}
TEST(notify_close) {
    int l = start(SYS_getppid, 0, ask_getppid);
    recv_rq(l);
    close(l);
    EQ(wstatus(box[1]), ENOSYS << 8);
}
static long ask_open(void) {
    int fd = syscall(SYS_getppid);
    char b[8] = "";
    if (fd < 0) return 90;
    if (read(fd, b, 3) != 3 || strcmp(b, "abc")) return 91;
    return fd;
}
static int addfd(int l, int src, int at, unsigned flags, unsigned fdflags) {
    struct seccomp_notif_addfd a = {rq.id, flags, src, at, fdflags};
    return ioctl(l, SECCOMP_IOCTL_NOTIF_ADDFD, &a);
}
// The child must not share the table here: it gets the listener's number over a pipe as a duplicate by pidfd.
static int start_apart(unsigned nr, long (*fn)(void)) {
    box = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int sv[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
    box[1] = SPAWN({
        int l = OK(install(only(nr, SECCOMP_RET_USER_NOTIF), SECCOMP_FILTER_FLAG_NEW_LISTENER));
        char c[CMSG_SPACE(sizeof l)] = {0}, d = 0;
        struct iovec v = {&d, 1};
        struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        h->cmsg_level = SOL_SOCKET, h->cmsg_type = SCM_RIGHTS, h->cmsg_len = CMSG_LEN(sizeof l);
        memcpy(CMSG_DATA(h), &l, sizeof l);
        OK(sendmsg(sv[1], &m, 0));
        close(l);
        _exit(fn());
    });
    char c[CMSG_SPACE(sizeof(int))], d;
    struct iovec v = {&d, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
    OK(recvmsg(sv[0], &m, 0));
    int l;
    memcpy(&l, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof l);
    return l;
}
TEST(notify_addfd) {
    put("f", "abc");
    int l = start_apart(SYS_getppid, ask_open), src = OK(open("f", O_RDONLY));
    rq.id = 1;
    ERR(addfd(l, src, 0, 0, 0), ENOENT);
    recv_rq(l);
    ERR(addfd(l, 999, 0, 0, 0), EBADF);
    ERR(addfd(l, src, 5, 0, 0), EINVAL);
    ERR(addfd(l, src, 0, 8, 0), EINVAL);
    ERR(addfd(l, src, 0, 0, 4), EINVAL);
    int fd = OK(addfd(l, src, 0, 0, O_CLOEXEC));
    EQ(addfd(l, src, 50, SECCOMP_ADDFD_FLAG_SETFD, 0), 50);
    char p[64];
    snprintf(p, sizeof p, "/proc/%d/fd/50", box[1]);
    CK(access(p, F_OK) == 0);
    snprintf(p, sizeof p, "/proc/%d/fd/%d", box[1], fd);
    CK(access(p, F_OK) == 0);
    ERR(addfd(l, src, 1 << 30, SECCOMP_ADDFD_FLAG_SETFD, 0), EBADF);
    struct {
        struct seccomp_notif_addfd a;
        uint64_t more;
    } big = {{rq.id, 0, src, 0, 0}, 1};
    ERR(ioctl(l, _IOC(_IOC_WRITE, '!', 3, sizeof big), &big), E2BIG);
    ERR(ioctl(l, _IOC(_IOC_WRITE, '!', 3, 8), &big), EINVAL);
    OK(answer(l, 50, 0, 0));
    EQ(wstatus(box[1]), 50 << 8);
}
#ifndef SECCOMP_ADDFD_FLAG_SEND
#define SECCOMP_ADDFD_FLAG_SEND 2
#endif
TEST(notify_addfd_send) {
    put("f", "abc");
    int l = start_apart(SYS_getppid, ask_open), src = OK(open("f", O_RDONLY));
    recv_rq(l);
    int fd = OK(addfd(l, src, 0, SECCOMP_ADDFD_FLAG_SEND, 0));
    EQ(wstatus(box[1]), fd << 8);
}
static long ask_signalled(void) {
    struct sigaction sa = {.sa_handler = nothing, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &sa, NULL);
    box[2] = 1;
    return ask_getppid();
}
TEST(notify_interrupted) {
    int l = start(SYS_getppid, 0, ask_signalled);
    recv_rq(l);
    uint64_t first = rq.id;
    OK(kill(box[1], SIGUSR1));
    recv_rq(l); // the call is made again
    CK(rq.id != first);
    ERR(ioctl(l, SECCOMP_IOCTL_NOTIF_ID_VALID, &first), ENOENT);
    OK(answer(l, 31, 0, 0));
    EQ(wstatus(box[1]), 31 << 8);
}
TEST(notify_wait_killable) {
    int l = start(SYS_getppid, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, ask_signalled);
    recv_rq(l);
    OK(kill(box[1], SIGUSR1));
    ms(50);
    OK(ioctl(l, SECCOMP_IOCTL_NOTIF_ID_VALID, &rq.id));
    OK(answer(l, 33, 0, 0));
    EQ(wstatus(box[1]), 33 << 8);
    close(l);
    l = start(SYS_getppid, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, ask_signalled);
    recv_rq(l);
    OK(kill(box[1], SIGKILL));
    EQ(wstatus(box[1]), SIGKILL);
    ERR(ioctl(l, SECCOMP_IOCTL_NOTIF_ID_VALID, &rq.id), ENOENT);
}
TEST(notify_many) {
    int l = start(SYS_getppid, 0, ask_getppid);
    (void)l;
    recv_rq(l);
    OK(answer(l, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE));
    wstatus(box[1]);
    close(l);
    // 200 children wait at once; answered last to first.
    l = OK(install(only(SYS_getppid, SECCOMP_RET_USER_NOTIF), SECCOMP_FILTER_FLAG_NEW_LISTENER));
    enum { N = 200 };
    static struct seccomp_notif all[N];
    for (int i = 0; i < N; i++) SPAWN(_exit(syscall(SYS_getppid) == 7 ? 0 : 93));
    for (int i = 0; i < N; i++) {
        recv_rq(l);
        all[i] = rq;
    }
    ms(50);
    for (int i = N - 1; i >= 0; i--) {
        rq = all[i];
        OK(answer(l, 7, 0, 0));
    }
    for (int i = 0, st; i < N; i++) {
        OK(wait(&st));
        EQ(st, 0);
    }
}

// Random programs, judged by a checker and an interpreter of our own: on Linux this proves those two, elsewhere the kernel.
static uint64_t rnd_state;
static uint32_t rnd(uint32_t below) {
    rnd_state ^= rnd_state << 13, rnd_state ^= rnd_state >> 7, rnd_state ^= rnd_state << 17;
    return (rnd_state >> 16) % below;
}
static uint32_t rnd_word(void) {
    static const uint32_t edges[] = {0, 1, 2, 31, 32, 63, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffffffe, AUDIT_ARCH_X86_64};
    return rnd(2) ? edges[rnd(sizeof edges / sizeof *edges)] : (uint32_t)rnd_state;
}
enum { TESTED = SYS_getpgrp };
static const uint16_t codes[] = {
    BPF_LD | BPF_W | BPF_ABS, BPF_LD | BPF_W | BPF_ABS, BPF_LD | BPF_W | BPF_LEN, BPF_LDX | BPF_W | BPF_LEN, BPF_LD | BPF_IMM, BPF_LDX | BPF_IMM,
    BPF_LD | BPF_MEM, BPF_LDX | BPF_MEM, BPF_ST, BPF_STX, BPF_RET | BPF_A, BPF_MISC | BPF_TAX, BPF_MISC | BPF_TXA, BPF_ALU | BPF_NEG,
    BPF_ALU | BPF_ADD, BPF_ALU | BPF_SUB, BPF_ALU | BPF_MUL, BPF_ALU | BPF_DIV, BPF_ALU | BPF_OR, BPF_ALU | BPF_AND, BPF_ALU | BPF_XOR,
    BPF_ALU | BPF_LSH, BPF_ALU | BPF_RSH, BPF_ALU | BPF_ADD | BPF_X, BPF_ALU | BPF_SUB | BPF_X, BPF_ALU | BPF_MUL | BPF_X, BPF_ALU | BPF_DIV | BPF_X,
    BPF_ALU | BPF_OR | BPF_X, BPF_ALU | BPF_AND | BPF_X, BPF_ALU | BPF_XOR | BPF_X, BPF_ALU | BPF_LSH | BPF_X, BPF_ALU | BPF_RSH | BPF_X,
    BPF_JMP | BPF_JA, BPF_JMP | BPF_JEQ, BPF_JMP | BPF_JGT, BPF_JMP | BPF_JGE, BPF_JMP | BPF_JSET, BPF_JMP | BPF_JEQ | BPF_X, BPF_JMP | BPF_JGT | BPF_X,
    BPF_JMP | BPF_JGE | BPF_X, BPF_JMP | BPF_JSET | BPF_X,
    // never allowed
    BPF_LD | BPF_B | BPF_ABS, BPF_LD | BPF_W | BPF_IND, BPF_LDX | BPF_B | BPF_MSH, BPF_ALU | BPF_MOD, BPF_ALU | BPF_MOD | BPF_X, 0xffff, BPF_RET | BPF_X};
enum { NCODES = sizeof codes / sizeof *codes, NGOOD = NCODES - 7 };

// A body between "not the tested call: allow" and "answer what is in A".
static int rnd_program(struct sock_filter *f) {
    int n = 0, body = 4 + rnd(24), wild = rnd(6) == 0;
    f[n++] = (struct sock_filter)LDW(OFF(nr));
    f[n++] = (struct sock_filter)JEQ(TESTED, 1, 0);
    f[n++] = (struct sock_filter)RET(SECCOMP_RET_ALLOW);
    for (int i = 0; i < 4; i++) f[n++] = (struct sock_filter){i & 1 ? BPF_STX : BPF_ST, 0, 0, i};
    for (int i = 0; i < body; i++) {
        uint16_t c = codes[rnd(wild && rnd(8) == 0 ? NCODES : NGOOD)];
        uint32_t k = rnd_word();
        int left = body - i; // jumps reach the end of the body at most
        if (c == (BPF_RET | BPF_A)) c = BPF_LD | BPF_IMM; // answers must be errnos: see the end
        if (!(wild && rnd(10) == 0)) {
            if (c == (BPF_LD | BPF_W | BPF_ABS)) k = (const uint32_t[]){0, 4}[rnd(2)] + (rnd(4) ? 16 + 4 * rnd(11) : 0);
            if (c == (BPF_ALU | BPF_DIV)) k = k ? k : 3;
            if (c == (BPF_ALU | BPF_LSH) || c == (BPF_ALU | BPF_RSH)) k %= 32;
            if (c == (BPF_LD | BPF_MEM) || c == (BPF_LDX | BPF_MEM)) k = rnd(wild ? 16 : 4);
            if (c == BPF_ST || c == BPF_STX) k = rnd(16);
            if (c == (BPF_JMP | BPF_JA)) k = rnd(left);
        } else if (BPF_CLASS(c) == BPF_JMP) {
            k = 1000, left = 255; // too far
        }
        f[n++] = (struct sock_filter){c, left == 255 ? 255 : rnd(left), rnd(left), k};
    }
    f[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xfff);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_OR | BPF_K, SECCOMP_RET_ERRNO);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_A, 0);
    return n;
}
static int valid(const struct sock_filter *f, int n) {
    unsigned masks[64];
    memset(masks, 0xff, sizeof masks);
    unsigned have = 0;
    for (int i = 0; i < n; i++) {
        uint16_t c = f[i].code;
        uint32_t k = f[i].k, rest = n - i - 1;
        int known = 0;
        for (int j = 0; j < NGOOD; j++) known |= codes[j] == c;
        if (!known && c != (BPF_RET | BPF_K)) return 0;
        if (c == (BPF_LD | BPF_W | BPF_ABS) && (k >= sizeof(struct seccomp_data) || k % 4)) return 0;
        if (c == (BPF_ALU | BPF_DIV) && !k) return 0;
        if ((c == (BPF_ALU | BPF_LSH) || c == (BPF_ALU | BPF_RSH)) && k >= 32) return 0;
        int mem = c == BPF_ST || c == BPF_STX || c == (BPF_LD | BPF_MEM) || c == (BPF_LDX | BPF_MEM);
        if (mem && k >= 16) return 0;
        if (c == (BPF_JMP | BPF_JA) && k >= rest) return 0;
        if (BPF_CLASS(c) == BPF_JMP && c != (BPF_JMP | BPF_JA) && (f[i].jt >= rest || f[i].jf >= rest)) return 0;
    }
    for (int i = 0; i < n; i++) {
        uint16_t c = f[i].code;
        have &= masks[i];
        if (c == BPF_ST || c == BPF_STX) have |= 1u << f[i].k;
        if ((c == (BPF_LD | BPF_MEM) || c == (BPF_LDX | BPF_MEM)) && !(have & 1u << f[i].k)) return 0;
        if (c == (BPF_JMP | BPF_JA)) masks[i + 1 + f[i].k] &= have, have = ~0u;
        else if (BPF_CLASS(c) == BPF_JMP) masks[i + 1 + f[i].jt] &= have, masks[i + 1 + f[i].jf] &= have, have = ~0u;
    }
    return 1;
}
static uint32_t interpret(const struct sock_filter *f, const uint32_t *data) {
    uint32_t a = 0, x = 0, m[16] = {0};
    for (int pc = 0;; pc++) {
        uint16_t c = f[pc].code;
        uint32_t k = f[pc].k, v = c & BPF_X ? x : k;
        switch (BPF_CLASS(c)) {
        case BPF_LD: a = BPF_MODE(c) == BPF_ABS ? data[k / 4] : BPF_MODE(c) == BPF_LEN ? 64 : BPF_MODE(c) == BPF_MEM ? m[k] : k; break;
        case BPF_LDX: x = BPF_MODE(c) == BPF_LEN ? 64 : BPF_MODE(c) == BPF_MEM ? m[k] : k; break;
        case BPF_ST: m[k] = a; break;
        case BPF_STX: m[k] = x; break;
        case BPF_RET: return BPF_RVAL(c) == BPF_A ? a : k;
        case BPF_MISC: if (c & BPF_TXA) a = x; else x = a; break;
        case BPF_ALU:
            switch (BPF_OP(c)) {
            case BPF_ADD: a += v; break;
            case BPF_SUB: a -= v; break;
            case BPF_MUL: a *= v; break;
            case BPF_DIV: if (!v) return 0; a /= v; break;
            case BPF_OR: a |= v; break;
            case BPF_AND: a &= v; break;
            case BPF_XOR: a ^= v; break;
            case BPF_LSH: a <<= v & 31; break;
            case BPF_RSH: a >>= v & 31; break;
            case BPF_NEG: a = -a; break;
            }
            break;
        case BPF_JMP: {
            int t = BPF_OP(c) == BPF_JEQ ? a == v : BPF_OP(c) == BPF_JGT ? a > v : BPF_OP(c) == BPF_JGE ? a >= v : (a & v) != 0;
            pc += BPF_OP(c) == BPF_JA ? k : t ? f[pc].jt : f[pc].jf;
        }
        }
    }
}
TEST(random_filters) {
    int accepted = 0, refused = 0, killed = 0;
    for (int round = 0; round < 600; round++) {
        rnd_state = 88172645463325252ull + round * 0x9e3779b97f4a7c15ull;
        for (int i = 0; i < 4; i++) rnd(2);
        struct sock_filter f[64];
        int n = rnd_program(f), ok = valid(f, n);
        pid_t c = fork();
        if (!c) {
            errno = 0;
            long r = install((struct sock_fprog){n, f}, 0);
            if (ok ? r != 0 : r != -1 || errno != EINVAL) FAIL("round %d: installing gave %ld, errno %d; valid: %d", round, r, errno, ok);
            if (!ok) _exit(3);
            for (int i = 0; i < 10; i++) {
                uint32_t d[16] = {TESTED, AUDIT_ARCH_X86_64, 0, 0};
                for (int j = 4; j < 16; j++) d[j] = rnd_word();
                uint64_t v[6];
                memcpy(v, d + 4, sizeof v);
                uint32_t want = interpret(f, d);
                if (want == 0) {
                    syscall(TESTED, v[0], v[1], v[2], v[3], v[4], v[5]); // ends here
                    FAIL("round %d: division by zero did not kill", round);
                }
                errno = 0;
                r = syscall(TESTED, v[0], v[1], v[2], v[3], v[4], v[5]);
                uint32_t e = want & 0xffff;
                if (e ? r != -1 || errno != (int)e : r != 0) FAIL("round %d.%d: %ld errno %d, want %u", round, i, r, errno, e);
            }
            _exit(0);
        }
        int st = wstatus(c);
        if (WIFEXITED(st) && WEXITSTATUS(st) >= 98) _exit(WEXITSTATUS(st));
        if (st == 0) accepted++;
        else if (st == 3 << 8) refused++;
        else if (WIFSIGNALED(st) && WTERMSIG(st) == SIGSYS) killed++;
        else FAIL("round %d ended with 0x%x", round, st);
    }
    CK(accepted > 200 && refused > 30 && killed > 5);
}

int t_child(int argc, char **argv) {
    if (!strcmp(argv[0], "getppid")) return syscall(SYS_getppid) == -1 ? errno : 0;
    return 1;
}
