"""The declaration of an application of one's own: what it is built from, what is refused, its containers' scripts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from collection_under_test import REPOSITORY, plugin, program

application = plugin("plugin_utils.application")
declared_build = plugin("plugin_utils.declared_build")
images = plugin("plugin_utils.images")
source_files = plugin("plugin_utils.source_files")

LOCK = "fastapi==1.0 \\\n    --hash=sha256:00\n"
RUNTIME = REPOSITORY / "roles" / "backend" / "files" / "runtime"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A project without a Dockerfile, with things beside the application."""
    for name, text in {
        "requirements.lock": LOCK,
        "requirements.in": "fastapi\n",
        "desk/api.py": "x = 1\n",
        "desk/data/names.csv": "a,b\n",
        "deskless.py": "y = 1\n",
        ".env": "TOKEN=secret\n",
        "sql/1.sql": "SELECT 1;\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def planned(source: Path, **build: Any) -> dict[str, Any]:
    """Plan of the image."""
    definitions = {
        "python": {"context": []},
        "python-build": {"context": []},
        "backend": application.application_image(str(source), {"folders": ["desk"], **build}),
    }
    return images.image_plan(definitions, ["backend"], {"repository": "desk", "args": {}})[-1]


def test_only_what_is_declared_is_in_the_image(source: Path) -> None:
    """Requirements, folders and the shipped Dockerfile: no .env, no neighbour whose name begins alike."""
    plan = planned(source)
    assert set(plan["files"]) == {"Dockerfile", "requirements.lock", "desk/api.py", "desk/data/names.csv"}
    assert plan["args"]["REQUIREMENTS"] == "requirements.lock"
    assert plan["args"]["UV_OPTIONS"] == "--require-hashes --only-binary :all:"


def test_the_tag_follows_the_application_and_nothing_else(source: Path) -> None:
    """A note beside it changes nothing, a file in it does, and so does what it is built with."""
    before = planned(source)["ref"]
    (source / "sql" / "2.sql").write_text("SELECT 2;\n")
    assert planned(source)["ref"] == before
    assert planned(source, apt=["jq"])["ref"] != before
    (source / "desk" / "api.py").write_text("x = 2\n")
    assert planned(source)["ref"] != before


@pytest.mark.parametrize("name", ["backend", "gateway_simulator"])
def test_the_image_of_a_shipped_application_is_made_from_what_its_dockerfile_copies(name: str) -> None:
    """Its tests, its README and what only a clone needs do not change the tag."""
    files = source_files.context_files(f"apps/{name}")
    commands = [line.split() for line in files.pop("Dockerfile").splitlines()]
    copied = {path for verb, *paths, _ in filter(None, commands) if verb == "COPY" for path in paths}
    assert {path.split("/")[0] for path in files} == {path for path in copied if not path.startswith(("-", "/"))}


def test_a_date_stands_in_for_a_lock_and_build_packages_allow_compiling(source: Path) -> None:
    """Options of uv and build arguments."""
    args = planned(
        source, requirements="requirements.in", exclude_newer="2026-11-20", apt_build=["gcc", "libpq-dev"], apt=["jq"]
    )["args"]
    assert args["UV_OPTIONS"] == "--exclude-newer 2026-11-20"
    assert (args["APT_BUILD"], args["APT"]) == ("gcc libpq-dev", "jq")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-11-20", "2026-11-20"),
        ('"2026-11-20"', "2026-11-20"),
        ("2026-11-20T12:00:00Z", "2026-11-20T12:00:00Z"),
        ("2026-11-20T13:00:00+01:00", "2026-11-20T12:00:00Z"),
    ],
)
def test_a_date_as_yaml_reads_it(source: Path, written: str, read: str) -> None:
    """Without quotes it is no text."""
    args = planned(source, requirements="requirements.in", exclude_newer=yaml.safe_load(written))["args"]
    assert args["UV_OPTIONS"] == f"--exclude-newer {read} --only-binary :all:"


