"""The HTTP API and the page."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime

import pytest
from fake_ibkr import TODAY, FakeIbkr
from fastapi.testclient import TestClient
from ibkr_backend.api import create_app
from ibkr_backend.gateway import Gateway
from ibkr_backend.settings import ApiSettings
from ibkr_backend.tasks import refresh
from sqlalchemy.orm import Session

NOW = datetime(TODAY.year, TODAY.month, TODAY.day, 22, tzinfo=UTC)


@pytest.fixture
def client(settings: ApiSettings) -> TestClient:
    return TestClient(create_app(settings))


@pytest.fixture
def dropped(environment: dict[str, str], hole: int) -> dict[str, str]:
    """Return an environment in which no service answers."""
    nowhere = f"127.0.0.1:{hole}"
    return environment | {
        "DATABASE_URL": f"postgresql://user:hunter2@{nowhere}/backend",
        "CELERY_BROKER_URL": f"redis://:hunter2@{nowhere}/0",
        "CELERY_RESULT_BACKEND": f"redis://:hunter2@{nowhere}/1",
        "GATEWAY_URL": f"https://{nowhere}",
        "S3_ENDPOINT_URL": f"http://{nowhere}",
        "MLFLOW_URL": f"http://{nowhere}",
        "AIRFLOW_URL": f"http://{nowhere}",
    }


@pytest.fixture
def stuck_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make every name lookup hang, as when the resolver's packets are dropped."""
    release = threading.Event()

    def never(*_: object, **__: object) -> None:
        release.wait(20)
        raise socket.gaierror("released")

    monkeypatch.setattr(socket, "getaddrinfo", never)
    yield
    release.set()


def test_health_asks_nobody(dropped: dict[str, str]) -> None:
    client = TestClient(create_app(ApiSettings.load(dropped)))
    began = time.monotonic()
    answer = client.get("/health")
    assert time.monotonic() - began < 0.5
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"


def test_ready_when_all_answer(client: TestClient) -> None:
    answer = client.get("/ready")
    assert answer.status_code == 200, answer.text
    dependencies = answer.json()["dependencies"]
    assert set(dependencies) == {"postgres", "redis", "minio", "gateway"}
    assert dependencies["gateway"] == {
        "state": "ok",
        "reason": "logged in",
        "up": True,
        "ibkr_reachable": True,
        "logged_in": True,
        "simulated": False,
    }


def test_ready_answers_in_time_when_packets_are_dropped(dropped: dict[str, str]) -> None:
    client = TestClient(create_app(ApiSettings.load(dropped)))
    for _ in range(2):
        began = time.monotonic()
        answer = client.get("/ready")
        assert time.monotonic() - began < 2
        assert answer.status_code == 503
        dependencies = answer.json()["dependencies"]
        assert set(dependencies) == {"postgres", "redis", "minio", "gateway", "mlflow", "airflow"}
        assert {each["state"] for each in dependencies.values()} == {"failed"}
        assert all(each["reason"] for each in dependencies.values())
        assert dependencies["gateway"]["up"] is False
        assert "hunter2" not in answer.text


@pytest.mark.usefixtures("stuck_names")
def test_ready_answers_in_time_when_names_cannot_be_looked_up(environment: dict[str, str]) -> None:
    urls = {
        "GATEWAY_URL": "https://gateway:5055",
        "S3_ENDPOINT_URL": "http://minio:9000",
        "MLFLOW_URL": "http://mlflow",
    }
    client = TestClient(create_app(ApiSettings.load(environment | urls)))
    began = time.monotonic()
    dependencies = client.get("/ready").json()["dependencies"]
    assert time.monotonic() - began < 2
    assert {dependencies[name]["state"] for name in ("gateway", "minio", "mlflow")} == {"failed"}
    assert dependencies["postgres"]["state"] == "ok"


def test_logged_out_is_a_state_and_no_failure(client: TestClient, ibkr: FakeIbkr) -> None:
    ibkr.logged_in = False
    answer = client.get("/ready")
    assert answer.status_code == 200
    gateway = answer.json()["dependencies"]["gateway"]
    assert (gateway["up"], gateway["ibkr_reachable"], gateway["logged_in"]) == (True, True, False)


def test_ibkr_out_of_reach_is_a_state_and_no_failure(client: TestClient, ibkr: FakeIbkr) -> None:
    ibkr.hang = threading.Event()
    began = time.monotonic()
    answer = client.get("/ready")
    assert time.monotonic() - began < 2
    assert answer.status_code == 200
    gateway = answer.json()["dependencies"]["gateway"]
    assert (gateway["up"], gateway["ibkr_reachable"], gateway["logged_in"]) == (True, False, None)


def test_a_missing_table_is_not_ready(settings: ApiSettings, session: Session) -> None:
    session.connection().exec_driver_sql("DROP TABLE bars")
    session.commit()
    client = TestClient(create_app(settings))
    assert client.get("/ready").json()["dependencies"]["postgres"]["state"] == "failed"
    assert client.get("/api/v1/bars/AAPL").status_code == 503


