"""Redis keeps what it accepted, and only for those who know its password."""

from __future__ import annotations

import uuid

from stack_under_test import Stack, command, eventually
from test_data_services import (  # noqa: F401
    redis,
    test_redis_keeps_what_it_accepted,
    test_redis_needs_its_password,
)


def test_what_was_accepted_outlives_a_kill(stack: Stack) -> None:
    """A broker's message that is on disk is there again after SIGKILL, in its order."""
    password, key = stack.secret("redis_password"), f"probe-{uuid.uuid4()}"
    assert redis(stack, "RPUSH", key, "first", "second", password=password) == "2"
    # One local write to the append-only file, waited for up to 5 s.
    assert redis(stack, "WAITAOF", "1", "0", "5000", password=password).split()[0] == "1"
    container = f"{stack.name}-redis"
    command("docker", "kill", container)
    command("docker", "start", container)
    assert eventually(lambda: redis(stack, "PING", password=password) == "PONG", seconds=30)
    assert redis(stack, "LRANGE", key, "0", "-1", password=password).split() == ["first", "second"]


def test_it_runs_as_its_own_user(stack: Stack) -> None:
    """No process of the container is root's."""
    rows = command("docker", "top", f"{stack.name}-redis", "-eo", "uid,pid,comm").splitlines()[1:]
    assert {row.split()[0] for row in rows} == {"10002"}
