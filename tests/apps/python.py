# 200 workers over pipes, collected with a selector.
import os, selectors, sys

sel = selectors.DefaultSelector()
pids, out = {}, {}
for i in range(200):
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(r)
        os.write(w, f"worker {i} {sum(k * i for k in range(500))}\n".encode())
        os._exit(i % 11)
    os.close(w)
    pids[pid] = i
    out[i] = b""
    sel.register(r, selectors.EVENT_READ, i)
left = 200
while left:
    for key, _ in sel.select():
        data = os.read(key.fd, 4096)
        if data:
            out[key.data] += data
        else:
            sel.unregister(key.fd)
            os.close(key.fd)
            left -= 1
codes = {}
while pids:
    pid, st = os.wait()
    codes[pids.pop(pid)] = os.waitstatus_to_exitcode(st)
for i in range(200):
    sys.stdout.write(out[i].decode() + f"exit {codes[i]}\n")
