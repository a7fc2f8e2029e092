"""The simulated market: contracts, history and quotes, all derived from the replayed prices."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from .prices import MARKET_CLOSE, Bar, Split, adjust_for_splits, aggregate, epoch_ms, find_splits, read_quotes

MAX_POINTS = 1000
PERIOD_LIMITS = {"min": 30, "h": 8, "d": 1000, "w": 792, "m": 182, "y": 15}
BAR_SIZES = {"1min", "2min", "3min", "5min", "10min", "15min", "30min", "1h", "2h", "3h", "4h", "8h", "1d", "1w", "1m"}
BAR_SECONDS = {"d": 86_400, "w": 604_800, "m": 2_592_000}
INTRADAY = {"min", "h"}
PRICE_FACTOR = 100
VOLUME_DAYS = 90


class BadRequestError(ValueError):
    """A parameter that IBKR would refuse; its text names the parameter."""


class NoChartDataError(LookupError):
    """A well-formed request for bars that the data set does not hold."""


@dataclass(frozen=True)
class Contract:
    """A share with its IBKR contract id, listing exchange and split-adjusted daily bars, oldest first."""

    conid: int
    symbol: str
    company: str
    exchange: str
    industry: str
    category: str
    bars: tuple[Bar, ...]
    splits: tuple[Split, ...]

    @property
    def text(self) -> str:
        """The company's name with the mark that these prices are simulated."""
        return f"{self.company} (SIMULATED)"

    def found(self) -> dict[str, Any]:
        """One result of `/iserver/secdef/search`."""
        return {
            "conid": str(self.conid),
            "companyHeader": f"{self.text} - {self.exchange}",
            "companyName": self.text,
            "symbol": self.symbol,
            "description": self.exchange,
            "restricted": None,
            "fop": None,
            "opt": None,
            "war": None,
            "sections": [{"secType": "STK"}],
        }

    def info(self) -> dict[str, Any]:
        """Answer `/iserver/contract/{conid}/info`."""
        return {
            "cfi_code": "",
            "symbol": self.symbol,
            "cusip": None,
            "expiry_full": None,
            "con_id": self.conid,
            "maturity_date": None,
            "industry": self.industry,
            "instrument_type": "STK",
            "trading_class": self.symbol,
            "valid_exchanges": f"SMART,{self.exchange}",
            "allow_sell_long": False,
            "is_zero_commission_security": False,
            "local_symbol": self.symbol,
            "contract_clarification_type": None,
            "contract_month": None,
            "classifier": None,
            "currency": "USD",
            "text": None,
            "underlying_con_id": 0,
            "r_t_h": True,
            "multiplier": None,
            "underlying_issuer": None,
            "company_name": self.text,
            "smart_available": True,
            "exchange": "SMART",
            "category": self.category,
        }

    def definition(self) -> dict[str, Any]:
        """One result of `/iserver/secdef/info`."""
        return {
            "conid": self.conid,
            "symbol": self.symbol,
            "secType": "STK",
            "exchange": "SMART",
            "listingExchange": self.exchange,
            "right": "?",
            "strike": 0.0,
            "currency": "USD",
            "cusip": None,
            "coupon": "No Coupon",
            "desc1": self.symbol,
            "desc2": self.text,
            "maturityDate": None,
            "multiplier": None,
            "tradingClass": self.symbol,
            "validExchanges": f"SMART,{self.exchange}",
        }

    def details(self) -> dict[str, Any]:
        """What `/trsrv/secdef` and the positions say of a contract."""
        return {
            "conid": self.conid,
            "currency": "USD",
            "assetClass": "STK",
            "expiry": None,
            "lastTradingDay": None,
            "putOrCall": None,
            "strike": "0",
            "multiplier": 0.0,
            "undConid": 0,
            "name": self.text,
            "fullName": self.symbol,
            "ticker": self.symbol,
            "listingExchange": self.exchange,
            "allExchanges": f"SMART,{self.exchange}",
            "sector": self.industry,
            "sectorGroup": self.category,
            "group": self.category,
            "countryCode": "US",
            "type": "COMMON",
            "hasOptions": False,
            "isUS": True,
            "incrementRules": [{"lowerEdge": 0.0, "increment": 0.01}],
            "displayRule": {
                "magnification": 0,
                "displayRuleStep": [{"decimalDigits": 2, "lowerEdge": 0.0, "wholeDigits": 4}],
            },
            "isEventContract": False,
            "pageSize": 100,
        }


# Nothing can be ordered here, so no type of order and no account is offered.
RULES: dict[str, Any] = {
    "algoEligible": False,
    "overnightEligible": False,
    "costReport": False,
    "canTradeAcctIds": [],
    "error": "SIMULATED gateway: there are no orders here",
    "orderTypes": [],
    "ibAlgoTypes": [],
    "fraqTypes": [],
    "forceOrderPreview": False,
    "cqtTypes": [],
    "orderDefaults": {},
    "orderTypesOutside": [],
    "tifTypes": [],
    "tifDefaults": {},
    "incrementRules": [{"lowerEdge": 0.0, "increment": 0.01}],
    "increment": 0.01,
    "incrementDigits": 2,
    "negativeCapable": False,
    "priceMagnifier": None,
    "preview": False,
    "hasSecondary": False,
}


