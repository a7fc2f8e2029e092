"""Removes what was deleted in MLflow once a day: ``python gc_daily.py HH:MM URL AGE``, with the time in UTC.

While the last attempt has failed, the file `FAILED` exists, which makes the container unhealthy, and the next attempt
follows after `RETRY`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

FAILED = Path("/tmp/failed")
RETRY = timedelta(minutes=10)
TIMEOUT = timedelta(hours=1)
#: Longest sleep in seconds; the wall clock may be set meanwhile.
LONGEST_SLEEP = 30.0


def next_time(schedule: str, after: datetime) -> datetime:
    """Find the next time of a schedule.

    Args:
        schedule: Time of day as ``HH:MM``.
        after: Moment before it.

    Returns:
        The first such time of day that is later than `after`.
    """
    hour, minute = map(int, schedule.split(":"))
    today = after.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return today if today > after else today + timedelta(days=1)


def wait_until(moment: datetime) -> None:
    """Sleep until a moment of the wall clock."""
    while (left := (moment - datetime.now(UTC)).total_seconds()) > 0:
        time.sleep(min(left, LONGEST_SLEEP))


def collect(url: str, age: str) -> bool:
    """Remove what was deleted.

    Args:
        url: MLflow's address.
        age: How long ago, at least.

    Returns:
        Whether that succeeded.
    """
    command = [sys.executable, str(Path(__file__).with_name("gc.py")), url, age, "remove"]
    try:
        status = subprocess.run(command, timeout=TIMEOUT.total_seconds(), check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"Not finished within {TIMEOUT}, stopped", flush=True)
        return False
    if status:
        print(f"Failed with status {status}", flush=True)
    return status == 0


def main(schedule: str, url: str, age: str) -> None:
    """Run for ever."""
    moment = next_time(schedule, datetime.now(UTC))
    while True:
        print(f"Next collection: {moment:%Y-%m-%d %H:%M} UTC", flush=True)
        wait_until(moment)
        if collect(url, age):
            FAILED.unlink(missing_ok=True)
            moment = next_time(schedule, datetime.now(UTC))
        else:
            FAILED.touch()
            moment = datetime.now(UTC) + RETRY


if __name__ == "__main__":
    main(*sys.argv[1:])
