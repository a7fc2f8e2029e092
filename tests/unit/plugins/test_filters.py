"""Images, ports, password verifiers, bucket policies and the check of DAG files."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
import re
import types
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from collection_under_test import REPOSITORY, plugin

containers = plugin("plugin_utils.containers")
credentials = plugin("plugin_utils.credentials")
images = plugin("plugin_utils.images")
networks = plugin("plugin_utils.networks")
plan_checks = plugin("plugin_utils.plan_checks")
settings = plugin("plugin_utils.settings")
source_files = plugin("plugin_utils.source_files")

SETTINGS: dict[str, Any] = {"repository": "desk", "args": {}}


@pytest.fixture
def definitions(tmp_path: Path) -> dict[str, Any]:
    """A base, a child of it, a grandchild with two parents, and one that stands alone."""
    for name in ("base", "python", "app", "alone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Dockerfile").write_text(f"FROM {name}\n")
    return {
        "base": {"context": [str(tmp_path / "base")], "base": {"release": "trixie"}},
        "python": {"context": [str(tmp_path / "python")], "from": ["base"]},
        "app": {"context": [str(tmp_path / "app")], "from": ["python", "base"]},
        "alone": {"context": [str(tmp_path / "alone")]},
    }


def refs(definitions: dict[str, Any], *wanted: str, **settings: Any) -> dict[str, str]:
    """Name to reference of the wanted images and their parents."""
    plans = images.image_plan(definitions, list(wanted), {**SETTINGS, **settings})
    return {plan["name"]: plan["ref"] for plan in plans}


def test_parents_come_first_and_are_build_arguments(definitions: dict[str, Any]) -> None:
    """A build knows its parents' references, and waves never build a child with its parent."""
    plans = {plan["name"]: plan for plan in images.image_plan(definitions, ["app"], SETTINGS)}
    assert list(plans) == ["base", "python", "app"]
    assert [plan["wave"] for plan in plans.values()] == [0, 1, 2]
    assert plans["app"]["parents"] == ["python", "base"]
    assert plans["app"]["args"] == {"PYTHON_IMAGE": plans["python"]["ref"], "BASE_IMAGE": plans["base"]["ref"]}
    assert plans["base"]["ref"].startswith("desk/base:")


def test_a_changed_file_changes_the_image_and_its_children_only(definitions: dict[str, Any]) -> None:
    """The tag is the hash of the build context."""
    before = refs(definitions, "app", "alone")
    Path(definitions["python"]["context"][0], "Dockerfile").write_text("FROM base\nRUN true\n")
    after = refs(definitions, "app", "alone")
    assert {name for name in before if before[name] != after[name]} == {"python", "app"}


@pytest.mark.parametrize(
    "change",
    [{"args": {"X": "1"}}, {"files": {"extra": "x"}}, {"base": {"release": "forky"}}],
    ids=["argument", "file", "base"],
)
def test_what_an_image_is_made_from_changes_its_tag(definitions: dict[str, Any], change: dict[str, Any]) -> None:
    """Arguments, further files and the base's identity are part of an image."""
    before = refs(definitions, "base")
    definitions["base"] |= change
    assert refs(definitions, "base") != before


def test_mirrors_do_not_change_tags_but_reach_builds(definitions: dict[str, Any]) -> None:
    """A mirror brings the same bytes from elsewhere."""
    mirror = {"APT_MIRROR": "http://mirror.example/debian"}
    assert refs(definitions, "app", args=mirror) == refs(definitions, "app")
    plans = images.image_plan(definitions, ["app"], {**SETTINGS, "args": mirror})
    assert all(plan["args"]["APT_MIRROR"] == mirror["APT_MIRROR"] for plan in plans)


def test_later_contexts_lie_over_earlier_ones(definitions: dict[str, Any], tmp_path: Path) -> None:
    """Two directories make one context, and caches are no part of it."""
    over = tmp_path / "over"
    (over / "__pycache__").mkdir(parents=True)
    (over / "Dockerfile").write_text("FROM over\n")
    (over / "__pycache__" / "x.pyc").write_bytes(b"\x00\xff")
    (over / "logo.bin").write_bytes(b"\xff\xfe")
    definitions["alone"]["context"].append(str(over))
    [plan] = images.image_plan(definitions, ["alone"], SETTINGS)
    assert plan["files"] == {"Dockerfile": "FROM over\n", "logo.bin": "base64://4="}