LISTINGS = (
    (265598, "AAPL", "APPLE INC", "NASDAQ", "Technology", "Computers"),
    (107113386, "FB", "FACEBOOK INC-A", "NASDAQ", "Communications", "Internet"),
    (208813720, "GOOG", "GOOGLE INC", "NASDAQ", "Communications", "Internet"),
    (8314, "IBM", "INTL BUSINESS MACHINES CORP", "NYSE", "Technology", "Computers"),
    (272093, "MSFT", "MICROSOFT CORP", "NASDAQ", "Technology", "Software"),
)
ALIASES = {"META": "FB"}


def split_duration(text: str, name: str) -> tuple[int, str]:
    """Split IBKR's duration syntax, such as `6d` or `5min`, into number and unit."""
    match = re.fullmatch(r"([1-9]\d{0,3})(min|h|d|w|m|y)", text)
    if match is None:
        raise BadRequestError(f"{name}: {text!r} is not a duration such as 1min, 2h, 6d, 1w, 3m or 1y")
    return int(match[1]), match[2]


def parse_start_time(text: str) -> int:
    """Read `YYYYMMDD-HH:MM:SS` (UTC) as milliseconds since the epoch."""
    try:
        return int(datetime.strptime(text, "%Y%m%d-%H:%M:%S").replace(tzinfo=UTC).timestamp()) * 1000
    except ValueError:
        raise BadRequestError(f"startTime: {text!r} is not YYYYMMDD-HH:MM:SS in UTC") from None


