"""How much memory a host has, and what the kernel killed for want of it, by control groups of both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from collection_under_test import plugin

memory = plugin("module_utils.memory")
status = plugin("modules.stack_status")

FIRST, SECOND, OUTER = "a1" * 32, "b2" * 32, "c3" * 32


def kill(group: str, limit: str = "") -> str:
    """A line of the kernel's log."""
    cause = f"CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,mems_allowed=0,oom_memcg={limit}" if limit else (
        "CONSTRAINT_NONE,nodemask=(null),cpuset=x,mems_allowed=0,global_oom"
    )  # fmt: skip
    return f"[ 12.3] oom-kill:constraint={cause},task_memcg={group},task=python3,pid=7,uid=0\n"


def container(identity: str, pid: int = 0) -> dict:
    """The engine's description."""
    return {"Id": identity, "State": {"Running": bool(pid), "Pid": pid}}


@pytest.mark.parametrize(
    "group",
    [
        f"/docker/{FIRST}",
        f"/system.slice/docker-{FIRST}.scope",
        f"/docker/{OUTER}/docker/{FIRST}",
        f"/docker/{FIRST}/x",
    ],
)
def test_the_log_tells_of_kills_before_a_restart(tmp_path: Path, group: str) -> None:
    """By both drivers of control groups, in a nested engine, and of a group below the container's."""
    log = (
        "something else\n"
        + kill(group, group) * 2
        + kill(f"/docker/{SECOND}")
        + "Memory cgroup out of memory: Killed\n"
    )
    found = {"one": container(FIRST), "two": container(SECOND), "outer": container(OUTER)}
    assert memory.memory_kills(found, log, tmp_path) == {"one": 2, "two": 1, "outer": 0}


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("5:cpu,cpuacct:/docker/x\n9:memory:/docker/x\n", "memory/docker/x/memory.oom_control"),
        ("0::/system.slice/docker-x.scope\n", "system.slice/docker-x.scope/memory.events"),
    ],
)
def test_the_groups_count_is_read(tmp_path: Path, line: str, file: str) -> None:
    """Of version 1 and 2, and it counts where the log cannot be read or has lost lines."""
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/cgroup").write_text(line)
    path = tmp_path / "sys/fs/cgroup" / file
    path.parent.mkdir(parents=True)
    path.write_text("oom 5\noom_kill 3\noom_group_kill 0\n")
    assert memory.memory_kills({"one": container(FIRST, 7)}, "", tmp_path) == {"one": 3}
    assert memory.memory_kills({"one": container(FIRST, 7)}, kill(f"/docker/{FIRST}") * 4, tmp_path) == {"one": 4}


def test_a_group_that_cannot_be_seen_counts_nothing(tmp_path: Path) -> None:
    """It is outside of this process's namespace, or its container has just ended."""
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/cgroup").write_text("0::/../../x\n")
    found = {"one": container(FIRST, 7), "two": container(SECOND, 8)}
    assert memory.memory_kills(found, "", tmp_path) == {"one": 0, "two": 0}


def test_status_says_what_helps() -> None:
    """Which container, how often, its limit, and the variable."""
    line = status.kills_line("quantops-mlflow", 1, 512, "mlflow")
    assert "KILLED FOR MEMORY: quantops-mlflow, 1 process " in line
    assert "512 MiB" in line and "`memory` in mlflow_overrides" in line


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        # A machine: its first process has no limit.
        ("9:memory:/init.scope\n", {"memory/init.scope/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("0::/init.scope\n", {"init.scope/memory.max": "max"}, None),
        # A container that sees its own groups only, or those of the machine.
        ("0::/init.scope\n", {"init.scope/memory.max": "max", "memory.max": str(64 * 2**20)}, 64),
        ("9:cpu,memory:/lxc/desk/init.scope\n", {"memory/lxc/desk/memory.limit_in_bytes": str(48 * 2**20)}, 48),
        # Of several limits the smallest; one that is outside of what is seen.
        ("0::/a/b\n", {"a/memory.max": str(32 * 2**20), "a/b/memory.max": str(40 * 2**20)}, 32),
        ("0::/../a\n", {"memory.max": str(16 * 2**20)}, 16),
        ("", {}, None),
    ],
)  # fmt: skip
def test_memory_of_a_host(tmp_path: Path, groups: str, files: dict[str, str], expected: int | None) -> None:
    """All of the machine's, or what the control group of the first process allows."""
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "proc/1/cgroup").write_text(groups)
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    assert memory.host_memory_mb(tmp_path) == (expected or everything)
