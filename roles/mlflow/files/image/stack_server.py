"""MLflow's commands as this stack runs them.

``mlflow-server`` is ``mlflow server`` with streamed artifacts, as one process; ``mlflow-gc`` is ``mlflow gc`` with the
stack's addresses.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from starlette.types import ASGIApp

DATABASE_URL = Path("/run/secrets/database_url")
# There where the server answers nobody without a login.
TRACKING_TOKEN = Path("/run/secrets/tracking_token")


def create_app() -> ASGIApp:
    """Make the server's application; ``mlflow server`` imports this module only to see that it can."""
    from callers import guarded
    from streamed_artifacts import app

    return guarded(app)


def become(command: Sequence[str], *, extra_env: dict[str, str], **_options: object) -> NoReturn:
    """Run the server in this process: one that only waits for it would take a third of the container's memory."""
    os.execve(command[0], command, os.environ | extra_env)


def main(command: str, options: Sequence[str]) -> None:
    """Run one of MLflow's commands."""
    if command == "gc":
        # Files are deleted by the server, as any client's are. The database's URL stays off the command line.
        os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{os.environ['MLFLOW_PORT']}"
        if TRACKING_TOKEN.is_file():
            os.environ["MLFLOW_TRACKING_TOKEN"] = TRACKING_TOKEN.read_text().strip()
        options = ["--backend-store-uri", DATABASE_URL.read_text().strip(), *options]
    else:
        import mlflow.server

        mlflow.server._exec_cmd = become
        options = ["--app-name", "streamed", *options]
    from mlflow.cli import cli

    cli([command, *options])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
