// PID, UTS, IPC and cgroup namespaces: numbers per level, who sees whom, what the end of an init does, setns.
#include "t.h"
#include <linux/nsfs.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/utsname.h>

#define KIDS (CLONE_NEWPID | SIGCHLD)

// fork with further flags.
static pid_t forked(unsigned long flags) { return syscall(SYS_clone, flags | (flags & 0xff ? 0 : SIGCHLD), 0, 0, 0, 0); }
// A child in new namespaces; the statement's end is exit code 0.
#define IN_NEW(flags, ...)                       \
    ({                                           \
        pid_t t_p = forked(flags);               \
        if (t_p < 0) FAIL("clone: %s", strerror(errno)); \
        if (t_p == 0) {                          \
            __VA_ARGS__;                         \
            _exit(0);                            \
        }                                        \
        t_p;                                     \
    })
static void need_root(void) {
    pid_t p = forked(CLONE_NEWUTS | SIGCHLD);
    if (p == 0) _exit(0);
    if (p < 0) SKIP("no CAP_SYS_ADMIN");
    WAIT0(p);
}
static char *line(const char *path, const char *name) {
    static char out[200];
    char *t = get(path), *at = strstr(t, name);
    if (!at) FAIL("no %s in %s", name, path);
    at += strlen(name);
    snprintf(out, sizeof out, "%.*s", (int)strcspn(at, "\n"), at);
    return out;
}
static char *ns_of(const char *path) {
    static char out[4][64];
    static int n;
    char *o = out[n++ % 4];
    ssize_t l = readlink(path, o, 63);
    if (l < 0) FAIL("readlink %s: %s", path, strerror(errno));
    o[l] = 0;
    return o;
}

TEST(first_is_one) {
    need_root();
    int p[2];
    OK(pipe(p));
    pid_t c = IN_NEW(KIDS, {
        EQ(getpid(), 1);
        EQ(syscall(SYS_gettid), 1);
        EQ(getppid(), 0);
        // Group and session are those of the parent, which it cannot see.
        EQ(getpgrp(), 0);
        EQ(getsid(0), 0);
        pid_t k = OK(fork());
        if (!k) {
            if (getpid() != 2 || getppid() != 1) _exit(3);
            _exit(0);
        }
        EQ(k, 2);
        int st;
        EQ(waitpid(-1, &st, 0), 2);
        EQ(st, 0);
        OK(setsid());
        EQ(getpgrp(), 1);
        EQ(getsid(0), 1);
        pid_t me = getpid();
        write(p[1], &me, sizeof me);
    });
    CK(c > 1);
    pid_t seen = 0;
    EQ(read(p[0], &seen, sizeof seen), sizeof seen);
    EQ(seen, 1);
    WAIT0(c);
}

TEST(init_takes_all_along) {
    need_root();
    int p[2];
    OK(pipe(p));
    pid_t c = IN_NEW(KIDS, {
        for (int i = 0; i < 5; i++)
            if (!fork()) {
                setsid();
                signal(SIGTERM, SIG_IGN);
                for (;;) pause();
            }
        ms(50);
        _exit(7);
    });
    close(p[1]);
    int st;
    EQ(waitpid(c, &st, 0), c);
    EQ(st, 7 << 8);
    // All who had the other end are gone by the time init is reaped.
    struct pollfd f = {.fd = p[0]};
    EQ(poll(&f, 1, 0), 1);
    CK(f.revents & POLLHUP);
}

TEST(orphans_go_to_the_inner_init) {
    need_root();
    pid_t c = IN_NEW(KIDS, {
        int p[2];
        OK(pipe(p));
        if (!fork()) {
            if (!fork()) {
                while (getppid() != 1) ms(1);
                write(p[1], "x", 1);
                _exit(5);
            }
            _exit(0);
        }
        int st;
        char b;
        EQ(wait(&st), 2);
        EQ(read(p[0], &b, 1), 1);
        EQ(wait(&st), 3);
        EQ(st, 5 << 8);
        ERR(wait(&st), ECHILD);
    });
    WAIT0(c);
}

