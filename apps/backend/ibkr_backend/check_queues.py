"""Fails when a task would wait in a queue that the worker does not consume: check_queues.py APP [QUEUE…].

Asks Celery's own router where it sends each registered task, with the task's own options, and each entry of the beat
schedule, with the entry's options. What a program sends to a queue named in the call cannot be seen from here. The
reference application has a copy, with which its worker looks as it starts (decision 0045).
"""

import sys
from typing import Any

from celery.app.utils import find_app
from celery.exceptions import QueueNotFound


def destination(app: Any, name: str, options: dict[str, Any]) -> str:
    """Ask where a message goes.

    Args:
        app: Celery application.
        name: Name of the task.
        options: Options with which it is sent.

    Returns:
        Name of the queue.
    """
    task = app.tasks.get(name)
    own = {key: getattr(task, key, None) for key in ("queue", "exchange", "routing_key")}
    given = {**{key: value for key, value in own.items() if value is not None}, **options}
    queue = app.amqp.router.route(given, name, (), {})["queue"]
    return getattr(queue, "name", queue)


def astray(app: Any, consumed: set[str]) -> list[tuple[str, str, str]]:
    """Find what nobody would work on.

    Args:
        app: Celery application.
        consumed: Queues that the worker consumes.

    Returns:
        For each task or schedule entry: what sends it, in words, the name of the task, and the queue.
    """
    app.loader.import_default_modules()
    app.finalize()
    sent: dict[str, tuple[str, dict[str, Any]]] = {}
    sent |= {f"the task {name}": (name, {}) for name in app.tasks if not name.startswith("celery.")}
    for name, entry in (app.conf.beat_schedule or {}).items():
        sent[f"the entry {name} of the beat schedule"] = (entry["task"], entry.get("options") or {})
    found = []
    for sender, (name, options) in sorted(sent.items()):
        try:
            queue = destination(app, name, options)
        except QueueNotFound as error:
            queue = options.get("queue") or str(error)
        if queue not in consumed:
            found.append((sender, name, queue))
    return found


def problems(app: Any, consumed: set[str]) -> list[str]:
    """Say what nobody would work on.

    Args:
        app: Celery application.
        consumed: Queues that the worker consumes; empty means those that the application itself names.

    Returns:
        A sentence for each task or schedule entry.
    """
    app.loader.import_default_modules()
    app.finalize()
    # Before the router is asked: it adds each queue that it hears of.
    consumed = consumed or set(app.amqp.queues.consume_from)
    return [
        f"{sender} goes to the queue {queue}, the worker consumes {', '.join(sorted(consumed))}"
        for sender, _task, queue in astray(app, consumed)
    ]


if __name__ == "__main__":
    wrong = problems(find_app(sys.argv[1]), set(sys.argv[2:]))
    if wrong:
        sys.exit("\n".join([*wrong, "Add the queue to backend_worker_queues."]))
    print("every task and every entry of the beat schedule goes to a queue that the worker consumes")
