"""Shows what MLflow's experiments hold, and removes what was deleted in MLflow, with its files.

Runs in a container of MLflow's image, with the server's environment and secrets: ``python - URL AGE [remove]``, with an
age such as ``30d``.
Without ``remove`` nothing is changed. Prints lines for people.

``mlflow gc`` does the work. Two things that it does not do are done here. It does not look at the registry: the files
of a registered model, and the run that it comes from, are kept. And it leaves the files of models behind that were
logged in a deleted experiment, because MLflow marks only the experiment's runs as deleted.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

SECRETS = Path("/run/secrets")
SCHEME = "mlflow-artifacts:"
#: Directories of a run and of a model are at most this deep: EXPERIMENT/models/MODEL/artifacts.
DEPTH = 4
BATCH = 1000  # objects in one request
AGE = re.compile(r"(?=.)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)


def seconds_of(age: str) -> int:
    """Read an age such as ``30d`` or ``1d12h``.

    Returns:
        Seconds.
    """
    match = AGE.fullmatch(age)
    if not match:
        raise SystemExit(f"{age!r} is no age, expected a time such as 30d, 12h or 1d12h.")
    return sum(int(part or 0) * unit for part, unit in zip(match.groups(), (86400, 3600, 60, 1), strict=True))


def size(count: int) -> str:
    """Write a number of bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


class Bucket:
    """The objects of the artifact store.

    Attributes:
        objects: Directory to the number of objects below it.
        bytes: Directory to their size.
    """

    def __init__(self, client: Any, destination: str) -> None:
        """List all objects.

        Args:
            client: boto3's client.
            destination: ``s3://BUCKET/PREFIX``.
        """
        self.client = client
        self.bucket, _, self.root = destination.removeprefix("s3://").partition("/")
        self.objects: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        for key, length in self.list(""):
            parts = key.split("/")[:-1][:DEPTH]
            for depth in range(1, len(parts) + 1):
                self.objects["/".join(parts[:depth])] += 1
                self.bytes["/".join(parts[:depth])] += length

    def list(self, directory: str) -> Iterator[tuple[str, int]]:
        """List the objects of a directory.

        Args:
            directory: Below the root; empty for all.

        Yields:
            Key without the root, and size.
        """
        prefix = posixpath.join(self.root, directory, "")
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            for each in page.get("Contents", []):
                yield each["Key"].removeprefix(f"{self.root}/"), each["Size"]

    def remove(self, directory: str) -> int:
        """Remove the objects of a directory.

        Returns:
            Their number.
        """
        keys = [{"Key": posixpath.join(self.root, key)} for key, _size in self.list(directory)]
        for start in range(0, len(keys), BATCH):
            answer = self.client.delete_objects(
                Bucket=self.bucket, Delete={"Objects": keys[start : start + BATCH], "Quiet": True}
            )
            if answer.get("Errors"):
                raise SystemExit(f"MinIO did not remove {answer['Errors'][0]}")
        return len(keys)

    def total(self, directories: Iterable[str]) -> tuple[int, int]:
        """Add up directories, of which none is inside another; empty names count nothing."""
        known = [each for each in directories if each]
        return sum(self.objects[each] for each in known), sum(self.bytes[each] for each in known)


def directory_of(uri: str) -> str:
    """Find the directory of an artifact location, or nothing if it is not in the server's store."""
    return uri.removeprefix(SCHEME).strip("/") if uri.startswith(SCHEME) else ""


class Deleted:
    """What was deleted in MLflow long enough ago, and is not in use by a registered model.

    Attributes:
        experiments, runs, models: Id to directory.
        kept: Lines about what a registered model uses.
    """

    def __init__(self, session: Any, before_ms: int) -> None:
        """Read the database.

        Args:
            session: Of the database.
            before_ms: Until when it was deleted, in milliseconds since 1970.
        """
        from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
        from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlLoggedModel, SqlRun

        versions = session.query(SqlModelVersion).filter(SqlModelVersion.current_stage != "Deleted_Internal").all()
        places = {
            f"{each.name} version {each.version}": " ".join(
                filter(None, (each.source, each.storage_location, each.run_id))
            )
            for each in versions
        }
        self.kept: list[str] = []

        def unused(kind: str, words: Iterable[str]) -> bool:
            found = sorted({name for word in words for name, place in places.items() if word in place})
            if found:
                self.kept.append(f"{kind} is kept for {', '.join(found)}")
            return not found

        def gone(model: Any, when: Any) -> list[Any]:
            return session.query(model).filter(model.lifecycle_stage == "deleted", when <= before_ms).all()

        inside: dict[str, list[str]] = {}
        for model, key in ((SqlRun, "run_uuid"), (SqlLoggedModel, "model_id")):
            for identity, experiment in session.query(getattr(model, key), model.experiment_id):
                inside.setdefault(str(experiment), []).append(identity)
        self.experiments = {
            str(each.experiment_id): directory_of(each.artifact_location or "")
            for each in gone(SqlExperiment, SqlExperiment.last_update_time)
            if unused(
                f"Experiment {each.name!r}",
                [*inside.get(str(each.experiment_id), []), f"{each.artifact_location}/"],
            )
        }
        whole = set(self.experiments)
        self.runs = {
            each.run_uuid: directory_of(each.artifact_uri or "")
            for each in gone(SqlRun, SqlRun.deleted_time)
            if str(each.experiment_id) in whole or unused(f"Run {each.name or each.run_uuid!r}", [each.run_uuid])
        }
        self.models = {
            each.model_id: directory_of(each.artifact_location or "")
            for each in gone(SqlLoggedModel, SqlLoggedModel.last_updated_timestamp_ms)
            if str(each.experiment_id) in whole or unused(f"Model {each.name!r}", [each.model_id])
        }
        #: Those whose experiment is not removed as a whole.
        self.apart = [
            directory
            for found in (self.runs, self.models)
            for directory in found.values()
            if directory.partition("/")[0] not in {each for each in self.experiments.values() if each}
        ]


