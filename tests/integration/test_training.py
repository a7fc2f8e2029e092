"""The DAG end to end: what a successful training leaves in Airflow, MLflow and MinIO."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from stack_under_test import HOST, Stack
from test_applications import TIMEOUT, MLflow
from test_data_services import s3

TASKS = ["evaluate", "get_bars", "promote", "train_and_log"]
MODEL = "daily_strategy_AAPL"


@pytest.fixture(scope="module")
def version(stack: Stack, dag_run: dict[str, Any]) -> dict[str, Any]:
    """The model version that the training registered."""
    versions = MLflow(stack).get("model-versions/search", filter=f"name = '{MODEL}'")["model_versions"]
    runs = MLflow(stack)
    mine = [
        each
        for each in versions
        if dag_run["dag_run_id"] in runs.get("runs/get", run_id=each["run_id"])["run"]["info"]["run_name"]
    ]
    assert len(mine) == 1, versions
    return mine[0]


@pytest.fixture(scope="module")
def run(stack: Stack, version: dict[str, Any]) -> dict[str, Any]:
    """The MLflow run of the training."""
    return MLflow(stack).get("runs/get", run_id=version["run_id"])["run"]


def test_every_task_succeeded_on_the_celery_worker(
    stack: Stack, airflow: requests.Session, dag_run: dict[str, Any]
) -> None:
    """Run by a worker of Airflow, from its queue."""
    path = f"/api/v2/dags/daily_strategy_training/dagRuns/{dag_run['dag_run_id']}/taskInstances"
    tasks = airflow.get(stack.url("airflow", path), timeout=TIMEOUT).json()["task_instances"]
    assert sorted(task["task_id"] for task in tasks) == TASKS
    assert {task["state"] for task in tasks} == {"success"}
    assert {task["hostname"] for task in tasks} == {f"airflow-worker.{(HOST or 'localhost').replace('_', '-')}"}


@pytest.mark.parametrize("task", TASKS)
def test_task_logs_are_readable_and_in_minio(
    stack: Stack, airflow: requests.Session, dag_run: dict[str, Any], task: str
) -> None:
    """The API server, which shares no disk with the worker, reads them from the bucket."""
    run_id = dag_run["dag_run_id"]
    path = f"/api/v2/dags/daily_strategy_training/dagRuns/{run_id}/taskInstances/{task}/logs/1"
    answer = airflow.get(stack.url("airflow", path), timeout=TIMEOUT)
    assert answer.status_code == 200
    text = str(answer.json()["content"])
    assert "s3://airflow-logs/" in text and "Task" in text
    listed = s3(stack, "airflow-logs").list_objects_v2(
        Bucket="airflow-logs", Prefix="logs/dag_id=daily_strategy_training/"
    )
    assert any(run_id in item["Key"] and f"task_id={task}/" in item["Key"] for item in listed["Contents"])


def test_run_holds_metrics_parameters_and_lineage(run: dict[str, Any]) -> None:
    """What a person needs to judge the model, and to know that its prices are simulated."""
    assert run["info"]["status"] == "FINISHED"
    parameters = {each["key"]: each["value"] for each in run["data"]["params"]}
    assert parameters["symbol"] == "AAPL" and int(parameters["bars"]) > 3000
    tags = {each["key"]: each["value"] for each in run["data"]["tags"]}
    assert tags["simulated"] == "true" and tags["adjusted"] == "true"
    metrics = {each["key"] for each in run["data"]["metrics"]}
    assert any("sharpe" in name for name in metrics), metrics


def test_artifacts_are_in_minio(stack: Stack, run: dict[str, Any]) -> None:
    """Bars, equity curve and daily results, below the run's own prefix."""
    prefix = "artifacts/" + run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/").lstrip("/")
    client = s3(stack, "mlflow")
    listed = client.list_objects_v2(Bucket="mlflow", Prefix=prefix)["Contents"]
    sizes = {item["Key"].removeprefix(f"{prefix}/"): item["Size"] for item in listed}
    assert {"data/bars.csv", "equity_curve.png", "walk_forward.csv"} <= set(sizes)
    assert all(sizes.values())
    picture = client.get_object(Bucket="mlflow", Key=f"{prefix}/equity_curve.png")["Body"].read()
    assert picture.startswith(b"\x89PNG\r\n")


def test_model_files_are_in_minio(stack: Stack, version: dict[str, Any]) -> None:
    """The registered version points at a model with a signature: raw bars in, a probability out."""
    assert version["status"] == "READY"
    keys = {
        item["Key"]: item["Size"]
        for page in s3(stack, "mlflow").get_paginator("list_objects_v2").paginate(Bucket="mlflow", Prefix="artifacts/")
        for item in page.get("Contents", [])
    }
    model = version["source"].removeprefix("models:/")
    [description] = [key for key in keys if key.endswith("/MLmodel") and model in key]
    text = s3(stack, "mlflow").get_object(Bucket="mlflow", Key=description)["Body"].read().decode()
    assert "signature:" in text and "volume" in text and "probability" in text


def test_champion(stack: Stack, version: dict[str, Any]) -> None:
    """The registered model has a champion, and the version says why it is or is not the one."""
    tags = {each["key"]: each["value"] for each in version["tags"]}
    assert "confidence" in tags["promotion"] or "recipe" in tags["promotion"]
    model = MLflow(stack).get("registered-models/get", name=MODEL)["registered_model"]
    champions = [each["version"] for each in model.get("aliases", []) if each["alias"] == "champion"]
    assert len(champions) == 1, (model, tags)
