"""What an inventory says about Airflow, and the containers that follow."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from collection_under_test import CONTRACTS, REPOSITORY, ansible_playbook, containers_here, role_of_variables

SECRETS = {
    "postgres_airflow_password": "PgPassword",
    "postgres_dags_password": "DagsPgPassword",
    "minio_dags_access_key": "DagsAccessKey",
    "minio_dags_secret": "DagsMinioSecret",
    "redis_airflow_password": "RedisPassword",
    "minio_airflow_logs_access_key": "MinioAccessKey",
    "minio_airflow_logs_secret": "MinioSecret",
    "airflow_fernet_key": "FernetKey",
    "airflow_jwt_secret": "JwtSecret",
    "airflow_session_secret": "SessionSecret",
    "airflow_admin_password": "AdminPassword",
    "airflow_backend_password": "BackendPassword",
    "backend_api_token": "ApiToken",
    "ibkr_gateway_tls": "-----BEGIN PRIVATE KEY-----\nxyz\n-----END PRIVATE KEY-----\n-----BEGIN CERTIFICATE-----\nabc",
}
#: Containers in which the code of DAGs runs.
DAGS_RUN_IN = ("airflow-dag-processor", "airflow-triggerer", "airflow-worker")
#: Keys of the DAGs' own database and bucket.
DATA_SECRETS = {
    "DATABASE_URL", "DATABASE_URL_PSYCOPG", "DATABASE_URL_PSYCOPG2", "DATABASE_URL_ASYNCPG", "DATABASE_DSN",
    "PGPASSWORD", "S3_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "S3_SECRET_KEY", "AWS_SECRET_ACCESS_KEY",
}  # fmt: skip
#: What the check of DAGs and one run of a DAG get, which have containers of their own.
RUNS = """{{ {'check': {'files': airflow_check_files, 'environment': airflow_check_environment,
                        'sources': airflow_check_sources, 'places': airflow_dags_places},
              'fetch': airflow_fetch_files,
              'test': {'files': airflow_test_files, 'secrets': airflow_dag_secrets, 'tmpfs': airflow_test_tmpfs,
                       'environment': airflow_test_environment}} | to_json }}"""
Containers = dict[str, dict[str, Any]]


def rendered(
    directory: Path, workers: dict[str, dict[str, Any]], more: tuple[str, ...] = (), **variables: Any
) -> Containers:
    """The containers of the host `services`, as Ansible renders them from the role's own defaults and variables.

    Args:
        directory: Where to work.
        workers: Hosts of the group airflow_worker and their variables; empty: no such group.
        more: Further groups that the host is in.
        variables: Variables of all hosts.
    """
    role = role_of_variables(directory, "airflow")
    further = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "secrets": SECRETS,
        "container_image_refs": {"airflow": "stack/airflow:abc", "airflow-packages": "stack/airflow-packages:def"},
    }
    groups = {
        group: {"hosts": {"services": {}}} for group in ("postgres", "redis", "minio", "mlflow", "airflow", *more)
    }
    if workers:
        groups["airflow_worker"] = {"hosts": workers}
    inventory = {"all": {"children": groups, "vars": further | variables}}
    (directory / "inventory.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))
    contents = {"containers.json": containers_here("airflow"), "runs.json": RUNS}
    copies = [
        {"ansible.builtin.copy": {"content": content, "dest": f"{directory}/{name}"}}
        for name, content in contents.items()
    ]
    (role / "tasks").mkdir()
    (role / "tasks" / "main.yml").write_text(yaml.safe_dump([CONTRACTS, *copies]))
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
        read |= set(re.findall(r"cat /run/secrets/(\w+)", json.dumps(container.get("entrypoint"))))
        read |= {"airflow_admin_password"} if name == "airflow-init" else set()
        assert set(container["secrets"]) == read, name


def test_the_worker_knows_where_a_browser_finds_mlflow(several: Containers) -> None:
    """MLflow itself would print the address at which the worker reaches it."""
    environment = several["airflow-worker"]["environment"]
    assert environment["MLFLOW_TRACKING_URI"] == "http://mlflow-server:5500"
    assert environment["MLFLOW_PUBLIC_URL"] == "http://desk.example.com:5500"
    assert environment["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "true"
    assert environment["GIT_PYTHON_REFRESH"] == "quiet"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Containers:
    """Those of a whole stack whose DAGs have packages and an environment of their own."""
    directory = tmp_path_factory.mktemp("own")
    return rendered(
        directory,
        {},
        ("ibkr_gateway", "backend"),
        airflow_build={"apt": ["jq"]},
        airflow_environment={"DESK": "eu", "MLFLOW_TRACKING_URI": "http://elsewhere:5000"},
        airflow_secret_environment={"DESK_TOKEN": "it's $secret", "AIRFLOW_CONN_DESK": "http://desk:hidden@desk"},
    )


def test_the_code_of_dags_finds_the_same_wherever_it_runs(own: Containers) -> None:
    """The stack's addresses by the names that an application gets, and the inventory's own over them."""
    expected = {
        "S3_ENDPOINT_URL": "http://minio:9000",
        "GATEWAY_URL": "https://ibkr-gateway:5055",
        "GATEWAY_CA_FILE": "/run/config/gateway-ca.pem",
        "AIRFLOW_API_URL": "http://airflow-apiserver:8080/api/v2",
        "BACKEND_URL": "http://backend:8000",
        "MLFLOW_PUBLIC_URL": "http://localhost:5500",
        "MLFLOW_TRACKING_URI": "http://elsewhere:5000",
        "DESK": "eu",
    }
    for name in DAGS_RUN_IN:
        environment = own[name]["environment"]
        assert {key: environment.get(key) for key in expected} == expected, name
        assert own[name]["files"]["gateway-ca.pem"] == "-----BEGIN CERTIFICATE-----\nabc", name
    for name in own.keys() - set(DAGS_RUN_IN):
        assert not expected.keys() & own[name]["environment"].keys(), name


def test_addresses_of_services_that_are_not_there(several: Containers) -> None:
    """Have no variable."""
    for name in DAGS_RUN_IN:
        assert not {"GATEWAY_URL", "GATEWAY_CA_FILE", "BACKEND_URL"} & several[name]["environment"].keys(), name
        assert not several[name]["files"], name


def test_secret_variables_of_dags_are_read_from_files(own: Containers, tmp_path: Path) -> None:
    """By a shell, so that the container's description has their names alone; each value arrives as it is."""
    for name in DAGS_RUN_IN:
        container = own[name]
        assert container["secrets"]["DESK_TOKEN"] == "it's $secret", name
        description = json.dumps({key: value for key, value in container.items() if key != "secrets"})
        assert "$secret" not in description and "hidden" not in description, name
        for file, value in container["secrets"].items():
            (tmp_path / file).write_text(value)
        shell, flag, script, zero = container["entrypoint"]
        script = script.replace("/run/secrets", str(tmp_path))
        show = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
        done = subprocess.run([shell, flag, script, zero, *show], capture_output=True, text=True, check=True)
        environment = json.loads(done.stdout)
        assert environment["DESK_TOKEN"] == "it's $secret", name
        assert environment["AIRFLOW_CONN_DESK"] == "http://desk:hidden@desk", name
        assert ("AIRFLOW_CONN_MINIO_LOGS" in environment) == (name != "airflow-dag-processor")
    for name in own.keys() - set(DAGS_RUN_IN):
        assert "DESK_TOKEN" not in json.dumps(own[name]), name


