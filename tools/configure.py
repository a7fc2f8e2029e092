#!/usr/bin/env python3
"""Write an inventory for one host, after a look at the host and a few questions.

Usage: ``make configure``, or ``tools/configure.py [--yes] [OPTIONS]``. Each question has an option; ``--yes`` accepts
what would be proposed. Nothing that exists is overwritten. Exit code 1: no inventory was written, and the message on
standard error says why.
"""

from __future__ import annotations

import argparse
import functools
import ipaddress
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import yaml
from ansible.utils.collection_loader import AnsibleCollectionConfig
from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

ROOT = Path(__file__).resolve().parent.parent
if AnsibleCollectionConfig.collection_finder is None:
    _AnsibleCollectionFinder(paths=[str(ROOT / ".collections")])._install()

from ansible_collections.quantops.ibkr_stack.plugins.module_utils.sizes import size_in_bytes  # noqa: E402
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.host_checks import (  # noqa: E402
    fit_problems,
    host_problems,
)
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.networks import (  # noqa: E402
    free_network,
    occupied_addresses,
    overlapping_networks,
)
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.plan_checks import same_address  # noqa: E402

MIB = 2**20
LOCAL = "localhost"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
PORT_VARIABLE = re.compile(r"\{\{ (\w+) \}\}")
USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
SIMULATED, REAL = "simulated", "real"
#: Cores from which on larger limits are worth their memory.
MANY_CORES = 4
Sizes = dict[str, dict[str, Any]]
#: Variables of a service that make it smaller or larger than it is declared. Small limits leave room above what each
#: container holds in use (docs/performance.md): a training takes about 210 MB beside Airflow's worker itself, whose
#: temporary directories count too.
SMALL: Sizes = {
    "postgres": {"postgres_overrides": {"postgres": {"memory": "384m"}}},
    "minio": {"minio_overrides": {"minio": {"memory": "384m"}}},
    "ibkr_gateway": {"ibkr_gateway_overrides": {"ibkr-gateway": {"memory": "512m"}}},
    "backend": {
        "backend_overrides": {
            "backend": {"memory": "512m"},
            "celery-beat": {"memory": "160m"},
            "flower": {"memory": "160m"},
        }
    },
    "mlflow": {"mlflow_overrides": {"mlflow": {"memory": "448m"}}},
    "airflow": {
        "airflow_worker_concurrency": 1,
        "airflow_overrides": {
            "airflow-apiserver": {"memory": "768m"},
            "airflow-scheduler": {"memory": "512m"},
            "airflow-dag-processor": {"memory": "384m"},
            "airflow-worker": {"memory": "768m"},
            "airflow-triggerer": {"memory": "384m"},
        },
    },
}
LARGE: Sizes = {
    "postgres": {
        "postgres_settings": {
            "max_connections": 200,
            "shared_buffers": "1GB",
            "effective_cache_size": "3GB",
            "work_mem": "16MB",
            "maintenance_work_mem": "256MB",
        },
        "postgres_overrides": {"postgres": {"memory": "4g", "cpus": 2}},
    },
    "redis": {"redis_maxmemory": "512mb", "redis_overrides": {"redis": {"memory": "1g"}}},
    "minio": {"minio_overrides": {"minio": {"memory": "1g", "cpus": 2}}},
    "backend": {
        "backend_worker_concurrency": 4,
        "backend_overrides": {"backend": {"memory": "2g", "cpus": 2}, "celery-worker": {"memory": "2g", "cpus": 2}},
    },
    "mlflow": {"mlflow_workers": 3, "mlflow_overrides": {"mlflow": {"memory": "1536m", "cpus": 2}}},
    "airflow": {
        "airflow_worker_concurrency": 8,
        "airflow_overrides": {
            "airflow-apiserver": {"memory": "2g", "cpus": 2},
            "airflow-dag-processor": {"memory": "1g", "cpus": 1},
            "airflow-worker": {"memory": "8g", "cpus": 4, "tmpfs": {"/opt/airflow": "64m", "/tmp": "1g"}},
        },
    },
}
#: What is left out first where not everything fits.
LEFT_OUT_FIRST = ("airflow", "mlflow")
#: Services that only a person can want, and why: `all` leaves them out.
ASKED_FOR = {
    "backup": "needs another disk or a mounted share, see docs/backup.md",
    "edge": "puts one login in front of all pages, see docs/edge.md",
    "monitoring": "needs 350 MB of memory and somebody who is told, see docs/monitoring.md",
}


class ConfigureError(Exception):
    """No inventory can be written; the message says why and what to do."""


