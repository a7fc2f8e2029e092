"""The tasks: keep bars, session, portfolios, signals and charts fresh."""

import functools
import logging
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from ibkr_backend import brokerage_session, history, isolated
from ibkr_backend.celery_app import LOOK_SECONDS, app
from ibkr_backend.database import TASK_CONNECTIONS, Refresh, make_engine
from ibkr_backend.gateway import Gateway, GatewayError
from ibkr_backend.mlflow_api import MLflow, MLflowError
from ibkr_backend.settings import WorkerSettings
from ibkr_backend.trading_days import trading_days

SECONDS_FOR_MLFLOW = 10
SECONDS_FOR_MINIO = 10

log = logging.getLogger(__name__)


@functools.cache
def worker_settings() -> WorkerSettings:
    """Read the settings once in each worker process."""
    return WorkerSettings.load()


@functools.cache
def engine() -> Engine:
    """Make the database engine once in each worker process."""
    return make_engine(worker_settings(), TASK_CONNECTIONS)


@functools.cache
def gateway() -> Gateway:
    """Make the gateway's client once in each worker process: it spaces out the requests."""
    return Gateway(worker_settings().gateway_url, worker_settings().gateway_ca_file)


@app.task
def ping() -> str:
    """Return "pong": broker, worker and result backend work."""
    return "pong"


@app.task(throws=(GatewayError,))
def keep_session() -> bool:
    """Keep the gateway's session, and what the accounts hold; returns whether somebody is logged in."""
    now = datetime.now(UTC)
    with Session(engine()) as session:
        alive = brokerage_session.keep_session(session, gateway(), now).logged_in
        if alive:
            brokerage_session.keep_portfolios(session, gateway(), now)
    return alive


@app.task
def refresh_all_bars() -> list[str]:
    """Send a refresh for each configured symbol that is due; returns those symbols."""
    settings = worker_settings()
    with Session(engine()) as session:
        refreshes = {refresh.symbol: refresh for refresh in session.scalars(select(Refresh))}
    now = datetime.now(UTC)
    due = [s for s in settings.bars_symbols if history.is_due(refreshes.get(s), now, settings.bars_refresh_seconds)]
    for symbol in due:
        refresh_bars.apply_async((symbol,), expires=LOOK_SECONDS)
    return due


@app.task(throws=(GatewayError,))
def refresh_bars(symbol: str) -> dict[str, Any]:
    """Fetch what is missing of one symbol; where that changed anything, look for gaps and draw its chart.

    Returns:
        What `history.refresh` returns.

    Raises:
        GatewayError: recorded in the table ``refreshes``; kept bars stay as they are.
    """
    settings = worker_settings()
    with Session(engine()) as session:
        outcome = history.refresh(session, gateway(), symbol, settings.bars_start, datetime.now(UTC))
    if outcome["changed"]:
        fill_gaps.delay(symbol)
        draw_chart.delay(symbol)
    return outcome


@app.task(throws=(GatewayError,), ignore_result=True)
def fill_gaps(symbol: str) -> None:
    """Look for trading days without a bar."""
    with Session(engine()) as session:
        history.fill_gaps(session, gateway(), symbol, trading_days)


@app.task(throws=(MLflowError,))
def score_signals() -> list[str]:
    """Score the newest settled bars of each symbol that has a champion; returns the symbols with new signals."""
    url = worker_settings().mlflow_url
    if not url:
        return []
    # A scoring may take longer than the time to the next look.
    with isolated.alone("score") as first:
        return _score_all(url, worker_settings().mlflow_token) if first else []


def _score_all(url: str, token: str = "") -> list[str]:
    from ibkr_backend.signals import score_symbol

    mlflow = MLflow(url, SECONDS_FOR_MLFLOW, token)
    scored = []
    for model in mlflow.models():
        if model.champion is None:
            continue
        champion = mlflow.version(model.name, model.champion)
        if problem := champion.misnamed(worker_settings().bars_symbols):
            say_once(problem)
            continue
        with Session(engine()) as session:
            if score_symbol(session, url, champion, datetime.now(UTC), token):
                scored.append(champion.symbol)
                draw_chart.delay(champion.symbol)
    return scored


@functools.lru_cache(maxsize=1000)
def say_once(problem: str) -> None:
    """Log a problem; scoring meets the same one every minute."""
    log.warning("%s", problem)


@app.task(ignore_result=True)
def draw_chart(symbol: str) -> None:
    """Draw the last year of a symbol with its signals into the bucket."""
    from ibkr_backend.object_store import make_client, put_chart
    from ibkr_backend.views import RANGES, symbol_chart

    settings = worker_settings()
    with Session(engine()) as session:
        chart = symbol_chart(session, symbol, RANGES["1y"], standalone=True)
    if chart:
        key = put_chart(make_client(settings, SECONDS_FOR_MINIO, attempts=3), settings.s3_bucket, symbol, chart.svg)
        log.info("%s: chart drawn to %s/%s", symbol, settings.s3_bucket, key)
