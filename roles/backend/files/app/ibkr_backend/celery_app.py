"""The Celery application, the same for worker, beat, Flower and the API that sends tasks."""

from celery import Celery
from celery.signals import setup_logging, worker_init

from ibkr_backend import logs
from ibkr_backend.heartbeat import WORKER_HEARTBEAT, WorkerHeartbeat
from ibkr_backend.settings import CelerySettings, WorkerSettings

settings = CelerySettings.load()

# Beat looks this often whether a symbol is due; how old a symbol's bars may be is BARS_REFRESH_SECONDS.
LOOK_SECONDS = 60


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
        task_time_limit=900,
        task_track_started=True,
        task_send_sent_event=True,
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0.2},
        result_expires=86400,
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": 3600,
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
        beat_schedule={
            "refresh-all-bars": {
                "task": "ibkr_backend.tasks.refresh_all_bars",
                "schedule": LOOK_SECONDS,
                # While no worker is there, the looks must not pile up; and nobody reads their results.
                "options": {"expires": LOOK_SECONDS, "ignore_result": True},
            },
        },
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


@setup_logging.connect
def _configure_logging(**_: object) -> None:
    logs.configure(settings.log_level)


@worker_init.connect
def _check_worker_settings(**_: object) -> None:
    """Stop at once, not at the first task, when a setting that the tasks need is missing."""
    WORKER_HEARTBEAT.unlink(missing_ok=True)
    WorkerSettings.load()
