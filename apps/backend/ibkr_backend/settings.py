"""Settings from the environment; each process validates only those it uses.

Every setting ``X`` may be given as ``X_FILE``, the path of a file that holds the value, so that secrets need not stand
in the environment. Giving both is an error.
"""

import os
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    HttpUrl,
    Json,
    SecretStr,
    ValidationError,
    model_validator,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from ibkr_backend.symbols import SYMBOL_PATTERN

# What worker and beat leave in Redis for the API. In the broker's database: process to the moment it was last seen,
# seconds since the epoch. In the result backend's: "TASK STATE" to a count, "TASK seconds" to a sum.
SEEN_KEY = "ibkr_backend:seen"
# Where Airflow's workers show themselves, in the database of its broker.
AIRFLOW_SEEN_KEY = "@airflow:seen"
TASKS_KEY = "ibkr_backend:tasks"
# What the API writes to learn whether Redis takes writes.
PROBE_KEY = "ibkr_backend:probe"


class SettingsError(SystemExit):
    """A setting is missing or unusable; uncaught, it ends the process with its one line and exit code 1."""

    def __init__(self, problem: str) -> None:
        """Say in one line what is wrong with which variable."""
        super().__init__(f"ibkr_backend: {problem}")


def _split_on_commas(value: Any) -> Any:
    if isinstance(value, str):
        return list(dict.fromkeys(item.strip().upper() for item in value.split(",") if item.strip()))
    return value


def _without_trailing_slash(url: HttpUrl) -> str:
    return str(url).rstrip("/")


def _sqlalchemy_url(value: SecretStr) -> SecretStr:
    try:
        url = make_url(value.get_secret_value())
    except (ArgumentError, ValueError):
        raise ValueError("expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE") from None
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    return SecretStr(url.render_as_string(hide_password=False))


def _broker_url(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("redis://", "rediss://")):
        raise ValueError("expected redis://… or rediss://…")
    return value


if TYPE_CHECKING:
    BaseUrl = str  # what the validator makes of it
else:
    BaseUrl = Annotated[HttpUrl, AfterValidator(_without_trailing_slash)]
RedisUrl = Annotated[SecretStr, AfterValidator(_broker_url)]
Symbol = Annotated[str, Field(pattern=SYMBOL_PATTERN)]


class EnvironmentSettings(BaseModel):
    """Base of the settings groups: a field ``x_y`` is read from ``X_Y`` or from the file named by ``X_Y_FILE``."""

    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR|CRITICAL)$")] = "INFO"

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read and validate this group.

        Raises:
            SettingsError: naming the variable, never its value.
        """
        environment = os.environ if environment is None else environment
        values: dict[str, str] = {}
        for field in cls.model_fields:
            name = field.upper()
            # An empty variable is how compose files and inventories spell "not set".
            plain, path = environment.get(name), environment.get(f"{name}_FILE")
            if plain and path:
                raise SettingsError(f"{name} and {name}_FILE are both set: give one of them")
            if path:
                try:
                    plain = Path(path).read_text().rstrip("\r\n")
                except (OSError, UnicodeDecodeError) as error:
                    reason = getattr(error, "strerror", None) or "not a text file"
                    raise SettingsError(f"{name}_FILE: cannot read {path}: {reason}") from None
                if not plain:
                    raise SettingsError(f"{name}_FILE: {path} is empty")
            if plain:
                values[field] = plain
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            problem = first["msg"].removeprefix("Value error, ")
            if not first["loc"]:
                raise SettingsError(problem) from None
            name = str(first["loc"][0]).upper()
            if first["type"] == "missing":
                raise SettingsError(f"{name} is not set (nor {name}_FILE)") from None
            raise SettingsError(f"{name}: {problem}") from None


class DatabaseSettings(EnvironmentSettings):
    """Where bars are kept."""

    database_url: Annotated[SecretStr, AfterValidator(_sqlalchemy_url)]

    @property
    def sqlalchemy_url(self) -> URL:
        """The database URL with the psycopg 3 driver."""
        return make_url(self.database_url.get_secret_value())


class CelerySettings(EnvironmentSettings):
    """What worker, beat, Flower and the sender of a task must agree on."""

    celery_broker_url: RedisUrl
    celery_result_backend: RedisUrl
    celery_queue: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]+$")] = "backend"
    celery_beat_schedule: Path = Path("/var/lib/backend/celerybeat-schedule")
    bars_refresh_seconds: Annotated[int, Field(ge=60)] = 3600
    mlflow_url: BaseUrl | None = None
    # Of MLflow's own name: where MLflow asks for a login, this is the backend's.
    mlflow_tracking_token: SecretStr | None = None

    @property
    def mlflow_token(self) -> str:
        """What MLflow is shown; empty where it asks for no login."""
        return self.mlflow_tracking_token.get_secret_value() if self.mlflow_tracking_token else ""


class WorkerSettings(DatabaseSettings, CelerySettings):
    """What the tasks use."""

    gateway_url: BaseUrl
    gateway_ca_file: Path | None = None
    bars_symbols: Annotated[list[Symbol], BeforeValidator(_split_on_commas)] = Field(default_factory=list)
    bars_start: date = date(2000, 1, 1)
    s3_endpoint_url: BaseUrl
    s3_bucket: str
    s3_region: str = "us-east-1"
    s3_access_key: SecretStr
    s3_secret_key: SecretStr

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read and validate; GATEWAY_CA_FILE names a file to be used as such, not a value kept in a file."""
        environment = os.environ if environment is None else environment
        ca_file = environment.get("GATEWAY_CA_FILE")
        settings = super().load({name: value for name, value in environment.items() if name != "GATEWAY_CA_FILE"})
        if ca_file:
            if not os.access(ca_file, os.R_OK):
                raise SettingsError(f"GATEWAY_CA_FILE: cannot read {ca_file}")
            settings.gateway_ca_file = Path(ca_file)
        return settings


class ApiSettings(WorkerSettings):
    """What the HTTP API uses: all of the above, the other services it reports on, and what its page shows."""

    api_token: Annotated[SecretStr, Field(min_length=16)]
    page_user: Annotated[str, Field(min_length=1)] = "trader"
    page_password: Annotated[SecretStr, Field(min_length=8)]
    gateway_login_url: HttpUrl | None = None
    airflow_url: BaseUrl | None = None
    airflow_user: str = "backend"
    airflow_password: SecretStr | None = None
    airflow_broker_database: Annotated[int, Field(ge=0)] | None = None
    flower_url: BaseUrl | None = None
    backup_url: BaseUrl | None = None
    stack_name: str = "IBKR stack"
    stack_public_urls: Json[dict[str, HttpUrl]] = Field(default_factory=dict)
    # Behind the stack's edge, which logs people in: the secret part of the name of the header that says who asks.
    edge_identity: Annotated[SecretStr, Field(min_length=16)] | None = None

    @model_validator(mode="after")
    def _airflow_needs_a_password(self) -> Self:
        if self.airflow_url and not self.airflow_password:
            raise ValueError("AIRFLOW_PASSWORD is not set (nor AIRFLOW_PASSWORD_FILE), but AIRFLOW_URL is")
        return self


class FlowerSettings(CelerySettings):
    """What Flower uses."""

    edge_identity: Annotated[SecretStr, Field(min_length=16)] | None = None

    flower_user: Annotated[str, Field(pattern="^[^:]+$")]
    flower_password: SecretStr
