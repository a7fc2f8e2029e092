"""Sweeps over everything that the stack left on the host: output, sockets, processes, images, files."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from stack_under_test import HOST, Stack, command, eventually, play
from test_containers import SERVICES, secret_values

Containers = dict[str, dict[str, Any]]
# Ports on which the programs of a container listen, loopback included; a container that is not here listens nowhere.
LISTENING: dict[str, set[int]] = {
    "postgres": {5432},
    "redis": {6379},
    "minio": {9000, 9001},
    "ibkr-gateway": {5055},
    "backend": {8000},
    "flower": {5555},
    "mlflow": {5500},
    "airflow-apiserver": {8080},
    # Its health check.
    "airflow-scheduler": {8974},
}
# Values that a program takes from nowhere but a place that the engine shows, each with its reason: none.
SHOWN_BY_THE_ENGINE: dict[str, str] = {}
# What a build needs and a running image does not.
LEFT_OVERS = """
for tool in gcc g++ cc c++ clang ld as make cmake go rustc cargo javac pip pip3 uv git curl-config apt-key; do
    found=$(command -v "$tool") && echo "tool $found"
done
for place in /var/lib/apt/lists /var/cache/apt/archives /root/.cache /root/go /go/pkg /usr/src /usr/local/src; do
    find "$place" -type f ! -name lock 2> /dev/null | head -3 | sed 's/^/file /'
done
find / -xdev \\( -path /proc -o -path /sys -o -path /run -o -path /tmp \\) -prune -o \\( \
    -type d \\( -name .git -o -name .cache -o -name .pytest_cache -o -name uv-cache -o -name node_modules \\) \
    -o -type f \\( -name '*.deb' -o -name '*.whl' -o -name '*.o' -o -name '*.orig' \\) \\) -print 2> /dev/null \\
    | head -20 | sed 's/^/found /'
find / -xdev -type d -name tests -path '*/site-packages/*' 2> /dev/null \\
    | head -20 | sed 's/^/tests /'
