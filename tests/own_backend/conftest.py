"""Fixtures of the tests on the example of an application of one's own."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from integration_fixtures import stack  # noqa: F401
