"""What the maintenance DAG finds old, in a real MLflow store and in S3 listings."""

from datetime import UTC, datetime, timedelta

import boto3
import mlflow
import pytest
import stack_maintenance
from airflow.sdk.exceptions import AirflowRuntimeError, AirflowSkipException, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from botocore.stub import Stubber
from conftest import DAGS_FOLDER, daily_bars
from mlflow.tracking import MlflowClient
from quantops_strategy import tracking
from quantops_strategy.evaluation import Recipe

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def test_only_old_logs_under_the_prefix_expire():
    s3 = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    page = [
        {"Key": "logs/old", "LastModified": NOW - timedelta(days=31)},
        {"Key": "logs/young", "LastModified": NOW - timedelta(days=29)},
    ]
    last = [{"Key": "logs/older", "LastModified": NOW - timedelta(days=90)}]
    with Stubber(s3) as listing:
        listing.add_response(
            "list_objects_v2",
            {"Contents": page, "IsTruncated": True, "NextContinuationToken": "more"},
            {"Bucket": "airflow-logs", "Prefix": "logs/"},
        )
        listing.add_response(
            "list_objects_v2",
            {"Contents": last, "IsTruncated": False},
            {"Bucket": "airflow-logs", "Prefix": "logs/", "ContinuationToken": "more"},
        )
        keys = stack_maintenance.expired_keys(s3, "airflow-logs", "logs", NOW - timedelta(days=30))
    assert keys == ["logs/old", "logs/older"]


def test_an_empty_prefix_means_the_whole_bucket():
    s3 = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    with Stubber(s3) as listing:
        listing.add_response("list_objects_v2", {"IsTruncated": False}, {"Bucket": "b", "Prefix": ""})
        assert stack_maintenance.expired_keys(s3, "b", "", NOW) == []


def test_only_old_running_runs_are_stale(tmp_path, store_uri):
    client = MlflowClient(store_uri)
    experiment = client.create_experiment("any", artifact_location=str(tmp_path))
    milliseconds = int(NOW.timestamp() * 1000)
    ended = {"quantops.dag_id": "daily_strategy_training", "quantops.dag_run_id": "manual__1"}
    old = client.create_run(experiment, start_time=milliseconds - 25 * 3_600_000, tags=ended)
    client.create_run(experiment, start_time=milliseconds - 1 * 3_600_000, tags=ended)
    done = client.create_run(experiment, start_time=milliseconds - 90 * 3_600_000, tags=ended)
    # A task of it will be tried again.
    retrying = {**ended, "quantops.dag_run_id": "scheduled__2026-05-31"}
    client.create_run(experiment, start_time=milliseconds - 25 * 3_600_000, tags=retrying)
    # Somebody's own, and one of another program that tags its runs too.
    client.create_run(experiment, start_time=milliseconds - 90 * 3_600_000)
    client.create_run(experiment, start_time=milliseconds - 90 * 3_600_000, tags={"quantops.dag_id": "other"})
    client.set_terminated(done.info.run_id)
    asked = []

    def ended(dag_id: str, run_id: str) -> bool:
        asked.append((dag_id, run_id))
        return run_id != "scheduled__2026-05-31"

    assert stack_maintenance.stale_runs(client, NOW - timedelta(hours=24), ended) == [old.info.run_id]
    assert set(asked) == {("daily_strategy_training", run) for run in ("manual__1", "scheduled__2026-05-31")}


class TaskInstance:
    """What a running task asks Airflow through."""

    def __init__(self, said: object) -> None:
        self.said = said

    def get_dagrun_state(self, dag_id: str, run_id: str) -> object:
        assert (dag_id, run_id) == ("daily_strategy_training", "manual__1")
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


def refusal(status: int) -> AirflowRuntimeError:
    return AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": status}))


@pytest.mark.parametrize(
    ("said", "ended"),
    [("success", True), ("failed", True), ("running", False), ("queued", False), (refusal(404), True)],
)
def test_a_dag_run_that_may_still_try_has_not_ended(said, ended):
    assert stack_maintenance.has_ended(TaskInstance(said), "daily_strategy_training", "manual__1") is ended


def test_an_airflow_that_does_not_say_it_fails_the_task():
    with pytest.raises(AirflowRuntimeError):
        stack_maintenance.has_ended(TaskInstance(refusal(500)), "daily_strategy_training", "manual__1")


def test_a_training_tags_its_run(store_uri, momentum):
    mlflow.set_tracking_uri(store_uri)
    recipe = Recipe(train_days=100, test_days=20)
    run = tracking.start_run(daily_bars(momentum), recipe, 5.0, "a run", ("daily_strategy_training", "manual__1"))
    tags = MlflowClient(store_uri).get_run(run).data.tags
    assert tags[stack_maintenance.DAG_TAG] == "daily_strategy_training"
    assert tags[stack_maintenance.DAG_RUN_TAG] == "manual__1"


def test_without_mlflow_there_is_nothing_to_close(monkeypatch):
    from airflow.dag_processing.dagbag import DagBag

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    task = DagBag(DAGS_FOLDER).dags["stack_maintenance"].get_task("close_stale_mlflow_runs")
    with pytest.raises(AirflowSkipException):
        task.python_callable()
