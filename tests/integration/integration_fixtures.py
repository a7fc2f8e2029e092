"""Fixtures of the tests on the running stack, for a conftest to import."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from stack_under_test import Stack, eventually


@pytest.fixture(scope="session")
def stack() -> Stack:
    """The running stack."""
    found = Stack()
    if not found.containers():
        pytest.fail(f"There is no running stack named {found.name} (QUANTOPS_STACK).", pytrace=False)
    return found


@pytest.fixture(scope="session")
def containers(stack: Stack) -> dict[str, dict[str, Any]]:
    """The engine's description of each container, once none is starting.

    A test may have restarted one, and the engine's first look at it comes a minute later.
    """

    def settled() -> dict[str, dict[str, Any]] | None:
        found = stack.containers()
        states = [item["State"].get("Health", {}).get("Status") for item in found.values()]
        return None if "starting" in states else found

    return eventually(settled, seconds=150)


@pytest.fixture(scope="session")
def airflow(stack: Stack) -> Iterator[requests.Session]:
    """Airflow's API as its administrator; addresses begin with the session's `base`."""
    with requests.Session() as session:
        session.headers.update(stack.airflow_token())
        yield session


@pytest.fixture(scope="session")
def dag_run(stack: Stack, airflow: requests.Session) -> dict[str, Any]:
    """The last successful training; triggers one where there is none yet."""
    runs = stack.url("airflow", "/api/v2/dags/daily_strategy_training/dagRuns")

    def ended(state: str) -> list[dict[str, Any]]:
        answer = airflow.get(runs, params={"state": state, "order_by": "-end_date", "limit": 1}, timeout=30)
        answer.raise_for_status()
        return answer.json()["dag_runs"]

    found = ended("success")
    if found:
        return found[0]
    body = {"logical_date": None, "conf": {"min_confidence": 0.5}}
    run = airflow.post(runs, json=body, timeout=30)
    assert run.status_code == 200, run.text
    address = f"{runs}/{run.json()['dag_run_id']}"

    def outcome() -> dict[str, Any] | None:
        now = airflow.get(address, timeout=30).json()
        return now if now["state"] in ("success", "failed") else None

    last = eventually(outcome, seconds=900, pause=5)
    assert last["state"] == "success", last
    return last
