"""A service that lives in another collection: this one's playbooks bring it up, show, stop, start, check and remove it.

The tests follow each other: the last one removes the stack.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import requests
from stack_under_test import REPOSITORY, Stack, command, eventually, run_playbook

EXAMPLE = REPOSITORY / "examples" / "own_service"
VARIABLES = REPOSITORY / "molecule" / "own_service" / "vars" / "main.yml"
PAGE = "http://127.0.0.1:52888/"


def play(stack: Stack, playbook: str, status: int = 0, **variables: Any) -> str:
    """Run a playbook of this collection on the example; returns what it said."""
    options = (f"--extra-vars=@{VARIABLES}", f"--extra-vars={json.dumps(variables)}")
    environment = {
        "MOLECULE_EPHEMERAL_DIRECTORY": str(stack.secrets_dir.parent),
        "ANSIBLE_COLLECTIONS_PATH": os.pathsep.join([str(REPOSITORY / ".collections"), str(EXAMPLE / "collections")]),
    }
    done = run_playbook(f"playbooks/{playbook}.yml", EXAMPLE / "inventory", *options, environment=environment)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def containers() -> dict[str, str]:
    """Name to state of the stack's containers."""
    words = ("docker", "ps", "--all", "--filter", "label=quantops.stack=desk", "--format", "{{.Names}} {{.State}}")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return dict(line.split() for line in done.stdout.splitlines())


def page() -> str:
    """The notebook's first page."""
    answer = requests.get(PAGE, timeout=10)
    assert answer.status_code == 200
    return answer.text


def test_it_is_up_with_its_job_done() -> None:
    """And nothing else of the stack is there."""
    assert containers() == {"desk-notebook-init": "exited", "desk-notebook": "running"}
    assert "<h1>Good morning</h1>" in page()


def test_its_secret_is_generated_and_mounted(stack: Stack) -> None:
    """As those of this collection's services are."""
    secret = (stack.secrets_dir / "notebook_token").read_text().strip()
    assert len(secret) == 32
    assert stack.execute("notebook", "cat", "/run/secrets/token").stdout.strip() == secret


def test_bad_input_is_refused_by_its_own_specs(stack: Stack) -> None:
    """A port, a type, and a container that it does not have; before anything changes."""
    before = containers()
    said = play(stack, "site", status=2, notebook_port="many")
    assert "notebook_port is 'many', expected a number from 1 to 65535." in said
    assert "notebook_overrides" in play(stack, "site", status=2, notebook_overrides="none")
    said = play(stack, "site", status=2, notebook_prot=1)
    assert "notebook_prot is not a variable of this collection. Did you mean notebook_port?" in said
    said = play(stack, "site", status=2, notebook_overrides={"notebok": {"memory": "1g"}})
    assert "notebook_overrides has the unknown key 'notebok'. Did you mean 'notebook'?" in said
    assert containers() == before


def test_a_changed_setting_runs_its_job_again(stack: Stack) -> None:
    """What the job reads has changed; the server has not."""
    inspect = ("docker", "inspect", "--format", "{{.Id}}", "desk-notebook")
    before = command(*inspect)
    assert "desk-notebook-init" in play(stack, "site", notebook_greeting="Good evening")
    assert "<h1>Good evening</h1>" in page() and command(*inspect) == before


def test_status_and_verify_know_it(stack: Stack) -> None:
    """Its version, its health, and its page. The engine first asks a minute after the start."""
    assert eventually(lambda: stack.containers()["notebook"]["State"]["Health"]["Status"] == "healthy", seconds=90)
    said = play(stack, "status")
    assert "desk-notebook " in said and "3.13" in said and "healthy" in said
    assert "Notebook answers with 200" in play(stack, "verify")


def test_drift_asks_it(stack: Stack, tmp_path: Path) -> None:
    """What it holds is compared by its own role."""
    report = tmp_path / "drift.json"
    assert "Nothing differs from the declaration." in play(stack, "drift", notebook_greeting="Good evening")
    stack.execute("notebook", "touch", "/pages/by-hand.html")
    play(stack, "drift", status=2, notebook_greeting="Good evening", drift_file=str(report))
    stack.execute("notebook", "rm", "/pages/by-hand.html")
    [found] = json.loads(report.read_text())["hosts"].values()
    assert found == [{"kind": "page", "name": "by-hand.html", "difference": "not declared"}]


def test_it_stops_and_starts_with_the_stack(stack: Stack) -> None:
    """Its job is not run again by a start."""
    play(stack, "stop")
    assert set(containers().values()) == {"exited"}
    play(stack, "start")
    assert containers() == {"desk-notebook-init": "exited", "desk-notebook": "running"}
    assert eventually(lambda: "<h1>" in page(), seconds=30)


def test_it_is_removed_with_the_stack(stack: Stack) -> None:
    """Its data stays until a flag says otherwise, and then goes too."""
    volumes = ("docker", "volume", "ls", "--quiet", "--filter", "label=quantops.stack=desk")
    play(stack, "destroy")
    assert containers() == {} and command(*volumes).split() == ["desk-notebook-pages"]
    play(stack, "destroy", destroy_data=True, destroy_confirm="desk")
    assert command(*volumes).split() == []
