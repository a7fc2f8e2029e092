"""Connections, variables and pools of Airflow that the inventory declares."""

from __future__ import annotations

import json
from typing import Any

import pytest
from collection_under_test import plugin

airflow = plugin("plugin_utils.airflow")
GOOD: dict[str, Any] = {"conn_type": "http", "host": "desk.example.com"}


def problems(connections: Any = None, variables: Any = None, pools: Any = None, settings: Any = None) -> list[str]:
    """What is said of a declaration."""
    return airflow.airflow_declared_problems(connections or {}, variables or {}, pools or {}, settings or {})


def test_what_can_be_declared() -> None:
    """A URI or a dictionary; texts, numbers and lists; slots or a dictionary."""
    assert (
        problems(
            {
                "desk": {**GOOD, "port": "8443", "extra": {"timeout": 5}},
                "desk.eu-1": {**GOOD, "port": 443, "extra": '{"timeout": 5}'},
                "feed": "postgresql://reader:s3cret@feed.example.com/prices",
            },
            {"symbols": ["AAPL"], "limit": 0, "empty": ""},
            {"ibkr": 2, "any": -1, "night": {"slots": "4", "description": "After the close", "include_deferred": True}},
            {"AIRFLOW__CORE__PARALLELISM": 4},
        )
        == []
    )


@pytest.mark.parametrize(
    ("connection", "sentence"),
    [
        ("feed.example.com", "is a text without a scheme, expected a URI or a dictionary"),
        (["http"], "is neither a URI nor a dictionary"),
        ({"host": "desk"}, "has no conn_type"),
        ({**GOOD, "user": "me"}, "has the unknown key 'user', expected conn_type, description"),
        ({**GOOD, "port": 70000}, "has a port that is not a number from 1 to 65535"),
        ({**GOOD, "port": "http"}, "has a port that is not"),
        ({**GOOD, "extra": "timeout=5"}, "has an 'extra' that is no JSON"),
        ({**GOOD, "extra": "[5]"}, "has an 'extra' that is not a dictionary"),
        ({**GOOD, "extra": [5]}, "has an 'extra' that is not a dictionary"),
    ],
)
def test_a_connection_that_airflow_could_not_read(connection: Any, sentence: str) -> None:
    """One wrong connection would hide all others from every task."""
    [said] = problems({"desk": connection})
    assert said.startswith(f"airflow_connections.desk {sentence}")


def test_no_value_is_shown() -> None:
    """It may be a secret."""
    said = problems(
        {"desk": "s3cret", "other": {"conn_type": "", "password": "s3cret", "port": "s3cret", "extra": "s3cret"}}
    )
    assert len(said) == 4 and "s3cret" not in "".join(said)


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ({"connections": {"minio_logs": GOOD}}, "airflow_connections.minio_logs is the collection's own connection"),
        ({"connections": {"my desk": GOOD}}, "airflow_connections has the name 'my desk', expected"),
        ({"variables": {"symbols": None}}, "airflow_variables.symbols is empty"),
        ({"pools": {"ibkr": "two"}}, "airflow_pools.ibkr has no valid number of slots"),
        ({"pools": {"ibkr": True}}, "airflow_pools.ibkr has no valid number of slots"),
        ({"pools": {"ibkr": {"description": "few"}}}, "airflow_pools.ibkr has no valid number of slots"),
        ({"pools": {"ibkr": {"slots": 1, "size": 2}}}, "airflow_pools.ibkr has the unknown key 'size'"),
        (
            {"variables": {"a": 1}, "settings": {"AIRFLOW__SECRETS__BACKEND": "hvac"}},
            "airflow_settings has AIRFLOW__SECRETS__BACKEND, so Airflow would not look at",
        ),
    ],
)
def test_what_cannot_be_declared(declared: dict[str, Any], sentence: str) -> None:
    """The variable and what to do."""
    [said] = problems(**declared)
    assert said.startswith(sentence)


