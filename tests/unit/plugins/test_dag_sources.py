"""The places that DAGs come from, as the inventory declares them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from collection_under_test import plugin

dag_sources = plugin("plugin_utils.dag_sources")
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nhidden\n-----END OPENSSH PRIVATE KEY-----\n"
SSH = {"git": "git@git.example.com:desk/dags.git", "key": KEY, "known_hosts": "git.example.com ssh-ed25519 AAAA"}
WEB = {"git": "https://git.example.com/desk/dags.git"}


def problems(*sources: Any, directory: str = "files/dags", **more: Any) -> list[str]:
    """What is said of sources."""
    return dag_sources.dag_source_problems(
        directory, list(sources), more.get("settings", {}), more.get("connections", ())
    )


def test_what_can_be_declared(tmp_path: Path) -> None:
    """Directories; repositories by HTTPS with or without a token, by SSH, and by git's own protocol."""
    assert (
        problems(
            {"name": "research", "path": str(tmp_path)},
            {"name": "shipped", "path": "files/dags"},
            {"name": "public", **WEB, "ref": "v1.2.0", "subfolder": "airflow/dags"},
            {"name": "desk", **WEB, "token": "t0ken", "user": "deploy"},
            {"name": "lab", **SSH, "ref": "feature/new"},
            {"name": "port", **SSH, "git": "ssh://git@git.example.com:2222/lab/dags.git"},
            {"name": "inside", "git": "git://git.example.com/dags.git"},
        )
        == []
    )
    assert problems(directory="files/dags") == []
    assert problems({"name": "desk", **WEB}, directory="") == []


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("files/dags", "entry 1: expected a dictionary with name and path, or with name and git"),
        ({**WEB}, "entry 1: the name is None, expected up to 50 lower-case letters"),
        ({"name": "My Desk", **WEB}, "My Desk: the name is 'My Desk', expected"),
        ({"name": "../desk", **WEB}, "../desk: the name is '../desk', expected"),
        ({"name": "dags-folder", **WEB}, "dags-folder: this name is Airflow's own"),
        ({"name": "example_dags", **WEB}, "example_dags: this name is Airflow's own"),
        ({"name": "desk"}, "desk: set either path, a directory, or git"),
        ({"name": "desk", "path": "files/dags", **WEB}, "desk: set either path, a directory, or git"),
        ({"name": "desk", "path": "/does/not/exist"}, "desk: there is no directory /does/not/exist. Correct the path"),
        ({"name": "desk", "path": ""}, "desk: the path is empty"),
        ({"name": "desk", "path": "files/dags", "ref": "main"}, "desk: unknown key 'ref', expected name, path"),
        ({"name": "desk", **WEB, "branch": "main"}, "desk: unknown key 'branch', expected name, git, ref"),
        ({"name": "desk", **WEB, "token": ""}, "desk: token is empty or no text"),
        (
            {"name": "desk", "git": "https://me:s3cret@git.example.com/d.git"},
            "desk: the URL holds a user or a password",
        ),
        ({"name": "desk", "git": "https://s3cret@git.example.com/d.git"}, "desk: the URL holds a user or a password"),
        ({"name": "desk", **SSH, "git": "ssh://git:s3cret@git.example.com/d.git"}, "desk: the URL holds a user or a"),
        ({"name": "desk", "git": "file:///srv/dags.git"}, "desk: the URL of the repository has another form than"),
        ({"name": "desk", "git": "https://git.example.com/$HOME"}, "desk: the URL of the repository has another form"),
        ({"name": "desk", **SSH, "git": "-oProxyCommand@git.example.com:d"}, "desk: the URL of the repository has"),
        ({"name": "desk", **WEB, "ref": "--upload-pack=x"}, "desk: ref is '--upload-pack=x', expected the name of"),
        ({"name": "desk", **WEB, "subfolder": "../other"}, "desk: subfolder is '../other', expected a relative path"),
        ({"name": "desk", **WEB, "subfolder": "/etc"}, "desk: subfolder is '/etc', expected a relative path"),
        (
            {"name": "desk", "git": "http://git.example.com/d.git", "token": "s3cret"},
            "desk: a token is sent to https://",
        ),
        ({"name": "desk", **WEB, "user": "deploy"}, "desk: user is there without a token"),
        ({"name": "desk", **WEB, "key": KEY}, "desk: a key is for repositories by SSH only"),
        ({"name": "desk", **SSH, "key": "s3cret"}, "desk: the key is no private key"),
        (
            {"name": "desk", "git": SSH["git"], "key": KEY},
            "desk: a repository by SSH needs key, its deploy key, and known",
        ),
        ({"name": "desk", **WEB, "known_hosts": "x"}, "desk: known_hosts is for repositories by SSH only"),
    ],
)
def test_a_source_that_could_not_work(source: Any, sentence: str) -> None:
    """It is named, with what is wrong; no secret is shown."""
    [said] = problems(source)
    assert said.startswith(f"airflow_dag_sources, {sentence}")
    assert "s3cret" not in said and "hidden" not in said


