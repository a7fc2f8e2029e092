"""Backups: the container's program without PostgreSQL and Restic, and the choice of what is restored."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.backups import (
    backup_left_out,
    backup_places,
    bucket_changes,
    chosen_backup,
    decrypted_secrets,
    drill_predictions,
    later_versions,
    moment_of,
    moment_seconds,
    restored_part,
)
from collection_under_test import REPOSITORY, ansible_playbook, program

# The program imports the modules beside it.
sys.path.append(str(REPOSITORY / "roles/backup/files/runtime"))
backup = program("roles/backup/files/runtime/backup.py")
NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


def manifest(started: str, kind: str = "incr", lsn: str = "0/1") -> dict[str, Any]:
    begun = datetime.fromisoformat(started).replace(tzinfo=UTC)
    return {
        "id": f"{begun:%Y%m%dT%H%M%SZ}",
        "type": kind,
        "started": begun.isoformat(),
        "finished": (begun + timedelta(seconds=20)).isoformat(),
        "postgres": {"lsn": lsn, "wal": "000000020000000000000003", "time": begun.isoformat(), "label": "L"},
        "files": {"snapshot": f"snapshot-{begun:%d}"},
    }


KNOWN = [manifest("2026-11-28T02:30:00"), manifest("2026-11-27T02:30:00"), manifest("2026-11-26T02:30:00", "full")]


@pytest.fixture
def settings(tmp_path: Path) -> Any:
    found = backup.Settings("desk", tmp_path, {}, {}, ["02:30"], 7, 14)
    found.mark.write_text(json.dumps({"stack": "desk", "format": backup.FORMAT}))
    found.manifests.mkdir()
    return found


def put(settings: Any, *manifests: dict[str, Any]) -> None:
    for each in manifests:
        content = json.dumps({**each, "sha256": backup.digest_of(each)})
        (settings.manifests / f"{each['id']}.json").write_text(content)


# ---- what is restored


def test_the_newest_backup() -> None:
    found = chosen_backup(KNOWN, "latest")
    assert found["manifest"]["id"] == "20261128T023000Z"
    # The timeline is the segment's: after an earlier restore there are several.
    assert found["pgbackrest"] == [
        "--set=L", "--type=lsn", "--target=0/1", "--target-action=promote", "--target-timeline=2"
    ]  # fmt: skip
    assert found["moment"] == "2026-11-28T02:30:00+00:00"


def test_a_backup_by_its_id() -> None:
    assert chosen_backup(KNOWN, "20261127T023000Z")["manifest"] == KNOWN[1]


@pytest.mark.parametrize(
    ("moment", "volumes"),
    [
        ("2026-11-27 02:30:00", "20261127T023000Z"),
        ("2026-11-27T02:30:01Z", "20261128T023000Z"),
        ("2026-11-27T03:30:01+01:00", "20261128T023000Z"),
        ("2026-11-26 12:00", "20261127T023000Z"),
    ],
)
def test_a_point_in_time_takes_the_first_later_copy_of_the_volumes(moment: str, volumes: str) -> None:
    """It holds all objects that there were at that time, since buckets keep old versions; an earlier copy does not."""
    found = chosen_backup(KNOWN, moment)
    assert found["manifest"]["id"] == volumes
    assert found["pgbackrest"][0] == "--type=time"
    assert moment_of(found["pgbackrest"][1].removeprefix("--target=").replace("+00", "+00:00")) == moment_of(moment)


def with_timeline(made: dict[str, Any], timeline: int, system: str = "7") -> dict[str, Any]:
    point = {**made["postgres"], "wal": f"{timeline:08X}0000000000000003", "system": system}
    return {**made, "postgres": point}


def test_a_point_in_time_before_a_restore_is_on_the_timeline_that_it_left() -> None:
    """The newest timeline may have left before that time: its state would be an older one, without a word."""
    newest, middle, oldest = KNOWN
    known = [with_timeline(newest, 3), with_timeline(middle, 1), with_timeline(oldest, 1)]
    assert "--target-timeline=1" in chosen_backup(known, "2026-11-26 12:00")["pgbackrest"]


@pytest.mark.parametrize("after", [{"timeline": 3}, {"timeline": 1, "system": "8"}])
def test_a_point_in_time_beside_a_restore_is_refused(after: dict[str, Any]) -> None:
    """No copy of the volumes has the objects of the state that was left, or was begun anew."""
    known = [with_timeline(KNOWN[0], **after), with_timeline(KNOWN[1], 1)]
    with pytest.raises(AnsibleFilterError, match="Between the backups 20261127T023000Z and 20261128T023000Z the stack"):
        chosen_backup(known, "2026-11-27 12:00")


def test_all_that_is_archived_is_not_taken_back() -> None:
    found = chosen_backup(KNOWN, "end")
    assert (found["manifest"], found["moment"], found["pgbackrest"]) == (KNOWN[0], "", ["--type=default"])


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("2026-11-28 02:30:01", "newest backup, 20261128T023000Z, is older"),
        ("2026-11-26 02:30:01", "oldest backup is of 2026-11-26 02:30:20"),
        ("yesterday", "restore_to is 'yesterday'"),
        ("20261125T023000Z", "oldest backup is of"),
    ],
)
def test_what_cannot_be_restored_is_said(wanted: str, said: str) -> None:
    with pytest.raises(AnsibleFilterError, match=said):
        chosen_backup(KNOWN, wanted)


def test_an_empty_repository_is_said() -> None:
    with pytest.raises(AnsibleFilterError, match="no complete backup"):
        chosen_backup([], "latest")


def test_versions_of_objects_are_compared_to_the_millisecond() -> None:
    """MinIO's client counts ages from when it gets round to it, which on a busy host is seconds late."""
    times = {"a": "02:30:00.123Z", "b": "02:30:00.124Z", "c": "02:29:59Z", 'd "e" ü': "02:30:01Z"}
    lines = [
        json.dumps({"lastModified": f"2026-11-28T{time}", "key": f"root/mlflow/{key}", "versionId": f"id-{key}"})
        for key, time in times.items()
    ]
    found = later_versions([*lines, ""], "2026-11-28T02:30:00.123000Z")
    assert found == [["id-b", "root/mlflow/b"], ['id-d "e" ü', 'root/mlflow/d "e" ü']]
    assert moment_seconds("2026-11-28T02:30:00.999Z") == moment_seconds("2026-11-28 02:30")
    with pytest.raises(AnsibleFilterError, match="cannot be read"):
        later_versions(["mc: <ERROR>"], "2026-11-28T02:30:00Z")


