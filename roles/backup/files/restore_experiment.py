"""Brings an experiment of MLflow back from a restored database: rows that the running one lacks, with their ids.

Usage: ``python - SOURCE NAME`` in a container of MLflow's image, where SOURCE is the restored database beside the
running one. Rows that are there stay as they are, but what was deleted in MLflow is active again. Prints a JSON object:
``id``, ``name`` (another one if a later experiment has taken it), ``rows``, table to the number of rows that came back,
and ``places``, where the artifacts are stored.
"""

from __future__ import annotations

import json
import pathlib
import sys
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

CHUNK = 1000
#: Refers to runs and has no foreign key: table, column, and the table and column that it refers to.
LOOSE = (("inputs", "destination_id", "runs", "run_uuid"), ("inputs", "source_id", "datasets", "dataset_uuid"))
#: What a person may have deleted in MLflow, and columns that say so.
DELETABLE = {"experiments": ("lifecycle_stage", "last_update_time"), "runs": ("lifecycle_stage", "deleted_time")}


def belonging(source: sa.Connection, tables: list[sa.Table], identity: Any) -> dict[str, list[dict[str, Any]]]:
    """Read all rows that belong to an experiment.

    Args:
        source: The restored database.
        tables: Its tables, those that others refer to first.
        identity: Id of the experiment.

    Returns:
        Table to its rows.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for table in tables:
        if table.name == "experiments":
            conditions = [table.c.experiment_id == identity]
        else:
            references = [
                (key.columns[0], key.elements[0].column.table.name, key.elements[0].column.name)
                for key in table.foreign_key_constraints
                if len(key.columns) == 1
            ]
            references += [(table.c[column], other, key) for name, column, other, key in LOOSE if name == table.name]
            # Rows of registered models only name runs: they are not part of an experiment.
            conditions = [
                column.in_({row[key] for row in found[other]}) for column, other, key in references if found.get(other)
            ]
        if conditions:
            rows = source.execute(sa.select(table).where(sa.or_(*conditions))).mappings().all()
            found[table.name] = [dict(row) for row in rows]
    return found


def write(target: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> int:
    """Write rows that are not there.

    Returns:
        How many there were not.
    """
    written = 0
    for start in range(0, len(rows), CHUNK):
        statement = insert(table).values(rows[start : start + CHUNK]).on_conflict_do_nothing()
        written += target.execute(statement).rowcount
    if table.name in DELETABLE:
        [key] = table.primary_key.columns
        for row in rows:
            if row["lifecycle_stage"] == "active":
                values = {column: row[column] for column in DELETABLE[table.name] if column in row}
                gone = table.c.lifecycle_stage != "active"
                target.execute(sa.update(table).where(key == row[key.name], gone).values(values))
    return written


def main(database: str, name: str) -> None:
    """Restore, and report.

    Raises:
        SystemExit: If the restored database has no such experiment.
    """
    url = sa.engine.make_url(pathlib.Path("/run/secrets/database_url").read_text().strip())
    restored, running = sa.create_engine(url.set(database=database)), sa.create_engine(url)
    metadata = sa.MetaData()
    metadata.reflect(running)
    experiments = metadata.tables["experiments"]
    with restored.connect() as source, running.begin() as target:
        wanted = sa.select(experiments).where(experiments.c.name == name)
        rows = source.execute(wanted).mappings().all()
        if not rows:
            names = source.execute(sa.select(experiments.c.name).order_by(experiments.c.name)).scalars().all()
            sys.exit(f"This backup has no experiment {name!r}. It has {', '.join(map(repr, names[:20]))}.")
        [experiment] = rows
        identity = experiment["experiment_id"]
        found = belonging(source, metadata.sorted_tables, identity)
        others = target.execute(wanted.where(experiments.c.experiment_id != identity)).all()
        if others:
            name = f"{name} (restored {datetime.now(UTC):%Y-%m-%d %H:%M:%S})"
            found["experiments"][0]["name"] = name
        tables = [table for table in metadata.sorted_tables if found.get(table.name)]
        written = {table.name: write(target, table, found[table.name]) for table in tables}
    places = [experiment["artifact_location"]]
    print(json.dumps({"id": identity, "name": name, "rows": written, "places": places}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
