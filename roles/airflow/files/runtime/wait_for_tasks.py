"""Waits in a worker's container until the broker holds no task.

A task stays in the broker until it has ended, because Airflow's workers acknowledge late. Read from standard input by
`python -`, with the prefix of Airflow's keys, the seconds to wait and the names of the queues as arguments. Fails with
the number of tasks that are left.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import redis

#: Kombu adds these to the name of a queue for tasks with another priority than 0.
PRIORITIES = ("", "\x06\x163", "\x06\x166", "\x06\x169")
BROKER_URL = Path("/run/secrets/broker_url")
#: Looks that must find nothing: a task is in neither place for a moment while a worker takes it.
LOOKS = 3


def tasks_left(broker: redis.Redis, prefix: str, queues: list[str]) -> int:
    """Count the tasks that wait or run."""
    waiting = sum(broker.llen(f"{prefix}{queue}{priority}") for queue in queues for priority in PRIORITIES)
    return waiting + broker.hlen(f"{prefix}unacked")


def wait(broker: redis.Redis, prefix: str, queues: list[str], seconds: float, pause: float = 1.0) -> int:
    """Wait until no task is left.

    Args:
        broker: Client of the broker.
        prefix: Of Airflow's keys.
        queues: Names of the queues.
        seconds: How long to wait at most.
        pause: Seconds between two looks.

    Returns:
        Number of the tasks that are left.
    """
    ends, empty, left = time.monotonic() + seconds, 0, 0
    while empty < LOOKS and (empty or time.monotonic() < ends):
        left = tasks_left(broker, prefix, queues)
        empty = 0 if left else empty + 1
        time.sleep(pause)
    return left


def main() -> None:
    """Wait, and fail if tasks are left."""
    prefix, seconds, queues = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
    broker = redis.Redis.from_url(BROKER_URL.read_text().strip(), socket_timeout=10)
    left = wait(broker, prefix, queues, seconds)
    if left:
        sys.exit(f"{left} of Airflow's tasks had not finished after {seconds:g} s.")


if __name__ == "__main__":
    main()
