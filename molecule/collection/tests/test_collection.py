"""The archive, installed where nothing else of this repository is, brings a service up with each supported Ansible."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ansible
import pytest
import yaml
from stack_under_test import HOST, REPOSITORY, Stack, command

GROUPS = ("postgres", "redis", "minio", "ibkr_gateway", "backend", "mlflow", "airflow")
SETTINGS = {"stack_name": "molecule", "ibkr_gateway_simulated": True}
NEWEST = REPOSITORY / ".venvs" / "compat-newest"
#: Where things are in the test host, for the Ansible that runs there.
THERE = "/opt/controller"
Playbook = Callable[..., str]


def run(words: list[str], directory: Path, **environment: str) -> str:
    """Run a command with only what it needs in its environment; returns what it prints."""
    kept = {name: os.environ[name] for name in ("HOME", "PATH", "LANG") if name in os.environ}
    done = subprocess.run(
        words, cwd=directory, env=kept | environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the installed collection, and the one that it depends on."""
    place = tmp_path_factory.mktemp("installed")
    galaxy = str(Path(sys.executable).with_name("ansible-galaxy"))
    run([galaxy, "collection", "build", "--output-path", str(place)], REPOSITORY)
    [archive] = place.glob("quantops-ibkr_stack-*.tar.gz")
    run([galaxy, "collection", "install", "--no-deps", "-p", str(place / "collections"), str(archive)], place)
    community = Path("ansible_collections", "community")
    (place / "collections" / community).mkdir()
    known = Path(ansible.__file__).parents[1] / community / "docker"
    (place / "collections" / community / "docker").symlink_to(known)
    return place


def inventory(place: Path, **connection: str) -> Path:
    """An inventory of one host with every service."""
    hosts = {"target": {**connection, **SETTINGS, "secrets_dir": str(place / "secrets")}}
    children = {group: {"hosts": {"target": None}} for group in GROUPS}
    path = place / "hosts.yml"
    path.write_text(yaml.safe_dump({"all": {"hosts": hosts, "children": children}}))
    return path


@pytest.fixture
def from_here(installed: Path, tmp_path: Path) -> Callable[[str], Playbook]:
    """Runs playbooks of the installed collection with an Ansible of this machine."""
    hosts = inventory(
        tmp_path, ansible_connection="community.docker.docker", ansible_host=HOST, ansible_user="root",
        ansible_python_interpreter="/usr/bin/python3",
    )  # fmt: skip

    def with_ansible(directory: str) -> Playbook:
        program = str(REPOSITORY / directory / "bin" / "ansible-playbook")

        def play(name: str, *words: str) -> str:
            given = [program, f"quantops.ibkr_stack.{name}", "--inventory", str(hosts), *words]
            return run(given, tmp_path, ANSIBLE_COLLECTIONS_PATH=str(installed / "collections"))

        return play

    return with_ansible


@pytest.fixture
def from_there(installed: Path, tmp_path: Path) -> Playbook:
    """Runs playbooks of the installed collection with the newest Ansible, on the test host itself."""
    stage = tmp_path / Path(THERE).name
    stage.mkdir()
    hosts = inventory(stage, ansible_connection="local", ansible_python_interpreter="/usr/bin/python3")
    hosts.write_text(hosts.read_text().replace(str(stage), THERE))
    (stage / "lib").symlink_to(NEWEST)
    collections = stage / "collections" / "ansible_collections"
    (collections / "community").mkdir(parents=True)
    (collections / "quantops").symlink_to(installed / "collections/ansible_collections/quantops")
    # The newest community.docker too; the many other collections of the package are not needed.
    (collections / "community/docker").symlink_to(NEWEST / "ansible_collections/community/docker")
    words = ["tar", f"--exclude={stage.name}/lib/ansible_collections", "-chC", str(tmp_path), stage.name]
    packed = subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["docker", "exec", "-i", HOST, "tar", "-xC", "/opt"], input=packed, check=True)
    settings = {"PYTHONPATH": f"{THERE}/lib", "ANSIBLE_COLLECTIONS_PATH": f"{THERE}/collections", "LANG": "C.UTF-8"}
    program = ["env", *[f"{name}={value}" for name, value in settings.items()], "python3", "-m", "ansible", "playbook"]

    def play(name: str, *words: str) -> str:
        given = [f"quantops.ibkr_stack.{name}", "--inventory", f"{THERE}/hosts.yml", *words]
        return command(*program, *given, timeout=1800)

    return play


