"""Programs in containers: in one of their own like a service's, and in one that runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from collection_under_test import REPOSITORY, Outcome, Run, ansible_environment, plugin, role_of_variables
from fake_engine import FakeEngine, running
from test_container_plan import DECLARED, SETTINGS

containers = plugin("plugin_utils.containers")
streams = plugin("module_utils.engine_streams")
LABELS = {"quantops.stack": "desk", "quantops.kind": "run"}


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """An engine that the modules find through their environment."""
    with running(tmp_path / "engine.sock") as found:
        monkeypatch.setenv("DOCKER_HOST", found.address)
        yield found


def plan(changes: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """A plan of a run like the declared container of the tests of plans."""
    return {**containers.run_plan(DECLARED, SETTINGS, "web-look", changes, **options), "owner": "web"}


@pytest.fixture
def run(run_module: Run, engine: FakeEngine) -> Callable[..., Outcome]:
    """Runs a plan."""

    def ran(changes: dict[str, Any] | None = None, network: bool = True, **more: Any) -> Outcome:
        return run_module("container_run_plan", plan=plan(changes, network=network), stack="desk", **more)

    return ran


# ---- the plan


def test_a_run_is_like_its_container() -> None:
    """Image, user, limits, file system, capabilities, mounts and network are those of the service's container."""
    [declared] = containers.container_plan([DECLARED], SETTINGS)
    found = plan({"command": ["look"]})
    different = {"command", "published_ports", "aliases", "hostname", "restart_policy", "healthcheck"}
    assert {key: value for key, value in found["spec"].items() if key not in different} == {
        key: value for key, value in declared["spec"].items() if key not in different
    }
    assert found["limits"] == declared["limits"] and found["network"] == declared["network"]
    assert found["spec"]["command"] == ["look"]


def test_a_run_is_nobody_else_on_the_network() -> None:
    """It publishes nothing, and requests to the service never reach it."""
    spec = plan()["spec"]
    assert (spec["published_ports"], spec["aliases"], spec["hostname"]) == ([], ["web-look"], "web-look")
    assert (spec["restart_policy"], spec["healthcheck"]) == ("no", None)
    assert plan()["name"] == "desk-web-look"
    assert plan(network=False)["network"] == "none"


def test_what_is_taken_away_is_not_mounted() -> None:
    """A program that nobody knows yet gets no secret."""
    targets = {mount["target"] for mount in plan()["spec"]["mounts"]}
    assert {"/run/secrets", "/run/config"} <= targets
    bare = plan({"secrets": {}, "files": {}, "volumes": [], "binds": [], "reloadable_files": {}})
    assert bare["spec"]["mounts"] == []


def test_a_plan_of_a_run_holds_no_secret() -> None:
    """It travels to the host and stands in the log at -vvv."""
    assert DECLARED["secrets"]["password"] not in json.dumps(plan())


def test_the_inventorys_overrides_count() -> None:
    """Who has lowered a limit has lowered it for a run too."""
    assert plan(overrides={"memory": "64m"}, variable="web_overrides")["spec"]["memory"] == 64 * 2**20


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ports": []}, "unknown key 'ports'"),
        ({"comand": []}, "Did you mean 'command'?"),
        ({"protect": True}, "called 'prevent_recreate' now"),
        ({"secrets": {"a": "b"}}, "can only take it away"),
        ({"user": "0:0"}, "a user id other than 0"),
        ({"memory": "much"}, "not a size"),
    ],
)
def test_a_change_that_cannot_work(changes: dict[str, Any], said: str) -> None:
    """Is refused on the controller, with the run's name and the key."""
    with pytest.raises(AnsibleFilterError) as error:
        plan(changes)
    assert said in str(error.value) and "web-look" in str(error.value)


# ---- a container of its own


def test_a_program_gets_its_input_and_is_heard(run: Callable[..., Outcome], engine: FakeEngine) -> None:
    """More of both than a pipe holds; afterwards there is no container."""
    engine.program = lambda name, body, text: (0, text.upper() * 3, b"never mind")
    outcome = run({"command": ["shout"]}, stdin="word " * 100_000)
    assert outcome.result["rc"] == 0 and outcome.result["stdout"] == "WORD " * 300_000
    assert not outcome.result["changed"] and "stderr" not in outcome.result
    assert engine.containers == {}
    body = engine.bodies["POST /containers/create?name=desk-web-look"]
    assert body["Cmd"] == ["shout"]
    assert body["HostConfig"]["AutoRemove"] and body["OpenStdin"] and body["StdinOnce"]
    assert body["HostConfig"]["CapDrop"] == ["ALL"] and body["HostConfig"]["ReadonlyRootfs"]
    assert body["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"]
    assert LABELS.items() <= body["Labels"].items() and "quantops.hash" not in body["Labels"]


