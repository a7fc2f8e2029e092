"""Upgrades that succeed, fail and are interrupted, and rollbacks to the previous containers and data."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from client_programs import run_client
from stack_under_test import (
    REPOSITORY,
    Stack,
    ansible_environment,
    changed,
    command,
    eventually,
    playbook_command,
    run_playbook,
)
from test_data_services import psql

MODEL = "kept model"
PREDICTION = pytest.approx(301)
YES = {"upgrade_confirm": "molecule", "upgrade_back_confirm": "molecule"}
RECORD = "/etc/quantops/molecule/previous"
#: The container that loads a dump into a new cluster, and what stops its client there as soon as it runs.
MOVE = "molecule-postgres-move"
FREEZE = """
for attempt in $(seq 600); do
    for process in /proc/[0-9]*; do
        [ "$(cat "$process/comm" 2> /dev/null)" != psql ] || { kill -STOP "${process#/proc/}"; exit; }
    done
    sleep 0.05
done
exit 1
"""
#: A release of MLflow whose migration changes a table and then fails.
MIGRATES = """
import pathlib, sys
import sqlalchemy as sa
engine = sa.create_engine(pathlib.Path("/run/secrets/database_url").read_text().strip())
with engine.begin() as connection:
    connection.execute(sa.text("ALTER TABLE experiments RENAME COLUMN name TO title"))
    connection.execute(sa.text("UPDATE alembic_version SET version_num = 'ffffffffffff'"))
sys.exit("the second half of the migration does not work")
"""


def words(playbook: str, **variables: Any) -> tuple[str, Path, str, str]:
    """Arguments of a run on this scenario's host."""
    inventory = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
    return (f"playbooks/{playbook}.yml", inventory, "--inventory=molecule/shared/inventory.yml",
            f"--extra-vars={json.dumps(YES | variables)}")  # fmt: skip


def run(playbook: str, status: int = 0, **variables: Any) -> str:
    """Run a playbook to its end, and return what it says."""
    done = run_playbook(*words(playbook, **variables))
    assert done.returncode == status, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


def backups(stack: Stack) -> list[str]:
    """Ids of the complete backups, the newest first."""
    done = stack.execute("backup", "python3", "/run/config/backup.py", "list")
    return [each["id"] for each in json.loads(done.stdout)]


def predict(stack: Stack) -> float:
    """What the registered model says."""
    said = run_client("dags", "mlflow_load.py", url=stack.url("mlflow"), name=MODEL)
    return json.loads(said.splitlines()[-1])["prediction"]


def workers(stack: Stack) -> str:
    """How many workers MLflow was given; nothing while its container is being replaced."""
    environment = stack.containers().get("mlflow", {"Config": {"Env": []}})["Config"]["Env"]
    found = (each.removeprefix("MLFLOW_WORKERS=") for each in environment if each.startswith("MLFLOW_WORKERS="))
    return next(found, "")


@pytest.fixture(scope="module", autouse=True)
def model(stack: Stack) -> None:
    """A model with its rows and objects."""
    run_client("dags", "mlflow_client.py", url=stack.url("mlflow"), name=MODEL)


def test_nothing_to_upgrade(stack: Stack) -> None:
    """No backup, no record, no container is touched."""
    before, known = stack.identity(), backups(stack)
    assert "Nothing changes on this host." in run("upgrade", upgrade_confirm="another")
    assert stack.identity() == before and backups(stack) == known
    assert "There is no record of an earlier state" in run("upgrade_back", status=2)
    assert stack.identity() == before


def test_nothing_without_the_answer(stack: Stack) -> None:
    before, traces = stack.identity(), stack.traces()
    said = run("upgrade", status=2, upgrade_confirm="another", mlflow_workers=2)
    assert "Recreated: molecule-mlflow (" in said
    assert "Nothing was upgraded: the answer is not molecule." in said
    assert (stack.identity(), stack.traces()) == (before, traces)
    said = run("upgrade", status=2, upgrade_back_data="yesterday")
    assert "upgrade_back_data is yesterday, expected auto, backup or keep. Nothing was changed." in said


