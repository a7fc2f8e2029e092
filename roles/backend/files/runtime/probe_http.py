"""Health check of the API: probe_http.py URL JSON. Succeeds when the answer is 2xx and says what JSON says.

Exit status 22 is that of curl: it answers, with an error or something else. 1: it does not answer.
"""

import json
import sys
import urllib.error
import urllib.request
from typing import Any

ANSWERS = 22


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
                missing(value, answer[key], f"{where}.{key}") if key in answer else [f"{where}.{key} is missing"]
            )
        ]
    return [] if expected == answer else [f"{where or 'the answer'} is {answer!r}, expected {expected!r}"]


def main(url: str, expected: str) -> tuple[int, str]:
    """Ask once.

    Args:
        url: Address of the health page.
        expected: JSON.

    Returns:
        Exit status, and what is wrong; empty when nothing is.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=3) as answer:
            wrong = "; ".join(missing(json.loads(expected), json.load(answer)))
    except (urllib.error.HTTPError, ValueError) as error:
        return ANSWERS, str(error)
    except OSError as error:
        return 1, str(error)
    return (ANSWERS, wrong) if wrong else (0, "")


if __name__ == "__main__":
    status, text = main(*sys.argv[1:])
    print(text, end="\n" if text else "", file=sys.stderr)
    sys.exit(status)
