"""Copies of the backup repository: their settings, the order of a copy, what it refuses, and gaps of the archive."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.backup_copies import (
    backup_copy_files,
    backup_copy_places,
    backup_copy_problems,
)
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.backups import chosen_backup
from collection_under_test import REPOSITORY, program

# The program imports the modules beside it.
sys.path.append(str(REPOSITORY / "roles/backup/files/runtime"))
import backup_base
import backup_copies as copies
import backup_wal as wal

backup = program("roles/backup/files/runtime/backup.py")
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----"
NAS = {
    "type": "sftp", "host": "nas.example.com", "user": "backup", "path": "/volume1/quantops", "key": KEY,
    "known_hosts": "nas.example.com ssh-ed25519 AAAA",
}  # fmt: skip
STORE = {
    "type": "s3", "provider": "Other", "endpoint": "https://s3.example.com", "access_key_id": "id",
    "secret_access_key": "the secret", "path": "bucket/quantops",
}  # fmt: skip


# ---- settings


def test_two_places_at_once() -> None:
    both = {"nas": {**NAS, "port": 22}, "offsite": {**STORE, "ca": "-----BEGIN CERTIFICATE-----\nx"}}
    assert backup_copy_problems(both) == []
    files = backup_copy_files(both)
    assert set(files) == {"rclone.conf", "copy_nas_key", "copy_nas_known_hosts", "copy_offsite_ca"}
    assert files["copy_nas_key"] == KEY + "\n"
    assert "key_file = /run/secrets/copy_nas_key\n" in files["rclone.conf"]
    assert "known_hosts_file = /run/secrets/copy_nas_known_hosts\n" in files["rclone.conf"]
    assert "[offsite]\nno_check_bucket = true\nenv_auth = false\n" in files["rclone.conf"]
    assert "path" not in files["rclone.conf"] and "BEGIN" not in files["rclone.conf"]
    places = backup_copy_places(both)
    assert places["nas"] == {"path": "/volume1/quantops", "title": "nas.example.com:/volume1/quantops", "ca": False}
    assert places["offsite"]["title"] == "s3.example.com:bucket/quantops" and places["offsite"]["ca"]
    assert "secret" not in json.dumps(places)


def test_no_copies_need_no_files() -> None:
    assert (backup_copy_problems({}), backup_copy_files({}), backup_copy_places({})) == ([], {}, {})


@pytest.mark.parametrize(
    ("copy", "said"),
    [
        ([], "expected keys and values"),
        ({**NAS, "type": ""}, "type is empty"),
        ({key: NAS[key] for key in NAS if key != "type"}, "type is missing"),
        ({key: NAS[key] for key in NAS if key != "path"}, "path is missing"),
        ({**NAS, "path": "/"}, "path is missing"),
        ({**NAS, "path": "a/../b"}, "path is missing, or no path"),
        ({key: NAS[key] for key in NAS if key != "host"}, "host is missing"),
        ({key: NAS[key] for key in NAS if key != "user"}, "user is missing"),
        ({key: NAS[key] for key in NAS if key != "known_hosts"}, "known_hosts is missing"),
        ({key: NAS[key] for key in NAS if key != "key"}, "key is missing"),
        ({**NAS, "key": "ssh-ed25519 AAAA"}, "key is no private key"),
        ({**NAS, "key_file": "/root/.ssh/id"}, "key_file names a file in the container"),
        ({**NAS, "known_hosts": "other.example.com ssh-ed25519 AAAA"}, "no line for nas.example.com"),
        ({**NAS, "known_hosts": "nas.example.com"}, "has a line that is none"),
        ({**NAS, "port": 2222}, r"no line for \[nas.example.com\]:2222"),
        ({**NAS, "host": "a\nb"}, "host has several lines"),
        ({**NAS, "Host Name": "x"}, "no key of rclone's"),
        ({**NAS, "type": "local"}, "on this host"),
        ({**STORE, "endpoint": "http://s3.example.com"}, "expected https://"),
        ({**STORE, "endpoint": "s3.example.com"}, "expected https://"),
        ({key: STORE[key] for key in STORE if key != "endpoint"}, "endpoint is missing"),
        ({key: STORE[key] for key in STORE if key != "provider"}, "provider is missing"),
        ({key: STORE[key] for key in STORE if key != "secret_access_key"}, "secret_access_key is missing"),
        ({**STORE, "path": "/Bucket"}, "name of a bucket"),
        ({**STORE, "ca": "x"}, "ca is no certificate"),
        ({"type": "ftp", "host": "x", "path": "y"}, "clear text"),
        ({"type": "webdav", "url": "http://dav.example.com", "path": "y"}, "expected https://"),
    ],
)
def test_a_place_that_cannot_work_is_said(copy: Any, said: str) -> None:
    [problem] = backup_copy_problems({"nas": copy})
    assert problem.startswith("backup_copies.nas: ")
    assert re.search(said, problem), problem
    assert "the secret" not in problem and "abc" not in problem


def test_what_may_be_in_a_place() -> None:
    assert backup_copy_problems({"a": {**STORE, "endpoint": "http://127.0.0.1:9000"}}) == []
    assert backup_copy_problems({"a": {**STORE, "provider": "AWS", "region": "eu-central-1", "upload_cutoff": 5}}) == []
    assert (
        backup_copy_problems({"a": {**NAS, "port": 2222, "known_hosts": "[nas.example.com]:2222 ssh-rsa AAAA"}}) == []
    )
    assert backup_copy_problems({"a": {**NAS, "known_hosts": "# note\n|1|x=|y= ssh-rsa AAAA\n"}}) == []
    assert "lower-case" in backup_copy_problems({"NAS": NAS})[0]
    assert "no dictionary" in backup_copy_problems(["nas"])[0]


# ---- the order


FULL = "20261128-023000F"
FILES = {
    "files/config": "made once",
    "files/data/ab/abcd": "pack",
    "files/keys/k": "key",
    "files/index/i": "index",
    "files/snapshots/s": "snapshot",
    "files/locks/l": "lock",
    f"postgres/backup/main/{FULL}/bundle/1": "rows",
    f"postgres/backup/main/{FULL}/backup.manifest": "list",
    "postgres/backup/main/20261128-033000F/bundle/1": "cut off",
    "postgres/backup/main/backup.info": "info",
    "postgres/backup/main/backup.info.copy": "info",
    "postgres/archive/main/archive.info": "info",
    "postgres/archive/main/17-1/0000000100000000/000000010000000000000001-" + "a" * 40 + ".zst": "wal",
    "postgres/archive/main/17-1/0000000100000000/000000010000000000000002-" + "a" * 40 + ".zst.pgbackrest.tmp": "half",
    "manifests/20261128T023000Z.json": "{}",
    "manifests/.20261128T033000Z.json.new": "{",
    "secrets/secrets.vault": "cipher",
    "drill.json": "{}",
    "repository.json": "{}",
    "copies/nas.json": "{}",
    ".lock": "",
}
PLACE = copies.Place("nas", "/volume1/quantops", "nas:/volume1/quantops")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a file of each kind."""
    found = tmp_path / "repository"
    for name, content in FILES.items():
        (found / name).parent.mkdir(parents=True, exist_ok=True)
        (found / name).write_text(content)
    (found / "postgres/backup/main/latest").symlink_to(FULL)
    return found


