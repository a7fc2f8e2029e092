"""The HTTP API."""

import asyncio
import functools
import logging
from collections.abc import Iterator
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, BeforeValidator
from sqlalchemy import select
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from ibkr_backend import __version__, logs, pages
from ibkr_backend.airflow_api import Airflow, AirflowError
from ibkr_backend.auth import Sessions, require_token
from ibkr_backend.bars_cache import BarsCache
from ibkr_backend.database import (
    Portfolio,
    Scoring,
    answering_source,
    make_engine,
    signals_of,
    symbols_overview,
    utc,
)
from ibkr_backend.gateway import Source
from ibkr_backend.guard import Guard
from ibkr_backend.metrics import RequestMetrics, ServiceMetrics
from ibkr_backend.mlflow_api import MLflow, MLflowError
from ibkr_backend.readiness import CLIENT_TIMEOUT, Readiness, one_line
from ibkr_backend.settings import ApiSettings
from ibkr_backend.symbols import SYMBOL_PATTERN

if TYPE_CHECKING:
    from celery import Celery

VERSIONS_SHOWN = 5
SECONDS_FOR_TRAINING = 10.0

log = logging.getLogger(__name__)


class Problem(BaseModel):
    """What is wrong, and what to do."""

    detail: str


class HealthOut(BaseModel):
    """The process serves."""

    status: Literal["ok"]
    version: str


class ServiceOut(BaseModel, extra="allow"):
    """The state of a service, with the reason; the gateway adds its three states."""

    state: Literal["ok", "failed"]
    reason: str


class ReadyOut(BaseModel):
    """Every service by name; ``processes`` do not decide whether the API is ready."""

    ready: bool
    dependencies: dict[str, ServiceOut]
    processes: dict[str, ServiceOut]


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


class SplitOut(BaseModel):
    """A split, or another event for which IBKR adjusted its history: earlier prices were divided by ``ratio``."""

    date: date
    ratio: float
    noted_at: datetime


class SymbolOut(BaseModel):
    """A configured symbol with what is kept of it; moments are UTC. ``missing`` are the trading days within the kept
    bars for which IBKR has none, null while that is not known."""

    symbol: str
    source: Source | None
    simulated: bool | None
    first: date | None
    last: date | None
    count: int
    last_refresh: datetime | None
    last_attempt: datetime | None
    last_error: str | None
    exchange: str | None
    missing: list[date] | None
    splits: list[SplitOut]


class QueuedOut(BaseModel):
    """A refresh that waits for a worker."""

    symbol: str
    task_id: str


class AccountOut(BaseModel):
    """An account as it was last seen; ``paper`` is null where IBKR does not tell."""

    account_id: str
    title: str
    currency: str | None
    paper: bool | None
    simulated: bool
    as_of: datetime


class PositionsOut(BaseModel):
    """What an account held, in IBKR's own field names."""

    account_id: str
    simulated: bool
    as_of: datetime
    positions: list[dict[str, Any]]


class SummaryOut(BaseModel):
    """Balances of an account, in IBKR's own field names."""

    account_id: str
    simulated: bool
    as_of: datetime
    summary: dict[str, Any]


class SignalOut(BaseModel):
    """What a version of a model said at the close of a day: ``probability`` of a rise from the next open to the one
    after it, and the position for that span. ``live``: the model had not seen the outcome; ``out_of_sample``: from
    the walk-forward evaluation of its recipe."""

    date: date
    kind: Literal["live", "out_of_sample"]
    probability: float
    position: Literal[-1, 0, 1]
    model_name: str
    model_version: str
    made_at: datetime


class SignalsOut(BaseModel):
    """Signals made from bars of one source, ascending."""

    symbol: str
    source: Source
    simulated: bool
    signals: list[SignalOut]


class VersionOut(BaseModel):
    """A registered version of a model."""

    version: str
    run_id: str
    created_at: datetime
    simulated: bool
    tags: dict[str, str]


class ModelOut(BaseModel):
    """A registered model, its champion with the out-of-sample metrics of its training, and its newest versions.
    ``problem`` says why the champion makes no signals; null if it makes them, or was not looked at yet."""

    name: str
    symbol: str
    champion: VersionOut | None
    problem: str | None
    metrics: dict[str, float]
    versions: list[VersionOut]


class RunOut(BaseModel):
    """A run of the training DAG, its state as Airflow names it."""

    run_id: str
    state: str
    symbol: str | None
    triggered_by: str | None
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None


async def _normal_symbol(symbol: Annotated[str, Path(pattern=f"(?i){SYMBOL_PATTERN}")]) -> str:
    return symbol.upper()