def test_an_undefined_image_and_a_missing_directory_are_named(definitions: dict[str, Any]) -> None:
    """Both errors say what is missing and who wanted it."""
    with pytest.raises(AnsibleFilterError, match=r"image 'nope' \(wanted by a service\) is in no service's 'images'"):
        images.image_plan(definitions, ["nope"], SETTINGS)
    definitions["alone"]["context"] = ["/does/not/exist"]
    with pytest.raises(AnsibleFilterError, match="There is no directory /does/not/exist"):
        images.image_plan(definitions, ["alone"], SETTINGS)
    definitions["alone"] = {"contxt": []}
    with pytest.raises(AnsibleFilterError, match="Did you mean 'context'"):
        images.image_plan(definitions, ["alone"], SETTINGS)


def test_missing_images_bring_their_missing_parents(definitions: dict[str, Any]) -> None:
    """A parent is built only for a child that has to be built."""
    plans = images.image_plan(definitions, ["app", "alone"], SETTINGS)
    ref = {plan["name"]: plan["ref"] for plan in plans}

    def missing(*present: str) -> list[str]:
        chosen = images.image_missing(plans, [ref[name] for name in present], ["app", "alone"])
        return [plan["name"] for plan in chosen]

    assert sorted(missing()) == ["alone", "app", "base", "python"]
    assert missing("app", "alone") == []
    assert missing("base", "python", "alone") == ["app"]
    assert missing("base", "app") == ["alone"]


PLANS = [
    {"name": "desk-web", "service": "web", "spec": {"published_ports": ["127.0.0.1:8080:80"]}},
    {"name": "desk-db", "service": "db", "spec": {"published_ports": []}},
]
VARIABLES = {"web_port": 8080, "other_port": 9090}


def test_a_taken_port_is_explained() -> None:
    """Who holds it, which variable moves it."""
    [sentence] = plan_checks.port_conflicts(
        PLANS, {"8080": [{"address": "127.0.0.1", "process": "nginx (process 7)"}]}, VARIABLES
    )
    assert sentence == (
        "Port 8080, which web publishes, is in use by nginx (process 7). Stop that, or set web_port to a free one."
    )


@pytest.mark.parametrize(
    ("published", "held_at", "taken"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "*", True),
        ("127.0.0.1", "::", False),
        ("127.0.0.1", "::1", False),
        ("0.0.0.0", "127.0.0.2", True),
        ("0.0.0.0", "*", True),
        ("0.0.0.0", "::1", False),
    ],
)
def test_addresses_that_a_port_can_share(published: str, held_at: str, taken: bool) -> None:
    """A wildcard takes every address of its kind, and that of IPv6 may take IPv4 as well."""
    plan = {"name": "desk-web", "service": "web", "spec": {"published_ports": [f"{published}:8080:80"]}}
    found = plan_checks.port_conflicts([plan], {"8080": [{"address": held_at, "process": "nginx"}]}, VARIABLES)
    assert bool(found) is taken


def held(container: str) -> dict[str, str]:
    """What a container's published port looks like."""
    return {"address": "127.0.0.1", "container": container, "process": "docker-proxy"}


def test_a_port_of_the_containers_own_is_no_conflict() -> None:
    """The stack that already runs does not stand in its own way; another container of it does."""
    assert plan_checks.port_conflicts(PLANS, {"8080": [held("desk-web")]}, VARIABLES) == []
    [sentence] = plan_checks.port_conflicts(PLANS, {"8080": [held("desk-old")]}, VARIABLES)
    assert "in use by desk-old" in sentence


def test_a_port_of_a_service_that_left_the_inventory() -> None:
    """Its container stays unless the run is told to remove it; one of a service that is there gives way."""
    [plan, _] = PLANS
    old = {**held("desk-old"), "stack": "desk"}
    assert plan_checks.port_conflicts([plan], {"8080": [old]}, VARIABLES) == []
    [sentence] = plan_checks.port_conflicts([plan], {"8080": [old]}, VARIABLES, ["desk-old"])
    assert sentence.startswith("desk-old holds the ports 8080 of web, and the inventory no longer has its service")
    assert "stack_remove_undeclared=true" in sentence


