"""Backs up a stack, from inside the container ``backup``.

``python3 backup.py schedule``          wait for the times of the schedule, for ever
``python3 backup.py init``              make the repository where there is none yet; prints CHANGED if it did
``python3 backup.py run [full]``        make one backup now
``python3 backup.py verify``            read everything in the repository and compare checksums, those of copies too
``python3 backup.py list``              print the complete backups as JSON, the newest first, and what WAL is missing
``python3 backup.py copy``              bring the copies at other places up to date now
``python3 backup.py fetch NAME``        bring the repository back from a copy, into an empty directory
``python3 backup.py schemas``           print how far each database was migrated, as JSON
``python3 backup.py status``            print figures for ``make status``
``python3 backup.py secrets NAME``      keep the encrypted secrets of standard input, unless they are kept already
``python3 backup.py drill ID ARG…``     restore a backup into scratch volumes, start PostgreSQL there, compare the rows
``python3 backup.py drilled``           keep the result of a drill, for ``status``
``python3 backup.py restore-database NAME TARGET ARG…``  write one database of a backup into the running server
``python3 backup.py restore-files ID``  write the volumes of a backup, which have to be empty, to where they are mounted

PostgreSQL's part is pgBackRest's, run as PostgreSQL's user; the files of all other volumes are Restic's. A backup is
complete when its manifest is there, which is written last. Steps, in this order:

1. pgBackRest copies PostgreSQL's files.
2. A restore point is written to the WAL, and its LSN noted.
3. Restic copies the volumes. What a row before the restore point refers to was stored before that row was committed,
   and buckets keep old versions, so that the copy has it.
4. The segment with the restore point has reached the archive.
5. The manifest is written.

A restore replays the WAL up to the restore point.

Between backups, the repository is copied to other places, which ``backup_copies`` does; a backup goes before a copy.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import backup_copies
import backup_report
import backup_wal
from backup_base import BackupError, log, write
from backup_report import age, next_time

CONFIG = Path("/run/config/backup.json")
SECRETS = Path("/run/secrets")
#: While it exists, the last attempt has failed, which makes the container unhealthy.
FAILED = Path("/tmp/failed")
#: The same for copies.
COPY_FAILED = Path("/tmp/failed-copy")
RETRY = timedelta(minutes=10)
#: Longest sleep in seconds; the wall clock may be set meanwhile.
LONGEST_SLEEP = 30.0
#: Seconds from the start to the first copy, and from one that gave way to the next attempt.
COPY_SOON = 60.0
#: Seconds within which a copy gives way.
GIVE_WAY = 60.0
#: How far the clock of this host may be behind the newest backup, such as on one that has taken over.
CLOCK_STEP = timedelta(minutes=2)
#: Bytes that are free before a backup begins: some segments of the WAL, and what expiry writes.
ROOM = 64 << 20
#: Longest run of one program.
TIMEOUT = timedelta(hours=12)
#: Longest wait for a segment to be archived.
ARCHIVE_TIMEOUT = timedelta(minutes=3)
#: What Restic says of a file that went away while it was being read, as temporary ones do.
VANISHED = re.compile(r"no such file or directory|at least one source file could not be read", re.IGNORECASE)
#: Where the volume of the running server is mounted, when another one takes its place.
LIVE = "/live"
FORMAT = 1
#: What a directory may hold that becomes a repository: parts of one that were made before its mark.
PARTS = (*backup_copies.BESIDE, "copies", "drill.json", "postgres", "files", "manifests", "secrets")


class BusyError(BackupError):
    """Something else works on the repository."""


@dataclass
class Settings:
    """What this host backs up, and where to.

    Attributes:
        stack: Name of the stack.
        repository: Directory that holds everything.
        volumes: Name of each volume to its ``path`` in this container and its ``kind`` (``bucket``, ``redis`` or
            ``files``).
        postgres: ``user`` (uid:gid), ``admin``, ``socket`` and ``data`` of PostgreSQL; empty where it does not run.
        schedule: Times of day in UTC as ``HH:MM``.
        full_days: Days after which PostgreSQL's files are copied whole again, and everything is verified.
        keep_days: Days for which backups are kept.
        images: Images of the stack by their names.
        copies: Name of each copy to its ``path`` in rclone's remote of that name, its ``title`` and ``ca``.
        copy_minutes: Longest time between two copies.
        port: Where the state of the backups is answered to others.
        left_out: Volumes of other hosts that no backup has: ``volume``, ``service`` and ``host``.
    """

    stack: str
    repository: Path
    volumes: dict[str, dict[str, str]]
    postgres: dict[str, str]
    schedule: list[str]
    full_days: int
    keep_days: int
    images: dict[str, str] = field(default_factory=dict)
    copies: dict[str, dict[str, Any]] = field(default_factory=dict)
    copy_minutes: int = 15
    port: int = 0
    left_out: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path = CONFIG) -> Settings:
        """Read what the role has written."""
        found = json.loads(path.read_text())
        return cls(**{**found, "repository": Path(found["repository"])})

    @property
    def mark(self) -> Path:
        """The file that says that this directory is a repository, and of which stack."""
        return self.repository / "repository.json"

    @property
    def manifests(self) -> Path:
        """The directory of the manifests."""
        return self.repository / "manifests"

    @property
    def files(self) -> Path:
        """Restic's repository."""
        return self.repository / "files"

    @property
    def places(self) -> list[backup_copies.Place]:
        """Where copies are."""
        return [backup_copies.Place(name, **each) for name, each in self.copies.items()]


def call(command: list[str], user: str = "", stdin: str | None = None, accept: re.Pattern[str] | None = None) -> str:
    """Run a program.

    Args:
        command: Program and arguments.
        user: Its user and group id; this program's by default.
        stdin: Its input.
        accept: What each line of its errors looks like if a failure is none.

    Returns:
        What it printed.

    Raises:
        BackupError: With the last lines of its errors.
    """
    identity: dict[str, Any] = {}
    if user:
        uid, gid = map(int, user.split(":"))
        # The group 0 may read the files under /run/secrets.
        identity = {"user": uid, "group": gid, "extra_groups": [0]}
    environment = {
        **os.environ,
        "HOME": "/tmp",
        "RESTIC_PASSWORD_FILE": str(SECRETS / "passphrase"),
        "RESTIC_PROGRESS_FPS": "0",
    }
    # Its input is empty, not this program's: a program that asks something must not wait.
    source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment,
            timeout=TIMEOUT.total_seconds(), check=False, **source, **identity,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BackupError(f"{command[0]} did not end within {TIMEOUT}.") from None
    except OSError as error:
        raise BackupError(f"{command[0]} cannot be run: {error}") from None
    excused = (
        accept is not None
        and done.stderr.strip()
        and all(accept.search(line) for line in done.stderr.splitlines() if line)
    )
    if done.returncode and not excused:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-8:]
        raise BackupError(f"{command[0]} ended with status {done.returncode}: {' / '.join(said)}")
    return done.stdout


# ---- PostgreSQL


def pgbackrest(settings: Settings, *arguments: str) -> str:
    """Run pgBackRest as PostgreSQL's user."""
    words = ["pgbackrest", f"--config={SECRETS}/pgbackrest.conf", "--stanza=main", *arguments]
    return call(words, settings.postgres["user"])


