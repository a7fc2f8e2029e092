"""PostgreSQL, Redis and MinIO: who may do what, and who may not."""

from __future__ import annotations

import json
import re
import shlex
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import botocore.exceptions
import pytest
import requests
from stack_under_test import Stack, command, eventually, play

OWNERS = ("airflow", "backend", "dags", "mlflow")
BUCKETS = ("airflow-logs", "dags", "mlflow", "trading-charts")


def psql(stack: Stack, user: str, database: str, query: str, password: str | None = None) -> tuple[int, str]:
    """Ask PostgreSQL over TCP with a password; returns psql's status and all that it says."""
    given = stack.secret(f"postgres_{user}_password") if password is None else password
    words = ("psql", "--no-psqlrc", "-At", "--host=127.0.0.1", f"--username={user}", f"--dbname={database}", "--file=-")
    done = stack.execute("postgres", *words, stdin=query, environment={"PGPASSWORD": given})
    return done.returncode, (done.stdout + done.stderr).strip()


@pytest.mark.parametrize("owner", OWNERS)
def test_an_owner_rules_its_database(stack: Stack, owner: str) -> None:
    """It owns the database and can make and drop a table in it."""
    query = f"SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '{owner}'"
    assert psql(stack, owner, owner, query) == (0, owner)
    table = f"probe_{uuid.uuid4().hex}"
    status, said = psql(stack, owner, owner, f"CREATE TABLE {table} (x int); DROP TABLE {table};")
    assert (status, said) == (0, "CREATE TABLE\nDROP TABLE")


@pytest.mark.parametrize(("owner", "other"), [(a, b) for a in OWNERS for b in (*OWNERS, "postgres") if a != b])
def test_an_owner_stays_in_its_database(stack: Stack, owner: str, other: str) -> None:
    """It cannot even connect to another's; in the administrator's it can make nothing."""
    status, said = psql(stack, owner, other, "CREATE TABLE intruder (x int)")
    if other == "postgres":
        assert "permission denied for schema public" in said or "permission denied for database" in said
    else:
        assert status != 0 and f'permission denied for database "{other}"' in said


@pytest.mark.parametrize("owner", OWNERS)
def test_a_wrong_password_is_refused(stack: Stack, owner: str) -> None:
    """Over TCP nobody is trusted."""
    status, said = psql(stack, owner, owner, "SELECT 1", password="wrong")
    assert status != 0 and "password authentication failed" in said


def test_the_administrator_comes_from_inside_only(stack: Stack) -> None:
    """Over the network the administrator is refused, with the right password too."""
    password = stack.secret("postgres_admin_password")
    status, said = psql(stack, "postgres", "postgres", "SELECT 1", password=password)
    assert status != 0 and "pg_hba.conf rejects connection" in said


@pytest.mark.parametrize("owner", OWNERS)
def test_owners_are_nothing_more(stack: Stack, owner: str) -> None:
    """No attribute that reaches beyond the own database; the password is kept as a SCRAM verifier."""
    query = f"SELECT rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication FROM pg_roles WHERE rolname = '{owner}'"
    assert psql(stack, owner, owner, query) == (0, "f")
    words = ("psql", "--no-psqlrc", "-At", "--username=postgres", "--dbname=postgres", "--file=-")
    kept = stack.execute(
        "postgres", *words, stdin=f"SELECT left(rolpassword, 14) FROM pg_authid WHERE rolname = '{owner}'"
    )
    assert kept.stdout.strip() == "SCRAM-SHA-256$"


def test_the_administrator_runs_nothing_of_an_owners(stack: Stack) -> None:
    """An owner chooses what is looked up first in its database; the administrator calls none of its functions there."""
    trap = """
        CREATE FUNCTION public.pg_get_userbyid(oid) RETURNS name LANGUAGE plpgsql AS $$ BEGIN
            IF pg_catalog.current_setting('is_superuser') = 'on' THEN EXECUTE 'ALTER ROLE mlflow CREATEDB'; END IF;
            RETURN pg_catalog.pg_get_userbyid($1);
        END $$;
        ALTER DATABASE mlflow SET search_path = public, pg_catalog;
    """
    try:
        assert psql(stack, "mlflow", "mlflow", trap) == (0, "CREATE FUNCTION\nALTER DATABASE")
        play("playbooks/postgres.yml")
        assert as_administrator(stack, "SELECT rolcreatedb FROM pg_roles WHERE rolname = 'mlflow'") == "f"
    finally:
        psql(stack, "mlflow", "mlflow", "ALTER DATABASE mlflow RESET search_path; DROP FUNCTION public.pg_get_userbyid")


