"""`make configure`: what it writes for hosts of several sizes, and how it takes answers."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[3]
sys.path[:0] = [str(REPOSITORY / "tools"), str(REPOSITORY / "tests/unit/plugins")]

import configure  # noqa: E402
from collection_under_test import ansible_playbook, plugin  # noqa: E402

REPORT: dict[str, Any] = {
    "distribution": "debian",
    "version": "13",
    "release": "trixie",
    "like": "",
    "architecture": "x86_64",
    "memory_mb": 15800,
    "cores": 4,
    "address_here": True,
    "disk_free_mb": {"/var/lib/docker": 90_000},
    "read_only": [],
    "config_files": [],
    "init": "systemd",
    "engine": {"daemon": False, "client": False, "answers": False, "error": "there is no docker client on this host"},
    "ports": {},
    "networks": {},
    "occupied": [],
    "volumes": [],
    "images": [],
    "volume_files": {},
    "python": {"executable": "/usr/bin/python3", "error": "", "debian": True},
}
#: The checks of a run before anything changes, of a host that is described instead of inspected.
PREFLIGHT = """
- hosts: all
  gather_facts: false
  roles: [quantops.ibkr_stack.stack]
  tasks:
    - {set_fact: {docker_host_report: {host: "{{ described }}"}}}
    - {include_role: {name: quantops.ibkr_stack.docker_host, tasks_from: check}}
    - {include_role: {name: quantops.ibkr_stack.secrets}, vars: {secrets_write: false}}
    - include_role: {name: quantops.ibkr_stack.container_image, tasks_from: preflight}
      vars: {container_image_wanted: "{{ stack_contract.images }}"}
    - include_role: {name: quantops.ibkr_stack.container_service, tasks_from: preflight}
      vars: {container_service_services: "{{ stack_here }}"}
    - copy:
        content: "{{ container_service_plans.values() | flatten(levels=1) | to_json }}"
        dest: "{{ playbook_dir }}/plans.json"
      check_mode: false
"""
Configure = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Configure:
    """Writes an inventory for a described host: ``write("--yes", memory_mb=7800)``."""

    def run(*arguments: str, **host: Any) -> Path:
        def described(_host: str, _user: str, _ask: bool) -> dict[str, Any]:
            return {**REPORT, **host}

        name = [] if "--name" in arguments else ["--name", "desk"]
        assert configure.main([*name, *arguments], tmp_path / "inventories", described) == 0
        return tmp_path / "inventories" / "desk"

    return run


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs what must not write an inventory, and returns the message."""

    def run(*arguments: str, **host: Any) -> str:
        code = configure.main(["--name", "desk", *arguments], tmp_path / "new", lambda *_: {**REPORT, **host})
        assert code == 1 and not (tmp_path / "new").exists()
        message = capsys.readouterr().err
        assert message.endswith("\nNothing was written.\n")
        return message

    return run


def variables(directory: Path) -> dict[str, Any]:
    """Variables of an inventory."""
    return yaml.safe_load((directory / "group_vars" / "all.yml").read_text())


def groups(directory: Path) -> set[str]:
    """Groups of an inventory."""
    return set(yaml.safe_load((directory / "hosts.yml").read_text())["all"]["children"])


def preflight(directory: Path, **host: Any) -> dict[str, dict[str, Any]]:
    """Run the checks that a run begins with, and return the plans of the containers by name."""
    place = directory.parent.parent
    (place / "play.yml").write_text(PREFLIGHT)
    (place / "described.json").write_text(json.dumps({"described": {**REPORT, **host}}))
    words = ["--check", "-i", str(directory), "-e", f"@{place}/described.json", f"{place}/play.yml"]
    ansible_playbook(REPOSITORY, *words)
    return {plan["service"]: plan for plan in json.loads((place / "plans.json").read_text())}


def problems(directory: Path, **host: Any) -> list[str]:
    """What the collection's checks say of a host and an inventory, with plans as the tool reads them from the roles."""
    defaults = yaml.safe_load((REPOSITORY / "roles/stack/defaults/main.yml").read_text())
    settings = defaults | variables(directory)
    report = {**REPORT, **host}
    services = [each for each in configure.read_services() if set(each.groups) & groups(directory)]
    plans = configure.plans(services, settings, settings, settings["stack_name"])
    wanted = {
        "install": True,
        "config_dir": "/etc/quantops/quantops",
        "min_disk_mb": settings["stack_min_disk_mb"],
        "network": settings["stack_name"],
        "subnet": settings["stack_network_subnet"],
        "publish_address": settings["stack_publish_address"],
    }
    return plugin("plugin_utils.host_checks").host_problems(report, wanted) + plugin(
        "plugin_utils.host_checks"
    ).fit_problems(plans, report, {}, settings["stack_reserved_memory_mb"])