def stanza(settings: Settings) -> dict[str, Any]:
    """Ask pgBackRest what it has."""
    [found] = json.loads(pgbackrest(settings, "info", "--output=json"))
    return dict(found)


def newest_label(settings: Settings) -> str:
    """Name pgBackRest's newest backup."""
    return str(stanza(settings)["backup"][-1]["label"])


def query(settings: Settings, sql: str, database: str = "postgres") -> list[list[str]]:
    """Ask PostgreSQL, over its socket, as its administrator.

    Returns:
        Fields of each row.
    """
    words = [
        "psql",
        "--no-psqlrc",
        "--tuples-only",
        "--no-align",
        "--field-separator=\t",
        "--set=ON_ERROR_STOP=1",
        "--quiet",
    ]
    words += [
        f"--host={settings.postgres['socket']}",
        f"--username={settings.postgres['admin']}",
        # Quoted: a name may have any character. Functions are PostgreSQL's own: those that the owner of a database has
        # made would be run with all rights.
        "--dbname=dbname='{}' options='-c search_path=pg_catalog'".format(re.sub(r"(['\\])", r"\\\1", database)),
        "--file=-",
    ]
    answer = call(words, settings.postgres["user"], stdin=sql)
    return [line.split("\t") for line in answer.split("\n") if line]


COUNTS = """\
SET statement_timeout = '10min';
SELECT format('SELECT json_build_array(%L::text, count(*)) FROM %I.%I',
              n.nspname || '.' || c.relname, n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%' ORDER BY 1
\\gexec
"""


def table_rows(settings: Settings, database: str) -> dict[str, int]:
    """Count the rows of every table of a database."""
    return dict(json.loads(line) for [line] in query(settings, COUNTS, database))


def databases(settings: Settings) -> list[str]:
    """Name all databases, whose names may have any character, like those of tables."""
    sql = "SELECT to_json(datname::text) FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname"
    return [json.loads(line) for [line] in query(settings, sql)]


def check_names(settings: Settings) -> None:
    """Refuse names of databases that pgBackRest writes into its list of files and cannot read from there again.

    Raises:
        BackupError: With what to do.
    """
    for [name] in query(settings, "SELECT to_json(datname::text) FROM pg_database WHERE datname ~ E'[\\n\\r]'"):
        raise BackupError(
            f"The name of the database {name} has a line break, and pgBackRest could not read the backup again. Rename"
            " the database."
        )


def has_table(settings: Settings, database: str, table: str) -> bool:
    """Say whether a database has a table, which is no view: that would run what its owner has put into it."""
    sql = f"SELECT 1 FROM pg_class WHERE oid = to_regclass('public.{table}') AND relkind = 'r'"
    return database in databases(settings) and bool(query(settings, sql, database))


def row_counts(settings: Settings) -> dict[str, dict[str, int]]:
    """Count the rows of every table.

    Returns:
        Database to its tables and their rows.
    """
    return {name: table_rows(settings, name) for name in databases(settings) if name != "postgres"}


def schema_versions(settings: Settings) -> dict[str, str]:
    """Read which migration each database has reached.

    Returns:
        Database to the version that Alembic has recorded; databases of other programs are left out.
    """
    found = {}
    for name in databases(settings):
        if has_table(settings, name, "alembic_version"):
            rows = query(settings, "SELECT version_num FROM public.alembic_version", name)
            found[name] = ", ".join(version for [version] in rows)
    return found


def restore_point(settings: Settings, name: str) -> dict[str, Any]:
    """Write a restore point, and end its segment of the WAL.

    Returns:
        Its ``lsn``, the ``wal`` segment that holds it, the ``time`` of PostgreSQL's clock, and the ``history`` of the
        timeline: lines of the parent, the LSN at which it was left, and why.
    """
    [[lsn, segment, moment]] = query(
        settings,
        "SELECT p.lsn, pg_walfile_name(p.lsn),"
        " to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
        f" FROM pg_create_restore_point('{name}') AS p(lsn)",
    )
    # A restore to a point in time ends at the first transaction after it: there is one here, if nowhere else.
    query(settings, "SELECT pg_current_xact_id()")
    query(settings, "SELECT pg_switch_wal()")
    history = query(settings, f"SELECT pg_read_file('pg_wal/{segment[:8]}.history', 0, 1000000, true)")
    return {"lsn": lsn, "wal": segment, "time": moment, "history": [line for line in history if len(line) > 1]}


def wait_for_archive(settings: Settings, segment: str) -> None:
    """Wait until a segment of the WAL is in the archive.

    Raises:
        BackupError: If it does not get there in time.
    """
    deadline = time.monotonic() + ARCHIVE_TIMEOUT.total_seconds()
    while True:
        [[archived, failed]] = query(
            settings, "SELECT coalesce(last_archived_wal, ''), coalesce(last_failed_wal, '') FROM pg_stat_archiver"
        )
        # The names of segments grow, also over timelines.
        if re.fullmatch(r"[0-9A-F]{24}", archived[:24]) and archived[:24] >= segment:
            return
        if time.monotonic() > deadline:
            raise BackupError(
                f"PostgreSQL has not archived {segment} within {ARCHIVE_TIMEOUT.total_seconds():.0f} s"
                f"{f', and failed with {failed}' if failed else ''}. The log of the container postgres says why."
            )
        time.sleep(0.5)


# ---- volumes


def restic(settings: Settings, *arguments: str, accept: re.Pattern[str] | None = None) -> str:
    """Run Restic."""
    return call(["restic", f"--repo={settings.files}", "--no-cache", "--quiet", *arguments], accept=accept)


def append_only(settings: Settings) -> str:
    """Say which append-only files Redis has, which changes when it rewrites them."""
    found = []
    for volume in settings.volumes.values():
        if volume["kind"] == "redis":
            for path in sorted(Path(volume["path"]).glob("appendonlydir/*.manifest")):
                found.append(f"{path} {path.read_text()}")
    return "\n".join(found)


def with_owner(place: Mapping[str, str]) -> dict[str, Any]:
    """Add the owner and the mode of a volume's top directory, which Restic does not restore."""
    found = Path(place["path"]).stat()
    return {**place, "owner": found.st_uid, "group": found.st_gid, "mode": found.st_mode & 0o7777}


def copy_files(settings: Settings, name: str) -> dict[str, Any]:
    """Copy the volumes.

    Returns:
        ``snapshot``, its id, and ``files`` and ``bytes`` of what it holds.

    Raises:
        BackupError: If something could not be read.
    """
    words = ["backup", "--json", f"--host={settings.stack}", f"--tag={name}", "--group-by=host", "--exclude-caches"]
    for volume in settings.volumes.values():
        # Uploads that have not ended: nothing refers to them.
        words += [
            f"--exclude={volume['path']}/.minio.sys/{each}"
            for each in ("tmp", "multipart")
            if volume["kind"] == "bucket"
        ]
    for _attempt in range(5):
        before = append_only(settings)
        answer = restic(settings, *words, *(volume["path"] for volume in settings.volumes.values()), accept=VANISHED)
        summary = json.loads(answer.splitlines()[-1])
        if append_only(settings) == before:
            return {
                "snapshot": summary["snapshot_id"],
                "files": summary["total_files_processed"],
                "bytes": summary["total_bytes_processed"],
            }
        restic(settings, "forget", summary["snapshot_id"])
    raise BackupError("Redis rewrote its append-only file during each of five copies.")


