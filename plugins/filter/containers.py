# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters that plan containers and compare the plans with a host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.containers import container_plan, over, public_plan


class FilterModule:
    """Filters that plan containers and compare the plans with a host."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {
            "container_plan": container_plan,
            "over": over,
            "public_plan": public_plan,
        }
