"""What MLflow's registry says of the strategy's models, through its REST API: the client library is 100 MB more."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from ibkr_backend.symbols import plain_name

MODEL_PREFIX = "daily_strategy_"
CHAMPION = "champion"


def model_name(symbol: str) -> str:
    """Name of the registered model of a symbol, as the training DAG gives it."""
    return f"{MODEL_PREFIX}{plain_name(symbol)}"


def bearer(token: str) -> dict[str, str]:
    """Make the header of a login; none without a token."""
    return {"Authorization": f"Bearer {token}"} if token else {}


class MLflowError(Exception):
    """MLflow gave no usable answer; the text says why."""


@dataclass(frozen=True)
class ModelVersion:
    """A registered version; ``tags`` are those that the training wrote, ``metrics`` those of its run."""

    name: str
    version: str
    run_id: str
    created_at: datetime
    tags: dict[str, str]
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def symbol(self) -> str:
        """Ticker that it was trained for."""
        return self.tags.get("symbol") or self.name.removeprefix(MODEL_PREFIX)

    @property
    def simulated(self) -> bool:
        """Whether its prices were simulated."""
        return self.tags.get("simulated") == "true"

    def misnamed(self, symbols: list[str]) -> str | None:
        """Say why it is no model of one of these symbols, if it is none."""
        if self.symbol not in symbols:
            known = ", ".join(symbols) or "none"
            what = f"is for {self.symbol}, which is not a symbol of this stack ({known})"
            names = [model_name(symbol) for symbol in symbols]
            # The tag alone would not help: the next complaint would be of the name.
            mend = (
                "correct the tag `symbol` of the version"
                if self.name in names
                else f"register the model as {' or '.join(names[:3])}"
                if names
                else "name its symbol in the inventory"
            )
            return f"version {self.version} of {self.name} {what}: {mend}, or add {self.symbol} to BARS_SYMBOLS"
        if self.name != model_name(self.symbol):
            return (
                f"version {self.version} of {self.name} has the tag `symbol` {self.symbol}, whose model is "
                f"{model_name(self.symbol)}: correct the tag, or register the model under that name"
            )
        return None


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model with the version that bears the alias ``champion``, if any."""

    name: str
    champion: str | None


class MLflow:
    """A connection to MLflow."""

    def __init__(self, url: str, timeout: float, token: str = "") -> None:
        """Connect lazily; ``timeout`` is in seconds, ``token`` the backend's login, if MLflow asks for one."""
        self._client = httpx.Client(
            base_url=f"{url}/api/2.0/mlflow/", timeout=timeout, trust_env=False, headers=bearer(token)
        )

    def _get(self, path: str, **parameters: str | int) -> dict[str, Any]:
        try:
            answer = self._client.get(path, params=parameters)
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
        except httpx.TimeoutException:
            raise MLflowError("MLflow does not answer in time") from None
        except httpx.HTTPStatusError as error:
            raise MLflowError(f"MLflow answered HTTP {error.response.status_code}") from None
        except (httpx.HTTPError, ValueError) as error:
            raise MLflowError(f"MLflow does not answer: {error}") from None
        return found

    def models(self) -> list[RegisteredModel]:
        """Return the registered models of the strategy."""
        answer = self._get("registered-models/search", filter=f"name LIKE '{MODEL_PREFIX}%'", max_results=100)
        found = []
        for model in answer.get("registered_models", []):
            aliases = {each["alias"]: str(each["version"]) for each in model.get("aliases", [])}
            found.append(RegisteredModel(model["name"], aliases.get(CHAMPION)))
        return found

    def version(self, name: str, version: str) -> ModelVersion:
        """Return a version, without the metrics of its run."""
        return _version(self._get("model-versions/get", name=name, version=version)["model_version"])

    def versions(self, name: str, count: int) -> list[ModelVersion]:
        """Return the newest versions of a model, newest first."""
        answer = self._get(
            "model-versions/search", filter=f"name='{name}'", max_results=count, order_by="version_number DESC"
        )
        return [_version(each) for each in answer.get("model_versions", [])]

    def metrics(self, run_id: str) -> dict[str, float]:
        """Return the metrics of a run."""
        run = self._get("runs/get", run_id=run_id)["run"]
        return {each["key"]: float(each["value"]) for each in run["data"].get("metrics", [])}


def _version(found: dict[str, Any]) -> ModelVersion:
    return ModelVersion(
        found["name"],
        str(found["version"]),
        found.get("run_id", ""),
        datetime.fromtimestamp(int(found["creation_timestamp"]) / 1000, UTC),
        {each["key"]: each["value"] for each in found.get("tags", [])},
    )
