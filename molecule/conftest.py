"""Fixtures of the scenarios' tests: those of the tests on a running stack, which here runs on a test host."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "integration"))
from integration_fixtures import airflow, containers, stack  # noqa: F401
