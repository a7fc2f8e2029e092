"""What is kept of a training in MLflow, and which model is the champion."""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

# MLflow's own values (120 s, 7 retries) let a task hang for a quarter of an hour on a server that is away; the
# task's own retries are the better patience.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")

import mlflow
import pandas as pd
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, Schema

from quantops_strategy.bars import COLUMNS, DailyBars, from_csv
from quantops_strategy.chart import equity_chart
from quantops_strategy.evaluation import (
    NotEnoughBars,
    Recipe,
    confidence_of_improvement,
    evaluate,
    fit,
    training_table,
    walk_forward,
)

EXPERIMENT = "daily_strategy"
# Tags of an MLflow run that say which run of which DAG made it.
DAG_TAG = "quantops.dag_id"
DAG_RUN_TAG = "quantops.dag_run_id"
CHAMPION = "champion"
BARS_ARTIFACT = "data/bars.csv"
MODEL_REQUIREMENTS = ("numpy", "pandas", "scikit-learn", "skops")
# The longest window of the features is 60 days: an example of fewer would show no prediction.
EXAMPLE_DAYS = 80
MODEL_SIGNATURE = ModelSignature(
    Schema([ColSpec("double", name) for name in COLUMNS]),
    Schema([ColSpec("double", name) for name in ("probability", "position")]),
)


@dataclass(frozen=True)
class Lineage:
    """Where a model comes from, as kept in the tags of its run and of its registered version.

    Attributes:
        symbol: Ticker.
        source: Where the backend got the bars.
        simulated: True when the prices are not from a market.
        adjusted: True when prices are adjusted for splits.
        data_start: First day of the bars, ISO 8601.
        data_end: Last day of the bars, ISO 8601.
        dataset_digest: `DailyBars.digest`.
        recipe: `Recipe.to_json`.
        cost_bps: Transaction costs of the evaluation, see `evaluation.net_returns`.
    """

    symbol: str
    source: str
    simulated: bool
    adjusted: bool
    data_start: str
    data_end: str
    dataset_digest: str
    recipe: str
    cost_bps: float

    @classmethod
    def of(cls, bars: DailyBars, recipe: Recipe, cost_bps: float) -> Lineage:
        """Describe a training on these bars."""
        first, last = bars.frame.index[0], bars.frame.index[-1]
        return cls(
            bars.symbol,
            bars.source,
            bars.simulated,
            bars.adjusted,
            f"{first:%Y-%m-%d}",
            f"{last:%Y-%m-%d}",
            bars.digest,
            recipe.to_json(),
            cost_bps,
        )

    def tags(self) -> dict[str, str]:
        """The lineage as MLflow tags."""
        return {
            name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in vars(self).items()
        }

    @classmethod
    def from_tags(cls, tags: dict[str, str]) -> Lineage:
        """Read what `tags` made.

        Raises:
            ValueError: A tag is missing: the version was not registered by this code.
        """
        try:
            values: dict[str, Any] = {name: tags[name] for name in cls.__dataclass_fields__}
        except KeyError as error:
            raise ValueError(f"tag {error} is missing") from error
        for flag in ("simulated", "adjusted"):
            values[flag] = values[flag] == "true"
        values["cost_bps"] = float(values["cost_bps"])
        return cls(**values)


@dataclass(frozen=True)
class Decision:
    """Whether a candidate becomes the champion, and why."""

    promote: bool
    reason: str


def model_name(symbol: str) -> str:
    """Name of the registered model of a symbol; in MLflow's addresses of models ``@`` begins an alias."""
    return f"daily_strategy_{symbol.replace('@', '__').replace(' ', '_')}"


def start_run(
    bars: DailyBars, recipe: Recipe, cost_bps: float, run_name: str, dag_run: tuple[str, str] | None = None
) -> str:
    """Open the MLflow run of a training, keep its bars and parameters in it, and return its id.

    Args:
        bars: What it is trained on.
        recipe: How.
        cost_bps: See `Lineage`.
        run_name: Name of the MLflow run.
        dag_run: Ids of the DAG and of its run that train, so that `stack_maintenance` can tell whether they ended.
    """
    lineage = Lineage.of(bars, recipe, cost_bps)
    origin = dict(zip((DAG_TAG, DAG_RUN_TAG), dag_run, strict=True)) if dag_run else {}
    mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run(run_name=run_name, tags={**lineage.tags(), **origin}) as run:
        mlflow.log_params(
            {
                "symbol": lineage.symbol,
                "data_start": lineage.data_start,
                "data_end": lineage.data_end,
                "bars": len(bars.frame),
                "cost_bps": cost_bps,
                **vars(recipe),
            }
        )
        mlflow.log_text(bars.csv, BARS_ARTIFACT)
    say_where(run)
    return run.info.run_id


def say_where(run: Run) -> None:
    """Print a run's address for a browser; workers reach MLflow at another one, which MLflow itself would print."""
    server = os.environ.get("MLFLOW_PUBLIC_URL") or mlflow.get_tracking_uri()
    print(f"View the run at {server.rstrip('/')}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}")


def read_run(run_id: str) -> tuple[pd.DataFrame, Lineage]:
    """Read the bars and the lineage that `start_run` kept."""
    bars = from_csv(mlflow.artifacts.load_text(f"runs:/{run_id}/{BARS_ARTIFACT}"))
    return bars, Lineage.from_tags(mlflow.get_run(run_id).data.tags)


