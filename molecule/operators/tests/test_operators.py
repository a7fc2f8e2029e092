"""Two operators, or one with two clones: nobody breaks what the other does, and no secret is replaced by accident."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from stack_under_test import HOST, REPOSITORY, Stack, ansible_environment, command, eventually, playbook_command

MARK = "QUANTOPS_OPERATOR"
LOCK = "/run/quantops/molecule.lock"


class Operator:
    """Runs playbooks from a clone with a directory of secrets of its own."""

    def __init__(self, directory: Path, secrets: Path) -> None:
        """Have an inventory."""
        directory.mkdir(exist_ok=True)
        host = {
            "ansible_connection": "community.docker.docker",
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            "stack_name": "molecule",
            "secrets_dir": str(secrets),
        }
        self.inventory, self.secrets = directory / "hosts.yml", secrets
        groups = {"redis": {"hosts": {HOST: None}}}
        self.inventory.write_text(yaml.safe_dump({"all": {"hosts": {HOST: host}, "children": groups}}))

    def start(self, playbook: str, *options: str) -> subprocess.Popen[str]:
        """Begin a run, whose processes all bear the mark."""
        return subprocess.Popen(
            playbook_command(f"playbooks/{playbook}.yml", self.inventory, *options),
            cwd=REPOSITORY, env=ansible_environment() | {MARK: str(self.inventory)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, playbook: str, *options: str, status: int = 0) -> str:
        """Run a playbook to its end, and return what it says."""
        process = self.start(playbook, *options)
        said, _ = process.communicate(timeout=1800)
        assert process.returncode == status, said
        return said

    def processes(self) -> list[int]:
        """Processes of this operator's runs."""
        mark, found = f"{MARK}={self.inventory}".encode(), []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # ended meanwhile
                if mark in environment.read_bytes().split(b"\0"):
                    found.append(int(environment.parent.name))
        return found


def holder() -> dict[str, Any]:
    """Who has the lock."""
    return json.loads(command("sh", "-c", f"cat {LOCK} 2> /dev/null || echo '{{}}'"))


def renewed() -> int:
    """When the lock was last renewed."""
    return int(command("stat", "--format=%Y", LOCK))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    """Who brought the stack up."""
    operator = Operator(tmp_path_factory.mktemp("ours"), Path(os.environ["QUANTOPS_SECRETS_DIR"]))
    operator.run("site")
    return operator


@pytest.fixture(scope="module")
def stack(ours: Operator) -> Stack:
    """The stack, once it is up."""
    return Stack()


@pytest.fixture
def other(tmp_path: Path) -> Operator:
    """Another operator, whose clone has no secrets."""
    return Operator(tmp_path / "other", tmp_path / "other" / ".secrets")


@pytest.fixture
def at_work(ours: Operator) -> Iterator[subprocess.Popen[str]]:
    """A run that has the lock and does not come to its end."""
    process = ours.start("site")
    try:
        eventually(lambda: holder().get("pid") == process.pid, seconds=120, pause=0.2)
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        for pid in ours.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=60)


def test_a_second_clone(ours: Operator, other: Operator, stack: Stack) -> None:
    """Refused before any change; with what it fetches from the host it changes nothing."""
    before = stack.identity()
    for playbook in ("site", "redis"):
        said = other.run(playbook, status=2)
        assert f"{other.secrets}, which secrets_dir names, lacks secrets that {HOST} has: redis_" in said
    assert not other.secrets.exists() and stack.identity() == before
    other.run("fetch_secrets")
    files = {path.name: path.read_bytes() for path in ours.secrets.iterdir()}
    assert {path.name: path.read_bytes() for path in other.secrets.iterdir()} == files
    assert "nothing to change" in other.run("site") and stack.identity() == before


def test_data_that_was_kept(ours: Operator, other: Operator) -> None:
    """Destroyed and brought up from a clone without its secrets: refused, and the host still has them."""
    ours.run("destroy")
    assert f"lacks secrets that {HOST} has" in other.run("redis", status=2)
    other.run("fetch_secrets")
    other.run("redis")
    assert Stack().well("redis")


def test_a_secret_is_rotated(ours: Operator, stack: Stack) -> None:
    """Its file is removed and it is named; the removal alone is refused."""
    name = "redis_health_password"
    old = (ours.secrets / name).read_text()
    (ours.secrets / name).unlink()
    assert f"lacks secrets that {HOST} has: {name}" in ours.run("redis", status=2)
    assert not (ours.secrets / name).exists()
    ours.run("site", "-e", f"secrets_regenerate={name}")
    assert (ours.secrets / name).read_text() != old and stack.well("redis")
    assert old.strip() not in command("cat", "/etc/quantops/molecule/secrets.json")
    assert "nothing to change" in ours.run("site")


def values(operator: Operator) -> dict[str, str]:
    """Secrets of a clone."""
    return {path.name: path.read_text() for path in operator.secrets.iterdir() if path.is_file()}


def accepts(password: str) -> bool:
    """Whether Redis takes a password of its administrator."""
    script = 'REDISCLI_AUTH="$(cat)" redis-cli --user admin ping'
    words = ("docker", "exec", "--interactive", "molecule-redis", "sh", "-c", script)
    return command(*words, stdin=password.strip()).strip() == "PONG"


