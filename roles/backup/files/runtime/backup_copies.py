"""Copies of the repository at other places, made by rclone.

A place has, below the path that the inventory names:

``copy.json``     whose copy it is
``repository/``   the copy
``incoming/``     files on their way, where the place can rename: there a file is whole before it counts

Files go in stages (see ``stage_of``): what others refer to before them, and the manifests last. What the repository no
longer has is removed after that, in the opposite order. So a copy that was cut off is that of an earlier moment, with
some files that nothing refers to yet.

What a file holds does not change once it is there, but for a few small ones (see ``CHANGING``). So one that has another
size at the place is damaged here or there, and is not overwritten: the good one may be the last.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from backup_base import BackupError, write

SECRETS = Path("/run/secrets")
#: Where rclone writes what it has found out of a server; it tries for seconds where it cannot. In memory.
CONFIG = Path("/tmp/rclone/rclone.conf")
FORMAT = 1
MARK = "copy.json"
#: While it is there, the repository is only partly fetched from a copy.
FETCHING = ".fetch.json"
#: Locks, and what a file system of its own has at its top.
BESIDE = (".lock", ".copying", ".waiting", "lost+found")
#: Never copied: locks, what is being written, and what only this host is concerned with.
OWN = re.compile(r"(?:^|/)\.|^(?:copies|lost\+found)/|^files/locks/|\.pgbackrest\.tmp$|-tmp-\d|\.new$")
LABEL = re.compile(r"postgres/backup/[^/]+/(\d{8}-\d{6}F(?:_\d{8}-\d{6}[DI])?)/(.+)")
CHANGING = re.compile(
    r"postgres/(?:archive|backup)/[^/]+/(?:archive|backup)\.info(?:\.copy)?|secrets/(?:secrets\.vault|digest)|drill\.json"
)
#: Stages by what a path begins with, or is; everything else is in the first one, with what others refer to.
STAGES = (
    (1, re.compile(r"files/index/|postgres/(?:archive|backup)/[^/]+/(?:archive|backup)\.info\.copy")),
    (2, re.compile(r"postgres/(?:archive|backup)/[^/]+/(?:archive|backup)\.info")),
    (3, re.compile(r"files/snapshots/")),
    (4, re.compile(r"secrets/|drill\.json")),
    (5, re.compile(r"manifests/")),
    (6, re.compile(r"repository\.json")),
)
LAST = 6
#: Statuses of rclone: the directory, or the file, is not there.
ABSENT = (3, 4)
#: A run that has read and written less than these bytes in these seconds hangs: a server that dies during a transfer by
#: SFTP is waited for without end. A comparison may wait for long, while the server calculates checksums.
STALLED_BYTES, STALLED_SECONDS = 4096, 90.0
PATIENT = ("check",)
#: Failures of single files after which the rest is not tried.
ENOUGH_ERRORS = 3
#: Names of files in an error.
NAMED = 3


class GiveWayError(Exception):
    """Somebody else needs the repository; what was sent so far stays."""


@dataclass(frozen=True)
class Place:
    """Where a copy is.

    Attributes:
        name: Its name in the inventory, and of rclone's remote.
        path: Path in the remote.
        title: Where that is, for people.
        ca: Whether a certificate authority of its own is the only one that is trusted.
    """

    name: str
    path: str
    title: str
    ca: bool = False

    def at(self, below: str = "") -> str:
        """Write a path as rclone takes it."""
        return f"{self.name}:{self.path.rstrip('/')}/{below}".rstrip("/")


@dataclass
class State:
    """What is known of a copy, kept beside the repository.

    Attributes:
        title: Of the place that it is about.
        begun: When the last complete copy began, in seconds since 1970.
        finished: When it ended, in ISO 8601; empty if there was none.
        backup: Id of the newest backup in it.
        files: Number of files in it.
        size: Their bytes.
        error: Why the last attempt failed.
        failed: When that was, in ISO 8601.
        kept: Why nothing was removed.
        sent: Files that may change to when those became what they are that the copy has.
    """

    title: str = ""
    begun: float = 0
    finished: str = ""
    backup: str = ""
    files: int = 0
    size: int = 0
    error: str = ""
    failed: str = ""
    kept: str = ""
    sent: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, repository: Path, place: Place) -> State:
        """Read it; of another place under the same name nothing is known."""
        try:
            found = cls(**json.loads((repository / "copies" / f"{place.name}.json").read_text()))
        except (OSError, ValueError, TypeError):
            return cls(place.title)
        return found if found.title == place.title else cls(place.title)

    def write(self, repository: Path, place: Place) -> None:
        """Keep it."""
        directory = repository / "copies"
        directory.mkdir(mode=0o700, exist_ok=True)
        write(directory / f"{place.name}.json", json.dumps(vars(self)))


@dataclass(frozen=True)
class File:
    """A file of the repository, and when it became what it is."""

    size: int
    changed: float = 0


@dataclass
class Difference:
    """What distinguishes a copy from the repository.

    Attributes:
        send: Stage to names of files that the copy lacks.
        gone: Names of files that the repository lacks, in the order in which they may be removed.
        other: Names of files with another size, which never changes.
    """

    send: dict[int, list[str]] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)


# ---- rclone


def rclone(
    place: Place,
    *arguments: str,
    stdin: str | None = None,
    stop: Callable[[], bool] = lambda: False,
    accept: Collection[int] = (0,),
) -> tuple[int, str]:
    """Run rclone.

    Args:
        place: Whose authority is trusted.
        arguments: Of rclone.
        stdin: Its input.
        stop: Asked twice a second; rclone is ended once it says yes.
        accept: Statuses that are no failure.

    Returns:
        Status and output.

    Raises:
        GiveWayError: If it was ended.
        BackupError: With the last lines of its errors, or if the place does not answer.
    """
    words = ["rclone", *arguments, "--contimeout=20s", "--timeout=2m", "--low-level-retries=1", "--retries=1"]
    words += ["--use-mmap", "--fast-list", *([f"--ca-cert={SECRETS}/copy_{place.name}_ca"] if place.ca else [])]
    if not CONFIG.exists():
        CONFIG.parent.mkdir(mode=0o700, exist_ok=True)
        write(CONFIG, (SECRETS / "rclone.conf").read_text())
    environment = {**os.environ, "HOME": "/tmp", "RCLONE_CONFIG": str(CONFIG)}
    source = subprocess.DEVNULL if stdin is None else subprocess.PIPE
    seen, last = 0, time.monotonic()
    with (
        tempfile.TemporaryFile("w+", errors="replace") as log,
        subprocess.Popen(
            words, env=environment, text=True, errors="replace", stdin=source, stdout=subprocess.PIPE, stderr=log
        ) as running,
    ):
        while True:
            try:
                output, _nothing = running.communicate(stdin, timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                stdin = None
                if stop():
                    end(running)
                    raise GiveWayError from None
                errors = read_all(log)
                if (size := moved(running.pid)) >= seen + STALLED_BYTES or arguments[0] in PATIENT:
                    seen, last = size, time.monotonic()
                elif time.monotonic() > last + STALLED_SECONDS:
                    end(running)
                    raise BackupError(
                        f"{place.title}: nothing was sent or received for {STALLED_SECONDS:.0f} s."
                    ) from None
                # It would try each of the other files too.
                if errors.count(" ERROR ") >= ENOUGH_ERRORS and arguments[0] not in PATIENT:
                    end(running)
                    raise BackupError(f"{place.title}: {said(errors)}") from None
            except BaseException:
                running.kill()
                raise
        errors = read_all(log)
    if running.returncode not in accept:
        raise BackupError(f"{place.title}: {said(errors)}")
    return running.returncode, output


def read_all(log: IO[str]) -> str:
    """Read what a program has written to a file so far."""
    # Not by its position, which is the program's too.
    return os.pread(log.fileno(), 1 << 20, 0).decode(errors="replace")


def moved(process: int) -> int:
    """Count the bytes that a process has read and written."""
    try:
        lines = Path(f"/proc/{process}/io").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("rchar", "wchar")))


def end(process: subprocess.Popen[str]) -> None:
    """End a process, whether it wants to or not."""
    process.terminate()
    try:
        process.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def said(errors: str) -> str:
    """Shorten what rclone says of a failure: without times, and without a sentence twice."""
    lines = [re.sub(r"^\S+ \S+ (?:(?:ERROR|NOTICE|CRITICAL) *: )?", "", line) for line in errors.splitlines()]
    lines = [re.sub(r"^Failed to [\w ]+? with \d+ errors: last error was: ", "", line) for line in lines if line]
    return " / ".join(dict.fromkeys(lines[-4:])) or "rclone failed and did not say why."


def renames(place: Place) -> bool:
    """Say whether the place can rename files."""
    _status, output = rclone(place, "backend", "features", f"{place.name}:")
    return bool(json.loads(output)["Features"]["Move"])


def listed(place: Place, **options: Any) -> dict[str, int]:
    """List all files of a place.

    Returns:
        Path below the place's own to size.
    """
    words = ("lsjson", "--recursive", "--files-only", "--no-modtime", "--no-mimetype", place.at())
    status, output = rclone(place, *words, accept=(0, *ABSENT), **options)
    return {} if status else {each["Path"]: each["Size"] for each in json.loads(output)}


def with_list(place: Place, names: Iterable[str], *arguments: str, **options: Any) -> tuple[int, str]:
    """Run rclone on some files only."""
    with tempfile.NamedTemporaryFile("w", suffix=".list") as file:
        file.write("".join(f"{name}\n" for name in names))
        file.flush()
        return rclone(place, *arguments, f"--files-from-raw={file.name}", "--no-traverse", **options)


# ---- what belongs to a copy


def stage_of(name: str, labels: Collection[str] | None = None) -> int | None:
    """Say when a file is sent.

    Args:
        name: Its path below the repository.
        labels: Complete backups of pgBackRest; those that are not are left out. Without it, all count.

    Returns:
        The stage; nothing if it is never sent.
    """
    if OWN.search(name):
        return None
    if match := LABEL.fullmatch(name):
        if labels is not None and match[1] not in labels:
            return None
        return 1 if match[2] in ("backup.manifest", "backup.manifest.copy") else 0
    return next((stage for stage, pattern in STAGES if pattern.match(name)), 0)


def present(repository: Path) -> dict[str, File]:
    """List the files of the repository that belong to a copy.

    Returns:
        Path below the repository to what it is.

    Raises:
        OSError: If something cannot be read. It must not look as if it were not there.
    """

    def fail(error: OSError) -> None:
        raise error

    labels = {path.parent.name for path in repository.glob("postgres/backup/*/*/backup.manifest")}
    found = {}
    for directory, _directories, names in os.walk(repository, onerror=fail):
        for each in names:
            path = Path(directory, each)
            name = str(path.relative_to(repository))
            if stage_of(name, labels) is None:
                continue
            try:
                item = path.lstat()
            except FileNotFoundError:
                continue
            if stat.S_ISREG(item.st_mode):
                found[name] = File(item.st_size, item.st_ctime)
    return found


def difference(local: Mapping[str, File], remote: Mapping[str, int], sent: Mapping[str, float]) -> Difference:
    """Compare a copy with the repository.

    Args:
        local: Files of the repository.
        remote: Files of the copy, name to size.
        sent: Files that may change to when those became what they are that the copy has.

    Returns:
        What to do.
    """
    found = Difference()
    for name, file in sorted(local.items()):
        differs = name in remote and remote[name] != file.size
        changes = CHANGING.fullmatch(name) is not None
        if name not in remote or (changes and (differs or file.changed != sent.get(name))):
            found.send.setdefault(stage_of(name) or 0, []).append(name)
        elif differs:
            found.other.append(name)
    gone = [name for name in remote if name not in local and stage_of(name) is not None]
    found.gone = sorted(gone, key=lambda name: (-(stage_of(name) or 0), name))
    return found


def identity(repository: Path) -> str:
    """Identify a repository, by the key with which Restic's begins."""
    return hashlib.blake2b((repository / "files" / "config").read_bytes(), digest_size=16).hexdigest()


