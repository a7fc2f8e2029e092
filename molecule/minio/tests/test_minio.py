"""Buckets, and who may do what in them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from boto3.s3.transfer import TransferConfig
from stack_under_test import Stack, drift
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


def as_root(stack: Stack, script: str) -> None:
    """Run a script with `mc` in MinIO's container, as its root user named `root`."""
    login = """set -eu
        MC_CONFIG_DIR=$(mktemp -d)
        MC_HOST_root="http://$(cat /run/secrets/root_user):$(cat /run/secrets/root_password)@127.0.0.1:9000"
        export MC_CONFIG_DIR MC_HOST_root
        trap 'rm -rf "$MC_CONFIG_DIR"' EXIT
        cd "$MC_CONFIG_DIR"
    """
    done = stack.execute("minio", "sh", stdin=login + script)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def by_hand(stack: Stack) -> Iterator[None]:
    """Buckets, policies and users as somebody changed them by hand."""
    client = stack.secret("minio_dags_access_key")
    as_root(
        stack,
        f"""mc mb root/by-hand
        echo '{{"Version": "2012-10-17", "Statement": [
            {{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}}]}}' > policy
        mc admin policy create root by-hand policy
        mc admin policy info root trading-charts --policy-file kept > /dev/null
        cp kept /tmp/kept
        mc admin policy create root trading-charts policy
        printf 'somebody\nsomebodys-secret\n' | mc admin user add root
        mc admin policy attach root readonly --user {client}
        mc anonymous set download root/mlflow
        """,
    )
    yield
    as_root(
        stack,
        f"""mc rb root/by-hand
        mc admin policy rm root by-hand
        mc admin policy create root trading-charts /tmp/kept
        rm /tmp/kept
        mc admin user rm root somebody
        mc admin policy detach root readonly --user {client}
        mc anonymous set none root/mlflow
        """,
    )


def test_drift(stack: Stack, by_hand: None) -> None:
    """Whatever was changed by hand is shown, and stays as it is."""
    found = drift(stack, "minio")
    policies = {each for each in found if each[:2] == ("user", "client of dags")}
    [(_, _, text)] = policies
    assert "readonly" in text and text.endswith(", declared dags")
    assert found - policies == {
        ("bucket", "by-hand", "not declared"),
        ("bucket", "mlflow", "answers without a key"),
        ("policy", "by-hand", "not declared"),
        ("policy", "trading-charts", "differs"),
        ("user", "somebody", "not declared"),
    }


def test_no_drift(stack: Stack) -> None:
    """Of a stack that is as declared."""
    assert drift(stack, "minio") == set()
