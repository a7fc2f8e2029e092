#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Read the contracts of the services, and work out from the inventory who runs what and who reaches whom where."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_contracts
short_description: Read the contracts of the services
description:
  - Reads C(meta/service.yml) of each service role and renders it with the variables of the host that runs the
    service, so that
    every host sees the owner's ports, names and switches.
  - Determines which host runs which service, in which order, and where this host and a browser reach each service.
  - Runs on the controller without connecting to a host.
options:
  roles:
    description: Fully qualified names of the service roles. They may be in any collection.
    type: list
    elements: str
    required: true
  further:
    description: Names of further ones, C(stack_service_roles).
    type: list
    elements: str
    default: []
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Read the contracts
  quantops.ibkr_stack.service_contracts:
    roles: [quantops.ibkr_stack.redis, acme.desk.notebook]
  register: stack_contract
"""

RETURN = r"""
services:
  description: >-
    Service to its contract without templates, with C(role), C(group), C(owner), C(hosts), C(active) and C(here).
  returned: always
  type: dict
active:
  description: Services that the inventory has hosts for.
  returned: always
  type: list
  elements: str
here:
  description: Services of which this host runs a process.
  returned: always
  type: list
  elements: str
hosts:
  description: Hosts of this stack.
  returned: always
  type: list
  elements: str
waves:
  description: Active services in the order of their needs; those of a wave can start together.
  returned: always
  type: list
  elements: list
images:
  description: Images that the services of this host need.
  returned: always
  type: list
  elements: str
exposed:
  description: Services of this host that another host needs or uses.
  returned: always
  type: list
  elements: str
exposed_to:
  description: >-
    Where and to whom these are exposed - C(address), C(ports) (each with whether people reach it too), C(interface) of
    the mesh, C(sources), the addresses of the other hosts as far as they are known, and C(publish), the address for
    people.
  returned: always
  type: dict
reached:
  description: >-
    What services of this host reach on others - C(service), C(title), C(owner), C(host), C(port), C(variable) of the
    port, C(by) and C(needed_by), services of this host.
  returned: always
  type: list
  elements: dict
address:
  description: Where other hosts reach this one.
  returned: always
  type: str
mesh:
  description: >-
    Whether the hosts meet on a mesh (C(on)), its C(subnet), C(interface) and C(directory) of records, this host's
    C(port) and C(address), and C(hosts), each with C(endpoint), C(port) and C(address).
  returned: always
  type: dict
endpoints:
  description: >-
    Active service to where this host reaches it (C(url), C(host), C(port), C(nodes)) and a browser does
    (C(public_url)).
  returned: always
  type: dict
edge:
  description: The service that publishes the pages of all others; empty if the inventory has none.
  returned: always
  type: str
tokens:
  description: >-
    Where the inventory has an edge, services that ask for a login to their clients, and each client to the name of the
    secret that is its token.
  returned: always
  type: dict
watchers:
  description: Active service to those that watch it, each with a user there that sees figures and no data.
  returned: always
  type: dict
origins:
  description: Name of each page to scheme, name and port under which a browser reaches it.
  returned: always
  type: dict
links:
  description: >-
    Web pages of all active services, with C(title), C(name), C(container), C(origin) and C(public_url), and where the
    inventory has an edge, C(upstream), the URL at which that reaches the page.
  returned: always
  type: list
  elements: dict
pages:
  description: Web pages of this host's services, with C(title) and C(public_url).
  returned: always
  type: list
  elements: dict
secrets:
  description: Name to kind of each secret that the active services need.
  returned: always
  type: dict
secret_kinds:
  description: Name to kind of each secret of all services, active or not.
  returned: always
  type: dict
databases:
  description: Database to the number of connections that its programs may open together.
  returned: always
  type: dict
buckets:
  description: Buckets of the active services.
  returned: always
  type: list
  elements: str
redis_users:
  description: Users in Redis of the active services.
  returned: always
  type: dict
redis_databases:
  description: Name to number of the databases in Redis.
  returned: always
  type: dict
problems:
  description: Sentences that say what the inventory lacks.
  returned: always
  type: list
  elements: str
"""
