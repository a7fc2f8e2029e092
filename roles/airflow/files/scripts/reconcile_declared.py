"""Gives declared accounts and pools their declared form again where people have changed it.

Reads a JSON object from standard input: ``accounts`` and ``pools`` as ``sync_accounts`` and ``sync_pools`` take them,
and ``passwords``, name of the secret to its value. Looks into the database first, since importing Airflow costs seconds
of processor time.

Prints CHANGED or UNCHANGED as its last line, and fails otherwise. With ``--compare-only`` it changes nothing, and
prints a line for each difference instead, with tabs: DRIFT, kind, name, difference.
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


def account_differences(
    rows: list[tuple[Any, ...]], declared: list[dict[str, str]], passwords: dict[str, str]
) -> list[tuple[str, str]]:
    """Find accounts that are not as declared, or have the mark and are not declared.

    Args:
        rows: Result of ``ACCOUNTS``.
        declared: The declared accounts.
        passwords: Name of the secret to the password.

    Returns:
        Name and what differs, never a password, of each difference.
    """
    # Airflow does not tell capital letters in names from small ones.
    found = {row[0].lower(): row[1:] for row in rows}
    names = {each["username"].lower(): each for each in declared}
    differences = [
        (name, "not declared") for name, row in found.items() if row[2] == ACCOUNT_MARK and name not in names
    ]
    for name, account in names.items():
        if name not in found:
            differences.append((name, "missing"))
            continue
        email, active, last_name, password, roles = found[name]
        own = OWN_ROLES & set(roles)
        differences += [
            (name, text)
            for text, differs in (
                ("not marked as declared", last_name != ACCOUNT_MARK),
                (f"mail address is {email}, declared {account['email']}", email != account["email"]),
                ("not active", not active),
                (f"role is {', '.join(sorted(own)) or 'none'}, declared {account['role']}", own != {account["role"]}),
                ("has another password", not check_password_hash(password or "", passwords[account["secret"]])),
            )
            if differs
        ]
    return differences


def pool_differences(rows: list[tuple[Any, ...]], declared: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Find pools that are not as declared, or have the mark and are not declared.

    Args:
        rows: Result of ``POOLS``.
        declared: The declared pools.

    Returns:
        Name and what differs of each.
    """
    wanted = {
        pool["name"]: (pool["slots"], f"{pool['description']} {POOL_MARK}".strip(), pool["include_deferred"])
        for pool in declared
    }
    found = {row[0]: row[1:] for row in rows}
    differences = [
        (name, "not declared") for name, row in found.items() if row[1].endswith(POOL_MARK) and name not in wanted
    ]
    for name, pool in wanted.items():
        if name not in found:
            differences.append((name, "missing"))
        elif found[name] != pool:
            parts = zip(("slots", "description", "include_deferred"), found[name], pool, strict=True)
            differences.append(
                (name, "; ".join(f"{key} is {have}, declared {want}" for key, have, want in parts if have != want))
            )
    return differences


def main() -> None:
    """Compare, and correct what differs."""
    asked = json.load(sys.stdin)
    url = re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", DATABASE_URL.read_text().strip())
    connection = psycopg2.connect(url, connect_timeout=10)
    try:
        with connection.cursor() as cursor:
            cursor.execute(ACCOUNTS)
            accounts = account_differences(cursor.fetchall(), asked["accounts"], asked["passwords"])
            cursor.execute(POOLS)
            pools = pool_differences(cursor.fetchall(), asked["pools"])
    finally:
        connection.close()
    if sys.argv[1:] == ["--compare-only"]:
        for kind, differences in (("account", accounts), ("pool", pools)):
            for name, text in differences:
                print("DRIFT", kind, *(re.sub(r"\s", " ", field) for field in (name, text)), sep="\t")
        return
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
