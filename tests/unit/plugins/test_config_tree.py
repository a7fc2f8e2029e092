"""`config_tree`: writes, heals, removes, and never leaves its directory or shows a secret."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from collection_under_test import Outcome, Run

SECRET = "hunter2-hunter2"


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    """A directory with two files, owned by whoever runs the test."""
    return {
        "path": str(tmp_path / "etc" / "web" / "config"),
        "owner": os.getuid(),
        "group": os.getgid(),
        "files": {"web.conf": "listen 80\n", "sites/a.conf": "a\n"},
    }


def content(tree: dict[str, Any]) -> dict[str, str]:
    """Relative path to text of every file in the tree."""
    top = Path(tree["path"])
    return {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if not path.is_dir()}


def mode(path: str | Path) -> int:
    """Permission bits."""
    return stat.S_IMODE(os.lstat(path).st_mode)


def changed(outcome: Outcome) -> list[str]:
    """Paths that were changed, which must agree with the flag."""
    assert not outcome.failed, outcome.result
    assert outcome.result["changed"] == bool(outcome.result["paths"])
    return [os.path.basename(path) for path in outcome.result["paths"]]


def test_writes_and_then_has_nothing_to_do(run_module: Run, tree: dict[str, Any]) -> None:
    """Files, directories and modes are as declared after one run, and a second one changes nothing."""
    assert sorted(changed(run_module("config_tree", trees=[tree]))) == ["a.conf", "config", "sites", "web.conf"]
    assert content(tree) == tree["files"]
    assert mode(tree["path"]) == 0o750 and mode(f"{tree['path']}/sites") == 0o750
    assert mode(f"{tree['path']}/web.conf") == 0o640
    before = os.stat(f"{tree['path']}/web.conf")
    assert changed(run_module("config_tree", trees=[tree])) == []
    assert os.stat(f"{tree['path']}/web.conf") == before


def test_mode_of_a_public_tree(run_module: Run, tree: dict[str, Any]) -> None:
    """Who may read a directory's files may enter it."""
    run_module("config_tree", trees=[{**tree, "mode": "0644"}])
    assert mode(f"{tree['path']}/web.conf") == 0o644
    assert mode(tree["path"]) == 0o755


@pytest.mark.parametrize("damage", ["edited", "removed", "mode", "directory mode", "added", "added directory", "link"])
def test_heals_what_was_done_by_hand(run_module: Run, tree: dict[str, Any], damage: str, tmp_path: Path) -> None:
    """Whatever is not as declared is found, made so again, and left alone afterwards."""
    run_module("config_tree", trees=[tree])
    top = Path(tree["path"])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("listen 80\n")
    if damage == "edited":
        (top / "web.conf").write_text("listen 81\n")
    elif damage == "removed":
        (top / "sites" / "a.conf").unlink()
    elif damage == "mode":
        (top / "web.conf").chmod(0o644)
    elif damage == "directory mode":
        top.chmod(0o755)
    elif damage == "added":
        (top / "extra.conf").write_text("x")
    elif damage == "added directory":
        (top / "d" / "e").mkdir(parents=True)
        (top / "d" / "e" / "f").write_text("x")
    elif damage == "link":
        (top / "web.conf").unlink()
        (top / "web.conf").symlink_to(elsewhere)
    assert changed(run_module("config_tree", trees=[tree])) != []
    assert content(tree) == tree["files"]
    assert not (top / "web.conf").is_symlink()
    assert sorted(path.name for path in top.iterdir()) == ["sites", "web.conf"]
    assert (mode(top), mode(top / "web.conf")) == (0o750, 0o640)
    assert elsewhere.read_text() == "listen 80\n"
    assert changed(run_module("config_tree", trees=[tree])) == []


def test_a_directory_of_others(run_module: Run, tree: dict[str, Any]) -> None:
    """It keeps its other files, its owner and its mode; what a killed run left of a file goes."""
    top = Path(tree["path"])
    top.mkdir(parents=True, mode=0o711)
    top.chmod(0o711)
    (top / "theirs").write_text("theirs")
    (top / "theirs").chmod(0o600)
    for name in (".new-quantops-left", ".new-theirs"):
        (top / name).write_text(SECRET)
        os.utime(top / name, (0, 0))
    ours = {**tree, "exact": False, "files": {"ours": "ours\n"}}
    assert changed(run_module("config_tree", check=True, trees=[ours])) == ["ours"]
    assert changed(run_module("config_tree", trees=[ours])) == ["ours"]
    assert content(tree) == {"theirs": "theirs", ".new-theirs": SECRET, "ours": "ours\n"}
    assert (mode(top), mode(top / "theirs"), mode(top / "ours")) == (0o711, 0o600, 0o640)
    assert changed(run_module("config_tree", trees=[ours])) == []


def test_the_directory_itself_is_kept(run_module: Run, tree: dict[str, Any]) -> None:
    """A container that mounts the directory sees new content: the directory is never replaced."""
    run_module("config_tree", trees=[tree])
    inode = os.stat(tree["path"]).st_ino
    run_module("config_tree", trees=[{**tree, "files": {"other.conf": "x"}}])
    assert os.stat(tree["path"]).st_ino == inode
    assert content(tree) == {"other.conf": "x"}


