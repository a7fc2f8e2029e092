"""`secret_rotation` and the filters around it: no value is lost wherever a run is killed, and no other goes."""

from __future__ import annotations

import datetime
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from collection_under_test import plugin

rotation = plugin("plugin_utils.rotation")
store = plugin("modules.secret_store")
action = plugin("action.secret_rotation")

KINDS = {"app_password": "password", "app_fernet": "fernet", "app_tls": "tls"}
SECRETS = [
    "airflow_fernet_key", "flower_password", "ibkr_gateway_tls", "minio_mlflow_access_key", "minio_mlflow_secret",
    "redis_backend_password",
]  # fmt: skip
SERVICES = {"backend": ["flower_password", "redis_backend_password"], "airflow": ["airflow_fernet_key"]}
GATEWAY = {"name": "desk-ibkr-gateway", "owner": "ibkr_gateway", "protected": True}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Secrets that are in use."""
    store.keep(
        {"path": str(tmp_path), "values": {}, "secrets": KINDS, "known": {}, "former": {}, "tls_names": ["localhost"],
         "write": True}, False,
    )  # fmt: skip
    return tmp_path


def values(directory: Path) -> dict[str, str]:
    """Secrets as a run would read them."""
    return {name: (directory / name).read_text().strip() for name in KINDS}


def rotate(directory: Path, until: int = 4) -> None:
    """Take the first steps of a rotation."""
    journal = rotation.Journal(str(directory))
    steps: list[Callable[[], object]] = [
        lambda: journal.begin(KINDS, ["localhost"]),
        lambda: journal.replace(KINDS),
        lambda: journal.replace(KINDS, final=True),
        journal.end,
    ]
    for step in steps[:until]:
        step()


def test_a_rotation(directory: Path) -> None:
    """Every value is new, of its kind, and its owner's alone; nothing is left beside them."""
    old = values(directory)
    rotate(directory)
    new = values(directory)
    assert all(new[name] != old[name] for name in KINDS)
    for name, kind in KINDS.items():
        assert store.checked(name, kind, (directory / name).read_text(), "file")
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    assert sorted(path.name for path in directory.iterdir()) == sorted(KINDS)


def test_both_fernet_keys_until_all_is_encrypted_anew(directory: Path) -> None:
    """The new one first, which is what encrypts."""
    old = values(directory)["app_fernet"]
    rotate(directory, until=2)
    new, _, rest = values(directory)["app_fernet"].partition(",")
    assert rest == old and store.checked("app_fernet", "fernet", f"{new},{rest}", "file")
    rotate(directory, until=3)
    assert values(directory)["app_fernet"] == new


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_rotation_that_was_cut_off(directory: Path, steps: int) -> None:
    """Old and new values are kept, and it goes on with the same new ones."""
    old = values(directory)
    rotate(directory, until=steps)
    journal = rotation.Journal(str(directory))
    assert journal.names() == sorted(KINDS) and journal.since().startswith("20")
    kept = {name: journal.values(name) for name in KINDS}
    assert {name: pair[0].strip() for name, pair in kept.items()} == old
    assert stat.S_IMODE(journal.directory.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in journal.directory.iterdir())
    rotate(directory)
    assert values(directory) == {name: pair[1].strip() for name, pair in kept.items()}
    assert not journal.directory.exists()


@pytest.mark.parametrize("write", range(1, 7))
def test_killed_while_a_file_is_written(directory: Path, monkeypatch: pytest.MonkeyPatch, write: int) -> None:
    """At each of the files: no old value is lost, and the next run ends what was begun."""
    old, writes, real = values(directory), iter(range(1, 100)), os.replace

    def replace(source: str, target: Path) -> None:
        if next(writes) == write:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        rotate(directory, until=2)
    journal = rotation.Journal(str(directory))
    for name, value in old.items():
        assert values(directory)[name] == value or journal.values(name)[0].strip() == value
    begun = {name: journal.values(name)[1].strip() for name in journal.names()}
    rotate(directory)
    assert begun.items() <= values(directory).items() and not set(values(directory).values()) & set(old.values())


def test_a_file_that_was_changed_meanwhile(directory: Path) -> None:
    """Is not overwritten; the message says how to keep it."""
    rotate(directory, until=1)
    (directory / "app_password").write_text("chosen-by-hand\n")
    with pytest.raises(store.SecretError, match=r"remove .*/\.rotation/new\.app_password and run again"):
        rotate(directory, until=2)
    assert values(directory)["app_password"] == "chosen-by-hand"
    (directory / ".rotation" / "new.app_password").unlink()
    rotation.Journal(str(directory)).replace(KINDS)
    assert values(directory)["app_password"] == "chosen-by-hand"


