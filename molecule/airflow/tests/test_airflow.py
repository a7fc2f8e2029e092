"""A login, a DAG's run on the Celery worker, and its log, which outlives the worker's container."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import hmac
import http.server
import json
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest
import requests
import yaml
from stack_under_test import HOST, REPOSITORY, Stack, command, drift, eventually
from test_applications import (  # noqa: F401
    TIMEOUT,
    test_airflow_is_healthy,
    test_airflow_lets_in_its_administrator_only,
)
from test_data_services import psql, redis, s3

RUNS = "/api/v2/dags/probe/dagRuns"
DAGS = ["backlog", "declared", "forger", "isolated", "probe", "secrets_of_airflow", "steady", "surroundings"]
#: Tasks that the worker runs at a time, by default.
SLOTS = 2
#: Seconds after which the scheduler hands over a task again that nobody began: AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT.
QUEUED_TIMEOUT_S = 30
#: A DAG that is named after its file.
DAG = """
from pathlib import Path
from airflow.sdk import DAG
with DAG(Path(__file__).stem, schedule=None):
    pass
"""


def test_the_first_task_finds_the_api_for_tasks_ready(stack: Stack) -> None:
    """A healthy API server has built it; else the first task waits for that, and fails on a busy host."""
    asked = [line for line in stack.log("airflow-apiserver").splitlines() if "path=/execution/" in line]
    assert asked and "path=/execution/health" in asked[0] and "status_code=200" in asked[0]


def run_role(*options: str, status: int = 0, playbook: str = "airflow") -> str:
    """Run the role alone, or another playbook, and return what it says."""
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    done = subprocess.run(
        ["ansible-playbook", f"--inventory={os.path.dirname(inventory)}", "--inventory=molecule/shared/inventory.yml",
         f"playbooks/{playbook}.yml", *options],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def trigger(stack: Stack, airflow: requests.Session, dag: str) -> str:
    """Start a run of a DAG, once Airflow knows it, and return its id."""
    address = stack.url("airflow", f"/api/v2/dags/{dag}")
    assert eventually(lambda: airflow.get(address, timeout=TIMEOUT).status_code == 200, seconds=180)
    airflow.patch(address, json={"is_paused": False}, timeout=TIMEOUT)

    def start() -> requests.Response | None:
        """It is known before it can be started, when its file was away for a while."""
        answer = airflow.post(f"{address}/dagRuns", json={"logical_date": None}, timeout=TIMEOUT)
        return None if answer.status_code == 404 else answer

    started = eventually(start, seconds=180)
    assert started.status_code == 200, started.text
    return str(started.json()["dag_run_id"])


def end_of(stack: Stack, airflow: requests.Session, dag: str, run_id: str) -> dict[str, Any]:
    """Wait for the end of a run."""
    address = stack.url("airflow", f"/api/v2/dags/{dag}/dagRuns/{run_id}")

    def ended() -> dict[str, Any] | None:
        now = airflow.get(address, timeout=TIMEOUT).json()
        return now if now["state"] in ("success", "failed") else None

    return eventually(ended, seconds=240)


@pytest.fixture(scope="module")
def run(stack: Stack, airflow: requests.Session) -> dict[str, Any]:
    """A finished run of the scenario's own DAG."""
    return end_of(stack, airflow, "probe", trigger(stack, airflow, "probe"))


def log_of(stack: Stack, airflow: requests.Session, run: dict[str, Any]) -> str:
    """The task's log, as the UI asks for it."""
    path = f"{RUNS}/{run['dag_run_id']}/taskInstances/say/logs/1"
    answer = airflow.get(stack.url("airflow", path), timeout=TIMEOUT)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["content"])


def test_the_worker_ran_the_task(stack: Stack, airflow: requests.Session, run: dict[str, Any]) -> None:
    """Not the scheduler, and not the API server."""
    assert run["state"] == "success"
    path = f"{RUNS}/{run['dag_run_id']}/taskInstances"
    [task] = airflow.get(stack.url("airflow", path), timeout=TIMEOUT).json()["task_instances"]
    assert (task["task_id"], task["state"], task["hostname"]) == ("say", "success", "airflow-worker")


def test_all_that_airflow_keeps_in_redis_is_its_own(stack: Stack, run: dict[str, Any]) -> None:
    """Queue, bindings and results have the prefix that its user in Redis is held to, and no other user reaches."""
    assert run["state"] == "success"
    keys = [key for database in ("2", "3") for key in redis(stack, "-n", database, "--scan", user="admin").split("\n")]
    assert any(key.startswith("@airflow:_kombu.binding.") for key in keys), keys
    assert any(key.startswith("@airflow:celery-task-meta-") for key in keys), keys
    assert [key for key in keys if key and not key.startswith("@airflow:")] == []
    assert redis(stack, "ACL", "LOG", user="admin") == ""


#: As in molecule.yml.
PASSWORD = "p@ss'word {{x}}"


def test_connections_variables_and_pools_of_the_inventory(stack: Stack, airflow: requests.Session) -> None:
    """A task reads them, beside what a person has made; a declared one that is removed goes, and a person's stays."""
    for path, body in {
        "variables": {"key": "made_by_hand", "value": "7"},
        "pools": {"name": "by_hand", "slots": 3},
    }.items():
        made = airflow.post(stack.url("airflow", f"/api/v2/{path}"), json=body, timeout=TIMEOUT)
        assert made.status_code in (201, 409), made.text

    ended = end_of(stack, airflow, "declared", trigger(stack, airflow, "declared"))
    assert ended["state"] == "success"
    entry = f"/api/v2/dags/declared/dagRuns/{ended['dag_run_id']}/taskInstances/read/xcomEntries/return_value"
    said = airflow.get(stack.url("airflow", entry), params={"stringify": "false"}, timeout=TIMEOUT).json()["value"]
    assert said == {
        "host": "desk.example.com",
        "port": 8443,
        "password": hashlib.sha256(PASSWORD.encode()).hexdigest(),
        "extra": {"timeout": 5},
        "uri_login": "reader",
        "symbols": ["AAPL", "BRK B"],
        "made_by_hand": "7",
    }

    def pools() -> dict[str, tuple[int, bool]]:
        found = airflow.get(stack.url("airflow", "/api/v2/pools"), timeout=TIMEOUT).json()["pools"]
        return {each["name"]: (each["slots"], each["include_deferred"]) for each in found}

    assert pools() == {"default_pool": (128, False), "ibkr": (1, False), "night": (4, True), "by_hand": (3, False)}
    # Nowhere but in files that the programs read.
    for name in ("apiserver", "worker", "dag-processor", "triggerer", "scheduler", "init"):
        container = f"{stack.name}-airflow-{name}"
        shown = command("docker", "inspect", container) + command("docker", "logs", container)
        assert "p@ss'word" not in shown and "s3cr%2Ft" not in shown
    holders = command("sh", "-c", f"grep --files-with-matches --recursive 'desk.example.com' {stack.config_dir}")
    assert {Path(path).parents[1].name for path in holders.split()} == {
        "airflow-apiserver", "airflow-dag-processor", "airflow-triggerer",
    }  # fmt: skip

    try:
        run_role("--extra-vars={airflow_pools: {ibkr: 2}, airflow_connections: {}}")
        assert pools() == {"default_pool": (128, False), "ibkr": (2, False), "by_hand": (3, False)}
        failed = end_of(stack, airflow, "declared", trigger(stack, airflow, "declared"))
        assert failed["state"] == "failed"
    finally:
        run_role()
    assert pools()["ibkr"] == (1, False)


