"""Code at the top of a file, which runs in the DAG processor, tries to be Airflow's administrator."""

from __future__ import annotations

from airflow.api_fastapi.auth.managers.base_auth_manager import BaseAuthManager
from airflow.sdk import dag

# A token of the first user, as the API server makes it after a login.
FORGED = BaseAuthManager._get_token_signer(expiration_time_in_seconds=600).generate({"sub": "1"})


@dag(schedule=None, description=FORGED)
def forger() -> None:
    """Tells the test the token."""


forger()
