"""Tables and queries. Every function takes an open session and leaves committing to its caller."""

import datetime as dt
from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    DateTime,
    Double,
    Engine,
    String,
    Text,
    create_engine,
    delete,
    func,
    insert,
    select,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from ibkr_backend.gateway import Bar, Source
from ibkr_backend.settings import DatabaseSettings
from ibkr_backend.symbols import SYMBOL_LENGTH


class Base(DeclarativeBase):
    """Base of the tables; migrations create them."""


class KeptBar(Base):
    """One daily bar. ``source`` is part of the key: simulated and real bars live side by side and never replace
    each other."""

    __tablename__ = "bars"
    __table_args__ = (CheckConstraint("source IN ('ibkr', 'simulated')", name="bars_source_check"),)

    symbol: Mapped[str] = mapped_column(String(SYMBOL_LENGTH), primary_key=True)
    source: Mapped[str] = mapped_column(String(9), primary_key=True)
    date: Mapped[dt.date] = mapped_column(primary_key=True)
    open: Mapped[float] = mapped_column(Double)
    high: Mapped[float] = mapped_column(Double)
    low: Mapped[float] = mapped_column(Double)
    close: Mapped[float] = mapped_column(Double)
    volume: Mapped[float] = mapped_column(Double)
    fetched_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True))


class Refresh(Base):
    """The outcome of the last refresh of one symbol. ``history_start`` is how far back the bars of ``source`` were
    asked for; ``missing`` the trading days (ISO 8601) within them for which IBKR has no bar, None if the exchange's
    calendar is not known or not asked yet."""

    __tablename__ = "refreshes"

    symbol: Mapped[str] = mapped_column(String(SYMBOL_LENGTH), primary_key=True)
    source: Mapped[str | None] = mapped_column(String(9))
    history_start: Mapped[dt.date | None]
    last_attempt: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True))
    last_success: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True))
    last_error: Mapped[str | None] = mapped_column(Text)
    failures: Mapped[int]
    exchange: Mapped[str | None] = mapped_column(String(20))
    missing: Mapped[list[str] | None] = mapped_column(JSON)


class Adjustment(Base):
    """A split, or another event for which IBKR adjusted its history, noted when kept bars no longer agreed with it:
    prices before ``date`` were divided by ``ratio``."""

    __tablename__ = "adjustments"

    symbol: Mapped[str] = mapped_column(String(SYMBOL_LENGTH), primary_key=True)
    source: Mapped[str] = mapped_column(String(9), primary_key=True)
    date: Mapped[dt.date] = mapped_column(primary_key=True)
    ratio: Mapped[float] = mapped_column(Double)
    noted_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True))


class Signal(Base):
    """What a version of a model said at the close of a day. ``live``: of a day whose outcome the model had not seen;
    ``out_of_sample``: by the model's recipe, fitted on earlier days, in its walk-forward evaluation."""

    __tablename__ = "signals"
    __table_args__ = (
        CheckConstraint("source IN ('ibkr', 'simulated')", name="signals_source_check"),
        CheckConstraint("kind IN ('live', 'out_of_sample')", name="signals_kind_check"),
    )

    symbol: Mapped[str] = mapped_column(String(SYMBOL_LENGTH), primary_key=True)
    source: Mapped[str] = mapped_column(String(9), primary_key=True)
    kind: Mapped[str] = mapped_column(String(13), primary_key=True)
    model_version: Mapped[str] = mapped_column(String(20), primary_key=True)
    date: Mapped[dt.date] = mapped_column(primary_key=True)
    model_name: Mapped[str] = mapped_column(String(255))
    probability: Mapped[float] = mapped_column(Double)
    position: Mapped[int]
    made_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True))


class Scoring(Base):
    """The outcome of the last scoring of one symbol: by which version, up to which bar of which source."""

    __tablename__ = "scorings"

    symbol: Mapped[str] = mapped_column(String(SYMBOL_LENGTH), primary_key=True)
    source: Mapped[str] = mapped_column(String(9))
    model_name: Mapped[str] = mapped_column(String(255))
    model_version: Mapped[str] = mapped_column(String(20))
    last_bar: Mapped[dt.date]
    attempted_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True))
    error: Mapped[str | None] = mapped_column(Text)


class Portfolio(Base):
    """What an account held when it was last asked; ``summary`` and ``positions`` in IBKR's own field names."""

    __tablename__ = "portfolios"

    account_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    title: Mapped[str] = mapped_column(Text)
    currency: Mapped[str | None] = mapped_column(String(8))
    paper: Mapped[bool | None]
    simulated: Mapped[bool]
    summary: Mapped[dict[str, Any]] = mapped_column(JSON)
    positions: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    fetched_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True))


class GatewaySession(Base):
    """The gateway's session as the keep-alive last saw it: one row. ``alert`` stands from when a session was dropped
    until somebody is logged in again."""

    __tablename__ = "gateway_session"

    id: Mapped[int] = mapped_column(primary_key=True)
    checked_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True))
    logged_in: Mapped[bool]
    reason: Mapped[str] = mapped_column(Text)
    logged_in_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True))
    alert: Mapped[str | None] = mapped_column(Text)
    alerted_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True))
    missed: Mapped[int]
    drops: Mapped[int]
    reopened: Mapped[int]


#: Connections of the API, and of a process that works on tasks, one at a time. The stack allows the database's owner
#: the sum of all processes.
API_CONNECTIONS = 10
TASK_CONNECTIONS = 3


