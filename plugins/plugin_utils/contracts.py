# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The contracts of the services: what a service role tells the rest of the collection in ``meta/service.yml``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.settings import did_you_mean

#: Keys of a contract and their types. A value may be a template; it is rendered with the role's own variables.
KEYS: dict[str, type] = {
    "title": str,
    "host": str,
    "processes": dict,
    "ports": dict,
    "needs": list,
    "uses": list,
    "watches": list,
    "images": dict,
    "containers": dict,
    "secrets": dict,
    "databases": dict,
    "buckets": list,
    "redis": dict,
    "tokens": list,
    "data": dict,
    "metrics": dict,
    "web": list,
    "version": dict,
    "usage": dict,
    "provides": list,
}
#: Keys of the entries inside them.
ENTRY_KEYS: dict[str, set[str]] = {
    "processes": {"group", "slots", "everywhere"},
    "ports": {"container", "variable", "scheme"},
    "images": {"context", "from", "only", "dockerfile", "args", "files", "base", "when", "definition"},
    "containers": {"job", "process", "when"},
    "databases": {"connections", "prepared"},
    "data": {"backup", "path", "user", "admin", "version_file", "when"},
    "metrics": {"port", "path", "scheme", "user", "secret", "token", "signed", "own_labels", "when"},
    "web": {
        *("title", "container", "port", "path", "check", "user", "user_secret", "secret", "when"),
        *("name", "roles", "read_paths", "public", "anonymous_api", "closed", "identity", "cookies"),
    },
}
#: Keys of a page that are lists of paths, and the form of these: as they are in a request, or all below one.
PAGE_PATHS = ("read_paths", "public", "anonymous_api", "closed")
PAGE_PATH = re.compile(r"/|(/[A-Za-z0-9._~-]+)+(/|/\*)?|/\*")
#: How a service learns who asks behind the edge: it reads a header, or the edge logs in with the page's own password.
IDENTITIES = ("header", "login")
#: Name of a page: part of a host name.
PAGE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
#: Who may log in at the edge, those with the least rights first, and what a page may let them do.
ROLES = ("viewer", "researcher", "trader", "admin")
RIGHTS = ("read", "write")
REDIS_KEYS = {"databases", "users"}
USER_KEYS = {"broker", "prefix", "read_only", "patterns", "reads"}
#: Kinds of secrets that can be generated.
SECRET_KINDS = ("password", "long", "permanent", "fernet", "access_key", "tls")
#  How the data of a volume is kept safe: by its program's own means, as files, or not at all because it can be made
# again.
BACKUPS = ("postgres", "bucket", "redis", "files", "none")
#: What only matters on a host that runs the service.
LOCAL = ("images", "version", "usage")
#: Keys that every contract has.
REQUIRED = ("title", "host", "processes", "containers")


class ContractError(ValueError):
    """A contract that cannot be read, with its file and key."""


def database_secret(database: str) -> str:
    """Name the secret that holds the password of a database's owner.

    Args:
        database: Name of the database, which is also its owner's.

    Returns:
        Name of the secret.
    """
    return f"postgres_{database}_password"


def redis_secret(user: str) -> str:
    """Name the secret that holds a Redis user's password.

    Args:
        user: Name of the user.

    Returns:
        Name of the secret.
    """
    return f"redis_{user}_password"


def bucket_secrets(bucket: str) -> tuple[str, str]:
    """Name the secrets of a bucket's client.

    Args:
        bucket: Name of the bucket.

    Returns:
        Names of the secrets that hold its access key and its secret key.
    """
    name = bucket.replace("-", "_")
    return f"minio_{name}_access_key", f"minio_{name}_secret"


def watcher_secret(service: str, watcher: str) -> str:
    """Name the secret with which a service logs in to another as a user that sees figures and no data.

    Args:
        service: Name of the service that is watched.
        watcher: Name of the one that watches, and of its user there.

    Returns:
        Name of the secret.
    """
    return f"{service}_{watcher}_password"


