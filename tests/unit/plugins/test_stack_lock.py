"""`stack_lock`: one run at a time, whose lock ends with it however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from collection_under_test import plugin

lock = plugin("action.stack_lock")


class Operator:
    """Runs the action as a task of a run of Ansible on this machine; a sleeping process stands in for that run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, transport: str) -> None:
        """Begin a run."""
        self.monkeypatch, self.transport = monkeypatch, transport
        self.process = subprocess.Popen(["sleep", "300"])
        self.commands: list[str] = []

    def take(self, check: bool = False, **args: Any) -> dict[str, Any]:
        """Run the task."""
        self.monkeypatch.setattr(os, "getppid", lambda: self.process.pid)
        action = lock.ActionModule.__new__(lock.ActionModule)
        action._task = SimpleNamespace(args={"stack": "desk", **args}, check_mode=check)
        action._connection = SimpleNamespace(transport=self.transport)
        action._play_context = SimpleNamespace()
        action._low_level_execute_command = self.execute
        self.monkeypatch.setattr(lock.ActionBase, "run", lambda *_: {})
        return action.run(task_vars={"inventory_hostname": "rack-7"})

    def execute(self, command: str, executable: str) -> dict[str, Any]:
        """Do what a connection does."""
        done = subprocess.run([executable, "-c", command], capture_output=True, text=True, check=False)
        return {"rc": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    def killed(self) -> None:
        """End the run as SIGKILL does; nobody has waited for it yet."""
        self.process.send_signal(signal.SIGKILL)
        eventually(lambda: lock.started(self.process.pid) == "")


def eventually(ask: Callable[[], Any], seconds: float = 30) -> None:
    """Ask until the answer is true."""
    end = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The lock of the stack."""
    monkeypatch.setattr(lock, "DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setattr(lock.context, "CLIARGS", {"args": ("playbooks/site.yml",)})
    return tmp_path / "run" / "desk.lock"


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch, file: Path) -> Iterator[Callable[..., Operator]]:
    """Begins runs, and ends them with what they left behind."""
    begun: list[Operator] = []
    before = set(keepers(os.getpid()))

    def begin(transport: str = "local") -> Operator:
        begun.append(Operator(monkeypatch, transport))
        return begun[-1]

    yield begin
    for each in begun:
        each.process.kill()
        each.process.wait()
    # What renewed a lock sees within moments that its run has ended; the next test counts only its own.
    eventually(lambda: not set(keepers(os.getpid())) - before)


def elsewhere(file: Path, age: float) -> None:
    """A lock of a run on another machine, renewed so many seconds ago."""
    owner = {
        "user": "ada",
        "controller": "laptop",
        "playbook": "site.yml",
        "pid": 77,
        "started": "5",
        "machine": "another",
    }
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({**owner, "since": "2026-11-27 10:00:00 UTC"}) + "\n")
    os.utime(file, (time.time() - age,) * 2)


def test_taken_once_for_a_run(operator: Callable[..., Operator], file: Path) -> None:
    """A later task of the run has it already, since when it was first taken; only its owner reads the file."""
    first = operator()
    assert first.take() == {"changed": False, "taken": True, "ended": []}
    before = file.read_text()
    time.sleep(1.1)
    assert first.take()["taken"] and file.read_text() == before
    assert file.stat().st_mode & 0o077 == 0


def test_the_second_operator_is_told_who_has_it(operator: Callable[..., Operator], file: Path) -> None:
    """Who, where, with what and since when; the lock stays the first one's."""
    first = operator()
    first.take()
    before = file.read_text()
    said = operator().take()
    since = json.loads(before)["since"]
    assert said["failed"] and file.read_text() == before
    assert (
        f"is changing the stack desk on rack-7: site.yml (process {first.process.pid}), since {since}." in said["msg"]
    )
    assert os.uname().nodename in said["msg"] and "stack_lock_wait" in said["msg"]


def test_a_killed_run_holds_nothing(operator: Callable[..., Operator]) -> None:
    """On the same machine at once, also while its process is not yet waited for."""
    first = operator()
    first.take()
    first.killed()
    assert operator().take()["taken"]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a client of the engine into the path, which lists names and ends them; returns what it was asked for."""
    asked = tmp_path / "asked"

    def put(names: str, ends: str, lists: str = "cat running") -> Path:
        place = tmp_path / "bin"
        place.mkdir()
        (tmp_path / "running").write_text(names)
        script = f'cd {tmp_path}; echo "$*" >> asked; case $1 in ps) {lists};; stop) {ends};; esac'
        (place / "docker").write_text(f"#!/bin/sh\n{script}\n")
        (place / "docker").chmod(0o755)
        monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
        return asked

    return put


def test_what_an_interrupted_run_left_at_work_is_ended(
    operator: Callable[..., Operator], engine: Callable[..., Path]
) -> None:
    """Once, when the lock is taken, before anything else looks at the host; only what was started under the lock."""
    asked = engine("desk-postgres-move\n", ": > running")
    run = operator()
    assert run.take(check=True)["ended"] == [] and not asked.exists()
    assert run.take() == {"changed": True, "taken": True, "ended": ["desk-postgres-move"]}
    first, second, *_ = asked.read_text().splitlines()
    assert "label=quantops.stack=desk " in first and "label=quantops.lock=stack " in first
    assert second.endswith(" desk-postgres-move")
    before = asked.read_text()
    assert run.take() == {"changed": False, "taken": True, "ended": []} and asked.read_text() == before


def test_a_lock_beside_that_of_the_stack(operator: Callable[..., Operator], engine: Callable[..., Path]) -> None:
    """Somebody may hold one and somebody else the other; what is ended was started under the same."""
    asked = engine("", ":")
    assert operator().take()["taken"] and operator().take(name="drill")["taken"]
    assert "label=quantops.lock=drill " in asked.read_text()
    said = operator().take(name="drill")
    assert said["failed"] and "runs a drill of the stack desk on rack-7: " in said["msg"]


def test_what_does_not_end(operator: Callable[..., Operator], engine: Callable[..., Path]) -> None:
    """Is named, and nothing is changed beside it."""
    engine("desk-postgres-move\n", "exit 1")
    said = operator().take()
    assert said["failed"] and said["msg"].startswith("desk-postgres-move, left by an interrupted run, is still")


def test_an_engine_that_does_not_say_what_runs(
    operator: Callable[..., Operator], engine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is not taken for one on which nothing does; where none runs, nothing does."""
    monkeypatch.setattr(lock, "END", lock.END.replace("timeout 30", "timeout 1"))
    engine("", ":", lists="exec sleep 30")
    said = operator().take()
    assert said["failed"] and said["msg"].startswith("The engine on rack-7 does not answer")


def test_a_host_without_an_engine(operator: Callable[..., Operator], engine: Callable[..., Path]) -> None:
    engine("", ":", lists="echo Cannot connect to the Docker daemon >&2; exit 1")
    assert operator().take() == {"changed": False, "taken": True, "ended": []}


def test_another_process_with_the_number_of_a_dead_one(operator: Callable[..., Operator], file: Path) -> None:
    """It was started at another time."""
    first = operator()
    first.take()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"started": "1"}))
    assert operator().take()["taken"]


