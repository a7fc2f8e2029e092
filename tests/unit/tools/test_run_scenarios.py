"""The runner of scenarios, with a program in Molecule's place that says when it begins and ends."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[3] / "tools" / "run_scenarios.py"
MOLECULE = """#!/bin/sh
name=$3$DISTRIBUTION
echo "begin $name" >> "$EVENTS"
echo "INFO     $3 ➜ destroy: Executed: Successful"
sleep 0.3
echo "made $name" >> "$EVENTS"
# In colours, as Molecule does on a terminal and in CI.
printf 'INFO     %s ➜ \\033[33mcreate\\033[0m: \\033[32mExecuted: Successful\\033[0m\\n' "$3"
[ $3 != incomplete ] || echo "WARNING  Missing playbook (None). Skipping."
# These two are for running beside each other: each waits for the other, for 20 s at most.
[ $3 != one ] && [ $3 != two ] || for _ in $(seq 200); do
    [ "$(grep -c begin "$EVENTS")" -lt 2 ] || break
    sleep 0.1
done
echo "end $name" >> "$EVENTS"
printf '  \033[31m✘ Refused as it should be\033[0m\n'
[ $3 != broken ] || {
    printf '\033[31mE       AssertionError: first line\033[0m\n  \033[2m│ \033[31mE         the second\033[0m\n'
    printf '\033[31mFAILED\033[0m tests/test_a.py::\033[1mtest_b\033[0m - assert 1 == 2\n'
    exit 1
}
"""


class Runner:
    """Runs the program with a directory for its locks, its log and its artifacts."""

    def __init__(self, directory: Path) -> None:
        """Put a copy of the program and the one in Molecule's place there."""
        self.directory = directory
        self.log = directory / "events"
        (directory / "tools").mkdir()
        (directory / "tools" / PROGRAM.name).write_text(PROGRAM.read_text())
        (directory / "molecule").write_text(MOLECULE)
        (directory / "molecule").chmod(0o755)
        # The program looks for Molecule beside the interpreter that runs it.
        (directory / "python").symlink_to(sys.executable)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start it."""
        environment = os.environ | {"EVENTS": str(self.log), "TMPDIR": str(self.directory)}
        environment.pop("DISTRIBUTION", None)
        return subprocess.Popen(
            [str(self.directory / "python"), str(self.directory / "tools" / PROGRAM.name), *words],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def __call__(self, *words: str) -> tuple[int, str]:
        """Run it to its end; returns its status and what it said."""
        process = self.start(*words)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    @property
    def events(self) -> list[str]:
        """What began and ended, in order."""
        return self.log.read_text().splitlines()


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    """The program."""
    return Runner(tmp_path)


def test_one_after_the_other(run: Runner) -> None:
    """By default, and with a line for each at the end."""
    status, said = run("alone", "other@trixie")
    assert status == 0
    assert run.events == [f"{event} {name}" for name in ("alone", "othertrixie") for event in ("begin", "made", "end")]
    table = said.partition("── scenarios\n")[2].splitlines()
    assert [line.split()[0] for line in table] == ["alone", "other@trixie", "all"]
    assert all(line.endswith("  ok") for line in table[:-1])
    for folder in ("alone", "other/trixie"):
        assert "Executed: Successful" in (run.directory / "artifacts/molecule" / folder / "molecule.log").read_text()


def test_side_by_side_once_images_and_hosts_are_made(run: Runner) -> None:
    """The second begins when the first has made its hosts, and before it ends; lines tell whose they are."""
    status, said = run("--jobs", "2", "one", "two")
    assert status == 0
    begun = [event.split()[1] for event in run.events if event.startswith("begin")]
    assert sorted(begun) == ["one", "two"]
    assert run.events[:3] == [f"begin {begun[0]}", f"made {begun[0]}", f"begin {begun[1]}"]
    assert "one INFO     one ➜ destroy: Executed: Successful" in said


def test_one_scenario_is_never_beside_itself(run: Runner) -> None:
    """Its test hosts have one name on both Debians; the next one goes first."""
    status, _ = run("--jobs", "2", "one", "one@trixie", "two")
    assert status == 0
    assert run.events.index("begin two") < run.events.index("end one") < run.events.index("begin onetrixie")


def test_another_clone_waits(run: Runner) -> None:
    """Of two runs that share their test hosts, the second says that it waits, and begins when the first has ended."""
    with (run.directory / "quantops-test-alone.lock").open("a") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = run.start("alone")
        assert second.stdout and second.stdout.readline() == "── molecule: waiting for a run to end of alone\n"
        assert not run.log.exists()
    second.communicate(timeout=60)
    assert second.returncode == 0 and run.events == ["begin alone", "made alone", "end alone"]


@pytest.mark.parametrize("name", ["broken", "incomplete"])
def test_a_failure_is_told_and_the_next_one_runs(run: Runner, name: str) -> None:
    """Also where Molecule itself calls it a success."""
    status, said = run(name, "alone")
    assert status == 1
    outcome = {"broken": "FAILED, see artifacts/molecule/broken", "incomplete": "FAILED: Missing playbook"}[name]
    assert said.count(f"  {outcome}\n") == 1 and "end alone" in run.events
    table = said.partition("── scenarios\n")[2]
    assert ("    FAILED tests/test_a.py::test_b - assert 1 == 2\n" in table) == (name == "broken")
    assert ("the second\n" in table) == (name == "broken")
    assert table.count("Refused as it should be") == 1