def test_what_a_host_backs_up_follows_from_the_contracts() -> None:
    services = {
        "postgres": {
            "data": {
                "postgres-data": {
                    "backup": "postgres", "path": "/pg", "user": "1:2", "admin": "boss", "version_file": "a/PG_VERSION"
                }
            }
        },
        "desk": {"data": {"notes": {"backup": "files"}, "cache": {"backup": "none"}}},
        "elsewhere": {"data": {"other": {"backup": "files"}}},
    }  # fmt: skip
    found = backup_places(services, ["postgres", "desk"])
    assert found["volumes"] == {"notes": {"path": "/data/notes", "kind": "files"}}
    assert found["postgres"] == {"user": "1:2", "admin": "boss", "data": "/pg/a", "socket": "/pg"}
    assert [(each["name"], each["read_only"]) for each in found["mounts"]] == [("postgres-data", True), ("notes", True)]


def test_data_of_other_hosts_is_left_out_by_name() -> None:
    services = {
        "postgres": {"title": "PostgreSQL", "owner": "data", "data": {"postgres-data": {"backup": "postgres"}}},
        "store": {"title": "Store", "owner": "big", "data": {"objects": {"backup": "bucket"}}},
        "desk": {"title": "Desk", "owner": "app", "data": {"notes": {"backup": "files"}, "cache": {"backup": "none"}}},
    }
    assert backup_left_out(services, ["store", "desk"]) == [
        {"volume": "notes", "service": "Desk", "host": "app"},
        {"volume": "objects", "service": "Store", "host": "big"},
    ]
    assert backup_left_out(services, []) == []


def test_secrets_open_with_their_password_only() -> None:
    vault = VaultLib([("", VaultSecret(b"pass word"))])
    text = vault.encrypt(json.dumps({"redis_password": ["x"]})).decode()
    assert decrypted_secrets(text, "pass word") == {"redis_password": ["x"]}
    assert decrypted_secrets(text, "other") == {}
    assert decrypted_secrets("damaged", "pass word") == {}


# ---- the program


def test_a_changed_manifest_is_found(settings: Any) -> None:
    put(settings, *KNOWN)
    assert [each["id"] for each in backup.manifests(settings)] == [each["id"] for each in KNOWN]
    path = settings.manifests / "20261127T023000Z.json"
    path.write_text(path.read_text().replace("snapshot-27", "snapshot-28"))
    with pytest.raises(backup.BackupError, match=r"20261127T023000Z\.json is damaged"):
        backup.manifests(settings)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "not mounted"),
        ("{", "cannot be read"),
        ('{"stack": "other", "format": 1}', "of the stack 'other'"),
        ('{"stack": "desk", "format": 2}', "format 2"),
    ],
)
def test_what_is_no_repository_of_this_stack_is_refused(settings: Any, content: str | None, said: str) -> None:
    if content is None:
        settings.mark.unlink()
    else:
        settings.mark.write_text(content)
    with pytest.raises(backup.BackupError, match=said):
        backup.run(settings)