# ---- the repository


def check_repository(settings: Settings) -> None:
    """Refuse what is no repository of this stack, such as the empty directory that a lost mount leaves.

    Raises:
        BackupError: With what to do.
    """
    try:
        found = json.loads(settings.mark.read_text())
    except FileNotFoundError:
        raise BackupError(
            "The backup directory holds no repository. If its disk or share is not mounted, mount it and restart the"
            " container backup. For a new repository run site.yml (make up)."
        ) from None
    except (OSError, ValueError) as error:
        raise BackupError(f"{settings.mark.name} of the repository cannot be read: {error}") from None
    if found.get("stack") != settings.stack:
        raise BackupError(f"The repository is that of the stack {found.get('stack')!r}. Name another stack_backup_dir.")
    if found.get("format") != FORMAT:
        raise BackupError(f"The repository has the format {found.get('format')!r}, expected {FORMAT}.")


def check_passphrase(settings: Settings) -> None:
    """Refuse a passphrase that does not open the repository.

    Raises:
        BackupError: With what to do.
    """
    try:
        # Without a lock, which could not be written where the disk is full or read-only.
        restic(settings, "cat", "config", "--no-lock")
    except BackupError as error:
        raise BackupError(
            "The repository cannot be opened with backup_passphrase of secrets_dir, which has to be the one that it"
            f" was made with. Restore that secret, or name a new directory in stack_backup_dir. {error}"
        ) from None


@contextmanager
def locked(settings: Settings, copying: bool = False) -> Iterator[None]:
    """Keep other work on the repository out.

    Args:
        settings: Which one.
        copying: Whether this is a copy, which gives way to anything else.

    Raises:
        BusyError: If something else is running, other than a copy that gives way.
        BackupError: If the repository cannot be written.
    """
    with ExitStack() as opened:
        try:
            lock, copy, waiting = (
                opened.enter_context((settings.repository / name).open("a"))
                for name in (".lock", ".copying", ".waiting")
            )
        except OSError as error:
            raise BackupError(f"The backup directory cannot be written: {error.strerror}.") from None
        if not copying:
            fcntl.flock(waiting, fcntl.LOCK_SH)
        deadline = time.monotonic() + GIVE_WAY
        while not taken(lock):
            if copying or time.monotonic() > deadline or taken(copy):
                raise BusyError("Another backup, verification or restore is running. Wait for its end.")
            time.sleep(0.2)
        fcntl.flock(waiting, fcntl.LOCK_UN)
        # Looked at for a moment by those that wait.
        fcntl.flock(copy, fcntl.LOCK_EX if copying else fcntl.LOCK_UN)
        yield


def taken(stream: IO[str]) -> bool:
    """Take a lock, unless somebody has it."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wanted(settings: Settings) -> bool:
    """Say whether somebody waits for a copy to give way."""
    with (settings.repository / ".waiting").open("a") as waiting:
        return not taken(waiting)


def manifests(settings: Settings) -> list[dict[str, Any]]:
    """Read the manifests of the complete backups.

    Returns:
        The newest first.

    Raises:
        BackupError: If one was changed, or cannot be read.
    """
    found = []
    for path in sorted(settings.manifests.glob("*.json"), reverse=True):
        try:
            manifest = json.loads(path.read_text())
            digest = manifest.pop("sha256")
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise BackupError(
                f"The manifest {path.name} is damaged ({error}). Move it away to use the other backups."
            ) from None
        if digest != digest_of(manifest):
            raise BackupError(
                f"The manifest {path.name} is damaged: its checksum is another. Move it away to use the other backups."
            )
        found.append(manifest)
    return found


def known_backups(settings: Settings) -> list[dict[str, Any]]:
    """Read the manifests of the complete backups, and find what PostgreSQL's archive lacks.

    Returns:
        The newest first, with ``missing`` and ``gap`` where there is one; see ``backup_wal.with_gaps``.
    """
    known = manifests(settings)
    if not settings.postgres or not known:
        return known
    info = stanza(settings)
    systems = {each["id"]: str(each["system-id"]) for each in info["db"]}
    starts = {each["label"]: each["archive"]["start"] for each in info["backup"]}
    found = {}
    for system in {each["postgres"]["system"] for each in known}:
        # A cluster that came back after another one goes on in an archive of a new number; pgBackRest reads both.
        segments: dict[str, datetime] = {}
        returns = []
        for archive in sorted(info["archive"], key=lambda each: each["database"]["id"]):
            number = archive["database"]["id"]
            if systems.get(number) == system:
                backups = [each for each in info["backup"] if each["database"]["id"] == number]
                if segments and backups:
                    returns.append((max(map(backup_wal.timeline_of, segments)), backups[0]["archive"]["start"]))
                segments |= backup_wal.archived(settings.repository / "postgres/archive/main" / archive["id"])
        own = [each for each in known if each["postgres"]["system"] == system]
        found.update({each["id"]: each for each in backup_wal.with_gaps(own, starts, segments, returns)})
    return [found[each["id"]] for each in known]


def gaps(known: list[dict[str, Any]]) -> list[str]:
    """Say what cannot be restored because WAL is missing.

    Args:
        known: What ``known_backups`` returned.

    Returns:
        A sentence for each gap.
    """
    said = [
        f"PostgreSQL's archive lacks {each['missing']}, without which the backup {each['id']} cannot be restored."
        for each in known
        if "missing" in each
    ]
    for number, each in enumerate(known):
        if "gap" in each:
            until, after = each["gap"]["until"], known[number - 1]["id"] if number else ""
            states = f"states until {datetime.fromisoformat(until):%Y-%m-%d %H:%M:%S} UTC" if until else "no state"
            said.append(
                f"PostgreSQL's archive lacks {each['gap']['segment']}: after the backup {each['id']}, {states} can be"
                f" restored{f', and later ones from the backup {after} on' if after else ''}."
            )
    return said


def digest_of(manifest: Mapping[str, Any]) -> str:
    """Calculate the checksum of a manifest."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def initialise(settings: Settings) -> bool:
    """Make the repository where there is none yet.

    Returns:
        Whether anything was made.

    Raises:
        BackupError: If the directory holds something else, or a key of another repository was given.
    """
    changed = False
    if settings.mark.exists():
        check_repository(settings)
    else:
        kept = [path.name for path in settings.repository.iterdir() if path.name not in PARTS]
        if backup_copies.FETCHING in kept:
            raise BackupError(
                "The backup directory holds a part of a copy that was being fetched. Run fetch_backups.yml"
                " (make fetch-backups) again."
            )
        if kept or (settings.files / "config").exists() or any((settings.repository / "manifests").glob("*")):
            raise BackupError(
                "The backup directory holds something else, and no repository.json. Name an empty directory in"
                " stack_backup_dir."
            )
    for path in (settings.manifests, settings.files, settings.repository / "secrets"):
        path.mkdir(mode=0o700, exist_ok=True)
    if not (settings.files / "config").exists():
        restic(settings, "init")
        changed = True
    else:
        check_passphrase(settings)
    if settings.postgres:
        if '"name":"main"' not in pgbackrest(settings, "info", "--output=json") or changed:
            pgbackrest(settings, "stanza-create")
            changed = True
        # A cluster made anew in an empty volume, one of another major version, or an earlier one that a restore brought
        # back: its WAL must not go among that of the one before it, and is refused until the repository knows.
        if postgres_system(settings) != str(stanza(settings)["db"][-1]["system-id"]):
            pgbackrest(settings, "stanza-upgrade")
            changed = True
    if not settings.mark.exists():
        write(settings.mark, json.dumps({"stack": settings.stack, "format": FORMAT}))
        changed = True
    return changed


