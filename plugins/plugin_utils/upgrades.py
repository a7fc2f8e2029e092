# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Says what an upgrade changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.modules.stack_status import version_in
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.contracts import services_by_container


def upgrade_lines(
    states: Mapping[str, Mapping[str, Any]],
    plans: Iterable[Mapping[str, Any]],
    running: Mapping[str, Mapping[str, Any]],
    printed: Mapping[str, str],
    contracts: Mapping[str, Mapping[str, Any]],
    removed: Iterable[str] = (),
) -> list[str]:
    """Write what a run would change, for the person who decides about it.

    Args:
        states: Container to what ``container_state`` found.
        plans: Plans of the containers of the host.
        running: Container to what ``stack_status`` found.
        printed: Container to what the program of its new image prints as its version.
        contracts: Service to its contract, with its containers and what it needs.
        removed: Containers that are no longer declared.

    Returns:
        Lines; none if nothing changes.
    """
    plans = list(plans)
    changed = [plan for plan in plans if states.get(plan["name"], {}).get("drift")]
    kept = [plan for plan in changed if plan["prevent_recreate"] and _exists(states, plan["name"])]
    services = [plan["name"] for plan in changed if plan["kind"] == "service" and plan not in kept]
    jobs = [plan["name"] for plan in changed if plan["kind"] != "service"]
    lines = []
    for name, text in printed.items():
        new, old = version_in(text), running.get(name, {}).get("version", "")
        if new and old and new != old:
            lines.append(f"Version of {name}: {old} → {new}")
    why = {name: "; ".join(state["drift"]) for name, state in states.items()}
    lines += [f"Recreated: {name} ({why[name]})" for name in services if _exists(states, name)]
    lines += [f"Not recreated, to keep its session: {plan['name']} ({why[plan['name']]})" for plan in kept]
    lines += [f"New: {name}" for name in services if not _exists(states, name)]
    lines += [f"Removed: {name}" for name in removed]
    if jobs:
        lines.append(f"Run again, with the migrations of databases: {', '.join(jobs)}")
    needed = {need for contract in contracts.values() if contract["active"] for need in contract["needs"]}
    service_of = services_by_container(contracts)
    shared = sorted({service_of[plan["service"]] for plan in changed if plan["name"] in services} & needed)
    if shared:
        users = sorted(name for name, each in contracts.items() if each["active"] and {*each["needs"]} & {*shared})
        lines.append(f"Interrupted until it runs again: {', '.join(shared)}, and {', '.join(users)}, which need it")
    return lines


def _exists(states: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    return bool(states[name].get("exists"))


def upgrade_way_back(before: Mapping[str, str], now: Mapping[str, str], mode: str) -> str:
    """Decide whether the way back takes the data of the backup, or keeps that of now.

    Args:
        before: Database to the version of its tables at the time of the backup.
        now: The same at present; empty if the databases cannot be asked.
        mode: ``auto``, ``keep`` or ``backup``.

    Returns:
        Why the data of the backup is needed; empty if it is not.
    """
    if mode != "auto":
        return "it was asked for" if mode == "backup" else ""
    if not now and before:
        return "the databases cannot be asked how far they were migrated"
    moved = [
        f"{name} ({before.get(name) or 'none'} → {now.get(name) or 'none'})"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    return f"these databases were migrated: {', '.join(moved)}" if moved else ""
