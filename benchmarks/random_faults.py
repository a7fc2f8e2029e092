#!/usr/bin/env python3
"""Puts one fault after the other into a running stack, at random, without saying which.

So it can be tried whether somebody who does not know finds the cause from the alert, its dashboard and the logs alone.
Each fault is one of docs/monitoring.md, "Which fault raises which". The record has what was put in, when, and what it
takes to undo it; whoever looks for the cause does not read it.

Usage, on the stack's host as root, with a monitoring:

    random_faults.py put --stack NAME --secrets DIR --record FILE [--seed N]
    random_faults.py undo --stack NAME --secrets DIR --record FILE
    random_faults.py reveal --record FILE
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import urllib3

TIMEOUT = 60
#: Seconds for the containers to be well, and for the alerts to end.
PATIENCE = 420
#: Seconds for a DAG run to end.
RUN = 900
#: Alerts that look back, and go on when all is well.
LONG = {"ContainerRestarts", "MemoryKill", "TasksFail", "Watchdog"}
TRAINING = "daily_strategy_training"
MAINTENANCE = "stack_maintenance"
BROKEN_DAG = '"""Mails figures."""\n\nimport weekly_figures\nfrom airflow.sdk import dag\n'
QUEUE = "forgotten"
FILL = "for i = 1, 128 do redis.call('RPUSH', KEYS[1], string.rep('x', 65536)) end"
# Opens connections until there are so many, and holds them until the server ends them.
HOLD = """
import os, socket, sys
os.chdir(sys.argv[1])
os.setegid(int(sys.argv[2])); os.seteuid(int(sys.argv[2]))
start = b"\\0\\3\\0\\0user\\0%s\\0database\\0postgres\\0application_name\\0report\\0\\0" % sys.argv[3].encode()
held = []
for _ in range(int(sys.argv[4])):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].settimeout(7200)
    held[-1].connect(".s.PGSQL.5432")
    held[-1].sendall((len(start) + 4).to_bytes(4, "big") + start)
while held[0].recv(65536):
    pass
"""


def run(*words: str, stdin: str = "", environment: dict[str, str] | None = None) -> str:
    """Run a command and return what it prints.

    Raises:
        RuntimeError: It did not end with 0; with what it said.
    """
    done = subprocess.run(
        words, input=stdin, env=os.environ | (environment or {}),
        capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def eventually(ask: Callable[[], Any], seconds: float, what: str) -> Any:
    """Ask every two seconds until the answer is true, and return it.

    Raises:
        TimeoutError: It was not within `seconds`.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := ask():
            return found
        time.sleep(2)
    raise TimeoutError(f"{what}: not within {seconds:.0f} s")


