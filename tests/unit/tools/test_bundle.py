"""The parts of a bundle: what gets into it, what never does, and what is left of one that was not finished."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import archive
import bundle
import pytest

PROGRAM = Path(bundle.__file__)


def work_of(tmp_path: Path, **more: Any) -> bundle.Work:
    """A bundle that is being made in a directory."""
    directory = tmp_path / "work"
    directory.mkdir(exist_ok=True)
    plan = {
        "name": "stack-1", "version": "1", "archive": str(tmp_path / "out.tar"), "images": [], "images_size": 0,
        "inventory": "", "secrets": [], "packages": {"trixie": []}, "mirror": "",
        "certificates": str(tmp_path / "none"),
    }  # fmt: skip
    (directory / "plan.json").write_text(json.dumps(plan | more))
    return bundle.Work(directory)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with a file that is tracked, one that has changed since, a link, and what is neither."""
    root = tmp_path / "clone"
    root.mkdir()
    for name in ("kept", "changed", "deleted"):
        (root / name).write_text("first")
    (root / "link").symlink_to("kept")
    (root / ".gitignore").write_text("ignored\n")
    git = ["git", "-C", root, "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    (root / "changed").write_text("second")
    (root / "deleted").unlink()
    for name in ("ignored", "untracked"):
        (root / name).write_text("no")
    return root


def test_the_project(clone: Path, tmp_path: Path) -> None:
    """Tracked files as they are now; what git does not track is named."""
    assert bundle.copy_tracked(clone, tmp_path / "copy") == ["untracked"]
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == [".gitignore", "changed", "kept", "link"]
    assert (tmp_path / "copy/changed").read_text() == "second"
    assert (tmp_path / "copy/link").is_symlink()
    assert bundle.revision(clone).endswith("-dirty")


def test_what_is_no_clone(tmp_path: Path) -> None:
    """Nobody could say what belongs to the project."""
    with pytest.raises(bundle.BundleError, match="is no clone of the project"):
        bundle.copy_tracked(tmp_path, tmp_path / "copy")


def test_an_inventory_without_its_secrets(tmp_path: Path) -> None:
    """Neither the stack's secrets, nor keys, nor what is encrypted."""
    source = tmp_path / "desk"
    for name, text in {
        "hosts.yml": "all:", "group_vars/all/main.yml": "a: 1", "group_vars/all/vault.yml": "$ANSIBLE_VAULT;1.1\n00",
        "group_vars/inline.yml": "a: !vault |\n  $ANSIBLE_VAULT;1.1\n  00", ".secrets/redis": "secret",
        "kept_elsewhere/redis": "secret", "host_vars/.vault_pass": "secret", "files/gateway.key": "secret",
        "files/ca.crt": "public",
    }.items():  # fmt: skip
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    (source / "again").symlink_to(source)
    left_out = bundle.copy_inventory(source, tmp_path / "copy", [source / "kept_elsewhere"])
    found = {
        path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*") if path.is_file()
    }
    assert found == {"hosts.yml", "group_vars/all/main.yml", "files/ca.crt"}
    assert set(left_out) == {
        ".secrets", "again", "kept_elsewhere", "group_vars/inline.yml", "group_vars/all/vault.yml",
        "host_vars/.vault_pass", "files/gateway.key",
    }  # fmt: skip


def test_an_inventory_that_is_a_file(tmp_path: Path) -> None:
    """Variables beside it belong to it, and nothing else there does."""
    (tmp_path / "desk/group_vars").mkdir(parents=True)
    for name in ("hosts.yml", "other.yml", "group_vars/all.yml"):
        (tmp_path / "desk" / name).write_text("a")
    place = bundle.inventory_place(tmp_path / "desk/hosts.yml", tmp_path / "clone")
    assert place == "inventories/desk/hosts.yml"
    assert bundle.copy_inventory(tmp_path / "desk/hosts.yml", tmp_path / "copy" / place, []) == []
    found = sorted(path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*.yml"))
    assert found == ["inventories/desk/group_vars/all.yml", "inventories/desk/hosts.yml"]


def test_where_an_inventory_is(tmp_path: Path) -> None:
    """Where it was, if it is the project's."""
    (tmp_path / "clone/inventories/desk").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    assert bundle.inventory_place(tmp_path / "clone/inventories/desk", tmp_path / "clone") == "inventories/desk"
    assert bundle.inventory_place(tmp_path / "elsewhere", tmp_path / "clone") == "inventories/elsewhere"


def test_a_full_disk(tmp_path: Path) -> None:
    """Before anything is made."""
    work = work_of(tmp_path, images_size=2**60)
    with pytest.raises(bundle.BundleError, match="MiB free, and making the bundle takes up to"):
        bundle.project(work)
    assert not work.top.exists()


@pytest.fixture
def finished(tmp_path: Path) -> bundle.Work:
    """A bundle of which only the archive is to be written."""
    work = work_of(tmp_path)
    (work.parts / "packages").mkdir(parents=True)
    (work.top / "inventories").mkdir()
    for name in ("bundle/images.tar.zst", "bundle/install", "inventories/hosts.yml", "Makefile"):
        (work.top / name).write_text(name)
    (work.top / "link").symlink_to("Makefile")
    (work.parts / "install").chmod(0o775)
    work.contents.write_text(json.dumps({"size": 7, "images": [{"reference": "x/b:1"}, {"reference": "x/a:1"}]}))
    return work


def test_the_archive(finished: bundle.Work, tmp_path: Path) -> None:
    """It can be checked as it is documented, says what is in it, and names nobody."""
    lines = bundle.write_archive(finished)
    target = tmp_path / "out.tar"
    assert hashlib.sha256(target.read_bytes()).hexdigest() in lines[1]
    subprocess.run(["sha256sum", "--check", "out.tar.sha256"], cwd=tmp_path, check=True, capture_output=True)
    with tarfile.open(target) as tar:
        members = {member.name: member for member in tar}
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert {(member.uid, member.gid, member.uname, member.gname) for member in members.values()} == {(0, 0, "", "")}
    assert members["stack-1/bundle/install"].mode == 0o755 and members["stack-1/Makefile"].mode == 0o644
    top = tmp_path / "unpacked/stack-1"
    subprocess.run(["sha256sum", "--check", "--strict", "bundle/SHA256SUMS"], cwd=top, check=True, capture_output=True)
    listed = {line.split("  ")[1] for line in (top / "bundle/SHA256SUMS").read_text().splitlines()}
    assert listed == {"Makefile", "bundle/bundle.json", "bundle/images.tar.zst", "bundle/install"}
    described = json.loads((top / "bundle/bundle.json").read_text())
    assert (
        described["images"] == ["x/a:1", "x/b:1"]
        and described["images_size"] == 7
        and described["releases"] == ["trixie"]
    )


def test_a_run_that_is_killed_leaves_no_half_archive(finished: bundle.Work, tmp_path: Path) -> None:
    """The archive that was there stays; the new one has its name once it is whole."""
    target = tmp_path / "out.tar"
    target.write_text("the one before")
    with (finished.parts / "images.tar.zst").open("wb") as file:
        file.truncate(2**31)
    process = subprocess.Popen([sys.executable, PROGRAM, "archive", finished.directory])
    written = finished.directory / target.name
    for _ in range(600):
        if written.exists() and written.stat().st_size > 10**6:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert written.stat().st_size > 0
    assert target.read_text() == "the one before"


def test_an_image_that_was_not_saved(tmp_path: Path) -> None:
    """It is named."""
    work = work_of(tmp_path, images=["x/a:1"])
    with tarfile.open(work.directory / "images.tar", "w") as tar:
        (tmp_path / "manifest.json").write_text("[]")
        tar.add(tmp_path / "manifest.json", "manifest.json")
    with pytest.raises(bundle.BundleError, match="docker save left out x/a:1"):
        bundle.images(work)


def test_a_step_that_fails_says_why(tmp_path: Path) -> None:
    """In one line on standard error, without a traceback."""
    work = work_of(tmp_path)
    (work.directory / "images.tar").write_bytes(b"")
    done = subprocess.run(
        [sys.executable, PROGRAM, "images", work.directory], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "cannot be read as an archive of images" in done.stderr
    assert "Traceback" not in done.stderr


# ---- the script that installs a bundle


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """An unpacked bundle for this machine, whose `make` only says that it was called."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    top = tmp_path / "stack"
    (top / "bundle/packages" / release["VERSION_CODENAME"]).mkdir(parents=True)
    (top / "bundle/architecture").write_text(f"{os.uname().machine}\n")
    (top / "bundle/install").write_bytes((archive.ROOT / "tools/bundle_install").read_bytes())
    (top / "bundle/install").chmod(0o755)
    (top / "Makefile").write_text(".venv/controller:\n\t@echo made\n")
    (top / "bundle/SHA256SUMS").write_text(bundle.checksums(top))
    return top


def install(top: Path) -> subprocess.CompletedProcess[str]:
    """Run the script, from elsewhere."""
    return subprocess.run([top / "bundle/install"], cwd="/", capture_output=True, text=True, check=False)


def test_a_bundle_is_installed(unpacked: Path) -> None:
    """Where make and python3-venv are there, only the environment is made."""
    done = install(unpacked)
    assert done.returncode == 0, done.stderr
    assert "made\nReady." in done.stdout


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("architecture", "riscv64", "This bundle is for riscv64, and this machine is"),
        ("install", None, "bundle/install: FAILED"),
        ("images.tar.zst", "", "bundle/images.tar.zst: FAILED open or read"),
        ("packages", "other", "This bundle has packages for other, and this machine runs"),
    ],
)
def test_what_is_not_installed(unpacked: Path, file: str, text: str | None, sentence: str) -> None:
    """Another machine's, or a damaged one: nothing is made."""
    if file == "packages":
        [directory] = (unpacked / "bundle/packages").iterdir()
        directory.rename(directory.with_name("other"))
    elif file == "images.tar.zst":
        with (unpacked / "bundle/SHA256SUMS").open("a") as sums:
            sums.write(f"{'0' * 64}  bundle/images.tar.zst\n")
    elif text is None:
        with (unpacked / "bundle" / file).open("a") as changed:
            changed.write("# changed\n")
    else:
        (unpacked / "bundle" / file).write_text(text)
    done = install(unpacked)
    assert done.returncode == 1 and sentence in done.stderr, done.stdout + done.stderr
    assert "made" not in done.stdout
