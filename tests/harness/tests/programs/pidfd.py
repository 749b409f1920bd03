"""An engine that is given a pidfd: listens on argv[1], and once the descriptor has come, prints the message that came with it
and the pid it stands for. Then, for every line of input (a signal's number), sends that signal through it."""

import array
import os
import signal
import socket
import sys

server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
server.bind(sys.argv[1])
server.listen(1)
print("listening", flush=True)
connection, _ = server.accept()
fds = array.array("i")
message, ancillary, _, _ = connection.recvmsg(64, socket.CMSG_SPACE(fds.itemsize))
for level, kind, data in ancillary:
    if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
        fds.frombytes(data)
with open(f"/proc/self/fdinfo/{fds[0]}") as info:
    pid = next(line.split()[1] for line in info if line.startswith("Pid:"))
print(message.decode(), pid, flush=True)
for line in sys.stdin:
    signal.pidfd_send_signal(fds[0], int(line))
    print("sent", flush=True)
