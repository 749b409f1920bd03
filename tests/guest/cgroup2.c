// Control groups: making and removing them, moving, freezing and killing what is in them, what they tell, namespaces.
#include "t.h"
#include <sys/inotify.h>
#include <sys/mount.h>

static char top[64];
// A new cgroup `top` of our own in a mount of our own.
static void own(void) {
    if (getuid() || unshare(CLONE_NEWNS)) SKIP("needs root");
    OK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    OK(mkdir("cg", 0755));
    if (mount("none", "cg", "cgroup2", 0, NULL)) SKIP("no cgroup2: %s", strerror(errno));
    snprintf(top, sizeof top, "cg/chitin-%d", getpid());
    if (mkdir(top, 0755)) SKIP("no cgroups can be made: %s", strerror(errno));
}
static void gone(const char *path) {
    // What was killed is reaped by us, but leaves its cgroup a moment later.
    for (int i = 0; i < 200 && rmdir(path) && errno == EBUSY; i++) usleep(5000);
    ERR(rmdir(path), ENOENT);
}
static const char *at(const char *cg, const char *file) {
    static char b[4][200];
    static int n;
    n = (n + 1) % 4;
    snprintf(b[n], sizeof b[n], "%s/%s", cg, file);
    return b[n];
}
static int set(const char *cg, const char *file, const char *text) {
    int fd = open(at(cg, file), O_WRONLY);
    if (fd < 0) return -errno;
    int r = write(fd, text, strlen(text)) < 0 ? -errno : 0;
    close(fd);
    return r;
}
static int moves(const char *cg, pid_t pid) {
    char b[20];
    snprintf(b, sizeof b, "%d", pid);
    return set(cg, "cgroup.procs", b);
}
static int says(const char *cg, const char *file, const char *line) {
    for (int i = 0; i < 200; i++) {
        const char *t = get(at(cg, file));
        const char *p = strstr(t, line);
        if (p && (p == t || p[-1] == '\n') && (p[strlen(line)] == '\n')) return 1;
        usleep(5000);
    }
    return 0;
}
static void move_all(const char *from, const char *to) {
    for (int pid; (pid = atoi(get(at(from, "cgroup.procs"))));) EQ(moves(to, pid), 0);
}
static pid_t sleeper(void) {
    return SPAWN({
        for (;;) pause();
    });
}

