"""Prices in a file beside the DAGs, and features of them."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

from airflow.sdk import Asset

#: The table that one workflow writes, and another waits for.
PRICES = Asset("desk_prices")
#: A random walk of a symbol that does not exist: replace it with a source of your own.
FILE = Path(__file__).with_name("prices.csv")


def read_prices() -> list[tuple[str, str, float]]:
    """Read the file.

    Returns:
        Symbol, day (YYYY-MM-DD) and close of each row.
    """
    with FILE.open(newline="") as file:
        return [(row["symbol"], row["day"], float(row["close"])) for row in csv.DictReader(file)]


def examples_of(closes: list[float], days: int = 5) -> tuple[list[list[float]], list[int]]:
    """Turn closes into examples to learn from.

    Args:
        closes: Closes in the order of their days.
        days: How many returns an example looks back at.

    Returns:
        For each day the returns up to it, and whether the next one is positive.
    """
    returns = [after / before - 1 for before, after in pairwise(closes)]
    starts = range(len(returns) - days)
    return [returns[start : start + days] for start in starts], [int(returns[start + days] > 0) for start in starts]
