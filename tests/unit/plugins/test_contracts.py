"""What the contracts of the services come to: who runs what, in which order, and who reaches whom where."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from collection_under_test import CONTRACTS, REPOSITORY, SERVICES, ansible_playbook, plugin

contracts = plugin("plugin_utils.contracts")

MINIMAL: dict[str, Any] = {
    "title": "Notebook",
    "host": "notebook",
    "processes": {"server": {"group": "notebook"}},
    "ports": {"http": {"container": 8888, "variable": "notebook_port", "scheme": "http"}},
    "containers": {"notebook": {}},
}


PAGE: dict[str, Any] = {"title": "Lab", "container": "notebook", "port": "http"}

# ---- the form of a file


def test_the_contracts_of_this_collection_are_valid_together() -> None:
    """Each by itself, and no two share a name."""
    found = {}
    for name in SERVICES:
        text = (REPOSITORY / "roles" / name / "meta" / "service.yml").read_text(encoding="utf-8")
        found[name] = contracts.check(yaml.safe_load(text), name)
    contracts.check_together(found, {name: name for name in found})


def test_a_services_playbook_has_the_hosts_of_all_its_processes() -> None:
    """A host of workers alone would otherwise keep what it has."""
    for path in sorted(REPOSITORY.glob("roles/*/meta/service.yml")):
        service = path.parts[-3]
        playbook = REPOSITORY / "playbooks" / f"{service}.yml"
        named: set[str] = set()
        for play in yaml.safe_load(playbook.read_text(encoding="utf-8")):
            if {"role": f"quantops.ibkr_stack.{service}"} in play.get("roles", []):
                named |= set(play["hosts"].split(":"))
        processes = yaml.safe_load(path.read_text(encoding="utf-8"))["processes"].values()
        if any(process.get("everywhere") for process in processes):
            assert named == {"stack_hosts"}, playbook
            continue
        # The playbook of the backup makes one, on whatever host has its container.
        assert service == "backup" or named == {process["group"] for process in processes}, playbook


PUBLISHED = re.compile(r"'?host'?: (?:\"{{ )?(\w+)(?: }}\")?, '?container'?: (?:\"{{ )?([\w.]+)")
LISTENING = re.compile(r":(\d{4})\b|--port[\"=, ]+(\d+)|\b(?:\w+_PORT:|port) (\d+)")


@pytest.mark.parametrize("service", SERVICES)
def test_a_role_has_the_ports_of_its_contract(service: str) -> None:
    """It publishes them, and its programs and probes name no other."""
    role = REPOSITORY / "roles" / service
    contract = yaml.safe_load((role / "meta/service.yml").read_text(encoding="utf-8"))
    ports = contract["ports"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in role.glob("vars/**/*.yml"))
    assert sorted(PUBLISHED.findall(text)) == sorted(
        (port["variable"], f"stack_services.{service}.ports.{name}.container") for name, port in ports.items()
    )
    files = [*role.glob("vars/**/*.yml"), *role.glob("defaults/*.yml"), *role.glob("templates/*")]
    named = {int(max(each)) for path in files for each in LISTENING.findall(path.read_text(encoding="utf-8"))}
    # The scheduler's probe is asked inside its container only.
    measured = {each["port"] for each in contract.get("metrics", {}).values()}
    assert named - {8974} <= {port["container"] for port in ports.values()} | measured


@pytest.mark.parametrize("key", contracts.REQUIRED)
def test_a_required_key_is_missing(key: str) -> None:
    """The file and the key are named."""
    with pytest.raises(contracts.ContractError, match=f"^service.yml has no '{key}'.$"):
        contracts.check({name: value for name, value in MINIMAL.items() if name != key}, "service.yml")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"need": ["postgres"]}, "the unknown key 'need'. Did you mean 'needs'?"),
        ({"needs": {"postgres": {}}}, "'needs' is {'postgres': {}}, expected a list"),
        ({"needs": "postgres"}, "'needs' is 'postgres', expected a list"),
        ({"ports": {"http": {"container": 1, "scheme": "http"}}}, "the port 'http' has no 'variable'"),
        ({"ports": {"http": {"container": 1, "scheme": "http", "varable": "x"}}}, "Did you mean 'variable'?"),
        ({"containers": {"notebook": {"process": "worker"}}}, "'notebook' belongs to 'worker', which is not a process"),
        ({"containers": {"notebook": None}}, "'containers' holds None, expected a dictionary"),
        ({"processes": {"server": {"slots": 2}}}, "the process 'server' has no 'group'"),
        ({"secrets": {"token": "uuid"}}, "the secret 'token' is 'uuid', expected one of password, long"),
        ({"data": {"books": {"backup": "tape"}}}, "'backup' of the volume 'books' is 'tape', expected one of postgres"),
        ({"data": {"books": {}}}, "'backup' of the volume 'books' is None"),
        (
            {"web": [{"title": "Lab", "container": "notebook", "port": "https"}]},
            "the page 'Lab' names the port 'https', which 'ports' does not have",
        ),
        (
            {"metrics": {"notebok": {"port": "http"}}},
            "'metrics' names the container 'notebok', which 'containers' does not have",
        ),
        (
            {"metrics": {"notebook": {"port": "metrics"}}},
            "'metrics' of the container 'notebook' names the port 'metrics', which 'ports' does not have",
        ),
        ({"metrics": {"notebook": {"port": "http", "login": "me"}}}, "'metrics' has the unknown key 'login'"),
        ({"web": [{**PAGE, "name": "My_Lab"}]}, "the page 'Lab' has the name 'My_Lab', expected small letters"),
        ({"web": [{**PAGE, "roles": {"guest": "read"}}]}, "'roles' is {'guest': 'read'}, expected some of viewer,"),
        ({"web": [{**PAGE, "roles": {"viewer": "all"}}]}, "each with read or write"),
        ({"web": [{**PAGE, "public": "/health"}]}, "'public' is '/health', expected a list"),
        ({"web": [{**PAGE, "public": ["/a/../b"]}]}, "'public' has '/a/../b', expected a path such as /health"),
        ({"web": [{**PAGE, "read_paths": ["/a*"]}]}, "'read_paths' has '/a*', expected a path"),
        ({"web": [{**PAGE, "identity": "cookie"}]}, "'identity' is 'cookie', expected 'header' or 'login'"),
        ({"web": [{**PAGE, "identity": "login", "user": "me"}]}, "no 'user' or no 'secret' to log in with"),
        (
            {"processes": {"server": {"group": "notebook", "everywhere": True}}},
            "the first process 'server' is 'everywhere'",
        ),
        ({"redis": {"users": {"lab": {"broker": "lab"}}}}, "the broker of the Redis user 'lab' is none of"),
    ],
)
def test_what_cannot_be_a_contract(more: dict[str, Any], sentence: str) -> None:
    """The key and what is expected."""
    with pytest.raises(contracts.ContractError) as error:
        contracts.check({**MINIMAL, **more}, "service.yml")
    assert str(error.value).startswith("service.yml") and sentence in str(error.value)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"host": "redis"}, "'redis' (name on the network) is also in redis.yml"),
        ({"containers": {"redis": {}}}, "'redis' (container) is also in redis.yml"),
        ({"processes": {"server": {"group": "redis"}}}, "'redis' (group) is also in redis.yml"),
        ({"secrets": {"redis_admin_password": "password"}}, "'redis_admin_password' (secrets) is also in redis.yml"),
        ({"data": {"redis-data": {"backup": "files"}}}, "'redis-data' (data) is also in redis.yml"),
        ({"needs": ["mysql"]}, "notebook needs 'mysql', and no role in stack_service_roles has that name"),
        ({"tokens": ["mlfow"]}, "'tokens' names 'mlfow', and no role in stack_service_roles has that name"),
    ],
)
def test_two_services_that_share_a_name(more: dict[str, Any], sentence: str) -> None:
    """Both files are named."""
    redis = yaml.safe_load((REPOSITORY / "roles/redis/meta/service.yml").read_text(encoding="utf-8"))
    with pytest.raises(contracts.ContractError) as error:
        contracts.check_together(
            {"redis": redis, "notebook": {**MINIMAL, **more}}, {"redis": "redis.yml", "notebook": "n.yml"}
        )
    assert sentence in str(error.value)


def test_a_redis_database_that_is_taken() -> None:
    """A free one is named."""
    both = {
        name: {"host": name, "containers": {name: None}, "processes": {}, "redis": {"databases": {name: 0}}}
        for name in ("cache", "queue")
    }
    with pytest.raises(contracts.ContractError, match=r"q.yml: 0 \(Redis database\) is also in c.yml. 1 is free.$"):
        contracts.check_together(both, {"cache": "c.yml", "queue": "q.yml"})


def test_data_that_no_container_mounts() -> None:
    """A backup of it would be one of nothing."""
    contract = {"name": "notebook", "directory": "/roles/notebook", "data": {"books": {"backup": "files"}}}
    mounted = [{"name": "notebook", "volumes": [{"name": "books", "path": "/books"}]}, {"name": "notebook-init"}]
    assert contracts.unmounted(contract, mounted) == []
    [sentence] = contracts.unmounted(contract, [{"name": "notebook", "volumes": [{"name": "book", "path": "/books"}]}])
    assert sentence.startswith("/roles/notebook/meta/service.yml has the volume 'books' in 'data', and no container")
    assert sentence.endswith("mounted are: book.")


def test_waves_follow_the_needs() -> None:
    """What is not there is not waited for; who needs each other is refused."""
    assert contracts.waves({"c": ["b"], "a": [], "b": ["a", "absent"], "d": []}) == [["a", "d"], ["b"], ["c"]]
    with pytest.raises(contracts.ContractError, match="Services depend on each other in a circle: a, b"):
        contracts.waves({"a": ["b"], "b": ["a"]})


# ---- an inventory of three hosts, as Ansible reads it

ADDRESSES = {"data": "10.0.0.1", "apps": "10.0.0.2", "far": "10.0.0.3"}
HOSTS: dict[str, dict[str, Any]] = {
    "data": {
        "ansible_host": ADDRESSES["data"],
        "stack_address": ADDRESSES["data"],
        # Only the owner says so.
        "minio_port": 9900,
        "redis_port": "{{ 6000 + 379 }}",
        "stack_public_host": "data.example.com",
    },
    "apps": {
        "ansible_host": ADDRESSES["apps"],
        "backend_image": "registry.example.com/desk",
        "backend_celery_app": "desk.tasks:app",
    },
    "far": {"ansible_host": ADDRESSES["far"], "airflow_worker_concurrency": 6, "airflow_port": 9999},
}
#: Hosts of other stacks in the same groups; the second has values that cannot work.
OTHER_STACKS: dict[str, dict[str, Any]] = {
    "beta": {"stack_name": "beta", "ansible_host": "10.0.0.9"},
    "odd": {"stack_name": "odd", "redis_port": "\u00b2", "airflow_worker_concurrency": "many"},
}
#: A stack whose owner has not said yet where its data host is reached.
SPLIT: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "split-data": ({"stack_address": "data.example.com"}, ("postgres", "redis", "minio")),
    "split-apps": ({"ansible_host": "10.0.0.8"}, ("mlflow",)),
}
GROUPS = {
    **{group: ["data"] for group in ("postgres", "redis", "minio", "ibkr_gateway")},
    **{group: ["apps"] for group in ("backend", "mlflow", "airflow")},
    "airflow_worker": ["apps", "far"],
    "backend_worker": ["far"],
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Host to what the module returned for it."""
    directory = tmp_path_factory.mktemp("contracts")
    inventory = {
        "all": {
            "hosts": {**OTHER_STACKS, **HOSTS, "bystander": {}},
            "vars": {
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
                "stack_mesh": False,
                "secrets_dir": str(directory / "secrets"),
            },
            "children": {group: {"hosts": dict.fromkeys([*OTHER_STACKS, *hosts])} for group, hosts in GROUPS.items()},
        }
    }
    del inventory["all"]["children"]["mlflow"]["hosts"]["beta"]
    for host, (variables, services) in SPLIT.items():
        inventory["all"]["hosts"][host] = {"stack_name": "split", **variables}
        for group in services:
            inventory["all"]["children"][group]["hosts"][host] = None
    (directory / "hosts.yml").write_text(yaml.safe_dump(inventory))
    copy = {
        "dest": f"{directory}/{{{{ inventory_hostname }}}}.json",
        "content": "{{ stack_contract | to_json }}",
        "mode": "0600",
    }
    play = {"hosts": "all", "gather_facts": False, "tasks": [CONTRACTS, {"ansible.builtin.copy": copy}]}
    (directory / "play.yml").write_text(yaml.safe_dump([play]))
    ansible_playbook(directory, "-i", "hosts.yml", "play.yml")
    hosts = [*HOSTS, *OTHER_STACKS, *SPLIT, "bystander"]
    return {host: json.loads((directory / f"{host}.json").read_text()) for host in hosts}


