"""`container_apply`: what it asks of the engine for each container, and what it makes of the engine's refusals."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from collection_under_test import REPOSITORY, Run, ansible_environment, plugin
from fake_engine import FakeEngine, Gauge, running
from test_container_plan import plan_of

apply = plugin("modules.container_apply")
api = plugin("module_utils.engine_api")
definition = plugin("module_utils.container_definition")
sizes = plugin("module_utils.sizes")
state = plugin("modules.container_state")
LABELS = {"quantops.stack": "desk"}


def plan(name: str = "web", **changes: Any) -> dict[str, Any]:
    """A public plan; keys of `changes` replace those of the declaration."""
    found = plan_of({"name": name, **changes})
    return {key: value for key, value in found.items() if key not in ("trees", "secret_trees")}


JOB = {"kind": "job", "health": None, "ports": None}


@pytest.fixture
def run(run_module: Run, engine: FakeEngine) -> Callable[..., dict[str, Any]]:
    """Applies plans and returns the result."""

    def applied(*plans: dict[str, Any], states: dict[str, Any] | None = None, check: bool = False) -> dict[str, Any]:
        return run_module(
            "container_apply", check=check, containers=list(plans), labels=LABELS, states=states or {}
        ).result

    return applied


Applied = Callable[..., dict[str, Any]]


def found_by_state(engine: FakeEngine, plan: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What `container_state` says of one container."""
    drift = state.drift_of(plan, copy.deepcopy(engine.containers[plan["name"]])) + more.pop("reasons", [])
    return {plan["name"]: {"drift": drift, "hung": False, "remake": False, **more}}


def test_a_container_is_created_and_started(engine: FakeEngine, run: Applied) -> None:
    """With everything that its plan says, in the engine's form."""
    result = run({**plan(), "owner": "site"})
    assert engine.calls == ["POST /containers/create?name=desk-web", "POST /containers/id1/start"]
    body = engine.bodies["POST /containers/create?name=desk-web"]
    labels = body.pop("Labels")
    assert body == {
        "Image": "example/web:1",
        "User": "10001:10002",
        "Hostname": "web",
        "Cmd": ["serve", "--port", "80"],
        "Entrypoint": ["/init"],
        "WorkingDir": "/srv",
        "Env": ["A=1", "B=two"],
        "StopTimeout": 20,
        "StopSignal": "SIGINT",
        "ExposedPorts": {"80/tcp": {}},
        "Healthcheck": {
            "Test": ["CMD", "true"],
            "Interval": 30 * 10**9,
            "Timeout": 5 * 10**9,
            "StartPeriod": 60 * 10**9,
            "Retries": 3,
        },
        "HostConfig": {
            "Memory": 2**29,
            "MemorySwap": 2**29,
            "NanoCpus": 500_000_000,
            "PidsLimit": 100,
            "ShmSize": 64 * 2**20,
            "NetworkMode": "desk",
            "Mounts": [
                {"Type": "bind", "Source": "/etc/desk/web/config", "Target": "/run/config", "ReadOnly": True},
                {"Type": "bind", "Source": "/etc/desk/web/secrets", "Target": "/run/secrets", "ReadOnly": True},
                {"Type": "bind", "Source": "/opt/web", "Target": "/opt/web", "ReadOnly": True},
                {
                    "Type": "volume",
                    "Source": "desk-web-data",
                    "Target": "/data",
                    "ReadOnly": False,
                    "VolumeOptions": {"Labels": {"quantops.stack": "desk"}},
                },
            ],
            "Tmpfs": {"/run/web": "size=8m,mode=0700,uid=10001,gid=10002", "/tmp": "size=64m,mode=1777"},
            "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]},
            "CapDrop": ["ALL"],
            "CapAdd": ["CHOWN"],
            "SecurityOpt": ["no-new-privileges:true"],
            "ReadonlyRootfs": True,
            "Init": True,
            "RestartPolicy": {"Name": "unless-stopped"},
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
        },
        "NetworkingConfig": {"EndpointsConfig": {"desk": {"Aliases": ["web", "www"]}}},
    }
    assert labels == {
        "quantops.stack": "desk",
        "quantops.service": "web",
        "quantops.kind": "service",
        "quantops.owner": "site",
        "quantops.hash": plan()["hash"],
        "quantops.parts": plan()["parts"],
        "quantops.protect": "false",
    }
    [change] = result["changes"]
    assert result["changed"] and (change["name"], change["action"], change["reasons"]) == (
        "desk-web", "create", ["missing"],
    )  # fmt: skip


