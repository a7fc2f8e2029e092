"""Settings: files, defaults, and one clear line for each mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ibkr_backend.settings import ApiSettings, CelerySettings, DatabaseSettings, SettingsError

APP = Path(__file__).parents[1]


def test_a_complete_environment_is_read(settings: ApiSettings) -> None:
    assert settings.bars_symbols == ["AAPL", "MSFT"]
    assert settings.s3_region == "us-east-1"
    assert settings.bars_refresh_seconds == 3600
    assert settings.mlflow_url is None
    assert "top-secret" not in repr(settings)


def test_a_secret_is_read_from_a_file_without_its_newline(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://user:p%40ss%25word@postgres:5432/backend\n")
    url = DatabaseSettings.load({"DATABASE_URL_FILE": str(file)}).sqlalchemy_url
    assert url.drivername == "postgresql+psycopg"
    assert (url.password, url.host, url.database) == ("p@ss%word", "postgres", "backend")


def test_an_empty_variable_counts_as_not_set(environment: dict[str, str]) -> None:
    assert ApiSettings.load(environment | {"MLFLOW_URL": "", "BARS_SYMBOLS": ""}).bars_symbols == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"S3_BUCKET": ""}, "S3_BUCKET is not set"),
        ({"S3_SECRET_KEY_FILE": "/x"}, "S3_SECRET_KEY and S3_SECRET_KEY_FILE are both set"),
        ({"S3_SECRET_KEY": "", "S3_SECRET_KEY_FILE": "/does/not/exist"}, "S3_SECRET_KEY_FILE: cannot read"),
        ({"GATEWAY_CA_FILE": "/does/not/exist"}, "GATEWAY_CA_FILE: cannot read"),
        ({"GATEWAY_URL": "ibkr-gateway:5055"}, "GATEWAY_URL: "),
        ({"DATABASE_URL": "hunter2"}, "DATABASE_URL: expected postgresql://"),
        ({"CELERY_BROKER_URL": "amqp://user:hunter2@host"}, "CELERY_BROKER_URL: expected redis://"),
        ({"BARS_START": "yesterday"}, "BARS_START: "),
        ({"BARS_SYMBOLS": "AAPL,$$"}, "BARS_SYMBOLS: "),
        ({"BARS_REFRESH_SECONDS": "5"}, "BARS_REFRESH_SECONDS: "),
        ({"STACK_PUBLIC_URLS": "{"}, "STACK_PUBLIC_URLS: "),
        ({"STACK_PUBLIC_URLS": '{"x": "javascript:alert(1)"}'}, "STACK_PUBLIC_URLS: "),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL: "),
    ],
)
def test_a_mistake_is_named_in_one_line_without_its_value(
    environment: dict[str, str], changes: dict[str, str], words: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        ApiSettings.load(environment | changes)
    text = str(caught.value)
    assert words in text
    assert "\n" not in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    "command",
    [
        ["uvicorn", "--factory", "ibkr_backend.api:create_app", "--port", "0"],
        ["celery", "-A", "ibkr_backend.celery_app:app", "worker"],
        ["celery", "-A", "ibkr_backend.celery_app:app", "beat"],
        ["alembic", "upgrade", "head"],
    ],
    ids=lambda command: command[0],
)
def test_each_process_ends_with_one_line(command: list[str]) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "C_FORCE_ROOT": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=APP, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("ibkr_backend: ")
    assert "is not set" in done.stderr
    assert done.stderr.count("\n") == 1


def test_celery_needs_no_setting_of_the_other_services() -> None:
    redis = {"CELERY_BROKER_URL": "redis://r:6379/0", "CELERY_RESULT_BACKEND": "redis://r:6379/1"}
    assert CelerySettings.load(redis).celery_queue == "backend"
