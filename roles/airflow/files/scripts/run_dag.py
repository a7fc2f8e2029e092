"""Runs one DAG once, without a scheduler, as ``airflow dags test`` does, with a database of its own.

Reads a JSON object from standard input: ``dags``, ``sources`` and ``files`` as for ``import_dags.py``;
``environment``, secret variables; ``dag``, its id; ``date``, the logical date, empty for now; ``conf``, the
configuration of the run as JSON, empty for none. The DAG is looked for in Airflow's bundles, in their order.

Prints what the tasks print, without the values of secrets, and, as its last line, a JSON object: ``problem`` if there
was no run, otherwise ``dag``, ``state``, ``date``, ``tasks`` (name to state) and ``failed`` (name to the last lines of
its log). A task that fails is not retried. Ends with another status than 0 if there is no such object.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import multiprocessing
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dag_bundles import Unreadable, open_bundle
from dag_inputs import connection_secrets, dag_places, leaves, masked, read_declared, write_files

#: Lines that are shown of the log of a task that failed.
LINES = 25
#: What Airflow says of itself.
OWN = re.compile(
    r"^\d{4}-\d\d-\d\dT\S+ \[(debug|info) *\] (?!\s*Output:)(.*\[(task|airflow\.(sdk|api_fastapi|models)[\w.]*)\])"
)
#: The frames of a traceback that lie in installed packages, with the lines of code and marks below each.
FRAMES = re.compile(r'(?m)^ +File "[^"]*/site-packages/[^"]*", line .*\n(?: +(?! |File ").*\n)*')
#: What Airflow shows of each task that returns something: all of it, which may be a whole table.
RETURNED = re.compile(r"(?:Done\. )?Returned value was: ")
#: Characters of such a line that are shown.
LONGEST_RETURNED = 300

#: Airflow's name for the bundle of the configured folder.
FOLDER = "dags-folder"


class Unable(Exception):
    """There can be no run; says why."""


class Output:
    """Passes on what is written to standard output and error, masked, and keeps a part of it."""

    def __init__(self, secrets: set[str]) -> None:
        """Take the streams over.

        Args:
            secrets: Values that are not shown.
        """
        self.secrets, self.kept, self.mark, self.seen = secrets, [], "", threading.Event()
        #: Whether it is only kept: until the first task runs.
        self.silent = True
        self.real = os.fdopen(os.dup(1), "w")
        reading, writing = os.pipe()
        for stream in (1, 2):
            os.dup2(writing, stream)
        os.close(writing)
        self.source = os.fdopen(reading, errors="replace")
        threading.Thread(target=self.pass_on, daemon=True).start()

    def pass_on(self) -> None:
        """Read until the end of the process."""
        for line in self.source:
            if self.mark and line.rstrip("\n").endswith(self.mark):
                self.seen.set()
                line = line.rstrip("\n").removesuffix(self.mark)
                if not line:
                    continue
                line += "\n"
            line = masked(line, self.secrets)
            self.kept.append(line)
            if not self.silent and not OWN.match(line):
                print(shortened(line), end="", file=self.real, flush=True)

    def settle(self) -> None:
        """Wait until all that was written has been passed on."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.mark = f"\0{os.urandom(8).hex()}"
        self.seen.clear()
        os.write(1, f"{self.mark}\n".encode())
        self.seen.wait(60)

    def take(self) -> str:
        """Return what was written since the last call."""
        self.settle()
        text, self.kept = "".join(self.kept), []
        return text


def what_matters(log: str) -> list[str]:
    """Shorten the log of a task that failed.

    Args:
        log: All of it.

    Returns:
        Its last lines, without what Airflow says of itself, and without frames of packages in tracebacks.
    """
    lines = [line.rstrip() for line in FRAMES.sub("", log).splitlines()]
    return [line for line in lines if line and not OWN.match(line)][-LINES:]


def shortened(line: str) -> str:
    """Cut the value that a task returned.

    Args:
        line: A line of a log; one that shows no such value stays whole.
    """
    if len(line) <= LONGEST_RETURNED or not RETURNED.search(line):
        return line
    return f"{line[:LONGEST_RETURNED].rstrip()}… ({len(line)} characters)\n"


