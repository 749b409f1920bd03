// User namespaces: maps and who writes them, ids as they are shown, power relative to a namespace, mounts in them.
#include "t.h"
#include <grp.h>
#include <linux/nsfs.h>
#include <linux/capability.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/utsname.h>

#define NOBODY 65534

static pid_t forked(unsigned long flags) { return syscall(SYS_clone, flags | (flags & 0xff ? 0 : SIGCHLD), 0, 0, 0, 0); }
static void need_user_ns(void) {
    pid_t p = forked(CLONE_NEWUSER);
    if (p == 0) _exit(0);
    if (p < 0) SKIP("no user namespaces: %s", strerror(errno));
    WAIT0(p);
}
static void need_root(void) {
    need_user_ns();
    if (geteuid()) SKIP("not root");
}
static int map_of(pid_t p, const char *name, const char *text) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", p, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t n = write(fd, text, strlen(text));
    int e = errno;
    close(fd);
    errno = e;
    return n < 0 ? -1 : 0;
}
static int map_own(const char *name, const char *text) { return map_of(getpid(), name, text); }
static const char *squeezed(const char *path) {
    static char out[4][300];
    static int n;
    char *o = out[n++ % 4], *w = o;
    for (const char *t = get(path); *t && w < o + 299; t++)
        if (*t != ' ' || (w > o && w[-1] != ' ' && w[-1] != '\n')) *w++ = *t;
    *w = 0;
    return o;
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
// As an ordinary user, in a child. The statement's end is exit code 0.
#define AS(uid, ...)                                                \
    ({                                                              \
        SPAWN({                                                     \
            CK(setgroups(0, 0) == 0 || geteuid());                  \
            OK(syscall(SYS_setresgid, uid, uid, uid));              \
            OK(syscall(SYS_setresuid, uid, uid, uid));              \
            prctl(PR_SET_DUMPABLE, 1);                              \
            __VA_ARGS__;                                            \
        });                                                         \
    })
// A child in namespaces of its own that waits for `go` before it runs the statement, so that its maps can be written.
static int t_sync[2];
#define HELD(flags, ...)                                            \
    ({                                                              \
        OK(pipe2(t_sync, O_CLOEXEC));                               \
        pid_t t_p = OK(forked(flags));                              \
        if (!t_p) {                                                 \
            char t_c;                                               \
            close(t_sync[1]);                                       \
            if (read(t_sync[0], &t_c, 1) != 1) _exit(97);           \
            __VA_ARGS__;                                            \
            _exit(0);                                               \
        }                                                           \
        close(t_sync[0]);                                           \
        t_p;                                                        \
    })
static void go(void) {
    EQ(write(t_sync[1], "x", 1), 1);
    close(t_sync[1]);
}
// Becomes root of a namespace of its own, as `unshare -Ur` does.
static void own_root(unsigned long more) {
    char map[40];
    uid_t u = geteuid(), g = getegid();
    OK(unshare(CLONE_NEWUSER | more));
    OK(map_own("setgroups", "deny"));
    snprintf(map, sizeof map, "0 %d 1\n", u);
    OK(map_own("uid_map", map));
    snprintf(map, sizeof map, "0 %d 1\n", g);
    OK(map_own("gid_map", map));
}

TEST(nobody_at_first) {
    need_user_ns();
    pid_t p = SPAWN({
        char *before = ns_of("/proc/self/ns/user");
        OK(unshare(CLONE_NEWUSER));
        CK(strcmp(before, ns_of("/proc/self/ns/user")));
        EQ(getuid(), NOBODY);
        EQ(geteuid(), NOBODY);
        EQ(getgid(), NOBODY);
        STREQ(get("/proc/self/uid_map"), "");
        STREQ(get("/proc/self/gid_map"), "");
        STREQ(line("/proc/self/status", "CapEff:\t"), line("/proc/self/status", "CapBnd:\t"));
        STREQ(line("/proc/self/status", "CapInh:\t"), "0000000000000000");
        struct stat st;
        OK(stat("/proc/self", &st));
        ERR(setuid(0), EINVAL);
        ERR(setgid(0), EINVAL);
        ERR(setreuid(-1, 0), EINVAL);
        ERR(chown(".", 0, -1), EINVAL);
    });
    WAIT0(p);
}

TEST(an_ordinary_user_maps_itself) {
    need_root();
    WAIT0(AS(1000, {
        OK(unshare(CLONE_NEWUSER));
        // Neither others nor more than one.
        ERR(map_own("uid_map", "0 0 1"), EPERM);
        ERR(map_own("uid_map", "0 1001 1"), EPERM);
        ERR(map_own("uid_map", "0 1000 2"), EPERM);
        ERR(map_own("gid_map", "0 1000 1"), EPERM);
        STREQ(get("/proc/self/setgroups"), "allow\n");
        ERR(map_own("setgroups", "maybe"), EINVAL);
        OK(map_own("setgroups", "deny"));
        STREQ(get("/proc/self/setgroups"), "deny\n");
        ERR(map_own("setgroups", "allow"), EPERM);
        OK(map_own("uid_map", "0 1000 1"));
        OK(map_own("gid_map", "0 1000 1\n"));
        STREQ(squeezed("/proc/self/uid_map"), "0 1000 1\n");
        // Once.
        ERR(map_own("uid_map", "0 1000 1"), EPERM);
        EQ(getuid(), 0);
        EQ(getgid(), 0);
        ERR(setgroups(0, 0), EPERM);
        ERR(setuid(1), EINVAL);
        OK(setuid(0));
        uid_t r, e, s;
        OK(getresuid(&r, &e, &s));
        EQ(r + e + s, 0);
        STREQ(line("/proc/self/status", "Uid:\t"), "0\t0\t0\t0");
    }));
}

TEST(maps_are_checked) {
    need_root();
    pid_t c = HELD(CLONE_NEWUSER, {
        EQ(getuid(), 3);
        EQ(getgid(), NOBODY);
        STREQ(squeezed("/proc/self/uid_map"), "3 0 1\n4 100000 1000\n");
    });
    static const char *bad[] = {"", "\n", "0", "0 0", "0 0 0", "a b c", "0 0 1 1", "-1 0 1", "0 0 1\n0 5 1", "0 0 2\n5 1 1", "4294967295 0 1", "0 4294967295 1", "0 4294967000 1000"};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (!*bad[i]) continue;
        if (map_of(c, "uid_map", bad[i]) != -1 || errno != EINVAL) FAIL("map \"%s\": %s", bad[i], strerror(errno));
    }
    OK(map_of(c, "uid_map", "3 0 1\n4 100000 1000\n"));
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/uid_map", c);
    STREQ(squeezed(path), "3 0 1\n4 100000 1000\n");
    // 340 lines at most.
    char many[16384], *w = many;
    for (int i = 0; i < 341; i++) w += sprintf(w, "%d %d 1\n", i, i);
    ERR(map_of(c, "gid_map", many), EINVAL);
    go();
    WAIT0(c);
}

