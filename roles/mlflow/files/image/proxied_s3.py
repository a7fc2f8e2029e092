"""MLflow's S3 storage, reached through MLflow alone.

To every client that asks, MLflow's server offers addresses signed for S3, and clients prefer them. They name MinIO as
this server does, on the containers' network: a client anywhere else would wait for a host that it cannot reach. Nothing
of S3 but what the server itself needs is offered here, so that clients send and get every file through the server.

Registered for ``s3`` by ``entry_points.txt``.
"""

from __future__ import annotations

from mlflow.entities import FileInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository


class ProxiedS3(ArtifactRepository):
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

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """List what is below a path."""
        return self._s3.list_artifacts(path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Delete what is below a path."""
        self._s3.delete_artifacts(artifact_path)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self._s3._download_file(remote_file_path, local_path)