def newest(names: Iterable[str]) -> str:
    """Name the newest backup whose manifest is among some files; empty if there is none."""
    return max((name[len("manifests/") : -len(".json")] for name in names if name.startswith("manifests/")), default="")


def below(files: Mapping[str, int], directory: str) -> dict[str, int]:
    """Choose the files in a directory, and name them from there."""
    return {name[len(directory) :]: size for name, size in files.items() if name.startswith(directory)}


def mark_of(place: Place, files: Mapping[str, int], **options: Any) -> dict[str, Any] | None:
    """Read whose copy is at a place.

    Args:
        place: Where.
        files: What is listed there.
        options: Of ``rclone``.

    Returns:
        The mark, or nothing if the place is empty.

    Raises:
        BackupError: If it holds something else.
    """
    if MARK not in files:
        if files:
            raise BackupError(
                f"{place.title} holds something else than a copy, such as {min(files)}. Name an empty path in"
                f" backup_copies.{place.name}."
            )
        return None
    _status, text = rclone(place, "cat", place.at(MARK), **options)
    try:
        found = dict(json.loads(text))
    except (ValueError, TypeError):
        raise BackupError(f"{place.title}: {MARK} cannot be read.") from None
    if found.get("format") != FORMAT:
        raise BackupError(f"{place.title}: the copy has the format {found.get('format')!r}, expected {FORMAT}.")
    return found


