"""Train a classifier on daily bars, register it as the backend expects it, and make it the champion if asked to."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import mlflow
import pandas as pd
import requests
import skops.io
from desk_model import features, positions
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

MLFLOW = os.environ.get("MLFLOW_TRACKING_URI", "http://localhost:5500")
BACKEND = os.environ.get("BACKEND_URL", "http://localhost:8000")
COLUMNS = ["open", "high", "low", "close", "volume"]
# The outcome of a day is known at the open two days later.
OUTCOME_DAYS = 2
# Trading days.
YEAR = 252
REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def bars_of_backend(symbol: str) -> tuple[pd.DataFrame, bool]:
    """Ask the backend for a symbol's bars; returns them, and whether they are simulated."""
    headers = {"Authorization": f"Bearer {os.environ['BACKEND_API_TOKEN']}"}
    answer = requests.get(f"{BACKEND}/api/v1/bars/{symbol}", headers=headers, timeout=30)
    if answer.status_code != 200:
        raise SystemExit(f"The backend answered {answer.status_code}: {answer.text}")
    table = pd.DataFrame(answer.json()["bars"])
    table.index = pd.to_datetime(table.pop("date"))
    return table[COLUMNS].astype(float), answer.json()["simulated"]


def bars_of_file(path: str) -> pd.DataFrame:
    """Read a CSV file with the columns date, open, high, low, close and volume."""
    table = pd.read_csv(path, index_col="date", parse_dates=["date"])
    return table[COLUMNS].astype(float).sort_index()


def fit(table: pd.DataFrame, rises: pd.Series) -> Pipeline:
    """Fit the classifier."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01)).fit(table, rises)


def figures(name: str, position: pd.Series, returns: pd.Series) -> dict[str, float]:
    """What the stack's page shows of a strategy, before costs; its position is held over the day's return."""
    held, gained = position != 0, position * returns
    equity = (1 + gained).cumprod()
    deviation = gained.std()
    return {
        f"{name}_sharpe": float(gained.mean() / deviation * YEAR**0.5) if deviation > 0 else 0.0,
        f"{name}_annual_return": float(equity.iloc[-1] ** (YEAR / len(equity)) - 1),
        f"{name}_annual_volatility": float(deviation * YEAR**0.5),
        f"{name}_max_drawdown": float((equity / equity.cummax().clip(lower=1) - 1).min()),
        f"{name}_exposure": float(held.mean()),
        f"{name}_hit_rate": float((gained[held] > 0).mean()) if held.any() else 0.0,
        f"{name}_annual_turnover": float(position.diff().abs().fillna(position.abs()).mean() * YEAR),
    }


def main() -> None:
    """Train, log, register, promote."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("symbol", help="one of the stack's symbols, such as MSFT")
    parser.add_argument("--csv", help="train on this file instead of the backend's bars")
    parser.add_argument("--simulated", action="store_true", help="the prices of the file are not a market's")
    parser.add_argument("--promote", action="store_true", help="make the new version the champion")
    asked = parser.parse_args()
    bars, simulated = (bars_of_file(asked.csv), asked.simulated) if asked.csv else bars_of_backend(asked.symbol)

    # From the next open to the one after it, as the backend counts it.
    returns = bars["open"].shift(-2) / bars["open"].shift(-1) - 1
    table = features(bars).dropna()
    table = table[returns.reindex(table.index).notna()]
    rises = returns.reindex(table.index) > 0

    # The last fifth is predicted by a classifier that has not seen it. The champion learns from all days.
    split = len(table) * 4 // 5
    seen, unseen = table.iloc[: split - OUTCOME_DAYS], table.iloc[split:]
    probability = pd.Series(fit(seen, rises.loc[seen.index]).predict_proba(unseen)[:, 1], index=unseen.index)
    history = pd.DataFrame({"probability": probability, "position": positions(probability)})
    accuracy = float(((probability > 0.5) == rises.loc[unseen.index]).mean())

    mlflow.set_tracking_uri(MLFLOW)
    mlflow.set_experiment("desk")
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_name=f"{asked.symbol} by train.py"):
        path = Path(folder, "classifier.skops")
        skops.io.dump(fit(table, rises), path)
        mlflow.log_params({"symbol": asked.symbol, "bars": len(bars), "source": asked.csv or BACKEND})
        mlflow.log_metrics({"accuracy": accuracy, "oos_days": len(unseen)})
        mlflow.log_metrics(figures("strategy", history["position"], returns.loc[unseen.index]))
        mlflow.log_metrics(figures("buy_and_hold", history["position"] * 0 + 1, returns.loc[unseen.index]))
        mlflow.log_text(history.to_csv(index_label="date"), "walk_forward.csv")
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("desk_model.py")),
            artifacts={"classifier": str(path)},
            input_example=bars.tail(60),
            pip_requirements=str(REQUIREMENTS),
        )

    tags = {
        "symbol": asked.symbol,
        "simulated": str(simulated).lower(),
        "data_start": f"{bars.index[0]:%Y-%m-%d}",
        "data_end": f"{bars.index[-1]:%Y-%m-%d}",
        "promotion": "chosen by its author",
        "cost_bps": "0",
    }
    name = f"daily_strategy_{asked.symbol.replace('@', '__').replace(' ', '_')}"
    version = mlflow.register_model(logged.model_uri, name, tags=tags).version
    if asked.promote:
        mlflow.MlflowClient().set_registered_model_alias(name, "champion", version)
    print(f"{name} version {version}, accuracy {accuracy:.3f} on {len(unseen)} unseen days: {MLFLOW}/#/models/{name}")


if __name__ == "__main__":
    main()
