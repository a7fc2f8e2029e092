"""Client of the Client Portal gateway: its three states, session, accounts, and daily history.

Source of paths, fields and limits: IBKR Client Portal Web API v1.
"""

import functools
import math
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import httpx

from ibkr_backend.gateway_status import login_status
from ibkr_backend.markets import US, Market, market_of
from ibkr_backend.symbols import ticker_and_listing

if TYPE_CHECKING:
    from ibkr_backend.broker import ReadOnlyClient

Source = Literal["ibkr", "simulated"]

MAX_POINTS = 1000
POSITIONS_A_PAGE = 100
MAX_POSITION_PAGES = 50
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
    def from_point(cls, point: dict[str, Any], market: Market = US) -> Self:
        """Read one element of ``data``; ``t`` is the session's begin in milliseconds since the epoch, and the day is
        the exchange's: in Sydney a session begins on the day before, UTC."""
        try:
            day = market.day_of(point["t"])
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


def first_cause(error: BaseException) -> BaseException:
    """Return what an error goes back to: each library on the way wraps it in words of its own."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


@dataclass(frozen=True)
class Stock:
    """A stock or fund: contract id, primary exchange as IBKR names it, and who answered."""

    conid: int
    exchange: str | None
    source: Source

    def is_listed(self, listing: str) -> bool:
        """Say whether ``listing`` names its exchange, with or without the segment (``NASDAQ.NMS``), or its contract."""
        exchange = (self.exchange or "").upper()
        return listing in (exchange, exchange.partition(".")[0], str(self.conid))

    @property
    def market(self) -> Market:
        """Calendar and time zone; those of the US for an exchange that is not in the table."""
        return market_of(self.exchange) or US


@dataclass(frozen=True)
class Account:
    """An account with what it holds, in IBKR's own field names; ``paper`` is None where IBKR does not tell."""

    account_id: str
    title: str
    currency: str | None
    paper: bool | None
    simulated: bool
    summary: dict[str, Any]
    positions: list[dict[str, Any]]


