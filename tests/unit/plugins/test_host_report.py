"""`host_report`: what the preflight knows of a host."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from collection_under_test import Run, plugin
from fake_engine import FakeEngine

report = plugin("modules.host_report")
network = plugin("module_utils.network")


def test_listeners_name_port_and_process() -> None:
    """A listening socket is found with its address and process; one that only connects is not."""
    with socket.create_server(("127.0.0.2", 0)) as server:
        port = str(server.getsockname()[1])
        with socket.create_connection(server.getsockname()) as client:
            found = network.listeners()
            [listener] = found[port]
            assert listener["address"] == "127.0.0.2" and f"(process {os.getpid()})" in listener["process"]
            assert str(client.getsockname()[1]) not in found
    assert port not in network.listeners()


def test_two_programs_at_one_port() -> None:
    """Each address of a port is told."""
    with socket.create_server(("127.0.0.2", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_server(("127.0.0.3", port)):
            assert {each["address"] for each in network.listeners()[str(port)]} == {"127.0.0.2", "127.0.0.3"}


def test_listeners_on_ipv6() -> None:
    """A port that is taken on IPv6 only is there, with its address."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        [listener] = network.listeners()[str(server.getsockname()[1])]
        assert listener["address"] == "::1"


@pytest.mark.parametrize(("both", "address"), [(True, "*"), (False, "::")])
def test_the_wildcard_of_ipv6(both: bool, address: str) -> None:
    """It takes the port of IPv4 too, unless the program says otherwise."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=both) as server:
        [listener] = network.listeners()[str(server.getsockname()[1])]
        assert listener["address"] == address


ROUTES = [
    {"dst": "default", "gateway": "10.0.0.1", "dev": "eth0"},
    {"dst": "128.0.0.0/1", "dev": "tun0"},
    {"dst": "172.29.64.0/22", "dev": "eth0"},
    {"type": "local", "dst": "172.29.64.9", "dev": "eth0", "table": "local"},
    {"type": "broadcast", "dst": "172.29.67.255", "dev": "eth0", "table": "local"},
    {"dst": "10.9.0.0/16", "dev": "wg0", "table": 51820},
    {"dst": "10.8.0.0/16", "nexthops": [{"dev": "eth1"}, {"dev": "eth2"}]},
    {"type": "blackhole", "dst": "10.7.0.0/16"},
    {"dst": "172.18.0.0/16", "dev": "br-0123456789ab"},
    {"dst": "172.19.0.0/16", "dev": "br-lan"},
]


@pytest.fixture
def host_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The routes above, a connection and two name servers."""
    program = tmp_path / "ip"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(ROUTES)}\nEND\n")
    program.chmod(0o755)
    monkeypatch.setattr(network, "SBIN", str(tmp_path))
    monkeypatch.setattr(network, "sockets", lambda state: [{"peer": "172.29.70.5"}, {"peer": "127.0.0.1"}])
    monkeypatch.setattr(network, "name_servers", lambda: ["172.29.70.53", "fe80::1%eth0", "10.0.0.2"])


@pytest.mark.parametrize(
    ("bridges", "more"), [(None, []), (set(), ["br-0123456789ab (route 172.18.0.0/16)"]), ({"br-0123456789ab"}, [])]
)
def test_what_a_host_reaches(host_network: None, bridges: set[str] | None, more: list[str]) -> None:
    """Routes of all tables but those to the whole Internet and to containers, and machines in the subnet."""
    assert [each["by"] for each in network.occupied(bridges, "172.29.70.0/24")] == [
        "eth0 (route 172.29.64.0/22)",
        "eth0 (address 172.29.64.9)",
        "wg0 (route 10.9.0.0/16 in table 51820)",
        "eth1 (route 10.8.0.0/16)",
        "blackhole (route 10.7.0.0/16)",
        *more,
        "br-lan (route 172.19.0.0/16)",
        "a connection with 172.29.70.5",
        "the name server 172.29.70.53",
    ]