static volatile sig_atomic_t got, got_pid, got_code;
static void on(int s, siginfo_t *i, void *u) { got = s, got_pid = i->si_pid, got_code = i->si_code; }
static void catch (int s) {
    struct sigaction a = {.sa_sigaction = on, .sa_flags = SA_SIGINFO};
    OK(sigaction(s, &a, NULL));
}

TEST(signals_tell_what_the_receiver_sees) {
    need_root();
    int p[2], q[2];
    OK(pipe(p));
    OK(pipe(q));
    catch (SIGCHLD);
    pid_t c = IN_NEW(KIDS, {
        char b;
        catch (SIGUSR1);
        write(p[1], "r", 1);
        while (!got) ms(1);
        // From outside.
        EQ(got_pid, 0);
        got = 0;
        if (!fork()) {
            kill(1, SIGUSR1);
            _exit(0);
        }
        while (!got) ms(1);
        EQ(got_pid, 2);
        // Init has no handler for it: nothing happens, whoever inside sends it.
        EQ(kill(1, SIGTERM), 0);
        EQ(kill(1, SIGKILL), 0);
        EQ(kill(-1, 0) == 0 || errno == ESRCH, 1);
        write(p[1], "r", 1);
        read(q[0], &b, 1);
        for (;;) pause();
    });
    char b;
    EQ(read(p[0], &b, 1), 1);
    OK(kill(c, SIGUSR1));
    EQ(read(p[0], &b, 1), 1);
    // From outside, too, what can be ignored is.
    OK(kill(c, SIGTERM));
    ms(20);
    EQ(waitpid(c, NULL, WNOHANG), 0);
    OK(kill(c, SIGKILL));
    siginfo_t info;
    OK(waitid(P_PID, c, &info, WEXITED));
    EQ(info.si_pid, c);
    EQ(info.si_status, SIGKILL);
    EQ(got_pid, c);
}

TEST(numbers_of_the_other_side_are_unknown) {
    need_root();
    pid_t outer = getpid();
    pid_t c = IN_NEW(KIDS, {
        // Numbers of outside are nobody's here, whatever they were.
        if (outer > 3) {
            ERR(kill(outer, 0), ESRCH);
            ERR(getpgid(outer), ESRCH);
            ERR(syscall(SYS_pidfd_open, outer, 0), ESRCH);
            ERR(setpriority(PRIO_PROCESS, outer, 0), ESRCH);
            struct sched_param sp;
            ERR(sched_getparam(outer, &sp), ESRCH);
            ERR(syscall(SYS_tgkill, outer, outer, 0), ESRCH);
            struct rlimit r;
            ERR(prlimit(outer, RLIMIT_NOFILE, NULL, &r), ESRCH);
            ERR(waitpid(outer, NULL, WNOHANG), ECHILD);
            ERR(setpgid(0, outer), EPERM);
        }
        EQ(getpriority(PRIO_PROCESS, 1), getpriority(PRIO_PROCESS, 0));
        OK(kill(1, 0));
    });
    WAIT0(c);
}