#: As in molecule.yml.
OP_PASSWORD = "op's pass {{word"
USERS = "[{name: anna, role: Op}]"


def test_users_of_the_inventory(stack: Stack, airflow: requests.Session) -> None:
    """They log in and may do what their role allows; one that is removed goes, and a person's stays."""
    by_hand = {"username": "by_hand", "first_name": "By", "last_name": "Hand", "email": "by_hand@localhost",
               "roles": [{"name": "Viewer"}], "password": "made-by-hand"}  # fmt: skip
    made = airflow.post(stack.url("airflow", "/auth/fab/v1/users"), json=by_hand, timeout=TIMEOUT)
    assert made.status_code in (200, 201, 409), made.text

    def may(user: str, password: str) -> tuple[bool, bool]:
        """Whether they can look at DAGs, and make a pool, which a viewer may not."""
        answer = stack.ask_airflow_for_a_token(user, password)
        if answer.status_code == 401:
            return False, False
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        dags = requests.get(stack.url("airflow", "/api/v2/dags"), headers=headers, timeout=TIMEOUT)
        pool = {"name": f"of_{user}", "slots": 1}
        pools = stack.url("airflow", "/api/v2/pools")
        status = requests.post(pools, json=pool, headers=headers, timeout=TIMEOUT).status_code
        assert status in (201, 403)
        airflow.delete(f"{pools}/{pool['name']}", timeout=TIMEOUT)
        return dags.status_code == 200, status == 201

    def soon(user: str, password: str, expected: tuple[bool, bool]) -> None:
        """Airflow remembers for half a minute what somebody may do."""
        eventually(lambda: may(user, password) == expected, seconds=60)

    generated = stack.secret("airflow_user_anna_password")
    assert may("anna", generated) == (True, False)
    assert may("desk-op", OP_PASSWORD) == (True, True)
    assert may("by_hand", "made-by-hand") == (True, False)
    for name in ("apiserver", "worker", "dag-processor", "triggerer", "scheduler", "init"):
        container = f"{stack.name}-airflow-{name}"
        shown = command("docker", "inspect", container) + command("docker", "logs", container)
        assert generated not in shown and "op's pass" not in shown
    try:
        said = run_role(f"--extra-vars={{airflow_users: {USERS}}}", "-vvv")
        assert generated not in said
        soon("anna", generated, (True, True))
        assert may("desk-op", OP_PASSWORD) == (False, False)
        assert may("by_hand", "made-by-hand") == (True, False)
    finally:
        said = run_role("-vvv")
        assert "op's pass" not in said
    soon("anna", generated, (True, False))
    soon("desk-op", OP_PASSWORD, (True, True))
    # What a person has changed of a declared one does not last, and what is as declared costs nothing.
    for path in ("users/desk-op", "users/by_hand"):
        address = stack.url("airflow", f"/auth/fab/v1/{path}")
        role = {"roles": [{"name": "Viewer"}]} if path.endswith("op") else {"roles": [{"name": "Op"}]}
        changed = airflow.patch(address, params={"update_mask": "roles"}, json=role, timeout=TIMEOUT)
        assert changed.status_code == 200, changed.text
    pool = stack.url("airflow", "/api/v2/pools/night")
    # Airflow 3.3 asks for include_deferred whatever the mask.
    patch = {"pool": "night", "slots": 9, "include_deferred": False}
    changed = airflow.patch(pool, params={"update_mask": "slots"}, json=patch, timeout=TIMEOUT)
    assert changed.status_code == 200, changed.text
    soon("desk-op", OP_PASSWORD, (True, False))
    assert drift(stack, "airflow") == {
        ("account", "desk-op", "role is Viewer, declared Op"),
        ("pool", "night", "slots is 9, declared 4"),
    }
    run_role()
    soon("desk-op", OP_PASSWORD, (True, True))
    soon("by_hand", "made-by-hand", (True, True))
    assert airflow.get(pool, timeout=TIMEOUT).json()["slots"] == 4
    assert "changed=0 " in run_role()


@pytest.fixture(scope="module")
def isolated(stack: Stack, airflow: requests.Session) -> dict[str, Any]:
    """What the tasks of the DAG with environments of their own return, by their names."""
    ended = end_of(stack, airflow, "isolated", trigger(stack, airflow, "isolated"))
    assert ended["state"] == "success"
    tasks = stack.url("airflow", f"/api/v2/dags/isolated/dagRuns/{ended['dag_run_id']}/taskInstances")
    return {
        name: airflow.get(
            f"{tasks}/{name}/xcomEntries/return_value", params={"stringify": "false"}, timeout=TIMEOUT
        ).json()["value"]
        for name in ("compute", "use")
    }


def install_offline(stack: Stack) -> None:
    """Have uv make an environment in the worker's container with what it keeps, without the index."""
    again = "/tmp/again"
    offline = f"uv venv {again} && uv pip install --offline --python {again}/bin/python xxhash==3.6.0"
    shown = f"{again}/bin/python -c 'import xxhash; print(xxhash.VERSION)'; status=$?; rm -rf {again}; exit $status"
    done = stack.execute("airflow-worker", "sh", "-c", f"{offline} && {shown}")
    assert (done.returncode, done.stdout.strip()) == (0, "3.6.0"), done


def test_a_task_with_packages_of_its_own(stack: Stack, isolated: dict[str, Any]) -> None:
    """uv installs them from the index, into an environment without Airflow, and keeps them."""
    assert isolated["compute"] == {"version": "3.6.0", "hash": "8a111ad70c2dec0e", "own": True, "airflow": False}
    kept = stack.execute("airflow-worker", "find", "/opt/environments/cache", "-name", "_xxhash*.so")
    assert kept.stdout.strip(), kept.stderr
    install_offline(stack)
    assert command("docker", "volume", "ls", "--quiet", "--filter", f"name={stack.name}-airflow-worker-environments")


def test_a_task_in_an_environment_that_stays(isolated: dict[str, Any]) -> None:
    """It was made by another task, and is neither the one of Airflow nor a new one."""
    assert isolated["use"] == {"prefix": "/opt/environments/desk", "hash": "8a111ad70c2dec0e", "airflow": False}


