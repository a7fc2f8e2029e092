"""Finds what Airflow 3 has removed in the text of a DAG file, and says what to write instead.

Each entry was tried with the Airflow of the image; the unit tests try them again.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

#: Modules that are gone, and where their classes are now.
MODULES = {
    "airflow.operators.python_operator": "airflow.providers.standard.operators.python",
    "airflow.operators.bash_operator": "airflow.providers.standard.operators.bash",
    "airflow.operators.dummy_operator": "airflow.providers.standard.operators.empty",
    "airflow.operators.dummy": "airflow.providers.standard.operators.empty",
    "airflow.operators.email_operator": "airflow.providers.smtp.operators.smtp",
    "airflow.operators.dagrun_operator": "airflow.providers.standard.operators.trigger_dagrun",
    "airflow.operators.latest_only_operator": "airflow.providers.standard.operators.latest_only",
    "airflow.operators.branch_operator": "airflow.sdk.bases.branch",
    "airflow.operators.postgres_operator": "airflow.providers.common.sql.operators.sql",
    "airflow.providers.postgres.operators.postgres": "airflow.providers.common.sql.operators.sql",
    "airflow.operators.sql": "airflow.providers.common.sql.operators.sql",
    "airflow.operators.http_operator": "airflow.providers.http.operators.http",
    "airflow.sensors.base_sensor_operator": "airflow.sdk",
    "airflow.sensors.external_task_sensor": "airflow.providers.standard.sensors.external_task",
    "airflow.sensors.s3_key_sensor": "airflow.providers.amazon.aws.sensors.s3",
    "airflow.hooks.base_hook": "airflow.sdk",
    "airflow.hooks.postgres_hook": "airflow.providers.postgres.hooks.postgres",
    "airflow.hooks.S3_hook": "airflow.providers.amazon.aws.hooks.s3",
    "airflow.hooks.http_hook": "airflow.providers.http.hooks.http",
    "airflow.datasets": "airflow.sdk",
    # Of providers: the operators and sensors that their present versions have elsewhere.
    "airflow.providers.amazon.aws.sensors.s3_key": "airflow.providers.amazon.aws.sensors.s3",
}
#: Classes that have another name there.
CLASSES = {
    "DummyOperator": "EmptyOperator",
    "PostgresOperator": "SQLExecuteQueryOperator",
    "SimpleHttpOperator": "HttpOperator",
    "Dataset": "Asset",
}
#: Modules and names that are gone without one that takes their place.
GONE = {
    "airflow.contrib": "use the hooks and operators of a provider's package (airflow.providers.…)",
    "airflow.operators.subdag": "use a TaskGroup (from airflow.sdk import TaskGroup)",
    "airflow.operators.subdag_operator": "use a TaskGroup (from airflow.sdk import TaskGroup)",
    "airflow.utils.dates.days_ago": "write a fixed date, such as pendulum.datetime(2026, 1, 1, tz='UTC')",
    "airflow.utils.helpers.chain": "write from airflow.sdk import chain",
    "airflow.utils.helpers.cross_downstream": "write from airflow.sdk import cross_downstream",
    "airflow.utils.decorators.apply_defaults": "remove it, since it is no longer needed",
}
#: Arguments that DAG and @dag refuse.
DAG_ARGUMENTS = {
    "schedule_interval": "write schedule",
    "timetable": "write schedule",
    "concurrency": "write max_active_tasks",
    "fail_stop": "write fail_fast",
    "default_view": "remove it",
    "orientation": "remove it",
    "full_filepath": "remove it",
}
#: Arguments that operators refuse.
TASK_ARGUMENTS = {
    "provide_context": "remove it, since the function gets what it names anyway",
    "task_concurrency": "write max_active_tis_per_dag",
    "xcom_push": "write do_xcom_push",
}
#: Arguments that one operator refuses.
OPERATOR_ARGUMENTS = {("TriggerDagRunOperator", "execution_date"): "write logical_date"}
TRIGGER_RULES = {"none_failed_or_skipped": "none_failed_min_one_success", "dummy": "always"}
#: What a task no longer finds in its context: the file is imported, and the task fails.
CONTEXT = {
    "execution_date": "logical_date",
    "next_execution_date": "data_interval_end",
    "prev_execution_date": "prev_data_interval_start_success",
    "prev_execution_date_success": "prev_data_interval_start_success",
    "yesterday_ds": "macros.ds_add(ds, -1)",
    "yesterday_ds_nodash": "macros.ds_format(macros.ds_add(ds, -1), '%Y-%m-%d', '%Y%m%d')",
    "tomorrow_ds": "macros.ds_add(ds, 1)",
    "tomorrow_ds_nodash": "macros.ds_format(macros.ds_add(ds, 1), '%Y-%m-%d', '%Y%m%d')",
    "triggering_dataset_events": "triggering_asset_events",
}
TEMPLATE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
CONTEXT_NAMES = ("context", "kwargs", "ctx")
RUN_NAMES = ("dag_run", "ti", "task_instance")

Finding = tuple[int, str]


def name_of(node: ast.expr) -> str:
    """Name of what is called, without what it belongs to."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def is_task_decorator(node: ast.expr) -> bool:
    """Whether it is ``@task``, ``@task(…)``, or one such as ``@task.branch``."""
    node = node.func if isinstance(node, ast.Call) else node
    return name_of(node) == "task" or (isinstance(node, ast.Attribute) and name_of(node.value) == "task")


