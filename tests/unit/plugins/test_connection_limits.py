"""How PostgreSQL's connections are shared among the owners of its databases."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from collection_under_test import CONTRACTS, REPOSITORY, SERVICES, ansible_playbook, plugin

limits = plugin("plugin_utils.postgres").connection_limits

NEEDS = {"airflow": 50, "backend": 18, "mlflow": 15}


def test_each_owner_gets_its_need_and_a_share_of_the_rest() -> None:
    """In proportion; the reserved connections stay for the administrator."""
    found = limits(NEEDS, {"max_connections": 100})
    assert found == {"airflow": 58, "backend": 21, "mlflow": 17}
    assert sum(found.values()) <= 97 and all(found[owner] >= need for owner, need in NEEDS.items())


@pytest.mark.parametrize(
    ("settings", "fixed", "expected"),
    [
        ({"max_connections": 86}, {}, NEEDS),
        # As text, which is what templates make of numbers.
        ({"max_connections": "86"}, {}, NEEDS),
        ({"max_connections": 200, "superuser_reserved_connections": 10, "reserved_connections": 24}, {},
         {"airflow": 100, "backend": 36, "mlflow": 30}),
        ({"max_connections": 108}, {"backend": 40}, {"backend": 40, "airflow": 50, "mlflow": 15}),
        ({}, {"airflow": 60, "backend": 20, "mlflow": 17}, {"airflow": 60, "backend": 20, "mlflow": 17}),
        ({}, {"airflow": 10}, {"airflow": 10, "backend": 47, "mlflow": 39}),
    ],
)  # fmt: skip
def test_limits(settings: dict[str, Any], fixed: dict[str, Any], expected: dict[str, int]) -> None:
    """Just enough, more reserved, and what the inventory sets."""
    assert limits(NEEDS, settings, fixed) == expected


@pytest.mark.parametrize(
    ("settings", "fixed", "sentences"),
    [
        ({"max_connections": 85}, {},
         ("max_connections is 85, too few", "83 connections (airflow 50, backend 18, mlflow 15)", "to 86 or more.")),
        ({"max_connections": 100}, {"backend": 40},
         ("105 connections (airflow 50, backend 40, mlflow 15)", "to 108 or more", "lower postgres_connection_limits")),
        ({}, {"airflow": 90, "backend": 5, "mlflow": 5}, ("100 connections", "to 103 or more")),
        ({"max_connections": "many"}, {}, ("postgres_settings.max_connections is 'many', expected a whole number",)),
        ({}, {"backend": -1}, ("postgres_connection_limits.backend is -1, expected a whole number",)),
        ({}, {"backend": True}, ("postgres_connection_limits.backend is True",)),
        ({}, {"backed": 4}, ("postgres_connection_limits has the unknown key 'backed'", "Did you mean 'backend'?")),
    ],
)  # fmt: skip
def test_limits_that_cannot_be_kept(
    settings: dict[str, Any], fixed: dict[str, Any], sentences: tuple[str, ...]
) -> None:
    """Refused, with the setting and a value that works."""
    with pytest.raises(AnsibleFilterError) as error:
        limits(NEEDS, settings, fixed)
    assert [sentence for sentence in sentences if sentence not in str(error.value)] == []


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Each inventory's needs and limits, as Ansible renders them from the roles' own defaults and variables."""
    cases: dict[str, dict[str, Any]] = {
        "defaults": {},
        "more-workers": {
            "mlflow_workers": 2,
            "backend_worker_concurrency": 6,
            "airflow_settings": {"AIRFLOW__API__WORKERS": 2, "AIRFLOW__DATABASE__SQL_ALCHEMY_MAX_OVERFLOW": 10},
            "postgres_settings": {"max_connections": 250},
        },
        "own-application": {"backend_image": "registry.example.com/desk"},
        # One number of the inventory is enough; max_connections follows.
        "eight-mlflow-workers": {"mlflow_workers": 8},
        "larger-limit": {"postgres_connection_limits": {"backend": 90}},
    }
    directory = tmp_path_factory.mktemp("limits")
    role = directory / "roles" / "case"
    for kind in ("defaults", "vars"):
        (role / kind / "main").mkdir(parents=True)
        for name in ("stack", "postgres"):
            for path in (REPOSITORY / "roles" / name / kind).rglob("*.yml"):
                (role / kind / "main" / f"{name}-{path.name}").write_text(path.read_text())
    variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = {
        "all": {
            "hosts": cases,
            "vars": variables,
            "children": {name: {"hosts": dict.fromkeys(cases)} for name in SERVICES},
        }
    }
    (directory / "hosts.yml").write_text(yaml.safe_dump(inventory))
    shown = {
        "connections": "{{ stack_connections }}",
        "limits": "{{ postgres_limits }}",
        "page": "{{ stack_services.backend.web | first }}",
    }
    play = {
        "hosts": "all",
        "gather_facts": False,
        "roles": ["case"],
        "tasks": [
            CONTRACTS,
            {
                "ansible.builtin.copy": {
                    "dest": f"{directory}/{{{{ inventory_hostname }}}}.json",
                    "content": "{{ shown | to_json }}",
                    "mode": "0600",
                },
                "vars": {"shown": shown},
            },
        ],
    }
    (directory / "play.yml").write_text(yaml.safe_dump([play]))
    ansible_playbook(directory, "-i", "hosts.yml", "play.yml")
    return {name: json.loads((directory / f"{name}.json").read_text()) for name in cases}


@pytest.mark.parametrize(
    ("case", "needs", "most"),
    [
        ("defaults", {"airflow": 50, "backend": 18, "dags": 10, "mlflow": 15}, 107),
        ("more-workers", {"airflow": 12 * 11 + 2, "backend": 30, "dags": 10, "mlflow": 29}, 247),
        ("own-application", {"airflow": 50, "backend": 18, "dags": 10, "mlflow": 15}, 107),
        ("eight-mlflow-workers", {"airflow": 50, "backend": 18, "dags": 10, "mlflow": 113}, 201),
        ("larger-limit", {"airflow": 50, "backend": 18, "dags": 10, "mlflow": 15}, 175),
    ],
)
def test_what_the_programs_may_open_fits(
    rendered: dict[str, dict[str, Any]], case: str, needs: dict[str, int], most: int
) -> None:
    """By the size of their pools and the number of their processes, which settings change."""
    found = rendered[case]
    assert {owner: int(count) for owner, count in found["connections"].items()} == needs
    assert all(found["limits"][owner] >= need for owner, need in needs.items())
    assert sum(found["limits"].values()) <= most


def test_the_backends_pools_are_those_that_are_counted() -> None:
    """The numbers stand in the application and in its role."""
    source = Path(REPOSITORY, "apps/backend/ibkr_backend/database.py").read_text()
    found = {name: int(count) for name, count in re.findall(r"(?m)^(API|TASK)_CONNECTIONS = (\d+)$", source)}
    pools = yaml.safe_load(Path(REPOSITORY, "roles/backend/vars/main.yml").read_text())["backend_pool"]
    assert found == {"API": pools["api"], "TASK": pools["task"]}


def test_the_page_of_an_application_is_not_its_health_check(rendered: dict[str, dict[str, Any]]) -> None:
    """The access table links to the first page; only `verify` asks the other one."""
    page = rendered["own-application"]["page"]
    assert "path" not in page and page["check"] == "/health"