def test_a_host_sees_its_own_stack_alone(found: dict[str, dict[str, Any]]) -> None:
    """Another stack's services are not active, its hosts are no owners and need nothing."""
    assert found["beta"]["hosts"] == ["beta"] and "mlflow" not in found["beta"]["active"]
    assert found["beta"]["endpoints"]["redis"]["url"] == "redis://redis:6379" and found["beta"]["exposed"] == []
    assert found["data"]["hosts"] == ["data", "apps", "far"]


def test_numbers_that_are_none_are_named(found: dict[str, dict[str, Any]]) -> None:
    """Instead of an error of Python's."""
    problems = "\n".join(found["odd"]["problems"])
    assert "redis_port is '\u00b2', expected a number from 1 to 65535." in problems
    assert "airflow_worker_concurrency of odd is 'many', expected a number from 1." in problems


def test_every_host_knows_what_it_runs(found: dict[str, dict[str, Any]]) -> None:
    """Also one that runs no more than a worker, and one that runs nothing."""
    assert {host: found[host]["here"] for host in [*HOSTS, "bystander"]} == {
        "data": ["postgres", "redis", "minio", "ibkr_gateway"],
        "apps": ["backend", "mlflow", "airflow"],
        "far": ["backend", "airflow"],
        "bystander": [],
    }