def postgres_system(settings: Settings) -> str:
    """Read the identity of PostgreSQL's cluster."""
    [[found]] = query(settings, "SELECT system_identifier FROM pg_control_system()")
    return found


# ---- backup


def clock_problem(known: list[dict[str, Any]], now: datetime) -> str:
    """Say why no backup can be made at this time of the clock, as pgBackRest makes none that is not the newest.

    Args:
        known: All, the newest first.
        now: The time.

    Returns:
        What to do; empty if one can be made, at the latest after ``CLOCK_STEP``.
    """
    if not known or datetime.fromisoformat(known[0]["started"]) - now <= CLOCK_STEP:
        return ""
    return (
        f"The newest backup is {known[0]['id']}, and the clock of this host says {now:%Y-%m-%d %H:%M:%S} UTC, so that a"
        " backup of now would not be the newest. Set the clock right. If it is, it was wrong then: name another"
        " stack_backup_dir, run site.yml (make up), and keep the present one for what it holds."
    )


def full_is_due(settings: Settings, known: list[dict[str, Any]], now: datetime) -> bool:
    """Decide whether PostgreSQL's files are copied whole."""
    fulls = [datetime.fromisoformat(each["started"]) for each in known if each["type"] == "full"]
    return not fulls or now - max(fulls) >= timedelta(days=settings.full_days) - timedelta(hours=1)


def run(settings: Settings, full: bool = False) -> dict[str, Any]:
    """Make a backup.

    Args:
        settings: What and where to.
        full: Whether PostgreSQL's files are copied whole though that is not due.

    Returns:
        Its manifest.

    Raises:
        BackupError: If it is not complete.
    """
    check_repository(settings)
    with locked(settings):
        known = manifests(settings)
        if problem := clock_problem(known, datetime.now(UTC)):
            raise BackupError(problem)
        if known:
            wait_until(datetime.fromisoformat(known[0]["started"]) + timedelta(seconds=1))
        started = datetime.now(UTC)
        name = f"{started:%Y%m%dT%H%M%SZ}"
        kind = "full" if full or full_is_due(settings, known, started) else "incr"
        restic(settings, "unlock")  # of runs that were killed; those of running ones stay
        make_room(settings, started)
        manifest: dict[str, Any] = {"id": name, "stack": settings.stack, "type": kind, "started": started.isoformat()}
        if settings.postgres:
            check_names(settings)
            pgbackrest(settings, f"--type={kind}", "--no-expire-auto", "backup")
            label = newest_label(settings)
            before = row_counts(settings)
            point = restore_point(settings, f"backup-{name}")
            rows = {"least": before, "most": row_counts(settings)}
            manifest["postgres"] = {**point, "label": label, "system": postgres_system(settings), "rows": rows}
            manifest["postgres"]["schemas"] = schema_versions(settings)
        manifest["files"] = {
            **copy_files(settings, name),
            "volumes": {each: with_owner(place) for each, place in settings.volumes.items()},
        }
        if settings.postgres:
            wait_for_archive(settings, manifest["postgres"]["wal"])
        manifest |= {"images": settings.images, "repository_bytes": repository_bytes(settings)}
        manifest["finished"] = datetime.now(UTC).isoformat()
        write(settings.manifests / f"{name}.json", json.dumps({**manifest, "sha256": digest_of(manifest)}, indent=1))
        expire(settings, datetime.now(UTC), prune=kind == "full")
    return manifest


def repository_bytes(settings: Settings) -> int:
    """Measure the repository, in which files come and go meanwhile."""
    found = 0
    for directory, _directories, files in os.walk(settings.repository):
        for name in files:
            with suppress(FileNotFoundError):
                found += Path(directory, name).lstat().st_size
    return found


def make_room(settings: Settings, now: datetime) -> None:
    """Remove what has expired where the disk is full: it would be removed after a backup, which cannot be made.

    Args:
        settings: Which repository.
        now: The time.

    Raises:
        BackupError: If the disk is still full.
    """
    if shutil.disk_usage(settings.repository).free >= ROOM:
        return
    with suppress(BackupError, OSError):
        expire(settings, now, prune=True)
    usage = shutil.disk_usage(settings.repository)
    if usage.free < ROOM:
        raise BackupError(
            f"The disk of the backup directory is full: {usage.free >> 20} of {usage.total >> 20} MiB are free. Make"
            f" room, or lower stack_backup_keep_days, which is {settings.keep_days}. PostgreSQL goes on, and keeps up"
            " to 2 GiB of WAL until it can archive it."
        )


def unexpired(known: list[dict[str, Any]], keep_days: int, now: datetime) -> list[dict[str, Any]]:
    """Choose the backups that stay: those of the last days, and those of as many days that have any.

    A clock that is wrong, or a machine that was off for long, makes all others old at once, and expires none of them.

    Args:
        known: All, the newest first.
        keep_days: How many days.
        now: The time.

    Returns:
        The newest first; the newest stays however old it is.
    """
    oldest = now - timedelta(days=keep_days)
    # As many days as the time of day at which one begins and ends makes of them.
    days = sorted({each["started"][:10] for each in known[1:]}, reverse=True)[: keep_days + 1]
    return known[:1] + [
        each for each in known[1:] if each["started"][:10] in days or datetime.fromisoformat(each["started"]) >= oldest
    ]


def expire(settings: Settings, now: datetime, prune: bool) -> None:
    """Remove backups that have expired, see ``unexpired``, and what only they have used.

    Args:
        settings: Which ones.
        now: The time.
        prune: Whether the space is given back too, which takes long.
    """
    known = manifests(settings)
    kept = unexpired(known, settings.keep_days, now)
    for manifest in known:
        if manifest not in kept:
            (settings.manifests / f"{manifest['id']}.json").unlink()
    if labels := [each["postgres"]["label"] for each in kept if settings.postgres and "postgres" in each]:
        # An incremental one has its full one's label before its own.
        first = min(labels).partition("_")[0]
        fulls = [each for each in stanza(settings)["backup"] if each["type"] == "full" and each["label"] >= first]
        pgbackrest(settings, f"--repo1-retention-full={len(fulls) or 1}", "expire")
    snapshots = json.loads(restic(settings, "snapshots", "--json"))
    used = {each["files"]["snapshot"] for each in kept}
    # Of backups that were cut off, too.
    left = [each["id"] for each in snapshots if each["id"] not in used]
    if left:
        restic(settings, "forget", *left)
    if prune:
        restic(settings, "prune")