@dataclass(frozen=True)
class Container:
    """What a role declares of a container.

    Attributes:
        name: Its name in the role.
        memory_mb: Limit in MiB.
        cpus: Limit in cores.
        job: Whether it ends by itself, so that its memory is free again.
        ports: Variables of the ports that it publishes on a single host, with their defaults.
    """

    name: str
    memory_mb: int
    cpus: float
    job: bool
    ports: dict[str, int]


@dataclass(frozen=True)
class Service:
    """What the tool needs to know of a service, read from its role.

    Attributes:
        name: Name of the role.
        title: Name for people.
        needs: Services that it does not work without.
        groups: Groups of its processes in the inventory.
        containers: By name.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    groups: tuple[str, ...]
    containers: dict[str, Container]

    @property
    def ports(self) -> dict[str, int]:
        """Variables of the ports of all its containers, with their defaults."""
        return {name: port for container in self.containers.values() for name, port in container.ports.items()}


@dataclass
class Inventory:
    """What is going to be written.

    Attributes:
        name: Its directory's name.
        host: The host.
        user: Who logs in there, or nothing.
        services: Services that run.
        left_out: Those that don't, and why.
        report: What ``host_report`` said of the host.
        stack: Name of the stack.
        settings: Variables, each with the comment above it.
    """

    name: str
    host: str
    user: str
    services: list[Service]
    left_out: dict[str, str]
    report: Mapping[str, Any]
    stack: str = ""
    settings: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


# ---- the roles


@functools.cache
def load(path: Path) -> Any:
    """Read a YAML file once; nobody changes what it returns."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def declarations(value: Any) -> Iterator[dict[str, Any]]:
    """Find the declarations of containers in a role's variables, wherever they are.

    Args:
        value: Variables, or a part of them.

    Yields:
        Mappings with a name and limits.
    """
    if isinstance(value, dict):
        if {"name", "memory", "cpus"} <= set(value):
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from declarations(each)


def rendered(template: Any, defaults: Mapping[str, Any]) -> str | None:
    """Render what a role declares with its defaults.

    Args:
        template: A text with templates, or a value without.
        defaults: The role's defaults.

    Returns:
        The text, or ``None`` if it needs more than the defaults.
    """
    try:
        return jinja2.Template(str(template), undefined=jinja2.StrictUndefined).render(defaults)
    except jinja2.TemplateError:
        return None


@functools.cache
def read_services(roles: Path = ROOT / "roles") -> list[Service]:
    """Read the services of this collection from their roles.

    Args:
        roles: Directory of the roles.

    Returns:
        The services in the order in which a person reads them.
    """
    found = []
    for role in load(roles / "stack" / "vars" / "main" / "contract.yml")["stack_builtin_service_roles"]:
        name = role.rpartition(".")[2]
        contract = load(roles / name / "meta" / "service.yml")
        defaults = load(roles / name / "defaults" / "main.yml")
        containers = {}
        variables = roles / name / "vars"
        files = sorted((variables / "main").glob("*.yml")) or [variables / "main.yml"]
        for each in declarations([load(path) for path in files]):
            declared = contract["containers"][each["name"]]
            if rendered(declared.get("when", True), defaults) == "False":
                continue
            # Where the ports are an expression, they depend on other hosts, and a single host publishes none.
            ports = each["ports"] if isinstance(each.get("ports"), list) else []
            named = filter(None, (PORT_VARIABLE.fullmatch(str(port["host"])) for port in ports))
            containers[each["name"]] = Container(
                each["name"],
                size_in_bytes(rendered(each["memory"], defaults)) // MIB,
                float(each["cpus"]),
                bool(declared.get("job")),
                {match[1]: int(defaults[match[1]]) for match in named},
            )
        groups = tuple(process["group"] for process in contract["processes"].values())
        found.append(Service(name, contract["title"], tuple(contract.get("needs", ())), groups, containers))
    return found


# ---- limits


def sized(services: list[Service], sizes: Sizes, cores: int) -> dict[str, Any]:
    """Work out the variables that set the limits of services on a host.

    Args:
        services: The services.
        sizes: What differs from their declarations.
        cores: What the host has: no limit may be more.

    Returns:
        Variable to value.
    """
    variables: dict[str, Any] = {}
    for service in services:
        variables |= json.loads(json.dumps(sizes.get(service.name, {})))
        overrides = variables.get(f"{service.name}_overrides", {})
        for container in service.containers.values():
            if overrides.get(container.name, {}).get("cpus", container.cpus) > cores:
                overrides.setdefault(container.name, {})["cpus"] = cores
        if overrides:
            variables[f"{service.name}_overrides"] = overrides
    if "airflow_worker_concurrency" in variables:
        variables["airflow_worker_concurrency"] = min(variables["airflow_worker_concurrency"], cores)
    return variables