@pytest.mark.parametrize(
    ("age", "taken"), [(lock.LEASE - 20, False), (lock.LEASE + 20, True), (-lock.LEASE - 20, True)]
)
def test_a_run_on_a_machine_that_is_away(
    operator: Callable[..., Operator], file: Path, age: float, taken: bool
) -> None:
    """Nobody can look for its process: it holds the lock for as long as it renewed it."""
    elsewhere(file, age)
    said = operator().take()
    assert said.get("taken", False) == taken
    assert (
        taken or "ada on laptop is changing the stack desk on rack-7: site.yml (process 77), since 2026" in said["msg"]
    )


def test_who_waits_gets_it(operator: Callable[..., Operator], file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stack_lock_wait, as soon as the other run has ended."""
    first, second = operator(), operator()
    first.take()
    monkeypatch.setattr(lock.time, "sleep", lambda _: first.process.poll() is None and first.killed())
    assert second.take(wait=60)["taken"]


def test_check_mode_is_not_held_up(
    operator: Callable[..., Operator], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes nothing, and says that another run is at work."""
    said: list[str] = []
    monkeypatch.setattr(lock.Display, "warning", lambda _self, text: said.append(text))
    assert operator().take(check=True) == {"changed": False, "taken": False, "ended": []}
    assert not file.exists() and not said
    elsewhere(file, 5)
    before = file.read_text()
    assert operator().take(check=True)["taken"] is False
    assert file.read_text() == before and "ada on laptop is changing the stack desk" in said[0]


def test_two_stacks_do_not_meet(operator: Callable[..., Operator]) -> None:
    """Each name has its own."""
    assert operator().take()["taken"] and operator().take(stack="other")["taken"]


def test_a_lock_that_was_written_by_half(operator: Callable[..., Operator], file: Path) -> None:
    """It holds for as long as any other."""
    file.parent.mkdir()
    file.write_text('{"user": "ad')
    assert operator().take()["failed"]
    os.utime(file, (time.time() - lock.LEASE - 20,) * 2)
    assert operator().take()["taken"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a b", "$(id)"])
def test_a_name_that_is_none(operator: Callable[..., Operator], name: str) -> None:
    """No path and no command is made of it."""
    assert operator().take(stack=name)["failed"]


def keepers(process: int) -> list[int]:
    """Processes that were forked from this one and live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended while this looked
            words = stat.read_text().rpartition(") ")[2].split()
            if words[1] == str(process) and words[0] not in "ZX":
                found.append(int(stat.parent.name))
    return found


@pytest.fixture
def kept(operator: Callable[..., Operator], monkeypatch: pytest.MonkeyPatch) -> tuple[Operator, int]:
    """A run over a connection, with the process that renews its lock."""
    monkeypatch.setattr(lock, "RENEWAL", 0.2)
    monkeypatch.setattr(lock, "WATCH", 0.05)
    run = operator("ssh")
    before = set(keepers(os.getpid()))
    assert run.take()["taken"]
    [keeper] = set(keepers(os.getpid())) - before
    return run, keeper


def test_a_long_task_keeps_the_lock(kept: tuple[Operator, int], file: Path) -> None:
    """Over a connection it is renewed while the run lives, by one process however often the task comes."""
    run, keeper = kept
    assert run.take()["taken"] and keepers(os.getpid()).count(keeper) == 1
    assert len([each for each in keepers(os.getpid()) if each != run.process.pid]) == 1
    os.utime(file, (0, 0))
    eventually(lambda: time.time() - file.stat().st_mtime < 60)


def test_two_tasks_within_a_second(kept: tuple[Operator, int], file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time tells them apart no more, and one process renews the lock all the same."""
    run, keeper = kept
    since = json.loads(file.read_text())["since"]
    monkeypatch.setattr(lock.time, "strftime", lambda _: since)
    assert run.take()["taken"]
    assert [each for each in keepers(os.getpid()) if each != run.process.pid] == [keeper]


def test_the_lock_goes_with_a_killed_run(kept: tuple[Operator, int], file: Path) -> None:
    """And so does the process that renewed it."""
    run, keeper = kept
    run.killed()
    eventually(lambda: not file.exists() and keeper not in keepers(os.getpid()))


def test_a_lock_that_another_run_has_taken_stays(kept: tuple[Operator, int], file: Path) -> None:
    """A controller that slept longer than its lock was good for does not renew it, nor remove it."""
    run, keeper = kept
    elsewhere(file, 0)
    eventually(lambda: keeper not in keepers(os.getpid()))
    run.killed()
    assert "ada" in file.read_text()
