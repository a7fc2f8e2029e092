"""Accounts and pools that people have changed are told from those that are as declared."""

from __future__ import annotations

import io
import json
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
    found = script.account_differences(rows, ACCOUNTS, {"airflow_user_Anna_password": "of anna"})
    assert bool(found) is differ and "of anna" not in str(found)


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
    assert bool(script.pool_differences(rows, POOLS)) is differ


def test_what_differs_is_named(script: Any) -> None:
    """Each account and pool with all that differs about it."""
    rows = [(*ANNA[:2], False, MARK, None, ["Admin"]), ("gone", "g@g", True, MARK, HASH, ["Viewer"])]
    assert script.account_differences(rows, ACCOUNTS, {"airflow_user_Anna_password": "of anna"}) == [
        ("gone", "not declared"),
        ("anna", "not active"),
        ("anna", "role is Admin, declared Viewer"),
        ("anna", "has another password"),
    ]
    assert script.pool_differences([("ibkr", 2, MARK, True)], POOLS) == [
        ("ibkr", "slots is 2, declared 1; include_deferred is True, declared False")
    ]


def test_a_comparison_changes_nothing(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --compare-only the scripts that correct are not even imported, and a line stays a line."""
    asked = {"accounts": ACCOUNTS, "pools": [], "passwords": {"airflow_user_Anna_password": "of anna"}}
    monkeypatch.setattr(script.sys, "stdin", io.StringIO(json.dumps(asked)))
    monkeypatch.setattr(script.sys, "argv", ["reconcile_declared.py", "--compare-only"])
    monkeypatch.setattr(script, "DATABASE_URL", Path(SCRIPTS) / "probe_heartbeat.py")
    rows = iter([[("by\nhand", "b@b", True, MARK, HASH, ["Admin"])], []])
    monkeypatch.setattr(script.psycopg2, "connect", lambda *_, **__: Connection(lambda: next(rows)))
    script.main()
    assert capsys.readouterr().out.splitlines() == [
        "DRIFT\taccount\tby hand\tnot declared",
        "DRIFT\taccount\tanna\tmissing",
    ]
    assert "sync_accounts" not in sys.modules


class Connection:
    """A connection to a database, and its cursor."""

    def __init__(self, fetch: Any) -> None:
        """`fetch` returns the rows of the next query."""
        self.fetchall = fetch

    def cursor(self) -> Connection:
        return self

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, _query: str) -> None:
        pass

    def close(self) -> None:
        pass


def test_the_marks_are_those_of_the_scripts(script: Any) -> None:
    """They are written there and read here."""
    assert script.ACCOUNT_MARK == MARK
    assert f'MARK = "{MARK}"' in (Path(SCRIPTS) / "sync_accounts.py").read_text()
