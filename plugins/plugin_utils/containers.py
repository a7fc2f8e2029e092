# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Turns declared containers into plans."""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.container_schema import (
    CONTAINER_KEYS,
    check_container,
    ids_of,
    known_keys,
    may_be_root,
)
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.settings import (
    broken_rules,
    size_in_bytes,
    unknown_keys,
)

#: Of Linux.
LONGEST_HOST_NAME = 63
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
        for name, tree in (container.get("reloadable_files") or {}).items()
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
    # Without shares as before there were any, so that a container that has none is still the declared one.
    limits = ("memory", "cpus", "pids_limit", "shm_size", *(["cpu_shares"] if "cpu_shares" in spec else []))
    single = {key: value for key, value in spec.items() if key not in (*limits, "env", "mounts", "tmpfs")}
    found = {key.replace("published_", "").replace("_", " "): value for key, value in single.items()}
    found |= {"limits": [spec[key] for key in limits], "network": network, "secrets": secrets}
    found |= {f"environment {name}": value for name, value in spec["env"].items()}
    found |= {f"file {name}": content for name, content in files.items()}
    found |= {f"mount {mount['target']}": mount for mount in spec["mounts"]}
    found |= {f"mount {path}": size for path, _separator, size in (mount.partition(":") for mount in spec["tmpfs"])}
    return "\n".join(
        f"{hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]} {name}"
        for name, value in sorted(found.items())
    )


def without_ports(container: dict[str, Any], hidden: list[int]) -> dict[str, Any]:
    """Leave out the ports that a container does not publish, because the edge does.

    Args:
        container: Declaration of the service's role; what the inventory changes is laid over it later.
        hidden: Ports in the container.

    Returns:
        The declaration.
    """
    ports = container.get("ports") or []
    return (
        {**container, "ports": [port for port in ports if int(port["container"]) not in hidden]}
        if hidden
        else container
    )


def declared_container(declared: dict[str, Any], change: Any, variable: str) -> dict[str, Any]:
    """Lay what the inventory changes over a declaration.

    Args:
        declared: Declaration of the service's role.
        change: What the inventory changes of it; nothing if it is empty.
        variable: Name of the variable that holds the change, for errors.

    Returns:
        The whole declaration.

    Raises:
        AnsibleFilterError: If the change is not a dictionary of keys that a container has.
    """
    if not isinstance(change, dict):
        raise AnsibleFilterError(f"{variable} is {change!r}, expected keys and values: {{memory: 1g}}.")
    known_keys(change, variable)
    return merged(declared, change)


def hung_after(container: dict[str, Any], default: Any, where: str) -> int:
    """Say after how many seconds without an answer a container is restarted.

    Args:
        container: Declaration.
        default: What the stack's settings say.
        where: What it belongs to, for the error.

    Returns:
        Seconds; 0 is never.

    Raises:
        AnsibleFilterError: If it is not a number of seconds.
    """
    # What ends someone's session is never restarted by itself.
    seconds = 0 if container.get("prevent_recreate") else (container.get("health") or {}).get("restart_after", default)
    if isinstance(seconds, bool) or not str(seconds).isdigit():
        raise AnsibleFilterError(
            f"{where}: 'health' has 'restart_after' {seconds!r}, expected a number of seconds, 0 for never."
        )
    return int(seconds)


def health_of(container: dict[str, Any], settings: dict[str, Any], where: str) -> dict[str, Any] | None:
    """Write a container's health check.

    Args:
        container: Declaration.
        settings: As for ``container_plan``.
        where: What it belongs to, for errors.

    Returns:
        The check in the form that ``community.docker.docker_container`` takes; None for a job, which nobody waits for.
    """
    health = container.get("health") or {}
    restart_after = hung_after(container, settings.get("restart_hung_after", 0), where)
    if container.get("kind", "service") != "service":
        return None
    return {
        "test": health_test(health, restart_after, where),
        "interval": f"{health.get('interval', settings['health_interval'])}s",
        "timeout": f"{health.get('timeout', 5)}s",
        "retries": health.get("retries", 3),
        "start_period": f"{health.get('start_period', 60)}s",
    }


def tmpfs_of(container: dict[str, Any], user: int, group: int) -> list[str]:
    """List a container's file systems in memory.

    Args:
        container: Declaration; ``/tmp`` is added where it has none.
        user: Id of who owns them, but for ``/tmp``.
        group: Id of their group.

    Returns:
        Path and options of each.
    """
    sizes = {"/tmp": "64m", **(container.get("tmpfs") or {})}
    owned = f"mode=0700,uid={user},gid={group}"
    return [f"{path}:size={size},{'mode=1777' if path == '/tmp' else owned}" for path, size in sorted(sizes.items())]


