"""Lets a Celery worker of Airflow say that it is able to work, without a probe process of its own.

Named by ``AIRFLOW__CELERY__CELERY_CONFIG_OPTIONS=worker_liveness.CELERY_CONFIG`` on workers. The worker touches
``WORKER_LIVENESS_FILE`` (default ``/tmp/worker-alive``) every `INTERVAL_S`, from the event loop that consumes tasks,
and only if all of this holds:

- the consumer is started and listens on its queues,
- the broker answers a declaration of each queue,
- no queue has kept messages waiting for `STALLED_CHECKS` checks while this worker had a free slot: so a worker that
  believes it consumes, but does not (which happened after a broker's restart), is found too.

The probe is then the age of a file: ``test -n "$(find /tmp/worker-alive -newermt '-60 seconds')"``.

The worker also drops a task whose token has expired, which happens to what waited in the broker while the worker was
away. Run, it would fail. Dropped, it stays queued in Airflow's database, and the scheduler hands it over again with a
new token (``[scheduler] task_queued_timeout``).
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import jwt
from airflow.providers.celery.executors.default_celery import DEFAULT_CELERY_CONFIG
from celery import bootsteps
from celery.exceptions import Ignore
from celery.signals import celeryd_init
from celery.worker import state

__all__ = ["CELERY_CONFIG", "Liveness"]

INTERVAL_S = 15.0
STALLED_CHECKS = 3
# Share of a token's lifetime that must be left: starting a task takes seconds on a busy host.
LEAST_SHARE_LEFT = 0.05

log = logging.getLogger(__name__)


def drop_expired(task: Any, task_id: str, args: tuple[str, ...], kwargs: dict[str, Any]) -> None:
    """Drop a workload that its token does not let begin any more; Celery calls this before it runs one.

    Args:
        task: Airflow's Celery task.
        task_id: Its id in Celery.
        args: The workload in JSON, which holds the token. The API server verifies it; here only its times are read.
        kwargs: Nothing.

    Raises:
        Ignore: The token has expired, or is about to. Celery then records no result.
    """
    token = json.loads(args[0]).get("token")
    if not token:
        return
    claims = jwt.decode(token, options={"verify_signature": False})
    if claims["exp"] - time.time() < LEAST_SHARE_LEFT * (claims["exp"] - claims["iat"]):
        log.warning("[%s] the token has expired; the scheduler will hand the task over again", task_id)
        raise Ignore


CELERY_CONFIG = {**DEFAULT_CELERY_CONFIG, "task_annotations": {"execute_workload": {"before_start": drop_expired}}}


def show(consumer: Any) -> None:
    """Leave the moment in the broker, where the stack's page looks for the workers of all hosts."""
    try:
        # Not channel.client, whose only connection waits for the next message and would take its answer for ours.
        with consumer.connection.default_channel.conn_or_acquire() as client:
            client.hset("seen", consumer.hostname, time.time())
    except Exception as error:  # the page knows less then, and the worker works all the same
        log.warning("cannot be shown on the stack's page: %r", error)


class Liveness(bootsteps.StartStopStep):
    """Consumer step that touches the liveness file while the consumer is able to work."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        """Start without a timer; Celery starts the step once the consumer has its queues."""
        super().__init__(consumer, **kwargs)
        self.file = Path(os.environ.get("WORKER_LIVENESS_FILE", "/tmp/worker-alive"))
        self.timer: Any = None
        self.stalled = 0

    def start(self, consumer: Any) -> None:
        """Check on a timer of the worker's event loop, which begins to consume just after this."""
        self.stalled = 0
        self.timer = consumer.timer.call_repeatedly(INTERVAL_S, self.check, (consumer,))

    def stop(self, consumer: Any) -> None:
        """End the timer: the connection to the broker is lost, or the worker shuts down."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def check(self, consumer: Any) -> None:
        """Touch the file if the consumer is able to work; say why if not."""
        try:
            problem = self.problem(consumer)
        except Exception as error:
            problem = f"the broker does not answer: {error!r}"
        if problem is None:
            self.file.touch()
            show(consumer)
        else:
            log.warning("worker is not able to work: %s", problem)

    def problem(self, consumer: Any) -> str | None:
        """What keeps the worker from working, None if nothing does."""
        queues = consumer.task_consumer.queues
        if not queues:
            return "it listens on no queue"
        lost = [queue.name for queue in queues if not consumer.task_consumer.consuming_from(queue)]
        if lost:
            return f"it does not consume from {lost}"
        waiting = sum(queue(consumer.task_consumer.channel).queue_declare().message_count for queue in queues)
        idle = len(state.reserved_requests) < consumer.pool.num_processes
        self.stalled = self.stalled + 1 if waiting and idle else 0
        if self.stalled >= STALLED_CHECKS:
            return f"{waiting} messages wait although it is idle"
        return None


@celeryd_init.connect(weak=False)
def add_liveness(instance: Any, **_: Any) -> None:
    """Add the step to the worker that is starting."""
    instance.app.steps["consumer"].add(Liveness)