def test_one_run_of_a_dag(stack: Stack, airflow: requests.Session, tmp_path: Path) -> None:
    """A DAG that is not deployed runs with what the worker has, and leaves no trace in Airflow."""
    dags = tmp_path / "dags"
    shutil.copytree(REPOSITORY / "molecule" / "airflow" / "dags", dags)
    (dags / "fresh.py").write_text(FRESH)
    options = (f"--extra-vars=airflow_dags_dir={dags}",)
    config = command("ls", "-lR", "--time-style=full-iso", stack.config_dir)

    def test_dag(dag: str, *more: str, status: int = 0) -> str:
        return run_role(*options, f"--extra-vars=dag_test_id={dag}", *more, status=status, playbook="dag_test")

    said = test_dag("fresh", "--extra-vars=dag_test_date=2026-11-02", "--extra-vars={dag_test_conf: {cash: 5}}")
    assert "conf {'cash': 5} on 2026-11-02 in plain" in said
    assert "pool of desk.example.com with ['AAPL', 'BRK B'] and ***" in said
    assert "hash 8a111ad70c2dec0e" in said and "✔ The DAG fresh ran: compute success, say success" in said
    assert "a-secret-of-the-probe" not in said

    said = test_dag("fresh", "--extra-vars={dag_test_conf: {fail: true}}", status=2)
    assert "The run of the DAG fresh ended as failed." in said and "The task say failed:" in said
    *_, failure = said.partition("The task say failed:")
    # Molecule has Ansible write in colour.
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in failure.splitlines()]
    assert "RuntimeError: no desk" in lines and 'File "/opt/dags/fresh.py", line 13, in say' in lines
    said = test_dag("frehs", status=2)
    assert "There is no DAG frehs; did you mean fresh?" in said

    assert airflow.get(stack.url("airflow", "/api/v2/dags/fresh"), timeout=TIMEOUT).status_code == 404
    assert command("ls", "-lR", "--time-style=full-iso", stack.config_dir) == config
    left = command("docker", "ps", "--all", "--quiet", "--filter", f"name={stack.name}-airflow-dag-test")
    assert not left


def test_only_the_declared_dag(stack: Stack, airflow: requests.Session, run: dict[str, Any]) -> None:
    """No example, and no import error."""
    dags = airflow.get(stack.url("airflow", "/api/v2/dags"), timeout=TIMEOUT).json()["dags"]
    assert sorted(each["dag_id"] for each in dags) == sorted(DAGS)
    assert airflow.get(stack.url("airflow", "/api/v2/importErrors"), timeout=TIMEOUT).json()["import_errors"] == []


def test_logs_and_packages_outlive_the_worker(
    stack: Stack, airflow: requests.Session, run: dict[str, Any], isolated: dict[str, Any]
) -> None:
    """The worker loses its container and the volume of logs; the API reads the log, and tasks find their packages."""
    said = "the probe runs on airflow-worker"
    assert said in eventually(lambda: said in log_of(stack, airflow, run) and log_of(stack, airflow, run), seconds=60)
    before = command("docker", "inspect", "--format", "{{.Id}}", f"{stack.name}-airflow-worker")
    command("docker", "rm", "--force", f"{stack.name}-airflow-worker")
    command("docker", "volume", "rm", f"{stack.name}-airflow-worker-logs")
    run_role()
    assert command("docker", "inspect", "--format", "{{.Id}}", f"{stack.name}-airflow-worker") != before
    assert said in log_of(stack, airflow, run)
    keys = [item["Key"] for item in s3(stack, "airflow-logs").list_objects_v2(Bucket="airflow-logs")["Contents"]]
    assert any(run["dag_run_id"] in key and "task_id=say/" in key for key in keys)
    install_offline(stack)
    python = f"{isolated['use']['prefix']}/bin/python"
    done = stack.execute("airflow-worker", python, "-c", "import xxhash; print(xxhash.xxh64_hexdigest(b'desk'))")
    assert done.stdout.strip() == isolated["use"]["hash"], done


#: Connections and variables of the inventory.
DECLARED = {"declared_connections.json", "declared_variables.json"}
#: Keys of the DAGs' own database and bucket.
DATA = {
    "DATABASE_URL", "DATABASE_URL_PSYCOPG", "DATABASE_URL_PSYCOPG2", "DATABASE_URL_ASYNCPG", "DATABASE_DSN",
    "PGPASSWORD", "S3_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "S3_SECRET_KEY", "AWS_SECRET_ACCESS_KEY",
}  # fmt: skip
#: The secrets of each container. Users' code runs in the DAG processor, the triggerer and the worker.
SECRETS = {
    "airflow-apiserver": {"airflow_db_url", "fernet_key", "jwt_secret", "minio_logs", "session_secret", *DECLARED},
    "airflow-scheduler": {"airflow_db_url", "broker_url", "fernet_key", "jwt_secret", "result_backend"},
    "airflow-dag-processor": {"PROBE_SECRET", "airflow_db_url", "fernet_key", *DATA, *DECLARED},
    "airflow-triggerer": {"PROBE_SECRET", "airflow_db_url", "fernet_key", "minio_logs", *DATA, *DECLARED},
    "airflow-worker": {"PROBE_SECRET", "broker_url", "minio_logs", "result_backend", *DATA},
}


@pytest.mark.parametrize("container", SECRETS)
def test_each_component_holds_its_own_secrets_alone(stack: Stack, container: str) -> None:
    """In files that only it has, and in no environment that the engine passes on to its programs."""
    name = f"{stack.name}-{container}"
    assert set(command("docker", "exec", name, "ls", "/run/secrets").split()) == SECRETS[container]
    environment = command("docker", "exec", name, "cat", "/proc/1/environ")
    assert "AIRFLOW__CORE__EXECUTOR" in environment
    for secret in SECRETS[container]:
        value = command("docker", "exec", name, "cat", f"/run/secrets/{secret}").strip()
        assert value and value not in environment


def test_dags_have_one_environment_wherever_they_run(stack: Stack, airflow: requests.Session) -> None:
    """The DAG processor and the worker see the same, the secret with its value, and no service that is not there."""
    run = end_of(stack, airflow, "surroundings", trigger(stack, airflow, "surroundings"))
    assert run["state"] == "success"
    address = stack.url("airflow", "/api/v2/dags/surroundings")
    described = airflow.get(address, timeout=TIMEOUT).json()["description"]
    assert described == (
        f"plain PROBE_WORD=plain PROBE_SECRET={len('a-secret-of-the-probe')} S3_ENDPOINT_URL=http://minio:9000"
        " AIRFLOW_API_URL=http://airflow-apiserver:8080/api/v2"
    )
    path = f"{address}/dagRuns/{run['dag_run_id']}/taskInstances/look/xcomEntries/return_value"
    assert airflow.get(path, timeout=TIMEOUT).json()["value"] == described
    for container in SECRETS:
        name = f"{stack.name}-{container}"
        assert "a-secret-of-the-probe" not in command("docker", "inspect", name)
        assert "a-secret-of-the-probe" not in stack.log(container)


def test_a_dag_cannot_forge_a_token(stack: Stack, airflow: requests.Session) -> None:
    """The administrator's token that the DAG `forger` made, with all that it found, opens nothing."""
    [forger] = [
        each
        for each in airflow.get(stack.url("airflow", "/api/v2/dags"), timeout=TIMEOUT).json()["dags"]
        if each["dag_id"] == "forger"
    ]
    forged = {"Authorization": f"Bearer {forger['description']}"}
    for path in ("/api/v2/connections", "/api/v2/dags"):
        assert airflow.get(stack.url("airflow", path), timeout=TIMEOUT).status_code == 200
        assert requests.get(stack.url("airflow", path), headers=forged, timeout=TIMEOUT).status_code in (401, 403)


