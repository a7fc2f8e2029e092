"""Settings from the environment; a bad one is named in one line."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass


class SettingsError(ValueError):
    """A missing or bad setting; its text names the variable and the remedy."""


@dataclass(frozen=True)
class Settings:
    """Where to listen, with which certificate, and what kind of session begins.

    `idle_seconds` is how long the brokerage session lasts without a request; 0 is for ever.
    """

    host: str
    port: int
    cert_file: str
    key_file: str
    logged_in: bool
    live: bool
    pacing: bool
    control: bool
    idle_seconds: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read and check the variables `SIMULATOR_*` that the README lists.

        Raises:
            SettingsError: a variable is missing, malformed or names an unusable file.
        """
        environment = os.environ if environment is None else environment
        port = environment.get("SIMULATOR_PORT", "5055")
        if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise SettingsError(f"SIMULATOR_PORT: {port!r} is not a port number from 1 to 65535")
        idle_seconds = environment.get("SIMULATOR_IDLE_SECONDS", "0")
        if not (idle_seconds.isascii() and idle_seconds.isdigit()):
            raise SettingsError(f"SIMULATOR_IDLE_SECONDS: {idle_seconds!r} is not a whole number of seconds")
        cert_file = _readable(environment, "SIMULATOR_CERT_FILE", "certificate")
        key_file = _readable(environment, "SIMULATOR_KEY_FILE", "private key")
        try:
            # The callback keeps OpenSSL from asking for a passphrase on a terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_file, key_file, password=lambda: "")
        except (ssl.SSLError, ValueError) as error:
            raise SettingsError(
                f"SIMULATOR_CERT_FILE, SIMULATOR_KEY_FILE: {cert_file} and {key_file} are not a PEM certificate "
                f"and its unencrypted private key ({error})"
            ) from None
        return cls(
            host=environment.get("SIMULATOR_HOST", "0.0.0.0"),
            port=int(port),
            cert_file=cert_file,
            key_file=key_file,
            logged_in=_switch(environment, "SIMULATOR_LOGGED_IN", True),
            live=_switch(environment, "SIMULATOR_LIVE", False),
            pacing=_switch(environment, "SIMULATOR_PACING", True),
            control=_switch(environment, "SIMULATOR_CONTROL", False),
            idle_seconds=int(idle_seconds),
        )


def _switch(environment: Mapping[str, str], name: str, default: bool) -> bool:
    value = environment.get(name, str(default)).lower()
    if value not in {"true", "false"}:
        raise SettingsError(f"{name}: {value!r} is neither true nor false")
    return value == "true"


def _readable(environment: Mapping[str, str], name: str, what: str) -> str:
    path = environment.get(name, "")
    if not path:
        raise SettingsError(f"{name}: not set; name the PEM file of the TLS {what}")
    try:
        with open(path, "rb"):
            return path
    except OSError as error:
        raise SettingsError(f"{name}: cannot read {path}: {error.strerror}") from None
