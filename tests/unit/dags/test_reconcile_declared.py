"""Accounts and pools that people have changed are told from those that are as declared."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from werkzeug.security import generate_password_hash

SCRIPTS = str(Path(__file__).parents[3] / "roles" / "airflow" / "files" / "scripts")
HASH = generate_password_hash("of anna", method="pbkdf2:sha256:1")
MARK = "(declared in the inventory)"
ACCOUNTS = [{"username": "Anna", "email": "anna@localhost", "role": "Viewer", "secret": "airflow_user_Anna_password"}]
ANNA = ("anna", "anna@localhost", True, MARK, HASH, ["Viewer"])
POOLS = [{"name": "ibkr", "slots": 1, "description": "", "include_deferred": False}]
IBKR = ("ibkr", 1, MARK, False)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.syspath_prepend(SCRIPTS)
    import reconcile_declared

    yield reconcile_declared
    for name in ("reconcile_declared", "sync_pools"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("rows", "differ"),
    [
        ([ANNA, ("by_hand", "b@b", False, "Hand", HASH, ["Admin"])], False),
        ([(*ANNA[:5], ["Viewer", "Desk"])], False),  # a role that people have made
        ([(*ANNA[:5], ["Viewer", "Admin"])], True),
        ([(*ANNA[:5], [])], True),
        ([(*ANNA[:4], None, ANNA[5])], True),
        ([(*ANNA[:4], generate_password_hash("other", method="pbkdf2:sha256:1"), ANNA[5])], True),
        ([(ANNA[0], "other@localhost", *ANNA[2:])], True),
        ([(*ANNA[:2], False, *ANNA[3:])], True),
        ([(*ANNA[:3], "Smith", *ANNA[4:])], True),
        ([ANNA, ("gone", "g@g", True, MARK, HASH, ["Viewer"])], True),
        ([], True),
    ],
)
def test_accounts(script: Any, rows: list[Any], differ: bool) -> None:
    """Only what is declared counts; capital letters in names do not."""
    assert script.accounts_differ(rows, ACCOUNTS, {"airflow_user_Anna_password": "of anna"}) is differ


@pytest.mark.parametrize(
    ("rows", "differ"),
    [
        ([IBKR, ("default_pool", 128, "Default pool", False), ("by_hand", 3, "", False)], False),
        ([("ibkr", 2, MARK, False)], True),
        ([("ibkr", 1, MARK, True)], True),
        ([("ibkr", 1, "mine", False)], True),
        ([IBKR, ("gone", 1, f"After the close {MARK}", False)], True),
        ([], True),
    ],
)
def test_pools(script: Any, rows: list[Any], differ: bool) -> None:
    """Those that people have made do not count."""
    assert script.pools_differ(rows, POOLS) is differ


def test_the_marks_are_those_of_the_scripts(script: Any) -> None:
    """They are written there and read here."""
    assert script.ACCOUNT_MARK == MARK
    assert f'MARK = "{MARK}"' in (Path(SCRIPTS) / "sync_accounts.py").read_text()
