"""Each web page in a real browser: what a person would see, and nothing asked of any other host."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import requests
from playwright.sync_api import Page, expect
from stack_under_test import WORKER, Stack
from test_backend_page import log_in

Visit = Callable[..., Any]
MODEL = "daily_strategy_AAPL"


def test_links_of_the_stack_page_lead_to_the_services(visit: Visit, stack: Stack) -> None:
    """Every link answers in the browser: none leads to a name that only containers know."""
    with visit("backend-links") as page:
        log_in(page, stack)
        links = {link.inner_text(): link.get_attribute("href") for link in page.locator("ul.links a").all()}
        ports = {"MinIO console": "minio_console", "Flower": "flower", "MLflow": "mlflow", "Airflow": "airflow"}
        expected = {name: stack.page(port) for name, port in ports.items()}
        assert links == expected | {"IBKR gateway (SIMULATED)": stack.page("ibkr_gateway", scheme="https")}
        for name, address in links.items():
            answer = requests.get(
                address, timeout=30, verify=False, allow_redirects=True
            )  # the gateway's own certificate
            assert answer.status_code == (401 if name == "Flower" else 200), (name, address, answer.status_code)


def test_gateway_page(visit: Visit, stack: Stack) -> None:
    """Says SIMULATED, shows the real prices' last day, and logs out and in."""
    with visit("gateway") as page:
        page.goto(stack.page("ibkr_gateway", "/", scheme="https"))
        expect(page).to_have_title("SIMULATED Client Portal gateway")
        expect(page.locator(".badge")).to_have_text("SIMULATED")
        expect(page.get_by_text("Session: Logged in")).to_be_visible()
        expect(page.get_by_role("row", name=re.compile("AAPL")).first).to_contain_text("2013-03-01")


def test_flower(visit: Visit, stack: Stack) -> None:
    """With its password: the worker, online."""
    credentials = {"username": "flower", "password": stack.secret("flower_password")}
    with visit("flower", http_credentials=credentials) as page:
        page.goto(stack.page("flower", "/workers"))
        row = page.get_by_role("row", name=re.compile(WORKER))
        expect(row).to_contain_text("Online")


def test_minio_console(visit: Visit, stack: Stack) -> None:
    """Root logs in and sees the three buckets."""
    with visit("minio-console") as page:
        page.goto(stack.page("minio_console", "/login"))
        page.locator("#accessKey").fill(stack.secret("minio_root_user"))
        page.locator("#secretKey").fill(stack.secret("minio_root_password"))
        page.locator("button[type=submit]").click()
        page.get_by_role("button", name="Acknowledge").click()
        for bucket in ("mlflow", "airflow-logs", "trading-charts"):
            expect(page.get_by_text(bucket, exact=True).first).to_be_visible()


def test_minio_console_refuses_a_wrong_password(visit: Visit, stack: Stack) -> None:
    """And says so."""
    with visit("minio-console-refused") as page:
        page.goto(stack.page("minio_console", "/login"))
        page.locator("#accessKey").fill(stack.secret("minio_root_user"))
        page.locator("#secretKey").fill("wrong-wrong-wrong")
        page.locator("button[type=submit]").click()
        expect(page.get_by_text(re.compile("invalid login", re.IGNORECASE)).first).to_be_visible()


def test_mlflow_experiments(visit: Visit, stack: Stack, dag_run: dict[str, Any]) -> None:
    """The training's experiment is listed."""
    with visit("mlflow-experiments") as page:
        page.goto(stack.page("mlflow", "/#/experiments"))
        expect(page.get_by_role("link", name="daily_strategy", exact=True).first).to_be_visible()


def test_mlflow_run(visit: Visit, stack: Stack, dag_run: dict[str, Any]) -> None:
    """The training's run with its parameters and out-of-sample metrics."""
    api = stack.url("mlflow", "/api/2.0/mlflow")
    found = requests.get(f"{api}/experiments/get-by-name?experiment_name=daily_strategy", timeout=30).json()[
        "experiment"
    ]
    body = {"experiment_ids": [found["experiment_id"]], "filter": f"run_name LIKE '%{dag_run['dag_run_id']}'"}
    [run] = requests.post(f"{api}/runs/search", json=body, timeout=30).json()["runs"]
    with visit("mlflow-run") as page:
        page.goto(stack.page("mlflow", f"/#/experiments/{found['experiment_id']}/runs/{run['info']['run_id']}"))
        for text in ("symbol", "AAPL", "cost_bps", "simulated"):
            expect(page.get_by_text(text, exact=True).first).to_be_visible()
        expect(page.get_by_text("Finished").first).to_be_visible()


def test_mlflow_model(visit: Visit, stack: Stack, dag_run: dict[str, Any]) -> None:
    """The registered model with its champion."""
    with visit("mlflow-model") as page:
        page.goto(stack.page("mlflow", f"/#/models/{MODEL}"))
        expect(page.get_by_text(MODEL).first).to_be_visible()
        expect(page.get_by_text(re.compile("champion")).first).to_be_visible()


def login_to_airflow(page: Page, stack: Stack) -> None:
    """Log in as the administrator, as a person does."""
    page.goto(stack.page("airflow", "/"))
    page.locator("#username").fill("admin")
    page.locator("#password").fill(stack.secret("airflow_admin_password"))
    page.locator("input[type=submit], button[type=submit]").first.click()
    expect(page.get_by_role("heading", name="Welcome")).to_be_visible()


def test_airflow_dags(visit: Visit, stack: Stack, dag_run: dict[str, Any]) -> None:
    """After the login: both DAGs, and no import error."""
    with visit("airflow-dags") as page:
        login_to_airflow(page, stack)
        page.goto(stack.page("airflow", "/dags"))
        for dag in ("daily_strategy_training", "stack_maintenance"):
            expect(page.get_by_text(dag, exact=True).first).to_be_visible()
        expect(page.get_by_text(re.compile("import error", re.IGNORECASE))).to_have_count(0)


def test_airflow_task_log(visit: Visit, stack: Stack, dag_run: dict[str, Any]) -> None:
    """A task's log, which came from MinIO, in the page that an operator opens when a task fails."""
    with visit("airflow-task-log") as page:
        login_to_airflow(page, stack)
        run_id = requests.utils.quote(dag_run["dag_run_id"], safe="")
        page.goto(stack.page("airflow", f"/dags/daily_strategy_training/runs/{run_id}/tasks/promote"))
        # Why the model was promoted or not, which depends on what the champion is.
        expect(page.get_by_text(re.compile("out of sample|the champion.s own recipe")).first).to_be_visible()
        page.get_by_text("Log message source details").click()
        expect(page.get_by_text(re.compile("s3://airflow-logs/")).first).to_be_visible()


def test_airflow_refuses_a_wrong_password(visit: Visit, stack: Stack) -> None:
    """And says so."""
    with visit("airflow-refused") as page:
        page.goto(stack.page("airflow", "/"))
        page.locator("#username").fill("admin")
        page.locator("#password").fill("admin")
        page.locator("input[type=submit], button[type=submit]").first.click()
        expect(page.get_by_text(re.compile("invalid login", re.IGNORECASE)).first).to_be_visible()
