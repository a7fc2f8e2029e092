"""Clients in environments of their own, as a person's programs are: they know an address, and nothing of the stack."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]


def run_client(environment: str, program: str, fails: bool = False, **variables: object) -> str:
    """Run a client program.

    Args:
        environment: Name below ``.venvs`` of the virtual environment that has its library.
        program: File beside this one.
        fails: Whether it is expected to end with an error.
        variables: What it finds in its environment, in upper case and with ``CLIENT_`` before it.

    Returns:
        What it printed; with what it said on standard error if it is expected to fail.

    Raises:
        AssertionError: It ended otherwise than expected.
    """
    python = REPOSITORY / ".venvs" / environment / "bin" / "python"
    assert python.exists(), f"make .venvs/{environment}"
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    given = {f"CLIENT_{name.upper()}": str(value) for name, value in variables.items()}
    done = subprocess.run(
        [python, HERE / program], env=kept | given, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stdout + done.stderr if fails else done.stdout