def test_an_upgrade_and_the_way_back_from_it(stack: Stack) -> None:
    """Nothing but what changes is recreated; rolled back, the previous version finds nothing to do."""
    before, known = stack.identity(), backups(stack)
    # One that tells its version and has another name than its service.
    upgrade = {"mlflow_workers": 2, "airflow_overrides": {"airflow-scheduler": {"memory": "1100m"}}}
    said = run("upgrade", **upgrade)
    assert "Recreated: molecule-airflow-scheduler (" in said
    assert "The backend reaches postgres, redis, minio, gateway, mlflow, airflow" in said
    assert "Upgraded, and every service answers." in said
    assert changed(before, stack.identity()) == {"mlflow", "airflow-scheduler"}
    assert workers(stack) == "2" and len(backups(stack)) == len(known) + 1
    assert "changed=0 " in run("site", **upgrade)
    assert command("stat", "--format=%a %U", RECORD, f"{RECORD}/containers.json").split() == [
        "700",
        "root",
        "600",
        "root",
    ]
    upgraded = stack.identity()
    assert "Nothing was changed: the answer is not" in run("upgrade_back", status=2, upgrade_back_confirm="another")
    assert stack.identity() == upgraded

    run_client("dags", "mlflow_client.py", url=stack.url("mlflow"), name="made since")
    said = run("upgrade_back")
    assert "runs again with its previous containers and the data as it is" in said
    assert workers(stack) == "1" and predict(stack) == PREDICTION
    status, count = psql(stack, "mlflow", "mlflow", "SELECT count(*) FROM registered_models WHERE name = 'made since'")
    assert (status, count) == (0, "1")
    assert "changed=0 " in run("site")
    assert "Nothing differs from the declaration." in run("drift")


def test_a_migration_that_fails(stack: Stack) -> None:
    """The previous containers and data are back, and what was written since is kept beside them."""
    image = stack.containers()["mlflow"]["Image"]
    known = backups(stack)
    broken = {"mlflow-upgrade": {"command": ["python", "-c", MIGRATES]}, "mlflow": {"memory": "700m"}}
    said = run("upgrade", status=2, mlflow_overrides=broken)
    assert "Run again, with the migrations of databases: molecule-mlflow-upgrade" in said
    assert "the second half of the migration does not work" in said
    assert "these databases were migrated: mlflow" in said
    made = backups(stack)
    assert len(made) == len(known) + 2, "one before the upgrade, one of the restored state"
    assert f"the data of the backup {made[1]}" in said
    assert stack.containers()["mlflow"]["Image"] == image
    assert stack.containers()["mlflow-upgrade"]["State"]["ExitCode"] == 0
    assert predict(stack) == PREDICTION
    kept = command("docker", "volume", "ls", "--format", "{{.Name}}", "--filter", "label=quantops.kept").split()
    data = {f"molecule-{name}" for name in ("backend-beat", "minio-data", "postgres-data", "redis-data")}
    assert {each.partition(".until-")[0] for each in kept} == data and all(each in said for each in kept)
    run("verify")
    assert "changed=0 " in run("site")


def test_a_service_that_does_not_come_up(stack: Stack) -> None:
    """No database was migrated, so that what was written stays."""
    before = stack.containers()
    wrong = {"mlflow": {"environment": {"MLFLOW_HOST": "127.0.0.1", "MLFLOW_PORT": "5501"}}}
    known = backups(stack)
    said = run("upgrade", status=2, mlflow_overrides=wrong, container_service_timeout=60)
    assert "The upgrade failed. molecule runs again with its previous containers and the data as it is." in said
    after = stack.containers()
    assert {name: item["Image"] for name, item in after.items()} == {
        name: item["Image"] for name, item in before.items()
    }
    assert len(backups(stack)) == len(known) + 1
    assert predict(stack) == PREDICTION
    assert "changed=0 " in run("site")


