"""The stack's page in a real browser: login, portfolio, chart, "train now", a dropped session and a dead dependency."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
from playwright.sync_api import Page, expect
from stack_under_test import Stack, as_root, eventually

Visit = Callable[..., Any]
WORKER_LOOKS_S = 150


def log_in(page: Page, stack: Stack) -> None:
    """Log in as a person does."""
    page.goto(stack.page("backend", "/"))
    expect(page).to_have_url(re.compile("/login$"))
    page.get_by_label("User").fill("trader")
    page.get_by_label("Password").fill(stack.secret("backend_page_password"))
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(stack.name)


def api(stack: Stack, path: str) -> Any:
    """Ask the backend's API with its token."""
    headers = {"Authorization": f"Bearer {stack.secret('backend_api_token')}"}
    answer = requests.get(stack.url("backend", path), headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_wrong_password_is_refused(visit: Visit, stack: Stack) -> None:
    """And says so."""
    with visit("backend-refused") as page:
        page.goto(stack.page("backend", "/"))
        page.get_by_label("User").fill("trader")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_have_text("User name or password is wrong.")


def test_wrong_passwords_of_others_lock_nobody_out(visit: Visit, stack: Stack) -> None:
    """Thirty from elsewhere, ten at a time: no more than one a second is judged, and then the right one logs in."""

    def guess(number: int) -> int:
        form = {"user": "trader", "password": f"wrong {number}"}
        return requests.post(stack.url("backend", "/login"), data=form, timeout=60).status_code

    began = time.monotonic()
    with ThreadPoolExecutor(max_workers=10) as pool:
        assert list(pool.map(guess, range(30))) == [401] * 30
    assert time.monotonic() - began >= 29
    with visit("backend-after-wrong-passwords") as page:
        log_in(page, stack)


class ForeignPage(BaseHTTPRequestHandler):
    """A page of another site, with a form that logs in to the stack's page."""

    form = ""

    def do_GET(self) -> None:
        """Show the form."""
        body = self.form.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def foreign_page(stack: Stack) -> Iterator[str]:
    """Address of a page at another port, whose form sends the right password."""
    fields = {"user": "trader", "password": stack.secret("backend_page_password")}
    inputs = "".join(f'<input type="hidden" name="{name}" value="{value}">' for name, value in fields.items())
    form = f'<form method="post" action="{stack.page("backend", "/login")}">{inputs}<button>Win</button></form>'
    handler = type("Handler", (ForeignPage,), {"form": form})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_a_form_of_another_site_is_refused(visit: Visit, stack: Stack, foreign_page: str) -> None:
    """With the right password even; nobody is logged in."""
    with visit("backend-foreign-form") as page:
        page.goto(foreign_page)
        page.get_by_role("button", name="Win").click()
        expect(page.get_by_role("alert")).to_contain_text("page of another site")
        page.goto(stack.page("backend", "/"))
        expect(page).to_have_url(re.compile("/login$"))


def test_the_page(visit: Visit, stack: Stack) -> None:
    """Ready, SIMULATED said loud, every service ok, the account with its positions, and the bars that are kept."""
    with visit("backend") as page:
        log_in(page, stack)
        expect(page).to_have_title(re.compile(rf"^{stack.name} .* ready$"))
        expect(page.get_by_role("note")).to_contain_text("SIMULATED")
        titles = (
            "PostgreSQL",
            "Redis",
            "MinIO",
            "IBKR gateway",
            "MLflow",
            "Airflow",
            "Celery worker",
            "Airflow worker",
            "Celery beat",
            "Flower",
        )
        for title in titles:
            card = page.locator("li.card", has=page.get_by_text(title, exact=True))
            expect(card.locator(".state")).to_have_text("ok")
        portfolio = page.get_by_role("region", name="Portfolio")
        expect(portfolio.get_by_role("row", name=re.compile("^AAPL"))).to_be_visible()
        expect(portfolio).to_contain_text("Net liquidation")
        row = page.get_by_role("region", name="Daily bars").first.locator("tbody tr", has_text="AAPL")
        expect(row).to_contain_text("2000-03-01")
        expect(row).to_contain_text("2013-03-01")


def test_the_chart_is_read_with_the_keyboard(visit: Visit, stack: Stack) -> None:
    """Another range, and then day by day."""
    with visit("backend-chart") as page:
        log_in(page, stack)
        page.get_by_role("link", name="5y").click()
        expect(page.get_by_role("link", name="5y")).to_have_attribute("aria-current", "true")
        chart = page.get_by_role("group", name=re.compile("^Chart of AAPL"))
        chart.focus()
        page.keyboard.press("End")
        expect(page.locator(".reading")).to_contain_text("2013-03-01: close")
        page.keyboard.press("ArrowLeft")
        expect(page.locator(".reading")).not_to_contain_text("2013-03-01")


def unnamed(page: Page) -> list[str]:
    """What the browser tells a screen reader about and has no name for."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    shown = {"image", "button", "link", "textbox", "group", "region", "navigation"}
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", "").strip()) for node in nodes if not node["ignored"]
    ]
    assert {"button", "heading"} <= {role for role, _ in found}
    return [role for role, name in found if role in shown and not name]


def test_the_page_is_used_without_a_mouse_and_without_seeing_it(visit: Visit, stack: Stack) -> None:
    """Everything has a name, there is one heading of the first level, and Tab comes by all that can be done."""
    with visit("backend-keyboard") as page:
        page.goto(stack.page("backend", "/login"))
        assert unnamed(page) == []
        log_in(page, stack)
        assert unnamed(page) == []
        images = page.locator("svg:visible, img:visible")
        assert images.count() >= 1
        assert all(image.get_attribute("role") == "img" for image in images.all())
        expect(page.get_by_role("img", name=re.compile(r"^AAPL \(SIMULATED\), daily close"))).to_be_visible()
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        reached = []
        for _ in range(80):
            page.keyboard.press("Tab")
            words = page.evaluate("(e => e.getAttribute('aria-label') || e.innerText || '')(document.activeElement)")
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid", f"{words} has the focus and does not show it"
            reached.append(words.strip())
            if words.startswith("Train "):
                break
            if words.startswith("Skip "):
                assert page.locator(".skip").bounding_box()["x"] >= 0
        chart = next(words for words in reached if words.startswith("Chart of AAPL"))
        wanted = ["Skip to the content", "Log out", "AAPL", "MSFT", "1y", chart, "Train AAPL now"]
        assert [words for words in reached if words in wanted] == wanted


def test_train_now_to_a_signal_of_the_champion(visit: Visit, stack: Stack, dag_run: dict[str, Any]) -> None:
    """The button starts a run, the page follows it to its end, and the champion's signal is there."""
    with visit("backend-training") as page:
        log_in(page, stack)
        page.get_by_role("button", name="Train AAPL now").click()
        status = page.get_by_role("status").filter(has_text="Started: ")
        expect(status).to_be_visible()
        run_id = status.inner_text().removeprefix("Started: ")
        row = page.locator(f'tr[data-run="{run_id}"]')
        expect(row.locator(".state")).to_have_text("success", timeout=600_000)
        champion = page.get_by_role("region", name="Champion of AAPL")
        expect(champion).to_contain_text("Sharpe ratio")
        # The newest version is not the champion, which is said in a sentence of its own.
        expect(champion).not_to_contain_text(re.compile(r"\.[A-Z]"))

    def live() -> list[str]:
        """Days of the champion's live signals, which come with the next look; an older version has its own."""
        versions = {model["name"]: model["champion"]["version"] for model in api(stack, "/api/v1/models")}
        return [
            each["date"]
            for each in api(stack, "/api/v1/signals/AAPL")["signals"]
            if each["kind"] == "live" and each["model_version"] == versions["daily_strategy_AAPL"]
        ]

    assert eventually(live, seconds=WORKER_LOOKS_S)[-1] == "2013-03-01"
    with visit("backend-signals") as page:
        log_in(page, stack)
        expect(page.get_by_role("heading", name="Live signals of AAPL")).to_be_visible()


def test_the_page_fits_a_phone(visit: Visit, stack: Stack) -> None:
    """Nothing is wider than the screen, in dark too."""
    with visit("backend-phone", color_scheme="dark", has_touch=True, is_mobile=True) as page:
        page.set_viewport_size({"width": 390, "height": 844})
        log_in(page, stack)
        expect(page.locator(".chart .slim svg")).to_be_visible()
        expect(page.locator(".chart .full svg")).to_be_hidden()
        page.wait_for_load_state()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def alerts(stack: Stack) -> int:
    """How often the worker's log says that the session is gone."""
    return stack.log("celery-worker").count("ALERT: the gateway's session is gone")


@pytest.fixture
def dropped_session(stack: Stack) -> Iterator[int]:
    """A gateway at which the session is gone, with the alerts before that; logged in again at the end."""
    address = stack.url("ibkr_gateway", scheme="https")
    before = alerts(stack)
    requests.post(f"{address}/sso/Logout", verify=False, timeout=30, allow_redirects=False)
    yield before
    requests.post(f"{address}/sso/Login", verify=False, timeout=30, allow_redirects=False)
    assert eventually(lambda: not banner(stack), seconds=WORKER_LOOKS_S)


def banner(stack: Stack) -> bool:
    """Whether the keep-alive says that the session is gone."""
    text = requests.get(stack.url("backend", "/metrics"), timeout=30).text
    return "gateway_session_alert 1.0" in text


def test_a_dropped_session_is_told_with_the_way_to_log_in(visit: Visit, stack: Stack, dropped_session: int) -> None:
    """Within two minutes; and the log says so once, however often the keep-alive looks."""
    assert eventually(lambda: banner(stack), seconds=WORKER_LOOKS_S)
    look = "from ibkr_backend.tasks import keep_session; print(keep_session.delay().get(timeout=60))"
    for _ in range(2):
        done = stack.execute("celery-worker", "python3", "-c", look)
        assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
    assert alerts(stack) == dropped_session + 1
    with visit("backend-dropped") as page:
        log_in(page, stack)
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("The gateway's session is gone")
        link = alert.get_by_role("link", name="Log in at the gateway")
        expect(link).to_have_attribute("href", stack.page("ibkr_gateway", "/", scheme="https"))
        steps = page.locator("dl.steps div", has_text="Logged in")
        expect(steps.locator(".state")).to_have_text("no")


@contextmanager
def stopped(stack: Stack, container: str) -> Iterator[None]:
    """Run with a container stopped; afterwards it runs, and the backend is ready again."""
    name = f"{stack.name}-{container}"
    subprocess.run(as_root("docker", "stop", name), check=True, capture_output=True, timeout=120)
    try:
        yield
    finally:
        subprocess.run(as_root("docker", "start", name), check=True, capture_output=True, timeout=120)
        assert eventually(
            lambda: requests.get(stack.url("backend", "/ready"), timeout=30).status_code == 200, seconds=120
        )


def test_a_dead_dependency_is_told_with_the_reason(visit: Visit, stack: Stack) -> None:
    """MLflow is gone: the page says so within seconds, and everything else stays."""
    with stopped(stack, "mlflow"), visit("backend-dead-dependency") as page:
        began = time.monotonic()
        log_in(page, stack)
        assert time.monotonic() - began < 15
        card = page.locator("li.card", has=page.get_by_text("MLflow", exact=True))

        def told() -> bool:
            """Whether the page says so; each shows the state of up to a second before, of before the stop even."""
            page.reload()
            return card.locator(".state").inner_text() == "failed"

        assert eventually(told, seconds=15, pause=1)
        expect(card.locator("p")).not_to_be_empty()
        expect(page.locator(".top .state")).to_have_text("Not ready")
        expect(page.get_by_role("region", name="Portfolio")).to_contain_text("Net liquidation")
