"""MinIO refuses forged requests, and serves the honest forms of the same requests."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import io
import json
import tarfile
import uuid
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from zlib import crc32

import boto3
import botocore.config
import botocore.exceptions
import pytest
import requests
from stack_under_test import Stack
from test_data_services import s3

UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
WRONG = "0" * 64
BUCKET = "mlflow"
CONTENT = b"forged or not"
PART = 5 * 2**20


def chunked(content: bytes) -> tuple[bytes, dict[str, str]]:
    """A body as clients stream it when only the headers are signed, with its checksum behind it, and its headers."""
    checksum = b64encode(crc32(content).to_bytes(4)).decode()
    body = b"%x\r\n%s\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n" % (len(content), content, checksum.encode())
    headers = {
        "Content-Encoding": "aws-chunked",
        "X-Amz-Content-Sha256": UNSIGNED_TRAILER,
        "X-Amz-Decoded-Content-Length": str(len(content)),
        "X-Amz-Trailer": "x-amz-checksum-crc32",
    }
    return body, headers


def archive(name: str) -> bytes:
    """A tar archive with one file."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(CONTENT)
        tar.addfile(entry, io.BytesIO(CONTENT))
    return held.getvalue()


@dataclass
class Sender:
    """Makes requests by hand as the user of a bucket, who has the right secret; `made` are the objects to remove."""

    endpoint: str
    access_key: str
    secret: str
    client: Any
    made: list[str] = field(default_factory=list)

    def key(self) -> str:
        """A name that is not taken."""
        self.made.append(f"probe/{uuid.uuid4()}")
        return self.made[-1]

    def stored(self, key: str) -> bool:
        """Whether there is such an object."""
        try:
            self.client.head_object(Bucket=BUCKET, Key=key)
        except botocore.exceptions.ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 404
            return False
        return True

    def scope(self, when: datetime.datetime) -> str:
        """What a signature is good for."""
        return f"{when:%Y%m%d}/us-east-1/s3/aws4_request"

    def query_credentials(self) -> str:
        """A query that names the user and proves nothing."""
        now = datetime.datetime.now(datetime.UTC)
        return urlencode(
            {
                "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
                "X-Amz-Credential": f"{self.access_key}/{self.scope(now)}",
                "X-Amz-Date": f"{now:%Y%m%dT%H%M%SZ}",
                "X-Amz-Expires": "600",
                "X-Amz-SignedHeaders": "host",
                "X-Amz-Signature": WRONG,
            }
        )

    def send(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes = b"",
        *,
        unsigned: dict[str, str] | None = None,
        age: int = 0,
        signature: str | None = None,
        user: str | None = None,
    ) -> requests.Response:
        """Send a request whose `headers` are signed.

        Args:
            method: HTTP method.
            target: Path and query.
            headers: What is signed, beside host and date.
            body: What is sent.
            unsigned: Further headers, which the signature does not cover.
            age: Seconds since the signature was made.
            signature: Forged one, instead of the right one.
            user: Access key, instead of the own one.
        """
        when = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age)
        path, _, query = target.partition("?")
        payload = headers.get("X-Amz-Content-Sha256") or hashlib.sha256(body).hexdigest()
        signed = {name.lower(): value for name, value in headers.items()} | {
            "host": urlsplit(self.endpoint).netloc,
            "x-amz-content-sha256": payload,
            "x-amz-date": f"{when:%Y%m%dT%H%M%SZ}",
        }
        names = ";".join(sorted(signed))
        parts = sorted(part if "=" in part else f"{part}=" for part in query.split("&") if part)
        lines = [method, quote(path), "&".join(parts), *(f"{name}:{signed[name]}" for name in sorted(signed))]
        digest = hashlib.sha256("\n".join([*lines, "", names, payload]).encode()).hexdigest()
        key = f"AWS4{self.secret}".encode()
        for word in self.scope(when).split("/"):
            key = hmac.digest(key, word.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{signed['x-amz-date']}\n{self.scope(when)}\n{digest}"
        right = hmac.digest(key, text.encode(), "sha256").hex()
        credential = f"{user or self.access_key}/{self.scope(when)}"
        authorization = (
            f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature or right}"
        )
        sent = signed | (unsigned or {}) | {"Authorization": authorization}
        del sent["host"]
        return requests.request(method, self.endpoint + target, headers=sent, data=body, timeout=30)


