"""What a healthy stack tells, and that each thing that breaks is told to people in time, and that it is over."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator

import pytest
import requests
from stack_under_test import Stack, command, eventually
from watched import Watched, now, play, start_receivers

#: Seconds from an event to its alert at a receiver.
IN_TIME = 120


@pytest.fixture(scope="module")
def watched(stack: Stack) -> Watched:
    """The monitoring, with receivers."""
    start_receivers()
    return Watched(stack)


# ---- a healthy stack


def test_everything_is_measured(watched: Watched) -> None:
    """Each container with figures in its contract, and each page; the service of another collection too."""

    def down() -> list[str]:
        found = watched.query("up == 0 or probe_success == 0")
        return [f"{each['metric'].get('page') or each['metric']['job']}" for each in found]

    eventually(lambda: not down(), seconds=120)
    jobs = watched.values("count(up) by (job)", "job")
    assert {
        *("backend", "flower", "minio", "backup", "monitoring", "victoria-metrics", "victoria-logs", "vmalert"),
        *("alertmanager", "vmagent", "vlagent", "node-exporter", "container-agent", "postgres-exporter"),
        *("redis-exporter", "pages"),
    } <= set(jobs)  # fmt: skip
    pages = set(watched.values("probe_success", "page"))
    assert {"Notebook", "Airflow", "MLflow", "Flower", "MinIO console", "MinIO API", "Monitoring"} <= pages
    assert watched.values("pg_up", "container") == {"postgres-exporter": 1}
    assert watched.values("redis_up", "container") == {"redis-exporter": 1}


def test_airflow_tells_what_it_counts(watched: Watched) -> None:
    """Without a collector between."""
    eventually(lambda: watched.query('{__name__=~"airflow_scheduler_heartbeat.*"}'), seconds=120)


def test_no_alert_on_a_healthy_stack(watched: Watched) -> None:
    """Neither fires one nor waits one to."""
    with contextlib.suppress(AssertionError):
        # The receivers have just been started: what could not be sent before is told for five minutes and some seconds.
        eventually(lambda: not watched.firing(), seconds=480)
    assert watched.firing() == set()


def test_nobody_reads_without_a_login(watched: Watched, stack: Stack) -> None:
    """Neither from outside nor in the network of the containers; the agent's password does not read."""
    for path in ("/vmui/", "/api/v1/query?query=up", "/select/vmui/", "/api/v1/alerts"):
        assert requests.get(f"{watched.base}{path}", timeout=30).status_code == 401, path
        assert watched.session.get(f"{watched.base}{path}", timeout=30).status_code == 200, path
        agent = ("agent", stack.secret("monitoring_agent_password"))
        assert requests.get(f"{watched.base}{path}", auth=agent, timeout=30).status_code in (400, 401, 403, 404), path
    # What deletes or writes is not for people either.
    for path in ("/api/v1/admin/tsdb/delete_series?match[]=up", "/api/v1/import", "/snapshot/create", "/api/v1/write"):
        assert watched.session.post(f"{watched.base}{path}", timeout=30).status_code in (400, 404), path
    ask = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "5"]
    for address in (
        *(
            "victoria-metrics:8428/api/v1/query?query=up",
            "victoria-logs:9428/select/vmui/",
            "vmalert:8880/api/v1/alerts",
        ),
        *("alertmanager:9093/api/v2/silences", "vmagent:8429/api/v1/import/prometheus", "vlagent:9429/insert/jsonline"),
        *("vmagent:8429/opentelemetry/v1/metrics", "vmagent:8429/metrics", "alertmanager:9093/metrics"),
    ):
        assert stack.execute("notebook", *ask, f"http://{address}").stdout == "401", address


def test_users_of_the_monitoring_see_no_data(stack: Stack) -> None:
    """Neither rows of PostgreSQL nor keys of Redis nor objects of MinIO."""
    password = {"PGPASSWORD": stack.secret("postgres_monitoring_password")}
    words = ("psql", "--host=127.0.0.1", "--username=monitoring", "--no-psqlrc", "--tuples-only", "--command")
    said = stack.execute("postgres", *words, "SELECT 1", "--dbname=airflow", environment=password)
    assert "permission denied for database" in said.stderr
    said = stack.execute(
        "postgres", *words, "SELECT pg_read_file('/etc/passwd')", "--dbname=postgres", environment=password
    )
    assert "permission denied" in said.stderr
    password = {"REDISCLI_AUTH": stack.secret("redis_monitoring_password")}
    for words in (("GET", "x"), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("FLUSHALL",)):
        said = stack.execute("redis", "redis-cli", "--user", "monitoring", *words, environment=password)
        assert "NOPERM" in said.stdout, words
    secret = stack.secret("minio_monitoring_password")
    host = {"MC_HOST_it": f"http://monitoring:{secret}@127.0.0.1:9000"}
    said = stack.execute("minio", "mc", "--config-dir=/tmp/mc", "ls", "it/mlflow", environment=host)
    assert said.returncode != 0 and "Access Denied" in said.stdout + said.stderr


