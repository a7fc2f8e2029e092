"""Signs of life of worker and beat: a file whose age a container's health check reads, and a moment in Redis that
the API reads.

A probe that starts Python costs half a second of CPU and 50 MB each time; ``find`` on a file costs nothing.
"""

import functools
import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celery import bootsteps
from celery.beat import PersistentScheduler

from ibkr_backend.settings import SEEN_KEY, SettingsError

WORKER_HEARTBEAT = Path("/tmp/worker-heartbeat")
BEAT_HEARTBEAT = Path("/tmp/beat-heartbeat")
INTERVAL = 15.0

log = logging.getLogger(__name__)


class WorkerHeartbeat(bootsteps.StartStopStep):
    """Touches the worker's file while the broker answers and the worker consumes its queue."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        """Take Celery's arguments."""
        self._timer: Any = None
        super().__init__(consumer, **options)

    def start(self, consumer: Any) -> None:
        """Begin with each connection to the broker; the first beat waits until the consumer has its queue."""
        consumer.timer.call_after(2.0, self._beat, (consumer,))
        self._timer = consumer.timer.call_repeatedly(INTERVAL, self._beat, (consumer,))

    def stop(self, consumer: Any) -> None:
        """End with the connection."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    shutdown = stop

    @staticmethod
    def _beat(consumer: Any) -> None:
        queue = consumer.app.conf.task_default_queue
        if not consumer.task_consumer or not consumer.task_consumer.consuming_from(queue):
            log.error("no heartbeat: the worker does not consume the queue %s", queue)
            return
        try:
            # Not channel.client, whose only connection waits for the next message and would take its answer for ours.
            with consumer.connection.default_channel.conn_or_acquire() as client:
                client.hset(SEEN_KEY, consumer.hostname, time.time())
        except Exception as error:  # whatever the transport raises means the same: no broker
            log.error("no heartbeat: the broker does not answer: %s", error)
            return
        WORKER_HEARTBEAT.touch()


class BeatScheduler(PersistentScheduler):
    """Touches beat's file at each tick, and runs an entry that has never run at once instead of after its interval."""

    def setup_schedule(self) -> None:
        """Open the schedule file, with a clear end when its directory is not writable."""
        directory = Path(self.schedule_filename).resolve().parent
        if not os.access(directory, os.W_OK | os.X_OK):
            raise SettingsError(f"CELERY_BEAT_SCHEDULE: uid {os.getuid()} may not write to the directory {directory}")
        super().setup_schedule()
        for entry in self.schedule.values():
            if entry.total_run_count == 0:
                entry.last_run_at = datetime.fromtimestamp(0, UTC)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Run what is due; returns the seconds until the next tick."""
        pause = super().tick(*args, **kwargs)
        BEAT_HEARTBEAT.touch()
        try:
            self._redis.hset(SEEN_KEY, "beat", time.time())
        except Exception as error:  # what is due is sent again when the broker is back; only the page knows less
            log.debug("the broker does not answer: %s", error)
        return pause

    @functools.cached_property
    def _redis(self) -> Any:
        import redis

        url = self.app.conf.broker_url
        return redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1)
