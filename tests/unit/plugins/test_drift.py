"""What differs from the declaration is found, told once, and told apart from what is somebody else's."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.convergence import prepared_databases
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.drift import drift_table, stack_drift, told
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.host_checks import host_drift
from collection_under_test import Run
from fake_engine import FakeEngine, running

LABEL = "quantops.stack"
PLAN = {
    "name": "desk-web",
    "spec": {
        "image": "example/web:1",
        "mounts": [
            {"type": "volume", "source": "desk-web-data", "target": "/data"},
            {"type": "bind", "source": "/etc/quantops/desk/web/config", "target": "/run/config"},
        ],
    },
}
HEALTHY_HOST = {
    "engine": {"answers": True, "error": "", "lost_rules": []},
    "networks": {"desk": ["10.1.0.0/24"]},
    "occupied": [],
    "python": {"error": ""},
    "address_here": True,
}
WANTED = {
    "network": "desk", "subnet": "10.1.0.0/24", "publish_address": "127.0.0.1", "packages": [], "late_address": False,
}  # fmt: skip


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An engine with the declared container, volume and network."""
    with running(tmp_path / "engine.sock") as found:
        monkeypatch.setenv("DOCKER_HOST", found.address)
        add(found, "desk-web", {LABEL: "desk"})
        found.volumes["desk-web-data"] = {"Name": "desk-web-data", "Labels": {LABEL: "desk"}}
        yield found


def add(engine: FakeEngine, name: str, labels: dict[str, str] | None = None, status: str = "running") -> None:
    """Create a container by hand."""
    restart = {"RestartPolicy": {"Name": "no"}}
    engine.add(name, {"Image": "example/web:1", "Labels": labels or {}, "HostConfig": restart})
    engine.state(name, status=status)


def left(run_module: Run, directory: Path, *paths: Path) -> list[tuple[str, str, str]]:
    """What the module finds."""
    outcome = run_module(
        "stack_leftovers", stack="desk", network="desk", directory=str(directory), declared=[copy.deepcopy(PLAN)],
        compared=["desk-web"], paths=[str(path) for path in paths],
    )  # fmt: skip
    assert not outcome.failed and not outcome.result["changed"], outcome.result
    return [(each["kind"], each["name"], each["difference"]) for each in outcome.result["found"]]


def test_nothing_is_left_over(run_module: Run, engine: FakeEngine, tmp_path: Path) -> None:
    """What is declared, what another stack has, and what only looks similar is not told of."""
    add(engine, "desk-two-web", {LABEL: "desk-two"})
    add(engine, "desktop")
    add(engine, "desk-airflow-import", {LABEL: "desk", "quantops.kind": "run"})
    engine.volumes["desk-two-data"] = {"Name": "desk-two-data", "Labels": {LABEL: "desk-two"}}
    assert left(run_module, tmp_path / "missing") == []
    assert engine.calls == []


def test_what_nobody_declared(run_module: Run, engine: FakeEngine, tmp_path: Path) -> None:
    """By label or by name, stopped or not; what a killed run left too."""
    add(engine, "probe", {LABEL: "desk"})
    add(engine, "desk-byhand", status="exited")
    add(engine, "desk-airflow-import", {LABEL: "desk", "quantops.kind": "run"}, status="exited")
    engine.volumes["desk-old"] = {"Name": "desk-old", "Labels": None}
    engine.networks["desk-more"] = "net-more"
    assert left(run_module, tmp_path / "missing") == [
        ("container", "desk-airflow-import", "not declared"),
        ("container", "desk-byhand", "not declared"),
        ("container", "probe", "not declared"),
        ("volume", "desk-old", "not declared"),
        ("network", "desk-more", "not declared"),
    ]  # fmt: skip


def test_files_that_nobody_declared(run_module: Run, engine: FakeEngine, tmp_path: Path) -> None:
    """Beside the declared directories, an undeclared directory once; the record of secrets is the stack's."""
    top = tmp_path / "desk"
    config = top / "web" / "config"
    config.mkdir(parents=True)
    (config / "web.conf").write_text("compared by config_tree")
    (top / "secrets.json").write_text("{}")
    (top / "rotations.log").write_text("2026-11-28 12:00 redis_backend_password\n")
    (top / "web" / "notes").write_text("")
    (top / "old" / "config").mkdir(parents=True)
    assert left(run_module, top, config) == [
        ("file", str(top / "old"), "not declared"),
        ("file", str(top / "web" / "notes"), "not declared"),
    ]