def published_ports(ports: list[dict[str, Any]], settings: dict[str, Any]) -> list[str]:
    """Say where a container's ports are reached on its host.

    Args:
        ports: Declaration: ``host``, ``container``, and ``address`` where it is not to be what follows.
        settings: As for ``container_plan``. People reach ports at ``publish_address``; ``exposed`` has the ``address``
            at which other hosts reach theirs, and these ``ports``, each with whether people do too.

    Returns:
        Address, port and port in the container of each, with colons between them.
    """
    exposed = settings.get("exposed") or {"ports": {}}
    found = []
    for port in ports:
        people = exposed["ports"].get(str(port["host"]), True)
        addresses = [settings["publish_address"]] if people else []
        if str(port["host"]) in exposed["ports"] and "0.0.0.0" not in addresses:
            addresses.append(exposed["address"])
        for address in [port["address"]] if port.get("address") else dict.fromkeys(addresses):
            found.append(f"{address}:{port['host']}:{port['container']}")
    return found


def host_name(wanted: str) -> str:
    """Make a text one that Linux takes as the name of a host.

    Args:
        wanted: It, such as one with a name from the inventory.

    Returns:
        The text with hyphens for what may not be in it, cut off where it is too long.
    """
    return re.sub(r"[^A-Za-z0-9.-]+", "-", wanted)[:LONGEST_HOST_NAME].rstrip("-.")


def container_spec(
    container: dict[str, Any], settings: dict[str, Any], user: int, group: int, where: str
) -> dict[str, Any]:
    """Say how the engine is to make a container.

    Args:
        container: Declaration that ``check_container`` has accepted.
        settings: As for ``container_plan``.
        user: Id of its user.
        group: Id of its group.
        where: How to name it in an error.

    Returns:
        What ``community.docker.docker_container`` needs, but for the name, the labels and the network's.
    """
    name = container["name"]
    return {
        "image": container["image"],
        "user": container["user"],
        "command": [str(word) for word in container.get("command") or []],
        "entrypoint": container.get("entrypoint"),
        "working_dir": container.get("working_dir"),
        "env": {key: str(value) for key, value in (container.get("environment") or {}).items()},
        "mounts": mounts_of(container, f"{settings['config_dir']}/{name}", settings["stack"]),
        "tmpfs": tmpfs_of(container, user, group),
        "published_ports": published_ports(container.get("ports") or [], settings),
        "memory": size_in_bytes(container["memory"], where),
        "cpus": float(container["cpus"]),
        **({"cpu_shares": container["cpu_shares"]} if "cpu_shares" in container else {}),
        "pids_limit": container.get("pids", 512),
        "shm_size": container.get("shm_size"),
        "capabilities": container.get("capabilities") or [],
        "read_only": container.get("read_only", True),
        "stop_timeout": container.get("stop_timeout", 30),
        "stop_signal": container.get("stop_signal"),
        "aliases": sorted({name, *(container.get("aliases") or [])}),
        "hostname": host_name(container.get("hostname") or name),
        "restart_policy": "no" if container.get("kind") == "job" else "unless-stopped",
        "log_options": {"max-size": settings["log_size"], "max-file": str(settings["log_files"])},
        "healthcheck": health_of(container, settings, where),
    }


def trees_of(container: dict[str, Any], config_dir: str, group: int) -> tuple[list[dict[str, Any]], ...]:
    """List the directories of files that a container mounts.

    Args:
        container: Declaration.
        config_dir: Directory of the stack's configuration on the host.
        group: Id of the group that may read them.

    Returns:
        Those of its configuration, and those of its secrets, as ``config_tree`` takes them.
    """
    directory = f"{config_dir}/{container['name']}"
    plain, secret = (
        [{"path": f"{directory}/{below}", "group": group, "files": container[key]}] if container.get(key) else []
        for key, below in (("files", "config"), ("secrets", "secrets"))
    )
    for below, tree in (container.get("reloadable_files") or {}).items():
        found = secret if tree.get("secret") else plain
        found.append({"path": f"{config_dir}/{below}", "group": group, "files": tree["files"]})
    return plain, secret


