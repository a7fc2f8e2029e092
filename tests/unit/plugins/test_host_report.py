"""`host_report`: what the preflight knows of a host."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from collection_under_test import Run, plugin

report = plugin("modules.host_report")


def test_listeners_name_port_and_process() -> None:
    """A listening socket is found with its process; one that only connects is not."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        with socket.create_connection(server.getsockname()) as client:
            found = report.listeners()
            assert f"(process {os.getpid()})" in found[port]["process"]
            assert str(client.getsockname()[1]) not in found
    assert port not in report.listeners()


def test_listeners_on_ipv6() -> None:
    """A port that is taken on IPv6 only is taken."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        assert str(server.getsockname()[1]) in report.listeners()


def test_free_space_of_a_path_that_is_not_there_yet(tmp_path: Path) -> None:
    """The nearest existing directory counts."""
    assert report.free_mb(str(tmp_path / "a" / "b")) == pytest.approx(shutil.disk_usage(tmp_path).free // 2**20, abs=64)


ENGINE = """
case "$1 $2" in
"version --format") echo '{"Version": "28.0", "ApiVersion": "1.48"}' ;;
"ps --filter") echo desk-web ;;
"container inspect") cat INSPECT ;;
"network ls") echo desk ;;
"network inspect") echo '[{"Name": "desk", "IPAM": {"Config": [{"Subnet": "10.1.0.0/24"}]}}]' ;;
"volume ls") echo desk-postgres-data ;;
"volume inspect") echo '[{"Name": "desk-postgres-data", "Mountpoint": "MOUNT"}]' ;;
esac
"""


def test_report(run_module: Run, fake_docker: Callable[[str], Path], tmp_path: Path) -> None:
    """Engine, the stack's own ports, networks, and the wanted files of volumes that exist."""
    bindings = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18080"}], "81/tcp": None}
    (tmp_path / "inspect").write_text(json.dumps([{"Name": "/desk-web", "NetworkSettings": {"Ports": bindings}}]))
    (tmp_path / "pgdata").mkdir()
    (tmp_path / "pgdata" / "PG_VERSION").write_text("17\n")
    fake_docker(ENGINE.replace("INSPECT", str(tmp_path / "inspect")).replace("MOUNT", str(tmp_path)))
    wanted = ["desk-postgres-data/pgdata/PG_VERSION", "desk-other/PG_VERSION", "desk-postgres-data/none"]
    outcome = run_module("host_report", stack="desk", paths=["/"], volume_files=wanted)
    host = outcome.result["host"]
    assert not outcome.result["changed"]
    assert (host["engine"]["answers"], host["engine"]["version"]) == (True, "28.0")
    assert host["ports"]["18080"]["container"] == "desk-web"
    assert host["networks"] == {"desk": ["10.1.0.0/24"]}
    assert host["volume_files"] == {"desk-postgres-data/pgdata/PG_VERSION": "17"}
    assert host["memory_mb"] > 0 and host["disk_free_mb"]["/"] > 0 and host["distribution"]


def test_report_of_an_engine_that_does_not_answer(run_module: Run, fake_docker: Callable[[str], Path]) -> None:
    """What its client said is in the report, and nothing else is asked of it."""
    calls = fake_docker('echo "permission denied" >&2; exit 1')
    host = run_module("host_report", stack="desk").result["host"]
    assert host["engine"]["answers"] is False and host["engine"]["error"] == "permission denied"
    assert (host["networks"], host["volumes"]) == ({}, [])
    assert len(calls.read_text().splitlines()) == 1