def plans(
    services: list[Service], variables: Mapping[str, Any], ports: Mapping[str, int], stack: str = ""
) -> list[dict[str, Any]]:
    """Say what containers are going to need, as the collection's own checks read it.

    Args:
        services: The services.
        variables: What ``sized`` returned.
        ports: Variable to port.
        stack: Name of the stack.

    Returns:
        As much of each container's plan as ``fit_problems`` looks at.
    """
    found = []
    for service in services:
        overrides = variables.get(f"{service.name}_overrides", {})
        for container in service.containers.values():
            changed = overrides.get(container.name, {})
            published = [f"127.0.0.1:{ports.get(name, default)}:0" for name, default in container.ports.items()]
            found.append(
                {
                    "name": f"{stack}-{container.name}",
                    "service": container.name,
                    "variable": f"{service.name}_overrides",
                    "kind": "job" if container.job else "service",
                    "limits": {"Memory": size_in_bytes(changed.get("memory", f"{container.memory_mb}m"))},
                    "spec": {"cpus": changed.get("cpus", container.cpus), "published_ports": published},
                }
            )
    return found


def memory_mb(services: list[Service], sizes: Sizes) -> int:
    """Add up the limits of services, in MiB."""
    found = plans(services, sized(services, sizes, MANY_CORES), {})
    return sum(plan["limits"]["Memory"] for plan in found if plan["kind"] == "service") // MIB


def choose_sizes(services: list[Service], allowed_mb: int, cores: int) -> tuple[str, Sizes]:
    """Choose the largest limits that fit.

    Args:
        services: The services.
        allowed_mb: MiB that they may take together.
        cores: What the host has.

    Returns:
        ``small``, ``usual`` or ``large``, and what differs from the declarations.

    Raises:
        ValueError: Not even the smallest fit.
    """
    if cores >= MANY_CORES and memory_mb(services, LARGE) <= allowed_mb:
        return "large", LARGE
    if memory_mb(services, {}) <= allowed_mb:
        return "usual", {}
    if memory_mb(services, SMALL) <= allowed_mb:
        return "small", SMALL
    raise ValueError(
        f"These services need {memory_mb(services, SMALL)} MiB with their smallest limits, and may take"
        f" {allowed_mb} MiB: leave out some, such as airflow, or allow more with --memory."
    )


# ---- the host


def look(host: str, user: str, ask_password: bool) -> dict[str, Any]:
    """Look at a host with the module that the checks before a run use.

    Args:
        host: Its name; ``localhost`` is this machine.
        user: Who logs in there, or nothing.
        ask_password: Whether sudo wants a password.

    Returns:
        The module's report.

    Raises:
        ConfigureError: The host cannot be looked at.
    """
    subnet = load(ROOT / "roles" / "stack" / "defaults" / "main.yml")["stack_network_subnet"]
    command = [Path(sys.executable).parent / "ansible", "all", "--inventory", f"{host},", "--become"]
    command += ["--module-name", "quantops.ibkr_stack.host_report"]
    command += [
        "--args",
        json.dumps({"address": "127.0.0.1", "subnet": subnet, "writes": ["/etc/quantops", "/var/lib/quantops"]}),
    ]
    if host == LOCAL:
        command += ["--connection", "local", "--extra-vars", f"ansible_python_interpreter={sys.executable}"]
    if user:
        command += ["--user", user]
    if ask_password:
        command += ["--ask-become-pass"]
    environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    said = done.stdout.partition("=> ")[2]
    try:
        result = json.loads(said)
    except ValueError:
        raise ConfigureError(f"Cannot look at {host}: {done.stdout.strip() or 'Ansible says nothing'}") from None
    if done.returncode:
        raise ConfigureError(
            f"Cannot look at {host}: {result.get('msg', said).strip()}\nAnsible must reach it by SSH and become root"
            f" there. Try: ansible all -i {host}, -m ping --become"
        )
    return result["host"]


def taken_by(port: int, own: set[str], report: Mapping[str, Any]) -> str:
    """Find out who holds a port on loopback, where the stack publishes its own.

    Args:
        port: The port.
        own: Names of the stack's own containers, which do not count.
        report: The host.

    Returns:
        The holder for people, or nothing.
    """
    for holder in report["ports"].get(str(port), []):
        container = holder.get("container", "")
        if same_address("127.0.0.1", holder["address"]) and container not in own:
            return container or holder.get("process") or "another program"
    return ""