def test_no_secret_of_dags_can_have_the_name_of_one_of_airflows(own: Containers) -> None:
    """The list of names that are refused has all that these containers have."""
    taken = yaml.safe_load((REPOSITORY / "roles" / "airflow" / "vars" / "main.yml").read_text())["airflow_own_secrets"]
    found = {secret for name in DAGS_RUN_IN for secret in own[name]["secrets"]}
    # One comes with the monitoring, which is not here.
    assert {*found, "netrc"} == {*taken, *DATA_SECRETS, "DESK_TOKEN", "AIRFLOW_CONN_DESK"}


def test_packages_of_dags_choose_the_image(own: Containers, several: Containers) -> None:
    """All of Airflow's containers run the one that has them."""
    assert {each["image"] for each in own.values()} == {"stack/airflow-packages:def"}
    assert {each["image"] for each in several.values()} == {"stack/airflow:abc"}


def test_skipped_dags_are_left_out(tmp_path: Path) -> None:
    """Of all that have the DAGs, whatever the check that found them."""
    dags = tmp_path / "dags"
    dags.mkdir()
    for name in ("good.py", "bad.py"):
        (dags / name).write_text("x = 1\n")
    found = rendered(tmp_path, {}, airflow_dags_dir=str(dags), airflow_dags_skipped=["bad.py"])
    for name in DAGS_RUN_IN:
        assert set(found[name]["reloadable_files"]["dags"]["files"]) == {"good.py"}, name


