"""A fourth host joins with a worker of the backend, dies with a task at hand, comes back, and leaves for good."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_under_test import STACK, groups, here, identity, on, played, rearranged, state
from stack_under_test import REPOSITORY, eventually

FOURTH, ADDRESS = "mol-cluster-fourth", "10.203.77.14"
HOSTS = ("mol-cluster-data", "mol-cluster-services", "mol-cluster-worker")
#: As the inventory of a person who adds it.
VARIABLES = {
    "ansible_connection": "community.docker.docker",
    "ansible_host": ADDRESS,
    "ansible_user": "root",
    "stack_publish_address": "127.0.0.1",
}
SEND = """
from ibkr_backend.tasks import refresh_bars
for name in ("AAPL", "MSFT", "GOOG", "IBM") * 2:
    refresh_bars.delay(name)
"""
#: Ids of the tasks that a worker is at.
AT_HAND = """
import sys
from ibkr_backend.celery_app import app
found = app.control.inspect([sys.argv[1]], timeout=5).active() or {}
print(*[task["id"] for tasks in found.values() for task in tasks if task["name"].endswith("refresh_bars")])
"""
#: Makes what workers hold as old as it is after the longest time for which one may hold it.
AGE = """
from ibkr_backend.celery_app import app
with app.connection_for_write() as connection:
    client = connection.default_channel.client
    for tag in client.zrevrangebyscore("unacked_index", "+inf", "-inf"):
        client.zadd("unacked_index", {tag: 1}, xx=True)
"""


def backend(*words: str) -> str:
    """Run Python in the container of the backend's API."""
    return on(groups()["backend"][0], "docker", "exec", f"{STACK}-backend", "python3", "-c", *words)


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inventory with the fourth host."""
    workers = {"backend_worker": [*groups()["backend_worker"], FOURTH]}
    return rearranged(tmp_path_factory.mktemp("joined") / "inventory", workers, {FOURTH: VARIABLES})


@pytest.fixture(scope="module")
def fourth() -> Iterator[str]:
    """A host with an engine, and nothing of the stack."""
    tools = REPOSITORY / "molecule" / "shared" / "test_host"
    words = ("docker", "inspect", "--format", "{{.Config.Image}}", HOSTS[-1])
    words = words if os.geteuid() == 0 else ("sudo", "--non-interactive", *words)
    image = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout.strip()
    here(str(tools / "remove"), FOURTH)
    here("docker", "volume", "create", "--label", "quantops.molecule=host", FOURTH)
    here(str(tools / "run"), FOURTH, image, "systemd", FOURTH, "", "mol-cluster", ADDRESS)
    yield FOURTH
    here(str(tools / "remove"), FOURTH)


def test_a_host_joins_and_nothing_else_is_made_anew(fourth: str, joined: Path) -> None:
    """It is given an address in the mesh, the image of its worker and the secrets of that worker, and no others."""
    before = {host: identity(host) for host in HOSTS}
    played("site", inventory=joined)
    assert {host: identity(host) for host in HOSTS} == before
    assert set(identity(fourth)) == {"celery-worker"} and state(fourth, "celery-worker") == "running"
    assert on(fourth, "ls", f"/etc/quantops/{STACK}").split() == ["celery-worker", "secrets.json"]
    said = " ".join(played("status", inventory=joined).split())
    assert f"backend@{fourth} takes tasks from backend" in said
    assert said.count(f"Mesh: {fourth} at 172.28.64.4, heard") == len(HOSTS)


def test_a_task_of_a_lost_worker_runs_again_on_another(fourth: str, joined: Path) -> None:
    """The host dies, and nobody acknowledges what its worker had taken."""
    services, worker = groups()["backend"][0], groups()["backend_worker"][0]
    # The gateway does not answer for a while, so that tasks stay at hand.
    gateway = f"docker top {STACK}-ibkr-gateway -eo pid | tail -n +2 | xargs kill -"
    on(services, "sh", "-c", gateway + "STOP")
    try:
        backend(SEND)
        taken = eventually(lambda: backend(AT_HAND, f"backend@{fourth}").split(), 60, pause=0.5)
        here("docker", "kill", fourth)
    finally:
        on(services, "sh", "-c", gateway + "CONT")
    backend(AGE)

    def done() -> set[str]:
        log = on(worker, "sh", "-c", f"docker logs {STACK}-celery-worker 2>&1")
        return {task for task in taken if f"refresh_bars[{task}] succeeded" in log}

    eventually(lambda: done() == set(taken), 300, pause=5)


def test_a_lost_host_comes_back_and_leaves_for_good(fourth: str, joined: Path) -> None:
    """Forgotten, it holds nothing of the stack; out of the inventory, the others know nothing of it."""
    before = {host: identity(host) for host in HOSTS}
    here("docker", "start", fourth)
    eventually(lambda: on(fourth, "docker", "info", "--format", "{{.ServerVersion}}", status=None).strip(), 120)
    eventually(lambda: state(fourth, "celery-worker") == "running", 120)
    eventually(lambda: f"backend@{fourth} takes tasks" in played("status", inventory=joined), 120)
    said = " ".join(played("forget", f"--limit={fourth}", inventory=joined).split())
    assert f"{fourth} holds nothing of {STACK} any more" in said
    for kind in ("container", "volume", "network"):
        assert on(fourth, "docker", kind, "ls", "--quiet", "--filter", f"label=quantops.stack={STACK}") == ""
    left = ("/etc/quantops", "/etc/wireguard", "/etc/systemd/system")
    assert on(fourth, "find", *left, "-name", f"*{STACK}*", status=None) == ""
    played("site")
    assert {host: identity(host) for host in HOSTS} == before
    for host in HOSTS:
        peers = json.dumps(on(host, "cat", f"/etc/wireguard/wg-{STACK}.peers"))
        assert FOURTH not in peers and len(on(host, "wg", "show", f"wg-{STACK}", "peers").split()) == 2
    assert FOURTH not in played("status")
