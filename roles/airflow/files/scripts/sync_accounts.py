"""Makes the declared accounts of Airflow's UI and API: present, active, in their role, with their password.

Environment: ``AIRFLOW_ACCOUNTS``, a JSON list of objects with ``username``, ``email``, ``role`` (one of Airflow's own)
and ``secret``, the name of the file in ``/run/secrets`` that holds the password. Other accounts stay as they are.

Prints CHANGED or UNCHANGED as its last line, and fails otherwise.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from werkzeug.security import check_password_hash

SECRETS = Path("/run/secrets")


def sync_account(security, username: str, email: str, role_name: str, password: str) -> bool:
    """Create or correct an account; return whether anything was changed.

    A role that a person has added to the account stays.

    Raises:
        RuntimeError: The account is not as declared afterwards.
    """
    role = security.find_role(role_name)
    if role is None:
        raise RuntimeError(f"Airflow has no role {role_name}: its database has not been migrated")
    user = security.find_user(username=username)
    if user is None:
        # FAB reports a failure of its own by returning nothing.
        if not security.add_user(username, "Airflow", role_name, email, role, password):
            raise RuntimeError(f"cannot create the user {username}; is {email} taken by another one?")
        return True
    changed = False
    if user.email != email or not user.active or role not in user.roles:
        user.email, user.active = email, True
        if role not in user.roles:
            user.roles = [*user.roles, role]
        if security.update_user(user) is False:
            raise RuntimeError(f"cannot update the user {username}; is {email} taken by another one?")
        changed = True
    if not check_password_hash(user.password, password):
        if not security.reset_password(user.id, password):
            raise RuntimeError(f"cannot set the password of the user {username}")
        changed = True
    return changed


def main() -> None:
    """Read the declaration from the environment and apply it."""
    changed = []
    with get_application_builder() as builder:
        for account in json.loads(os.environ["AIRFLOW_ACCOUNTS"]):
            password = (SECRETS / account["secret"]).read_text().rstrip("\n")
            if not password:
                raise RuntimeError(f"the password of the user {account['username']} is empty")
            changed.append(sync_account(builder.sm, account["username"], account["email"], account["role"], password))
    print("CHANGED" if any(changed) else "UNCHANGED", flush=True)


if __name__ == "__main__":
    main()