def test_free_ports_and_others_listeners_are_no_conflict() -> None:
    """Only published ports count."""
    assert plan_checks.port_conflicts(PLANS, {"22": [{"address": "0.0.0.0", "process": "sshd"}]}, VARIABLES) == []


def test_one_port_for_two_containers_is_refused() -> None:
    """Both are named."""
    twice = [*PLANS, {"name": "desk-api", "service": "api", "spec": {"published_ports": ["127.0.0.1:8080:81"]}}]
    [sentence] = plan_checks.port_conflicts(twice, {}, VARIABLES)
    assert sentence == "Port 8080 is published by web and by api: set web_port to a free one."


def test_one_port_twice_in_a_container_is_refused() -> None:
    """The engine's own word is that the port is taken, after the old container is gone."""
    for second, refused in (("127.0.0.1:8080:81", True), ("0.0.0.0:8080:80", True), ("127.0.0.2:8080:80", False)):
        spec = {"published_ports": ["127.0.0.1:8080:80", second]}
        web = {"name": "desk-web", "service": "web", "variable": "web_overrides.web", "spec": spec}
        found = plan_checks.port_conflicts([web], {}, VARIABLES)
        assert [sentence.partition(":")[0] for sentence in found] == [
            "The container web publishes port 8080 twice"
        ] * refused
        assert all("web_overrides.web" in sentence for sentence in found)


# The exchange of RFC 7677, section 3: user "user", password "pencil".
RFC_SALT = "W22ZaJ0SNY7soEsUEjb6gQ=="
RFC_NONCE = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
RFC_MESSAGE = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={RFC_NONCE},s={RFC_SALT},i=4096,c=biws,r={RFC_NONCE}".encode()
RFC_PROOF = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
RFC_SERVER_SIGNATURE = "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_scram_verifier_accepts_the_client_of_rfc_7677(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the RFC's salt, the verifier's keys accept the RFC's client proof and give its server signature."""
    salt = base64.b64decode(RFC_SALT)

    def digest(key: bytes, message: bytes, algorithm: str) -> bytes:
        return salt if message.startswith(b"salt of ") else hmac.digest(key, message, algorithm)

    monkeypatch.setattr(credentials, "hmac", types.SimpleNamespace(digest=digest))
    mechanism, rounds_and_salt, keys = credentials.scram_verifier("pencil", "user").split("$")
    assert (mechanism, rounds_and_salt) == ("SCRAM-SHA-256", f"4096:{RFC_SALT}")
    stored, server = (base64.b64decode(key) for key in keys.split(":"))
    assert base64.b64encode(hmac.digest(server, RFC_MESSAGE, "sha256")).decode() == RFC_SERVER_SIGNATURE
    signature = hmac.digest(stored, RFC_MESSAGE, "sha256")
    client_key = bytes(a ^ b for a, b in zip(base64.b64decode(RFC_PROOF), signature, strict=True))
    assert hashlib.sha256(client_key).digest() == stored


def test_scram_verifier_is_stable_and_tells_passwords_and_roles_apart() -> None:
    """The same input compares equal; the salt is 16 bytes and no part of the password is in it."""
    verifiers = {credentials.scram_verifier(password, role) for password in ("one", "two") for role in ("a", "b")}
    assert len(verifiers) == 4
    assert credentials.scram_verifier("one", "a") == credentials.scram_verifier("one", "a")
    assert all(len(base64.b64decode(each.split("$")[1].split(":")[1])) == 16 for each in verifiers)


def test_bucket_policy_covers_one_bucket() -> None:
    """Its objects, not its settings, nothing elsewhere, and no credentials of the client's own making."""
    allowed, denied = json.loads(credentials.bucket_policy("charts"))["Statement"]
    assert allowed["Effect"] == "Allow"
    assert allowed["Resource"] == ["arn:aws:s3:::charts", "arn:aws:s3:::charts/*"]
    assert not [action for action in allowed["Action"] if "*" in action or "Policy" in action or "Lifecycle" in action]
    assert denied == {"Effect": "Deny", "Action": ["admin:*"]}


def test_python_errors_name_file_line_and_reason() -> None:
    """Only Python files that do not compile are named."""
    files = {"good.py": "x = 1\n", "bad.py": "x = 1\ndef f(:\n", "null.py": "\0", "notes.txt": "def ("}
    bad, null = source_files.python_errors(files)
    assert bad.startswith("bad.py, line 2: ")
    assert null.startswith("null.py, line ")


