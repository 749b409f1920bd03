// Threads: clone, clone3, futexes, TLS, robust lists, CLEARTID, exec and exit with threads, signals to threads.
#include "t.h"
#include <linux/futex.h>
#include <linux/sched.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/prctl.h>

static long futex(volatile int *a, int op, int v, void *t, volatile int *b, int v3) { return syscall(SYS_futex, a, op, v, t, b, v3); }
static __thread int tls = 5;
static volatile int shared;

static void *tls_body(void *a) {
    if (tls != 5) return (void *)1;
    tls = (int)(intptr_t)a;
    ms(20);
    return (void *)(intptr_t)(tls != (int)(intptr_t)a);
}
TEST(tls_is_per_thread) {
    pthread_t t[8];
    for (int i = 0; i < 8; i++) EQ(pthread_create(&t[i], NULL, tls_body, (void *)(intptr_t)(100 + i)), 0);
    for (int i = 0; i < 8; i++) {
        void *r;
        EQ(pthread_join(t[i], &r), 0);
        EQ((intptr_t)r, 0);
    }
    EQ(tls, 5);
}
static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static long counter;
static void *count_body(void *a) {
    (void)a;
    for (int i = 0; i < 20000; i++) {
        pthread_mutex_lock(&mu);
        counter++;
        pthread_mutex_unlock(&mu);
    }
    return NULL;
}
TEST(mutex_counts) {
    pthread_t t[4];
    for (int i = 0; i < 4; i++) EQ(pthread_create(&t[i], NULL, count_body, NULL), 0);
    for (int i = 0; i < 4; i++) EQ(pthread_join(t[i], NULL), 0);
    EQ(counter, 80000);
}
static pthread_cond_t cv = PTHREAD_COND_INITIALIZER;
static int turn;
static void *pingpong(void *a) {
    int me = (int)(intptr_t)a;
    for (int i = 0; i < 500; i++) {
        pthread_mutex_lock(&mu);
        while (turn != me) pthread_cond_wait(&cv, &mu);
        turn = !me;
        pthread_cond_broadcast(&cv);
        pthread_mutex_unlock(&mu);
    }
    return NULL;
}
// A lock with an owner as user space has it: calls only when the word is not as expected.
static unsigned pi_word, pi_inside;
static long pi_count;
static void pi_take(unsigned me) {
    unsigned free = 0;
    if (__atomic_compare_exchange_n(&pi_word, &free, me, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return;
    while (syscall(SYS_futex, &pi_word, FUTEX_LOCK_PI_PRIVATE, 0, NULL))
        if (errno != EINTR) FAIL("FUTEX_LOCK_PI: %s, word %#x", strerror(errno), pi_word);
}
static void pi_give(unsigned me) {
    unsigned held = me;
    if (!__atomic_compare_exchange_n(&pi_word, &held, 0, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        OK(syscall(SYS_futex, &pi_word, FUTEX_UNLOCK_PI_PRIVATE));
}
static void *pi_thread(void *unused) {
    unsigned me = syscall(SYS_gettid);
    for (int i = 0; i < 4000; i++) {
        pi_take(me);
        EQ(__atomic_fetch_add(&pi_inside, 1, __ATOMIC_SEQ_CST), 0);
        EQ(pi_word & FUTEX_TID_MASK, me);
        pi_count++;
        for (volatile int spin = 0; spin < i % 64; spin++) {}
        EQ(__atomic_fetch_sub(&pi_inside, 1, __ATOMIC_SEQ_CST), 1);
        pi_give(me);
        for (volatile int spin = 0; spin < i % 97; spin++) {}
    }
    return NULL;
}
TEST(pi_locks_taken_in_user_space) {
    pthread_t t[4];
    for (int i = 0; i < 4; i++) pthread_create(t + i, NULL, pi_thread, NULL);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    EQ(pi_count, 16000);
    EQ(pi_word, 0);
}
TEST(condvar_pingpong) {
    pthread_t a, b;
    pthread_create(&a, NULL, pingpong, (void *)0);
    pthread_create(&b, NULL, pingpong, (void *)1);
    pthread_join(a, NULL);
    pthread_join(b, NULL);
    EQ(turn, 0);
}
static void *tid_body(void *a) {
    *(pid_t *)a = syscall(SYS_gettid);
    return (void *)(intptr_t)getpid();
}
TEST(ids_and_proc_task) {
    pthread_t t;
    pid_t tid = 0;
    void *r;
    pthread_create(&t, NULL, tid_body, &tid);
    pthread_join(t, &r);
    EQ((intptr_t)r, getpid());
    CK(tid != getpid() && tid > 0);
    EQ(syscall(SYS_gettid), getpid());
}
static void *sleeper(void *a) {
    (void)a;
    for (;;) pause();
    return NULL;
}
TEST(task_directory_lists_threads) {
    pthread_t t;
    for (int i = 0; i < 5; i++) pthread_create(&t, NULL, sleeper, NULL);
    DIR *d = opendir("/proc/self/task");
    CK(d);
    int n = 0;
    struct dirent *e;
    while ((e = readdir(d))) n += e->d_name[0] != '.';
    EQ(n, 6);
    CK(strstr(get("/proc/self/status"), "Threads:\t6\n"));
}
TEST(futex_basics) {
    volatile int f = 1;
    ERR(futex(&f, FUTEX_WAIT, 0, NULL, NULL, 0), EAGAIN);
    struct timespec t = {0, 30000000};
    int64_t s = now_ns();
    ERR(futex(&f, FUTEX_WAIT, 1, &t, NULL, 0), ETIMEDOUT);
    CK(now_ns() - s >= 29000000);
    EQ(futex(&f, FUTEX_WAKE, 1, NULL, NULL, 0), 0);
    ERR(futex((volatile int *)((char *)&f + 1), FUTEX_WAIT, 1, &t, NULL, 0), EINVAL);
    ERR(futex((void *)8, FUTEX_WAIT, 1, &t, NULL, 0), EFAULT);
    ERR(futex(&f, 99, 1, &t, NULL, 0), ENOSYS);
    t.tv_nsec = -1;
    ERR(futex(&f, FUTEX_WAIT, 1, &t, NULL, 0), EINVAL);
    ERR(futex(&f, FUTEX_WAIT_BITSET, 1, NULL, NULL, 0), EINVAL);
    clock_gettime(CLOCK_MONOTONIC, &t);
    ERR(futex(&f, FUTEX_WAIT_BITSET, 1, &t, NULL, -1), ETIMEDOUT);
    clock_gettime(CLOCK_REALTIME, &t);
    ERR(futex(&f, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 1, &t, NULL, -1), ETIMEDOUT);
}
TEST(futex_between_processes) {
    volatile int *f = MAPOK(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    pid_t c = SPAWN({
        while (*f == 0) futex(f, FUTEX_WAIT, 0, NULL, NULL, 0);
        *f = 2;
        futex(f, FUTEX_WAKE, 1, NULL, NULL, 0);
    });
    CK(state_is(c, "S"));
    *f = 1;
    EQ(futex(f, FUTEX_WAKE, 1, NULL, NULL, 0), 1);
    while (*f == 1) futex(f, FUTEX_WAIT, 1, NULL, NULL, 0);
    WAIT0(c);
}
TEST(futex_through_shared_file) {
    int fd = OK(open("f", O_CREAT | O_RDWR, 0600));
    OK(ftruncate(fd, 4096));
    volatile int *a = MAPOK(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    pid_t c = SPAWN({
        int g = OK(open("f", O_RDWR));
        volatile int *b = MAPOK(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, g, 0));
        b[1] = 1;
        while (b[0] == 0) futex(b, FUTEX_WAIT, 0, NULL, NULL, 0);
    });
    while (a[1] == 0) ms(5);
    CK(state_is(c, "S"));
    a[0] = 1;
    EQ(futex(a, FUTEX_WAKE, 1, NULL, NULL, 0), 1);
    WAIT0(c);
}
// Waits (bounded) until so many of our threads wait for something, then a little for good measure.
static void until_asleep(int want) {
    for (int i = 0, n = 0; i < 500 && n < want; i++) {
        ms(10), n = 0;
        DIR *d = opendir("/proc/self/task");
        for (struct dirent *e; d && (e = readdir(d));) {
            char path[300], *at;
            snprintf(path, sizeof path, "/proc/self/task/%s/stat", e->d_name);
            if (e->d_name[0] != '.' && !access(path, F_OK) && (at = strrchr(get(path), ')'))) n += at[2] == 'S';
        }
        if (d) closedir(d);
    }
    ms(20);
}
static volatile int fa, fb, woken;
static void *wait_fa(void *x) {
    (void)x;
    futex(&fa, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    __sync_fetch_and_add(&woken, 1);
    return NULL;
}
TEST(futex_requeue) {
    pthread_t t[3];
    for (int i = 0; i < 3; i++) pthread_create(&t[i], NULL, wait_fa, NULL);
    until_asleep(3);
    ERR(futex(&fa, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)10, &fb, 5), EAGAIN);
    EQ(futex(&fa, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)10, &fb, 0), 3);
    for (int i = 0; i < 500 && !woken; i++) ms(10);
    ms(20);
    EQ(woken, 1);
    EQ(futex(&fa, FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0), 0);
    EQ(futex(&fb, FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0), 2);
    for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
}
static void *bitset_body(void *x) {
    futex(&fa, FUTEX_WAIT_BITSET_PRIVATE, 0, NULL, NULL, (int)(intptr_t)x);
    return NULL;
}
TEST(futex_bitset_and_wake_op) {
    pthread_t a, b;
    pthread_create(&a, NULL, bitset_body, (void *)1);
    pthread_create(&b, NULL, bitset_body, (void *)2);
    until_asleep(2);
    EQ(futex(&fa, FUTEX_WAKE_BITSET_PRIVATE, 9, NULL, NULL, 4), 0);
    EQ(futex(&fa, FUTEX_WAKE_BITSET_PRIVATE, 9, NULL, NULL, 2), 1);
    pthread_join(b, NULL);
    fb = 10;
    EQ(futex(&fa, FUTEX_WAKE_OP_PRIVATE, 1, (void *)0, &fb, FUTEX_OP(FUTEX_OP_ADD, 5, FUTEX_OP_CMP_EQ, 10)), 1);
    EQ(fb, 15);
    pthread_join(a, NULL);
}
static char stack[65536] __attribute__((aligned(16)));
static int clone_body(void *a) {
    shared = 77;
    return (int)(intptr_t)a;
}
TEST(clone_vm_process) {
    pid_t c = OK(clone(clone_body, stack + sizeof stack, CLONE_VM | SIGCHLD, (void *)33));
    int st;
    EQ(waitpid(c, &st, 0), c);
    EQ(WEXITSTATUS(st), 33);
    EQ(shared, 77);
}
TEST(clone_without_sigchld_needs_wclone) {
    pid_t c = OK(clone(clone_body, stack + sizeof stack, CLONE_VM, (void *)3));
    ERR(waitpid(c, NULL, 0), ECHILD);
    int st;
    EQ(waitpid(c, &st, __WALL), c);
    EQ(WEXITSTATUS(st), 3);
}
TEST(clone_tid_pointers) {
    pid_t ptid = 0, ctid = 0;
    pid_t c = OK(clone(clone_body, stack + sizeof stack, CLONE_VM | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, 0, &ptid, NULL, &ctid));
    EQ(ptid, c);
    WAIT0(c);
    EQ(ctid, c);
}
TEST(child_cleartid_wakes) {
    volatile int ctid = -1;
    pid_t c = OK(clone(clone_body, stack + sizeof stack, CLONE_VM | CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID | SIGCHLD, 0, NULL, NULL, &ctid));
    while (ctid) {
        int v = ctid;
        if (v) futex(&ctid, FUTEX_WAIT, v, NULL, NULL, 0);
    }
    WAIT0(c);
}
static int fs_body(void *a) {
    (void)a;
    return chdir("/") | (close(50) < 0) | (dup2(0, 51) < 0);
}
TEST(clone_files_and_fs) {
    OK(dup2(0, 50));
    pid_t c = OK(clone(fs_body, stack + sizeof stack, CLONE_VM | CLONE_FILES | CLONE_FS | SIGCHLD, 0));
    WAIT0(c);
    char b[64];
    CK(getcwd(b, 64));
    STREQ(b, "/");
    ERR(fcntl(50, F_GETFD), EBADF);
    OK(fcntl(51, F_GETFD));
}
TEST(clone_bad_flags) {
    ERR(syscall(SYS_clone, CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0), EINVAL);
    ERR(syscall(SYS_clone, CLONE_THREAD | CLONE_VM, 0, 0, 0, 0), EINVAL);
    ERR(syscall(SYS_clone, CLONE_FS | CLONE_NEWNS, 0, 0, 0, 0), EINVAL);
    struct clone_args a = {.flags = 0, .exit_signal = 100};
    ERR(syscall(SYS_clone3, &a, sizeof a), EINVAL);
    a = (struct clone_args){.flags = CLONE_VM, .stack = (uintptr_t)stack, .exit_signal = SIGCHLD};
    ERR(syscall(SYS_clone3, &a, sizeof a), EINVAL);
    ERR(syscall(SYS_clone3, &a, 8), EINVAL);
    ERR(syscall(SYS_clone3, (void *)8, sizeof a), EFAULT);
}
TEST(clone3_forks_with_pidfd) {
    int pfd = -1;
    struct clone_args a = {.flags = CLONE_PIDFD, .pidfd = (uintptr_t)&pfd, .exit_signal = SIGCHLD};
    pid_t c = OK(syscall(SYS_clone3, &a, sizeof a));
    if (!c) _exit(4);
    struct pollfd p = {pfd, POLLIN, 0};
    EQ(poll(&p, 1, 5000), 1);
    int st;
    EQ(waitpid(c, &st, 0), c);
    EQ(WEXITSTATUS(st), 4);
}
TEST(robust_mutex) {
    pthread_mutexattr_t at;
    pthread_mutexattr_init(&at);
    pthread_mutexattr_setrobust(&at, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&at, PTHREAD_PROCESS_SHARED);
    pthread_mutex_t *m = MAPOK(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    pthread_mutex_init(m, &at);
    int p[2];
    OK(pipe(p));
    pid_t c = SPAWN({
        pthread_mutex_lock(m);
        OK(write(p[1], "x", 1));
        ms(100);
        kill(getpid(), SIGKILL);
    });
    char b;
    EQ(read(p[0], &b, 1), 1);
    EQ(pthread_mutex_lock(m), EOWNERDEAD);
    EQ(pthread_mutex_consistent(m), 0);
    EQ(pthread_mutex_unlock(m), 0);
    int st;
    OK(waitpid(c, &st, 0));
}
TEST(shared_semaphore_and_cond) {
    sem_t *s = MAPOK(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    EQ(sem_init(s, 1, 0), 0);
    pid_t c = SPAWN(for (int i = 0; i < 100; i++) OK(sem_wait(s)));
    for (int i = 0; i < 100; i++) OK(sem_post(s));
    WAIT0(c);
}
static void *exit_body(void *a) {
    (void)a;
    ms(30);
    _exit(9);
}
TEST(exit_group_from_thread) {
    pid_t c = SPAWN({
        pthread_t t;
        pthread_create(&t, NULL, exit_body, NULL);
        for (;;) pause();
    });
    int st;
    OK(waitpid(c, &st, 0));
    EQ(WEXITSTATUS(st), 9);
}
static int late_go[2];
static void *late_body(void *a) {
    (void)a;
    char c;
    read(late_go[0], &c, 1);
    exit(6);
}
TEST(leader_exits_first) {
    OK(pipe(late_go));
    pid_t c = SPAWN({
        pthread_t t;
        pthread_create(&t, NULL, late_body, NULL);
        syscall(SYS_exit, 1);
    });
    CK(state_is(c, "Z"));
    EQ(waitpid(c, NULL, WNOHANG), 0); // the group still lives
    EQ(write(late_go[1], "x", 1), 1);
    int st;
    OK(waitpid(c, &st, 0));
    EQ(WEXITSTATUS(st), 6);
}
static void *exec_body(void *a) {
    (void)a;
    execl(t_self, t_self, "--child", "tid", NULL);
    _exit(1);
}
TEST(exec_from_thread) {
    pid_t c = SPAWN({
        pthread_t t;
        for (int i = 0; i < 3; i++) pthread_create(&t, NULL, sleeper, NULL);
        pthread_create(&t, NULL, exec_body, NULL);
        for (;;) pause();
    });
    WAIT0(c); // the child checks that it is alone and that its tid is the process's
}
static volatile pthread_t got_in;
static void mark(int s) { (void)s, got_in = pthread_self(), shared++; }
TEST(signal_to_one_thread) {
    struct sigaction a = {.sa_handler = mark};
    sigaction(SIGUSR1, &a, NULL);
    pthread_t t;
    pthread_create(&t, NULL, sleeper, NULL);
    ms(20);
    EQ(pthread_kill(t, SIGUSR1), 0);
    while (!shared) ms(2);
    CK(pthread_equal(got_in, t));
    sigset_t m;
    sigemptyset(&m);
    sigaddset(&m, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &m, NULL);
    kill(getpid(), SIGUSR1); // blocked here: the other thread takes it
    while (shared < 2) ms(2);
    CK(pthread_equal(got_in, t));
}
static void *nothing(void *a) { return a; }
TEST(many_short_threads) {
    for (int i = 0; i < 500; i++) {
        pthread_t t;
        void *r;
        EQ(pthread_create(&t, NULL, nothing, (void *)(intptr_t)i), 0);
        EQ(pthread_join(t, &r), 0);
        EQ((intptr_t)r, i);
    }
}
static pthread_barrier_t bar;
static void *bar_body(void *a) {
    (void)a;
    for (int i = 0; i < 20; i++) pthread_barrier_wait(&bar);
    return NULL;
}
TEST(fifty_threads_barrier) {
    pthread_t t[50];
    pthread_barrier_init(&bar, NULL, 50);
    for (int i = 0; i < 50; i++) EQ(pthread_create(&t[i], NULL, bar_body, NULL), 0);
    for (int i = 0; i < 50; i++) EQ(pthread_join(t[i], NULL), 0);
}
static void *blocked_read(void *a) {
    char b;
    return (void *)(intptr_t)read(*(int *)a, &b, 1);
}
TEST(blocked_threads_do_not_block_others) {
    int p[2];
    OK(pipe(p));
    pthread_t t[40];
    for (int i = 0; i < 40; i++) EQ(pthread_create(&t[i], NULL, blocked_read, &p[0]), 0);
    ms(50);
    for (int i = 0; i < 40; i++) OK(write(p[1], "x", 1));
    for (int i = 0; i < 40; i++) {
        void *r;
        pthread_join(t[i], &r);
        EQ((intptr_t)r, 1);
    }
}
static void *fork_body(void *a) {
    (void)a;
    for (int i = 0; i < 10; i++) {
        pid_t c = fork();
        if (c == 0) _exit(3);
        int st;
        if (waitpid(c, &st, 0) != c || WEXITSTATUS(st) != 3) return (void *)1;
    }
    return NULL;
}
TEST(fork_from_threads) {
    pthread_t t[6];
    for (int i = 0; i < 6; i++) pthread_create(&t[i], NULL, fork_body, NULL);
    for (int i = 0; i < 6; i++) {
        void *r;
        pthread_join(t[i], &r);
        EQ((intptr_t)r, 0);
    }
}
TEST(set_tid_and_robust_list_calls) {
    void *h;
    size_t l;
    OK(syscall(SYS_get_robust_list, 0, &h, &l));
    EQ(l, 24);
    ERR(syscall(SYS_set_robust_list, h, 7), EINVAL);
    int d;
    EQ(syscall(SYS_set_tid_address, &d), syscall(SYS_gettid));
}
int t_child(int argc, char **argv) {
    if (argc && !strcmp(argv[0], "tid")) {
        DIR *d = opendir("/proc/self/task");
        int n = 0;
        struct dirent *e;
        while (d && (e = readdir(d))) n += e->d_name[0] != '.';
        return !(syscall(SYS_gettid) == getpid() && n == 1);
    }
    return 1;
}
