# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Judges settings of the inventory: values, spelling of variables and of keys."""

from __future__ import annotations

import datetime
import difflib
import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.quantops.ibkr_stack.plugins.module_utils import sizes

#: Those that Ansible reads variables from.
SUFFIXES = (".yml", ".yaml", ".json")


def size_in_bytes(value: Any, where: str) -> int:
    """Read a size of the inventory or of a declaration.

    Args:
        value: A number of bytes or a text such as ``512m`` or ``1g``.
        where: What the value belongs to, for the error.

    Returns:
        Bytes.

    Raises:
        AnsibleFilterError: If it is not a size.
    """
    try:
        return sizes.size_in_bytes(value)
    except ValueError:
        raise AnsibleFilterError(f"{where} is {value!r}, which is not a size. Write it like 512m or 1g.") from None


def fits_rule(value: Any, rule: dict[str, Any]) -> bool:
    """Judge a value.

    Args:
        value: What the inventory says.
        rule: ``kind`` (``number`` by default, ``size``, ``text``, ``scalar``, ``network``, ``address`` or ``date``),
            ``from`` and ``to`` (numbers and sizes) and ``matches`` (the whole of a text).

    Returns:
        Whether it can work.
    """
    kind = rule.get("kind", "number")
    try:
        if kind == "scalar":
            return isinstance(value, str | int | float) and not re.search(r"[\0\r\n]", str(value))
        if kind == "text":
            return re.fullmatch(rule["matches"], str(value)) is not None
        if kind == "network":
            # The whole stack on one host has 17 containers.
            network = ipaddress.IPv4Network(value)
            return network.prefixlen <= 27 and not network.is_loopback and not network.is_multicast
        if kind == "address":
            return bool(ipaddress.IPv4Address(value))
        if kind == "date":
            return bool(datetime.date.fromisoformat(str(value)))  # YAML reads a date without quotes as one
        number = size_in_bytes(value, "") if kind == "size" else float(value)
        most = rule.get("to", number)
        most = size_in_bytes(most, "") if kind == "size" and "to" in rule else float(most)
    except (AnsibleFilterError, TypeError, ValueError):
        return False
    return rule.get("from", 0) <= number <= most


def broken_rules(rules: dict[str, dict[str, Any]]) -> list[str]:
    """Find settings that cannot work.

    Args:
        rules: Variable to its ``value``, what ``fits_rule`` reads, ``expected`` (for people; numbers say it themselves)
            and ``each`` (the value is a list, and the rule is for each of its items).

    Returns:
        A sentence for each, with the variable and what is expected.
    """
    found = []
    for variable, rule in rules.items():
        if rule.get("each") and (isinstance(rule["value"], str) or not isinstance(rule["value"], Iterable)):
            found.append(f"{variable} is {rule['value']!r}, expected a list.")
            continue
        for value in rule["value"] if rule.get("each") else [rule["value"]]:
            if not fits_rule(value, rule):
                span = f"a number from {rule.get('from', 0)}" + (f" to {rule['to']}" if "to" in rule else "")
                found.append(f"{variable} is {value!r}, expected {rule.get('expected', span)}.")
    return found


def secrets_read_as_hosts(sources: Iterable[str], directory: str) -> list[str]:
    """Find out whether Ansible would take the files of secrets for inventories, and what they hold for names of hosts.

    Args:
        sources: What inventories were read from: files and directories.
        directory: That of the secrets.

    Returns:
        A sentence with the remedy, if it would.
    """
    secrets = Path(os.path.abspath(Path(directory).expanduser()))
    for source in map(Path, sources):
        place = Path(os.path.abspath(source))
        if place.is_dir() and secrets.is_relative_to(place):
            below = secrets.relative_to(place).parts
            # Ansible passes over these.
            if not any(part.startswith(".") or part in ("group_vars", "host_vars") for part in below):
                return [
                    f"secrets_dir is {directory}, in the inventory {source}: Ansible would read the files there as"
                    " inventories, and show secrets as names of hosts. Name a directory that begins with a dot, such as"
                    f" {source / '.secrets'}, or one elsewhere."
                ]
    return []