def test_bars_are_ascending_and_within_the_dates(client: TestClient, session: Session, gateway: Gateway) -> None:
    refresh(session, gateway, "AAPL", date(2000, 1, 1), NOW)
    answer = client.get("/api/v1/bars/aapl", params={"start": "2026-11-16", "end": "2026-11-18"}).json()
    assert [bar["date"] for bar in answer["bars"]] == ["2026-11-16", "2026-11-17", "2026-11-18"]
    assert answer["bars"][0] == {
        "date": "2026-11-16",
        "open": 111.0,
        "high": 112.0,
        "low": 110.0,
        "close": 111.0,
        "volume": 1000.0,
    }
    assert (answer["symbol"], answer["source"], answer["simulated"], answer["adjusted"]) == (
        "AAPL",
        "ibkr",
        False,
        True,
    )
    assert client.get("/api/v1/bars/AAPL", params={"end": "1999-01-01"}).json()["bars"] == []


def test_bars_of_one_source_at_a_time(client: TestClient, session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    ibkr.simulated = True
    refresh(session, gateway, "AAPL", date(2000, 1, 1), NOW)
    assert client.get("/api/v1/bars/AAPL").json()["simulated"] is True
    assert client.get("/api/v1/bars/AAPL", params={"source": "ibkr"}).status_code == 404
    ibkr.simulated, ibkr.closes = False, {TODAY: 250.0}
    refresh(session, gateway, "AAPL", date(2000, 1, 1), NOW)
    real = client.get("/api/v1/bars/AAPL").json()
    assert (real["source"], [bar["close"] for bar in real["bars"]]) == ("ibkr", [250.0])
    simulated = client.get("/api/v1/bars/AAPL", params={"source": "simulated"}).json()
    assert simulated["simulated"] is True
    assert 250.0 not in [bar["close"] for bar in simulated["bars"]]


@pytest.mark.parametrize(
    ("symbol", "words"), [("MSFT", "/api/v1/bars/MSFT/refresh"), ("TSLA", "Add TSLA to BARS_SYMBOLS")]
)
def test_nothing_kept_is_said_with_the_remedy(client: TestClient, symbol: str, words: str) -> None:
    answer = client.get(f"/api/v1/bars/{symbol}")
    assert answer.status_code == 404
    assert "AAPL, MSFT" in answer.json()["detail"]
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    "path", ["A$PL", "AAPL?start=yesterday", "AAPL?start=2026-01-02&end=2026-01-01", "AAPL?source=other", "A" * 16]
)
def test_bad_input_is_refused(client: TestClient, path: str) -> None:
    assert client.get(f"/api/v1/bars/{path}").status_code == 422


def test_symbols(client: TestClient, session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    refresh(session, gateway, "AAPL", date(2000, 1, 1), NOW)
    apple, microsoft = client.get("/api/v1/symbols").json()
    assert apple == {
        "symbol": "AAPL",
        "source": "ibkr",
        "simulated": False,
        "first": min(ibkr.closes).isoformat(),
        "last": TODAY.isoformat(),
        "count": len(ibkr.closes),
        "last_refresh": "2026-11-20T22:00:00Z",
        "last_attempt": "2026-11-20T22:00:00Z",
        "last_error": None,
    }
    assert (microsoft["symbol"], microsoft["count"], microsoft["last_refresh"]) == ("MSFT", 0, None)


def test_a_refresh_of_an_unconfigured_symbol_is_refused(client: TestClient) -> None:
    answer = client.post("/api/v1/bars/TSLA/refresh")
    assert answer.status_code == 404
    assert "AAPL, MSFT" in answer.json()["detail"]


def test_a_refresh_without_a_broker_says_so(client: TestClient) -> None:
    answer = client.post("/api/v1/bars/AAPL/refresh")
    assert answer.status_code == 503
    assert "Redis does not answer" in answer.json()["detail"]


def test_the_page_with_data(client: TestClient, session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    ibkr.simulated = True
    refresh(session, gateway, "AAPL", date(2000, 1, 1), NOW)
    answer = client.get("/")
    assert answer.status_code == 200
    assert "SIMULATED" in answer.text
    assert TODAY.isoformat() in answer.text
    assert 'href="http://localhost:8080/"' in answer.text
    assert 'class="state failed"' not in answer.text
    # Nothing on the page is loaded from elsewhere.
    assert not re.findall(r'(?:src|@import|url\()\s*=?\s*["\']?https?:', answer.text)


def test_the_page_without_data(client: TestClient) -> None:
    page = client.get("/").text
    assert "never" in page
    assert "SIMULATED" not in page


def test_the_page_without_any_service(dropped: dict[str, str]) -> None:
    client = TestClient(create_app(ApiSettings.load(dropped | {"BARS_SYMBOLS": ""})))
    began = time.monotonic()
    answer = client.get("/")
    assert time.monotonic() - began < 2
    assert answer.status_code == 200
    assert "PostgreSQL does not answer" in answer.text
    assert "hunter2" not in answer.text


def test_the_page_escapes_what_comes_from_outside(
    client: TestClient, ibkr: FakeIbkr, session: Session, gateway: Gateway
) -> None:
    ibkr.faults = [(503, "<script>alert(1)</script>")] * 3
    with pytest.raises(Exception, match="script"):
        refresh(session, gateway, "AAPL", date(2000, 1, 1), NOW)
    page = client.get("/").text
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
