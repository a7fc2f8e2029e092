"""One run of a DAG without a scheduler: what it prints, and what is said of a task that fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "roles" / "airflow" / "files" / "scripts" / "run_dag.py"
DAGS = {
    "sample.py": """
import logging, os
from airflow.sdk import BaseHook, Variable, dag, task

@dag(schedule=None, default_args={"retries": 3})
def sample():
    @task
    def read(ds=None, dag_run=None):
        print("conf", dag_run.conf, "on", ds, "with", os.environ["DESK_TOKEN"])
        print("password", BaseHook.get_connection("desk").password)
        return Variable.get("symbols", deserialize_json=True)

    @task
    def trade(symbol):
        logging.getLogger("desk").warning("trading %s", symbol)
        if symbol == "BAD":
            raise ValueError(f"no such symbol: {symbol}, {os.environ['DESK_TOKEN']}")

    @task
    def tell():
        print("told")

    trade.expand(symbol=read()) >> tell()

sample()
""",
    "broken.py": "from airflow.sdk import dag\n1 / 0\n",
    "uses_words.py": "from airflow.sdk import dag\nfrom words import WORD\n",
    "words.py": "WORD = 'of the folder'\n",
    # A source has modules of its own, also under the same name.
    "research:words.py": "WORD, OTHER = 'of the source', 'x'\n",
    "research:wrong.py": "from airflow.sdk import dag\nfrom words import NOTHING\n",
    "research:second.py": """
from airflow.sdk import dag, task
from words import OTHER, WORD

@dag(schedule=None)
def second():
    @task
    def say():
        from words import WORD
        print("the word", WORD)

    say()

second()
""",
}


def run(tmp_path: Path, **asked: Any) -> tuple[dict[str, Any], str]:
    """Run the script.

    Args:
        tmp_path: Where everything is made.
        asked: What it reads, over the defaults.

    Returns:
        Its report, and what it printed before.
    """
    declared = {
        "connections_file_path": f"{tmp_path}/secrets/connections.json",
        "variables_file_path": f"{tmp_path}/secrets/variables.json",
    }
    sources = {"research": str(tmp_path / "sources" / "research")}
    bundles = [
        {"name": name, "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle", "kwargs": {"path": path}}
        for name, path in {"dags-folder": str(tmp_path / "dags"), **sources}.items()
    ]
    environment = os.environ | {
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
        "AIRFLOW_HOME": str(tmp_path / "home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__SECRETS__BACKEND": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(declared),
    }
    files = {
        declared["connections_file_path"]: json.dumps({"desk": "http://me:hidden-word@desk"}),
        declared["variables_file_path"]: json.dumps({"symbols": '["AAPL", "BAD"]'}),
    }
    content = {
        "dags": DAGS, "sources": sources, "files": files, "environment": {"DESK_TOKEN": "the-token"},
        "dag": "sample", "date": "", "conf": "",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, input=json.dumps({**content, **asked}),
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    *printed, last = done.stdout.splitlines()
    return json.loads(last), "\n".join(printed)


def test_a_run_whose_task_fails(tmp_path: Path) -> None:
    """Tasks see date, configuration and declarations; the failed one is named with its lines, and is not retried."""
    report, said = run(tmp_path, date="2026-11-02", conf='{"cash": 5}')
    assert (report["state"], report["date"]) == ("failed", "2026-11-02T00:00:00+00:00")
    assert report["tasks"] == {
        "read": "success",
        "trade[0]": "success",
        "trade[1]": "failed",
        "tell": "upstream_failed",
    }
    assert "conf {'cash': 5} on 2026-11-02 with ***" in said and "password ***" in said and "trading AAPL" in said
    assert said.startswith("── read\n") and "── trade[1]\n" in said and "Pushing xcom" not in said
    assert "the-token" not in said and "hidden-word" not in said and "alembic" not in said

    assert set(report["failed"]) == {"trade[1]"}
    lines = "\n".join(report["failed"]["trade[1]"])
    assert "ValueError: no such symbol: BAD, ***" in lines and "trading BAD" in lines and "sample.py" in lines
    assert "site-packages" not in lines and "trading AAPL" not in lines and "the-token" not in lines


def test_a_dag_of_another_source(tmp_path: Path) -> None:
    """Is run with the modules of its source, though another source has modules under the same names."""
    report, said = run(tmp_path, dag="second")
    assert (report["state"], report["tasks"]) == ("success", {"say": "success"}), said
    assert "the word of the source" in said


def test_a_source_whose_import_ends_the_process(tmp_path: Path) -> None:
    """It does not keep a DAG of another source from running, and is named where the DAG is not found."""
    ends = {**DAGS, "ends.py": "from airflow.sdk import dag\nimport os\nos._exit(3)\n"}
    report, said = run(tmp_path, dag="second", dags=ends)
    assert report["state"] == "success", said
    report, _ = run(tmp_path, dag="sample", dags=ends)
    assert "One of the files of dags-folder ends its process" in report["problem"]


def test_an_unknown_dag(tmp_path: Path) -> None:
    """Is named with what there is, and what cannot be imported."""
    report, _ = run(tmp_path, dag="sampel")
    [problem] = report.values()
    assert "There is no DAG sampel; did you mean sample?\nThese are there: sample, second." in problem
    assert "research:wrong.py cannot be imported: ImportError: cannot import name 'NOTHING'" in problem
    assert "\nbroken.py cannot be imported: ZeroDivisionError: division by zero" in problem


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"date": "tomorrow"}, "DATE is 'tomorrow', expected a date such as 2026-11-27"),
        ({"conf": "{symbol: AAPL}"}, "CONF is not JSON: "),
        ({"conf": "[1]"}, "CONF is not a JSON object."),
    ],
)
def test_options_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, asked: dict[str, str], said: str) -> None:
    """What is wrong, and how to write it."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import run_dag

    with pytest.raises(run_dag.Unable, match=re.escape(said)):
        run_dag.options({"date": "", "conf": "", **asked})


def test_a_long_return_value_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that a task prints itself is not."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import run_dag

    value = f"2026-11-27 [info] Done. Returned value was: {'x' * 5000}\n"
    assert run_dag.shortened(value).endswith(f"x… ({len(value)} characters)\n") and len(run_dag.shortened(value)) < 350
    assert run_dag.shortened(value[:200]) == value[:200]
    assert run_dag.shortened("y" * 5000) == "y" * 5000
