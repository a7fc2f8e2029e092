"""Removes old task logs from object storage and closes MLflow runs that nothing will finish.

Task logs older than `log_retention_days` are deleted from the bucket that Airflow logs to.

An MLflow run that a training of this stack started, that is still `RUNNING` after `stale_run_hours`, and whose DAG run
has ended belongs to a task that died: it is marked `KILLED`, and keeps all it holds. Runs that anybody else started are
left alone. In a stack without MLflow this task is skipped.

With `dry_run` both only say what they would do. The DAG is active as soon as it is seen.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pendulum
from airflow.sdk import CronTriggerTimetable, Param, dag, get_current_context, task

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from mlflow.tracking import MlflowClient

# Tags that a training gives its MLflow run, as in quantops_strategy.tracking, whose import takes seconds.
DAG_TAG = "quantops.dag_id"
DAG_RUN_TAG = "quantops.dag_run_id"

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
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            from airflow.sdk.exceptions import AirflowSkipException

            raise AirflowSkipException("this stack has no MLflow")
        from mlflow.tracking import MlflowClient

        context = get_current_context()
        params = context["params"]
        cutoff = pendulum.now("UTC").subtract(hours=params["stale_run_hours"])
        client = MlflowClient()
        stale = stale_runs(client, cutoff, lambda dag_id, run_id: has_ended(context["ti"], dag_id, run_id))
        since = cutoff.to_iso8601_string()
        print(f"{len(stale)} MLflow runs of ended trainings are RUNNING since before {since}: {stale}")
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


def has_ended(task_instance: Any, dag_id: str, run_id: str) -> bool:
    """Tell whether a run of a DAG has ended, so that none of its tasks will be tried again; one that was deleted has.

    Args:
        task_instance: The running task, which asks Airflow.
        dag_id: Id of the DAG.
        run_id: Id of its run.
    """
    from airflow.sdk.exceptions import AirflowRuntimeError

    try:
        return str(task_instance.get_dagrun_state(dag_id, run_id)) in ("success", "failed")
    except AirflowRuntimeError as error:
        if (error.error.detail or {}).get("status_code") == 404:
            return True
        raise


def stale_runs(client: MlflowClient, cutoff: datetime, ended: Callable[[str, str], bool]) -> list[str]:
    """Ids of the MLflow runs of this stack's trainings that nothing will finish.

    Args:
        client: MLflow's client.
        cutoff: Aware point in time before which they started.
        ended: Tells of the ids of a DAG and of its run whether that has ended.

    Returns:
        Ids of runs that are marked as running and bear the tags of a DAG run that has ended.
    """
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    condition = f"attributes.status = 'RUNNING' and attributes.start_time < {int(cutoff.timestamp() * 1000)}"
    found: list[str] = []
    token = None
    while experiments:
        page = client.search_runs(experiments, condition, page_token=token)
        found += [
            run.info.run_id
            for run in page
            if {DAG_TAG, DAG_RUN_TAG} <= run.data.tags.keys()
            and ended(run.data.tags[DAG_TAG], run.data.tags[DAG_RUN_TAG])
        ]
        token = page.token
        if not token:
            break
    return found


stack_maintenance()
