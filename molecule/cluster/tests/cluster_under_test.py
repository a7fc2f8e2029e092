"""The hosts of a stack that runs on several test hosts, as Molecule's inventory names them."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

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


def played(playbook: str, *options: str, status: int = 0) -> str:
    """Run a playbook for the stack of the scenario, and return all that it says.

    Raises:
        AssertionError: It did not end with `status`; with its last words.
    """
    first, *others = inventories()
    done = run_playbook(f"playbooks/{playbook}.yml", first.partition("=")[2], *others, *options)
    said = done.stdout + done.stderr
    assert done.returncode == status, said[-6000:]
    return said


def state(host: str, container: str) -> str:
    """State of a container, such as ``running``."""
    return on(host, "docker", "inspect", "--format", "{{.State.Status}}", f"{STACK}-{container}").strip()