def check_owner(place: Place, mark: Mapping[str, Any], stack: str, repository: str) -> None:
    """Refuse another repository's copy.

    Raises:
        BackupError: If it is one.
    """
    if mark.get("stack") != stack:
        raise BackupError(
            f"{place.title} has the copy of the stack {mark.get('stack')!r}. Name another path in"
            f" backup_copies.{place.name}."
        )
    if mark.get("repository") != repository:
        raise BackupError(
            f"{place.title} has the copy of another repository of the stack {stack!r}, such as that of another host or"
            f" of a former directory. Name another path in backup_copies.{place.name}; make fetch-backups brings such a"
            " copy back."
        )


def names_of(names: Collection[str]) -> str:
    """Write some names, and how many more there are."""
    shown = ", ".join(sorted(names)[:NAMED])
    return f"{shown} and {len(names) - NAMED} more" if len(names) > NAMED else shown


# ---- a copy


def copy(
    place: Place,
    repository: Path,
    stack: str,
    may_remove: Callable[[Collection[str]], str] = lambda _names: "",
    stop: Callable[[], bool] = lambda: False,
) -> State:
    """Bring a copy up to date.

    Args:
        place: Where it is.
        repository: Which is checked and locked.
        stack: Its name.
        may_remove: Says why some files of the copy must stay, though the repository lacks them; empty if they may go.
        stop: Asked twice a second whether to give way.

    Returns:
        What is known of the copy now, which is kept too.

    Raises:
        GiveWayError: If it has given way.
        BackupError: If it could not be completed.
        OSError: If the repository cannot be read.
    """
    begun = time.time()
    known = State.read(repository, place)
    files = listed(place, stop=stop)
    mark, own = mark_of(place, files, stop=stop), identity(repository)
    local, remote = present(repository), below(files, "repository/")
    if mark is None:
        text = json.dumps({"stack": stack, "repository": own, "format": FORMAT})
        rclone(place, "rcat", place.at(MARK), stdin=text, stop=stop)
    else:
        check_owner(place, mark, stack, own)
    if newest(remote) > newest(local):
        raise BackupError(
            f"{place.title} has the backup {newest(remote)}, which is newer than all of the repository: it is copied"
            " from elsewhere too, or the repository is an earlier state of itself. Name another path in"
            f" backup_copies.{place.name}; make fetch-backups brings the newer one back."
        )
    todo = difference(local, remote, known.sent)
    send(place, repository, todo.send, stop)
    if todo.other:
        raise BackupError(
            f"{place.title}: {names_of(todo.other)} has another size than in the repository, and was not overwritten."
            " make backup OPTIONS='-e backup_verify=true' says whether that of the repository is damaged: then take it"
            " from the copy; else remove that of the copy."
        )
    kept = ""
    if todo.gone:
        kept = may_remove(todo.gone)
        if not kept:
            remove(place, todo.gone, stop)
    left = below(files, "incoming/").keys() - {name for names in todo.send.values() for name in names}
    if left:
        with_list(place, sorted(left), "delete", place.at("incoming"), accept=(0, *ABSENT), stop=stop)
    sizes = [file.size for file in local.values()]
    changing = {name: file.changed for name, file in local.items() if CHANGING.fullmatch(name)}
    finished = datetime.now(UTC).isoformat()
    state = State(place.title, begun, finished, newest(local), len(sizes), sum(sizes), kept=kept, sent=changing)
    state.write(repository, place)
    return state