def imported(node: ast.AST) -> Iterator[Finding]:
    """Imports of what is gone."""
    if isinstance(node, ast.Import):
        names = [(each.name, "") for each in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        names = [(node.module, each.name) for each in node.names]
    else:
        return
    for module, name in names:
        whole = f"{module}.{name}" if name else module
        gone = next((text for old, text in GONE.items() if f"{whole}.".startswith(f"{old}.")), None)
        # A module may be imported by its path, or as a name of its package.
        moved = MODULES.get(module) or MODULES.get(whole)
        if gone:
            yield node.lineno, f"Airflow 3 has no {whole}: {gone}."
        elif moved and name and module in MODULES:
            yield node.lineno, f"Airflow 3 has no {module}: write from {moved} import {CLASSES.get(name, name)}."
        elif moved:
            yield node.lineno, f"Airflow 3 has no {whole}: import from {moved}."


def called(node: ast.AST) -> Iterator[Finding]:
    """Arguments that are refused."""
    if not isinstance(node, ast.Call):
        return
    name = name_of(node.func)
    of_dag = name in ("DAG", "dag")
    of_task = name.endswith(("Operator", "Sensor")) or is_task_decorator(node)
    for argument in node.keywords:
        instead = None
        if of_dag:
            instead = DAG_ARGUMENTS.get(argument.arg or "")
        elif of_task:
            instead = TASK_ARGUMENTS.get(argument.arg or "") or OPERATOR_ARGUMENTS.get((name, argument.arg or ""))
        if instead:
            yield argument.value.lineno, f"{name} has no argument {argument.arg} in Airflow 3: {instead}."
        if of_task and argument.arg == "trigger_rule" and isinstance(argument.value, ast.Constant):
            rule = TRIGGER_RULES.get(str(argument.value.value))
            if rule:
                yield argument.value.lineno, f"Airflow 3 has no trigger rule {argument.value.value}: write {rule}."
    if of_dag and len(node.args) > 1:
        yield node.lineno, f"{name} takes all but the DAG's id by name in Airflow 3: write description=… and so on."


def in_context(line: int, key: str) -> Finding:
    """Say what takes the place of a key of the context."""
    return line, f"A task's context has no {key} in Airflow 3: use {CONTEXT[key]}."


def used_by_tasks(node: ast.AST, callables: set[str]) -> Iterator[Finding]:
    """What tasks look for in their context and do not find."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        words = {word for part in TEMPLATE.findall(node.value) for word in re.findall(r"(?<![.\w'\"])\w+", part)}
        yield from (in_context(node.lineno, key) for key in CONTEXT if key in words)
    elif isinstance(node, ast.Subscript) and name_of(node.value) in CONTEXT_NAMES:
        key = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if key in CONTEXT:
            yield in_context(node.lineno, str(key))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args:
        key = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
        if key in CONTEXT and name_of(node.func.value) in CONTEXT_NAMES:
            yield in_context(node.lineno, str(key))
    elif isinstance(node, ast.Attribute) and node.attr == "execution_date" and name_of(node.value) in RUN_NAMES:
        yield node.lineno, f"{name_of(node.value)} has no execution_date in Airflow 3: use the context's logical_date."
    elif isinstance(node, ast.FunctionDef) and (
        node.name in callables or any(map(is_task_decorator, node.decorator_list))
    ):
        named = [*node.args.args, *node.args.kwonlyargs]
        yield from (in_context(each.lineno, each.arg) for each in named if each.arg in CONTEXT)


def airflow_2_forms(source: bytes) -> tuple[list[Finding], list[Finding]]:
    """Find what a file of Airflow 2 has and Airflow 3 has not.

    Args:
        source: Content of the file.

    Returns:
        Line and sentence of each that keeps the file from being imported, and of each that makes tasks fail; nothing
        for a file that is no Python.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return [], []
    nodes = list(ast.walk(tree))
    callables = {
        name_of(argument.value)
        for node in nodes
        if isinstance(node, ast.Call)
        for argument in node.keywords
        if argument.arg == "python_callable"
    }
    at_import = {finding for node in nodes for finding in (*imported(node), *called(node))}
    at_run = {finding for node in nodes for finding in used_by_tasks(node, callables)}
    return sorted(at_import), sorted(at_run)
