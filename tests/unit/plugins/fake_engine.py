"""A small Docker engine: an HTTP server on a Unix socket that keeps containers in memory and its requests too."""

from __future__ import annotations

import contextlib
import json
import re
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Answer = tuple[int, Any]


class FakeEngine:
    """What the server knows, and how it answers."""

    def __init__(self, path: Path, version: str = "1.41", lowest: str = "1.12") -> None:
        """Listen at a path; `version` and `lowest` are what it speaks of the API."""
        self.address = f"unix://{path}"
        self.version = {"Version": "20.10.24", "ApiVersion": version, "MinAPIVersion": lowest}
        self.containers: dict[str, dict[str, Any]] = {}
        self.images = {"example/web:1": "sha256:web"}
        self.networks = {"desk": "net-desk"}
        self.volumes: dict[str, dict[str, Any]] = {}
        self.info: dict[str, Any] = {}
        self.subnet = "10.1.0.0/24"
        #: Method and path without version of each request that changes something.
        self.calls: list[str] = []
        self.bodies: dict[str, Any] = {}
        self.asked: list[str] = []
        #: Pattern of such a call to the answer that it gets instead.
        self.refused: dict[str, Answer] = {}
        #: Called with each call before it is answered, in the thread of its request.
        self.before: Callable[[str], None] = lambda call: None
        #: What a program in a container does: name, definition and input to status, output and error output; None
        #: does not end.
        self.program: Callable[[str, dict[str, Any], bytes], tuple[int, bytes, bytes] | None] = lambda *_: (0, b"", b"")
        self.programs: dict[str, dict[str, Any]] = {}
        self.ended: dict[str, threading.Event] = {}
        self.count = 0
        self.lock = threading.Lock()

    def add(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create a container from the body of a request."""
        self.count += 1
        host = body["HostConfig"]
        item = {
            "Id": f"id{self.count}",
            "Name": f"/{name}",
            "Image": self.images[body["Image"]],
            "Config": body,
            "HostConfig": {**host, "RestartPolicy": {"MaximumRetryCount": 0, **host["RestartPolicy"]}},
            "State": {"Status": "created", "Running": False, "Paused": False, "Restarting": False, "ExitCode": 0},
            "NetworkSettings": {
                "Networks": {
                    network: {**endpoint, "NetworkID": self.networks[network]}
                    for network, endpoint in body.get("NetworkingConfig", {}).get("EndpointsConfig", {}).items()
                }
            },
        }
        self.containers[name] = item
        return item

    def state(self, name: str, **changes: Any) -> None:
        """Put a container into a state."""
        status = changes.pop("status", "running")
        self.containers[name]["State"] = {
            "Status": status, "Running": status in ("running", "paused", "restarting"), "Paused": status == "paused",
            "Restarting": status == "restarting", "ExitCode": 0, **changes,
        }  # fmt: skip

    def named(self, text: str) -> str | None:
        """Name of the container that a request means by name or id."""
        return next((name for name, item in self.containers.items() if text in (name, item["Id"])), None)

    def answer(self, method: str, target: str, body: Any) -> Answer:
        """Answer a request."""
        url = urlsplit(target)
        self.asked.append(f"{method} {target}")
        if url.path == "/version":
            return 200, self.version
        version, _, path = unquote(url.path).removeprefix("/v").partition("/")
        assert tuple(map(int, version.split("."))) >= tuple(map(int, self.version["MinAPIVersion"].split(".")))
        call = f"{method} /{path}" + (f"?{url.query}" if url.query else "")
        if method != "GET":
            self.before(call)
            with self.lock:
                self.calls.append(call)
                self.bodies[call] = body
        for pattern, refusal in self.refused.items():
            if re.search(pattern, call):
                return refusal
        kind, _, rest = path.partition("/")
        with self.lock:
            return getattr(self, f"{method.lower()}_{kind}")(rest, parse_qs(url.query), body)

    def get_info(self, rest: str, query: Any, body: Any) -> Answer:
        """Describe the engine."""
        return 200, self.info

    def get_volumes(self, rest: str, query: Any, body: Any) -> Answer:
        """List the volumes."""
        return 200, {"Volumes": [each for each in self.volumes.values() if labelled(each.get("Labels"), query)] or None}

    def talk(self, target: str, body: Any, receive: Callable[[], bytes], send: Callable[[bytes], Any]) -> bool:
        """Run a program on an upgraded connection, or wait for its end; tells whether it was one of these."""
        path = urlsplit(target).path
        if waited := re.fullmatch(r"/v[\d.]+/containers/(.+)/wait", path):
            name = str(self.named(waited[1]))
            # The real one, too, sends this as soon as it will not miss the end any more.
            send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
            if self.ended[name].wait(timeout=10):
                send(json.dumps({"StatusCode": self.programs[name]["status"]}).encode())
            return True
        found = re.fullmatch(r"/v[\d.]+/(?:containers/(.+)/attach|exec/(.+)/start)", path)
        if not found:
            return False
        self.asked.append(f"POST {target}")
        name = str(self.named(found[1])) if found[1] else found[2]
        definition = self.containers[name]["Config"] if found[1] else self.programs[name]["definition"]
        send(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        done = self.program(name, definition, receive())
        if done is None:
            time.sleep(3)
            return True
        for stream, content in ((1, done[1]), (2, done[2])):
            for part in [content[at : at + 1000] for at in range(0, len(content), 1000)]:
                send(bytes([stream, 0, 0, 0]) + len(part).to_bytes(4, "big") + part)
        if found[1]:
            self.programs[name] = {"status": done[0]}
            self.ended[name].set()
            if self.containers[name]["HostConfig"].get("AutoRemove"):
                del self.containers[name]
        else:
            self.programs[name]["status"] = done[0]
        return True

    def get_exec(self, rest: str, query: Any, body: Any) -> Answer:
        """Describe a program."""
        status = self.programs[rest.removesuffix("/json")].get("status")
        return 200, {"Running": status is None, "ExitCode": status, "Pid": 0}

    def get_images(self, rest: str, query: Any, body: Any) -> Answer:
        """Describe an image, or list them."""
        if rest == "json":
            return 200, [{"Id": image, "RepoTags": [name]} for name, image in self.images.items()]
        found = self.images.get(rest.removesuffix("/json"))
        return (200, {"Id": found}) if found else (404, {"message": f"No such image: {rest}"})

    def get_networks(self, rest: str, query: Any, body: Any) -> Answer:
        """Describe a network, or list them."""
        if not rest:
            return 200, [
                {"Id": found, "Name": name, "IPAM": {"Config": [{"Subnet": self.subnet}]}}
                for name, found in self.networks.items()
            ]
        found = self.networks.get(rest)
        return (200, {"Id": found}) if found else (404, {"message": f"network {rest} not found"})

    def get_containers(self, rest: str, query: Any, body: Any) -> Answer:
        """Describe a container, or list them."""
        if rest == "json":
            return 200, [
                {
                    "Names": [item["Name"]],
                    "Labels": item["Config"]["Labels"],
                    "Ports": item.get("Ports") or [],
                    "State": item["State"].get("Status", "running" if item["State"]["Running"] else "exited"),
                }
                for item in self.containers.values()
                if labelled(item["Config"]["Labels"], query) and (query["all"] == ["1"] or item["State"]["Running"])
            ]
        name = self.named(rest.removesuffix("/json"))
        return (200, self.containers[name]) if name else (404, {"message": f"No such container: {rest}"})

    def delete_containers(self, rest: str, query: Any, body: Any) -> Answer:
        """Remove a container."""
        name = self.named(rest)
        if name is None:
            return 404, {"message": f"No such container: {rest}"}
        del self.containers[name]
        return 204, None

    def post_networks(self, rest: str, query: Any, body: Any) -> Answer:
        """Connect or disconnect a container."""
        network, _, what = rest.partition("/")
        name = next(name for name, found in self.networks.items() if network in (name, found))
        networks = self.containers[str(self.named(body["Container"]))]["NetworkSettings"]["Networks"]
        if what == "connect":
            networks[name] = {**body["EndpointConfig"], "NetworkID": self.networks[name]}
        else:
            del networks[name]
        return 200, None

    def post_containers(self, rest: str, query: Any, body: Any) -> Answer:
        """Create a container, or change its state or its limits."""
        if rest == "create":
            name = query["name"][0]
            if name in self.containers:
                return 409, {"message": f'Conflict. The container name "/{name}" is already in use by container "x".'}
            self.ended[name] = threading.Event()
            return 201, {"Id": self.add(name, body)["Id"], "Warnings": []}
        found, _, what = rest.partition("/")
        name = self.named(found)
        if name is None:
            return 404, {"message": f"No such container: {found}"}
        item = self.containers[name]
        if what == "exec":
            self.programs[f"exec-{name}"] = {"definition": body}
            return 201, {"Id": f"exec-{name}"}
        if what == "update":
            item["HostConfig"].update(body)
            return 200, {"Warnings": None}
        self.state(name, status="exited" if what == "stop" else "running")
        return 204, None


def labelled(labels: dict[str, str] | None, query: dict[str, list[str]]) -> bool:
    """Whether something has the labels of a request's filter."""
    wanted = json.loads(query["filters"][0]).get("label", [])
    return all((labels or {}).get(each.partition("=")[0]) == each.partition("=")[2] for each in wanted)


class Handler(BaseHTTPRequestHandler):
    """Hands requests to the engine of its server."""

    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        """Answer."""
        # The real one hands everything after the head of this request to the program.
        attached = urlsplit(self.path).path.endswith("/attach")
        size = 0 if attached else int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        if self.command == "POST" and self.server.engine.talk(  # type: ignore[attr-defined]
            self.path, body, self.rfile.read, self.wfile.write
        ):
            self.close_connection = True
            return
        status, content = self.server.engine.answer(self.command, self.path, body)  # type: ignore[attr-defined]
        data = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = handle_any

    def address_string(self) -> str:
        """Clients of a Unix socket have no address."""
        return "client"

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


class Server(socketserver.ThreadingUnixStreamServer):
    """Answers each connection in a thread."""

    daemon_threads = True
    request_queue_size = 64
    engine: FakeEngine

    def handle_error(self, *args: Any) -> None:
        """A client that has given up is no error; one of this engine shows in the client's answer."""


@contextlib.contextmanager
def running(path: Path, **options: str) -> Iterator[FakeEngine]:
    """Run an engine that listens at a path."""
    engine = FakeEngine(path, **options)
    with Server(str(path), Handler) as server:
        server.engine = engine
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield engine
        finally:
            server.shutdown()
            thread.join()


class Gauge:
    """Counts how many requests are being answered at once."""

    def __init__(self, wanted: int = 0) -> None:
        """Hold requests back until `wanted` of them are there, or half a minute has passed."""
        self.wanted = wanted
        self.now = self.most = 0
        self.changed = threading.Condition()

    def __call__(self, call: str) -> None:
        """Count a request in, take a moment, and count it out."""
        with self.changed:
            self.now += 1
            self.most = max(self.most, self.now)
            self.changed.notify_all()
            if not self.changed.wait_for(lambda: self.most >= self.wanted, timeout=30):
                self.wanted = 0  # they do not come: the test says so, and need not wait for each
        time.sleep(0.05)
        with self.changed:
            self.now -= 1