def as_administrator(stack: Stack, query: str) -> str:
    """Ask PostgreSQL as its administrator, from inside the container."""
    words = ("psql", "--no-psqlrc", "-At", "--username=postgres", "--dbname=postgres", "--file=-")
    done = stack.execute("postgres", *words, stdin=query)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_connections_are_shared_among_the_owners(stack: Stack) -> None:
    """Each has a limit, and together they leave those that are reserved for the administrator."""
    rows = as_administrator(stack, "SELECT rolname, rolconnlimit FROM pg_roles WHERE rolcanlogin ORDER BY 1").split()
    limits = {name: int(limit) for name, _, limit in (row.partition("|") for row in rows)}
    assert limits.pop("postgres") == -1
    assert sorted(limits) == sorted(OWNERS) and all(limit > 0 for limit in limits.values())
    most, reserved = (int(as_administrator(stack, f"SHOW {name}")) for name in
                      ("max_connections", "superuser_reserved_connections"))  # fmt: skip
    assert sum(limits.values()) <= most - reserved


def test_an_owner_that_takes_all_its_connections_leaves_those_of_others(stack: Stack) -> None:
    """A client of the backend opens as many as it gets: it is refused in the end, and nobody else is."""
    mark = uuid.uuid4().hex
    hold = """
        for n in $(seq 100); do
            psql --no-psqlrc --host=127.0.0.1 --username=backend --dbname=backend --command='SELECT pg_sleep(60)' &
        done
        wait
    """
    environment = {"PGPASSWORD": stack.secret("postgres_backend_password"), "PGAPPNAME": mark}
    taken = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{mark}'"
    limit = "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'backend'"
    held = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'backend' AND backend_type = 'client backend'"
    with ThreadPoolExecutor() as pool:
        refused = pool.submit(stack.execute, "postgres", "sh", "-c", hold, environment=environment)
        try:
            eventually(lambda: as_administrator(stack, f"SELECT ({held}) = ({limit}) AND ({taken}) > 0") == "t", 50)
            status, said = psql(stack, "backend", "backend", "SELECT 1")
            assert status != 0 and 'too many connections for role "backend"' in said
            for owner in ("airflow", "mlflow"):
                assert psql(stack, owner, owner, "SELECT 1") == (0, "1")
            if "mlflow" in stack.containers():
                address = stack.url("mlflow", "/api/2.0/mlflow/experiments/search?max_results=1")
                assert requests.get(address, timeout=30).status_code == 200
            assert stack.well("postgres")
        finally:
            as_administrator(
                stack, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{mark}'"
            )
    assert 'too many connections for role "backend"' in refused.result().stderr


def test_the_health_check_of_postgresql_leaves_no_line_in_its_log(stack: Stack) -> None:
    """One a minute would be most of the log."""
    before = stack.log("postgres").count("FATAL")
    for _ in range(3):
        assert stack.well("postgres")
    # What the server writes for these comes after what the probes would have left.
    assert psql(stack, "backend", "backend", "SELECT 1", password="wrong")[0] != 0
    eventually(lambda: stack.log("postgres").count("FATAL") > before, 10)
    assert stack.log("postgres").count("FATAL") == before + 1


def test_server_version(stack: Stack) -> None:
    """PostgreSQL 17."""
    assert psql(stack, "backend", "backend", "SHOW server_version_num")[1].startswith("17")


# Prefix of the keys and channels of each user of Redis, and the database of its broker.
REDIS_USERS = {"airflow": ("@airflow:", 2), "backend": ("", 0), "flower": ("", 0)}


def redis(stack: Stack, *words: str, user: str = "", password: str | None = None) -> str:
    """Ask Redis over TCP, as a user with its own password unless another one is given."""
    if password is None and user:
        password = stack.secret(f"redis_{user}_password")
    environment = {"REDISCLI_AUTH": password} if password else {}
    words = (*(("--user", user) if user else ()), *words)
    done = stack.execute("redis", "redis-cli", "--no-auth-warning", *words, environment=environment)
    return (done.stdout + done.stderr).strip()


def test_redis_needs_a_password(stack: Stack) -> None:
    """Nothing without it, nothing with a wrong one, and no user without a name."""
    assert "NOAUTH" in redis(stack, "PING")
    for user in (*REDIS_USERS, "admin", "health"):
        assert "WRONGPASS" in redis(stack, "PING", user=user, password="wrong")
        assert "WRONGPASS" in redis(stack, "PING", password=stack.secret(f"redis_{user}_password"))
        assert redis(stack, "PING", user=user) == "PONG"


