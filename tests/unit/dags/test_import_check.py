"""The import of DAGs before they are delivered: what is broken, and what only the running Airflow can tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "roles" / "airflow" / "files" / "scripts" / "import_dags.py"
HEAD = "from airflow.sdk import BaseHook, Variable, dag\n"
FILES = {
    "fine.py": "x = Variable.get('limit', default='5')\n",
    "variable.py": "x = Variable.get('limit')\n",
    "old_variable.py": "from airflow.models import Variable\nx = Variable.get('limit')\n",
    "connection.py": "x = BaseHook.get_connection('broker')\n",
    "handled.py": "try:\n    Variable.get('limit')\nexcept Exception:\n    raise RuntimeError('no limit') from None\n",
    "used.py": "import json\nx = json.loads(Variable.get('limit', default=None))\n",
    "through_helper.py": "from desk_settings import read\nx = read()\n",
    "desk_settings.py": "from airflow.sdk import Variable\ndef read():\n    return Variable.get('limit')\n",
    "broken.py": "1 / 0\n",
    "asks_and_is_broken.py": "x = Variable.get('limit', default='5')\nundefined\n",
    "no_python.py": "def broken(:\n",
    "database.py": "from airflow import settings\nsettings.Session().execute('select 1 from dag')\n",
}
UNKNOWN = {
    "variable.py": 'asks for the variable "limit"',
    "old_variable.py": 'asks for the variable "limit"',
    "connection.py": 'asks for the connection "broker"',
    "handled.py": 'asks for the variable "limit"',
    "used.py": 'asks for the variable "limit"',
    "through_helper.py": 'asks for the variable "limit"',
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What the script says of all of them."""
    folder, home = tmp_path_factory.mktemp("dags"), tmp_path_factory.mktemp("home")
    for name, text in FILES.items():
        (folder / name).write_text(HEAD + text)
    latin = "# coding: latin-1\nCITY = 'Zürich'\n".encode("latin-1")
    (folder / "latin_1.py").write_bytes(latin + f"{HEAD}@dag\ndef latin_1():\n    ...\nlatin_1()\n".encode())
    (folder / "latin_1_names.py").write_bytes(latin)
    environment = os.environ | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_what_needs_the_running_airflow_is_told_apart(report: dict[str, dict[str, str]]) -> None:
    """It is named with what it asks for; a file may import what lies beside it, as in the DAG processor."""
    assert {name: text.splitlines()[0] for name, text in report["unknown"].items()} == UNKNOWN


def test_what_no_variable_would_mend_is_broken(report: dict[str, dict[str, str]]) -> None:
    """With the error."""
    assert set(report["broken"]) == {
        "broken.py", "asks_and_is_broken.py", "no_python.py", "database.py", "latin_1.py",
    }  # fmt: skip
    assert "ZeroDivisionError" in report["broken"]["broken.py"]


def test_the_file_of_a_dag_in_another_encoding_is_broken(report: dict[str, dict[str, str]]) -> None:
    """Python reads it, and Airflow cannot keep its text; a module without a DAG is fine."""
    assert "Save it in UTF-8" in report["broken"]["latin_1.py"]