def _session(request: Request) -> Iterator[Session]:
    with Session(request.app.state.engine) as session:
        yield session


async def _settings(request: Request) -> ApiSettings:
    settings: ApiSettings = request.app.state.settings
    return settings


def _iso_date(value: Any) -> Any:
    # Pydantic would take a number of seconds for a date too, which the description does not say.
    if isinstance(value, str) and not (len(value) == 10 and value[4] == value[7] == "-"):
        raise ValueError("expected a date such as 2026-01-31")
    return value


NormalSymbol = Annotated[str, Depends(_normal_symbol)]
OpenSession = Annotated[Session, Depends(_session)]
Configured = Annotated[ApiSettings, Depends(_settings)]
Day = Annotated[date | None, BeforeValidator(_iso_date)]
AccountId = Annotated[str, Path(pattern=r"^[A-Za-z0-9.\-]{1,32}$")]
WantedSource = Annotated[
    Literal["ibkr", "simulated"] | None, Query(description="by default real bars, or simulated if none are kept")
]


def _problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    words = {
        401: "The API token is missing or wrong",
        404: "Nothing is kept or known of it",
        502: "MLflow or Airflow gave no usable answer",
        503: "A service does not answer",
    }
    return {code: {"model": Problem, "description": words[code]} for code in codes}


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
    state = app.state
    state.settings = settings
    state.engine = make_engine(settings)
    state.readiness = Readiness(settings, state.engine)
    state.sessions = Sessions(settings)
    state.bars = BarsCache(state.engine)
    state.bars_lock = asyncio.Lock()
    state.mlflow = MLflow(settings.mlflow_url, CLIENT_TIMEOUT, settings.mlflow_token) if settings.mlflow_url else None
    state.airflow = None
    if settings.airflow_url and settings.airflow_password:
        password = settings.airflow_password.get_secret_value()
        state.airflow = Airflow(settings.airflow_url, settings.airflow_user, password, SECONDS_FOR_TRAINING)
    state.registry = CollectorRegistry()
    state.registry.register(ServiceMetrics(settings, state.readiness, state.engine))
    app.add_middleware(Guard, refuse=functools.partial(pages.refusal, settings), identities=state.sessions.identities)
    app.add_middleware(RequestMetrics, registry=state.registry)
    app.add_exception_handler(OperationalError, _database_away)
    app.add_exception_handler(ProgrammingError, _database_away)
    app.add_exception_handler(MLflowError, _other_away)
    app.add_exception_handler(AirflowError, _other_away)
    app.get("/health")(health)
    app.get("/ready", response_model=ReadyOut, responses={503: {"model": ReadyOut}})(ready)
    app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})(metrics)
    app.include_router(_router(settings))
    app.include_router(pages.router(settings))
    app.mount("/static", StaticFiles(packages=[("ibkr_backend", "static")]), name="static")
    return app


def _router(settings: ApiSettings) -> APIRouter:
    router = APIRouter(prefix="/api/v1", dependencies=[Depends(require_token)], responses=_problems(401, 503))
    router.get("/accounts")(accounts)
    router.get("/accounts/{account_id}/positions", responses=_problems(404))(positions)
    router.get("/accounts/{account_id}/summary", responses=_problems(404))(summary)
    router.get("/symbols")(symbols)
    router.get("/bars/{symbol}", response_model=BarsOut, responses=_problems(404))(bars)
    router.post("/bars/{symbol}/refresh", status_code=202, responses=_problems(404))(queue_refresh)
    router.get("/signals/{symbol}", responses=_problems(404))(signals)
    svg: dict[int | str, dict[str, Any]] = {200: {"content": {"image/svg+xml": {}}}}
    router.get("/charts/{symbol}", response_class=Response, responses={**svg, **_problems(404)})(chart)
    # A stack without MLflow or Airflow does not mention them.
    if settings.mlflow_url:
        router.get("/models", responses=_problems(502))(models)
    if settings.airflow_url:
        router.get("/training-runs", responses=_problems(502))(training_runs)
        router.post("/training-runs/{symbol}", status_code=202, responses=_problems(404, 502))(train)
    return router


async def _database_away(_request: Request, error: Exception) -> JSONResponse:
    log.error("PostgreSQL: %s", one_line(error))
    return JSONResponse({"detail": f"PostgreSQL does not answer as needed: {one_line(error)}"}, status_code=503)


async def _other_away(_request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=502)


async def health() -> HealthOut:
    """Say that this process answers; asks no other service."""
    return HealthOut(status="ok", version=__version__)