def here(contract: dict[str, Any], service: str) -> set[str]:
    """Containers of a service on a host."""
    return {name for name, entry in contract["services"][service]["containers"].items() if entry["here"]}


def test_a_host_of_workers_has_their_containers_alone(found: dict[str, dict[str, Any]]) -> None:
    """The others are elsewhere, and the job that checks the worker comes along, as the owner's variables say."""
    assert here(found["far"], "airflow") == {"airflow-worker"}
    assert here(found["far"], "backend") == {"backend-check", "celery-worker"}
    assert here(found["apps"], "airflow") == {
        *("airflow-init", "airflow-apiserver", "airflow-scheduler"),
        *("airflow-dag-processor", "airflow-worker", "airflow-triggerer"),
    }  # fmt: skip
    assert here(found["apps"], "backend") == {"backend", "celery-beat", "flower"}


def test_slots_are_those_of_all_workers(found: dict[str, dict[str, Any]]) -> None:
    """Each host's own number, and the role's default where it has none."""
    slots = [found[host]["services"]["airflow"]["processes"]["worker"]["slots"] for host in HOSTS]
    assert slots == [2 + 6] * len(HOSTS)


def test_consumers_see_what_only_the_owner_says(found: dict[str, dict[str, Any]]) -> None:
    """Its port, its public name, its application; a consumer's own variables of the same name do not count."""
    for host in ("apps", "far", "bystander"):
        at = found[host]["endpoints"]
        assert at["minio"]["url"] == "http://10.0.0.1:9900"
        assert at["minio"]["public_url"] == "http://data.example.com:9900"
        assert at["redis"]["nodes"] == [{"host": "10.0.0.1", "port": 6379}]
        assert found[host]["services"]["backend"]["provides"] == []
    assert found["data"]["endpoints"]["minio"]["url"] == "http://minio:9000"
    assert found["far"]["endpoints"]["airflow"]["url"] == "http://10.0.0.2:8080"
    assert found["data"]["endpoints"]["backend"]["public_url"] == "http://10.0.0.2:8000"