#: Services whose volumes every stack has that holds any data.
STORES = ("postgres", "redis", "minio")


def stack_exists(name: str, report: Mapping[str, Any]) -> bool:
    """Find out whether a host has something of a stack: its network, or the volumes that stay without it."""
    return name in report["networks"] or any(f"{name}-{each}-data" in report["volumes"] for each in STORES)


def users_of(subnet: str, stack: str, report: Mapping[str, Any]) -> list[str]:
    """Find out what uses addresses of a subnet, apart from the stack's own network."""
    return overlapping_networks(subnet, stack, report["networks"]) + occupied_addresses(subnet, report["occupied"])


# ---- the questions


class Questions:
    """Gets each answer from an option, from the person, or from what is proposed."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Hold the options."""
        self.options = options

    def ask(self, option: str, question: str, proposal: str, read: Callable[[str], Any]) -> Any:
        """Get an answer.

        Args:
            option: Name of its option, with underscores.
            question: What to ask.
            proposal: What an empty answer stands for; an empty one stands for nothing.
            read: Makes a value of the answer, and raises ValueError with the reason if it is none.

        Returns:
            The value.

        Raises:
            ConfigureError: The option's value is none, or nobody is there to ask.
        """
        return self._get(f"--{option.replace('_', '-')}", getattr(self.options, option), question, proposal, read)

    def ask_port(self, variable: str, question: str, proposal: str, read: Callable[[str], Any]) -> Any:
        """Get a port, as ``ask`` does, from ``--port VARIABLE=PORT``."""
        return self._get(f"--port {variable}=", self.options.port.get(variable), question, proposal, read)

    def _get(self, option: str, given: str | None, question: str, proposal: str, read: Callable[[str], Any]) -> Any:
        if given is None and self.options.yes and proposal:
            given = proposal
        if given is not None:
            try:
                return read(given)
            except ValueError as error:
                raise ConfigureError(f"{option}: {error}") from None
        if self.options.yes or not sys.stdin.isatty():
            remedy = "" if self.options.yes or not proposal else f", or --yes to accept what is proposed ({proposal})"
            raise ConfigureError(f"{question}? There is no terminal to ask: set {option}{remedy}.")
        while True:
            answer = input(f"{question} [{proposal}]: " if proposal else f"{question}: ").strip() or proposal
            try:
                return read(answer)
            except ValueError as error:
                print(f"  {error}")


def reads(pattern: re.Pattern[str], expected: str) -> Callable[[str], str]:
    """Make a reader of texts.

    Args:
        pattern: What the whole text must match.
        expected: The same for people.

    Returns:
        The reader.
    """

    def read(answer: str) -> str:
        if not pattern.fullmatch(answer):
            raise ValueError(f"{answer!r} is not {expected}.")
        return answer

    return read


read_plain_name = reads(NAME, "a name of up to 40 of a-z, 0-9, _ and -, with a letter or digit first")


def read_name(inventories: Path) -> Callable[[str], str]:
    """Make a reader of the inventory's name; one that exists is refused."""

    def read(answer: str) -> str:
        if (inventories / read_plain_name(answer)).exists():
            raise ValueError(
                f"{inventories / answer} exists, and is not overwritten. Choose another name, edit its files, or remove"
                " it. Its .secrets are the keys to its stack's data: keep them as long as you keep the data."
            )
        return answer

    return read


def read_memory(total_mb: int) -> Callable[[str], int]:
    """Make a reader of the memory that the stack may take, in MiB."""

    def read(answer: str) -> int:
        found = size_in_bytes(answer) // MIB
        if found < 1 or found > total_mb - 256:
            raise ValueError(
                f"{answer} is not between 1m and {total_mb - 256}m: the host has {total_mb} MiB, and needs 256 itself."
            )
        return found

    return read


def read_services_list(services: list[Service], allowed_mb: int, cores: int) -> Callable[[str], list[Service]]:
    """Make a reader of a list of services that work together and fit into the memory."""

    def read(answer: str) -> list[Service]:
        names = {service.name for service in services}
        wanted = names - ASKED_FOR.keys() if answer.strip() == "all" else set(re.split(r"[\s,]+", answer.strip(", ")))
        if unknown := sorted(wanted - names):
            known = ", ".join(service.name for service in services)
            raise ValueError(f"There is no service {', '.join(unknown)}. There are {known}; or answer all.")
        chosen = [service for service in services if service.name in wanted]
        for service in chosen:
            if missing := [need for need in service.needs if need not in wanted]:
                raise ValueError(f"{service.name} needs {', '.join(missing)}: add it, or leave out {service.name}.")
        choose_sizes(chosen, allowed_mb, cores)
        return chosen

    return read


