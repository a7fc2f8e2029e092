# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks how the operator's own application is declared, and says what its image is built from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.declared_build import (
    PACKAGE_DEFAULTS,
    package_args,
    package_problems,
    whole_build,
)
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.settings import unknown_keys
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.source_files import (
    COLLECTION,
    as_text,
    context_files,
)

#: The only Python of images without a Dockerfile: the one of the Debian release that they stand on.
PYTHON = "3.13"
#: Who the backend's containers run as, unless backend_user says otherwise.
DEFAULT_USER = "10005:10005"
BUILD_DEFAULTS: dict[str, Any] = {
    **PACKAGE_DEFAULTS,
    "python": PYTHON,
    "requirements": "requirements.lock",
    "folders": [],
}
#: Paths become words of a shell command in the Dockerfile.
PATH_WORD = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*$")
VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
QUEUE = re.compile(r"^[A-Za-z0-9_.:-]+$")
SQL_NAME = re.compile(r"^[A-Za-z0-9_.-]+$")
#: Where the container's own mounts are.
TAKEN_PATHS = ("/run/config", "/run/secrets", "/tmp", "/var/lib/backend")


def build_problems(build: Mapping[str, Any], directory: str, files: Mapping[str, str]) -> list[str]:
    """Find what keeps an image from being built as declared.

    Args:
        build: ``backend_build`` over its defaults.
        directory: ``backend_source_dir``.
        files: What the directory holds, relative path to content.

    Returns:
        A sentence for each problem, with the variable and the remedy.
    """
    found = []
    if str(build["python"]) != PYTHON:
        found.append(
            f"backend_build.python is {build['python']}: images without a Dockerfile have Debian's Python {PYTHON}. "
            "For another version bring a Dockerfile in backend_source_dir, or an image (backend_image)."
        )
    if not build["folders"]:
        found.append(
            f"{directory} (backend_source_dir) holds no Dockerfile, and backend_build.folders names nothing that "
            "belongs into the image. Set it to the folders of the application, or bring a Dockerfile."
        )
    found += [
        f"backend_build.folders holds {each!r}, expected a path below it."
        for each in build["folders"]
        if not PATH_WORD.match(each)
    ]
    for path in [build["requirements"], *build["folders"]]:
        if not any(f"{name}/".startswith(f"{path}/") for name in files):
            found.append(f"backend_build names {path!r}, which is not in {directory} (backend_source_dir).")
    return found + package_problems(build, "backend_build", files.get(build["requirements"]))


def application_image(
    directory: str, build: Mapping[str, Any], dockerfile: str = "", user: str = DEFAULT_USER
) -> dict[str, Any]:
    """Say what the backend's image is built from.

    Args:
        directory: ``backend_source_dir``: absolute, or below the collection.
        build: ``backend_build``; not used with a Dockerfile.
        dockerfile: ``backend_dockerfile``: which of several Dockerfiles, below the directory.
        user: ``backend_user``, who gets an entry among the users of an image that is built without a Dockerfile.

    Returns:
        A definition for ``image_plan``.

    Raises:
        AnsibleFilterError: If it cannot be built, with the variable and the remedy.
    """
    parents = ["python-build", "python"]
    if not os.path.isdir(os.path.join(COLLECTION, directory)):
        raise AnsibleFilterError(
            f"There is no directory {directory}, which backend_source_dir names. Write an absolute path on the machine "
            "that runs Ansible, such as {{ inventory_dir }}/../application."
        )
    if dockerfile and not os.path.isfile(os.path.join(COLLECTION, directory, dockerfile)):
        raise AnsibleFilterError(
            f"There is no file {dockerfile} in {directory} (backend_source_dir), which backend_dockerfile names. Write "
            "its path below that directory, such as docker/Dockerfile.backend."
        )
    if dockerfile or os.path.isfile(os.path.join(COLLECTION, directory, "Dockerfile")):
        if build:
            raise AnsibleFilterError(
                f"{directory} (backend_source_dir) holds a Dockerfile, and backend_build says how to build without "
                "one. Remove one of them."
            )
        return {"context": [directory], "from": parents, **({"dockerfile": dockerfile} if dockerfile else {})}
    wanted = whole_build(build, BUILD_DEFAULTS, "backend_build")
    files = context_files(directory)
    problems = build_problems(wanted, directory, files)
    if problems:
        raise AnsibleFilterError("\n".join(problems))
    return {
        "context": ["roles/backend/files/declared", directory],
        "only": ["Dockerfile", wanted["requirements"], *wanted["folders"]],
        "from": parents,
        "args": {
            "REQUIREMENTS": wanted["requirements"],
            **package_args(wanted, files[wanted["requirements"]]),
            **({"APP_USER": user} if user != DEFAULT_USER else {}),
        },
        "variable": "backend_build",
    }