def test_python_files_are_judged_by_their_bytes(tmp_path: Path) -> None:
    """A byte-order mark and a declared encoding are Python too."""
    (tmp_path / "bom.py").write_bytes(b"\xef\xbb\xbfx = 1\r\n")
    (tmp_path / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\nx = '\xe4'\n")
    (tmp_path / "undeclared.py").write_bytes(b"x = '\xe4'\n")
    [undeclared] = source_files.python_errors(source_files.context_files(str(tmp_path)))
    assert undeclared.startswith("undeclared.py, line ")


def test_the_projects_own_dags_compile() -> None:
    """The files that are delivered pass the preflight's own check."""
    files = source_files.context_files("files/dags")
    assert "daily_strategy_training.py" in files
    assert source_files.python_errors(files) == []


def test_over_replaces_common_keys() -> None:
    """A container's own key replaces the common one whole."""
    assert containers.over({"environment": {"B": 2}}, {"environment": {"A": 1}, "user": "1:1"}) == {
        "environment": {"B": 2},
        "user": "1:1",
    }


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ({"from": 1, "to": 65535}, [1, "8080", 65535], [0, -1, 65536, "many", None, ""]),
        ({"kind": "size", "from": 2**20, "to": "256m"}, ["1m", "256mb", 2**21], ["257m", "1k", "lots", ""]),
        ({"kind": "text", "matches": "[a-z]+"}, ["desk"], ["", "Desk", "desk\n", "a b"]),
        (
            {"kind": "network"},
            ["10.0.0.0/8", "172.29.64.0/27"],
            ["10.0.0.1/8", "10.0.0.0/28", "10.0.0.0", "127.0.0.0/8"],
        ),
        ({"kind": "address"}, ["127.0.0.1", "0.0.0.0"], ["localhost", "::1", "10.0.0.256", ""]),
        ({"kind": "date"}, ["2000-01-01"], ["yesterday", "2000-02-30", None]),
    ],
    ids=lambda value: value.get("kind", "number") if isinstance(value, dict) else "",
)
def test_rules(rule: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    """What can work follows the rule, and what cannot is named with its variable."""
    assert settings.broken_rules({f"v{n}": {**rule, "value": value} for n, value in enumerate(good)}) == []
    for value in bad:
        [sentence] = settings.broken_rules({"some_variable": {**rule, "value": value, "expected": "another"}})
        assert sentence == f"some_variable is {value!r}, expected another."


def test_rules_of_each_item() -> None:
    """Only the items that break the rule are named."""
    rule = {"value": ["AAPL", "ibm"], "each": True, "kind": "text", "matches": "[A-Z]+", "expected": "capital letters"}
    assert settings.broken_rules({"symbols": rule}) == ["symbols is 'ibm', expected capital letters."]


@pytest.mark.parametrize(
    ("log", "named", "other"),
    [
        # As uv 0.13 says it.
        ("cause: Because all versions of ta have no usable wheels and you require ta, we can conclude that your"
         " requirements are unsatisfiable.\nhint: Wheels are required for `ta` because building from source is disabled"
         " for all packages (i.e., with `--no-build`)",
         ("no wheel of ta for", "backend_build.from_source"), "container_image_pip_index"),
        ("Because only ta==0.11.0 has no usable wheels", ("no wheel of ta for",), "container_image_pip_index"),
        ("x.c:1:10: fatal error: libpq-fe.h: No such file or directory", ("backend_build.apt_build",), "from_source"),
        ("error: command 'gcc' failed: No such file or directory", ("backend_build.apt_build",), "from_source"),
        ("error: Failed to fetch https://pypi.example/: timed out", ("container_image_pip_index",), "from_source"),
    ],
)  # fmt: skip
def test_what_to_do_about_a_failed_build(log: str, named: tuple[str, ...], other: str) -> None:
    """What is wrong decides it: mirrors are no remedy for a package without a wheel."""
    said = images.build_remedy(log, "backend_build")
    assert all(each in said for each in named) and other not in said


def test_what_to_do_about_packages_that_do_not_fit() -> None:
    """As uv 0.13 says it; the remedy names the variable that declares the image's packages."""
    log = "error: No solution found when resolving dependencies\n  cause: Because you require numpy<2 and numpy==2.3.5"
    said = images.build_remedy(log, "airflow_build")
    assert "airflow_build.requirements do not fit together, or not with those that Airflow is tested with" in said
    assert "container_image_pip_index" not in said
    assert "airflow_build.from_source" in images.build_remedy("ta has no usable wheels", "airflow_build")


@pytest.mark.parametrize(
    "log",
    ["ta has no usable wheels", "fatal error: a.h: No such file", "No solution found when resolving dependencies"],
)
def test_what_to_do_where_no_variable_declares_packages(log: str) -> None:
    """The image of an operator's own role: no variable of another one is named."""
    said = images.build_remedy(log)
    assert "container_image_pip_index" not in said and "_build" not in said and " ." not in said


def test_dates_without_quotes() -> None:
    """YAML reads a day as a date."""
    rule = {"value": datetime.date(2000, 1, 1), "kind": "date", "expected": "a day"}
    assert settings.broken_rules({"some_day": rule}) == []


def test_overlapping_networks() -> None:
    """Those of others on the same addresses; its own network is none of them."""
    known = {"bridge": ["172.17.0.0/16"], "desk": ["172.29.64.0/24"], "six": ["fd00::/64"], "big": ["172.16.0.0/12"]}
    assert networks.overlapping_networks("172.29.64.0/24", "desk", known) == ["big (172.16.0.0/12)"]


def test_addresses_of_other_machines() -> None:
    """What leads there is told; free addresses are those that neither the host nor the engine uses."""
    held_by = [
        {"subnet": "172.29.64.0/22", "by": "eth0 (route 172.29.64.0/22)"},
        {"subnet": "10.0.0.5", "by": "a connection with 10.0.0.5"},
    ]
    assert networks.occupied_addresses("172.29.66.0/24", held_by) == ["eth0 (route 172.29.64.0/22)"]
    assert networks.occupied_addresses("10.0.0.0/24", held_by) == ["a connection with 10.0.0.5"]
    assert networks.occupied_addresses("172.29.68.0/24", held_by) == []
    assert networks.free_network({"desk": ["172.29.68.0/24"], "six": ["fd00::/64"]}, held_by) == "172.29.69.0/24"
    assert networks.free_network({"all": ["172.16.0.0/12"]}, held_by) == "10.64.0.0/24"


def test_too_many_cores() -> None:
    """The variable that lowers it is named; as many cores as the host has are allowed."""
    plans = [
        {"service": name, "variable": f"desk_overrides.{name}", "spec": {"cpus": cpus}}
        for name, cpus in (("one", 1.0), ("two", 2.0), ("three", 2.5))
    ]
    [sentence] = plan_checks.too_many_cores(plans, 2)
    assert "three is declared with 2.5 cores, and this host has 2" in sentence
    assert "Set 'cpus' in desk_overrides.three to 2 or less" in sentence


def test_a_text_where_a_list_belongs() -> None:
    """It is not taken letter by letter."""
    rule = {"value": "AAPL", "each": True, "kind": "text", "matches": "[A-Z]+", "expected": "capital letters"}
    assert settings.broken_rules({"symbols": rule}) == ["symbols is 'AAPL', expected a list."]


def test_misspelt_variables() -> None:
    """A slip is told with what was meant; a variable of one's own is not, however it begins."""
    own = ["backend_image_tag", "stack_owner", "airflow", "ansible_host", "mlflow_port", "redis_maxmemory"]
    assert settings.misspelt_variables(own) == []
    assert settings.misspelt_variables([*own, "mlfow_port", "airflow_dag_dir"]) == [
        "airflow_dag_dir is not a variable of this collection. Did you mean airflow_dags_dir?",
        "mlfow_port is not a variable of this collection. Did you mean mlflow_port?",
    ]


def test_what_the_roles_set_is_not_taken_for_misspelt() -> None:
    """Facts, results and internal variables of a run are among a host's variables too."""
    names = set()
    for path in (each for top in ("roles", "playbooks", "molecule") for each in (REPOSITORY / top).glob("**/*.yml")):
        names |= set(re.findall(r"^\s*(?:register: )?([a-z][a-z0-9_]*)(?::|$)", path.read_text(), re.MULTILINE))
    assert len(names) > 300 and settings.misspelt_variables(names) == []
