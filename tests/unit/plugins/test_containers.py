"""What the modules make of the engine's answers: drift, readiness, and an engine that does not answer."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from collection_under_test import Run, plugin
from fake_engine import FakeEngine

client = plugin("module_utils.engine")
engine_api = plugin("module_utils.engine_api")
state = plugin("modules.container_state")
waiting = plugin("modules.container_wait")

DECLARED: dict[str, Any] = {
    "name": "desk-web",
    "kind": "service",
    "hash": "abc",
    "limits": {"Memory": 2**29, "NanoCpus": 500_000_000, "PidsLimit": 512},
    "network": "desk",
}
ITEM: dict[str, Any] = {
    "Name": "/desk-web",
    "Id": "0123",
    "RestartCount": 0,
    "Config": {"Labels": {"quantops.hash": "abc"}, "Healthcheck": {"Test": ["CMD", "true"]}},
    "State": {
        "Status": "running",
        "Running": True,
        "Pid": 0,
        "ExitCode": 0,
        "OOMKilled": False,
        "Health": {"Status": "healthy"},
        "StartedAt": "2026-11-20T10:00:00.25Z",
    },
    "HostConfig": {
        "Memory": 2**29,
        "MemorySwap": 2**29,
        "NanoCpus": 500_000_000,
        "PidsLimit": 512,
        "CpuShares": 0,
        "CpusetCpus": "",
        "RestartPolicy": {"Name": "unless-stopped"},
    },
    "NetworkSettings": {"Networks": {"desk": {}}},
}


def item(**changes: Any) -> dict[str, Any]:
    """The engine's description with changes; ``State__Running=False`` reaches into a dictionary."""
    result = copy.deepcopy(ITEM)
    for key, value in changes.items():
        *above, last = key.split("__")
        place = result
        for name in above:
            place = place[name]
        place[last] = value
    return result


def test_no_drift() -> None:
    """A container as declared."""
    assert state.drift_of(DECLARED, ITEM) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"Config__Labels": {"quantops.hash": "old"}}, "image, settings, configuration or secrets changed"),
        ({"Config__Labels": None}, "image, settings, configuration or secrets changed"),
        ({"State__Running": False, "State__Status": "exited"}, "not running (exited)"),
        ({"State__Restarting": True, "State__Status": "restarting"}, "not running (restarting)"),
        ({"State__Paused": True}, "paused"),
        ({"HostConfig__Memory": 2**28}, "memory limit is 268435456, declared 536870912"),
        ({"HostConfig__MemorySwap": -1}, "limit of memory and swap is -1, declared 536870912"),
        ({"HostConfig__NanoCpus": 0}, "CPU limit is 0, declared 500000000"),
        ({"HostConfig__PidsLimit": None}, "process limit is 0, declared 512"),
        ({"HostConfig__RestartPolicy": {"Name": "no"}}, "restart policy is no"),
        (
            {"NetworkSettings__Networks": {"desk": {}, "bridge": {}}},
            "networks are ['bridge', 'desk'], declared ['desk']",
        ),
        ({"NetworkSettings__Networks": {}}, "networks are [], declared ['desk']"),
    ],
)
def test_drift_of_a_service(changes: dict[str, Any], sentence: str) -> None:
    """Each hand edit is found and named, alone."""
    assert state.drift_of(DECLARED, item(**changes)) == [sentence]


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ("1 image\n3 environment A", "changed: image"),
        ("2 image\n4 environment A", "changed: environment A"),
        ("2 image", "changed: environment A"),
        ("2 image\n3 environment A\n5 environment B", "changed: environment B"),
        ("1 image\n4 environment A\n5 mount /data", "changed: environment A, image, mount /data"),
        # After an upgrade, more than a person would read.
        (
            "\n".join(["1 image", "3 environment A", "4 mount /data", *(f"1 environment {each}" for each in range(9))]),
            "changed: environment (9 entries), image, mount /data",
        ),
        # What nothing names, as in a container of an earlier version.
        ("2 image\n3 environment A", "image, settings, configuration or secrets changed"),
        ("", "image, settings, configuration or secrets changed"),
    ],
)
def test_drift_names_the_parts_that_changed(parts: str, sentence: str) -> None:
    """Changed, removed and added ones; the generic words where no part explains the hash."""
    declared = {**DECLARED, "parts": "2 image\n3 environment A"}
    made = item(Config__Labels={"quantops.hash": "old", "quantops.parts": parts})
    assert state.drift_of(declared, made) == [sentence]


