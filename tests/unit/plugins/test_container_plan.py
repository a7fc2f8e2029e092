"""`container_plan`: what it refuses, what a container's hash covers, and that plans to be shown hold no secret."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from collection_under_test import REPOSITORY, plugin

containers = plugin("plugin_utils.containers")
convergence = plugin("plugin_utils.convergence")
settings = plugin("plugin_utils.settings")

SETTINGS = {
    "stack": "desk",
    "network": "desk",
    "config_dir": "/etc/desk",
    "publish_address": "127.0.0.1",
    "health_interval": 30,
    "log_size": "10m",
    "log_files": 3,
}
DECLARED: dict[str, Any] = {
    "name": "web",
    "image": "example/web:1",
    "user": "10001:10002",
    "command": ["serve", "--port", "80"],
    "entrypoint": ["/init"],
    "working_dir": "/srv",
    "environment": {"A": 1, "B": "two"},
    "files": {"web.conf": "listen 80\n", "more/site.conf": "x\n"},
    "secrets": {"password": "correct-horse-battery"},
    "volumes": [{"name": "web-data", "path": "/data"}],
    "binds": [{"source": "/opt/web", "path": "/opt/web"}],
    "tmpfs": {"/run/web": "8m"},
    "ports": [{"host": 8080, "container": 80}],
    "memory": "512m",
    "cpus": 0.5,
    "pids": 100,
    "shm_size": "64m",
    "health": {"test": ["CMD", "true"]},
    "aliases": ["www"],
    "capabilities": ["CHOWN"],
    "read_only": True,
    "stop_timeout": 20,
    "stop_signal": "SIGINT",
}


def plan_of(change: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """Plan of the declared container with some keys changed; None removes a key."""
    container = {key: value for key, value in {**DECLARED, **(change or {})}.items() if value is not None}
    return containers.container_plan([container], {**SETTINGS, **settings})[0]


def test_spec_is_hardened_by_default() -> None:
    """What is not declared is the strict choice."""
    minimal = {key: DECLARED[key] for key in ("name", "image", "user", "memory", "cpus", "health")}
    [plan] = containers.container_plan([minimal], SETTINGS)
    spec = plan["spec"]
    assert spec["read_only"] is True
    assert spec["capabilities"] == []
    assert spec["restart_policy"] == "unless-stopped"
    assert spec["log_options"] == {"max-size": "10m", "max-file": "3"}
    assert spec["published_ports"] == [] and spec["mounts"] == []
    assert spec["tmpfs"] == ["/tmp:size=64m,mode=1777"]
    assert spec["healthcheck"]["interval"] == "30s"
    assert plan["limits"] == {"Memory": 512 * 2**20, "NanoCpus": 500_000_000, "PidsLimit": 512}


def test_spec_says_what_is_declared() -> None:
    """Names, mounts, ports and limits arrive in the engine's form."""
    plan = plan_of()
    spec = plan["spec"]
    assert (plan["name"], plan["service"], plan["kind"], plan["network"]) == ("desk-web", "web", "service", "desk")
    assert spec["env"] == {"A": "1", "B": "two"}
    assert spec["published_ports"] == ["127.0.0.1:8080:80"]
    assert spec["aliases"] == ["web", "www"]
    assert spec["tmpfs"] == ["/run/web:size=8m,mode=0700,uid=10001,gid=10002", "/tmp:size=64m,mode=1777"]
    assert {(mount["type"], mount["source"], mount["target"], mount["read_only"]) for mount in spec["mounts"]} == {
        ("bind", "/etc/desk/web/config", "/run/config", True),
        ("bind", "/etc/desk/web/secrets", "/run/secrets", True),
        ("bind", "/opt/web", "/opt/web", True),
        ("volume", "desk-web-data", "/data", False),
    }
    assert plan["trees"] == [{"path": "/etc/desk/web/config", "group": 10002, "files": DECLARED["files"]}]
    assert plan["secret_trees"] == [{"path": "/etc/desk/web/secrets", "group": 10002, "files": DECLARED["secrets"]}]


def test_a_job_is_not_restarted_and_needs_no_health_check() -> None:
    """A job runs to its end once."""
    spec = plan_of({"kind": "job", "health": None})["spec"]
    assert spec["restart_policy"] == "no"
    assert spec["healthcheck"] is None


