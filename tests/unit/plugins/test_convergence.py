"""What is done so that containers are as planned, and in which order."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from collection_under_test import ansible_playbook, plugin

convergence = plugin("plugin_utils.convergence")

READY = {"ready": True, "running": True, "drift": [], "hung": False, "protected": False}
DONE = {**READY, "running": False}
CHANGED = {**READY, "ready": False, "drift": ["changed: image"]}
MISSING = {**CHANGED, "running": False, "drift": ["missing"]}
STARTING = {**READY, "ready": False}


def plan(name: str, kind: str = "service", **more: Any) -> dict[str, Any]:
    """A plan of a container that writes one file."""
    trees = [{"path": f"/etc/quantops/desk/{name}/config", "files": {}}]
    return {"name": f"desk-{name}", "kind": kind, "prevent_recreate": False, "trees": trees, "secret_trees": [], **more}


PLANS = {
    "mlflow": [plan("mlflow-upgrade", "job"), plan("mlflow")],
    "redis": [plan("redis")],
}
CONTRACTS: dict[str, dict[str, Any]] = {
    "mlflow": {
        "databases": {"mlflow": {}},
        "all_containers": ["mlflow-upgrade", "mlflow"],
        "containers": {"mlflow-upgrade": {"job": True, "here": True}, "mlflow": {"job": False, "here": True}},
    },
    "redis": {"databases": {}, "all_containers": ["redis"], "containers": {"redis": {"job": False, "here": True}}},
}


def states(**found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """States of all containers, all well but for those that are named."""
    well = {"mlflow_upgrade": DONE, "mlflow": READY, "redis": READY}
    return {f"desk-{name.replace('_', '-')}": state for name, state in (well | found).items()}


def work(found: dict[str, dict[str, Any]], *empty: str) -> dict[str, Any]:
    """What a wave of all services needs, by names."""
    given = convergence.wave_work(PLANS, found, CONTRACTS, empty)
    names = lambda plans: [each["name"].removeprefix("desk-") for each in plans]  # noqa: E731
    return {
        "now": names(given["now"]),
        "jobs": given["jobs"],
        "later": {service: names(plans) for service, plans in given["later"].items()},
        "states": given["states"],
    }


def test_a_database_that_no_job_prepares_may_be_empty() -> None:
    """It is until somebody writes to it; a job runs again only for one that it fills."""
    contracts = {
        **CONTRACTS,
        "mlflow": {**CONTRACTS["mlflow"], "databases": {"mlflow": None, "own": {"prepared": False}}},
    }
    for empty, jobs in (("own", {}), ("mlflow", {"mlflow": ["desk-mlflow-upgrade"]})):
        assert convergence.wave_work(PLANS, states(), contracts, [empty])["jobs"] == jobs


def test_nothing_to_do() -> None:
    """No job, no container, nobody to wait for."""
    given = work(states())
    assert (given["now"], given["jobs"], given["later"]) == ([], {}, {})
    assert convergence.out_of_sync(PLANS, PLANS, states(), [], [], CONTRACTS) == []


def test_a_first_run_begins_with_jobs_and_with_what_waits_for_none() -> None:
    """Services follow their own jobs, not those of others."""
    given = work(states(mlflow_upgrade=MISSING, mlflow=MISSING, redis=MISSING))
    assert given["now"] == ["mlflow-upgrade", "redis"]
    assert given["jobs"] == {"mlflow": ["desk-mlflow-upgrade"]} and given["later"] == {"mlflow": ["mlflow"]}


def test_a_job_that_a_killed_run_left_at_work_is_waited_for() -> None:
    """It is not started a second time."""
    given = work(states(mlflow_upgrade={**STARTING}, mlflow=MISSING))
    assert given["now"] == [] and given["jobs"] == {"mlflow": ["desk-mlflow-upgrade"]}


def test_an_empty_database_is_prepared_again() -> None:
    """The job alone: what runs gets its tables back."""
    given = work(states(), "mlflow")
    assert given["now"] == ["mlflow-upgrade"] and given["later"] == {"mlflow": []}
    assert given["states"]["desk-mlflow-upgrade"]["drift"] == ["its database is empty"]
    assert work(states(), "another")["now"] == []


def test_a_protected_container_stays() -> None:
    """Until a variable says otherwise; nobody waits for one that hangs."""
    gateway = {"gateway": [plan("gateway", prevent_recreate=True)]}
    contract = {"gateway": {"databases": {}, "all_containers": ["gateway"], "containers": {}}}
    found = {"desk-gateway": {**CHANGED, "hung": True}}
    assert convergence.wave_work(gateway, found, contract, [])["now"] == []
    assert [each["name"] for each in convergence.protected_plans(gateway["gateway"], found)] == ["desk-gateway"]
    assert convergence.starting_containers(gateway["gateway"], found) == []
    allowed = {"gateway": [plan("gateway", prevent_recreate=True, recreate=True)]}
    assert [each["name"] for each in convergence.wave_work(allowed, found, contract, [])["now"]] == ["desk-gateway"]


def test_one_file_that_differs_concerns_its_service_alone() -> None:
    """A file of MLflow's, and one whose name only begins like a directory of Redis."""
    stale = ["/etc/quantops/desk/mlflow/config/app.conf", "/etc/quantops/desk/redis/config-old/x"]
    assert convergence.out_of_sync(PLANS, PLANS, states(), stale, [], CONTRACTS) == ["mlflow"]
    assert convergence.out_of_sync(PLANS, PLANS, states(), ["/etc/quantops/desk/redis/config"], [], CONTRACTS) == [
        "redis"
    ]


