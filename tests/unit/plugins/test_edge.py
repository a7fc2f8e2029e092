"""Users, certificates and pages of the edge, and the containers that follow."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from collection_under_test import CONTRACTS, REPOSITORY, SERVICES, ansible_playbook, plugin, role_of_variables

edge = plugin("plugin_utils.edge")
plan_checks = plugin("plugin_utils.plan_checks")
containers = plugin("plugin_utils.containers")
store = plugin("modules.secret_store")

# ---- users


@pytest.mark.parametrize(
    ("users", "sentence"),
    [
        ([], "edge_users is empty, so that nobody could log in."),
        (["anna"], "edge_users[0] has no valid name"),
        ([{"name": "an/na", "role": "viewer"}], "edge_users[0] has no valid name"),
        # What YAML makes of "no", of nothing, and of 007.
        ([{"name": False, "role": "viewer"}], "edge_users[0] has no valid name"),
        ([{"name": None, "role": "viewer"}], "edge_users[0] has no valid name"),
        ([{"name": 7, "role": "viewer"}], "edge_users[0] has no valid name"),
        (
            [{"name": "anna", "role": "admin", "password": 342391000000}],
            "anna has a number as password. Put it into quo",
        ),
        ([{"name": "anna", "role": "Viewer"}], "edge_users: anna has the role 'Viewer', expected one of viewer, res"),
        ([{"name": "anna"}], "edge_users: anna has the role None"),
        (
            [{"name": "anna", "role": "admin", "mail": "x"}],
            "edge_users: anna has the unknown key 'mail', expected name",
        ),
        (
            [{"name": "anna", "role": "admin"}, {"name": "Anna", "role": "admin"}],
            "edge_users: Anna is there twice; services do not tell",
        ),
        ([{"name": "anna", "role": "admin", "password": "too short"}], "has a password of fewer than 12 characters"),
        ([{"name": "anna", "role": "admin", "password": None}], "has a password of fewer than 12 characters"),
    ],
)
def test_users_that_cannot_be(users: list[Any], sentence: str) -> None:
    """Each is named, and no password is."""
    [found] = edge.edge_user_problems(users)
    assert sentence in found and "too short" not in found


def test_users_without_a_password_get_one() -> None:
    """The others' are in the inventory."""
    users = [{"name": "anna", "role": "admin"}, {"name": "tom", "role": "trader", "password": "a password of his"}]
    assert edge.edge_user_problems(users) == []
    assert edge.edge_user_secrets([*users, {"role": "admin"}]) == {"edge_user_anna_password": "password"}


def test_a_verifier_is_the_same_for_the_same_password() -> None:
    """Otherwise the gate would be made again by every run; it is what the gate computes, with an own salt for each."""
    users = [{"name": name, "role": "admin", "password": "one password for two"} for name in ("anna", "tom")]
    accounts = edge.edge_accounts(users, {})
    assert accounts == edge.edge_accounts(users, {})
    kind, rounds, salt, key = accounts["anna"]["password"].split("$")
    found = hashlib.pbkdf2_hmac("sha256", b"one password for two", base64.b64decode(salt), int(rounds))
    assert (kind, int(rounds)) == ("pbkdf2-sha256", 600_000) and base64.b64decode(key) == found
    assert accounts["tom"]["password"] != accounts["anna"]["password"]


def test_rounds_do_not_tell_whose_password_is_generated() -> None:
    """The time that a login takes would."""
    users = [{"name": "anna", "role": "admin"}, {"name": "tom", "role": "trader", "password": "a password of his"}]
    accounts = edge.edge_accounts(users, {"edge_user_anna_password": "generated"})
    assert [account["password"].split("$")[1] for account in accounts.values()] == ["600000", "600000"]
    accounts = edge.edge_accounts(users[:1], {"edge_user_anna_password": "generated"})
    assert accounts["anna"]["password"].split("$")[1] == "10000"


# ---- a provider's people

