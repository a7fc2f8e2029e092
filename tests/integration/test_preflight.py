"""What cannot work is refused before anything changes, with the variable to set and what to do.

Each case runs the real playbook against this host with one thing wrong, under a stack name, ports and a directory of
secrets of its own. `--tags always` bounds what a check that does not fail could do to a network and a few secrets, both
of which are found by the comparison of before and after.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from stack_under_test import REPOSITORY, command

STACK = "preflight"
PLAYBOOK = str(Path(sys.executable).with_name("ansible-playbook"))
GROUPS = ("postgres", "redis", "minio", "ibkr_gateway", "backend", "mlflow", "airflow", "airflow_worker")
PORTS = {
    "minio": 29100, "minio_console": 29101, "ibkr_gateway": 25155, "backend": 28100, "flower": 25655, "mlflow": 25600,
    "airflow": 28180,
}  # fmt: skip


def docker(*words: str) -> list[str]:
    """Lines that the engine's client prints."""
    return command("docker", *words).splitlines()


def traces() -> list[str]:
    """Containers, volumes and networks of the stack, and its directory on the host."""
    found = docker("ps", "--all", "--filter", f"name={STACK}-", "--format", "container {{.Names}}")
    found += docker("volume", "ls", "--filter", f"name={STACK}-", "--format", "volume {{.Name}}")
    found += docker("network", "ls", "--filter", f"name=^{STACK}$", "--format", "network {{.Name}}")
    return found + [str(path) for path in [Path("/etc/quantops", STACK)] if path.exists()]


class Site:
    """Runs site.yml with variables; knows where its secrets would be."""

    def __init__(self, directory: Path) -> None:
        """Keep everything below a directory of the test's own."""
        self.directory = directory
        self.secrets = directory / "secrets"
        self.groups = GROUPS

    def refused(self, environment: dict[str, str] | None = None, **variables: Any) -> str:
        """Run the checks, assert that they failed and changed nothing, and return the failure's text on one line."""
        hosts = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "stack_name": STACK,
            "stack_network_subnet": "172.29.66.0/24",
            "secrets_dir": str(self.secrets),
            "ibkr_gateway_simulated": True,
            **{f"stack_port_{name}": port for name, port in PORTS.items()},
        }
        children = {group: {"hosts": {"localhost": None}} for group in self.groups}
        inventory = self.directory / "hosts.yml"
        inventory.write_text(yaml.safe_dump({"all": {"hosts": {"localhost": hosts}, "children": children}}))
        own = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))}
        before = traces(), sorted(self.secrets.glob("*"))
        done = subprocess.run(
            [PLAYBOOK, "playbooks/site.yml", "--inventory", str(inventory), "--tags", "always",
             "--extra-vars", json.dumps(variables)],
            cwd=REPOSITORY,
            env=own | {"ANSIBLE_CONFIG": "ansible.cfg", "ANSIBLE_NOCOLOR": "1"} | (environment or {}),
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 2, done.stdout + done.stderr
        assert "━━ Step 1 of" in done.stdout and "━━ Step 2 of" not in done.stdout, done.stdout
        assert (traces(), sorted(self.secrets.glob("*"))) == before
        return " ".join(done.stdout.split("✘", 1)[1].split())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A stack that does not exist, with nothing wrong yet."""
    return Site(tmp_path)


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port of loopback on which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def old_data() -> Iterator[None]:
    """The stack's PostgreSQL volume with data of version 15."""
    volume = f"{STACK}-postgres-data"
    image = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "quantops/postgres")[0]
    docker("volume", "create", volume)
    try:
        write = "mkdir -p /data/pgdata && echo 15 > /data/pgdata/PG_VERSION"
        docker("run", "--rm", "--user=0", "--entrypoint=sh", f"--volume={volume}:/data", image, "-c", write)
        yield
    finally:
        docker("volume", "rm", "--force", volume)