def test_a_port_may_have_its_own_address() -> None:
    """One port can be published elsewhere than the others."""
    ports = [{"host": 8080, "container": 80, "address": "10.0.0.1"}]
    assert plan_of({"ports": ports})["spec"]["published_ports"] == ["10.0.0.1:8080:80"]


def test_root_that_only_reads() -> None:
    """What reads root's files is root, and has no capability for it."""
    binds = [{"source": "/var/log", "path": "/host/log"}]
    spec = plan_of({"user": "0:0", "root": True, "binds": binds, "capabilities": []})["spec"]
    assert (spec["user"], spec["capabilities"]) == ("0:0", [])


REFUSED = {
    "unknown key": ({"memmory": "1g"}, "unknown key 'memmory'. Did you mean 'memory'?"),
    "unknown key like none": ({"zzzz": 1}, "unknown key 'zzzz'. Known are "),
    "no image": ({"image": None}, "has no 'image'"),
    "empty image": ({"image": ""}, "has no 'image'"),
    "no user": ({"user": None}, "has no 'user'"),
    "no memory": ({"memory": None}, "has no 'memory'"),
    "no cpus": ({"cpus": None}, "has no 'cpus'"),
    "root": ({"user": "0:0"}, "'user' is '0:0', expected a user id other than 0"),
    "root that writes on the host": (
        {"user": "0:0", "root": True, "binds": [{"source": "/var/log", "path": "/host/log", "read_only": False}]},
        "has 'root', and a bind that is not read-only",
    ),
    "user by name": ({"user": "web:web"}, "'user' is 'web:web'"),
    "user without group": ({"user": "10001"}, "'user' is '10001'"),
    "command as text": ({"command": "serve"}, "'command' is 'serve', expected list"),
    "environment as list": ({"environment": ["A=1"]}, "'environment' is ['A=1'], expected dict"),
    "truth as number": ({"stop_timeout": True}, "'stop_timeout' is True, expected int"),
    "text as truth": ({"read_only": "yes"}, "'read_only' is 'yes', expected bool"),
    "size in words": ({"memory": "half a gig"}, "'memory' is 'half a gig', which is not a size. Write it like 512m"),
    "too little memory": ({"memory": "1m"}, "'memory' is '1m', less than the 6m that Docker takes"),
    "no processor": ({"cpus": 0}, "'cpus' is 0, expected a number of cores such as 0.5"),
    "processors in words": ({"cpus": "many"}, "'cpus' is 'many', expected a number of cores"),
    "absurd processors": ({"cpus": 5000}, "'cpus' is 5000, expected a number of cores"),
    "port out of range": (
        {"ports": [{"host": 70000, "container": 80}]},
        "'ports' has host 70000, expected 1 to 65535",
    ),
    "port without target": ({"ports": [{"host": 80}]}, "'ports' has container None"),
    "unknown key of a port": (
        {"ports": [{"hots": 80, "container": 80}]},
        "'ports' has the unknown key 'hots'. Did you mean 'host'?",
    ),
    "port as text": ({"ports": ["80:80"]}, "'ports' holds '80:80', expected a dictionary"),
    "unknown key of a volume": ({"volumes": [{"name": "x", "target": "/x"}]}, "'volumes' has the unknown key 'target'"),
    "no health": ({"health": None}, "has no 'health' with a 'test'"),
    "health without test": ({"health": {"retries": 2}}, "has no 'health' with a 'test'"),
    "unknown kind": ({"kind": "step"}, "'kind' is 'step', expected 'service' or 'job'"),
    "empty secret": ({"secrets": {"password": " \n"}}, "the secret 'password' is empty"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses(change: dict[str, Any], message: str) -> None:
    """Each wrong declaration is named with its container, its key and what is expected."""
    with pytest.raises(AnsibleFilterError) as error:
        plan_of(change)
    assert message in str(error.value)
    assert "web" in str(error.value)


CHANGES: dict[str, dict[str, Any]] = {
    "image": {"image": "example/web:2"},
    "user": {"user": "10009:10002"},
    "command": {"command": ["serve"]},
    "entrypoint": {"entrypoint": None},
    "working_dir": {"working_dir": "/"},
    "environment value": {"environment": {"A": 2, "B": "two"}},
    "environment removed": {"environment": {"A": 1}},
    "file": {"files": {"web.conf": "listen 81\n", "more/site.conf": "x\n"}},
    "file removed": {"files": {"web.conf": "listen 80\n"}},
    "secret": {"secrets": {"password": "another"}},
    "volume": {"volumes": [{"name": "other", "path": "/data"}]},
    "bind": {"binds": [{"source": "/opt/web", "path": "/opt/web", "read_only": False}]},
    "tmpfs": {"tmpfs": {"/run/web": "9m"}},
    "port": {"ports": [{"host": 8081, "container": 80}]},
    "memory": {"memory": "513m"},
    "cpus": {"cpus": 0.6},
    "pids": {"pids": 101},
    "shm_size": {"shm_size": "65m"},
    "cpu_shares": {"cpu_shares": 128},
    "health test": {"health": {"test": ["CMD", "false"]}},
    "health retries": {"health": {"test": ["CMD", "true"], "retries": 9}},
    "aliases": {"aliases": []},
    "hostname": {"hostname": "web.w1"},
    "capabilities": {"capabilities": []},
    "read_only": {"read_only": False},
    "stop_timeout": {"stop_timeout": 21},
    "stop_signal": {"stop_signal": None},
}


@pytest.mark.parametrize(
    ("declared", "name"),
    [(None, "web"), ("web.w1", "web.w1"), ("web.host_1 a", "web.host-1-a"), ("web." + "x" * 80, "web." + "x" * 59)],
)
def test_a_name_of_the_inventory_becomes_one_that_linux_takes(declared: str | None, name: str) -> None:
    assert plan_of({"hostname": declared})["spec"]["hostname"] == name


def test_every_input_changes_the_hash() -> None:
    """The hash covers all that a container is made from, and tells all of it apart."""
    hashes = {name: plan_of(change)["hash"] for name, change in CHANGES.items()}
    settings = {"network": "b", "log_size": "11m", "log_files": 4, "publish_address": "0.0.0.0", "health_interval": 31}
    for name, value in settings.items():
        hashes[name] = plan_of(**{name: value})["hash"]
    hashes["as declared"] = plan_of()["hash"]
    assert len(set(hashes.values())) == len(hashes), hashes


def test_order_does_not_change_the_hash() -> None:
    """The order of a dictionary's keys means nothing."""

    def turned(value: Any) -> Any:
        return {key: turned(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    [other] = containers.container_plan([turned(DECLARED)], turned(SETTINGS))
    assert other["hash"] == plan_of()["hash"]


def test_two_plans_of_one_declaration_are_equal() -> None:
    """Nothing random, and nothing taken from the clock; the declaration itself is left alone."""
    before = copy.deepcopy(DECLARED)
    assert plan_of() == plan_of()
    assert before == DECLARED


def test_public_plan_holds_no_content() -> None:
    """Secrets and files stay out of what Ansible may print."""
    plans = containers.container_plan([DECLARED], SETTINGS)
    assert "correct-horse-battery" in json.dumps(plans)
    shown = json.dumps(containers.public_plan(plans))
    assert "correct-horse-battery" not in shown and "listen 80" not in shown
    assert plans[0]["hash"] in shown


def test_only_secret_trees_hold_secrets() -> None:
    """A secret is nowhere else in a plan."""
    [plan] = containers.container_plan([DECLARED], SETTINGS)
    del plan["secret_trees"]
    assert "correct-horse-battery" not in json.dumps(plan)


def test_overrides_reach_into_dictionaries_and_replace_lists() -> None:
    """The inventory changes a key at any depth."""
    over = {"web": {"memory": "1g", "environment": {"B": "three"}, "command": ["other"]}}
    [plan] = containers.container_plan([DECLARED], SETTINGS, over, "web_overrides")
    assert plan["limits"]["Memory"] == 2**30
    assert plan["spec"]["env"] == {"A": "1", "B": "three"}
    assert plan["spec"]["command"] == ["other"]


def test_an_override_can_take_the_port_away() -> None:
    """An empty list publishes nothing."""
    [plan] = containers.container_plan([DECLARED], SETTINGS, {"web": {"ports": []}}, "web_overrides")
    assert plan["spec"]["published_ports"] == []


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"wbe": {}}, "web_overrides has the unknown key 'wbe'. Did you mean 'web'?"),
        ({"web": {"memroy": "1g"}}, "web_overrides.web has the unknown key 'memroy'. Did you mean 'memory'?"),
        ({"web": {"memory": "lots"}}, "web_overrides.web: 'memory' is 'lots'"),
        ({"web": {"user": "root:root"}}, "web_overrides.web: 'user' is 'root:root'"),
        ({"web": {"shm_size": "lots"}}, "web_overrides.web: 'shm_size' is 'lots', which is not a size"),
        ({"web": {"cpu_shares": 1}}, "web_overrides.web: 'cpu_shares' is 1, expected 2 to 262144"),
        ({"web": {"protect": True}}, "web_overrides.web has the key 'protect', which is called 'prevent_recreate' now"),
    ],
)
def test_a_wrong_override_names_the_variable(over: dict[str, Any], message: str) -> None:
    """The operator reads which variable to correct."""
    with pytest.raises(AnsibleFilterError) as error:
        containers.container_plan([DECLARED], SETTINGS, over, "web_overrides")
    assert message in str(error.value)


