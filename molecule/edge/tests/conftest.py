"""The edge, from outside."""

from __future__ import annotations

import pytest
from front_door import Door
from stack_under_test import Stack


@pytest.fixture(scope="session")
def door(stack: Stack) -> Door:
    """Of the scenario's stack."""
    return Door(stack)
