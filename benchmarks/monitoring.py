#!/usr/bin/env python3
"""Shows what the monitoring itself takes, as it measures it: memory, processor, room, and the size of its image.

Usage: ``monitoring.py URL PASSWORD_FILE [STACK]``, such as ``monitoring.py http://localhost:8427
inventories/local/.secrets/monitoring_password``, on the monitoring host. Leave the stack alone for half an hour before.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import requests

OWN = 'service="monitoring", kind="service"'
ASKED = {
    "memory, working set (MB)": f"sum by (container) (container_memory_working_set_bytes{{{OWN}}}) / 1e6",
    "processor (% of a core)": f"100 * sum by (container) (rate(container_cpu_usage_seconds_total{{{OWN}}}[15m]))",
}
WHOLE = {
    "samples a second": "sum(rate(vm_rows_inserted_total[15m]))",
    "measurements on disk (MB)": "sum(vm_data_size_bytes) / 1e6",
    "logs on disk (MB)": "sum(vl_data_size_bytes) / 1e6",
    "measurements a week (MB)": "7 * 86400 * sum(deriv(vm_data_size_bytes[1h])) / 1e6",
    "bytes a sample": 'sum(vm_data_size_bytes{type!~"indexdb.*"}) / sum(vm_rows{type!~"indexdb.*"})',
}


def main() -> None:
    """Ask, and print a table."""
    url, password = sys.argv[1], Path(sys.argv[2]).read_text(encoding="utf-8").strip()
    stack = sys.argv[3] if len(sys.argv) > 3 else "quantops"

    def ask(expr: str) -> dict[str, float]:
        answer = requests.get(f"{url}/api/v1/query", params={"query": expr}, auth=("monitoring", password), timeout=30)
        answer.raise_for_status()
        return {
            each["metric"].get("container", ""): float(each["value"][1]) for each in answer.json()["data"]["result"]
        }

    columns = {name: ask(expr) for name, expr in ASKED.items()}
    print(f"{'container':20}", *(f"{name:>26}" for name in columns))
    for container in sorted(next(iter(columns.values()))):
        print(f"{container:20}", *(f"{found.get(container, 0):26.1f}" for found in columns.values()))
    print(f"{'all':20}", *(f"{sum(found.values()):26.1f}" for found in columns.values()))
    for name, expr in WHOLE.items():
        print(f"{name:30} {sum(ask(expr).values()):10.2f}")
    said = subprocess.run(
        ["docker", "inspect", f"{stack}-monitoring"], capture_output=True, text=True, check=False
    ).stdout
    if found := json.loads(said or "[]"):
        size = subprocess.run(
            ["docker", "image", "inspect", "--format", "{{.Size}}", found[0]["Image"]],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        print(f"{'image with its base (MB)':30} {int(size) / 1e6:10.0f}")


main()