@pytest.mark.parametrize(
    ("label", "protected"), [({"quantops.protect": "true"}, True), ({"quantops.protect": "false"}, False), ({}, False)]
)
def test_container_state_reads_the_protection(
    run_module: Run, engine: FakeEngine, label: dict[str, str], protected: bool
) -> None:
    """That of the container, whatever the declaration says of it now."""
    answer(engine, [item(Config__Labels={"quantops.hash": "abc", **label})])
    result = run_module("container_state", containers=[{**DECLARED, "prevent_recreate": not protected}]).result
    assert result["containers"]["desk-web"]["protected"] is protected


@pytest.mark.parametrize(("key", "value"), [("CpuShares", 512), ("CpusetCpus", "0"), ("MemoryReservation", 2**20)])
def test_what_no_declaration_has(key: str, value: Any) -> None:
    """`docker update` can set more than is declared; only a new container is without it."""
    assert state.undeclared(DECLARED, ITEM, []) == []
    assert state.undeclared(DECLARED, item(**{f"HostConfig__{key}": value}), []) == [f"{key} is {value}, not declared"]


def test_declared_shares_of_the_processor() -> None:
    """They are what the engine has, or are set again; without a declaration there are none."""
    declared = {**DECLARED, "limits": {**DECLARED["limits"], "CpuShares": 102}}
    made = item(HostConfig__CpuShares=102)
    assert state.drift_of(declared, made) == [] == state.undeclared(declared, made, [])
    assert state.drift_of(declared, ITEM) == ["CPU weight is 0, declared 102"]


@pytest.mark.parametrize(
    ("written", "found"), [(0.2, []), (0.3, ["configuration or secrets were written after its start"])]
)
def test_a_file_that_was_healed_after_the_start(tmp_path: Path, written: float, found: list[str]) -> None:
    """The program read the file that someone edited: what it read is not what stands there now."""
    file = tmp_path / "web.conf"
    file.write_text("listen 80\n")
    moment = 1795168800 + written  # 10:00:00 on 2026-11-20
    os.utime(file, (moment, moment))
    mounted = item(Mounts=[{"Source": str(tmp_path), "Destination": "/run/config"}])
    assert state.undeclared(DECLARED, mounted, []) == found
    assert state.undeclared({**DECLARED, "kind": "job"}, mounted, []) == []
    # In check mode nothing is written yet.
    assert bool(state.undeclared(DECLARED, mounted, [f"{tmp_path}/web.conf"]))
    assert state.undeclared(DECLARED, mounted, [f"{tmp_path}-other/web.conf"]) == found