def test_images(run_module: Run, engine: FakeEngine, tmp_path: Path) -> None:
    """One that was built again under the same name, one that is missing, and what else was built."""
    engine.images["example/web:1"] = "sha256:newer"
    [(kind, name, text)] = left(run_module, tmp_path / "missing")
    assert (kind, name) == ("image", "example/web:1") and "desk-web" in text
    engine.images = {"example/web:2": "sha256:web"}
    assert left(run_module, tmp_path / "missing") == [
        ("image", "example/web:1", "missing; built from other definitions are example/web:2")
    ]


def test_lines_of_programs() -> None:
    """Only whole lines with the mark count, and a difference may hold tabs."""
    lines = ["CHANGED x", "DRIFT\tbucket\tcharts\tmissing", "DRIFT\tbroken", "DRIFT\tfile\ta\tb\tc", "a DRIFT\tx\ty\tz"]
    assert told(lines) == [
        {"kind": "bucket", "name": "charts", "difference": "missing"},
        {"kind": "file", "name": "a", "difference": "b\tc"},
    ]


def test_all_comparisons_together() -> None:
    """Each difference once, whoever found it."""
    states = {"desk-web": {"drift": ["paused", "CPU limit is 1, declared 2"]}, "desk-job": {"drift": []}}
    found = [{"kind": "volume", "name": "desk-old", "difference": "not declared"}]
    lines = ["DRIFT\tvolume\tdesk-old\tnot declared", "DRIFT\tdatabase\tmine\tnot declared"]
    differences = stack_drift(states, {"/etc/a": ["content differs"]}, found, lines, "/etc/secrets.json")
    assert [tuple(each.values()) for each in differences] == [
        ("container", "desk-web", "paused"),
        ("container", "desk-web", "CPU limit is 1, declared 2"),
        ("file", "/etc/a", "content differs"),
        ("file", "/etc/secrets.json", "not up to date"),
        ("volume", "desk-old", "not declared"),
        ("database", "mine", "not declared"),
    ]
    assert stack_drift({"desk-web": {"drift": []}}, {}, [], []) == []


@pytest.mark.parametrize(
    ("report", "wanted", "expected"),
    [
        ({}, {}, []),
        ({}, {"packages": ["docker-cli"]}, [("package", "docker-cli")]),
        ({"python": {"error": "ImportError"}}, {}, [("package", "python3-requests")]),
        ({"engine": {"answers": False, "error": "gone"}}, {}, [("engine", "docker")]),
        ({"engine": {"answers": True, "lost_rules": ["the chain DOCKER in nat"]}}, {}, [("firewall", "iptables")]),
        ({"networks": {}}, {}, [("network", "desk")]),
        ({"networks": {"desk": ["10.2.0.0/24"]}}, {}, [("network", "desk")]),
        ({"address_here": False}, {"publish_address": "10.9.9.9"}, [("address", "10.9.9.9")]),
        ({}, {"late_address": True}, [("setting", "net.ipv4.ip_nonlocal_bind")]),
    ],
)
def test_a_host(report: dict[str, Any], wanted: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """Engine, packages, firewall, network and addresses."""
    found = host_drift(HEALTHY_HOST | report, WANTED | wanted)
    assert [(each["kind"], each["name"]) for each in found] == expected


def test_a_table() -> None:
    """Hosts are named where there are several; a host that was not compared is never passed over."""
    difference = {"kind": "container", "name": "desk-web", "difference": "missing"}
    assert drift_table({"hosts": {"a": []}, "errors": {}}) == ["Nothing differs from the declaration."]
    error = {"a": "it cannot be reached"}
    assert drift_table({"hosts": {"a": []}, "errors": error}) == ["a was not compared: it cannot be reached"]
    assert drift_table({"hosts": {"a": [difference]}, "errors": {}}) == [
        "Kind       Name      Difference",
        "container  desk-web  missing",
    ]
    assert drift_table({"hosts": {"a": [difference], "b": []}, "errors": {"b": "it cannot be reached"}}) == [
        "Host  Kind       Name      Difference",
        "a     container  desk-web  missing",
        "b was not compared: it cannot be reached",
    ]


def test_databases_that_are_not_to_be_empty() -> None:
    """Those of services with a job, but for those that no job prepares."""
    contracts = {
        "desk": {"databases": {"desk": None, "mine": {"prepared": False}}, "containers": {"init": {"job": True}}},
        "plain": {"databases": {"plain": {}}, "containers": {"plain": {"job": False}}},
        "other": {"databases": {"other": {}}, "containers": {"init": {"job": True}}},
    }
    assert prepared_databases(contracts, ["desk", "plain"]) == ["desk"]
