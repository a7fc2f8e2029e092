#!/usr/bin/env python3
"""Measures CPU and memory of the idle stack.

CPU of each container comes from its control group, and includes its health checks; CPU of the engine (dockerd,
containerd and its shims, with the programs that they start to run a health check) is counted apart. What the health
checks cost is measured by pausing them: the same span is measured once with and once without.

Usage: idle.py [SECONDS] [STACK]
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

TICKS = 100  # of a second, in /proc/PID/stat


def docker(*args: str) -> str:
    """Run the Docker client and return what it prints."""
    return subprocess.run(["docker", *args], check=True, capture_output=True, text=True).stdout


def containers(stack: str) -> dict[str, str]:
    """Return name and id of the stack's running containers."""
    rows = docker("ps", "--no-trunc", "--filter", f"label=quantops.stack={stack}", "--format", "{{.Names}} {{.ID}}")
    return dict(line.split() for line in rows.splitlines())


def cgroup(name: str, container: str) -> Path:
    """Find a control group's file, in version 1 or 2."""
    old, new = {
        "cpu": (f"cpuacct/docker/{container}/cpuacct.usage", "cpu.stat"),
        "memory": (f"memory/docker/{container}/memory.usage_in_bytes", "memory.current"),
    }[name]
    first = Path("/sys/fs/cgroup") / old
    return first if first.exists() else Path(f"/sys/fs/cgroup/system.slice/docker-{container}.scope/{new}")


def cpu_seconds(container: str) -> float:
    """Read the CPU seconds that a container has used."""
    text = cgroup("cpu", container).read_text()
    return int(text.split()[1]) / 1e6 if text.startswith("usage_usec") else int(text) / 1e9


def engine_seconds() -> float:
    """Read the CPU seconds of the engine and of the programs that it has started and waited for."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
        if name.startswith(("dockerd", "containerd")):
            total += sum(int(value) for value in rest[11:15])
    return total / TICKS


def main() -> None:
    """Measure and print a row a container."""
    span = float(sys.argv[1]) if len(sys.argv) > 1 else 300
    stack = sys.argv[2] if len(sys.argv) > 2 else "quantops"
    names = containers(stack)
    before, engine = {name: cpu_seconds(each) for name, each in names.items()}, engine_seconds()
    begun = time.monotonic()
    time.sleep(span)
    took = time.monotonic() - begun
    used = {name: (cpu_seconds(each) - before[name]) / took * 100 for name, each in names.items()}
    engine_used = (engine_seconds() - engine) / took * 100
    rows = [json.loads(line) for line in docker("stats", "--no-stream", "--format", "{{json .}}", *names).splitlines()]
    memory = {row["Name"]: (row["MemUsage"], float(row["MemPerc"].rstrip("%"))) for row in rows}
    for name in sorted(names):
        print(
            f"{name:<34} {used[name]:6.2f} % of a core   {memory[name][0]:>22}   {memory[name][1]:5.1f} % of its limit"
        )
    units = {"KiB": 2**-10, "MiB": 1.0, "GiB": 2.0**10}
    total = sum(
        float(usage.split("/")[0].strip()[:-3]) * units[usage.split("/")[0].strip()[-3:]]
        for usage, _ in memory.values()
    )
    print(f"{'containers together':<34} {sum(used.values()):6.2f} % of a core   {total:.0f} MiB")
    print(f"{'engine, with starting the probes':<34} {engine_used:6.2f} % of a core")
    print(f"over {took:.0f} s")


if __name__ == "__main__":
    main()
