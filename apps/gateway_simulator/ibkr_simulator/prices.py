"""Daily prices of five US shares, split-adjusted, from the public-domain data in `bokeh-sampledata`."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")
MARKET_OPEN = time(9, 30)
MARKET_CLOSE = time(16, 0)

# Ratios at which US companies split in practice, new shares per old share.
SPLIT_RATIOS = (1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 20.0, 0.5, 0.2, 0.1)
SPLIT_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: prices in USD, volume in shares, both adjusted for splits but not for dividends."""

    day: date
    open: float
    high: float
    low: float
    close: float
    volume: int

    @property
    def start_ms(self) -> int:
        """Opening of the bar's first regular session (09:30 New York), milliseconds since the epoch."""
        return epoch_ms(self.day, MARKET_OPEN)


@dataclass(frozen=True, slots=True)
class Split:
    """`ratio` new shares for each old one, from `day` on."""

    day: date
    ratio: float


@dataclass(frozen=True, slots=True)
class Quote:
    """One line of the data set: unadjusted prices in USD, volume in shares, and the adjusted close."""

    day: date
    open: float
    high: float
    low: float
    close: float
    volume: int
    adjusted_close: float


def epoch_ms(day: date, at: time) -> int:
    """Milliseconds since the epoch of a New York wall-clock time."""
    return int(datetime.combine(day, at, NEW_YORK).timestamp()) * 1000


def read_quotes() -> dict[str, list[Quote]]:
    """Read the data set of the installed `bokeh-sampledata`, by symbol, oldest first.

    The package itself is not imported: it needs pandas, and its data file does not.

    Raises:
        FileNotFoundError: the package or its data file is missing.
    """
    spec = find_spec("bokeh_sampledata")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package bokeh-sampledata, which holds the prices, is not installed")
    quotes: dict[str, list[Quote]] = {}
    with gzip.open(Path(spec.origin).parent / "_data" / "stocks.csv.gz", "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            quotes.setdefault(row["Ticker"], []).append(
                Quote(
                    day=date.fromisoformat(row["Date"]),
                    open=float(row["Open"]),
                    high=float(row["High"]),
                    low=float(row["Low"]),
                    close=float(row["Close"]),
                    volume=int(row["Volume"]),
                    adjusted_close=float(row["Adj Close"]),
                )
            )
    return quotes


def find_splits(quotes: Sequence[Quote]) -> list[Split]:
    """Find the splits, oldest first.

    From one day to the next, close and adjusted close change by the same factor, except by a dividend (under 2 %,
    or an odd factor such as Microsoft's special dividend of 2004-11-15) or by a split, where the quotient of the two
    changes is a usual split ratio.
    """
    splits = []
    for before, after in pairwise(quotes):
        ratio = (after.adjusted_close / before.adjusted_close) / (after.close / before.close)
        known = min(SPLIT_RATIOS, key=lambda candidate: abs(ratio / candidate - 1))
        if abs(ratio / known - 1) < SPLIT_TOLERANCE:
            splits.append(Split(after.day, known))
    return splits


def adjust_for_splits(quotes: Sequence[Quote], splits: Iterable[Split]) -> list[Bar]:
    """Divide prices and multiply volumes of the days before each split by its ratio, as IBKR's TRADES history does."""
    remaining = sorted(splits, key=lambda split: split.day)
    factor = 1.0
    bars = []
    for quote in reversed(quotes):
        while remaining and quote.day < remaining[-1].day:
            factor *= remaining.pop().ratio
        bars.append(
            Bar(
                day=quote.day,
                open=round(quote.open / factor, 4),
                high=round(quote.high / factor, 4),
                low=round(quote.low / factor, 4),
                close=round(quote.close / factor, 4),
                volume=round(quote.volume * factor),
            )
        )
    return bars[::-1]


def aggregate(bars: Sequence[Bar], unit: str, size: int) -> list[Bar]:
    """Join daily bars into bars of `size` days (`d`, counted back from the newest), ISO weeks (`w`) or months (`m`)."""
    if unit == "d" and size == 1:
        return list(bars)
    groups: dict[int, list[Bar]] = {}
    for index, bar in enumerate(bars):
        if unit == "d":
            key = -((len(bars) - 1 - index) // size)
        elif unit == "w":
            key = (bar.day.toordinal() - 1) // 7 // size
        else:
            key = (bar.day.year * 12 + bar.day.month - 1) // size
        groups.setdefault(key, []).append(bar)
    return [
        Bar(
            day=group[0].day,
            open=group[0].open,
            high=max(bar.high for bar in group),
            low=min(bar.low for bar in group),
            close=group[-1].close,
            volume=sum(bar.volume for bar in group),
        )
        for group in groups.values()
    ]