def test_a_backend_of_ones_own_without_declarations() -> None:
    """Such as a vault's: the collection has nothing to add."""
    assert problems(settings={"AIRFLOW__SECRETS__BACKEND": "hvac"}) == []


def test_files_for_airflow() -> None:
    """Ports are numbers; what is not a text is JSON in a text; the order of the inventory is none."""
    found = json.loads(airflow.connections_file({"desk": {**GOOD, "port": "8443"}, "feed": "http://feed"}))
    assert found == {"desk": {**GOOD, "port": 8443}, "feed": "http://feed"}
    assert json.loads(airflow.variables_file({"one": "1", "list": ["AAPL"], "flag": True, "zero": 0})) == {
        "one": "1", "list": '["AAPL"]', "flag": "true", "zero": "0",
    }  # fmt: skip
    assert airflow.variables_file({"a": 1, "b": 2}) == airflow.variables_file({"b": 2, "a": 1})


def test_pools_for_the_job() -> None:
    """In one form, sorted."""
    night = {"slots": "4", "description": "After the close", "include_deferred": True}
    assert airflow.pool_list({"night": night, "ibkr": 2}) == [
        {"name": "ibkr", "slots": 2, "description": "", "include_deferred": False},
        {"name": "night", "slots": 4, "description": "After the close", "include_deferred": True},
    ]


def test_users_that_can_be_declared() -> None:
    """The file of each has its own password or the generated secret; only the latter are generated."""
    users = [
        {"name": "anna", "role": "Viewer"},
        {"name": "Bo@desk.example.com", "role": "Op", "password": "of the desk"},
        {"name": "cy", "role": "Admin", "email": "c@example.com"},
    ]
    assert airflow.user_problems(users, ["admin", "backend"]) == []
    generated = airflow.generated_user_secrets(users)
    assert generated == {"airflow_user_anna_password": "password", "airflow_user_cy_password": "password"}
    assert [each["email"] for each in airflow.user_accounts(users)] == [
        "anna@localhost",
        "Bo@desk.example.com",
        "c@example.com",
    ]
    passwords = airflow.user_passwords(users, dict.fromkeys(generated, "made"))
    assert [passwords[each["secret"]] for each in airflow.user_accounts(users)] == ["made", "of the desk", "made"]


@pytest.mark.parametrize(
    ("user", "sentence"),
    [
        ("eve", "airflow_users[1] has no valid name, expected up to 64 letters"),
        ({"name": "../eve", "role": "Op"}, "airflow_users[1] has no valid name, expected up to 64 letters"),
        ({"name": "eve"}, "airflow_users: eve has the role None, expected one of Admin, Op, User, Viewer"),
        ({"name": "eve", "role": "admin"}, "airflow_users: eve has the role 'admin', expected one of Admin, Op"),
        ({"name": "eve", "role": "Op", "roles": []}, "airflow_users: eve has the unknown key 'roles', expected name"),
        ({"name": "eve", "role": "Op", "email": "eve"}, "airflow_users: eve has the email 'eve', expected a mail"),
        (
            {"name": "eve", "role": "Op", "email": "anna@localhost"},
            "airflow_users: eve has the email anna@localhost of",
        ),
        ({"name": "Anna", "role": "Op", "email": "a@b"}, "airflow_users: Anna is there twice"),
        ({"name": "Backend", "role": "Op"}, "airflow_users: Backend is an account of the collection's own"),
        ({"name": "eve", "role": "Op", "password": "s3cret"}, "airflow_users: eve has a password of fewer than 8"),
        ({"name": "eve", "role": "Op", "password": None}, "airflow_users: eve has a password of fewer than 8"),
        ({"name": "eve", "role": "Op", "password": "s3cret\nlonger"}, "airflow_users: eve has a password of fewer"),
    ],
)
def test_a_user_that_airflow_could_not_have(user: Any, sentence: str) -> None:
    """Said before anything changes, and without the password."""
    [said] = airflow.user_problems([{"name": "anna", "role": "Viewer"}, user], ["admin", "backend"])
    assert said.startswith(sentence) and "s3cret" not in said
