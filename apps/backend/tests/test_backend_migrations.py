"""The migrations make the tables that the program's models need."""

import os
import subprocess
import sys
from pathlib import Path

APP = Path(__file__).parents[1]


def test_the_migrations_make_what_the_models_need(tmp_path: Path) -> None:
    """On SQLite here; on PostgreSQL in the scenario `backend`."""
    environment = os.environ | {"DATABASE_URL": f"sqlite:///{tmp_path}/backend.db", "PYTHONDONTWRITEBYTECODE": "1"}
    for words in (["upgrade", "head"], ["check"]):
        command = [sys.executable, "-m", "alembic", *words]
        done = subprocess.run(
            command, cwd=APP, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "No new upgrade operations detected." in done.stdout
