// fork, wait, sessions, process groups, orphans, subreapers, vfork, prctl.
#include "t.h"
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/prctl.h>

TEST(wait_statuses) {
    int st;
    pid_t c = SPAWN(_exit(42));
    EQ(waitpid(c, &st, 0), c);
    CK(WIFEXITED(st));
    EQ(WEXITSTATUS(st), 42);
    ERR(waitpid(c, &st, 0), ECHILD);
    c = SPAWN(_exit(0x1ff));
    OK(waitpid(-1, &st, 0));
    EQ(WEXITSTATUS(st), 255);
    c = SPAWN(kill(getpid(), SIGKILL));
    OK(wait(&st));
    EQ(st, SIGKILL);
    c = SPAWN(pause());
    EQ(waitpid(c, &st, WNOHANG), 0);
    kill(c, SIGTERM);
    EQ(waitpid(c, NULL, 0), c);
    ERR(waitpid(-1, &st, 0x40000), EINVAL);
    ERR(wait(&st), ECHILD);
}
TEST(waitid_forms) {
    pid_t c = SPAWN(_exit(3));
    siginfo_t i;
    OK(waitid(P_PID, c, &i, WEXITED | WNOWAIT));
    EQ(i.si_pid, c);
    EQ(i.si_status, 3);
    EQ(i.si_code, CLD_EXITED);
    EQ(i.si_signo, SIGCHLD);
    OK(waitid(P_ALL, 0, &i, WEXITED));
    ERR(waitid(P_ALL, 0, &i, WEXITED), ECHILD);
    c = SPAWN(pause());
    i.si_pid = 7;
    OK(waitid(P_PID, c, &i, WEXITED | WNOHANG));
    EQ(i.si_pid, 0);
    ERR(waitid(P_PID, c, &i, 0), EINVAL);
    ERR(waitid(77, c, &i, WEXITED), EINVAL);
    kill(c, SIGABRT);
    OK(waitid(P_PID, c, &i, WEXITED));
    CK(i.si_code == CLD_KILLED || i.si_code == CLD_DUMPED);
    EQ(i.si_status, SIGABRT);
}
TEST(waitid_pidfd) {
    pid_t c = SPAWN(_exit(9));
    int fd = OK(syscall(SYS_pidfd_open, c, 0));
    struct pollfd p = {fd, POLLIN, 0};
    EQ(poll(&p, 1, 5000), 1);
    siginfo_t i;
    OK(waitid(3 /* P_PIDFD */, fd, &i, WEXITED));
    EQ(i.si_status, 9);
    ERR(syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0), ESRCH);
    ERR(syscall(SYS_pidfd_open, 1 << 22, 0), ESRCH);
    ERR(syscall(SYS_pidfd_open, 0, 0), EINVAL);
}
TEST(fork_memory_private) {
    static int x = 1;
    int *sh = MAPOK(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    pid_t parent = getpid();
    WAIT0(SPAWN({
        x = 2;
        *sh = 7;
        EQ(getppid(), parent);
        CK(getpid() != parent);
    }));
    EQ(x, 1);
    EQ(*sh, 7);
}
TEST(many_children) {
    pid_t c[100];
    for (int i = 0; i < 100; i++) c[i] = SPAWN(_exit(i));
    for (int i = 99; i >= 0; i--) {
        int st;
        EQ(waitpid(c[i], &st, 0), c[i]);
        EQ(WEXITSTATUS(st), i);
    }
}
TEST(nested_fork_chain) {
    WAIT0(SPAWN({
        for (int i = 0; i < 30; i++) {
            pid_t p = fork();
            if (p < 0) _exit(97);
            if (p) {
                int st;
                waitpid(p, &st, 0);
                _exit(WEXITSTATUS(st));
            }
        }
    }));
}
static cpu_set_t cpus_of(pid_t tid) {
    cpu_set_t set;
    CPU_ZERO(&set);
    OK(sched_getaffinity(tid, sizeof set, &set));
    return set;
}
static atomic_int forks_over;
static void *watch_cpus(void *all) {
    while (!forks_over) {
        cpu_set_t now = cpus_of(getpid());
        CK(CPU_EQUAL(&now, (cpu_set_t *)all));
    }
    return NULL;
}
static void fork_on(cpu_set_t *all, int times) {
    for (int i = 0; i < times; i++) {
        pid_t c = fork();
        cpu_set_t mine = cpus_of(0);
        if (!c) _exit(CPU_EQUAL(&mine, all) ? 0 : 1);
        int st;
        EQ(waitpid(c, &st, 0), c);
        EQ(st, 0);
        CK(CPU_EQUAL(&mine, all));
    }
}
TEST(forks_keep_the_cpus) {
    cpu_set_t all = cpus_of(0), one;
    pthread_t t;
    EQ(pthread_create(&t, NULL, watch_cpus, &all), 0);
    fork_on(&all, 50);
    forks_over = 1;
    EQ(pthread_join(t, NULL), 0);
    int last = 0;
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &all)) last = i;
    CPU_ZERO(&one);
    CPU_SET(last, &one);
    OK(sched_setaffinity(0, sizeof one, &one));
    fork_on(&one, 5);
    // A new program runs where the old one did, as nicely.
    pid_t c = SPAWN({
        OK(setpriority(PRIO_PROCESS, 0, 4));
        char cpu[16];
        snprintf(cpu, sizeof cpu, "%d", last);
        execl(t_self, t_self, "--child", "where", cpu, (char *)NULL);
    });
    int st;
    EQ(waitpid(c, &st, 0), c);
    EQ(st, 0);
    OK(sched_setaffinity(0, sizeof all, &all));
    fork_on(&all, 5);
}
TEST(a_thread_knows_its_cpu) {
    cpu_set_t all = cpus_of(0);
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, &all)) continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(i, &one);
        OK(sched_setaffinity(0, sizeof one, &one));
        unsigned cpu = -1, node = -1, only = -1;
        OK(syscall(SYS_getcpu, &cpu, &node, NULL));
        EQ(cpu, i);
        CK(node < 1024);
        OK(syscall(SYS_getcpu, &only, NULL, NULL));
        EQ(only, i);
        // What the C library has from rseq or the vDSO.
        EQ(sched_getcpu(), i);
    }
    OK(syscall(SYS_getcpu, NULL, NULL, NULL));
    unsigned cpu;
    ERR(syscall(SYS_getcpu, (void *)8, NULL, NULL), EFAULT);
    ERR(syscall(SYS_getcpu, &cpu, (void *)-4096, NULL), EFAULT);
    OK(sched_setaffinity(0, sizeof all, &all));
}
static int policy_of_child(int *nice) {
    int fd[2], got[2];
    OK(pipe(fd));
    WAIT0(SPAWN({
        int mine[2] = {sched_getscheduler(0), getpriority(PRIO_PROCESS, 0)};
        EQ(write(fd[1], mine, sizeof mine), sizeof mine);
    }));
    EQ(read(fd[0], got, sizeof got), sizeof got);
    close(fd[0]), close(fd[1]);
    if (nice) *nice = got[1];
    return got[0];
}
TEST(scheduling_policies) {
    struct sched_param none = {0}, one = {1};
    EQ(sched_getscheduler(0), SCHED_OTHER);
    OK(sched_setscheduler(0, SCHED_BATCH, &none));
    EQ(sched_getscheduler(0), SCHED_BATCH);
    EQ(policy_of_child(NULL), SCHED_BATCH);
    ERR(sched_setscheduler(0, SCHED_BATCH, &one), EINVAL);
    ERR(sched_setscheduler(0, 77, &none), EINVAL);
    OK(setpriority(PRIO_PROCESS, 0, 3));
    OK(sched_setscheduler(0, SCHED_OTHER | SCHED_RESET_ON_FORK, &none));
    EQ(sched_getscheduler(0), SCHED_OTHER | SCHED_RESET_ON_FORK);
    int nice;
    EQ(policy_of_child(&nice), SCHED_OTHER);
    EQ(nice, 3);
    struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t rest[3]; } attr;
    OK(syscall(SYS_sched_getattr, 0, &attr, 48, 0));
    EQ(attr.policy, SCHED_OTHER);
    EQ(attr.flags & 1, 1);
    EQ(attr.nice, 3);
    // As another user, who has no power: what was lowered stays.
    WAIT0(SPAWN({
        if (!geteuid()) OK(setuid(65534));
        struct rlimit none_nicer = {0, 0};
        OK(setrlimit(RLIMIT_NICE, &none_nicer));
        ERR(sched_setscheduler(0, SCHED_RESET_ON_FORK | SCHED_FIFO, &one), EPERM);
        ERR(sched_setscheduler(getppid(), SCHED_BATCH, &none), EPERM);
        OK(sched_setscheduler(0, SCHED_IDLE, &none));
        EQ(sched_getscheduler(0), SCHED_IDLE);
        OK(sched_setscheduler(0, SCHED_IDLE | SCHED_RESET_ON_FORK, &none));
        ERR(sched_setscheduler(0, SCHED_IDLE, &none), EPERM);
        ERR(sched_setscheduler(0, SCHED_OTHER | SCHED_RESET_ON_FORK, &none), EPERM);
        memset(&attr, 0, sizeof attr);
        attr.size = 48, attr.policy = SCHED_IDLE, attr.flags = 1 << 20;
        ERR(syscall(SYS_sched_setattr, 0, &attr, 0), EINVAL);
    }));
}
TEST(wait_wakes_on_exit) {
    int64_t t = now_ns();
    pid_t c = SPAWN(ms(100));
    WAIT0(c);
    CK(now_ns() - t > 50000000);
}
TEST(sigchld_ignored_reaps) {
    signal(SIGCHLD, SIG_IGN);
    pid_t c = SPAWN(_exit(1));
    ERR(waitpid(c, NULL, 0), ECHILD);
    struct sigaction a = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
    sigaction(SIGCHLD, &a, NULL);
    c = SPAWN(_exit(1));
    ERR(waitpid(c, NULL, 0), ECHILD);
}
TEST(sessions_and_groups) {
    pid_t c = SPAWN({
        pid_t me = getpid();
        CK(getsid(0) != me);
        EQ(setsid(), me);
        EQ(getsid(0), me);
        EQ(getpgrp(), me);
        ERR(setsid(), EPERM);
        ERR(setpgid(0, 0), EPERM); // a session leader
        pid_t k = SPAWN({
            EQ(getpgrp(), me);
            OK(setpgid(0, 0));
            EQ(getpgrp(), getpid());
        });
        WAIT0(k);
    });
    WAIT0(c);
    ERR(setpgid(0, -5), EINVAL);
    ERR(setpgid(1 << 22, 0), ESRCH);
    ERR(getsid(1 << 22), ESRCH);
    ERR(getpgid(1 << 22), ESRCH);
    c = SPAWN(pause());
    ERR(setpgid(c, 1 << 22), EPERM);
    OK(setpgid(c, c));
    EQ(getpgid(c), c);
    if (getpgrp() != 1) ERR(waitpid(-getpgrp(), NULL, WNOHANG), ECHILD); // -1 would mean any child
    EQ(waitpid(-c, NULL, WNOHANG), 0);
    kill(c, SIGKILL);
    EQ(waitpid(-c, NULL, 0), c);
}
TEST(setpgid_after_exec_refused) {
    // Often, and looking all the time: whoever sees the new command line comes too late, at whatever moment.
    for (int round = 0; round < 30; round++) {
        pid_t c = fork();
        if (!c) execl(t_self, t_self, "--child", "sleep", NULL), _exit(1);
        char p[64], l[PATH_MAX] = "";
        snprintf(p, sizeof p, "/proc/%d/cmdline", c);
        do strncpy(l, get(p) + strlen(t_self) + 1, 20);
        while (strcmp(l, "--child"));
        ERR(setpgid(c, c), EACCES);
        kill(c, SIGKILL);
        EQ(waitpid(c, NULL, 0), c);
    }
}
TEST(orphans_and_subreaper) {
    OK(prctl(PR_SET_CHILD_SUBREAPER, 1));
    int on = 0, p[2];
    OK(prctl(PR_GET_CHILD_SUBREAPER, &on));
    EQ(on, 1);
    OK(pipe(p));
    pid_t me = getpid();
    pid_t c = SPAWN({
        pid_t g = SPAWN({
            while (getppid() != me) ms(5);
            EQ(getppid(), me);
            pid_t x = getpid();
            OK(write(p[1], &x, sizeof x));
        });
        (void)g;
    });
    WAIT0(c);
    pid_t orphan;
    EQ(read(p[0], &orphan, sizeof orphan), sizeof orphan);
    EQ(waitpid(orphan, NULL, 0), orphan);
}
TEST(pdeathsig) {
    OK(prctl(PR_SET_CHILD_SUBREAPER, 1));
    int p[2];
    OK(pipe(p));
    pid_t c = SPAWN({
        pid_t g = SPAWN({
            OK(prctl(PR_SET_PDEATHSIG, SIGUSR1));
            OK(write(p[1], "r", 1));
            pause();
        });
        char b;
        OK(read(p[0], &b, 1));
        OK(write(p[1], &g, sizeof g));
    });
    WAIT0(c);
    pid_t g;
    EQ(read(p[0], &g, sizeof g), sizeof g);
    int st;
    EQ(waitpid(g, &st, 0), g);
    EQ(WTERMSIG(st), SIGUSR1);
}
TEST(orphaned_group_gets_hup) {
    OK(prctl(PR_SET_CHILD_SUBREAPER, 1));
    int p[2];
    OK(pipe(p));
    pid_t c = SPAWN({
        setsid();
        pid_t g = SPAWN({
            setpgid(0, 0);
            raise(SIGSTOP);
            pause();
        });
        setpgid(g, g);
        int st;
        OK(waitpid(g, &st, WUNTRACED));
        OK(write(p[1], &g, sizeof g));
    });
    WAIT0(c);
    pid_t g;
    EQ(read(p[0], &g, sizeof g), sizeof g);
    int st;
    EQ(waitpid(g, &st, 0), g);
    EQ(WTERMSIG(st), SIGHUP);
}
TEST(vfork_shares_memory) {
    volatile int x = 1;
    pid_t c = vfork();
    if (c == 0) {
        x = 99;
        _exit(5);
    }
    EQ(x, 99);
    int st;
    EQ(waitpid(c, &st, 0), c);
    EQ(WEXITSTATUS(st), 5);
}
TEST(vfork_parent_waits_for_exec) {
    int p[2];
    OK(pipe2(p, O_CLOEXEC));
    pid_t c = vfork();
    if (c == 0) {
        struct timespec t = {0, 100000000};
        nanosleep(&t, NULL);
        execl(t_self, t_self, "--child", "exit7", NULL);
        _exit(1);
    }
    int st;
    EQ(waitpid(c, &st, 0), c);
    EQ(WEXITSTATUS(st), 7);
}
TEST(posix_spawn_reports_errors) {
    pid_t c;
    char *av[] = {"x", NULL};
    EQ(posix_spawn(&c, "/missing/program", NULL, NULL, av, environ), ENOENT);
    char *ok[] = {t_self, "--child", "exit7", NULL};
    EQ(posix_spawn(&c, t_self, NULL, NULL, ok, environ), 0);
    int st;
    EQ(waitpid(c, &st, 0), c);
    EQ(WEXITSTATUS(st), 7);
}
TEST(prctl_name_and_more) {
    char n[16] = "";
    OK(prctl(PR_SET_NAME, "a-rather-long-thread-name"));
    OK(prctl(PR_GET_NAME, n));
    STREQ(n, "a-rather-long-t");
    STREQ(get("/proc/self/comm"), "a-rather-long-t\n");
    EQ(prctl(PR_GET_DUMPABLE), 1);
    OK(prctl(PR_SET_DUMPABLE, 0));
    EQ(prctl(PR_GET_DUMPABLE), 0);
    ERR(prctl(PR_SET_DUMPABLE, 5), EINVAL);
    ERR(prctl(123456, 0), EINVAL);
    EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
    ERR(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), EINVAL);
    ERR(prctl(PR_SET_PDEATHSIG, 99), EINVAL);
}
TEST(exit_group_ends_all) {
    pid_t c = SPAWN({
        pid_t k = fork();
        if (!k) pause();
        kill(k, SIGKILL);
        syscall(SYS_exit_group, 300);
    });
    int st;
    OK(waitpid(c, &st, 0));
    EQ(WEXITSTATUS(st), 300 & 255);
}
TEST(getrusage_children) {
    struct rusage u;
    WAIT0(SPAWN({
        // Of its own time, on a machine that may be busy.
        int64_t e = now_ns() + 10000000000;
        do {
            for (volatile int i = 0; i < 100000; i++) {}
            OK(getrusage(RUSAGE_SELF, &u));
        } while (u.ru_utime.tv_sec == 0 && u.ru_utime.tv_usec + u.ru_stime.tv_usec < 30000 && now_ns() < e);
    }));
    OK(getrusage(RUSAGE_CHILDREN, &u));
    CK(u.ru_utime.tv_sec * 1000000 + u.ru_utime.tv_usec + u.ru_stime.tv_usec > 10000);
    ERR(getrusage(77, &u), EINVAL);
    struct rusage w;
    pid_t c = SPAWN(_exit(0));
    EQ(wait4(c, NULL, 0, &w), c);
}
TEST(zombie_is_visible) {
    pid_t c = SPAWN(_exit(0));
    CK(state_is(c, "Z"));
    OK(kill(c, 0));
    EQ(waitpid(c, NULL, 0), c);
    ERR(kill(c, 0), ESRCH);
}
int t_child(int argc, char **argv) {
    if (argc && !strcmp(argv[0], "exit7")) return 7;
    if (argc && !strcmp(argv[0], "sleep")) return pause(), 0;
    if (argc > 1 && !strcmp(argv[0], "where")) {
        cpu_set_t now = cpus_of(0);
        return !(CPU_COUNT(&now) == 1 && CPU_ISSET(atoi(argv[1]), &now) && getpriority(PRIO_PROCESS, 0) == 4);
    }
    return 1;
}