def watchers(services: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> dict[str, list[str]]:
    """List who watches whom.

    Args:
        services: Service to its contract.
        names: Services that count.

    Returns:
        Each of these services to those that watch it.
    """
    counted = list(names)
    return {name: [each for each in counted if name in (services[each].get("watches") or [])] for name in counted}


def client_secrets(contract: Mapping[str, Any], name: str = "") -> dict[str, tuple[str, str]]:
    """List the secrets with which a service logs in to others.

    Args:
        contract: Its contract.
        name: Its name, which matters to what it watches.

    Returns:
        Name of each secret to its kind and the service that checks it.
    """
    found = {database_secret(name): ("password", "postgres") for name in contract.get("databases") or {}}
    found |= {redis_secret(name): ("password", "redis") for name in (contract.get("redis") or {}).get("users") or {}}
    found |= {watcher_secret(each, name): ("password", each) for each in contract.get("watches") or []}
    for bucket in contract.get("buckets") or []:
        key, secret = bucket_secrets(bucket)
        found |= {secret: ("password", "minio"), key: ("access_key", "minio")}
    return found


def identity_secret(service: str) -> str:
    """Name the secret that is part of the header in which the edge tells a service who asks.

    Args:
        service: Name of the service.

    Returns:
        Name of the secret.
    """
    return f"edge_{service}_identity"


def token_secret(service: str, client: str) -> str:
    """Name the secret with which one service asks another, where an edge lets nobody else in.

    Args:
        service: Name of the service that is asked.
        client: Name of the one that asks.

    Returns:
        Name of the secret.
    """
    return f"{service}_{client}_token"


def token_clients(services: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> dict[str, dict[str, str]]:
    """List who asks whom with a token.

    Args:
        services: Service to its contract.
        names: Services that count.

    Returns:
        Service to its clients, and each client to the name of its secret.
    """
    found: dict[str, dict[str, str]] = {}
    counted = set(names)
    for client in services:
        for service in services[client].get("tokens") or []:
            if {client, service} <= counted:
                found.setdefault(service, {})[client] = token_secret(service, client)
    return found


def wants_identity(contract: Mapping[str, Any]) -> bool:
    """Tell whether a service logs in whoever the edge names.

    Args:
        contract: Its contract, as in the file or without templates.

    Returns:
        Whether one of its pages says so.
    """
    return any(page.get("identity") == "header" for page in _declared(contract, "web"))


def page_names(service: str, pages: Iterable[Mapping[str, Any]]) -> list[str]:
    """Name the pages of a service.

    Args:
        service: Name of the service.
        pages: Its pages, without those that are not there.

    Returns:
        What the contract says, else the service's name for the first page, and the port's after it for the others.
    """
    name = service.replace("_", "-")
    return [
        str(page.get("name") or (name if number == 0 else f"{name}-{page['port']}"))
        for number, page in enumerate(pages)
    ]


def _declared(contract: Mapping[str, Any], key: str) -> Any:
    """What a file declares, unless that is a template."""
    value = contract.get(key) or {}
    return {} if isinstance(value, str) else value


def _refuse_unknown(found: Iterable[str], known: Iterable[str], where: str) -> None:
    for key in found:
        if key not in known:
            hint = did_you_mean(key, known, f"Known keys are {', '.join(sorted(known))}.")
            raise ContractError(f"{where} has the unknown key {key!r}. {hint}")


def check(contract: Any, where: str) -> dict[str, Any]:
    """Check the form of a contract, before its templates are rendered.

    Args:
        contract: Content of ``meta/service.yml``.
        where: Path of the file, for errors.

    Returns:
        The contract.

    Raises:
        ContractError: If a key is unknown, missing or of another type.
    """
    if not isinstance(contract, dict):
        raise ContractError(f"{where} holds {type(contract).__name__}, expected keys and values.")
    _refuse_unknown(contract, KEYS, where)
    for key in REQUIRED:
        if not contract.get(key):
            raise ContractError(f"{where} has no {key!r}.")
    for key, value in contract.items():
        kind = KEYS[key]
        # A template may make a dictionary or a list, as what an application has depends on the inventory.
        if not isinstance(value, kind) and not (isinstance(value, str) and "{{" in value):
            raise ContractError(f"{where}: {key!r} is {value!r}, expected a {kind.__name__}.")
        entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        for entry in entries if key in ENTRY_KEYS else []:
            if not isinstance(entry, dict):
                raise ContractError(f"{where}: {key!r} holds {entry!r}, expected a dictionary.")
            _refuse_unknown(entry, ENTRY_KEYS[key], f"{where}: {key!r}")
    _check_values(contract, where)
    return contract


def _check_values(contract: Mapping[str, Any], where: str) -> None:
    processes = contract["processes"]
    for name, process in processes.items():
        if not process.get("group"):
            raise ContractError(f"{where}: the process {name!r} has no 'group'.")
        if process.get("everywhere") and name == next(iter(processes)):
            raise ContractError(f"{where}: the first process {name!r} is 'everywhere', and runs on one host.")
    for name, port in (contract.get("ports") or {}).items():
        for key in ENTRY_KEYS["ports"]:
            if not port.get(key):
                raise ContractError(f"{where}: the port {name!r} has no {key!r}.")
    for name, container in contract["containers"].items():
        if container.get("process", next(iter(processes))) not in processes:
            raise ContractError(
                f"{where}: the container {name!r} belongs to {container['process']!r}, which is not a process."
            )
    for name, kind in _declared(contract, "secrets").items():
        if kind not in SECRET_KINDS and "{{" not in str(kind):
            raise ContractError(f"{where}: the secret {name!r} is {kind!r}, expected one of {', '.join(SECRET_KINDS)}.")
    for name, data in (contract.get("data") or {}).items():
        if data.get("backup") not in BACKUPS:
            raise ContractError(
                f"{where}: 'backup' of the volume {name!r} is {data.get('backup')!r},"
                f" expected one of {', '.join(BACKUPS)}."
            )
    for page in contract.get("web") or []:
        for key in ("port", "container"):
            if page.get(key) not in (contract.get(f"{key}s") or {}):
                raise ContractError(
                    f"{where}: the page {page.get('title')!r} names the {key} {page.get(key)!r}, which '{key}s'"
                    " does not have."
                )
        _check_page(page, f"{where}: the page {page.get('title')!r}")
    for name, entry in _declared(contract, "metrics").items():
        port = entry.get("port")
        if name not in contract["containers"]:
            raise ContractError(f"{where}: 'metrics' names the container {name!r}, which 'containers' does not have.")
        if not isinstance(port, int) and port not in (contract.get("ports") or {}):
            raise ContractError(
                f"{where}: 'metrics' of the container {name!r} names the port {port!r}, which 'ports' does not have."
            )
    redis = contract.get("redis") or {}
    _refuse_unknown(redis, REDIS_KEYS, f"{where}: 'redis'")
    for name, user in (redis.get("users") or {}).items():
        _refuse_unknown(user, USER_KEYS, f"{where}: the Redis user {name!r}")
        if user.get("broker") not in (redis.get("databases") or {}):
            raise ContractError(f"{where}: the broker of the Redis user {name!r} is none of 'redis.databases'.")


def _check_page(page: Mapping[str, Any], where: str) -> None:
    """Check what a page says to the edge."""
    if page.get("name") is not None and not PAGE_NAME.fullmatch(str(page["name"])):
        raise ContractError(f"{where} has the name {page['name']!r}, expected small letters, digits and -.")
    if page.get("identity") not in (None, *IDENTITIES):
        raise ContractError(f"{where}: 'identity' is {page['identity']!r}, expected 'header' or 'login'.")
    if page.get("identity") == "login" and not (page.get("user") and page.get("secret")):
        raise ContractError(f"{where}: 'identity' is 'login', and it has no 'user' or no 'secret' to log in with.")
    roles = page.get("roles") or {}
    if not isinstance(roles, dict) or not set(roles) <= set(ROLES) or not set(roles.values()) <= set(RIGHTS):
        raise ContractError(
            f"{where}: 'roles' is {roles!r}, expected some of {', '.join(ROLES)}, each with {' or '.join(RIGHTS)}."
        )
    for key in (*PAGE_PATHS, "cookies"):
        if not isinstance(page.get(key) or [], list):
            raise ContractError(f"{where}: {key!r} is {page[key]!r}, expected a list.")
    for key in PAGE_PATHS:
        for path in page.get(key) or []:
            if not PAGE_PATH.fullmatch(str(path)) or {".", ".."} & set(str(path).split("/")):
                raise ContractError(
                    f"{where}: {key!r} has {path!r}, expected a path such as /health, or /static/* for all below one."
                )


def check_together(contracts: Mapping[str, Mapping[str, Any]], places: Mapping[str, str]) -> None:
    """Check what no contract can know of itself.

    Args:
        contracts: Service to its contract, as in the file.
        places: Service to the path of that file.

    Raises:
        ContractError: If two services have a name in common, or one needs another that does not exist.
    """
    taken: dict[tuple[str, Any], str] = {}
    for service, contract in contracts.items():
        where = places[service]
        for needed in [*(contract.get("needs") or []), *(contract.get("uses") or [])]:
            if needed not in contracts:
                raise ContractError(
                    f"{where}: {service} needs {needed!r}, and no role in stack_service_roles has that name."
                )
        for key in ("tokens", "watches"):
            for asked in contract.get(key) or []:
                if asked not in contracts:
                    raise ContractError(
                        f"{where}: {key!r} names {asked!r}, and no role in stack_service_roles has that name."
                    )
        redis = contract.get("redis") or {}
        names = [("name on the network", contract["host"]), *(("container", name) for name in contract["containers"])]
        names += [("group", process["group"]) for process in contract["processes"].values()]
        names += [("port variable", port["variable"]) for port in (contract.get("ports") or {}).values()]
        for key in ("databases", "buckets", "secrets", "data"):
            names += [(key, name) for name in _declared(contract, key)]
        names += [("Redis user", name) for name in redis.get("users") or {}]
        names += [("Redis database", number) for number in (redis.get("databases") or {}).values()]
        for kind, name in names:
            if taken.setdefault((kind, name), service) != service:
                free = f" {_free_redis_database(contracts)} is free." if kind == "Redis database" else ""
                raise ContractError(f"{where}: {name!r} ({kind}) is also in {places[taken[kind, name]]}.{free}")


def _free_redis_database(contracts: Mapping[str, Mapping[str, Any]]) -> int:
    databases = [(each.get("redis") or {}).get("databases") or {} for each in contracts.values()]
    taken = {number for each in databases for number in each.values()}
    return next(number for number in range(len(taken) + 1) if number not in taken)


def unmounted(contract: Mapping[str, Any], containers: Iterable[Mapping[str, Any]]) -> list[str]:
    """Find volumes that a contract calls data, and that no container has.

    Args:
        contract: The service's contract without templates.
        containers: All containers that its role declares, of other hosts too.

    Returns:
        A sentence for each, with the file and the volumes that there are.
    """
    mounted = {volume.get("name") for container in containers for volume in container.get("volumes") or []}
    names = ", ".join(sorted(map(str, mounted))) or "none"
    return [
        f"{contract['directory']}/meta/service.yml has the volume {name!r} in 'data', and no container of"
        f" {contract['name']}_containers mounts it. Correct the name, or mount it; mounted are: {names}."
        for name in contract.get("data") or {}
        if name not in mounted
    ]


def services_by_container(services: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Find whose a container is.

    Args:
        services: Service to its contract without templates.

    Returns:
        Name of a container, without that of the stack, to its service.
    """
    return {container: name for name, contract in services.items() for container in contract["containers"]}


def waves(needs: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Order services so that each comes after those that it needs.

    Args:
        needs: Service to the services that it needs. What is not among the services itself is ignored.

    Returns:
        Services that can start together, those that need none first.

    Raises:
        ContractError: If services need each other.
    """
    found: list[list[str]] = []
    left = {service: {each for each in needed if each in needs} for service, needed in needs.items()}
    while left:
        wave = [service for service, needed in left.items() if not needed & left.keys()]
        if not wave:
            raise ContractError(f"Services depend on each other in a circle: {', '.join(left)}.")
        found.append(wave)
        for service in wave:
            del left[service]
    return found


def page_problems(services: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Find pages that the edge cannot tell apart.

    Args:
        services: Active services to their contracts without templates, with the ``name`` of each page.

    Returns:
        A sentence for each.
    """
    found, seen = [], {}
    for contract in services.values():
        for page in contract["web"]:
            other = seen.setdefault(page["name"], page)
            if other is not page:
                found.append(
                    f"{contract['directory']}/meta/service.yml: the page {page['title']!r} has the name"
                    f" {page['name']!r} of {other['title']!r} ({other['service']}). Give one of them another 'name'."
                )
    return found


def is_true(value: Any) -> bool:
    """Read the value of a rendered condition.

    Args:
        value: What ``when`` became.

    Returns:
        Whether it is fulfilled.
    """
    return bool(value) and str(value).lower() not in ("false", "no", "0")


class Inventory:
    """Who runs what: the groups of an inventory, seen from one host."""

    def __init__(self, groups: Mapping[str, list[str]], host: str) -> None:
        """Take over an inventory.

        Args:
            groups: Group to its hosts.
            host: The host that asks.
        """
        self.groups, self.host = groups, host

    def hosts_of(self, contract: Mapping[str, Any], process: str | None = None) -> list[str]:
        """List the hosts of a process.

        Args:
            contract: The service's contract.
            process: Name of the process; the first one by default.

        Returns:
            Hosts in the group of the process. Where it has none, it runs where the first one does.
        """
        processes = contract["processes"]
        first = next(iter(processes.values()))
        hosts = list(self.groups.get((processes[process] if process else first)["group"]) or [])
        return hosts or list(self.groups.get(first["group"]) or [])

    def all_hosts(self, contract: Mapping[str, Any]) -> list[str]:
        """List the hosts of all of a service's processes.

        Args:
            contract: The service's contract.

        Returns:
            Hosts, each once.
        """
        named = [host for process in contract["processes"].values() for host in self.groups.get(process["group"]) or []]
        return list(dict.fromkeys(named))

    def members(self, contracts: Iterable[Mapping[str, Any]]) -> list[str]:
        """List the hosts of a stack.

        Args:
            contracts: Those of its services.

        Returns:
            Hosts that run any process of one, by their names: the same list on every host.
        """
        return sorted({host for contract in contracts for host in self.all_hosts(contract)})

    def owner(self, contract: Mapping[str, Any]) -> str:
        """Name the host whose variables count for a service.

        Args:
            contract: The service's contract.

        Returns:
            This host if it runs the service's first process, else the first that does; this host if none does.
        """
        hosts = self.hosts_of(contract)
        return self.host if self.host in hosts or not hosts else hosts[0]


def problems(contracts: Mapping[str, Mapping[str, Any]], inventory: Inventory) -> list[str]:
    """Find what an inventory lacks.

    Args:
        contracts: Service to its contract.
        inventory: Who runs what.

    Returns:
        A sentence for each, with the group to change.
    """
    found = []
    active = {name for name, contract in contracts.items() if inventory.hosts_of(contract)}
    if not any(inventory.all_hosts(contract) for contract in contracts.values()):
        groups = [next(iter(contract["processes"].values()))["group"] for contract in contracts.values()]
        return [f"The inventory has no host in any of the groups {', '.join(groups)}."]
    for name, contract in contracts.items():
        processes = list(contract["processes"].values())
        group = processes[0]["group"]
        if name not in active:
            found += [
                f"The inventory has hosts in the group {process['group']}, and none in {group},"
                f" which {contract['title']} needs."
                for process in processes[1:]
                if inventory.groups.get(process["group"])
            ]
            continue
        found += [
            f"{contract['title']} needs {contracts[needed]['title']}, and the inventory has no host in the group"
            f" {next(iter(contracts[needed]['processes'].values()))['group']}."
            for needed in contract.get("needs") or []
            if needed not in active
        ]
    return found


def reaches(service: Mapping[str, Any], name: str) -> bool:
    """Tell whether a service reaches another one.

    Args:
        service: Its contract without templates.
        name: Of the other one.

    Returns:
        Whether it needs or uses it.
    """
    return name in service["needs"] or name in service["uses"]


def other_hosts(services: Mapping[str, Mapping[str, Any]], name: str, host: str) -> list[str]:
    """List the other hosts that reach a service of a host.

    Args:
        services: Service to its contract without templates.
        name: Of the service.
        host: On which it runs.

    Returns:
        Hosts of services that need or use it, without this one.
    """
    named = [
        each
        for service in services.values()
        if service["active"] and reaches(service, name)
        for each in service["hosts"]
    ]
    return [each for each in dict.fromkeys(named) if each != host]


def exposed_ports(services: Mapping[str, Mapping[str, Any]], exposed: Iterable[str]) -> dict[str, bool]:
    """List the ports of a host that other hosts reach.

    Args:
        services: Service to its contract without templates.
        exposed: Services of this host that other hosts reach.

    Returns:
        Port to whether people reach it too: it has a page.
    """
    found = {}
    for name in exposed:
        ports = services[name]["ports"]
        if ports:
            first = next(iter(ports))
            found[str(ports[first]["value"])] = first in {page["port"] for page in services[name]["web"]}
    return found


def unreachable(
    services: Mapping[str, Mapping[str, Any]], exposed: Mapping[str, list[str]], published_on: str
) -> list[str]:
    """Find services of a host that other hosts reach on a private network, and cannot.

    Args:
        services: Service to its contract without templates.
        exposed: Services of this host to the other hosts that reach them.
        published_on: Address of this host on which their ports are published.

    Returns:
        A sentence, if the ports are published on a loopback address and the other hosts look for them elsewhere.
    """
    far = {name: hosts for name, hosts in exposed.items() if services[name]["address"] != published_on}
    if not far or not published_on.startswith("127."):
        return []
    titles = ", ".join(services[name]["title"] for name in far)
    hosts = ", ".join(dict.fromkeys(host for hosts in far.values() for host in hosts))
    return [
        f"Other hosts ({hosts}) need {titles} of this host, which is published on {published_on}, where only this host"
        " reaches it. Set stack_address to an IPv4 address of this host that they reach, or leave out stack_mesh: false"
        " to let them meet on a mesh."
    ]


def oversized_groups(
    services: Mapping[str, Mapping[str, Any]], groups: Mapping[str, list[str]], stacks: Mapping[str, str]
) -> list[str]:
    """Find groups with more hosts than their process can run on.

    Args:
        services: Service to its contract.
        groups: Group to its hosts.
        stacks: Host to the name of its stack.

    Returns:
        A sentence for each, with the hosts. Hosts of different stacks may be in one group.
    """
    found = []
    for contract in services.values():
        group = next(iter(contract["processes"].values()))["group"]
        names = [stacks.get(host, "") for host in groups.get(group) or []]
        if len(names) > len(set(names)):
            found.append(
                f"The group {group} has the hosts {', '.join(groups[group])}, and this service runs on one: leave one"
                " in it, or give each stack a stack_name of its own."
            )
    return found


def image_definitions(services: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Collect the images that the roles of the services build.

    Args:
        services: Service to its contract without templates.

    Returns:
        Image to its definition for ``image_plan``, with directories as absolute paths. An entry without a context
        names an image that
        another role defines.
    """
    found = {}
    for service in services.values():
        for name, image in service["all_images"].items():
            if "definition" in image:
                found[name] = image["definition"]
            elif "context" in image:
                definition = {key: value for key, value in image.items() if key != "when"}
                found[name] = {**definition, "context": [f"{service['directory']}/{path}" for path in image["context"]]}
    return found
