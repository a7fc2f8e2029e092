"""What is known of the backups, for the stack's page and for Prometheus."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from backup_base import log

#: What can be wrong; the metric ``backup_alert`` has each.
ALERTS = ("repository", "failed", "missed", "copy", "archive", "drill")
#: How much later than it was due, and than the last one took, a backup is missed.
GRACE = timedelta(hours=1)
#: Seconds between two looks.
PAUSE = 30.0


def age(moment: datetime, now: datetime) -> str:
    """Say how long ago something was."""
    minutes = int((now - moment).total_seconds() // 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 2880 else f"{minutes // 1440} d"


def next_time(schedule: list[str], after: datetime) -> datetime:
    """Find the next time of a schedule.

    Args:
        schedule: Times of day as ``HH:MM``.
        after: Moment before it.

    Returns:
        The first such time that is later than `after`.
    """
    times = []
    for each in schedule:
        hour, minute = map(int, each.split(":"))
        today = after.replace(hour=hour, minute=minute, second=0, microsecond=0)
        times.append(today if today > after else today + timedelta(days=1))
    return min(times)


def missed_since(schedule: list[str], last: datetime, took: timedelta, now: datetime) -> datetime | None:
    """Find the time at which a backup was due that is not there.

    Args:
        schedule: Times of day as ``HH:MM``.
        last: When the newest complete backup began, or when the repository was made.
        took: How long the newest one took.
        now: The time.

    Returns:
        The first such time, once a backup could have been made since then.
    """
    due = next_time(schedule, last)
    return due if due + took + GRACE < now else None


def metrics(report: Mapping[str, Any]) -> str:
    """Write a report in Prometheus' text format.

    Args:
        report: What ``backup.report`` returned.

    Returns:
        Lines; times in seconds since 1970, sizes in bytes.
    """

    def seconds(moment: str) -> float:
        return datetime.fromisoformat(moment).timestamp()

    raised = {each["kind"] for each in report["alerts"]}
    newest, drill = report["newest"], report["drill"]
    found: list[tuple[str, str, dict[str, float]]] = [
        (
            "backup_alert",
            "Whether something is wrong",
            {f'kind="{kind}"': kind in raised for kind in ALERTS},
        ),
        ("backup_complete", "Backups that are complete", {"": report["backups"]}),
    ]
    if report["free_bytes"] is not None:
        found.append(("backup_free_bytes", "Room on the disk of the repository", {"": report["free_bytes"]}))
    if newest:
        found += [
            ("backup_newest_timestamp_seconds", "When the newest was complete", {"": seconds(newest["finished"])}),
            ("backup_newest_duration_seconds", "How long the newest took", {"": newest["seconds"]}),
        ]
        if newest["repository_bytes"] is not None:
            words = "Size of the repository when the newest was complete"
            found.append(("backup_repository_bytes", words, {"": newest["repository_bytes"]}))
    copies = {f'copy="{each["name"]}"': seconds(each["finished"]) for each in report["copies"] if each["finished"]}
    if copies:
        found.append(("backup_copy_timestamp_seconds", "When a copy was last complete", copies))
    if drill:
        found += [
            ("backup_drill_timestamp_seconds", "When the last drill ended", {"": seconds(drill["finished"])}),
            ("backup_drill_duration_seconds", "How long its restore took", {"": drill["seconds"]}),
            ("backup_drill_problems", "What it found wrong", {"": len(drill["problems"])}),
        ]
    lines = []
    for name, words, values in found:
        lines += [f"# HELP {name} {words}", f"# TYPE {name} gauge"]
        lines += [f"{name}{f'{{{label}}}' if label else ''} {float(value)!r}" for label, value in values.items()]
    return "\n".join(lines) + "\n"


class Reporter:
    """Looks every now and then, and answers with what was seen last, so that nobody can make it work."""

    def __init__(self, look: Callable[[datetime], dict[str, Any]]) -> None:
        """Remember how to look."""
        self._look = look
        self.seen: dict[str, Any] | None = None

    def refresh(self) -> None:
        """Look once."""
        try:
            self.seen = self._look(datetime.now(UTC))
        except Exception as error:  # the next look may succeed; until then the time of the last one tells
            log(f"The state of the backups cannot be read: {error}")

    def answer(self, path: str) -> tuple[HTTPStatus, str, str]:
        """Answer a request.

        Args:
            path: What is asked for.

        Returns:
            Status, type and content.
        """
        if path not in ("/status", "/metrics"):
            return HTTPStatus.NOT_FOUND, "text/plain", "There are /status and /metrics.\n"
        if self.seen is None:
            return HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", "The repository has not been read yet.\n"
        if path == "/status":
            return HTTPStatus.OK, "application/json", json.dumps(self.seen)
        return HTTPStatus.OK, "text/plain; version=0.0.4", metrics(self.seen)

    def serve(self, port: int) -> ThreadingHTTPServer:
        """Begin to look and to answer.

        Args:
            port: Where.

        Returns:
            The server.
        """
        reporter = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                """Answer."""
                status, kind, content = reporter.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content.encode())))
                self.end_headers()
                self.wfile.write(content.encode())

            def log_message(self, format: str, *words: object) -> None:
                """Say nothing of each request."""

        def look_on() -> None:
            pause = threading.Event()
            while True:
                self.refresh()
                pause.wait(PAUSE)

        server = ThreadingHTTPServer(("", port), Handler)
        server.daemon_threads = True
        for run in (look_on, server.serve_forever):
            threading.Thread(target=run, daemon=True).start()
        return server


def sentences(report: Mapping[str, Any]) -> Iterator[str]:
    """Print what is wrong as ``make status`` reads it."""
    for each in report["alerts"]:
        yield f"ALERT {each['text']}"
