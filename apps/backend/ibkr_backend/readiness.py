"""The state of each service the backend works with, found within a fixed time whatever the network does."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit, urlunsplit

import httpx
from sqlalchemy import Engine, select

from ibkr_backend.backups import backup_check
from ibkr_backend.database import KeptBar
from ibkr_backend.gateway import Gateway, error_text
from ibkr_backend.mlflow_api import bearer
from ibkr_backend.object_store import make_client
from ibkr_backend.settings import AIRFLOW_SEEN_KEY, PROBE_KEY, SEEN_KEY, ApiSettings

if TYPE_CHECKING:
    import redis

# Each client gives up a little before the whole answer is due; a name lookup cannot be told to, so the wait for the
# answer is limited as well.
CLIENT_TIMEOUT = 1.2
ANSWER_TIMEOUT = 1.5
# Callers that come in quick succession share one round of checks.
KEEP_SECONDS = 1.0

Check = Callable[[], dict[str, Any]]
# Worker and beat show themselves every 15 s; a busy host may be late.
SEEN_SECONDS = 75
# A worker that is not back by then has left.
FORGOTTEN_SECONDS = 86400
GATEWAY_AWAY = {"up": False, "ibkr_reachable": None, "logged_in": None, "simulated": None}


@dataclass
class Dependency:
    """One service with its check, which returns details to show or raises. At most one check of it runs at a time,
    so one that hangs in a name lookup never piles up threads or delays the other services' checks."""

    name: str
    check: Check
    details_when_failed: dict[str, Any] = field(default_factory=dict)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(max_workers=1))
    _running: Future[dict[str, Any]] | None = None
    _started: float = 0.0
    last: dict[str, Any] | None = None

    @property
    def busy(self) -> bool:
        """Whether the check has begun and not ended."""
        return self._running is not None and not self._running.done()

    def start(self) -> Future[dict[str, Any]]:
        """Start the check, or join the one that is running or has just ended."""
        fresh = time.monotonic() - self._started < KEEP_SECONDS
        if self._running is None or (self._running.done() and not fresh):
            self._started = time.monotonic()
            self._running = self._thread.submit(self._remembered)
        return self._running

    def _remembered(self) -> dict[str, Any]:
        details = self.check()
        self.last = {"state": "ok", "reason": "answers"} | details
        return details


def one_line(error: BaseException) -> str:
    """Shorten an error to its first line, which in every client used here says what is wrong."""
    text = error_text(error) if isinstance(error, Exception) else str(error)
    return text.strip().splitlines()[0][:300] if text.strip() else type(error).__name__


class Readiness:
    """All dependencies of the backend."""

    def __init__(self, settings: ApiSettings, engine: Engine) -> None:
        """Prepare the clients; nothing is asked yet."""
        self._dependencies = [
            Dependency("postgres", postgres_check(engine)),
            Dependency("redis", redis_check(settings)),
            Dependency("minio", bucket_check(settings)),
            Dependency("gateway", gateway_check(settings), GATEWAY_AWAY),
        ]
        if settings.mlflow_url:
            check = http_check(f"{settings.mlflow_url}/health", settings.mlflow_token)
            self._dependencies.append(Dependency("mlflow", check))
        if settings.airflow_url:
            self._dependencies.append(Dependency("airflow", http_check(f"{settings.airflow_url}/api/v2/version")))
        broker = redis_client(settings.celery_broker_url.get_secret_value())
        self._processes = [
            Dependency("worker", workers_check(broker, SEEN_KEY)),
            Dependency("beat", seen_check(broker, "beat")),
        ]
        if settings.airflow_broker_database is not None:
            # Of Airflow's keys, the backend's user in Redis reads this one.
            url = urlsplit(settings.celery_broker_url.get_secret_value())
            seen = redis_client(urlunsplit(url._replace(path=f"/{settings.airflow_broker_database}")))
            self._processes.insert(1, Dependency("airflow_worker", workers_check(seen, AIRFLOW_SEEN_KEY)))
        if settings.flower_url:
            self._processes.append(Dependency("flower", http_check(f"{settings.flower_url}/healthcheck")))
        if settings.backup_url:
            self._processes.append(Dependency("backup", backup_check(settings.backup_url, CLIENT_TIMEOUT)))

    def report(self) -> dict[str, Any]:
        """Return ``{"ready": bool, "dependencies": {name: {"state", "reason", …}}, "processes": the same}`` within two
        seconds. The API serves without its processes, so they do not make it unready."""
        everything = [*self._dependencies, *self._processes]
        found = answers(everything)
        dependencies = {each.name: found[each.name] for each in self._dependencies}
        ready = all(each["state"] == "ok" for each in dependencies.values())
        return {
            "ready": ready,
            "dependencies": dependencies,
            "processes": {each.name: found[each.name] for each in self._processes},
        }


