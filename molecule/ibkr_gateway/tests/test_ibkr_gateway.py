"""The simulated gateway: its TLS, and its API as a client library for IBKR's gateway uses it."""

from __future__ import annotations

import json
from pathlib import Path

from client_programs import run_client
from stack_under_test import Stack
from test_applications import (  # noqa: F401
    gateway_certificate,
    test_gateway_says_that_it_is_simulated,
    test_gateway_speaks_verified_tls,
)


def test_ibind(stack: Stack, gateway_certificate: Path) -> None:  # noqa: F811
    """Certificate verified, session, contract and daily bars."""
    said = run_client(
        "simulator", "ibind_client.py", url=stack.url("ibkr_gateway", "/v1/api/", "https"), ca=gateway_certificate
    )
    found = json.loads(said)
    assert found["healthy"] is True and found["authenticated"] is True
    assert found["accounts"] == ["DU0000001"]
    assert found["conid"] == 265598
    assert found["first_bar"] == "20000301-14:30:00" and found["bars"] == 964


def test_ibind_without_the_certificate(stack: Stack) -> None:
    """A client that trusts only public authorities does not talk to it."""
    url = stack.url("ibkr_gateway", "/v1/api/", "https")
    assert "CERTIFICATE_VERIFY_FAILED" in run_client("simulator", "ibind_client.py", url=url, fails=True)
