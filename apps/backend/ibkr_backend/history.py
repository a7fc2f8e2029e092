"""Keeps the daily bars of a symbol: what is missing is fetched, gaps are looked for, splits are noted."""

import logging
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from ibkr_backend.database import Adjustment, Refresh, add_bars, kept_bars, kept_dates, last_date, replace_bars, utc
from ibkr_backend.gateway import Bar, Gateway, GatewayError, NoDataError, Stock
from ibkr_backend.markets import market_of

# The last kept bar may be of a day that was still trading, and IBKR corrects the last days: ask for them again.
OVERLAP = timedelta(days=7)
# A larger difference between a kept and a newly fetched close means that the history was adjusted, as for a split.
ADJUSTED = 0.001
LONGEST_RETRY_SECONDS = 300

log = logging.getLogger(__name__)


def is_due(refresh: Refresh | None, now: datetime, interval_seconds: int) -> bool:
    """Say whether a symbol was never refreshed, its refresh is older than the interval, or a failed one is to be
    tried again: after one minute, then at growing distances."""
    if refresh is None:
        return True
    attempt = utc(refresh.last_attempt)
    assert attempt is not None
    wait = interval_seconds
    if refresh.failures:
        wait = min(interval_seconds, LONGEST_RETRY_SECONDS, 60 * 2 ** min(refresh.failures - 1, 10))
    # Beat's looks come a little less than their interval apart at times: a symbol due within a second is due.
    return now - attempt >= timedelta(seconds=wait - 1)


def refresh(session: Session, gateway: Gateway, symbol: str, start: date, now: datetime) -> dict[str, Any]:
    """Bring the kept bars of ``symbol`` up to date, all or nothing, and record the outcome.

    Returns:
        ``{"symbol", "source", "fetched", "first", "last", "changed"}``, dates in ISO format; ``changed`` says
        whether there are days or prices that were not kept before.
    """
    try:
        stock = gateway.find_stock(symbol)
        today = now.astimezone(stock.market.zone).date()
        bars, everything = missing_bars(session, gateway, symbol, stock, start, today)
    except GatewayError as error:
        session.rollback()
        record = refresh_record(session, symbol, now)
        record.last_error, record.failures = str(error), record.failures + 1
        session.commit()
        raise
    session.rollback()
    # Taken first, this row's lock makes two refreshes of one symbol write one after the other.
    record = refresh_record(session, symbol, now)
    before = kept_bars(session, symbol, stock.source, bars[0].date) if bars else []
    changed = {bar.date: bar.close for bar in bars} != {bar.date: bar.close for bar in before}
    if everything:
        note_adjustment(session, symbol, stock.source, {bar.date: bar.close for bar in before}, bars, now)
    replace_bars(session, symbol, stock.source, bars, everything=everything)
    if everything:
        record.source, record.history_start, record.missing = stock.source, start, None
    record.exchange = stock.exchange
    record.last_success, record.last_error, record.failures = now, None, 0
    session.commit()
    whole = ", whole history" if everything else ""
    log.info("%s: %d bars fetched, source %s%s", symbol, len(bars), stock.source, whole)
    return {
        "symbol": symbol,
        "source": stock.source,
        "fetched": len(bars),
        "first": bars[0].date.isoformat() if bars else None,
        "last": bars[-1].date.isoformat() if bars else None,
        "changed": changed,
    }


def refresh_record(session: Session, symbol: str, now: datetime) -> Refresh:
    """Return the symbol's row, locked, with this attempt noted."""
    record = session.get(Refresh, symbol, with_for_update=True)
    if record is None:
        record = Refresh(symbol=symbol, failures=0)
        session.add(record)
    record.last_attempt = now
    return record


