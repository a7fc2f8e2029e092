# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters of the edge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.edge import (
    edge_accounts,
    edge_grants,
    edge_pages,
    edge_problems,
    edge_sites,
    edge_user_problems,
    edge_user_secrets,
)


class FilterModule:
    """Filters of the edge."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {
            "edge_accounts": edge_accounts,
            "edge_grants": edge_grants,
            "edge_pages": edge_pages,
            "edge_problems": edge_problems,
            "edge_sites": edge_sites,
            "edge_user_problems": edge_user_problems,
            "edge_user_secrets": edge_user_secrets,
        }
