"""Signals: a real model, loaded from a real MLflow store by the process that scores, and what is kept of it."""

import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from fake_ibkr import trading_days
from ibkr_backend import scoring, signals
from ibkr_backend.database import Refresh, Scoring, Signal, add_bars
from ibkr_backend.gateway import Bar
from ibkr_backend.isolated import IsolatedError, alone, call
from ibkr_backend.mlflow_api import ModelVersion
from ibkr_backend.signals import score_symbol
from ibkr_backend.views import RANGES, symbol_chart
from sqlalchemy import select
from sqlalchemy.orm import Session

DAGS = Path(__file__).parents[3] / "files/dags"
NEW_YORK = ZoneInfo("America/New_York")
LAST = date(2026, 11, 20)
DAYS = trading_days(date(2026, 1, 5), LAST)
EVENING = datetime(2026, 11, 20, 19, tzinfo=NEW_YORK).astimezone(UTC)
HISTORY = [{"date": day.isoformat(), "probability": 0.6, "position": 1} for day in DAYS[100:-2]]


def bars(days: list[date]) -> list[Bar]:
    return [Bar(day, 100 + n % 7, 108 + n % 7, 99, 101 + n % 5, 1e6 + n) for n, day in enumerate(days)]


def champion(version: str = "3", simulated: bool = False) -> ModelVersion:
    tags = {"symbol": "AAPL", "simulated": str(simulated).lower()}
    return ModelVersion("daily_strategy_AAPL", version, "run", EVENING, tags)