def test_only_what_another_host_needs_is_exposed(found: dict[str, dict[str, Any]]) -> None:
    """Databases of a host that runs everything else elsewhere, and what tasks on a host of workers reach."""
    assert found["data"]["exposed"] == ["postgres", "redis", "minio", "ibkr_gateway"]
    assert found["apps"]["exposed"] == ["backend", "mlflow", "airflow"]
    assert found["far"]["exposed"] == []
    # People reach those with pages too.
    assert found["data"]["exposed_to"]["ports"] == {"5432": False, "6379": False, "9900": True, "5055": True}
    assert found["data"]["exposed_to"]["address"] == ADDRESSES["data"]


def test_a_host_knows_what_it_reaches_elsewhere(found: dict[str, dict[str, Any]]) -> None:
    """And which of its services need it: what is needed is awaited before they start."""
    assert found["data"]["reached"] == []
    at = {each["service"]: (each["host"], each["port"], bool(each["needed_by"])) for each in found["far"]["reached"]}
    assert at == {
        "postgres": ("10.0.0.1", 5432, True),
        "redis": ("10.0.0.1", 6379, True),
        "minio": ("10.0.0.1", 9900, True),
        "ibkr_gateway": ("10.0.0.1", 5055, True),
        "backend": ("10.0.0.2", 8000, False),
        "mlflow": ("10.0.0.2", 5500, False),
        "airflow": ("10.0.0.2", 8080, False),
    }


