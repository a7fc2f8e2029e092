"""Scores the newest bars with the champion, and keeps every signal with the version that made it."""

import logging
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from ibkr_backend import scoring
from ibkr_backend.database import Refresh, Scoring, Signal, answering_source, kept_bars, utc
from ibkr_backend.isolated import IsolatedError
from ibkr_backend.markets import US, market_of
from ibkr_backend.mlflow_api import ModelVersion

# Twice what the features look back, and half a year of days that a champion has not seen.
BARS_SCORED = 400
RETRY = timedelta(hours=1)
# How each refusal begins, and no other error.
REFUSED = "version"

log = logging.getLogger(__name__)


def score_symbol(session: Session, tracking_uri: str, champion: ModelVersion, now: datetime, token: str = "") -> bool:
    """Score the champion's symbol if there is a settled bar or a champion that was not scored yet.

    A live signal is one of a day after the last one whose outcome the model was trained with. One that is kept is
    never changed. The champion's walk-forward history takes the place of the one before it. ``token`` is the backend's
    login in MLflow, if that asks for one.

    Returns:
        Whether a signal was kept. A failure is recorded in ``scorings``, and tried again after an hour; a version that
        may not score is looked at again every time, because its tags may have been corrected.
    """
    symbol = champion.symbol
    source = answering_source(session, symbol)
    if source is None:
        return False
    refresh = session.get(Refresh, symbol)
    market = (market_of(refresh.exchange) if refresh else None) or US
    settled = market.last_settled_day(now)
    bars = [bar for bar in kept_bars(session, symbol, source) if bar.date <= settled][-BARS_SCORED:]
    if not bars:
        return False
    last_bar = bars[-1].date
    record = session.get(Scoring, symbol)
    task = (source, champion.name, champion.version, last_bar)
    error = refusal(champion, source)
    if record and (record.source, record.model_name, record.model_version, record.last_bar) == task:
        attempted = utc(record.attempted_at)
        if error or not record.error:
            same = record.error == error
        else:
            same = not record.error.startswith(REFUSED) and attempted is not None and now - attempted < RETRY
        if same:
            return False
    rows = [
        {"date": bar.date.isoformat()}
        | {name: getattr(bar, name) for name in ("open", "high", "low", "close", "volume")}
        for bar in bars
    ]
    session.rollback()
    answer: dict[str, Any] = {"scored": [], "out_of_sample": []}
    if not error:
        try:
            answer = scoring.score(tracking_uri, champion.name, champion.version, champion.run_id, rows, token)
        except IsolatedError as failure:
            error = str(failure)
    if error:
        log.error("%s: version %s cannot score: %s", symbol, champion.version, error)
    kept = keep_signals(session, champion, source, answer, now)
    record = session.get(Scoring, symbol) or Scoring(symbol=symbol)
    record.source, record.model_name, record.model_version, record.last_bar = task
    record.attempted_at, record.error = now, error
    session.add(record)
    session.commit()
    if kept:
        log.info("%s: %d signals by version %s, the last of %s", symbol, kept, champion.version, last_bar)
    return kept > 0


def refusal(champion: ModelVersion, source: str) -> str | None:
    """Say why a version may not score bars of a source, if it may not."""
    tag = champion.tags.get("simulated")
    if tag not in ("true", "false"):
        found = "has no tag `simulated`" if tag is None else f"has the tag `simulated` {tag}"
        return (
            f"{REFUSED} {champion.version} {found}: set it to `false` if the version was trained on market prices, "
            "`true` if not"
        )
    if champion.simulated and source != "simulated":
        return f"{REFUSED} {champion.version} was trained on simulated prices: train it again on real ones"
    return None


def keep_signals(session: Session, champion: ModelVersion, source: str, answer: dict[str, Any], now: datetime) -> int:
    """Keep what `scoring.score` answered; returns how many signals are new."""
    of_symbol = (Signal.symbol == champion.symbol, Signal.source == source)
    mine = (*of_symbol, Signal.model_version == champion.version)

    def kept(kind: str) -> set[str]:
        return {day.isoformat() for day in session.scalars(select(Signal.date).where(*mine, Signal.kind == kind))}

    history = answer["out_of_sample"]
    if history:
        live = [each for each in answer["scored"] if each["date"] > history[-1]["date"]]
    else:
        live = answer["scored"][-1:]
    new = [("live", each) for each in live if each["date"] not in kept("live")]
    if history and not kept("out_of_sample"):
        session.execute(delete(Signal).where(*of_symbol, Signal.kind == "out_of_sample"))
        new += [("out_of_sample", each) for each in history]
    rows = [
        {
            "symbol": champion.symbol,
            "source": source,
            "kind": kind,
            "model_name": champion.name,
            "model_version": champion.version,
            "date": datetime.fromisoformat(each["date"]).date(),
            "probability": each["probability"],
            "position": each["position"],
            "made_at": now,
        }
        for kind, each in new
    ]
    if rows:
        session.execute(insert(Signal), rows)
    return len(rows)
