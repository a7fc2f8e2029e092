"""Backups on the page, in the readiness and in the metrics: all is well, something is wrong, nothing is known."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from conftest import AUTHORISED, PASSWORD
from fastapi.testclient import TestClient
from ibkr_backend.api import create_app
from ibkr_backend.settings import ApiSettings

NOW = datetime.now(UTC)


def ago(**units: float) -> str:
    """A moment as the container writes it."""
    return (datetime.now(UTC) - timedelta(**units)).isoformat()


@pytest.fixture
def report() -> dict[str, Any]:
    """What the backup's container says; tests change it."""
    return {
        "time": ago(seconds=20),
        "alerts": [],
        "backups": 3,
        "newest": {
            "id": "20261128T023000Z",
            "type": "incr",
            "finished": ago(hours=5),
            "seconds": 3.4,
            "repository_bytes": 1536 << 20,
        },
        "next": (NOW + timedelta(hours=19)).isoformat(),
        "free_bytes": 7 << 30,
        "copies": [{"name": "nas", "title": "sftp", "finished": ago(minutes=12), "backup": "X", "error": ""}],
        "drill": {
            "id": "20261127T023000Z",
            "problems": [],
            "seconds": 41,
            "newest": "2026-11-27 02:29:58 UTC",
            "predictions": ["The champion desk 3 predicts 0.5, as in the running stack."],
            "finished": ago(hours=30),
        },
    }


@pytest.fixture
def client(settings: ApiSettings, report: dict[str, Any]) -> Iterator[TestClient]:
    """A person who is logged in, of a stack with backups."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/status"
            content = json.dumps(report).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    settings.backup_url = f"http://127.0.0.1:{server.server_port}"
    client = TestClient(create_app(settings), headers=AUTHORISED)
    client.post("/login", data={"user": "trader", "password": PASSWORD}, follow_redirects=False)
    yield client
    server.shutdown()
    server.server_close()


def section(page: str) -> str:
    """The page's part about backups."""
    return page.partition('<section id="backups"')[2].partition("</section>")[0]


def test_backups_that_are_well(client: TestClient) -> None:
    page = client.get("/").text
    found = section(page)
    for text in ("5 h ago", "3 s", "1.5 GiB", "7.0 GiB free", "<dd>3</dd>", "Copy nas", "12 min ago", "41 s",
                 "passed 30 h ago", "2026-11-27 02:29:58 UTC", "The champion desk 3 predicts 0.5"):  # fmt: skip
        assert text in found, text
    assert 'class="state ok">ok<' in found and "Something is wrong with the backups" not in page
    assert client.get("/ready").json()["processes"]["backup"]["state"] == "ok"
    assert 'service_up{service="backup"} 1.0' in client.get("/metrics").text


def test_a_missed_backup_is_loud(client: TestClient, report: dict[str, Any]) -> None:
    """In a banner and in the section; the readiness, which everybody reads, has its kind alone."""
    report["alerts"] = [
        {"kind": "missed", "text": "missed backups: one was due at 2026-11-28 02:30 UTC"},
        {"kind": "copy", "text": "failed copies to nas since, at 2026-11-28T02:31: <no route to nas.desk>"},
    ]
    page = client.get("/").text
    banner = page.partition('<div class="banner alert" role="alert">')[2].partition("</div>")[0]
    assert "Something is wrong with the backups" in banner and "due at 2026-11-28 02:30 UTC" in banner
    assert "&lt;no route to nas.desk&gt;" in section(page) and 'class="state failed">failed<' in section(page)
    answer = client.get("/ready")
    assert answer.json()["processes"]["backup"] == {"state": "failed", "reason": "something is wrong: missed, copy"}
    assert answer.status_code == 200 and "nas.desk" not in answer.text
    assert 'service_up{service="backup"} 0.0' in client.get("/metrics").text


def test_a_failed_drill(client: TestClient, report: dict[str, Any]) -> None:
    report["drill"]["problems"] = ["mlflow.runs is missing"]
    assert '<span class="state failed">failed</span> <small>30 h ago' in section(client.get("/").text)


def test_before_the_first_backup_and_drill(client: TestClient, report: dict[str, Any]) -> None:
    report |= {"newest": None, "drill": None, "backups": 0, "copies": []}
    found = section(client.get("/").text)
    assert "<dd>none</dd>" in found and "never" in found and "make drill" in found
    assert client.get("/ready").json()["processes"]["backup"]["reason"] == "none is complete yet"


@pytest.mark.parametrize("what", ["away", "stale"])
def test_backups_of_which_nothing_is_known_are_loud(
    client: TestClient, settings: ApiSettings, report: dict[str, Any], what: str
) -> None:
    if what == "away":
        settings.backup_url = "http://127.0.0.1:1"
        client = TestClient(create_app(settings), cookies=client.cookies)
    report["time"] = ago(minutes=6)
    page = client.get("/").text
    assert "The state of the backups is not known" in page and not section(page)
    assert what == "away" or "have not been looked at since" in page


def test_a_stack_without_backups_shows_none(settings: ApiSettings) -> None:
    client = TestClient(create_app(settings), headers=AUTHORISED)
    client.post("/login", data={"user": "trader", "password": PASSWORD}, follow_redirects=False)
    page = client.get("/").text
    assert "backups" not in page.lower()
    assert "backup" not in client.get("/ready").json()["processes"]