@pytest.fixture
def sender(stack: Stack) -> Iterator[Sender]:
    """The user of MLflow's bucket; what it leaves there is removed."""
    made = Sender(
        stack.url("minio"),
        stack.secret("minio_mlflow_access_key"),
        stack.secret("minio_mlflow_secret"),
        s3(stack, BUCKET),
    )
    yield made
    for key in made.made:
        made.client.delete_object(Bucket=BUCKET, Key=key)


def refused(answer: requests.Response, *codes: str) -> bool:
    """Whether the answer is one of these errors of S3."""
    assert answer.status_code >= 400, f"{answer.status_code} {answer.text}"
    return any(f"<Code>{code}</Code>" in answer.text for code in codes)


# ---- uploads without the secret


def test_an_upload_with_an_unsigned_trailer(sender: Sender) -> None:
    """Stored with the right signature, and with no other."""
    body, headers = chunked(CONTENT)
    honest, forged = sender.key(), sender.key()
    assert sender.send("PUT", f"/{BUCKET}/{honest}", headers, body).status_code == 200
    assert sender.client.get_object(Bucket=BUCKET, Key=honest)["Body"].read() == CONTENT
    assert refused(sender.send("PUT", f"/{BUCKET}/{forged}", headers, body, signature=WRONG), "SignatureDoesNotMatch")
    assert not sender.stored(forged)


def test_an_upload_with_credentials_in_the_query(sender: Sender) -> None:
    """An unsigned trailer with a user's name in the query (CVE-2026-41145)."""
    body, headers = chunked(CONTENT)
    key = sender.key()
    url = f"{sender.endpoint}/{BUCKET}/{key}?{sender.query_credentials()}"
    answer = requests.put(url, headers=headers, data=body, timeout=30)
    assert not sender.stored(key)
    assert refused(answer, "InvalidArgument", "SignatureDoesNotMatch", "AccessDenied", "MissingDateHeader")
    now = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}"
    assert requests.put(url, headers=headers | {"X-Amz-Date": now}, data=body, timeout=30).status_code >= 400
    assert not sender.stored(key)


def test_a_part_with_credentials_in_the_query(sender: Sender) -> None:
    """The same for a part of an upload that somebody began."""
    body, headers = chunked(CONTENT)
    key = sender.key()
    upload = sender.client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    try:
        url = f"{sender.endpoint}/{BUCKET}/{key}?partNumber=1&uploadId={upload}&{sender.query_credentials()}"
        now = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}"
        answer = requests.put(url, headers=headers | {"X-Amz-Date": now}, data=body, timeout=30)
        assert answer.status_code >= 400
        listed = sender.client.list_parts(Bucket=BUCKET, Key=key, UploadId=upload)
        assert listed.get("Parts", []) == []
    finally:
        sender.client.abort_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload)


@pytest.mark.parametrize("place", ["header", "query"])
def test_an_archive_to_extract(sender: Sender, place: str) -> None:
    """With a forged signature (CVE-2026-40344): nothing of it is stored."""
    key = sender.key()
    headers = {"X-Amz-Content-Sha256": UNSIGNED_TRAILER, "X-Amz-Meta-Snowball-Auto-Extract": "true"}
    target = f"/{BUCKET}/probe/any.tar"
    if place == "header":
        answer = sender.send("PUT", target, headers, archive(key), signature=WRONG)
    else:
        url = f"{sender.endpoint}{target}?{sender.query_credentials()}"
        answer = requests.put(url, headers=headers, data=archive(key), timeout=30)
    assert not sender.stored(key)
    assert answer.status_code >= 400


def test_archives_are_not_extracted_at_all(sender: Sender) -> None:
    """Nobody here uses it: with the right signature it is not served either."""
    key = sender.key()
    answer = sender.send("PUT", f"/{BUCKET}/probe/any.tar", {"X-Amz-Meta-Snowball-Auto-Extract": "true"}, archive(key))
    assert not sender.stored(key)
    assert refused(answer, "NotImplemented")