@pytest.mark.parametrize(
    ("changes", "drift"),
    [
        ({"State__Running": False, "State__Status": "exited"}, []),
        ({"State__Running": True}, []),
        (
            {"State__Running": False, "State__ExitCode": 3, "State__Status": "exited"},
            ["its last run failed (status 3)"],
        ),
        ({"State__Running": False, "State__Status": "created"}, ["its last run failed (status 0)"]),
    ],
)
def test_drift_of_a_job(changes: dict[str, Any], drift: list[str]) -> None:
    """A job is done when it ended with 0, runs again when it failed, and is never doubled."""
    assert state.drift_of({**DECLARED, "kind": "job"}, item(**changes)) == drift


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("ready", "")),
        ({"State__Status": "exited", "State__ExitCode": 1}, ("failed", "ended with status 1")),
        (
            {"State__Status": "exited", "State__ExitCode": 137, "State__OOMKilled": True},
            ("failed", "ended with status 137 (out of memory)"),
        ),
        ({"RestartCount": 3, "State__ExitCode": 2}, ("failed", "keeps restarting (3 times), the last status was 2")),
        (
            {"State__Status": "exited", "State__ExitCode": 128, "State__Error": "cannot assign\nrequested address"},
            ("failed", "ended with status 128 (cannot assign requested address)"),
        ),
        ({"State__Running": False, "State__Status": "created"}, ("waiting", "created")),
    ],
)
def test_verdict_of_a_service(changes: dict[str, Any], expected: tuple[str, str]) -> None:
    """Healthy is ready; one that ended or keeps restarting will not come up by waiting."""
    assert waiting.verdict("desk-web", item(**changes)) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("waiting", "still at work")),
        ({"State__Running": False, "State__Status": "created"}, ("waiting", "still at work")),
        ({"State__Running": False, "State__Status": "exited"}, ("ready", "")),
        ({"State__Running": False, "State__Status": "exited", "State__ExitCode": 4}, ("failed", "ended with status 4")),
    ],
)
def test_verdict_of_a_job(changes: dict[str, Any], expected: tuple[str, str]) -> None:
    """A job is ready when it ended with 0."""
    assert waiting.verdict("desk-web", item(HostConfig__RestartPolicy={"Name": "no"}, **changes)) == expected


@pytest.mark.parametrize(("before", "now", "expected"), [(0, 2, "ready"), (5, 7, "ready"), (5, 8, "failed")])
def test_only_restarts_during_the_wait_count(before: int, now: int, expected: str) -> None:
    """The engine counts over a container's whole life."""
    assert waiting.verdict("desk-web", item(RestartCount=now), before)[0] == expected


def test_container_wait_accepts_one_that_was_restarted_long_ago(run_module: Run, engine: FakeEngine) -> None:
    """A healthy container is ready, however often it was restarted before; the next slice is told the first count."""
    answer(engine, [item(RestartCount=12)])
    assert run_module("container_wait", names=["desk-web"]).result["restarts"] == {"desk-web": 12}
    answer(engine, [item(RestartCount=12, State__ExitCode=3)])
    outcome = run_module("container_wait", names=["desk-web"], restarts={"desk-web": 9})
    assert outcome.failed and "keeps restarting (3 times), the last status was 3" in outcome.result["msg"]
    # Started by hand since: the engine counts from 0 again.
    answer(engine, [item(RestartCount=1)])
    assert run_module("container_wait", names=["desk-web"], restarts={"desk-web": 9}).result["restarts"] == {
        "desk-web": 1
    }


def test_verdict_of_nothing() -> None:
    """A container that is gone is a failure at once."""
    assert waiting.verdict("desk-web", None) == ("failed", "the container does not exist")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("exit 0", ("ready", "")),
        ("echo refused; exit 1", ("waiting", "refused")),
        ("exit 1", ("waiting", "its health check fails without a word")),
    ],
)
def test_a_starting_service_is_asked_at_once(
    fake_docker: Callable[[str], Path], body: str, expected: tuple[str, str]
) -> None:
    """Nobody waits for the engine's next interval: its own probe is run, in a shell where it asks for one."""
    calls = fake_docker(body)
    test = {"Test": ["CMD-SHELL", "test -e /ready"]}
    starting = item(State__Health={"Status": "starting"}, Config__Healthcheck=test)
    assert waiting.verdict("desk-web", starting) == expected
    assert calls.read_text().strip() == "exec desk-web sh -c test -e /ready"


def answer(engine: FakeEngine, items: list[dict[str, Any]]) -> None:
    """Give the engine these containers and no others."""
    engine.containers = {each["Name"].lstrip("/"): each for each in items}


