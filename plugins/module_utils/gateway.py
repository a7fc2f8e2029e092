# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The three states of an IBKR gateway, asked for in a bounded time."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.module_utils.gateway_status import login_status

#: Seconds for one answer, and for all of them together. A gateway that cannot reach IBKR never answers under /v1/api.
ANSWER_SECONDS = 3.0
ALL_SECONDS = 8.0
LARGEST_ANSWER = 2**20


@dataclass(frozen=True)
class GatewayStates:
    """What is known of a gateway; None where an earlier state leaves it unknown.

    ``account`` is ``paper`` or ``live`` where someone is logged in, else empty.
    """

    up: bool
    ibkr_reachable: bool | None = None
    logged_in: bool | None = None
    simulated: bool | None = None
    account: str = ""
    reason: str = ""


def gateway_states(
    host: str, port: int, answer_seconds: float = ANSWER_SECONDS, all_seconds: float = ALL_SECONDS
) -> GatewayStates:
    """Ask whether the gateway is up, whether it reaches IBKR, and whether someone is logged in.

    Args:
        host: Where the gateway listens.
        port: Its HTTPS port there.
        answer_seconds: How long to wait for each of at most three answers.
        all_seconds: How long this takes at most, whatever the other side does.

    Returns:
        The states, with the reason in words.
    """
    found = [GatewayStates(up=False, reason=f"no answer in {all_seconds:g} s")]
    # An answer that trickles in is within each timeout of a socket and still never ends.
    thread = threading.Thread(target=lambda: look(found, host, port, answer_seconds), daemon=True)
    thread.start()
    thread.join(all_seconds)
    return found[-1]


def look(found: list[GatewayStates], host: str, port: int, seconds: float) -> None:
    """Add what becomes known, one state after the other.

    Args:
        found: Where to add it; the last is what is known by then.
        host: Where the gateway listens.
        port: Its HTTPS port there.
        seconds: How long to wait for each answer.
    """
    try:
        _status, simulated, _answer = ask(host, port, "GET", "/", seconds)
    except (OSError, http.client.HTTPException) as error:
        found.append(GatewayStates(up=False, reason=words(error, seconds)))
        return
    up = GatewayStates(up=True, simulated=simulated, reason=f"IBKR cannot be reached: no answer in {seconds:g} s")
    found.append(replace(up, ibkr_reachable=False))
    try:
        status, _simulated, answer = ask(host, port, "POST", "/v1/api/iserver/auth/status", seconds)
    except (OSError, http.client.HTTPException) as error:
        found.append(replace(up, ibkr_reachable=False, reason=f"IBKR cannot be reached: {words(error, seconds)}"))
        return
    reachable, logged_in, reason = login_status(status, answer)
    if status == 403:
        reason += ": ibkr_gateway_allowed_addresses"
    found.append(replace(up, ibkr_reachable=reachable, logged_in=logged_in, reason=reason))
    if logged_in:
        try:
            _status, _simulated, accounts = ask(host, port, "GET", "/v1/api/iserver/accounts", seconds)
        except (OSError, http.client.HTTPException):
            return
        found.append(replace(found[-1], account=account_kind(accounts)))


def ask(host: str, port: int, method: str, path: str, seconds: float) -> tuple[int, bool, Any]:
    """Send one request.

    Args:
        host: Where the gateway listens.
        port: Its HTTPS port there.
        method: Of HTTP.
        path: Of the URL.
        seconds: Timeout of the connection and of each read.

    Returns:
        HTTP status, whether the answer is marked as simulated, and what its JSON says (None where it is none).

    Raises:
        OSError: If there is no connection, or no answer in time.
        http.client.HTTPException: If the answer is not HTTP.
    """
    # No secret is sent: what answers at the published port of this host is asked, whatever its certificate says.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(host, port, timeout=seconds, context=context)
    try:
        connection.request(method, path, headers={"User-Agent": "quantops", "Accept": "application/json"})
        answer = connection.getresponse()
        content = answer.read(LARGEST_ANSWER)
        try:
            parsed = json.loads(content)
        except ValueError:
            parsed = None
        return answer.status, answer.getheader("X-Simulated") is not None, parsed
    finally:
        connection.close()


def account_kind(accounts: Any) -> str:
    """Tell a paper account from a live one.

    Args:
        accounts: Answer of ``/iserver/accounts``.

    Returns:
        ``paper``, ``live``, or an empty text where it cannot be told.
    """
    if not isinstance(accounts, dict):
        return ""
    paper = accounts.get("isPaper")
    if isinstance(paper, bool):
        return "paper" if paper else "live"
    account = accounts.get("selectedAccount")
    # Ids of paper accounts begin with D, as in DU1234567.
    return ("paper" if account.startswith("D") else "live") if isinstance(account, str) and account else ""


def words(error: Exception, seconds: float) -> str:
    """Say what went wrong with a request.

    Args:
        error: What was raised.
        seconds: Timeout of the request.

    Returns:
        A few words.
    """
    return f"no answer in {seconds:g} s" if isinstance(error, TimeoutError) else str(error) or type(error).__name__


def sentence(states: GatewayStates, url: str) -> str:
    """Say the three states in a line.

    Args:
        states: What was found.
        url: Where a person logs in.

    Returns:
        The line, with the URL where a login is needed.
    """

    def state(value: bool | None, good: str, bad: str) -> str:
        return "?" if value is None else good if value else bad

    parts = [
        f"Gateway {'up' if states.up else 'DOWN'}",
        f"IBKR {state(states.ibkr_reachable, 'reachable', 'NOT reachable')}",
        f"login {state(states.logged_in, 'yes', 'NEEDED at ' + url)}",
        f"account {states.account or '?'}",
    ]
    mark = " (SIMULATED)" if states.simulated else ""
    return f"{', '.join(parts)}{mark}: {states.reason}"
