"""Passes files through standard input, and keeps secret values out of messages. Does not import Airflow."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

#: Shorter secret values are only recognized as whole words.
LONG = 4


def dag_places(dags: Mapping[str, str], roots: Mapping[str, Path]) -> dict[Path, str]:
    """Say where the files of DAGs belong.

    Args:
        dags: Path to content. The path begins with the name of a source and a colon, or is relative to the configured
            folder.
        roots: What such a path begins with to its directory; that of the configured folder is empty.

    Returns:
        Absolute path to content.
    """
    found = {}
    for name, text in dags.items():
        prefix = next((prefix for prefix in roots if prefix and name.startswith(prefix)), "")
        found[roots[prefix] / name.removeprefix(prefix)] = text
    return found


def write_files(places: Mapping[Path, str]) -> None:
    """Write files that only this user may read.

    Args:
        places: Path to content; content that is no text begins with ``base64:``.
    """
    for place, text in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(base64.b64decode(text[7:]) if text.startswith("base64:") else text.encode())
        place.chmod(0o400)


def text_of(content: bytes) -> str:
    """Write the content of a file as ``write_files`` takes it."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = "base64:"
    return f"base64:{base64.b64encode(content).decode()}" if text.startswith("base64:") else text


def packed(sources: Mapping[str, Mapping[str, str]]) -> str:
    """Write the files of several sources as one word.

    Args:
        sources: Name to the paths and contents of its files.
    """
    return base64.b64encode(zlib.compress(json.dumps(sources).encode())).decode()


def unpacked(archive: str) -> dict[str, dict[str, str]]:
    """Read what ``packed`` returned."""
    return dict(json.loads(zlib.decompress(base64.b64decode(archive))))


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


def every(_: str) -> bool:
    """Take what is below any key for a secret."""
    return True


def leaves(value: Any, hides: Callable[[str], bool] = every) -> Iterator[str]:
    """List the texts in a value.

    Args:
        value: Of JSON; a text may be JSON itself.
        hides: Whether what is below a key of a dictionary is secret.

    Yields:
        The texts that are secret. Numbers are none.
    """
    if isinstance(value, str):
        decoded = None
        if value[:1] in ("{", "["):
            with contextlib.suppress(ValueError):
                decoded = json.loads(value)
        if decoded is None or hides is every:
            yield value
        if decoded is not None:
            yield from leaves(decoded, hides)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if hides(str(key)):
                yield from leaves(each)
            elif isinstance(each, Mapping):
                yield from leaves(each, hides)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each, hides)


def connection_secrets(connection: Any, hides: Callable[[str], bool] = every) -> Iterator[str]:
    """List what of a connection is secret: its password, what it has in ``extra``, and a URI as a whole.

    Args:
        connection: A URI, or its keys.
        hides: Whether what ``extra`` has below a key is secret.
    """
    if not isinstance(connection, str):
        yield from leaves(connection.get("password") or "")
        yield from leaves(connection.get("extra") or {}, hides)
        return
    yield connection
    parts = urlsplit(connection)
    _, _, password = parts.netloc.rpartition("@")[0].partition(":")
    yield from (password, unquote(password))
    for key, value in parse_qsl(parts.query):
        # Airflow writes the whole of "extra" so where it is no flat dictionary.
        yield from leaves(value, hides) if hides(key) or key == "__extra__" else ()


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