"""


def secrets_in(stack: Stack, text: str) -> list[str]:
    """Names of the secrets whose value stands in a text, also where JSON has escaped it."""
    return [name for name, value in secret_values(stack).items() if value in text]


# ---- sockets


def listeners(pid: str) -> set[tuple[str, str, int]]:
    """Protocol, address and port of each socket that waits in the network namespace of a process."""
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in command("cat", f"/proc/{pid}/net/{table}").splitlines()[1:]:
            local, remote, state = line.split()[1:4]
            raw, port = local.split(":")
            waits = state == "0A" if table.startswith("tcp") else int(remote.split(":")[1], 16) == 0
            if waits:
                words = [bytes.fromhex(raw[at : at + 8])[::-1] for at in range(0, len(raw), 8)]
                found.add((table[:3], str(ipaddress.ip_address(b"".join(words))), int(port, 16)))
    # The engine's own name server in each container.
    return {one for one in found if one[1] != "127.0.0.11"}


@pytest.mark.parametrize("name", SERVICES)
def test_only_declared_sockets_in_a_container(containers: Containers, name: str) -> None:
    """What its programs listen on, and no UDP."""
    found = listeners(str(containers[name]["State"]["Pid"]))
    assert {port for protocol, _, port in found if protocol == "tcp"} == LISTENING.get(name, set())
    assert {one for one in found if one[0] == "udp"} == set()


def test_only_declared_sockets_on_the_host(stack: Stack, containers: Containers) -> None:
    """The engine listens for this stack on the published ports only, and nothing else of it is on the host."""
    own = {
        network["IPAddress"] for item in containers.values() for network in item["NetworkSettings"]["Networks"].values()
    }
    lines = command("ps", "-eo", "args", "-ww").splitlines()
    proxies = [dict(re.findall(r"-([a-z-]+) (\S+)", line)) for line in lines if "docker-proxy" in line.split()[0]]
    found = {int(proxy["host-port"]) for proxy in proxies if proxy["container-ip"] in own}
    assert found == {stack.port(port) for _, _, ports in SERVICES.values() for port in ports}
    assert {item["HostConfig"]["NetworkMode"] for item in containers.values()} == {stack.name}


# ---- processes


@pytest.mark.parametrize("name", SERVICES)
def test_processes_are_confined(stack: Stack, name: str) -> None:
    """What runs, not what is declared: no process has a capability or could gain one, and none is root's."""
    rows = command("docker", "top", f"{stack.name}-{name}", "-eo", "pid").split()[1:]
    # A health check may have ended since.
    states = [command("sh", "-c", f"cat /proc/{pid}/status 2> /dev/null || true") for pid in rows]
    seen = [dict(line.split(":\t", 1) for line in state.splitlines() if ":\t" in line) for state in states if state]
    assert seen
    for process in seen:
        held = {kind: int(process[kind], 16) for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        assert not any(held.values()), (process["Name"], held)
        assert process["NoNewPrivs"] == "1" and "0" not in process["Uid"].split(), process["Name"]


# ---- images


def test_images_hold_nothing_of_their_build(containers: Containers) -> None:
    """No compiler, package list, cache, repository, package, object file or test data; and nobody's secret."""
    found = {}
    for image in sorted({item["Config"]["Image"] for item in containers.values()}):
        words = ("docker", "run", "--rm", "--interactive", "--network=none", "--user=0", "--entrypoint=sh", image, "-s")
        found[image] = command(*words, stdin=LEFT_OVERS).splitlines()
        history = command("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
        found[image] += re.findall(r"(?i)\w*(?:password|secret|token)=\S+", history)
    # Tasks of Airflow make environments of their own with it.
    airflow = containers["airflow-worker"]["Config"]["Image"]
    found[airflow].remove("tool /usr/local/bin/uv")
    assert found and {image: left for image, left in found.items() if left} == {}


# ---- secrets


def test_the_engine_shows_no_secret_but_those_forced(stack: Stack, containers: Containers) -> None:
    """Containers, volumes, networks and images, as everyone in the group docker may see them."""
    shown = json.dumps(containers)
    for kind in ("volume", "network"):
        names = command("docker", kind, "ls", "--quiet", "--filter", f"label=quantops.stack={stack.name}").split()
        assert names
        shown += command("docker", kind, "inspect", *names)
    shown += command("docker", "image", "inspect", *{item["Config"]["Image"] for item in containers.values()})
    assert set(secrets_in(stack, shown)) == set(SHOWN_BY_THE_ENGINE)


def test_no_file_for_everyone_holds_a_secret(stack: Stack) -> None:
    """Wherever the stack, its builds, or a program that ran may have left one on the host."""
    values = "\n".join(secret_values(stack).values())
    places = "/etc /var/lib/quantops /var/log /tmp /var/tmp"
    # xargs may run grep several times, and each needs the patterns; nothing is written for this either.
    grep = """xargs -0 sh -c 'printf %s "$patterns" | grep -lFf - "$@"' grep"""
    search = f"find {places} -xdev -type f -perm -o+r -size -20M -print0 2> /dev/null | {grep}"
    said = command("bash", "-c", f"export patterns=$(cat); {search} || true", stdin=values)
    assert said.splitlines() == []


def test_the_sweep_of_files_finds_one(stack: Stack, tmp_path: Path) -> None:
    """The search above sees a secret in a file for everyone: it is not blind."""
    value = stack.secret("flower_password")
    path = command("mktemp", "/tmp/sweep.XXXXXX").strip()
    try:
        command("sh", "-c", f"cat > {path} && chmod 644 {path}", stdin=f"x{value}x")
        with pytest.raises(AssertionError, match=re.escape(path)):
            test_no_file_for_everyone_holds_a_secret(stack)
    finally:
        command("rm", path)


@pytest.mark.skipif(bool(HOST), reason="the inventory is that of this machine")
def test_ansible_shows_no_secret(stack: Stack) -> None:
    """At -vvv with differences: what is changed, changed back, and as declared; and in the log of all runs."""
    changed = play("site.yml", "-vvv", "--diff", "--extra-vars", "redis_maxmemory=127mb")
    back = play("site.yml", "-vvv", "--diff")
    nothing = play("site.yml", "-vvv", "--diff")
    drift = play("playbooks/drift.yml", "-vvv")
    assert "127mb" in changed and "maxmemory 128mb" in back and "changed=0" in nothing
    assert "Nothing differs from the declaration." in drift
    for text in (changed, back, nothing, drift):
        assert "TASK [" in text and secrets_in(stack, text) == []
    log = os.environ.get("QUANTOPS_ANSIBLE_LOG")
    if log:
        kept = Path(log).read_text(errors="replace")
        assert "TASK [" in kept or "Step 1 of" in kept
        assert secrets_in(stack, kept) == []

    def healthy() -> bool:
        states = {item["State"].get("Health", {}).get("Status", "healthy") for item in stack.containers().values()}
        return states == {"healthy"}

    assert eventually(healthy, seconds=180)