def mount_problems(mounts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Find mounts that cannot be made.

    Args:
        mounts: ``backend_mounts``.

    Returns:
        A sentence for each problem.
    """
    found = []
    for mount in mounts:
        unknown_keys(mount, ("source", "path", "read_only"), "backend_mounts")
        path, source = str(mount.get("path") or ""), str(mount.get("source") or "")
        if not path.startswith("/") or any(path == taken or path.startswith(f"{taken}/") for taken in TAKEN_PATHS):
            found.append(
                f"backend_mounts has the path {path!r}, expected an absolute one outside {', '.join(TAKEN_PATHS)}."
            )
        if not source.startswith("/") and not re.match(r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*$", source):
            found.append(
                f"backend_mounts has the source {source!r}, expected an absolute path on the host or the name of a "
                "volume."
            )
    return found


def environment_problems(service: str, plain: Mapping[str, Any], secret: Mapping[str, Any]) -> list[str]:
    """Find environment variables that cannot be set.

    Args:
        service: Name of the service, with which the two variables begin.
        plain: ``SERVICE_environment``.
        secret: ``SERVICE_secret_environment``.

    Returns:
        A sentence for each problem. No value of a secret is in it.
    """
    variables = {f"{service}_environment": plain, f"{service}_secret_environment": secret}
    found = [
        f"{variable} has the name {name!r}, expected letters, digits and _."
        for variable, values in variables.items()
        for name in values
        if not VARIABLE.match(str(name))
    ]
    found += [
        f"{variable}.{name} is {'empty' if value is None else 'a list or a dictionary'}: expected a text or a number."
        for variable, values in variables.items()
        for name, value in values.items()
        if (value is None and values is plain) or isinstance(value, list | dict)
    ]
    found += [
        f"{name} is in {' and in '.join(variables)}: remove it from one of them." for name in secret if name in plain
    ]
    found += [
        f"{service}_secret_environment.{name} is empty: set a value, or remove it."
        for name, value in secret.items()
        if value is None or not str(value).strip()
    ]
    return found


def airflow_problems(declared: Mapping[str, Any], taken: Iterable[str] = ()) -> list[str]:
    """Find what keeps the packages and the environment of DAGs from being as declared.

    Args:
        declared: Variables of the role airflow, by their names.
        taken: Names of Airflow's own secrets.

    Returns:
        A sentence for each problem, with the variable and the remedy. No value of a secret is in it.
    """
    get = declared.__getitem__
    found = environment_problems("airflow", get("airflow_environment"), get("airflow_secret_environment"))
    found += [
        f"airflow_secret_environment has the name {name!r}, which is that of a secret of Airflow's own."
        for name in get("airflow_secret_environment")
        if name in taken
    ]
    if get("airflow_image") and get("airflow_build"):
        found.append(
            "airflow_image and airflow_build are both set: install the packages in that image, or leave one empty."
        )
    return found


def application_problems(declared: Mapping[str, Any], names: Iterable[str] = ()) -> list[str]:
    """Find what keeps an application from running as declared.

    Args:
        declared: The role's variables, by their names.
        names: Names on the network that belong to other services.

    Returns:
        A sentence for each problem, with the variable and the remedy. No value of a secret is in it.
    """
    get = declared.__getitem__
    processes, own = set(get("backend_processes")), bool(get("backend_image") or get("backend_source_dir"))
    found = []
    if get("backend_image") and get("backend_source_dir"):
        found.append("backend_image and backend_source_dir are both set: leave one of them empty.")
    found += [
        f"{name} is set without backend_source_dir, the directory to build from."
        for name in ("backend_build", "backend_dockerfile")
        if get(name) and not get("backend_source_dir")
    ]
    if "api" not in processes:
        found.append("backend_processes has no 'api': the other services and the page need it.")
    if not get("backend_command"):
        found.append(
            "backend_command is empty: set it to the command of the application's API, which listens on 0.0.0.0:8000."
        )
    if not get("backend_celery_app"):
        found += [
            f"backend_celery_app is empty, and the {name} needs it: set it (package.module:app), or "
            f"backend_{name}_command to a command of your own, or remove {name} from backend_processes."
            for name in ("worker", "beat", "flower")
            if name in processes and any(word == "--app=" for word in get(f"backend_{name}_command"))
        ]
    if get("backend_worker_concurrency") < 1:
        found.append(f"backend_worker_concurrency is {get('backend_worker_concurrency')}, expected 1 or more.")
    found += [
        f"backend_worker_queues holds {queue!r}, expected letters, digits and any of _ . : -."
        for queue in get("backend_worker_queues")
        if not QUEUE.match(queue)
    ]
    found += environment_problems("backend", get("backend_environment"), get("backend_secret_environment"))
    if not get("backend_health_path").startswith("/"):
        found.append(f"backend_health_path is {get('backend_health_path')!r}, expected a path like /health.")
    files = get("backend_sql_files")
    if files and get("backend_migrate_command"):
        found.append("backend_sql_files and backend_migrate_command are both set: leave one of them empty.")
    if files and not own:
        found.append("backend_sql_files is for an application of your own: the reference one migrates its database.")
    base = [os.path.basename(path) for path in files]
    found += [
        f"backend_sql_files names two files {name}: give them different names."
        for name in sorted(set(base))
        if base.count(name) > 1
    ]
    for path, name in zip(files, base, strict=True):
        place = os.path.join(get("backend_source_dir"), path)
        if not SQL_NAME.match(name):
            found.append(f"backend_sql_files holds {path!r}: use letters, digits and any of _ . - in its name.")
        if not os.path.isabs(place):
            found.append(f"backend_sql_files holds {path!r}: without backend_source_dir write an absolute path.")
        elif not os.path.isfile(place):
            found.append(f"There is no file {place}, which backend_sql_files names.")
    found += mount_problems(get("backend_mounts"))
    found += [
        f"backend_aliases holds {alias!r}, which is the name of another service in the network."
        for alias in get("backend_aliases")
        if alias in names
    ]
    return found


def secret_files(secrets: Mapping[str, Any], how: str) -> dict[str, str]:
    """Name the files of secrets to a program.

    Args:
        secrets: Name to value.
        how: ``backend_secrets_as``.

    Returns:
        ``NAME_FILE`` to path; nothing where the program gets the values as variables.
    """
    return {f"{name}_FILE": f"/run/secrets/{name}" for name in secrets} if how == "files" else {}


def named_volumes(mounts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Choose the mounts that are volumes of the stack, not directories of the host.

    Args:
        mounts: ``backend_mounts``, each with ``source``, ``path`` and perhaps ``read_only``.

    Returns:
        Those whose source is a name, as a container declares its volumes.
    """
    return [
        {"name": mount["source"], "path": mount["path"], "read_only": mount.get("read_only", False)}
        for mount in mounts
        if not str(mount["source"]).startswith("/")
    ]


def sql_files(paths: Iterable[str], directory: str = "") -> dict[str, str]:
    """Read the files with SQL that prepare the database.

    Args:
        paths: ``backend_sql_files``, in their order.
        directory: ``backend_source_dir``; absolute paths need none.

    Returns:
        Name without directories to content.

    Raises:
        AnsibleFilterError: If a file cannot be read, with the variable.
    """
    found = {}
    for path in paths:
        place = os.path.join(directory, path)
        try:
            with open(place, "rb") as file:
                found[os.path.basename(path)] = as_text(file.read())
        except OSError as error:
            raise AnsibleFilterError(
                f"{place}, which backend_sql_files names, cannot be read: {error.strerror}."
            ) from None
    return found
