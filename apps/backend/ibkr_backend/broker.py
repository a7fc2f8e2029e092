"""The only way from here to IBKR: ibind's client, restricted to what this application may ask.

Whoever is logged in at the gateway may trade. Nothing here ever places, changes or cancels an order: a request that is
not in the list below is refused before it is sent, whatever calls it.
"""

import os
import re
from pathlib import Path
from typing import Any

# ibind writes files and installs signal handlers by default; both belong to the process that uses it.
os.environ |= {
    "IBIND_LOG_TO_FILE": "false",
    "IBIND_LOG_TO_CONSOLE": "false",
    "IBIND_AUTO_REGISTER_SHUTDOWN": "false",
    "IBIND_USE_OAUTH": "false",
}

import requests
from ibind import IbkrClient
from ibind.base.rest_client import Result

ALLOWED = re.compile(
    r"GET (iserver/(accounts|secdef/search|marketdata/history)"
    r"|portfolio/(accounts|[\w-]+/(summary|positions/\d+)))"
    r"|POST (tickle|iserver/auth/(status|ssodh/init))"
)


class NotAllowedError(Exception):
    """The request is none of those that this application may send."""


class ReadOnlyClient(IbkrClient):
    """ibind's client without orders. ``simulated`` says whether the last answer came from the simulator."""

    def __init__(self, url: str, ca_file: Path | None, timeout: float) -> None:
        """Connect lazily; TLS is verified against ``ca_file``, or the system's authorities without one."""
        self.simulated = False
        super().__init__(url=f"{url}/v1/api/", cacert=str(ca_file) if ca_file else True, timeout=timeout, max_retries=0)

    def make_session(self) -> None:
        """Open a session that follows no proxy of the environment and notes who answers."""
        super().make_session()
        self._session.trust_env = False
        self._session.headers["User-Agent"] = "ibkr-backend"
        self._session.hooks["response"].append(self._note_source)

    def _note_source(self, response: requests.Response, **_: Any) -> None:
        self.simulated = "x-simulated" in response.headers

    def _request(self, method: str, endpoint: str, *args: Any, **options: Any) -> Result:
        if not ALLOWED.fullmatch(f"{method} {endpoint.lstrip('/')}"):
            raise NotAllowedError(f"{method} {endpoint} is not among the requests that this application may send")
        return super()._request(method, endpoint, *args, **options)