def test_what_another_host_needs_is_not_published_for_this_one_only(found: dict[str, dict[str, Any]]) -> None:
    """Nothing is published on a name; the variable and who needs what are named."""
    assert found["data"]["problems"] == [] and found["split-apps"]["problems"] == []
    [sentence] = found["split-data"]["problems"]
    assert sentence.startswith(
        "Other hosts (split-apps) need PostgreSQL, MinIO of this host, which is published on 127"
    )
    assert "Set stack_address to an IPv4 address of this host" in sentence


def test_a_host_on_loopback_reaches_loopback() -> None:
    """Where both names in the inventory are one machine."""
    services = {"redis": {"title": "Redis", "address": "127.0.0.1"}}
    assert contracts.unreachable(services, {"redis": ["two"]}, "127.0.0.1") == []


def test_a_host_may_have_several_addresses() -> None:
    """Ansible's way to it need not be the one on which it publishes."""
    services = {"redis": {"title": "Redis", "address": "data.example.com"}}
    assert contracts.unreachable(services, {"redis": ["two"]}, "10.0.0.1") == []


def test_pages_have_one_address(found: dict[str, dict[str, Any]]) -> None:
    """Of this host's containers in the table, of all hosts' among the links."""
    assert [page["title"] for page in found["apps"]["pages"]] == [
        "Application (backend)",
        "Flower",
        "MLflow",
        "Airflow",
    ]
    assert found["far"]["pages"] == []
    links = {page["title"]: page["public_url"] for page in found["far"]["links"]}
    assert links["MinIO console"] == "http://data.example.com:9001/" and links["Flower"] == "http://10.0.0.2:5555/"


def test_the_certificate_is_for_the_gateways_names_on_every_host(found: dict[str, dict[str, Any]]) -> None:
    """Whichever host generates it."""
    names = ["ibkr-gateway", "localhost", "127.0.0.1", "data.example.com", "10.0.0.1"]
    assert [found[host]["tls_names"] for host in HOSTS] == [names] * len(HOSTS)


def test_a_user_of_a_page_is_the_owners(found: dict[str, dict[str, Any]]) -> None:
    """MinIO's root user is a secret, not a name of ours."""
    console = next(page for page in found["data"]["pages"] if page["title"] == "MinIO console")
    assert console["user_secret"] == "minio_root_user" and "user" not in console


def test_metrics_name_the_port_that_answers(found: dict[str, dict[str, Any]]) -> None:
    """On every host, by number; an application of one's own need not have any."""
    metrics = {"backend": {"port": 8000, "path": "/metrics"}}
    flower = {"flower": {"port": 5555, "path": "/metrics", "user": "flower", "secret": "flower_password"}}
    measured = [found[host]["services"]["backend"]["metrics"] for host in ("beta", "bystander")]
    assert measured == [metrics | flower, flower]
    assert [found["apps"]["services"][name]["metrics"] for name in ("backend", "redis")] == [flower, {}]


# ---- the edge

