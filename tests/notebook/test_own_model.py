"""The example of a model that was trained elsewhere: what it leaves in MLflow, and what the backend makes of it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from stack_under_test import REPOSITORY, Stack, eventually
from test_applications import TIMEOUT, MLflow, backend

EXAMPLE = REPOSITORY / "examples" / "own_model"
SYMBOL, MODEL = "MSFT", "daily_strategy_MSFT"
# The worker looks every minute, and a scoring takes a while.
WORKER_LOOKS_S = 180
LAST_DAY = "2013-03-01"
WORDS = {1: "long", 0: "flat", -1: "short"}
#: What people try first: a classifier as it is, which takes features instead of bars.
CLASSIFIER = """
import mlflow, sys
from sklearn.dummy import DummyClassifier
mlflow.set_experiment("desk")
with mlflow.start_run():
    model = DummyClassifier(strategy="constant", constant=1).fit([[0.0]] * 2, [0, 1])
    logged = mlflow.sklearn.log_model(model, name="model", pip_requirements=["scikit-learn"])
print(mlflow.register_model(logged.model_uri, sys.argv[1], tags={"symbol": sys.argv[2], "simulated": "true"}).version)
"""


def laptop(stack: Stack, *words: str) -> str:
    """Run Python as somebody with MLflow's client and an address does; returns what it printed."""
    python = REPOSITORY / ".venvs" / "dags" / "bin" / "python"
    assert python.exists(), "make .venvs/dags"
    environment = {
        "PATH": os.environ["PATH"],
        "MLFLOW_TRACKING_URI": stack.url("mlflow"),
        "BACKEND_URL": stack.url("backend"),
        "BACKEND_API_TOKEN": stack.secret("backend_api_token"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [python, *words], env=environment, capture_output=True, text=True, check=False, timeout=600
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def train(stack: Stack, *words: str) -> str:
    """Run the example; returns the version that it registered."""
    said = laptop(stack, str(EXAMPLE / "train.py"), SYMBOL, *words).splitlines()[-1]
    found = re.match(rf"{MODEL} version (\d+), accuracy 0\.\d+ on \d+ unseen days: ", said)
    assert found, said
    return found[1]


def promote(stack: Stack, version: str) -> None:
    """Give a version the alias, as MLflow's page does."""
    MLflow(stack).post("registered-models/alias", name=MODEL, alias="champion", version=version)


def tags_of(stack: Stack, version: str) -> dict[str, str]:
    """Tags of a version."""
    found = MLflow(stack).get("model-versions/get", name=MODEL, version=version)["model_version"]
    return {each["key"]: each["value"] for each in found["tags"]}


def signals(stack: Stack, version: str, kind: str) -> list[dict[str, Any]]:
    """The version's signals."""
    found = backend(stack, f"/api/v1/signals/{SYMBOL}")["signals"]
    return [each for each in found if (each["model_version"], each["kind"]) == (version, kind)]


def known(stack: Stack) -> dict[str, Any]:
    """What the backend says of the model."""
    [found] = [each for each in backend(stack, "/api/v1/models") if each["name"] == MODEL]
    return found


@pytest.fixture(scope="module", autouse=True)
def registry(stack: Stack) -> Iterator[None]:
    """Leave the registry with the champion that it had."""
    models = {each["name"]: each for each in backend(stack, "/api/v1/models")}
    yield
    if MODEL not in models:
        address = f"{MLflow(stack).base}/mlflow/registered-models/delete"
        assert requests.delete(address, json={"name": MODEL}, timeout=TIMEOUT).status_code == 200
    elif models[MODEL]["champion"]:
        promote(stack, models[MODEL]["champion"]["version"])


def test_the_backend_scores_the_example_once_it_is_the_champion(stack: Stack) -> None:
    """Trained on the backend's own bars. What it says of itself is in its tags, and its history is its run's."""
    assert eventually(lambda: requests_of_bars(stack) == 200, seconds=WORKER_LOOKS_S)
    version = train(stack)
    tags = tags_of(stack, version)
    assert (tags["symbol"], tags["simulated"], tags["data_end"]) == (SYMBOL, "true", LAST_DAY)
    assert signals(stack, version, "live") == []
    promote(stack, version)
    live = eventually(lambda: signals(stack, version, "live"), seconds=WORKER_LOOKS_S)
    assert [each["date"] for each in live] == ["2013-02-28", LAST_DAY]
    assert all(each["position"] == (each["probability"] > 0.5) for each in live)
    found = known(stack)
    assert (found["champion"]["version"], found["problem"]) == (version, None)
    assert len(signals(stack, version, "out_of_sample")) == found["metrics"]["oos_days"] > 500
    assert {"strategy_sharpe", "buy_and_hold_max_drawdown", "strategy_hit_rate"} <= set(found["metrics"])
    page = eventually(lambda: page_with(stack, "Champion because: chosen by its author"), seconds=60)
    assert f"Newest signal: {WORDS[live[-1]['position']]} at the close of {LAST_DAY}, by version {version}." in page


def page_with(stack: Stack, words: str) -> str | None:
    """The stack's page about the symbol, once it has these words: it looks the champion up now and then."""
    with requests.Session() as browser:
        login = {"user": "trader", "password": stack.secret("backend_page_password")}
        browser.post(stack.url("backend", "/login"), data=login, timeout=TIMEOUT).raise_for_status()
        answer = browser.get(stack.url("backend", f"/?symbol={SYMBOL}"), timeout=TIMEOUT)
    answer.raise_for_status()
    return answer.text if words in answer.text else None


def requests_of_bars(stack: Stack) -> int:
    """Status of the answer to who asks for the bars."""
    headers = {"Authorization": f"Bearer {stack.secret('backend_api_token')}"}
    return requests.get(stack.url("backend", f"/api/v1/bars/{SYMBOL}"), headers=headers, timeout=TIMEOUT).status_code


def test_a_model_that_does_not_fit_is_told_and_a_good_one_scores_again(stack: Stack, tmp_path: Path) -> None:
    """A bare classifier; then a version trained on a file, without the tag, which scores as soon as it is set."""
    version = laptop(stack, "-c", CLASSIFIER, MODEL, SYMBOL).splitlines()[-1]
    promote(stack, version)
    problem = eventually(lambda: known(stack)["problem"], seconds=WORKER_LOOKS_S)
    assert "the model returned ndarray; expected a DataFrame with the columns probability and position" in problem
    assert signals(stack, version, "live") == []

    rows = backend(stack, f"/api/v1/bars/{SYMBOL}?start=2008-01-01")["bars"]
    columns = list(rows[0])
    lines = [",".join(columns), *(",".join(str(row[name]) for name in columns) for row in rows)]
    (tmp_path / "prices.csv").write_text("\n".join(lines) + "\n")
    version = train(stack, "--csv", str(tmp_path / "prices.csv"))
    assert tags_of(stack, version)["simulated"] == "false"
    address = f"{MLflow(stack).base}/mlflow/model-versions/delete-tag"
    untag = {"name": MODEL, "version": version, "key": "simulated"}
    assert requests.delete(address, json=untag, timeout=TIMEOUT).status_code == 200
    promote(stack, version)
    assert "has no tag `simulated`" in eventually(lambda: known(stack)["problem"], seconds=WORKER_LOOKS_S)
    MLflow(stack).post("model-versions/set-tag", name=MODEL, version=version, key="simulated", value="true")
    assert eventually(lambda: signals(stack, version, "live"), seconds=WORKER_LOOKS_S)
    assert known(stack)["problem"] is None
