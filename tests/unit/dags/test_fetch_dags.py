"""Fetching DAGs from git repositories for the check: their files, and what is said where that is not possible."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[3] / "roles" / "airflow" / "files" / "scripts"
DAG = "from airflow.sdk import dag\nfrom words import WORD\n@dag\ndef {name}():\n    ...\n{name}()\n"


def git(*words: str, where: Path) -> None:
    """Run git."""
    names = ("-c", "user.name=probe", "-c", "user.email=probe@localhost", "-c", "init.defaultBranch=live")
    subprocess.run(["git", *names, *words], cwd=where, check=True, timeout=60, capture_output=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two branches, a subfolder, and links that lead out of it and in a circle."""
    work = tmp_path_factory.mktemp("work")
    (work / "secret").write_text("of this machine")
    repository = work / "desk"
    dags = repository / "dags"
    (dags / "words").mkdir(parents=True)
    (dags / "from_git.py").write_text(DAG.format(name="from_git"))
    (dags / "words" / "__init__.py").write_text("WORD = 'x'\n")
    (dags / "data.bin").write_bytes(b"\xff\0")
    (dags / "out").symlink_to(work / "secret")
    (dags / "folders_out").symlink_to(work)
    (dags / "circle").symlink_to("..")
    (dags / "again").symlink_to("words")
    (repository / "shared.py").write_text("")
    (dags / "shared.py").symlink_to("../shared.py")
    git("init", where=repository)
    git("add", ".", where=repository)
    git("commit", "--message=First", where=repository)
    git("checkout", "-b", "other", where=repository)
    (dags / "broken.py").write_text("from airflow.sdk import dag\n1 / 0\n")
    git("add", ".", where=repository)
    git("commit", "--message=Second", where=repository)
    return repository


def run(script: str, home: Path, asked: dict[str, Any], **settings: str) -> dict[str, Any]:
    """Run a script, and return its report."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        **settings,
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *(["-"] if script == "import_dags.py" else [])],
        env=environment, input=json.dumps(asked), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def fetch(home: Path, *bundles: tuple[str, dict[str, Any]], **asked: Any) -> dict[str, Any]:
    """Fetch repositories by the settings of their bundles."""
    path = "airflow.providers.git.bundles.git.GitDagBundle"
    config = [{"name": name, "classpath": path, "kwargs": kwargs} for name, kwargs in bundles]
    content = {"files": {}, "environment": {}, "sources": [name for name, _ in bundles], **asked}
    settings = {
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(config),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(home / "bundles"),
    }
    return run("fetch_dags.py", home, content, **settings)


def test_a_repository_is_checked_as_it_is(tmp_path: Path, repository: Path) -> None:
    """Of its ref and subfolder, with a binary file and inner links, and nothing that a link leads to outside."""
    url = str(repository)
    report = fetch(
        tmp_path,
        ("desk", {"repo_url": url, "tracking_ref": "live", "subdir": "dags"}),
        ("next", {"repo_url": url, "tracking_ref": "other", "subdir": "dags"}),
    )
    assert (report["fetched"], report["failed"]) == (["desk", "next"], {})
    sys.path.insert(0, str(SCRIPTS))
    import dag_inputs

    files = dag_inputs.unpacked(report["archive"])
    assert set(files["desk"]) == {
        "from_git.py", "words/__init__.py", "again/__init__.py", "data.bin", "shared.py",
    }  # fmt: skip
    assert files["desk"]["data.bin"] == "base64:/wA=" and "broken.py" in files["next"]

    sources = {name: str(tmp_path / "sources" / name) for name in report["fetched"]}
    asked = {"dags": {}, "sources": sources, "files": {}, "archive": report["archive"]}
    checked = run("import_dags.py", tmp_path, asked, AIRFLOW__CORE__DAGS_FOLDER=str(tmp_path / "dags"))
    assert checked["fine"] == ["desk:from_git.py"]
    assert checked["broken"] == {
        "next:from_git.py": "its DAG from_git is also in desk:from_git.py. Give it another id.",
        "next:broken.py": "line 2: ZeroDivisionError: division by zero",
    }


def test_a_repository_that_cannot_be_fetched(tmp_path: Path, repository: Path) -> None:
    """Each is told with what git says and what to do, without the token, and the others are fetched."""
    url = str(repository)
    (tmp_path / "known_hosts").write_text("")
    connection = {"dag_source_desk": {"conn_type": "git", "host": "x", "login": "git", "password": "t0ken-of-it"}}
    report = fetch(
        tmp_path,
        ("no_ref", {"repo_url": url, "tracking_ref": "lvie"}),
        ("no_folder", {"repo_url": url, "tracking_ref": "live", "subdir": "dag"}),
        ("nowhere", {"repo_url": "https://git.invalid/t0ken-of-it/desk.git", "tracking_ref": "live"}),
        ("no_repository", {"repo_url": str(repository.parent), "tracking_ref": "live"}),
        ("desk", {"repo_url": url, "tracking_ref": "live"}),
        files={str(tmp_path / "secrets" / "connections.json"): json.dumps(connection)},
    )
    assert report["fetched"] == ["desk"]
    said = {name: " ".join(text.split()) for name, text in report["failed"].items()}
    assert "'lvie' did not match" in said["no_ref"] and "correct ref" in said["no_ref"]
    assert said["no_folder"] == "it has no folder dag at live: correct subfolder or ref."
    assert "https://git.invalid/***/desk.git" in said["nowhere"] and "cannot reach it" in said["nowhere"]
    assert "Correct the URL" in said["no_repository"]
    assert "cmdline" not in str(said) and "t0ken-of-it" not in str(said)


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("fatal: could not read Username for 'https://x': terminal prompts disabled", "give the source a token"),
        ("remote: HTTP Basic: Access denied fatal: Authentication failed for 'https://x'", "a token that can read"),
        ("fatal: unable to access 'https://x': The requested URL returned error: 403", "a token that can read"),
        ("Host key verification failed. fatal: Could not read from remote repository.", "known_hosts has not the key"),
        ('Load key "/tmp/k": error in libcrypto git@x: Permission denied (publickey).', "The key cannot be read"),
        ("git@x: Permission denied (publickey). fatal: Could not read from remote", "add its public half"),
        ("ssh: connect to host x port 22: Connection refused", "cannot reach it"),
        ("remote: Repository not found. fatal: repository 'https://x' not found", "Correct the URL"),
    ],
)
def test_what_to_do(monkeypatch: pytest.MonkeyPatch, said: str, remedy: str) -> None:
    """About the common errors of git, of which several may be in one message."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import fetch_dags

    assert remedy in fetch_dags.remedied(said).partition("\n  ")[2]


def test_a_repository_that_is_too_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repository: Path) -> None:
    """It is told how to make it smaller."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import fetch_dags

    class Bundle:
        path = repo_path = repository / "dags"

    monkeypatch.setattr(fetch_dags, "open_bundle", lambda _: Bundle())
    monkeypatch.setattr(fetch_dags, "LARGEST", 10)
    with pytest.raises(fetch_dags.Unreadable, match="Keep the DAGs in a folder of their own"):
        fetch_dags.fetch("desk")