FRONT: dict[str, Any] = {
    "title": "Front",
    "host": "front",
    "processes": {"server": {"group": "front"}},
    "ports": {"https": {"container": 8443, "variable": "front_https_port", "scheme": "https"}},
    "containers": {"front": {}},
    "web": [{"title": "Start page", "container": "front", "port": "https", "when": "{{ front_domain | length > 0 }}"}],
    "provides": ["edge"],
}
LAB: dict[str, Any] = {
    **MINIMAL,
    "needs": ["postgres"],
    "web": [{**PAGE, "identity": "header", "roles": {"viewer": "read"}}, {**PAGE, "title": "Help", "path": "/help"}],
}
STACKS: dict[str, dict[str, Any]] = {
    "laptop": {},
    "server": {"front_domain": "example.org", "front_left_out": ["s3"]},
    "odd-port": {"front_domain": "example.org", "front_https_port": 8443},
}


@pytest.fixture(scope="module")
def edged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Host to what the module returned for it; hosts with an edge of a role of their own, and one that it reaches."""
    directory = tmp_path_factory.mktemp("edge")
    for name, contract in (("front", FRONT), ("notebook", LAB)):
        (directory / "roles" / name / "meta").mkdir(parents=True)
        (directory / "roles" / name / "meta" / "service.yml").write_text(yaml.safe_dump(contract))
    defaults = {"front_domain": "", "front_https_port": 443, "front_left_out": [], "notebook_port": 8888}
    services = ("postgres", "redis", "minio", "ibkr_gateway", "backend", "mlflow", "airflow", "notebook")
    hosts = {
        **{name: {"stack_name": name, **variables} for name, variables in STACKS.items()},
        "door": {"stack_name": "two", "ansible_host": "10.0.0.8"},
        "rooms": {"stack_name": "two", "ansible_host": "10.0.0.9", "stack_publish_address": "10.0.0.9"},
    }
    groups = {group: {"hosts": dict.fromkeys([*STACKS, "rooms"])} for group in services}
    groups["front"] = {"hosts": dict.fromkeys([*STACKS, "door"])}
    shared = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, **defaults}
    (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": shared, "children": groups}}))
    copy = {
        "dest": f"{directory}/{{{{ inventory_hostname }}}}.json",
        "content": "{{ stack_contract | to_json }}",
        "mode": "0600",
    }
    reading = CONTRACTS["quantops.ibkr_stack.service_contracts"]
    task = {**CONTRACTS, "quantops.ibkr_stack.service_contracts": {**reading, "further": ["front", "notebook"]}}
    play = {"hosts": "all", "gather_facts": False, "tasks": [task, {"ansible.builtin.copy": copy}]}
    (directory / "play.yml").write_text(yaml.safe_dump([play]))
    ansible_playbook(directory, "-i", "hosts.yml", "play.yml", ANSIBLE_ROLES_PATH=f"{directory}/roles")
    return {host: json.loads((directory / f"{host}.json").read_text()) for host in hosts}


def test_a_laptop_keeps_the_addresses_of_its_pages(edged: dict[str, dict[str, Any]]) -> None:
    """The edge serves them over plain HTTP, the gateway's too."""
    found = edged["laptop"]
    assert found["problems"] == [] and found["edge"] == "front"
    assert found["origins"] == {
        "app": "http://localhost:8000",
        "flower": "http://localhost:5555",
        "mlflow": "http://localhost:5500",
        "airflow": "http://localhost:8080",
        "minio": "http://localhost:9001",
        "s3": "http://localhost:9000",
        "gateway": "http://localhost:5055",
        "notebook": "http://localhost:8888",
        "notebook-http": "http://localhost:8888",
    }
    assert found["endpoints"]["ibkr_gateway"]["public_url"] == "http://localhost:5055"
    # Programs go on as before.
    assert found["endpoints"]["ibkr_gateway"]["url"] == "https://ibkr-gateway:5055"
    assert found["endpoints"]["postgres"]["public_url"] == "postgresql://localhost:5432"


def test_with_a_domain_each_page_has_a_name(edged: dict[str, dict[str, Any]]) -> None:
    """The start page has the domain's; what is left out is no page; a port other than HTTPS's is in the address."""
    found = edged["server"]
    links = {page["title"]: page["public_url"] for page in found["links"]}
    assert links["Start page"] == "https://example.org/" and "MinIO API" not in links
    assert links["Help"] == "https://notebook-http.example.org/help"
    assert found["endpoints"]["mlflow"]["public_url"] == "https://mlflow.example.org"
    assert edged["odd-port"]["origins"]["airflow"] == "https://airflow.example.org:8443"


