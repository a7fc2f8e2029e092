# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters of the logs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.logs import (
    container_log_lines,
    log_lines,
    log_problems,
    log_request,
    log_seconds,
)


class FilterModule:
    """Filters of the logs."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {
            "container_log_lines": container_log_lines,
            "log_lines": log_lines,
            "log_problems": log_problems,
            "log_request": log_request,
            "log_seconds": log_seconds,
        }
