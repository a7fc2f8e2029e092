"""Each service behind the edge: one login for all, roles, tokens for programs, and nobody else."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from client_programs import run_client
from stack_under_test import Stack, eventually, run_playbook
from test_data_services import psql

#: User to role, as in molecule.yml, and Airflow's role of each.
ROLES = {"admin": "Admin", "vera": "Viewer", "rob": "User", "tom": "Op"}
#: A container that has no business with any of them, and curl.
STRANGER = "postgres"
IN_NETWORK = {
    "airflow": "http://airflow-apiserver:8080",
    "mlflow": "http://mlflow-server:5500",
    "backend": "http://backend:8000",
    "flower": "http://flower:5555",
}
#: Every form of MLflow's API; docs/edge.md lists them.
MLFLOW_FORMS = (
    *("/", "/health", "/version", "/metrics", "/openapi.json", "/docs", "/graphql", "/v1/traces", "/static-files/x"),
    *(f"/{api}/mlflow/experiments/search" for api in ("api/2.0", "api/3.0", "ajax-api/2.0", "ajax-api/3.0")),
    *("/api/2.0/mlflow/registered-models/search", "/ajax-api/2.0mlflow/experiments/search-datasets"),
    *("/api/3.0/mlflow/traces/search", "/ajax-api/3.0/mlflow/server-info", "/ajax-api/3.0/jobs/x"),
    *("/api/2.0/mlflow-artifacts/artifacts", "/api/2.0/mlflow-artifacts/artifacts/0/x", "/get-artifact?path=x"),
    *("/model-versions/get-artifact", "/ajax-api/2.0/mlflow/upload-artifact", "/ajax-api/2.0/mlflow/gateway-proxy"),
    *("/gateway/x/mlflow/invocations", "/gateway/mlflow/v1/models", "/gateway/openai/v1/embeddings"),
    *("/ajax-api/3.0/mlflow/assistant/config", "/ajax-api/3.0/mlflow/mcp-servers"),
    *("//health", "/%68ealth", "/health/", "/health/../version"),
)

Login = Callable[[str], requests.Session]


def send_form(stack: Stack, session: requests.Session, user: str, password: str) -> requests.Response:
    """Log in by the edge's form, at the page of the backend; a cookie knows no ports."""
    form = {"user": user, "password": password, "next": "/"}
    return session.post(stack.url("backend", "/.edge/login"), data=form, timeout=60, allow_redirects=False)


@pytest.fixture(scope="module")
def login(stack: Stack) -> Login:
    """Log a user in, once."""
    known: dict[str, requests.Session] = {}

    def find(user: str) -> requests.Session:
        if user not in known:
            session = known[user] = requests.Session()
            answer = send_form(stack, session, user, stack.secret(f"edge_user_{user}_password"))
            assert (answer.status_code, answer.headers["location"]) == (303, "/"), answer.text
        return known[user]

    return find


def playbook(name: str, **variables: object) -> str:
    """Run a playbook for the test host, and return what it says."""
    host = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
    given = ("--inventory=molecule/shared/inventory.yml", f"--extra-vars={json.dumps(variables)}")
    done = run_playbook(f"playbooks/{name}.yml", host, *given)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


def token_of(user: str, name: str) -> str:
    """Make a personal token by the playbook."""
    found = re.search(r"stk_[\w-]{43}", playbook("token", token_user=user, token_name=name, token_days=1))
    assert found
    return found[0]


def from_a_stranger(stack: Stack, url: str, *options: str) -> int:
    """Ask a service on the stack's network from a container that has nothing to do with it."""
    words = (
        "curl",
        "--silent",
        "--path-as-is",
        "--output",
        "/dev/null",
        "--max-time",
        "30",
        "--write-out",
        "%{http_code}",
    )
    # curl takes no option with = after it.
    split = [part for option in options for part in option.split("=", 1)]
    done = stack.execute(STRANGER, *words, *split, url)
    assert done.returncode == 0, f"{url}: {done.stderr}"
    return int(done.stdout)


def test_one_login_opens_every_page(stack: Stack, login: Login) -> None:
    """As an administrator, of whom no page asks for another password but MinIO's console."""
    session = login("admin")
    pages = {"backend": "Portfolio", "mlflow": "<title>MLflow</title>", "airflow": "<title>Airflow", "flower": "Flower",
             "ibkr_gateway": "SIMULATED", "minio_console": "MinIO Console"}  # fmt: skip
    for name, words in pages.items():
        answer = session.get(stack.url(name, "/"), headers={"Accept": "text/html"}, timeout=60)
        assert answer.status_code == 200 and words in answer.text, f"{name}: {answer.status_code} {answer.text[:300]}"


