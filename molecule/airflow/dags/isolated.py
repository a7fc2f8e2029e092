"""A task with a package of its own, part of which is a compiled library."""

from __future__ import annotations

from airflow.sdk import dag, task


@dag(schedule=None, catchup=False)
def isolated() -> None:
    """Tells the test what the task's environment is."""

    @task.virtualenv(requirements=["xxhash==3.6.0"], system_site_packages=False)
    def compute() -> dict:
        import importlib.util
        import sys

        import xxhash

        return {
            "version": xxhash.VERSION,
            "hash": xxhash.xxh64_hexdigest(b"desk"),
            "own": sys.prefix != sys.base_prefix,
            "airflow": importlib.util.find_spec("airflow") is not None,
        }

    compute()


isolated()