def read_archive(answer: str) -> str:
    """Read where the archive of the real gateway is.

    Args:
        answer: A URL, or a path on this machine.

    Returns:
        The URL, or the absolute path.

    Raises:
        ValueError: It is no such archive.
    """
    if re.match(r"https?://[^ /]+/[^ ]+$", answer):
        return answer
    path = Path(os.path.abspath(Path(answer).expanduser()))
    if not answer or not path.is_file():
        raise ValueError(
            f"There is no file {answer!r}. Download clientportal.gw.zip from IBKR, and name its path or a URL."
        )
    program = load(ROOT / "roles" / "ibkr_gateway" / "vars" / "main.yml")["ibkr_gateway_program"]
    if not zipfile.is_zipfile(path) or program not in zipfile.ZipFile(path).namelist():
        raise ValueError(f"{path} is not IBKR's clientportal.gw.zip: there is no {program} in it.")
    return str(path)


def read_subnet(stack: str, report: Mapping[str, Any]) -> Callable[[str], str]:
    """Make a reader of the network's addresses; those that something uses are refused."""

    def read(answer: str) -> str:
        try:
            network = ipaddress.IPv4Network(answer)
        except ValueError:
            raise ValueError(f"{answer!r} is not a network, expected one such as 172.29.64.0/24.") from None
        if network.prefixlen > 27:
            raise ValueError(f"{answer} is too small: the network needs room for 30 addresses, such as a /24.")
        used = users_of(answer, stack, report)
        if used and stack not in report["networks"]:
            raise ValueError(f"{answer} is in use: {', '.join(used[:5])}.")
        return answer

    return read


def read_port(own: set[str], report: Mapping[str, Any], held: Mapping[str, int]) -> Callable[[str], int]:
    """Make a reader of ports; one that something else has is refused."""

    def read(answer: str) -> int:
        if not answer.isdecimal() or not 0 < int(answer) < 65536:
            raise ValueError(f"{answer!r} is not a port, expected a number from 1 to 65535.")
        port = int(answer)
        if holder := taken_by(port, own, report):
            raise ValueError(f"Port {port} is in use by {holder}.")
        if other := next((name for name, value in held.items() if value == port), ""):
            raise ValueError(f"Port {port} is already {other}.")
        return port

    return read


def gib(mib: int) -> str:
    """Write a number of MiB for people."""
    return f"{mib / 1024:.1f} GiB"


def proposed_services(services: list[Service], allowed_mb: int, cores: int) -> list[str]:
    """Choose as many services as fit, with their smallest limits if need be.

    Args:
        services: All services.
        allowed_mb: MiB that they may take together.
        cores: What the host has.

    Returns:
        Names; all of them if none fit.
    """
    for count in range(len(LEFT_OUT_FIRST) + 1):
        kept = [service for service in services if service.name not in {*LEFT_OUT_FIRST[:count], *ASKED_FOR}]
        try:
            choose_sizes(kept, allowed_mb, cores)
        except ValueError:
            continue
        return [service.name for service in kept]
    return [service.name for service in services if service.name not in ASKED_FOR]