@pytest.mark.parametrize("name", ["backend", "mlflow", "airflow", "flower", "ibkr_gateway", "minio_console"])
def test_nobody_opens_a_page_without_it(stack: Stack, name: str) -> None:
    """A browser is led to the login, a program is told."""
    browser = requests.get(stack.url(name), headers={"Accept": "text/html"}, timeout=60, allow_redirects=False)
    assert browser.status_code == 303 and browser.headers["location"].startswith("/.edge/login")
    assert requests.get(stack.url(name), timeout=60).status_code == 401


@pytest.mark.parametrize("user", ROLES)
def test_airflow_knows_each_user_in_the_role(stack: Stack, login: Login, user: str) -> None:
    """At the pages' API and the REST API; the account is made in Airflow's own database."""
    session = login(user)
    assert session.get(stack.url("airflow", "/ui/auth/me"), timeout=60).json()["username"] == user
    assert session.get(stack.url("airflow", "/api/v2/dags"), timeout=60).status_code == 200
    query = (
        "SELECT r.name FROM ab_role r JOIN ab_user_role m ON m.role_id = r.id JOIN ab_user u ON u.id = m.user_id"
        f" WHERE u.username = '{user}'"
    )
    assert psql(stack, "airflow", "airflow", query) == (0, ROLES[user])


def test_airflows_variables_are_for_traders(stack: Stack, login: Login) -> None:
    """A viewer is refused by the edge, a researcher by Airflow."""
    for user, status in (("vera", 403), ("rob", 403), ("tom", 201)):
        key = f"{user}-{uuid.uuid4()}"
        answer = login(user).post(
            stack.url("airflow", "/api/v2/variables"), json={"key": key, "value": "v"}, timeout=60
        )
        assert answer.status_code == status, answer.text


def test_programs_of_the_stack_log_in_at_airflow_as_before(stack: Stack) -> None:
    """By password, at the edge's address too: Airflow asks for its own token."""
    assert requests.get(stack.url("airflow", "/api/v2/dags"), headers=stack.airflow_token(), timeout=60).ok
    assert stack.ask_airflow_for_a_token("tom", "!").status_code == 401


@pytest.mark.parametrize("service", IN_NETWORK)
def test_another_container_cannot_name_a_user(stack: Stack, service: str) -> None:
    """Without the secret in the header's name; with it, in the name alone, it could."""
    paths = {"airflow": "/api/v2/dags", "mlflow": "/version", "backend": "/api/v1/symbols", "flower": "/api/workers"}
    url = f"{IN_NETWORK[service]}{paths[service]}"
    secret = stack.secret(f"edge_{'backend' if service == 'flower' else service}_identity")
    for name in (
        "X-Edge-User",
        "X-Edge-",
        f"X-Edge-{secret[:-1]}",
        f"X-Edge-{secret}x",
        "X-Forwarded-User",
        "Remote-User",
    ):
        headers = [f"--header={name}: admin", f"--header={name}-Role: admin"]
        assert from_a_stranger(stack, url, *headers) == 401, name
    # What the test itself is worth.
    headers = [f"--header=X-Edge-{secret}: admin", f"--header=X-Edge-{secret}-Role: admin"]
    assert from_a_stranger(stack, url, *headers) == 200


def test_the_edge_takes_no_header_of_a_clients(stack: Stack) -> None:
    """Not even with the secret, in whatever spelling."""
    for service, path in (("airflow", "/api/v2/dags"), ("mlflow", "/version"), ("backend", "/api/v1/symbols")):
        secret = stack.secret(f"edge_{service}_identity")
        for name in (f"X-Edge-{secret}", f"x-edge-{secret.lower()}", f"X_Edge_{secret}", f"X-Edge_{secret}"):
            headers = {name: "admin", f"{name}-Role": "admin"}
            assert requests.get(stack.url(service, path), headers=headers, timeout=60).status_code == 401, name


def test_the_api_of_tasks_takes_no_user(stack: Stack, login: Login) -> None:
    """At the edge it is closed; on the network the header means nothing there."""
    assert login("admin").get(stack.url("airflow", "/execution/health"), timeout=60).status_code == 403
    secret = stack.secret("edge_airflow_identity")
    url = f"{IN_NETWORK['airflow']}/execution/variables/x"
    headers = [f"--header=X-Edge-{secret}: admin", f"--header=X-Edge-{secret}-Role: admin"]
    assert from_a_stranger(stack, url, *headers) == 401