def test_packages_without_a_wheel(source: Path) -> None:
    """Those that are named are installed from their source, and no other."""
    assert planned(source, from_source=["ta", "blosc"])["args"]["UV_OPTIONS"] == (
        "--require-hashes --only-binary :all: --no-binary blosc --no-binary ta"
    )


def test_the_user_of_a_declared_image(source: Path) -> None:
    """Another than the usual one gets its entry, too, and makes another image."""
    images = [
        application.application_image(str(source), {"folders": ["desk"]}, user=user)
        for user in ("10005:10005", "1500:1600")
    ]
    assert [image["args"].get("APP_USER") for image in images] == [None, "1500:1600"]


def test_one_of_several_dockerfiles(source: Path) -> None:
    """It is built from the one that is named, with the whole directory, whatever .dockerignore says of it."""
    (source / "docker").mkdir()
    for name in ("api", "tools"):
        (source / "docker" / f"Dockerfile.{name}").write_text(f"FROM {name}\n")
    (source / ".dockerignore").write_text("*\n!desk/api.py\n")
    plans = [
        images.image_plan(
            {
                "python": {"context": []},
                "python-build": {"context": []},
                "backend": application.application_image(str(source), {}, f"docker/Dockerfile.{name}"),
            },
            ["backend"],
            {"repository": "desk", "args": {}},
        )[-1]
        for name in ("api", "tools")
    ]
    assert plans[0]["dockerfile"] == "docker/Dockerfile.api"
    assert plans[0]["files"] == {"docker/Dockerfile.api": "FROM api\n", "desk/api.py": "x = 1\n"}
    assert plans[0]["ref"] != plans[1]["ref"]
    with pytest.raises(AnsibleFilterError, match=r"There is no file docker/Dockerfile in .*, which backend_dockerfile"):
        application.application_image(str(source), {}, "docker/Dockerfile")