TEST(a_range_of_ids) {
    need_root();
    OK(close(OK(open("of_0", O_CREAT | O_RDWR, 0600))));
    OK(close(OK(open("of_5", O_CREAT | O_RDWR, 0600))));
    OK(close(OK(open("of_7777", O_CREAT | O_RDWR, 0644))));
    OK(chown("of_5", 100005, 100006));
    OK(chown("of_7777", 7777, 7777));
    OK(chmod(".", 0777));
    pid_t c = HELD(CLONE_NEWUSER, {
        // Still the user from before, whose id has no name here.
        EQ(getuid(), NOBODY);
        OK(setresgid(0, 0, 0));
        OK(setresuid(0, 0, 0));
        EQ(getuid(), 0);
        struct stat st;
        OK(stat("of_0", &st));
        EQ(st.st_uid, NOBODY);
        OK(stat("of_5", &st));
        EQ(st.st_uid, 5);
        EQ(st.st_gid, 6);
        struct statx sx;
        OK(statx(AT_FDCWD, "of_5", 0, STATX_BASIC_STATS, &sx));
        EQ(sx.stx_uid, 5);
        // Power over files of ids that are known, and over no others.
        OK(close(OK(open("of_5", O_RDWR))));
        ERR(open("of_0", O_RDONLY), EACCES);
        OK(close(OK(open("of_7777", O_RDONLY))));
        ERR(open("of_7777", O_RDWR), EACCES);
        OK(chown("of_5", 7, 8));
        ERR(chown("of_5", 70000, -1), EINVAL);
        ERR(chown("of_7777", 0, 0), EPERM);
        ERR(chmod("of_7777", 0666), EPERM);
        OK(close(OK(open("new", O_CREAT | O_RDWR, 0600))));
        OK(chown("new", 9, 9));
        gid_t some[] = {1, 2, 3};
        OK(setgroups(3, some));
        gid_t got[8];
        EQ(getgroups(8, got), 3);
        EQ(got[2], 3);
        gid_t wrong[] = {70000};
        ERR(setgroups(1, wrong), EINVAL);
        OK(setresuid(5, 5, 5));
        EQ(getuid(), 5);
        STREQ(line("/proc/self/status", "CapEff:\t"), "0000000000000000");
    });
    OK(map_of(c, "uid_map", "0 100000 65536"));
    OK(map_of(c, "gid_map", "0 100000 65536"));
    go();
    WAIT0(c);
    struct stat st;
    OK(stat("of_5", &st));
    EQ(st.st_uid, 100007);
    EQ(st.st_gid, 100008);
    OK(stat("new", &st));
    EQ(st.st_uid, 100009);
}

