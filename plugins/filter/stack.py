# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filters that turn declarations into plans: containers, images and password verifiers."""

from __future__ import annotations

import ast
import base64
import datetime
import difflib
import fnmatch
import hashlib
import hmac
import ipaddress
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleFilterError

COLLECTION = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

#: Keys of a container and the types that each may have.
CONTAINER_KEYS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "kind": (str,),
    "image": (str,),
    "user": (str,),
    "command": (list,),
    "entrypoint": (list,),
    "working_dir": (str,),
    "environment": (dict,),
    "files": (dict,),
    "secrets": (dict,),
    "live_files": (dict,),
    "volumes": (list,),
    "binds": (list,),
    "tmpfs": (dict,),
    "ports": (list,),
    "memory": (str, int),
    "cpus": (float, int, str),
    "pids": (int,),
    "shm_size": (str,),
    "health": (dict,),
    "aliases": (list,),
    "capabilities": (list,),
    "read_only": (bool,),
    "stop_timeout": (int,),
    "stop_signal": (str,),
    "protect": (bool,),
    "force": (bool,),
}
#: Keys of the dictionaries inside a container.
NESTED_KEYS = {
    "volumes": {"name", "path", "read_only"},
    "binds": {"source", "path", "read_only"},
    "ports": {"host", "container", "address"},
    "live_files": {"path", "files"},
    "health": {"test", "timeout", "retries", "start_period", "interval", "restart_after", "alive"},
}
#: Runs a health check, and kills the container's processes when they have not answered for long, whereupon the engine
#: starts the container again. Arguments: seconds without an answer, failed checks in a row, seconds that a check may
#: take, exit statuses of a program that is alive and not ready, and the check. A container that has not been well since
#: its start is left alone: a slow start is not cut short, and the absence of another service costs one restart at most.
PROBE = """\
seconds=$1 looks=$2 limit=$3 alive=$4; shift 4
file=/dev/shm/last-well well='' failed=0
read -r well failed 2> /dev/null < "$file"
if command -v timeout > /dev/null; then timeout -s KILL "$limit" "$@"; else "$@"; fi
status=$? now=$(date +%s)
case " $alive " in *" $status "*) answers=$well;; *) answers='';; esac
if [ "$status" -eq 0 ] || [ -n "$answers" ]; then
    echo "$now 0" > "$file"
elif [ -n "$well" ]; then
    failed=$((failed + 1))
    echo "$well $failed" > "$file"
    if [ "$failed" -ge "$looks" ] && [ $((now - well)) -ge "$seconds" ]; then
        echo "No answer to the health check for $((now - well)) s, restarting" 2> /dev/null > /proc/1/fd/2
        kill -9 -1
    fi
fi
exit "$status"
"""
REQUIRED = ("name", "image", "user", "memory", "cpus")
SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([kmg]?)b?$", re.IGNORECASE)
UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}
#: Bytes of a build context: it travels to the host as an argument.
LARGEST_CONTEXT = 50 * 2**20
#: The name of the directory beside an inventory that holds its secrets; an application's may hold the inventory.
SECRETS = ".secrets"
#: Names that never belong into a context: that one, and what Git, Python, editors (Emacs, Vim, Kate) and macOS leave.
LEFT_OUT = (
    SECRETS,
    *("__pycache__", ".git", ".venv", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".ipynb_checkpoints", ".idea"),
    *("*.py[co]", ".#*", "#*#", "*~", ".*.sw[a-p]", ".*.kate-swp", ".DS_Store", "._*"),
)
#: Docker refuses less.
SMALLEST_MEMORY = 6 * 2**20


def size_in_bytes(value: Any, where: str) -> int:
    """Read a size.

    Args:
        value: A number of bytes or a text such as ``512m`` or ``1g``.
        where: What the value belongs to, for the error.

    Returns:
        Bytes.

    Raises:
        AnsibleFilterError: If it is not a size.
    """
    match = SIZE.match(str(value))
    if not match:
        raise AnsibleFilterError(f"{where} is {value!r}, which is not a size. Write it like 512m or 1g.")
    return int(float(match[1]) * UNITS[match[2].lower()])


def fits_rule(value: Any, rule: dict[str, Any]) -> bool:
    """Judge a value.

    Args:
        value: What the inventory says.
        rule: ``kind`` (``number`` by default, ``size``, ``text``, ``network``, ``address`` or ``date``), ``from`` and
            ``to`` (numbers and sizes) and ``matches`` (the whole of a text).

    Returns:
        Whether it can work.
    """
    kind = rule.get("kind", "number")
    try:
        if kind == "text":
            return re.fullmatch(rule["matches"], str(value)) is not None
        if kind == "network":
            # The whole stack on one host has 17 containers.
            network = ipaddress.IPv4Network(value)
            return network.prefixlen <= 27 and not network.is_loopback and not network.is_multicast
        if kind == "address":
            return bool(ipaddress.IPv4Address(value))
        if kind == "date":
            return bool(datetime.date.fromisoformat(str(value)))  # YAML reads a date without quotes as one
        number = size_in_bytes(value, "") if kind == "size" else float(value)
        most = rule.get("to", number)
        most = size_in_bytes(most, "") if kind == "size" and "to" in rule else float(most)
    except (AnsibleFilterError, TypeError, ValueError):
        return False
    return rule.get("from", 0) <= number <= most


