"""What a guest under an egress policy talks to: a name server, servers that wait for a client's first words, and a log of
datagrams (the file argv[2]). All at the address argv[1]; names that end in `.test` are at that address, too."""
import socket
import sys
import threading

ADDRESS, LOG = sys.argv[1], sys.argv[2]


def answer(query):
    at, name = 12, []
    while query[at]:
        name.append(query[at + 1:at + 1 + query[at]].decode())
        at += 1 + query[at]
    question = query[12:at + 5]
    known = name[-1] == "test" and query[at + 1:at + 3] == b"\0\1"
    head = query[:2] + (b"\x81\x80" if name[-1] == "test" else b"\x81\x83") + b"\0\1\0" + bytes([known]) + b"\0\0\0\0"
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x09\0\4" + socket.inet_aton(ADDRESS) if known else b""
    return head + question + record


def names_udp(s):
    while True:
        query, who = s.recvfrom(512)
        s.sendto(answer(query), who)


def names_tcp(s):
    while True:
        c, _ = s.accept()
        size = int.from_bytes(c.recv(2), "big")
        reply = answer(c.recv(size))
        c.sendall(len(reply).to_bytes(2, "big") + reply)
        c.close()


def serve(c):
    try:
        data = c.recv(1 << 16)
        # Of TLS the whole first record, before anything is said.
        while data[:1] == b"\x16" and len(data) < 5 + int.from_bytes(data[3:5], "big"):
            more = c.recv(1 << 16)
            data = data + more if more else b""
        if data:
            c.sendall(b"served")
        while c.recv(1 << 16):
            pass
    except OSError:
        pass
    c.close()


def streams(s):
    while True:
        c, _ = s.accept()
        threading.Thread(target=serve, args=(c,), daemon=True).start()


def log(s):
    while True:
        data, who = s.recvfrom(2048)
        with open(LOG, "ab", buffering=0) as f:
            f.write(data + b"\n")
        s.sendto(b"heard", who)


def start(kind, port, work):
    s = socket.socket(socket.AF_INET6, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("::", port))
    if kind == socket.SOCK_STREAM:
        s.listen(16)
    threading.Thread(target=work, args=(s,), daemon=True).start()


start(socket.SOCK_DGRAM, 53, names_udp)
start(socket.SOCK_STREAM, 53, names_tcp)
for port in (80, 443, 8443):
    start(socket.SOCK_STREAM, port, streams)
for port in (9000, 9001):
    start(socket.SOCK_DGRAM, port, log)
print("ready", flush=True)
sys.stdin.read()