def test_what_is_not_declared_is_the_images(engine: FakeEngine, run: Applied) -> None:
    """No command, entrypoint, directory, signal or health check of our own; a job is not started again."""
    bare = {key: None for key in ("command", "entrypoint", "working_dir", "stop_signal", "shm_size")}
    run(plan(**bare, **JOB))
    body = engine.bodies["POST /containers/create?name=desk-web"]
    assert not body.keys() & {"Cmd", "Entrypoint", "WorkingDir", "StopSignal", "Healthcheck"}
    assert "ShmSize" not in body["HostConfig"] and body["HostConfig"]["RestartPolicy"] == {"Name": "no"}
    assert body["Labels"]["quantops.kind"] == "job"


def test_a_second_run_changes_nothing(engine: FakeEngine, run: Applied) -> None:
    """Neither with what `container_state` says, nor without."""
    plans = [plan(), plan("migrate", **JOB)]
    run(*plans)
    engine.state("desk-migrate", status="exited")
    engine.calls.clear()
    assert run(*plans)["changed"] is False
    states = found_by_state(engine, plans[0]) | found_by_state(engine, plans[1])
    assert run(*plans, states=states)["changes"] == [] and engine.calls == []


def test_a_container_as_declared_is_not_asked_about(engine: FakeEngine, run: Applied) -> None:
    """A label that is not part of the hash recreates nothing that `container_state` calls as declared."""
    run(plan())
    engine.containers["desk-web"]["Config"]["Labels"] = {"quantops.hash": plan()["hash"]}
    engine.calls.clear()
    assert run(plan(), states=found_by_state(engine, plan()))["changed"] is False and engine.calls == []


def test_a_changed_container_is_recreated(engine: FakeEngine, run: Applied) -> None:
    """Stopped in its own time, removed without its volumes, created, started."""
    run(plan())
    engine.calls.clear()
    changed = plan(environment={"A": "2"})
    result = run(changed, states=found_by_state(engine, changed))
    assert engine.calls == [
        "POST /containers/id1/stop?t=20",
        "DELETE /containers/id1?force=true&v=false",
        "POST /containers/create?name=desk-web",
        "POST /containers/id2/start",
    ]
    [change] = result["changes"]
    assert change["action"] == "recreate" and change["reasons"] == ["changed: environment A, environment B"]
    assert run(changed)["changed"] is False


@pytest.mark.parametrize("status", ["exited", "created", "dead", "paused"])
def test_any_old_container_is_replaced(engine: FakeEngine, run: Applied, status: str) -> None:
    """What does not run needs no stop, and a paused one cannot be stopped."""
    run(plan())
    engine.state("desk-web", status=status)
    engine.calls.clear()
    assert run(plan(memory="1g"))["changes"][0]["action"] == "recreate"
    first = {"paused": ["POST /containers/id1/unpause", "POST /containers/id1/stop?t=20"]}.get(status, [])
    assert engine.calls[:-3] == first and engine.calls[-1] == "POST /containers/id2/start"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Image": "sha256:old"}, "its image was updated"),
        ({"network": "net-old"}, "its network was replaced"),
        ({"mode": "bridge"}, "its network was replaced"),
        ({"labels": {"quantops.protect": "true"}}, "labels changed"),
    ],
)
def test_what_cannot_be_altered_in_place(engine: FakeEngine, run: Applied, change: dict[str, Any], reason: str) -> None:
    """An image built anew under its name, a network that was removed and created, a label: a new container."""
    run(plan())
    item = engine.containers["desk-web"]
    item["Image"] = change.get("Image", item["Image"])
    item["HostConfig"]["NetworkMode"] = change.get("mode", "desk")
    item["NetworkSettings"]["Networks"]["desk"]["NetworkID"] = change.get("network", "net-desk")
    item["Config"]["Labels"] |= change.get("labels", {})
    [found] = run(plan())["changes"]
    assert (found["action"], found["reasons"]) == ("recreate", [reason])


