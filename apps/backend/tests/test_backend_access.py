"""Who is let in: the API token, the page's login, its sessions and forms."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from conftest import AUTHORISED, PASSWORD, TOKEN
from fastapi.testclient import TestClient
from ibkr_backend import auth, guard
from ibkr_backend.api import create_app
from ibkr_backend.settings import ApiSettings


@pytest.fixture
def client(settings: ApiSettings) -> TestClient:
    return TestClient(create_app(settings), follow_redirects=False)


def log_in(client: TestClient, password: str = PASSWORD, user: str = "trader") -> int:
    return client.post("/login", data={"user": user, "password": password}).status_code


@pytest.mark.parametrize(("charset", "user"), [("unicode_escape", rb"\ud800"), ("utf-7", b"+2AA-")])
def test_a_form_in_an_encoding_of_its_own(client: TestClient, charset: str, user: bytes) -> None:
    """A lone surrogate has no form in UTF-8."""
    fields = {b"user": user, b"password": user}
    form = b"".join(
        b'--B\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % field for field in fields.items()
    )
    headers = {"Content-Type": f"multipart/form-data; boundary=B; charset={charset}"}
    assert client.post("/login", content=form + b"--B--\r\n", headers=headers).status_code == 401


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


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> float:
    """Let a wrong password cost less than the second that it costs in earnest; returns how much."""
    monkeypatch.setattr(auth, "GUESS_SECONDS", 0.05)
    return 0.05


@asynccontextmanager
async def visitors(settings: ApiSettings) -> AsyncIterator[Callable[..., Awaitable[httpx.Response]]]:
    """Attempts to log in that run beside each other, each in a browser of its own but for ``cookies``."""
    transport = httpx.ASGITransport(create_app(settings))

    async def attempt(password: str, cookies: dict[str, str] | None = None) -> httpx.Response:
        client = httpx.AsyncClient(transport=transport, base_url="http://stack", cookies=cookies, verify=False)
        return await client.post("/login", data={"user": "trader", "password": password})

    yield attempt


@pytest.mark.usefixtures("quick")
def test_wrong_passwords_of_others_keep_nobody_out(client: TestClient) -> None:
    assert [log_in(client, "wrong") for _ in range(30)] == [401] * 30
    assert log_in(client) == 303
    assert client.get("/").status_code == 200


def test_guesses_are_few_however_many_ask_at_once(settings: ApiSettings, quick: float) -> None:
    """Those who find no place are refused without a look at their password, the right one too: it tells nothing."""

    async def run() -> None:
        async with visitors(settings) as attempt:
            began = time.monotonic()
            passwords = ["wrong"] * (auth.WAITING + 10) + [PASSWORD]
            answers = await asyncio.gather(*map(attempt, passwords))
            seconds = time.monotonic() - began
            codes = [answer.status_code for answer in answers]
            assert codes == [401] * auth.WAITING + [429] * 11
            assert seconds >= auth.WAITING * quick
            assert 0 < int(answers[-1].headers["retry-after"]) <= auth.WAITING
            assert answers[-1].cookies.get("IBKR_stack_session") is None
            # The crowd is gone, and left nothing behind.
            assert (await attempt(PASSWORD)).status_code == 303

    asyncio.run(run())


@pytest.mark.usefixtures("quick")
def test_the_right_password_waits_for_its_turn(settings: ApiSettings) -> None:
    async def run() -> None:
        async with visitors(settings) as attempt:
            answers = await asyncio.gather(*map(attempt, ["wrong"] * 5 + [PASSWORD] + ["wrong"] * 5))
            assert [answer.status_code for answer in answers] == [401] * 5 + [303] + [401] * 5

    asyncio.run(run())


def test_a_browser_that_was_logged_in_does_not_wait_behind_strangers(
    settings: ApiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "GUESS_SECONDS", 3600)

    async def run() -> None:
        async with visitors(settings) as attempt:
            cookies = dict((await attempt(PASSWORD)).cookies)
            known = {name: value for name, value in cookies.items() if name.endswith("_known")}
            assert known and set(cookies) - set(known) == {"IBKR_stack_session"}
            forged = {name: value[:-1] + ("0" if value[-1] != "0" else "1") for name, value in known.items()}
            # One after the other takes its place, and stays.
            strangers = [asyncio.create_task(attempt("wrong", forged)) for _ in range(auth.WAITING + 1)]
            refused, waiting = await asyncio.wait(strangers, return_when=asyncio.FIRST_COMPLETED)
            assert [task.result().status_code for task in refused] == [429] and len(waiting) == auth.WAITING
            for cookies in ({}, forged):
                assert (await attempt(PASSWORD, cookies)).status_code == 429
            assert (await attempt(PASSWORD, known)).status_code == 303
            # Its guesses are as few as anybody's.
            own = [asyncio.create_task(attempt("wrong", known)) for _ in range(auth.WAITING + 1)]
            refused, guesses = await asyncio.wait(own, return_when=asyncio.FIRST_COMPLETED)
            assert [task.result().status_code for task in refused] == [429]
            for task in waiting | guesses:
                task.cancel()
            await asyncio.wait(waiting | guesses)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_the_mark_of_a_known_browser_is_no_session(client: TestClient) -> None:
    log_in(client)
    known = client.cookies["IBKR_stack_known"]
    client.cookies.clear()
    client.cookies.set("IBKR_stack_session", known)
    assert client.get("/").status_code == 303


def foreign(**headers: str) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.mark.parametrize(
    "headers",
    [
        foreign(sec_fetch_site="cross-site", origin="https://evil.example"),
        # Another program on this host, at another port.
        foreign(sec_fetch_site="same-site", origin="http://testserver:5500"),
        foreign(origin="http://testserver:5500"),
        foreign(origin="https://evil.example"),
        foreign(origin="null"),
        foreign(origin="http://[broken"),
        foreign(origin="http://testserver.evil.example"),
        foreign(origin="https://evil.example", x_forwarded_host="stack.example"),
    ],
)
@pytest.mark.parametrize("path", ["/login", "/logout", "/train"])
def test_a_form_of_another_site_is_refused(
    environment: dict[str, str], http_url: str, path: str, headers: dict[str, str]
) -> None:
    """With the right password, and with a session and its form's token too."""
    airflow = {"AIRFLOW_URL": http_url, "AIRFLOW_PASSWORD": "p"}
    client = TestClient(create_app(ApiSettings.load(environment | airflow)), follow_redirects=False)
    form = {"user": "trader", "password": PASSWORD, "symbol": "AAPL"}
    answer = client.post(path, data=form, headers=headers)
    assert answer.status_code == 403 and "page of another site" in answer.text
    assert "set-cookie" not in answer.headers and answer.headers["content-security-policy"]
    log_in(client)
    token = re.search(r'name="token" value="([^"]+)"', client.get("/").text)[1]  # type: ignore[index]
    assert client.post(path, data=form | {"token": token}, headers=headers).status_code == 403
    assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        foreign(sec_fetch_site="same-origin", origin="http://testserver"),
        # The page under a public name, by a proxy that keeps the name, tells it apart, or does neither.
        foreign(host="stack.example", origin="http://stack.example"),
        foreign(host="stack.example:8000", origin="http://stack.example:8000"),
        foreign(host="stack.example:443", origin="https://stack.example"),
        foreign(host="STACK.example", origin="https://stack.example"),
        foreign(host="backend:8000", x_forwarded_host="stack.example", origin="http://stack.example"),
        foreign(host="backend:8000", sec_fetch_site="same-origin", origin="https://stack.example"),
        foreign(host="[::1]:8000", origin="http://[::1]:8000"),
        # Programs.
        {},
    ],
)
def test_the_pages_own_form_is_taken(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.post("/login", data={"user": "trader", "password": PASSWORD}, headers=headers)
    assert answer.status_code == 303


def test_the_api_asks_for_its_token_whatever_the_origin(client: TestClient) -> None:
    """A program in front of the API may pass on the Origin of its own page."""
    headers = {"Origin": "https://dashboard.example"}
    assert client.post("/api/v1/bars/XXXX/refresh", headers=headers).status_code == 401
    assert client.post("/api/v1/bars/XXXX/refresh", headers=headers | AUTHORISED).status_code == 404


@pytest.mark.parametrize("path", ["/login", "/api/v1/bars/AAPL/refresh"])
def test_a_body_that_nothing_here_needs_is_refused(client: TestClient, path: str) -> None:
    """By its length, before it is sent."""
    answer = client.post(path, content=b"x" * (guard.BODY_BYTES + 1), headers=AUTHORISED)
    assert answer.status_code == 413 and "larger than 64 kB" in answer.text


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=b"])
def test_a_body_of_unknown_length_is_not_read_to_its_end(client: TestClient, kind: str) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' if "multi" in kind else b"f="
        while sent < 100 * guard.BODY_BYTES:
            sent += 8192
            yield b"x" * 8192

    answer = client.post("/login", content=endless(), headers={"Content-Type": kind})
    assert answer.status_code == 413 and "larger than 64 kB" in answer.text


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
    monkeypatch.setattr(time, "time", lambda: later)
    assert client.get("/").status_code == 303


def test_a_session_is_no_token(client: TestClient) -> None:
    """What a browser sends by itself must not start anything."""
    log_in(client)
    assert client.post("/api/v1/bars/AAPL/refresh").status_code == 401