@pytest.mark.parametrize("path", MLFLOW_FORMS)
def test_mlflow_answers_no_stranger(stack: Stack, path: str) -> None:
    """On the network, in every form of its API; and at the edge."""
    for method in ("GET", "POST"):
        assert from_a_stranger(stack, IN_NETWORK["mlflow"] + path, f"--request={method}") == 401
    upgrade = ("--header=Connection: Upgrade", "--header=Upgrade: websocket")
    assert from_a_stranger(stack, IN_NETWORK["mlflow"] + path, *upgrade) in (401, 403)
    if "/.." not in path:
        assert requests.post(stack.url("mlflow", path), timeout=60).status_code == 401


def test_mlflow_is_read_by_viewers_and_written_by_researchers(stack: Stack, login: Login) -> None:
    api = "/api/2.0/mlflow"
    for user, status in (("vera", 403), ("rob", 200), ("tom", 200), ("admin", 200)):
        session = login(user)
        search = session.post(stack.url("mlflow", f"{api}/experiments/search"), json={"max_results": 1}, timeout=60)
        assert search.status_code == 200, search.text
        made = session.post(
            stack.url("mlflow", f"{api}/experiments/create"), json={"name": str(uuid.uuid4())}, timeout=60
        )
        assert made.status_code == status, made.text


def test_a_personal_token_is_a_users_login_everywhere(stack: Stack) -> None:
    """For MLflow's own client, Airflow's API and the backend's, with the user's role; revoked, it is none."""
    token = token_of("rob", "laptop")
    assert token not in playbook("token", token_action="list")
    name = f"probe {uuid.uuid4()}"
    said = run_client("dags", "mlflow_client.py", url=stack.url("mlflow"), name=name, token=token)
    assert json.loads(said.splitlines()[-1])["note"] == "kept\n"
    header = {"Authorization": f"Bearer {token}"}
    places = [("airflow", "/api/v2/dags"), ("backend", "/api/v1/symbols"), ("mlflow", "/version")]
    for service, path in places:
        assert requests.get(stack.url(service, path), headers=header, timeout=60).status_code == 200, service
        assert requests.get(stack.url(service, path), auth=("rob", token), timeout=60).status_code == 200, service
        assert requests.get(stack.url(service, path), auth=("tom", token), timeout=60).status_code == 401, service
    assert requests.get(stack.url("airflow", "/ui/auth/me"), headers=header, timeout=60).json()["username"] == "rob"
    assert requests.get(stack.url("flower", "/api/workers"), headers=header, timeout=60).status_code == 403
    playbook("token", token_action="revoke", token_user="rob", token_name="laptop")
    for service, path in places:
        assert requests.get(stack.url(service, path), headers=header, timeout=60).status_code == 401, service


def test_the_gateways_login_is_for_traders_and_its_api_for_the_backend(stack: Stack, login: Login) -> None:
    """From logged out to logged in by its own form; the backend sees it."""
    page = stack.url("ibkr_gateway", "/")
    for user in ("vera", "rob"):
        assert login(user).get(page, timeout=60).status_code == 403
    session = login("tom")
    assert "Session: Logged out" in session.get(page, timeout=60).text
    foreign = {"Origin": "http://elsewhere.example"}
    assert session.post(stack.url("ibkr_gateway", "/sso/Login"), headers=foreign, timeout=60).status_code == 403
    answer = session.post(stack.url("ibkr_gateway", "/sso/Login"), timeout=60)
    assert answer.url == page and "Session: Logged in" in answer.text
    for path in ("/v1/api/iserver/auth/status", "//v1/api/tickle", "/v1%2fapi/tickle", "/V1/API/tickle", "/v1/api/ws"):
        request = requests.Request("POST", page).prepare()
        request.url = page.rstrip("/") + path
        request.headers["Cookie"] = "; ".join(f"{cookie.name}={cookie.value}" for cookie in session.cookies)
        assert session.send(request, timeout=60).status_code == 403, path

    def seen() -> bool:
        ready = stack.execute("backend", "curl", "--silent", "http://127.0.0.1:8000/ready").stdout
        return bool(json.loads(ready)["dependencies"]["gateway"]["logged_in"])

    assert eventually(seen, 60)