def test_a_dockerfile_of_its_own_is_built_with_the_whole_directory(source: Path) -> None:
    """But for what .dockerignore names; nothing of the shipped Dockerfile is left."""
    (source / "Dockerfile").write_text("FROM own\n")
    (source / ".dockerignore").write_text("# secrets\n.env\n**/*.csv\n/sql\n*\n!desk\ndesk/data\n")
    plan = images.image_plan(
        {
            "python": {"context": []},
            "python-build": {"context": []},
            "backend": application.application_image(str(source), {}),
        },
        ["backend"],
        {"repository": "desk", "args": {}},
    )[-1]
    assert plan["files"] == {"Dockerfile": "FROM own\n", "desk/api.py": "x = 1\n"}


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ("*.md", {"a/b.md", "a/c.txt"}),
        ("**/*.md", {"a/c.txt"}),
        ("a", {"x.md"}),
        ("a/**", {"x.md"}),
        ("./a/", {"x.md"}),
        ("a/?.txt", {"x.md", "a/b.md"}),
        ("a\n!a/b.md", {"x.md", "a/b.md"}),
        ("x.m", {"x.md", "a/b.md", "a/c.txt"}),
    ],
)
def test_dockerignore(tmp_path: Path, rules: str, left: set[str]) -> None:
    """Docker's own rules: relative to the directory, the last that matches counts."""
    for name in ("x.md", "a/b.md", "a/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / ".dockerignore").write_text(rules)
    assert set(source_files.context_files(str(tmp_path))) - {".dockerignore"} == left


def test_a_context_that_is_too_large_or_unreadable_is_named(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would travel as an argument of a module."""
    (source / "broken").symlink_to("/does/not/exist")
    with pytest.raises(
        AnsibleFilterError, match="broken cannot be read to build an image: it is a link to /does/not/exist, which"
    ):
        source_files.context_files(str(source))
    monkeypatch.setattr(source_files, "LARGEST_CONTEXT", 10)
    with pytest.raises(AnsibleFilterError, match=r"too much to build an image from.*\.dockerignore"):
        source_files.context_files(str(source))


def test_links_in_a_context_are_followed(tmp_path: Path) -> None:
    """To files and to directories, inside and outside; none is left out without a word."""
    source, shared = tmp_path / "source", tmp_path / "shared"
    for directory in (source / "own", shared / "deep"):
        directory.mkdir(parents=True)
        (directory / "module.py").write_text("x = 1\n")
    (source / "inside").symlink_to("own")
    (source / "outside").symlink_to(shared)
    (source / "alone.py").symlink_to(shared / "deep" / "module.py")
    (shared / "back").symlink_to("deep")
    assert set(source_files.context_files(str(source))) == {
        "own/module.py",
        "inside/module.py",
        "outside/deep/module.py",
        "outside/back/module.py",
        "alone.py",
    }


@pytest.mark.parametrize(
    ("name", "target", "reason"),
    [
        ("round", ".", "round cannot be read: it is a link to .*, one of its parent directories"),
        ("package/up", "..", "package/up cannot be read: it is a link to .*, one of its parent directories"),
        ("gone.py", "nowhere.py", "gone.py cannot be read: it is a link to nowhere.py, which does not exist"),
        ("itself", "itself", "itself cannot be read: it is a link to itself, which does not exist"),
        ("null", "/dev/null", "null cannot be read: it is neither a file nor a directory"),
    ],
)
def test_a_link_that_leads_nowhere_or_round_is_named(tmp_path: Path, name: str, target: str, reason: str) -> None:
    """With the variable whose directory it lies in, and what to do; a `.dockerignore` that names it is heeded."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text("x = 1\n")
    (tmp_path / name).symlink_to(target)
    with pytest.raises(AnsibleFilterError, match=rf"{reason}.*airflow_dags_dir.*\.dockerignore"):
        source_files.context_files(str(tmp_path), "airflow_dags_dir")
    (tmp_path / ".dockerignore").write_text(name)
    assert "package/module.py" in source_files.context_files(str(tmp_path), "airflow_dags_dir")


def test_a_pipe_is_named_and_not_waited_for(tmp_path: Path) -> None:
    """Opening one waits for its other end."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AnsibleFilterError, match="pipe cannot be read to build an image: it is neither a file nor"):
        source_files.context_files(str(tmp_path))


def test_what_editors_and_python_leave_is_left_out(tmp_path: Path) -> None:
    """Emacs' lock is a link that leads nowhere."""
    (tmp_path / ".#desk.py").symlink_to("someone@host.4711:1700000000")
    (tmp_path / "__pycache__").symlink_to("/does/not/exist")
    for name in ("desk.py", ".airflowignore", "#desk.py#", "desk.py~", ".desk.py.swp", "desk.pyc", ".DS_Store"):
        (tmp_path / name).write_text("")
    assert set(source_files.context_files(str(tmp_path))) == {"desk.py", ".airflowignore"}


@pytest.mark.parametrize("target", ["desk/.secrets", "desk/.secrets/redis_admin_password"])
def test_secrets_beside_an_inventory_are_not_copied(tmp_path: Path, target: str) -> None:
    """Neither where the inventory lies in the directory, nor by a link to them, whatever its name."""
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    for place in (source, elsewhere):
        (place / "desk" / ".secrets").mkdir(parents=True)
        (place / "desk" / ".secrets" / "redis_admin_password").write_text("secret")
        (place / "desk" / "hosts.yml").write_text("all: {}")
    assert set(source_files.context_files(str(source))) == {"desk/hosts.yml"}
    (source / "settings").symlink_to(elsewhere / target)
    with pytest.raises(AnsibleFilterError, match=r"source/settings cannot be read to build an image: .* among secrets"):
        source_files.context_files(str(source))
    (source / ".dockerignore").write_text("settings\n")
    assert "settings" not in source_files.context_files(str(source))


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbfx = 1\r\n", b"# coding: latin-1\nx = '\xe4'\n", b"base64:eA==", b"", b"\0\xff", "ü\n".encode()],
)
def test_files_are_copied_byte_by_byte(tmp_path: Path, content: bytes) -> None:
    """Whatever their encoding."""
    (tmp_path / "file.py").write_bytes(content)
    text = source_files.context_files(str(tmp_path))["file.py"]
    assert source_files.as_bytes(text) == content
    assert plugin("modules.config_tree").Tree.decode(text) == content


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        ({"python": "3.12"}, "backend_build.python is 3.12: images without a Dockerfile have Debian's Python 3.13"),
        ({"python": 3.13}, "backend_build.python is 3.13, expected str"),
        ({"folders": []}, "backend_build.folders names nothing"),
        ({"folders": ["desks"]}, "backend_build names 'desks', which is not in"),
        ({"folders": ["../desk"]}, "backend_build.folders holds '../desk'"),
        ({"folders": ["desk; rm"]}, "backend_build.folders holds 'desk; rm'"),
        ({"folders": "desk"}, "backend_build.folders is 'desk', expected list"),
        ({"requirements": "nope.txt"}, "backend_build names 'nope.txt'"),
        ({"requirements": "requirements.in"}, "is not a lock file with hashes"),
        ({"exclude_newer": "yesterday"}, "backend_build.exclude_newer is 'yesterday', expected a date"),
        (
            {"from_source": ["ta; rm"]},
            "backend_build.from_source holds 'ta; rm', expected the name of a Python package",
        ),
        ({"apt": ["jq && true"]}, "backend_build.apt holds 'jq && true', expected the name of a Debian package"),
        ({"apt_bild": ["gcc"]}, "backend_build has the unknown key 'apt_bild'. Did you mean 'apt_build'?"),
    ],
)
def test_a_build_that_cannot_be_is_refused(source: Path, build: dict[str, Any], sentence: str) -> None:
    """With the variable and what is expected."""
    with pytest.raises(AnsibleFilterError) as error:
        application.application_image(str(source), {"folders": ["desk"], **build})
    assert sentence in str(error.value)


