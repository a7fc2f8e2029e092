"""Imports every DAG of the configured folder, as the DAG processor would, in a place without network and database.

Prints, as its last line, a JSON object: ``broken``, relative path to error of the files that cannot be imported, and
``unknown``, the same of those of which this cannot be said here. They ask for a variable or a connection while they are
imported, which only the running Airflow has, and what failed may have failed for want of it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

# Airflow reads its settings when it is imported.
os.environ["AIRFLOW__SECRETS__BACKEND"] = "import_dags.NothingKnown"
os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "CRITICAL"

from airflow.secrets import BaseSecretsBackend

# No value of a variable would help against these.
HOPELESS = re.compile(r"^(SyntaxError|IndentationError|TabError|NameError|ImportError|ModuleNotFoundError)\b")
LAST_LINE = re.compile(r"^[A-Za-z_][\w.]*(: .*)?$")

#: DAG file to what it asked for while it was imported.
asked: dict[str, list[str]] = {}


class NothingKnown(BaseSecretsBackend):
    """Backend of secrets that knows none, and remembers which DAG file asked for which."""

    def get_variable(self, key: str, **_: Any) -> None:
        """Remember that the variable was asked for."""
        remember(f'the variable "{key}"')

    def get_connection(self, conn_id: str, **_: Any) -> None:
        """Remember that the connection was asked for."""
        remember(f'the connection "{conn_id}"')


def remember(what: str) -> None:
    """Note it for the DAG file that is being imported: of those on the stack the outermost, as it may import others."""
    folder = os.environ["AIRFLOW__CORE__DAGS_FOLDER"]
    frame, path = sys._getframe(), None
    while frame:
        if frame.f_code.co_filename.startswith(f"{folder}/"):
            path = frame.f_code.co_filename
        frame = frame.f_back
    if path and what not in asked.setdefault(path, []):
        asked[path].append(what)


def needs_running_airflow(path: str, error: str) -> bool:
    """Whether a file may import well where its variables and connections are known.

    Args:
        path: The file.
        error: Its traceback; the last line that has the form of one says which exception it was.
    """
    last = [line for line in error.splitlines() if LAST_LINE.match(line)][-1:]
    return bool(asked.get(path)) and not any(HOPELESS.match(line) for line in last)


def main() -> int:
    """Import, and report."""
    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.models.dagcode import DagCode

    folder = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    report: dict[str, dict[str, str]] = {"broken": {}, "unknown": {}}
    # As the DAG processor does, this one lets files import what lies beside them.
    bag = BundleDagBag(str(folder), bundle_path=folder, bundle_name="dags-folder")
    for name, error in sorted(bag.import_errors.items()):
        path = str(folder / name)
        if needs_running_airflow(path, error):
            report["unknown"][name] = f"asks for {', '.join(asked[path])}\n{error}"
        else:
            report["broken"][name] = error
    for dag in bag.dags.values():
        try:
            # Airflow keeps the text of a DAG's file, and has an import error where it cannot read it.
            DagCode.get_code_from_file(dag.fileloc)
        except UnicodeDecodeError as error:
            name = str(Path(dag.fileloc).relative_to(folder))
            report["broken"][name] = f"Airflow reads the file of a DAG as UTF-8 only: {error}. Save it in UTF-8."
    print(f"\n{json.dumps(report)}", flush=True)
    return 0


if __name__ == "__main__":
    # The backend of secrets is imported by its module's name: both must be the same module.
    import import_dags

    sys.exit(import_dags.main())
