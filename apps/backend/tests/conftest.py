"""A gateway with real TLS, and the backend's settings, for the tests of the backend."""

import os
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import trustme

# The Celery application reads these when it is imported; nothing listens there.
os.environ |= {"CELERY_BROKER_URL": "redis://127.0.0.1:1/0", "CELERY_RESULT_BACKEND": "redis://127.0.0.1:1/1"}

from fake_ibkr import TODAY, FakeIbkr, serve, trading_days
from ibkr_backend.database import Base, make_engine
from ibkr_backend.gateway import Gateway
from ibkr_backend.settings import ApiSettings, DatabaseSettings
from sqlalchemy.orm import Session

TOKEN = "token-of-the-tests"
PASSWORD = "open sesame"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Return a certificate authority of the tests' own."""
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the authority's certificate as a file."""
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def ibkr() -> FakeIbkr:
    """Return the state of the fake gateway, with three weeks of history."""
    days = trading_days(TODAY - timedelta(days=21), TODAY)
    return FakeIbkr(closes={day: 100.0 + n for n, day in enumerate(days)})


@pytest.fixture
def gateway_url(ibkr: FakeIbkr, authority: trustme.CA) -> Iterator[str]:
    """Serve the fake gateway over TLS."""
    server = serve(ibkr.answer, lambda: {"X-Simulated": "true"} if ibkr.simulated else {})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"https://localhost:{server.server_port}"
    if ibkr.hang:
        ibkr.hang.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def gateway(gateway_url: str, ca_file: Path) -> Gateway:
    """Return a client of the fake gateway that does not pause between requests."""
    return Gateway(gateway_url, ca_file, timeout=5, spacing=0)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """Open a session on an empty SQLite database in ``tmp_path``, through the same SQLAlchemy code as PostgreSQL."""
    engine = make_engine(DatabaseSettings.load({"DATABASE_URL": f"sqlite:///{tmp_path}/backend.db"}))
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.fixture
def hole() -> Iterator[int]:
    """Return a port that takes connections and never answers, as when packets are dropped after the handshake."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def redis_full() -> threading.Event:
    """Return a switch: while it is set, Redis refuses writes and answers everything else."""
    return threading.Event()


@pytest.fixture
def redis_url(redis_full: threading.Event) -> Iterator[str]:
    """Serve just enough of Redis's protocol to be asked whether it is there, who was seen, and what was done."""

    def answer(command: bytes, words: list[bytes]) -> bytes:
        if redis_full.is_set() and command == b"SET":
            return b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
        if command == b"HGET":
            moment = str(time.time()).encode()
            return b"$%d\r\n%s\r\n" % (len(moment), moment)
        if command == b"HGETALL":
            moment = str(time.time()).encode()
            pair = (b"backend@w1", moment) if words[0].endswith(b"seen") else (b"refresh_bars SUCCESS", b"3")
            return b"*2\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in pair)
        return {b"PING": b"+PONG\r\n", b"LLEN": b":4\r\n"}.get(command, b"+OK\r\n")

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while header := self.rfile.readline():
                words = []
                for _ in range(int(header[1:])):
                    words.append(self.rfile.read(int(self.rfile.readline()[1:]) + 2).strip())
                self.wfile.write(answer(words[0].upper(), words[1:]))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"redis://127.0.0.1:{server.server_address[1]}/0?protocol=2"
        server.shutdown()


@pytest.fixture
def http_url() -> Iterator[str]:
    """Serve 200 for everything, as MinIO, MLflow and Airflow do for what they are asked here."""
    server = serve(lambda _: (200, {}), dict)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def environment(
    session: Session, tmp_path: Path, gateway_url: str, ca_file: Path, redis_url: str, http_url: str
) -> dict[str, str]:
    """Return a complete environment in which every service answers."""
    return {
        "DATABASE_URL": f"sqlite:///{tmp_path}/backend.db",
        "CELERY_BROKER_URL": redis_url,
        "CELERY_RESULT_BACKEND": redis_url,
        "GATEWAY_URL": gateway_url,
        "GATEWAY_CA_FILE": str(ca_file),
        "S3_ENDPOINT_URL": http_url,
        "S3_BUCKET": "trading-charts",
        "S3_ACCESS_KEY": "key",
        "S3_SECRET_KEY": "top-secret",
        "API_TOKEN": TOKEN,
        "PAGE_USER": "trader",
        "PAGE_PASSWORD": PASSWORD,
        "GATEWAY_LOGIN_URL": "https://localhost:5055",
        "BARS_SYMBOLS": "AAPL, msft,AAPL",
        "STACK_PUBLIC_URLS": '{"Airflow": "http://localhost:8080", "MinIO": "http://localhost:9001"}',
    }


@pytest.fixture
def settings(environment: dict[str, str]) -> ApiSettings:
    """Return the settings of an API for which every service answers."""
    return ApiSettings.load(environment)
