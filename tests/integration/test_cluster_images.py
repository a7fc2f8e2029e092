"""One name is one image on all hosts, and what a host lacks comes from another one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

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
    first, *others = inventories()
    words = playbook_command("playbooks/site.yml", first.partition("=")[2], *others, "--tags=images")
    with subprocess.Popen(
        words, cwd=REPOSITORY, env=ansible_environment(), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as run:  # fmt: skip
        try:
            eventually(lambda: on(worker, "pgrep", "-f", "docker load --quiet", status=None), seconds=180, pause=0.2)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
    eventually(lambda: not on(worker, "pgrep", "-f", "docker load --quiet", status=None), seconds=60)
    assert reference not in images(worker)
    played("site", "--tags=images")
    assert_as_on_the_server(worker, reference)
