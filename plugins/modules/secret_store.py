#!/usr/bin/python
# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keep generated secrets, one file each."""

from __future__ import annotations

DOCUMENTATION = r"""
module: secret_store
short_description: Keep generated secrets, one file each
description:
  - Reads the secrets of a stack from a directory and generates missing ones.
  - Runs on the controller, within Ansible itself. Never overwrites a secret.
options:
  path:
    description: Directory of the secrets; created with mode 0700.
    type: path
    required: true
  secrets:
    description: Name to kind. C(password) is 32 letters and digits, C(long) 64, C(permanent) too and
      is never rotated, C(access_key) the name of an S3 user
      that nobody guesses (20 capital letters and digits), C(fernet) a Fernet key and C(tls) a private key with a
      self-signed certificate in PEM.
    type: dict
    required: true
  values:
    description: Secrets that are set in the inventory, for example from a vault. They are not written anywhere.
    type: dict
    default: {}
  known:
    description: Name to kind of the secrets that I(values) may have beside those of I(secrets), for services that this
      inventory leaves out.
    type: dict
    default: {}
  former:
    description: Names that only earlier versions used, and what took their place. I(values) may not have them.
    type: dict
    default: {}
  tls_names:
    description: Host names and addresses in a generated certificate.
    type: list
    elements: str
    default: [localhost]
  write:
    description: Whether to write the generated secrets.
    type: bool
    default: true
  restore:
    description: What each host has recorded, name to values with the newest first. Instead of generating anything, what
      I(path) lacks is written from there.
    type: list
    elements: dict
author:
  - The quantops.ibkr_stack maintainers (@quantops)
"""

EXAMPLES = r"""
- name: Read the secrets
  quantops.ibkr_stack.secret_store:
    path: secrets
    secrets:
      redis_admin_password: password
  no_log: true
"""

RETURN = r"""
secrets:
  description: Name to value.
  returned: always
  type: dict
generated:
  description: Names that were not there yet.
  returned: always
  type: list
  elements: str
rotating:
  description: Names whose rotation has begun and not ended; see P(quantops.ibkr_stack.secret_rotation#module).
  returned: without I(restore)
  type: list
  elements: str
unused:
  description: Files of I(path) with names of I(former).
  returned: without I(restore)
  type: list
  elements: str
restored:
  description: Names that were written from what the hosts have recorded.
  returned: with I(restore)
  type: list
  elements: str
missing:
  description: Names that neither the directory nor a host has.
  returned: with I(restore)
  type: list
  elements: str
"""

import base64
import contextlib
import datetime
import difflib
import fcntl
import ipaddress
import os
import re
import secrets as random
import string
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.quantops.ibkr_stack.plugins.module_utils.left_files import PREFIX, remove_left

# Airflow expands variables in its settings and URLs have delimiters: letters and digits need no quoting anywhere.
ALPHABET = string.ascii_letters + string.digits
YEARS = 10
#: Directory below that of the secrets that holds the old and new values of an unfinished rotation.
JOURNAL = ".rotation"


def text(length: int, alphabet: str = ALPHABET) -> str:
    """Generate a random text.

    Args:
        length: Number of characters.
        alphabet: What they are taken from; a letter or digit of the default carries 5.95 bits.

    Returns:
        The text.
    """
    return "".join(random.choice(alphabet) for _position in range(length))


def fernet() -> str:
    """Generate a Fernet key.

    Returns:
        32 random bytes in URL-safe base64, without the two characters that shells and URLs treat in their own way.
    """
    while True:
        key = base64.urlsafe_b64encode(os.urandom(32)).decode()
        if not set(key) & set("-_"):
            return key