SETTINGS = {
    "edge_domain": "", "edge_allow_plain_http": False, "edge_certificate": "", "edge_certificate_key": "",
    "edge_acme_directory": "", "edge_acme_email": "", "edge_acme_ca": "", "stack_publish_address": "127.0.0.1",
    "edge_oidc_issuer": "", "edge_oidc_client_id": "", "edge_oidc_client_secret": "", "edge_oidc_roles": {},
    "edge_oidc_ca": "",
}  # fmt: skip
PROVIDER = {
    "edge_oidc_issuer": "https://login.example.org/realms/desk", "edge_oidc_client_id": "stack",
    "edge_oidc_client_secret": "secret of the client", "edge_oidc_roles": {"admin": {"users": ["Anna@example.org"]}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"edge_oidc_client_secret": ""}, "edge_oidc_issuer is set, and edge_oidc_client_secret is not: they belong"),
        ({"edge_oidc_roles": {}}, "edge_oidc_issuer is set, and edge_oidc_roles is not: they belong together."),
        ({"edge_oidc_issuer": ""}, "edge_oidc_client_id is set, and edge_oidc_issuer is not"),
        ({"edge_oidc_issuer": "http://a.example"}, "edge_oidc_issuer is 'http://a.example', expected a URL with https"),
        ({"edge_oidc_issuer": "https://a.example/?x"}, "expected a URL with https:// and without a query"),
        (
            {"edge_oidc_issuer": "https://a.example/desk/.well-known/openid-configuration"},
            "expected what stands there as issuer: mostly the same without /.well-known/openid-configuration.",
        ),
        ({"edge_oidc_issuer": "https://a b.example"}, "expected a URL with https:// and without a query"),
        ({"edge_oidc_ca": "/nowhere"}, "edge_oidc_ca is /nowhere, which cannot be read"),
        ({"edge_oidc_roles": {"boss": {"users": ["a@b"]}}}, "has the unknown role 'boss', expected viewer, researcher"),
        ({"edge_oidc_roles": {"admin": ["a@b"]}}, "edge_oidc_roles.admin is ['a@b'], expected at least one of users"),
        ({"edge_oidc_roles": {"admin": {}}}, "edge_oidc_roles.admin is {}, expected at least one of users, groups"),
        ({"edge_oidc_roles": {"admin": {"group": ["x"]}}}, "edge_oidc_roles.admin has the unknown key 'group', exp"),
        ({"edge_oidc_roles": {"admin": {"users": "a@b"}}}, "edge_oidc_roles.admin.users is 'a@b', expected a list"),
        ({"edge_oidc_roles": {"admin": {"groups": []}}}, "edge_oidc_roles.admin.groups is [], expected a list"),
        ({"edge_oidc_roles": {"admin": {"users": ["anna"]}}}, "users has 'anna', expected the e-mail address of a per"),
        ({"edge_oidc_roles": {"admin": {"users": ["a@b@c"]}}}, "users has 'a@b@c', expected the e-mail address of a p"),
        ({"edge_oidc_roles": {"admin": {"domains": ["@a.example"]}}}, "domains has '@a.example', expected the domain"),
        ({"edge_oidc_roles": {"admin": {"groups": [7]}}}, "edge_oidc_roles.admin.groups has 7, expected the name of a"),
    ],
)
def test_providers_that_cannot_be(changes: dict[str, Any], sentence: str) -> None:
    """The variable and what is expected are named, and no secret is."""
    [found] = edge.edge_problems(SETTINGS | PROVIDER | changes)
    assert sentence in found and "secret of the client" not in found


def test_a_provider_beside_or_instead_of_users() -> None:
    """Somebody can log in; nobody there is taken for somebody here."""
    issuer = PROVIDER["edge_oidc_issuer"]
    assert edge.edge_problems(SETTINGS | PROVIDER) == [] == edge.edge_user_problems([], issuer)
    users = [{"name": "anna@example.org", "role": "viewer"}]
    assert edge.edge_user_problems(users) == []
    [found] = edge.edge_user_problems(users, issuer)
    assert "edge_users: anna@example.org has the name of a person of https://login.example.org/realms/desk" in found


def test_grants_begin_with_the_most_rights() -> None:
    """The first one of a person counts; addresses are compared in small letters."""
    roles = {
        "viewer": {"domains": ["Example.org"]},
        "admin": {"users": ["Anna@example.org"]},
        "trader": {"groups": ["D"]},
    }
    assert edge.edge_grants(roles) == [
        {"role": "admin", "users": ["anna@example.org"], "groups": [], "domains": []},
        {"role": "trader", "users": [], "groups": ["D"], "domains": []},
        {"role": "viewer", "users": [], "groups": [], "domains": ["example.org"]},
    ]


