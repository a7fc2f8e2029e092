# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters that write endpoints in the forms that programs want."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils import endpoints


class FilterModule:
    """Names of the filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {
            "data_secrets": endpoints.data_secrets,
            "s3_settings": endpoints.s3_settings,
            "service_addresses": endpoints.service_addresses,
            "postgres_url": endpoints.postgres_url,
            "libpq_dsn": endpoints.libpq_dsn,
            "redis_url": endpoints.redis_url,
            "redis_connections": endpoints.redis_connections,
        }
