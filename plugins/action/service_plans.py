# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plan the containers of a host's services, each once a run."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError, AnsibleFilterError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils import contracts
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.containers import container_plan, without_ports
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.plan_checks import port_conflicts
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.roles import Views, load
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.settings import did_you_mean, unknown_keys


class ActionModule(ActionBase):
    """Runs on the controller; nothing is asked of a host."""

    _requires_connection = False

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Plan the containers.

        Args:
            tmp: Unused.
            task_vars: Variables of the task.

        Returns:
            What the module of the same name documents.

        Raises:
            AnsibleActionFail: If a variable or a declaration cannot work, with its name and what is expected.
        """
        result = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        services: Mapping[str, Any] = self._task.args["contracts"]
        names: list[str] = self._task.args["services"]
        directories = {name: Path(services[name]["directory"]) for name in names}
        views = Views(self._templar, task_vars, directories, {name: services[name]["owner"] for name in names})
        if self._task.args.get("validate_only"):
            wrong = [sentence for name in names for sentence in self.invalid_arguments(views, name)]
            if wrong:
                raise AnsibleActionFail("\n".join(wrong))
            return {**result, "changed": False, "plans": {}}
        plans = {name: self.plan(views, name, services[name], self._task.args["settings"]) for name in names}
        return {**result, "changed": False, "plans": plans}

    @staticmethod
    def invalid_arguments(views: Views, name: str) -> list[str]:
        """Compare what the inventory sets with the role's argument specs.

        Args:
            views: Variables of hosts.
            name: Name of the service.

        Returns:
            A sentence for each that does not fit.
        """
        specs = load(views.roles[name] / "meta" / "argument_specs.yml") or {}
        options = (specs.get("argument_specs") or {}).get("main", {}).get("options") or {}
        known = views.of_host(views.host)
        found = {option: views.render(known[option], views.host, name) for option in options if option in known}
        checked = ArgumentSpecValidator({option: options[option] for option in found}).validate(found)
        return [f"{message}." if not message.endswith(".") else message for message in checked.error_messages]

    @staticmethod
    def plan(views: Views, name: str, contract: Mapping[str, Any], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Plan the containers of a service.

        Args:
            views: Variables of hosts.
            name: Name of the service.
            contract: Its contract without templates.
            settings: What every plan needs to know.

        Returns:
            What ``container_plan`` returns for the containers of this host.

        Raises:
            AnsibleActionFail: If a declaration cannot work, or is not one of the contract's.
        """

        here = {each: entry for each, entry in contract["containers"].items() if entry["here"]}
        # Only those of this host are rendered: others may need what this host does not have.
        try:
            declared = [container for container in views.declared(name, "containers", []) if container]
        except AnsibleError as error:
            absent = re.search(r"has no attribute '(\w+)'", str(error))
            near = difflib.get_close_matches(absent[1], list(views.value(views.host, "secrets")), 1) if absent else []
            hint = f" Did you mean secrets.{near[0]}?" if near else ""
            raise AnsibleActionFail(f"{name}_containers cannot be rendered: {error}{hint}") from error
        unknown = [each["name"] for each in declared if each.get("name") not in contract["all_containers"]]
        if unknown:
            names = sorted(contract["all_containers"])
            raise AnsibleActionFail(
                f"{name}_containers declares {', '.join(map(repr, unknown))}, which 'containers' in"
                f" {contract['directory']}/meta/service.yml does not name."
                f" {did_you_mean(str(unknown[0]), names, 'It names ' + ', '.join(names) + '.')}"
            )
        if wrong := contracts.unmounted(contract, declared):
            raise AnsibleActionFail("\n".join(wrong))
        chosen = [
            without_ports({**each, "kind": "job" if here[each["name"]]["job"] else "service"}, contract["hidden_ports"])
            for each in declared
            if each["name"] in here
        ]
        missing = sorted(here.keys() - {each["name"] for each in chosen})
        if missing:
            raise AnsibleActionFail(
                f"{name}_containers does not declare {', '.join(missing)}, which the contract names."
            )
        try:
            overrides = views.declared(name, "overrides", {})
            unknown_keys(overrides, contract["all_containers"], f"{name}_overrides")
            overrides = {key: change for key, change in overrides.items() if key in here}
            rules = views.declared(name, "rules", {})
            plans = container_plan(chosen, settings, overrides, f"{name}_overrides", rules)
        except AnsibleFilterError as error:
            raise AnsibleActionFail(str(error)) from None
        # Here too, not only where all services of the host are compared with it: a role may run alone.
        variables = {port["variable"]: port["value"] for port in contract["ports"].values()}
        if wrong := port_conflicts(plans, {}, variables):
            raise AnsibleActionFail("\n".join(wrong))
        recreate = contracts.is_true(views.declared(name, "recreate", False))
        return [{**plan, "owner": name, "recreate": recreate} for plan in plans]