class Gateway:
    """A connection to the gateway; TLS is verified against ``ca_file``, or the system's authorities without one."""

    def __init__(self, url: str, ca_file: Path | None, *, timeout: float = 30, spacing: float = REQUEST_SPACING):
        """Connect lazily; ``timeout`` and ``spacing`` between requests are in seconds."""
        self._url, self._ca_file, self._timeout = url, ca_file, timeout
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
        try:
            said = answer.json()
        except ValueError:
            said = None
        reachable, logged_in, reason = login_status(answer.status_code, said)
        return GatewayState(True, reachable, logged_in, simulated, reason)

    @functools.cached_property
    def _broker(self) -> "ReadOnlyClient":
        # Only a process that asks for more than the state pays for the import.
        from ibkr_backend.broker import ReadOnlyClient

        return ReadOnlyClient(self._url, self._ca_file, self._timeout)

    def _ask(self, operation: str, *arguments: Any, **options: Any) -> tuple[Any, Source]:
        """Call an operation of ibind's client, within the limits; returns its data and who answered."""
        from ibind.support.errors import ExternalBrokerError

        for attempt in range(1, ATTEMPTS + 1):
            time.sleep(max(0.0, self._next_request - time.monotonic()))
            self._next_request = time.monotonic() + self._spacing
            try:
                answer = getattr(self._broker, operation)(*arguments, **options)
                return answer.data, "simulated" if self._broker.simulated else "ibkr"
            except TimeoutError:
                raise GatewayError("the gateway does not answer: no answer in time") from None
            except ExternalBrokerError as error:
                status, words = error.status_code, str(error if error.status_code else first_cause(error))
                if status not in (429, 500, 502, 503, 504) or attempt == ATTEMPTS:
                    break
            time.sleep(self._spacing * 2**attempt)
        # ibind's text ends in what the gateway said.
        words = words.rpartition(" :: ")[2][:200]
        if status is None:
            raise GatewayError(f"the gateway does not answer: {words}")
        if status == 401:
            raise NotLoggedInError("nobody is logged in at the gateway")
        if status == 429:
            raise GatewayError("IBKR's request limit is reached (HTTP 429)")
        if status == 500 and ("no data" in words.lower() or "data unavailable" in words.lower()):
            raise NoDataError(f"IBKR has no data for this request: {words}")
        raise GatewayError(f"the gateway answered HTTP {status}: {words}")

    def tickle(self) -> bool:
        """Keep the session; returns whether IBKR still takes it as authenticated."""
        answer, _ = self._ask("tickle")
        try:
            return bool(answer["iserver"]["authStatus"]["authenticated"])
        except (KeyError, TypeError):
            return False

    def reopen_session(self) -> None:
        """Ask IBKR to open the brokerage session again; never in place of another one of the same user."""
        self._ask("initialize_brokerage_session", compete=False)

    def accounts(self) -> list[Account]:
        """Return every account with summary and positions.

        Raises:
            GatewayError: an answer is missing or cannot be read.
        """
        try:
            trading, source = self._ask("receive_brokerage_accounts")
            paper = trading.get("isPaper") if isinstance(trading, dict) else None
            found = []
            # IBKR answers nothing else about a portfolio before this was asked.
            for entry in self._ask("portfolio_accounts")[0]:
                account = entry["accountId"]
                summary = self._ask("portfolio_summary", account)[0]
                if not isinstance(summary, dict):
                    raise TypeError
                found.append(
                    Account(
                        account,
                        entry.get("accountTitle") or entry.get("displayName") or account,
                        entry.get("currency"),
                        # Paper accounts are named so too, where the answer does not say it.
                        paper if paper is not None else account.startswith("D"),
                        source == "simulated",
                        summary,
                        self._positions(account),
                    )
                )
        except (KeyError, TypeError, AttributeError):
            raise GatewayError("the gateway's answer about the accounts cannot be read") from None
        return found

    def _positions(self, account: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for page in range(MAX_POSITION_PAGES):
            some = self._ask("positions", account, page=page)[0]
            rows += some
            if len(some) < POSITIONS_A_PAGE:
                return rows
        raise GatewayError(f"account {account} has more than {MAX_POSITION_PAGES * POSITIONS_A_PAGE} positions")

    def find_stock(self, symbol: str) -> Stock:
        """Return the stock or fund listed under ``symbol``: at the exchange or of the contract that it names, else the
        first that IBKR finds."""
        ticker, listing = ticker_and_listing(symbol)
        found, source = self._ask("search_contract_by_symbol", ticker)
        stocks = []
        try:
            for contract in found if isinstance(found, list) else []:
                kinds = {section.get("secType") for section in contract.get("sections", [])}
                if contract.get("symbol", "").upper() == ticker and "STK" in kinds:
                    stocks.append(Stock(int(contract["conid"]), contract.get("description"), source))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise GatewayError(f"the gateway's answer to the search for {symbol} cannot be read") from None
        if not stocks:
            raise GatewayError(f"IBKR knows no stock with the symbol {ticker}")
        for stock in stocks:
            if listing is None or stock.is_listed(listing):
                return stock
        known = ", ".join(f"{ticker}@{stock.exchange} (contract {stock.conid})" for stock in stocks)
        raise GatewayError(f"IBKR knows no stock {symbol}, only {known}")

    def daily_bars(self, stock: Stock, start: date, last: date, *, newest: bool = True) -> list[Bar]:
        """Return the daily bars from ``start`` to ``last``, ascending; with ``newest`` the last is today.

        IBKR answers with the newest ``MAX_POINTS`` points up to ``startTime``, so this pages back until ``start`` or
        the beginning of the history is reached. Either all pages are returned or an error is raised.

        Raises:
            NoDataError: IBKR has no bar at all.
            GatewayError: anything else, such as pages that come from different sources.
        """
        bars: dict[date, Bar] = {}
        before = datetime.combine(last + timedelta(days=1), time_of_day(), stock.market.zone)
        while True:
            try:
                answer, source = self._ask(
                    "marketdata_history_by_conid",
                    str(stock.conid),
                    "1d",
                    period=f"{min(MAX_POINTS, (before.date() - start).days + 1)}d",
                    outside_rth="false",
                    start_time=before.astimezone(UTC) if bars or not newest else None,
                )
            except NoDataError:
                if not bars:
                    raise
                break
            if source != stock.source:
                raise GatewayError("real and simulated answers came from one gateway: nothing is kept")
            try:
                page = [Bar.from_point(point, stock.market) for point in answer["data"]]
            except (ValueError, TypeError, KeyError):
                raise GatewayError("the gateway's history cannot be read") from None
            older = {bar.date: bar for bar in page if bar.date < before.date()}
            if not older:
                break
            bars = older | bars
            before = datetime.combine(min(older), time_of_day(), stock.market.zone)
            if before.date() <= start:
                break
        if not bars:
            raise NoDataError("IBKR has no daily history for this contract")
        return [bars[day] for day in sorted(bars) if day >= start]