def send(place: Place, repository: Path, stages: Mapping[int, list[str]], stop: Callable[[], bool]) -> None:
    """Send files, stage by stage.

    Args:
        place: Where to.
        repository: Where from.
        stages: Stage to names.
        stop: As for ``copy``.
    """
    if not stages:
        return
    target = place.at("repository")
    renaming = renames(place)
    for _stage, names in sorted(stages.items()):
        if renaming:
            with_list(place, names, "copy", str(repository), place.at("incoming"), stop=stop)
            with_list(place, names, "move", place.at("incoming"), target, stop=stop)
        else:
            with_list(place, names, "copy", "--ignore-times", str(repository), target, stop=stop)


def remove(place: Place, names: Collection[str], stop: Callable[[], bool]) -> None:
    """Remove files from a copy.

    Args:
        place: Where.
        names: Which ones, in that order.
        stop: As for ``copy``.
    """
    for stage in range(LAST, -1, -1):
        chosen = [name for name in names if stage_of(name) == stage]
        if chosen:
            with_list(place, chosen, "delete", place.at("repository"), stop=stop)
    rclone(place, "rmdirs", "--leave-root", place.at("repository"), accept=(0, 1, *ABSENT), stop=stop)


def examine(place: Place, repository: Path, stack: str) -> str:
    """Compare a copy with the repository, without fetching it: by checksums as far as the place has them, else by size.

    Args:
        place: Where it is.
        repository: Which is checked and locked.
        stack: Its name.

    Returns:
        A sentence about what was compared.

    Raises:
        BackupError: With what is missing or differs.
    """
    known = State.read(repository, place)
    if not known.finished:
        raise BackupError(f"{place.title}: there is no complete copy yet. {known.error}".strip())
    files = listed(place)
    mark = mark_of(place, files)
    if mark is None:
        raise BackupError(f"{place.title}: the copy is gone.")
    check_owner(place, mark, stack, identity(repository))
    remote = below(files, "repository/")
    # What came since is not there yet, and need not be.
    wanted = {name: file for name, file in present(repository).items() if file.changed < known.begun}
    lacking = wanted.keys() - remote.keys()
    if lacking:
        raise BackupError(f"{place.title}: {len(lacking)} files are missing: {names_of(lacking)}")
    words = ("check", "--one-way", "--combined=-", str(repository), place.at("repository"))
    _status, output = with_list(place, sorted(wanted), *words, accept=(0, 1))
    found = {line[2:]: line[0] for line in output.splitlines() if line[1:2] == " "}
    wrong = [name for name in wanted if found.get(name) != "="]
    if wrong:
        raise BackupError(f"{place.title}: {len(wrong)} files differ or cannot be read: {names_of(wrong)}")
    _status, output = rclone(place, "backend", "features", f"{place.name}:")
    hashes = [each for each in json.loads(output)["Hashes"] or [] if each in ("md5", "sha1", "sha256")]
    how = f"by {hashes[0]}" if hashes else "by size: the place tells no checksums"
    return f"The copy at {place.title} is whole: {len(wanted)} files, compared {how}."


