"""The gateway's three states, by what it answers: only silence and errors of the server mean that IBKR is away."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from fake_ibkr import FakeIbkr
from ibkr_backend.gateway import Gateway


@dataclass
class Refusing(FakeIbkr):
    """Answers requests of the API with a status and words of its own."""

    status: int = 200
    said: object = field(default_factory=lambda: {"error": "said by the gateway"})

    def answer(self, path: str) -> tuple[int, object]:
        """Its front page is as ever."""
        return (302, {}) if path == "/" else (self.status, self.said)


@pytest.fixture
def ibkr() -> Refusing:
    """In place of the one that answers."""
    return Refusing()


@pytest.mark.parametrize(
    ("status", "reachable", "logged_in", "reason"),
    [
        (401, True, False, "nobody is logged in"),
        (403, None, None, "the gateway refuses this host (HTTP 403)"),
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


@pytest.mark.parametrize(
    ("answer", "logged_in", "reason"),
    [
        ({"authenticated": True, "connected": True}, True, "logged in"),
        ({"authenticated": True}, True, "logged in"),
        ({"authenticated": True, "connected": False}, False, "nobody is logged in"),
        ({"authenticated": False, "message": "said by IBKR"}, False, "said by IBKR"),
        ({"authenticated": False, "competing": True}, False, "another session of this user has taken over"),
        ({"connected": True}, None, "the login status cannot be read: HTTP 200"),
        ([], None, "the login status cannot be read: HTTP 200"),
    ],
)
def test_state_by_what_the_answer_says(
    gateway: Gateway,
    ibkr: Refusing,
    answer: object,
    logged_in: bool | None,
    reason: str,
) -> None:
    """The second session of a user was taken for nobody's."""
    ibkr.said = answer
    found = gateway.state()
    assert (found.ibkr_reachable, found.logged_in, found.reason) == (
        None if logged_in is None else True,
        logged_in,
        reason,
    )
