# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the gateway's answer about its login means. The reference application has a copy (decision 0045)."""

from __future__ import annotations

from typing import Any


def login_status(status: int, answer: Any) -> tuple[bool | None, bool | None, str]:
    """Read an answer of ``POST /v1/api/iserver/auth/status``.

    Args:
        status: HTTP status.
        answer: What its JSON says, None where it is none.

    Returns:
        Whether IBKR is reachable and whether somebody is logged in, each None where it cannot be told, and the reason.
    """
    if status == 401:
        return True, False, "nobody is logged in"
    if status >= 500:
        return False, None, f"IBKR cannot be reached: HTTP {status}"
    if status == 403:
        return None, None, "the gateway refuses this host (HTTP 403)"
    if status != 200 or not isinstance(answer, dict) or "authenticated" not in answer:
        return None, None, f"the login status cannot be read: HTTP {status}"
    if answer["authenticated"] and answer.get("connected", True):
        return True, True, "logged in"
    if answer.get("competing"):
        return True, False, "another session of this user has taken over"
    return True, False, answer.get("message") or "nobody is logged in"
