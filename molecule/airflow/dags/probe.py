"""A task that says where it runs."""

from __future__ import annotations

import socket

from airflow.sdk import dag, task


@dag(schedule=None, catchup=False)
def probe() -> None:
    """One task, for the tests of the role."""

    @task
    def say() -> str:
        print(f"the probe runs on {socket.gethostname()}")
        return socket.gethostname()

    say()


probe()
