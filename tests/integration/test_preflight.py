"""What cannot work is refused before anything changes, with the variable to set and what to do.

The bad inputs are a table. Starting Ansible costs more than its checks, so one run of the real playbook has a host for
each of them: this machine, under a stack name and a directory of secrets of its own. `--tags always` bounds what a
check that does not fail could do to a network and a few secrets, both of which are found by the comparison of before
and after.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from stack_under_test import REPOSITORY, command, run_playbook

STACK = "preflight"
GROUPS = ("postgres", "redis", "minio", "ibkr_gateway", "backend", "mlflow", "airflow", "edge", "airflow_worker")
PORTS = {
    "postgres": 25532, "redis": 26479, "minio": 29100, "minio_console": 29101, "ibkr_gateway": 25155, "backend": 28100,
    "flower": 25655, "mlflow": 25600, "airflow": 28180,
}  # fmt: skip
PORT_VARIABLES = {name: f"{name}_port" for name in PORTS} | {"flower": "backend_flower_port"}
#: Services that each service needs, by its contract.
NEEDS = {
    group: yaml.safe_load((REPOSITORY / "roles" / group / "meta" / "service.yml").read_text()).get("needs", [])
    for group in GROUPS[:-1]
}


def with_needs(*groups: str) -> tuple[str, ...]:
    """The groups, and those of what their services need."""
    found = list(groups)
    for group in found:
        found += [each for each in NEEDS.get(group, []) if each not in found]
    return tuple(found)


@dataclass(frozen=True)
class Bad:
    """One bad input.

    `files` stand below the host's own directory, which `{here}` in a variable or sentence means; `{taken}` is a port of
    127.0.0.1 on which a program listens, `{elsewhere}` one of 127.0.0.2, `{wildcard}` one of IPv6 and IPv4 together,
    `{process}` that program, `{bridge}` the subnet of the engine's own network, `{lan}` this machine's own.
    """

    name: str
    variables: dict[str, Any]
    says: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ()

    def member_of(self) -> tuple[str, ...]:
        """Groups of its host: those named, else that whose variables are bad, and what their services need."""
        named = {group for group in GROUPS[:-1] for variable in self.variables if variable.startswith(f"{group}_")}
        return with_needs(*(self.groups or named or ("redis",)))


def override(variable: str, container: str, **keys: Any) -> dict[str, Any]:
    """An override of one container."""
    return {variable: {container: keys}}


REAL = {"ibkr_gateway_simulated": False}
ARCHIVE = {**REAL, "ibkr_gateway_archive": "{here}/gateway.zip"}
# Images that are not there yet.
BUILD = {"container_image_refresh": "again"}
BAD = (
    # ---- wrong types
    Bad("port-is-a-word", {"minio_port": "many"}, ("minio_port is 'many', expected a number from 1 to 65535.",)),
    Bad("misspelt-variable", {"mlfow_port": 5501},
        ("mlfow_port is not a variable of this collection. Did you mean mlflow_port?",)),
    Bad("variable-of-an-earlier-version", {"stack_port_mlflow": 5501},
        ("stack_port_mlflow is called mlflow_port now.",)),
    Bad("symbols-are-a-text", {"backend_symbols": "AAPL, IBM"},
        ("backend_symbols is 'AAPL, IBM', expected a list.",)),
    Bad("overrides-are-a-list", {"redis_overrides": ["memory"]}, ("redis_overrides", "unable to convert to dict")),
    Bad("switch-is-a-word", {"ibkr_gateway_simulated": "perhaps"}, ("ibkr_gateway_simulated", "not a valid boolean")),
    Bad("choice-not-there", {"container_image_base_source": "hub"},
        ("container_image_base_source must be one of: auto, registry, mmdebstrap, got: hub",)),
    Bad("container-is-a-text", {"airflow_overrides": {"airflow-worker": "2g"}},
        ("airflow_overrides.airflow-worker is '2g', expected keys and values",)),
    Bad("memory-is-a-list", override("mlflow_overrides", "mlflow", memory=["1g"]),
        ("mlflow_overrides.mlflow: 'memory' is ['1g'], expected str or int",)),
    Bad("command-is-a-text", override("redis_overrides", "redis", command="redis-server"),
        ("redis_overrides.redis: 'command' is 'redis-server', expected list",)),
    Bad("bundle-by-a-relative-path", {"stack_bundle_dir": "bundle"},
        ("stack_bundle_dir is 'bundle', expected an absolute path without a slash at its end, or empty",)),
    Bad("bundle-that-is-none", {"stack_bundle_dir": "/nowhere"},
        ("stack_bundle_dir is /nowhere, which is no bundle: /nowhere/bundle.json cannot be read",)),
    # ---- unknown keys
    Bad("unknown-key", override("redis_overrides", "redis", memmory="1g"),
        ("redis_overrides.redis has the unknown key 'memmory'. Did you mean 'memory'?",)),
    Bad("unknown-container", override("airflow_overrides", "airflow-sheduler", memory="1g"),
        ("airflow_overrides has the unknown key 'airflow-sheduler'. Did you mean 'airflow-scheduler'?",)),
    Bad("unknown-key-of-a-health-check", override("minio_overrides", "minio", health={"intervall": 5}),
        ("minio_overrides.minio: 'health' has the unknown key 'intervall'. Did you mean 'interval'?",)),
    Bad("unknown-secret", {"secrets_values": {"redis_admin_pasword": "x" * 32}},
        ("secrets_values has the unknown name redis_admin_pasword. Did you mean redis_admin_password?",)),
    Bad("secret-of-an-earlier-version", {"secrets_values": {"redis_password": "x" * 32}},
        ("secrets_values has the name redis_password, which only an earlier version used: each client of Redis has",)),
    Bad("setting-of-airflow", {"airflow_settings": {"core.parallelism": 4}},
        ("airflow_settings is 'core.parallelism', expected a name such as AIRFLOW__CORE__PARALLELISM",)),
    Bad("setting-of-postgresql", {"postgres_settings": {"Work Mem": "1MB"}},
        ("postgres_settings is 'Work Mem', expected a name of a setting",)),
    Bad("setting-of-two-lines", {"postgres_settings": {"work_mem": "4MB\nfsync = off"}},
        ("a value of postgres_settings is '4MB\\nfsync = off', expected a number, or a text of one line",)),
    Bad("connections-too-few", {"postgres_settings": {"max_connections": 60}},
        ("max_connections is 60, too few: its clients may open 93 connections"
         " (airflow 50, backend 18, dags 10, mlflow 15)",
         "Set max_connections in postgres_settings to 96 or more"),
        groups=("postgres", "airflow", "backend", "mlflow")),
    Bad("connections-of-nobody", {"postgres_connection_limits": {"backed": 40}},
        ("postgres_connection_limits has the unknown key 'backed'. Did you mean 'backend'?",), groups=("backend",)),
    # ---- the edge
    Bad("mlflow-image-behind-the-edge", {"mlflow_image": "example/mlflow:3"},
        ("mlflow_image is example/mlflow:3, and the inventory has the group edge: an image other than the one that is",
         "Leave mlflow_image empty, or the group."), groups=("mlflow", "edge")),
    Bad("edge-in-the-clear", {"stack_publish_address": "0.0.0.0"},
        ("stack_publish_address is 0.0.0.0, and without edge_domain passwords and cookies would cross the network",
         "Set edge_domain, or edge_allow_plain_http to true"), groups=("redis", "edge")),
    Bad("provider-without-roles", {"edge_oidc_issuer": "https://login.example.org", "edge_oidc_client_id": "stack",
        "edge_oidc_client_secret": "secret"},
        ("edge_oidc_issuer is set, and edge_oidc_roles is not: they belong together.",), groups=("mlflow", "edge")),
    # ---- ports and addresses
    Bad("port-taken", {"minio_port": "{taken}"},
        ("Port {taken}, which minio publishes, is in use by", "(process {process})",
         "set minio_port to a free one"), groups=("minio",)),
    Bad("port-of-the-ipv6-wildcard", {"minio_port": "{wildcard}"},
        ("Port {wildcard}, which minio publishes, is in use by", "(process {process})"), groups=("minio",)),
    Bad("port-of-another-address",
        {"minio_console_port": "{taken}", "minio_port": "{elsewhere}"},
        ("Port {taken}, which minio publishes, is in use by",), groups=("minio",)),
    Bad("port-twice", {"backend_port": PORTS["mlflow"]},
        (f"Port {PORTS['mlflow']} is published by", "set backend_port or mlflow_port to a free one"),
        groups=("backend", "mlflow")),
    Bad("port-too-high", {"airflow_port": 70000},
        ("airflow_port is 70000, expected a number from 1 to 65535",)),
    Bad("port-zero", {"backend_flower_port": 0}, ("backend_flower_port is 0, expected a number from 1 to 65535",)),
    Bad("port-negative", {"mlflow_port": -5500}, ("mlflow_port is -5500, expected a number from 1",)),
    Bad("subnet-without-mask-bits", {"stack_network_subnet": "172.29.66.7/24"},
        ("stack_network_subnet is '172.29.66.7/24', expected a network", "such as 172.29.64.0/24")),
    Bad("subnet-no-address", {"stack_network_subnet": "172.29.666.0/24"},
        ("stack_network_subnet is", "expected a network")),
    Bad("subnet-too-small", {"stack_network_subnet": "172.29.66.0/29"}, ("with room for 30 addresses or more",)),
    Bad("subnet-of-another", {"stack_network_subnet": "{bridge}"},
        ("the engine has networks on the same addresses: bridge", "Set stack_network_subnet to another subnet")),
    Bad("subnet-of-the-lan", {"stack_network_subnet": "{lan}"},
        ("stack_network_subnet is {lan}, and this host reaches other machines in that range: ",
         "including SSH sessions", "Set stack_network_subnet to an unused subnet, such as ")),
    Bad("address-is-a-name", {"stack_publish_address": "localhost"},
        ("stack_publish_address is 'localhost', expected an IPv4",)),
    Bad("address-elsewhere", {"stack_publish_address": "192.0.2.1"},
        ("stack_publish_address is 192.0.2.1, which is not an address of this host. Set it to one",)),
    Bad("mesh-is-small", {"stack_mesh_subnet": "10.9.0.0/30"},
        ("stack_mesh_subnet is '10.9.0.0/30', expected a network with room for 30",)),
    Bad("mesh-port-is-none", {"stack_mesh_port": 70000}, ("stack_mesh_port is 70000, expected",)),
    Bad("source-is-a-name", {"stack_allowed_sources": ["office"]},
        ("stack_allowed_sources has 'office', expected IPv4 networks or addresses",)),
    Bad("public-host-is-a-url", {"stack_public_host": "https://desk.example"},
        ("stack_public_host is 'https://desk.example', expected a host name", "without scheme")),
    Bad("gateway-allows-a-name", {**REAL, "ibkr_gateway_allowed_addresses": ["everyone"]},
        ("ibkr_gateway_allowed_addresses: 'everyone' is not an IPv4 address",)),
    Bad("any-page-acts", {"ibkr_gateway_cors_origin": "*", "ibkr_gateway_cors_credentials": True},
        ("set ibkr_gateway_cors_credentials to false",)),
    Bad("console-without-scheme", {"minio_console_url": "desk:9001"},
        ("minio_console_url is 'desk:9001', expected a URL",)),
    Bad("remote-host-without-scheme", {"ibkr_gateway_remote_host": "api.ibkr.com"},
        ("ibkr_gateway_remote_host is 'api.ibkr.com': expected a URL without a path",)),
    # ---- names and paths
    Bad("stack-name", {"stack_name": "Our Desk!"}, ("stack_name is 'Our Desk!', expected up to 40 of a-z",)),
    Bad("stack-name-empty", {"stack_name": ""}, ("stack_name is '', expected up to 40 of a-z",)),
    # destroy.yml removes it
    Bad("config-dir-of-the-system", {"stack_config_dir": "/etc"},
        ("stack_config_dir is '/etc', expected an absolute path that ends with the stack's name",)),
    Bad("secrets-dir-is-a-file", {"secrets_dir": "{here}/file"},
        ("cannot be kept in {here}/file, which secrets_dir names",),
        {"file": ""}),
    Bad("no-dags-dir", {"airflow_dags_dir": "/does/not/exist"},
        ("There is no directory /does/not/exist, which airflow_dags_dir names. Correct the path",)),
    Bad("no-source-dir", {"backend_source_dir": "/does/not/exist"},
        ("There is no directory /does/not/exist, which backend_source_dir names. Write an absolute path",)),
    Bad("source-dir-without-dockerfile", {"backend_source_dir": "{here}/app"},
        ("{here}/app (backend_source_dir) holds no Dockerfile, and backend_build.folders names nothing",),
        {"app/main.py": ""}),
    Bad("no-such-dockerfile", {"backend_source_dir": "{here}", "backend_dockerfile": "docker/Dockerfile.api"},
        ("There is no file docker/Dockerfile.api in {here} (backend_source_dir), which backend_dockerfile names.",)),
    Bad("no-lock-and-another-python",
        {"backend_source_dir": "{here}",
         "backend_build": {"python": "3.12", "requirements": "requirements.txt", "folders": ["desk"]}},
        ("requirements.txt (backend_build.requirements) is not a lock file with hashes",
         "backend_build.python is 3.12: images without a Dockerfile have Debian's Python 3.13"),
        {"desk/api.py": "x = 1\n", "requirements.txt": "fastapi\n"}),
    Bad("packages-that-airflow-has",
        {"airflow_dags_dir": "{here}/dags",
         "airflow_build": {"requirements": "requirements.txt", "exclude_newer": "2026-11-20"}},
        ("requirements.txt, line 2 (airflow_build.requirements) asks for celery>=5.7, and Airflow is tested with",),
        {"dags/own.py": "x = 1\n", "dags/requirements.txt": "xgboost\ncelery>=5.7\n"}),
    Bad("sources-of-dags",
        {"airflow_dag_sources": [
            {"name": "desk", "git": "https://me:hidden-value@git.example.com/dags.git"},
            {"name": "desk", "path": "/does/not/exist"},
        ]},
        ("airflow_dag_sources, desk: the URL holds a user or a password",
         "airflow_dag_sources, desk: two sources have this name",
         "airflow_dag_sources, desk: there is no directory /does/not/exist")),
    Bad("environment-of-dags",
        {"airflow_image": "own:1", "airflow_build": {"apt": ["jq"]},
         "airflow_environment": {"DESK-REGION": "eu"}, "airflow_secret_environment": {"fernet_key": "hidden-value"}},
        ("airflow_environment has the name 'DESK-REGION', expected letters, digits and _",
         "airflow_secret_environment has the name 'fernet_key', which is that of a secret of Airflow's own",
         "airflow_image and airflow_build are both set")),
    Bad("former-environment-of-dags", {"airflow_worker_environment": {"DESK": "eu"}},
        ("airflow_worker_environment is called airflow_environment now. Rename it.",)),
    Bad("image-without-command",
        {"backend_image": "own:1", "backend_secret_environment": {"TOKEN": "hidden-value", "EMPTY": ""},
         "backend_mounts": [{"source": "data", "path": "/run/secrets"}]},
        ("backend_command is empty: set it to the command of the application's API",
         "backend_celery_app is empty, and the worker needs it", "backend_secret_environment.EMPTY is empty",
         "backend_mounts has the path '/run/secrets'")),
    Bad("nothing-to-mount", {"backend_mounts": [{"source": "/does/not/exist", "path": "/data"}]},
        ("This host has no /does/not/exist, which backend_mounts names",)),
    Bad("root-is-a-client", {"secrets_values": {"minio_root_user": "SAME-KEY", "minio_mlflow_access_key": "SAME-KEY"}},
        ("The secrets minio_root_user and minio_mlflow_access_key are the same access key",), groups=("mlflow",)),
    Bad("guessable-root", {"secrets_values": {"minio_root_user": "root"}},
        ("The secret minio_root_user cannot be used", "8 to 128 letters, digits or _ -")),
    Bad("any-origin", {"minio_allowed_origins": ["*"]},
        ("minio_allowed_origins", "expected an origin such as https://charts.example.com")),
    # ---- limits
    Bad("memory-over-the-hosts", override("minio_overrides", "minio", memory="100000g"),
        ("The services of this host may use", "stack_reserved_memory_mb keeps", "*_overrides")),
    Bad("nothing-left-for-services", {"stack_reserved_memory_mb": 10**8},
        ("stack_reserved_memory_mb keeps 100000000 MiB for the host", "*_overrides")),
    Bad("disk", {"stack_min_disk_mb": 10**9}, ("/var/lib/docker has", "lower stack_min_disk_mb")),
    Bad("disk-negative", {"stack_min_disk_mb": -1}, ("stack_min_disk_mb is -1, expected a number from 0",)),
    Bad("memory-too-small", override("minio_overrides", "minio", memory="1m"),
        ("minio_overrides.minio: 'memory' is '1m', less than the 6m that Docker takes",)),
    Bad("memory-no-size", override("minio_overrides", "minio", memory="lots"),
        ("minio_overrides.minio: 'memory' is 'lots', which is not a size. Write it like 512m or 1g",)),
    Bad("cores-absurd", override("postgres_overrides", "postgres", cpus=9999),
        ("postgres_overrides.postgres: 'cpus' is 9999, expected a number of cores",)),
    Bad("cores-negative", override("postgres_overrides", "postgres", cpus=-1),
        ("postgres_overrides.postgres: 'cpus' is -1",)),
    Bad("cores-over-the-hosts", override("postgres_overrides", "postgres", cpus=1000),
        ("The container postgres is declared with 1000 cores", "Set 'cpus' in postgres_overrides.postgres to")),
    Bad("processes-none", override("mlflow_overrides", "mlflow", pids=0),
        ("mlflow_overrides.mlflow: 'pids' is 0, expected a number of processes from 1",)),
    Bad("root", {"redis_user": "0:0"},
        ("redis_user of the container redis: 'user' is '0:0', expected a user id other than 0",)),
    Bad("data-over-memory", {"redis_maxmemory": "1gb"},
        ("redis_maxmemory is '1gb', expected a size from 1mb to the 256m",)),
    Bad("no-worker", {"mlflow_workers": 0}, ("mlflow_workers is 0, expected a number from 1",)),
    Bad("time-read-as-a-number", {"mlflow_gc_schedule": 750},
        ("mlflow_gc_schedule is 750, expected a time of day in UTC in quotes",)),
    Bad("age-without-a-unit", {"mlflow_gc_older_than": "30"},
        ("mlflow_gc_older_than is '30', expected a time such as 30d",)),
    Bad("concurrency-negative", {"airflow_worker_concurrency": -2},
        ("airflow_worker_concurrency of concurrency-negative is -2, expected a number from 1.",)),
    Bad("health-interval-zero", {"stack_health_interval": 0},
        ("stack_health_interval is 0, expected a number from 1 to 3600",)),
    Bad("log-size", {"stack_log_size": "ten"}, ("stack_log_size is 'ten', expected a size such as 10m",)),
    Bad("no-command", {"backend_command": []},
        ("backend_command is empty: set it to the command of the application's API",)),
    Bad("bars-of-never", {"backend_bars_start": "yesterday"},
        ("backend_bars_start is 'yesterday', expected a day such as 2000-01-01",)),
    Bad("pattern-of-others", {"backend_redis_patterns": ["prices.*", "@airflow:*"]},
        ("backend_redis_patterns is '@airflow:*', expected a pattern that begins with",)),
    Bad("symbol", {"backend_symbols": ["AAPL", "not a symbol"]},
        ("backend_symbols is 'not a symbol', expected a symbol",)),
    # ---- secrets; an empty password would let everyone in
    Bad("secret-empty", {},
        ("The secret redis_admin_password is empty ({here}/secrets/redis_admin_password)",
         "remove it to generate one"),
        {"secrets/redis_admin_password": "\n"}),
    Bad("secret-of-a-vault-empty", {"secrets_values": {"minio_root_password": ""}},
        ("The secret minio_root_password is empty (the variable secrets_values.minio_root_password)",)),
    Bad("secret-short", {"secrets_values": {"minio_root_password": "short"}},
        ("The secret minio_root_password cannot be used", "expected 8 or more letters")),
    Bad("secret-breaks-urls", {"secrets_values": {"redis_backend_password": "p@ss/word#123"}},
        ("The secret redis_backend_password cannot be used (the variable secrets_values.redis_backend_password)",)),
    Bad("fernet-key", {"secrets_values": {"airflow_fernet_key": "x" * 32}},
        ("The secret airflow_fernet_key cannot be used", "a Fernet key")),
    Bad("jwt-secret-short", {},
        ("The secret airflow_jwt_secret cannot be used ({here}/secrets/airflow_jwt_secret)", "64 or more"),
        {"secrets/airflow_jwt_secret": "s" * 40}, groups=("airflow",)),
    Bad("certificate", {"secrets_values": {"ibkr_gateway_tls": "none"}},
        ("The secret ibkr_gateway_tls cannot be used", "a private key and then its certificate")),
    # ---- what is fetched
    Bad("archive-not-named", REAL, ("Set ibkr_gateway_archive", "ibkr_gateway_simulated to true")),
    Bad("archive-missing", {**REAL, "ibkr_gateway_archive": "/does/not/exist.zip"},
        ("There is no file /does/not/exist.zip, which ibkr_gateway_archive names",)),
    Bad("archive-of-another-sum", {**ARCHIVE, "ibkr_gateway_archive_sha256": "0" * 64},
        (f"has the sha256 {hashlib.sha256(b'another').hexdigest()}", f"ibkr_gateway_archive_sha256 says {'0' * 64}",
         "Download it again, or correct the variable"), {"gateway.zip": "another"}),
    Bad("archive-sum-cut-off", {**ARCHIVE, "ibkr_gateway_archive_sha256": "0123abc"},
        ("ibkr_gateway_archive_sha256 is '0123abc': expected the 64 digits",),
        {"gateway.zip": ""}),
    Bad("archive-unreachable", {**REAL, "ibkr_gateway_archive": "http://127.0.0.1:1/gateway.zip"},
        ("ibkr_gateway_archive names http://127.0.0.1:1/gateway.zip, which cannot be reached",)),
    Bad("packages-unreachable", {"container_image_apt_mirror": "http://127.0.0.1:1/debian", **BUILD},
        ("container_image_apt_mirror names http://127.0.0.1:1/debian, which cannot be reached",
         "Correct it, or name a proxy")),
    Bad("index-unreachable", {"container_image_pip_index": "http://127.0.0.1:1/simple", **BUILD},
        ("container_image_pip_index names http://127.0.0.1:1/simple, which cannot be reached",)),
    Bad("mirror-no-url", {"container_image_apt_mirror": "mirror.example/debian"},
        ("container_image_apt_mirror is 'mirror.example/debian', expected empty, or a URL",)),
    Bad("timeout-zero", {"container_image_timeout": 0}, ("container_image_timeout is 0, expected a number from 1",)),
    # ---- what runs in the stack
    Bad("broken-dag", {"airflow_dags_dir": "{here}/dags"},
        ("airflow_dags_dir ({here}/dags) holds files that do not compile: broken.py, line 2:",),
        {"dags/good.py": "x = 1\n", "dags/broken.py": "import airflow\ndef broken(:\n"}),
    Bad("version-of-another-image", {"postgres_major_version": 16},
        ("postgres_major_version is 16, expected 17", "name an image of it in postgres_image")),
    Bad("data-of-another-version", {},
        (f"The volume {STACK}-data-of-another-version-postgres-data holds data of PostgreSQL 15",
         "postgres_major_version is 17. upgrade.yml (make upgrade) moves the data to it."), groups=("postgres",)),
)  # fmt: skip

#: What a host with an engine and plenty of everything reports.
REPORT: dict[str, Any] = {
    "distribution": "debian", "version": "13", "like": "", "release": "trixie", "architecture": "x86_64",
    "init": "systemd", "memory_mb": 64000, "cores": 16, "disk_free_mb": {"/var/lib/docker": 500000}, "ports": {},
    "mesh": False, "networks": {}, "occupied": [], "volumes": [], "volume_files": {}, "images": [], "image_ids": {},
    "address_here": True,
    "read_only": [],
    "config_files": [],
    "engine": {"daemon": True, "client": True, "answers": True, "error": "", "version": "28", "lost_rules": []},
    "python": {"executable": "/usr/bin/python3", "error": "", "debian": True},
}  # fmt: skip
LAN = {"occupied": [{"subnet": "198.51.100.0/22", "by": "eth0 (route 198.51.100.0/22)"}]}
# Hosts that this machine is not: the report on the host is given instead of taken.
HOSTS = (
    Bad("distribution", {"distribution": "fedora"},
        ("This host runs fedora 13. Supported are Debian 12 and later and Ubuntu 22.04 and later.",)),
    Bad("old-debian", {"version": "11"}, ("This host runs debian 11. Supported are Debian 12 and later",)),
    Bad("foreign-directory", {"config_files": ["main.py"]},
        ("holds files that are not of this stack (main.py), and would be deleted", "Set stack_config_dir to")),
    Bad("processor", {"architecture": "armv7l"},
        ("This host's processor is armv7l. The images are built from packages for x86_64 and aarch64",)),
    Bad("python-of-its-own",
        {"python": {"executable": "/opt/venv/bin/python", "error": "ModuleNotFoundError", "debian": False}},
        ("/opt/venv/bin/python, the Python that Ansible uses on this host, cannot import requests",
         "set ansible_python_interpreter to /usr/bin/python3", "/opt/venv/bin/python -m pip install requests")),
    Bad("rules-flushed", {"engine": {**REPORT["engine"], "lost_rules": ["the chain DOCKER in nat"]}},
        ("The Docker engine's firewall rules are gone: iptables lacks the chain DOCKER in nat.",
         "systemctl restart docker")),
    Bad("rules-flushed-without-systemd",
        {"init": "sysvinit", "engine": {**REPORT["engine"], "lost_rules": ["the chain DOCKER in nat"]}},
        ("end it with kill $(cat /var/run/docker.pid), and run this again",)),
    Bad("read-only-etc", {"read_only": ["/etc/quantops/desk"]},
        ("Cannot write to /etc/quantops/desk: the file system is read-only", "set stack_config_dir")),
    Bad("volumes-elsewhere", {"disk_free_mb": {"/srv/docker": 500000, "/srv/docker/volumes": 10}},
        ("/srv/docker/volumes has 10 MiB free, stack_min_disk_mb asks for 10240.",)),
    Bad("lan", LAN,
        ("stack_network_subnet is 198.51.100.0/24, and this host reaches other machines in that range:"
         " eth0 (route 198.51.100.0/22).", "such as 172.29.64.0/24")),
    # Its network is there already: the check of it has passed, and the next one fails.
    Bad("lan-around-a-network", {**LAN, "networks": {f"{STACK}-lan-around-a-network": ["198.51.100.0/24"]},
                                 "address_here": False}, ("which is not an address of this host.",)),
    Bad("permission", {"engine": {"daemon": True, "answers": False, "denied": True, "error": "permission denied"}},
        ("The Docker engine refuses this user: permission denied. Run the playbook with become (sudo).",)),
    Bad("network", {"networks": {f"{STACK}-network": ["10.1.2.0/24"]}},
        (f"The network {STACK}-network exists with 10.1.2.0/24, but stack_network_subnet is 198.51.100.0/24.",)),
    Bad("one-core", {"cores": 1},
        ("The container airflow-init is declared with 2 cores, and this host has 1.",
         "Set 'cpus' in airflow_overrides.airflow-init"), groups=("airflow",)),
    Bad("small", {"memory_mb": 4000},
        ("which has 4000 MiB. Give it more, leave out services by emptying their groups",),
        groups=GROUPS),
)  # fmt: skip


def docker(*words: str) -> list[str]:
    """Lines that the engine's client prints."""
    return command("docker", *words).splitlines()