@pytest.mark.parametrize(("former", "now"), [("live_files", "reloadable_files"), ("protect", "prevent_recreate")])
def test_a_former_key_is_refused_with_its_name_now(former: str, now: str) -> None:
    """Not with a guess: the two names need not be alike."""
    with pytest.raises(
        AnsibleFilterError, match=f"The container web has the key '{former}', which is called '{now}' now"
    ):
        plan_of({former: {}})


@pytest.mark.parametrize(
    ("text", "size"),
    [("512m", 512 * 2**20), ("1g", 2**30), ("1.5g", 3 * 2**29), (4096, 4096), ("64k", 65536), ("2GB", 2**31)],
)
def test_sizes(text: str | int, size: int) -> None:
    """Sizes as Docker writes them."""
    assert settings.size_in_bytes(text, "memory") == size


def parts_between(change: dict[str, Any], **settings: Any) -> set[str]:
    """Names of the parts whose digests a change of the declaration changes."""
    before, after = (set(plan["parts"].splitlines()) for plan in (plan_of(), plan_of(change, **settings)))
    return {line.split(" ", 1)[1] for line in before ^ after}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"image": "example/web:2"}, {"image"}),
        ({"environment": {"A": 1, "B": "three"}}, {"environment B"}),
        ({"environment": {"A": 1}}, {"environment B"}),
        ({"environment": {**DECLARED["environment"], "C": ""}}, {"environment C"}),
        ({"volumes": [{"name": "other", "path": "/data"}]}, {"mount /data"}),
        ({"binds": []}, {"mount /opt/web"}),
        ({"tmpfs": {"/run/web": "9m"}}, {"mount /run/web"}),
        ({"ports": [{"host": 8081, "container": 80}]}, {"ports"}),
        ({"memory": "1g"}, {"limits"}),
        ({"cpus": 1}, {"limits"}),
        ({"pids": 99}, {"limits"}),
        ({"shm_size": "65m"}, {"limits"}),
        ({"cpu_shares": 128}, {"limits"}),
        ({"files": {**DECLARED["files"], "web.conf": "listen 81\n"}}, {"file web.conf"}),
        ({"secrets": {"password": "wrong-horse-battery"}}, {"secrets"}),
        ({"command": ["serve"]}, {"command"}),
        ({"health": {"test": ["CMD", "false"]}}, {"healthcheck"}),
        ({"user": "10001:10003"}, {"user", "mount /run/web"}),
        ({}, set()),
    ],
)
def test_parts_name_what_changed(change: dict[str, Any], names: set[str]) -> None:
    """Each kind, alone, by a name that people know."""
    assert parts_between(change) == names