@pytest.mark.parametrize("user", ["airflow", "backend"])
def test_a_redis_user_uses_its_own_keys_and_channels(stack: Stack, user: str) -> None:
    """It writes, reads and deletes, and publishes."""
    key = f"{REDIS_USERS[user][0]}probe-{uuid.uuid4()}"
    assert redis(stack, "SET", key, "kept", "EX", "60", user=user) == "OK"
    assert redis(stack, "GET", key, user=user) == "kept"
    assert redis(stack, "DEL", key, user=user) == "1"
    assert redis(stack, "PUBLISH", key, "", user=user) == "0"


@pytest.mark.parametrize(("user", "other"), [("airflow", "backend"), ("backend", "airflow"), ("flower", "airflow")])
def test_a_redis_user_stays_with_its_own(stack: Stack, user: str, other: str) -> None:
    """Another's queue can neither be read nor written, in a script neither, in whichever database; nor its channels."""
    prefix, database = REDIS_USERS[other]
    queue, where = f"{prefix}probe", ("-n", str(database))
    for words in (
        ("LPUSH", queue, "message"),
        ("LRANGE", queue, "0", "-1"),
        ("DEL", queue),
        ("COPY", queue, f"{REDIS_USERS[user][0]}probe"),
        ("HGETALL", f"{prefix}unacked"),
        ("GET", f"{prefix}celery-task-meta-1"),
        ("EVAL", f"return redis.call('LPUSH', '{queue}', 'message')", "0"),
    ):
        assert re.search("NOPERM|permission", said := redis(stack, *where, *words, user=user)), (words, said)
    for channel in (f"{prefix}/{database}.celery.pidbox", f"{prefix}celery-task-meta-1"):
        assert "NOPERM" in redis(stack, "PUBLISH", channel, "message", user=user)
        assert "NOPERM" in redis(stack, "SUBSCRIBE", channel, user=user)
    for pattern in (f"{prefix}/{database}.celeryev/*", f"{prefix}*", "*"):
        assert "NOPERM" in redis(stack, "PSUBSCRIBE", pattern, user=user)
    assert redis(stack, *where, "EXISTS", queue, user="admin") == "0"


def test_flower_cannot_send_a_task(stack: Stack) -> None:
    """It reads the queues that it shows, and writes to none; nor does it change a result."""
    assert redis(stack, "LLEN", "probe", user="flower") == "0"
    for words in (("LPUSH", "probe", "message"), ("SET", "celery-task-meta-1", "{}"), ("HSET", "unacked", "1", "2")):
        assert "NOPERM" in redis(stack, *words, user="flower"), words


@pytest.mark.parametrize("user", [*REDIS_USERS, "health"])
def test_no_redis_user_rules_the_server(stack: Stack, user: str) -> None:
    """None can empty, configure, watch or read all of it; the one of the health check reads and writes nothing."""
    commands = (
        "FLUSHALL|FLUSHDB|SWAPDB 0 2|KEYS *|CONFIG GET *|ACL LIST|MONITOR|CLIENT LIST|CLIENT KILL TYPE normal|SHUTDOWN"
        "|REPLICAOF NO ONE|SAVE|BGREWRITEAOF|FUNCTION LIST|SCRIPT FLUSH|MIGRATE localhost 1 probe 0 1"
        "|FUNCTION LOAD '#!lua name=probe\nredis.register_function(\"probe\", function() end)'|FUNCTION FLUSH"
    )
    if user == "health":
        commands += "|GET probe|SET probe 1|LPUSH probe 1|SUBSCRIBE probe|EVAL 'return 1' 0"
    for words in map(shlex.split, commands.split("|")):
        assert "NOPERM" in redis(stack, *words, user=user), words


def test_redis_keeps_what_it_accepted(stack: Stack) -> None:
    """The append-only file is on and written without error, and what does not expire is not evicted."""
    info = dict(line.split(":", 1) for line in redis(stack, "INFO", user="admin").splitlines() if ":" in line)
    assert info["redis_version"].startswith("8.")
    assert (info["aof_enabled"], info["aof_last_write_status"], info["rdb_last_bgsave_status"]) == ("1", "ok", "ok")
    assert info["maxmemory_policy"] == "volatile-ttl" and int(info["maxmemory"]) > 0


def s3(stack: Stack, bucket: str, secret: str | None = None, access_key: str | None = None) -> Any:
    """A client with the key of a bucket's own user, or another one."""
    name = f"minio_{bucket.replace('-', '_')}"
    return boto3.client(
        "s3",
        endpoint_url=stack.url("minio"),
        region_name="us-east-1",
        aws_access_key_id=access_key or stack.secret(f"{name}_access_key"),
        aws_secret_access_key=secret or stack.secret(f"{name}_secret"),
        # Presigned addresses too: boto3 makes them with version 2 otherwise.
        config=botocore.config.Config(
            signature_version="s3v4", s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, proxies={}
        ),
    )


