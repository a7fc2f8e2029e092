"""Who is let in: the API token, the page's login, its sessions and forms."""

import re
import time

import pytest
from conftest import AUTHORISED, PASSWORD, TOKEN
from fastapi.testclient import TestClient
from ibkr_backend import auth
from ibkr_backend.api import create_app
from ibkr_backend.settings import ApiSettings


@pytest.fixture
def client(settings: ApiSettings) -> TestClient:
    return TestClient(create_app(settings), follow_redirects=False)


def log_in(client: TestClient, password: str = PASSWORD, user: str = "trader") -> int:
    return client.post("/login", data={"user": user, "password": password}).status_code


def test_every_operation_of_the_api_asks_for_the_token(client: TestClient) -> None:
    operations = [
        (method, path.replace("{symbol}", "AAPL").replace("{account_id}", "DU0000001"))
        for path, methods in client.get("/openapi.json").json()["paths"].items()
        for method in methods
        if path.startswith("/api/")
    ]
    assert len(operations) >= 8
    for method, path in operations:
        for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": f"Basic {TOKEN}"}):
            answer = client.request(method, path, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
        assert client.request(method, path, headers=AUTHORISED).status_code != 401


def test_health_ready_and_metrics_are_open_and_tell_no_secret(client: TestClient) -> None:
    for path in ("/health", "/ready", "/metrics"):
        answer = client.get(path)
        assert answer.status_code == 200
        for secret in (TOKEN, PASSWORD, "top-secret"):
            assert secret not in answer.text


def test_the_page_sends_to_the_login(client: TestClient) -> None:
    answer = client.get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert "Log in" in client.get("/login").text


def test_a_session_begins_with_the_password_and_ends_with_the_logout(client: TestClient) -> None:
    answer = client.post("/login", data={"user": "trader", "password": PASSWORD})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and cookie.startswith("IBKR_stack_session=")
    page = client.get("/")
    assert page.status_code == 200
    token = re.search(r'name="token" value="([^"]+)"', page.text)[1]  # type: ignore[index]
    client.post("/logout", data={"token": "wrong"})
    assert client.get("/").status_code == 200
    client.post("/logout", data={"token": token})
    assert client.get("/").status_code == 303


@pytest.mark.parametrize(("user", "password"), [("trader", "wrong"), ("admin", PASSWORD), ("", ""), ("trader", "")])
def test_a_wrong_login_is_refused(client: TestClient, user: str, password: str) -> None:
    assert log_in(client, password, user) == 401
    assert client.get("/").status_code == 303


def test_many_wrong_passwords_bring_a_wait_for_the_right_one_too(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [log_in(client, "wrong") for _ in range(auth.FAILURES)] == [401] * auth.FAILURES
    answer = client.post("/login", data={"user": "trader", "password": PASSWORD})
    assert answer.status_code == 429 and 0 < int(answer.headers["retry-after"]) <= auth.FAILURE_SECONDS + 1
    later = time.monotonic() + auth.FAILURE_SECONDS + 1
    monkeypatch.setattr(auth.time, "monotonic", lambda: later)
    assert log_in(client) == 303


@pytest.mark.parametrize("part", range(3))
def test_a_forged_session_is_refused(client: TestClient, part: int) -> None:
    log_in(client)
    name, value = next(iter(client.cookies.items()))
    parts = value.split(".")
    parts[part] = parts[part][:-1] + ("1" if parts[part][-1] != "1" else "2")
    client.cookies.clear()
    client.cookies.set(name, ".".join(parts))
    assert client.get("/").status_code == 303


def test_an_old_session_and_one_of_another_password_are_refused(
    client: TestClient, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(client)
    other = TestClient(
        create_app(ApiSettings.load(environment | {"PAGE_PASSWORD": "another one"})),
        follow_redirects=False,
        cookies=dict(client.cookies),
    )
    assert other.get("/").status_code == 303
    later = time.time() + auth.SESSION_SECONDS + 1
    monkeypatch.setattr(auth.time, "time", lambda: later)
    assert client.get("/").status_code == 303


def test_a_session_is_no_token(client: TestClient) -> None:
    """What a browser sends by itself must not start anything."""
    log_in(client)
    assert client.post("/api/v1/bars/AAPL/refresh").status_code == 401
