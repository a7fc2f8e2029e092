#!/usr/bin/env python3
"""Times requests of clients that log metrics to MLflow at once, beside a training.

Usage: mlflow_clients.py --inventory inventories/local [--url http://localhost:5500] [--clients 8] [--metrics 200]

``playbooks/verify.yml`` starts a training on the inventory's stack. When its run appears in MLflow, each client logs
its metrics, one a request over one connection, and then ends its run. Without ``--inventory`` nothing is trained. The
experiment is deleted at the end; its rows stay until ``make mlflow-gc``.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

REPOSITORY = Path(__file__).parents[1]
TIMEOUT = 60
TRAINING_TIMEOUT = 1200


class Client:
    """One connection to MLflow.

    Attributes:
        seconds: How long each request took.
        errors: What went wrong.
    """

    def __init__(self, url: str) -> None:
        """Hold the address."""
        place = urlsplit(url)
        self._connection = http.client.HTTPConnection(place.hostname or "localhost", place.port or 80, timeout=TIMEOUT)
        self.seconds: list[float] = []
        self.errors: list[str] = []

    def post(self, path: str, **body: object) -> dict[str, Any]:
        """Send a request; an error is noted and gives an empty answer."""
        began = time.perf_counter()
        try:
            head = {"Content-Type": "application/json"}
            self._connection.request("POST", f"/api/2.0/mlflow/{path}", json.dumps(body), head)
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            self.errors.append(f"{path}: {error!r}")
            return {}
        finally:
            self.seconds.append(time.perf_counter() - began)
        if answer.status != http.client.OK:
            self.errors.append(f"{path}: {answer.status} {text[:200].decode(errors='replace')}")
            return {}
        found: dict[str, Any] = json.loads(text)
        return found


def log_run(url: str, experiment: str, metrics: int) -> Client:
    """Log a run with its metrics."""
    client = Client(url)
    now = int(time.time() * 1000)
    created = client.post("runs/create", experiment_id=experiment, start_time=now)
    if created:
        run = created["run"]["info"]["run_id"]
        for step in range(metrics):
            client.post(
                "runs/log-metric", run_id=run, key="loss", value=1 / (step + 1), timestamp=now + step, step=step
            )
        client.post("runs/update", run_id=run, status="FINISHED", end_time=int(time.time() * 1000))
    return client


def running(client: Client) -> bool:
    """Say whether a training's run is under way in MLflow."""
    experiments = client.post("experiments/search", max_results=1000).get("experiments", [])
    names = [each["experiment_id"] for each in experiments]
    body = {"experiment_ids": names, "filter": "attributes.status = 'RUNNING'", "max_results": 1}
    return bool(names and client.post("runs/search", **body).get("runs"))


def start_training(inventory: str, client: Client, log: Any) -> subprocess.Popen[bytes]:
    """Start a training, and return when its run has begun.

    Raises:
        SystemExit: It ended before, or did not begin in time.
    """
    if running(client):
        sys.exit("A run is under way already; wait for its end.")
    playbook = Path(sys.executable).with_name("ansible-playbook")
    words = [str(playbook), "-i", str(Path(inventory).absolute()), "playbooks/verify.yml"]
    environment = os.environ | {"ANSIBLE_CONFIG": "ansible.cfg"}
    process = subprocess.Popen(words, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT)
    until = time.monotonic() + TRAINING_TIMEOUT
    while not running(client):
        if process.poll() is not None or time.monotonic() > until:
            process.terminate()
            sys.exit(f"No training began; see {log.name}")
        time.sleep(0.5)
    return process


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inventory")
    parser.add_argument("--url", default="http://localhost:5500")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--metrics", type=int, default=200)
    options = parser.parse_args()
    first = Client(options.url)
    created = first.post("experiments/create", name=f"benchmark {uuid.uuid4()}")
    if not created:
        sys.exit(f"MLflow at {options.url}: {first.errors[0]}")
    experiment = created["experiment_id"]
    training = None
    with tempfile.NamedTemporaryFile("wb", suffix=".log", delete=False) as log:
        try:
            if options.inventory:
                training = start_training(options.inventory, first, log)
            before, began = os.getloadavg()[0], time.perf_counter()
            with concurrent.futures.ThreadPoolExecutor(options.clients) as pool:
                work = [pool.submit(log_run, options.url, experiment, options.metrics) for _ in range(options.clients)]
                clients = [each.result() for each in work]
            took, beside = time.perf_counter() - began, running(first)
            if training and training.wait(TRAINING_TIMEOUT):
                sys.exit(f"The training failed; see {log.name}")
        finally:
            if training and training.poll() is None:
                training.terminate()
            first.post("experiments/delete", experiment_id=experiment)
    seconds = [each for client in clients for each in client.seconds]
    errors = [each for client in clients for each in client.errors]
    cuts = statistics.quantiles(seconds, n=100)
    figures = {
        "clients": options.clients,
        "requests": len(seconds),
        "errors": len(errors),
        "per_second": round(len(seconds) / took),
        "p50_ms": round(cuts[49] * 1000),
        "p95_ms": round(cuts[94] * 1000),
        "longest_ms": round(max(seconds) * 1000),
        "training_until_the_end": beside,
        "load": [round(before, 1), round(os.getloadavg()[0], 1)],
    }
    print(json.dumps(figures, indent=2))
    sys.exit("\n".join(errors[:5]) or 0)


if __name__ == "__main__":
    main()
