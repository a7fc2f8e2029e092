"""One stack over three hosts: they find each other and nobody else finds them, and each may go and come back."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from cluster_under_test import drift, rearranged
from stack_under_test import Stack, eventually, run_playbook

DATA, SERVICES, WORKER = HOSTS = ("mol-cluster-data", "mol-cluster-services", "mol-cluster-worker")
NETWORK, NEIGHBOUR = "mol-cluster", "mol-cluster-neighbour"
LAN = {DATA: "10.203.77.11", SERVICES: "10.203.77.12", WORKER: "10.203.77.13", NEIGHBOUR: "10.203.77.99"}
MESH = {DATA: "172.28.64.1", SERVICES: "172.28.64.2", WORKER: "172.28.64.3"}
#: What each host runs; jobs have ended.
RUNNING = {
    DATA: {"postgres", "redis", "minio", "backup"},
    SERVICES: {
        *("ibkr-gateway", "backend", "celery-beat", "flower", "mlflow"),
        *("airflow-apiserver", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"),
    },
    WORKER: {"airflow-worker", "celery-worker"},
}  # fmt: skip
#: Every port that the stack publishes anywhere, that of SSH left out: a test host has none.
PORTS = (5432, 6379, 9000, 9001, 5055, 8000, 5555, 5500, 8080, 8974, 2375, 2376)
#: Answers of the ports of a host that somebody else asks.
ASK = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def answers(place):
    address, port = place.rsplit(":", 1)
    try:
        socket.create_connection((address, int(port)), timeout=5).close()
    except OSError:
        return False
    return True
with ThreadPoolExecutor(32) as pool:
    for place, answered in zip(sys.argv[1:], pool.map(answers, sys.argv[1:])):
        if answered:
            print(place)
"""
#: Everything that goes over a host's network interface for some seconds, as it is there.
CAPTURE = """
import socket, sys, time
taken, until = b"", time.monotonic() + float(sys.argv[1])
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as wire:
    wire.bind(("eth0", 0))
    wire.settimeout(0.5)
    print("ready", flush=True)
    while time.monotonic() < until:
        try:
            taken += wire.recv(65535)
        except TimeoutError:
            pass
for word in sys.argv[2:]:
    print(word, taken.count(word.encode()))
print("bytes", len(taken))
"""


def docker(*words: str, stdin: str = "", status: int | None = 0, timeout: float = 180) -> str:
    """Run Docker's client on this machine, and return what it says."""
    words = ("docker", *words) if os.geteuid() == 0 else ("sudo", "--non-interactive", "docker", *words)
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    assert status is None or done.returncode == status, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


def on(host: str, *words: str, stdin: str = "", status: int | None = 0, timeout: float = 180) -> str:
    """Run a command on a test host."""
    return docker("exec", "--interactive", host, *words, stdin=stdin, status=status, timeout=timeout)


def inside(host: str, container: str, *words: str, stdin: str = "", status: int | None = 0) -> str:
    """Run a command in a container of the stack."""
    return on(host, "docker", "exec", "--interactive", f"molecule-{container}", *words, stdin=stdin, status=status)


def described(host: str) -> dict[str, dict[str, Any]]:
    """The engine's description of the stack's containers on a host, by their names in it."""
    names = on(host, "docker", "ps", "--all", "--quiet", "--filter", "label=quantops.stack=molecule").split()
    found = json.loads(on(host, "docker", "inspect", *names)) if names else []
    return {item["Name"].removeprefix("/molecule-"): item for item in found}


def well(host: str) -> bool:
    """Whether all that should run on a host does, and nothing is unwell or starting."""
    found = described(host)
    states = {name: found[name]["State"] for name in RUNNING[host] if name in found}
    return len(states) == len(RUNNING[host]) and all(
        state["Running"] and state["Health"]["Status"] == "healthy" for state in states.values()
    )


def ids(host: str) -> dict[str, str]:
    """Container to its id, of those that keep running."""
    return {name: item["Id"] for name, item in described(host).items() if name in RUNNING[host]}


def play(playbook: str, *options: str, status: int = 0, inventory: Path | None = None) -> str:
    """Run a playbook on the hosts, and return what it says."""
    hosts = inventory or Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
    done = run_playbook(f"playbooks/{playbook}.yml", hosts, "--inventory=molecule/shared/inventory.yml", *options)
    said = done.stdout + done.stderr
    assert done.returncode == status, said[-8000:]
    return said


