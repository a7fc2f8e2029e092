#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Wait until no other program installs packages."""

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_wait
short_description: Wait for the locks of apt and dpkg
description:
  - Looks for the program that holds a lock of apt or dpkg, such as unattended upgrades, and waits for it to
    release the lock.
  - Fails with the name of that program after O(timeout). Changes nothing.
options:
  timeout:
    description: Seconds to wait.
    type: int
    default: 900
  locks:
    description: Files that are locked while packages are installed.
    type: list
    elements: path
    default:
      - /var/lib/dpkg/lock-frontend
      - /var/lib/dpkg/lock
      - /var/lib/apt/lists/lock
      - /var/cache/apt/archives/lock
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Wait for the locks of apt and dpkg
  quantops.ibkr_stack.apt_wait:
    timeout: 600
"""

RETURN = r"""
waited:
  description: Seconds that it took.
  returned: success
  type: int
holder:
  description: Who held a lock last; empty if nobody did.
  returned: always
  type: str
"""

import fcntl
import os
import struct
import time

from ansible.module_utils.basic import AnsibleModule

FLOCK = "hhqqi"  # struct flock on a 64-bit Linux: type, whence, start, length, process


def holder_of(path: str) -> str:
    """Find who holds a lock.

    Args:
        path: File that is locked.

    Returns:
        Program, process and file; empty if nobody holds it.
    """
    try:
        with open(path, "rb") as file:
            asked = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError:
        return ""
    kind, *_range, pid = struct.unpack(FLOCK, asked)
    if kind == fcntl.F_UNLCK:
        return ""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return f"{comm.read().strip()} (process {pid}), which holds {path}"
    except OSError:
        return f"a program that holds {path}"


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "timeout": {"type": "int", "default": 900},
            "locks": {
                "type": "list",
                "elements": "path",
                "default": [
                    "/var/lib/dpkg/lock-frontend",
                    "/var/lib/dpkg/lock",
                    "/var/lib/apt/lists/lock",
                    "/var/cache/apt/archives/lock",
                ],
            },
        },
        supports_check_mode=True,
    )
    started = time.monotonic()
    last = ""
    while holders := [found for found in map(holder_of, module.params["locks"]) if found]:
        last = holders[0]
        waited = int(time.monotonic() - started)
        if waited >= module.params["timeout"]:
            module.fail_json(
                msg=f"Packages cannot be installed: for {waited} s the run waited for {last}. Wait for it to finish, or"
                " stop it if it hangs, and run the playbook again; docker_host_apt_timeout sets how long to wait.",
                holder=last,
            )
        time.sleep(1)
    module.exit_json(changed=False, waited=int(time.monotonic() - started), holder=last)


if __name__ == "__main__":
    main()