def test_deferred_tasks_connections_and_variables_work(stack: Stack, airflow: requests.Session) -> None:
    """The triggerer resumes a task, and the worker reads what the API server has encrypted."""
    for kind, body in {
        "connections": {"connection_id": "probe_desk", "conn_type": "http", "password": "a-word-of-the-desk"},
        "variables": {"key": "probe_word", "value": "a-word-of-the-probe"},
    }.items():
        answer = airflow.post(stack.url("airflow", f"/api/v2/{kind}"), json=body, timeout=TIMEOUT)
        assert answer.status_code == 201, answer.text
    run = end_of(stack, airflow, "secrets_of_airflow", trigger(stack, airflow, "secrets_of_airflow"))
    assert run["state"] == "success"
    path = f"/api/v2/dags/secrets_of_airflow/dagRuns/{run['dag_run_id']}/taskInstances/read/xcomEntries/return_value"
    value = airflow.get(stack.url("airflow", path), timeout=TIMEOUT).json()["value"]
    assert value == "a-word-of-the-desk a-word-of-the-probe"


def test_pages_keep_other_sites_out(stack: Stack, airflow: requests.Session) -> None:
    """The login, which has scripts in it, a page of the application, and the API."""
    for path in ("/auth/login/", "/dags", "/api/v2/version"):
        headers = airflow.get(stack.url("airflow", path), timeout=TIMEOUT).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "SAMEORIGIN"
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == "'self'"
        assert ("'unsafe-inline'" in policy["script-src"]) == path.startswith("/auth/")


def tasks_of(stack: Stack, airflow: requests.Session, run_id: str) -> list[dict[str, Any]]:
    """Task instances of a run of `backlog`."""
    path = f"/api/v2/dags/backlog/dagRuns/{run_id}/taskInstances"
    return list(airflow.get(stack.url("airflow", path), timeout=TIMEOUT).json()["task_instances"])


def handed_over_again(stack: Stack, airflow: requests.Session, run_id: str) -> int:
    """How often the scheduler did so with the task of a run that it did most often."""
    words = {"dag_id": "backlog", "run_id": run_id, "event": "stuck in queued reschedule", "limit": 100}
    answer = airflow.get(stack.url("airflow", "/api/v2/eventLogs"), params=words, timeout=TIMEOUT).json()
    tasks = [each["map_index"] for each in answer["event_logs"] if each["event"] == words["event"]]
    return max(map(tasks.count, tasks), default=0)


def test_tasks_wait_for_a_worker_and_for_a_slot(stack: Stack, airflow: requests.Session) -> None:
    """The worker is away for longer than Airflow bears, and then has more to do than fits into the timeout."""
    worker = f"{stack.name}-airflow-worker"
    command("docker", "stop", worker)
    try:
        runs = [trigger(stack, airflow, "backlog") for _ in range(2)]
        assert eventually(lambda: handed_over_again(stack, airflow, runs[0]) > 2, seconds=6 * QUEUED_TIMEOUT_S)
    finally:
        command("docker", "start", worker)
    begun = time.monotonic()
    most = 0

    def all_ended() -> bool:
        nonlocal most
        tasks = [task for run_id in runs for task in tasks_of(stack, airflow, run_id)]
        most = max(most, sum(task["state"] in ("queued", "running") for task in tasks))
        return all(task["state"] in ("success", "failed") for task in tasks)

    assert eventually(all_ended, seconds=300)
    assert time.monotonic() - begun > QUEUED_TIMEOUT_S
    assert [end_of(stack, airflow, "backlog", run_id)["state"] for run_id in runs] == ["success", "success"]
    assert most == SLOTS


#: DAGs that are fine, although an older Python, or a check without a database, may not take them: file to content.
UNUSUAL = {
    "byte_order_mark.py": b"\xef\xbb\xbf" + DAG.encode(),
    "latin_1.py": b"import latin_1_names\n" + DAG.encode(),
    "newer_syntax.py": b"type Prices = list[float]\n" + DAG.encode(),
    "top_variable.py": b"from airflow.sdk import Variable\nSYMBOL = Variable.get('probe_symbol')\n" + DAG.encode(),
    "linked_package.py": b"import linked\n" + DAG.encode(),
}


def test_dags_are_judged_as_airflow_will_judge_them(stack: Stack, airflow: requests.Session, tmp_path: Path) -> None:
    """Those of `UNUSUAL` are delivered and known; a broken one is refused, and those that run stay."""
    dags, package = tmp_path / "dags", tmp_path / "elsewhere"
    shutil.copytree(REPOSITORY / "molecule" / "airflow" / "dags", dags)
    for name, content in UNUSUAL.items():
        (dags / name).write_bytes(content)
    package.mkdir()
    (package / "__init__.py").write_text("")
    # Python reads such a module. Airflow cannot keep the text of a DAG in it, which the check says too.
    latin = "# -*- coding: latin-1 -*-\nCITY = 'Zürich'\n".encode("latin-1")
    (dags / "latin_1_names.py").write_bytes(latin)
    (dags / "linked").symlink_to(package)
    (dags / ".#probe.py").symlink_to("someone@host.4711:1700000000")
    variable = {"key": "probe_symbol", "value": "AAPL"}
    assert airflow.post(stack.url("airflow", "/api/v2/variables"), json=variable, timeout=TIMEOUT).status_code == 201
    said = run_role(f"--extra-vars=airflow_dags_dir={dags}")
    assert 'top_variable.py asks for the variable "probe_symbol"' in said
    assert "the check has no database" in said
    expected = {*DAGS, *(name.removesuffix(".py") for name in UNUSUAL)}

    def known() -> bool:
        return expected == {
            each["dag_id"]
            for each in airflow.get(stack.url("airflow", "/api/v2/dags"), timeout=TIMEOUT).json()["dags"]
            if not each["has_import_errors"]
        }

    assert eventually(known, seconds=240)
    assert airflow.get(stack.url("airflow", "/api/v2/importErrors"), timeout=TIMEOUT).json()["import_errors"] == []

    (dags / "in_latin_1.py").write_bytes(latin + DAG.encode())
    said = run_role(f"--extra-vars=airflow_dags_dir={dags}", status=2)
    assert "in_latin_1.py" in said and "Airflow reads the file of a DAG as UTF-8 only" in said
    (dags / "in_latin_1.py").unlink()

    (dags / "broken.py").write_text("import airflow.sdk\n1 / 0  # dag\n")
    said = run_role(f"--extra-vars=airflow_dags_dir={dags}", status=2)
    assert "broken.py" in said and "ZeroDivisionError" in said and "top_variable.py" not in said
    (dags / "broken.py").write_text("import airflow.sdk\ndef broken(:  # dag\n")
    said = run_role(f"--extra-vars=airflow_dags_dir={dags}", status=2)
    assert f"airflow_dags_dir ({dags}) holds files that do not compile: broken.py, line 2: invalid syntax" in said
    there = command("ls", f"{stack.config_dir}/dags").split()
    assert "newer_syntax.py" in there and "broken.py" not in there


