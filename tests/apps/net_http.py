"""A small web server on asyncio's streams: hello, and what it gets back."""
import asyncio


async def serve(reader, writer):
    try:
        while line := await reader.readline():
            method = line.split(b" ")[0]
            length = 0
            while (header := await reader.readline()).strip():
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
                elif name.lower() == b"expect":
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(length) if method == b"POST" else b"asyncio here\n"
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", 8082, backlog=200)
    await server.serve_forever()


asyncio.run(main())
