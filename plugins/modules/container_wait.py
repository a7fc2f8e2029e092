#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Wait for several containers at once."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_wait
short_description: Wait for several containers at once
description:
  - Waits until every service is healthy and every job has exited with status 0.
  - Runs the containers' health checks itself instead of waiting for the engine's next interval.
  - Fails when a container ends or keeps restarting, with its last health output and its last log lines.
options:
  names:
    description: Names of the containers. A container without a restart policy is a job, any other a service.
    type: list
    elements: str
    default: []
  groups:
    description: Instead of O(names), groups of names; the wait ends as soon as all of one group are ready.
    type: dict
    default: {}
  timeout:
    description: Seconds after which the module fails if containers are not ready.
    type: int
    default: 300
  slice:
    description: Seconds of one call on the host. Set by the action plugin, which says every slice what is awaited.
    type: int
    default: 10
  restarts:
    description: Container to how often the engine had restarted it when the wait began, so that earlier restarts do not
      count. Set by the action plugin from what the previous slice returned.
    type: dict
    default: {}
  final:
    description: Fail when something is still awaited at the end of the call. Set by the action plugin.
    type: bool
    default: false
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Wait
  quantops.ibkr_stack.container_wait:
    names: [quantops-postgres, quantops-redis]
    timeout: 120
"""

RETURN = r"""
done:
  description: Groups of which all are ready.
  returned: always
  type: list
  elements: str
waiting:
  description: Names that are not ready yet.
  returned: always
  type: list
  elements: str
restarts:
  description: Container to how often the engine had restarted it when the wait began.
  returned: always
  type: dict
progress:
  description: A sentence for the person who waits.
  returned: always
  type: str
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine import (
    EngineError,
    docker,
    probe,
    why_it_ended,
)
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine_api import Engine

PAUSE = 0.5  # seconds between two looks
RESTARTS = 3  # a service that restarted so often during the wait will not come up by waiting


def verdict(name: str, item: dict | None, restarts: int = 0) -> tuple[str, str]:
    """Judge one container.

    Args:
        name: Container.
        item: The engine's description, or nothing.
        restarts: How often the engine had restarted it when the wait began. The engine counts over the whole life of a
            container, and one that it restarted last month is not failing now.

    Returns:
        ``ready``, ``waiting`` or ``failed``, and the reason.
    """
    if item is None:
        return "failed", "the container does not exist"
    state = item["State"]
    if item["HostConfig"]["RestartPolicy"]["Name"] in ("", "no"):
        if state["Running"] or state["Status"] == "created":
            return "waiting", "still at work"
        return ("ready", "") if state["ExitCode"] == 0 else ("failed", f"ended with status {state['ExitCode']}")
    if state["Status"] == "exited":
        return "failed", f"ended with status {state['ExitCode']}" + why_it_ended(state)
    restarted = item["RestartCount"] - restarts
    if restarted >= RESTARTS:
        return "failed", f"keeps restarting ({restarted} times), the last status was {state['ExitCode']}"
    if not state["Running"]:
        return "waiting", state["Status"]
    health = state.get("Health") or {}
    if health.get("Status") == "healthy":
        return "ready", ""
    status, said = probe(name, item)
    return ("ready", "") if status == 0 else ("waiting", said or "its health check fails without a word")


def describe(name: str, reason: str) -> str:
    """Say why a container is not ready.

    Args:
        name: Container.
        reason: What is known.

    Returns:
        Several lines, with the last lines of its log.
    """
    _status, out, err = docker("logs", "--tail", "25", name)
    log = "\n".join(f"    {line}" for line in (out + err).strip().splitlines()) or "    (its log is empty)"
    return f"{name}: {reason}\n  the last lines of its log (docker logs {name}):\n{log}"


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "default": []},
            "groups": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 300},
            "slice": {"type": "int", "default": 10},
            "restarts": {"type": "dict", "default": {}},
            "final": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    groups: dict[str, list[str]] = module.params["groups"]
    open_ones = list(dict.fromkeys([*module.params["names"], *(name for names in groups.values() for name in names)]))
    total = len(open_ones)
    if module.check_mode:
        module.exit_json(changed=False, waiting=[], done=list(groups), restarts={}, progress="check mode: not waiting")
    reasons: dict[str, str] = {}
    restarts: dict[str, int] = dict(module.params["restarts"])
    end = time.monotonic() + module.params["slice"]
    while True:
        try:
            existing = Engine().inspect(open_ones)
        except EngineError as error:
            module.fail_json(msg=f"Cannot connect to the Docker engine: {error}")
        for name in list(open_ones):
            count = (existing.get(name) or {}).get("RestartCount", 0)
            # A start by hand makes the engine count from 0 again.
            restarts[name] = min(count, int(restarts.get(name, count)))
            state, reason = verdict(name, existing.get(name), restarts[name])
            reasons[name] = reason
            if state == "failed":
                module.fail_json(msg=describe(name, reason))
            if state == "ready":
                open_ones.remove(name)
        done = [group for group, names in groups.items() if not set(names) & set(open_ones)]
        if not open_ones or done or time.monotonic() >= end:
            break
        time.sleep(PAUSE)
    if open_ones and not done and module.params["final"]:
        texts = "\n".join(describe(name, f"not ready in time: {reasons[name]}") for name in open_ones)
        module.fail_json(msg=texts)
    module.exit_json(
        changed=False,
        waiting=[] if done else open_ones,
        done=done,
        restarts=restarts,
        progress=f"{total - len(open_ones)} of {total} ready, waiting for {', '.join(open_ones)}" if open_ones else "",
    )


if __name__ == "__main__":
    main()