def test_a_recorded_upload(sender: Sender) -> None:
    """A signature of two hours ago, whose body anybody could have changed since."""
    body, headers = chunked(CONTENT)
    key = sender.key()
    answer = sender.send("PUT", f"/{BUCKET}/{key}", headers, body, age=7200)
    assert not sender.stored(key)
    assert refused(answer, "RequestTimeTooSkewed")


def test_an_upload_in_the_name_of_root(sender: Sender, stack: Stack) -> None:
    """Root's name is as worthless without its secret."""
    body, headers = chunked(CONTENT)
    key = sender.key()
    answer = sender.send("PUT", f"/{BUCKET}/{key}", headers, body, user=stack.secret("minio_root_user"))
    assert refused(answer, "SignatureDoesNotMatch")
    assert not sender.stored(key)


@pytest.mark.parametrize("name", ["mlflow", "trading-charts", "airflow-logs", "minio-root", "minioadmin"])
def test_names_that_everybody_knows(sender: Sender, name: str) -> None:
    """Nobody is called as anyone could guess."""
    answer = sender.send("GET", f"/{BUCKET}", {}, user=name)
    assert refused(answer, "InvalidAccessKeyId")


# ---- uploads that become something else


def test_a_presigned_upload_stays_an_upload(sender: Sender) -> None:
    """Who was given the right to write one object cannot read another with it (CVE-2026-97731)."""
    source, target = sender.key(), sender.key()
    sender.client.put_object(Bucket=BUCKET, Key=source, Body=b"not for everyone")
    url = sender.client.generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": target})
    answer = requests.put(url, headers={"X-Amz-Copy-Source": f"/{BUCKET}/{source}"}, timeout=30)
    assert not sender.stored(target)
    assert refused(answer, "AccessDenied")
    # The honest form, also twice, and the address that reads it again.
    for content in (b"first", CONTENT):
        assert requests.put(url, data=content, timeout=30).status_code == 200
    read = sender.client.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": target})
    assert requests.get(read, timeout=30).content == CONTENT


def test_a_signed_upload_stays_an_upload(sender: Sender) -> None:
    """The same with a header beside a signed request, which a proxy on the way could add."""
    source, target = sender.key(), sender.key()
    sender.client.put_object(Bucket=BUCKET, Key=source, Body=b"not for everyone")
    answer = sender.send("PUT", f"/{BUCKET}/{target}", {}, unsigned={"X-Amz-Copy-Source": f"/{BUCKET}/{source}"})
    assert not sender.stored(target)
    assert refused(answer, "AccessDenied")


REPLICATION = {
    "X-Minio-Replication-Server-Side-Encryption-Sealed-Key": "x",
    "X-Minio-Replication-Server-Side-Encryption-Seal-Algorithm": "DAREv2-HMAC-SHA256",
    "X-Minio-Replication-Server-Side-Encryption-Iv": "x",
}


@pytest.mark.parametrize("place", ["header", "query"])
def test_headers_of_replication(sender: Sender, place: str) -> None:
    """A client cannot write internal metadata (CVE-2026-34204)."""
    key = sender.key()
    if place == "header":
        answer = sender.send("PUT", f"/{BUCKET}/{key}", REPLICATION, CONTENT)
    else:
        answer = sender.send("PUT", f"/{BUCKET}/{key}?{urlencode(REPLICATION)}", {}, CONTENT)
    assert refused(answer, "NotImplemented")
    assert not sender.stored(key)


def test_the_time_of_an_object_is_the_servers(sender: Sender) -> None:
    """Nor may it say when the object was made."""
    key = sender.key()
    answer = sender.send(
        "PUT", f"/{BUCKET}/{key}", {"X-Minio-Source-Mtime": "2001-01-01T00:00:00Z",
                                    "X-Minio-Source-Replication-Request": "true"}, CONTENT,
    )  # fmt: skip
    assert refused(answer, "NotImplemented")
    assert not sender.stored(key)


