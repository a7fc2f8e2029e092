"""Imports every DAG of the configured folder, as the DAG processor would, and says what fails; exit code 1 then."""

from __future__ import annotations

import sys


def main() -> int:
    """Import, and print one paragraph for each file that fails."""
    from airflow.configuration import conf
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(conf.get("core", "dags_folder"))
    for path, error in sorted(bag.import_errors.items()):
        print(f"{path}:\n{error}")
    return 1 if bag.import_errors else 0


if __name__ == "__main__":
    sys.exit(main())
