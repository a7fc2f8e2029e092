"""The tasks: keep the bars of the configured symbols fresh."""

import functools
import logging
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from ibkr_backend.celery_app import LOOK_SECONDS, app
from ibkr_backend.database import Refresh, kept_bars, last_date, make_engine, replace_bars, utc
from ibkr_backend.gateway import Bar, Gateway, GatewayError, NoDataError, Source
from ibkr_backend.settings import WorkerSettings

# The last kept bar may be of a day that was still trading, and IBKR corrects the last days: ask for them again.
OVERLAP = timedelta(days=7)
# A larger difference between a kept and a newly fetched close means that the history was adjusted, as for a split.
ADJUSTED = 0.001
LONGEST_RETRY_SECONDS = 300

log = logging.getLogger(__name__)


@functools.cache
def worker_settings() -> WorkerSettings:
    """Read the settings once in each worker process."""
    return WorkerSettings.load()


@functools.cache
def engine() -> Engine:
    """Make the database engine once in each worker process."""
    return make_engine(worker_settings())


@functools.cache
def gateway() -> Gateway:
    """Make the gateway's client once in each worker process: it spaces out the requests."""
    return Gateway(worker_settings().gateway_url, worker_settings().gateway_ca_file)


@app.task
def ping() -> str:
    """Return "pong": broker, worker and result backend work."""
    return "pong"


@app.task
def refresh_all_bars() -> list[str]:
    """Send a refresh for each configured symbol that is due; returns those symbols."""
    settings = worker_settings()
    with Session(engine()) as session:
        refreshes = {refresh.symbol: refresh for refresh in session.scalars(select(Refresh))}
    now = datetime.now(UTC)
    due = [s for s in settings.bars_symbols if is_due(refreshes.get(s), now, settings.bars_refresh_seconds)]
    for symbol in due:
        refresh_bars.apply_async((symbol,), expires=LOOK_SECONDS)
    return due


@app.task(throws=(GatewayError,))
def refresh_bars(symbol: str) -> dict[str, Any]:
    """Fetch what is missing of one symbol.

    Returns:
        ``{"symbol", "source", "fetched", "first", "last"}``, dates in ISO format.

    Raises:
        GatewayError: recorded in the table ``refreshes``; kept bars stay as they are.
    """
    settings = worker_settings()
    with Session(engine()) as session:
        return refresh(session, gateway(), symbol, settings.bars_start, datetime.now(UTC))


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
    """Bring the kept bars of ``symbol`` up to date, all or nothing, and record the outcome."""
    try:
        conid, source = gateway.find_stock(symbol)
        bars, everything = missing_bars(session, gateway, symbol, conid, source, start, now.date())
    except GatewayError as error:
        session.rollback()
        record = refresh_record(session, symbol, now)
        record.last_error, record.failures = str(error), record.failures + 1
        session.commit()
        raise
    session.rollback()
    # Taken first, this row's lock makes two refreshes of one symbol write one after the other.
    record = refresh_record(session, symbol, now)
    replace_bars(session, symbol, source, bars, everything=everything)
    if everything:
        record.source, record.history_start = source, start
    record.last_success, record.last_error, record.failures = now, None, 0
    session.commit()
    log.info("%s: %d bars fetched, source %s%s", symbol, len(bars), source, ", whole history" if everything else "")
    return {
        "symbol": symbol,
        "source": source,
        "fetched": len(bars),
        "first": bars[0].date.isoformat() if bars else None,
        "last": bars[-1].date.isoformat() if bars else None,
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
    session: Session, gateway: Gateway, symbol: str, conid: int, source: Source, start: date, today: date
) -> tuple[list[Bar], bool]:
    """Fetch what is not kept yet: bars, ascending, and whether they are the whole history.

    The whole history is fetched when none is kept from this source, when ``start`` was moved to an earlier date, and
    when IBKR has adjusted it since.
    """
    record = session.get(Refresh, symbol)
    last = last_date(session, symbol, source)
    complete = record and record.source == source and record.history_start and record.history_start <= start
    if last and complete:
        begin = max(start, last - OVERLAP)
        # The connection must not wait inside a transaction for a slow gateway.
        kept = {bar.date: bar.close for bar in kept_bars(session, symbol, source, begin, last - timedelta(days=1))}
        session.rollback()
        try:
            bars = gateway.daily_bars(conid, source, begin, today)
        except NoDataError:
            return [], False
        if not any(bar.date in kept and abs(bar.close / kept[bar.date] - 1) > ADJUSTED for bar in bars):
            return bars, False
        log.warning("%s: IBKR has adjusted its history: fetching all of it again", symbol)
    session.rollback()
    return gateway.daily_bars(conid, source, start, today), True