def test_the_page_of_the_stack_leads_here(stack: Stack) -> None:
    """With the other links."""
    login = (("trader"), stack.secret("backend_page_password"))
    with requests.Session() as session:
        session.post(stack.url("backend", "/login"), data={"user": login[0], "password": login[1]}, timeout=30)
        page = session.get(stack.url("backend", "/"), auth=login, timeout=30).text
    assert "http://localhost:8427/vmui/#/dashboards" in page


# ---- what breaks


@pytest.fixture
def broken(watched: Watched) -> Iterator[float]:
    """The time before something breaks, of a stack on which no alert fires."""
    eventually(lambda: not watched.firing(), seconds=400)
    yield now()


def measured(name: str, seconds: float) -> None:
    """Print how long an alert took, for the figures."""
    print(f"ALERT {name} after {seconds:.0f} s")
    assert seconds < IN_TIME


def test_a_test_alert_reaches_everybody(watched: Watched, broken: float) -> None:
    """And says so."""
    said = play("alert_test")
    assert "✔ email: sent; webhook: sent\n" in said
    found = [each for each in watched.received() if each["kind"] == "web" and each["path"] == "/"]
    assert found[-1]["token"] == "Bearer molecule's own token"
    mails = [each["text"] for each in watched.received() if each["kind"] == "mail"]
    assert "Subject: [molecule] critical: This is a test of the alerts." in mails[-1]


def test_a_message_of_several_alerts_begins_with_those_that_fire(stack: Stack) -> None:
    """Even if others of the name, which are over, come before them in the alphabet."""
    alerts = [
        {"status": status, "labels": {}, "annotations": {"summary": f"{name} does not run."}}
        for name, status in (("Airflow", "resolved"), ("Redis", "firing"), ("Worker", "firing"))
    ]

    settings = json.loads(stack.execute("alertmanager", "cat", "/run/secrets/alertmanager.yml").stdout)
    [mail] = [each["email_configs"][0] for each in settings["receivers"] if each["name"] == "mail"]

    def said(status: str, text: str) -> str:
        told = [each for each in alerts if status in ("firing", each["status"])]
        data = {"status": status, "alerts": told, "commonLabels": {"severity": "critical"}, "receiver": "mail"}
        render = 'exec amtool template render --template.glob= --template.text="$1" --template.data=/tmp/data'
        words = ("sh", "-ec", f"cat > /tmp/data; {render}", "render", text)
        done = stack.execute("alertmanager", *words, stdin=json.dumps(data))
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert said("firing", mail["headers"]["Subject"]) == "[molecule] critical: Redis does not run. And others."
    assert said("resolved", mail["headers"]["Subject"]) == "[molecule] resolved: Airflow does not run."
    lines = said("firing", mail["text"]).splitlines()
    assert [each for each in lines if "does not run" in each] == [
        *("Redis does not run.", "Worker does not run.", "Resolved: Airflow does not run."),
    ]


def test_the_watchdog_calls(watched: Watched) -> None:
    """As long as all is well."""
    eventually(lambda: any(each.get("path") == "/watchdog" for each in watched.received()), seconds=300)


def test_a_container_ended_for_good(stack: Stack, watched: Watched, broken: float) -> None:
    """The one of another collection, which nobody here knows."""
    command("docker", "stop", f"{stack.name}-notebook")
    measured("ContainerDown", watched.raised("ContainerDown", broken, IN_TIME + 30))
    [alert] = [each for each in watched.received() if each["kind"] == "web" and "ContainerDown" in json.dumps(each)][:1]
    labels = alert["body"]["alerts"][0]["labels"]
    assert (labels["container"], labels["service"], labels["host"]) == ("notebook", "notebook", "mol-monitoring")
    command("docker", "start", f"{stack.name}-notebook")
    watched.resolved("ContainerDown", broken)


