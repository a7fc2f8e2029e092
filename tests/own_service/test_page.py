"""The service that `docs/adding-a-service.md` writes, taken from the page and nothing else, comes up."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml
from stack_under_test import REPOSITORY, Stack, eventually, run_playbook

PAGE = (REPOSITORY / "docs" / "adding-a-service.md").read_text(encoding="utf-8")
EXAMPLE = REPOSITORY / "examples" / "own_service"
#: What keeps this stack apart from any other on this machine.
APART = {"stack_name": "page", "stack_network_subnet": "172.29.79.0/24", "prometheus_port": 52890}


def blocks() -> dict[str, str]:
    """The files of the role: a path in backquotes, and the next code block."""
    role = PAGE.split("## The role")[1].split("### Python packages")[0]
    found = dict(
        re.findall(r"^.*?`((?:meta|defaults|vars|templates|tasks|files)/\S+?)`.*?```\w*\n(.*?)```", role, re.M | re.S)
    )
    assert "README.md" in role
    return {**found, "README.md": ""}


@pytest.fixture
def inventory(stack: Stack, tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """An inventory with the page's two edits, and the environment in which Ansible finds both collections."""
    role = tmp_path / "collections" / "ansible_collections" / "acme" / "desk" / "roles" / "prometheus"
    for path, content in blocks().items():
        (role / path).parent.mkdir(parents=True, exist_ok=True)
        (role / path).write_text(content, encoding="utf-8")
    edits = PAGE.split("## The inventory")[1]
    settings, group = re.findall(r"```yaml\n(.*?)```", edits, re.S)[:2]
    hosts = yaml.safe_load((EXAMPLE / "inventory" / "hosts.yml").read_text(encoding="utf-8"))
    hosts["all"]["children"] = yaml.safe_load(group)
    variables = {**APART, **yaml.safe_load(settings), "secrets_dir": str(stack.secrets_dir.parent / "page-secrets")}
    directory = tmp_path / "inventory"
    (directory / "group_vars").mkdir(parents=True)
    (directory / "hosts.yml").write_text(yaml.safe_dump(hosts), encoding="utf-8")
    (directory / "group_vars" / "all.yml").write_text(yaml.safe_dump(variables), encoding="utf-8")
    paths = os.pathsep.join([str(REPOSITORY / ".collections"), str(tmp_path / "collections")])
    environment = {"ANSIBLE_COLLECTIONS_PATH": paths}
    yield directory, environment
    options = ("--extra-vars=destroy_data=true", "--extra-vars=destroy_confirm=page")
    done = run_playbook("playbooks/destroy.yml", directory, *options, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nine_files_and_two_edits_are_a_service(inventory: tuple[Path, dict[str, str]]) -> None:
    """As many files as the page says; the run brings the service up, a second one changes nothing, and it answers."""
    assert len(blocks()) == 9
    directory, environment = inventory
    done = run_playbook("site.yml", directory, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    address = f"http://127.0.0.1:{APART['prometheus_port']}"
    assert eventually(
        lambda: "prometheus_build_info" in requests.get(f"{address}/metrics", timeout=10).text, seconds=30
    )
    again = run_playbook("site.yml", directory, environment=environment)
    assert again.returncode == 0 and "changed=0" in again.stdout, again.stdout + again.stderr
