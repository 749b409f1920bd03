// Names: directories, links, renames, permissions, umask, sticky and setgid directories.
#include "t.h"
#include <linux/fs.h>
#include <sys/sysmacros.h>

static void as_user(int uid) {
    OK(syscall(SYS_setgroups, 0, NULL));
    OK(setresgid(uid, uid, uid));
    OK(setresuid(uid, uid, uid));
}
static void need_root(void) {
    if (geteuid()) SKIP("needs root");
}
static int mode_of(const char *p) {
    struct stat st;
    OK(lstat(p, &st));
    return st.st_mode & 07777;
}

TEST(mkdir_rmdir) {
    OK(mkdir("d", 0755));
    ERR(mkdir("d", 0755), EEXIST);
    ERR(mkdir("x/y", 0755), ENOENT);
    OK(mkdir("slash/", 0755));
    put("d/f", "x");
    ERR(rmdir("d"), ENOTEMPTY);
    OK(unlink("d/f"));
    ERR(rmdir("d/."), EINVAL);
    ERR(unlink("d"), EISDIR);
    OK(rmdir("d"));
    ERR(rmdir("d"), ENOENT);
    put("f", "x");
    ERR(rmdir("f"), ENOTDIR);
    ERR(mkdir("f/x", 0755), ENOTDIR);
    ERR(unlinkat(AT_FDCWD, "f", AT_REMOVEDIR), ENOTDIR);
    ERR(unlinkat(AT_FDCWD, "f", 0x40), EINVAL);
    ERR(rmdir("/"), EBUSY);
}
TEST(link_counts) {
    put("a", "x");
    OK(link("a", "b"));
    struct stat st;
    OK(stat("a", &st));
    EQ(st.st_nlink, 2);
    ERR(link("a", "b"), EEXIST);
    OK(unlink("a"));
    OK(stat("b", &st));
    EQ(st.st_nlink, 1);
    OK(mkdir("d", 0755));
    ERR(link("d", "e"), EPERM);
    ERR(link("missing", "e"), ENOENT);
    OK(symlink("b", "s"));
    OK(link("s", "s2"));
    OK(lstat("s2", &st));
    CK(S_ISLNK(st.st_mode));
    OK(linkat(AT_FDCWD, "s", AT_FDCWD, "b2", AT_SYMLINK_FOLLOW));
    OK(lstat("b2", &st));
    CK(S_ISREG(st.st_mode));
}
TEST(symlinks) {
    char b[64] = "";
    OK(symlink("target/not/there", "l"));
    EQ(readlink("l", b, sizeof b), 16);
    STREQ(b, "target/not/there");
    EQ(readlink("l", b, 3), 3);
    ERR(readlink("l", b, 0), EINVAL);
    put("f", "x");
    ERR(readlink("f", b, 3), EINVAL);
    ERR(symlink("x", "l"), EEXIST);
    ERR(symlink("", "e"), ENOENT);
    struct stat st;
    OK(lstat("l", &st));
    EQ(st.st_size, 16);
    EQ(st.st_mode, S_IFLNK | 0777);
    ERR(stat("l", &st), ENOENT);
    OK(mkdir("d", 0755));
    put("d/g", "deep");
    OK(symlink("d", "ld"));
    STREQ(get("ld/../d/g"), "deep");
    STREQ(get("ld/g"), "deep");
    char n[8], m[8];
    OK(symlink("f", "c0"));
    for (int i = 1; i < 45; i++) {
        snprintf(n, 8, "c%d", i), snprintf(m, 8, "c%d", i - 1);
        OK(symlink(m, n));
    }
    OK(open("c38", O_RDONLY));
    ERR(open("c44", O_RDONLY), ELOOP);
}
TEST(rename_rules) {
    put("a", "A");
    put("b", "B");
    OK(rename("a", "b"));
    STREQ(get("b"), "A");
    ERR(rename("a", "c"), ENOENT);
    OK(mkdir("d", 0755));
    OK(mkdir("e", 0755));
    put("e/x", "x");
    ERR(rename("d", "e"), ENOTEMPTY);
    ERR(rename("b", "d"), EISDIR);
    ERR(rename("d", "b"), ENOTDIR);
    ERR(rename("e", "e/sub"), EINVAL);
    OK(rename("e", "d"));
    STREQ(get("d/x"), "x");
    OK(link("b", "b2"));
    OK(rename("b", "b2")); // same inode: nothing happens
    OK(access("b", F_OK));
    OK(access("b2", F_OK));
    ERR(rename("d/.", "z"), EBUSY);
    ERR(rename("/proc/self", "z"), EXDEV);
}
TEST(rename_open_and_cwd) {
    put("a", "A");
    int fd = OK(open("a", O_RDWR));
    OK(rename("a", "b"));
    EQ(write(fd, "Z", 1), 1);
    STREQ(get("b"), "Z");
    OK(mkdir("d", 0755));
    OK(mkdir("d/s", 0755));
    OK(chdir("d/s"));
    OK(rename("../../d", "../../moved"));
    char b[PATH_MAX];
    CK(getcwd(b, sizeof b));
    CK(strstr(b, "/moved/s"));
    OK(rmdir("../s"));
    ERR(syscall(SYS_getcwd, b, sizeof b), ENOENT);
    ERR(open("new", O_CREAT | O_RDWR, 0600), ENOENT);
}
TEST(renameat2_flags) {
    put("a", "A");
    put("b", "B");
    ERR(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
    OK(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE));
    if (renameat2(AT_FDCWD, "c", AT_FDCWD, "b", RENAME_EXCHANGE) < 0 && errno == EINVAL) SKIP("file system without exchange");
    STREQ(get("c"), "B");
    STREQ(get("b"), "A");
    ERR(renameat2(AT_FDCWD, "c", AT_FDCWD, "zz", RENAME_EXCHANGE), ENOENT);
    ERR(renameat2(AT_FDCWD, "c", AT_FDCWD, "b", 64), EINVAL);
}
static int count(DIR *d) {
    int n = 0;
    struct dirent *e;
    while ((e = readdir(d))) n++;
    return n;
}
TEST(getdents_complete) {
    char n[32];
    for (int i = 0; i < 500; i++) {
        snprintf(n, sizeof n, "file-%03d", i);
        put(n, "");
    }
    OK(mkdir("sub", 0755));
    OK(symlink("x", "ln"));
    OK(mkfifo("ff", 0600));
    char seen[500] = {0};
    int dots = 0;
    DIR *d = opendir(".");
    CK(d);
    struct dirent *e;
    while ((e = readdir(d))) {
        struct stat st;
        OK(lstat(e->d_name, &st));
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) {
            dots++;
            EQ(e->d_type, DT_DIR);
            continue;
        }
        EQ(e->d_ino, st.st_ino);
        if (!strncmp(e->d_name, "file-", 5)) {
            int i = atoi(e->d_name + 5);
            EQ(seen[i], 0);
            seen[i] = 1;
            EQ(e->d_type, DT_REG);
        } else if (!strcmp(e->d_name, "sub"))
            EQ(e->d_type, DT_DIR);
        else if (!strcmp(e->d_name, "ln"))
            EQ(e->d_type, DT_LNK);
        else if (!strcmp(e->d_name, "ff"))
            EQ(e->d_type, DT_FIFO);
        else
            FAIL("odd name %s", e->d_name);
    }
    EQ(dots, 2);
    for (int i = 0; i < 500; i++) EQ(seen[i], 1);
    rewinddir(d);
    EQ(count(d), 505);
}
TEST(getdents_buffer_rules) {
    put("f", "");
    int fd = OK(open(".", O_RDONLY | O_DIRECTORY));
    char b[1024];
    ERR(syscall(SYS_getdents64, fd, b, 4), EINVAL);
    ERR(syscall(SYS_getdents64, fd, (void *)8, 1024), EFAULT);
    CK(syscall(SYS_getdents64, fd, b, sizeof b) > 0);
    EQ(syscall(SYS_getdents64, fd, b, sizeof b), 0);
    int f = OK(open("f", O_RDONLY));
    ERR(syscall(SYS_getdents64, f, b, sizeof b), ENOTDIR);
    OK(lseek(fd, 0, SEEK_SET));
    ERR(read(fd, b, 10), EISDIR);
}
TEST(getdents_while_removing) {
    char n[32];
    for (int i = 0; i < 300; i++) {
        snprintf(n, sizeof n, "f%d", i);
        put(n, "");
    }
    DIR *d = opendir(".");
    struct dirent *e;
    int gone = 0;
    while ((e = readdir(d)))
        if (e->d_name[0] == 'f') {
            OK(unlink(e->d_name));
            gone++;
        }
    EQ(gone, 300);
    rewinddir(d);
    EQ(count(d), 2);
}
TEST(telldir_seekdir) {
    char n[32];
    for (int i = 0; i < 100; i++) {
        snprintf(n, sizeof n, "f%d", i);
        put(n, "");
    }
    DIR *d = opendir(".");
    for (int i = 0; i < 40; i++) CK(readdir(d));
    long pos = telldir(d);
    char want[256];
    strcpy(want, readdir(d)->d_name);
    while (readdir(d)) {}
    seekdir(d, pos);
    STREQ(readdir(d)->d_name, want);
}
TEST(umask_and_create_modes) {
    EQ(umask(027), 022);
    OK(close(OK(open("f", O_CREAT | O_RDWR, 0777))));
    EQ(mode_of("f"), 0750);
    OK(mkdir("d", 01777));
    EQ(mode_of("d"), 01750);
    OK(mkfifo("p", 0666));
    EQ(mode_of("p"), 0640);
    EQ(umask(07777), 027);
    EQ(umask(0), 0777);
    OK(close(OK(open("s", O_CREAT | O_RDWR, 06755))));
    EQ(mode_of("s"), 06755);
}
TEST(permission_checks) {
    need_root();
    OK(mkdir("d", 0700));
    OK(chmod(".", 0755));
    put("d/f", "x");
    put("r", "secret");
    OK(chmod("r", 0640));
    OK(chown("r", 0, 1234));
    put("u", "x");
    OK(chmod("u", 0077)); // the owner's class decides, also against the owner
    OK(chown("u", 1000, 1000));
    WAIT0(SPAWN({
        OK(syscall(SYS_setgroups, 0, NULL));
        OK(setresgid(1000, 1000, 1000));
        OK(setresuid(1000, 1000, 1000));
        ERR(open("d/f", O_RDONLY), EACCES);
        ERR(open("r", O_RDONLY), EACCES);
        ERR(open("u", O_RDONLY), EACCES);
        ERR(open("new", O_CREAT | O_RDWR, 0600), EACCES);
        ERR(unlink("r"), EACCES);
        ERR(chmod("r", 0777), EPERM);
        ERR(access("r", R_OK), EACCES);
        OK(chmod("u", 0700));
        OK(open("u", O_RDWR));
        ERR(chown("u", 0, 0), EPERM);
        ERR(chown("u", -1, 1234), EPERM);
        OK(chown("u", -1, 1000));
    }));
    WAIT0(SPAWN({
        gid_t g = 1234;
        OK(syscall(SYS_setgroups, 1, &g));
        OK(setresgid(1000, 1000, 1000));
        OK(setresuid(1000, 1000, 1000));
        OK(open("r", O_RDONLY));
        ERR(open("r", O_RDWR), EACCES);
    }));
}
TEST(access_uses_real_ids) {
    need_root();
    put("r", "x");
    OK(chmod("r", 0600));
    OK(setresuid(1000, 0, 0));
    OK(open("r", O_RDWR));
    ERR(access("r", R_OK), EACCES);
    OK(faccessat(AT_FDCWD, "r", R_OK, AT_EACCESS));
    OK(access("r", F_OK));
    ERR(access("r", 077), EINVAL);
}
TEST(exec_permission_of_root) {
    need_root();
    put("f", "#!/bin/sh\n");
    ERR(access("f", X_OK), EACCES);
    OK(chmod("f", 0100));
    OK(access("f", X_OK));
}
TEST(sticky_directory) {
    need_root();
    OK(mkdir("t", 0777));
    OK(chmod("t", 01777));
    put("t/root", "x");
    put("t/mine", "x");
    OK(chown("t/mine", 1000, 1000));
    WAIT0(SPAWN({
        as_user(1000);
        ERR(unlink("t/root"), EPERM);
        ERR(rename("t/root", "t/z"), EPERM);
        OK(unlink("t/mine"));
    }));
}
TEST(setgid_directory) {
    need_root();
    OK(mkdir("g", 0777));
    OK(chown("g", 0, 1234));
    OK(chmod("g", 02777));
    put("g/f", "x");
    struct stat st;
    OK(stat("g/f", &st));
    EQ(st.st_gid, 1234);
    OK(mkdir("g/d", 0755));
    OK(stat("g/d", &st));
    EQ(st.st_gid, 1234);
    EQ(st.st_mode & 07777, 02755);
}
TEST(suid_cleared_on_change) {
    need_root();
    put("f", "x");
    OK(chmod("f", 06755));
    OK(chown("f", 1000, 1000));
    EQ(mode_of("f"), 0755);
    OK(chmod("f", 06755));
    OK(chmod(".", 0777));
    WAIT0(SPAWN({
        as_user(1000);
        int fd = OK(open("f", O_RDWR));
        OK(write(fd, "y", 1));
        EQ(mode_of("f"), 0755);
        OK(chmod("f", 02755));
    }));
    EQ(mode_of("f"), 02755);
    OK(chown("f", 1000, 4321));
    OK(chmod("f", 0755));
    WAIT0(SPAWN({
        as_user(1000); // not a member of 4321: the setgid bit is dropped silently
        OK(chmod("f", 02755));
    }));
    EQ(mode_of("f"), 0755);
}
TEST(chown_forms) {
    need_root();
    put("f", "x");
    OK(symlink("f", "l"));
    OK(lchown("l", 7, 8));
    struct stat st;
    OK(lstat("l", &st));
    EQ(st.st_uid, 7);
    OK(stat("l", &st));
    EQ(st.st_uid, 0);
    OK(chown("l", 9, -1));
    OK(stat("f", &st));
    EQ(st.st_uid, 9);
    EQ(st.st_gid, 0);
    int fd = OK(open("f", O_RDONLY));
    OK(fchown(fd, -1, 11));
    OK(fstat(fd, &st));
    EQ(st.st_gid, 11);
    OK(fchownat(fd, "", 1, 1, AT_EMPTY_PATH));
    OK(fstat(fd, &st));
    EQ(st.st_uid, 1);
}
TEST(mknod_kinds) {
    OK(mknod("reg", S_IFREG | 0600, 0));
    OK(mknod("fifo", S_IFIFO | 0600, 0));
    OK(mknod("sock", S_IFSOCK | 0600, 0));
    struct stat st;
    OK(stat("sock", &st));
    CK(S_ISSOCK(st.st_mode));
    ERR(open("sock", O_RDWR), ENXIO);
    ERR(mknod("reg", S_IFREG | 0600, 0), EEXIST);
    ERR(mknod("dir", S_IFDIR | 0700, 0), EPERM);
    ERR(mknod("odd", 0170000 | 0600, 0), EINVAL);
    put("plain", "");
    OK(mknod("nomode", 0600, 0));
    OK(stat("nomode", &st));
    CK(S_ISREG(st.st_mode));
}
TEST(dot_dot_and_slashes) {
    OK(mkdir("a", 0755));
    OK(mkdir("a/b", 0755));
    put("a/f", "F");
    STREQ(get("a//b/.././f"), "F");
    STREQ(get("./a/b/../f"), "F");
    struct stat r, rr;
    OK(stat("/", &r));
    OK(stat("/../../..", &rr));
    EQ(r.st_ino, rr.st_ino);
    OK(stat("a/b/", &r));
    ERR(stat("a/f/..", &r), ENOTDIR);
    ERR(stat("nope/..", &r), ENOENT);
}
TEST(chdir_fchdir_chroot) {
    need_root();
    OK(mkdir("d", 0755));
    put("d/f", "in");
    int here = OK(open(".", O_RDONLY | O_DIRECTORY));
    OK(chdir("d"));
    STREQ(get("f"), "in");
    OK(fchdir(here));
    ERR(chdir("d/f"), ENOTDIR);
    int fd = OK(open("d/f", O_RDONLY));
    ERR(fchdir(fd), ENOTDIR);
    if (chroot("d") < 0 && errno == EPERM) SKIP("chroot is not permitted here");
    OK(chdir("/"));
    STREQ(get("/f"), "in");
    STREQ(get("/../f"), "in");
    ERR(open("/etc", O_RDONLY), ENOENT);
    char b[100];
    CK(getcwd(b, 100));
    STREQ(b, "/");
}
TEST(dir_nlink_and_times) {
    struct stat a, b;
    OK(mkdir("d", 0755));
    OK(stat("d", &a));
    struct timespec t[2] = {{5, 0}, {5, 0}};
    OK(utimensat(AT_FDCWD, "d", t, 0));
    OK(mkdir("d/s", 0755));
    OK(stat("d", &b));
    CK(b.st_nlink == a.st_nlink + 1 || b.st_nlink == a.st_nlink);
    CK(b.st_mtim.tv_sec > 1000);
    OK(utimensat(AT_FDCWD, "d", t, 0));
    OK(rmdir("d/s"));
    OK(stat("d", &b));
    CK(b.st_mtim.tv_sec > 1000);
}
TEST(inode_numbers_stable) {
    put("a", "x");
    put("b", "x");
    struct stat a, b, c;
    OK(stat("a", &a));
    OK(stat("b", &b));
    CK(a.st_ino != b.st_ino);
    OK(rename("a", "c"));
    OK(stat("c", &c));
    EQ(a.st_ino, c.st_ino);
    EQ(a.st_dev, b.st_dev);
}
TEST(getcwd_rules) {
    char b[PATH_MAX];
    ERR(syscall(SYS_getcwd, b, 1), ERANGE);
    ERR(syscall(SYS_getcwd, (void *)8, 4096), EFAULT);
    long n = OK(syscall(SYS_getcwd, b, sizeof b));
    EQ(n, strlen(b) + 1);
}
TEST(deep_paths) {
    char name[101];
    memset(name, 'p', 100);
    name[100] = 0;
    for (int i = 0; i < 60; i++) {
        OK(mkdir(name, 0755));
        OK(chdir(name));
    }
    char b[PATH_MAX * 2];
    long n = syscall(SYS_getcwd, b, sizeof b);
    CK(n > 6000 || (n == -1 && errno == ENAMETOOLONG));
    for (int i = 0; i < 60; i++) {
        OK(chdir(".."));
        OK(rmdir(name));
    }
}
