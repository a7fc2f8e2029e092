"""What is measured, shown and alerted on, from the contracts of the services."""

from __future__ import annotations

import base64
import hmac
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible.template import trust_as_template
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


def test_pages_are_opened_through_the_edge_too() -> None:
    """Under the name that its certificate is for, by the host that runs it; without TLS there is none to look at."""
    page = {**NOTEBOOK["web"][0], "origin": "https://notebook.desk.example:8443"}
    front = {"title": "Start page", "container": "edge", "port": "https", "origin": "https://desk.example:8443"}
    edge = {
        **{"active": True, "ports": NOTEBOOK["ports"], "containers": {"edge": {"here": True}}, "metrics": {}},
        "web": [front],
    }
    services = {"notebook": {**NOTEBOOK, "active": True, "web": [page]}, "edge": edge}

    def probed(here: list[str]) -> dict[str, tuple[str, str | None]]:
        config = monitoring.monitoring_scrape(services, here, {}, 30, "edge")["config"]
        pages = next(job for job in config["scrape_configs"] if job["job_name"] == "pages")["static_configs"]
        return {each["labels"]["page"]: (each["targets"][0], each["labels"].get("__param_hostname")) for each in pages}

    there = {"Notebook": ("http://notebook:8888/health", None)}
    assert probed(["notebook"]) == there
    assert probed(["notebook", "edge"]) == {
        **there,
        "Notebook at the edge": ("https://edge:8443/", "notebook.desk.example"),
        "Start page at the edge": ("https://edge:8443/", "desk.example"),
    }
    page["origin"] = front["origin"] = "http://desk.example:8888"
    assert probed(["notebook", "edge"]) == there


def test_passwords_are_in_files() -> None:
    """The configuration names them."""
    locked = {**NOTEBOOK, "metrics": {"notebook": {"port": 8888, "path": "/m", "user": "me", "secret": "pass_word"}}}
    found = scrape(locked, pass_word="hidden")
    assert found["secrets"] == {"pass_word": "hidden"} and "hidden" not in json.dumps(found["config"])
    assert found["config"]["scrape_configs"][0]["basic_auth"] == {
        "username": "me", "password_file": "/run/secrets/pass_word",
    }  # fmt: skip


def test_a_token_of_minio_is_signed_with_the_password() -> None:
    """As RFC 7519 says, and the same each time."""
    head, claims, signature = monitoring.signed_token("hidden", "monitoring").split(".")
    assert json.loads(base64.urlsafe_b64decode(claims + "==")) == {
        "exp": 4102444800, "sub": "monitoring", "iss": "prometheus",
    }  # fmt: skip
    expected = hmac.digest(b"hidden", f"{head}.{claims}".encode(), "sha512")
    assert base64.urlsafe_b64decode(signature + "==") == expected


# ---- alerts and dashboards

ROLES = {path.parts[-3]: path.parents[1] for path in REPOSITORY.glob("roles/*/meta/service.yml")}
ALL = {
    name: {"directory": str(directory), "title": name, "web": [], "name": name, "containers": {}}
    for name, directory in ROLES.items()
}


