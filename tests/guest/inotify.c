// inotify: events, cookies, coalescing, removal.
#include "t.h"
#include <sys/inotify.h>

static char buf[65536];
static ssize_t have, at;
static struct inotify_event *next(int fd) {
    if (at >= have) {
        have = read(fd, buf, sizeof buf);
        at = 0;
        if (have <= 0) return NULL;
    }
    struct inotify_event *e = (void *)(buf + at);
    at += sizeof *e + e->len;
    return e;
}
#define EXPECT(fd, wd_, mask_, name_)                                       \
    ({                                                                      \
        struct inotify_event *e_ = next(fd);                                \
        if (!e_) FAIL("no event, want %s", #mask_);                         \
        EQ(e_->wd, wd_);                                                    \
        if (e_->mask != (uint32_t)(mask_)) FAIL("mask %#x, want %s", e_->mask, #mask_); \
        STREQ(e_->len ? e_->name : "", name_);                              \
        e_;                                                                 \
    })

TEST(create_write_close_delete) {
    OK(mkdir("d", 0755));
    int n = OK(inotify_init1(IN_NONBLOCK)), w = OK(inotify_add_watch(n, "d", IN_ALL_EVENTS & ~IN_ACCESS));
    int f = OK(open("d/x", O_CREAT | O_RDWR, 0600));
    OK(write(f, "abc", 3));
    OK(close(f));
    OK(chmod("d/x", 0644));
    OK(unlink("d/x"));
    EXPECT(n, w, IN_CREATE, "x");
    EXPECT(n, w, IN_OPEN, "x");
    EXPECT(n, w, IN_MODIFY, "x");
    EXPECT(n, w, IN_CLOSE_WRITE, "x");
    EXPECT(n, w, IN_ATTRIB, "x");
    EXPECT(n, w, IN_DELETE, "x");
    CK(!next(n) && errno == EAGAIN);
}
TEST(rename_cookie) {
    OK(mkdir("a", 0755));
    OK(mkdir("b", 0755));
    put("a/x", "");
    int n = OK(inotify_init1(IN_NONBLOCK));
    int wa = OK(inotify_add_watch(n, "a", IN_MOVE)), wb = OK(inotify_add_watch(n, "b", IN_MOVE));
    OK(rename("a/x", "b/y"));
    uint32_t c = EXPECT(n, wa, IN_MOVED_FROM, "x")->cookie;
    EQ(EXPECT(n, wb, IN_MOVED_TO, "y")->cookie, c);
    CK(c != 0);
}
TEST(self_events_and_ignored) {
    put("f", "");
    int n = OK(inotify_init1(IN_NONBLOCK)), w = OK(inotify_add_watch(n, "f", IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF));
    OK(rename("f", "g"));
    EXPECT(n, w, IN_MOVE_SELF, "");
    OK(unlink("g"));
    EXPECT(n, w, IN_ATTRIB, "");
    EXPECT(n, w, IN_DELETE_SELF, "");
    EXPECT(n, w, IN_IGNORED, "");
    ERR(inotify_rm_watch(n, w), EINVAL);
}
TEST(the_end_comes_with_the_last_close) {
    put("f", "");
    put("g", "");
    int n = OK(inotify_init1(IN_NONBLOCK)), f = OK(open("f", O_RDWR)), f2 = OK(open("f", O_RDONLY)), g = OK(open("g", O_PATH));
    int w = OK(inotify_add_watch(n, "f", IN_ATTRIB | IN_DELETE_SELF | IN_CLOSE | IN_MODIFY));
    OK(link("f", "h"));
    EXPECT(n, w, IN_ATTRIB, "");
    OK(unlink("h"));
    EXPECT(n, w, IN_ATTRIB, "");
    OK(unlink("f"));
    EXPECT(n, w, IN_ATTRIB, "");
    EQ(write(f, "x", 1), 1);
    EXPECT(n, w, IN_MODIFY, "");
    OK(close(f));
    EXPECT(n, w, IN_CLOSE_WRITE, "");
    OK(close(f2));
    EXPECT(n, w, IN_CLOSE_NOWRITE, "");
    EXPECT(n, w, IN_DELETE_SELF, "");
    EXPECT(n, w, IN_IGNORED, "");
    w = OK(inotify_add_watch(n, "g", IN_ATTRIB | IN_DELETE_SELF));
    put("i", "");
    OK(rename("i", "g"));
    EXPECT(n, w, IN_ATTRIB, "");
    ERR(read(n, &(char[100]){0}, 100), EAGAIN);
    OK(close(g));
    EXPECT(n, w, IN_DELETE_SELF, "");
    EXPECT(n, w, IN_IGNORED, "");
    OK(mkdir("d", 0755));
    int d = OK(open("d", O_RDONLY | O_DIRECTORY));
    w = OK(inotify_add_watch(n, "d", IN_DELETE_SELF));
    OK(rmdir("d"));
    ERR(read(n, &(char[100]){0}, 100), EAGAIN);
    OK(close(d));
    EXPECT(n, w, IN_DELETE_SELF, "");
    EXPECT(n, w, IN_IGNORED, "");
}
TEST(isdir_flag_and_dir_self) {
    OK(mkdir("d", 0755));
    int n = OK(inotify_init1(IN_NONBLOCK)), w = OK(inotify_add_watch(n, "d", IN_CREATE | IN_DELETE));
    OK(mkdir("d/s", 0755));
    OK(rmdir("d/s"));
    EXPECT(n, w, IN_CREATE | IN_ISDIR, "s");
    EXPECT(n, w, IN_DELETE | IN_ISDIR, "s");
}
TEST(rm_watch) {
    put("f", "");
    int n = OK(inotify_init1(IN_NONBLOCK)), w = OK(inotify_add_watch(n, "f", IN_MODIFY));
    EQ(inotify_add_watch(n, "f", IN_OPEN), w);
    OK(inotify_rm_watch(n, w));
    EXPECT(n, w, IN_IGNORED, "");
    put("f", "again");
    CK(!next(n) && errno == EAGAIN);
}
TEST(oneshot_onlydir_maskadd) {
    put("f", "");
    int n = OK(inotify_init1(IN_NONBLOCK));
    ERR(inotify_add_watch(n, "f", IN_MODIFY | IN_ONLYDIR), ENOTDIR);
    int w = OK(inotify_add_watch(n, "f", IN_MODIFY | IN_ONESHOT));
    int f = OK(open("f", O_WRONLY));
    OK(write(f, "1", 1));
    OK(write(f, "2", 1));
    EXPECT(n, w, IN_MODIFY, "");
    EXPECT(n, w, IN_IGNORED, "");
    CK(!next(n) && errno == EAGAIN);
    w = OK(inotify_add_watch(n, "f", IN_MODIFY));
    EQ(inotify_add_watch(n, "f", IN_ATTRIB | IN_MASK_ADD), w);
    OK(write(f, "3", 1));
    OK(fchmod(f, 0600));
    EXPECT(n, w, IN_MODIFY, "");
    EXPECT(n, w, IN_ATTRIB, "");
}
TEST(coalesces_equal_events) {
    put("f", "");
    int n = OK(inotify_init1(IN_NONBLOCK)), w = OK(inotify_add_watch(n, "f", IN_MODIFY));
    int f = OK(open("f", O_WRONLY));
    for (int i = 0; i < 10; i++) OK(write(f, "x", 1));
    EXPECT(n, w, IN_MODIFY, "");
    CK(!next(n) && errno == EAGAIN);
}
TEST(poll_fionread_small_buffer) {
    OK(mkdir("d", 0755));
    int n = OK(inotify_init1(IN_NONBLOCK)), w = OK(inotify_add_watch(n, "d", IN_CREATE));
    struct pollfd p = {n, POLLIN, 0};
    EQ(poll(&p, 1, 0), 0);
    put("d/a-name", "");
    EQ(poll(&p, 1, 0), 1);
    int avail;
    OK(ioctl(n, FIONREAD, &avail));
    EQ(avail, 32);
    char b[20];
    ERR(read(n, b, sizeof b), EINVAL);
    EXPECT(n, w, IN_CREATE, "a-name");
}
TEST(blocking_read_wakes) {
    int n = OK(inotify_init1(0)), w = OK(inotify_add_watch(n, ".", IN_CREATE));
    pid_t c = SPAWN(EXPECT(n, w, IN_CREATE, "late"));
    CK(state_is(c, "S"));
    put("late", "");
    WAIT0(c);
}
TEST(errors) {
    int n = OK(inotify_init1(IN_CLOEXEC));
    EQ(fcntl(n, F_GETFD), 1);
    ERR(inotify_init1(077), EINVAL);
    ERR(inotify_add_watch(n, "missing", IN_OPEN), ENOENT);
    ERR(inotify_add_watch(n, ".", 0), EINVAL);
    ERR(inotify_add_watch(0, ".", IN_OPEN), EINVAL);
    ERR(inotify_add_watch(99, ".", IN_OPEN), EBADF);
    ERR(inotify_rm_watch(n, 1234), EINVAL);
}