@dataclass
class Stack:
    """The stack that is broken, by its name and the directory of its secrets."""

    name: str
    directory: Path

    def secret(self, name: str) -> str:
        """A secret's value."""
        return (self.directory / name).read_text(encoding="utf-8").strip()

    def inspect(self, container: str) -> dict[str, Any]:
        """What the engine knows of a container."""
        return json.loads(run("docker", "inspect", f"{self.name}-{container}"))[0]

    def docker(self, verb: str, container: str, *options: str) -> str:
        """Call a verb of the engine on a container."""
        return run("docker", verb, *options, f"{self.name}-{container}")

    def execute(self, container: str, *words: str, stdin: str = "", environment: dict[str, str] | None = None) -> str:
        """Run a command in a container; values of `environment` reach it without a command line."""
        names = [f"--env={name}" for name in environment or {}]
        words = ("docker", "exec", "--interactive", *names, f"{self.name}-{container}", *words)
        return run(*words, stdin=stdin, environment=environment)

    def processes(self, container: str) -> list[int]:
        """The processes of a container, as the host sees them, without the init that the engine adds."""
        rows = run("docker", "top", f"{self.name}-{container}", "-eo", "pid,comm").splitlines()[1:]
        return [int(row.split()[0]) for row in rows if row.split()[1] != "docker-init"]

    def port(self, container: str) -> int:
        """The one port at which a container is published."""
        [found] = [each for each in self.inspect(container)["NetworkSettings"]["Ports"].values() if each]
        return int(found[0]["HostPort"])

    def mount(self, container: str, path: str) -> Path:
        """The directory of the host that a container has at `path`."""
        [found] = [each["Source"] for each in self.inspect(container)["Mounts"] if each["Destination"] == path]
        return Path(found)

    def sql(self, query: str) -> str:
        """Ask PostgreSQL as its administrator."""
        client = 'exec psql --no-psqlrc --quiet -At -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres --file=-'
        return self.execute("postgres", "sh", "-c", client, stdin=query)

    def redis(self, *words: str) -> str:
        """Ask Redis as its administrator."""
        password = {"REDISCLI_AUTH": self.secret("redis_admin_password")}
        return self.execute("redis", "redis-cli", "--no-auth-warning", "--user", "admin", *words, environment=password)

    def minio_user(self, verb: str, user: str) -> None:
        """Enable or disable a user of MinIO."""
        root = f"http://{self.secret('minio_root_user')}:{self.secret('minio_root_password')}@127.0.0.1:9000"
        words = ("mc", "--config-dir=/tmp/mc", "admin", "user", verb, "it", user)
        self.execute("minio", *words, environment={"MC_HOST_it": root})

    def dag_run(self, dag: str, conf: dict[str, Any], state: str) -> None:
        """Run a DAG to an end of that kind."""
        base = f"http://127.0.0.1:{self.port('airflow-apiserver')}"
        with requests.Session() as session:
            login = {"username": "admin", "password": self.secret("airflow_admin_password")}
            token = session.post(f"{base}/auth/token", json=login, timeout=TIMEOUT).json()["access_token"]
            session.headers["Authorization"] = f"Bearer {token}"
            runs = f"{base}/api/v2/dags/{dag}/dagRuns"
            answer = session.post(runs, json={"logical_date": None, "conf": conf}, timeout=TIMEOUT)
            answer.raise_for_status()
            name = answer.json()["dag_run_id"]

            def ended() -> str:
                found = session.get(f"{runs}/{name}", timeout=TIMEOUT).json()["state"]
                return found if found in ("success", "failed") else ""

            if (found := eventually(ended, RUN, f"{dag} {name}")) != state:
                raise RuntimeError(f"{dag} {name}: {found}, expected {state}")

    def gateway(self, path: str) -> None:
        """Open a page of the gateway, as a person does who logs in or out; its certificate is its own."""
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        address = f"https://127.0.0.1:{self.port('ibkr-gateway')}{path}"
        requests.post(address, verify=False, timeout=TIMEOUT, allow_redirects=False)

    def ill(self) -> list[str]:
        """Containers that are not well, by the engine."""
        labels = (f"label=quantops.stack={self.name}", "label=quantops.kind=service")
        names = run("docker", "ps", "--all", "--quiet", *(f"--filter={label}" for label in labels)).split()
        states = {each["Name"]: each["State"] for each in json.loads(run("docker", "inspect", *names))}
        return [
            name
            for name, state in states.items()
            if state["Status"] != "running" or state.get("Health", {"Status": "healthy"})["Status"] != "healthy"
        ]

    def firing(self) -> set[str]:
        """Alerts that fire, or wait to."""
        # On standard input, the login is on no command line.
        login = f"user = store:{self.secret('monitoring_store_password')}"
        words = ("curl", "--config", "-", "--fail", "--silent", "http://127.0.0.1:8880/api/v1/alerts")
        found = json.loads(self.execute("vmalert", *words, stdin=login))
        return {each["name"] for each in found["data"]["alerts"]}


@dataclass(frozen=True)
class Fault:
    """A way to break a stack: what it takes to undo it is `save`\\ d before."""

    container: str
    put: Callable[[Stack], object]
    undo: Callable[[Stack, Any], object]
    save: Callable[[Stack], Any] = lambda stack: None


