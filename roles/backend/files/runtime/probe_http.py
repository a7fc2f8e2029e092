"""Health check of the API: probe_http.py URL JSON. Succeeds when the answer is 2xx and says what JSON says."""

import json
import sys
import urllib.request
from typing import Any


def missing(expected: Any, answer: Any, where: str = "") -> list[str]:
    """Name what an answer lacks.

    Args:
        expected: A value; of a dictionary each key has to be in the answer, which may hold more.
        answer: What was answered.
        where: Path to the value, for the text.

    Returns:
        A sentence for each difference.
    """
    if isinstance(expected, dict) and isinstance(answer, dict):
        return [
            text
            for key, value in expected.items()
            for text in (
                missing(value, answer[key], f"{where}.{key}") if key in answer else [f"{where}.{key} is not there"]
            )
        ]
    return [] if expected == answer else [f"{where or 'the answer'} is {answer!r}, expected is {expected!r}"]


def main(url: str, expected: str) -> str:
    """Ask once.

    Args:
        url: Address of the health page.
        expected: JSON.

    Returns:
        What is wrong, empty when nothing is.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=4) as answer:
            return "; ".join(missing(json.loads(expected), json.load(answer)))
    except (OSError, ValueError) as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) or 0)