def test_only_the_edge_publishes_pages(edged: dict[str, dict[str, Any]]) -> None:
    """Of services that another host reaches, the ports stay; PostgreSQL has no page."""
    hidden = {name: service["hidden_ports"] for name, service in edged["server"]["services"].items()}
    assert hidden == {
        **{"postgres": [], "redis": [], "minio": [9000, 9001], "ibkr_gateway": [5055], "backend": [5555, 8000]},
        **{"mlflow": [5500], "airflow": [8080], "notebook": [8888], "front": []},
    }
    assert not any(service["hidden_ports"] for service in edged["rooms"]["services"].values())


def test_the_edge_reaches_each_page(edged: dict[str, dict[str, Any]]) -> None:
    """By the container's name, or at the published port of another host, which then has to publish it."""
    near = {page["name"]: page["upstream"] for page in edged["laptop"]["links"]}
    assert near["flower"] == "http://flower:5555" and near["gateway"] == "https://ibkr-gateway:5055"
    far = {page["name"]: page["upstream"] for page in edged["door"]["links"]}
    assert far["flower"] == "http://172.28.64.2:5555" and far["airflow"] == "http://172.28.64.2:8080"
    assert edged["rooms"]["exposed"] == ["minio", "ibkr_gateway", "backend", "mlflow", "airflow", "notebook"]


def test_the_edge_starts_last(edged: dict[str, dict[str, Any]]) -> None:
    """Until then, the services hold the ports of their pages."""
    assert edged["laptop"]["waves"][-1] == ["front"]


def test_a_service_that_wants_to_know_who_asks_has_a_secret_for_it(edged: dict[str, dict[str, Any]]) -> None:
    """The edge is its client; without an edge there is no such secret."""
    found = edged["laptop"]
    assert found["secrets"]["edge_notebook_identity"] == "password"
    assert found["services"]["front"]["secret_checkers"]["edge_notebook_identity"] == "notebook"


def test_a_program_that_asks_a_service_has_a_token_of_its_own(edged: dict[str, dict[str, Any]]) -> None:
    """Where an edge lets nobody else in; the service knows its clients and their secrets."""
    found = edged["laptop"]
    clients = {name: f"mlflow_{name}_token" for name in ("backend", "mlflow", "airflow")}
    assert found["tokens"] == {"mlflow": clients}
    assert {found["secrets"][secret] for secret in clients.values()} == {"password"}
    assert found["services"]["airflow"]["secret_checkers"]["mlflow_airflow_token"] == "mlflow"


def test_without_an_edge_nothing_changes(found: dict[str, dict[str, Any]]) -> None:
    """Services publish their own pages, and no secret is generated for it."""
    for contract in found.values():
        assert contract["edge"] == "" and not [name for name in contract["secrets"] if name.startswith("edge_")]
        assert contract["tokens"] == {} and "mlflow_airflow_token" not in contract["secrets"]
        # A vault may still hold it.
        assert contract["secret_kinds"]["mlflow_airflow_token"] == "password"
        assert not any(service["hidden_ports"] for service in contract["services"].values())


def test_two_pages_of_one_name() -> None:
    """Could not be told apart."""
    pages = [{"title": title, "name": "lab", "service": title.lower()} for title in ("Desk", "Lab")]
    services = {page["service"]: {"web": [page], "directory": f"roles/{page['service']}"} for page in pages}
    [sentence] = contracts.page_problems(services)
    assert sentence.startswith("roles/lab/meta/service.yml: the page 'Lab' has the name 'lab' of 'Desk' (desk).")


# ---- what inventories lack

NOBODY = f"The inventory has no host in any of the groups {', '.join(SERVICES)}."