def choose(questions: Questions, inventories: Path, look_at: Callable[[str, str, bool], dict[str, Any]]) -> Inventory:
    """Ask the questions.

    Args:
        questions: Gets the answers.
        inventories: Directory of the inventories.
        look_at: Looks at a host: see ``look``.

    Returns:
        The inventory.

    Raises:
        ConfigureError: An answer is missing or wrong, or the host cannot be looked at.
    """
    options = questions.options
    host = questions.ask(
        "host",
        "Which host: localhost for this machine, or a name for SSH",
        LOCAL,
        reads(HOST, "a host name"),
    )
    user = reads(USER, "a user's name")(options.user) if options.user else ""
    proposal = re.sub(r"[^a-z0-9_-]", "-", (socket.gethostname() if host == LOCAL else host).lower().split(".")[0])[:40]
    name = questions.ask("name", "Name of the inventory", proposal.strip("-_") or "stack", read_name(inventories))
    print(f"Looking at {host}")
    report = look_at(host, user, options.ask_become_pass)
    total, cores = int(report["memory_mb"]), int(report["cores"])
    disk = min(report["disk_free_mb"].values())
    print(f"{host} has {cores} cores, {gib(total)} of memory and {gib(disk)} of free disk space")

    services = read_services()
    allowed = questions.ask(
        "memory", "Memory that the stack may take", f"{total - max(512, total // 8)}m", read_memory(total)
    )
    kept = proposed_services(services, allowed, cores)
    too_large = [service for service in services if service.name not in {*kept, *ASKED_FOR}]
    if too_large:
        # Named for a person who asks; a script gets them by --yes, and reads it here.
        print(f"{gib(allowed)} is too little for {', '.join(service.title for service in too_large)}")
    chosen = questions.ask(
        "services",
        f"Services, of {', '.join(service.name for service in services)}",
        ",".join(kept) if too_large else "all",
        read_services_list(services, allowed, cores),
    )
    left_out = {
        service.name: f"{gib(allowed)} of memory is too little"
        if service in too_large
        else ASKED_FOR.get(service.name, "left out")
        for service in services
        if service not in chosen
    }
    found = Inventory(name, host, user, chosen, left_out, report)
    stack_settings(questions, found)
    found.settings.append(
        (
            f"Memory in MiB that is kept for the host itself: of its {total} MiB, the stack may take {allowed}.",
            {"stack_reserved_memory_mb": total - allowed},
        )
    )
    if any(service.name == "ibkr_gateway" for service in chosen):
        gateway_settings(questions, found)
    ports = port_settings(questions, found)
    size, sizes = choose_sizes(chosen, allowed, cores)
    variables = size_settings(found, size, sizes)
    if problems := fit_problems(plans(chosen, variables, ports, found.stack), report, ports, total - allowed):
        raise ConfigureError("\n".join(problems))
    return found


def stack_settings(questions: Questions, found: Inventory) -> None:
    """Settle the stack's name and network where the usual ones are taken.

    Args:
        questions: Gets the answers.
        found: The inventory, which gets the settings.
    """
    defaults = load(ROOT / "roles" / "stack" / "defaults" / "main.yml")
    stack, report = defaults["stack_name"], found.report
    if stack_exists(stack, report) or questions.options.stack_name:
        proposal = found.name if not stack_exists(found.name, report) else f"{found.name[:30]}-stack"
        usual, stack = (
            stack,
            questions.ask(
                "stack_name",
                f"A stack named {stack} is on the host already. Name of the new one, or {stack} to take that over",
                proposal,
                read_plain_name,
            ),
        )
        if stack != usual:
            why = "is in use on the host" if stack_exists(usual, report) else f"is {usual}"
            comment = f"Prefix of the names of containers, volumes and the network. The usual one {why}."
            found.settings.append((comment, {"stack_name": stack}))
        if stack_exists(stack, report):
            print(
                f"The stack {stack} is on the host already: its secrets are needed, not new ones. Run"
                f" `make fetch-secrets INVENTORY=inventories/{found.name}` before `make up`."
            )
    found.stack = stack
    subnet = str(defaults["stack_network_subnet"])
    held = report["networks"].get(stack)
    used = users_of(subnet, stack, report)
    proposal = held[0] if held else free_network(report["networks"], report["occupied"]) if used else subnet
    if proposal != subnet or questions.options.subnet:
        # Nobody has an opinion about it: it is not asked for.
        chosen = read_subnet(stack, report)(questions.options.subnet or proposal)
        why = f" {subnet} is in use: {', '.join(used[:3])}." if used and not held else ""
        found.settings.append((f"Addresses of the containers.{why}", {"stack_network_subnet": chosen}))


def gateway_settings(questions: Questions, found: Inventory) -> None:
    """Settle which gateway runs.

    Args:
        questions: Gets the answers.
        found: The inventory, which gets the settings.
    """
    kinds = reads(re.compile(f"{SIMULATED}|{REAL}"), f"{SIMULATED} or {REAL}")
    proposal = REAL if questions.options.gateway_archive else SIMULATED
    if questions.ask("gateway", "IBKR gateway, simulated or real", proposal, kinds) == SIMULATED:
        if questions.options.gateway_archive:
            raise ConfigureError("--gateway-archive is for the real gateway: leave it out, or set --gateway real.")
        comment = (
            "Replays real daily prices of 2000 to 2013 instead of asking IBKR. For the real gateway set this to false"
            " and name its archive: see docs/ibkr-gateway.md."
        )
        found.settings.append((comment, {"ibkr_gateway_simulated": True}))
        return
    archive = questions.ask("gateway_archive", "Its archive, clientportal.gw.zip: path or URL", "", read_archive)
    comment = "IBKR's own gateway. Someone logs in with a browser once it runs: see docs/ibkr-gateway.md."
    found.settings.append((comment, {"ibkr_gateway_simulated": False, "ibkr_gateway_archive": archive}))


