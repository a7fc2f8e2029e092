#!/usr/bin/env python3
"""Check the collection's documentation and archive as Galaxy does.

Usage: ``tools/publish.py [--documentation]``, with antsibull-docs and galaxy-importer in ``.venvs/publish``;
``--documentation`` runs antsibull-docs only. Exit code 1: one of them reports an error or a warning.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import archive

PROGRAMS = archive.ROOT / ".venvs" / "publish" / "bin"
#: The importer says so of any such file. What ours skip, and why, is in `tests/sanity`.
ACCEPTED = re.compile(r"^WARNING: Ignore files skip ansible-test sanity tests, .*\n", re.MULTILINE)
#: `tools/sanity.py` runs the sanity tests; galaxy-importer would need a container for them.
IMPORTER = "[galaxy-importer]\nRUN_ANSIBLE_TEST = False\nCHECK_CHANGELOG = True\n"


def run(command: list[str | Path], directory: Path, **variables: str) -> tuple[int, str]:
    """Run a program of the environment for publishing.

    Args:
        command: The command.
        directory: Working directory.
        variables: Additional environment variables.

    Returns:
        Exit code and output.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment = {**own, "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}", **variables}
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def main() -> int:
    """Check the documentation, then the archive.

    Returns:
        Exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documentation", action="store_true", help="run antsibull-docs only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        built = archive.build(place)
        tree = archive.unpack(built, place)
        # The collections that it depends on come with the controller's environment.
        from ansible_collections import community

        [dependencies] = community.__path__
        (place / "ansible_collections" / "community").symlink_to(dependencies)
        variables = {"ANSIBLE_COLLECTIONS_PATH": str(place)}
        code, output = run(["antsibull-docs", "lint-collection-docs", "--plugin-docs", "."], tree, **variables)
        print(output, end="")
        if arguments.documentation:
            return int(code != 0)
        (place / "importer.cfg").write_text(IMPORTER, encoding="utf-8")
        # The importer's ansible-lint looks for collections in the importer's own directory, and where Python does.
        variables |= {"GALAXY_IMPORTER_CONFIG": str(place / "importer.cfg"), "PYTHONPATH": str(place)}
        imported, output = run([PROGRAMS / "python", "-m", "galaxy_importer.main", built], place, **variables)
        print(output, end="")
    return int(code != 0 or imported != 0 or re.search(r"\b(WARNING|ERROR)\b", ACCEPTED.sub("", output)) is not None)


if __name__ == "__main__":
    sys.exit(main())
