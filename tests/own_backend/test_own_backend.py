"""The example of an application of one's own, deployed: what reaches it, what it does, and what a change of it changes.

The last tests run site.yml again with one thing different, and the first of the following such runs takes it back.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import pytest
import requests
import yaml
from stack_under_test import REPOSITORY, WORKER, Stack, changed, command, eventually, run_playbook

EXAMPLE = REPOSITORY / "examples" / "own_backend"
VARIABLES = REPOSITORY / "molecule" / "own_backend" / "vars" / "main.yml"
TOKEN = yaml.safe_load(VARIABLES.read_text())["vault_desk_token"]
BACKEND = {"backend-migrate", "backend-check", "backend", "celery-worker", "celery-beat", "flower"}
OTHERS = {"postgres", "redis", "minio", "ibkr-gateway"}
IMAGE = {"backend-check", "backend", "celery-worker", "celery-beat", "flower"}


def site(stack: Stack, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run site.yml on the example with further variables."""
    options = (f"--extra-vars=@{VARIABLES}", f"--extra-vars={json.dumps(variables)}")
    own = {"MOLECULE_EPHEMERAL_DIRECTORY": str(stack.secrets_dir.parent)}
    return run_playbook("playbooks/site.yml", EXAMPLE / "inventory", *options, environment=own)


