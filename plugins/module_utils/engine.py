"""Ask the Docker engine of this host through its command line client."""

from __future__ import annotations

import subprocess
from typing import Any


class EngineError(Exception):
    """The engine did not answer; the text is what its client said."""


def docker(*args: str, timeout: float = 30) -> tuple[int, str, str]:
    """Run the Docker client.

    Args:
        args: Words after ``docker``; never a secret, they are visible in the process list.
        timeout: Seconds after which the client is given up.

    Returns:
        Exit status, standard output, standard error. 127 when there is no client, 124 on a time-out.
    """
    try:
        done = subprocess.run(
            ["docker", *args], capture_output=True, text=True, timeout=timeout, check=False, errors="replace"
        )
    except FileNotFoundError:
        return 127, "", "there is no docker client on this host"
    except subprocess.TimeoutExpired:
        return 124, "", f"docker {args[0]} did not answer within {timeout:.0f} s"
    return done.returncode, done.stdout, done.stderr.strip()


def probe(name: str, item: dict[str, Any]) -> tuple[int, str]:
    """Run a container's health check now.

    Args:
        name: Container.
        item: The engine's description.

    Returns:
        Its exit status, and what it printed.
    """
    kind, *words = (item["Config"].get("Healthcheck") or {}).get("Test") or ["NONE"]
    if kind == "NONE":
        return 0, ""
    if kind == "CMD-SHELL":
        words = ["sh", "-c", *words]
    status, out, err = docker("exec", name, *words, timeout=10)
    return status, (out + err).strip()


def why_it_ended(state: dict[str, Any]) -> str:
    """Say what the engine knows of the end of a container beside its status.

    Args:
        state: ``State`` of its description.

    Returns:
        In brackets, after a blank; empty where the engine knows nothing.
    """
    known = ["out of memory"] if state.get("OOMKilled") else []
    # Text of the engine when it could not start a container, such as an address that is not there.
    known += [" ".join(str(state["Error"]).split())] if state.get("Error") else []
    return f" ({'; '.join(known)})" if known else ""
