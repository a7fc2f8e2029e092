# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters of backup and restore."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils import backup_copies, backups


class FilterModule:
    """Names of the filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {
            "backup_copy_files": backup_copies.backup_copy_files,
            "backup_copy_places": backup_copies.backup_copy_places,
            "backup_copy_problems": backup_copies.backup_copy_problems,
            "backup_left_out": backups.backup_left_out,
            "backup_places": backups.backup_places,
            "bucket_changes": backups.bucket_changes,
            "chosen_backup": backups.chosen_backup,
            "decrypted_secrets": backups.decrypted_secrets,
            "drill_mounts": backups.drill_mounts,
            "drill_predictions": backups.drill_predictions,
            "later_versions": backups.later_versions,
            "moment_seconds": backups.moment_seconds,
            "restored_part": backups.restored_part,
        }
