"""`host_secrets`: whether a directory of secrets belongs to a host's stack, and which services a rotation concerns."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from collection_under_test import Run, plugin
from fake_engine import FakeEngine

OLD, NEW = "old" * 10 + "xx", "new" * 10 + "xx"
KEY, CERTIFICATE = (f"-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----" for kind in ("PRIVATE KEY", "CERTIFICATE"))


def service(title: str, *containers: str, hosts: tuple[str, ...] = ("a",), **checkers: str) -> dict[str, Any]:
    """What of a contract counts here; `checkers` are the secrets with which it logs in, and who checks them."""
    return {"title": title, "containers": list(containers), "hosts": list(hosts), "secret_checkers": checkers}


SERVICES: dict[str, dict[str, Any]] = {
    "postgres": service("PostgreSQL", "postgres"),
    "redis": service("Redis", "redis"),
    "ibkr_gateway": service("IBKR gateway", "ibkr-gateway"),
    "backend": service("Backend", "backend", "celery-worker"),
    "airflow": service("Airflow", "airflow-init", "airflow-worker", hosts=("a", "b")),
}
action = plugin("action.host_secrets")


class Host:
    """A stack's directory on a host."""

    def __init__(self, directory: Path, run: Run) -> None:
        """Begin with nothing."""
        self.directory, self.run = directory, run

    def copy(self, container: str, **files: str) -> None:
        """Give a container its copies of secrets."""
        place = self.directory / container / "secrets"
        place.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (place / name).write_text(content)

    def keep(self, secrets: dict[str, str], everything: bool = False, **contents: str) -> dict[str, Any]:
        """Record the secrets that files with these contents hold."""
        plans = [{"secret_trees": [{"files": contents}]}]
        known = self.report()["record"]
        entries = action.entries("stack", secrets, plans, known, everything)
        return self.run("host_secrets", directory=str(self.directory), stack="stack", keep=entries).result

    def report(self, secrets: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
        """Compare the secrets of a run with the record."""
        current = {name: action.digests("stack", name, value) for name, value in (secrets or {}).items()}
        return self.run("host_secrets", directory=str(self.directory), stack="stack", current=current, **more).result

    def judged(self, secrets: dict[str, str], **more: Any) -> list[str]:
        """Reasons against a directory of secrets."""
        args = {"path": "/desk/.secrets", "directory": str(self.directory), "stack": "stack", "given": [], **more}
        current = {name: action.digests("stack", name, value) for name, value in secrets.items()}
        return action.missing_secrets(self.report(secrets), args, "desk", current)

    def values(self) -> dict[str, list[str]]:
        """What can be fetched."""
        return self.run("host_secrets", directory=str(self.directory), stack="stack", fetch=True).result["recorded"]


@pytest.fixture
def host(tmp_path: Path, run_module: Run, engine: FakeEngine) -> Host:
    """A host whose engine has nothing."""
    return Host(tmp_path / "quantops" / "stack", run_module)


def test_the_record_is_roots_alone_and_whole(host: Host) -> None:
    """Each secret that a container gets, embedded in a URL or beside its certificate too, comes back as it was."""
    secrets = {"redis_password": OLD, "tls": f"{KEY}\n{CERTIFICATE}\n", "elsewhere": NEW}
    host.keep(secrets, url=f"redis://:{OLD}@redis:6379/0", key=KEY, crt=CERTIFICATE)
    assert stat.S_IMODE((host.directory / "secrets.json").stat().st_mode) == 0o600
    assert host.values() == {"redis_password": [OLD], "tls": [secrets["tls"]]}


def test_what_other_hosts_hold_is_no_more_than_a_digest(host: Host) -> None:
    """Known to be lost, and not to be read."""
    host.keep(
        {"redis_password": OLD, "fernet": NEW, "tls": f"{KEY}\n{CERTIFICATE}"}, everything=True, a=OLD, b=CERTIFICATE
    )
    text = (host.directory / "secrets.json").read_text()
    assert OLD in text and NEW not in text and "PRIVATE KEY" not in text
    assert host.report()["record"].keys() == {"redis_password", "fernet", "tls"}
    assert host.values() == {"redis_password": [OLD]}


def test_a_services_own_secret_of_which_it_has_a_hash(host: Host) -> None:
    """Redis's administrator: no copy holds the password, and it can be fetched all the same."""
    hashed = [{"secret_trees": [{"files": {"users.acl": "#5e884898"}}]}]
    entries = action.entries(
        "stack", {"redis_admin_password": OLD, "other": NEW}, hashed, {}, False, ["redis_admin_password"]
    )
    host.run("host_secrets", directory=str(host.directory), stack="stack", keep=entries)
    assert host.values() == {"redis_admin_password": [OLD]}


def test_what_a_killed_run_left_is_removed(host: Host) -> None:
    """A record that was never whole holds every secret."""
    host.keep({"redis_password": OLD}, copy=OLD)
    left = host.directory / ".new-abandoned"
    left.write_text("{")
    os.utime(left, (1, 1))
    host.report({"redis_password": OLD})
    assert not left.exists() and (host.directory / "secrets.json").exists()


def test_nothing_is_recorded_twice(host: Host) -> None:
    """A run with nothing new asks the host nothing."""
    host.keep({"redis_password": OLD}, a=OLD)
    record = host.report()["record"]
    assert (
        action.entries("stack", {"redis_password": OLD}, [{"secret_trees": [{"files": {"a": OLD}}]}], record, True)
        == {}
    )


def test_a_report_holds_no_value(host: Host) -> None:
    """Neither what the host tells nor what it is asked."""
    host.keep({"redis_password": OLD}, a=OLD)
    host.copy("redis", a=OLD)
    assert OLD not in json.dumps(host.report({"redis_password": NEW})) + json.dumps(action.digests("s", "n", OLD))


def test_a_new_host_takes_any_directory(host: Host) -> None:
    """Nothing is there that could be lost."""
    assert host.judged({"redis_password": NEW}, generated=["redis_password"]) == []


def test_a_lost_directory(host: Host) -> None:
    """Everything would be generated: the names, the directory and the way back are told."""
    host.keep({"redis_password": OLD, "fernet": OLD}, a=OLD)
    new = {"redis_password": NEW, "fernet": NEW, "of_a_new_service": NEW}
    [said] = host.judged(new, generated=list(new))
    assert "/desk/.secrets, which secrets_dir names, lacks secrets that desk has: fernet, redis_password." in said
    assert "playbooks/fetch_secrets.yml" in said and "-e secrets_regenerate=true" in said
    assert host.judged(new, generated=list(new), regenerate=True) == []


def test_a_secret_to_replace_that_nobody_knows(host: Host) -> None:
    """A misspelt name replaces nothing, and is not passed over."""
    host.keep({"redis_password": OLD}, a=OLD)
    [said] = host.judged({"redis_password": OLD}, regenerate=["redis_pasword"])
    assert said == "secrets_regenerate has the unknown name redis_pasword. Did you mean redis_password?"
    assert host.judged({"redis_password": OLD}, regenerate=[""]) == []
    assert host.judged({}, regenerate=["redis_password"]) == []  # of a service that is no longer there


@pytest.mark.parametrize(
    ("regenerate", "generated", "named"),
    [(["a"], [], "has a."), (["a"], ["a"], ""), (True, ["a"], "has b."), (True, ["a", "b"], ""), ([""], [], "")],
)
def test_a_secret_to_replace_whose_file_is_there(regenerate: Any, generated: list[str], named: str) -> None:
    """Nothing is overwritten, and whoever expects a new one is told."""
    args = {"path": "/desk/.secrets", "regenerate": regenerate, "generated": generated, "given": ["c"]}
    said = action.not_regenerated(args, {"a": [], "b": [], "c": []})
    assert (f"/desk/.secrets still {named}" in said) if named else said == ""


def test_one_lost_secret(host: Host) -> None:
    """That one is named; one of a new service is generated as ever."""
    host.keep({"redis_password": OLD, "fernet": OLD}, a=OLD)
    now = {"redis_password": OLD, "fernet": NEW, "of_a_new_service": NEW}
    [said] = host.judged(now, generated=["fernet", "of_a_new_service"])
    assert "lacks secrets that desk has: fernet." in said and "-e secrets_regenerate=fernet." in said
    assert host.judged(now, generated=["fernet", "of_a_new_service"], regenerate=["fernet"]) == []
    assert host.judged(now, generated=["of_a_new_service"]) == []


def test_the_directory_of_another_stack(host: Host) -> None:
    """It has all names, and none of the values."""
    host.keep({"redis_password": OLD, "fernet": OLD}, a=OLD)
    [said] = host.judged({"redis_password": NEW, "fernet": NEW}, generated=[])
    assert "holds none of the secrets that desk has: each of fernet, redis_password is a different one" in said
    assert host.judged({"redis_password": NEW, "fernet": OLD}, generated=[]) == []
    assert host.judged({"redis_password": NEW, "fernet": f"{NEW},{OLD}"}, generated=[]) == []
    assert host.judged({"redis_password": NEW, "fernet": NEW}, generated=[], given=["fernet", "redis_password"]) == []


@pytest.mark.parametrize("left", ["volumes", "copies"])
def test_a_host_without_a_record(host: Host, engine: FakeEngine, left: str) -> None:
    """Kept data, or copies that an earlier version made, are enough to refuse an empty directory."""
    if left == "volumes":
        for name, stack in {"stack-postgres-data": "stack", "other-postgres-data": "other"}.items():
            engine.volumes[name] = {"Name": name, "Labels": {"quantops.stack": stack}}
    else:
        host.copy("redis", a=OLD)
    [said] = host.judged({"redis_password": NEW}, generated=["redis_password"])
    assert "/desk/.secrets, which secrets_dir names, is empty, and desk has" in said
    assert ("the volumes stack-postgres-data" if left == "volumes" else "containers' secrets under") in said
    assert host.judged({"redis_password": OLD}, generated=[]) == []


def test_a_damaged_record(host: Host) -> None:
    """Named, and never taken for none."""
    host.directory.mkdir(parents=True)
    (host.directory / "secrets.json").write_text("{")
    outcome = host.run("host_secrets", directory=str(host.directory), stack="stack")
    assert outcome.failed and f"{host.directory}/secrets.json, cannot be used" in outcome.result["msg"]


def rotated(host: Host, name: str, touched: set[str], recreate: set[str] | None = None) -> list[str]:
    """Reasons against a run for some services after a secret has changed."""
    return action.partial_rotation(host.report({name: NEW}), SERVICES, touched, touched, recreate or set())


def test_a_rotation_for_some_of_the_services_is_refused(host: Host) -> None:
    """Those that would be left are named, with the tags that bring all along."""
    host.keep({"redis_password": OLD}, a=OLD)
    host.copy("redis", password=OLD)
    host.copy("celery-worker", broker=f"redis://:{OLD}@redis")
    host.copy("airflow-worker", broker=f"redis://:{OLD}@redis")
    host.copy("postgres", password="another")
    [said] = rotated(host, "redis_password", {"redis"})
    assert "redis_password changed, and this run would leave Backend, Airflow with the old value" in said
    assert "--tags redis,backend,airflow" in said
    assert rotated(host, "redis_password", {"backend", "airflow"}) != []
    assert rotated(host, "redis_password", {"redis", "backend", "airflow"}) == []
    assert rotated(host, "redis_password", {"postgres"}) == []


def test_a_secret_that_others_replace(host: Host) -> None:
    """After an upgrade each service has a password of its own; the old one was everybody's."""
    host.keep({"redis_password": OLD}, a=OLD)
    host.copy("redis", password=OLD)
    host.copy("backend", broker=OLD)
    report = host.report({"redis_backend_password": NEW})
    [said] = action.partial_rotation(report, SERVICES, {"redis"}, {"redis"}, set())
    assert "redis_password changed, and this run would leave Backend" in said and "--tags redis,backend" in said
    host.copy("redis", password=NEW)
    host.copy("backend", broker=NEW)
    assert host.report({"redis_backend_password": NEW})["changed_secrets"] == {}


def test_who_checks_a_password_belongs_to_it(host: Host) -> None:
    """PostgreSQL has verifiers only, and needs the new one all the same."""
    host.keep({"postgres_airflow_password": OLD}, a=OLD)
    host.copy("airflow-init", url=f"postgresql://airflow:{OLD}@postgres/airflow")
    assert "--tags postgres,airflow" in rotated(host, "postgres_airflow_password", {"airflow"})[0]
    assert "leave Airflow with the old value" in rotated(host, "postgres_airflow_password", {"postgres"})[0]
    assert rotated(host, "postgres_airflow_password", {"postgres", "airflow"}) == []


def test_a_rotation_that_was_cut_off_goes_on(host: Host) -> None:
    """The old value counts until no copy has it, and can be forgotten only then."""
    host.keep({"redis_password": OLD}, a=OLD)
    host.copy("redis", password=OLD)
    host.copy("backend", url=OLD)
    host.keep({"redis_password": NEW}, a=NEW)
    host.copy("redis", password=NEW)
    assert "leave Backend" in rotated(host, "redis_password", {"redis"})[0]
    assert host.values() == {"redis_password": [NEW, OLD]}
    host.report({"redis_password": NEW}, settle=True)
    assert host.values() == {"redis_password": [NEW, OLD]}
    host.copy("backend", url=NEW)
    host.report({"redis_password": NEW}, settle=True)
    assert host.values() == {"redis_password": [NEW]}


def test_a_longer_value_with_the_old_one_in_it(host: Host) -> None:
    """Two Fernet keys: a copy with both has the new value."""
    host.keep({"airflow_fernet_key": OLD}, a=OLD)
    host.copy("airflow-init", key=OLD)
    both = f"{NEW},{OLD}"
    assert host.report({"airflow_fernet_key": both})["changed_secrets"] == {"airflow_fernet_key": ["airflow-init"]}
    host.keep({"airflow_fernet_key": both}, a=both)
    host.copy("airflow-init", key=both)
    assert host.report({"airflow_fernet_key": both})["changed_secrets"] == {"airflow_fernet_key": []}


def test_a_protected_container_is_not_left_behind(host: Host, engine: FakeEngine) -> None:
    """Its certificate changes, and nothing but a variable recreates it."""
    host.keep({"ibkr_gateway_tls": OLD}, a=OLD)
    host.copy("ibkr-gateway", key=OLD)
    host.copy("backend", certificate=OLD)
    labels = {"quantops.stack": "stack", "quantops.protect": "true", "quantops.service": "ibkr-gateway"}
    engine.containers["stack-ibkr-gateway"] = {
        "Name": "/stack-ibkr-gateway", "Config": {"Labels": labels}, "State": {"Running": True},
    }  # fmt: skip
    [said] = rotated(host, "ibkr_gateway_tls", set(SERVICES))
    assert "The secret ibkr_gateway_tls has changed" in said and "-e ibkr_gateway_recreate=true" in said
    assert rotated(host, "ibkr_gateway_tls", set(SERVICES), {"ibkr_gateway"}) == []


@pytest.mark.parametrize(
    ("run", "skip", "play", "touched", "whole"),
    [
        (["all"], [], {"a", "b"}, {"redis", "airflow"}, {"redis", "airflow"}),
        (["redis"], [], {"a", "b"}, {"redis"}, {"redis"}),
        (["all"], ["airflow"], {"a", "b"}, {"redis"}, {"redis"}),
        (["all"], [], {"a"}, {"redis", "airflow"}, {"redis"}),
        (["images"], [], {"a", "b"}, set(), set()),
    ],
)  # fmt: skip
def test_what_is_in_a_run(run: list[str], skip: list[str], play: set[str], touched: set[str], whole: set[str]) -> None:
    """Tags and --limit both leave services out; a worker's host counts as one of its service."""
    variables = {"ansible_run_tags": run, "ansible_skip_tags": skip, "ansible_play_hosts_all": play}
    services = {name: SERVICES[name] for name in ("redis", "airflow")}
    assert action.in_this_run(services, variables) == (touched, whole)


def test_a_run_without_the_hosts_that_hold_it(host: Host) -> None:
    """With --limit to PostgreSQL's host, nobody else can say that a password is used elsewhere: it is known anyway."""
    host.keep({"postgres_airflow_password": OLD}, everything=True, a="another")
    report = host.report({"postgres_airflow_password": NEW})
    limited = action.partial_rotation(report, SERVICES, {"postgres"}, {"postgres"}, set())
    assert "postgres_airflow_password changed" in limited[0]
    assert action.partial_rotation(report, SERVICES, set(SERVICES), set(SERVICES), set()) == []


# ---- upgrades from a version without a record


def test_a_directory_with_nothing_but_secrets_of_an_earlier_version(host: Host) -> None:
    """Redis alone: all that it has now is new, and the directory is its own nevertheless."""
    host.copy("redis", a=OLD)
    new = {"redis_admin_password": NEW}
    assert host.judged(new, generated=list(new), unused=["redis_password"]) == []
    assert host.judged(new, generated=list(new)) != []


WIRED: dict[str, dict[str, Any]] = {
    **{name: SERVICES[name] for name in ("postgres", "redis", "ibkr_gateway")},
    "minio": service("MinIO", "minio"),
    "mlflow": service(
        "MLflow", "mlflow",
        postgres_mlflow_password="postgres", minio_ml_flow_secret="minio", minio_ml_flow_access_key="minio",
    ),
    "backend": service(
        "Backend", "backend", "celery-worker",
        postgres_backend_password="postgres", redis_backend_password="redis", redis_flower_password="redis",
    ),
}  # fmt: skip


def upgraded(host: Host, touched: set[str], generated: set[str] | None = None) -> list[str]:
    """Reasons against a run for some services right after a newer version was unpacked."""
    return action.partial_upgrade(host.report(), WIRED, generated or set(), touched, touched)


def test_the_first_run_of_a_newer_version_is_for_all_that_share_secrets(host: Host) -> None:
    """Neither side of a new credential gets it alone; what shares none may go ahead."""
    host.copy("mlflow", uri=OLD)
    host.copy("ibkr-gateway", key=OLD)
    [said] = upgraded(host, {"mlflow"})
    assert "MLflow still has the secrets of an earlier version" in said and "PostgreSQL, MinIO, MLflow" in said
    assert "without --tags and --limit" in said
    assert upgraded(host, {"minio"}) != [] and upgraded(host, {"postgres"}) != []
    for harmless in (set(), {"ibkr_gateway"}, {"postgres", "minio", "mlflow"}, {"redis", "backend"}):
        assert upgraded(host, harmless) == []


def test_a_first_run_that_was_cut_off(host: Host) -> None:
    """The secrets are generated, and some services have theirs: it is still a run for all."""
    host.copy("mlflow", uri=OLD)
    host.copy("backend", url=OLD)
    host.keep({"postgres_backend_password": NEW}, a=NEW)
    assert upgraded(host, {"mlflow"}) != [] and upgraded(host, {"backend"}) == []
    host.keep({"minio_ml_flow_secret": NEW}, a=NEW)
    assert upgraded(host, {"mlflow"}) == []


def test_a_secret_that_a_later_version_adds(host: Host) -> None:
    """Generated in this run for a service that is there already; a service that is new has nothing to lose."""
    host.copy("backend", url=OLD)
    host.keep({"postgres_backend_password": OLD}, a=OLD)
    [said] = upgraded(host, {"backend"}, {"redis_flower_password"})
    assert "Redis, Backend, which share the new ones" in said
    assert upgraded(host, {"redis", "backend"}, {"redis_flower_password"}) == []
    assert upgraded(host, {"mlflow"}, {"minio_ml_flow_secret"}) == []


# ---- the way back


def test_the_values_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The action plugin hands `fetch` on to the host."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(action.ActionBase, "run", lambda *_: {})
    work = action.ActionModule.__new__(action.ActionModule)
    work._task = SimpleNamespace(args={"directory": "/etc/quantops/stack", "stack": "stack", "fetch": True})
    monkeypatch.setattr(work, "_execute_module", lambda **given: asked.append(given["module_args"]) or {})
    work.run()
    assert asked == [{"directory": "/etc/quantops/stack", "stack": "stack", "fetch": True}]


def fetched(run: Run, path: Path, *recorded: dict[str, list[str]], **more: Any) -> Any:
    """Restore a directory."""
    given = {"path": str(path), "secrets": {"redis_password": "password", "new": "long"}, **more}
    return run("secret_store", restore=list(recorded), **given)


def test_a_lost_directory_is_restored(run_module: Run, tmp_path: Path) -> None:
    """As it was generated, for its owner alone; what nobody has is told."""
    result = fetched(run_module, tmp_path / "s", {"redis_password": [OLD]}, {"tls": [f"{KEY}\n"]}).result
    assert (result["restored"], result["missing"]) == (["redis_password", "tls"], ["new"])
    assert {file.name: file.read_text() for file in (tmp_path / "s").iterdir()} == {
        "redis_password": f"{OLD}\n",
        "tls": f"{KEY}\n",
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "s").iterdir()} == {0o600}
    assert OLD not in json.dumps(result)
    assert not fetched(run_module, tmp_path / "s", {"redis_password": [OLD]}).result["changed"]


