"""Buckets, and who may do what in them."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import requests
from boto3.s3.transfer import TransferConfig
from stack_under_test import Stack
from test_data_services import (  # noqa: F401
    s3,
    test_a_client_stays_in_its_bucket,
    test_a_client_uses_its_bucket,
    test_a_wrong_key_is_refused,
    test_minio_has_exactly_the_declared_buckets_and_no_anonymous_access,
    test_minio_has_exactly_the_declared_users,
    test_root_is_nobodys_client,
)
from test_forged_requests import *  # noqa: F403

PART = 5 * 2**20


def test_a_file_of_several_parts(stack: Stack, tmp_path: Path) -> None:
    """Up and down again, in parts as a model is, byte for byte."""
    sent, back = tmp_path / "sent", tmp_path / "back"
    sent.write_bytes(random.Random(1).randbytes(3 * PART + 1))
    client, parts = s3(stack, "mlflow"), TransferConfig(multipart_threshold=PART, multipart_chunksize=PART)
    client.upload_file(str(sent), "mlflow", "probe/parts", Config=parts)
    assert client.head_object(Bucket="mlflow", Key="probe/parts")["ETag"].endswith('-4"')
    client.download_file("mlflow", "probe/parts", str(back), Config=parts)
    assert hashlib.sha256(back.read_bytes()).digest() == hashlib.sha256(sent.read_bytes()).digest()
    client.delete_object(Bucket="mlflow", Key="probe/parts")


def test_nobody_without_a_key(stack: Stack) -> None:
    """A plain request sees nothing."""
    for path in ("/mlflow", "/mlflow/probe", "/"):
        answer = requests.get(stack.url("minio", path), timeout=30)
        assert answer.status_code == 403 and "AccessDenied" in answer.text


def test_the_console_answers(stack: Stack) -> None:
    """Its page, and no session without a password."""
    page = requests.get(stack.url("minio_console", "/"), timeout=30)
    assert page.status_code == 200 and "MinIO" in page.text
    wrong = {"accessKey": stack.secret("minio_root_user"), "secretKey": "wrong-wrong-wrong"}
    assert requests.post(stack.url("minio_console", "/api/v1/login"), json=wrong, timeout=30).status_code == 401
    right = wrong | {"secretKey": stack.secret("minio_root_password")}
    assert requests.post(stack.url("minio_console", "/api/v1/login"), json=right, timeout=30).status_code == 204