def utc_text(ms: int) -> str:
    """Milliseconds since the epoch in IBKR's UTC form `YYYYMMDD-HH:MM:SS`."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y%m%d-%H:%M:%S")


def back_in_time(day: date, number: int, unit: str) -> date:
    """The day `number` weeks, months or years before `day`."""
    if unit == "w":
        return day - timedelta(weeks=number)
    months = day.year * 12 + day.month - 1 - number * (12 if unit == "y" else 1)
    year, month = divmod(months, 12)
    next_month = date(year + (month == 11), (month + 1) % 12 + 1, 1)
    return date(year, month + 1, min(day.day, (next_month - timedelta(days=1)).day))


def short_number(number: float) -> str:
    """A volume as IBKR shortens it: `950`, `19.7K`, `19.7M`."""
    for unit, size in (("M", 1_000_000), ("K", 1000)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


class Market:
    """Everything the simulated gateway answers from; its clock stands still at the close of the last day of data."""

    def __init__(self) -> None:
        """Load the prices of all contracts.

        Raises:
            FileNotFoundError: the price data are not installed.
        """
        quotes = read_quotes()
        self.contracts: dict[int, Contract] = {}
        for conid, symbol, company, exchange, industry, category in LISTINGS:
            splits = find_splits(quotes[symbol])
            bars = tuple(adjust_for_splits(quotes[symbol], splits))
            contract = Contract(conid, symbol, company, exchange, industry, category, bars, tuple(splits))
            self.contracts[conid] = contract
        self.today = max(contract.bars[-1].day for contract in self.contracts.values())
        self.now_ms = epoch_ms(self.today, MARKET_CLOSE)

    def by_symbol(self, symbol: str) -> Contract | None:
        """The contract of a ticker symbol, in any case; `META` finds Facebook."""
        wanted = ALIASES.get(symbol.upper(), symbol.upper())
        return next((contract for contract in self.contracts.values() if contract.symbol == wanted), None)

    def by_conid(self, conid: object) -> Contract:
        """The contract of an id, given as text or number, with or without an exchange as in `265598@SMART`.

        Raises:
            BadRequestError: it is not in the simulated market.
        """
        number = str(conid).partition("@")[0]
        contract = self.contracts.get(int(number)) if number.isascii() and number.isdigit() else None
        if contract is None:
            raise BadRequestError(f"conid: {conid!r} is not in the simulated market")
        return contract

    def search(self, text: str, *, by_name: bool) -> list[Contract]:
        """Contracts of a ticker symbol, or of a part of the company's name."""
        if by_name:
            return [contract for contract in self.contracts.values() if text.upper() in contract.company]
        found = self.by_symbol(text)
        return [found] if found else []

    def history(
        self, contract: Contract, period: str, bar: str, start_time: str | None = None, direction: str = "-1"
    ) -> dict[str, Any]:
        """Answer `/iserver/marketdata/history`: at most 1000 bars, oldest first.

        `startTime` is where the window ends: bars begin before it (direction -1, the default). With direction 1 the
        window begins there. Days of a period are trading days, the other units calendar time.

        Raises:
            BadRequestError: a parameter is not in IBKR's syntax or range.
            NoChartDataError: the window holds no bar, or the bars asked for are shorter than a day.
        """
        number, unit = split_duration(period, "period")
        if number > PERIOD_LIMITS[unit]:
            raise BadRequestError(f"period: {period!r} is longer than {PERIOD_LIMITS[unit]}{unit}")
        size, bar_unit = split_duration(bar, "bar")
        if bar not in BAR_SIZES:
            raise BadRequestError(f"bar: {bar!r} is none of {', '.join(sorted(BAR_SIZES))}")
        if direction not in {"-1", "1"}:
            raise BadRequestError(f"direction: {direction!r} is neither -1 nor 1")
        if direction == "1" and start_time is None:
            raise BadRequestError("startTime: needed with direction 1")
        anchor = self.now_ms if start_time is None else parse_start_time(start_time)
        if unit in INTRADAY or bar_unit in INTRADAY:
            raise NoChartDataError("daily data only")

        window = self._window(contract.bars, anchor, number, unit, forward=direction == "1")
        joined = aggregate(window, bar_unit, size)
        bars = joined[:MAX_POINTS] if direction == "1" else joined[-MAX_POINTS:]
        if not bars:
            raise NoChartDataError("no bars in the window")
        start = bars[0].start_ms
        highest = max(bars, key=lambda item: item.high)
        lowest = min(bars, key=lambda item: item.low)

        def extreme(item: Bar, price: float) -> str:
            return f"{round(price * PRICE_FACTOR)}/{item.volume}/{(item.start_ms - start) // 60_000}"

        return {
            "serverId": "SIMULATED",
            "symbol": contract.symbol,
            "text": contract.text,
            "priceFactor": PRICE_FACTOR,
            "startTime": utc_text(start),
            "high": extreme(highest, highest.high),
            "low": extreme(lowest, lowest.low),
            "timePeriod": period,
            "barLength": size * BAR_SECONDS[bar_unit],
            "mdAvailability": "Z",
            "mktDataDelay": 0,
            "outsideRth": False,
            "tradingDayDuration": 390,
            "volumeFactor": 1,
            "priceDisplayRule": 1,
            "priceDisplayValue": "2",
            "chartPanStartTime": utc_text(start),
            "direction": int(direction),
            "negativeCapable": False,
            "messageVersion": 2,
            "data": [
                {"o": b.open, "c": b.close, "h": b.high, "l": b.low, "v": b.volume, "t": b.start_ms} for b in bars
            ],
            "points": len(bars),
            "travelTime": 0,
        }

    @staticmethod
    def _window(bars: tuple[Bar, ...], anchor: int, number: int, unit: str, forward: bool) -> tuple[Bar, ...]:
        at = bisect_left(bars, anchor, key=lambda bar: bar.start_ms)
        if unit == "d":
            return bars[at : at + number] if forward else bars[max(0, at - number) : at]
        moment = datetime.fromtimestamp(anchor / 1000, UTC)
        other_day = back_in_time(moment.date(), -number if forward else number, unit)
        other = int(datetime.combine(other_day, moment.timetz()).timestamp()) * 1000
        end = bisect_left(bars, other, key=lambda bar: bar.start_ms)
        return bars[at:end] if forward else bars[end:at]

    def snapshot(self, contract: Contract, fields: Iterable[str]) -> dict[str, Any]:
        """One row of `/iserver/marketdata/snapshot`; bid and ask are not in the data and stay out."""
        last, previous = contract.bars[-1], contract.bars[-2]
        year = [bar for bar in contract.bars if bar.day > back_in_time(last.day, 1, "y")]
        change = last.close - previous.close
        known = {
            "31": f"{last.close:.2f}",
            "55": contract.symbol,
            "70": f"{last.high:.2f}",
            "71": f"{last.low:.2f}",
            "82": f"{change:+.2f}",
            "83": round(100 * change / previous.close, 2),
            "87": short_number(last.volume),
            "6004": contract.exchange,
            "6008": contract.conid,
            "6070": "STK",
            "6509": "Z",
            "7051": contract.text,
            "7094": str(contract.conid),
            # Nothing can be traded here.
            "7184": "0",
            "7219": contract.symbol,
            "7221": contract.exchange,
            "7280": contract.industry,
            "7281": contract.category,
            "7282": short_number(sum(bar.volume for bar in contract.bars[-VOLUME_DAYS:]) / VOLUME_DAYS),
            "7293": f"{max(bar.high for bar in year):.2f}",
            "7294": f"{min(bar.low for bar in year):.2f}",
            "7295": f"{last.open:.2f}",
            "7296": f"{last.close:.2f}",
            "7682": f"{last.close - last.open:+.2f}",
            "7741": f"{previous.close:.2f}",
            "7762": str(last.volume),
            "7768": "0",
        }
        values = {field: known[field] for field in fields if field in known}
        return {
            "conid": contract.conid,
            "conidEx": str(contract.conid),
            "_updated": self.now_ms,
            "server_id": "SIMULATED",
            "6119": "SIMULATED",
            "6509": "Z",
            **values,
        }
