#!/usr/bin/env python3
"""Measures which rows a host takes with it that is killed: those that PostgreSQL has committed and not archived yet.

The host is a container with an engine of its own, as Molecule makes them. A client inserts the time, ten times a
second, and notes what PostgreSQL has acknowledged. Then everything on the host is ended with SIGKILL. The backup
repository alone is taken from the dead host, the stack is destroyed with its data, and restored from it to the end of
the archive. What is lost lies between the newest row there and the newest acknowledged one.

Usage: lost_rows.py --host CONTAINER [--stack molecule] [--seconds 150] -- OPTIONS OF ansible-playbook
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", required=True)
    parser.add_argument("--stack", default="molecule")
    parser.add_argument("--seconds", type=int, default=150, help="of writing, and up to a minute more, by chance")
    parser.add_argument("options", nargs="+")
    asked = parser.parse_args()
    directory = f"/var/backups/quantops/{asked.stack}"
    psql = ["docker", "exec", "-i", asked.host, "docker", "exec", "-i", f"{asked.stack}-postgres"]
    psql += ["psql", "--username=postgres", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]

    def run(*words: str, text: str = "") -> str:
        return subprocess.run(words, check=True, capture_output=True, text=True, input=text).stdout.strip()

    def play(name: str, *options: str) -> None:
        words = [str(REPOSITORY / ".venv/bin/ansible-playbook"), f"playbooks/{name}.yml", *asked.options, *options]
        with tempfile.NamedTemporaryFile(suffix=f"-{name}.log", delete=False) as log:
            if subprocess.run(words, cwd=REPOSITORY, stdout=log, stderr=log, check=False).returncode:
                raise SystemExit(f"{name} failed; see {log.name}")

    run(*psql, text="DROP TABLE IF EXISTS lost_rows; CREATE TABLE lost_rows (at timestamptz);")
    run(
        "docker",
        "exec",
        asked.host,
        "docker",
        "exec",
        f"{asked.stack}-backup",
        "python3",
        "/run/config/backup.py",
        "run",
    )
    acknowledged: list[datetime] = []
    writer = subprocess.Popen(psql, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert writer.stdin is not None and writer.stdout is not None

    def note() -> None:
        for line in writer.stdout or ():
            if line.strip():
                acknowledged.append(datetime.fromisoformat(line.strip().replace(" ", "T") + ":00"))

    reader = threading.Thread(target=note)
    reader.start()
    end = time.monotonic() + asked.seconds + random.uniform(0, 60)
    while time.monotonic() < end:
        writer.stdin.write("INSERT INTO lost_rows VALUES (clock_timestamp()) RETURNING at;\n")
        time.sleep(0.1)
    run("docker", "kill", "--signal=KILL", asked.host)
    reader.join(timeout=60)
    writer.kill()
    with tempfile.TemporaryDirectory() as kept:
        run("docker", "cp", "--archive", f"{asked.host}:{directory}", f"{kept}/repository")
        run("docker", "start", asked.host)
        time.sleep(20)
        play("destroy", "-e", "destroy_data=true", "-e", f"destroy_confirm={asked.stack}")
        run("docker", "exec", asked.host, "rm", "-rf", directory)
        run("docker", "cp", "--archive", f"{kept}/repository", f"{asked.host}:{directory}")
    begun = time.monotonic()
    play("restore", "-e", "restore_to=end", "-e", f"restore_confirm={asked.stack}")
    took = time.monotonic() - begun
    text = "SELECT to_char(max(at) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US'), count(*) FROM lost_rows;"
    newest, rows = run(*psql, text=text).split("|")
    lost = (acknowledged[-1] - datetime.fromisoformat(newest).replace(tzinfo=UTC)).total_seconds()
    print(f"{len(acknowledged)} rows acknowledged, {rows} restored: {lost:.1f} s lost")
    print(f"restored in {took:.0f} s, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
