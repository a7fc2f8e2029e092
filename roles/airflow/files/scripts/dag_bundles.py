"""Opens Airflow's bundles of DAGs: directories, and git repositories as they are now."""

from __future__ import annotations

import re
from typing import Any

#: git's own words in an error of GitPython.
WORDS_OF_GIT = re.compile(r"stderr: '(.*)'", re.DOTALL)


class Unreadable(Exception):
    """A bundle cannot be read; says why."""


def open_bundle(name: str) -> Any:
    """Open a bundle.

    Args:
        name: Its name in Airflow's settings.

    Returns:
        The bundle, with its files in place.

    Raises:
        Unreadable: If it cannot be read, such as a repository that asks for another login.
    """
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    try:
        bundle = DagBundlesManager().get_bundle(name)
        bundle.initialize()
    except Exception as error:
        # The exception itself may be one that cannot be sent to another process.
        raise Unreadable(reason(error)) from None
    return bundle


def reason(error: BaseException) -> str:
    """Say why a bundle cannot be read.

    Args:
        error: What was raised.

    Returns:
        What git says, if it was git that failed; otherwise the error and its cause.
    """
    said = WORDS_OF_GIT.search(f"{error.__cause__ or ''}") or WORDS_OF_GIT.search(str(error))
    lines = [line.strip() for line in said[1].splitlines() if line.strip()] if said else []
    # What it does comes first, such as "Cloning into …", and advice for a person at a terminal after an empty line.
    failed = [line for line in lines if re.match(r"(fatal|error|remote|ssh|git)\b|.*(denied|failed|refused)", line)]
    if failed or lines:
        return " ".join(failed or lines[-1:])
    return ": ".join(str(each).strip() for each in (error, error.__cause__) if each)
