// execve: arguments, environment, #!, errors, what survives and what does not.
#include "t.h"
#include <sys/auxv.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/xattr.h>

// Runs argv and gives the wait status; errno of a failed exec comes back as exit 200 + a byte in a pipe.
static int run_env(const char *path, char *const argv[], char *const env[], int *err) {
    int p[2];
    OK(pipe2(p, O_CLOEXEC));
    pid_t c = fork();
    if (!c) {
        execve(path, argv, env);
        int e = errno;
        write(p[1], &e, sizeof e);
        _exit(95);
    }
    close(p[1]);
    *err = 0;
    read(p[0], err, sizeof *err);
    close(p[0]);
    int st;
    OK(waitpid(c, &st, 0));
    return st;
}
static int exec_errno(const char *path) {
    int e;
    char *av[] = {"x", NULL};
    run_env(path, av, environ, &e);
    return e;
}
static void script(const char *path, const char *text) {
    put(path, text);
    OK(chmod(path, 0755));
}
static char *output(const char *path, char *const argv[], char *const env[]) {
    static char b[65536];
    int p[2];
    OK(pipe(p));
    pid_t c = SPAWN({
        dup2(p[1], 1);
        execve(path, argv, env);
        _exit(95);
    });
    close(p[1]);
    ssize_t n = 0, r;
    while ((r = read(p[0], b + n, sizeof b - 1 - n)) > 0) n += r;
    b[n] = 0;
    close(p[0]);
    WAIT0(c);
    return b;
}

