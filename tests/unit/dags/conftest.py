"""Shared pieces of the DAG tests: a home for Airflow outside the user's, the DAG folder, and made-up bars."""

import os
import sys
import tempfile
from pathlib import Path

# Airflow reads its settings at import, so they stand here rather than in a fixture.
_HOME = tempfile.mkdtemp(prefix="airflow-home-")
DAGS_FOLDER = Path(__file__).parents[3] / "files" / "dags"
os.environ |= {
    "AIRFLOW_HOME": _HOME,
    "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS_FOLDER),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME}/airflow.db",
    "AIRFLOW__LOGGING__REMOTE_LOGGING": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
sys.path.insert(0, str(DAGS_FOLDER))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402
from quantops_strategy.bars import DailyBars  # noqa: E402


def make_bars(daily_return: np.ndarray, start: str = "2010-01-04") -> pd.DataFrame:
    """Daily bars whose opens move by `daily_return`; each close is the open, and volume and range never vary."""
    opens = 100 * np.cumprod(1 + daily_return)
    index = pd.bdate_range(start, periods=len(opens), name="date")
    return pd.DataFrame(
        {"open": opens, "high": opens * 1.01, "low": opens * 0.99, "close": opens, "volume": 1e6}, index=index
    )


@pytest.fixture(scope="session")
def noise() -> pd.DataFrame:
    """Bars of 1,500 days in which nothing can be predicted."""
    return make_bars(np.random.default_rng(1).normal(0, 0.01, 1500))


@pytest.fixture(scope="session")
def momentum() -> pd.DataFrame:
    """Bars of 1,500 days that rise for 40 days and fall for 40, with noise, so that the past tells the future."""
    drift = np.where(np.arange(1500) // 40 % 2 == 0, 0.004, -0.004)
    return make_bars(drift + np.random.default_rng(2).normal(0, 0.004, 1500))


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory) -> bytes:
    """An empty MLflow database; migrating one takes seconds, so tests copy it."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


@pytest.fixture
def store_uri(tmp_path, monkeypatch, migrated_store) -> str:
    """URI of an empty MLflow store of its own, with its artifacts in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(migrated_store)
    return f"sqlite:///{tmp_path}/mlflow.db"


def daily_bars(frame: pd.DataFrame, *, simulated: bool = False, symbol: str = "TEST") -> DailyBars:
    """The frame as the backend's bars."""
    return DailyBars(symbol, "test", simulated, True, frame)