#: A DAG that is never deployed.
FRESH = """
import os
from airflow.sdk import BaseHook, Variable, dag, task

@dag(schedule=None, default_args={"retries": 5})
def fresh():
    @task(pool="ibkr")
    def say(ds=None, dag_run=None):
        print("conf", dag_run.conf, "on", ds, "in", os.environ["PROBE_WORD"])
        symbols = Variable.get("desk_symbols", deserialize_json=True)
        print("pool of", BaseHook.get_connection("desk").host, "with", symbols, "and", os.environ["PROBE_SECRET"])
        if (dag_run.conf or {}).get("fail"):
            raise RuntimeError("no desk")

    @task.virtualenv(requirements=["xxhash==3.6.0"])
    def compute():
        import xxhash
        print("hash", xxhash.xxh64_hexdigest(b"desk"))

    say()
    compute()

fresh()
"""
#: A DAG of Airflow 2.
OLD = b"""from airflow import DAG
from airflow.utils.dates import days_ago

with DAG("old", schedule_interval=None, start_date=days_ago(1)):
    pass
"""


def test_broken_dags_are_left_out_where_that_is_asked_for(stack: Stack, tmp_path: Path) -> None:
    """They are named, all others are deployed, another run changes nothing, and `warn` deploys them as they are."""
    dags = tmp_path / "dags"
    shutil.copytree(REPOSITORY / "molecule" / "airflow" / "dags", dags)
    for name, content in {
        "old.py": OLD,
        "no_python.py": b"def broken(:  # airflow dag\n",
        "new.py": DAG.encode(),
    }.items():
        (dags / name).write_bytes(content)

    def there() -> set[str]:
        return set(command("ls", f"{stack.config_dir}/dags").split()) & {"old.py", "no_python.py", "new.py"}

    options = (f"--extra-vars=airflow_dags_dir={dags}", "--extra-vars=airflow_dags_check=skip")
    for _ in range(2):
        said = run_role(*options)
        assert "old.py: line 2: ImportError" in said and "no_python.py: line 1: SyntaxError" in said
        assert "days_ago: write a fixed date" in said and "DAG has no argument schedule_interval in Airflow 3" in said
        assert there() == {"new.py"}
    assert "changed=0 " in said
    said = run_role(options[0], "--extra-vars=airflow_dags_check=warn")
    assert "old.py: line 2: ImportError" in said and "deployed all the same" in said
    assert there() == {"new.py", "old.py", "no_python.py"}


def test_the_check_of_dags_alone(stack: Stack, tmp_path: Path) -> None:
    """It lists what is wrong and fails, or says that nothing is, and changes nothing either way."""
    before = command("ls", "-lR", "--time-style=full-iso", stack.config_dir)
    assert "can be imported" in run_role(playbook="dags")
    dags = tmp_path / "dags"
    shutil.copytree(REPOSITORY / "molecule" / "airflow" / "dags", dags)
    (dags / "old.py").write_bytes(OLD)
    (dags / "ends.py").write_text("import os  # airflow dag\nos._exit(3)\n")
    said = run_role(f"--extra-vars=airflow_dags_dir={dags}", status=2, playbook="dags")
    assert "old.py: line 2: ImportError" in said and "ends.py: its process ended with status 3" in said
    assert "probe.py:" not in said and re.search(r"There is nothing to say about .*\bprobe\.py", plain(said))
    assert command("ls", "-lR", "--time-style=full-iso", stack.config_dir) == before


#: Workflows of mixed age, and what the check says of each, as lines.
MIXED = REPOSITORY / "tests" / "fixtures" / "mixed_dags"


def plain(said: str) -> str:
    """What Ansible said, without colours, breaks and indentation."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", said).split())


def test_workflows_of_mixed_age(stack: Stack) -> None:
    """The check lists all that a person has to change, warns of what it cannot tell, and names those that are fine."""
    # As long as the list says, instead of 30 s.
    settings = "--extra-vars={airflow_settings: {AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT: 20}}"
    said = plain(run_role(f"--extra-vars=airflow_dags_dir={MIXED}", settings, status=2, playbook="dags"))
    report = json.loads(MIXED.with_suffix(".json").read_text())
    assert report["broken"] and report["unknown"] and report["fine"]
    warnings, _, errors = said.partition("cannot be imported: ")
    for name, lines in report["broken"].items():
        assert plain(f"{name}: {lines}") in errors and name not in warnings
    for name, lines in report["unknown"].items():
        assert f"{name} {lines.splitlines()[0]}" in warnings and name not in errors
    assert f"There is nothing to say about {', '.join(report['fine'])}." in errors


def test_a_package_whose_dependency_conflicts_replaces_nothing(stack: Stack, tmp_path: Path) -> None:
    """The file alone does not tell: elasticsearch 7 asks for urllib3 1, and Airflow has 2. The build fails by name."""
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("elasticsearch==7.17.9\n")
    build = {"airflow_build": {"requirements": str(requirements), "exclude_newer": "2026-11-20"}}
    before = stack.identity(), stack.traces()
    said = plain(run_role(f"--extra-vars={json.dumps(build)}", status=2))
    assert "The image airflow-packages could not be built." in said and "Running containers were not changed." in said
    assert "elasticsearch==7.17.9 depends on urllib3>=1.21.1,<2" in said
    assert "The packages of airflow_build.requirements do not fit together, or not with those that Airflow" in said
    assert (stack.identity(), stack.traces()) == before


def test_the_dags_own_keys_open_nothing_else(stack: Stack) -> None:
    """Their bucket's key is refused at that of Airflow's logs, and their database's owner at Airflow's database."""
    client = s3(stack, "dags")
    client.put_object(Bucket="dags", Key="probe", Body=b"kept")
    for attempt in (
        lambda: client.list_objects_v2(Bucket="airflow-logs"),
        lambda: client.put_object(Bucket="airflow-logs", Key="intruder", Body=b""),
    ):
        with pytest.raises(botocore.exceptions.ClientError) as error:
            attempt()
        assert error.value.response["Error"]["Code"] == "AccessDenied"
    assert psql(stack, "dags", "dags", "CREATE TABLE probe (x int); DROP TABLE probe")[0] == 0
    status, said = psql(stack, "dags", "airflow", "SELECT 1")
    assert status != 0 and 'permission denied for database "airflow"' in said


#: The token of the repository, and the key with which the example's workflow signs.
TOKEN, SIGNING_KEY = "t0ken-of-the-repository", "signing-key-of-the-desk"
#: A DAG that says its word in its description, which the DAG processor reads, and in a task of the worker.
WORD = """
from airflow.sdk import dag, task
from {package} import OTHER

WORD = "{word}"

@dag("{name}", schedule=None, description=WORD)
def say_word():
    @task
    def say():
        return WORD + " " + OTHER

    say()

say_word()
"""


#: A DAG that reads the DAGs' own database and bucket by what its environment says.
OWN_DATA = """
import os
from airflow.sdk import dag, task
from research_words import OTHER

@dag(schedule=None)
def research_own():
    @task
    def say():
        import boto3
        import psycopg2
        boto3.client("s3").put_object(Bucket=os.environ["S3_BUCKET"], Key="tested", Body=b"")
        with psycopg2.connect(os.environ["DATABASE_DSN"]) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT current_user, current_database()")
            user, database = cursor.fetchone()
        print("as", user, "in", database, OTHER, os.environ["PGPASSWORD"])

    say()

