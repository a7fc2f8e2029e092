"""What a session can become, and what a test can make go wrong: states, faults, pacing limits, paper and live."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from ibkr_simulator.api import CONCURRENT_HISTORY, create_app
from ibkr_simulator.market import Market
from ibkr_simulator.pacing import ALL_REQUESTS, ENDPOINTS, Pacing
from ibkr_simulator.session import Session
from starlette.routing import Route

CONTROL = "/simulator/control"
AAPL = "265598"


@pytest.fixture(scope="module")
def controlled(start_module_simulator: Callable) -> Iterator[httpx.Client]:
    """A client of a simulator that can be told to fail."""
    with start_module_simulator(SIMULATOR_CONTROL="true") as simulator, simulator.client() as client:
        client.base_url = f"{simulator.url}/v1/api/"
        yield client


@pytest.fixture
def gateway(controlled: httpx.Client) -> Iterator[httpx.Client]:
    """The same, logged in and with nothing wrong at the beginning of each test."""
    root = str(controlled.base_url).removesuffix("/v1/api/")
    controlled.delete(root + CONTROL)
    controlled.post(root + CONTROL, json={"session": "logged_in"})
    yield controlled


def tell(gateway: httpx.Client, **wanted: object) -> httpx.Response:
    """Set something by the control endpoint."""
    return gateway.post(str(gateway.base_url).removesuffix("/v1/api/") + CONTROL, json=wanted)


def status(gateway: httpx.Client) -> tuple[bool, bool, bool]:
    """Authenticated, competing, connected."""
    found = gateway.post("iserver/auth/status").json()
    return found["authenticated"], found["competing"], found["connected"]


def test_without_being_asked_for_there_is_no_control(simulator) -> None:
    with simulator.client() as client:
        for method in ("GET", "POST", "DELETE"):
            assert client.request(method, CONTROL, json={"session": "logged_out"}).status_code == 404
        assert client.get("/v1/api/tickle").status_code == 200


def test_a_dropped_session_is_seen_and_opened_again(gateway: httpx.Client) -> None:
    gateway.get("iserver/accounts")
    snapshot = f"iserver/marketdata/snapshot?conids={AAPL}&fields=31"
    gateway.get(snapshot)
    assert "31" in gateway.get(snapshot).json()[0]
    assert tell(gateway, session="dropped").json()["session"] == "dropped"
    assert status(gateway) == (False, False, False)
    tickle = gateway.post("tickle")
    assert tickle.status_code == 200 and tickle.json()["iserver"]["authStatus"]["authenticated"] is False
    for path in ("iserver/accounts", f"iserver/marketdata/history?conid={AAPL}", "hmds/history", snapshot):
        refused = gateway.get(path)
        assert (refused.status_code, refused.json()["error"]) == (400, "Bad Request: no bridge"), path
    assert gateway.get("portfolio/accounts").status_code == gateway.get("trsrv/stocks?symbols=IBM").status_code == 200
    opened = gateway.post("iserver/auth/ssodh/init", json={"publish": True, "compete": False}).json()
    assert opened["authenticated"] is True and status(gateway) == (True, False, True)
    # A new brokerage session has to be warmed up again.
    refused = gateway.get(snapshot)
    assert (refused.status_code, refused.json()["error"]) == (500, "Please query /accounts first")
    gateway.get("iserver/accounts")
    assert gateway.get(snapshot).json() == [{"conid": 265598, "conidEx": "265598"}]


def test_a_competing_session_is_taken_back_only_by_competing(gateway: httpx.Client) -> None:
    tell(gateway, session="competing")
    assert status(gateway) == (False, True, True)
    gateway.post("iserver/auth/ssodh/init", json={"publish": True, "compete": False})
    gateway.post("iserver/reauthenticate")
    assert status(gateway) == (False, True, True)
    gateway.post("iserver/auth/ssodh/init", json={"publish": True, "compete": True})
    assert status(gateway) == (True, False, True)


def test_only_a_person_logs_in_again(gateway: httpx.Client) -> None:
    before = gateway.post("tickle").json()["session"]
    tell(gateway, session="logged_out")
    for path in ("iserver/auth/status", "iserver/auth/ssodh/init", "tickle"):
        assert gateway.post(path, json={"publish": True, "compete": True}).status_code == 401, path
    root = str(gateway.base_url).removesuffix("/v1/api/")
    assert "Logged out" in gateway.get(root + "/").text
    gateway.post(root + "/sso/Login")
    assert status(gateway) == (True, False, True)
    after = gateway.post("tickle").json()["session"]
    assert before != after and before.startswith("SIMULATED") and after.startswith("SIMULATED")


@pytest.mark.parametrize(("state", "words"), [("dropped", "Brokerage session dropped"), ("competing", "Taken over")])
def test_the_page_shows_what_is_wrong(gateway: httpx.Client, state: str, words: str) -> None:
    tell(gateway, session=state)
    assert words in gateway.get(str(gateway.base_url).removesuffix("/v1/api/") + "/").text


def test_answers_slowly_and_fails_where_it_is_told_to(gateway: httpx.Client) -> None:
    root = str(gateway.base_url).removesuffix("/v1/api/")
    tell(gateway, delay_seconds=0.6, path="portfolio/")
    started = time.monotonic()
    assert gateway.get("portfolio/accounts").status_code == 200
    assert time.monotonic() - started >= 0.6
    started = time.monotonic()
    # The gateway itself and the rest of the API are as quick as before.
    assert gateway.get(root + "/").status_code == gateway.post("tickle").status_code == 200
    assert time.monotonic() - started < 0.5
    shown = tell(gateway, delay_seconds=0, fail_status=503).json()
    assert shown == {"session": "logged_in", "delay_seconds": 0, "fail_status": 503, "path": "portfolio/"}
    failed = gateway.get("portfolio/accounts")
    assert failed.status_code == 503 and "SIMULATED" in failed.json()["error"]
    assert failed.headers["x-simulated"] == "true"
    tell(gateway, path="")
    assert gateway.post("tickle").status_code == 503
    assert gateway.post("iserver/account/DU0000001/orders").status_code == 403
    assert gateway.delete(root + CONTROL).json()["fail_status"] == 0
    assert gateway.post("tickle").status_code == 200


@pytest.mark.parametrize(
    "wanted",
    [
        {"session": "asleep"},
        {"session": ["dropped"]},
        {"delay_seconds": -1},
        {"delay_seconds": 601},
        {"delay_seconds": True},
        {"fail_status": 200},
        {"fail_status": "503"},
        {"path": None},
        {"speed": 1},
    ],
)
def test_a_bad_wish_is_named_and_changes_nothing(gateway: httpx.Client, wanted: dict[str, object]) -> None:
    before = tell(gateway).json()
    refused = tell(gateway, **wanted, **({} if "session" in wanted else {"session": "dropped"}))
    assert refused.status_code == 400
    assert refused.json()["error"].startswith(f"Bad Request: {next(iter(wanted))}: ")
    assert tell(gateway).json() == before


def test_a_form_on_another_site_cannot_control(gateway: httpx.Client) -> None:
    root = str(gateway.base_url).removesuffix("/v1/api/")
    sent = gateway.post(root + CONTROL, content='{"session": "dropped"}', headers={"Content-Type": "text/plain"})
    assert sent.status_code == 415 and tell(gateway).json()["session"] == "logged_in"


def test_the_brokerage_session_ends_without_a_request(start_simulator: Callable) -> None:
    with start_simulator(SIMULATOR_IDLE_SECONDS="1") as simulator, simulator.client() as client:
        opened = client.post("/v1/api/iserver/auth/ssodh/init", json={"publish": True, "compete": True})
        assert opened.json()["authenticated"] is True
        time.sleep(1.2)
        assert client.post("/v1/api/iserver/auth/status").json()["authenticated"] is False


def test_requests_keep_the_brokerage_session() -> None:
    now = 0.0
    session = Session(logged_in=True, idle_seconds=360, clock=lambda: now)
    for now in (300.0, 600.0, 960.0):
        session.touch()
        assert session.brokerage, now
    now = 1320.1
    session.touch()
    assert not session.brokerage and session.sso
    session.open_brokerage(compete=False)
    now = 1600.0
    session.touch()
    assert session.brokerage


@pytest.mark.parametrize(
    ("live", "account", "login_type", "title"),
    [("false", "DU0000001", 2, "SIMULATED paper account"), ("true", "U0000001", 1, "SIMULATED live account")],
)
def test_paper_and_live_are_told_apart(
    start_simulator: Callable, live: str, account: str, login_type: int, title: str
) -> None:
    with start_simulator(SIMULATOR_LIVE=live) as simulator, simulator.client() as client:
        found = client.get("/v1/api/iserver/accounts").json()
        assert (found["selectedAccount"], found["isPaper"]) == (account, live == "false")
        assert client.get("/v1/api/sso/validate").json()["LOGIN_TYPE"] == login_type
        assert client.get("/v1/api/portfolio/accounts").json()[0]["accountTitle"] == title
        assert client.get(f"/v1/api/portfolio/{account}/positions/0").json()[0]["acctId"] == account
        page = client.get("/").text
        assert f"{title} {account}" in page and "SIMULATED" in page
        for path in ("orders", "order/1"):
            assert client.post(f"/v1/api/iserver/account/{account}/{path}").status_code == 403


def test_more_requests_than_ibkr_allows_are_refused(start_simulator: Callable) -> None:
    with start_simulator(SIMULATOR_PACING="true") as simulator, simulator.client() as client:
        first, second = (client.get("/v1/api/portfolio/accounts") for _ in range(2))
        assert (first.status_code, second.status_code) == (200, 429)
        assert second.json() == {"error": "Too many requests", "statusCode": 429}


# Requests and seconds, by IBKR's table of pacing limits as of 2026; those of /fyi, of which nothing is served, apart.
DOCUMENTED = {
    ("GET", "iserver/account/orders"): (1, 5),
    ("GET", "iserver/account/pnl/partitioned"): (1, 5),
    ("GET", "iserver/account/trades"): (1, 5),
    ("GET", "iserver/marketdata/snapshot"): (10, 1),
    ("GET", "iserver/scanner/params"): (1, 900),
    ("POST", "iserver/scanner/run"): (1, 1),
    ("POST", "pa/performance"): (1, 900),
    ("POST", "pa/summary"): (1, 900),
    ("POST", "pa/transactions"): (1, 900),
    ("GET", "portfolio/accounts"): (1, 5),
    ("GET", "portfolio/subaccounts"): (1, 5),
    ("GET", "sso/validate"): (1, 60),
    ("GET", "tickle"): (1, 1),
}


def test_the_limits_are_those_that_ibkr_documents() -> None:
    """Of each endpoint that is served here, and of all together; the table leaves history to a limit of its own."""
    routes = create_app(Market()).routes
    served = {
        (method, route.path.removeprefix("/v1/api/"))
        for route in routes
        if isinstance(route, Route)
        for method in route.methods or ()
    }
    assert {request: limit for request, limit in DOCUMENTED.items() if request in served} == ENDPOINTS
    assert not [path for _, path in served if path.startswith("fyi/")]
    assert (ALL_REQUESTS, CONCURRENT_HISTORY) == ((10, 1), 5)


@pytest.mark.parametrize(("method", "endpoint"), sorted(ENDPOINTS))
def test_each_endpoint_has_its_limit(method: str, endpoint: str) -> None:
    number, seconds = ENDPOINTS[method, endpoint]
    now = 100.0
    pacing = Pacing(lambda: now)
    assert [pacing.allows(method, endpoint) for _ in range(number + 1)] == [True] * number + [False]
    if number == 1:
        assert pacing.allows("POST" if method == "GET" else "GET", endpoint)
    now += seconds - 0.01
    assert not pacing.allows(method, endpoint)
    now += 0.02
    assert pacing.allows(method, endpoint)


def test_all_requests_together_have_a_limit_and_refused_ones_do_not_count() -> None:
    now = 100.0
    pacing = Pacing(lambda: now)
    assert [pacing.allows("GET", f"portfolio/{number}") for number in range(12)] == [True] * 10 + [False] * 2
    now += 1.0
    assert all(pacing.allows("GET", "x") for _ in range(10))
