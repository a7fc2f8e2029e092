# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes files that are whole or as before, and removes what a killed run has left of one."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path

#: How the names of files begin that are renamed once they are whole.
PREFIX = ".new-"
#: The same in directories that hold files of others.
PREFIX_AMONG_OTHERS = f"{PREFIX}quantops-"
#: Seconds after which such a file belongs to no run any more: writing one takes less than a second.
ABANDONED = 60


def remove_left(directory: Path, prefix: str = PREFIX) -> None:
    """Remove the unfinished files of killed runs, which may hold secrets.

    Args:
        directory: Where they were written; it need not exist.
        prefix: How their names begin.
    """
    for path in directory.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if path.is_file() and time.time() - path.lstat().st_mtime > ABANDONED:
                path.unlink()


def write_whole(file: Path, content: str) -> None:
    """Write a file that only its owner reads, and that is there whole or as before.

    Args:
        file: Where it is.
        content: What it holds then.
    """
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=PREFIX)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