TEST(power_is_relative) {
    need_root();
    OK(chmod(".", 0777));
    pid_t p = AS(1000, {
        own_root(0);
        // Over what the new namespace owns, not over what there was.
        ERR(sethostname("x", 1), EPERM);
        ERR(mount("none", "/", 0, MS_REC | MS_PRIVATE, 0), EPERM);
        ERR(mknod("dev", S_IFCHR | 0600, makedev(1, 3)), EPERM);
        struct rlimit r;
        OK(getrlimit(RLIMIT_NOFILE, &r));
        r.rlim_max++;
        ERR(setrlimit(RLIMIT_NOFILE, &r), EPERM);
        ERR(kill(getppid(), 0), EPERM);
        OK(unshare(CLONE_NEWUTS));
        OK(sethostname("inner", 5));
        struct utsname u;
        OK(uname(&u));
        STREQ(u.nodename, "inner");
        OK(unshare(CLONE_NEWIPC));
        OK(unshare(CLONE_NEWNS));
        OK(mount("none", "/", 0, MS_REC | MS_PRIVATE, 0));
        OK(prctl(PR_CAPBSET_DROP, CAP_SYS_TIME, 0, 0, 0));
    });
    WAIT0(p);
}

TEST(new_with_others_at_once) {
    need_root();
    WAIT0(AS(1000, {
        OK(unshare(CLONE_NEWUSER | CLONE_NEWUTS | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWPID));
        OK(sethostname("x", 1));
        pid_t k = SPAWN({ EQ(getpid(), 1); });
        WAIT0(k);
    }));
}

TEST(without_power_no_other_namespaces) {
    need_root();
    WAIT0(AS(1000, {
        ERR(unshare(CLONE_NEWUTS), EPERM);
        ERR(unshare(CLONE_NEWNET), EPERM);
        ERR(syscall(SYS_clone, CLONE_NEWNS | SIGCHLD, 0, 0, 0, 0), EPERM);
        ERR(syscall(SYS_clone, CLONE_NEWUSER | CLONE_FS | SIGCHLD, 0, 0, 0, 0), EINVAL);
    }));
}

