// System V IPC: shared memory, semaphores, message queues, across fork, with limits, permissions and removal under waiters.
#include "t.h"
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

struct msg {
    long type;
    char text[64];
};
union semun {
    int val;
    struct semid_ds *buf;
    unsigned short *array;
};
static long attached(int id) {
    struct shmid_ds d;
    return shmctl(id, IPC_STAT, &d) ? -errno : (long)d.shm_nattch;
}
static int change(int id, unsigned short at, short by, short flags) {
    struct sembuf o = {at, by, flags};
    return semop(id, &o, 1);
}
static int semval(int id, int at) { return semctl(id, at, GETVAL); }

TEST(shm_attach_and_detach) {
    int id = OK(shmget(77, 10000, IPC_CREAT | 0600));
    EQ(shmget(77, 10000, 0), id);
    ERR(shmget(77, 10000, IPC_CREAT | IPC_EXCL), EEXIST);
    ERR(shmget(77, 20000, 0), EINVAL);
    ERR(shmget(78, 100, 0), ENOENT);
    char *p = shmat(id, NULL, 0), *q = shmat(id, NULL, SHM_RDONLY);
    CK(p != (void *)-1 && q != (void *)-1);
    EQ(attached(id), 2);
    strcpy(p, "hello");
    CK(!strcmp(q, "hello"));
    CK(shmat(id, p, 0) == (void *)-1 && errno == EINVAL);
    CK(shmat(id, p + 1, 0) == (void *)-1 && errno == EINVAL);
    struct shmid_ds d;
    OK(shmctl(id, IPC_STAT, &d));
    EQ(d.shm_segsz, 10000);
    EQ(d.shm_perm.mode & 0777, 0600);
    EQ(d.shm_cpid, getpid());
    OK(shmdt(q));
    EQ(attached(id), 1);
    ERR(shmdt(q), EINVAL);
    OK(shmctl(id, IPC_RMID, NULL));
    EQ(attached(id), 1); // it lives on until nobody uses it
    ERR(shmget(77, 0, 0), ENOENT);
    CK(!strcmp(p, "hello"));
    OK(shmdt(p));
    EQ(attached(id), -EINVAL);
}
TEST(shm_fork_exit_and_exec) {
    int id = OK(shmget(IPC_PRIVATE, 4096, 0600));
    char *p = shmat(id, NULL, 0);
    CK(p != (void *)-1);
    pid_t c = SPAWN({
        if (attached(id) != 2) _exit(1);
        strcpy(p, "child");
        _exit(0);
    });
    WAIT0(c);
    CK(!strcmp(p, "child"));
    EQ(attached(id), 1);
    c = SPAWN({ execl(t_self, t_self, "--child", "count", NULL); _exit(1); });
    int st;
    OK(waitpid(c, &st, 0));
    EQ(WEXITSTATUS(st), 0);
    EQ(attached(id), 1);
    c = SPAWN(pause());
    EQ(attached(id), 2);
    kill(c, SIGKILL);
    OK(waitpid(c, NULL, 0));
    EQ(attached(id), 1);
    OK(shmctl(id, IPC_RMID, NULL));
}
TEST(sem_values_and_waits) {
    int s = OK(semget(IPC_PRIVATE, 3, 0600));
    union semun u = {.array = (unsigned short[]){1, 2, 3}};
    OK(semctl(s, 0, SETALL, u));
    unsigned short got[3];
    u.array = got;
    OK(semctl(s, 0, GETALL, u));
    EQ(got[0] * 100 + got[1] * 10 + got[2], 123);
    ERR(change(s, 3, 1, 0), EFBIG);
    ERR(change(s, 0, -2, IPC_NOWAIT), EAGAIN);
    ERR(change(s, 0, 0, IPC_NOWAIT), EAGAIN);
    // All or nothing.
    struct sembuf both[2] = {{1, -1, 0}, {0, -5, IPC_NOWAIT}};
    ERR(semop(s, both, 2), EAGAIN);
    EQ(semval(s, 1), 2);
    struct timespec ts = {0, 20000000};
    struct sembuf o = {0, -5, 0};
    ERR(semtimedop(s, &o, 1, &ts), EAGAIN);
    ERR(semop(s, &o, 0), EINVAL);
    u.val = 32768;
    ERR(semctl(s, 0, SETVAL, u), ERANGE);
    ERR(change(s, 0, 32767, 0), ERANGE);
    pid_t c = SPAWN({
        for (int i = 0; i < 1000 && semctl(s, 0, GETNCNT) != 1; i++) ms(5);
        if (semctl(s, 0, GETNCNT) != 1) _exit(1);
        _exit(change(s, 0, 4, 0) != 0);
    });
    OK(change(s, 0, -5, 0));
    EQ(semctl(s, 0, GETPID), getpid());
    WAIT0(c);
    // Waiting for zero.
    OK(change(s, 0, 1, 0));
    c = SPAWN({
        for (int i = 0; i < 1000 && semctl(s, 0, GETZCNT) != 1; i++) ms(5);
        if (semctl(s, 0, GETZCNT) != 1) _exit(1);
        _exit(change(s, 0, -1, 0) != 0);
    });
    OK(change(s, 0, 0, 0));
    WAIT0(c);
    OK(semctl(s, 0, IPC_RMID));
    ERR(semval(s, 0), EINVAL);
}
TEST(sem_undo) {
    int s = OK(semget(IPC_PRIVATE, 1, 0600));
    pid_t c = SPAWN(_exit(change(s, 0, 5, SEM_UNDO) || semval(s, 0) != 5));
    WAIT0(c);
    EQ(semval(s, 0), 0);
    c = SPAWN({ change(s, 0, 3, SEM_UNDO); pause(); });
    while (semval(s, 0) != 3) ms(2);
    kill(c, SIGKILL);
    OK(waitpid(c, NULL, 0));
    EQ(semval(s, 0), 0);
    OK(semctl(s, 0, IPC_RMID));
}
static void nothing(int n) { (void)n; }
TEST(sem_removed_and_interrupted) {
    int s = OK(semget(IPC_PRIVATE, 1, 0600));
    pid_t me = getpid(), c = SPAWN({ ms(30); CK(state_is(me, "S")); _exit(semctl(s, 0, IPC_RMID) != 0); });
    ERR(change(s, 0, -1, 0), EIDRM);
    WAIT0(c);
    s = OK(semget(IPC_PRIVATE, 1, 0600));
    struct sigaction a = {.sa_handler = nothing, .sa_flags = SA_RESTART};
    OK(sigaction(SIGUSR1, &a, NULL));
    c = SPAWN({ ms(30); CK(state_is(me, "S")); _exit(kill(me, SIGUSR1) != 0); });
    ERR(change(s, 0, -1, 0), EINTR); // never restarted
    WAIT0(c);
    OK(semctl(s, 0, IPC_RMID));
}
TEST(sem_as_mutex) {
    int s = OK(semget(IPC_PRIVATE, 1, 0600)), id = OK(shmget(IPC_PRIVATE, 4096, 0600));
    volatile int *n = shmat(id, NULL, 0);
    CK(n != (void *)-1);
    OK(change(s, 0, 1, 0));
    pid_t c[4];
    for (int i = 0; i < 4; i++)
        c[i] = SPAWN({
            for (int k = 0; k < 200; k++) {
                if (change(s, 0, -1, SEM_UNDO)) _exit(1);
                int v = *n;
                if (k % 50 == 0) sched_yield();
                *n = v + 1;
                if (change(s, 0, 1, SEM_UNDO)) _exit(1);
            }
        });
    for (int i = 0; i < 4; i++) WAIT0(c[i]);
    EQ(*n, 800);
    OK(semctl(s, 0, IPC_RMID));
    OK(shmctl(id, IPC_RMID, NULL));
}
TEST(msg_order_types_and_sizes) {
    int q = OK(msgget(IPC_PRIVATE, 0600));
    struct msg m = {3, "three"}, r;
    OK(msgsnd(q, &m, 6, 0));
    m = (struct msg){1, "one"};
    OK(msgsnd(q, &m, 4, 0));
    m = (struct msg){2, "two"};
    OK(msgsnd(q, &m, 4, 0));
    m.type = 0;
    ERR(msgsnd(q, &m, 4, 0), EINVAL);
    struct msqid_ds d;
    OK(msgctl(q, IPC_STAT, &d));
    EQ(d.msg_qnum, 3);
    EQ(d.msg_lspid, getpid());
    EQ(msgrcv(q, &r, sizeof r.text, 2, 0), 4); // by type
    CK(!strcmp(r.text, "two"));
    EQ(msgrcv(q, &r, sizeof r.text, -2, 0), 4); // the lowest up to 2
    EQ(r.type, 1);
    ERR(msgrcv(q, &r, 2, 0, 0), E2BIG);
    EQ(msgrcv(q, &r, 2, 0, MSG_NOERROR), 2);
    CK(!memcmp(r.text, "th", 2));
    ERR(msgrcv(q, &r, sizeof r.text, 0, IPC_NOWAIT), ENOMSG);
    ERR(msgsnd(q, &m, 1 << 20, 0), EINVAL);
    OK(msgctl(q, IPC_RMID, NULL));
    ERR(msgsnd(q, &m, 1, 0), EINVAL);
}
TEST(msg_full_blocked_and_removed) {
    int q = OK(msgget(IPC_PRIVATE, 0600));
    struct msg m = {1, ""};
    int n = 0;
    while (!msgsnd(q, &m, sizeof m.text, IPC_NOWAIT)) n++;
    EQ(errno, EAGAIN);
    struct msqid_ds d;
    OK(msgctl(q, IPC_STAT, &d));
    EQ(d.msg_qnum, n);
    EQ(n, d.msg_qbytes / sizeof m.text);
    pid_t c = SPAWN({ struct msg r; ms(30); _exit(msgrcv(q, &r, sizeof r.text, 0, 0) != sizeof r.text); });
    OK(msgsnd(q, &m, sizeof m.text, 0)); // waits for room
    WAIT0(c);
    while (msgrcv(q, &m, sizeof m.text, 0, IPC_NOWAIT) >= 0) n--;
    EQ(n, 0);
    pid_t me = getpid();
    c = SPAWN({ ms(30); CK(state_is(me, "S")); _exit(msgctl(q, IPC_RMID, NULL) != 0); });
    ERR(msgrcv(q, &m, sizeof m.text, 0, 0), EIDRM);
    WAIT0(c);
}
TEST(permissions) {
    if (getuid()) SKIP("needs root");
    int id = OK(shmget(IPC_PRIVATE, 4096, 0600)), s = OK(semget(IPC_PRIVATE, 1, 0600)), q = OK(msgget(IPC_PRIVATE, 0600));
    pid_t c = SPAWN({
        struct msg m = {1, ""};
        if (setgid(1000) || setuid(1000)) _exit(1);
        if (shmat(id, NULL, 0) != (void *)-1 || errno != EACCES) _exit(2);
        if (!shmctl(id, IPC_RMID, NULL) || errno != EPERM) _exit(3);
        if (semval(s, 0) != -1 || errno != EACCES) _exit(4);
        if (!msgsnd(q, &m, 1, IPC_NOWAIT) || errno != EACCES) _exit(5);
    });
    WAIT0(c);
    OK(shmctl(id, IPC_RMID, NULL));
    OK(semctl(s, 0, IPC_RMID));
    OK(msgctl(q, IPC_RMID, NULL));
}
int t_child(int argc, char **argv) {
    (void)argc, (void)argv;
    // No attachment survives execve: /proc/self/maps knows of none.
    FILE *f = fopen("/proc/self/maps", "r");
    char line[500];
    int n = 0;
    while (f && fgets(line, sizeof line, f)) n += strstr(line, "SYSV") != NULL;
    return n;
}
