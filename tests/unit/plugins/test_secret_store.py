"""`secret_store`: generates once, keeps, and makes a certificate that strict clients accept."""

from __future__ import annotations

import base64
import errno
import multiprocessing
import os
import re
import socket
import ssl
import stat
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from collection_under_test import Run, plugin
from cryptography.fernet import Fernet

KINDS = {"app_password": "password", "app_long": "long", "app_fernet": "fernet"}


def test_generates_each_kind(run_module: Run, tmp_path: Path) -> None:
    """Length and alphabet are what the programs take, and the files hold what is returned."""
    result = run_module("secret_store", path=str(tmp_path / "s"), secrets=KINDS).result
    assert result["changed"] and sorted(result["generated"]) == sorted(KINDS)
    secrets = result["secrets"]
    assert len(secrets["app_password"]) == 32 and secrets["app_password"].isalnum()
    assert len(secrets["app_long"]) == 64 and secrets["app_long"].isalnum()
    assert Fernet(secrets["app_fernet"]).decrypt(Fernet(secrets["app_fernet"]).encrypt(b"x")) == b"x"
    assert len(base64.urlsafe_b64decode(secrets["app_fernet"])) == 32
    assert not set(secrets["app_fernet"]) & set("-_")
    for name, value in secrets.items():
        assert (tmp_path / "s" / name).read_text() == f"{value}\n"


def test_an_access_key(run_module: Run, tmp_path: Path) -> None:
    """A name that nobody guesses; two clients never share one, and a short one is refused."""
    kinds = {"one_key": "access_key", "other_key": "access_key"}
    made = run_module("secret_store", path=str(tmp_path), secrets=kinds).result["secrets"]
    assert all(re.fullmatch("[A-Z0-9]{20}", value) for value in made.values()) and len(set(made.values())) == 2
    (tmp_path / "other_key").write_text(made["one_key"] + "\n")
    same = run_module("secret_store", path=str(tmp_path), secrets=kinds)
    assert same.failed and "The secrets one_key and other_key are the same access key" in same.result["msg"]
    (tmp_path / "other_key").write_text("root\n")
    short = run_module("secret_store", path=str(tmp_path), secrets=kinds)
    assert short.failed and "8 to 128 letters, digits or _ -" in short.result["msg"]


def test_keeps_what_is_there(run_module: Run, tmp_path: Path) -> None:
    """A second run returns the same, and only a new name is generated."""
    first = run_module("secret_store", path=str(tmp_path / "s"), secrets=KINDS).result
    second = run_module("secret_store", path=str(tmp_path / "s"), secrets={**KINDS, "new": "password"}).result
    assert second["generated"] == ["new"]
    assert {name: second["secrets"][name] for name in KINDS} == first["secrets"]
    third = run_module("secret_store", path=str(tmp_path / "s"), secrets=KINDS).result
    assert not third["changed"] and third["secrets"] == first["secrets"]


def test_two_stores_differ(run_module: Run, tmp_path: Path) -> None:
    """Secrets are random."""
    one, two = (run_module("secret_store", path=str(tmp_path / name), secrets=KINDS).result["secrets"] for name in "ab")
    assert all(one[name] != two[name] for name in KINDS)


def test_only_the_owner_reads(run_module: Run, tmp_path: Path) -> None:
    """Directory 0700, files 0600 whatever the umask; a file that was opened up is closed again."""
    directory = tmp_path / "s"
    before = os.umask(0)
    try:
        run_module("secret_store", path=str(directory), secrets=KINDS)
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()} == {0o600}
    (directory / "app_long").chmod(0o644)
    run_module("secret_store", path=str(directory), secrets=KINDS)
    assert stat.S_IMODE((directory / "app_long").stat().st_mode) == 0o600


def test_empty_file_is_an_error(run_module: Run, tmp_path: Path) -> None:
    """An empty password would let everyone in; the file is named, and nothing overwrites it."""
    (tmp_path / "app_password").write_text(" \n")
    outcome = run_module("secret_store", path=str(tmp_path), secrets={"app_password": "password"})
    assert outcome.failed
    assert "The secret app_password is empty" in outcome.result["msg"]
    assert str(tmp_path / "app_password") in outcome.result["msg"]
    assert (tmp_path / "app_password").read_text() == " \n"


