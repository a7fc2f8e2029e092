"""Health check of a Celery worker of any application: probe_worker.py [QUEUE…].

Succeeds when the worker of this container (`CELERY_WORKER_NAME`, or `backend@` and the container's name) answers
through the broker and consumes the named queues, so a worker that lost them is found too. One that is being drained
is well without any. Imports Celery and not the application.
"""

import os
import socket
import sys
from pathlib import Path

from celery import Celery

#: There while a worker is being drained.
DRAINING = Path("/tmp/draining")


def main(wanted: list[str]) -> str:
    """Ask once.

    Args:
        wanted: Names of queues.

    Returns:
        What is wrong, empty when nothing is.
    """
    broker = os.environ.get("CELERY_BROKER_URL") or Path("/run/secrets/CELERY_BROKER_URL").read_text()
    app = Celery(broker=broker)
    app.conf.broker_transport_options = {"socket_connect_timeout": 2, "socket_timeout": 4}
    names = list(dict.fromkeys([os.environ.get("CELERY_WORKER_NAME", ""), f"backend@{socket.gethostname()}"]))
    names = [name for name in names if name]
    found = app.control.inspect(destination=names, timeout=3, limit=1).active_queues() or {}
    if not found:
        return f"the worker {' or '.join(names)} does not answer"
    if DRAINING.exists():
        return ""
    lost = set(wanted) - {queue["name"] for queues in found.values() for queue in queues}
    return f"the worker does not consume {', '.join(sorted(lost))}" if lost else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) or 0)
