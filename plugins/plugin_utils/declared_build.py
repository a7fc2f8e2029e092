# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks which packages an inventory declares for an image, and turns them into build arguments.

``backend_build`` and ``airflow_build`` have these keys in common.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.settings import unknown_keys
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.source_files import COLLECTION
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

#: Keys of every declared build.
PACKAGE_DEFAULTS: dict[str, Any] = {
    "requirements": "",
    "exclude_newer": "",
    "from_source": [],
    "apt_build": [],
    "apt": [],
}
#: Packages become words of a shell command in the Dockerfile.
DEBIAN_PACKAGE = re.compile(r"^[a-z0-9][a-z0-9+.-]+$")
PROJECT = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
DATE = re.compile(r"^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}:\d{2}Z)?$")
WORDS = {
    "from_source": (PROJECT, "the name of a Python package"),
    "apt": (DEBIAN_PACKAGE, "the name of a Debian package"),
    "apt_build": (DEBIAN_PACKAGE, "the name of a Debian package"),
}
#: The packages that Airflow is tested with.
AIRFLOW_LOCK = "roles/airflow/files/image/requirements.lock"
#: What the images are, for the markers of requirements.
IMAGE_PYTHON = {
    "python_version": "3.13",
    "python_full_version": "3.13.5",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "os_name": "posix",
}


def day_of(value: Any) -> Any:
    """Write a date as people and ``uv`` do, which YAML has read as a date if it stands there without quotes.

    Args:
        value: A text, a date, or a time.

    Returns:
        A date as text; anything else as it is.
    """
    if isinstance(value, datetime.datetime):
        moment = value if value.tzinfo is None else value.astimezone(datetime.UTC)
        return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
    return value.isoformat() if isinstance(value, datetime.date) else value


def whole_build(build: Mapping[str, Any], defaults: Mapping[str, Any], variable: str) -> dict[str, Any]:
    """Complete a declared build.

    Args:
        build: What the inventory says.
        defaults: Its keys, with values of their types.
        variable: Name of the variable.

    Returns:
        The build with all keys.

    Raises:
        AnsibleFilterError: If a key is unknown or its value is of another type.
    """
    unknown_keys(build, defaults, variable)
    build = {**build, **({"exclude_newer": day_of(build["exclude_newer"])} if "exclude_newer" in build else {})}
    for key, default in defaults.items():
        if not isinstance(build.get(key, default), type(default)):
            raise AnsibleFilterError(f"{variable}.{key} is {build[key]!r}, expected {type(default).__name__}.")
    return {**defaults, **build}


def package_problems(build: Mapping[str, Any], variable: str, requirements: str | None) -> list[str]:
    """Find what keeps the packages of a declared build from being installed.

    Args:
        build: The build with all keys.
        variable: Name of the variable.
        requirements: Content of the file of that name; none if there is no such file, which the caller reports.

    Returns:
        A sentence for each problem, with the variable and the remedy.
    """
    found = [
        f"{variable}.{key} holds {each!r}, expected {kind}."
        for key, (word, kind) in WORDS.items()
        for each in build[key]
        if not word.match(str(each))
    ]
    if build["exclude_newer"] and not DATE.match(build["exclude_newer"]):
        found.append(f"{variable}.exclude_newer is {build['exclude_newer']!r}, expected a date like 2026-11-20.")
    if requirements is not None and "--hash=" not in requirements and not build["exclude_newer"]:
        found.append(
            f"{build['requirements']} ({variable}.requirements) is not a lock file with hashes. Lock it with"
            f" `uv pip compile --generate-hashes`, or set {variable}.exclude_newer to the latest release date of"
            " packages to use."
        )
    return found


def package_args(build: Mapping[str, Any], requirements: str) -> dict[str, str]:
    """Turn a declared build into build arguments.

    Args:
        build: The build with all keys.
        requirements: Content of its requirements file.

    Returns:
        ``UV_OPTIONS``, ``APT_BUILD`` and ``APT``.
    """
    options = {
        "--require-hashes": "--hash=" in requirements,
        f"--exclude-newer {build['exclude_newer']}": build["exclude_newer"],
        # What may be compiled is what build packages were named for.
        "--only-binary :all:": not build["apt_build"],
        **{f"--no-binary {package}": not build["apt_build"] for package in sorted(build["from_source"])},
    }
    return {
        "UV_OPTIONS": " ".join(option for option, given in options.items() if given),
        "APT_BUILD": " ".join(sorted(build["apt_build"])),
        "APT": " ".join(sorted(build["apt"])),
    }