@pytest.fixture(scope="module")
def neighbour() -> Iterator[Callable[..., str]]:
    """A machine on the hosts' network that is none of theirs. It knows the mesh's addresses, and the way to them."""
    image = docker("inspect", "--format", "{{.Config.Image}}", WORKER).strip()
    docker("rm", "--force", NEIGHBOUR, status=None)
    docker(
        *("run", "--detach", "--name", NEIGHBOUR, "--network", NETWORK, "--ip", LAN[NEIGHBOUR]),
        *("--cap-add", "NET_ADMIN", "--label", "quantops.molecule=host", image, "sleep", "infinity"),
    )  # fmt: skip
    for host in HOSTS:
        docker("exec", NEIGHBOUR, "ip", "route", "add", MESH[host], "via", LAN[host])
    yield lambda *words, **more: docker("exec", "--interactive", NEIGHBOUR, *words, **more)
    docker("rm", "--force", NEIGHBOUR)


@pytest.fixture(scope="module")
def airflow() -> Iterator[requests.Session]:
    """Airflow's API as its administrator."""
    with requests.Session() as session:
        session.headers.update(Stack().airflow_token())
        yield session


def address(path: str) -> str:
    """Of Airflow's API."""
    return Stack().url("airflow", f"/api/v2/dags/daily_strategy_training/{path}")


