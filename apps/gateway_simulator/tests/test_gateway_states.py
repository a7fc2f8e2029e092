"""The three states of the gateway as `make status` asks for them: of the simulator, and of one that does not answer."""

from __future__ import annotations

import importlib.util
import itertools
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

COLLECTION = "ansible_collections.quantops.ibkr_stack.plugins.module_utils"
MODULE_UTILS = Path(__file__).parents[3] / "plugins" / "module_utils"


def module_util(name: str) -> ModuleType:
    """Import a file as Ansible does, without Ansible: under its name in the collection."""
    full = f"{COLLECTION}.{name}"
    location = importlib.util.spec_from_file_location(full, MODULE_UTILS / f"{name}.py")
    assert location and location.loader
    module = importlib.util.module_from_spec(location)
    # What imports it, and its own dataclasses, look it up there.
    sys.modules[full] = module
    location.loader.exec_module(module)
    return module


for package in itertools.accumulate(COLLECTION.split("."), "{}.{}".format):
    sys.modules.setdefault(package, ModuleType(package))
module_util("gateway_status")
gateway = module_util("gateway")

URL = "https://desk.example.com:5055/"


def port_of(simulator) -> int:
    return int(simulator.url.rpartition(":")[2])


@contextmanager
def served(tls, answers: Callable[[bytes], bytes | None]) -> Iterator[int]:
    """A TLS server on loopback; it writes what `answers` says to a request's first line, or nothing at all."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls.cert, tls.key)
    stop = threading.Event()

    def talk(connection: socket.socket) -> None:
        with connection, context.wrap_socket(connection, server_side=True) as secure:
            answer = answers(secure.recv(65536).splitlines()[0])
            if answer is None:
                stop.wait(30)
            elif answer == TRICKLE:
                secure.sendall(b"HTTP/1.1 200 OK\r\n")
                while not stop.wait(0.1):
                    secure.sendall(b"X-More: 1\r\n")
            else:
                secure.sendall(b"HTTP/1.1 " + answer)

    def accept(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=(server,), daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            stop.set()
            server.shutdown(socket.SHUT_RDWR)


TRICKLE = b"trickle"
FRONT = b"302 Found\r\nLocation: /sso/Login\r\nContent-Length: 0\r\n\r\n"


def json_answer(text: bytes) -> bytes:
    return b"200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)


@pytest.mark.parametrize(("live", "account"), [("false", "paper"), ("true", "live")])
def test_logged_in(start_simulator: Callable, live: str, account: str) -> None:
    with start_simulator(SIMULATOR_LIVE=live) as simulator:
        found = gateway.gateway_states("127.0.0.1", port_of(simulator))
    assert found == gateway.GatewayStates(True, True, True, True, account, "logged in")
    assert gateway.sentence(found, URL) == (
        f"Gateway up, IBKR reachable, login yes, account {account} (SIMULATED): logged in"
    )


def test_login_needed_then_dropped_then_taken_over(start_simulator: Callable) -> None:
    with (
        start_simulator(SIMULATOR_LOGGED_IN="false", SIMULATOR_CONTROL="true") as simulator,
        simulator.client() as control,
    ):
        found = gateway.gateway_states("127.0.0.1", port_of(simulator))
        assert (found.up, found.ibkr_reachable, found.logged_in) == (True, True, False)
        assert f"login NEEDED at {URL}" in gateway.sentence(found, URL)
        for state, words in (("dropped", "was dropped"), ("competing", "has taken over")):
            control.post("/simulator/control", json={"session": state})
            found = gateway.gateway_states("127.0.0.1", port_of(simulator))
            assert (found.up, found.ibkr_reachable, found.logged_in) == (True, True, False)
            assert words in found.reason


def test_ibkr_away_is_told_in_time(start_simulator: Callable) -> None:
    with start_simulator(SIMULATOR_CONTROL="true") as simulator, simulator.client() as control:
        control.post("/simulator/control", json={"delay_seconds": 60})
        begun = time.monotonic()
        found = gateway.gateway_states("127.0.0.1", port_of(simulator), answer_seconds=0.5)
        assert time.monotonic() - begun < 5
        assert (found.up, found.ibkr_reachable, found.logged_in) == (True, False, None)
        assert found.reason == "IBKR cannot be reached: no answer in 0.5 s"
        assert "IBKR NOT reachable, login ?" in gateway.sentence(found, URL)
        control.post("/simulator/control", json={"delay_seconds": 0, "fail_status": 503})
        found = gateway.gateway_states("127.0.0.1", port_of(simulator))
        assert (found.ibkr_reachable, found.reason) == (False, "IBKR cannot be reached: HTTP 503")


def test_nothing_listens(loopback_port: int) -> None:
    found = gateway.gateway_states("127.0.0.1", loopback_port)
    assert found.up is False and "refused" in found.reason
    assert gateway.sentence(found, URL).startswith("Gateway DOWN, IBKR ?, login ?")


@pytest.mark.parametrize("silent", [None, TRICKLE])
def test_a_gateway_that_never_ends_an_answer_is_not_waited_for(tls, silent: bytes | None) -> None:
    with served(tls, lambda _: silent) as port:
        begun = time.monotonic()
        found = gateway.gateway_states("127.0.0.1", port, answer_seconds=0.5, all_seconds=2)
        assert time.monotonic() - begun < 4 and found.up is False and "no answer in" in found.reason
    front = lambda line: FRONT if line.startswith(b"GET / ") else silent  # noqa: E731
    with served(tls, front) as port:
        begun = time.monotonic()
        found = gateway.gateway_states("127.0.0.1", port, answer_seconds=0.5, all_seconds=2)
        assert time.monotonic() - begun < 4
        assert (found.up, found.ibkr_reachable, found.simulated) == (True, False, False)


@pytest.mark.parametrize(
    ("answer", "states"),
    [
        (b"401 Unauthorized\r\nContent-Length: 0\r\n\r\n", (True, False)),
        (b"403 Forbidden\r\nContent-Length: 0\r\n\r\n", (None, None)),
        (b"429 Too Many Requests\r\nContent-Length: 0\r\n\r\n", (None, None)),
        (b"502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", (False, None)),
        (json_answer(b"nonsense"), (None, None)),
        (json_answer(b"[]"), (None, None)),
        (json_answer(b'{"authenticated": false, "connected": true}'), (True, False)),
        (json_answer(b'{"authenticated": true, "connected": false}'), (True, False)),
        (json_answer(b'{"authenticated": true}'), (True, True)),
    ],
)
def test_answers_of_a_real_gateway(tls, answer: bytes, states: tuple[bool | None, bool | None]) -> None:
    with served(tls, lambda line: FRONT if line.startswith(b"GET / ") else answer) as port:
        found = gateway.gateway_states("127.0.0.1", port)
    assert found.up is True and found.simulated is False
    assert (found.ibkr_reachable, found.logged_in) == states and found.reason


@pytest.mark.parametrize(
    ("accounts", "kind"),
    [
        ({"isPaper": True, "selectedAccount": "U1"}, "paper"),
        ({"isPaper": False}, "live"),
        ({"selectedAccount": "DU1234567"}, "paper"),
        ({"selectedAccount": "U1234567"}, "live"),
        ({"selectedAccount": None}, ""),
        (None, ""),
    ],
)
def test_paper_and_live_are_told_apart(accounts: object, kind: str) -> None:
    assert gateway.account_kind(accounts) == kind
