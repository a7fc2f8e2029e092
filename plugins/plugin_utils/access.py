# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How a person reaches the stack: pages and passwords."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

ROW = "%-24s %-34s %-12s %s"


def access_table(
    pages: Iterable[Mapping[str, Any]], running: Iterable[str], places: Mapping[str, str] | None = None
) -> list[str]:
    """Write the table of pages.

    Args:
        pages: Web pages of a host, as the module ``service_contracts`` returns them.
        running: Names of the containers that run, without that of the stack.
        places: Secret to where a person finds it. Without it, users and passwords are left out.

    Returns:
        Lines: a heading and a line a page whose container runs.
    """
    shown = [page for page in pages if page["container"] in set(running)]
    tunnels = tunnel_lines(shown)
    if not places:
        return ["", f"{'Page':24} URL", *(f"{page['title']:24} {page['public_url']}" for page in shown), *tunnels]
    lines = ["", ROW % ("Page", "URL", "User", "Password")]
    for page in shown:
        if page.get("upstream") and page.get("identity"):
            # Behind an edge, whose login is the page's too.
            lines.append(ROW % (page["title"], page["public_url"], "(edge)", "-"))
            continue
        names = [page[key] for key in ("user_secret", "secret") if page.get(key)]
        user = "(secret)" if page.get("user_secret") else page.get("user") or "-"
        lines.append(ROW % (page["title"], page["public_url"], user, "; ".join(places[name] for name in names) or "-"))
    return lines + tunnels


def tunnel_lines(pages: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say how to reach pages that only their own host reaches.

    Args:
        pages: Those that are shown.

    Returns:
        A line a host other than the one of the browser.
    """
    hosts: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for page in pages:
        address = urlsplit(page["public_url"]).hostname or ""
        if page.get("loopback") and address not in ("localhost", "127.0.0.1"):
            hosts.setdefault((page["owner"], address), []).append(page)
    # SSH knows no names of the inventory.
    return [
        f"{', '.join(page['title'] for page in found)}: only on {owner} itself (stack_publish_address); from elsewhere"
        f" ssh {' '.join(dict.fromkeys('-L {0}:127.0.0.1:{0}'.format(page['published']) for page in found))} {address},"
        f" and localhost in place of {address}"
        for (owner, address), found in hosts.items()
    ]


def page_addresses(
    pages: Iterable[Mapping[str, Any]],
    services: Mapping[str, Mapping[str, Any]],
    local: str,
    stack: str = "",
    containers: Iterable[str] = (),
) -> dict[str, str]:
    """Say where a host itself asks the services of pages, without the edge in between.

    Args:
        pages: Web pages of the host, as the module ``service_contracts`` returns them.
        services: Service to its contract without templates.
        local: Address of the host on which ports are published.
        stack: Name of the stack.
        containers: Name and address, such as ``10.0.0.2/24``, of each container on the stack's network, with a blank
            between them; needed behind an edge, where services publish no pages.

    Returns:
        Name of each page to an address and a port.
    """
    inside = dict(line.split()[:2] for line in containers if len(line.split()) > 1)
    found = {}
    for page in pages:
        address = inside.get(f"{stack}-{page['container']}", "").partition("/")[0]
        port = services[page["service"]]["ports"][page["port"]]["container"] if address else page["published"]
        found[page["name"]] = f"{address or local}:{port}"
    return found


def secret_places(secrets: Iterable[str], values: Iterable[str], directory: str, here: str) -> dict[str, str]:
    """Describe where to find each secret.

    Args:
        secrets: Names of the secrets.
        values: Names of those that the inventory sets itself.
        directory: Directory of the files with the others.
        here: The working directory of the person.

    Returns:
        Secret to a command that prints it, or to the variable that holds it. A path below the working directory is
        relative.
    """
    relative = os.path.relpath(directory, here)
    short = directory if relative.startswith("..") else relative
    return {
        name: f"the variable secrets_values.{name}" if name in set(values) else f"cat {os.path.join(short, name)}"
        for name in secrets
    }
