"""Which values of declared connections and variables are secret, and how they are kept out of messages."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "roles" / "airflow" / "files" / "scripts" / "dag_inputs.py"


@pytest.fixture(scope="module")
def script() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("dag_inputs", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_secrets_of_connections(script: Any) -> None:
    """All of `extra`, or only what its keys call secret; numbers are none."""
    extra = {"timeout": 5, "region": "eu", "api_key": "k1", "more": {"token": "t1", "zone": "z1"}}
    connection = {"conn_type": "http", "host": "desk", "login": "me", "password": "p1", "extra": extra}
    by_name = {"api_key", "token"}.__contains__
    for shape in (connection, {**connection, "extra": json.dumps(extra)}):
        assert {"p1", "eu", "k1", "t1", "z1"} <= set(script.connection_secrets(shape))
        assert set(script.connection_secrets(shape, by_name)) == {"p1", "k1", "t1"}
    uri = "postgresql://me:s3cr%2Ft@desk/prices?token=t1&sslmode=prefer"
    assert set(script.connection_secrets(uri, by_name)) == {uri, "s3cr%2Ft", "s3cr/t", "t1"}
    assert set(script.connection_secrets("http://desk")) == {"http://desk", ""}


def test_masking(script: Any) -> None:
    """Also as Python writes a value; a short one only as a word of its own, and an empty one not at all."""
    secrets = {"it's\nhidden", "271", "", "hidden-word-and-more", "hidden-word"}
    assert script.masked(f"a {'it' + chr(39) + 's' + chr(10) + 'hidden'!r} b", secrets) == 'a "***" b'
    assert script.masked("hidden-word-and-more, hidden-word, 271, 12710", secrets) == "***, ***, ***, 12710"