def test_training_scoring_and_removal_go_on(stack: Stack, login: Login) -> None:
    """Airflow's worker, the check after it and MLflow's own programs log in at MLflow, each by its own token."""
    # The gateway has been logged in by the test before this one; its bars come with the next refresh.
    trader, bars = login("tom"), stack.url("backend", "/api/v1/bars/AAPL")
    assert trader.post(f"{bars}/refresh", timeout=60).status_code == 202
    assert eventually(lambda: trader.get(bars, timeout=60).status_code == 200, 180)
    said = playbook("verify")
    assert "MLflow holds the run" in said and "The model loads by name" in said

    def ready() -> bool:
        found = json.loads(stack.execute("backend", "curl", "--silent", "http://127.0.0.1:8000/ready").stdout)
        return found["dependencies"]["mlflow"]["state"] == "ok"

    assert eventually(ready, 30)
    query = "SELECT count(*) > 0 FROM signals"
    assert eventually(lambda: psql(stack, "backend", "backend", query) == (0, "t"), 300, pause=10)


def test_deleted_runs_are_removed_for_good(stack: Stack, login: Login) -> None:
    """With their objects, by a program that logs in at MLflow too."""
    session, api = login("rob"), "/api/2.0/mlflow"

    def ask(path: str, **content: object) -> dict[str, Any]:
        answer = session.post(stack.url("mlflow", f"{api}/{path}"), json=content, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    experiment = ask("experiments/create", name=str(uuid.uuid4()))["experiment_id"]
    run = ask("runs/create", experiment_id=experiment, start_time=1)["run"]["info"]["run_id"]
    artifact = stack.url("mlflow", f"{api}-artifacts/artifacts/{experiment}/{run}/artifacts/note")
    assert session.put(artifact, data=b"kept", timeout=60).status_code == 200
    ask("runs/delete", run_id=run)
    assert "To remove:" in playbook("mlflow_gc", mlflow_gc_older_than="0d")
    assert session.get(artifact, timeout=60).content == b"kept"
    playbook("mlflow_gc", mlflow_gc_older_than="0d", mlflow_gc_confirm=stack.name)
    assert session.get(stack.url("mlflow", f"{api}/runs/get?run_id={run}"), timeout=60).status_code == 404
    assert session.get(artifact, timeout=60).status_code == 404


def test_a_login_ends_everywhere(stack: Stack, login: Login) -> None:
    """At every page, and Airflow's log-out leads there."""
    session = login("admin")
    leads = session.get(stack.url("airflow", "/api/v2/auth/logout"), timeout=60, allow_redirects=False)
    assert leads.headers["location"] == "/.edge/"
    before = dict(session.cookies)
    session.post(stack.url("airflow", "/.edge/logout"), timeout=60)
    for service, path in (("airflow", "/api/v2/dags"), ("mlflow", "/version"), ("backend", "/api/v1/symbols")):
        assert requests.get(stack.url(service, path), cookies=before, timeout=60).status_code == 401, service


def test_secrets_change_behind_the_edge(stack: Stack) -> None:
    """Passwords, headers with users and tokens of the stack's programs at once; a personal token is none of them."""
    names = ("edge_user_tom_password", "edge_mlflow_identity", "mlflow_backend_token")
    old = {name: stack.secret(name) for name in names}
    before = requests.Session()
    assert send_form(stack, before, "tom", old["edge_user_tom_password"]).status_code == 303
    personal = {"Authorization": f"Bearer {token_of('rob', 'robot')}"}
    playbook("rotate_secrets", rotate_secrets="edge,mlflow", rotate_confirm=stack.name)
    new = {name: stack.secret(name) for name in names}
    assert all(new[name] != old[name] for name in names)
    version = stack.url("mlflow", "/version")
    assert before.get(version, timeout=60).status_code == 401
    assert send_form(stack, requests.Session(), "tom", old["edge_user_tom_password"]).status_code == 401
    after = requests.Session()
    assert send_form(stack, after, "tom", new["edge_user_tom_password"]).status_code == 303
    for service, path in (("mlflow", "/version"), ("airflow", "/api/v2/dags"), ("backend", "/api/v1/symbols")):
        assert after.get(stack.url(service, path), timeout=60).status_code == 200, service
    assert requests.get(version, headers=personal, timeout=60).status_code == 200
    inside = f"{IN_NETWORK['mlflow']}/version"
    for secrets, status in ((old, 401), (new, 200)):
        header = f"X-Edge-{secrets['edge_mlflow_identity']}"
        assert from_a_stranger(stack, inside, f"--header={header}: admin", f"--header={header}-Role: admin") == status
        bearer = f"--header=Authorization: Bearer {secrets['mlflow_backend_token']}"
        assert from_a_stranger(stack, inside, bearer) == status

    def ready() -> bool:
        found = json.loads(stack.execute("backend", "curl", "--silent", "http://127.0.0.1:8000/ready").stdout)
        return found["dependencies"]["mlflow"]["state"] == "ok"

    assert eventually(ready, 60)
