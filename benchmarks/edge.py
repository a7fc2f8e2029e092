#!/usr/bin/env python3
"""Compares MLflow through the edge with MLflow asked directly, on the host of a running stack.

Latency: clients with a connection each ask for a small page at a steady pace, directly and through the edge in turns;
the difference of the medians is what the edge adds. Throughput: an artifact is sent and fetched again, in turns too.
Memory: of Caddy and the gate, before, and the most while the artifact passes.

Runs as root on the host, as it looks up the container's address, and adds a token that it revokes at the end.

Usage: edge.py [--stack quantops] [--clients 50] [--pause 0.5] [--rounds 3] [--seconds 10] [--mib 2048] [--user admin]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import statistics
import subprocess
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass
from urllib.parse import urlsplit

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
SMALL = "/version"


def run(*words: str) -> str:
    """Run a command and return what it prints."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Way:
    """A way to MLflow: where to connect, and what to say there."""

    name: str
    scheme: str
    address: str
    port: int
    host: str
    token: str = ""

    def curl(self, path: str) -> list[str]:
        """Words of a request with curl; the token is on no command line."""
        host, _colon, port = self.host.partition(":")
        to = f"{host}:{port or 443}:{self.address}:{self.port}"
        return ["curl", "--silent", "--fail", "--insecure", "--connect-to", to, f"{self.scheme}://{self.host}{path}"]

    def header(self) -> str:
        """The header with the token."""
        return f"Authorization: Bearer {self.token}"


async def client(way: Way, until: float, pause: float, delay: float) -> list[float]:
    """Ask at a steady pace on one connection; returns the seconds of each answer."""
    context = None
    if way.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    name = way.host.partition(":")[0] if context else None
    await asyncio.sleep(delay)
    reader, writer = await asyncio.open_connection(way.address, way.port, ssl=context, server_hostname=name)
    request = f"GET {SMALL} HTTP/1.1\r\nHost: {way.host}\r\n{way.header()}\r\n\r\n".encode()
    found = []
    while time.monotonic() < until:
        begun = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise SystemExit(f"{way.name}: {head.decode()}")
        [length] = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        await reader.readexactly(int(length.partition(b":")[2]))
        took = time.perf_counter() - begun
        found.append(took)
        await asyncio.sleep(max(0, pause - took))
    writer.close()
    # The first request opens what later ones use.
    return found[1:]


async def latencies(way: Way, clients: int, seconds: float, pause: float) -> list[float]:
    """Let clients ask beside each other, spread over the pause."""
    until = time.monotonic() + seconds
    each = await asyncio.gather(*(client(way, until, pause, pause * n / clients) for n in range(clients)))
    return [took for found in each for took in found]


def pass_artifact(way: Way, file: str, size: int, send: bool) -> float:
    """Send or fetch the artifact; returns MB/s."""
    path = f"{ARTIFACTS}/{os.path.basename(file)}"
    more = ["--upload-file", file] if send else ["--output", "/dev/null"]
    begun = time.monotonic()
    subprocess.run([*way.curl(path), *more, "--header", "@-"], input=way.header(), text=True, check=True)
    return size / (time.monotonic() - begun) / 1e6


def resident(containers: list[str]) -> float:
    """Memory of the programs of containers, in MB."""
    total = 0
    for container in containers:
        for pid in run("docker", "top", container, "-o", "pid").split()[1:]:
            with open(f"/proc/{pid}/status", encoding="ascii") as status:
                total += sum(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    return total * 1024 / 1e6


class Watch(threading.Thread):
    """Notes the most memory that containers take."""

    def __init__(self, containers: list[str]) -> None:
        """Begin to look."""
        super().__init__(daemon=True)
        self.containers, self.most, self.ended = containers, 0.0, threading.Event()

    def run(self) -> None:
        """Look until the end."""
        while not self.ended.wait(0.5):
            self.most = max(self.most, resident(self.containers))


def ways(stack: str, token: str) -> tuple[Way, Way]:
    """The direct way, and the one through the edge."""
    address = run(
        "docker", "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", f"{stack}-mlflow"
    )
    gate = json.loads(run("docker", "exec", f"{stack}-edge-gate", "cat", "/run/secrets/gate.json"))
    origin = next(page["origin"] for page in gate["pages"] if page["name"] == "mlflow")
    parts = urlsplit(origin)
    # MLflow itself knows the edge, and the programs of the stack by tokens of their own.
    tokens = json.loads(run("docker", "exec", f"{stack}-mlflow", "cat", "/run/secrets/client_tokens"))
    direct = Way("direct", "http", address.strip(), 5500, "mlflow:5500", next(iter(tokens.values())))
    port = parts.port or 443
    return direct, Way("edge", parts.scheme, "127.0.0.1", port, parts.netloc, token)


def main() -> None:
    """Measure, and print a line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {
        "stack": "quantops", "user": "admin", "clients": 50, "pause": 0.5, "rounds": 3, "seconds": 10, "mib": 2048,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", default=value, type=type(value))
    options = parser.parse_args()
    gate = [f"{options.stack}-edge", f"{options.stack}-edge-gate"]
    name = f"benchmark-{uuid.uuid4().hex[:8]}"
    program = ("docker", "exec", gate[1], "edge-gate", "token")
    token = run(*program, "add", options.user, name, "1").strip()
    try:
        both = ways(options.stack, token)
        print(f"memory at rest: {resident(gate):.0f} MB")
        found: dict[str, list[float]] = {way.name: [] for way in both}
        for _round in range(options.rounds):
            for way in both:
                found[way.name] += asyncio.run(latencies(way, options.clients, options.seconds, options.pause))
        median = {key: statistics.median(value) * 1000 for key, value in found.items()}
        high = {key: statistics.quantiles(value, n=100)[94] * 1000 for key, value in found.items()}
        for key in found:
            print(f"{key}: p50 {median[key]:.1f} ms, p95 {high[key]:.1f} ms of {len(found[key])} requests")
        print(f"added: p50 {median['edge'] - median['direct']:.1f} ms, p95 {high['edge'] - high['direct']:.1f} ms")
        size = options.mib * 2**20
        with tempfile.NamedTemporaryFile(prefix="benchmark-", dir="/var/tmp") as file:
            for _part in range(options.mib):
                file.write(os.urandom(2**20))
            file.flush()
            rates: dict[tuple[str, bool], list[float]] = {}
            watch = Watch(gate)
            watch.start()
            for _round in range(options.rounds):
                for send in (True, False):
                    for way in both:
                        rate = pass_artifact(way, file.name, size, send)
                        rates.setdefault((way.name, send), []).append(rate)
            watch.ended.set()
            for send, word in ((True, "sent"), (False, "fetched")):
                direct, edge = (statistics.median(rates[way.name, send]) for way in both)
                print(f"{word}: direct {direct:.0f} MB/s, edge {edge:.0f} MB/s, {edge / direct:.0%}")
            print(f"memory at most: {watch.most:.0f} MB")
            remove = [*both[0].curl(f"{ARTIFACTS}/{os.path.basename(file.name)}"), "--request", "DELETE"]
            subprocess.run(
                [*remove, "--output", "/dev/null", "--header", "@-"], input=both[0].header(), text=True, check=True
            )
    finally:
        run(*program, "revoke", options.user, name)


if __name__ == "__main__":
    main()
