"""Databases, their owners, and who may do what."""

from __future__ import annotations

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