# ---- upload forms, and what unsigned headers make of a request


def presigner(sender: Sender, version: str) -> Any:
    """A client that signs with version 2 ("s3") or 4 ("s3v4"); boto3 presigns with version 2 unless told otherwise."""
    return boto3.client(
        "s3", endpoint_url=sender.endpoint, region_name="us-east-1", aws_access_key_id=sender.access_key,
        aws_secret_access_key=sender.secret, config=botocore.config.Config(
            signature_version=version, s3={"addressing_style": "path"}, proxies={}
        ),
    )  # fmt: skip


def post(form: dict[str, Any], query: str = "", content: bytes = CONTENT, **more: str) -> requests.Response:
    """Send an upload form with further fields."""
    fields = form["fields"] | {name.replace("_", "-"): value for name, value in more.items()}
    return requests.post(form["url"] + query, data=fields, files={"file": ("name.txt", content)}, timeout=30)


both_versions = pytest.mark.parametrize("version", ["s3v4", "s3"])


@both_versions
def test_an_upload_form(sender: Sender, version: str) -> None:
    """The honest form is served: with metadata, with the file's own name, and not with another key or signature."""
    client, key = presigner(sender, version), sender.key()
    described = {"x-amz-meta-kind": "chart"}
    form = client.generate_presigned_post(BUCKET, key, Fields=described, Conditions=[described])
    assert post(form).status_code == 204
    found = sender.client.get_object(Bucket=BUCKET, Key=key)
    assert found["Body"].read() == CONTENT and found["Metadata"] == {"kind": "chart"}
    named = sender.key()
    sender.made.append(f"{named}/name.txt")
    assert post(client.generate_presigned_post(BUCKET, f"{named}/${{filename}}")).status_code == 204
    assert sender.stored(f"{named}/name.txt")
    other = sender.key()
    assert refused(post(form, key=other), "AccessDenied")
    signature = "x_amz_signature" if version == "s3v4" else "signature"
    assert refused(post(form, **{signature: b64encode(bytes(20)).decode()}), "SignatureDoesNotMatch")
    assert not sender.stored(other)


@both_versions
def test_a_form_for_one_key_writes_no_other(sender: Sender, version: str) -> None:
    """The list of further keys, of which the form's policy says nothing."""
    key, other = sender.key(), sender.key()
    form = presigner(sender, version).generate_presigned_post(BUCKET, key)
    listed = json.dumps({"key": other, "metadata": {"X-Minio-Internal-actual-size": "1"}})
    answer = post(form, x_minio_fanout_list=listed)
    assert not sender.stored(other)
    assert refused(answer, "NotImplemented")
    assert not sender.stored(key)


@both_versions
@pytest.mark.parametrize("field", [*REPLICATION, "X-Minio-Source-Mtime", "X-Amz-Replication-Status"])
def test_a_form_has_no_field_of_replication(sender: Sender, version: str, field: str) -> None:
    """Not even if its policy allows it (CVE-2026-34204)."""
    key = sender.key()
    form = presigner(sender, version).generate_presigned_post(
        BUCKET, key, Conditions=[["starts-with", f"${field}", ""]]
    )
    answer = post(form, **{field: "x"})
    assert not sender.stored(key)
    assert refused(answer, "NotImplemented")


def test_a_form_overwrites_no_version(sender: Sender) -> None:
    """Nothing signs the query of a form."""
    key = sender.key()
    form = presigner(sender, "s3v4").generate_presigned_post(BUCKET, key)
    assert refused(post(form, query=f"?versionId={uuid.uuid4()}"), "NotImplemented")
    assert not sender.stored(key)


def test_a_form_of_many_fields(sender: Sender) -> None:
    """They are held in memory before the signature can be looked at: nobody may fill it."""
    fields = {"key": "probe/any", "policy": "x"} | {f"field{number}": "x" * 100_000 for number in range(20)}
    answer = post({"url": f"{sender.endpoint}/{BUCKET}", "fields": fields})
    assert refused(answer, "MalformedPOSTRequest") and "too large" in answer.text


