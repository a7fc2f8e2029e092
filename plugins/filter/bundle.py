# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters that find and judge bundles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.bundle import (
    bundle_beside,
    bundle_description,
    bundle_problems,
)


class FilterModule:
    """Filters that find and judge bundles."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {
            "bundle_beside": bundle_beside,
            "bundle_description": bundle_description,
            "bundle_problems": bundle_problems,
        }
