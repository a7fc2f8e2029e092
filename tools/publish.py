#!/usr/bin/env python3
"""Check the collection as Galaxy does when it is published: its documentation and its archive.

Usage: ``tools/publish.py``, with antsibull-docs and galaxy-importer in ``.venvs/publish``. Exit code 1: an
error or a warning of one of them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / ".venvs" / "publish" / "bin"
#: Sanity tests run on their own; here it would want a container.
IMPORTER = "[galaxy-importer]\nRUN_ANSIBLE_TEST = False\nCHECK_CHANGELOG = True\n"


def run(words: list[str | Path], directory: Path, **more: str) -> tuple[int, str]:
    """Run a program of the environment for publishing.

    Args:
        words: The command.
        directory: Where to run it.
        more: Further variables.

    Returns:
        Exit code, and all it printed.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment = {**own, "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}", **more}
    done = subprocess.run(
        words, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.returncode, done.stdout


def main() -> int:
    """Check both.

    Returns:
        Exit code.
    """
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        code, said = run([Path(sys.executable).parent / "ansible-galaxy", "collection", "build", ROOT], place)
        if code:
            print(said)
            return 1
        [archive] = place.glob("*.tar.gz")
        # As Galaxy sees it: what the archive holds, with the collections that it depends on.
        tree = place / "ansible_collections" / "quantops" / "ibkr_stack"
        tree.mkdir(parents=True)
        subprocess.run(["tar", "-xzf", archive, "-C", tree], check=True)
        # A program of the controller's environment, which holds them.
        import ansible_collections.community as community

        [known] = community.__path__
        (place / "ansible_collections" / "community").symlink_to(known)
        collections = {"ANSIBLE_COLLECTIONS_PATH": str(place)}
        words: list[str | Path] = ["antsibull-docs", "lint-collection-docs", "--plugin-docs", "."]
        code, said = run(words, tree, **collections)
        print(said, end="")
        failed = code != 0
        (place / "importer.cfg").write_text(IMPORTER, encoding="utf-8")
        words = [PROGRAMS / "python", "-m", "galaxy_importer.main", archive]
        code, said = run(words, place, GALAXY_IMPORTER_CONFIG=str(place / "importer.cfg"), **collections)
        print(said, end="")
    return int(failed or code != 0 or re.search(r"\b(WARNING|ERROR)\b", said) is not None)


if __name__ == "__main__":
    sys.exit(main())
