"""Every container is confined as declared, healthy, and reachable only where it should be."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from stack_under_test import Stack, command

GIB, MIB = 2**30, 2**20
# Memory in bytes, cores and ports on the host: the table of the README.
SERVICES: dict[str, tuple[int, float, tuple[str, ...]]] = {
    "postgres": (512 * MIB, 0.5, ()),
    "redis": (256 * MIB, 0.5, ()),
    "minio": (512 * MIB, 0.5, ("minio", "minio_console")),
    "ibkr-gateway": (GIB, 1.0, ("ibkr_gateway",)),
    "backend": (GIB, 1.0, ("backend",)),
    "celery-worker": (512 * MIB, 0.5, ()),
    "celery-beat": (256 * MIB, 0.25, ()),
    "flower": (256 * MIB, 0.25, ("flower",)),
    "mlflow": (512 * MIB, 1.0, ("mlflow",)),
    "airflow-apiserver": (GIB, 1.0, ("airflow",)),
    "airflow-scheduler": (GIB, 1.0, ()),
    "airflow-dag-processor": (512 * MIB, 0.5, ()),
    "airflow-worker": (GIB, 1.0, ()),
    "airflow-triggerer": (512 * MIB, 0.5, ()),
}
STEPS = ("backend-migrate", "mlflow-upgrade", "airflow-init")
ALIASES = {
    "postgres": "postgres",
    "redis": "redis",
    "minio": "minio",
    "ibkr-gateway": "ibkr-gateway",
    "backend": "backend",
    "mlflow": "mlflow-server",
    "airflow-apiserver": "airflow-webserver",
}

Containers = dict[str, dict[str, Any]]


def test_nothing_is_missing_and_nothing_is_more(containers: Containers) -> None:
    """Exactly the declared services and steps."""
    assert sorted(containers) == sorted([*SERVICES, *STEPS])


@pytest.mark.parametrize("name", STEPS)
def test_steps_ended_well(containers: Containers, name: str) -> None:
    """Each step ran to its end, and is not started again by the engine."""
    state = containers[name]["State"]
    assert (state["Status"], state["ExitCode"], state["OOMKilled"]) == ("exited", 0, False)
    assert containers[name]["HostConfig"]["RestartPolicy"]["Name"] == "no"


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_healthy(containers: Containers, name: str) -> None:
    """Healthy by their own check, never restarted, never out of memory."""
    item = containers[name]
    assert item["State"]["Health"]["Status"] == "healthy", item["State"]["Health"]["Log"][-1:]
    assert item["State"]["OOMKilled"] is False
    assert item["RestartCount"] == 0
    assert item["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"


@pytest.mark.parametrize("name", [*SERVICES, *STEPS])
def test_confinement(containers: Containers, name: str) -> None:
    """No root, no capability, no way to gain one, nothing to write but what is mounted, logs that stay small."""
    item = containers[name]
    host = item["HostConfig"]
    user, _, group = item["Config"]["User"].partition(":")
    assert user.isdigit() and int(user) > 0 and group.isdigit() and int(group) > 0
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"] and not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert not host["Privileged"] and host["PidMode"] == "" and host["IpcMode"] in ("private", "shareable", "")
    assert host["Init"] is True
    assert host["PidsLimit"] > 0
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
    assert "/var/run/docker.sock" not in json.dumps(item["Mounts"])
    assert all(not mount["RW"] for mount in item["Mounts"] if mount["Type"] == "bind")


@pytest.mark.parametrize("name", SERVICES)
def test_limits(containers: Containers, name: str) -> None:
    """Memory without swap, and cores."""
    memory, cores, _ = SERVICES[name]
    host = containers[name]["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (memory, memory, cores * 1e9)


@pytest.mark.parametrize("name", SERVICES)
def test_processes_run_as_the_declared_user(stack: Stack, containers: Containers, name: str) -> None:
    """What runs, not only what is declared: no process of the container is root's."""
    user = containers[name]["Config"]["User"].partition(":")[0]
    rows = command("docker", "top", f"{stack.name}-{name}", "-eo", "uid,pid,comm").splitlines()[1:]
    assert rows and {row.split()[0] for row in rows} == {user}


def test_ports(stack: Stack, containers: Containers) -> None:
    """Published on loopback only, each service where the table says, and nothing more."""
    published = {
        name: sorted(
            (binding["HostIp"], int(binding["HostPort"]))
            for bindings in (item["NetworkSettings"]["Ports"] or {}).values()
            for binding in bindings or []
        )
        for name, item in containers.items()
    }
    expected = {
        name: sorted(("127.0.0.1", stack.port(port)) for port in ports) for name, (_, _, ports) in SERVICES.items()
    }
    assert published == expected | {name: [] for name in STEPS}


def test_network(stack: Stack, containers: Containers) -> None:
    """All on the stack's one bridge, under the names that applications of this kind expect."""
    for name in SERVICES:
        networks = containers[name]["NetworkSettings"]["Networks"]
        assert list(networks) == [stack.name]
        assert ALIASES.get(name, name) in networks[stack.name]["Aliases"]


def secret_values(stack: Stack) -> dict[str, str]:
    """Name to a text that must not be found: the value, or the longest line of one that has several."""
    values = {file.name: max(file.read_text().split(), key=len) for file in stack.secrets_dir.iterdir()}
    # Access keys are the shortest.
    assert len(values) >= 10 and all(len(value) >= 20 for value in values.values())
    return values


def test_the_engine_shows_no_secret(stack: Stack, containers: Containers) -> None:
    """`docker inspect` of a container holds no secret's value."""
    shown = json.dumps(containers)
    assert [name for name, value in secret_values(stack).items() if value in shown] == []


def test_logs_hold_no_secret(stack: Stack, containers: Containers) -> None:
    """Nor does any container's log."""
    values = secret_values(stack)
    found = [
        (container, name)
        for container in containers
        for log in [stack.log(container)]
        for name, value in values.items()
        if value in log
    ]
    assert found == []


def test_command_lines_hold_no_secret(stack: Stack) -> None:
    """Nor does the host's process list."""
    lines = command("ps", "-eo", "args", "-ww")
    assert [name for name, value in secret_values(stack).items() if value in lines] == []


def test_files_on_the_host_are_not_for_everyone(stack: Stack) -> None:
    """Configuration is readable by root and the container's group, secrets on the controller by their owner."""
    found = command("find", str(stack.config_dir), "-mindepth", "2", "-printf", "%m %y %p\n").splitlines()
    assert sum(line.split()[1] == "f" for line in found) > len(SERVICES)
    assert [line for line in found if int(line.split()[0], 8) & 0o007] == []
    modes = {stat.S_IMODE(path.stat().st_mode) for path in stack.secrets_dir.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(stack.secrets_dir.stat().st_mode) == 0o700


def test_containers_see_only_their_own_secrets(stack: Stack, containers: Containers) -> None:
    """No directory of secrets is mounted into two containers."""
    sources = [
        m["Source"] for item in containers.values() for m in item["Mounts"] if m["Destination"] == "/run/secrets"
    ]
    assert len(sources) == len(set(sources)) > 0
    assert all(Path(source).is_relative_to(stack.config_dir) for source in sources)
