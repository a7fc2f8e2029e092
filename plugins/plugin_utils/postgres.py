# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Shares PostgreSQL's connections among the owners of its databases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.settings import unknown_keys

#: What only administrators may use; PostgreSQL's own defaults.
RESERVED = {"superuser_reserved_connections": 3, "reserved_connections": 0}


def whole_number(value: Any, where: str) -> int:
    """Read a number of connections.

    Args:
        value: What the inventory says.
        where: What it belongs to, for the error.

    Returns:
        The number.

    Raises:
        AnsibleFilterError: If it is not a whole number from 0.
    """
    if isinstance(value, bool) or not str(value).strip().isdigit():
        raise AnsibleFilterError(f"{where} is {value!r}, expected a whole number of connections.")
    return int(value)


def connection_limits(
    needs: Mapping[str, Any], settings: Mapping[str, Any], fixed: Mapping[str, Any] | None = None
) -> dict[str, int]:
    """Share the server's connections so that no owner can take those of another.

    Args:
        needs: Owner to what its programs may open together at most.
        settings: Settings of ``postgresql.conf``.
        fixed: Owner to a limit that the inventory sets instead.

    Returns:
        Owner to its limit. Those that the inventory does not set get what they need, and in proportion to it a share of
        the rest. The sum leaves the connections that PostgreSQL reserves for administrators.

    Raises:
        AnsibleFilterError: If the server does not allow as many connections, with the setting and a value that works.
    """
    fixed = {
        owner: whole_number(limit, f"postgres_connection_limits.{owner}") for owner, limit in (fixed or {}).items()
    }
    unknown_keys(fixed, needs, "postgres_connection_limits")
    most = whole_number(settings.get("max_connections", 100), "postgres_settings.max_connections")
    reserved = sum(
        whole_number(settings.get(name, default), f"postgres_settings.{name}") for name, default in RESERVED.items()
    )
    open_needs = {owner: whole_number(need, owner) for owner, need in needs.items() if owner not in fixed}
    together, free = sum(open_needs.values()), most - reserved - sum(fixed.values())
    if free < together:
        parts = ", ".join(f"{owner} {count}" for owner, count in sorted((open_needs | fixed).items()))
        raise AnsibleFilterError(
            f"PostgreSQL's max_connections is {most}, too few: its clients may open {together + sum(fixed.values())}"
            f" connections ({parts}), and {reserved} are kept for the administrator. Set max_connections in"
            f" postgres_settings to {most + together - free} or more"
            + (", or lower postgres_connection_limits." if fixed else ".")
        )
    return fixed | {owner: free * need // together for owner, need in open_needs.items() if together}
