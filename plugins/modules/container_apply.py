#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Create, recreate, update and start containers, several at a time."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_apply
short_description: Create, recreate, update and start containers, several at a time
description:
  - Brings containers in line with their plans in one call, with the smallest change that is sufficient.
  - Missing containers are created. Containers whose specification differs, or that cannot be repaired otherwise, are
    recreated. Manually changed limits, restart policies and networks are corrected in place. Stopped containers are
    started, paused ones unpaused, and unresponsive ones restarted.
  - Uses the engine's API directly, because M(community.docker.docker_container) handles one container per call, at
    about 0.6 seconds of CPU time each.
  - A failure of one container does not prevent changes to the others. All failures are reported together.
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
      - Containers that it found as declared are not touched. This module compares containers that it does not contain.
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
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.container_definition import (
    definition_of,
    is_job,
    labels_of,
    limits_of,
)
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine import EngineError
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine_api import (
    ApiError,
    Engine,
    image_id,
    quoted,
    remove_container,
)

THREADS = 8
LIMITS = {
    "Memory": "memory limit",
    "MemorySwap": "limit of memory and swap",
    "NanoCpus": "CPU limit",
    "PidsLimit": "process limit",
    "CpuShares": "CPU weight",
}


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
        reasons.append("its image was updated")
    endpoint = networks_of(item).get(plan["network"]) or {}
    if item["HostConfig"]["NetworkMode"] != plan["network"] or endpoint.get("NetworkID", network) not in ("", network):
        reasons.append("its network was replaced")
    if state.get("remake"):
        reasons.append("it must be recreated to recover")
    if status in ("dead", "removing"):
        reasons.append(f"its state is {status}")
    if is_job(plan):
        if state.get("drift"):
            reasons.append("a job always runs in a new container")
        elif not item["State"]["Running"] and (item["State"]["ExitCode"] != 0 or status == "created"):
            reasons.append(f"its last run failed (status {item['State']['ExitCode']})")
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
            return image_id(self.engine, name, pull=not self.check_mode)
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
        remove_container(self.engine, item["Id"])
        self.create(plan, body)

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
                    raise EngineError("another run has just created it. Run again when that run has finished") from None
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
        module.fail_json(msg=f"Cannot connect to the Docker engine: {error}", changes=[])
    for warning in applier.warnings:
        module.warn(warning)
    changes = [change for change in changes if change]
    if failures:
        module.fail_json(msg="\n".join(failures), changed=bool(changes), changes=changes)
    module.exit_json(changed=bool(changes), changes=changes)


if __name__ == "__main__":
    main()
