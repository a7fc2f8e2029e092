# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters of the monitoring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.monitoring import (
    alertmanager_settings,
    monitoring_alerts,
    monitoring_dashboards,
    monitoring_scrape,
    receiver_problems,
    signed_token,
)


class FilterModule:
    """Filters of the monitoring."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {
            "alertmanager_settings": alertmanager_settings,
            "monitoring_alerts": monitoring_alerts,
            "monitoring_dashboards": monitoring_dashboards,
            "monitoring_scrape": monitoring_scrape,
            "receiver_problems": receiver_problems,
            "signed_token": signed_token,
        }
