"""What is told of account and gateway, the same on the page, in the API and in the metrics: money that is real, a paper
account or a simulator; and where the gateway's three states end."""

import re
import threading

import pytest
from conftest import AUTHORISED, PASSWORD
from fake_ibkr import FakeIbkr
from fastapi.testclient import TestClient
from ibkr_backend import brokerage_session
from ibkr_backend.api import create_app
from ibkr_backend.gateway import Gateway
from ibkr_backend.settings import ApiSettings
from sqlalchemy.orm import Session
from test_backend_refresh import NOW


@pytest.fixture
def client(settings: ApiSettings) -> TestClient:
    """Both: a program with the token, and a person who is logged in."""
    client = TestClient(create_app(settings), headers=AUTHORISED)
    client.post("/login", data={"user": "trader", "password": PASSWORD}, follow_redirects=False)
    return client


def gauge(client: TestClient, name: str) -> float | None:
    """Value of a metric without labels; None where there is none."""
    found = re.search(rf"^{name} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else None


@pytest.mark.parametrize(
    ("said", "account", "simulated", "paper", "badge"),
    [
        (True, "DU0000001", False, True, "PAPER"),
        (False, "U0000001", False, False, "LIVE"),
        # What IBKR says goes before what the name looks like.
        (True, "U0000001", False, True, "PAPER"),
        (False, "DU0000001", False, False, "LIVE"),
        (None, "DU0000001", False, True, "PAPER"),
        (None, "U0000001", False, False, "LIVE"),
        (True, "DU0000001", True, True, "SIMULATED"),
        (False, "U0000001", True, False, "SIMULATED"),
        (None, "U0000001", True, False, "SIMULATED"),
    ],
)
def test_real_money_paper_and_simulated_are_told_apart(
    client: TestClient,
    session: Session,
    gateway: Gateway,
    ibkr: FakeIbkr,
    said: bool | None,
    account: str,
    simulated: bool,
    paper: bool,
    badge: str,
) -> None:
    ibkr.is_paper, ibkr.account, ibkr.simulated = said, account, simulated
    brokerage_session.keep_session(session, gateway, NOW)
    brokerage_session.keep_portfolios(session, gateway, NOW)
    [found] = client.get("/api/v1/accounts").json()
    assert (found["account_id"], found["paper"], found["simulated"]) == (account, paper, simulated)
    assert (gauge(client, "gateway_paper"), gauge(client, "gateway_simulated")) == (paper, simulated)
    page = client.get("/").text
    # Beside the stack's name, and beside the account's.
    assert re.findall(r'class="badge \w+">(\w+)<', page) == [badge, badge]
    assert ('role="note"' in page) is simulated


def test_what_an_account_holds(client: TestClient, session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    brokerage_session.keep_portfolios(session, gateway, NOW)
    about = {"account_id": "DU0000001", "simulated": False, "as_of": "2026-11-20T22:00:00Z"}
    assert client.get("/api/v1/accounts").json() == [
        about | {"title": "A paper account", "currency": "USD", "paper": True}
    ]
    assert client.get("/api/v1/accounts/DU0000001/positions").json() == about | {"positions": ibkr.positions}
    summary = {"netliquidation": {"amount": 1234567.0, "currency": "USD"}}
    assert client.get("/api/v1/accounts/DU0000001/summary").json() == about | {"summary": summary}
    for what in ("positions", "summary"):
        answer = client.get(f"/api/v1/accounts/DU9/{what}")
        assert (answer.status_code, answer.json()["detail"]) == (
            404,
            "Unknown account DU9. Known accounts: DU0000001.",
        )


def test_before_the_first_login_no_account_is_known(client: TestClient, ibkr: FakeIbkr) -> None:
    ibkr.logged_in = False
    assert client.get("/api/v1/accounts").json() == []
    answer = client.get("/api/v1/accounts/DU9/summary")
    assert answer.status_code == 404 and "none yet: log in to the gateway" in answer.json()["detail"]
    assert gauge(client, "gateway_paper") is None
    assert 'class="badge' not in client.get("/").text


def steps(client: TestClient) -> dict[str, str]:
    """The gateway's states on the page."""
    return dict(re.findall(r'<dt>([^<]+)</dt><dd>\s*<span class="state \w+">(\w+)<', client.get("/").text))


def states(client: TestClient) -> tuple[float | None, ...]:
    """The same in the metrics."""
    return tuple(gauge(client, f"gateway_{name}") for name in ("up", "ibkr_reachable", "logged_in"))


def test_three_states_when_all_is_well(client: TestClient) -> None:
    assert states(client) == (1.0, 1.0, 1.0)
    assert steps(client) == {"Gateway up": "yes", "IBKR reachable": "yes", "Logged in": "yes"}


def test_three_states_when_nobody_is_logged_in(client: TestClient, ibkr: FakeIbkr) -> None:
    ibkr.logged_in = False
    assert states(client) == (1.0, 1.0, 0.0)
    assert steps(client) == {"Gateway up": "yes", "IBKR reachable": "yes", "Logged in": "no"}


def test_three_states_when_ibkr_does_not_answer_the_gateway(client: TestClient, ibkr: FakeIbkr) -> None:
    ibkr.hang = threading.Event()
    assert states(client) == (1.0, 0.0, None)
    assert steps(client) == {"Gateway up": "yes", "IBKR reachable": "no", "Logged in": "unknown"}


def test_three_states_when_the_gateway_is_away(environment: dict[str, str], hole: int) -> None:
    client = TestClient(create_app(ApiSettings.load(environment | {"GATEWAY_URL": f"https://127.0.0.1:{hole}"})))
    client.post("/login", data={"user": "trader", "password": PASSWORD}, follow_redirects=False)
    assert states(client) == (0.0, None, None)
    assert steps(client) == {"Gateway up": "no", "IBKR reachable": "unknown", "Logged in": "unknown"}