def test_a_full_disk_leaves_no_half_secret(run_module: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty file would be taken for the secret by another run, and by the next one."""
    whole = os.fdopen

    def full(*args: Any, **kwargs: Any) -> Any:
        file = whole(*args, **kwargs)

        def write(text: str) -> None:
            os.write(file.fileno(), text[:3].encode())
            raise OSError(errno.ENOSPC, "No space left on device")

        file.write = write
        return file

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdopen", full)
        outcome = run_module("secret_store", path=str(tmp_path), secrets={"app_password": "password"})
    assert outcome.failed and "No space left on device" in outcome.result["msg"]
    assert list(tmp_path.iterdir()) == []
    assert run_module("secret_store", path=str(tmp_path), secrets={"app_password": "password"}).result["generated"]


@pytest.mark.parametrize("hard_links", [True, False])
def test_runs_at_once_have_one_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool) -> None:
    """Each secret is generated by one of them, and all return that, on any file system."""
    store, runs = plugin("modules.secret_store"), 4
    kinds = {f"app_{number}": "password" for number in range(10)}
    params = {"path": str(tmp_path / "s"), "values": {}, "secrets": kinds, "known": {}, "former": {}, "tls_names": [],
              "write": True}  # fmt: skip
    rename = os.rename

    def refuse(*_names: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    def late(old: str, new: str) -> None:
        time.sleep(0.01)  # between the look at the name and its use
        rename(old, new)

    if not hard_links:
        monkeypatch.setattr(os, "link", refuse)
        monkeypatch.setattr(os, "rename", late)
    processes = multiprocessing.get_context("fork")
    together, results = processes.Barrier(runs), processes.SimpleQueue()

    def run() -> None:
        together.wait(30)
        results.put(store.keep(params, False))

    started = [processes.Process(target=run) for _run in range(runs)]
    for each in started:
        each.start()
    for each in started:
        each.join(60)
    assert [each.exitcode for each in started] == [0] * runs
    found = [results.get() for _run in started]
    kept = {name: (tmp_path / "s" / name).read_text().strip() for name in kinds}
    assert [each["secrets"] for each in found] == [kept] * runs
    assert sorted(name for each in found for name in each["generated"]) == sorted(kinds)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == sorted(kinds)


def test_what_a_killed_run_left_is_removed(run_module: Run, tmp_path: Path) -> None:
    """It holds a secret that nobody uses; one that another run is writing stays."""
    old, young = tmp_path / ".new-abandoned", tmp_path / ".new-beingmade"
    for path in (old, young):
        path.write_text("s3cret")
    os.utime(old, (1, 1))
    run_module("secret_store", path=str(tmp_path), secrets=KINDS, check=True)
    assert old.exists()
    run_module("secret_store", path=str(tmp_path), secrets=KINDS, write=False)
    assert not old.exists() and young.exists()


def test_values_of_the_inventory(run_module: Run, tmp_path: Path) -> None:
    """They win, are not written to the directory, and an empty one is named by its variable."""
    outcome = run_module(
        "secret_store",
        path=str(tmp_path / "s"),
        secrets={"app_password": "password"},
        values={"app_password": "from-vault"},
    )
    assert outcome.result["generated"] == [] and not outcome.result["changed"]
    assert list((tmp_path / "s").iterdir()) == []
    empty = run_module(
        "secret_store", path=str(tmp_path), secrets={"app_password": "password"}, values={"app_password": ""}
    )
    assert empty.failed and "the variable secrets_values.app_password" in empty.result["msg"]


@pytest.mark.parametrize("arguments", [{"check": True}, {"write": False}])
def test_a_look_ahead_writes_nothing(run_module: Run, tmp_path: Path, arguments: dict[str, Any]) -> None:
    """Check mode and the preflight return usable values and leave no trace."""
    result = run_module("secret_store", path=str(tmp_path / "s"), secrets=KINDS, **arguments).result
    assert sorted(result["generated"]) == sorted(KINDS) and all(result["secrets"].values())
    assert result["changed"] == ("check" in arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_directory_is_named(run_module: Run, tmp_path: Path) -> None:
    """A file in the place of the directory."""
    (tmp_path / "s").write_text("")
    outcome = run_module("secret_store", path=str(tmp_path / "s"), secrets=KINDS)
    assert outcome.failed and f"cannot be kept in {tmp_path / 's'}" in outcome.result["msg"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated private key with its certificate, in one PEM file."""
    path = tmp_path_factory.mktemp("tls") / "gateway.pem"
    path.write_text(plugin("modules.secret_store").certificate(["ibkr-gateway", "localhost", "127.0.0.1"]))
    return path


def handshake(pem: Path, name: str, trust: Path | None = None) -> dict[str, Any]:
    """Connect over loopback with Python 3.13's strict rules, as `name`; return the certificate that was accepted."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    client = ssl.create_default_context(cafile=trust or pem)
    client.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    server.wrap_socket(connection, server_side=True).close()
                except (ssl.SSLError, OSError):
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=5) as plain,
                client.wrap_socket(plain, server_hostname=name) as secure,
            ):
                return secure.getpeercert() or {}
        finally:
            thread.join(5)


@pytest.mark.parametrize("name", ["ibkr-gateway", "localhost", "127.0.0.1"])
def test_certificate_verifies_strictly(certificate: Path, name: str) -> None:
    """Every declared name and address is accepted in a real handshake."""
    names = handshake(certificate, name)["subjectAltName"]
    assert set(names) == {("DNS", "ibkr-gateway"), ("DNS", "localhost"), ("IP Address", "127.0.0.1")}


def test_certificate_verifies_without_partial_chains(certificate: Path) -> None:
    """A client with OpenSSL's older defaults, which wants a root, accepts it too."""
    store = ssl.create_default_context(cafile=certificate)
    assert len(store.get_ca_certs()) == 1


def test_certificate_is_good_for_nothing_else(certificate: Path, tmp_path: Path) -> None:
    """Another name, and another stack's certificate, are refused."""
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(certificate, "minio")
    other = tmp_path / "other.pem"
    other.write_text(plugin("modules.secret_store").certificate(["localhost"]))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(certificate, "localhost", trust=other)


def test_certificate_is_kept_with_its_key(run_module: Run, tmp_path: Path) -> None:
    """Both stand in one secret, in the order that the gateway's role splits."""
    arguments: dict[str, Any] = {"path": str(tmp_path), "secrets": {"tls": "tls"}, "tls_names": ["localhost"]}
    first = run_module("secret_store", **arguments).result["secrets"]["tls"]
    assert first.index("-----BEGIN PRIVATE KEY-----") < first.index("-----BEGIN CERTIFICATE-----")
    assert run_module("secret_store", **arguments).result["secrets"]["tls"] == first


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("password", "p@ss/word", "8 or more letters"),
        ("password", "short", "8 or more letters"),
        ("long", "x" * 63, "64 or more letters"),
        ("fernet", "x" * 32, "a Fernet key"),
        ("tls", "-----BEGIN CERTIFICATE-----", "a private key and then its certificate"),
    ],
)
def test_a_secret_that_cannot_be_used(run_module: Run, tmp_path: Path, kind: str, value: str, expected: str) -> None:
    """Refused without being shown."""
    outcome = run_module("secret_store", path=str(tmp_path), secrets={"app": kind}, values={"app": value})
    assert outcome.failed and "The secret app cannot be used (the variable secrets_values.app)" in outcome.result["msg"]
    assert expected in outcome.result["msg"] and value not in outcome.result["msg"]


