"""Endpoints in the forms that programs want."""

from __future__ import annotations

from typing import Any

from collection_under_test import plugin

endpoints = plugin("plugin_utils.endpoints")


def endpoint(*nodes: tuple[str, int], scheme: str = "postgresql", sentinel: str = "") -> dict[str, Any]:
    """As templates see it."""
    made = [endpoints.Node(host, port) for host, port in nodes]
    return endpoints.Endpoint(scheme, made, "desk.example.com", 15432, sentinel).as_dict()


ONE = endpoint(("postgres", 5432))
TWO = endpoint(("10.0.0.1", 5432), ("10.0.0.2", 6432))


def test_an_endpoint_has_an_address_for_programs_and_one_for_browsers() -> None:
    """Made here, and nowhere else."""
    assert ONE["url"] == "postgresql://postgres:5432"
    assert ONE["public_url"] == "postgresql://desk.example.com:15432"
    assert TWO["nodes"] == [{"host": "10.0.0.1", "port": 5432}, {"host": "10.0.0.2", "port": 6432}]


def test_postgres_urls() -> None:
    """libpq's form and SQLAlchemy's, of one server and of several; a password with special characters is quoted."""
    assert endpoints.postgres_url(ONE, "mlflow", "", "pass") == "postgresql://mlflow:pass@postgres:5432/mlflow"
    assert (
        endpoints.postgres_url(ONE, "db", "me", "p@s/", "psycopg2")
        == "postgresql+psycopg2://me:p%40s%2F@postgres:5432/db"
    )
    assert (
        endpoints.postgres_url(TWO, "db", "me", "x")
        == "postgresql://me:x@10.0.0.1:5432,10.0.0.2:6432/db?target_session_attrs=read-write"
    )
    assert endpoints.postgres_url(TWO, "db", "me", "x", "psycopg2") == (
        "postgresql+psycopg2://me:x@/db?host=10.0.0.1:5432&host=10.0.0.2:6432&target_session_attrs=read-write"
    )


def test_libpq_keywords() -> None:
    """One server and several; values with blanks and quotes are quoted."""
    assert (
        endpoints.libpq_dsn(ONE, "backend", "", "pass")
        == "host=postgres port=5432 dbname=backend user=backend password=pass"
    )
    assert endpoints.libpq_dsn(TWO, "db", "me", "it's me").startswith(
        "host=10.0.0.1,10.0.0.2 port=5432,6432 dbname=db user=me"
    )
    assert endpoints.libpq_dsn(TWO, "db", "me", "it's me").endswith(
        r"password='it\'s me' target_session_attrs=read-write"
    )


def test_redis_urls() -> None:
    """A server, and a list of Sentinels."""
    server = endpoint(("redis", 6379), scheme="redis")
    assert endpoints.redis_url(server, "airflow", "x", 2) == "redis://airflow:x@redis:6379/2"
    sentinels = endpoint(("a", 26379), ("b", 26379), scheme="redis", sentinel="stack")
    assert (
        endpoints.redis_url(sentinels, "airflow", "x", 2)
        == "sentinel://airflow:x@a:26379/2;sentinel://airflow:x@b:26379/2"
    )
    assert endpoints.redis_connections(server, {"flower": "y"}, {"BROKER": 0}) == {
        "flower": {"BROKER": "redis://flower:y@redis:6379/0", "REDIS_PASSWORD": "y"}
    }


def test_addresses_of_the_services_there_are() -> None:
    """By the names that programs read; of a service that the inventory does not have, nothing."""
    minio = endpoints.Endpoint("http", [endpoints.Node("minio", 9000)], "desk.example.com", 19000).as_dict()
    found = endpoints.service_addresses({"minio": minio, "redis": ONE}, "/ca.pem")
    assert found == endpoints.s3_settings(minio) == {
        "S3_ENDPOINT_URL": "http://minio:9000",
        "AWS_ENDPOINT_URL_S3": "http://minio:9000",
        "MINIO_ENDPOINT": "minio:9000",
        "S3_PUBLIC_URL": "http://desk.example.com:19000",
        "S3_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    gateway = endpoints.Endpoint("https", [endpoints.Node("gateway", 5000)], "desk.example.com", 5055).as_dict()
    found = endpoints.service_addresses({"ibkr_gateway": gateway}, "/ca.pem")
    assert found["IBIND_REST_URL"] == "https://gateway:5000/v1/api/"
    assert found["GATEWAY_CA_FILE"] == found["IBIND_CACERT"] == "/ca.pem"
    assert not [name for name in found if name.startswith(("S3", "MLFLOW", "AIRFLOW"))]
