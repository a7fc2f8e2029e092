"""`drain_worker`: what a worker still has at hand is named, and nothing secret of it."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery import Celery

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def drain_worker() -> ModuleType:
    location = importlib.util.spec_from_file_location(
        "drain_worker", REPOSITORY / "roles/container_service/files/drain_worker.py"
    )
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


def test_a_task_of_airflow_is_named_by_dag_task_and_run_without_its_token(drain_worker: ModuleType) -> None:
    workload = {
        "token": "eyJhbGciOi",
        "ti": {"id": "0199", "task_id": "train", "dag_id": "daily", "run_id": "manual__1"},
    }
    for args in ([json.dumps(workload)], repr([json.dumps(workload)]), json.dumps([json.dumps(workload)])):
        assert drain_worker.named({"name": "execute_workload", "id": "1", "args": args}) == (
            "daily.train of the run manual__1"
        )


def test_another_task_is_named_by_its_name_and_id(drain_worker: ModuleType) -> None:
    task = {"name": "desk.tasks.scan", "id": "42", "args": "('secret',)", "time_start": time.time() - 61}
    assert drain_worker.named(task) == "desk.tasks.scan (42, for 61 s)"
    assert drain_worker.named({"request": task | {"time_start": None}}) == "desk.tasks.scan (42)"


def test_a_worker_that_does_not_answer_is_an_error(drain_worker: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_worker, "PATIENCE", 1)
    app = Celery(broker="memory://")
    inspect = app.control.inspect

    def impatient(**options: Any) -> Any:
        return inspect(**options | {"timeout": 0.1})

    monkeypatch.setattr(app.control, "inspect", impatient)
    with pytest.raises(SystemExit, match="The worker airflow@w3 does not answer"):
        drain_worker.Worker(app, ["airflow@w3"])


class Deaf:
    """Celery's control of a worker that does not hear the first word, as after a reboot of its host."""

    def __init__(self) -> None:
        self.heard, self.queues = 0, [{"name": "backend"}]

    def cancel_consumer(self, queue: str, **_options: Any) -> None:
        self.heard += 1
        self.queues = [] if self.heard > 1 else self.queues

    def inspect(self, **_options: Any) -> Any:
        return self

    def active_queues(self) -> dict[str, Any]:
        return {"backend@w3": list(self.queues)}


def test_a_worker_that_did_not_hear_is_told_again(
    drain_worker: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(drain_worker, "MARK", tmp_path / "draining")
    app = Celery(broker="memory://")
    app.control = Deaf()
    drain_worker.Worker(app, ["backend@w3"]).take_no_more()
    assert app.control.heard == 2 and app.control.queues == []
    app.control = Deaf()
    app.control.cancel_consumer = lambda *_words, **_options: None
    with pytest.raises(SystemExit, match="still takes tasks"):
        drain_worker.Worker(app, ["backend@w3"]).take_no_more()
