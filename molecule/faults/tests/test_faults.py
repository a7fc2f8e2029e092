"""Faults, one after the other on one stack: after each, nothing is lost, and what must heal by itself did.

The order of the tests is that of a stack's life; each begins with the whole stack that the one before it left.
"""

from __future__ import annotations

import base64
import itertools
import os
import re
import secrets as random
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable

import pytest
import requests
from faulted_stack import TIMEOUT, Airflow, Kept, Site
from stack_under_test import Identity, Stack, changed, command, eventually
from test_applications import backend
from test_applications import test_mlflow_proxies_artifacts as artifacts_are_kept
from test_containers import SERVICES
from test_data_services import BUCKETS, OWNERS, REDIS_USERS, psql, redis, s3

MAKE = "Create and update the containers"
WAIT = "Wait until they are ready"
JOBS = "Wait for jobs"
# Each run begins with what the one before it left, and is killed further on.
FIRST_RUN = (
    ("Docker engine and secrets", "Create the stack's network"),
    ("Docker engine and secrets", "Write the generated secrets"),
    ("Services", "Write configuration and secrets"),
    ("Services", MAKE),  # the data services
    ("Services", "Reconcile roles, passwords, databases"),
    ("Services", "Reconcile buckets, users and policies"),
    ("Services", MAKE),  # the jobs
    ("Services", JOBS),
    ("Services", MAKE),  # what waited for them
    ("Services", WAIT),
)
UPDATE = (
    ("Services", "Write configuration and secrets"),
    ("Services", MAKE),
    ("Services", MAKE),
    ("Services", WAIT),
    ("Services", "Reconcile roles, passwords, databases"),
    ("Services", "Reconcile buckets, users and policies"),
    ("Services", MAKE),
    ("Services", JOBS),
    ("Services", MAKE),
    ("Services", WAIT),
)


def kill_each(
    site: Site, stack: Stack, points: tuple[tuple[str, str], ...], again: Callable[[], None] | None = None
) -> None:
    """Kill a run at each point. What a killed run has begun on the host goes on there, so a fast host may have nothing
    left to do at one: then there is something to do ``again``."""
    for step, task in points:
        if task == JOBS:
            # The engine has gone on with those of the killed run, and nobody waits for what has ended.
            command("docker", "rm", "--force", f"{stack.name}-airflow-init")
        if not site.killed(step, task, must=again is None):
            assert again
            again()
            site.killed(step, task)


def all_well(stack: Stack, seconds: float = 240) -> None:
    """Every service answers."""
    waiting = dict.fromkeys(SERVICES)

    def done() -> bool:
        for name in [name for name in waiting if stack.well(name)]:
            del waiting[name]
        return not waiting

    try:
        eventually(done, seconds)
    except AssertionError:
        pytest.fail(f"not well: {', '.join(waiting)}", pytrace=False)


def test_a_first_run_killed_ten_times(site: Site, stack: Stack, kept: Kept) -> None:
    """The next run goes on from any point; when one is let through, the one after it has nothing to change."""
    kill_each(site, stack, FIRST_RUN)
    site.run()
    all_well(stack)
    kept.write()
    assert site.run().changed == 0
    kept.check()


def test_a_training_before_the_faults(airflow: Airflow, kept: Kept) -> None:
    """A DAG run that is there from now on."""
    name = airflow.trigger()
    airflow.succeeded(name, seconds=600)
    kept.dag_runs.append(name)


