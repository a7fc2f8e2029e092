"""Writes files from standard input, and keeps secret values out of messages. Does not import Airflow."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

#: Shorter secret values are only recognized as whole words.
LONG = 4


def write_files(places: Mapping[Path, str]) -> None:
    """Write files that only this user may read.

    Args:
        places: Path to content; content that is no text begins with ``base64:``.
    """
    for place, text in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(base64.b64decode(text[7:]) if text.startswith("base64:") else text.encode())
        place.chmod(0o400)


def read_declared(paths: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the connections and variables that the inventory declares.

    Args:
        paths: Arguments of Airflow's local file system backend: ``connections_file_path``, ``variables_file_path``.

    Returns:
        Connections and variables by their names; none where there is no file.
    """
    connections, variables = (
        json.loads(Path(paths[name]).read_text()) if paths.get(name) else {}
        for name in ("connections_file_path", "variables_file_path")
    )
    return connections, variables


def leaves(value: Any) -> Iterator[str]:
    """List the texts and numbers in a value of JSON."""
    if isinstance(value, Mapping):
        value = value.values()
    elif isinstance(value, str) and value[:1] in ("{", "["):
        yield value
        try:
            value = json.loads(value)
        except ValueError:
            return
        yield from leaves(value)
        return
    if isinstance(value, str | int | float):
        if not isinstance(value, bool):
            yield str(value)
    elif value is not None and not isinstance(value, bool):
        for each in value:
            yield from leaves(each)


def connection_secrets(connection: Any) -> Iterator[str]:
    """List what of a connection is secret: its password, what it has in ``extra``, and a URI as a whole.

    Args:
        connection: A URI, or its keys.
    """
    if not isinstance(connection, str):
        yield from leaves([connection.get("password"), connection.get("extra")])
        return
    yield connection
    parts = urlsplit(connection)
    _, _, password = parts.netloc.rpartition("@")[0].partition(":")
    yield from (password, unquote(password))
    for _, value in parse_qsl(parts.query):
        yield from leaves(value)


def masked(text: str, secrets: Iterable[str]) -> str:
    """Replace secret values.

    Args:
        text: In which they may occur.
        secrets: The values.

    Returns:
        The text with ``***`` for each.
    """
    for secret in sorted({each for each in secrets if each.strip()}, key=len, reverse=True):
        # An exception often shows a value as Python would write it.
        for form in dict.fromkeys((secret, repr(secret)[1:-1], json.dumps(secret)[1:-1])):
            text = re.sub(re.escape(form) if len(form) >= LONG else rf"(?<!\w){re.escape(form)}(?!\w)", "***", text)
    return text