def changes(said: str) -> int:
    """Number of changes in the recap of the one host."""
    [found] = re.findall(r"changed=(\d+)", said)
    return int(found)


def test_the_archive_holds_the_collection_only(installed: Path) -> None:
    """Playbooks, roles, plugins and their documents; no test, no tool, no secret, no environment."""
    root = installed / "collections/ansible_collections/quantops/ibkr_stack"
    top = {path.name for path in root.iterdir()}
    assert top >= {"playbooks", "roles", "plugins", "meta", "files", "docs", "README.md", "LICENSE", "MANIFEST.json"}
    assert not top & {"molecule", "tools", "requirements", "artifacts", ".venv", ".venvs", ".config", ".git"}
    # Galaxy reads these.
    assert {path.name for path in (root / "tests").iterdir()} == {"config.yml", "sanity"}
    assert not list(installed.rglob(".secrets"))


@pytest.mark.parametrize("directory", [".venv", ".venvs/compat-oldest"], ids=["this", "oldest"])
def test_the_whole_site_is_checked(from_here: Callable[[str], Playbook], directory: str) -> None:
    """site.yml from the archive finds all its parts; check mode changes nothing on the host."""
    said = from_here(directory)("site", "--check")
    assert changes(said) > 0 and "failed=0" in said
    assert command("docker", "ps", "--all", "--quiet") == ""


def test_a_host_that_runs_a_worker_only(from_here: Callable[[str], Playbook], tmp_path: Path) -> None:
    """It is served as any other; check mode does not need a second machine."""
    play = from_here(".venv")
    groups = yaml.safe_load((tmp_path / "hosts.yml").read_text())
    hosts = groups["all"]["hosts"]
    hosts["worker"] = hosts["target"] | {"stack_address": "192.0.2.2", "stack_mesh": False}
    hosts["target"] |= {"stack_address": "192.0.2.1", "stack_mesh": False, "stack_publish_address": "0.0.0.0"}
    groups["all"]["children"]["airflow_worker"] = {"hosts": {"worker": None}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(groups))
    said = play("site", "--check", "--diff", "--limit", "worker")
    assert re.search(r"(?m)^worker +: ok=.* failed=0", said)
    there = re.findall(r"(?m)^\+(molecule-\S+): ", said)
    assert there == ["molecule-airflow-worker"]


def test_readmes_settings(from_here: Callable[[str], Playbook], tmp_path: Path) -> None:
    """With them, runs of an installed collection look as those of a clone."""
    play = from_here(".venv")
    assert "━━ Step 1 of" not in play("site", "--check")
    [settings] = re.findall(r"```ini\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    (tmp_path / "ansible.cfg").write_text(settings)
    assert "━━ Step 1 of" in play("site", "--check")


@pytest.mark.parametrize("directory", [".venv", ".venvs/compat-oldest"], ids=["this", "oldest"])
def test_ansible_of_this_machine(from_here: Callable[[str], Playbook], directory: str) -> None:
    """Redis comes up, a second run changes nothing, and it goes away again."""
    works(from_here(directory))


def test_newest_ansible(from_there: Playbook) -> None:
    """The same on Python 3.13, with the newest community.docker, whose major version galaxy.yml allows."""
    version = major_version(NEWEST)
    assert version > major_version(Path(ansible.__file__).parents[1])
    allowed = yaml.safe_load((REPOSITORY / "galaxy.yml").read_text())["dependencies"]["community.docker"]
    assert allowed.endswith(f"<{version + 1}.0.0")
    works(from_there)


def major_version(packages: Path) -> int:
    """Major version of community.docker in a directory of Python packages."""
    manifest = json.loads((packages / "ansible_collections/community/docker/MANIFEST.json").read_text())
    return int(manifest["collection_info"]["version"].partition(".")[0])


def works(play: Playbook) -> None:
    """Bring Redis up and down."""
    try:
        assert changes(play("redis")) > 0
        assert Stack().well("redis")
        assert changes(play("redis")) == 0
    finally:
        play("destroy", "-e", "destroy_data=true", "-e", "destroy_confirm=molecule")
    assert command("docker", "ps", "--all", "--quiet") + command("docker", "volume", "ls", "--quiet") == ""
