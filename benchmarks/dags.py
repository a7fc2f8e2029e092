#!/usr/bin/env python3
"""Seconds of `make dags` for one file, for eight, and for eight of which one is slow to import.

Usage: ``benchmarks/dags.py [--repeat N] [--folder DIRECTORY] [-- OPTIONS OF ansible-playbook]``, with the stack's image
of Airflow on the host. The eight are those of ``tests/fixtures/mixed_dags``, or the files at the top of the folder; the
slow one takes all the time that Airflow gives it. Checks the DAGs of a directory of its own, and changes nothing.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
FIXTURE = REPOSITORY / "tests" / "fixtures" / "mixed_dags"
FINE, SLOW = "prices.py", "slow.py"


def check(directory: Path, options: list[str]) -> float:
    """Run the check.

    Args:
        directory: With the DAGs.
        options: Of ``ansible-playbook``.

    Returns:
        Seconds that it took.
    """
    words = [
        str(REPOSITORY / ".venv" / "bin" / "ansible-playbook"), "playbooks/dags.yml", *options,
        f"--extra-vars=airflow_dags_dir={directory}", "--extra-vars={airflow_dag_sources: []}",
    ]  # fmt: skip
    begun = time.monotonic()
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    took = time.monotonic() - begun
    # The check ends with an error where a file cannot be imported, and so it does for other reasons.
    if "can be imported" not in done.stdout and "There is nothing to say about" not in done.stdout:
        sys.exit(done.stdout + done.stderr)
    return took


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, after one to warm up (3)")
    parser.add_argument("--folder", type=Path, default=FIXTURE, help="DAGs to check instead of the eight")
    parser.add_argument("options", nargs="*", help="further options of ansible-playbook, such as -i inventories/local")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        one, many, slow = (Path(place, name) for name in ("one", "many", "slow"))
        one.mkdir()
        shutil.copy(FIXTURE / FINE, one)
        for directory in (many, slow):
            shutil.copytree(arguments.folder, directory, ignore=shutil.ignore_patterns("__pycache__"))
        cases = {"one file": one}
        if (many / SLOW).is_file():
            # As many files, all of which are read at once.
            (many / SLOW).write_text((many / FINE).read_text().replace("prices", "no_longer_slow"))
        count = len(list(many.glob("*.py")))
        cases[f"{count} files"] = many
        if (slow / SLOW).is_file():
            cases[f"{count} files, one of them slow"] = slow
        check(one, arguments.options)
        base = 0.0
        for name, directory in cases.items():
            # The slow one waits for a time that is always the same.
            repeat = arguments.repeat if directory is not slow else 1
            took = statistics.median(check(directory, arguments.options) for _ in range(repeat))
            base = base or took
            print(f"{name}: {took:.1f} s, {took / base:.2f} times one file", flush=True)


if __name__ == "__main__":
    main()
