"""A company's OpenID Connect provider: Canaille, on this machine, at an address that the test host reaches too."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import urllib.request
from pathlib import Path

from front_door import DOMAIN
from stack_under_test import REPOSITORY, eventually

PROGRAM = REPOSITORY / ".venvs" / "identity-provider" / "bin" / "canaille"
CLIENT, CLIENT_SECRET = "stack", "secret-of-the-client-stack"
PASSWORD = "a password of theirs"
#: User to the groups there. Who they are here is up to the inventory.
PEOPLE = {"anna": ["desk", "everybody"], "nora": ["everybody"], "boss": []}


def mail(person: str) -> str:
    """Address of a person."""
    return f"{person}@company.example"


class IdentityProvider:
    """The provider, with its people and the stack as a client."""

    def __init__(self, directory: Path, address: str, certificate: Path, key: Path) -> None:
        """Write its settings and its database.

        Args:
            directory: Of its own.
            address: Of this machine.
            certificate: For the address, in PEM.
            key: Of the certificate.
        """
        with socket.create_server((address, 0)) as probe:
            self.place = f"{address}:{probe.getsockname()[1]}"
        self.issuer = f"https://{self.place}"
        self.certificate, self.key, self.log = certificate, key, directory / "log"
        self.settings = directory / "settings.toml"
        self._process: subprocess.Popen[bytes] | None = None
        self.settings.write_text("")
        signing = json.loads(self._run("jwk", "create", "rsa"))
        lines = [
            'SECRET_KEY = "of the sessions of this test"',
            f'SERVER_NAME = "{self.place}"',
            'PREFERRED_URL_SCHEME = "https"',
            "[CANAILLE]",
            'DATABASE = "sql"',
            "JAVASCRIPT = false",
            "HTMX = false",
            "[CANAILLE_SQL]",
            f'DATABASE_URI = "sqlite:///{directory}/database.sqlite"',
            "[CANAILLE_OIDC]",
            # Its people are not asked whether the stack may know them.
            f'TRUSTED_DOMAINS = ["{DOMAIN}"]',
            "[[CANAILLE_OIDC.ACTIVE_JWKS]]",
            *(f'{name} = "{value}"' for name, value in signing.items()),
        ]
        self.settings.write_text("\n".join(lines))
        self._run("install")
        for person in PEOPLE:
            words = ("--user-name", person, "--password", PASSWORD, "--family-name", person, "--emails", mail(person))
            self._run("create", "user", "--quiet", *words)
        for group in sorted({group for groups in PEOPLE.values() for group in groups}):
            members = [word for person in PEOPLE if group in PEOPLE[person] for word in ("--members", person)]
            self._run("create", "group", "--quiet", "--display-name", group, *members)
        client = {
            "client-id": CLIENT, "client-secret": CLIENT_SECRET, "client-name": "The stack",
            "client-uri": f"https://{DOMAIN}", "redirect-uris": f"https://{DOMAIN}/.edge/oidc/callback",
            "token-endpoint-auth-method": "client_secret_basic", "grant-types": "authorization_code",
            "response-types": "code",
        }  # fmt: skip
        scopes = [word for scope in ("openid", "profile", "email", "groups") for word in ("--scope", scope)]
        self._run("create", "client", "--quiet", *(w for k, v in client.items() for w in (f"--{k}", v)), *scopes)
        self._run("set", "client", CLIENT, "--audience", CLIENT)

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            [PROGRAM, *words], env=self._environment(), capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _environment(self) -> dict[str, str]:
        return os.environ | {"CANAILLE_CONFIG": str(self.settings)}

    def start(self) -> None:
        """Let it answer."""
        words = ("run", "--bind", self.place, "--certfile", str(self.certificate), "--keyfile", str(self.key))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([PROGRAM, *words], env=self._environment(), stdout=log, stderr=log)
        context = ssl.create_default_context(cafile=self.certificate)

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"{self.issuer}/.well-known/openid-configuration", context=context) as said:
                    return said.status == 200
            except OSError:
                return False

        assert eventually(answers, seconds=60), self.log.read_text()

    def stop(self) -> None:
        """Let it answer no more."""
        if self._process:
            self._process.terminate()
            self._process.wait(30)
            self._process = None
