"""Asks the edge of the scenario's test host as a browser and as a program, down to the bytes of a path."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import subprocess
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from stack_under_test import HOST, Stack, run_playbook

DOMAIN = "desk.example"
#: User to role and password; those of the others are generated. As in molecule.yml.
ROLES = {"admin": "admin", "vera": "viewer", "rob": "researcher", "tom": "trader"}
OWN_PASSWORD = "a password of his own"
ROOT = "/var/lib/caddy/pki/authorities/local/root.crt"


def bring_up(*options: str, status: int = 0) -> str:
    """Run the edge's playbook on the test host; returns what it says."""
    host = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
    done = run_playbook("playbooks/edge.yml", host, "--inventory=molecule/shared/inventory.yml", *options)
    said = done.stdout + done.stderr
    assert done.returncode == status, said[-6000:]
    return said


def gateway() -> str:
    """Address of this machine for the test host."""
    words = ["docker", "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}", HOST]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def error(self) -> str:
        """What the edge itself says of a request that it refuses; empty if a service has answered."""
        if self.status not in (400, 401, 403, 405):
            return ""
        try:
            return json.loads(self.body)["error"]
        except (ValueError, KeyError, TypeError):
            return ""


class Door:
    """The edge, from outside."""

    def __init__(self, stack: Stack) -> None:
        """Take the stack."""
        self.stack = stack
        self._cookies: dict[str, str] = {}

    @cached_property
    def authority(self) -> str:
        """The certificate with which the stack's own authority signs, in PEM."""
        done = self.stack.execute("edge", "cat", ROOT)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def context(self) -> ssl.SSLContext:
        """Trusts the stack's own authority alone."""
        return ssl.create_default_context(cadata=self.authority)

    def connect(self, name: str, context: ssl.SSLContext | None = None, timeout: float = 60) -> ssl.SSLSocket:
        """A verified TLS connection to a host of the domain."""
        plain = socket.create_connection((self.stack.address, 443), timeout=timeout)
        return (context or self.context()).wrap_socket(plain, server_hostname=name)

    def ask(
        self,
        page: str,
        path: str = "/",
        method: str = "GET",
        body: bytes | str | None = None,
        user: str = "",
        exactly: dict[str, str] | None = None,
        **headers: str,
    ) -> Answer:
        """Send one request.

        Args:
            page: Name of the page; empty for the start page.
            path: Sent as it is.
            method: Sent as it is.
            body: Content.
            user: Whose login's cookie is sent.
            exactly: Headers whose names are sent as they are.
            headers: Further ones; `_` stands for `-`.
        """
        name = f"{page}.{DOMAIN}" if page else DOMAIN
        sent = {key.replace("_", "-"): value for key, value in headers.items()} | (exactly or {})
        if user:
            sent["Cookie"] = "; ".join(filter(None, (self.cookie(user), sent.get("Cookie"))))
        connection = http.client.HTTPConnection(name)
        connection.sock = self.connect(name)
        try:
            connection.request(method, path, body=body, headers={"Host": name, **sent})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def password(self, user: str) -> str:
        """Of a user."""
        return OWN_PASSWORD if user == "tom" else self.stack.secret(f"edge_user_{user}_password")

    def log_in(self, user: str, password: str, page: str = "app", **headers: str) -> Answer:
        """Send the form."""
        form = urlencode({"user": user, "password": password, "next": headers.pop("next", "/")})
        return self.ask(page, "/.edge/login", "POST", form, Content_Type="application/x-www-form-urlencoded", **headers)

    def cookie(self, user: str) -> str:
        """Of a login, which is made once."""
        if user not in self._cookies:
            self._cookies[user] = self.new_cookie(user)
        return self._cookies[user]

    def new_cookie(self, user: str) -> str:
        """Of a new login."""
        answer = self.log_in(user, self.password(user))
        assert answer.status == 303, answer
        found = re.search(r"(edge-molecule=[^;]+)", "\n".join(answer.headers.get_all("Set-Cookie")))
        assert found
        return found[1]

    def gate(self, *words: str, status: int = 0) -> str:
        """Run the gate's own program."""
        done = self.stack.execute("edge-gate", "edge-gate", *words)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    @cached_property
    def pages(self) -> dict[str, dict[str, Any]]:
        """What the gate knows of each page."""
        done = self.stack.execute("edge-gate", "cat", "/run/secrets/gate.json")
        return {page["name"]: page for page in json.loads(done.stdout)["pages"]}