def test_hand_edits_are_found_and_healed(site: Site, stack: Stack, nothing_lost: Kept) -> None:
    """A file edited (and read by its program), containers stopped, removed, paused or altered; others stay."""
    edited = f"{stack.config_dir}/redis/config/redis.conf"
    command("sh", "-c", f"echo 'maxclients 77' >> {edited} && docker restart {stack.name}-redis")
    eventually(lambda: stack.well("redis"), 60)
    command("docker", "stop", f"{stack.name}-celery-beat")
    command("docker", "rm", "--force", f"{stack.name}-flower")
    command("docker", "pause", f"{stack.name}-airflow-triggerer")
    command("docker", "update", "--memory=700m", "--memory-swap=700m", "--restart=no", f"{stack.name}-mlflow")
    command("docker", "update", "--cpu-shares=512", f"{stack.name}-celery-worker")
    touched = ("redis", "celery-beat", "flower", "airflow-triggerer", "mlflow", "celery-worker")
    others = stack.identity(*touched)
    found = site.run("site", "--check", "--diff")
    assert "-maxclients 77" in found.output
    for name, reason in {
        "redis": "configuration or secrets were written after its start",
        "celery-beat": "not running (exited)",
        "flower": "missing",
        "airflow-triggerer": "paused",
        "mlflow": "memory limit is 734003200, declared 536870912",
        "celery-worker": "CpuShares is 512, not declared",
    }.items():
        assert f"-{stack.name}-{name}: {reason}" in found.output
    assert stack.identity(*touched) == others and found.changed > 0
    site.run()
    all_well(stack)
    assert stack.identity(*touched) == others
    healed = stack.containers()
    assert (healed["mlflow"]["HostConfig"]["Memory"], healed["mlflow"]["HostConfig"]["RestartPolicy"]["Name"]) == (
        512 * 2**20, "unless-stopped",
    )  # fmt: skip
    assert not healed["celery-worker"]["HostConfig"]["CpuShares"]
    clients = redis(stack, "CONFIG", "GET", "maxclients", user="admin").split()
    assert clients[1] != "77"
    assert site.run().changed == 0


def test_every_container_killed(stack: Stack, airflow: Airflow, nothing_lost: Kept) -> None:
    """One by one, under a training: each is back without anyone's hand, and the training ends well."""
    training = airflow.trigger()
    # The worker that has the task first, then what the task and Airflow stand on.
    for name in sorted(SERVICES, key=lambda name: name != "airflow-worker"):
        before = stack.identity()[name]
        # Docker's own `kill` would count as stopped by hand; this is what a crash or the kernel does.
        command(
            "kill", "-KILL", command("docker", "inspect", "--format={{.State.Pid}}", f"{stack.name}-{name}").strip()
        )
        eventually(lambda name=name: stack.well(name), 180, pause=1)
        after = stack.identity()[name]
        assert after[0] == before[0] and after[1] > before[1]
    airflow.succeeded(training, seconds=600)
    nothing_lost.dag_runs.append(training)
    all_well(stack)


def hang(stack: Stack, name: str) -> None:
    """Stop the processes of a container, which is what a deadlock looks like from outside."""
    rows = command("docker", "top", f"{stack.name}-{name}", "-eo", "pid,comm").splitlines()[1:]
    processes = [row.split()[0] for row in rows if row.split()[1] != "docker-init"]
    assert processes
    command("kill", "-STOP", *processes)


def looked_at_often(restart_after: int) -> dict[str, dict[str, dict[str, int]]]:
    """Overrides of MLflow, which the engine looks at every 5 seconds."""
    return {"mlflow": {"health": {"interval": 5, "restart_after": restart_after}}}


def test_a_hung_container_is_healed_by_a_run(site: Site, stack: Stack, nothing_lost: Kept) -> None:
    """Restarted as it is, without a wait that cannot end well; nothing else is touched."""
    site.variables["mlflow_overrides"] = looked_at_often(restart_after=0)
    site.run()
    before = stack.identity()
    # While a container starts, the engine does not count failed checks: it has to have seen it well.
    eventually(lambda: stack.containers()["mlflow"]["State"]["Health"]["Status"] == "healthy", 180)
    hang(stack, "mlflow")
    eventually(lambda: stack.containers()["mlflow"]["State"]["Health"]["Status"] == "unhealthy", 120)
    assert f"-{stack.name}-mlflow: does not answer its health check" in site.run("site", "--check", "--diff").output
    site.run()
    all_well(stack)
    after = stack.identity()
    assert changed(before, after) == {"mlflow"} and after["mlflow"][0] == before["mlflow"][0]
    assert site.run().changed == 0


def test_a_hung_container_heals_without_a_run(site: Site, stack: Stack, nothing_lost: Kept) -> None:
    """Its health check ends it, and the engine starts it again; its log and the status tell."""
    site.variables["mlflow_overrides"] = looked_at_often(restart_after=30)
    site.run()
    all_well(stack)
    before = stack.identity()
    # The engine has to have seen it well.
    eventually(lambda: stack.containers()["mlflow"]["State"]["Health"]["Status"] == "healthy", 180)
    hang(stack, "mlflow")
    eventually(lambda: stack.containers()["mlflow"]["RestartCount"] == 1, 240)
    all_well(stack)
    after = stack.identity()
    assert changed(before, after) == {"mlflow"} and after["mlflow"][0] == before["mlflow"][0]
    assert "No answer to the health check" in stack.log("mlflow")
    del site.variables["mlflow_overrides"]
    site.run()
    all_well(stack)


