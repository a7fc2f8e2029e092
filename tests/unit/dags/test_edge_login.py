"""Airflow's API server behind the edge: the real one, with a database of its own and the edge's header in requests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PLUGINS = Path(__file__).parents[3] / "roles" / "airflow" / "files" / "plugins"
SECRET = "Ab3dEf6hIj9lMn2pQr5tUv8xYz1aBc4e"
#: Run in a process whose Airflow has a database of its own; prints what was answered.
STEPS = """
import json
import os
from concurrent.futures import ThreadPoolExecutor

from airflow.utils.db import initdb

initdb()
from airflow.api_fastapi.app import create_app, get_auth_manager
from fastapi.testclient import TestClient

HEADER = f"X-Edge-{os.environ['SECRET']}"
app = create_app()
seen = {}


def asked(method, path, who=None, cookies=None, headers=(), **options):
    # A client of its own, because some answers set cookies.
    client = TestClient(app, raise_server_exceptions=False, follow_redirects=False, cookies=cookies)
    named = [(HEADER, who[0]), (f"{HEADER}-Role", who[1])] if who else []
    return client.request(method, path, headers=[*named, *headers], **options)


def variable(name, who, **options):
    return asked("POST", "/api/v2/variables", who, json={"key": name, "value": "v"}, **options).status_code


ANNA, VERA, BOB = ("anna", "trader"), ("vera", "viewer"), ("bob", "admin")
with TestClient(app):
    seen["nobody"] = [asked("GET", path).status_code for path in ("/api/v2/dags", "/ui/auth/me")]
    seen["me"] = asked("GET", "/ui/auth/me", ANNA).json()["username"]
    seen["roles"] = {role: [variable(role, (f"some {role}", role)),
                            asked("GET", "/api/v2/dags", (f"some {role}", role)).status_code,
                            asked("GET", "/auth/users/list/", (f"some {role}", role)).status_code]
                     for role in ("viewer", "researcher", "trader", "admin")}
    seen["changed"] = [variable("c1", VERA), variable("c2", ("vera", "trader")), variable("c3", VERA)]
    other = HEADER[:-1]
    forged = {
        "another name": [(other, "bob"), (f"{other}-Role", "admin")],
        "longer": [(f"{HEADER}x", "bob"), (f"{HEADER}x-Role", "admin")],
        "common ones": [("X-Forwarded-User", "bob"), ("Remote-User", "bob"), ("X-Edge-User", "bob")],
        "no role": [(HEADER, "bob")],
        "unknown role": [(HEADER, "bob"), (f"{HEADER}-Role", "boss")],
        "no name": [(HEADER, ""), (f"{HEADER}-Role", "admin")],
        "two names": [(HEADER, "vera"), (HEADER, "bob"), (f"{HEADER}-Role", "admin")],
    }
    seen["forged"] = {name: asked("GET", "/api/v2/dags", headers=named).status_code for name, named in forged.items()}
    seen["capitals"] = asked("GET", "/api/v2/dags", ("Anna", "admin")).status_code

    manager = get_auth_manager()
    with manager.flask_app.app_context():
        security = manager.security_manager
        declared = "(declared in the inventory)"
        for name, role in (("chief", "Admin"), ("service", "User")):
            found = security.find_role(role)
            security.add_user(name, name, declared, f"{name}@localhost", found, f"password of {name}")
        desk = security.add_role("Desk")
        by_hand = security.add_user("by_hand", "By", "Hand", "by@localhost", [security.find_role("Admin"), desk], "p")
        cookie = manager.generate_jwt(security.find_user(username="chief"))
        security.session.remove()
    seen["declared"] = [asked("GET", "/api/v2/dags", (name, "admin")).status_code for name in ("chief", "service")]
    asked("GET", "/api/v2/dags", ("by_hand", "viewer"))
    with manager.flask_app.app_context():
        seen["own role"] = sorted(role.name for role in security.find_user(username="by_hand").roles)
        seen["kept role"] = [role.name for role in security.find_user(username="service").roles]
        security.session.remove()

    login = {"username": "service", "password": "password of service"}
    token = asked("POST", "/auth/token", json=login)
    own = [("Authorization", f"Bearer {token.json()['access_token']}")]
    seen["own token"] = [token.status_code, asked("GET", "/api/v2/dags", headers=own).status_code]
    seen["no password"] = [asked("POST", "/auth/token", json={"username": "anna", "password": word}).status_code
                           for word in ("!", "anna", "")]
    # What a request brings along beside the edge's header does not count.
    seen["stale cookie"] = variable("s1", VERA, cookies={"_token": cookie})
    seen["stale token"] = variable("s2", VERA, headers=[("Authorization", f"Bearer {cookie}")])
    seen["foreign token"] = variable("s3", ANNA, headers=[("Authorization", "Bearer stk_of_the_edge")])
    page = asked("GET", "/auth/login/", BOB)
    page = asked("GET", "/auth/", BOB)
    seen["handed out"] = [page.status_code, [line for line in page.headers.get_list("set-cookie") if "_token" in line]]

    logout = asked("GET", "/api/v2/auth/logout", BOB)
    seen["logout"] = [logout.status_code, logout.headers["location"], asked("GET", "/api/v2/dags", BOB).status_code]
    seen["tasks"] = [asked("GET", path, BOB).status_code
                     for path in ("/execution/health", "/execution/variables/c2", "/execution/connections/c")]
    with ThreadPoolExecutor(8) as pool:
        seen["at once"] = list(pool.map(lambda n: asked("GET", "/api/v2/dags", (f"new{n % 2}", "trader")).status_code,
                                        range(8)))
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was answered in each step."""
    home = tmp_path_factory.mktemp("home")
    (home / "identity").write_text(SECRET)
    environment = os.environ | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PLUGINS),
        "AIRFLOW__CORE__AUTH_MANAGER": "edge_login.EdgeAuthManager",
        "AIRFLOW__API_AUTH__JWT_SECRET": "j" * 64,
        "AIRFLOW__API__SECRET_KEY": "s" * 64,
        "EDGE_IDENTITY_FILE": str(home / "identity"),
        "SECRET": SECRET,
    }
    done = subprocess.run(
        [sys.executable, "-c", STEPS], env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_whom_the_edge_names_is_logged_in(seen: dict[str, Any]) -> None:
    """At the pages' API and at the REST API, from the first request on; without the header nobody is."""
    assert seen["nobody"] == [401, 401]
    assert seen["me"] == "anna"
    assert seen["at once"] == [200] * 8