# ---- how it is reached


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"stack_publish_address": "0.0.0.0"},
            "passwords and cookies would cross the network unencrypted. Set edge_do",
        ),
        ({"edge_acme_directory": "https://acme.example"}, "edge_acme_directory is set, and edge_domain is not"),
        (
            {"edge_domain": "a.example", "edge_acme_email": "a@b"},
            "edge_acme_email is set, and edge_acme_directory is not.",
        ),
        (
            {"edge_domain": "a.example", "edge_certificate": "/x"},
            "edge_certificate is set, and edge_certificate_key is not",
        ),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], sentence: str) -> None:
    """The variable and the remedy are named."""
    [found] = edge.edge_problems(SETTINGS | changes)
    assert sentence in found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stack_publish_address": "0.0.0.0", "edge_allow_plain_http": "true"},
        {"stack_publish_address": "0.0.0.0", "edge_domain": "a.example"},
        {"edge_domain": "a.example", "edge_acme_directory": "https://acme.example", "edge_acme_email": "a@b"},
    ],
)
def test_settings_that_fit(changes: dict[str, Any]) -> None:
    """Loopback, one's own risk, TLS."""
    assert edge.edge_problems(SETTINGS | changes) == []


@pytest.mark.parametrize(
    ("names", "years", "other_key", "sentence"),
    [
        (["a.example", "*.a.example"], 1, False, ""),
        (["a.example"], 1, False, "which is not for *.a.example."),
        (["b.example", "*.b.example"], 1, False, "which is not for a.example and *.a.example."),
        (["a.example", "*.a.example"], 12, False, "which expired on"),
        (["a.example", "*.a.example"], 1, True, "which is the key of another certificate."),
    ],
)
def test_certificates_of_ones_own(tmp_path: Path, names: list[str], years: int, other_key: bool, sentence: str) -> None:
    """One that browsers would refuse is refused before anything changes."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    pem = store.certificate(names)
    certificate.write_text(pem[pem.index("-----BEGIN CERTIFICATE-----") :])
    key.write_text(store.certificate(names) if other_key else pem)
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=365 * (years - 1))
    found = edge.certificate_problems(str(certificate), str(key), "a.example", now)
    assert (sentence in found[0] and len(found) == 1) if sentence else found == []


def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    """Both files are named."""
    (tmp_path / "x").write_text("nothing")
    found = edge.certificate_problems(str(tmp_path / "x"), str(tmp_path / "y"), "a.example", datetime.datetime.now())
    assert "x, which holds no certificate in PEM." in found[0] and "y, which cannot be read" in found[1]


def test_a_page_that_moves_behind_the_edge_is_no_conflict() -> None:
    """The service's container holds the port until it is made again; another stack's, or another program, is one."""
    plans = [{"name": "desk-edge", "service": "edge", "spec": {"published_ports": ["127.0.0.1:8080:8080"]}}]
    held = {"address": "127.0.0.1", "container": "desk-airflow", "process": "docker-proxy", "stack": "desk"}
    assert plan_checks.port_conflicts(plans, {"8080": [held]}, {}) == []
    for other in (
        {**held, "stack": "other"},
        {**held, "stack": "desk-e"},
        {"address": "127.0.0.1", "process": "nginx"},
    ):
        assert len(plan_checks.port_conflicts(plans, {"8080": [other]}, {})) == 1


def test_hidden_ports_are_not_published() -> None:
    """Others of the same container are."""
    declared = {"name": "minio", "ports": [{"host": 1, "container": "9000"}, {"host": 2, "container": 9001}]}
    assert containers.without_ports(declared, [9000])["ports"] == [{"host": 2, "container": 9001}]
    assert containers.without_ports(declared, []) is declared


def test_a_host_asks_its_services_behind_the_edge() -> None:
    """On the containers' network, as nothing is published; without an edge, at the published port."""
    access = plugin("plugin_utils.access")
    services = {"lab": {"ports": {"http": {"container": 8888}}}}
    page = {"name": "lab", "service": "lab", "container": "lab-server", "port": "http", "published": 18888}
    lines = ["desk-lab-server 172.29.64.7/24", "desk-other 172.29.64.8/24", ""]
    assert access.page_addresses([page], services, "127.0.0.1", "desk", lines) == {"lab": "172.29.64.7:8888"}
    assert access.page_addresses([page], services, "127.0.0.1") == {"lab": "127.0.0.1:18888"}


# ---- the containers

KEY = "-----BEGIN PRIVATE KEY-----\nxyz\n-----END PRIVATE KEY-----\n"
CONTAINERS = "{{ {'containers': edge_containers, 'contract': stack_contract} | to_json }}"