def test_a_secret_of_a_service_that_is_left_out(run_module: Run, tmp_path: Path) -> None:
    """It is judged all the same, and not among the secrets of this run."""
    given = {"path": str(tmp_path), "secrets": {}, "known": {"other_password": "password"}}
    outcome = run_module("secret_store", values={"other_password": "p@ss/word"}, **given)
    assert "The secret other_password cannot be used (the variable secrets_values.other_" in outcome.result["msg"]
    assert run_module("secret_store", values={"other_password": "password1"}, **given).result["secrets"] == {}


def test_two_fernet_keys(run_module: Run, tmp_path: Path) -> None:
    """The new one and the old one, while what is encrypted changes over."""
    keys = ",".join(letter * 43 + "=" for letter in "ab")
    outcome = run_module("secret_store", path=str(tmp_path), secrets={"app": "fernet"}, values={"app": keys})
    assert not outcome.failed, outcome.result


def test_an_unknown_name(run_module: Run, tmp_path: Path) -> None:
    """A misspelt name is never ignored; one of a service that is left out is none."""
    given = {"path": str(tmp_path), "secrets": {"app_password": "password"}, "known": {"other_password": "password"}}
    assert not run_module("secret_store", **given, values={"other_password": "from-vault"}).failed
    outcome = run_module("secret_store", **given, values={"app_pasword": "from-vault"})
    assert outcome.failed and "unknown name app_pasword. Did you mean app_password?" in outcome.result["msg"]