def test_nothing_is_overwritten(run_module: Run, tmp_path: Path) -> None:
    """A directory with other secrets stays as it is, whole."""
    (tmp_path / "redis_password").write_text(NEW)
    outcome = fetched(run_module, tmp_path, {"redis_password": [OLD], "tls": [KEY]})
    assert outcome.failed and "has other values of redis_password" in outcome.result["msg"]
    assert [path.name for path in tmp_path.iterdir()] == ["redis_password"]


def test_hosts_in_the_middle_of_a_rotation(run_module: Run, tmp_path: Path) -> None:
    """The newer value wins where it is known; else nobody guesses."""
    fetched(run_module, tmp_path / "s", {"redis_password": [NEW, OLD]}, {"redis_password": [OLD]})
    assert (tmp_path / "s" / "redis_password").read_text() == f"{NEW}\n"
    outcome = fetched(run_module, tmp_path / "t", {"redis_password": [NEW]}, {"redis_password": [OLD]})
    assert outcome.failed and "The hosts have different values of redis_password" in outcome.result["msg"]


def test_a_vault_keeps_its_own(run_module: Run, tmp_path: Path) -> None:
    """What the inventory names is not written; check mode writes nothing."""
    given = {"values": {"redis_password": OLD}}
    assert fetched(run_module, tmp_path / "s", {"redis_password": [OLD]}, **given).result["restored"] == []
    assert fetched(run_module, tmp_path / "t", {"redis_password": [OLD]}, check=True).result["changed"]
    assert not (tmp_path / "t").exists()


