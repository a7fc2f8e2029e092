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
ALERTS = {
    name: alert
    for path in REPOSITORY.glob("roles/*/files/alerts.yml")
    for name, alert in yaml.safe_load(path.read_text()).items()
}
CASES = yaml.safe_load((REPOSITORY / "tests/alerts.yml").read_text())


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


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_alert_is_raised_by_its_fault_alone(tool: Path, tmp_path: Path, name: str) -> None:
    """As vmalert evaluates its rule."""
    rule = {"alert": name, "expr": ALERTS[name]["expr"], "for": ALERTS[name].get("for", "0s")}
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": name, "rules": [rule]}]}))
    cases = [(case, expected) for key, expected in (("fires", 1), ("quiet", 0)) for case in CASES[name].get(key, [])]
    files = []
    for number, (case, expected) in enumerate(cases):
        files.append(tmp_path / f"{number}.yml")
        content = {
            "rule_files": [str(rules)],
            "evaluation_interval": case.get("interval", "1m"),
            "tests": [written(name, case, expected)],
        }
        files[-1].write_text(yaml.safe_dump(content))
    words = [tool, "unittest", *(f"--files={file}" for file in files)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and said.count("SUCCESS") == len(cases), said[-6000:]
