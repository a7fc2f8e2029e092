# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copies of the backup repository at other places: judges their settings, and writes them as rclone reads them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

VARIABLE = "backup_copies"
#: A name is that of a remote of rclone, and part of names of files.
NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,28}[a-z0-9])?")
#: Keys that this collection reads itself; all others are rclone's.
OWN_KEYS = ("path", "key", "known_hosts", "ca")
#: Texts of several lines, which become files.
TEXTS = ("key", "known_hosts", "ca")
#: Types that are not elsewhere.
HERE = ("local", "alias", "memory")
#: What rclone would do otherwise: make a bucket where one is misspelt, and ask the environment for keys.
DEFAULTS: dict[str, dict[str, str]] = {"s3": {"no_check_bucket": "true", "env_auth": "false"}}
SECRETS_DIR = "/run/secrets"


def backup_copy_problems(copies: Any) -> list[str]:
    """Find what is wrong with the places of copies. Shows no key and no password.

    Args:
        copies: ``backup_copies``.

    Returns:
        A sentence for each problem, with the copy and the remedy.
    """
    if not isinstance(copies, Mapping):
        return [f"{VARIABLE} is no dictionary, expected name to settings: {{nas: {{type: sftp, …}}}}."]
    found = []
    for name, settings in copies.items():
        where = f"{VARIABLE}.{name}"
        if not isinstance(name, str) or not NAME.fullmatch(name):
            found.append(
                f"{where}: expected a name of up to 30 lower-case letters, digits, _ and -, with a letter or digit at"
                " both ends."
            )
        elif not isinstance(settings, Mapping):
            found.append(f"{where}: expected keys and values, such as {{type: sftp, host: …, path: …}}.")
        else:
            found += [f"{where}: {problem}" for problem in _problems(settings)]
    return found


def _problems(settings: Mapping[str, Any]) -> list[str]:
    found = []
    for key, value in settings.items():
        if not isinstance(key, str) or not re.fullmatch(r"[a-z0-9_]+", key):
            found.append(f"{key!r} is no key of rclone's: expected lower-case letters, digits and _.")
        elif not isinstance(value, str | int | float) or not str(value).strip():
            found.append(f"{key} is empty or no text. Give it a value, or remove it.")
        elif key not in TEXTS and re.search(r"[\0\r\n]", str(value)):
            found.append(f"{key} has several lines, expected one.")
    if found:
        return found
    kind, path = str(settings.get("type", "")), str(settings.get("path", ""))
    if not re.fullmatch(r"[a-z0-9]+", kind):
        found.append("type is missing: the kind of the place as rclone calls it, such as sftp or s3.")
    elif kind in HERE:
        found.append(f"the type {kind} is on this host. Name a place elsewhere, such as one of type sftp or s3.")
    if not path.strip("/") or ".." in path.split("/"):
        found.append("path is missing, or no path below the top of the place, such as backups/quantops.")
    for key in ("endpoint", "url"):
        if key in settings and not _is_safe(str(settings[key])):
            found.append(f"{key} is {str(settings[key])!r}, expected https://: copies and keys go over the network.")
    if kind == "ftp" and str(settings.get("tls", settings.get("explicit_tls", ""))).lower() != "true":
        found.append("ftp without tls or explicit_tls: true sends the password in clear text.")
    if kind == "sftp":
        found += _sftp_problems(settings)
    elif kind == "s3":
        found += _s3_problems(settings, path)
    if "ca" in settings and "-----BEGIN CERTIFICATE-----" not in str(settings["ca"]):
        found.append("ca is no certificate in PEM form.")
    return found


