"""The real gateway's path, with the look-alike of IBKR's archive: deployed, restarted, protected, and replaced again.

The tests stand in the order in which an operator would do this. The last one brings the simulator back.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from stack_under_test import HOST, REPOSITORY, Stack, command, eventually, play
from test_applications import gateway_certificate  # noqa: F401
from test_containers import secret_values

FIXTURE = REPOSITORY / "tests" / "fixtures" / "gateway_archive" / "make_archive.py"
ARCHIVES = "/var/lib/quantops/gateway"
NAME = "ibkr-gateway"
TIMEOUT = 10
#: The declaration that the tests change, and change only with leave.
CHANGE = {"ibkr_gateway_settings": {"authDelay": 4321}, "ibkr_gateway_overrides": {NAME: {"memory": "1536m"}}}
ALLOWED = {"ibkr_gateway_recreate": True}


@dataclass
class Site:
    """Runs playbooks against the test host, on which nothing but a gateway is declared."""

    inventory: Path
    archive: Path
    client: str

    @property
    def sha256(self) -> str:
        """Of the archive, in hexadecimal digits."""
        return hashlib.sha256(self.archive.read_bytes()).hexdigest()

    @property
    def real(self) -> dict[str, Any]:
        """What an operator sets to leave the simulator."""
        return {
            "ibkr_gateway_simulated": False,
            "ibkr_gateway_archive": str(self.archive),
            "ibkr_gateway_archive_sha256": self.sha256,
            # This machine is another host to the gateway, which sees its address.
            "ibkr_gateway_allowed_addresses": [self.client],
        }

    def run(self, playbook: str, status: int = 0, **variables: Any) -> str:
        """Run a playbook, which must end with this status; returns what it said, on one line."""
        options = f"--extra-vars={json.dumps(variables)}"
        return " ".join(play(f"playbooks/{playbook}.yml", options, inventory=self.inventory, status=status).split())


@pytest.fixture(scope="module")
def site(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Playbooks, and an archive with the layout of IBKR's."""
    directory = tmp_path_factory.mktemp("real")
    subprocess.run([str(FIXTURE), str(directory / "clientportal.gw.zip")], check=True)
    host = {
        "ansible_connection": "community.docker.docker",
        "ansible_docker_host": HOST,
        "ansible_host": stack.address,
        "ansible_user": "root",
        "ansible_python_interpreter": "/usr/bin/python3",
        "stack_name": stack.name,
        "stack_publish_address": "0.0.0.0",
        "ibkr_gateway_simulated": True,
        "secrets_dir": str(stack.secrets_dir),
    }
    inventory = directory / "hosts.yml"
    children = {"ibkr_gateway": {"hosts": {HOST: None}}}
    inventory.write_text(yaml.safe_dump({"all": {"hosts": {HOST: host}, "children": children}}))
    with socket.create_connection((stack.address, stack.port("ibkr_gateway"))) as connection:
        client = connection.getsockname()[0]
    site = Site(inventory, directory / "clientportal.gw.zip", client)
    yield site
    # Also after a failure: the scenario goes on with the simulator that it began with.
    site.run("ibkr_gateway", **ALLOWED)


def identity(stack: Stack) -> tuple[str, str]:
    """Id and start of the gateway's container."""
    return stack.identity()[NAME]


def front(stack: Stack, certificate: Path) -> requests.Response:
    """The gateway's own page, over TLS that is verified, as soon as it answers."""

    def ask() -> list[requests.Response]:
        address = stack.url("ibkr_gateway", "/", "https")
        try:
            return [requests.get(address, verify=str(certificate), allow_redirects=False, timeout=TIMEOUT)]
        except requests.ConnectionError as error:
            # While the program starts, the engine takes connections for it and drops them.
            assert "CERTIFICATE_VERIFY_FAILED" not in str(error), error
            return []

    return eventually(ask, seconds=60, pause=0.5)[0]


def becomes_healthy(stack: Stack) -> bool:
    """Whether the engine calls the container healthy; it asks less often than the playbooks do."""
    return eventually(lambda: stack.containers()[NAME]["State"]["Health"]["Status"] == "healthy", seconds=150)


def last_start(stack: Stack) -> tuple[int, int]:
    """Which start in its working directory the last one was, and what memory Java then gave it at most, in MB."""
    start, memory = re.findall(r"STAND-IN gateway, start (\d+) in .* at most (\d+) MB", stack.log(NAME))[-1]
    return int(start), int(memory)


@pytest.mark.parametrize("playbook", ["site", "ibkr_gateway"])
def test_another_sha256_is_refused(site: Site, stack: Stack, playbook: str) -> None:
    """By the checks that come first, and by the role alone; nothing is unpacked, and the simulator stays."""
    before = identity(stack)
    wrong = site.real | {"ibkr_gateway_archive_sha256": "0" * 64}
    said = site.run(playbook, status=2, **wrong, **ALLOWED)
    assert f"has the sha256 {site.sha256}, ibkr_gateway_archive_sha256 says {'0' * 64}" in said
    assert identity(stack) == before
    assert command("sh", "-c", f"ls -d {ARCHIVES}/*/ 2>/dev/null || true") == ""