def test_a_missing_directory_and_two_ways_to_build_are_refused(source: Path) -> None:
    """With the variable and the remedy."""
    with pytest.raises(
        AnsibleFilterError, match=r"no directory project, which backend_source_dir names\. Write an abs"
    ):
        application.application_image("project", {})
    (source / "Dockerfile").write_text("FROM own\n")
    with pytest.raises(AnsibleFilterError, match=r"holds a Dockerfile, and backend_build says"):
        application.application_image(str(source), {"folders": ["desk"]})


def declared(source: Path, **change: Any) -> dict[str, Any]:
    """An application in which nothing is wrong, with a change."""
    return {
        "backend_image": "",
        "backend_source_dir": str(source),
        "backend_dockerfile": "",
        "backend_build": {"folders": ["desk"]},
        "backend_processes": ["api", "worker", "beat", "flower"],
        "backend_command": ["serve"],
        "backend_celery_app": "desk:app",
        "backend_worker_command": ["celery", "--app=", "worker"],
        "backend_beat_command": ["celery", "--app=", "beat"],
        "backend_flower_command": ["my-flower"],
        "backend_worker_concurrency": 2,
        "backend_worker_queues": ["quick"],
        "backend_environment": {"A": "1"},
        "backend_secret_environment": {"B": "hidden-value"},
        "backend_health_path": "/health",
        "backend_migrate_command": [],
        "backend_sql_files": ["sql/1.sql"],
        "backend_mounts": [{"source": "/opt/data", "path": "/data"}, {"source": "cache", "path": "/cache"}],
        "backend_aliases": ["desk"],
        **change,
    }


PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "two sources": ({"backend_image": "own:1"}, "backend_image and backend_source_dir are both set"),
    "build of an image": ({"backend_source_dir": ""}, "backend_build is set without backend_source_dir"),
    "Dockerfile of an image": (
        {"backend_source_dir": "", "backend_dockerfile": "docker/Dockerfile.api"},
        "backend_dockerfile is set without backend_source_dir",
    ),
    "no api": ({"backend_processes": ["worker"]}, "backend_processes has no 'api'"),
    "no command": ({"backend_command": []}, "backend_command is empty"),
    "no Celery": ({"backend_celery_app": ""}, "backend_celery_app is empty, and the worker needs it"),
    "no concurrency": ({"backend_worker_concurrency": 0}, "backend_worker_concurrency is 0"),
    "queue": ({"backend_worker_queues": ["a,b"]}, "backend_worker_queues holds 'a,b'"),
    "name": ({"backend_environment": {"A-B": 1}}, "backend_environment has the name 'A-B'"),
    "null": ({"backend_environment": {"A": None}}, "backend_environment.A is empty: expected a text or a number"),
    "dictionary": ({"backend_environment": {"A": {"b": 1}}}, "backend_environment.A is a list or a dictionary"),
    "secret list": ({"backend_secret_environment": {"B": ["hidden-value"]}}, "backend_secret_environment.B is a list"),
    "secret name": ({"backend_secret_environment": {"../x": "1"}}, "backend_secret_environment has the name '../x'"),
    "both": (
        {"backend_secret_environment": {"A": "1"}},
        "A is in backend_environment and in backend_secret_environment",
    ),
    "empty secret": ({"backend_secret_environment": {"B": " "}}, "backend_secret_environment.B is empty"),
    "health": ({"backend_health_path": "health"}, "backend_health_path is 'health'"),
    "two migrations": (
        {"backend_migrate_command": ["x"]},
        "backend_sql_files and backend_migrate_command are both set",
    ),
    "no such SQL": ({"backend_sql_files": ["sql/9.sql"]}, "sql/9.sql, which backend_sql_files names"),
    "same SQL": ({"backend_sql_files": ["sql/1.sql", "sql/1.sql"]}, "backend_sql_files names two files 1.sql"),
    "quote in SQL's name": ({"backend_sql_files": ["sql/it's.sql"]}, 'backend_sql_files holds "sql/it\'s.sql"'),
    "mount over secrets": (
        {"backend_mounts": [{"source": "/opt", "path": "/run/secrets/x"}]},
        "backend_mounts has the path '/run/secrets/x'",
    ),
    "relative mount": (
        {"backend_mounts": [{"source": "./data", "path": "/data"}]},
        "backend_mounts has the source './data'",
    ),
    "alias": ({"backend_aliases": ["postgres"]}, "backend_aliases holds 'postgres'"),
}


@pytest.mark.parametrize(("change", "sentence"), PROBLEMS.values(), ids=PROBLEMS)
def test_what_cannot_run_is_refused(source: Path, change: dict[str, Any], sentence: str) -> None:
    """With the variable, and without a secret's value."""
    found = application.application_problems(declared(source, **change), ["postgres"])
    assert any(sentence in text for text in found), found
    assert "hidden-value" not in "".join(found)


def test_what_can_run_is_not_refused(source: Path) -> None:
    """Nothing is wrong with it; nor with one without Celery, or with SQL elsewhere."""
    assert application.application_problems(declared(source), ["postgres"]) == []
    plain = {"backend_processes": ["api"], "backend_celery_app": ""}
    assert application.application_problems(declared(source, **plain)) == []
    image = {"backend_image": "own:1", "backend_source_dir": "", "backend_build": {}}
    files = [str(source / "sql" / "1.sql")]
    assert application.application_problems(declared(source, **image, backend_sql_files=files)) == []
    [problem] = application.application_problems(declared(source, **image))
    assert "without backend_source_dir write an absolute path" in problem