SIZES = {
    "8 GB": ({"memory_mb": 7680, "cores": 2}, range(5000, 6400), 1),
    "16 GB": ({"memory_mb": 15800, "cores": 4}, [8960], 2),
    "64 GB": ({"memory_mb": 64200, "cores": 16}, range(20_000, 40_000), 8),
    "one core": ({"memory_mb": 64200, "cores": 1}, [8960], 2),
}


@pytest.mark.parametrize(("host", "together", "_concurrency"), SIZES.values(), ids=SIZES)
def test_a_host_of_each_size_fits_the_whole_stack(
    write: Configure, host: dict[str, Any], together: Any, _concurrency: int
) -> None:
    directory = write("--yes", **host)
    shipped = yaml.safe_load((REPOSITORY / "inventories/local/hosts.yml").read_text())["all"]["children"]
    assert groups(directory) == set(shipped)
    assert problems(directory, **host) == []
    assert host["memory_mb"] - variables(directory)["stack_reserved_memory_mb"] >= together[-1]


@pytest.mark.parametrize("size", ["8 GB", "64 GB"])
def test_a_run_accepts_the_inventory(write: Configure, size: str) -> None:
    """The checks of a run, with Ansible's own plans, which are what the tool reads from the roles without Ansible."""
    host, together, concurrency = SIZES[size]
    directory = write("--yes", **host)
    plans = preflight(directory, **host)
    limits = [plan["limits"]["Memory"] // 2**20 for plan in plans.values() if plan["kind"] == "service"]
    assert len(limits) == 14 and sum(limits) in together
    command = plans["airflow-worker"]["spec"]["command"]
    assert command[command.index("--concurrency") + 1] == str(concurrency)
    settings = variables(directory)
    read = {plan["service"]: plan for plan in configure.plans(configure.read_services(), settings, {}, "quantops")}
    # Of an application of the operator's own, and what only a person can want.
    contract = yaml.safe_load((REPOSITORY / "roles/monitoring/meta/service.yml").read_text())
    asked_for = {"backup", "edge", "edge-gate", *contract["containers"]}
    assert set(read) == set(plans) | {"backend-check"} | asked_for
    for name, plan in plans.items():
        assert read[name]["kind"] == plan["kind"] and read[name]["name"] == plan["name"]
        assert read[name]["limits"]["Memory"] == plan["limits"]["Memory"] or plan["kind"] == "job", name
        assert read[name]["spec"]["cpus"] == plan["spec"]["cpus"], name
        ports = [[port.rsplit(":", 1)[0] for port in each[name]["spec"]["published_ports"]] for each in (read, plans)]
        assert ports[0] == ports[1], name


def test_the_shipped_limits_do_not_fit_into_8_gb(write: Configure) -> None:
    """So the limits are what makes the difference."""
    directory = write("--yes", memory_mb=7680)
    settings = variables(directory)
    kept = {name: value for name, value in settings.items() if not name.endswith("_overrides")}
    (directory / "group_vars/all.yml").write_text(yaml.safe_dump(kept))
    [problem] = problems(directory, memory_mb=7680)
    assert "may use 8960 MiB together" in problem


def test_the_sizes_name_what_exists() -> None:
    """Each container, so that renaming one is noticed here."""
    known = {service.name: set(service.containers) for service in configure.read_services()}
    for sizes in (configure.SMALL, configure.LARGE):
        for service, settings in sizes.items():
            assert set(settings.get(f"{service}_overrides", {})) <= known[service]
            assert all(name.startswith(f"{service}_") for name in settings)


def test_a_small_host_gets_what_fits(write: Configure, capsys: pytest.CaptureFixture[str]) -> None:
    """4 GB: without Airflow; the tool and the inventory say so and how to get it back."""
    host = {"memory_mb": 3900, "cores": 2}
    directory = write("--yes", **host)
    assert groups(directory) == {"postgres", "redis", "minio", "ibkr_gateway", "backend", "mlflow"}
    assert "too little for Airflow" in capsys.readouterr().out
    assert (
        "# Without Airflow (3.3 GiB of memory is too little): to run it, add airflow and airflow_worker below."
        in (directory / "hosts.yml").read_text()
    )
    assert problems(directory, **host) == []


def test_taken_ports_addresses_and_names(write: Configure) -> None:
    """Another stack is on the host, a program has a port, and another machine is reached in the usual subnet."""
    host = {
        "ports": {
            "8080": [{"address": "*", "process": "java (process 7)"}],
            "5500": [{"address": "127.0.0.1", "process": "docker-proxy", "container": "quantops-mlflow"}],
            "5501": [{"address": "127.0.0.1", "process": "python"}],
            "9000": [{"address": "192.0.2.7", "process": "elsewhere"}],
        },
        "networks": {"quantops": ["172.29.64.0/24"]},
        "volumes": ["quantops-postgres-data"],
    }
    directory = write("--yes", "--port", "backend_port=8088", **host)
    found = variables(directory)
    assert {name: value for name, value in found.items() if name.endswith("_port")} == {
        "backend_port": 8088, "mlflow_port": 5502, "airflow_port": 8081,
    }  # fmt: skip
    assert found["stack_name"] == "desk" and found["stack_network_subnet"] == "172.29.65.0/24"
    assert (
        "# The usual 8080 is in use by java (process 7).\nairflow_port: 8081\n"
        in (directory / "group_vars/all.yml").read_text()
    )
    assert problems(directory, **host) == []


def test_a_stack_that_is_taken_over(write: Configure, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own containers hold its ports and its network has its addresses; its secrets have to be fetched."""
    mine = {"address": "127.0.0.1", "process": "docker-proxy", "container": "quantops-mlflow"}
    host = {"ports": {"5500": [mine]}, "networks": {"quantops": ["172.30.0.0/24"]}}
    directory = write("--yes", "--stack-name", "quantops", **host)
    found = variables(directory)
    assert found["stack_network_subnet"] == "172.30.0.0/24"
    assert "mlflow_port" not in found and "stack_name" not in found
    assert "make fetch-secrets INVENTORY=inventories/desk" in capsys.readouterr().out
    assert problems(directory, **host) == []


def archive(path: Path, member: str) -> Path:
    """Make a zip with one file."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(member, "")
    return path


def test_the_real_gateway_of_a_remote_host(write: Configure, tmp_path: Path) -> None:
    """Its archive by an absolute path; a host that SSH reaches, as a user."""
    program = "dist/ibgroup.web.core.iblink.router.clientportal.gw.jar"
    path = archive(tmp_path / "clientportal.gw.zip", program)
    directory = write(
        "--yes", "--host", "desk.example.com", "--user", "deploy", "--gateway-archive", os.path.relpath(path)
    )
    found = variables(directory)
    assert found["ibkr_gateway_simulated"] is False and found["ibkr_gateway_archive"] == str(path)
    inventory = yaml.safe_load((directory / "hosts.yml").read_text())["all"]
    assert inventory["hosts"] == {"desk.example.com": {"ansible_user": "deploy"}}
    assert all(group == {"hosts": {"desk.example.com": None}} for group in inventory["children"].values())


def test_an_existing_inventory_is_not_overwritten(
    write: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even an empty directory."""
    directory = write("--yes")
    before = (directory / "group_vars/all.yml").read_text()
    (tmp_path / "inventories" / "empty").mkdir()
    for name in ("desk", "empty"):
        words = ["--yes", "--name", name, "--memory", "12g"]
        assert configure.main(words, tmp_path / "inventories", lambda *_: REPORT) == 1
        assert "exists, and is not overwritten. Choose another name" in capsys.readouterr().err
    assert (directory / "group_vars/all.yml").read_text() == before
    assert list((tmp_path / "inventories" / "empty").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "host", "message"),
    [
        (["--name", "No Name"], {}, "--name: 'No Name' is not a name of up to 40"),
        (["--name", "../x"], {}, "--name: '../x' is not"),
        (["--host", "a b"], {}, "--host: 'a b' is not a host name"),
        (["--user", "me: {}"], {}, "is not a user's name"),
        (["--memory", "lots"], {}, "--memory: 'lots' is not a size"),
        (["--memory", "6"], {}, "--memory: 6 is not between 1m and 15544m"),
        (["--memory", "64g"], {}, "the host has 15800 MiB"),
        (["--services", "mlfow"], {}, "There is no service mlfow. There are postgres,"),
        (
            ["--services", "backend,postgres,redis,minio"],
            {},
            "backend needs ibkr_gateway: add it, or leave out backend",
        ),
        (["--services", "all"], {"memory_mb": 4000}, "and may take 3488 MiB: leave out some, such as airflow"),
        (["--services", ""], {}, "--services: There is no service"),
        (["--gateway", "paper"], {}, "--gateway: 'paper' is not simulated or real"),
        (["--gateway", "real"], {}, "There is no terminal to ask: set --gateway-archive."),
        (["--gateway", "real", "--gateway-archive", "/nowhere.zip"], {}, "There is no file '/nowhere.zip'"),
        (["--gateway", "simulated", "--gateway-archive", "/x"], {}, "--gateway-archive is for the real gateway"),
        (["--port", "airflow_port=http"], {}, "--port airflow_port=: 'http' is not a port"),
        (["--port", "airflow_port=70000"], {}, "'70000' is not a port"),
        (["--port", "airflow_port=5500"], {}, "Port 5500 is already mlflow_port"),
        (["--port", "airflw_port=81"], {}, "--port: there is no airflw_port. There are"),
        (
            ["--port", "airflow_port=81"],
            {"ports": {"81": [{"address": "0.0.0.0", "process": "nginx"}]}},
            "Port 81 is in use by nginx",
        ),
        (["--subnet", "10.0.0.0/29"], {}, "10.0.0.0/29 is too small"),
        (["--subnet", "everything"], {}, "'everything' is not a network"),
        (["--stack-name", "A"], {}, "--stack-name: 'A' is not a name"),
        ([], {"memory_mb": 1500}, "need"),
    ],
)
def test_bad_answers(refused: Callable[..., str], arguments: list[str], host: dict[str, Any], message: str) -> None:
    """Each says which option is wrong and why, before anything is written."""
    assert message in refused("--yes", *arguments, **host)


def test_a_zip_that_is_not_the_gateway(refused: Callable[..., str], tmp_path: Path) -> None:
    path = archive(tmp_path / "other.zip", "README")
    assert "is not IBKR's clientportal.gw.zip" in refused("--yes", "--gateway-archive", str(path))


def test_nobody_to_ask(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal, an answer that is missing is an error that names its option; all by options is enough."""
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert "set --host, or --yes to accept what is proposed (localhost)" in refused()
    assert "set --memory, or --yes" in refused("--host", "localhost")


def test_all_answers_as_options(write: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    write("--host", "localhost", "--memory", "12g", "--services", "all", "--gateway", "simulated")


def test_a_host_that_cannot_be_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what Ansible says, and what to try."""
    words = ["--yes", "--name", "desk", "--host", "host.invalid"]
    assert configure.main(words, tmp_path / "inventories") == 1
    said = capsys.readouterr().err
    assert "Cannot look at host.invalid: " in said and "ssh" in said.lower() and "-m ping --become" in said


def test_what_the_inventory_cannot_change_is_said(write: Configure, capsys: pytest.CaptureFixture[str]) -> None:
    """It is written, and the checks of a run will say the same."""
    write("--yes", disk_free_mb={"/var/lib/docker": 4000})
    assert "Before `make up`: /var/lib/docker has 4000 MiB free" in capsys.readouterr().out


def test_a_person_answers(tmp_path: Path) -> None:
    """At a terminal: enter takes the proposal, and a bad answer is asked again."""
    program = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(REPOSITORY / "tools")!r})
import configure
sys.exit(configure.main([], Path({str(tmp_path / "inventories")!r}), lambda *_: {REPORT!r}))
"""
    answers = ["", "Not a name", "desk", "nothing", "12g", "postgres,minio,mlflow,airflow", "postgres,minio,mlflow"]
    controller, terminal = pty.openpty()
    try:
        os.write(controller, "".join(f"{answer}\n" for answer in answers).encode())
        done = subprocess.run(
            [sys.executable, "-c", program], stdin=terminal, capture_output=True, text=True, check=False, timeout=120
        )
    finally:
        os.close(controller)
        os.close(terminal)
    assert done.returncode == 0, done.stdout + done.stderr
    for said in ("'Not a name' is not a name", "'nothing' is not a size", "airflow needs redis"):
        assert said in done.stdout
    assert groups(tmp_path / "inventories/desk") == {"postgres", "minio", "mlflow"}
    assert variables(tmp_path / "inventories/desk")["stack_reserved_memory_mb"] == 15800 - 12288
