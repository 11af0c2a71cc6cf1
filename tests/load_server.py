"""A server that does nothing but what a test asks for: the trivial endpoint for the generator's speed, and faults.

python load_server.py     prints its port; each prompt says how it is answered:
    "3"            three pieces, a line each, with usage
    "3 0.05"       with so many seconds before each
    "500"          HTTP 500
    "cut"          one piece, then the connection ends
    "odd"          a line that is no JSON
    "silent"       one piece, then nothing more
"""

from __future__ import annotations

import asyncio
import json

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(text: str) -> bytes:
    data = text.encode()
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(**fields: object) -> str:
    return f"data: {json.dumps(fields)}\n\n"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")), 0
            )
            body = await reader.readexactly(length)
            if head.startswith(b"GET"):
                data = json.dumps({"data": [{"id": "nothing"}]}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(data) + data)
                continue
            asked = json.loads(body)["prompt"].split()
            if asked == ["500"]:
                writer.write(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n")
                continue
            await _stream(writer, asked)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _stream(writer: asyncio.StreamWriter, asked: list[str]) -> None:
    piece = event(choices=[{"text": " a"}])
    if asked[0] in ("cut", "odd", "silent"):
        writer.write(HEAD + chunk(piece))
        if asked[0] == "odd":
            writer.write(chunk("data: {no\n\n") + b"0\r\n\r\n")
            return
        await writer.drain()
        if asked[0] == "silent":
            await asyncio.sleep(60)
        raise ConnectionError
    count, delay = int(asked[0]), float(asked[1]) if len(asked) > 1 else 0.0
    usage = event(choices=[], usage={"prompt_tokens": 1, "completion_tokens": count})
    if not delay:
        writer.write(HEAD + chunk(piece * count + usage + "data: [DONE]\n\n") + b"0\r\n\r\n")
        return
    writer.write(HEAD)
    for _ in range(count):
        await asyncio.sleep(delay)
        writer.write(chunk(piece))
    writer.write(chunk(usage + "data: [DONE]\n\n") + b"0\r\n\r\n")


async def main() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
