"""Scores bars with a registered model. As a program (see `isolated`): MLflow and scikit-learn take 200 MB, and the
model's own code runs, which must not see the worker's secrets in its environment.
"""

import io
import json
import math
import os
import sys
from typing import Any

from ibkr_backend import isolated

OUT_OF_SAMPLE_ARTIFACT = "walk_forward.csv"


def score(tracking_uri: str, name: str, version: str, run_id: str, bars: list[dict[str, Any]]) -> dict[str, Any]:
    """Score every bar with a version of a model, and read its out-of-sample history.

    Args:
        tracking_uri: MLflow's URL.
        name: Registered model.
        version: Its version.
        run_id: MLflow run that made it.
        bars: Daily bars, ascending: ``date`` (ISO 8601), ``open``, ``high``, ``low``, ``close``, ``volume``.

    Returns:
        ``{"scored": [{"date", "probability", "position"}], "out_of_sample": [the same]}``, ascending; days that the
        model cannot score are left out, and the second is empty for a run without such a history.

    Raises:
        isolated.IsolatedError: the model cannot be loaded, or does not take bars.
    """
    request = {"name": name, "version": version, "run_id": run_id, "bars": bars}
    answer: dict[str, Any] = isolated.call(
        "ibkr_backend.scoring",
        request,
        MLFLOW_TRACKING_URI=tracking_uri,
        MLFLOW_DISABLE_TELEMETRY="true",
        MLFLOW_HTTP_REQUEST_TIMEOUT="20",
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="2",
        OMP_NUM_THREADS="1",
    )
    return answer


def main() -> None:
    """Answer one request; whatever the model prints goes to standard error."""
    answer_to, sys.stdout = sys.stdout, sys.stderr
    import mlflow
    import pandas as pd

    asked = json.load(sys.stdin)
    bars = pd.DataFrame.from_records(asked["bars"])
    bars["date"] = pd.to_datetime(bars["date"], format="%Y-%m-%d")
    bars = bars.set_index("date").astype(float)
    model = mlflow.pyfunc.load_model(f"models:/{asked['name']}/{asked['version']}")
    prediction = model.predict(bars)
    if not isinstance(prediction, pd.DataFrame) or not {"probability", "position"} <= set(prediction.columns):
        sys.exit("the model does not return probability and position: train it again")
    path = mlflow.artifacts.list_artifacts(run_id=asked["run_id"])
    history = pd.DataFrame(columns=["probability", "position"])
    if OUT_OF_SAMPLE_ARTIFACT in {item.path for item in path}:
        text = mlflow.artifacts.load_text(f"runs:/{asked['run_id']}/{OUT_OF_SAMPLE_ARTIFACT}")
        history = pd.read_csv(io.StringIO(text), index_col="date", parse_dates=["date"])
    json.dump({"scored": rows(prediction), "out_of_sample": rows(history)}, answer_to)
    answer_to.flush()
    # Threads of MLflow's and OpenTelemetry's clients would be waited for.
    os._exit(0)


def rows(frame: Any) -> list[dict[str, Any]]:
    """Return the days of a table that have both numbers."""
    return [
        {"date": f"{day:%Y-%m-%d}", "probability": float(probability), "position": int(position)}
        for day, probability, position in zip(frame.index, frame["probability"], frame["position"], strict=True)
        if not (math.isnan(probability) or math.isnan(position))
    ]


if __name__ == "__main__":
    main()