def traces() -> list[str]:
    """Containers, volumes and networks of the stacks, and their directories on the host."""
    found = docker("ps", "--all", "--filter", f"name={STACK}-", "--format", "container {{.Names}}")
    found += docker("volume", "ls", "--filter", f"name={STACK}-", "--format", "volume {{.Name}}")
    found += docker("network", "ls", "--filter", f"name=^{STACK}", "--format", "network {{.Name}}")
    return found + sorted(str(path) for path in Path("/etc/quantops").glob(f"{STACK}*"))


def files_below(directory: Path) -> dict[str, bytes]:
    """Path to content."""
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


class Site:
    """Runs the checks of site.yml for hosts that are all this machine; knows where their secrets would be."""

    def __init__(self, directory: Path) -> None:
        """Keep everything below a directory of the test's own."""
        self.directory = directory

    def here(self, name: str) -> Path:
        """Directory of a host's own."""
        path = self.directory / name
        path.mkdir(exist_ok=True)
        return path

    def refused(
        self,
        hosts: dict[str, dict[str, Any]],
        groups: dict[str, tuple[str, ...]],
        environment: dict[str, str] | None = None,
        tags: str = "always",
        **more: Any,
    ) -> dict[str, str]:
        """Run the checks, assert that they failed and changed nothing; return each failure's text on one line."""
        variables = {
            name: {
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
                "stack_name": f"{STACK}-{name}",
                # A network of examples: nobody has it.
                "stack_network_subnet": "198.51.100.0/24",
                "secrets_dir": str(self.here(name) / "secrets"),
                "ibkr_gateway_simulated": True,
                **{PORT_VARIABLES[service]: port for service, port in PORTS.items()},
                **own,
            }
            for name, own in hosts.items()
        }
        children = {group: {"hosts": {host: None for host in hosts if group in groups[host]}} for group in GROUPS}
        inventory = self.directory / "hosts.yml"
        inventory.write_text(yaml.safe_dump({"all": {"hosts": variables, "children": children}}))
        before, files = traces(), files_below(self.directory)
        options = ("--tags", tags, "--extra-vars", json.dumps(more))
        done = run_playbook("playbooks/site.yml", inventory, *options, environment=environment)
        assert done.returncode == 2, done.stdout + done.stderr
        blocks = re.findall(r"^  ✘ .* \[([\w-]+)\][^\n]*\n((?:    .*\n|\n(?=    ))*)", done.stdout, re.MULTILINE)
        said = {host: " ".join(text.split()) for host, text in blocks}
        accepted = sorted(hosts.keys() - said.keys())
        left = traces()
        # A network that a host made which was not refused would be in the way of the next run.
        for kind, name in (line.split() for line in left if line not in before):
            if kind == "network":
                docker("network", "rm", name)
        assert not accepted and "Docker engine and secrets" not in done.stdout, f"{accepted} not refused\n{done.stdout}"
        assert (left, files_below(self.directory)) == (before, files)
        return said


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    """Wait for another run of these tests on this machine: their hosts have the same names."""
    with (Path(tempfile.gettempdir()) / "quantops-test-preflight.lock").open("a") as lock:
        end = time.monotonic() + 1800
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < end, "another run of these tests has not ended within half an hour"
                time.sleep(2)
        yield


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A stack that does not exist, with nothing wrong yet."""
    return Site(tmp_path)


@pytest.fixture(scope="module")
def taken_ports() -> Iterator[dict[str, str]]:
    """Ports on which this process listens: of two addresses of loopback, and of all of IPv6 and IPv4."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        socket.create_server(("127.0.0.2", 0)) as elsewhere,
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as wildcard,
    ):
        servers = {"taken": taken, "elsewhere": elsewhere, "wildcard": wildcard}
        yield {name: str(server.getsockname()[1]) for name, server in servers.items()}


