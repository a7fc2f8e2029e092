"""A simulated gateway as a real process, with TLS, on a loopback port."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

SIMULATOR = Path(__file__).parents[1]


@dataclass(frozen=True)
class Tls:
    """Self-signed PEM certificate for localhost and its key."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Simulator:
    """A running simulator: its address, its certificate, and what it has written to its log."""

    url: str
    tls: Tls
    log: Path

    def client(self) -> httpx.Client:
        """A client that verifies the certificate and stays on the loopback interface."""
        return httpx.Client(base_url=self.url, verify=ssl.create_default_context(cafile=self.tls.cert), trust_env=False)


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def loopback_port() -> int:
    """A free port for a server that a test starts itself."""
    return free_port()


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A fresh certificate."""
    directory = tmp_path_factory.mktemp("tls")
    pair = Tls(directory / "cert.pem", directory / "key.pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(pair.key), "-out", str(pair.cert)),
        ],
        check=True,
        capture_output=True,
    )
    return pair


@pytest.fixture(scope="session")
def environment(tls: Tls) -> dict[str, str]:
    """The simulator's environment, without a port."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(SIMULATOR),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SIMULATOR_HOST": "127.0.0.1",
        # Tests ask faster than IBKR allows; those of the limits turn them on again.
        "SIMULATOR_PACING": "false",
        "SIMULATOR_CERT_FILE": str(tls.cert),
        "SIMULATOR_KEY_FILE": str(tls.key),
    }


@contextmanager
def running(tls: Tls, environment: dict[str, str], log: Path) -> Iterator[Simulator]:
    """Start the simulator, wait for its page, and end it with a signal that it must obey with exit code 0."""
    port = free_port()
    command = [sys.executable, "-m", "ibkr_simulator"]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, env=environment | {"SIMULATOR_PORT": str(port)}, stdout=output, stderr=output
        ) as process,
    ):
        simulator = Simulator(f"https://localhost:{port}", tls, log)
        try:
            with simulator.client() as client:
                deadline = time.monotonic() + 60
                while True:
                    try:
                        client.get("/")
                        break
                    except httpx.TransportError:
                        assert process.poll() is None, log.read_text()
                        assert time.monotonic() < deadline, log.read_text()
                        time.sleep(0.05)
            yield simulator
        finally:
            process.terminate()
            code = process.wait(10)
    assert code in {0, -15}, log.read_text()


@pytest.fixture(scope="session")
def simulator(tls: Tls, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """One simulator, logged in, for all tests that leave the session alone."""
    with running(tls, environment, tmp_path_factory.mktemp("simulator") / "log") as started:
        yield started


@pytest.fixture
def start_simulator(
    tls: Tls, environment: dict[str, str], tmp_path: Path
) -> Callable[..., contextmanager[Iterator[Simulator]]]:
    """Start one more simulator, with other settings."""
    return lambda **settings: running(tls, environment | settings, tmp_path / "log")


@pytest.fixture(scope="module")
def start_module_simulator(
    tls: Tls, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., contextmanager[Iterator[Simulator]]]:
    """The same for all tests of a module."""
    return lambda **settings: running(tls, environment | settings, tmp_path_factory.mktemp("simulator") / "log")


@pytest.fixture
def client(simulator: Simulator) -> Iterator[httpx.Client]:
    """A client of the shared simulator's API."""
    with simulator.client() as connected:
        connected.base_url = f"{simulator.url}/v1/api/"
        yield connected
