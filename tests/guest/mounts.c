// Mounts: bind, move, propagation between mounts and namespaces (mount_namespaces(7)), what mountinfo says of them.
#include "t.h"
#include <sys/mount.h>

static char t_line[4096];
static void own(void) {
    if (unshare(CLONE_NEWNS)) {
        if (errno == EPERM) SKIP("needs CAP_SYS_ADMIN");
        FAIL("unshare: %s", strerror(errno));
    }
    OK(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
    // Everything happens in a file system of our own, which nobody else sees.
    OK(mkdir("w", 0755));
    OK(mount("work", "w", "tmpfs", 0, NULL));
    OK(chdir("w"));
}
// A directory that is a mount of its own.
static void area(const char *d) {
    OK(mkdir(d, 0755));
    OK(mount(d, d, NULL, MS_BIND, NULL));
}
static void tmp(const char *d, const char *mark) {
    char p[200];
    OK(mount(mark, d, "tmpfs", 0, NULL));
    snprintf(p, sizeof p, "%s/%s", d, mark);
    put(p, mark);
}
static int has(const char *d, const char *mark) {
    char p[200];
    snprintf(p, sizeof p, "%s/%s", d, mark);
    return access(p, F_OK) == 0;
}
// The optional fields of the topmost mount at a place.
static const char *fields(const char *d) {
    static char found[500];
    char full[PATH_MAX + 2];
    CK(realpath(d, full));
    FILE *f = fopen("/proc/self/mountinfo", "r");
    CK(f);
    *found = 0;
    while (fgets(t_line, sizeof t_line, f)) {
        char at[PATH_MAX], opts[300];
        int n = 0;
        if (sscanf(t_line, "%*d %*d %*s %*s %4095s %299s %n", at, opts, &n) < 2 || strcmp(at, full)) continue;
        char *end = strstr(t_line + n, "- ");
        CK(end);
        *end = 0;
        snprintf(found, sizeof found, "[%s]", t_line + n);
    }
    fclose(f);
    return found;
}
static int mounts_at(const char *d) {
    char full[PATH_MAX + 2], at[PATH_MAX];
    CK(realpath(d, full));
    FILE *f = fopen("/proc/self/mountinfo", "r");
    CK(f);
    int n = 0;
    while (fgets(t_line, sizeof t_line, f)) n += sscanf(t_line, "%*d %*d %*s %*s %4095s", at) == 1 && !strcmp(at, full);
    fclose(f);
    return n;
}

// Two mounts of one directory that see each other's changes.
static void peers(void) {
    own();
    area("a");
    OK(mkdir("b", 0755));
    OK(mkdir("a/x", 0755));
    OK(mkdir("a/y", 0755));
    OK(mount(NULL, "a", NULL, MS_SHARED, NULL));
    OK(mount("a", "b", NULL, MS_BIND, NULL));
}
// The same, but b only receives.
static void slave(void) {
    peers();
    OK(mount(NULL, "b", NULL, MS_SLAVE, NULL));
}

TEST(shared_spreads_both_ways) {
    peers();
    tmp("a/x", "one");
    CK(has("b/x", "one"));
    tmp("b/y", "two");
    CK(has("a/y", "two"));
    OK(umount("b/x"));
    CK(!has("a/x", "one"));
    OK(umount("a/y"));
    CK(!has("b/y", "two"));
    EQ(mounts_at("a/x"), 0);
    CK(strstr(fields("a"), "shared:"));
    char a[500];
    snprintf(a, sizeof a, "%s", fields("a"));
    CK(!strcmp(a, fields("b")));
}
TEST(slave_only_receives) {
    slave();
    CK(strstr(fields("b"), "master:"));
    CK(!strstr(fields("b"), "shared:"));
    tmp("a/x", "one");
    CK(has("b/x", "one"));
    CK(strstr(fields("b/x"), "master:"));
    CK(!strstr(fields("b/x"), "shared:"));
    CK(strstr(fields("a/x"), "shared:"));
    tmp("b/y", "two");
    CK(!has("a/y", "two"));
    OK(umount("a/x"));
    CK(!has("b/x", "one"));
    // A copy that is gone already stops nobody.
    tmp("a/x", "three");
    OK(umount("b/x"));
    CK(has("a/x", "three"));
    OK(umount("a/x"));
}
TEST(private_is_alone) {
    own();
    area("a");
    OK(mkdir("b", 0755));
    OK(mkdir("a/x", 0755));
    OK(mount("a", "b", NULL, MS_BIND, NULL));
    tmp("a/x", "one");
    CK(!has("b/x", "one"));
    CK(!strcmp(fields("a"), "[]"));
    OK(mount(NULL, "a", NULL, MS_SHARED, NULL));
    CK(strstr(fields("a"), "shared:"));
    OK(mount(NULL, "a", NULL, MS_PRIVATE, NULL));
    CK(!strcmp(fields("a"), "[]"));
    // The only member of a group becomes nobody's slave.
    OK(mount(NULL, "a", NULL, MS_SHARED, NULL));
    OK(mount(NULL, "a", NULL, MS_SLAVE, NULL));
    CK(!strcmp(fields("a"), "[]"));
}
TEST(unbindable_is_not_bound) {
    own();
    area("a");
    OK(mkdir("b", 0755));
    OK(mkdir("a/u", 0755));
    OK(mkdir("a/v", 0755));
    tmp("a/u", "u");
    tmp("a/v", "v");
    OK(mount(NULL, "a/u", NULL, MS_UNBINDABLE, NULL));
    CK(strstr(fields("a/u"), "unbindable"));
    ERR(mount("a/u", "b", NULL, MS_BIND, NULL), EINVAL);
    OK(mount("a", "b", NULL, MS_BIND | MS_REC, NULL));
    CK(!has("b/u", "u"));
    CK(has("b/v", "v"));
    OK(mount(NULL, "a", NULL, MS_SHARED, NULL));
    OK(mkdir("a/w", 0755));
    OK(mkdir("m", 0755));
    tmp("m", "m");
    OK(mount(NULL, "m", NULL, MS_UNBINDABLE, NULL));
    ERR(mount("m", "a/w", NULL, MS_MOVE, NULL), EINVAL);
}
TEST(shared_slaves_pass_on) {
    slave();
    OK(mkdir("c", 0755));
    OK(mount(NULL, "b", NULL, MS_SHARED, NULL));
    OK(mount("b", "c", NULL, MS_BIND, NULL));
    CK(strstr(fields("c"), "shared:") && strstr(fields("c"), "master:"));
    tmp("a/x", "one");
    CK(has("b/x", "one"));
    CK(has("c/x", "one"));
    CK(strstr(fields("c/x"), "shared:") && strstr(fields("c/x"), "master:"));
    tmp("b/y", "two");
    CK(has("c/y", "two"));
    CK(!has("a/y", "two"));
    OK(umount("a/x"));
    CK(!has("c/x", "one"));
    OK(umount("c/y"));
    CK(!has("b/y", "two"));
    // Without its last other member the group's slaves are its master's.
    OK(mount(NULL, "b", NULL, MS_PRIVATE, NULL));
    tmp("a/x", "three");
    CK(!has("b/x", "three"));
    CK(has("c/x", "three"));
}
TEST(trees_spread_whole) {
    peers();
    OK(mkdir("t", 0755));
    tmp("t", "outer");
    OK(mkdir("t/in", 0755));
    tmp("t/in", "inner");
    OK(mount("t", "a/x", NULL, MS_BIND | MS_REC, NULL));
    CK(has("b/x", "outer"));
    CK(has("b/x/in", "inner"));
    ERR(umount("a/x"), EBUSY);
    OK(umount2("a/x", MNT_DETACH));
    CK(!has("b/x", "outer"));
    OK(mount("t", "a/x", NULL, MS_MOVE, NULL));
    CK(has("b/x/in", "inner"));
    CK(!has("t", "outer"));
}
TEST(moves_of_shared) {
    own();
    area("a");
    OK(mkdir("a/x", 0755));
    OK(mkdir("b", 0755));
    OK(mount(NULL, "a", NULL, MS_SHARED, NULL));
    tmp("a/x", "one");
    // What sits in a shared mount stays there.
    ERR(mount("a/x", "b", NULL, MS_MOVE, NULL), EINVAL);
    OK(mount(NULL, "a", NULL, MS_PRIVATE, NULL));
    OK(mount("a/x", "b", NULL, MS_MOVE, NULL));
    CK(has("b", "one"));
    OK(mkdir("b/in", 0755));
    ERR(mount("b", "b/in", NULL, MS_MOVE, NULL), ELOOP);
}
TEST(kinds_are_exclusive) {
    own();
    area("a");
    OK(mkdir("a/d", 0755));
    ERR(mount(NULL, "a", NULL, MS_SHARED | MS_PRIVATE, NULL), EINVAL);
    ERR(mount(NULL, "a", NULL, MS_SHARED | MS_RDONLY, NULL), EINVAL);
    ERR(mount(NULL, "a/d", NULL, MS_SHARED, NULL), EINVAL);
    OK(mount(NULL, "a", NULL, MS_SHARED | MS_REC, NULL));
}
TEST(below_what_is_there) {
    slave();
    tmp("b/x", "own");
    tmp("a/x", "theirs");
    // The slave's own mount stays on top of what comes from the master.
    CK(has("b/x", "own"));
    EQ(mounts_at("b/x"), 2);
    OK(umount("a/x"));
    CK(has("b/x", "own"));
    EQ(mounts_at("b/x"), 1);
    tmp("a/x", "again");
    OK(umount("b/x"));
    CK(has("b/x", "again"));
}
TEST(busy_elsewhere) {
    peers();
    tmp("a/x", "one");
    int fd = OK(open("b/x/one", O_RDONLY));
    ERR(umount("a/x"), EBUSY);
    close(fd);
    OK(umount("a/x"));
}
TEST(namespaces) {
    own();
    area("a");
    OK(mkdir("a/x", 0755));
    OK(mkdir("a/y", 0755));
    OK(mount(NULL, "a", NULL, MS_SHARED, NULL));
    int go[2], done[2];
    char c;
    OK(pipe(go));
    OK(pipe(done));
    pid_t p = OK(fork());
    if (!p) {
        close(go[1]);
        OK(unshare(CLONE_NEWNS));
        CK(write(done[1], "1", 1) == 1);
        CK(read(go[0], &c, 1) == 1);
        CK(has("a/x", "one"));
        OK(umount("a/x"));
        CK(write(done[1], "2", 1) == 1);
        CK(read(go[0], &c, 1) == 1);
        OK(mount(NULL, "a", NULL, MS_SLAVE, NULL));
        tmp("a/y", "mine");
        CK(write(done[1], "3", 1) == 1);
        CK(read(go[0], &c, 1) == 1);
        CK(has("a/x", "late"));
        _exit(0);
    }
    close(done[1]);
    close(go[0]);
    CK(read(done[0], &c, 1) == 1);
    tmp("a/x", "one");
    CK(write(go[1], "1", 1) == 1);
    CK(read(done[0], &c, 1) == 1);
    CK(!has("a/x", "one"));
    CK(write(go[1], "2", 1) == 1);
    CK(read(done[0], &c, 1) == 1);
    CK(!has("a/y", "mine"));
    tmp("a/x", "late");
    CK(write(go[1], "3", 1) == 1);
    int st;
    EQ(waitpid(p, &st, 0), p);
    EQ(st, 0);
    // The namespace is gone with its process; nothing of it is in the way.
    OK(umount("a/x"));
    OK(rmdir("a/x"));
}
TEST(pivot_out_of_shared) {
    own();
    area("r");
    OK(mkdir("r/old", 0755));
    OK(mkdir("p", 0755));
    OK(mount("p", "p", NULL, MS_BIND, NULL));
    OK(mount(NULL, "p", NULL, MS_SHARED, NULL));
    OK(mkdir("p/n", 0755));
    OK(mount("r", "p/n", NULL, MS_BIND, NULL));
    ERR(syscall(SYS_pivot_root, "p/n", "p/n/old"), EINVAL);
    OK(mount(NULL, "p", NULL, MS_PRIVATE, NULL));
    OK(mount(NULL, "p/n", NULL, MS_PRIVATE, NULL));
    OK(syscall(SYS_pivot_root, "p/n", "p/n/old"));
    OK(chdir("/"));
    OK(umount2("/old", MNT_DETACH));
    ERR(access("/tmp", F_OK), ENOENT);
}
TEST(poll_tells_of_changes) {
    own();
    OK(mkdir("a", 0755));
    int fd = OK(open("/proc/self/mountinfo", O_RDONLY));
    struct pollfd p = {.fd = fd, .events = POLLPRI};
    char b[4096];
    while (read(fd, b, sizeof b) > 0) {}
    EQ(poll(&p, 1, 0), 0);
    tmp("a", "one");
    EQ(poll(&p, 1, 1000), 1);
    CK(p.revents & POLLPRI);
    CK(p.revents & POLLERR);
    // Told once.
    EQ(poll(&p, 1, 0), 0);
    OK(umount("a"));
    EQ(poll(&p, 1, 1000), 1);
}
