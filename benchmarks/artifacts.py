#!/usr/bin/env python3
"""Compares artifacts sent through MLflow with ``mc cp`` to and from the same MinIO, on a running stack.

One client and then several send and get a file each: with ``mc``, from a container without limits on the stack's
network, and with ``curl``, by MLflow's artifact API. The two take turns, so that both have the same machine.
What it stored is removed at the end.

Usage: artifacts.py [--mib 512] [--clients 8] [--rounds 3] [--stack quantops] [--url http://localhost:5500]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

MIB = 2**20


def run(*words: str, **environment: str) -> str:
    """Run a command and return what it prints; values of the environment are on no command line."""
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=os.environ | environment)
    return done.stdout


def together(clients: int, work: Callable[[int], object]) -> float:
    """Let clients work at once; returns the seconds until the last one is done."""
    failed: list[BaseException] = []

    def one(number: int) -> None:
        try:
            work(number)
        except subprocess.CalledProcessError as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(clients)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise SystemExit(f"{failed[0]}: {failed[0].stderr}")
    return time.monotonic() - begun


def memory_mib(container: str) -> float:
    """Read a container's memory that the kernel cannot take back."""
    places = "cat /sys/fs/cgroup/memory/memory.stat 2> /dev/null || cat /sys/fs/cgroup/memory.stat"
    found = dict(line.split() for line in run("docker", "exec", container, "sh", "-c", places).splitlines())
    return sum(int(found.get(name, 0)) for name in ("rss", "anon", "shmem")) / MIB


def credentials(stack: str) -> tuple[str, str]:
    """Read MLflow's key of the store from its container, as its server does."""
    [found] = json.loads(run("docker", "inspect", f"{stack}-mlflow"))
    environment = dict(line.split("=", 1) for line in found["Config"]["Env"])
    words = ("docker", "exec", f"{stack}-mlflow", "sh", "-c")
    user = environment.get("AWS_ACCESS_KEY_ID") or run(*words, "cat /run/secrets/s3_access_key").strip()
    return user, run(*words, "cat /run/secrets/s3_secret").strip()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stack", default="quantops")
    parser.add_argument("--url", default="http://localhost:5500")
    given = parser.parse_args()
    user, secret = credentials(given.stack)
    place = f"benchmark-{uuid.uuid4().hex}"
    address = f"{given.url}/api/2.0/mlflow-artifacts/artifacts/{place}"
    mc = f"benchmark-mc-{uuid.uuid4().hex[:8]}"
    image = run("docker", "inspect", "--format", "{{.Config.Image}}", f"{given.stack}-minio").strip()
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        block = os.urandom(MIB)
        with Path(directory, "file").open("wb") as file:
            for _ in range(given.mib):
                file.write(block)
        run(
            *("docker", "run", "--detach", "--rm", "--name", mc, "--network", given.stack, "--env", "MC_HOST_store"),
            *("--volume", f"{directory}:/data:ro", "--tmpfs", "/tmp", "--env", "HOME=/tmp", image, "sleep", "86400"),
            MC_HOST_store=f"http://{user}:{secret}@minio:9000",
        )

        def with_mc(*words: str) -> None:
            run("docker", "exec", mc, "mc", "--quiet", *words)

        ways: dict[str, tuple[Callable[[int], object], Callable[[int], object]]] = {
            "send": (
                lambda number: with_mc("cp", "/data/file", f"store/mlflow/artifacts/{place}/mc-{number}"),
                lambda number: run(
                    "curl", "--fail", "--silent", "--show-error", "--upload-file", f"{directory}/file",
                    f"{address}/mlflow-{number}",
                ),
            ),
            "get": (
                # To nowhere, as curl's: no disk is measured. `mc cp` writes to files only.
                lambda number: run(
                    "docker", "exec", mc, "sh", "-c",
                    f"mc --quiet cat store/mlflow/artifacts/{place}/mc-{number} > /dev/null",
                ),
                lambda number: run(
                    "curl", "--fail", "--silent", "--show-error", "--output", "/dev/null", f"{address}/mlflow-{number}"
                ),
            ),
        }  # fmt: skip
        try:
            print(f"memory before: {memory_mib(f'{given.stack}-mlflow'):.0f} MiB")
            for clients in sorted({1, given.clients}):
                for name, (by_mc, by_mlflow) in ways.items():
                    times = [(together(clients, by_mc), together(clients, by_mlflow)) for _ in range(given.rounds)]
                    first, second = (statistics.median(each) for each in zip(*times, strict=True))
                    total = clients * given.mib
                    print(
                        f"{name} {clients} x {given.mib} MiB: mc {first:.1f} s ({total / first:.0f} MiB/s), "
                        f"MLflow {second:.1f} s ({total / second:.0f} MiB/s), ratio {second / first:.2f}; "
                        f"memory {memory_mib(f'{given.stack}-mlflow'):.0f} MiB",
                        flush=True,
                    )
        finally:
            with_mc("rm", "--recursive", "--force", f"store/mlflow/artifacts/{place}")
            run("docker", "rm", "--force", mc)


if __name__ == "__main__":
    main()
