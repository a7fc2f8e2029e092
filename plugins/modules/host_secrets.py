#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Maintain the host's record of its containers' secrets."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_secrets
short_description: Maintain the host's record of its containers' secrets
description:
  - A file that only root reads holds every secret that a container of this host was given, so that a lost or different
    directory of secrets on the controller is noticed, and can be restored from here.
  - Secrets that only other hosts hold are recorded as a salted digest.
  - While a secret is being rotated its older values stay recorded, until no container's copy holds them any more.
  - Each new value is also noted in the log C(rotations.log) beside the record, by name and time only.
  - The action plugin of the same name does the comparing, and is what playbooks use.
options:
  directory:
    description: The stack's directory on the host, where each container's copies are in C(CONTAINER/secrets).
    type: path
    required: true
  stack:
    description: Name of the stack.
    type: str
    required: true
  current:
    description: Name to the digests of the current value; the first is that of the whole value, the others those of its
      parts between commas.
    type: dict
    default: {}
  keep:
    description: Name to what is recorded of it. C(digest), and C(value) if this host holds the whole value, or
      C(pieces).
    type: dict
    default: {}
  settle:
    description: Forget older values that no container's copy holds any more.
    type: bool
    default: false
  fetch:
    description: Return the recorded values. Use with C(no_log).
    type: bool
    default: false
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Read the host's record of the secrets
  quantops.ibkr_stack.host_secrets:
    directory: /etc/quantops/quantops
    stack: quantops
    fetch: true
  no_log: true
"""

RETURN = r"""
record:
  description: Name to the C(digest) of its newest recorded value, whether the host holds that value (C(held)), how many
    values are recorded (C(versions)), since when in seconds since 1970 (C(since), nothing if an earlier version of the
    collection recorded it), and if it is one with a certificate, that (C(certificate)).
  returned: always
  type: dict
changed_secrets:
  description: Name to the containers whose copies hold another value than the current one.
  returned: always
  type: dict
upgrading:
  description: Whether an upgrade has begun and not ended.
  returned: always
  type: bool
protected:
  description: Containers that only a variable lets a run recreate; looked up only if a secret has changed.
  returned: always
  type: list
  elements: str
copies:
  description: Containers whose copies of secrets are on this host.
  returned: always
  type: list
  elements: str
volumes:
  description: The stack's volumes; looked up only on a host without a record.
  returned: always
  type: list
  elements: str
recorded:
  description: Name to its recorded values, the newest first.
  returned: when I(fetch) is set
  type: dict
"""

import contextlib
import json
import os
import re
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine import EngineError
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine_api import Engine
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.left_files import remove_left, write_whole

NAME = "secrets.json"
LOG = "rotations.log"
#: Is there from the beginning of an upgrade until its end: the module ``container_snapshot``.
UPGRADING = "previous/pending"
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
Record = dict[str, list[dict]]


def read(file: Path) -> Record:
    """Read the record.

    Args:
        file: Where it is.

    Returns:
        Name to its versions, the newest first; nothing where there is none.

    Raises:
        ValueError: If the file is not a record.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("not a record of secrets")
    return found


def write(file: Path, record: Record) -> None:
    """Replace the record in one step, readable by root alone.

    Args:
        file: Where it is.
        record: Name to its versions.
    """
    file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_whole(file, json.dumps(record, indent=1, sort_keys=True))


def log_rotation(file: Path, names: list[str], now: float) -> None:
    """Append to the log which secrets have a new value.

    Args:
        file: The log, readable by root alone.
        names: Names of the secrets.
        now: Seconds since 1970.
    """
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(handle, "a", encoding="utf-8") as log:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        log.write(json.dumps({"at": at, "secrets": sorted(names)}) + "\n")


def described(versions: list[dict]) -> dict:
    """Describe a recorded secret without its value.

    Args:
        versions: Recorded values, the newest first.

    Returns:
        What ``record`` returns of it.
    """
    newest = versions[0]
    found = {"digest": newest["digest"], "held": "value" in newest, "versions": len(versions)}
    if "since" in newest:
        found["since"] = newest["since"]
    if certificate := CERTIFICATE.search(newest.get("value", "")):
        found["certificate"] = certificate[0]
    return found


