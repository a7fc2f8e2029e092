"""Recent training runs, and "train now", through Airflow's REST API (v2)."""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

DAG = "daily_strategy_training"
# Airflow's tokens hold for a day by default.
TOKEN_SECONDS = 3600


class AirflowError(Exception):
    """Airflow gave no usable answer; the text says why."""


@dataclass(frozen=True)
class TrainingRun:
    """A run of the training DAG; ``state`` as Airflow names it, moments are UTC."""

    run_id: str
    state: str
    symbol: str | None
    triggered_by: str | None
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def seconds(self) -> float | None:
        """How long it took."""
        return (self.ended_at - self.started_at).total_seconds() if self.started_at and self.ended_at else None


class Airflow:
    """A connection to Airflow with a user's name and password."""

    def __init__(self, url: str, user: str, password: str, timeout: float) -> None:
        """Connect lazily; ``timeout`` is in seconds."""
        self._client = httpx.Client(base_url=url, timeout=timeout, trust_env=False)
        self._credentials = {"username": user, "password": password}
        self._token, self._token_until = "", 0.0

    def _request(self, method: str, path: str, **options: Any) -> Any:
        try:
            for attempt in (1, 2):
                if time.monotonic() > self._token_until:
                    answer = self._client.post("/auth/token", json=self._credentials)
                    if answer.status_code == 401:
                        raise AirflowError("Airflow rejects the backend's user name and password")
                    answer.raise_for_status()
                    self._token = answer.json()["access_token"]
                    self._token_until = time.monotonic() + TOKEN_SECONDS
                headers = {"Authorization": f"Bearer {self._token}"}
                answer = self._client.request(method, f"/api/v2/dags/{DAG}/{path}", headers=headers, **options)
                if answer.status_code != 401 or attempt == 2:
                    break
                # Airflow was set up anew, and no longer knows the token.
                self._token_until = 0.0
            answer.raise_for_status()
            return answer.json()
        except httpx.TimeoutException:
            raise AirflowError("Airflow does not answer in time") from None
        except httpx.HTTPStatusError as error:
            if error.response.status_code == 404:
                raise AirflowError(f"Airflow does not know the DAG {DAG} yet") from None
            raise AirflowError(f"Airflow answered HTTP {error.response.status_code}") from None
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise AirflowError(f"Unexpected answer from Airflow: {error}") from None

    def runs(self, count: int) -> list[TrainingRun]:
        """Return the newest runs, newest first."""
        found = self._request("GET", "dagRuns", params={"order_by": "-run_after", "limit": count})
        return [_run(each) for each in found["dag_runs"]]

    def train(self, symbol: str) -> TrainingRun:
        """Start a training of a symbol."""
        return _run(self._request("POST", "dagRuns", json={"logical_date": None, "conf": {"symbol": symbol}}))


def _run(found: dict[str, Any]) -> TrainingRun:
    def moment(name: str) -> datetime | None:
        return datetime.fromisoformat(found[name]) if found.get(name) else None

    return TrainingRun(
        found["dag_run_id"],
        found["state"],
        (found.get("conf") or {}).get("symbol"),
        found.get("triggered_by"),
        moment("queued_at"),
        moment("start_date"),
        moment("end_date"),
    )
