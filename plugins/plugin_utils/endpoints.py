# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where services are reached, and the forms in which programs want that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlencode

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.contracts import bucket_secrets, database_secret

#: MinIO has none, and clients want one.
S3_REGION = "us-east-1"


@dataclass(frozen=True)
class Node:
    """One place at which a service is reached."""

    host: str
    port: int


@dataclass(frozen=True)
class Endpoint:
    """A service as one host reaches it, and as a browser does.

    Attributes:
        scheme: Scheme of its URLs.
        nodes: Where it is reached, the first one first.
        public_host: Name or address under which a browser reaches its host.
        public_port: Port there.
        sentinel: Name of the master that Redis Sentinels at these nodes know, if the service has any.
        public_scheme: Scheme for a browser; that of programs by default.
    """

    scheme: str
    nodes: Sequence[Node]
    public_host: str
    public_port: int
    sentinel: str = field(default="")
    public_scheme: str = field(default="")

    @property
    def public_url(self) -> str:
        """What a browser opens, without a path."""
        # Browsers leave the port that HTTPS implies out of the origin of a page.
        short = (self.public_scheme, self.public_port) == ("https", 443)
        port = "" if short else f":{self.public_port}"
        return f"{self.public_scheme or self.scheme}://{self.public_host}{port}"

    def as_dict(self) -> dict[str, Any]:
        """Write it for templates.

        Returns:
            The attributes, and of the first node ``host``, ``port`` and ``url``; ``public_url`` is what a browser
            opens.
        """
        first = self.nodes[0]
        return {
            **asdict(self),
            "nodes": [asdict(node) for node in self.nodes],
            "host": first.host,
            "port": first.port,
            "url": f"{self.scheme}://{first.host}:{first.port}",
            "public_url": self.public_url,
        }


@dataclass(frozen=True)
class Edge:
    """The service in front of all pages.

    Attributes:
        service: Its name.
        host: Of the inventory, on which it runs.
        public_host: Name or address under which a browser reaches that host.
        domain: Domain in which each page has a name; without one, each has a port.
        port: Port of HTTPS, where there is a domain.
        left_out: Names of the pages that it does not publish.
    """

    service: str
    host: str
    public_host: str
    domain: str
    port: int
    left_out: Sequence[str] = ()

    def in_front_of(self, endpoint: Endpoint, page: str) -> Endpoint:
        """Say where a browser finds a page.

        Args:
            endpoint: Of the page without the edge.
            page: Name of the page; empty for the edge's own.

        Returns:
            The endpoint, with the edge's scheme, name and port.
        """
        if not self.domain:
            return replace(endpoint, public_scheme="http", public_host=self.public_host)
        host = f"{page}.{self.domain}" if page else self.domain
        return replace(endpoint, public_scheme="https", public_host=host, public_port=self.port)


def _nodes(endpoint: Mapping[str, Any]) -> list[str]:
    return [f"{node['host']}:{node['port']}" for node in endpoint["nodes"]]


def _login(user: str, password: str) -> str:
    return f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""


def postgres_url(
    endpoint: Mapping[str, Any], database: str, user: str = "", password: str = "", driver: str = ""
) -> str:
    """Write the URL of a PostgreSQL database.

    Args:
        endpoint: Of the server; several nodes are asked in turn for one that takes writes.
        database: Name of the database.
        user: Name of the role; the database's by default.
        password: Its password.
        driver: SQLAlchemy's name of a driver, such as ``psycopg2``; without one, the form is libpq's.

    Returns:
        A URL. Source: PostgreSQL, "Connection URIs"; SQLAlchemy, "Specifying multiple fallback hosts".
    """
    nodes = _nodes(endpoint)
    login = _login(user or database, password)
    scheme = f"postgresql+{driver}" if driver else "postgresql"
    if len(nodes) == 1:
        return f"{scheme}://{login}{nodes[0]}/{database}"
    if not driver:
        return f"{scheme}://{login}{','.join(nodes)}/{database}?target_session_attrs=read-write"
    hosts = urlencode([*(("host", node) for node in nodes), ("target_session_attrs", "read-write")], safe=":")
    return f"{scheme}://{login}/{database}?{hosts}"


def libpq_dsn(endpoint: Mapping[str, Any], database: str, user: str = "", password: str = "") -> str:
    """Write the keywords and values of a PostgreSQL database.

    Args:
        endpoint: Of the server.
        database: Name of the database.
        user: Name of the role; the database's by default.
        password: Its password.

    Returns:
        Keywords and values. Source: PostgreSQL, "Keyword/Value Connection Strings".
    """
    nodes = endpoint["nodes"]
    words = {
        "host": ",".join(node["host"] for node in nodes),
        "port": ",".join(str(node["port"]) for node in nodes),
        "dbname": database,
        "user": user or database,
        "password": password,
    }
    if len(nodes) > 1:
        words["target_session_attrs"] = "read-write"

    def quoted(value: str) -> str:
        plain = value and not set(value) & set(" '\\")
        return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"

    return " ".join(f"{key}={quoted(value)}" for key, value in words.items())


