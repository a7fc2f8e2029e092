#!/usr/bin/env python3
"""Times trainings alone and while backups are made, in turn.

The shipped training, on ten years of made-up bars, runs in a container like Airflow's worker (one core, 1 GiB) with the
image of a container that has what models need, against the stack's MLflow. Backups that copy PostgreSQL whole are made
one after the other beside every second one. The models stay in MLflow as those of the symbol ``BENCHMARK``.

Usage: training_beside_backup.py [--pairs 5] [--stack quantops] [--like backend] [--host CONTAINER]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import tarfile
import time
from pathlib import Path

CODE = Path(__file__).resolve().parents[1] / "files/dags/quantops_strategy"
TRAINING = """
import sys, time
sys.path.insert(0, "/code")
import numpy as np
import pandas as pd
from quantops_strategy.bars import DailyBars
from quantops_strategy.tracking import log_evaluation, start_run, train_and_register
from quantops_strategy.evaluation import Recipe

days = pd.bdate_range("2014-01-01", periods=2520, name="date")
walk = np.random.default_rng(7)
close = 100 * np.exp(np.cumsum(walk.normal(0.0003, 0.012, len(days))))
table = {"open": close * 0.999, "high": close * 1.01, "low": close * 0.99, "close": close, "volume": 1e6 + 0 * close}
begun = time.monotonic()
bars = DailyBars("BENCHMARK", "benchmark", True, True, pd.DataFrame(table, index=days))
run = start_run(bars, Recipe(), 5.0, "benchmark")
log_evaluation(run)
train_and_register(run)
print(time.monotonic() - begun)
"""


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--stack", default="quantops")
    parser.add_argument("--like", default="backend", help="the container whose image trains")
    parser.add_argument("--mlflow", default="http://mlflow-server:5500", help="MLflow's URL on the stack's network")
    parser.add_argument("--host", help="the stack runs in the engine of this container, as with Molecule")
    asked = parser.parse_args()
    docker = ["docker", *(["exec", "-i", asked.host, "docker"] if asked.host else [])]

    def output(*words: str) -> str:
        return subprocess.run([*docker, *words], check=True, capture_output=True, text=True).stdout.strip()

    like = f"{asked.stack}-{asked.like}"
    image = output("inspect", "--format", "{{.Config.Image}}", like)
    network = output("inspect", "--format", "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}", like)
    code = io.BytesIO()
    with tarfile.open(fileobj=code, mode="w") as archive:
        archive.add(CODE, "quantops_strategy")

    def train() -> float:
        words = ["run", "--rm", "--interactive", "--network", network, "--cpus=1", "--memory=1g", "--entrypoint=sh"]
        words += [f"--env=MLFLOW_TRACKING_URI={asked.mlflow}", "--env=HOME=/tmp", "--env=MLFLOW_DISABLE_TELEMETRY=true"]
        words += ["--tmpfs=/code", "--user=0:0", image, "-c"]
        words.append(
            f"tar --extract --directory=/code && cat > /tmp/train.py <<'END' && python /tmp/train.py\n{TRAINING}\nEND"
        )
        done = subprocess.run([*docker, *words], input=code.getvalue(), capture_output=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr.decode()[-2000:])
        return float(done.stdout.split()[-1])

    def backups() -> subprocess.Popen[bytes]:
        loop = "while :; do python3 /run/config/backup.py run full > /dev/null || exit 1; echo made; done"
        words = [*docker, "exec", f"{asked.stack}-backup", "timeout", "3600", "sh", "-c", loop]
        return subprocess.Popen(words, stdout=subprocess.PIPE)

    train()
    alone, beside, made = [], [], 0
    for _pair in range(asked.pairs):
        alone.append(train())
        loop = backups()
        time.sleep(1)
        beside.append(train())
        if loop.poll() is not None:
            raise SystemExit("A backup failed; see the log of the container backup.")
        output("exec", f"{asked.stack}-backup", "pkill", "-f", "^timeout 3600 sh")
        made += loop.communicate()[0].count(b"made")
        print(f"alone {alone[-1]:.1f} s, beside backups {beside[-1]:.1f} s, load {os.getloadavg()[0]:.1f}", flush=True)
    result = {
        "alone_s": round(statistics.median(alone), 1),
        "beside_s": round(statistics.median(beside), 1),
        "ratio": round(statistics.median(b / a for a, b in zip(alone, beside, strict=True)), 3),
        "backups": made,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
