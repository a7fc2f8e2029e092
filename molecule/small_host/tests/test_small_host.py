"""The whole stack on a computer with 8 GB, as `make configure` and `make up` leave it after a training."""

from __future__ import annotations

import json
import subprocess

HOST = "mol-small_host"
STACK = "quantops"


def on_host(*words: str) -> str:
    """Run a command on the test host and return what it prints."""
    return subprocess.run(("docker", "exec", HOST, *words), check=True, capture_output=True, text=True).stdout


def test_everything_runs_within_the_memory_of_the_host() -> None:
    """All services, healthy, with limits that fit together; nothing was killed for want of memory."""
    names = on_host("docker", "ps", "--filter", f"label=quantops.stack={STACK}", "--format", "{{.Names}}").split()
    found = json.loads(on_host("docker", "inspect", *names))
    assert len(found) == 14
    assert {each["Name"]: each["State"]["Health"]["Status"] for each in found} == {
        each["Name"]: "healthy" for each in found
    }
    assert sum(each["HostConfig"]["Memory"] for each in found) <= 6.1 * 2**30
    assert {each["Name"]: each["RestartCount"] for each in found if each["RestartCount"]} == {}


def test_the_kernel_counts_it_as_one_computer() -> None:
    """The containers are in the host's control group, which has never had to do without what it asked for."""
    [item] = json.loads(subprocess.run(("docker", "inspect", HOST), check=True, capture_output=True, text=True).stdout)
    assert item["HostConfig"]["Memory"] == 7700 * 2**20
    pid = on_host("docker", "inspect", "--format", "{{.State.Pid}}", f"{STACK}-airflow-worker").strip()
    group = on_host("cat", f"/proc/{pid}/cgroup")
    assert all(item["Id"] in line for line in group.splitlines() if ":memory:" in line or line.startswith("0::/docker"))
    assert item["Id"] in group
    status = on_host("make", "--directory=/root/ibkr_stack", "--silent", "status", "INVENTORY=inventories/laptop")
    assert "airflow-worker" in status and "KILLED FOR MEMORY" not in status


def test_make_configure_saw_the_computer() -> None:
    """It chose limits for 8 GB, and wrote what it saw."""
    settings = on_host("cat", "/root/ibkr_stack/inventories/laptop/group_vars/all.yml")
    assert "7.5 GiB of memory" in settings and "airflow-worker: {memory: 768m}" in settings
