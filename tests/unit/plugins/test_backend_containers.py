"""What an inventory says about the backend, and the containers that follow: an application of one's own above all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from collection_under_test import CONTRACTS, REPOSITORY, ansible_playbook, containers_here, role_of_variables

GROUPS = ("postgres", "redis", "minio", "ibkr_gateway", "mlflow", "airflow")
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----"
SECRETS = {
    "postgres_backend_password": "PgPassword",
    "redis_backend_password": "RedisPassword",
    "redis_flower_password": "FlowerRedisPassword",
    "minio_trading_charts_access_key": "MINIOACCESSKEY",
    "minio_trading_charts_secret": "MinioSecret",
    "flower_password": "FlowerPassword",
    "backend_api_token": "ApiToken",
    "backend_page_password": "PagePassword",
    "airflow_backend_password": "AirflowPassword",
    "ibkr_gateway_tls": f"-----BEGIN PRIVATE KEY-----\nxyz\n-----END PRIVATE KEY-----\n{CERTIFICATE}",
}
PLAIN = {
    "backend_image": "registry.example.com/desk@sha256:00ff",
    "backend_command": ["serve"],
    "backend_processes": ["api"],
}
WHOLE = PLAIN | {
    "backend_processes": ["api", "worker", "beat", "flower"],
    "backend_user": "1000:1001",
    "backend_working_dir": "/srv/desk",
    "backend_pythonpath": ["/srv/lib", "/srv/more"],
    "backend_migrate_command": ["flask", "db", "upgrade"],
    "backend_celery_app": "desk.work:app",
    "backend_worker_concurrency": 5,
    "backend_worker_queues": ["quick", "slow"],
    "backend_health_path": "/api/v1/well?deep=1",
    "backend_health_json": {"status": "ok", "parts": {"database": True}},
    "backend_environment": {"DESK_MODE": "quiet", "S3_REGION": "eu-west-1", "REDIS_URL": "redis://elsewhere/0"},
    "backend_secret_environment": {"DESK_TOKEN": "DeskToken"},
    "backend_mounts": [
        {"source": "/opt/data", "path": "/data", "read_only": True},
        {"source": "cache", "path": "/cache"},
    ],
    "backend_aliases": ["desk"],
}
# The hosts of one inventory: each is a case. Those in the services' groups have all of them on the same host.
SAME_HOST: dict[str, dict[str, Any]] = {
    "reference": {},
    "plain": PLAIN,
    "whole": WHOLE,
    "files": PLAIN | {"backend_secrets_as": "files"},
    "without-queues": WHOLE | {"backend_health_json": {}, "backend_worker_queues": []},
}
APART: dict[str, dict[str, Any]] = {"apart": PLAIN, "reference-apart": {}}
PORTS = {"postgres": 15432, "redis": 16379, "minio": 19000, "ibkr_gateway": 15055, "mlflow": 15500, "airflow": 18080}
IN_NETWORK = {
    "postgres": "postgres:5432",
    "redis": "redis:6379",
    "minio": "minio:9000",
    "gateway": "ibkr-gateway:5055",
    "mlflow": "mlflow-server:5500",
    "airflow": "airflow-apiserver:8080",
}
ELSEWHERE = {name.removeprefix("ibkr_"): f"10.0.0.7:{port}" for name, port in PORTS.items()}

Containers = dict[str, dict[str, Any]]


def rendered(directory: Path, groups: tuple[str, ...], data: dict[str, Any]) -> dict[str, Containers]:
    """Each case's containers by name, as Ansible renders them from the roles' own defaults and variables; `data` are
    the variables of the other host."""
    role = role_of_variables(directory, "backend")
    further = {
        "ansible_connection": "local",
        "stack_mesh": False,
        "ansible_python_interpreter": sys.executable,
        "secrets": SECRETS,
        "container_image_refs": {"backend": "stack/backend:abc", "postgres": "stack/postgres:abc"},
        **{f"{name}_port": port for name, port in PORTS.items()},
    }
    children: dict[str, Any] = {
        group: {"hosts": {"data": data, **{name: {} for name in SAME_HOST}}} for group in groups
    }
    desk = {"stack_public_host": "desk.example.com"}
    children["backend"] = {"hosts": {name: case | desk for name, case in (SAME_HOST | APART).items()}}
    inventory = {"all": {"children": children, "vars": further}}
    (directory / "inventory.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))
    copy = {"content": containers_here("backend"), "dest": f"{directory}/{{{{ inventory_hostname }}}}.json"}
    (role / "tasks").mkdir()
    (role / "tasks" / "main.yml").write_text(yaml.safe_dump([CONTRACTS, {"ansible.builtin.copy": copy}]))
    play = {"hosts": "backend", "gather_facts": False, "roles": ["case"]}
    (directory / "play.yml").write_text(yaml.safe_dump([play]))
    ansible_playbook(directory, "-i", "inventory.yml", "play.yml")
    return {
        name: {each["name"]: each for each in json.loads((directory / f"{name}.json").read_text())}
        for name in SAME_HOST | APART
    }


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Containers]:
    """Those of an inventory with every service."""
    data = {"ansible_host": "10.0.0.7", "stack_public_host": "data.example.com"}
    return rendered(tmp_path_factory.mktemp("all"), GROUPS, data)


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Containers]:
    """Those of an inventory without MLflow and Airflow, in which the other host has no public name."""
    return rendered(tmp_path_factory.mktemp("smaller"), GROUPS[:4], {"ansible_host": "10.0.0.7"})


def settings(at: dict[str, str], public: str) -> dict[str, Any]:
    """What has no password, with HOST:PORT of each service, and the host that a browser is sent to."""
    postgres, redis = at["postgres"].split(":"), at["redis"].split(":")
    return {
        "PYTHONPATH": "/opt/app",
        "MALLOC_ARENA_MAX": 2,
        "HOME": "/tmp",
        "PGHOST": postgres[0],
        "PGPORT": int(postgres[1]),
        "PGDATABASE": "backend",
        "PGUSER": "backend",
        "REDIS_HOST": redis[0],
        "REDIS_PORT": int(redis[1]),
        "REDIS_USERNAME": "backend",
        "S3_ENDPOINT_URL": f"http://{at['minio']}",
        "AWS_ENDPOINT_URL_S3": f"http://{at['minio']}",
        "MINIO_ENDPOINT": at["minio"],
        "S3_PUBLIC_URL": f"http://{public}:19000",
        "S3_BUCKET": "trading-charts",
        "S3_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "GATEWAY_URL": f"https://{at['gateway']}",
        "GATEWAY_CA_FILE": "/run/config/gateway-ca.pem",
        "GATEWAY_PUBLIC_URL": f"https://{public}:15055",
        "IBIND_REST_URL": f"https://{at['gateway']}/v1/api/",
        "IBIND_CACERT": "/run/config/gateway-ca.pem",
    }


def research(at: dict[str, str], public: str) -> dict[str, Any]:
    """The same of MLflow and Airflow."""
    return {
        "MLFLOW_URL": f"http://{at['mlflow']}",
        "MLFLOW_TRACKING_URI": f"http://{at['mlflow']}",
        "MLFLOW_PUBLIC_URL": f"http://{public}:15500",
        "AIRFLOW_URL": f"http://{at['airflow']}",
        "AIRFLOW_API_URL": f"http://{at['airflow']}/api/v2",
        "AIRFLOW_PUBLIC_URL": f"http://{public}:18080",
    }


def passwords(at: dict[str, str]) -> dict[str, str]:
    """What has one."""
    host, port = at["postgres"].split(":")
    return {
        "DATABASE_URL": f"postgresql://backend:PgPassword@{at['postgres']}/backend",
        "DATABASE_URL_PSYCOPG": f"postgresql+psycopg://backend:PgPassword@{at['postgres']}/backend",
        "DATABASE_URL_PSYCOPG2": f"postgresql+psycopg2://backend:PgPassword@{at['postgres']}/backend",
        "DATABASE_URL_ASYNCPG": f"postgresql+asyncpg://backend:PgPassword@{at['postgres']}/backend",
        "DATABASE_DSN": f"host={host} port={port} dbname=backend user=backend password=PgPassword",
        "PGPASSWORD": "PgPassword",
        "CELERY_BROKER_URL": f"redis://backend:RedisPassword@{at['redis']}/0",
        "CELERY_RESULT_BACKEND": f"redis://backend:RedisPassword@{at['redis']}/1",
        "REDIS_URL": f"redis://backend:RedisPassword@{at['redis']}/4",
        "REDIS_PASSWORD": "RedisPassword",
        "S3_ACCESS_KEY": "MINIOACCESSKEY",
        "AWS_ACCESS_KEY_ID": "MINIOACCESSKEY",
        "S3_SECRET_KEY": "MinioSecret",
        "AWS_SECRET_ACCESS_KEY": "MinioSecret",
    }


def flower_passwords(at: dict[str, str]) -> dict[str, str]:
    """Those with which Flower reaches Redis, as another user."""
    return {
        "CELERY_BROKER_URL": f"redis://flower:FlowerRedisPassword@{at['redis']}/0",
        "CELERY_RESULT_BACKEND": f"redis://flower:FlowerRedisPassword@{at['redis']}/1",
        "REDIS_URL": f"redis://flower:FlowerRedisPassword@{at['redis']}/4",
        "REDIS_PASSWORD": "FlowerRedisPassword",
    }


API_SECRETS = {"API_TOKEN": "ApiToken", "AIRFLOW_PASSWORD": "AirflowPassword"}


@pytest.mark.parametrize(
    ("case", "at", "public"),
    [("plain", IN_NETWORK, "desk.example.com"), ("apart", ELSEWHERE, "data.example.com")],
)
def test_connections(cases: dict[str, Containers], case: str, at: dict[str, str], public: str) -> None:
    """Each of them, of services on the same host and on another: by name or address, and as a browser reaches it."""
    container = cases[case]["backend"]
    assert container["environment"] == settings(at, public) | research(at, public) | {"AIRFLOW_USER": "backend"}
    assert container["secrets"] == passwords(at) | API_SECRETS
    # Without the key: who asks the gateway need not be able to stand in for it.
    assert container["files"]["gateway-ca.pem"].strip() == CERTIFICATE


def test_services_that_are_not_there_are_not_mentioned(smaller: dict[str, Containers]) -> None:
    """And a host without a public name is told by its address."""
    for case, at, public in (("plain", IN_NETWORK, "desk.example.com"), ("apart", ELSEWHERE, "10.0.0.7")):
        container = smaller[case]["backend"]
        assert container["environment"] == settings(at, public)
        assert container["secrets"] == passwords(at) | {"API_TOKEN": "ApiToken"}
    for case in ("reference", "reference-apart"):
        words = json.dumps(smaller[case]).lower()
        assert "mlflow" not in words and "airflow" not in words


def test_the_reference_application_reads_its_secrets_from_files(cases: dict[str, Containers]) -> None:
    """No value in the environment; and links of its page lead to the host that runs each service."""
    for case, at, public in (
        ("reference", IN_NETWORK, "desk.example.com"),
        ("reference-apart", ELSEWHERE, "data.example.com"),
    ):
        container = cases[case]["backend"]
        secrets = passwords(at) | API_SECRETS | {"PAGE_PASSWORD": "PagePassword"}
        assert container["secrets"] == secrets
        assert container["entrypoint"] is None
        found = container["environment"]
        assert {f"{name}_FILE": f"/run/secrets/{name}" for name in secrets}.items() <= found.items()
        assert not set(secrets.values()) & {str(value) for value in found.values()}
        assert found["GATEWAY_LOGIN_URL"] == f"https://{public}:15055/"
        assert json.loads(found["STACK_PUBLIC_URLS"]) == {
            "MinIO console": f"http://{public}:9001/",
            "IBKR gateway": f"https://{public}:15055/",
            "Flower": "http://desk.example.com:5555/",
            "MLflow": f"http://{public}:15500/",
            "Airflow": f"http://{public}:18080/",
        }
        flower = cases[case]["flower"]
        assert flower["secrets"] == flower_passwords(at) | {"FLOWER_PASSWORD": "FlowerPassword"}
        assert {f"{name}_FILE" for name in flower["secrets"]} == {
            name for name in flower["environment"] if name.endswith("_FILE") and name != "GATEWAY_CA_FILE"
        }
        assert flower["environment"]["REDIS_USERNAME"] == "flower"
        beat = cases[case]["celery-beat"]
        redis = ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "REDIS_URL", "REDIS_PASSWORD")
        assert beat["secrets"] == {name: passwords(at)[name] for name in redis}
        migrate = cases[case]["backend-migrate"]
        assert migrate["secrets"] == {"DATABASE_URL": passwords(at)["DATABASE_URL"]}
        for container in (flower, beat, migrate):
            assert {f"{name}_FILE" for name in container["secrets"]} == {
                name for name in container["environment"] if name.endswith("_FILE") and name != "GATEWAY_CA_FILE"
            }
            held = " ".join(map(str, (*container["secrets"].values(), *container["environment"].values())))
            foreign = {"MINIOACCESSKEY", "MinioSecret"} | (
                {"RedisPassword"} if container is migrate else {"PgPassword"}
            )
            assert not [name for name in foreign if name in held]
        assert cases[case]["backend-migrate"]["command"] == ["alembic", "upgrade", "head"]
        assert {each["image"] for each in cases[case].values()} == {"stack/backend:abc"}


def test_an_application_of_ones_own_has_nothing_that_it_did_not_ask_for(cases: dict[str, Containers]) -> None:
    """No migration, no check of queues, no process; its image as it is written."""
    [(name, container)] = cases["plain"].items()
    assert (name, container["image"], container["command"]) == ("backend", PLAIN["backend_image"], ["serve"])
    assert (container["user"], container["working_dir"]) == ("10005:10005", "/opt/app")
    assert (container["binds"], container["volumes"], container["aliases"]) == ([], [], [])
    assert container["entrypoint"] == ["/bin/sh", "/run/config/with-secrets"]
    assert container["health"]["test"][-1] == "http://127.0.0.1:8000/health"


def test_secrets_as_files_for_an_application_of_ones_own(cases: dict[str, Containers]) -> None:
    """Their paths in the environment, and no start script."""
    container = cases["files"]["backend"]
    secrets = passwords(IN_NETWORK) | API_SECRETS
    paths = {f"{name}_FILE": f"/run/secrets/{name}" for name in secrets}
    same = cases["plain"]["backend"]["environment"]
    assert (container["secrets"], container["environment"]) == (secrets, same | paths)
    assert container["entrypoint"] is None


def test_what_is_declared_reaches_all_containers(cases: dict[str, Containers]) -> None:
    """Image, user, directory, imports, variables, secrets, mounts."""
    containers = cases["whole"]
    assert list(containers) == ["backend-migrate", "backend-check", "backend", "celery-worker", "celery-beat", "flower"]
    # A name that the inventory gives a value of its own is no longer a secret too.
    secrets = {name: value for name, value in passwords(IN_NETWORK).items() if name != "REDIS_URL"}
    secrets["DESK_TOKEN"] = "DeskToken"
    flower = {name: value for name, value in flower_passwords(IN_NETWORK).items() if name != "REDIS_URL"}
    more = {"backend": API_SECRETS, "flower": flower | {"FLOWER_BASIC_AUTH": "flower:FlowerPassword"}}
    own = {"PYTHONPATH": "/srv/desk:/srv/lib:/srv/more", **WHOLE["backend_environment"]}
    environment = settings(IN_NETWORK, "desk.example.com") | research(IN_NETWORK, "desk.example.com") | own
    beat = [{"name": "backend-beat", "path": "/var/lib/backend"}]
    for name, container in containers.items():
        assert container["image"] == WHOLE["backend_image"], name
        assert (container["user"], container["working_dir"]) == ("1000:1001", "/srv/desk"), name
        assert container["entrypoint"] == ["/bin/sh", "/run/config/with-secrets"], name
        assert container["secrets"] == secrets | more.get(name, {}), name
        further = {"backend": {"AIRFLOW_USER": "backend"}, "flower": {"REDIS_USERNAME": "flower"}}
        assert container["environment"] == environment | further.get(name, {}), name
        assert container["binds"] == [{"source": "/opt/data", "path": "/data", "read_only": True}], name
        volumes = [{"name": "cache", "path": "/cache", "read_only": False}]
        assert container["volumes"] == (beat if name == "celery-beat" else []) + volumes, name
    assert containers["backend"]["aliases"] == ["desk"]


def test_a_migration_comes_first_with_its_command(cases: dict[str, Containers]) -> None:
    """Of the application's own image, and before everything else."""
    name, job = next(iter(cases["whole"].items()))
    assert (name, job["command"]) == ("backend-migrate", ["flask", "db", "upgrade"])