def fetch(place: Place, repository: Path, stack: str, owner: str = "") -> dict[str, Any]:
    """Bring the repository back from a copy. Cut off, it can be run again.

    Args:
        place: Where the copy is.
        repository: An empty directory, or one that was partly fetched.
        stack: Its name.
        owner: User and group id of pgBackRest's part.

    Returns:
        ``backup``, the newest one, ``files`` and ``bytes``.

    Raises:
        BackupError: If the directory holds something else, or the copy is none of this stack or not complete.
    """
    note = repository / FETCHING
    if (repository / "repository.json").exists():
        raise BackupError("The backup directory holds a repository already. Nothing was changed.")
    there = [path.name for path in repository.iterdir() if path.name not in (*BESIDE, "copies", "postgres")]
    there += [f"postgres/{path.name}" for path in (repository / "postgres").glob("*")]
    if there and not note.exists():
        raise BackupError(f"The backup directory holds something else: {names_of(there)}. Nothing was changed.")
    files = listed(place)
    mark = mark_of(place, files)
    if mark is None:
        raise BackupError(f"{place.title} has no copy. Nothing was changed.")
    if mark.get("stack") != stack:
        raise BackupError(f"{place.title} has the copy of the stack {mark.get('stack')!r}. Nothing was changed.")
    remote = below(files, "repository/")
    if "repository.json" not in remote:
        raise BackupError(f"{place.title}: the copy has never been complete. Nothing was changed.")
    begun = json.loads(note.read_text()) if note.exists() else {"repository": mark["repository"]}
    if begun["repository"] != mark["repository"]:
        raise BackupError(
            f"The backup directory holds a part of another repository than that of {place.title}. Fetch from the place"
            " that was named before, or empty the directory."
        )
    wanted = {name: size for name, size in remote.items() if stage_of(name) is not None}
    # One that was about to be replaced when a copy was cut off: it was whole in `incoming`.
    halfway = [name for name in below(files, "incoming/") if CHANGING.fullmatch(name) and name not in wanted]
    have = sum(file.size for file in present_part(repository).values())
    needed, free = sum(wanted.values()) - have, shutil.disk_usage(repository).free
    if needed > free:
        raise BackupError(
            f"The copy has {sum(wanted.values()) >> 20} MiB, and the backup directory {free >> 20} MiB free. Nothing"
            " was changed."
        )
    write(note, json.dumps(begun))
    names = sorted(name for name in wanted if name != "repository.json")
    with_list(place, names, "copy", place.at("repository"), str(repository))
    if halfway:
        with_list(place, halfway, "copy", place.at("incoming"), str(repository))
    local = present_part(repository)
    for name in local.keys() - wanted.keys() - set(halfway):
        (repository / name).unlink()
    wrong = [name for name in names if name not in local or local[name].size != wanted[name]]
    if wrong or identity(repository) != mark["repository"]:
        raise BackupError(
            f"{place.title}: {names_of(wrong) or 'files/config'} did not arrive as it is there. Run it again; if that"
            " does not help, fetch from another copy."
        )
    if owner:
        give(repository / "postgres", *map(int, owner.split(":")))
    _status, text = rclone(place, "cat", place.at("repository/repository.json"))
    write(repository / "repository.json", text)
    note.unlink()
    return {"backup": newest(names), "files": len(wanted), "bytes": sum(wanted.values())}


def present_part(repository: Path) -> dict[str, File]:
    """List all files of a repository that is partly fetched, whatever is complete."""
    found = {}
    for path in repository.rglob("*"):
        name = str(path.relative_to(repository))
        if stage_of(name) is not None and path.is_file() and not path.is_symlink():
            found[name] = File(path.stat().st_size)
    return found


def give(directory: Path, user: int, group: int) -> None:
    """Give a directory with all that it holds to a user."""
    for path in (directory, *directory.rglob("*")):
        os.chown(path, user, group, follow_symlinks=False)
