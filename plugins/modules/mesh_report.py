#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Report what a host has for the mesh, and what it reaches."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mesh_report
short_description: Report what a host has for the mesh and what it reaches
description:
  - Looks for WireGuard, for the port, resolves names, tells the time, and connects to other hosts. Changes nothing.
options:
  interface:
    description: Name of the mesh's interface.
    type: str
    required: true
  port:
    description: UDP port of the mesh; 0 to look for none.
    type: int
    default: 0
  unit:
    description: Unit of systemd that keeps the mesh; empty to look for none.
    type: str
    default: ""
  names:
    description: Names and addresses of other hosts, each with a port or without. Empty ones are passed over.
    type: list
    elements: str
    default: []
  asked:
    description: Time at which the controller asked, in seconds since 1970.
    type: float
    default: 0
  reach:
    description: What to connect to, each with C(host) and C(port).
    type: list
    elements: dict
    default: []
  patience:
    description: Seconds within which each of them has to answer.
    type: int
    default: 10
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Inspect the host for the mesh
  quantops.ibkr_stack.mesh_report:
    interface: wg-quantops
    port: 51820
    names: [data.example.com]
"""

RETURN = r"""
programs:
  description: Whether C(wg) and, as C(userspace), C(wireguard-go) are installed.
  returned: always
  type: dict
kernel:
  description: Whether the kernel has WireGuard.
  returned: always
  type: bool
tun:
  description: Whether a program can stand in for it.
  returned: always
  type: bool
address:
  description: Address that the host has been given before; empty if it has none.
  returned: always
  type: str
taken:
  description: Whether something else than the mesh holds the port.
  returned: always
  type: bool
kept:
  description: Whether the unit runs, and starts at boot.
  returned: always
  type: bool
unresolved:
  description: Those of the names that cannot be resolved.
  returned: always
  type: list
  elements: str
asked:
  description: As passed.
  returned: always
  type: float
told:
  description: The host's time in seconds since 1970.
  returned: always
  type: float
silent:
  description: Entries of I(reach) that did not answer, with the C(error).
  returned: always
  type: list
  elements: dict
"""

import os
import re
import shutil
import socket
import subprocess
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def has_module(name: str) -> bool:
    """Find out whether the kernel has a module.

    Args:
        name: Its name.

    Returns:
        Whether it is loaded, built in, or can be loaded.
    """
    program = shutil.which("modprobe", path=SBIN)
    if os.path.exists(f"/sys/module/{name}"):
        return True
    return (
        bool(program)
        and not subprocess.run(
            [program, "--dry-run", "--quiet", name], capture_output=True, check=False, timeout=30
        ).returncode
    )


def recorded_address(interface: str) -> str:
    """Read the address that the host has been given before.

    Args:
        interface: Name of the mesh's interface.

    Returns:
        The address; nothing if there is none.
    """
    try:
        with open(f"/etc/wireguard/{interface}.conf", encoding="utf-8") as lines:
            found = re.match(r"# Address = ([\d.]+)", lines.readline())
    except OSError:
        return ""
    return found[1] if found else ""


def is_kept(unit: str) -> bool:
    """Find out whether systemd keeps a unit.

    Args:
        unit: Its name.

    Returns:
        Whether it runs, and starts at boot.
    """
    program = shutil.which("systemctl", path=SBIN)
    return bool(program) and all(
        not subprocess.run([program, "--quiet", word, unit], capture_output=True, check=False, timeout=30).returncode
        for word in ("is-active", "is-enabled")
    )


def holds_udp(port: int) -> bool:
    """Find out whether anything holds a UDP port.

    Args:
        port: The port.

    Returns:
        Whether it is in the kernel's tables.
    """
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        if os.path.exists(table):
            with open(table, encoding="ascii") as lines:
                next(lines)
                if any(int(line.split()[1].rsplit(":", 1)[1], 16) == port for line in lines):
                    return True
    return False


def resolves(name: str) -> bool:
    """Find out whether a name can be resolved.

    Args:
        name: It, or an address, with a port or without.

    Returns:
        Whether there is an address.
    """
    host = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    try:
        return bool(socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):
        return False


def error_of(host: str, port: int, until: float) -> str:
    """Connect to a port.

    Args:
        host: Name or address.
        port: Its port.
        until: Time at which to give up, of the clock that only goes forward.

    Returns:
        Nothing if something answers, else why not.
    """
    while True:
        try:
            with socket.create_connection((host, port), timeout=5):
                return ""
        except (OSError, UnicodeError) as error:
            if time.monotonic() > until:
                return str(error)
        time.sleep(1)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "interface": {"type": "str", "required": True},
            "port": {"type": "int", "default": 0},
            "unit": {"type": "str", "default": ""},
            "names": {"type": "list", "elements": "str", "default": []},
            "asked": {"type": "float", "default": 0},
            "reach": {"type": "list", "elements": "dict", "default": []},
            "patience": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    told = time.time()
    port = module.params["port"]
    until = time.monotonic() + module.params["patience"]
    silent: list[dict[str, Any]] = []
    for each in module.params["reach"]:
        if error := error_of(str(each["host"]), int(each["port"]), until):
            silent.append({**each, "error": error})
    module.exit_json(
        changed=False,
        programs={
            "wg": bool(shutil.which("wg", path=SBIN)),
            "userspace": bool(shutil.which("wireguard-go", path=SBIN)),
        },
        kernel=has_module("wireguard"),
        tun=os.path.exists("/dev/net/tun") or has_module("tun"),
        address=recorded_address(module.params["interface"]),
        taken=bool(port) and not os.path.exists(f"/sys/class/net/{module.params['interface']}") and holds_udp(port),
        kept=bool(module.params["unit"]) and is_kept(module.params["unit"]),
        unresolved=[name for name in module.params["names"] if name and not resolves(name)],
        asked=module.params["asked"],
        told=told,
        silent=silent,
    )


if __name__ == "__main__":
    main()