def _is_safe(url: str) -> bool:
    """Say whether a URL is encrypted, or does not leave the container."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return bool(parts.hostname)
    try:
        return parts.scheme == "http" and ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.scheme == "http" and parts.hostname == "localhost"


def _sftp_problems(settings: Mapping[str, Any]) -> list[str]:
    found = [
        f"{key} is missing: {what}."
        for key, what in (
            ("host", "the name or address of the SFTP server"),
            ("user", "the user who logs in there"),
            (
                "known_hosts",
                "the lines that ssh-keyscan writes of the host; compare them with the fingerprints that it shows",
            ),
        )
        if key not in settings
    ]
    found += [
        f"{key} names a file in the container, which is not there. Give the text in {instead}."
        for key, instead in (("key_file", "key"), ("known_hosts_file", "known_hosts"))
        if key in settings
    ]
    if "key" not in settings and "key_pem" not in settings:
        found.append("key is missing: the private key that logs in, in PEM or OpenSSH form, from a vault.")
    elif "PRIVATE KEY" not in str(settings.get("key", settings.get("key_pem"))):
        found.append("key is no private key in PEM or OpenSSH form.")
    if found:
        return found
    host, port = str(settings["host"]), str(settings.get("port", 22))
    wanted = host if port == "22" else f"[{host}]:{port}"
    lines = [line.split() for line in str(settings["known_hosts"]).splitlines() if line.strip()[:1] not in ("", "#")]
    if any(len(words) < 3 for words in lines):
        found.append("known_hosts has a line that is none: expected the host, the kind of its key, and the key.")
    # Hashed names and patterns cannot be judged here.
    elif not any(wanted in names or any(each[:1] in "|*@" or "*" in each for each in names) for names in
                 (words[0].split(",") for words in lines)):  # fmt: skip
        found.append(f"known_hosts has no line for {wanted}. ssh-keyscan -p {port} {host} writes it.")
    return found


def _s3_problems(settings: Mapping[str, Any], path: str) -> list[str]:
    found = [
        f"{key} is missing: it is part of the key that the store has given you."
        for key in ("access_key_id", "secret_access_key")
        if key not in settings
    ]
    if "provider" not in settings:
        found.append("provider is missing: AWS, Minio, or Other, as rclone calls the maker of the store.")
    elif str(settings["provider"]) != "AWS" and "endpoint" not in settings:
        found.append("endpoint is missing: the URL of the store, such as https://s3.example.com.")
    if path.strip("/") and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", path.strip("/").split("/")[0]):
        found.append("path does not begin with the name of a bucket, such as bucket/quantops.")
    return found


def backup_copy_places(copies: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Say where copies are, as the program that makes them reads it; without any secret.

    Args:
        copies: ``backup_copies``, without problems.

    Returns:
        Name to ``path``, ``title`` and ``ca``, whether it has an authority of its own.
    """
    found = {}
    for name, settings in copies.items():
        path = str(settings["path"])
        place = str(settings.get("host") or urlsplit(str(settings.get("endpoint", settings.get("url", "")))).netloc)
        title = f"{place or settings['type']}:{path}"
        found[name] = {"path": path, "title": title, "ca": "ca" in settings}
    return found


def backup_copy_files(copies: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Write rclone's configuration, and the files that it names.

    Args:
        copies: ``backup_copies``, without problems.

    Returns:
        Name to content, as ``secrets`` of a container.
    """
    files, sections = {}, []
    for name, settings in copies.items():
        texts = {key: str(settings[key]).strip() + "\n" for key in TEXTS if key in settings}
        files |= {f"copy_{name}_{key}": text for key, text in texts.items()}
        kind = str(settings["type"])
        values = {**DEFAULTS.get(kind, {}), **{key: settings[key] for key in settings if key not in OWN_KEYS}}
        values |= {f"{key}_file": f"{SECRETS_DIR}/copy_{name}_{key}" for key in ("key", "known_hosts") if key in texts}
        lines = [f"{key} = {_value(value)}" for key, value in values.items()]
        sections.append("\n".join([f"[{name}]", *lines, ""]))
    return {"rclone.conf": "\n".join(sections), **files} if sections else {}


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
