"""Databases, their owners, and who may do what."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from stack_under_test import Stack, run_playbook
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
