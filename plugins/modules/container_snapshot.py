#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Record the containers of a stack, and bring the recorded ones back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_snapshot
short_description: Record the containers of a stack, and bring the recorded ones back
description:
  - Records how the containers of a stack on this host were made, and the configuration that they read, in a directory
    below that of the configuration. Only root can read it, as the configuration has secrets.
  - Brings them back without the inventory or the version of the collection that they were made from. The images have to
    be on the host still.
  - Volumes are not part of it.
options:
  stack:
    description: Name of the stack.
    type: str
    required: true
  directory:
    description: Directory of the stack's configuration.
    type: path
    required: true
  state:
    description:
      - C(saved) records what is there, in place of an earlier record, and that a change of it has begun.
      - C(ended) records that the change has ended.
      - C(restored) removes the containers that are other ones than the recorded, puts the configuration back, and
        creates the recorded containers. It starts none. Containers have to be stopped before.
      - C(present) reads the record and compares it with the host.
    type: str
    choices: [saved, ended, restored, present]
    required: true
  about:
    description: What is kept with the record, such as the id of a backup.
    type: dict
    default: {}
attributes:
  check_mode: {support: full, description: Reports what would be done.}
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Record the containers
  quantops.ibkr_stack.container_snapshot:
    stack: desk
    directory: /etc/quantops/desk
    state: saved
    about: {backup: 20261128T023000Z}
"""

RETURN = r"""
about:
  description: What was kept with the record.
  returned: always
  type: dict
created:
  description: Containers that were restored, or would be.
  returned: always
  type: list
  elements: str
jobs:
  description: Those of them that run to their end, in the order in which they were started.
  returned: always
  type: list
  elements: str
pending:
  description: Whether the change that the record was made for has begun and not ended.
  returned: always
  type: bool
removed:
  description: Containers that were removed for it, or would be.
  returned: always
  type: list
  elements: str
saved_at:
  description: When the record was made, in UTC.
  returned: always
  type: str
"""

import json
import os
import shutil
import subprocess
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine import EngineError
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine_api import (
    Engine,
    name_of,
    remove_container,
)

#: Where the record is, below the directory of the configuration.
RECORD = "previous"
#: What belongs to the host and not to a version of the stack, and stays as it is.
KEPT = {RECORD, f"{RECORD}.new", f"{RECORD}.old", "secrets.json", "rotations.log", "restore.json"}
#: File of the record that is there until the change has ended.
PENDING = "pending"
FORMAT = 1


class SnapshotError(Exception):
    """Why it cannot be done."""


def containers_of(engine: Engine, stack: str) -> dict[str, dict[str, Any]]:
    """Describe the containers of a stack.

    Args:
        engine: The engine of this host.
        stack: Name of the stack.

    Returns:
        Name to the engine's description. Programs that run in a container of their own at the moment are left out.
    """
    found = engine.inspect(name_of(each) for each in engine.containers(f"quantops.stack={stack}", stopped=True))
    return {name: item for name, item in found.items() if item["Config"]["Labels"].get("quantops.kind") != "run"}


def body_of(item: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write a description as what the engine takes to create the same container.

    Args:
        item: The engine's description.

    Returns:
        The body, with the network that the container is created in, and the further networks, name to settings.
    """
    config = dict(item["Config"])
    # By default the engine names a host after its container, and the new one has another id.
    if config.get("Hostname") and item["Id"].startswith(config["Hostname"]):
        config.pop("Hostname")
    config.pop("MacAddress", None)
    networks = {
        name: {
            "Aliases": [alias for alias in found.get("Aliases") or [] if not item["Id"].startswith(alias)],
            "IPAMConfig": found.get("IPAMConfig"),
        }
        for name, found in (item["NetworkSettings"].get("Networks") or {}).items()
    }
    first = item["HostConfig"].get("NetworkMode")
    own = {name: settings for name, settings in networks.items() if name == first}
    others = {name: settings for name, settings in networks.items() if name != first}
    body = {**config, "HostConfig": item["HostConfig"]}
    if own:
        body["NetworkingConfig"] = {"EndpointsConfig": own}
    return body, others