def start_training(airflow: requests.Session) -> str:
    """Start the example's DAG, and return the run's id."""
    body = {"logical_date": None, "conf": {"symbol": "IBM"}}
    answer = airflow.post(address("dagRuns"), json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["dag_run_id"]


def tasks_of(airflow: requests.Session, run: str) -> dict[str, dict[str, Any]]:
    """Task to what Airflow says of it."""
    answer = airflow.get(address(f"dagRuns/{run}/taskInstances"), timeout=60)
    answer.raise_for_status()
    return {task["task_id"]: task for task in answer.json()["task_instances"]}


def ended(airflow: requests.Session, run: str, seconds: float = 900) -> str:
    """Wait for a run's end, and return its state."""

    def state() -> str:
        # While a host or the mesh is away, an answer may take longer.
        try:
            answer = airflow.get(address(f"dagRuns/{run}"), timeout=60)
        except requests.RequestException:
            return ""
        found = answer.json().get("state", "") if answer.ok else ""
        return found if found in ("success", "failed") else ""

    return eventually(state, seconds, pause=5)


# ---- who runs what, and how they meet


def test_every_host_runs_what_the_inventory_says() -> None:
    """And nothing else: a host of workers has workers alone."""
    found = {host: {name for name, item in described(host).items() if item["State"]["Running"]} for host in HOSTS}
    assert found == RUNNING
    for host in HOSTS:
        eventually(lambda host=host: well(host), 180)


def test_hosts_have_addresses_and_keys_of_their_own() -> None:
    """The private key is in the host's file and on the controller, readable by its owner; nobody else's is there."""
    records = Path(os.environ["QUANTOPS_SECRETS_DIR"], "mesh")
    keys = {}
    for host in HOSTS:
        text = (records / host).read_text()
        assert f"Address = {MESH[host]}\n" in text and (records / host).stat().st_mode & 0o077 == 0
        keys[host] = text.rpartition("PrivateKey = ")[2].strip()
        assert f" {MESH[host]}/24 " in on(host, "ip", "-4", "-o", "address", "show", "dev", "wg-molecule")
        public = on(host, "wg", "show", "wg-molecule", "public-key").strip()
        assert on(host, "wg", "pubkey", stdin=keys[host]).strip() == public
        assert public in on(WORKER if host == DATA else DATA, "wg", "show", "wg-molecule", "peers")
        assert on(host, "stat", "--format", "%a %U", "/etc/wireguard/wg-molecule.conf").split() == ["600", "root"]
    for host in HOSTS:
        elsewhere = [key for other, key in keys.items() if other != host]
        found = on(
            host, "grep", "-rlF", *[f"-e{key}" for key in elsewhere], "/etc", "/run", "/var/log", "/tmp", status=None
        )
        assert found == ""


def test_what_other_hosts_need_is_published_on_the_mesh_alone() -> None:
    """Databases there only, pages where the inventory says."""
    published = {
        f"{binding['HostIp']}:{binding['HostPort']}"
        for name in RUNNING[DATA]
        for bindings in (described(DATA)[name]["HostConfig"]["PortBindings"] or {}).values()
        for binding in bindings
    }
    at = MESH[DATA]
    assert published == {f"{at}:5432", f"{at}:6379", f"{at}:9000", "127.0.0.1:9000", "127.0.0.1:9001"}
    assert all(not item["HostConfig"]["PortBindings"] for item in described(WORKER).values())


def test_a_neighbour_finds_every_port_closed(neighbour: Callable[..., str]) -> None:
    """At the hosts' own addresses and, by a route of its own, at those of the mesh, which Linux would answer too."""
    places = [f"{each}:{port}" for host in HOSTS for each in (LAN[host], MESH[host]) for port in PORTS]
    assert neighbour("python3", "-", *places, stdin=ASK, timeout=300).split() == []
    # The question can be answered: a host of the mesh finds what it needs, and this machine the pages.
    there = f"{MESH[DATA]}:5432 {MESH[SERVICES]}:8080".split()
    assert on(WORKER, "python3", "-", *there, stdin=ASK).split() == there
    assert requests.get(Stack().url("mlflow", "/health"), timeout=30).status_code == 200


def test_a_capture_shows_no_plaintext(neighbour: Callable[..., str]) -> None:
    """What goes to MinIO, by plain HTTP, from another host is not readable on the wire between them."""
    secret, control = "a-word-between-hosts", "a-word-of-the-neighbour"
    image = docker("inspect", "--format", "{{.Config.Image}}", WORKER).strip()
    words = ["run", "--rm", "--interactive", "--network", f"container:{DATA}", "--cap-add", "NET_RAW", image]
    words = ["docker", *words, "python3", "-u", "-c", CAPTURE, "15", secret, control]
    words = words if os.geteuid() == 0 else ["sudo", "--non-interactive", *words]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as wire:
        assert wire.stdout and wire.stdout.readline() == "ready\n"
        send = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto({!r}.encode(), ({!r}, 9))"
        neighbour("python3", "-c", send.format(control, LAN[DATA]))
        ask = "import http.client as c; c.HTTPConnection('{}', 9000).request('GET', '/{}')"
        for _attempt in range(5):
            inside(WORKER, "airflow-worker", "python", "-c", ask.format(MESH[DATA], secret))
        seen = dict(line.split() for line in wire.stdout.read().splitlines())
    assert int(seen[control]) > 0 and int(seen["bytes"]) > 2000
    assert int(seen[secret]) == 0


# ---- work on the remote worker


def test_a_model_is_trained_on_the_remote_worker(airflow: requests.Session) -> None:
    """What an operator runs: bars from the backend, the model in MLflow, its objects in MinIO on a third host."""
    said = play("verify")
    assert "✔ Its log can be read through Airflow's API" in said and "objects of MLflow and Airflow" in said
    runs = airflow.get(address("dagRuns"), params={"order_by": "-end_date", "limit": 1}, timeout=60).json()["dag_runs"]
    tasks = tasks_of(airflow, runs[0]["dag_run_id"])
    assert {task["state"] for task in tasks.values()} == {"success"}
    log = inside(WORKER, "airflow-worker", "ls", "-R", "/opt/airflow/logs", status=None) + on(
        WORKER, "sh", "-c", "docker logs molecule-airflow-worker 2>&1"
    )
    assert "daily_strategy_training" in log or "execute_workload" in log


def test_a_verification_that_fails_says_why() -> None:
    """Though the task that failed holds a password and shows nothing itself."""
    said = re.sub(r"\s+", " ", play("verify", "--extra-vars=verify_airflow=http://127.0.0.1:9", status=2))
    assert "Log in to Airflow: Status code was -1 and not [201]" in said and "Connection refused" in said
    assert "(http://127.0.0.1:9/auth/token)" in said


def test_a_task_of_the_backend_runs_on_the_remote_worker() -> None:
    """Sent where the API is, done elsewhere, its result read back."""
    program = (
        "from ibkr_backend.tasks import refresh_bars; task = refresh_bars.delay('IBM');"
        " print(task.id, task.get(timeout=90)['symbol'])"
    )
    task, symbol = inside(SERVICES, "backend", "python3", "-c", program).split()
    assert symbol == "IBM"
    log = on(WORKER, "sh", "-c", "docker logs molecule-celery-worker 2>&1")
    assert f"refresh_bars[{task}] succeeded" in log


# ---- what an operator sees


def test_status_tells_who_is_heard_and_what_is_open() -> None:
    """And the pages of all hosts in one table, with addresses that a browser elsewhere reaches."""
    said = play("status")
    text = re.sub(r"\s+", " ", said)
    assert f"Mesh: {DATA} at {MESH[DATA]}, heard" in text and "NOT HEARD" not in text
    assert f"{MESH[DATA]}:5432 (PostgreSQL) is open to the hosts of the mesh" in text
    assert "0.0.0.0:5500 (MLflow) is open to the hosts of the mesh, 10.203.77.1/32" in text
    assert all(said.count(f"  Host {host}\n") == 1 for host in HOSTS)
    assert said.count("Page ") == 1
    assert f"http://{LAN[SERVICES]}:8080/" in text and f"http://{LAN[DATA]}:9001/" in text


def test_a_name_that_cannot_be_resolved_is_refused() -> None:
    """Before anything changes, with the host and the variable."""
    before = {host: ids(host) for host in HOSTS}
    said = re.sub(
        r"\s+", " ", play("site", '--extra-vars={"stack_mesh_endpoint": "{{ inventory_hostname }}.invalid"}', status=2)
    )
    assert f"cannot resolve {DATA}.invalid, where {DATA} is reached. Set stack_mesh_endpoint of {DATA}" in said
    assert {host: ids(host) for host in HOSTS} == before


def test_a_host_that_is_refused_keeps_all_from_being_changed(tmp_path: Path) -> None:
    """Each of the others says because of whom it goes no further, and none waits for what will not come."""
    before = {host: ids(host) for host in HOSTS}
    too_large = {WORKER: {"airflow_overrides": {"airflow-worker": {"memory": "900g"}}}}
    said = play("site", status=2, inventory=rearranged(tmp_path / "inventory", {}, too_large))
    said = re.sub(r"\s+", " ", said)
    assert said.count(f"{WORKER} failed: this host goes no further without") == 2
    assert {host: ids(host) for host in HOSTS} == before


def test_a_host_that_cannot_be_reached_is_named_and_nothing_changes(tmp_path: Path) -> None:
    before = {host: ids(host) for host in HOSTS}
    absent = {"mol-cluster-absent": {"ansible_connection": "community.docker.docker", "ansible_host": "10.203.77.50"}}
    members = {"backend_worker": [WORKER, *absent]}
    said = play("site", status=2, inventory=rearranged(tmp_path / "inventory", members, absent))
    assert "No such container: mol-cluster-absent" in re.sub(r"\s+", " ", said)
    assert {host: ids(host) for host in HOSTS} == before
    for host in HOSTS:
        assert "absent" not in on(host, "cat", "/etc/wireguard/wg-molecule.peers")


def test_drift_finds_what_somebody_changed_about_mesh_and_firewall() -> None:
    """A peer that is gone stays away, and a unit that is stopped looks after nothing; the next run repairs both."""
    assert drift() == {host: set() for host in HOSTS}
    peer = on(WORKER, "wg", "show", "wg-molecule", "peers").split()[0]
    on(WORKER, "systemctl", "stop", "quantops-mesh-molecule")
    on(WORKER, "/usr/local/sbin/quantops-mesh-molecule", "up")
    on(WORKER, "wg", "set", "wg-molecule", "peer", peer, "remove")
    on(WORKER, "iptables", "-t", "raw", "-F", "wg-molecule")
    assert drift() == {
        DATA: set(),
        SERVICES: set(),
        WORKER: {
            ("mesh", "quantops-mesh-molecule.service", "not running, or not at boot"),
            ("mesh", "wg-molecule", "has other peers, or another port"),
            ("firewall", "wg-molecule", "lacks rules about who reaches published ports, or has others"),
        },
    }
    play("site")
    assert drift() == {host: set() for host in HOSTS}


# ---- hosts that go and come back


@pytest.mark.parametrize("host", HOSTS)
def test_the_engine_of_a_host_restarts(host: str, neighbour: Callable[..., str]) -> None:
    """Its containers come back, and the others go on with it."""
    before = ids(host)
    on(host, "systemctl", "restart", "docker")
    eventually(lambda: well(host), 300, pause=5)
    assert ids(host) == before
    places = [f"{each}:{port}" for each in (LAN[host], MESH[host]) for port in PORTS]
    assert neighbour("python3", "-", *places, stdin=ASK, timeout=300).split() == []


def test_a_mesh_that_comes_up_late() -> None:
    """After a boot, say: the engine has started everything long before."""
    before = ids(DATA)
    on(DATA, "systemctl", "stop", "docker.socket", "docker", "quantops-mesh-molecule")
    on(DATA, "systemctl", "start", "docker")
    eventually(lambda: all(described(DATA)[name]["State"]["Running"] for name in RUNNING[DATA]), 120)
    assert on(DATA, "ip", "link", "show", "dev", "wg-molecule", status=None) == ""
    on(DATA, "systemctl", "start", "quantops-mesh-molecule")
    for host in HOSTS:
        eventually(lambda host=host: well(host), 300, pause=5)
    assert ids(DATA) == before


def test_the_mesh_is_away_for_a_minute(airflow: requests.Session) -> None:
    """Under a training, which succeeds all the same."""
    run = start_training(airflow)
    eventually(lambda: any(each["state"] == "running" for each in tasks_of(airflow, run).values()), 300)
    on(WORKER, "systemctl", "stop", "quantops-mesh-molecule")
    time.sleep(60)
    on(WORKER, "systemctl", "start", "quantops-mesh-molecule")
    assert ended(airflow, run) == "success", tasks_of(airflow, run)


def test_an_interface_that_somebody_removed_comes_back() -> None:
    """Without a run: the unit looks after it, and after the rules."""
    on(WORKER, "ip", "link", "delete", "dev", "wg-molecule")
    on(WORKER, "iptables", "-t", "raw", "-F")
    there = f"{MESH[DATA]}:5432"
    eventually(lambda: on(WORKER, "python3", "-", there, stdin=ASK).split() == [there], 90)
    rule = "-d 172.28.64.3/32 -j DROP"
    eventually(lambda: rule in on(WORKER, "iptables", "-t", "raw", "-S", "wg-molecule", status=None), 60)


def test_a_worker_host_dies_under_a_training(airflow: requests.Session) -> None:
    """And boots again: its mesh and its containers are back by themselves, and what it was doing is done again."""
    before = ids(WORKER)
    run = start_training(airflow)
    eventually(lambda: any(each["state"] == "running" for each in tasks_of(airflow, run).values()), 300)
    docker("kill", WORKER)
    time.sleep(20)
    docker("start", WORKER)
    eventually(lambda: on(WORKER, "docker", "info", "--format", "{{.ServerVersion}}", status=None).strip(), 120)
    eventually(lambda: well(WORKER), 300, pause=5)
    assert ids(WORKER) == before
    assert ended(airflow, run) == "success", tasks_of(airflow, run)


def test_the_stack_stops_and_starts_over_all_hosts() -> None:
    """Users end before what they use, wherever that is: nobody dies of a lost connection."""
    before = {host: ids(host) for host in HOSTS}
    play("stop")
    states = {(host, name): described(host)[name]["State"] for host in HOSTS for name in RUNNING[host]}
    assert {place: state["Status"] for place, state in states.items()} == dict.fromkeys(states, "exited")
    ends = {place: state["FinishedAt"] for place, state in states.items()}
    data = min(when for (host, name), when in ends.items() if host == DATA and name != "backup")
    late = {
        place: when for place, when in ends.items() if place[0] != DATA and place[1] != "ibkr-gateway" and when > data
    }
    assert late == {}
    assert {place for place, state in states.items() if state["ExitCode"] in (1, 137)} == set()
    play("start")
    for host in HOSTS:
        eventually(lambda host=host: well(host), 300, pause=5)
    assert {host: ids(host) for host in HOSTS} == before


def test_lost_keys_come_back_from_the_hosts(tmp_path: Path) -> None:
    """Each with its address; a new set would cut the hosts off from each other."""
    records = Path(os.environ["QUANTOPS_SECRETS_DIR"], "mesh")
    before = {file.name: file.read_text() for file in records.iterdir()}
    shutil.move(records, tmp_path / "mesh")
    said = play("fetch_secrets")
    assert f"Restored of the mesh: {', '.join(sorted(HOSTS))}." in re.sub(r"\s+", " ", said)
    assert {file.name: file.read_text() for file in records.iterdir()} == before
