"""Servers of Python's library, and clients: asyncio over TCP and UDP, threads, selectors, http.server, TLS-less SMTP."""
import asyncio
import http.server
import selectors
import socket
import socketserver
import threading
import urllib.request


async def tcp_and_udp():
    async def serve(reader, writer):
        while data := await reader.read(1000):
            writer.write(data[::-1])
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def client(n):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for i in range(20):
            text = f"{n}:{i}".encode()
            writer.write(text)
            assert (await reader.readexactly(len(text)))[::-1] == text
        writer.close()
        await writer.wait_closed()
        return n

    print("asyncio tcp", sum(await asyncio.gather(*(client(n) for n in range(100)))))
    big = bytes(range(256)) * 8000
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = bytearray()

    async def collect():
        while len(got) < len(big):
            got.extend(await reader.read(65536))

    task = asyncio.create_task(collect())
    writer.write(big)
    await writer.drain()
    await task
    print("asyncio large", len(got), sum(got) == sum(big))
    writer.close()
    server.close()

    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, addr):
            self.transport.sendto(data.upper(), addr)

    class Ask(asyncio.DatagramProtocol):
        def __init__(self):
            self.answer = asyncio.get_running_loop().create_future()

        def datagram_received(self, data, addr):
            self.answer.set_result(data)

    loop = asyncio.get_running_loop()
    there, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    here, ask = await loop.create_datagram_endpoint(Ask, remote_addr=there.get_extra_info("sockname"))
    here.sendto(b"datagram")
    print("asyncio udp", await asyncio.wait_for(ask.answer, 10))
    there.close()
    here.close()
    try:
        await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        print("refused")


def threads():
    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                self.wfile.write(line.upper())

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        request_queue_size = 50

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def client(n, out):
            with socket.create_connection(server.server_address) as s, s.makefile("rw") as f:
                for i in range(50):
                    f.write(f"line {n} {i}\n")
                    f.flush()
                    assert f.readline() == f"LINE {n} {i}\n"
            out.append(n)

        done = []
        clients = [threading.Thread(target=client, args=(n, done)) for n in range(20)]
        for t in clients:
            t.start()
        for t in clients:
            t.join()
        print("threads", sum(done))
        server.shutdown()


def selected():
    for kind in (selectors.EpollSelector, selectors.PollSelector, selectors.SelectSelector):
        with kind() as sel:
            listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
            listener.setblocking(False)
            sel.register(listener, selectors.EVENT_READ)
            c = socket.socket(socket.AF_INET6)
            c.setblocking(False)
            c.connect_ex(listener.getsockname())
            sel.register(c, selectors.EVENT_WRITE)
            seen = set()
            while len(seen) < 2:
                for key, _ in sel.select(10):
                    if key.fileobj is listener:
                        s, _ = listener.accept()
                        seen.add("accepted")
                        sel.unregister(listener)
                    else:
                        seen.add("connected")
                        sel.unregister(c)
            s.sendall(b"x")
            sel.register(c, selectors.EVENT_READ)
            assert sel.select(10)
            print(kind.__name__, sorted(seen), c.recv(9))
            for one in (s, c, listener):
                one.close()


def web():
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            data = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://localhost:{server.server_address[1]}/"
        for size in (0, 1, 70_000, 3_000_000):
            data = b"z" * size
            with urllib.request.urlopen(url, data=data) as answer:
                print("http", answer.status, answer.read() == data)
        server.shutdown()


asyncio.run(tcp_and_udp())
threads()
selected()
web()
print(socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM))