@pytest.fixture
def path_without_docker(tmp_path: Path) -> str:
    """A PATH on which everything is but Docker."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for place in reversed(os.environ["PATH"].split(os.pathsep)):
        for program in Path(place).glob("*") if Path(place).is_dir() else []:
            link = directory / program.name
            if not program.name.startswith("docker"):
                link.unlink(missing_ok=True)
                link.symlink_to(program)
    return str(directory)


def test_taken_port(site: Site, taken_port: int) -> None:
    """Who holds it, and the variable that moves the service."""
    said = site.refused(stack_port_minio=taken_port)
    assert f"Port {taken_port}, which minio publishes, is taken by" in said
    assert f"(process {os.getpid()})" in said
    assert "set stack_port_minio to a free one" in said


def test_one_port_twice(site: Site) -> None:
    """Two services of the stack on one port."""
    said = site.refused(stack_port_backend=PORTS["mlflow"])
    assert f"Port {PORTS['mlflow']} is published by" in said
    assert "set stack_port_backend or stack_port_mlflow to a free one" in said


def test_too_little_memory(site: Site) -> None:
    """What is needed, what is kept, what is there."""
    said = site.refused(stack_reserved_memory_mb=10**8)
    assert "stack_reserved_memory_mb keeps 100000000 MiB for the host" in said
    assert "*_overrides" in said


def test_too_little_disk(site: Site) -> None:
    """The path, the space, and the variable."""
    said = site.refused(stack_min_disk_mb=10**9)
    assert "/var/lib/docker has" in said and "lower stack_min_disk_mb" in said


def test_unknown_key(site: Site) -> None:
    """A misspelt key of a container is never ignored."""
    said = site.refused(redis_overrides={"redis": {"memmory": "1g"}})
    assert "redis_overrides.redis has the unknown key 'memmory'. Did you mean 'memory'?" in said


def test_unknown_container(site: Site) -> None:
    """Nor is a misspelt container."""
    said = site.refused(airflow_overrides={"airflow-sheduler": {"memory": "1g"}})
    assert "airflow_overrides has the unknown key 'airflow-sheduler'. Did you mean 'airflow-scheduler'?" in said


def test_absurd_limit(site: Site) -> None:
    """A limit that the engine would refuse."""
    said = site.refused(postgres_overrides={"postgres": {"cpus": 9999}})
    assert "postgres_overrides.postgres: 'cpus' is 9999, expected is a number of cores" in said


def test_gateway_archive_not_named(site: Site) -> None:
    """The real gateway cannot be shipped: the operator names it."""
    said = site.refused(ibkr_gateway_simulated=False)
    assert "Set ibkr_gateway_archive" in said and "ibkr_gateway_simulated to true" in said


def test_gateway_archive_missing(site: Site) -> None:
    """The path that was given, and its variable."""
    said = site.refused(ibkr_gateway_simulated=False, ibkr_gateway_archive="/does/not/exist.zip")
    assert "There is no file /does/not/exist.zip, which ibkr_gateway_archive names" in said


def test_gateway_archive_not_the_expected_one(site: Site, tmp_path: Path) -> None:
    """Both sums, and what to do."""
    archive = tmp_path / "gateway.zip"
    archive.write_bytes(b"not IBKR's")
    said = site.refused(
        ibkr_gateway_simulated=False, ibkr_gateway_archive=str(archive), ibkr_gateway_archive_sha256="0" * 64
    )
    assert f"ibkr_gateway_archive_sha256 says {'0' * 64}" in said
    assert "has the sha256 " in said and "Download it again, or correct the variable" in said


def test_empty_secret(site: Site) -> None:
    """An empty password would let everyone in."""
    site.secrets.mkdir()
    (site.secrets / "redis_password").write_text("\n")
    said = site.refused()
    assert f"The secret redis_password is empty ({site.secrets}/redis_password)" in said
    assert "remove it to have one generated" in said
    assert [path.name for path in site.secrets.iterdir()] == ["redis_password"]


def test_empty_secret_of_the_inventory(site: Site) -> None:
    """The same from a vault."""
    said = site.refused(secrets_values={"minio_root_password": ""})
    assert "The secret minio_root_password is empty (the variable secrets_values.minio_root_password)" in said


def test_data_of_another_postgresql(site: Site, old_data: None) -> None:
    """PostgreSQL 17 is never started on data of 15."""
    said = site.refused()
    assert f"The volume {STACK}-postgres-data holds data of PostgreSQL 15, postgres_major_version is 17" in said
    assert "restore the dump" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="sudo has a PATH of its own")
def test_no_engine(site: Site, path_without_docker: str) -> None:
    """An engine is missing and may not be installed."""
    said = site.refused(environment={"PATH": path_without_docker}, docker_host_install=False)
    assert "This host has no Docker engine, and docker_host_install is false" in said
    assert "set docker_host_install to true" in said


@pytest.fixture
def report() -> dict[str, Any]:
    """What a host with an engine and plenty of everything reports."""
    return {
        "distribution": "debian", "like": "", "release": "trixie", "init": "systemd", "memory_mb": 64000,
        "disk_free_mb": {"/var/lib/docker": 500000}, "ports": {}, "networks": {}, "volumes": [], "volume_files": {},
        "engine": {"installed": True, "daemon": True, "answers": True, "error": "", "version": "28"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"distribution": "fedora"},
            "This host runs fedora. Supported are Debian 12 and later and Ubuntu 22.04 and later.",
        ),
        (
            {"engine": {"installed": True, "daemon": True, "answers": False, "error": "permission denied"}},
            "The Docker engine refuses this user: permission denied. Run the playbook with become (sudo).",
        ),
        (
            {"networks": {STACK: ["10.1.2.0/24"]}},
            f"The network {STACK} exists with 10.1.2.0/24, stack_network_subnet says 172.29.66.0/24.",
        ),
    ],
    ids=["distribution", "permission", "network"],
)
def test_host(site: Site, report: dict[str, Any], change: dict[str, Any], sentence: str) -> None:
    """Hosts that this machine is not: the report on the host is given instead of taken."""
    assert sentence in site.refused(docker_host_report={"host": {**report, **change}})


def test_dag_that_does_not_compile(site: Site, tmp_path: Path) -> None:
    """File and line."""
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "good.py").write_text("x = 1\n")
    (dags / "broken.py").write_text("import airflow\ndef broken(:\n")
    said = site.refused(airflow_dags_dir=str(dags))
    assert "airflow_dags_dir holds files that do not compile: broken.py, line 2:" in said
    assert "good.py" not in said


def test_a_service_without_what_it_needs(site: Site) -> None:
    """The group that has no host."""
    site.groups = tuple(group for group in GROUPS if group != "redis")
    said = site.refused()
    assert "Backend needs Redis, and the inventory has no host in the group redis." in said


def test_an_application_that_is_not_there(site: Site) -> None:
    """The path that was given, and its variable."""
    said = site.refused(backend_source_dir="/does/not/exist", backend_build={"folders": ["desk"]})
    assert "There is no directory /does/not/exist, which backend_source_dir names. Write an absolute path" in said


def test_an_application_that_cannot_be_built(site: Site, tmp_path: Path) -> None:
    """Neither a lock nor a date, and another Python."""
    (tmp_path / "desk").mkdir()
    (tmp_path / "desk" / "api.py").write_text("x = 1\n")
    (tmp_path / "requirements.txt").write_text("fastapi\n")
    build = {"python": "3.12", "requirements": "requirements.txt", "folders": ["desk"]}
    said = site.refused(backend_source_dir=str(tmp_path), backend_build=build)
    assert "requirements.txt (backend_build.requirements) is no lock file with hashes" in said
    assert "backend_build.python is 3.12: images without a Dockerfile have Debian's Python 3.13" in said


def test_an_application_that_cannot_run(site: Site) -> None:
    """What is missing, with the variables; no value of a secret is shown."""
    said = site.refused(
        backend_image="own:1",
        backend_secret_environment={"TOKEN": "hidden-value", "EMPTY": ""},
        backend_mounts=[{"source": "data", "path": "/run/secrets"}],
    )
    assert "backend_command is empty: set it to the command of the application's API" in said
    assert "backend_celery_app is empty, and the worker needs it" in said
    assert "backend_secret_environment.EMPTY is empty" in said
    assert "backend_mounts has the path '/run/secrets'" in said
    assert "hidden-value" not in said


def test_a_directory_to_mount_that_is_not_there(site: Site) -> None:
    """The engine would refuse it halfway."""
    said = site.refused(backend_mounts=[{"source": "/does/not/exist", "path": "/data"}])
    assert "This host has no /does/not/exist, which backend_mounts names" in said
