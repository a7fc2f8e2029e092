# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes a plan of a container as the Docker engine's API takes it."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.module_utils.sizes import size_in_bytes

NANOSECONDS = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3}


def in_nanoseconds(duration: str) -> int:
    """Read a duration.

    Args:
        duration: Such as ``90s`` or ``1m30s``.

    Returns:
        Nanoseconds, as the engine takes them.

    Raises:
        ValueError: If it is not a duration.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|us|m|s)", str(duration))
    if not parts or "".join("".join(part) for part in parts) != str(duration):
        raise ValueError(f"{duration!r} is not a duration, expected one such as 90s")
    return round(sum(float(number) * NANOSECONDS[unit] for number, unit in parts))


def is_job(plan: dict[str, Any]) -> bool:
    """Tell a job, which runs to its end, from a service.

    Args:
        plan: Of one container.

    Returns:
        Whether it is a job.
    """
    return plan["kind"] != "service"


def labels_of(plan: dict[str, Any], labels: dict[str, Any]) -> dict[str, str]:
    """Collect the labels of a container.

    Args:
        plan: Of one container.
        labels: Those of all.

    Returns:
        Name to value.
    """
    found = {name: str(value) for name, value in labels.items()} | {
        "quantops.service": plan["service"],
        "quantops.kind": "job" if is_job(plan) else "service",
        "quantops.hash": plan["hash"],
        "quantops.parts": plan["parts"],
        "quantops.protect": str(bool(plan["prevent_recreate"])).lower(),
    }
    return found | ({"quantops.owner": plan["owner"]} if plan.get("owner") else {})


def limits_of(plan: dict[str, Any]) -> dict[str, int]:
    """Collect the limits that the engine can set on a container that exists.

    Args:
        plan: Of one container.

    Returns:
        The engine's name of each to its value; no swap, so both memory limits are the same.
    """
    return {**plan["limits"], "MemorySwap": plan["limits"]["Memory"]}


def mount_of(mount: dict[str, Any]) -> dict[str, Any]:
    """Write a mount as the engine takes it.

    Args:
        mount: As in a plan.

    Returns:
        The engine's form. It creates a volume that does not exist, with these labels.
    """
    found = {
        "Type": mount["type"],
        "Source": mount["source"],
        "Target": mount["target"],
        "ReadOnly": bool(mount.get("read_only")),
    }
    return found | ({"VolumeOptions": {"Labels": mount["labels"]}} if mount.get("labels") else {})


def ports_of(published: list[str]) -> dict[str, list[dict[str, str]]]:
    """Write published ports as the engine takes them.

    Args:
        published: Address, port of the host and port of the container, such as ``127.0.0.1:8080:80``.

    Returns:
        Port of the container to where it is published.
    """
    found: dict[str, list[dict[str, str]]] = {}
    for text in published:
        address, host, container = text.rsplit(":", 2)
        found.setdefault(f"{container}/tcp", []).append({"HostIp": address.strip("[]"), "HostPort": host})
    return found


def definition_of(plan: dict[str, Any], labels: dict[str, Any]) -> dict[str, Any]:
    """Write a plan as the engine takes it.

    Args:
        plan: Of one container.
        labels: Those of all.

    Returns:
        The body of the request that creates the container.
    """
    spec = plan["spec"]
    health = spec.get("healthcheck")
    ports = ports_of(spec["published_ports"])
    optional = {
        "Cmd": spec.get("command"),
        "Entrypoint": spec.get("entrypoint"),
        "WorkingDir": spec.get("working_dir"),
        "StopSignal": spec.get("stop_signal"),
    }
    body: dict[str, Any] = {
        "Image": spec["image"],
        "User": spec["user"],
        "Hostname": spec["hostname"],
        "Env": [f"{name}={value}" for name, value in spec["env"].items()],
        "Labels": labels_of(plan, labels),
        "StopTimeout": spec["stop_timeout"],
        "ExposedPorts": {port: {} for port in ports},
        # What is left out is the image's.
        **{name: value for name, value in optional.items() if value},
        "HostConfig": {
            **limits_of(plan),
            "NetworkMode": plan["network"],
            "Mounts": [mount_of(mount) for mount in spec["mounts"]],
            "Tmpfs": dict(text.split(":", 1) for text in spec["tmpfs"]),
            "PortBindings": ports,
            "CapDrop": ["ALL"],
            "CapAdd": spec["capabilities"],
            "SecurityOpt": ["no-new-privileges:true"],
            "ReadonlyRootfs": spec["read_only"],
            "Init": True,
            "RestartPolicy": {"Name": spec["restart_policy"]},
            "LogConfig": {"Type": "json-file", "Config": spec["log_options"]},
        },
        "NetworkingConfig": {"EndpointsConfig": {plan["network"]: {"Aliases": spec["aliases"]}}},
    }
    if spec.get("shm_size"):
        body["HostConfig"]["ShmSize"] = size_in_bytes(spec["shm_size"])
    if health:
        body["Healthcheck"] = {
            "Test": health["test"],
            "Interval": in_nanoseconds(health["interval"]),
            "Timeout": in_nanoseconds(health["timeout"]),
            "StartPeriod": in_nanoseconds(health["start_period"]),
            "Retries": health["retries"],
        }
    return body