@pytest.mark.parametrize("signed", ["s3v4", "s3", "header"])
def test_a_deletion_stays_one_objects(sender: Sender, signed: str) -> None:
    """Who was given the right to delete one object cannot delete all below its name."""
    key = sender.key()
    below = [f"{key}/one", f"{key}/two/three"]
    sender.made += below
    for name in below:
        sender.client.put_object(Bucket=BUCKET, Key=name, Body=CONTENT)
    force = {"X-Minio-Force-Delete": "true"}
    if signed == "header":
        answer = sender.send("DELETE", f"/{BUCKET}/{key}", {}, unsigned=force)
    else:
        client = presigner(sender, signed)
        url = client.generate_presigned_url("delete_object", Params={"Bucket": BUCKET, "Key": key})
        answer = requests.delete(url, headers=force, timeout=30)
    assert [name for name in below if sender.stored(name)] == below
    assert refused(answer, "AccessDenied", "SignatureDoesNotMatch")
    # The honest form.
    if signed != "header":
        url = client.generate_presigned_url("delete_object", Params={"Bucket": BUCKET, "Key": below[0]})
        assert requests.delete(url, timeout=30).status_code == 204 and not sender.stored(below[0])


def test_a_signed_header_still_deletes_all_below(sender: Sender) -> None:
    """As `mc rb --force` does."""
    key = sender.key()
    sender.client.put_object(Bucket=BUCKET, Key=f"{key}/one", Body=CONTENT)
    assert sender.send("DELETE", f"/{BUCKET}/{key}", {"X-Minio-Force-Delete": "true"}).status_code == 204
    assert not sender.stored(f"{key}/one")


# ---- names that lead into another bucket

OTHER = "trading-charts"


@dataclass
class Victim:
    """An object in a bucket that the sender has no right to."""

    client: Any
    key: str

    def untouched(self) -> bool:
        """Whether it is as it was."""
        return self.client.get_object(Bucket=OTHER, Key=self.key)["Body"].read() == bytes(PART)


@pytest.fixture
def victim(stack: Stack) -> Iterator[Victim]:
    """Large enough to be a file of its own in the server's directory."""
    made = Victim(s3(stack, OTHER), f"probe/{uuid.uuid4()}")
    made.client.put_object(Bucket=OTHER, Key=made.key, Body=bytes(PART))
    yield made
    made.client.delete_object(Bucket=OTHER, Key=made.key)


def upload_id(like: str, name: str) -> str:
    """The ID of an upload whose directory has another name."""
    server = urlsafe_b64decode(like + "=" * (-len(like) % 4)).decode().partition(".")[0]
    return urlsafe_b64encode(f"{server}.{name}".encode()).decode().rstrip("=")


def test_an_upload_id_names_an_upload(sender: Sender, victim: Victim) -> None:
    """It holds a path: with `..` in it, a part overwrote any object of the server."""
    key = sender.key()
    where = {"Bucket": BUCKET, "Key": key}
    mine = sender.client.create_multipart_upload(**where)["UploadId"]
    theirs = victim.client.create_multipart_upload(Bucket=OTHER, Key=f"{victim.key}/more")["UploadId"]
    try:
        for name in (f"../../../{OTHER}/{victim.key}", f"x/../../../../{OTHER}/{victim.key}", "..", ".", "", "x/../.."):
            forged = where | {"UploadId": upload_id(mine, name)}
            for attempt in (
                lambda forged=forged: sender.client.list_parts(**forged),
                lambda forged=forged: sender.client.upload_part(**forged, PartNumber=1, Body=b"x" * PART),
                lambda forged=forged: sender.client.upload_part_copy(
                    **forged, PartNumber=1, CopySource=f"{BUCKET}/{key}"
                ),
                lambda forged=forged: sender.client.complete_multipart_upload(
                    **forged, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": "x"}]}
                ),
                lambda forged=forged: sender.client.abort_multipart_upload(**forged),
            ):
                with pytest.raises(botocore.exceptions.ClientError) as error:
                    attempt()
                assert error.value.response["Error"]["Code"] in ("NoSuchUpload", "NoSuchKey"), name
            assert victim.untouched(), name
        # The honest ones are still there.
        assert "Parts" not in sender.client.list_parts(**where, UploadId=mine)
        assert "Parts" not in victim.client.list_parts(Bucket=OTHER, Key=f"{victim.key}/more", UploadId=theirs)
    finally:
        sender.client.abort_multipart_upload(**where, UploadId=mine)
        victim.client.abort_multipart_upload(Bucket=OTHER, Key=f"{victim.key}/more", UploadId=theirs)


