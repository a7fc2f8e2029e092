# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Puts together what on a host differs from the declaration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: ``kind``, such as ``container`` or ``database``, ``name`` and ``difference``; never a secret.
Difference = dict[str, str]
#: How a line begins with which a program tells of a difference; kind, name and difference follow, with tabs between.
MARK = "DRIFT"


def told(lines: Iterable[str]) -> list[Difference]:
    """Read what the programs of the services printed.

    Args:
        lines: Their output; lines without the mark are of no interest.

    Returns:
        One dictionary a difference.
    """
    fields = [line.rstrip("\r").split("\t", 3) for line in lines if line.startswith(f"{MARK}\t")]
    return [dict(zip(("kind", "name", "difference"), each[1:], strict=True)) for each in fields if len(each) == 4]


def stack_drift(
    states: Mapping[str, Mapping[str, Any]],
    reasons: Mapping[str, Iterable[str]],
    found: Iterable[Difference],
    lines: Iterable[str],
    record: str = "",
) -> list[Difference]:
    """Put together what the comparisons of a host have found.

    Args:
        states: What ``container_state`` found.
        reasons: Path to what differs about it, as ``config_tree`` returns it.
        found: What ``stack_leftovers`` found.
        lines: What the programs of the services printed.
        record: Path of the host's record of secrets if it is not up to date.

    Returns:
        One dictionary a difference, with ``kind``, ``name`` and ``difference``; each once.
    """
    differences = [
        {"kind": "container", "name": name, "difference": reason}
        for name, state in states.items()
        for reason in state["drift"]
    ]
    differences += [
        {"kind": "file", "name": path, "difference": reason} for path, each in reasons.items() for reason in each
    ]
    if record:
        differences.append({"kind": "file", "name": record, "difference": "not up to date"})
    differences += [dict(each) for each in found]
    differences += told(lines)
    unique = {tuple(sorted(each.items())): each for each in differences}
    return list(unique.values())


def drift_table(report: Mapping[str, Any]) -> list[str]:
    """Write a report for a person.

    Args:
        report: ``hosts``, host to its differences, and ``errors``, host to why it was not compared.

    Returns:
        Lines.
    """
    rows = [
        ([host] if len(report["hosts"]) > 1 else []) + [each["kind"], each["name"], each["difference"]]
        for host, differences in report["hosts"].items()
        for each in differences
    ]
    lines = []
    if rows:
        head = ["Host", "Kind", "Name", "Difference"][-len(rows[0]) :]
        widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head) - 1)]
        lines = [
            "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]])
            for row in [head, *rows]
        ]
    elif not report["errors"]:
        lines = ["Nothing differs from the declaration."]
    return lines + [f"{host} was not compared: {reason}" for host, reason in report["errors"].items()]
