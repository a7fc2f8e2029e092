"""Runs Molecule scenarios, and prints how each ended and how long it took.

Usage: ``run_scenarios.py [--jobs N] NAME[@DISTRIBUTION]…``. What Molecule prints is also kept as ``molecule.log``
in ``artifacts/molecule/NAME[/DISTRIBUTION]``, beside what the scenario itself leaves there. Ends with 1 if any failed.

Scenarios run beside each other if their test hosts differ: a lock on this machine keeps each to one run at a time, also
among several clones. Another one is held while test hosts and their images are made, so that nothing is built twice.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).parents[1]
#: Molecule passes over a playbook that is not there and calls that a success.
PASSED_OVER = "Missing playbook"
#: After these steps, images and test hosts are there.
MADE = ("create: Executed", "converge: Executed")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
#: A failed task, a line of what a test saw, or a failed test in the summary, which has only the first of these lines.
FAILURE = re.compile(r"✘ .+|(?:^|│ )E {3,}\S.*|\b(?:FAILED|ERROR) \S+::.+")
#: How many of them the table at the end names, of each scenario.
NAMED = 30
#: Longer than any scenario takes, in seconds.
PATIENCE = 3 * 3600


def span(seconds: float) -> str:
    """Write a duration as minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def lock(name: str) -> IO[str] | None:
    """Take a lock of this machine.

    Args:
        name: What is locked.

    Returns:
        A file, which holds the lock until it is closed; nothing if another one holds it.
    """
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(Path(tempfile.gettempdir(), f"quantops-test-{name}.lock").open("a"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        opened.pop_all()
        return file


@dataclass
class Scenario:
    """A scenario on one Debian."""

    name: str
    outcome: str = "not run"
    seconds: float = 0
    failures: list[str] = field(default_factory=list)

    @property
    def directory(self) -> str:
        """Directory below ``molecule``."""
        return self.name.partition("@")[0]

    @property
    def artifacts(self) -> Path:
        """Folder of what is left of a run."""
        return REPOSITORY / "artifacts" / "molecule" / self.name.replace("@", "/")

    def run(self, prefix: str) -> None:
        """Run it, and show what Molecule says.

        Args:
            prefix: What each line begins with.
        """
        with contextlib.ExitStack() as held:
            held.enter_context(self.lock_of_images())
            start = time.monotonic()
            self.outcome = self.molecule(prefix, held)
            self.seconds = time.monotonic() - start

    def lock_of_images(self) -> IO[str]:
        """Wait for the lock under which images and test hosts are made."""
        end = time.monotonic() + PATIENCE
        while not (held := lock("images")):
            if time.monotonic() > end:
                raise TimeoutError(f"{self.name}: the lock of images is held for {PATIENCE} s")
            time.sleep(1)
        return held

    def molecule(self, prefix: str, making: contextlib.ExitStack) -> str:
        """Run Molecule's sequence.

        Args:
            prefix: What each line begins with.
            making: What is held until test hosts and images are made.

        Returns:
            How it ended: ``ok``, or what was wrong.
        """
        self.artifacts.mkdir(parents=True, exist_ok=True)
        distribution = self.name.partition("@")[2]
        environment = os.environ | ({"DISTRIBUTION": distribution} if distribution else {})
        passed_over = False
        with (
            (self.artifacts / "molecule.log").open("w", buffering=1) as log,
            subprocess.Popen(
                [str(Path(sys.executable).with_name("molecule")), "test", "--scenario-name", self.directory],
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            ) as molecule,
        ):
            assert molecule.stdout is not None
            for line in molecule.stdout:
                print(f"{prefix}{line}", end="", flush=True)
                log.write(line)
                text = COLOUR.sub("", line)
                passed_over = passed_over or PASSED_OVER in text
                if (failure := FAILURE.search(text)) and failure[0] not in self.failures:
                    self.failures.append(failure[0])
                if any(step in text for step in MADE):
                    making.close()
        if molecule.returncode:
            return f"FAILED, see {self.artifacts.relative_to(REPOSITORY)}"
        return f"FAILED: {PASSED_OVER}" if passed_over else "ok"


def main() -> int:
    """Run all that are named.

    Returns:
        1 if any failed.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("names", nargs="+", metavar="NAME[@DISTRIBUTION]")
    arguments = parser.parse_args()
    scenarios = [Scenario(name) for name in arguments.names]
    for scenario in scenarios:
        shutil.rmtree(scenario.artifacts, ignore_errors=True)
    waiting, turn, begun = list(scenarios), threading.Lock(), time.monotonic()
    width = max(len(scenario.name) for scenario in scenarios)

    def next_one() -> tuple[Scenario, IO[str]] | None:
        """Take the first one whose test hosts nobody uses."""
        end, told = time.monotonic() + PATIENCE, False
        while waiting and time.monotonic() < end:
            with turn:
                for scenario in waiting:
                    if held := lock(scenario.directory):
                        waiting.remove(scenario)
                        return scenario, held
                if not told:
                    names = ", ".join(sorted({scenario.directory for scenario in waiting}))
                    print(f"── molecule: waiting for a run to end of {names}", flush=True)
                    told = True
            time.sleep(2)
        return None

    def lane() -> None:
        """Run one after the other."""
        while found := next_one():
            scenario, held = found
            with held:
                print(f"── molecule: {scenario.name}", flush=True)
                scenario.run(f"{scenario.name:<{width}} " if arguments.jobs > 1 else "")
                print(f"── molecule: {scenario.name}: {scenario.outcome}", flush=True)

    with ThreadPoolExecutor(arguments.jobs) as executor:
        lanes = [executor.submit(lane) for _ in range(arguments.jobs)]
        try:
            for each in lanes:
                each.result()
        except BaseException:  # such as Ctrl-C, which ends the scenarios that run
            waiting.clear()
            raise
    print("\n── scenarios")
    for scenario in scenarios:
        print(f"{scenario.name:<24} {span(scenario.seconds):>6}  {scenario.outcome}")
        # A scenario may provoke failures, so those of one that passed say nothing.
        for failure in scenario.failures[-NAMED:] if scenario.outcome != "ok" else ():
            print(f"    {failure:.200}")
    print(f"{'all':<24} {span(time.monotonic() - begun):>6}")
    return 1 if any(scenario.outcome != "ok" for scenario in scenarios) else 0


if __name__ == "__main__":
    sys.exit(main())
