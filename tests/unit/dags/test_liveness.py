"""What counts as a living Celery worker: one list for the three that judge it.

They stay three programs (decision 0045), so they are held to one list of cases here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

REPOSITORY = Path(__file__).parents[3]
sys.path += [str(REPOSITORY / "roles/airflow/files/scripts"), str(REPOSITORY / "apps/backend")]

import worker_liveness  # noqa: E402
from ibkr_backend import heartbeat  # noqa: E402

QUEUE = "work"


class Broker:
    """A broker that answers, or does not."""

    def __init__(self, answers: bool) -> None:
        self.answers = answers

    def ask(self, *_: object) -> SimpleNamespace:
        if not self.answers:
            raise ConnectionError("no broker")
        return SimpleNamespace(message_count=0)

    @contextlib.contextmanager
    def conn_or_acquire(self) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(hset=self.ask)


class Queue:
    """A queue as Celery's consumer holds it."""

    name = QUEUE

    def __call__(self, channel: Broker) -> SimpleNamespace:
        return SimpleNamespace(queue_declare=channel.ask)


def consumer(consumes: bool, broker: Broker) -> SimpleNamespace:
    """What a worker's step is given."""
    tasks = SimpleNamespace(queues=[Queue()], consuming_from=lambda queue: consumes, channel=broker)
    return SimpleNamespace(
        hostname="worker@w1",
        app=SimpleNamespace(conf=SimpleNamespace(task_default_queue=QUEUE)),
        task_consumer=tasks,
        connection=SimpleNamespace(default_channel=broker),
        pool=SimpleNamespace(num_processes=2),
    )


def airflow(consumes: bool, answers: bool, file: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether Airflow's worker touches its file."""
    monkeypatch.setenv("WORKER_LIVENESS_FILE", str(file))
    worker_liveness.Liveness(consumer(consumes, Broker(answers))).check(consumer(consumes, Broker(answers)))
    return file.exists()


def reference(consumes: bool, answers: bool, file: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the reference application's worker does."""
    monkeypatch.setattr(heartbeat, "WORKER_HEARTBEAT", file)
    heartbeat.WorkerHeartbeat._beat(consumer(consumes, Broker(answers)))
    return file.exists()


def any_other(consumes: bool, answers: bool, file: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the probe of any other application's worker succeeds."""
    location = importlib.util.spec_from_file_location(
        "probe_worker", REPOSITORY / "roles/backend/files/runtime/probe_worker.py"
    )
    probe = importlib.util.module_from_spec(location)
    location.loader.exec_module(probe)
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
    said = {f"backend@{socket.gethostname()}": [{"name": QUEUE}] if consumes else []} if answers else None
    asked = SimpleNamespace(active_queues=lambda: said)
    monkeypatch.setattr("celery.app.control.Control.inspect", lambda self, **_: asked)
    return probe.main([QUEUE]) == ""


@pytest.mark.parametrize(
    ("consumes", "answers", "alive"),
    [(True, True, True), (False, True, False), (True, False, False), (False, False, False)],
)
@pytest.mark.parametrize("judge", [airflow, reference, any_other])
def test_a_worker_lives_while_it_consumes_and_its_broker_answers(
    judge: Callable[..., bool],
    consumes: bool,
    answers: bool,
    alive: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert judge(consumes, answers, tmp_path / "alive", monkeypatch) is alive


def test_both_steps_begin_and_repeat_alike() -> None:
    """The probes read the age of the files: 60 seconds are four looks."""
    assert worker_liveness.Liveness.requires == heartbeat.WorkerHeartbeat.requires
    assert worker_liveness.INTERVAL_S == heartbeat.INTERVAL == 15
