"""The edge, from outside."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from front_door import DOMAIN, Door
from playwright.sync_api import Browser, sync_playwright
from stack_under_test import Stack

CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="session")
def door(stack: Stack) -> Door:
    """Of the scenario's stack."""
    return Door(stack)


@pytest.fixture(scope="session")
def browser(stack: Stack) -> Iterator[Browser]:
    """That of this machine, which finds the domain's names on the test host."""
    rules = f"MAP *.{DOMAIN} {stack.address}, MAP {DOMAIN} {stack.address}"
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[*flags, f"--host-resolver-rules={rules}"],
            env=dict(os.environ),
        )
        yield launched
        launched.close()
