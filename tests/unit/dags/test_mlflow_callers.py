"""Who gets past the check in front of MLflow's server, in front of an application that shows what arrives."""

from __future__ import annotations

import base64
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

PROGRAM = Path(__file__).parents[3] / "roles" / "mlflow" / "files" / "image" / "callers.py"
SPEC = importlib.util.spec_from_file_location("callers", PROGRAM)
callers = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(callers)

IDENTITY = "Ab3dEf6hIj9lMn2pQr5tUv8xYz1aBc4e"
HEADER = f"X-Edge-{IDENTITY}"
TOKENS = {"airflow": "token-of-airflow", "backend": "token-of-backend"}


async def shown(request: Request) -> JSONResponse:
    """Answer with the headers."""
    return JSONResponse(dict(request.headers))


async def socket(socket: WebSocket) -> None:
    """Take everybody."""
    await socket.accept()
    await socket.close()


APP = Starlette(
    routes=[WebSocketRoute("/socket", socket), Route("/{path:path}", shown, methods=["GET", "POST", "PUT"])]
)


def client(peer: str = "172.20.0.9", app: Any = None) -> TestClient:
    """A client at an address, of the server behind the check."""
    return TestClient(app or callers.KnownCallers(APP, IDENTITY, TOKENS), client=(peer, 1))


def basic(password: str) -> dict[str, str]:
    """As a client with a user and a password sends them."""
    return {"Authorization": f"Basic {base64.b64encode(f'user:{password}'.encode()).decode()}"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Edge-User": "anna"},
        {HEADER[:-1]: "anna"},
        {f"{HEADER}x": "anna"},
        {f"{HEADER}-Role": "admin"},
        {HEADER: ""},
        {"X-Forwarded-For": "127.0.0.1"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer token-of-airflo"},
        {"Authorization": "Bearer stk_of_the_edge"},
        {"Authorization": "token-of-airflow"},
        {"Authorization": "Digest token-of-airflow"},
        {"Authorization": "Basic token-of-airflow"},
        {"Authorization": "Basic !"},
        basic("token-of-airflo"),
        basic(""),
    ],
)
@pytest.mark.parametrize("path", ["/", "/health", "/version", "/api/2.0/mlflow/runs/search"])
def test_who_is_unknown_is_refused(headers: dict[str, str], path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
        answer = client().request(method, path, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert method == "HEAD" or answer.json()["error_code"] == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    "headers",
    [
        {HEADER: "anna"},
        {HEADER.lower(): "anna"},
        *({"Authorization": f"Bearer {token}"} for token in TOKENS.values()),
        {"Authorization": "bearer token-of-backend"},
        basic("token-of-airflow"),
    ],
)
def test_known_callers_are_answered_and_no_secret_goes_on(headers: dict[str, str]) -> None:
    """MLflow's gateway sends what it gets to providers of models."""
    answer = client().get("/version", headers=headers | {f"{HEADER}-Role": "admin", "X-Other": "kept"})
    assert answer.status_code == 200 and answer.json()["x-other"] == "kept"
    assert not [name for name in answer.json() if name.startswith("x-edge-") or name == "authorization"]


def test_a_websocket_is_for_known_callers_too() -> None:
    with pytest.raises(WebSocketDisconnect), client().websocket_connect("/socket"):
        pass
    with client().websocket_connect("/socket", headers={HEADER: "anna"}):
        pass


def test_the_containers_own_probe_gets_its_health_alone() -> None:
    """From the container itself, at exactly that path."""
    for peer in ("127.0.0.1", "::1"):
        assert client(peer).get("/health").status_code == 200
        assert client(peer).get("/version").status_code == 401
        assert client(peer).get("/health/../version").status_code == 401


def test_a_server_without_an_edge_is_as_ever(tmp_path: Path) -> None:
    assert callers.guarded(APP, {}) is APP


def test_a_server_that_lacks_a_secret_does_not_start(tmp_path: Path) -> None:
    """An open one would be worse."""
    identity, tokens, empty = (tmp_path / name for name in ("identity", "tokens", "empty"))
    identity.write_text(f"{IDENTITY}\n")
    tokens.write_text(json.dumps(TOKENS))
    empty.write_text("\n")
    whole = {"EDGE_IDENTITY_FILE": str(identity), "CLIENT_TOKENS_FILE": str(tokens)}
    assert client(app=callers.guarded(APP, whole)).get("/", headers={HEADER: "anna"}).status_code == 200
    for name, path in (
        ("EDGE_IDENTITY_FILE", empty),
        ("EDGE_IDENTITY_FILE", tmp_path / "missing"),
        ("CLIENT_TOKENS_FILE", empty),
        ("CLIENT_TOKENS_FILE", tmp_path / "missing"),
    ):
        with pytest.raises((OSError, ValueError)):
            callers.guarded(APP, whole | {name: str(path)})
    for name in whole:
        with pytest.raises(KeyError):
            callers.guarded(APP, {name: whole[name]})
    tokens.write_text(json.dumps(TOKENS | {"backend": ""}))
    with pytest.raises(ValueError, match="empty"):
        callers.guarded(APP, whole)
