"""Build the collection's archive and unpack it: what is checked is what Galaxy would get."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def build(directory: Path) -> Path:
    """Build the archive.

    Args:
        directory: An empty directory for it.

    Returns:
        The archive.

    Raises:
        SystemExit: ``ansible-galaxy`` failed; the message is its output.
    """
    command = [Path(sys.executable).parent / "ansible-galaxy", "collection", "build", ROOT]
    done = subprocess.run(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stdout)
    [archive] = directory.glob("*.tar.gz")
    return archive


def unpack(archive: Path, collections: Path) -> Path:
    """Unpack the archive where Ansible looks for the collection.

    Args:
        archive: The archive.
        collections: Directory that holds or is to hold ``ansible_collections``.

    Returns:
        The collection's directory.
    """
    target = collections / "ansible_collections" / "quantops" / "ibkr_stack"
    target.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    return target
