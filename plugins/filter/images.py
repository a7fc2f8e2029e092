# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters that plan images and explain failed builds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.images import (
    build_failure,
    build_remedy,
    certificate_files,
    image_missing,
    image_plan,
    image_shares,
    unreachable_mirrors,
)


class FilterModule:
    """Filters that plan images and explain failed builds."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {
            "build_failure": build_failure,
            "build_remedy": build_remedy,
            "certificate_files": certificate_files,
            "image_missing": image_missing,
            "image_plan": image_plan,
            "image_shares": image_shares,
            "unreachable_mirrors": unreachable_mirrors,
        }
