"""Questions to the logs: what is refused, what is asked, and how lines are shown."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from ansible_collections.quantops.ibkr_stack.plugins.plugin_utils import logs

SERVICES = {
    "airflow": {"active": True, "containers": {"airflow-worker": {}, "airflow-scheduler": {}}},
    "redis": {"active": True, "containers": {"redis": {}}},
    "mlflow": {"active": False, "containers": {"mlflow": {}}},
}
WANTED = {"service": "", "since": "1h", "level": "", "text": "", "limit": 200}


@pytest.mark.parametrize(
    ("change", "stored", "message"),
    [
        (
            {"service": "airflw"},
            True,
            "SERVICE is 'airflw', which is no service or container of this stack. Did you mean",
        ),
        ({"service": "mlflow"}, True, "SERVICE is 'mlflow'"),
        ({"service": "host"}, False, "SERVICE is 'host'"),
        ({"since": "yesterday"}, True, "SINCE is 'yesterday', expected a number of seconds, minutes, hours or days"),
        ({"since": "0h"}, True, "SINCE is '0h'"),
        ({"level": "warn"}, True, "LEVEL is 'warn', expected one of debug, info, warning, error, critical"),
        ({"limit": "0"}, True, "LIMIT is '0', expected a number from 1"),
        ({"limit": "all"}, True, "LIMIT is 'all'"),
        ({"text": "timeout"}, False, "TEXT is set, and the inventory has no host in the group monitoring"),
        ({"level": "error"}, False, "LEVEL is set, and the inventory has no host in the group monitoring"),
    ],
)
def test_a_question_that_cannot_be_answered(change: dict[str, Any], stored: bool, message: str) -> None:
    """Each is refused with the name of what is wrong."""
    [found] = logs.log_problems({**WANTED, **change}, SERVICES, stored)
    assert message in found


@pytest.mark.parametrize("service", ["", "airflow", "airflow-worker", "host"])
def test_a_question_that_can_be_answered(service: str) -> None:
    """A service, a container, the hosts, or everything."""
    assert logs.log_problems({**WANTED, "service": service, "level": "error", "text": "x"}, SERVICES, True) == []


def test_the_query() -> None:
    """The level and all worse ones; a service or a container of that name."""
    wanted = {"service": "airflow", "since": "2d", "level": "warning", "text": 'say "no"', "limit": "50"}
    assert logs.log_query(wanted) == (
        '_time:172800s AND (service:="airflow" OR container:="airflow") AND level:in(warning,error,critical)'
        ' AND i("say \\"no\\"") | sort by (_time) desc limit 50'
    )


def test_the_request_is_one_line_of_curls_configuration() -> None:
    """Nothing that is asked for ends the value, or begins another one."""
    text = 'a"\nurl = "http://elsewhere'
    line = logs.log_request({**WANTED, "text": text})
    assert line.count("\n") == 1
    name, value = line.rstrip("\n").split(" = ", 1)
    assert name == "data-urlencode"
    # As curl unquotes it: the backslash before a quote, another backslash, n, r or t.
    assert json.loads(value) == f"query={logs.log_query({**WANTED, 'text': text})}"
    assert len(shlex.split(value)) == 1


def test_lines_of_the_store() -> None:
    """The oldest first; the host where there are several."""
    found = "\n".join(
        json.dumps(line)
        for line in [
            {"_time": "2026-11-29T11:30:01Z", "_msg": "later", "host": "h2", "service": "redis", "container": "redis"},
            {
                "_time": "2026-11-29T11:30:00.123456789Z",
                "_msg": "one\n  two",
                "host": "h1",
                "service": "airflow",
                "container": "airflow-worker",
                "level": "error",
            },
            {"_time": "2026-11-29T11:30:02Z", "_msg": "cron", "host": "h1", "service": "host", "level": "unknown"},
        ]
    )
    assert logs.log_lines(found, ["h1", "h2"]) == [
        "2026-11-29 11:30:00.123  h1/airflow-worker  error  one\n    two",
        "2026-11-29 11:30:01      h2/redis  later",
        "2026-11-29 11:30:02      h1/host  -  cron",
    ]
    assert logs.log_lines(found, ["h1"])[1] == "2026-11-29 11:30:01      redis  later"
    assert logs.log_lines("", ["h1"]) == []


def test_a_line_cannot_be_taken_for_another() -> None:
    """What a terminal would obey is visible, and what follows a line break is indented."""
    text = "a\tb\x1b[2J\x07\r\n2026-11-29 11:30:00  redis  critical  no\u202eon\u2028\x85\x9bx"
    line = {"_time": "2026-11-29T11:30:01Z", "_msg": text, "container": "cr\non", "level": "info\x1b"}
    visible = "a\tb\\x1b[2J\\x07\n  2026-11-29 11:30:00  redis  critical  no\\u202eon\\u2028\\x85\\x9bx"
    [found] = logs.log_lines(json.dumps(line, ensure_ascii=False), ["h1"])
    assert found == f"2026-11-29 11:30:01      cr\\non  info\\x1b  {visible}"
    results = [{"item": "redis", "stdout": "", "stderr": "2026-11-29T11:30:01Z a\x1b[31mb\x0c2026-11-29T11:30:02Z c"}]
    assert logs.container_log_lines(results, 2) == [
        "2026-11-29 11:30:01      redis  a\\x1b[31mb\\x0c2026-11-29T11:30:02Z c"
    ]


def test_lines_of_the_engine() -> None:
    """Both streams of all containers by their times, the newest ones."""
    results = [
        {
            "item": "redis",
            "stdout": "2026-11-29T11:30:00.000000001Z a\n2026-11-29T11:30:02.5Z c",
            "stderr": "2026-11-29T11:30:01.25Z b",
        },
        {"item": "minio", "stdout": "2026-11-29T11:30:03Z d", "stderr": ""},
    ]
    assert logs.container_log_lines(results, 3) == [
        "2026-11-29 11:30:01.25   redis  b",
        "2026-11-29 11:30:02.5    redis  c",
        "2026-11-29 11:30:03      minio  d",
    ]