def test_inspect_leaves_out_what_does_not_exist(engine: FakeEngine) -> None:
    """A missing container is no error, and nothing is asked for nothing."""
    answer(engine, [ITEM])
    assert list(engine_api.Engine().inspect(["desk-web", "desk-db"])) == ["desk-web"]
    engine.asked.clear()
    assert engine_api.Engine().inspect([]) == {} and engine.asked == []


def test_inspect_fails_when_the_engine_does_not_answer(engine: FakeEngine) -> None:
    """An engine that is away is never taken for an empty one."""
    engine.refused["GET /containers"] = (500, {"message": "the daemon is shutting down"})
    with pytest.raises(engine_api.EngineError, match="shutting down"):
        engine_api.Engine().inspect(["desk-web"])


def test_no_client_and_a_hanging_client(
    fake_docker: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both are reported in words."""
    fake_docker("exec sleep 5")
    assert client.docker("version", timeout=0.2) == (124, "", "docker version did not answer within 0 s")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert client.docker("version") == (127, "", "there is no docker client on this host")


def test_container_state_reports(run_module: Run, engine: FakeEngine) -> None:
    """What exists and what drifted, without changing anything; in check mode drift is a change."""
    answer(engine, [ITEM])
    declared = [DECLARED, {**DECLARED, "name": "desk-db"}]
    result = run_module("container_state", containers=declared).result
    assert not result["changed"]
    assert result["containers"]["desk-web"]["ready"] and result["containers"]["desk-web"]["drift"] == []
    absent = result["containers"]["desk-db"]
    assert (absent["drift"], absent["exists"], absent["ready"]) == (["missing"], False, False)
    assert run_module("container_state", check=True, containers=declared).result["changed"]


@pytest.mark.parametrize(
    ("status", "hung", "ready"),
    [(0, False, True), (1, True, False), (22, False, False), (124, True, False)],
)
def test_container_state_asks_what_the_engine_gave_up(
    run_module: Run, engine: FakeEngine, fake_docker: Callable[[str], Path], status: int, hung: bool, ready: bool
) -> None:
    """One that answers now is as declared, one that answers and is not ready is awaited, one that hangs is drift."""
    answer(engine, [item(State__Health={"Status": "unhealthy"})])
    fake_docker(f"exit {status}")
    found = run_module("container_state", containers=[{**DECLARED, "alive": [22]}]).result["containers"]["desk-web"]
    assert (found["hung"], found["ready"]) == (hung, ready)
    assert found["drift"] == (["does not answer its health check"] if hung else [])
    assert not found["remake"]


def test_container_state_is_patient(
    run_module: Run, engine: FakeEngine, fake_docker: Callable[[str], Path], tmp_path: Path
) -> None:
    """What it needs may have come back a moment ago."""
    second = f"test -e {tmp_path}/asked; status=$?; touch {tmp_path}/asked; exit $status"
    answer(engine, [item(State__Health={"Status": "unhealthy"})])
    fake_docker(second)
    result = run_module("container_state", containers=[DECLARED], patience=10).result
    assert result["containers"]["desk-web"]["ready"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"State__Health": {"Status": "starting"}},
        {"State__Health": {"Status": "unhealthy"}, "State__Paused": True},
        {"State__Health": {"Status": "unhealthy"}, "State__Running": False, "State__Status": "exited"},
    ],
)
def test_container_state_asks_nobody_else(
    run_module: Run, engine: FakeEngine, fake_docker: Callable[[str], Path], changes: dict[str, Any]
) -> None:
    """A healthy, starting, paused or stopped container is not asked, and does not hang."""
    answer(engine, [item(**changes)])
    calls = fake_docker("exit 1")
    assert run_module("container_state", containers=[DECLARED]).result["containers"]["desk-web"]["hung"] is False
    assert not calls.exists()


def test_container_state_without_an_engine(run_module: Run, engine: FakeEngine) -> None:
    """An error in a run; in check mode, a fresh host on which all would be made."""
    engine.refused["GET /containers"] = (500, {"message": "the daemon is shutting down"})
    outcome = run_module("container_state", containers=[DECLARED])
    assert outcome.failed and "shutting down" in outcome.result["msg"]
    looked = run_module("container_state", check=True, containers=[DECLARED]).result
    assert looked["containers"]["desk-web"]["drift"] == ["missing"]


def test_container_wait_fails_with_the_log(
    run_module: Run, engine: FakeEngine, fake_docker: Callable[[str], Path]
) -> None:
    """The name, the reason and the last lines of the log."""
    ended = item(State__Status="exited", State__Running=False, State__ExitCode=1)
    answer(engine, [ended])
    fake_docker('case $1 in logs) echo "no such table: job";; esac')
    outcome = run_module("container_wait", names=["desk-web"])
    assert outcome.failed
    assert "desk-web: ended with status 1" in outcome.result["msg"] and "no such table: job" in outcome.result["msg"]


def test_container_wait_ends_its_slice_and_its_time(
    run_module: Run, engine: FakeEngine, fake_docker: Callable[[str], Path]
) -> None:
    """A slice says what is awaited; the last one fails with what the health check said."""
    starting = item(State__Health={"Status": "starting"})
    answer(engine, [starting])
    fake_docker('case $1 in exec) echo "connection refused"; exit 7;; esac')
    result = run_module("container_wait", names=["desk-web"], slice=1).result
    assert result["waiting"] == ["desk-web"] and result["progress"] == "0 of 1 ready, waiting for desk-web"
    outcome = run_module("container_wait", names=["desk-web"], slice=1, final=True)
    assert outcome.failed and "not ready in time: connection refused" in outcome.result["msg"]


def test_container_wait_is_done(run_module: Run, engine: FakeEngine) -> None:
    """Nothing is awaited when all are healthy."""
    answer(engine, [ITEM])
    assert run_module("container_wait", names=["desk-web"]).result["waiting"] == []


@pytest.mark.parametrize(("free", "full"), [(15, True), (16, False)])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, full: bool) -> None:
    """Volumes on one file system are one line; a directory of the host is none of them."""
    status = plugin("modules.stack_status")
    blocks = os.statvfs_result((4096, 4096, 1024 * 256, free * 256, free * 256, 0, 0, 0, 0, 255))
    monkeypatch.setattr(status.os, "statvfs", lambda path: blocks)
    mounts = [{"Type": "volume", "Name": name, "Source": str(tmp_path)} for name in ("desk-b", "desk-a")]
    bind = {"Type": "bind", "Source": "/etc"}
    [disk] = status.disks_of({"desk-web": item(Mounts=[*mounts, bind]), "desk-none": item(Mounts=None)})
    assert disk == {"volumes": ["desk-a", "desk-b"], "free_mb": free, "size_mb": 1024, "full": full}


def test_memory_that_the_engine_does_not_know(fake_docker: Callable[[str], Path]) -> None:
    """An engine that cannot read control groups says 0 of every container: that is no figure."""
    fake_docker(
        """echo '{"Name": "desk-a", "MemUsage": "1.5GiB / 2GiB"}'; echo '{"Name": "desk-b", "MemUsage": "0B / 0B"}'"""
    )
    assert plugin("modules.stack_status").memory_in_use(["desk-a", "desk-b"]) == {"desk-a": 1536}


USAGE = """
12 100 connections
echo of something else
9437184 10485760 bytes of memory
9 10 slots of the queue
3 0 keys
"""


def status_of(
    run_module: Run,
    engine: FakeEngine,
    fake_docker: Callable[[str], Path],
    tmp_path: Path,
    body: str,
    **changes: Any,
) -> dict[str, Any]:
    """The status of one container whose usage command is this shell script."""
    described = item(Config__Image="web:1", **changes)
    described["Config"]["Labels"]["quantops.stack"] = "desk"
    answer(engine, [described])
    (tmp_path / "printed").write_text(USAGE)
    fake_docker(f"case $1 in exec) {body};; esac")
    return run_module("stack_status", stack="desk", usage={"web": ["usage", "--all"]}).result


def test_status_shows_what_a_container_says_is_wrong(
    run_module: Run, engine: FakeEngine, fake_docker: Callable[[str], Path], tmp_path: Path
) -> None:
    """Above all figures, and without any too."""
    body = "echo 'ALERT missed backups: one was due'; echo '3 0 backups'"
    result = status_of(run_module, engine, fake_docker, tmp_path, body)
    assert result["alerts"] == ["desk-web: missed backups: one was due"]
    said = [line for line in result["lines"] if "backups" in line]
    assert said == ["ALERT: desk-web: missed backups: one was due", "desk-web: 3 backups"]
    result = status_of(run_module, engine, fake_docker, tmp_path, "echo 'ALERT nothing is there'")
    assert result["alerts"] == ["desk-web: nothing is there"]
    assert not any("does not say" in line for line in result["lines"])


def test_status_shows_usage(
    run_module: Run, engine: FakeEngine, fake_docker: Callable[[str], Path], tmp_path: Path
) -> None:
    """Each figure of a service against its limit; those from 90 % on are marked."""
    result = status_of(run_module, engine, fake_docker, tmp_path, f"cat {tmp_path}/printed")
    assert "exec desk-web usage --all" in (tmp_path / "docker-calls").read_text().splitlines()
    assert [(one["used"], one["limit"], one["name"], one["nearly_full"]) for one in result["usage"]["desk-web"]] == [
        (12, 100, "connections", False),
        (9437184, 10485760, "bytes of memory", True),
        (9, 10, "slots of the queue", True),
        (3, 0, "keys", False),
    ]
    assert [line for line in result["lines"] if "desk-web uses" in line or "keys" in line] == [
        "desk-web uses 12 of 100 connections (12 %)",
        "NEARLY FULL: desk-web uses 9 of 10 MiB of memory (90 %)",
        "NEARLY FULL: desk-web uses 9 of 10 slots of the queue (90 %)",
        "desk-web: 3 keys",
    ]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo 12 100 connections; echo too many clients >&2; exit 2", "too many clients"),
        ("exit 3", "its command ended with status 3 and no figures"),
        ("echo a hundred connections", "a hundred connections"),
    ],
)
def test_status_without_usage(
    run_module: Run, engine: FakeEngine, fake_docker: Callable[[str], Path], tmp_path: Path, body: str, reason: str
) -> None:
    """A service that gives no figures is named with the reason; its container is shown all the same."""
    result = status_of(run_module, engine, fake_docker, tmp_path, body)
    assert result["usage"]["desk-web"] == []
    assert f"desk-web does not say what it uses: {reason}" in result["lines"]
    assert result["containers"]["desk-web"]["health"] == "healthy"


def test_status_of_a_container_that_has_nothing_to_tell(
    run_module: Run, engine: FakeEngine, fake_docker: Callable[[str], Path], tmp_path: Path
) -> None:
    """One that tells only what is wrong, while all is well."""
    result = status_of(run_module, engine, fake_docker, tmp_path, "true")
    assert result["usage"]["desk-web"] == [] and result["alerts"] == []
    assert not [line for line in result["lines"] if "does not say" in line]


def test_status_says_why_a_container_ended(
    run_module: Run, engine: FakeEngine, fake_docker: Callable[[str], Path], tmp_path: Path
) -> None:
    """The engine's own words, where it could not start a container at all."""
    error = (
        "driver failed programming external connectivity: listen tcp4 10.8.0.2:9000: cannot assign requested address"
    )
    ended = {"State__Status": "exited", "State__Running": False, "State__ExitCode": 128, "State__Error": error}
    result = status_of(run_module, engine, fake_docker, tmp_path, "true", **ended)
    assert f"desk-web ended with status 128 ({error})" in result["lines"]
    assert result["containers"]["desk-web"]["error"] == error
    # The engine keeps the text of an earlier start.
    result = status_of(run_module, engine, fake_docker, tmp_path, "true", State__Error=error)
    assert not [line for line in result["lines"] if error in line]