def test_the_start_script_exports_values_as_they_are(tmp_path: Path) -> None:
    """Quotes, dollars and inner newlines arrive; the command's own words too."""
    value = 'it\'s "$HOME" `date` \\n\nsecond line = x'
    (tmp_path / "TOKEN").write_text(value + "\n")
    script = (RUNTIME / "with-secrets").read_text()
    assert script.count("/run/secrets/*") == 1
    own = tmp_path.parent / "with-secrets"
    own.write_text(script.replace("/run/secrets", str(tmp_path)))
    words = ["sh", str(own), "sh", "-c", 'printf "%s|%s" "$TOKEN" "$1"', "sh", "a b"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"})
    assert done.stdout == f"{value}|a b"


@pytest.mark.parametrize(
    ("expected", "answer", "sentences"),
    [
        ({"status": "ok"}, {"status": "ok", "more": 1}, []),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 2], "c": 3}}, []),
        ({"status": "ok"}, {"status": "bad"}, [".status is 'bad', expected 'ok'"]),
        ({"a": {"b": 1}}, {"a": {}}, [".a.b is missing"]),
        ({"a": 1}, ["a"], ["the answer is ['a'], expected {'a': 1}"]),
        ({"a": {"b": 1}}, {"a": None}, [".a is None, expected {'b': 1}"]),
    ],
)
def test_health_compares_what_is_expected(expected: Any, answer: Any, sentences: list[str]) -> None:
    """At every depth; what is more does not matter."""
    assert program("roles/backend/files/runtime/probe_http.py").missing(expected, answer) == sentences


LOCKED = """numpy==2.3.5 \\
    --hash=sha256:00
Attrs==25.4.0 ; python_full_version >= '3.13'
attrs==24.1.0 ; python_full_version < '3.13'
"""


@pytest.fixture
def dags(tmp_path: Path) -> Path:
    """A directory of DAGs with requirements beside them."""
    (tmp_path / "train.py").write_text("x = 1\n")
    (tmp_path / "requirements.txt").write_text("# ours\nxgboost>=3.1 # trees\nib_insync; python_version > '3'\n")
    (tmp_path / "requirements.lock").write_text(LOCK)
    return tmp_path


def packages(dags: Path, **build: Any) -> dict[str, Any]:
    """Plan of the image with the packages of DAGs."""
    definitions = {
        "python-build": {"context": []},
        "airflow": {"context": []},
        "airflow-packages": declared_build.packages_image(str(dags), build),
    }
    return images.image_plan(definitions, ["airflow-packages"], {"repository": "desk", "args": {}})[-1]


def test_packages_of_dags_are_an_image_over_airflows(dags: Path) -> None:
    """Its parent is Airflow's image, which a changed list leaves alone; nothing but the list is in its context."""
    plan = packages(dags, requirements="requirements.txt", exclude_newer="2026-11-20", apt=["jq"])
    assert set(plan["files"]) == {"Dockerfile", "requirements.txt"}
    assert plan["parents"] == ["python-build", "airflow"]
    assert plan["args"]["UV_OPTIONS"] == "--exclude-newer 2026-11-20 --only-binary :all:"
    assert plan["args"]["APT"] == "jq"
    assert plan["variable"] == "airflow_build"
    (dags / "train.py").write_text("x = 2\n")
    again = {"requirements": str(dags / "requirements.txt"), "exclude_newer": "2026-11-20", "apt": ["jq"]}
    assert packages(dags, **again)["ref"] == plan["ref"]
    (dags / "requirements.txt").write_text("lightgbm\n")
    assert packages(dags, **again)["ref"] != plan["ref"]