@pytest.fixture(scope="module")
def old_data() -> Iterator[None]:
    """A PostgreSQL volume with data of version 15."""
    volume = f"{STACK}-data-of-another-version-postgres-data"
    image = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "quantops/postgres")[0]
    docker("volume", "create", volume)
    try:
        write = "mkdir -p /data/pgdata && echo 15 > /data/pgdata/PG_VERSION"
        docker("run", "--rm", "--user=0", "--entrypoint=sh", f"--volume={volume}:/data", image, "-c", write)
        yield
    finally:
        docker("volume", "rm", "--force", volume)


@pytest.fixture(scope="module")
def words(taken_ports: dict[str, str]) -> dict[str, str]:
    """What the words in braces mean on this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.connect(("192.0.2.254", 9))  # sends nothing; names the address that leads outside
        lan = ipaddress.ip_network(f"{out.getsockname()[0]}/24", strict=False)
    bridge = docker("network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", "bridge")[0]
    return {**taken_ports, "process": str(os.getpid()), "bridge": bridge, "lan": str(lan)}


def filled(value: Any, words: dict[str, str]) -> Any:
    """The value with the words in braces replaced."""
    if isinstance(value, dict):
        return {key: filled(each, words) for key, each in value.items()}
    return re.sub(r"{(\w+)}", lambda found: words[found[1]], value) if isinstance(value, str) else value


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory, words: dict[str, str], old_data: None) -> dict[str, str]:
    """What was said of each bad input of the table, of one run."""
    site = Site(tmp_path_factory.mktemp("bad"))
    hosts = {}
    for bad in BAD:
        here = site.here(bad.name)
        for path, content in bad.files.items():
            (here / path).parent.mkdir(parents=True, exist_ok=True)
            (here / path).write_text(content)
        hosts[bad.name] = filled(bad.variables, words | {"here": str(here)})
    words["directory"] = str(site.directory)
    return site.refused(hosts, {bad.name: bad.member_of() for bad in BAD})


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_bad_input(refusals: dict[str, str], words: dict[str, str], bad: Bad) -> None:
    """Refused, with the variable and what to do; the run that refused it changed nothing."""
    here = words | {"here": f"{words['directory']}/{bad.name}"}
    for sentence in bad.says:
        assert filled(sentence, here) in refusals.get(bad.name, "NOT REFUSED")


def test_a_port_of_another_address_is_free(refusals: dict[str, str], words: dict[str, str]) -> None:
    """A program on 127.0.0.2 is in nobody's way on 127.0.0.1."""
    said = refusals["port-of-another-address"]
    assert words["taken"] in said and words["elsewhere"] not in said