def data_secrets(endpoint: Mapping[str, Any], secrets: Mapping[str, str], database: str, bucket: str) -> dict[str, str]:
    """Write the variables with which a program logs in to its own database and bucket.

    Args:
        endpoint: Of PostgreSQL.
        secrets: The stack's secrets by their names.
        database: Name of the database and of its owner.
        bucket: Name of the bucket.

    Returns:
        Name of each variable to its value: URLs and keywords of the database, its password, and the bucket's keys.
    """
    password = secrets[database_secret(database)]
    access_key, secret_key = (secrets[name] for name in bucket_secrets(bucket))
    return {
        "DATABASE_URL": postgres_url(endpoint, database, "", password),
        **{
            f"DATABASE_URL_{driver.upper()}": postgres_url(endpoint, database, "", password, driver)
            for driver in ("psycopg", "psycopg2", "asyncpg")
        },
        "DATABASE_DSN": libpq_dsn(endpoint, database, "", password),
        "PGPASSWORD": password,
        "S3_ACCESS_KEY": access_key,
        "AWS_ACCESS_KEY_ID": access_key,
        "S3_SECRET_KEY": secret_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
    }


def s3_settings(endpoint: Mapping[str, Any]) -> dict[str, str]:
    """Write the variables with which programs find an object store.

    Args:
        endpoint: Of the store; its first node is asked.

    Returns:
        Name of each variable to its value: of the project's own programs, AWS's SDKs and MinIO's clients. Source:
        AWS SDKs and Tools Reference Guide, "Service-specific endpoints".
    """
    return {
        "S3_ENDPOINT_URL": endpoint["url"],
        "AWS_ENDPOINT_URL_S3": endpoint["url"],
        "MINIO_ENDPOINT": f"{endpoint['host']}:{endpoint['port']}",
        "S3_PUBLIC_URL": endpoint["public_url"],
        "S3_REGION": S3_REGION,
        "AWS_DEFAULT_REGION": S3_REGION,
    }


def service_addresses(endpoints: Mapping[str, Mapping[str, Any]], gateway_ca_file: str) -> dict[str, str]:
    """Write the variables with which the operator's own programs find the services: the backend's, and DAGs.

    Args:
        endpoints: Service to its endpoint, of the services that the inventory has.
        gateway_ca_file: Path of the gateway's certificate where the program runs.

    Returns:
        Name of each variable to its value.
    """
    found: dict[str, str] = {}
    if "minio" in endpoints:
        found |= s3_settings(endpoints["minio"])
    if gateway := endpoints.get("ibkr_gateway"):
        found |= {
            "GATEWAY_URL": gateway["url"],
            "GATEWAY_CA_FILE": gateway_ca_file,
            "GATEWAY_PUBLIC_URL": gateway["public_url"],
            # Of the library ibind.
            "IBIND_REST_URL": f"{gateway['url']}/v1/api/",
            "IBIND_CACERT": gateway_ca_file,
        }
    if mlflow := endpoints.get("mlflow"):
        found |= {
            "MLFLOW_URL": mlflow["url"],
            "MLFLOW_TRACKING_URI": mlflow["url"],
            "MLFLOW_PUBLIC_URL": mlflow["public_url"],
        }
    if airflow := endpoints.get("airflow"):
        found |= {
            "AIRFLOW_URL": airflow["url"],
            "AIRFLOW_API_URL": f"{airflow['url']}/api/v2",
            "AIRFLOW_PUBLIC_URL": airflow["public_url"],
        }
    return found


def redis_url(endpoint: Mapping[str, Any], user: str, password: str, database: int) -> str:
    """Write the URL of a Redis database.

    Args:
        endpoint: Of Redis, or of its Sentinels where it names a ``sentinel``.
        user: Name of the user.
        password: Its password.
        database: Number of the database.

    Returns:
        A URL; with Sentinels a list of such, separated by semicolons. Source: Celery, "Using Redis", which takes both.
    """
    scheme = "sentinel" if endpoint.get("sentinel") else endpoint["scheme"]
    urls = [f"{scheme}://{_login(user, password)}{node}/{database}" for node in _nodes(endpoint)]
    return ";".join(urls) if endpoint.get("sentinel") else urls[0]


def redis_connections(
    endpoint: Mapping[str, Any], passwords: Mapping[str, str], databases: Mapping[str, int]
) -> dict[str, dict[str, str]]:
    """Write the settings of programs that log in to Redis as different users.

    Args:
        endpoint: Of Redis.
        passwords: User to its password.
        databases: Name of a setting to the number of the database that its URL names.

    Returns:
        User to its settings: a URL each, and ``REDIS_PASSWORD``.
    """
    return {
        user: {
            **{name: redis_url(endpoint, user, password, number) for name, number in databases.items()},
            "REDIS_PASSWORD": password,
        }
        for user, password in passwords.items()
    }