def test_a_name_of_an_earlier_version(run_module: Run, tmp_path: Path) -> None:
    """A vault is told what took its place, not a similar name; a file is left alone and named."""
    given = {"path": str(tmp_path), "secrets": {"redis_admin_password": "password"}}
    given["former"] = {"redis_password": "each client has its own", "other_password": "nothing"}
    outcome = run_module("secret_store", **given, values={"redis_password": "from-vault"})
    assert outcome.failed and "redis_password, which only an earlier version used: each client" in outcome.result["msg"]
    assert "Did you mean" not in outcome.result["msg"]
    (tmp_path / "redis_password").write_text("old\n")
    assert run_module("secret_store", **given).result["unused"] == ["redis_password"]
    assert (tmp_path / "redis_password").read_text() == "old\n"


def test_a_file_that_is_no_text(run_module: Run, tmp_path: Path) -> None:
    """The error names it, since no_log hides whatever Ansible would say."""
    (tmp_path / "app").write_bytes(b"\xff\xfe\n")
    outcome = run_module("secret_store", path=str(tmp_path), secrets={"app": "password"})
    assert outcome.failed
    assert f"The secret app cannot be used ({tmp_path / 'app'}): expected text in UTF-8." in outcome.result["msg"]
    assert (tmp_path / "app").read_bytes() == b"\xff\xfe\n"


def test_a_path_that_is_no_directory(run_module: Run, tmp_path: Path) -> None:
    """Known also when nothing would be written yet."""
    (tmp_path / "file").write_text("")
    outcome = run_module("secret_store", path=str(tmp_path / "file"), secrets={"app": "password"}, write=False)
    assert outcome.failed and "which secrets_dir names" in outcome.result["msg"]


@pytest.mark.parametrize("debug", [True, False])
def test_debug_output_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, debug: bool) -> None:
    """Ansible prints arguments then, whatever a task says; the run goes on."""
    module = plugin("action.secret_store")
    said: list[str] = []
    monkeypatch.setattr(module.C, "DEFAULT_DEBUG", debug, raising=False)
    monkeypatch.setattr(module.Display, "warning", lambda _self, text: said.append(text))
    monkeypatch.setattr(module.ActionBase, "run", lambda *_: {})
    action = module.ActionModule.__new__(module.ActionModule)
    action._task = SimpleNamespace(check_mode=False)
    given = {
        "path": str(tmp_path / "s"),
        "secrets": KINDS,
        "values": {},
        "known": {},
        "former": {},
        "tls_names": [],
        "write": True,
    }
    monkeypatch.setattr(action, "validate_argument_spec", lambda _: (None, {**given, "restore": None}))
    assert sorted(action.run()["secrets"]) == sorted(KINDS)
    assert [text.partition(":")[0] for text in said] == ["ANSIBLE_DEBUG is set"] * debug
