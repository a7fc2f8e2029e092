"""IBKR's pacing limits for the Client Portal gateway.

Source: the table of limits per endpoint in IBKR's documentation of the Web API. Beside it, all requests together are
limited; the limit on concurrent history requests stands with that endpoint.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

# Requests, seconds.
ALL_REQUESTS = (10, 1.0)
ENDPOINTS = {
    ("GET", "iserver/account/pnl/partitioned"): (1, 5.0),
    ("GET", "iserver/account/trades"): (1, 5.0),
    ("GET", "iserver/marketdata/snapshot"): (10, 1.0),
    ("GET", "portfolio/accounts"): (1, 5.0),
    ("GET", "portfolio/subaccounts"): (1, 5.0),
    ("GET", "sso/validate"): (1, 60.0),
    ("GET", "tickle"): (1, 1.0),
}


class Pacing:
    """Counts requests in sliding windows; a refused request counts in none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Count by `clock`, in seconds."""
        self._clock = clock
        self._allowed: dict[tuple[str, str], deque[float]] = {}

    def allows(self, method: str, endpoint: str) -> bool:
        """Whether a request is within the limits, and if so count it; `endpoint` is the path below `/v1/api/`."""
        now = self._clock()
        limits = [(("", ""), ALL_REQUESTS)]
        if (method, endpoint) in ENDPOINTS:
            limits.append(((method, endpoint), ENDPOINTS[method, endpoint]))
        windows = []
        for key, (number, seconds) in limits:
            window = self._allowed.setdefault(key, deque())
            while window and window[0] <= now - seconds:
                window.popleft()
            if len(window) >= number:
                return False
            windows.append(window)
        for window in windows:
            window.append(now)
        return True
