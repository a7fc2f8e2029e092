"""The bucket of charts."""

from typing import TYPE_CHECKING, Any

from ibkr_backend.settings import WorkerSettings
from ibkr_backend.symbols import plain_name

if TYPE_CHECKING:
    from botocore.client import BaseClient


def make_client(settings: WorkerSettings, timeout: float, attempts: int = 1) -> "BaseClient":
    """Make an S3 client of the backend's own key; ``timeout`` is in seconds for each attempt."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint_url,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key.get_secret_value(),
        aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
        config=Config(
            connect_timeout=timeout,
            read_timeout=timeout,
            retries={"total_max_attempts": attempts},
            s3={"addressing_style": "path"},
            proxies={},
        ),
    )


def chart_key(symbol: str) -> str:
    """Return the key of a symbol's newest chart."""
    return f"daily/{plain_name(symbol)}.svg"


def put_chart(client: Any, bucket: str, symbol: str, svg: str) -> str:
    """Store a chart; returns its key."""
    key = chart_key(symbol)
    client.put_object(Bucket=bucket, Key=key, Body=svg.encode(), ContentType="image/svg+xml")
    return key
