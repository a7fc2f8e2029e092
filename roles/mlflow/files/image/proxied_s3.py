"""MLflow's S3 storage, reached through MLflow alone.

To every client that asks, MLflow's server offers addresses signed for S3, and clients prefer them. They name MinIO as
this server does, on the containers' network: a client anywhere else would wait for a host that it cannot reach. Nothing
of S3 but what the server itself needs is offered here, so that clients send and get every file through the server.

The server would hold each file on its way in a temporary directory. Two of MLflow's hooks avoid that: the repository
answers them by raising the object that is meant, and ``streamed_artifacts`` connects it with the client.

Registered for ``s3`` by ``entry_points.txt``.
"""

from __future__ import annotations

import posixpath
from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import Any, BinaryIO

from mlflow.entities import FileInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository, StreamUploadMixin
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository


@dataclass(eq=False)
class S3Object(Exception):  # not an error: it carries the object to who can stream it
    """An object that a client reads or writes.

    Attributes:
        client: The boto3 client that may do so.
        bucket: Its bucket.
        key: Its key.
    """

    client: Any
    bucket: str
    key: str


class Download(S3Object):
    """The client asked for the object."""


class Upload(S3Object):
    """The request's body is the object."""


class ProxiedS3(ArtifactRepository, StreamUploadMixin):
    """Keeps artifacts in a bucket."""

    def __init__(self, artifact_uri: str, *args: object, **kwargs: object) -> None:
        """Hold MLflow's own repository of the same address."""
        super().__init__(artifact_uri, *args, **kwargs)
        self._s3 = S3ArtifactRepository(artifact_uri, *args, **kwargs)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Store a file."""
        self._s3.log_artifact(local_file, artifact_path)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Store the files of a directory."""
        self._s3.log_artifacts(local_dir, artifact_path)

    def log_artifact_from_stream(
        self, stream: BinaryIO, artifact_file_name: str, artifact_path: str | None = None
    ) -> None:
        """Store what a WSGI server reads."""
        found = Upload(*self._object(artifact_path or "", posixpath.basename(artifact_file_name)))
        found.client.upload_fileobj(stream, found.bucket, found.key)

    async def log_artifact_from_async_stream(
        self, chunks: AsyncIterable[bytes], artifact_file_name: str, artifact_path: str | None = None
    ) -> None:
        """Name the object that the request's body is."""
        raise Upload(*self._object(artifact_path or "", posixpath.basename(artifact_file_name)))

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """List what is below a path."""
        return self._s3.list_artifacts(path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Delete what is below a path."""
        self._s3.delete_artifacts(artifact_path)

    def get_local_path(self, artifact_path: str) -> str | None:
        """Name the object that a client asks for; only the server's handlers call this."""
        raise Download(*self._object(artifact_path))

    def _object(self, *path: str) -> tuple[Any, str, str]:
        bucket, root = self._s3.parse_s3_compliant_uri(self.artifact_uri)
        return self._s3._get_s3_client(), bucket, posixpath.join(root, *path)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self._s3._download_file(remote_file_path, local_path)
