"""The monitoring that the tests look at, and who is told of its alerts."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import requests
from stack_under_test import REPOSITORY, Stack, as_root, command, eventually, run_playbook

FILE = "/var/tmp/received.jsonl"
PORT = 8427
COLLECTIONS = (".collections", "examples/own_service/collections")


class Watched:
    """Asks the monitoring, as a person does, and reads what receivers were told."""

    def __init__(self, stack: Stack) -> None:
        """Log in."""
        self.stack = stack
        self.session = requests.Session()
        self.session.auth = ("monitoring", stack.secret("monitoring_password"))
        self.base = f"http://{stack.address}:{PORT}"

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Evaluate an expression now."""
        answer = self.session.get(f"{self.base}/api/v1/query", params={"query": expr}, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]["result"]

    def values(self, expr: str, label: str) -> dict[str, float]:
        """Evaluate an expression: a value for each value of a label."""
        return {each["metric"].get(label, ""): float(each["value"][1]) for each in self.query(expr)}

    def firing(self) -> set[str]:
        """Names of the alerts that fire or wait to.

        Without the one that always does, and the one about the load of this machine, which may be that of others.
        """
        answer = self.session.get(f"{self.base}/api/v1/alerts", timeout=30)
        assert answer.status_code == 200, answer.text
        return {each["name"] for each in answer.json()["data"]["alerts"]} - {"Watchdog", "HostBusy"}

    def received(self) -> list[dict[str, Any]]:
        """What mail and web server have taken, in its order."""
        return [json.loads(line) for line in command("cat", FILE).splitlines()]

    def told(self, name: str, status: str = "firing", since: float = 0) -> float | None:
        """When the web server was told of an alert, and the mail server too."""
        alerts = [
            each["at"]
            for each in self.received()
            if each["at"] > since
            and each["kind"] == "web"
            and each["path"] == "/"
            and any(one["labels"]["alertname"] == name and one["status"] == status for one in each["body"]["alerts"])
        ]
        section = f"/docs/runbook.md#{name.lower()}"
        word = "Resolved:" if status == "resolved" else "What to do:"
        mails = [
            each
            for each in self.received()
            if each["at"] > since and each["kind"] == "mail" and section in each["text"] and word in each["text"]
        ]
        return alerts[0] if alerts and mails else None

    def raised(self, name: str, since: float, within: float = 120) -> float:
        """Wait until both were told of an alert, and return how long that took, in seconds."""
        return eventually(lambda: self.told(name, since=since), seconds=within) - since

    def resolved(self, name: str, since: float, within: float = 300) -> None:
        """Wait until both were told that it is over."""
        eventually(lambda: self.told(name, "resolved", since), seconds=within)


def play(playbook: str, *options: str, status: int = 0) -> str:
    """Run a playbook on this scenario's host, and return what it says."""
    done = run_playbook(
        f"playbooks/{playbook}.yml", Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent,
        "--inventory=molecule/shared/inventory.yml", *options,
        environment={"ANSIBLE_COLLECTIONS_PATH": ":".join(f"{REPOSITORY}/{each}" for each in COLLECTIONS)},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == status, said[-6000:]
    return said


def start_receivers() -> None:
    """Start both servers on the test host, with nothing received."""
    program = (Path(__file__).parent / "receiver.py").read_text(encoding="utf-8")
    command("sh", "-c", f"cat > /var/tmp/receiver.py; : > {FILE}", stdin=program)
    running = "ss -ltn | grep -q :2580"
    command("sh", "-c", f"{running} || (setsid python3 /var/tmp/receiver.py {FILE} > /var/tmp/receiver.log 2>&1 &)")
    eventually(lambda: as_root("true") and command("sh", "-c", f"{running} && echo yes || echo").strip(), seconds=20)


def now() -> float:
    """The time of the test host, which is this machine's."""
    return time.time()
