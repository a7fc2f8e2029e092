# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters of the operator's own application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.application import (
    airflow_problems,
    application_image,
    application_problems,
    named_volumes,
    secret_files,
    sql_files,
)
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.declared_build import packages_image


class FilterModule:
    """Filters of the operator's own application."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {
            "airflow_problems": airflow_problems,
            "application_image": application_image,
            "application_problems": application_problems,
            "named_volumes": named_volumes,
            "packages_image": packages_image,
            "secret_files": secret_files,
            "sql_files": sql_files,
        }