TEST(args_and_env_arrive) {
    char *av[] = {"zero", "--child", "dump", "", "two words", NULL};
    char *ev[] = {"A=1", "EMPTY=", "NOEQUALS", NULL};
    STREQ(output(t_self, av, ev), "zero|--child|dump||two words|;A=1|EMPTY=|NOEQUALS|");
}
TEST(errors) {
    put("plain", "just text, not a program");
    EQ(exec_errno("plain"), EACCES);
    OK(chmod("plain", 0755));
    EQ(exec_errno("plain"), ENOEXEC);
    EQ(exec_errno("missing"), ENOENT);
    EQ(exec_errno("."), EACCES);
    EQ(exec_errno("plain/x"), ENOTDIR);
    script("empty", "");
    EQ(exec_errno("empty"), ENOEXEC);
    script("badinterp", "#!/no/such/interpreter\n");
    EQ(exec_errno("badinterp"), ENOENT);
    script("nointerp", "#!\n");
    EQ(exec_errno("nointerp"), ENOEXEC);
    script("elf", "\177ELF\2\1\1 truncated");
    EQ(exec_errno("elf"), ENOEXEC);
    EQ(exec_errno((char *)8), EFAULT);
    EQ(exec_errno(""), ENOENT);
    OK(symlink("loop", "loop"));
    EQ(exec_errno("loop"), ELOOP);
}
TEST(e2big) {
    int e;
    char *big = malloc(140000);
    memset(big, 'x', 139999);
    big[139999] = 0;
    char *av[] = {t_self, "--child", "exit0", big, NULL};
    run_env(t_self, av, environ, &e);
    EQ(e, E2BIG); // one string over 128 KiB
    big[100000] = 0;
    EQ(run_env(t_self, av, environ, &e), 0);
    EQ(e, 0);
    char **many = calloc(60, sizeof *many);
    many[0] = t_self, many[1] = "--child", many[2] = "exit0";
    for (int i = 3; i < 50; i++) many[i] = big;
    run_env(t_self, many, environ, &e);
    EQ(e, E2BIG); // together over a quarter of the stack limit
}
TEST(etxtbsy) {
    char cmd[PATH_MAX * 2];
    char *data = malloc(8 << 20);
    int in = OK(open(t_self, O_RDONLY)), out = OK(open("prog", O_CREAT | O_WRONLY, 0755));
    ssize_t n = OK(read(in, data, 8 << 20));
    EQ(write(out, data, n), n);
    EQ(exec_errno("prog"), ETXTBSY);
    OK(close(out));
    snprintf(cmd, sizeof cmd, "./prog");
    char *av[] = {cmd, "--child", "pause", NULL};
    pid_t c = SPAWN(execv(cmd, av));
    for (int i = 0; i < 500; i++) {
        char p[64], l[PATH_MAX] = "";
        snprintf(p, sizeof p, "/proc/%d/exe", c);
        readlink(p, l, sizeof l - 1);
        if (strstr(l, "/prog")) break;
        ms(5);
    }
    int w = open("prog", O_WRONLY);
    int e = errno;
    kill(c, SIGKILL);
    OK(waitpid(c, NULL, 0));
    EQ(w, -1);
    EQ(e, ETXTBSY);
}
TEST(shebang_arguments) {
    char text[PATH_MAX + 64];
    snprintf(text, sizeof text, "#! %s --child\n", t_self);
    script("s", text);
    char *av[] = {"ignored", "dump", "x y", NULL}, *ev[] = {NULL};
    // interpreter, its one argument, the script's path, the rest
    char want[PATH_MAX + 64];
    snprintf(want, sizeof want, "%s|--child|./s|dump|x y|;", t_self);
    STREQ(output("./s", av, ev), want);
}
TEST(shebang_nested_and_loop) {
    char text[PATH_MAX + 64];
    snprintf(text, sizeof text, "#!%s --child\n", t_self);
    script("a", text);
    script("b", "#!./a\n");
    char *av[] = {"b", "dump", NULL}, *ev[] = {NULL};
    char want[PATH_MAX + 64];
    snprintf(want, sizeof want, "%s|--child|./a|./b|dump|;", t_self);
    STREQ(output("./b", av, ev), want);
    script("l", "#!./l\n");
    EQ(exec_errno("./l"), ELOOP);
}
TEST(cloexec) {
    int a = OK(open("/dev/null", O_RDONLY | O_CLOEXEC)), b = OK(open("/dev/null", O_RDONLY));
    char sa[16], sb[16], *av[] = {t_self, "--child", "fds", sa, sb, NULL};
    sprintf(sa, "%d", a), sprintf(sb, "%d", b);
    int e;
    EQ(run_env(t_self, av, environ, &e), 0);
}
static void nop(int s) { (void)s; }
TEST(signals_reset_ignored_kept) {
    signal(SIGUSR1, nop);
    signal(SIGUSR2, SIG_IGN);
    sigset_t m;
    sigemptyset(&m);
    sigaddset(&m, SIGHUP);
    sigprocmask(SIG_SETMASK, &m, NULL);
    char *av[] = {t_self, "--child", "signals", NULL};
    int e;
    EQ(run_env(t_self, av, environ, &e), 0);
}
TEST(pending_signal_survives) {
    sigset_t m;
    sigemptyset(&m);
    sigaddset(&m, SIGUSR1);
    sigprocmask(SIG_BLOCK, &m, NULL);
    pid_t c = SPAWN({
        raise(SIGUSR1);
        execl(t_self, t_self, "--child", "pending", NULL);
        _exit(1);
    });
    WAIT0(c);
}
TEST(pid_and_parent_kept) {
    char pid[32];
    pid_t c = SPAWN({
        sprintf(pid, "%d", getpid());
        execl(t_self, t_self, "--child", "pid", pid, NULL);
        _exit(1);
    });
    WAIT0(c);
}
TEST(auxv_and_proc) {
    char *av[] = {"odd-name", "--child", "auxv", NULL};
    int e;
    EQ(run_env(t_self, av, environ, &e), 0);
}
TEST(execveat_and_fexecve) {
    int fd = OK(open(t_self, O_RDONLY | O_CLOEXEC));
    WAIT0(SPAWN({
        char *av[] = {"f", "--child", "exit0", NULL};
        fexecve(fd, av, environ);
        _exit(1);
    }));
    WAIT0(SPAWN({
        char *av[] = {"f", "--child", "exit0", NULL};
        syscall(SYS_execveat, fd, "", av, environ, AT_EMPTY_PATH);
        _exit(1);
    }));
    OK(symlink(t_self, "ln"));
    char *av[] = {"f", NULL};
    ERR(syscall(SYS_execveat, AT_FDCWD, "ln", av, environ, AT_SYMLINK_NOFOLLOW), ELOOP);
    ERR(syscall(SYS_execveat, AT_FDCWD, "ln", av, environ, 0x10), EINVAL);
    ERR(syscall(SYS_execveat, fd, "x", av, environ, 0), ENOTDIR);
    script("s", "#!/bin/sh\n");
    int s = OK(open("s", O_RDONLY | O_CLOEXEC));
    ERR(syscall(SYS_execveat, s, "", av, environ, AT_EMPTY_PATH), ENOENT); // its name is gone before the interpreter runs
}
TEST(args_at_the_end_of_memory) {
    // Three pages: the last one cannot be read.
    char *m = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *end = m + 2 * 4096;
    CK(m != MAP_FAILED);
    OK(mprotect(end, 4096, PROT_NONE));
    char *av[] = {"zero", "--child", "dump", m + 4096 - 3, end - 4, NULL}; // one string over two pages, one to the end
    strcpy(m + 4096 - 3, "abcdef");
    strcpy(end - 4, "end");
    STREQ(output(t_self, av, (char **)m), "zero|--child|dump|abcdef|end|;");
    av[4] = "far";
    memcpy(end - sizeof av, av, sizeof av); // ends with the page, too
    STREQ(output(t_self, (char **)(end - sizeof av), (char **)m), "zero|--child|dump|abcdef|far|;");
    memcpy(m + 4096 - 20, av, sizeof av); // pointers that are not aligned, one of them over two pages
    strcpy(m + 4096 + 64, "abc");
    av[3] = m + 4096 + 64;
    memcpy(m + 4096 - 20, av, sizeof av);
    STREQ(output(t_self, (char **)(m + 4096 - 20), (char **)m), "zero|--child|dump|abc|far|;");
    int e;
    memset(end - 4, 'x', 4); // no terminator before the end
    char *over[] = {t_self, end - 4, NULL};
    run_env(t_self, over, environ, &e);
    EQ(e, EFAULT);
    memcpy(end - 16, over, 16); // no null pointer before the end
    ((char **)end)[-1] = "x";
    run_env(t_self, (char **)(end - 16), environ, &e);
    EQ(e, EFAULT);
}
TEST(empty_argv) {
    char *none[] = {NULL};
    pid_t c = SPAWN({
        execve(t_self, none, (char *[]){"T_EMPTY=1", NULL});
        _exit(1);
    });
    WAIT0(c); // Linux puts one empty string in
}
TEST(setuid_bit) {
    if (geteuid()) SKIP("needs root");
    struct stat ss;
    OK(chmod(".", 0777));
    char *data = malloc(8 << 20);
    int in = OK(open(t_self, O_RDONLY)), out = OK(open("suid", O_CREAT | O_WRONLY, 0755));
    ssize_t n = OK(read(in, data, 8 << 20));
    EQ(write(out, data, n), n);
    OK(close(out));
    OK(chmod("suid", 04755));
    OK(stat("suid", &ss));
    int no_new = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
    int st;
    for (int nnp = 0; nnp < 2; nnp++) {
        pid_t c = SPAWN({
            OK(setresuid(1000, 1000, 1000));
            if (nnp) OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
            execl("./suid", "suid", "--child", "euid", NULL);
            _exit(96);
        });
        OK(waitpid(c, &st, 0));
        EQ(WEXITSTATUS(st), nnp || no_new ? 2 : 0);
    }
}
// security.capability, revision 2: permitted, inheritable, effective.
static void setcap(const char *path, uint64_t p, uint64_t i, int e) {
    uint32_t v[5] = {0x02000000 | e, p, i, p >> 32, i >> 32};
    if (setxattr(path, "security.capability", v, sizeof v, 0) < 0) {
        if (errno == EOPNOTSUPP) SKIP("no attributes here");
        FAIL("setxattr: %s", strerror(errno));
    }
}
static void copy_self(const char *to) {
    static char b[8 << 20];
    int in = OK(open(t_self, O_RDONLY)), out = OK(open(to, O_CREAT | O_WRONLY | O_TRUNC, 0755));
    ssize_t n = OK(read(in, b, sizeof b));
    EQ(write(out, b, n), n);
    OK(close(out));
    OK(close(in));
}
// What a program finds: "permitted effective ambient secure dumpable".
static char *caps_of(const char *path) {
    char *av[] = {(char *)path, "--child", "caps", NULL};
    return output(path, av, environ);
}
static void become(uid_t uid) {
    OK(chmod(".", 0755));
    OK(setresgid(uid, uid, uid));
    OK(setresuid(uid, uid, uid));
}
#define BIT(c) (1ull << (c))
TEST(file_capabilities) {
    copy_self("ep"), setcap("ep", BIT(CAP_NET_RAW) | BIT(CAP_CHOWN), 0, 1);
    copy_self("p"), setcap("p", BIT(CAP_NET_RAW), 0, 0);
    copy_self("i"), setcap("i", 0, BIT(CAP_CHOWN), 1);
    copy_self("none");
    WAIT0(SPAWN({
        become(1000);
        STREQ(caps_of("./ep"), "2001 2001 0 1 0");
        STREQ(caps_of("./p"), "2000 0 0 1 0");
        STREQ(caps_of("./i"), "0 0 0 1 1");
        STREQ(caps_of("./none"), "0 0 0 0 1");
        // Nothing is gained any more, and what the file wants is not an error.
        OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        STREQ(caps_of("./ep"), "0 0 0 1 1");
    }));
    // Not all that the file's effective bit promises can be had.
    WAIT0(SPAWN({
        OK(prctl(PR_CAPBSET_DROP, CAP_CHOWN, 0, 0, 0));
        become(1000);
        EQ(exec_errno("./ep"), EPERM);
        STREQ(caps_of("./p"), "2000 0 0 1 0");
    }));
    // Inherited where both sides want it; a file with capabilities ends ambient ones.
    WAIT0(SPAWN({
        OK(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0));
        become(1000);
        struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
        struct __user_cap_data_struct d[2] = {{BIT(CAP_CHOWN), BIT(CAP_CHOWN), BIT(CAP_CHOWN)}, {0, 0, 0}};
        OK(syscall(SYS_capset, &h, d));
        OK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0));
        STREQ(caps_of("./none"), "1 1 1 0 1");
        STREQ(caps_of("./i"), "1 1 0 1 1");
        STREQ(caps_of("./p"), "2000 0 0 1 0");
    }));
}
TEST(file_capabilities_checked) {
    put("f", "x");
    uint32_t v[6] = {0x02000000, 1, 0, 0, 0, 0};
    if (setxattr("f", "security.capability", v, 20, 0) < 0 && errno == EOPNOTSUPP) SKIP("no attributes here");
    ERR(setxattr("f", "security.capability", v, 19, 0), EINVAL);
    ERR(setxattr("f", "security.capability", v, 24, 0), EINVAL);
    v[0] = 0x01000000;
    ERR(setxattr("f", "security.capability", v, 12, 0), EINVAL);
    OK(chmod("f", 0666));
    WAIT0(SPAWN({
        become(1000);
        v[0] = 0x02000000;
        ERR(setxattr("f", "security.capability", v, 20, 0), EPERM);
        ERR(removexattr("f", "security.capability"), EPERM);
    }));
}
TEST(file_capabilities_do_not_survive_writes) {
    char b[64];
    put("f", "x");
    setcap("f", 1, 0, 1);
    EQ(getxattr("f", "security.capability", b, sizeof b), 20);
    int fd = OK(open("f", O_WRONLY | O_APPEND));
    EQ(getxattr("f", "security.capability", b, sizeof b), 20);
    EQ(write(fd, "y", 1), 1);
    ERR(getxattr("f", "security.capability", b, sizeof b), ENODATA);
    setcap("f", 1, 0, 1);
    OK(ftruncate(fd, 0));
    ERR(getxattr("f", "security.capability", b, sizeof b), ENODATA);
    setcap("f", 1, 0, 1);
    OK(chown("f", 7, 7));
    ERR(getxattr("f", "security.capability", b, sizeof b), ENODATA);
}
TEST(memory_is_fresh) {
    char *big = MAPOK(mmap((void *)0x200000000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    *big = 1;
    char *av[] = {t_self, "--child", "fresh", NULL};
    int e;
    EQ(run_env(t_self, av, environ, &e), 0);
}
TEST(hundred_execs) {
    char *av[] = {t_self, "--child", "exit0", NULL};
    int e;
    for (int i = 0; i < 100; i++) EQ(run_env(t_self, av, environ, &e), 0);
}
TEST(self_exec_chain) {
    char *av[] = {t_self, "--child", "chain", "50", NULL};
    int e;
    EQ(run_env(t_self, av, environ, &e), 0);
}

int t_child(int argc, char **argv) {
    extern char **environ;
    if (argc > 1 && !strcmp(argv[1], "dump")) argv--, argc++; // called through #!: the script's path is in between
    const char *w = argc ? argv[0] : "";
    if (strstr(w, "./") == w || !strcmp(w, "--child") || !strcmp(w, "dump")) {
        char **a = argv - 1;
        while (a[-1] != NULL && (uintptr_t)a[-1] > 4096) a--; // back to argv[0]: argc lies below
        for (; *a; a++) printf("%s|", *a);
        printf(";");
        for (a = environ; *a; a++) printf("%s|", *a);
        fflush(stdout);
        return 0;
    }
    if (!strcmp(w, "exit0")) return 0;
    if (!strcmp(w, "pause")) return pause(), 0;
    if (!strcmp(w, "fds")) return !(fcntl(atoi(argv[1]), F_GETFD) < 0 && errno == EBADF && fcntl(atoi(argv[2]), F_GETFD) == 0);
    if (!strcmp(w, "signals")) {
        struct sigaction a, b;
        sigset_t m;
        sigaction(SIGUSR1, NULL, &a), sigaction(SIGUSR2, NULL, &b), sigprocmask(SIG_BLOCK, NULL, &m);
        return !(a.sa_handler == SIG_DFL && b.sa_handler == SIG_IGN && sigismember(&m, SIGHUP) == 1);
    }
    if (!strcmp(w, "pending")) {
        sigset_t m;
        sigpending(&m);
        return sigismember(&m, SIGUSR1) != 1;
    }
    if (!strcmp(w, "pid")) return getpid() != atoi(argv[1]);
    if (!strcmp(w, "euid")) return geteuid() == 0 && getuid() == 1000 ? 0 : 2;
    if (!strcmp(w, "caps")) {
        unsigned long long prm, eff, amb;
        char *t = get("/proc/self/status");
        sscanf(strstr(t, "CapPrm:"), "CapPrm: %llx", &prm);
        sscanf(strstr(t, "CapEff:"), "CapEff: %llx", &eff);
        sscanf(strstr(t, "CapAmb:"), "CapAmb: %llx", &amb);
        printf("%llx %llx %llx %ld %d", prm, eff, amb, getauxval(AT_SECURE), prctl(PR_GET_DUMPABLE));
        fflush(stdout);
        return 0;
    }
    if (!strcmp(w, "auxv")) {
        if (getauxval(AT_PAGESZ) != 4096 || !getauxval(AT_RANDOM) || !getauxval(AT_PHDR) || getauxval(AT_UID) != getuid()) return 2;
        if (getauxval(AT_SECURE) || !getauxval(AT_SYSINFO_EHDR) || getauxval(AT_CLKTCK) != 100) return 3;
        const char *f = (const char *)getauxval(AT_EXECFN);
        if (!f || strcmp(f, t_self)) return 4;
        if (memcmp(get("/proc/self/cmdline"), "odd-name\0--child\0auxv", 22)) return 5;
        return 0;
    }
    if (!strcmp(w, "fresh")) {
        unsigned char v;
        return !(mincore((void *)0x200000000, 4096, &v) < 0 && errno == ENOMEM);
    }
    if (!strcmp(w, "chain")) {
        int n = atoi(argv[1]);
        if (!n) return 0;
        char s[16];
        sprintf(s, "%d", n - 1);
        execl(t_self, t_self, "--child", "chain", s, NULL);
    }
    return 1;
}