def stopped(container: str) -> Fault:
    """Somebody has stopped it."""
    return Fault(container, lambda it: it.docker("stop", container), lambda it, _: it.docker("start", container))


def paused(container: str) -> Fault:
    """Somebody has frozen it."""
    return Fault(container, lambda it: it.docker("pause", container), lambda it, _: it.docker("unpause", container))


def signalled(it: Stack, container: str, number: signal.Signals) -> None:
    """Send a signal to each process of a container."""
    for process in it.processes(container):
        os.kill(process, number)


def hung(container: str) -> Fault:
    """It runs and does nothing, as in a deadlock."""
    return Fault(
        container,
        lambda it: signalled(it, container, signal.SIGSTOP),
        lambda it, _: signalled(it, container, signal.SIGCONT),
    )


def killed(container: str) -> Fault:
    """It has crashed, and is not started again."""

    def put(it: Stack) -> None:
        it.docker("update", container, "--restart=no")
        os.kill(it.inspect(container)["State"]["Pid"], signal.SIGKILL)

    def undo(it: Stack, policy: str) -> None:
        it.docker("update", container, f"--restart={policy}")
        it.docker("start", container)

    return Fault(container, put, undo, lambda it: it.inspect(container)["HostConfig"]["RestartPolicy"]["Name"])


def crashing(container: str) -> Fault:
    """Its program crashes again and again, and is started again."""

    def put(it: Stack) -> None:
        for _ in range(4):
            process = eventually(lambda: it.inspect(container)["State"]["Pid"], TIMEOUT, "not started")
            os.kill(process, signal.SIGKILL)
            eventually(lambda last=process: it.inspect(container)["State"]["Pid"] != last, TIMEOUT, "not ended")

    return Fault(container, put, lambda it, _: None)


def cut_off(container: str) -> Fault:
    """It has lost its network."""

    def save(it: Stack) -> dict[str, Any]:
        [(name, network)] = it.inspect(container)["NetworkSettings"]["Networks"].items()
        return {"name": name, "aliases": network["Aliases"], "ip": (network["IPAMConfig"] or {}).get("IPv4Address")}

    def put(it: Stack) -> None:
        run("docker", "network", "disconnect", save(it)["name"], f"{it.name}-{container}")

    def undo(it: Stack, was: dict[str, Any]) -> None:
        options = [f"--alias={alias}" for alias in was["aliases"]] + ([f"--ip={was['ip']}"] if was["ip"] else [])
        run("docker", "network", "connect", *options, was["name"], f"{it.name}-{container}")

    return Fault(container, put, undo, save)