def verify(settings: Settings) -> int:
    """Read the whole repository, and compare it with its checksums.

    Returns:
        How many complete backups it holds.

    Raises:
        BackupError: With what is damaged or missing.
    """
    check_repository(settings)
    with locked(settings):
        known = manifests(settings)
        wrong = []
        restic(settings, "unlock")
        try:
            restic(settings, "check", "--read-data")
        except BackupError as error:
            wrong.append(f"Files: {error}")
        else:
            snapshots = {each["id"] for each in json.loads(restic(settings, "snapshots", "--json"))}
            wrong += [
                f"The copy of the volumes of {each['id']} is missing."
                for each in known
                if each["files"]["snapshot"] not in snapshots
            ]
        if settings.postgres:
            said = pgbackrest(settings, "--output=text", "--verbose", "verify")
            if not re.search(r"^\s*status: ok", said, re.MULTILINE):
                lines = [line.strip() for line in said.splitlines() if re.search(r"status: error|: [1-9]", line)]
                wrong.append(f"PostgreSQL: {'; '.join(lines) or said.strip()[-500:]}")
            pgbackrest(settings, "check")
            wrong += gaps(known_backups(settings))
        if wrong:
            raise BackupError(" ".join(wrong))
        return len(known)


def restore_files(settings: Settings, name: str) -> None:
    """Write the volumes of a backup.

    Args:
        settings: Where to; the volumes are mounted writable, and empty.
        name: Id of the backup.

    Raises:
        BackupError: If a volume has something in it, or the backup is not there.
    """
    check_repository(settings)
    with locked(settings):
        [manifest] = [each for each in manifests(settings) if each["id"] == name] or [None]
        if manifest is None:
            raise BackupError(f"The repository has no backup {name}.")
        restic(settings, "unlock")
        for volume, place in settings.volumes.items():
            source = manifest["files"]["volumes"].get(volume)
            if source is None:
                log(f"{volume}: not in this backup, left empty")
                continue
            if any(Path(place["path"]).iterdir()):
                raise BackupError(f"The volume {volume} is not empty. Nothing was written to it.")
            log(f"{volume}: restoring")
            restic(
                settings,
                "restore",
                f"{manifest['files']['snapshot']}:{source['path']}",
                f"--target={place['path']}",
                "--verify",
            )
            os.chown(place["path"], source["owner"], source["group"])
            os.chmod(place["path"], source["mode"])


def model_places(settings: Settings) -> list[str]:
    """Name where the registered models are stored.

    Returns:
        Bucket and prefix of each version, without those that are stored elsewhere.
    """
    if not has_table(settings, "mlflow", "model_versions"):
        return []
    sql = (
        "SELECT DISTINCT to_json(coalesce(storage_location, source))::text FROM public.model_versions"
        " WHERE current_stage <> 'Deleted_Internal'"
    )
    found = (json.loads(line) for [line] in query(settings, sql, "mlflow"))
    return sorted(filter(None, (artifact_place(place) for place in found if place)))


def champions(settings: Settings) -> list[dict[str, str]]:
    """Name the models that are in use: the versions with the alias ``champion``.

    Returns:
        ``name``, ``version``, and ``place`` as in ``model_places``, of those that are stored there; and ``uris`` at
        which a drill loads them, ``restored`` and ``live``.
    """
    if not all(has_table(settings, "mlflow", each) for each in ("registered_model_aliases", "model_versions")):
        return []
    sql = (
        "SELECT json_build_object('name', name, 'version', version, 'place', coalesce(storage_location, source))"
        " FROM public.registered_model_aliases JOIN public.model_versions USING (name, version)"
        " WHERE alias = 'champion' ORDER BY name"
    )
    found = [json.loads(line) for [line] in query(settings, sql, "mlflow")]
    for each in found:
        each["place"] = artifact_place(each["place"])
    found = [each for each in found if each["place"]]
    for number, each in enumerate(found):
        live = f"models:/{each['name']}/{each['version']}"
        each["uris"] = {"restored": f"/restored/.drill/{number}", "live": live}
    return found


def artifact_place(uri: str) -> str:
    """Turn MLflow's word for where a model is into bucket and prefix; empty for what is stored elsewhere."""
    place = re.sub(r"^mlflow-artifacts:/*", "mlflow/artifacts/", uri)
    return place if place.startswith("mlflow/artifacts/") else ""


