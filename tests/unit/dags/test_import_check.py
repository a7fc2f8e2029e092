"""The import of DAGs before they are delivered: what is broken, and what only the running Airflow can tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "roles" / "airflow" / "files" / "scripts" / "import_dags.py"
#: Workflows of mixed age, and what is said of them.
MIXED = Path(__file__).parents[2] / "fixtures" / "mixed_dags"
HEAD = "from airflow.sdk import DAG, BaseHook, Variable, dag\n"
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
    "declared.py": "x = Variable.get('symbols', deserialize_json=True)[0] + BaseHook.get_connection('desk').host\n"
    "assert (x, BaseHook.get_connection('feed').password) == ('AAPLdesk.example.com', 's3cr/t')\n",
    "declared_shown.py": "desk, feed = (BaseHook.get_connection(name) for name in ('desk', 'feed'))\n"
    "raise ValueError(feed.password, desk.extra_dejson, desk.password, feed.get_uri(), Variable.get('pin'))\n",
    "database.py": "from airflow import settings\nsettings.Session().execute('select 1 from dag')\n",
    "environment.py": "import os\nx = os.environ['DESK_REGION']\n",
    "secret.py": "import os\nx = os.environ['DESK_TOKEN']\n",
    "secret_or_none.py": "import os\nx = os.getenv('DESK_TOKEN') + 'x'\n",
    "secret_handled.py": "import os\nx = os.environ.get('DESK_TOKEN', 'none')\n",
    "unset.py": "import os\nx = os.environ['DESK_UNSET']\n",
    "missing.py": "import xgboost_of_the_desk\n",
    "crash.py": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\nos.kill(os.getpid(), signal.SIGILL)\n",
    "leaves.py": "import os\nos._exit(0)\n",
    "exits.py": "import sys\nsys.exit('no desk')\n",
    "loud.py": "print('{}' * 10**6)\n",
    "one.py": "@dag\ndef same():\n    ...\nsame()\n",
    "two.py": "@dag\ndef same():\n    ...\nsame()\n",
    "helper_fails.py": "import desk_broken\n",
    "desk_broken.py": "\n\nraise ValueError('of the helper')\n",
    "airflow_2.py": """
from airflow.operators.python_operator import PythonOperator
from airflow.utils.dates import days_ago

with DAG("old", schedule_interval="@daily", start_date=days_ago(1)):
    PythonOperator(task_id="a", python_callable=print, provide_context=True)
""",
    "schedule_interval.py": "with DAG(\n    'x',\n    schedule_interval='@daily',\n):\n    pass\n",
    "fails_later.py": """
from airflow.sdk import task

@task
def say(execution_date=None, **context):
    print(context["yesterday_ds"], context.get("next_execution_date"))

@dag
def fails_later():
    say()

fails_later()
""",
}
#: Of these the inventory declares ``night``, and every Airflow has ``default_pool``.
POOLS = """
from airflow.sdk import task

@task(pool="night")
def one(): ...

@task(pool="brokr")
def two(x): ...

@task
def three(): ...

@dag
def waits():
    one()
    two.expand(x=[1, 2])
    three()