def test_parts_cover_whatever_the_hash_covers() -> None:
    """No key of the declaration changes the hash and no part."""
    other: dict[str, Any] = {
        "entrypoint": ["/other"], "working_dir": "/", "aliases": [], "hostname": "other", "capabilities": [],
        "read_only": False, "stop_timeout": 1, "stop_signal": "SIGTERM",
    }  # fmt: skip
    for key, value in other.items():
        assert plan_of({key: value})["hash"] != plan_of()["hash"] and parts_between({key: value}), key
    for settings in ({"network": "other"}, {"log_size": "1m"}, {"publish_address": "0.0.0.0"}, {"health_interval": 9}):
        assert plan_of(**settings)["hash"] != plan_of()["hash"] and parts_between({}, **settings), settings


def test_parts_show_no_value() -> None:
    """Names and digests: neither an environment's value, nor a file's content, nor a secret."""
    values = {"environment": {"A": "environment-value"}, "files": {"web.conf": "file-value"}}
    text = plan_of({**values, "secrets": {"password": "secret-value"}})["parts"]
    assert all(
        re.fullmatch(r"[0-9a-f]{8} [a-z]+( [A-Z]|( web.conf| /[a-z/]+| [a-z]+))*", line) for line in text.splitlines()
    )
    assert "value" not in text and "environment A" in text and "file web.conf" in text


