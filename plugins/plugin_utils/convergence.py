# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What has to be done so that the containers of a host are as planned, and in which order."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.containers import public_plan

Plan = Mapping[str, Any]
States = Mapping[str, Mapping[str, Any]]


def is_protected(plan: Plan, state: Mapping[str, Any]) -> bool:
    """Tell whether a container runs, is not as planned, and is recreated only where a variable allows it.

    Args:
        plan: Its plan.
        state: What ``container_state`` found of it.

    Returns:
        Whether it is left alone. What counts is also whether it was made as a protected one: a declaration without
        the protection must
        not end what runs under it.
    """
    if not state["running"] or not state["drift"] or plan.get("recreate"):
        return False
    return bool(plan["prevent_recreate"] or state["protected"])


def protected_plans(plans: Iterable[Plan], states: States) -> list[dict[str, Any]]:
    """Choose the containers that are not as planned, and are left alone.

    Args:
        plans: What ``service_plans`` returned.
        states: What ``container_state`` found.

    Returns:
        Their plans, without content of files.
    """
    return public_plan([dict(plan) for plan in plans if is_protected(plan, states[plan["name"]])])


def out_of_sync(
    plans: Mapping[str, Iterable[Plan]],
    services: Iterable[str],
    states: States,
    stale_files: Iterable[str],
    leftovers: Iterable[str],
    contracts: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Choose the services of which something has to be touched or awaited.

    Args:
        plans: Service to its plans.
        services: Services to choose from.
        states: What ``container_state`` found.
        stale_files: Files that differ from the plans.
        leftovers: Containers that are no longer declared.
        contracts: Service to its contract without templates.

    Returns:
        Names of services.
    """
    found = []
    for service in services:
        chosen = list(plans[service])
        directories = [f"{tree['path']}/" for plan in chosen for key in ("trees", "secret_trees") for tree in plan[key]]
        # What is written may be a directory itself.
        stale = any(f"{path}/".startswith(directory) for path in stale_files for directory in directories)
        left = any(name.endswith(f"-{each}") for name in leftovers for each in contracts[service]["all_containers"])
        if stale or left or not all(states[plan["name"]]["ready"] for plan in chosen):
            found.append(service)
    return found


def starting_containers(plans: Iterable[Plan], states: States) -> list[str]:
    """Choose the services' containers that somebody has to wait for.

    Args:
        plans: What ``service_plans`` returned.
        states: What ``container_state`` found before anything was changed.

    Returns:
        Names of those that were not ready. Nobody waits for a protected one that hangs: it stays as it is.
    """
    return [
        plan["name"]
        for plan in plans
        if plan["kind"] == "service"
        and not states[plan["name"]]["ready"]
        and not (is_protected(plan, states[plan["name"]]) and states[plan["name"]]["hung"])
    ]


def wave_work(
    plans: Mapping[str, Iterable[Plan]],
    states: States,
    contracts: Mapping[str, Mapping[str, Any]],
    empty_databases: Iterable[str],
) -> dict[str, Any]:
    """Determine the changes that a wave of services needs.

    Args:
        plans: Service to its plans.
        states: What ``container_state`` found.
        contracts: Service to its contract without templates.
        empty_databases: Databases that hold nothing: the jobs that prepare them run again.

    Returns:
        ``now``: plans of what can be started at once; ``jobs``: service to the jobs that it waits for; ``later``: the
        same services to
        the plans that follow; ``states``: name to state of all of these, with the reasons for what is done.
    """
    empty = set(empty_databases)
    work: dict[str, Any] = {"now": [], "jobs": {}, "later": {}, "states": {}}
    for service, declared in plans.items():
        again = bool(empty & set(databases_of_jobs(contracts[service])))
        jobs, services, awaited = [], [], []
        for plan in declared:
            state = dict(states[plan["name"]])
            if plan["kind"] == "job":
                if again and not state["drift"] and not (state["running"]):
                    state["drift"] = ["its database is empty"]
                if state["drift"]:
                    jobs.append(plan)
                if state["drift"] or not state["ready"]:
                    awaited.append(plan["name"])
            elif state["drift"] and not is_protected(plan, state):
                services.append(plan)
            work["states"][plan["name"]] = state
        work["now"] += public_plan([dict(plan) for plan in (jobs if awaited else jobs + services)])
        if awaited:
            work["jobs"][service] = awaited
            work["later"][service] = public_plan([dict(plan) for plan in services])
    return work


def databases_of_jobs(contract: Mapping[str, Any]) -> list[str]:
    """List the databases that the jobs of a service prepare.

    Args:
        contract: Its contract without templates.

    Returns:
        Names. One that no job prepares is empty until somebody writes to it.
    """
    return [name for name, entry in contract["databases"].items() if (entry or {}).get("prepared", True)]


def prepared_databases(contracts: Mapping[str, Mapping[str, Any]], services: Iterable[str]) -> list[str]:
    """List the databases that jobs prepare, and which therefore are not to be empty.

    Args:
        contracts: Service to its contract without templates.
        services: Services to look at.

    Returns:
        Names of databases of those services that have a job.
    """
    return [
        database
        for name in services
        if any(container["job"] for container in contracts[name]["containers"].values())
        for database in databases_of_jobs(contracts[name])
    ]


def undeclared_containers(contracts: Iterable[Mapping[str, Any]]) -> list[str]:
    """List the containers that services can have, and do not have on this host.

    Args:
        contracts: Contracts without templates.

    Returns:
        Names without that of the stack.
    """
    return [
        name
        for contract in contracts
        for name in contract["all_containers"]
        if not contract["containers"].get(name, {}).get("here")
    ]


def chosen_services(services: Iterable[str], run_tags: Iterable[str], skip_tags: Iterable[str]) -> list[str]:
    """Choose services by the tags of a run, each of which may be the name of a service.

    Args:
        services: Services of the host.
        run_tags: ``ansible_run_tags``.
        skip_tags: ``ansible_skip_tags``.

    Returns:
        Names of services.
    """
    run, skip = set(run_tags), set(skip_tags)
    return [name for name in services if run & {"all", "tagged", name} and name not in skip]


#: Tags that Ansible, the playbooks or Molecule know beside the services.
TAGS = ("all", "tagged", "untagged", "always", "never", "images", "notest", "molecule-notest")


def unknown_tags(run_tags: Iterable[str], services: Iterable[str]) -> list[str]:
    """Find tags that choose nothing.

    Args:
        run_tags: ``ansible_run_tags``.
        services: Names of all services.

    Returns:
        A sentence for each, with what was probably meant.
    """
    known = [*services, *TAGS]
    found = []
    for tag in run_tags:
        if tag not in known:
            near = difflib.get_close_matches(tag, known, 1)
            hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(services)}, images and always."
            found.append(f"--tags names {tag}, which is neither a service nor a step. {hint}")
    return found


def container_waves(
    contracts: Mapping[str, Mapping[str, Any]], waves: Iterable[Iterable[str]], stack: str
) -> list[list[str]]:
    """Order the containers of a host that stay running.

    Args:
        contracts: Service to its contract without templates.
        waves: Services in the order of their needs.
        stack: Name of the stack.

    Returns:
        Names of containers, wave by wave; none of a wave of other hosts, so that all hosts count the same waves.
    """
    return [
        [
            f"{stack}-{name}"
            for service in wave
            for name, entry in contracts[service]["containers"].items()
            if entry["here"] and not entry["job"]
        ]
        for wave in waves
    ]


def stop_order(
    contracts: Mapping[str, Mapping[str, Any]], waves: Iterable[Iterable[str]], stack: str, running: Iterable[str]
) -> list[list[str]]:
    """Order the running containers of a stack so that none loses what it needs while it ends.

    Args:
        contracts: Service to its contract without templates.
        waves: Services in the order of their needs.
        stack: Name of the stack.
        running: Names of the containers that run.

    Returns:
        Names of containers: first those that no contract names, then wave by wave from the last to the first; none
        where none runs, so that all hosts count the same waves.
    """
    running = list(running)
    known = container_waves(contracts, waves, stack)
    named = {name for wave in known for name in wave}
    order = [[name for name in running if name not in named], *reversed(known)]
    return [[name for name in wave if name in running] for wave in order]


def declared_containers(contracts: Mapping[str, Mapping[str, Any]], stack: str) -> list[str]:
    """List the containers that a host should have, jobs included.

    Args:
        contracts: Service to its contract without templates.
        stack: Name of the stack.

    Returns:
        Names of containers.
    """
    return [
        f"{stack}-{name}"
        for contract in contracts.values()
        for name, entry in contract["containers"].items()
        if entry["here"]
    ]
