"""The Celery application: tasks, their queues, and beat's schedule."""

import csv
import io
import os

import boto3
import httpx
from celery import Celery

from desk import store

app = Celery("desk")  # broker and results: CELERY_BROKER_URL and CELERY_RESULT_BACKEND
app.conf.update(
    task_default_queue="quick",
    task_routes={"desk.archive": {"queue": "slow"}},
    beat_schedule={"look-at-the-gateway": {"task": "desk.observe", "schedule": float(os.environ["DESK_LOOK_SECONDS"])}},
    broker_connection_retry_on_startup=True,
)


@app.task(name="desk.observe", expires=60)
def observe() -> int:
    """Look at the gateway and keep what it says; returns the observation's number."""
    try:
        answer = httpx.get(
            f"{os.environ['GATEWAY_URL']}/v1/api/iserver/auth/status",
            verify=os.environ["GATEWAY_CA_FILE"],
            timeout=5,
        )
        logged_in = answer.status_code == 200 and bool(answer.json().get("authenticated"))
        return store.keep(logged_in, answer.text[:500])
    except (httpx.HTTPError, ValueError) as error:
        return store.keep(False, f"{type(error).__name__}: {error}"[:500])


@app.task(name="desk.archive")
def archive(count: int) -> str:
    """Write the newest observations to the bucket as CSV; returns the object's key."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["at", "logged_in"])
    rows.writerows([row.at.isoformat(), row.logged_in] for row in store.newest(count))
    key = "desk/observations.csv"
    boto3.client("s3").put_object(Bucket=os.environ["S3_BUCKET"], Key=key, Body=text.getvalue().encode())
    return key
