# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Removes what a killed run has left of a file that it was writing."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

#: How the names of files begin that are renamed once they are whole.
PREFIX = ".new-"
#: Seconds after which such a file belongs to no run any more: writing one takes less than a second.
ABANDONED = 60


def remove_left(directory: Path) -> None:
    """Remove the unfinished files of killed runs, which may hold secrets.

    Args:
        directory: Where they were written; it need not exist.
    """
    for path in directory.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.is_file() and time.time() - path.lstat().st_mtime > ABANDONED:
                path.unlink()
