# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rotates secrets: chooses them, keeps old and new values until every host has the new ones, and tells their age."""

from __future__ import annotations

import contextlib
import datetime
import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.module_utils.left_files import PREFIX, remove_left, write_whole
from ansible_collections.quantops.ibkr_stack.plugins.modules.secret_store import (
    JOURNAL,
    SecretError,
    makers_of,
    text_of,
)

PEM = re.compile(r"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----", re.DOTALL)
#: Days before a certificate expires at which a warning begins.
EXPIRES_SOON = 30
#: The two halves of a login to a bucket. New together, the old login remains valid until nobody needs it.
HALVES = (("_access_key", "_secret"), ("_secret", "_access_key"))


def secret_holders(plans: Iterable[Mapping[str, Any]], secrets: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Find the containers that a new value of a secret recreates.

    Args:
        plans: Containers of a host with their files.
        secrets: Name to value.

    Returns:
        Name to containers, each with C(name), its service as C(owner), and whether only a variable allows it to be
        recreated as C(protected).
    """
    texts = {
        plan["name"]: (
            plan,
            "\n".join(
                str(content)
                for key in ("secret_trees", "trees")
                for tree in plan.get(key) or []
                for content in tree["files"].values()
            ),
        )
        for plan in plans
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for name, value in secrets.items():
        # Redis reads a hash, and clients of the gateway its certificate only.
        pieces = PEM.findall(value) or [value.strip(), hashlib.sha256(value.strip().encode()).hexdigest()]
        found[name] = [
            {
                "name": container,
                "owner": plan.get("owner", ""),
                "protected": bool(plan.get("prevent_recreate")) and not plan.get("recreate"),
            }
            for container, (plan, text) in texts.items()
            if any(piece in text for piece in pieces)
        ]
    return found


def merge_secret_holders(
    hosts: Iterable[Mapping[str, Iterable[Mapping[str, Any]]]],
) -> dict[str, list[Mapping[str, Any]]]:
    """Put together the containers that use each secret on all hosts.

    Args:
        hosts: What ``secret_holders`` returned, of each host.

    Returns:
        Name of each secret to containers.
    """
    merged: dict[str, list[Mapping[str, Any]]] = {}
    for holders in hosts:
        for name, containers in holders.items():
            merged.setdefault(name, []).extend(containers)
    return merged


def service_secrets(
    services: Mapping[str, Mapping[str, Any]], active: Iterable[str], secrets: Iterable[str]
) -> dict[str, list[str]]:
    """List the secrets that are rotated with a service.

    Args:
        services: Service to its contract without templates.
        active: Services that the stack has.
        secrets: Names of the stack's secrets.

    Returns:
        Service to its own secrets, those with which it logs in to others, and those with which others log in to it.
    """
    known = list(secrets)
    return {
        name: list(
            dict.fromkeys(
                [
                    *services[name]["secrets"],
                    *services[name]["secret_checkers"],
                    # The secret of a client is named after the server that checks it.
                    *(each for each in known if each.startswith(f"{name}_")),
                ]
            )
        )
        for name in active
    }


def _partner(name: str, known: Iterable[str]) -> str:
    for end, other in HALVES:
        if name.endswith(end) and (partner := name.removesuffix(end) + other) in known:
            return partner
    return ""


def choose_secrets(
    wanted: str,
    secrets: Mapping[str, str],
    services: Mapping[str, Iterable[str]],
    given: Iterable[str],
    holders: Mapping[str, Iterable[Mapping[str, Any]]],
) -> dict[str, Any]:
    """Choose the secrets to rotate.

    Args:
        wanted: Names of secrets and services with commas or spaces between them, or ``all``.
        secrets: Name of each of the stack's secrets to its kind.
        services: Service to its secrets: its own, and those with which it logs in elsewhere.
        given: Secrets that the inventory sets.
        holders: What ``secret_holders`` returned, of all hosts.

    Returns:
        ``names`` to rotate; ``left`` out, name to reason; ``problems``, a sentence for each.
    """
    known, given = sorted(secrets), set(given)
    words = [word for word in re.split(r"[\s,]+", wanted) if word]
    chosen: set[str] = set()
    named: set[str] = set()
    problems = []
    if not words:
        problems.append(
            "No secret is named. Name secrets or services, or all, such as make rotate-secrets SECRETS=flower_password."
            f" The secrets are {', '.join(known)}."
        )
    for word in words:
        if word == "all":
            chosen |= set(known)
        elif word in known:
            named.add(word)
        elif word in services:
            chosen |= set(services[word]) & set(known)
        else:
            near = difflib.get_close_matches(word, [*known, *services, "all"], 1)
            hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join([*known, *services, 'all'])}."
            problems.append(f"{word} is neither a secret nor a service of this stack. {hint}")
    chosen |= named
    chosen |= {partner for name in chosen if (partner := _partner(name, known))}
    left: dict[str, str] = {}
    for name in sorted(chosen):
        reason = ""
        locked = [each for each in holders.get(name) or [] if each["protected"]]
        if secrets[name] == "permanent":
            reason = "stays for as long as what is encrypted with it"
        elif name in given:
            reason = "is set in secrets_values: put another value there, and run site.yml (make up)"
        elif locked:
            reason = (
                f"is used by {locked[0]['name']}, which would be recreated; that ends its session, and somebody has to"
                f" log in again. Run again with -e {locked[0]['owner']}_recreate=true"
            )
        if reason and name in named:
            problems.append(f"{name} {reason}.")
        elif reason:
            left[name] = reason
    return {"names": sorted(chosen - left.keys()), "left": left, "problems": problems}


class Journal:
    """Old and new values of the secrets that are being rotated, in files of their own beside the secrets.

    A value is never in one place only: the new ones are written before any file is replaced, and the old ones are
    removed after every host has recorded the new ones.
    """

    def __init__(self, secrets_dir: str) -> None:
        """Use the journal of a directory of secrets.

        Args:
            secrets_dir: Path of the directory.
        """
        self.secrets = Path(secrets_dir)
        self.directory = self.secrets / JOURNAL

    def names(self) -> list[str]:
        """List the secrets of an unfinished rotation.

        Returns:
            Names; none if the last rotation was finished.
        """
        return sorted(path.name.removeprefix("new.") for path in self.directory.glob("new.*"))

    def since(self) -> str:
        """Tell when the unfinished rotation began.

        Returns:
            Time in UTC; nothing if there is none.
        """
        times = [path.stat().st_mtime for path in self.directory.glob("new.*")]
        return datetime.datetime.fromtimestamp(min(times), datetime.UTC).strftime("%Y-%m-%d %H:%M UTC") if times else ""

    def begin(self, kinds: Mapping[str, str], tls_names: list[str]) -> None:
        """Generate new values, beside those of an unfinished rotation.

        Args:
            kinds: Name of each secret to its kind.
            tls_names: Host names and addresses in a certificate.
        """
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self.directory.chmod(0o700)
        remove_left(self.directory)
        makers = makers_of(tls_names)
        for name, kind in kinds.items():
            if not (self.directory / f"new.{name}").exists():
                # The file of the new value begins the rotation of a secret: by then, the old one is safe.
                write_whole(self.directory / f"old.{name}", text_of(str(self.secrets / name)))
                write_whole(self.directory / f"new.{name}", makers[kind]())

    def values(self, name: str) -> tuple[str, str]:
        """Read the values of a secret.

        Args:
            name: Of the secret.

        Returns:
            The old one and the new one.
        """
        old, new = (text_of(str(self.directory / f"{which}.{name}")) for which in ("old", "new"))
        return old, new

    def replace(self, kinds: Mapping[str, str], final: bool = False) -> list[str]:
        """Put the new values in the place of the old ones.

        Args:
            kinds: Name of each secret to its kind.
            final: Whether what was encrypted with an old key is encrypted with the new one, so that the old one goes.

        Returns:
            Names of the secrets whose files were changed.

        Raises:
            SecretError: If a file has neither value, because somebody has changed it meanwhile.
        """
        changed = {}
        for name in self.names():
            old, new = self.values(name)
            now = text_of(str(self.secrets / name)).strip()
            both = f"{new.strip()},{old.strip()}"
            if now not in (old.strip(), new.strip(), both):
                raise SecretError(
                    f"{self.secrets / name} was changed since its rotation began on {self.since()}. To keep that value,"
                    f" remove {self.directory}/new.{name} and run again."
                )
            wanted = new if kinds.get(name) != "fernet" or final or now == new.strip() else both + "\n"
            if now != wanted.strip():
                changed[name] = wanted
        for name, value in changed.items():
            write_whole(self.secrets / name, value)
        return sorted(changed)

    def end(self) -> None:
        """Remove the old values, and the copies of the new ones."""
        for pattern in ("new.*", "old.*", f"{PREFIX}*"):
            for path in self.directory.glob(pattern):
                path.unlink()
        with contextlib.suppress(FileNotFoundError):
            self.directory.rmdir()


def _days(seconds: float) -> str:
    days = int(seconds // 86400)
    return f"{days} day" if days == 1 else f"{days} days"


def secret_report(record: Mapping[str, Mapping[str, Any]], now: float = 0.0) -> dict[str, Any]:
    """Tell the age of a host's secrets, and when certificates expire.

    Args:
        record: What ``host_secrets`` returned as ``record``.
        now: Seconds since 1970; 0 is the present.

    Returns:
        ``lines`` to show, and ``warnings``, those of them that ask for something to be done.
    """
    from cryptography import x509

    now = now or datetime.datetime.now(datetime.UTC).timestamp()
    known = {name: entry["since"] for name, entry in record.items() if entry.get("since")}
    lines, warnings = [], []
    if known:
        oldest = min(known, key=lambda name: known[name])
        unknown = len(record) - len(known)
        more = f"; the age of {unknown} of {len(record)} is not known" if unknown else ""
        lines.append(f"The oldest secret is {oldest}, {_days(max(now - known[oldest], 0))} old{more}")
    for name, entry in sorted(record.items()):
        if not entry.get("certificate"):
            continue
        try:
            end = x509.load_pem_x509_certificate(entry["certificate"].encode()).not_valid_after_utc
        except ValueError:
            warnings.append(f"CERTIFICATE: that of {name} cannot be read")
            continue
        left = end.timestamp() - now
        if left < EXPIRES_SOON * 86400:
            when = f"has expired on {end:%Y-%m-%d}" if left < 0 else f"expires in {_days(left)}, on {end:%Y-%m-%d}"
            warnings.append(
                f"CERTIFICATE: that of {name} {when}. Renew it: make rotate-secrets SECRETS={name}; the message there"
                " says what else it takes"
            )
    return {"lines": lines + warnings, "warnings": warnings}