TEST(chroot_forbids_it) {
    need_root();
    OK(mkdir("jail", 0777));
    WAIT0(SPAWN({
        OK(chroot("jail"));
        ERR(unshare(CLONE_NEWUSER), EPERM);
        ERR(forked(CLONE_NEWUSER), EPERM);
    }));
}

TEST(nesting_is_bounded) {
    need_user_ns();
    WAIT0(SPAWN({
        int n = 0;
        while (n < 60) {
            uid_t u = geteuid();
            gid_t g = getegid();
            if (unshare(CLONE_NEWUSER)) break;
            n++;
            char map[40];
            map_own("setgroups", "deny");
            snprintf(map, sizeof map, "%d %d 1", u, u);
            OK(map_own("uid_map", map));
            snprintf(map, sizeof map, "%d %d 1", g, g);
            OK(map_own("gid_map", map));
        }
        EQ(errno, ENOSPC);
        // 33 below the first; the test itself may run in one or two.
        CK(n <= 33 && n > 20);
    }));
}

TEST(unmapped_users_make_none) {
    need_user_ns();
    WAIT0(SPAWN({
        OK(unshare(CLONE_NEWUSER));
        ERR(unshare(CLONE_NEWUSER), EPERM);
    }));
}

TEST(many_threads_cannot) {
    need_user_ns();
    WAIT0(SPAWN({
        char stack[8192];
        (void)stack;
        pid_t t = syscall(SYS_clone, CLONE_NEWUSER | CLONE_THREAD | CLONE_SIGHAND | CLONE_VM, 0, 0, 0, 0);
        EQ(t, -1);
        EQ(errno, EINVAL);
    }));
}

TEST(setns_into_a_child) {
    need_root();
    pid_t c = HELD(CLONE_NEWUSER | CLONE_NEWUTS, { pause(); });
    OK(map_of(c, "uid_map", "0 1000 10"));
    OK(map_of(c, "gid_map", "0 1000 10"));
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/user", c);
    int user = OK(open(path, O_RDONLY));
    snprintf(path, sizeof path, "/proc/%d/ns/uts", c);
    int uts = OK(open(path, O_RDONLY));
    EQ(ioctl(user, NS_GET_NSTYPE), CLONE_NEWUSER);
    uid_t owner = 77;
    OK(ioctl(user, NS_GET_OWNER_UID, &owner));
    EQ(owner, 0);
    struct stat a, b;
    int over = OK(ioctl(uts, NS_GET_USERNS));
    OK(fstat(over, &a));
    OK(fstat(user, &b));
    EQ(a.st_ino, b.st_ino);
    int up = OK(ioctl(user, NS_GET_PARENT));
    OK(fstat(up, &a));
    OK(stat("/proc/self/ns/user", &b));
    EQ(a.st_ino, b.st_ino);
    WAIT0(SPAWN({
        ERR(setns(up, 0), EINVAL);
        OK(setns(user, CLONE_NEWUSER));
        ERR(setns(user, CLONE_NEWUSER), EINVAL);
        ERR(setns(up, CLONE_NEWUSER), EPERM);
        ERR(ioctl(user, NS_GET_PARENT), EPERM);
        OK(setns(uts, 0));
        OK(sethostname("there", 5));
        OK(setresuid(3, 3, 3));
        EQ(getuid(), 3);
    }));
    WAIT0(AS(2000, { ERR(setns(user, 0), EPERM); }));
    // By pidfd, both at once.
    int pidfd = OK(syscall(SYS_pidfd_open, c, 0));
    WAIT0(SPAWN({ OK(setns(pidfd, CLONE_NEWUSER | CLONE_NEWUTS)); }));
    OK(kill(c, SIGKILL));
    OK(waitpid(c, 0, 0));
}

