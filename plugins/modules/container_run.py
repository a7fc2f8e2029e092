#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run a program in a container of its own, made like one of a service's containers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_run
short_description: Run a program in a container of its own, made like one of a service's
description:
  - Makes a container from the declaration of one of a service's containers, with what the task changes of it, runs it
    to its end, returns what it prints, and removes it.
  - The container has the user, limits, capabilities, read-only file system, mounts, secrets and network of that
    declaration, the inventory's overrides included. It publishes no port, has no name of the service on the network,
    and has no health check.
  - It is planned on the controller as containers of services are, so a declaration that cannot work is refused with
    the key that is wrong.
  - The engine removes it when it ends, also when the run of Ansible was killed. One that is left from a killed run is
    replaced by the next of its name, ended by the next run that takes the lock (O(lock)), and removed with the stack.
  - The role P(quantops.ibkr_stack.container_service#role) has it as its entry point C(run).
options:
  name:
    description: Name of the container without that of the stack. No container of the service may have it.
    type: str
    required: true
  service:
    description: Name of the service.
    type: str
    required: true
  contract:
    description: The service's contract, as the module M(quantops.ibkr_stack.service_contracts) returns it.
    type: dict
    required: true
  container:
    description: Container of the service whose declaration it is made from; one of another host will do.
    type: str
    required: true
  settings:
    description: >-
      What every plan needs to know, such as the stack's name; see the filter
      P(quantops.ibkr_stack.container_plan#filter).
    type: dict
    required: true
  changes:
    description:
      - Keys of the declaration that are replaced, whole. An empty list or dictionary takes away.
      - Its environment can be seen with C(docker inspect); a secret belongs in O(stdin).
    type: dict
    default: {}
  network:
    description: Whether it is on the stack's network; otherwise it has none.
    type: bool
    default: true
  pull:
    description: Whether its image is pulled if the host lacks it; otherwise nothing runs, and RV(rc) is not set.
    type: bool
    default: true
  lock:
    description:
      - Name of the lock that this run of Ansible holds, see M(quantops.ibkr_stack.stack_lock); empty if it holds none.
      - The next run that takes the lock then ends the container, should this one be killed.
    type: str
    default: ""
extends_documentation_fragment: quantops.ibkr_stack.program
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Ask the database for its version, as the migration would
  quantops.ibkr_stack.container_run:
    name: mlflow-ask
    service: mlflow
    contract: "{{ stack_services.mlflow }}"
    container: mlflow-upgrade
    settings: "{{ stack_container_settings }}"
    changes: {command: [python, "-"]}
    stdin: "{{ lookup('ansible.builtin.file', 'ask.py') }}"
"""

RETURN = r"""
rc:
  description: Exit status of the program.
  returned: when it ended
  type: int
stdout:
  description: What it printed; of more than 4 MiB the last part.
  returned: when it ended
  type: str
stdout_lines:
  description: The same by lines.
  returned: when it ended
  type: list
  elements: str
stderr:
  description: What it wrote to standard error.
  returned: when it ended with another status than 0
  type: str
"""