def named(task_id: str, map_index: int) -> str:
    """Name a task instance."""
    return task_id if map_index < 0 else f"{task_id}[{map_index}]"


@contextlib.contextmanager
def logs_kept(output: Output) -> Iterator[dict[str, list[str]]]:
    """Keep the end of the log of each task that fails.

    Args:
        output: Where the logs go.

    Yields:
        Task to lines, filled as the DAG runs.
    """
    from airflow.sdk.definitions import dag as definition

    run: Callable[..., Any] = definition._run_task
    found: dict[str, list[str]] = {}

    def watched(*, ti: Any, **rest: Any) -> Any:
        name = named(ti.task_id, ti.map_index)
        output.take()
        output.silent = False
        print(f"── {name}", flush=True)
        try:
            return run(ti=ti, **rest)
        finally:
            found[name] = what_matters(output.take())[1:]

    definition._run_task = watched
    try:
        yield found
    finally:
        definition._run_task = run


def airflow_command(*arguments: str) -> None:
    """Run one command of Airflow's CLI in this process."""
    from airflow.cli.cli_parser import get_parser

    parsed = get_parser().parse_args(arguments)
    parsed.func(parsed)


def look_into(bundle_name: str) -> dict[str, Any]:
    """Import all files of a bundle.

    Args:
        bundle_name: Name of the bundle.

    Returns:
        ``dags``, id to path, and ``errors``, path below the bundle to the last line of the error.
    """
    from airflow.dag_processing.dagbag import BundleDagBag

    try:
        bundle = open_bundle(bundle_name)
    except Unreadable as error:
        return {"dags": {}, "errors": {"": str(error)}}
    bag = BundleDagBag(str(bundle.path), bundle_path=bundle.path, bundle_name=bundle_name)
    errors = {
        path.removeprefix(f"{bundle.path}/"): error.strip().splitlines()[-1]
        for path, error in sorted(bag.import_errors.items())
    }
    return {"dags": {dag_id: dag.fileloc for dag_id, dag in bag.dags.items()}, "errors": errors}


