# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Judges whether a host can run the stack, from what the module ``host_report`` found there."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.networks import (
    free_network,
    occupied_addresses,
    overlapping_networks,
)
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.plan_checks import port_conflicts, too_many_cores

#: The oldest supported releases, by ``ID`` of os-release.
OLDEST = {"debian": (12,), "ubuntu": (22, 4)}
#: The record of a stack's secrets among its configuration.
RECORD = "secrets.json"
ARCHITECTURES = ("x86_64", "aarch64")


def host_problems(report: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Find problems that prevent a host from running the stack.

    Args:
        report: What the module ``host_report`` returned as ``host``.
        wanted: ``install`` (an engine may be installed), ``min_disk_mb``, ``network``, ``subnet``,
            ``publish_address`` and ``config_dir``.

    Returns:
        A sentence for each problem, with its remedy.
    """
    return [
        *system_problems(report),
        *engine_problems(report, bool(wanted["install"])),
        *firewall_problems(report),
        *disk_problems(report, int(wanted["min_disk_mb"])),
        *config_problems(report, str(wanted["config_dir"]), str(wanted["network"])),
        *network_problems(report, str(wanted["network"]), str(wanted["subnet"])),
        *address_problems(report, str(wanted["publish_address"])),
    ]


def host_drift(report: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[dict[str, str]]:
    """Find what of a host's engine, firewall, packages, network and addresses differs from the declaration.

    Args:
        report: See ``host_problems``.
        wanted: As there, with ``packages``, names of those that are missing, and ``late_address``, whether the setting
            for an address that comes up late is missing.

    Returns:
        One dictionary a difference, with ``kind``, ``name`` and ``difference``.
    """
    engine, network, subnet = report["engine"], str(wanted["network"]), str(wanted["subnet"])
    packages = [*wanted["packages"], *(["python3-requests"] if report["python"]["error"] else [])]
    found = [("package", name, "not installed") for name in packages]
    if not engine["answers"]:
        found.append(("engine", "docker", f"does not answer: {engine['error']}"))
    elif network not in report["networks"]:
        found.append(("network", network, "missing"))
    else:
        found += [("network", network, sentence) for sentence in network_problems(report, network, subnet)]
    found += [("firewall", "iptables", f"lacks {rule}") for rule in engine.get("lost_rules") or []]
    publish_address = str(wanted["publish_address"])
    found += [("address", publish_address, sentence) for sentence in address_problems(report, publish_address)]
    if wanted["late_address"]:
        found.append(("setting", "net.ipv4.ip_nonlocal_bind", "not set by /etc/sysctl.d"))
    return [{"kind": kind, "name": name, "difference": text} for kind, name, text in found]


def system_problems(report: Mapping[str, Any]) -> list[str]:
    """Find out whether the distribution and the processor are supported.

    Args:
        report: See ``host_problems``.

    Returns:
        A sentence for each problem.
    """
    found = []
    distribution = report["distribution"]
    # Testing and unstable have no number.
    version = tuple(int(part) for part in re.findall(r"\d+", report["version"] or "99"))
    if not {distribution, *report["like"].split()} & set(OLDEST) or version < OLDEST.get(distribution, (0,)):
        found.append(
            f"This host runs {distribution} {report['version']}. Supported are Debian 12 and later and Ubuntu 22.04"
            " and later."
        )
    if report["architecture"] not in ARCHITECTURES:
        found.append(
            f"This host's processor is {report['architecture']}. The images are built from packages for x86_64 and"
            " aarch64: use such a host, with a 64-bit system."
        )
    return found


def engine_problems(report: Mapping[str, Any], install: bool) -> list[str]:
    """Find out whether the engine and what Ansible's modules need to talk to it are there or may be installed.

    Args:
        report: See ``host_problems``.
        install: Whether they may.

    Returns:
        A sentence for each problem.
    """
    engine, python = report["engine"], report["python"]
    found = []
    if not (engine["daemon"] or engine["answers"] or install):
        found.append(
            "This host has no Docker engine, and docker_host_install is false. Install one, or set"
            " docker_host_install to true."
        )
    if engine.get("denied"):
        found.append(f"The Docker engine refuses this user: {engine['error']}. Run the playbook with become (sudo).")
    if python["error"] and not (python["debian"] and install):
        remedy = (
            "Install python3-requests, or set docker_host_install to true."
            if python["debian"]
            else "It does not see the packages of Debian: set ansible_python_interpreter to /usr/bin/python3, or"
            f" install requests with {python['executable']} -m pip install requests."
        )
        found.append(
            f"{python['executable']}, the Python that Ansible uses on this host, cannot import requests, which the"
            f" Docker modules need ({python['error']}). {remedy}"
        )
    return found


def firewall_problems(report: Mapping[str, Any]) -> list[str]:
    """Find rules of the engine's firewall that are gone.

    Ports of running containers may answer all the same, through the engine's proxy, and the next container cannot be
    started.

    Args:
        report: See ``host_problems``.

    Returns:
        A sentence, or nothing.
    """
    lost = report["engine"].get("lost_rules") or []
    if not lost:
        return []
    restart = (
        "systemctl restart docker"
        if report["init"] == "systemd"
        else "end it with kill $(cat /var/run/docker.pid), and run this again, which starts it"
    )
    return [
        f"The Docker engine's firewall rules are gone: iptables lacks {', '.join(lost)}. Something flushed them,"
        " such as"
        ' "iptables -F", "nft flush ruleset" or a firewall that was reloaded. Containers cannot be started, and'
        " running ones"
        " reach nothing outside. The engine restores the rules when it starts, which restarts all containers:"
        f" {restart}."
    ]


def disk_problems(report: Mapping[str, Any], min_disk_mb: int) -> list[str]:
    """Find directories that cannot be written, and file systems that are too full.

    Args:
        report: See ``host_problems``.
        min_disk_mb: MiB that must be free where the engine keeps images and volumes.

    Returns:
        A sentence for each problem.
    """
    found = []
    if report["read_only"]:
        found.append(
            f"Cannot write to {', '.join(report['read_only'])}: the file system is read-only, or the user"
            " lacks permission. Mount it for writing, set stack_config_dir to another directory, or run the"
            " playbook with become (sudo)."
        )
    found += [
        f"{path} has {free} MiB free, stack_min_disk_mb asks for {min_disk_mb}. The engine keeps images or volumes"
        " there: free some, or lower stack_min_disk_mb if you know it is enough."
        for path, free in report["disk_free_mb"].items()
        if free < min_disk_mb
    ]
    return found


def config_problems(report: Mapping[str, Any], config_dir: str, network: str) -> list[str]:
    """Find out whether the directory of the configuration is somebody else's.

    Args:
        report: See ``host_problems``.
        config_dir: The directory, in which a run deletes what it does not know.
        network: Name of the stack's network.

    Returns:
        A sentence for each problem.
    """
    files = report["config_files"]
    # The record of secrets is written before anything else there; stacks of earlier versions may lack it.
    if not files or RECORD in files or network in report["networks"]:
        return []
    named = ", ".join([*files[:5], *(["…"] if len(files) > 5 else [])])
    return [
        f"{config_dir} holds files that are not of this stack ({named}), and would be deleted with it."
        " Set stack_config_dir to a directory of the stack's own, or move these files."
    ]


def network_problems(report: Mapping[str, Any], network: str, subnet: str) -> list[str]:
    """Find out whether the stack's network can have its addresses.

    Args:
        report: See ``host_problems``.
        network: Name of the stack's network.
        subnet: Its addresses.

    Returns:
        A sentence for each problem, with addresses that are free.
    """
    networks = report["networks"]
    has = networks.get(network, [subnet])
    if has != [subnet]:
        return [
            f"The network {network} exists with {', '.join(has)}, but stack_network_subnet is {subnet}. Set"
            " stack_network_subnet to what it has, or remove the network: playbooks/destroy.yml keeps all data."
        ]
    found = []
    overlapping = overlapping_networks(subnet, network, networks)
    if overlapping:
        found.append(
            f"stack_network_subnet is {subnet}, and the engine has networks on the same addresses:"
            f" {', '.join(overlapping)}. Set stack_network_subnet to another subnet, such as"
            f" {free_network(networks, report['occupied'])}."
        )
    # The bridge would take over their route, and a connection from there, SSH included, would lose its way back.
    reached = [] if network in networks else occupied_addresses(subnet, report["occupied"])
    if reached:
        found.append(
            f"stack_network_subnet is {subnet}, and this host reaches other machines in that range:"
            f" {', '.join(reached[:5])}. The containers' network would cut them off, including SSH sessions from"
            " there. Set stack_network_subnet to an unused subnet, such as"
            f" {free_network(networks, report['occupied'])}."
        )
    return found


def address_problems(report: Mapping[str, Any], publish_address: str) -> list[str]:
    """Find out whether services can listen where they are published.

    Args:
        report: See ``host_problems``.
        publish_address: Address on which they are; empty if none are published.

    Returns:
        A sentence, or nothing.
    """
    if report["address_here"] or not publish_address:
        return []
    return [
        f"stack_publish_address is {publish_address}, which is not an address of this host. Set it to one, to 127.0.0.1"
        " for this host alone, or to 0.0.0.0 for all."
    ]


def fit_problems(
    plans: list[dict[str, Any]],
    report: Mapping[str, Any],
    variables: Mapping[str, Any],
    reserved_mb: int,
    staying: Container[str] = (),
) -> list[str]:
    """Find out whether the containers of all services fit on a host together.

    Args:
        plans: What ``container_plan`` returned, with ``kind``.
        report: See ``host_problems``.
        variables: Name to value of the variables that set ports.
        reserved_mb: MiB of memory that are kept for the host itself.
        staying: See ``port_conflicts``.

    Returns:
        A sentence for each problem, with its remedy.
    """
    needed = sum(plan["limits"]["Memory"] for plan in plans if plan["kind"] == "service") // 2**20
    found = port_conflicts(plans, report["ports"], dict(variables), staying)
    if needed + int(reserved_mb) > report["memory_mb"]:
        found.append(
            f"The services of this host may use {needed} MiB together, and stack_reserved_memory_mb keeps"
            f" {reserved_mb} MiB for the host, which has {report['memory_mb']} MiB. Give it more, leave out"
            " services by emptying their groups, or lower the `memory` of containers in the *_overrides variables."
        )
    return found + too_many_cores(plans, report["cores"])