def test_a_container_restarted_often_is_well(site: Site, stack: Stack, nothing_lost: Kept) -> None:
    """Restarts of long ago do not keep `start` from succeeding."""
    for count in (1, 2, 3):
        pid = command("docker", "inspect", "--format={{.State.Pid}}", f"{stack.name}-flower").strip()
        command("kill", "-KILL", pid)
        eventually(lambda count=count: stack.containers()["flower"]["RestartCount"] >= count, 60)
        eventually(lambda: stack.well("flower"), 180, pause=1)
    assert stack.containers()["flower"]["RestartCount"] >= 3
    site.run("start")


def test_the_engine_restarted(stack: Stack, airflow: Airflow, nothing_lost: Kept) -> None:
    """Under a training: everything is back without anyone's hand, and the training ends well."""
    training = airflow.trigger()
    before = stack.identity()
    # The worker is given the time to end its task.
    command("systemctl", "restart", "--no-block", "docker")

    def restarted() -> Identity | None:
        try:
            now = stack.identity()
        # The engine is away, or its socket keeps who asks waiting until it is back: the worker may take its time.
        except (AssertionError, subprocess.TimeoutExpired):
            return None
        return now if all(name in now and now[name][1] > before[name][1] for name in SERVICES) else None

    after = eventually(restarted, seconds=600)
    all_well(stack)
    assert {name: after[name][0] for name in SERVICES} == {name: before[name][0] for name in SERVICES}
    airflow.succeeded(training, seconds=600)
    nothing_lost.dag_runs.append(training)


@pytest.mark.parametrize("name", ["postgres", "redis", "minio"])
def test_a_data_service_away_for_a_minute(stack: Stack, airflow: Airflow, nothing_lost: Kept, name: str) -> None:
    """Its name is gone from the network, under a training, which ends well."""
    training = airflow.trigger()
    command("docker", "stop", f"{stack.name}-{name}")
    time.sleep(60)
    command("docker", "start", f"{stack.name}-{name}")
    airflow.succeeded(training, seconds=600)
    nothing_lost.dag_runs.append(training)
    all_well(stack)


def test_an_update_killed_ten_times(site: Site, stack: Stack, nothing_lost: Kept) -> None:
    """Every container is made anew by it; the next run goes on from any point."""

    def change() -> None:
        site.variables["stack_log_files"] = site.variables.get("stack_log_files", 3) + 1

    change()
    kill_each(site, stack, UPDATE, change)
    site.run()
    all_well(stack)
    files = {item["HostConfig"]["LogConfig"]["Config"]["max-file"] for item in stack.containers().values()}
    assert files == {str(site.variables["stack_log_files"])}
    assert site.run().changed == 0


# ---- secrets


def login_postgres(stack: Stack, name: str, value: str) -> bool:
    owner = re.fullmatch(r"postgres_(\w+)_password", name)
    return bool(owner) and psql(stack, owner[1], owner[1], "SELECT 1", password=value) == (0, "1")


def login_redis(stack: Stack, name: str, value: str) -> bool:
    user = name.removeprefix("redis_").removesuffix("_password")
    return redis(stack, "PING", user=user, password=value) == "PONG"


def login_minio(stack: Stack, name: str, value: str) -> bool:
    if name == "minio_root_password":
        return _lists(stack, "minio_root_user", name, password=value)
    if name == "minio_root_user":
        return _lists(stack, name, "minio_root_password", user=value)
    owner = re.sub("_(access_key|secret)$", "", name)
    if name.endswith("_access_key"):
        return _lists(stack, name, f"{owner}_secret", user=value)
    return _lists(stack, f"{owner}_access_key", name, password=value)


def _lists(stack: Stack, user_name: str, secret_name: str, user: str = "", password: str = "") -> bool:
    """Whether MinIO serves a user; both halves are those of today, or what is given."""
    user, password = user or stack.secret(user_name), password or stack.secret(secret_name)
    try:
        s3(stack, "mlflow", secret=password, access_key=user).list_buckets()
    except Exception:  # whatever boto3 makes of a refusal
        return False
    return True


def login_airflow(stack: Stack, name: str, value: str) -> bool:
    user = name.removeprefix("airflow_").removesuffix("_password")
    return stack.ask_airflow_for_a_token(user, value).status_code == 201