def port_settings(questions: Questions, found: Inventory) -> dict[str, int]:
    """Settle the ports that something else on the host has, and those that are chosen by option.

    Args:
        questions: Gets the answers.
        found: The inventory, which gets the settings.

    Returns:
        Variable to port, of all that are published.

    Raises:
        ConfigureError: An option names no port of these services.
    """
    own = {f"{found.stack}-{container}" for service in found.services for container in service.containers}
    usual = {name: port for service in found.services for name, port in service.ports.items()}
    if unknown := sorted(set(questions.options.port) - set(usual)):
        raise ConfigureError(f"--port: there is no {', '.join(unknown)}. There are {', '.join(usual)}.")
    ports: dict[str, int] = {}
    wanted = {name: port for name, port in usual.items() if name not in questions.options.port}
    for name, port in usual.items():
        holder = taken_by(port, own, found.report)
        others = {**wanted, **ports}
        others.pop(name, None)
        if not holder and name in wanted:
            ports[name] = port
            continue
        free = next(
            n for n in range(port + 1, 65536) if n not in others.values() and not taken_by(n, own, found.report)
        )
        question = f"Port {port} is in use by {holder}. Another one for {name}"
        ports[name] = questions.ask_port(name, question, str(free), read_port(own, found.report, others))
        comment = f"The usual {port} is in use by {holder}." if holder else f"Instead of the usual {port}."
        found.settings.append((comment, {name: ports[name]}))
    return ports


def size_settings(found: Inventory, size: str, sizes: Sizes) -> dict[str, Any]:
    """Settle the limits.

    Args:
        found: The inventory, which gets the settings.
        size: What ``choose_sizes`` called them.
        sizes: What differs from the declarations.

    Returns:
        The variables that set them.
    """
    cores = int(found.report["cores"])
    variables = sized(found.services, sizes, cores)
    usual, now = memory_mb(found.services, {}), memory_mb(found.services, sizes)
    comments = {
        "small": f"Smaller than usual, so that the services fit: {gib(now)} together instead of {gib(usual)}. Everyday"
        " use fits, with less room for peaks: `make status` shows what is used, and what was killed for memory."
        + (" Airflow runs one task at a time." if "airflow_worker_concurrency" in variables else ""),
        "usual": f"No limit may be more than the {cores} cores of the host.",
        "large": f"Larger than usual, because the host has room: {gib(now)} together instead of {gib(usual)}.",
    }
    if variables:
        found.settings.append((comments[size], variables))
    print(f"Limits of memory: {gib(now)} together, {size}" + (f" ({gib(usual)} is usual)" if size != "usual" else ""))
    return variables


# ---- the files


def commented(text: str) -> str:
    """Write a comment of one or more lines, none longer than this project's files are wide."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines.append("#")
        for word in paragraph.split():
            if len(lines[-1]) + len(word) + 1 > 120:
                lines.append("#")
            lines[-1] += f" {word}"
    return "\n".join(lines)


def inline(value: Any) -> str:
    """Write a value on one line, as people do: {memory: 2g, cpus: 2}."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").strip()


def variable_lines(name: str, value: Any) -> str:
    """Write a variable; of one with several containers or settings, each on its own line."""
    if not isinstance(value, dict):
        return f"{name}: {inline(value)}"
    return "\n".join([f"{name}:", *(f"  {key}: {inline(each)}" for key, each in value.items())])


def group_vars(found: Inventory) -> str:
    """Write the variables of all hosts.

    Args:
        found: The inventory.

    Returns:
        Content of the file.
    """
    report = found.report
    head = (
        f"For {found.host} with {report['cores']} cores and {gib(report['memory_mb'])} of memory. Written once by `make"
        " configure`, and yours to edit: each variable is described in the README.md of its role, in roles/."
    )
    parts = [f"---\n{commented(head)}"]
    for comment, variables in found.settings:
        lines = [variable_lines(name, value) for name, value in variables.items()]
        parts.append("\n".join([commented(comment), *lines]))
    return "\n\n".join(parts) + "\n"


