"""A run, its artifact and a registered model, by a client that has no key of the object store."""

from __future__ import annotations

import concurrent.futures
import gzip
import hashlib
import json
import os
import re
import socket
import subprocess
import threading
import time
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from client_programs import run_client
from stack_under_test import HOST, REPOSITORY, Stack, ansible_command, as_root, command, eventually, play
from test_applications import (  # noqa: F401
    MLflow,
    test_mlflow_proxies_artifacts,
    test_mlflow_refuses_other_names,
    test_mlflow_sends_nobody_to_minio,
    test_mlflow_takes_writes_from_its_own_page_only,
)
from test_data_services import psql, s3

CLIENTS = 8
MIB = 2**20
LARGE_MIB = 160  # of which three together are more than the server's memory
GROWTH_MIB = 96
TIMEOUT = 300


def test_run_artifact_and_model(stack: Stack) -> None:
    """Logged, registered, loaded back by name; the files are objects in MLflow's bucket, the rows in its database."""
    name = f"probe {uuid.uuid4()}"
    found = json.loads(run_client("dags", "mlflow_client.py", url=stack.url("mlflow"), name=name).splitlines()[-1])
    assert found["note"] == "kept\n"
    assert found["prediction"] == pytest.approx(301)
    assert found["artifact_uri"].startswith("mlflow-artifacts:/")
    key = "artifacts/" + found["artifact_uri"].removeprefix("mlflow-artifacts:/").lstrip("/") + "/notes/note.txt"
    assert s3(stack, "mlflow").get_object(Bucket="mlflow", Key=key)["Body"].read() == b"kept\n"
    query = f"SELECT count(*) FROM model_versions WHERE name = '{name}'"
    assert psql(stack, "mlflow", "mlflow", query) == (0, "1")


