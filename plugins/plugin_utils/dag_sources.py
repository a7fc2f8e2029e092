# Copyright: The quantops.ibkr_stack maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The places that Airflow's DAGs come from: directories of the controller and git repositories."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils.source_files import (
    COLLECTION,
    as_bytes,
    context_files,
)

VARIABLE = "airflow_dag_sources"
#: Airflow's own name for the bundle of its DAGs' folder, here that of ``airflow_dags_dir``.
FOLDER = "dags-folder"
#: Where Airflow finds the files of ``airflow_dags_dir``, and those of the other directories, each below its name.
FOLDER_PATH = "/opt/dags"
SOURCES_PATH = "/opt/dag-sources"
#: Between the name of a source and the path of a file in it.
SEPARATOR = ":"
#: A name is a directory on the host, and part of the id of a connection.
NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,48}[a-z0-9])?")
#: Bundles of Airflow's own, and what this collection calls ``airflow_dags_dir``.
RESERVED = (FOLDER, "example_dags")
DIRECTORY_KEYS = ("name", "path")
GIT_KEYS = ("name", "git", "ref", "subfolder", "user", "token", "key", "known_hosts")
# Airflow expands "$" in its settings, and git takes a word that begins with "-" for an option.
USER, HOST = r"[A-Za-z0-9_][A-Za-z0-9._\-]*", r"[A-Za-z0-9\[][A-Za-z0-9.\-\[\]:]*"
WEB = re.compile(rf"(?:https?|git)://{HOST}/[A-Za-z0-9._~%/+\-]+")
SSH = re.compile(rf"ssh://(?:{USER}@)?{HOST}/[A-Za-z0-9._~%/+\-]+")
SCP = re.compile(rf"{USER}@[A-Za-z0-9][A-Za-z0-9.\-]*:[A-Za-z0-9._~/+][A-Za-z0-9._~/+\-]*")
REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+\-]*")
SUBFOLDER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9._/ \-]*")
#: Seconds between two looks at a repository.
GIT_REFRESH_S = 60


def _is_ssh(url: str) -> bool:
    return url.startswith("ssh://") or "://" not in url


def _described(source: Any, position: int) -> str:
    name = source.get("name") if isinstance(source, Mapping) else None
    return f"{VARIABLE}, {name}" if name else f"{VARIABLE}, entry {position}"


