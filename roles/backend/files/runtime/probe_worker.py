"""Health check of a Celery worker of any application: probe_worker.py [QUEUE…].

Succeeds when the worker `backend@HOSTNAME` of this container answers through the broker and consumes the named queues,
so a worker that lost them is found too. Imports Celery and not the application.
"""

import os
import socket
import sys
from pathlib import Path

from celery import Celery


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
    name = f"backend@{socket.gethostname()}"
    found = app.control.inspect(destination=[name], timeout=3, limit=1).active_queues() or {}
    if name not in found:
        return f"the worker {name} does not answer"
    lost = set(wanted) - {queue["name"] for queue in found[name]}
    return f"the worker does not consume {', '.join(sorted(lost))}" if lost else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) or 0)
