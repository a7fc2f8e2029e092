# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters that judge whether a host can run the stack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.host_checks import (
    fit_problems,
    host_drift,
    host_problems,
)


class FilterModule:
    """Filters that judge whether a host can run the stack."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {"fit_problems": fit_problems, "host_drift": host_drift, "host_problems": host_problems}
