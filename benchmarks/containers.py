#!/usr/bin/env python3
"""Measures how long 17 containers take to be made by a loop over docker_container and by one call of container_apply.

Both make the same small containers, of the newest image quantops/base on this machine, in a network of their own that
is removed at the end. Time and processor time are those of the whole `ansible-playbook`, its modules included; the
engine's own work, the same on both sides, counts for the time alone. Four rows a round: no containers (what Ansible
needs anyway), both ways from nothing, and the module again with nothing to do.

Usage: containers.py [ROUNDS] [CONTAINERS]
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STACK = "bench-containers"


def docker(*words: str) -> list[str]:
    """Run Docker's client and return the words that it prints."""
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout.split()


def declared(count: int, image: str) -> list[dict[str, Any]]:
    """Declare small services, each with a volume."""
    return [
        {
            "name": f"service-{number}",
            "image": image,
            "user": "10001:10001",
            "command": ["sleep", "3600"],
            "environment": {"NUMBER": number},
            "volumes": [{"name": f"data-{number}", "path": "/data"}],
            "memory": "32m",
            "cpus": 0.1,
            "health": {"test": ["CMD", "true"]},
            "stop_timeout": 1,
        }
        for number in range(count)
    ]


def measure(way: str, containers: list[dict[str, Any]]) -> tuple[float, float]:
    """Run the playbook and return its seconds and its processor time."""
    settings = {
        "stack": STACK, "network": STACK, "config_dir": "/nowhere", "publish_address": "127.0.0.1",
        "health_interval": 60, "log_size": "1m", "log_files": 1,
    }  # fmt: skip
    variables = json.dumps({"way": way, "declared": containers, "settings": settings})
    words = [str(ROOT / ".venv/bin/ansible-playbook"), "benchmarks/containers.yml", "-e", variables]
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    took, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def remove() -> None:
    """Remove the containers and their volumes."""
    for kind, more in (("container", ["--force"]), ("volume", [])):
        every = ["--all"] if kind == "container" else []
        found = docker(kind, "ls", "--quiet", *every, "--filter", f"label=quantops.stack={STACK}")
        if found:
            docker(kind, "rm", *more, *found)


def main() -> None:
    """Entry point."""
    rounds, count = (int(word) for word in [*sys.argv[1:], *("3", "17")[len(sys.argv) - 1 :]])
    [image, *_] = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "quantops/base") or sys.exit(
        "There is no image quantops/base on this machine: run `make up` first."
    )
    containers = declared(count, image)
    docker("network", "create", STACK)
    try:
        for number in range(1, rounds + 1):
            for label, way, some in (
                ("no containers", "module", []),
                ("loop of docker_container", "loop", containers),
                ("container_apply", "module", containers),
                ("container_apply, nothing to do", "module", containers),
            ):
                if some and not label.endswith("to do"):
                    remove()
                took, used = measure(way, some)
                load = os.getloadavg()[0]
                print(
                    f"{number}  {label:32} {took:6.1f} s  {used:6.1f} s of processor time  load {load:.0f}", flush=True
                )
    finally:
        remove()
        docker("network", "rm", STACK)


if __name__ == "__main__":
    main()
