"""Trains a model on the imported prices, and leaves a signed report in the DAGs' own bucket."""

from __future__ import annotations

import hashlib
import hmac
import json
import os

import boto3
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import dag, get_current_context, task
from desk.prices import PRICES, examples_of


@dag(schedule=[PRICES], tags=["desk"])
def train_direction() -> None:
    """Runs whenever prices were imported."""

    @task
    def train() -> dict[str, float]:
        # Imported here, so that reading the file stays fast.
        import lightgbm

        query = "SELECT close FROM prices WHERE symbol = 'DEMO' ORDER BY day"
        closes = [row[0] for row in PostgresHook("desk_database").get_records(query)]
        examples, labels = examples_of(closes)
        split = len(examples) * 4 // 5
        model = lightgbm.LGBMClassifier(n_estimators=20, n_jobs=1, verbose=-1)
        model.fit(examples[:split], labels[:split])
        hits = [int(a == b) for a, b in zip(model.predict(examples[split:]), labels[split:], strict=True)]
        metrics = {"rows": float(len(closes)), "accuracy": sum(hits) / len(hits)}
        # There if the inventory has MLflow.
        if "MLFLOW_TRACKING_URI" in os.environ:
            import mlflow

            mlflow.set_experiment("desk")
            with mlflow.start_run(run_name="direction"):
                mlflow.log_metrics(metrics)
        return metrics

    @task
    def report(metrics: dict[str, float]) -> str:
        text = json.dumps(metrics).encode()
        signature = hmac.new(os.environ["DESK_SIGNING_KEY"].encode(), text, hashlib.sha256).hexdigest()
        key = f"reports/{get_current_context()['run_id']}.json"
        # Endpoint, region and keys come from the environment.
        s3 = boto3.client("s3")
        s3.put_object(Bucket=os.environ["S3_BUCKET"], Key=key, Body=text, Metadata={"signature": signature})
        return key

    report(train())


train_direction()