research_own()
"""


class Repository:
    """A git repository with DAGs in a subfolder, and a bare one from which a server on this machine delivers it."""

    def __init__(self, directory: Path) -> None:
        self.work, self.bare = directory / "work", directory / "served" / "desk.git"
        self.bare.parent.mkdir()
        self.git("init", "--quiet", "--bare", str(self.bare), where=directory)
        self.git("init", "--quiet", "--initial-branch=live", str(self.work), where=directory)

    def git(self, *words: str, where: Path | None = None) -> None:
        """Run git."""
        names = ("-c", "user.name=probe", "-c", "user.email=probe@localhost")
        subprocess.run(["git", *names, *words], cwd=where or self.work, check=True, timeout=60)

    def publish(self, files: dict[str, str], branch: str = "live") -> None:
        """Commit files to a branch, which begins at the present state, and let the server deliver them."""
        if branch != "live":
            self.git("checkout", "--quiet", "-B", branch)
        for name, text in files.items():
            (self.work / name).parent.mkdir(parents=True, exist_ok=True)
            (self.work / name).write_text(text)
        self.git("add", ".")
        self.git("commit", "--quiet", "--message=Change")
        self.git("push", "--quiet", str(self.bare), branch)
        self.git("checkout", "--quiet", "live")
        # For a server that delivers files only.
        self.git("update-server-info", where=self.bare)


class Guarded(http.server.SimpleHTTPRequestHandler):
    """Delivers files to who has the token."""

    refused = 0

    def do_GET(self) -> None:
        """Answer, or ask for a login."""
        login = base64.b64encode(f"git:{TOKEN}".encode()).decode()
        if self.headers.get("Authorization") == f"Basic {login}":
            return super().do_GET()
        type(self).refused += 1
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="desk"')
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def log_message(self, *words: object) -> None:
        """Say nothing."""


def this_machine() -> str:
    """Address of this machine as the stack's host reaches it: its gateway."""
    for line in command("cat", "/proc/net/route").splitlines()[1:]:
        _, destination, gateway, *_ = line.split()
        if destination == "00000000":
            return socket.inet_ntoa(struct.pack("<L", int(gateway, 16)))
    raise AssertionError("the host has no gateway")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Repository, str]]:
    """A repository that asks for a token, and its URL."""
    directory = tmp_path_factory.mktemp("git")
    made = Repository(directory)
    made.publish(
        {
            "dags/from_git.py": WORD.format(package="git_words", name="from_git", word="first"),
            "dags/git_words/__init__.py": 'OTHER = "of the repository"\n',
            # The folder of another source.
            "lab/from_lab.py": WORD.format(package="git_words", name="from_lab", word="by SSH"),
            "lab/git_words/__init__.py": 'OTHER = "of the lab"\n',
        }
    )
    certificate = directory / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=git",
         "-keyout", str(certificate), "-out", str(directory / "cert.pem")],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", certificate)
    handler = functools.partial(Guarded, directory=str(made.bare.parent))
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield made, f"https://{this_machine()}:{server.server_port}/desk.git"
    server.shutdown()
    thread.join()


#: Copies the repository into the home of a user who may do no more than fetch it, and starts a server for them.
SSH_SERVER = """
set -eu
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends git openssh-server
systemctl disable --quiet --now ssh.service ssh.socket || true
useradd --create-home --home-dir /srv/lab --password '*' --shell /usr/bin/git-shell lab
cd /srv/lab
GIT_SSL_NO_VERIFY=true git clone --quiet --bare "$URL" dags.git
ssh-keygen -q -t ed25519 -N '' -f deploy
ssh-keygen -q -t ed25519 -N '' -f host
install -o lab -m 0600 deploy.pub authorized
chown -R lab dags.git
mkdir -p /run/sshd
/usr/sbin/sshd -p 2222 -h /srv/lab/host -o PidFile=/run/lab.pid -o AuthorizedKeysFile=/srv/lab/authorized \
    -o PasswordAuthentication=no -o UsePAM=no
"""


@pytest.fixture(scope="module")
def lab(stack: Stack, repository: tuple[Repository, str]) -> Iterator[dict[str, str]]:
    """The same repository on an SSH server beside the stack, as a source with another folder."""
    url = repository[1].replace("https://", f"https://git:{TOKEN}@")
    command("env", f"URL={url}", "sh", "-c", SSH_SERVER, timeout=600)
    key, host = (command("cat", f"/srv/lab/{name}") for name in ("deploy", "host.pub"))
    yield {
        "name": "lab", "git": f"ssh://lab@{stack.address}:2222/srv/lab/dags.git", "ref": "live", "subfolder": "lab",
        "key": key, "known_hosts": f"[{stack.address}]:2222 {host}",
    }  # fmt: skip
    command("sh", "-c", "kill $(cat /run/lab.pid)")


