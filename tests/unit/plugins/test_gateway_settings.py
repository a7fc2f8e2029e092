"""The gateway's settings: addresses as it understands them, its conf.yaml, and what is refused beforehand."""

from __future__ import annotations

import datetime
import ipaddress
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from collection_under_test import REPOSITORY, ansible_playbook, plugin
from cryptography.hazmat.primitives import serialization

gateway = plugin("plugin_utils.gateway")
certificate = plugin("modules.secret_store").certificate
NOW = datetime.datetime.now(datetime.UTC)


@pytest.mark.parametrize(
    ("address", "patterns"),
    [
        ("10.1.2.3", ["10.1.2.3"]),
        ("10.1.2.3/32", ["10.1.2.3"]),
        ("172.29.64.0/24", ["172.29.64.*"]),
        ("172.29.0.0/16", ["172.29.*"]),
        ("10.0.0.0/8", ["10.*"]),
        ("0.0.0.0/0", ["*"]),
        ("172.29.64.0/22", ["172.29.64.*", "172.29.65.*", "172.29.66.*", "172.29.67.*"]),
        ("10.0.0.4/30", ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"]),
        ("192.168.*", ["192.168.*"]),
        ("*", ["*"]),
    ],
)
def test_addresses_are_written_with_wildcards(address: str, patterns: list[str]) -> None:
    assert gateway.address_patterns(address) == patterns


@pytest.mark.parametrize("network", ["10.0.0.0/9", "10.11.8.0/21", "10.11.12.128/25"])
def test_patterns_match_what_the_network_holds(network: str) -> None:
    found = gateway.address_patterns(network)
    sizes = [256 ** (4 - pattern.count(".") - (not pattern.endswith("*"))) for pattern in found]
    assert len(set(found)) == len(found)
    assert sum(sizes) == ipaddress.ip_network(network).num_addresses


@pytest.mark.parametrize("address", ["", "example.com", "10.0.0.1/24", "10.*.1.2", "300.*", "::1", "10.0.0.0/33"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(AnsibleFilterError, match="is not an IPv4 address"):
        gateway.address_patterns(address)


@pytest.fixture(scope="module")
def pem() -> str:
    """A key and a certificate for the stack's names."""
    return certificate(["ibkr-gateway", "*.example.com", "10.0.0.1"])


def test_a_good_certificate_has_no_fault(pem: str) -> None:
    assert gateway.tls_fault(pem, ["ibkr-gateway", "IBKR-Gateway", "gw.example.com", "10.0.0.1"]) == ""


def test_what_is_wrong_with_a_certificate_is_said(pem: str) -> None:
    key, mark, found = pem.partition(gateway.CERTIFICATE)
    other = certificate(["other"]).partition(gateway.CERTIFICATE)[0]
    loaded = serialization.load_pem_private_key(key.encode(), None)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    encrypted = loaded.private_bytes(*form, serialization.BestAvailableEncryption(b"x")).decode()

    def fault(text: str, *names: str, now: datetime.datetime = NOW) -> str:
        return gateway.tls_fault(text, list(names), now)

    assert "is not a private key followed by a certificate" in fault(mark + found + key)
    assert "is not a private key followed by a certificate" in fault(key)
    assert "is not a private key followed by a certificate" in fault("nonsense")
    assert "encrypted" in fault(encrypted + mark + found)
    assert "private key that cannot be read" in fault(key.replace("\n", "x\n", 2) + mark + found)
    assert "certificate that cannot be read" in fault(key + mark + "\nxxxx\n-----END CERTIFICATE-----\n")
    assert "does not belong to its first certificate" in fault(other + mark + found)
    assert "is not valid now" in fault(pem, now=NOW + datetime.timedelta(days=4000))
    assert "is not valid now" in fault(pem, now=NOW - datetime.timedelta(days=4))
    assert "is not good for gw.a.example.com" in fault(pem, "gw.a.example.com")
    assert "is not good for example.com" in fault(pem, "example.com")
    assert key.splitlines()[1] not in "".join(fault(text) for text in (key, other + mark + found, mark + found + key))


@pytest.fixture
def settings(pem: str) -> dict[str, Any]:
    """What `gateway_faults` is asked, with nothing wrong."""
    return {
        "remote_host": "https://api.ibkr.com",
        "cors_origin": "https://localhost:5055",
        "cors_credentials": False,
        "runs": True,
        "allowed": ["10.0.0.0/8"],
        "denied": ["192.168.*"],
        "further": {"ip2loc": "DE"},
        "sha256": "",
        "tls": pem,
        "names": ["ibkr-gateway"],
    }


def test_good_settings_have_no_fault(settings: dict[str, Any]) -> None:
    assert gateway.gateway_faults(settings) == []
    assert gateway.gateway_faults(settings | {"cors_origin": "*", "sha256": "Ab" * 32}) == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("remote_host", "api.ibkr.com", "ibkr_gateway_remote_host is 'api.ibkr.com': expected a URL"),
        ("remote_host", "https://api.ibkr.com/v1", "ibkr_gateway_remote_host"),
        ("remote_host", "https://api.ibkr.com:0", "ibkr_gateway_remote_host"),
        ("remote_host", "https://api.ibkr.com:x", "ibkr_gateway_remote_host"),
        ("cors_origin", "localhost", "ibkr_gateway_cors_origin"),
        ("allowed", ["10.0.0.0/8", "home"], "ibkr_gateway_allowed_addresses: 'home' is not an IPv4 address"),
        ("denied", ["home"], "ibkr_gateway_denied_addresses: 'home'"),
        ("further", {"listenPort": 1}, "'listenPort', which it cannot set: ibkr_gateway_port"),
        ("further", {"ips": {}}, "set ibkr_gateway_allowed_addresses"),
        ("sha256", "abc", "ibkr_gateway_archive_sha256 is 'abc': expected the 64 digits"),
        ("names", ["elsewhere"], "ibkr_gateway_tls is not good for elsewhere"),
        ("runs", False, "The IBKR gateway has nothing to run. Set ibkr_gateway_archive"),
    ],
)
def test_each_fault_names_its_variable(settings: dict[str, Any], key: str, value: object, words: str) -> None:
    (fault,) = gateway.gateway_faults(settings | {key: value})
    assert words in fault


def test_credentials_for_any_page_are_refused(settings: dict[str, Any]) -> None:
    (fault,) = gateway.gateway_faults(settings | {"cors_origin": "*", "cors_credentials": True})
    assert "set ibkr_gateway_cors_credentials to false" in fault


def rendered(tmp_path: Path, **variables: Any) -> dict[str, Any]:
    """The role's conf.yaml, as Ansible renders it."""
    role = REPOSITORY / "roles" / "ibkr_gateway"
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars_files": [str(role / "defaults" / "main.yml"), str(role / "vars" / "main.yml")],
        "vars": {
            "ansible_python_interpreter": sys.executable,
            "stack_public_host": "desk.example.com",
            "ibkr_gateway_port": 5055,
            "stack_network_subnet": "172.29.64.0/22",
            "stack_met": {"on": False},
            "stack_exposed_to": {"sources": []},
            "stack_services": {"ibkr_gateway": {"ports": {"gateway": {"container": 5055}}}},
        },
        "tasks": [
            {"ansible.builtin.template": {"src": str(role / "templates/conf.yaml.j2"), "dest": str(tmp_path / "conf")}}
        ],
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    ansible_playbook(tmp_path, "-i", "localhost,", "-c", "local", "play.yml", "-e", json.dumps(variables))
    return yaml.safe_load((tmp_path / "conf").read_text())


def test_the_configuration_is_that_of_ibkr_but_for_what_is_ours(tmp_path: Path) -> None:
    assert rendered(tmp_path) == {
        "ip2loc": "US",
        "proxyRemoteSsl": True,
        "proxyRemoteHost": "https://api.ibkr.com",
        "listenPort": 5055,
        "listenSsl": True,
        "ccp": False,
        "svcEnvironment": "v1",
        "authDelay": 3000,
        "portalBaseURL": "",
        "serverOptions": {
            "blockedThreadCheckInterval": 1000000,
            "eventLoopPoolSize": 20,
            "workerPoolSize": 20,
            "maxWorkerExecuteTime": 100,
            "internalBlockingPoolSize": 20,
        },
        "cors": {"origin.allowed": "https://desk.example.com:5055", "allowCredentials": False},
        "webApps": [{"name": "demo", "index": "index.html"}],
        "ips": {
            "allow": ["127.0.0.1", "172.29.64.*", "172.29.65.*", "172.29.66.*", "172.29.67.*"],
            "deny": [],
        },
    }


def test_each_variable_ends_in_the_configuration(tmp_path: Path) -> None:
    found = rendered(
        tmp_path,
        ibkr_gateway_remote_host="http://proxy.example.com:8080",
        ibkr_gateway_environment="v2",
        ibkr_gateway_allowed_addresses=["10.0.0.0/8"],
        ibkr_gateway_denied_addresses=["10.9.0.0/16"],
        ibkr_gateway_cors_origin="*",
        ibkr_gateway_cors_credentials=True,
        ibkr_gateway_settings={"authDelay": 5000, "serverOptions": {"workerPoolSize": 40}},
    )
    assert (found["proxyRemoteHost"], found["proxyRemoteSsl"]) == ("http://proxy.example.com:8080", False)
    assert (found["svcEnvironment"], found["authDelay"]) == ("v2", 5000)
    assert (found["serverOptions"]["workerPoolSize"], found["serverOptions"]["eventLoopPoolSize"]) == (40, 20)
    assert found["cors"] == {"origin.allowed": "*", "allowCredentials": True}
    assert found["ips"]["allow"][-1] == "10.*" and found["ips"]["deny"] == ["10.9.*"]


def test_other_hosts_of_the_stack_are_allowed(tmp_path: Path) -> None:
    """The whole mesh, or, on a private network, the addresses that are known."""
    meshed = rendered(tmp_path, stack_met={"on": True, "subnet": "172.28.64.0/24"})
    assert meshed["ips"]["allow"][-1] == "172.28.64.*"
    private = rendered(tmp_path, stack_exposed_to={"sources": ["10.0.0.2", "10.0.0.3"]})
    assert private["ips"]["allow"][-2:] == ["10.0.0.2", "10.0.0.3"]
