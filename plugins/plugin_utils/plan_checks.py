# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compares plans of containers with a host: its ports, its cores, and what runs there."""

from __future__ import annotations

import ipaddress
from collections.abc import Container
from typing import Any


def same_address(one: str, other: str) -> bool:
    """Tell whether two programs cannot both listen at a port of these addresses.

    Args:
        one: IPv4 or IPv6 address; ``*`` is the wildcard of both.
        other: Another.

    Returns:
        Whether they are the same, or one is a wildcard that covers the other.
    """
    if "*" in (one, other):
        return True
    first, second = ipaddress.ip_address(one), ipaddress.ip_address(other)
    return first.version == second.version and (first == second or first.is_unspecified or second.is_unspecified)


def port_conflicts(
    plans: list[dict[str, Any]],
    listening: dict[str, list[dict[str, str]]],
    variables: dict[str, Any],
    staying: Container[str] = (),
) -> list[str]:
    """Find published ports that something else holds, or that two containers want.

    Args:
        plans: What ``container_plan`` returned.
        listening: Port to ``address``, ``process`` and, if a container publishes it, ``container`` of each holder.
        variables: Name to value of the variables that set ports.
        staying: Containers of the stack that the run leaves alone, because the inventory no longer has their services.

    Returns:
        A sentence for each conflict, with the variable to change.
    """
    found = []
    taken: dict[str, list[tuple[str, str]]] = {}
    left: dict[str, list[str]] = {}
    for plan in plans:
        for published in plan["spec"]["published_ports"]:
            address, port, _target = published.rsplit(":", 2)
            names = [name for name, value in sorted(variables.items()) if str(value) == port]
            remedy = f"set {' or '.join(names) or 'its port'} to a free one"
            for holder in listening.get(port, []):
                who = holder.get("container") or holder.get("process") or "another program"
                # A page moves behind the edge, or back: its container gives the port up before the other one starts.
                own = holder.get("stack") and f"{holder['stack']}-{plan['service']}" == plan["name"]
                gives_up = own and who not in staying
                if gives_up or who == plan["name"] or not same_address(address, holder["address"]):
                    continue
                if own:
                    left.setdefault(who, []).append(f"{port} of {plan['service']}")
                else:
                    found.append(
                        f"Port {port}, which {plan['service']} publishes, is in use by {who}. Stop that, or {remedy}."
                    )
                break
            for service, other in taken.get(port, []):
                if service == plan["service"] and same_address(address, other):
                    found.append(
                        f"The container {service} publishes port {port} twice: remove one of the two from its 'ports',"
                        f" or give it another 'host' port. The inventory sets them in {plan['variable']}."
                    )
                elif same_address(address, other):
                    found.append(f"Port {port} is published by {service} and by {plan['service']}: {remedy}.")
            taken.setdefault(port, []).append((plan["service"], address))
    return found + [
        f"{who} holds the ports {', '.join(ports)}, and the inventory no longer has its service on this host. To remove"
        " such containers, and no data, run again with -e stack_remove_undeclared=true."
        for who, ports in left.items()
    ]


def too_many_cores(plans: list[dict[str, Any]], cores: int) -> list[str]:
    """Find limits of cores that the engine would refuse.

    Args:
        plans: What ``container_plan`` returned.
        cores: What the host has.

    Returns:
        A sentence for each, with the variable to change.
    """
    return [
        f"The container {plan['service']} is declared with {plan['spec']['cpus']:g} cores, and this host has {cores}."
        f" Set 'cpus' in {plan['variable']} to {cores} or less."
        for plan in plans
        if plan["spec"]["cpus"] > cores
    ]
