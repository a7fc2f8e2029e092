"""Scores bars with a registered model. As a program (see `isolated`): MLflow and scikit-learn take 200 MB, and the
model's own code runs, which must not see the worker's secrets in its environment. Of these it has the one with which
MLflow is read, where MLflow asks for a login.
"""

import io
import json
import os
import platform
import sys
import traceback
from typing import Any

from ibkr_backend import isolated

OUT_OF_SAMPLE_ARTIFACT = "walk_forward.csv"


def score(
    tracking_uri: str, name: str, version: str, run_id: str, bars: list[dict[str, Any]], token: str = ""
) -> dict[str, Any]:
    """Score every bar with a version of a model, and read its out-of-sample history.

    Args:
        tracking_uri: MLflow's URL.
        name: Registered model.
        version: Its version.
        run_id: MLflow run that made it.
        bars: Daily bars, ascending: ``date`` (ISO 8601), ``open``, ``high``, ``low``, ``close``, ``volume``.
        token: The backend's login in MLflow; empty where that asks for none.

    Returns:
        ``{"scored": [{"date", "probability", "position"}], "out_of_sample": [the same]}``, ascending; days that the
        model cannot score are left out, and the second is empty for a run without such a history.

    Raises:
        isolated.IsolatedError: the model cannot be loaded, does not take bars, or returns what is no signal.
    """
    request = {"name": name, "version": version, "run_id": run_id, "bars": bars}
    login: dict[str, Any] = {"MLFLOW_TRACKING_TOKEN": token} if token else {}
    answer: dict[str, Any] = isolated.call(
        "ibkr_backend.scoring",
        request,
        MLFLOW_TRACKING_URI=tracking_uri,
        MLFLOW_DISABLE_TELEMETRY="true",
        MLFLOW_HTTP_REQUEST_TIMEOUT="20",
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="2",
        OMP_NUM_THREADS="1",
        **login,
    )
    return answer


class UnusableModelError(Exception):
    """The model makes no signals; the text says why, and what to do."""


