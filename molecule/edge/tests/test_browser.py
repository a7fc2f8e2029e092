"""The edge in a real browser, from a fresh profile."""

from __future__ import annotations

import re

import pytest
from front_door import DOMAIN, ROLES, Door
from playwright.sync_api import Browser, Page, expect

# Two busy cores; a page that is there is not waited for.
expect.set_options(timeout=60_000)


def fresh(browser: Browser) -> Page:
    """A page in a profile of its own."""
    page = browser.new_context(ignore_https_errors=True).new_page()
    page.set_default_timeout(120_000)
    return page


def log_in(page: Page, door: Door, user: str) -> None:
    """Fill in the form that is shown."""
    page.get_by_label("User").fill(user)
    page.get_by_label("Password").fill(door.password(user))
    page.get_by_role("button", name="Log in").click()


@pytest.mark.parametrize("user", ["admin", "vera"])
def test_one_login_and_no_second_one(browser: Browser, door: Door, user: str) -> None:
    """The start page leads to every page that the role may open; logging out closes all of them."""
    page = fresh(browser)
    page.goto(f"https://mlflow.{DOMAIN}/?from=a-link")
    log_in(page, door, user)
    page.wait_for_url(re.compile(rf"https://mlflow\.{DOMAIN}/\?from=a-link.*"))
    page.goto(f"https://{DOMAIN}/")
    expect(page.get_by_text(f"You are logged in as {user} ({ROLES[user]}).")).to_be_visible()
    links = {
        link.inner_text(): link.get_attribute("href") for link in page.get_by_role("listitem").get_by_role("link").all()
    }
    expected = {each["title"]: each["url"] for each in door.pages.values() if ROLES[user] in each["roles"]}
    assert links == expected
    for title, address in links.items():
        answer = page.goto(address)
        assert answer and answer.status == 200 and "/.edge/" not in page.url, title
    page.goto(f"https://{DOMAIN}/.edge/")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_text("You are logged out of all pages.")).to_be_visible()
    for address in links.values():
        page.goto(address)
        expect(page.get_by_role("button", name="Log in")).to_be_visible()


def test_a_page_that_is_not_for_ones_role(browser: Browser, door: Door) -> None:
    """Says so, and leads to those that are."""
    page = fresh(browser)
    page.goto(f"https://gateway.{DOMAIN}/")
    log_in(page, door, "vera")
    expect(page.get_by_role("alert")).to_contain_text("The role viewer does not open IBKR gateway")
    page.get_by_role("link", name="Pages that you may open").click()
    expect(page.get_by_role("link", name="MLflow")).to_be_visible()


def test_a_wrong_password(browser: Browser, door: Door) -> None:
    """Leads back to the form, and from there to where one wanted to go."""
    page = fresh(browser)
    page.goto(f"https://mlflow.{DOMAIN}/#/experiments")
    page.get_by_label("User").fill("rob")
    page.get_by_label("Password").fill("wrong password")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("Wrong user or password.")
    log_in(page, door, "rob")
    page.wait_for_url(f"https://mlflow.{DOMAIN}/**")
    expect(page.get_by_text("Experiments").first).to_be_visible()
