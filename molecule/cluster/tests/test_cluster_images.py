"""One name is one image on all hosts, and what a host lacks comes from another one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_under_test import groups, inventories, on, played
from stack_under_test import REPOSITORY, ansible_environment, eventually, playbook_command


def images(host: str) -> dict[str, str]:
    """Reference to id of the images that the project builds."""
    lines = on(host, "docker", "image", "ls", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").splitlines()
    return {name: image for name, image in map(str.split, lines) if name.startswith("quantops/")}


@pytest.fixture
def worker() -> str:
    """A host that runs workers and nothing else."""
    return groups()["backend_worker"][0]


@pytest.fixture
def reference(worker: str) -> str:
    """The image of the backend there."""
    return next(name for name in images(worker) if name.startswith("quantops/backend:"))


def assert_as_on_the_server(worker: str, reference: str) -> None:
    assert images(worker)[reference] == images(groups()["backend"][0])[reference]


def test_one_name_is_one_image_on_all_hosts() -> None:
    found: dict[str, set[str]] = {}
    for host in groups()["all"] if groups().get("all") else {each for hosts in groups().values() for each in hosts}:
        for name, image in images(host).items():
            found.setdefault(name, set()).add(image)
    assert found and all(len(ids) == 1 for ids in found.values()), found


def test_an_image_that_is_missing_is_sent_and_one_that_is_there_is_not(worker: str, reference: str) -> None:
    on(worker, "docker", "rmi", "--force", reference)
    said = played("site", "--tags=images")
    assert f"Get images from the hosts that have them: {reference}" in said
    assert "Build image" not in said
    assert_as_on_the_server(worker, reference)
    assert "Get images from the hosts that have them" not in played("site", "--tags=images")


def test_another_image_under_the_name_is_replaced(worker: str, reference: str) -> None:
    other = next(image for name, image in images(worker).items() if name.startswith("quantops/airflow"))
    on(worker, "docker", "tag", other, reference)
    played("site", "--tags=images", f"--limit={worker},{groups()['backend'][0]}")
    assert_as_on_the_server(worker, reference)


def test_a_limited_run_gets_an_image_from_a_host_outside_of_it(worker: str, reference: str) -> None:
    on(worker, "docker", "rmi", "--force", reference)
    played("site", "--tags=images", f"--limit={worker}")
    assert_as_on_the_server(worker, reference)


def test_a_transfer_that_is_killed_leaves_no_image_and_the_next_run_completes_it(worker: str, reference: str) -> None:
    on(worker, "docker", "rmi", "--force", reference)
    # Held as soon as it begins: on a fast machine the whole image would be there before the run is killed. The pattern
    # does not match the shell that looks for it.
    hold = "until pkill -STOP -f 'docker loa[d] --quiet'; do sleep 0.02; done"
    first, *others = inventories()
    words = playbook_command("playbooks/site.yml", first.partition("=")[2], *others, "--tags=images")
    with subprocess.Popen(
        words, cwd=REPOSITORY, env=ansible_environment(), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as run:  # fmt: skip
        try:
            on(worker, "timeout", "300", "sh", "-c", hold, timeout=330)
        finally:
            # Ansible's workers are in sessions of their own, and would end what they have begun.
            listed = subprocess.run(["pgrep", "--parent", str(run.pid)], capture_output=True, text=True, check=False)
            for process in (run.pid, *map(int, listed.stdout.split())):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process, signal.SIGKILL)
    on(worker, "pkill", "-CONT", "-f", "docker load --quiet", status=None)
    eventually(lambda: not on(worker, "pgrep", "-f", "docker load --quiet", status=None), seconds=60)
    assert reference not in images(worker)
    played("site", "--tags=images")
    assert_as_on_the_server(worker, reference)


REGISTRY = r"""
set -eu
apt-get update -qq
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -qq --no-install-recommends docker-registry openssl apache2-utils > /dev/null
systemctl stop docker-registry || true
mkdir -p /etc/docker-registry
cd /etc/docker-registry
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=registry -addext "subjectAltName=IP:$1" \
    -keyout key.pem -out ca.pem 2> /dev/null
htpasswd -Bbn desk RegistryPassword > htpasswd
cat > test.yml << END
version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/docker-registry}}
http: {addr: "$1:5001", tls: {certificate: /etc/docker-registry/ca.pem, key: /etc/docker-registry/key.pem}}
auth: {htpasswd: {realm: test, path: /etc/docker-registry/htpasswd}}
END
systemd-run --unit=test-registry --quiet docker-registry serve /etc/docker-registry/test.yml
"""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Variables that name a registry with TLS and a password on the host of the backend."""
    server = groups()["backend"][0]
    # Not one of the mesh, or of the engine's networks.
    address = on(server, "sh", "-c", "ip -4 -o address show dev eth0").split()[3].partition("/")[0]
    on(server, "bash", "-c", REGISTRY, "bash", address, timeout=600)
    (tmp_path / "ca.pem").write_text(on(server, "cat", "/etc/docker-registry/ca.pem"))
    yield {
        "container_image_registry": f"{address}:5001/desk",
        "container_image_registry_user": "desk",
        "container_image_registry_password": "RegistryPassword",
        "container_image_registry_ca": str(tmp_path / "ca.pem"),
    }
    on(server, "systemctl", "stop", "test-registry", status=None)
    for host in {each for hosts in groups().values() for each in hosts}:
        on(host, "rm", "-rf", "/etc/docker/certs.d", "/var/lib/docker-registry", "/etc/docker-registry")


def test_images_go_through_a_registry_with_password_and_authority(
    worker: str, reference: str, registry: dict[str, str]
) -> None:
    on(worker, "docker", "rmi", "--force", reference)
    wrong = json.dumps(registry | {"container_image_registry_password": "wrong"})
    said = played("site", "--tags=images", f"--extra-vars={wrong}", status=2)
    assert "cannot be pushed" in said and "container_image_registry" in said and reference not in images(worker)
    said = played("site", "--tags=images", f"--extra-vars={json.dumps(registry)}", "-vvv")
    assert "Push images to the registry" in said and "RegistryPassword" not in said.replace(json.dumps(registry), "")
    assert_as_on_the_server(worker, reference)
    assert not [name for name in images(worker) if "5001" in name]
