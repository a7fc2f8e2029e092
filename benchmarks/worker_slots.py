#!/usr/bin/env python3
"""Measures how many tasks of a second Airflow runs in a second, by slots of its workers over several hosts.

For each number of slots, each host of `airflow_worker` that is named gets its share (`site.yml` with other host
variables), a DAG of mapped tasks runs once to warm the workers up and once to be timed, from the first task's start to
the last one's end. The DAG is a source of its own, which the next `make up` removes.

Usage: worker_slots.py --inventory INVENTORY [--inventory …] --url http://HOST:8080 --password-file FILE
                       [--slots w1=1 --slots w1=1,w2=1 --slots w1=2,w2=2] [--tasks 40]

A host that `--slots` leaves out has no task of the DAG: tasks wait in a queue that only hosts with slots serve.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
QUEUE = "slots"
DAG = f'''
import time

from airflow.sdk import dag, task


@dag(schedule=None, catchup=False, max_active_tasks=100)
def worker_slots():
    @task(queue="{QUEUE}", max_active_tis_per_dag=100)
    def sleep(number):
        time.sleep(1)

    sleep.expand(number=list(range(TASKS)))


worker_slots()
'''
TIMEOUT = 900


class Airflow:
    """Airflow's API, as its administrator."""

    def __init__(self, url: str, password: str) -> None:
        """Log in."""
        self._url, self._token = url, ""
        self._token = self.ask("/auth/token", {"username": "admin", "password": password})["access_token"]

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> dict[str, Any]:
        """Ask; a body is sent as JSON."""
        data = None if body is None else json.dumps(body).encode()
        head = {"Content-Type": "application/json"}
        if self._token:
            head["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self._url + path, data, head, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def await_dag(self) -> None:
        """Wait until the DAG can be started.

        Raises:
            SystemExit: Airflow did not read it in time.
        """
        until = time.monotonic() + TIMEOUT
        while time.monotonic() < until:
            try:
                self.ask("/api/v2/dags/worker_slots", {"is_paused": False}, "PATCH")
            except urllib.error.HTTPError:
                time.sleep(5)
            else:
                return
        sys.exit("Airflow has not read the DAG.")

    def run(self) -> list[dict[str, Any]]:
        """Run the DAG, and return its task instances.

        Raises:
            SystemExit: It failed, or took too long.
        """
        runs = "/api/v2/dags/worker_slots/dagRuns"
        name = self.ask(runs, {"logical_date": None})["dag_run_id"]
        until = time.monotonic() + TIMEOUT
        while (state := self.ask(f"{runs}/{name}")["state"]) not in ("success", "failed"):
            if time.monotonic() > until:
                sys.exit("The tasks take too long.")
            time.sleep(2)
        if state == "failed":
            sys.exit("A task failed.")
        found: list[dict[str, Any]] = self.ask(f"{runs}/{name}/taskInstances?limit=1000")["task_instances"]
        return found


def main() -> None:
    """Measure, and print a row for each number of slots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inventory", action="append", required=True)
    parser.add_argument("--url", default="http://localhost:8080")
    parser.add_argument("--password-file", type=Path, required=True)
    parser.add_argument("--slots", action="append", required=True, help="HOST=SLOTS,…")
    parser.add_argument("--tasks", type=int, default=40)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        dags = Path(directory, "dags")
        dags.mkdir()
        dags.joinpath("worker_slots.py").write_text(DAG.replace("TASKS", str(asked.tasks)))
        variables = Path(directory, "variables.yml")
        inventories = [f"--inventory={each}" for each in asked.inventory]
        for words in asked.slots:
            slots = {host: int(number) for host, number in (each.split("=") for each in words.split(","))}
            mine = f"({slots!r}).get(inventory_hostname, 0)"
            settings = {
                "airflow_dag_sources": [{"name": "worker_slots", "path": str(dags)}],
                "airflow_worker_queues": f"{{{{ ['default'] + ['{QUEUE}'] * (({mine} > 0) | int) }}}}",
                "airflow_worker_concurrency": f"{{{{ [{mine}, 1] | max }}}}",
            }
            variables.write_text(json.dumps(settings))
            command = [".venv/bin/ansible-playbook", "site.yml", *inventories, f"--extra-vars=@{variables}"]
            environment = os.environ | {"ANSIBLE_CONFIG": "ansible.cfg"}
            subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, stdout=sys.stderr)
            airflow = Airflow(asked.url, asked.password_file.read_text().strip())
            airflow.await_dag()
            airflow.run()
            instances = airflow.run()
            begun = min(datetime.fromisoformat(each["start_date"]) for each in instances)
            ended = max(datetime.fromisoformat(each["end_date"]) for each in instances)
            seconds = (ended - begun).total_seconds()
            print(
                f"{words}: {len(instances)} tasks in {seconds:.1f} s, {len(instances) / seconds:.2f} a second, on "
                f"{len({each['hostname'] for each in instances})} hosts, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