def copies_in(directory: Path) -> dict[str, str]:
    """Read the containers' copies of secrets.

    Args:
        directory: The stack's directory.

    Returns:
        Name of each container to everything in its files.
    """
    found: dict[str, str] = {}
    for file in sorted(directory.glob("*/secrets/**/*")):
        if file.is_file():
            container = file.relative_to(directory).parts[0]
            found[container] = found.get(container, "") + file.read_text(encoding="utf-8", errors="replace") + "\n"
    return found


def pieces_of(version: dict) -> list[str]:
    """List what to look for of a recorded value.

    Args:
        version: What is recorded.

    Returns:
        Texts, one of which a copy of this value contains; none where only a digest is known.
    """
    return version.get("pieces") or ([version["value"]] if "value" in version else [])


def holders(versions: list[dict], current: list[str], copies: dict[str, str]) -> list[str]:
    """Find the containers that have an older value of a secret.

    Args:
        versions: Recorded values.
        current: Digests of the current one.
        copies: What ``copies_in`` returned.

    Returns:
        Names of containers.
    """
    now = [piece for version in versions if version["digest"] == current[0] for piece in pieces_of(version)]
    old = [piece for version in versions if version["digest"] != current[0] for piece in pieces_of(version)]
    found = []
    for container, text in copies.items():
        # A new value may contain the old one, as that of several Fernet keys does.
        rest = text
        for piece in now:
            rest = rest.replace(piece, "")
        if any(piece in rest for piece in old if piece not in now):
            found.append(container)
    return found


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "stack": {"type": "str", "required": True},
            "current": {"type": "dict", "default": {}},
            "keep": {"type": "dict", "default": {}, "no_log": True},
            "settle": {"type": "bool", "default": False},
            "fetch": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    directory, current = Path(module.params["directory"]), module.params["current"]
    file = directory / NAME
    try:
        record = read(file)
        before = json.dumps(record, sort_keys=True)
        copies = copies_in(directory)
        rotated, now = [], time.time()
        for name, version in module.params["keep"].items():
            versions = record.get(name, [])
            if versions and versions[0]["digest"] != version["digest"]:
                rotated.append(name)
            same = [each for each in versions if each["digest"] == version["digest"]]
            since = {"since": int(now)} if not same else {key: same[0][key] for key in ("since",) if key in same[0]}
            record[name] = [{**version, **since}, *(each for each in versions if each not in same)]
        changed = {}
        for name, digests in current.items():
            versions = record.get(name) or []
            if not versions or (len(versions) == 1 and versions[0]["digest"] == digests[0]):
                continue
            found = holders(versions, digests, copies)
            if module.params["settle"] and not found:
                record[name] = [each for each in versions if each["digest"] == digests[0]] or versions[:1]
            else:
                changed[name] = found
        for name in record.keys() - current.keys() if current else ():
            # Another one has taken its place, as after an upgrade: who still has it goes together too.
            if found := holders(record[name], [""], copies):
                changed[name] = found
        different = json.dumps(record, sort_keys=True) != before
        if not module.check_mode:
            remove_left(file.parent)
            if different:
                write(file, record)
            if rotated:
                log_rotation(file.parent / LOG, rotated, now)
    except (OSError, ValueError, KeyError, TypeError) as error:
        module.fail_json(
            msg=f"The host's record of the stack's secrets, {file}, cannot be used: {error}. Run the playbook with"
            " become (sudo). A damaged file can be moved away; the next run with the right secrets_dir makes it again."
        )
    volumes, protected = [], []
    label = f"quantops.stack={module.params['stack']}"
    # A host that has no engine yet has neither.
    with contextlib.suppress(EngineError):
        if not record:
            volumes = sorted(volume["Name"] for volume in Engine().volumes(label))
        if changed:
            running = Engine().containers(label, "quantops.protect=true")
            protected = sorted(container["Labels"]["quantops.service"] for container in running)
    result = {
        "changed": different and bool(module.params["keep"] or module.params["settle"]),
        "record": {name: described(versions) for name, versions in record.items() if versions},
        "changed_secrets": changed,
        "protected": protected,
        "copies": sorted(copies),
        "volumes": volumes,
        "upgrading": (file.parent / UPGRADING).exists(),
    }
    if module.params["fetch"]:
        result["recorded"] = {
            name: values
            for name, versions in record.items()
            if (values := [version["value"] for version in versions if "value" in version])
        }
    module.exit_json(**result)


if __name__ == "__main__":
    main()
