"""More tasks than the workers have slots for."""

from __future__ import annotations

import time

from airflow.sdk import dag, task

TASKS = 5
TASK_S = 8


@dag(schedule=None, catchup=False, max_active_runs=2)
def backlog() -> None:
    """Mapped tasks without retries: one that is given up before it began fails the run."""

    @task(retries=0)
    def work(number: int) -> int:
        time.sleep(TASK_S)
        return number

    work.expand(number=list(range(TASKS)))


backlog()
