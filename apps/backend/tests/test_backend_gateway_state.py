"""The gateway's three states, by what it answers: only silence and errors of the server mean that IBKR is away."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from fake_ibkr import FakeIbkr
from ibkr_backend.gateway import Gateway


@dataclass
class Refusing(FakeIbkr):
    """Answers requests of the API with a status of its own."""

    status: int = 200

    def answer(self, path: str) -> tuple[int, object]:
        """Its front page is as ever."""
        return (302, {}) if path == "/" else (self.status, {"error": "said by the gateway"})


@pytest.fixture
def ibkr() -> Refusing:
    """In place of the one that answers."""
    return Refusing()


@pytest.mark.parametrize(
    ("status", "reachable", "logged_in", "reason"),
    [
        (401, True, False, "nobody is logged in"),
        (403, None, None, "the gateway refuses this host (HTTP 403): ibkr_gateway_allowed_addresses"),
        (404, None, None, "the login status cannot be read: HTTP 404"),
        (429, None, None, "the login status cannot be read: HTTP 429"),
        (500, False, None, "IBKR cannot be reached: HTTP 500"),
        (503, False, None, "IBKR cannot be reached: HTTP 503"),
    ],
)
def test_state_by_the_status_of_the_answer(
    gateway: Gateway, ibkr: Refusing, status: int, reachable: bool | None, logged_in: bool | None, reason: str
) -> None:
    """As `make status` tells them, from the same answers."""
    ibkr.status = status
    found = gateway.state()
    assert (found.up, found.ibkr_reachable, found.logged_in, found.reason) == (True, reachable, logged_in, reason)
