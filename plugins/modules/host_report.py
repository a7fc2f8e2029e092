#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Report what a host has, in one call, for the checks that come before any change."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_report
short_description: Gather facts about a host before anything changes
description:
  - Reads distribution, memory, disk, listening ports, routes and the state of the Docker engine in a single call.
  - Changes nothing.
options:
  volume_files:
    description: Files whose content is wanted, each as volume and path below it such as C(data/VERSION).
    type: list
    elements: str
    default: []
  address:
    description: Address on which services will listen.
    type: str
    default: ""
  config_dir:
    description: Directory of the stack's configuration.
    type: path
    default: ""
  writes:
    description: Directories in which something will be written. The nearest existing parent counts.
    type: list
    elements: path
    default: []
  mesh:
    description: Path of the program that keeps the stack's mesh and firewall.
    type: path
    default: ""
  late_address:
    description: File of C(/etc/sysctl.d) that lets services bind addresses that come up later.
    type: path
    default: ""
  subnet:
    description: Addresses that the containers will have. Other machines that this host talks to there are reported too.
    type: str
    default: ""
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Inspect the host
  quantops.ibkr_stack.host_report:
    address: 127.0.0.1
"""

RETURN = r"""
host:
  description: The report.
  returned: always
  type: dict
  contains:
    distribution: {description: ID of os-release., type: str}
    version: {description: VERSION_ID of os-release., type: str}
    release: {description: Version codename of os-release., type: str}
    like: {description: ID_LIKE of os-release., type: str}
    architecture: {description: Machine architecture., type: str}
    memory_mb:
      description: Memory in MiB; of a host that is a container itself, as much as its control group allows.
      type: int
    cores: {description: Number of processors., type: int}
    address_here: {description: Whether the wanted address is one of this host., type: bool}
    disk_free_mb: {description: Free disk space in MiB where the engine keeps images and volumes., type: dict}
    config_files: {description: Names in O(config_dir) other than those of containers., type: list}
    read_only: {description: Those of the wanted directories in which nothing can be written., type: list}
    init: {description: Name of the first process., type: str}
    engine: {description: Whether it answers or refuses this user and its version and lost rules., type: dict}
    ports: {description: Who listens on each TCP port and at which addresses., type: dict}
    mesh: {description: Whether the program of the mesh is there., type: bool}
    late_address: {description: Whether the file sets C(net.ipv4.ip_nonlocal_bind) and whether it is set., type: dict}
    networks: {description: Names and subnets of the engine's networks., type: dict}
    occupied: {description: IPv4 addresses at which this host reaches other machines and what leads there., type: list}
    volumes: {description: Names of the engine's volumes., type: list}
    images: {description: References of the engine's images., type: list}
    image_ids: {description: Reference of each of the engine's images to its id., type: dict}
    volume_files: {description: Content of those of the wanted files that exist., type: dict}
    python: {description: The module's Python and whether it has what the Docker modules need., type: dict}
"""

import contextlib
import ipaddress
import os
import platform
import re
import shutil
import socket
import sys
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine import EngineError
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine_api import DeniedError, Engine, name_of
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.memory import host_memory_mb
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.network import (
    engine_options,
    listeners,
    lost_rules,
    occupied,
)

DEFAULT_ROOT = "/var/lib/docker"
LOCAL_ADDRESSES = "/proc/net/fib_trie"
CONTAINERD_ROOT = re.compile(r"""^\s*root\s*=\s*["']([^"']+)["']""", re.MULTILINE)
#: Where the interpreter finds the modules of Debian's packages.
DEBIAN_MODULES = "/usr/lib/python3/dist-packages"


def os_release() -> dict[str, str]:
    """Read os-release.

    Returns:
        Its keys and values without quotes.
    """
    values = {}
    with open("/etc/os-release", encoding="utf-8") as lines:
        for line in lines:
            key, sep, value = line.strip().partition("=")
            if sep:
                values[key] = value.strip('"')
    return values


def existing(path: str) -> str:
    """Find the nearest existing parent.

    Args:
        path: Absolute path.

    Returns:
        The path itself, if it exists.
    """
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def free_mb(path: str) -> int:
    """Free disk space at a path or its nearest existing parent.

    Args:
        path: Absolute path.

    Returns:
        MiB that an unprivileged process could still write.
    """
    return shutil.disk_usage(existing(path)).free // 2**20


def late_address(file: str) -> dict[str, bool]:
    """Find out whether services may bind addresses that come up later.

    Args:
        file: That makes it so at boot.

    Returns:
        Whether the file does, and whether it is so now.
    """
    found = {"persisted": False, "set": False}
    for name, path, wanted in (
        ("persisted", file, r"(?m)^net\.ipv4\.ip_nonlocal_bind\s*=\s*1\s*$"),
        ("set", "/proc/sys/net/ipv4/ip_nonlocal_bind", r"1\s*$"),
    ):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as text:
            found[name] = bool(re.search(wanted, text.read()))
    return found


def is_here(address: str) -> bool:
    """Find out whether an address is one of this host's.

    Args:
        address: IPv4 address.

    Returns:
        Whether a program of this host that listens on it can be reached there.
    """
    with contextlib.suppress(ValueError):
        known = ipaddress.ip_address(address)
        if known.is_unspecified or known.is_loopback:
            return True
    # That a program may listen proves nothing: net.ipv4.ip_nonlocal_bind allows it on any address.
    local = rf"\|-- {re.escape(address)}\n(?:\s+/\d+ .*\n)*?\s+/32 host LOCAL"
    with contextlib.suppress(OSError), open(LOCAL_ADDRESSES, encoding="utf-8") as file:
        return not address or bool(re.search(local, file.read()))
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def engine_report() -> tuple[dict[str, object], Engine | None, dict[str, object]]:
    """Ask for the engine.

    Returns:
        Its state, the engine itself if it answers, and what it says of itself.
    """
    report: dict[str, object] = {
        "daemon": bool(shutil.which("dockerd")),
        "client": bool(shutil.which("docker")),
        "answers": False,
        "error": "",
    }
    # Tasks use the client too: an engine without one is as good as none.
    if not report["client"]:
        return report | {"error": "there is no docker client on this host"}, None, {}
    try:
        engine = Engine()
        version = engine.server_version(timeout=10)
        info = engine.call("GET", "/info")
    except EngineError as error:
        return report | {"error": str(error), "denied": isinstance(error, DeniedError)}, None, {}
    report.update(answers=True, version=version["Version"], api=version["ApiVersion"], lost_rules=lost_rules(info))
    return report, engine, info


def published(containers: list[dict[str, Any]]) -> dict[str, list[dict[str, str]]]:
    """Find which ports containers publish; an engine without its proxy has no sockets for them.

    Args:
        containers: The engine's summaries.

    Returns:
        Port to ``address``, ``container`` and, of a stack's, ``stack`` of each.
    """
    found: dict[str, list[dict[str, str]]] = {}
    for container in containers:
        stack = (container.get("Labels") or {}).get("quantops.stack")
        for port in container.get("Ports") or []:
            if port.get("PublicPort"):
                address = port.get("IP") or "0.0.0.0"
                found.setdefault(str(port["PublicPort"]), []).append(
                    {
                        "address": address,
                        "container": name_of(container),
                        **({"stack": stack} if stack else {}),
                    }
                )
    return found


def ports_report(containers: dict[str, list[dict[str, str]]]) -> dict[str, list[dict[str, str]]]:
    """Join the sockets with the containers that they serve.

    Args:
        containers: What ``published`` returned.

    Returns:
        Port to ``address``, ``process`` and, if one publishes it, ``container`` and, of a stack's, ``stack`` of each.
    """
    ports = listeners()
    for port, bindings in containers.items():
        for binding in bindings:
            names = {binding["address"], "*"} if binding["address"] == "::" else {binding["address"]}
            held = [each for each in ports.setdefault(port, []) if each["address"] in names]
            for each in held:
                each |= {key: binding[key] for key in ("container", "stack") if key in binding}
            if not held:
                ports[port].append({**binding, "process": ""})
    return ports


def networks_report(described: list[dict[str, Any]]) -> tuple[dict[str, list[str]], set[str]]:
    """Read the engine's networks.

    Args:
        described: The engine's descriptions.

    Returns:
        Name to subnets, and the names of their interfaces on this host.
    """
    networks, bridges = {}, set()
    for item in described:
        configs = (item.get("IPAM") or {}).get("Config") or []
        networks[item["Name"]] = [config["Subnet"] for config in configs if "Subnet" in config]
        options = item.get("Options") or {}
        bridges.add(options.get("com.docker.network.bridge.name") or f"br-{item.get('Id', '')[:12]}")
    return networks, bridges


def places(info: dict[str, object]) -> list[str]:
    """Find where images and volumes are kept.

    Args:
        info: What ``docker info`` says; empty if there is no engine yet, or none that answers.

    Returns:
        Directories, those on one file system once.
    """
    root = str(info.get("DockerRootDir") or engine_options().get("data-root") or DEFAULT_ROOT)
    wanted = [root, os.path.join(root, "volumes")]
    if any("io.containerd.snapshotter" in str(value) for _key, value in info.get("DriverStatus") or []):
        try:
            with open("/etc/containerd/config.toml", encoding="utf-8") as file:
                told = CONTAINERD_ROOT.search(file.read())
        except OSError:
            told = None
        wanted.append(told[1] if told else "/var/lib/containerd")
    by_device: dict[int, str] = {}
    for path in wanted:
        by_device.setdefault(os.stat(existing(path)).st_dev, path)
    return list(by_device.values())


def python_report() -> dict[str, object]:
    """Try what the Docker modules import.

    Returns:
        The interpreter, why it cannot be used (or nothing), and whether Debian's packages would help.
    """
    try:
        import requests  # noqa: F401
    except Exception as error:  # a broken package raises anything
        said = f"{type(error).__name__}: {error}"
    else:
        said = ""
    return {"executable": sys.executable, "error": said, "debian": DEBIAN_MODULES in sys.path}


def read_volume_files(wanted: list[str], volumes: dict[str, str]) -> dict[str, str]:
    """Read files of volumes.

    Args:
        wanted: Volume and path below it, joined by a slash.
        volumes: Name to directory of the volumes that exist.

    Returns:
        Content of those files that exist, without white space around it.
    """
    found = {}
    for name in wanted:
        volume, _separator, path = name.partition("/")
        if volume in volumes:
            place = os.path.join(volumes[volume], path)
            if os.path.isfile(place):
                with open(place, encoding="utf-8") as file:
                    found[name] = file.read().strip()
    return found


def foreign_names(directory: str) -> list[str]:
    """List what no container's configuration is.

    Args:
        directory: Path of the stack's configuration.

    Returns:
        Names, sorted; none if it does not exist or is no directory.
    """
    names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
    return [
        name
        for name in names
        if not any(os.path.isdir(os.path.join(directory, name, part)) for part in ("config", "secrets"))
    ]


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "volume_files": {"type": "list", "elements": "str", "default": []},
            "address": {"type": "str", "default": ""},
            "subnet": {"type": "str", "default": ""},
            "writes": {"type": "list", "elements": "path", "default": []},
            "config_dir": {"type": "path", "default": ""},
            "mesh": {"type": "path", "default": ""},
            "late_address": {"type": "path", "default": ""},
        },
        supports_check_mode=True,
    )
    release = os_release()
    report, engine, info = engine_report()
    networks: dict[str, list[str]] = {}
    volumes: dict[str, str] = {}
    image_ids: dict[str, str] = {}
    bridges, containers = None, {}
    if engine:
        try:
            containers = published(engine.containers())
            networks, bridges = networks_report(engine.call("GET", "/networks"))
            volumes = {volume["Name"]: volume["Mountpoint"] for volume in engine.volumes()}
            image_ids = {
                tag: image["Id"] for image in engine.call("GET", "/images/json") for tag in image.get("RepoTags") or []
            }
        except EngineError as error:
            module.fail_json(msg=f"Cannot connect to the Docker engine: {error}")
    with open("/proc/1/comm", encoding="utf-8") as comm:
        init = comm.read().strip()
    module.exit_json(
        changed=False,
        host={
            "distribution": release.get("ID", ""),
            "version": release.get("VERSION_ID", ""),
            "release": release.get("VERSION_CODENAME", ""),
            "like": release.get("ID_LIKE", ""),
            "architecture": platform.machine(),
            "memory_mb": host_memory_mb(),
            "cores": len(os.sched_getaffinity(0)),
            "address_here": is_here(module.params["address"]),
            "disk_free_mb": {path: free_mb(path) for path in places(info)},
            "config_files": foreign_names(module.params["config_dir"]),
            "read_only": [path for path in module.params["writes"] if not os.access(existing(path), os.W_OK)],
            "init": init,
            "engine": report,
            "ports": ports_report(containers),
            "mesh": bool(module.params["mesh"]) and os.path.exists(module.params["mesh"]),
            "late_address": late_address(module.params["late_address"]),
            "networks": networks,
            "occupied": occupied(bridges, module.params["subnet"]),
            "volumes": sorted(volumes),
            "images": list(image_ids),
            "image_ids": image_ids,
            "volume_files": read_volume_files(module.params["volume_files"], volumes),
            "python": python_report(),
        },
    )


if __name__ == "__main__":
    main()
