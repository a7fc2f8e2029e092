"""Workers on a host of their own are seen, end their tasks when their host is drained, and come back."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from cluster_under_test import STACK, groups, on, played, state
from stack_under_test import Stack, eventually

CONTAINERS = ("airflow-worker", "celery-worker")


@pytest.fixture
def worker() -> str:
    """A host that runs workers of both and nothing else."""
    [host] = set(groups()["airflow_worker"]) & set(groups()["backend_worker"])
    return host


def test_status_shows_the_workers_of_both(worker: str) -> None:
    said = played("status")
    assert f"airflow@{worker} takes tasks from default; runs 0 of 2 at a time" in said
    assert f"backend@{worker} takes tasks from backend; runs" in said
    assert "the inventory does not have it" not in said and "does not answer" not in said


def test_the_stacks_page_shows_the_workers_of_both(stack: Stack, worker: str) -> None:
    """By their hosts, and Airflow's out of a key that the backend may only read."""
    processes = requests.get(stack.url("backend", "/ready"), timeout=30).json()["processes"]
    for name in ("worker", "airflow_worker"):
        assert processes[name]["state"] == "ok", processes
        assert f"{worker} seen" in processes[name]["reason"]


def test_a_queue_without_a_worker_is_refused_before_anything_changes(worker: str, tmp_path: Any) -> None:
    (tmp_path / "lost.py").write_text('from airflow.sdk import dag, task\n\n@task(queue="gpu")\ndef t(): ...\n')
    said = played("site", f"--extra-vars=airflow_dags_dir={tmp_path}", status=2)
    assert "lost.py, line 3: no worker takes tasks from the queue gpu" in said
    assert all(state(worker, name) == "running" for name in CONTAINERS)


def test_dags_are_imported_on_one_host(tmp_path: Any, worker: str) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("from airflow.sdk import dag\n\nimport not_there\n")
    said = played("site", f"--extra-vars=airflow_dags_dir={tmp_path}", "--tags=airflow", status=2)
    assert said.count("No module named 'not_there'") == 1
    assert f"Those of {worker} were not changed" in said
    found = on(worker, "find", f"/etc/quantops/{STACK}", "-name", "broken.py")
    assert not found


class Airflow:
    """What the test asks of Airflow's API."""

    def __init__(self, stack: Stack) -> None:
        self.url, self.token = stack.url("airflow", "/api/v2/dags/daily_strategy_training"), stack.airflow_token()

    def start(self) -> str:
        """Start a training."""
        body = {"logical_date": None, "conf": {"symbol": "AAPL"}}
        answer = requests.post(f"{self.url}/dagRuns", json=body, headers=self.token, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()["dag_run_id"]

    def state(self, run: str) -> str:
        """State of a run."""
        return requests.get(f"{self.url}/dagRuns/{run}", headers=self.token, timeout=60).json()["state"]

    def running(self, run: str) -> list[str]:
        """Tasks of a run that a worker is at."""
        answer = requests.get(f"{self.url}/dagRuns/{run}/taskInstances", headers=self.token, timeout=60).json()
        return [task["task_id"] for task in answer["task_instances"] if task["state"] == "running"]


def test_a_drained_host_ends_its_tasks_takes_no_others_and_comes_back(stack: Stack, worker: str) -> None:
    airflow = Airflow(stack)
    run = airflow.start()
    eventually(lambda: airflow.running(run), seconds=180, pause=0.2)
    said = played("drain", f"--limit={worker}", "--extra-vars=drain_timeout=900")
    assert f"airflow-worker on {worker} are stopped" in " ".join(said.split())
    assert all(state(worker, name) == "exited" for name in CONTAINERS)
    # What was at hand has ended well; the next task of the run waits.
    assert airflow.running(run) == [] and airflow.state(run) in ("running", "queued", "success")
    on(worker, "systemctl", "restart", "docker")
    assert all(state(worker, name) == "exited" for name in CONTAINERS)
    said = played("status")
    assert f"airflow@{worker} does not answer" in said and f"backend@{worker} does not answer" in said
    played("start")
    eventually(lambda: airflow.state(run) == "success", seconds=600, pause=5)


def test_a_drain_that_takes_too_long_names_the_tasks_and_stops_nothing(stack: Stack, worker: str) -> None:
    airflow = Airflow(stack)
    run = airflow.start()
    eventually(lambda: airflow.running(run), seconds=180, pause=0.2)
    said = played("drain", f"--limit={worker}", "--extra-vars=drain_timeout=0", status=2)
    assert "daily_strategy_training." in said and run in said and "It was not stopped" in said
    assert state(worker, "airflow-worker") == "running"
    assert f"airflow@{worker} is being drained" in played("status")
    on(worker, "docker", "restart", "--time=-1", f"{STACK}-airflow-worker", timeout=600)
    eventually(lambda: airflow.state(run) == "success", seconds=600, pause=5)


def test_a_host_that_the_stack_needs_is_neither_drained_nor_forgotten() -> None:
    server = groups()["postgres"][0]
    assert "there is nothing to drain" in played("drain", f"--limit={server}", status=2)
    said = played("forget", f"--limit={server}", status=2)
    assert f"{server} runs" in said and "which the stack needs" in said
    assert "Name the hosts" in played("drain", status=2)
