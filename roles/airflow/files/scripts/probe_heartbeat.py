"""Health probe of scheduler, DAG processor and triggerer: how old is this host's heartbeat in Airflow's database?

Usage: ``python -I probe_heartbeat.py SchedulerJob|DagProcessorJob|TriggererJob``. It does not import Airflow, which
costs seconds of CPU. Environment: ``AIRFLOW_DB_URL_FILE``, a file with the SQLAlchemy URL of the database (default
``/run/secrets/airflow_db_url``), and ``PROBE_MAX_AGE_S`` (default 60).

Exit code 0: the heartbeat is fresh. 1: it is missing or old. 22: the database does not answer, so nobody knows.
"""

from __future__ import annotations

import os
import re
import socket
import sys

import psycopg2

CONNECT_TIMEOUT_S = 3
NOT_KNOWN = 22
QUERY = """
    SELECT extract(epoch FROM now() - latest_heartbeat)
    FROM job
    WHERE job_type = %s AND hostname = ANY(%s) AND state = 'running'
    ORDER BY latest_heartbeat DESC
    LIMIT 1
"""


def own_names() -> list[str]:
    """Names under which Airflow may have registered this host: its own, and the one that the resolver gives it."""
    name = socket.gethostname()
    try:
        canonical = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM, flags=socket.AI_CANONNAME)[0][3]
    except OSError:
        canonical = name
    return [name, canonical]


def heartbeat_age(url: str, job_type: str, hostnames: list[str]) -> float | None:
    """Seconds since the last heartbeat of this kind of job on this host; None if it has none."""
    libpq_url = re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url)
    connection = psycopg2.connect(libpq_url, connect_timeout=CONNECT_TIMEOUT_S, options="-c statement_timeout=3000")
    try:
        with connection.cursor() as cursor:
            cursor.execute(QUERY, (job_type, hostnames))
            row = cursor.fetchone()
    finally:
        connection.close()
    return None if row is None else float(row[0])


def main() -> int:
    """Print one line and return the exit code."""
    job_type = sys.argv[1]
    limit = float(os.environ.get("PROBE_MAX_AGE_S", "60"))
    try:
        with open(os.environ.get("AIRFLOW_DB_URL_FILE", "/run/secrets/airflow_db_url")) as file:
            url = file.read().strip()
        age = heartbeat_age(url, job_type, own_names())
    except (OSError, psycopg2.Error) as error:
        print(f"{job_type}: {type(error).__name__}: {str(error).strip()}")
        return NOT_KNOWN
    if age is None:
        print(f"{job_type}: no running job on {socket.gethostname()}")
        return 1
    print(f"{job_type}: last heartbeat {age:.0f} s ago, at most {limit:.0f} s allowed")
    return int(age > limit)


if __name__ == "__main__":
    sys.exit(main())
