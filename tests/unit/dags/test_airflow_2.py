"""What the check of DAGs says about Airflow 2: tried with the Airflow that the DAGs run with."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.standard.operators.python import PythonOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG
from airflow.sdk.definitions.context import Context
from airflow.sdk.execution_time import macros

sys.path.insert(0, str(Path(__file__).parents[3] / "roles" / "airflow" / "files" / "scripts"))
import airflow_2

#: A class of each module that is said to be where one of Airflow 2 is now.
CLASSES_NOW = {
    "airflow.sdk": ("BaseHook", "BaseSensorOperator", "Asset", "TaskGroup", "chain", "cross_downstream"),
    "airflow.sdk.bases.branch": ("BaseBranchOperator",),
    "airflow.providers.standard.operators.empty": ("EmptyOperator",),
    "airflow.providers.common.sql.operators.sql": ("SQLExecuteQueryOperator", "SQLCheckOperator"),
    "airflow.providers.http.operators.http": ("HttpOperator",),
    "airflow.providers.smtp.operators.smtp": ("EmailOperator",),
    "airflow.providers.amazon.aws.hooks.s3": ("S3Hook",),
    "airflow.providers.amazon.aws.sensors.s3": ("S3KeySensor",),
}


def test_modules_of_airflow_2_are_gone_and_those_now_are_there() -> None:
    """No entry is guessed."""
    for old, now in airflow_2.MODULES.items():
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(old)
        importlib.import_module(now)
    for module, names in CLASSES_NOW.items():
        assert all(hasattr(importlib.import_module(module), name) for name in names), module
    for name in airflow_2.GONE:
        module, _, attribute = name.rpartition(".")
        with pytest.raises((ModuleNotFoundError, AttributeError)):
            getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("argument", airflow_2.DAG_ARGUMENTS)
def test_arguments_that_a_dag_refuses(argument: str) -> None:
    """And takes under the name that is said."""
    with pytest.raises(TypeError, match=argument):
        DAG("old", **{argument: None})
    instead = airflow_2.DAG_ARGUMENTS[argument].removeprefix("write ")
    if instead != "remove it":
        DAG("old", **{instead: 1 if instead == "max_active_tasks" else None if instead == "schedule" else True})


@pytest.mark.parametrize("argument", airflow_2.TASK_ARGUMENTS)
def test_arguments_that_a_task_refuses(argument: str) -> None:
    """And takes under the name that is said."""
    with DAG("old"):
        with pytest.raises(TypeError, match=argument):
            PythonOperator(task_id="old", python_callable=print, **{argument: True})
        instead = airflow_2.TASK_ARGUMENTS[argument].removeprefix("write ")
        if not instead.startswith("remove"):
            PythonOperator(task_id="new", python_callable=print, **{instead: 1 if instead.startswith("max") else True})


def test_other_arguments_that_are_refused() -> None:
    """Of one operator, values, and positions."""
    with DAG("old"):
        with pytest.raises(TypeError, match="execution_date"):
            TriggerDagRunOperator(task_id="old", trigger_dag_id="b", execution_date="x")
        TriggerDagRunOperator(task_id="new", trigger_dag_id="b", logical_date="2026-01-01")
        for old, now in airflow_2.TRIGGER_RULES.items():
            with pytest.raises(ValueError, match="trigger_rule"):
                PythonOperator(task_id=old, python_callable=print, trigger_rule=old)
            PythonOperator(task_id=now, python_callable=print, trigger_rule=now)
    with pytest.raises(TypeError, match="positional"):
        DAG("old", "described")


def test_a_context_lacks_what_is_said_to_be_gone() -> None:
    """And has what is to be used."""
    known = Context.__annotations__
    for old, now in airflow_2.CONTEXT.items():
        assert old not in known
        assert now.split(".")[0] in known
    assert macros.ds_format(macros.ds_add("2026-01-01", -1), "%Y-%m-%d", "%Y%m%d") == "20251231"


@pytest.mark.parametrize(
    ("source", "at_import", "at_run"),
    [
        ("from airflow.operators.dummy import DummyOperator", ["operators.empty import EmptyOperator."], []),
        ("import airflow.operators.bash_operator", ["import from airflow.providers.standard.operators.bash."], []),
        ("from airflow.operators import bash_operator", ["import from airflow.providers.standard.operators.bash."], []),
        ("from airflow.contrib.hooks.x import Y", ["use the hooks and operators of a provider's package"], []),
        ("from airflow.operators.python import PythonOperator", [], []),
        ("@dag(schedule_interval=None)\ndef x(): ...", ["line 1", "write schedule."], []),
        ("DAG('a', 'described')", ["by name"], []),
        ("plot(schedule_interval=1, concurrency=2, provide_context=3)", [], []),
        ("PythonOperator(\n  task_id='a',\n  trigger_rule='dummy')", ["line 3", "write always."], []),
        ("TriggerDagRunOperator(execution_date=1)", ["write logical_date"], []),
        ("BashOperator(bash_command='echo {{ execution_date }} {{ yesterday_ds }}')", [], ["logical_date", "ds_add"]),
        ("x = '{{ dag_run.conf.execution_date }} {{ params.tomorrow_ds }}'", [], []),
        ("x = 'execution_date'\ndef mine(execution_date): ...", [], []),
        ("def say(execution_date): ...\nPythonOperator(python_callable=say)", [], ["line 1", "use logical_date"]),
        ("@task.branch\ndef say(*, tomorrow_ds): ...", [], ["line 2"]),
        ("x = kwargs['execution_date']", [], ["use logical_date"]),
        ("x = row['execution_date']", [], []),
        ("x = kwargs['dag_run'].conf, ti.execution_date", [], ["ti has no execution_date"]),
        ("def broken(:", [], []),
    ],
)  # fmt: skip
def test_what_is_found(source: str, at_import: list[str], at_run: list[str]) -> None:
    """In the text of a file, with its line, and nothing that only looks alike."""
    for wanted, found in zip((at_import, at_run), airflow_2.airflow_2_forms(source.encode()), strict=True):
        text = "\n".join(f"line {line}: {each}" for line, each in found)
        assert bool(found) == bool(wanted), found
        assert all(part in text for part in wanted), found


def test_more_than_python() -> None:
    """A file of another encoding is read by its declaration."""
    source: Any = "# coding: latin-1\nDAG('Zürich', concurrency=1)".encode("latin-1")
    assert len(airflow_2.airflow_2_forms(source)[0]) == 1