def ignored_variable_files(sources: Iterable[str]) -> list[str]:
    """Find files of variables that Ansible passes over, because a directory of the same name is beside them.

    Args:
        sources: What inventories were read from: files and directories.

    Returns:
        A sentence for each, with the remedy.
    """
    found = []
    for source in dict.fromkeys(Path(one) if Path(one).is_dir() else Path(one).parent for one in sources):
        for file in sorted(source.glob("*_vars/*")):
            directory = file.with_suffix("")
            if file.parent.name in ("group_vars", "host_vars") and file.suffix in SUFFIXES and directory.is_dir():
                found.append(
                    f"Ansible ignores {file}, because the directory {directory} is beside it. Move the file into the"
                    f" directory, such as to {directory / ('main' + file.suffix)}."
                )
    return found


def one_slip(one: str, other: str) -> bool:
    """Tell whether two words differ by one letter, more, less or another, or by two neighbours in the wrong order.

    The ratios of ``difflib`` cannot tell that for long names: ``airflow_worker_gpus`` is nearer to
    ``airflow_worker_cpu`` (0.92) than ``redis_prot`` to ``redis_port`` (0.9).

    Args:
        one: A word.
        other: Another.

    Returns:
        Whether they do.
    """

    def alike(first: str, second: str) -> int:
        return next(
            (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
        )

    start = alike(one, other)
    end = alike(one[start:][::-1], other[start:][::-1])
    left, right = one[start : len(one) - end], other[start : len(other) - end]
    return (len(left) <= 1 and len(right) <= 1) or (len(left) == 2 and left == right[::-1])


def misspelt_variables(names: Iterable[str], roles: Iterable[str] = ()) -> list[str]:
    """Find variables that nothing reads and that differ from one of this collection by a slip of the fingers.

    Args:
        names: All variables of a host. Those that are not the collection's are its owner's business.
        roles: Directories of further roles whose variables count.

    Returns:
        A sentence for each, with the variable that was probably meant.
    """
    own = Path(__file__).parents[2].glob("roles/*/meta/argument_specs.yml")
    further = [path for role in roles if (path := Path(role, "meta", "argument_specs.yml")).is_file()]
    specs = {path.resolve() for path in (*own, *further)}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    known = {
        option
        for spec in specs
        for entry in yaml.load(spec.read_text(encoding="utf-8"), loader)["argument_specs"].values()
        for option in entry.get("options", {})
    }
    found = []
    for name in sorted(set(names) - known):
        meant = min((each for each in known if one_slip(name, each)), default=None)
        if meant:
            found.append(f"{name} is not a variable of this collection. Did you mean {meant}?")
    return found


def renamed_variables(names: Iterable[str], renamed: dict[str, str]) -> list[str]:
    """Find variables of earlier versions, which nothing reads any more.

    Args:
        names: All variables of a host.
        renamed: Name of a former variable to its name now.

    Returns:
        A sentence for each, with its name now.
    """
    return [f"{name} is called {renamed[name]} now. Rename it." for name in sorted(set(names) & renamed.keys())]


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """Say what a misspelt word was probably meant to be.

    Args:
        word: As it stands there.
        known: Words that are understood.
        otherwise: What to say if none is near.

    Returns:
        A sentence.
    """
    near = difflib.get_close_matches(word, list(known), 1)
    return f"Did you mean {near[0]!r}?" if near else otherwise


def unknown_keys(found: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse keys that nothing reads.

    Args:
        found: Keys that stand there.
        known: Keys that are understood.
        where: Variable or container that holds them.

    Raises:
        AnsibleFilterError: If there is one, with the nearest known key.
    """
    known = sorted(known)
    for key in found:
        if key not in known:
            hint = did_you_mean(key, known, f"Known are {', '.join(known) or 'none here'}.")
            raise AnsibleFilterError(f"{where} has the unknown key {key!r}. {hint}")