TEST(ids_in_signals_and_waits) {
    need_root();
    int p[2];
    OK(pipe(p));
    pid_t c = HELD(CLONE_NEWUSER, {
        OK(setresgid(1, 1, 1));
        OK(setresuid(1, 1, 1));
        sigset_t s;
        sigemptyset(&s);
        sigaddset(&s, SIGUSR1);
        OK(sigprocmask(SIG_BLOCK, &s, 0));
        OK(write(p[1], "r", 1));
        siginfo_t i;
        OK(sigwaitinfo(&s, &i));
        // Root of above has no name here.
        EQ(i.si_uid, NOBODY);
        pid_t k = SPAWN({ _exit(5); });
        OK(waitid(P_PID, k, &i, WEXITED));
        EQ(i.si_uid, 1);
    });
    OK(map_of(c, "uid_map", "0 500 10"));
    OK(map_of(c, "gid_map", "0 500 10"));
    go();
    char x;
    EQ(read(p[0], &x, 1), 1);
    OK(kill(c, SIGUSR1));
    siginfo_t i;
    OK(waitid(P_PID, c, &i, WEXITED));
    EQ(i.si_status, 0);
    EQ(i.si_uid, 501);
}

TEST(ids_of_peers) {
    need_root();
    int s[2];
    OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s));
    int on = 1;
    OK(setsockopt(s[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
    pid_t c = HELD(CLONE_NEWUSER, {
        OK(setresgid(0, 0, 0));
        OK(setresuid(0, 0, 0));
        struct ucred u;
        socklen_t l = sizeof u;
        int t[2];
        OK(socketpair(AF_UNIX, SOCK_STREAM, 0, t));
        OK(getsockopt(t[0], SOL_SOCKET, SO_PEERCRED, &u, &l));
        EQ(u.uid, 0);
        OK(getsockopt(s[0], SOL_SOCKET, SO_PEERCRED, &u, &l));
        EQ(u.uid, NOBODY);
        // What it claims is in its own terms.
        struct ucred mine = {getpid(), 4, 5};
        char buf[CMSG_SPACE(sizeof mine)] = {0};
        struct iovec v = {"x", 1};
        struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = buf, .msg_controllen = sizeof buf};
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_CREDENTIALS;
        h->cmsg_len = CMSG_LEN(sizeof mine);
        memcpy(CMSG_DATA(h), &mine, sizeof mine);
        OK(sendmsg(s[1], &m, 0));
        mine.uid = 4000;
        memcpy(CMSG_DATA(h), &mine, sizeof mine);
        ERR(sendmsg(s[1], &m, 0), EINVAL);
    });
    OK(map_of(c, "uid_map", "0 500 10"));
    OK(map_of(c, "gid_map", "0 500 10"));
    go();
    WAIT0(c);
    char b;
    char buf[200];
    struct iovec v = {&b, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = buf, .msg_controllen = sizeof buf};
    EQ(recvmsg(s[0], &m, 0), 1);
    struct ucred u;
    memcpy(&u, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof u);
    EQ(u.uid, 504);
    EQ(u.gid, 505);
}

TEST(ids_of_ipc) {
    need_root();
    int id = OK(shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600));
    struct shmid_ds d;
    pid_t c = HELD(CLONE_NEWUSER, {
        OK(setresgid(0, 0, 0));
        OK(setresuid(0, 0, 0));
        int own = OK(shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600));
        OK(shmctl(own, IPC_STAT, &d));
        EQ(d.shm_perm.uid, 0);
        d.shm_perm.uid = 3;
        OK(shmctl(own, IPC_SET, &d));
        d.shm_perm.uid = 3000;
        ERR(shmctl(own, IPC_SET, &d), EINVAL);
        OK(shmctl(own, IPC_RMID, 0));
        // The table is not its own.
        ERR(shmctl(id, IPC_STAT, &d), EACCES);
        ERR(shmctl(id, IPC_RMID, 0), EPERM);
    });
    OK(map_of(c, "uid_map", "0 500 10"));
    OK(map_of(c, "gid_map", "0 500 10"));
    go();
    WAIT0(c);
    OK(shmctl(id, IPC_RMID, 0));
}