TEST(proc_shows_its_own) {
    need_root();
    pid_t c = IN_NEW(KIDS | CLONE_NEWNS, {
        OK(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
        // The old instance still shows the outer numbers.
        char path[64], self[32] = "";
        CK(readlink("/proc/self", self, 31) > 0);
        int outer = atoi(self);
        CK(outer > 1);
        snprintf(path, sizeof path, "/proc/%d/status", outer);
        char want[64];
        snprintf(want, sizeof want, "\t%d\t1", outer);
        STREQ(line(path, "\nNSpid:"), want);
        OK(mount("proc", "/proc", "proc", 0, NULL));
        memset(self, 0, sizeof self);
        CK(readlink("/proc/self", self, 31) > 0);
        STREQ(self, "1");
        STREQ(line("/proc/1/status", "\nNSpid:"), "\t1");
        STREQ(line("/proc/1/status", "\nPPid:"), "\t0");
        pid_t k = SPAWN(pause());
        int seen = 0;
        DIR *d = opendir("/proc");
        for (struct dirent *e; (e = readdir(d));)
            if (e->d_name[0] >= '1' && e->d_name[0] <= '9') {
                EQ(atoi(e->d_name) == 1 || atoi(e->d_name) == k, 1);
                seen++;
            }
        closedir(d);
        EQ(seen, 2);
        kill(k, SIGKILL);
        EQ(waitpid(k, NULL, 0), k);
        ERR(access("/proc/2", F_OK), ENOENT);
    });
    WAIT0(c);
}

TEST(unshare_is_for_children) {
    need_root();
    pid_t before = getpid();
    char *own = ns_of("/proc/self/ns/pid");
    STREQ(ns_of("/proc/self/ns/pid_for_children"), own);
    OK(unshare(CLONE_NEWPID));
    EQ(getpid(), before);
    STREQ(ns_of("/proc/self/ns/pid"), own);
    // It has nobody yet.
    char b[64];
    ERR(readlink("/proc/self/ns/pid_for_children", b, 63), ENOENT);
    // Threads stay, so none can be made; nor a further namespace.
    ERR(syscall(SYS_clone, CLONE_THREAD | CLONE_VM | CLONE_SIGHAND, 0, 0, 0, 0), EINVAL);
    ERR(unshare(CLONE_NEWPID), EINVAL);
    int p[2];
    OK(pipe(p));
    pid_t first = SPAWN({
        if (getpid() != 1) _exit(1);
        char x;
        read(p[0], &x, 1);
    });
    CK(strcmp(ns_of("/proc/self/ns/pid_for_children"), own));
    pid_t second = SPAWN(if (getpid() != 2 || getppid() != 0) _exit(1));
    WAIT0(second);
    write(p[1], "x", 1);
    WAIT0(first);
    // Its init is gone: nobody enters any more.
    ERR(fork(), ENOMEM);
}

TEST(nested) {
    need_root();
    pid_t c = IN_NEW(KIDS, {
        pid_t k = IN_NEW(KIDS, {
            EQ(getpid(), 1);
            pid_t g = SPAWN(EQ(getpid(), 2));
            EQ(g, 2);
            WAIT0(g);
        });
        EQ(k, 2);
        WAIT0(k);
        // 3 was the grandchild.
        pid_t n = SPAWN(EQ(getpid(), 4));
        EQ(n, 4);
        WAIT0(n);
    });
    WAIT0(c);
}

TEST(set_tids) {
    need_root();
    pid_t *shared = MAPOK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    pid_t parent = 0;
    pid_t c = syscall(SYS_clone, KIDS | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID, 0, &parent, shared, 0);
    if (c == 0) _exit(0);
    WAIT0(c);
    EQ(parent, c);
    EQ(shared[0], 1);
}

TEST(uts_is_copied_and_apart) {
    need_root();
    struct utsname u;
    char before[65];
    OK(uname(&u));
    strcpy(before, u.nodename);
    pid_t c = IN_NEW(CLONE_NEWUTS, {
        OK(uname(&u));
        STREQ(u.nodename, before);
        OK(sethostname("inner", 5));
        OK(setdomainname("dom", 3));
        STREQ(get("/proc/sys/kernel/hostname"), "inner\n");
        STREQ(get("/proc/sys/kernel/domainname"), "dom\n");
        put("/proc/sys/kernel/hostname", "by-file\n");
        OK(uname(&u));
        STREQ(u.nodename, "by-file");
    });
    WAIT0(c);
    OK(uname(&u));
    STREQ(u.nodename, before);
    OK(unshare(CLONE_NEWUTS));
    OK(sethostname("mine", 4));
    char b[65];
    OK(gethostname(b, sizeof b));
    STREQ(b, "mine");
}

TEST(ipc_is_empty_and_apart) {
    need_root();
    key_t key = 0x6e73 + getpid();
    int q = OK(msgget(key, IPC_CREAT | 0600)), s = OK(shmget(key, 4096, IPC_CREAT | 0600));
    int m = OK(semget(key, 1, IPC_CREAT | 0600));
    char *at = shmat(s, NULL, 0);
    CK(at != (void *)-1);
    strcpy(at, "outer");
    pid_t c = IN_NEW(CLONE_NEWIPC, {
        ERR(msgget(key, 0), ENOENT);
        ERR(shmget(key, 0, 0), ENOENT);
        ERR(semget(key, 1, 0), ENOENT);
        // What is attached stays.
        STREQ(at, "outer");
        int own = OK(shmget(key, 8192, IPC_CREAT | 0600));
        struct shmid_ds ds;
        OK(shmctl(own, IPC_STAT, &ds));
        EQ(ds.shm_segsz, 8192);
        CK(!strstr(get("/proc/sysvipc/msg") + 80, "600"));
        strcpy(at, "changed");
        OK(shmdt(at));
    });
    WAIT0(c);
    STREQ(at, "changed");
    struct shmid_ds ds;
    OK(shmctl(s, IPC_STAT, &ds));
    EQ(ds.shm_nattch, 1);
    EQ(ds.shm_segsz, 4096);
    EQ(ds.shm_cpid, getpid());
    // Undo belongs to the namespace that is left.
    c = SPAWN({
        struct sembuf up = {.sem_op = 3, .sem_flg = SEM_UNDO};
        OK(semop(m, &up, 1));
        OK(unshare(CLONE_NEWIPC));
        ms(100);
    });
    for (int i = 0; i < 50 && semctl(m, 0, GETPID) == 0; i++) ms(2);
    WAIT0(c);
    EQ(semctl(m, 0, GETVAL), 0);
    OK(shmdt(at));
    OK(msgctl(q, IPC_RMID, NULL));
    OK(shmctl(s, IPC_RMID, NULL));
    OK(semctl(m, 0, IPC_RMID));
}

TEST(ipc_pids_are_the_readers) {
    need_root();
    int q = OK(msgget(IPC_PRIVATE, 0600));
    pid_t c = IN_NEW(KIDS, {
        struct { long t; char b[4]; } m = {1, "x"};
        OK(msgsnd(q, &m, 4, 0));
        struct msqid_ds ds;
        OK(msgctl(q, IPC_STAT, &ds));
        EQ(ds.msg_lspid, 1);
        struct { long t; char b[4]; } r;
        ms(0);
        OK(msgrcv(q, &r, 4, 0, 0));
    });
    WAIT0(c);
    struct msqid_ds ds;
    OK(msgctl(q, IPC_STAT, &ds));
    EQ(ds.msg_lrpid, c);
    OK(msgctl(q, IPC_RMID, NULL));
}

TEST(setns_uts) {
    need_root();
    int p[2], q[2];
    OK(pipe(p));
    OK(pipe(q));
    pid_t c = IN_NEW(CLONE_NEWUTS | CLONE_NEWIPC, {
        char b;
        OK(sethostname("other", 5));
        write(p[1], "x", 1);
        read(q[0], &b, 1);
    });
    char b, path[64], name[65];
    EQ(read(p[0], &b, 1), 1);
    snprintf(path, sizeof path, "/proc/%d/ns/uts", c);
    int fd = OK(open(path, O_RDONLY)), own = OK(open("/proc/self/ns/uts", O_RDONLY));
    struct stat s1, s2, s3;
    OK(fstat(fd, &s1));
    OK(fstat(own, &s2));
    OK(stat("/proc/self/ns/uts", &s3));
    EQ(s1.st_dev, s2.st_dev);
    CK(s1.st_ino != s2.st_ino);
    EQ(s2.st_ino, s3.st_ino);
    CK(S_ISREG(s1.st_mode));
    char text[64], link[64];
    snprintf(text, sizeof text, "uts:[%lu]", (unsigned long)s1.st_ino);
    STREQ(ns_of(path), text);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    STREQ(ns_of(link), text);
    EQ(ioctl(fd, NS_GET_NSTYPE), CLONE_NEWUTS);
    ERR(ioctl(fd, NS_GET_PARENT), EINVAL);
    int user = OK(ioctl(fd, NS_GET_USERNS));
    EQ(ioctl(user, NS_GET_NSTYPE), CLONE_NEWUSER);
    ERR(setns(fd, CLONE_NEWIPC), EINVAL);
    ERR(setns(0, 0), EINVAL);
    ERR(setns(999, 0), EBADF);
    OK(setns(fd, CLONE_NEWUTS));
    OK(gethostname(name, sizeof name));
    STREQ(name, "other");
    OK(setns(own, 0));
    // By pidfd, several at once.
    int pidfd = OK(syscall(SYS_pidfd_open, c, 0));
    ERR(setns(pidfd, 0), EINVAL);
    OK(setns(pidfd, CLONE_NEWUTS | CLONE_NEWIPC));
    OK(gethostname(name, sizeof name));
    STREQ(name, "other");
    snprintf(path, sizeof path, "/proc/%d/ns/ipc", c);
    STREQ(ns_of("/proc/self/ns/ipc"), ns_of(path));
    write(q[1], "x", 1);
    WAIT0(c);
    // It lives on with whoever is in it.
    OK(gethostname(name, sizeof name));
    STREQ(name, "other");
}

TEST(setns_pid) {
    need_root();
    int q[2];
    OK(pipe(q));
    pid_t c = IN_NEW(KIDS, {
        char b;
        signal(SIGCHLD, SIG_IGN);
        read(q[0], &b, 1);
    });
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/pid", c);
    int fd = OK(open(path, O_RDONLY)), own = OK(open("/proc/self/ns/pid", O_RDONLY));
    OK(setns(fd, 0));
    CK(getpid() > 1);
    pid_t k = SPAWN({
        EQ(getpid(), 2);
        EQ(getppid(), 0);
        // Up is not allowed.
        ERR(setns(own, 0), EINVAL);
        // Its orphan goes to the namespace's init.
        if (!fork()) {
            while (getppid() == 2) ms(1);
            _exit(getppid() != 1);
        }
    });
    CK(k > 1 && k != 2);
    WAIT0(k);
    OK(setns(own, CLONE_NEWPID));
    k = SPAWN(if (getpid() <= 2) _exit(1));
    WAIT0(k);
    write(q[1], "x", 1);
    WAIT0(c);
    OK(setns(fd, 0));
    ERR(fork(), ENOMEM);
}

TEST(sockets_and_locks_tell_the_readers_numbers) {
    need_root();
    int s[2], p[2], lock = OK(open("l", O_CREAT | O_RDWR, 0600));
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    OK(pipe(p));
    int on = 1;
    OK(setsockopt(s[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
    pid_t c = IN_NEW(KIDS, {
        char b;
        struct flock f = {.l_type = F_WRLCK};
        OK(fcntl(lock, F_SETLK, &f));
        write(s[1], "x", 1);
        read(p[0], &b, 1);
    });
    char b, room[64];
    struct iovec v = {&b, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    EQ(recvmsg(s[0], &m, 0), 1);
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    CK(h && h->cmsg_type == SCM_CREDENTIALS);
    EQ(((struct ucred *)CMSG_DATA(h))->pid, c);
    struct flock f = {.l_type = F_WRLCK};
    OK(fcntl(lock, F_GETLK, &f));
    EQ(f.l_pid, c);
    struct ucred u;
    socklen_t len = sizeof u;
    OK(getsockopt(s[0], SOL_SOCKET, SO_PEERCRED, &u, &len));
    EQ(u.pid, getpid());
    OK(fcntl(s[0], F_SETOWN, c));
    EQ(fcntl(s[0], F_GETOWN), c);
    pid_t k = IN_NEW(KIDS, {
        struct ucred u2;
        OK(getsockopt(s[0], SOL_SOCKET, SO_PEERCRED, &u2, &len));
        EQ(u2.pid, 0);
        EQ(fcntl(s[0], F_GETOWN), 0);
        struct flock g = {.l_type = F_WRLCK};
        OK(fcntl(lock, F_GETLK, &g));
        EQ(g.l_pid, 0);
    });
    WAIT0(k);
    write(p[1], "x", 1);
    WAIT0(c);
}

TEST(pidfd_across) {
    need_root();
    int q[2];
    OK(pipe(q));
    pid_t c = IN_NEW(KIDS, {
        char b;
        read(q[0], &b, 1);
    });
    int fd = OK(syscall(SYS_pidfd_open, c, 0));
    char path[64], want[64];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    snprintf(want, sizeof want, "\t%d\t1", c);
    STREQ(line(path, "NSpid:"), want);
    OK(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
    struct pollfd f = {.fd = fd, .events = POLLIN};
    EQ(poll(&f, 1, 0), 0);
    write(q[1], "x", 1);
    EQ(poll(&f, 1, 5000), 1);
    siginfo_t info;
    OK(waitid(P_PIDFD, fd, &info, WEXITED));
    EQ(info.si_pid, c);
}

static void *exec_thread(void *a) {
    execl("/proc/self/exe", "ns", "--child", (char *)NULL);
    return NULL;
}
int t_child(int argc, char **argv) { return getpid() == 1 && syscall(SYS_gettid) == 1 && getppid() == 0 ? 0 : 9; }

TEST(exec_by_a_thread_keeps_the_numbers) {
    need_root();
    pid_t c = IN_NEW(KIDS, {
        pthread_t t;
        pthread_create(&t, NULL, exec_thread, NULL);
        pthread_join(t, NULL);
        _exit(8);
    });
    WAIT0(c);
}

TEST(pi_words_hold_own_numbers) {
    need_root();
    pid_t c = IN_NEW(KIDS, {
        unsigned word = 0;
        OK(syscall(SYS_futex, &word, 6 /* LOCK_PI */, 0, NULL, NULL, 0));
        EQ(word & 0x3fffffff, 1);
        OK(syscall(SYS_futex, &word, 7 /* UNLOCK_PI */, 0, NULL, NULL, 0));
        EQ(word, 0);
    });
    WAIT0(c);
}

TEST(privilege) {
    need_root();
    pid_t c = SPAWN({
        OK(setresuid(1000, 1000, 1000));
        ERR(unshare(CLONE_NEWUTS), EPERM);
        ERR(unshare(CLONE_NEWIPC), EPERM);
        ERR(unshare(CLONE_NEWPID), EPERM);
        ERR(unshare(CLONE_NEWCGROUP), EPERM);
        ERR(forked(KIDS), EPERM);
        int fd = OK(open("/proc/self/ns/uts", O_RDONLY));
        ERR(setns(fd, 0), EPERM);
        ERR(unshare(1), EINVAL);
    });
    WAIT0(c);
    ERR(syscall(SYS_clone, CLONE_NEWIPC | CLONE_SYSVSEM | SIGCHLD, 0, 0, 0, 0), EINVAL);
    ERR(syscall(SYS_clone, CLONE_NEWPID | CLONE_THREAD | CLONE_SIGHAND | CLONE_VM, 0, 0, 0, 0), EINVAL);
}

TEST(cgroup_namespace) {
    need_root();
    char own[64];
    strcpy(own, ns_of("/proc/self/ns/cgroup"));
    OK(unshare(CLONE_NEWCGROUP));
    CK(strcmp(own, ns_of("/proc/self/ns/cgroup")));
    for (char *at = get("/proc/self/cgroup"); at && *at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL)
        CK(strstr(at, ":/\n"));
}

TEST(bind_keeps_a_namespace) {
    need_root();
    OK(unshare(CLONE_NEWNS));
    OK(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
    put("kept", "");
    pid_t c = IN_NEW(CLONE_NEWUTS, {
        OK(sethostname("kept", 4));
        OK(mount("/proc/self/ns/uts", "kept", NULL, MS_BIND, NULL));
    });
    WAIT0(c);
    int fd = OK(open("kept", O_RDONLY));
    OK(setns(fd, CLONE_NEWUTS));
    char name[65];
    OK(gethostname(name, sizeof name));
    STREQ(name, "kept");
    put("loop", "");
    ERR(mount("/proc/self/ns/mnt", "loop", NULL, MS_BIND, NULL), EINVAL);
    close(fd);
    OK(umount("kept"));
}
