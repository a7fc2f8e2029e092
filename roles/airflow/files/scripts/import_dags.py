"""Imports every DAG of the configured folder, as the DAG processor would, in a place without network and database.

Each file has a process and a time of its own, so that one that is slow or ends its process does not fail the others.

Usage: ``import_dags.py [-]``. With ``-`` it first reads a JSON object from standard input and writes what is to be
there: ``dags``, path to content, ``sources``, the names of further directories of DAGs to their absolute paths, and
``files``, absolute path to content. A path of ``dags`` is relative to the configured folder, or is the name of a
source, a colon, and a path below that source; ``pools``, the names of the pools that the inventory declares;
``archive``, the files of sources that ``fetch_dags.py`` has fetched.

Prints, as its last line, a JSON object. Path of a DAG file, in that form, to what is to be said of it, in

- ``broken``: it cannot be imported;
- ``unknown``: it cannot be said here. While it is imported, it asks for a secret, or for a variable or a connection
  that the inventory does not declare, and what failed may have failed for want of it;
- ``outdated``: it can be imported, and its tasks use what Airflow 3 has removed;
- ``pools``: it can be imported, and its tasks wait in a pool that the inventory does not declare.

``fine`` lists the files of which there is nothing to say.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import json
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Airflow reads its settings when it is imported.
os.environ["AIRFLOW__SECRETS__BACKEND"] = "import_dags.OnlyDeclared"
os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "CRITICAL"
# Otherwise an error may not show the line of the DAG file.
os.environ["AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACK_DEPTH"] = "50"

from airflow.secrets.local_filesystem import LocalFilesystemBackend
from airflow_2 import airflow_2_forms
from dag_inputs import connection_secrets, dag_places, leaves, masked, read_declared, unpacked, write_files

#: What most files import, and what the import of a file needs: loaded once, and not in each process.
PRELOADED = (
    "airflow.dag_processing.dagbag",
    "airflow.models.connection",
    "airflow.models.dagcode",
    "airflow.providers.standard.operators.python",
    "airflow.sdk.definitions.connection",
    "airflow.sdk.definitions.dag",
    "airflow.sdk.execution_time.context",
)
#: Files that are imported at a time.
AT_ONCE = 2
# No value of a variable would help against these.
HOPELESS = re.compile(r"^(SyntaxError|IndentationError|TabError|NameError|ImportError|ModuleNotFoundError)\b")
LAST_LINE = re.compile(r"^[A-Za-z_][\w.]*(: .*)?$")
#: Characters of an error that are shown.
LONGEST_ERROR = 500

#: Names of environment variables with secret values.
SECRET_NAMES = os.environ.get("DAGS_CHECK_SECRETS", "").split()
#: Values that the report must not show.
hidden: set[str] = set()
#: What a path in the report begins with to the directory that it is relative to.
roots: dict[str, Path] = {}
#: Pools that Airflow has; ``None`` if the caller did not name them.
declared_pools: set[str] | None = None
#: DAG file to what it asked for while it was imported.
asked: dict[str, list[str]] = {}


class OnlyDeclared(LocalFilesystemBackend):
    """Backend of secrets that knows what the inventory declares, and remembers which DAG file asked for more."""

    def get_variable(self, key: str, **_: Any) -> str | None:
        """Look a variable up."""
        value = super().get_variable(key)
        if value is None:
            remember(f'the variable "{key}"')
        return value

    def get_connection(self, conn_id: str, **_: Any) -> Any:
        """Look a connection up."""
        connection = super().get_connection(conn_id)
        if connection is None:
            remember(f'the connection "{conn_id}"')
        return connection


class SecretsUnknown(os._Environ):  # type: ignore[type-arg]
    """Environment that remembers which DAG file asked for a secret, of which only the names are known here."""

    def __getitem__(self, key: str) -> str:
        """Remember that the secret was asked for."""
        if key in SECRET_NAMES:
            remember(f'the secret "{key}"')
        return super().__getitem__(key)


def named(path: str) -> str | None:
    """Name a DAG file, or a module that one imports, as the report does.

    Args:
        path: Its absolute path.

    Returns:
        The name, or ``None`` if the file is none of the DAGs' directories.
    """
    for prefix, root in roots.items():
        if path.startswith(f"{root}/"):
            return prefix + path.removeprefix(f"{root}/")
    return None


def remember(what: str) -> None:
    """Note it for the DAG file that is being imported: of those on the stack the outermost, as it may import others."""
    frame, path = sys._getframe(), None
    while frame:
        if named(frame.f_code.co_filename):
            path = frame.f_code.co_filename
        frame = frame.f_back
    if path and what not in asked.setdefault(path, []):
        asked[path].append(what)


def needs_running_airflow(path: str, error: str) -> bool:
    """Whether a file may import well where its variables and connections are known.

    Args:
        path: The file.
        error: Its traceback; the last line that has the form of one says which exception it was.
    """
    last = [line for line in error.splitlines() if LAST_LINE.match(line)][-1:]
    return bool(asked.get(path)) and not any(HOPELESS.match(line) for line in last)


def import_one(path: str, folder: Path, results: multiprocessing.connection.Connection) -> None:
    """Import one file, in a process of its own, and send what came of it.

    Args:
        path: The file.
        folder: The directory of DAGs that it is in.
        results: Where to send its DAGs' ids, its error, what it asked for, and its tasks' pools.
    """
    # What it prints is of no use here, and may be long.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)

    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.models.dagcode import DagCode

    # As the DAG processor does, this one lets files import what lies beside them.
    bag = BundleDagBag(str(folder), bundle_path=folder, bundle_name="dags-folder", collect_dags=False)
    bag.process_file(path, only_if_updated=False)
    error = "\n".join(bag.import_errors.values())
    for dag in bag.dags.values():
        try:
            # Airflow keeps the text of a DAG's file, and has an import error where it cannot read it.
            DagCode.get_code_from_file(dag.fileloc)
        except UnicodeDecodeError as reason:
            error = f"Airflow reads the file of a DAG as UTF-8 only: {reason}. Save it in UTF-8."
    result = {
        "dags": sorted(bag.dags),
        "error": error,
        "unknown": needs_running_airflow(path, error),
        "asked": asked.get(path, []),
        "pools": sorted({str(task.pool) for dag in bag.dags.values() for task in dag.tasks}),
    }
    results.send(result)
    results.close()
    # Threads and handlers of the file have nothing to say about it.
    os._exit(0)


@dataclass
class Import:
    """A file that is being imported."""

    path: str
    process: multiprocessing.process.BaseProcess
    results: multiprocessing.connection.Connection
    ends: float


def import_all(paths: Mapping[str, Path], seconds: float) -> dict[str, dict[str, Any]]:
    """Import files, a process each.

    Args:
        paths: Each file to the directory of DAGs that it is in.
        seconds: Time of each.

    Returns:
        File to what ``import_one`` sent; of one that sent nothing its error.
    """
    context = multiprocessing.get_context("fork")
    waiting, found = list(paths), {}
    running: dict[str, Import] = {}
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            path = waiting.pop(0)
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=import_one, args=(path, paths[path], there))
            process.start()
            there.close()
            running[path] = Import(path, process, here, time.monotonic() + seconds)
        patience = min(each.ends for each in running.values()) - time.monotonic()
        multiprocessing.connection.wait([each.results for each in running.values()], max(0, patience))
        for each in list(running.values()):
            if each.results.poll():
                with contextlib.suppress(EOFError):
                    found[each.path] = each.results.recv()
                each.process.join(5)
            elif time.monotonic() < each.ends:
                continue
            late = time.monotonic() >= each.ends
            each.process.kill()
            each.process.join()
            each.results.close()
            del running[each.path]
            if each.path not in found:
                error = too_slow(seconds) if late else ended(each.process.exitcode)
                found[each.path] = {"dags": [], "error": error, "unknown": False, "asked": [], "pools": []}
    return found


def too_slow(seconds: float) -> str:
    """Say that a file took too long."""
    return (
        f"its import takes more than {seconds:g} s, after which Airflow gives it up. Move slow work, such as requests"
        " and queries, into the tasks: the top of a file runs each time that it is read."
    )


def ended(status: int | None) -> str:
    """Say how a process ended that should have sent a result.

    Args:
        status: Its exit status, negative for a signal.
    """
    if status == -signal.SIGKILL:
        return "its process was killed while it was imported, as happens when it uses more memory than the worker has."
    how = f"by the signal {signal.Signals(-status).name}" if status and status < 0 else f"with status {status}"
    return f"its process ended {how} while it was imported. Remove what ends it, such as os._exit()."


def shown(error: str, name: str) -> str:
    """Say what an error is and where.

    Args:
        error: Its traceback, or a sentence.
        name: The file that was imported.

    Returns:
        The line of what failed, and its file if that is another of the DAGs' files, and the exception.
    """
    slow = re.search(r"DagBag import timeout for .* after ([\d.]+)s", error)
    places = [
        (place, line)
        for path, line in re.findall(r'File "([^"]+)", line (\d+)', error)
        if (place := named(path)) is not None
    ]
    lines = error.splitlines()
    starts = [number for number, line in enumerate(lines) if LAST_LINE.match(line)]
    text = masked("\n".join(lines[starts[-1] if starts and places else 0 :]), hidden)
    text = " ".join(text.split())[:LONGEST_ERROR]
    where = "" if not places or places[-1][0] == name else f"{places[-1][0]}, "
    place = f"{where}line {places[-1][1]}: " if places else ""
    return place + (too_slow(float(slow[1])) if slow else text)


def remedy(error: str, path: str, root: Path) -> list[str]:
    """Say what to do about some common errors.

    Args:
        error: What ``shown`` returned.
        path: The file that was imported.
        root: The directory of DAGs that it is in.
    """
    missing = re.search(r"\bModuleNotFoundError: No module named '([\w.]+)'", error)
    if missing and missing[1].startswith("airflow.providers."):
        parts = missing[1].split(".")
        for above in (".".join(parts[:length]) for length in range(3, len(parts))):
            if importlib.util.find_spec(f"{above}.get_provider_info"):
                return [f"The installed version of {above} has no such module: its changelog says what took its place."]
        return ["Add the package of that provider (apache-airflow-providers-…) to airflow_build.requirements."]
    if missing and not missing[1].startswith("airflow."):
        if here := below_its_source(missing[1], path, root):
            return [f"Modules are found from the top of the DAGs' directory: write from {here} import …"]
        return [f"Add the package of {missing[1]} to airflow_build.requirements, or the module to the DAGs' directory."]
    if re.search(r"name resolution|Network is unreachable|ConnectionError|ConnectError|getaddrinfo", error):
        return ["It uses the network at its top, which the check does not have: do so in a task."]
    key = re.search(r"\bKeyError: '([A-Z][A-Z0-9_]*)'", error)
    if key:
        return [f"If it is an environment variable, set {key[1]} in airflow_environment or airflow_secret_environment."]
    return []


def below_its_source(missing: str, path: str, root: Path) -> str | None:
    """Find a module that is there, and is imported with folders above the DAGs' directory, such as those of a project.

    Args:
        missing: The package that Python did not find.
        path: The file that was imported.
        root: The directory of DAGs that it is in.

    Returns:
        The name by which it can be imported; ``None`` if there is none.
    """
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (SyntaxError, ValueError):
        # An archive, for example.
        return None
    for node in ast.walk(tree):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if not f"{name}.".startswith(f"{missing}."):
                continue
            parts = name.split(".")
            for start in range(1, len(parts)):
                place = root.joinpath(*parts[start:])
                if place.is_dir() or place.with_name(f"{place.name}.py").is_file():
                    return ".".join(parts[start:])
    return None


def listed(findings: list[tuple[int, str]]) -> list[str]:
    """Write findings, a line each."""
    return [f"line {line}: {text}" for line, text in findings]


def unpack() -> None:
    """Write what standard input holds, and remember the directories of the sources and the pools.

    DAGs can only be read, as in Airflow's containers.
    """
    global declared_pools
    content = json.load(sys.stdin)
    if "pools" in content:
        declared_pools = {*content["pools"], "default_pool"}
    roots.update({f"{source}:": Path(path) for source, path in content.get("sources", {}).items()})
    for root in roots.values():
        root.mkdir(parents=True, exist_ok=True)
    places = dag_places(content["dags"], roots)
    for source, files in unpacked(content["archive"]).items() if content.get("archive") else ():
        places |= {roots[f"{source}:"] / name: text for name, text in files.items()}
    places |= {Path(name): text for name, text in content["files"].items()}
    write_files(places)
    for root in roots.values():
        for directory in [*(each for each in root.rglob("*") if each.is_dir()), root]:
            directory.chmod(0o500)


def main(arguments: list[str]) -> int:
    """Import, and report."""
    from airflow.configuration import conf
    from airflow.dag_processing.importers import get_importer_registry

    for module in PRELOADED:
        importlib.import_module(module)
    folder = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    roots[""] = folder
    if arguments == ["-"]:
        unpack()
    connections, variables = read_declared(json.loads(conf.get("secrets", "backend_kwargs", fallback="") or "{}"))
    hidden.update(leaves(variables))
    for connection in connections.values():
        hidden.update(connection_secrets(connection))
    report: dict[str, dict[str, str]] = {"broken": {}, "unknown": {}, "outdated": {}, "pools": {}}
    fine = []
    safe_mode = conf.getboolean("core", "dag_discovery_safe_mode")
    listed_in = {
        path: root
        for root in roots.values()
        for path in sorted(map(str, get_importer_registry().list_dag_files(str(root), safe_mode=safe_mode)))
    }
    os.environ.__class__ = SecretsUnknown
    found = import_all(listed_in, conf.getfloat("dag_processor", "dag_file_processor_timeout"))
    owners: dict[str, str] = {}
    for path in listed_in:
        name, result = named(path) or path, found[path]
        for dag in result["dags"]:
            other = owners.setdefault(dag, name)
            if other != name and not result["error"]:
                result["error"] = f"its DAG {dag} is also in {other}. Give it another id."
        old, runs = airflow_2_forms(Path(path).read_bytes())
        error = shown(result["error"], name)
        if result["error"] and result["unknown"]:
            wants = f"asks for {', '.join(result['asked'])}"
            report["unknown"][name] = "\n  ".join([wants, error, *listed(old + runs)])
        elif result["error"]:
            report["broken"][name] = "\n  ".join(
                [error, *(listed(old) or remedy(error, path, listed_in[path])), *listed(runs)]
            )
        elif runs:
            report["outdated"][name] = "\n  ".join(["its tasks will fail", *listed(runs)])
        missing = sorted(set(result["pools"]) - declared_pools) if declared_pools is not None else []
        if missing and not result["error"]:
            report["pools"][name] = ", ".join(missing)
        if not any(name in findings for findings in report.values()):
            fine.append(name)
    print(f"\n{json.dumps({**report, 'fine': fine})}", flush=True)
    return 0


if __name__ == "__main__":
    # The backend of secrets is imported by its module's name: both must be the same module.
    import import_dags

    sys.exit(import_dags.main(sys.argv[1:]))
