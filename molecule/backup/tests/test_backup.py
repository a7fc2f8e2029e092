"""Backups of a running stack, what is found wrong with them, and the state of an earlier time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
import requests
from client_programs import run_client
from stack_under_test import REPOSITORY, Stack, ansible_environment, command, eventually
from test_data_services import psql, s3

REPOSITORY_DIR = "/var/backups/quantops/molecule"
RECORD = "/etc/quantops/molecule/restore.json"
MODEL = "kept model"
PREDICTION = pytest.approx(301)


def words(playbook: str, *options: str) -> list[str]:
    """The command line of a run on this scenario's host."""
    inventory = os.path.dirname(os.environ["MOLECULE_INVENTORY_FILE"])
    return ["ansible-playbook", f"--inventory={inventory}", "--inventory=molecule/shared/inventory.yml",
            f"playbooks/{playbook}.yml", *options]  # fmt: skip


def run(playbook: str, *options: str, status: int = 0) -> str:
    """Run a playbook to its end, and return what it says."""
    done = subprocess.run(
        words(playbook, *options), cwd=REPOSITORY, env=ansible_environment(),
        capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert done.returncode == status, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


def agent(stack: Stack, *arguments: str, status: int = 0) -> str:
    """Run the program of the container, and return what it says."""
    done = stack.execute("backup", "python3", "/run/config/backup.py", *arguments)
    assert done.returncode == status, done
    return done.stdout + done.stderr


def backups(stack: Stack) -> list[dict[str, Any]]:
    """Manifests of the complete backups, the newest first."""
    return json.loads(agent(stack, "list"))


def files_of_the_repository(below: str) -> dict[str, int]:
    """Files with data in a part of the repository, and their sizes."""
    find = f"find {REPOSITORY_DIR}/{below} -type f ! -name '*.manifest*' ! -name 'backup.info*' -printf '%s %p\\n'"
    lines = (line.split(" ", 1) for line in command("sh", "-c", find).splitlines())
    return {path: int(size) for size, path in lines}


def predict(stack: Stack) -> float:
    """What the registered model says."""
    return json.loads(run_client("dags", "mlflow_load.py", url=stack.url("mlflow"), name=MODEL).splitlines()[-1])[
        "prediction"
    ]


def now(stack: Stack) -> str:
    """The time of the host, in UTC, once a second has passed on both sides of it."""
    time.sleep(1.5)
    moment = command("date", "--utc", "+%Y-%m-%d %H:%M:%S").strip()
    time.sleep(1.5)
    return moment


@pytest.fixture(scope="module", autouse=True)
def model(stack: Stack) -> None:
    """A champion with its rows and objects."""
    run_client("dags", "mlflow_client.py", url=stack.url("mlflow"), name=MODEL)
    alias = {"name": MODEL, "alias": "champion", "version": "1"}
    path = "/api/2.0/mlflow/registered-models/alias"
    assert requests.post(stack.url("mlflow", path), json=alias, timeout=60).status_code == 200


def page(stack: Stack) -> str:
    """The stack's page, as somebody who is logged in sees it."""
    with requests.Session() as session:
        form = {"user": "trader", "password": stack.secret("backend_page_password")}
        assert session.post(stack.url("backend", "/login"), data=form, timeout=30).status_code == 200
        return session.get(stack.url("backend", "/"), timeout=30).text


def metrics(stack: Stack) -> dict[str, float]:
    """What Prometheus would read of the backups, on the stack's network."""
    program = "import urllib.request as r; print(r.urlopen('http://backup:8008/metrics', timeout=9).read().decode())"
    done = stack.execute("backend", "python", "-c", program)
    assert done.returncode == 0, done
    lines = [line.rpartition(" ") for line in done.stdout.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _space, value in lines}


def test_a_backup_has_databases_buckets_and_secrets(stack: Stack) -> None:
    said = run("backup")
    # On a slow host, the first one of the schedule, ten minutes after its start, is already there.
    found = backups(stack)
    newest = found[0]
    assert [each["type"] for each in found] == [*["incr"] * (len(found) - 1), "full"]
    assert f"Backup {newest['id']} ({newest['type']}) is complete" in said
    rows = newest["postgres"]["rows"]["least"]["mlflow"]
    assert rows["public.model_versions"] == 1 == rows["public.registered_models"]
    assert set(newest["files"]["volumes"]) == {"minio-data", "redis-data", "backend-beat"}
    status = run("status")
    assert f"{stack.name}-backup: {len(found)} complete backup" in status
    assert "copies of the secrets" not in status
    # Its time is that of the last but one segment at most: the next minute's is archived without a backup.
    psql_admin = "SELECT archived_count > 0 FROM pg_stat_archiver"
    assert (
        stack.execute(
            "postgres", "psql", "--username=postgres", "--tuples-only", "--command", psql_admin
        ).stdout.strip()
        == "t"
    )


def test_what_an_owner_makes_in_its_database_does_no_harm(stack: Stack) -> None:
    """A table may have any name, and the administrator, who counts rows, runs none of the owner's functions."""
    table = "\"two\nlines = 'q'\tü\""
    become = "ALTER ROLE mlflow SUPERUSER"
    make = f"""CREATE TABLE {table} (x int);
        CREATE FUNCTION public.format(text, text, name, name) RETURNS text LANGUAGE plpgsql
        AS $$ BEGIN EXECUTE '{become}'; RETURN 'SELECT 1'; END $$;"""
    status, said = psql(stack, "mlflow", "mlflow", make)
    assert status == 0, said
    try:
        rows = json.loads(agent(stack, "run"))["postgres"]["rows"]["most"]["mlflow"]
        assert rows["public.two\nlines = 'q'\tü"] == 0
        rights = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
        assert psql(stack, "mlflow", "mlflow", rights) == (0, "f")
    finally:
        drop = f"DROP TABLE {table}; DROP FUNCTION public.format(text, text, name, name)"
        assert psql(stack, "mlflow", "mlflow", drop)[0] == 0


def test_the_repository_tells_nothing_without_its_key(stack: Stack) -> None:
    """Neither the model's name, which rows and objects have, nor a secret; only root and PostgreSQL open it."""
    secrets = [path.read_text().strip() for path in stack.secrets_dir.iterdir() if path.is_file()]
    for text in (MODEL, "MLmodel", *secrets):
        found = command("sh", "-c", f"grep -rlF -- '{text.splitlines()[0]}' {REPOSITORY_DIR} || true").split()
        assert not found, text[:4]
    loose = command("find", REPOSITORY_DIR, "-mindepth", "1", "!", "-type", "l", "-perm", "/o=rwx").split()
    assert loose == []


def test_versions_of_objects_outlive_their_deletion(stack: Stack) -> None:
    client = s3(stack, "mlflow")
    client.put_object(Bucket="mlflow", Key="probe/object", Body=b"first")
    client.delete_object(Bucket="mlflow", Key="probe/object")
    versions = client.list_object_versions(Bucket="mlflow", Prefix="probe/")
    assert len(versions["Versions"]) == 1 == len(versions["DeleteMarkers"])


@pytest.mark.parametrize("below", ["files/data", "postgres/backup/main"])
def test_one_flipped_byte_is_found(stack: Stack, below: str) -> None:
    """By verification and by a drill, so never restored in silence; put right, nothing is wrong any more."""
    # The largest new file of a backup, with an object that outweighs all else in it: this backup needs its middle.
    before = files_of_the_repository(below)
    s3(stack, "mlflow").put_object(Bucket="mlflow", Key="probe/large", Body=os.urandom(8 << 20))
    agent(stack, "run")
    after = files_of_the_repository(below)
    size, path = max((after[each], each) for each in after.keys() - before.keys())
    flip = (
        "import sys; name, place = sys.argv[1], int(sys.argv[2]); f = open(name, 'r+b'); f.seek(place);"
        " byte = f.read(1)[0] ^ 1; f.seek(place); f.write(bytes([byte]))"
    )
    command("chmod", "u+w", path)
    command("python3", "-c", flip, path, str(size // 2))
    try:
        said = run("backup", "--extra-vars=backup_verify=true", status=2)
        assert ("Files: " if below == "files/data" else "PostgreSQL: ") in said
        assert "cannot be restored: " in run("drill", status=2)
        assert "ALERT" in run("status")
    finally:
        command("python3", "-c", flip, path, str(size // 2))
    assert "backups are whole" in run("backup", "--extra-vars=backup_verify=true")


def test_a_backup_that_is_killed_leaves_the_repository_whole(stack: Stack) -> None:
    complete = [each["id"] for each in backups(stack)]
    for delay in (0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1, 2.4, 2.7, 3.0):
        started = f"cd /; timeout --signal=KILL {delay} python3 /run/config/backup.py run full"
        stack.execute("backup", "sh", "-c", started)
        stack.execute("backup", "sh", "-c", "pkill -KILL restic; pkill -KILL pgbackrest; true")
    known = [each["id"] for each in backups(stack)]
    assert known[-len(complete) :] == complete
    agent(stack, "run")
    assert "backups are whole" in agent(stack, "verify")


def test_a_lost_mount_is_not_taken_for_a_new_repository(stack: Stack) -> None:
    away = f"{REPOSITORY_DIR}/repository.json"
    command("mv", away, f"{away}.away")
    try:
        assert "not mounted" in agent(stack, "run", status=1)
        assert f"ALERT: {stack.name}-backup: backups: The backup directory holds no repository" in run("status")
        eventually(lambda: metrics(stack)['backup_alert{kind="repository"}'] == 1, seconds=90)
        eventually(lambda: "The backup directory holds no repository" in page(stack), seconds=90)
        assert not command("sh", "-c", f"ls {away} 2> /dev/null || true")
    finally:
        command("mv", f"{away}.away", away)
    # A scheduled one may have failed meanwhile, which is told until one has succeeded.
    agent(stack, "run")
    eventually(lambda: metrics(stack)['backup_alert{kind="repository"}'] == 0, seconds=90)
    # The page keeps what it was answered for a while.
    eventually(lambda: "The backup directory holds no repository" not in page(stack), seconds=90)


def test_two_backups_at_once(stack: Stack) -> None:
    """One is made, and the other says why it is not."""
    before = len(backups(stack))
    program = "python3 /run/config/backup.py run"
    script = f"{program} > /tmp/one 2>&1 & sleep 0.5; {program}; echo $?; wait; rm /tmp/one"
    said = stack.execute("backup", "sh", "-c", script)
    assert "Another backup" in said.stderr and said.stdout.strip() == "1"
    assert len(backups(stack)) == before + 1


def test_one_drill_at_a_time(stack: Stack) -> None:
    """The second is refused, and neither disturbs the first nor says anything of the backup."""
    if not backups(stack):
        agent(stack, "run")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run, "drill")
        eventually(lambda: command("docker", "ps", "--quiet", "--filter", "name=molecule-drill").strip(), seconds=300)
        said = " ".join(run("drill", status=2).split())
        assert "runs a drill of the stack molecule on" in said and "Nothing was changed." in said
        assert "cannot be restored" not in said
        assert "can be restored whole" in first.result(900)


def test_a_drill_shows_that_a_backup_can_be_restored(stack: Stack) -> None:
    """Beside the stack, which is not touched; and finds what is missing in it."""
    agent(stack, "run")
    before = stack.identity()
    said = run("drill")
    assert "can be restored whole" in said and "objects of 1 versions of models" in said
    words_of = " ".join(said.split())
    assert f"The champion {MODEL} 1 predicts " in words_of and ", as in the running stack." in words_of
    status = run("status")
    assert "0 problems in the last drill" in status and "ALERT" not in status
    eventually(lambda: metrics(stack).get("backup_drill_problems") == 0, seconds=90)
    newest = backups(stack)[0]
    found = metrics(stack)
    assert found["backup_newest_timestamp_seconds"] == datetime.fromisoformat(newest["finished"]).timestamp()
    assert found["backup_repository_bytes"] == newest["repository_bytes"] > 1e6
    # Which asks once in a while.
    eventually(lambda: f"The drill was of the backup {newest['id']}" in page(stack), seconds=90, pause=2)
    assert stack.identity() == before
    assert not command("docker", "volume", "ls", "--quiet", "--filter", "name=molecule-drill").strip()
    # An object that the store had lost before the backup.
    client = s3(stack, "mlflow")
    keys = [each["Key"] for each in client.list_objects_v2(Bucket="mlflow", Prefix="artifacts/")["Contents"]]
    models = [key for key in keys if "/models/" in key]
    kept = {key: client.get_object(Bucket="mlflow", Key=key)["Body"].read() for key in models}
    for key in models:
        client.delete_object(Bucket="mlflow", Key=key)
    agent(stack, "run")
    try:
        said = run("drill", status=2)
        assert "cannot be restored whole" in said and "has no object" in said
        assert f"the champion {MODEL} 1 cannot be loaded" in " ".join(said.split())
        status = run("status")
        assert f"ALERT: {stack.name}-backup: " in status and "which failed" in status
        eventually(lambda: metrics(stack)['backup_alert{kind="drill"}'] == 1, seconds=90)
    finally:
        for key, body in kept.items():
            client.put_object(Bucket="mlflow", Key=key, Body=body)
    agent(stack, "run")


def test_a_wrong_password_of_the_secrets_changes_nothing(stack: Stack) -> None:
    before = stack.identity()
    said = run("restore", "--extra-vars=backup_secrets_password=wrong", status=2)
    assert "backup_secrets_password does not decrypt" in said
    assert stack.identity() == before


def test_a_point_in_time_after_a_restore_that_was_cut_off(stack: Stack) -> None:
    """What was deleted since is back; what came since is gone from the stack, and kept beside it."""
    moment = now(stack)
    tables = ("registered_model_aliases", "model_versions", "registered_models")
    delete = "".join(f"DELETE FROM {table}; " for table in tables)
    status, said = psql(stack, "mlflow", "mlflow", f"{delete} SELECT count(*) FROM registered_models")
    assert status == 0 and said.splitlines()[-1] == "0", said
    client = s3(stack, "mlflow")
    for each in client.list_objects_v2(Bucket="mlflow").get("Contents", []):
        client.delete_object(Bucket="mlflow", Key=each["Key"])
    client.put_object(Bucket="mlflow", Key="probe/later", Body=b"later")
    agent(stack, "run")
    options = (f"--extra-vars={json.dumps({'restore_to': moment, 'restore_confirm': stack.name})}",)
    process = subprocess.Popen(
        words("restore", *options), cwd=REPOSITORY, env=ansible_environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        eventually(
            lambda: command("sh", "-c", f"grep -c moved {RECORD} 2> /dev/null || true").strip() == "4",
            seconds=600,
            pause=0.5,
        )
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    lock = ("--extra-vars=stack_lock_wait=300",)
    assert "A restore of molecule was interrupted" in run("site", *lock, status=2)
    assert "A restore of molecule was interrupted" in run("start", *lock, status=2)
    run("destroy", *lock)
    said = " ".join(run("site", *lock, status=2).split())
    assert f"(make restore TO='{moment}')" in said
    said = run("restore", *options, *lock)
    assert f"Restored: the state of {moment} UTC" in said
    assert predict(stack) == PREDICTION
    keys = [each["Key"] for each in client.list_objects_v2(Bucket="mlflow")["Contents"]]
    assert "probe/later" not in keys
    kept = command("docker", "volume", "ls", "--format", "{{.Name}}", "--filter", "label=quantops.kept").split()
    assert len(kept) == 3, kept
    [objects] = [each for each in kept if each.startswith("molecule-minio-data.until-")]
    place = command("docker", "volume", "inspect", "--format", "{{.Mountpoint}}", objects).strip()
    assert command("ls", f"{place}/mlflow/probe/later").strip() == "xl.meta"
    # A new timeline is archived and backed up like the first.
    run("backup", "--extra-vars=backup_full=true")
    assert "backups are whole" in run("backup", "--extra-vars=backup_verify=true")


def kept_volumes() -> set[str]:
    """Volumes with what restores have replaced."""
    return set(command("docker", "volume", "ls", "--format", "{{.Name}}", "--filter", "label=quantops.kept").split())


@pytest.mark.parametrize(
    ("point", "then"), [("its data is in place", "site"), ("the restored state is backed up", "restore")]
)
def test_a_restore_that_was_cut_off_before_its_end(stack: Stack, point: str, then: str) -> None:
    """The next run ends it: it names all that is kept, and PostgreSQL keeps no settings of the restore."""
    newest, before = json.loads(newest_manifest())["id"], kept_volumes()
    options = (f"--extra-vars={json.dumps({'restore_to': newest, 'restore_confirm': stack.name})}",)
    running = f"docker top {stack.name}-backup | grep -q 'backup.py run'"
    reached = f"grep -q ^replaced {RECORD}{'' if 'place' in point else f' && {running}'} && echo yes || true"
    process = subprocess.Popen(
        words("restore", *options), cwd=REPOSITORY, env=ansible_environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        eventually(lambda: command("sh", "-c", reached).strip() == "yes", seconds=900, pause=0.5)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    lock = ("--extra-vars=stack_lock_wait=300",)
    said = " ".join(run("start", *lock, status=2).split())
    assert "the restore has not ended. Run site.yml (make up)" in said
    said = " ".join(run(then, *lock, *(options if then == "restore" else ())).split())
    assert f"Restored: the backup {newest}." in said
    kept = kept_volumes() - before
    assert f"{stack.name}-postgres-data" in {name.partition(".until-")[0] for name in kept}
    assert set(re.findall(r"\S+\.until-\w+", said.partition("docker volume rm ")[2])) == kept
    assert command("sh", "-c", f"test ! -e {RECORD} && echo gone").strip() == "gone"
    left = "SELECT count(*) FROM pg_file_settings WHERE name ~ '^(restore_|recovery_|hot_standby)'"
    asked = stack.execute("postgres", "psql", "--username=postgres", "-At", f"--command={left}")
    assert asked.stdout.strip() == "0", asked
    assert predict(stack) == PREDICTION
    command("docker", "volume", "rm", *kept)


def test_a_volume_that_was_deleted_by_hand(stack: Stack) -> None:
    """No empty one takes its place: it is named, and a restore has it back."""
    agent(stack, "run")
    lost = f"{stack.name}-minio-data"
    command("docker", "rm", "--force", f"{stack.name}-minio", f"{stack.name}-backup")
    command("docker", "volume", "rm", lost)
    try:
        said = " ".join(run("site", status=2).split())
        assert f"{lost}: lost, and in the backup {json.loads(newest_manifest())['id']}" in said
        assert lost not in command("docker", "volume", "ls", "--format", "{{.Name}}").split()
    finally:
        asked = {"restore_to": "end", "restore_confirm": stack.name}
        assert "Restored: " in run("restore", f"--extra-vars={json.dumps(asked)}")
    assert predict(stack) == PREDICTION


def test_a_lost_host_costs_a_minute_of_rows_at_most(stack: Stack) -> None:
    """What the repository holds is at most as old as PostgreSQL's archive timeout and the way to the repository."""
    database = ("psql", "--username=postgres", "--dbname=mlflow", "--quiet", "--tuples-only", "--no-align")
    made = stack.execute("postgres", *database, "--command=CREATE TABLE beats (at timestamptz DEFAULT now())")
    assert made.returncode == 0, made
    agent(stack, "run")
    beat = "printf 'INSERT INTO beats DEFAULT VALUES\\n\\\\watch 1\\n' | exec " + " ".join(database)
    command("docker", "exec", "--detach", f"{stack.name}-postgres", "sh", "-c", beat)
    time.sleep(100)
    containers = command("docker", "ps", "--quiet", "--filter", f"label=quantops.stack={stack.name}").split()
    command("docker", "kill", "--signal=KILL", *containers)
    killed = float(command("date", "+%s.%N"))
    command("docker", "rm", "--force", f"{stack.name}-postgres", f"{stack.name}-backup")
    command("docker", "volume", "rm", f"{stack.name}-postgres-data")
    run("restore", f"--extra-vars={json.dumps({'restore_to': 'end', 'restore_confirm': stack.name})}")
    said = stack.execute("postgres", *database, "--command=SELECT extract(epoch FROM max(at)) FROM beats").stdout
    lost = killed - float(said)
    print(f"The newest row is {lost:.0f} s older than the end of the host")
    assert 0 < lost <= 65
    assert predict(stack) == PREDICTION
    assert stack.execute("postgres", *database, "--command=DROP TABLE beats").returncode == 0


def newest_manifest() -> str:
    """What the repository says of its newest backup."""
    return command("sh", "-c", f"cat $(ls {REPOSITORY_DIR}/manifests/*.json | tail -n 1)")