def requirements_in(text: str) -> Iterator[tuple[int, str, Requirement | None]]:
    """Read a requirements file.

    Args:
        text: Its content.

    Yields:
        Number of the line, what stands there, and the requirement: none if it is not the name of a package with an
        optional version. Hashes, comments, and requirements of other systems and Pythons are left out.
    """
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        first, line = number + 1, lines[number]
        while line.rstrip().endswith("\\") and number + 1 < len(lines):
            number += 1
            line = f"{line.rstrip()[:-1]} {lines[number]}"
        number += 1
        line = re.sub(r"(^|\s)#.*|\s--hash=\S+", " ", line).strip()
        if not line or line.startswith(("--index-url", "--extra-index-url")):
            continue
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            yield first, line, None
            continue
        if not requirement.marker or requirement.marker.evaluate({**IMAGE_PYTHON, "extra": ""}):
            yield first, line, requirement


def conflicting_requirements(text: str, lock: str, name: str, variable: str) -> list[str]:
    """Find requirements that ask for another version than a lock file has.

    Args:
        text: Content of the requirements file.
        lock: Content of the lock file.
        name: Path of the requirements file, for the error.
        variable: Name of the variable that names it.

    Returns:
        A sentence for each, with the package and the line.
    """
    locked = {
        canonicalize_name(each.name): next(iter(each.specifier)).version
        for _number, _line, each in requirements_in(lock)
        if each and each.specifier
    }
    found = []
    for number, line, each in requirements_in(text):
        where = f"{name}, line {number} ({variable}.requirements)"
        if each is None:
            found.append(
                f"{where} is {line!r}, expected the name of a package with an optional version, such as xgboost>=3.1."
                " Other files are not included: write all packages into this one."
            )
            continue
        version = locked.get(canonicalize_name(each.name))
        if version and not each.specifier.contains(version, prereleases=True):
            found.append(
                f"{where} asks for {each.name}{each.specifier}, and Airflow is tested with {each.name} {version}."
                " Remove the version, or give the tasks that need another one an environment of their own"
                " (ExternalPythonOperator in an airflow_image)."
            )
    return found


def packages_image(directory: str, build: Mapping[str, Any]) -> dict[str, Any]:
    """Say what the image with the packages of the operator's own DAGs is built from.

    Args:
        directory: ``airflow_dags_dir``: absolute, or below the collection.
        build: ``airflow_build``.

    Returns:
        A definition for ``image_plan``; an empty one if nothing is declared.

    Raises:
        AnsibleFilterError: If it cannot be built, with the variable and the remedy.
    """
    variable = "airflow_build"
    if not build:
        return {}
    wanted = whole_build(build, PACKAGE_DEFAULTS, variable)
    path = os.path.join(COLLECTION, directory, os.path.expanduser(wanted["requirements"]))
    text, problems = None, []
    if wanted["requirements"]:
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            problems.append(
                f"{path}, which {variable}.requirements names, cannot be read: {reason}. Write an absolute path on the"
                " machine that runs Ansible, or one below airflow_dags_dir."
            )
    elif not wanted["apt"]:
        problems.append(f"{variable} names no packages: set {variable}.requirements to a requirements file, or apt.")
    problems += package_problems(wanted, variable, text)
    if text is not None:
        with open(os.path.join(COLLECTION, AIRFLOW_LOCK), encoding="utf-8") as file:
            problems += conflicting_requirements(text, file.read(), wanted["requirements"], variable)
    if problems:
        raise AnsibleFilterError("\n".join(problems))
    return {
        "context": ["roles/airflow/files/packages"],
        "files": {"requirements.txt": text or ""},
        "from": ["python-build", "airflow"],
        "args": package_args(wanted, text or ""),
        "variable": variable,
    }
