"""A task that reads a connection and a variable that the inventory declares, in a pool that it declares."""

from __future__ import annotations

import hashlib

from airflow.sdk import BaseHook, Variable, dag, task


@dag(schedule=None, catchup=False)
def declared() -> None:
    """Tells the test what it read, without the password."""

    @task(pool="ibkr")
    def read() -> dict:
        connection = BaseHook.get_connection("desk")
        password = hashlib.sha256(connection.password.encode()).hexdigest()
        return {
            "host": connection.host,
            "port": connection.port,
            "password": password,
            "extra": connection.extra_dejson,
            "uri_login": BaseHook.get_connection("feed").login,
            "symbols": Variable.get("desk_symbols", deserialize_json=True),
            "made_by_hand": Variable.get("made_by_hand"),
        }

    read()


declared()
