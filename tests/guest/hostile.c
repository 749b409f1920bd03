// What a hostile guest tries first: every syscall number with odd arguments, jumps to odd addresses, floods. Nothing here may
// end anything but the process that tries it. That the host saw none of it is asked by the platform's own tests.
#include "t.h"

static unsigned long rng = 88172645463325252ul;
static unsigned long rnd(void) {
    rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
    return rng;
}
static unsigned long odd(int mode) {
    static const unsigned long v[] = {0, 1, -1ul, 8, 0x7ffffffff000, 0xffff800000000000, 0x80000000, 0xffffffff, 4096, 3, 200, 0x7fffffffffffffff};
    static char page[4096];
    return mode == 0 ? 0 : mode == 1 ? -1ul : mode == 2 && rnd() % 3 == 0 ? (unsigned long)page : v[rnd() % (sizeof v / sizeof *v)];
}
// Calls that end, stop or leave this machine even as an ordinary user's: not for a native run as root.
static int avoid(int nr) {
    static const int no[] = {SYS_exit, SYS_exit_group, SYS_kill, SYS_tkill, SYS_tgkill, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, SYS_reboot, SYS_pause,
        SYS_rt_sigreturn, SYS_fork, SYS_vfork, SYS_clone, SYS_clone3, SYS_pidfd_send_signal, SYS_vhangup, SYS_sync, SYS_kexec_load, SYS_kexec_file_load,
        SYS_delete_module, SYS_init_module, SYS_finit_module, SYS_swapon, SYS_swapoff, SYS_settimeofday, SYS_clock_settime, SYS_adjtimex,
        SYS_clock_adjtime, SYS_sethostname, SYS_setdomainname, SYS_mount, SYS_umount2, SYS_pivot_root, SYS_syslog, SYS_acct, SYS_ioperm, SYS_iopl,
        SYS_setpriority, SYS_sched_setscheduler, SYS_sched_setattr, SYS_sched_setparam, SYS_process_madvise, SYS_ptrace, SYS_unlink, SYS_rmdir, SYS_chroot,
        SYS_quotactl, SYS_bpf, SYS_perf_event_open, SYS_mount_setattr, SYS_move_mount, SYS_setns, SYS_unshare, SYS_migrate_pages, SYS_move_pages, SYS_modify_ldt,
        SYS_process_vm_writev, SYS_prlimit64, SYS_add_key, SYS_keyctl, SYS_request_key};
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (no[i] == nr) return 1;
    return 0;
}
static void every_number(int mode, int from, int to) {
    for (int nr = from; nr < to; nr++) {
        if (avoid(nr) && getpid() != 1 && getenv("T_ALL") == NULL) continue;
        pid_t c = fork();
        if (c < 0) FAIL("fork before %d: %s", nr, strerror(errno));
        if (!c) {
            setpgid(0, 0); // kill(0) and kill(-1)-like numbers stay in here
            setresuid(65534, 65534, 65534);
            signal(SIGALRM, SIG_DFL);
            alarm(2);
            struct itimerval it = {{0, 30000}, {0, 30000}};
            setitimer(ITIMER_REAL, &it, NULL);
            rng += nr * 77777 + mode;
            for (int k = 0; k < (mode < 2 ? 1 : 4); k++) syscall(nr, odd(mode), odd(mode), odd(mode), odd(mode), odd(mode), odd(mode));
            _exit(0);
        }
        int st;
        for (int i = 0; i < 600; i++) {
            pid_t r = waitpid(c, &st, WNOHANG | WUNTRACED);
            if (r == c && !WIFSTOPPED(st)) goto next;
            ms(i < 10 ? 1 : 5);
        }
        kill(c, SIGKILL);
        if (waitpid(c, &st, 0) != c) FAIL("call %d: the child cannot be collected", nr);
    next:;
    }
    WAIT0(SPAWN(_exit(0)));
}
TEST(numbers_with_zeros_low) { every_number(0, 0, 512); }
TEST(numbers_with_zeros_high) { every_number(0, 512, 1024); }
TEST(numbers_with_ones_low) { every_number(1, 0, 512); }
TEST(numbers_with_mixed_a) { every_number(2, 0, 160); }
TEST(numbers_with_mixed_b) { every_number(2, 160, 300); }
TEST(numbers_with_mixed_c) { every_number(2, 300, 512); }

