"""Lets a Celery worker take no more tasks, and waits until those at hand have ended.

Read from standard input by Python in the worker's container, with its possible names (separated by commas), the file
that holds the broker's URL, the prefix of its keys, and the seconds to wait as arguments. Ends with status 3, and a
line for each task, if some are left; the worker then goes on with them and takes no others.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery

#: What the health check looks for: a worker that is to take nothing is not one that has lost its queues.
MARK = Path("/tmp/draining")
#: Looks that must find nothing: a task is in neither list for a moment while a process takes it.
LOOKS = 2
#: Times that a busy worker may leave a question without an answer.
PATIENCE = 6
#: What of Airflow's workload names a task; the rest of it is not shown, because it holds a token.
AIRFLOW = {key: re.compile(rf'"{key}":\s*"([^"]+)"') for key in ("dag_id", "run_id", "task_id")}


def named(task: dict[str, Any]) -> str:
    """Name a task for people.

    Args:
        task: As the worker describes it.

    Returns:
        DAG, task and run of Airflow's; of any other its name and id.
    """
    request = task.get("request") or task
    text = str(request.get("args") or "").replace('\\"', '"')
    found = {key: pattern.search(text) for key, pattern in AIRFLOW.items()}
    if found["dag_id"] and found["task_id"]:
        run = f" of the run {found['run_id'][1]}" if found["run_id"] else ""
        return f"{found['dag_id'][1]}.{found['task_id'][1]}{run}"
    since = request.get("time_start")
    running = f", for {time.time() - since:.0f} s" if since else ""
    return f"{request.get('name')} ({request.get('id')}{running})"


class Worker:
    """One worker, asked through the broker."""

    def __init__(self, app: Celery, names: list[str]) -> None:
        """Find it.

        Args:
            app: Knows the broker.
            names: Names that it may have.
        """
        self.control, self.names = app.control, names
        queues = self.ask("active_queues")
        self.names, self.queues = [next(iter(queues))], [queue["name"] for queue in next(iter(queues.values()))]

    def ask(self, what: str) -> dict[str, Any]:
        """Ask it.

        Args:
            what: Name of a question.

        Returns:
            Its name to its answer. Without one, the program ends.
        """
        for _time in range(PATIENCE):
            answer = getattr(self.control.inspect(destination=self.names, timeout=5, limit=1), what)()
            if answer:
                return answer
        sys.exit(f"The worker {' or '.join(self.names)} does not answer.")

    def take_no_more(self) -> None:
        """End its consumers."""
        MARK.touch()
        # A worker that connects to its broker again, such as after a reboot, does not hear what was said meanwhile.
        for _time in range(PATIENCE):
            for queue in self.queues:
                self.control.cancel_consumer(queue, destination=self.names, reply=True, timeout=5)
            if not any(self.ask("active_queues").values()):
                return
        sys.exit(f"The worker {self.names[0]} still takes tasks.")

    def at_hand(self) -> list[dict[str, Any]]:
        """List the tasks that it runs, and those that it has taken."""
        return [task for what in ("active", "reserved") for tasks in self.ask(what).values() for task in tasks]


def main(arguments: list[str]) -> int:
    """Drain the worker."""
    names, url, prefix, seconds = arguments
    app = Celery(broker=Path(url).read_text().strip())
    app.conf.broker_transport_options = {"socket_connect_timeout": 5, "socket_timeout": 10, "global_keyprefix": prefix}
    worker = Worker(app, names.split(","))
    worker.take_no_more()
    ends, looks, left = time.monotonic() + float(seconds), 0, worker.at_hand()
    while looks < LOOKS and (not left or time.monotonic() < ends):
        time.sleep(1)
        left = worker.at_hand()
        looks = 0 if left else looks + 1
    for task in left:
        print(named(task))
    return 3 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
