"""The gateway's session: kept alive, a drop noticed and told once, and what the accounts hold."""

import logging
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from fake_ibkr import TODAY, FakeIbkr
from ibkr_backend.broker import ALLOWED, NotAllowedError, ReadOnlyClient
from ibkr_backend.brokerage_session import MISSES_BEFORE_ALERT, keep_portfolios, keep_session
from ibkr_backend.database import GatewaySession, Portfolio
from ibkr_backend.gateway import Gateway, GatewayError
from sqlalchemy import select
from sqlalchemy.orm import Session
from test_backend_refresh import NOW


def alerts(caplog: pytest.LogCaptureFixture) -> int:
    return sum("ALERT" in record.message for record in caplog.records if record.levelno == logging.ERROR)


def asked(ibkr: FakeIbkr, end: str) -> int:
    return sum(request.endswith(end) for request in ibkr.requests)


def test_an_authenticated_session_is_tickled(session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    record = keep_session(session, gateway, NOW)
    assert (record.logged_in, record.reason, record.alert) == (True, "logged in", None)
    assert (asked(ibkr, "/tickle"), asked(ibkr, "/ssodh/init")) == (1, 0)


def test_nobody_logged_in_yet_is_no_drop(
    session: Session, gateway: Gateway, ibkr: FakeIbkr, caplog: pytest.LogCaptureFixture
) -> None:
    ibkr.logged_in = False
    for minute in range(5):
        record = keep_session(session, gateway, NOW + timedelta(minutes=minute))
    assert (record.logged_in, record.alert, record.drops, alerts(caplog)) == (False, None, 0, 0)
    assert asked(ibkr, "/ssodh/init") == asked(ibkr, "/tickle") == 0


def test_a_drop_is_told_once_and_ends_with_the_login(
    session: Session, gateway: Gateway, ibkr: FakeIbkr, caplog: pytest.LogCaptureFixture
) -> None:
    keep_session(session, gateway, NOW)
    ibkr.logged_in = False
    for minute in range(1, 9):
        record = keep_session(session, gateway, NOW + timedelta(minutes=minute))
        assert record.alert == "nobody is logged in"
        assert record.drops == 1
    assert alerts(caplog) == 1
    assert asked(ibkr, "/ssodh/init") >= 1
    ibkr.logged_in = True
    record = keep_session(session, gateway, NOW + timedelta(minutes=9))
    assert (record.logged_in, record.alert, record.missed) == (True, None, 0)
    # The next drop is a new one.
    ibkr.logged_in = False
    record = keep_session(session, gateway, NOW + timedelta(minutes=10))
    assert (record.drops, alerts(caplog)) == (2, 2)


def test_a_dropped_session_that_opens_again_is_no_alert(
    session: Session, gateway: Gateway, ibkr: FakeIbkr, caplog: pytest.LogCaptureFixture
) -> None:
    keep_session(session, gateway, NOW)
    ibkr.authenticated, ibkr.reopens = False, True
    record = keep_session(session, gateway, NOW + timedelta(minutes=1))
    assert (record.logged_in, record.reopened, record.alert, alerts(caplog)) == (True, 1, None, 0)
    assert asked(ibkr, "/ssodh/init") == 1


def test_a_gateway_that_is_away_for_a_moment_is_no_alert(
    session: Session, gateway: Gateway, ibkr: FakeIbkr, ca_file: Path, hole: int, caplog: pytest.LogCaptureFixture
) -> None:
    keep_session(session, gateway, NOW)
    away = Gateway(f"https://127.0.0.1:{hole}", ca_file, timeout=0.1, spacing=0)
    for miss in range(1, MISSES_BEFORE_ALERT):
        assert keep_session(session, away, NOW).missed == miss
    assert alerts(caplog) == 0
    for _ in range(3):
        record = keep_session(session, away, NOW)
    assert record.alert and "does not answer" in record.alert
    assert (record.drops, alerts(caplog)) == (1, 1)


def test_ibkr_out_of_reach_does_not_hang(session: Session, gateway_url: str, ca_file: Path, ibkr: FakeIbkr) -> None:
    ibkr.hang = threading.Event()
    record = keep_session(session, Gateway(gateway_url, ca_file, timeout=0.2, spacing=0), NOW)
    assert record.logged_in is False and "IBKR cannot be reached" in record.reason


def test_the_portfolio_is_kept_whole_with_all_its_pages(session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    ibkr.positions = [{"contractDesc": f"S{n}", "position": 1.0} for n in range(230)]
    assert keep_portfolios(session, gateway, NOW) == ["DU0000001"]
    (kept,) = session.scalars(select(Portfolio))
    assert (kept.paper, kept.simulated, kept.title, len(kept.positions)) == (True, False, "A paper account", 230)
    assert kept.summary["netliquidation"]["amount"] == 1234567.0


def test_a_failure_keeps_the_portfolio_as_it_was(session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    keep_portfolios(session, gateway, NOW)
    ibkr.logged_in = False
    with pytest.raises(GatewayError):
        keep_portfolios(session, gateway, NOW + timedelta(minutes=1))
    (kept,) = session.scalars(select(Portfolio))
    assert kept.fetched_at.day == TODAY.day


def test_there_is_one_row_of_the_session(session: Session, gateway: Gateway) -> None:
    for _ in range(3):
        keep_session(session, gateway, NOW)
    assert len(list(session.scalars(select(GatewaySession)))) == 1


@pytest.mark.parametrize(
    "operation",
    [
        lambda client: client.place_order({"conid": 1}, {}, "DU0000001"),
        lambda client: client.cancel_order("1", "DU0000001"),
        lambda client: client.modify_order("1", {}, {}, "DU0000001"),
        lambda client: client.whatif_order({"conid": 1}, "DU0000001"),
        lambda client: client.reply("1", True),
        lambda client: client.live_orders(),
        lambda client: client.logout(),
        lambda client: client.get("iserver/accounts/../account/DU0000001/orders"),
        lambda client: client.post("iserver/account/DU0000001/orders"),
        lambda client: client.delete("iserver/account/DU0000001/order/1"),
    ],
)
def test_no_order_ever_leaves(gateway_url: str, ca_file: Path, ibkr: FakeIbkr, operation) -> None:  # type: ignore[no-untyped-def]
    client = ReadOnlyClient(gateway_url, ca_file, 5)
    with pytest.raises((NotAllowedError, TypeError, AttributeError)):
        operation(client)
    assert ibkr.requests == []


def test_the_list_of_allowed_requests_names_no_order() -> None:
    for path in (
        "iserver/account/DU1/orders",
        "iserver/account/orders",
        "iserver/reply/1",
        "iserver/account/DU1/order/2",
    ):
        for method in ("GET", "POST", "DELETE", "PUT"):
            assert not ALLOWED.fullmatch(f"{method} {path}")