@pytest.fixture(scope="module")
def refused_hosts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What was said of each unsuitable host, of one run."""
    site = Site(tmp_path_factory.mktemp("hosts"))
    given = {bad.name: {"given_report": {"host": {**REPORT, **bad.variables}}} for bad in HOSTS}
    groups = {bad.name: with_needs(*(bad.groups or ("redis",))) for bad in HOSTS}
    return site.refused(given, groups, docker_host_report="{{ given_report }}")


@pytest.mark.parametrize("bad", HOSTS, ids=lambda bad: bad.name)
def test_bad_host(refused_hosts: dict[str, str], bad: Bad) -> None:
    """Refused, with what it lacks."""
    for sentence in bad.says:
        assert sentence in refused_hosts.get(bad.name, "NOT REFUSED")


@pytest.mark.parametrize(
    ("absent", "sentence"),
    [
        ("redis", "Backend needs Redis, and the inventory has no host in the group redis."),
        ("minio", "MLflow needs MinIO, and the inventory has no host in the group minio."),
        ("airflow", "The inventory has hosts in the group airflow_worker, and none in airflow, which Airflow needs."),
    ],
)
def test_a_service_without_what_it_needs(site: Site, absent: str, sentence: str) -> None:
    """The group that has no host."""
    groups = tuple(group for group in GROUPS if group != absent)
    assert sentence in site.refused({"groups": {}}, {"groups": groups})["groups"]


def test_the_hosts_of_a_stack_stop_together(site: Site) -> None:
    """One is refused: the other one has nothing wrong, and is left as it is."""
    apart = {"stack_name": STACK, "stack_mesh": False, "stack_publish_address": "127.0.0.1"}
    hosts = {"one": {**apart, "redis_maxmemory": "plenty"}, "two": {**apart, "stack_network_subnet": "203.0.113.0/24"}}
    said = site.refused(hosts, {"one": ("redis",), "two": ("minio",)})
    assert "redis_maxmemory is 'plenty'" in said["one"]
    assert "one failed: this host goes no further without" in said["two"]


def test_a_second_host_of_a_service(site: Site) -> None:
    """Programs would find the first one only."""
    said = site.refused(
        {"one": {"stack_name": STACK}, "two": {"stack_name": STACK}}, dict.fromkeys(("one", "two"), ("redis",))
    )
    assert "The group redis has the hosts one, two, and this service runs on one" in said["one"]


# ---- what a host has of its stack's secrets


def record(stack: str, **secrets: str) -> str:
    """The host's record of secrets, as a run leaves it."""
    found = {}
    for name, value in secrets.items():
        salt = f"quantops {stack} {name}".encode()
        digest = hashlib.pbkdf2_hmac("sha256", value.encode(), salt, 5000).hex()[:32]
        found[name] = [{"digest": digest, "value": value}]
    return json.dumps(found)


