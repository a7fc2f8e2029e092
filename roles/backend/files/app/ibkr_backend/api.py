"""The HTTP API and the page with the state of the stack."""

import functools
import logging
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from ibkr_backend import __version__, logs
from ibkr_backend.database import answering_source, kept_bars, last_date, make_engine, symbols_overview
from ibkr_backend.gateway import Source
from ibkr_backend.readiness import Readiness, one_line
from ibkr_backend.settings import SYMBOL_PATTERN, ApiSettings

if TYPE_CHECKING:
    from celery import Celery

log = logging.getLogger(__name__)


class BarOut(BaseModel):
    """One trading day; prices in the instrument's currency, volume as IBKR reports it."""

    date: date
    open: float
    high: float
    low: float
    close: float
    volume: float


class BarsOut(BaseModel):
    """Daily bars of one source, ascending; adjusted for splits, not for dividends."""

    symbol: str
    source: Source
    simulated: bool
    adjusted: bool
    bars: list[BarOut]


class SymbolOut(BaseModel):
    """A configured symbol with what is kept of it; moments are UTC."""

    symbol: str
    source: Source | None
    simulated: bool | None
    first: date | None
    last: date | None
    count: int
    last_refresh: datetime | None
    last_attempt: datetime | None
    last_error: str | None


class QueuedOut(BaseModel):
    """A refresh that waits for a worker."""

    symbol: str
    task_id: str


def _normal_symbol(symbol: Annotated[str, Path(pattern=f"(?i){SYMBOL_PATTERN}")]) -> str:
    return symbol.upper()


def _session(request: Request) -> Iterator[Session]:
    with Session(request.app.state.engine) as session:
        yield session


def _settings(request: Request) -> ApiSettings:
    settings: ApiSettings = request.app.state.settings
    return settings


NormalSymbol = Annotated[str, Depends(_normal_symbol)]
OpenSession = Annotated[Session, Depends(_session)]
Configured = Annotated[ApiSettings, Depends(_settings)]


class _WithoutProbes(logging.Filter):
    """Keeps the container's health check out of the access log."""

    def filter(self, record: logging.LogRecord) -> bool:
        return " /health " not in record.getMessage()


def create_app(settings: ApiSettings | None = None) -> FastAPI:
    """Make the application; without ``settings`` they come from the environment."""
    settings = settings or ApiSettings.load()
    logs.configure(settings.log_level)
    logging.getLogger("uvicorn.access").addFilter(_WithoutProbes())
    # Documentation pages would load scripts from a CDN, which a host without internet access cannot.
    app = FastAPI(title=settings.stack_name, version=__version__, docs_url=None, redoc_url=None)
    app.state.settings = settings
    app.state.engine = make_engine(settings)
    app.state.readiness = Readiness(settings, app.state.engine)
    app.add_exception_handler(OperationalError, _database_away)
    app.add_exception_handler(ProgrammingError, _database_away)
    app.get("/health")(health)
    app.get("/ready")(ready)
    app.get("/api/v1/symbols")(symbols)
    app.get("/api/v1/bars/{symbol}")(bars)
    app.post("/api/v1/bars/{symbol}/refresh", status_code=202)(queue_refresh)
    app.get("/", response_class=HTMLResponse, include_in_schema=False)(page)
    return app


async def _database_away(_: Request, error: Exception) -> JSONResponse:
    log.error("PostgreSQL: %s", one_line(error))
    return JSONResponse({"detail": f"PostgreSQL does not answer as needed: {one_line(error)}"}, status_code=503)


async def health() -> dict[str, str]:
    """Say that this process answers; asks no other service."""
    return {"status": "ok", "version": __version__}


def ready(request: Request, response: Response) -> dict[str, Any]:
    """Tell the state of each service, within two seconds; 503 when one that is required is away."""
    report: dict[str, Any] = request.app.state.readiness.report()
    response.status_code = 200 if report["ready"] else 503
    return report


