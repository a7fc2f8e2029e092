"""Airflow behind the stack's edge: whom the edge names is logged in, without a login of Airflow's own.

The edge says who asks in a header whose name is a secret of the two. Everything but tasks' own API takes that person as
the one who asks, whatever else the request brings along: a browser may still hold the cookies of who was logged in
before. Requests without the header are Airflow's as ever: programs on the stack's network with a token of Airflow's.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from airflow.providers.fab.auth_manager.fab_auth_manager import FabAuthManager
from airflow.providers.fab.auth_manager.security_manager.constants import EXISTING_ROLES
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from airflow.providers.fab.auth_manager.models import User

PREFIX = "x-edge-"
#: Of accounts that are made here, and of those that the inventory declares (sync_accounts.py).
MARK = "(logged in by the edge)"
DECLARED = "(declared in the inventory)"
#: The edge's roles, and Airflow's own role of each.
ROLES = {"viewer": "Viewer", "researcher": "User", "trader": "Op", "admin": "Admin"}
#: How long an account is not looked at again, and how long a token lives that only this process sees.
KNOWN_SECONDS = 60.0
TOKEN_SECONDS = 600
#: What tasks ask, with tokens that Airflow signs for them. No person has anything to do there.
EXECUTION = "/execution"
#: There the edge shows who is logged in, and lets them log out.
EDGE_PAGE = "/.edge/"
#: No password has this hash.
NO_PASSWORD = "!"

Scope = MutableMapping[str, Any]
Headers = Iterable[tuple[bytes, bytes]]


class RefusedError(Exception):
    """Whom the edge names cannot be let in; the text says why."""


@dataclass(frozen=True)
class Login:
    """A person who was let in.

    Attributes:
        role: The edge's.
        user_id: Of the account.
        token: Airflow's, for requests to its API.
        until: When to look again, as `time.monotonic` counts.
    """

    role: str
    user_id: int
    token: str
    until: float


def person(headers: Headers, identity: str) -> tuple[str, str] | None:
    """Say whom the edge names.

    Args:
        headers: Of the request, names in small letters.
        identity: What follows ``x-edge-`` in the header's name, in small letters.

    Returns:
        Name and role; None if no header is the edge's.

    Raises:
        RefusedError: One is missing, empty, or there more than once.
    """
    said: dict[str, list[str]] = {"": [], "-role": []}
    for name, value in headers:
        for suffix, values in said.items():
            if name.startswith(PREFIX.encode()) and hmac.compare_digest(name, f"{PREFIX}{identity}{suffix}".encode()):
                values.append(value.decode("latin-1"))
    if not said[""] and not said["-role"]:
        return None
    if [len(values) for values in said.values()] != [1, 1] or not said[""][0]:
        raise RefusedError("The edge's headers are not as expected.")
    return said[""][0], said["-role"][0]


class EdgeLogin:
    """ASGI middleware that gives the requests of a person whom the edge names a token of Airflow's."""

    def __init__(self, app: Callable[..., Awaitable[None]], manager: EdgeAuthManager) -> None:
        """Take over the application, and who knows the accounts."""
        self.app = app
        self.manager = manager

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Let the application answer as that person."""
        if scope["type"] != "http" or scope["path"] == EXECUTION or scope["path"].startswith(f"{EXECUTION}/"):
            await self.app(scope, receive, send)
            return
        try:
            found = person(scope["headers"], self.manager.identity)
            if found is None:
                await self.app(scope, receive, send)
                return
            login = self.manager.known_login(*found) or await asyncio.to_thread(self.manager.log_in, *found)
        except RefusedError as refused:
            await JSONResponse({"detail": str(refused)}, 403)(scope, receive, send)
            return
        kept = [pair for pair in scope["headers"] if pair[0] != b"authorization"]
        named = {**scope, "headers": [*kept, (b"authorization", f"Bearer {login.token}".encode())]}

        async def without_token(message: MutableMapping[str, Any]) -> None:
            # Flask-AppBuilder hands out a token for a day; who is no longer the edge's user must not have one.
            if message["type"] == "http.response.start":
                headers = [pair for pair in message.get("headers", []) if not _sets_token(*pair)]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(named, receive, without_token)


def _sets_token(name: bytes, value: bytes) -> bool:
    return name.lower() == b"set-cookie" and value.startswith(f"{COOKIE_NAME_JWT_TOKEN}=".encode())


class EdgeAuthManager(FabAuthManager):
    """Flask-AppBuilder's accounts, made and given their role when the edge names them."""

    def __init__(self) -> None:
        """Begin with nobody known."""
        super().__init__()
        self._logins: dict[str, Login] = {}
        self._lock = threading.Lock()

    @cached_property
    def identity(self) -> str:
        """What follows ``x-edge-`` in the name of the edge's header.

        Raises:
            ValueError: It is empty, and everybody could name it.
        """
        found = Path(os.environ["EDGE_IDENTITY_FILE"]).read_text().strip().lower()
        if not found:
            raise ValueError("EDGE_IDENTITY_FILE is empty")
        return found

    def get_fastapi_middlewares(self) -> list[tuple[Any, dict[str, Any]]]:
        """Add the one that looks for the edge's header."""
        return [*super().get_fastapi_middlewares(), (EdgeLogin, {"manager": self})]

    def get_user(self) -> User:
        """Return who asks for one of Flask-AppBuilder's own pages."""
        from flask import request

        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in request.headers]
        # The middleware has refused what is not as expected.
        found = person(headers, self.identity)
        if found is None:
            return super().get_user()
        return self.security_manager.get_user_by_id((self.known_login(*found) or self.log_in(*found)).user_id)

    def get_url_logout(self) -> str:
        """Send who logs out to the edge: while it names them, they are logged in."""
        return EDGE_PAGE

    def revoke_token(self, token: str) -> None:
        """Forget a login with its token; the next request of that person gets another one."""
        super().revoke_token(token)
        with self._lock:
            self._logins = {name: login for name, login in self._logins.items() if login.token != token}

    def known_login(self, name: str, role: str) -> Login | None:
        """Return the login of someone who was let in with this role a moment ago."""
        found = self._logins.get(name)
        return found if found and found.role == role and time.monotonic() < found.until else None

    def log_in(self, name: str, role: str) -> Login:
        """Let a person in whom the edge names.

        Args:
            name: The user's name.
            role: The edge's role; the account has Airflow's role for it afterwards.

        Raises:
            RefusedError: The role is unknown, or the account is none that the edge may use.
        """
        if role not in ROLES:
            raise RefusedError(f"Airflow has no role for the edge's {role!r}.")
        from airflow import settings

        with self._lock, self.flask_app.app_context():
            try:
                user = self._account(name, ROLES[role])
                token = self.generate_jwt(user, expiration_time_in_seconds=TOKEN_SECONDS)
                login = Login(role, user.id, token, time.monotonic() + KNOWN_SECONDS)
            finally:
                settings.Session.remove()
            self._logins[name] = login
        return login

    def _account(self, name: str, role_name: str) -> User:
        """Find or make an account, in its role. Further roles that people have made and given to it stay.

        Raises:
            RefusedError: Its name is taken by another one.
        """
        security = self.security_manager
        role = security.find_role(role_name)
        user = security.find_user(username=name)
        if user is None:
            return security.add_user(name, name, MARK, f"{name}@edge.invalid", role, hashed_password=NO_PASSWORD)
        if user.username != name:
            # Airflow does not tell capital letters in names from small ones, the edge does.
            raise RefusedError(f"Airflow knows {user.username!r}, which differs from {name!r} in capital letters only.")
        roles = [role, *(each for each in user.roles if each.name not in EXISTING_ROLES)]
        if {each.name for each in user.roles} != {each.name for each in roles}:
            if user.last_name == DECLARED:
                raise RefusedError(
                    f"The account {name!r} is declared for Airflow with another role than {role_name}: give one of them"
                    " another name, or both the same role."
                )
            user.roles = roles
            security.update_user(user)
            # Airflow keeps an account with its roles for a while.
            self.cache.clear()
        return user
