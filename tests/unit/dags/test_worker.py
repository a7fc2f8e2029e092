"""What a Celery worker of Airflow does with a task whose token has expired."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import jwt
import pytest
from celery import Celery

sys.path.insert(0, str(Path(__file__).parents[3] / "roles" / "airflow" / "files" / "scripts"))

import worker_liveness


@pytest.fixture
def app() -> Celery:
    """A Celery application with a worker's settings and a task of the name that Airflow's has."""
    app = Celery("test", broker="memory://", backend="cache+memory://")
    app.conf.task_annotations = worker_liveness.CELERY_CONFIG["task_annotations"]
    app.conf.task_store_eager_result = True

    @app.task(name="execute_workload")
    def execute_workload(workload: str) -> str:
        return "ran"

    return app


def workload(age: float, lifetime: float) -> str:
    """A workload whose token was made `age` seconds ago, as the scheduler makes it."""
    made = time.time() - age
    token = jwt.encode({"iat": int(made), "exp": int(made + lifetime), "sub": "1"}, "a-key-of-the-scheduler-" * 3)
    return json.dumps({"type": "ExecuteTask", "token": token})


@pytest.mark.parametrize("age", [0, 300])
def test_a_task_with_a_valid_token_runs(app: Celery, age: float) -> None:
    """However long it waited."""
    assert app.tasks["execute_workload"].apply(args=[workload(age, 600)]).result == "ran"


@pytest.mark.parametrize("age", [590, 700, 10_000])
def test_a_task_with_an_expired_token_is_dropped(app: Celery, age: float) -> None:
    """It neither runs nor fails, so that the scheduler, which still has it as queued, hands it over again."""
    outcome = app.tasks["execute_workload"].apply(args=[workload(age, 600)])
    assert outcome.state == "IGNORED"
    assert outcome.result != "ran"


def test_a_workload_without_a_token_runs(app: Celery) -> None:
    """Airflow makes them in its own tests, and may again."""
    assert app.tasks["execute_workload"].apply(args=['{"token": ""}']).result == "ran"


def test_airflows_task_has_that_name() -> None:
    """Else the annotation would be of nothing."""
    from airflow.providers.celery.executors import celery_executor_utils

    assert "execute_workload" in celery_executor_utils.app.tasks