def make_engine(settings: DatabaseSettings, connections: int = API_CONNECTIONS) -> Engine:
    """Make an engine with a small pool that notices a lost server within seconds.

    ``connections`` is the most that it opens; two of them stay open.
    """
    url = settings.sqlalchemy_url
    if url.get_backend_name() != "postgresql":
        return create_engine(url)
    return create_engine(
        url,
        pool_size=2,
        max_overflow=connections - 2,
        pool_pre_ping=True,
        connect_args={"connect_timeout": 2, "tcp_user_timeout": 5000, "application_name": "ibkr_backend"},
    )


def utc(moment: dt.datetime | None) -> dt.datetime | None:
    """Give a stored moment its time zone, which SQLite does not keep."""
    return moment.replace(tzinfo=dt.UTC) if moment and moment.tzinfo is None else moment


def answering_source(session: Session, symbol: str) -> Source | None:
    """Say which source answers for ``symbol``: real bars as soon as one is kept, else simulated, else None.

    It depends on the symbol alone, so no choice of dates brings bars of two sources into one answer.
    """
    sources = set(session.scalars(select(KeptBar.source).where(KeptBar.symbol == symbol).distinct()))
    return "ibkr" if "ibkr" in sources else "simulated" if sources else None


def kept_bars(
    session: Session, symbol: str, source: Source, start: dt.date | None = None, end: dt.date | None = None
) -> list[KeptBar]:
    """Return the bars of one source, ascending, both ends included."""
    query = select(KeptBar).where(KeptBar.symbol == symbol, KeptBar.source == source).order_by(KeptBar.date)
    if start:
        query = query.where(KeptBar.date >= start)
    if end:
        query = query.where(KeptBar.date <= end)
    return list(session.scalars(query))


def last_date(session: Session, symbol: str, source: Source) -> dt.date | None:
    """Return the date of the newest kept bar."""
    return session.scalar(select(func.max(KeptBar.date)).where(KeptBar.symbol == symbol, KeptBar.source == source))


def replace_bars(session: Session, symbol: str, source: Source, bars: Iterable[Bar], *, everything: bool) -> None:
    """Keep ``bars`` in place of those from the first of their dates on, or of all of this symbol and source."""
    rows = bar_rows(symbol, source, bars)
    if not rows:
        return
    outdated = delete(KeptBar).where(KeptBar.symbol == symbol, KeptBar.source == source)
    if not everything:
        outdated = outdated.where(KeptBar.date >= min(row["date"] for row in rows))
    session.execute(outdated)
    session.execute(insert(KeptBar), rows)


def add_bars(session: Session, symbol: str, source: Source, bars: Iterable[Bar]) -> None:
    """Keep bars of days of which none is kept."""
    rows = bar_rows(symbol, source, bars)
    if rows:
        session.execute(insert(KeptBar), rows)


def bar_rows(symbol: str, source: Source, bars: Iterable[Bar]) -> list[dict[str, Any]]:
    """Return bars as rows of their table."""
    now = dt.datetime.now(dt.UTC)
    return [
        {"symbol": symbol, "source": source, "fetched_at": now}
        | {name: getattr(bar, name) for name in ("date", "open", "high", "low", "close", "volume")}
        for bar in bars
    ]


def kept_dates(session: Session, symbol: str, source: str) -> list[dt.date]:
    """Return the dates of the kept bars, ascending."""
    query = select(KeptBar.date).where(KeptBar.symbol == symbol, KeptBar.source == source).order_by(KeptBar.date)
    return list(session.scalars(query))


def signals_of(
    session: Session, symbol: str, source: str, start: dt.date | None = None, end: dt.date | None = None
) -> list[Signal]:
    """Return the signals made from bars of one source, ascending by date, both ends included."""
    query = select(Signal).where(Signal.symbol == symbol, Signal.source == source)
    if start:
        query = query.where(Signal.date >= start)
    if end:
        query = query.where(Signal.date <= end)
    return list(session.scalars(query.order_by(Signal.date, Signal.kind.desc(), Signal.made_at)))


def symbols_overview(session: Session, symbols: list[str]) -> list[dict[str, Any]]:
    """Describe each symbol: answering source, first and last date, count of bars, outcome of its last refresh."""
    ranges = {
        (row.symbol, row.source): row
        for row in session.execute(
            select(
                KeptBar.symbol,
                KeptBar.source,
                func.min(KeptBar.date).label("first"),
                func.max(KeptBar.date).label("last"),
                func.count().label("bars"),
            )
            .where(KeptBar.symbol.in_(symbols))
            .group_by(KeptBar.symbol, KeptBar.source)
        )
    }
    splits: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in session.scalars(select(Adjustment).where(Adjustment.symbol.in_(symbols)).order_by(Adjustment.date)):
        noted = {"date": row.date, "ratio": row.ratio, "noted_at": utc(row.noted_at)}
        splits.setdefault((row.symbol, row.source), []).append(noted)
    refreshes = {row.symbol: row for row in session.scalars(select(Refresh).where(Refresh.symbol.in_(symbols)))}
    overview = []
    for symbol in symbols:
        kept = ranges.get((symbol, "ibkr")) or ranges.get((symbol, "simulated"))
        refresh = refreshes.get(symbol)
        overview.append(
            {
                "symbol": symbol,
                "source": kept.source if kept else None,
                "simulated": kept.source == "simulated" if kept else None,
                "first": kept.first if kept else None,
                "last": kept.last if kept else None,
                "count": kept.bars if kept else 0,
                "last_refresh": utc(refresh.last_success) if refresh else None,
                "last_attempt": utc(refresh.last_attempt) if refresh else None,
                "last_error": refresh.last_error if refresh else None,
                "exchange": refresh.exchange if refresh else None,
                "missing": refresh.missing if refresh and kept and refresh.source == kept.source else None,
                "splits": splits.get((symbol, kept.source), []) if kept else [],
            }
        )
    return overview
