"""Runs the collection's modules in this process, with stand-ins for the Docker engine and its client."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

sys.path.insert(0, str(Path(__file__).parent))
from collection_under_test import Outcome, Run, plugin
from fake_engine import FakeEngine, running


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a module with arguments: ``run_module("config_tree", check=True, trees=[…])``."""

    def run(name: str, check: bool = False, **arguments: Any) -> Outcome:
        module = plugin(f"modules.{name}")
        given = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True}
        with patch_module_args(given), pytest.raises(SystemExit):
            module.main()
        output = capsys.readouterr().out
        return Outcome(json.loads(output.strip().splitlines()[-1]), output)

    return run


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """An engine that the modules find through their environment."""
    with running(tmp_path / "engine.sock") as found:
        monkeypatch.setenv("DOCKER_HOST", found.address)
        yield found


@pytest.fixture
def fake_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a shell script named docker first on PATH; returns the file that lists the arguments of each call."""
    log = tmp_path / "docker-calls"

    def install(body: str) -> Path:
        directory = tmp_path / "bin"
        directory.mkdir(exist_ok=True)
        script = directory / "docker"
        script.write_text(f'#!/bin/sh\necho "$*" >> {log}\n{body}\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
        return log

    return install
