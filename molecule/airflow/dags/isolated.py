"""Tasks with a compiled package of their own: in an environment that is made for the task, and in one that stays."""

from __future__ import annotations

from airflow.sdk import dag, task

#: As docs/dags.md has it, but for the package.
DESK = "/opt/environments/desk"


@dag(schedule=None, catchup=False)
def isolated() -> None:
    """Tells the test what the tasks' environments are."""

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

    @task.bash
    def make() -> str:
        install = f"uv venv {DESK} && uv pip install --python {DESK}/bin/python xxhash==3.6.0"
        return f"test -x {DESK}/bin/python || ({install})"

    @task.external_python(python=f"{DESK}/bin/python")
    def use() -> dict:
        import importlib.util
        import sys

        import xxhash

        return {
            "prefix": sys.prefix,
            "hash": xxhash.xxh64_hexdigest(b"desk"),
            "airflow": importlib.util.find_spec("airflow") is not None,
        }

    compute() >> make() >> use()


isolated()
