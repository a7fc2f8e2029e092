"""`container_apply` on a real engine: the container that the library makes, and what each kind of drift costs."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stack_under_test import ansible_command, command, play


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


NAME = f"apply-{os.getpid()}"
CONTAINER: dict[str, Any] = {
    "user": "10001:10002",
    "command": ["sleep", "600"],
    "memory": "32m",
    "cpus": 0.25,
    "stop_timeout": 1,
    "volumes": [{"name": "data", "path": "/data"}],
    "health": {"test": ["CMD-SHELL", "test -d /data"], "timeout": 3, "retries": 2, "start_period": 7},
}
# Every key that a declaration may have, the least that it needs, and a job.
ALL = {
    "full": CONTAINER
    | {
        "entrypoint": ["/usr/bin/env", "--"],
        "working_dir": "/tmp",
        "environment": {"A": 1, "WITH_EQUALS": "x=y", "EMPTY": ""},
        "tmpfs": {"/run/full": "1m"},
        "ports": [
            {"host": free_port(), "container": 80},
            {"host": free_port(), "container": 81, "address": "127.0.0.2"},
        ],
        "binds": [{"source": "/usr/share", "path": "/host"}],
        "pids": 20,
        "shm_size": "8m",
        "cpu_shares": 512,
        "aliases": ["another"],
        "capabilities": ["NET_BIND_SERVICE"],
        "stop_signal": "SIGINT",
        "prevent_recreate": True,
    },
    "bare": {key: CONTAINER[key] for key in ("user", "command", "memory", "cpus", "health")} | {"stop_timeout": 1},
    "job": {key: CONTAINER[key] for key in ("user", "memory", "cpus")} | {"kind": "job", "command": ["true"]},
}
#: What the two may differ in. The names of twins, and `Attach…`: the library sets what `docker run` without `--detach`
#: sets, which only a client that attaches at once would notice. Two labels are new.
DIFFERENT = {"Name", "Config.AttachStdout", "Config.AttachStderr", "Config.Labels.quantops.kind"}
#: Of each container, for itself: times, places of its files, addresses.
OWN = ("Id", "Created", "State", "GraphDriver", "NetworkSettings", "LogPath")
OWN_PATHS = ("ResolvConfPath", "HostnamePath", "HostsPath")
Apply = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def image() -> str:
    """The image that all others stand on."""
    return command("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "quantops/base").split()[0]


@pytest.fixture(scope="module")
def network() -> Iterator[str]:
    """A network, which goes at the end with all that was made for it."""
    command("docker", "network", "create", NAME)
    try:
        yield NAME
    finally:
        for kind in ("container", "volume"):
            every = ["--all"] if kind == "container" else []
            found = command("docker", kind, "ls", "--quiet", *every, "--filter", f"label=quantops.stack={NAME}").split()
            if found:
                command("docker", kind, "rm", "--force", *found)
        command("docker", "network", "rm", NAME)


def settings(stack: str) -> dict[str, Any]:
    """What a stack's containers have in common."""
    return {
        "stack": stack, "network": NAME, "config_dir": "/etc/quantops/apply", "publish_address": "127.0.0.1",
        "health_interval": 60, "log_size": "1m", "log_files": 2,
    }  # fmt: skip


def inspected(*names: str) -> list[dict[str, Any]]:
    """The engine's descriptions."""
    return json.loads(command("docker", "inspect", *names))


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and values in a description."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def comparable(item: dict[str, Any]) -> dict[str, Any]:
    """What of a description can be the same for two containers."""
    left = {key: value for key, value in item.items() if key not in (*OWN, *OWN_PATHS)}
    left["Mounts"] = sorted(item["Mounts"], key=lambda mount: mount["Destination"])  # the engine's order is chance
    networks = item["NetworkSettings"]["Networks"]
    left["Aliases"] = {
        name: sorted(set(endpoint["Aliases"]) - {item["Id"][:12]}) for name, endpoint in networks.items()
    }
    return dict(flat(left))


