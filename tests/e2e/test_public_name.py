"""Each web page under a name that is not this machine's own: what a person sends from it is taken."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, expect
from stack_under_test import PUBLIC_NAME, Stack

Visit = Callable[..., Any]


def address(stack: Stack, service: str, path: str = "/", scheme: str = "http") -> str:
    """A page's address under the public name."""
    return f"{scheme}://{PUBLIC_NAME}:{stack.port(service)}{path}"


def post(page: Page, path: str, body: object = None) -> int:
    """Send what the page's own script would send; returns the status."""
    program = """async ([path, body]) => (await fetch(path, {
        method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)
    })).status"""
    return page.evaluate(program, [path, body])


def test_login_to_the_stack_page(visit: Visit, stack: Stack) -> None:
    """The form is sent, and the page with the services comes."""
    with visit("public-backend") as page:
        page.goto(address(stack, "backend"))
        page.get_by_label("User").fill("trader")
        page.get_by_label("Password").fill(stack.secret("backend_page_password"))
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", level=1)).to_have_text(stack.name)


def test_login_to_airflow(visit: Visit, stack: Stack) -> None:
    """The form is sent, and the first page greets."""
    with visit("public-airflow") as page:
        page.goto(address(stack, "airflow"))
        page.locator("#username").fill("admin")
        page.locator("#password").fill(stack.secret("airflow_admin_password"))
        page.locator("input[type=submit], button[type=submit]").first.click()
        expect(page.get_by_role("heading", name="Welcome")).to_be_visible()


def test_mlflow(visit: Visit, stack: Stack) -> None:
    """The page finds experiments, which is a writing request, and can make and delete one."""
    name = f"probe {uuid.uuid4()}"
    with visit("public-mlflow") as page:
        page.goto(address(stack, "mlflow", "/#/experiments"))
        expect(page.get_by_role("link", name="Default", exact=True).first).to_be_visible()
        assert post(page, "/ajax-api/2.0/mlflow/experiments/create", {"name": name}) == 200
        found = page.evaluate(
            "async path => (await (await fetch(path)).json()).experiment.experiment_id",
            f"/ajax-api/2.0/mlflow/experiments/get-by-name?experiment_name={name}",
        )
        assert post(page, "/ajax-api/2.0/mlflow/experiments/delete", {"experiment_id": found}) == 200


def test_login_to_the_minio_console(visit: Visit, stack: Stack) -> None:
    """The form is sent, and the buckets are listed."""
    with visit("public-minio") as page:
        page.goto(address(stack, "minio_console", "/login"))
        page.locator("#accessKey").fill(stack.secret("minio_root_user"))
        page.locator("#secretKey").fill(stack.secret("minio_root_password"))
        page.locator("button[type=submit]").click()
        page.get_by_role("button", name="Acknowledge").click()
        expect(page.get_by_text("trading-charts", exact=True).first).to_be_visible()


def test_flower(visit: Visit, stack: Stack) -> None:
    """A command to the workers is taken; it revokes a task that nobody sent."""
    credentials = {"username": "flower", "password": stack.secret("flower_password")}
    with visit("public-flower", http_credentials=credentials) as page:
        page.goto(address(stack, "flower", "/workers"))
        assert post(page, f"/api/task/revoke/{uuid.uuid4()}") == 200


def test_gateway(visit: Visit, stack: Stack) -> None:
    """The simulator's page logs out and in again by its forms."""
    with visit("public-gateway") as page:
        page.goto(address(stack, "ibkr_gateway", scheme="https"))
        page.get_by_role("button", name="Log out").click()
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("button", name="Log out")).to_be_visible()
