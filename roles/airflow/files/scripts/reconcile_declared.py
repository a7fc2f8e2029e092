"""Gives declared accounts and pools their declared form again where people have changed it.

Reads a JSON object from standard input: ``accounts`` and ``pools`` as ``sync_accounts`` and ``sync_pools`` take them,
and ``passwords``, name of the secret to its value. Looks into the database first, since importing Airflow costs seconds
of processor time.

Prints CHANGED or UNCHANGED as its last line, and fails otherwise.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import psycopg2
from sync_pools import MARK as POOL_MARK
from werkzeug.security import check_password_hash

DATABASE_URL = Path("/run/secrets/airflow_db_url")
ACCOUNT_MARK = "(declared in the inventory)"
OWN_ROLES = {"Admin", "Op", "User", "Viewer", "Public"}
ACCOUNTS = """
    SELECT u.username, u.email, u.active, u.last_name, u.password, array_remove(array_agg(r.name), NULL)
    FROM ab_user u LEFT JOIN ab_user_role ur ON ur.user_id = u.id LEFT JOIN ab_role r ON r.id = ur.role_id
    GROUP BY u.id
"""
POOLS = "SELECT pool, slots, coalesce(description, ''), include_deferred FROM slot_pool"


def accounts_differ(rows: list[tuple[Any, ...]], declared: list[dict[str, str]], passwords: dict[str, str]) -> bool:
    """Whether an account is not as declared, or has the mark and is not declared.

    Args:
        rows: Result of ``ACCOUNTS``.
        declared: The declared accounts.
        passwords: Name of the secret to the password.
    """
    # Airflow does not tell capital letters in names from small ones.
    found = {row[0].lower(): row[1:] for row in rows}
    names = {each["username"].lower() for each in declared}
    if {name for name, row in found.items() if row[2] == ACCOUNT_MARK} != names:
        return True
    for account in declared:
        email, active, _, password, roles = found[account["username"].lower()]
        if (email, active, OWN_ROLES & set(roles)) != (account["email"], True, {account["role"]}):
            return True
        if not check_password_hash(password or "", passwords[account["secret"]]):
            return True
    return False


def pools_differ(rows: list[tuple[Any, ...]], declared: list[dict[str, Any]]) -> bool:
    """Whether a pool is not as declared, or has the mark and is not declared.

    Args:
        rows: Result of ``POOLS``.
        declared: The declared pools.
    """
    wanted = {
        (pool["name"], pool["slots"], f"{pool['description']} {POOL_MARK}".strip(), pool["include_deferred"])
        for pool in declared
    }
    return {row for row in rows if row[2].endswith(POOL_MARK)} != wanted


def main() -> None:
    """Compare, and correct what differs."""
    asked = json.load(sys.stdin)
    url = re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", DATABASE_URL.read_text().strip())
    connection = psycopg2.connect(url, connect_timeout=10)
    try:
        with connection.cursor() as cursor:
            cursor.execute(ACCOUNTS)
            accounts = accounts_differ(cursor.fetchall(), asked["accounts"], asked["passwords"])
            cursor.execute(POOLS)
            pools = pools_differ(cursor.fetchall(), asked["pools"])
    finally:
        connection.close()
    if accounts:
        import sync_accounts

        sync_accounts.sync_accounts(asked["accounts"], asked["passwords"])
    if pools:
        from airflow.utils.session import create_session
        from sync_pools import sync_pools

        with create_session() as session:
            sync_pools(asked["pools"], session)
    print("CHANGED" if accounts or pools else "UNCHANGED", flush=True)


if __name__ == "__main__":
    main()
