"""Fetching history: paging, what is missing, adjusted history, sources kept apart, and every way it can fail."""

import threading
from datetime import UTC, date, datetime, timedelta

import pytest
from fake_ibkr import TODAY, FakeIbkr, trading_days
from ibkr_backend.database import Refresh, answering_source, kept_bars, symbols_overview
from ibkr_backend.gateway import Gateway, GatewayError, NoDataError, NotLoggedInError, Stock
from ibkr_backend.history import is_due, refresh
from sqlalchemy.orm import Session

START = date(2000, 1, 1)
STOCK = Stock(265598, "NASDAQ", "ibkr")
NOW = datetime(TODAY.year, TODAY.month, TODAY.day, 22, tzinfo=UTC)


def closes(session: Session, source: str) -> dict[date, float]:
    return {bar.date: bar.close for bar in kept_bars(session, "AAPL", source)}  # type: ignore[arg-type]


def test_a_long_history_is_fetched_whole_in_pages(session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    days = trading_days(date(2015, 6, 1), TODAY)
    ibkr.closes = {day: 10.0 + n for n, day in enumerate(days)}
    result = refresh(session, gateway, "AAPL", START, NOW)
    assert closes(session, "ibkr") == ibkr.closes
    assert result == {
        "symbol": "AAPL",
        "source": "ibkr",
        "fetched": len(days),
        "first": "2015-06-01",
        "last": TODAY.isoformat(),
        "changed": True,
    }
    assert {request["conid"] for request in ibkr.history_requests} == {"265598"}
    assert "startTime" not in ibkr.history_requests[0]
    # Three pages of at most 1000, and the last answer, "no data", asked three times.
    assert len(ibkr.history_requests) == 3 + 3


def test_only_what_is_missing_is_fetched(session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    history = dict(ibkr.closes)
    *_, last = sorted(history)
    ibkr.closes = {day: close for day, close in history.items() if day < last - timedelta(days=3)}
    refresh(session, gateway, "AAPL", START, NOW - timedelta(days=3))
    ibkr.closes, ibkr.requests = history, []
    refresh(session, gateway, "AAPL", START, NOW)
    assert closes(session, "ibkr") == history
    assert len(ibkr.history_requests) == 1
    assert int(ibkr.history_requests[0]["period"].removesuffix("d")) < 20


def test_the_last_bar_follows_its_day(session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    refresh(session, gateway, "AAPL", START, NOW)
    ibkr.closes[TODAY] *= 1.05
    ibkr.requests = []
    refresh(session, gateway, "AAPL", START, NOW)
    assert closes(session, "ibkr") == ibkr.closes
    assert len(ibkr.history_requests) == 1


def test_a_split_brings_the_whole_history_again(session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    refresh(session, gateway, "AAPL", START, NOW)
    ibkr.closes = {day: close / 4 for day, close in ibkr.closes.items()}
    refresh(session, gateway, "AAPL", START, NOW)
    assert closes(session, "ibkr") == ibkr.closes


def test_an_earlier_start_brings_the_older_bars(session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    first, *_, middle = sorted(ibkr.closes)[:6]
    refresh(session, gateway, "AAPL", middle, NOW)
    assert min(closes(session, "ibkr")) == middle
    refresh(session, gateway, "AAPL", START, NOW)
    assert min(closes(session, "ibkr")) == first


def test_simulated_bars_never_stand_beside_real_ones(session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    ibkr.simulated = True
    simulated = {day: 10.0 for day in trading_days(date(2026, 1, 1), TODAY)}
    real, ibkr.closes = ibkr.closes, simulated
    refresh(session, gateway, "AAPL", START, NOW)
    assert answering_source(session, "AAPL") == "simulated"
    ibkr.simulated, ibkr.closes = False, real
    refresh(session, gateway, "AAPL", START, NOW)
    assert answering_source(session, "AAPL") == "ibkr"
    assert closes(session, "ibkr") == real
    assert closes(session, "simulated") == simulated
    (row,) = symbols_overview(session, ["AAPL"])
    assert (row["source"], row["count"], row["first"]) == ("ibkr", len(real), min(real))


def test_a_gateway_that_changes_its_source_between_pages_is_refused(gateway: Gateway) -> None:
    with pytest.raises(GatewayError, match="real and simulated"):
        gateway.daily_bars(Stock(265598, "NASDAQ", "simulated"), START, TODAY)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ((429, "too many"), "request limit"),
        ((500, "Chart data unavailable"), "no data"),
        ((500, "something else"), "HTTP 500: .*something else"),
        ((503, "away"), "HTTP 503"),
    ],
)
def test_a_lasting_fault_is_recorded_and_kept_bars_stay(
    session: Session, gateway: Gateway, ibkr: FakeIbkr, fault: tuple[int, str], words: str
) -> None:
    ibkr.faults = [fault] * 3
    with pytest.raises(GatewayError, match=words):
        refresh(session, gateway, "AAPL", START, NOW)
    record = session.get_one(Refresh, "AAPL")
    assert record.failures == 1
    assert record.last_success is None
    assert record.last_error
    assert closes(session, "ibkr") == {}
    refresh(session, gateway, "AAPL", START, NOW)
    assert (record.failures, record.last_error) == (0, None)
    assert closes(session, "ibkr") == ibkr.closes


def test_a_fault_in_the_middle_keeps_nothing_of_the_history(session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    ibkr.page_size = 5
    original = ibkr.history

    def fail_on_second_page(query: dict[str, list[str]]) -> tuple[int, object]:
        return (502, {}) if "startTime" in query else original(query)

    ibkr.history = fail_on_second_page  # type: ignore[method-assign]
    with pytest.raises(GatewayError, match="HTTP 502"):
        refresh(session, gateway, "AAPL", START, NOW)
    assert closes(session, "ibkr") == {}


def test_a_passing_fault_is_tried_again(session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    ibkr.faults = [(429, "too many"), (500, "Chart data unavailable")]
    refresh(session, gateway, "AAPL", START, NOW)
    assert closes(session, "ibkr") == ibkr.closes


def test_logged_out_is_an_error_of_its_own(session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    refresh(session, gateway, "AAPL", START, NOW)
    ibkr.logged_in = False
    with pytest.raises(NotLoggedInError):
        refresh(session, gateway, "AAPL", START, NOW)
    (row,) = symbols_overview(session, ["AAPL"])
    assert row["last_error"] == "nobody is logged in at the gateway"
    assert row["last_refresh"] == NOW
    assert row["count"] == len(ibkr.closes)


def test_no_history_at_all(gateway: Gateway, ibkr: FakeIbkr) -> None:
    ibkr.closes = {}
    with pytest.raises(NoDataError):
        gateway.daily_bars(STOCK, START, TODAY)


def test_an_unknown_certificate_is_refused(gateway_url: str) -> None:
    with pytest.raises(GatewayError, match="certificate verify failed"):
        Gateway(gateway_url, None, spacing=0).find_stock("AAPL")


def test_a_slow_gateway_ends_in_an_error(gateway_url: str, ca_file, ibkr: FakeIbkr) -> None:  # type: ignore[no-untyped-def]
    ibkr.hang = threading.Event()
    with pytest.raises(GatewayError, match="does not answer: no answer in time"):
        Gateway(gateway_url, ca_file, timeout=0.2, spacing=0).find_stock("AAPL")


@pytest.mark.parametrize("price", [float("nan"), 0.0, -1.0])
def test_an_impossible_price_is_refused(gateway: Gateway, ibkr: FakeIbkr, price: float) -> None:
    ibkr.closes[TODAY] = price
    with pytest.raises(GatewayError, match="without valid prices"):
        gateway.daily_bars(STOCK, START, TODAY)


@pytest.mark.parametrize(
    ("failures", "seconds", "due"),
    [(0, 3500, False), (0, 3600, True), (1, 30, False), (1, 60, True), (2, 60, False), (2, 120, True), (9, 300, True)],
)
def test_when_a_symbol_is_due(failures: int, seconds: int, due: bool) -> None:
    record = Refresh(symbol="AAPL", failures=failures, last_attempt=NOW - timedelta(seconds=seconds))
    assert is_due(record, NOW, 3600) is due


def test_a_symbol_never_refreshed_is_due() -> None:
    assert is_due(None, NOW, 3600)