@pytest.mark.parametrize("prefix", ["../", "a/../../", "./../"])
def test_a_list_of_deletions_stays_in_its_bucket(sender: Sender, victim: Victim, prefix: str) -> None:
    """The names in it were found invalid, and then followed."""
    kept, gone = sender.key(), sender.key()
    for key in (kept, gone):
        sender.client.put_object(Bucket=BUCKET, Key=key, Body=CONTENT)
    path = f"{prefix}{OTHER}/{victim.key}"
    wanted = f"<Delete><Object><Key>{path}</Key></Object><Object><Key>{gone}</Key></Object></Delete>".encode()
    digest = b64encode(hashlib.md5(wanted, usedforsecurity=False).digest()).decode()
    answer = sender.send("POST", f"/{BUCKET}?delete=", {"Content-MD5": digest}, wanted)
    assert victim.untouched()
    assert answer.status_code == 200 and answer.text.count("<Error>") == 1, answer.text
    assert f"<Deleted><Key>{gone}</Key></Deleted>" in answer.text
    assert sender.stored(kept) and not sender.stored(gone)


@pytest.mark.parametrize("source", ["{mine}/../{theirs}", "/{mine}/./../{theirs}", "{theirs}"])
def test_a_source_stays_in_its_bucket(sender: Sender, victim: Victim, source: str) -> None:
    """A copy, and a copy as a part."""
    key = sender.key()
    named = source.format(mine=BUCKET, theirs=f"{OTHER}/{victim.key}")
    assert sender.send("PUT", f"/{BUCKET}/{key}", {"X-Amz-Copy-Source": named}).status_code in (400, 403)
    upload = sender.client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    target = f"/{BUCKET}/{key}?partNumber=1&uploadId={upload}"
    assert sender.send("PUT", target, {"X-Amz-Copy-Source": named}).status_code in (400, 403)
    sender.client.abort_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload)
    assert not sender.stored(key)


# ---- changes that outlive a client's secret


def test_a_client_has_no_credentials_but_its_own(sender: Sender, stack: Stack) -> None:
    """Temporary ones, and service accounts, would outlive its secret; nor may it change that."""
    tokens = boto3.client(
        "sts", endpoint_url=sender.endpoint, region_name="us-east-1", aws_access_key_id=sender.access_key,
        aws_secret_access_key=sender.secret, config=botocore.config.Config(proxies={}),
    )  # fmt: skip
    with pytest.raises(botocore.exceptions.ClientError) as error:
        tokens.assume_role(RoleArn="arn:aws:iam::123456789012:role/any", RoleSessionName="probe")
    assert error.value.response["Error"]["Code"] == "AccessDenied"
    script = """
        export MC_CONFIG_DIR=/tmp/probe MC_HOST_probe="http://$ACCESS_KEY:$SECRET@127.0.0.1:9000" GOMEMLIMIT=64MiB
        mc --json admin user svcacct add probe "$ACCESS_KEY"
        printf '%s\n%s\n' "$ACCESS_KEY" "$SECRET" | mc --json admin user add probe
        rm -rf /tmp/probe
    """
    given = {"ACCESS_KEY": sender.access_key, "SECRET": sender.secret}
    said = stack.execute("minio", "sh", stdin=script, environment=given).stdout
    assert said.count('"Code":"AccessDenied"') == 2 and '"status":"success"' not in said, said