def apart(function: Callable[[str], dict[str, Any]], argument: str) -> dict[str, Any]:
    """Call a function in a process of its own: modules of two bundles may have the same name.

    Args:
        function: What to call.
        argument: Its argument.

    Returns:
        What it returns.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as process:
        return process.submit(function, argument).result()


def wanted_dag(dag_id: str) -> Any:
    """Find the DAG, and leave its bundle as the only one.

    Args:
        dag_id: Its id.

    Returns:
        The DAG, whose tasks are not retried.

    Raises:
        Unable: If no file has it.
    """
    from airflow.configuration import conf
    from airflow.dag_processing.dagbag import BundleDagBag

    bundles = conf.getjson("dag_processor", "dag_bundle_config_list")
    there, said = [], []
    for config in bundles:
        name = config["name"]
        # As in the report of the check.
        prefix = "" if name == FOLDER else f"{name}:"
        try:
            found = apart(look_into, name)
        except BrokenProcessPool:
            said.append(f"One of the files of {name} ends its process when it is imported; make dags tells which one.")
            continue
        if dag_id in found["dags"]:
            break
        there += found["dags"]
        said += [
            f"{prefix}{path} cannot be imported: {error}" if path else f"The source {name} cannot be read: {error}"
            for path, error in found["errors"].items()
        ]
    else:
        near = difflib.get_close_matches(dag_id, there, n=1)
        first = f"There is no DAG {dag_id}{f'; did you mean {near[0]}?' if near else '.'}"
        raise Unable("\n".join([first, f"These are there: {', '.join(sorted(there)) or 'none'}.", *said]))

    # The run imports all bundles up to the one with the DAG, in this process.
    os.environ["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"] = json.dumps([config])
    try:
        bundle = open_bundle(name)
    except Unreadable as error:
        raise Unable(f"The source {name} cannot be read: {error}") from None
    bag = BundleDagBag(str(bundle.path), bundle_path=bundle.path, bundle_name=name, collect_dags=False)
    bag.process_file(found["dags"][dag_id])
    if dag_id not in bag.dags:
        raise Unable(f"{found['dags'][dag_id]} has the DAG {dag_id} only in some of its imports.")
    dag = bag.dags[dag_id]
    for task in dag.tasks:
        if task.is_mapped:
            task.partial_kwargs["retries"] = 0
        else:
            task.retries = 0
    return dag


def options(asked: dict[str, Any]) -> tuple[Any, dict[str, Any] | None]:
    """Read date and configuration.

    Args:
        asked: What was read from standard input.

    Returns:
        The logical date, and the configuration.

    Raises:
        Unable: If one of them is not what it should be.
    """
    try:
        date = datetime.fromisoformat(asked["date"]) if asked["date"] else datetime.now(UTC)
    except ValueError:
        raise Unable(f"DATE is {asked['date']!r}, expected a date such as 2026-11-27 or 2026-11-27T17:30.") from None
    try:
        conf = json.loads(asked["conf"]) if asked["conf"] else None
    except ValueError as error:
        raise Unable(f'CONF is not JSON: {error}. Write it as \'{{"symbol": "AAPL"}}\'.') from None
    if conf is not None and not isinstance(conf, dict):
        raise Unable('CONF is not a JSON object. Write it as \'{"symbol": "AAPL"}\'.')
    return date if date.tzinfo else date.replace(tzinfo=UTC), conf


def run_dag(asked: dict[str, Any], output: Output) -> dict[str, Any]:
    """Run the DAG.

    Args:
        asked: What was read from standard input.
        output: Where the logs go.

    Returns:
        The report.

    Raises:
        Unable: If there can be no run.
    """
    date, conf = options(asked)
    dag = wanted_dag(asked["dag"])
    airflow_command("db", "migrate")
    try:
        with logs_kept(output) as logs:
            run = dag.test(logical_date=date, run_conf=conf)
    except Exception as error:
        # Parameters that the DAG does not take, for example.
        raise Unable(f"The DAG {asked['dag']} cannot run: {type(error).__name__}: {error}") from error
    from airflow.utils.session import create_session

    with create_session() as session:
        tasks = {named(ti.task_id, ti.map_index): str(ti.state) for ti in run.get_task_instances(session=session)}
    failed = {name: logs.get(name, []) for name, state in tasks.items() if state == "failed"}
    return {"dag": asked["dag"], "state": str(run.state), "date": date.isoformat(), "tasks": tasks, "failed": failed}


def secrets_of(asked: dict[str, Any]) -> set[str]:
    """Collect the values that are not shown. As in Airflow's logs, a variable or a key of ``extra`` counts by its name.

    Args:
        asked: What was read from standard input.
    """
    from airflow.sdk._shared.secrets_masker import should_hide_value_for_key

    kwargs = json.loads(os.environ.get("AIRFLOW__SECRETS__BACKEND_KWARGS") or "{}")
    connections, variables = read_declared(kwargs)
    found = {
        each
        for connection in connections.values()
        for each in connection_secrets(connection, should_hide_value_for_key)
    }
    found |= {each for name, value in variables.items() if should_hide_value_for_key(name) for each in leaves(value)}
    return found | set(asked["environment"].values())


def main() -> int:
    """Run, and report."""
    asked = json.load(sys.stdin)
    roots = {"": Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])}
    roots |= {f"{source}:": Path(path) for source, path in asked["sources"].items()}
    write_files(dag_places(asked["dags"], roots))
    write_files({Path(name): text for name, text in asked["files"].items()})
    os.environ.update(asked["environment"])
    output = Output(secrets_of(asked))
    try:
        report = run_dag(asked, output)
    except Unable as error:
        report = {"problem": masked(str(error), output.secrets)}
    except Exception:
        said = output.take() if output.silent else ""
        print(said, masked(traceback.format_exc(), output.secrets), file=output.real, flush=True)
        return 1
    output.settle()
    print(f"\n{json.dumps(report)}", file=output.real, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