def log_evaluation(run_id: str) -> dict[str, float]:
    """Evaluate the run's recipe walk-forward; log the metrics, the daily results and the equity curve."""
    bars, lineage = read_run(run_id)
    out_of_sample = walk_forward(bars, Recipe.from_json(lineage.recipe), lineage.cost_bps)
    metrics = evaluate(out_of_sample, lineage.cost_bps)
    kind = "simulated prices" if lineage.simulated else lineage.source
    title = f"{lineage.symbol}, out of sample, {lineage.cost_bps:g} bps costs ({kind})"
    with mlflow.start_run(run_id=run_id) as run:
        mlflow.log_metrics({name: value for name, value in metrics.items() if not math.isnan(value)})
        mlflow.log_figure(equity_chart(out_of_sample, title), "equity_curve.png")
        mlflow.log_text(out_of_sample.to_csv(), "walk_forward.csv")
    say_where(run)
    return metrics


def train_and_register(run_id: str) -> str:
    """Fit the run's recipe on all its bars, log and register the model, and return its version.

    A second call for the same run gives the version of the first.
    """
    bars, lineage = read_run(run_id)
    client = MlflowClient()
    name = model_name(lineage.symbol)
    registered = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    if registered:
        return str(registered[0].version)
    features, returns = training_table(bars)
    # skops looks for each of SciPy's functions in all modules there are, and Airflow's answer with a warning a time: a
    # thousand lines of a task's log.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import skops.io

        from quantops_strategy import serving
    pipeline = fit(Recipe.from_json(lineage.recipe), features, returns)
    package = Path(serving.__file__).parent
    config = {serving.RECIPE: lineage.recipe}
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_id=run_id) as run:
        path = Path(folder, "pipeline.skops")
        skops.io.dump(pipeline, path)
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=serving.__file__,
            code_paths=[str(package)],
            artifacts={serving.PIPELINE: str(path)},
            model_config=config,
            signature=MODEL_SIGNATURE,
            input_example=bars.tail(EXAMPLE_DAYS),
            pip_requirements=[f"{package}=={version(package)}" for package in MODEL_REQUIREMENTS],
        )
    say_where(run)
    return str(mlflow.register_model(logged.model_uri, name, tags=lineage.tags()).version)


def find_champion(client: MlflowClient, name: str) -> ModelVersion | None:
    """The version of a registered model that bears the alias ``champion``, if any."""
    holder = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if holder is None else client.get_model_version(name, holder)


def decide(bars: pd.DataFrame, candidate: Lineage, champion: Lineage | None, min_confidence: float) -> Decision:
    """Say whether the candidate becomes the champion.

    Two fitted models cannot be compared on days that either was trained on, so the comparison is between recipes:
    the champion's is evaluated anew, walk-forward, on the candidate's bars and costs, and both are compared on the
    days that are out of sample for both.

    Args:
        bars: The candidate's bars.
        candidate: The candidate's lineage.
        champion: The champion's lineage, None when there is no champion.
        min_confidence: Least `confidence_of_improvement` of the candidate, against the champion, or against holding
            cash when there is nothing to compare with.
    """
    if champion is not None and champion.simulated != candidate.simulated:
        if candidate.simulated:
            return Decision(False, "a model of simulated prices never replaces one of market prices")
        champion = None
    if champion is not None and champion.recipe == candidate.recipe:
        if candidate.data_end > champion.data_end:
            return Decision(True, f"the champion's own recipe, fitted on data to {candidate.data_end}")
        return Decision(False, f"the champion's own recipe, and no data after {champion.data_end}")
    results = walk_forward(bars, Recipe.from_json(candidate.recipe), candidate.cost_bps)["net"]
    if champion is None:
        opponent, incumbent = "cash", pd.Series(0.0, index=results.index, name="incumbent")
    else:
        opponent = "the champion"
        try:
            incumbent = walk_forward(bars, Recipe.from_json(champion.recipe), candidate.cost_bps)["net"]
        except (ValueError, NotEnoughBars) as error:
            return Decision(False, f"the champion's recipe cannot be evaluated on these bars: {error}")
    common = pd.concat([results, incumbent.rename("incumbent")], axis=1, join="inner")
    if common.empty:
        return Decision(False, f"no day is out of sample for both the candidate and {opponent}")
    confidence = confidence_of_improvement(common["net"].to_numpy(), common["incumbent"].to_numpy())
    return Decision(
        confidence >= min_confidence,
        f"confidence {confidence:.3f} of being better than {opponent} after costs, at least {min_confidence:g} asked,"
        f" {len(common)} days out of sample",
    )


def promote(run_id: str, model_version: str, min_confidence: float) -> Decision:
    """Give the alias ``champion`` to a version if `decide` says so, and write the decision into its tags."""
    bars, lineage = read_run(run_id)
    client = MlflowClient()
    name = model_name(lineage.symbol)
    holder = find_champion(client, name)
    if holder is not None and str(holder.version) == model_version:
        return Decision(True, "already the champion")
    try:
        champion = Lineage.from_tags(holder.tags) if holder is not None else None
        decision = decide(bars, lineage, champion, min_confidence)
    except ValueError as error:
        decision = Decision(False, f"version {holder.version if holder else '-'} cannot be compared: {error}")
    client.set_model_version_tag(name, model_version, "promotion", decision.reason)
    if decision.promote:
        client.set_registered_model_alias(name, CHAMPION, model_version)
    return decision
