"""The Makefile's environments: made again where a move or another Python broke them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
LOCK = "roles/container_image/files/python-build/uv.lock"
# Python, whose environments have a program of one line instead of the whole of pip, which takes long to install.
PYTHON = f"""#!/bin/bash
[ "$1 $2" = "-m venv" ] || exec {sys.executable} "$@"
{sys.executable} -m venv --without-pip "${{@:3}}"
printf '#!%s\\n' "$PWD/.venv/bin/python" > .venv/bin/pip
chmod +x .venv/bin/pip
"""


def make(project: Path) -> str:
    """Run make in a project, which must succeed; returns what it says."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    words = ["make", "--no-print-directory", f"PYTHON={project}/python", ".venv/uv"]
    done = subprocess.run(words, cwd=project, env=own, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def programs_run(project: Path) -> bool:
    """Whether a program of the environment can be executed: its first line names the interpreter."""
    try:
        return subprocess.run([project / ".venv/bin/pip"], check=False, timeout=60).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the Makefile and an environment."""
    directory = tmp_path / "one"
    (directory / LOCK).parent.mkdir(parents=True)
    (directory / LOCK).touch()
    (directory / "python").write_text(PYTHON)
    (directory / "python").chmod(0o755)
    shutil.copy(REPOSITORY / "Makefile", directory)
    assert "Making .venv" in make(directory)
    assert programs_run(directory)
    return directory


def test_an_environment_is_made_once(project: Path) -> None:
    """Nothing has changed."""
    assert "making" not in make(project).lower()


def test_a_project_that_moved(project: Path) -> None:
    """Programs of its environments name the old place."""
    moved = project.rename(project.with_name("two"))
    (moved / ".venvs/backend").mkdir(parents=True)
    assert not programs_run(moved)
    assert "The project was moved" in make(moved)
    assert programs_run(moved) and not (moved / ".venvs/backend").exists()


def test_a_python_that_was_replaced(project: Path) -> None:
    """The one that made the environment is gone, as after an upgrade of the distribution."""
    python = project / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/usr/bin/python3.0")
    assert not programs_run(project)
    assert "its Python was replaced" in make(project)
    assert programs_run(project)


def test_the_user_of_a_token_is_not_who_runs_ansible(project: Path) -> None:
    """It takes USER of the environment for its own user, and asks for sudo where that is not root."""
    (project / "requirements").mkdir()
    (project / "requirements/controller.lock").touch()
    (project / ".venv/controller").touch()
    playbook = project / ".venv/bin/ansible-playbook"
    playbook.write_text('#!/bin/sh\necho "user=${USER-none} $*"\n')
    playbook.chmod(0o755)
    own = os.environ | {"USER": "somebody"}
    words = ["make", "--no-print-directory", f"PYTHON={project}/python", "token", "USER=anna", "NAME=laptop"]
    done = subprocess.run(words, cwd=project, env=own, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "user=none " in done.stdout and '"token_user": "anna"' in done.stdout
