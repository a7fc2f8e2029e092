"""Gateway, backend, Celery, Flower, MLflow and Airflow answer, to those that they should."""

from __future__ import annotations

import datetime
import re
import socket
import ssl
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import yaml
from stack_under_test import HOST, REPOSITORY, WORKER, Stack, eventually, play
from test_data_services import psql, s3

TIMEOUT = 30


@pytest.fixture(scope="module")
def gateway_certificate(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate that was generated for the gateway."""
    pem = stack.secret("ibkr_gateway_tls")
    path = tmp_path_factory.mktemp("gateway") / "gateway.crt"
    path.write_text(pem[pem.index("-----BEGIN CERTIFICATE-----") :] + "\n")
    return path


def test_gateway_speaks_verified_tls(stack: Stack, gateway_certificate: Path) -> None:
    """Its certificate is the generated one and passes Python 3.13's strict rules; without it nobody is trusted."""
    address = (stack.address, stack.port("ibkr_gateway"))
    trusting = ssl.create_default_context(cafile=gateway_certificate)
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    with (
        socket.create_connection(address, timeout=TIMEOUT) as plain,
        trusting.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert secure.version() in ("TLSv1.2", "TLSv1.3")
    with socket.create_connection(address, timeout=TIMEOUT) as plain, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")


def test_gateway_says_that_it_is_simulated(stack: Stack, gateway_certificate: Path) -> None:
    """On its page, and in the API."""
    base = stack.url("ibkr_gateway", scheme="https")
    page = requests.get(f"{base}/", verify=str(gateway_certificate), timeout=TIMEOUT)
    assert page.status_code == 200 and "SIMULATED" in page.text
    status = requests.get(f"{base}/v1/api/iserver/auth/status", verify=str(gateway_certificate), timeout=TIMEOUT)
    assert status.status_code == 200 and "SIMULATED" in status.text


def token(stack: Stack) -> dict[str, str]:
    """The header that the backend's API asks for."""
    return {"Authorization": f"Bearer {stack.secret('backend_api_token')}"}


def backend(stack: Stack, path: str) -> Any:
    """Ask the backend's API."""
    answer = requests.get(stack.url("backend", path), headers=token(stack), timeout=TIMEOUT)
    answer.raise_for_status()
    return answer.json()


def test_backend_is_ready(stack: Stack) -> None:
    """Each dependency answers, by name; and /health asks none of them."""
    assert backend(stack, "/health")["status"] == "ok"
    report = backend(stack, "/ready")
    assert report["ready"] is True
    states = {name: found["state"] for name, found in report["dependencies"].items()}
    assert states == dict.fromkeys(("postgres", "redis", "minio", "gateway", "mlflow", "airflow"), "ok")
    gateway = report["dependencies"]["gateway"]
    assert (gateway["up"], gateway["ibkr_reachable"], gateway["logged_in"], gateway["simulated"]) == (True,) * 4


def test_beat_brings_the_bars(stack: Stack) -> None:
    """Nobody asked: beat sent the refresh, the worker fetched, PostgreSQL keeps, and the API tells the source."""

    def refreshed() -> dict[str, Any] | None:
        [symbol] = [each for each in backend(stack, "/api/v1/symbols") if each["symbol"] == "AAPL"]
        return symbol if symbol["count"] else None

    symbol = eventually(refreshed, seconds=180)
    assert symbol["last_error"] is None
    found = backend(stack, "/api/v1/bars/AAPL?start=2005-01-01&end=2005-12-31")
    assert (found["source"], found["simulated"], found["adjusted"]) == ("simulated", True, True)
    # The days on which US exchanges traded in 2005.
    assert len(found["bars"]) == 252
    first = found["bars"][0]
    query = f"SELECT close FROM bars WHERE symbol = 'AAPL' AND source = 'simulated' AND date = '{first['date']}'"
    status, kept = psql(stack, "backend", "backend", query)
    assert status == 0 and float(kept) == pytest.approx(first["close"])
    assert first["date"] == "2005-01-03"
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(symbol["last_refresh"])
    assert age < datetime.timedelta(hours=2)


def test_a_chart_is_drawn_to_the_bucket(stack: Stack) -> None:
    """By the worker, which nobody asked; the API hands out what stands in the bucket, to those with the token."""
    address = stack.url("backend", "/api/v1/charts/AAPL")
    assert requests.get(address, timeout=TIMEOUT).status_code == 401

    def chart() -> requests.Response | None:
        answer = requests.get(address, headers=token(stack), timeout=TIMEOUT)
        return answer if answer.status_code == 200 else None

    drawn = eventually(chart, seconds=180)
    assert drawn.headers["content-type"] == "image/svg+xml"
    assert drawn.text.startswith("<svg ") and "AAPL (SIMULATED)" in drawn.text

    def agrees() -> bool:
        # A new signal draws it again in between.
        stored = s3(stack, "trading-charts").get_object(Bucket="trading-charts", Key="daily/AAPL.svg")
        kept = (stored["ContentType"], stored["Body"].read())
        return kept == ("image/svg+xml", requests.get(address, headers=token(stack), timeout=TIMEOUT).content)

    assert eventually(agrees, seconds=20)


@pytest.mark.skipif(bool(HOST), reason="the inventory is that of this machine")
def test_lines_of_logs_without_a_monitoring(stack: Stack) -> None:
    """Those that the engine has kept, of the containers of one service."""
    told = play("playbooks/logs.yml", "--extra-vars", '{"logs_service": "postgres", "logs_since": "7d"}')
    assert re.search(r"\d  postgres  .*database system is ready to accept connections", told)
    assert not re.search(r"\d  redis  ", told)


@pytest.mark.skipif(bool(HOST), reason="the inventory is that of this machine")
def test_status_shows_every_container_and_the_gateways_states(
    stack: Stack, containers: dict[str, dict[str, Any]]
) -> None:
    """Each is healthy, and the gateway is up, reaches IBKR, and somebody is logged in, at a paper account."""
    told = play("playbooks/status.yml")
    for name, container in containers.items():
        if container["Config"].get("Healthcheck"):
            assert re.search(rf"\b{stack.name}-{name} .*\bhealthy\b", told), name
    assert "Gateway up, IBKR reachable, login yes, account paper (SIMULATED): " in told
    # What is used of what is bounded: an owner of a database cannot take the connections of the others.
    for owner in ("airflow", "backend", "dags", "mlflow"):
        line = re.search(rf"\b{stack.name}-postgres uses (\d+) of (\d+) connections of {owner}\b", told)
        assert line and int(line[1]) <= int(line[2]) < 100, owner
    assert re.search(rf"\b{stack.name}-redis uses \d+ of 128 MiB of memory\b", told)
    # Where a client on a laptop finds MLflow, for example.
    assert re.search(rf"(?m)^\s*MLflow +http://\S+:{urlsplit(stack.url('mlflow', '/')).port}/$", told)


def test_an_unknown_symbol_is_told(stack: Stack) -> None:
    """With the variable that adds it."""
    answer = requests.get(stack.url("backend", "/api/v1/bars/NVDA"), headers=token(stack), timeout=TIMEOUT)
    assert answer.status_code == 404 and "BARS_SYMBOLS" in answer.json()["detail"]


def test_celery_end_to_end(stack: Stack) -> None:
    """A task goes through the broker to the worker, its result comes back, and the metrics count it."""

    def counted() -> float:
        text = requests.get(stack.url("backend", "/metrics"), timeout=TIMEOUT).text
        found = re.search(r'^celery_tasks_total\{state="SUCCESS",task="ping"\} (\S+)$', text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    before = counted()
    program = "from ibkr_backend.tasks import ping; print(ping.delay().get(timeout=60))"
    done = stack.execute("celery-worker", "python3", "-c", program)
    assert (done.returncode, done.stdout.strip()) == (0, "pong"), done.stderr
    assert eventually(lambda: counted() - before, seconds=20) == 1


def test_declared_metrics_answer(stack: Stack) -> None:
    """Prometheus reads those of each contract on the stack's network, where that says so with a login only."""
    sample = re.compile(r'[a-zA-Z_:][\w:]*(\{(\w+="([^"\\]|\\.)*",?)*\})? (NaN|[+-]?(Inf|[\d.]+(e[+-]?\d+)?))( -?\d+)?')
    program = (
        "import sys, urllib.request as web; answer = web.urlopen(sys.argv[1], timeout=30);"
        " print(answer.headers['Content-Type'], answer.read().decode(), sep='\\n', end='')"
    )
    running, asked = stack.containers(), []
    for path in sorted(REPOSITORY.glob("roles/*/meta/service.yml")):
        contract = yaml.safe_load(path.read_text(encoding="utf-8"))
        for container, entry in contract.get("metrics", {}).items():
            if container not in running:
                continue
            port = entry["port"] if isinstance(entry["port"], int) else contract["ports"][entry["port"]]["container"]
            address = f"http://{container}:{port}{entry.get('path', '/metrics')}"
            done = stack.execute("celery-worker", "python3", "-c", program, address)
            if entry.keys() & {"secret", "token"}:
                assert re.search("HTTP Error 40[13]", done.stderr), f"{address}: {done}"
                continue
            assert done.returncode == 0, f"{address}: {done.stderr}"
            kind, *lines = done.stdout.splitlines()
            assert kind.startswith("text/plain"), f"{address}: {kind}"
            wrong = [line for line in lines if line and not line.startswith("#") and not sample.fullmatch(line)]
            assert lines and not wrong, f"{address}: {wrong}"
            asked.append(container)
    assert "backend" in asked


def test_flower_asks_for_a_password(stack: Stack) -> None:
    """Nothing without it, nothing with a wrong one; with it, the worker."""
    address = stack.url("flower", "/api/workers")
    assert requests.get(address, timeout=TIMEOUT).status_code == 401
    assert requests.get(stack.url("flower"), timeout=TIMEOUT).status_code == 401
    assert requests.get(address, auth=("flower", "wrong"), timeout=TIMEOUT).status_code == 401
    credentials = ("flower", stack.secret("flower_password"))
    metrics = stack.url("flower", "/metrics")
    assert requests.get(metrics, timeout=TIMEOUT).status_code == 401
    assert requests.get(metrics, auth=credentials, timeout=TIMEOUT).status_code == 200
    page = requests.get(stack.url("flower"), auth=credentials, timeout=TIMEOUT)
    assert page.status_code == 200 and WORKER in page.text


def test_flower_watches_and_cannot_send(stack: Stack) -> None:
    """With its own user in Redis it asks the worker and sees a task; one that it is told to send is refused."""
    credentials = ("flower", stack.secret("flower_password"))

    def ask(path: str) -> Any:
        return requests.get(stack.url("flower", path), auth=credentials, timeout=TIMEOUT).json()

    def asked() -> bool:
        return [queue["name"] for queue in ask("/api/workers?refresh=1")[WORKER]["active_queues"]] == ["backend"]

    assert eventually(asked, seconds=60)
    program = "from ibkr_backend.tasks import ping; task = ping.delay(); print(task.id, task.get(timeout=60))"
    done = stack.execute("celery-worker", "python3", "-c", program)
    task, answer = done.stdout.split()
    assert answer == "pong", done.stderr
    assert eventually(lambda: ask(f"/api/task/info/{task}")["state"] == "SUCCESS", seconds=30)
    address = stack.url("flower", "/api/task/async-apply/ibkr_backend.tasks.ping")
    assert requests.post(address, json={"args": []}, auth=credentials, timeout=TIMEOUT).status_code >= 500
    program = "from ibkr_backend.celery_app import app; print(list(app.control.inspect(timeout=10).ping()))"
    done = stack.execute("backend", "python3", "-c", program)
    assert done.stdout.split() == [f"['{WORKER}']"], done.stderr


class MLflow:
    """MLflow's REST API, without any S3 key."""

    def __init__(self, stack: Stack) -> None:
        """Use the published port."""
        self.base = stack.url("mlflow", "/api/2.0")

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Call an operation."""
        answer = requests.post(f"{self.base}/mlflow/{path}", json=body, timeout=TIMEOUT)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, path: str, **parameters: str) -> dict[str, Any]:
        """Ask."""
        answer = requests.get(f"{self.base}/mlflow/{path}", params=parameters, timeout=TIMEOUT)
        assert answer.status_code == 200, answer.text
        return answer.json()


def test_mlflow_proxies_artifacts(stack: Stack) -> None:
    """A client with no S3 key logs a run and a file, which then is an object in MLflow's bucket."""
    mlflow = MLflow(stack)
    experiment = mlflow.post("experiments/create", name=f"probe {uuid.uuid4()}")["experiment_id"]
    try:
        run = mlflow.post("runs/create", experiment_id=experiment)["run"]["info"]
        assert run["artifact_uri"].startswith("mlflow-artifacts:/")
        mlflow.post("runs/log-metric", run_id=run["run_id"], key="score", value=0.5, timestamp=0)
        path = run["artifact_uri"].removeprefix("mlflow-artifacts:/").lstrip("/") + "/note.txt"
        address = f"{mlflow.base}/mlflow-artifacts/artifacts/{path}"
        assert requests.put(address, data=b"kept", timeout=TIMEOUT).status_code == 200
        assert requests.get(address, timeout=TIMEOUT).content == b"kept"
        found = mlflow.get("runs/get", run_id=run["run_id"])["run"]["data"]["metrics"]
        assert [(each["key"], each["value"]) for each in found] == [("score", 0.5)]
        stored = s3(stack, "mlflow").get_object(Bucket="mlflow", Key=f"artifacts/{path}")
        assert stored["Body"].read() == b"kept"
    finally:
        mlflow.post("experiments/delete", experiment_id=experiment)


def test_mlflow_sends_nobody_to_minio(stack: Stack) -> None:
    """Its server names MinIO as containers do: a client elsewhere would wait for an address that it cannot reach."""
    mlflow = MLflow(stack)
    known = requests.get(stack.url("mlflow", "/api/3.0/mlflow/server-info"), timeout=TIMEOUT).json()
    assert (known["multipart_downloads_enabled"], known["multipart_uploads_enabled"]) == (False, False)
    answer = requests.get(f"{mlflow.base}/mlflow-artifacts/presigned/1/note.txt", timeout=TIMEOUT)
    assert answer.status_code == 501 and "minio:9000" not in answer.text


def test_mlflow_refuses_other_names(stack: Stack) -> None:
    """A page of another site, opened in a browser here, cannot reach it by rebinding its name."""
    answer = requests.get(stack.url("mlflow", "/"), headers={"Host": "evil.example"}, timeout=TIMEOUT)
    assert answer.status_code == 403


def test_mlflow_takes_writes_from_its_own_page_only(stack: Stack) -> None:
    """Under the name that the browser has for it; not from the page of another site or another service."""

    def search(origin: str) -> int:
        body = {"max_results": 1}
        address = stack.url("mlflow", "/ajax-api/2.0/mlflow/experiments/search")
        return requests.post(address, json=body, headers={"Origin": origin}, timeout=TIMEOUT).status_code

    assert search(stack.url("mlflow")) == 200
    assert search("http://evil.example") == 403
    if stack.address != "127.0.0.1":  # from this machine itself MLflow allows every page
        assert search(stack.url("backend")) == 403


def test_airflow_is_healthy(stack: Stack) -> None:
    """Database, scheduler, DAG processor and triggerer; a heartbeat may be late while a browser holds both cores."""
    expected = dict.fromkeys(("metadatabase", "scheduler", "triggerer", "dag_processor"), "healthy")

    def all_healthy() -> bool:
        health = requests.get(stack.url("airflow", "/api/v2/monitor/health"), timeout=TIMEOUT).json()
        return {name: part["status"] for name, part in health.items()} == expected

    assert eventually(all_healthy, seconds=60)


def test_airflow_lets_in_its_administrator_only(stack: Stack, airflow: requests.Session) -> None:
    """With the generated password; not with another, and nobody without a token."""
    assert stack.ask_airflow_for_a_token("admin", "admin").status_code == 401
    assert requests.get(stack.url("airflow", "/api/v2/dags"), timeout=TIMEOUT).status_code == 401
    assert airflow.get(stack.url("airflow", "/api/v2/dags"), timeout=TIMEOUT).status_code == 200


def log_in_to_airflow(stack: Stack, password: str) -> bool:
    """Whether the login form of the UI, in a browser of its own, gives out a session."""
    browser, address = requests.Session(), stack.url("airflow", "/auth/login/")
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', browser.get(address, timeout=TIMEOUT).text)
    assert token, "the form has no token"
    form = {"username": "admin", "password": password, "csrf_token": token[1]}
    answer = browser.post(address, data=form, allow_redirects=False, timeout=TIMEOUT)
    assert answer.status_code == 302, (answer.status_code, answer.text[:500])
    return "_token" in browser.cookies


def test_wrong_passwords_of_others_lock_nobody_out_of_airflow(stack: Stack) -> None:
    """More than Airflow takes from one address in a minute by default, and then the right one."""
    assert not any([log_in_to_airflow(stack, f"wrong {number}") for number in range(8)])
    assert log_in_to_airflow(stack, stack.secret("airflow_admin_password"))


def test_the_backend_is_no_administrator_of_airflow(stack: Stack) -> None:
    """Its account sees DAGs and their runs, and no connection, variable or user."""
    headers = stack.airflow_token("backend")

    def status(path: str) -> int:
        return requests.get(stack.url("airflow", path), headers=headers, timeout=TIMEOUT).status_code

    assert status("/api/v2/dags") == 200
    assert {path: status(path) for path in ("/api/v2/connections", "/api/v2/variables", "/auth/fab/v1/users")} == {
        "/api/v2/connections": 403,
        "/api/v2/variables": 403,
        "/auth/fab/v1/users": 403,
    }


def test_airflow_has_the_dags_without_errors(stack: Stack, airflow: requests.Session) -> None:
    """Both are there, none is broken, and nobody else's are."""

    def dags() -> set[str]:
        return {
            each["dag_id"] for each in airflow.get(stack.url("airflow", "/api/v2/dags"), timeout=TIMEOUT).json()["dags"]
        }

    expected = {"daily_strategy_training", "stack_maintenance"}
    assert eventually(lambda: dags() >= expected and dags(), seconds=120) == expected
    errors = airflow.get(stack.url("airflow", "/api/v2/importErrors"), timeout=TIMEOUT).json()
    assert errors["import_errors"] == []
