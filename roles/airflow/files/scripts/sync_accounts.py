"""Makes the declared accounts of Airflow's UI and API: present, active, in their role, with their password.

Environment: ``AIRFLOW_ACCOUNTS``, a JSON list of objects with ``username``, ``email``, ``role`` (one of Airflow's own)
and ``secret``, the name of the file in ``/run/secrets`` that holds the password. A mark as the last name tells a
declared account from one that a person has made: those with the mark that are declared no longer are removed.

Prints CHANGED or UNCHANGED as its last line, and fails otherwise.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from airflow.providers.fab.auth_manager.security_manager.constants import EXISTING_ROLES
from werkzeug.security import check_password_hash

MARK = "(declared in the inventory)"
SECRETS = Path("/run/secrets")


def sync_account(security, username: str, email: str, role_name: str, password: str) -> bool:
    """Create or correct an account; return whether anything was changed.

    Of Airflow's own roles it has the declared one only. A role that people have made and added to the account stays.

    Raises:
        RuntimeError: The account is not as declared afterwards.
    """
    role = security.find_role(role_name)
    if role is None:
        raise RuntimeError(f"Airflow has no role {role_name}: its database has not been migrated")
    user = security.find_user(username=username)
    if user is None:
        # FAB reports a failure of its own by returning nothing.
        if not security.add_user(username, username, MARK, email, role, password):
            raise RuntimeError(f"cannot create the user {username}; is {email} taken by another one?")
        return True
    changed = False
    roles = [role, *(each for each in user.roles if each.name not in EXISTING_ROLES)]
    roles_differ = {each.name for each in user.roles} != {each.name for each in roles}
    if user.email != email or not user.active or user.last_name != MARK or roles_differ:
        user.email, user.active, user.last_name = email, True, MARK
        if roles_differ:
            user.roles = roles
        if security.update_user(user) is False:
            raise RuntimeError(f"cannot update the user {username}; is {email} taken by another one?")
        changed = True
    if not check_password_hash(user.password, password):
        if not security.reset_password(user.id, password):
            raise RuntimeError(f"cannot set the password of the user {username}")
        changed = True
    return changed


def remove_accounts(security, declared: set[str]) -> bool:
    """Remove accounts that are declared no longer; return whether there were any.

    Args:
        security: Airflow's security manager.
        declared: Names of the declared accounts.

    Raises:
        RuntimeError: One cannot be removed.
    """
    # Airflow does not tell capital letters in names from small ones.
    names = {name.lower() for name in declared}
    gone = [user for user in security.get_all_users() if user.last_name == MARK and user.username.lower() not in names]
    for user in gone:
        for other in security.get_all_users():
            if other.created_by_fk == user.id:
                other.created_by_fk = None
            if other.changed_by_fk == user.id:
                other.changed_by_fk = None
        user.roles = []
        name = user.username
        if not security.del_register_user(user):
            raise RuntimeError(f"cannot remove the user {name}, who is declared no longer")
    return bool(gone)


def sync_accounts(accounts: list[dict[str, str]], passwords: dict[str, str]) -> bool:
    """Make all accounts as declared; return whether anything was changed.

    Args:
        accounts: As in the environment.
        passwords: Name of the secret to the password.

    Raises:
        RuntimeError: One is not as declared afterwards.
    """
    with get_application_builder() as builder:
        # First, because a new account may have the mail address of a removed one.
        changed = [remove_accounts(builder.sm, {account["username"] for account in accounts})]
        for account in accounts:
            password = passwords[account["secret"]]
            if not password:
                raise RuntimeError(f"the password of the user {account['username']} is empty")
            changed.append(sync_account(builder.sm, account["username"], account["email"], account["role"], password))
    return any(changed)


def main() -> None:
    """Read the declaration from the environment and apply it."""
    accounts = json.loads(os.environ["AIRFLOW_ACCOUNTS"])
    passwords = {each["secret"]: (SECRETS / each["secret"]).read_text().rstrip("\n") for each in accounts}
    print("CHANGED" if sync_accounts(accounts, passwords) else "UNCHANGED", flush=True)


if __name__ == "__main__":
    main()
