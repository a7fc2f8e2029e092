"""What keeps a host from running the stack, each with its remedy."""

from __future__ import annotations

from typing import Any

import pytest
from collection_under_test import plugin

checks = plugin("plugin_utils.host_checks")

ENGINE = {"daemon": True, "answers": True, "denied": False, "error": "", "lost_rules": []}
PYTHON = {"executable": "/usr/bin/python3", "error": "", "debian": True}
REPORT: dict[str, Any] = {
    "distribution": "debian", "version": "13", "like": "", "architecture": "x86_64", "init": "systemd",
    "memory_mb": 8000, "cores": 4, "disk_free_mb": {"/var/lib/docker": 50000}, "read_only": [], "config_files": [],
    "ports": {},
    "networks": {}, "occupied": [], "address_here": True, "engine": ENGINE, "python": PYTHON,
}  # fmt: skip
WANTED = {
    "install": False, "min_disk_mb": 10240, "network": "desk", "subnet": "10.1.0.0/24", "publish_address": "10.0.0.9",
    "config_dir": "/etc/quantops/desk",
}  # fmt: skip
PLANS: list[dict[str, Any]] = [
    {
        "name": f"desk-{name}", "service": name, "kind": kind, "variable": f"{name}_overrides.{name}",
        "limits": {"Memory": 3000 * 2**20}, "spec": {"published_ports": [], "cpus": 2.0},
    }
    for name, kind in {"web": "service", "migrate": "job"}.items()
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"distribution": "fedora", "version": "40"}, "This host runs fedora 40. Supported are Debian 12"),
        ({"version": "11"}, "This host runs debian 11."),
        ({"distribution": "ubuntu", "version": "20.04"}, "This host runs ubuntu 20.04."),
        ({"architecture": "armv7l"}, "This host's processor is armv7l."),
        ({"engine": {**ENGINE, "daemon": False, "answers": False}}, "docker_host_install is false. Install one"),
        ({"engine": {**ENGINE, "answers": False, "denied": True, "error": "no"}}, "refuses this user: no. Run"),
        ({"engine": {**ENGINE, "lost_rules": ["the chain DOCKER in nat"]}}, "lacks the chain DOCKER in nat."),
        ({"python": {**PYTHON, "error": "ImportError"}}, "Install python3-requests, or set docker_host_install"),
        ({"python": {**PYTHON, "error": "ImportError", "debian": False}}, "set ansible_python_interpreter"),
        ({"read_only": ["/etc/quantops/desk"]}, "Cannot write to /etc/quantops/desk:"),
        (
            {"config_files": ["main.py", "redis"]},
            "/etc/quantops/desk holds files that are not of this stack (main.py, redis)",
        ),
        ({"disk_free_mb": {"/srv": 10}}, "/srv has 10 MiB free, stack_min_disk_mb asks for 10240."),
        ({"networks": {"desk": ["10.2.0.0/24"]}}, "The network desk exists with 10.2.0.0/24"),
        ({"networks": {"other": ["10.1.0.0/16"]}}, "networks on the same addresses: other (10.1.0.0/16)."),
        ({"occupied": [{"subnet": "10.1.0.0/22", "by": "eth0"}]}, "reaches other machines in that range: eth0."),
        ({"address_here": False}, "stack_publish_address is 10.0.0.9, which is not an address of this host."),
    ],
)
def test_an_unsuitable_host(changes: dict[str, Any], sentence: str) -> None:
    """One thing that it lacks is one sentence."""
    [found] = checks.host_problems({**REPORT, **changes}, WANTED)
    assert sentence in found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"config_files": ["redis", "secrets.json"]},
        {"config_files": ["redis"], "networks": {"desk": ["10.1.0.0/24"]}},
        {"distribution": "debian", "version": ""},
        {"distribution": "ubuntu", "version": "22.04"},
        {"distribution": "raspbian", "like": "debian", "version": "10"},
        {"networks": {"desk": ["10.1.0.0/24"]}, "occupied": [{"subnet": "10.1.0.0/24", "by": "br-1 (route)"}]},
    ],
)
def test_a_suitable_host(changes: dict[str, Any]) -> None:
    """Testing has no version, a derivative one of its own, and the stack's own network is in nobody's way."""
    assert checks.host_problems({**REPORT, **changes}, WANTED) == []


def test_a_host_on_which_nothing_is_published() -> None:
    """A VPN may bring the address later."""
    assert checks.host_problems({**REPORT, "address_here": False}, {**WANTED, "publish_address": ""}) == []


def test_an_engine_that_may_be_installed() -> None:
    """With what the modules need from Debian, nothing is missing."""
    bare = {**REPORT, "engine": {**ENGINE, "daemon": False, "answers": False}, "python": {**PYTHON, "error": "no"}}
    assert checks.host_problems(bare, {**WANTED, "install": True}) == []


def test_all_at_once() -> None:
    """Whoever has to change a host learns everything in one run."""
    found = checks.host_problems({**REPORT, "architecture": "armv7l", "disk_free_mb": {"/": 1, "/srv": 2}}, WANTED)
    assert len(found) == 3


def test_containers_that_do_not_fit() -> None:
    """Memory counts of what runs at once, so not of jobs; cores count one by one."""
    assert checks.fit_problems(PLANS, REPORT, {}, 1000) == []
    [memory] = checks.fit_problems(PLANS, REPORT, {}, 5001)
    assert "may use 3000 MiB together, and stack_reserved_memory_mb keeps 5001 MiB" in memory
    cores = checks.fit_problems(PLANS, {**REPORT, "cores": 1}, {}, 1000)
    assert [sentence.split(" is ")[0] for sentence in cores] == ["The container web", "The container migrate"]