TEST(mounts_of_ones_own) {
    need_root();
    OK(chmod(".", 0777));
    OK(mkdir("m", 0777));
    OK(mkdir("b", 0777));
    OK(chmod("m", 0777));
    OK(chmod("b", 0777));
    WAIT0(AS(1000, {
        own_root(CLONE_NEWNS);
        OK(mount("t", "m", "tmpfs", 0, "mode=755"));
        struct stat st;
        OK(stat("m", &st));
        EQ(st.st_uid, 0);
        OK(close(OK(open("m/f", O_CREAT | O_RDWR, 0600))));
        OK(mount("m", "b", 0, MS_BIND, 0));
        OK(close(OK(open("b/f", O_RDWR))));
        OK(mount("none", "b", 0, MS_REMOUNT | MS_BIND | MS_RDONLY, 0));
        ERR(open("b/f", O_RDWR), EROFS);
        OK(mount("none", "b", 0, MS_REMOUNT | MS_BIND, 0));
        OK(umount("b"));
        OK(umount("m"));
        ERR(mount("t", "m", "devtmpfs", 0, 0), EPERM);
    }));
    CK(access("m/f", F_OK));
}

TEST(what_was_mounted_is_locked) {
    need_root();
    WAIT0(SPAWN({
        if (unshare(CLONE_NEWNS)) SKIP("no mount namespaces");
        OK(mount("none", "/", 0, MS_REC | MS_PRIVATE, 0));
        OK(mkdir("d", 0755));
        OK(mkdir("b", 0777));
        OK(mount("t", "d", "tmpfs", MS_NOSUID | MS_NODEV, "mode=777"));
        OK(mkdir("d/s", 0777));
        OK(mount("t", "d/s", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "mode=777"));
        OK(chmod(".", 0777));
        WAIT0(AS(1000, {
            own_root(CLONE_NEWNS);
            // Nothing comes to light, and no restriction goes away.
            ERR(umount("d/s"), EINVAL);
            ERR(umount2("d/s", MNT_DETACH), EINVAL);
            ERR(mount("none", "d/s", 0, MS_REMOUNT | MS_BIND, 0), EPERM);
            ERR(mount("none", "d/s", 0, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV, 0), EPERM);
            OK(mount("none", "d/s", 0, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, 0));
            ERR(mount("d", "b", 0, MS_BIND, 0), EINVAL);
            ERR(mount("d/s", "b", 0, MS_MOVE, 0), EINVAL);
            OK(mount("d", "b", 0, MS_BIND | MS_REC, 0));
            ERR(umount("b/s"), EINVAL);
            OK(umount2("b", MNT_DETACH));
        }));
        OK(umount("d/s"));
        OK(umount("d"));
    }));
}

