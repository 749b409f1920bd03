// Opening, reading, writing and positions of regular files.
#include "t.h"
#include <linux/openat2.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

TEST(open_excl_creates_once) {
    OK(open("a", O_CREAT | O_EXCL | O_RDWR, 0600));
    ERR(open("a", O_CREAT | O_EXCL | O_RDWR, 0600), EEXIST);
    OK(symlink("nowhere", "l"));
    ERR(open("l", O_CREAT | O_EXCL | O_RDWR, 0600), EEXIST);
    int fd = OK(open("l", O_CREAT | O_RDWR, 0600));
    struct stat a, b;
    OK(fstat(fd, &a));
    OK(stat("nowhere", &b));
    EQ(a.st_ino, b.st_ino);
}
TEST(open_errors) {
    put("f", "x");
    OK(mkdir("d", 0755));
    OK(symlink("f", "l"));
    OK(symlink("loop", "loop"));
    ERR(open("missing", O_RDONLY), ENOENT);
    ERR(open("", O_RDONLY), ENOENT);
    ERR(open("d", O_WRONLY), EISDIR);
    ERR(open("d", O_RDWR | O_CREAT, 0600), EISDIR);
    ERR(open("f/x", O_RDONLY), ENOTDIR);
    ERR(open("f/", O_RDONLY), ENOTDIR);
    ERR(open("f", O_RDONLY | O_DIRECTORY), ENOTDIR);
    ERR(open("l", O_RDONLY | O_NOFOLLOW), ELOOP);
    ERR(open("loop", O_RDONLY), ELOOP);
    ERR(open("new/", O_CREAT | O_RDWR, 0600), EISDIR);
    char name[300];
    memset(name, 'n', 299);
    name[256] = 0;
    ERR(open(name, O_CREAT | O_RDWR, 0600), ENAMETOOLONG);
    name[255] = 0;
    OK(open(name, O_CREAT | O_RDWR, 0600));
    static char path[PATH_MAX + 8];
    memset(path, '/', PATH_MAX);
    ERR(open(path, O_RDONLY), ENAMETOOLONG);
    ERR(open((char *)8, O_RDONLY), EFAULT);
    ERR(openat(-1, "f", O_RDONLY), EBADF);
    ERR(openat(0x7fff, "f", O_RDONLY), EBADF);
    int fd = OK(open("f", O_RDONLY));
    ERR(openat(fd, "x", O_RDONLY), ENOTDIR);
}
TEST(open_lowest_fd) {
    int a = OK(open("/dev/null", O_RDONLY)), b = OK(open("/dev/null", O_RDONLY));
    EQ(b, a + 1);
    OK(close(a));
    EQ(open("/dev/null", O_RDONLY), a);
}
TEST(access_mode_enforced) {
    put("f", "hello");
    char c;
    int r = OK(open("f", O_RDONLY)), w = OK(open("f", O_WRONLY)), p = OK(open("f", O_PATH));
    ERR(write(r, "x", 1), EBADF);
    ERR(read(w, &c, 1), EBADF);
    ERR(read(p, &c, 1), EBADF);
    ERR(ftruncate(r, 0), EINVAL);
    ERR(fchmod(p, 0600), EBADF);
    struct stat st;
    OK(fstat(p, &st));
    EQ(st.st_size, 5);
    EQ(fcntl(r, F_GETFL) & O_ACCMODE, O_RDONLY);
    EQ(fcntl(w, F_GETFL) & O_ACCMODE, O_WRONLY);
    CK(fcntl(p, F_GETFL) & O_PATH);
}
TEST(lseek_whences) {
    put("f", "0123456789");
    int fd = OK(open("f", O_RDWR));
    EQ(lseek(fd, 3, SEEK_SET), 3);
    EQ(lseek(fd, 2, SEEK_CUR), 5);
    EQ(lseek(fd, -1, SEEK_END), 9);
    ERR(lseek(fd, -1, SEEK_SET), EINVAL);
    ERR(lseek(fd, -20, SEEK_CUR), EINVAL);
    EQ(lseek(fd, 0, SEEK_CUR), 9);
    ERR(lseek(fd, 0, 77), EINVAL);
    EQ(lseek(fd, 100, SEEK_SET), 100);
    char c;
    EQ(read(fd, &c, 1), 0);
    int p[2];
    OK(pipe(p));
    ERR(lseek(p[0], 0, SEEK_SET), ESPIPE);
    ERR(lseek(99, 0, SEEK_SET), EBADF);
}
TEST(seek_hole_data) {
    int fd = OK(open("f", O_CREAT | O_RDWR, 0600));
    OK(pwrite(fd, "x", 1, 1 << 20));
    EQ(lseek(fd, (1 << 20) + 1, SEEK_HOLE), -1);
    EQ(errno, ENXIO);
    ERR(lseek(fd, (1 << 20) + 5, SEEK_DATA), ENXIO);
    EQ(lseek(fd, 1 << 20, SEEK_HOLE), (1 << 20) + 1);
    off_t d = OK(lseek(fd, 0, SEEK_DATA));
    CK(d <= 1 << 20);
}
TEST(holes_read_as_zero) {
    int fd = OK(open("f", O_CREAT | O_RDWR, 0600));
    EQ(pwrite(fd, "end", 3, 10000), 3);
    char b[10003];
    EQ(pread(fd, b, sizeof b, 0), 10003);
    for (int i = 0; i < 10000; i++) EQ(b[i], 0);
    EQ(memcmp(b + 10000, "end", 3), 0);
}
TEST(pread_keeps_position) {
    put("f", "0123456789");
    int fd = OK(open("f", O_RDWR));
    char b[4] = "";
    EQ(pread(fd, b, 3, 5), 3);
    STREQ(b, "567");
    EQ(lseek(fd, 0, SEEK_CUR), 0);
    EQ(pwrite(fd, "AB", 2, 8), 2);
    STREQ(get("f"), "01234567AB");
    ERR(pread(fd, b, 1, -1), EINVAL);
    EQ(pread(fd, b, 3, 100), 0);
}
TEST(readv_writev) {
    int fd = OK(open("f", O_CREAT | O_RDWR, 0600));
    struct iovec w[3] = {{"abc", 3}, {"", 0}, {"defg", 4}};
    EQ(writev(fd, w, 3), 7);
    char a[2], b[10] = "";
    struct iovec r[2] = {{a, 2}, {b, 9}};
    EQ(preadv(fd, r, 2, 0), 7);
    EQ(memcmp(a, "ab", 2), 0);
    STREQ(b, "cdefg");
    EQ(pwritev(fd, w, 1, 100), 3);
    EQ(lseek(fd, 0, SEEK_END), 103);
    ERR(writev(fd, w, -1), EINVAL);
    ERR(writev(fd, w, 1025), EINVAL);
    ERR(readv(fd, (struct iovec *)8, 1), EFAULT);
    struct iovec neg = {a, (size_t)-1};
    ERR(writev(fd, &neg, 1), EINVAL);
    EQ(writev(fd, w, 0), 0);
}
TEST(partial_on_bad_memory) {
    put("f", "0123456789");
    char *p = MAPOK(mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    OK(munmap(p + 4096, 4096));
    memset(p, 'z', 4096);
    int fd = OK(open("f", O_RDWR)), o = OK(open("o", O_CREAT | O_RDWR, 0600));
    ERR(read(fd, (void *)8, 4), EFAULT);
    ERR(write(o, p + 4096, 4), EFAULT);
    struct iovec v[2] = {{p, 5}, {p + 4096, 5}};
    EQ(writev(o, v, 2), 5);
    EQ(lseek(o, 0, SEEK_END), 5);
}
TEST(o_append) {
    put("f", "abc");
    int fd = OK(open("f", O_WRONLY | O_APPEND)), g = OK(open("f", O_WRONLY | O_APPEND));
    EQ(write(fd, "1", 1), 1);
    EQ(write(g, "2", 1), 1);
    EQ(lseek(fd, 0, SEEK_SET), 0);
    EQ(write(fd, "3", 1), 1);
    EQ(lseek(fd, 0, SEEK_CUR), 6);
    STREQ(get("f"), "abc123");
    EQ(pwrite(fd, "4", 1, 0), 1); // Linux appends even here
    STREQ(get("f"), "abc1234");
    OK(fcntl(fd, F_SETFL, 0));
    EQ(pwrite(fd, "X", 1, 0), 1);
    STREQ(get("f"), "Xbc1234");
}
TEST(o_trunc_and_truncate) {
    put("f", "0123456789");
    OK(truncate("f", 4));
    STREQ(get("f"), "0123");
    OK(truncate("f", 6));
    struct stat st;
    OK(stat("f", &st));
    EQ(st.st_size, 6);
    int fd = OK(open("f", O_RDWR));
    char b[8] = "........";
    EQ(read(fd, b, 8), 6);
    EQ(memcmp(b, "0123\0\0", 6), 0);
    OK(ftruncate(fd, 1));
    EQ(lseek(fd, 0, SEEK_CUR), 6);
    ERR(ftruncate(fd, -1), EINVAL);
    ERR(truncate("missing", 0), ENOENT);
    ERR(truncate(".", 0), EISDIR);
    close(OK(open("f", O_WRONLY | O_TRUNC)));
    OK(stat("f", &st));
    EQ(st.st_size, 0);
}
TEST(dup_shares_offset) {
    put("f", "0123456789");
    int fd = OK(open("f", O_RDONLY)), d = OK(dup(fd)), o = OK(open("f", O_RDONLY));
    char c;
    EQ(read(fd, &c, 1), 1);
    EQ(read(d, &c, 1), 1);
    EQ(c, '1');
    EQ(read(o, &c, 1), 1);
    EQ(c, '0');
    WAIT0(SPAWN({
        EQ(lseek(fd, 0, SEEK_CUR), 2);
        OK(lseek(fd, 7, SEEK_SET));
    }));
    EQ(lseek(fd, 0, SEEK_CUR), 7);
}
TEST(fallocate_modes) {
    int fd = OK(open("f", O_CREAT | O_RDWR, 0600));
    struct stat st;
    if (fallocate(fd, 0, 0, 8192) < 0 && errno == EOPNOTSUPP) SKIP("file system without fallocate");
    OK(fstat(fd, &st));
    EQ(st.st_size, 8192);
    OK(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 65536));
    OK(fstat(fd, &st));
    EQ(st.st_size, 8192);
    char b[8192];
    memset(b, 'x', sizeof b);
    EQ(pwrite(fd, b, 8192, 0), 8192);
    OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
    EQ(pread(fd, b, 8192, 0), 8192);
    EQ(b[0], 0);
    EQ(b[4095], 0);
    EQ(b[4096], 'x');
    ERR(fallocate(fd, 0, 0, 0), EINVAL);
    ERR(fallocate(fd, 0, -1, 5), EINVAL);
    ERR(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 5), EOPNOTSUPP);
    int p[2];
    OK(pipe(p));
    ERR(fallocate(p[1], 0, 0, 5), ESPIPE);
    int r = OK(open("f", O_RDONLY));
    ERR(fallocate(r, 0, 0, 5), EBADF);
}
TEST(copy_file_range_copies) {
    put("a", "0123456789");
    int a = OK(open("a", O_RDONLY)), b = OK(open("b", O_CREAT | O_RDWR, 0600));
    off_t from = 2;
    EQ(copy_file_range(a, &from, b, NULL, 5, 0), 5);
    EQ(from, 7);
    EQ(lseek(a, 0, SEEK_CUR), 0);
    EQ(lseek(b, 0, SEEK_CUR), 5);
    STREQ(get("b"), "23456");
    ERR(copy_file_range(a, NULL, b, NULL, 1, 1), EINVAL);
    ERR(copy_file_range(b, NULL, a, NULL, 1, 0), EBADF);
}
TEST(sendfile_copies) {
    put("a", "0123456789");
    int a = OK(open("a", O_RDONLY)), p[2];
    OK(pipe(p));
    off_t off = 3;
    EQ(syscall(SYS_sendfile, p[1], a, &off, 4), 4);
    EQ(off, 7);
    char b[8] = "";
    EQ(read(p[0], b, 8), 4);
    STREQ(b, "3456");
    EQ(syscall(SYS_sendfile, p[1], a, NULL, 100), 10);
    EQ(lseek(a, 0, SEEK_CUR), 10);
}
TEST(openat2_resolve) {
    OK(mkdir("d", 0755));
    put("d/f", "x");
    put("out", "x");
    OK(symlink("../out", "d/esc"));
    OK(symlink("f", "d/in"));
    int d = OK(open("d", O_PATH | O_DIRECTORY));
    struct open_how h = {.flags = O_RDONLY, .resolve = RESOLVE_BENEATH};
    OK(syscall(SYS_openat2, d, "f", &h, sizeof h));
    OK(syscall(SYS_openat2, d, "in", &h, sizeof h));
    ERR(syscall(SYS_openat2, d, "esc", &h, sizeof h), EXDEV);
    ERR(syscall(SYS_openat2, d, "../out", &h, sizeof h), EXDEV);
    ERR(syscall(SYS_openat2, d, "/etc", &h, sizeof h), EXDEV);
    h.resolve = RESOLVE_NO_SYMLINKS;
    ERR(syscall(SYS_openat2, d, "in", &h, sizeof h), ELOOP);
    h.resolve = RESOLVE_IN_ROOT;
    OK(syscall(SYS_openat2, d, "/f", &h, sizeof h));
    OK(syscall(SYS_openat2, d, "../../f", &h, sizeof h));
    h.resolve = 1 << 30;
    ERR(syscall(SYS_openat2, d, "f", &h, sizeof h), EINVAL);
    h.resolve = 0;
    h.mode = 0600;
    ERR(syscall(SYS_openat2, d, "f", &h, sizeof h), EINVAL);
    h.mode = 0;
    ERR(syscall(SYS_openat2, d, "f", &h, 4), EINVAL);
    ERR(syscall(SYS_openat2, d, "f", NULL, sizeof h), EFAULT);
}
TEST(o_tmpfile_linkable) {
    int fd = open(".", O_TMPFILE | O_RDWR, 0640);
    if (fd < 0 && errno == EOPNOTSUPP) SKIP("file system without O_TMPFILE");
    OK(fd);
    EQ(write(fd, "tmp", 3), 3);
    struct stat st;
    OK(fstat(fd, &st));
    EQ(st.st_nlink, 0);
    EQ(st.st_mode, S_IFREG | 0640);
    char p[64];
    snprintf(p, sizeof p, "/proc/self/fd/%d", fd);
    OK(linkat(AT_FDCWD, p, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    STREQ(get("named"), "tmp");
    ERR(open("named", O_TMPFILE | O_RDWR, 0600), ENOTDIR);
    ERR(open(".", O_TMPFILE | O_RDONLY, 0600), EINVAL);
}
TEST(statx_fields) {
    put("f", "12345");
    struct statx sx;
    memset(&sx, 0xee, sizeof sx);
    OK(statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS, &sx));
    EQ(sx.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
    EQ(sx.stx_size, 5);
    EQ(sx.stx_mode, S_IFREG | 0644);
    EQ(sx.stx_nlink, 1);
    struct stat st;
    OK(stat("f", &st));
    EQ(sx.stx_ino, st.st_ino);
    EQ(makedev(sx.stx_dev_major, sx.stx_dev_minor), st.st_dev);
    EQ(sx.stx_mtime.tv_sec, st.st_mtim.tv_sec);
    EQ(sx.stx_mtime.tv_nsec, st.st_mtim.tv_nsec);
    int fd = OK(open("f", O_RDONLY));
    OK(statx(fd, "", AT_EMPTY_PATH, STATX_SIZE, &sx));
    EQ(sx.stx_size, 5);
    ERR(statx(fd, "", 0, STATX_SIZE, &sx), ENOENT);
    ERR(statx(AT_FDCWD, "f", 0x80000, STATX_SIZE, &sx), EINVAL);
    ERR(statx(AT_FDCWD, "f", 0, 0x80000000u, &sx), EINVAL);
    ERR(statx(AT_FDCWD, "f", 0, STATX_SIZE, (void *)8), EFAULT);
}
TEST(times_set_and_omit) {
    put("f", "x");
    struct timespec t[2] = {{1000, 123456789}, {2000, 987654321}};
    OK(utimensat(AT_FDCWD, "f", t, 0));
    struct stat st;
    OK(stat("f", &st));
    EQ(st.st_atim.tv_sec, 1000);
    EQ(st.st_mtim.tv_sec, 2000);
    EQ(st.st_mtim.tv_nsec, 987654321);
    t[0].tv_nsec = UTIME_OMIT;
    t[1].tv_nsec = UTIME_NOW;
    OK(utimensat(AT_FDCWD, "f", t, 0));
    OK(stat("f", &st));
    EQ(st.st_atim.tv_sec, 1000);
    CK(st.st_mtim.tv_sec > 1000000);
    t[0].tv_nsec = 2000000000;
    ERR(utimensat(AT_FDCWD, "f", t, 0), EINVAL);
    t[1] = t[0] = (struct timespec){5, 6};
    OK(futimens(OK(open("f", O_RDONLY)), t));
    OK(stat("f", &st));
    EQ(st.st_mtim.tv_sec, 5);
}
TEST(write_updates_mtime) {
    put("f", "x");
    struct timespec t[2] = {{1000, 0}, {1000, 0}};
    OK(utimensat(AT_FDCWD, "f", t, 0));
    int fd = OK(open("f", O_RDWR));
    OK(write(fd, "y", 1));
    struct stat st;
    OK(fstat(fd, &st));
    CK(st.st_mtim.tv_sec > 1000000);
    OK(utimensat(AT_FDCWD, "f", t, 0));
    OK(ftruncate(fd, 0));
    OK(fstat(fd, &st));
    CK(st.st_mtim.tv_sec > 1000000);
}
TEST(xattr_user) {
    put("f", "x");
    if (setxattr("f", "user.a", "one", 3, 0) < 0 && errno == EOPNOTSUPP) SKIP("file system without user xattrs");
    char b[64] = "";
    EQ(getxattr("f", "user.a", b, sizeof b), 3);
    STREQ(b, "one");
    EQ(getxattr("f", "user.a", NULL, 0), 3);
    ERR(getxattr("f", "user.a", b, 2), ERANGE);
    ERR(getxattr("f", "user.none", b, 2), ENODATA);
    ERR(setxattr("f", "user.a", "z", 1, XATTR_CREATE), EEXIST);
    ERR(setxattr("f", "user.b", "z", 1, XATTR_REPLACE), ENODATA);
    OK(setxattr("f", "user.b", "", 0, XATTR_CREATE));
    ssize_t n = OK(listxattr("f", b, sizeof b));
    CK(memmem(b, n, "user.a", 7) && memmem(b, n, "user.b", 7));
    ERR(listxattr("f", b, 1), ERANGE);
    OK(removexattr("f", "user.a"));
    ERR(removexattr("f", "user.a"), ENODATA);
    int fd = OK(open("f", O_RDONLY));
    OK(fsetxattr(fd, "user.c", "3", 1, 0));
    EQ(fgetxattr(fd, "user.c", b, sizeof b), 1);
    ERR(setxattr("f", "nonsense.a", "z", 1, 0), EOPNOTSUPP);
    ERR(setxattr("missing", "user.a", "z", 1, 0), ENOENT);
}
TEST(dev_null_zero_full) {
    char b[16];
    int n = OK(open("/dev/null", O_RDWR)), z = OK(open("/dev/zero", O_RDWR)), f = OK(open("/dev/full", O_RDWR));
    EQ(read(n, b, 16), 0);
    EQ(write(n, b, 16), 16);
    memset(b, 1, 16);
    EQ(read(z, b, 16), 16);
    for (int i = 0; i < 16; i++) EQ(b[i], 0);
    EQ(write(z, b, 16), 16);
    ERR(write(f, b, 16), ENOSPC);
    int u = OK(open("/dev/urandom", O_RDONLY));
    EQ(read(u, b, 16), 16);
    struct stat st;
    OK(fstat(n, &st));
    EQ(st.st_mode & S_IFMT, S_IFCHR);
    EQ(st.st_rdev, makedev(1, 3));
}
TEST(fsync_family) {
    int fd = OK(open("f", O_CREAT | O_RDWR, 0600));
    OK(write(fd, "x", 1));
    OK(fsync(fd));
    OK(fdatasync(fd));
    OK(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE));
    OK(syncfs(fd));
    OK(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL));
    int p[2];
    OK(pipe(p));
    ERR(fsync(p[0]), EINVAL);
    ERR(fsync(99), EBADF);
}
TEST(statfs_answers) {
    struct statfs s;
    OK(statfs(".", &s));
    CK(s.f_bsize > 0);
    CK(s.f_namelen >= 255);
    OK(statfs("/proc", &s));
    EQ(s.f_type, 0x9fa0);
    OK(statfs("/dev/shm", &s));
    EQ(s.f_type, 0x01021994);
    ERR(statfs("missing", &s), ENOENT);
    ERR(fstatfs(99, &s), EBADF);
}
TEST(unlinked_file_lives) {
    put("f", "alive");
    int fd = OK(open("f", O_RDWR));
    OK(unlink("f"));
    char b[8] = "";
    EQ(read(fd, b, 8), 5);
    STREQ(b, "alive");
    OK(write(fd, "!", 1));
    struct stat st;
    OK(fstat(fd, &st));
    EQ(st.st_nlink, 0);
    EQ(st.st_size, 6);
    char p[64], q[PATH_MAX] = "";
    snprintf(p, sizeof p, "/proc/self/fd/%d", fd);
    OK(readlink(p, q, sizeof q - 1));
    CK(strstr(q, "/f (deleted)"));
    int r = OK(open(p, O_RDONLY)); // reopening through the magic link works on a deleted file
    EQ(read(r, b, 8), 6);
}
TEST(large_offsets) {
    int fd = OK(open("f", O_CREAT | O_RDWR, 0600));
    EQ(pwrite(fd, "x", 1, 5LL << 30), 1);
    struct stat st;
    OK(fstat(fd, &st));
    EQ(st.st_size, (5LL << 30) + 1);
    CK(st.st_blocks < 1000);
    char c;
    EQ(pread(fd, &c, 1, 5LL << 30), 1);
    EQ(c, 'x');
    ERR(pwrite(fd, "x", 1, INT64_MAX), EINVAL);
}
TEST(big_io_roundtrip) {
    size_t n = 3 << 20;
    unsigned char *a = malloc(n), *b = calloc(1, n);
    unsigned s = 1;
    for (size_t i = 0; i < n; i++) a[i] = (s = s * 1103515245 + 12345) >> 16;
    int fd = OK(open("f", O_CREAT | O_RDWR, 0600));
    EQ(write(fd, a, n), n);
    EQ(pread(fd, b, n, 0), n);
    CK(!memcmp(a, b, n));
    EQ(pread(fd, b, 12345, 54321), 12345);
    CK(!memcmp(a + 54321, b, 12345));
}