TEST(files_and_names) {
    own();
    CK(says(top, "cgroup.type", "domain"));
    CK(says(top, "cgroup.events", "populated 0"));
    CK(says(top, "cgroup.events", "frozen 0"));
    CK(says(top, "cgroup.stat", "nr_descendants 0"));
    CK(says(top, "cgroup.max.depth", "max"));
    CK(!strncmp(get(at(top, "cpu.stat")), "usage_usec 0\n", 13));
    STREQ(get(at(top, "cgroup.procs")), "");
    ERR(open(at(top, "new"), O_CREAT | O_WRONLY, 0644), EACCES);
    ERR(unlink(at(top, "cgroup.procs")), EPERM);
    ERR(mkdir(at(top, "cgroup.procs"), 0755), EEXIST);
    ERR(mkdir(at(top, "a\nb"), 0755), EINVAL);
    struct stat s;
    OK(stat(at(top, "cgroup.procs"), &s));
    EQ(s.st_mode, S_IFREG | 0644);
    OK(stat(at(top, "cgroup.kill"), &s));
    EQ(s.st_mode, S_IFREG | 0200);
    OK(chown(at(top, "cgroup.procs"), 7, 8));
    OK(stat(at(top, "cgroup.procs"), &s));
    EQ(s.st_uid, 7);
    OK(mkdir(at(top, "a"), 0755));
    CK(says(top, "cgroup.stat", "nr_descendants 1"));
    ERR(rmdir(top), EBUSY);
    EQ(set(top, "cgroup.max.descendants", "1"), 0);
    ERR(mkdir(at(top, "b"), 0755), EAGAIN);
    EQ(set(top, "cgroup.max.descendants", "max"), 0);
    EQ(set(top, "cgroup.max.depth", "1"), 0);
    ERR(mkdir(at(top, "a/b"), 0755), EAGAIN);
    EQ(set(top, "cgroup.max.depth", "-1"), -ERANGE);
    EQ(set(top, "cgroup.max.depth", "x"), -EINVAL);
    EQ(set(top, "cgroup.freeze", "2"), -ERANGE);
    EQ(set(top, "cgroup.kill", "0"), -ERANGE);
    EQ(set(top, "cgroup.subtree_control", "+nonsense"), -EINVAL);
    EQ(set(top, "cgroup.subtree_control", "pids"), -EINVAL);
    OK(rmdir(at(top, "a")));
    OK(rmdir(top));
}
TEST(moving) {
    own();
    pid_t c = sleeper();
    EQ(moves(top, c), 0);
    char want[200];
    snprintf(want, sizeof want, "%d\n", c);
    STREQ(get(at(top, "cgroup.procs")), want);
    STREQ(get(at(top, "cgroup.threads")), want);
    CK(says(top, "cgroup.events", "populated 1"));
    ERR(rmdir(top), EBUSY);
    char path[60];
    snprintf(path, sizeof path, "/proc/%d/cgroup", c);
    snprintf(want, sizeof want, "/chitin-%d\n", getpid());
    CK(strstr(get(path), want));
    EQ(moves(top, 0), 0); // ourselves
    CK(strstr(get("/proc/self/cgroup"), want));
    // Children are born where their parent is.
    pid_t d = sleeper();
    snprintf(path, sizeof path, "/proc/%d/cgroup", d);
    CK(strstr(get(path), want));
    EQ(moves("cg", 0), 0);
    EQ(moves(top, 999999), -ESRCH);
    EQ(set(top, "cgroup.procs", "x"), -EINVAL);
    OK(kill(c, SIGKILL));
    OK(kill(d, SIGKILL));
    waitpid(c, NULL, 0);
    waitpid(d, NULL, 0);
    CK(says(top, "cgroup.events", "populated 0"));
    gone(top);
}
TEST(events_are_told) {
    own();
    int in = OK(inotify_init1(IN_NONBLOCK));
    OK(inotify_add_watch(in, at(top, "cgroup.events"), IN_MODIFY));
    int fd = OK(open(at(top, "cgroup.events"), O_RDONLY));
    char b[200];
    OK(read(fd, b, sizeof b));
    struct pollfd p = {fd, POLLPRI, 0};
    EQ(poll(&p, 1, 0), 0);
    pid_t c = sleeper();
    EQ(moves(top, c), 0);
    EQ(poll(&p, 1, 2000), 1);
    CK(p.revents & POLLPRI);
    p = (struct pollfd){in, POLLIN, 0};
    EQ(poll(&p, 1, 2000), 1);
    CK(read(in, b, sizeof b) >= 16);
    OK(kill(c, SIGKILL));
    waitpid(c, NULL, 0);
    EQ(poll(&p, 1, 2000), 1);
    gone(top);
}
TEST(freezing) {
    own();
    volatile long *count = MAPOK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    pid_t c = SPAWN({
        for (;;) ++*count;
    });
    EQ(moves(top, c), 0);
    EQ(set(top, "cgroup.freeze", "1"), 0);
    CK(says(top, "cgroup.events", "frozen 1"));
    CK(says(top, "cgroup.freeze", "1"));
    long n = *count;
    usleep(50000);
    EQ(*count, n);
    // Who comes in stops, who leaves goes on.
    pid_t d = SPAWN({
        for (;;) ++count[1];
    });
    EQ(moves(top, d), 0);
    CK(says(top, "cgroup.events", "frozen 1"));
    n = count[1];
    usleep(30000);
    EQ(count[1], n);
    EQ(moves("cg", d), 0);
    for (int i = 0; i < 200 && count[1] == n; i++) usleep(5000);
    CK(count[1] != n);
    EQ(set(top, "cgroup.freeze", "0"), 0);
    n = *count;
    for (int i = 0; i < 200 && *count == n; i++) usleep(5000);
    CK(*count != n);
    // The dead do not stay, frozen or not.
    EQ(set(top, "cgroup.freeze", "1"), 0);
    OK(kill(c, SIGKILL));
    OK(kill(d, SIGKILL));
    EQ(waitpid(c, NULL, 0), c);
    EQ(waitpid(d, NULL, 0), d);
    gone(top);
}
TEST(killing) {
    own();
    OK(mkdir(at(top, "in"), 0755));
    pid_t a = sleeper(), b = sleeper();
    EQ(moves(top, a), 0);
    EQ(moves(at(top, "in"), b), 0);
    CK(says(top, "cgroup.events", "populated 1"));
    EQ(set(top, "cgroup.kill", "1"), 0);
    int st;
    EQ(waitpid(a, &st, 0), a);
    EQ(WTERMSIG(st), SIGKILL);
    EQ(waitpid(b, &st, 0), b);
    EQ(WTERMSIG(st), SIGKILL);
    gone(at(top, "in"));
    gone(top);
}
TEST(namespaces) {
    own();
    OK(mkdir(at(top, "in"), 0755));
    pid_t c = SPAWN({
        if (moves(at(top, "in"), 0)) _exit(1);
        OK(unshare(CLONE_NEWCGROUP));
        if (!strstr(get("/proc/self/cgroup"), ":/\n")) _exit(2);
        char path[60];
        snprintf(path, sizeof path, "/proc/%d/cgroup", getppid());
        if (!strstr(get(path), ":/../..")) _exit(3);
        OK(mkdir("own", 0755));
        OK(mount("none", "own", "cgroup2", 0, NULL));
        if (access("own/in", F_OK) != -1) _exit(4);
        if (mkdir("own/below", 0755)) _exit(5);
        if (moves("own/below", 0)) _exit(6);
        if (!strstr(get("/proc/self/cgroup"), ":/below\n")) _exit(7);
        if (moves("own", 0)) _exit(8);
        if (rmdir("own/below")) _exit(9);
    });
    WAIT0(c);
    gone(at(top, "in"));
    gone(top);
}
TEST(numbers_are_bounded) {
    own();
    // Where the root of the hierarchy is only a container's, it can be told apart, and emptied, without harm to others.
    int ours = !access("cg/cgroup.type", F_OK);
    if (ours) {
        OK(mkdir("cg/leaf", 0755));
        move_all("cg", "cg/leaf");
        EQ(set("cg", "cgroup.subtree_control", "+nonsense +pids"), -EINVAL);
        EQ(set("cg", "cgroup.subtree_control", "+pids"), 0);
        EQ(moves("cg", 0), -EBUSY);
    }
    if (set(top, "cgroup.subtree_control", "+pids")) SKIP("no pids controller in this hierarchy");
    OK(mkdir(at(top, "in"), 0755));
    EQ(set(at(top, "in"), "pids.max", "3"), 0);
    EQ(moves(top, 0), -EBUSY); // it gives controllers to its children
    pid_t c = SPAWN({
        if (moves(at(top, "in"), 0)) _exit(1);
        pid_t kids[2] = {sleeper(), sleeper()};
        if (fork() != -1 || errno != EAGAIN) _exit(2);
        if (!says(at(top, "in"), "pids.current", "3")) _exit(3);
        if (!says(at(top, "in"), "pids.events", "max 1")) _exit(4);
        kill(kids[0], SIGKILL);
        waitpid(kids[0], NULL, 0);
        pid_t k = fork();
        if (k == 0) _exit(0);
        if (k < 0) _exit(5);
        kill(kids[1], SIGKILL);
    });
    WAIT0(c);
    gone(at(top, "in"));
    EQ(set(top, "cgroup.subtree_control", "-pids"), 0);
    gone(top);
    if (!ours) return;
    EQ(set("cg", "cgroup.subtree_control", "-pids"), 0);
    move_all("cg/leaf", "cg");
    gone("cg/leaf");
}