def certificate(names: list[str]) -> str:
    """Generate a private key and a self-signed certificate.

    Args:
        names: Host names and IP addresses; the first is the common name.

    Returns:
        PKCS8 key and certificate in PEM, one after the other.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    alternatives: list[x509.GeneralName] = []
    for name in names:
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            alternatives.append(x509.DNSName(name))
    now = datetime.datetime.now(datetime.UTC)
    unused = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        # Python 3.13 verifies strictly: an authority says what its key is for, and both keys are identified.
        .add_extension(x509.KeyUsage(key_cert_sign=True, digital_signature=True, **unused), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + built.public_bytes(serialization.Encoding.PEM)
    return pem.decode()


def makers_of(tls_names: list[str]) -> dict[str, Callable[[], str]]:
    """List what generates each kind of secret.

    Args:
        tls_names: Host names and addresses in a certificate.

    Returns:
        Kind to a function that returns the content of a new secret's file.
    """
    return {
        "password": lambda: text(32) + "\n",
        "long": lambda: text(64) + "\n",
        "permanent": lambda: text(64) + "\n",
        "access_key": lambda: text(20, string.ascii_uppercase + string.digits) + "\n",
        "fernet": lambda: fernet() + "\n",
        "tls": lambda: certificate(tls_names),
    }


# What a value that the inventory names must be like: it stands in URLs and settings of programs that quote nothing.
WORD = r"[A-Za-z0-9._~-]"
FORMS = {
    "password": (re.compile(WORD + "{8,}"), "8 or more letters, digits or . _ ~ -"),
    "long": (re.compile(WORD + "{64,}"), "64 or more letters, digits or . _ ~ -"),
    "permanent": (re.compile(WORD + "{64,}"), "64 or more letters, digits or . _ ~ -"),
    "access_key": (re.compile(r"[A-Za-z0-9_-]{8,128}"), "8 to 128 letters, digits or _ -"),
    "fernet": (
        re.compile(r"[A-Za-z0-9_-]{43}=(,[A-Za-z0-9_-]{43}=)*"),
        "a Fernet key (32 bytes in URL-safe base64), or several with commas between them, the new one first",
    ),
    "tls": (
        re.compile(r"\s*-----BEGIN [A-Z ]*PRIVATE KEY-----.*-----BEGIN CERTIFICATE-----.*", re.DOTALL),
        "a private key and then its certificate, both in PEM",
    ),
}


class SecretError(Exception):
    """A secret cannot be read, generated or kept; the text says which and why."""


@contextlib.contextmanager
def alone_in(directory: str) -> Iterator[None]:
    """Keep other runs on this machine waiting.

    Args:
        directory: Existing directory, which all of them lock; the kernel ends the lock of a killed one.

    Yields:
        Nothing.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def put(file: str, value: str) -> None:
    """Write a secret's file in one step, so that no other run reads half of it and no full disk leaves an empty one.

    Args:
        file: Absolute path.
        value: Its content.

    Raises:
        FileExistsError: If there is one already.
    """
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(file), prefix=PREFIX)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as content:
            content.write(value)
            content.flush()
            os.fsync(content.fileno())
        try:
            os.link(temporary, file)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            with alone_in(os.path.dirname(file)):
                if os.path.lexists(file):
                    raise FileExistsError(file) from None
                os.rename(temporary, file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def kept(file: str, make: Callable[[], str], write: bool) -> tuple[str, bool]:
    """Read a secret's file, or generate the secret.

    Args:
        file: Absolute path.
        make: Generates a value.
        write: Whether a generated value is written, and too wide permissions are narrowed.

    Returns:
        The value, and whether it was generated.
    """
    if not os.path.exists(file):
        value = make()
        if not write:
            return value, True
        with contextlib.suppress(FileExistsError):  # another host of this run was faster: its value counts
            put(file, value)
            return value, True
    if write and os.stat(file).st_mode & 0o077:
        os.chmod(file, 0o600)
    return text_of(file), False


def text_of(file: str) -> str:
    """Read a secret.

    Args:
        file: Its path.

    Returns:
        The text.

    Raises:
        SecretError: If it is none.
    """
    try:
        with open(file, encoding="utf-8") as content:
            return content.read()
    except UnicodeDecodeError:
        raise SecretError(
            f"The secret {os.path.basename(file)} cannot be used ({file}): expected text in UTF-8. Correct it, or"
            " remove it to have one generated."
        ) from None


def checked(name: str, kind: str, value: str, source: str) -> str:
    """Check the form of a secret.

    Args:
        name: Its name.
        kind: Its kind.
        value: Content of its file or variable.
        source: Where that is, for the error.

    Returns:
        The secret.

    Raises:
        SecretError: If it is empty or cannot be used.
    """
    secret = value if kind == "tls" else value.strip()
    if not value.strip():
        raise SecretError(f"The secret {name} is empty ({source}). Set a value, or remove it to generate one.")
    form, expected = FORMS[kind]
    if not form.fullmatch(secret):
        raise SecretError(
            f"The secret {name} cannot be used ({source}): expected {expected}. Correct it, or remove it to have"
            " one generated."
        )
    return secret


def keep(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Read the secrets, and generate those that are not there.

    Args:
        params: Options of the module.
        check_mode: Whether nothing may be written.

    Returns:
        The module's result.

    Raises:
        SecretError: If a secret is empty, of the wrong form, or cannot be kept.
    """
    path, values = params["path"], params["values"]
    makers = makers_of(params["tls_names"])
    write = params["write"] and not check_mode
    names = sorted({*params["secrets"], *params["known"]})
    for name in values:
        if name not in names:
            if name in params["former"]:
                raise SecretError(
                    f"secrets_values has the name {name}, which only an earlier version used: {params['former'][name]}."
                    " Remove it."
                )
            near = difflib.get_close_matches(name, names, 1)
            hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(names)}."
            raise SecretError(f"secrets_values has the unknown name {name}. {hint}")
    known: dict[str, str] = {}
    generated = []
    try:
        # Also when nothing is written yet: what cannot be kept later is known now.
        if os.path.lexists(path) and not os.path.isdir(path):
            raise NotADirectoryError("it is not a directory")
        if not check_mode:
            remove_left(Path(path))
        if write:
            os.makedirs(path, mode=0o700, exist_ok=True)
            os.chmod(path, 0o700)
        for name, kind in params["secrets"].items():
            if name in values:
                source, value = f"the variable secrets_values.{name}", str(values[name])
            else:
                source = os.path.join(path, name)
                value, new = kept(source, makers[kind], write)
                generated += [name] if new else []
            known[name] = checked(name, kind, value, source)
        # A service that the inventory has no host for yet will use them one day.
        for name in values.keys() - params["secrets"].keys():
            checked(name, params["known"][name], str(values[name]), f"the variable secrets_values.{name}")
        users: dict[str, str] = {}
        for name in (name for name, kind in params["secrets"].items() if kind == "access_key"):
            if (other := users.setdefault(known[name], name)) != name:
                raise SecretError(
                    f"The secrets {other} and {name} are the same access key. Give each client one of its own, or"
                    " remove one to generate it."
                )
    except ImportError as error:
        raise SecretError(missing_required_lib("cryptography")) from error
    except OSError as error:
        raise SecretError(f"The secrets cannot be kept in {path}, which secrets_dir names: {error}") from error
    return {
        "changed": bool(generated) and params["write"],
        "secrets": known,
        "generated": generated,
        "rotating": sorted(file.name.removeprefix("new.") for file in Path(path, JOURNAL).glob("new.*")),
        "unused": [name for name in sorted(params["former"]) if os.path.lexists(os.path.join(path, name))],
    }


def newest(name: str, recorded: list[list[str]]) -> str:
    """Choose the value that is restored, where hosts have recorded different ones.

    Args:
        name: Name of the secret.
        recorded: Values of each host, the newest first.

    Returns:
        The newest of them all.

    Raises:
        SecretError: If none of them is known to be newer than the others.
    """
    heads = {values[0] for values in recorded}
    older = {value for values in recorded for value in values[1:]}
    newer = heads - older or heads
    if len(newer) > 1:
        raise SecretError(
            f"The hosts have different values of {name}, and none of them is known to be the newer one. Restore the"
            " host that has the right one alone, with --limit."
        )
    return newer.pop()


def restore(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Write the secrets that the directory lacks, from what the hosts have recorded.

    Args:
        params: Options of the module.
        check_mode: Whether nothing may be written.

    Returns:
        The module's result, without any value: ``restored`` and, of those that no host has, ``missing``.

    Raises:
        SecretError: If the directory has another value, or cannot be written.
    """
    path = params["path"]
    recorded: dict[str, list[list[str]]] = {}
    for host in params["restore"]:
        for name, values in host.items():
            recorded.setdefault(name, []).append(values)
    found = {name: newest(name, values) for name, values in recorded.items() if name not in params["values"]}
    restored, other = [], []
    try:
        for name, value in sorted(found.items()):
            file = os.path.join(path, os.path.basename(name))
            if not os.path.lexists(file):
                restored.append(name)
                continue
            if text_of(file).strip() != value.strip():
                other.append(name)
        if other:
            raise SecretError(
                f"Nothing was restored: {path}, which secrets_dir names, has other values of {', '.join(other)} than"
                " the hosts. Move these files away, or name a new directory in secrets_dir."
            )
        if not check_mode:
            os.makedirs(path, mode=0o700, exist_ok=True)
            os.chmod(path, 0o700)
            for name in restored:
                put(os.path.join(path, os.path.basename(name)), found[name].rstrip("\n") + "\n")
        present = {*found, *params["values"], *(os.listdir(path) if os.path.isdir(path) else [])}
    except OSError as error:
        raise SecretError(f"The secrets cannot be restored to {path}, which secrets_dir names: {error}") from error
    return {"changed": bool(restored), "restored": restored, "missing": sorted(params["secrets"].keys() - present)}


ARGUMENT_SPEC: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "secrets": {"type": "dict", "required": True, "no_log": False},
    "values": {"type": "dict", "default": {}, "no_log": True},
    "known": {"type": "dict", "default": {}, "no_log": False},
    "former": {"type": "dict", "default": {}, "no_log": False},
    "tls_names": {"type": "list", "elements": "str", "default": ["localhost"]},
    "write": {"type": "bool", "default": True},
    "restore": {"type": "list", "elements": "dict", "no_log": True},
}


def main() -> None:
    """Entry point where the action plugin of the same name is not used."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    try:
        work = keep if module.params["restore"] is None else restore
        module.exit_json(**work(module.params, module.check_mode))
    except SecretError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
