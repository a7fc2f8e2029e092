"""Trains a daily trading strategy on the backend's bars and registers it in MLflow.

**Bars.** The whole history asked for is fetched from the backend, checked, and kept in the MLflow run: each later
task, and anyone who wants to repeat the training, reads exactly those rows. Tasks pass only the run's id to each other.

**No look-ahead.** Features of a day use that day and earlier ones. A decision at a day's close is filled at the
next open and earns until the open after it. Between training and test days an embargo of at least that span is left
out.

**Evaluation.** Walk-forward: each test range is predicted by a model fitted only on earlier days. Every metric is out
of sample and after transaction costs, next to buying and holding on the same days.

**Promotion.** A final fit on all days is registered as `daily_strategy_<symbol>`, with `_` for a space and `__` for
`@`. It becomes `champion` only in these cases, and its tag `promotion` says which:

- There is no champion, and the candidate's out-of-sample Sharpe ratio after costs beats cash.
- The champion was made by another recipe (features, model, windows, settings), and the candidate's recipe beats it.
  The champion's *recipe* is evaluated anew, walk-forward, on the same bars, costs and days; its fitted model may have
  been trained on those days, and its stored metrics belong to other ones.
- The champion was made by the same recipe and there are later bars: this is the champion's refit, and
  out of sample there is nothing to compare.

"Beats" means: has the higher Sharpe ratio in at least `min_confidence` of block-bootstrapped histories. Trying many
recipes in search of a winner makes that number too optimistic. A model of simulated prices never replaces one of
market prices; one of market prices takes the place of a simulated one as if there were no champion.

The DAG is active as soon as it is seen: it runs on weekdays after the US close, and places no orders. A run fails,
after retries, while the backend keeps no bars of the symbol.
"""

from __future__ import annotations

import math
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pendulum
from airflow.sdk import CronTriggerTimetable, Param, dag, get_current_context, task

# What the backend takes: a ticker such as "AAPL", "BRK B" or "7203", and after "@" the exchange or the contract id.
SYMBOL_PATTERN = r"^[A-Z0-9][A-Z0-9.\-]{0,14}( [A-Z0-9.\-]{1,7})?(@[A-Z0-9.]{1,12})?$"

PARAMS = {
    "symbol": Param("AAPL", type="string", pattern=SYMBOL_PATTERN, description="Ticker, as the backend knows it"),
    "start": Param("2000-01-01", type="string", format="date", description="First day of bars"),
    "end": Param(None, type=["null", "string"], format="date", description="Last day of bars; empty: today"),
    "allow_unadjusted": Param(False, type="boolean", description="Train although the bars are not adjusted for splits"),
    "cost_bps": Param(
        5.0, type="number", minimum=0, maximum=200, description="Cost of trading the whole capital once, basis points"
    ),
    "model": Param("logistic", type="string", enum=["logistic", "gradient_boosting"]),
    "window": Param("expanding", type="string", enum=["expanding", "rolling"], description="Training window"),
    "train_days": Param(
        750, type="integer", minimum=100, maximum=5000, description="Trading days of training before the first test"
    ),
    "test_days": Param(126, type="integer", minimum=5, maximum=504, description="Trading days predicted by one fit"),
    "embargo_days": Param(
        5, type="integer", minimum=2, maximum=60, description="Trading days left out between training and test"
    ),
    "min_edge": Param(
        0.0, type="number", minimum=0, maximum=0.45, description="Least distance of a probability from 0.5 to trade"
    ),
    "allow_short": Param(False, type="boolean", description="Positions -1, 0, 1 instead of 0, 1"),
    "inverse_regularization": Param(
        0.01, type="number", minimum=1e-6, maximum=1e6, description="C of the logistic regression"
    ),
    "learning_rate": Param(0.05, type="number", minimum=0.001, maximum=1, description="Of gradient boosting"),
    "max_iter": Param(100, type="integer", minimum=10, maximum=1000, description="Trees of gradient boosting"),
    "max_leaf_nodes": Param(8, type="integer", minimum=2, maximum=64, description="Leaves a tree of gradient boosting"),
    "min_confidence": Param(
        0.9, type="number", minimum=0.5, maximum=0.999, description="Confidence a candidate needs to become champion"
    ),
}


@dag(
    # Without a start date the first run is the next one due: a fresh stack does not train before it has bars.
    schedule=CronTriggerTimetable("30 17 * * 1-5", timezone="America/New_York"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    params=PARAMS,
    default_args={
        "owner": "quantops",
        "retries": 3,
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=10),
        "execution_timeout": timedelta(minutes=30),
    },
    tags=["quantops", "strategy"],
    doc_md=__doc__,
)
def daily_strategy_training() -> None:
    """Get bars, evaluate walk-forward, train and register, promote."""

    @task
    def get_bars() -> str:
        """Keep the bars in a new MLflow run and return its id."""
        from airflow.sdk.exceptions import AirflowFailException
        from quantops_strategy.bars import BarsInvalid, fetch_bars
        from quantops_strategy.evaluation import Recipe
        from quantops_strategy.tracking import start_run

        context = get_current_context()
        params = context["params"]
        recipe = Recipe(**{name: params[name] for name in Recipe.__dataclass_fields__})
        end = params["end"] or pendulum.now("America/New_York").to_date_string()
        token_file = os.environ.get("BACKEND_API_TOKEN_FILE")
        token = Path(token_file).read_text().strip() if token_file else None
        try:
            bars = fetch_bars(os.environ["BACKEND_URL"], params["symbol"], params["start"], end, token)
        except BarsInvalid as error:
            raise AirflowFailException(str(error)) from error
        if not (bars.adjusted or params["allow_unadjusted"]):
            raise AirflowFailException(
                f"the bars of {bars.symbol} are not adjusted for splits, so a split would count as a loss;"
                " set allow_unadjusted to train anyway"
            )
        dag_run = (context["dag"].dag_id, context["run_id"])
        return start_run(bars, recipe, params["cost_bps"], f"{bars.symbol} {context['run_id']}", dag_run)

    @task
    def evaluate(mlflow_run_id: str) -> dict[str, float]:
        """Log out-of-sample metrics and the equity curve."""
        from quantops_strategy.tracking import log_evaluation

        return {name: round(value, 4) for name, value in log_evaluation(mlflow_run_id).items() if not math.isnan(value)}

    @task
    def train_and_log(mlflow_run_id: str) -> str:
        """Fit on all days, register the model and return its version."""
        from quantops_strategy.tracking import train_and_register

        return train_and_register(mlflow_run_id)

    @task
    def promote(mlflow_run_id: str, model_version: str) -> dict[str, Any]:
        """Make the model the champion if it is better."""
        from quantops_strategy.tracking import promote

        decision = promote(mlflow_run_id, model_version, get_current_context()["params"]["min_confidence"])
        print(decision.reason)
        return vars(decision)

    mlflow_run_id = get_bars()
    model_version = train_and_log(mlflow_run_id)
    evaluate(mlflow_run_id) >> model_version
    promote(mlflow_run_id, model_version)


daily_strategy_training()
