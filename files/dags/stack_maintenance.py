"""Removes old task logs from object storage and closes MLflow runs that nothing will finish.

Task logs older than `log_retention_days` are deleted from the bucket that Airflow logs to. An MLflow run that is
still `RUNNING` after `stale_run_hours` belongs to a task that died: it is marked `KILLED`, and keeps all it holds.
With `dry_run` both only say what they would do. The DAG is active as soon as it is seen.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pendulum
from airflow.sdk import CronTriggerTimetable, Param, dag, get_current_context, task

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from mlflow.tracking import MlflowClient

PARAMS = {
    "log_retention_days": Param(30, type="integer", minimum=1, maximum=3650, description="Age at which logs go"),
    "stale_run_hours": Param(
        24, type="integer", minimum=2, maximum=720, description="Age at which a running MLflow run is taken for dead"
    ),
    "dry_run": Param(False, type="boolean", description="Change nothing, only say what would change"),
}


@dag(
    # Without a start date the first run is the next one due, not the one missed before the stack existed.
    schedule=CronTriggerTimetable("0 4 * * 0", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    params=PARAMS,
    default_args={
        "owner": "quantops",
        "retries": 2,
        "retry_delay": timedelta(minutes=1),
        "execution_timeout": timedelta(minutes=30),
    },
    tags=["quantops", "maintenance"],
    doc_md=__doc__,
)
def stack_maintenance() -> None:
    """Delete old task logs, close stale MLflow runs."""

    @task
    def delete_old_task_logs() -> int:
        """Return how many log objects were, or would be, deleted."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook
        from airflow.sdk.configuration import conf

        params = get_current_context()["params"]
        folder = conf.get("logging", "remote_base_log_folder")
        hook = S3Hook(aws_conn_id=conf.get("logging", "remote_log_conn_id"))
        bucket, prefix = hook.parse_s3_url(folder)
        cutoff = pendulum.now("UTC").subtract(days=params["log_retention_days"])
        keys = expired_keys(hook.get_conn(), bucket, prefix, cutoff)
        print(f"{len(keys)} objects under {folder} are older than {cutoff.to_iso8601_string()}")
        if keys and not params["dry_run"]:
            hook.delete_objects(bucket, keys)
        return len(keys)

    @task
    def close_stale_mlflow_runs() -> list[str]:
        """Return the ids of the runs that were, or would be, closed."""
        from mlflow.tracking import MlflowClient

        params = get_current_context()["params"]
        cutoff = pendulum.now("UTC").subtract(hours=params["stale_run_hours"])
        client = MlflowClient()
        stale = stale_runs(client, cutoff)
        print(f"{len(stale)} MLflow runs are RUNNING since before {cutoff.to_iso8601_string()}: {stale}")
        if not params["dry_run"]:
            for run_id in stale:
                client.set_terminated(run_id, status="KILLED")
        return stale

    delete_old_task_logs()
    close_stale_mlflow_runs()


def expired_keys(s3: BaseClient, bucket: str, prefix: str, cutoff: datetime) -> list[str]:
    """Keys under a prefix whose objects were last written before the cutoff.

    Args:
        s3: A boto3 S3 client.
        bucket: Name of the bucket.
        prefix: Folder in the bucket, without leading or trailing slash; empty for all of it.
        cutoff: Aware point in time.
    """
    folder = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder)
    return [item["Key"] for page in pages for item in page.get("Contents", []) if item["LastModified"] < cutoff]


def stale_runs(client: MlflowClient, cutoff: datetime) -> list[str]:
    """Ids of the MLflow runs that started before the cutoff and are still marked as running."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    condition = f"attributes.status = 'RUNNING' and attributes.start_time < {int(cutoff.timestamp() * 1000)}"
    found: list[str] = []
    token = None
    while experiments:
        page = client.search_runs(experiments, condition, page_token=token)
        found += [run.info.run_id for run in page]
        token = page.token
        if not token:
            break
    return found


stack_maintenance()
