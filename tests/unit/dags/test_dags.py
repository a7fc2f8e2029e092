"""Both DAGs load, have the structure they should have, and refuse parameters out of bounds."""

import subprocess
import sys

import pytest
from airflow.sdk.exceptions import ParamValidationError
from conftest import DAGS_FOLDER


@pytest.fixture(scope="module")
def dags():
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(DAGS_FOLDER)
    assert bag.import_errors == {}
    return bag.dags


def test_only_the_two_dags_are_found(dags):
    assert set(dags) == {"daily_strategy_training", "stack_maintenance"}


@pytest.mark.parametrize("name", ["daily_strategy_training", "stack_maintenance"])
def test_runs_one_at_a_time_without_catching_up(dags, name):
    dag = dags[name]
    assert (dag.catchup, dag.max_active_runs, dag.is_paused_upon_creation) == (False, 1, False)
    assert all(task.retries >= 2 and task.execution_timeout for task in dag.tasks)
    assert dag.doc_md


def test_training_order(dags):
    edges = {task.task_id: task.downstream_task_ids for task in dags["daily_strategy_training"].tasks}
    assert edges == {
        "get_bars": {"evaluate", "train_and_log", "promote"},
        "evaluate": {"train_and_log"},
        "train_and_log": {"promote"},
        "promote": set(),
    }


def test_maintenance_tasks_are_independent(dags):
    edges = {task.task_id: task.downstream_task_ids for task in dags["stack_maintenance"].tasks}
    assert edges == {"delete_old_task_logs": set(), "close_stale_mlflow_runs": set()}


@pytest.mark.parametrize(
    ("name", "param", "value"),
    [
        ("daily_strategy_training", "symbol", "aapl; drop"),
        ("daily_strategy_training", "symbol", "../secrets"),
        ("daily_strategy_training", "start", "yesterday"),
        ("daily_strategy_training", "cost_bps", -1),
        ("daily_strategy_training", "embargo_days", 1),
        ("daily_strategy_training", "train_days", 99),
        ("daily_strategy_training", "test_days", 0),
        ("daily_strategy_training", "model", "oracle"),
        ("daily_strategy_training", "window", "future"),
        ("daily_strategy_training", "min_edge", 0.5),
        ("daily_strategy_training", "min_confidence", 0.4),
        ("daily_strategy_training", "allow_short", "maybe"),
        ("daily_strategy_training", "max_leaf_nodes", 1),
        ("stack_maintenance", "log_retention_days", 0),
        ("stack_maintenance", "stale_run_hours", 1),
        ("stack_maintenance", "dry_run", "perhaps"),
    ],
)
def test_params_out_of_bounds_are_refused(dags, name, param, value):
    dags[name].params.validate()
    with pytest.raises(ParamValidationError):
        dags[name].params.get_param(param).resolve(value)


def test_params_cover_every_setting_of_the_recipe(dags):
    from quantops_strategy.evaluation import Recipe

    params = dags["daily_strategy_training"].params.dump()
    assert {name: params[name] for name in Recipe.__dataclass_fields__} == vars(Recipe())


def test_parsing_imports_nothing_heavy():
    code = (
        "import sys, daily_strategy_training, stack_maintenance;"
        "print(sorted({'pandas', 'sklearn', 'mlflow', 'matplotlib', 'boto3', 'httpx._client', 'quantops_strategy'}"
        " & set(sys.modules) - before))"
    )
    # What Airflow itself imports is not the DAGs' doing.
    code = "import sys; from airflow.sdk import dag, task, Param; before = set(sys.modules); " + code
    done = subprocess.run([sys.executable, "-c", code], cwd=DAGS_FOLDER, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