def hosts(found: Inventory) -> str:
    """Write the hosts and their groups.

    Args:
        found: The inventory.

    Returns:
        Content of the file.
    """
    local = found.host == LOCAL
    lines = ["---", commented("Everything on this machine." if local else f"Everything on {found.host}.")]
    for name, why in found.left_out.items():
        [service] = [each for each in read_services() if each.name == name]
        groups = " and ".join(groups_of(service))
        lines.append(commented(f"Without {service.title} ({why}): to run it, add {groups} below."))
    lines += ["all:", "  hosts:", f"    {found.host}:"]
    if local:
        lines.append("      ansible_connection: local")
        lines.append('      ansible_python_interpreter: "{{ ansible_playbook_python }}"')
    elif found.user:
        lines.append(f"      ansible_user: {inline(found.user)}")
    lines.append("  children:")
    for service in found.services:
        lines += [f"    {group}: {{hosts: {{{found.host}: }}}}" for group in groups_of(service)]
    return "\n".join(lines) + "\n"


def groups_of(service: Service) -> list[str]:
    """List a service's groups that the shipped inventory has: where one is left out, its hosts are the service's."""
    shipped = load(ROOT / "inventories" / "local" / "hosts.yml")["all"]["children"]
    return [group for group in service.groups if group in shipped]


def write(found: Inventory, inventories: Path) -> list[Path]:
    """Write the inventory.

    Args:
        found: The inventory.
        inventories: Directory of the inventories.

    Returns:
        The files.

    Raises:
        ConfigureError: It cannot be written, or exists.
    """
    directory = inventories / found.name
    files = {directory / "hosts.yml": hosts(found), directory / "group_vars" / "all.yml": group_vars(found)}
    try:
        directory.mkdir(parents=True)
        try:
            (directory / "group_vars").mkdir()
            for path, content in files.items():
                path.write_text(content, encoding="utf-8")
        except OSError:
            shutil.rmtree(directory)
            raise
    except OSError as error:
        raise ConfigureError(f"Cannot write {error.filename or directory}: {error.strerror}.") from None
    return list(files)


def port_option(value: str) -> tuple[str, str]:
    """Read VARIABLE=PORT."""
    name, separator, port = value.partition("=")
    if not separator or not port:
        raise argparse.ArgumentTypeError(f"{value!r} is not of the form VARIABLE=PORT, such as airflow_port=8081")
    return name, port


def parser() -> argparse.ArgumentParser:
    """Describe the options."""
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    found.add_argument("--yes", action="store_true", help="accept what is proposed for all that no option answers")
    found.add_argument("--host", help="localhost, or a host that SSH reaches")
    found.add_argument("--user", help="who logs in there; default: as SSH is configured")
    found.add_argument("--name", help="name of the directory below inventories/")
    found.add_argument("--memory", help="memory that the stack may take, such as 6g")
    found.add_argument("--services", help="services with commas between them, or all")
    found.add_argument("--gateway", help="simulated or real")
    found.add_argument("--gateway-archive", help="path or URL of IBKR's clientportal.gw.zip")
    found.add_argument("--port", action="append", default=[], type=port_option, metavar="VARIABLE=PORT", help="a port")
    found.add_argument("--stack-name", help="prefix of containers and volumes, where the usual one is taken")
    found.add_argument("--subnet", help="addresses of the containers' network")
    found.add_argument("--ask-become-pass", action="store_true", help="ask for the password of sudo")
    return found


def main(
    arguments: list[str] | None = None,
    inventories: Path = ROOT / "inventories",
    look_at: Callable[[str, str, bool], dict[str, Any]] = look,
) -> int:
    """Entry point.

    Args:
        arguments: Command line without the program.
        inventories: Directory of the inventories.
        look_at: Looks at a host.

    Returns:
        Exit code.
    """
    options = parser().parse_args(arguments)
    options.port = dict(options.port)
    try:
        found = choose(Questions(options), inventories, look_at)
        files = write(found, inventories)
    except (ConfigureError, ValueError) as error:
        print(f"{error}\nNothing was written.", file=sys.stderr)
        return 1
    except (EOFError, KeyboardInterrupt):
        print("\nNothing was written.", file=sys.stderr)
        return 1
    for path in files:
        print(f"Wrote {os.path.relpath(path)}")
    settings = {name: value for _comment, variables in found.settings for name, value in variables.items()}
    defaults = load(ROOT / "roles" / "stack" / "defaults" / "main.yml") | settings
    wanted = {
        "install": True,
        "min_disk_mb": defaults["stack_min_disk_mb"],
        "network": defaults["stack_name"],
        "subnet": defaults["stack_network_subnet"],
        "publish_address": defaults["stack_publish_address"],
        "config_dir": f"/etc/quantops/{defaults['stack_name']}",
    }
    for problem in host_problems(found.report, wanted):
        print(f"Before `make up`: {problem}")
    print(f"Next: make up INVENTORY={os.path.relpath(inventories / found.name)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
