#!/usr/bin/env python3
"""Times GET /api/v1/bars/{symbol} of ten years with concurrent clients on loopback.

Usage: backend_bars.py --url http://127.0.0.1:8000 --token-file FILE [--symbol IBM] [--clients 20] [--requests 2000]

Each client keeps one connection and asks again as soon as it has read the whole answer. The first answer is made from
PostgreSQL; the API keeps its bytes and compares them with the database once a second. ``--cold`` asks for another
range each time, so that every answer is made from PostgreSQL.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import statistics
import time
from pathlib import Path
from urllib.parse import urlsplit


async def client(
    place: tuple[str, int], lines: list[bytes], seconds: list[float], sizes: set[int], failures: list[str]
) -> None:
    """Ask one request after the other over one connection; a raw socket leaves the client little to compute."""
    reader, writer = await asyncio.open_connection(*place)
    for line in lines:
        began = time.perf_counter()
        writer.write(line)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = head.lower().split(b"\r\n")
        length = next(int(field.split(b":")[1]) for field in fields if field.startswith(b"content-length:"))
        await reader.readexactly(length)
        seconds.append(time.perf_counter() - began)
        sizes.add(length)
        if b" 200 " not in head[:20]:
            failures.append(head[:40].decode())
    writer.close()


async def measure(options: argparse.Namespace, token: str) -> dict[str, object]:
    """Run all clients; returns the figures."""
    address = urlsplit(options.url)
    place = (address.hostname or "127.0.0.1", address.port or 80)
    last = datetime.date.fromisoformat(options.end)
    seconds: list[float] = []
    sizes: set[int] = set()
    failures: list[str] = []

    def request(n: int) -> bytes:
        start = last - datetime.timedelta(days=3652 + (n if options.cold else 0))
        return (
            f"GET /api/v1/bars/{options.symbol}?start={start}&end={last} HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Authorization: Bearer {token}\r\nAccept-Encoding: {options.encoding}\r\n\r\n"
        ).encode()

    await client(place, [request(0)] * 3, [], set(), failures)
    each = options.requests // options.clients
    began = time.perf_counter()
    await asyncio.gather(
        *(
            client(place, [request(c * each + n) for n in range(each)], seconds, sizes, failures)
            for c in range(options.clients)
        )
    )
    took = time.perf_counter() - began
    cuts = statistics.quantiles(seconds, n=100)
    return {
        "requests": len(seconds),
        "clients": options.clients,
        "failures": len(failures),
        "bytes": sorted(sizes)[-1],
        "per_second": round(len(seconds) / took),
        "p50_ms": round(cuts[49] * 1000, 1),
        "p95_ms": round(cuts[94] * 1000, 1),
        "p99_ms": round(cuts[98] * 1000, 1),
        "longest_ms": round(max(seconds) * 1000, 1),
    }


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--token-file", type=Path, required=True)
    parser.add_argument("--symbol", default="IBM")
    parser.add_argument("--end", default="2013-03-01")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--encoding", default="gzip", choices=["gzip", "identity"])
    parser.add_argument("--cold", action="store_true")
    options = parser.parse_args()
    print(json.dumps(asyncio.run(measure(options, options.token_file.read_text().strip())), indent=2))


if __name__ == "__main__":
    main()
