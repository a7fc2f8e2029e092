"""The built archive holds the collection, and nothing that somebody keeps in a clone beside it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
SECRET = "not-for-the-archive"
#: Directories of a clone in which somebody may put something.
PLACES = (
    ".", "production", "inventories", "inventories/local", "inventories/desk/deeper", "examples",
    "examples/own_backend", "examples/own_backend/inventory", "files", "files/dags", "playbooks", "playbooks/tasks",
    "plugins/modules", "docs", "changelogs", "meta", "roles/redis", "roles/redis/tasks", "roles/redis/files/image",
    "apps/backend/ibkr_backend",
)  # fmt: skip
#: What that may be.
KEPT = (
    ".secrets/redis_password", "deeper/.secrets/redis_password", "secrets/redis_password", ".secrets.old/password",
    ".vault_pass", ".vault-password", "vault.yml", "group_vars/all/vault.yml", ".env", ".env.production", "desk.pem",
    "gateway.key", "id_ed25519", ".venv/lib/python3.11/site-packages/x/y.py", ".git/config", ".ssh/id_rsa",
    "notes.yml~", "__pycache__/x.cpython-311.pyc", "artifacts.tar.gz",
)  # fmt: skip
#: What an installed collection consists of.
PACKED = ("apps/", "docs/", "examples/", "files/", "meta/", "playbooks/", "plugins/", "roles/")
FILES = ("README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "site.yml", "requirements.yml")


def tracked() -> list[str]:
    """Files of the repository."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if name and (REPOSITORY / name).is_file()]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Name to content of each file of an archive that was built in a well-used clone."""
    place = tmp_path_factory.mktemp("clone")
    for name in tracked():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, place / name)
    for directory in PLACES:
        for name in KEPT:
            (place / directory / name).parent.mkdir(parents=True, exist_ok=True)
            (place / directory / name).write_text(SECRET)
    (place / "inventories/local/group_vars/all.yml").write_text(f"secrets_values: {{redis_password: {SECRET}}}\n")
    galaxy = str(Path(sys.executable).with_name("ansible-galaxy"))
    words = [galaxy, "collection", "build", "--output-path", str(place / "built")]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = (place / "built").iterdir()
    with tarfile.open(path) as opened:
        return {member.name: opened.extractfile(member).read() for member in opened if member.isfile()}  # type: ignore[union-attr]


def test_nothing_that_is_kept_beside_it(archive: dict[str, bytes]) -> None:
    """No secret, vault, environment or inventory, at whatever depth and under whatever name."""
    assert [name for name, content in archive.items() if SECRET.encode() in content] == []
    assert not [name for name in archive if name.startswith(("inventories/", "molecule/", "tools/"))]
    # What `ansible-test sanity` reads when Galaxy runs it, and no other test.
    sanity = {name for name in tracked() if name == "tests/config.yml" or name.startswith("tests/sanity/")}
    assert {name for name in archive if name.startswith("tests/")} == sanity != set()
    assert not [name for name in archive if name.startswith("apps/") and "/tests/" in name]


def test_everything_that_is_needed(archive: dict[str, bytes]) -> None:
    """Each file of roles, applications, plugins, playbooks and documents, also one that a role has newly got."""
    tests = re.compile(r"apps/[^/]+/(tests/|test\.lock)")
    needed = {name for name in tracked() if name in FILES or (name.startswith(PACKED) and not tests.match(name))}
    assert len(needed) > 250 and needed - archive.keys() == set()