@pytest.fixture
def on_host() -> Iterator[Callable[[str, dict[str, str]], None]]:
    """Writes files of a stack on the host, and removes them afterwards."""
    made = []

    def write(name: str, files: dict[str, str]) -> None:
        directory = f"/etc/quantops/{STACK}-{name}"
        made.append(directory)
        for path, content in files.items():
            command("sh", "-c", f"mkdir -p $(dirname {directory}/{path}) && cat > {directory}/{path}", stdin=content)

    yield write
    for directory in made:
        command("rm", "--recursive", "--force", directory)


OLD, NEW = "old-secret-" * 3, "new-secret-" * 3
BOTH = {"redis_admin_password": OLD, "postgres_admin_password": OLD}


def test_secrets_that_are_not_the_hosts(site: Site, on_host: Callable[[str, dict[str, str]], None]) -> None:
    """A lost directory, one lost secret, another stack's directory, and data alone: nothing is generated or changed."""
    names = ("lost", "one-lost", "another", "data")
    for name in names[:3]:
        on_host(name, {"secrets.json": record(f"{STACK}-{name}", **BOTH)})
    for name, secrets in {"one-lost": {"redis_admin_password": OLD}, "another": dict.fromkeys(BOTH, NEW)}.items():
        (site.here(name) / "secrets").mkdir()
        for secret, value in secrets.items():
            (site.here(name) / "secrets" / secret).write_text(value)
    volume = f"{STACK}-data-redis-data"
    docker("volume", "create", f"--label=quantops.stack={STACK}-data", volume)
    try:
        said = site.refused({name: {} for name in names}, dict.fromkeys(names, ("redis", "postgres")))
    finally:
        docker("volume", "rm", volume)
    place = site.directory
    assert (
        f"{place}/lost/secrets, which secrets_dir names, lacks secrets that lost has: postgres_admin_password, redis_"
        in (said["lost"])
    )
    assert "playbooks/fetch_secrets.yml" in said["lost"] and "-e secrets_regenerate=true" in said["lost"]
    assert "lacks secrets that one-lost has: postgres_admin_password. " in said["one-lost"]
    assert "-e secrets_regenerate=postgres_admin_password." in said["one-lost"]
    assert f"{place}/another/secrets, which secrets_dir names, holds none of the secrets" in said["another"]
    assert f"{place}/data/secrets, which secrets_dir names, is empty, and data has the volumes {volume}" in said["data"]


