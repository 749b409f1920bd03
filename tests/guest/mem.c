// Memory: mmap family, sharing with files and between processes, brk, faults, SysV shm, memfd and seals.
#include "t.h"
#include <linux/memfd.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/shm.h>

#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)
static sigjmp_buf jb;
static volatile int hits, code;
static void jump(int s, siginfo_t *i, void *c) {
    (void)s, (void)c;
    hits++, code = i->si_code;
    siglongjmp(jb, 1);
}
static int faults(volatile char *p, int write) {
    struct sigaction a = {.sa_sigaction = jump, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &a, NULL), sigaction(SIGBUS, &a, NULL);
    int before = hits;
    if (!sigsetjmp(jb, 1)) {
        if (write) *p = 1;
        else (void)*p;
    }
    return hits != before;
}
static int file(const char *n, size_t len) {
    int fd = OK(open(n, O_CREAT | O_RDWR | O_TRUNC, 0600));
    OK(ftruncate(fd, len));
    return fd;
}

TEST(mmap_bad_arguments) {
    int fd = file("f", 4096), ro = OK(open("f", O_RDONLY)), wo = OK(open("f", O_WRONLY));
    ERR((long)mmap(0, 0, RW, ANON, -1, 0), EINVAL);
    ERR((long)mmap(0, 4096, RW, MAP_ANONYMOUS, -1, 0), EINVAL);
    ERR((long)mmap(0, 4096, RW, MAP_SHARED, -1, 0), EBADF);
    ERR((long)syscall(SYS_mmap, 0, 4096, RW, MAP_PRIVATE, fd, 100), EINVAL);
    ERR((long)mmap((void *)4097, 4096, RW, ANON | MAP_FIXED, -1, 0), EINVAL);
    ERR((long)mmap(0, 4096, RW, MAP_SHARED, ro, 0), EACCES);
    ERR((long)mmap(0, 4096, PROT_READ, MAP_SHARED, wo, 0), EACCES);
    ERR((long)mmap(0, 4096, PROT_READ, MAP_PRIVATE, OK(open(".", O_RDONLY)), 0), ENODEV);
    ERR((long)mmap(0, SIZE_MAX & ~4095ul, RW, ANON, -1, 0), ENOMEM);
    ERR((long)mmap((void *)0x7ffffffff000, 8192, RW, ANON | MAP_FIXED, -1, 0), ENOMEM);
    MAPOK(mmap(0, 4096, RW, MAP_PRIVATE, ro, 0));
    int p[2];
    OK(pipe(p));
    ERR((long)mmap(0, 4096, PROT_READ, MAP_PRIVATE, p[0], 0), ENODEV);
}
TEST(anonymous_is_zero) {
    char *p = MAPOK(mmap(0, 1 << 20, RW, ANON, -1, 0));
    for (int i = 0; i < 1 << 20; i += 512) EQ(p[i], 0);
    memset(p, 7, 1 << 20);
    OK(munmap(p, 1 << 20));
}
TEST(fixed_and_noreplace) {
    char *p = MAPOK(mmap(0, 3 * 4096, RW, ANON, -1, 0));
    memset(p, 1, 3 * 4096);
    EQ((long)mmap(p + 4096, 4096, RW, ANON | MAP_FIXED, -1, 0), (long)(p + 4096));
    EQ(p[0], 1);
    EQ(p[4096], 0);
    EQ(p[8192], 1);
    ERR((long)mmap(p, 4096, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
    OK(munmap(p + 4096, 4096));
    EQ((long)mmap(p + 4096, 4096, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0), (long)(p + 4096));
}
TEST(munmap_pieces) {
    char *p = MAPOK(mmap(0, 5 * 4096, RW, ANON, -1, 0));
    OK(munmap(p + 4096, 4096));
    CK(faults(p + 4096, 0));
    p[0] = p[8192] = 1;
    OK(munmap(p, 5 * 4096));
    OK(munmap(p, 4096));
    ERR(munmap(p + 1, 4096), EINVAL);
    ERR(munmap(p, 0), EINVAL);
}
TEST(mprotect_faults) {
    char *p = MAPOK(mmap(0, 3 * 4096, RW, ANON, -1, 0));
    p[4096] = 5;
    OK(mprotect(p + 4096, 4096, PROT_READ));
    EQ(p[4096], 5);
    CK(faults(p + 4096, 1));
    EQ(code, SEGV_ACCERR);
    CK(!faults(p, 1) && !faults(p + 8192, 1));
    OK(mprotect(p + 4096, 4096, PROT_NONE));
    CK(faults(p + 4096, 0));
    OK(mprotect(p, 3 * 4096, RW));
    EQ(p[4096], 5);
    OK(munmap(p + 4096, 4096));
    ERR(mprotect(p, 3 * 4096, PROT_READ), ENOMEM);
    ERR(mprotect(p + 1, 4096, PROT_READ), EINVAL);
    int ro = (file("f", 4096), OK(open("f", O_RDONLY)));
    char *m = MAPOK(mmap(0, 4096, PROT_READ, MAP_SHARED, ro, 0));
    ERR(mprotect(m, 4096, RW), EACCES);
}
TEST(exec_memory) {
    unsigned char *p = MAPOK(mmap(0, 4096, RW, ANON, -1, 0));
    memcpy(p, "\xb8\x2a\0\0\0\xc3", 6);
    OK(mprotect(p, 4096, PROT_READ | PROT_EXEC));
    EQ(((int (*)(void))p)(), 42);
}
TEST(shared_file_coherent_with_io) {
    int fd = file("f", 8192);
    char *p = MAPOK(mmap(0, 8192, RW, MAP_SHARED, fd, 0)), b[8] = "";
    EQ(pwrite(fd, "hello", 5, 100), 5);
    EQ(memcmp(p + 100, "hello", 5), 0);
    memcpy(p + 5000, "world", 5);
    EQ(pread(fd, b, 5, 5000), 5);
    STREQ(b, "world");
    int other = OK(open("f", O_RDWR));
    char *q = MAPOK(mmap(0, 8192, RW, MAP_SHARED, other, 0));
    p[0] = 'P';
    EQ(q[0], 'P');
    OK(msync(p, 8192, MS_SYNC));
    ERR(msync(p, 8192, MS_SYNC | MS_ASYNC), EINVAL);
    OK(close(fd));
    EQ(p[100], 'h'); // the mapping outlives the descriptor
}
TEST(shared_file_between_processes) {
    int fd = file("f", 4096);
    volatile char *p = MAPOK(mmap(0, 4096, RW, MAP_SHARED, fd, 0));
    WAIT0(SPAWN({
        volatile char *q = MAPOK(mmap(0, 4096, RW, MAP_SHARED, OK(open("f", O_RDWR)), 0));
        q[10] = 77;
        OK(pwrite(fd, "W", 1, 11));
    }));
    EQ(p[10], 77);
    EQ(p[11], 'W');
}
TEST(private_file_cow) {
    put("f", "original");
    int fd = OK(open("f", O_RDWR));
    char *p = MAPOK(mmap(0, 4096, RW, MAP_PRIVATE, fd, 0));
    EQ(memcmp(p, "original", 9), 0);
    p[0] = 'X';
    STREQ(get("f"), "original");
    WAIT0(SPAWN({
        EQ(p[0], 'X');
        p[1] = 'Y';
    }));
    EQ(p[1], 'r');
}
TEST(beyond_end_of_file) {
    int fd = file("f", 100);
    char *p = MAPOK(mmap(0, 8192, RW, MAP_SHARED, fd, 0));
    EQ(p[4095], 0);
    CK(faults(p + 4096, 0));
    EQ(code, BUS_ADRERR);
    OK(ftruncate(fd, 8192));
    CK(!faults(p + 4096, 1));
    OK(ftruncate(fd, 0));
    CK(faults(p, 0));
    ERR(pwrite(fd, p, 10, 0), EFAULT);
}
TEST(mremap_moves_and_grows) {
    char *p = MAPOK(mmap(0, 8192, RW, ANON, -1, 0));
    strcpy(p, "keep");
    char *q = MAPOK(mremap(p, 8192, 1 << 20, MREMAP_MAYMOVE));
    STREQ(q, "keep");
    EQ(q[500000], 0);
    EQ((long)mremap(q, 1 << 20, 4096, 0), (long)q);
    CK(faults(q + 4096, 0));
    char *to = MAPOK(mmap(0, 4096, PROT_NONE, ANON, -1, 0));
    EQ((long)mremap(q, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, to), (long)to);
    STREQ(to, "keep");
    ERR((long)mremap(to + 1, 4096, 8192, MREMAP_MAYMOVE), EINVAL);
    ERR((long)mremap(to, 4096, 0, 0), EINVAL);
    ERR((long)mremap((void *)0x10000, 4096, 8192, MREMAP_MAYMOVE), EFAULT);
    ERR((long)mremap(to, 4096, 4096, MREMAP_FIXED, to), EINVAL);
}
TEST(madvise_dontneed) {
    char *p = MAPOK(mmap(0, 8192, RW, ANON, -1, 0));
    memset(p, 1, 8192);
    OK(madvise(p, 4096, MADV_DONTNEED));
    EQ(p[0], 0);
    EQ(p[4096], 1);
    ERR(madvise(p + 1, 4096, MADV_DONTNEED), EINVAL);
    ERR(madvise(p, 4096, 12345), EINVAL);
    OK(munmap(p + 4096, 4096));
    ERR(madvise(p, 8192, MADV_DONTNEED), ENOMEM);
}
TEST(brk_moves) {
    char *b = (char *)syscall(SYS_brk, 0);
    char *e = (char *)syscall(SYS_brk, b + 100000);
    EQ((long)e, (long)(b + 100000));
    memset(b, 3, 100000);
    EQ(syscall(SYS_brk, b), (long)b);
    EQ(syscall(SYS_brk, b + 100000), (long)(b + 100000));
    char *page = (char *)(((uintptr_t)b + 4095) & ~4095ul);
    EQ(page[0], 0);
    EQ(syscall(SYS_brk, 1), (long)(b + 100000)); // refused: the present end comes back
    struct rlimit r = {1 << 20, RLIM_INFINITY};
    OK(getrlimit(RLIMIT_DATA, &r));
    r.rlim_cur = 1 << 20;
    OK(setrlimit(RLIMIT_DATA, &r));
    EQ(syscall(SYS_brk, b + (64 << 20)), (long)(b + 100000));
}
TEST(stack_grows) {
    volatile char a[3 << 20];
    for (long i = sizeof a - 1; i >= 0; i -= 4096) a[i] = 1;
    EQ(a[sizeof a - 1], 1);
}
TEST(rlimit_as) {
    struct rlimit r;
    OK(getrlimit(RLIMIT_AS, &r));
    r.rlim_cur = 64 << 20;
    OK(setrlimit(RLIMIT_AS, &r));
    ERR((long)mmap(0, 128 << 20, RW, ANON, -1, 0), ENOMEM);
}
TEST(mincore_and_mlock) {
    unsigned char v[2];
    char *p = MAPOK(mmap(0, 8192, RW, ANON, -1, 0));
    p[0] = 1;
    OK(mincore(p, 8192, v));
    EQ(v[0] & 1, 1);
    ERR(mincore(p + 1, 4096, v), EINVAL);
    OK(mlock(p, 4096));
    OK(munlock(p, 4096));
    OK(munmap(p, 8192));
    ERR(mincore(p, 4096, v), ENOMEM);
}
TEST(fork_deep_cow) {
    char *p = MAPOK(mmap(0, 4 << 20, RW, ANON, -1, 0));
    memset(p, 1, 4 << 20);
    for (int d = 0; d < 4; d++)
        WAIT0(SPAWN({
            for (int i = 0; i < 4 << 20; i += 4096) EQ(p[i], 1);
            memset(p, 2 + d, 4 << 20);
            WAIT0(SPAWN(for (int i = 0; i < 4 << 20; i += 4096) EQ(p[i], 2 + d)));
        }));
    for (int i = 0; i < 4 << 20; i += 4096) EQ(p[i], 1);
}
TEST(maps_file_agrees) {
    int fd = file("mapped-file", 8192);
    char *p = MAPOK(mmap(0, 8192, PROT_READ, MAP_SHARED, fd, 0)), want[64];
    snprintf(want, sizeof want, "%lx-%lx r--s 00000000", (long)p, (long)p + 8192);
    char *m = get("/proc/self/maps"), *l = strstr(m, want);
    CK(l);
    *strchr(l, '\n') = 0;
    CK(strstr(l, "/mapped-file"));
    OK(munmap(p, 4096));
    snprintf(want, sizeof want, "%lx-%lx r--s 00001000", (long)p + 4096, (long)p + 8192);
    m = get("/proc/self/maps");
    CK(strstr(m, want));
    CK(strstr(m, "[stack]"));
    CK(strstr(m, "[vdso]"));
}
TEST(process_vm_and_self_mem) {
    static char secret[] = "in memory";
    char b[16] = "";
    struct iovec l = {b, 9}, r = {secret, 9};
    EQ(process_vm_readv(getpid(), &l, 1, &r, 1, 0), 9);
    STREQ(b, "in memory");
    int fd = OK(open("/proc/self/mem", O_RDONLY));
    memset(b, 0, 16);
    EQ(pread(fd, b, 9, (long)secret), 9);
    STREQ(b, "in memory");
}
TEST(sysv_shm) {
    int id = OK(shmget(IPC_PRIVATE, 10000, IPC_CREAT | 0600));
    char *p = shmat(id, NULL, 0);
    CK(p != (void *)-1);
    EQ(p[9999], 0);
    WAIT0(SPAWN({
        char *q = shmat(id, NULL, 0);
        strcpy(q, "shared");
        char *r = shmat(id, NULL, SHM_RDONLY);
        STREQ(r, "shared");
        CK(faults(r, 1));
    }));
    STREQ(p, "shared");
    struct shmid_ds ds;
    OK(shmctl(id, IPC_STAT, &ds));
    EQ(ds.shm_segsz, 10000);
    EQ(ds.shm_nattch, 1);
    OK(shmctl(id, IPC_RMID, NULL));
    STREQ(p, "shared");
    OK(shmdt(p));
    ERR(shmdt(p), EINVAL);
    ERR((long)shmat(id, NULL, 0), EINVAL);
    int k = OK(shmget(0x7001, 4096, IPC_CREAT | IPC_EXCL | 0600));
    ERR(shmget(0x7001, 4096, IPC_CREAT | IPC_EXCL | 0600), EEXIST);
    EQ(shmget(0x7001, 0, 0), k);
    ERR(shmget(0x7001, 8192, 0), EINVAL);
    ERR(shmget(0x7002, 8192, 0), ENOENT);
    OK(shmctl(k, IPC_RMID, NULL));
}
TEST(memfd_and_seals) {
    int fd = OK(memfd_create("name", MFD_ALLOW_SEALING | MFD_CLOEXEC));
    EQ(write(fd, "12345", 5), 5);
    char q[64], l[64] = "";
    snprintf(q, sizeof q, "/proc/self/fd/%d", fd);
    OK(readlink(q, l, 63));
    STREQ(l, "/memfd:name (deleted)");
    OK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
    ERR(ftruncate(fd, 2), EPERM);
    ERR(ftruncate(fd, 20), EPERM);
    ERR(pwrite(fd, "123456", 6, 5), EPERM);
    EQ(pwrite(fd, "z", 1, 0), 1);
    char *p = MAPOK(mmap(0, 4096, RW, MAP_SHARED, fd, 0));
    ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
    OK(munmap(p, 4096));
    OK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SEAL));
    ERR(pwrite(fd, "z", 1, 0), EPERM);
    ERR((long)mmap(0, 4096, RW, MAP_SHARED, fd, 0), EPERM);
    ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), EPERM);
    EQ(fcntl(fd, F_GET_SEALS), 15);
    int no = OK(memfd_create("x", 0));
    ERR(fcntl(no, F_ADD_SEALS, F_SEAL_GROW), EPERM);
    ERR(memfd_create("x", 0x40000000), EINVAL);
}
static void *mover(void *arg) {
    char *b = arg;
    for (int i = 0; i < 300; i++) {
        char *want = b + 4096 * (1 + (i * 7 + (i & 1 ? 3 : 11)) % 64);
        if (syscall(SYS_brk, want) != (long)want) return "brk failed";
    }
    return NULL;
}
TEST(brk_of_threads_at_once) {
    char *b = (char *)syscall(SYS_brk, 0), *end = b + (256 << 12);
    pthread_t t[4];
    void *why;
    // Nothing else may be at the heap's end: a call that met another thread's change half done would fail.
    for (int i = 0; i < 4; i++) EQ(pthread_create(&t[i], NULL, mover, b), 0);
    for (int i = 0; i < 4; i++) {
        EQ(pthread_join(t[i], &why), 0);
        if (why) FAIL("%s", (char *)why);
    }
    EQ(syscall(SYS_brk, end), (long)end);
    for (char *p = (char *)(((long)b + 4095) & -4096); p < end; p += 4096) *p = 1;
    EQ(syscall(SYS_brk, b), (long)b);
    CK(faults((char *)(((long)b + 4095) & -4096), 1));
}
TEST(big_sparse_mapping) {
    char *p = MAPOK(mmap(0, 1ul << 36, RW, ANON | MAP_NORESERVE, -1, 0));
    p[0] = p[1ul << 35] = p[(1ul << 36) - 1] = 1;
    OK(munmap(p, 1ul << 36));
}
TEST(many_mappings) {
    char *p[2000];
    for (int i = 0; i < 2000; i++) {
        p[i] = MAPOK(mmap(0, 4096, i & 1 ? PROT_READ : RW, ANON, -1, 0));
        if (!(i & 1)) *p[i] = i;
    }
    for (int i = 0; i < 2000; i++) OK(munmap(p[i], 4096));
}
TEST(syscalls_respect_protection) {
    char *p = MAPOK(mmap(0, 4096, PROT_READ, ANON, -1, 0));
    int fd = OK(open("/dev/zero", O_RDONLY));
    ERR(read(fd, p, 10), EFAULT);
    OK(mprotect(p, 4096, PROT_NONE));
    int n = file("f", 0);
    ERR(write(n, p, 10), EFAULT);
    int pp[2];
    OK(pipe(pp));
    ERR(write(pp[1], p, 10), EFAULT);
}
TEST(write_only_pages_can_be_read_from) {
    int pp[2], fd = file("f", 0);
    char *p = MAPOK(mmap(0, 4 * 4096, RW, ANON, -1, 0)), out[4 * 4096];
    OK(pipe(pp));
    for (int i = 0; i < 4 * 4096; i++) p[i] = i * 7 + i / 4096;
    OK(mprotect(p + 4096, 4096, PROT_WRITE));
    EQ(write(pp[1], p + 4096 + 5, 100), 100);
    EQ(read(pp[0], out, 100), 100);
    for (int i = 0; i < 100; i++) EQ(out[i], (char)((4096 + 5 + i) * 7 + 1));
    EQ(pwrite(fd, p, 4 * 4096, 0), 4 * 4096);
    EQ(pread(fd, out, 4 * 4096, 0), 4 * 4096);
    for (int i = 0; i < 4 * 4096; i++) EQ(out[i], (char)(i * 7 + i / 4096));
    struct iovec v[2] = {{p + 4000, 200}, {p + 8100, 200}};
    EQ(writev(pp[1], v, 2), 400);
    EQ(read(pp[0], out, 400), 400);
    EQ(out[150], (char)(4150 * 7 + 1));
    EQ(out[399], (char)(8299 * 7 + 2));
    OK(mprotect(p + 2 * 4096, 4096, PROT_NONE));
    EQ(write(fd, p, 4 * 4096), 2 * 4096);
    ERR(write(pp[1], p + 2 * 4096, 10), EFAULT);
    OK(mprotect(p + 2 * 4096, 4096, PROT_WRITE | PROT_EXEC));
    EQ(write(pp[1], p + 2 * 4096, 10), 10);
    strcpy(p + 4096, "f");
    struct stat st;
    OK(stat(p + 4096, &st));
    OK(mprotect(p, 4096, PROT_NONE));
    OK(mprotect(p, 4096, PROT_WRITE));
    EQ(p[4095], (char)(4095 * 7));
    OK(munmap(p + 4096, 4096));
    ERR(write(pp[1], p + 4096, 10), EFAULT);
}
TEST(execute_only_pages_as_the_machine_has_them) {
    int pp[2];
    char *p = MAPOK(mmap(0, 4096, RW, ANON, -1, 0)), c;
    OK(pipe(pp));
    *p = 42;
    OK(mprotect(p, 4096, PROT_EXEC));
    // With protection keys it can only be executed; then loads fault, and the kernel's with them.
    if (faults(p, 0)) {
        ERR(write(pp[1], p, 1), EFAULT);
    } else {
        EQ(write(pp[1], p, 1), 1);
        EQ(read(pp[0], &c, 1), 1);
        EQ(c, 42);
    }
}