def test_a_client_changes_no_setting_of_its_bucket(sender: Sender) -> None:
    """Such as a policy that opens it to everyone, or a rule that deletes objects later."""
    everyone = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": ["*"]},
                "Action": ["s3:GetObject"],
                "Resource": [f"arn:aws:s3:::{BUCKET}/*"],
            }
        ],
    }
    rule = {"ID": "probe", "Status": "Enabled", "Filter": {"Prefix": "probe/"}, "Expiration": {"Days": 1}}
    client, where = sender.client, {"Bucket": BUCKET}
    for attempt in (
        lambda: client.put_bucket_policy(**where, Policy=json.dumps(everyone)),
        lambda: client.put_bucket_lifecycle_configuration(**where, LifecycleConfiguration={"Rules": [rule]}),
        lambda: client.put_bucket_versioning(**where, VersioningConfiguration={"Status": "Enabled"}),
        lambda: client.put_bucket_notification_configuration(**where, NotificationConfiguration={}),
        lambda: client.put_bucket_tagging(**where, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]}),
        lambda: client.delete_bucket(**where),
    ):
        with pytest.raises(botocore.exceptions.ClientError) as error:
            attempt()
        assert error.value.response["Error"]["Code"] == "AccessDenied"


# ---- what is not served


def test_select_is_not_served(sender: Sender) -> None:
    """CVE-2026-39414."""
    key = sender.key()
    sender.client.put_object(Bucket=BUCKET, Key=key, Body=b"a,b\n1,2\n")
    with pytest.raises(botocore.exceptions.ClientError) as error:
        sender.client.select_object_content(
            Bucket=BUCKET, Key=key, ExpressionType="SQL", Expression="SELECT * FROM s3object",
            InputSerialization={"CSV": {}}, OutputSerialization={"CSV": {}},
        )  # fmt: skip
    assert error.value.response["Error"]["Code"] == "NotImplemented"


@pytest.mark.parametrize("place", ["form", "query"])
@pytest.mark.parametrize(
    "action",
    [
        {"Action": "AssumeRoleWithWebIdentity", "WebIdentityToken": "x"},
        {"Action": "AssumeRoleWithLDAPIdentity", "LDAPUsername": "x", "LDAPPassword": "x"},
        {"Action": "AssumeRoleWithCustomToken", "Token": "x"},
        {"Action": "AssumeRoleWithCertificate"},
    ],
    ids=lambda action: action["Action"],
)
def test_other_identity_providers(stack: Stack, action: dict[str, str], place: str) -> None:
    """CVE-2026-33322 and CVE-2026-33419."""
    words = action | {"Version": "2011-06-15"}
    answer = requests.post(
        stack.url("minio", "/"), **({"data": words} if place == "form" else {"params": words}), timeout=30
    )
    assert answer.status_code == 501 and "<Code>NotImplemented</Code>" in answer.text


def test_the_console_fetches_nothing_for_strangers(stack: Stack, sender: Sender) -> None:
    """Its proxy for shared links needs no login, and would ask the server from the inside."""
    key = sender.key()
    sender.client.put_object(Bucket=BUCKET, Key=key, Body=CONTENT)
    presigned = sender.client.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": key})
    path = presigned.removeprefix(sender.endpoint)
    for inside in ("http://127.0.0.1:9000/minio/health/live", f"http://127.0.0.1:9000{path}"):
        encoded = urlsafe_b64encode(inside.encode()).decode().rstrip("=")
        answer = requests.get(stack.url("minio_console", f"/api/v1/download-shared-object/{encoded}"), timeout=30)
        assert answer.status_code == 403 and CONTENT not in answer.content


@pytest.mark.parametrize("path", ["/minio/storage/data/v63/rfile", "/minio/peer/v39/health", "/minio/grid/v1"])
def test_no_door_between_servers(stack: Stack, path: str) -> None:
    """One server alone does not listen to others (CVE-2026-42600)."""
    for method in ("GET", "POST"):
        answer = requests.request(method, stack.url("minio", path), timeout=30)
        assert answer.status_code in (400, 403, 404, 405, 426), f"{method} {answer.status_code} {answer.text}"


