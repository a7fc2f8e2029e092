"""Fixtures of the tests on the running stack."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from integration_fixtures import airflow, containers, dag_run, stack  # noqa: F401