@pytest.mark.parametrize(
    ("declared", "was", "running", "drift", "kept"),
    [
        (True, True, True, True, True),
        # A simulator is declared, and the real gateway runs; and the other way round.
        (False, True, True, True, True),
        (True, False, True, True, True),
        (False, False, True, True, False),
        (True, True, True, False, False),
        (True, True, False, True, False),
    ],
)
def test_protected_drift(declared: bool, was: bool, running: bool, drift: bool, kept: bool) -> None:
    """What runs is left alone where its declaration, the old or the new, says so."""
    found = {"protected": was, "running": running, "drift": ["changed: image"] if drift else []}
    plan = plan_of({"prevent_recreate": declared})
    left = convergence.protected_plans([plan], {"desk-web": found})
    assert [each["name"] for each in left] == (["desk-web"] if kept else [])
    assert convergence.protected_plans([plan | {"recreate": True}], {"desk-web": found}) == []


def test_a_health_check_that_restarts_what_hangs() -> None:
    """Wrapped with its numbers; a declared command in a shell stays one; without the setting it is as declared."""
    health = {"test": ["CMD-SHELL", "look || exit 3"], "alive": [3, 22], "retries": 4, "timeout": 9}
    plan = plan_of({"health": health}, restart_hung_after=300)
    kind, shell, option, script, name, *words = plan["spec"]["healthcheck"]["test"]
    assert (kind, shell, option, script, name) == ("CMD", "/bin/sh", "-c", containers.PROBE, "probe")
    assert words == ["300", "4", "8", "3 22", "/bin/sh", "-c", "look || exit 3"]
    assert plan["alive"] == [3, 22]
    for settings, change in (
        ({}, {}),
        ({"restart_hung_after": 0}, {}),
        ({"restart_hung_after": 300}, {"restart_after": 0}),
    ):
        plain = plan_of({"health": {**health, **change}}, **settings)
        assert plain["spec"]["healthcheck"]["test"] == health["test"]


def test_a_protected_container_is_never_restarted_by_its_health_check() -> None:
    """That would end someone's session, whatever else is declared."""
    health = {"test": ["CMD", "true"], "restart_after": 60}
    plan = plan_of({"health": health, "prevent_recreate": True}, restart_hung_after=300)
    assert plan["spec"]["healthcheck"]["test"] == ["CMD", "true"]
    # Nor does the feature change what it is made from.
    assert plan["hash"] == plan_of({"health": {"test": ["CMD", "true"]}, "prevent_recreate": True})["hash"]


@pytest.mark.parametrize(
    ("health", "sentence"),
    [
        ({"restart_after": "soon"}, "'restart_after' 'soon', expected a number of seconds, 0 for never"),
        ({"restart_after": True}, "'restart_after' True, expected"),
        ({"restart_after": -5}, "'restart_after' -5, expected"),
        ({"alive": "1"}, "'alive' '1', expected a list of exit statuses, 1 to 255"),
        ({"alive": [0]}, "'alive' [0], expected"),
    ],
)
def test_health_checks_that_cannot_work(health: dict[str, Any], sentence: str) -> None:
    """Refused, with the key."""
    with pytest.raises(AnsibleFilterError, match=re.escape(sentence)):
        plan_of({"health": {"test": ["CMD", "true"], **health}}, restart_hung_after=300)


