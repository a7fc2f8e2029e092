"""What an upgrade shows and decides, and the record that its way back is made from."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.upgrades import upgrade_lines, upgrade_way_back
from collection_under_test import Run
from fake_engine import FakeEngine

LABEL = "quantops.stack"


def plan(name: str, service: str, kind: str = "service", kept: bool = False) -> dict[str, Any]:
    """A plan with what the lines are about."""
    return {"name": name, "service": service, "kind": kind, "prevent_recreate": kept}


def test_what_changes() -> None:
    states = {
        "desk-postgres": {"drift": ["image changed"], "exists": True},
        "desk-mlflow": {"drift": ["image changed", "memory changed"], "exists": True},
        "desk-mlflow-upgrade": {"drift": ["image changed"], "exists": True},
        "desk-gateway": {"drift": ["image changed"], "exists": True},
        "desk-new": {"drift": ["missing"], "exists": False},
        "desk-airflow-apiserver": {"drift": ["image changed"], "exists": True},
        "desk-redis": {"drift": [], "exists": True},
    }
    plans = [
        plan("desk-postgres", "postgres"),
        plan("desk-mlflow", "mlflow"),
        plan("desk-mlflow-upgrade", "mlflow", "job"),
        plan("desk-gateway", "gateway", kept=True),
        plan("desk-new", "new"),
        plan("desk-airflow-apiserver", "airflow-apiserver"),
        plan("desk-redis", "redis"),
    ]
    running = {"desk-postgres": {"version": "17.6"}, "desk-mlflow": {"version": "3.17.2"}}
    printed = {"desk-postgres": "postgres (PostgreSQL) 17.7 (Debian 17.7-1)", "desk-mlflow": "3.17.2\n"}
    contracts = {
        "postgres": {"active": True, "needs": [], "containers": ["postgres"]},
        "redis": {"active": True, "needs": [], "containers": ["redis"]},
        "mlflow": {"active": True, "needs": ["postgres"], "containers": ["mlflow", "mlflow-upgrade"]},
        "gateway": {"active": True, "needs": [], "containers": ["gateway"]},
        "airflow": {"active": True, "needs": [], "containers": ["airflow-apiserver"]},
        "new": {"active": True, "needs": ["airflow"], "containers": ["new"]},
        "notebook": {"active": False, "needs": ["postgres"], "containers": ["notebook"]},
    }
    assert upgrade_lines(states, plans, running, printed, contracts, ["desk-old"]) == [
        "Version of desk-postgres: 17.6 → 17.7",
        "Recreated: desk-postgres (image changed)",
        "Recreated: desk-mlflow (image changed; memory changed)",
        "Recreated: desk-airflow-apiserver (image changed)",
        "Not recreated, to keep its session: desk-gateway (image changed)",
        "New: desk-new",
        "Removed: desk-old",
        "Run again, with the migrations of databases: desk-mlflow-upgrade",
        "Interrupted until it runs again: airflow, postgres, and mlflow, new, which need it",
    ]
    assert upgrade_lines({"desk-redis": states["desk-redis"]}, plans[-1:], running, {}, contracts) == []


@pytest.mark.parametrize(
    ("now", "mode", "why"),
    [
        ({"mlflow": "a1", "airflow": "c1"}, "auto", ""),
        ({"mlflow": "b2", "airflow": "c1"}, "auto", "these databases were migrated: mlflow (a1 → b2)"),
        ({"mlflow": "a1"}, "auto", "these databases were migrated: airflow (c1 → none)"),
        ({}, "auto", "the databases cannot be asked how far they were migrated"),
        ({"mlflow": "b2"}, "keep", ""),
        ({"mlflow": "a1", "airflow": "c1"}, "backup", "it was asked for"),
    ],
)
def test_whose_data(now: dict[str, str], mode: str, why: str) -> None:
    assert upgrade_way_back({"mlflow": "a1", "airflow": "c1"}, now, mode) == why


# ---- the record


def add(engine: FakeEngine, name: str, kind: str = "service", **host: Any) -> None:
    """A container of the stack."""
    engine.add(
        name,
        {
            "Image": "example/web:1",
            "Env": ["A=1"],
            "Labels": {LABEL: "desk", "quantops.kind": kind},
            "HostConfig": {"RestartPolicy": {"Name": "no"}, "NetworkMode": "desk", **host},
            "NetworkingConfig": {"EndpointsConfig": {"desk": {"Aliases": [name]}}},
        },
    )
    engine.state(name, StartedAt="2026-11-28T02:00:00Z")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The configuration of a stack."""
    top = tmp_path / "desk"
    (top / "web" / "config" / "deep").mkdir(parents=True)
    (top / "web" / "config" / "deep" / "web.conf").write_text("old")
    os.utime(top / "web" / "config" / "deep" / "web.conf", (10**9, 10**9))
    (top / "secrets.json").write_text("{}")
    return top


def snapshot(run_module: Run, directory: Path, state: str, check: bool = False, **more: Any) -> Any:
    """Run the module."""
    return run_module("container_snapshot", check=check, stack="desk", directory=str(directory), state=state, **more)