def ready(request: Request, response: Response) -> dict[str, Any]:
    """Tell the state of each service, within two seconds; 503 when one that is required is away."""
    report: dict[str, Any] = request.app.state.readiness.report()
    response.status_code = 200 if report["ready"] else 503
    return report


def metrics(request: Request) -> Response:
    """Metrics of the API, of Celery and of the gateway's session, for Prometheus."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


def accounts(session: OpenSession) -> list[AccountOut]:
    """List the accounts of the user who was last logged in at the gateway."""
    return [
        AccountOut(
            account_id=each.account_id,
            title=each.title,
            currency=each.currency,
            paper=each.paper,
            simulated=each.simulated,
            as_of=_moment(each),
        )
        for each in session.scalars(select(Portfolio).order_by(Portfolio.account_id))
    ]


def positions(account_id: AccountId, session: OpenSession) -> PositionsOut:
    """Return what an account held when it was last asked: every minute while somebody is logged in."""
    found = _portfolio(session, account_id)
    return PositionsOut(
        account_id=account_id, simulated=found.simulated, as_of=_moment(found), positions=found.positions
    )


def summary(account_id: AccountId, session: OpenSession) -> SummaryOut:
    """Return the balances of an account when it was last asked: every minute while somebody is logged in."""
    found = _portfolio(session, account_id)
    return SummaryOut(account_id=account_id, simulated=found.simulated, as_of=_moment(found), summary=found.summary)


def _portfolio(session: Session, account_id: str) -> Portfolio:
    found = session.get(Portfolio, account_id)
    if found is None:
        known = ", ".join(session.scalars(select(Portfolio.account_id))) or "none yet: log in to the gateway"
        raise HTTPException(404, f"Unknown account {account_id}. Known accounts: {known}.")
    return found


def _moment(portfolio: Portfolio) -> datetime:
    moment = utc(portfolio.fetched_at)
    assert moment is not None
    return moment


def symbols(session: OpenSession, settings: Configured) -> list[SymbolOut]:
    """List the configured symbols with what is kept of each and the outcome of its last refresh."""
    return [SymbolOut(**row) for row in symbols_overview(session, settings.bars_symbols)]


async def bars(
    symbol: NormalSymbol,
    request: Request,
    settings: Configured,
    start: Annotated[Day, Query(description="first day")] = None,
    end: Annotated[Day, Query(description="last day")] = None,
    source: WantedSource = None,
) -> Response:
    """Return kept daily bars, ascending, always of one source; at most a second behind the database."""
    if start and end and start > end:
        raise HTTPException(404, f"Empty range: start {start} is after end {end}.")
    question = (symbol, start, end, source)
    kept: BarsCache = request.app.state.bars
    answer = kept.fresh(question)
    if answer is None:
        # One at a time: those who wait find the answer of the first.
        async with request.app.state.bars_lock:
            answer = kept.fresh(question) or await run_in_threadpool(kept.look_up, question)
    if answer is None:
        raise HTTPException(404, _nothing_kept(symbol, source, settings))
    headers = {"ETag": answer.etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding, Authorization"}
    if request.headers.get("if-none-match") == answer.etag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(answer.compressed, media_type="application/json", headers=headers)
    return Response(answer.body, media_type="application/json", headers=headers)


def _nothing_kept(symbol: str, source: str | None, settings: ApiSettings) -> str:
    kept = f"No {source or 'daily'} bars of {symbol} are kept. "
    configured = ", ".join(settings.bars_symbols) or "none"
    if symbol in settings.bars_symbols:
        return (
            f"{kept}Configured symbols: {configured}. Log in to the gateway, then POST /api/v1/bars/{symbol}/refresh, "
            "or wait for the next refresh; GET /api/v1/symbols shows the last error."
        )
    return f"{kept}Configured symbols: {configured}. Add {symbol} to BARS_SYMBOLS to have its history fetched."


def _configured(symbol: str, settings: ApiSettings) -> None:
    if symbol not in settings.bars_symbols:
        configured = ", ".join(settings.bars_symbols) or "none"
        raise HTTPException(404, f"{symbol} is not configured. Configured symbols (BARS_SYMBOLS): {configured}.")


def queue_refresh(symbol: NormalSymbol, settings: Configured) -> QueuedOut:
    """Ask a worker to fetch what is missing of a symbol."""
    _configured(symbol, settings)
    from kombu.exceptions import OperationalError as BrokerError
    from redis.exceptions import ResponseError

    try:
        task = _sender().send_task("ibkr_backend.tasks.refresh_bars", (symbol,))
    except (BrokerError, ResponseError) as error:
        # Kombu raises an error of its own for both; what Redis said is its cause.
        rejected = isinstance(error.__cause__ or error, ResponseError)
        said = "rejected the task" if rejected else "does not answer"
        raise HTTPException(503, f"Redis {said}: {one_line(error)}") from None
    return QueuedOut(symbol=symbol, task_id=task.id)


@functools.cache
def _sender() -> "Celery":
    # Celery takes 30 MB and half a second to import: only a process that queues something pays for it.
    from ibkr_backend.celery_app import make_sender

    return make_sender()


def signals(
    symbol: NormalSymbol,
    session: OpenSession,
    settings: Configured,
    start: Annotated[Day, Query(description="first day")] = None,
    end: Annotated[Day, Query(description="last day")] = None,
    source: WantedSource = None,
) -> SignalsOut:
    """Return the signals made from bars of one source, ascending, each with the version of the model that made it."""
    if start and end and start > end:
        raise HTTPException(404, f"Empty range: start {start} is after end {end}.")
    answering = source or answering_source(session, symbol)
    if not answering:
        raise HTTPException(404, _nothing_kept(symbol, source, settings))
    return SignalsOut(
        symbol=symbol,
        source=answering,
        simulated=answering == "simulated",
        signals=[
            SignalOut(
                date=each.date,
                kind=each.kind,  # type: ignore[arg-type]
                probability=each.probability,
                position=each.position,  # type: ignore[arg-type]
                model_name=each.model_name,
                model_version=each.model_version,
                made_at=utc(each.made_at),  # type: ignore[arg-type]
            )
            for each in signals_of(session, symbol, answering, start, end)
        ],
    )


def chart(symbol: NormalSymbol, settings: Configured) -> Response:
    """Return the newest chart of a symbol, as a worker drew it to the bucket."""
    from botocore.exceptions import BotoCoreError, ClientError

    from ibkr_backend.object_store import chart_key

    try:
        found = _bucket(settings).get_object(Bucket=settings.s3_bucket, Key=chart_key(symbol))
        return Response(found["Body"].read(), media_type="image/svg+xml")
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
            raise HTTPException(404, f"There is no chart of {symbol} yet.") from None
        raise HTTPException(503, f"Unexpected answer from MinIO: {one_line(error)}") from None
    except BotoCoreError as error:
        raise HTTPException(503, f"MinIO does not answer: {one_line(error)}") from None


_buckets: dict[str, Any] = {}


def _bucket(settings: ApiSettings) -> Any:
    from ibkr_backend.object_store import make_client

    if settings.s3_endpoint_url not in _buckets:
        _buckets[settings.s3_endpoint_url] = make_client(settings, CLIENT_TIMEOUT)
    return _buckets[settings.s3_endpoint_url]


def models(request: Request, session: OpenSession, settings: Configured) -> list[ModelOut]:
    """List the strategy's registered models with champion, out-of-sample metrics and newest versions."""
    mlflow: MLflow = request.app.state.mlflow
    errors = {(each.model_name, each.model_version): each.error for each in session.scalars(select(Scoring))}
    found = []
    for model in mlflow.models():
        versions = mlflow.versions(model.name, VERSIONS_SHOWN)
        champion = mlflow.version(model.name, model.champion) if model.champion else None
        newest = champion or (versions[0] if versions else None)
        found.append(
            ModelOut(
                name=model.name,
                symbol=newest.symbol if newest else model.name,
                champion=_version(champion) if champion else None,
                problem=champion.misnamed(settings.bars_symbols) or errors.get((champion.name, champion.version))
                if champion
                else None,
                metrics=mlflow.metrics(champion.run_id) if champion and champion.run_id else {},
                versions=[_version(each) for each in versions],
            )
        )
    return found


def _version(found: Any) -> VersionOut:
    return VersionOut(
        version=found.version,
        run_id=found.run_id,
        created_at=found.created_at,
        simulated=found.simulated,
        tags=found.tags,
    )


def training_runs(
    request: Request, count: Annotated[int, Query(ge=1, le=100, description="how many, newest first")] = 10
) -> list[RunOut]:
    """List the newest runs of the training DAG."""
    airflow: Airflow = request.app.state.airflow
    return [RunOut(**vars(run)) for run in airflow.runs(count)]


def train(symbol: NormalSymbol, request: Request, settings: Configured) -> RunOut:
    """Start a training of a configured symbol."""
    _configured(symbol, settings)
    airflow: Airflow = request.app.state.airflow
    return RunOut(**vars(airflow.train(symbol)))
