"""Makes the admin account of Airflow's UI as declared: present, active, in the role Admin, with its password.

Environment: ``AIRFLOW_ADMIN_USER``, ``AIRFLOW_ADMIN_EMAIL``, and ``AIRFLOW_ADMIN_PASSWORD_FILE`` (default
``/run/secrets/airflow_admin_password``).

Prints CHANGED or UNCHANGED as its last line, and fails otherwise.
"""

from __future__ import annotations

import os
from pathlib import Path

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from werkzeug.security import check_password_hash

ROLE = "Admin"


def sync_admin(username: str, email: str, password: str) -> bool:
    """Create or correct the account; return whether anything was changed.

    Raises:
        RuntimeError: The account is not as declared afterwards.
    """
    with get_application_builder() as builder:
        security = builder.sm
        role = security.find_role(ROLE)
        if role is None:
            raise RuntimeError(f"Airflow has no role {ROLE}: its database is not migrated")
        user = security.find_user(username=username)
        if user is None:
            # FAB reports a failure of its own by returning nothing.
            if not security.add_user(username, "Airflow", "Admin", email, role, password):
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
    username, email = os.environ["AIRFLOW_ADMIN_USER"], os.environ["AIRFLOW_ADMIN_EMAIL"]
    password_file = Path(os.environ.get("AIRFLOW_ADMIN_PASSWORD_FILE", "/run/secrets/airflow_admin_password"))
    password = password_file.read_text().rstrip("\n")
    if not (username and email and password):
        raise RuntimeError("the admin's user name, e-mail and password must not be empty")
    print("CHANGED" if sync_admin(username, email, password) else "UNCHANGED", flush=True)


if __name__ == "__main__":
    main()
