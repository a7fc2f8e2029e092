"""Read what a host's network already holds: listening sockets, reachable addresses, and the engine's firewall rules."""

from __future__ import annotations

import errno
import ipaddress
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from typing import Any

ESTABLISHED, LISTEN = "01", "0A"  # st column of /proc/net/tcp
#: A way to the whole Internet, whole or in halves: more than any private range holds.
WIDEST_PREFIX = 7
#: How the engine names the bridge of a network.
ENGINE_BRIDGE = re.compile(r"docker0|br-[0-9a-f]{12}")
PROBE = "127.255.255.254"  # an address of loopback on which nobody listens on purpose
SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def decoded(word: str) -> str:
    """Read an address of /proc/net.

    Args:
        word: Words of 32 bits in hexadecimal digits, each in the host's byte order.

    Returns:
        The address; IPv4 that was mapped into IPv6 as IPv4.
    """
    parts = (int(word[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(word), 8))
    address = ipaddress.ip_address(b"".join(parts))
    return str(getattr(address, "ipv4_mapped", None) or address)


def sockets(state: str) -> list[dict[str, Any]]:
    """List TCP sockets.

    Args:
        state: ``LISTEN`` or ``ESTABLISHED``.

    Returns:
        ``address``, ``port``, ``peer`` and ``inode`` of each.
    """
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not os.path.exists(table):
            continue
        with open(table, encoding="ascii") as lines:
            next(lines)
            for line in lines:
                column = line.split()
                if column[3] == state:
                    address, port = column[1].rsplit(":", 1)
                    peer = decoded(column[2].rsplit(":", 1)[0])
                    entry = {"address": decoded(address), "port": int(port, 16), "peer": peer, "inode": column[9]}
                    found.append(entry)
    return found


def holds_ipv4(port: int) -> bool:
    """Find out whether a socket on the IPv6 wildcard takes the port of IPv4 too, which the kernel's tables don't tell.

    Args:
        port: Port on which it listens.

    Returns:
        Whether nobody else may listen there on IPv4.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((PROBE, port))
        except OSError as error:
            return error.errno in (errno.EADDRINUSE, errno.EACCES)
    return False


def listeners() -> dict[str, list[dict[str, str]]]:
    """Find who listens on TCP.

    Returns:
        Port to ``{"address": …, "process": …}`` of each socket. ``*`` is the wildcard of IPv6 and IPv4 together; the
        process is empty where it cannot be seen.
    """
    ports: dict[str, list[dict[str, str]]] = {}
    wanted: dict[str, dict[str, str]] = {}
    for each in sockets(LISTEN):
        both = each["address"] == "::" and holds_ipv4(each["port"])
        entry = {"address": "*" if both else each["address"], "process": ""}
        ports.setdefault(str(each["port"]), []).append(entry)
        wanted[f"socket:[{each['inode']}]"] = entry
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for descriptor in os.scandir(f"/proc/{pid}/fd"):
                entry = wanted.get(os.readlink(descriptor.path))
                if entry:
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
                        entry["process"] = f"{comm.read().strip()} (process {pid})"
        except OSError:
            continue
    return ports


def routes() -> list[dict[str, str]]:
    """List the IPv4 routes of all tables.

    Returns:
        ``subnet``, ``device``, ``table`` and ``type`` of each; only the main table where there is no ``ip``.
    """
    program = shutil.which("ip", path=SBIN)
    found = []
    if program:
        words = [program, "-4", "-json", "route", "show", "table", "all"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
        for route in json.loads(done.stdout or "[]"):
            hops = route.get("nexthops") or [{}]
            found.append(
                {
                    "subnet": "0.0.0.0/0" if route["dst"] == "default" else route["dst"],
                    "device": route.get("dev") or hops[0].get("dev", ""),
                    "table": str(route.get("table", "main")),
                    "type": route.get("type", "unicast"),
                }
            )
    elif os.path.exists("/proc/net/route"):
        with open("/proc/net/route", encoding="ascii") as lines:
            next(lines)
            for line in lines:
                column = line.split()
                subnet = f"{decoded(column[1])}/{decoded(column[7])}"
                found.append({"subnet": subnet, "device": column[0], "table": "main", "type": "unicast"})
    return found


def name_servers() -> list[str]:
    """Read which name servers the host asks.

    Returns:
        Their addresses.
    """
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as lines:
            words = [line.split() for line in lines]
    except OSError:
        return []
    return [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]


def occupied(bridges: set[str] | None, subnet: str) -> list[dict[str, str]]:
    """Find the IPv4 addresses at which this host reaches other machines, or is reached by them.

    Args:
        bridges: Interfaces of the engine's networks, which are compared by name elsewhere; ``None`` if the engine
            cannot be asked: then those count as the engine's that are named like its own.
        subnet: Single machines, known by a connection or as a name server, count only in here.

    Returns:
        ``subnet``, and ``by``: what leads there, for people.
    """
    found = []
    for route in routes():
        device, kind = route["device"], route["type"]
        engines = ENGINE_BRIDGE.fullmatch(device) if bridges is None else device in bridges
        wide = ipaddress.ip_network(route["subnet"], strict=False).prefixlen <= WIDEST_PREFIX
        if wide or device == "lo" or engines or kind in ("broadcast", "multicast", "anycast"):
            continue
        said = f"{'address' if kind == 'local' else 'route'} {route['subnet']}"
        said += "" if route["table"] in ("main", "local") else f" in table {route['table']}"
        found.append({"subnet": route["subnet"], "by": f"{device or kind} ({said})"})
    machines = {each["peer"]: f"a connection with {each['peer']}" for each in sockets(ESTABLISHED)}
    machines |= {address: f"the name server {address}" for address in name_servers()}
    wanted = ipaddress.ip_network(subnet or "127.0.0.0/8", strict=False)
    for address, said in machines.items():
        try:
            here = ipaddress.ip_address(address)
        except ValueError:  # a name server with a zone
            continue
        if not here.is_loopback and here in wanted:
            found.append({"subnet": address, "by": said})
    return found


def engine_process() -> str:
    """Find the engine that serves this host, and not one of a container on it.

    Returns:
        Its process id, or nothing.
    """
    own = os.readlink("/proc/self/ns/net")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
                if comm.read().strip() == "dockerd" and os.readlink(f"/proc/{pid}/ns/net") == own:
                    return pid
        except OSError:
            continue
    return ""


def engine_options(pid: str = "") -> dict[str, Any]:
    """Read what the engine is told by its configuration file and its command line.

    Args:
        pid: Its process, if it runs.

    Returns:
        Options by the names of the configuration file; values of the command line are texts.
    """
    words: list[str] = []
    if pid:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as line:
            words = line.read().split("\0")
    told = dict(word[2:].split("=", 1) for word in words if re.match(r"--[a-z0-9-]+=", word))
    pairs = itertools.pairwise(words)
    told |= {word[2:]: after for word, after in pairs if word in ("--data-root", "--config-file")}
    try:
        with open(told.get("config-file", "/etc/docker/daemon.json"), encoding="utf-8") as file:
            options = json.load(file)
    except (OSError, ValueError):
        options = {}
    return {**(options if isinstance(options, dict) else {}), **told}


def lost_rules(info: dict[str, Any]) -> list[str]:
    """Look for the firewall rules that the engine makes at its start and relies on when it starts a container.

    Args:
        info: What ``docker info`` says.

    Returns:
        What is missing. Nothing if the engine leaves the firewall alone, or cannot be seen from here.
    """
    pid = engine_process()
    program = shutil.which("iptables", path=SBIN)
    backend = (info.get("FirewallBackend") or {}).get("Driver", "iptables")
    if not pid or not program or not backend.startswith("iptables"):
        return []
    if str(engine_options(pid).get("iptables", True)).lower() in ("false", "0", "f"):
        return []
    missing = []
    for table, rules in (
        (
            "filter",
            {"the chain DOCKER": "-N DOCKER", "the rule of FORWARD to DOCKER-USER": "-A FORWARD -j DOCKER-USER"},
        ),
        ("nat", {"the chain DOCKER": "-N DOCKER"}),
    ):
        done = subprocess.run(
            [program, "-w", "10", "-t", table, "-S"], capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode:
            return []  # not root's view, or no such table: nothing can be said
        lines = {line.strip() for line in done.stdout.splitlines()}
        missing += [f"{what} in {table}" for what, rule in rules.items() if rule not in lines]
    return missing
