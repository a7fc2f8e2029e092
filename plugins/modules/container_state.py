#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compare declared containers with running ones."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_state
short_description: Compare declared containers with running ones
description:
  - Finds in one call which containers are missing, stopped, different from their specification, or changed manually.
  - Never changes anything. In check mode it reports as a change what a run would do.
options:
  containers:
    description: Containers as planned by the filter P(quantops.ibkr_stack.container_plan#filter).
    type: list
    elements: dict
    required: true
  patience:
    description: Seconds that a container which the engine calls unhealthy gets to answer, since what it needs may have
      come back a moment ago.
    type: int
    default: 0
  written:
    description: Files that the same run is going to write; a container that reads one counts as different.
    type: list
    elements: path
    default: []
  undeclared:
    description: Names of containers that should not exist.
    type: list
    elements: str
    default: []
  others:
    description: Names of containers of which it is only asked whether they exist.
    type: list
    elements: str
    default: []
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Find what is not as declared
  quantops.ibkr_stack.container_state:
    containers: "{{ plan }}"
"""

RETURN = r"""
undeclared:
  description: Those of O(undeclared) that exist.
  returned: always
  type: list
  elements: str
others:
  description: Those of O(others) that exist.
  returned: always
  type: list
  elements: str
containers:
  description: Container name to what was found.
  returned: always
  type: dict
  contains:
    drift: {description: Why it is not as declared; empty when it is., type: list}
    exists: {description: Whether it exists., type: bool}
    running: {description: Whether it runs., type: bool}
    protected: {description: Whether it was made as one that only a variable lets a run recreate., type: bool}
    hung: {description: Whether it runs and does not answer its health check., type: bool}
    remake: {description: Whether it must be recreated to recover., type: bool}
    ready: {description: Whether the engine calls it healthy or the job is done., type: bool}
    hash: {description: Hash of what it was made from., type: str}
    started_at: {description: When it was started., type: str}
"""

import calendar
import os
import time
from collections import Counter

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine import (
    EngineError,
    probe,
)
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine_api import Engine, name_of

# Changed parts that are named one by one; of more, the kinds are.
NAMED = 8
# What `docker update` can set and no declaration has.
UNDECLARED = (
    "BlkioWeight",
    "CpuPeriod",
    "CpuQuota",
    "CpuRealtimePeriod",
    "CpuRealtimeRuntime",
    "CpusetCpus",
    "CpusetMems",
    "CpuShares",
    "MemoryReservation",
)


def started_at(item: dict) -> float:
    """Read when a container was started.

    Args:
        item: The engine's description.

    Returns:
        Seconds since 1970.
    """
    text = item["State"]["StartedAt"]
    second, _separator, fraction = text.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(second, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")


def places_of(item: dict) -> list[str]:
    """Name the directories of the configuration and the secrets that a container reads at its start.

    Args:
        item: The engine's description.

    Returns:
        Absolute paths on the host.
    """
    return [
        mount["Source"] for mount in item.get("Mounts") or [] if mount["Destination"] in ("/run/config", "/run/secrets")
    ]


def newest_file(item: dict) -> float:
    """Find when the configuration and the secrets that a container read at its start were last written.

    Args:
        item: The engine's description.

    Returns:
        Seconds since 1970; 0 where there are none.
    """
    times = [
        os.lstat(os.path.join(top, name)).st_mtime
        for place in places_of(item)
        for top, _directories, names in os.walk(place)
        for name in names
    ]
    return max(times, default=0.0)


def unhealthy(declared: dict, item: dict) -> bool:
    """Tell whether the engine has given up a service that runs.

    Args:
        declared: Plan of one container.
        item: The engine's description.

    Returns:
        Whether its health check has failed several times.
    """
    state = item["State"]
    runs = state["Running"] and not state.get("Paused") and not state.get("Restarting")
    return declared["kind"] == "service" and runs and (state.get("Health") or {}).get("Status") == "unhealthy"


def look_again(declared: list[dict], existing: dict[str, dict], patience: float) -> dict[str, str]:
    """Ask the unhealthy containers themselves: the engine looks once a minute only.

    Args:
        declared: Plans.
        existing: Name to the engine's description.
        patience: Seconds that they get to answer.

    Returns:
        Name to ``healthy``, ``hung``, or ``unhealthy`` for one that answers and is not ready.
    """
    waiting = {
        plan["name"]: plan for plan in declared if plan["name"] in existing and unhealthy(plan, existing[plan["name"]])
    }
    found: dict[str, str] = {}
    end = time.monotonic() + patience
    while waiting:
        for name, plan in list(waiting.items()):
            status, _detail = probe(name, existing[name])
            found[name] = "healthy" if status == 0 else "unhealthy" if status in plan.get("alive", []) else "hung"
            if status == 0:
                del waiting[name]
        if time.monotonic() >= end:
            break
        time.sleep(1)
    return found


def undeclared(declared: dict, item: dict, written: list[str]) -> list[str]:
    """Find what only a new container heals, because it is no matter of the declaration.

    Args:
        declared: Plan of one container.
        item: The engine's description.
        written: Files that are going to be written.

    Returns:
        Sentences that say what differs.
    """
    if declared["kind"] == "job":
        return []
    have = item["HostConfig"]
    unwanted = [key for key in UNDECLARED if have.get(key) and key not in declared["limits"]]
    found = [f"{key} is {have[key]}, not declared" for key in unwanted]
    # A file that someone edited is healed, and what the program read of it is not.
    coming = any(path.startswith(f"{place}/") for path in written for place in places_of(item))
    same = (item["Config"].get("Labels") or {}).get("quantops.hash") == declared["hash"]
    if same and item["State"]["Running"] and (coming or newest_file(item) > started_at(item)):
        found.append("configuration or secrets were written after its start")
    return found


def changed_parts(declared: dict, labels: dict) -> str:
    """Say what a container is no longer made from as declared.

    Args:
        declared: Plan of one container.
        labels: Those of the container.

    Returns:
        A sentence with the names of the parts and no value.
    """
    have, want = (
        dict(line.split(" ", 1)[::-1] for line in text.splitlines())
        for text in (labels.get("quantops.parts", ""), declared.get("parts", ""))
    )
    # A container of an earlier version has no such label.
    names = sorted(name for name in have.keys() | want.keys() if have and have.get(name) != want.get(name))
    if len(names) > NAMED:
        kinds = Counter(name.split(" ", 1)[0] for name in names)
        named = {name.split(" ", 1)[0]: name for name in names}
        names = [f"{kind} ({count} entries)" if count > 1 else named[kind] for kind, count in kinds.items()]
    return f"changed: {', '.join(names)}" if names else "image, settings, configuration or secrets changed"


def drift_of(declared: dict, item: dict) -> list[str]:
    """Compare a declaration with an existing container.

    Args:
        declared: Plan of one container.
        item: The engine's description.

    Returns:
        Sentences that say what differs.
    """
    found = []
    labels = item["Config"].get("Labels") or {}
    state = item["State"]
    if labels.get("quantops.hash") != declared["hash"]:
        found.append(changed_parts(declared, labels))
    if declared["kind"] == "job":
        if state["Status"] == "created" or (not state["Running"] and state["ExitCode"] != 0):
            found.append(f"its last run failed (status {state['ExitCode']})")
        return found
    if state.get("Paused"):
        found.append("paused")
    elif not state["Running"] or state.get("Restarting"):
        found.append(f"not running ({state['Status']})")
    have, want = item["HostConfig"], declared["limits"]
    for key, label, limit in (
        ("Memory", "memory limit", want["Memory"]),
        ("MemorySwap", "limit of memory and swap", want["Memory"]),
        ("NanoCpus", "CPU limit", want["NanoCpus"]),
        ("PidsLimit", "process limit", want["PidsLimit"]),
        ("CpuShares", "CPU weight", want.get("CpuShares")),
    ):
        if limit is not None and (have.get(key) or 0) != limit:
            found.append(f"{label} is {have.get(key) or 0}, declared {limit}")
    if have["RestartPolicy"]["Name"] != "unless-stopped":
        found.append(f"restart policy is {have['RestartPolicy']['Name']}")
    networks = sorted(item["NetworkSettings"]["Networks"])
    if networks != [declared["network"]]:
        found.append(f"networks are {networks}, declared ['{declared['network']}']")
    return found


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "containers": {"type": "list", "elements": "dict", "required": True},
            "patience": {"type": "int", "default": 0},
            "written": {"type": "list", "elements": "path", "default": []},
            "undeclared": {"type": "list", "elements": "str", "default": []},
            "others": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    declared = module.params["containers"]
    try:
        engine, undeclared_names = Engine(), module.params["undeclared"]
        existing = engine.inspect([container["name"] for container in declared] + undeclared_names)
        # Nothing but their names is needed, which one answer has of all.
        present = {name_of(each) for each in engine.containers(stopped=True)} if module.params["others"] else set()
    except EngineError as error:
        if not module.check_mode:
            module.fail_json(msg=f"Cannot connect to the Docker engine: {error}")
        existing, present = {}, set()  # a fresh host in check mode: everything would be made
    healths = look_again(declared, existing, 0 if module.check_mode else module.params["patience"])
    report, lines = {}, []
    for container in declared:
        item = existing.get(container["name"])
        remake = undeclared(container, item, module.params["written"]) if item else []
        drift = drift_of(container, item) + remake if item else ["missing"]
        state = item["State"] if item else {}
        health = healths.get(container["name"], (state.get("Health") or {}).get("Status"))
        if health == "hung":
            drift = [*drift, "does not answer its health check"]
        labels = ((item or {}).get("Config") or {}).get("Labels") or {}
        report[container["name"]] = {
            "exists": bool(item),
            "running": bool(state.get("Running")),
            "ready": not drift and ((container["kind"] == "job" and not state.get("Running")) or health == "healthy"),
            "drift": drift,
            "hung": health == "hung",
            "remake": bool(remake),
            "protected": labels.get("quantops.protect") == "true",
            "hash": labels.get("quantops.hash", ""),
            "started_at": state.get("StartedAt", ""),
        }
        lines += [f"{container['name']}: {reason}\n" for reason in drift]
    leftovers = [name for name in undeclared_names if name in existing]
    lines += [f"{name}: is no longer declared\n" for name in leftovers]
    module.exit_json(
        changed=module.check_mode and bool(lines),
        containers=report,
        undeclared=leftovers,
        others=[name for name in module.params["others"] if name in present],
        diff={"before": "".join(lines), "after": "".join(f"{name}: as declared\n" for name in report if lines)}
        if lines
        else {},
    )


if __name__ == "__main__":
    main()
