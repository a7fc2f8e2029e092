"""The API does what its description says: schemathesis, and what the stack has decides what is described."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from conftest import AUTHORISED, PASSWORD
from fake_ibkr import serve
from fastapi.testclient import TestClient
from ibkr_backend import api, brokerage_session
from ibkr_backend.api import create_app
from ibkr_backend.database import Scoring
from ibkr_backend.gateway import Gateway
from ibkr_backend.history import refresh
from ibkr_backend.settings import ApiSettings
from sqlalchemy.orm import Session
from test_backend_refresh import NOW

RUN = {
    "dag_run_id": "manual__1",
    "state": "running",
    "conf": {"symbol": "AAPL"},
    "triggered_by": "rest_api",
    "queued_at": "2026-11-20T22:00:00Z",
    "start_date": None,
    "end_date": None,
}
VERSION = {
    "name": "daily_strategy_AAPL",
    "version": "3",
    "run_id": "r1",
    "creation_timestamp": 1763676000000,
    "tags": [{"key": "symbol", "value": "AAPL"}, {"key": "simulated", "value": "true"}],
}


def research(path: str) -> tuple[int, object]:
    """Answer as MLflow and Airflow do, in the fields that are read."""
    answers: dict[str, tuple[int, Any]] = {
        "/auth/token": (201, {"access_token": "t"}),
        "registered-models/search": (
            200,
            {"registered_models": [{"name": VERSION["name"], "aliases": [{"alias": "champion", "version": "3"}]}]},
        ),
        "model-versions/get": (200, {"model_version": VERSION}),
        "model-versions/search": (200, {"model_versions": [VERSION]}),
        "runs/get": (200, {"run": {"data": {"metrics": [{"key": "oos_days", "value": 500}]}}}),
        "/dagRuns": (200, RUN | {"dag_runs": [RUN]}),
    }
    return next((answer for part, answer in answers.items() if part in path), (200, {}))


@pytest.fixture
def research_url() -> Iterator[str]:
    server = serve(research, dict)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def whole(
    environment: dict[str, str], research_url: str, session: Session, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """The application of a stack with everything, with bars and an account; tasks are sent to memory."""
    from celery import Celery

    refresh(session, gateway, "AAPL", date(2026, 11, 1), NOW)
    brokerage_session.keep_portfolios(session, gateway, NOW)
    # Celery prefers the environment's broker to any.
    monkeypatch.setenv("CELERY_BROKER_URL", "memory://")
    sender = Celery()
    sender.backend_cls = "disabled"
    monkeypatch.setattr(api, "_sender", lambda: sender)
    more = {"MLFLOW_URL": research_url, "AIRFLOW_URL": research_url, "AIRFLOW_PASSWORD": "secret-of-airflow"}
    return create_app(ApiSettings.load(environment | more))


@pytest.fixture
def served(whole: Any) -> Iterator[str]:
    """Serve the application as uvicorn does in the container."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(whole, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


def test_schemathesis_finds_nothing(served: str, tmp_path: Path) -> None:
    """Its default run, every check and phase, with fewer examples."""
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{served}/openapi.json",
        f"--header=Authorization: {AUTHORISED['Authorization']}",
        "--max-examples=15",
        "--seed=1",
        "--no-color",
        "--generation-database=none",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "No issues found" in done.stdout, done.stdout[-3000:]


def test_a_stack_without_mlflow_and_airflow_does_not_mention_them(settings: ApiSettings) -> None:
    client = TestClient(create_app(settings), headers=AUTHORISED)
    paths = client.get("/openapi.json").json()["paths"]
    assert not {path for path in paths if "models" in path or "training" in path}
    assert client.get("/api/v1/models").status_code == 404
    assert client.post("/train").status_code == 404


def test_models_and_runs(whole: Any, session: Session) -> None:
    client = TestClient(whole, headers=AUTHORISED)
    (model,) = client.get("/api/v1/models").json()
    assert model["problem"] is None
    failed = {"source": "simulated", "model_name": VERSION["name"], "last_bar": date(2026, 11, 20), "attempted_at": NOW}
    session.add(Scoring(symbol="AAPL", model_version="3", error="the model returned ndarray", **failed))
    session.commit()
    assert client.get("/api/v1/models").json()[0]["problem"] == "the model returned ndarray"
    whole.state.settings.bars_symbols = ["MSFT"]
    assert (
        "is for AAPL, which is not a symbol of this stack (MSFT)" in client.get("/api/v1/models").json()[0]["problem"]
    )
    whole.state.settings.bars_symbols = ["AAPL"]
    assert (model["symbol"], model["champion"]["version"], model["metrics"]) == ("AAPL", "3", {"oos_days": 500.0})
    (run,) = client.get("/api/v1/training-runs").json()
    assert (run["run_id"], run["state"], run["symbol"]) == ("manual__1", "running", "AAPL")
    assert client.post("/api/v1/training-runs/aapl").status_code == 202
    assert client.post("/api/v1/training-runs/TSLA").status_code == 404


def test_the_page_says_why_a_champion_cannot_score(whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tag names another symbol than its name. It has no other tags than it needs, unlike one of the DAG."""
    monkeypatch.setitem(VERSION, "tags", [{"key": "symbol", "value": "MSFT"}, {"key": "simulated", "value": "true"}])
    client = TestClient(whole)
    client.post("/login", data={"user": "trader", "password": PASSWORD})
    shown = client.get("/?symbol=AAPL").text
    assert "It cannot score: version 3 of daily_strategy_AAPL" in shown