def test_only_a_new_container_heals_it(engine: FakeEngine, run: Applied) -> None:
    """Where `container_state` says so."""
    run(plan())
    reasons = ["configuration or secrets were written after its start"]
    [found] = run(plan(), states=found_by_state(engine, plan(), reasons=reasons, remake=True))["changes"]
    assert (found["action"], found["reasons"]) == ("recreate", reasons)


@pytest.mark.parametrize("status", ["running", "exited"])
def test_a_job_starts_from_a_new_container(engine: FakeEngine, run: Applied, status: str) -> None:
    """Whatever is to be done again about it."""
    job = plan(**JOB)
    run(job)
    engine.state("desk-web", status=status)
    [found] = run(job, states=found_by_state(engine, job, reasons=["what it made is gone"]))["changes"]
    assert found["action"] == "recreate" and engine.containers["desk-web"]["Id"] == "id2"


def test_a_job_at_work_is_left_alone(engine: FakeEngine, run: Applied) -> None:
    """And one that failed is run again, also without a word of `container_state`."""
    job = plan(**JOB)
    run(job)
    assert run(job)["changed"] is False
    engine.state("desk-web", status="exited", ExitCode=3)
    [found] = run(job)["changes"]
    assert found["reasons"] == ["its last run failed (status 3)"]


def test_limits_are_set_in_place(engine: FakeEngine, run: Applied) -> None:
    """Those that were altered, both memory limits together, and the restart policy: the container goes on."""
    run(plan())
    host = engine.containers["desk-web"]["HostConfig"]
    host.update(MemorySwap=-1, PidsLimit=7, RestartPolicy={"Name": "no", "MaximumRetryCount": 0})
    engine.calls.clear()
    [found] = run(plan(), states=found_by_state(engine, plan()))["changes"]
    assert engine.calls == ["POST /containers/id1/update"] and found["action"] == "update"
    assert engine.bodies["POST /containers/id1/update"] == {
        "Memory": 2**29,
        "MemorySwap": 2**29,
        "PidsLimit": 100,
        "RestartPolicy": {"Name": "unless-stopped"},
    }
    assert found["reasons"] == [
        "limit of memory and swap is -1, declared 536870912",
        "process limit is 7, declared 100",
        "restart policy is no",
    ]


def test_limits_that_cannot_be_set_in_place(engine: FakeEngine, run: Applied) -> None:
    """A container that uses more than its limit allows is recreated."""
    run(plan())
    engine.containers["desk-web"]["HostConfig"]["Memory"] = 2**31
    engine.refused["/update"] = (500, {"message": "device or resource busy"})
    assert run(plan())["changes"][0]["action"] == "recreate"
    assert engine.containers["desk-web"]["HostConfig"]["Memory"] == 2**29


@pytest.mark.parametrize(
    ("status", "hung", "call", "action"),
    [
        ("exited", False, "start", "start"),
        ("created", False, "start", "start"),
        ("paused", False, "unpause", "unpause"),
        ("running", True, "restart?t=20", "restart"),
        ("restarting", False, "restart?t=20", "restart"),
    ],
)
def test_a_container_that_only_does_not_run(
    engine: FakeEngine, run: Applied, status: str, hung: bool, call: str, action: str
) -> None:
    """Stays the one that it is."""
    run(plan())
    engine.state("desk-web", status=status)
    engine.calls.clear()
    reasons = ["does not answer its health check"] if hung else []
    result = run(plan(), states=found_by_state(engine, plan(), hung=hung, reasons=reasons))
    assert engine.calls == [f"POST /containers/id1/{call}"]
    assert result["changes"][0]["action"] == action and len(result["changes"][0]["reasons"]) == 1


