"""A certificate of the operator's own: taken, renewed without an interruption, and refused where it would not do."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from front_door import DOMAIN, Door, bring_up
from stack_under_test import Stack


def write_certificate(
    directory: Path, days: int, addresses: Iterable[ipaddress.IPv4Address] = ()
) -> tuple[Path, Path, int]:
    """Make a key and a certificate for the domain.

    Args:
        directory: Where to put them.
        days: How long it is good for; if negative, since when it no longer is.
        addresses: That it is for too.

    Returns:
        Both files, and the certificate's number.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, DOMAIN)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=100))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(
            x509.SubjectAlternativeName([*map(x509.DNSName, (DOMAIN, f"*.{DOMAIN}")), *map(x509.IPAddress, addresses)]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = directory / "certificate.pem", directory / "key.pem"
    certificate_file.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key_file.write_bytes(key.private_bytes(*form))
    return certificate_file, key_file, built.serial_number


def own(certificate: Path, key: Path) -> list[str]:
    """Options that name the files."""
    return [f"--extra-vars=edge_certificate={certificate}", f"--extra-vars=edge_certificate_key={key}"]


def served(door: Door) -> int:
    """Number of the certificate that the edge shows."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with door.connect(f"mlflow.{DOMAIN}", context) as connection:
        shown = connection.getpeercert(binary_form=True)
    assert shown
    return x509.load_der_x509_certificate(shown).serial_number


@pytest.fixture(scope="module")
def own_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """The directory of a certificate that the edge has, and its number; afterwards the stack's own is back."""
    directory = tmp_path_factory.mktemp("own")
    certificate, key, number = write_certificate(directory, 100)
    bring_up(*own(certificate, key))
    yield directory, number
    bring_up()


def test_a_new_certificate_is_taken_without_an_interruption(
    own_certificate: tuple[Path, int], door: Door, stack: Stack
) -> None:
    """Caddy goes on, requests of all the while are answered, and no key is shown."""
    directory, number = own_certificate
    assert served(door) == number
    before = stack.identity()
    failed: list[BaseException] = []
    ended = threading.Event()

    def go_on_asking() -> None:
        while not ended.is_set():
            try:
                served(door)
            except OSError as error:
                failed.append(error)
            time.sleep(0.1)

    asking = threading.Thread(target=go_on_asking)
    asking.start()
    try:
        certificate, key, new = write_certificate(directory, 200)
        said = bring_up(*own(certificate, key), "--diff")
    finally:
        ended.set()
        asking.join()
    assert served(door) == new != number
    assert failed == [] and stack.identity() == before
    assert "PRIVATE KEY" not in said and key.read_text().splitlines()[1] not in said
    # A third of its life of 300 days, in hours.
    assert door.gate("certificate").split()[:2] == ["2400", "7200"]


def test_an_expired_certificate_changes_nothing(own_certificate: tuple[Path, int], door: Door, tmp_path: Path) -> None:
    """The file and the day are named, and the old one is still served."""
    number = served(door)
    certificate, key, _number = write_certificate(tmp_path, -1)
    said = bring_up(*own(certificate, key), status=2)
    assert f"edge_certificate is {certificate}, which expired on" in " ".join(said.split())
    assert served(door) == number
