"""A bundle brings services up on machines that have no way out."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from stack_under_test import HOST, REPOSITORY, eventually, run_playbook

REMOTE = f"{HOST}-remote"
#: Secrets beside the inventory, which belong into no bundle.
SECRET = "a-secret-that-stays-here"
#: Where the tests put the archive on the host; a blank in the path is a person's good right.
THERE = "/srv/stack of ours"
PROJECT = "ibkr_stack-0.1.0-x86_64"
INVENTORY = "inventories/desk"
#: Every way out that a run could take: a name, an address, and a packet without an answer.
WAYS_OUT = """
import socket
for name, call in {
    "Python": lambda: socket.create_connection(("www.python.org", 443), 5),
    "Debian": lambda: socket.create_connection(("www.debian.org", 443), 5),
    "an address": lambda: socket.create_connection(("1.1.1.1", 443), 5),
    "a packet": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 9)),
}.items():
    try:
        call()
    except OSError as error:
        print(name, type(error).__name__)
    else:
        raise SystemExit(f"{name} was reached")
"""


def at(host: str, *words: str, timeout: float = 1800) -> subprocess.CompletedProcess[str]:
    """Run a command on a host, to its end."""
    return subprocess.run(
        ["docker", "exec", "--interactive", host, *words],
        capture_output=True, text=True, check=False, timeout=timeout, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def said(done: subprocess.CompletedProcess[str], status: int = 0) -> str:
    """What a command printed, which ended as expected."""
    text = done.stdout + done.stderr
    assert (done.returncode == 0) == (status == 0), text[-6000:]
    return text


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """Run make in the unpacked bundle on the host."""
    return at(HOST, "make", "--no-print-directory", "-C", f"{THERE}/{PROJECT}", f"INVENTORY={INVENTORY}", *words)


def cut_off(host: str) -> None:
    """Take a host's only network away, and see that nothing is reached any more."""
    subprocess.run(["docker", "network", "disconnect", "bridge", host], check=True)
    assert_no_way_out(host)


def assert_no_way_out(host: str) -> None:
    """No interface but the host's own and those of its engine, no route out, and no connection."""
    words = ["docker", "exec", "--interactive", host, "python3", "-"]
    done = subprocess.run(words, input=WAYS_OUT, capture_output=True, text=True, check=False, timeout=120)
    assert said(done).count("\n") == 4
    assert "default" not in said(at(host, "ip", "route"))
    links = {line.split(":")[1].strip().split("@")[0] for line in said(at(host, "ip", "-oneline", "link")).splitlines()}
    # What the kernel makes in every network namespace leads nowhere.
    foreign = {
        link
        for link in links
        if not re.match(r"lo$|docker0$|br-|veth|tunl0$|sit0$|ip6tnl0$|gre|erspan|ip_vti|ip6_vti|ip6gre", link)
    }
    assert foreign == set()


def inspected(host: str, container: str, template: str) -> str:
    """What the host's engine says of a container."""
    return said(at(host, "docker", "inspect", "--format", template, f"molecule-{container}")).strip()


def assert_healthy(host: str, container: str) -> None:
    """The engine says so, which first asks after a minute."""
    state = "{{.State.Status}} {{.State.Health.Status}}"
    eventually(lambda: inspected(host, container, state) == "running healthy", 150)


def interpreter() -> dict[str, str]:
    """How the host runs its own Ansible."""
    return {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}


@pytest.fixture(scope="session")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inventory of a host that runs Ansible itself, with secrets of another stack beside it."""
    directory = tmp_path_factory.mktemp("inventory") / "desk"
    (directory / ".secrets").mkdir(parents=True)
    (directory / ".secrets/redis_admin_password").write_text(SECRET)
    hosts = {"hosts": {"localhost": interpreter()}, "vars": {"stack_name": "molecule"}}
    children = {group: {"hosts": {"localhost": None}} for group in ("postgres", "redis")}
    (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {**hosts, "children": children}}))
    return directory


@pytest.fixture(scope="session")
def archive(inventory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, made on this machine."""
    directory = tmp_path_factory.mktemp("bundles")
    begun = time.monotonic()
    words = ["make", "bundle", f"INVENTORY={inventory}", f"BUNDLE={directory}", "OPTIONS=-e bundle_inventory=true"]
    own = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MAKE", "MFLAGS"))}
    done = subprocess.run(words, cwd=REPOSITORY, env=own, capture_output=True, text=True, check=False, timeout=3600)
    text = said(done)
    assert f"The inventory is {INVENTORY}." in text and "Left out of it: .secrets." in text
    found = directory / f"{PROJECT}.tar"
    print(f"\n{found.stat().st_size // 10**6} MB in {time.monotonic() - begun:.0f} s")
    # Nothing of the work is left beside it.
    assert {path.name for path in directory.iterdir()} == {found.name, f"{found.name}.sha256"}
    return found


