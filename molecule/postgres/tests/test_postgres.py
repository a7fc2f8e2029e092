"""Databases, their owners, and who may do what."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack_under_test import Stack, command, drift, run_playbook
from test_data_services import (  # noqa: F401
    test_a_wrong_password_is_refused,
    test_an_owner_rules_its_database,
    test_an_owner_stays_in_its_database,
    test_an_owner_that_takes_all_its_connections_leaves_those_of_others,
    test_connections_are_shared_among_the_owners,
    test_owners_are_nothing_more,
    test_server_version,
    test_the_administrator_comes_from_inside_only,
    test_the_health_check_of_postgresql_leaves_no_line_in_its_log,
)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("shared_buffers", "lots", 'invalid value for parameter "shared_buffers": "lots"'),
        ("nonsense", "1", 'unrecognized configuration parameter "nonsense"'),
    ],
)
def test_a_value_that_postgresql_refuses(stack: Stack, name: str, value: str, reason: str) -> None:
    """The server that runs is not replaced by one that cannot start."""
    before = stack.identity()
    host = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
    bad = f'--extra-vars={{"postgres_settings": {{"{name}": "{value}"}}}}'
    told = run_playbook("playbooks/postgres.yml", host, "--inventory=molecule/shared/inventory.yml", bad)
    said = " ".join(told.stdout.split())
    assert told.returncode == 2, said
    assert f"PostgreSQL refuses postgres_settings: {reason}" in said
    assert stack.identity() == before and stack.well("postgres")


def as_administrator(stack: Stack, *statements: str) -> None:
    """Run statements as PostgreSQL's administrator."""
    words = ("psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--username=postgres", "--dbname=postgres")
    done = stack.execute("postgres", *words, stdin="\n".join(f"{each};" for each in statements))
    assert done.returncode == 0, done.stderr


@pytest.fixture
def by_hand(stack: Stack) -> Iterator[None]:
    """A configuration, roles and databases as somebody changed them by hand."""
    pg_hba = f"{stack.config_dir}/postgres/config/pg_hba.conf"
    password = "SELECT rolpassword FROM pg_authid WHERE rolname = 'dags'"
    words = ("psql", "--no-psqlrc", "-At", "--username=postgres", "--dbname=postgres", f"--command={password}")
    verifier = stack.execute("postgres", *words).stdout.strip()
    limit = "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'airflow'"
    words = ("psql", "--no-psqlrc", "-At", "--username=postgres", "--dbname=postgres", f"--command={limit}")
    connections = stack.execute("postgres", *words).stdout.strip()
    command("sh", "-c", f"cp --archive {pg_hba} /root/pg_hba && echo '# by hand' >> {pg_hba}")
    as_administrator(
        stack,
        'CREATE DATABASE "by hand"',
        "CREATE ROLE by_hand",
        "ALTER DATABASE mlflow OWNER TO by_hand",
        "ALTER ROLE airflow CONNECTION LIMIT 3",
        "ALTER ROLE backend CREATEDB",
        "ALTER ROLE dags PASSWORD 'another'",
        "GRANT CONNECT ON DATABASE dags TO PUBLIC",
        "ALTER SYSTEM SET work_mem = '9MB'",
    )
    yield
    as_administrator(
        stack,
        'DROP DATABASE "by hand"',
        "ALTER DATABASE mlflow OWNER TO mlflow",
        "DROP ROLE by_hand",
        f"ALTER ROLE airflow CONNECTION LIMIT {connections}",
        "ALTER ROLE backend NOCREATEDB",
        f"ALTER ROLE dags PASSWORD '{verifier}'",
        "REVOKE ALL ON DATABASE dags FROM PUBLIC",
        "ALTER SYSTEM RESET work_mem",
    )
    command("mv", "/root/pg_hba", pg_hba)


def test_drift(stack: Stack, by_hand: None) -> None:
    """Whatever was changed by hand is shown, and stays as it is."""
    found = drift(stack, "postgres")
    limits = {each for each in found if each[:2] == ("role", "airflow")}
    assert [each[2].startswith("connection limit is 3, declared ") for each in limits] == [True]
    assert found - limits == {
        ("container", f"{stack.name}-postgres", "configuration or secrets were written after its start"),
        ("database", "by hand", "not declared"),
        ("database", "dags", "open to every role"),
        ("database", "mlflow", "owner is by_hand, declared mlflow"),
        ("file", f"{stack.config_dir}/postgres/config/pg_hba.conf", "content differs"),
        ("role", "backend", "cannot log in, or has rights beyond its databases"),
        ("role", "by_hand", "not declared"),
        ("role", "dags", "has another password"),
        ("setting", "postgres work_mem", "set with ALTER SYSTEM, not declared"),
    }


def test_no_drift(stack: Stack) -> None:
    """Of a stack that is as declared."""
    assert drift(stack, "postgres") == set()
