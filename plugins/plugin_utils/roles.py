# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Service roles on disk, and their variables as a host sees them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

CONTRACT = Path("meta", "service.yml")
#: A variable that stands for a part of the contracts.
ALIAS = re.compile(r"{{ stack_contract\.(\w+) }}")
STACK = Path(__file__).parents[2] / "roles" / "stack"
SECRETS = STACK.parent / "secrets"


def role_directory(name: str) -> Path:
    """Find a service role.

    Args:
        name: Fully qualified name of a role in a collection, or the name of a role in Ansible's search path of roles.

    Returns:
        Its directory.

    Raises:
        AnsibleActionFail: If there is none with a contract.
    """
    if name.count(".") >= 2:
        namespace, collection, role = name.split(".", 2)
        try:
            module = importlib.import_module(f"ansible_collections.{namespace}.{collection}")
        except ImportError:
            raise AnsibleActionFail(
                f"stack_service_roles names {name}, and Ansible finds no collection {namespace}.{collection}."
                " Install it, or add the directory above its ansible_collections to ANSIBLE_COLLECTIONS_PATH."
            ) from None
        candidates = [Path(path, "roles", *role.split(".")) for path in module.__path__]
    else:
        candidates = [Path(path, name) for path in constants.DEFAULT_ROLES_PATH or []]
    for candidate in candidates:
        if (candidate / CONTRACT).is_file():
            return candidate
    places = ", ".join(str(candidate / CONTRACT) for candidate in candidates)
    raise AnsibleActionFail(f"stack_service_roles names {name}, and there is no contract of such a role: {places}.")


def load(path: Path) -> Any:
    """Read a YAML file whose texts may be templates.

    Args:
        path: The file.

    Returns:
        Its content, or nothing if there is no such file.
    """
    if not path.is_file():
        return None
    # `unsafe` only spares a copy of the whole, which would protect a cache that is not used here.
    return DataLoader().load_from_file(str(path), cache="none", unsafe=True, trusted_as_template=True)


def variables_of(role: Path, kind: str) -> dict[str, Any]:
    """Read a role's defaults or variables.

    Args:
        role: Its directory.
        kind: ``defaults`` or ``vars``.

    Returns:
        Name to value, not rendered.
    """
    found: dict[str, Any] = {}
    main = role / kind / "main"
    for path in [main.with_suffix(".yml"), *sorted(main.glob("*.yml"))]:
        found |= load(path) or {}
    return found


def plain(value: Any) -> Any:
    """Copy a value without what Ansible's templates attach to it.

    Args:
        value: A rendered value.

    Returns:
        Dictionaries, lists, texts, numbers, and truth values.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


class Views:
    """The variables of hosts as service roles see them, also where the role does not run."""

    def __init__(
        self,
        templar: Templar,
        task_vars: Mapping[str, Any],
        roles: Mapping[str, Path],
        owners: Mapping[str, str] | None = None,
    ) -> None:
        """Read the variables of the roles.

        Args:
            templar: The task's, for its settings.
            task_vars: Variables of the task; they count as those of its host.
            roles: Service to the directory of its role.
            owners: Service to the host whose variables of it, those that begin with its name, count for hosts that
            run another of its
                processes, unless these have their own.
        """
        self.owners = dict(owners or {})
        self.templar, self.task_vars, self.roles = templar, task_vars, roles
        self.host: str = task_vars["inventory_hostname"]
        self.shared = (variables_of(STACK, "defaults"), variables_of(STACK, "vars"))
        self._aliases = {
            name: match[1] for name, value in self.shared[1].items() if (match := ALIAS.fullmatch(str(value)))
        }
        self.own = {name: (variables_of(role, "defaults"), variables_of(role, "vars")) for name, role in roles.items()}
        self._hosts: dict[str, Mapping[str, Any]] = {self.host: task_vars}
        self._templars: dict[tuple[str, str], Templar] = {}

    def of_host(self, host: str) -> Mapping[str, Any]:
        """Look up what the inventory says of a host.

        Args:
            host: Its name.

        Returns:
            Name to value, not rendered. Of this host also those of the play and the task.
        """
        if host not in self._hosts:
            self._hosts[host] = self.task_vars["hostvars"].raw_get(host)
        return self._hosts[host]

    def variables(self, host: str, service: str) -> dict[str, Any]:
        """Lay the variables of a host over the defaults of roles, and the roles' own variables over them.

        Args:
            host: Name of the host.
            service: Service whose role counts; empty for none but ``stack``.

        Returns:
            Name to value, not rendered.
        """
        defaults, above = self.own[service] if service else ({}, {})
        owner = self.owners.get(service, host)
        shared = self.shared_by(owner, service) if owner != host else {}
        search = {"ansible_search_path": [str(self.roles[service])]} if service else {}
        known = self.of_host(host)
        contract = known.get("stack_contract") or {}
        # Looked up once: each mention of a template is compiled again.
        aliases = {name: contract[key] for name, key in self._aliases.items() if key in contract}
        return {**self.shared[0], **defaults, **shared, **known, **self.shared[1], **aliases, **above, **search}

    def shared_by(self, owner: str, service: str) -> dict[str, Any]:
        """Render the variables of a service as its owner sees them.

        Args:
            owner: Host whose variables count.
            service: The service, whose name they begin with.

        Returns:
            Name to value. What cannot be rendered yet, such as a secret before secrets are read, stays a template.
        """
        found = {}
        for name, value in self.of_host(owner).items():
            if name.startswith(f"{service}_"):
                try:
                    found[name] = self.render(value, owner, service)
                except AnsibleError:
                    found[name] = value
        return found

    def render(self, value: Any, host: str, service: str = "") -> Any:
        """Render templates as a host would.

        Args:
            value: What holds them.
            host: Name of the host.
            service: Service whose role's variables count too.

        Returns:
            The value without templates.
        """
        key = (host, service)
        if key not in self._templars:
            self._templars[key] = self.templar.copy_with_new_env(available_variables=self.variables(host, service))
        return plain(self._templars[key].template(value))

    def declared(self, service: str, suffix: str, default: Any) -> Any:
        """Look up what a service's role says of itself on this host.

        Args:
            service: Name of the service.
            suffix: The variable's name after that of the service, such as ``containers``.
            default: What counts if there is no such variable.

        Returns:
            Its value without templates.
        """
        variables, name = self.variables(self.host, service), f"{service}_{suffix}"
        return self.render(variables[name], self.host, service) if name in variables else default

    def value(self, host: str, name: str, service: str = "") -> Any:
        """Look up a variable of a host.

        Args:
            host: Name of the host.
            name: Name of the variable.
            service: Service whose role's variables count too.

        Returns:
            Its value without templates.

        Raises:
            AnsibleActionFail: If it has none.
        """
        variables = self.variables(host, service)
        if name not in variables:
            raise AnsibleActionFail(f"The variable {name}, which the contract of {service} names, has no value.")
        try:
            return self.render(variables[name], host, service)
        except AnsibleError as error:
            raise AnsibleActionFail(f"The variable {name} of {host} cannot be evaluated: {error}") from None