def test_the_age_and_the_log_of_rotations(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new value has a new age and a line in the log, which names it and is root's alone."""
    module = plugin("modules.host_secrets")
    now = SimpleNamespace(value=1_000_000.0)
    monkeypatch.setattr(module.time, "time", lambda: now.value)
    host.keep({"redis_password": OLD, "other": "x" * 20}, a=f"{OLD} {'x' * 20}")
    log = host.directory / "rotations.log"
    assert not log.exists()
    now.value += 86400
    host.keep({"redis_password": NEW, "other": "x" * 20}, a=f"{NEW} {'x' * 20}")
    host.keep({"redis_password": NEW, "other": "x" * 20}, a=f"{NEW} {'x' * 20}")
    record = host.report()["record"]
    assert (record["redis_password"]["since"], record["other"]["since"]) == (1_086_400, 1_000_000)
    assert [json.loads(line) for line in log.read_text().splitlines()] == [
        {"at": "1970-01-13T13:46:40Z", "secrets": ["redis_password"]}
    ]
    assert stat.S_IMODE(log.stat().st_mode) == 0o600 and OLD not in log.read_text() and NEW not in log.read_text()


def test_an_age_outlives_what_else_is_recorded(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that was known by its digest is as old as before when the host gets it itself."""
    module = plugin("modules.host_secrets")
    now = SimpleNamespace(value=1_000_000.0)
    monkeypatch.setattr(module.time, "time", lambda: now.value)
    host.keep({"redis_password": OLD}, everything=True)
    now.value += 86400
    host.keep({"redis_password": OLD}, a=OLD)
    assert host.values() == {"redis_password": [OLD]}
    assert host.report()["record"]["redis_password"]["since"] == 1_000_000


def test_the_record_returns_certificates_and_no_keys(host: Host) -> None:
    """They tell when they expire, and are no secret."""
    host.keep({"tls": f"{KEY}\n{CERTIFICATE}\n"}, key=KEY, crt=CERTIFICATE)
    found = host.report()["record"]["tls"]
    assert found["certificate"] == CERTIFICATE and "PRIVATE" not in json.dumps(found)


def test_all_secrets_are_being_rotated(host: Host) -> None:
    """A directory of which no value is the host's is refused, unless an unfinished rotation replaced them."""
    host.keep({"redis_password": OLD}, a=OLD)
    assert "holds none of the secrets" in host.judged({"redis_password": NEW})[0]
    assert host.judged({"redis_password": NEW}, rotating=["redis_password"]) == []