class Looks:
    """The health check's script on this machine, where it only says whom it would kill."""

    def __init__(self, directory: Path, shell: str) -> None:
        """Take a directory for what it remembers."""
        assert containers.PROBE.count("kill -9 -1") == 1 and containers.PROBE.count("/dev/shm/last-well") == 1
        self.file, self.log, self.shell = directory / "last-well", directory / "log", shell
        script = containers.PROBE.replace("kill -9 -1", "echo KILLED").replace("/dev/shm/last-well", str(self.file))
        self.script = script.replace("/proc/1/fd/2", str(self.log))
        assert "kill -9" not in self.script and "/proc/1" not in self.script

    def look(self, check: str) -> tuple[int, bool]:
        """Check once, and return its status and whether it would have killed."""
        words = [self.shell, "-c", self.script, "probe", "300", "3", "2", "5 22", "sh", "-c", check]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
        return done.returncode, "KILLED" in done.stdout

    def age(self, seconds: int) -> None:
        """Let time go by since it was well."""
        well, failed = map(int, self.file.read_text().split())
        self.file.write_text(f"{well - seconds} {failed}\n")


@pytest.fixture(params=["dash", "bash"])
def looks(tmp_path: Path, request: pytest.FixtureRequest) -> Looks:
    """A health check in a shell that images have."""
    return Looks(tmp_path, request.param)


def test_a_program_that_hangs_is_killed(looks: Looks) -> None:
    """After enough failed looks in a row and enough time, and once it is: not again until it was well."""
    assert looks.look("exit 0") == (0, False)
    assert looks.look("exit 1") == (1, False)
    looks.age(1000)
    # Time alone is not enough: a host that slept has looked once only.
    assert looks.look("exit 1") == (1, False)
    assert looks.look("exit 7") == (7, True)
    assert "No answer to the health check for 1" in looks.log.read_text()
    # The container that the engine starts again has an empty /dev/shm.
    looks.file.unlink()
    assert [looks.look("exit 1") for _ in range(9)] == [(1, False)] * 9


def test_looks_alone_kill_nothing(looks: Looks) -> None:
    """A run asks twice a second."""
    looks.look("exit 0")
    assert [looks.look("exit 1") for _ in range(9)] == [(1, False)] * 9
    looks.age(301)
    assert looks.look("exit 1") == (1, True)


def test_a_check_that_hangs_counts(looks: Looks) -> None:
    """It is ended before the engine ends it, and with it the script that counts."""
    looks.look("exit 0")
    looks.look("exit 1")
    looks.age(1000)
    looks.look("exit 1")
    begun = time.monotonic()
    status, killed = looks.look("sleep 20")
    assert status != 0 and killed and time.monotonic() - begun < 10


def test_a_program_that_answers_is_not_killed(looks: Looks) -> None:
    """A database that recovers, or a program that misses another one, says so with a status of its own."""
    looks.look("exit 0")
    for _ in range(5):
        looks.age(1000)
        assert looks.look("exit 22") == (22, False)
        assert looks.look("exit 5") == (5, False)
    # Answering counts as well only for what was well before.
    looks.file.unlink()
    assert looks.look("exit 22") == (22, False) and not looks.file.exists()


def test_one_good_look_forgives(looks: Looks) -> None:
    """Failed looks count in a row."""
    looks.look("exit 0")
    looks.look("exit 1")
    looks.look("exit 1")
    looks.age(1000)
    assert looks.look("exit 0") == (0, False)
    assert looks.look("exit 1") == (1, False)
    looks.age(1000)
    assert looks.look("exit 1") == (1, False)


@pytest.mark.parametrize(
    ("answer", "healthy", "counts_as_hanging"),
    [
        ("PONG", True, False),
        ("LOADING Redis is loading the dataset in memory", False, False),
        # A script that has written something and does not end can be stopped by a restart only.
        ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", False, True),
    ],
    ids=["well", "loading", "busy"],
)
def test_what_redis_answers_to_its_health_check(
    answer: str, healthy: bool, counts_as_hanging: bool, tmp_path: Path
) -> None:
    """Its own command, with a client that says what the server would."""
    variables = yaml.safe_load((REPOSITORY / "roles/redis/vars/main.yml").read_text())
    health = variables["redis_containers"][0]["health"]
    client = tmp_path / "redis-cli"
    client.write_text(f"#!/bin/sh\necho '{answer}'\n")
    client.chmod(0o755)
    words = ["/bin/sh", "-c", health["test"][1]]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    status = subprocess.run(words, env=environment, capture_output=True, check=False, timeout=10).returncode
    assert (status == 0) == healthy
    assert (status not in (0, *health["alive"])) == counts_as_hanging