def same(item: dict[str, Any] | None, recorded: dict[str, Any] | None) -> bool:
    """Tell whether a container is a recorded one, or was made from its record.

    Args:
        item: The engine's description; nothing if there is none.
        recorded: The recorded one; nothing if there is none.

    Returns:
        Whether it is.
    """
    if item is None or recorded is None:
        return False
    return item["Id"] == recorded["Id"] or (item["Image"] == recorded["Image"] and body_of(item) == body_of(recorded))


def copy(source: str, destination: str) -> None:
    """Copy what a directory holds, with owners, modes and times.

    Args:
        source: The directory.
        destination: Another; what it holds and the first does not is left.

    Raises:
        SnapshotError: If it cannot be copied.
    """
    os.makedirs(destination, mode=0o700, exist_ok=True)
    done = subprocess.run(
        ["cp", "--archive", f"{source}/.", destination], capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        raise SnapshotError(f"{source} cannot be copied: {done.stderr.strip()}")


def entries(directory: str) -> list[str]:
    """Name what belongs to a version of the stack in the directory of its configuration."""
    return sorted(set(os.listdir(directory)) - KEPT) if os.path.isdir(directory) else []


def save(engine: Engine, stack: str, directory: str, about: dict[str, Any]) -> dict[str, Any]:
    """Make the record, whole or not at all.

    Args:
        engine: The engine of this host.
        stack: Name of the stack.
        directory: Directory of its configuration.
        about: What is kept with the record.

    Returns:
        The record.

    Raises:
        SnapshotError: If there is nothing to record.
    """
    found = containers_of(engine, stack)
    if not found:
        raise SnapshotError(f"This host has no containers of {stack}. Run site.yml (make up), which creates them.")
    record = {
        "format": FORMAT,
        "stack": stack,
        "saved_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "about": about,
        "containers": found,
    }
    new, kept, old = (os.path.join(directory, name) for name in (f"{RECORD}.new", RECORD, f"{RECORD}.old"))
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    # The mode of makedirs is that of the last directory only.
    os.mkdir(new, 0o700)
    os.mkdir(os.path.join(new, "files"), 0o700)
    for name in entries(directory):
        source = os.path.join(directory, name)
        if os.path.isdir(source) and not os.path.islink(source):
            copy(source, os.path.join(new, "files", name))
            shutil.copystat(source, os.path.join(new, "files", name))
        else:
            shutil.copy2(source, os.path.join(new, "files", name), follow_symlinks=False)
    with os.fdopen(os.open(os.path.join(new, "containers.json"), os.O_WRONLY | os.O_CREAT, 0o600), "w") as stream:
        json.dump(record, stream)
        stream.flush()
        os.fsync(stream.fileno())
    with open(os.path.join(new, PENDING), "w"):
        pass
    # Removing the earlier one takes its time, in which there would be no record, or half of one.
    if os.path.isdir(kept):
        os.rename(kept, old)
    os.rename(new, kept)
    shutil.rmtree(old, ignore_errors=True)
    return record


def read(stack: str, directory: str) -> dict[str, Any]:
    """Read the record.

    Args:
        stack: Name of the stack.
        directory: Directory of its configuration.

    Returns:
        The record.

    Raises:
        SnapshotError: If there is none, or one of something else.
    """
    path = os.path.join(directory, RECORD, "containers.json")
    try:
        with open(path) as stream:
            record: dict[str, Any] = json.load(stream)
    except FileNotFoundError:
        raise SnapshotError(f"There is no record of an earlier state of {stack}: upgrade.yml makes one.") from None
    except (OSError, ValueError) as error:
        raise SnapshotError(f"{path} cannot be read: {error}") from None
    if record.get("format") != FORMAT or record.get("stack") != stack:
        raise SnapshotError(f"{path} is not a record of {stack}, or one of another version of this collection.")
    return record


def missing_images(engine: Engine, record: dict[str, Any]) -> list[str]:
    """Find recorded images that the host no longer has.

    Args:
        engine: The engine of this host.
        record: The record.

    Returns:
        A sentence for each.
    """
    wanted: dict[tuple[str, str], list[str]] = {}
    for name, item in record["containers"].items():
        wanted.setdefault((item["Config"]["Image"], item["Image"]), []).append(name)
    wrong = []
    for (image, identity), users in sorted(wanted.items()):
        found = engine.find("images", image)
        if found is None or found["Id"] != identity:
            what = "is not on this host any more" if found is None else "is another image by now"
            wrong.append(f"The image {image} of {', '.join(sorted(users))} {what}.")
    return wrong


def restore_files(directory: str) -> None:
    """Put the configuration back, into the same directories: containers that stay have them mounted.

    Args:
        directory: Directory of the configuration.

    Raises:
        SnapshotError: If a file cannot be copied.
    """
    kept = os.path.join(directory, RECORD, "files")
    for name in set(entries(directory)) - set(os.listdir(kept)):
        path = os.path.join(directory, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    for top, directories, names in os.walk(directory):
        if top == directory:
            directories[:] = [each for each in directories if each not in KEPT]
            continue
        before = os.path.join(kept, os.path.relpath(top, directory))
        for each in names:
            if not os.path.lexists(os.path.join(before, each)):
                os.unlink(os.path.join(top, each))
        for each in [each for each in directories if not os.path.isdir(os.path.join(before, each))]:
            shutil.rmtree(os.path.join(top, each))
            directories.remove(each)
    copy(kept, directory)


def create(engine: Engine, name: str, item: dict[str, Any]) -> None:
    """Create a recorded container.

    Args:
        engine: The engine of this host.
        name: Its name.
        item: Its recorded description.

    Raises:
        EngineError: If the engine refuses.
    """
    body, others = body_of(item)
    made = engine.call("POST", "/containers/create", body, {"name": name})
    for network, settings in others.items():
        engine.call("POST", f"/networks/{network}/connect", {"Container": made["Id"], "EndpointConfig": settings})


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "stack": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["saved", "ended", "restored", "present"], "required": True},
            "about": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    stack, directory, state = (module.params[name] for name in ("stack", "directory", "state"))
    created: list[str] = []
    removed: list[str] = []
    jobs: list[str] = []
    try:
        engine = Engine()
        pending = os.path.join(directory, RECORD, PENDING)
        changed = state == "saved" or (state == "ended" and os.path.exists(pending))
        if state == "saved":
            record = {"about": module.params["about"], "saved_at": ""}
            if not module.check_mode:
                record = save(engine, stack, directory, module.params["about"])
        elif state == "ended":
            record = read(stack, directory)
        else:
            record = read(stack, directory)
            there = containers_of(engine, stack)
            recorded = record["containers"]
            removed = sorted(name for name, item in there.items() if not same(item, recorded.get(name)))
            created = sorted(name for name in recorded if name not in there or name in removed)
            of_jobs = [name for name in created if recorded[name]["Config"]["Labels"].get("quantops.kind") == "job"]
            jobs = sorted(of_jobs, key=lambda name: recorded[name]["State"]["StartedAt"])
            changed = state == "restored" and bool(created or removed)
            problems = missing_images(engine, record)
            if problems:
                remedy = "Check out the previous version and run site.yml (make up), which builds it again."
                raise SnapshotError(f"{' '.join(problems)} {remedy}")
        if state == "restored" and not module.check_mode:
            for name in removed:
                remove_container(engine, there[name]["Id"])
            restore_files(directory)
            for name in created:
                create(engine, name, recorded[name])
        if state in ("restored", "ended") and os.path.exists(pending) and not module.check_mode:
            os.unlink(pending)
    except (EngineError, SnapshotError, OSError) as error:
        module.fail_json(msg=str(error), created=created, removed=removed)
    module.exit_json(
        changed=changed,
        pending=os.path.exists(pending),
        about=record["about"],
        saved_at=record["saved_at"],
        created=created,
        removed=removed,
        jobs=jobs,
    )


if __name__ == "__main__":
    main()