@pytest.mark.parametrize(
    ("groups", "sentences"),
    [
        ({"redis": ["a"]}, []),
        (
            {"airflow_worker": ["a"]},
            ["The inventory has hosts in the group airflow_worker, and none in airflow, which Airflow needs."],
        ),
        (
            {"mlflow": ["a"], "postgres": ["a"]},
            ["MLflow needs MinIO, and the inventory has no host in the group minio."],
        ),
        (
            {"others": ["a"]},
            [NOBODY],
        ),
        (
            {},
            [NOBODY],
        ),
    ],
)
def test_problems_of_an_inventory(groups: dict[str, list[str]], sentences: list[str]) -> None:
    """Each with the group to change."""
    known = {
        name: yaml.safe_load((REPOSITORY / "roles" / name / "meta/service.yml").read_text(encoding="utf-8"))
        for name in SERVICES
    }
    assert contracts.problems(known, contracts.Inventory(groups, "a")) == sentences


def test_groups_with_too_many_hosts() -> None:
    """Hosts of different stacks may share one."""
    groups = {"notebook": ["a", "b"]}
    [sentence] = contracts.oversized_groups({"notebook": MINIMAL}, groups, {"a": "desk", "b": "desk"})
    assert sentence.startswith("The group notebook has the hosts a, b, and this service runs on one")
    assert contracts.oversized_groups({"notebook": MINIMAL}, groups, {"a": "desk", "b": "other"}) == []


# ---- what a role declares against its contract


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"data": {"desk-pages": {"backup": "files"}}}, "the volume 'desk-pages' in 'data', and no container"),
        ({"data": {"desk-pages": {"backup": "files", "when": "{{ 1 == 2 }}"}}}, ""),
        ({"desk_more_port": 8888}, "Port 8888 is published by desk and by desk-more: set desk_more_port or desk_port"),
        ({"desk_overrides": {"desk": {"ports": [{"host": 1, "container": 1}] * 2}}}, "desk publishes port 1 twice"),
    ],
)
def test_a_role_that_does_not_fit_its_contract(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    """Is refused where its containers are planned, also if the role runs alone."""
    role = tmp_path / "roles" / "desk"
    (role / "meta").mkdir(parents=True)
    (role / "vars").mkdir()
    contract = {
        "title": "Desk",
        "host": "desk",
        "processes": {"server": {"group": "desk"}},
        "ports": {
            name: {"container": 80, "variable": f"{name}_port", "scheme": "http"} for name in ("desk", "desk_more")
        },
        "containers": {"desk": {}, "desk-more": {}},
        **{key: value for key, value in change.items() if key == "data"},
    }
    (role / "meta" / "service.yml").write_text(yaml.safe_dump(contract))
    containers = [
        {
            "name": name,
            "image": "example/desk:1",
            "user": "10001:10001",
            "memory": "64m",
            "cpus": 0.1,
            "ports": [{"host": f"{{{{ {name.replace('-', '_')}_port }}}}", "container": 80}],
            "health": {"test": ["CMD", "true"]},
        }
        for name in ("desk", "desk-more")
    ]
    (role / "vars" / "main.yml").write_text(yaml.safe_dump({"desk_containers": containers}))
    tasks = [
        {
            "quantops.ibkr_stack.service_contracts": {"roles": ["desk"]},
            "register": "stack_contract",
        },
        {
            "quantops.ibkr_stack.service_plans": {
                "services": ["desk"],
                "contracts": "{{ stack_contract.services }}",
                "settings": {
                    "stack": "desk", "network": "desk", "config_dir": "/etc/desk", "publish_address": "127.0.0.1",
                    "health_interval": 30, "log_size": "10m", "log_files": 3,
                },
            },
            "register": "planned",
            "ignore_errors": True,
        },
        {"ansible.builtin.copy": {"content": "{{ planned.msg | default('') }}", "dest": f"{tmp_path}/said"}},
    ]  # fmt: skip
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "desk_port": 8888,
        "desk_more_port": 8889,
        **{key: value for key, value in change.items() if key != "data"},
    }
    inventory = {"all": {"children": {"desk": {"hosts": {"here": {}}}}, "vars": variables}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{"hosts": "desk", "gather_facts": False, "tasks": tasks}]))
    ansible_playbook(tmp_path, "-i", "hosts.yml", "play.yml", ANSIBLE_ROLES_PATH=str(tmp_path / "roles"))
    said = (tmp_path / "said").read_text()
    assert sentence in said and bool(sentence) == bool(said), said