def login_page(stack: Stack, name: str, value: str) -> bool:
    form = {"user": "trader", "password": value}
    answer = requests.post(stack.url("backend", "/login"), data=form, timeout=TIMEOUT, allow_redirects=False)
    return answer.status_code == 303 and bool(answer.cookies)


def asks_backend(stack: Stack, name: str, value: str) -> bool:
    headers = {"Authorization": f"Bearer {value}"}
    return requests.get(stack.url("backend", "/api/v1/symbols"), headers=headers, timeout=TIMEOUT).status_code == 200


def login_flower(stack: Stack, name: str, value: str) -> bool:
    address = stack.url("flower", "/api/workers")
    return requests.get(address, auth=("flower", value), timeout=TIMEOUT).status_code == 200


def has_certificate(stack: Stack, name: str, value: str) -> bool:
    shown = ssl.get_server_certificate((stack.address, stack.port("ibkr_gateway")))
    return shown.strip() == value[value.index("-----BEGIN CERTIFICATE-----") :].strip()


LOGINS = {
    **{f"postgres_{owner}_password": login_postgres for owner in OWNERS},
    **{f"minio_{bucket.replace('-', '_')}_secret": login_minio for bucket in BUCKETS},
    **{f"minio_{bucket.replace('-', '_')}_access_key": login_minio for bucket in BUCKETS},
    "minio_root_user": login_minio,
    "minio_root_password": login_minio,
    **{f"redis_{user}_password": login_redis for user in (*REDIS_USERS, "admin", "health")},
    "airflow_admin_password": login_airflow,
    "airflow_backend_password": login_airflow,
    "backend_page_password": login_page,
    "backend_api_token": asks_backend,
    "flower_password": login_flower,
    "ibkr_gateway_tls": has_certificate,
}
# Secrets with which nobody logs in.
OTHERS = {
    # Nobody may log in with it at all; PostgreSQL keeps what it was given on its first start.
    "postgres_admin_password",
    # What was encrypted with the old one is read with the new one.
    "airflow_fernet_key",
    # A token and a session of before end.
    "airflow_jwt_secret",
    "airflow_session_secret",
}
# Flower has a user of its own in Redis, and no other service's secret.
BACKEND = {"backend-migrate", "backend", "celery-worker", "celery-beat", "flower"}
# Beat only sends tasks, and the migrations know only the database.
BACKEND_DATA = {"backend", "celery-worker"}
# All of Airflow but its worker, which runs people's code and gets no key of Airflow's own.
AIRFLOW_CORE = {
    "airflow-init",
    "airflow-apiserver",
    "airflow-scheduler",
    "airflow-dag-processor",
    "airflow-triggerer",
}
# Where the code of DAGs runs.
DAGS = {"airflow-dag-processor", "airflow-triggerer", "airflow-worker"}
AIRFLOW_LOGS = {"airflow-apiserver", "airflow-triggerer", "airflow-worker"}
# The containers that hold each secret, and so are new after it changed.
HOLDERS = {
    "postgres_admin_password": {"postgres"},
    "postgres_airflow_password": AIRFLOW_CORE,
    "postgres_backend_password": {*BACKEND_DATA, "backend-migrate"},
    "postgres_dags_password": DAGS,
    "postgres_mlflow_password": {"mlflow", "mlflow-upgrade"},
    "redis_admin_password": {"redis"},
    "redis_health_password": {"redis"},
    "redis_airflow_password": {"redis", "airflow-scheduler", "airflow-worker"},
    "redis_backend_password": {"redis", *BACKEND_DATA, "celery-beat"},
    "redis_flower_password": {"redis", "flower"},
    "minio_root_user": {"minio"},
    "minio_root_password": {"minio"},
    "minio_airflow_logs_access_key": AIRFLOW_LOGS,
    "minio_airflow_logs_secret": AIRFLOW_LOGS,
    "minio_dags_access_key": DAGS,
    "minio_dags_secret": DAGS,
    "minio_mlflow_access_key": {"mlflow"},
    "minio_mlflow_secret": {"mlflow"},
    "minio_trading_charts_access_key": BACKEND_DATA,
    "minio_trading_charts_secret": BACKEND_DATA,
    "airflow_fernet_key": AIRFLOW_CORE,
    "airflow_jwt_secret": {"airflow-apiserver", "airflow-scheduler"},
    "airflow_session_secret": {"airflow-apiserver"},
    "airflow_admin_password": {"airflow-init"},
    "airflow_backend_password": {"airflow-init", "backend"},
    "ibkr_gateway_tls": {"ibkr-gateway", *BACKEND},
    "backend_api_token": {"backend", "airflow-worker"},
    "flower_password": {"flower"},
    "backend_page_password": {"backend"},
}