def test_the_container_that_the_library_makes(image: str, network: str) -> None:
    """Of the same plans, `docker_container` makes the same containers, but for what is named here."""
    declared = [{"name": name, "image": image, **container} for name, container in ALL.items()]
    for way in ("module", "loop"):
        variables = {"declared": declared, "settings": settings(NAME), "way": way}
        play("benchmarks/containers.yml", "-e", json.dumps(variables), inventory="inventories/local")
        names = [f"{NAME}-{name}" for name in ALL]
        if way == "module":
            made = dict(zip(ALL, inspected(*names), strict=True))
            volume = inspected(f"{NAME}-data")[0]
            assert volume["Labels"] == {"quantops.stack": NAME}
            command("docker", "rm", "--force", *names)
            command("docker", "volume", "rm", f"{NAME}-data")
    different = {}
    for name, item in zip(ALL, inspected(*names), strict=True):
        one, other = comparable(made[name]), comparable(item)
        different |= {
            key: (one.get(key), other.get(key)) for key in one.keys() | other.keys() if one.get(key) != other.get(key)
        }
    assert {key: pair for key, pair in different.items() if key not in DIFFERENT} == {}
    limits, stop_signal = made["full"]["HostConfig"], made["full"]["Config"]["StopSignal"]
    assert (limits["NanoCpus"], limits["CpuShares"], stop_signal) == (250_000_000, 512, "SIGINT")
    assert inspected(f"{NAME}-data")[0]["Labels"] == volume["Labels"]
    command("docker", "rm", "--force", *names)


@pytest.fixture
def apply(image: str, network: str, tmp_path: Path) -> Apply:
    """Applies plans of containers, by their names, and returns what was done to each."""

    def applied(**declared: dict[str, Any]) -> dict[str, str]:
        containers = [{"name": name, "image": image, **container} for name, container in declared.items()]
        variables = tmp_path / "variables.json"
        variables.write_text(json.dumps({"declared": containers, "settings": settings(NAME)}))
        plans = "{{ declared | quantops.ibkr_stack.container_plan(settings) | quantops.ibkr_stack.public_plan }}"
        arguments = json.dumps({"containers": plans, "labels": {"quantops.stack": NAME}})
        said = ansible_command(
            "localhost", "--inventory", "inventories/local", "--become", "--extra-vars", f"@{variables}",
            "--module-name", "quantops.ibkr_stack.container_apply", "--args", arguments,
        )  # fmt: skip
        found = json.loads(said[re.search(r"=> ", said).end() :])  # type: ignore[union-attr]
        return {change["name"].removeprefix(f"{NAME}-"): change["action"] for change in found["changes"]}

    return applied


def test_each_container_gets_the_least_that_it_needs(apply: Apply) -> None:
    """Ids and starts tell a new container, a restart, and one that went on."""
    wave = {name: dict(CONTAINER) for name in ("steady", "limits", "stopped", "paused", "alone", "changed", "gone")}
    assert apply(**wave) == dict.fromkeys(wave, "create")
    names = [f"{NAME}-{name}" for name in wave]
    before = dict(zip(wave, inspected(*names), strict=True))
    command("docker", "exec", "--user=0", f"{NAME}-gone", "sh", "-c", "echo kept > /data/file")
    command("docker", "update", "--memory=64m", "--memory-swap=64m", "--cpus=0.5", "--restart=no", f"{NAME}-limits")
    command("docker", "stop", f"{NAME}-stopped")
    command("docker", "pause", f"{NAME}-paused")
    command("docker", "network", "disconnect", NAME, f"{NAME}-alone")
    command("docker", "rm", "--force", f"{NAME}-gone")
    wave["changed"]["environment"] = {"B": "new"}
    assert apply(**wave) == {
        "limits": "update", "stopped": "start", "paused": "unpause", "alone": "connect", "changed": "recreate",
        "gone": "create",
    }  # fmt: skip
    after = dict(zip(wave, inspected(*names), strict=True))
    assert all(item["State"]["Status"] == "running" for item in after.values())
    assert {name for name in wave if after[name]["Id"] != before[name]["Id"]} == {"changed", "gone"}
    assert {name for name in wave if after[name]["State"]["StartedAt"] != before[name]["State"]["StartedAt"]} == {
        "changed", "gone", "stopped",
    }  # fmt: skip
    limits, wanted = after["limits"]["HostConfig"], before["limits"]["HostConfig"]
    assert [limits[key] for key in ("Memory", "MemorySwap", "NanoCpus", "RestartPolicy")] == [
        wanted[key] for key in ("Memory", "MemorySwap", "NanoCpus", "RestartPolicy")
    ]
    assert "alone" in after["alone"]["NetworkSettings"]["Networks"][NAME]["Aliases"]
    assert command("docker", "exec", f"{NAME}-gone", "cat", "/data/file") == "kept\n"
    assert apply(**wave) == {}
