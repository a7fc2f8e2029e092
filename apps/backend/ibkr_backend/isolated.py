"""Runs a module of this package in a process of its own, with one JSON value in and one out.

What it imports is gone from memory when it ends, which a long-lived worker process could not do, and code that comes
with a model runs without the worker's environment.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Each takes up to 270 MB, so they run one after the other in a container.
LOCK = Path(tempfile.gettempdir(), f"ibkr-backend-{os.getuid()}-isolated.lock")
PASSED = ("PATH", "HOME", "LANG", "SSL_CERT_FILE", "MALLOC_ARENA_MAX", "PYTHONDONTWRITEBYTECODE")


class IsolatedError(Exception):
    """The process failed; the text is the last line that it said."""


@contextlib.contextmanager
def alone(name: str) -> Iterator[bool]:
    """Yield whether no other process of this container is at it, and keep the others from it meanwhile."""
    with Path(tempfile.gettempdir(), f"ibkr-backend-{os.getuid()}-{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def call(module: str, request: Any, timeout: float = 300, **environment: str) -> Any:
    """Run ``python -m module`` and return its answer.

    Args:
        module: Dotted name; reads JSON from standard input and writes JSON to standard output.
        request: What it is given.
        timeout: Seconds, after which it is ended.
        environment: Variables beside `PASSED`; nothing else reaches it.

    Raises:
        IsolatedError: it ended with another code than 0, or in no time.
    """
    passed = {name: os.environ[name] for name in PASSED if name in os.environ}
    root = str(Path(__file__).parents[1])
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            done = subprocess.run(
                [sys.executable, "-m", module],
                input=json.dumps(request),
                env=passed | environment | {"PYTHONPATH": root},
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise IsolatedError(f"{module} took longer than {timeout:g} s") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise IsolatedError(f"{module}: {said[-1][:500]}")
    return json.loads(done.stdout)