def test_sources_that_get_in_each_others_way() -> None:
    """The same name twice, the name of a declared connection, and settings that decide the same."""
    desk = {"name": "desk", **WEB, "token": "s3cret"}
    [said] = problems(desk, {"name": "desk", "path": "files/dags"})
    assert said == "airflow_dag_sources, desk: two sources have this name. Rename one of them."
    [said] = problems(desk, connections=["dag_source_desk", "other"])
    assert said.startswith("airflow_connections.dag_source_desk is the connection of a source")
    [said] = problems(desk, settings={"AIRFLOW__SECRETS__BACKEND": "a.vault"})
    assert said.startswith("airflow_settings has AIRFLOW__SECRETS__BACKEND, so Airflow would not find the tokens")
    [said] = problems(desk, settings={"AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": "[]"})
    assert said.startswith(
        "airflow_settings has AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST, which airflow_dag_sources"
    )
    [said] = problems(directory="")
    assert said.startswith("airflow_dags_dir and airflow_dag_sources are both empty")


def test_files_come_back_to_their_source(tmp_path: Path) -> None:
    """Files of the same name in several directories stay apart, also when one of them is left out."""
    for name in ("dags", "research"):
        (tmp_path / name / "lib").mkdir(parents=True)
        (tmp_path / name / "same.py").write_text(f"NAME = {name!r}\n")
        (tmp_path / name / "lib" / "__init__.py").write_text("")
    # A folder of a source's name in the main directory is no source.
    (tmp_path / "dags" / "research").mkdir()
    (tmp_path / "dags" / "research" / "same.py").write_text("NAME = 'inner'\n")
    sources = [{"name": "research", "path": str(tmp_path / "research")}, {"name": "desk", **WEB}]
    files = dag_sources.dag_files(str(tmp_path / "dags"), sources)
    assert {"same.py", "research:same.py", "research/same.py"} < set(files)
    del files["research:lib/__init__.py"]
    trees = dag_sources.dag_trees(files, str(tmp_path / "dags"), sources)
    assert {name: (tree["path"], sorted(tree["files"])) for name, tree in trees.items()} == {
        "dags": ("/opt/dags", ["lib/__init__.py", "research/same.py", "same.py"]),
        "dags-research": ("/opt/dag-sources/research", ["same.py"]),
    }
    assert trees["dags-research"]["files"]["same.py"] == "NAME = 'research'\n"
    assert list(dag_sources.dag_trees({}, "", sources)) == ["dags-research"]


def test_programs_that_repositories_need() -> None:
    """Git and an SSH client, once, and only where there is a repository."""
    assert dag_sources.git_packages({}, [{"name": "a", "path": "files/dags"}]) == {}
    assert dag_sources.git_packages({"apt": ["jq", "git"]}, [{"name": "a", **WEB}]) == {
        "apt": ["jq", "git", "openssh-client"]
    }


QUEUES = """
from airflow.sdk import DAG, task
from airflow.providers.standard.operators.bash import BashOperator

with DAG("d", default_args={"queue": "slow", "retries": 1}):
    BashOperator(task_id="a", bash_command="true", queue="gpu")

    @task(queue="gpu")
    def b(): ...

    @task.virtualenv(queue="quick", requirements=[])
    def c(): ...

    b.override(queue=NAME)()
    channel.basic_publish(queue="none of Airflow's")
"""


def test_a_queue_without_a_worker_is_named_with_its_place() -> None:
    problems = dag_sources.dag_queue_problems({"d.py": QUEUES, "d.txt": QUEUES, "x.py": "def"}, ["default", "quick"])
    assert [problem.partition(";")[0] for problem in problems] == [
        "d.py, line 5: no worker takes tasks from the queue slow",
        "d.py, line 6: no worker takes tasks from the queue gpu",
        "d.py, line 8: no worker takes tasks from the queue gpu",
    ]
    assert all("airflow_worker_queues" in problem for problem in problems)
    assert dag_sources.dag_queue_problems({"d.py": QUEUES}, ["slow", "gpu", "quick"]) == []
