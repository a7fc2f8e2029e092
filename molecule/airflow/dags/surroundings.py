"""The environment of DAGs, at the top of a file, which the DAG processor runs, and in a task of the worker."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import dag, task

NAMES = ("PROBE_WORD", "PROBE_SECRET", "S3_ENDPOINT_URL", "AIRFLOW_API_URL", "GATEWAY_URL")


def seen() -> str:
    """What is there of it, without a value that is secret."""
    found = [f"{name}={len(value) if 'SECRET' in name else value}" for name in NAMES if (value := os.getenv(name))]
    return f"{os.environ['PROBE_WORD']} {' '.join(found)}"


@dag(schedule=None, description=seen())
def surroundings() -> None:
    """Tells the test what it sees."""

    @task
    def look() -> str:
        visible = Path("/proc/1/environ").read_text()
        return seen() if os.environ["PROBE_SECRET"] not in visible else "the secret is in the container's description"

    look()


surroundings()
