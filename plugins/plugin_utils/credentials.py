# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes what a server stores of a client: verifiers of passwords, of PostgreSQL and the edge, and MinIO's policies."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json

#: What a bucket's client does with its objects. Not the bucket's own settings: a policy that opens it to everyone, or a
#: rule that deletes objects later, would outlive the client's secret.
BUCKET_ACTIONS = (
    *("ListBucket", "ListBucketVersions", "ListBucketMultipartUploads", "GetBucketLocation", "GetBucketVersioning"),
    *("GetObject", "GetObjectVersion", "GetObjectAttributes", "GetObjectVersionAttributes", "PutObject"),
    *("DeleteObject", "DeleteObjectVersion", "AbortMultipartUpload", "ListMultipartUploadParts"),
    *("GetObjectTagging", "PutObjectTagging", "DeleteObjectTagging"),
    *("GetObjectVersionTagging", "PutObjectVersionTagging", "DeleteObjectVersionTagging"),
)


def _salted(password: str, name: str, rounds: int) -> tuple[bytes, bytes]:
    """A salt that is derived from password and name, and the key of PBKDF2 with SHA-256."""
    salt = hmac.digest(password.encode(), b"salt of " + name.encode(), "sha256")[:16]
    return salt, hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)


def scram_verifier(password: str, role: str) -> str:
    """Make PostgreSQL's verifier of a password, so that the server and its log never see the password.

    The salt is derived from password and role: the same password gives the same verifier, which makes a changed one
    visible by comparison. Passwords here are random, so the salt need not be. Source: RFC 5802, section 3.

    Args:
        password: ASCII text.
        role: Name of the database role.

    Returns:
        ``SCRAM-SHA-256$4096:salt$stored-key:server-key``.
    """
    rounds = 4096
    salt, salted = _salted(password, role, rounds)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt_text, stored_text, server_text = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${rounds}:{salt_text}${stored_text}:{server_text}"


@functools.lru_cache
def password_verifier(password: str, user: str, rounds: int) -> str:
    """Make what the edge stores of a password.

    The salt is derived from password and user: the same password gives the same verifier, which makes a changed one
    visible by comparison, and two users with the same password have different ones. Source: RFC 8018, section 5.2.

    Args:
        password: What the user types.
        user: Name of the user.
        rounds: Number of iterations.

    Returns:
        ``pbkdf2-sha256$rounds$salt$hash``, the last two in base64.
    """
    salt, key = _salted(password, user, rounds)
    return f"pbkdf2-sha256${rounds}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def bucket_policy(bucket: str) -> str:
    """Write the policy of a bucket's client.

    Args:
        bucket: Name of the bucket.

    Returns:
        A policy document in JSON, in the form in which MinIO gives it back: everything with the objects of this bucket,
        nothing with its settings, and nothing elsewhere.
    """
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    allowed = {"Effect": "Allow", "Action": [f"s3:{action}" for action in BUCKET_ACTIONS], "Resource": resources}
    # Without it, any user may make service accounts and temporary credentials, and these outlive its secret.
    denied = {"Effect": "Deny", "Action": ["admin:*"]}
    return json.dumps({"Version": "2012-10-17", "Statement": [allowed, denied]})
