# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Says what a declared container may hold, and refuses one that cannot work."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.settings import size_in_bytes, unknown_keys

#: Keys of a container and the types that each may have.
CONTAINER_KEYS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "kind": (str,),
    "image": (str,),
    "user": (str,),
    "root": (bool,),
    "command": (list,),
    "entrypoint": (list,),
    "working_dir": (str,),
    "environment": (dict,),
    "files": (dict,),
    "secrets": (dict,),
    "reloadable_files": (dict,),
    "volumes": (list,),
    "binds": (list,),
    "tmpfs": (dict,),
    "ports": (list,),
    "memory": (str, int),
    "cpus": (float, int, str),
    "cpu_shares": (int,),
    "pids": (int,),
    "shm_size": (str,),
    "health": (dict,),
    "aliases": (list,),
    "hostname": (str,),
    "capabilities": (list,),
    "read_only": (bool,),
    "stop_timeout": (int,),
    "stop_signal": (str,),
    "prevent_recreate": (bool,),
}
#: Former name of a key to its name now.
RENAMED_KEYS = {"live_files": "reloadable_files", "protect": "prevent_recreate"}
#: Keys of the dictionaries inside a container.
NESTED_KEYS = {
    "volumes": {"name", "path", "read_only"},
    "binds": {"source", "path", "read_only"},
    "ports": {"host", "container", "address"},
    "reloadable_files": {"path", "files", "secret"},
    "health": {"test", "timeout", "retries", "start_period", "interval", "restart_after", "alive"},
}
REQUIRED = ("name", "image", "user", "memory", "cpus")
#: Docker refuses less.
SMALLEST_MEMORY = 6 * 2**20


def may_be_root(container: dict[str, Any]) -> bool:
    """Decide whether a container may run as root.

    Args:
        container: Declaration.

    Returns:
        Whether it says that it reads root's own files, or declares one of the capabilities with which files of many
        users are read. Docker gives them to root only, and root gets no others.
    """
    capable = not {"DAC_READ_SEARCH", "DAC_OVERRIDE"}.isdisjoint(container.get("capabilities") or [])
    return bool(container.get("root")) or capable


def ids_of(user: str, where: str, root: bool = False) -> tuple[int, int]:
    """Read a container's user.

    Args:
        user: User id and group id, such as ``10001:10001``.
        where: What it belongs to and the variable that sets it, for the error.
        root: Whether it may be root, as one that reads the files of many users has to be.

    Returns:
        Both numbers; files on the host are given to them, which is why names do not do.

    Raises:
        AnsibleFilterError: If it is something else, or root without leave.
    """
    match = re.fullmatch(r"(0|[1-9]\d*):(\d+)", user)
    if not match or (match[1] == "0" and not root):
        raise AnsibleFilterError(
            f"{where}: 'user' is {user!r}, expected a user id other than 0 and a group id: 10001:10001."
        )
    return int(match[1]), int(match[2])


def known_keys(container: Iterable[str], where: str, known: Iterable[str] = tuple(CONTAINER_KEYS)) -> None:
    """Refuse keys that nothing reads.

    Args:
        container: Keys of a declaration, or of a change of one.
        where: How to name it in an error.
        known: Keys that may stand there.

    Raises:
        AnsibleFilterError: If there is one, with its name now or the nearest known key.
    """
    for key in container:
        if key in RENAMED_KEYS:
            raise AnsibleFilterError(
                f"{where} has the key {key!r}, which is called {RENAMED_KEYS[key]!r} now. Rename it."
            )
    unknown_keys(container, known, where)


def check_types(container: dict[str, Any], where: str) -> None:
    """Refuse keys that nothing reads, required ones that are missing, and values of a wrong type.

    Args:
        container: Declaration.
        where: How to name it in an error.

    Raises:
        AnsibleFilterError: With the key and what is expected.
    """
    known_keys(container, where)
    for key in REQUIRED:
        if container.get(key) in (None, ""):
            raise AnsibleFilterError(f"{where} has no {key!r}.")
    for key, value in container.items():
        kinds = CONTAINER_KEYS[key]
        if value is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise AnsibleFilterError(f"{where}: {key!r} is {value!r}, expected {names}.")
    for key, known in NESTED_KEYS.items():
        entries = container.get(key) or []
        if key == "reloadable_files":
            entries = list((entries or {}).values())
        for entry in [entries] if isinstance(entries, dict) else entries:
            if not isinstance(entry, dict):
                raise AnsibleFilterError(f"{where}: {key!r} holds {entry!r}, expected a dictionary.")
            unknown_keys(entry, known, f"{where}: {key!r}")


def check_limits(container: dict[str, Any], where: str) -> None:
    """Refuse limits that the engine would refuse, or with which nothing runs.

    Args:
        container: Declaration.
        where: How to name it in an error.

    Raises:
        AnsibleFilterError: With the key and what is expected.
    """
    if size_in_bytes(container["memory"], f"{where}: 'memory'") < SMALLEST_MEMORY:
        raise AnsibleFilterError(f"{where}: 'memory' is {container['memory']!r}, less than the 6m that Docker takes.")
    try:
        cpus = float(container["cpus"])
    except ValueError:
        cpus = 0.0
    if not 0.01 <= cpus <= 1024:
        raise AnsibleFilterError(f"{where}: 'cpus' is {container['cpus']!r}, expected a number of cores such as 0.5.")
    if container.get("pids") is not None and container["pids"] < 1:
        raise AnsibleFilterError(f"{where}: 'pids' is {container['pids']!r}, expected a number of processes from 1.")


def check_container(container: dict[str, Any], where: str) -> None:
    """Refuse a container that is not declared as the schema says.

    Args:
        container: Declaration.
        where: How to name it in an error.

    Raises:
        AnsibleFilterError: With the key and what is expected.
    """
    check_types(container, where)
    if container.get("kind", "service") not in ("service", "job"):
        raise AnsibleFilterError(f"{where}: 'kind' is {container['kind']!r}, expected 'service' or 'job'.")
    if container.get("kind", "service") == "service" and not (container.get("health") or {}).get("test"):
        raise AnsibleFilterError(f"{where} has no 'health' with a 'test': its start cannot be awaited.")
    for name, value in (container.get("secrets") or {}).items():
        if not str(value).strip():
            raise AnsibleFilterError(f"{where}: the secret {name!r} is empty.")
    if container.get("root") and not all(bind.get("read_only", True) for bind in container.get("binds") or []):
        raise AnsibleFilterError(
            f"{where} has 'root', and a bind that is not read-only: it may only read what is root's."
        )
    check_limits(container, where)
    if "cpu_shares" in container and not 2 <= container["cpu_shares"] <= 262144:
        raise AnsibleFilterError(f"{where}: 'cpu_shares' is {container['cpu_shares']!r}, expected 2 to 262144.")
    if container.get("shm_size"):
        size_in_bytes(container["shm_size"], f"{where}: 'shm_size'")
    for port in container.get("ports") or []:
        for side in ("host", "container"):
            if not str(port.get(side, "")).isdigit() or not 0 < int(port[side]) < 65536:
                raise AnsibleFilterError(f"{where}: 'ports' has {side} {port.get(side)!r}, expected 1 to 65535.")