def alerts_of(services: dict[str, dict[str, Any]], changes: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """The rules of all alerts by their names."""
    files = monitoring.monitoring_alerts(
        services, list(services), changes or {}, "https://book", "http://pages", ["w1"], 30
    )
    groups = [group for text in files.values() for group in yaml.safe_load(text)["groups"]]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def test_every_alert_has_a_section_of_the_runbook() -> None:
    """And the runbook has no others."""
    text = (REPOSITORY / "docs/runbook.md").read_text(encoding="utf-8")
    sections = re.findall("^### (.+)$", text, flags=re.MULTILINE)
    rules = alerts_of(ALL)
    assert sorted(sections) == sorted(rules)
    assert rules["HostDown"]["annotations"]["runbook"] == "https://book#hostdown"


def test_the_containers_of_the_inventory_are_known() -> None:
    """To the rules, on each host of their process; jobs end, and are not."""
    entries = {"web": {"job": False, "process": "api"}, "worker": {"job": False, "process": "worker"}}
    desk = {
        **{**ALL["redis"], "containers": {**entries, "migrate": {"job": True, "process": "api"}}},
        "processes": {"api": {"hosts": ["w1"]}, "worker": {"hosts": ["w1", "w2"]}},
    }
    files = monitoring.monitoring_alerts({"desk": desk}, ["desk"], {}, "https://book", "http://pages", ["w1", "w2"], 30)
    [group] = yaml.safe_load(files["stack.yml"])["groups"]
    [expr] = [rule["expr"] for rule in group["rules"] if rule["record"] == "stack_container"]
    assert re.findall('"host", "(.+?)", "service", "desk", "container", "(.+?)"', expr) == [
        *(("w1", "web"), ("w1", "worker"), ("w2", "worker")),
    ]


def test_the_hosts_of_the_inventory_are_known() -> None:
    """To the rules, whether anything is heard of them or not."""
    files = monitoring.monitoring_alerts(ALL, [], {}, "https://book", "http://pages", ["w1", "w2"], 30)
    [group] = yaml.safe_load(files["stack.yml"])["groups"]
    hosts = [rule["labels"]["host"] for rule in group["rules"] if rule["record"] == "stack_host"]
    assert hosts == ["w1", "w2"]


def test_changes_of_an_inventory() -> None:
    """Ansible attaches to its texts where they are from."""
    texts = {"expr": "sum(up)", "severity": "info", "summary": "x", "meaning": "x", "remedy": "x"}
    mine = {key: trust_as_template(text) for key, text in texts.items()}
    rules = alerts_of(ALL, {"Mine": mine, "HostDiskFull": {"for": trust_as_template("10m")}})
    assert (rules["Mine"]["expr"], rules["HostDiskFull"]["for"]) == ("sum(up)", "10m")


def test_each_alert_has_a_fault_that_raises_it() -> None:
    """And series that do not, for the test with vmalert in the scenario."""
    cases = yaml.safe_load((REPOSITORY / "tests" / "alerts.yml").read_text())
    assert set(cases) == set(alerts_of(ALL))
    assert [name for name, case in cases.items() if not case.get("fires")] == []
    assert [name for name, case in cases.items() if not case.get("quiet")] == []


def test_an_alert_leads_to_lines_of_logs() -> None:
    """Of its container, whose name is escaped once it is known."""
    address = alerts_of(ALL)["ContainerDown"]["annotations"]["logs"]
    assert address.startswith(
        "http://pages/select/vmui/#/?query=container%3A%3D%22{{ ( $labels.container ) | queryEscape }}%22+"
    )
    assert address.endswith("&g0.range_input=24h&g0.relative_time=last_24_hours")
    assert "logs" not in alerts_of(ALL)["HostDown"]["annotations"]
    assert "{{ with .Annotations.logs }}" in monitoring.TEXT


def test_the_runbook_is_where_the_collection_says() -> None:
    """Messages are read elsewhere than in a clone."""
    galaxy = yaml.safe_load((REPOSITORY / "galaxy.yml").read_text())
    defaults = yaml.safe_load((REPOSITORY / "roles/monitoring/defaults/main.yml").read_text())
    assert defaults["monitoring_runbook_url"] == galaxy["documentation"].replace("/tree/", "/blob/") + "/runbook.md"


def test_alerts_are_changed_left_out_and_added() -> None:
    """By the inventory."""
    mine = {"expr": "up == 0", "severity": "info", "summary": "s", "meaning": "m", "remedy": "r"}
    rules = alerts_of(ALL, {"HostDiskFull": {"for": "10m"}, "QueueWaits": {"off": True}, "Mine": mine})
    assert rules["HostDiskFull"]["for"] == "10m" and "node_filesystem" in rules["HostDiskFull"]["expr"]
    assert "QueueWaits" not in rules and rules["Mine"]["labels"] == {"severity": "info"}


@pytest.mark.parametrize(
    ("text", "there"), [("off: true", False), ("off: yes", False), ("'off': true", False), ("off: false", True)]
)
def test_an_alert_that_yaml_leaves_out(text: str, there: bool) -> None:
    """To YAML, the key is the word for false."""
    assert ("QueueWaits" in alerts_of(ALL, yaml.safe_load(f"QueueWaits: {{{text}}}"))) is there


def test_a_change_to_an_alert_of_a_service_that_is_not_there() -> None:
    """Is kept for the day when it is."""
    changes = {"QueueWaits": {"off": True}, "TasksFail": {"for": "1h"}}
    files = monitoring.monitoring_alerts(ALL, ["redis"], changes, "https://book", "http://pages", ["w1"], 30)
    assert set(files) == {"redis.yml", "stack.yml"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"Mine": {"expr": "up"}}, "monitoring_alerts: the alert 'Mine' has no 'severity'"),
        (
            {"QueueWait": {"off": True}},
            "monitoring_alerts: there is no alert of the name 'QueueWait' to change. Did you",
        ),
        ({"QueueWait": {False: True}}, "Did you mean 'QueueWaits'?"),
        ({"hostDiskFull": {"for": "10m"}}, "Did you mean 'HostDiskFull'?"),
        ({"Mine": None}, "no alert of the name 'Mine' to change. A further one has 'expr'"),
        ({"HostDiskFull": {"fore": "10m"}}, "alert 'HostDiskFull' has the unknown key 'fore'. Did you mean 'for'"),
        ({"HostDiskFull": "10m"}, "monitoring_alerts: 'HostDiskFull' is no dictionary of keys such as 'for'."),
        ({"HostDiskFull": {"severity": "fatal"}}, "'severity' of the alert 'HostDiskFull' is 'fatal', expected one of"),
    ],
)
def test_alerts_that_cannot_be(change: dict[str, Any], sentence: str) -> None:
    """The place and what is expected."""
    with pytest.raises(AnsibleFilterError, match=re.escape(sentence)):
        alerts_of(ALL, change)


