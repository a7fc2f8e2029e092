"""Takes alerts on the test host, as a mail server and as a web server, and keeps each as a line of JSON in its file.

Usage: ``receiver.py FILE``. Ports 2525 and 2580.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any


def keep(**what: Any) -> None:
    """Write down what came."""
    with Path(sys.argv[1]).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"at": time.time(), **what}) + "\n")


async def mail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speak as much SMTP as a client needs. Source: RFC 5321."""
    writer.write(b"220 desk.example\r\n")
    while line := await reader.readline():
        verb = line.strip().upper().split(b" ")[0].split(b":")[0]
        if verb == b"DATA":
            writer.write(b"354 go on\r\n")
            text = (await reader.readuntil(b"\r\n.\r\n")).decode()
            keep(kind="mail", text=text.replace("=\r\n", ""))
        writer.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 desk.example\r\n")
        await writer.drain()
        if verb == b"QUIT":
            break
    writer.close()


async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take one request with a body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _colon, value in (line.partition(": ") for line in head[1:])}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    keep(kind="web", path=head[0].split(" ")[1], token=headers.get("authorization", ""), body=json.loads(body))
    writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    await writer.drain()
    writer.close()


async def main() -> None:
    """Listen."""
    servers = [await asyncio.start_server(mail, "", 2525), await asyncio.start_server(web, "", 2580)]
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main())
