"""What is kept in MLflow and which model is the champion, against a real MLflow store."""

import dataclasses
import os
import subprocess
import sys

import mlflow
import numpy as np
import pytest
from conftest import daily_bars, make_bars
from mlflow.tracking import MlflowClient
from quantops_strategy import tracking
from quantops_strategy.bars import COLUMNS, to_csv
from quantops_strategy.evaluation import Recipe, fit, training_table
from quantops_strategy.features import build_features
from quantops_strategy.tracking import Lineage, decide, find_champion, model_name

RECIPE = Recipe(train_days=300, test_days=300, inverse_regularization=1.0)
BLIND = dataclasses.replace(RECIPE, min_edge=0.45)
NAME = model_name("TEST")
SURE = 0.95


@pytest.fixture
def store(store_uri):
    """An empty MLflow store with a database and a folder of artifacts."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store_uri)
    yield MlflowClient()
    mlflow.set_tracking_uri(before)


def train(frame, recipe=RECIPE, *, simulated=False):
    """Run the DAG's steps up to registration; return the run's id and the version."""
    run_id = tracking.start_run(daily_bars(frame, simulated=simulated), recipe, 5.0, "test")
    return run_id, tracking.train_and_register(run_id)


def test_the_first_model_with_skill_becomes_champion_and_predicts(store, momentum):
    run_id = tracking.start_run(daily_bars(momentum), RECIPE, 5.0, "first")
    metrics = tracking.log_evaluation(run_id)
    version = tracking.train_and_register(run_id)
    decision = tracking.promote(run_id, version, SURE)
    assert decision.promote and "better than cash" in decision.reason

    run = mlflow.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == pytest.approx(metrics)
    assert run.data.params["model"] == "logistic" and run.data.params["cost_bps"] == "5.0"
    assert run.data.tags["dataset_digest"] == daily_bars(momentum).digest
    names = {item.path for item in store.list_artifacts(run_id)}
    assert names == {"data", "equity_curve.png", "walk_forward.csv"}
    picture = store.download_artifacts(run_id, "equity_curve.png")
    with open(picture, "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"

    champion = store.get_model_version_by_alias(NAME, "champion")
    assert (str(champion.version), champion.run_id) == (version, run_id)
    assert champion.tags["promotion"] == decision.reason
    assert Lineage.from_tags(champion.tags) == Lineage.of(daily_bars(momentum), RECIPE, 5.0)

    # Raw bars in: the model carries its features and its recipe's rule.
    features, returns = training_table(momentum)
    expected = fit(RECIPE, features, returns).predict_proba(build_features(momentum).tail(100))[:, 1]
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    scored = model.predict(momentum)
    assert scored.index.equals(momentum.index)
    assert scored["probability"].isna().sum() == 60
    assert scored["probability"].tail(100).to_numpy() == pytest.approx(expected)
    assert scored["position"].tail(100).tolist() == (expected > 0.5).astype(float).tolist()
    assert model.metadata.get_input_schema().input_names() == COLUMNS
    with open(mlflow.pyfunc.get_model_dependencies(f"models:/{NAME}@champion")) as requirements:
        packages = {line.strip().split("==")[0] for line in requirements}
    assert packages == {"mlflow", "numpy", "pandas", "scikit-learn", "skops"}


SCORE_ELSEWHERE = """
import sys, mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
bars = pd.read_csv(sys.argv[2], index_col="date", parse_dates=["date"])
print(mlflow.pyfunc.load_model(sys.argv[3]).predict(bars)["probability"].iloc[-1])
"""


@pytest.mark.parametrize("model", ["logistic", "gradient_boosting"])
def test_a_process_without_the_dags_can_score(store, store_uri, momentum, tmp_path, model):
    """As the backend does: the package that the model needs comes with the model."""
    recipe = dataclasses.replace(RECIPE, model=model, max_iter=10)
    _, version = train(momentum, recipe)
    (tmp_path / "bars.csv").write_text(to_csv(momentum))
    command = [sys.executable, "-c", SCORE_ELSEWHERE, store_uri, f"{tmp_path}/bars.csv", f"models:/{NAME}/{version}"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) < 1


def test_noise_does_not_become_champion(store, noise):
    run_id, version = train(noise)
    decision = tracking.promote(run_id, version, SURE)
    assert not decision.promote
    assert find_champion(store, NAME) is None
    assert store.get_model_version(NAME, version).tags["promotion"] == decision.reason


def test_steps_may_be_repeated(store, momentum):
    run_id, version = train(momentum)
    assert tracking.train_and_register(run_id) == version
    assert tracking.promote(run_id, version, SURE).promote
    assert tracking.promote(run_id, version, SURE).reason == "already the champion"
    assert len(store.search_model_versions(f"name = '{NAME}'")) == 1


def test_a_better_recipe_replaces_the_champion_and_a_worse_one_does_not(store, momentum):
    first = train(momentum, BLIND)
    store.set_registered_model_alias(NAME, "champion", first[1])
    better = train(momentum, RECIPE)
    decision = tracking.promote(*better, SURE)
    assert decision.promote and "better than the champion" in decision.reason
    worse = train(momentum, BLIND)
    assert not tracking.promote(*worse, SURE).promote
    assert str(find_champion(store, NAME).version) == better[1]


def test_the_same_recipe_is_refitted_only_on_later_bars(store, momentum):
    first = train(momentum.iloc[:1400])
    assert tracking.promote(*first, SURE).promote
    again = train(momentum.iloc[:1400])
    assert not tracking.promote(*again, SURE).promote
    later = train(momentum)
    assert "champion's own recipe, fitted on data to" in tracking.promote(*later, SURE).reason
    assert str(find_champion(store, NAME).version) == later[1]


def test_a_version_of_unknown_origin_is_kept(store, momentum):
    run_id, version = train(momentum)
    foreign = store.create_model_version(NAME, store.get_model_version(NAME, version).source)
    store.set_registered_model_alias(NAME, "champion", foreign.version)
    decision = tracking.promote(run_id, version, SURE)
    assert not decision.promote and "cannot be compared" in decision.reason
    assert str(find_champion(store, NAME).version) == str(foreign.version)


def test_a_failed_step_leaves_a_failed_run(store, momentum):
    run_id = tracking.start_run(daily_bars(momentum), RECIPE, 5.0, "broken")
    with pytest.raises(ZeroDivisionError), mlflow.start_run(run_id=run_id):
        raise ZeroDivisionError
    assert mlflow.get_run(run_id).info.status == "FAILED"


def lineage(frame, recipe=RECIPE, *, simulated=False):
    return Lineage.of(daily_bars(frame, simulated=simulated), recipe, 5.0)


def test_simulated_never_replaces_market_prices(momentum):
    market, simulated = lineage(momentum, BLIND), lineage(momentum, RECIPE, simulated=True)
    assert not decide(momentum, simulated, market, 0.5).promote
    assert decide(momentum, lineage(momentum), dataclasses.replace(market, simulated=True), SURE).promote


def test_a_champion_is_judged_on_the_candidates_bars_not_on_its_own(momentum, noise):
    """The champion shone on its own bars; on these, its recipe is no better than the candidate's."""
    champion = lineage(momentum, RECIPE)
    decision = decide(noise, lineage(noise, BLIND), champion, 0.5)
    assert "days out of sample" in decision.reason


