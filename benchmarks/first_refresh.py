#!/usr/bin/env python3
"""Tells how long the first refresh of all symbols took, from the logs of a stack that has just been started.

Usage: first_refresh.py [STACK]

The span is that from the arrival of the first task until the last symbol's bars are in PostgreSQL.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime


def log(container: str) -> str:
    """Return what a container has said."""
    done = subprocess.run(["docker", "logs", container], check=True, capture_output=True, text=True)
    return done.stdout + done.stderr


def main() -> None:
    """Read the logs and print the figures."""
    stack = sys.argv[1] if len(sys.argv) > 1 else "quantops"
    moments, symbols, bars, begun = [], [], 0, None
    for line in log(f"{stack}-celery-worker").splitlines():
        moment = re.match(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) ", line)
        if moment and "refresh_all_bars" in line and "received" in line and begun is None:
            begun = datetime.fromisoformat(moment[1])
        fetched = re.search(r"refresh_bars\[.* succeeded in .*'symbol': '(\w+)'.*'fetched': (\d+)", line)
        if moment and fetched and fetched[1] not in symbols:
            symbols.append(fetched[1])
            bars += int(fetched[2])
            moments.append(datetime.fromisoformat(moment[1]))
    if begun is None or not moments:
        sys.exit("The worker's log holds no first refresh.")
    seconds = round((moments[-1] - begun).total_seconds(), 1)
    print(json.dumps({"symbols": symbols, "bars": bars, "seconds": seconds}, indent=2))


if __name__ == "__main__":
    main()
