"""The HTTP API and the page."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest
from conftest import AUTHORISED, PASSWORD
from fake_ibkr import TODAY, FakeIbkr, trading_days
from fastapi.testclient import TestClient
from ibkr_backend import api, brokerage_session, pages
from ibkr_backend.api import create_app
from ibkr_backend.gateway import Gateway
from ibkr_backend.history import refresh
from ibkr_backend.readiness import ANSWER_TIMEOUT, Dependency, workers_check
from ibkr_backend.settings import ApiSettings
from kombu.exceptions import OperationalError
from prometheus_client.utils import floatToGoString
from redis.exceptions import OutOfMemoryError
from sqlalchemy.orm import Session

NOW = datetime(TODAY.year, TODAY.month, TODAY.day, 22, tzinfo=UTC)


@pytest.fixture
def client(settings: ApiSettings) -> TestClient:
    return TestClient(create_app(settings), headers=AUTHORISED)


def logged_in(settings: ApiSettings) -> TestClient:
    browser = TestClient(create_app(settings))
    answer = browser.post("/login", data={"user": "trader", "password": PASSWORD}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    return browser


@pytest.fixture
def browser(settings: ApiSettings) -> TestClient:
    return logged_in(settings)


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
        "AIRFLOW_PASSWORD": "hunter2",
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


def test_not_ready_while_redis_refuses_writes(client: TestClient, redis_full: threading.Event) -> None:
    """It answers a PING, and takes no task."""
    redis_full.set()
    answer = client.get("/ready")
    assert answer.status_code == 503
    states = {name: each["state"] for name, each in answer.json()["dependencies"].items()}
    assert states == {"postgres": "ok", "redis": "failed", "minio": "ok", "gateway": "ok"}
    assert "used memory > 'maxmemory'" in answer.json()["dependencies"]["redis"]["reason"]


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
    assert time.monotonic() - began < 5
    assert answer.status_code == 200
    gateway = answer.json()["dependencies"]["gateway"]
    assert (gateway["up"], gateway["ibkr_reachable"], gateway["logged_in"]) == (True, False, None)


class Seen:
    """What workers have left in Redis: name to the seconds since."""

    def __init__(self, **ages: float) -> None:
        """Take how long ago each was seen; the name of its host follows after two underscores."""
        self.ages = {name.replace("__", "@"): age for name, age in ages.items()}

    def hgetall(self, _key: str) -> dict[str, str]:
        """Return them as Redis does."""
        return {name: str(time.time() - age) for name, age in self.ages.items()}


def test_the_workers_of_all_hosts_are_named() -> None:
    """One that is away is told of for a day, while another does its work."""
    found = workers_check(Seen(backend__w2=600, backend__w1=3, backend__gone=90000, beat=1), "seen")()
    assert found == {"reason": "w1 seen 3 s ago, w2 last seen 600 s ago"}


@pytest.mark.parametrize(("seen", "reason"), [(Seen(backend__w1=80), "w1 last seen 80 s ago"), (Seen(beat=1), "never")])
def test_without_a_worker_nothing_is_done(seen: Seen, reason: str) -> None:
    with pytest.raises(RuntimeError, match=reason):
        workers_check(seen, "seen")()


def test_airflows_workers_are_looked_for_where_airflow_is(environment: dict[str, str]) -> None:
    with TestClient(create_app(ApiSettings.load(environment))) as client:
        assert "airflow_worker" not in client.get("/ready").json()["processes"]
    with TestClient(create_app(ApiSettings.load(environment | {"AIRFLOW_BROKER_DATABASE": "2"}))) as client:
        assert client.get("/ready").json()["processes"]["airflow_worker"]["reason"].startswith("w1 seen ")


def test_a_missing_table_is_not_ready(settings: ApiSettings, session: Session) -> None:
    session.connection().exec_driver_sql("DROP TABLE bars")
    session.commit()
    client = TestClient(create_app(settings), headers=AUTHORISED)
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
    time.sleep(1.05)  # a kept answer is compared with the database once a second
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


@pytest.mark.parametrize("path", ["A$PL", "AAPL?start=yesterday", "AAPL?start=20260102", "AAPL?source=other", "A" * 16])
def test_bad_input_is_refused(client: TestClient, path: str) -> None:
    assert client.get(f"/api/v1/bars/{path}").status_code == 422


def test_a_start_after_the_end_is_told(client: TestClient) -> None:
    answer = client.get("/api/v1/bars/AAPL", params={"start": "2026-01-02", "end": "2026-01-01"})
    assert answer.status_code == 404 and "start 2026-01-02 is after end 2026-01-01" in answer.json()["detail"]


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
        "exchange": "NASDAQ",
        "missing": None,
        "splits": [],
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


@pytest.mark.parametrize("wrapped", [False, True], ids=["as it is", "as an error of Kombu's"])
def test_a_refresh_that_redis_refuses_says_so(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, wrapped: bool
) -> None:
    class Sender:
        def send_task(self, *_: object) -> None:
            error = OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
            if wrapped:
                raise OperationalError(str(error)) from error
            raise error

    monkeypatch.setattr(api, "_sender", Sender)
    answer = client.post("/api/v1/bars/AAPL/refresh")
    assert answer.status_code == 503
    assert "Redis rejected the task: command not allowed" in answer.json()["detail"]


def test_the_page_with_data(browser: TestClient, session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    ibkr.simulated = True
    refresh(session, gateway, "AAPL", date(2000, 1, 1), NOW)
    brokerage_session.keep_session(session, gateway, NOW)
    brokerage_session.keep_portfolios(session, gateway, NOW)
    answer = browser.get("/")
    assert answer.status_code == 200
    assert "SIMULATED" in answer.text
    assert TODAY.isoformat() in answer.text
    assert 'href="http://localhost:8080/"' in answer.text
    assert 'class="state failed"' not in answer.text
    assert "DU0000001" in answer.text
    assert "1,234,567.00" in answer.text
    # Neither service is part of this stack.
    assert "MLflow" not in answer.text
    assert "Train" not in answer.text


def loaded(browser: TestClient) -> dict[str, int]:
    """Return the size of each part that a browser loads for the page, and fail if any comes from elsewhere."""
    answer = browser.get("/")
    sizes = {"/": len(answer.content)}
    for address in re.findall(r'(?:src|<link[^>]* href)="([^"]+)"', answer.text):
        if not address.startswith("data:"):
            assert address.startswith("/static/")
            part = browser.get(address)
            assert part.status_code == 200
            assert "http" not in part.text.replace("http://www.w3.org/2000/svg", "")
            sizes[address] = len(part.content)
    return sizes


def test_the_page_is_small_and_comes_from_here_alone(
    browser: TestClient, session: Session, gateway: Gateway, ibkr: FakeIbkr
) -> None:
    days = trading_days(TODAY - timedelta(days=3650), TODAY)
    ibkr.closes = {day: 100.0 + n % 91 for n, day in enumerate(days)}
    refresh(session, gateway, "AAPL", date(2000, 1, 1), NOW)
    sizes = loaded(browser)
    assert set(sizes) == {"/", "/static/page.css", "/static/page.js"}
    policy = browser.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    for range in ("1y", "10y"):
        sizes["/"] = len(browser.get("/", params={"range": range}).content)
        assert sum(sizes.values()) < 200_000


def test_the_page_without_data(browser: TestClient) -> None:
    page = browser.get("/").text
    assert "never" in page
    assert "SIMULATED" not in page


def test_the_page_without_any_service(dropped: dict[str, str]) -> None:
    browser = logged_in(ApiSettings.load(dropped | {"BARS_SYMBOLS": ""}))
    began = time.monotonic()
    answer = browser.get("/")
    assert time.monotonic() - began < 4
    assert answer.status_code == 200
    assert "PostgreSQL does not answer" in answer.text
    # On a busy machine its client's own time is over after the page's.
    assert "MLflow does not answer" in answer.text or f"no answer in {ANSWER_TIMEOUT} s" in answer.text
    assert "hunter2" not in answer.text


def test_the_page_has_an_example_with_the_address_of_mlflow(environment: dict[str, str]) -> None:
    """As a laptop needs it."""
    urls = json.dumps({"MLflow": "http://research.example.com:5500"})
    page = logged_in(ApiSettings.load(environment | {"STACK_PUBLIC_URLS": urls})).get("/").text
    assert 'mlflow.set_tracking_uri("http://research.example.com:5500")' in page


def test_the_page_escapes_what_comes_from_outside(
    browser: TestClient, ibkr: FakeIbkr, session: Session, gateway: Gateway
) -> None:
    ibkr.faults = [(503, "<script>alert(1)</script>")] * 3
    with pytest.raises(Exception, match="script"):
        refresh(session, gateway, "AAPL", date(2000, 1, 1), NOW)
    page = browser.get("/", params={"started": "<script>alert(2)</script>"}).text
    assert "&lt;script&gt;" in page
    assert "<script>" not in page


def test_the_login_url_is_shown_when_a_login_is_needed(browser: TestClient, ibkr: FakeIbkr) -> None:
    link = '<a href="https://localhost:5055/">Log in at the gateway</a>'
    assert link not in browser.get("/").text
    ibkr.logged_in = False
    time.sleep(1.1)
    assert link in browser.get("/").text


def test_bars_follow_a_refresh_within_a_second_and_are_sent_compressed(
    client: TestClient, session: Session, gateway: Gateway, ibkr: FakeIbkr
) -> None:
    refresh(session, gateway, "AAPL", date(2000, 1, 1), NOW)
    plain = client.get("/api/v1/bars/AAPL", headers={"Accept-Encoding": "identity"})
    packed = client.get("/api/v1/bars/AAPL", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json() == plain.json()
    assert client.get("/api/v1/bars/AAPL", headers={"If-None-Match": plain.headers["etag"]}).status_code == 304
    ibkr.closes[TODAY] *= 1.05
    refresh(session, gateway, "AAPL", date(2000, 1, 1), NOW)
    time.sleep(1.05)
    again = client.get("/api/v1/bars/AAPL", headers={"If-None-Match": plain.headers["etag"]})
    assert again.json()["bars"][-1]["close"] == ibkr.closes[TODAY]


def test_metrics_of_api_celery_and_session(
    client: TestClient, session: Session, gateway: Gateway, ibkr: FakeIbkr
) -> None:
    brokerage_session.keep_session(session, gateway, NOW)
    client.get("/api/v1/bars/AAPL")
    refresh(session, gateway, "MSFT", date(2000, 1, 1), NOW)
    text = client.get("/metrics").text
    assert 'http_requests_total{method="GET",route="/api/v1/bars/{symbol}",status="404"} 1.0' in text
    assert 'celery_tasks_total{state="SUCCESS",task="refresh_bars"} 3.0' in text
    assert "celery_queue_length 4.0" in text
    assert 'service_up{service="worker"} 1.0' in text
    for line in (
        "gateway_up 1.0",
        "gateway_logged_in 1.0",
        "gateway_session_alert 0.0",
        "gateway_session_drops_total 0.0",
        f'bars_refreshed_timestamp_seconds{{symbol="MSFT"}} {floatToGoString(NOW.timestamp())}',
        'bars_refresh_failures{symbol="MSFT"} 0.0',
    ):
        assert line in text


def test_metrics_do_not_wait_for_dead_services(dropped: dict[str, str]) -> None:
    client = TestClient(create_app(ApiSettings.load(dropped)))
    began = time.monotonic()
    answer = client.get("/metrics")
    assert time.monotonic() - began < 4
    assert 'service_up{service="postgres"} 0.0' in answer.text


def test_a_slow_lookup_shows_what_it_said_before(settings: ApiSettings) -> None:
    slow = threading.Event()
    answers = iter([0, 20])

    def check() -> dict[str, object]:
        slow.wait(next(answers))
        return {"champion": "version 3"}

    lookup = Dependency("models", check)
    lookup.start().result(5)
    time.sleep(1.05)
    began = time.monotonic()
    said = {"state": "ok", "reason": "answers", "champion": "version 3"}
    assert pages._newest([lookup]) == {"models": said}
    assert time.monotonic() - began < 2
    slow.set()