def test_what_cannot_be_rotated(ours: Operator, stack: Stack) -> None:
    """Said before anything changes, with what to do instead."""
    before, secrets = stack.identity(), values(ours)
    vault = ours.secrets.parent / "vault.yml"
    vault.write_text(yaml.safe_dump({"secrets_values": {"redis_health_password": secrets["redis_health_password"]}}))
    for options, sentence in (
        ((), "No secret is named."),
        (("rotate_secrets=redis_helth_password",), "Did you mean redis_health_password?"),
        (("rotate_secrets=all", "rotate_confirm=other"), "rotate_confirm is other, and the stack is named molecule."),
        (("rotate_secrets=all", "rotate_wait=soon"), "rotate_wait is soon, expected a number of seconds."),
        (("rotate_secrets=all", "rotate_confirm="), "rotate_confirm is , and the stack is named molecule."),
        (("rotate_secrets=redis_health_password", f"@{vault}"), "redis_health_password is set in secrets_values: put"),
    ):
        words = [word for option in options for word in ("-e", option)]
        assert sentence in ours.run("rotate_secrets", *words, status=2)
    said = ours.run("rotate_secrets", "-e", "rotate_secrets=redis", "--check")
    assert "To be rotated: redis_admin_password, redis_health_password" in said
    assert f"Recreated on {HOST}: molecule-redis" in said
    assert stack.identity() == before and values(ours) == secrets


def test_a_service_is_rotated(ours: Operator, stack: Stack) -> None:
    """All of its secrets; the new ones work and the old ones don't, and the host's log says so."""
    old = values(ours)
    ours.run("rotate_secrets", "-e", "rotate_secrets=redis", "-e", "rotate_confirm=molecule")
    new = values(ours)
    assert new.keys() == old.keys() and all(new[name] != old[name] for name in old)
    assert not (ours.secrets / ".rotation").exists() and stack.well("redis")
    assert accepts(new["redis_admin_password"]) and not accepts(old["redis_admin_password"])
    log = command("cat", "/etc/quantops/molecule/rotations.log").splitlines()
    assert json.loads(log[-1])["secrets"] == ["redis_admin_password", "redis_health_password"]
    assert command("stat", "--format=%a %U", "/etc/quantops/molecule/rotations.log").split() == ["600", "root"]
    record = command("cat", "/etc/quantops/molecule/secrets.json")
    assert not any(value.strip() in record for value in old.values())
    assert "nothing to change" in ours.run("site")


@pytest.mark.parametrize("goes_on_with", ["rotate_secrets", "site"])
def test_a_rotation_that_is_killed(ours: Operator, stack: Stack, goes_on_with: str) -> None:
    """After the files were replaced: the next run of either playbook goes on, and the values are the same."""
    old = values(ours)
    process = ours.start("rotate_secrets", "-e", "rotate_secrets=all", "-e", "rotate_confirm=molecule")
    try:
        eventually(lambda: values(ours) != old, seconds=180, pause=0.05)
    finally:
        for pid in ours.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=60)
    begun = {path.name: path.read_text() for path in (ours.secrets / ".rotation").iterdir()}
    assert {name.removeprefix("old."): value for name, value in begun.items() if name.startswith("old.")} == old
    new = {name.removeprefix("new."): value for name, value in begun.items() if name.startswith("new.")}
    if goes_on_with == "site":
        assert "has not ended; this run uses what the files of the secrets hold." in ours.run("site")
        assert stack.well("redis") and accepts(values(ours)["redis_admin_password"])
    said = ours.run("rotate_secrets", "-e", "rotate_confirm=molecule")
    assert f"The rotation of {', '.join(sorted(new))}, which began on 2" in said
    assert values(ours) == new and not (ours.secrets / ".rotation").exists()
    assert accepts(new["redis_admin_password"]) and not accepts(old["redis_admin_password"])
    assert "nothing to change" in ours.run("site")


def test_two_runs_at_once(at_work: subprocess.Popen[str], ours: Operator, stack: Stack) -> None:
    """The second one is told of the first by name; who only looks is not held up."""
    before = stack.identity()
    for playbook in ("site", "redis", "stop", "start", "destroy"):
        said = ours.run(playbook, status=2)
        assert f"is changing the stack molecule on {HOST}: site.yml (process {at_work.pid}), since 2" in said, said
    assert stack.identity() == before
    # Ansible breaks the lines of a warning.
    assert "is changing the stack molecule" in " ".join(ours.run("site", "--check").split())
    ours.run("status")
    begun = renewed()
    eventually(lambda: renewed() > begun, seconds=90)


def test_a_killed_run(at_work: subprocess.Popen[str], ours: Operator) -> None:
    """Its lock is gone in seconds, and so is every process of it."""
    at_work.kill()
    eventually(lambda: not holder(), seconds=60)
    eventually(lambda: not [pid for pid in ours.processes() if pid != at_work.pid], seconds=60)
    ours.run("site")


def test_a_run_killed_with_all_its_processes(at_work: subprocess.Popen[str], ours: Operator) -> None:
    """Nobody is left to give the lock back; the next run takes it at once."""
    for pid in ours.processes():
        os.kill(pid, signal.SIGKILL)
    assert holder()["pid"] == at_work.pid
    ours.run("site")
    eventually(lambda: not holder(), seconds=60)
    assert not ours.processes()
