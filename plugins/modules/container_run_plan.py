#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run a planned container to its end."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_run_plan
short_description: Run a planned container to its end
description:
  - Creates a container from a plan, gives it its input, returns what it prints, and removes it.
  - M(quantops.ibkr_stack.container_run) makes the plan from a service's declaration, and is what playbooks use.
options:
  plan:
    description: The container, as M(quantops.ibkr_stack.container_run) plans it.
    type: dict
    required: true
  stack:
    description: Name of the stack.
    type: str
    required: true
  pull:
    description: Whether its image is pulled if the host lacks it; otherwise nothing runs, and RV(rc) is not set.
    type: bool
    default: true
extends_documentation_fragment: quantops.ibkr_stack.program
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Run a planned container
  quantops.ibkr_stack.container_run_plan:
    plan: "{{ plan }}"
    stack: desk
"""

RETURN = r"""
rc:
  description: Exit status of the program.
  returned: when it ended
  type: int
stdout:
  description: What it printed; of more than 4 MiB the last part.
  returned: when it ended
  type: str
stdout_lines:
  description: The same by lines.
  returned: when it ended
  type: list
  elements: str
stderr:
  description: What it wrote to standard error.
  returned: when it ended with another status than 0
  type: str
"""

import contextlib
import http.client
import json
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.container_definition import definition_of
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine import EngineError
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine_api import (
    Engine,
    UnixConnection,
    image_id,
    remove_container,
)
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine_streams import (
    OPTIONS,
    Conversation,
    OutOfTimeError,
    finish,
    report,
)

KIND = "run"


def definition_of_run(plan: dict[str, Any], stack: str, lock: str) -> dict[str, Any]:
    """Write the plan of a container that runs once as the engine takes it.

    Args:
        plan: Of the container.
        stack: Name of the stack.
        lock: Name of the lock under which it runs; empty if under none.

    Returns:
        The body of the request that creates it. Its labels are those by which it is found and removed.
    """
    body = definition_of(plan, {})
    body["Labels"] = {
        "quantops.stack": stack,
        "quantops.service": plan["service"],
        "quantops.owner": plan["owner"],
        "quantops.kind": KIND,
        "quantops.lock": lock,
    }
    body |= {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "OpenStdin": True, "StdinOnce": True}
    body["HostConfig"]["AutoRemove"] = True
    if plan["network"] == "none":
        del body["NetworkingConfig"]
    return body


def remove_left(engine: Engine, name: str, stack: str, lock: str) -> None:
    """Remove what a killed run has left under a name.

    Args:
        engine: Where it is.
        name: Of the container.
        stack: Name of the stack.
        lock: Name of the lock that this run holds; empty if it holds none.

    Raises:
        EngineError: If it is something else, belongs to a run that may hold another lock, or cannot be removed.
    """
    item = engine.find("containers", name)
    if item is None:
        return
    labels = item["Config"].get("Labels") or {}
    if (labels.get("quantops.stack"), labels.get("quantops.kind")) != (stack, KIND):
        raise EngineError("a container of that name exists and was not made for a run. Remove or rename it")
    if labels.get("quantops.lock", "") not in ("", lock) and item["State"].get("Running"):
        raise EngineError("another run is at work in a container of that name. Run this again when it has ended")
    remove_container(engine, item["Id"])


class End:
    """Waits for the end of a container that the engine removes then."""

    def __init__(self, engine: Engine, container: str, seconds: float) -> None:
        """Register for it; what happens from now on is not missed.

        Args:
            engine: Where it is.
            container: Its id.
            seconds: How long the engine may stay silent.

        Raises:
            EngineError: If the engine refuses.
        """
        self.connection = UnixConnection(engine.path, seconds)
        self.connection.request("POST", f"/v{engine.version()}/containers/{container}/wait?condition=removed")
        self.answer = self.connection.getresponse()
        if self.answer.status != 200:
            raise EngineError(f"the engine does not say how it ends: {self.answer.read().decode(errors='replace')}")

    def status(self) -> int:
        """Wait.

        Returns:
            Exit status.

        Raises:
            EngineError: If the engine does not say it.
        """
        try:
            return int(json.loads(self.answer.read())["StatusCode"])
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            raise EngineError(f"the engine does not say how it ended: {error!r}") from None
        finally:
            self.connection.close()


def run(engine: Engine, asked: dict[str, Any]) -> dict[str, Any]:
    """Run the program.

    Args:
        engine: Where the container is made.
        asked: Parameters of the module.

    Returns:
        What ``report`` returns; only a ``msg`` if its image is not there and may not be pulled.

    Raises:
        EngineError: If it cannot be run, or does not end in time.
    """
    plan, stack, seconds = asked["plan"], asked["stack"], asked["timeout"]
    body = definition_of_run(plan, stack, asked["lock"])
    if not image_id(engine, plan["spec"]["image"], pull=asked["pull"]):
        return {"failed": False, "msg": f"{plan['name']}: its image {plan['spec']['image']} is not on this host"}
    remove_left(engine, plan["name"], stack, asked["lock"])
    made = engine.call("POST", "/containers/create", body, {"name": plan["name"]})["Id"]
    try:
        end = End(engine, made, seconds + 120)
        streams = {"stream": 1, "stdin": 1, "stdout": 1, "stderr": 1}
        conversation = Conversation(engine, f"/containers/{made}/attach", query=streams)
        engine.call("POST", f"/containers/{made}/start")
        try:
            conversation.hold(asked["stdin"], time.monotonic() + seconds)
        except OutOfTimeError:
            raise EngineError(f"it did not end within {seconds} s, and was removed") from None
        return report(conversation, end.status(), asked["expected"], f"{plan['name']} ({plan['spec']['image']})")
    finally:
        # The engine has removed it already, unless something went wrong.
        with contextlib.suppress(EngineError):
            engine.call("DELETE", f"/containers/{made}", query={"force": "true", "v": "true"})


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "plan": {"type": "dict", "required": True},
            "stack": {"type": "str", "required": True},
            "pull": {"type": "bool", "default": True},
            "lock": {"type": "str", "default": ""},
            **OPTIONS,
        },
    )
    try:
        result = run(Engine(), module.params)
    except EngineError as error:
        module.fail_json(msg=f"{module.params['plan']['name']}: {error}")
    finish(module, result)


if __name__ == "__main__":
    main()
