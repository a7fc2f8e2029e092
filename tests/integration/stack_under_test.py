"""The running stack that the tests look at: by default that of `make up`, or another one named by the environment.

QUANTOPS_STACK: its name. QUANTOPS_PORT_OFFSET: what was added to the default ports. QUANTOPS_SECRETS_DIR: its secrets.
QUANTOPS_HOST: the test host that it runs on, a container with an engine of its own; without it, this machine.
QUANTOPS_INVENTORY: where playbooks find it, on this machine.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import requests

REPOSITORY = Path(__file__).parents[2]
#: A name that only the browser of the tests resolves; `molecule/default` lets MLflow be addressed by it.
PUBLIC_NAME = "stack.example"
PORTS = {
    "minio": 9000, "minio_console": 9001, "ibkr_gateway": 5055, "backend": 8000, "flower": 5555, "mlflow": 5500,
    "airflow": 8080,
}  # fmt: skip
HOST = os.environ.get("QUANTOPS_HOST", "")
#: Name of the backend's worker in Celery.
WORKER = f"backend@{HOST or 'localhost'}"
Found = TypeVar("Found")
#: Id and start of each container, by its name without the stack's.
Identity = dict[str, tuple[str, str]]


def as_root(*words: str, keep: Iterable[str] = ()) -> list[str]:
    """The command as root runs it on the stack's host; a user with sudo asks for that and keeps the named variables."""
    if HOST:
        words = ("docker", "exec", "--interactive", *[f"--env={name}" for name in keep], HOST, *words)
    return (
        list(words) if os.geteuid() == 0 else ["sudo", "--non-interactive", f"--preserve-env={','.join(keep)}", *words]
    )


