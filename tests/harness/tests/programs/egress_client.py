"""Tries what the arguments say, one after another, and prints a line each: how it went."""
import errno
import os
import socket
import ssl
import struct
import sys
import time


def connect(host, port):
    return socket.create_connection((host, int(port)), 8)


def finish(s):
    return (s.recv(100) or b"end").decode()


def tcp(host, port):
    s = connect(host, port)
    s.sendall(b"plain words")
    return finish(s)


def hello(name):
    out = ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname = False
    try:
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name or None).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


def tls(host, port, name=""):
    s = connect(host, port)
    data = hello(name)
    # In two parts, as a network may have it.
    s.sendall(data[:60])
    time.sleep(0.2)
    s.sendall(data[60:])
    return finish(s)


def query(name):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"


def resolve(server, name):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(8)
    s.connect((server, 53))
    s.send(query(name))
    return socket.inet_ntoa(s.recv(512)[-4:])


def resolvetcp(server, name):
    s = connect(server, 53)
    q = query(name)
    s.sendall(len(q).to_bytes(2, "big") + q)
    return socket.inet_ntoa(s.recv(512)[-4:])


def udp(host, port, word):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(8)
    s.sendto(word.encode(), (host, int(port)))
    return s.recv(100).decode()


def datagram(port, word):
    return struct.pack(">HHHH", 4444, int(port), 8 + len(word), 0) + word.encode()


def packet(host, port, word):
    body = datagram(port, word)
    own = socket.gethostbyname(os.environ["OWN"])
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 7, 0, 64, 17, 0, socket.inet_aton(own), socket.inet_aton(host))
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack(">H", ~total & 0xFFFF) + head[12:] + body


def sent():
    # What is sent next, on another CPU of the host, could overtake it.
    time.sleep(0.1)
    return "sent"


def rawudp(host, port, word):
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    s.sendto(datagram(port, word), (host, 0))
    return sent()


def hdrincl(host, port, word):
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    s.sendto(packet(host, port, word), (host, 0))
    return sent()


def frame(host, port, word):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0800)
    s.bind(("eth0", 0x0800))
    s.send(b"\xff" * 6 + s.getsockname()[4] + b"\x08\x00" + packet(host, port, word))
    return sent()


def ping(host):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    s.settimeout(8)
    s.sendto(b"\x08\0\0\0\0\0\0\1" + b"x" * 32, (host, 0))
    return "answered" if s.recv(100) else "?"


def bulk(host, port, count):
    s = connect(host, port)
    start = time.monotonic()
    s.sendall(bytes(int(count)))
    s.shutdown(socket.SHUT_WR)
    while s.recv(100):
        pass
    return "%.2f" % (time.monotonic() - start)


def hold(host, port, flag):
    """Keeps a connection until a file is there, and goes on then."""
    s = connect(host, port)
    s.sendall(b"begin")
    s.recv(100)
    print("held", flush=True)
    while not os.path.exists(flag):
        time.sleep(0.05)
    for _ in range(100):
        s.sendall(b"more")
        time.sleep(0.05)
    return "went on"


def idle():
    time.sleep(1000)


def inside():
    s = socket.create_server(("127.0.0.1", 0))
    return "inside" if connect(*s.getsockname()) else "?"


for what in sys.argv[1:]:
    name, *rest = what.split()
    try:
        print(globals()[name](*rest), flush=True)
    except TimeoutError as e:
        print("timeout" if e.errno is None else errno.errorcode[e.errno], flush=True)
    except OSError as e:
        print(errno.errorcode.get(e.errno, repr(e)), flush=True)
