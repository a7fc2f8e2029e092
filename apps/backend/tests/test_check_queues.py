"""check_queues.py: where an application's tasks go, whatever way it says so."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Queue

SCRIPT = Path(__file__).parents[3] / "roles/backend/files/runtime/check_queues.py"
location = importlib.util.spec_from_file_location("check_queues", SCRIPT)
assert location and location.loader
check_queues = importlib.util.module_from_spec(location)
location.loader.exec_module(check_queues)


def work() -> None:
    """Do nothing."""


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Celery:
    """An application with one task; those of applications that other tests of this process made are not its own."""
    monkeypatch.setattr("celery._state._on_app_finalizers", set())
    made = Celery("own", set_as_current=False)
    made.task(name="own.work", shared=False)(work)
    return made


WAYS: dict[str, dict[str, Any]] = {
    "default queue": {"task_default_queue": "far"},
    "route": {"task_routes": {"own.*": {"queue": "far"}}},
    "router": {"task_routes": [lambda name, *_, **__: {"queue": "far"} if name == "own.work" else None]},
    "option of the schedule": {
        "beat_schedule": {"x": {"task": "own.work", "schedule": 60, "options": {"queue": "far"}}}
    },
    "schedule of a task that is not registered": {
        "task_routes": {"other.work": {"queue": "far"}},
        "beat_schedule": {"x": {"task": "other.work", "schedule": 60}},
    },
    "queue that does not exist": {
        "task_create_missing_queues": False,
        "task_queues": [Queue("celery")],
        "task_routes": {"own.work": {"queue": "far"}},
    },
}


@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
def test_a_queue_that_is_not_consumed_is_found(app: Celery, settings: dict[str, Any]) -> None:
    """And only that one."""
    app.conf.update(settings)
    [problem] = check_queues.problems(app, {"celery"})
    assert "far" in problem and "the worker consumes celery" in problem


@pytest.mark.parametrize("name", [name for name in WAYS if name != "queue that does not exist"])
def test_a_queue_that_is_consumed_is_fine(app: Celery, name: str) -> None:
    """All of them together."""
    app.conf.update(WAYS[name])
    assert check_queues.problems(app, {"celery", "far"}) == []


def test_a_tasks_own_queue_counts(app: Celery) -> None:
    """It stands in the task's declaration."""
    app.task(name="own.more", queue="far", shared=False)(work)
    [problem] = check_queues.problems(app, {"celery"})
    assert problem.startswith("the task own.more goes to the queue far")


def test_without_queues_those_of_the_application_count(app: Celery) -> None:
    """Its list, or its default queue."""
    assert check_queues.problems(app, set()) == []


def test_a_queue_that_only_a_route_names_is_not_consumed(app: Celery) -> None:
    """A worker without --queues does not read it, although Celery makes it for the sender."""
    app.conf.task_routes = {"own.work": {"queue": "far"}}
    [problem] = check_queues.problems(app, set())
    assert "the queue far, the worker consumes celery" in problem
