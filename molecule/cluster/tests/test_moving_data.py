"""The data services move to another host, as docs/cluster.md says, without losing a run or a row. Runs last."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests
from cluster_under_test import STACK, groups, identity, on, played, rearranged
from stack_under_test import Stack, eventually

OLD, SERVICES, NEW = "mol-cluster-data", "mol-cluster-services", "mol-cluster-worker"
DATA = ("postgres", "redis", "minio", "backup")
#: Rows of each table of the services' databases that no running program changes by itself.
TABLES = {
    "airflow": ("dag_run", "task_instance", "ab_user"),
    "mlflow": ("experiments", "runs", "metrics", "registered_models", "model_versions"),
    "backend": ("bars", "refreshes"),
}


def sql(host: str, database: str, statement: str) -> str:
    """What PostgreSQL answers."""
    words = ("psql", "--no-psqlrc", "-XAt", "--username=postgres", f"--dbname={database}", f"--command={statement}")
    return on(host, "docker", "exec", f"{STACK}-postgres", *words).strip()


def rows(host: str) -> dict[str, int]:
    """Table to the number of its rows."""
    return {
        f"{database}.{table}": int(sql(host, database, f"SELECT count(*) FROM {table}"))
        for database, tables in TABLES.items()
        for table in tables
    }


def objects(host: str) -> set[str]:
    """Files of MinIO's volume that are objects."""
    place = on(host, "docker", "volume", "inspect", "--format", "{{.Mountpoint}}", f"{STACK}-minio-data").strip()
    found = on(host, "find", place, "-name", "xl.meta", "-not", "-path", "*/.minio.sys/*", "-printf", "%P\\n")
    return set(found.split())


def copy(source: str, target: str, path: str) -> None:
    """Copy a directory from host to host, with owners, as `rsync -a` does for root."""
    sudo = "" if os.geteuid() == 0 else "sudo --non-interactive "
    archive = f"{sudo}docker exec {source} tar --create --directory={path} --numeric-owner ."
    unpack = f"tar --extract --directory={path} --numeric-owner --same-owner"
    into = f"{sudo}docker exec --interactive {target} sh -c 'mkdir -p {path} && {unpack}'"
    subprocess.run(["bash", "-o", "pipefail", "-c", f"{archive} | {into}"], check=True, timeout=600)


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """The inventory in which another host has the data."""
    return rearranged(tmp_path / "inventory", {name: [NEW] for name in DATA}, {OLD: None})


def runs_of(stack: Stack) -> dict[str, Any]:
    """Run of the training to its state."""
    path = stack.url("airflow", "/api/v2/dags/daily_strategy_training/dagRuns")
    answer = requests.get(path, params={"limit": 100}, headers=stack.airflow_token(), timeout=60)
    answer.raise_for_status()
    return {run["dag_run_id"]: run["state"] for run in answer.json()["dag_runs"]}


def test_the_data_move_to_another_host(stack: Stack, moved: Path) -> None:
    """Users end, then a backup is made, carried over and restored; every row, run and object is there."""
    played("verify")  # there is something to lose
    runs = runs_of(stack)
    users = sorted({host for hosts in groups().values() for host in hosts} - {OLD, "localhost"})
    played("stop", f"--limit={','.join(users)}")
    before = (rows(OLD), objects(OLD))
    assert all(before[0].values()) and before[1], before
    played("backup")
    played("destroy", f"--limit={OLD}")
    assert identity(OLD) == {}
    copy(OLD, NEW, f"/var/backups/quantops/{STACK}")

    played("restore", inventory=moved)

    assert set(DATA) <= set(identity(NEW)) and identity(OLD) == {}
    # What runs again has added rows since, and removed none.
    now = rows(NEW)
    assert {table: count for table, count in before[0].items() if now[table] < count} == {}
    assert before[1] <= objects(NEW)
    assert runs and runs_of(stack) == runs
    played("verify", inventory=moved)
    assert len(runs_of(stack)) == len(runs) + 1
    said = " ".join(played("status", inventory=moved).split())
    assert f"airflow@{NEW} takes tasks" in said and OLD not in said and "NOT HEARD" not in said

    # The inventory of before still knows the old host, whose volumes were kept until now.
    volumes = ("docker", "volume", "ls", "--quiet", "--filter", f"label=quantops.stack={STACK}")
    assert f"{STACK}-postgres-data" in on(OLD, *volumes)
    played("destroy", f"--limit={OLD}", "--extra-vars=" + json.dumps({"destroy_data": True, "destroy_confirm": STACK}))
    assert on(OLD, *volumes) == ""
    eventually(lambda: requests.get(stack.url("mlflow", "/health"), timeout=30).status_code == 200, 60)
