# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A client of the Docker engine's API over its Unix socket.

Only the standard library: managed hosts have no Docker SDK, ``community.docker`` keeps its client private, and each
call of the ``docker`` program costs more processor time than the request itself.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urlencode

from ansible_collections.quantops.ibkr_stack.plugins.module_utils.engine import EngineError, docker

SOCKET = "unix:///var/run/docker.sock"
#: Docker 20.10, the oldest engine that is supported.
OLDEST = (1, 41)
#: Docker 25: an engine that speaks a newer version is asked in this one, which Docker 29 still understands.
NEWEST = (1, 44)
#: Seconds for a request that has no reason to take long, even on a busy machine.
PATIENCE = 120.0
PULL_TIMEOUT = 1800.0  # seconds
REMOVAL_TIMEOUT = 60.0  # seconds


class ApiError(EngineError):
    """The engine refused a request; the text is its own message."""

    def __init__(self, status: int, message: str) -> None:
        """Remember the status.

        Args:
            status: HTTP status.
            message: What the engine said.
        """
        super().__init__(message)
        self.status = status


class DeniedError(EngineError):
    """The user of this process may not use the engine's socket."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        """Prepare a connection.

        Args:
            path: Of the socket.
            timeout: Seconds that the engine may stay silent.
        """
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def socket_path(address: str) -> str:
    """Find the engine's socket.

    Args:
        address: Value of ``DOCKER_HOST``.

    Returns:
        Its path.

    Raises:
        EngineError: If the address is not that of a Unix socket.
    """
    scheme, _separator, path = address.partition("://")
    if scheme != "unix" or not path:
        raise EngineError(
            f"DOCKER_HOST is {address!r}, expected unix:// and the path of a socket on this host. To manage an engine "
            "on another machine, add that machine to the inventory."
        )
    return path


def as_version(text: str) -> tuple[int, int]:
    """Read a version of the API.

    Args:
        text: Such as ``1.41``.

    Returns:
        Its numbers.
    """
    major, _separator, minor = text.partition(".")
    return int(major), int(minor)


class Engine:
    """The Docker engine of this host. Its methods may be called from several threads."""

    def __init__(self, address: str | None = None) -> None:
        """Find the socket; nothing is asked yet.

        Args:
            address: Where the engine listens; by default ``DOCKER_HOST``, and without that the usual socket.
        """
        self.path = socket_path(address or os.environ.get("DOCKER_HOST") or SOCKET)
        self._version = ""
        self._lock = threading.Lock()

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        timeout: float = PATIENCE,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Send a request as it is.

        Args:
            method: HTTP method.
            path: Path with its query.
            body: What is sent as JSON.
            timeout: Seconds that the engine may stay silent.
            headers: Further headers.

        Returns:
            HTTP status and the body of the answer.

        Raises:
            EngineError: If there is no answer.
        """
        connection = UnixConnection(self.path, timeout)
        content = None if body is None else json.dumps(body)
        try:
            sent = {**({"Content-Type": "application/json"} if content else {}), **(headers or {})}
            connection.request(method, path, content, sent)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except TimeoutError:
            raise EngineError(f"the engine did not answer within {timeout:.0f} s") from None
        except PermissionError:
            raise DeniedError(f"this user may not use {self.path}: root and members of the group docker may") from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise EngineError(f"no engine listens at {self.path}") from None
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"the connection to the engine at {self.path} broke: {error!r}") from None
        finally:
            connection.close()

    def server_version(self, timeout: float = PATIENCE) -> dict[str, Any]:
        """Ask for the engine's version.

        Args:
            timeout: Seconds that it may take.

        Returns:
            ``Version`` of the engine, and ``ApiVersion`` and ``MinAPIVersion``, the newest and oldest that it speaks.

        Raises:
            EngineError: If it does not answer.
        """
        status, content = self.request("GET", "/version", timeout=timeout)
        if status != 200:
            raise EngineError(message_of(content) or f"GET /version returned status {status}")
        return json.loads(content)

    def version(self) -> str:
        """Agree on a version of the API.

        Returns:
            Such as ``1.41``: the newest that both sides know.

        Raises:
            EngineError: If there is none, or no answer.
        """
        with self._lock:
            if not self._version:
                found = self.server_version()
                highest = as_version(found["ApiVersion"])
                if highest < OLDEST:
                    raise EngineError(
                        f"the engine is {found.get('Version')} and speaks version {found['ApiVersion']} of its API, "
                        "expected Docker 20.10 (1.41) or later"
                    )
                lowest = as_version(found.get("MinAPIVersion") or found["ApiVersion"])
                self._version = "{}.{}".format(*max(lowest, min(highest, NEWEST)))
            return self._version

    def call(
        self, method: str, path: str, body: Any = None, query: dict[str, Any] | None = None, timeout: float = PATIENCE
    ) -> Any:
        """Make a request in the version agreed upon.

        Args:
            method: HTTP method.
            path: Path below the version; names in it have to be quoted, see ``quoted``.
            body: What is sent as JSON.
            query: Parameters.
            timeout: Seconds that the engine may stay silent.

        Returns:
            The answer's JSON; nothing where there is none.

        Raises:
            ApiError: If the engine refuses.
            EngineError: If it does not answer.
        """
        words = f"?{urlencode(query)}" if query else ""
        status, content = self.request(method, f"/v{self.version()}{path}{words}", body, timeout)
        # 304: started or stopped already.
        if status >= 400:
            raise ApiError(status, message_of(content) or f"{method} {path} returned status {status}")
        return json.loads(content) if content.strip() else None

    def find(self, kind: str, name: str) -> dict[str, Any] | None:
        """Look something up.

        Args:
            kind: ``containers``, ``images``, ``networks`` or ``volumes``.
            name: Its name, or for all but volumes its ID.

        Returns:
            The engine's description, or nothing if it does not exist.

        Raises:
            EngineError: If the engine cannot be asked.
        """
        below = f"/{kind}/{quoted(name)}" + ("/json" if kind in ("containers", "images") else "")
        try:
            return self.call("GET", below)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def inspect(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Look containers up.

        Args:
            names: Their names.

        Returns:
            Name to the engine's description, for those that exist.

        Raises:
            EngineError: If the engine cannot be asked.
        """
        found = {name: self.find("containers", name) for name in names}
        return {name: item for name, item in found.items() if item is not None}

    def containers(self, *labels: str, stopped: bool = False) -> list[dict[str, Any]]:
        """List containers.

        Args:
            labels: Those that they must have, such as ``quantops.stack=desk``.
            stopped: Those that do not run too.

        Returns:
            The engine's summaries, with ``Names``, ``Labels``, ``Ports`` and ``State``.

        Raises:
            EngineError: If the engine cannot be asked.
        """
        return self.call("GET", "/containers/json", query={"all": int(stopped), "filters": filters(labels)})

    def volumes(self, *labels: str) -> list[dict[str, Any]]:
        """List volumes.

        Args:
            labels: Those that they must have.

        Returns:
            The engine's descriptions, with ``Name`` and ``Mountpoint``.

        Raises:
            EngineError: If the engine cannot be asked.
        """
        return self.call("GET", "/volumes", query={"filters": filters(labels)})["Volumes"] or []


def filters(labels: Iterable[str]) -> str:
    """Write a filter for labels.

    Args:
        labels: Names, or names with ``=`` and a value.

    Returns:
        The filter, as the engine takes it.
    """
    return json.dumps({"label": list(labels)} if labels else {})


def name_of(container: dict[str, Any]) -> str:
    """Name a container of a list.

    Args:
        container: Its summary.

    Returns:
        Its own name; further ones come from links.
    """
    return min(container["Names"], key=lambda name: name.count("/")).lstrip("/")


def quoted(name: str) -> str:
    """Write a name as part of a path.

    Args:
        name: Of a container, network or image; the slashes of an image belong to its path.

    Returns:
        The name with everything else quoted.
    """
    return quote(name, safe="/:@")


def message_of(content: bytes) -> str:
    """Read an error of the engine.

    Args:
        content: Body of its answer.

    Returns:
        The message.
    """
    try:
        return str(json.loads(content)["message"]).strip()
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace").strip()


def image_id(engine: Engine, name: str, pull: bool = True) -> str:
    """Look up an image, and pull it if it is not there.

    Args:
        engine: Where it is needed.
        name: Its name.
        pull: Whether it may be pulled.

    Returns:
        Its id; empty if it would have to be pulled and may not.

    Raises:
        EngineError: If it cannot be had.
    """
    item = engine.find("images", name)
    if item is None and pull:
        # The client, not the API: it knows the operator's credentials for registries.
        status, out, err = docker("pull", "--quiet", name, timeout=PULL_TIMEOUT)
        if status != 0:
            raise EngineError(f"its image {name} is not on this host and cannot be pulled: {err or out}")
        item = engine.find("images", name)
    return (item or {}).get("Id", "")


def remove_container(engine: Engine, container: str) -> None:
    """Remove a container, and wait until it is gone; its named volumes stay.

    Args:
        engine: Where it is.
        container: Its id.

    Raises:
        EngineError: If it is still there.
    """
    try:
        engine.call("DELETE", f"/containers/{container}", query={"force": "true", "v": "false"})
    except ApiError as error:
        # 404: gone meanwhile. 409: its removal is under way already.
        if error.status not in (404, 409):
            raise
    end = time.monotonic() + REMOVAL_TIMEOUT
    while engine.find("containers", container) is not None:
        if time.monotonic() >= end:
            raise EngineError(f"the old container was not removed within {REMOVAL_TIMEOUT:.0f} s")
        time.sleep(0.2)