@contextlib.contextmanager
def killed_upgrade(**variables: Any) -> Iterator[None]:
    """An upgrade that is killed once the caller has seen what it waits for."""
    process = subprocess.Popen(
        playbook_command(*words("upgrade", **variables)), cwd=REPOSITORY, env=ansible_environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_an_upgrade_that_was_cut_off(stack: Stack) -> None:
    """The next one goes on with it, and its rollback restores the state from before the first."""
    before = command("cat", f"{RECORD}/containers.json")
    upgrade = {"mlflow_workers": 2, "redis_overrides": {"redis": {"cpus": 0.9}}}
    with killed_upgrade(**upgrade):
        record = ("sh", "-c", f"cat {RECORD}/containers.json || true")  # its directory is replaced by another
        eventually(lambda: command(*record) not in ("", before), seconds=600, pause=0.5)
        eventually(lambda: workers(stack) == "2", seconds=600, pause=0.5)
    known = backups(stack)
    said = run("upgrade", stack_lock_wait=300, **upgrade)
    assert "was interrupted. This one continues it" in said
    assert backups(stack) == known
    run("upgrade_back")
    assert workers(stack) == "1"
    assert "changed=0 " in run("site")
    assert predict(stack) == PREDICTION


def as_admin(stack: Stack, query: str, database: str = "postgres") -> str:
    """What PostgreSQL says to its administrator."""
    words = ("psql", "--no-psqlrc", "-At", "--set=ON_ERROR_STOP=1", "--username=postgres", f"--dbname={database}")
    done = stack.execute("postgres", *words, "--file=-", stdin=query)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def cluster_directories() -> set[str]:
    """What lies in the volume of PostgreSQL's data."""
    place = command("docker", "volume", "inspect", "--format", "{{.Mountpoint}}", "molecule-postgres-data").strip()
    return {*command("ls", place).split()}


@pytest.fixture(scope="module")
def earlier_postgres(stack: Stack) -> dict[str, Any]:
    """The stack anew, with PostgreSQL 15; the variables that an inventory has for it."""
    variables = {"postgres_image": "test/postgres:15", "postgres_major_version": 15}
    image = stack.containers()["postgres"]["Config"]["Image"]
    recipe = Path(__file__).parents[1] / "files/postgres15.Dockerfile"
    command(
        "docker", "build", "--network=host", f"--build-arg=BASE_IMAGE={image}", "--tag=test/postgres:15", "-",
        stdin=recipe.read_text(), timeout=900,
    )  # fmt: skip
    run("destroy", destroy_data=True, destroy_confirm="molecule")
    run("site", **variables)
    assert as_admin(stack, "SHOW server_version").startswith("15.")
    run_client("dags", "mlflow_client.py", url=stack.url("mlflow"), name=MODEL)
    return variables


def test_data_of_an_earlier_major_version_is_refused(stack: Stack, earlier_postgres: dict[str, Any]) -> None:
    """Only an upgrade moves it, and none without a backup; neither touches a container."""
    before = stack.identity()
    assert "holds data of PostgreSQL 15" in (said := run("site", status=2)) and "make upgrade" in said
    said = run("upgrade", status=2, upgrade_without_backup=True)
    assert "cannot be moved to 17: without a backup there is no way back. Nothing was changed." in said
    assert stack.identity() == before


def test_a_dump_that_cannot_be_loaded(stack: Stack, earlier_postgres: dict[str, Any]) -> None:
    """The containers and the data of before are in their places, and the reason is told."""
    as_admin(stack, "CREATE EXTENSION adminpack", "mlflow")
    said = run("upgrade", status=2)
    assert "adminpack" in said and "The data of before is in its place." in said
    assert "runs again with its previous containers and the data as it is" in said
    assert not {"pgdata.new", "move.sql"} & cluster_directories()
    assert as_admin(stack, "SHOW server_version").startswith("15.")
    assert predict(stack) == PREDICTION
    as_admin(stack, "DROP EXTENSION adminpack", "mlflow")
    assert "changed=0 " in run("site", **earlier_postgres)


def left_loading() -> None:
    """An upgrade that is killed while the dump is loaded; the load waits from then on."""
    with killed_upgrade():
        eventually(lambda: "pgdata.new" in cluster_directories(), seconds=600, pause=0.2)
        command("docker", "exec", MOVE, "sh", "-c", FREEZE, timeout=120)
    assert command("docker", "ps", "--quiet", "--filter", f"name={MOVE}").strip()


def left_moved() -> None:
    """An upgrade that is killed while the dump is loaded; the load goes on without it, and ends."""
    with killed_upgrade():
        eventually(lambda: "pgdata.new" in cluster_directories(), seconds=600, pause=0.2)
    eventually(lambda: not command("docker", "ps", "--quiet", "--filter", f"name={MOVE}").strip(), seconds=600)
    assert "pgdata.new" not in cluster_directories()


@pytest.mark.parametrize("left", [left_loading, left_moved])
def test_the_next_major_version_and_the_way_back(
    stack: Stack, earlier_postgres: dict[str, Any], left: Callable[[], None]
) -> None:
    """Killed while the dump is loaded, run again: everything is there. And back, with the data of before."""
    # One that lies before the point to which the way back leads.
    run("backup")
    known, rows = backups(stack), "SELECT count(*) FROM model_versions"
    before = as_admin(stack, rows, "mlflow")
    left()
    said = run("upgrade", stack_lock_wait=300)
    assert "was interrupted. This one continues it" in said and "Upgraded, and every service answers." in said
    loading = left is left_loading
    assert ("The data moves from PostgreSQL 15 to 17" in said) is loading
    assert (f"Ended{MOVE}" in "".join(said.split())) is loading
    assert as_admin(stack, "SHOW server_version").startswith("17.")
    [kept] = cluster_directories() - {"pgdata"} - {each for each in cluster_directories() if each.startswith(".s.")}
    assert kept.startswith("pgdata.15.") and (kept in said) is loading
    assert as_admin(stack, rows, "mlflow") == before and predict(stack) == PREDICTION
    assert len(backups(stack)) == len(known) + 2, "one before the upgrade, one of the moved data"
    assert stack.execute("backup", "python3", "/run/config/backup.py", "verify").returncode == 0
    assert "changed=0 " in run("site")

    said = run("upgrade_back")
    assert "these databases were migrated: PostgreSQL (15 → 17)" in said
    assert as_admin(stack, "SHOW server_version").startswith("15.")
    assert as_admin(stack, rows, "mlflow") == before and predict(stack) == PREDICTION
    assert stack.execute("backup", "python3", "/run/config/backup.py", "verify").returncode == 0
    assert "changed=0 " in run("site", **earlier_postgres)
