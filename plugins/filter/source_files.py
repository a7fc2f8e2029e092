# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters that read directories of the controller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.source_files import context_files, python_errors


class FilterModule:
    """Filters that read directories of the controller."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {
            "context_files": context_files,
            "python_errors": python_errors,
        }
