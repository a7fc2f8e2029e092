# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Finds addresses for the stack's network that nothing else uses."""

from __future__ import annotations

import ipaddress


def overlapping_networks(subnet: str, network: str, networks: dict[str, list[str]]) -> list[str]:
    """Find networks of the engine whose addresses a new one would share, which the engine refuses.

    Args:
        subnet: Addresses of the stack's network.
        network: Its name; the network itself does not count.
        networks: Name to subnets of what the engine has.

    Returns:
        Names with their subnets.
    """
    own = ipaddress.ip_network(subnet)
    return [
        f"{name} ({other})"
        for name, subnets in sorted(networks.items())
        for other in map(ipaddress.ip_network, subnets)
        if name != network and other.version == own.version and other.overlaps(own)
    ]


def occupied_addresses(subnet: str, occupied: list[dict[str, str]]) -> list[str]:
    """Find what leads to other machines at the addresses of a subnet, and would lead to its containers instead.

    Args:
        subnet: Addresses of the stack's network.
        occupied: Of each, ``subnet`` and ``by``, as the module ``host_report`` says it.

    Returns:
        What leads there, for people.
    """
    own = ipaddress.ip_network(subnet)
    return [each["by"] for each in occupied if own.overlaps(ipaddress.ip_network(each["subnet"], strict=False))]


def free_network(networks: dict[str, list[str]], occupied: list[dict[str, str]]) -> str:
    """Find private addresses that nothing on a host uses.

    Args:
        networks: Name to subnets of what the engine has.
        occupied: Of each, ``subnet`` and ``by``, as the module ``host_report`` says it.

    Returns:
        A network with room for 254 addresses.
    """
    words = [subnet for subnets in networks.values() for subnet in subnets] + [each["subnet"] for each in occupied]
    held = [each for each in (ipaddress.ip_network(word, strict=False) for word in words) if each.version == 4]
    for pool in ("172.29.64.0/18", "172.16.0.0/12", "10.64.0.0/10", "192.168.128.0/17"):
        for subnet in ipaddress.ip_network(pool).subnets(new_prefix=24):
            if not any(subnet.overlaps(each) for each in held):
                return str(subnet)
    return "a network of your own"
