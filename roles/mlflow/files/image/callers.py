"""Refuses who is unknown, where the stack has an edge: MLflow's server itself has no login.

Two kinds of callers are known: the edge, which names a person in a header whose name is a secret of the two, and the
stack's own programs, each with a token. Everything that the server answers is behind this, whatever part of MLflow
answers it; the container's own health check alone is not.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "x-edge-"
#: What the container's health check asks, and where from.
HEALTH = "/health"
OWN = ("127.0.0.1", "::1")
MESSAGE = (
    "MLflow answers nobody who is unknown. Use its public address, with a personal token in MLFLOW_TRACKING_TOKEN"
    " or MLFLOW_TRACKING_PASSWORD."
)


def _equal(given: bytes, expected: str) -> bool:
    return hmac.compare_digest(given, expected.encode())


class KnownCallers:
    """ASGI middleware that passes on the requests of known callers only."""

    def __init__(self, app: ASGIApp, identity: str, tokens: Mapping[str, str]) -> None:
        """Hold what callers are known by.

        Args:
            app: The server.
            identity: What follows ``X-Edge-`` in the name of the edge's header.
            tokens: Program to its token.

        Raises:
            ValueError: One of them is empty, and would let everybody in.
        """
        if not identity or not all(tokens.values()):
            raise ValueError("a secret that callers are known by is empty")
        self.app = app
        self._header = f"{PREFIX}{identity.lower()}"
        self._tokens = dict(tokens)

    def known(self, scope: Scope) -> bool:
        """Say whether a request is the edge's for a person, or one of the stack's own programs'."""
        for name, value in scope["headers"]:
            if value and name.startswith(PREFIX.encode()) and _equal(name, self._header):
                return True
            if name == b"authorization" and any(_equal(_secret(value), token) for token in self._tokens.values()):
                return True
        return False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan" or _is_own_probe(scope):
            await self.app(scope, receive, send)
        elif self.known(scope):
            # MLflow's gateway sends headers on, to providers of models.
            own = (PREFIX.encode(), b"authorization")
            kept = [pair for pair in scope["headers"] if not pair[0].startswith(own)]
            await self.app({**scope, "headers": kept}, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            answer = JSONResponse(
                {"error_code": "UNAUTHENTICATED", "message": MESSAGE},
                HTTPStatus.UNAUTHORIZED,
                {"WWW-Authenticate": "Bearer"},
            )
            await answer(scope, receive, send)


def _secret(authorization: bytes) -> bytes:
    """Read the token, or the password: MLflow's clients send either."""
    scheme, _, value = authorization.partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except ValueError:
            return b""
    return b""


def _is_own_probe(scope: Scope) -> bool:
    client = scope.get("client")
    return scope["type"] == "http" and scope["path"] == HEALTH and client is not None and client[0] in OWN


def guarded(app: ASGIApp, environment: Mapping[str, str] = os.environ) -> ASGIApp:
    """Put the check in front of a server, if the environment names the files that callers are known by.

    Args:
        app: The server.
        environment: ``EDGE_IDENTITY_FILE``, with what follows ``X-Edge-``, and ``CLIENT_TOKENS_FILE``, with a JSON
            object of programs and their tokens.

    Raises:
        OSError, ValueError, KeyError: Only one is named, or one cannot be read: better no server than an open one.
    """
    if not {"EDGE_IDENTITY_FILE", "CLIENT_TOKENS_FILE"} & environment.keys():
        return app
    tokens = json.loads(Path(environment["CLIENT_TOKENS_FILE"]).read_text())
    return KnownCallers(app, Path(environment["EDGE_IDENTITY_FILE"]).read_text().strip(), tokens)