def test_a_secret_for_some_of_its_services(site: Site, on_host: Callable[[str, dict[str, str]], None]) -> None:
    """`--tags redis` after a client's password changed would leave that client with the old one."""
    files = {f"{name}/secrets/url": f"redis://:{OLD}@redis" for name in ("backend", "celery-worker")}
    on_host(
        "rotated", files | {"secrets.json": record(f"{STACK}-rotated", redis_backend_password=OLD, flower_password=OLD)}
    )
    place = site.here("rotated") / "secrets"
    place.mkdir()
    (place / "redis_backend_password").write_text(NEW)
    (place / "flower_password").write_text(OLD)
    said = site.refused({"rotated": {}}, {"rotated": GROUPS}, tags="redis")["rotated"]
    assert "redis_backend_password changed, and this run would leave Backend with the old value." in said
    assert "--tags redis,backend" in said


def test_new_secrets_for_some_of_their_services(site: Site, on_host: Callable[[str, dict[str, str]], None]) -> None:
    """`--tags mlflow` right after an upgrade would give MLflow an access key that MinIO does not know."""
    on_host("upgraded", {"mlflow/secrets/uri": f"postgresql://mlflow:{OLD}@postgres/mlflow"})
    place = site.here("upgraded") / "secrets"
    place.mkdir()
    (place / "postgres_mlflow_password").write_text(OLD)
    said = site.refused({"upgraded": {}}, {"upgraded": GROUPS}, tags="mlflow")["upgraded"]
    assert "MLflow still has the secrets of an earlier version, and this run would leave out some of" in said
    assert "PostgreSQL, MinIO, MLflow, which share the new ones. Run site.yml once without --tags and --limit." in said
    assert [file.name for file in place.iterdir()] == ["postgres_mlflow_password"]


@pytest.fixture
def path_without_docker(tmp_path: Path) -> str:
    """A PATH on which everything is but Docker."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for place in reversed(os.environ["PATH"].split(os.pathsep)):
        for program in Path(place).glob("*") if Path(place).is_dir() else []:
            link = directory / program.name
            if not program.name.startswith("docker"):
                link.unlink(missing_ok=True)
                link.symlink_to(program)
    return str(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="sudo has a PATH of its own")
def test_no_engine(tmp_path_factory: pytest.TempPathFactory, path_without_docker: str) -> None:
    """An engine is missing and may not be installed."""
    site = Site(tmp_path_factory.mktemp("engine"))
    said = site.refused(
        {"bare": {}}, {"bare": ("redis",)}, environment={"PATH": path_without_docker}, docker_host_install=False
    )["bare"]
    assert "This host has no Docker engine, and docker_host_install is false" in said
    assert "set docker_host_install to true" in said
