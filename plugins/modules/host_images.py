#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""List the images of other hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_images
short_description: List the images of other hosts
description:
  - Asks the engines of hosts that need not be part of the play.
  - Uses the connections that Ansible has to them, of the kinds P(ansible.builtin.ssh#connection),
    P(ansible.builtin.local#connection) and P(community.docker.docker#connection). A host that does not answer is no
    error.
options:
  hosts:
    description: Names of the hosts in the inventory.
    type: list
    elements: str
    required: true
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Ask the host of the data for its images
  quantops.ibkr_stack.host_images:
    hosts: [data1]
"""

RETURN = r"""
images:
  description: Host that answered to its images, reference to id.
  returned: always
  type: dict
silent:
  description: Host that did not answer to the reason.
  returned: always
  type: dict
"""
