"""A headless Chromium that keeps a picture of each page and notes every request that leaves the stack."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, Response, Route, expect, sync_playwright

INTEGRATION = Path(__file__).parents[1] / "integration"
sys.path.insert(0, str(INTEGRATION))
from integration_fixtures import airflow, dag_run, stack  # noqa: E402, F401
from stack_under_test import PUBLIC_NAME, REPOSITORY  # noqa: E402

SCREENSHOTS = REPOSITORY / "artifacts" / "screenshots"
CHROMIUM = "/usr/bin/chromium"
OWN_HOSTS = ("localhost", "127.0.0.1", PUBLIC_NAME)
# Two busy cores; a page that is there is not waited for.
expect.set_options(timeout=30_000)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The browser of this machine; each page is opened in a profile of its own."""
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"]
        flags.append(f"--host-resolver-rules=MAP {PUBLIC_NAME} 127.0.0.1")
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: Browser, request: pytest.FixtureRequest) -> Callable[..., object]:
    """``with visit("name", http_credentials=…) as page``: at the end, also of a failure, a picture is kept.

    Requests to hosts outside the stack are blocked, and they, as well as errors of the page's server, fail the test.
    """

    @contextmanager
    def opened(name: str, **options: object) -> Iterator[Page]:
        context = browser.new_context(viewport={"width": 1440, "height": 1000}, ignore_https_errors=True, **options)
        context.set_default_timeout(60_000)
        strangers: list[str] = []
        broken: list[str] = []

        def guard(route: Route, asked: Request) -> None:
            if urlsplit(asked.url).hostname in OWN_HOSTS:
                route.continue_()
            else:
                strangers.append(asked.url)
                route.abort()

        def note(answer: Response) -> None:
            if answer.status >= 500:
                broken.append(f"{answer.status} {answer.url}")

        context.route("**/*", guard)
        page = context.new_page()
        page.on("response", note)
        try:
            yield page
        finally:
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=str(SCREENSHOTS / f"{name}.png"))
            context.close()
        assert strangers == [], "the page asks hosts outside the stack"
        assert broken == [], "the page's server fails"

    return opened