def test_shares_of_the_processor_are_set_again(engine: FakeEngine, run: Applied) -> None:
    declared = plan(cpu_shares=102)
    run(declared)
    assert engine.bodies["POST /containers/create?name=desk-web"]["HostConfig"]["CpuShares"] == 102
    engine.containers["desk-web"]["HostConfig"]["CpuShares"] = 0
    engine.calls.clear()
    assert run(declared)["changes"][0]["reasons"] == ["CPU weight is 0, declared 102"]
    assert engine.calls == ["POST /containers/id1/update"]


def test_several_things_at_once(engine: FakeEngine, run: Applied) -> None:
    """One altered and stopped by hand is set right before it starts."""
    run(plan())
    engine.containers["desk-web"]["HostConfig"]["NanoCpus"] = 1
    engine.state("desk-web", status="exited")
    engine.calls.clear()
    assert run(plan())["changes"][0]["action"] == "update and start"
    assert engine.calls == ["POST /containers/id1/update", "POST /containers/id1/start"]


@pytest.mark.parametrize(
    ("networks", "calls"),
    [
        ({"desk": ["web", "www"], "other": []}, ["POST /networks/other/disconnect"]),
        ({}, ["POST /networks/net-desk/connect"]),
        ({"desk": ["web"]}, ["POST /networks/desk/disconnect", "POST /networks/net-desk/connect"]),
    ],
)
def test_networks_are_set_in_place(
    engine: FakeEngine, run: Applied, networks: dict[str, list[str]], calls: list[str]
) -> None:
    """One too many, none, and one under other names."""
    engine.networks["other"] = "net-other"
    run(plan())
    engine.containers["desk-web"]["NetworkSettings"]["Networks"] = {
        name: {"Aliases": aliases, "NetworkID": engine.networks[name]} for name, aliases in networks.items()
    }
    engine.calls.clear()
    assert run(plan())["changes"][0]["action"] == "connect"
    assert engine.calls == calls and engine.containers["desk-web"]["Id"] == "id1"
    assert engine.containers["desk-web"]["NetworkSettings"]["Networks"] == {
        "desk": {"Aliases": ["web", "www"], "NetworkID": "net-desk"}
    }


def test_check_mode_only_looks(engine: FakeEngine, run: Applied) -> None:
    """And says what would be done."""
    run(plan("old"), plan("tired"), plan("small"))
    engine.state("desk-tired", status="exited")
    engine.containers["desk-small"]["HostConfig"]["Memory"] = 2**20
    engine.calls.clear()
    plans = [plan("new", image="example/away:1"), plan("old", memory="1g"), plan("tired"), plan("small")]
    result = run(*plans, check=True)
    assert {each["name"]: each["action"] for each in result["changes"]} == {
        "desk-new": "create", "desk-old": "recreate", "desk-tired": "start", "desk-small": "update",
    }  # fmt: skip
    assert result["changed"] and engine.calls == []


