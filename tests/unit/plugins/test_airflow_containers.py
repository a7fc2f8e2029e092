"""What an inventory says about Airflow, and the containers that follow."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from collection_under_test import CONTRACTS, ansible_playbook, containers_here, role_of_variables

SECRETS = {
    "postgres_airflow_password": "PgPassword",
    "redis_airflow_password": "RedisPassword",
    "minio_airflow_logs_access_key": "MinioAccessKey",
    "minio_airflow_logs_secret": "MinioSecret",
    "airflow_fernet_key": "FernetKey",
    "airflow_jwt_secret": "JwtSecret",
    "airflow_session_secret": "SessionSecret",
    "airflow_admin_password": "AdminPassword",
}
Containers = dict[str, dict[str, Any]]


def rendered(directory: Path, workers: dict[str, dict[str, Any]], **variables: Any) -> Containers:
    """The containers of the host `services`, as Ansible renders them from the role's own defaults and variables.

    Args:
        directory: Where to work.
        workers: Hosts of the group airflow_worker and their variables; empty: no such group.
        variables: Variables of all hosts.
    """
    role = role_of_variables(directory, "airflow")
    further = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "secrets": SECRETS,
        "container_image_refs": {"airflow": "stack/airflow:abc"},
    }
    groups = {group: {"hosts": {"services": {}}} for group in ("postgres", "redis", "minio", "mlflow", "airflow")}
    if workers:
        groups["airflow_worker"] = {"hosts": workers}
    inventory = {"all": {"children": groups, "vars": further | variables}}
    (directory / "inventory.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))
    copy = {"content": containers_here("airflow"), "dest": f"{directory}/containers.json"}
    (role / "tasks").mkdir()
    (role / "tasks" / "main.yml").write_text(yaml.safe_dump([CONTRACTS, {"ansible.builtin.copy": copy}]))
    play = {"hosts": "services", "gather_facts": False, "roles": ["case"]}
    (directory / "play.yml").write_text(yaml.safe_dump([play]))
    ansible_playbook(directory, "-i", "inventory.yml", "play.yml")
    return {each["name"]: each for each in json.loads((directory / "containers.json").read_text())}


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Containers:
    """Those of a host in an inventory with three hosts of workers, one of which it is itself."""
    workers: dict[str, dict[str, Any]] = {
        "services": {},
        "far": {"airflow_worker_concurrency": 8},
        "near": {"airflow_worker_concurrency": "4"},
    }
    return rendered(tmp_path_factory.mktemp("several"), workers, stack_public_host="desk.example.com")


def test_airflow_hands_over_as_many_tasks_as_all_workers_have_slots(several: Containers) -> None:
    """A task beyond would wait in the broker until its token has expired."""
    assert int(several["airflow-scheduler"]["environment"]["AIRFLOW__CORE__PARALLELISM"]) == 2 + 8 + 4


def test_the_slots_of_a_single_host_and_of_an_operator_who_knows_better(tmp_path: Path) -> None:
    """There is no group of workers then; a setting of Airflow's own counts before the derived one."""
    [one, other] = [
        rendered(tmp_path / name, {}, airflow_worker_concurrency=3, airflow_settings=settings)
        for name, settings in {"one": {}, "other": {"AIRFLOW__CORE__PARALLELISM": 40}}.items()
    ]
    assert int(one["airflow-scheduler"]["environment"]["AIRFLOW__CORE__PARALLELISM"]) == 3
    assert int(other["airflow-scheduler"]["environment"]["AIRFLOW__CORE__PARALLELISM"]) == 40


def test_a_setting_that_reads_a_secret_comes_with_the_secret(several: Containers) -> None:
    """Airflow would fail at the first use of the setting; and a secret that no setting reads should not be there."""
    for name, container in several.items():
        read = {
            value.removeprefix("cat /run/secrets/")
            for value in map(str, container["environment"].values())
            if value.startswith("cat /run/secrets/")
        }
        read |= {"minio_logs"} if "minio_logs" in json.dumps(container.get("entrypoint")) else set()
        read |= {"airflow_admin_password"} if name == "airflow-init" else set()
        assert set(container["secrets"]) == read, name


def test_the_worker_knows_where_a_browser_finds_mlflow(several: Containers) -> None:
    """MLflow itself would print the address at which the worker reaches it."""
    environment = several["airflow-worker"]["environment"]
    assert environment["MLFLOW_TRACKING_URI"] == "http://mlflow-server:5500"
    assert environment["MLFLOW_PUBLIC_URL"] == "http://desk.example.com:5500"
    assert environment["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "true"