def take(directory: Path, step: str, check: bool = False) -> dict[str, Any]:
    """Run the action."""
    args = {"path": str(directory), "step": step, "secrets": KINDS}
    task = SimpleNamespace(args=args, async_val=0, check_mode=check, action="secret_rotation", _parent=None)
    connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir=str(directory)))
    module = action.ActionModule(task, connection, SimpleNamespace(), None, None, None)
    return module.run(task_vars={})


def test_check_mode_writes_nothing(directory: Path) -> None:
    """Neither new values nor a directory."""
    before = {path: path.read_bytes() for path in directory.rglob("*")}
    for step in ("begin", "replace", "reencrypted", "end"):
        assert not take(directory, step, check=True)["changed"]
    assert {path: path.read_bytes() for path in directory.rglob("*")} == before


def test_the_action(directory: Path) -> None:
    """Says what is unfinished, and what a directory that is not there means."""
    assert take(directory, "look")["unfinished"] == []
    old = values(directory)
    found = take(directory, "begin")
    assert found["unfinished"] == sorted(KINDS) and found["since"]
    assert {name: value.strip() for name, value in found["former"].items()} == old
    assert take(directory, "replace")["changed"] and not take(directory, "replace")["changed"]
    failed = take(directory / "nowhere", "begin")
    assert failed["failed"] and f"cannot be rotated in {directory}/nowhere" in failed["msg"]


def choose(wanted: str, given: tuple[str, ...] = (), **holders: list[dict[str, Any]]) -> dict[str, Any]:
    """Choose among some secrets."""
    return rotation.choose_secrets(wanted, dict.fromkeys(SECRETS, "password"), SERVICES, given, holders)


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("flower_password", ["flower_password"]),
        ("flower_password, airflow_fernet_key", ["airflow_fernet_key", "flower_password"]),
        ("backend", ["flower_password", "redis_backend_password"]),
        ("all", SECRETS),
        # The old login is valid until nobody uses it, if the new one has another name.
        ("minio_mlflow_secret", ["minio_mlflow_access_key", "minio_mlflow_secret"]),
        ("minio_mlflow_access_key", ["minio_mlflow_access_key", "minio_mlflow_secret"]),
    ],
)
def test_what_is_chosen(wanted: str, names: list[str]) -> None:
    """Secrets, services, everything."""
    assert choose(wanted) == {"names": names, "left": {}, "problems": []}


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("", "No secret is named."),
        ("flower_pasword", "is neither a secret nor a service of this stack. Did you mean flower_password?"),
        ("backnd", "Did you mean backend?"),
        ("x", "Known are airflow_fernet_key, "),
    ],
)  # fmt: skip
def test_what_cannot_be_chosen(wanted: str, sentence: str) -> None:
    """Says what was probably meant."""
    [problem] = choose(wanted)["problems"]
    assert sentence in problem


def test_a_secret_of_a_vault() -> None:
    """By name it is refused with what to do; of many it is left out."""
    [problem] = choose("flower_password", ("flower_password",))["problems"]
    assert problem == ("flower_password is set in secrets_values: put another value there, and run site.yml (make up).")
    chosen = choose("backend", ("flower_password",))
    assert chosen["names"] == ["redis_backend_password"] and chosen["left"].keys() == {"flower_password"}
    assert not chosen["problems"]


def test_a_protected_container() -> None:
    """The gateway keeps its session unless a variable allows the end of it."""
    [problem] = choose("ibkr_gateway_tls", ibkr_gateway_tls=[GATEWAY])["problems"]
    assert "desk-ibkr-gateway, which would be recreated" in problem and "-e ibkr_gateway_recreate=true." in problem
    chosen = choose("all", ibkr_gateway_tls=[GATEWAY])
    assert "ibkr_gateway_tls" not in chosen["names"] and "ibkr_gateway_tls" in chosen["left"]
    allowed = choose("ibkr_gateway_tls", ibkr_gateway_tls=[{**GATEWAY, "protected": False}])
    assert allowed["names"] == ["ibkr_gateway_tls"]


