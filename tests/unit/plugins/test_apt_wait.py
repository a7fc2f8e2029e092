"""`apt_wait`: another program that installs packages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from collection_under_test import Run

HOLD = """
import fcntl, sys, time
with open(sys.argv[1], "w") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[[float], subprocess.Popen[str]]]:
    """Has another process hold the lock for some seconds, as apt does."""
    processes = []

    def held(seconds: float) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", HOLD, str(tmp_path / "lock"), str(seconds)]
        processes.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        assert processes[-1].stdout.readline() == "held\n"
        return processes[-1]

    yield held
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_nobody_holds_it(run_module: Run, tmp_path: Path) -> None:
    """Neither a lock that is not there nor one that nobody holds is waited for."""
    (tmp_path / "lock").touch()
    outcome = run_module("apt_wait", locks=[str(tmp_path / "lock"), str(tmp_path / "none")], timeout=0)
    assert not outcome.failed and outcome.result["holder"] == ""


def test_waits_until_it_is_free(
    run_module: Run, tmp_path: Path, hold: Callable[[float], subprocess.Popen[str]]
) -> None:
    """The other program ends meanwhile."""
    process = hold(1.5)
    outcome = run_module("apt_wait", locks=[str(tmp_path / "lock")], timeout=60)
    assert not outcome.failed and f"(process {process.pid})" in outcome.result["holder"]


def test_names_who_holds_it(run_module: Run, tmp_path: Path, hold: Callable[[float], subprocess.Popen[str]]) -> None:
    """The other program goes on for too long."""
    process = hold(60)
    outcome = run_module("apt_wait", locks=[str(tmp_path / "lock")], timeout=1)
    assert outcome.failed
    assert f"(process {process.pid}), which holds {tmp_path}/lock. Wait for it to finish" in outcome.result["msg"]
    assert "docker_host_apt_timeout" in outcome.result["msg"]