static void jump_to(unsigned long a) {
    pid_t c = SPAWN({
        signal(SIGSEGV, SIG_DFL);
        alarm(2);
        __asm__ volatile("mov $39,%%eax\n mov $-1,%%rdi\n mov $-1,%%rsi\n xor %%edx,%%edx\n jmp *%0" ::"r"(a) : "rax", "rdi", "rsi", "rdx", "memory");
    });
    int st;
    for (int i = 0; i < 1000; i++) {
        if (waitpid(c, &st, WNOHANG) == c) return;
        ms(3);
    }
    kill(c, SIGKILL);
    OK(waitpid(c, &st, 0));
}
TEST(jumps_to_odd_addresses) {
    unsigned long a[] = {0, 1, 0x1000, 0x10000, 0x400000, 0x7fffffffe000, 0x7ffffffff000, 0x7fffffffffff, 0x800000000000, 0xffffffffff600000, -1ul,
                         0xffffffff80000000, 0x7ffff7fc0000, 0x200000000000, 0x100000000};
    for (size_t i = 0; i < sizeof a / sizeof *a; i++) jump_to(a[i]);
}
TEST(jumps_into_every_mapping) {
    // Whatever the process' own map shows, and the pages round it, at aligned and odd places.
    FILE *f = fopen("/proc/self/maps", "r");
    CK(f);
    unsigned long from, to;
    char line[512];
    unsigned long at[256];
    int n = 0;
    while (fgets(line, sizeof line, f) && n < 250)
        if (sscanf(line, "%lx-%lx", &from, &to) == 2) at[n++] = from, at[n++] = to - 2, at[n++] = to;
    fclose(f);
    for (int i = 0; i < n; i++) jump_to(at[i]);
}
TEST(memory_calls_near_the_top) {
    // Wherever a runtime may keep something of its own: mapping over it, unmapping it or protecting it.
    for (unsigned long a = 0x7ff000000000; a < 0x7ffffffff000; a += 0x123456000)
        WAIT0(SPAWN({
            mmap((void *)(a & ~4095ul), 1 << 20, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_FIXED_NOREPLACE | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            _exit(0);
        }));
    pid_t c = SPAWN({
        for (unsigned long a = 0x1000; a < 0x7ffffffff000; a += 0x8000000000) munmap((void *)a, 0x7fff00000000);
        for (;;) syscall(SYS_munmap, 0x1000, 0x7fffffffe000);
    });
    int st;
    for (int i = 0; i < 600 && waitpid(c, &st, WNOHANG) == 0; i++) ms(5);
    kill(c, SIGKILL);
    waitpid(c, &st, 0);
    WAIT0(SPAWN(_exit(0)));
}
TEST(descriptor_flood) {
    int n = 0, p[2];
    while (n < 30000 && pipe(p) == 0) n++;
    CK(n > 100);
    WAIT0(SPAWN(_exit(0)));
}
TEST(process_flood) {
    pid_t all[300];
    int n = 0;
    while (n < 300 && (all[n] = fork()) >= 0) {
        if (!all[n]) pause(), _exit(0);
        n++;
    }
    CK(n > 50);
    for (int i = 0; i < n; i++) kill(all[i], SIGKILL);
    for (int i = 0; i < n; i++) OK(waitpid(all[i], NULL, 0));
}
TEST(broken_stacks_and_frames) {
    for (int mode = 0; mode < 4; mode++) {
        pid_t c = SPAWN({
            alarm(2);
            switch (mode) {
            case 0: __asm__ volatile("xor %%esp,%%esp\n mov $15,%%eax\n syscall" ::: "memory"); break; // rt_sigreturn from nowhere
            case 1: __asm__ volatile("mov $-8,%%rsp\n mov $15,%%eax\n syscall" ::: "memory"); break;
            case 2: {
                static char junk[8192];
                memset(junk, 0xa5, sizeof junk);
                __asm__ volatile("mov %0,%%rsp\n mov $15,%%eax\n syscall" ::"r"(junk + 4096) : "memory");
                break;
            }
            default: __asm__ volatile("mov $1,%%rsp\n push %%rax" ::: "memory");
            }
        });
        int st;
        OK(waitpid(c, &st, 0));
        CK(WIFSIGNALED(st));
        CK(WTERMSIG(st) != SIGALRM);
    }
}
TEST(segment_registers) {
    pid_t c = SPAWN({
        alarm(2);
        syscall(SYS_arch_prctl, 0x1002, 0xffff800000000000); // ARCH_SET_FS beyond user space: EPERM
        if (errno != EPERM) _exit(3);
        syscall(SYS_arch_prctl, 0x1001, 0x1234);
        unsigned long gs = 0;
        syscall(SYS_arch_prctl, 0x1004, &gs);
        if (gs != 0x1234) _exit(4);
    });
    WAIT0(c);
}
TEST(int80_and_sysenter) {
    for (int k = 0; k < 2; k++) {
        pid_t c = SPAWN({
            alarm(2);
            long r = 20;
            if (k == 0) __asm__ volatile("int $0x80" : "+a"(r)::"memory");
            else __asm__ volatile("sysenter" : "+a"(r)::"rcx", "rdx", "memory");
        });
        int st;
        OK(waitpid(c, &st, 0)); // a pid, ENOSYS or a signal: each is an answer
    }
    WAIT0(SPAWN(_exit(0)));
}