def as_root_user(stack: Stack, password: str | None = None) -> Any:
    """A client with the key of MinIO's root user."""
    password = password or stack.secret("minio_root_password")
    return s3(stack, "mlflow", secret=password, access_key=stack.secret("minio_root_user"))


@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_client_uses_its_bucket(stack: Stack, bucket: str) -> None:
    """It writes, reads, lists and deletes."""
    client, key = s3(stack, bucket), f"probe/{uuid.uuid4()}"
    client.put_object(Bucket=bucket, Key=key, Body=b"kept")
    assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == b"kept"
    assert [item["Key"] for item in client.list_objects_v2(Bucket=bucket, Prefix=key)["Contents"]] == [key]
    client.delete_object(Bucket=bucket, Key=key)
    assert client.list_objects_v2(Bucket=bucket, Prefix=key)["KeyCount"] == 0


@pytest.mark.parametrize(("bucket", "other"), [(a, b) for a in BUCKETS for b in BUCKETS if a != b])
def test_a_client_stays_in_its_bucket(stack: Stack, bucket: str, other: str) -> None:
    """Another's bucket can be neither listed nor read nor written, and is not shown."""
    client = s3(stack, bucket)
    for attempt in (
        lambda: client.list_objects_v2(Bucket=other),
        lambda: client.put_object(Bucket=other, Key="intruder", Body=b""),
        lambda: client.get_object(Bucket=other, Key="anything"),
        lambda: client.create_bucket(Bucket=f"of-{bucket}"),
    ):
        with pytest.raises(botocore.exceptions.ClientError) as error:
            attempt()
        assert error.value.response["Error"]["Code"] == "AccessDenied"
    assert [each["Name"] for each in client.list_buckets()["Buckets"]] == [bucket]


@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_wrong_key_is_refused(stack: Stack, bucket: str) -> None:
    """The user exists; its secret counts."""
    with pytest.raises(botocore.exceptions.ClientError) as error:
        s3(stack, bucket, secret="wrong-wrong-wrong").list_objects_v2(Bucket=bucket)
    assert error.value.response["Error"]["Code"] == "SignatureDoesNotMatch"


def test_minio_has_exactly_the_declared_buckets_and_no_anonymous_access(stack: Stack) -> None:
    """As the root user sees it."""
    root = as_root_user(stack)
    assert sorted(each["Name"] for each in root.list_buckets()["Buckets"]) == sorted(BUCKETS)
    for bucket in BUCKETS:
        with pytest.raises(botocore.exceptions.ClientError) as error:
            root.get_bucket_policy(Bucket=bucket)
        assert error.value.response["Error"]["Code"] == "NoSuchBucketPolicy"


@pytest.mark.parametrize("program", ["minio", "mc"])
def test_minio_tells_its_version(stack: Stack, program: str) -> None:
    """The time of the commit that it was built from, as in a build of upstream's."""
    said = stack.execute("minio", program, "--version").stdout
    assert re.search(r"version DEVELOPMENT\.202\d-\d\d-\d\dT\d\d-\d\d-\d\dZ \(commit-id=[0-9a-f]{12}\)", said), said


@pytest.mark.parametrize("name", ["minio_root_user", "minio_root_password"])
def test_root_is_nobodys_client(stack: Stack, name: str) -> None:
    """Root's name and password are on the host in MinIO's own directory and in root's own record of secrets only."""
    words = ("grep", "--recursive", "--files-with-matches", "--fixed-strings", "--file=-", str(stack.config_dir))
    lines = command(*words, stdin=stack.secret(name)).splitlines()
    assert {Path(line).relative_to(stack.config_dir).parts[0] for line in lines} == {"minio", "secrets.json"}
    assert command("stat", "--format=%a %U", str(stack.config_dir / "secrets.json")).split() == ["600", "root"]


def test_minio_has_exactly_the_declared_users(stack: Stack) -> None:
    """One for each bucket, with a name that was generated."""
    script = """
        export MC_CONFIG_DIR=/tmp/probe GOMEMLIMIT=64MiB
        export MC_HOST_root="http://$(cat /run/secrets/root_user):$(cat /run/secrets/root_password)@127.0.0.1:9000"
        mc admin user ls --json root < /dev/null; rm -rf /tmp/probe
    """
    found = [json.loads(line) for line in stack.execute("minio", "sh", stdin=script).stdout.splitlines()]
    declared = {stack.secret(f"minio_{bucket.replace('-', '_')}_access_key"): bucket for bucket in BUCKETS}
    assert {user["accessKey"]: user["policyName"] for user in found} == declared
    assert all(re.fullmatch("[A-Z0-9]{20}", user) for user in [*declared, stack.secret("minio_root_user")])