def test_a_service_of_a_collection_of_ones_own(tmp_path: Path) -> None:
    """Has a row, and its own alerts and dashboard, found by their names."""
    (tmp_path / "files").mkdir()
    own = {"CatalogueOld": {"expr": "x", "severity": "info", "summary": "s", "meaning": "m", "remedy": "r"}}
    (tmp_path / "files" / "alerts.yml").write_text(yaml.safe_dump(own))
    panel = {"title": "Age", "expr": "time() - x", "unit": "s"}
    board = {"title": "Catalogue", "rows": [{"title": "Age", "panels": [panel]}]}
    (tmp_path / "files" / "dashboard.yml").write_text(yaml.safe_dump(board))
    services = {
        "catalogue": {**ALL["redis"], "directory": str(tmp_path), "title": "Catalogue", "web": [{"title": "x"}]}
    }
    assert set(alerts_of(services)) == {"CatalogueOld"}
    boards = monitoring.monitoring_dashboards(services, ["catalogue"], [])
    assert list(boards) == ["01-services.json", "02-catalogue.json"]
    assert json.loads(boards["02-catalogue.json"])["rows"][0]["panels"][0]["expr"] == ["time() - x"]
    assert 'service=\\"catalogue\\"' in boards["01-services.json"]


# ---- receivers

MAIL = {"name": "mail", "kind": "email", "to": "a@desk.example", "from": "b@desk.example", "server": "smtp:25"}


