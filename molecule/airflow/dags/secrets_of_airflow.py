"""A run that waits in the triggerer, and a task that reads a connection and a variable, which are kept encrypted."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import BaseHook, Variable, dag, task


@dag(schedule=None, catchup=False)
def secrets_of_airflow() -> None:
    """Both, one after the other."""
    wait = TimeDeltaSensor(task_id="wait", delta=timedelta(seconds=1), deferrable=True)

    @task
    def read() -> str:
        return f"{BaseHook.get_connection('probe_desk').password} {Variable.get('probe_word')}"

    wait >> read()


secrets_of_airflow()
