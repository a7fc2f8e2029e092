"""How the stack's backups are, asked of the container that makes them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

# It looks every 30 s; what is older says that it cannot.
FRESH = timedelta(minutes=5)


def backup_report(url: str, timeout: float) -> Callable[[], dict[str, Any]]:
    """Make what asks for the state of the backups.

    Args:
        url: Of the container.
        timeout: Seconds to wait for it.

    Returns:
        A function that returns the ``alerts`` (``kind`` and ``text``), the ``newest`` backup, the ``next`` one, the
        ``copies`` and the last ``drill``, with moments as such; or raises.
    """
    client = httpx.Client(timeout=timeout, trust_env=False)

    def report() -> dict[str, Any]:
        answer = client.get(f"{url}/status")
        if not answer.is_success:
            raise RuntimeError(f"HTTP {answer.status_code}")
        found: dict[str, Any] = answer.json()
        looked = datetime.fromisoformat(found["time"])
        if datetime.now(UTC) - looked > FRESH:
            raise RuntimeError(f"the backups have not been looked at since {looked:%Y-%m-%d %H:%M} UTC")
        found["next"] = datetime.fromisoformat(found["next"])
        for each in (found["newest"], found["drill"], *found["copies"]):
            if each:
                each["finished"] = datetime.fromisoformat(each["finished"]) if each["finished"] else None
        return found

    return report


def backup_check(url: str, timeout: float) -> Callable[[], dict[str, Any]]:
    """Check that nothing is wrong with the backups; what is wrong is told by its kind alone, as everybody may read it.

    Args:
        url: Of the container.
        timeout: Seconds to wait for it.

    Returns:
        A check, see `readiness.Dependency`.
    """
    report = backup_report(url, timeout)

    def check() -> dict[str, Any]:
        found = report()
        if found["alerts"]:
            raise RuntimeError(f"something is wrong: {', '.join(dict.fromkeys(e['kind'] for e in found['alerts']))}")
        if not found["newest"]:
            return {"reason": "none is complete yet"}
        return {"reason": f"the newest is of {found['newest']['finished']:%Y-%m-%d %H:%M} UTC"}

    return check
