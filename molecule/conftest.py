"""Fixtures of the scenarios' tests: those of the tests on a running stack, which here runs on a test host."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "tests" / "integration"), str(HERE / "shared" / "clients")]
from integration_fixtures import airflow, containers, stack  # noqa: E402, F401
