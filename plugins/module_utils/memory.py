# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How much memory a host has, and which processes of its containers the kernel killed for want of it.

The engine's own ``State.OOMKilled`` is false when a process other than the first was killed, and after a restart.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

# The last container's id in the control group of the killed process: a container may be inside of another one.
KILL = re.compile(r"oom-kill:\S*constraint=.*\btask_memcg=\S*([0-9a-f]{64})\S*?,task=")
COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def host_memory_mb(root: Path = Path("/")) -> int:
    """Read how much memory the host has.

    A host that is a container itself, such as one of LXC, sees all of the machine's memory and may use as much as the
    control group of its first process allows.

    Args:
        root: Where ``proc`` and ``sys`` are.

    Returns:
        MiB.
    """
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    files = {1: "memory.limit_in_bytes", 2: "memory.max"}
    try:
        for version, top, directory in memory_groups(1, root):
            for each in (directory, *directory.parents):
                path = each / files[version]
                if ".." not in path.parts and path.exists():
                    limit = path.read_text().strip()
                    found += [int(limit)] if limit.isdigit() else []
                if each == top:
                    break
    except OSError:
        pass  # no control groups, or none that can be seen
    return min(found) // 2**20


def memory_groups(pid: int, root: Path) -> Iterator[tuple[int, Path, Path]]:
    """Find the control groups that count the memory of a process.

    Args:
        pid: The process.
        root: Where ``proc`` and ``sys`` are.

    Yields:
        Version of control groups, the directory of their hierarchy, and that of the process's own.
    """
    for line in (root / f"proc/{pid}/cgroup").read_text().splitlines():
        _number, controllers, group = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
            yield 1 if controllers else 2, top, top / group.lstrip("/")


def kernel_log() -> str:
    """Read the kernel's log since the host started, or nothing where that is not allowed."""
    try:
        done = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace", check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def group_kills(pid: int, root: Path = Path("/")) -> int:
    """Read the kernel's count of a running container, which begins with each start of it.

    Args:
        pid: The container's first process.
        root: Where ``proc`` and ``sys`` are.

    Returns:
        How many of its processes were killed; 0 if its control group cannot be seen.
    """
    files = {1: "memory.oom_control", 2: "memory.events"}
    try:
        for version, _top, directory in memory_groups(pid, root):
            path = directory / files[version]
            if ".." not in path.parts and path.exists() and (found := COUNT.search(path.read_text())):
                return int(found[1])
    except OSError:
        pass  # the container ended in the meantime
    return 0


def memory_kills(found: dict[str, dict], log: str, root: Path = Path("/")) -> dict[str, int]:
    """Count the processes of containers that the kernel killed for want of memory.

    Args:
        found: The engine's descriptions of the containers, by name.
        log: The kernel's log: it knows of kills before a container's last start too, but is a ring of limited size.
        root: Where ``proc`` and ``sys`` are.

    Returns:
        Name to the larger of both counts.
    """
    logged = KILL.findall(log)
    return {
        name: max(logged.count(item["Id"]), group_kills(item["State"]["Pid"], root) if item["State"]["Running"] else 0)
        for name, item in found.items()
    }
