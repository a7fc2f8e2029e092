"""Addresses and keys of the hosts' own network, and what is open to whom."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from collection_under_test import plugin

mesh = plugin("plugin_utils.mesh")

SUBNET = "172.28.64.0/24"


def addresses(directory: Path, hosts: list[str], subnet: str = SUBNET) -> dict[str, str]:
    """Host to its address, with records kept."""
    return {host: member.address for host, member in mesh.keep(str(directory), subnet, hosts, write=True)[0].items()}


# ---- addresses and keys


def test_addresses_stay_when_hosts_come_and_go(tmp_path: Path) -> None:
    """A host that left may come back, so nobody else is given its address."""
    assert addresses(tmp_path, ["b", "d"]) == {"b": "172.28.64.1", "d": "172.28.64.2"}
    assert addresses(tmp_path, ["a", "b", "d"]) == {"a": "172.28.64.3", "b": "172.28.64.1", "d": "172.28.64.2"}
    assert addresses(tmp_path, ["a", "c", "d"]) == {"a": "172.28.64.3", "c": "172.28.64.4", "d": "172.28.64.2"}
    assert addresses(tmp_path, ["b"]) == {"b": "172.28.64.1"}


def test_what_is_foreseen_is_what_is_kept(tmp_path: Path) -> None:
    """Check mode, and the first play of a run, know the addresses before they are written."""
    addresses(tmp_path, ["data"])
    hosts = ["data", "services", "worker"]
    recorded = {host: member.address for host, member in mesh.members(str(tmp_path)).items()}
    foreseen = mesh.allocate(SUBNET, recorded, hosts)
    assert mesh.keep(str(tmp_path), SUBNET, hosts, write=False)[1] == ["services", "worker"]
    assert set(mesh.members(str(tmp_path))) == {"data"}
    assert addresses(tmp_path, hosts) == foreseen


def test_hosts_that_ask_at_once_agree(tmp_path: Path) -> None:
    """Each in a process of its own makes no second key."""
    hosts = [f"host-{number}" for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _n: mesh.keep(str(tmp_path), SUBNET, hosts, write=True)[0], range(24)))
    assert all(each == found[0] for each in found)
    assert len({member.private_key for member in found[0].values()}) == len(hosts)


def test_a_key_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    addresses(tmp_path, ["data"])
    assert stat.S_IMODE((tmp_path / "mesh").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "mesh" / "data").stat().st_mode) == 0o600


def test_another_subnet_gives_other_addresses_and_keeps_keys(tmp_path: Path) -> None:
    """Every host is told in the same run."""
    before = mesh.keep(str(tmp_path), SUBNET, ["a", "b"], write=True)[0]
    after = mesh.keep(str(tmp_path), "10.9.0.0/24", ["a", "b"], write=True)[0]
    assert [member.address for member in after.values()] == ["10.9.0.1", "10.9.0.2"]
    assert [member.private_key for member in after.values()] == [member.private_key for member in before.values()]


def test_a_full_subnet_is_named(tmp_path: Path) -> None:
    hosts = [f"h{number}" for number in range(7)]
    with pytest.raises(mesh.MeshError, match=r"stack_mesh_subnet is 10\.9\.0\.0/29, which has no address left for h6"):
        mesh.keep(str(tmp_path), "10.9.0.0/29", hosts, write=True)


def test_two_records_with_one_address_are_refused(tmp_path: Path) -> None:
    """As after copying a file by hand."""
    addresses(tmp_path, ["a"])
    (tmp_path / "mesh" / "b").write_text((tmp_path / "mesh" / "a").read_text())
    with pytest.raises(mesh.MeshError, match=r"a and b have the same address 172\.28\.64\.1"):
        mesh.members(str(tmp_path))


@pytest.mark.parametrize("text", ["", "Address = here\n", "Address = 10.9.0.1\nPrivateKey = short\n"])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "data").write_text(text)
    with pytest.raises(mesh.MeshError, match="mesh/data cannot be used: expected 'Address = '"):
        mesh.members(str(tmp_path))


def test_a_key_can_be_replaced_without_its_address(tmp_path: Path) -> None:
    """By removing its line."""
    addresses(tmp_path, ["a", "b"])
    (tmp_path / "mesh" / "b").write_text("Address = 172.28.64.2\n")
    found, new = mesh.keep(str(tmp_path), SUBNET, ["a", "b"], write=True)
    assert new == ["b"] and found["b"].address == "172.28.64.2" and found["b"].private_key


def test_lost_records_come_back_from_the_hosts(tmp_path: Path) -> None:
    """From the file that a host has for WireGuard; what is there stays."""
    kept = mesh.keep(str(tmp_path / "one"), SUBNET, ["a", "b"], write=True)[0]
    told = {
        host: f"# Address = {member.address}/24\n[Interface]\nPrivateKey = {member.private_key}\nListenPort = 51820\n"
        for host, member in kept.items()
    }
    assert mesh.restore(str(tmp_path / "two"), told, write=True) == ["a", "b"]
    assert mesh.members(str(tmp_path / "two")) == kept
    assert mesh.restore(str(tmp_path / "two"), told, write=True) == []


def test_an_interface_has_a_name_that_fits() -> None:
    assert mesh.interface("quantops") == "wg-quantops"
    long = mesh.interface("a-name-of-a-stack-that-is-long")
    assert len(long) <= 15 and long != mesh.interface("a-name-of-a-stack-that-is-longer")


# ---- where hosts meet

HOST = {
    "mesh": True,
    "subnet": SUBNET,
    "endpoint": "10.0.0.1",
    "port": 51820,
    "network": "172.29.64.0/24",
    "address": "",
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mesh": False}, "stack_mesh differs between the hosts of this stack: a has True, b has False"),
        ({"subnet": "10.9.0.0/24"}, "stack_mesh_subnet differs between the hosts"),
        ({"endpoint": "localhost"}, "stack_mesh_endpoint of b is localhost, where no other host reaches it"),
        ({"endpoint": "ssh://b"}, "stack_mesh_endpoint of b is 'ssh://b', expected a host name or an address"),
        ({"address": "10.0.0.2"}, "stack_address of b is 10.0.0.2, and hosts of this stack meet on a mesh"),
        ({"network": "172.28.64.0/20"}, "stack_mesh_subnet is 172.28.64.0/24, and stack_network_subnet of b is"),
    ],
)
def test_settings_with_which_hosts_cannot_meet(change: dict[str, Any], sentence: str) -> None:
    [found] = mesh.problems({"a": HOST, "b": {**HOST, "endpoint": "10.0.0.2", **change}})
    assert found.startswith(sentence)


def test_one_host_may_be_hidden_and_two_may_not() -> None:
    """Someone has to be found."""
    hidden = {**HOST, "endpoint": ""}
    assert mesh.problems({"a": HOST, "b": hidden, "c": {**HOST, "endpoint": "10.0.0.2"}}) == []
    [found] = mesh.problems({"a": hidden, "b": hidden, "c": HOST})
    assert found.startswith("stack_mesh_endpoint is empty on a, b")


@pytest.mark.parametrize(
    ("endpoint", "port", "same"),
    [
        ("10.0.0.1", 51820, True),
        ("10.0.0.1:51820", 4500, True),
        ("10.0.0.1", 4500, False),
        ("10.0.0.1:4500", 51820, False),
        ("10.0.0.2", 51820, False),
    ],
)
def test_two_hosts_at_one_address_are_one(endpoint: str, port: int, same: bool) -> None:
    """Behind one router they differ in their ports."""
    found = mesh.problems({"a": HOST, "b": {**HOST, "endpoint": endpoint, "port": port}})
    assert [text.partition(", where")[0] for text in found] == (
        ["a and b are both reached at 10.0.0.1:51820"] if same else []
    )


@pytest.mark.parametrize(
    ("addresses", "same"), [(["10.0.0.1", "10.0.0.1"], True), (["", ""], False), (["", "10.0.0.1"], False)]
)
def test_so_they_are_on_a_network_of_the_users(addresses: list[str], same: bool) -> None:
    """An address that nobody has set is derived, and is judged where it is used."""
    found = mesh.problems(
        {host: {**HOST, "mesh": False, "address": each} for host, each in zip("ab", addresses, strict=True)}
    )
    assert [text.partition(", where")[0] for text in found] == (
        ["stack_address of a and b is 10.0.0.1"] if same else []
    )


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("data.example.com", ("data.example.com", 51820)),
        ("203.0.113.7:4500", ("203.0.113.7", 4500)),
        ("[2001:db8::7]:4500", ("2001:db8::7", 4500)),
        ("", ("", 51820)),
    ],
)
def test_forms_of_an_endpoint(value: str, place: tuple[str, int]) -> None:
    assert mesh.endpoint(value, 51820) == place


# ---- clocks


def clock(ahead: float, took: float = 0.5) -> dict[str, float]:
    """What a host says whose clock is ahead."""
    return {"before": 1000.0, "told": 1000.0 + took / 2 + ahead, "after": 1000.0 + took}


def test_clocks_that_differ_are_named() -> None:
    [found] = mesh.clock_problems({"a": clock(0), "b": clock(-9), "c": clock(1)})
    assert found.startswith("The clock of c is at least 9 s ahead of that of b")


def test_a_slow_answer_is_no_wrong_clock() -> None:
    assert mesh.clock_problems({"a": clock(0), "b": clock(0, took=30), "c": clock(-4)}) == []
    assert mesh.clock_problems({}) == []


# ---- what is open to whom

MESHED: dict[str, Any] = {
    "address": "172.28.64.1",
    "ports": {"5432": False, "9000": True},
    "interface": "wg-desk",
    "sources": [],
    "publish": "127.0.0.1",
}
PRIVATE = {**MESHED, "address": "10.0.0.1", "interface": "", "sources": ["10.0.0.2", "10.0.0.3"]}


def opened(published: list[str], exposed: dict[str, Any], sources: list[str]) -> dict[str, tuple[list[str], bool]]:
    """Address and port to who comes in."""
    found = mesh.openings(published, exposed, sources, {})
    return {f"{each['address']}:{each['port']}": (each["sources"], each["mesh"]) for each in found}


def test_what_is_on_loopback_is_open_to_nobody() -> None:
    assert opened(["127.0.0.1:8080:8080"], MESHED, ["0.0.0.0/0"]) == {}


def test_the_meshs_address_is_the_meshs() -> None:
    """Whatever people may reach elsewhere."""
    published = ["172.28.64.1:5432:5432", "127.0.0.1:9000:9000", "172.28.64.1:9000:9000"]
    assert opened(published, MESHED, ["0.0.0.0/0"]) == {
        "172.28.64.1:5432": ([], True),
        "172.28.64.1:9000": ([], True),
    }


def test_a_page_on_every_address_is_open_to_people_and_hosts() -> None:
    everywhere = {**MESHED, "publish": "0.0.0.0"}
    assert opened(["0.0.0.0:9000:9000", "0.0.0.0:9001:9001"], everywhere, ["192.0.2.0/24"]) == {
        "0.0.0.0:9000": (["192.0.2.0/24"], True),
        "0.0.0.0:9001": (["192.0.2.0/24"], False),
    }


def test_on_a_private_network_the_other_hosts_are_named() -> None:
    """And people only where pages are."""
    assert opened(["10.0.0.1:5432:5432", "10.0.0.1:9000:9000"], PRIVATE, ["192.0.2.0/24"]) == {
        "10.0.0.1:5432": (["10.0.0.2", "10.0.0.3"], False),
        "10.0.0.1:9000": (["10.0.0.2", "10.0.0.3"], False),
    }
    public = {**PRIVATE, "publish": "10.0.0.1"}
    assert opened(["10.0.0.1:9000:9000"], public, ["192.0.2.0/24"]) == {
        "10.0.0.1:9000": (["192.0.2.0/24", "10.0.0.2", "10.0.0.3"], False)
    }


def test_rules_of_the_mesh_come_first_and_shut_the_rest() -> None:
    """An address of the mesh that is asked from elsewhere is not answered, whatever listens there."""
    found = mesh.openings(["0.0.0.0:9000:9000"], {**MESHED, "publish": "0.0.0.0"}, ["192.0.2.0/24"], {})
    assert mesh.rules(found, "wg-desk", MESHED, "172.29.64.0/24") == [
        "-A wg-desk -i lo -j RETURN",
        "-A wg-desk -d 172.28.64.1/32 -i wg-desk -j RETURN",
        "-A wg-desk -d 172.28.64.1/32 -j DROP",
        "-A wg-desk -p tcp --syn --dport 9000 -m addrtype --dst-type LOCAL -i wg-desk -j RETURN",
        "-A wg-desk -p tcp --syn --dport 9000 -m addrtype --dst-type LOCAL -s 192.0.2.0/24 -j RETURN",
        "-A wg-desk -p tcp --syn --dport 9000 -m addrtype --dst-type LOCAL -s 172.29.64.0/24 -j RETURN",
        "-A wg-desk -p tcp --syn --dport 9000 -m addrtype --dst-type LOCAL -j DROP",
    ]


def test_no_rules_where_everything_is_open() -> None:
    alone = {"address": "", "ports": {}, "interface": "", "sources": [], "publish": "0.0.0.0"}
    found = mesh.openings(["0.0.0.0:8080:8080"], alone, ["0.0.0.0/0"], {})
    assert mesh.rules(found, "wg-desk", alone, "172.29.64.0/24") == []
    assert mesh.opening_lines(found) == ["0.0.0.0:8080 is open to everybody"]


def test_people_are_told_what_is_open() -> None:
    found = mesh.openings(["172.28.64.1:5432:5432"], MESHED, ["0.0.0.0/0"], {"5432": "PostgreSQL"})
    assert mesh.opening_lines(found) == ["172.28.64.1:5432 (PostgreSQL) is open to the hosts of the mesh"]
    shut = mesh.openings(["10.0.0.9:8080:8080"], MESHED, [], {})
    assert mesh.opening_lines(shut) == ["10.0.0.9:8080 is open to this host alone"]


# ---- a host

MET = {
    "address": "172.28.64.1",
    "directory": "secrets",
    "port": 51820,
    "subnet": SUBNET,
    "on": True,
    "hosts": {"a": {"endpoint": "a"}, "b": {"endpoint": "b.example.com"}},
}
FINE = {"kernel": False, "tun": True, "taken": False, "unresolved": [], "address": "172.28.64.1"}


@pytest.mark.parametrize(
    ("change", "occupied", "sentence"),
    [
        ({"tun": False}, [], "This host's kernel has no WireGuard, and no /dev/net/tun"),
        (
            {"address": "172.28.64.9"},
            [],
            "This host has the address 172.28.64.9 in the mesh, and secrets/mesh gives it 172",
        ),
        ({"taken": True}, [], "UDP port 51820, at which the other hosts would reach this one, is in use"),
        ({"unresolved": ["b.example.com"]}, [], "This host cannot resolve b.example.com, where b is reached. Set"),
        (
            {},
            [{"subnet": "172.28.0.0/16", "by": "eth1 (route 172.28.0.0/16)"}],
            "stack_mesh_subnet is 172.28.64.0/24, and",
        ),
    ],
)
def test_what_keeps_a_host_from_the_mesh(change: dict[str, Any], occupied: list[dict[str, str]], sentence: str) -> None:
    [found] = mesh.host_problems({**FINE, **change}, MET, {"occupied": occupied}, "wg-desk")
    assert found.startswith(sentence)


def test_the_meshs_own_route_is_nobody_elses() -> None:
    own = [{"subnet": SUBNET, "by": f"wg-desk (route {SUBNET})"}]
    assert mesh.host_problems(FINE, MET, {"occupied": own}, "wg-desk") == []


def test_what_is_not_reached_is_named_with_its_variables() -> None:
    silent = [
        {
            "title": "Redis",
            "owner": "b",
            "host": "172.28.64.2",
            "port": 6379,
            "variable": "redis_port",
            "error": "timed out",
        }
    ]
    [meshed] = mesh.reach_problems(silent, "a", MET)
    assert meshed.startswith("a does not reach Redis of b at 172.28.64.2:6379 (redis_port): timed out.")
    assert "stack_mesh_endpoint, stack_mesh_port" in meshed
    [private] = mesh.reach_problems(silent, "a", {**MET, "on": False})
    assert private.endswith("Set stack_address of b to an address that a reaches, and open the port there.")


def test_services_wait_for_what_they_need() -> None:
    reached = [{"service": "postgres", "needed_by": ["mlflow"]}, {"service": "mlflow", "needed_by": []}]
    assert [each["service"] for each in mesh.awaited(reached, ["mlflow"])] == ["postgres"]
    assert mesh.awaited(reached, ["redis"]) == []


def test_status_tells_who_is_heard() -> None:
    told = ["peer b 172.28.64.2 12", "peer a 172.28.64.1 600", "peer gone 172.28.64.9", "firewall missing"]
    lines = mesh.status_lines(told, MET)
    assert lines[0] == "Mesh: b at 172.28.64.2, heard 12 s ago (b.example.com)"
    assert lines[1] == "Mesh: a at 172.28.64.1, NOT HEARD for 10 min (a)"
    assert lines[2] == "Mesh: gone at 172.28.64.9, NOT HEARD (it connects to this host)"
    assert lines[3].startswith("Firewall: MISSING")


def test_drift_names_what_differs_and_what_would_be_written() -> None:
    told = ["peers", "firewall", "usage: up"]
    found = mesh.differences(told, ["/etc/wireguard/wg-a.conf"], ["a.service"], "wg-a")
    assert [(each["kind"], each["name"]) for each in found] == [
        *(("file", "/etc/wireguard/wg-a.conf"), ("mesh", "a.service")),
        *(("mesh", "wg-a"), ("firewall", "wg-a")),
    ]
    assert mesh.differences([], [], [], "wg-a") == []
