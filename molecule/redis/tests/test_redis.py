"""Redis keeps what it accepted, each user in its own part, and has room for tasks whatever results and caches take."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack_under_test import Stack, command, drift, eventually, run_playbook
from test_data_services import (  # noqa: F401
    redis,
    test_a_redis_user_stays_with_its_own,
    test_a_redis_user_uses_its_own_keys_and_channels,
    test_flower_cannot_send_a_task,
    test_no_redis_user_rules_the_server,
    test_redis_keeps_what_it_accepted,
    test_redis_needs_a_password,
)

LIMIT = 8 * 2**20
# 400 values of 50 kB: more than twice the limit.
FILL = "for n = 1, 400 do redis.call('SET', KEYS[1] .. n, string.rep('x', 50000){expire}) end return 'full'"


def test_what_was_accepted_outlives_a_kill(stack: Stack) -> None:
    """A broker's message that is on disk is there again after SIGKILL, in its order."""
    key = f"probe-{uuid.uuid4()}"
    assert redis(stack, "RPUSH", key, "first", "second", user="backend") == "2"
    # Redis writes the commands of a script, or of MULTI, as one transaction.
    script = "for _, word in ipairs(ARGV) do redis.call('RPUSH', KEYS[1], word) end return 'pushed'"
    assert redis(stack, "EVAL", script, "1", key, "third", "fourth", user="backend") == "pushed"
    # One local write to the append-only file, waited for up to 5 s.
    assert redis(stack, "WAITAOF", "1", "0", "5000", user="admin").split()[0] == "1"
    container = f"{stack.name}-redis"
    command("docker", "kill", container)
    command("docker", "start", container)
    assert eventually(lambda: redis(stack, "PING", user="backend") == "PONG", seconds=30)
    assert redis(stack, "LRANGE", key, "0", "-1", user="backend").split() == ["first", "second", "third", "fourth"]


def test_it_runs_as_its_own_user(stack: Stack) -> None:
    """No process of the container is root's."""
    rows = command("docker", "top", f"{stack.name}-redis", "-eo", "uid,pid,comm").splitlines()[1:]
    assert {row.split()[0] for row in rows} == {"10002"}


def test_redis_has_no_password_of_its_clients(stack: Stack) -> None:
    """It holds hashes, and in plain text only its administrator's and that of its own health check."""
    held = command("sh", "-c", f"cat {stack.config_dir}/redis/secrets/*")
    users = ("admin", "airflow", "backend", "flower", "health")
    assert [user for user in users if stack.secret(f"redis_{user}_password") in held] == ["admin", "health"]


@pytest.fixture
def small(stack: Stack) -> Iterator[None]:
    """A limit that is soon reached; what a test leaves is removed."""
    usual = redis(stack, "CONFIG", "GET", "maxmemory", user="admin").split()[1]
    assert redis(stack, "CONFIG", "SET", "maxmemory", str(LIMIT), user="admin") == "OK"
    yield
    assert redis(stack, "CONFIG", "SET", "maxmemory", usual, user="admin") == "OK"
    assert redis(stack, "FLUSHALL", user="admin") == "OK"


def figure(stack: Stack, name: str) -> int:
    """One of INFO's."""
    found = re.search(rf"^{name}:(\d+)", redis(stack, "INFO", user="health"), re.MULTILINE)
    assert found
    return int(found[1])


@pytest.mark.usefixtures("small")
def test_results_make_room_for_tasks(stack: Stack) -> None:
    """Results twice the limit, of the backend and of Airflow: each queue keeps its tasks and takes more."""
    for user, prefix in (("backend", ""), ("airflow", "@airflow:")):
        queue, before = f"{prefix}probe", figure(stack, "evicted_keys")
        assert redis(stack, "RPUSH", queue, "first", user=user) == "1"
        fill = FILL.format(expire=", 'EX', 3600")
        assert redis(stack, "EVAL", fill, "1", f"{prefix}celery-task-meta-", user=user) == "full"
        assert redis(stack, "RPUSH", queue, "second", user=user) == "2"
        # Room is made before a command, and by a timer: never within a script.
        assert eventually(lambda: figure(stack, "used_memory") <= LIMIT, seconds=30)
        assert figure(stack, "evicted_keys") > before
        assert redis(stack, "RPUSH", queue, "third", user=user) == "3"
        assert redis(stack, "LRANGE", queue, "0", "-1", user=user).split() == ["first", "second", "third"]