def missing_bars(
    session: Session, gateway: Gateway, symbol: str, stock: Stock, start: date, today: date
) -> tuple[list[Bar], bool]:
    """Fetch what is not kept yet: bars, ascending, and whether they are the whole history.

    The whole history is fetched when none is kept from this source, when ``start`` was moved to an earlier date, and
    when IBKR has adjusted it since.
    """
    record = session.get(Refresh, symbol)
    last = last_date(session, symbol, stock.source)
    complete = record and record.source == stock.source and record.history_start and record.history_start <= start
    if last and complete:
        begin = max(start, last - OVERLAP)
        # The connection must not wait inside a transaction for a slow gateway.
        kept = {
            bar.date: bar.close for bar in kept_bars(session, symbol, stock.source, begin, last - timedelta(days=1))
        }
        session.rollback()
        try:
            bars = gateway.daily_bars(stock, begin, today)
        except NoDataError:
            return [], False
        if not any(bar.date in kept and abs(bar.close / kept[bar.date] - 1) > ADJUSTED for bar in bars):
            return bars, False
        log.warning("%s: IBKR has adjusted its history, fetching all of it again", symbol)
    session.rollback()
    return gateway.daily_bars(stock, start, today), True


def note_adjustment(
    session: Session, symbol: str, source: str, kept: dict[date, float], bars: list[Bar], now: datetime
) -> None:
    """Note by which ratio earlier prices were divided since they were kept, and from which day on they were not.

    Args:
        session: Open session.
        symbol: Ticker.
        source: Source of both.
        kept: Closes by date, as they were kept.
        bars: The whole history as IBKR has it now, ascending.
        now: Moment of the discovery.
    """
    ratios = {bar.date: kept[bar.date] / bar.close for bar in bars if bar.date in kept}
    changed = [day for day, ratio in ratios.items() if abs(ratio - 1) > ADJUSTED]
    if not changed:
        return
    # The last kept day may have been trading still when it was kept: the day before tells the ratio better.
    sample = sorted(changed)[-2:][0]
    days = [bar.date for bar in bars]
    following = [day for day in days if day > max(changed)]
    effective = following[0] if following else days[-1]
    session.merge(Adjustment(symbol=symbol, source=source, date=effective, ratio=ratios[sample], noted_at=now))
    log.warning("%s: prices before %s were divided by %.4g", symbol, effective, ratios[sample])


def fill_gaps(
    session: Session,
    gateway: Gateway,
    symbol: str,
    trading_days: Callable[[str, date, date], list[date]],
) -> list[str]:
    """Look for trading days within the kept bars that have none, ask IBKR for them once, and record those that it
    has no bar for.

    Args:
        session: Open session.
        gateway: Asked only when a day is missing that was not known to be.
        symbol: Ticker; its ``Refresh`` names exchange and source.
        trading_days: Calendar, first and last day to the days of trading.

    Returns:
        The days that stay missing, ISO 8601.
    """
    record = session.get(Refresh, symbol)
    market = market_of(record.exchange) if record else None
    if record is None or record.source is None or market is None:
        return []
    source, known = record.source, set(record.missing or [])
    kept = kept_dates(session, symbol, source)
    session.rollback()
    if not kept:
        return []
    expected = trading_days(market.calendar, kept[0], kept[-1])
    missing = sorted(set(expected) - set(kept))
    asked = [day for day in missing if day.isoformat() not in known]
    if asked:
        log.warning("%s: no bar for %d trading days, the first %s: requesting them", symbol, len(asked), asked[0])
        stock = gateway.find_stock(symbol)
        try:
            newest = min(kept[-1], max(asked) + OVERLAP)
            found = {bar.date: bar for bar in gateway.daily_bars(stock, asked[0], newest, newest=False)}
        except NoDataError:
            found = {}
        bars = [found[day] for day in asked if day in found] if stock.source == source else []
        add_bars(session, symbol, stock.source, bars)
        missing = [day for day in missing if day not in {bar.date for bar in bars}]
    record = session.get_one(Refresh, symbol, with_for_update=True)
    record.missing = [day.isoformat() for day in missing]
    session.commit()
    return record.missing
