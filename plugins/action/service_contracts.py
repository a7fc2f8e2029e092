# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Read the contracts of the services, and work out from the inventory who runs what and who reaches whom where."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils import contracts, mesh
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.contracts import ContractError, Inventory
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.endpoints import Edge, Endpoint, Node
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.mesh import MeshError
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.roles import (
    CONTRACT,
    SECRETS,
    Views,
    load,
    role_directory,
    variables_of,
)

#: Files of `tasks` that a service may have; see docs/adding-a-service.md.
HOOKS = (
    "check",
    "prepare",
    "reconcile",
    "collect",
    "drift",
    "drain",
    "leave",
    "left",
    "workers",
    "rotate",
    "rotated",
    "remove",
)


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
        except (ContractError, MeshError) as error:
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
        for source in self.views.value(self.views.host, "stack_allowed_sources") or []:
            if not is_network(str(source), strict=False):
                self.wrong.append(
                    f"stack_allowed_sources has {source!r}, expected IPv4 networks or addresses, such as 10.20.0.0/16."
                )
        self.mesh = self.mesh_of(inventory.members(declared.values()))
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
        own = self.address(inventory.host)
        edge = self.edge(services)
        found = summary(services, inventory, self.endpoint, own if is_ipv4(own) else published_on, self.mesh, edge)
        found["address"] = own
        found["mesh"] = self.mesh
        found["exposed_to"] = {
            "address": (own if is_ipv4(own) else published_on) if found["exposed"] or self.mesh["on"] else "",
            "ports": contracts.exposed_ports(services, found["exposed"]),
            "interface": self.mesh["interface"] if self.mesh["on"] else "",
            "sources": self.sources(services, inventory.host),
            "publish": published_on,
        }
        return {**found, "problems": [*self.wrong, *found["problems"]]}

    # ---- the hosts' addresses for each other

    def mesh_of(self, hosts: list[str]) -> dict[str, Any]:
        """Work out whether and where the hosts of this stack meet.

        Args:
            hosts: Their names, in the order of the inventory.

        Returns:
            ``on``, and with it ``directory`` of the records, ``subnet``, ``interface``, ``address`` and ``port``
            (this host's) and ``hosts``: host to ``endpoint``, ``port`` and, in the mesh, ``address``.
        """
        found: dict[str, Any] = {"on": False, "hosts": {}, "port": 0}
        found |= dict.fromkeys(("interface", "subnet", "directory", "address"), "")
        if len(hosts) < 2:
            return found
        settings = {host: self.mesh_settings(host) for host in hosts}
        if not all(is_network(each[name]) for each in settings.values() for name in ("subnet", "network")):
            return found  # the rules of the settings say so
        wrong = mesh.problems(settings)
        self.wrong += wrong
        if wrong or not all(each["mesh"] for each in settings.values()):
            return found
        host = self.views.host
        directory = self.secrets_dir()
        recorded = {name: member.address for name, member in mesh.members(directory).items()}
        subnet = settings[hosts[0]]["subnet"]
        addresses = mesh.allocate(subnet, recorded, hosts)
        return {
            "on": host in hosts,
            "address": addresses.get(host, ""),
            "directory": directory,
            "subnet": subnet,
            "interface": mesh.interface(str(self.views.value(host, "stack_name"))),
            "port": int(self.views.value(host, "stack_mesh_port")),
            "hosts": {
                name: {"endpoint": each["endpoint"], "port": each["port"], "address": addresses[name]}
                for name, each in settings.items()
            },
        }

    def mesh_settings(self, host: str) -> dict[str, Any]:
        """Look up what a host says of the mesh.

        Args:
            host: Its name.

        Returns:
            What ``mesh.problems`` reads, and the ``port``.
        """
        value = self.views.value
        # Without the defaults of the roles of a play, which a task sees of its own host.
        said = self.task_vars["hostvars"].raw_get(host)
        return {
            "mesh": contracts.is_true(value(host, "stack_mesh")),
            "subnet": str(value(host, "stack_mesh_subnet")),
            "endpoint": str(value(host, "stack_mesh_endpoint")),
            "port": value(host, "stack_mesh_port"),
            "network": str(value(host, "stack_network_subnet")),
            "address": str(value(host, "stack_address")) if "stack_address" in said else "",
        }

    def secrets_dir(self) -> str:
        """Find the directory of the secrets, which the role ``secrets`` names.

        Returns:
            Its path.
        """
        host = self.views.host
        named = self.views.of_host(host).get("secrets_dir", variables_of(SECRETS, "defaults")["secrets_dir"])
        return str(self.views.render(named, host))

    def address(self, host: str) -> str:
        """Find where other hosts reach a host.

        Args:
            host: Its name.

        Returns:
            Its address in the mesh, or what ``stack_address`` says.
        """
        if self.mesh["hosts"]:
            return str(self.mesh["hosts"][host]["address"]) if host in self.mesh["hosts"] else ""
        return str(self.views.value(host, "stack_address"))

    def sources(self, services: Mapping[str, Mapping[str, Any]], host: str) -> list[str]:
        """List the addresses from which other hosts come, as far as they are known.

        Args:
            services: Service to its contract without templates.
            host: The one that they come to.

        Returns:
            Addresses; none if one of them is a name.
        """
        names = dict.fromkeys(each for service in services.values() for each in service["hosts"] if each != host)
        found = [self.address(name) for name in names]
        return found if all(map(is_ipv4, found)) else []

    def groups_of_this_stack(self, declared: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
        """Leave out the hosts of other stacks.

        Args:
            declared: Service to its contract.

        Returns:
            Group of a process to its hosts that have this host's ``stack_name``; to all of them where it runs
            everywhere.
        """

        def stack(host: str) -> str:
            named = "stack_name" in self.views.of_host(host)
            return str(self.views.value(host, "stack_name") if named else self.views.shared[0]["stack_name"])

        groups = self.task_vars["groups"]
        named = {process["group"] for contract in declared.values() for process in contract["processes"].values()}
        hosts = {host for group in named for host in groups.get(group) or []}
        own = stack(self.views.host)
        same = {host for host in hosts if host == self.views.host or stack(host) == own}
        found = {group: [host for host in groups.get(group) or [] if host in same] for group in named}
        members = sorted({host for each in found.values() for host in each})
        for contract in declared.values():
            first, *others = contract["processes"].values()
            found |= {each["group"]: members for each in others if each.get("everywhere") and found[first["group"]]}
        return found

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
            key: {
                "path": "/metrics",
                **{word: value for word, value in entry.items() if word != "when"},
                "port": int(contract.get("ports", {}).get(entry["port"], {"container": entry["port"]})["container"]),
            }
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
            "address": self.address(owner),
            "public_host": self.public_host(owner),
            "published_on": str(self.views.value(owner, "stack_publish_address")),
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
            What ``stack_public_host`` is for it.
        """
        return str(self.views.value(host, "stack_public_host"))


def is_ipv4(address: str) -> bool:
    """Tell an address from a name.

    Args:
        address: Either.

    Returns:
        Whether a port can be published on it.
    """
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        return False
    return True


def is_network(text: str, strict: bool = True) -> bool:
    """Look at the value of a variable.

    Args:
        text: It.
        strict: Whether an address in a network is none.

    Returns:
        Whether it is a network.
    """
    try:
        ipaddress.IPv4Network(text, strict)
    except ValueError:
        return False
    return True


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
        if service["here"] and not contracts.other_hosts(services, name, inventory.host):
            service["hidden_ports"] = sorted(int(service["ports"][each]["container"]) for each in hidden[name])


def summary(
    services: dict[str, dict[str, Any]],
    inventory: Inventory,
    endpoint: Any,
    published_on: str,
    met: Mapping[str, Any],
    edge: Edge | None,
) -> dict[str, Any]:
    """Put together what several services need of the contracts.

    Args:
        services: Service to its contract without templates.
        inventory: Who runs what.
        endpoint: Works out the endpoint of a service.
        published_on: Address of this host on which is published what other hosts reach.
        met: What ``mesh_of`` returned.
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
            page["owner"] = services[name]["owner"]
            # A browser elsewhere does not reach it.
            page["loopback"] = services[name]["published_on"].startswith("127.")
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
    wanted = {name: contracts.client_secrets(services[name], name) for name in services}
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
    # At the host that runs the service itself, and not at those of its other processes.
    exposed = {
        name: hosts
        for name in here
        if services[name]["owner"] == inventory.host
        and (hosts := contracts.other_hosts(services, name, inventory.host))
    }
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
        # What services of this host reach on other hosts.
        "reached": [
            {
                "service": name,
                "title": services[name]["title"],
                "owner": services[name]["owner"],
                "host": endpoints[name].nodes[0].host,
                "port": endpoints[name].nodes[0].port,
                "variable": next(iter(services[name]["ports"].values()))["variable"],
                "by": by,
                "needed_by": [each for each in by if name in services[each]["needs"]],
            }
            for name in endpoints
            if services[name]["owner"] != inventory.host
            and (by := [each for each in here if contracts.reaches(services[each], name)])
        ],
        "links": [page for name in active for page in services[name]["web"]],
        "edge": edge.service if edge else "",
        "tokens": tokens,
        "watchers": contracts.watchers(services, active),
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
            *([] if met["on"] else contracts.unreachable(services, exposed, published_on)),
            *(contracts.page_problems({name: services[name] for name in active}) if edge else []),
        ],
    }