def planned_container(
    container: dict[str, Any], settings: dict[str, Any], variable: str, changed: dict[str, Any], where: str
) -> dict[str, Any]:
    """Turn one declaration into a plan.

    Args:
        container: Declaration, with the inventory's changes.
        settings: As for ``container_plan``.
        variable: Name of the variable that holds the overrides, for errors.
        changed: What the inventory changes of the declaration.
        where: How to name it in an error.

    Returns:
        See ``container_plan``.
    """
    check_container(container, where)
    name, network = container["name"], settings["network"]
    setter = f"{variable.removesuffix('overrides')}user of the container {name}"
    user, group = ids_of(container["user"], where if "user" in changed else setter, root=may_be_root(container))
    spec = container_spec(container, settings, user, group, where)
    # Reloadable files are not part of the hash: the program in the container notices them by itself.
    content = {key: container.get(key) or {} for key in ("files", "secrets")}
    made_from = json.dumps([spec, network, content], sort_keys=True, default=str)
    plain, secret = trees_of(container, settings["config_dir"], group)
    return {
        "name": f"{settings['stack']}-{name}",
        "service": name,
        "kind": container.get("kind", "service"),
        "hash": hashlib.sha256(made_from.encode()).hexdigest()[:32],
        "parts": parts_of(spec, network, **content),
        "spec": spec,
        "limits": {
            "Memory": spec["memory"],
            "NanoCpus": round(spec["cpus"] * 1e9),
            "PidsLimit": spec["pids_limit"],
            **({"CpuShares": spec["cpu_shares"]} if "cpu_shares" in spec else {}),
        },
        "alive": (container.get("health") or {}).get("alive") or [],
        "network": network,
        "variable": f"{variable}.{name}",
        "prevent_recreate": container.get("prevent_recreate", False),
        "trees": plain,
        "secret_trees": secret,
    }


def container_plan(
    containers: list[dict[str, Any]],
    settings: dict[str, Any],
    overrides: dict[str, Any] | None = None,
    variable: str = "",
    rules: dict[str, dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Turn declared containers into plans.

    Args:
        containers: Declarations, see ``CONTAINER_KEYS``. ``reloadable_files`` are directories whose change needs no new
            container: name on the host to ``path`` in the container and ``files``.
        settings: ``stack``, ``network``, ``config_dir``, ``publish_address``, ``exposed`` (see ``published_ports``),
            ``health_interval`` and ``restart_hung_after`` (seconds), ``log_size`` and ``log_files``.
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
        changed = overrides.get(name) or {}
        container = declared_container(declared, changed, f"{variable}.{name}")
        where = f"{variable}.{name}" if changed else f"The container {name}"
        plans.append(planned_container(container, settings, variable, changed, where))
    return plans


#: Keys that a run cannot change: they belong to the service's containers, or a run has none of them.
NOT_OF_A_RUN = ("name", "kind", "ports", "aliases", "hostname", "health", "prevent_recreate")
#: Keys of content that is written for the service's containers: a run takes it as it is, or goes without.
CONTENT = ("files", "secrets", "reloadable_files")


def run_plan(
    declared: dict[str, Any],
    settings: dict[str, Any],
    name: str,
    changes: dict[str, Any] | None = None,
    overrides: dict[str, Any] | None = None,
    variable: str = "",
    network: bool = True,
) -> dict[str, Any]:
    """Plan a container that runs once, like one of a service's.

    Args:
        declared: Declaration of the service's container.
        settings: As for ``container_plan``.
        name: Of the container that runs, without that of the stack.
        changes: Keys of the declaration that are replaced, whole.
        overrides: What the inventory changes of the declaration.
        variable: Name of the variable that holds the overrides, for errors.
        network: Whether it is on the stack's network; otherwise it has none.

    Returns:
        A plan as of ``container_plan``, without content of files. It mounts those of the declared container.

    Raises:
        AnsibleFilterError: If the declaration or a change cannot work, with the key that is wrong.
    """
    changes = dict(changes or {})
    where = f"The run {name}"
    known_keys(changes, where, CONTAINER_KEYS.keys() - set(NOT_OF_A_RUN))
    for key in CONTENT:
        if changes.get(key):
            raise AnsibleFilterError(
                f"{where} changes {key!r}, and can only take it away, with {{}}: a run has the files of the container"
                " that it is like. Pass it what else it needs on its standard input."
            )
    over_it = f"{variable}.{declared['name']}"
    container = declared_container(declared, overrides or {}, over_it)
    own = {"kind": "job", "ports": [], "aliases": [], "health": {}, "prevent_recreate": False}
    plan = planned_container(
        {**container, **own, **changes}, settings, variable, {**(overrides or {}), **changes}, where
    )
    spec = {**plan["spec"], "hostname": name, "aliases": [name]}
    [public] = public_plan([plan])
    return {
        **public,
        "name": f"{settings['stack']}-{name}",
        "service": name,
        "spec": spec,
        "network": settings["network"] if network else "none",
    }


def public_plan(plans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave the content of files and secrets out of plans.

    Args:
        plans: What ``container_plan`` returned.

    Returns:
        Plans that may be shown.
    """
    return [{key: value for key, value in plan.items() if key not in ("trees", "secret_trees")} for plan in plans]
