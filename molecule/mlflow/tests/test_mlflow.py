"""A run, its artifact and a registered model, by a client that has no key of the object store."""

from __future__ import annotations

import json
import uuid

import pytest
from client_programs import run_client
from stack_under_test import Stack, command
from test_applications import (  # noqa: F401
    test_mlflow_proxies_artifacts,
    test_mlflow_refuses_other_names,
    test_mlflow_sends_nobody_to_minio,
)
from test_data_services import psql, s3


def test_run_artifact_and_model(stack: Stack) -> None:
    """Logged, registered, loaded back by name; the files are objects in MLflow's bucket, the rows in its database."""
    name = f"probe {uuid.uuid4()}"
    found = json.loads(run_client("dags", "mlflow_client.py", url=stack.url("mlflow"), name=name).splitlines()[-1])
    assert found["note"] == "kept\n"
    assert found["prediction"] == pytest.approx(301)
    assert found["artifact_uri"].startswith("mlflow-artifacts:/")
    key = "artifacts/" + found["artifact_uri"].removeprefix("mlflow-artifacts:/").lstrip("/") + "/notes/note.txt"
    assert s3(stack, "mlflow").get_object(Bucket="mlflow", Key=key)["Body"].read() == b"kept\n"
    query = f"SELECT count(*) FROM model_versions WHERE name = '{name}'"
    assert psql(stack, "mlflow", "mlflow", query) == (0, "1")


def test_what_was_logged_outlives_the_server(stack: Stack) -> None:
    """The container keeps nothing itself."""
    added = [line[2:] for line in command("docker", "diff", f"{stack.name}-mlflow").splitlines() if line[0] == "A"]
    assert set(added) <= {"/run/secrets", "/usr/sbin/docker-init"}  # places that the engine makes for its mounts
    mounts = command("docker", "inspect", "--format", "{{range .Mounts}}{{.Type}} {{end}}", f"{stack.name}-mlflow")
    assert "volume" not in mounts
