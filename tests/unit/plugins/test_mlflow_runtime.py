"""Programs that the mlflow role mounts into its containers: what does not need MLflow."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime

import pytest
from collection_under_test import program

storage, gc, gc_daily = (program(f"roles/mlflow/files/runtime/{name}.py") for name in ("storage", "gc", "gc_daily"))


def test_a_long_listing_ends_in_time_and_says_so() -> None:
    pages = iter([[("1/run/a", 5), ("2/run/b", 7)], [("1/run/c", 9)]])
    sizes, objects, complete = storage.count(pages, time.monotonic())
    assert (sizes, objects, complete) == ({"1": 5, "2": 7}, 2, False)
    assert next(pages) == [("1/run/c", 9)]  # not asked for
    [first, *_others] = storage.figures(sizes, objects, complete, {})
    assert first == "12 0 bytes of artifacts (the first 2 objects; make mlflow-gc counts all)"


def test_the_largest_experiments_are_named() -> None:
    pages = [[(f"{number}/run/a", number) for number in range(1, 9)]]
    sizes, objects, complete = storage.count(pages, time.monotonic() + 60)
    lines = list(storage.figures(sizes, objects, complete, {"8": "night\nshift", "7": "x" * 200}))
    assert lines == [
        "36 0 bytes of artifacts (8 objects)",
        "8 0 bytes of artifacts of experiment night shift",
        f"7 0 bytes of artifacts of experiment {'x' * 80}",
        *(f"{number} 0 bytes of artifacts of no experiment in {number}" for number in (6, 5, 4)),
    ]


def test_an_empty_store_has_a_figure() -> None:
    assert list(storage.figures(Counter(), 0, True, {})) == ["0 0 bytes of artifacts (0 objects)"]


@pytest.mark.parametrize(("age", "seconds"), [("30d", 2592000), ("1d12h", 129600), ("5m3s", 303), ("0d", 0)])
def test_ages(age: str, seconds: int) -> None:
    assert gc.seconds_of(age) == seconds


@pytest.mark.parametrize("age", ["", "30", "d", "-1d", "1h1d", "30d "])
def test_what_is_no_age_removes_nothing(age: str) -> None:
    with pytest.raises(SystemExit, match="is no age"):
        gc.seconds_of(age)


def test_the_next_time_is_always_later() -> None:
    now = datetime(2026, 2, 28, 3, 30, tzinfo=UTC)
    assert gc_daily.next_time("03:31", now) == datetime(2026, 2, 28, 3, 31, tzinfo=UTC)
    assert gc_daily.next_time("03:30", now) == datetime(2026, 3, 1, 3, 30, tzinfo=UTC)
    assert gc_daily.next_time("00:00", now) == datetime(2026, 3, 1, 0, 0, tzinfo=UTC)


def test_a_failed_collection_is_seen_and_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Unhealthy until one succeeds, and tried again long before the next day."""
    statuses, waits, seen = iter([1, 0]), [], []

    def wait(moment: datetime) -> None:
        seen.append((tmp_path / "failed").exists())
        waits.append(moment)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(gc_daily, "FAILED", tmp_path / "failed")
    monkeypatch.setattr(gc_daily, "wait_until", wait)
    monkeypatch.setattr(gc_daily, "collect", lambda _url, _age: next(statuses) == 0)
    with pytest.raises(KeyboardInterrupt):
        gc_daily.main("03:30", "http://mlflow", "30d")
    assert seen == [False, True, False]
    assert (waits[1] - datetime.now(UTC)).total_seconds() <= 600
    assert waits[2].strftime("%H:%M") == "03:30"