def test_a_worker_that_is_lost(stack: Stack, watched: Watched, broken: float) -> None:
    """It hangs, and its container runs."""
    command("docker", "pause", f"{stack.name}-celery-worker")
    try:
        seconds = watched.raised("WorkerLost", broken, 240)
    finally:
        command("docker", "unpause", f"{stack.name}-celery-worker")
    # The worker shows itself every 15 s, and is lost when it has not for 75.
    print(f"ALERT WorkerLost after {seconds:.0f} s")
    watched.resolved("WorkerLost", broken)


def test_a_disk_that_is_full(watched: Watched, broken: float) -> None:
    """Nine tenths, of what the test makes the limit; the alert is changed in the inventory, and back."""
    [disk] = watched.query('max(1 - node_filesystem_avail_bytes{fstype!~"tmpfs|overlay"} / node_filesystem_size_bytes)')
    used = float(disk["value"][1])
    expr = (
        'max by (host, device) (1 - node_filesystem_avail_bytes{fstype!~"tmpfs|overlay"} / node_filesystem_size_bytes)'
        f" >= {used - 0.05}"
    )
    change = json.dumps({"monitoring_alerts": {"HostDiskFull": {"expr": expr}}})
    play("site", "--tags=monitoring", "--extra-vars", change)
    measured("HostDiskFull", watched.raised("HostDiskFull", now(), IN_TIME))
    play("site", "--tags=monitoring")
    watched.resolved("HostDiskFull", broken)


def test_a_disk_of_its_own_is_measured(stack: Stack, watched: Watched) -> None:
    """Where the inventory names a directory on it; one that is not there is refused before anything changes."""
    before = stack.identity()
    named = json.dumps({"monitoring_disks": ["/mnt/prices"]})
    said = play("site", "--tags=monitoring", "--extra-vars", named, status=2)
    assert "monitoring_disks names /mnt/prices, which" in said and stack.identity() == before
    command("mkdir", "/mnt/prices")
    command("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", "/mnt/prices")
    command("dd", "if=/dev/zero", "of=/mnt/prices/bars", "bs=1M", "count=48")
    play("site", "--tags=monitoring", "--extra-vars", named)
    disk = '{mountpoint="/host/disks/mnt/prices"}'
    eventually(lambda: watched.query(f"node_filesystem_size_bytes{disk} == {64 << 20}"), seconds=60)
    assert watched.query(f"node_filesystem_avail_bytes{disk} == {16 << 20}")
    play("site", "--tags=monitoring")
    command("umount", "/mnt/prices")


@contextlib.contextmanager
def without_room(stack: Stack) -> Iterator[None]:
    """Give the store another disk, with less room than it wants, and then its own again."""
    container = f"{stack.name}-victoria-metrics"
    place = command("docker", "volume", "inspect", "--format={{.Mountpoint}}", f"{container}-data").strip()
    command("docker", "stop", container)
    command("mount", "-t", "tmpfs", "-o", "size=90m,mode=0777", "tmpfs", place)
    try:
        command("docker", "start", container)
        yield
    finally:
        command("docker", "stop", container)
        command("umount", place)
        command("docker", "start", container)


def test_no_room_for_measurements(stack: Stack, watched: Watched, broken: float) -> None:
    """No alert can come of what is not kept: the dead man's switch tells it, and the stack goes on."""

    def called(since: float) -> bool:
        return any(each.get("path") == "/watchdog" and each["at"] > since for each in watched.received())

    eventually(lambda: called(broken - 300), seconds=300)
    with without_room(stack):
        # The last measurement counts for two minutes, and a call would be made again after five at most.
        eventually(lambda: not called(now() - 330), seconds=700)
        assert watched.query("up") == []
        assert "Watchdog is missing" in play("status")
        assert "changed=0 " in play("site")
        meanwhile = int(now())
    back = now()
    eventually(lambda: called(back), seconds=300)
    assert "Watchdog is missing" not in play("status")
    assert watched.query('last_over_time(up{job="vmagent"}[1m]) == 1')
    assert watched.query(f'count_over_time(up{{job="vmagent"}}[1h] offset {int(now() - broken) + 60}s)')
    # What the agents could not deliver.
    eventually(lambda: watched.query(f'last_over_time(up{{job="vmagent"}}[30s] @ {meanwhile})'), seconds=300)


