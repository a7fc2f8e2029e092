"""Daily bars: fetched from the backend, checked, and kept as one reproducible CSV."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pandas as pd

PRICE_COLUMNS = ["open", "high", "low", "close"]
COLUMNS = [*PRICE_COLUMNS, "volume"]
REQUEST_TIMEOUT_S = 60.0


class BarsUnavailable(RuntimeError):
    """The backend cannot give the bars now; asking again later may help."""


class BarsInvalid(ValueError):
    """The bars cannot be used as they are; asking again does not help."""


@dataclass(frozen=True)
class DailyBars:
    """Daily bars of one symbol.

    Attributes:
        symbol: Ticker.
        source: Where the backend got the bars.
        simulated: True when the prices are not from a market.
        adjusted: True when prices are adjusted for splits.
        frame: Prices (in the symbol's currency) and volume (shares), one row a trading day, indexed by ascending
            ``DatetimeIndex`` named ``date``.
    """

    symbol: str
    source: str
    simulated: bool
    adjusted: bool
    frame: pd.DataFrame

    @property
    def csv(self) -> str:
        """The bars as CSV, the same text for the same bars."""
        return to_csv(self.frame)

    @property
    def digest(self) -> str:
        """SHA-256 of the symbol and the CSV, the identity of the data set."""
        return hashlib.sha256(f"{self.symbol}\n{self.csv}".encode()).hexdigest()


def to_csv(frame: pd.DataFrame) -> str:
    """Write bars so that `from_csv` gives exactly the same numbers back."""
    return frame.to_csv(date_format="%Y-%m-%d", lineterminator="\n")


def from_csv(text: str) -> pd.DataFrame:
    """Read bars written by `to_csv`."""
    return pd.read_csv(io.StringIO(text), index_col="date", parse_dates=["date"], float_precision="round_trip")


def fetch_bars(backend_url: str, symbol: str, start: str, end: str, token: str | None = None) -> DailyBars:
    """Get daily bars from the backend's ``GET /api/v1/bars/{symbol}``.

    Args:
        backend_url: Base URL, such as ``http://backend:8000``.
        symbol: Ticker.
        start: First day, ISO 8601.
        end: Last day, ISO 8601.
        token: The backend's API token, sent as a bearer token.

    Raises:
        BarsUnavailable: The backend does not answer, fails, or keeps no bars yet.
        BarsInvalid: The backend refuses the request, or its bars are not usable.
    """
    url = f"{backend_url.rstrip('/')}/api/v1/bars/{quote(symbol, safe='')}"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        response = httpx.get(url, params={"start": start, "end": end}, headers=headers, timeout=REQUEST_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise BarsUnavailable(f"{url} does not answer: {error}") from error
    if response.status_code == httpx.codes.NOT_FOUND:
        raise BarsUnavailable(f"the backend keeps no bars of {symbol} from {start} to {end} yet ({url} answered 404)")
    if response.is_server_error or response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise BarsUnavailable(f"{url} answered {response.status_code}")
    if not response.is_success:
        raise BarsInvalid(f"{url} answered {response.status_code}: {response.text[:300]}")
    try:
        payload = response.json()
    except ValueError as error:
        raise BarsInvalid(f"{url} did not answer with JSON") from error
    return parse_bars(payload)


def parse_bars(payload: dict[str, Any]) -> DailyBars:
    """Check the backend's answer and make it a table.

    Raises:
        BarsInvalid: A field is missing, a day comes twice, or a price is not a finite positive number within its
            day's low and high.
    """
    try:
        rows = payload["bars"]
        symbol, source = str(payload["symbol"]), str(payload["source"])
        simulated, adjusted = bool(payload["simulated"]), bool(payload["adjusted"])
        frame = pd.DataFrame.from_records(rows, columns=["date", *COLUMNS])
        frame["date"] = pd.to_datetime(frame["date"], format="%Y-%m-%d")
        frame = frame.set_index("date").astype(float).sort_index()
    except (KeyError, TypeError, ValueError) as error:
        raise BarsInvalid(f"unexpected answer for bars: {error!r}") from error
    if frame.empty:
        raise BarsInvalid(f"no bars of {symbol} in the answer")
    if frame.index.has_duplicates:
        day = frame.index[frame.index.duplicated()][0]
        raise BarsInvalid(f"two bars of {symbol} on {day:%Y-%m-%d}")
    prices = frame[PRICE_COLUMNS]
    # A cent of slack: vendors round open, high, low and close each on their own when they adjust them.
    slack = 0.005 + 1e-3 * frame["close"].abs()
    wrong = (
        ~np.isfinite(frame).all(axis=1)
        | (prices <= 0).any(axis=1)
        | (frame["volume"] < 0)
        | (prices.max(axis=1) > frame["high"] + slack)
        | (prices.min(axis=1) < frame["low"] - slack)
    )
    if wrong.any():
        first = frame.index[wrong][0]
        raise BarsInvalid(f"{int(wrong.sum())} impossible bars of {symbol}, the first on {first:%Y-%m-%d}")
    return DailyBars(symbol, source, simulated, adjusted, frame)
