"""The stack that the faults happen to, and the playbooks that make it whole again."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from stack_under_test import HOST, REPOSITORY, Stack, ansible_environment, command, eventually, playbook_command
from test_applications import MLflow
from test_data_services import psql, redis, s3

GROUPS = ("postgres", "redis", "minio", "ibkr_gateway", "backend", "mlflow", "airflow", "airflow_worker")
DAG = "daily_strategy_training"
LOG = REPOSITORY / "artifacts" / "molecule" / "faults" / os.environ.get("DISTRIBUTION", "") / "playbooks.log"
MARK = "QUANTOPS_FAULTED_SITE"
TIMEOUT = 30


@dataclass
class Run:
    """How a run of a playbook ended."""

    status: int
    output: str
    seconds: float

    @property
    def changed(self) -> int:
        """Number of changed tasks."""
        return int(re.findall(r"\bchanged=(\d+)", self.output)[-1])


@dataclass
class Site:
    """Runs playbooks against the test host."""

    directory: Path
    secrets: Path
    variables: dict[str, Any] = field(default_factory=dict)

    def command(self, playbook: str, *options: str) -> list[str]:
        """Words of a run."""
        address = command("hostname", "--ip-address").split()[0]
        host = {
            "ansible_connection": "community.docker.docker",
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            "stack_name": os.environ["QUANTOPS_STACK"],
            "stack_publish_address": "0.0.0.0",
            "stack_public_host": address,
            "ibkr_gateway_simulated": True,
            "secrets_dir": str(self.secrets),
            # Sooner than Airflow's own 5 and 10 minutes, after which it gives up a task of a worker that died.
            "airflow_settings": {
                "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": 60,
                "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": 90,
                "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": 30,
            },
            **self.variables,
        }
        children = {group: {"hosts": {HOST: None}} for group in GROUPS}
        inventory = self.directory / "hosts.yml"
        inventory.write_text(yaml.safe_dump({"all": {"hosts": {HOST: host}, "children": children}}))
        return playbook_command(f"playbooks/{playbook}.yml", inventory, *options)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a run, whose processes all bear the mark."""
        environment = ansible_environment() | {"PYTHONUNBUFFERED": "1", MARK: str(self.secrets)}
        return subprocess.Popen(
            self.command(*words), cwd=REPOSITORY, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, playbook: str = "site", *options: str, status: int = 0) -> Run:
        """Run a playbook to its end, which must be the expected one."""
        begun = time.monotonic()
        process = self.start(playbook, *options)
        try:
            output, _ = process.communicate(timeout=1800)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self.log(output)
        assert process.returncode == status, output[-6000:]
        return Run(process.returncode, output, time.monotonic() - begun)

    def killed(self, step: str, task: str, must: bool = True) -> bool:
        """Run site.yml until it is in the middle of a task of a step, and kill all of it there.

        Returns:
            Whether it came there; if it ``must``, the test fails otherwise.
        """
        process = self.start("site", "-v")
        said, here = [], False
        assert process.stdout
        try:
            for line in process.stdout:
                said.append(line)
                here = f" · {step} · " in line if line.startswith("━━ Step") else here
                if here and line.startswith("TASK [") and task in line:
                    time.sleep(0.7)
                    break
            else:
                if not must and process.wait(timeout=30) == 0:
                    return False
                pytest.fail(f"The run ended before {task!r} of {step!r}:\n{''.join(said)[-6000:]}", pytrace=False)
        finally:
            # Ansible's workers have sessions of their own: a signal to the group would let them end their task.
            eventually(lambda: not self.kill(), seconds=30, pause=0.1)
            process.wait(timeout=30)
            self.log("".join(said) + f"KILLED in {step}: {task}\n")
        return True

    def kill(self) -> list[int]:
        """Kill the processes of this site's runs, known by their environment, and return those that were there."""
        mark = f"{MARK}={self.secrets}".encode()
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # ended meanwhile, or another user's
                if mark in environment.read_bytes().split(b"\0"):
                    found.append(int(environment.parent.name))
                    os.kill(found[-1], signal.SIGKILL)
        return found

    @staticmethod
    def log(text: str) -> None:
        """Keep what a run said."""
        LOG.parent.mkdir(parents=True, exist_ok=True)
        with LOG.open("a") as file:
            file.write(f"{time.strftime('%H:%M:%S')}\n{text}\n")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Playbooks for the test host."""
    LOG.unlink(missing_ok=True)
    return Site(tmp_path_factory.mktemp("faults"), Path(os.environ["QUANTOPS_SECRETS_DIR"]))


class Airflow:
    """Airflow's API, for as long as it answers; every call logs in anew, because keys and passwords change."""

    def __init__(self, stack: Stack) -> None:
        """Use the published port."""
        self.stack = stack

    def call(self, method: str, path: str, **more: Any) -> requests.Response:
        """Call an operation as the administrator."""
        address, token = self.stack.url("airflow", path), self.stack.airflow_token()
        return requests.request(method, address, headers=token, timeout=TIMEOUT, **more)

    def trigger(self) -> str:
        """Start the training and return the run's name, once a task of it runs."""
        eventually(lambda: self.quietly("GET", f"/api/v2/dags/{DAG}"), seconds=120)
        body = {"logical_date": None, "conf": {"min_confidence": 0.5}}
        answer = self.call("POST", f"/api/v2/dags/{DAG}/dagRuns", json=body)
        assert answer.status_code == 200, answer.text
        name = answer.json()["dag_run_id"]
        eventually(lambda: {"running", "success"} & {task["state"] for task in self.tasks(name)}, seconds=180, pause=1)
        return name

    def tasks(self, run: str) -> list[dict[str, Any]]:
        """Tasks of a run."""
        return self.call("GET", f"/api/v2/dags/{DAG}/dagRuns/{run}/taskInstances").json()["task_instances"]

    def quietly(self, method: str, path: str) -> dict[str, Any] | None:
        """The answer, or nothing while there is none."""
        try:
            answer = self.call(method, path)
        except (requests.RequestException, AssertionError):
            return None
        return answer.json() if answer.status_code == 200 else None

    def succeeded(self, run: str, seconds: float) -> None:
        """Wait for a run to end well."""
        last = eventually(
            lambda: (
                (found := self.quietly("GET", f"/api/v2/dags/{DAG}/dagRuns/{run}"))
                and found["state"] in ("success", "failed")
                and found
            ),
            seconds=seconds, pause=3,
        )  # fmt: skip
        assert last["state"] == "success", [(task["task_id"], task["state"]) for task in self.tasks(run)]


