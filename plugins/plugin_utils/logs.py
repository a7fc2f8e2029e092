# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is asked of the logs, and how lines are shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.settings import did_you_mean

#: Levels of lines, from the least to the worst; "unknown" is no level.
LEVELS = ("debug", "info", "warning", "error", "critical")
#: Seconds of each unit of a time.
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SINCE = re.compile(r"([1-9]\d*)([smhd])")
#: The service whose lines are those of the hosts themselves.
HOST = "host"


def log_seconds(since: str) -> int:
    """Read how far back to look.

    Args:
        since: A number and a unit, such as ``90m``.

    Returns:
        Seconds; 0 if it is something else.
    """
    match = SINCE.fullmatch(str(since))
    return int(match[1]) * UNITS[match[2]] if match else 0


def log_problems(wanted: Mapping[str, Any], services: Mapping[str, Mapping[str, Any]], stored: bool) -> list[str]:
    """Find what is wrong with a question.

    Args:
        wanted: ``service`` (or container), ``since``, ``level``, ``text`` and ``limit``; empty text for
            those that do not matter.
        services: Service to its contract without templates.
        stored: Whether logs are collected, by the monitoring.

    Returns:
        A sentence for each.
    """
    found = []
    active = [name for name, service in services.items() if service["active"]]
    names = list(dict.fromkeys([*active, *(each for name in active for each in services[name]["containers"])]))
    names += [HOST] if stored else []
    if wanted["service"] and wanted["service"] not in names:
        hint = did_you_mean(wanted["service"], names, f"Known are {', '.join(names)}.")
        found.append(f"SERVICE is {wanted['service']!r}, which is no service or container of this stack. {hint}")
    if not log_seconds(wanted["since"]):
        found.append(f"SINCE is {wanted['since']!r}, expected a number of seconds, minutes, hours or days such as 90m.")
    if wanted["level"] and wanted["level"] not in LEVELS:
        found.append(f"LEVEL is {wanted['level']!r}, expected one of {', '.join(LEVELS)}.")
    if not (str(wanted["limit"]).isdecimal() and 0 < int(wanted["limit"]) <= 100000):
        found.append(f"LIMIT is {wanted['limit']!r}, expected a number from 1 to 100000.")
    if not stored:
        found += [
            f"{key.upper()} is set, and the inventory has no host in the group monitoring, which makes logs searchable."
            for key in ("level", "text")
            if wanted[key]
        ]
    return found


def _quoted(text: str) -> str:
    """Quote a phrase, for LogsQL as for the configuration of curl."""
    return json.dumps(text, ensure_ascii=False)


def log_query(wanted: Mapping[str, Any]) -> str:
    """Write a question in LogsQL.

    Args:
        wanted: As for ``log_problems``, without problems.

    Returns:
        The query, of the newest lines that match. Source: VictoriaLogs, "LogsQL".
    """
    parts = [f"_time:{log_seconds(wanted['since'])}s"]
    if wanted["service"]:
        name = _quoted(str(wanted["service"]))
        parts.append(f"(service:={name} OR container:={name})")
    if wanted["level"]:
        parts.append(f"level:in({','.join(LEVELS[LEVELS.index(wanted['level']) :])})")
    if wanted["text"]:
        parts.append(f"i({_quoted(str(wanted['text']))})")
    return f"{' AND '.join(parts)} | sort by (_time) desc limit {int(wanted['limit'])}"


def log_request(wanted: Mapping[str, Any]) -> str:
    """Write the part of a request that curl reads as its configuration.

    Args:
        wanted: As for ``log_query``.

    Returns:
        A line. Source: curl, "Config file".
    """
    return f"data-urlencode = {_quoted(f'query={log_query(wanted)}')}\n"


#: What moves the cursor, ends a line or turns its direction, but for tabs: anybody may write it into a log.
CONTROLS = re.compile("[\\x00-\\x08\\x0a-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069]")


def _visible(text: str) -> str:
    """Write control characters as escapes, so that a terminal shows them and does not obey."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _shown(time: str, host: str, container: str, level: str, text: str) -> str:
    """One line as it is shown, its time in UTC, to the millisecond; lines that it continues in are indented."""
    place = f"{host}/{container}" if host else container
    first, *further = (_visible(line.rstrip("\r")) for line in text.split("\n"))
    words = [f"{time[:23].rstrip('Z').replace('T', ' '):23}", place, *([level] if level else [])]
    return "\n".join(["  ".join([*(_visible(word) for word in words), first]), *(f"  {line}" for line in further)])


def log_lines(found: str, hosts: Iterable[str]) -> list[str]:
    """Show what the store has found.

    Args:
        found: A line of JSON each, in any order.
        hosts: Those of the stack; of a single one nobody asks the name.

    Returns:
        Lines, the oldest first.
    """
    lines = [json.loads(line) for line in found.split("\n") if line.strip()]
    several = len(list(hosts)) > 1
    return [
        _shown(
            line["_time"],
            line.get("host", "") if several else "",
            line.get("container") or line.get("service", ""),
            line.get("level", "").replace("unknown", "-"),
            line.get("_msg", ""),
        )
        for line in sorted(lines, key=lambda line: line["_time"])
    ]


def container_log_lines(results: Iterable[Mapping[str, Any]], limit: int) -> list[str]:
    """Show what the engine has kept of containers' output.

    Args:
        results: Of ``docker logs --timestamps``: ``item``, the container's name, ``stdout`` and ``stderr``.
        limit: How many lines at most.

    Returns:
        The newest lines, the oldest first.
    """
    found = []
    for result in results:
        # Not their lines, which end at other characters too, such as a form feed.
        for line in f"{result['stdout']}\n{result['stderr']}".split("\n"):
            time, _blank, text = line.partition(" ")
            if time:
                found.append((time, result["item"], text))
    return [_shown(time, "", name, "", text) for time, name, text in sorted(found)[-int(limit) :]]