def test_celery_runs_as_declared(cases: dict[str, Containers]) -> None:
    """Application, concurrency and queues, in the commands and in what looks after them."""
    containers = cases["whole"]
    worker = containers["celery-worker"]
    assert worker["command"][:3] == ["celery", "--app=desk.work:app", "worker"]
    assert {"--concurrency=5", "--queues=quick,slow", "--hostname=backend@%h"} <= set(worker["command"])
    assert worker["health"]["test"] == ["CMD", "python3", "/run/config/probe_worker.py", "quick", "slow"]
    check = ["python3", "/run/config/check_queues.py", "desk.work:app", "quick", "slow"]
    assert containers["backend-check"]["command"] == check
    for process in ("beat", "flower"):
        container = containers["celery-beat" if process == "beat" else "flower"]
        assert container["command"][:3] == ["celery", "--app=desk.work:app", process]
        assert not any("ibkr_backend" in word for word in container["command"])
    assert "--schedule=/var/lib/backend/celerybeat-schedule" in containers["celery-beat"]["command"]
    without = cases["without-queues"]
    assert not any(word.startswith("--queues") for word in without["celery-worker"]["command"])
    assert without["celery-worker"]["health"]["test"] == ["CMD", "python3", "/run/config/probe_worker.py"]
    assert without["backend-check"]["command"] == check[:-2]


