// Calls that say who the caller is, asked so often that whoever remembers answers has them, and asked again after a change.
#include "t.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>

// The same answer to call `nr`, time and again.
static long ask(long nr) {
    long first = syscall(nr);
    for (int i = 0; i < 20; i++) EQ(syscall(nr), first);
    return first;
}
static void ask_all(void) {
    static const long all[] = {SYS_getpid, SYS_gettid, SYS_getppid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) ask(all[i]);
}
static pid_t in_status(const char *name) {
    char b[4096];
    int f = open("/proc/thread-self/status", O_RDONLY);
    ssize_t n = read(f, b, sizeof b - 1);
    close(f);
    b[n > 0 ? n : 0] = 0;
    char *p = strstr(b, name);
    return p ? atoi(p + strlen(name)) : -1;
}
// As /proc says, which nobody remembers.
static void check_all(void) {
    EQ(ask(SYS_getpid), in_status("Tgid:\t"));
    EQ(ask(SYS_gettid), in_status("\nPid:\t"));
    EQ(ask(SYS_getppid), in_status("PPid:\t"));
}

TEST(children_and_threads) {
    ask_all();
    pid_t me = getpid();
    for (int i = 0; i < 3; i++) {
        pid_t c = SPAWN({
            EQ(ask(SYS_getppid), me);
            check_all();
            pid_t mine = getpid();
            CK(mine != me);
            WAIT0(SPAWN(EQ(ask(SYS_getppid), mine); check_all()));
        });
        WAIT0(c);
    }
    pid_t v = vfork();
    if (v == 0) _exit(syscall(SYS_getppid) != me || syscall(SYS_getpid) == me);
    int st;
    EQ(waitpid(v, &st, 0), v);
    EQ(st, 0);
    check_all();
}
static void *tid_of(void *a) {
    check_all();
    *(long *)a = ask(SYS_gettid);
    return NULL;
}
TEST(threads_have_ids_of_their_own) {
    long ids[8];
    pthread_t t[8];
    ask_all();
    for (int i = 0; i < 8; i++) EQ(pthread_create(&t[i], NULL, tid_of, &ids[i]), 0);
    for (int i = 0; i < 8; i++) pthread_join(t[i], NULL);
    for (int i = 0; i < 8; i++) CK(ids[i] != getpid());
    check_all();
}
static void *execs(void *a) {
    char pid[16];
    ask_all();
    snprintf(pid, sizeof pid, "%d", getpid());
    execl(t_self, t_self, "--child", pid, NULL);
    return a;
}
TEST(a_thread_that_executes_is_the_leader) {
    WAIT0(SPAWN({
        pthread_t t;
        pthread_create(&t, NULL, execs, NULL);
        for (;;) pause();
    }));
}
int t_child(int argc, char **argv) {
    return argc < 1 || syscall(SYS_gettid) != atoi(argv[0]) || syscall(SYS_getpid) != atoi(argv[0]);
}
TEST(changed_users) {
    if (geteuid()) SKIP("not root");
    WAIT0(SPAWN({
        ask_all();
        OK(setresgid(11, 12, 13));
        EQ(ask(SYS_getgid), 11);
        EQ(ask(SYS_getegid), 12);
        OK(setresuid(21, 22, 0));
        EQ(ask(SYS_getuid), 21);
        EQ(ask(SYS_geteuid), 22);
        OK(seteuid(0));
        EQ(ask(SYS_geteuid), 0);
        OK(setuid(33));
        EQ(ask(SYS_getuid), 33);
        EQ(ask(SYS_geteuid), 33);
        WAIT0(SPAWN(EQ(ask(SYS_getuid), 33)));
    }));
}
TEST(users_of_a_namespace_without_maps) {
    int p[2], q[2];
    char b, path[64];
    OK(pipe(p)), OK(pipe(q));
    uid_t u = geteuid();
    pid_t c = SPAWN({
        ask_all();
        if (unshare(CLONE_NEWUSER)) _exit(77);
        EQ(ask(SYS_getuid), 65534);
        OK(write(p[1], "x", 1));
        OK(read(q[0], &b, 1));
        // Somebody else has written the map.
        EQ(ask(SYS_getuid), 5);
        EQ(ask(SYS_geteuid), 5);
        EQ(ask(SYS_getgid), 65534);
    });
    close(p[1]);
    int st;
    if (read(p[0], &b, 1) != 1) {
        waitpid(c, &st, 0);
        if (WIFEXITED(st) && WEXITSTATUS(st) == 77) SKIP("no user namespaces");
        FAIL("child ended with %x", st);
    }
    snprintf(path, sizeof path, "/proc/%d/uid_map", c);
    char map[32];
    snprintf(map, sizeof map, "5 %d 1\n", u);
    int f = open(path, O_WRONLY);
    OK(f);
    OK(write(f, map, strlen(map)));
    OK(write(q[1], "x", 1));
    WAIT0(c);
}
// A child that asks without a pause sees another parent at the latest when that one's death signal has come.
static volatile int told;
static void tell(int s) { told = s; }
TEST(another_parent) {
    OK(prctl(PR_SET_CHILD_SUBREAPER, 1));
    pid_t me = getpid();
    for (int n = 0; n < 5; n++) {
        int p[2];
        OK(pipe(p));
        pid_t c = SPAWN({
            pid_t mid = getpid();
            pid_t g = fork();
            if (!g) {
                signal(SIGUSR1, tell);
                prctl(PR_SET_PDEATHSIG, SIGUSR1);
                int64_t until = now_ns() + 15000000000LL;
                if (write(p[1], &(pid_t){getpid()}, sizeof(pid_t)) < 0) _exit(1);
                long seen = mid;
                while (!told && (seen = syscall(SYS_getppid)) == mid)
                    if (now_ns() > until) _exit(2);
                _exit(syscall(SYS_getppid) != me || (seen != mid && seen != me) ? 3 : 0);
            }
            ms(5 * n);
        });
        pid_t g;
        EQ(read(p[0], &g, sizeof g), sizeof g);
        WAIT0(c);
        WAIT0(g);
    }
}
// Another thread's filter, which is put on all, holds for calls that have been made before.
static volatile int filtered;
static volatile long last;
static void *asks(void *a) {
    int64_t until = now_ns() + 15000000000LL;
    do last = syscall(SYS_getpid);
    while (last > 0 && now_ns() < until);
    return a;
}
TEST(filters_see_calls) {
    WAIT0(SPAWN({
        pthread_t t;
        ask_all();
        EQ(pthread_create(&t, NULL, asks, NULL), 0);
        while (!last) ms(1);
        ms(20);
        struct sock_filter f[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpid, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 42),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog prog = {4, f};
        OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        OK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog));
        ERR(syscall(SYS_getpid), 42);
        pthread_join(t, NULL);
        EQ(last, -1);
        // A child has the filter, too.
        WAIT0(SPAWN(ERR(syscall(SYS_getpid), 42); CK(ask(SYS_gettid) > 0)));
    }));
}
static volatile int hits;
static void hit(int s) { hits += s != 0; }
TEST(signals_while_asking) {
    signal(SIGALRM, hit);
    struct itimerval every = {{0, 2000}, {0, 2000}};
    OK(setitimer(ITIMER_REAL, &every, NULL));
    pid_t me = getpid();
    int64_t until = now_ns() + 15000000000LL;
    while (hits < 30 && now_ns() < until) EQ(syscall(SYS_getpid), me);
    OK(setitimer(ITIMER_REAL, &(struct itimerval){{0, 0}, {0, 0}}, NULL));
    CK(hits >= 30);
}
