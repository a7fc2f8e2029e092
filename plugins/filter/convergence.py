# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters that say what has to be done, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils import contracts, convergence, drift


class FilterModule:
    """Names of the filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {
            "chosen_services": convergence.chosen_services,
            "container_waves": convergence.container_waves,
            "oversized_groups": contracts.oversized_groups,
            "declared_containers": convergence.declared_containers,
            "drift_table": drift.drift_table,
            "out_of_sync": convergence.out_of_sync,
            "prepared_databases": convergence.prepared_databases,
            "protected_plans": convergence.protected_plans,
            "service_images": contracts.image_definitions,
            "stack_drift": drift.stack_drift,
            "starting_containers": convergence.starting_containers,
            "stop_order": convergence.stop_order,
            "unknown_tags": convergence.unknown_tags,
            "undeclared_containers": convergence.undeclared_containers,
            "wave_work": convergence.wave_work,
        }
