"""A monitoring that is added to the running stack sees all of its hosts, says which one is lost, and leaves again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_under_test import STACK, here, identity, on, played, rearranged, state
from stack_under_test import eventually

DATA, SERVICES, WORKER = HOSTS = ("mol-cluster-data", "mol-cluster-services", "mol-cluster-worker")
AGENTS = {"container-agent", "node-exporter", "vlagent", "vmagent"}
OF_OTHERS = ("Watchdog", "HostBusy")
#: Seconds in which an alert about what has just happened would be raised.
TIME_TO_ALERT = 180


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The inventory with a monitoring on the host of the data; in the end the stack is without it again."""
    before = {host: identity(host) for host in HOSTS}
    more = {"monitoring_interval": 10}
    inventory = rearranged(
        tmp_path_factory.mktemp("monitored") / "inventory", {"monitoring": [DATA]}, dict.fromkeys(HOSTS, more)
    )
    played("site", inventory=inventory)
    yield inventory
    played("site", "--extra-vars=stack_remove_undeclared=true")
    assert {host: set(identity(host)) for host in HOSTS} == {host: set(names) for host, names in before.items()}


def asked(path: str, **parameters: str) -> str:
    """The monitoring's answer to a person with the password."""
    password = Path(os.environ["QUANTOPS_SECRETS_DIR"], "monitoring_password").read_text().strip()
    words = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "30", "--get"]
    words += ["--user", f"monitoring:{password}", f"http://127.0.0.1:8427{path}"]
    for name, value in parameters.items():
        words += ["--data-urlencode", f"{name}={value}"]
    return on(DATA, "docker", "exec", f"{STACK}-monitoring", *words)


def hosts_of(expr: str) -> set[str]:
    """The hosts of what an expression finds now."""
    found = json.loads(asked("/api/v1/query", query=expr))["data"]["result"]
    return {each["metric"]["host"] for each in found}


def firing() -> list[dict[str, Any]]:
    """Labels of the alerts that fire, without that which always does and that about the load of this machine."""
    alerts = json.loads(asked("/api/v1/alerts"))["data"]["alerts"]
    return [each["labels"] for each in alerts if each["state"] == "firing" and each["name"] not in OF_OTHERS]


def lost() -> set[str]:
    """Hosts that an alert says are down."""
    return {labels["host"] for labels in firing() if labels["alertname"] == "HostDown"}


def raised(seconds: float) -> set[tuple[str, str]]:
    """Which alerts fired at any time of the last seconds, with their hosts."""
    found = json.loads(asked("/api/v1/query", query=f'max_over_time(ALERTS{{alertstate="firing"}}[{seconds:.0f}s])'))
    return {
        (each["metric"]["alertname"], each["metric"].get("host", ""))
        for each in found["data"]["result"]
        if each["metric"]["alertname"] not in OF_OTHERS
    }


def test_every_host_is_measured(monitored: Path) -> None:
    """By agents of its own, each container too, in whichever host it runs."""
    assert all(set(identity(host)) >= AGENTS for host in HOSTS)
    for expr in ('up{job="vmagent"} == 1', "node_memory_MemTotal_bytes", 'container_state{state="running"}'):
        eventually(lambda expr=expr: hosts_of(expr) == set(HOSTS), seconds=180, pause=5)
    worker = hosts_of('container_state{container="airflow-worker", state="running"} == 1')
    assert worker == {WORKER}
    assert hosts_of('container_state{container="postgres", state="running"} == 1') == {DATA}
    eventually(lambda: not json.loads(asked("/api/v1/query", query="up == 0"))["data"]["result"], seconds=180, pause=5)


def test_logs_of_every_host_are_found(monitored: Path) -> None:
    """In the browser's store, and by the command."""

    def hosts() -> set[str]:
        answer = asked("/select/logsql/query", query="_time:1h | stats by (host) count()")
        return {json.loads(line)["host"] for line in answer.splitlines()}

    eventually(lambda: hosts() == set(HOSTS), seconds=180, pause=5)
    on(WORKER, "docker", "restart", f"{STACK}-celery-worker", timeout=300)
    wanted = json.dumps({"logs_service": "celery-worker", "logs_since": "1h"})
    eventually(
        lambda: f"backend@{WORKER} v" in played("logs", f"--extra-vars={wanted}", inventory=monitored), 120, pause=5
    )


def test_nothing_is_raised_of_a_stack_over_several_hosts(monitored: Path) -> None:
    """Once it has been running for a while."""
    eventually(lambda: not firing(), seconds=480, pause=5)


def test_a_host_that_is_drained_is_not_missed(monitored: Path) -> None:
    """Nor are its workers, which would be if nobody had drained them; that they were the last ones is told."""
    began = time.monotonic()
    played("drain", f"--limit={WORKER}", "--extra-vars=drain_timeout=600", inventory=monitored)
    assert state(WORKER, "airflow-worker") == state(WORKER, "celery-worker") == "exited"
    time.sleep(TIME_TO_ALERT)
    told = {"WorkerLost", "BackendDependencyDown"}

    def names() -> set[str]:
        return {name for name, _host in raised(time.monotonic() - began)}

    # The second one waits for a minute, and the backend first notices.
    eventually(lambda: told <= names(), seconds=120, pause=5)
    assert names() == told
    played("start", inventory=monitored)
    eventually(lambda: state(WORKER, "airflow-worker") == "running", 120)


def test_a_host_that_is_lost_is_named_until_it_is_back(monitored: Path) -> None:
    """And what was logged meanwhile, of the other hosts, is there."""
    here("docker", "kill", WORKER)
    try:
        eventually(lambda: lost() == {WORKER}, seconds=TIME_TO_ALERT, pause=5)
    finally:
        here("docker", "start", WORKER)
    eventually(lambda: on(WORKER, "docker", "info", "--format", "{{.ServerVersion}}", status=None).strip(), 120)
    eventually(lambda: not lost(), seconds=300, pause=5)
    eventually(lambda: hosts_of('container_state{container="airflow-worker", state="running"} == 1') == {WORKER}, 300)


def test_a_host_that_is_forgotten_is_not_missed(monitored: Path) -> None:
    """Although the monitoring has heard of it all the time."""
    eventually(lambda: not firing(), seconds=480, pause=5)
    began = time.monotonic()
    played("forget", f"--limit={WORKER}", "--extra-vars=drain_timeout=600", inventory=monitored)
    assert identity(WORKER) == {}
    time.sleep(TIME_TO_ALERT)
    assert {name for name, _host in raised(time.monotonic() - began)} <= {"WorkerLost", "BackendDependencyDown"}
    played("site", inventory=monitored)
    assert set(identity(WORKER)) >= AGENTS | {"airflow-worker", "celery-worker"}
    eventually(lambda: hosts_of('up{job="vmagent"} == 1') == set(HOSTS), seconds=180, pause=5)
