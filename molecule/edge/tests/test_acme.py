"""Certificates of an ACME server: Pebble, on this machine, which asks for each name at the test host."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from front_door import DOMAIN, Door, bring_up, gateway
from stack_under_test import Stack, eventually
from test_certificates import write_certificate


class Acme(NamedTuple):
    """An ACME server.

    Attributes:
        directory: URL of its directory.
        certificate: File with what its own certificate is verified with.
        management: URL at which it hands out what its certificates are verified with.
    """

    directory: str
    certificate: Path
    management: str

    def root(self) -> str:
        """The certificate of the authority, in PEM."""
        context = ssl.create_default_context(cafile=self.certificate)
        with urllib.request.urlopen(f"{self.management}/roots/0", context=context) as said:
            return said.read().decode()


def free_port(address: str) -> int:
    """A port on which nobody listens."""
    with socket.create_server((address, 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture
def acme(tmp_path: Path, stack: Stack) -> Iterator[Acme]:
    """The server, and one of names that finds every name on the test host."""
    address, names = gateway(), f"127.0.0.1:{free_port('127.0.0.1')}"
    certificate, key, _number = write_certificate(tmp_path, 100, [ipaddress.ip_address(address)])
    place, management = f"{address}:{free_port(address)}", f"{address}:{free_port(address)}"
    settings = tmp_path / "pebble.json"
    settings.write_text(
        json.dumps(
            {
                "pebble": {
                    "listenAddress": place, "managementListenAddress": management, "httpPort": 80, "tlsPort": 443,
                    "certificate": str(certificate), "privateKey": str(key),
                }
            }
        )
    )  # fmt: skip
    others = [f"-{name}=" for name in ("http01", "https01", "tlsalpn01", "defaultIPv6")]
    finds = [f"-dns01={names}", f"-defaultIPv4={stack.address}", f"-management=127.0.0.1:{free_port('127.0.0.1')}"]
    log = tmp_path / "log"
    with ExitStack() as running, log.open("ab") as output:
        for words in (
            ["pebble-challtestsrv", *others, *finds],
            ["pebble", f"-config={settings}", f"-dnsserver={names}"],
        ):
            process = subprocess.Popen(words, stdout=output, stderr=output, env=os.environ | {"PEBBLE_VA_NOSLEEP": "1"})
            running.callback(process.wait, 30)
            running.callback(process.terminate)
        found = Acme(f"https://{place}/dir", certificate, f"https://{management}")

        def answers() -> bool:
            try:
                return bool(found.root())
            except OSError:
                return False

        assert eventually(answers, seconds=60), log.read_text()
        yield found
        bring_up()


def test_certificates_of_an_acme_server(acme: Acme, door: Door) -> None:
    """Each name gets one that the authority's certificate verifies, and browsers are told to come over TLS only."""
    given = {"directory": acme.directory, "email": "desk@company.example", "ca": str(acme.certificate)}
    bring_up(*(f"--extra-vars=edge_acme_{name}={value}" for name, value in given.items()))
    context = ssl.create_default_context(cadata=acme.root())

    def verified(name: str) -> bool:
        try:
            door.connect(name, context).close()
        except (ssl.SSLError, OSError):
            return False
        return True

    for name in (DOMAIN, f"mlflow.{DOMAIN}", f"app.{DOMAIN}"):
        assert eventually(lambda name=name: verified(name), seconds=120), name
    with door.connect(f"mlflow.{DOMAIN}", context) as connection:
        connection.sendall(f"GET /edge-nowhere HTTP/1.1\r\nHost: mlflow.{DOMAIN}\r\n\r\n".encode())
        head = connection.recv(4096).decode().lower()
    assert " 401 " in head and "strict-transport-security: max-age=31536000" in head
    assert int(door.gate("certificate").split()[1]) > 0
