#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plan the containers of a host's services."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_plans
short_description: Plan the containers of services
description:
  - Renders the variable C(NAME_containers) of each service's role with the role's own variables, checks it,
    and turns it into plans as the filter P(quantops.ibkr_stack.container_plan#filter) does.
  - Runs on the controller without connecting to a host. Plans hold secrets, so hide the result.
options:
  services:
    description: Names of the services.
    type: list
    elements: str
    required: true
  contracts:
    description: Service to its contract, as the module M(quantops.ibkr_stack.service_contracts) returns them.
    type: dict
    required: true
  settings:
    description: >-
      What every plan needs to know, such as the stack's name; see the filter
      P(quantops.ibkr_stack.container_plan#filter).
    type: dict
    default: {}
  validate_only:
    description: Compare the variables of the inventory with the argument specs of the roles, and plan nothing.
    type: bool
    default: false
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Plan the containers
  quantops.ibkr_stack.service_plans:
    services: [redis]
    contracts: "{{ stack_contract.services }}"
    settings: "{{ stack_container_settings }}"
  register: planned
  no_log: true
"""

RETURN = r"""
plans:
  description: Service to the plans of its containers on this host.
  returned: always
  type: dict
"""