def main() -> None:
    """Answer one request; whatever the model prints goes to standard error."""
    answer_to, sys.stdout = sys.stdout, sys.stderr
    status = 1
    try:
        json.dump(answer(json.load(sys.stdin)), answer_to)
        answer_to.flush()
        status = 0
    except UnusableModelError as error:
        print(error, file=sys.stderr)
    except Exception:
        traceback.print_exc()
    sys.stderr.flush()
    # Threads of MLflow's and OpenTelemetry's clients would be waited for.
    os._exit(status)


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Load the model and score, see `score`."""
    import mlflow
    import pandas as pd

    bars = pd.DataFrame.from_records(asked["bars"])
    bars["date"] = pd.to_datetime(bars["date"], format="%Y-%m-%d")
    bars = bars.set_index("date").astype(float)
    uri = f"models:/{asked['name']}/{asked['version']}"
    try:
        model = mlflow.pyfunc.load_model(uri)
    except ModuleNotFoundError as error:
        raise UnusableModelError(
            f"the model cannot be loaded: it imports {error.name}, which the backend does not have. Log your own "
            "modules with code_paths, and use no packages but numpy, pandas, scikit-learn and skops"
        ) from error
    except Exception as error:
        raise UnusableModelError(f"the model cannot be loaded: {said(error)}{other_python(uri)}") from error
    try:
        prediction = model.predict(bars)
    except Exception as error:
        raise UnusableModelError(
            "the model failed on the bars, a table with the columns open, high, low, close and volume, indexed by day: "
            f"{said(error)}"
        ) from error
    scored = predicted(prediction, bars)
    run_id = asked["run_id"]
    history = pd.DataFrame(columns=["probability", "position"])
    if run_id and OUT_OF_SAMPLE_ARTIFACT in {item.path for item in mlflow.artifacts.list_artifacts(run_id=run_id)}:
        text = mlflow.artifacts.load_text(f"runs:/{run_id}/{OUT_OF_SAMPLE_ARTIFACT}")
        try:
            table = pd.read_csv(io.StringIO(text), index_col="date", parse_dates=["date"], date_format="%Y-%m-%d")
        except ValueError as error:
            raise UnusableModelError(
                f"{OUT_OF_SAMPLE_ARTIFACT} of the model's run cannot be read: {said(error)}"
            ) from error
        history = checked(table, f"{OUT_OF_SAMPLE_ARTIFACT} of the model's run")
        if not isinstance(history.index, pd.DatetimeIndex):
            raise UnusableModelError(
                f"{OUT_OF_SAMPLE_ARTIFACT} of the model's run: expected dates such as 2026-01-31 in the column date"
            )
    return {"scored": rows(scored), "out_of_sample": rows(history)}


def said(error: Exception) -> str:
    """Return an error's text in one line; of MLflow's, which repeat the whole table, the reason alone."""
    text = " ".join(str(error).split()).rpartition(" Error: ")[2]
    return f"{type(error).__name__}: {text}"[:280]


def other_python(uri: str) -> str:
    """Say which Python a model was made with, if it is another than this one: pickled code needs the same."""
    import mlflow

    try:
        made_with = str(mlflow.models.get_model_info(uri).flavors["python_function"]["python_version"])
    except Exception:
        return ""
    here = platform.python_version()
    if made_with.split(".")[:2] == here.split(".")[:2]:
        return ""
    return f". It was made with Python {made_with}, and the backend has {here}: log the model from code"


def predicted(prediction: Any, bars: Any) -> Any:
    """Return what `checked` makes of a model's prediction, which must be a table of days of the bars."""
    import pandas as pd

    if not isinstance(prediction, pd.DataFrame):
        found = type(prediction).__name__
        raise UnusableModelError(
            f"the model returned {found}; expected a DataFrame with the columns probability and position"
        )
    scored = checked(prediction, f"the table that the model made of {len(bars)} bars")
    if not scored.index.isin(bars.index).all() or scored.index.has_duplicates:
        raise UnusableModelError(
            "the model returned rows of other days than the bars have: give its table the index of the bars"
        )
    return scored


def checked(table: Any, origin: str) -> Any:
    """Return the days of a table that have both numbers, ascending.

    Args:
        table: What a model returned, or its history.
        origin: What it is, for the message.

    Raises:
        UnusableModelError: they cannot be signals.
    """
    columns = ["probability", "position"]
    if missing := [name for name in columns if name not in table.columns]:
        found = ", ".join(map(str, table.columns)) or "none"
        raise UnusableModelError(f"{origin} has no column {' and '.join(missing)}; its columns are: {found[:200]}")
    try:
        numbers = table[columns].astype(float).dropna().sort_index()
    except (TypeError, ValueError) as error:
        raise UnusableModelError(
            f"{origin} has a probability or position that is not a number: {said(error)}"
        ) from error
    if numbers.empty:
        raise UnusableModelError(
            f"{origin} has no day with both a probability and a position: do features look back further than that?"
        )
    for name, good, expected in (
        ("probability", numbers["probability"].between(0, 1), "a number from 0 to 1"),
        ("position", numbers["position"].isin([-1, 0, 1]), "-1, 0 or 1"),
    ):
        if not good.all():
            value = numbers.loc[~good, name]
            raise UnusableModelError(
                f"{origin} has the {name} {value.iloc[-1]:g} in the row {value.index[-1]}; expected {expected}"
            )
    return numbers


def rows(frame: Any) -> list[dict[str, Any]]:
    """Return the rows of a table of days."""
    return [
        {"date": f"{day:%Y-%m-%d}", "probability": float(probability), "position": int(position)}
        for day, probability, position in zip(frame.index, frame["probability"], frame["position"], strict=True)
    ]


if __name__ == "__main__":
    main()
