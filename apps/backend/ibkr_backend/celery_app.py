"""The Celery application, the same for worker, beat, Flower and the API that sends tasks."""

import logging
import time
from typing import Any

from celery import Celery, Task
from celery.signals import celeryd_after_setup, setup_logging, task_postrun, task_prerun, worker_init
from celery.worker.control import Panel

from ibkr_backend import logs
from ibkr_backend.check_queues import astray
from ibkr_backend.heartbeat import WORKER_HEARTBEAT, WorkerHeartbeat
from ibkr_backend.settings import TASKS_KEY, CelerySettings, SettingsError, WorkerSettings

settings = CelerySettings.load()

# Beat looks this often whether a symbol is due; how old a symbol's bars may be is BARS_REFRESH_SECONDS.
LOOK_SECONDS = 60
# The longest that a task may run.
TIME_LIMIT_SECONDS = 900

log = logging.getLogger(__name__)


def schedule() -> dict[str, dict[str, Any]]:
    """Return what beat sends, and how often."""
    looks = ["keep_session", "refresh_all_bars"]
    if settings.mlflow_url:
        looks.append("score_signals")
    return {
        name.replace("_", "-"): {
            "task": f"ibkr_backend.tasks.{name}",
            "schedule": LOOK_SECONDS,
            # While no worker is there, the looks must not pile up; and nobody reads their results.
            "options": {"expires": LOOK_SECONDS, "ignore_result": True},
        }
        for name in looks
    }


def make_app() -> Celery:
    """Configure an application."""
    app = Celery(
        "ibkr_backend",
        broker=settings.celery_broker_url.get_secret_value(),
        backend=settings.celery_result_backend.get_secret_value(),
        include=["ibkr_backend.tasks"],
    )
    app.conf.update(
        # The worker, started without --queues, consumes exactly the default queue, and a task sent to any other is an
        # error at the sender: nothing can wait in a queue that nobody reads.
        task_default_queue=settings.celery_queue,
        task_create_missing_queues=False,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_time_limit=TIME_LIMIT_SECONDS,
        task_track_started=True,
        task_send_sent_event=True,
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0.2},
        # Nobody looks at a result for long; and those that expire soonest are the first to go when Redis is full.
        result_expires=3600,
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            # A task of a worker that is gone with its host runs again after this time. A worker may hold one so long:
            # behind another one, and then itself.
            "visibility_timeout": 2 * TIME_LIMIT_SECONDS + 60,
            "socket_connect_timeout": 3,
            "socket_timeout": 10,
            "socket_keepalive": True,
        },
        redis_socket_connect_timeout=3,
        redis_socket_timeout=10,
        redis_socket_keepalive=True,
        beat_scheduler="ibkr_backend.heartbeat:BeatScheduler",
        beat_schedule_filename=str(settings.celery_beat_schedule),
        beat_max_loop_interval=15,
        beat_schedule=schedule(),
        # What a task leaves behind in memory goes when its process is replaced.
        worker_max_memory_per_child=190_000,
    )
    return app


def make_sender() -> Celery:
    """Make an application that only sends: it neither waits for results nor subscribes to them in Redis, which would
    take up to 20 s when Redis is away and leave one subscription for each task."""
    app = make_app()
    # Not by URL: Celery prefers the environment's CELERY_RESULT_BACKEND to any.
    app.backend_cls = "disabled"
    return app


app = make_app()
app.steps["consumer"].add(WorkerHeartbeat)
# Flower may control workers, and not send tasks: so none can be told to take tasks from a queue that Flower may write.
Panel.data.pop("add_consumer", None)


@setup_logging.connect
def _configure_logging(**_: object) -> None:
    logs.configure(settings.log_level)


@worker_init.connect
def _check_worker_settings(**_: object) -> None:
    """Stop at once, not at the first task, when a setting that the tasks need is missing."""
    WORKER_HEARTBEAT.unlink(missing_ok=True)
    WorkerSettings.load()


@celeryd_after_setup.connect
def _check_own_queues(**_: object) -> None:
    check_queues(app, set(app.amqp.queues.consume_from))


def check_queues(app: Celery, consumed: set[str]) -> None:
    """Stop when beat or the API would send a task to a queue that this worker does not read.

    Raises:
        SettingsError: naming the queue and the task.
    """
    for _sender, task, queue in astray(app, consumed):
        raise SettingsError(
            f"{task} is sent to the queue {queue}, but this worker reads {', '.join(sorted(consumed))}: "
            "start it without --queues, or set CELERY_QUEUE"
        )


_began: dict[str, float] = {}


@task_prerun.connect
def _note_begin(task_id: str, **_: object) -> None:
    _began[task_id] = time.monotonic()


@task_postrun.connect
def _count_task(task_id: str, task: Task, state: str | None = None, **_: object) -> None:
    """Count what was done where the API finds it: worker processes come and go, and serve no metrics."""
    seconds = time.monotonic() - _began.pop(task_id, time.monotonic())
    name = task.name.rpartition(".")[2]
    try:
        with app.backend.client.pipeline(transaction=False) as counts:
            counts.hincrby(TASKS_KEY, f"{name} {state}", 1)
            counts.hincrbyfloat(TASKS_KEY, f"{name} seconds", seconds)
            counts.execute()
    except Exception as error:  # a count that is lost must not fail a task that is done
        log.warning("could not count the task %s: %s", name, error)
