// Reads small syscall programs from standard input, runs each in a child and an empty directory, prints every result.
// A program is a line `program N` and lines `op a b c d`; numbers only, chosen by tests/harness/tests/differential.rs.
// What it prints must depend on Linux' semantics alone: no addresses, no inode numbers, no times.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static int fds[8];
static unsigned char buf[4][8192];
static unsigned char *maps[4];
static size_t map_len[4];
static volatile int hits[65];
static void on(int s) { hits[s]++; }

static unsigned long sum(const void *p, long n) {
    const unsigned char *b = p;
    unsigned long h = 1469598103934665603ul;
    for (long i = 0; i < n; i++) h = (h ^ b[i]) * 1099511628211ul;
    return h;
}
static const char *name(int i) {
    static const char *const n[] = {"a", "b", "c", "d/x", "d/y", "d", "l", "e/none", "a/b", "", "d/../a", "."};
    return n[(unsigned)i % (sizeof n / sizeof *n)];
}
static int fd(int i) { return fds[i & 7]; }
static int keep(int slot, int r) {
    if (r >= 0) {
        if (fds[slot & 7] >= 0) close(fds[slot & 7]);
        return fds[slot & 7] = r, 0;
    }
    return r;
}
static void kind(const struct stat *s) {
    printf(" mode %o size %ld links %ld", s->st_mode, S_ISREG(s->st_mode) || S_ISLNK(s->st_mode) ? (long)s->st_size : 0L,
           S_ISDIR(s->st_mode) ? 0L : (long)s->st_nlink);
}