@pytest.mark.parametrize(
    ("receivers", "sentence"),
    [
        (["mail"], "entry 1 is no dictionary"),
        ([{"kind": "email"}], "entry 1 has no 'name'"),
        ([MAIL, MAIL], "mail is the name of another receiver"),
        ([{"name": "x", "kind": "fax"}], "x has another 'kind' than email, slack"),
        ([{"name": "x", "kind": "telegram", "token": "hidden"}], "of the kind telegram, and has no 'chat'"),
        ([{**MAIL, "sever": "hidden"}], "mail has the unknown key 'sever'"),
        ([{"name": "x", "kind": ["fax"]}], "x has another 'kind' than email, slack"),
        ([{"name": "x", "kind": "slack", "url": "hidden"}], "x has a 'url' that is none"),
        ([{"name": "x", "kind": "slack", "url": "https://hidden:99999/"}], "x has a 'url' that is none"),
        ([{"name": "x", "kind": "slack", "url": "https://[hidden"}], "x has a 'url' that is none"),
        ([{"name": "x", "kind": "slack", "url": "https://hidden/\nb"}], "x has a 'url' that is none"),
        ([{"name": "x", "kind": "slack", "url": "https://hidden/%zz"}], "x has a 'url' that is none"),
        ([{"name": "x", "kind": "slack", "url": "https:///hidden"}], "x has a 'url' that is none"),
        (
            [{"name": "x", "kind": "webhook", "url": "https://x", "token": "hidden\nb"}],
            "x has a 'token' that is no line",
        ),
        ([{**MAIL, "to": ["hidden@desk.example"]}], "mail has a 'to' that is no line"),
        ([{**MAIL, "to": "hidden"}], "mail has a 'to' that is no address"),
        ([{**MAIL, "from": "hidden"}], "mail has a 'from' that is no address"),
        ([{**MAIL, "user": "hidden"}], "mail has one of 'user' and 'password' without the other"),
        ([{**MAIL, "password": "hidden"}], "mail has one of 'user' and 'password' without the other"),
        ([{**MAIL, "server": "hidden:65536"}], "mail has a 'server' without a port"),
        ([{"name": "x", "kind": "telegram", "token": "t", "chat": "hidden"}], "x has a 'chat' that is no number. Give"),
        ([{**MAIL, "server": "hidden"}], "mail has a 'server' without a port. Give host and port"),
        ([{**MAIL, "server": "hidden:smtp"}], "mail has a 'server' without a port"),
        ([{**MAIL, "severity": "fatal"}], "mail has another 'severity' than critical"),
    ],
)
def test_receivers_that_cannot_be(receivers: list[Any], sentence: str) -> None:
    """Without their values."""
    found = monitoring.receiver_problems(receivers, "")
    assert any(sentence in each for each in found) and "hidden" not in str(found)


@pytest.mark.parametrize(
    "url",
    ["hidden.example/x", "ftp://hidden", "https://hidden\n", "https://hidden/ x", 'https://"hidden"', "http://{hidden"],
)
def test_calls_of_the_watchdog_that_cannot_be(url: str) -> None:
    """Without the value, which often is a secret."""
    [found] = monitoring.receiver_problems([], url)
    assert found.startswith("monitoring_watchdog_url is none") and "hidden" not in found