def test_somebody_elses_directory_is_no_place_for_a_repository(settings: Any) -> None:
    settings.mark.unlink()
    (settings.repository / "holiday.jpg").write_text("")
    with pytest.raises(backup.BackupError, match="something else"):
        backup.initialise(settings)
    assert sorted(path.name for path in settings.repository.iterdir()) == ["holiday.jpg", "manifests"]


def test_two_backups_at_once(settings: Any) -> None:
    with backup.locked(settings), pytest.raises(backup.BackupError, match="Another backup"):
        backup.run(settings)


@pytest.mark.parametrize(("days", "due"), [(0, False), (6, False), (7, True), (8, True)])
def test_when_a_full_backup_is_due(settings: Any, days: int, due: bool) -> None:
    known = [manifest("2026-11-28T02:30:00"), manifest("2026-11-20T02:30:00", "full")]
    now = datetime(2026, 11, 20, 2, 29, tzinfo=UTC) + timedelta(days=days)
    assert backup.full_is_due(settings, known, now) is due
    assert backup.full_is_due(settings, [], now)


def daily(last: str, number: int) -> list[dict[str, Any]]:
    """One backup a day up to a day, the newest first."""
    newest = datetime.fromisoformat(last)
    return [manifest(f"{newest - timedelta(days=each):%Y-%m-%dT%H:%M:%S}") for each in range(number)]