def password_changed(role: str) -> Fault:
    """A role of PostgreSQL has another password, and its sessions have ended."""

    def put(it: Stack) -> None:
        it.sql(f"ALTER ROLE {role} PASSWORD '{secrets.token_hex(16)}'")
        it.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'")

    return Fault(
        "postgres",
        put,
        lambda it, verifier: it.sql(f"ALTER ROLE {role} PASSWORD '{verifier}'"),
        lambda it: it.sql(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'"),
    )


def connections_used(it: Stack) -> None:
    """A program of the administrator keeps opening connections."""
    limit, used = map(int, it.sql("SHOW max_connections; SELECT count(*) FROM pg_stat_activity").split())
    process = it.inspect("postgres")["State"]["Pid"]
    user = it.execute("postgres", "id", "-u")
    name = it.execute("postgres", "printenv", "POSTGRES_USER")
    words = (f"/proc/{process}/root/run/postgresql", user, name, str(limit * 9 // 10 - used))
    subprocess.Popen(
        [sys.executable, "-c", HOLD, *words], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    eventually(lambda: int(it.sql("SELECT count(*) FROM pg_stat_activity")) > limit * 0.85, TIMEOUT, "connections")


def minio_user_disabled(secret: str, user: str = "") -> Fault:
    """A key of MinIO is refused; its name is that of a user, or a secret."""
    return Fault(
        "minio",
        lambda it: it.minio_user("disable", user or it.secret(secret)),
        lambda it, _: it.minio_user("enable", user or it.secret(secret)),
    )


def redis_filled(it: Stack) -> None:
    """A queue that nobody reads grows until nothing more is taken."""
    # Some at a time: what a script writes is in memory a second time until it has ended.
    for _ in range(50):
        try:
            it.redis("-e", "-n", "15", "EVAL", FILL, "1", QUEUE)
        except RuntimeError as error:
            if "OOM" in str(error):
                return
            raise
    raise RuntimeError("Redis takes everything")


def maintenance_failed(it: Stack) -> None:
    """What the DAG works on refuses its key."""
    it.minio_user("disable", it.secret("minio_airflow_logs_access_key"))
    it.dag_run(MAINTENANCE, {}, "failed")


def maintenance_well(it: Stack, _: None) -> None:
    """The key is good again, and so is the next run."""
    it.minio_user("enable", it.secret("minio_airflow_logs_access_key"))
    it.dag_run(MAINTENANCE, {}, "success")


def moved_away(it: Stack) -> Path:
    """What says that a directory is the repository of backups."""
    return it.mount("backup", "/backup") / "repository.json"


FAULTS = {
    "flower is stopped": stopped("flower"),
    "minio is stopped": stopped("minio"),
    "vmagent is stopped": stopped("vmagent"),
    "mlflow has crashed for good": killed("mlflow"),
    "airflow-triggerer crashes again and again": crashing("airflow-triggerer"),
    "airflow-scheduler is paused": paused("airflow-scheduler"),
    "redis is paused": paused("redis"),
    "backend hangs": hung("backend"),
    "celery-worker hangs": hung("celery-worker"),
    "celery-beat hangs": hung("celery-beat"),
    "ibkr-gateway has lost its network": cut_off("ibkr-gateway"),
    "PostgreSQL's role monitoring has another password": password_changed("monitoring"),
    "PostgreSQL's role backend has another password": password_changed("backend"),
    "PostgreSQL's connections are used up by application report": Fault(
        "postgres",
        connections_used,
        lambda it, _: it.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'report'"
        ),
    ),
    f"Redis is filled by the list {QUEUE} in database 15": Fault(
        "redis", redis_filled, lambda it, _: it.redis("-n", "15", "UNLINK", QUEUE)
    ),
    "Redis' user monitoring has another password": Fault(
        "redis",
        lambda it: it.redis("ACL", "SETUSER", "monitoring", "resetpass", f">{secrets.token_hex(16)}"),
        lambda it, _: it.redis("ACL", "LOAD"),
    ),
    "MinIO's user monitoring is disabled": minio_user_disabled("", "monitoring"),
    "MinIO's user of the bucket trading-charts is disabled": minio_user_disabled("minio_trading_charts_access_key"),
    "the training was started with an end before its start": Fault(
        "airflow-worker",
        lambda it: it.dag_run(TRAINING, {"start": "2013-01-01", "end": "2012-01-01"}, "failed"),
        lambda it, _: it.dag_run(TRAINING, {"min_confidence": 0.5}, "success"),
    ),
    "MinIO's user of the bucket airflow-logs is disabled, so stack_maintenance failed": Fault(
        "airflow-worker", maintenance_failed, maintenance_well
    ),
    "a DAG file imports a module that is not there": Fault(
        "airflow-dag-processor",
        lambda it: (it.mount("airflow-dag-processor", "/opt/dags") / "weekly_mail.py").write_text(BROKEN_DAG),
        lambda it, _: (it.mount("airflow-dag-processor", "/opt/dags") / "weekly_mail.py").unlink(missing_ok=True),
    ),
    "a program in flower's container wanted 2 GB of memory": Fault(
        "flower",
        lambda it: run("docker", "exec", "--detach", f"{it.name}-flower", "python", "-c", "b'x' * (2 << 30)"),
        lambda it, _: None,
    ),
    "the gateway's session was dropped": Fault(
        "ibkr-gateway", lambda it: it.gateway("/sso/Logout"), lambda it, _: it.gateway("/sso/Login")
    ),
    "the backup's repository is away": Fault(
        "backup",
        lambda it: moved_away(it).rename(f"{moved_away(it)}.away"),
        lambda it, _: Path(f"{moved_away(it)}.away").rename(moved_away(it)),
    ),
}  # fmt: skip


class Record:
    """What was put in, in its order; nobody but its owner can read it."""

    def __init__(self, file: Path) -> None:
        """Read it, if it is there."""
        self.file = file
        self.entries: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []

    def write(self) -> None:
        """Write it."""
        with open(os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(self.entries, file, indent=1)


def now() -> str:
    """The time, as a person reads it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def put(stack: Stack, record: Record, seed: str, only: str) -> None:
    """Put in one that was not there before."""
    names = run("docker", "ps", "--format", "{{.Names}}", f"--filter=label=quantops.stack={stack.name}").split()
    there = [name for name, fault in FAULTS.items() if f"{stack.name}-{fault.container}" in names]
    left = [name for name in there if name not in {each["fault"] for each in record.entries}]
    if only:
        left = [name for name in there if name == only]
    if not left:
        sys.exit("No fault is left.")
    chance = random.SystemRandom() if seed == "random" else random.Random(f"{seed} {len(record.entries)}")
    name = chance.choice(left)
    fault = FAULTS[name]
    record.entries.append({"fault": name, "at": now(), "saved": fault.save(stack)})
    # Before it is put in: so it can be undone whatever happens.
    record.write()
    fault.put(stack)
    record.entries[-1]["in"] = now()
    record.write()
    print(f"Fault {len(record.entries)} of {len(there)} is in.")


def undo(stack: Stack, record: Record, wait: bool) -> None:
    """Take the last one out, and wait until all is well and no alert fires."""
    entry = next((each for each in reversed(record.entries) if "out" not in each), None)
    if not entry:
        sys.exit("No fault is in.")
    FAULTS[entry["fault"]].undo(stack, entry["saved"])
    entry["out"] = now()
    record.write()
    if wait:
        eventually(lambda: not stack.ill(), PATIENCE, "containers are not well")
        eventually(lambda: not stack.firing() - LONG, PATIENCE, "alerts fire")
    print("The last fault is out.")


def main() -> None:
    """Do what the command line says; what goes wrong is in the record, as it may name the fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["put", "undo", "reveal"])
    parser.add_argument("--record", type=Path, required=True, help="file of what was put in")
    parser.add_argument("--stack", default="quantops", help="name of the stack")
    parser.add_argument("--secrets", type=Path, default=Path("inventories/local/.secrets"), help="its secrets_dir")
    parser.add_argument("--seed", default="random", help="the same order of faults for the same seed")
    parser.add_argument("--only", default="", help="put this fault in, by its name in the record; for trying one")
    parser.add_argument("--no-wait", action="store_true", help="undo without waiting until the stack is well")
    given = parser.parse_args()
    record, stack = Record(given.record), Stack(given.stack, given.secrets)
    if given.command == "reveal":
        shown = ("fault", "in", "out", "error")
        print(json.dumps([{key: each.get(key) for key in shown} for each in record.entries], indent=1))
        return
    try:
        put(stack, record, given.seed, given.only) if given.command == "put" else undo(stack, record, not given.no_wait)
    except (RuntimeError, OSError, subprocess.TimeoutExpired, requests.RequestException) as error:
        if record.entries:
            record.entries[-1]["error"] = str(error)
            record.write()
        sys.exit(f"{given.command} went wrong; reveal says how.")


main()
