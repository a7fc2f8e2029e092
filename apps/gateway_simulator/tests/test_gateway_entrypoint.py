"""The real gateway's entrypoint, with a stand-in for IBKR's archive: class path, keystore and configuration."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import time
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

REPOSITORY = Path(__file__).parents[3]
GATEWAY = REPOSITORY / "roles" / "ibkr_gateway" / "files" / "gateway"
FIXTURE = REPOSITORY / "tests" / "fixtures" / "gateway_archive" / "make_archive.py"

needs_jdk = pytest.mark.skipif(shutil.which("javac") is None, reason="a JDK builds the stand-in for IBKR's archive")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in, unpacked and write-protected."""
    work = tmp_path_factory.mktemp("archive")
    subprocess.run([str(FIXTURE), str(work / "gateway.zip")], check=True)
    with zipfile.ZipFile(work / "gateway.zip") as packed:
        packed.extractall(work / "gateway")
    for path in [*(work / "gateway").rglob("*"), work / "gateway"]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return work / "gateway"


@pytest.fixture
def settings(archive: Path, tls, loopback_port: int, tmp_path: Path) -> dict[str, str]:
    """The entrypoint's environment, all of it good."""
    (tmp_path / "run").mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "conf.yaml").write_text(
        f"listenPort: {loopback_port}\nlistenSsl: true\n"
        'sslCert: "vertx.jks"\nsslPwd: "shipped"\nips:\n  allow:\n    - "*"'
    )
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "GATEWAY_HOME": str(archive),
        "GATEWAY_CONFIG_DIR": str(tmp_path / "config"),
        "GATEWAY_RUNTIME_DIR": str(tmp_path / "run"),
        "GATEWAY_CERT_FILE": str(tls.cert),
        "GATEWAY_KEY_FILE": str(tls.key),
    }


@contextmanager
def started(settings: dict[str, str], tls, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """The gateway, answering, and a client that trusts its certificate."""
    port = (Path(settings["GATEWAY_CONFIG_DIR"]) / "conf.yaml").read_text().split()[1]
    context = ssl.create_default_context(cafile=tls.cert)
    with (
        log.open("wb") as output,
        subprocess.Popen([str(GATEWAY / "entrypoint.sh")], env=settings, stdout=output, stderr=output) as process,
        httpx.Client(base_url=f"https://localhost:{port}", verify=context, trust_env=False) as client,
    ):
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    client.get("/")
                    break
                except httpx.ConnectError:
                    assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                    time.sleep(0.1)
            yield process, client
        finally:
            process.terminate()


def printed_password(log: str) -> str:
    """The keystore's password, which the stand-in prints with the rest of its configuration, as the gateway does."""
    found = re.search(r"sslPwd=(\w+)", log)
    assert found, log
    return found[1]


def given_secrets(settings: dict[str, str]) -> list[str]:
    """Lines of the private key, the one secret that the container is given."""
    lines = Path(settings["GATEWAY_KEY_FILE"]).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("-----")]


def can_open(keystore: Path, password: str) -> bool:
    """Whether a password opens a keystore."""
    words = ("openssl", "pkcs12", "-in", str(keystore), "-passin", "stdin", "-noout")
    return subprocess.run(words, input=password, text=True, capture_output=True).returncode == 0


@needs_jdk
def test_starts_with_our_certificate_and_shows_no_secret(settings: dict[str, str], tls, tmp_path: Path) -> None:
    with started(settings, tls, tmp_path / "log") as (process, client):
        assert client.get("/").status_code == 302
        assert client.get("/v1/api/iserver/auth/status").status_code == 401
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
    written = Path(settings["GATEWAY_RUNTIME_DIR"]) / "root"
    text = (tmp_path / "log").read_text()
    password = printed_password(text)
    assert command.startswith(b"java\0") and password.encode() not in command + environment
    assert "/root/logback.xml" in text
    # Nothing that is kept, and so worth keeping from a log, is the printed password or stands beside it.
    assert given_secrets(settings) and not [line for line in given_secrets(settings) if line in text]
    settings_lines = (written / "conf.yaml").read_text().splitlines()
    assert sum(line.startswith(("sslCert", "sslPwd")) for line in settings_lines) == 2
    assert 'sslCert: "gateway.p12"' in (written / "conf.yaml").read_text()
    assert {path.name: path.stat().st_mode & 0o777 for path in written.iterdir()} == {
        "conf.yaml": 0o600,
        "gateway.p12": 0o600,
        "logback.xml": 0o600,
        "webapps": 0o555,
    }
    assert (written / "logback.xml").read_bytes() == (GATEWAY / "logback.xml").read_bytes()


@needs_jdk
def test_the_password_that_the_gateway_prints_is_a_new_one_at_each_start(
    settings: dict[str, str], tls, tmp_path: Path
) -> None:
    passwords = []
    for start in ("first", "second"):
        with started(settings, tls, tmp_path / start):
            keystore = Path(settings["GATEWAY_RUNTIME_DIR"]) / "root" / "gateway.p12"
            passwords.append(printed_password((tmp_path / start).read_text()))
            opens = {password: can_open(keystore, password) for password in passwords}
        # The one that is printed now, and none of before.
        assert opens == {password: password == passwords[-1] for password in passwords}
    assert len(set(passwords)) == 2 and all(re.fullmatch("[0-9a-f]{64}", password) for password in passwords)


@needs_jdk
def test_what_is_written_in_the_working_directory_stays_and_no_secret_is_there(
    settings: dict[str, str], tls, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    for start in (1, 2):
        with started(settings | {"GATEWAY_STATE_DIR": str(state)}, tls, tmp_path / "log") as (process, _):
            # Vert.x keeps copies of the class path's files where this says.
            cache = f"-Dvertx.cacheDirBase={settings['GATEWAY_RUNTIME_DIR']}/vertx"
            assert cache.encode() in Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        assert f"STAND-IN gateway, start {start} in this directory" in (tmp_path / "log").read_text()
        # After the container has stopped, its tmpfs is gone.
        shutil.rmtree(settings["GATEWAY_RUNTIME_DIR"])
        Path(settings["GATEWAY_RUNTIME_DIR"]).mkdir()
    assert [path.name for path in state.iterdir() if not path.is_symlink()] == ["starts"]


@needs_jdk
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_HOME", "/nonexistent"),
        ("GATEWAY_CONFIG_DIR", "/nonexistent"),
        ("GATEWAY_RUNTIME_DIR", "/nonexistent"),
        ("GATEWAY_STATE_DIR", "/nonexistent"),
        ("GATEWAY_CERT_FILE", "/nonexistent"),
        ("GATEWAY_KEY_FILE", "/nonexistent"),
        ("GATEWAY_KEY_FILE", str(Path(__file__))),
    ],
)
def test_a_bad_setting_is_named(settings: dict[str, str], name: str, value: str) -> None:
    ended = subprocess.run(
        [str(GATEWAY / "entrypoint.sh")], env=settings | {name: value}, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert name in ended.stderr.splitlines()[-1]


def test_logging_goes_to_the_console_only() -> None:
    root = ElementTree.parse(GATEWAY / "logback.xml").getroot()
    assert [appender.get("class") for appender in root.iter("appender")] == ["ch.qos.logback.core.ConsoleAppender"]
    assert {logger.get("name"): logger.get("level") for logger in root.iter("logger")}["HttpMessageLogger"] == "OFF"
