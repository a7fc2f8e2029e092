"""The Celery application, beat's schedule, and Flower's password."""

import base64
import os
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery.exceptions import QueueNotFound
from celery.signals import celeryd_after_setup
from celery.worker.pidbox import Pidbox
from ibkr_backend import celery_app, heartbeat
from ibkr_backend.celery_app import app, check_queues
from ibkr_backend.settings import SettingsError
from ibkr_backend.tasks import ping, refresh_bars
from kombu import Queue

APP = Path(__file__).parents[1]


def scheduler(path: Path) -> heartbeat.BeatScheduler:
    return heartbeat.BeatScheduler(app, schedule_filename=str(path))


def test_everything_goes_to_the_one_queue_that_the_worker_consumes() -> None:
    assert app.conf.task_default_queue == "backend"
    assert list(app.amqp.queues) == ["backend"]
    with pytest.raises(QueueNotFound):
        ping.apply_async(queue="elsewhere")


def test_every_scheduled_task_exists() -> None:
    app.loader.import_default_modules()
    assert refresh_bars.name == "ibkr_backend.tasks.refresh_bars"
    assert {entry["task"] for entry in app.conf.beat_schedule.values()} <= set(app.tasks)


def test_a_queue_that_this_worker_does_not_read_ends_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    check_queues(app, {"backend"})
    with pytest.raises(SettingsError, match=r"is sent to the queue backend, but this worker reads other"):
        check_queues(app, {"other"})
    entry = {"task": "ibkr_backend.tasks.ping", "schedule": 60, "options": {"queue": "elsewhere"}}
    monkeypatch.setitem(app.conf.beat_schedule, "stray", entry)
    with pytest.raises(SettingsError, match=r"ping is sent to the queue elsewhere"):
        check_queues(app, {"backend"})


def test_nobody_tells_a_worker_to_read_another_queue() -> None:
    """Flower may write queues of answers: a worker that it made read one would run what it puts there."""
    consumer = SimpleNamespace(hostname="worker@here", app=app, controller=SimpleNamespace(use_eventloop=False))
    panel = Pidbox(consumer).node.handlers
    assert "ping" in panel and "add_consumer" not in panel


def test_a_worker_looks_at_its_queues_as_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery says that a worker is set up; an exception in an answer to that it would only log."""
    celeryd_after_setup.send(sender="backend@worker", instance=None, conf=app.conf)
    monkeypatch.setattr(app.amqp.queues, "_consume_from", {"other": Queue("other")})
    with pytest.raises(SystemExit, match=r"is sent to the queue backend, but this worker reads other"):
        celeryd_after_setup.send(sender="backend@worker", instance=None, conf=app.conf)


def test_a_stack_without_mlflow_scores_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(celery_app.schedule()) == {"keep-session", "refresh-all-bars"}
    monkeypatch.setattr(celery_app.settings, "mlflow_url", "http://mlflow")
    assert set(celery_app.schedule()) == {"keep-session", "refresh-all-bars", "score-signals"}


def test_the_first_look_comes_at_once_and_the_next_after_its_interval(tmp_path: Path) -> None:
    beat = scheduler(tmp_path / "schedule")
    entry = beat.schedule["refresh-all-bars"]
    assert entry.is_due().is_due
    following = next(entry)
    assert not following.is_due().is_due
    assert following.is_due().next > 50
    beat.schedule["refresh-all-bars"] = following
    beat.close()
    # A restarted beat goes on where it was.
    again = scheduler(tmp_path / "schedule")
    assert not again.schedule["refresh-all-bars"].is_due().is_due
    again.close()


def test_each_tick_of_beat_touches_its_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_HEARTBEAT", tmp_path / "heartbeat")
    beat = scheduler(tmp_path / "schedule")
    for name, entry in list(beat.schedule.items()):
        beat.schedule[name] = next(entry)
    assert 0 < beat.tick() <= 15
    assert time.time() - (tmp_path / "heartbeat").stat().st_mtime < 5
    beat.close()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_an_unwritable_schedule_directory_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(SettingsError, match="CELERY_BEAT_SCHEDULE"):
        _ = scheduler(tmp_path / "schedule").schedule


def test_a_missing_schedule_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="CELERY_BEAT_SCHEDULE"):
        _ = scheduler(tmp_path / "missing/schedule").schedule


def status(url: str, user: str | None = None) -> int:
    request = urllib.request.Request(url)
    if user:
        request.add_header("Authorization", "Basic " + base64.b64encode(user.encode()).decode())
    return status_of(request)


def status_of(request: urllib.request.Request) -> int:
    """The status of the answer, 0 without one."""
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_flower_asks_for_the_password_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("open sesame\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONDONTWRITEBYTECODE": "1",
        "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
        "CELERY_RESULT_BACKEND": "redis://127.0.0.1:1/1",
        "FLOWER_USER": "admin",
        "FLOWER_PASSWORD_FILE": str(tmp_path / "password"),
    }
    celery = [sys.executable, "-m", "celery", "-A", "ibkr_backend.celery_app:app", "flower"]
    options = ["--conf=ibkr_backend/flower_config.py", "--address=127.0.0.1", f"--port={port}"]
    with subprocess.Popen(celery + options, cwd=APP, env=environment, stderr=subprocess.DEVNULL) as flower:
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 90
            while status(f"{url}/healthcheck") != 200 and time.monotonic() < deadline:
                time.sleep(0.1)
            assert status(f"{url}/healthcheck") == 200
            assert status(f"{url}/workers") == 401
            # Workers and tasks are named in the metrics too.
            assert status(f"{url}/metrics") == 401
            assert status(f"{url}/metrics", "admin:wrong") == 401
            assert status(f"{url}/metrics", "admin:open sesame") == 200
            assert status(f"{url}/workers", "admin:wrong") == 401
            assert status(f"{url}/workers", "admin:open sesame") == 200
            # The browser sends the password by itself: no other site may show the page or send its forms.
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{url}/workers", timeout=5)
            assert refused.value.headers["X-Frame-Options"] == "DENY"
            assert refused.value.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
            shutdown = urllib.request.Request(f"{url}/api/worker/shutdown/backend@worker", method="POST")
            shutdown.add_header("Authorization", "Basic " + base64.b64encode(b"admin:open sesame").decode())
            assert status_of(shutdown) == 404
            shutdown.add_header("Origin", "http://127.0.0.1:5500")
            assert status_of(shutdown) == 403
        finally:
            flower.kill()