def rendered(directory: Path, **variables: Any) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The edge's containers, as Ansible renders them from the role's own defaults and variables, and the contracts."""
    role = role_of_variables(directory, "edge")
    (role / "templates").symlink_to(REPOSITORY / "roles" / "edge" / "templates")
    further = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "secrets": {
            "edge_user_admin_password": "AdminPassword",
            "edge_airflow_identity": "AirflowHeader",
            "edge_backend_identity": "BackendHeader",
            "edge_mlflow_identity": "MlflowHeader",
            "ibkr_gateway_tls": f"{KEY}-----BEGIN CERTIFICATE-----\nabc",
        },
        "container_image_refs": {"edge": "stack/edge:abc"},
    }
    groups = {group: {"hosts": {"desk": None}} for group in (*SERVICES, "edge")}
    inventory = {"all": {"hosts": {"desk": {}}, "children": groups, "vars": further | variables}}
    (directory / "inventory.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))
    reading = CONTRACTS["quantops.ibkr_stack.service_contracts"]
    contracts = {
        **CONTRACTS,
        "quantops.ibkr_stack.service_contracts": {"roles": [*reading["roles"], "quantops.ibkr_stack.edge"]},
    }
    copy = {"ansible.builtin.copy": {"content": CONTAINERS, "dest": f"{directory}/found.json", "mode": "0600"}}
    (role / "tasks").mkdir()
    (role / "tasks" / "main.yml").write_text(yaml.safe_dump([contracts, copy]))
    play = {"hosts": "desk", "gather_facts": False, "roles": ["case"]}
    (directory / "play.yml").write_text(yaml.safe_dump([play]))
    ansible_playbook(directory, "-i", "inventory.yml", "play.yml")
    found = json.loads((directory / "found.json").read_text())
    return {each["name"]: each for each in found["containers"]}, found["contract"]


Rendered = tuple[dict[str, dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """Without a domain; one page is at a port that only root may open."""
    return rendered(tmp_path_factory.mktemp("laptop"), mlflow_port=500)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """With a domain."""
    return rendered(tmp_path_factory.mktemp("server"), edge_domain="desk.example", edge_https_port=8443, **PROVIDER)


def test_on_a_laptop_each_page_has_its_port(laptop: Rendered) -> None:
    """Those of the services' variables, and no others; the container opens none below 1024."""
    ports = {int(port["host"]): int(port["container"]) for port in laptop[0]["edge"]["ports"]}
    assert ports == {8000: 8000, 5555: 5555, 500: 60500, 8080: 8080, 9001: 9001, 9000: 9000, 5055: 5055}
    caddyfile = laptop[0]["edge"]["secrets"]["Caddyfile"]
    assert all(f"\nhttp://:{port} {{" in caddyfile for port in ports.values())
    assert "https://" not in caddyfile.replace("https://ibkr-gateway:5055", "") and "Strict-Transport" not in caddyfile
    assert {page["title"]: page["public_url"] for page in laptop[1]["links"]}["Start page"] == (
        "http://localhost:8000/.edge/"
    )


def test_no_cookie_reaches_a_page_that_checks_requests_itself(laptop: Rendered) -> None:
    """A browser sends the edge's to every page of the host or domain."""
    caddyfile = laptop[0]["edge"]["secrets"]["Caddyfile"]
    [site] = [site for site in caddyfile.split("\nhttp://:") if site.startswith("9000 {")]
    assert "import gate" not in site and "request_header -Cookie\n" in site


def test_with_a_domain_two_ports_are_published(server: Rendered) -> None:
    """Of HTTPS, and of HTTP, which leads there; what is left out is no site."""
    assert [int(port["host"]) for port in server[0]["edge"]["ports"]] == [8443, 80]
    caddyfile = server[0]["edge"]["secrets"]["Caddyfile"]
    assert "\nhttps://mlflow.desk.example {" in caddyfile and "\nhttps://desk.example {" in caddyfile
    assert "redir https://{host}:8443{uri} 308" in caddyfile and "s3.desk.example" not in caddyfile


