"""The hosts of a stack that runs on several test hosts, as Molecule's inventory names them."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from stack_under_test import REPOSITORY, ansible_environment, run_playbook

STACK = os.environ.get("QUANTOPS_STACK", "quantops")


@functools.cache
def inventories() -> tuple[str, ...]:
    """Options that name the inventories of the scenario, for Ansible's programs."""
    host = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
    return (f"--inventory={host}", "--inventory=molecule/shared/inventory.yml")


@functools.cache
def groups() -> dict[str, list[str]]:
    """Hosts of each group."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-inventory")), *inventories(), "--list"],
        cwd=REPOSITORY, env=ansible_environment(), capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return {name: group.get("hosts", []) for name, group in json.loads(done.stdout).items() if name != "_meta"}


def here(*words: str) -> None:
    """Run a program on this machine as root."""
    words = words if os.geteuid() == 0 else ("sudo", "--non-interactive", *words)
    subprocess.run(words, check=True, capture_output=True, timeout=180)


def on(host: str, *words: str, status: int | None = 0, timeout: float = 120) -> str:
    """Run a command on a test host, and return what it prints.

    Raises:
        AssertionError: It did not end with `status`; with what it said.
    """
    sudo = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    done = subprocess.run(
        [*sudo, "docker", "exec", "--interactive", host, *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout,
    )  # fmt: skip
    assert status is None or done.returncode == status, f"{host}: {' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


def played(playbook: str, *options: str, status: int = 0, inventory: Path | None = None) -> str:
    """Run a playbook for the stack of the scenario, by default with its hosts as they are, and return all that it says.

    Raises:
        AssertionError: It did not end with `status`; with its last words.
    """
    first, *others = inventories()
    done = run_playbook(f"playbooks/{playbook}.yml", inventory or first.partition("=")[2], *others, *options)
    said = done.stdout + done.stderr
    assert done.returncode == status, said[-6000:]
    return said


def rearranged(
    directory: Path, members: dict[str, list[str]], hosts: dict[str, dict[str, Any] | None] | None = None
) -> Path:
    """Write the inventory of the scenario with some groups and hosts changed, as a person edits it.

    Args:
        directory: Where to write it; not there yet.
        members: Group to its hosts.
        hosts: Variables of new hosts, or more of those that are there; None takes a host out.

    Returns:
        The directory.
    """
    file = Path(os.environ["MOLECULE_INVENTORY_FILE"])
    shutil.copytree(file.parent, directory, symlinks=True)
    content = yaml.safe_load(file.read_text())
    known = dict(content["all"]["hosts"])
    for name, each in (hosts or {}).items():
        known[name] = None if each is None else known.get(name, {}) | each
    known = {name: each for name, each in known.items() if each is not None}
    groups_of = {name: group for name, group in content.items() if name != "all"}
    for name in members:
        groups_of.setdefault(name, {"vars": content["all"].get("vars", {})})
    for name, group in groups_of.items():
        there = members.get(name, [host for host in group.get("hosts", {}) if host in known])
        group["hosts"] = {host: known[host] for host in there}
    written = groups_of | {"all": content["all"] | {"hosts": known}}
    (directory / file.name).write_text(yaml.safe_dump(written))
    return directory


def drift(inventory: Path | None = None) -> dict[str, set[tuple[str, str, str]]]:
    """Host to what differs there from the declaration: kind, name and difference.

    Raises:
        AssertionError: A host was not compared.
    """
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "drift.json")
        first, *others = inventories()
        done = run_playbook(
            "playbooks/drift.yml", inventory or first.partition("=")[2], *others, f"--extra-vars=drift_file={report}"
        )
        assert report.is_file(), (done.stdout + done.stderr)[-6000:]
        found = json.loads(report.read_text())
    assert found["errors"] == {}, found["errors"]
    return {
        host: {(each["kind"], each["name"], each["difference"]) for each in differences}
        for host, differences in found["hosts"].items()
    }


def state(host: str, container: str) -> str:
    """State of a container, such as ``running``."""
    return on(host, "docker", "inspect", "--format", "{{.State.Status}}", f"{STACK}-{container}").strip()


def identity(host: str) -> dict[str, str]:
    """Running container of the stack to its id; jobs have ended."""
    words = ("ps", "--filter", f"label=quantops.stack={STACK}", "--format", "{{.Names}} {{.ID}}")
    found = dict(line.split() for line in on(host, "docker", *words).splitlines())
    return {name.removeprefix(f"{STACK}-"): each for name, each in found.items()}
