"""One database, one bucket, one experiment from a backup, while the rest of the stack runs on."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from client_programs import run_client
from stack_under_test import Stack, changed
from test_backup import MODEL, PREDICTION, backups, predict, run
from test_data_services import psql, s3


def restore(status: int = 0, **variables: Any) -> str:
    """Restore a part, and return what is said."""
    return run("restore_part", f"--extra-vars={json.dumps(variables)}", status=status)


def count(stack: Stack, database: str, table: str) -> int:
    """Rows of a table."""
    status, found = psql(stack, "mlflow", database, f"SELECT count(*) FROM {table}")
    assert status == 0, found
    return int(found)


@pytest.fixture(scope="module", autouse=True)
def backed_up(stack: Stack) -> None:
    """A model with its rows and objects is in the newest backup, and no settings of other tests are left."""
    run("site")
    run_client("dags", "mlflow_client.py", url=stack.url("mlflow"), name=MODEL)
    run("backup")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "restore_part is '', expected database:NAME, bucket:NAME or experiment:NAME"),
        ({"restore_part": "table:runs"}, "restore_part is 'table:runs', expected database:NAME"),
        ({"restore_part": "database:mlflw"}, "There is no database mlflw. There are backend, mlflow."),
        ({"restore_part": "bucket:mlflow", "restore_confirm": "no"}, "Nothing was restored: the answer is not mlflow."),
        ({"restore_part": "database:mlflow", "restore_to": "yesterday"}, "restore_to is 'yesterday', expected latest"),
    ],
)
def test_what_is_asked_wrongly_changes_nothing(stack: Stack, asked: dict[str, str], said: str) -> None:
    before = stack.identity()
    assert said in restore(status=2, **asked)
    assert stack.identity() == before


def test_a_database_beside_the_present_one(stack: Stack) -> None:
    before = stack.identity()
    rows = count(stack, "mlflow", "model_versions")
    said = restore(restore_part="database:mlflow")
    [name] = {word.strip(",.") for word in said.split() if word.startswith("mlflow_restored_")}
    assert stack.identity() == before
    assert count(stack, name, "model_versions") == rows
    assert "beside the present one" in said
    admin = ("psql", "--username=postgres", "--command", f'DROP DATABASE "{name}"')
    assert stack.execute("postgres", *admin).returncode == 0


def test_a_database_takes_the_place_of_the_present_one(stack: Stack) -> None:
    """What uses it is stopped for a moment, the others are not touched, and the previous one is kept."""
    [newest, *_others] = backups(stack)
    before = stack.identity()
    run_client("dags", "mlflow_client.py", url=stack.url("mlflow"), name="made since")
    models = count(stack, "mlflow", "registered_models")
    said = restore(
        restore_part="database:mlflow", restore_to=newest["id"], restore_part_replace=True, restore_confirm="mlflow"
    )
    assert count(stack, "mlflow", "registered_models") == models - 1
    assert predict(stack) == PREDICTION
    [name] = {word.strip(",.;") for word in said.split() if word.startswith("mlflow_until_")}
    admin = ("psql", "--username=postgres", "--tuples-only", "--no-align", f"--dbname={name}", "--command")
    assert stack.execute("postgres", *admin, "SELECT count(*) FROM registered_models").stdout.strip() == str(models)
    assert changed(before, stack.identity()) == {"mlflow"}
    assert "changed=0 " in run("site")


def test_a_bucket_goes_back(stack: Stack) -> None:
    """Changed and deleted objects are those of then, later ones are gone, and all of it stays as older versions."""
    client = s3(stack, "mlflow")
    client.put_object(Bucket="mlflow", Key="part/changed", Body=b"first")
    client.put_object(Bucket="mlflow", Key="part/dele ted's", Body=b"kept", Metadata={"desk": "one"})
    # What was deleted before, of which one is there again by now.
    for key in ("part/gone", "part/again"):
        client.put_object(Bucket="mlflow", Key=key, Body=b"earlier")
        client.delete_object(Bucket="mlflow", Key=key)
    run("backup")
    before = stack.identity()
    client.put_object(Bucket="mlflow", Key="part/changed", Body=b"second")
    client.delete_object(Bucket="mlflow", Key="part/dele ted's")
    for key in ("part/later", "part/again"):
        client.put_object(Bucket="mlflow", Key=key, Body=b"later")
    said = restore(restore_part="bucket:mlflow", restore_confirm="mlflow")
    assert "2 objects were restored, and 2 later ones removed" in said
    assert client.get_object(Bucket="mlflow", Key="part/changed")["Body"].read() == b"first"
    back = client.get_object(Bucket="mlflow", Key="part/dele ted's")
    assert back["Body"].read() == b"kept" and back["Metadata"] == {"desk": "one"}
    keys = [each["Key"] for each in client.list_objects_v2(Bucket="mlflow", Prefix="part/")["Contents"]]
    assert keys == ["part/changed", "part/dele ted's"]
    versions = client.list_object_versions(Bucket="mlflow", Prefix="part/changed")["Versions"]
    assert len(versions) == 3
    assert stack.identity() == before
    assert "0 objects were restored, and 0 later ones removed" in restore(
        restore_part="bucket:mlflow", restore_confirm="mlflow"
    )


LOST = "desk: lost & found"


@pytest.fixture
def experiment(stack: Stack) -> str:
    """Id of an experiment with a run, its metrics and an artifact, which is in the newest backup."""

    def ask(path: str, **content: Any) -> dict[str, Any]:
        answer = requests.post(stack.url("mlflow", f"/api/2.0/mlflow/{path}"), json=content, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    identity = ask("experiments/create", name=LOST)["experiment_id"]
    made = ask("runs/create", experiment_id=identity, start_time=1, tags=[{"key": "desk", "value": "one"}])
    run_id = made["run"]["info"]["run_id"]
    for step in range(3):
        ask("runs/log-metric", run_id=run_id, key="score", value=float(step), timestamp=step, step=step)
    ask("runs/log-parameter", run_id=run_id, key="slope", value="3")
    place = f"/api/2.0/mlflow-artifacts/artifacts/{identity}/{run_id}/artifacts/note.txt"
    assert requests.put(stack.url("mlflow", place), data=b"kept", timeout=60).status_code == 200
    run("backup")
    ask("experiments/delete", experiment_id=identity)
    now = {"mlflow_gc_confirm": stack.name, "mlflow_gc_older_than": "0d"}
    run("mlflow_gc", f"--extra-vars={json.dumps(now)}")
    return str(identity)


def test_an_experiment_that_was_deleted_for_good(stack: Stack, experiment: str) -> None:
    """Its rows with their ids and its artifacts; others are as they were."""

    def rows() -> list[tuple[int, str]]:
        joined = f"JOIN runs USING (run_uuid) WHERE runs.experiment_id = {experiment}"
        asked = (
            f"SELECT concat(count(*), ' of ', sum(value)) FROM metrics {joined}",
            f"SELECT string_agg(key || value, ',') FROM params {joined}",
            f"SELECT lifecycle_stage FROM experiments WHERE experiment_id = {experiment}",
        )
        return [psql(stack, "mlflow", "mlflow", sql) for sql in asked]

    client, before, runs = s3(stack, "mlflow"), stack.identity(), count(stack, "mlflow", "runs")
    assert rows()[2] == (0, "")
    assert "Contents" not in client.list_objects_v2(Bucket="mlflow", Prefix=f"artifacts/{experiment}/")
    said = restore(restore_part=f"experiment:{LOST}")
    assert f"The experiment {LOST} is back" in said
    assert rows() == [(0, "3 of 3"), (0, "slope3"), (0, "active")]
    assert count(stack, "mlflow", "runs") == runs + 1
    # A database that went back gives ids again, so the prefix may have had objects of an earlier experiment.
    _status, run = psql(stack, "mlflow", "mlflow", f"SELECT run_uuid FROM runs WHERE experiment_id = {experiment}")
    objects = client.list_objects_v2(Bucket="mlflow", Prefix=f"artifacts/{experiment}/{run}/")["Contents"]
    [found] = [each for each in objects if each["Key"].endswith("/note.txt")]
    assert client.get_object(Bucket="mlflow", Key=found["Key"])["Body"].read() == b"kept"
    assert predict(stack) == PREDICTION
    assert stack.identity() == before
    listed = ("psql", "--username=postgres", "--list", "--tuples-only")
    assert "mlflow_restored" not in stack.execute("postgres", *listed).stdout
    assert "This backup has no experiment 'nothing'" in restore(status=2, restore_part="experiment:nothing")