@dataclass
class Kept:
    """What was written, and must be there after every fault."""

    stack: Stack
    airflow: Airflow
    words: list[str] = field(default_factory=list)
    mlflow_runs: list[str] = field(default_factory=list)
    dag_runs: list[str] = field(default_factory=list)

    def write(self) -> None:
        """One of each: a row, a key, an object, a run of MLflow."""
        word = uuid.uuid4().hex
        query = f"CREATE TABLE IF NOT EXISTS kept (word text); INSERT INTO kept VALUES ('{word}');"
        status, said = psql(self.stack, "backend", "backend", query)
        assert status == 0 and "INSERT 0 1" in said, said
        assert redis(self.stack, "-n", "9", "SET", word, "kept", user="backend") == "OK"
        s3(self.stack, "trading-charts").put_object(Bucket="trading-charts", Key=f"kept/{word}", Body=word.encode())
        mlflow = MLflow(self.stack)
        experiment = mlflow.post("experiments/create", name=f"kept {word}")["experiment_id"]
        self.mlflow_runs.append(mlflow.post("runs/create", experiment_id=experiment)["run"]["info"]["run_id"])
        self.words.append(word)

    def check(self) -> None:
        """All of it is there."""
        assert self.words and self.mlflow_runs
        status, said = psql(self.stack, "backend", "backend", "SELECT word FROM kept")
        assert status == 0 and set(self.words) <= set(said.split()), said
        found = [redis(self.stack, "-n", "9", "GET", word, user="backend") for word in self.words]
        assert found == ["kept"] * len(self.words)
        client = s3(self.stack, "trading-charts")
        for word in self.words:
            assert client.get_object(Bucket="trading-charts", Key=f"kept/{word}")["Body"].read() == word.encode()
        for run in self.mlflow_runs:
            assert MLflow(self.stack).get("runs/get", run_id=run)["run"]["info"]["run_id"] == run
        for run in self.dag_runs:
            assert self.airflow.call("GET", f"/api/v2/dags/{DAG}/dagRuns/{run}").json()["state"] == "success"


@pytest.fixture(scope="session")
def stack() -> Stack:
    """The stack of the test host, which need not run yet."""
    return Stack()


@pytest.fixture(scope="session")
def airflow(stack: Stack) -> Airflow:
    """Airflow's API."""
    return Airflow(stack)


@pytest.fixture(scope="session")
def kept(stack: Stack, airflow: Airflow) -> Kept:
    """What must not be lost."""
    return Kept(stack, airflow)


@pytest.fixture
def nothing_lost(kept: Kept) -> Iterator[Kept]:
    """Writes before the fault, and looks for all that was ever written afterwards."""
    kept.write()
    yield kept
    kept.check()
