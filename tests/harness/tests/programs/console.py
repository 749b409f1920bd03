# An engine's side of the console-socket protocol: takes the master of a pty that comes over a unix socket (PATH), shows what
# is on it on standard output, and does what the lines on standard input say. Its end closes the master.
#   console.py PATH     "k HEX" types these bytes, "s ROWS COLS" sets the size
import fcntl, os, select, socket, struct, sys, termios

s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(1)
os.write(1, b"listening\n")
c, _ = s.accept()
name, fds, _, _ = socket.recv_fds(c, 4096, 4)
if not name or len(fds) != 1:
    sys.exit(f"one descriptor and its name were to come, not {name!r} and {len(fds)}")
master = fds[0]
rows, columns = struct.unpack("HHHH", fcntl.ioctl(master, termios.TIOCGWINSZ, bytes(8)))[:2]
os.write(1, b"master %d %d\n" % (rows, columns))
orders = b""
while True:
    ready = select.select([0, master], [], [])[0]
    if 0 in ready:
        more = os.read(0, 4096)
        if not more:
            sys.exit(0)
        orders += more
        *lines, orders = orders.split(b"\n")
        for line in lines:
            order, *rest = line.split()
            if order == b"k":
                os.write(master, bytes.fromhex(rest[0].decode()))
            else:
                fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", int(rest[0]), int(rest[1]), 0, 0))
    if master in ready:
        try:
            shown = os.read(master, 4096)
        except OSError:
            shown = b""
        if not shown:
            sys.exit(0)
        os.write(1, shown)
