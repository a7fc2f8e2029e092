# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters about the network between the hosts of a stack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils import mesh


class FilterModule:
    """Names of the filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {
            "awaited": mesh.awaited,
            "clock_problems": mesh.clock_problems,
            "mesh_drift": mesh.differences,
            "mesh_interface": mesh.interface,
            "mesh_openings": mesh.openings,
            "mesh_problems": mesh.host_problems,
            "mesh_rules": mesh.rules,
            "mesh_titles": mesh.port_titles,
            "opening_lines": mesh.opening_lines,
            "peer_lines": mesh.status_lines,
            "reach_problems": mesh.reach_problems,
        }