def test_a_missing_image_is_pulled(
    engine: FakeEngine, run: Applied, fake_docker: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the client, which has the operator's credentials; once for all that use it."""
    log = fake_docker("")
    pull = api.docker

    def docker(*words: str, **options: Any) -> Any:
        engine.images["example/new:2"] = "sha256:new"
        return pull(*words, **options)

    monkeypatch.setattr(api, "docker", docker)
    assert len(run(plan(image="example/new:2"), plan("more", image="example/new:2"))["changes"]) == 2
    assert log.read_text() == "pull --quiet example/new:2\n"


def test_the_old_container_stays_without_the_new_image(
    engine: FakeEngine, run: Applied, fake_docker: Callable[[str], Path]
) -> None:
    """The registry's word is told; others are applied."""
    fake_docker("echo 'pull access denied for example/new' >&2; exit 1")
    run(plan(), plan("more"))
    old = engine.containers["desk-web"]["Id"]
    engine.state("desk-more", status="exited")
    result = run(plan(image="example/new:2"), plan("more"))
    assert result["failed"] and result["msg"] == (
        "desk-web: its image example/new:2 is not on this host and cannot be pulled: pull access denied for example/new"
    )
    assert engine.containers["desk-web"]["State"]["Running"] and engine.containers["desk-web"]["Id"] == old
    assert [change["name"] for change in result["changes"]] == ["desk-more"] and result["changed"]


def test_a_run_that_ends_between_removal_and_creation(engine: FakeEngine, run: Applied) -> None:
    """The next one creates what is missing."""
    run(plan())
    engine.refused["POST /containers/create"] = (500, {"message": "no space left on device"})
    assert run(plan(memory="1g"))["msg"] == "desk-web: no space left on device" and engine.containers == {}
    engine.refused.clear()
    assert run(plan(memory="1g"))["changes"][0]["action"] == "create"
    assert engine.containers["desk-web"]["State"]["Running"]


def test_a_run_that_ends_between_creation_and_start(engine: FakeEngine, run: Applied) -> None:
    """The next one starts it, or runs a job from the beginning."""
    engine.refused["/start"] = (500, {"message": "Bind for 127.0.0.1:8080 failed: port is already allocated"})
    assert "desk-web: Bind for 127.0.0.1:8080" in run(plan(), plan("job", **JOB))["msg"]
    engine.refused.clear()
    changes = {each["name"]: each["action"] for each in run(plan(), plan("job", **JOB))["changes"]}
    assert changes == {"desk-web": "start", "desk-job": "recreate"}


def test_failures_are_told_together(engine: FakeEngine, run: Applied) -> None:
    """Each with its container; what worked stays and is told."""
    engine.refused["create.name=desk-(a|c)"] = (400, {"message": "invalid mount config"})
    result = run(plan("a"), plan("b"), plan("c"))
    assert result["msg"] == "desk-a: invalid mount config\ndesk-c: invalid mount config"
    assert [change["name"] for change in result["changes"]] == ["desk-b"] and list(engine.containers) == ["desk-b"]


def test_two_runs_at_once(engine: FakeEngine, run: Applied) -> None:
    """The later one is told what happened."""

    def other(call: str) -> None:
        if "create" in call:
            engine.add("desk-web", definition.definition_of(plan(), LABELS))

    engine.before = other
    said = run(plan())["msg"]
    assert said == "desk-web: another run has just created it. Run again when that run has finished"


def test_a_container_that_is_being_removed(engine: FakeEngine, run: Applied) -> None:
    """Its removal is awaited."""
    run(plan())
    engine.refused["DELETE"] = (409, {"message": "removal of container id1 is already in progress"})

    def goes(call: str) -> None:
        if "DELETE" in call:
            threading.Timer(0.5, lambda: engine.containers.pop("desk-web")).start()

    engine.before = goes
    assert run(plan(memory="1g"))["changes"][0]["action"] == "recreate"


def test_without_its_network(engine: FakeEngine, run: Applied) -> None:
    """Nothing is removed for a container that could not be created."""
    run(plan())
    engine.networks.clear()
    assert "its network desk does not exist" in run(plan(memory="1g"))["msg"]
    assert engine.containers["desk-web"]["State"]["Running"]


def test_a_wave_is_applied_in_parallel(engine: FakeEngine, run: Applied) -> None:
    """Eight at a time, and told in the order of the plans."""
    creates = Gauge(wanted=8)
    engine.before = lambda call: creates(call) if "create" in call else None
    changes = run(*[plan(str(number), volumes=[]) for number in range(12)])["changes"]
    assert creates.most == 8 and [change["name"] for change in changes] == [f"desk-{number}" for number in range(12)]


def test_a_new_volume_is_filled_by_one_container(engine: FakeEngine, run: Applied) -> None:
    """Those that share one are created one by one; they start together."""
    creates, starts = Gauge(), Gauge(wanted=2)
    engine.before = lambda call: creates(call) if "create" in call else starts(call)
    assert len(run(*[plan(str(number)) for number in range(10)])["changes"]) == 10
    assert creates.most == 1 and starts.most >= 2


def test_a_person_reads_a_line_a_container(engine: FakeEngine, tmp_path: Path) -> None:
    """With what was done and why, also of those that worked beside one that failed."""
    task = {
        "name": "Create and update the containers",
        "quantops.ibkr_stack.container_apply": {"containers": [plan("a"), plan("b"), plan("c")], "labels": LABELS},
    }
    play = {"hosts": "one", "gather_facts": False, "tasks": [task]}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    (tmp_path / "hosts").write_text(
        'one ansible_connection=local ansible_python_interpreter="{{ ansible_playbook_python }}"'
    )

    def lines(*options: str, status: int = 0) -> list[str]:
        done = subprocess.run(
            ["ansible-playbook", "-i", str(tmp_path / "hosts"), str(tmp_path / "play.yml"), *options],
            cwd=REPOSITORY, env=ansible_environment(DOCKER_HOST=engine.address),
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        said = [line for line in done.stdout.splitlines() if re.match("  [✔✘]|    [^…]", line)]
        return [re.sub(r" \(\d+ s\)$", "", line) for line in said]

    made = [f"  ✔ Create desk-{name} (missing) [one]" for name in "abc"]
    assert lines("--check") == made and engine.containers == {}
    assert lines() == made and len(engine.containers) == 3
    assert lines() == []
    for name in "abc":
        engine.state(f"desk-{name}", status="exited")
    engine.refused[f"{engine.containers['desk-b']['Id']}/start"] = (500, {"message": "port is already allocated"})
    assert lines(status=2) == [
        "  ✔ Start desk-a (not running (exited)) [one]",
        "  ✔ Start desk-c (not running (exited)) [one]",
        "  ✘ Create and update the containers [one]",
        "    desk-b: port is already allocated",
    ]


@pytest.mark.parametrize(
    ("newest", "lowest", "chosen"), [("1.41", "1.12", "1.41"), ("1.52", "1.44", "1.44"), ("1.60", "1.50", "1.50")]
)
def test_the_version_is_agreed_upon(tmp_path: Path, newest: str, lowest: str, chosen: str) -> None:
    """The newest that both sides know, from Docker 20.10 on, and what an engine to come insists on."""
    with running(tmp_path / "engine.sock", version=newest, lowest=lowest) as engine:
        client = api.Engine(engine.address)
        assert client.find("images", "example/web:1") == {"Id": "sha256:web"} and client.version() == chosen
        assert engine.asked == ["GET /version", f"GET /v{chosen}/images/example/web:1/json"]


def test_an_engine_that_is_too_old(tmp_path: Path, run_module: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is named."""
    with running(tmp_path / "engine.sock", version="1.40") as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        outcome = run_module("container_apply", containers=[plan()])
    assert outcome.failed and "expected Docker 20.10 (1.41) or later" in outcome.result["msg"]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("tcp://10.0.0.1:2376", "DOCKER_HOST is 'tcp://10.0.0.1:2376', expected unix://"),
        ("unix:///nowhere/engine.sock", "no engine listens at /nowhere/engine.sock"),
    ],
)
def test_an_engine_that_cannot_be_asked(
    run_module: Run, monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    """Is said before anything else."""
    monkeypatch.setenv("DOCKER_HOST", address)
    outcome = run_module("container_apply", containers=[plan()])
    assert outcome.failed and said in outcome.result["msg"]


def test_an_engine_that_keeps_silent(tmp_path: Path) -> None:
    """Is given up, and said to be."""
    with running(tmp_path / "engine.sock") as engine:
        client = api.Engine(engine.address)
        client.version()
        engine.before = lambda call: time.sleep(2)
        with pytest.raises(api.EngineError, match="did not answer within 1 s"):
            client.call("DELETE", "/containers/web", timeout=1)


@pytest.mark.parametrize(
    ("text", "number"), [("128m", 2**27), ("1G", 2**30), ("64", 64), ("1.5k", 1536), ("2gb", 2**31)]
)
def test_sizes(text: str, number: int) -> None:
    """As Docker's client writes them."""
    assert sizes.size_in_bytes(text) == number


@pytest.mark.parametrize(
    ("text", "number"), [("5s", 5e9), ("1m30s", 90e9), ("500ms", 5e8), ("1.5s", 15e8), ("1h", 36e11)]
)
def test_durations(text: str, number: float) -> None:
    """As Docker's client writes them."""
    assert definition.in_nanoseconds(text) == number


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "fast"])
def test_no_duration(text: str) -> None:
    """Is refused before anything changes."""
    with pytest.raises(ValueError, match="is not a duration"):
        definition.in_nanoseconds(text)