def different_rows(manifest: Mapping[str, Any], found: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Compare rows with those that there were just before and just after the restore point.

    Returns:
        A sentence for each table with others.
    """
    rows = manifest["postgres"]["rows"]
    wrong = []
    for database, tables in rows["least"].items():
        for table, least in tables.items():
            bounds = sorted((least, rows["most"].get(database, {}).get(table, least)))
            count = found.get(database, {}).get(table)
            if count is None:
                wrong.append(f"{database}.{table} is missing")
            elif not bounds[0] <= count <= bounds[1]:
                expected = " to ".join(map(str, dict.fromkeys(bounds)))
                wrong.append(f"{database}.{table} has {count} rows, expected {expected}")
    return wrong


def wait_until_replayed(settings: Settings) -> None:
    """Wait until a server that was just started has replayed the WAL and takes connections.

    Raises:
        BackupError: If it stops instead, with the end of its log, or takes longer than ``TIMEOUT``.
    """
    deadline = time.monotonic() + TIMEOUT.total_seconds()
    while True:
        try:
            query(settings, "SELECT 1")
            return
        except BackupError as error:
            try:
                call(["pg_ctl", f"--pgdata={settings.postgres['data']}", "status"], settings.postgres["user"])
            except BackupError:
                lines = Path(settings.postgres["socket"], "log").read_text().splitlines()
                raise BackupError(f"PostgreSQL stopped on the restored files: {' / '.join(lines[-5:])}") from None
            if time.monotonic() > deadline:
                raise BackupError(f"PostgreSQL has not replayed its WAL within {TIMEOUT}: {error}") from None
        time.sleep(1)


#: Where a server on restored files has its socket and its log.
SCRATCH = Path("/tmp/drill")


@contextmanager
def scratch_postgres(settings: Settings, arguments: list[str]) -> Iterator[Settings]:
    """Restore PostgreSQL's files into an empty directory, and run a server on them that nobody else reaches.

    Args:
        settings: ``data`` is the directory.
        arguments: Of pgBackRest's restore.

    Yields:
        Settings of that server.

    Raises:
        BackupError: If the files cannot be restored, or the server does not run on them.
    """
    data, user = settings.postgres["data"], settings.postgres["user"]
    call(["mkdir", "-p", "-m", "0700", data, str(SCRATCH)], user)
    pgbackrest(settings, *arguments, "--archive-mode=off", "restore")
    # Without hot standby it needs no limits as large as the copied server's, and answers once all is replayed.
    words = ["pg_ctl", f"--pgdata={data}", "--wait", "--timeout=36000", f"--log={SCRATCH}/log", "start"]
    options = {
        "listen_addresses": "",
        "hot_standby": "off",
        "unix_socket_directories": str(SCRATCH),
        "shared_buffers": "64MB",
    }
    words.append("--options=" + " ".join(f"-c {key}='{value}'" for key, value in options.items()))
    scratch = replace(settings, postgres={**settings.postgres, "socket": str(SCRATCH)})
    call(words, user)
    try:
        wait_until_replayed(scratch)
        yield scratch
    finally:
        call(["pg_ctl", f"--pgdata={data}", "--mode=fast", "stop"], user)


def drill(settings: Settings, name: str, arguments: list[str]) -> dict[str, Any]:
    """Restore a backup where nothing else is, and look at it.

    Args:
        settings: Its volumes are scratch ones.
        name: Id of the backup.
        arguments: Of pgBackRest's restore.

    Returns:
        ``problems``, ``gaps`` of the archive, ``rows`` and ``tables``, the ``places`` of models, the ``champions``, the
        time of the ``newest`` transaction, and the ``seconds`` that it took.

    Raises:
        BackupError: If it cannot be restored at all.
    """
    begun = time.monotonic()
    restore_files(settings, name)
    [manifest] = [each for each in manifests(settings) if each["id"] == name]
    with scratch_postgres(settings, arguments) as scratch:
        found = row_counts(scratch)
        places, best = model_places(scratch), champions(scratch)
    newest = re.findall(r"last completed transaction was at log time (.+)", (SCRATCH / "log").read_text())
    exact = "--type=lsn" in arguments
    return {
        "id": name,
        "gaps": gaps(known_backups(settings)),
        "problems": different_rows(manifest, found) if exact else [],
        "rows": sum(sum(tables.values()) for tables in found.values()),
        "tables": sum(len(tables) for tables in found.values()),
        "places": places,
        "champions": best,
        "newest": newest[-1] if newest else "before the copy of the files",
        "seconds": round(time.monotonic() - begun),
    }


def restore_database(settings: Settings, database: str, target: str, arguments: list[str]) -> dict[str, Any]:
    """Restore one database of a backup into the running server, beside the others.

    Args:
        settings: ``data`` is a scratch directory; the running server's socket is in ``live``.
        database: Its name in the backup.
        target: Its name in the running server, which has none of that name.
        arguments: Of pgBackRest's restore.

    Returns:
        ``rows``, table to number.

    Raises:
        BackupError: If the backup has no such database, or it cannot be written.
    """
    user = settings.postgres["user"]
    live = replace(settings, postgres={**settings.postgres, "socket": settings.postgres["live"]})
    if query(live, f"SELECT 1 FROM pg_database WHERE datname = '{target}'"):
        raise BackupError(f"PostgreSQL has a database {target} already. Rename or drop it, and run this again.")
    with scratch_postgres(settings, arguments) as scratch:
        if not query(scratch, f"SELECT 1 FROM pg_database WHERE datname = '{database}'"):
            raise BackupError(f"This backup has no database {database}.")
        [[owner]] = query(scratch, f"SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '{database}'")
        if not query(live, f"SELECT 1 FROM pg_roles WHERE rolname = '{owner}'"):
            raise BackupError(f"PostgreSQL has no user {owner}, who owned {database}. Run site.yml (make up) first.")
        admin = settings.postgres["admin"]
        # Beside the scratch files: /tmp is memory.
        dump = f"{settings.postgres['socket']}/dump"
        call(["pg_dump", "--format=directory", "--jobs=2", "--compress=1", f"--file={dump}", f"--host={SCRATCH}",
              f"--username={admin}", database], user)  # fmt: skip
        expected = table_rows(scratch, database)
        query(live, f'CREATE DATABASE "{target}" OWNER "{owner}" TEMPLATE template0')
        try:
            query(live, f'REVOKE ALL ON DATABASE "{target}" FROM PUBLIC')
            call(["pg_restore", "--exit-on-error", "--jobs=2", f"--host={live.postgres['socket']}",
                  f"--username={admin}", f"--dbname={target}", dump], user)  # fmt: skip
            found = table_rows(live, target)
            if found != expected:
                raise BackupError(f"{target} has other rows than {database} of the backup.")
        except BackupError:
            query(live, f'DROP DATABASE "{target}"')
            raise
    return {"rows": found}


def keep_secrets(settings: Settings, name: str, content: str) -> bool:
    """Keep the encrypted secrets, and those before them.

    Args:
        settings: Where.
        name: Digest of the secrets, which their cipher text does not tell.
        content: The cipher text.

    Returns:
        Whether they are other ones than those kept already.

    Raises:
        BackupError: If the name is none.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", name):
        raise BackupError("The name of the secrets is no digest.")
    check_repository(settings)
    directory = settings.repository / "secrets"
    # A keyed digest, so that nobody can try out guesses.
    key = (SECRETS / "passphrase").read_bytes()
    digest = hashlib.blake2b(name.encode(), key=hashlib.sha256(key).digest()).hexdigest()[:32]
    mark, kept = directory / "digest", directory / "secrets.vault"
    if kept.exists() and mark.exists() and mark.read_text() == digest:
        return False
    if kept.exists():
        # A copy, so that there is always one under the name that a restore reads, on a full disk too.
        write(directory / f"secrets-until-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.vault", kept.read_text())
    write(kept, content)
    write(mark, digest)
    return True


# ---- copies


def copy_to(settings: Settings, place: backup_copies.Place) -> bool | None:
    """Bring one copy up to date.

    Returns:
        Whether that succeeded; None if something else works on the repository.
    """
    before = backup_copies.State.read(settings.repository, place)
    try:
        # A lost mount looks like a repository from which everything has gone.
        check_repository(settings)
        with locked(settings, copying=True):
            found = backup_copies.copy(
                place,
                settings.repository,
                settings.stack,
                lambda names: not_expired(settings, names, datetime.now(UTC)),
                lambda: wanted(settings),
            )
    except (BusyError, backup_copies.GiveWayError):
        return None
    except (BackupError, OSError) as error:
        log(f"The copy {place.name} failed: {error}")
        # Not into the directory below a lost mount, and not on a disk that cannot be written.
        if settings.mark.exists():
            with suppress(OSError):
                failed = datetime.now(UTC).isoformat()
                replace(before, error=str(error).replace("\n", " "), failed=failed).write(settings.repository, place)
        return False
    if before.error or before.backup != found.backup:
        log(f"The copy {place.name} is complete, up to the backup {found.backup or 'that is yet to be made'}")
    return True


def not_expired(settings: Settings, names: Collection[str], now: datetime) -> str:
    """Say why files that the repository lacks stay in a copy: something has removed them that is not their expiry.

    Args:
        settings: Which repository.
        names: Of the files.
        now: The time.

    Returns:
        The reason; empty if all have expired.
    """
    check_repository(settings)
    info = stanza(settings) if settings.postgres else {"backup": [], "archive": [], "db": []}
    systems = {each["id"]: each["system-id"] for each in info["db"]}
    labels = {each["label"] for each in info["backup"]}
    first: dict[str, int] = {}
    for archive in info["archive"]:
        system = systems[archive["database"]["id"]]
        own = [each for each in info["backup"] if systems[each["database"]["id"]] == system]
        first[archive["id"]] = min(
            (backup_wal.position_of(each["archive"]["start"]) for each in own), default=sys.maxsize
        )
    oldest = f"{now - timedelta(days=settings.keep_days):%Y%m%dT%H%M%SZ}"
    lost = []
    for name in names:
        top, *rest = name.split("/")
        if top == "postgres":
            label, segment = backup_copies.LABEL.fullmatch(name), backup_wal.STORED.fullmatch(rest[-1])
            needed = segment and backup_wal.position_of(segment[1]) >= first.get(rest[2], sys.maxsize)
            if needed or (label and label[1] in labels):
                lost.append(name)
        elif top == "manifests":
            if rest[0] >= oldest:
                lost.append(name)
        elif top != "files":
            lost.append(name)
    if not lost and any(name.startswith("files/") for name in names):
        try:
            restic(settings, "check")
        except BackupError as error:
            return f"the repository is damaged: {error}"
    return f"the repository lacks {backup_copies.names_of(lost)}, which has not expired" if lost else ""


def copy_all(settings: Settings) -> list[str]:
    """Bring all copies up to date, and wait for what works on the repository meanwhile.

    Returns:
        Names of those that failed.
    """
    failed = []
    for place in settings.places:
        while (succeeded := copy_to(settings, place)) is None:
            time.sleep(1)
        if not succeeded:
            failed.append(place.name)
    mark_copies(settings)
    return failed


def mark_copies(settings: Settings) -> None:
    """Make the container unhealthy while the last attempt of a copy has failed."""
    errors = [backup_copies.State.read(settings.repository, place).error for place in settings.places]
    if not settings.mark.exists():
        errors.append("The backup directory holds no repository.")
    if any(errors):
        COPY_FAILED.write_text(" ".join(filter(None, errors)))
    else:
        COPY_FAILED.unlink(missing_ok=True)


def examine_copies(settings: Settings) -> list[str]:
    """Compare the copies with the repository.

    Returns:
        A sentence for each.

    Raises:
        BackupError: With what is wrong, of all of them.
    """
    said, wrong = [], []
    check_repository(settings)
    with locked(settings):
        for place in settings.places:
            try:
                said.append(backup_copies.examine(place, settings.repository, settings.stack))
            except BackupError as error:
                wrong.append(f"Copy {place.name}: {error}")
    if wrong:
        raise BackupError(" ".join(wrong))
    return said


class Copies:
    """The copies of the schedule: at least every so many minutes, and after each backup."""

    def __init__(self, settings: Settings) -> None:
        """Begin soon, not at once: the container has just been started."""
        self.settings = settings
        # By a clock that nobody sets.
        self.due = {place.name: time.monotonic() + COPY_SOON for place in settings.places}
        self.seen: dict[str, str] = {}

    def newest(self) -> str:
        """Name the newest backup; empty if there is none, or if the repository is away."""
        return max((path.stem for path in self.settings.manifests.glob("*.json")), default="")

    def look(self) -> None:
        """Make the copies that are due."""
        attempted = False
        for place in self.settings.places:
            newest = self.newest()
            if time.monotonic() < self.due[place.name] and newest in ("", self.seen.get(place.name, newest)):
                self.seen.setdefault(place.name, newest)
                continue
            succeeded = copy_to(self.settings, place)
            pause = {True: self.settings.copy_minutes * 60.0, None: COPY_SOON}.get(
                succeeded, min(self.settings.copy_minutes * 60.0, RETRY.total_seconds())
            )
            self.due[place.name] = time.monotonic() + pause
            self.seen[place.name] = newest
            attempted = True
        if attempted:
            mark_copies(self.settings)


# ---- status and schedule


def report(settings: Settings, now: datetime) -> dict[str, Any]:
    """Say how the backups are, from what is cheap to read.

    Args:
        settings: Which ones.
        now: The time.

    Returns:
        ``time``; ``alerts``, what is wrong, with ``kind`` and ``text``; ``backups``, how many are complete; ``newest``,
        with ``id``, ``type``, ``finished``, ``seconds`` and ``repository_bytes``; ``next``, when one is due;
        ``free_bytes`` of the disk; ``copies``, with ``name``, ``title``, ``finished``, ``backup`` and ``error``; and
        the last ``drill``.
    """
    found: dict[str, Any] = {
        "time": now.isoformat(),
        "alerts": [],
        "backups": 0,
        "newest": None,
        "next": next_time(settings.schedule, now).isoformat(),
        "free_bytes": None,
        "copies": [],
        "drill": None,
    }

    def alert(kind: str, text: str) -> None:
        found["alerts"].append({"kind": kind, "text": text})

    if FAILED.exists():
        alert("failed", f"failed backups since: {FAILED.read_text().strip()}")
    for place in settings.places:
        state = backup_copies.State.read(settings.repository, place)
        fields = {key: getattr(state, key) for key in ("finished", "backup", "error")}
        found["copies"].append({"name": place.name, "title": place.title, **fields})
        if state.error:
            alert("copy", f"failed copies to {place.name} since, at {state.failed[:16]}: {state.error[:300]}")
    try:
        check_repository(settings)
        known = manifests(settings)
        last, took = datetime.fromtimestamp(settings.mark.stat().st_mtime, UTC), timedelta(0)
        found["free_bytes"] = shutil.disk_usage(settings.repository).free
    except (BackupError, OSError) as error:
        alert("repository", f"backups: {error}")
        return found
    found["backups"] = len(known)
    if known:
        last, ended = (datetime.fromisoformat(known[0][each]) for each in ("started", "finished"))
        took = ended - last
        found["newest"] = {
            **{key: known[0][key] for key in ("id", "type", "finished")},
            "seconds": took.total_seconds(),
            "repository_bytes": known[0].get("repository_bytes"),
        }
    if problem := clock_problem(known, now):
        alert("missed", f"backups: {problem}")
    elif missed := backup_report.missed_since(settings.schedule, last, took, now):
        since = f"the newest is {age(last, now)} old" if known else "there is none"
        alert("missed", f"missed backups: one was due at {missed:%Y-%m-%d %H:%M} UTC, and {since}")
    try:
        for [segment] in query(settings, ARCHIVE_FAILS) if settings.postgres else []:
            alert("archive", f"PostgreSQL's WAL cannot be archived, from the segment {segment} on: see its log")
    except BackupError as error:
        alert("archive", f"PostgreSQL does not answer about its archive: {error}")
    with suppress(FileNotFoundError):
        drill = json.loads((settings.repository / "drill.json").read_text())
        found["drill"] = drill
        if drill["problems"]:
            ended = age(datetime.fromisoformat(drill["finished"]), now)
            number = len(drill["problems"])
            text = (
                f"{number} problem{'s' * (number != 1)} in the last drill, {ended} ago, of {drill['id']}, which failed"
            )
            alert("drill", f"{text}: {'; '.join(drill['problems'])[:300]}")
    return found


ARCHIVE_FAILS = """\
SELECT last_failed_wal FROM pg_stat_archiver WHERE last_failed_time > coalesce(last_archived_time, '-infinity')
"""


def figure(number: int, what: str) -> str:
    """Write a number without a limit as ``make status`` reads it, and what it counts in the singular or the plural."""
    return f"{number} 0 {what}{'' if number == 1 else 's'}"


def figures(settings: Settings, now: datetime) -> Iterator[str]:
    """Print figures as ``make status`` reads them: a number, a limit or 0, and what it is, or an alert."""
    seen = report(settings, now)
    if any(each["kind"] == "repository" for each in seen["alerts"]):
        yield from backup_report.sentences(seen)
        return
    newest = seen["newest"]
    suffix = ""
    if newest:
        old = age(datetime.fromisoformat(newest["finished"]), now)
        suffix = f", {'the newest ' if seen['backups'] > 1 else ''}{old} old, made in {newest['seconds']:.0f} s"
    yield f"{figure(seen['backups'], 'complete backup')}{suffix}"
    yield f"{repository_bytes(settings)} 0 bytes in the backup repository"
    yield from backup_report.sentences(seen)
    yield from copy_figures(settings, now)
    if settings.postgres:
        try:
            for sentence in gaps(known_backups(settings)):
                yield f"ALERT gaps: {sentence}"
        except (BackupError, OSError) as error:
            yield f"ALERT pgBackRest does not answer about its archive: {error}"
    drill = seen["drill"]
    if not drill:
        yield "0 0 drills: make drill shows whether a backup can be restored"
    elif not drill["problems"]:
        ended = age(datetime.fromisoformat(drill["finished"]), now)
        yield f"0 0 problems in the last drill, {ended} ago, of {drill['id']}, which passed in {drill['seconds']} s"
    if settings.left_out:
        volumes = ", ".join(f"{each['volume']} ({each['host']})" for each in settings.left_out)
        yield f"{figure(len(settings.left_out), 'volume')} of other hosts in no backup: {volumes}"
    if not (settings.repository / "secrets" / "secrets.vault").exists():
        yield "0 0 copies of the secrets: without backup_secrets_password, backups are lost with secrets_dir and host"


def copy_figures(settings: Settings, now: datetime) -> Iterator[str]:
    """Print figures of the copies."""
    for place in settings.places:
        state = backup_copies.State.read(settings.repository, place)
        if state.finished:
            minutes = int((now - datetime.fromisoformat(state.finished)).total_seconds() // 60)
            content = f", up to the backup {state.backup}" if state.backup else ""
            yield f"{figure(minutes, 'minute')} since the last complete copy to {place.name} ({place.title}){content}"
        else:
            yield f"0 0 complete copies at {place.name} ({place.title})"
        if state.kept:
            yield f"1 0 reason to remove nothing from {place.name}: {state.kept[:300]}"


def missed(settings: Settings, now: datetime) -> bool:
    """Decide whether a time of the schedule passed without a backup, such as while the machine was off."""
    try:
        known = manifests(settings)
    except (BackupError, OSError):
        return True
    if not known:
        return True
    return next_time(settings.schedule, datetime.fromisoformat(known[0]["started"])) < now


def wait_until(moment: datetime) -> None:
    """Sleep until a moment of the wall clock."""
    while (left := (moment - datetime.now(UTC)).total_seconds()) > 0:
        time.sleep(min(left, LONGEST_SLEEP))


def attempt(settings: Settings) -> bool:
    """Make a backup of the schedule, and verify everything after a full one.

    Returns:
        Whether that succeeded; if not, it is to be tried again.
    """
    try:
        manifest = run(settings)
        log(f"Backup {manifest['id']} is complete")
        if manifest["type"] == "full":
            log(f"Verified {verify(settings)} backups")
    except BusyError as error:
        # Nothing is wrong: a drill, a restore or a backup by hand. If it never comes to it, a backup is missed.
        log(f"Put off: {error}")
        return False
    except Exception as error:  # whatever it is: it must be seen, and it is tried again
        log(f"Failed: {error}")
        FAILED.write_text(f"{datetime.now(UTC):%Y-%m-%d %H:%M} {error}".replace("\n", " "))
        return False
    FAILED.unlink(missing_ok=True)
    return True


def schedule(settings: Settings) -> None:
    """Make the backups of the schedule, and the copies, for ever."""
    backup_report.Reporter(lambda now: report(settings, now)).serve(settings.port)
    moment = datetime.now(UTC) + RETRY
    if not missed(settings, datetime.now(UTC)):
        moment = next_time(settings.schedule, datetime.now(UTC))
    log(f"Next backup: {moment:%Y-%m-%d %H:%M} UTC")
    copies = Copies(settings)
    while True:
        wait_until(min(moment, datetime.now(UTC) + timedelta(seconds=LONGEST_SLEEP)))
        if datetime.now(UTC) >= moment:
            succeeded = attempt(settings)
            moment = next_time(settings.schedule, datetime.now(UTC)) if succeeded else datetime.now(UTC) + RETRY
            log(f"Next backup: {moment:%Y-%m-%d %H:%M} UTC")
        copies.look()


def main(action: str, *arguments: str) -> None:
    """Do what the command line says.

    Raises:
        SystemExit: With a sentence, if it did not succeed.
    """
    os.umask(0o077)
    settings = Settings.read()
    try:
        if action == "schedule":
            schedule(settings)
        elif action == "init":
            print("CHANGED" if initialise(settings) else "ok")
        elif action == "run":
            manifest = run(settings, "full" in arguments)
            FAILED.unlink(missing_ok=True)
            print(json.dumps(manifest))
        elif action == "verify":
            print(f"{verify(settings)} backups are whole.")
            print("\n".join(examine_copies(settings)))
        elif action == "list":
            check_repository(settings)
            # Before a restore replaces anything.
            check_passphrase(settings)
            print(json.dumps(known_backups(settings)))
        elif action == "copy":
            failed = copy_all(settings)
            if failed:
                raise BackupError(f"Not copied: {', '.join(failed)}. The lines above say why.")
        elif action == "fetch":
            [place] = [each for each in settings.places if each.name == arguments[0]]
            owner = settings.postgres.get("user", "")
            print(json.dumps(backup_copies.fetch(place, settings.repository, settings.stack, owner)))
        elif action == "schemas":
            print(json.dumps(schema_versions(settings)))
        elif action == "status":
            print("\n".join(figures(settings, datetime.now(UTC))))
        elif action == "secrets":
            print("CHANGED" if keep_secrets(settings, arguments[0], sys.stdin.read()) else "ok")
        elif action == "drill":
            print(json.dumps(drill(settings, arguments[0], list(arguments[1:]))))
        elif action == "drilled":
            result = json.loads(sys.stdin.read())
            write(settings.repository / "drill.json", json.dumps({**result, "finished": datetime.now(UTC).isoformat()}))
        elif action == "restore-database":
            live = replace(settings, postgres={**settings.postgres, "live": LIVE})
            print(json.dumps(restore_database(live, arguments[0], arguments[1], list(arguments[2:]))))
        elif action == "restore-files":
            restore_files(settings, arguments[0])
        else:
            sys.exit(f"There is no action {action}.")
    except (BackupError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