def symbols(session: OpenSession, settings: Configured) -> list[SymbolOut]:
    """List the configured symbols with the range that is kept of each and the outcome of its last refresh."""
    return [SymbolOut(**row) for row in symbols_overview(session, settings.bars_symbols)]


def bars(
    symbol: NormalSymbol,
    session: OpenSession,
    settings: Configured,
    start: Annotated[date | None, Query(description="first day")] = None,
    end: Annotated[date | None, Query(description="last day")] = None,
    source: Annotated[
        Literal["ibkr", "simulated"] | None, Query(description="by default real bars, or simulated if none are kept")
    ] = None,
) -> BarsOut:
    """Return kept daily bars, ascending, always of one source."""
    if start and end and start > end:
        raise HTTPException(422, f"start {start} is after end {end}")
    answering = source or answering_source(session, symbol)
    kept = kept_bars(session, symbol, answering, start, end) if answering else []
    if not answering or (not kept and last_date(session, symbol, answering) is None):
        raise HTTPException(404, _nothing_kept(symbol, source, settings))
    return BarsOut(
        symbol=symbol,
        source=answering,
        simulated=answering == "simulated",
        adjusted=True,
        bars=[BarOut.model_validate(bar, from_attributes=True) for bar in kept],
    )


def _nothing_kept(symbol: str, source: str | None, settings: ApiSettings) -> str:
    kept = f"No {source or 'daily'} bars of {symbol} are kept. "
    configured = ", ".join(settings.bars_symbols) or "none"
    if symbol in settings.bars_symbols:
        return (
            f"{kept}Configured symbols: {configured}. Log in to the gateway, then POST /api/v1/bars/{symbol}/refresh, "
            "or wait for the next refresh; GET /api/v1/symbols shows the last error."
        )
    return f"{kept}Configured symbols: {configured}. Add {symbol} to BARS_SYMBOLS to have its history fetched."


def queue_refresh(symbol: NormalSymbol, settings: Configured) -> QueuedOut:
    """Ask a worker to fetch what is missing of a symbol."""
    if symbol not in settings.bars_symbols:
        configured = ", ".join(settings.bars_symbols) or "none"
        raise HTTPException(404, f"{symbol} is not configured. Configured symbols (BARS_SYMBOLS): {configured}.")
    from kombu.exceptions import OperationalError as BrokerError

    try:
        task = _sender().send_task("ibkr_backend.tasks.refresh_bars", (symbol,))
    except BrokerError as error:
        raise HTTPException(503, f"Redis does not answer: {one_line(error)}") from None
    return QueuedOut(symbol=symbol, task_id=task.id)


@functools.cache
def _sender() -> "Celery":
    # Celery takes 30 MB and half a second to import: only a process that queues something pays for it.
    from ibkr_backend.celery_app import make_sender

    return make_sender()


def page(request: Request, settings: Configured) -> str:
    """Show the state of the stack."""
    report = request.app.state.readiness.report()
    rows: list[dict[str, Any]] = []
    problem = None
    if report["dependencies"]["postgres"]["state"] == "ok":
        with Session(request.app.state.engine) as session:
            rows = symbols_overview(session, settings.bars_symbols)
    else:
        problem = "PostgreSQL does not answer, so what is kept cannot be shown."
    return TEMPLATES.get_template("stack.html").render(
        stack_name=settings.stack_name,
        version=__version__,
        now=datetime.now(UTC),
        report=report,
        rows=rows,
        problem=problem,
        public_urls={name: str(url) for name, url in settings.stack_public_urls.items()},
        refresh_minutes=settings.bars_refresh_seconds // 60,
    )


def _age(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "never"
    minutes = int((now - moment).total_seconds()) // 60
    if minutes < 1:
        return "just now"
    if minutes < 60:
        return f"{minutes} min ago"
    return f"{minutes // 60} h ago" if minutes < 48 * 60 else f"{minutes // 1440} days ago"


TEMPLATES = Environment(
    loader=PackageLoader("ibkr_backend"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["age"] = _age
