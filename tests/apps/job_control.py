# bash's job control under a pty: background, stop, continue, foreground, interrupt.
import os, pty, re, select, signal, sys, time

pid, fd = pty.fork()
if pid == 0:
    os.environ["PS1"] = "@@ "
    os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])

buf = b""


def until(pattern, limit=20):
    global buf
    end = time.time() + limit
    while True:
        m = re.search(pattern, buf)
        if m:
            got, buf = buf[: m.end()], buf[m.end():]
            return got.decode()
        left = end - time.time()
        if left <= 0:
            print("no", pattern, "in", buf)
            sys.exit(1)
        if select.select([fd], [], [], left)[0]:
            try:
                buf += os.read(fd, 4096)
            except OSError:
                print("closed early", buf)
                sys.exit(1)


def show(s):
    s = re.sub(r"\x1b\[\?2004[hl]", "", s).replace("\r", "")
    print(re.sub(r"(\[\d+\][+-]?) \d+", r"\1 PID", s), end="")


def do(line, after=rb"@@ "):
    os.write(fd, line.encode() + b"\n")
    show(until(after))


def wait_running(name):
    "Until a process of that name is the terminal's foreground group."
    for _ in range(1000):
        try:
            g = os.tcgetpgrp(fd)
            if open(f"/proc/{g}/comm").read().strip() == name:
                return
        except (OSError, FileNotFoundError):
            pass
        time.sleep(0.01)
    print("never in the foreground:", name)
    sys.exit(1)


show(until(rb"@@ "))
do("sleep 100 &")
do("jobs")
os.write(fd, b"fg %1\n")
wait_running("sleep")
os.write(fd, b"\x1a")
show(until(rb"Stopped.*\n"))
show(until(rb"@@ "))
do("bg %1")
do("jobs")
do("kill %1; wait %1; echo status $?")
os.write(fd, b"sleep 200\n")
wait_running("sleep")
os.write(fd, b"\x03")
show(until(rb"@@ "))
do("echo after $?")
do("stty -echo; echo quiet")
do("sh -c 'kill -STOP $$; echo resumed' ; echo st $?")
do("fg")
do("exit 3", rb"exit\r?\n")
print("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
