"""The replayed prices: real, and adjusted for the splits that happened."""

from __future__ import annotations

from datetime import date
from itertools import pairwise

import pytest
from ibkr_simulator.market import Market, back_in_time
from ibkr_simulator.prices import Quote, Split, adjust_for_splits, aggregate, find_splits, read_quotes


@pytest.fixture(scope="module")
def market() -> Market:
    return Market()


@pytest.mark.parametrize(
    ("symbol", "splits"),
    [
        ("AAPL", [Split(date(2000, 6, 21), 2.0), Split(date(2005, 2, 28), 2.0)]),
        ("MSFT", [Split(date(2003, 2, 18), 2.0)]),
        ("IBM", []),
        ("GOOG", []),
        ("FB", []),
    ],
)
def test_finds_the_splits_that_happened_and_no_dividend(symbol: str, splits: list[Split]) -> None:
    assert find_splits(read_quotes()[symbol]) == splits


def test_prices_before_two_splits_are_divided_by_both_and_volume_multiplied(market: Market) -> None:
    first = market.contracts[265598].bars[0]
    # Unadjusted: open 118.56, close 130.31, volume 9,616,100.
    assert (first.day, first.open, first.close, first.volume) == (date(2000, 3, 1), 29.64, 32.5775, 38_464_400)


def test_the_day_of_a_split_is_not_adjusted_for_it(market: Market) -> None:
    closes = {bar.day: bar.close for bar in market.contracts[265598].bars}
    assert closes[date(2005, 2, 28)] == 44.86
    assert closes[date(2005, 2, 25)] == pytest.approx(88.99 / 2)


def test_a_crash_is_not_taken_for_a_split(market: Market) -> None:
    # Apple warned of its profits after the close of 2000-09-28 and lost half its value overnight.
    changes = {
        (contract.symbol, after.day): after.close / before.close
        for contract in market.contracts.values()
        for before, after in pairwise(contract.bars)
    }
    halved = {key: round(change, 3) for key, change in changes.items() if change < 0.7 or change > 1.5}
    assert halved == {("AAPL", date(2000, 9, 29)): 0.481}


def test_last_prices_are_as_traded(market: Market) -> None:
    assert market.today == date(2013, 3, 1)
    assert {c.symbol: c.bars[-1].close for c in market.contracts.values()} == {
        "AAPL": 430.47,
        "FB": 27.78,
        "GOOG": 806.19,
        "IBM": 202.91,
        "MSFT": 27.95,
    }


def test_a_reverse_split_multiplies_prices() -> None:
    quotes = [
        Quote(date(2001, 1, 1), 1.0, 1.0, 1.0, 1.0, 1000, 10.0),
        Quote(date(2001, 1, 2), 10.0, 10.0, 10.0, 10.0, 100, 10.0),
    ]
    splits = find_splits(quotes)
    assert splits == [Split(date(2001, 1, 2), 0.1)]
    assert [(bar.close, bar.volume) for bar in adjust_for_splits(quotes, splits)] == [(10.0, 100), (10.0, 100)]


def test_bars_open_at_half_past_nine_in_new_york_in_winter_and_summer(market: Market) -> None:
    starts = {bar.day: bar.start_ms for bar in market.contracts[8314].bars}
    assert starts[date(2013, 3, 1)] == 1_362_148_200_000  # 14:30 UTC
    assert starts[date(2012, 7, 2)] == 1_341_235_800_000  # 13:30 UTC


def test_weeks_join_open_high_low_close_and_volume(market: Market) -> None:
    days = market.contracts[8314].bars[-5:]
    week = aggregate(days, "w", 1)[-1]
    assert (week.day, week.open, week.close) == (date(2013, 2, 25), days[0].open, 202.91)
    assert week.high == max(bar.high for bar in days) and week.low == min(bar.low for bar in days)
    assert week.volume == sum(bar.volume for bar in days)


@pytest.mark.parametrize(
    ("number", "unit", "expected"),
    [
        (1, "m", date(2012, 2, 29)),
        (13, "m", date(2011, 2, 28)),
        (1, "y", date(2011, 3, 31)),
        (-1, "m", date(2012, 4, 30)),
        (2, "w", date(2012, 3, 17)),
        (-9, "m", date(2012, 12, 31)),
    ],
)
def test_back_in_time_stays_within_the_month(number: int, unit: str, expected: date) -> None:
    assert back_in_time(date(2012, 3, 31), number, unit) == expected