def test_the_way_back(run_module: Run, engine: FakeEngine, directory: Path) -> None:
    """What is other than recorded goes, what is recorded comes back, what is the same stays; with the old files."""
    add(engine, "desk-web", Memory=64)
    add(engine, "desk-db")
    add(engine, "desk-migrate", kind="job")
    add(engine, "other")
    engine.containers["other"]["Config"]["Labels"] = {LABEL: "other"}
    saved = snapshot(run_module, directory, "saved", about={"backup": "b1"})
    assert not saved.failed and saved.result["pending"]
    record = directory / "previous" / "containers.json"
    assert record.stat().st_mode & 0o777 == 0o600 and record.parent.stat().st_mode & 0o777 == 0o700

    for name in ("desk-web", "desk-migrate"):
        del engine.containers[name]
    add(engine, "desk-web", Memory=128)
    add(engine, "desk-more")
    web = directory / "web" / "config"
    inode = web.stat().st_ino
    (web / "deep" / "web.conf").write_text("new")
    (web / "extra.conf").write_text("new")
    (web / "extra").mkdir()
    (directory / "more" / "config").mkdir(parents=True)
    (directory / "secrets.json").write_text("newer")

    seen = snapshot(run_module, directory, "present")
    assert not seen.result["changed"] and seen.result["about"] == {"backup": "b1"}
    assert seen.result["created"] == ["desk-migrate", "desk-web"]
    assert seen.result["removed"] == ["desk-more", "desk-web"]
    before = len(engine.calls)
    assert snapshot(run_module, directory, "restored", check=True).result["changed"]
    assert len(engine.calls) == before and (web / "extra.conf").exists()

    back = snapshot(run_module, directory, "restored")
    assert not back.failed, back.result
    assert back.result["changed"] and back.result["jobs"] == ["desk-migrate"] and not back.result["pending"]
    assert set(engine.containers) == {"desk-web", "desk-db", "desk-migrate", "other"}
    web_now = engine.containers["desk-web"]
    assert web_now["HostConfig"]["Memory"] == 64 and web_now["Config"]["Env"] == ["A=1"]
    assert web_now["NetworkSettings"]["Networks"]["desk"]["Aliases"] == ["desk-web"]
    # Containers that stay have the directory mounted, and a file that looks newer would count as changed.
    assert web.stat().st_ino == inode
    assert (web / "deep" / "web.conf").read_text() == "old" and (web / "deep" / "web.conf").stat().st_mtime == 10**9
    assert not (web / "extra.conf").exists() and not (web / "extra").exists() and not (directory / "more").exists()
    assert (directory / "secrets.json").read_text() == "newer"
    assert not snapshot(run_module, directory, "restored").result["changed"]


def test_an_upgrade_that_has_ended(run_module: Run, engine: FakeEngine, directory: Path) -> None:
    add(engine, "desk-web")
    snapshot(run_module, directory, "saved")
    ended = snapshot(run_module, directory, "ended")
    assert ended.result["changed"] and not ended.result["pending"]
    assert not snapshot(run_module, directory, "ended").result["changed"]


def test_a_record_is_whole_while_an_earlier_one_is_removed(
    run_module: Run, engine: FakeEngine, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks, or goes on after a run that was killed there, finds one of the two."""
    add(engine, "desk-web")
    snapshot(run_module, directory, "saved", about={"backup": "one"})
    snapshot(run_module, directory, "ended")
    remove, seen = shutil.rmtree, []

    def watched(path: str, **options: Any) -> None:
        remove(path, **options)
        found = snapshot(run_module, directory, "present")
        seen.append(found.result["msg"] if found.failed else found.result["about"]["backup"])

    monkeypatch.setattr(shutil, "rmtree", watched)
    snapshot(run_module, directory, "saved", about={"backup": "two"})
    assert seen and set(seen) <= {"one", "two"}
    assert sorted(each.name for each in directory.iterdir() if each.name.startswith("previous")) == ["previous"]


def test_images_that_are_gone(run_module: Run, engine: FakeEngine, directory: Path) -> None:
    """Nothing is removed before everything that is needed is there."""
    add(engine, "desk-web")
    snapshot(run_module, directory, "saved")
    engine.images = {"example/web:1": "sha256:other"}
    outcome = snapshot(run_module, directory, "restored")
    assert outcome.failed
    assert "The image example/web:1 of desk-web is another image by now." in outcome.result["msg"]
    engine.images = {}
    outcome = snapshot(run_module, directory, "restored")
    assert outcome.failed and "is not on this host any more" in outcome.result["msg"]
    assert "desk-web" in engine.containers


def test_no_record(run_module: Run, engine: FakeEngine, directory: Path) -> None:
    outcome = snapshot(run_module, directory, "restored")
    assert outcome.failed and "There is no record of an earlier state of desk" in outcome.result["msg"]
    outcome = snapshot(run_module, directory, "saved")
    assert outcome.failed and "This host has no containers of desk" in outcome.result["msg"]
    (directory / "previous").mkdir()
    record = directory / "previous" / "containers.json"
    record.write_text(json.dumps({"format": 1, "stack": "other"}))
    outcome = snapshot(run_module, directory, "present")
    assert outcome.failed and "is not a record of desk" in outcome.result["msg"]
    record.write_text("{")
    assert "cannot be read" in snapshot(run_module, directory, "present").result["msg"]
