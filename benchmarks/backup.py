#!/usr/bin/env python3
"""Measures backups of a running stack with objects of some size in a bucket, and a restore of them.

Stores random objects, makes a backup, makes another one with nothing new, and, if asked to, restores the newest over
the running stack (what was there stays in other volumes, which it names). With ``--trainings``, models are trained by
turns alone and beside backups that follow each other without a pause. The objects are removed at the end, and stay as
old versions until these expire.

Usage: backup.py [--mib 1024] [--object-mib 16] [--restore] [--trainings N] [--stack quantops]
                 [--url http://localhost:5500] [--host CONTAINER] [-- OPTIONS]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
STORE = """
set -eu
export MC_CONFIG_DIR=$(mktemp -d)
export MC_HOST_root="http://$(cat /run/secrets/root_user):$(cat /run/secrets/root_password)@127.0.0.1:9000"
"""


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask MLflow."""
    asked = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--object-mib", type=int, default=16)
    parser.add_argument("--url", default="http://localhost:5500", help="of MLflow, through which they are stored")
    parser.add_argument("--restore", action="store_true")
    parser.add_argument("--trainings", type=int, default=0)
    parser.add_argument("--stack", default="quantops")
    parser.add_argument("--host", help="the stack runs in the engine of this container, as with Molecule")
    parser.add_argument("options", nargs="*", default=["-i", "inventories/local"])
    asked = parser.parse_args()
    docker = ["docker", *(["exec", "-i", asked.host, "docker"] if asked.host else [])]

    def execute(container: str, *words: str, text: str = "") -> str:
        command = [*docker, "exec", "-i", f"{asked.stack}-{container}", *words]
        return subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout

    def backup() -> dict[str, float]:
        made = json.loads(execute("backup", "python3", "/run/config/backup.py", "run"))
        begun, ended = (datetime.fromisoformat(made[each]) for each in ("started", "finished"))
        return {"seconds": (ended - begun).total_seconds(), "bytes": made["files"]["bytes"]}

    def training() -> float:
        """Train a model, and return the seconds of its run."""
        words = [".venv/bin/ansible-playbook", "playbooks/verify.yml", *asked.options]
        subprocess.run(words, cwd=REPOSITORY, check=True, stdout=sys.stderr)
        api = f"{asked.url}/api/2.0/mlflow"
        found = post(f"{api}/experiments/search", {"max_results": 1000})["experiments"]
        body = {"experiment_ids": [each["experiment_id"] for each in found], "order_by": ["attributes.start_time DESC"]}
        newest = post(f"{api}/runs/search", {**body, "max_results": 1})["runs"][0]["info"]
        return (newest["end_time"] - newest["start_time"]) / 1000

    def beside() -> tuple[float, int]:
        """Train while backups are made, and return the seconds of the run and how many backups there were."""
        ended, made = threading.Event(), []

        def backups() -> None:
            while not ended.is_set():
                made.append(backup())

        thread = threading.Thread(target=backups)
        thread.start()
        try:
            return training(), len(made)
        finally:
            ended.set()
            thread.join()

    def size() -> int:
        return int(execute("backup", "du", "-sb", "/backup").split()[0])

    print(f"before: {backup()['seconds']:.1f} s, repository {size() / 2**20:.0f} MiB", flush=True)
    count = max(1, asked.mib // asked.object_mib)
    # Through MLflow: a client in the store's container would count into its memory.
    for number in range(count):
        address = f"{asked.url}/api/2.0/mlflow-artifacts/artifacts/benchmark/{number}"
        body = os.urandom(asked.object_mib * 2**20)
        with urllib.request.urlopen(urllib.request.Request(address, data=body, method="PUT"), timeout=300):
            pass
    try:
        for what in ("new", "nothing new"):
            before, found = size(), backup()
            grown = (size() - before) / 2**20
            total = found["bytes"] / 2**20
            print(f"{what}: {found['seconds']:.1f} s, {total:.0f} MiB in all, repository + {grown:.0f} MiB", flush=True)
        for _each in range(asked.trainings):
            alone, (with_backups, made) = training(), beside()
            print(f"training: {alone:.1f} s; beside {made} backups: {with_backups:.1f} s", flush=True)
        if asked.restore:
            words = [".venv/bin/ansible-playbook", "playbooks/restore.yml", *asked.options]
            words += ["-e", f"restore_confirm={asked.stack}"]
            begun = time.monotonic()
            subprocess.run(words, cwd=REPOSITORY, check=True, stdout=sys.stderr)
            print(f"restore: {time.monotonic() - begun:.0f} s", flush=True)
    finally:
        execute(
            "minio",
            "sh",
            "-s",
            text=f"{STORE}mc --quiet rm --recursive --force root/mlflow/artifacts/benchmark/ > /dev/null\n",
        )


if __name__ == "__main__":
    main()
