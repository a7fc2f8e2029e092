# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters that judge settings of the inventory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.settings import (
    broken_rules,
    ignored_variable_files,
    misspelt_variables,
    renamed_variables,
    secrets_read_as_hosts,
)


class FilterModule:
    """Filters that judge settings of the inventory."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {
            "broken_rules": broken_rules,
            "ignored_variable_files": ignored_variable_files,
            "misspelt_variables": misspelt_variables,
            "renamed_variables": renamed_variables,
            "secrets_read_as_hosts": secrets_read_as_hosts,
        }