def rounds() -> list[list[str]]:
    """Secrets in rounds of those that share no container: what is new tells which of them made it so."""
    found: list[list[str]] = []
    for name, holders in HOLDERS.items():
        for names in found:
            if holders.isdisjoint(set().union(*(HOLDERS[other] for other in names))):
                names.append(name)
                break
        else:
            found.append([name])
    return found


ROUNDS = rounds()


#: Changed by removing its file.
REMOVED = "ibkr_gateway_tls"


def change(stack: Stack, name: str, old: str) -> None:
    """Put another value in a secret's place."""
    file = stack.secrets_dir / name
    if name == REMOVED:
        file.unlink()  # generated anew
    elif name == "airflow_fernet_key":
        file.write_text(f"{base64.urlsafe_b64encode(os.urandom(32)).decode()},{old}\n")
    elif name == "minio_root_user" or name.endswith("_access_key"):
        # As it is generated: only then is the user of before removed.
        file.write_text(random.token_hex(len(old) // 2).upper() + "\n")
    else:
        file.write_text(random.token_hex(len(old) // 2) + "\n")


def dags_with(stack: Stack, token: dict[str, str]) -> int:
    """Status of an answer to a token."""
    return requests.get(stack.url("airflow", "/api/v2/dags"), headers=token, timeout=TIMEOUT).status_code


def test_secrets_changed(site: Site, stack: Stack, airflow: Airflow, nothing_lost: Kept) -> None:
    """Every secret at once: after one run each new one works, each old one is refused, and old data is read."""
    old = {path.name: path.read_text().strip() for path in stack.secrets_dir.iterdir()}
    assert sorted(old) == sorted({*LOGINS, *OTHERS}) == sorted(HOLDERS) == sorted(itertools.chain(*ROUNDS))
    for name, login in LOGINS.items():
        assert login(stack, name, old[name]), name
    connection = {"connection_id": "kept", "conn_type": "http", "host": "example", "password": "correct-horse"}
    assert airflow.call("POST", "/api/v2/connections", json=connection).status_code == 201
    token = stack.airflow_token()
    assert dags_with(stack, token) == 200
    for name, value in old.items():
        change(stack, name, value)
    assert "lacks secrets that" in site.run("site", status=2).output
    site.run("site", "-e", f"secrets_regenerate={REMOVED}")
    all_well(stack)
    new = {name: stack.secret(name) for name in old}
    for name, login in LOGINS.items():
        assert login(stack, name, new[name]) and not login(stack, name, old[name]), name
    assert dags_with(stack, token) in (401, 403) and dags_with(stack, stack.airflow_token()) == 200
    # In a container's copy, that is: the host's own record of secrets is no proof that anyone uses one.
    words = ("grep", "--recursive", "--exclude=secrets.json", "--files-with-matches", "--fixed-strings", "--file=-")
    assert command(*words, str(stack.config_dir), stdin=new["airflow_session_secret"]).split()
    assert backend(stack, "/ready")["ready"] is True
    assert site.run().changed == 0
    # The old key can go: everything was encrypted anew.
    (stack.secrets_dir / "airflow_fernet_key").write_text(new["airflow_fernet_key"].split(",")[0] + "\n")
    site.run()
    all_well(stack)
    program = "from airflow.sdk.bases.hook import BaseHook; from airflow.models import Connection; "
    program += "from airflow.utils.session import create_session\n"
    program += "with create_session() as s: print(s.query(Connection).filter_by(conn_id='kept').one().password)"
    done = stack.execute("airflow-scheduler", "python", "-c", program)
    assert done.stdout.strip().endswith("correct-horse"), done.stderr


@pytest.mark.parametrize("names", ROUNDS, ids=" ".join)
def test_a_secret_changed(names: list[str], site: Site, stack: Stack, nothing_lost: Kept) -> None:
    """Not every secret at once: what holds it is made anew, and only that; the old one is refused, all goes on."""
    holders = [HOLDERS[name] for name in names]
    assert len(set().union(*holders)) == sum(map(len, holders))
    before, old = stack.identity(), {name: stack.secret(name) for name in names}
    for name in names:
        change(stack, name, old[name])
    site.run("site", "-e", f"secrets_regenerate={REMOVED}")
    all_well(stack)
    assert changed(before, stack.identity()) == set().union(*holders)
    for name in names:
        if login := LOGINS.get(name):
            assert login(stack, name, stack.secret(name)) and not login(stack, name, old[name]), name
    artifacts_are_kept(stack)
    assert backend(stack, "/ready")["ready"] is True


def test_a_secret_changed_for_one_of_its_services(site: Site, stack: Stack, nothing_lost: Kept) -> None:
    """The other services that use it are named, and nothing has changed; together they take the new one."""
    old = stack.secret("postgres_backend_password")
    change(stack, "postgres_backend_password", old)
    before = stack.identity()
    for tag, left in (("postgres", "Backend"), ("backend", "PostgreSQL")):
        said = site.run("site", "--tags", tag, status=2).output
        assert f"postgres_backend_password changed, and this run would leave {left} with the old value" in said
        assert "--tags postgres,backend" in said
    assert stack.identity() == before and login_postgres(stack, "postgres_backend_password", old)
    site.run("site", "--tags", "postgres,backend")
    all_well(stack)
    assert backend(stack, "/ready")["ready"] is True
    assert not login_postgres(stack, "postgres_backend_password", old)


def test_a_lost_directory_of_secrets(site: Site, stack: Stack, nothing_lost: Kept) -> None:
    """Refused before any change; fetched from the host, each file is what it was, and there is nothing to change."""
    old = {path.name: path.read_bytes() for path in stack.secrets_dir.iterdir()}
    before, aside = stack.identity(), stack.secrets_dir.with_name("aside")
    stack.secrets_dir.rename(aside)
    try:
        said = site.run("site", status=2).output
        assert f"{stack.secrets_dir}, which secrets_dir names, lacks secrets that" in said
        assert not stack.secrets_dir.exists() and stack.identity() == before
        site.run("fetch_secrets")
        assert {path.name: path.read_bytes() for path in stack.secrets_dir.iterdir()} == old
    finally:
        shutil.rmtree(stack.secrets_dir, ignore_errors=True)
        aside.rename(stack.secrets_dir)
    assert site.run().changed == 0
    assert stack.identity() == before


# ---- disk


def test_a_full_disk(site: Site, stack: Stack, nothing_lost: Kept) -> None:
    """PostgreSQL's volume is full: `status` says so, the other services go on, and room alone heals it."""
    volume = f"{stack.name}-postgres-data"
    place = command("docker", "volume", "inspect", "--format={{.Mountpoint}}", volume).strip()
    command("docker", "stop", f"{stack.name}-postgres")
    command("mv", place, f"{place}.aside")
    command("mkdir", place)
    size = int(command("du", "--summarize", "--block-size=1M", f"{place}.aside").split()[0]) + 64
    command("mount", "-t", "tmpfs", "-o", f"size={size}m", "full", place)
    command("cp", "--archive", f"{place}.aside/.", place)
    command("docker", "start", f"{stack.name}-postgres")
    all_well(stack)
    try:
        command("sh", "-c", f"dd if=/dev/zero of={place}/ballast bs=1M status=none 2> /dev/null; true")
        fill = "CREATE TABLE filler AS SELECT repeat(md5(n::text), 30) FROM generate_series(1, 400000) n"
        _, said = psql(stack, "backend", "backend", fill)
        assert re.search("No space left on device|server closed|recovery mode", said), said
        told = site.run("status").output
        assert re.search(rf"DISK FULL: {re.escape(volume)}: \d+ MiB free of {size} MiB", told), told
        assert "free some, or enlarge the file system" in told
        client = s3(stack, "trading-charts")
        client.put_object(Bucket="trading-charts", Key="while-full", Body=b"x")
        assert redis(stack, "PING", user="backend") == "PONG"
        command("rm", f"{place}/ballast")
        eventually(lambda: psql(stack, "backend", "backend", "SELECT 1")[0] == 0, 120)
        all_well(stack)
        nothing_lost.check()
        assert "DISK FULL" not in site.run("status").output
    finally:
        command("docker", "stop", f"{stack.name}-postgres")
        command("rm", "--force", f"{place}/ballast")
        command("rm", "--recursive", f"{place}.aside")
        command("cp", "--archive", place, f"{place}.aside")
        command("umount", place)
        command("rmdir", place)
        command("mv", f"{place}.aside", place)
        command("docker", "start", f"{stack.name}-postgres")
    all_well(stack)
    assert site.run().changed == 0
