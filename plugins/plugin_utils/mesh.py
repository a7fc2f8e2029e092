# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The encrypted network between the hosts of a stack: addresses, keys, and what is open to whom."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.module_utils.left_files import (
    PREFIX,
    remove_left,
    write_whole,
)
from ansible_collections.quantops.ibkr_stack.plugins.modules.secret_store import alone_in

#: Directory of the records below that of the secrets: a file a host.
RECORDS = "mesh"
#: Of an interface of Linux.
LONGEST_NAME = 15
#: A name or an address, with a port or without; empty where a host only connects to others.
ENDPOINT = re.compile(r"(?P<host>[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
LOOPBACK = re.compile(r"localhost|127\..*|\[::1\]")
#: Everybody.
ANYONE = "0.0.0.0/0"
#: Seconds that the clocks of two hosts may differ: tokens of Airflow are valid for a limited time.
CLOCKS_APART = 5.0


class MeshError(Exception):
    """A record of the mesh cannot be used; the text says which and why."""


@dataclass(frozen=True)
class Member:
    """A host of the mesh.

    Attributes:
        address: IPv4 address there.
        private_key: WireGuard's, in base64; empty if it is yet to be generated.
    """

    address: str
    private_key: str = ""

    @property
    def public_key(self) -> str:
        """What the other hosts know it by, in base64. Source: RFC 7748, section 6.1."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        key = X25519PrivateKey.from_private_bytes(base64.b64decode(self.private_key))
        return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def interface(stack: str) -> str:
    """Name the interface of a stack's mesh.

    Args:
        stack: Name of the stack.

    Returns:
        ``wg-`` and the name, or a digest of it where that would be too long for an interface.
    """
    name = f"wg-{stack}"
    return name if len(name) <= LONGEST_NAME else f"wg-{hashlib.sha256(stack.encode()).hexdigest()[:10]}"


def read_member(text: str, place: str) -> Member:
    """Read a record.

    Args:
        text: Lines of the form ``Name = value``, as in WireGuard's own files; others are passed over.
        place: Path of the file, for errors.

    Returns:
        The host.

    Raises:
        MeshError: If it has no address, or a key that is none.
    """
    found = dict(re.findall(r"^#?[ \t]*(Address|PrivateKey)[ \t]*=[ \t]*(\S+?)(?:/\d+)?[ \t]*$", text, re.MULTILINE))
    try:
        member = Member(str(ipaddress.IPv4Address(found.get("Address", ""))), found.get("PrivateKey", ""))
        if member.private_key and len(base64.b64decode(member.private_key, validate=True)) != 32:
            raise ValueError("a key has 32 bytes")
    except ValueError:
        raise MeshError(
            f"{place} cannot be used: expected 'Address = ' with an IPv4 address and 'PrivateKey = ' with a key of"
            " WireGuard. Correct it, or remove it: the host is then given an address and a key again."
        ) from None
    return member


def members(directory: str) -> dict[str, Member]:
    """Read the records of all hosts that have ever been in the mesh.

    Args:
        directory: That of the secrets.

    Returns:
        Host to its record. None if there are no records.

    Raises:
        MeshError: If one cannot be used, or two hosts have the same address.
    """
    place = Path(directory, RECORDS)
    found: dict[str, Member] = {}
    taken: dict[str, str] = {}
    if not place.is_dir():
        return {}
    for file in sorted(place.iterdir()):
        if file.name.startswith(PREFIX):
            continue
        try:
            member = read_member(file.read_text(encoding="utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise MeshError(f"{file} cannot be read: {error}") from None
        if (other := taken.setdefault(member.address, file.name)) != file.name:
            raise MeshError(
                f"{other} and {file.name} have the same address {member.address} in {place}. Remove the file of the"
                " host that was added last."
            )
        found[file.name] = member
    return found


def allocate(subnet: str, recorded: Mapping[str, str], hosts: Iterable[str]) -> dict[str, str]:
    """Give every host an address of its own that stays the same when others come and go.

    Args:
        subnet: The mesh's network.
        recorded: Host to the address that it has been given, of hosts that have left the inventory too. An address
            outside the subnet does not count.
        hosts: Those that need one, in the order of the inventory.

    Returns:
        Host to address. New hosts are given the lowest addresses that no other has been given.

    Raises:
        MeshError: If the subnet has too few.
    """
    network = ipaddress.ip_network(subnet)
    known = {host: address for host, address in recorded.items() if ipaddress.ip_address(address) in network}
    taken = set(known.values())
    free = (str(address) for address in network.hosts() if str(address) not in taken)
    found = {}
    for host in hosts:
        if host not in known:
            try:
                known[host] = next(free)
            except StopIteration:
                raise MeshError(
                    f"stack_mesh_subnet is {subnet}, which has no address left for {host}. Use a larger one; records of"
                    f" hosts that are gone for good can be removed from {RECORDS} below secrets_dir."
                ) from None
        found[host] = known[host]
    return found


def keep(directory: str, subnet: str, hosts: Sequence[str], write: bool) -> tuple[dict[str, Member], list[str]]:
    """Read the records of hosts, and make those that are missing.

    Args:
        directory: That of the secrets.
        subnet: The mesh's network.
        hosts: Hosts of the stack, in the order of the inventory.
        write: Whether missing records are written.

    Returns:
        Host to its record, and the hosts whose record is new.

    Raises:
        MeshError: If a record cannot be used or written.
    """
    if not write:
        return _kept(directory, subnet, hosts, write)
    try:
        place = Path(directory, RECORDS)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_left(place)
        # Every host of a run asks for itself, at the same time.
        with alone_in(str(place)):
            return _kept(directory, subnet, hosts, write)
    except OSError as error:
        raise MeshError(f"The keys of the mesh cannot be kept in {directory}, which secrets_dir names: {error}") from (
            error
        )


def _kept(directory: str, subnet: str, hosts: Sequence[str], write: bool) -> tuple[dict[str, Member], list[str]]:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    known = members(directory)
    addresses = allocate(subnet, {host: member.address for host, member in known.items()}, hosts)
    found, new = {}, []
    for host, address in addresses.items():
        before = known.get(host)
        key = before.private_key if before else ""
        if not key:
            key = base64.b64encode(X25519PrivateKey.generate().private_bytes_raw()).decode()
        found[host] = Member(address, key)
        if found[host] != before:
            new.append(host)
            if write:
                _record(directory, host, found[host])
    return found, new


def _record(directory: str, host: str, member: Member) -> None:
    text = f"Address = {member.address}\nPrivateKey = {member.private_key}\n"
    write_whole(Path(directory, RECORDS, host), text)


def restore(directory: str, found: Mapping[str, str], write: bool) -> list[str]:
    """Write the records that a directory lacks, from what the hosts have.

    Args:
        directory: That of the secrets.
        found: Host to the text of its own file.
        write: Whether to write at all.

    Returns:
        Hosts whose record was missing.

    Raises:
        MeshError: If one cannot be used or written.
    """
    known = members(directory)
    missing = {host: read_member(text, f"The file of {host}") for host, text in found.items() if host not in known}
    if missing and write:
        try:
            Path(directory, RECORDS).mkdir(mode=0o700, parents=True, exist_ok=True)
            for host, member in missing.items():
                _record(directory, host, member)
        except OSError as error:
            raise MeshError(f"The keys of the mesh cannot be restored to {directory}: {error}") from error
    return sorted(missing)


def endpoint(value: str, port: int) -> tuple[str, int]:
    """Read where a host is reached by others.

    Args:
        value: Name or address, with a port or without.
        port: That of the mesh, where the value has none.

    Returns:
        Name or address without brackets, and port; the name is empty for a host that others cannot reach.
    """
    match = ENDPOINT.fullmatch(value)
    return (match["host"].strip("[]"), int(match["port"] or port)) if match else ("", port)


def problems(hosts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Find settings with which hosts cannot meet.

    Args:
        hosts: Host to ``mesh``, ``subnet``, ``endpoint``, ``port``, ``network`` (of its containers) and ``address``
            (what the inventory says in ``stack_address``, or nothing).

    Returns:
        A sentence for each, with host and variable.
    """
    found = []
    for name in ("mesh", "subnet"):
        values = {host: str(each[name]) for host, each in hosts.items()}
        if len(set(values.values())) > 1:
            variable = "stack_mesh" if name == "mesh" else "stack_mesh_subnet"
            told = ", ".join(f"{host} has {value}" for host, value in values.items())
            found.append(f"{variable} differs between the hosts of this stack: {told}. Set it once, for all of them.")
    if found:
        return found
    reached: dict[str, str] = {}
    if not all(each["mesh"] for each in hosts.values()):
        return [
            f"stack_address of {other} and {host} is {each['address']}, where only one host can be. Correct one."
            for host, each in hosts.items()
            if each["address"] and (other := reached.setdefault(each["address"], host)) != host
        ]
    for host, each in hosts.items():
        value = each["endpoint"]
        name, port = endpoint(value, each["port"])
        if name and not LOOPBACK.fullmatch(value):
            place = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
            if (other := reached.setdefault(place, host)) != host:
                found.append(
                    f"{other} and {host} are both reached at {place}, where only one host can be. Correct ansible_host"
                    " of one of them; behind one router, give them different ports in stack_mesh_endpoint."
                )
        if value and not ENDPOINT.fullmatch(value):
            found.append(
                f"stack_mesh_endpoint of {host} is {value!r}, expected a host name or an address, with a port or"
                " without, such as 203.0.113.7 or w3.example.com:51820, or nothing for a host that only connects to"
                " others."
            )
        elif LOOPBACK.fullmatch(value):
            found.append(
                f"stack_mesh_endpoint of {host} is {value}, where no other host reaches it. Set it to a name or an"
                " address of this host that the others reach, or to '' if there is none."
            )
        if each["address"]:
            found.append(
                f"stack_address of {host} is {each['address']}, and hosts of this stack meet on a mesh (stack_mesh):"
                " remove it. To use a private network of your own instead, set stack_mesh to false for all hosts."
            )
        if ipaddress.ip_network(each["subnet"]).overlaps(ipaddress.ip_network(each["network"])):
            found.append(
                f"stack_mesh_subnet is {each['subnet']}, and stack_network_subnet of {host} is {each['network']}: the"
                " addresses of hosts and those of containers must differ. Set one of them to another network."
            )
    hidden = [host for host, each in hosts.items() if not each["endpoint"]]
    if len(hidden) > 1:
        found.append(
            f"stack_mesh_endpoint is empty on {', '.join(hidden)}, and two such hosts never find each other. Set it on"
            " all of them but one."
        )
    return found


def peers(
    host: str, hosts: Mapping[str, Mapping[str, Any]], known: Mapping[str, Mapping[str, str]]
) -> list[dict[str, Any]]:
    """List the other hosts as one of them reaches them.

    Args:
        host: The one.
        hosts: Host to ``endpoint`` and ``port``.
        known: Host to its ``address`` and ``public_key``.

    Returns:
        ``name``, ``address``, ``public_key``, ``host`` (``-`` if it cannot be reached first) and ``port`` of each.
    """
    found = []
    for name, each in hosts.items():
        if name != host:
            where, port = endpoint(str(each["endpoint"]), int(each["port"]))
            found.append({"name": name, **known[name], "host": where or "-", "port": port})
    return found


def openings(
    published: Iterable[str], exposed: Mapping[str, Any], sources: Sequence[str], titles: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Say who may reach what a host publishes beyond loopback.

    Args:
        published: What its containers publish, each as ``address:port:port in the container``.
        exposed: ``address`` on which other hosts reach what they need, its ``ports``, each with whether people use it
            too, the ``interface`` through which hosts come (empty without a mesh), their ``sources`` (empty if these
            are not known), and ``publish``, the address for people.
        sources: Networks from which people may come.
        titles: Port to what listens there, for people.

    Returns:
        ``address``, ``port``, ``title``, the ``sources`` from which it is reached, and whether that is also so through
        the mesh (``mesh``).
    """
    found = []
    for each in dict.fromkeys(published):
        address, port, _target = each.rsplit(":", 2)
        if address.startswith("127."):
            continue
        needed = port in exposed["ports"] and address in (exposed["address"], "0.0.0.0")
        meshed = bool(exposed["interface"]) and address == exposed["address"]
        people = not meshed and (not needed or (exposed["ports"][port] and address in (exposed["publish"], "0.0.0.0")))
        allowed = list(sources) if people else []
        if needed and not exposed["interface"]:
            allowed += exposed["sources"] or [ANYONE]
        found.append(
            {
                "address": address,
                "port": port,
                "title": titles.get(port, ""),
                "sources": [ANYONE] if ANYONE in allowed else list(dict.fromkeys(allowed)),
                "mesh": meshed or (needed and bool(exposed["interface"])),
            }
        )
    return sorted(found, key=lambda each: (int(each["port"]), each["address"]))


def rules(found: Iterable[Mapping[str, Any]], chain: str, exposed: Mapping[str, Any], network: str) -> list[str]:
    """Write the firewall's rules, for the table ``raw``: they are asked before the engine's own.

    Args:
        found: What ``openings`` returned.
        chain: Name of the chain.
        exposed: As for ``openings``.
        network: Subnet of the stack's containers.

    Returns:
        Rules for ``iptables-restore``; none if everything is open to everybody.
    """
    lines = []
    if exposed["interface"]:
        address = exposed["address"]
        lines += [
            f"-A {chain} -d {address}/32 -i {exposed['interface']} -j RETURN",
            f"-A {chain} -d {address}/32 -j DROP",
        ]
    for each in found:
        if ANYONE in each["sources"] or (exposed["interface"] and each["address"] == exposed["address"]):
            continue
        to = "-m addrtype --dst-type LOCAL" if each["address"] == "0.0.0.0" else f"-d {each['address']}/32"
        # Only the first packet of a connection: what is under way is not cut off.
        match = f"-A {chain} -p tcp --syn --dport {each['port']} {to}"
        lines += [f"{match} -i {exposed['interface']} -j RETURN"] if each["mesh"] else []
        lines += [f"{match} -s {source} -j RETURN" for source in [*each["sources"], network]]
        lines.append(f"{match} -j DROP")
    return [f"-A {chain} -i lo -j RETURN", *lines] if lines else []


def opening_lines(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Tell people what is open to whom.

    Args:
        found: What ``openings`` returned.

    Returns:
        A line for each port.
    """
    lines = []
    for each in found:
        whom = [*(["the hosts of the mesh"] if each["mesh"] else [])]
        whom += ["everybody"] if ANYONE in each["sources"] else list(each["sources"])
        lines.append(
            f"{each['address']}:{each['port']}{' (' + each['title'] + ')' if each['title'] else ''}"
            f" is open to {', '.join(whom) or 'this host alone'}"
        )
    return lines


def clock_problems(clocks: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Find hosts whose clocks differ.

    Args:
        clocks: Host to ``before`` and ``after``, the controller's time in seconds before the host was asked and after
            it had answered, and ``told``, what the host said.

    Returns:
        A sentence, if two clocks certainly differ by more than ``CLOCKS_APART``, however long the answers took.
    """
    slowest = {host: each["told"] - each["after"] for host, each in clocks.items()}
    fastest = {host: each["told"] - each["before"] for host, each in clocks.items()}
    if not clocks:
        return []
    ahead, behind = max(slowest, key=slowest.__getitem__), min(fastest, key=fastest.__getitem__)
    apart = slowest[ahead] - fastest[behind]
    if ahead == behind or apart <= CLOCKS_APART:
        return []
    return [
        f"The clock of {ahead} is at least {int(apart)} s ahead of that of {behind}. Tokens are refused and logs are"
        " out of order then: set both, and keep them right with systemd-timesyncd or chrony."
    ]


def host_problems(report: Mapping[str, Any], met: Mapping[str, Any], host: Mapping[str, Any], own: str) -> list[str]:
    """Find what keeps a host from meeting the others.

    Args:
        report: What the module ``mesh_report`` returned.
        met: The mesh, as the module ``service_contracts`` says it.
        host: What the module ``host_report`` returned as ``host``.
        own: Name of the mesh's interface.

    Returns:
        A sentence for each problem, with its remedy.
    """
    found = []
    if not report["kernel"] and not report["tun"]:
        found.append(
            "This host's kernel has no WireGuard, and no /dev/net/tun for wireguard-go in its place. Load the module"
            " wireguard or tun (where this host is a container, on the machine below it, and pass on /dev/net/tun),"
            " or set stack_mesh to false and let the hosts meet on a private network of your own."
        )
    if report["taken"]:
        found.append(
            f"UDP port {met['port']}, at which the other hosts would reach this one, is in use. Set stack_mesh_port to"
            " a free one."
        )
    for name, each in met["hosts"].items():
        if each["endpoint"] and each["endpoint"] in report["unresolved"]:
            found.append(
                f"This host cannot resolve {each['endpoint']}, where {name} is reached. Set"
                f" stack_mesh_endpoint of {name} to an address, or to a name that all hosts can resolve; the name of a"
                " host in ~/.ssh/config is none."
            )
    subnet = ipaddress.ip_network(met["subnet"])
    before = report["address"]
    if before not in ("", met["address"]) and ipaddress.ip_address(before) in subnet:
        found.append(
            f"This host has the address {before} in the mesh, and {met['directory']}/{RECORDS} gives it"
            f" {met['address']}: the records are lost, or another stack's. fetch_secrets.yml (make fetch-secrets)"
            f" brings them back from the hosts; to begin anew, remove /etc/wireguard/{own}.conf from all hosts."
        )
    other = [
        each["by"]
        for each in host["occupied"]
        if not each["by"].startswith(f"{own} ") and subnet.overlaps(ipaddress.ip_network(each["subnet"], strict=False))
    ]
    if other:
        found.append(
            f"stack_mesh_subnet is {met['subnet']}, and this host reaches other machines in that range:"
            f" {', '.join(other[:5])}. Set it to a subnet that no host of the stack uses."
        )
    return found


def awaited(reached: Iterable[Mapping[str, Any]], services: Iterable[str]) -> list[Mapping[str, Any]]:
    """Choose what must answer before services start.

    Args:
        reached: What services of a host reach on others, each with those that cannot run without it (``needed_by``).
        services: Those that start.

    Returns:
        Entries of ``reached``.
    """
    starting = set(services)
    return [each for each in reached if starting & set(each["needed_by"])]


def reach_problems(silent: Iterable[Mapping[str, Any]], host: str, met: Mapping[str, Any]) -> list[str]:
    """Tell what a host does not reach on others.

    Args:
        silent: Of each, ``title``, ``owner``, ``host``, ``port``, ``variable`` (of the port) and ``error``.
        host: The one that connected.
        met: The mesh, as the module ``service_contracts`` says it.

    Returns:
        A sentence for each, with where to look.
    """
    remedy = (
        "See in `make status` of both hosts whether they have heard of each other; if not, UDP port {port} of at least"
        " one of them must be open to the other (stack_mesh_endpoint, stack_mesh_port)."
        if met["on"]
        else "Set stack_address of {owner} to an address that {host} reaches, and open the port there."
    )
    return [
        f"{host} does not reach {each['title']} of {each['owner']} at {each['host']}:{each['port']}"
        f" ({each['variable']}): {each['error']}. " + remedy.format(port=met["port"], owner=each["owner"], host=host)
        for each in silent
    ]


def port_titles(service: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name what listens at the ports of a service.

    Args:
        service: Its contract without templates.

    Returns:
        Port and title of each.
    """
    pages = {page["port"]: page["title"] for page in reversed(service["web"])}
    return [(str(port["value"]), pages.get(name, service["title"])) for name, port in service["ports"].items()]


def status_lines(told: Iterable[str], met: Mapping[str, Any]) -> list[str]:
    """Tell people how a host stands in the mesh.

    Args:
        told: What the host's program says of its status.
        met: The mesh, as the module ``service_contracts`` says it.

    Returns:
        Lines.
    """
    lines = []
    for line in told:
        word, *rest = line.split()
        if word == "peer":
            name, address, *seconds = rest
            # A handshake every two minutes, and some patience.
            heard = f"heard {seconds[0]} s ago" if seconds and int(seconds[0]) < 200 else "NOT HEARD"
            heard += f" for {int(seconds[0]) // 60} min" if seconds and heard == "NOT HEARD" else ""
            where = (met["hosts"].get(name) or {}).get("endpoint") or "it connects to this host"
            lines.append(f"Mesh: {name} at {address}, {heard} ({where})")
        elif word == "link":
            lines.append(
                "Mesh: DOWN, the interface is missing: it comes back by itself; see systemctl status quantops-mesh-*"
            )
        elif word == "firewall":
            lines.append("Firewall: MISSING, what is published is open to everybody: site.yml restores it")
    return lines


#: What the host's program says that differs: kind of the difference, and how to tell people.
DIFFERENCES = {
    "link": ("mesh", "missing"),
    "address": ("mesh", "has another address"),
    "peers": ("mesh", "has other peers, or another port"),
    "firewall": ("firewall", "lacks rules about who reaches published ports, or has others"),
}


def differences(
    told: Iterable[str], files: Iterable[str], units: Iterable[str], interface: str
) -> list[dict[str, str]]:
    """Put together what of a host's mesh and firewall differs from the declaration.

    Args:
        told: What the host's program says, a word a line; others are passed over, such as those of an older program.
        files: Paths of those that would be written.
        units: Units of systemd that do not run, or do not start at boot.
        interface: Name of the mesh's interface.

    Returns:
        ``kind``, ``name`` and ``difference`` of each.
    """
    found = [("file", path, "missing, or differs") for path in files]
    found += [("mesh", unit, "not running, or not at boot") for unit in units]
    found += [(kind, interface, text) for kind, text in (DIFFERENCES[word] for word in told if word in DIFFERENCES)]
    return [{"kind": kind, "name": name, "difference": text} for kind, name, text in found]