def test_a_wrong_alert_changes_nothing(stack: Stack, watched: Watched) -> None:
    """The run says which, and the alerts of before are in force."""
    before = stack.identity()
    wrong = {"Mine": {"expr": "sum(up", "severity": "info", "summary": "x", "meaning": "x", "remedy": "x"}}
    said = play("site", "--tags=monitoring", "--extra-vars", json.dumps({"monitoring_alerts": wrong}), status=2)
    assert "An alert cannot be evaluated" in said and "Mine" in said
    assert stack.identity() == before
    assert "Mine" not in watched.session.get(f"{watched.base}/api/v1/rules", timeout=30).text


def test_a_failed_training(stack: Stack, watched: Watched, airflow: requests.Session, broken: float) -> None:
    """Of days that nobody has prices of."""
    runs = stack.url("airflow", "/api/v2/dags/daily_strategy_training/dagRuns")
    body = {"logical_date": None, "conf": {"start": "2013-01-01", "end": "2012-01-01"}}
    run = airflow.post(runs, json=body, timeout=30).json()

    def failed() -> bool:
        return airflow.get(f"{runs}/{run['dag_run_id']}", timeout=30).json()["state"] == "failed"

    eventually(failed, seconds=600)
    measured("TrainingFailed", watched.raised("TrainingFailed", now() - 1, IN_TIME))
    again = airflow.post(runs, json={"logical_date": None, "conf": {"min_confidence": 0.5}}, timeout=30)
    assert again.status_code == 200, again.text
    watched.resolved("TrainingFailed", broken, 900)


def test_every_panel_has_data(watched: Watched) -> None:
    """Once there is a backup and a training has ended; what compares with yesterday or counts restarts begins later."""
    play("backup")
    eventually(lambda: watched.query("backup_newest_timestamp_seconds"), seconds=60)
    empty = []
    listed = watched.session.get(f"{watched.base}/vmui/custom-dashboards", timeout=30).json()
    boards = listed["dashboardsSettings"]
    assert {"Stack", "Hosts", "Services", "PostgreSQL", "Queues and workers", "Gateway and data"} <= {
        each["title"] for each in boards
    }
    for board in boards:
        for row in board["rows"]:
            for panel in row["panels"]:
                if not any(
                    watched.query(f"({expr}) default 0" if "ALERTS" in expr else expr) for expr in panel["expr"]
                ):
                    empty.append(f"{board['title']}: {panel['title']}")
    assert {each for each in empty if "yesterday" not in each and "Restarts" not in each} == set()


def test_a_backup_that_fails(stack: Stack, watched: Watched, broken: float) -> None:
    """As with a lost mount, its repository is away."""
    mark = f"/var/backups/quantops/{stack.name}/repository.json"
    command("mv", mark, f"{mark}.away")
    try:
        measured("BackupFailed", watched.raised("BackupFailed", broken, IN_TIME))
    finally:
        command("mv", f"{mark}.away", mark)
    watched.resolved("BackupFailed", broken)


def test_a_dropped_session_of_the_gateway(stack: Stack, watched: Watched, broken: float) -> None:
    """Told once, and over when somebody has logged in again; the backend's worker looks once a minute."""
    address = stack.url("ibkr_gateway", scheme="https")
    requests.post(f"{address}/sso/Logout", verify=False, timeout=30, allow_redirects=False)
    try:
        seconds = watched.raised("GatewaySessionDropped", broken, 240)
        print(f"ALERT GatewaySessionDropped after {seconds:.0f} s")
    finally:
        requests.post(f"{address}/sso/Login", verify=False, timeout=30, allow_redirects=False)
    watched.resolved("GatewaySessionDropped", broken)


def test_silenced(stack: Stack, watched: Watched, broken: float) -> None:
    """From the command line, for its time or until it is ended by its id."""
    said = play("silence", "--extra-vars", json.dumps({"silence_alert": "ContainerDown", "silence_time": "5m"}))
    [silence] = set(re.findall(r"\b[0-9a-f]{8}-[0-9a-f-]{27}\b", said))
    command("docker", "stop", f"{stack.name}-notebook")
    eventually(lambda: "ContainerDown" in watched.firing(), seconds=IN_TIME)
    time.sleep(45)
    command("docker", "start", f"{stack.name}-notebook")
    assert watched.told("ContainerDown", since=broken) is None
    assert "not the id of a silence" in play("silence", "--extra-vars", "silence_end=ContainerDown", status=2)
    assert silence in play("silence")
    play("silence", "--extra-vars", f"silence_end={silence}")
    assert silence not in play("silence")