def test_pages_stay_behind_the_edge_when_it_is_taken_away(tmp_path: Path) -> None:
    """The group alone is not enough, where the others would publish their pages for everybody."""
    groups = {group: {"hosts": {"desk": None}} for group in ("postgres", "minio", "mlflow")}
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "edge_domain": "desk.example",
    }
    check = {"name": "quantops.ibkr_stack.stack", "tasks_from": "check"}
    play = {"hosts": "desk", "gather_facts": False, "roles": ["quantops.ibkr_stack.stack"]}
    play["tasks"] = [
        {
            "block": [{"ansible.builtin.include_role": check}],
            "rescue": [{"ansible.builtin.debug": {"msg": "REFUSED {{ ansible_failed_result.msg }}"}}],
        }
    ]
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))

    def refused(address: str, *edges: str) -> bool:
        children = groups | {name: {"hosts": {"desk": None}} for name in edges}
        inventory = {"all": {"vars": variables | {"stack_publish_address": address}, "children": children}}
        (tmp_path / "inventory.yml").write_text(yaml.safe_dump(inventory))
        printed = ansible_playbook(tmp_path, "-i", "inventory.yml", "play.yml")
        assert ("REFUSED" in printed) == ("no host is in the group edge" in printed), printed
        return "REFUSED" in printed

    assert refused("0.0.0.0")
    assert not refused("127.0.0.1") and not refused("0.0.0.0", "edge")


def test_the_gate_knows_verifiers_and_no_passwords(server: Rendered) -> None:
    """Nor does anything else in a container."""
    gate = json.loads(server[0]["edge-gate"]["secrets"]["gate.json"])
    assert gate["users"]["admin"]["password"].startswith("pbkdf2-sha256$10000$")
    assert "AdminPassword" not in json.dumps(server[0])


def test_the_gate_knows_the_provider(server: Rendered, laptop: Rendered) -> None:
    """And the one address to which it sends people back."""
    found = json.loads(server[0]["edge-gate"]["secrets"]["gate.json"])["oidc"]
    assert found["origin"] == "https://desk.example:8443" and found["client_secret"] == "secret of the client"
    assert found["grants"][0]["users"] == ["anna@example.org"] and found["ca"] == ""
    assert json.loads(laptop[0]["edge-gate"]["secrets"]["gate.json"])["oidc"] is None


def test_every_page_is_known_to_the_gate(server: Rendered) -> None:
    """With the roles of its contract; what names none is for administrators."""
    gate = json.loads(server[0]["edge-gate"]["secrets"]["gate.json"])
    found = {page["name"]: page for page in gate["pages"]}
    assert set(found) == {"app", "flower", "mlflow", "airflow", "minio", "gateway"}
    assert found["flower"]["roles"] == found["minio"]["roles"] == {"admin": "write"}
    assert found["mlflow"]["roles"]["viewer"] == "read" and found["mlflow"]["read_paths"]
    assert edge.edge_pages([{**server[1]["links"][0], "roles": None}])[0]["roles"] == {"admin": "write"}


def test_the_gateways_certificate_is_verified(server: Rendered) -> None:
    """By the stack's own, without its key."""
    assert server[0]["edge"]["secrets"]["gateway.pem"] == "-----BEGIN CERTIFICATE-----\nabc"
    assert "tls_server_name ibkr-gateway" in server[0]["edge"]["secrets"]["Caddyfile"]


def test_who_asks_is_in_a_header_with_a_secret_name() -> None:
    """Only of a service that says so in its contract."""
    page = {
        "name": "lab", "service": "lab", "container": "lab", "origin": "https://lab.desk.example", "published": 8888,
        "upstream": "http://lab:8888",
    }  # fmt: skip
    secrets = {"edge_lab_identity": "Secret"}
    [site] = edge.edge_sites([page], "desk.example", secrets)
    assert site["identity"] == "" and site["address"] == "https://lab.desk.example"
    [site] = edge.edge_sites([{**page, "identity": "header"}], "desk.example", secrets)
    assert site["identity"] == "Secret" and site["login"] == ""


def test_the_edge_logs_in_where_a_page_only_knows_a_password() -> None:
    """The page's own; nobody is named to it."""
    page = {
        "name": "lab", "service": "lab", "container": "lab", "origin": "https://lab.desk.example", "published": 8888,
        "upstream": "http://lab:8888", "identity": "login", "user": "lab", "secret": "lab_password",
    }  # fmt: skip
    [site] = edge.edge_sites([page], "desk.example", {"lab_password": "open"})
    assert site["identity"] == "" and site["login"] == "bGFiOm9wZW4="


def test_pages_that_share_a_port_are_one_site() -> None:
    """The first one's rules count."""
    page = {"service": "lab", "container": "lab", "origin": "http://localhost:8888", "published": 8888, "upstream": "x"}
    sites = edge.edge_sites([{**page, "name": "lab"}, {**page, "name": "lab-help"}], "", {})
    assert [site["page"] for site in sites] == ["lab"]