def experiment_lines(session: Any, bucket: Bucket) -> Iterator[str]:
    """Describe what each experiment holds, the largest first."""
    from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlRun

    runs: Counter[tuple[str, str]] = Counter(
        (str(experiment), stage) for experiment, stage in session.query(SqlRun.experiment_id, SqlRun.lifecycle_stage)
    )
    rows, known = [], set()
    for each in session.query(SqlExperiment):
        directory = directory_of(each.artifact_location or "")
        known.add(directory)
        number = str(each.experiment_id)
        count, length = bucket.total([directory])
        rows.append(
            (
                -length,
                f"{size(length):>9}  {count:>6} objects  {runs[number, 'active']:>5} runs "
                f"{runs[number, 'deleted']:>5} deleted  {each.name}"
                + (" (deleted)" if each.lifecycle_stage == "deleted" else ""),
            )
        )
    yield "Storage of each experiment:"
    yield from (line for _length, line in sorted(rows))
    others = [each for each in bucket.objects if "/" not in each and each not in known]
    if others:
        count, length = bucket.total(others)
        yield f"{size(length):>9}  {count:>6} objects  of no experiment: {', '.join(sorted(others)[:10])}"


def remove(store: Any, deleted: Deleted, bucket: Bucket, shared: set[str]) -> None:
    """Remove what was deleted.

    Args:
        store: MLflow's store.
        deleted: What it is.
        bucket: The artifact store.
        shared: Directories that other experiments use too.
    """
    from mlflow.cli import _gc_tracking_resources

    # By id, because `mlflow gc` takes an empty list of its options for everything that is deleted.
    _gc_tracking_resources(
        backend_store=store,
        run_ids=list(deleted.runs),
        experiment_ids=list(deleted.experiments),
        logged_model_ids=list(deleted.models),
        older_than=None,
        time_delta=0,
        skip_experiments=not deleted.experiments,
        skip_logged_models=False,
    )
    for directory in deleted.experiments.values():
        if directory and directory not in shared:
            bucket.remove(directory)


def main(url: str, age: str, *words: str) -> None:
    """Show, and remove if told so."""
    os.environ["MLFLOW_TRACKING_URI"] = url
    os.environ["AWS_ACCESS_KEY_ID"] = (SECRETS / "s3_access_key").read_text().strip()
    os.environ["AWS_SECRET_ACCESS_KEY"] = (SECRETS / "s3_secret").read_text().strip()
    if (token := SECRETS / "tracking_token").is_file():
        os.environ["MLFLOW_TRACKING_TOKEN"] = token.read_text().strip()
    import boto3
    from mlflow.store.tracking.dbmodels.models import SqlExperiment
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    destination = os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
    store = SqlAlchemyStore((SECRETS / "database_url").read_text().strip(), f"{SCHEME}/")
    bucket = Bucket(boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"]), destination)
    with store.ManagedSessionMaker() as session:
        deleted = Deleted(session, int((time.time() - seconds_of(age)) * 1000))
        lines = list(experiment_lines(session, bucket))
        shared = {
            directory_of(each.artifact_location or "").partition("/")[0]
            for each in session.query(SqlExperiment)
            if str(each.experiment_id) not in deleted.experiments
        }
    whole = [each for each in deleted.experiments.values() if each not in shared]
    count, length = bucket.total([*whole, *deleted.apart])
    said = (
        f"{len(deleted.experiments)} experiments, {len(deleted.runs)} runs and {len(deleted.models)} models with"
        f" {count} objects, {size(length)}"
    )
    print("\n".join([*lines, *deleted.kept]))
    if "remove" in words:
        remove(store, deleted, bucket, shared)
    print(f"{'Removed' if 'remove' in words else 'To remove'}: {said}")


if __name__ == "__main__":
    main(*sys.argv[1:])
