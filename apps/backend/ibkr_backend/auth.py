"""Who may ask: programs with the API token, people with the page's login.

A session is a signed cookie, so that nothing has to be kept for it. Its key is derived from the secrets: changing the
password or the token ends every session.

Behind the stack's edge there is no session of our own: the edge says who asks, in a header whose name only the two
know. It has decided what that person may do; programs on the stack's network still come with the API token.
"""

import asyncio
import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from itsdangerous import TimestampSigner

from ibkr_backend.settings import ApiSettings, FlowerSettings

SESSION_SECONDS = 12 * 3600
# Passwords are looked at one after the other, and a wrong one keeps the next waiting: so many guesses are possible,
# whatever number of connections and addresses they come from.
GUESS_SECONDS = 1.0
WAITING = 20
KNOWN_SECONDS = 365 * 24 * 3600

IDENTITY_PREFIX = "x-edge-"
# Of the edge's roles, the one that changes nothing.
VIEWER = "viewer"

bearer = HTTPBearer(auto_error=False, description="The API token", scheme_name="token")


def equal(given: str, expected: str) -> bool:
    """Compare two secrets in constant time."""
    # A form may name an encoding by which a lone surrogate arrives, which UTF-8 has no form for.
    return hmac.compare_digest(given.encode(errors="surrogatepass"), expected.encode())


@dataclass(frozen=True)
class Person:
    """Who asks, as the edge says."""

    name: str
    role: str


class Identities:
    """Reads the edge's header."""

    def __init__(self, settings: ApiSettings | FlowerSettings) -> None:
        """Take over the secret part of its name, if there is an edge."""
        secret = settings.edge_identity.get_secret_value().lower() if settings.edge_identity else ""
        self._name = f"{IDENTITY_PREFIX}{secret}" if secret else ""

    @property
    def edge(self) -> bool:
        """Whether people are logged in by an edge, and by nothing else."""
        return bool(self._name)

    def person(self, headers: Iterable[tuple[bytes, bytes]]) -> Person | None:
        """Say who asks.

        Args:
            headers: Of the request, with their names in small letters.

        Returns:
            The person whom the edge names; None if it names nobody, or somebody else than the edge does.
        """
        if not self._name:
            return None
        prefix = IDENTITY_PREFIX.encode()
        said = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers if name.startswith(prefix)]
        names, roles = (
            [value for name, value in said if equal(name, wanted)] for wanted in (self._name, f"{self._name}-role")
        )
        return Person(names[0], roles[0]) if len(names) == len(roles) == 1 and names[0] else None


class Turnstile:
    """Lets passwords be looked at one after the other; only wrong ones take time.

    Nothing is remembered of earlier failures, so that nobody's can lock anybody out.
    """

    def __init__(self) -> None:
        """Begin with nobody waiting."""
        self._lock = asyncio.Lock()
        self._waiting = 0

    async def judge(self, right: bool) -> bool | None:
        """Return ``right`` when it is this password's turn, or None if too many wait: it was not looked at."""
        if self._waiting >= WAITING:
            return None
        self._waiting += 1
        try:
            async with self._lock:
                if not right:
                    await asyncio.sleep(GUESS_SECONDS)
                return right
        finally:
            self._waiting -= 1

    @property
    def seconds(self) -> int:
        """Time until all who wait have had their turn."""
        return math.ceil(self._waiting * GUESS_SECONDS)


class Sessions:
    """Makes and reads the page's session cookies, and judges passwords."""

    def __init__(self, settings: ApiSettings) -> None:
        """Derive the key; cookies are shared by all ports of a host, so their name tells the stack."""
        self._settings = settings
        self.identities = Identities(settings)
        words = f"{settings.api_token.get_secret_value()}\n{settings.page_password.get_secret_value()}"
        self._key = hashlib.sha256(f"page session\n{words}".encode()).digest()
        self._session = self._signer("session")
        # It marks a browser in which somebody has logged in.
        self._known = self._signer("known")
        name = re.sub(r"[^A-Za-z0-9]+", "_", settings.stack_name)
        self.cookie = f"{name}_session"
        self.known_cookie = f"{name}_known"
        # A browser in which somebody logged in before does not wait behind strangers.
        self._turnstiles = {known: Turnstile() for known in (True, False)}

    def _signer(self, purpose: str) -> TimestampSigner:
        # The base64 of 48 bytes has no spare bits, so a signature has one spelling.
        return TimestampSigner(self._key, salt=purpose, digest_method=hashlib.sha384)

    def make(self) -> str:
        """Return the value of a new session's cookie."""
        return self._session.sign(secrets.token_urlsafe(16)).decode()

    def valid(self, request: Request) -> bool:
        """Say whether the request is a person's whom the edge names; without one, whether it bears a valid session."""
        if self.identities.edge:
            return self.identities.person(request.headers.raw) is not None
        return self._session.validate(request.cookies.get(self.cookie, ""), max_age=SESSION_SECONDS)

    def make_known(self) -> str:
        """Return the value of the cookie that marks a browser in which somebody has logged in."""
        return self._known.sign(secrets.token_urlsafe(16)).decode()

    def form_token(self, request: Request) -> str:
        """Return what a form of this session's page must send along, which no other site can know."""
        person = self.identities.person(request.headers.raw)
        whose = f"edge {person.name}" if person else request.cookies.get(self.cookie, "")
        return self._signer("form").get_signature(whose).decode()

    def form_is_ours(self, request: Request, token: str) -> bool:
        """Say whether a form came from this session's own page."""
        return self.valid(request) and equal(token, self.form_token(request))

    def password_is_right(self, user: str, password: str) -> bool:
        """Compare user name and password, both always."""
        settings = self._settings
        return equal(user, settings.page_user) & equal(password, settings.page_password.get_secret_value())

    async def log_in(self, request: Request, user: str, password: str) -> tuple[bool | None, int]:
        """Judge user name and password in their turn.

        Returns:
            Whether they are right, or None if they were not looked at because too many wait; and the seconds after
            which to try again in that case.
        """
        turnstile = self._turnstiles[
            self._known.validate(request.cookies.get(self.known_cookie, ""), max_age=KNOWN_SECONDS)
        ]
        return await turnstile.judge(self.password_is_right(user, password)), turnstile.seconds


async def require_token(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> None:
    """Refuse a request with neither the API token nor a person whom the edge lets in."""
    if request.app.state.sessions.identities.person(request.headers.raw):
        return
    expected = request.app.state.settings.api_token.get_secret_value()
    if given is None or not equal(given.credentials, expected):
        raise HTTPException(401, "The API token is missing or wrong.", headers={"WWW-Authenticate": "Bearer"})