class FakePlace:
    """What rclone would do with a place that can rename, on a directory; it can be away, and be cut off."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.calls: list[list[str]] = []
        self.sent: list[str] = []
        self.left = sys.maxsize

    def path(self, remote: str) -> Path:
        return (
            self.directory / remote.removeprefix("nas:/volume1/quantops").lstrip("/") if ":" in remote else Path(remote)
        )

    def run(self, place: Any, *words: str, stdin: str | None = None, stop: Any = None, accept: Any = (0,)) -> Any:
        self.calls.append(list(words))
        names: list[str] = []
        for word in words:
            if word.startswith("--files-from-raw="):
                names = Path(word.partition("=")[2]).read_text().splitlines()
        words = tuple(word for word in words if not word.startswith("--"))
        if words[0] == "backend":
            return 0, json.dumps({"Features": {"Move": True}, "Hashes": ["md5"]})
        if words[0] == "lsjson":
            top = self.path(words[1])
            found = [path for path in top.rglob("*") if path.is_file()]
            return 0, json.dumps([{"Path": str(path.relative_to(top)), "Size": path.stat().st_size} for path in found])
        if words[0] == "cat":
            return 0, self.path(words[1]).read_text()
        if words[0] == "rcat":
            self.path(words[1]).parent.mkdir(parents=True, exist_ok=True)
            self.path(words[1]).write_text(stdin or "")
        for name in names:
            if self.left <= 0:
                raise backup_base.BackupError("cut off")
            source = self.path(words[1]) / name
            if words[0] == "delete":
                source.unlink()
                continue
            target = self.path(words[2]) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
            if words[0] == "move":
                source.unlink()
                self.sent.append(name)
            self.left -= 1
        return 0, "".join(f"= {name}\n" for name in names)

    def holds(self) -> dict[str, str]:
        top = self.directory / "repository"
        return {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePlace:
    found = FakePlace(tmp_path / "place")
    found.directory.mkdir()
    monkeypatch.setattr(copies, "rclone", found.run)
    return found


def expected() -> dict[str, str]:
    """What belongs to a copy."""
    left_out = ("lock", "tmp", ".new", "20261128-033000F", "copies")
    return {name: content for name, content in FILES.items() if not any(each in name for each in left_out)}


def test_a_copy_has_all_that_belongs_to_it(repository: Path, place: FakePlace) -> None:
    state = copies.copy(PLACE, repository, "desk")
    assert place.holds() == expected()
    assert (state.backup, state.files, state.error) == ("20261128T023000Z", len(expected()), "")
    assert copies.State.read(repository, PLACE) == state
    # Nothing is sent again.
    place.sent.clear()
    copies.copy(PLACE, repository, "desk")
    assert place.sent == []


def test_files_go_before_those_that_refer_to_them(repository: Path, place: FakePlace) -> None:
    copies.copy(PLACE, repository, "desk")
    order = [
        "files/data/ab/abcd",
        "files/index/i",
        "postgres/backup/main/backup.info",
        "files/snapshots/s",
        "secrets/secrets.vault",
        "manifests/20261128T023000Z.json",
        "repository.json",
    ]
    assert [name for name in place.sent if name in order] == order
    infos = [place.sent.index(f"postgres/backup/main/backup.info{each}") for each in (".copy", "")]
    assert infos == sorted(infos)
    assert place.sent.index(f"postgres/backup/main/{FULL}/bundle/1") < place.sent.index(
        f"postgres/backup/main/{FULL}/backup.manifest"
    )
    assert place.sent[-1] == "repository.json"


@pytest.mark.parametrize("files", range(0, 32, 3))
def test_a_copy_that_is_cut_off_refers_to_nothing_that_is_missing(
    repository: Path, place: FakePlace, files: int
) -> None:
    place.left = files
    try:
        copies.copy(PLACE, repository, "desk")
    except backup_base.BackupError:
        stages = {copies.stage_of(name) for name in place.holds()}
        for stage in stages:
            below = {name for name in expected() if copies.stage_of(name) < stage}
            assert below <= place.holds().keys(), stage
    place.left = sys.maxsize
    copies.copy(PLACE, repository, "desk")
    assert place.holds() == expected()
    assert not [path for path in (place.directory / "incoming").rglob("*") if path.is_file()]


def test_what_has_expired_goes_last_and_manifests_first(repository: Path, place: FakePlace) -> None:
    copies.copy(PLACE, repository, "desk")
    gone = ["files/data/ab/abcd", "files/index/i", "files/snapshots/s", "manifests/20261128T023000Z.json"]
    for name in gone:
        (repository / name).unlink()
    (repository / "manifests/20261129T023000Z.json").write_text("{}")
    place.calls.clear()
    asked: list[Collection[str]] = []
    copies.copy(PLACE, repository, "desk", lambda names: asked.append(names) or "")
    words = [call[0] for call in place.calls]
    assert words.index("delete") > len(words) - 1 - words[::-1].index("move")
    assert asked == [gone[::-1]]
    assert not set(gone) & set(place.holds())


def test_what_has_not_expired_stays(repository: Path, place: FakePlace) -> None:
    copies.copy(PLACE, repository, "desk")
    (repository / "files/data/ab/abcd").unlink()
    state = copies.copy(PLACE, repository, "desk", lambda _names: "it is damaged")
    assert state.kept == "it is damaged" and "files/data/ab/abcd" in place.holds()


def test_a_file_with_another_size_is_not_overwritten(repository: Path, place: FakePlace) -> None:
    """It may be the last good one."""
    copies.copy(PLACE, repository, "desk")
    (repository / "files/data/ab/abcd").write_text("")
    (repository / "postgres/backup/main/backup.info").write_text("info, longer")
    with pytest.raises(backup_base.BackupError, match="files/data/ab/abcd has another size"):
        copies.copy(PLACE, repository, "desk")
    assert place.holds()["files/data/ab/abcd"] == "pack"
    assert place.holds()["postgres/backup/main/backup.info"] == "info, longer"


def test_what_changes_is_sent_again_though_its_size_is_the_same(repository: Path, place: FakePlace) -> None:
    copies.copy(PLACE, repository, "desk")
    time.sleep(0.01)
    (repository / "secrets/secrets.vault").write_text("CIPHER")
    copies.copy(PLACE, repository, "desk")
    assert place.holds()["secrets/secrets.vault"] == "CIPHER"


def test_others_copies_are_refused(repository: Path, place: FakePlace) -> None:
    copies.copy(PLACE, repository, "desk")
    with pytest.raises(backup_base.BackupError, match="the stack 'desk'"):
        copies.copy(PLACE, repository, "other")
    (repository / "files/config").write_text("made again")
    before = place.holds()
    with pytest.raises(backup_base.BackupError, match="another repository of the stack 'desk'"):
        copies.copy(PLACE, repository, "desk")
    assert place.holds() == before
    (place.directory / "copy.json").unlink()
    with pytest.raises(backup_base.BackupError, match="something else than a copy"):
        copies.copy(PLACE, repository, "desk")


def test_a_copy_that_is_ahead_is_refused(repository: Path, place: FakePlace) -> None:
    """Such as when the repository was taken back, or two hosts have it."""
    copies.copy(PLACE, repository, "desk")
    (place.directory / "repository/manifests/20261201T023000Z.json").write_text("{}")
    with pytest.raises(backup_base.BackupError, match="20261201T023000Z, which is newer"):
        copies.copy(PLACE, repository, "desk")
    assert "manifests/20261201T023000Z.json" in place.holds()


def test_a_directory_that_cannot_be_read_does_not_look_empty(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(top: Path, onerror: Any) -> Any:
        onerror(OSError("Input/output error"))
        return iter(())

    monkeypatch.setattr(copies.os, "walk", walk)
    with pytest.raises(OSError, match="Input/output"):
        copies.present(repository)


def test_a_lost_mount_is_not_copied(tmp_path: Path, place: FakePlace, repository: Path) -> None:
    copies.copy(PLACE, repository, "desk")
    before = place.holds()
    empty = tmp_path / "empty"
    empty.mkdir()
    settings = backup.Settings("desk", empty, {}, {}, ["02:30"], 7, 14, copies={"nas": vars(PLACE) | {}})
    settings.copies = {"nas": {"path": PLACE.path, "title": PLACE.title}}
    assert backup.copy_to(settings, settings.places[0]) is False
    assert place.holds() == before and list(empty.iterdir()) == []


# ---- back


def test_a_copy_is_fetched_and_a_fetch_that_was_cut_off_goes_on(
    repository: Path, place: FakePlace, tmp_path: Path
) -> None:
    copies.copy(PLACE, repository, "desk")
    target = tmp_path / "new"
    target.mkdir()
    place.left = 4
    with pytest.raises(backup_base.BackupError, match="cut off"):
        copies.fetch(PLACE, target, "desk")
    assert not (target / "repository.json").exists()
    place.left = sys.maxsize
    assert copies.fetch(PLACE, target, "desk")["backup"] == "20261128T023000Z"
    found = {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}
    assert found == expected()
    with pytest.raises(backup_base.BackupError, match="holds a repository already"):
        copies.fetch(PLACE, target, "desk")


def test_what_was_being_replaced_is_fetched_from_where_it_is_whole(
    repository: Path, place: FakePlace, tmp_path: Path
) -> None:
    copies.copy(PLACE, repository, "desk")
    vault = place.directory / "incoming/secrets/secrets.vault"
    vault.parent.mkdir(parents=True, exist_ok=True)
    (place.directory / "repository/secrets/secrets.vault").rename(vault)
    target = tmp_path / "new"
    target.mkdir()
    copies.fetch(PLACE, target, "desk")
    assert (target / "secrets/secrets.vault").read_text() == "cipher"


def test_a_fetch_refuses_what_it_could_damage(repository: Path, place: FakePlace, tmp_path: Path) -> None:
    target = tmp_path / "new"
    target.mkdir()
    with pytest.raises(backup_base.BackupError, match="has no copy"):
        copies.fetch(PLACE, target, "desk")
    place.left = 10
    with pytest.raises(backup_base.BackupError, match="cut off"):
        copies.copy(PLACE, repository, "desk")
    place.left = sys.maxsize
    with pytest.raises(backup_base.BackupError, match="never been complete"):
        copies.fetch(PLACE, target, "desk")
    copies.copy(PLACE, repository, "desk")
    with pytest.raises(backup_base.BackupError, match="the stack 'desk'"):
        copies.fetch(PLACE, target, "other")
    (target / "holiday.jpg").write_text("")
    with pytest.raises(backup_base.BackupError, match=r"something else: holiday\.jpg"):
        copies.fetch(PLACE, target, "desk")


# ---- the program


def settings_of(repository: Path) -> Any:
    found = backup.Settings("desk", repository, {}, {}, ["02:30"], 7, 14, copy_minutes=15)
    found.copies = {"nas": {"path": PLACE.path, "title": PLACE.title}}
    (repository / "repository.json").write_text(json.dumps({"stack": "desk", "format": backup.FORMAT}))
    return found


def test_a_backup_goes_before_a_copy(repository: Path) -> None:
    """A copy that runs gives way to a backup, and a backup does not give way to a copy, nor to another one."""
    settings = settings_of(repository)
    program = (
        "import sys, time, pathlib; sys.path.insert(0, sys.argv[1]); import backup\n"
        "settings = backup.Settings('desk', pathlib.Path(sys.argv[2]), {}, {}, [], 7, 14)\n"
        "with backup.locked(settings, copying=sys.argv[3] == 'copy'):\n"
        "    print('locked', flush=True)\n"
        "    end = time.monotonic() + 20\n"
        "    while time.monotonic() < end:\n"
        "        time.sleep(0.05)\n"
        "        if sys.argv[3] == 'copy' and backup.wanted(settings): break\n"
    )
    runtime = REPOSITORY / "roles/backup/files/runtime"
    for kind in ("copy", "backup"):
        words = [sys.executable, "-c", program, str(runtime), str(repository), kind]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout and other.stdout.readline() == "locked\n"
            with pytest.raises(backup.BusyError), backup.locked(settings, copying=True):
                pass
            if kind == "copy":
                with backup.locked(settings):
                    assert other.wait(10) == 0
            else:
                with pytest.raises(backup.BusyError, match="Another backup"), backup.locked(settings):
                    pass
            other.kill()
    assert not backup.wanted(settings)


def test_a_failed_copy_is_shown_and_does_not_stay(
    repository: Path, place: FakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(repository)
    monkeypatch.setattr(backup, "COPY_FAILED", repository / ".failed-copy")
    now = datetime.now(UTC)
    assert list(backup.copy_figures(settings, now)) == [f"0 0 complete copies at nas ({PLACE.title})"]
    place.left = 3
    assert backup.copy_all(settings) == ["nas"]
    assert backup.COPY_FAILED.exists()
    [alert] = [each["text"] for each in backup.report(settings, now)["alerts"] if each["kind"] == "copy"]
    assert alert.startswith("failed copies to nas since") and "cut off" in alert
    place.left = sys.maxsize
    assert backup.copy_all(settings) == []
    assert not backup.COPY_FAILED.exists()
    assert not [each for each in backup.report(settings, now)["alerts"] if each["kind"] == "copy"]
    later = now + timedelta(minutes=7, seconds=30)
    assert list(backup.copy_figures(settings, later)) == [
        f"7 0 minutes since the last complete copy to nas ({PLACE.title}), up to the backup 20261128T023000Z"
    ]
    # Another place under the same name has none yet.
    settings.copies["nas"]["title"] = "elsewhere"
    assert list(backup.copy_figures(settings, later)) == ["0 0 complete copies at nas (elsewhere)"]


def test_copies_are_due_after_each_backup_and_by_the_minute(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(repository)
    clock, outcomes = [1000.0], {}
    made: list[float] = []
    monkeypatch.setattr(backup.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(backup, "mark_copies", lambda _settings: None)
    monkeypatch.setattr(backup, "copy_to", lambda *_: made.append(clock[0]) or outcomes.get(clock[0], True))
    found = backup.Copies(settings)
    outcomes[2500.0] = False
    for moment in range(1000, 4000, 30):
        clock[0] = float(moment)
        if moment == 1510:
            (repository / "manifests/20261129T023000Z.json").write_text("{}")
        found.look()
    # A minute after the start, after the backup, after 15 minutes, and 10 after one that failed.
    assert made == [1060.0, 1510.0, 2410.0, 3310.0]


def test_only_what_has_expired_is_removed_from_copies(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(repository)
    settings.postgres = {"user": "1:1"}
    info = {
        "backup": [{"label": FULL, "database": {"id": 1}, "archive": {"start": "000000010000000000000005"}}],
        "archive": [
            {"id": "17-1", "database": {"id": 1}},
            {"id": "15-2", "database": {"id": 2}},
            {"id": "17-3", "database": {"id": 3}},
        ],
        "db": [{"id": 1, "system-id": 11}, {"id": 2, "system-id": 22}, {"id": 3, "system-id": 11}],
    }
    monkeypatch.setattr(backup, "stanza", lambda _settings: info)
    checked: list[str] = []
    monkeypatch.setattr(backup, "restic", lambda _settings, *words: checked.append(words[0]) or "")
    now = datetime(2026, 11, 28, 12, tzinfo=UTC)
    archive = "postgres/archive/main/17-1/0000000100000000/0000000100000000000000{}-" + "a" * 40 + ".zst"
    for name, expired in {
        archive.format("04"): True,
        archive.format("05"): False,
        archive.replace("17-1", "17-0").format("09"): True,
        archive.replace("17-1", "15-2").format("09"): True,
        # The same cluster, which came back.
        archive.replace("17-1", "17-3").format("04"): True,
        archive.replace("17-1", "17-3").format("09"): False,
        f"postgres/backup/main/{FULL}/bundle/1": False,
        "postgres/backup/main/20261101-023000F/bundle/1": True,
        "manifests/20261113T023000Z.json": True,
        "manifests/20261115T023000Z.json": False,
        "secrets/secrets.vault": False,
        "files/data/ab/abcd": True,
    }.items():
        assert (backup.not_expired(settings, [name], now) == "") is expired, name
    assert checked == ["check"]


# ---- gaps


def segment(position: int, timeline: int = 1) -> str:
    return wal.segment_name(timeline, position)


def stored(*positions: int, timeline: int = 1) -> dict[str, datetime]:
    begin = datetime(2026, 11, 28, 12, tzinfo=UTC)
    return {segment(each, timeline): begin + timedelta(minutes=each) for each in positions}


def made(label: str, end: int, timeline: int = 1, history: Any = ()) -> dict[str, Any]:
    moment = datetime(2026, 11, 28, 12, tzinfo=UTC) + timedelta(minutes=end, seconds=-30)
    return {
        "id": label,
        "started": (moment - timedelta(seconds=20)).isoformat(),
        "finished": (moment + timedelta(seconds=35)).isoformat(),
        "postgres": {
            "label": label, "wal": segment(end, timeline), "lsn": "0/1", "time": moment.isoformat(), "history": history,
        },
    }  # fmt: skip


STARTS = {"A": segment(2), "B": segment(12), "C": segment(22, 2)}


def test_names_of_segments() -> None:
    assert wal.position_of("0000000100000002000000FE") == 0x2FE
    assert wal.segment_name(1, 0x2FF + 1) == "000000010000000300000000"


def test_a_whole_archive_has_no_gap() -> None:
    found = wal.with_gaps([made("B", 13), made("A", 3)], STARTS, stored(*range(1, 20)))
    assert not any({"gap", "missing"} & set(each) for each in found)


def test_a_gap_is_that_of_the_backup_before_it() -> None:
    have = stored(*(each for each in range(1, 20) if each not in (8, 9)))
    newer, older = wal.with_gaps([made("B", 13), made("A", 3)], STARTS, have)
    assert "gap" not in newer and "missing" not in older
    # Segment 7 has the transactions since 12:06, when segment 6 was stored.
    assert older["gap"] == {"segment": segment(8), "until": "2026-11-28T12:05:58+00:00"}
    [said] = backup.gaps([newer, older])
    assert "lacks 000000010000000000000008" in said and "states until 2026-11-28 12:05:58 UTC" in said
    assert "later ones from the backup B on" in said


def test_a_gap_right_after_a_backup_leaves_only_the_backup() -> None:
    [_newer, older] = wal.with_gaps([made("B", 13), made("A", 3)], STARTS, stored(2, 3, *range(5, 20)))
    assert older["gap"] == {"segment": segment(4), "until": ""}


def test_a_gap_in_a_backup_is_its_own() -> None:
    newer, older = wal.with_gaps([made("B", 13), made("A", 3)], STARTS, stored(*range(1, 13), *range(14, 20)))
    assert newer["missing"] == segment(13) and "missing" not in older
    assert older["gap"]["segment"] == segment(13)


def test_a_restore_begins_a_timeline_and_is_no_gap() -> None:
    """The former timeline went on to 19; the new one began in segment 15, as its history says, or its first segment."""
    have = stored(*range(1, 20)) | stored(*range(15, 30), timeline=2)
    for history in ([["1", "0/F000100", "before 2026"]], ()):
        known = [made("C", 23, 2, history), made("B", 13), made("A", 3)] if history else [made("B", 13), made("A", 3)]
        assert not any({"gap", "missing"} & set(each) for each in wal.with_gaps(known, STARTS, have))
    [newest, middle, _oldest] = wal.with_gaps(
        [made("C", 23, 2, [["1", "0/F000100", "x"]]), made("B", 13), made("A", 3)],
        STARTS,
        {name: at for name, at in have.items() if name != segment(17, 2)},
    )
    assert middle["gap"]["segment"] == segment(17, 2) and "gap" not in newest


def test_a_cluster_that_came_back_has_no_gap_before_its_first_backup() -> None:
    """pgBackRest lets expire what its new archive has from before that; what is missing later is told."""
    # It came back in segment 13, after the backup A, and C is its first backup there.
    have = stored(*range(1, 15)) | stored(*range(22, 30), timeline=2)
    known = [made("C", 23, 2, [["1", "0/D001690", "x"]]), made("B", 13), made("A", 3)]
    assert [each["id"] for each in wal.with_gaps(known, STARTS, have) if "gap" in each] == ["A"]
    again = [(1, segment(22, 2))]
    assert not any({"gap", "missing"} & set(each) for each in wal.with_gaps(known, STARTS, have, again))
    without = {name: at for name, at in have.items() if name not in (segment(8), segment(25, 2))}
    newest, _middle, oldest = wal.with_gaps(known, STARTS, without, again)
    assert (newest["gap"]["segment"], oldest["gap"]["segment"]) == (segment(25, 2), segment(8))


def test_what_comes_after_a_gap_is_refused_and_what_comes_before_is_not() -> None:
    known = wal.with_gaps([made("B", 13), made("A", 3)], STARTS, stored(*(each for each in range(1, 20) if each != 8)))
    assert chosen_backup(known, "A")["manifest"]["id"] == "A"
    assert chosen_backup(known, "latest")["manifest"]["id"] == "B"
    assert "--set=A" in chosen_backup(known, "2026-11-28 12:05:58")["pgbackrest"]
    with pytest.raises(
        AnsibleFilterError, match=r"newest state before it .* is 2026-11-28 12:05:58 UTC.* the backup B\."
    ):
        chosen_backup(known, "2026-11-28 12:06:30")
    assert "nothing from" not in chosen_backup(known, "end")["title"]


def test_an_archive_that_ends_early_is_said_where_all_of_it_is_restored() -> None:
    known = wal.with_gaps([made("A", 3)], STARTS, stored(2, 3, 4, 6))
    assert "nothing from 000000010000000000000005 on" in chosen_backup(known, "end")["title"]


def test_a_backup_without_its_wal_is_refused() -> None:
    known = wal.with_gaps([made("B", 13), made("A", 3)], STARTS, stored(*range(1, 13), *range(14, 20)))
    with pytest.raises(AnsibleFilterError, match=r"the backup B cannot be restored\. Others can: A"):
        chosen_backup(known, "latest")


# ---- rclone


@pytest.mark.parametrize(
    ("script", "said"), [("sleep 60", "nothing was sent or received"), ("false", "did not say why")]
)
def test_a_place_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    (tmp_path / "rclone").write_text(f"#!/bin/sh\nexec {script}\n")
    (tmp_path / "rclone").chmod(0o755)
    (tmp_path / "rclone.conf").write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(copies, "CONFIG", tmp_path / "rclone.conf")
    monkeypatch.setattr(copies, "STALLED_SECONDS", 1.0)
    with pytest.raises(backup_base.BackupError, match=said):
        copies.rclone(PLACE, "copy")
    if script.startswith("sleep"):
        with pytest.raises(copies.GiveWayError):
            copies.rclone(PLACE, "copy", stop=lambda: True)


def test_errors_are_told_once_and_without_times() -> None:
    errors = (
        "2026/11/29 01:00:00 ERROR : : error listing: directory not found\n"
        "2026/11/29 01:00:00 Failed to cat with 2 errors: last error was: directory not found\n"
    )
    assert copies.said(errors) == ": error listing: directory not found / directory not found"


def test_the_archives_of_a_cluster_that_came_back(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another cluster was there meanwhile, with its own; WAL of the first one is in two."""
    settings = settings_of(repository)
    settings.postgres = {"user": "1:1"}
    info = {
        "backup": [
            {"label": FULL, "archive": {"start": segment(5)}, "database": {"id": 1}},
            {"label": "other", "archive": {"start": segment(2)}, "database": {"id": 2}},
        ],
        "archive": [{"id": f"1{number}-{number}", "database": {"id": number}} for number in (1, 2, 3)],
        "db": [{"id": 1, "system-id": 11}, {"id": 2, "system-id": 22}, {"id": 3, "system-id": 11}],
    }
    monkeypatch.setattr(backup, "stanza", lambda _settings: info)
    known = [
        {
            "id": "b",
            "finished": "2026-11-28T02:30:00+00:00",
            "postgres": {"system": "22", "label": "other", "wal": segment(2)},
        },
        {
            "id": "a",
            "finished": "2026-11-28T01:30:00+00:00",
            "postgres": {"system": "11", "label": FULL, "wal": segment(5)},
        },
    ]
    monkeypatch.setattr(backup, "manifests", lambda _settings: known)
    for place, positions in {"11-1": (5, 6), "12-2": (2, 3), "13-3": (7, 9)}.items():
        directory = repository / "postgres/archive/main" / place / "0000000100000000"
        directory.mkdir(parents=True)
        for position in positions:
            (directory / f"{segment(position)}-{'a' * 40}.zst").touch()
    found = {each["id"]: each for each in backup.known_backups(settings)}
    assert not {"missing", "gap"} & found["b"].keys()
    assert "missing" not in found["a"] and found["a"]["gap"]["segment"] == segment(8)
    # It was backed up since, on its new timeline.
    info["backup"].append({"label": "since", "archive": {"start": segment(9, 2)}, "database": {"id": 3}})
    again = {**known[1], "id": "c", "postgres": {**known[1]["postgres"], "label": "since", "wal": segment(9, 2)}}
    again["postgres"]["history"] = [["1", "0/7000100", "x"]]
    known.insert(0, again)
    (directory.parent / "0000000200000000").mkdir()
    (directory.parent / "0000000200000000" / f"{segment(9, 2)}-{'a' * 40}.zst").touch()
    assert not any({"missing", "gap"} & each.keys() for each in backup.known_backups(settings))
