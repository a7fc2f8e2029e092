"""Makes Airflow's pools as declared, and removes those that are declared no longer.

Environment: ``AIRFLOW_POOLS``, a JSON list of objects with ``name``, ``slots``, ``description`` and
``include_deferred``. A mark in the description tells a declared pool from one that a person has made; the latter stay,
unless a declared one has the name. Airflow's own pool cannot be removed and gets its first size back.
"""

from __future__ import annotations

import json
import os

MARK = "(declared in the inventory)"
OWN_SLOTS = 128


def sync_pools(declared: list[dict], session) -> None:
    """Create, correct and remove pools.

    Args:
        declared: As in the environment.
        session: Of Airflow's database.
    """
    from airflow.models.pool import Pool
    from sqlalchemy import select

    for pool in declared:
        Pool.create_or_update_pool(
            pool["name"],
            pool["slots"],
            f"{pool['description']} {MARK}".strip(),
            pool["include_deferred"],
            session=session,
        )
    names = {pool["name"] for pool in declared}
    for pool in session.scalars(select(Pool)).all():
        if pool.pool in names or not (pool.description or "").endswith(MARK):
            continue
        if pool.pool == Pool.DEFAULT_POOL_NAME:
            pool.slots, pool.description, pool.include_deferred = OWN_SLOTS, "Default pool", False
        else:
            session.delete(pool)


def main() -> None:
    """Read the declaration from the environment and apply it."""
    from airflow.utils.session import create_session

    with create_session() as session:
        sync_pools(json.loads(os.environ["AIRFLOW_POOLS"]), session)


if __name__ == "__main__":
    main()
