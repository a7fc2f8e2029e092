"""Adds what keeps other sites out of Airflow's pages: a content security policy, no foreign frames, no guessed types.

A plugin of the API server; Airflow itself has no setting for any of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

POLICY = {
    "default-src": "'self'",
    "script-src": "'self'",
    # The pages' styles are made by their scripts; the code view's editor has workers of its own making.
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "worker-src": "'self' blob:",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
    # The pages of users and roles stand in a frame of Airflow's own.
    "frame-ancestors": "'self'",
}
# Login, users and roles are pages with scripts in them.
INLINE_SCRIPTS = POLICY | {"script-src": "'self' 'unsafe-inline'"}
# FastAPI takes the viewer of the API's description from elsewhere.
DESCRIPTION = POLICY | {
    "script-src": "'self' 'unsafe-inline' https://cdn.jsdelivr.net",
    "style-src": "'self' 'unsafe-inline' https://cdn.jsdelivr.net https://fonts.googleapis.com",
    "font-src": "'self' data: https://fonts.gstatic.com",
    "img-src": "'self' data: blob: https://fastapi.tiangolo.com https://cdn.redoc.ly",
}


def header_of(path: str) -> bytes:
    """The policy of a page.

    Args:
        path: Its path, without the query.
    """
    policy = INLINE_SCRIPTS if path.startswith("/auth/") else POLICY
    if path.endswith(("/docs", "/redoc")):
        policy = DESCRIPTION
    return "; ".join(f"{name} {value}" for name, value in policy.items()).encode()


class SecurityHeaders:
    """ASGI middleware that adds the headers to every answer which has none of them."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        """Take over the application that answers."""
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Send) -> None:
        """Let the application answer, and add to the answer's start."""
        headers = {
            b"content-security-policy": header_of(str(scope.get("path", ""))),
            b"x-frame-options": b"SAMEORIGIN",
            b"x-content-type-options": b"nosniff",
            b"referrer-policy": b"same-origin",
        }

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", []))
                names = {name.lower() for name, _value in given}
                message = {**message, "headers": given + [pair for pair in headers.items() if pair[0] not in names]}
            await send(message)

        await self.app(scope, receive, answer)


class SecurityHeadersPlugin(AirflowPlugin):
    """What Airflow loads."""

    name = "security_headers"
    fastapi_root_middlewares: ClassVar[list[dict[str, Any]]] = [
        {"name": "security headers", "middleware": SecurityHeaders}
    ]
