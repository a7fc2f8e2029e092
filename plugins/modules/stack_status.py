#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Show the status of a stack."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_status
short_description: Show the status of a stack
description:
  - Reports state, health, memory against its limit and version of each container of a stack on this host, and what the
    services use of their own limits.
  - Changes nothing.
options:
  stack:
    description: Name of the stack.
    type: str
    required: true
  versions:
    description: Container to the command in it that prints a version.
    type: dict
    default: {}
  usage:
    description: Container to a command in it that prints what it uses of what it may use, one figure a line, as
      C(USED LIMIT NAME...), such as C(12 100 connections). A limit of 0 is none; figures whose name begins with
      C(bytes) are shown in MiB. A line that begins with C(ALERT) says what is wrong.
    type: dict
    default: {}
  gateway:
    description: Where the IBKR gateway of this host listens (C(host), C(port)), and the C(url) at which a person logs
      in. Empty where there is none.
    type: dict
    default: {}
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Inspect the containers
  quantops.ibkr_stack.stack_status:
    stack: quantops
"""

RETURN = r"""
containers:
  description: Container to C(state), C(health), C(memory_mb) (nothing where the engine cannot tell), C(limit_mb),
    C(restarts), C(memory_kills), C(image), C(version) and, where the engine knows more of its end than a status, that
    C(error).
  returned: always
  type: dict
gateway:
  description: Whether the gateway is C(up), IBKR is reachable from it (C(ibkr_reachable)), someone is C(logged_in), the
    answers are C(simulated), and the C(account) is paper or live, with the C(reason). Empty where there is none. Asked
    for in 8 s at most.
  returned: always
  type: dict
usage:
  description: Container to its figures, each with C(name), C(used), C(limit) and C(nearly_full). A container that runs
    and gives no figures has none.
  returned: always
  type: dict
alerts:
  description: What the containers themselves say is wrong, a sentence each that begins with the container's name.
  returned: always
  type: list
  elements: str
disks:
  description: File systems of the volumes as C(volumes), C(free_mb), C(size_mb) and C(full).
  returned: always
  type: list
  elements: dict
published:
  description: What running containers publish, each as address, port and port in the container with colons between
    them.
  returned: always
  type: list
  elements: str
lines:
  description: The same as a table.
  returned: always
  type: list
  elements: str
