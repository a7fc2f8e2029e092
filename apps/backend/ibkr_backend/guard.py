"""What is refused before it is read: forms that another site's page sends, and bodies larger than any form here."""

from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ibkr_backend.auth import Identities

# Forms and the API's requests are far smaller; form parsing keeps the whole body in memory.
BODY_BYTES = 64 * 1024
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

FOREIGN = (
    "This form came from a page of another site. Open this page at its own address and try again. "
    "A proxy in front of it must pass on the browser's Host header, or send it as X-Forwarded-Host."
)
TOO_LARGE = f"The request is larger than {BODY_BYTES // 1024} kB."


def same_origin(headers: Headers) -> bool:
    """Say whether a browser sent the request from a page of ours, or no browser sent it.

    The method is that of Go's ``http.CrossOriginProtection``: browsers say ``Sec-Fetch-Site`` to ``https`` addresses
    and to localhost, and ``Origin`` to all. Another port of the same host counts as another site, as another program
    answers there. No page can make a browser send a wrong ``Host`` or ``X-Forwarded-Host`` with a form.
    """
    if site := headers.get("sec-fetch-site"):
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    own = {headers.get("host", ""), headers.get("x-forwarded-host", "")} - {""}
    return bool(parts.netloc) and parts.netloc.lower() in {_without_default_port(each, parts.scheme) for each in own}


def _without_default_port(host: str, scheme: str) -> str:
    # Browsers leave the default port out of an origin; a proxy may have added it to the host.
    return host.strip().lower().removesuffix({"http": ":80", "https": ":443"}.get(scheme, ""))


class Guard:
    """Refuses foreign forms and large bodies.

    Requests to the API pass whatever their origin: their token is nothing that a browser sends by itself, and a program
    in front of the API may pass on its own clients' headers. A person whom the edge names may have come by its cookie,
    which a browser does send.
    """

    def __init__(self, app: ASGIApp, refuse: Callable[[int, str], ASGIApp], identities: Identities) -> None:
        """Wrap ``app``; ``refuse`` makes the answer from status and reason."""
        self._app = app
        self._refuse = refuse
        self._identities = identities

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        by_token = scope["path"].startswith("/api/") and not self._identities.person(scope["headers"])
        if not by_token and not same_origin(headers):
            await self._refuse(403, FOREIGN)(scope, receive, send)
            return
        # Servers refuse a length that is no number.
        if int(headers.get("content-length", 0)) > BODY_BYTES:
            await self._refuse(413, TOO_LARGE)(scope, receive, send)
            return
        seen = 0

        async def counting() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > BODY_BYTES:
                raise HTTPException(413, TOO_LARGE)
            return message

        await self._app(scope, counting, send)