def test_each_receiver_is_told_what_it_wants() -> None:
    """Its severity and above; all of those that fit, and the watchdog's URL of nothing but that it works."""
    phone = {"name": "phone", "kind": "telegram", "token": "t", "chat": "-100", "severity": "critical"}
    six = {**MAIL, "name": "six", "server": "[2001:db8::1]:587"}
    desks = {**MAIL, "name": "desks", "to": "Desk <a@desk.example>, b@desk.example", "user": "u", "password": 7}
    hook = {"name": "hook", "kind": "webhook", "url": "http://u:p@[2001:db8::1]:80/a?b=%20{c}&d='e'#f", "token": "t"}
    all_of_them = [MAIL, phone, six, desks, hook, {**phone, "name": "other", "chat": 12}]
    assert monitoring.receiver_problems(all_of_them, "https://dog.example/uuid") == []
    settings = monitoring.alertmanager_settings([MAIL, phone], "https://dog.example", "desk")
    watchdog, mail, told = settings["route"]["routes"]
    assert watchdog["matchers"] == ['alertname="Watchdog"'] and "continue" not in watchdog
    assert mail["matchers"] == ['severity=~"critical|warning"'] and mail["continue"]
    assert told["matchers"] == ['severity=~"critical"']
    receivers = {each["name"]: each for each in settings["receivers"]}
    assert receivers["phone"]["telegram_configs"][0]["chat_id"] == -100
    assert receivers["mail"]["email_configs"][0]["require_tls"] is True
    assert receivers["mail"]["email_configs"][0]["headers"]["Subject"].startswith("[desk] {{")
    assert receivers["phone"]["telegram_configs"][0]["message"].startswith("[desk] {{")
    assert settings["route"]["group_by"] == ["alertname", "test"]
    assert receivers["watchdog"]["webhook_configs"][0]["url"] == "https://dog.example"


@pytest.mark.parametrize("kind", ["slack", "discord", "webhook"])
def test_a_redirection_is_a_failure(kind: str) -> None:
    """It would be followed without the message. The login stays."""
    hook = {"name": "hook", "kind": kind, "url": "http://x", **({"token": "t"} if kind == "webhook" else {})}
    [_nobody, _watchdog, told] = monitoring.alertmanager_settings([hook], "", "desk")["receivers"]
    http = told[f"{kind}_configs"][0]["http_config"]
    assert http["follow_redirects"] is False and http.get("authorization") == (
        {"credentials": "t"} if kind == "webhook" else None
    )


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
                "monitoring_send_password",
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


def test_logs_go_through_the_same_door(two: dict[str, dict[str, Any]]) -> None:
    """From the agent that knows whose lines they are, named by their host."""
    for host, door in (("watch", "monitoring"), ("desk", "watch.example")):
        command = two[host]["containers"]["container-agent"]["command"]
        fields = "_stream_fields=host,service,container,stream"
        assert {f"-host={host}", f"-logs=http://{door}:8427/insert/jsonline?{fields}"} <= set(command)
        assert "-remoteWrite.url=http://container-agent:9180/logs" in two[host]["containers"]["vlagent"]["command"]


def test_whoever_asks_a_program_needs_a_login(two: dict[str, dict[str, Any]]) -> None:
    """On the network of the containers too; who reads its figures has it, as a file."""
    locked = {"victoria-metrics", "victoria-logs", "vmalert", "alertmanager", "vmagent", "vlagent"}
    for host in two.values():
        scraped = yaml.safe_load(
            host["containers"]["vmagent"]["reloadable_files"]["monitoring-scrape"]["files"]["scrape.yml"]
        )
        jobs = {job["job_name"]: job for job in scraped["scrape_configs"]}
        for name in locked & set(host["containers"]):
            container = host["containers"][name]
            words = [*container["command"], *container.get("files", {}).values()]
            assert any("-httpAuth.password=file://" in word or "--web.config.file=" in word for word in words), name
            assert jobs[name]["basic_auth"]["password_file"].startswith("/run/secrets/"), name


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


def test_every_container_can_be_planned(two: dict[str, dict[str, Any]]) -> None:
    """And none runs as root, or writes on the host, but those that read what is root's."""
    settings = {
        "stack": "desk", "network": "desk", "config_dir": "/etc/quantops/desk", "publish_address": "127.0.0.1",
        "health_interval": 60, "log_size": "10m", "log_files": 3,
    }  # fmt: skip
    for found in two.values():
        declared = [{**each, "kind": "service"} for each in found["containers"].values()]
        plans = plugin("plugin_utils.containers").container_plan(declared, settings)
        root = {plan["service"] for plan in plans if plan["spec"]["user"].startswith("0:")}
        assert root <= {"container-agent", "vlagent"}
        assert all(plan["spec"]["read_only"] for plan in plans)