def git_sources(sources: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Choose the sources that are git repositories.

    Args:
        sources: ``airflow_dag_sources``.

    Returns:
        These.
    """
    return [source for source in sources if isinstance(source, Mapping) and "git" in source]


def dag_source_problems(
    directory: str, sources: Iterable[Any], settings: Mapping[str, Any], connections: Iterable[str] = ()
) -> list[str]:
    """Find what is wrong with the sources of DAGs. Shows no token and no key, nor a URL that may hold one.

    Args:
        directory: ``airflow_dags_dir``.
        sources: ``airflow_dag_sources``.
        settings: ``airflow_settings``.
        connections: Ids of ``airflow_connections``.

    Returns:
        A sentence for each problem, with the source and the remedy.
    """
    if not directory and not sources:
        return [f"airflow_dags_dir and {VARIABLE} are both empty: name a directory or a repository with DAGs."]
    found, names = [], []
    for position, source in enumerate(sources, 1):
        where = _described(source, position)
        if not isinstance(source, Mapping):
            found.append(f"{where}: expected a dictionary with name and path, or with name and git.")
            continue
        name = source.get("name")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            found.append(
                f"{where}: the name is {name!r}, expected up to 50 lower-case letters, digits, _ and -,"
                " with a letter or digit at both ends."
            )
        elif name in RESERVED:
            found.append(f"{where}: this name is Airflow's own. Choose another one.")
        elif name in names:
            found.append(f"{where}: two sources have this name. Rename one of them.")
        names.append(name)
        if ("path" in source) == ("git" in source):
            found.append(f"{where}: set either path, a directory, or git, the URL of a repository.")
        elif "path" in source:
            found += [f"{where}: {problem}" for problem in _directory_problems(source)]
        else:
            found += [f"{where}: {problem}" for problem in _git_problems(source)]
    bundles = "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"
    if (sources or not directory) and bundles in settings:
        found.append(f"airflow_settings has {bundles}, which {VARIABLE} sets. Remove one of them.")
    held = dag_connections(source for source in sources if isinstance(source, Mapping) and "name" in source)
    found += [
        f"airflow_connections.{name} is the connection of a source in {VARIABLE}. Choose another name."
        for name in connections
        if name in held
    ]
    if held and "AIRFLOW__SECRETS__BACKEND" in settings:
        found.append(
            "airflow_settings has AIRFLOW__SECRETS__BACKEND, so Airflow would not find the tokens and keys of"
            f" {VARIABLE}: it has one such backend. Remove the setting, or the tokens and keys."
        )
    return found


def _directory_problems(source: Mapping[str, Any]) -> list[str]:
    unknown = sorted(set(source) - set(DIRECTORY_KEYS))
    found = [f"unknown key {key!r}, expected {', '.join(DIRECTORY_KEYS)} for a directory." for key in unknown]
    path = source["path"]
    if not isinstance(path, str) or not path:
        found.append("the path is empty.")
    elif not os.path.isdir(os.path.join(COLLECTION, path)):
        found.append(f"there is no directory {os.path.join(COLLECTION, path)}. Correct the path.")
    return found


def _git_problems(source: Mapping[str, Any]) -> list[str]:
    unknown = sorted(set(source) - set(GIT_KEYS))
    found = [f"unknown key {key!r}, expected {', '.join(GIT_KEYS)} for a repository." for key in unknown]
    for key in GIT_KEYS:
        if key in source and (not isinstance(source[key], str) or not source[key].strip()):
            found.append(f"{key} is empty or no text. Give it a value, or remove it.")
    if found:
        return found
    url, ref, subfolder = source["git"], source.get("ref", "main"), source.get("subfolder", "")
    scheme, separator, rest = url.partition("://")
    user = rest.partition("/")[0].rpartition("@")[0] if separator else url.rpartition("@")[0]
    if ":" in user or (user and scheme in ("http", "https")):
        return [
            "the URL holds a user or a password. Remove them from it; write user and token, and keep the token in a"
            " vault."
        ]
    if not (WEB.fullmatch(url) or SSH.fullmatch(url) or SCP.fullmatch(url)):
        return [
            "the URL of the repository has another form than https://HOST/PATH, ssh://USER@HOST/PATH or USER@HOST:PATH."
        ]
    if not REF.fullmatch(ref) or ".." in ref:
        found.append(f"ref is {ref!r}, expected the name of a branch or tag, or a commit.")
    if subfolder and (not SUBFOLDER.fullmatch(subfolder) or ".." in subfolder.split("/")):
        found.append(f"subfolder is {subfolder!r}, expected a relative path in the repository.")
    if "token" in source and not url.startswith("https://"):
        found.append("a token is sent to https:// only.")
    if "user" in source and "token" not in source:
        found.append("user is there without a token.")
    if "key" in source and not _is_ssh(url):
        found.append("a key is for repositories by SSH only: write the URL as USER@HOST:PATH, or give a token.")
    if "key" in source and "PRIVATE KEY" not in source["key"]:
        found.append("the key is no private key in PEM or OpenSSH form.")
    if _is_ssh(url) and not {"key", "known_hosts"} <= set(source):
        found.append(
            "a repository by SSH needs key, its deploy key, and known_hosts, the lines that ssh-keyscan HOST writes;"
            " compare them with the fingerprints that the host publishes."
        )
    if "known_hosts" in source and not _is_ssh(url):
        found.append("known_hosts is for repositories by SSH only.")
    return found


def dag_files(directory: str, sources: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Read the DAGs that are directories of the controller.

    Args:
        directory: ``airflow_dags_dir``; may be empty.
        sources: ``airflow_dag_sources``.

    Returns:
        Path to content. Paths of a source begin with its name and a colon; those of ``airflow_dags_dir`` are relative
        to it.

    Raises:
        AnsibleFilterError: If a directory cannot be read, with the variable that names it.
    """
    files = context_files(directory, "airflow_dags_dir") if directory else {}
    for source in sources:
        if "path" in source:
            name = source["name"]
            below = context_files(source["path"], f"{VARIABLE}, {name}")
            files |= {f"{name}{SEPARATOR}{path}": content for path, content in below.items()}
    return files


def dag_trees(
    files: Mapping[str, str], directory: str, sources: Iterable[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Say which directories of DAGs the containers mount.

    Args:
        files: What ``dag_files`` returned, or some of it.
        directory: ``airflow_dags_dir``; may be empty.
        sources: ``airflow_dag_sources``.

    Returns:
        Name of the directory on the host to its path in the containers and its files, as ``reloadable_files`` of a
        container.
    """
    trees: dict[str, dict[str, Any]] = {"dags": {"path": FOLDER_PATH, "files": {}}} if directory else {}
    names = {source["name"] for source in sources if "path" in source}
    trees |= {f"dags-{name}": {"path": f"{SOURCES_PATH}/{name}", "files": {}} for name in sorted(names)}
    for path, content in files.items():
        name, separator, below = path.partition(SEPARATOR)
        if separator and name in names:
            trees[f"dags-{name}"]["files"][below] = content
        else:
            trees["dags"]["files"][path] = content
    return trees


def dag_config_trees(trees: Mapping[str, Mapping[str, Any]], config_dir: str, group: str) -> list[dict[str, Any]]:
    """Say which directories of the host hold the DAGs.

    Args:
        trees: What ``dag_trees`` returned.
        config_dir: Directory of the stack's configuration on the host.
        group: Id of the group that may read them.

    Returns:
        Them, as ``config_tree`` takes them.
    """
    return [{"path": f"{config_dir}/{name}", "group": group, "files": tree["files"]} for name, tree in trees.items()]


def dag_bundles(directory: str, sources: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Write the list of bundles for Airflow's setting ``dag_bundle_config_list``.

    Args:
        directory: ``airflow_dags_dir``; may be empty.
        sources: ``airflow_dag_sources``, without problems.

    Returns:
        The bundles; no token and no key is among them.
    """
    local = "airflow.dag_processing.bundles.local.LocalDagBundle"
    found = [{"name": FOLDER, "classpath": local, "kwargs": {"path": FOLDER_PATH}}] if directory else []
    for source in sources:
        name = source["name"]
        if "path" in source:
            found.append({"name": name, "classpath": local, "kwargs": {"path": f"{SOURCES_PATH}/{name}"}})
            continue
        kwargs = {
            "repo_url": source["git"],
            "tracking_ref": source.get("ref", "main"),
            "refresh_interval": GIT_REFRESH_S,
            **({"subdir": source["subfolder"].strip("/")} if source.get("subfolder") else {}),
            **({"git_conn_id": connection_id(name)} if {"token", "key"} & set(source) else {}),
        }
        found.append({"name": name, "classpath": "airflow.providers.git.bundles.git.GitDagBundle", "kwargs": kwargs})
    return found


def connection_id(name: str) -> str:
    """Name the connection that holds the token or the key of a repository.

    Args:
        name: Name of the source.

    Returns:
        Id of the connection.
    """
    return f"dag_source_{name}"


def dag_connections(sources: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Write the connections that hold the tokens and keys of repositories.

    Args:
        sources: ``airflow_dag_sources``.

    Returns:
        Id to connection, as in ``airflow_connections``.
    """
    found = {}
    for source in git_sources(sources):
        connection: dict[str, Any] = {"conn_type": "git", "host": source["git"]}
        if "token" in source:
            connection |= {"login": source.get("user", "git"), "password": source["token"]}
        elif "key" in source:
            connection["extra"] = {
                # OpenSSH takes no key without a newline at its end.
                "private_key": str(source["key"]).strip() + "\n",
                "strict_host_key_checking": "yes",
                "known_hosts_file": f"/run/config/{known_hosts_file(source['name'])}",
            }
        else:
            continue
        found[connection_id(source["name"])] = connection
    return found


def known_hosts_file(name: str) -> str:
    """Name the file with the host keys of a repository's host.

    Args:
        name: Name of the source.

    Returns:
        Its name among a container's files.
    """
    return f"known_hosts-{name}"


def known_hosts_files(sources: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Write the files with the host keys of repositories' hosts.

    Args:
        sources: ``airflow_dag_sources``.

    Returns:
        Name to content, as ``files`` of a container.
    """
    return {
        known_hosts_file(source["name"]): str(source["known_hosts"]).strip() + "\n"
        for source in git_sources(sources)
        if "known_hosts" in source
    }


def git_packages(build: Mapping[str, Any], sources: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add to ``airflow_build`` the programs that repositories need.

    Args:
        build: ``airflow_build``.
        sources: ``airflow_dag_sources``.

    Returns:
        What to install.
    """
    apt = build.get("apt", [])
    # Another type is refused where the image is planned.
    if not git_sources(sources) or not isinstance(apt, list):
        return dict(build)
    return {**build, "apt": [*apt, *(name for name in ("git", "openssh-client") if name not in apt)]}


def _named_queues(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Find the queues that a DAG file names for its tasks: of operators, of `@task`, and in `default_args`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            parts = []
            while isinstance(called, ast.Attribute):
                parts, called = [called.attr, *parts], called.value
            parts = [called.id, *parts] if isinstance(called, ast.Name) else parts
            makes_tasks = parts and (parts[0] == "task" or "task" in parts[:-1] or parts[-1] in ("task", "partial"))
            if makes_tasks or (parts and parts[-1].endswith(("Operator", "Sensor"))):
                found = [each.value for each in node.keywords if each.arg == "queue"]
            else:
                found = [
                    value
                    for each in node.keywords
                    if each.arg == "default_args" and isinstance(each.value, ast.Dict)
                    for key, value in zip(each.value.keys, each.value.values, strict=True)
                    if isinstance(key, ast.Constant) and key.value == "queue"
                ]
            for value in found:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield value.value, value.lineno


def dag_queue_problems(files: Mapping[str, str], queues: Iterable[str]) -> list[str]:
    """Find tasks that would wait for ever, because no worker takes tasks from their queue.

    Args:
        files: What ``dag_files`` returned.
        queues: Queues that have a worker.

    Returns:
        A sentence for each place that names another one. What a file works out while it is imported cannot be seen.
    """
    known, found = set(queues), []
    for path, text in sorted(files.items()):
        if path.endswith(".py"):
            try:
                tree = ast.parse(as_bytes(text))
            except (SyntaxError, ValueError):
                continue  # another check says so
            found += [
                f"{path}, line {line}: no worker takes tasks from the queue {queue}; those with a worker are"
                f" {', '.join(sorted(known))}. Name it in airflow_worker_queues of a host in airflow_worker."
                for queue, line in _named_queues(tree)
                if queue not in known
            ]
    return found