TEST(devices_of_ones_own_are_dead) {
    need_root();
    if (mknod("probe", S_IFCHR | 0666, makedev(1, 3))) SKIP("no devices here");
    OK(chmod(".", 0777));
    OK(mkdir("m", 0777));
    OK(chmod("m", 0777));
    int fds[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
    pid_t c = HELD(CLONE_NEWUSER | CLONE_NEWNS, {
        OK(setresgid(0, 0, 0));
        OK(setresuid(0, 0, 0));
        OK(mount("t", "m", "tmpfs", 0, "mode=777"));
        ERR(mknod("m/null", S_IFCHR | 0666, makedev(1, 3)), EPERM);
        OK(mknod("m/fifo", S_IFIFO | 0666, 0));
        OK(write(fds[1], "x", 1));
        char x;
        OK(read(fds[1], &x, 1));
        ERR(open("m/null", O_RDWR), EACCES);
    });
    OK(map_of(c, "uid_map", "0 0 10"));
    OK(map_of(c, "gid_map", "0 0 10"));
    go();
    char x;
    EQ(read(fds[0], &x, 1), 1);
    // Who has power over the machine puts one there.
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/cwd/m/null", c);
    OK(mknod(path, S_IFCHR | 0666, makedev(1, 3)));
    OK(chmod(path, 0666));
    OK(write(fds[0], "x", 1));
    WAIT0(c);
}

int t_child(int argc, char **argv) {
    if (argc > 0 && !strcmp(argv[0], "ids")) {
        printf("%d %d %s", getuid(), geteuid(), line("/proc/self/status", "CapEff:\t"));
        return 0;
    }
    return 1;
}

TEST(set_id_bits_of_the_unknown) {
    need_root();
    OK(chmod(".", 0777));
    char cmd[PATH_MAX + 40];
    snprintf(cmd, sizeof cmd, "cp %s prog", t_self);
    if (system(cmd)) SKIP("no cp");
    OK(chown("prog", 500, 500));
    OK(chmod("prog", 06755));
    int p[2];
    OK(pipe(p));
    // The owner is user 0 here: the bit counts.
    pid_t c = HELD(CLONE_NEWUSER, {
        OK(setresgid(5, 5, 5));
        OK(setresuid(5, 5, 5));
        dup2(p[1], 1);
        execl("prog", "prog", "--child", "ids", NULL);
        _exit(9);
    });
    OK(map_of(c, "uid_map", "0 500 10"));
    OK(map_of(c, "gid_map", "0 500 10"));
    go();
    WAIT0(c);
    char out[100] = {0};
    OK(read(p[0], out, 99));
    CK(!strncmp(out, "5 0 ", 4) && !strstr(out, " 0000000000000000"));
    // It is nobody there: it does not.
    c = HELD(CLONE_NEWUSER, {
        OK(setresgid(5, 5, 5));
        OK(setresuid(5, 5, 5));
        dup2(p[1], 1);
        execl("prog", "prog", "--child", "ids", NULL);
        _exit(9);
    });
    OK(map_of(c, "uid_map", "0 600 10"));
    OK(map_of(c, "gid_map", "0 600 10"));
    go();
    WAIT0(c);
    memset(out, 0, sizeof out);
    OK(read(p[0], out, 99));
    STREQ(out, "5 5 0000000000000000");
}

static int lists(const char *path, const char *what) {
    char line[400];
    int found = 0;
    FILE *f = fopen(path, "r");
    CK(f);
    while (fgets(line, sizeof line, f)) found |= !!strstr(line, what);
    fclose(f);
    return found;
}

TEST(networks) {
    need_root();
    int one = OK(socket(AF_UNIX, SOCK_STREAM, 0)), me = getpid();
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path + 1, 50, "userns-%d", me);
    OK(bind(one, (void *)&a, sizeof a));
    OK(listen(one, 1));
    int old = OK(open("/proc/self/ns/net", O_RDONLY));
    WAIT0(AS(1000, {
        char *before = ns_of("/proc/self/ns/net");
        own_root(CLONE_NEWNET);
        CK(strcmp(before, ns_of("/proc/self/ns/net")));
        // Abstract names are a network's.
        int two = OK(socket(AF_UNIX, SOCK_STREAM, 0));
        ERR(connect(two, (void *)&a, sizeof a), ECONNREFUSED);
        // What /proc/PID/net lists is of the network that the process is in.
        char path[50];
        snprintf(path, sizeof path, "/proc/%d/net/unix", me);
        CK(lists(path, a.sun_path + 1));
        CK(!lists("/proc/self/net/unix", a.sun_path + 1));
        OK(bind(two, (void *)&a, sizeof a));
        ERR(setns(old, CLONE_NEWNET), EPERM);
    }));
    WAIT0(SPAWN({
        OK(unshare(CLONE_NEWNET));
        OK(setns(old, CLONE_NEWNET));
        int two = OK(socket(AF_UNIX, SOCK_STREAM, 0));
        OK(connect(two, (void *)&a, sizeof a));
    }));
}

TEST(many_and_gone) {
    need_user_ns();
    for (int i = 0; i < 300; i++) {
        pid_t p = OK(forked(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWUTS));
        if (!p) _exit(0);
        WAIT0(p);
    }
}