def test_health_is_what_the_answer_must_hold(cases: dict[str, Containers]) -> None:
    """The probe with address and JSON; without JSON only whether it answers well."""
    *words, expected = cases["whole"]["backend"]["health"]["test"]
    address = "http://127.0.0.1:8000/api/v1/well?deep=1"
    assert words == ["CMD", "python3", "/run/config/probe_http.py", address]
    assert json.loads(expected) == WHOLE["backend_health_json"]
    probe = (REPOSITORY / "roles" / "backend" / "files" / "runtime" / "probe_http.py").read_text()
    assert cases["whole"]["backend"]["files"]["probe_http.py"] == probe
    curl = ["CMD", "curl", "--fail", "--silent", "--output", "/dev/null", "--max-time", "4", address]
    assert cases["without-queues"]["backend"]["health"]["test"] == curl


@pytest.mark.parametrize("name", ["celery-worker", "celery-beat"])
@pytest.mark.parametrize(("fresh", "takes", "status"), [(True, False, 0), (False, True, 1), (False, False, 22)])
def test_silence_is_not_held_against_a_worker_whose_broker_is_away(
    cases: dict[str, Containers], tmp_path: Path, name: str, fresh: bool, takes: bool, status: int
) -> None:
    """Well, hanging, or without a broker that takes what is written: a full one does not."""
    health = cases["reference"][name]["health"]
    kind, test = health["test"]
    assert kind == "CMD-SHELL" and health["alive"] == [22] and health["restart_after"] == 300
    for program, body in (("find", "echo found" if fresh else ""), ("python3", f"exit {0 if takes else 1}")):
        script = tmp_path / program
        script.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n{body}\n')
        script.chmod(0o755)
    done = subprocess.run(["/bin/sh", "-c", test], env={"PATH": str(tmp_path)}, capture_output=True, check=False)
    assert done.returncode == status, done.stderr
    calls = (tmp_path / "calls").read_text()
    assert fresh or calls.rstrip().endswith("/run/secrets/CELERY_BROKER_URL ibkr_backend:probe")