"""

import json
import os
import re
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine import (
    EngineError,
    docker,
    why_it_ended,
)
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine_api import Engine, name_of
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.gateway import gateway_states, sentence
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.memory import kernel_log, memory_kills

MEMORY = re.compile(r"([\d.]+)\s*([KMG]?)i?B")
FIGURE = re.compile(r"(\d+) (\d+) (\S.*)")
ALERT = re.compile(r"ALERT (\S.*)")
LEAST_FREE_MB = 16  # a segment of PostgreSQL's log
MIB = {"": 2**-20, "K": 2**-10, "M": 1, "G": 2**10}
NEARLY_FULL = 0.9  # of a limit
USAGE_TIMEOUT = 10  # seconds
VERSION = re.compile(r"v?\d+(\.\d+)+\S*|RELEASE\S+|DEVELOPMENT\S+")


def published_by(found: dict[str, dict]) -> list[str]:
    """List what running containers publish.

    Args:
        found: Name to the engine's description.

    Returns:
        Address, port and port in the container of each.
    """
    return [
        f"{binding.get('HostIp') or '0.0.0.0'}:{binding['HostPort']}:{inside.partition('/')[0]}"
        for item in found.values()
        if item["State"]["Running"]
        for inside, bindings in (item["HostConfig"].get("PortBindings") or {}).items()
        for binding in bindings or []
    ]


def memory_in_use(names: list[str]) -> dict[str, int]:
    """Ask for the memory of running containers.

    Args:
        names: Containers that run.

    Returns:
        Name to MiB, as ``docker stats`` counts it: without the page cache. A container whose memory the engine
        doesn't know is left out.
    """
    if not names:
        return {}
    status, out, err = docker("stats", "--no-stream", "--format", "{{json .}}", *names)
    if status:
        raise EngineError(err)
    rows = [json.loads(line) for line in out.splitlines()]
    used = {row["Name"]: MEMORY.match(row["MemUsage"]) for row in rows}
    # An engine that cannot read control groups says 0 of everything, and no program uses nothing.
    return {name: round(float(match[1]) * MIB[match[2]]) for name, match in used.items() if match and float(match[1])}


def figures_of(printed: str) -> list[dict]:
    """Read what a container's usage command printed.

    Args:
        printed: Its output; lines of another form are left out.

    Returns:
        One dictionary a figure.
    """
    figures = []
    for match in filter(None, map(FIGURE.fullmatch, map(str.strip, printed.splitlines()))):
        used, limit = int(match[1]), int(match[2])
        figures.append({"name": match[3], "used": used, "limit": limit, "nearly_full": 0 < limit * NEARLY_FULL <= used})
    return figures


def usage_line(container: str, figure: dict) -> str:
    """Show one figure.

    Args:
        container: Its name.
        figure: As `figures_of` returns it.

    Returns:
        A sentence.
    """
    used, limit, name = figure["used"], figure["limit"], figure["name"]
    if name.split()[0] == "bytes":
        used, limit, name = round(used / 2**20), round(limit / 2**20), f"MiB{name.removeprefix('bytes')}"
    if not figure["limit"]:
        return f"{container}: {used} {name}"
    share = f"{container} uses {used} of {limit} {name} ({100 * figure['used'] // figure['limit']} %)"
    return f"NEARLY FULL: {share}" if figure["nearly_full"] else share


def usage_of(name: str, command: list[str]) -> tuple[list[dict], list[str], list[str]]:
    """Ask a container what it uses of what it may use.

    Args:
        name: Container that runs.
        command: Words of the command in it.

    Returns:
        Its figures, and a line for each; where it fails, one line that says why; and what it says is wrong.
    """
    status, out, err = docker("exec", name, *command, timeout=USAGE_TIMEOUT)
    figures = [] if status else figures_of(out)
    found = [] if status else filter(None, map(ALERT.fullmatch, map(str.strip, out.splitlines())))
    alerts = [f"{name}: {match[1]}" for match in found]
    # A command that tells only what is wrong has nothing to say while all is well.
    if figures or alerts or not (status or out.strip() or err.strip()):
        return figures, [usage_line(name, figure) for figure in figures], alerts
    reason = ((err or out).strip().splitlines() or [f"its command ended with status {status} and no figures"])[-1]
    return [], [f"{name} does not say what it uses: {reason}"], []


def disks_of(found: dict[str, dict]) -> list[dict]:
    """Look at the file systems of the volumes.

    Args:
        found: The engine's descriptions of the containers.

    Returns:
        One dictionary a file system; full is one on which PostgreSQL could not write another log segment.
    """
    disks: dict[int, dict] = {}
    for item in found.values():
        for mount in item.get("Mounts") or []:
            if mount["Type"] == "volume" and os.path.isdir(mount["Source"]):
                here = os.statvfs(mount["Source"])
                free, size = (blocks * here.f_frsize // 2**20 for blocks in (here.f_bavail, here.f_blocks))
                disk = disks.setdefault(
                    os.stat(mount["Source"]).st_dev,
                    {"volumes": [], "free_mb": free, "size_mb": size, "full": free < LEAST_FREE_MB},
                )
                disk["volumes"] = sorted({*disk["volumes"], mount["Name"]})
    return list(disks.values())


def kills_line(name: str, kills: int, limit_mb: int, service: str) -> str:
    """Tell that the kernel killed processes of a container, and what helps."""
    processes = "1 process" if kills == 1 else f"{kills} processes"
    return (
        f"KILLED FOR MEMORY: {name}, {processes} since the kernel's log begins; the limit is {limit_mb} MiB. "
        f"Raise `memory` in {service}_overrides, or give it less to do at once."
    )


def version_in(printed: str) -> str:
    """Find the version in what a program printed of itself.

    Args:
        printed: Its output.

    Returns:
        The version; empty if there is none.
    """
    match = VERSION.search(printed)
    return match.group(0).rstrip(",") if match else ""


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "stack": {"type": "str", "required": True},
            "versions": {"type": "dict", "default": {}},
            "usage": {"type": "dict", "default": {}},
            "gateway": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    stack = module.params["stack"]
    try:
        engine = Engine()
        found = engine.inspect(name_of(each) for each in engine.containers(f"quantops.stack={stack}", stopped=True))
        memory = memory_in_use([name for name, item in found.items() if item["State"]["Running"]])
    except EngineError as error:
        module.fail_json(msg=f"Cannot connect to the Docker engine: {error}")
    containers: dict[str, dict] = {}
    usage: dict[str, list[dict]] = {}
    usage_lines: list[str] = []
    alerts: list[str] = []
    notes: list[str] = []
    kills = memory_kills(found, kernel_log())
    width = max([28, *map(len, found)])
    row = (f"{{:<{width}}} " + "{:<12} {:<11} {:>16} {:>9}  {}").format
    lines = [row("Container", "State", "Health", "Memory/limit MiB", "Restarts", "Version or image")]
    for name, item in sorted(found.items()):
        state = item["State"]
        step = item["HostConfig"]["RestartPolicy"]["Name"] in ("", "no")
        version = ""
        service = name.removeprefix(f"{stack}-")
        if state["Running"] and service in module.params["versions"]:
            _status, printed, _err = docker("exec", name, *module.params["versions"][service])
            version = version_in(printed)
        one = containers[name] = {
            "state": state["Status"]
            if not step
            else "done"
            if state["ExitCode"] == 0
            else f"failed ({state['ExitCode']})",
            "health": (state.get("Health") or {}).get("Status", "-") if state["Running"] else "-",
            "memory_mb": memory.get(name),
            "limit_mb": item["HostConfig"]["Memory"] // 2**20,
            "restarts": item["RestartCount"],
            "memory_kills": kills[name],
            "image": item["Config"]["Image"],
            "version": version,
            "error": why_it_ended(state).strip(" ()") if not state["Running"] else "",
        }
        if state["Running"] and service in module.params["usage"]:
            usage[name], more, wrong = usage_of(name, module.params["usage"][service])
            usage_lines += more
            alerts += wrong
        if not step and not state["Running"] and why_it_ended(state):
            notes.append(f"{name} ended with status {state['ExitCode']}{why_it_ended(state)}")
        used = "?" if one["memory_mb"] is None else one["memory_mb"]
        memory_used = f"{used} / {one['limit_mb']}" if state["Running"] else "-"
        lines.append(row(name, one["state"], one["health"], memory_used, one["restarts"], version or one["image"]))
    if any(one["memory_mb"] is None and one["state"] == "running" for one in containers.values()):
        lines.append("?: the engine does not tell how much memory the container uses.")
    lines += notes + [f"ALERT: {each}" for each in alerts] + usage_lines
    for name, count in kills.items():
        if count:
            service = found[name]["Config"]["Labels"].get("quantops.service", "ROLE")
            lines.append(kills_line(name, count, containers[name]["limit_mb"], service))
    disks = disks_of(found)
    for disk in disks:
        said = "{}: {free_mb} MiB free of {size_mb} MiB".format(", ".join(disk["volumes"]), **disk)
        remedy = ". Services cannot write there: free some, or enlarge the file system; they go on by themselves then."
        lines.append(f"DISK FULL: {said}{remedy}" if disk["full"] else f"Disk of {said}")
    gateway = module.params["gateway"]
    states = None
    if found and gateway:
        states = gateway_states(gateway["host"], int(gateway["port"]))
        lines += ["", sentence(states, gateway["url"])]
    module.exit_json(
        changed=False,
        containers=containers,
        usage=usage,
        alerts=alerts,
        disks=disks,
        published=published_by(found),
        gateway=asdict(states) if states else {},
        lines=lines if found else [f"This host has no containers of {stack}."],
    )


if __name__ == "__main__":
    main()
