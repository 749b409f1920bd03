// What each platform adds: the least of several rounds, in microseconds, so that what else the machine does counts little.
#define _GNU_SOURCE
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#define ROUNDS 20
#define PAGES 256
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}
static void die(const char *what) {
    perror(what);
    exit(1);
}
static void getppid_once(void) { syscall(SYS_getppid); }
static char *pages;
static void fault_all(void) {
    for (int i = 0; i < PAGES; i++) pages[i * 4096] = 1;
}
static void drop_all(void) {
    if (madvise(pages, PAGES * 4096, MADV_DONTNEED)) die("madvise");
}
static int there[2], back[2];
static void ping(void) {
    char c = 1;
    if (write(there[1], &c, 1) != 1 || read(back[0], &c, 1) != 1) die("ping");
}
static void fork_once(void) {
    pid_t p = fork();
    if (p < 0) die("fork");
    if (!p) _exit(0);
    if (waitpid(p, NULL, 0) != p) die("waitpid");
}
static void map_once(void) {
    char *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED) die("mmap");
    *m = 1;
    if (munmap(m, 4096)) die("munmap");
}
// Two processes hand a turn to and fro: each time one sleeps and the other wakes.
static int *turn;
static void wait_for(int mine) {
    for (;;) {
        int is = __atomic_load_n(turn, __ATOMIC_ACQUIRE);
        if (is == mine || is < 0) return;
        syscall(SYS_futex, turn, FUTEX_WAIT, is, NULL, NULL, 0);
    }
}
static void hand_to(int whom) {
    __atomic_store_n(turn, whom, __ATOMIC_RELEASE);
    syscall(SYS_futex, turn, FUTEX_WAKE, 1, NULL, NULL, 0);
}
static void to_and_fro(void) {
    hand_to(1);
    wait_for(0);
}
static void nothing(void) {}
static void least(const char *name, int times, int per, void (*before)(void), void (*body)(void)) {
    double best = 1e12;
    for (int r = 0; r < ROUNDS; r++) {
        before();
        double start = now();
        for (int i = 0; i < times; i++) body();
        double each = (now() - start) / times / per;
        if (each < best) best = each;
    }
    printf("%s %.2f\n", name, best);
    fflush(stdout);
}
int main(void) {
    pages = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || pipe(there) || pipe(back)) die("set-up");
    least("getppid", 100, 1, nothing, getppid_once);
    least("page_fault", 1, PAGES, drop_all, fault_all);
    least("mmap_touch_munmap", 20, 1, nothing, map_once);
    least("fork_exit_wait", 3, 1, nothing, fork_once);
    turn = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (turn == MAP_FAILED) die("mmap");
    pid_t other = fork();
    if (other < 0) die("fork");
    if (!other) {
        while (wait_for(1), *turn >= 0) hand_to(0);
        _exit(0);
    }
    least("context_switch", 20, 2, nothing, to_and_fro);
    hand_to(-1);
    if (waitpid(other, NULL, 0) != other) die("waitpid");
    pid_t echo = fork();
    if (echo < 0) die("fork");
    if (!echo) {
        char c;
        close(there[1]);
        while (read(there[0], &c, 1) == 1 && write(back[1], &c, 1) == 1) {}
        _exit(0);
    }
    least("pipe_round_trip", 20, 1, nothing, ping);
    close(there[1]);
    return waitpid(echo, NULL, 0) == echo ? 0 : 1;
}
