# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run a program in a container of its own, made like one of a service's containers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleFilterError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.containers import run_plan
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.roles import Views

MODULE = "quantops.ibkr_stack.container_run_plan"
OPTIONS = ("pull", "lock", "stdin", "timeout", "expected")


class ActionModule(ActionBase):
    """Plans the container on the controller; a module runs it on the host."""

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the program.

        Args:
            tmp: Unused.
            task_vars: Variables of the task.

        Returns:
            What the module of the same name documents.

        Raises:
            AnsibleActionFail: If it cannot run as it is asked for, with the key that is wrong.
        """
        result = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        args = self._task.args
        plan = self.plan(args, task_vars)
        module_args = {key: args[key] for key in OPTIONS if key in args}
        module_args |= {"plan": plan, "stack": args["settings"]["stack"]}
        result.update(self._execute_module(module_name=MODULE, module_args=module_args, task_vars=task_vars))
        return result

    def plan(self, args: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        """Plan the container.

        Args:
            args: Of the task.
            task_vars: Variables of the task.

        Returns:
            What ``run_plan`` returns, and the service that it belongs to.

        Raises:
            AnsibleActionFail: If it cannot run as it is asked for, with the key that is wrong.
        """
        service, contract, like, name = (args[key] for key in ("service", "contract", "container", "name"))
        if name in contract["all_containers"]:
            raise AnsibleActionFail(f"The run {name} is called like a container of {service}. Choose another name.")
        views = Views(self._templar, task_vars, {service: Path(contract["directory"])}, {service: contract["owner"]})
        declared = {each["name"]: each for each in views.declared(service, "containers", []) if each}
        if like not in declared:
            raise AnsibleActionFail(
                f"The run {name} is to be like {like!r}, which {service}_containers does not declare."
                f" Declared are {', '.join(declared)}."
            )
        overrides = views.declared(service, "overrides", {}).get(like) or {}
        network = boolean(args.get("network", True))
        try:
            plan = run_plan(
                declared[like],
                args["settings"],
                name,
                args.get("changes"),
                overrides,
                f"{service}_overrides",
                network,
            )
        except AnsibleFilterError as error:
            raise AnsibleActionFail(str(error)) from None
        return {**plan, "owner": service}
