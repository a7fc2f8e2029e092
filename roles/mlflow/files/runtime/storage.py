"""Prints how much the artifacts of MLflow's experiments take, for ``make status``: total first, then the largest.

Listing objects takes time, so it stops after `SECONDS` and says how far it came.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

SECRETS = Path("/run/secrets")
SCHEME = "mlflow-artifacts:"
SECONDS = 5
SHOWN = 5
NAME_LENGTH = 80


def count(pages: Iterable[list[tuple[str, int]]], stop_at: float) -> tuple[Counter[str], int, bool]:
    """Add up objects until there are no more, or no more time.

    Args:
        pages: Parts of the listing, with key and size of each object.
        stop_at: When to stop, as `time.monotonic` counts.

    Returns:
        First directory of the key to bytes, the number of objects, and whether all were counted.
    """
    sizes: Counter[str] = Counter()
    objects = 0
    for page in pages:
        for key, size in page:
            sizes[key.partition("/")[0]] += size
        objects += len(page)
        if time.monotonic() >= stop_at:
            return sizes, objects, False
    return sizes, objects, True


def figures(sizes: Counter[str], objects: int, complete: bool, names: dict[str, str]) -> Iterator[str]:
    """Write what was counted in the form that ``make status`` reads.

    Args:
        sizes: Directory to bytes.
        objects: How many objects were counted.
        complete: Whether these are all.
        names: Directory to the name of its experiment.

    Yields:
        One line for the total and one for each of the largest experiments.
    """
    scope = f"{objects} objects" if complete else f"the first {objects} objects; make mlflow-gc counts all"
    yield f"{sizes.total()} 0 bytes of artifacts ({scope})"
    for directory, size in sizes.most_common(SHOWN):
        # A name may hold anything; a figure is one line.
        name = " ".join(names.get(directory, "").split())[:NAME_LENGTH]
        of = f"of experiment {name}" if name else f"of no experiment in {directory}"
        yield f"{size} 0 bytes of artifacts {of}"


def experiments(url: str) -> dict[str, str]:
    """Read the experiments' names.

    Args:
        url: Of the database.

    Returns:
        Directory in the artifact store to name.
    """
    import psycopg2

    connection = psycopg2.connect(
        url.replace("+psycopg2", "", 1), connect_timeout=2, options="-c statement_timeout=2000"
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT artifact_location, name FROM experiments WHERE artifact_location LIKE %s", [f"{SCHEME}%"]
            )
            return {place.removeprefix(SCHEME).strip("/"): name for place, name in cursor}
    finally:
        connection.close()


def listing(destination: str) -> Iterator[list[tuple[str, int]]]:
    """List the artifact store.

    Args:
        destination: ``s3://BUCKET/PREFIX``.

    Yields:
        Key below the prefix and size of up to 1,000 objects.
    """
    import boto3
    from botocore.config import Config

    client: Any = boto3.client(
        "s3",
        endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"],
        aws_access_key_id=(SECRETS / "s3_access_key").read_text().strip(),
        aws_secret_access_key=(SECRETS / "s3_secret").read_text().strip(),
        config=Config(connect_timeout=2, read_timeout=2, retries={"total_max_attempts": 1}),
    )
    bucket, _, root = destination.removeprefix("s3://").partition("/")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{root}/"):
        yield [(each["Key"].removeprefix(f"{root}/"), each["Size"]) for each in page.get("Contents", [])]


def main() -> None:
    """Print the figures, or one line on why there are none."""
    stop_at = time.monotonic() + SECONDS
    # Where memory runs out, the kernel should end this program rather than the server.
    Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        names = experiments((SECRETS / "database_url").read_text().strip())
        lines = list(figures(*count(listing(os.environ["MLFLOW_ARTIFACTS_DESTINATION"]), stop_at), names))
    except Exception as error:  # PostgreSQL's or MinIO's, of which only the first line is for people
        sys.exit(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
