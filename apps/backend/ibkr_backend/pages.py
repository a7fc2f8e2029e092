"""The page for people: login, portfolio, chart, champion, training runs, and the state of every service."""

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from sqlalchemy import select
from sqlalchemy.orm import Session

from ibkr_backend import __version__
from ibkr_backend.airflow_api import Airflow, AirflowError
from ibkr_backend.auth import KNOWN_SECONDS, SESSION_SECONDS, VIEWER, Sessions
from ibkr_backend.backups import backup_report
from ibkr_backend.database import GatewaySession, Portfolio, Scoring, Signal, symbols_overview, utc
from ibkr_backend.mlflow_api import MLflow, model_name
from ibkr_backend.readiness import CLIENT_TIMEOUT, Dependency, answers
from ibkr_backend.settings import ApiSettings
from ibkr_backend.views import RANGES, WORDS, symbol_chart

# Typographic: an en dash where there is no figure, and a minus sign as wide as a digit.
NOTHING, MINUS = "\u2013", "\u2212"
RUNS_SHOWN = 8
SIGNALS_SHOWN = 12
TITLES = {
    "postgres": "PostgreSQL",
    "redis": "Redis",
    "minio": "MinIO",
    "gateway": "IBKR gateway",
    "mlflow": "MLflow",
    "airflow": "Airflow",
    "worker": "Celery worker",
    "airflow_worker": "Airflow worker",
    "beat": "Celery beat",
    "flower": "Flower",
    "backup": "Backup",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

# The edge answers there itself, at the address of every page.
EDGE_LOGOUT = "/.edge/logout"
BEHIND_EDGE = "Log in at the stack's public address: this one takes no password."

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Champion:
    """What the page shows of a symbol's champion, and of the last training when there is none."""

    name: str
    version: str | None
    created_at: datetime | None
    tags: dict[str, str]
    metrics: dict[str, float]
    newest: str | None
    newest_reason: str | None
    problem: str | None = None


def router(settings: ApiSettings) -> APIRouter:
    """Make the page's routes; they are no part of the API's description."""
    found = APIRouter(include_in_schema=False)
    found.get("/", response_class=HTMLResponse)(page)
    found.get("/login", response_class=HTMLResponse)(login_page)
    found.post("/login")(login)
    found.post("/logout")(logout)
    if settings.airflow_url:
        found.post("/train")(train)
    return found


def html(template: str, status_code: int = 200, headers: dict[str, str] | None = None, **values: Any) -> HTMLResponse:
    """Render a template."""
    return HTMLResponse(
        TEMPLATES.get_template(template).render(**values), status_code=status_code, headers=HEADERS | (headers or {})
    )


def refusal(settings: ApiSettings, status_code: int, problem: str) -> HTMLResponse:
    """Make the page that says why nothing was done."""
    return html("problem.html", status_code, stack_name=settings.stack_name, problem=problem)


def redirect(path: str) -> RedirectResponse:
    """Send the browser on, with GET."""
    return RedirectResponse(path, status_code=303, headers=HEADERS)


def login_page(request: Request) -> Response:
    """Ask for user name and password."""
    if sessions_of(request).valid(request):
        return redirect("/")
    if sessions_of(request).identities.edge:
        return refusal(settings_of(request), 401, BEHIND_EDGE)
    return html("login.html", stack_name=settings_of(request).stack_name, problem=None)


async def login(request: Request, user: Annotated[str, Form()] = "", password: Annotated[str, Form()] = "") -> Response:
    """Begin a session."""
    sessions = sessions_of(request)
    if sessions.identities.edge:
        return refusal(settings_of(request), 401, BEHIND_EDGE)
    stack_name = settings_of(request).stack_name
    right, seconds = await sessions.log_in(request, user, password)
    if right is None:
        problem = f"Too many others are trying passwords. Try again in {seconds} seconds."
        return html("login.html", 429, {"Retry-After": str(seconds)}, stack_name=stack_name, problem=problem)
    if not right:
        log.warning("a wrong user name or password from %s", request.client.host if request.client else "unknown")
        return html("login.html", 401, stack_name=stack_name, problem="User name or password is wrong.")
    answer = redirect("/")
    for name, value, seconds, path in (
        (sessions.cookie, sessions.make(), SESSION_SECONDS, "/"),
        (sessions.known_cookie, sessions.make_known(), KNOWN_SECONDS, "/login"),
    ):
        answer.set_cookie(
            name,
            value,
            max_age=seconds,
            path=path,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
    return answer


def logout(request: Request, token: Annotated[str, Form()] = "") -> Response:
    """End the session."""
    sessions = sessions_of(request)
    answer = redirect("/login")
    if sessions.form_is_ours(request, token):
        answer.delete_cookie(sessions.cookie, httponly=True, samesite="strict")
    return answer


def train(request: Request, symbol: Annotated[str, Form()] = "", token: Annotated[str, Form()] = "") -> Response:
    """Start a training."""
    sessions, settings = sessions_of(request), settings_of(request)
    if not sessions.valid(request):
        return redirect("/login")
    if not may_write(request) or not sessions.form_is_ours(request, token) or symbol not in settings.bars_symbols:
        return refusal(settings, 403, "This form is not valid any more.")
    airflow: Airflow = request.app.state.airflow
    try:
        run = airflow.train(symbol)
    except AirflowError as error:
        return refusal(settings, 502, f"No training was started: {error}.")
    log.info("training of %s started from the page: %s", symbol, run.run_id)
    return redirect(f"/?{urlencode({'symbol': symbol, 'started': run.run_id})}#training")


def page(request: Request, symbol: str = "", range: str = "1y", started: str = "") -> Response:
    """Show it all."""
    if not sessions_of(request).valid(request):
        return redirect("/login")
    settings = settings_of(request)
    symbols = settings.bars_symbols
    symbol = symbol if symbol in symbols else (symbols[0] if symbols else "")
    range = range if range in RANGES else "1y"
    lookups = _lookups(request, symbol)
    for lookup in lookups:
        lookup.start()
    report = request.app.state.readiness.report()
    found = _newest(lookups)
    values: dict[str, Any] = {
        "kept": None,
        "rows": [],
        "accounts": [],
        "wide": None,
        "narrow": None,
        "signals": [],
        "signal_words": {},
        "scoring": None,
        "gateway_session": None,
    }
    if report["dependencies"]["postgres"]["state"] == "ok":
        with Session(request.app.state.engine) as session:
            values |= _from_database(session, symbols, symbol, RANGES[range])
    gateway = report["dependencies"]["gateway"]
    services = [
        {"title": TITLES[name], "name": name, **each}
        for name, each in (report["dependencies"] | report["processes"]).items()
    ]
    return html(
        "stack.html",
        stack_name=settings.stack_name,
        version=__version__,
        now=datetime.now(UTC),
        report=report,
        services=services,
        gateway=gateway,
        mode=_mode(gateway, values["accounts"]),
        login_url=str(settings.gateway_login_url) if settings.gateway_login_url else None,
        symbols=symbols,
        symbol=symbol,
        range=range,
        ranges=list(RANGES),
        models=found.get("models"),
        runs=found.get("runs"),
        backups=found.get("backups"),
        started=started[:200],
        token=sessions_of(request).form_token(request),
        may_write=may_write(request),
        logout=EDGE_LOGOUT if sessions_of(request).identities.edge else "/logout",
        public_urls={name: str(url) for name, url in settings.stack_public_urls.items()},
        refresh_minutes=settings.bars_refresh_seconds // 60,
        words=WORDS,
        **values,
    )


def _lookups(request: Request, symbol: str) -> list[Dependency]:
    """Return what is asked of other services; kept by the application, so that one that hangs does not pile up."""
    state = request.app.state
    kept: dict[str, Dependency] = state.__dict__.setdefault("_page_lookups", {})
    mlflow: MLflow | None = state.mlflow
    airflow: Airflow | None = state.airflow
    symbols = settings_of(request).bars_symbols
    found = []
    if mlflow:
        name = f"models {symbol}"
        if name not in kept:
            kept[name] = Dependency("models", lambda: {"champion": _champion(mlflow, symbol, symbols)})
        found.append(kept[name])
    if airflow:
        if "runs" not in kept:
            kept["runs"] = Dependency("runs", lambda: {"runs": airflow.runs(RUNS_SHOWN)})
        found.append(kept["runs"])
    if url := settings_of(request).backup_url:
        if "backups" not in kept:
            report = backup_report(url, CLIENT_TIMEOUT)
            kept["backups"] = Dependency("backups", lambda: {"report": report()})
        found.append(kept["backups"])
    return found


def _newest(lookups: list[Dependency]) -> dict[str, dict[str, Any]]:
    """Return what each lookup says; of one that takes long what it said before, which says more than nothing."""
    found = answers(lookups) if lookups else {}
    return found | {each.name: each.last for each in lookups if each.last and each.busy}


def _champion(mlflow: MLflow, symbol: str, symbols: list[str]) -> Champion | None:
    model = next((each for each in mlflow.models() if each.name == model_name(symbol)), None)
    if model is None:
        return None
    newest = next(iter(mlflow.versions(model.name, 1)), None)
    reason = newest.tags.get("promotion") if newest else None
    number = newest.version if newest else None
    if model.champion is None:
        return Champion(model.name, None, None, {}, {}, number, reason)
    version = newest if newest and newest.version == model.champion else mlflow.version(model.name, model.champion)
    metrics = mlflow.metrics(version.run_id) if version.run_id else {}
    problem = version.misnamed(symbols)
    return Champion(model.name, version.version, version.created_at, version.tags, metrics, number, reason, problem)


def _from_database(session: Session, symbols: list[str], symbol: str, days: int | None) -> dict[str, Any]:
    record = session.get(GatewaySession, 1)
    accounts = [_account(each) for each in session.scalars(select(Portfolio).order_by(Portfolio.account_id))]
    rows = symbols_overview(session, symbols)
    live = session.scalars(
        select(Signal)
        .where(Signal.symbol == symbol, Signal.kind == "live")
        .order_by(Signal.date.desc(), Signal.made_at.desc())
        .limit(SIGNALS_SHOWN)
    ).all()
    # Ascending, so that the newest of a symbol is the one that stays.
    newest = {
        row.symbol: row for row in session.scalars(select(Signal).where(Signal.kind == "live").order_by(Signal.date))
    }
    wide = symbol_chart(session, symbol, days) if symbol else None
    return {
        "kept": next((row for row in rows if row["symbol"] == symbol), None),
        "rows": [row | {"signal": newest.get(row["symbol"])} for row in rows],
        "accounts": accounts,
        "wide": wide,
        "narrow": symbol_chart(session, symbol, days, width=420, height=300) if wide else None,
        "signal_words": {
            each.date.isoformat(): f"signal {WORDS[each.position]}, probability of a rise {each.probability:.0%}"
            for each in live
        },
        "signals": [{"made": utc(each.made_at), "of": each} for each in live],
        "scoring": session.get(Scoring, symbol),
        "gateway_session": record
        and {
            "alert": record.alert,
            "alerted_at": utc(record.alerted_at),
            "logged_in_at": utc(record.logged_in_at),
            "checked_at": utc(record.checked_at),
        },
    }


def _account(found: Portfolio) -> dict[str, Any]:
    def amount(name: str) -> float | None:
        entry = found.summary.get(name)
        value = entry.get("amount") if isinstance(entry, dict) else None
        return float(value) if isinstance(value, int | float) else None

    rows = [
        {
            "name": row.get("contractDesc") or row.get("ticker") or str(row.get("conid", "")),
            "title": row.get("name") or "",
            "currency": row.get("currency") or "",
            "kind": row.get("assetClass") or "",
            **{
                name: float(row[field]) if isinstance(row.get(field), int | float) else None
                for name, field in (
                    ("position", "position"),
                    ("price", "mktPrice"),
                    ("value", "mktValue"),
                    ("cost", "avgCost"),
                    ("unrealized", "unrealizedPnl"),
                )
            },
        }
        for row in found.positions
        if row.get("position")
    ]
    currency = found.summary.get("netliquidation", {}).get("currency") or found.currency or ""
    return {
        "id": found.account_id,
        "title": found.title,
        "paper": found.paper,
        "simulated": found.simulated,
        "currency": currency,
        "as_of": utc(found.fetched_at),
        "net": amount("netliquidation"),
        "cash": amount("totalcashvalue"),
        "gross": amount("grosspositionvalue"),
        "available": amount("availablefunds"),
        "unrealized": sum(row["unrealized"] or 0 for row in rows) if rows else 0.0,
        "positions": sorted(rows, key=lambda row: -abs(row["value"] or 0)),
    }


def _mode(gateway: dict[str, Any], accounts: list[dict[str, Any]]) -> str | None:
    """Say whether what is shown is SIMULATED, a PAPER account or LIVE money; None while no account is known."""
    if gateway["simulated"] or (gateway["simulated"] is None and any(each["simulated"] for each in accounts)):
        return "SIMULATED"
    kinds = {each["paper"] for each in accounts if not each["simulated"]}
    if not kinds:
        return None
    return "PAPER" if kinds == {True} else "LIVE"


def settings_of(request: Request) -> ApiSettings:
    """Return the application's settings."""
    settings: ApiSettings = request.app.state.settings
    return settings


def sessions_of(request: Request) -> Sessions:
    """Return what makes and reads the session cookies."""
    sessions: Sessions = request.app.state.sessions
    return sessions


def may_write(request: Request) -> bool:
    """Say whether who asks may start something: everybody who is logged in, but for the edge's viewers."""
    person = sessions_of(request).identities.person(request.headers.raw)
    return person is None or person.role != VIEWER


def _age(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "never"
    minutes = int((now - moment).total_seconds()) // 60
    if minutes < 1:
        return "just now"
    if minutes < 60:
        return f"{minutes} min ago"
    return f"{minutes // 60} h ago" if minutes < 48 * 60 else f"{minutes // 1440} days ago"


def _money(value: float | None, digits: int = 2) -> str:
    return NOTHING if value is None else f"{value:,.{digits}f}".replace("-", MINUS)


def _size(value: int | None) -> str:
    if value is None:
        return NOTHING
    return f"{value / 2**30:,.1f} GiB" if value >= 2**30 else f"{value / 2**20:,.0f} MiB"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _signed(value: float | None, digits: int = 2) -> str:
    return NOTHING if value is None else f"{value:+,.{digits}f}".replace("-", MINUS)


def _percent(value: float | None, digits: int = 1) -> str:
    return NOTHING if value is None else f"{value:.{digits}%}".replace("-", MINUS)


TEMPLATES = Environment(
    loader=PackageLoader("ibkr_backend"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {
    "age": _age,
    "money": _money,
    "signed": _signed,
    "percent": _percent,
    "size": _size,
    "duration": _duration,
    # Within a script element only "<" could end it.
    "json_text": lambda value: Markup(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")),
}
