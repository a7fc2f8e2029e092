"""A short task, and one that waits in the triggerer, for a stream of runs."""

from __future__ import annotations

import time
from datetime import timedelta

from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import dag, task

TASK_S = 6
WAIT_S = 45


@dag(schedule=None, catchup=False, max_active_runs=16)
def steady() -> None:
    """Without retries: what goes wrong once fails the run."""

    @task(retries=0)
    def work() -> str:
        time.sleep(TASK_S)
        return "done"

    work()
    TimeDeltaSensor(task_id="later", delta=timedelta(seconds=WAIT_S), deferrable=True, retries=0)


steady()
