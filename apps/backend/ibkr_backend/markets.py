"""Where an exchange is: its calendar of trading days and its time zone."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

# Every exchange in the table has closed and settled its daily bar by then, local time.
SETTLED_AT = time(18)


@dataclass(frozen=True)
class Market:
    """A calendar of `exchange_calendars` (an ISO 10383 code) and the IANA time zone in which its days are counted."""

    calendar: str
    zone: ZoneInfo

    def day_of(self, milliseconds: int) -> date:
        """Return the trading day of a moment given in milliseconds since the epoch."""
        return datetime.fromtimestamp(milliseconds / 1000, UTC).astimezone(self.zone).date()

    def last_settled_day(self, now: datetime) -> date:
        """Return the newest day whose bar will not change any more."""
        here = now.astimezone(self.zone)
        return here.date() if here.time() >= SETTLED_AT else here.date() - timedelta(days=1)


def _market(calendar: str, zone: str) -> Market:
    return Market(calendar, ZoneInfo(zone))


US = _market("XNYS", "America/New_York")
# Source of the names: IBKR's exchange listings.
MARKETS = {
    **dict.fromkeys(("NASDAQ", "NYSE", "ARCA", "AMEX", "BATS", "ISLAND", "PINK", "SMART", "IEX"), US),
    **dict.fromkeys(("LSE", "LSEETF"), _market("XLON", "Europe/London")),
    **dict.fromkeys(("IBIS", "IBIS2", "FWB", "FWB2"), _market("XETR", "Europe/Berlin")),
    "SBF": _market("XPAR", "Europe/Paris"),
    "AEB": _market("XAMS", "Europe/Amsterdam"),
    "BM": _market("XMAD", "Europe/Madrid"),
    "BVME": _market("XMIL", "Europe/Rome"),
    "EBS": _market("XSWX", "Europe/Zurich"),
    "SFB": _market("XSTO", "Europe/Stockholm"),
    "TSE": _market("XTSE", "America/Toronto"),
    "TSEJ": _market("XTKS", "Asia/Tokyo"),
    "SEHK": _market("XHKG", "Asia/Hong_Kong"),
    "SGX": _market("XSES", "Asia/Singapore"),
    "ASX": _market("XASX", "Australia/Sydney"),
}


def market_of(exchange: str | None) -> Market | None:
    """Return the market of IBKR's name of an exchange, such as ``NASDAQ`` or ``NASDAQ.NMS``; None if it is unknown."""
    return MARKETS.get((exchange or "").upper().partition(".")[0])