def test_what_is_no_longer_declared_concerns_its_service() -> None:
    """And a container that is not ready concerns its own."""
    assert convergence.out_of_sync(PLANS, PLANS, states(), [], ["desk-mlflow-upgrade"], CONTRACTS) == ["mlflow"]
    assert convergence.out_of_sync(PLANS, PLANS, states(redis=STARTING), [], [], CONTRACTS) == ["redis"]
    assert convergence.starting_containers(PLANS["redis"], states(redis=STARTING)) == ["desk-redis"]


def test_tags_choose_services() -> None:
    """A service by its name, all without tags, none for the checks alone."""
    chosen = convergence.chosen_services
    assert chosen(["redis", "mlflow"], ["all"], []) == ["redis", "mlflow"]
    assert chosen(["redis", "mlflow"], ["mlflow", "images"], []) == ["mlflow"]
    assert chosen(["redis", "mlflow"], ["all"], ["mlflow"]) == ["redis"]
    assert chosen(["redis", "mlflow"], ["always"], []) == []


def test_containers_start_and_stop_in_the_order_of_their_needs() -> None:
    """Jobs are not started again; what nobody declares any more stops first."""
    waves = [["redis"], ["mlflow"]]
    assert convergence.container_waves(CONTRACTS, waves, "desk") == [["desk-redis"], ["desk-mlflow"]]
    running = ["desk-redis", "desk-old", "desk-mlflow"]
    assert convergence.stop_order(CONTRACTS, waves, "desk", running) == [["desk-old"], ["desk-mlflow"], ["desk-redis"]]
    assert convergence.stop_order(CONTRACTS, waves, "desk", ["desk-redis"]) == [[], [], ["desk-redis"]]
    assert convergence.declared_containers(CONTRACTS, "desk") == ["desk-mlflow-upgrade", "desk-mlflow", "desk-redis"]


def test_a_tag_that_chooses_nothing_is_refused() -> None:
    """It would leave what was to be fixed as it is, and succeed."""
    services = ["redis", "mlflow"]
    assert convergence.unknown_tags(["all"], services) == convergence.unknown_tags(["redis", "images"], services) == []
    [said] = convergence.unknown_tags(["redis", "mlfow"], services)
    assert said == "--tags names mlfow, which is neither a service nor a step. Did you mean mlflow?"
    assert "Known are redis, mlflow, images" in convergence.unknown_tags(["grafana"], services)[0]


def test_other_roles_tell_what_they_have_found(tmp_path: Path) -> None:
    """Empty databases of an earlier call are not kept, and what a caller has changed is compared again."""

    def call(entry: str, **variables: Any) -> dict[str, Any]:
        role = {"name": "quantops.ibkr_stack.container_service", "tasks_from": entry}
        return {"ansible.builtin.include_role": role, "vars": variables}

    written = "{{ [container_service_empty_databases, container_service_states] | to_json }}"
    tasks = [
        {"ansible.builtin.set_fact": {"container_service_states": {"desk-redis": READY}}},
        call("rerun_jobs", container_service_rerun_databases=["mlflow", "airflow"]),
        call("rerun_jobs", container_service_rerun_databases=["airflow"]),
        {"ansible.builtin.copy": {"content": written, "dest": f"{tmp_path}/before"}},
        call("forget"),
        {"ansible.builtin.copy": {"content": written, "dest": f"{tmp_path}/after"}},
    ]
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"redis": {"hosts": {"here": here}}}))
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{"hosts": "redis", "gather_facts": False, "tasks": tasks}]))
    ansible_playbook(tmp_path, "-i", "hosts.yml", "play.yml")
    assert json.loads((tmp_path / "before").read_text()) == [["airflow"], {"desk-redis": READY}]
    assert json.loads((tmp_path / "after").read_text()) == [["airflow"], {}]