def command(*words: str, stdin: str | None = None, timeout: float = 120) -> str:
    """Run a command as root and return what it prints.

    Raises:
        AssertionError: It did not end with 0; with what it said.
    """
    done = subprocess.run(as_root(*words), input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


def ansible_environment() -> dict[str, str]:
    """Environment in which Ansible runs from the repository, whatever Molecule has set for its own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    return own | {"ANSIBLE_CONFIG": "ansible.cfg", "ANSIBLE_NOCOLOR": "1"}


def playbook_command(playbook: str, inventory: Path | str, *options: str) -> list[str]:
    """Words of a run of a playbook."""
    return [str(Path(sys.executable).with_name("ansible-playbook")), playbook, "--inventory", str(inventory), *options]


def run_playbook(
    playbook: str,
    inventory: Path | str,
    *options: str,
    environment: dict[str, str] | None = None,
    timeout: float = 1800,
) -> subprocess.CompletedProcess[str]:
    """Run a playbook of the repository to its end, whichever that is."""
    words = playbook_command(playbook, inventory, *options)
    return subprocess.run(
        words, cwd=REPOSITORY, env=ansible_environment() | (environment or {}),
        capture_output=True, text=True, check=False, timeout=timeout,
    )  # fmt: skip


def ansible_command(*words: str) -> str:
    """Run one module on hosts, and return all that it says.

    Raises:
        AssertionError: It did not end with 0; with its last words.
    """
    program = str(Path(sys.executable).with_name("ansible"))
    done = subprocess.run(
        [program, *words], cwd=REPOSITORY, env=ansible_environment(),
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


def play(playbook: str, *options: str, inventory: Path | str = "", status: int = 0) -> str:
    """Run a playbook, by default for the stack of this machine, and return all that it says.

    Raises:
        AssertionError: It did not end with `status`; with its last words.
    """
    inventory = inventory or os.environ.get("QUANTOPS_INVENTORY", "inventories/local")
    done = run_playbook(playbook, inventory, *options)
    said = done.stdout + done.stderr
    assert done.returncode == status, said[-6000:]
    return said


def drift(stack: Stack, service: str, *options: str) -> set[tuple[str, str, str]]:
    """What differs from the declaration of a service of a scenario's test host: kind, name and difference of each.

    Raises:
        AssertionError: The exit status says something else than the report, a secret was shown, or something on the
            host has changed.
    """
    host = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
    before = (stack.identity(), stack.traces())
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "drift.json")
        done = run_playbook(
            "playbooks/drift.yml", host, "--inventory=molecule/shared/inventory.yml", f"--tags={service}",
            f"--extra-vars=drift_file={report}", *options,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert report.is_file(), said[-6000:]
        text = report.read_text()
    found = json.loads(text)
    [differences] = found["hosts"].values()
    assert (found["errors"], found["differences"]) == ({}, len(differences)), said[-6000:]
    assert done.returncode == (2 if differences else 0), said[-6000:]
    assert [file.name for file in stack.secrets_dir.iterdir() if file.read_text().strip() in said + text] == []
    assert (stack.identity(), stack.traces()) == before
    return {(each["kind"], each["name"], each["difference"]) for each in differences}


class Stack:
    """Names, addresses and secrets of the running stack."""

    def __init__(self) -> None:
        """Read the environment."""
        self.name = os.environ.get("QUANTOPS_STACK", "quantops")
        self.offset = int(os.environ.get("QUANTOPS_PORT_OFFSET", "0"))
        self.secrets_dir = Path(
            os.environ.get("QUANTOPS_SECRETS_DIR", REPOSITORY / "inventories" / "local" / ".secrets")
        )
        self.config_dir = Path("/etc/quantops", self.name)
        self.address = command("hostname", "--ip-address").split()[0] if HOST else "127.0.0.1"

    def port(self, service: str) -> int:
        """Port on this host."""
        return PORTS[service] + self.offset

    def url(self, service: str, path: str = "", scheme: str = "http") -> str:
        """Address on the stack's host."""
        return f"{scheme}://{self.address}:{self.port(service)}{path}"

    def page(self, service: str, path: str = "/", scheme: str = "http") -> str:
        """Address as a person's browser has it: the one of the access table."""
        return f"{scheme}://localhost:{self.port(service)}{path}"

    def secret(self, name: str) -> str:
        """A secret's value."""
        return (self.secrets_dir / name).read_text().strip()

    def ask_airflow_for_a_token(self, user: str, password: str) -> requests.Response:
        """Airflow's answer to a login."""
        login = {"username": user, "password": password}
        return requests.post(self.url("airflow", "/auth/token"), json=login, timeout=30)

    def airflow_token(self, user: str = "admin") -> dict[str, str]:
        """The header of requests to Airflow's API."""
        answer = self.ask_airflow_for_a_token(user, self.secret(f"airflow_{user}_password"))
        assert answer.status_code == 201, answer.text
        return {"Authorization": f"Bearer {answer.json()['access_token']}"}

    def execute(
        self, container: str, *words: str, stdin: str | None = None, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a container; values of `environment` reach it without a command line."""
        environment = environment or {}
        names = [f"--env={name}" for name in environment]
        words = ("docker", "exec", "--interactive", *names, f"{self.name}-{container}", *words)
        return subprocess.run(
            as_root(*words, keep=environment),
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=os.environ | environment,
        )

    def well(self, container: str) -> bool:
        """Whether a container runs and passes its own health check, asked now; Docker asks once a minute only."""
        item = json.loads(command("docker", "inspect", f"{self.name}-{container}"))[0]
        if not item["State"]["Running"]:
            return False
        kind, *words = item["Config"]["Healthcheck"]["Test"]
        words = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        return self.execute(container, *words).returncode == 0

    def log(self, container: str) -> str:
        """What a container has said."""
        return command("sh", "-c", f"docker logs {self.name}-{container} 2>&1")

    def identity(self, *leave_out: str) -> Identity:
        """Id and start of each container."""
        return {
            name: (item["Id"], item["State"]["StartedAt"])
            for name, item in self.containers().items()
            if name not in leave_out
        }

    def traces(self) -> str:
        """Each file of the configuration with its time, mode and owner, and the stack's networks and volumes."""
        listed = command("find", str(self.config_dir), "-printf", "%p %T@ %m %U %G\n")
        label = f"--filter=label=quantops.stack={self.name}"
        return listed + "".join(command("docker", kind, "ls", "--quiet", label) for kind in ("network", "volume"))

    def containers(self) -> dict[str, dict[str, Any]]:
        """The engine's description of each container, by its name without the stack's."""
        names = command(
            "docker", "ps", "--all", "--filter", f"label=quantops.stack={self.name}", "--format", "{{.Names}}"
        )
        if not names.split():
            return {}
        # One that a run replaces meanwhile is left out.
        found = json.loads(command("sh", "-c", f"docker inspect {shlex.join(names.split())} || true"))
        return {item["Name"].removeprefix(f"/{self.name}-"): item for item in found}


def changed(before: Identity, after: Identity) -> set[str]:
    """Containers that are not the ones that they were."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def eventually(ask: Callable[[], Found], seconds: float, pause: float = 2) -> Found:
    """Ask until the answer is true.

    Raises:
        AssertionError: It was not in time; with the last answer.
    """
    end = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {seconds:.0f} s, the last answer was {answer!r}"
        time.sleep(pause)
