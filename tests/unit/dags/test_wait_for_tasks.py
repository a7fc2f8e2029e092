"""`wait_for_tasks`: a rotation of secrets begins only when the broker holds no task of Airflow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "roles" / "airflow" / "files" / "runtime"))

import wait_for_tasks

PREFIX = "@airflow:"


class Broker:
    """Holds what it is told, look by look; the last for ever."""

    def __init__(self, *looks: dict[str, int]) -> None:
        """Name the lengths of keys at each look."""
        self.looks, self.looked = list(looks), 0

    def llen(self, key: str) -> int:
        """Length of a list; the one without a priority is asked for first."""
        if key == f"{PREFIX}default":
            self.looked += 1
        return self.look().get(key.removeprefix(PREFIX), 0)

    def hlen(self, key: str) -> int:
        """Length of a hash."""
        return self.look().get(key.removeprefix(PREFIX), 0)

    def look(self) -> dict[str, int]:
        """What this look finds."""
        return self.looks[min(self.looked, len(self.looks)) - 1]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Time that passes by waiting only."""
    now = SimpleNamespace(value=0.0)

    def sleep(seconds: float) -> None:
        now.value += seconds

    monkeypatch.setattr(wait_for_tasks, "time", SimpleNamespace(monotonic=lambda: now.value, sleep=sleep))
    yield now


@pytest.mark.parametrize("key", ["default", "default\x06\x169", "unacked"])
def test_waits_for_what_waits_and_for_what_runs(clock: SimpleNamespace, key: str) -> None:
    """Whatever its priority; a task that runs is one that nobody has acknowledged."""
    broker = Broker({key: 2}, {key: 1}, {})
    assert wait_for_tasks.wait(broker, PREFIX, ["default"], 60) == 0
    assert broker.looked == 2 + wait_for_tasks.LOOKS


def test_a_task_that_a_worker_is_about_to_take(clock: SimpleNamespace) -> None:
    """It is in neither place for a moment."""
    broker = Broker({"default": 1}, {}, {"unacked": 1}, {})
    assert wait_for_tasks.wait(broker, PREFIX, ["default"], 60) == 0
    assert broker.looked == 3 + wait_for_tasks.LOOKS


def test_looks_again_at_the_last_moment(clock: SimpleNamespace) -> None:
    """One look that finds nothing is not enough, however little time there is."""
    broker = Broker({"default": 1}, {}, {"unacked": 1})
    assert wait_for_tasks.wait(broker, PREFIX, ["default"], 1.5) == 1


def test_gives_up(clock: SimpleNamespace) -> None:
    """And says how many are left."""
    assert wait_for_tasks.wait(Broker({"unacked": 2}), PREFIX, ["default"], 60) == 2
    assert clock.value == 60