@pytest.fixture
def kept(session: Session) -> Session:
    """A session with bars of every day."""
    session.add(Refresh(symbol="AAPL", source="ibkr", exchange="NASDAQ", failures=0, last_attempt=EVENING))
    add_bars(session, "AAPL", "ibkr", bars(DAYS))
    session.commit()
    return session


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Answer as a model would, and note the days that were given to it."""
    asked: list[list[str]] = []

    def score(uri: str, name: str, version: str, run_id: str, rows: list[dict]) -> dict:  # type: ignore[type-arg]
        asked.append([row["date"] for row in rows])
        answer = [{"date": row["date"], "probability": 0.55, "position": 1} for row in rows[60:]]
        return {"scored": answer, "out_of_sample": HISTORY}

    monkeypatch.setattr(signals.scoring, "score", score)
    return asked


def live(session: Session) -> list[tuple[str, str]]:
    query = select(Signal).where(Signal.kind == "live").order_by(Signal.date, Signal.model_version)
    return [(each.date.isoformat(), each.model_version) for each in session.scalars(query)]


def test_live_signals_are_of_days_whose_outcome_the_model_had_not_seen(kept: Session, scored: list[list[str]]) -> None:
    assert score_symbol(kept, "uri", champion(), EVENING)
    assert live(kept) == [("2026-11-19", "3"), ("2026-11-20", "3")]
    history = list(kept.scalars(select(Signal.date).where(Signal.kind == "out_of_sample")))
    assert (len(history), max(history)) == (len(HISTORY), date(2026, 11, 18))


def test_nothing_new_is_not_scored_again(kept: Session, scored: list[list[str]]) -> None:
    score_symbol(kept, "uri", champion(), EVENING)
    assert not score_symbol(kept, "uri", champion(), EVENING + timedelta(hours=5))
    assert len(scored) == 1


def test_a_bar_that_still_trades_is_not_scored(kept: Session, scored: list[list[str]]) -> None:
    score_symbol(kept, "uri", champion(), EVENING - timedelta(hours=4))
    assert scored[0][-1] == "2026-11-19"
    assert live(kept) == [("2026-11-19", "3")]
    score_symbol(kept, "uri", champion(), EVENING)
    assert live(kept) == [("2026-11-19", "3"), ("2026-11-20", "3")]


def test_a_new_champion_adds_its_signals_and_changes_none(kept: Session, scored: list[list[str]]) -> None:
    score_symbol(kept, "uri", champion("3"), EVENING)
    score_symbol(kept, "uri", champion("4"), EVENING)
    assert live(kept) == [(day, version) for day in ("2026-11-19", "2026-11-20") for version in ("3", "4")]
    versions = set(kept.scalars(select(Signal.model_version).where(Signal.kind == "out_of_sample")))
    assert versions == {"4"}


def test_a_model_of_simulated_prices_never_scores_real_ones(kept: Session, scored: list[list[str]]) -> None:
    assert not score_symbol(kept, "uri", champion(simulated=True), EVENING)
    assert scored == [] and live(kept) == []
    assert "trained on simulated prices" in (kept.get_one(Scoring, "AAPL").error or "")


def test_a_failure_is_recorded_and_tried_again_after_an_hour(kept: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fail(*_: object) -> None:
        asked.append(1)
        raise IsolatedError("the model cannot be loaded")

    monkeypatch.setattr(signals.scoring, "score", fail)
    for minutes, times in ((0, 1), (30, 1), (61, 2)):
        assert not score_symbol(kept, "uri", champion(), EVENING + timedelta(minutes=minutes))
        assert len(asked) == times
    assert kept.get_one(Scoring, "AAPL").error == "the model cannot be loaded"


def test_the_chart_says_what_the_signals_say(kept: Session, scored: list[list[str]]) -> None:
    score_symbol(kept, "uri", champion(), EVENING)
    chart = symbol_chart(kept, "AAPL", RANGES["1y"], standalone=True)
    assert chart and chart.dates == [day.isoformat() for day in DAYS]
    assert chart.svg.count('class="live long"') == 2
    assert "Newest signal: long at the close of 2026-11-20, by version 3." in chart.svg
    assert 'class="long"' in chart.svg
    assert symbol_chart(kept, "MSFT", None) is None


TRAIN = """
import sys, mlflow, pandas as pd
sys.path.insert(0, sys.argv[1])
mlflow.set_tracking_uri(sys.argv[2])
from quantops_strategy import tracking
from quantops_strategy.bars import DailyBars
from quantops_strategy.evaluation import Recipe
import json
rows = json.load(sys.stdin)
frame = pd.DataFrame.from_records(rows)
frame["date"] = pd.to_datetime(frame["date"])
bars = DailyBars("AAPL", "test", False, True, frame.set_index("date").astype(float))
run = tracking.start_run(bars, Recipe(train_days=100, test_days=20), 5.0, "test")
tracking.log_evaluation(run)
print(json.dumps([run, tracking.train_and_register(run)]))
"""


def test_the_training_s_own_model_scores_raw_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the DAG's code to a signal: trained and registered there, loaded and scored here without the DAG's code."""
    monkeypatch.chdir(tmp_path)
    days = trading_days(date(2024, 1, 2), LAST)
    rows = [
        {"date": bar.date.isoformat()}
        | {name: getattr(bar, name) for name in ("open", "high", "low", "close", "volume")}
        for bar in bars(days)
    ]
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(DAGS), uri],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    run, version = json.loads(done.stdout.splitlines()[-1])
    answer = scoring.score(uri, "daily_strategy_AAPL", version, run, rows)
    assert answer["scored"][-1]["date"] == LAST.isoformat()
    assert len(answer["scored"]) == len(days) - 60
    assert all(each["position"] == (each["probability"] > 0.5) for each in answer["scored"])
    # The last two days' outcome was not known to the training.
    assert answer["out_of_sample"][-1]["date"] == days[-3].isoformat()


def test_the_process_that_runs_a_model_s_code_sees_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:hunter2@host/backend")
    monkeypatch.setenv("S3_SECRET_KEY", "hunter2")
    package = tmp_path / "ibkr_backend_probe.py"
    package.write_text("import json, os, sys; json.load(sys.stdin); json.dump(dict(os.environ), sys.stdout)\n")
    monkeypatch.setattr("ibkr_backend.isolated.__file__", str(tmp_path / "x" / "isolated.py"))
    environment = call("ibkr_backend_probe", {}, MLFLOW_TRACKING_URI="http://mlflow")
    assert environment["MLFLOW_TRACKING_URI"] == "http://mlflow"
    assert "hunter2" not in str(environment)


def test_what_goes_wrong_in_that_process_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_probe.py").write_text("raise SystemExit('the model is gone')\n")
    (tmp_path / "slow_probe.py").write_text("import time; time.sleep(20)\n")
    monkeypatch.setattr("ibkr_backend.isolated.__file__", str(tmp_path / "x" / "isolated.py"))
    with pytest.raises(IsolatedError, match="broken_probe: the model is gone"):
        call("broken_probe", {})
    with pytest.raises(IsolatedError, match=r"longer than 0\.3 s"):
        call("slow_probe", {}, timeout=0.3)


def test_two_looks_at_once_score_once() -> None:
    with alone("probe") as first, alone("probe") as second:
        assert (first, second) == (True, False)
    with alone("probe") as again:
        assert again