waits()
"""
#: They have less time, and are checked by themselves: what only a slow machine holds up must not be taken for slow.
SLOW_FILES = {
    "slow.py": "import time\ntime.sleep(3000)\n",
    "slower.py": "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\ntime.sleep(3000)\n",
    "fine.py": "x = 1\n",
    "broken.py": "1 / 0\n",
}
#: Of each file until it is interrupted, and until its process is killed; of the whole check.
TIMES = {"AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "300", "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "600"}
SHORT_TIMES = {"AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "5", "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "30"}
TIMEOUT_S = 1800
UNKNOWN = {
    "variable.py": 'asks for the variable "limit"',
    "old_variable.py": 'asks for the variable "limit"',
    "connection.py": 'asks for the connection "broker"',
    "handled.py": 'asks for the variable "limit"',
    "used.py": 'asks for the variable "limit"',
    "through_helper.py": 'asks for the variable "limit"',
    "secret.py": 'asks for the secret "DESK_TOKEN"',
    "secret_or_none.py": 'asks for the secret "DESK_TOKEN"',
}
BROKEN = {
    "broken.py": "line 2: ZeroDivisionError: division by zero",
    "asks_and_is_broken.py": "line 3: NameError: name 'undefined' is not defined",
    "no_python.py": "line 2: SyntaxError: invalid syntax",
    "declared_shown.py": "line 3: ValueError: (",
    "database.py": "line 3: ",
    "latin_1.py": "Airflow reads the file of a DAG as UTF-8 only: ",
    "unset.py": "line 3: KeyError: 'DESK_UNSET'\n  If it is an environment variable, set DESK_UNSET in"
    " airflow_environment",
    "missing.py": "line 2: ModuleNotFoundError: No module named 'xgboost_of_the_desk'\n  Add the package of"
    " xgboost_of_the_desk to airflow_build.requirements",
    "crash.py": "its process ended by the signal SIGILL",
    "leaves.py": "its process ended with status 0",
    "exits.py": "line 3: SystemExit: no desk",
    "two.py": "its DAG same is also in one.py",
    "helper_fails.py": "desk_broken.py, line 4: ValueError: of the helper",
    "desk_broken.py": "line 4: ValueError: of the helper",
    "airflow_2.py": "line 3: ModuleNotFoundError: No module named 'airflow.operators.python_operator'",
    "schedule_interval.py": "line 2: TypeError: DAG.__init__() got an unexpected keyword",
}
#: As the inventory declares them.
DECLARED_CONNECTIONS = {
    "desk": {
        "conn_type": "http",
        "host": "desk.example.com",
        "password": "it's \n hidden",
        "extra": {"key": "of-the-desk"},
    },
    "feed": "postgresql://reader:s3cr%2Ft@feed.example.com/prices",
}
DECLARED_VARIABLES = {"symbols": '["AAPL", "MSFT"]', "pin": "271"}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What the script says of all of them."""
    folder, home = tmp_path_factory.mktemp("dags"), tmp_path_factory.mktemp("home")
    for name, text in FILES.items():
        (folder / name).write_text(HEAD + text)
    latin = "# coding: latin-1\nCITY = 'Zürich'\n".encode("latin-1")
    (folder / "latin_1.py").write_bytes(latin + f"{HEAD}@dag\ndef latin_1():\n    ...\nlatin_1()\n".encode())
    (folder / "latin_1_names.py").write_bytes(latin)
    connections, variables = home / "connections.json", home / "variables.json"
    connections.write_text(json.dumps(DECLARED_CONNECTIONS))
    variables.write_text(json.dumps(DECLARED_VARIABLES))
    declared = {"connections_file_path": str(connections), "variables_file_path": str(variables)}
    environment = (
        os.environ
        | TIMES
        | {
            "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(declared),
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "DESK_REGION": "eu",
            "DAGS_CHECK_SECRETS": "DESK_TOKEN DESK_OTHER",
        }
    )
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_slow_file_leaves_the_others_alone(tmp_path: Path) -> None:
    """One that can be interrupted is named with its line; one that cannot has its process killed."""
    folder = tmp_path / "dags"
    folder.mkdir()
    for name, text in SLOW_FILES.items():
        (folder / name).write_text(HEAD + text)
    environment = os.environ | SHORT_TIMES | {
        "AIRFLOW_HOME": str(tmp_path / "home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    broken = json.loads(done.stdout.splitlines()[-1])["broken"]
    assert set(broken) == {"slow.py", "slower.py", "broken.py"}
    assert broken["slow.py"].startswith("line 3: its import takes more than 5 s")
    assert broken["slower.py"].startswith("its import takes more than 30 s")


def test_what_needs_the_running_airflow_is_told_apart(report: dict[str, dict[str, str]]) -> None:
    """It is named with what it asks for; a file may import what lies beside it, as in the DAG processor."""
    assert {name: text.splitlines()[0] for name, text in report["unknown"].items()} == UNKNOWN


def test_declared_connections_and_variables_are_known(report: dict[str, dict[str, str]]) -> None:
    """A file that reads them is as good as its code; an error that shows their values arrives without them."""
    assert "declared.py" not in {**report["unknown"], **report["broken"]}
    error = report["broken"]["declared_shown.py"].partition("ValueError: ")[2]
    assert error.startswith("(") and "***" in error
    for secret in ("s3cr", "hidden", "of-the-desk", "271"):
        assert secret not in error, error


def test_what_no_variable_would_mend_is_broken(report: dict[str, dict[str, str]]) -> None:
    """With line, error and what to do; a file that ends its process leaves the others alone."""
    said = {name: text[: len(BROKEN.get(name, ""))] for name, text in report["broken"].items()}
    assert said == BROKEN


def test_the_file_of_a_dag_in_another_encoding_is_broken(report: dict[str, dict[str, str]]) -> None:
    """Python reads it, and Airflow cannot keep its text; a module without a DAG is fine."""
    assert "Save it in UTF-8" in report["broken"]["latin_1.py"]


def test_what_airflow_3_has_removed_is_named_with_its_form_now(report: dict[str, dict[str, str]]) -> None:
    """All of it, though the import stops at the first; what only fails in a task is told of a file that is imported."""
    assert report["broken"]["airflow_2.py"].splitlines()[1:] == [
        "  line 3: Airflow 3 has no airflow.operators.python_operator: write from"
        " airflow.providers.standard.operators.python import PythonOperator.",
        "  line 4: Airflow 3 has no airflow.utils.dates.days_ago: write a fixed date, such as"
        " pendulum.datetime(2026, 1, 1, tz='UTC').",
        "  line 6: DAG has no argument schedule_interval in Airflow 3: write schedule.",
        "  line 7: PythonOperator has no argument provide_context in Airflow 3: remove it, since the function gets what"
        " it names anyway.",
    ]
    assert report["outdated"] == {
        "fails_later.py": "its tasks will fail\n"
        "  line 6: A task's context has no execution_date in Airflow 3: use logical_date.\n"
        "  line 7: A task's context has no next_execution_date in Airflow 3: use data_interval_end.\n"
        "  line 7: A task's context has no yesterday_ds in Airflow 3: use macros.ds_add(ds, -1)."
    }


def test_workflows_of_mixed_age(tmp_path: Path) -> None:
    """Each is told with its lines and what to do, or listed as fine."""
    environment = os.environ | TIMES | {
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "20",
        "AIRFLOW_HOME": str(tmp_path / "home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(MIXED),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(MIXED.with_suffix(".json").read_text())


def test_the_dag_of_the_quickstart(tmp_path: Path) -> None:
    """What a reader is to type can be imported before its package is there, and has nothing of Airflow 2."""
    page = (MIXED.parents[2] / "docs" / "own-dags-quickstart.md").read_text()
    _, _, text = page.partition("direction.py <<'END'\n")
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "direction.py").write_text(text.partition("\nEND\n")[0])
    environment = os.environ | TIMES | {
        "AIRFLOW_HOME": str(tmp_path / "home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["fine"] == ["direction.py"]


def test_what_is_done_about_a_missing_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A provider that is there is told from one that is not, and a module of the directory from a package."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    # The script sets these when it is imported, and other tests must not find them.
    for name in ("SECRETS__BACKEND", "LOGGING__LOGGING_LEVEL", "CORE__DAGBAG_IMPORT_ERROR_TRACEBACK_DEPTH"):
        monkeypatch.setenv(f"AIRFLOW__{name}", "")
        monkeypatch.delenv(f"AIRFLOW__{name}")
    # Airflow looks for the script's backend of secrets when it is imported, which is not there yet.
    import airflow.secrets.local_filesystem  # noqa: F401
    import import_dags

    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "old.py").write_text("")
    file = tmp_path / "a.py"
    file.write_text("import desk.dags.words.old\nfrom elsewhere.words import NEW\n")
    for module, expected in {
        "airflow.providers.amazon.aws.sensors.gone": "The installed version of airflow.providers.amazon has no such",
        "airflow.providers.common.gone": "Add the package of that provider",
        "airflow.providers.slack": "Add the package of that provider",
        "desk": "Modules are found from the top of the DAGs' directory: write from words.old import",
        "elsewhere": "Modules are found from the top of the DAGs' directory: write from words import",
        "xgboost": "Add the package of xgboost to airflow_build.requirements",
    }.items():
        [said] = import_dags.remedy(f"line 1: ModuleNotFoundError: No module named '{module}'", str(file), tmp_path)
        assert said.startswith(expected), module
    file.write_bytes(b"PK\0")
    [said] = import_dags.remedy("ModuleNotFoundError: No module named 'desk'", str(file), tmp_path)
    assert said.startswith("Add the package of desk")


def test_dags_from_standard_input(tmp_path: Path) -> None:
    """They are written where Airflow has them, and nothing can be written beside them."""
    folder, certificate = tmp_path / "dags", tmp_path / "config" / "gateway-ca.pem"
    environment = (
        os.environ
        | TIMES
        | {
            "AIRFLOW_HOME": str(tmp_path / "home"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
            "GATEWAY_CA_FILE": str(certificate),
        }
    )
    text = (
        "# dag airflow\nimport os\nfrom desk.names import NAMES\nopen(os.environ['GATEWAY_CA_FILE']).read() + NAMES\n"
    )
    content = {
        "dags": {
            "own.py": text,
            "bad.py": text + "1/0\n",
            "desk/__init__.py": "",
            "desk/names.py": "base64:TkFNRVMgPSAieCIK",
            # A source has modules of its own, also under the same name.
            "research:desk/__init__.py": "",
            "research:desk/names.py": "NAMES = 'y'\nOTHER = 'z'\n",
            "research:own.py": "from desk.names import OTHER\n" + HEAD + "@dag\ndef own():\n    ...\nown()\n",
            "research:twice.py": HEAD + "@dag\ndef own():\n    ...\nown()\n",
            "research:bad.py": "# dag airflow\nfrom desk.names import NOTHING\n",
            "waits.py": HEAD + POOLS,
        },
        "pools": ["night"],
        "sources": {"research": str(tmp_path / "sources" / "research")},
        "files": {str(certificate): "abc"},
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "-"],
        input=json.dumps(content), env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["pools"] == {"waits.py": "brokr"}
    broken = report["broken"]
    assert set(broken) == {"bad.py", "research:bad.py", "research:twice.py"}
    assert broken["research:bad.py"].startswith("line 2: ImportError: cannot import name 'NOTHING'")
    assert broken["research:twice.py"].startswith("its DAG own is also in research:own.py")
    assert (folder / "desk" / "names.py").read_text() == 'NAMES = "x"\n'
    assert {
        path.stat().st_mode & 0o222
        for path in (folder, folder / "desk", folder / "own.py", tmp_path / "sources/research")
    } == {0}
