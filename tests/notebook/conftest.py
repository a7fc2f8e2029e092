"""Fixtures of the tests on the examples with MLflow."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from integration_fixtures import stack  # noqa: F401