def test_a_run_under_the_lock(run: Callable[..., Outcome], engine: FakeEngine) -> None:
    """Is found by who takes that lock next; one under another lock, or none, goes on beside that."""
    for lock in ("stack", "drill", ""):
        run(lock=lock)
        labels = engine.bodies["POST /containers/create?name=desk-web-look"]["Labels"]
        assert labels["quantops.lock"] == lock


def test_without_a_network(run: Callable[..., Outcome], engine: FakeEngine) -> None:
    """None at all, not the engine's default one."""
    run(network=False)
    body = engine.bodies["POST /containers/create?name=desk-web-look"]
    assert body["HostConfig"]["NetworkMode"] == "none" and "NetworkingConfig" not in body


def test_a_program_that_fails(run: Callable[..., Outcome], engine: FakeEngine) -> None:
    """Says with which status, and what it wrote; a status that is expected is none."""
    engine.program = lambda name, body, text: (3, b"half done", b"no such table")
    outcome = run()
    assert outcome.failed and outcome.result["rc"] == 3 and outcome.result["stdout"] == "half done"
    assert "ended with status 3: no such table" in outcome.result["msg"]
    assert not run(expected=[0, 3]).failed and not run(expected=[]).failed
    assert run(expected=[]).result["stderr"] == "no such table"


def test_a_program_that_does_not_end(run: Callable[..., Outcome], engine: FakeEngine) -> None:
    """Is given up, and its container removed."""
    engine.program = lambda name, body, text: None
    outcome = run(timeout=1)
    assert outcome.failed and "did not end within 1 s, and was removed" in outcome.result["msg"]
    assert engine.containers == {}


def test_a_program_that_keeps_talking(run: Callable[..., Outcome], engine: FakeEngine) -> None:
    """Does not put off its end by what it prints."""
    engine.program = lambda name, body, text: (0, b"still here\n" * 1000, b"")
    outcome = run(timeout=0)
    assert outcome.failed and "did not end within 0 s" in outcome.result["msg"]


def test_what_a_killed_run_left_is_replaced(run: Callable[..., Outcome], engine: FakeEngine) -> None:
    """By the next run of that name; somebody else's container of that name is not."""
    body = {"Image": "example/web:1", "HostConfig": {"RestartPolicy": {}}, "Labels": LABELS}
    engine.add("desk-web-look", body)
    assert not run().failed
    assert any(call.startswith("DELETE /containers/id1") for call in engine.calls)
    for labels in ({}, {**LABELS, "quantops.stack": "other"}, {**LABELS, "quantops.kind": "service"}):
        engine.add("desk-web-look", {**body, "Labels": labels})
        outcome = run()
        assert outcome.failed and "was not made for a run" in outcome.result["msg"]
        assert engine.containers.pop("desk-web-look")["Config"]["Labels"] == labels


def test_what_runs_under_a_lock_is_not_replaced(run: Callable[..., Outcome], engine: FakeEngine) -> None:
    """By a run that does not hold it: that would end what somebody is waiting for."""
    body = {
        "Image": "example/web:1",
        "HostConfig": {"RestartPolicy": {}},
        "Labels": LABELS | {"quantops.lock": "stack"},
    }
    engine.add("desk-web-look", body)
    engine.state("desk-web-look")
    outcome = run()
    assert outcome.failed and "another run is at work" in outcome.result["msg"] and "desk-web-look" in engine.containers
    assert not run(lock="stack").failed


def test_an_image_that_may_not_be_pulled(run: Callable[..., Outcome], engine: FakeEngine) -> None:
    """Is no failure: the caller sees that nothing ran."""
    engine.images.clear()
    outcome = run(pull=False)
    assert (
        not outcome.failed
        and "rc" not in outcome.result
        and "its image example/web:1 is not on this host" in outcome.result["msg"]
    )


def test_input_is_not_logged(run: Callable[..., Outcome], engine: FakeEngine) -> None:
    """Not where the module says how it was called, and not if the program repeats it."""
    engine.program = lambda name, body, text: (1, text, text)
    assert "a-long-secret" not in run(stdin="a-long-secret").output


# ---- a container that runs


@pytest.fixture
def execute(run_module: Run, engine: FakeEngine) -> Callable[..., Outcome]:
    """Runs a program in a container of the engine."""
    engine.add("desk-web", {"Image": "example/web:1", "HostConfig": {"RestartPolicy": {}}})
    engine.state("desk-web")

    def executed(**more: Any) -> Outcome:
        given = {"container": "desk-web", "command": ["look", "closely"], **more}
        return run_module("container_exec", **given)

    return executed


def test_a_program_beside_another(execute: Callable[..., Outcome], engine: FakeEngine) -> None:
    """Gets its input, is heard, and tells a change."""
    engine.program = lambda name, body, text: (0, b"CREATE ROLE\n" + text.upper(), b"")
    outcome = execute(stdin="and more", changed_pattern="(?m)^CREATE")
    assert outcome.result["stdout_lines"] == ["CREATE ROLE", "AND MORE"] and outcome.result["changed"]
    assert not execute(changed_pattern="^ALTER").result["changed"]
    assert engine.bodies["POST /containers/id1/exec"]["Cmd"] == ["look", "closely"]


