# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs programs in containers through the engine's API: what they read, and what they print.

Input, commands and environment go through the engine's socket, so that nothing of them is on a command line of the
host.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from typing import Any
from urllib.parse import urlencode

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine import EngineError
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine_api import (
    PATIENCE,
    ApiError,
    Engine,
    UnixConnection,
    message_of,
)

#: Bytes of each output that are kept: the last ones.
KEPT = 4 * 2**20
STDERR = 2
#: Options of the modules that run a program, see the documentation fragment ``program``.
OPTIONS: dict[str, dict[str, Any]] = {
    "stdin": {"type": "str", "default": "", "no_log": True},
    "timeout": {"type": "int", "default": 300},
    "expected": {"type": "list", "elements": "int", "default": [0]},
}


class OutOfTimeError(EngineError):
    """A program did not end in time."""


class Conversation:
    """The input and the output of a program in a container, on one connection."""

    def __init__(self, engine: Engine, path: str, body: Any = None, query: dict[str, Any] | None = None) -> None:
        """Connect.

        Args:
            engine: Where the container is.
            path: Path below the version: ``/containers/ID/attach`` or ``/exec/ID/start``.
            body: What is sent as JSON. Attaching takes none: the engine would give it to the program as input.
            query: Parameters.

        Raises:
            ApiError: If the engine refuses.
            EngineError: If it does not answer.
        """
        words = f"?{urlencode(query)}" if query else ""
        self.connection = UnixConnection(engine.path, PATIENCE)
        self.output: dict[int, bytearray] = {1: bytearray(), STDERR: bytearray()}
        try:
            self.connection.request(
                "POST",
                f"/v{engine.version()}{path}{words}",
                None if body is None else json.dumps(body),
                {
                    **({} if body is None else {"Content-Type": "application/json"}),
                    "Connection": "Upgrade",
                    "Upgrade": "tcp",
                },
            )
            # The answer closes the connection's own socket where the engine does not upgrade it.
            self.socket: socket.socket = self.connection.sock
            self.answer = self.connection.getresponse()
            if self.answer.status != 101:
                raise ApiError(self.answer.status, message_of(self.answer.read()) or f"POST {path} was not upgraded")
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            raise EngineError(f"the connection to the engine at {engine.path} broke: {error!r}") from None
        except EngineError:
            self.connection.close()
            raise

    def send(self, text: bytes) -> None:
        """Write the program's input and end it.

        Args:
            text: All of it.
        """
        # A program may end without reading it.
        with contextlib.suppress(OSError):
            self.socket.sendall(text)
            self.socket.shutdown(socket.SHUT_WR)

    def receive(self, end: float) -> None:
        """Read the program's output until it is closed.

        Args:
            end: When to give up, by ``time.monotonic``.

        Raises:
            OutOfTimeError: If it is not closed by then.
            EngineError: If the connection breaks.
        """
        try:
            while True:
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self.socket.settimeout(left)
                # Frames: number of the stream, three zeros, and a length of four bytes.
                head = self.answer.fp.read(8)
                if len(head) < 8:
                    return
                kept = self.output.setdefault(head[0], bytearray())
                kept += self.answer.fp.read(int.from_bytes(head[4:], "big"))
                if len(kept) > 2 * KEPT:
                    del kept[:-KEPT]
        except TimeoutError:
            raise OutOfTimeError("it did not end in time") from None
        except OSError as error:
            raise EngineError(f"the connection to the engine broke: {error!r}") from None

    def hold(self, text: str, end: float) -> None:
        """Give a program its input, and read its output until it is closed.

        Args:
            text: Its input.
            end: When to give up, by ``time.monotonic``.

        Raises:
            OutOfTimeError: If it is not closed by then.
            EngineError: If the connection breaks.
        """
        # Beside the reading: neither side waits for the other when both have much to say.
        writer = threading.Thread(target=self.send, args=(text.encode(),), daemon=True)
        writer.start()
        try:
            self.receive(end)
        finally:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            writer.join(timeout=10)
            self.connection.close()
            self.answer.close()

    def text(self, stream: int) -> str:
        """Read what the program has printed.

        Args:
            stream: 1 for standard output, 2 for standard error.

        Returns:
            Its last part, if it is much.
        """
        return self.output[stream][-KEPT:].decode(errors="replace")


def report(conversation: Conversation, status: int, expected: list[int], what: str) -> dict[str, Any]:
    """Put together what a module returns of a program.

    Args:
        conversation: With the program.
        status: Its exit status.
        expected: Statuses that are no failure; none for any.
        what: The program and its container, for the error.

    Returns:
        ``rc``, ``stdout``, ``stdout_lines``, ``failed``; with another status than 0 also ``stderr``, and if it failed
        ``msg``. Standard error of a program that went well is left out: nobody reads it, and it may name users and
        their keys.
    """
    out = conversation.text(1)
    found: dict[str, Any] = {"failed": False, "rc": status, "stdout": out, "stdout_lines": out.splitlines()}
    if status:
        found["stderr"] = conversation.text(STDERR)
    if status in expected or not expected:
        return found
    said = (conversation.text(STDERR).strip() or out.strip())[-4000:]
    return {
        **found,
        "failed": True,
        "msg": f"{what} ended with status {status}: {said or 'it printed nothing'}",
    }


def finish(module: AnsibleModule, result: dict[str, Any], changed: bool = False) -> None:
    """End a module with what a program did.

    Args:
        module: The module.
        result: What ``report`` returned.
        changed: Whether the program changed something.
    """
    if result.pop("failed"):
        module.fail_json(changed=changed, **result)
    # Without the word, Ansible calls every other status than 0 a failure.
    module.exit_json(changed=changed, failed=False, **result)
