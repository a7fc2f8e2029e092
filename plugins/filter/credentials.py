# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters that write what a server stores of a client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.credentials import bucket_policy, scram_verifier


class FilterModule:
    """Filters that write what a server stores of a client."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {
            "bucket_policy": bucket_policy,
            "scram_verifier": scram_verifier,
        }