@pytest.mark.usefixtures("small")
def test_a_full_redis_is_shown(stack: Stack) -> None:
    """Of keys that never expire: the task is refused, nothing is lost, and the status says how full it is."""
    assert redis(stack, "RPUSH", "probe", "first", user="backend") == "1"
    assert redis(stack, "EVAL", FILL.format(expire=""), "1", "cache-", user="backend") == "full"
    assert "OOM" in redis(stack, "RPUSH", "probe", "second", user="backend")
    assert redis(stack, "LRANGE", "probe", "0", "-1", user="backend") == "first"
    # A restart would give no room.
    assert stack.well("redis")
    used, limit, *words = stack.execute("redis", "sh", "/run/config/usage").stdout.split()
    assert int(used) > int(limit) == LIMIT
    assert re.fullmatch(r"bytes of memory \(0 of 4\d\d keys can be evicted\)", " ".join(words)), words
    host = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
    told = run_playbook("playbooks/status.yml", host, "--inventory=molecule/shared/inventory.yml")
    assert re.search(r"NEARLY FULL: \S+-redis uses \d+ of 8 MiB of memory", told.stdout), told.stdout + told.stderr


def test_no_client_has_it_killed_for_memory(stack: Stack) -> None:
    """An answer of 400 MB that is asked for and never read: its connection ends, and the server runs on."""
    key, before = f"probe-{uuid.uuid4()}", stack.identity()
    fill = "redis.call('SET', KEYS[1], string.rep('x', 20 * 1024 * 1024), 'EX', 60) return 'full'"
    assert redis(stack, "EVAL", fill, "1", key, user="backend") == "full"
    script = "redis-cli --no-auth-warning --user backend MGET $(yes $KEY | head -n 20) | wc -c"
    given = {"REDISCLI_AUTH": stack.secret("redis_backend_password"), "KEY": key}
    read = stack.execute("redis", "sh", stdin=script, environment=given).stdout
    assert int(read) < 40 * 2**20
    assert redis(stack, "DEL", key, user="backend") == "1"
    assert stack.identity() == before


@pytest.fixture
def by_hand(stack: Stack) -> Iterator[str]:
    """Containers, a file and Redis as somebody changed them by hand; the name of a container that nobody declared."""
    container, extra = f"{stack.name}-redis", f"{stack.name}-by-hand"
    image = command("docker", "inspect", "--format", "{{.Config.Image}}", container).strip()
    command("docker", "create", f"--name={extra}", f"--label=quantops.stack={stack.name}", image)
    command("docker", "update", "--memory=300m", "--memory-swap=300m", container)
    command("mkdir", f"{stack.config_dir}/by-hand")
    yield extra
    command("rmdir", f"{stack.config_dir}/by-hand")
    command("docker", "update", "--memory=256m", "--memory-swap=256m", container)
    command("docker", "rm", "--force", extra)
    # What it was told is lost then.
    command("docker", "restart", container)
    assert eventually(lambda: redis(stack, "PING", user="backend") == "PONG", seconds=30)


def test_drift(stack: Stack, by_hand: str) -> None:
    """Whatever was changed by hand is shown, in check mode too, with no rule, hash or value of Redis."""
    for words in (
        ("ACL", "SETUSER", "by-hand", "on", "nopass", "~*", "+@all"),
        ("ACL", "SETUSER", "flower", "+flushall"),
        ("CONFIG", "SET", "appendfsync", "no"),
    ):
        assert redis(stack, *words, user="admin") == "OK"
    assert redis(stack, "ACL", "DELUSER", "backend", user="admin") == "1"
    container = f"{stack.name}-redis"
    expected = {
        ("acl", "backend", "missing"),
        ("acl", "by-hand", "not declared"),
        ("acl", "flower", "has other rules"),
        ("container", by_hand, "not declared"),
        ("container", container, "memory limit is 314572800, declared 268435456"),
        ("container", container, "limit of memory and swap is 314572800, declared 268435456"),
        ("file", f"{stack.config_dir}/by-hand", "not declared"),
        ("setting", "redis appendfsync", "has another value"),
    }
    assert drift(stack, "redis") == expected
    assert drift(stack, "redis", "--check") == expected


def test_drift_of_a_stopped_container(stack: Stack) -> None:
    """What it holds is not compared then; once it runs again, nothing differs."""
    container = f"{stack.name}-redis"
    command("docker", "stop", container)
    assert drift(stack, "redis") == {("container", container, "not running (exited)")}
    command("docker", "start", container)
    assert eventually(lambda: redis(stack, "PING", user="backend") == "PONG", seconds=30)
    assert drift(stack, "redis") == set()