@pytest.fixture(scope="module")
def research(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second directory of DAGs, with a package that two of its files share."""
    directory = tmp_path_factory.mktemp("research")
    for name in ("research_one", "research_two"):
        (directory / f"{name}.py").write_text(WORD.format(package="research_words", name=name, word=name))
    (directory / "research_words").mkdir()
    (directory / "research_words" / "__init__.py").write_text('OTHER = "of the directory"\n')
    return directory


@pytest.fixture(scope="module")
def own_dags(
    repository: tuple[Repository, str], lab: dict[str, str], research: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The DAGs of `examples/own_dags`, of a second directory and of repositories; yields the option that says so."""
    example = REPOSITORY / "examples" / "own_dags"
    text = (example / "inventory" / "group_vars" / "airflow.yml").read_text()
    values = yaml.safe_load(text.replace("{{ inventory_dir }}", str(example / "inventory")))
    values |= {
        "vault_desk_signing_key": SIGNING_KEY,
        "airflow_dag_sources": [
            {"name": "research", "path": str(research)},
            {"name": "desk", "git": repository[1], "ref": "live", "subfolder": "dags", "token": TOKEN},
            lab,
        ],
        # The server's certificate is its own.
        "airflow_environment": {"GIT_SSL_NO_VERIFY": "true"},
    }
    file = tmp_path_factory.mktemp("vars") / "own_dags.yml"
    file.write_text(yaml.safe_dump(values))
    run_role(f"--extra-vars=@{file}")
    yield f"--extra-vars=@{file}"
    # What follows expects the scenario's own settings.
    run_role()


def returned(stack: Stack, airflow: requests.Session, dag: str, task: str) -> Any:
    """Run a DAG and tell what a task of it returned."""
    ended = end_of(stack, airflow, dag, trigger(stack, airflow, dag))
    assert ended["state"] == "success", ended
    path = f"/api/v2/dags/{dag}/dagRuns/{ended['dag_run_id']}/taskInstances/{task}/xcomEntries/return_value"
    answer = airflow.get(stack.url("airflow", path), params={"stringify": "false"}, timeout=TIMEOUT)
    return answer.json()["value"]


def test_the_example_of_own_dags(stack: Stack, airflow: requests.Session, own_dags: str) -> None:
    """One workflow fills the DAGs' database, the other trains by it with a package of its own and signs a report."""
    train = stack.url("airflow", "/api/v2/dags/train_direction")
    assert eventually(lambda: airflow.get(train, timeout=TIMEOUT).status_code == 200, seconds=240)
    airflow.patch(train, json={"is_paused": False}, timeout=TIMEOUT)
    assert returned(stack, airflow, "import_prices", "store") == 300
    assert psql(stack, "dags", "dags", "SELECT count(*) FROM prices WHERE symbol = 'DEMO'") == (0, "300")

    def ended() -> dict[str, Any] | None:
        runs = airflow.get(f"{train}/dagRuns", timeout=TIMEOUT).json()["dag_runs"]
        return next((each for each in runs if each["state"] in ("success", "failed")), None)

    run = eventually(ended, seconds=240)
    assert run["state"] == "success", run
    report = s3(stack, "dags").get_object(Bucket="dags", Key=f"reports/{run['dag_run_id']}.json")
    content = report["Body"].read()
    assert json.loads(content)["rows"] == 300
    assert report["Metadata"]["signature"] == hmac.new(SIGNING_KEY.encode(), content, hashlib.sha256).hexdigest()
    pools = airflow.get(stack.url("airflow", "/api/v2/pools"), timeout=TIMEOUT).json()["pools"]
    assert ("desk_database", 1) in [(each["name"], each["slots"]) for each in pools]


def identity(stack: Stack) -> list[str]:
    """Ids and starts of Airflow's containers."""
    names = [f"{stack.name}-{name}" for name in SECRETS]
    return command("docker", "inspect", "--format", "{{.Id}} {{.State.StartedAt}}", *names).splitlines()


def test_dags_from_several_places(
    stack: Stack, airflow: requests.Session, own_dags: str, repository: tuple[Repository, str], research: Path
) -> None:
    """A second directory and a repository; what changes there arrives in containers that run on."""
    assert returned(stack, airflow, "research_one", "say") == "research_one of the directory"
    assert returned(stack, airflow, "research_two", "say") == "research_two of the directory"
    assert returned(stack, airflow, "from_git", "say") == "first of the repository"
    before = identity(stack)

    def says(dag: str, word: str) -> bool:
        answer = airflow.get(stack.url("airflow", f"/api/v2/dags/{dag}"), timeout=TIMEOUT)
        return answer.status_code == 200 and answer.json()["description"] == word

    repository[0].publish({"dags/from_git.py": WORD.format(package="git_words", name="from_git", word="second")})
    (research / "research_three.py").write_text(
        WORD.format(package="research_words", name="research_three", word="third")
    )
    run_role(own_dags)
    assert eventually(lambda: says("from_git", "second"), seconds=300)
    assert returned(stack, airflow, "from_git", "say") == "second of the repository"
    assert returned(stack, airflow, "research_three", "say") == "third of the directory"
    assert identity(stack) == before

    # Who has no token gets nothing, and the token is nowhere but in files that programs read.
    assert requests.get(repository[1] + "/info/refs", verify=False, timeout=TIMEOUT).status_code == 401
    for name in SECRETS:
        container = f"{stack.name}-{name}"
        assert TOKEN not in command("docker", "inspect", container) + stack.log(name)
        assert TOKEN not in command("docker", "exec", container, "sh", "-c", "cat /proc/1/cmdline /proc/1/environ")
    holders = command("grep", "--files-with-matches", "--recursive", TOKEN, str(stack.config_dir))
    assert {Path(path).parents[1].name for path in holders.split()} == {
        "airflow-apiserver", "airflow-dag-processor", "airflow-triggerer",
    }  # fmt: skip
    for name in ("airflow-dag-processor", "airflow-worker"):
        found = stack.execute(name, "grep", "--recursive", "--quiet", TOKEN, "/opt/airflow/bundles")
        assert found.returncode == 1, found
        assert stack.execute(name, "test", "-d", "/opt/airflow/bundles/desk/bare").returncode == 0


def test_a_repository_by_ssh(stack: Stack, airflow: requests.Session, own_dags: str, lab: dict[str, str]) -> None:
    """Its key is where tokens are and nowhere else, and a server with another key than declared gets nothing."""
    assert returned(stack, airflow, "from_lab", "say") == "by SSH of the lab"
    line = lab["key"].splitlines()[2]
    for name in SECRETS:
        assert line not in command("docker", "inspect", f"{stack.name}-{name}") + stack.log(name)
    found = ("grep", "--files-with-matches", "--recursive", "--fixed-strings", line, str(stack.config_dir))
    assert {Path(path).parents[1].name for path in command(*found).split()} == {
        "airflow-apiserver", "airflow-dag-processor", "airflow-triggerer",
    }  # fmt: skip

    another = f"[{stack.address}]:2222 {command('cat', '/srv/lab/deploy.pub')}"
    sources = json.dumps({"airflow_dag_sources": [{**lab, "known_hosts": another}]})
    said = run_role(own_dags, f"--extra-vars={sources}", status=2, playbook="dags")
    assert "The source lab cannot be fetched: " in said and "known_hosts has not the key of this host" in plain(said)
    assert line not in said


def test_one_run_of_a_dag_of_each_source(
    stack: Stack, airflow: requests.Session, own_dags: str, repository: tuple[Repository, str], research: Path
) -> None:
    """As the inventory and the repository are now, with the DAGs' own database; the worker's clone stays as it is."""
    assert psql(stack, "dags", "dags", "DROP TABLE IF EXISTS prices")[0] == 0
    said = run_role(own_dags, "--extra-vars=dag_test_id=import_prices", playbook="dag_test")
    assert "✔ The DAG import_prices ran: store success" in said
    assert psql(stack, "dags", "dags", "SELECT count(*) FROM prices WHERE symbol = 'DEMO'") == (0, "300")

    (research / "research_own.py").write_text(OWN_DATA)
    said = run_role(own_dags, "--extra-vars=dag_test_id=research_own", playbook="dag_test")
    assert "as dags in dags of the directory ***" in said
    assert s3(stack, "dags").get_object(Bucket="dags", Key="tested")["Body"].read() == b""
    assert stack.secret("postgres_dags_password") not in said

    bare = "/opt/airflow/bundles/desk/bare"
    cloned = ("sh", "-c", f"cat {bare}/refs/heads/live {bare}/packed-refs")
    before = stack.execute("airflow-worker", *cloned).stdout
    assert before
    repository[0].publish({"dags/from_git.py": WORD.format(package="git_words", name="from_git", word="tested")})
    said = run_role(own_dags, "--extra-vars=dag_test_id=from_git", "-vv", playbook="dag_test")
    assert "Returned value was: tested of the repository" in said and "✔ The DAG from_git ran: say success" in said
    assert TOKEN not in said
    assert stack.execute("airflow-worker", *cloned).stdout == before

    said = run_role(own_dags, "--extra-vars=dag_test_id=from_gti", status=2, playbook="dag_test")
    assert "There is no DAG from_gti; did you mean from_git?" in said and "research_own" in said


def test_broken_dags_of_a_source_are_refused(own_dags: str, research: Path) -> None:
    """By the check alone and before a deployment, with the name of the source."""
    broken = research / "research_broken.py"
    broken.write_text("from airflow.sdk import dag\nfrom research_words import NOTHING\n")
    try:
        said = run_role(own_dags, status=2, playbook="dags")
        assert "research:research_broken.py: line 2: ImportError" in said
        # What is in the repositories is fine.
        _, _, fine = plain(said).partition("There is nothing to say about ")
        assert {"desk:from_git.py", "lab:from_lab.py"} <= set(re.findall(r"[\w:/]+\.py", fine))
        assert "research:research_broken.py" in run_role(own_dags, status=2)
    finally:
        broken.unlink()


def test_a_repository_is_checked_before_it_is_deployed(
    stack: Stack, own_dags: str, repository: tuple[Repository, str]
) -> None:
    """The check alone fetches it as its source says, and changes nothing; without its token it says what is missing."""
    before = command("ls", "-lR", "--time-style=full-iso", stack.config_dir), identity(stack)
    made, url = repository
    made.publish({"dags/git_broken.py": "from airflow.sdk import dag\nfrom git_words import NOTHING\n"}, "next")
    desk = {"name": "desk", "git": url, "ref": "next", "subfolder": "dags", "token": TOKEN}

    def check(**changed: str) -> str:
        sources = json.dumps({"airflow_dag_sources": [{**desk, **changed}]})
        said = run_role(own_dags, f"--extra-vars={sources}", status=2, playbook="dags")
        assert TOKEN not in said
        return plain(said)

    said = check()
    assert "desk:git_broken.py: line 2: ImportError: cannot import name 'NOTHING'" in said
    assert re.search(r"There is nothing to say about .*\bdesk:from_git\.py", said)
    said = check(token="another")
    assert "The source desk cannot be fetched: " in said and "Give the source a token that can read" in said
    assert "There is nothing to say about" in said and "desk:from_git.py" not in said
    assert "correct ref" in check(ref="nxet")
    assert "it has no folder dag at next: correct subfolder or ref." in check(subfolder="dag")
    assert (command("ls", "-lR", "--time-style=full-iso", stack.config_dir), identity(stack)) == before


class Stream:
    """Starts a run of `steady` every few seconds, as far as Airflow answers, and looks at what logins are valid."""

    def __init__(self, stack: Stack, old: dict[str, str]) -> None:
        """Begin."""
        self.stack, self.old, self.runs, self.accepted = stack, old, [], []  # type: ignore[var-annotated]
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=each, daemon=True) for each in (self.start_runs, self.look)]
        for each in self.threads:
            each.start()

    def start_runs(self) -> None:
        """Start runs; a call that is refused while Airflow is away is made again."""
        while not self.ended.wait(4):
            with contextlib.suppress(requests.RequestException, AssertionError):
                address = self.stack.url("airflow", "/api/v2/dags/steady/dagRuns")
                body = {"logical_date": None}
                answer = requests.post(address, json=body, headers=self.stack.airflow_token(), timeout=TIMEOUT)
                if answer.status_code == 200:
                    self.runs.append(answer.json()["dag_run_id"])

    def look(self) -> None:
        """Note which of the old and the new logins to Redis and MinIO are valid."""
        while not self.ended.wait(0.5):
            self.accepted.append(logins(self.stack, self.old))

    def end(self) -> list[str]:
        """Stop, and return the runs that were started."""
        self.ended.set()
        for each in self.threads:
            each.join(60)
        return self.runs


