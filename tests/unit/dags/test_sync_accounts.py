"""Declared accounts in Airflow's own database: they become what is declared, and accounts that people made stay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[3] / "roles" / "airflow" / "files" / "scripts"
#: Run in a process whose Airflow has a database of its own; prints what is there after each step.
STEPS = """
import json
from airflow.utils.db import initdb

initdb()
from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from sync_accounts import sync_accounts
from werkzeug.security import check_password_hash

ANNA = {"username": "Anna", "email": "anna@localhost", "role": "Viewer", "secret": "of_anna"}
DESK = {"username": "desk", "email": "desk@localhost", "role": "Op", "secret": "of_desk"}
CY = {"username": "cy", "email": "anna@localhost", "role": "Admin", "secret": "of_cy"}
PASSWORDS = {"of_anna": "password of anna", "of_desk": "password of desk", "of_cy": "password of cy"}
seen = {}


def step(name, accounts):
    changed = sync_accounts(accounts, PASSWORDS)
    with get_application_builder() as builder:
        users = {
            user.username: [user.email, user.active, sorted(role.name for role in user.roles),
                            [key for key, value in PASSWORDS.items() if check_password_hash(user.password, value)]]
            for user in builder.sm.get_all_users()
        }
    seen[name] = {"changed": changed, "users": users}


with get_application_builder() as builder:
    security = builder.sm
    # As a person would on the page; an account of theirs may have any name.
    security.add_user("by_hand", "By", "Hand", "by_hand@localhost", security.find_role("Op"), "made by hand")
step("made", [ANNA, DESK])
step("again", [ANNA, DESK])
with get_application_builder() as builder:
    security = builder.sm
    anna, desk = security.find_user(username="anna"), security.find_user(username="desk")
    anna.roles, anna.last_name = [security.find_role("Admin"), security.add_role("Desk")], "Smith"
    security.update_user(anna)
    desk.roles, desk.active = [], False
    security.update_user(desk)
    security.reset_password(desk.id, "another password")
step("corrected", [ANNA, DESK])
step("replaced", [CY])
print(json.dumps(seen))
"""
BY_HAND = ["by_hand@localhost", True, ["Op"], []]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was there after each step."""
    environment = os.environ | {
        "PYTHONPATH": str(SCRIPTS),
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("home")),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
    }
    done = subprocess.run(
        [sys.executable, "-c", STEPS], env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_accounts_are_made_as_declared(seen: dict[str, Any]) -> None:
    """With role and password; a second time changes nothing."""
    accounts = {
        "Anna": ["anna@localhost", True, ["Viewer"], ["of_anna"]],
        "desk": ["desk@localhost", True, ["Op"], ["of_desk"]],
        "by_hand": BY_HAND,
    }
    assert seen["made"] == {"changed": True, "users": accounts}
    assert seen["again"] == {"changed": False, "users": accounts}


def test_what_people_changed_of_them_is_corrected(seen: dict[str, Any]) -> None:
    """Of Airflow's own roles an account has the declared one alone; one that people made and gave to it stays."""
    assert seen["corrected"] == {
        "changed": True,
        "users": {
            "Anna": ["anna@localhost", True, ["Desk", "Viewer"], ["of_anna"]],
            "desk": ["desk@localhost", True, ["Op"], ["of_desk"]],
            "by_hand": BY_HAND,
        },
    }


def test_accounts_that_are_declared_no_longer_go(seen: dict[str, Any]) -> None:
    """Before new ones are made, which may have their mail address; an account that a person made stays."""
    assert seen["replaced"] == {
        "changed": True,
        "users": {"cy": ["anna@localhost", True, ["Admin"], ["of_cy"]], "by_hand": BY_HAND},
    }
