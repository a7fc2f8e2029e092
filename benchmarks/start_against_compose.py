#!/usr/bin/env python3
"""Measures a start with images there and volumes empty, against `docker compose up --wait` of the same containers.

Needs a stack that runs, of which it takes the containers' description, and Docker Compose 2 at COMPOSE (a path). Both
sides use a stack of their own (`bench`), with their own ports, subnet and volumes, and remove it afterwards. Compose
runs the same steps: databases and buckets are made by the same scripts between its data services and the rest. Its
health interval is set to 2 s, because it learns of readiness from the engine's own checks alone.

Usage: COMPOSE=/path/to/docker-compose start_against_compose.py [RUNS]
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STACK = "bench"
OFFSET = 30000
PORTS = {
    "minio": 9000,
    "minio_console": 9001,
    "ibkr_gateway": 5055,
    "backend": 8000,
    "backend_flower": 5555,
    "mlflow": 5500,
    "airflow": 8080,
}
DATA = ("postgres", "redis", "minio", "ibkr-gateway")
STEPS = ("mlflow-upgrade", "backend-migrate", "airflow-init")


def run(*args: str, **options: Any) -> str:
    """Run a command and return what it prints."""
    return subprocess.run(args, check=True, capture_output=True, text=True, cwd=ROOT, **options).stdout


def playbook(name: str, secrets: str, *more: str) -> None:
    """Run a playbook for the stack of this benchmark."""
    variables = {
        "stack_name": STACK,
        "stack_network_subnet": "172.29.66.0/24",
        "secrets_dir": secrets,
        **{f"{key}_port": port + OFFSET for key, port in PORTS.items()},
    }
    try:
        run(str(ROOT / ".venv/bin/ansible-playbook"), name, "-e", json.dumps(variables), *more)
    except subprocess.CalledProcessError as error:
        sys.exit(error.stdout + error.stderr)


def destroy(secrets: str) -> None:
    """Remove the benchmark's stack with its data."""
    playbook("playbooks/destroy.yml", secrets, "-e", f"destroy_data=true destroy_confirm={STACK}")


def service(item: dict[str, Any], network: str) -> dict[str, Any]:
    """Describe a running container as a Compose service."""
    config, host = item["Config"], item["HostConfig"]
    name = config["Labels"]["quantops.service"]
    image = json.loads(run("docker", "image", "inspect", config["Image"]))[0]["Config"]
    own = [entry for entry in config["Env"] if entry not in (image["Env"] or [])]
    result: dict[str, Any] = {
        "image": config["Image"],
        "user": config["User"],
        "command": config["Cmd"],
        "entrypoint": config["Entrypoint"],
        "environment": dict(entry.split("=", 1) for entry in own),
        "hostname": name,
        "read_only": host["ReadonlyRootfs"],
        "tmpfs": [f"{path}:{options}" for path, options in host["Tmpfs"].items()],
        "volumes": [
            {
                "type": mount["Type"],
                "source": mount["Source"],
                "target": mount["Target"],
                "read_only": mount.get("ReadOnly", False),
            }
            for mount in host["Mounts"]
        ],
        "ports": [
            f"{binding['HostIp']}:{binding['HostPort']}:{port.split('/')[0]}"
            for port, bindings in (host["PortBindings"] or {}).items()
            for binding in bindings
        ],
        "mem_limit": host["Memory"],
        "memswap_limit": host["Memory"],
        "cpus": host["NanoCpus"] / 1e9,
        "pids_limit": host["PidsLimit"],
        "shm_size": host["ShmSize"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "init": True,
        "restart": host["RestartPolicy"]["Name"] if name not in STEPS else "no",
        "networks": {"stack": {"aliases": item["NetworkSettings"]["Networks"][network]["Aliases"]}},
        "depends_on": {},
    }
    if config.get("StopSignal"):
        result["stop_signal"] = config["StopSignal"]
    health = config.get("Healthcheck")
    if health:
        result["healthcheck"] = {
            "test": health["Test"],
            "interval": "2s",
            "timeout": "5s",
            "retries": 100,
            "start_period": "120s",
        }
    if name not in DATA:
        result["depends_on"] = {each: {"condition": "service_healthy"} for each in DATA}
    step = {"mlflow": "mlflow-upgrade", "airflow": "airflow-init"}.get(name.split("-")[0])
    step = step or (None if name in DATA else "backend-migrate")
    if step and name not in (*DATA, *STEPS):
        result["depends_on"][step] = {"condition": "service_completed_successfully"}
    # `$` begins a variable for Compose.
    return json.loads(json.dumps(result).replace("$", "$$"))


def compose_file(folder: Path) -> None:
    """Write a Compose file of the benchmark's containers."""
    names = run("docker", "ps", "--all", "--filter", f"label=quantops.stack={STACK}", "--format", "{{.Names}}").split()
    items = json.loads(run("docker", "inspect", *names))
    services = {item["Config"]["Labels"]["quantops.service"]: service(item, STACK) for item in items}
    volumes = {v["source"]: {} for each in services.values() for v in each["volumes"] if v["type"] == "volume"}
    network = {"ipam": {"config": [{"subnet": "172.29.66.0/24"}]}}
    content = {"name": STACK, "services": services, "volumes": volumes, "networks": {"stack": network}}
    (folder / "compose.json").write_text(json.dumps(content, indent=1))


def main() -> None:
    """Measure both sides in turn."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    compose = os.environ.get("COMPOSE", "docker-compose")
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    secrets = str(folder / "secrets")
    ours, theirs = [], []
    try:
        for _ in range(runs):
            begun = time.monotonic()
            playbook("site.yml", secrets)
            ours.append(time.monotonic() - begun)
            print(f"site.yml: {ours[-1]:.1f} s", flush=True)
            compose_file(folder)
            extra = json.dumps({"stack_name": STACK, "secrets_dir": secrets, "target": str(folder)})
            run(str(ROOT / ".venv/bin/ansible-playbook"), "benchmarks/render.yml", "-e", extra)
            # The same configuration and secrets, with the same owners, for the other side.
            run("cp", "-a", f"/etc/quantops/{STACK}", str(folder / "etc"))
            destroy(secrets)
            run("cp", "-a", str(folder / "etc"), f"/etc/quantops/{STACK}")
            up = (compose, "-f", str(folder / "compose.json"), "up", "--detach", "--wait", "--wait-timeout", "600")
            begun = time.monotonic()
            run(*up, *DATA)
            for container, command, script in (
                ("postgres", ("psql", "-X", "-q", "-U", "postgres", "-d", "postgres", "-f", "-"), "reconcile.sql"),
                ("minio", ("sh",), "reconcile.sh"),
            ):
                run("docker", "exec", "-i", f"{STACK}-{container}-1", *command, input=(folder / script).read_text())
            run(*up)
            theirs.append(time.monotonic() - begun)
            print(f"docker compose up --wait: {theirs[-1]:.1f} s, ratio {ours[-1] / theirs[-1]:.2f}", flush=True)
            run(compose, "-f", str(folder / "compose.json"), "down", "--volumes", "--timeout", "20")
            shutil.rmtree(f"/etc/quantops/{STACK}")
            shutil.rmtree(folder / "etc")
        ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
        print(f"median: {statistics.median(ours):.1f} s against {statistics.median(theirs):.1f} s")
        print(f"median ratio: {statistics.median(ratios):.2f}")
    finally:
        destroy(secrets)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