def test_a_recipe_of_other_features_cannot_be_compared(momentum):
    old = dataclasses.replace(lineage(momentum), recipe=RECIPE.to_json().replace("rsi_14", "rsi_21"))
    decision = decide(momentum, lineage(momentum), old, 0.5)
    assert not decision.promote and "other features" in decision.reason


def test_equal_results_are_not_better(momentum):
    twin = dataclasses.replace(RECIPE, max_iter=11)
    assert not decide(momentum, lineage(momentum, twin), lineage(momentum, RECIPE), 0.5).promote


def test_too_short_for_the_champions_windows(noise):
    frame = noise.head(700)
    old = lineage(frame, dataclasses.replace(RECIPE, train_days=2000))
    assert "cannot be evaluated" in decide(frame, lineage(frame), old, 0.5).reason


def test_lineage_survives_its_tags():
    bars = make_bars(np.full(10, 0.01))
    assert Lineage.from_tags(lineage(bars, simulated=True).tags()) == lineage(bars, simulated=True)


def test_a_run_is_shown_at_the_address_that_a_browser_has(store, momentum, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_PUBLIC_URL", "http://desk.example.com:5500/")
    run_id = tracking.start_run(daily_bars(momentum), RECIPE, 5.0, "a run")
    experiment = store.get_run(run_id).info.experiment_id
    link = f"View the run at http://desk.example.com:5500/#/experiments/{experiment}/runs/{run_id}"
    assert link in capsys.readouterr().out.splitlines()