def test_a_program_beside_another_that_fails(execute: Callable[..., Outcome], engine: FakeEngine) -> None:
    """Or does not end: the container's name, the program's, and why."""
    engine.program = lambda name, body, text: (2, b"", b"refused")
    assert "look in desk-web ended with status 2: refused" in execute().result["msg"]
    engine.program = lambda name, body, text: None
    assert "did not end within 1 s and may still run" in execute(timeout=1).result["msg"]


@pytest.mark.parametrize(
    ("there", "said"), [(False, "there is no container desk-web"), (True, "does not run (exited)")]
)
def test_a_container_that_does_not_run(
    execute: Callable[..., Outcome], engine: FakeEngine, there: bool, said: str
) -> None:
    """Is named, with what to do."""
    if there:
        engine.state("desk-web", status="exited")
    else:
        engine.containers.clear()
    outcome = execute()
    assert outcome.failed and said in outcome.result["msg"] and "site.yml" in outcome.result["msg"]


# ---- the role


def test_nobody_runs_docker_by_hand() -> None:
    """Roles and playbooks go through the entry points, which take a service's own specification."""
    words = ["git", "ls-files", "-z", "--", "roles/*.yml", "playbooks/*.yml", "examples/*.yml"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    by_hand = re.compile(r"docker['\"]?[,\s-]+['\"]?(run|exec|create)\b")
    found = [
        path
        for path in done.stdout.split("\0")
        if path and by_hand.search((REPOSITORY / path).read_text(encoding="utf-8"))
    ]
    assert found == []
    assert by_hand.search("argv: [docker, exec, -i") and by_hand.search("- docker\n      - run\n")


def test_the_check_of_dags_has_no_secret_and_no_network(tmp_path: Path) -> None:
    """What Airflow's role asks for, as the engine gets it: new code with the rights of the worker, and less."""
    with running(tmp_path / "engine.sock") as engine:
        engine.images["stack/airflow:abc"] = "sha256:airflow"
        engine.program = lambda name, body, text: (3, b"bad.py, line 1: invalid syntax", b"")
        role = role_of_variables(tmp_path, "airflow")
        (tmp_path / "dags").mkdir()
        (tmp_path / "dags" / "bad.py").write_text("def f(:\n")
        tasks = yaml.safe_load((REPOSITORY / "roles/airflow/tasks/compile.yml").read_text())
        (role / "tasks").mkdir()
        (role / "tasks" / "main.yml").write_text(yaml.safe_dump(tasks))
        play = {"hosts": "services", "gather_facts": False, "roles": ["quantops.ibkr_stack.stack", "case"]}
        (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
        secrets = {
            "redis_airflow_password": "RedisPassword", "minio_airflow_logs_access_key": "MinioAccessKey",
            "minio_airflow_logs_secret": "MinioSecret", "postgres_airflow_password": "PgPassword",
            "airflow_fernet_key": "F", "airflow_jwt_secret": "J", "airflow_session_secret": "S",
            "airflow_admin_password": "A", "postgres_dags_password": "DagsPgPassword",
            "minio_dags_access_key": "DagsAccessKey", "minio_dags_secret": "DagsMinioSecret",
        }  # fmt: skip
        variables = {
            "ansible_connection": "local", "ansible_python_interpreter": sys.executable, "secrets": secrets,
            "container_image_refs": {"airflow": "stack/airflow:abc"}, "airflow_dags_dir": str(tmp_path / "dags"),
            "stack_name": "desk",
        }  # fmt: skip
        groups = {group: {"hosts": {"services": {}}} for group in ("postgres", "redis", "minio", "airflow")}
        inventory = {"all": {"children": groups, "vars": variables}}
        (tmp_path / "inventory.yml").write_text(yaml.safe_dump(inventory))
        done = subprocess.run(
            ["ansible-playbook", "-vvv", "--check", "-i", "inventory.yml", "play.yml"],
            cwd=tmp_path, env=ansible_environment(DOCKER_HOST=engine.address), capture_output=True, text=True,
            check=False, timeout=300,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == 2, said
        assert "files that do not compile: bad.py, line 1: invalid syntax" in said, said
        assert "def f(:" not in said and not [word for word in secrets.values() if len(word) > 1 and word in said]
        body = engine.bodies["POST /containers/create?name=desk-airflow-compile"]
        assert body["Entrypoint"] == ["python"] and body["Cmd"][:2] == ["-I", "-c"]
        assert body["HostConfig"]["Mounts"] == [] and body["Env"] == ["HOME=/tmp"]
        assert body["HostConfig"]["NetworkMode"] == "none" and body["HostConfig"]["CapDrop"] == ["ALL"]
        assert body["HostConfig"]["ReadonlyRootfs"] and body["HostConfig"]["Memory"] == 2**30
        assert engine.containers == {}
