"""Trading days, gaps, splits and time zones."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from fake_ibkr import TODAY, FakeIbkr, trading_days
from ibkr_backend.database import Adjustment, KeptBar, Refresh, kept_dates, symbols_overview
from ibkr_backend.gateway import Bar, Gateway
from ibkr_backend.history import fill_gaps, refresh
from ibkr_backend.markets import MARKETS, market_of
from ibkr_backend.trading_days import trading_days as calendar_days
from sqlalchemy import delete, select
from sqlalchemy.orm import Session
from test_backend_refresh import NOW, START


def weekdays(_: str, first: date, last: date) -> list[date]:
    return trading_days(first, last)


def test_the_calendar_knows_holidays_and_closures() -> None:
    days = calendar_days("XNYS", date(2012, 10, 26), date(2012, 11, 23))
    # Hurricane Sandy closed the exchange on the 29th and 30th; Thanksgiving was on the 22nd.
    assert days[:2] == [date(2012, 10, 26), date(2012, 10, 31)]
    assert date(2012, 11, 22) not in days and date(2012, 11, 23) in days
    assert len(calendar_days("XNYS", date(2012, 1, 1), date(2012, 12, 31))) == 250


def test_a_lost_day_is_found_and_fetched(session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    refresh(session, gateway, "AAPL", START, NOW)
    lost = sorted(ibkr.closes)[5]
    session.execute(delete(KeptBar).where(KeptBar.date == lost))
    session.commit()
    assert fill_gaps(session, gateway, "AAPL", weekdays) == []
    assert kept_dates(session, "AAPL", "ibkr") == sorted(ibkr.closes)


def test_a_day_that_ibkr_does_not_have_is_told_and_asked_for_once(
    session: Session, gateway: Gateway, ibkr: FakeIbkr
) -> None:
    hole = sorted(ibkr.closes)[5]
    del ibkr.closes[hole]
    refresh(session, gateway, "AAPL", START, NOW)
    assert symbols_overview(session, ["AAPL"])[0]["missing"] is None
    assert fill_gaps(session, gateway, "AAPL", weekdays) == [hole.isoformat()]
    assert symbols_overview(session, ["AAPL"])[0]["missing"] == [hole.isoformat()]
    before = len(ibkr.requests)
    assert fill_gaps(session, gateway, "AAPL", weekdays) == [hole.isoformat()]
    assert len(ibkr.requests) == before


def test_an_exchange_without_a_calendar_has_no_gaps_to_tell(session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    ibkr.exchange = "ELSEWHERE"
    refresh(session, gateway, "AAPL", START, NOW)
    assert fill_gaps(session, gateway, "AAPL", weekdays) == []
    assert session.get_one(Refresh, "AAPL").missing is None


def test_a_split_is_noted_with_its_day_and_ratio(session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    refresh(session, gateway, "AAPL", START, NOW - timedelta(days=1))
    *_, split = sorted(ibkr.closes)
    session.execute(delete(KeptBar).where(KeptBar.date == split))
    session.commit()
    ibkr.closes = {day: close / 4 for day, close in ibkr.closes.items()}
    refresh(session, gateway, "AAPL", START, NOW)
    (noted,) = session.scalars(select(Adjustment))
    assert (noted.symbol, noted.date, noted.ratio) == ("AAPL", split, pytest.approx(4))
    assert symbols_overview(session, ["AAPL"])[0]["splits"][0]["ratio"] == pytest.approx(4)


def test_an_unchanged_history_notes_no_split(session: Session, gateway: Gateway, ibkr: FakeIbkr) -> None:
    refresh(session, gateway, "AAPL", TODAY - timedelta(days=5), NOW)
    refresh(session, gateway, "AAPL", START, NOW)
    assert list(session.scalars(select(Adjustment))) == []


@pytest.mark.parametrize(
    ("exchange", "opened", "day"),
    [
        ("NASDAQ", datetime(2026, 1, 5, 14, 30, tzinfo=UTC), date(2026, 1, 5)),
        ("NASDAQ", datetime(2026, 7, 6, 13, 30, tzinfo=UTC), date(2026, 7, 6)),
        # The session of the 6th begins in Sydney when it is the 5th in Greenwich.
        ("ASX", datetime(2026, 1, 5, 23, 0, tzinfo=UTC), date(2026, 1, 6)),
        ("TSEJ", datetime(2026, 1, 6, 0, 0, tzinfo=UTC), date(2026, 1, 6)),
        ("NASDAQ.NMS", datetime(2026, 1, 6, 4, 59, tzinfo=UTC), date(2026, 1, 5)),
    ],
)
def test_a_bar_is_of_the_day_of_its_exchange(exchange: str, opened: datetime, day: date) -> None:
    market = market_of(exchange)
    assert market
    point = {"t": int(opened.timestamp() * 1000)} | dict.fromkeys("ohlcv", 1)
    assert Bar.from_point(point, market).date == day


def test_a_day_is_settled_in_the_evening_of_its_exchange() -> None:
    market = MARKETS["NASDAQ"]
    zone = ZoneInfo("America/New_York")
    assert market.last_settled_day(datetime(2026, 11, 20, 17, 59, tzinfo=zone)) == date(2026, 11, 19)
    assert market.last_settled_day(datetime(2026, 11, 20, 18, 0, tzinfo=zone)) == date(2026, 11, 20)
    assert MARKETS["ASX"].last_settled_day(datetime(2026, 11, 20, 18, 0, tzinfo=zone)) == date(2026, 11, 20)


def test_every_calendar_of_the_table_exists() -> None:
    import exchange_calendars

    names = set(exchange_calendars.get_calendar_names(include_aliases=False))
    assert {market.calendar for market in MARKETS.values()} <= names
