"""The backend's API, its migration, Celery through the broker to the database, and Flower."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from stack_under_test import Stack, command, eventually
from test_applications import (  # noqa: F401
    TIMEOUT,
    backend,
    test_a_chart_is_drawn_to_the_bucket,
    test_an_unknown_symbol_is_told,
    test_beat_brings_the_bars,
    test_celery_end_to_end,
    test_declared_metrics_answer,
    test_flower_asks_for_a_password,
    test_flower_watches_and_cannot_send,
)
from test_data_services import psql, redis


def ready(stack: Stack) -> tuple[int, dict[str, Any]]:
    """Status and report of /ready."""
    answer = requests.get(stack.url("backend", "/ready"), timeout=TIMEOUT)
    return answer.status_code, answer.json()


def test_ready(stack: Stack) -> None:
    """Each dependency that this inventory has answers, and no other is asked for."""
    assert backend(stack, "/health")["status"] == "ok"
    report = backend(stack, "/ready")
    assert report["ready"] is True
    states = {name: found["state"] for name, found in report["dependencies"].items()}
    assert states == dict.fromkeys(("postgres", "redis", "minio", "gateway"), "ok")


def test_not_ready_without_its_broker(stack: Stack) -> None:
    """/ready names what is away, /health stays green, and both recover by themselves."""
    container = f"{stack.name}-redis"
    command("docker", "stop", container)
    try:
        answer = eventually(lambda: ready(stack)[0] == 503 and ready(stack)[1], seconds=30)
        assert [name for name, found in answer["dependencies"].items() if found["state"] != "ok"] == ["redis"]
        assert backend(stack, "/health")["status"] == "ok"
    finally:
        command("docker", "start", container)
    assert eventually(lambda: ready(stack)[0] == 200, seconds=60)


def test_not_ready_while_redis_is_full(stack: Stack) -> None:
    """Of keys that never expire: /ready and a refresh say so, while Redis still answers a PING."""
    headers = {"Authorization": f"Bearer {stack.secret('backend_api_token')}"}

    def refresh() -> requests.Response:
        return requests.post(stack.url("backend", "/api/v1/bars/IBM/refresh"), headers=headers, timeout=TIMEOUT)

    usual = redis(stack, "CONFIG", "GET", "maxmemory", user="admin").split()[1]
    assert redis(stack, "SET", "ballast", "x" * 100_000, user="backend") == "OK"
    try:
        assert redis(stack, "CONFIG", "SET", "maxmemory", "100kb", user="admin") == "OK"
        assert redis(stack, "PING", user="backend") == "PONG"
        answer = eventually(lambda: ready(stack)[0] == 503 and ready(stack)[1], seconds=30)
        assert [name for name, found in answer["dependencies"].items() if found["state"] != "ok"] == ["redis"]
        assert "used memory > 'maxmemory'" in answer["dependencies"]["redis"]["reason"]
        refused = refresh()
        detail = refused.json()["detail"]
        assert refused.status_code == 503 and "Redis rejected the task: " in detail and "'maxmemory'" in detail, detail
    finally:
        redis(stack, "CONFIG", "SET", "maxmemory", usual, user="admin")
        redis(stack, "DEL", "ballast", user="backend")
    assert eventually(lambda: ready(stack)[0] == 200, seconds=60)
    assert refresh().status_code == 202


def test_the_database_is_migrated(stack: Stack) -> None:
    """At the newest revision that the image holds, by the step, with all that the program's models need; and the tables
    are the backend's."""
    heads = stack.execute("backend", "alembic", "heads").stdout.split()
    assert heads[1:] == ["(head)"]
    assert psql(stack, "backend", "backend", "SELECT version_num FROM alembic_version") == (0, heads[0])
    check = stack.execute("backend", "alembic", "check")
    assert (check.returncode, check.stdout) == (0, "No new upgrade operations detected.\n"), check.stderr
    owners = psql(stack, "backend", "backend", "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
    assert owners == (0, "backend")
    state = command(
        "docker", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", f"{stack.name}-backend-migrate"
    )
    assert state.split() == ["exited", "0"]


def test_a_task_writes_to_the_database(stack: Stack) -> None:
    """Sent through the broker, done by the worker, kept in PostgreSQL: bars that were deleted are back."""
    eventually(
        lambda: psql(stack, "backend", "backend", "SELECT count(*) FROM bars WHERE symbol = 'IBM'")[1] != "0", 180
    )
    assert psql(stack, "backend", "backend", "DELETE FROM bars WHERE symbol = 'IBM'")[0] == 0
    program = "from ibkr_backend.tasks import refresh_bars; print(refresh_bars.delay('IBM').get(timeout=90)['fetched'])"
    done = stack.execute("backend", "python3", "-c", program)
    assert done.returncode == 0 and int(done.stdout) > 3000, done.stderr
    status, kept = psql(stack, "backend", "backend", "SELECT count(*) FROM bars WHERE symbol = 'IBM'")
    assert status == 0 and int(kept) == int(done.stdout)


@pytest.mark.parametrize("name", ["backend", "celery-worker", "celery-beat", "flower"])
def test_it_runs_as_its_own_user(stack: Stack, name: str) -> None:
    """No process of a container is root's."""
    rows = command("docker", "top", f"{stack.name}-{name}", "-eo", "uid,pid,comm").splitlines()[1:]
    assert rows and {row.split()[0] for row in rows} == {"10005"}
