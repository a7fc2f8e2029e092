# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Read the contracts of the services, and work out from the inventory who runs what and who reaches whom where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils import contracts
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.contracts import ContractError, Inventory
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.endpoints import Edge, Endpoint, Node
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.roles import CONTRACT, Views, load, role_directory

#: Files of `tasks` that a service may have; see docs/adding-a-service.md.
HOOKS = ("check", "prepare", "reconcile", "collect", "drift", "drain", "rotate", "rotated", "remove")


class ActionModule(ActionBase):
    """Runs on the controller; nothing is asked of a host."""

    _requires_connection = False

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Work out the contracts of this host.

        Args:
            tmp: Unused.
            task_vars: Variables of the task.

        Returns:
            What the module of the same name documents.

        Raises:
            AnsibleActionFail: If a contract, or a variable that one needs, cannot be read.
        """
        result = super().run(tmp, task_vars)
        self.task_vars = task_vars or {}
        # Sentences about variables that contracts name.
        self.wrong: list[str] = []
        try:
            roles = self._task.args["roles"], self._task.args.get("further", [])
            for value in roles:
                if isinstance(value, str) or not isinstance(value, (list, tuple)):
                    raise AnsibleActionFail(f"stack_service_roles is {value!r}, expected a list of names of roles.")
            return result | self.work_out([str(name) for names in roles for name in names])
        except ContractError as error:
            raise AnsibleActionFail(str(error)) from None

    # ---- contracts

    def work_out(self, roles: list[str]) -> dict[str, Any]:
        """Read the contracts and put them together.

        Args:
            roles: Names of the service roles.

        Returns:
            What the module of the same name documents.
        """
        directories, declared, names = {}, {}, {}
        for full_name in roles:
            name = full_name.rsplit(".", 1)[-1]
            role = role_directory(full_name)
            if name in declared:
                raise ContractError(f"stack_service_roles names two roles that are called {name}.")
            declared[name] = contracts.check(load(role / CONTRACT), str(role / CONTRACT))
            directories[name], names[name] = role, full_name
        contracts.check_together(declared, {name: str(role / CONTRACT) for name, role in directories.items()})
        self.views = Views(self._templar, self.task_vars, directories)
        inventory = Inventory(self.groups_of_this_stack(declared), self.views.host)
        services = {name: self.service(name, contract, inventory) for name, contract in declared.items()}
        for name, service in services.items():
            service["role"] = names[name]
        for name, service in services.items():
            # Those of this collection are left out by an empty group.
            if not service["active"] and not names[name].startswith("quantops.ibkr_stack."):
                self.wrong.append(
                    f"stack_service_roles names {names[name]}, and the inventory has no host in the group"
                    f" {service['group']}. Add one, or remove the role."
                )
        published_on = str(self.views.value(inventory.host, "stack_publish_address"))
        edge = self.edge(services)
        found = summary(services, inventory, self.endpoint, published_on, edge)
        return {**found, "problems": [*self.wrong, *found["problems"]]}

    def groups_of_this_stack(self, declared: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
        """Leave out the hosts of other stacks.

        Args:
            declared: Service to its contract.

        Returns:
            Group of a process to its hosts that have this host's ``stack_name``.
        """

        def stack(host: str) -> str:
            named = "stack_name" in self.views.of_host(host)
            return str(self.views.value(host, "stack_name") if named else self.views.shared[0]["stack_name"])

        groups = self.task_vars["groups"]
        named = {process["group"] for contract in declared.values() for process in contract["processes"].values()}
        hosts = {host for group in named for host in groups.get(group) or []}
        own = stack(self.views.host)
        same = {host for host in hosts if host == self.views.host or stack(host) == own}
        return {group: [host for host in groups.get(group) or [] if host in same] for group in named}

    @staticmethod
    def variable_of(template: str) -> str:
        """Name the variable of a template that is nothing else.

        Args:
            template: Such as ``{{ airflow_worker_concurrency }}``.

        Returns:
            The name.
        """
        return str(template).strip("{} ")

    def number(self, value: Any, where: str) -> int:
        """Read a number of slots.

        Args:
            value: What a template became.
            where: What it belongs to, for the error.

        Returns:
            The number; 0 if it is none, which is an error of the inventory.
        """
        text = str(value)
        if isinstance(value, bool) or not (text.isascii() and text.isdecimal() and int(text) > 0):
            self.wrong.append(f"{where} is {value!r}, expected a number from 1.")
            return 0
        return int(text)

    def service(self, name: str, declared: dict[str, Any], inventory: Inventory) -> dict[str, Any]:
        """Render one contract.

        Args:
            name: Name of the service.
            declared: Its contract, as in the file.
            inventory: Who runs what.

        Returns:
            The contract without templates, and what follows from the inventory.
        """
        where = str(self.views.roles[name] / CONTRACT)
        host, owner = inventory.host, inventory.owner(declared)
        here = host in inventory.all_hosts(declared)
        self.views.owners[name] = owner
        contract = {}
        for key, value in declared.items():
            if key in contracts.LOCAL and not here and key != "images":
                continue
            # The owner's variables count for all; what is built and shown on a host is that host's matter.
            view = host if here and key in (*contracts.LOCAL, "containers") else owner
            try:
                if key == "processes":
                    contract[key] = {each: dict(process) for each, process in value.items()}
                else:
                    contract[key] = self.views.render(value, view, name)
            except AnsibleError as error:
                if key == "images" and not here:
                    continue  # what an application is made from is its own host's matter
                raise ContractError(f"{where}: {key!r} cannot be evaluated for {view}: {error}") from None
            if not isinstance(contract[key], contracts.KEYS[key]):
                raise ContractError(
                    f"{where}: {key!r} is {contract[key]!r}, expected a {contracts.KEYS[key].__name__}."
                )
        for process_name, process in contract["processes"].items():
            process["hosts"] = inventory.hosts_of(declared, process_name)
            process["here"] = host in process["hosts"]
            if "slots" in process:
                process["slots"] = sum(
                    self.number(
                        self.views.render(process["slots"], each, name),
                        f"{self.variable_of(process['slots'])} of {each}",
                    )
                    for each in process["hosts"] or [owner]
                )
        for port in contract.get("ports", {}).values():
            value = self.views.value(owner, port["variable"], name)
            text = str(value)
            valid = not isinstance(value, bool) and text.isascii() and text.isdecimal() and 0 < int(text) < 65536
            port["value"] = int(value) if valid else 0
            if not valid and here:
                self.wrong.append(f"{port['variable']} is {value!r}, expected a number from 1 to 65535.")
        first = next(iter(contract["processes"]))
        used = {key: item for key, item in contract["containers"].items() if contracts.is_true(item.get("when", True))}
        contract["containers"] = {
            key: {
                "job": bool(item.get("job")),
                "process": item.get("process", first),
                "here": here and contract["processes"][item.get("process", first)]["here"],
            }
            for key, item in used.items()
        }
        contract["all_containers"] = list(declared["containers"]) if isinstance(declared["containers"], dict) else []
        contract["web"] = [
            page
            for page in contract.get("web") or []
            if contracts.is_true(page.get("when", True)) and page["container"] in used
        ]
        contract["metrics"] = {
            key: {"port": int(contract["ports"][entry["port"]]["container"]), "path": entry.get("path", "/metrics")}
            for key, entry in (contract.get("metrics") or {}).items()
            if contracts.is_true(entry.get("when", True)) and key in used
        }
        contract["data"] = {
            volume: entry
            for volume, entry in (contract.get("data") or {}).items()
            if contracts.is_true(entry.get("when", True))
        }
        contract["all_images"] = contract.get("images") or {}
        contract["images"] = [
            key for key, image in contract["all_images"].items() if contracts.is_true(image.get("when", True))
        ]
        hooks = [each for each in HOOKS if (self.views.roles[name] / "tasks" / f"{each}.yml").is_file()]
        return {
            **{key: kind() for key, kind in contracts.KEYS.items()},
            **contract,
            "address": str(self.views.value(owner, "stack_address")),
            "public_host": self.public_host(owner),
            "name": name,
            "group": next(iter(contract["processes"].values()))["group"],
            "owner": owner,
            "hosts": inventory.all_hosts(declared),
            "active": bool(inventory.hosts_of(declared)),
            "here": here,
            "directory": str(self.views.roles[name]),
            "hooks": hooks,
            # Ports in its containers that it does not publish, because the edge does.
            "hidden_ports": [],
        }

    def endpoint(self, service: Mapping[str, Any], inventory: Inventory) -> Endpoint:
        """Work out where this host reaches a service.

        Args:
            service: Its contract without templates.
            inventory: Who runs what.

        Returns:
            On the same host its name on the network, on another one that host's address and the published port.
        """
        port = next(iter(service["ports"].values()))
        owner = service["owner"]
        if owner == inventory.host:
            node = Node(service["host"], int(port["container"]))
        else:
            node = Node(service["address"], int(port["value"]))
        return Endpoint(port["scheme"], [node], self.public_host(owner), int(port["value"]))

    def edge(self, services: Mapping[str, Mapping[str, Any]]) -> Edge | None:
        """Find the service that publishes the pages of all others.

        Args:
            services: Service to its contract without templates.

        Returns:
            The one that provides ``edge``, if the inventory has it.
        """
        for name, service in services.items():
            if service["active"] and "edge" in service["provides"]:
                owner = service["owner"]
                domain, left_out = (self.views.value(owner, f"{name}_{key}", name) for key in ("domain", "left_out"))
                port = next(iter(service["ports"].values()))["value"]
                return Edge(name, owner, self.public_host(owner), str(domain), port, tuple(map(str, left_out)))
        return None

    def public_host(self, host: str) -> str:
        """Find the name under which a browser reaches a host.

        Args:
            host: Its name in the inventory.

        Returns:
            What the inventory says in ``stack_public_host``. The default is good for a browser on the host itself; of
            another host the address is better.
        """
        known = host == self.views.host or "stack_public_host" in self.views.of_host(host)
        return str(self.views.value(host, "stack_public_host" if known else "stack_address"))


def put_in_front(edge: Edge, services: dict[str, dict[str, Any]], active: list[str], inventory: Inventory) -> None:
    """Let the edge be the only one that publishes pages.

    Args:
        edge: The service in front of all pages.
        services: Service to its contract without templates; changed.
        active: Services that the inventory has.
        inventory: Who runs what.
    """
    behind = [name for name in active if name != edge.service]
    hidden = {name: {page["port"] for page in services[name]["web"]} for name in behind}
    for name in behind:
        service = services[name]
        service["web"] = [page for page in service["web"] if page["name"] not in edge.left_out]
        for page in service["web"]:
            port = service["ports"][page["port"]]["container"]
            near = service["owner"] == edge.host
            place = f"{page['container']}:{port}" if near else f"{service['address']}:{page['published']}"
            page["upstream"] = f"{page['scheme']}://{place}"
            page["scheme"] = "https" if edge.domain else "http"
            page["published"] = edge.port if edge.domain else page["published"]
    # Where they have ports, it has none of its own, and its start page is one of each of theirs.
    if not edge.domain:
        pages = [page for name in behind for page in services[name]["web"]]
        # That of the page which most may see.
        most = max(pages, key=lambda page: len(page.get("roles") or {}), default=None)
        for page in services[edge.service]["web"] if most else []:
            page |= {key: most[key] for key in ("published", "origin")}
            page |= {"scheme": "http", "path": "/.edge/", "public_url": f"{most['origin']}/.edge/"}
    # It starts once they no longer hold their ports, and reaches those on other hosts.
    front = services[edge.service]
    front["needs"] = list(dict.fromkeys([*front["needs"], *(name for name in behind if services[name]["web"])]))
    # What nobody on another host asks for is reached on the containers' network alone.
    for name in behind:
        service = services[name]
        reached = {each for other in active if name in services[other]["needs"] for each in services[other]["hosts"]}
        if service["here"] and not reached - {inventory.host}:
            service["hidden_ports"] = sorted(int(service["ports"][each]["container"]) for each in hidden[name])


def summary(
    services: dict[str, dict[str, Any]], inventory: Inventory, endpoint: Any, published_on: str, edge: Edge | None
) -> dict[str, Any]:
    """Put together what several services need of the contracts.

    Args:
        services: Service to its contract without templates.
        inventory: Who runs what.
        endpoint: Works out the endpoint of a service.
        published_on: Address of this host on which its ports are published.
        edge: The service in front of all pages, if there is one.

    Returns:
        What the module documents.
    """
    active = [name for name, service in services.items() if service["active"]]
    endpoints = {name: endpoint(services[name], inventory) for name in active if services[name]["ports"]}
    for name in active:
        service = services[name]
        for page, page_name in zip(service["web"], contracts.page_names(name, service["web"]), strict=True):
            port = service["ports"][page["port"]]
            page["published"] = port["value"]
            page["scheme"] = port["scheme"]
            page["service"] = name
            page["name"] = page_name
            found = replace(endpoints[name], scheme=port["scheme"], public_port=port["value"])
            if edge:
                found = edge.in_front_of(found, "" if name == edge.service else page_name)
                if page["port"] == next(iter(service["ports"])):
                    endpoints[name] = replace(found, scheme=endpoints[name].scheme)
            page["origin"] = found.public_url
            page["public_url"] = f"{found.public_url}{page.get('path', '/')}"
    if edge:
        put_in_front(edge, services, active, inventory)
    wanted = {name: contracts.client_secrets(services[name]) for name in services}
    identities = {
        contracts.identity_secret(name): name for name in services if contracts.wants_identity(services[name])
    }
    if edge:
        wanted[edge.service] |= {each: ("password", name) for each, name in identities.items() if name in active}
    tokens = contracts.token_clients(services, active if edge else [])
    for name, clients in tokens.items():
        for client, secret in clients.items():
            wanted[client][secret] = ("password", name)
    every_token = [secret for each in contracts.token_clients(services, services).values() for secret in each.values()]
    kinds = {
        name: {**services[name]["secrets"], **{each: kind for each, (kind, _checker) in wanted[name].items()}}
        for name in services
    }
    for name, service in services.items():
        service["secret_checkers"] = {each: checker for each, (_kind, checker) in wanted[name].items()}
    here = [name for name, service in services.items() if service["here"]]
    exposed = {name: hosts for name in here if (hosts := contracts.other_hosts(services, name, inventory.host))}
    return {
        "services": services,
        "active": active,
        "here": here,
        "images": list(dict.fromkeys(image for name in here for image in services[name]["images"])),
        "hosts": list(dict.fromkeys(host for name in services for host in services[name]["hosts"])),
        "waves": contracts.waves({name: services[name]["needs"] for name in active}),
        # Services of this host that another host needs.
        "exposed": list(exposed),
        "endpoints": {name: each.as_dict() for name, each in endpoints.items()},
        "links": [page for name in active for page in services[name]["web"]],
        "edge": edge.service if edge else "",
        "tokens": tokens,
        "origins": {page["name"]: page["origin"] for name in active for page in services[name]["web"]},
        "pages": [
            page
            for name in here
            for page in services[name]["web"]
            if services[name]["containers"][page["container"]]["here"]
        ],
        "secrets": {each: kind for name in active for each, kind in kinds[name].items()},
        "secret_kinds": {
            **dict.fromkeys([*identities, *every_token], "password"),
            **{each: kind for name in services for each, kind in kinds[name].items()},
        },
        # Names under which programs and browsers reach the services that have a certificate of the stack's.
        "tls_names": list(
            dict.fromkeys(
                each
                for name in active or services
                if "tls" in services[name]["secrets"].values()
                for each in (
                    services[name]["host"],
                    "localhost",
                    "127.0.0.1",
                    services[name]["public_host"],
                    services[name]["address"],
                )
            )
        ),
        "version_files": [
            f"{volume}/{entry['version_file']}"
            for name in here
            for volume, entry in services[name]["data"].items()
            if "version_file" in entry
        ],
        "port_variables": {
            port["variable"]: port["value"] for name in here for port in services[name]["ports"].values()
        },
        "databases": {
            database: int(float((entry or {}).get("connections", 10)))
            for name in active
            for database, entry in services[name]["databases"].items()
        },
        "buckets": [bucket for name in active for bucket in services[name]["buckets"]],
        "redis_users": {
            user: entry for name in active for user, entry in (services[name]["redis"].get("users") or {}).items()
        },
        "redis_databases": {
            key: number for name in services for key, number in (services[name]["redis"].get("databases") or {}).items()
        },
        "problems": [
            *contracts.problems(services, inventory),
            *contracts.unreachable(services, exposed, published_on),
            *(contracts.page_problems({name: services[name] for name in active}) if edge else []),
        ],
    }
