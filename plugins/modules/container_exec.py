#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run a program in a container that runs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_exec
short_description: Run a program in a container that runs
description:
  - Runs a program in a container beside what runs there, gives it its input, and returns what it prints.
  - Input and command reach the engine through its socket, so that neither is on a command line of the host. The
    command can be read in the process list while it runs; a secret belongs in O(stdin).
  - The role P(quantops.ibkr_stack.container_service#role) has it as its entry point C(exec).
options:
  container:
    description: Name of the container on the host.
    type: str
    required: true
  command:
    description: Program and arguments.
    type: list
    elements: str
    required: true
  changed_pattern:
    description: Regular expression; the task counts as a change if a part of the standard output matches it.
    type: str
    default: ""
extends_documentation_fragment: quantops.ibkr_stack.program
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Count the rows of a table
  quantops.ibkr_stack.container_exec:
    container: desk-postgres
    command: [psql, --no-psqlrc, --tuples-only, --no-align, --username=postgres, --file=-]
    stdin: SELECT count(*) FROM bars;
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
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine import EngineError
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine_api import Engine
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine_streams import (
    OPTIONS,
    Conversation,
    OutOfTimeError,
    finish,
    report,
)


def end_process(engine: Engine, exec_id: str, container: str) -> bool:
    """End a program that the engine runs in a container; its API cannot.

    Args:
        engine: Where it runs.
        exec_id: The engine's id of it.
        container: Id of the container.

    Returns:
        Whether it was ended. It is left alone where its process cannot be told from others, as when this module runs
        in a container itself.
    """
    with contextlib.suppress(EngineError, OSError):
        pid = engine.call("GET", f"/exec/{exec_id}/json").get("Pid") or 0
        if pid and container in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8"):
            os.kill(pid, signal.SIGKILL)
            return True
    return False


def execute(engine: Engine, asked: dict[str, Any]) -> dict[str, Any]:
    """Run the program.

    Args:
        engine: Where the container is.
        asked: Parameters of the module.

    Returns:
        What ``report`` returns.

    Raises:
        EngineError: If it cannot be run, or does not end in time.
    """
    name, command = asked["container"], asked["command"]
    what = f"{command[0]} in {name}"
    item = engine.find("containers", name)
    if item is None:
        raise EngineError(f"there is no container {name} on this host. Run site.yml, which creates it")
    if not item["State"]["Running"]:
        raise EngineError(f"the container {name} does not run ({item['State']['Status']}). Run site.yml or start.yml")
    body = {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "Cmd": command}
    made = engine.call("POST", f"/containers/{item['Id']}/exec", body)["Id"]
    end = time.monotonic() + asked["timeout"]
    conversation = Conversation(engine, f"/exec/{made}/start", {"Detach": False, "Tty": False})
    try:
        conversation.hold(asked["stdin"], end)
    except OutOfTimeError:
        ended = end_process(engine, made, item["Id"])
        raise EngineError(
            f"{what} did not end within {asked['timeout']} s and {'was ended' if ended else 'may still run'}"
        ) from None
    # The engine may need a moment to notice that a program whose output is closed has ended.
    while (state := engine.call("GET", f"/exec/{made}/json"))["Running"]:
        if time.monotonic() >= end:
            raise EngineError(f"{what} closed its output and did not end within {asked['timeout']} s")
        time.sleep(0.05)
    return report(conversation, int(state["ExitCode"]), asked["expected"], what)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "container": {"type": "str", "required": True},
            "command": {"type": "list", "elements": "str", "required": True},
            **OPTIONS,
            "changed_pattern": {"type": "str", "default": ""},
        },
    )
    try:
        result = execute(Engine(), module.params)
    except EngineError as error:
        module.fail_json(msg=f"{module.params['container']}: {error}")
    pattern = module.params["changed_pattern"]
    finish(module, result, changed=bool(pattern and re.search(pattern, result["stdout"])))


if __name__ == "__main__":
    main()