def test_the_example_for_a_laptop(stack: Stack, tmp_path: Path) -> None:
    """As docs/mlflow.md has it, at this stack's address."""
    page = (REPOSITORY / "docs" / "mlflow.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "http://localhost:5500" in example
    program = tmp_path / "example.py"
    program.write_text(example.replace("http://localhost:5500", stack.url("mlflow")))
    assert run_client("dags", str(program)).splitlines()[-1] == "[8.]"
    query = "SELECT count(*) FROM model_versions WHERE name = 'line'"
    assert psql(stack, "mlflow", "mlflow", query) == (0, "1")


def test_what_was_logged_outlives_the_server(stack: Stack) -> None:
    """The container keeps nothing itself."""
    added = [line[2:] for line in command("docker", "diff", f"{stack.name}-mlflow").splitlines() if line[0] == "A"]
    # Places that the engine makes for its mounts.
    assert set(added) <= {"/run/secrets", "/run/config", "/usr/sbin/docker-init"}
    mounts = command("docker", "inspect", "--format", "{{range .Mounts}}{{.Type}} {{end}}", f"{stack.name}-mlflow")
    assert "volume" not in mounts


class Artifacts:
    """A run's files, as a client without a key of the object store has them."""

    def __init__(self, stack: Stack) -> None:
        """Make an experiment with a run."""
        self.api = MLflow(stack)
        self.experiment = self.api.post("experiments/create", name=f"probe {uuid.uuid4()}")["experiment_id"]
        self.run = self.new_run()
        self.store = s3(stack, "mlflow")

    def new_run(self) -> dict[str, Any]:
        """Make a run."""
        return self.api.post("runs/create", experiment_id=self.experiment)["run"]["info"]

    def path(self, name: str, run: dict[str, Any] | None = None) -> str:
        """Path of a file in the artifact store."""
        return (run or self.run)["artifact_uri"].removeprefix("mlflow-artifacts:/").lstrip("/") + f"/{name}"

    def address(self, name: str, run: dict[str, Any] | None = None) -> str:
        """Address of a file."""
        return f"{self.api.base}/mlflow-artifacts/artifacts/{self.path(name, run)}"

    def keys(self, run: dict[str, Any] | None = None) -> list[str]:
        """Names of a run's objects, as MinIO lists them."""
        prefix = f"artifacts/{self.path('', run)}"
        found = self.store.list_objects_v2(Bucket="mlflow", Prefix=prefix).get("Contents", [])
        return [item["Key"].removeprefix(prefix) for item in found]


@pytest.fixture
def artifacts(stack: Stack) -> Any:
    """The files of a run that is thrown away."""
    made = Artifacts(stack)
    yield made
    made.api.post("experiments/delete", experiment_id=made.experiment)
    for item in made.store.list_objects_v2(Bucket="mlflow", Prefix=f"artifacts/{made.experiment}/").get("Contents", []):
        made.store.delete_object(Bucket="mlflow", Key=item["Key"])


def memory_mib(stack: Stack) -> float:
    """Memory of MLflow's container that the kernel cannot take back: processes, and files in temporary directories."""
    places = "cat /sys/fs/cgroup/memory/memory.stat 2> /dev/null || cat /sys/fs/cgroup/memory.stat"
    said = stack.execute("mlflow", "sh", "-c", places).stdout
    found = dict(line.split() for line in said.splitlines())
    return sum(int(found.get(name, 0)) for name in ("rss", "anon", "shmem")) / MIB


def at_flat_memory(stack: Stack, work: Callable[[], None]) -> None:
    """Do what must neither kill the server nor make it grow."""
    started = stack.containers()["mlflow"]["State"]["StartedAt"]
    before, highest, done = memory_mib(stack), [0.0], threading.Event()

    def watch() -> None:
        # What is refused at once is over sooner than the next look would come.
        while True:
            highest[0] = max(highest[0], memory_mib(stack))
            if done.wait(0.2):
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    assert stack.containers()["mlflow"]["State"]["StartedAt"] == started
    assert 0 < highest[0] < before + GROWTH_MIB


def test_large_files_by_many_clients(stack: Stack, artifacts: Artifacts, tmp_path: Path) -> None:
    """Eight clients at once; three of their files would fill the memory. Everyone gets what was sent."""
    block = os.urandom(MIB)
    digests = {}
    for number in range(CLIENTS):
        parts = [number.to_bytes(8, "big"), *[block] * LARGE_MIB]
        (tmp_path / f"{number}.bin").write_bytes(b"".join(parts))
        digests[f"{number}.bin"] = hashlib.sha256(b"".join(parts)).hexdigest()

    def send(name: str) -> None:
        with (tmp_path / name).open("rb") as file:
            answer = requests.put(artifacts.address(name), data=file, timeout=TIMEOUT)
        assert answer.status_code == 200, answer.text

    def get(name: str) -> str:
        digest = hashlib.sha256()
        with requests.get(artifacts.address(name), stream=True, timeout=TIMEOUT) as answer:
            assert answer.status_code == 200
            for chunk in answer.iter_content(MIB):
                digest.update(chunk)
        return digest.hexdigest()

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
        at_flat_memory(stack, lambda: [*clients.map(send, digests)] and None)
        assert sorted(artifacts.keys()) == sorted(digests)
        found = {}
        at_flat_memory(stack, lambda: found.update(zip(digests, clients.map(get, digests), strict=True)))
    assert found == digests


def test_parts_of_a_file_and_what_the_page_asks_for(stack: Stack, artifacts: Artifacts) -> None:
    """Ranges, HEAD, conditions, no such file; the page's own address of a file, and its list; deletion."""
    assert requests.put(artifacts.address("a b.txt"), data=b"0123456789", timeout=TIMEOUT).status_code == 200
    whole = requests.get(artifacts.address("a b.txt"), timeout=TIMEOUT)
    assert (whole.content, whole.headers["content-length"]) == (b"0123456789", "10")
    assert whole.headers["content-disposition"].startswith("attachment") and "minio" not in str(whole.headers)
    part = requests.get(artifacts.address("a b.txt"), headers={"Range": "bytes=2-4"}, timeout=TIMEOUT)
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    beyond = requests.get(artifacts.address("a b.txt"), headers={"Range": "bytes=20-"}, timeout=TIMEOUT)
    assert (beyond.status_code, beyond.content) == (416, b"")  # S3's own words name its keys
    other = requests.get(artifacts.address("a b.txt"), headers={"If-Match": '"other"'}, timeout=TIMEOUT)
    assert (other.status_code, other.content) == (412, b"")
    head = requests.head(artifacts.address("a b.txt"), timeout=TIMEOUT)
    assert (head.status_code, head.headers["content-length"]) == (200, "10")
    same = requests.get(artifacts.address("a b.txt"), headers={"If-None-Match": whole.headers["etag"]}, timeout=TIMEOUT)
    assert same.status_code == 304
    missing = requests.get(artifacts.address("nothing"), timeout=TIMEOUT)
    assert (missing.status_code, missing.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    query = {"run_uuid": artifacts.run["run_id"], "path": "a b.txt"}
    shown = requests.get(stack.url("mlflow", "/get-artifact"), params=query, timeout=TIMEOUT)
    assert (shown.status_code, shown.content) == (200, b"0123456789")
    listed = artifacts.api.get("artifacts/list", run_id=artifacts.run["run_id"])["files"]
    assert [(item["path"], item["file_size"]) for item in listed] == [("a b.txt", 10)]
    assert requests.delete(artifacts.address("a b.txt"), timeout=TIMEOUT).status_code == 200
    assert artifacts.keys() == []


def test_slow_and_vanished_clients(stack: Stack, artifacts: Artifacts) -> None:
    """Who takes a file slowly, or goes away while sending one, costs no memory and leaves nothing; others go on."""
    body = os.urandom(MIB) * LARGE_MIB
    assert requests.put(artifacts.address("large"), data=body, timeout=TIMEOUT).status_code == 200

    def work() -> None:
        page = {"run_uuid": artifacts.run["run_id"], "path": "large"}
        addresses = [(artifacts.address("large"), {}), (stack.url("mlflow", "/get-artifact"), page)] * (CLIENTS // 2)
        slow = [requests.get(address, params=query, stream=True, timeout=TIMEOUT) for address, query in addresses]
        senders = [socket.create_connection((stack.address, stack.port("mlflow"))) for _ in range(CLIENTS)]
        for number, sender in enumerate(senders):
            path = f"/api/2.0/mlflow-artifacts/artifacts/{artifacts.path(f'half {number}').replace(' ', '%20')}"
            head = f"PUT {path} HTTP/1.1\r\nHost: localhost:5500\r\nContent-Length: {2**31}\r\n\r\n"
            sender.sendall(head.encode() + body[: 4 * MIB])
        time.sleep(5)  # long enough for a server that reads ahead to do so
        assert [next(answer.iter_content(1000)) for answer in slow] == [body[:1000]] * CLIENTS
        assert requests.put(artifacts.address("small"), data=b"kept", timeout=TIMEOUT).status_code == 200
        for sender in senders:
            sender.close()
        for answer in slow:
            answer.close()

    at_flat_memory(stack, work)
    assert sorted(artifacts.keys()) == ["large", "small"]

    def parts_left() -> list[str]:
        return [item["Key"] for item in artifacts.store.list_multipart_uploads(Bucket="mlflow").get("Uploads", [])]

    assert eventually(lambda: parts_left() == [], seconds=30)
    assert int(stack.execute("mlflow", "du", "-sk", "/tmp").stdout.split()[0]) < 1024


def test_a_large_request_that_is_no_artifact(stack: Stack) -> None:
    """Is refused, with or without its length, before the server holds it."""
    address = stack.url("mlflow", "/api/2.0/mlflow/experiments/search")

    def work() -> None:
        answer = requests.post(address, data=b" " * (200 * MIB), timeout=TIMEOUT)
        assert (answer.status_code, answer.json()["error_code"]) == (413, "INVALID_PARAMETER_VALUE")
        answer = requests.post(address, data=(b" " * MIB for _ in range(40)), timeout=TIMEOUT)
        assert answer.status_code == 413

    at_flat_memory(stack, work)


def test_many_large_requests_at_once(stack: Stack) -> None:
    """Each is small enough; what the server can hold is served, the others are told to come again."""
    address = stack.url("mlflow", "/api/2.0/mlflow/experiments/search")
    started = command("docker", "inspect", "--format", "{{.State.StartedAt}}", f"{stack.name}-mlflow")
    large = b'{"filter": "' + b"x" * (15 * MIB) + b'"}'
    with concurrent.futures.ThreadPoolExecutor(2 * CLIENTS) as pool:
        answers = pool.map(
            lambda _: requests.post(address, data=large, timeout=TIMEOUT).status_code, range(2 * CLIENTS)
        )
        found = set(answers)
    # 400: no such filter.
    assert 400 in found and found <= {400, 503}
    assert requests.post(address, json={"max_results": 1}, timeout=TIMEOUT).status_code == 200
    assert command("docker", "inspect", "--format", "{{.State.StartedAt}}", f"{stack.name}-mlflow") == started


def test_a_large_request_that_only_looks_like_an_artifact(stack: Stack) -> None:
    """MLflow's routes of artifacts don't serve it, and what does would hold it."""
    address = stack.url("mlflow", "/probe/mlflow-artifacts/artifacts/x")

    def work() -> None:
        assert requests.put(address, data=b" " * (200 * MIB), timeout=TIMEOUT).status_code == 413

    at_flat_memory(stack, work)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_traces_that_are_large_once_decompressed(stack: Stack, encoding: str) -> None:
    """A request of half a megabyte that holds 500 is refused; what is compressed and small is read."""
    address = stack.url("mlflow", "/v1/traces")
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": encoding, "x-mlflow-experiment-id": "0"}
    compress = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding]
    large = compress(b"\0" * (500 * MIB))

    def work() -> None:
        assert requests.post(address, data=large, headers=headers, timeout=TIMEOUT).status_code == 413

    at_flat_memory(stack, work)
    small = requests.post(address, data=compress(b"no traces"), headers=headers, timeout=TIMEOUT)
    assert small.status_code == 400 and "Invalid OpenTelemetry format" in small.text
    damaged = requests.post(address, data=large[:100], headers=headers, timeout=TIMEOUT)
    assert damaged.status_code == 400 and "not compressed" in damaged.text


def test_deleted_runs_are_removed_with_their_files(stack: Stack, artifacts: Artifacts) -> None:
    """By one command; a run that isn't deleted keeps its files."""
    gone = artifacts.new_run()
    for run in (artifacts.run, gone):
        assert requests.put(artifacts.address("note.txt", run), data=b"kept", timeout=TIMEOUT).status_code == 200
    artifacts.api.post("runs/delete", run_id=gone["run_id"])
    done = stack.execute("mlflow", "mlflow-gc", "--run-ids", gone["run_id"])
    assert done.returncode == 0, done.stderr
    assert (artifacts.keys(gone), artifacts.keys()) == ([], ["note.txt"])
    query = f"SELECT run_uuid FROM runs WHERE experiment_id = {artifacts.experiment}"
    assert psql(stack, "mlflow", "mlflow", query) == (0, artifacts.run["run_id"])
    refused = stack.execute("mlflow", "mlflow-gc", "--run-ids", artifacts.run["run_id"])
    assert refused.returncode != 0 and artifacts.keys() == ["note.txt"]


def log_model(found: Artifacts, name: str) -> None:
    """Log a model with one file in a run, and register it if it has a name."""
    run = found.run["run_id"]
    model = found.api.post("logged-models", experiment_id=found.experiment, name="probe", source_run_id=run)
    info = model["model"]["info"]
    place = info["artifact_uri"].removeprefix("mlflow-artifacts:/").lstrip("/")
    address = f"{found.api.base}/mlflow-artifacts/artifacts/{place}/model.bin"
    assert requests.put(address, data=b"model", timeout=TIMEOUT).status_code == 200
    if name:
        found.api.post("registered-models/create", name=name)
        source = f"models:/{info['model_id']}"
        found.api.post("model-versions/create", name=name, source=source, model_id=info["model_id"])


def objects(found: Artifacts) -> int:
    """How many objects MinIO holds of an experiment."""
    return found.store.list_objects_v2(Bucket="mlflow", Prefix=f"artifacts/{found.experiment}/")["KeyCount"]


def test_what_was_deleted_is_shown_and_then_removed(stack: Stack, artifacts: Artifacts) -> None:
    """With its objects, those of models too; neither what is younger, nor what runs on, nor a registered model's."""
    name = f"probe {uuid.uuid4()}"
    gone, whole, used = artifacts.new_run(), Artifacts(stack), Artifacts(stack)
    for found, run in ((artifacts, artifacts.run), (artifacts, gone), (whole, whole.run), (used, used.run)):
        assert requests.put(found.address("note.txt", run), data=b"kept", timeout=TIMEOUT).status_code == 200
    log_model(whole, "")
    log_model(used, name)
    artifacts.api.post("runs/delete", run_id=gone["run_id"])
    for found in (whole, used):
        found.api.post("experiments/delete", experiment_id=found.experiment)

    def collect(*options: str, status: int = 0) -> str:
        words = [word for option in options for word in ("--extra-vars", option)]
        host = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
        words.append("--inventory=molecule/shared/inventory.yml")
        return play("playbooks/mlflow_gc.yml", *words, inventory=host, status=status)

    def stored() -> tuple[list[str], list[str], int, int]:
        return artifacts.keys(), artifacts.keys(gone), objects(whole), objects(used)

    before = (["note.txt"], ["note.txt"], 2, 2)
    now, confirmed = "mlflow_gc_older_than=0d", f"mlflow_gc_confirm={stack.name}"
    shown = collect(now)
    assert "To remove: " in shown and f"is kept for {name} version 1" in shown
    assert "To remove: 0 experiments, 0 runs and 0 models with 0 objects" in collect()
    assert "Removed: 0 experiments, 0 runs and 0 models with 0 objects" in collect(confirmed)
    assert "the stack is named" in collect(now, "mlflow_gc_confirm=yes", status=2)
    assert "expected a time such as 30d" in collect("mlflow_gc_older_than=30", confirmed, status=2)
    assert stored() == before
    assert "Removed: " in collect(now, confirmed)
    assert stored() == (["note.txt"], [], 0, 2)
    query = f"SELECT experiment_id FROM experiments WHERE experiment_id IN ({whole.experiment}, {used.experiment})"
    assert psql(stack, "mlflow", "mlflow", query) == (0, used.experiment)
    query = f"SELECT run_uuid FROM runs WHERE experiment_id IN ({artifacts.experiment}, {whole.experiment})"
    assert psql(stack, "mlflow", "mlflow", query) == (0, artifacts.run["run_id"])
    assert "To remove: 0 experiments, 0 runs and 0 models with 0 objects" in collect(now)


def test_what_was_deleted_is_removed_once_a_day(stack: Stack, artifacts: Artifacts) -> None:
    """At the declared time, and only what was deleted as long ago as declared; the same program, at the next minute."""
    address, keys = artifacts.address("note.txt"), artifacts.keys
    assert requests.put(address, data=b"kept", timeout=TIMEOUT).status_code == 200
    artifacts.api.post("runs/delete", run_id=artifacts.run["run_id"])
    program, script, _time, url, age = stack.containers()["mlflow-gc-daily"]["Config"]["Cmd"]
    assert age == "30d" and stack.well("mlflow-gc-daily")

    kept = stack.execute("mlflow-gc-daily", program, script.replace("gc_daily", "gc"), url, age, "remove")
    assert "Removed: 0 experiments, 0 runs and 0 models with 0 objects" in kept.stdout, kept.stderr
    assert keys() == ["note.txt"]
    soon = time.strftime("%H:%M", time.gmtime(time.time() + 90))
    words = as_root(
        "docker", "exec", f"{stack.name}-mlflow-gc-daily", "timeout", "400", program, script, soon, url, "0d"
    )
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as running:
        said = []
        for line in running.stdout or ():
            said.append(line)
            if line.startswith(("Removed: ", "Failed")):
                break
        running.terminate()
    assert said[-1].startswith("Removed: "), said
    assert keys() == []
    query = f"SELECT run_uuid FROM runs WHERE experiment_id = {artifacts.experiment}"
    assert psql(stack, "mlflow", "mlflow", query) == (0, "")


def test_status_tells_what_experiments_store(stack: Stack, artifacts: Artifacts) -> None:
    """With the largest by name; without MinIO, status still succeeds and says why this is missing."""
    assert requests.put(artifacts.address("large"), data=os.urandom(3 * MIB), timeout=TIMEOUT).status_code == 200
    name = psql(
        stack, "mlflow", "mlflow", f"SELECT name FROM experiments WHERE experiment_id = {artifacts.experiment}"
    )[1]

    def told() -> str:
        host = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
        return play("playbooks/status.yml", "--inventory=molecule/shared/inventory.yml", inventory=host)

    said = told()
    assert f"{stack.name}-mlflow: 3 MiB of artifacts of experiment {name}" in said
    assert re.search(rf"{stack.name}-mlflow uses \d+ MiB of artifacts \(\d+ objects\)", said)
    command("docker", "stop", f"{stack.name}-minio")
    try:
        said = told()
    finally:
        command("docker", "start", f"{stack.name}-minio")
        eventually(lambda: stack.well("minio"), seconds=120)
    assert "of artifacts" not in said and f"{stack.name}-mlflow does not say what it uses: " in said


def test_status_tells_of_kills_for_memory(stack: Stack) -> None:
    """The kernel's count, of a process beside the container's first one, while the container goes on."""

    def told() -> str:
        words = ("--inventory", f"{HOST},", "--connection", "community.docker.docker", "--args", f"stack={stack.name}")
        return ansible_command("all", "--module-name", "quantops.ibkr_stack.stack_status", *words)

    assert "KILLED FOR MEMORY" not in told()
    started = stack.containers()["mlflow"]["State"]["StartedAt"]
    # With this score the kernel chooses the program, even when the server holds more memory.
    program = "open('/proc/self/oom_score_adj', 'w').write('1000'); held = bytearray(2**30); print(len(held))"
    killed = stack.execute("mlflow", "python", "-c", program)
    assert killed.returncode == 137, killed.stdout
    # Whether the engine says OOMKilled of a container that goes on is a matter of chance.
    found = stack.containers()["mlflow"]["State"]
    assert found["Running"] and found["StartedAt"] == started
    line = re.search(r"KILLED FOR MEMORY: (.*)", told())
    assert line and f"{stack.name}-mlflow, 1 process " in line[1] and "`memory` in mlflow_overrides" in line[1]
