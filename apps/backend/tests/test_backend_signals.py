"""Signals: a real model, loaded from a real MLflow store by the process that scores, and what is kept of it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from fake_ibkr import trading_days
from ibkr_backend import scoring, signals, tasks
from ibkr_backend.database import Refresh, Scoring, Signal, add_bars
from ibkr_backend.gateway import Bar
from ibkr_backend.isolated import IsolatedError, alone, call
from ibkr_backend.mlflow_api import ModelVersion, RegisteredModel
from ibkr_backend.signals import score_symbol
from ibkr_backend.views import RANGES, symbol_chart
from sqlalchemy import select
from sqlalchemy.orm import Session

DAGS = Path(__file__).parents[3] / "files/dags"
EXAMPLE = Path(__file__).parents[3] / "examples/own_model"
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

    def score(uri: str, name: str, version: str, run_id: str, rows: list[dict], token: str) -> dict:  # type: ignore[type-arg]
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


@pytest.mark.parametrize("tags", [{"symbol": "AAPL"}, {"symbol": "AAPL", "simulated": "False"}])
def test_a_model_that_does_not_say_where_its_prices_are_from_scores_nothing(
    kept: Session, scored: list[list[str]], tags: dict[str, str]
) -> None:
    """Until its tag is set, which is noticed at once."""
    unknown = ModelVersion("daily_strategy_AAPL", "3", "run", EVENING, tags)
    assert not score_symbol(kept, "uri", unknown, EVENING)
    assert scored == [] and live(kept) == []
    assert "set it to `false` if the version was trained on market prices" in (
        kept.get_one(Scoring, "AAPL").error or ""
    )
    assert score_symbol(kept, "uri", champion(), EVENING + timedelta(minutes=1))
    assert kept.get_one(Scoring, "AAPL").error is None and len(live(kept)) == 2


@pytest.mark.parametrize(
    ("name", "tags", "problem"),
    [
        ("daily_strategy_AAPL", {"symbol": "AAPL"}, None),
        ("daily_strategy_BRK_B", {"symbol": "BRK B"}, None),
        ("daily_strategy_AAPL", {}, None),
        (
            "daily_strategy_TSLA",
            {},
            "which is not a symbol of this stack (AAPL, BRK B): register the model as",
        ),
        ("daily_strategy_APPL", {}, "register the model as daily_strategy_AAPL or daily_strategy_BRK_B, or add APPL"),
        (
            "daily_strategy_BRK_B",
            {},
            "is for BRK_B, which is not a symbol of this stack (AAPL, BRK B): correct",
        ),
        ("daily_strategy_mine", {"symbol": "AAPL"}, "register the model under that name"),
    ],
)
def test_a_model_is_of_the_symbol_of_its_name(name: str, tags: dict[str, str], problem: str | None) -> None:
    said = ModelVersion(name, "3", "run", EVENING, tags).misnamed(["AAPL", "BRK B"])
    assert said == problem if problem is None else problem in (said or "")


def test_a_misnamed_champion_is_logged_once_and_leaves_the_others_alone(
    kept: Session, scored: list[list[str]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It has the symbol of another model, which goes on."""
    registry = {"daily_strategy_mine": "1", "daily_strategy_AAPL": "3"}

    class Registry:
        def __init__(self, *_: object) -> None: ...

        def models(self) -> list[RegisteredModel]:
            return [RegisteredModel(*each) for each in registry.items()]

        def version(self, name: str, version: str) -> ModelVersion:
            return replace(champion(version), name=name)

    monkeypatch.setattr(tasks, "MLflow", Registry)
    monkeypatch.setattr(tasks, "worker_settings", lambda: SimpleNamespace(bars_symbols=["AAPL"]))
    monkeypatch.setattr(tasks, "engine", kept.get_bind)
    monkeypatch.setattr(tasks.draw_chart, "delay", lambda _symbol: None)
    tasks.say_once.cache_clear()
    assert tasks._score_all("uri") == ["AAPL"]
    assert tasks._score_all("uri") == []
    assert len(scored) == 1
    told = [each.getMessage() for each in caplog.records if "daily_strategy_mine" in each.getMessage()]
    assert len(told) == 1 and "whose model is daily_strategy_AAPL" in told[0]


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


def test_the_example_of_a_model_of_one_s_own_scores_raw_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a CSV file to a signal; its run, its tags and its alias are as the backend expects them."""
    import mlflow
    from ibkr_backend.signals import refusal

    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame([vars(each) for each in bars(trading_days(date(2024, 1, 2), LAST))])
    table.to_csv("bars.csv", index=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "train.py"), "BRK B", "--csv", "bars.csv", "--promote"],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ
        | {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = mlflow.MlflowClient(uri).get_model_version_by_alias("daily_strategy_BRK_B", "champion")
    version = ModelVersion(found.name, str(found.version), found.run_id, EVENING, found.tags)
    assert version.misnamed(["BRK B"]) is None and refusal(version, "ibkr") is None
    rows = json.loads(table.assign(date=table["date"].astype(str)).to_json(orient="records"))
    answer = scoring.score(uri, found.name, version.version, version.run_id, rows)
    assert len(answer["scored"]) == len(table) - 20 and answer["scored"][-1]["date"] == LAST.isoformat()
    # The last two days' outcome was not known to the training.
    assert answer["out_of_sample"][-1]["date"] == rows[-3]["date"]
    metrics = mlflow.MlflowClient(uri).get_run(version.run_id).data.metrics
    assert metrics["oos_days"] == len(answer["out_of_sample"])


@pytest.mark.parametrize(
    "requirements",
    [
        "own_model/requirements.txt",
        "notebook/collections/ansible_collections/acme/lab/roles/jupyterlab/files/image/requirements.in",
    ],
)
def test_the_examples_name_the_versions_that_the_backend_has(requirements: str) -> None:
    locked = (Path(__file__).parents[1] / "requirements.lock").read_text()
    text = (Path(__file__).parents[3] / "examples" / requirements).read_text()
    wanted = [line.replace("mlflow==", "mlflow-skinny==") for line in text.splitlines() if "==" in line]
    assert len(wanted) == 3 and [line for line in wanted if f"{line} \\\n" not in locked] == []


MODEL = """
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Model(PythonModel):
    def load_context(self, context):
        {load}

    def predict(self, context, model_input, params=None):
        bars = model_input
        return {predict}


