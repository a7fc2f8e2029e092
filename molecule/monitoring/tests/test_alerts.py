"""Each alert of the roles is raised by series that show its fault, and not by healthy ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from stack_under_test import REPOSITORY

IMAGE = REPOSITORY / "roles/monitoring/files/image"


@pytest.fixture(scope="module")
def tool() -> Path:
    """The program of the image's version that evaluates rules over given series; built once, by Go."""
    [version] = re.findall("^METRICS_VERSION=(.+)$", (IMAGE / "build").read_text(), flags=re.MULTILINE)
    directory = REPOSITORY / ".venvs" / f"vmalert-tool-{version}"
    if not (directory / "vmalert-tool").exists():
        package = f"github.com/VictoriaMetrics/VictoriaMetrics/app/vmalert-tool@{version}"
        environment = {**os.environ, "GOBIN": str(directory), "CGO_ENABLED": "0"}
        subprocess.run(["go", "install", package], env=environment, check=True, timeout=1800)
    return directory / "vmalert-tool"


def written(name: str, case: dict[str, Any], expected: int) -> dict[str, Any]:
    """Write a case in the tool's form: so many alerts of the name fire at its end."""
    series = case.get("series", case)
    return {
        "name": f"{name}: {'fires' if expected else 'quiet'} with {json.dumps(series)}",
        "interval": case.get("interval", "1m"),
        "input_series": [{"series": each, "values": str(values)} for each, values in series.items()],
        "metricsql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) default 0',
                "eval_time": case.get("after", "20m"),
                "exp_samples": [{"labels": "{}", "value": expected}],
            }
        ],
    }


def test_each_alert_is_raised_by_its_fault_alone(tool: Path, tmp_path: Path) -> None:
    """As vmalert evaluates the rules."""
    cases = yaml.safe_load((REPOSITORY / "tests/alerts.yml").read_text())
    files = []
    for path in REPOSITORY.glob("roles/*/files/alerts.yml"):
        for name, alert in yaml.safe_load(path.read_text()).items():
            rule = {"alert": name, "expr": alert["expr"], "for": alert.get("for", "0s")}
            rules = tmp_path / f"{name}.rules"
            rules.write_text(yaml.safe_dump({"groups": [{"name": name, "rules": [rule]}]}))
            for number, (expected, case) in enumerate(
                (expected, case) for key, expected in (("fires", 1), ("quiet", 0)) for case in cases[name].get(key, [])
            ):
                files.append(tmp_path / f"{name}-{number}.yml")
                content = {
                    "rule_files": [str(rules)],
                    "evaluation_interval": case.get("interval", "1m"),
                    "tests": [written(name, case, expected)],
                }
                files[-1].write_text(yaml.safe_dump(content))
    done = subprocess.run(
        [tool, "unittest", *(f"--files={file}" for file in files)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
