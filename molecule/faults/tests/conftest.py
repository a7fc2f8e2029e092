"""Fixtures of the faults."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from faulted_stack import airflow, kept, nothing_lost, site, stack  # noqa: F401
