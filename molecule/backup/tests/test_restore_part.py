"""One database, one bucket, one experiment from a backup, while the rest of the stack runs on."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from client_programs import run_client
from stack_under_test import Stack, changed, command
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
    """A model with its rows and objects is in the newest backup."""
    run_client("dags", "mlflow_client.py", url=stack.url("mlflow"), name=MODEL)
    run("backup")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "restore_part is '', expected database:NAME, bucket:NAME or experiment:NAME"),
        ({"restore_part": "table:runs"}, "restore_part is 'table:runs', expected database:NAME"),
        ({"restore_part": "database:mlflw"}, "There is no database mlflw. There are mlflow."),
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
    """What uses it is stopped for a moment, the others are not touched, and the one of before is kept."""
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
    run("backup")
    before = stack.identity()
    client.put_object(Bucket="mlflow", Key="part/changed", Body=b"second")
    client.delete_object(Bucket="mlflow", Key="part/dele ted's")
    client.put_object(Bucket="mlflow", Key="part/later", Body=b"later")
    said = restore(restore_part="bucket:mlflow", restore_confirm="mlflow")
    assert "2 objects were brought back, and 1 later ones removed" in said
    assert client.get_object(Bucket="mlflow", Key="part/changed")["Body"].read() == b"first"
    back = client.get_object(Bucket="mlflow", Key="part/dele ted's")
    assert back["Body"].read() == b"kept" and back["Metadata"] == {"desk": "one"}
    keys = [each["Key"] for each in client.list_objects_v2(Bucket="mlflow", Prefix="part/")["Contents"]]
    assert "part/later" not in keys
    versions = client.list_object_versions(Bucket="mlflow", Prefix="part/changed")["Versions"]
    assert len(versions) == 3
    assert stack.identity() == before
    assert "0 objects were brought back, and 0 later ones removed" in restore(
        restore_part="bucket:mlflow", restore_confirm="mlflow"
    )


def test_an_experiment_that_was_deleted_for_good(stack: Stack) -> None:
    """Its rows with their ids and its artifacts; others are as they were."""

    def kept() -> list[str]:
        return sorted(each["Key"] for each in client.list_objects_v2(Bucket="mlflow", Prefix=prefix)["Contents"])

    runs, metrics, before = count(stack, "mlflow", "runs"), count(stack, "mlflow", "metrics"), stack.identity()
    _status, identity = psql(stack, "mlflow", "mlflow", f"SELECT experiment_id FROM experiments WHERE name = '{MODEL}'")
    client, prefix = s3(stack, "mlflow"), f"artifacts/{identity}/"
    objects = kept()
    assert any(key.endswith("notes/note.txt") for key in objects)
    address = stack.url("mlflow", "/api/2.0/mlflow/experiments/delete")
    assert requests.post(address, json={"experiment_id": identity}, timeout=60).status_code == 200
    now = {"mlflow_gc_confirm": stack.name, "mlflow_gc_older_than": "0d"}
    run("mlflow_gc", f"--extra-vars={json.dumps(now)}")
    assert count(stack, "mlflow", "runs") < runs and count(stack, "mlflow", "metrics") < metrics
    assert not any(key.endswith("notes/note.txt") for key in kept())
    said = restore(restore_part=f"experiment:{MODEL}")
    assert f"The experiment {MODEL} is back" in said
    assert count(stack, "mlflow", "runs") == runs
    assert count(stack, "mlflow", "metrics") == metrics and kept() == objects
    assert predict(stack) == PREDICTION
    assert stack.identity() == before
    assert "mlflow_restored" not in command(
        "sh", "-c", f"docker exec {stack.name}-postgres psql --username=postgres --list --tuples-only"
    )
    assert "This backup has no experiment 'nothing'" in restore(status=2, restore_part="experiment:nothing")