@pytest.fixture(scope="session")
def unpacked(archive: Path) -> Iterator[Path]:
    """The bundle, unpacked on this machine."""
    with tarfile.open(archive) as tar:
        tar.extractall(archive.parent, filter="data")
    yield archive.parent / PROJECT


@pytest.fixture(scope="module")
def there(archive: Path) -> str:
    """The bundle, unpacked on a host that is cut off afterwards; its directory there."""
    said(at(HOST, "mkdir", "--parents", THERE))
    subprocess.run(["docker", "cp", archive, f"{HOST}:{THERE}"], check=True)
    said(at(HOST, "tar", "--extract", f"--file={THERE}/{archive.name}", f"--directory={THERE}"))
    said(at(HOST, "rm", f"{THERE}/{archive.name}"))
    cut_off(HOST)
    return f"{THERE}/{PROJECT}"


def test_what_is_in_a_bundle(unpacked: Path) -> None:
    """Images with bills of materials, packages, wheels, the collection, and a licence of everything."""
    parts = unpacked / "bundle"
    described = json.loads((parts / "bundle.json").read_text())
    assert [image.partition(":")[0] for image in described["images"]] == ["quantops/postgres", "quantops/redis"]
    for image in described["images"]:
        text = (parts / "sbom" / f"{image.replace('/', '-').replace(':', '-')}.cdx.json").read_text()
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        subject = json.loads(text)["metadata"]["component"]
        known = command_here("docker", "image", "inspect", "--format", "{{.Id}}", image)
        assert f"sha256:{subject['hashes'][0]['content']}" == known
    postgres = json.loads(next((parts / "sbom").glob("quantops-postgres-*")).read_text())["components"]
    assert any(each["purl"].startswith("pkg:deb/debian/postgresql-17@17") for each in postgres)
    with (parts / "licences/components.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert len(rows) > 200
    assert [row for row in rows if row["kind"] in ("deb", "pypi") and not row["text"] and not row["licence"]] == []
    assert {path.name for path in (parts / "packages").iterdir()} == {"bookworm", "trixie"}
    assert list((parts / "collection").glob("quantops-ibkr_stack-*.tar.gz"))


def test_no_secret_is_in_a_bundle(unpacked: Path) -> None:
    """Nor anything hidden beside the inventory."""
    assert not list(unpacked.rglob(".secrets")) and (unpacked / INVENTORY / "hosts.yml").is_file()
    holders = [path for path in unpacked.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    # This test names it.
    assert [path.relative_to(unpacked).as_posix() for path in holders] == ["molecule/bundle/tests/test_bundle.py"]


def command_here(*words: str) -> str:
    """Run a command on this machine; what it prints."""
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def test_a_damaged_bundle_is_not_installed(there: str) -> None:
    """The part is named, and the host has nothing new."""
    before = said(at(HOST, "dpkg-query", "--show"))
    images = f"{there}/bundle/images.tar.zst"
    flip = (
        "import sys; file = open(sys.argv[1], 'r+b'); file.seek(1000); byte = file.read(1)[0];"
        " file.seek(1000); file.write(bytes([byte ^ 1]))"
    )
    said(at(HOST, "python3", "-c", flip, images))
    assert "bundle/images.tar.zst: FAILED" in said(at(HOST, f"{there}/bundle/install"), status=1)
    said(at(HOST, "python3", "-c", flip, images))
    assert said(at(HOST, "dpkg-query", "--show")) == before
    assert at(HOST, "test", "-e", f"{there}/.venv").returncode != 0


def test_a_bare_host_without_a_network(there: str) -> None:
    """What docs/offline.md says: install, and make up; the services are well, and a second run changes nothing."""
    assert at(HOST, "sh", "-c", "command -v make docker zstd").returncode != 0
    begun = time.monotonic()
    said(at(HOST, f"{there}/bundle/install"))
    installed = time.monotonic()
    text = said(make("up"))
    print(f"\ninstall {installed - begun:.0f} s, make up {time.monotonic() - installed:.0f} s")
    assert "Load the images from the bundle" in text and "Build image" not in text
    for container in ("postgres", "redis"):
        assert_healthy(HOST, container)
        image = inspected(HOST, container, "{{.Config.Image}}")
        known = command_here("docker", "image", "inspect", "--format", "{{.Id}}", image)
        assert inspected(HOST, container, "{{.Image}}") == known
    assert "nothing to change" in said(make("up"))
    said(make("drift"))
    assert_no_way_out(HOST)


def test_nothing_else_is_left_on_the_host(there: str) -> None:
    """Neither copies of the bundle nor lists of its packages; the host's own sources are as they were."""
    assert said(at(HOST, "ls", "/var/lib/quantops")).split() in ([], ["gateway"])
    assert "bundle" not in said(at(HOST, "sh", "-c", "ls -R /etc/apt /var/lib/apt/lists"))


def test_settings_that_make_other_images_are_refused(there: str) -> None:
    """Before anything changes, with what to do."""
    before = said(at(HOST, "docker", "ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Names}}"))
    text = said(make("up", "OPTIONS=-e container_image_refresh=2030-01-01"), status=1)
    assert re.search(r"made from version 0\.1\.0 \(\S+\), lacks quantops/postgres:\w+, quantops/redis:\w+", text)
    assert "Make the bundle again" in text
    assert said(at(HOST, "docker", "ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Names}}")) == before


# ---- a host that is set up from here


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inventory of a host that does not see the bundle."""
    cut_off(REMOTE)
    directory = tmp_path_factory.mktemp("remote")
    host = {
        "ansible_connection": "community.docker.docker", "ansible_user": "root", "stack_name": "molecule",
        "ansible_python_interpreter": "/usr/bin/python3", "secrets_dir": str(directory / "secrets"),
    }  # fmt: skip
    inventory = {"all": {"hosts": {REMOTE: host}, "children": {"redis": {"hosts": {REMOTE: None}}}}}
    (directory / "hosts.yml").write_text(yaml.safe_dump(inventory))
    return directory / "hosts.yml"


def play(inventory: Path, bundle: Path, status: int = 0) -> str:
    """Run site.yml of this repository with a bundle."""
    done = run_playbook("site.yml", inventory, "--extra-vars", json.dumps({"stack_bundle_dir": str(bundle)}))
    return said(done, status)


def nothing_there(host: str) -> bool:
    """Whether no run has changed the host."""
    return at(host, "sh", "-c", "command -v dockerd || ls /etc/quantops /var/lib/quantops").returncode != 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("missing", "which is no bundle: "),
        ("damaged", "packages/bookworm/docker.io_"),
        ("architecture", "is for riscv64, and this host's processor is x86_64"),
        ("release", "has packages for trixie, and this host runs debian bookworm, which lacks"),
    ],
)
def test_what_a_remote_host_is_not_set_up_from(
    remote: Path, unpacked: Path, tmp_path: Path, change: str, sentence: str
) -> None:
    """A directory that is no bundle, a damaged one, and one for other hosts: nothing has changed."""
    bundle = tmp_path / "bundle"
    if change != "missing":
        subprocess.run(["cp", "--archive", "--link", unpacked / "bundle", bundle], check=True)
    if change == "damaged":
        [package] = (bundle / "packages/bookworm").glob("docker.io_*")
        content = package.read_bytes()
        package.unlink()
        package.write_bytes(content[:-1])
    elif change != "missing":
        described = json.loads((bundle / "bundle.json").read_text())
        described |= {"architecture": "riscv64"} if change == "architecture" else {"releases": ["trixie"]}
        (bundle / "bundle.json").unlink()
        (bundle / "bundle.json").write_text(json.dumps(described))
    assert sentence in play(remote, bundle, status=1)
    assert nothing_there(REMOTE)


def test_a_remote_host_without_a_network(remote: Path, unpacked: Path) -> None:
    """It gets copies of what it needs, which are not left there."""
    play(remote, unpacked / "bundle")
    assert_healthy(REMOTE, "redis")
    assert said(at(REMOTE, "ls", "/var/lib/quantops")).split() == []
    assert "nothing to change" in play(remote, unpacked / "bundle")
    assert_no_way_out(REMOTE)