set_model(Model())
"""
FINE = "pd.DataFrame({'probability': 0.6, 'position': 1}, index=bars.index)"
#: What a model does when it is loaded, what it predicts, and what is said of it.
BROKEN_MODELS = {
    "input": ("pass", "bars[['adjusted']]", "the model failed on the bars, a table with the columns open, high, low"),
    "package": ("import lightgbm", FINE, "it imports lightgbm, which the backend does not have"),
    "file": ("open('/tmp/of-a-laptop.pkl')", FINE, "the model cannot be loaded: FileNotFoundError: "),
}
FIVE = pd.DataFrame({"close": 1.0}, index=pd.DatetimeIndex(DAYS[-5:], name="date"))
TABLE = pd.DataFrame({"probability": 0.6, "position": 1}, index=FIVE.index)


@pytest.mark.parametrize(
    ("prediction", "problem"),
    [
        ((FIVE["close"] > 0).to_numpy(), "the model returned ndarray; expected a DataFrame with the columns"),
        (TABLE.rename(columns={"position": "signal"}), "no column position; its columns are: probability, signal"),
        (
            TABLE.assign(probability=60),
            "the probability 60 in the row 2026-11-20 00:00:00; expected a number from 0 to 1",
        ),
        (TABLE.assign(position=100), "the position 100 in the row 2026-11-20 00:00:00; expected -1, 0 or 1"),
        (TABLE.assign(position=0.5), "the position 0.5 in the row 2026-11-20 00:00:00; expected -1, 0 or 1"),
        (TABLE.assign(position="long"), "a probability or position that is not a number"),
        (TABLE.reset_index(drop=True), "give its table the index of the bars"),
        (pd.concat([TABLE, TABLE]), "give its table the index of the bars"),
        (TABLE.assign(probability=float("nan")), "made of 5 bars has no day with both"),
    ],
)
def test_what_is_no_signal_is_refused(prediction: object, problem: str) -> None:
    """A position of 100 would have been kept, and the API's answer would have failed for good."""
    with pytest.raises(scoring.UnusableModelError) as caught:
        scoring.predicted(prediction, FIVE)
    assert problem in str(caught.value)


def test_days_without_a_prediction_are_left_out_and_the_others_in_order() -> None:
    table = TABLE.astype(float)
    table.iloc[0, 0] = float("nan")
    found = scoring.rows(scoring.predicted(table[::-1], FIVE))
    assert [each["date"] for each in found] == [day.isoformat() for day in DAYS[-4:]]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A real MLflow store with a model of each kind; its address, and the run that made them."""
    import mlflow

    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    experiment = mlflow.create_experiment("tried", artifact_location=f"{folder}/files")
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.log_text("day,probability,position\n2026-11-19,0.6,1\n", "walk_forward.csv")
        for name, (load, predict, _problem) in ({"fine": ("pass", FINE, "")} | BROKEN_MODELS).items():
            code = folder / f"{name}.py"
            code.write_text(MODEL.format(load=load, predict=predict))
            logged = mlflow.pyfunc.log_model(name=name, python_model=str(code), pip_requirements=["pandas"])
            mlflow.register_model(logged.model_uri, name)
    return uri, run.info.run_id


def five_bars() -> list[dict]:  # type: ignore[type-arg]
    numbers = dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0)
    return [{"date": day.isoformat()} | numbers for day in DAYS[-5:]]


@pytest.mark.parametrize("name", BROKEN_MODELS)
def test_what_is_wrong_with_a_model_is_told(registry: tuple[str, str], name: str) -> None:
    """In words that its author understands."""
    with pytest.raises(IsolatedError) as caught:
        scoring.score(registry[0], name, "1", "", five_bars())
    assert BROKEN_MODELS[name][2] in str(caught.value)


def test_a_model_needs_no_run_and_its_history_has_a_form(registry: tuple[str, str]) -> None:
    uri, run_id = registry
    answer = scoring.score(uri, "fine", "1", "", five_bars())
    assert len(answer["scored"]) == 5 and answer["out_of_sample"] == []
    assert answer["scored"][-1] == {"date": "2026-11-20", "probability": 0.6, "position": 1}
    with pytest.raises(IsolatedError, match=r"walk_forward\.csv of the model's run cannot be read"):
        scoring.score(uri, "fine", "1", run_id, five_bars())


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
