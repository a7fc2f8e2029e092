#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Report what a host has, in one call, for the checks that come before any change."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_report
short_description: Report what a host has before anything changes
description:
  - Reads distribution, memory, disk, listening ports and the state of the Docker engine in a single call.
  - Changes nothing.
options:
  paths:
    description: Paths whose free disk space is wanted. The nearest existing parent counts.
    type: list
    elements: path
    default: []
  stack:
    description: Name of the stack whose own containers may hold ports.
    type: str
    required: true
  volume_files:
    description: Files whose content is wanted, each as volume and path below it such as C(data/VERSION).
    type: list
    elements: str
    default: []
  address:
    description: Address on which services will listen.
    type: str
    default: ""
author:
  - The quantops.ibkr_stack maintainers
"""

EXAMPLES = r"""
- name: Look at the host
  quantops.ibkr_stack.host_report:
    stack: quantops
    paths: [/var/lib/docker]
"""

RETURN = r"""
host:
  description: The report.
  returned: always
  type: dict
  contains:
    distribution: {description: ID of os-release., type: str}
    release: {description: Version codename of os-release., type: str}
    like: {description: ID_LIKE of os-release., type: str}
    architecture: {description: Machine architecture., type: str}
    memory_mb: {description: Memory in MiB., type: int}
    cores: {description: Number of processors., type: int}
    address_here: {description: Whether the wanted address is one of this host., type: bool}
    disk_free_mb: {description: Free disk space in MiB of each path., type: dict}
    init: {description: Name of the first process., type: str}
    engine: {description: Whether the engine is installed and answers and its version., type: dict}
    ports: {description: Who listens on each TCP port., type: dict}
    networks: {description: Names and subnets of the engine's networks., type: dict}
    volumes: {description: Names of the engine's volumes., type: list}
    images: {description: References of the engine's images., type: list}
    volume_files: {description: Content of those of the wanted files that exist., type: dict}
    python_requests: {description: Whether the module's Python has what the Docker modules need., type: bool}
"""

import importlib.util
import json
import os
import platform
import shutil
import socket

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine import docker, inspect

LISTEN = "0A"  # st column of /proc/net/tcp


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


def listeners() -> dict[str, dict[str, str]]:
    """Find who listens on TCP.

    Returns:
        Port to ``{"addresses": …, "process": …}``; the process is empty where it cannot be seen.
    """
    inodes: dict[str, str] = {}
    ports: dict[str, dict[str, str]] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not os.path.exists(table):
            continue
        with open(table, encoding="ascii") as lines:
            next(lines)
            for line in lines:
                column = line.split()
                if column[3] == LISTEN:
                    port = str(int(column[1].rsplit(":", 1)[1], 16))
                    inodes[column[9]] = port
                    ports[port] = {"process": ""}
    wanted = {f"socket:[{inode}]": port for inode, port in inodes.items()}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for descriptor in os.scandir(f"/proc/{pid}/fd"):
                port = wanted.get(os.readlink(descriptor.path))
                if port:
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
                        ports[port]["process"] = f"{comm.read().strip()} (process {pid})"
        except OSError:
            continue
    return ports


def free_mb(path: str) -> int:
    """Free disk space at a path or its nearest existing parent.

    Args:
        path: Absolute path.

    Returns:
        MiB that an unprivileged process could still write.
    """
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free // 2**20


def is_here(address: str) -> bool:
    """Find out whether a program of this host may listen on an address.

    Args:
        address: IPv4 address.

    Returns:
        Whether it is one of this host's.
    """
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def engine_report(stack: str) -> tuple[dict[str, object], dict[str, str]]:
    """Ask for the engine and for the ports that the stack's own containers publish.

    Args:
        stack: Name of the stack.

    Returns:
        The engine's state, and port to container name.
    """
    engine: dict[str, object] = {"installed": bool(shutil.which("dockerd") or shutil.which("docker")), "answers": False}
    engine["daemon"] = bool(shutil.which("dockerd"))
    status, out, err = docker("version", "--format", "{{json .Server}}", timeout=10)
    engine["error"] = err
    if status == 0 and out.strip() not in ("", "null"):
        server = json.loads(out)
        engine.update(answers=True, version=server["Version"], api=server["ApiVersion"], error="")
    own: dict[str, str] = {}
    if engine["answers"]:
        listed = docker("ps", "--filter", f"label=quantops.stack={stack}", "--format", "{{.Names}}")[1].split()
        for name, item in inspect("container", listed).items():
            for bindings in (item["NetworkSettings"]["Ports"] or {}).values():
                for binding in bindings or []:
                    own[binding["HostPort"]] = name
    return engine, own


def read_volume_files(wanted: list[str], volumes: list[str]) -> dict[str, str]:
    """Read files of volumes.

    Args:
        wanted: Volume and path below it, joined by a slash.
        volumes: Volumes that exist.

    Returns:
        Content of those files that exist, without white space around it.
    """
    found = {}
    for name in wanted:
        volume, _, path = name.partition("/")
        if volume in volumes:
            place = os.path.join(inspect("volume", [volume])[volume]["Mountpoint"], path)
            if os.path.isfile(place):
                with open(place, encoding="utf-8") as file:
                    found[name] = file.read().strip()
    return found


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "path", "default": []},
            "stack": {"type": "str", "required": True},
            "volume_files": {"type": "list", "elements": "str", "default": []},
            "address": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    release = os_release()
    engine, own = engine_report(module.params["stack"])
    ports = listeners()
    for port, name in own.items():
        ports.setdefault(port, {"process": ""})["container"] = name
    networks, volumes, images = {}, [], []
    if engine["answers"]:
        names = docker("network", "ls", "--format", "{{.Name}}")[1].split()
        for name, item in inspect("network", names).items():
            configs = (item.get("IPAM") or {}).get("Config") or []
            networks[name] = [config["Subnet"] for config in configs if "Subnet" in config]
        volumes = docker("volume", "ls", "--format", "{{.Name}}")[1].split()
        images = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}")[1].split()
    with open("/proc/1/comm", encoding="utf-8") as comm:
        init = comm.read().strip()
    module.exit_json(
        changed=False,
        host={
            "distribution": release.get("ID", ""),
            "release": release.get("VERSION_CODENAME", ""),
            "like": release.get("ID_LIKE", ""),
            "architecture": platform.machine(),
            "memory_mb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20,
            "cores": os.cpu_count(),
            "address_here": is_here(module.params["address"]),
            "disk_free_mb": {path: free_mb(path) for path in module.params["paths"]},
            "init": init,
            "engine": engine,
            "ports": ports,
            "networks": networks,
            "volumes": volumes,
            "images": images,
            "volume_files": read_volume_files(module.params["volume_files"], volumes),
            "python_requests": importlib.util.find_spec("requests") is not None,
        },
    )


if __name__ == "__main__":
    main()
