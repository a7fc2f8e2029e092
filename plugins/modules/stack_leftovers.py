#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Find what belongs to a stack and is not declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_leftovers
short_description: Find what belongs to a stack and is not declared
description:
  - Finds containers, volumes and networks that have the label or the name of a stack, and files in the directory of its
    configuration, which no declaration mentions. What has the label of another stack belongs to that one.
  - Also finds declared containers whose image is missing, or is not the one that they were made from.
  - Changes nothing.
options:
  stack:
    description: Name of the stack.
    type: str
    required: true
  network:
    description: Name of its network.
    type: str
    required: true
  directory:
    description: Directory of its configuration.
    type: path
    required: true
  declared:
    description: All containers of the host, as planned by the filter P(quantops.ibkr_stack.container_plan#filter).
    type: list
    elements: dict
    required: true
  compared:
    description: Names of those whose images are looked at.
    type: list
    elements: str
    default: []
  paths:
    description: Directories below O(directory) that hold declared files.
    type: list
    elements: path
    default: []
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Find undeclared resources
  quantops.ibkr_stack.stack_leftovers:
    stack: quantops
    network: quantops
    directory: /etc/quantops/quantops
    declared: "{{ plans }}"
"""

RETURN = r"""
found:
  description: What was found, each with C(kind), C(name) and C(difference).
  returned: always
  type: list
  elements: dict
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine import EngineError
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine_api import Engine, name_of

#: What a stack keeps about itself among its configuration: its secrets, their rotations, an interrupted
#: restore, and the containers from before an upgrade.
RECORDS = ("secrets.json", "rotations.log", "restore.json", "previous")
UNDECLARED = "not declared"


def difference(kind: str, name: str, text: str) -> dict[str, str]:
    """Describe a difference.

    Args:
        kind: What it is about, such as ``container``.
        name: Its name.
        text: What differs.

    Returns:
        The three.
    """
    return {"kind": kind, "name": name, "difference": text}


def belongs(stack: str, name: str, labels: dict[str, str] | None) -> bool:
    """Tell whether something of the engine's belongs to a stack.

    Args:
        stack: Name of the stack.
        name: Of the thing.
        labels: Its labels.

    Returns:
        Whether it has the stack's label or, without a label of any stack, its name.
    """
    label = (labels or {}).get("quantops.stack")
    return label == stack if label else name == stack or name.startswith(f"{stack}-")


def at_work(item: dict[str, Any]) -> bool:
    """Tell a program that ``container_run`` runs at this moment, and whose container removes itself.

    Args:
        item: The engine's summary of a container.

    Returns:
        Whether it is one.
    """
    return (item.get("Labels") or {}).get("quantops.kind") == "run" and item.get("State") == "running"


def undeclared(engine: Engine, asked: dict[str, Any]) -> list[dict[str, str]]:
    """Find what the engine has of a stack and no declaration mentions.

    Args:
        engine: The engine of this host.
        asked: Parameters of the module.

    Returns:
        Differences.
    """
    plans = asked["declared"]
    volumes = {mount["source"] for plan in plans for mount in plan["spec"]["mounts"] if mount["type"] == "volume"}
    containers = [item for item in engine.containers(stopped=True) if not at_work(item)]
    have = {
        "container": [(name_of(item), item.get("Labels")) for item in containers],
        "volume": [(item["Name"], item.get("Labels")) for item in engine.volumes()],
        "network": [(item["Name"], item.get("Labels")) for item in engine.call("GET", "/networks")],
    }
    known = {"container": {plan["name"] for plan in plans}, "volume": volumes, "network": {asked["network"]}}
    return [
        difference(kind, name, UNDECLARED)
        for kind, items in have.items()
        for name, labels in sorted(items, key=lambda item: item[0])
        if name not in known[kind] and belongs(asked["stack"], name, labels)
    ]


def images(engine: Engine, asked: dict[str, Any]) -> list[dict[str, str]]:
    """Compare the images of declared containers with those of the host.

    Args:
        engine: The engine of this host.
        asked: Parameters of the module.

    Returns:
        Differences.
    """
    plans = [plan for plan in asked["declared"] if plan["name"] in asked["compared"]]
    found = []
    for name in sorted({plan["spec"]["image"] for plan in plans}):
        image = engine.find("images", name)
        if image is None:
            repository = f"{name.rpartition(':')[0]}:"
            tags = [tag for each in engine.call("GET", "/images/json") for tag in each.get("RepoTags") or []]
            others = sorted(tag for tag in tags if tag.startswith(repository))
            built = f"; built from other definitions are {', '.join(others)}" if others else ""
            found.append(difference("image", name, f"missing{built}"))
            continue
        users = engine.inspect(plan["name"] for plan in plans if plan["spec"]["image"] == name)
        # Made from the same name before that was given to another image.
        older = [each for each, item in users.items() if item["Config"]["Image"] == name]
        found += [
            difference("image", name, f"is another image than the one that {each} was made from")
            for each in older
            if users[each]["Image"] != image["Id"]
        ]
    return found


def files(directory: str, paths: list[str]) -> list[dict[str, str]]:
    """Find what the directory of the configuration holds beside declared files.

    Args:
        directory: Its path.
        paths: Directories in it that ``config_tree`` compares.

    Returns:
        Differences; of an undeclared directory itself only.
    """
    declared = {os.path.normpath(path) for path in paths}
    parents = {directory}
    for path in declared:
        while (path := os.path.dirname(path)).startswith(f"{directory}/"):
            parents.add(path)
    declared |= {os.path.join(directory, name) for name in RECORDS}
    return [
        difference("file", entry.path, UNDECLARED)
        for parent in sorted(parents)
        if os.path.isdir(parent)
        for entry in sorted(os.scandir(parent), key=lambda each: each.name)
        if entry.path not in declared | parents
    ]


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "stack": {"type": "str", "required": True},
            "network": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "declared": {"type": "list", "elements": "dict", "required": True},
            "compared": {"type": "list", "elements": "str", "default": []},
            "paths": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    asked = module.params
    try:
        engine = Engine()
        found = undeclared(engine, asked) + images(engine, asked)
        found += files(os.path.normpath(asked["directory"]), asked["paths"])
    except (EngineError, OSError) as error:
        module.fail_json(msg=f"Cannot look for undeclared resources: {error}")
    module.exit_json(changed=False, found=found)


if __name__ == "__main__":
    main()