def logins(stack: Stack, old: dict[str, str]) -> dict[str, bool]:
    """Which logins are valid."""
    name, (key, secret) = "redis_airflow_password", ("minio_airflow_logs_access_key", "minio_airflow_logs_secret")
    found = {}
    for age, value in (("old", old.__getitem__), ("new", stack.secret)):
        found[f"redis {age}"] = redis(stack, "PING", user="airflow", password=value(name)) == "PONG"
        try:
            client = s3(stack, "airflow-logs", secret=value(secret), access_key=value(key))
            client.list_objects_v2(Bucket="airflow-logs", MaxKeys=1)
            found[f"minio {age}"] = True
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
            found[f"minio {age}"] = False
    return found


def test_every_secret_is_rotated_under_a_stream_of_tasks(stack: Stack, airflow: requests.Session) -> None:
    """No task fails, what was encrypted is read, the old values are refused, and for a time both were valid."""
    # The DAGs of the tests above are still deployed, without the one that the stream runs.
    run_role()
    places = stack.secrets_dir
    old = {path.name: path.read_text().strip() for path in places.iterdir()}
    connection = {"connection_id": "kept", "conn_type": "http", "host": "example", "password": "correct-horse"}
    made = airflow.post(stack.url("airflow", "/api/v2/connections"), json=connection, timeout=TIMEOUT)
    assert made.status_code == 201, made.text
    end_of(stack, airflow, "steady", trigger(stack, airflow, "steady"))
    rotation = ("-e", "rotate_secrets=all", "-e", f"rotate_confirm={stack.name}")
    stream = Stream(stack, old)
    try:
        eventually(lambda: len(stream.runs) > 3, seconds=120)
        said = run_role(*rotation, "-e", "rotate_wait=1", playbook="rotate_secrets", status=2)
        # A task that runs, or a worker whose task has just ended.
        assert re.search(r"had not (finished|stopped) after 1 s\.", said)
        assert {path.name: path.read_text().strip() for path in places.iterdir()} == old
        said = run_role(*rotation, playbook="rotate_secrets")
        before = len(stream.runs)
        eventually(lambda: len(stream.runs) > before + 3, seconds=120)
    finally:
        runs = stream.end()
    airflow.headers.update(stack.airflow_token())
    assert "To be rotated: " in said and f"Recreated on {HOST}: " in said
    assert {end_of(stack, airflow, "steady", run_id)["state"] for run_id in runs} == {"success"}
    failed = airflow.get(
        stack.url("airflow", "/api/v2/dags/steady/dagRuns"), params={"state": "failed"}, timeout=TIMEOUT
    )
    assert failed.json()["total_entries"] == 0
    new = {path.name: path.read_text().strip() for path in places.iterdir()}
    assert new.keys() == old.keys() and not set(new.values()) & set(old.values())
    assert logins(stack, old) == {"redis old": False, "minio old": False, "redis new": True, "minio new": True}
    for service in ("redis", "minio"):
        assert any(found[f"{service} old"] and found[f"{service} new"] for found in stream.accepted), stream.accepted
    assert stack.ask_airflow_for_a_token("admin", old["airflow_admin_password"]).status_code == 401
    program = "from airflow.models import Connection; from airflow.utils.session import create_session\n"
    program += "with create_session() as s: print(s.query(Connection).filter_by(conn_id='kept').one().password)"
    done = stack.execute("airflow-scheduler", "python", "-c", program)
    assert done.stdout.strip().endswith("correct-horse"), done.stderr
    log = command("cat", str(stack.config_dir / "rotations.log"))
    assert json.loads(log.splitlines()[-1])["secrets"] and not any(value in log for value in old.values())
    assert "The oldest secret is " in run_role(playbook="status")
    assert "nothing to change" in run_role(playbook="site")