# ---- pages of others


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1"])
def test_a_foreign_page_cannot_call_the_api(stack: Stack, origin: str) -> None:
    """A browser asks first, and is not told that it may."""
    asked = {"Origin": origin, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x-amz-date"}
    for answer in (
        requests.options(stack.url("minio", f"/{BUCKET}/probe"), headers=asked, timeout=30),
        requests.get(stack.url("minio", f"/{BUCKET}"), headers={"Origin": origin}, timeout=30),
    ):
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_the_own_console_may(stack: Stack) -> None:
    """The origin that is always allowed."""
    origin = f"http://localhost:{stack.port('minio_console')}"
    asked = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
    answer = requests.options(stack.url("minio", f"/{BUCKET}/probe"), headers=asked, timeout=30)
    assert answer.headers["Access-Control-Allow-Origin"] == origin


# ---- the honest forms


def test_copies(sender: Sender) -> None:
    """Of an object, with other metadata, of a part, and by a presigned address that names its source."""
    source = sender.key()
    large = bytes(PART)
    sender.client.put_object(Bucket=BUCKET, Key=source, Body=large, Metadata={"kind": "first"})
    copy, part, presigned = sender.key(), sender.key(), sender.key()
    origin = {"Bucket": BUCKET, "Key": source}
    sender.client.copy_object(
        Bucket=BUCKET, Key=copy, CopySource=origin, Metadata={"kind": "second"}, MetadataDirective="REPLACE"
    )
    assert sender.client.head_object(Bucket=BUCKET, Key=copy)["Metadata"] == {"kind": "second"}
    upload = sender.client.create_multipart_upload(Bucket=BUCKET, Key=part)["UploadId"]
    where = {"Bucket": BUCKET, "Key": part, "UploadId": upload}
    made = sender.client.upload_part_copy(**where, PartNumber=1, CopySource=origin)["CopyPartResult"]["ETag"]
    tail = sender.client.upload_part(**where, PartNumber=2, Body=CONTENT)["ETag"]
    parts = [{"PartNumber": 1, "ETag": made}, {"PartNumber": 2, "ETag": tail}]
    sender.client.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    assert sender.client.get_object(Bucket=BUCKET, Key=part)["Body"].read() == large + CONTENT
    named = f"{BUCKET}/{source}"
    url = sender.client.generate_presigned_url(
        "copy_object", Params={"Bucket": BUCKET, "Key": presigned, "CopySource": named}
    )
    assert requests.put(url, headers={"X-Amz-Copy-Source": named}, timeout=30).status_code == 200
    assert sender.client.head_object(Bucket=BUCKET, Key=presigned)["ContentLength"] == PART


def test_presigned_parts(sender: Sender) -> None:
    """As MLflow's and others' clients upload large files."""
    key = sender.key()
    upload = sender.client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    where = {"Bucket": BUCKET, "Key": key, "UploadId": upload}
    url = sender.client.generate_presigned_url("upload_part", Params={**where, "PartNumber": 1})
    answer = requests.put(url, data=CONTENT, timeout=30)
    assert answer.status_code == 200
    parts = [{"PartNumber": 1, "ETag": answer.headers["ETag"]}]
    sender.client.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    assert sender.client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == CONTENT


def test_mc_streams_both_ways(sender: Sender, stack: Stack) -> None:
    """MinIO's own client signs chunk by chunk."""
    key = sender.key()
    # Of a stream, mc reserves a whole part at once: 528 MiB unless told, which is more than the container may have.
    script = f"""
        set -eu
        export MC_CONFIG_DIR=/tmp/probe MC_HOST_probe="http://$ACCESS_KEY:$SECRET@127.0.0.1:9000" GOMEMLIMIT=64MiB
        head -c 6000000 /dev/zero | mc --quiet pipe --part-size 5MiB probe/{BUCKET}/{key}
        mc --quiet cat probe/{BUCKET}/{key} | wc -c
        rm -rf /tmp/probe
    """
    given = {"ACCESS_KEY": sender.access_key, "SECRET": sender.secret}
    done = stack.execute("minio", "sh", stdin=script, environment=given)
    assert done.returncode == 0 and done.stdout.split()[-1] == "6000000", done.stdout + done.stderr
