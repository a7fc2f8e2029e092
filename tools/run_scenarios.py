"""Runs Molecule scenarios one after the other, and prints how each ended and how long it took.

Usage: ``run_scenarios.py NAME[@DISTRIBUTION]…``. What Molecule prints is also kept in
``artifacts/molecule/NAME/molecule.log``, beside what the scenario itself leaves there. Ends with 1 if any failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
#: Molecule passes over a playbook that is not there and calls that a success.
PASSED_OVER = "Missing playbook"


def span(seconds: float) -> str:
    """Write a duration as minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def run(scenario: str, distribution: str) -> str:
    """Run a scenario and show what Molecule says.

    Args:
        scenario: Directory below ``molecule``.
        distribution: Codename of the test hosts' Debian; empty for the scenario's own.

    Returns:
        How it ended: ``ok``, or what was wrong.
    """
    artifacts = REPOSITORY / "artifacts" / "molecule" / scenario
    shutil.rmtree(artifacts, ignore_errors=True)
    artifacts.mkdir(parents=True)
    environment = os.environ | ({"DISTRIBUTION": distribution} if distribution else {})
    passed_over = False
    with (
        (artifacts / "molecule.log").open("w") as log,
        subprocess.Popen(
            [str(Path(sys.executable).with_name("molecule")), "test", "--scenario-name", scenario],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as molecule,
    ):
        assert molecule.stdout is not None
        for line in molecule.stdout:
            print(line, end="", flush=True)
            log.write(line)
            passed_over = passed_over or PASSED_OVER in line
    if molecule.returncode:
        return f"FAILED, see {artifacts.relative_to(REPOSITORY)}"
    return f"FAILED: {PASSED_OVER}" if passed_over else "ok"


def main() -> int:
    """Run all that are named.

    Returns:
        1 if any failed.
    """
    table = []
    begun = time.monotonic()
    for name in sys.argv[1:]:
        print(f"── molecule: {name}", flush=True)
        start = time.monotonic()
        scenario, _, distribution = name.partition("@")
        table.append((name, run(scenario, distribution), time.monotonic() - start))
    print("\n── scenarios")
    for name, outcome, seconds in [*table, ("all", "", time.monotonic() - begun)]:
        print(f"{name:<24} {span(seconds):>6}  {outcome}")
    return 1 if any(outcome != "ok" for _, outcome, _ in table) else 0


if __name__ == "__main__":
    sys.exit(main())