def test_another_archive_is_refused(site: Site, stack: Stack, tmp_path: Path) -> None:
    """A zip of something else, by the name of the program that it lacks; the simulator stays."""
    before = identity(stack)
    subprocess.run([sys.executable, "-m", "zipfile", "-c", str(tmp_path / "other.zip"), __file__], check=True)
    other = site.real | {"ibkr_gateway_archive": str(tmp_path / "other.zip"), "ibkr_gateway_archive_sha256": ""}
    said = site.run("ibkr_gateway", status=2, **other, **ALLOWED)
    assert "ibkr_gateway_archive is not IBKR's clientportal.gw.zip" in said
    assert identity(stack) == before
    assert command("sh", "-c", f"ls -d {ARCHIVES}/*/ 2>/dev/null || true") == ""


def test_the_real_gateway_is_deployed(site: Site, stack: Stack, gateway_certificate: Path) -> None:  # noqa: F811
    """On a host without unzip, over what a killed run left: healthy, its own certificate, sized to its memory."""
    directory = f"{ARCHIVES}/{site.sha256[:16]}"
    assert command("sh", "-c", "command -v unzip zipinfo || true") == ""
    command("install", "-D", "/dev/null", f"{directory}.partial/left.by.a.killed.run")
    site.run("site", **site.real, **ALLOWED)
    item = stack.containers()[NAME]
    assert re.search("/ibkr-gateway:[0-9a-f]{16}$", item["Config"]["Image"])
    assert becomes_healthy(stack)
    answer = front(stack, gateway_certificate)
    assert (answer.status_code, answer.headers["Location"].split("?")[0]) == (302, "/sso/Login")
    assert "on port 5055" in stack.log(NAME) and "/root/logback.xml" in stack.log(NAME)
    # 60 % of 1 GiB, of which Java's serial collector keeps a little aside.
    assert 560 < last_start(stack)[1] <= 615
    assert command("sh", "-c", f"ls -d {ARCHIVES}/*/").split() == [f"{directory}/"]
    names = command("find", directory, "-type", "f", "-printf", "%P %m\\n").splitlines()
    assert len(names) == 7 and all(name.endswith(" 644") for name in names), names


def test_its_log_and_its_declaration_hold_no_secret(stack: Stack) -> None:
    """It prints its whole configuration; the password in there is none that is kept, and another at each start."""
    log = stack.log(NAME)
    passwords = re.findall(r"sslPwd=(\w+)", log)
    assert len(passwords) == last_start(stack)[0] and len(set(passwords)) == len(passwords)
    shown = log + json.dumps(stack.containers()[NAME]) + command("ps", "-eo", "args", "-ww")
    assert [name for name, value in secret_values(stack).items() if value in shown] == []
    assert not [password for password in passwords if password in json.dumps(stack.containers()[NAME])]


def test_verify_does_not_wait_for_ibkr(site: Site) -> None:
    """The front page redirects to one that nobody answers while IBKR is away: it is not followed."""
    begun = time.monotonic()
    said = site.run("verify", **site.real)
    assert "IBKR gateway answers with 302" in said
    assert time.monotonic() - begun < 90


def test_a_restart_keeps_what_it_wrote(stack: Stack, gateway_certificate: Path) -> None:  # noqa: F811
    """Its working directory is a volume."""
    start, _ = last_start(stack)
    command("docker", "restart", f"{stack.name}-{NAME}")
    assert front(stack, gateway_certificate).status_code == 302
    assert last_start(stack)[0] == start + 1
    test_its_log_and_its_declaration_hold_no_secret(stack)


def test_a_change_is_told_and_not_made(site: Site, stack: Stack) -> None:
    """The run succeeds, the container is the one that it was; what would change and the way to allow it are said."""
    before = identity(stack)
    said = site.run("site", **site.real, **CHANGE)
    assert identity(stack) == before
    assert f"{stack.name}-{NAME} would be recreated (changed: file conf.yaml, limits; memory limit is" in said
    assert "Run again with -e ibkr_gateway_recreate=true." in said


def test_with_leave_it_is_made(site: Site, stack: Stack, gateway_certificate: Path) -> None:  # noqa: F811
    """A new container with the new settings, which goes on with the old one's files."""
    before, (start, _) = identity(stack), last_start(stack)
    site.run("site", **site.real, **CHANGE, **ALLOWED)
    assert identity(stack)[0] != before[0]
    assert front(stack, gateway_certificate).status_code == 302
    assert "authDelay: 4321" in stack.execute(NAME, "cat", "/run/gateway/root/conf.yaml").stdout
    now, memory = last_start(stack)
    assert now == start + 1 and 840 < memory <= 922


def test_leave_alone_recreates_nothing(site: Site, stack: Stack) -> None:
    """Where nothing changed there is nothing to allow."""
    before = identity(stack)
    said = site.run("site", **site.real, **CHANGE, **ALLOWED)
    assert identity(stack) == before and "would be recreated" not in said


def test_the_simulator_does_not_replace_it_silently(site: Site, stack: Stack) -> None:
    """The declaration says nothing of a session any more; the container that runs has one."""
    before = identity(stack)
    said = site.run("site")
    assert identity(stack) == before
    assert f"{stack.name}-{NAME} would be recreated (changed: environment (" in said
    assert "but is left unchanged, because that would end its session" in said
    assert "Run again with -e ibkr_gateway_recreate=true." in said


def test_with_leave_the_simulator_is_back(site: Site, stack: Stack, gateway_certificate: Path) -> None:  # noqa: F811
    """And says what it is."""
    site.run("site", **ALLOWED)
    answer = front(stack, gateway_certificate)
    assert answer.status_code == 200 and "SIMULATED" in answer.text