def deployed(stack: Stack, **variables: Any) -> str:
    """Run it and assert that it worked; returns what it said."""
    done = site(stack, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def inside(stack: Stack, container: str, program: str) -> str:
    """Run Python in a container, with the environment of its program."""
    done = stack.execute(container, "/bin/sh", "/run/config/with-secrets", "python3", "-c", program)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def query(stack: Stack, statement: str) -> str:
    """Ask the application's database."""
    words = ("psql", "--no-psqlrc", "-At", "--host=127.0.0.1", "--username=backend", "--dbname=backend", "--file=-")
    password = {"PGPASSWORD": stack.secret("postgres_backend_password")}
    done = stack.execute("postgres", *words, stdin=statement, environment=password)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ask(stack: Stack, path: str) -> Any:
    """Ask the application."""
    answer = requests.get(stack.url("backend", path), timeout=30)
    answer.raise_for_status()
    return answer.json()


def test_exactly_the_declared_containers_run(stack: Stack) -> None:
    """Services are up, steps ended well."""
    containers = stack.containers()
    assert set(containers) == BACKEND | OTHERS
    for name, item in containers.items():
        state = item["State"]
        if name in ("backend-migrate", "backend-check"):
            assert (state["Status"], state["ExitCode"]) == ("exited", 0)
        else:
            assert eventually(lambda name=name: healthy(stack, name), seconds=120), name


def healthy(stack: Stack, name: str) -> bool:
    """Whether the engine calls a container healthy."""
    return stack.containers()[name]["State"]["Health"]["Status"] == "healthy"


def test_health_is_what_the_inventory_expects(stack: Stack) -> None:
    """The page's JSON, and a check that fails on any other."""
    assert ask(stack, "/health") == {"status": "ok", "application": "desk"}
    probe = ("python3", "/run/config/probe_http.py", "http://127.0.0.1:8000/health")
    assert stack.execute("backend", *probe, '{"status": "ok"}').returncode == 0
    wrong = stack.execute("backend", *probe, '{"status": "fine"}')
    assert (wrong.returncode, wrong.stderr.strip()) == (22, ".status is 'ok', expected 'fine'")


def test_beat_and_worker_write_a_row_that_the_api_reads(stack: Stack) -> None:
    """Nobody asked: beat sent, the worker asked the gateway over verified TLS and wrote, the API reads."""
    newest = eventually(lambda: ask(stack, "/observations?count=1"), seconds=120)[0]
    assert newest["logged_in"] is True
    assert eventually(lambda: ask(stack, "/observations?count=1")[0]["id"] > newest["id"], seconds=120)
    assert int(query(stack, "SELECT count(*) FROM observations WHERE logged_in")) >= 2


def test_sql_files_were_applied_once_and_in_order(stack: Stack) -> None:
    """Each has its line, and what it made is there once."""
    assert query(stack, "SELECT name FROM backend_sql_files ORDER BY applied_at") == (
        "001_observations.sql\n002_detail.sql"
    )
    assert query(stack, "SELECT count(*) FROM pg_indexes WHERE indexname = 'observations_at'") == "1"


def test_secret_environment_arrives_and_is_not_shown(stack: Stack) -> None:
    """Quotes and dollar signs too; not in the engine's description, not on a command line, not in a log."""
    for container in ("backend", "celery-worker", "celery-beat", "flower"):
        assert inside(stack, container, "import os; print(os.environ['DESK_TOKEN'])") == TOKEN
    shown = json.dumps(stack.containers()) + command("ps", "-eo", "args", "-ww")
    for container in BACKEND:
        shown += stack.log(container)
    values = [TOKEN, *(file.read_text().split()[-1] for file in stack.secrets_dir.iterdir())]
    assert len(values) > 6 and [value for value in values if value in shown] == []
    assert requests.post(stack.url("backend", "/archive"), headers={"X-Token": "wrong"}, timeout=30).status_code == 403


def test_a_generated_secret_under_another_name(stack: Stack) -> None:
    """The inventory names it by the name of its file."""
    said = inside(stack, "celery-worker", "import os; print(os.environ['DESK_DB_PASSWORD'])")
    assert said == stack.secret("postgres_backend_password")


def test_the_user_has_entries(stack: Stack) -> None:
    """Without one of its group Celery warns that it may run as the superuser."""
    program = "import grp, os, pwd; print(pwd.getpwuid(os.getuid())[0], grp.getgrgid(os.getgid())[0])"
    assert inside(stack, "celery-worker", program) == "backend backend"
    assert "superuser" not in stack.log("celery-worker") and "SecurityWarning" not in stack.log("celery-worker")


def test_a_task_of_the_other_queue_writes_to_the_bucket(stack: Stack) -> None:
    """The API sends to `slow`, the worker writes with the keys that boto3 finds by itself."""
    answer = requests.post(stack.url("backend", "/archive"), headers={"X-Token": TOKEN}, timeout=30)
    assert answer.status_code == 202, answer.text
    client = boto3.client(
        "s3",
        endpoint_url=stack.url("minio"),
        region_name="us-east-1",
        aws_access_key_id=stack.secret("minio_trading_charts_access_key"),
        aws_secret_access_key=stack.secret("minio_trading_charts_secret"),
        config=botocore.config.Config(s3={"addressing_style": "path"}, proxies={}),
    )

    def written() -> bool:
        listed = client.list_objects_v2(Bucket="trading-charts", Prefix="desk/")
        return listed["KeyCount"] == 1

    assert eventually(written, seconds=60)
    text = client.get_object(Bucket="trading-charts", Key="desk/observations.csv")["Body"].read().decode()
    assert text.startswith("at,logged_in") and "True" in text


CONNECTIONS = """
from os import environ as e
import boto3, httpx, psycopg, redis, sqlalchemy

for address in (e["DATABASE_URL"], e["DATABASE_DSN"], ""):  # the last one: PGHOST and its like
    assert psycopg.connect(address).execute("SELECT 7").fetchone() == (7,)
assert sqlalchemy.create_engine(e["DATABASE_URL_PSYCOPG"]).connect().exec_driver_sql("SELECT 7").scalar() == 7
cache = redis.Redis.from_url(e["REDIS_URL"])
assert cache.set("probe", 7, ex=5) and cache.get("probe") == b"7"
login = {"username": e["REDIS_USERNAME"], "password": e["REDIS_PASSWORD"]}
assert redis.Redis(e["REDIS_HOST"], int(e["REDIS_PORT"]), **login).ping()
bucket, client = e["S3_BUCKET"], boto3.client("s3")
client.put_object(Bucket=bucket, Key="probe", Body=b"7")
assert client.get_object(Bucket=bucket, Key="probe")["Body"].read() == b"7"
client.delete_object(Bucket=bucket, Key="probe")
status = httpx.get(e["IBIND_REST_URL"] + "iserver/auth/status", verify=e["IBIND_CACERT"])
assert status.json()["authenticated"] is True
print("all work")
"""


def test_connections_work(stack: Stack) -> None:
    """Each form is used by a library that wants it."""
    assert inside(stack, "backend", CONNECTIONS) == "all work"


def test_every_connection_is_documented(stack: Stack) -> None:
    """docs/own-application.md names what the containers get, and nothing that they do not get."""
    text = (REPOSITORY / "docs" / "own-application.md").read_text(encoding="utf-8")
    table = text.partition("## What reaches it")[2].partition("\n## ")[0]
    named = {
        word.strip("`")
        for row in table.splitlines()
        if row.startswith("| `")
        for word in row.split("|")[1].replace(",", " ").split()
    }
    optional = {name for name in named if name.startswith(("MLFLOW_", "AIRFLOW_"))}
    found = set(json.loads(inside(stack, "backend", "import json, os; print(json.dumps(sorted(os.environ)))")))
    of_the_base = {"PATH", "HOSTNAME", "LANG", "PWD", "OLDPWD", "SHLVL", "_", "SSL_CERT_FILE", "PYTHONUNBUFFERED"}
    assert named - optional == found - of_the_base - {"DESK_TOKEN", "DESK_DB_PASSWORD", "DESK_LOOK_SECONDS", "LC_CTYPE"}
    assert len(optional) == 8


def test_flower_asks_for_its_password(stack: Stack) -> None:
    """Nothing without it; with it, the worker."""
    address = stack.url("flower", "/api/workers")
    assert requests.get(address, timeout=30).status_code == 401
    credentials = ("flower", stack.secret("flower_password"))
    metrics = stack.url("flower", "/metrics")
    assert requests.get(metrics, timeout=30).status_code == 401
    assert requests.get(metrics, auth=credentials, timeout=30).status_code == 200
    assert eventually(lambda: WORKER in requests.get(address, auth=credentials, timeout=30).text, seconds=60)


def test_the_schedule_is_on_a_volume_of_its_own(stack: Stack) -> None:
    """Beat keeps when it last sent what; no other container has the volume."""
    holders = {
        name: mount["Name"]
        for name, item in stack.containers().items()
        for mount in item["Mounts"]
        if mount["Destination"] == "/var/lib/backend"
    }
    assert holders == {"celery-beat": f"{stack.name}-backend-beat"}
    assert stack.execute("celery-beat", "test", "-s", "/var/lib/backend/celerybeat-schedule").returncode == 0


def test_an_alias_and_a_limit(stack: Stack) -> None:
    """The API has its further name, and the memory that the inventory gives it."""
    item = stack.containers()["backend"]
    assert "desk" in item["NetworkSettings"]["Networks"][stack.name]["Aliases"]
    assert item["HostConfig"]["Memory"] == 512 * 2**20


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The application in a directory of the test's own."""
    directory = tmp_path_factory.mktemp("own") / "application"
    shutil.copytree(EXAMPLE / "application", directory)
    return directory


def test_what_does_not_belong_changes_nothing(stack: Stack, copy: Path) -> None:
    """The same application elsewhere, with a file beside its folders: every container stays."""
    (copy / "notes.txt").write_text("not part of the image\n")
    before = stack.identity()
    assert "nothing to change" in deployed(stack, backend_source_dir=str(copy))
    assert changed(before, stack.identity()) == set()


def test_a_changed_file_recreates_what_runs_it(stack: Stack, copy: Path) -> None:
    """Image, check, API, worker, beat and Flower; not the SQL step, and no other service."""
    (copy / "notes.txt").unlink()
    file = copy / "desk" / "api.py"
    file.write_text(file.read_text().replace('"application": "desk"', '"application": "changed desk"'))
    before = stack.identity()
    deployed(stack, backend_source_dir=str(copy))
    assert changed(before, stack.identity()) == IMAGE
    assert ask(stack, "/health") == {"status": "ok", "application": "changed desk"}


def test_a_further_sql_file_is_applied_alone(stack: Stack, copy: Path) -> None:
    """Earlier ones are not applied again; rows stay; only the step runs."""
    (copy / "sql" / "003_note.sql").write_text("ALTER TABLE observations ADD COLUMN note text;\n")
    rows = int(query(stack, "SELECT count(*) FROM observations"))
    before = stack.identity()
    files = ["sql/001_observations.sql", "sql/002_detail.sql", "sql/003_note.sql"]
    deployed(stack, backend_source_dir=str(copy), backend_sql_files=files)
    assert changed(before, stack.identity()) == {"backend-migrate"}
    log = command("docker", "logs", f"{stack.name}-backend-migrate").splitlines()
    assert log == [
        "001_observations.sql was applied before",
        "002_detail.sql was applied before",
        "applying 003_note.sql",
    ]
    assert int(query(stack, "SELECT count(*) FROM observations WHERE note IS NULL")) >= rows > 0


def test_a_sql_file_that_changed_after_it_was_applied_is_refused(stack: Stack, copy: Path) -> None:
    """Loudly, and with what to do; the database is as it was."""
    file = copy / "sql" / "002_detail.sql"
    kept = file.read_text()
    file.write_text("DROP TABLE observations;\n")
    done = site(stack, backend_source_dir=str(copy))
    file.write_text(kept)
    assert done.returncode != 0
    said = " ".join(done.stdout.split())
    assert "backend_sql_files: 002_detail.sql was changed after it was applied; add a further file instead" in said
    assert int(query(stack, "SELECT count(*) FROM observations")) > 0


def test_a_queue_that_nobody_consumes_is_refused(stack: Stack, copy: Path) -> None:
    """Before the worker is touched: the task, its queue, and the variable."""
    before = stack.identity()
    done = site(stack, backend_source_dir=str(copy), backend_worker_queues=["quick"])
    assert done.returncode != 0
    said = " ".join(done.stdout.split())
    assert "the task desk.archive goes to the queue slow, the worker consumes quick" in said
    assert "Add the queue to backend_worker_queues" in said
    assert changed(before, stack.identity()) == {"backend-check", "backend-migrate"}


def test_what_is_switched_off_is_removed(stack: Stack, copy: Path) -> None:
    """Container, configuration and copies of secrets go; the volume with the schedule stays."""
    deployed(stack, backend_source_dir=str(copy), backend_processes=["api", "worker"])
    assert set(stack.containers()) == OTHERS | BACKEND - {"celery-beat", "flower"}
    assert not (stack.config_dir / "celery-beat").exists() and (stack.config_dir / "backend").exists()
    assert f"{stack.name}-backend-beat" in command("docker", "volume", "ls", "--format", "{{.Name}}").split()


def test_without_a_lock_packages_count_up_to_a_date(stack: Stack, copy: Path) -> None:
    """Names without hashes, the newest as of a day; a package for the image, and a compiler that is not in it."""
    build = {
        "requirements": "requirements.in",
        "exclude_newer": "2026-11-20",
        "apt": ["sqlite3"],
        "apt_build": ["gcc"],
        "folders": ["desk"],
    }
    (copy / "requirements.in").write_text((EXAMPLE / "application" / "requirements.in").read_text())
    deployed(stack, backend_source_dir=str(copy), backend_build=build)
    assert ask(stack, "/health")["application"].endswith("desk")
    program = "import shutil, fastapi; print(shutil.which('sqlite3'), shutil.which('gcc'), fastapi.__version__)"
    locked = (EXAMPLE / "application" / "requirements.lock").read_text()
    version = locked.partition("fastapi==")[2].split()[0]
    assert inside(stack, "backend", program) == f"/usr/bin/sqlite3 None {version}"
