"""Files that a part of the collection and an application, which runs without it, both hold: the same to the byte."""

from __future__ import annotations

import pytest
from collection_under_test import REPOSITORY

COPIES = {
    "roles/backend/files/runtime/check_queues.py": "apps/backend/ibkr_backend/check_queues.py",
    "plugins/module_utils/gateway_status.py": "apps/backend/ibkr_backend/gateway_status.py",
}


@pytest.mark.parametrize(("source", "copy"), COPIES.items())
def test_a_copy_is_the_same(source: str, copy: str) -> None:
    assert (REPOSITORY / source).read_bytes() == (REPOSITORY / copy).read_bytes(), f"copy {source} to {copy}"