def test_check_mode_predicts_and_writes_nothing(run_module: Run, tree: dict[str, Any], tmp_path: Path) -> None:
    """On a fresh host, and over a hand edit."""
    assert "web.conf" in changed(run_module("config_tree", check=True, trees=[tree]))
    assert list(tmp_path.iterdir()) == []
    run_module("config_tree", trees=[tree])
    Path(tree["path"], "web.conf").write_text("by hand")
    Path(tree["path"], "extra").write_text("by hand")
    assert sorted(changed(run_module("config_tree", check=True, trees=[tree]))) == ["extra", "web.conf"]
    assert content(tree) == {"web.conf": "by hand", "extra": "by hand", "sites/a.conf": "a\n"}


def test_reasons_are_told(run_module: Run, tree: dict[str, Any]) -> None:
    """For each path what differs about it, and nothing of what is in a file."""
    run_module("config_tree", trees=[tree])
    top = Path(tree["path"])
    (top / "web.conf").write_text(SECRET)
    (top / "web.conf").chmod(0o600)
    (top / "extra").write_text(SECRET)
    (top / "sites" / "a.conf").unlink()
    reasons = run_module("config_tree", check=True, trees=[tree]).result["reasons"]
    assert reasons.pop(str(top / "extra")) == ["not declared"]
    assert reasons.pop(str(top / "sites" / "a.conf")) == ["missing"]
    content, attributes = reasons.pop(str(top / "web.conf"))
    assert content == "content differs" and "mode 0600, declared" in attributes
    assert reasons == {}


def test_differences_are_shown(run_module: Run, tree: dict[str, Any]) -> None:
    """An operator sees which line changes."""
    run_module("config_tree", trees=[tree])
    outcome = run_module("config_tree", trees=[{**tree, "files": {**tree["files"], "web.conf": "listen 81\n"}}])
    [diff] = outcome.result["diff"]
    assert (diff["before"], diff["after"]) == ("listen 80\n", "listen 81\n")


@pytest.mark.parametrize("check", [True, False])
def test_secret_content_is_never_shown(run_module: Run, tree: dict[str, Any], check: bool) -> None:
    """Neither the new secret nor the one it replaces is in the module's output."""
    first = {**tree, "files": {"password": SECRET}}
    outcomes = [run_module("config_tree", secret_trees=[first])]
    second = {**tree, "files": {"password": "s3cr3t-s3cr3t"}}
    outcomes.append(run_module("config_tree", check=check, secret_trees=[second]))
    for outcome in outcomes:
        assert outcome.result["changed"] and outcome.result["diff"]
        assert SECRET not in outcome.output and "s3cr3t-s3cr3t" not in outcome.output
    assert content(tree) == {"password": SECRET if check else "s3cr3t-s3cr3t"}


def test_binary_content(run_module: Run, tree: dict[str, Any]) -> None:
    """Content after base64: is decoded."""
    run_module("config_tree", trees=[{**tree, "files": {"logo": "base64://79"}}])
    assert Path(tree["path"], "logo").read_bytes() == b"\xff\xfe\xfd"


@pytest.mark.parametrize("name", ["../out", "sites/../../out", "/out"])
def test_a_path_that_leads_out_is_refused(run_module: Run, tree: dict[str, Any], name: str, tmp_path: Path) -> None:
    """Nothing is written outside, and the name is in the message."""
    outcome = run_module("config_tree", trees=[{**tree, "files": {name: "x"}}])
    assert outcome.failed and "is outside" in outcome.result["msg"]
    assert list(tmp_path.rglob("out")) == []


@pytest.mark.parametrize("below", ["", "sites"])
def test_a_linked_directory_is_refused(run_module: Run, tree: dict[str, Any], below: str, tmp_path: Path) -> None:
    """A link in the place of a directory would send the files, and the removal of others, elsewhere."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").write_text("kept")
    place = Path(tree["path"], below)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(victim)
    outcome = run_module("config_tree", trees=[tree])
    assert outcome.failed and f"{place} is not a directory; move it away" in outcome.result["msg"]
    assert [path.name for path in victim.iterdir()] == ["kept"]


def test_an_undeclared_link_is_removed_and_not_followed(run_module: Run, tree: dict[str, Any], tmp_path: Path) -> None:
    """What it points at stays."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").write_text("kept")
    run_module("config_tree", trees=[tree])
    Path(tree["path"], "link").symlink_to(victim)
    assert changed(run_module("config_tree", trees=[tree])) == ["link"]
    assert (victim / "kept").read_text() == "kept"
    assert not Path(tree["path"], "link").is_symlink()


def test_several_trees_in_one_call(run_module: Run, tree: dict[str, Any], tmp_path: Path) -> None:
    """Each is as declared, secret ones too."""
    other = {**tree, "path": str(tmp_path / "other"), "files": {"password": SECRET}}
    outcome = run_module("config_tree", trees=[tree], secret_trees=[other])
    assert content(tree) == tree["files"] and content(other) == other["files"]
    assert SECRET not in outcome.output