def test_the_edges_roles_are_airflows(seen: dict[str, Any]) -> None:
    """Who may write a variable, read DAGs, and open Flask-AppBuilder's list of users: it sends others to the login."""
    assert seen["roles"] == {
        "viewer": [403, 200, 302],
        "researcher": [403, 200, 302],
        "trader": [201, 200, 302],
        "admin": [201, 200, 200],
    }


def test_a_changed_role_counts_from_the_next_request_on(seen: dict[str, Any]) -> None:
    """Up and down again; a role that people have made and given to an account stays."""
    assert seen["changed"] == [403, 201, 403]
    assert seen["own role"] == ["Desk", "Viewer"]


def test_a_header_that_is_not_the_edges_logs_nobody_in(seen: dict[str, Any]) -> None:
    """One of another name is no login; one that the edge would not send is refused."""
    assert seen["forged"] == {
        "another name": 401,
        "longer": 401,
        "common ones": 401,
        "no role": 403,
        "unknown role": 403,
        "no name": 403,
        "two names": 403,
    }


def test_nobody_becomes_another_account(seen: dict[str, Any]) -> None:
    """Airflow takes Anna for anna. A declared account is the edge's user of that name only in its declared role."""
    assert seen["capitals"] == 403
    assert seen["declared"] == [200, 403]
    assert seen["kept role"] == ["User"]


def test_programs_on_the_network_still_log_in_with_a_password(seen: dict[str, Any]) -> None:
    """Accounts that the edge has made have none."""
    assert seen["own token"] == [201, 200]
    assert set(seen["no password"]) <= {400, 401}


def test_the_edge_counts_and_no_other_login(seen: dict[str, Any]) -> None:
    """Neither an administrator's cookie that is still there, nor a token; nobody is given a token that would last."""
    assert (seen["stale cookie"], seen["stale token"], seen["foreign token"]) == (403, 403, 201)
    assert seen["handed out"] == [302, []]


def test_logging_out_leads_to_the_edge(seen: dict[str, Any]) -> None:
    """As long as it names someone, they are let in."""
    assert seen["logout"] == [307, "/.edge/", 200]


def test_the_tasks_api_knows_no_person(seen: dict[str, Any]) -> None:
    assert seen["tasks"] == [200, 401, 401]
