# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters of Airflow's connections, variables and pools, and of the sources of its DAGs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.airflow import (
    airflow_declared_problems,
    connections_file,
    generated_user_secrets,
    pool_list,
    user_accounts,
    user_passwords,
    user_problems,
    variables_file,
)
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.dag_sources import (
    dag_bundles,
    dag_config_trees,
    dag_connections,
    dag_files,
    dag_queue_problems,
    dag_source_problems,
    dag_trees,
    git_packages,
    known_hosts_files,
)


class FilterModule:
    """Filters of Airflow's connections, variables and pools."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {
            "airflow_declared_problems": airflow_declared_problems,
            "connections_file": connections_file,
            "dag_bundles": dag_bundles,
            "dag_config_trees": dag_config_trees,
            "dag_connections": dag_connections,
            "dag_files": dag_files,
            "dag_queue_problems": dag_queue_problems,
            "dag_source_problems": dag_source_problems,
            "dag_trees": dag_trees,
            "generated_user_secrets": generated_user_secrets,
            "git_packages": git_packages,
            "known_hosts_files": known_hosts_files,
            "pool_list": pool_list,
            "user_accounts": user_accounts,
            "user_passwords": user_passwords,
            "user_problems": user_problems,
            "variables_file": variables_file,
        }
