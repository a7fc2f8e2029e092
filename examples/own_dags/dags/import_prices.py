"""Writes prices to the DAGs' own database, through a connection and a pool of the inventory."""

from __future__ import annotations

from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import dag, task
from desk.prices import PRICES, read_prices

TABLE = "CREATE TABLE IF NOT EXISTS prices (symbol text, day date, close float, PRIMARY KEY (symbol, day))"


@dag(schedule=None, tags=["desk"])
def import_prices() -> None:
    """Start it by hand, or write schedule="0 22 * * 1-5"."""

    @task(pool="desk_database", outlets=[PRICES])
    def store() -> int:
        rows = read_prices()
        database = PostgresHook("desk_database")
        database.run(TABLE)
        columns = ["symbol", "day", "close"]
        database.insert_rows("prices", rows, columns, replace=True, replace_index=["symbol", "day"])
        return len(rows)

    store()


import_prices()
