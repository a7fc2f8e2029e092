"""Services behind the edge: whom they know, and which secrets their programs show to each other."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from collection_under_test import CONTRACTS, ansible_playbook, containers_here, plugin, role_of_variables

GROUPS = ("postgres", "redis", "minio", "ibkr_gateway", "backend", "mlflow", "airflow")
#: Without an edge, to their values; each of these is the name in capitals.
PLAIN_SECRETS = (
    *("postgres_airflow_password", "postgres_backend_password", "postgres_dags_password", "postgres_mlflow_password"),
    *("redis_airflow_password", "redis_backend_password", "redis_flower_password", "flower_password"),
    *("minio_airflow_logs_access_key", "minio_airflow_logs_secret", "minio_dags_access_key", "minio_dags_secret"),
    *("minio_mlflow_access_key", "minio_mlflow_secret", "minio_trading_charts_access_key"),
    *("minio_trading_charts_secret", "airflow_fernet_key", "airflow_jwt_secret", "airflow_session_secret"),
    *("airflow_admin_password", "airflow_backend_password", "backend_api_token", "backend_page_password"),
)
#: What the edge adds.
MLFLOW_TOKENS = {name: f"TOKEN_OF_{name.upper()}" for name in ("airflow", "backend", "mlflow")}
EDGE_SECRETS = {
    **{f"edge_{name}_identity": f"IDENTITY_OF_{name.upper()}" for name in ("airflow", "backend", "mlflow")},
    **{f"mlflow_{name}_token": token for name, token in MLFLOW_TOKENS.items()},
}
CERTIFICATE = "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n-----BEGIN CERTIFICATE-----\na"
ROLES = ("airflow", "mlflow", "backend")
DAGS_RUN_IN = ("airflow-dag-processor", "airflow-triggerer", "airflow-worker")
Containers = dict[str, dict[str, Any]]


def rendered(directory: Path, *groups: str, **variables: Any) -> Containers:
    """The containers of the three roles on one host, as Ansible renders them from the roles' own variables."""
    secrets = {name: name.upper() for name in PLAIN_SECRETS} | {"ibkr_gateway_tls": CERTIFICATE}
    shared = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "secrets": secrets | (EDGE_SECRETS if "edge" in groups else {}),
        "container_image_refs": {name: f"stack/{name}:abc" for name in ROLES},
    }
    hosts = {group: {"hosts": {"desk": {}}} for group in (*GROUPS, *groups)}
    (directory / "inventory.yml").write_text(yaml.safe_dump({"all": {"children": hosts, "vars": shared | variables}}))
    reading = CONTRACTS["quantops.ibkr_stack.service_contracts"]
    contracts = {
        **CONTRACTS,
        "quantops.ibkr_stack.service_contracts": {**reading, "further": ["quantops.ibkr_stack.edge"]},
    }
    plays = []
    for name in ROLES:
        role = role_of_variables(directory / name, name)
        copy = {"content": containers_here(name), "dest": f"{directory}/{name}.json"}
        (role / "tasks").mkdir()
        (role / "tasks" / "main.yml").write_text(yaml.safe_dump([contracts, {"ansible.builtin.copy": copy}]))
        plays.append({"hosts": "desk", "gather_facts": False, "roles": [str(role)]})
    (directory / "play.yml").write_text(yaml.safe_dump(plays))
    ansible_playbook(directory, "-i", "inventory.yml", "play.yml")
    found = [each for name in ROLES for each in json.loads((directory / f"{name}.json").read_text())]
    return {each["name"]: each for each in found}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Containers:
    """Without an edge."""
    return rendered(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Containers:
    """With one, and a domain."""
    return rendered(tmp_path_factory.mktemp("behind"), "edge", edge_domain="desk.example")


def secret_values(containers: Containers) -> dict[str, set[str]]:
    """Which containers hold each of the edge's secrets."""
    found: dict[str, set[str]] = {}
    for name, container in containers.items():
        held = json.dumps(container.get("secrets") or {})
        for secret, value in EDGE_SECRETS.items():
            if value in held:
                found.setdefault(secret, set()).add(name)
    return found


def test_without_an_edge_nobody_is_known(plain: Containers) -> None:
    """No container has a setting or a secret of it."""
    text = json.dumps(plain).lower()
    words = ("edge_identity", "mlflow_tracking_token", "client_tokens", "proxy-headers")
    assert not [word for word in words if word in text]


def test_each_program_has_its_own_secrets_only(behind: Containers) -> None:
    """The server knows its clients; a client knows its own token, and nobody knows who is at another service."""
    assert secret_values(behind) == {
        "edge_airflow_identity": {"airflow-apiserver"},
        "edge_backend_identity": {"backend", "flower"},
        "edge_mlflow_identity": {"mlflow"},
        "mlflow_airflow_token": {"mlflow", *DAGS_RUN_IN},
        "mlflow_backend_token": {"mlflow", "backend", "celery-worker"},
        "mlflow_mlflow_token": {"mlflow"},
    }
    # The engine shows the environment to everyone who may ask it.
    shown = json.dumps([container["environment"] for container in behind.values()])
    assert not [value for value in EDGE_SECRETS.values() if value in shown]


def test_mlflow_knows_the_edge_and_its_clients(behind: Containers) -> None:
    server = behind["mlflow"]
    assert json.loads(server["secrets"]["client_tokens"]) == MLFLOW_TOKENS
    for setting in ("EDGE_IDENTITY_FILE", "CLIENT_TOKENS_FILE"):
        assert server["environment"][setting].removeprefix("/run/secrets/") in server["secrets"]


def test_mlflow_is_addressed_by_its_public_name(plain: Containers, behind: Containers) -> None:
    """By that and, from programs, by its names on the network; without an edge as ever."""
    settings = behind["mlflow"]["environment"]
    hosts = settings["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert {"mlflow.desk.example", "mlflow.desk.example:443", "mlflow-server:5500"} <= set(hosts)
    assert "https://mlflow.desk.example" in settings["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    assert plain["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"] == (
        "mlflow-server:5500,mlflow:5500,localhost:*,127.0.0.1:*,localhost,localhost:5500,desk:5500"
    )


def test_programs_send_their_token(behind: Containers) -> None:
    """In the variable of MLflow's own clients, or as the file that the reference application reads."""
    for name in DAGS_RUN_IN:
        assert behind[name]["secrets"]["MLFLOW_TRACKING_TOKEN"] == MLFLOW_TOKENS["airflow"]
        assert "export MLFLOW_TRACKING_TOKEN" in behind[name]["entrypoint"][2]
    for name in ("backend", "celery-worker"):
        assert behind[name]["secrets"]["MLFLOW_TRACKING_TOKEN"] == MLFLOW_TOKENS["backend"]
        assert behind[name]["environment"]["MLFLOW_TRACKING_TOKEN_FILE"] == "/run/secrets/MLFLOW_TRACKING_TOKEN"


def test_airflows_api_server_alone_takes_the_edges_word(behind: Containers) -> None:
    server = behind["airflow-apiserver"]
    assert server["environment"]["AIRFLOW__CORE__AUTH_MANAGER"] == "edge_login.EdgeAuthManager"
    assert server["environment"]["AIRFLOW__API__BASE_URL"] == "https://airflow.desk.example"
    assert "edge_login.py" in server["files"]
    others = {e["environment"]["AIRFLOW__CORE__AUTH_MANAGER"] for e in behind.values()
              if e["name"].startswith("airflow-") and e is not server}  # fmt: skip
    assert others == {"airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"}


def test_the_backend_and_flower_take_the_edges_word(behind: Containers) -> None:
    for name in ("backend", "flower"):
        assert behind[name]["environment"]["EDGE_IDENTITY_FILE"] == "/run/secrets/EDGE_IDENTITY"
        assert behind[name]["secrets"]["EDGE_IDENTITY"] == EDGE_SECRETS["edge_backend_identity"]
    assert behind["backend"]["environment"]["GATEWAY_LOGIN_URL"] == "https://gateway.desk.example/"


def test_the_table_of_pages_sends_people_to_the_edges_login() -> None:
    """And shows the password of a page that still asks for its own; without an edge, of each."""
    access = plugin("plugin_utils.access")
    airflow = {"title": "Airflow", "container": "a", "public_url": "http://x", "user": "admin", "secret": "s"}
    console = {**airflow, "title": "MinIO console", "upstream": "http://minio:9001"}
    behind = {**airflow, "upstream": "http://a:8080", "identity": "header"}
    rows = [line.split() for line in access.access_table([behind, console, airflow], ["a"], {"s": "FILE"})[2:]]
    assert [row[-2:] for row in rows] == [["(edge)", "-"], ["admin", "FILE"], ["admin", "FILE"]]
    alone = access.access_table([{**airflow, "identity": "header"}], ["a"], {"s": "FILE"})[2]
    assert alone.split()[-2:] == ["admin", "FILE"]


def test_a_tunnel_names_what_ssh_can_resolve() -> None:
    """Names of the inventory are Ansible's own; the address of the page is that of its host."""
    access = plugin("plugin_utils.access")
    page = {"container": "a", "owner": "services", "loopback": True}
    pages = [
        {**page, "title": "Airflow", "public_url": "http://192.0.2.12:8080/", "published": 8080},
        {**page, "title": "Gateway", "public_url": "https://192.0.2.12:5055/", "published": 5055},
        {**page, "title": "Here", "public_url": "http://localhost:8000/", "published": 8000, "owner": "local"},
    ]
    assert access.tunnel_lines(pages) == [
        "Airflow, Gateway: only on services itself (stack_publish_address); from elsewhere"
        " ssh -L 8080:127.0.0.1:8080 -L 5055:127.0.0.1:5055 192.0.2.12, and localhost in place of 192.0.2.12"
    ]
