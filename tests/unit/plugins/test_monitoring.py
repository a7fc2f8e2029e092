"""What is measured, shown and alerted on, from the contracts of the services."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from collection_under_test import CONTRACTS, REPOSITORY, SERVICES, ansible_playbook, plugin, role_of_variables

monitoring = plugin("plugin_utils.monitoring")

NOTEBOOK: dict[str, Any] = {
    "ports": {"http": {"container": 8888, "scheme": "http"}, "https": {"container": 8443, "scheme": "https"}},
    "containers": {"notebook": {"here": True}, "far": {"here": False}},
    "metrics": {"notebook": {"port": 8888, "path": "/metrics"}, "far": {"port": 1, "path": "/metrics"}},
    "web": [{"title": "Notebook", "container": "notebook", "port": "http", "path": "/lab", "check": "/health"}],
}


def scrape(service: dict[str, Any], **secrets: str) -> dict[str, Any]:
    """What an agent is told of one service."""
    return monitoring.monitoring_scrape({"notebook": service}, ["notebook"], secrets, 30)


def test_what_runs_here_is_measured() -> None:
    """By its name on the network; what runs elsewhere is the business of the agent there."""
    config = scrape(NOTEBOOK)["config"]
    assert [job["job_name"] for job in config["scrape_configs"]] == ["notebook", "pages"]
    [target] = config["scrape_configs"][0]["static_configs"]
    assert target == {
        "targets": ["notebook:8888"], "labels": {"service": "notebook", "container": "notebook"},
    }  # fmt: skip
    [page] = config["scrape_configs"][1]["static_configs"]
    assert page["targets"] == ["http://notebook:8888/health"] and page["labels"]["page"] == "Notebook"
    assert config["global"] == {"scrape_interval": "30s", "scrape_timeout": "10s"}


def test_passwords_are_in_files() -> None:
    """The configuration names them."""
    locked = {**NOTEBOOK, "metrics": {"notebook": {"port": 8888, "path": "/m", "user": "me", "secret": "pass_word"}}}
    found = scrape(locked, pass_word="hidden")
    assert found["secrets"] == {"pass_word": "hidden"} and "hidden" not in json.dumps(found["config"])
    assert found["config"]["scrape_configs"][0]["basic_auth"] == {
        "username": "me", "password_file": "/run/secrets/pass_word",
    }  # fmt: skip


# ---- the containers of a host

CONTAINERS = "{{ {'containers': monitoring_containers, 'contract': stack_contract} | to_json }}"


def rendered(directory: Path, groups: dict[str, list[str]], **variables: Any) -> dict[str, dict[str, Any]]:
    """Of each host, the containers of the monitoring that its contract has there, and the contract."""
    role = role_of_variables(directory, "monitoring")
    (role / "templates").symlink_to(REPOSITORY / "roles" / "monitoring" / "templates")
    hosts = sorted({host for names in groups.values() for host in names})
    further = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "stack_mesh": False,
        "secrets": dict.fromkeys(
            (
                *("monitoring_password", "monitoring_agent_password", "monitoring_store_password", "flower_password"),
                *("postgres_monitoring_password", "redis_monitoring_password", "minio_monitoring_password"),
            ),
            "TopSecret",
        ),
        "container_image_refs": {"monitoring": "stack/monitoring:abc"},
    }
    children = {group: {"hosts": dict.fromkeys(names)} for group, names in groups.items()}
    inventory = {"all": {"hosts": dict.fromkeys(hosts), "children": children, "vars": further | variables}}
    (directory / "inventory.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))
    reading = CONTRACTS["quantops.ibkr_stack.service_contracts"]
    contracts = {
        **CONTRACTS,
        "quantops.ibkr_stack.service_contracts": {"roles": [*reading["roles"], "quantops.ibkr_stack.monitoring"]},
    }
    copy = {"ansible.builtin.copy": {"content": CONTAINERS, "dest": f"{directory}/{{{{ inventory_hostname }}}}.json"}}
    copy["ansible.builtin.copy"]["mode"] = "0600"
    copy["when"] = "'monitoring' in stack_contract.active"
    (role / "tasks").mkdir()
    (role / "tasks" / "main.yml").write_text(yaml.safe_dump([contracts, copy]))
    play = {"hosts": "all", "gather_facts": False, "roles": ["case"]}
    (directory / "play.yml").write_text(yaml.safe_dump([play]))
    ansible_playbook(directory, "-i", "inventory.yml", "play.yml")
    found = {}
    for host in hosts:
        if (directory / f"{host}.json").exists():
            read = json.loads((directory / f"{host}.json").read_text())
            here = {
                key for key, each in read["contract"]["services"]["monitoring"]["containers"].items() if each["here"]
            }
            read["containers"] = {each["name"]: each for each in read["containers"] if each["name"] in here}
            found[host] = read
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The server on a host of its own, and all services on another."""
    groups = {**{group: ["desk"] for group in SERVICES}, "monitoring": ["watch"]}
    return rendered(tmp_path_factory.mktemp("two"), groups, stack_address="{{ inventory_hostname }}.example")


def test_agents_run_on_every_host(two: dict[str, dict[str, Any]]) -> None:
    """The server on its own; exporters of data services where these are."""
    server = {"monitoring", "victoria-metrics", "victoria-logs", "vmalert", "alertmanager"}
    assert server <= set(two["watch"]["containers"]) and not server & set(two["desk"]["containers"])
    assert all("vmagent" in two[host]["containers"] for host in two)
    exporters = {"postgres-exporter", "redis-exporter"}
    assert exporters <= set(two["desk"]["containers"]) and not exporters & set(two["watch"]["containers"])


def test_an_agent_delivers_to_the_server(two: dict[str, dict[str, Any]]) -> None:
    """Through its door, with a password that only writes."""
    near, far = (
        next(word for word in two[host]["containers"]["vmagent"]["command"] if word.startswith("-remoteWrite.url"))
        for host in ("watch", "desk")
    )
    assert near == "-remoteWrite.url=http://monitoring:8427/api/v1/write"
    assert far == "-remoteWrite.url=http://watch.example:8427/api/v1/write"
    assert "TopSecret" not in json.dumps([each.get("command") for each in two["desk"]["containers"].values()])


def test_an_agent_measures_what_its_host_runs(two: dict[str, dict[str, Any]]) -> None:
    """The backend, and the exporters beside PostgreSQL and Redis; each page, at the path that needs no login."""
    config = yaml.safe_load(
        two["desk"]["containers"]["vmagent"]["reloadable_files"]["monitoring-scrape"]["files"]["scrape.yml"]
    )
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert {"backend", "postgres-exporter", "redis-exporter", "vmagent", "pages"} <= set(jobs)
    pages = {each["labels"]["page"]: each["targets"] for each in jobs["pages"]["static_configs"]}
    assert pages["MLflow"] == ["http://mlflow:5500/"] and "Airflow" in pages


def test_without_the_group_there_is_nothing(tmp_path: Path) -> None:
    """No agent, no secret, no user in the data services."""
    contract = rendered(tmp_path, {group: ["desk"] for group in SERVICES})
    assert contract == {}
