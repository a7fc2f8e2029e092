# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is measured, shown and alerted on, from the contracts of the services."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: Where the agents find the exporter that opens pages.
PROBER = "blackbox-exporter:9115"
#: Longest time that an answer may take, in seconds.
PATIENCE = 10


def _metrics_job(container: str, service: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Write the job that reads what a container exposes."""
    job: dict[str, Any] = {"job_name": container, "metrics_path": entry["path"]}
    if entry.get("scheme", "http") != "http":
        # A certificate of the stack's own is for the names of its service, and not of its container.
        job |= {"scheme": entry["scheme"], "tls_config": {"insecure_skip_verify": True}}
    if entry.get("secret"):
        path = f"/run/secrets/{entry['secret']}"
        job["basic_auth"] = {"username": entry.get("user") or service, "password_file": path}
    if entry.get("token"):
        job["authorization"] = {"credentials_file": f"/run/secrets/{entry['token']}"}
    if entry.get("own_labels"):
        # What it says of other containers is theirs.
        job["honor_labels"] = True
    labels = {"service": service, "container": container}
    return {**job, "static_configs": [{"targets": [f"{container}:{entry['port']}"], "labels": labels}]}


def _page_address(page: Mapping[str, Any], ports: Mapping[str, Mapping[str, Any]]) -> str:
    """Say where a page answers on the stack's network, without a login."""
    port = ports[page["port"]]
    return f"{port['scheme']}://{page['container']}:{port['container']}{page.get('check') or page.get('path') or '/'}"


def monitoring_scrape(
    services: Mapping[str, Mapping[str, Any]],
    here: Iterable[str],
    secrets: Mapping[str, str],
    interval: int,
    edge: str = "",
) -> dict[str, Any]:
    """Say what the agent of a host measures there.

    Args:
        services: Service to its contract without templates.
        here: Services of which the host runs a process.
        secrets: The stack's secrets.
        interval: How often, in seconds.
        edge: Service in front of all pages, whose own has no address on the network.

    Returns:
        ``config``, of vmagent in Prometheus' form, and ``secrets``, file name to content, that it names. Source:
        Prometheus, "Configuration".
    """
    jobs, pages = [], []
    named: dict[str, str] = {}
    for name in here:
        service = services[name]
        running = {key for key, container in service["containers"].items() if container["here"]}
        for container, entry in service["metrics"].items():
            if container in running:
                jobs.append(_metrics_job(container, name, entry))
                named |= {entry[key]: secrets[entry[key]] for key in ("secret", "token") if entry.get(key)}
        pages += [
            {
                "targets": [_page_address(page, service["ports"])],
                "labels": {"service": name, "container": page["container"], "page": page["title"]},
            }
            for page in service["web"]
            if page["container"] in running and name != edge
        ]
    if pages:
        jobs.append(
            {
                "job_name": "pages",
                "metrics_path": "/probe",
                "params": {"module": ["page"]},
                "static_configs": pages,
                "relabel_configs": [
                    {"source_labels": ["__address__"], "target_label": "__param_target"},
                    {"source_labels": ["__param_target"], "target_label": "instance"},
                    {"target_label": "__address__", "replacement": PROBER},
                ],
            }
        )
    settings = {"scrape_interval": f"{interval}s", "scrape_timeout": f"{min(int(interval), PATIENCE)}s"}
    return {"config": {"global": settings, "scrape_configs": jobs}, "secrets": named}