def test_who_holds_a_secret() -> None:
    """In a URL, as a hash, or only the certificate of it."""
    pem = "".join(f"-----BEGIN {kind}-----\nAA\n-----END {kind}-----\n" for kind in ("PRIVATE KEY", "CERTIFICATE"))
    hashed = hashlib.sha256(b"redis-password").hexdigest()

    def plan(name: str, secret: str, public: str = "", **more: Any) -> dict[str, Any]:
        trees = {"secret_trees": [{"files": {"a": secret}}], "trees": [{"files": {"b": public}}]}
        return {"name": name, "owner": "service", **trees, **more}

    plans = [
        plan("redis", f"user backend #{hashed}"),
        plan("backend", "redis://backend:redis-password@redis", pem[pem.index("-----BEGIN CERT") :]),
        plan("gateway", pem, prevent_recreate=True, recreate=False),
        plan("mlflow", "other"),
    ]
    found = rotation.secret_holders(plans, {"redis": "redis-password", "tls": pem, "nobody": "unused-value"})
    assert {name: [each["name"] for each in holders] for name, holders in found.items()} == {
        "redis": ["redis", "backend"], "tls": ["backend", "gateway"], "nobody": [],
    }  # fmt: skip
    assert [each["protected"] for each in found["tls"]] == [False, True]


def test_containers_of_all_hosts() -> None:
    """Every host names all secrets; the containers of each are joined, in the order of the hosts."""
    worker = {"name": "desk-celery-worker", "owner": "backend", "protected": False}
    hosts = [{"flower_password": [GATEWAY], "api_token": []}, {"flower_password": [worker], "api_token": []}]
    assert rotation.merge_secret_holders(hosts) == {"flower_password": [GATEWAY, worker], "api_token": []}
    assert hosts[0] == {"flower_password": [GATEWAY], "api_token": []}
    assert rotation.merge_secret_holders([]) == {}


def test_the_secrets_of_a_service() -> None:
    """Its own, those with which it logs in, and those that it checks; only of services that the stack has."""
    services = {
        "redis": {"secrets": {"redis_admin_password": "password"}, "secret_checkers": {}},
        "backend": {
            "secrets": {"flower_password": "password"},
            "secret_checkers": {"redis_backend_password": "redis", "minio_trading_charts_secret": "minio"},
        },
        "airflow": {"secrets": {"airflow_fernet_key": "fernet"}, "secret_checkers": {}},
    }
    secrets = ["redis_admin_password", "redis_backend_password", "flower_password", "minio_trading_charts_secret"]
    assert rotation.service_secrets(services, ["redis", "backend"], secrets) == {
        "redis": ["redis_admin_password", "redis_backend_password"],
        "backend": ["flower_password", "redis_backend_password", "minio_trading_charts_secret"],
    }


DAY = 86400


def record(**ages: int) -> dict[str, dict[str, Any]]:
    """Secrets that were recorded days before day 1000."""
    return {name: {"digest": "", "held": True, "since": (1000 - days) * DAY} for name, days in ages.items()}


def test_the_oldest_secret() -> None:
    """By name, with its age; what an earlier version recorded has none."""
    report = rotation.secret_report({**record(one=3, two=40), "three": {"digest": "", "held": True}}, 1000 * DAY)
    assert report == {
        "lines": ["The oldest secret is two, 40 days old; the age of 1 of 3 is not known"],
        "warnings": [],
    }
    assert rotation.secret_report({}, 1000 * DAY)["lines"] == []


@pytest.mark.parametrize(
    ("days", "expected"),
    [(31, ""), (29, "expires in 29 days, on "), (1, "expires in 1 day, on "), (-2, "has expired on ")],
)
def test_a_certificate_that_expires(days: int, expected: str) -> None:
    """Warned of from 30 days before, with how to renew it."""
    whole = store.certificate(["localhost"])
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=365 * store.YEARS)
    now = (end - datetime.timedelta(days=days, minutes=1)).timestamp()
    certificate = whole[whole.index("-----BEGIN CERTIFICATE") :]
    warnings = rotation.secret_report({"app_tls": {"certificate": certificate}}, now)["warnings"]
    assert bool(warnings) == bool(expected)
    if expected:
        assert expected in warnings[0] and "make rotate-secrets SECRETS=app_tls" in warnings[0]


def test_what_data_are_encrypted_with_stays() -> None:
    kinds, reason = {"backup_passphrase": "permanent"}, "stays for as long as what is encrypted with it"
    assert rotation.choose_secrets("all", kinds, {}, (), {})["left"] == {"backup_passphrase": reason}
    [problem] = rotation.choose_secrets("backup_passphrase", kinds, {}, (), {})["problems"]
    assert problem == f"backup_passphrase {reason}."
