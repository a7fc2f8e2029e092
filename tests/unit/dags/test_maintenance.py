"""What the maintenance DAG finds old, in a real MLflow store and in S3 listings."""

from datetime import UTC, datetime, timedelta

import boto3
import stack_maintenance
from botocore.stub import Stubber
from mlflow.tracking import MlflowClient

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
    old = client.create_run(experiment, start_time=milliseconds - 25 * 3_600_000)
    client.create_run(experiment, start_time=milliseconds - 1 * 3_600_000)
    done = client.create_run(experiment, start_time=milliseconds - 90 * 3_600_000)
    client.set_terminated(done.info.run_id)
    assert stack_maintenance.stale_runs(client, NOW - timedelta(hours=24)) == [old.info.run_id]
