"""People of a company's OpenID Connect provider, in a real browser."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from front_door import DOMAIN, Door, bring_up, gateway
from identity_provider import CLIENT, CLIENT_SECRET, PASSWORD, IdentityProvider, mail
from playwright.sync_api import Browser, Page, expect
from stack_under_test import Stack
from test_browser import fresh, log_in
from test_certificates import write_certificate

#: Who of the provider's people is what here.
ROLES = {"trader": {"groups": ["desk"]}, "viewer": {"users": [mail("boss")]}}


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IdentityProvider]:
    """The provider, which the edge knows until the end of these tests."""
    directory = tmp_path_factory.mktemp("provider")
    address = gateway()
    certificate, key, _number = write_certificate(directory, 100, [ipaddress.ip_address(address)])
    found = IdentityProvider(directory, address, certificate, key)
    found.start()
    settings = directory / "variables.json"
    settings.write_text(
        json.dumps(
            {
                "edge_oidc_issuer": found.issuer,
                "edge_oidc_client_id": CLIENT,
                "edge_oidc_client_secret": CLIENT_SECRET,
                "edge_oidc_roles": ROLES,
                "edge_oidc_ca": str(certificate),
            }
        )
    )
    said = bring_up(f"--extra-vars=@{settings}", "--diff")
    assert CLIENT_SECRET not in said
    yield found
    found.stop()
    bring_up()


def log_in_there(page: Page, provider: IdentityProvider, person: str) -> None:
    """Go to the provider, and fill in its forms."""
    page.get_by_role("link", name=f"Log in at {provider.place}").click()
    page.get_by_label("Login").fill(person)
    page.get_by_role("button", name="Continue").click()
    page.locator("input[type=password]").fill(PASSWORD)
    page.locator("button[type=submit]").first.click()


def test_a_person_of_the_provider(browser: Browser, door: Door, provider: IdentityProvider, stack: Stack) -> None:
    """Comes back to where they wanted to go, in the role of their group, and logs out of everything here."""
    page = fresh(browser)
    page.goto(f"https://mlflow.{DOMAIN}/?from=a-link")
    log_in_there(page, provider, "anna")
    page.wait_for_url(re.compile(rf"https://mlflow\.{DOMAIN}/\?from=a-link.*"))
    page.goto(f"https://{DOMAIN}/")
    expect(page.get_by_text(f"You are logged in as {mail('anna')} (trader).")).to_be_visible()
    for name, status in {"mlflow": 200, "gateway": 200, "flower": 403}.items():
        answer = page.goto(f"https://{name}.{DOMAIN}/")
        assert answer and answer.status == status, name
    [cookie] = [each["value"] for each in page.context.cookies() if each["name"] == "edge-molecule"]
    assert door.ask("mlflow", "/edge-nowhere", Cookie=f"edge-molecule={cookie}").error == ""
    page.goto(f"https://{DOMAIN}/.edge/")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_text("You are logged out of all pages.")).to_be_visible()
    assert door.ask("mlflow", "/edge-nowhere", Cookie=f"edge-molecule={cookie}").status == 401
    # With the code of a login, and by the log, nobody else gets in.
    everything = stack.log("edge") + stack.log("edge-gate")
    assert "/.edge/oidc/callback" in everything
    assert not re.search(r"callback\?[^\"]*(code|state)=", everything) and CLIENT_SECRET not in everything


def test_who_is_nobody_here(browser: Browser, provider: IdentityProvider) -> None:
    """Is told so, and may log in there as somebody else."""
    page = fresh(browser)
    page.goto(f"https://mlflow.{DOMAIN}/")
    log_in_there(page, provider, "nora")
    expect(page.get_by_role("alert")).to_contain_text(
        f"You are logged in at {provider.place} as {mail('nora')}, who has no role here."
    )
    page.goto(f"https://mlflow.{DOMAIN}/")
    expect(page.get_by_role("button", name="Log in")).to_be_visible()


def test_users_of_the_inventory_are_there_too(browser: Browser, door: Door, provider: IdentityProvider) -> None:
    """By the form below the way to the provider."""
    page = fresh(browser)
    page.goto(f"https://{DOMAIN}/")
    expect(page.get_by_role("link", name=f"Log in at {provider.place}")).to_be_visible()
    log_in(page, door, "rob")
    expect(page.get_by_text("You are logged in as rob (researcher).")).to_be_visible()


def test_the_provider_is_away(browser: Browser, door: Door, provider: IdentityProvider) -> None:
    """Who is logged in stays so, others are told, and it goes on when it is back."""
    page, late = fresh(browser), fresh(browser)
    page.goto(f"https://mlflow.{DOMAIN}/")
    log_in_there(page, provider, "anna")
    page.wait_for_url(f"https://mlflow.{DOMAIN}/**")
    provider.stop()
    try:
        answer = page.goto(f"https://mlflow.{DOMAIN}/version")
        assert answer and answer.status == 200
        late.goto(f"https://mlflow.{DOMAIN}/")
        # For a few seconds it is not asked again.
        late.wait_for_timeout(11_000)
        late.get_by_role("link", name=f"Log in at {provider.place}").click()
        expect(late.get_by_role("alert")).to_have_text(
            f"{provider.place} cannot be reached. Who is logged in stays so; try again in a while."
        )
        expect(late.get_by_role("button", name="Log in")).to_be_visible()
    finally:
        provider.start()
    log_in_there(late, provider, "boss")
    late.wait_for_url(f"https://{DOMAIN}/.edge/")
    expect(late.get_by_text(f"You are logged in as {mail('boss')} (viewer).")).to_be_visible()


def test_tokens_are_for_those_whom_the_inventory_names(door: Door, provider: IdentityProvider) -> None:
    """By their address. Who is in a group is known only when they log in."""
    token = door.gate("token", "add", mail("boss"), "laptop", "1").strip()
    try:
        header = {"Authorization": f"Bearer {token}"}
        assert door.ask("mlflow", "/edge-nowhere", **header).error == ""
        assert "The role viewer" in door.ask("mlflow", "/edge-nowhere", "POST", **header).error
    finally:
        door.gate("token", "revoke", mail("boss"), "laptop")
    assert "does not exist" in door.gate("token", "add", mail("anna"), "laptop", "1", status=1)


def test_a_login_that_was_begun_elsewhere(door: Door, provider: IdentityProvider) -> None:
    """Ends nowhere: neither with a link that somebody was sent, nor for a stranger's site."""
    sent = door.ask("", "/.edge/oidc/callback?code=x&state=y", Accept="text/html")
    assert sent.status == 400 and b"was begun in another window" in sent.body
    begun = door.ask("", "/.edge/oidc/begin?page=mlflow&next=https://evil.example/")
    assert begun.status == 303 and begun.headers["Location"].startswith(f"{provider.issuer}/oauth/authorize?")
    assert "code_challenge_method=S256" in begun.headers["Location"] and "nonce=" in begun.headers["Location"]


def test_a_provider_that_cannot_be_changes_nothing(door: Door, provider: IdentityProvider, tmp_path: Path) -> None:
    """The variable is named, and people of the one before are let in."""
    said = bring_up("--extra-vars=edge_oidc_issuer=http://company.example", status=2)
    assert "edge_oidc_issuer is set, and edge_oidc_client_id is not" in " ".join(said.split())
    assert door.ask("", "/.edge/oidc/begin").status == 303