static void step(int line, int op, int a, int b, int c, int d) {
    static const int flags[] = {O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_CREAT, O_RDWR | O_CREAT | O_EXCL, O_RDWR | O_CREAT | O_TRUNC,
                                O_WRONLY | O_APPEND | O_CREAT, O_RDONLY | O_DIRECTORY, O_RDWR | O_NOFOLLOW, O_PATH, O_RDONLY | O_NONBLOCK};
    long r = 0;
    unsigned char *m = buf[b & 3];
    struct stat st;
    int p[2];
    errno = 0;
    printf("%d: %d", line, op);
    switch (op) {
    case 0: r = keep(a, open(name(b), flags[(unsigned)c % 11], 0777 & d)); break;
    case 1: r = close(fd(a)); fds[a & 7] = -1; break;
    case 2: r = read(fd(a), m, c & 8191); if (r > 0) printf(" %lx", sum(m, r)); break;
    case 3: r = write(fd(a), m, c & 2047); break; // never more than a pipe or an eventfd can take without waiting
    case 4: r = pread(fd(a), m, c & 8191, d); if (r > 0) printf(" %lx", sum(m, r)); break;
    case 5: r = pwrite(fd(a), m, c & 8191, d); break;
    case 6: r = lseek(fd(a), b - 2000, (unsigned)c % 4); break;
    case 7: r = ftruncate(fd(a), b - 10); break;
    case 8: r = fstat(fd(a), &st); if (!r) kind(&st); break;
    case 9: r = lstat(name(a), &st); if (!r) kind(&st); break;
    case 10: r = rename(name(a), name(b)); break;
    case 11: r = link(name(a), name(b)); break;
    case 12: r = symlink(name(a), name(b)); break;
    case 13: r = unlink(name(a)); break;
    case 14: r = mkdir(name(a), 0777 & b); break;
    case 15: r = rmdir(name(a)); break;
    case 16: r = chmod(name(a), b & 07777); break;
    case 17: r = truncate(name(a), b - 5); break;
    case 18: r = readlink(name(a), (char *)m, c & 63); if (r > 0) printf(" %lx", sum(m, r)); break;
    case 19: r = access(name(a), b & 7); break;
    case 20: r = pipe2(p, O_NONBLOCK); if (!r) keep(a, p[0]), keep(a + 1, p[1]); break;
    case 21: r = keep(a, dup(fd(b))); break;
    case 22: r = keep(a, fcntl(fd(b), F_DUPFD, 30 + (c & 7))); break;
    case 23: r = fcntl(fd(a), F_GETFL); break;
    case 24: r = fcntl(fd(a), F_SETFL, (b & 1 ? O_APPEND : 0) | O_NONBLOCK); break;
    case 25: r = fcntl(fd(a), F_GETFD); break;
    case 26: {
        struct pollfd f[3] = {{fd(a), POLLIN | POLLOUT, 0}, {fd(b), POLLIN, 0}, {fd(c), POLLOUT | POLLRDHUP, 0}};
        r = poll(f, 3, 0);
        printf(" %x %x %x", f[0].revents, f[1].revents, f[2].revents);
        break;
    }
    case 27: r = keep(a, eventfd(b & 15, EFD_NONBLOCK | (c & 1 ? EFD_SEMAPHORE : 0))); break;
    case 28: {
        unsigned i = a & 3;
        size_t n = ((unsigned)b % 5) * 4096;
        void *v = mmap(NULL, n, c & 1 ? PROT_READ | PROT_WRITE : PROT_READ, (c & 2 ? MAP_SHARED : MAP_PRIVATE) | (c & 4 ? MAP_ANONYMOUS : 0),
                       c & 4 ? -1 : fd(d), (d & 3) * 4096);
        if (v == MAP_FAILED) r = -1;
        else {
            if (maps[i]) munmap(maps[i], map_len[i]);
            maps[i] = v, map_len[i] = n;
        }
        break;
    }
    case 29: if (maps[a & 3]) r = munmap(maps[a & 3], map_len[a & 3]); maps[a & 3] = NULL; break;
    case 30: if (maps[a & 3]) r = mprotect(maps[a & 3], map_len[a & 3], (unsigned)b % 4); break;
    case 31: if (maps[a & 3]) r = write(fd(b), maps[a & 3] + (d & 4095), c & 1023); break; // may fault or be past the end
    case 32: if (maps[a & 3]) r = pread(fd(b), maps[a & 3] + (d & 4095), c & 1023, 0); break;
    case 33: if (maps[a & 3]) r = madvise(maps[a & 3], map_len[a & 3], b & 1 ? MADV_DONTNEED : MADV_NORMAL); break;
    case 34: {
        sigset_t s, o;
        sigemptyset(&s), sigemptyset(&o);
        sigaddset(&s, (unsigned)b % 2 ? SIGUSR1 : SIGRTMIN), sigaddset(&s, (unsigned)c % 2 ? SIGUSR2 : SIGCHLD);
        r = sigprocmask((unsigned)a % 4, &s, &o);
        for (int i = 1; i < 40; i++) if (sigismember(&o, i) == 1) printf(" m%d", i);
        break;
    }
    case 35: r = kill(getpid(), a % 3 == 0 ? SIGUSR1 : a % 3 == 1 ? SIGUSR2 : SIGRTMIN); printf(" %d %d %d", hits[SIGUSR1], hits[SIGUSR2], hits[SIGRTMIN]); break;
    case 36: {
        sigset_t s;
        sigpending(&s);
        for (int i = 1; i < 40; i++) if (sigismember(&s, i) == 1) printf(" p%d", i);
        break;
    }
    case 37: {
        struct iovec v[3] = {{buf[a & 3], b & 1023}, {NULL, 0}, {buf[c & 3], d & 511}};
        r = writev(fd(d), v, 3);
        break;
    }
    case 38: {
        struct iovec v[2] = {{buf[a & 3], b & 1023}, {buf[(a + 1) & 3], 700}};
        r = readv(fd(d), v, 2);
        if (r > 0) printf(" %lx", sum(buf[a & 3], b & 1023));
        break;
    }
    case 39: {
        struct flock l = {.l_type = (unsigned)b % 3, .l_whence = SEEK_SET, .l_start = c & 255, .l_len = d & 63};
        r = fcntl(fd(a), F_SETLK, &l);
        break;
    }
    case 40: r = flock(fd(a), ((unsigned)b % 2 ? LOCK_EX : LOCK_SH) | LOCK_NB); break;
    case 41: r = fallocate(fd(a), b & 1 ? FALLOC_FL_KEEP_SIZE : 0, c & 4095, d & 4095); break;
    case 42: r = umask(a & 0777); break;
    case 43: r = chdir(name(a)); break;
    case 44: {
        pid_t k = fork();
        if (!k) {
            if (maps[a & 3] && (c & 1)) buf[0][0]++;
            lseek(fd(b), d & 255, SEEK_SET);
            _exit(c & 127);
        }
        int s = 0;
        waitpid(k, &s, 0);
        printf(" %x", s);
        break;
    }
    default: r = -2;
    }
    printf(" = %ld", r);
    if (r == -1) printf(" e%d", errno);
    printf("\n");
}

