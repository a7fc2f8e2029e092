"""Charts: a worker draws them to the bucket, the API hands them out, and says what is wrong where there is none."""

import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import AUTHORISED
from fake_ibkr import FakeIbkr
from fastapi.testclient import TestClient
from ibkr_backend import tasks
from ibkr_backend.api import create_app
from ibkr_backend.gateway import Gateway
from ibkr_backend.history import refresh
from ibkr_backend.settings import ApiSettings
from sqlalchemy.orm import Session
from test_backend_refresh import NOW

Objects = dict[str, tuple[str, bytes]]
ERROR = "<Error><Code>{0}</Code><Message>{0}, says the store</Message></Error>"


class Store(ThreadingHTTPServer):
    """As much of S3 as an object needs: put and get; ``fails`` answers everything."""

    daemon_threads = True
    fails: tuple[int, str] | None = None

    def __init__(self) -> None:
        self.objects: Objects = {}
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    """Answers for `Store`."""

    protocol_version = "HTTP/1.1"
    server: Store

    def answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[self.path] = (self.headers["Content-Type"], body)
        self.answer(200, "text/plain", b"")

    def do_GET(self) -> None:
        found = self.server.objects.get(self.path)
        status, code = self.server.fails or (404, "NoSuchKey")
        if found and not self.server.fails:
            self.answer(200, *found)
        else:
            self.answer(status, "application/xml", ERROR.format(code).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as served:
        threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True).start()
        yield served
        served.shutdown()


@pytest.fixture
def settings(environment: dict[str, str], store: Store) -> ApiSettings:
    return ApiSettings.load(environment | {"S3_ENDPOINT_URL": f"http://127.0.0.1:{store.server_port}"})


@pytest.fixture
def client(settings: ApiSettings) -> TestClient:
    return TestClient(create_app(settings), headers=AUTHORISED)


@pytest.mark.parametrize("simulated", [True, False])
def test_what_a_worker_draws_the_api_hands_out(
    client: TestClient,
    store: Store,
    settings: ApiSettings,
    session: Session,
    gateway: Gateway,
    ibkr: FakeIbkr,
    monkeypatch: pytest.MonkeyPatch,
    simulated: bool,
) -> None:
    ibkr.simulated = simulated
    refresh(session, gateway, "AAPL", date(2000, 1, 1), NOW)
    monkeypatch.setattr(tasks, "worker_settings", lambda: settings)
    monkeypatch.setattr(tasks, "engine", session.get_bind)
    tasks.draw_chart("AAPL")
    tasks.draw_chart("MSFT")  # of which nothing is kept
    [(path, (kind, body))] = store.objects.items()
    assert (path, kind) == ("/trading-charts/daily/AAPL.svg", "image/svg+xml")
    answer = client.get("/api/v1/charts/aapl")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml")
    assert answer.content == body
    assert answer.text.startswith("<svg ") and "AAPL" in answer.text
    assert ("SIMULATED" in answer.text) is simulated


def test_a_chart_that_is_not_drawn_yet_is_told(client: TestClient) -> None:
    answer = client.get("/api/v1/charts/MSFT")
    assert (answer.status_code, answer.json()["detail"]) == (404, "There is no chart of MSFT yet.")


@pytest.mark.parametrize("fails", [(403, "AccessDenied"), (404, "NoSuchBucket"), (500, "InternalError")])
def test_a_store_that_refuses_is_told(client: TestClient, store: Store, fails: tuple[int, str]) -> None:
    store.fails = fails
    answer = client.get("/api/v1/charts/AAPL")
    assert answer.status_code == 503
    assert answer.json()["detail"].startswith("Unexpected answer from MinIO: ") and fails[1] in answer.text


def test_a_store_that_is_away_is_told_in_time(environment: dict[str, str], hole: int) -> None:
    away = ApiSettings.load(environment | {"S3_ENDPOINT_URL": f"http://127.0.0.1:{hole}"})
    client = TestClient(create_app(away), headers=AUTHORISED)
    answer = client.get("/api/v1/charts/AAPL")
    assert answer.status_code == 503 and answer.json()["detail"].startswith("MinIO does not answer: ")
    assert answer.elapsed.total_seconds() < 3
    assert "top-secret" not in answer.text