def test_declared_connections_are_files_of_those_who_look_them_up(tmp_path: Path) -> None:
    """The API server for the tasks, and those that run DAGs' code themselves; no value is in a setting."""
    declared = {
        "airflow_connections": {"desk": "http://me:s3cret@desk.example.com"},
        "airflow_variables": {"symbols": ["AAPL"]},
    }
    found = rendered(tmp_path, {}, **declared)
    files = {"declared_connections.json", "declared_variables.json"}
    for name, container in found.items():
        reads = name in ("airflow-apiserver", "airflow-dag-processor", "airflow-triggerer")
        assert files & set(container["secrets"]) == (files if reads else set()), name
        assert ("AIRFLOW__SECRETS__BACKEND" in container["environment"]) == reads, name
        assert "s3cret" not in json.dumps(container["environment"]), name
    settings = found["airflow-triggerer"]["environment"]["AIRFLOW__SECRETS__BACKEND_KWARGS"]
    assert json.loads(settings) == {
        "connections_file_path": "/run/secrets/declared_connections.json",
        "variables_file_path": "/run/secrets/declared_variables.json",
    }


def test_users_are_files_of_the_job_that_makes_them(tmp_path: Path) -> None:
    """No other container has a password, and no environment."""
    users = [{"name": "anna", "role": "Viewer"}, {"name": "bo", "role": "Op", "password": "p4ss {{ 'word' }}"}]
    secrets = {**SECRETS, "airflow_user_anna_password": "AnnaPassword"}
    found = rendered(tmp_path, {}, airflow_users=users, secrets=secrets)
    held = {"airflow_user_anna_password": "AnnaPassword", "airflow_user_bo_password": "p4ss word"}
    for name, container in found.items():
        if name == "airflow-init":
            assert held.items() <= container["secrets"].items()
            accounts = json.loads(container["environment"]["AIRFLOW_ACCOUNTS"])
            assert [(each["username"], each["role"]) for each in accounts] == [
                ("admin", "Admin"),
                ("anna", "Viewer"),
                ("bo", "Op"),
            ]
        else:
            assert not held.keys() & container["secrets"].keys(), name
        rest = json.dumps({key: value for key, value in container.items() if key != "secrets"})
        assert "AnnaPassword" not in rest and "p4ss" not in rest, name


def test_environments_of_tasks_come_from_the_index_of_the_builds(tmp_path: Path, several: Containers) -> None:
    """With its proxy, both in a file, as their addresses may hold a password; uv keeps packages in a volume."""
    worker = several["airflow-worker"]
    assert worker["environment"]["UV_CACHE_DIR"].startswith("/opt/environments/")
    assert {"name": "airflow-worker-environments", "path": "/opt/environments"} in worker["volumes"]
    assert "UV_CONFIG_FILE" not in worker["environment"] and "uv.toml" not in worker["secrets"]
    found = rendered(
        tmp_path,
        {},
        container_image_pip_index="https://me:t0ken@pypi.example.com/simple",
        container_image_http_proxy="http://proxy.example.com:3128",
        container_image_no_proxy="localhost,pypi.example.com",
    )
    for name, container in found.items():
        assert "t0ken" not in json.dumps({key: value for key, value in container.items() if key != "secrets"}), name
        assert ("uv.toml" in container["secrets"]) == (name == "airflow-worker"), name
    assert found["airflow-worker"]["environment"]["UV_CONFIG_FILE"] == "/run/secrets/uv.toml"
    assert tomllib.loads(found["airflow-worker"]["secrets"]["uv.toml"]) == {
        "index-url": "https://me:t0ken@pypi.example.com/simple",
        "http-proxy": "http://proxy.example.com:3128",
        "https-proxy": "http://proxy.example.com:3128",
        "no-proxy": ["localhost", "pypi.example.com"],
    }


