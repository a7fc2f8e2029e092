"""Fetches DAGs from git repositories for the check before the deployment, and runs none of their code.

Reads a JSON object from standard input: ``files``, absolute path to content; ``environment``, secret variables;
``sources``, the names of the repositories among Airflow's bundles.

Prints, as its last line, a JSON object: ``fetched``, the names of those that were read; ``archive``, their files in the
form that ``import_dags.py`` takes; ``failed``, name to what is wrong and what to do.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dag_bundles import Unreadable, open_bundle
from dag_inputs import connection_secrets, masked, packed, text_of, write_files

#: Bytes of a repository's files, which are in memory during the check, and of all archives together: the engine's log
#: of a run is read up to 4 MiB.
LARGEST, LARGEST_ARCHIVE = 32 * 2**20, 3 * 2**20
#: What git says when something is wrong, and what to do. The first that matches counts.
REMEDIES = (
    (r"did not match any file\(s\) known to git", "There is no such branch, tag or commit: correct ref."),
    (r"could not read Username", "The repository asks for a login: give the source a token."),
    (
        r"Authentication failed|HTTP Basic: Access denied|error: 40[13]|requested URL returned error: 40[13]",
        "Give the source a token that can read the repository, and user if the server wants the name that it belongs"
        " to.",
    ),
    (r"Host key verification failed", "known_hosts has not the key of this host, or another one: compare them."),
    (r"Load key|error in libcrypto", "The key cannot be read: keep it whole, with its first and last line."),
    (r"Permission denied", "The server does not take the key: add its public half as a deploy key there."),
    (
        r"Could not resolve host|Name or service not known|name resolution|timed out|refused|unreachable|No route",
        "Airflow's containers cannot reach it: correct the URL, or see that this host reaches the server.",
    ),
    (r"certificate", "Its certificate is not known to Airflow's image: docs/security.md."),
    (
        r"not found|does not exist|not appear to be a git repository",
        "Correct the URL. A server may also say so if token or key cannot read the repository.",
    ),
)


def files_below(top: Path, repository: Path) -> Iterator[tuple[str, Path]]:
    """List the files of a source.

    A link that leads out of the repository is left out: what it leads to is this container's, and may be a secret.

    Args:
        top: The folder with the DAGs.
        repository: The repository that it is in.

    Yields:
        Path below the folder, and the file.
    """
    repository = repository.resolve()
    for directory, folders, names in os.walk(top, followlinks=True):
        here = Path(directory)
        inner = {name: (here / name).resolve() for name in folders if name != ".git"}
        folders[:] = sorted(
            name
            for name, target in inner.items()
            # A folder that leads to one above itself would never end.
            if target.is_relative_to(repository) and not here.resolve().is_relative_to(target)
        )
        for name in sorted(names):
            place = (here / name).resolve()
            if place.is_file() and place.is_relative_to(repository) and ".git" not in place.parts:
                yield str((here / name).relative_to(top)), place


def fetch(name: str) -> dict[str, str]:
    """Read a repository.

    Args:
        name: The source.

    Returns:
        Path below its folder to content.

    Raises:
        Unreadable: If that is not possible, with what to do.
    """
    bundle = open_bundle(name)
    if not bundle.path.is_dir():
        raise Unreadable(f"it has no folder {bundle.subdir} at {bundle.tracking_ref}: correct subfolder or ref.")
    found, size = {}, 0
    for path, place in files_below(bundle.path, bundle.repo_path):
        size += place.stat().st_size
        if size > LARGEST:
            raise Unreadable(too_large(f"{LARGEST // 2**20} MiB"))
        found[path] = text_of(place.read_bytes())
    return found


def too_large(what: str) -> str:
    """Say that a repository has more than the check takes."""
    return (
        f"it has more than {what}, which is too much for the check. Keep the DAGs in a folder of their own, and name it"
        " in subfolder."
    )


def remedied(said: str) -> str:
    """Add what to do to what git says."""
    remedy = next((remedy for pattern, remedy in REMEDIES if re.search(pattern, said, re.IGNORECASE)), "")
    return f"{said}\n  {remedy}" if remedy else said


def secrets_of(asked: dict[str, Any]) -> set[str]:
    """Collect the values that are not shown.

    Args:
        asked: What was read from standard input.
    """
    connections = (json.loads(text) for path, text in asked["files"].items() if path.endswith("connections.json"))
    found = {
        secret
        for each in connections
        for connection in each.values()
        for secret in connection_secrets(connection, "private_key".__eq__)
    }
    return found | set(asked["environment"].values())


def main() -> int:
    """Fetch, and report."""
    asked = json.load(sys.stdin)
    write_files({Path(name): text for name, text in asked["files"].items()})
    os.environ.update(asked["environment"])
    # git would wait for an answer that nobody gives.
    os.environ["GIT_TERMINAL_PROMPT"] = "0"
    secrets = secrets_of(asked)
    fetched: dict[str, dict[str, str]] = {}
    failed, archive = {}, packed({})
    for name in asked["sources"]:
        try:
            files = fetch(name)
            grown = packed({**fetched, name: files})
            if len(grown) > LARGEST_ARCHIVE:
                raise Unreadable(too_large(f"{LARGEST_ARCHIVE // 2**20} MiB of compressed files, with those before it"))
        except Unreadable as error:
            failed[name] = masked(remedied(str(error)), secrets)
        else:
            fetched[name], archive = files, grown
    print(f"\n{json.dumps({'fetched': list(fetched), 'failed': failed, 'archive': archive})}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