def answers(dependencies: list[Dependency]) -> dict[str, dict[str, Any]]:
    """Ask all at once; returns what each said, or why it said nothing, within ``ANSWER_TIMEOUT``."""
    running = {dependency.name: dependency.start() for dependency in dependencies}
    wait(running.values(), timeout=ANSWER_TIMEOUT)
    return {each.name: outcome(running[each.name], each.details_when_failed) for each in dependencies}


def outcome(check: Future[dict[str, Any]], details_when_failed: dict[str, Any]) -> dict[str, Any]:
    """Put a check's end, or that it has not ended, into words."""
    if not check.done():
        reason = f"no answer in {ANSWER_TIMEOUT} s"
    elif error := check.exception():
        reason = one_line(error)
    else:
        return {"state": "ok", "reason": "answers"} | check.result()
    return {"state": "failed", "reason": reason} | details_when_failed


def postgres_check(engine: Engine) -> Check:
    """Check that the migrated database answers a query."""

    def check() -> dict[str, Any]:
        with engine.connect() as connection:
            connection.execute(select(KeptBar.date).limit(1))
        return {}

    return check


def redis_client(url: str) -> "redis.Redis":
    """Make a client that gives up in time and does not try again."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis.from_url(
        url,
        socket_connect_timeout=CLIENT_TIMEOUT,
        socket_timeout=CLIENT_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )


def redis_check(settings: ApiSettings) -> Check:
    """Check that broker and result backend take writes: one that is full, or cannot save, still answers a PING."""
    urls = {settings.celery_broker_url.get_secret_value(), settings.celery_result_backend.get_secret_value()}
    clients = [redis_client(url) for url in sorted(urls)]

    def check() -> dict[str, Any]:
        for client in clients:
            client.set(PROBE_KEY, 1, ex=60)
        return {}

    return check


def seen_check(broker: "redis.Redis", process: str) -> Check:
    """Check that a process showed itself a short while ago."""

    def check() -> dict[str, Any]:
        seen = broker.hget(SEEN_KEY, process)
        if seen is None:
            raise RuntimeError("never seen")
        age = time.time() - float(str(seen))
        if age > SEEN_SECONDS:
            raise RuntimeError(f"last seen {age:.0f} s ago")
        return {"reason": f"seen {max(age, 0):.0f} s ago"}

    return check


def workers_check(broker: "redis.Redis", key: str) -> Check:
    """Check that a worker showed itself a short while ago; says so of the worker of each host."""

    def check() -> dict[str, Any]:
        now, seen = time.time(), cast(dict[str, str], broker.hgetall(key))
        ages = {name.partition("@")[2]: now - float(moment) for name, moment in seen.items() if "@" in name}
        ages = {host: max(age, 0) for host, age in sorted(ages.items()) if age < FORGOTTEN_SECONDS}
        if not ages:
            raise RuntimeError("never seen")
        lost = [host for host, age in ages.items() if age > SEEN_SECONDS]
        told = [f"{host} {'last ' if host in lost else ''}seen {age:.0f} s ago" for host, age in ages.items()]
        if len(lost) == len(ages):
            raise RuntimeError(", ".join(told))
        return {"reason": ", ".join(told)}

    return check


def bucket_check(settings: ApiSettings) -> Check:
    """Check that the bucket answers to the backend's own key."""
    client = make_client(settings, CLIENT_TIMEOUT)

    def check() -> dict[str, Any]:
        client.head_bucket(Bucket=settings.s3_bucket)
        return {"reason": f"bucket {settings.s3_bucket} answers"}

    return check


def gateway_check(settings: ApiSettings) -> Check:
    """Check that the gateway answers. That IBKR is away or nobody is logged in is told, but is no failure: only a
    person can log in."""
    gateway = Gateway(settings.gateway_url, settings.gateway_ca_file, timeout=CLIENT_TIMEOUT / 2)
    return lambda: asdict(gateway.state())


def http_check(url: str, token: str = "") -> Check:
    """Check that ``url`` answers with success; ``token`` is sent as the login, if there is one."""
    client = httpx.Client(timeout=CLIENT_TIMEOUT, trust_env=False, headers=bearer(token))

    def check() -> dict[str, Any]:
        answer = client.get(url)
        if not answer.is_success:
            raise RuntimeError(f"HTTP {answer.status_code}")
        return {}

    return check
