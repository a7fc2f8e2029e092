# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is measured, shown and alerted on, from the contracts of the services."""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlsplit

import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.contracts import is_true
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.settings import did_you_mean, fits_rule, unknown_keys

#: Where the agents find the exporter that opens pages.
PROBER = "blackbox-exporter:9115"
#: When signed tokens expire: a change of the secret ends them before.
END_OF_TIME = 4102444800
#: Longest time that an answer may take, in seconds.
PATIENCE = 10


def _metrics_job(container: str, service: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Write the job that reads what a container exposes."""
    job: dict[str, Any] = {"job_name": container, "metrics_path": entry["path"]}
    if entry.get("scheme", "http") != "http":
        # A certificate of the stack's own is for the names of its service, and not of its container.
        job |= {"scheme": entry["scheme"], "tls_config": {"insecure_skip_verify": True}}
    if entry.get("secret") and entry.get("signed"):
        job["authorization"] = {"credentials_file": f"/run/secrets/{entry['secret']}"}
    elif entry.get("secret"):
        path = f"/run/secrets/{entry['secret']}"
        job["basic_auth"] = {"username": entry.get("user") or service, "password_file": path}
    if entry.get("token"):
        job["authorization"] = {"credentials_file": f"/run/secrets/{entry['token']}"}
    if entry.get("own_labels"):
        # What it says of other containers is theirs.
        job["honor_labels"] = True
    labels = {"service": service, "container": container}
    return {**job, "static_configs": [{"targets": [f"{container}:{entry['port']}"], "labels": labels}]}


def _page_address(page: Mapping[str, Any], ports: Mapping[str, Mapping[str, Any]]) -> str:
    """Say where a page answers on the stack's network, without a login."""
    port = ports[page["port"]]
    return f"{port['scheme']}://{page['container']}:{port['container']}{page.get('check') or page.get('path') or '/'}"


def _edge_pages(services: Mapping[str, Mapping[str, Any]], edge: str) -> list[dict[str, Any]]:
    """List the pages as browsers reach them, where the edge has a certificate for the name of each."""
    [front] = services[edge]["web"]
    address = f"https://{front['container']}:{services[edge]['ports'][front['port']]['container']}/"
    return [
        {
            "targets": [address],
            "labels": {
                **{"service": edge, "container": front["container"], "page": f"{page['title']} at the edge"},
                "__param_hostname": urlsplit(page["origin"]).hostname,
            },
        }
        for service in services.values()
        for page in service["web"]
        if service["active"] and urlsplit(page["origin"]).scheme == "https"
    ]


def signed_token(secret: str, user: str) -> str:
    """Write the token with which a user of MinIO reads its figures, which is valid for as long as the secret.

    Args:
        secret: Password of the user, with which the token is signed.
        user: Name of the user.

    Returns:
        A JSON Web Token. Source: what ``mc admin prometheus generate`` writes; RFC 7519.
    """

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    claims = {"exp": END_OF_TIME, "sub": user, "iss": "prometheus"}
    text = ".".join(part(json.dumps(each).encode()) for each in ({"alg": "HS512", "typ": "JWT"}, claims))
    return f"{text}.{part(hmac.digest(secret.encode(), text.encode(), 'sha512'))}"


def monitoring_scrape(
    services: Mapping[str, Mapping[str, Any]],
    here: Iterable[str],
    secrets: Mapping[str, str],
    interval: int,
    edge: str = "",
) -> dict[str, Any]:
    """Say what the agent of a host measures there.

    Args:
        services: Service to its contract without templates.
        here: Services of which the host runs a process.
        secrets: The stack's secrets.
        interval: How often, in seconds.
        edge: Service in front of all pages. With a domain, its host also opens each page through it.

    Returns:
        ``config``, of vmagent in Prometheus' form, and ``secrets``, file name to content, that it names. Source:
        Prometheus, "Configuration".
    """
    jobs, pages = [], []
    named: dict[str, str] = {}
    for name in here:
        service = services[name]
        running = {key for key, container in service["containers"].items() if container["here"]}
        for container, entry in service["metrics"].items():
            if container in running:
                jobs.append(_metrics_job(container, name, entry))
                named |= {entry[key]: secrets[entry[key]] for key in ("secret", "token") if entry.get(key)}
                if entry.get("signed"):
                    named[entry["secret"]] = signed_token(secrets[entry["secret"]], entry["user"])
        pages += [
            {
                "targets": [_page_address(page, service["ports"])],
                "labels": {"service": name, "container": page["container"], "page": page["title"]},
            }
            for page in service["web"]
            if page["container"] in running and name != edge
        ]
        if name == edge and running:
            pages += _edge_pages(services, edge)
    if pages:
        jobs.append(
            {
                "job_name": "pages",
                "metrics_path": "/probe",
                "params": {"module": ["page"]},
                "static_configs": pages,
                "relabel_configs": [
                    {"source_labels": ["__address__"], "target_label": "__param_target"},
                    {"source_labels": ["__param_target"], "target_label": "instance"},
                    {"target_label": "__address__", "replacement": PROBER},
                ],
            }
        )
    settings = {"scrape_interval": f"{interval}s", "scrape_timeout": f"{min(int(interval), PATIENCE)}s"}
    return {"config": {"global": settings, "scrape_configs": jobs}, "secrets": named}


# ---- alerts

#: Files of a service's role, found by their names.
ALERTS = Path("files", "alerts.yml")
DASHBOARD = Path("files", "dashboard.yml")
#: Keys of an alert; the last one leaves it out.
ALERT_KEYS = {"expr", "for", "severity", "summary", "meaning", "remedy", "logs", "off"}
REQUIRED_OF_ALERT = ("expr", "severity", "summary", "meaning", "remedy")
SEVERITIES = ("critical", "warning", "info")


def _declared(service: Mapping[str, Any], path: Path) -> Any:
    """Read a file of a service's role; nothing if it has none."""
    file = Path(service["directory"]) / path
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    except yaml.YAMLError as error:
        raise AnsibleFilterError(f"{file} cannot be read: {error}") from None


def _spelt_out(alert: Mapping[Any, Any]) -> dict[str, Any]:
    """Write the key ``off`` as it was written: to YAML it is the word for false."""
    return {"off" if key is False else str(key): value for key, value in alert.items()}


def _logs_address(query: str, pages: str) -> str:
    """Write where a browser finds lines of logs; what a template in the query says is escaped when it is known."""
    parts = re.split(r"({{.*?}})", query)
    text = "".join(
        f"{{{{ ({each[2:-2]}) | queryEscape }}}}" if each.startswith("{{") else quote_plus(each) for each in parts
    )
    return f"{pages}/select/vmui/#/?query={text}&g0.range_input=24h&g0.relative_time=last_24_hours"


def _rule(name: str, alert: Mapping[str, Any], where: str, runbook: str, pages: str) -> dict[str, Any]:
    """Write an alert as a rule."""
    unknown_keys(alert, ALERT_KEYS, f"{where}: the alert {name!r}")
    for key in REQUIRED_OF_ALERT:
        if not alert.get(key):
            raise AnsibleFilterError(f"{where}: the alert {name!r} has no {key!r}.")
    if alert["severity"] not in SEVERITIES:
        raise AnsibleFilterError(
            f"{where}: 'severity' of the alert {name!r} is {alert['severity']!r}, expected one of"
            f" {', '.join(SEVERITIES)}."
        )
    return {
        "alert": name,
        "expr": str(alert["expr"]).strip(),
        "for": str(alert.get("for", "0s")),
        "labels": {"severity": alert["severity"]},
        "annotations": {
            **{key: str(alert[key]).strip() for key in ("summary", "meaning", "remedy")},
            "runbook": f"{runbook}#{name.lower()}",
            "dashboard": f"{pages}/vmui/#/dashboards",
            **({"logs": _logs_address(alert["logs"], pages)} if alert.get("logs") else {}),
        },
    }


def _rules(name: str, rules: list[dict[str, Any]]) -> str:
    """Write a group of rules."""
    # PyYAML refuses texts of an inventory, to which Ansible has attached where they are from; JSON knows texts only.
    content = json.loads(json.dumps({"groups": [{"name": name, "rules": rules}]}))
    return str(yaml.safe_dump(content, sort_keys=False, width=10000))


def _declared_containers(services: Mapping[str, Mapping[str, Any]], active: Iterable[str]) -> list[str]:
    """Name what keeps running on each host, each as a series of MetricsQL."""
    return [
        f'label_set(1, "host", {json.dumps(str(host))}, "service", "{name}", "container", "{container}")'
        for name in active
        for container, entry in services[name]["containers"].items()
        if not entry["job"]
        for host in services[name]["processes"][entry["process"]]["hosts"]
    ]


def monitoring_alerts(
    services: Mapping[str, Mapping[str, Any]],
    active: Iterable[str],
    changes: Mapping[str, Mapping[str, Any]],
    runbook: str,
    pages: str,
    hosts: Iterable[str],
    interval: int,
) -> dict[str, str]:
    """Write the rules by which alerts are raised.

    Args:
        services: Service to its contract without templates.
        active: Those that the inventory has; each role may declare alerts in ``files/alerts.yml``. The series
            ``stack_container`` names their containers.
        changes: Name of an alert to keys that replace declared ones, ``off`` among them, or to a further alert.
        runbook: Where a person reads on, without the section.
        pages: Where a browser reaches the dashboards, without a path.
        hosts: Those of the stack in the inventory, which the series ``stack_host`` names.
        interval: Seconds between two measurements; the value of that series.

    Returns:
        File name to rules in Prometheus' form. Source: Prometheus, "Alerting rules".

    Raises:
        AnsibleFilterError: If an alert lacks something or has an unknown key, with its file; if there is none
            of the name of a change.
    """
    known_hosts = [
        {"record": "stack_host", "expr": f"vector({interval})", "labels": {"host": str(host)}} for host in hosts
    ]
    active = list(active)
    containers = {"record": "stack_container", "expr": f"union({', '.join(_declared_containers(services, active))})"}
    found = {"stack.yml": _rules("stack", [*known_hosts, containers])}
    seen: dict[str, str] = {}
    declared = {name: _declared(services[name], ALERTS) or {} for name in active}
    # What is changed of a service that the inventory has not is no mistake.
    known = {alert for service in services.values() for alert in _declared(service, ALERTS) or {}}
    for name, change in changes.items():
        if not isinstance(change or {}, Mapping):
            raise AnsibleFilterError(f"monitoring_alerts: {name!r} is no dictionary of keys such as 'for'.")
    more = {name: change for name, change in changes.items() if name not in known}
    for name, change in more.items():
        if "expr" not in (keys := _spelt_out(change or {})) or is_true(keys.get("off")):
            hint = did_you_mean(name, sorted(known), "A further one has 'expr' and is not off; see docs/runbook.md.")
            raise AnsibleFilterError(f"monitoring_alerts: there is no alert of the name {name!r} to change. {hint}")
    for service, alerts in [*declared.items(), ("further", more)]:
        where = "monitoring_alerts" if service == "further" else str(Path(services[service]["directory"]) / ALERTS)
        rules = []
        for name, alert in alerts.items():
            if seen.setdefault(name, where) != where:
                raise AnsibleFilterError(f"{where}: the alert {name!r} is also in {seen[name]}.")
            whole = _spelt_out(alert) | _spelt_out(changes.get(name) or {})
            if not is_true(whole.get("off")):
                rules.append(_rule(name, whole, where, runbook, pages))
        if rules:
            found[f"{service}.yml"] = _rules(service, rules)
    return found


# ---- dashboards


def _panel(title: str, unit: str, *series: tuple[str, str], width: int = 6, description: str = "") -> dict[str, Any]:
    """Write a panel: each series is an expression and how it is called."""
    return {
        "title": title,
        "description": description,
        "unit": unit,
        "width": width,
        "showLegend": True,
        "expr": [expr for expr, _alias in series],
        "alias": [alias for _expr, alias in series],
    }


def _service_row(name: str, service: Mapping[str, Any]) -> dict[str, Any]:
    """Write the row of a service: what every container and page tells."""
    panels = [
        _panel(
            "Memory, of the limit",
            "%",
            (
                f'100 * container_memory_working_set_bytes{{service="{name}"}}'
                f' / container_memory_limit_bytes{{service="{name}"}}',
                "{{container}} {{host}}",
            ),
        ),
        _panel(
            "Processor",
            "cores",
            (f'rate(container_cpu_usage_seconds_total{{service="{name}"}})', "{{container}} {{host}}"),
        ),
    ]
    if service["web"]:
        panels.append(_panel("Time of a page", "s", (f'probe_duration_seconds{{service="{name}"}}', "{{page}}")))
    panels.append(
        _panel(
            "Runs (1), and is measured (1)",
            "",
            (
                f'max(container_state{{service="{name}", state="running", kind="service"}}) by (container, host)',
                "runs: {{container}} {{host}}",
            ),
            (f'up{{service="{name}", job!="pages"}}', "measured: {{container}} {{host}}"),
            (f'probe_success{{service="{name}"}}', "page: {{page}}"),
        )
    )
    return {"title": service["title"], "panels": panels}


def monitoring_dashboards(
    services: Mapping[str, Mapping[str, Any]], active: Iterable[str], overview: Iterable[Mapping[str, Any]]
) -> dict[str, str]:
    """Write the dashboards.

    Args:
        services: Service to its contract without templates.
        active: Those that the inventory has; each gets a row in the dashboard of services, and its role may have a
            dashboard of its own in ``files/dashboard.yml``.
        overview: Dashboards that come first.

    Returns:
        File name to a dashboard in vmui's form. Source: VictoriaMetrics, "vmui", predefined dashboards.
    """
    names = list(active)
    rows = [_service_row(name, services[name]) for name in names]
    own = [board for name in names if (board := _declared(services[name], DASHBOARD))]
    boards = [*overview, {"title": "Services", "rows": rows}, *own]
    return {
        f"{number:02}-{re.sub('[^a-z0-9]+', '-', board['title'].lower()).strip('-')}.json": json.dumps(
            {
                **board,
                "rows": [{**row, "panels": [_filled(panel) for panel in row["panels"]]} for row in board["rows"]],
            },
            indent=1,
        )
        for number, board in enumerate(boards, 1)
    }


def _filled(panel: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a panel that a file declares: a single expression, no alias, half of the width."""
    exprs = panel["expr"] if isinstance(panel["expr"], list) else [panel["expr"]]
    aliases = panel.get("alias", [])
    return {
        "width": 6,
        "showLegend": True,
        **panel,
        "expr": [str(expr).strip() for expr in exprs],
        "alias": aliases if isinstance(aliases, list) else [aliases],
    }


# ---- where alerts go

#: Kinds of receivers and the keys of each; those that have to be there come first.
RECEIVERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "email": (("to", "from", "server"), ("user", "password", "tls")),
    "slack": (("url",), ("channel",)),
    "discord": (("url",), ()),
    "telegram": (("token", "chat"), ()),
    "webhook": (("url",), ("token",)),
}
#: What every receiver may say: its kind, its name, the lowest severity that it wants.
RECEIVER_KEYS = {"name", "kind", "severity"}
#: Each value is one line, or a number.
LINE = {"kind": "scalar"}
#: A mail server: a name or an address, one of IPv6 in brackets, and a port.
SERVER = r"(?:[^\s:\[\]]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})"
#: The characters of a URL. Source: RFC 3986.
URL = r"https?://(?:[!-$&-~]|%[0-9A-Fa-f]{2})+"
A_URL = "Give one such as https://hooks.example.org/x, without blanks and control characters."


def _is_url(value: Any) -> bool:
    """Tell whether Alertmanager can send something there."""
    try:
        parts = urlsplit(str(value))
        host = re.fullmatch(r"[\w.:-]+", parts.hostname or "")
        return bool(re.fullmatch(URL, str(value)) and host and parts.port != 0)
    except ValueError:
        return False


def _mail_problems(each: Mapping[str, Any], where: str) -> list[str]:
    """Find what is wrong with a receiver by mail."""
    found = [
        f"{where} has a {key!r} that is no address, such as desk@example.org."
        for key in ("to", "from")
        if each.get(key) and not re.search(r"[^\s<]@[^\s>]", str(each[key]))
    ]
    server = re.fullmatch(SERVER, str(each.get("server", "")))
    if each.get("server") and not (server and 0 < int(server[1]) < 65536):
        found.append(f"{where} has a 'server' without a port. Give host and port, such as smtp.example.org:587.")
    if bool(each.get("user")) != bool(each.get("password")):
        found.append(f"{where} has one of 'user' and 'password' without the other.")
    return found


def receiver_problems(receivers: Any, watchdog_url: str) -> list[str]:
    """Find what is wrong with the receivers of alerts. Says nothing of their values.

    Args:
        receivers: ``monitoring_receivers``.
        watchdog_url: ``monitoring_watchdog_url``.

    Returns:
        A sentence for each.
    """
    found = []
    if watchdog_url and not _is_url(watchdog_url):
        found.append(f"monitoring_watchdog_url is none. {A_URL}")
    names: set[str] = set()
    for number, each in enumerate(receivers, 1):
        if not isinstance(each, Mapping):
            found.append(f"monitoring_receivers: entry {number} is no dictionary with 'name' and 'kind'.")
            continue
        where = f"monitoring_receivers: {each.get('name') or f'entry {number}'}"
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", str(each.get("name") or "")):
            found.append(f"{where} has no 'name' of small letters, digits and -.")
        elif each["name"] in names or each["name"] in ("nobody", "watchdog"):
            found.append(f"{where} is the name of another receiver.")
        names.add(str(each.get("name")))
        kind = each.get("kind")
        if not isinstance(kind, str) or kind not in RECEIVERS:
            found.append(f"{where} has another 'kind' than {', '.join(RECEIVERS)}.")
            continue
        required, further = RECEIVERS[kind]
        found += [f"{where} is of the kind {kind}, and has no {key!r}." for key in required if not each.get(key)]
        known = {*required, *further, *RECEIVER_KEYS}
        found += [f"{where} has the unknown key {key!r}." for key in each if key not in known]
        found += [f"{where} has a {key!r} that is no line of text." for key in each if not fits_rule(each[key], LINE)]
        if each.get("severity", "warning") not in SEVERITIES:
            found.append(f"{where} has another 'severity' than {', '.join(SEVERITIES)}.")
        if each.get("url") and not _is_url(each["url"]):
            found.append(f"{where} has a 'url' that is none. {A_URL}")
        if kind == "telegram" and each.get("chat") and not re.fullmatch(r"-?[0-9]+", str(each["chat"])):
            found.append(f"{where} has a 'chat' that is no number. Give the number of the chat, such as -100123.")
        if kind == "email":
            found += _mail_problems(each, where)
    return found


#: What a person reads, in the templates of Alertmanager.
#: A message is of several alerts of a name, and while some fire, others may be over.
SUBJECT = (
    '{{ $told := .Alerts.Firing }}{{ if eq .Status "resolved" }}{{ $told = .Alerts.Resolved }}{{ end }}'
    '{{ if eq .Status "firing" }}{{ .CommonLabels.severity }}{{ else }}resolved{{ end }}:'
    " {{ (index $told 0).Annotations.summary }}{{ if gt (len $told) 1 }} And others.{{ end }}"
)
_ALERT = (
    "{{ .Annotations.summary }}\n{{ .Annotations.meaning }}\nWhat to do: {{ .Annotations.remedy }}\n"
    "Runbook: {{ .Annotations.runbook }}\nDashboards: {{ .Annotations.dashboard }}\n"
    "{{ with .Annotations.logs }}Logs: {{ . }}\n{{ end }}\n"
)
TEXT = "{{ range .Alerts.Firing }}" + _ALERT + "{{ end }}{{ range .Alerts.Resolved }}Resolved: " + _ALERT + "{{ end }}"


#: A redirection is followed without the message, which then counts as sent.
NO_DETOUR: dict[str, Any] = {"http_config": {"follow_redirects": False}}


def _notifier(each: Mapping[str, Any], stack: str) -> dict[str, Any]:
    """Write where one receiver's messages go."""
    kind = each["kind"]
    # Whoever has two stacks reads which one it is first.
    subject = f"[{stack}] {SUBJECT}"
    if kind == "email":
        settings: dict[str, Any] = {
            **{"to": each["to"], "from": each["from"], "smarthost": each["server"], "text": TEXT, "html": ""},
            "headers": {"Subject": subject},
            "require_tls": is_true(each.get("tls", True)),
        }
        if each.get("user"):
            settings |= {"auth_username": each["user"], "auth_password": each.get("password", "")}
        return {"email_configs": [{"send_resolved": True, **settings}]}
    if kind == "telegram":
        settings = {"bot_token": each["token"], "chat_id": int(each["chat"]), "message": f"{subject}\n{TEXT}"}
        return {"telegram_configs": [{"send_resolved": True, "parse_mode": "", **settings}]}
    if kind == "slack":
        settings = {"api_url": each["url"], "title": subject, "text": TEXT, **NO_DETOUR}
        if each.get("channel"):
            settings["channel"] = each["channel"]
        return {"slack_configs": [{"send_resolved": True, **settings}]}
    if kind == "discord":
        settings = {"webhook_url": each["url"], "title": subject, "message": TEXT, **NO_DETOUR}
        return {"discord_configs": [{"send_resolved": True, **settings}]}
    settings = {"url": each["url"], **NO_DETOUR}
    if each.get("token"):
        settings["http_config"] = {**NO_DETOUR["http_config"], "authorization": {"credentials": each["token"]}}
    return {"webhook_configs": [{"send_resolved": True, **settings}]}


def alertmanager_settings(receivers: Iterable[Mapping[str, Any]], watchdog_url: str, stack: str) -> dict[str, Any]:
    """Say who is told of which alert.

    Args:
        receivers: ``monitoring_receivers``, without problems.
        watchdog_url: What is called every few minutes while all is well; empty for nothing.
        stack: Name of the stack, which messages begin with.

    Returns:
        Settings of Alertmanager. Source: Prometheus, "Alerting configuration".
    """
    routes: list[dict[str, Any]] = [{"receiver": "watchdog", "matchers": ['alertname="Watchdog"']}]
    if watchdog_url:
        routes[0] |= {"group_wait": "0s", "group_interval": "1m", "repeat_interval": "4m"}
    watchdog = {"webhook_configs": [{"url": watchdog_url, "send_resolved": False}]} if watchdog_url else {}
    known = [{"name": "nobody"}, {"name": "watchdog", **watchdog}]
    for each in receivers:
        wanted = SEVERITIES[: SEVERITIES.index(each.get("severity", "warning")) + 1]
        matcher = f'severity=~"{"|".join(wanted)}"'
        routes.append({"receiver": each["name"], "matchers": [matcher], "continue": True})
        known.append({"name": each["name"], **_notifier(each, stack)})
    return {
        "route": {
            "receiver": "nobody",
            # Each test of the alerts is told by itself.
            "group_by": ["alertname", "test"],
            "group_wait": "10s",
            "group_interval": "1m",
            "repeat_interval": "12h",
            "routes": routes,
        },
        # What a host that is away takes with it is not told one by one.
        "inhibit_rules": [
            {
                "source_matchers": ['alertname="HostDown"'],
                "target_matchers": ['alertname!="HostDown"'],
                "equal": ["host"],
            },
            {
                "source_matchers": ['alertname=~"ContainerDown|ContainerPaused"'],
                "target_matchers": ['alertname=~"TargetDown|PageDown"'],
                "equal": ["host", "container"],
            },
        ],
        "receivers": known,
    }