def test_dags_without_packages_of_their_own() -> None:
    """Define no image."""
    assert declared_build.packages_image("/does/not/exist", {}) == {}


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (
            {"requirements": "nope.txt"},
            "nope.txt, which airflow_build.requirements names, cannot be read: No such file",
        ),
        ({"requirements": "requirements.txt"}, "requirements.txt (airflow_build.requirements) is not a lock file with"),
        ({"folders": ["x"]}, "airflow_build has the unknown key 'folders'"),
        ({"requirements": ["xgboost"]}, "airflow_build.requirements is ['xgboost'], expected str"),
        ({"apt": ["jq && true"]}, "airflow_build.apt holds 'jq && true', expected the name of a Debian package"),
        ({"apt_build": ["gcc"]}, "airflow_build names no packages"),
        ({"requirements": "requirements.txt", "exclude_newer": "soon"}, "airflow_build.exclude_newer is 'soon'"),
    ],
)
def test_packages_that_cannot_be_installed_are_refused(dags: Path, build: dict[str, Any], sentence: str) -> None:
    """With the variable and what is expected."""
    with pytest.raises(AnsibleFilterError) as error:
        declared_build.packages_image(str(dags), build)
    assert sentence in str(error.value)


def test_a_version_that_airflow_is_not_tested_with_is_refused(dags: Path) -> None:
    """Of this repository's own lock, with the package, its version there, and the line."""
    (dags / "requirements.txt").write_text("xgboost\ncelery>=5.7\n")
    with pytest.raises(AnsibleFilterError) as error:
        declared_build.packages_image(str(dags), {"requirements": "requirements.txt", "exclude_newer": "2026-11-20"})
    assert "requirements.txt, line 2 (airflow_build.requirements) asks for celery>=5.7, and Airflow is tested with" in (
        str(error.value)
    )
    assert "xgboost" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("numpy<2", "line 1 (airflow_build.requirements) asks for numpy<2, and Airflow is tested with numpy 2.3.5."),
        ("NumPy==2.3.4 --hash=sha256:00", "asks for NumPy==2.3.4"),
        ("numpy==2.3.4 \\\n    --hash=sha256:00 \\\n    --hash=sha256:01", "asks for numpy==2.3.4"),
        ("attrs<25", "asks for attrs<25, and Airflow is tested with attrs 25.4.0"),
        ("-r other.txt", "is '-r other.txt', expected the name of a package"),
        ("./wheels/own.whl", "is './wheels/own.whl', expected the name of a package"),
        ("numpy", ""),
        ("numpy>=2,<3", ""),
        ("numpy<2; python_version < '3.13'", ""),
        ("numpy<2; sys_platform == 'win32'", ""),
        ("xgboost[all]==1 # numpy<2", ""),
        ("--index-url https://index.example", ""),
    ],
)
def test_requirements_beside_a_lock(line: str, sentence: str) -> None:
    """Only what the image would have to install is compared, with the lock's version for the image's Python."""
    found = declared_build.conflicting_requirements(line + "\n", LOCKED, "requirements.txt", "airflow_build")
    assert [sentence in each for each in found] == [True] * bool(sentence)


def test_airflows_environment_and_image_are_checked() -> None:
    """As the backend's are, and no secret takes the name of one of Airflow's."""
    declared = {
        "airflow_image": "own:1",
        "airflow_build": {"apt": ["jq"]},
        "airflow_environment": {"A-B": "1", "TOKEN": "x"},
        "airflow_secret_environment": {"TOKEN": "hidden-value", "EMPTY": "", "fernet_key": "hidden-value"},
    }
    found = application.airflow_problems(declared, ["fernet_key"])
    for part in (
        "airflow_environment has the name 'A-B'",
        "TOKEN is in airflow_environment and in airflow_secret_environment",
        "airflow_secret_environment.EMPTY is empty",
        "airflow_secret_environment has the name 'fernet_key', which is that of a secret of Airflow's own",
        "airflow_image and airflow_build are both set",
    ):
        assert sum(part in each for each in found) == 1, part
    assert len(found) == 5 and "hidden-value" not in "".join(found)