def test_routes_without_ip(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's own table has the same subnets, on a host without iproute2."""
    with_ip = {each["subnet"] for each in network.routes() if (each["table"], each["type"]) == ("main", "unicast")}
    monkeypatch.setattr(network.shutil, "which", lambda *_, **__: None)
    without = {str(ipaddress.ip_network(each["subnet"])) for each in network.routes()}
    assert without == {str(ipaddress.ip_network(subnet)) for subnet in with_ip}


RULES = {
    "filter": "-P FORWARD DROP\n-N DOCKER\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n",
    "nat": "-P PREROUTING ACCEPT\n-N DOCKER\n",
}


@pytest.mark.parametrize(
    ("filter_rules", "nat_rules", "options", "info", "missing"),
    [
        (RULES["filter"], RULES["nat"], {}, {}, []),
        ("-P FORWARD ACCEPT", RULES["nat"], {}, {},
         ["the chain DOCKER in filter", "the rule of FORWARD to DOCKER-USER in filter"]),
        # iptables -F leaves the chains
        ("-N DOCKER\n-N DOCKER-USER", RULES["nat"], {}, {}, ["the rule of FORWARD to DOCKER-USER in filter"]),
        (RULES["filter"], "", {}, {}, ["the chain DOCKER in nat"]),
        ("", "", {"iptables": False}, {}, []),
        ("", "", {"iptables": "false"}, {}, []),
        ("", "", {}, {"FirewallBackend": {"Driver": "nftables"}}, []),
    ],
)  # fmt: skip
def test_lost_rules(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    filter_rules: str,
    nat_rules: str,
    options: dict[str, object],
    info: dict[str, object],
    missing: list[str],
) -> None:
    """What the engine made at its start is there, or is named; not if the engine leaves the firewall alone."""
    (tmp_path / "filter").write_text(filter_rules)
    (tmp_path / "nat").write_text(nat_rules)
    program = tmp_path / "iptables"
    program.write_text(f'#!/bin/sh\ncat {tmp_path}/"$4"\n')
    program.chmod(0o755)
    monkeypatch.setattr(network, "SBIN", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(network, "engine_process", lambda: "1")
    monkeypatch.setattr(network, "engine_options", lambda pid: options)
    assert network.lost_rules(info) == missing


def test_options_of_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the file that its command line names, and those of the command line itself."""
    (tmp_path / "daemon.json").write_text(json.dumps({"data-root": "/srv/docker", "iptables": True}))
    words = ["sleep-as-dockerd", f"--config-file={tmp_path}/daemon.json", "--iptables=false", ""]
    (tmp_path / "cmdline").write_text("\0".join(words))
    real = open

    def opened(path: str, *args: Any, **kwargs: Any) -> Any:
        return real(tmp_path / "cmdline" if path == "/proc/7/cmdline" else path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", opened)
    found = network.engine_options("7")
    assert (found["data-root"], found["iptables"]) == ("/srv/docker", "false")


def test_images_and_volumes_where_the_engine_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the engine's own root, and each file system once."""
    assert report.places({"DockerRootDir": str(tmp_path)}) == [str(tmp_path)]
    # Volumes on another file system, as /dev/shm is one.
    (tmp_path / "volumes").symlink_to("/dev/shm")
    assert report.places({"DockerRootDir": str(tmp_path)}) == [str(tmp_path), f"{tmp_path}/volumes"]


def test_root_of_an_engine_that_is_not_there_yet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its configuration may be."""
    monkeypatch.setattr(report, "engine_options", lambda: {"data-root": str(tmp_path)})
    assert report.places({}) == [str(tmp_path)]
    monkeypatch.setattr(report, "engine_options", dict)
    assert report.places({}) == ["/var/lib/docker"]


def test_directories_that_cannot_be_written(
    run_module: Run, fake_docker: Callable[[str], Path], tmp_path: Path
) -> None:
    """A place that even root cannot write; what is not there yet is made in its parent."""
    fake_docker("exit 1")
    wanted = [str(tmp_path / "a" / "b"), "/proc/sys/kernel/ostype/a"]
    assert run_module("host_report", writes=wanted).result["host"]["read_only"] == wanted[1:]


def test_python_that_cannot_import_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is told, and whether a package of Debian would help."""
    monkeypatch.setitem(sys.modules, "requests", None)
    monkeypatch.setattr(sys, "path", ["/usr/lib/python3/dist-packages"])
    found = report.python_report()
    assert "requests" in found["error"] and found["debian"] and found["executable"] == sys.executable
    monkeypatch.setattr(sys, "path", [])
    assert not report.python_report()["debian"]


def test_free_space_of_a_path_that_is_not_there_yet(tmp_path: Path) -> None:
    """The nearest existing directory counts."""
    assert report.free_mb(str(tmp_path / "a" / "b")) == pytest.approx(shutil.disk_usage(tmp_path).free // 2**20, abs=64)


def test_report(run_module: Run, engine: FakeEngine, fake_docker: Callable[[str], Path], tmp_path: Path) -> None:
    """Engine, the stack's own ports, networks, and the wanted files of volumes that exist."""
    fake_docker("exit 1")
    ports = [{"IP": "127.0.0.1", "PrivatePort": 80, "PublicPort": 18080, "Type": "tcp"}, {"PrivatePort": 81}]
    engine.containers["desk-web"] = {
        "Name": "/desk-web", "Config": {"Labels": {}}, "State": {"Running": True}, "Ports": ports,
    }  # fmt: skip
    engine.volumes["desk-postgres-data"] = {"Name": "desk-postgres-data", "Mountpoint": str(tmp_path)}
    engine.info = {"DockerRootDir": str(tmp_path)}
    (tmp_path / "pgdata").mkdir()
    (tmp_path / "pgdata" / "PG_VERSION").write_text("17\n")
    wanted = ["desk-postgres-data/pgdata/PG_VERSION", "desk-other/PG_VERSION", "desk-postgres-data/none"]
    outcome = run_module("host_report", volume_files=wanted)
    host = outcome.result["host"]
    assert not outcome.result["changed"]
    assert (host["engine"]["answers"], host["engine"]["version"]) == (True, "20.10.24")
    assert host["ports"]["18080"] == [{"address": "127.0.0.1", "container": "desk-web", "process": ""}]
    assert host["networks"] == {"desk": ["10.1.0.0/24"]}
    assert (host["volumes"], host["images"]) == (["desk-postgres-data"], ["example/web:1"])
    assert host["volume_files"] == {"desk-postgres-data/pgdata/PG_VERSION": "17"}
    assert host["memory_mb"] > 0 and host["disk_free_mb"][str(tmp_path)] > 0 and host["distribution"]


def test_report_without_an_engine(
    run_module: Run, fake_docker: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The reason is in the report, and nothing else is asked."""
    fake_docker("exit 1")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    host = run_module("host_report").result["host"]
    assert host["engine"]["answers"] is False and "no engine listens at" in host["engine"]["error"]
    assert (host["engine"]["denied"], host["networks"], host["volumes"]) == (False, {}, [])


def test_report_of_an_engine_that_refuses_the_user(
    run_module: Run, fake_docker: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may not use the socket is told so. Root may use any, so the refusal is made here."""
    fake_docker("exit 1")

    def refuse(*args: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(plugin("module_utils.engine_api").UnixConnection, "connect", refuse)
    engine = run_module("host_report").result["host"]["engine"]
    assert engine["denied"] and "root and members of the group docker may" in engine["error"]


def test_report_without_a_client(run_module: Run, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks need it: an engine alone is not enough."""
    monkeypatch.setattr(report.shutil, "which", lambda name, **options: None)
    assert run_module("host_report").result["host"]["engine"]["answers"] is False and engine.asked == []


@pytest.mark.parametrize(
    ("content", "persisted"),
    [
        ("# Made for\nnet.ipv4.ip_nonlocal_bind = 1\n", True),
        ("# net.ipv4.ip_nonlocal_bind = 1\n", False),
        (None, False),
    ],
)
def test_the_setting_for_a_late_address(run_module: Run, tmp_path: Path, content: str | None, persisted: bool) -> None:
    """By the stack's own file, since another stack's goes with that."""
    file = tmp_path / "60-quantops-desk.conf"
    if content is not None:
        file.write_text(content)
    found = run_module("host_report", late_address=str(file)).result["host"]["late_address"]
    now = Path("/proc/sys/net/ipv4/ip_nonlocal_bind").read_text().strip() == "1"
    assert found == {"persisted": persisted, "set": now}


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("0.0.0.0", True), ("127.0.0.1", True), ("127.9.9.9", True), ("", True), ("10.8.0.2", True), ("10.8.0.3", True),
        # A network, its broadcast address, one that is the beginning of another, and one of nobody.
        ("10.8.0.0", False), ("10.8.0.255", False), ("10.8.0.20", False), ("198.51.100.7", False),
    ],
)  # fmt: skip
def test_an_address_of_this_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str, here: bool) -> None:
    """By the kernel's table: on a host with net.ipv4.ip_nonlocal_bind a program may listen on any address."""
    table = tmp_path / "fib_trie"
    table.write_text(
        """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.8.0.0
        /24 link UNICAST
        /32 link BROADCAST
     |-- 10.8.0.2
        /32 host LOCAL
     |-- 10.8.0.3
        /30 link UNICAST
        /32 host LOCAL
     |-- 10.8.0.255
        /32 link BROADCAST
"""
    )
    monkeypatch.setattr(report, "LOCAL_ADDRESSES", str(table))
    # As with the setting: listening works everywhere.
    monkeypatch.setattr(report.socket.socket, "bind", lambda self, address: None)
    assert report.is_here(address) is here


def test_addresses_of_this_machine() -> None:
    """The real table: one that other machines reach, and one that is nobody's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        own = probe.getsockname()[0]
    assert report.is_here(own) and not report.is_here("192.0.2.1")


def test_files_that_are_no_container_s(run_module: Run, engine: FakeEngine, tmp_path: Path) -> None:
    """Directories of containers are known by what is in them; a directory that does not exist holds nothing."""
    config = tmp_path / "config"
    (config / "redis" / "secrets").mkdir(parents=True)
    (config / "backend" / "src").mkdir(parents=True)
    (config / ".hidden").write_text("")
    for directory, expected in ((config, [".hidden", "backend"]), (tmp_path / "nowhere", [])):
        assert run_module("host_report", config_dir=str(directory)).result["host"]["config_files"] == expected
