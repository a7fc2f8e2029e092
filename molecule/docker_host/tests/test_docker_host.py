"""An engine that works, on hosts that had none: with systemd on Debian 12 and 13, and without it."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
from testinfra.host import Host

NAMES = ("bookworm", "trixie", "plain", "engine")
testinfra_hosts = [f"docker://mol-docker_host-{name}" for name in NAMES]


def answers(host: Host) -> str:
    """Wait for the engine; returns its version."""
    for _ in range(60):
        said = host.run("docker version --format '{{.Server.Version}}'")
        if said.rc == 0:
            return said.stdout.strip()
        time.sleep(1)
    pytest.fail(f"the engine does not answer: {said.stderr}")


def with_systemd(host: Host) -> bool:
    """Whether the host has it."""
    return host.file("/proc/1/comm").content_string.strip() == "systemd"


@pytest.fixture
def image(host: Host) -> str:
    """An image of this machine's engine that is there with the test hosts, handed over."""
    listed = ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "quantops/test-host-trixie-bare"]
    reference = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()[0]
    name = host.backend.get_hostname()
    with subprocess.Popen(["docker", "save", reference], stdout=subprocess.PIPE) as saved:
        subprocess.run(["docker", "exec", "-i", name, "docker", "load", "-q"], stdin=saved.stdout, check=True)
    return reference


def test_engine_and_network(host: Host) -> None:
    """It answers, and the stack's network has the declared addresses."""
    assert int(answers(host).split(".")[0]) >= 20
    [network] = json.loads(host.check_output("docker network inspect molecule"))
    assert [config["Subnet"] for config in network["IPAM"]["Config"]] == ["172.29.64.0/24"]
    assert network["Labels"] == {"quantops.stack": "molecule"}


def test_a_container_runs_and_reaches_another(host: Host, image: str) -> None:
    """With limits, as the services have them, and by name over the network."""
    limits = "--memory 64m --cpus 0.5 --read-only --cap-drop ALL --user 10001:10001"
    run = f"docker run --rm --init --network molecule {limits}"
    assert host.check_output(f"{run} {image} id -u") == "10001"
    host.check_output(f"{run.replace('--rm', '--detach')} --name peer {image} sleep 60")
    try:
        assert host.run(f"{run} {image} getent hosts peer").rc == 0
        assert host.run(f"{run} {image} getent hosts nobody").rc != 0
    finally:
        host.check_output("docker rm --force peer")


def test_only_the_declared_packages(host: Host) -> None:
    """From Debian, without what they only recommend."""
    assert host.package("docker.io").is_installed and host.package("python3-requests").is_installed
    assert not host.package("git").is_installed and not host.package("cgroupfs-mount").is_installed


def test_nothing_listens_on_the_network(host: Host) -> None:
    """The engine is asked through its socket only, which is root's and its group's."""
    found = [line.split()[3] for line in host.check_output("ss --listening --tcp --numeric --no-header").splitlines()]
    # containerd streams to its own clients on a port of loopback.
    assert not [address for address in found if not address.startswith("127.0.0.1:")]
    socket = host.file("/run/docker.sock")
    assert socket.user == "root" and socket.mode & 0o007 == 0


def test_the_engine_is_back_after_a_restart_of_the_host(host: Host) -> None:
    """By systemd. Without it nothing starts an engine at boot but the next run of the playbook."""
    if not with_systemd(host):
        pytest.skip("a host without systemd")
    assert host.service("docker").is_enabled
    subprocess.run(["docker", "restart", "--time", "20", host.backend.get_hostname()], capture_output=True, check=True)
    assert answers(host)
    assert host.run("docker network inspect molecule").rc == 0


def page(host: Host, address: str) -> bool:
    """Whether a page is answered there."""
    ask = f"import urllib.request as u; u.urlopen('http://{address}:8099/', timeout=5)"
    return host.run(f'python3 -c "{ask}"').rc == 0


def soon(host: Host, address: str) -> bool:
    """Whether a page is answered there within half a minute."""
    for _ in range(15):
        if page(host, address):
            return True
        time.sleep(2)
    return False


def test_an_address_that_comes_after_the_engine(host: Host, image: str) -> None:
    """A container that is published on it is back without anyone's hand once the address is there."""
    if not with_systemd(host):
        pytest.skip("a host without systemd")
    address = "198.51.100.7"
    # As a boot does it; the test before this one restarted the host.
    host.check_output("sysctl --quiet --load=/etc/sysctl.d/60-quantops-molecule.conf")
    host.check_output(f"ip address replace {address}/32 dev lo")
    serve = f"{image} python3 -m http.server 8099"
    host.check_output(f"docker run --detach --name late --restart unless-stopped --publish {address}:8099:8099 {serve}")
    try:
        assert soon(host, address)
        host.check_output(f"ip address del {address}/32 dev lo")
        host.check_output("systemctl restart docker")
        answers(host)
        assert not page(host, address)
        host.check_output(f"ip address replace {address}/32 dev lo")
        assert soon(host, address)
        assert host.check_output("docker inspect --format '{{.State.Status}}' late") == "running"
    finally:
        host.run("docker rm --force late")
        host.run(f"ip address del {address}/32 dev lo")