def test_dags_have_a_database_and_a_bucket_of_their_own(several: Containers, own: Containers, tmp_path: Path) -> None:
    """By the names that an application of one's own gets; the keys of Airflow's own stay where they are."""
    for name in DAGS_RUN_IN:
        environment, secrets = several[name]["environment"], several[name]["secrets"]
        assert {key: environment[key] for key in ("PGHOST", "PGDATABASE", "PGUSER", "S3_BUCKET")} == {
            "PGHOST": "postgres", "PGDATABASE": "dags", "PGUSER": "dags", "S3_BUCKET": "dags",
        }  # fmt: skip
        assert set(secrets) >= DATA_SECRETS
        assert secrets["DATABASE_URL"] == "postgresql://dags:DagsPgPassword@postgres:5432/dags"
        assert (secrets["AWS_ACCESS_KEY_ID"], secrets["S3_SECRET_KEY"]) == ("DagsAccessKey", "DagsMinioSecret")
    for name in several.keys() - set(DAGS_RUN_IN):
        assert not DATA_SECRETS & set(several[name]["secrets"]) and "PGHOST" not in several[name]["environment"], name
    found = rendered(tmp_path, {}, airflow_environment={"S3_BUCKET": "mine", "AWS_ACCESS_KEY_ID": "my-key"})
    for name in DAGS_RUN_IN:
        assert found[name]["environment"]["S3_BUCKET"] == "mine"
        assert found[name]["environment"]["AWS_ACCESS_KEY_ID"] == "my-key"
        assert (
            "AWS_ACCESS_KEY_ID" not in found[name]["secrets"]
            and "AWS_ACCESS_KEY_ID" not in found[name]["entrypoint"][2]
        )


#: Sources of DAGs besides a directory.
REPOSITORIES: list[dict[str, Any]] = [
    {"name": "desk", "git": "https://git.example.com/dags.git", "ref": "live", "subfolder": "dags", "token": "t0ken"},
    {
        "name": "lab", "git": "git@git.example.com:lab/dags.git", "known_hosts": "git.example.com ssh-ed25519 AAAA",
        "key": "-----BEGIN OPENSSH PRIVATE KEY-----\nhidden\n-----END OPENSSH PRIVATE KEY-----",
    },
]  # fmt: skip


def test_sources_of_dags(tmp_path: Path) -> None:
    """All that run DAGs have the directories and know the repositories; tokens and keys are in files alone."""
    dags, more = tmp_path / "dags", tmp_path / "more"
    for directory, name in ((dags, "a.py"), (more, "b.py")):
        directory.mkdir()
        (directory / name).write_text("x = 1\n")
    sources = [{"name": "more", "path": str(more)}, *REPOSITORIES]
    found = rendered(tmp_path, {}, airflow_dags_dir=str(dags), airflow_dag_sources=sources)
    for name, container in found.items():
        bundles = json.loads(container["environment"]["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"])
        assert [each["name"] for each in bundles] == ["dags-folder", "more", "desk", "lab"], name
        assert container["image"] == "stack/airflow-packages:def", name
        description = json.dumps({key: value for key, value in container.items() if key != "secrets"})
        assert "t0ken" not in description and "hidden" not in description, name
    assert bundles[1]["kwargs"] == {"path": "/opt/dag-sources/more"}
    assert bundles[2]["kwargs"] == {
        "repo_url": "https://git.example.com/dags.git", "tracking_ref": "live", "subdir": "dags",
        "git_conn_id": "dag_source_desk", "refresh_interval": 60,
    }  # fmt: skip
    for name in DAGS_RUN_IN:
        assert {tree["path"]: list(tree["files"]) for tree in found[name]["reloadable_files"].values()} == {
            "/opt/dags": ["a.py"], "/opt/dag-sources/more": ["b.py"],
        }  # fmt: skip
        assert found[name]["files"]["known_hosts-lab"] == "git.example.com ssh-ed25519 AAAA\n"
    for name in ("airflow-dag-processor", "airflow-worker"):
        assert "/opt/airflow/bundles" in [volume["path"] for volume in found[name]["volumes"]]
        # git runs the script that hands it the token.
        assert found[name]["tmpfs"]["/tmp"].endswith(",exec")
    for name in ("airflow-apiserver", "airflow-dag-processor", "airflow-triggerer"):
        connections = json.loads(found[name]["secrets"]["declared_connections.json"])
        assert connections["dag_source_desk"]["password"] == "t0ken"
        assert connections["dag_source_lab"]["extra"]["strict_host_key_checking"] == "yes"
        assert connections["dag_source_lab"]["extra"]["known_hosts_file"] == "/run/config/known_hosts-lab"


