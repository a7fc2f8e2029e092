"""Lists the Celery workers of a broker, a line each: what they take tasks from, and how many they run.

Read from standard input by Python in a container of the service, with the file that holds the broker's URL, the prefix
of its keys, and the names that workers should have as arguments.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from celery import Celery

#: Seconds in which all workers answer; a busy one is late.
PATIENCE = 4.0


def line(name: str, queues: list[dict[str, Any]], stats: dict[str, Any], active: int, declared: bool) -> str:
    """Describe one worker.

    Args:
        name: Its name.
        queues: That it takes tasks from.
        stats: What it says of itself.
        active: Number of tasks that it runs.
        declared: Whether the inventory has it.

    Returns:
        A sentence without a full stop.
    """
    slots = (stats.get("pool") or {}).get("max-concurrency", "?")
    names = ", ".join(sorted(queue["name"] for queue in queues))
    takes = f"takes tasks from {names}" if names else "is being drained and takes no tasks"
    unknown = "" if declared else "; the inventory does not have it"
    return f"{name} {takes}; runs {active} of {slots} at a time{unknown}"


def main(arguments: list[str]) -> None:
    """Ask all workers together."""
    url, prefix, expected = arguments[0], arguments[1], arguments[2:]
    app = Celery(broker=Path(url).read_text().strip())
    app.conf.broker_transport_options = {"socket_connect_timeout": 5, "socket_timeout": 10, "global_keyprefix": prefix}
    inspect = app.control.inspect(timeout=PATIENCE, limit=len(expected) or None)
    queues = inspect.active_queues() or {}
    stats, active = (inspect.stats() or {}, inspect.active() or {}) if queues else ({}, {})
    for name in sorted({*queues, *expected}):
        if name in queues:
            print(line(name, queues[name] or [], stats.get(name, {}), len(active.get(name) or []), name in expected))
        else:
            print(f"{name} does not answer")


if __name__ == "__main__":
    main(sys.argv[1:])
