"""Behind the stack's edge: it says who asks, and nothing else logs anybody in."""

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import AUTHORISED, PASSWORD
from fastapi.testclient import TestClient
from ibkr_backend.api import create_app
from ibkr_backend.settings import ApiSettings, SettingsError

IDENTITY = "Ab3dEf6hIj9lMn2pQr5tUv8xYz1aBc4e"
HEADER = f"X-Edge-{IDENTITY}"
ALICE = {HEADER: "alice", f"{HEADER}-Role": "trader"}
VIEWER = {HEADER: "victor", f"{HEADER}-Role": "viewer"}


@pytest.fixture
def edge(environment: dict[str, str], http_url: str, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a backend behind the edge, with Airflow."""
    path = tmp_path / "identity"
    path.write_text(f"{IDENTITY}\n")
    airflow = {"AIRFLOW_URL": http_url, "AIRFLOW_PASSWORD": "p"}
    return environment | airflow | {"EDGE_IDENTITY_FILE": str(path)}


@pytest.fixture
def client(edge: dict[str, str]) -> TestClient:
    """Return a client that is nobody."""
    return TestClient(create_app(ApiSettings.load(edge)), follow_redirects=False)


def form_token(page: str) -> str:
    """Return what the page's forms send along."""
    return re.search(r'name="token" value="([^"]+)"', page)[1]  # type: ignore[index]


def test_a_person_of_the_edge_sees_the_page_without_a_login(client: TestClient) -> None:
    answer = client.get("/", headers=ALICE)
    assert answer.status_code == 200 and "Portfolio" in answer.text
    assert 'action="/.edge/logout"' in answer.text and 'action="/logout"' not in answer.text
    assert client.get("/login", headers=ALICE).headers["location"] == "/"
    assert not client.cookies


def test_the_page_takes_no_password_there(client: TestClient) -> None:
    answer = client.post("/login", data={"user": "trader", "password": PASSWORD})
    assert answer.status_code == 401 and "takes no password" in answer.text and "set-cookie" not in answer.headers
    assert client.get("/login").status_code == 401
    assert client.get("/").status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Edge-User": "alice", "X-Edge-User-Role": "admin"},
        {HEADER[:-1]: "alice", f"{HEADER[:-1]}-Role": "admin"},
        {f"{HEADER}x": "alice", f"{HEADER}x-Role": "admin"},
        {HEADER: "", f"{HEADER}-Role": "admin"},
        {HEADER: "alice"},
        {f"{HEADER}-Role": "admin"},
        {"X-Forwarded-User": "alice", "X-Auth-Request-User": "alice", "Remote-User": "alice"},
    ],
)
def test_a_header_that_is_not_the_edges_names_nobody(client: TestClient, headers: dict[str, str]) -> None:
    assert client.get("/", headers=headers).status_code == 303
    assert client.get("/api/v1/symbols", headers=headers).status_code == 401


def test_a_header_that_is_there_twice_names_nobody(client: TestClient) -> None:
    twice: Any = [*ALICE.items(), (HEADER, "mallory")]
    assert client.get("/", headers=twice).status_code == 303


def test_without_an_edge_the_header_means_nothing(settings: ApiSettings) -> None:
    client = TestClient(create_app(settings), follow_redirects=False)
    for headers in (ALICE, {"X-Edge-": "alice", "X-Edge--Role": "admin"}):
        assert client.get("/", headers=headers).status_code == 303
        assert client.get("/api/v1/symbols", headers=headers).status_code == 401


@pytest.mark.parametrize("secret", ["short", "s"])
def test_a_guessable_identity_is_refused(environment: dict[str, str], secret: str) -> None:
    with pytest.raises(SettingsError, match="EDGE_IDENTITY"):
        ApiSettings.load(environment | {"EDGE_IDENTITY": secret})


def test_the_api_takes_a_person_and_the_stacks_own_token(client: TestClient) -> None:
    for headers in (ALICE, AUTHORISED):
        assert client.get("/api/v1/symbols", headers=headers).status_code == 200
    assert client.post("/api/v1/bars/XXXX/refresh", headers=ALICE).status_code == 404


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_does_nothing_as_a_person(client: TestClient, site: str) -> None:
    """The edge's cookie is sent by the browser itself, also to the API, and to every port of a host."""
    foreign = ALICE | {"Sec-Fetch-Site": site, "Origin": "http://testserver:5500"}
    assert client.post("/api/v1/bars/XXXX/refresh", headers=foreign).status_code == 403
    assert client.post("/train", data={"symbol": "AAPL"}, headers=foreign).status_code == 403
    # A program on the stack's network with the token may still pass on such headers.
    assert client.post("/api/v1/bars/XXXX/refresh", headers=foreign | AUTHORISED).status_code == 403
    by_token = {name: value for name, value in foreign.items() if not name.startswith(HEADER)} | AUTHORISED
    assert client.post("/api/v1/bars/XXXX/refresh", headers=by_token).status_code == 404


def test_a_form_is_its_own_persons(client: TestClient) -> None:
    """The page's form works for who got it, and for nobody else."""
    mine = form_token(client.get("/", headers=ALICE).text)
    other = {HEADER: "bob", f"{HEADER}-Role": "trader"}
    assert form_token(client.get("/", headers=other).text) != mine
    form = {"symbol": "AAPL", "token": mine}
    assert client.post("/train", data=form, headers=other).status_code == 403
    assert client.post("/train", data=form | {"token": "wrong"}, headers=ALICE).status_code == 403
    # Airflow's stand-in gives no usable answer: the form was taken.
    assert client.post("/train", data=form, headers=ALICE).status_code == 502


def test_a_viewer_is_offered_nothing_that_starts_something(client: TestClient) -> None:
    page = client.get("/", headers=VIEWER).text
    assert "Training runs" in page and 'action="/train"' not in page
    token = form_token(client.get("/", headers=ALICE).text)
    assert client.post("/train", data={"symbol": "AAPL", "token": token}, headers=VIEWER).status_code == 403
