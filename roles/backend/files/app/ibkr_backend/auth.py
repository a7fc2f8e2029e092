"""Who may ask: programs with the API token, people with the page's login.

A session is a signed cookie, so that nothing has to be kept for it. Its key is derived from the secrets: changing the
password or the token ends every session.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections import deque
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ibkr_backend.settings import ApiSettings

SESSION_SECONDS = 12 * 3600
# Ten wrong passwords, then a wait: at that rate a password of 32 letters and digits is safe for good.
FAILURES = 10
FAILURE_SECONDS = 300

bearer = HTTPBearer(auto_error=False, description="The API token", scheme_name="token")


def equal(given: str, expected: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(given.encode(), expected.encode())


class Sessions:
    """Makes and reads the page's session cookies."""

    def __init__(self, settings: ApiSettings) -> None:
        """Derive the key; cookies are shared by all ports of a host, so their name tells the stack."""
        self._settings = settings
        words = f"{settings.api_token.get_secret_value()}\n{settings.page_password.get_secret_value()}"
        self._key = hashlib.sha256(f"page session\n{words}".encode()).digest()
        self.cookie = re.sub(r"[^A-Za-z0-9]+", "_", settings.stack_name) + "_session"
        self._failures: dict[str, deque[float]] = {}

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def make(self) -> str:
        """Return the value of a new session's cookie."""
        content = f"{int(time.time()) + SESSION_SECONDS}.{secrets.token_urlsafe(16)}"
        return f"{content}.{self._sign(content)}"

    def valid(self, request: Request) -> bool:
        """Say whether the request bears a session of ours that has not expired."""
        content, _, signature = request.cookies.get(self.cookie, "").rpartition(".")
        expiry = content.partition(".")[0]
        if not equal(signature, self._sign(content)) or not expiry.isdecimal():
            return False
        return int(expiry) > time.time()

    def form_token(self, request: Request) -> str:
        """Return what a form of this session's page must send along, which no other site can know."""
        return self._sign("form " + request.cookies.get(self.cookie, ""))

    def form_is_ours(self, request: Request, token: str) -> bool:
        """Say whether a form came from this session's own page."""
        return self.valid(request) and equal(token, self.form_token(request))

    def password_is_right(self, user: str, password: str) -> bool:
        """Compare user name and password, both always."""
        settings = self._settings
        return equal(user, settings.page_user) & equal(password, settings.page_password.get_secret_value())

    def wait(self, client: str) -> int:
        """Return the seconds until this client may try a password again, 0 for at once."""
        now = time.monotonic()
        failures = self._failures.get(client, deque())
        while failures and now - failures[0] > FAILURE_SECONDS:
            failures.popleft()
        if not failures:
            self._failures.pop(client, None)
        return int(FAILURE_SECONDS - (now - failures[0])) + 1 if len(failures) >= FAILURES else 0

    def note_failure(self, client: str) -> None:
        """Count a wrong password."""
        self._failures.setdefault(client, deque()).append(time.monotonic())


async def require_token(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> None:
    """Refuse a request without the API token."""
    expected = request.app.state.settings.api_token.get_secret_value()
    if given is None or not equal(given.credentials, expected):
        raise HTTPException(401, "The API token is missing or wrong.", headers={"WWW-Authenticate": "Bearer"})
