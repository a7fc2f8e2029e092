# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes addresses as the IBKR gateway's configuration does, and says what its settings have wrong."""

from __future__ import annotations

import datetime
import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

from ansible.errors import AnsibleFilterError

PATTERN = re.compile(r"(?:(?:\d{1,3}\.){1,3}\*|\*)")
URL_HINT = "expected a URL without a path, such as https://api.ibkr.com"
CERTIFICATE = "-----BEGIN CERTIFICATE-----"
#: Settings of conf.yaml that have a variable of their own, or that only the role knows.
RESERVED = {
    "listenPort": "ibkr_gateway_port sets the port on the host",
    "listenSsl": "the gateway always speaks TLS",
    "sslCert": "secrets_values.ibkr_gateway_tls sets the certificate",
    "sslPwd": "the keystore is made at each start",
    "proxyRemoteHost": "set ibkr_gateway_remote_host",
    "proxyRemoteSsl": "ibkr_gateway_remote_host says it",
    "svcEnvironment": "set ibkr_gateway_environment",
    "ips": "set ibkr_gateway_allowed_addresses or ibkr_gateway_denied_addresses",
    "cors": "set ibkr_gateway_cors_origin or ibkr_gateway_cors_credentials",
}


def address_patterns(address: str) -> list[str]:
    """Write an address as the gateway's lists `ips` understand it: they know wildcards and no CIDR notation.

    Args:
        address: IPv4 address, network in CIDR notation, or a pattern such as ``192.168.*``.

    Returns:
        Patterns that match the same addresses; a network that does not end at a dot takes several.

    Raises:
        AnsibleFilterError: If it is none of the three.
    """
    text = str(address).strip()
    if PATTERN.fullmatch(text) and all(int(part) < 256 for part in text.split(".")[:-1]):
        return [text]
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise AnsibleFilterError(
            f"{text!r} is not an IPv4 address, a network such as 10.0.0.0/8 or a pattern such as 192.168.* ({error})"
        ) from None
    octets = -(-network.prefixlen // 8)
    if octets == 0:
        return ["*"]
    return [
        ".".join(str(part.network_address).split(".")[:octets]) + (".*" if octets < 4 else "")
        for part in network.subnets(new_prefix=octets * 8)
    ]


def tls_fault(pem: str, names: list[str], now: datetime.datetime | None = None) -> str:
    """Say why a key and a certificate cannot serve the gateway.

    Args:
        pem: Private key, then the certificate with its chain, in PEM.
        names: Host names and addresses by which the stack reaches the gateway.
        now: When to judge; the present without it.

    Returns:
        Half a sentence without a secret in it; empty if nothing is wrong.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    now = now or datetime.datetime.now(datetime.UTC)
    key_text, found, certificates = pem.partition(CERTIFICATE)
    if "PRIVATE KEY-----" not in key_text or not found or "PRIVATE KEY-----" in certificates:
        return "is not a private key followed by a certificate, in PEM"
    public = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    try:
        key = serialization.load_pem_private_key(key_text.encode(), None).public_key().public_bytes(*public)
    except TypeError:
        return "has an encrypted private key; decrypt it, with `openssl pkey` for example"
    except ValueError:
        return "has a private key that cannot be read"
    try:
        certificate = x509.load_pem_x509_certificates((found + certificates).encode())[0]
    except ValueError:
        return "has a certificate that cannot be read"
    if certificate.public_key().public_bytes(*public) != key:
        return "has a private key that does not belong to its first certificate"
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first <= now <= last:
        return f"is not valid now, but from {first:%Y-%m-%d} to {last:%Y-%m-%d}"
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "has a certificate without alternative names, by which clients check it"
    known = {name.lower() for name in alternatives.get_values_for_type(x509.DNSName)}
    known |= {str(address) for address in alternatives.get_values_for_type(x509.IPAddress)}
    for name in names:
        wildcard = "*." + name.partition(".")[2] if "." in name else name
        if not {name.lower(), wildcard.lower()} & known:
            return (
                f"is not good for {name}, by which the stack reaches the gateway, only for {', '.join(sorted(known))}"
            )
    return ""


def gateway_faults(settings: dict[str, Any]) -> list[str]:
    """Find what cannot work in the gateway's settings.

    Args:
        settings: ``remote_host``, ``cors_origin``, ``cors_credentials``, ``allowed`` and ``denied`` (addresses),
            ``further`` (settings of conf.yaml), ``sha256``, ``tls`` (key and certificate), ``names`` (by which the
            stack reaches the gateway) and ``runs`` (there is a program to run).

    Returns:
        A sentence for each fault, with the variable and what to do.
    """
    faults = []
    if not settings["runs"]:
        faults.append(
            "The IBKR gateway has nothing to run. Set ibkr_gateway_archive to IBKR's clientportal.gw.zip (a URL or"
            " a file), or ibkr_gateway_simulated to true for the simulator, or ibkr_gateway_image to an image of"
            " your own."
        )
    if not is_origin(settings["remote_host"]):
        faults.append(f"ibkr_gateway_remote_host is {settings['remote_host']!r}: {URL_HINT}.")
    origin = settings["cors_origin"]
    if origin != "*" and not is_origin(origin):
        faults.append(f"ibkr_gateway_cors_origin is {origin!r}: {URL_HINT}, or * for any.")
    if origin == "*" and settings["cors_credentials"]:
        faults.append(
            "ibkr_gateway_cors_credentials lets any web page act as the user who is logged in, because "
            "ibkr_gateway_cors_origin is *. Name the page's origin, or set ibkr_gateway_cors_credentials to false."
        )
    for variable in ("allowed", "denied"):
        for address in settings[variable]:
            try:
                address_patterns(address)
            except AnsibleFilterError as error:
                faults.append(f"ibkr_gateway_{variable}_addresses: {error}.")
    for key in settings["further"]:
        if key in RESERVED:
            faults.append(f"ibkr_gateway_settings has the key {key!r}, which it cannot set: {RESERVED[key]}.")
    if settings["sha256"] and not re.fullmatch(r"[0-9a-fA-F]{64}", settings["sha256"]):
        faults.append(
            f"ibkr_gateway_archive_sha256 is {settings['sha256']!r}: expected the 64 digits that `sha256sum` prints."
        )
    if fault := tls_fault(settings["tls"], settings["names"]):
        faults.append(
            f"The secret ibkr_gateway_tls {fault}. Set secrets_values.ibkr_gateway_tls to a private key and its "
            "certificate with the chain, one after the other, or remove it to generate one."
        )
    return faults


def is_origin(url: str) -> bool:
    """Tell whether a text is scheme, host and perhaps port, and no more.

    Args:
        url: Text to look at.

    Returns:
        Whether it is one.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    whole = f"{parts.scheme}://{parts.netloc}" == url
    return parts.scheme in ("http", "https") and bool(parts.hostname) and whole and port != 0
