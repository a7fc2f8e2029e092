"""What the programs of the backup share."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path


class BackupError(Exception):
    """What went wrong, in a sentence for the operator."""


def log(text: str) -> None:
    """Print a line with the time."""
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}", flush=True)


def write(path: Path, content: str) -> None:
    """Write a file that is there whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    with new.open("w") as stream:
        os.fchmod(stream.fileno(), 0o600)
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    new.rename(path)