static void finish(void) {
    static const char *const all[] = {"/a", "/b", "/c", "/d", "/d/x", "/d/y", "/l"};
    for (int i = 0; i < 7; i++) {
        struct stat s;
        printf("end %s", all[i]);
        if (lstat(all[i] + 1, &s)) printf(" e%d", errno);
        else {
            kind(&s);
            int f = S_ISREG(s.st_mode) ? open(all[i] + 1, O_RDONLY) : -1;
            if (f >= 0) {
                static unsigned char big[1 << 20];
                long n = read(f, big, sizeof big);
                printf(" %lx", sum(big, n < 0 ? 0 : n));
            }
        }
        printf("\n");
    }
}

static int discard(const char *path, const struct stat *s, int type, struct FTW *at) {
    (void)s, (void)type, (void)at;
    remove(path);
    return 0;
}

int main(void) {
    static char text[256];
    static int prog[512][5];
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    int more = fgets(text, sizeof text, stdin) != NULL;
    while (more) {
        int id = -1, n = 0;
        if (sscanf(text, "program %d", &id) != 1) return 2;
        while ((more = fgets(text, sizeof text, stdin) != NULL) && text[0] != 'p' && n < 512)
            n += sscanf(text, "%d %d %d %d %d", prog[n], prog[n] + 1, prog[n] + 2, prog[n] + 3, prog[n] + 4) == 5;
        printf("program %d\n", id);
        fflush(stdout);
        // Paths like d/../a with d a link to "." lead one level up: that level is the program's own, too.
        char dir[] = "/tmp/interp.XXXXXX", work[40];
        snprintf(work, sizeof work, "%s/w", mkdtemp(dir) ? dir : "?");
        if (mkdir(work, 0777)) return printf("no directory %d\n", errno), 3;
        pid_t k = fork();
        if (k == 0) {
            if (chdir(work)) return printf("no directory %d\n", errno), 3;
            int top = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            fcntl(top, F_DUPFD_CLOEXEC, 100);
            close(top);
            alarm(60); // what hangs does so for ever
            umask(022);
            for (int i = 0; i < 8; i++) fds[i] = -1;
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 8192; j++) buf[i][j] = (i + 1) * 31 + j * 7;
            signal(SIGUSR1, on), signal(SIGUSR2, on), signal(SIGRTMIN, on), signal(SIGPIPE, SIG_IGN);
            for (int i = 0; i < n; i++) {
                step(i, prog[i][0], prog[i][1], prog[i][2], prog[i][3], prog[i][4]);
                fflush(stdout); // before any fork and before anything that could kill
            }
            if (fchdir(100)) printf("fchdir %d\n", errno);
            finish();
            fflush(stdout);
            _exit(0);
        }
        int s = 0;
        waitpid(k, &s, 0);
        printf("status %x\n", s);
        fflush(stdout);
        nftw(dir, discard, 16, FTW_DEPTH | FTW_PHYS);
    }
    return 0;
}
