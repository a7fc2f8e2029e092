"""Trading days of an exchange. As a program (see `isolated`): the calendar brings pandas along, 80 MB."""

import functools
import json
import os
import sys
import tempfile
from datetime import date
from pathlib import Path

from ibkr_backend import isolated

# One span for all symbols: starting the program costs seconds, another decade nothing.
EARLIEST = 2000


def trading_days(calendar: str, first: date, last: date) -> list[date]:
    """Return the days on which the exchange of a calendar (ISO 10383 code) traded, ascending, both ends included."""
    years = _years(calendar, min(first.year, EARLIEST), last.year)
    return [day for day in years if first <= day <= last]


@functools.lru_cache(maxsize=32)
def _years(calendar: str, first: int, last: int) -> tuple[date, ...]:
    # A container's worker processes share what one of them asked for; a new image begins with an empty directory.
    kept = Path(tempfile.gettempdir(), f"ibkr-backend-{os.getuid()}-{calendar}-{first}-{last}.json")
    try:
        found = json.loads(kept.read_text())
    except (OSError, ValueError):
        found = isolated.call("ibkr_backend.trading_days", {"calendar": calendar, "first": first, "last": last})
        written = kept.with_suffix(f".{os.getpid()}")
        written.write_text(json.dumps(found))
        written.replace(kept)
    return tuple(date.fromisoformat(day) for day in found)


def main() -> None:
    """Answer one request."""
    import exchange_calendars

    asked = json.load(sys.stdin)
    start, end = f"{asked['first']}-01-01", f"{asked['last']}-12-31"
    calendar = exchange_calendars.get_calendar(asked["calendar"], start=start, end=end)
    json.dump([f"{day:%Y-%m-%d}" for day in calendar.sessions], sys.stdout)


if __name__ == "__main__":
    main()
