#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keep the addresses and keys of the hosts of a mesh."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mesh_members
short_description: Keep the addresses and keys of the hosts of a mesh
description:
  - Reads the records of the hosts from C(mesh) below the directory of the secrets, a file a host, and makes those that
    are missing. A host keeps its address and its key when others come and go.
  - Runs on the controller, within Ansible itself.
options:
  path:
    description: Directory of the secrets.
    type: path
    required: true
  subnet:
    description: The mesh's network.
    type: str
    required: true
  hosts:
    description: Host to C(endpoint), C(port) and the C(address) that it is expected to have.
    type: dict
    required: true
  host:
    description: The host that asks. Its private key is returned, and no other.
    type: str
    required: true
  restore:
    description: Host to the text of its own file of keys. Instead of making any, what I(path) lacks is written from
      there.
    type: dict
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Read the keys of the mesh
  quantops.ibkr_stack.mesh_members:
    path: secrets
    subnet: 172.28.64.0/24
    host: "{{ inventory_hostname }}"
    hosts: "{{ stack_met.hosts }}"
  no_log: true
"""

RETURN = r"""
address:
  description: Address of the host in the mesh.
  returned: without I(restore)
  type: str
private_key:
  description: Its private key.
  returned: without I(restore)
  type: str
peers:
  description: The other hosts, with C(name), C(address), C(public_key), and C(host) and C(port) where they are reached.
  returned: without I(restore)
  type: list
  elements: dict
new:
  description: Hosts whose record is new.
  returned: always
  type: list
  elements: str
"""
