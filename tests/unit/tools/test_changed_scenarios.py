"""Which scenarios test what has changed, in a small project of its own and in this one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
PROGRAM = REPOSITORY / "tools" / "changed_scenarios.py"
EVERYTHING = "alpha whole"
FILES = {
    "molecule/alpha/molecule.yml": "ansible: {playbooks: {converge: ../../playbooks/alpha.yml}}",
    "molecule/alpha/tests/test_alpha.py": "from helpers import ask\n",
    "molecule/beta/molecule.yml": "ansible: {playbooks: {converge: ../../playbooks/beta.yml}}",
    "molecule/beta/tests/test_beta.py": 'ARCHIVE = ROOT / "tests" / "fixtures" / "archive"\n',
    "molecule/example/molecule.yml": "provisioner: {inventory: examples/desk/inventory}",
    "molecule/packed/molecule.yml": "platforms: []",
    "molecule/packed/tests/test_packed.py": 'NEWEST = ROOT / ".venvs" / "newest"\n',
    "molecule/whole/molecule.yml": "verifier: {directory: ../../tests/integration, additional_files_or_dirs: [../e2e]}",
    "molecule/shared/create.yml": "",
    "playbooks/alpha.yml": "",
    "playbooks/beta.yml": "",
    "playbooks/site.yml": "",
    "roles/alpha/tasks/main.yml": "include_role: {name: quantops.ibkr_stack.common}",
    "roles/alpha/meta/service.yml": "",
    "roles/beta/defaults/main.yml": "beta_dags: files/dags",
    "roles/beta/tasks/main.yml": "",
    "roles/common/tasks/main.yml": "",
    "plugins/filter/one.py": "",
    "files/dags/train.py": "",
    "examples/desk/inventory/hosts.yml": "",
    "tests/integration/helpers.py": "",
    "tests/e2e/test_pages.py": "",
    "tests/fixtures/archive/make.py": "",
    "tests/unit/test_one.py": "",
    "requirements/newest.lock": "",
    "docs/page.md": "",
    "README.md": "",
    "site.yml": "",
}


def git(project: Path, *words: str) -> None:
    """Run Git in a project."""
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    subprocess.run(["git", *identity, *words], cwd=project, check=True, capture_output=True, timeout=60)


def chosen(project: Path, revision: str = "HEAD") -> list[str]:
    """What the program prints."""
    done = subprocess.run(
        [sys.executable, project / "tools" / PROGRAM.name, "--everything", EVERYTHING, revision],
        cwd=project, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with the files above, committed."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "tools").mkdir()
    shutil.copy(PROGRAM, tmp_path / "tools")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "First")
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("molecule/beta/tests/test_beta.py", "beta"),
        ("molecule/shared/create.yml", EVERYTHING),
        ("playbooks/beta.yml", "beta"),
        ("playbooks/site.yml", EVERYTHING),
        ("roles/beta/tasks/main.yml", "beta"),
        ("roles/beta/files/new.py", "beta"),
        ("roles/common/tasks/main.yml", EVERYTHING),
        ("roles/alpha/tasks/main.yml", "alpha"),
        ("roles/alpha/meta/service.yml", EVERYTHING),
        ("plugins/filter/one.py", EVERYTHING),
        ("files/dags/train.py", "beta"),
        ("examples/desk/inventory/hosts.yml", "example"),
        ("tests/integration/helpers.py", "alpha whole"),
        ("tests/e2e/test_pages.py", "whole"),
        ("tests/fixtures/archive/make.py", "beta"),
        ("requirements/newest.lock", "packed"),
        ("site.yml", EVERYTHING),
        ("something/new.txt", EVERYTHING),
        ("tests/unit/test_one.py", ""),
        ("docs/page.md", ""),
        ("README.md", ""),
    ],
)
def test_scenarios_of_a_file(project: Path, changed: str, expected: str) -> None:
    """A file that is changed or new, and not committed."""
    (project / changed).parent.mkdir(parents=True, exist_ok=True)
    (project / changed).write_text("changed: true\n" if changed.endswith(".yml") else "changed = True\n")
    if changed.startswith(("molecule/", "tests/integration")):
        (project / changed).write_text(FILES[changed] + "\n# changed\n")
    assert chosen(project) == expected.split()


def test_what_was_committed_and_what_was_removed(project: Path) -> None:
    """All since the revision counts, whichever way it changed; nothing changed needs nothing."""
    assert chosen(project) == []
    git(project, "mv", "roles/beta/tasks/main.yml", "roles/beta/tasks/other.yml")
    git(project, "rm", "--quiet", "examples/desk/inventory/hosts.yml")
    git(project, "commit", "--quiet", "--message", "Second")
    (project / "docs/page.md").write_text("changed")
    assert chosen(project) == []
    assert chosen(project, "HEAD~1") == ["beta", "example"]


def test_a_wrong_revision(project: Path) -> None:
    """The error names the variable of `make`."""
    words = [sys.executable, project / "tools" / PROGRAM.name, "--everything", EVERYTHING, "nothing"]
    done = subprocess.run(words, cwd=project, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and "BASE is 'nothing', expected a revision of Git" in done.stderr


@pytest.fixture(scope="module")
def this_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this project's files, as a repository of its own."""
    copy = tmp_path_factory.mktemp("this")
    for name in ("molecule", "roles", "playbooks", "tests", "tools"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    git(copy, "init", "--quiet")
    git(copy, "add", ".")
    git(copy, "commit", "--quiet", "--message", "First")
    return copy


def test_a_role_with_a_scenario_of_this_project(this_project: Path) -> None:
    """Each service's role is tested by the scenario of its name, and by no other."""
    roles = {path.name for path in (REPOSITORY / "roles").iterdir()}
    own = sorted(roles & {path.name for path in (REPOSITORY / "molecule").iterdir()} - {"docker_host"})
    assert own
    for role in own:
        (this_project / "roles" / role / "templates").mkdir(exist_ok=True)
        new = this_project / "roles" / role / "templates" / "new.conf"
        new.write_text("")
        assert chosen(this_project) == [role]
        new.unlink()
    (this_project / "roles/docker_host/tasks/new.yml").write_text("[]")
    assert chosen(this_project) == sorted({"docker_host", *EVERYTHING.split()})