def test_what_the_check_and_one_run_of_dags_get(tmp_path: Path) -> None:
    """The import of files has no token, what fetches repositories has nothing else; a run has the worker's bundles."""
    found = rendered(
        tmp_path, {}, ("backend",), airflow_dag_sources=REPOSITORIES,
        airflow_connections={"desk": {"conn_type": "http", "host": "desk.example.com", "password": "of-the-desk"}},
        airflow_secret_environment={"DESK_TOKEN": "of-the-dags"},
    )  # fmt: skip
    runs = json.loads((tmp_path / "runs.json").read_text())
    check, test, worker = json.dumps(runs["check"]), json.dumps(runs["test"]), found["airflow-worker"]
    assert "of-the-desk" in check and "t0ken" not in check and "hidden" not in check and "DagsPgPassword" not in check
    # The names of the DAGs' own keys are known, so that a file that asks for one is told from a broken one.
    assert {"DATABASE_URL", "DESK_TOKEN"} <= set(runs["check"]["environment"]["DAGS_CHECK_SECRETS"].split())

    assert runs["check"]["sources"] == {} and "the source" not in runs["check"]["places"]

    assert set(runs["fetch"]) == {"/run/secrets/declared_connections.json", "/run/config/known_hosts-lab"}
    connections = json.loads(runs["fetch"]["/run/secrets/declared_connections.json"])
    assert set(connections) == {"dag_source_desk", "dag_source_lab"}
    assert connections["dag_source_desk"]["password"] == "t0ken"
    assert "hidden" in json.dumps(connections["dag_source_lab"])

    bundles = "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"
    assert runs["test"]["environment"][bundles] == worker["environment"][bundles]
    assert {name: worker["secrets"][name] for name in DATA_SECRETS | {"DESK_TOKEN"}} == runs["test"]["secrets"]
    connections = json.loads(runs["test"]["files"]["/run/secrets/declared_connections.json"])
    assert connections["dag_source_desk"]["password"] == "t0ken" and connections["desk"]["password"] == "of-the-desk"
    assert runs["test"]["files"]["/run/secrets/backend_api_token"] == "ApiToken"
    assert runs["test"]["files"]["/run/config/known_hosts-lab"] == "git.example.com ssh-ed25519 AAAA\n"
    # git runs the script that hands it the token.
    assert runs["test"]["tmpfs"]["/tmp"].endswith(",exec")
    described = json.dumps(runs["test"]["environment"])
    assert not any(secret in described for secret in ("t0ken", "hidden", "of-the-d", "ApiToken", "DagsPgPassword"))
    for secret in ("PgPassword", "RedisPassword", "MinioSecret", "FernetKey", "JwtSecret", "AdminPassword"):
        assert not re.search(rf"(?<!Dags){secret}", test), secret


def test_repositories_are_checked_once_they_are_fetched(tmp_path: Path) -> None:
    """The import gets a directory for each that was fetched, and messages name it; one that was not is left out."""
    fetched = {"fetched": ["lab"], "failed": {"desk": "no token"}, "archive": ""}
    rendered(tmp_path, {}, airflow_dag_sources=REPOSITORIES, airflow_fetched=fetched)
    check = json.loads((tmp_path / "runs.json").read_text())["check"]
    assert check["sources"] == {"lab": "/opt/dag-sources/lab"}
    assert check["places"].endswith(", the source lab")


def test_without_repositories_nothing_is_added(several: Containers) -> None:
    """No volume, no other image, and nothing that runs from /tmp."""
    for name in DAGS_RUN_IN:
        assert "/opt/airflow/bundles" not in json.dumps(several[name].get("volumes")), name
        assert "exec" not in json.dumps(several[name].get("tmpfs")), name
    bundles = json.loads(several["airflow-worker"]["environment"]["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"])
    assert [each["name"] for each in bundles] == ["dags-folder"]
