"""Logs of containers, tasks and hosts: all lines arrive, with their names, and no secret is among them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
import requests
from stack_under_test import Stack, command, eventually
from watched import Watched, play

LINES = 3000


@pytest.fixture(scope="module")
def watched(stack: Stack) -> Watched:
    """The monitoring."""
    return Watched(stack)


def search(watched: Watched, query: str) -> list[dict[str, str]]:
    """Ask the store of logs, as the page does."""
    url = f"{watched.base}/select/logsql/query"
    answer = watched.session.post(url, data={"query": query}, timeout=60)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.fixture
def chatter(stack: Stack) -> Iterator[str]:
    """Name of a container of the stack that writes more than its files hold, and waits."""
    name = f"chatter-{int(time.time())}"
    image = command("docker", "inspect", "--format", "{{.Config.Image}}", f"{stack.name}-container-agent").strip()
    text = "[x: ERROR/Main] line $i of a program that says quite a lot in each of the lines that it writes"
    # Files are looked for every five seconds, and from one that was rotated the agent goes on to the newest: what is
    # rotated twice before it looks is not seen. A file lasts for six seconds here.
    pause = "case $i in 1) sleep 10;; *0) sleep 0.2;; esac"
    script = f'i=0; while [ $i -lt {LINES} ]; do i=$((i + 1)); echo "{text}"; {pause}; done'
    labels = {"stack": stack.name, "service": name, "owner": "monitoring", "kind": "run"}
    command(
        *("docker", "run", "--detach", f"--name={stack.name}-{name}"),
        *("--log-opt=max-size=50k", "--log-opt=max-file=2"),
        *(f"--label=quantops.{key}={value}" for key, value in labels.items()),
        *("--network=none", "--entrypoint=sh", image, "-c", f"{script}; exec sleep 600"),
    )  # fmt: skip
    yield name
    command("docker", "rm", "--force", "--volumes", f"{stack.name}-{name}")


def test_every_line_arrives_though_files_rotate(stack: Stack, watched: Watched, chatter: str) -> None:
    """The engine itself has kept a part of them."""
    count = f'_time:1h container:="{chatter}" level:="error" service:="monitoring" | stats count_uniq(_msg) lines'
    eventually(lambda: search(watched, count)[0]["lines"] == str(LINES), seconds=240)
    assert len(stack.log(chatter).splitlines()) < LINES


def test_services_can_be_searched(watched: Watched) -> None:
    """Each container that has said something has its service, and most lines have a level."""
    found = search(watched, "_time:1d | stats by (service, container, level) count() lines")
    services = {(each["service"], each["container"]) for each in found}
    assert {
        *(("postgres", "postgres"), ("redis", "redis"), ("backend", "celery-worker"), ("backend", "backend")),
        *(("airflow", "airflow-scheduler"), ("airflow", "airflow-worker"), ("ibkr_gateway", "ibkr-gateway")),
        *(("monitoring", "victoria-metrics"), ("notebook", "notebook")),
    } <= services, services  # fmt: skip
    levels = {(each["service"], each["level"]) for each in found}
    assert {(each, "info") for each in ("postgres", "redis", "backend", "airflow", "monitoring")} <= levels, levels


def test_what_tasks_log(stack: Stack, watched: Watched, airflow: requests.Session) -> None:
    """While they run, from the worker's output."""
    runs = stack.url("airflow", "/api/v2/dags/daily_strategy_training/dagRuns")
    body = {"logical_date": None, "conf": {"symbol": "NOSUCH"}}
    run = airflow.post(runs, json=body, timeout=30).json()
    try:
        eventually(lambda: search(watched, '_time:10m container:="airflow-worker" "NOSUCH"'), seconds=180)
    finally:
        airflow.patch(f"{runs}/{run['dag_run_id']}", json={"state": "failed"}, timeout=30)


def test_what_hosts_log(watched: Watched) -> None:
    """By whom, and how bad."""
    command("logger", "--tag=desk-test", "--priority=user.err", "a line of the host's own")
    query = '_time:10m service:="host" container:="desk-test" level:="error" "the host\'s own"'
    [line] = eventually(lambda: search(watched, query), seconds=60)
    assert (line["stream"], line["host"]) == ("journal", "mol-monitoring")


def test_lines_on_the_command_line(watched: Watched) -> None:
    """Of one service, of one level, with words; a slip is refused."""
    said = play(
        "logs",
        "--extra-vars",
        json.dumps({"logs_service": "redis", "logs_since": "1d", "logs_text": "ready to ACCEPT"}),
    )
    assert "redis  info  " in said and "Ready to accept connections" in said
    said = play("logs", "--extra-vars", json.dumps({"logs_service": "postgrs"}), status=2)
    assert "SERVICE is 'postgrs'" in said and "Did you mean 'postgres'?" in said


def test_no_secret_is_in_the_logs(stack: Stack, watched: Watched) -> None:
    """Of all that were generated, in all lines that have been collected."""
    values = {file.name: max(file.read_text().split(), key=len) for file in stack.secrets_dir.iterdir()}
    assert len(values) > 20
    words = " OR ".join(f"*:~{json.dumps(value)}" for value in values.values())
    found = search(watched, f"_time:1d ({words}) | limit 20")
    told = {name for name, value in values.items() for line in found if value in json.dumps(line)}
    assert not found, (told, [line.get("container") for line in found])


def test_the_sweep_of_the_logs_finds_one(stack: Stack, watched: Watched) -> None:
    """The search above is not blind."""
    value = stack.secret("flower_password")
    command("sh", "-c", 'logger --tag=desk-sweep "x$(cat)x"', stdin=value[:12])
    eventually(lambda: search(watched, f'_time:10m *:~"{value[:12]}"'), seconds=60)