def test_old_backups_go_and_the_newest_stays(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their copies, and those of backups that were cut off."""
    put(settings, *daily("2026-11-28T02:30:00", 5))
    called: list[tuple[str, ...]] = []

    def restic(_settings: Any, *words: str, **_options: Any) -> str:
        called.append(words)
        return json.dumps([{"id": f"snapshot-{day}"} for day in range(24, 29)] + [{"id": "cut-off"}])

    monkeypatch.setattr(backup, "restic", restic)
    settings.keep_days = 2
    backup.expire(settings, datetime(2026, 11, 28, 2, 31, tzinfo=UTC), prune=False)
    assert [each["id"][:8] for each in backup.manifests(settings)] == ["20261128", "20261127", "20261126", "20261125"]
    assert called[1:] == [("forget", "snapshot-24", "cut-off")]
    backup.expire(settings, datetime(2026, 11, 28, 2, 31, tzinfo=UTC), prune=True)
    assert called[-1] == ("prune",)


@pytest.mark.parametrize("leap", ["2026-12-06T02:30:00", "2046-11-28T02:30:00"])
def test_a_clock_that_is_ahead_expires_nothing(settings: Any, monkeypatch: pytest.MonkeyPatch, leap: str) -> None:
    """Nor does a machine that was off for as long: a backup expires once there are others of as many days."""
    usual = daily("2026-11-28T02:30:00", 15)
    put(settings, manifest(leap), *usual)
    monkeypatch.setattr(backup, "restic", lambda *_words: "[]")
    backup.expire(settings, datetime.fromisoformat(leap).replace(tzinfo=UTC) + timedelta(minutes=1), prune=False)
    assert backup.manifests(settings)[1:] == usual


def test_postgresqls_files_expire_with_the_backups_that_need_them(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their number, which does not depend on a clock; those of backups that were cut off count too."""
    fulls = ["20261101-023000F", "20261115-023000F", "20261122-023000F", "20261128-010000F"]
    labels = {"20261128": "20261122-023000F_20261128-023000I", "20261120": "20261115-023000F_20261120-023000I"}
    known = [manifest("2026-11-28T02:30:00"), manifest("2026-11-20T02:30:00")]
    for each in known:
        each["postgres"]["label"] = labels[each["id"][:8]]
    put(settings, *known)
    called: list[tuple[str, ...]] = []

    def pgbackrest(_settings: Any, *words: str) -> str:
        called.append(words)
        backups = [{"label": label, "type": "full"} for label in fulls]
        backups.insert(2, {"label": labels["20261120"], "type": "incr"})
        return json.dumps([{"backup": backups}])

    monkeypatch.setattr(backup, "pgbackrest", pgbackrest)
    monkeypatch.setattr(backup, "restic", lambda *_words: "[]")
    backup.expire(backup.replace(settings, postgres={"user": "1:1"}), NOW, prune=False)
    assert called[-1] == ("--repo1-retention-full=3", "expire")


def test_a_backup_that_would_not_be_the_newest_is_not_made(
    settings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One of the future would be taken for the latest for years, and pgBackRest makes none before it."""
    monkeypatch.setattr(backup, "FAILED", tmp_path / "failed")
    ahead = manifest("2099-01-01T00:00:00")
    put(settings, ahead, *KNOWN)
    monkeypatch.setattr(backup, "restic", lambda *_words: pytest.fail("Nothing is done"))
    with pytest.raises(backup.BackupError, match=r"The newest backup is 20990101T000000Z, .* Set the clock right"):
        backup.run(settings)
    assert len(backup.manifests(settings)) == 4
    assert not backup.clock_problem([ahead], datetime(2098, 12, 31, 23, 59, tzinfo=UTC))
    [alert] = backup.report(settings, NOW)["alerts"]
    assert (alert["kind"], alert["text"][:38]) == ("missed", "backups: The newest backup is 20990101")


def test_only_vanished_files_are_no_failure() -> None:
    script = "import sys; print('done'); sys.stderr.write({!r}); sys.exit(3)"
    vanished = "error: lstat /data/x: no such file or directory\nWarning: at least one source file could not be read\n"
    words = ["python3", "-c", script.format(vanished)]
    assert backup.call(words, accept=backup.VANISHED) == "done\n"
    with pytest.raises(backup.BackupError, match="status 3"):
        backup.call(words)
    denied = vanished + "error: open /data/y: permission denied\n"
    with pytest.raises(backup.BackupError, match="permission denied"):
        backup.call(["python3", "-c", script.format(denied)], accept=backup.VANISHED)
    with pytest.raises(backup.BackupError, match="status 3"):
        backup.call(["python3", "-c", script.format("")], accept=backup.VANISHED)


def test_the_next_of_several_times() -> None:
    times = ["02:30", "14:00"]
    assert backup.next_time(times, NOW) == datetime(2026, 11, 28, 14, 0, tzinfo=UTC)
    assert backup.next_time(times, NOW + timedelta(hours=2)) == datetime(2026, 11, 29, 2, 30, tzinfo=UTC)


def test_a_time_that_passed_while_the_machine_was_off_is_made_up_for(settings: Any) -> None:
    put(settings, manifest("2026-11-27T02:30:01"))
    assert backup.missed(settings, NOW)
    put(settings, manifest("2026-11-28T02:30:01"))
    assert not backup.missed(settings, NOW)


def test_secrets_are_kept_once_and_former_ones_beside_them(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (settings.repository / "secrets").mkdir()
    (settings.repository / "passphrase").write_text("key")
    monkeypatch.setattr(backup, "SECRETS", settings.repository)
    assert backup.keep_secrets(settings, "a" * 64, "one")
    assert not backup.keep_secrets(settings, "a" * 64, "one, encrypted again")
    assert backup.keep_secrets(settings, "b" * 64, "two")
    kept = {path.name.split("-")[0]: path.read_text() for path in (settings.repository / "secrets").glob("*.vault")}
    assert kept == {"secrets.vault": "two", "secrets": "one"}
    assert "a" * 64 not in (settings.repository / "secrets" / "digest").read_text()


def test_a_copy_of_the_secrets_is_there_on_a_full_disk_too(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (settings.repository / "secrets").mkdir()
    (settings.repository / "passphrase").write_text("key")
    monkeypatch.setattr(backup, "SECRETS", settings.repository)
    backup.keep_secrets(settings, "a" * 64, "one")

    def full(path: Path, content: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup, "write", full)
    with pytest.raises(OSError, match="No space"):
        backup.keep_secrets(settings, "b" * 64, "two")
    assert (settings.repository / "secrets/secrets.vault").read_text() == "one"


def test_names_in_postgresql_may_have_any_character(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And functions that an owner has put into a database are not what the administrator calls."""
    asked = []

    def call(command: list[str], user: str = "", stdin: str | None = None, accept: Any = None) -> str:
        asked.append(next(word for word in command if word.startswith("--dbname=")))
        names = '"it\'s = \\\\"\n'
        return names if "pg_database" in str(stdin) else '["public.two\\nlines\\tand \u2028", 3]\n'

    monkeypatch.setattr(backup, "call", call)
    postgres = backup.replace(settings, postgres={"socket": "/run", "admin": "postgres", "user": "1:1"})
    assert backup.row_counts(postgres) == {"it's = \\": {"public.two\nlines\tand \u2028": 3}}
    assert asked[-1] == r"--dbname=dbname='it\'s = \\' options='-c search_path=pg_catalog'"
    with pytest.raises(backup.BackupError, match="has a line break"):
        backup.check_names(postgres)


def test_figures_of_an_empty_and_of_a_lost_repository(settings: Any) -> None:
    assert next(iter(backup.figures(settings, NOW))) == "0 0 complete backups"
    put(settings, KNOWN[0])
    assert next(iter(backup.figures(settings, NOW))) == "1 0 complete backup, 9 h old, made in 20 s"
    put(settings, KNOWN[1])
    assert next(iter(backup.figures(settings, NOW))) == "2 0 complete backups, the newest 9 h old, made in 20 s"
    settings.mark.unlink()
    [line] = backup.figures(settings, NOW)
    assert line.startswith("ALERT backups: The backup directory holds no repository")


def test_rows_of_a_drill_lie_between_those_of_before_and_after_the_restore_point() -> None:
    manifest = {
        "postgres": {
            "rows": {
                "least": {"desk": {"bars": 5, "runs": 9, "tags": 3}, "mlflow": {"runs": 1}},
                "most": {"desk": {"bars": 7, "runs": 8, "tags": 3}, "mlflow": {"runs": 1}},
            }
        }
    }
    assert backup.different_rows(manifest, {"desk": {"bars": 6, "runs": 8, "tags": 3}, "mlflow": {"runs": 1}}) == []
    assert backup.different_rows(manifest, {"desk": {"bars": 8, "runs": 9, "tags": 2}}) == [
        "desk.bars has 8 rows, expected 5 to 7",
        "desk.tags has 2 rows, expected 3",
        "mlflow.runs is missing",
    ]


def test_what_no_backup_has_is_a_figure(settings: Any) -> None:
    put(settings, manifest("2026-11-28T02:30:00"))
    settings.left_out = [{"volume": "notes", "service": "Desk", "host": "app"}]
    assert "1 0 volume of other hosts in no backup: notes (app)" in backup.figures(settings, NOW)


def test_a_failed_drill_is_a_figure(settings: Any) -> None:
    put(settings, manifest("2026-11-28T02:30:00"))
    assert any("make drill" in line for line in backup.figures(settings, NOW))
    result = {"id": "X", "seconds": 8, "finished": "2026-11-28T09:00:00+00:00"}
    (settings.repository / "drill.json").write_text(json.dumps({**result, "problems": ["a.b is missing"]}))
    assert "ALERT 1 problem in the last drill, 3 h ago, of X, which failed: a.b is missing" in backup.figures(
        settings, NOW
    )
    (settings.repository / "drill.json").write_text(json.dumps({**result, "problems": []}))
    assert "0 0 problems in the last drill, 3 h ago, of X, which passed in 8 s" in backup.figures(settings, NOW)


def alerts(settings: Any, now: datetime = NOW) -> dict[str, str]:
    return {each["kind"]: each["text"] for each in backup.report(settings, now)["alerts"]}


def test_a_missed_backup_is_an_alert(settings: Any) -> None:
    """Once it could have been made: not while it is being made, and not for a repository that was made since."""
    put(settings, manifest("2026-11-27T02:30:01"))
    assert alerts(settings, datetime(2026, 11, 28, 3, 30, tzinfo=UTC)) == {}
    said = "missed backups: one was due at 2026-11-28 02:30 UTC, and the newest is 25 h old"
    assert alerts(settings, datetime(2026, 11, 28, 3, 31, tzinfo=UTC)) == {"missed": said}
    assert f"ALERT {said}" in backup.figures(settings, datetime(2026, 11, 28, 3, 31, tzinfo=UTC))
    put(settings, manifest("2026-11-28T02:30:01"))
    assert alerts(settings) == {}


def test_a_repository_without_any_backup_is_an_alert_after_the_first_time(settings: Any) -> None:
    made = datetime(2026, 11, 28, 2, 0, tzinfo=UTC).timestamp()
    os.utime(settings.mark, (made, made))
    assert alerts(settings, datetime(2026, 11, 28, 3, 0, tzinfo=UTC)) == {}
    assert alerts(settings)["missed"].endswith("one was due at 2026-11-28 02:30 UTC, and there is none")


def test_a_failed_backup_is_an_alert_until_one_succeeds(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(settings, manifest("2026-11-28T02:30:00"))
    monkeypatch.setattr(backup, "FAILED", settings.repository / "failed")
    monkeypatch.setattr(backup, "run", lambda settings: backup.check_repository(settings))
    settings.mark.rename(settings.repository / "away")
    assert not backup.attempt(settings)
    (settings.repository / "away").rename(settings.mark)
    assert "holds no repository" in alerts(settings)["failed"]
    # Whatever it is that happens: the container would begin anew, and healthy.
    monkeypatch.setattr(backup, "run", lambda settings: int("two\nlines"))
    assert not backup.attempt(settings)
    assert "two" in alerts(settings)["failed"]
    monkeypatch.setattr(backup, "run", lambda settings: manifest("2026-11-28T02:30:00"))
    assert backup.attempt(settings) and alerts(settings) == {}


def asked(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def test_the_state_is_answered_over_http(settings: Any) -> None:
    """As JSON and as metrics that Prometheus reads, with every kind of alert."""
    put(settings, {**manifest("2026-11-28T02:30:00"), "repository_bytes": 7 << 20})
    (settings.repository / "drill.json").write_text(
        json.dumps({"id": "X", "seconds": 8, "finished": "2026-11-28T09:00:00+00:00", "problems": ["a.b is missing"]})
    )
    reporter = backup.backup_report.Reporter(lambda now: backup.report(settings, NOW))
    assert reporter.answer("/status")[0] == 503
    reporter.refresh()
    server = reporter.serve(0)
    try:
        status, text = asked(server.server_port, "/status")
        assert status == 200 and json.loads(text)["newest"]["repository_bytes"] == 7 << 20
        status, text = asked(server.server_port, "/metrics")
        assert status == 200
        lines = text.splitlines()
        assert 'backup_alert{kind="drill"} 1.0' in lines and 'backup_alert{kind="missed"} 0.0' in lines
        assert f"backup_repository_bytes {float(7 << 20)}" in lines and "backup_newest_duration_seconds 20.0" in lines
        assert {line.split("{")[0].split()[0] for line in lines if line[0] != "#"} == {
            line.split()[2] for line in lines if line.startswith("# TYPE")
        }
        assert asked(server.server_port, "/backup")[0] == 404
    finally:
        server.shutdown()
        server.server_close()


def test_metrics_of_a_repository_that_is_away(settings: Any) -> None:
    settings.mark.unlink()
    text = backup.backup_report.metrics(backup.report(settings, NOW))
    assert 'backup_alert{kind="repository"} 1.0' in text and "backup_newest" not in text


def test_predictions_of_a_drill_are_compared() -> None:
    """A model that cannot be loaded, or predicts something else, is a problem; one that is gone by now is none."""
    one, other, broken = {"digest": "1", "first": "0.5"}, {"digest": "2", "first": "0.6"}, {"error": "gone"}
    silent = {"digest": "", "first": ""}

    def judged(restored: dict[str, str], live: dict[str, str]) -> tuple[list[str], list[str]]:
        found = drill_predictions([{"name": "desk", "version": "3", "restored": restored, "live": live}])
        return found["problems"], found["said"]

    assert judged(one, one) == ([], ["The champion desk 3 predicts 0.5, as in the running stack."])
    assert judged(one, other) == (["the champion desk 3 predicts 0.5, and in the running stack 0.6"], [])
    assert judged(broken, one) == (["the champion desk 3 cannot be loaded: gone"], [])
    assert judged(one, broken)[1] == ["The champion desk 3 predicts 0.5; the running stack's cannot be compared: gone."]
    assert not judged(silent, silent)[0] and "neither an example" in judged(silent, silent)[1][0]


# ---- a part


PARTS = {
    "mlflow": {
        "databases": {"mlflow": {}}, "buckets": ["mlflow"],
        "containers": {"mlflow": {"here": True, "job": False}, "mlflow-upgrade": {"here": True, "job": True},
                       "mlflow-elsewhere": {"here": False, "job": False}},
    },
    "redis": {"databases": {}, "buckets": [], "containers": {"redis": {"here": True, "job": False}}},
}  # fmt: skip


def test_a_part_and_who_uses_it() -> None:
    found = restored_part("database:mlflow", PARTS, ["mlflow", "redis"])
    assert found == {
        "kind": "database", "name": "mlflow", "services": ["mlflow"], "containers": ["mlflow"], "problems": [],
    }  # fmt: skip
    assert restored_part("experiment:my: runs", PARTS, ["mlflow"])["name"] == "my: runs"
    assert restored_part("experiment:two\nlines", PARTS, ["mlflow"])["name"] == "two\nlines"


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        ("", "restore_part is '', expected database:NAME"),
        ("database:", "restore_part is 'database:', expected database:NAME"),
        ("bucket:other", "There is no bucket other. There are mlflow."),
        ("database:airflow", "There is no database airflow. There are mlflow."),
    ],
)
def test_a_part_that_there_is_not(wanted: str, problem: str) -> None:
    assert restored_part(wanted, PARTS, ["mlflow", "redis"])["problems"][0].startswith(problem)
    assert restored_part("experiment:runs", PARTS, ["redis"])["problems"] == ["MLflow does not run on this host."]


def listing(**objects: str) -> list[str]:
    """Lines of MinIO's client: key to content."""
    found = [{"key": key, "etag": each, "size": 4, "versionId": f"{key}@{each}"} for key, each in objects.items()]
    return [json.dumps(each) for each in found]


def test_a_bucket_at_an_earlier_moment() -> None:
    now, then = listing(same="1", changed="9", later="9"), listing(same="1", changed="2", gone="3")
    assert bucket_changes(now, then) == {
        "restore": [["changed@2", "changed"], ["gone@3", "gone"]], "remove": ["later"],
    }  # fmt: skip
    assert bucket_changes(now, then, only_missing=True) == {"restore": [["gone@3", "gone"]], "remove": []}
    deleted = [
        json.dumps({"key": key, "versionId": f"{key}@4", "etag": "", "size": 0, "isDeleteMarker": True})
        for key in ("deleted before", "made again")
    ]
    assert bucket_changes([*now, *listing(**{"made again": "5"})], [*then, *deleted]) == {
        "restore": [["changed@2", "changed"], ["gone@3", "gone"]], "remove": ["later", "made again"],
    }  # fmt: skip
    with pytest.raises(AnsibleFilterError, match="cannot be read"):
        bucket_changes(["{}"], [])


def script(directory: Path, name: str, **variables: Any) -> str:
    """A script of the role, as its tasks hand it to a shell."""
    content = f"{{{{ lookup('ansible.builtin.template', '{REPOSITORY}/roles/backup/templates/{name}') }}}}"
    task = {"ansible.builtin.copy": {"content": content, "dest": f"{directory}/script"}}
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": variables, "tasks": [task]}
    (directory / "play.yml").write_text(json.dumps([play]))
    ansible_playbook(directory, "play.yml")
    return (directory / "script").read_text()


def test_objects_are_restored_by_their_whole_names(tmp_path: Path) -> None:
    """Nothing in a name is taken for a part of the shell's own language."""
    chosen = {"restore": [["v1", "a b/$(id)"], ["v2", "it's;c"]], "remove": ["* d", 'e"f']}
    text = script(tmp_path, "restore_objects.sh.j2", backup_objects_chosen=chosen, backup_objects_place="mlflow")
    functions = "restore_version() { printf '%s\\n' \"$@\"; }; client() { printf '%s\\n' \"$@\"; }\n"
    done = subprocess.run(["sh", "-eu"], input=functions + text, capture_output=True, text=True, check=True)
    restored = ["v1", "mlflow/a b/$(id)", "v2", "mlflow/it's;c"]
    assert done.stdout.splitlines() == [*restored, "rm", "root/mlflow/* d", "rm", 'root/mlflow/e"f']


MC = """#!/usr/bin/env python3
# MinIO's client for find and cp, with a directory in place of the store; cp of an object without content fails.
import json, os, shutil, sys
from pathlib import Path
verb, *words = [word for word in sys.argv[1:] if not word.startswith("--")]
place = Path(os.environ["STORE"], words[0].removeprefix("root/"))
found = [path for path in sorted(place.rglob("*")) if path.is_file()]
for path in found:
    if verb == "find":
        print(json.dumps({"key": str(path)}))
    elif path.stat().st_size == 0:
        sys.exit(f"{path.name} is damaged")
    else:
        target = Path(words[1], path.relative_to(place))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
"""


def test_a_drill_reads_objects_of_any_name(tmp_path: Path) -> None:
    """Line breaks and words of the shell in names are data; what is missing or damaged is said."""
    names = ("a b", "two\nlines\nPLACES\ntouch /tmp/x", "$(id)'")
    places = [f"mlflow/artifacts/{name}" for name in names]
    for place, name in zip(places, ("model", "a\nb", "c"), strict=True):
        (tmp_path / "store" / place).mkdir(parents=True)
        (tmp_path / "store" / place / name).write_text(place)
    damaged, gone = "mlflow/artifacts/damaged", "mlflow/artifacts/gone\nfor good"
    (tmp_path / "store" / damaged).mkdir()
    (tmp_path / "store" / damaged / "empty").touch()
    (tmp_path / "bin").mkdir()
    for name, content in {"mc": MC, "minio": "#!/bin/sh\nexec sleep 60\n", "curl": "#!/bin/sh\n"}.items():
        (tmp_path / "bin" / name).write_text(content)
        (tmp_path / "bin" / name).chmod(0o755)
    for name in ("root_user", "root_password"):
        (tmp_path / name).write_text(name)
    drill = {"places": [*places, damaged, gone], "champions": [{"place": places[1]}, {"place": places[2]}]}
    text = (REPOSITORY / "roles/backup/files/drill_objects.sh").read_text()
    text += script(tmp_path, "drill_objects.sh.j2", backup_drill=drill)
    text = text.replace("/run/secrets", str(tmp_path)).replace("/data/.drill", str(tmp_path / "drill"))
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "STORE": str(tmp_path / "store")}
    done = subprocess.run(["sh"], input=text, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == [
        f"PROBLEM {damaged} cannot be read: empty is damaged",
        "PROBLEM mlflow/artifacts/gone for good has no object",
        "OBJECTS 4",
    ]
    assert (tmp_path / "drill/0/a\nb").read_text() == places[1]
    assert (tmp_path / "drill/1/c").read_text() == places[2]
    assert sorted(path.name for path in (tmp_path / "drill").iterdir()) == ["0", "1"]


def test_places_of_models_may_have_line_breaks(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place = "mlflow-artifacts:/two\nlines\tand tabs"
    monkeypatch.setattr(backup, "has_table", lambda *_words: True)
    monkeypatch.setattr(
        backup, "call", lambda *_words, stdin: f"{json.dumps(place)}\n" if "to_json" in stdin else f"{place}\n"
    )
    postgres = backup.replace(settings, postgres={"socket": "/run", "admin": "postgres", "user": "1:1"})
    assert backup.model_places(postgres) == ["mlflow/artifacts/two\nlines\tand tabs"]


def test_a_repository_is_fetched_with_the_files_of_the_container(tmp_path: Path) -> None:
    """They arrive as they are, for their owner only, and the place is one word."""
    files = {"config/backup.json": '{"a": "$HOME"}', "secrets/rclone.conf": "[nas]\npass = \\$1 `id`"}
    text = script(tmp_path, "fetch.sh.j2", backup_fetch_files=files, fetch_from="the nas")
    for name in ("config", "secrets"):
        (tmp_path / "run" / name).mkdir(parents=True)
    text = text.replace("/run/", f"{tmp_path}/run/").replace("exec python3", "exec printf '%s\\n'")
    done = subprocess.run(["sh"], input=text, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{tmp_path}/run/config/backup.py", "fetch", "the nas"]
    for name, content in files.items():
        assert (tmp_path / "run" / name).read_text() == f"{content}\n"
        assert (tmp_path / "run" / name).stat().st_mode & 0o777 == 0o600


DOCKER = """#!/bin/sh
# Volumes are directories, and the only container was started at $STARTED.
case "$1 $2" in
    'ps --all') echo 1 ;;
    'inspect --format') echo "$STARTED" ;;
    'volume inspect') for name in "$@"; do :; done; [ -d "$VOLUMES/$name" ] && echo "$VOLUMES/$name" ;;
    'volume create') for name in "$@"; do :; done; mkdir "$VOLUMES/$name" ;;
esac
"""


def test_the_record_of_a_restore_says_how_far_it_is(tmp_path: Path) -> None:
    """Begun again, its data is no longer in place; the first attempt's volumes keep theirs, and nothing used goes."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text(DOCKER)
    (tmp_path / "bin/docker").chmod(0o755)
    volume, record = tmp_path / "volumes/desk-data", tmp_path / "config/restore.json"
    volume.mkdir(parents=True)
    text = (REPOSITORY / "roles/backup/files/set_aside.sh").read_text() + "\nset_aside data\n"

    def set_aside(wanted: str, started: str = "2026-01-01T00:00:00Z") -> list[str]:
        environment = {
            "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "VOLUMES": str(volume.parent), "STARTED": started
        }  # fmt: skip
        words = ["sh", "-s", "desk", str(record), wanted]
        done = subprocess.run(words, input=text, env=environment, capture_output=True, text=True, check=True)
        assert not list(volume.iterdir())
        return done.stdout.split()

    record.parent.mkdir()
    record.write_text("20261128T023000Z end\n")
    (volume / "rows").write_text("of before")
    [kept] = set_aside("latest")
    assert (kept, record.read_text()) == ("desk-data.until-20261128T023000Z", "20261128T023000Z latest\nmoved data\n")
    assert (volume.parent / kept / "rows").read_text() == "of before"
    record.write_text(f"{record.read_text()}replaced the backup X\n")
    (volume / "rows").write_text("a part")
    assert set_aside("2026-11-28 02:30") == []
    assert record.read_text() == "20261128T023000Z 2026-11-28 02:30\nmoved data\n"
    (volume / "rows").write_text("used since")
    [other] = set_aside("latest", "2099-01-01T00:00:00Z")
    assert (volume.parent / other / "rows").read_text() == "used since"
    assert (volume.parent / kept / "rows").read_text() == "of before"
    # An earlier attempt whose run was killed is still at it.
    text = text.replace("--wait 60", "--wait 1")
    (volume / "rows").write_text("of this one")
    directory = os.open(record.parent, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    with pytest.raises(subprocess.CalledProcessError) as refused:
        set_aside("latest")
    os.close(directory)
    assert "still moves data" in refused.value.stderr and (volume / "rows").read_text() == "of this one"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (None, "goes on"),
        ("20261128T023000Z 2026-11-28 02:30\nmoved data\n", "(make restore TO='2026-11-28 02:30')"),
        ("", "(make restore TO=latest)"),
        ("20261128T023000Z latest\nmoved data\nreplaced the backup X\n", "goes on"),
    ],
)
def test_a_stack_with_a_part_of_a_backup_is_not_started(tmp_path: Path, record: str | None, said: str) -> None:
    """One whose data is all in place is, because the end of a restore needs the stack."""
    if record is not None:
        (tmp_path / "restore.json").write_text(record)
    check = {"include_role": {"name": "quantops.ibkr_stack.backup", "tasks_from": "interrupted"}}
    rescue = {"debug": {"msg": "{{ ansible_failed_result.msg }}"}}
    play = {
        "hosts": "localhost", "connection": "local", "gather_facts": False,
        "vars": {"stack_name": "desk", "stack_config_dir": str(tmp_path)},
        "tasks": [{"block": [check, {"debug": {"msg": "goes on"}}], "rescue": [rescue]}],
    }  # fmt: skip
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    assert said in ansible_playbook(tmp_path, "play.yml")


def test_a_backup_that_is_put_off_has_not_failed(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a drill works on the repository; it is tried again soon, and if it never comes to it, it is missed."""
    monkeypatch.setattr(backup, "FAILED", settings.repository / "failed")
    with backup.locked(settings):
        assert not backup.attempt(settings)
    assert not backup.FAILED.exists()
