"""Client of the Client Portal gateway: its three states, and daily history.

Source of paths, fields and limits: IBKR Client Portal Web API v1.
"""

import math
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from typing import Any, Literal, Self

import httpx

Source = Literal["ibkr", "simulated"]

MAX_POINTS = 1000
# IBKR allows 10 requests a second and 5 history requests at once. With one request at a time and this spacing in each
# worker process, five processes stay within both.
REQUEST_SPACING = 0.5
ATTEMPTS = 3


class GatewayError(Exception):
    """The gateway gave no usable answer; the text says why, for the operator."""


class NotLoggedInError(GatewayError):
    """The gateway answers, but nobody is logged in."""


class NoDataError(GatewayError):
    """IBKR keeps no history for what was asked."""


@dataclass(frozen=True)
class Bar:
    """One trading day: prices in the instrument's currency, adjusted for splits but not dividends; volume as IBKR
    reports it."""

    date: date
    open: float
    high: float
    low: float
    close: float
    volume: float

    @classmethod
    def from_point(cls, point: dict[str, Any]) -> Self:
        """Read one element of ``data``; ``t`` is milliseconds since the epoch, UTC."""
        try:
            day = datetime.fromtimestamp(point["t"] / 1000, UTC).date()
            bar = cls(day, *(float(point[field]) for field in "ohlcv"))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise GatewayError(f"the gateway sent a bar that cannot be read: {error!r}") from None
        if not all(math.isfinite(price) and price > 0 for price in (bar.open, bar.high, bar.low, bar.close)):
            raise GatewayError(f"the gateway sent a bar without valid prices for {day}")
        return bar


@dataclass(frozen=True)
class GatewayState:
    """What is known of the gateway; None where an earlier state leaves it unknown."""

    up: bool
    ibkr_reachable: bool | None
    logged_in: bool | None
    simulated: bool | None
    reason: str


def source_of(response: httpx.Response) -> Source:
    """Tell real from simulated by the header that the simulator sets on each of its answers."""
    return "simulated" if "x-simulated" in response.headers else "ibkr"


def error_text(error: Exception) -> str:
    """Describe a failed request in words: httpx leaves the text of a timeout empty."""
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return str(error) or type(error).__name__


class Gateway:
    """A connection to the gateway; TLS is verified against ``ca_file``, or the system's authorities without one."""

    def __init__(self, url: str, ca_file: Path | None, *, timeout: float = 30, spacing: float = REQUEST_SPACING):
        """Connect lazily; ``timeout`` and ``spacing`` between requests are in seconds."""
        self._client = httpx.Client(
            base_url=url,
            verify=ssl.create_default_context(cafile=ca_file),
            timeout=timeout,
            # IBKR refuses requests without a user agent that it knows how to read.
            headers={"User-Agent": "ibkr-backend", "Accept": "application/json"},
            trust_env=False,
        )
        self._spacing = spacing
        self._next_request = 0.0

    def state(self) -> GatewayState:
        """Ask for the three states, one after the other; raises httpx.HTTPError when the gateway does not answer."""
        front = self._client.get("/")
        simulated = source_of(front) == "simulated"
        try:
            answer = self._client.post("/v1/api/iserver/auth/status")
        except httpx.HTTPError as error:
            return GatewayState(True, False, None, simulated, f"IBKR cannot be reached: {error_text(error)}")
        if answer.status_code == 401:
            return GatewayState(True, True, False, simulated, "nobody is logged in")
        if answer.status_code != 200:
            return GatewayState(True, False, None, simulated, f"IBKR cannot be reached: HTTP {answer.status_code}")
        try:
            status = answer.json()
            logged_in = bool(status["authenticated"] and status.get("connected", True))
        except (ValueError, TypeError, KeyError):
            return GatewayState(True, None, None, simulated, "the login status cannot be read")
        reason = "logged in" if logged_in else status.get("message") or "nobody is logged in"
        return GatewayState(True, True, logged_in, simulated, reason)

    def _get(self, path: str, **parameters: str | int) -> httpx.Response:
        for attempt in range(1, ATTEMPTS + 1):
            time.sleep(max(0.0, self._next_request - time.monotonic()))
            self._next_request = time.monotonic() + self._spacing
            try:
                response = self._client.get(path, params=parameters)
            except httpx.HTTPError as error:
                raise GatewayError(f"the gateway does not answer: {error_text(error)}") from error
            if response.status_code not in (429, 500, 502, 503, 504) or attempt == ATTEMPTS:
                break
            time.sleep(self._spacing * 2**attempt)
        if response.status_code == 401:
            raise NotLoggedInError("nobody is logged in at the gateway")
        if response.status_code == 429:
            raise GatewayError("IBKR's request limit is reached (HTTP 429)")
        if response.status_code != 200:
            words = response.text[:200]
            if response.status_code == 500 and ("no data" in words.lower() or "data unavailable" in words.lower()):
                raise NoDataError(f"IBKR has no data for this request: {words}")
            raise GatewayError(f"the gateway answered HTTP {response.status_code}: {words}")
        return response

    def find_stock(self, symbol: str) -> tuple[int, Source]:
        """Return the contract id of the stock or fund listed under ``symbol``, and who answered."""
        response = self._get("/v1/api/iserver/secdef/search", symbol=symbol)
        try:
            found = response.json()
            for contract in found if isinstance(found, list) else []:
                kinds = {section.get("secType") for section in contract.get("sections", [])}
                if contract.get("symbol", "").upper() == symbol and "STK" in kinds:
                    return int(contract["conid"]), source_of(response)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise GatewayError(f"the gateway's answer to the search for {symbol} cannot be read") from None
        raise GatewayError(f"IBKR knows no stock with the symbol {symbol}")

    def daily_bars(self, conid: int, source: Source, start: date, today: date) -> list[Bar]:
        """Return the daily bars from ``start`` to ``today``, ascending.

        IBKR answers with the newest ``MAX_POINTS`` points up to ``startTime``, so this pages back until ``start`` or
        the beginning of the history is reached. Either all pages are returned or an error is raised.

        Raises:
            NoDataError: IBKR has no bar at all.
            GatewayError: anything else, such as pages that come from different sources.
        """
        bars: dict[date, Bar] = {}
        before = datetime.combine(today + timedelta(days=1), time_of_day(), UTC)
        while True:
            parameters: dict[str, str | int] = {
                "conid": conid,
                "period": f"{min(MAX_POINTS, (before.date() - start).days + 1)}d",
                "bar": "1d",
                "outsideRth": "false",
            }
            if bars:
                parameters["startTime"] = before.strftime("%Y%m%d-%H:%M:%S")
            try:
                response = self._get("/v1/api/iserver/marketdata/history", **parameters)
            except NoDataError:
                if not bars:
                    raise
                break
            if source_of(response) != source:
                raise GatewayError("real and simulated answers came from one gateway: nothing is kept")
            try:
                page = [Bar.from_point(point) for point in response.json()["data"]]
            except (ValueError, TypeError, KeyError):
                raise GatewayError("the gateway's history cannot be read") from None
            older = {bar.date: bar for bar in page if bar.date < before.date()}
            if not older:
                break
            bars = older | bars
            before = datetime.combine(min(older), time_of_day(), UTC)
            if before.date() <= start:
                break
        if not bars:
            raise NoDataError("IBKR has no daily history for this contract")
        return [bars[day] for day in sorted(bars) if day >= start]
