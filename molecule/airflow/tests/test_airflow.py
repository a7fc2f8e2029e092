"""A login, a DAG's run on the Celery worker, and its log, which outlives the worker's container."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest
import requests
from stack_under_test import REPOSITORY, Stack, command, eventually
from test_applications import (  # noqa: F401
    TIMEOUT,
    test_airflow_is_healthy,
    test_airflow_lets_in_its_administrator_only,
)
from test_data_services import redis, s3

RUNS = "/api/v2/dags/probe/dagRuns"


def test_the_first_task_finds_the_api_for_tasks_ready(stack: Stack) -> None:
    """A healthy API server has built it; else the first task waits for that, and fails on a busy host."""
    asked = [line for line in stack.log("airflow-apiserver").splitlines() if "path=/execution/" in line]
    assert asked and "path=/execution/health" in asked[0] and "status_code=200" in asked[0]


@pytest.fixture(scope="module")
def run(stack: Stack, airflow: requests.Session) -> dict[str, Any]:
    """A finished run of the scenario's own DAG."""

    def known() -> bool:
        return airflow.get(stack.url("airflow", "/api/v2/dags/probe"), timeout=TIMEOUT).status_code == 200

    assert eventually(known, seconds=180)
    airflow.patch(stack.url("airflow", "/api/v2/dags/probe"), json={"is_paused": False}, timeout=TIMEOUT)
    started = airflow.post(stack.url("airflow", RUNS), json={"logical_date": None}, timeout=TIMEOUT)
    assert started.status_code == 200, started.text
    address = stack.url("airflow", f"{RUNS}/{started.json()['dag_run_id']}")

    def ended() -> dict[str, Any] | None:
        now = airflow.get(address, timeout=TIMEOUT).json()
        return now if now["state"] in ("success", "failed") else None

    return eventually(ended, seconds=240)


def log_of(stack: Stack, airflow: requests.Session, run: dict[str, Any]) -> str:
    """The task's log, as the UI asks for it."""
    path = f"{RUNS}/{run['dag_run_id']}/taskInstances/say/logs/1"
    answer = airflow.get(stack.url("airflow", path), timeout=TIMEOUT)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["content"])


def test_the_worker_ran_the_task(stack: Stack, airflow: requests.Session, run: dict[str, Any]) -> None:
    """Not the scheduler, and not the API server."""
    assert run["state"] == "success"
    path = f"{RUNS}/{run['dag_run_id']}/taskInstances"
    [task] = airflow.get(stack.url("airflow", path), timeout=TIMEOUT).json()["task_instances"]
    assert (task["task_id"], task["state"], task["hostname"]) == ("say", "success", "airflow-worker")


def test_all_that_airflow_keeps_in_redis_is_its_own(stack: Stack, run: dict[str, Any]) -> None:
    """Queue, bindings and results have the prefix that its user in Redis is held to, and no other user reaches."""
    assert run["state"] == "success"
    keys = [key for database in ("2", "3") for key in redis(stack, "-n", database, "--scan", user="admin").split("\n")]
    assert any(key.startswith("@airflow:_kombu.binding.") for key in keys), keys
    assert any(key.startswith("@airflow:celery-task-meta-") for key in keys), keys
    assert [key for key in keys if key and not key.startswith("@airflow:")] == []
    assert redis(stack, "ACL", "LOG", user="admin") == ""


def test_only_the_declared_dag(stack: Stack, airflow: requests.Session, run: dict[str, Any]) -> None:
    """No example, and no import error."""
    dags = airflow.get(stack.url("airflow", "/api/v2/dags"), timeout=TIMEOUT).json()["dags"]
    assert [each["dag_id"] for each in dags] == ["probe"]
    assert airflow.get(stack.url("airflow", "/api/v2/importErrors"), timeout=TIMEOUT).json()["import_errors"] == []


def test_the_log_outlives_the_worker(stack: Stack, airflow: requests.Session, run: dict[str, Any]) -> None:
    """Container and volume of the worker are lost, the role makes new ones, and the API still reads the log."""
    said = "the probe runs on airflow-worker"
    assert said in eventually(lambda: said in log_of(stack, airflow, run) and log_of(stack, airflow, run), seconds=60)
    before = command("docker", "inspect", "--format", "{{.Id}}", f"{stack.name}-airflow-worker")
    command("docker", "rm", "--force", f"{stack.name}-airflow-worker")
    command("docker", "volume", "rm", f"{stack.name}-airflow-worker-logs")
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    done = subprocess.run(
        ["ansible-playbook", f"--inventory={os.path.dirname(inventory)}", "--inventory=molecule/shared/inventory.yml",
         "playbooks/airflow.yml"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert command("docker", "inspect", "--format", "{{.Id}}", f"{stack.name}-airflow-worker") != before
    assert said in log_of(stack, airflow, run)
    keys = [item["Key"] for item in s3(stack, "airflow-logs").list_objects_v2(Bucket="airflow-logs")["Contents"]]
    assert any(run["dag_run_id"] in key and "task_id=say/" in key for key in keys)


def test_the_worker_has_no_key_to_the_database(stack: Stack) -> None:
    """Broker, results and logs are all that it is given."""
    held = command("sh", "-c", f"ls {stack.config_dir}/airflow-worker/secrets").split()
    assert sorted(held) == ["broker_url", "minio_logs", "result_backend"]
