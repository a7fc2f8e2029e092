# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters that write what a server stores of a client, and that choose and describe secrets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.credentials import bucket_policy, scram_verifier
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.rotation import (
    choose_secrets,
    merge_secret_holders,
    secret_holders,
    secret_report,
    service_secrets,
)


class FilterModule:
    """Filters that write what a server stores of a client, and that choose and describe secrets."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {
            "bucket_policy": bucket_policy,
            "choose_secrets": choose_secrets,
            "merge_secret_holders": merge_secret_holders,
            "scram_verifier": scram_verifier,
            "secret_holders": secret_holders,
            "secret_report": secret_report,
            "service_secrets": service_secrets,
        }
