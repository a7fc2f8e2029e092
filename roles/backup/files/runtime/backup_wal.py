"""Finds what PostgreSQL's archive lacks, from the names of its segments.

The name of a segment has the timeline and the position in 24 hexadecimal digits. A restore begins a new timeline in the
segment in which it ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

#: A segment as pgBackRest stores it: with the checksum of its content.
STORED = re.compile(r"([0-9A-F]{24})-[0-9a-f]{40}(?:\.\w+)?")
#: Segments of 16 MiB in 4 GiB.
SEGMENTS = 0x100
#: A segment reaches the archive at most that much later than its last record, if the archive answers.
DELAY = timedelta(seconds=2)

#: Timelines that lead to the newest one, each with the position of its first segment.
Way = Sequence[tuple[int, int]]


def timeline_of(segment: str) -> int:
    """Read the timeline in a segment's name."""
    return int(segment[:8], 16)


def position_of(segment: str) -> int:
    """Read the position in a segment's name, counted in segments."""
    return int(segment[8:16], 16) * SEGMENTS + int(segment[16:24], 16)


def segment_name(timeline: int, position: int) -> str:
    """Name the segment of a timeline at a position."""
    return f"{timeline:08X}{position // SEGMENTS:08X}{position % SEGMENTS:08X}"


def archived(directory: Path) -> dict[str, datetime]:
    """List the segments of an archive.

    Args:
        directory: Of one cluster, such as ``archive/main/17-1``.

    Returns:
        Segment to the time at which it was stored.
    """
    return {
        match[1]: datetime.fromtimestamp(path.stat().st_mtime, UTC)
        for path in directory.glob("[0-9A-F]*/[0-9A-F]*")
        if (match := STORED.fullmatch(path.name))
    }


def path_to(segments: Iterable[str], newest: int, history: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """Find the timelines that lead to the newest one.

    Args:
        segments: Those that are archived.
        newest: Timeline of the newest backup.
        history: Lines of that timeline's history: the parent, the LSN at which it was left, and a reason.

    Returns:
        Each timeline with the position of its first segment, the oldest first.
    """
    found = [(1, 0)] if newest == 1 or history else [(newest, 0)]
    children = [*(int(line[0]) for line in history[1:]), newest]
    for line, child in zip(history, children, strict=False):
        high, low = (int(part, 16) for part in line[1].split("/"))
        found.append((child, ((high << 32) | low) >> 24))
    if history:
        found[0] = (int(history[0][0]), 0)
    # Of a restore since then; the first segment of a timeline is the one in which it began.
    first: dict[int, int] = {}
    for segment in segments:
        timeline, position = timeline_of(segment), position_of(segment)
        first[timeline] = min(position, first.get(timeline, position))
    for timeline in sorted(each for each in first if each > newest):
        found = [each for each in found if each[1] < first[timeline]] + [(timeline, first[timeline])]
    return found


def expected(path: Way, position: int) -> str:
    """Name the segment at a position on the way to the newest timeline."""
    return segment_name([timeline for timeline, first in path if first <= position][-1], position)


def missing(segments: Iterable[str], path: Way, first: int) -> list[int]:
    """Find where gaps begin.

    Args:
        segments: Those that are archived.
        path: What ``path_to`` found.
        first: Position of the first segment that is needed.

    Returns:
        Position of the first segment that each gap lacks.
    """
    have = {
        position_of(each)
        for each in segments
        if position_of(each) >= first and each == expected(path, position_of(each))
    }
    return [
        position
        for position in range(first, max(have, default=first))
        if position not in have and (position - 1 in have or position == first)
    ]


def expired(segment: str, returns: Iterable[tuple[int, str]]) -> bool:
    """Find out whether a segment is one that pgBackRest lets expire although an older backup has what comes before it.

    Args:
        segment: Its name.
        returns: See ``with_gaps``.

    Returns:
        Whether the cluster wrote it after it had come back, and before its first backup there.
    """
    return any(
        timeline_of(segment) > timeline and position_of(segment) < position_of(start) for timeline, start in returns
    )


def with_gaps(
    manifests: Sequence[Mapping[str, Any]],
    starts: Mapping[str, str],
    segments: Mapping[str, datetime],
    returns: Sequence[tuple[int, str]] = (),
) -> list[dict[str, Any]]:
    """Say of each backup which WAL is missing that it, or a later state, needs.

    Args:
        manifests: Of one cluster, the newest first.
        starts: Label of pgBackRest to the segment with which its backup began.
        segments: Those that are archived, with their times.
        returns: Of each time that the cluster came back after another one, the last timeline before that, and the
            segment with which its first backup since then began. No restore needs what it wrote between the two.

    Returns:
        The manifests. One that cannot be restored itself has ``missing``, a segment. One after which the archive has a
        gap has ``gap``: the ``segment`` that is missing first, and ``until``, the newest state before it.
    """
    found = [dict(each) for each in manifests]
    known = [each for each in found if each["postgres"]["label"] in starts]
    if not known:
        return found
    newest = known[0]["postgres"]
    path = path_to(segments, timeline_of(newest["wal"]), newest.get("history") or [])
    on_path = []
    for each in known:
        start, end = starts[each["postgres"]["label"]], each["postgres"]["wal"]
        own = [segment_name(timeline_of(end), at) for at in range(position_of(start), position_of(end) + 1)]
        lacking = [segment for segment in own if segment not in segments]
        if lacking:
            each["missing"] = lacking[0]
        if end == expected(path, position_of(end)):
            on_path.append(each)
    if not on_path:
        return found
    for position in missing(segments, path, min(position_of(starts[each["postgres"]["label"]]) for each in on_path)):
        if expired(expected(path, position), returns):
            continue
        before = [each for each in on_path if position_of(each["postgres"]["wal"]) < position]
        if before and "gap" not in before[0]:
            before[0]["gap"] = {
                "segment": expected(path, position),
                "until": until(before[0], path, position, segments),
            }
    return found


def until(manifest: Mapping[str, Any], path: Way, position: int, segments: Mapping[str, datetime]) -> str:
    """Say up to when a state can be restored before a gap.

    PostgreSQL stops at the first transaction that was committed after the wanted time, and so has to find one.

    Args:
        manifest: The newest backup before the gap.
        path: What ``path_to`` found.
        position: The first segment that is missing.
        segments: Those that are archived, with their times.

    Returns:
        The time in ISO 8601; empty if no state later than the backup itself is certain.
    """
    # The last segment has the transactions that are younger than the end of the one before it.
    last = expected(path, position - 2)
    if position_of(last) <= position_of(manifest["postgres"]["wal"]) or last not in segments:
        return ""
    moment = (segments[last] - DELAY).replace(microsecond=0)
    return moment.isoformat() if moment > datetime.fromisoformat(manifest["finished"]) else ""
