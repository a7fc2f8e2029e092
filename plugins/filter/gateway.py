# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters of the IBKR gateway's settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.gateway import address_patterns, gateway_faults


class FilterModule:
    """Filters of the IBKR gateway's settings."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {
            "address_patterns": address_patterns,
            "gateway_faults": gateway_faults,
        }
