#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Create, recreate, update and start containers, several at a time."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_apply
short_description: Create, recreate, update and start containers, several at a time
description:
  - Brings containers in line with their plans in one call. Each container gets the least that is needed.
  - One that does not exist is created. One that was made from something else, or that only a new container heals, is
    recreated. Limits, the restart policy and networks that were altered by hand are set in place. One that is stopped
    is started, a paused one unpaused, and one that hangs restarted.
  - Talks to the engine's API itself, since M(community.docker.docker_container) makes one container a call, each at
    about 0.6 seconds of processor time.
  - A failure of one container does not keep the others from being applied. All failures are reported together.
options:
  containers:
    description:
      - Containers as planned by the filter P(quantops.ibkr_stack.container_plan#filter), without their secrets.
      - The optional key C(owner) of a plan, the service role that declares it, becomes the label C(quantops.owner).
    type: list
    elements: dict
    required: true
  states:
    description:
      - What the module M(quantops.ibkr_stack.container_state) returned as
        RV(quantops.ibkr_stack.container_state#module:containers).
      - A container that it calls as declared is left alone. One that it does not name is judged by this module.
    type: dict
    default: {}
  labels:
    description: Labels for all of the containers.
    type: dict
    default: {}
attributes:
  check_mode: {support: full, description: Reports what would be done.}
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Compare the containers with their plans
  quantops.ibkr_stack.container_state:
    containers: "{{ plans }}"
  register: found

- name: Apply the plans
  quantops.ibkr_stack.container_apply:
    containers: "{{ plans }}"
    states: "{{ found.containers }}"
    labels: {quantops.stack: desk}
"""

RETURN = r"""
changes:
  description: What was done, or would be done in check mode; also when another container failed.
  returned: always
  type: list
  elements: dict
  contains:
    name: {description: Container., type: str}
    action:
      description: C(create), C(recreate), or what was done in place, such as C(update) or C(update and start).
      type: str
    reasons: {description: Why., type: list}
    seconds: {description: How long it took., type: float}
"""

import contextlib
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine import EngineError, docker
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine_api import ApiError, Engine, quoted

THREADS = 8
PULL_TIMEOUT = 1800.0  # seconds
REMOVAL_TIMEOUT = 60.0  # seconds
SIZES = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30}
NANOSECONDS = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3}
LIMITS = {
    "Memory": "memory limit",
    "MemorySwap": "limit of memory and swap",
    "NanoCpus": "CPU limit",
    "PidsLimit": "process limit",
}


def in_bytes(size: str) -> int:
    """Read a size.

    Args:
        size: Such as ``128m``.

    Returns:
        Bytes.

    Raises:
        ValueError: If it is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)i?(b?)", str(size).strip().lower())
    if not match:
        raise ValueError(f"{size!r} is not a size, expected one such as 128m")
    return int(float(match[1]) * SIZES[match[2]])


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
        "quantops.protect": str(bool(plan["protect"])).lower(),
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
        body["HostConfig"]["ShmSize"] = in_bytes(spec["shm_size"])
    if health:
        body["Healthcheck"] = {
            "Test": health["test"],
            "Interval": in_nanoseconds(health["interval"]),
            "Timeout": in_nanoseconds(health["timeout"]),
            "StartPeriod": in_nanoseconds(health["start_period"]),
            "Retries": health["retries"],
        }
    return body


def update_of(plan: dict[str, Any], item: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Find limits and the restart policy that were altered by hand.

    Args:
        plan: Of one container.
        item: The engine's description.

    Returns:
        What the engine has to set, and why.
    """
    have, want = item["HostConfig"], limits_of(plan)
    body: dict[str, Any] = {key: value for key, value in want.items() if (have.get(key) or 0) != value}
    reasons = [f"{LIMITS[key]} is {have.get(key) or 0}, declared {value}" for key, value in body.items()]
    if body.keys() & {"Memory", "MemorySwap"}:  # the engine takes the two together only
        body |= {key: want[key] for key in ("Memory", "MemorySwap")}
    policy = plan["spec"]["restart_policy"]
    if have["RestartPolicy"]["Name"] != policy:
        body["RestartPolicy"] = {"Name": policy}
        reasons.append(f"restart policy is {have['RestartPolicy']['Name']}")
    return body, reasons


def networks_of(item: dict[str, Any]) -> dict[str, Any]:
    """Read what a container is connected to.

    Args:
        item: The engine's description.

    Returns:
        Name of each network to how.
    """
    return dict(item["NetworkSettings"].get("Networks") or {})


def connections_of(plan: dict[str, Any], item: dict[str, Any]) -> tuple[bool, list[str]]:
    """Compare the networks of a container with the declared one.

    Args:
        plan: Of one container.
        item: The engine's description.

    Returns:
        Whether it has to be connected to its network under its names, and the networks to disconnect it from.
    """
    networks = networks_of(item)
    own = networks.pop(plan["network"], None)
    return own is None or bool(set(plan["spec"]["aliases"]) - set(own.get("Aliases") or [])), sorted(networks)


def why_recreate(
    plan: dict[str, Any], item: dict[str, Any], state: dict[str, Any], labels: dict[str, str], image: str, network: str
) -> list[str]:
    """Say what only a new container changes.

    Args:
        plan: Of one container.
        item: The engine's description of what is there.
        state: What ``container_state`` found.
        labels: Those that it should have.
        image: Id of its image; empty if that is not there yet.
        network: Id of its network.

    Returns:
        Reasons; none if what is there can stay.
    """
    reasons = []
    have, status = item["Config"].get("Labels") or {}, item["State"]["Status"]
    if have.get("quantops.hash") != plan["hash"]:
        reasons.append("image, settings, configuration or secrets changed")
    elif any(have.get(name) != value for name, value in labels.items()):
        reasons.append("labels changed")
    if item["Image"] != image:
        reasons.append("its image is a newer one of that name")
    endpoint = networks_of(item).get(plan["network"]) or {}
    if item["HostConfig"]["NetworkMode"] != plan["network"] or endpoint.get("NetworkID", network) not in ("", network):
        reasons.append("its network is another one")
    if state.get("remake"):
        reasons.append("only a new container heals it")
    if status in ("dead", "removing"):
        reasons.append(f"its state is {status}")
    if is_job(plan):
        if state.get("drift"):
            reasons.append("a job starts from a new container")
        elif not item["State"]["Running"] and (item["State"]["ExitCode"] != 0 or status == "created"):
            reasons.append(f"did not end well the last time (status {item['State']['ExitCode']})")
    return reasons


class Applier:
    """Applies plans to the containers of one engine."""

    def __init__(self, engine: Engine, labels: dict[str, Any], check_mode: bool) -> None:
        """Prepare; nothing is asked yet.

        Args:
            engine: Where the containers are.
            labels: Those of all containers.
            check_mode: Whether to change nothing.
        """
        self.engine = engine
        self.labels = labels
        self.check_mode = check_mode
        self.images: dict[str, str | EngineError] = {}
        self.networks: dict[str, str] = {}
        self.volumes: dict[str, threading.Lock] = {}
        self.warnings: list[str] = []

    def prepare(self, plans: list[dict[str, Any]], pool: ThreadPoolExecutor) -> None:
        """Look up what all containers stand on, and pull images that are not there.

        Args:
            plans: Of the containers.
            pool: Threads.

        Raises:
            EngineError: If the engine does not answer.
        """
        self.engine.version()
        looks = {name: pool.submit(self.image_id, name) for name in {plan["spec"]["image"] for plan in plans}}
        self.images = {name: look.result() for name, look in looks.items()}
        for name in {plan["network"] for plan in plans}:
            self.networks[name] = (self.engine.find("networks", name) or {}).get("Id", "")
        sources = {mount["source"] for plan in plans for mount in plan["spec"]["mounts"] if mount["type"] == "volume"}
        self.volumes = {source: threading.Lock() for source in sources}

    def image_id(self, name: str) -> str | EngineError:
        """Look up an image, and pull it if it is not there.

        Args:
            name: Its name.

        Returns:
            Its id, empty in check mode if it would be pulled; or why there is none.
        """
        try:
            item = self.engine.find("images", name)
            if item is None and not self.check_mode:
                # The client, not the API: it knows the operator's credentials for registries.
                status, out, err = docker("pull", "--quiet", name, timeout=PULL_TIMEOUT)
                if status != 0:
                    return EngineError(f"its image {name} is not on this host and cannot be pulled: {err or out}")
                item = self.engine.find("images", name)
            return (item or {}).get("Id", "")
        except EngineError as error:
            return error

    def apply(self, plan: dict[str, Any], state: dict[str, Any]) -> dict[str, Any] | None:
        """Do for one container what is needed.

        Args:
            plan: Of the container.
            state: What ``container_state`` found, or nothing.

        Returns:
            What was done; nothing if nothing had to be.

        Raises:
            EngineError: If it cannot be done, with the container's name.
        """
        begun = time.monotonic()
        if state and not state["drift"]:
            return None
        try:
            image, network = self.images[plan["spec"]["image"]], self.networks[plan["network"]]
            if isinstance(image, EngineError):
                raise image
            if not network and not self.check_mode:
                raise EngineError(f"its network {plan['network']} does not exist; the role docker_host creates it")
            item = self.engine.find("containers", plan["name"])
            action, reasons = self.act(plan, state, item, image, network)
        except (EngineError, ValueError) as error:
            raise EngineError(f"{plan['name']}: {error}") from None
        if not action:
            return None
        return {
            "name": plan["name"],
            "action": action,
            "reasons": state.get("drift") or reasons,
            "seconds": round(time.monotonic() - begun, 1),
        }

    def act(
        self, plan: dict[str, Any], state: dict[str, Any], item: dict[str, Any] | None, image: str, network: str
    ) -> tuple[str, list[str]]:
        """Choose what one container needs, and do it.

        Args:
            plan: Of the container.
            state: What ``container_state`` found, or nothing.
            item: The engine's description; nothing if there is none.
            image: Id of its image.
            network: Id of its network.

        Returns:
            What was done, and why.

        Raises:
            EngineError: If the engine refuses.
        """
        if item is None:
            self.create(plan)
            return "create", ["missing"]
        reasons = why_recreate(plan, item, state, labels_of(plan, self.labels), image, network)
        if reasons:
            self.recreate(plan, item)
            return "recreate", reasons
        if is_job(plan):
            return "", []
        return self.change_in_place(plan, state, item, network)

    def change_in_place(
        self, plan: dict[str, Any], state: dict[str, Any], item: dict[str, Any], network: str
    ) -> tuple[str, list[str]]:
        """Heal a service without a new container.

        Args:
            plan: Of the container.
            state: What ``container_state`` found, or nothing.
            item: The engine's description.
            network: Id of its network.

        Returns:
            What was done, and why.

        Raises:
            EngineError: If the engine refuses.
        """
        actions = []
        body, reasons = update_of(plan, item)
        if body:
            try:
                self.post(item, "update", body=body)
                actions.append("update")
            except ApiError:
                # A limit below what a container uses, for one, cannot be set while it runs.
                self.recreate(plan, item)
                return "recreate", reasons
        connect, others = connections_of(plan, item)
        if connect or others:
            self.connect(plan, item, network, connect, others)
            actions.append("connect")
            reasons.append(f"networks are {sorted(networks_of(item))}, declared {[plan['network']]}")
        now = item["State"]
        if now.get("Paused"):
            self.post(item, "unpause")
            actions.append("unpause")
            reasons.append("paused")
        elif now["Running"] and (state.get("hung") or now.get("Restarting")):
            timeout = plan["spec"]["stop_timeout"]
            self.post(item, "restart", query={"t": timeout}, seconds=timeout)
            actions.append("restart")
            reasons.append("does not answer its health check" if state.get("hung") else "not running (restarting)")
        elif not now["Running"]:
            self.post(item, "start")
            actions.append("start")
            reasons.append(f"not running ({now['Status']})")
        return " and ".join(actions), reasons

    def post(
        self,
        item: dict[str, Any],
        what: str,
        body: dict[str, Any] | None = None,
        query: dict[str, Any] | None = None,
        seconds: float = 0,
    ) -> None:
        """Ask the engine for something that concerns an existing container.

        Args:
            item: Its description.
            what: Last part of the path.
            body: What is sent.
            query: Parameters.
            seconds: How long the engine may take by right.

        Raises:
            EngineError: If the engine refuses.
        """
        if not self.check_mode:
            self.engine.call("POST", f"/containers/{item['Id']}/{what}", body, query, timeout=seconds + 120)

    def connect(self, plan: dict[str, Any], item: dict[str, Any], network: str, own: bool, others: list[str]) -> None:
        """Connect a container to its network and to no other.

        Args:
            plan: Of the container.
            item: The engine's description.
            network: Id of its network.
            own: Whether the connection to its network has to be made again.
            others: Names of networks that it has to leave.

        Raises:
            EngineError: If the engine refuses.
        """
        if self.check_mode:
            return
        there = plan["network"] in networks_of(item)
        for name in others + ([plan["network"]] if own and there else []):
            leave = {"Container": item["Id"], "Force": True}
            with contextlib.suppress(ApiError):  # a network that is gone, or that it left meanwhile
                self.engine.call("POST", f"/networks/{quoted(name)}/disconnect", leave)
        if own:
            endpoint = {"Container": item["Id"], "EndpointConfig": {"Aliases": plan["spec"]["aliases"]}}
            self.engine.call("POST", f"/networks/{network}/connect", endpoint)

    def recreate(self, plan: dict[str, Any], item: dict[str, Any]) -> None:
        """Replace a container. Killed in the middle, it leaves one that the next run creates: volumes stay.

        Args:
            plan: Of the container.
            item: The engine's description of the old one.

        Raises:
            EngineError: If the engine refuses.
        """
        if self.check_mode:
            return
        body = definition_of(plan, self.labels)  # before the old one goes: a plan that cannot work changes nothing
        state = item["State"]
        if state.get("Paused"):
            self.post(item, "unpause")
        if state["Running"]:
            timeout = plan["spec"]["stop_timeout"]
            self.post(item, "stop", query={"t": timeout}, seconds=timeout)
        self.remove(item)
        self.create(plan, body)

    def remove(self, item: dict[str, Any]) -> None:
        """Remove a container, and wait until it is gone; its volumes stay.

        Args:
            item: The engine's description.

        Raises:
            EngineError: If it is still there.
        """
        try:
            self.engine.call("DELETE", f"/containers/{item['Id']}", query={"force": "true", "v": "false"})
        except ApiError as error:
            # 404: gone meanwhile. 409: its removal is under way already.
            if error.status not in (404, 409):
                raise
        end = time.monotonic() + REMOVAL_TIMEOUT
        while self.engine.find("containers", item["Id"]) is not None:
            if time.monotonic() >= end:
                raise EngineError(f"the old container was not removed within {REMOVAL_TIMEOUT:.0f} s")
            time.sleep(0.2)

    def create(self, plan: dict[str, Any], body: dict[str, Any] | None = None) -> None:
        """Create a container and start it.

        Args:
            plan: Of the container.
            body: What the engine is given, if it is known already.

        Raises:
            EngineError: If the engine refuses.
        """
        if self.check_mode:
            return
        volumes = {mount["source"] for mount in plan["spec"]["mounts"] if mount["type"] == "volume"}
        with contextlib.ExitStack() as held:
            # The engine fills a new volume from the image, and must not do so for two containers at once.
            for source in sorted(volumes):
                held.enter_context(self.volumes[source])
            body = body or definition_of(plan, self.labels)
            try:
                made = self.engine.call("POST", "/containers/create", body, {"name": plan["name"]})
            except ApiError as error:
                if error.status == 409 and "already in use" in str(error):
                    raise EngineError(
                        "another run created it a moment ago. Run again when that one has ended"
                    ) from None
                raise
        self.warnings += [f"{plan['name']}: {warning}" for warning in made.get("Warnings") or []]
        self.post(made, "start")


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "containers": {"type": "list", "elements": "dict", "required": True},
            "states": {"type": "dict", "default": {}},
            "labels": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    plans, states = module.params["containers"], module.params["states"]
    changes, failures = [], []
    try:
        applier = Applier(Engine(), module.params["labels"], module.check_mode)
        with ThreadPoolExecutor(THREADS) as pool:
            applier.prepare(plans, pool)
            jobs = [pool.submit(applier.apply, plan, states.get(plan["name"]) or {}) for plan in plans]
        for job in jobs:
            try:
                changes.append(job.result())
            except EngineError as error:
                failures.append(str(error))
    except EngineError as error:
        module.fail_json(msg=f"The Docker engine cannot be asked: {error}", changes=[])
    for warning in applier.warnings:
        module.warn(warning)
    changes = [change for change in changes if change]
    if failures:
        module.fail_json(msg="\n".join(failures), changed=bool(changes), changes=changes)
    module.exit_json(changed=bool(changes), changes=changes)


if __name__ == "__main__":
    main()