def broken_rules(rules: dict[str, dict[str, Any]]) -> list[str]:
    """Find settings that cannot work.

    Args:
        rules: Variable to its ``value``, what ``fits_rule`` reads, ``expected`` (for people; numbers say it themselves)
            and ``each`` (the value is a list, and the rule is for each of its items).

    Returns:
        A sentence for each, with the variable and what is expected.
    """
    found = []
    for variable, rule in rules.items():
        if rule.get("each") and (isinstance(rule["value"], str) or not isinstance(rule["value"], Iterable)):
            found.append(f"{variable} is {rule['value']!r}, expected is a list.")
            continue
        for value in rule["value"] if rule.get("each") else [rule["value"]]:
            if not fits_rule(value, rule):
                span = f"a number from {rule.get('from', 0)}" + (f" to {rule['to']}" if "to" in rule else "")
                found.append(f"{variable} is {value!r}, expected is {rule.get('expected', span)}.")
    return found


def one_slip(one: str, other: str) -> bool:
    """Tell whether two words differ by one letter, more, less or another, or by two neighbours in the wrong order.

    Args:
        one: A word.
        other: Another.

    Returns:
        Whether they do.
    """

    def alike(first: str, second: str) -> int:
        return next(
            (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
        )

    start = alike(one, other)
    end = alike(one[start:][::-1], other[start:][::-1])
    left, right = one[start : len(one) - end], other[start : len(other) - end]
    return (len(left) <= 1 and len(right) <= 1) or (len(left) == 2 and left == right[::-1])


def misspelt_variables(names: Iterable[str]) -> list[str]:
    """Find variables that nothing reads and that differ from one of this collection by a slip of the fingers.

    Args:
        names: All variables of a host. Those that are not the collection's are its owner's business.

    Returns:
        A sentence for each, with the variable that was probably meant.
    """
    specs = Path(__file__).parents[2].glob("roles/*/meta/argument_specs.yml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    known = {
        option
        for spec in specs
        for entry in yaml.load(spec.read_text(encoding="utf-8"), loader)["argument_specs"].values()
        for option in entry.get("options", {})
    }
    found = []
    for name in sorted(set(names) - known):
        meant = min((each for each in known if one_slip(name, each)), default=None)
        if meant:
            found.append(f"{name} is no variable of this collection. Did you mean {meant}?")
    return found


def overlapping_networks(subnet: str, network: str, networks: dict[str, list[str]]) -> list[str]:
    """Find networks of the engine whose addresses a new one would share, which the engine refuses.

    Args:
        subnet: Addresses of the stack's network.
        network: Its name; the network itself does not count.
        networks: Name to subnets of what the engine has.

    Returns:
        Names with their subnets.
    """
    own = ipaddress.ip_network(subnet)
    return [
        f"{name} ({other})"
        for name, subnets in sorted(networks.items())
        for other in map(ipaddress.ip_network, subnets)
        if name != network and other.version == own.version and other.overlaps(own)
    ]


def occupied_addresses(subnet: str, occupied: list[dict[str, str]]) -> list[str]:
    """Find what leads to other machines at the addresses of a subnet, and would lead to its containers instead.

    Args:
        subnet: Addresses of the stack's network.
        occupied: Of each, ``subnet`` and ``by``, as the module ``host_report`` says it.

    Returns:
        What leads there, for people.
    """
    own = ipaddress.ip_network(subnet)
    return [each["by"] for each in occupied if own.overlaps(ipaddress.ip_network(each["subnet"], strict=False))]


def free_network(networks: dict[str, list[str]], occupied: list[dict[str, str]]) -> str:
    """Find private addresses that nothing on a host uses.

    Args:
        networks: Name to subnets of what the engine has.
        occupied: Of each, ``subnet`` and ``by``, as the module ``host_report`` says it.

    Returns:
        A network with room for 254 addresses.
    """
    words = [subnet for subnets in networks.values() for subnet in subnets] + [each["subnet"] for each in occupied]
    held = [each for each in (ipaddress.ip_network(word, strict=False) for word in words) if each.version == 4]
    for pool in ("172.29.64.0/18", "172.16.0.0/12", "10.64.0.0/10", "192.168.128.0/17"):
        for subnet in ipaddress.ip_network(pool).subnets(new_prefix=24):
            if not any(subnet.overlaps(each) for each in held):
                return str(subnet)
    return "a network of your own"


def unknown_keys(found: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse keys that nothing reads.

    Args:
        found: Keys that stand there.
        known: Keys that are understood.
        where: Variable or container that holds them.

    Raises:
        AnsibleFilterError: If there is one, with the nearest known key.
    """
    known = sorted(known)
    for key in found:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(known)}."
            raise AnsibleFilterError(f"{where} has the unknown key {key!r}. {hint}")


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay one dictionary over another, at every depth.

    Args:
        base: What is declared.
        over: What the inventory changes.

    Returns:
        A new dictionary; lists are replaced whole.
    """
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def over(declared: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    """Lay a container's own declaration over what it shares with others.

    Args:
        declared: What only this container has.
        common: What all have.

    Returns:
        The whole declaration; a key of its own replaces the common one.
    """
    return {**common, **declared}


def ids_of(user: str, where: str) -> tuple[int, int]:
    """Read a container's user.

    Args:
        user: User id and group id, such as ``10001:10001``.
        where: What it belongs to and the variable that sets it, for the error.

    Returns:
        Both numbers; files on the host are given to them, which is why names do not do.

    Raises:
        AnsibleFilterError: If it is something else, or root.
    """
    match = re.fullmatch(r"([1-9]\d*):(\d+)", user)
    if not match:
        raise AnsibleFilterError(
            f"{where}: 'user' is {user!r}, expected are a user id other than 0 and a group id: 10001:10001."
        )
    return int(match[1]), int(match[2])


def check_container(container: dict[str, Any], where: str) -> None:
    """Refuse a container that is not declared as the schema says.

    Args:
        container: Declaration.
        where: How to name it in an error.

    Raises:
        AnsibleFilterError: With the key and what is expected.
    """
    unknown_keys(container, CONTAINER_KEYS, where)
    for key in REQUIRED:
        if container.get(key) in (None, ""):
            raise AnsibleFilterError(f"{where} has no {key!r}.")
    for key, value in container.items():
        kinds = CONTAINER_KEYS[key]
        if value is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise AnsibleFilterError(f"{where}: {key!r} is {value!r}, expected is {names}.")
    for key, known in NESTED_KEYS.items():
        entries = container.get(key) or []
        if key == "live_files":
            entries = list((entries or {}).values())
        for entry in [entries] if isinstance(entries, dict) else entries:
            if not isinstance(entry, dict):
                raise AnsibleFilterError(f"{where}: {key!r} holds {entry!r}, expected is a dictionary.")
            unknown_keys(entry, known, f"{where}: {key!r}")
    if container.get("kind", "service") not in ("service", "step"):
        raise AnsibleFilterError(f"{where}: 'kind' is {container['kind']!r}, expected is 'service' or 'step'.")
    if container.get("kind", "service") == "service" and not (container.get("health") or {}).get("test"):
        raise AnsibleFilterError(f"{where} has no 'health' with a 'test': nobody could wait for it.")
    for name, value in (container.get("secrets") or {}).items():
        if not str(value).strip():
            raise AnsibleFilterError(f"{where}: the secret {name!r} is empty.")
    if size_in_bytes(container["memory"], f"{where}: 'memory'") < SMALLEST_MEMORY:
        raise AnsibleFilterError(f"{where}: 'memory' is {container['memory']!r}, less than the 6m that Docker takes.")
    try:
        cpus = float(container["cpus"])
    except ValueError:
        cpus = 0.0
    if not 0.01 <= cpus <= 1024:
        raise AnsibleFilterError(
            f"{where}: 'cpus' is {container['cpus']!r}, expected is a number of cores such as 0.5."
        )
    if container.get("pids") is not None and container["pids"] < 1:
        raise AnsibleFilterError(f"{where}: 'pids' is {container['pids']!r}, expected is a number of processes from 1.")
    for port in container.get("ports") or []:
        for side in ("host", "container"):
            if not str(port.get(side, "")).isdigit() or not 0 < int(port[side]) < 65536:
                raise AnsibleFilterError(f"{where}: 'ports' has {side} {port.get(side)!r}, expected is 1 to 65535.")


def mounts_of(container: dict[str, Any], directory: str, stack: str) -> list[dict[str, Any]]:
    """List what a container mounts.

    Args:
        container: Declaration.
        directory: Its own directory on the host.
        stack: Name of the stack, the prefix of volumes.

    Returns:
        Mounts in the form that ``community.docker.docker_container`` takes.
    """
    mounts = [
        {"type": "bind", "source": f"{directory}/{kind}", "target": f"/run/{kind}", "read_only": True}
        for kind, key in (("config", "files"), ("secrets", "secrets"))
        if container.get(key)
    ]
    mounts += [
        {"type": "bind", "source": f"{os.path.dirname(directory)}/{name}", "target": tree["path"], "read_only": True}
        for name, tree in (container.get("live_files") or {}).items()
    ]
    mounts += [
        {"type": "bind", "source": bind["source"], "target": bind["path"], "read_only": bind.get("read_only", True)}
        for bind in container.get("binds") or []
    ]
    mounts += [
        {
            "type": "volume",
            "source": f"{stack}-{volume['name']}",
            "target": volume["path"],
            "read_only": volume.get("read_only", False),
            "labels": {"quantops.stack": stack},
        }
        for volume in container.get("volumes") or []
    ]
    return mounts


def health_test(health: dict[str, Any], restart_after: int, where: str) -> list[str]:
    """Make a health check that also restarts a container that hangs.

    Args:
        health: Declaration of the check; ``alive`` lists statuses of a program that answers and is not ready, such as a
            database that recovers, or one that misses another service.
        restart_after: Seconds without an answer after which the container's processes are ended; 0 is never.
        where: What it belongs to, for the error.

    Returns:
        The test in Docker's form.

    Raises:
        AnsibleFilterError: If the statuses are none.
    """
    kind, *words = health["test"]
    alive = health.get("alive") or []
    if not isinstance(alive, list) or not all(isinstance(each, int) and 0 < each < 256 for each in alive):
        raise AnsibleFilterError(
            f"{where}: 'health' has 'alive' {alive!r}, expected a list of exit statuses, 1 to 255."
        )
    if not restart_after or kind == "NONE":
        return health["test"]
    words = ["/bin/sh", "-c", *words] if kind == "CMD-SHELL" else words
    looks, limit = health.get("retries", 3), max(1, health.get("timeout", 5) - 1)
    numbers = [str(number) for number in (restart_after, looks, limit)]
    return ["CMD", "/bin/sh", "-c", PROBE, "probe", *numbers, " ".join(map(str, alive)), *map(str, words)]


def parts_of(spec: dict[str, Any], network: str, files: dict[str, str], secrets: dict[str, str]) -> str:
    """Digest what a container is made from part by part, so that a later run can say which of them changed.

    Args:
        spec: As in a plan.
        network: Name of its network.
        files: Relative path to content of its configuration.
        secrets: Name to value. They share one digest, so that a label tells no more of a single one than the hash does.

    Returns:
        A line a part: 8 hexadecimal digits, a blank, and the part's name; never a value.
    """
    limits = ("memory", "cpus", "pids_limit", "shm_size")
    single = {key: value for key, value in spec.items() if key not in (*limits, "env", "mounts", "tmpfs")}
    found = {key.replace("published_", "").replace("_", " "): value for key, value in single.items()}
    found |= {"limits": [spec[key] for key in limits], "network": network, "secrets": secrets}
    found |= {f"environment {name}": value for name, value in spec["env"].items()}
    found |= {f"file {name}": content for name, content in files.items()}
    found |= {f"mount {mount['target']}": mount for mount in spec["mounts"]}
    found |= {f"mount {path}": size for path, _, size in (mount.partition(":") for mount in spec["tmpfs"])}
    return "\n".join(
        f"{hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]} {name}"
        for name, value in sorted(found.items())
    )


def container_plan(
    containers: list[dict[str, Any]],
    settings: dict[str, Any],
    overrides: dict[str, Any] | None = None,
    variable: str = "",
    rules: dict[str, dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Turn declared containers into plans.

    Args:
        containers: Declarations, see ``CONTAINER_KEYS``. ``live_files`` are directories whose change needs no new
            container: name on the host to ``path`` in the container and ``files``.
        settings: ``stack``, ``network``, ``config_dir``, ``publish_address``, ``health_interval`` and
            ``restart_hung_after`` (seconds), ``log_size`` and ``log_files``.
        overrides: Name to what the inventory changes of a declaration.
        variable: Name of the variable that holds the overrides, for errors.
        rules: What the service's own settings must be like, see ``broken_rules``.

    Returns:
        One dictionary a container: ``name`` on the host, ``service``, ``kind``, ``hash`` of all it is made from,
        ``parts`` of that (see ``parts_of``), ``spec`` for ``community.docker.docker_container``, ``limits``,
        ``alive`` (exit statuses of its health check when it is alive and not ready), ``network``, ``trees`` and
        ``secret_trees`` for ``config_tree``. Only ``secret_trees`` holds secrets.

    Raises:
        AnsibleFilterError: If a declaration or a setting cannot work, with the key or variable that is wrong.
    """
    broken = broken_rules(rules or {})
    if broken:
        raise AnsibleFilterError(" ".join(broken))
    overrides = overrides or {}
    unknown_keys(overrides, [container["name"] for container in containers], variable or "overrides")
    plans = []
    for declared in containers:
        name = declared["name"]
        change = overrides.get(name) or {}
        if not isinstance(change, dict):
            raise AnsibleFilterError(f"{variable}.{name} is {change!r}, expected are keys and values: {{memory: 1g}}.")
        unknown_keys(change, CONTAINER_KEYS, f"{variable}.{name}")
        container = merged(declared, change)
        where = f"{variable}.{name}" if change else f"The container {name}"
        check_container(container, where)
        kind = container.get("kind", "service")
        directory = f"{settings['config_dir']}/{name}"
        setter = f"{variable.removesuffix('overrides')}user of the container {name}"
        user, group = ids_of(container["user"], where if "user" in change else setter)
        memory = size_in_bytes(container["memory"], where)
        limits = {
            "Memory": memory,
            "NanoCpus": round(float(container["cpus"]) * 1e9),
            "PidsLimit": container.get("pids", 512),
        }
        health = container.get("health") or {}
        # What ends someone's session is never restarted by itself.
        patience = 0 if container.get("protect") else health.get("restart_after", settings.get("restart_hung_after", 0))
        if isinstance(patience, bool) or not str(patience).isdigit():
            raise AnsibleFilterError(
                f"{where}: 'health' has 'restart_after' {patience!r}, expected a number of seconds, 0 for never."
            )
        tmpfs = {"/tmp": "64m", **(container.get("tmpfs") or {})}
        spec = {
            "image": container["image"],
            "user": container["user"],
            "command": [str(word) for word in container.get("command") or []],
            "entrypoint": container.get("entrypoint"),
            "working_dir": container.get("working_dir"),
            "env": {key: str(value) for key, value in (container.get("environment") or {}).items()},
            "mounts": mounts_of(container, directory, settings["stack"]),
            "tmpfs": [
                f"{path}:size={size}," + ("mode=1777" if path == "/tmp" else f"mode=0700,uid={user},gid={group}")
                for path, size in sorted(tmpfs.items())
            ],
            "published_ports": [
                f"{port.get('address') or settings['publish_address']}:{port['host']}:{port['container']}"
                for port in container.get("ports") or []
            ],
            "memory": memory,
            "cpus": float(container["cpus"]),
            "pids_limit": limits["PidsLimit"],
            "shm_size": container.get("shm_size"),
            "capabilities": container.get("capabilities") or [],
            "read_only": container.get("read_only", True),
            "stop_timeout": container.get("stop_timeout", 30),
            "stop_signal": container.get("stop_signal"),
            "aliases": sorted({name, *(container.get("aliases") or [])}),
            "hostname": name,
            "restart_policy": "no" if kind == "step" else "unless-stopped",
            "log_options": {"max-size": settings["log_size"], "max-file": str(settings["log_files"])},
            "healthcheck": {
                "test": health_test(health, int(patience), where),
                "interval": f"{health.get('interval', settings['health_interval'])}s",
                "timeout": f"{health.get('timeout', 5)}s",
                "retries": health.get("retries", 3),
                "start_period": f"{health.get('start_period', 60)}s",
            }
            if kind == "service"
            else None,
        }
        content = {key: container.get(key) or {} for key in ("files", "secrets")}
        made_from = json.dumps([spec, settings["network"], content], sort_keys=True, default=str)
        trees = {
            key: [{"path": f"{directory}/{below}", "group": group, "files": content[key]}] if content[key] else []
            for key, below in (("files", "config"), ("secrets", "secrets"))
        }
        # Not part of the hash: the program in the container notices these files by itself.
        trees["files"] += [
            {"path": f"{settings['config_dir']}/{below}", "group": group, "files": tree["files"]}
            for below, tree in (container.get("live_files") or {}).items()
        ]
        plans.append(
            {
                "name": f"{settings['stack']}-{name}",
                "service": name,
                "kind": kind,
                "hash": hashlib.sha256(made_from.encode()).hexdigest()[:32],
                "parts": parts_of(spec, settings["network"], **content),
                "spec": spec,
                "limits": limits,
                "alive": health.get("alive") or [],
                "network": settings["network"],
                "variable": f"{variable}.{name}",
                "protect": container.get("protect", False),
                "force": container.get("force", False),
                "trees": trees["files"],
                "secret_trees": trees["secrets"],
            }
        )
    return plans


def public_plan(plans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave the content of files and secrets out of plans.

    Args:
        plans: What ``container_plan`` returned.

    Returns:
        Plans that may be shown.
    """
    return [{key: value for key, value in plan.items() if key not in ("trees", "secret_trees")} for plan in plans]


def same_address(one: str, other: str) -> bool:
    """Tell whether two programs cannot both listen at a port of these addresses.

    Args:
        one: IPv4 or IPv6 address; ``*`` is the wildcard of both.
        other: Another.

    Returns:
        Whether they are the same, or one is a wildcard that covers the other.
    """
    if "*" in (one, other):
        return True
    first, second = ipaddress.ip_address(one), ipaddress.ip_address(other)
    return first.version == second.version and (first == second or first.is_unspecified or second.is_unspecified)


def port_conflicts(
    plans: list[dict[str, Any]], listening: dict[str, list[dict[str, str]]], variables: dict[str, Any]
) -> list[str]:
    """Find published ports that something else holds, or that two containers want.

    Args:
        plans: What ``container_plan`` returned.
        listening: Port to ``address``, ``process`` and, if a container publishes it, ``container`` of each holder.
        variables: Name to value of the variables that set ports.

    Returns:
        A sentence for each conflict, with the variable to change.
    """
    found = []
    taken: dict[str, list[tuple[str, str]]] = {}
    for plan in plans:
        for published in plan["spec"]["published_ports"]:
            address, port, _ = published.rsplit(":", 2)
            names = [name for name, value in sorted(variables.items()) if str(value) == port]
            remedy = f"set {' or '.join(names) or 'its port'} to a free one"
            for holder in listening.get(port, []):
                who = holder.get("container") or holder.get("process") or "another program"
                if who != plan["name"] and same_address(address, holder["address"]):
                    found.append(
                        f"Port {port}, which {plan['service']} publishes, is taken by {who}. Stop that, or {remedy}."
                    )
                    break
            for service, other in taken.get(port, []):
                if same_address(address, other):
                    found.append(f"Port {port} is published by {service} and by {plan['service']}: {remedy}.")
            taken.setdefault(port, []).append((plan["service"], address))
    return found


def too_many_cores(plans: list[dict[str, Any]], cores: int) -> list[str]:
    """Find limits of cores that the engine would refuse.

    Args:
        plans: What ``container_plan`` returned.
        cores: What the host has.

    Returns:
        A sentence for each, with the variable to change.
    """
    return [
        f"The container {plan['service']} is declared with {plan['spec']['cpus']:g} cores, and this host has {cores}."
        f" Set 'cpus' in {plan['variable']} to {cores} or less."
        for plan in plans
        if plan["spec"]["cpus"] > cores
    ]


def protected_drift(plans: list[dict[str, Any]], states: dict[str, dict[str, Any]]) -> list[str]:
    """Choose the containers that run, are not as declared, and are recreated only where a variable allows it.

    Args:
        plans: What ``container_plan`` returned.
        states: What ``container_state`` found of them.

    Returns:
        Names of those that are declared as protected, or were when they were made: a declaration without the protection
        must not end what runs under it.
    """
    return [
        plan["name"]
        for plan in plans
        if (state := states[plan["name"]])["running"] and state["drift"] and (plan["protect"] or state["protected"])
    ]


def settled_services(checked: dict[str, list[dict[str, Any]]], states: dict[str, dict[str, Any]]) -> list[str]:
    """Choose the services of which nothing has to be touched.

    Args:
        checked: Service to what ``container_plan`` returned.
        states: What ``container_state`` found of their containers.

    Returns:
        Services whose containers are all ready and as declared.
    """
    return [name for name, plans in checked.items() if all(states.get(plan["name"], {}).get("ready") for plan in plans)]


def build_failure(text: str) -> str:
    """Make the error of a failed image build readable.

    Args:
        text: Message of ``community.docker.docker_image``: a sentence, then the log as a Python list.

    Returns:
        The sentence and the last lines of the log, a line each.
    """
    sentence, found, log = text.partition(", logs: ")
    try:
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", str(line)).strip() for line in ast.literal_eval(log)] if found else []
    except (SyntaxError, ValueError):
        return text
    return "\n".join([sentence, *[line for line in lines if line][-30:]])


def build_remedy(text: str) -> str:
    """Say what to do about a failed image build.

    Args:
        text: What ``build_failure`` returned.

    Returns:
        A sentence or two.
    """
    wheel = re.search(r"Wheels are required for `([^`]+)`", text) or re.search(
        r"\b([\w.-]+?)(?:==\S+)? has no usable wheels", text
    )
    if wheel or "no usable wheels" in text or "building from source is disabled" in text:
        name = wheel[1] if wheel else "that package"
        return (
            f"There is no wheel of {name} for this Python and processor, only its source. Name it in"
            " backend_build.from_source and, if it is not pure Python, the Debian packages that compile it in"
            " backend_build.apt_build."
        )
    if re.search(
        r"fatal error: \S+: No such file|command '\S+' failed|[Nn]o (C )?compiler|`?(gcc|cc|c\+\+)`?: not found", text
    ):
        return (
            "A compiler or header is missing: name the Debian packages that the build needs in backend_build.apt_build."
        )
    return (
        "Where Debian's, Python's or Go's own servers cannot be reached from here, name mirrors in"
        " container_image_apt_mirror, container_image_pip_index and container_image_go_proxy, or a proxy in"
        " container_image_http_proxy."
    )


def ignore_rules(text: str) -> list[tuple[re.Pattern[str], bool]]:
    """Read a ``.dockerignore``.

    Args:
        text: Its content. Source of the rules: Docker's reference of the file.

    Returns:
        For each line a pattern of relative paths and whether it leaves them out; the last that matches counts.
    """
    rules = []
    for line in text.splitlines():
        line = line.strip()
        out = not line.startswith("!")
        parts = [part for part in line.lstrip("!").split("/") if part not in ("", ".")]
        if not parts or line.startswith("#"):
            continue
        expression = ""
        for position, part in enumerate(parts):
            last = position == len(parts) - 1
            if part == "**":
                expression += ".*" if last else "(?:.*/)?"
                continue
            words = {"*": "[^/]*", "?": "[^/]"}
            expression += "".join(words.get(sign) or re.escape(sign) for sign in part) + ("" if last else "/")
        rules.append((re.compile(rf"{expression}(?:/.*)?"), out))
    return rules


def context_files(directory: str, variable: str = "", kept: str = "Dockerfile") -> dict[str, str]:
    """Read a directory, such as a build context.

    Args:
        directory: Absolute path, or one below the collection.
        variable: Name of the variable that names it, for the error.
        kept: A file that counts whatever is left out.

    Returns:
        Relative path to content; not UTF-8 as ``base64:…``. Symbolic links are followed. Left out are ``LEFT_OUT`` and
        what a ``.dockerignore`` there names.

    Raises:
        AnsibleFilterError: If there is no such directory, it holds something that cannot be read, or all files are more
            than ``LARGEST_CONTEXT``.
    """
    directory = os.path.join(COLLECTION, directory)
    named = f" ({variable})" if variable else ""
    purpose = "" if variable else " to build an image"
    if not os.path.isdir(directory):
        remedy = f", which {variable} names. Correct the path" if variable else " to build an image from"
        raise AnsibleFilterError(f"There is no directory {directory}{remedy}.")
    rules = []
    if os.path.isfile(os.path.join(directory, ".dockerignore")):
        with open(os.path.join(directory, ".dockerignore"), encoding="utf-8") as file:
            rules = ignore_rules(file.read())
    files: dict[str, str] = {}
    size = 0

    def ignored(relative: str) -> bool:
        verdicts = [out for rule, out in rules if rule.fullmatch(relative)]
        return bool(verdicts) and verdicts[-1] and relative != kept

    def refuse(path: str, reason: str) -> AnsibleFilterError:
        return AnsibleFilterError(
            f"{path} cannot be read{purpose}: {reason}. All of {directory}{named} is copied: correct or remove this, "
            "or name it in a .dockerignore there."
        )

    def walk(path: str, relative: str, above: tuple[str, ...]) -> None:
        nonlocal size
        real = os.path.realpath(path)
        if real in above:
            raise refuse(path, f"it is a link to {real}, a directory above it")
        try:
            names = sorted(os.listdir(path))
        except OSError as error:
            raise refuse(path, str(error.strerror)) from None
        for name in names:
            inner, below = os.path.join(path, name), os.path.join(relative, name)
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in LEFT_OUT):
                continue
            if os.path.islink(inner) and SECRETS in os.path.realpath(inner).split(os.sep) and not ignored(below):
                raise refuse(inner, f"it is a link to {os.path.realpath(inner)}, among secrets")
            try:
                if os.path.isdir(inner):
                    # A rule with "!" may bring back what lies in an ignored directory; without one it need not be read.
                    if not ignored(below) or kept.startswith(f"{below}/") or not all(out for _, out in rules):
                        walk(inner, below, (*above, real))
                    continue
                if ignored(below):
                    continue
                if os.path.islink(inner) and not os.path.exists(inner):
                    raise refuse(inner, f"it is a link to {os.readlink(inner)}, which is not there")
                if not os.path.isfile(inner):
                    raise refuse(inner, "it is neither a file nor a directory")
                size += os.path.getsize(inner)
                if size > LARGEST_CONTEXT:
                    raise AnsibleFilterError(
                        f"{directory}{named} holds more than {LARGEST_CONTEXT // 2**20} MiB, too much to "
                        f"{'copy' if variable else 'build an image from'}. "
                        "Name what does not belong into it in a .dockerignore there."
                    )
                with open(inner, "rb") as file:
                    content = file.read()
            except OSError as error:
                raise refuse(inner, str(error.strerror)) from None
            files[below] = as_text(content)

    walk(directory, "", ())
    return files


def as_text(content: bytes) -> str:
    """Write bytes as ``config_tree`` reads them.

    Args:
        content: Bytes of a file.

    Returns:
        The text if it is UTF-8, else its base64 form after ``base64:``.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = ""
    if text.startswith("base64:") or (content and not text):
        return "base64:" + base64.b64encode(content).decode()
    return text


def as_bytes(text: str) -> bytes:
    """Read what ``as_text`` wrote.

    Args:
        text: Content, or its base64 form after ``base64:``.

    Returns:
        The file's bytes.
    """
    return base64.b64decode(text[7:]) if text.startswith("base64:") else text.encode()


def image_plan(definitions: dict[str, Any], wanted: list[str], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Turn image definitions into plans, parents first.

    Args:
        definitions: Image name to ``context`` (list of directories, laid over each other), ``only`` (files and folders
            of the context that count), ``dockerfile`` (another than ``Dockerfile``), ``from`` (parent's name), ``args``
            (build arguments) and ``files`` (further files of the context).
        wanted: Names that are needed; parents are added.
        settings: ``repository``, ``args`` of every build.

    Returns:
        One dictionary an image: ``name``, ``ref`` (repository, name and the hash of all it is built from), ``parents``,
        ``files``, ``args`` and ``wave`` (0 has no parent).

    Raises:
        AnsibleFilterError: If an image is not defined.
    """
    plans: dict[str, dict[str, Any]] = {}

    def add(name: str, child: str) -> dict[str, Any]:
        if name in plans:
            return plans[name]
        if name not in definitions:
            raise AnsibleFilterError(f"The image {name!r} (wanted by {child}) is not defined in stack_images.")
        definition = definitions[name]
        unknown_keys(
            definition, {"context", "only", "dockerfile", "from", "args", "files", "base"}, f"stack_images.{name}"
        )
        parents = [add(parent, f"the image {name}") for parent in definition.get("from", [])]
        files: dict[str, str] = {}
        for directory in definition.get("context", []):
            files.update(context_files(directory, kept=definition.get("dockerfile", "Dockerfile")))
        if "only" in definition:
            belongs = tuple(f"{path}/" for path in definition["only"])
            files = {path: text for path, text in files.items() if f"{path}/".startswith(belongs)}
        files.update(definition.get("files", {}))
        args = {
            **settings["args"],
            **{f"{parent['name'].upper().replace('-', '_')}_IMAGE": parent["ref"] for parent in parents},
            **definition.get("args", {}),
        }
        # Mirrors and proxies say where the same bytes come from: they are not part of what an image is.
        identity = {key: value for key, value in args.items() if key not in settings["args"]}
        parts = [
            files,
            identity,
            definition.get("base", {}),
            *([definition["dockerfile"]] if "dockerfile" in definition else []),
        ]
        made_from = json.dumps(parts, sort_keys=True, default=str)
        digest = hashlib.sha256(made_from.encode()).hexdigest()[:16]
        plans[name] = {
            "name": name,
            "ref": f"{settings['repository']}/{name}:{digest}",
            "files": files,
            "dockerfile": definition.get("dockerfile", "Dockerfile"),
            "args": args,
            "parents": [parent["name"] for parent in parents],
            "wave": max((parent["wave"] + 1 for parent in parents), default=0),
        }
        return plans[name]

    for name in wanted:
        add(name, "a service")
    return sorted(plans.values(), key=lambda plan: plan["wave"])


def image_missing(plans: list[dict[str, Any]], present: list[str], wanted: list[str]) -> list[dict[str, Any]]:
    """Choose what has to be built.

    Args:
        plans: What ``image_plan`` returned.
        present: References that the engine has.
        wanted: Names that are needed. A parent is needed only while one of its children is to be built.

    Returns:
        Plans, parents first.
    """
    by_name = {plan["name"]: plan for plan in plans}
    needed: set[str] = set()

    def need(name: str) -> None:
        if name not in needed and by_name[name]["ref"] not in present:
            needed.add(name)
            for parent in by_name[name]["parents"]:
                need(parent)

    for name in wanted:
        need(name)
    return [plan for plan in plans if plan["name"] in needed]


def scram_verifier(password: str, role: str) -> str:
    """Make PostgreSQL's verifier of a password, so that the server and its log never see the password.

    The salt is derived from password and role: the same password gives the same verifier, which makes a changed one
    visible by comparison. Passwords here are random, so the salt need not be. Source: RFC 5802, section 3.

    Args:
        password: ASCII text.
        role: Name of the database role.

    Returns:
        ``SCRAM-SHA-256$4096:salt$stored-key:server-key``.
    """
    rounds = 4096
    salt = hmac.digest(password.encode(), b"salt of " + role.encode(), "sha256")[:16]
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt_text, stored_text, server_text = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${rounds}:{salt_text}${stored_text}:{server_text}"


def bucket_policy(bucket: str) -> str:
    """Write the policy of a bucket's client.

    Args:
        bucket: Name of the bucket.

    Returns:
        A policy document in JSON, in the form in which MinIO gives it back: everything in this bucket, and nothing
        elsewhere.
    """
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    statement = {"Effect": "Allow", "Action": ["s3:*"], "Resource": resources}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def python_errors(files: dict[str, str]) -> list[str]:
    """Find Python files that do not compile with the Python that runs Ansible, which may be older than their own.

    Args:
        files: Relative path to content.

    Returns:
        A sentence for each broken file, with its line.
    """
    found = []
    for name, text in sorted(files.items()):
        if name.endswith(".py"):
            try:
                # Bytes, as an encoding may be declared in the file, by a line or a byte-order mark.
                compile(as_bytes(text), name, "exec", dont_inherit=True)
            except (SyntaxError, ValueError) as error:
                found.append(f"{name}, line {getattr(error, 'lineno', '?')}: {getattr(error, 'msg', error)}")
    return found


class FilterModule:
    """Filters of this collection."""

    def filters(self) -> dict[str, Any]:
        """Name the filters.

        Returns:
            Name to function.
        """
        return {
            "container_plan": container_plan,
            "public_plan": public_plan,
            "broken_rules": broken_rules,
            "misspelt_variables": misspelt_variables,
            "overlapping_networks": overlapping_networks,
            "occupied_addresses": occupied_addresses,
            "free_network": free_network,
            "too_many_cores": too_many_cores,
            "bucket_policy": bucket_policy,
            "image_plan": image_plan,
            "image_missing": image_missing,
            "build_failure": build_failure,
            "build_remedy": build_remedy,
            "context_files": context_files,
            "protected_drift": protected_drift,
            "settled_services": settled_services,
            "port_conflicts": port_conflicts,
            "over": over,
            "python_errors": python_errors,
            "scram_verifier": scram_verifier,
        }
