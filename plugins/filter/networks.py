# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters that find addresses for the stack's network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.networks import (
    free_network,
    occupied_addresses,
    overlapping_networks,
)


class FilterModule:
    """Filters that find addresses for the stack's network."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {
            "free_network": free_network,
            "occupied_addresses": occupied_addresses,
            "overlapping_networks": overlapping_networks,
        }
