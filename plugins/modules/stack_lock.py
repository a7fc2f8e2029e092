#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lock a stack against concurrent runs; done by the action plugin of the same name."""

DOCUMENTATION = r"""
module: stack_lock
short_description: Lock a stack against concurrent runs
description:
  - Takes the lock of a stack on a host, C(/run/quantops/NAME.lock), which says who holds it, from where and since when.
  - It is held until this run of Ansible ends, however it ends. Where the process that holds it can be looked for, a
    lock without one is free at once; from another machine, 90 seconds after it was last renewed.
  - Over a connection, a small process beside C(ansible-playbook) renews it. It ends with the run.
  - Programs that a killed run started with M(quantops.ibkr_stack.container_run) go on without it. When a run takes the
    lock, it first ends those that were started under it.
  - In check mode nothing is taken, and a lock that another run holds is a warning.
options:
  stack:
    description: Name of the stack.
    type: str
    required: true
  name:
    description:
      - What is locked. C(stack) is what changes the stack; another name locks what nobody may do twice at once
        beside that, such as C(drill).
    type: str
    default: stack
  wait:
    description: Seconds to wait for another run to end, before that is an error.
    type: int
    default: 0
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Lock the stack
  quantops.ibkr_stack.stack_lock:
    stack: quantops
  register: stack_lock
  any_errors_fatal: true
"""

RETURN = r"""
ended:
  description: Containers of a run that was interrupted, which this one ended.
  returned: always
  type: list
  elements: str
taken:
  description: Whether this run holds the lock.
  returned: always
  type: bool
"""
