"""Prometheus metrics of the API, of Celery, and of the gateway's session."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ibkr_backend.database import GatewaySession, Portfolio, Refresh, utc
from ibkr_backend.readiness import Dependency, Readiness, answers, redis_client
from ibkr_backend.settings import TASKS_KEY, ApiSettings

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class RequestMetrics:
    """Counts and times requests by route; the routes' templates keep the number of series bounded."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        """Wrap ``app``."""
        self._app = app
        self._count = Counter("http_requests", "Requests answered", ("method", "route", "status"), registry=registry)
        self._seconds = Histogram(
            "http_request_duration_seconds",
            "Time to the end of the answer",
            ("route",),
            registry=registry,
            buckets=BUCKETS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            found: BaseRoute | None = scope.get("route")
            route = getattr(found, "path", "other")
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
            self._count.labels(method, route, str(status)).inc()
            self._seconds.labels(route).observe(time.perf_counter() - began)


class ServiceMetrics(Collector):
    """Looks, at each scrape and within two seconds, at the services, at Celery, and at the gateway's session."""

    def __init__(self, settings: ApiSettings, readiness: Readiness, engine: Engine) -> None:
        """Prepare the clients; nothing is asked yet."""
        self._readiness = readiness
        broker = redis_client(settings.celery_broker_url.get_secret_value())
        results = redis_client(settings.celery_result_backend.get_secret_value())

        def celery() -> dict[str, Any]:
            return {"length": broker.llen(settings.celery_queue), "tasks": results.hgetall(TASKS_KEY)}

        def session() -> dict[str, Any]:
            with Session(engine) as opened:
                return {
                    "session": opened.get(GatewaySession, 1),
                    "papers": opened.scalars(select(Portfolio.paper)).all(),
                    "refreshes": opened.scalars(select(Refresh).order_by(Refresh.symbol)).all(),
                }

        self._lookups = [Dependency("celery", celery), Dependency("session", session)]

    def collect(self) -> Iterable[Metric]:
        """Return what is known now; what cannot be asked is left out."""
        found = answers(self._lookups)
        report = self._readiness.report()
        up = GaugeMetricFamily("service_up", "Whether a service answers", labels=["service"])
        for name, each in (report["dependencies"] | report["processes"]).items():
            up.add_metric([name], each["state"] == "ok")
        yield up
        gateway = report["dependencies"]["gateway"]
        for name, words in (
            ("up", "Whether the gateway answers"),
            ("ibkr_reachable", "Whether the gateway reaches IBKR"),
            ("logged_in", "Whether somebody is logged in"),
            ("simulated", "Whether the gateway is the simulator"),
        ):
            if gateway[name] is not None:
                yield GaugeMetricFamily(f"gateway_{name}", words, value=gateway[name])
        yield from self._celery(found["celery"])
        yield from self._bars(found["session"].get("refreshes") or [])
        if papers := found["session"].get("papers"):
            # An account of which it is not known may hold real money.
            yield GaugeMetricFamily("gateway_paper", "Whether all accounts are paper accounts", value=all(papers))
        record: GatewaySession | None = found["session"].get("session")
        if record:
            checked = utc(record.checked_at)
            yield GaugeMetricFamily(
                "gateway_session_alert", "1 from a dropped session until the next login", value=record.alert is not None
            )
            yield CounterMetricFamily("gateway_session_drops", "Sessions that were dropped", value=record.drops)
            yield CounterMetricFamily(
                "gateway_session_reopened", "Dropped sessions that could be opened again", value=record.reopened
            )
            yield GaugeMetricFamily(
                "gateway_session_checked_timestamp_seconds",
                "When the keep-alive last looked",
                value=checked.timestamp() if checked else 0,
            )

    @staticmethod
    def _bars(refreshes: Iterable[Refresh]) -> Iterable[Metric]:
        refreshed = GaugeMetricFamily(
            "bars_refreshed_timestamp_seconds", "When the bars of a symbol were last refreshed", labels=["symbol"]
        )
        failures = GaugeMetricFamily(
            "bars_refresh_failures", "Refreshes that failed since the last one that did not", labels=["symbol"]
        )
        missing = GaugeMetricFamily("bars_missing_days", "Trading days without a bar", labels=["symbol"])
        for each in refreshes:
            success = utc(each.last_success)
            refreshed.add_metric([each.symbol], success.timestamp() if success else 0)
            failures.add_metric([each.symbol], each.failures)
            if each.missing is not None:
                missing.add_metric([each.symbol], len(each.missing))
        yield from (refreshed, failures, missing)

    @staticmethod
    def _celery(found: dict[str, Any]) -> Iterable[Metric]:
        if found["state"] != "ok":
            return
        yield GaugeMetricFamily("celery_queue_length", "Tasks that wait for a worker", value=found["length"])
        count = CounterMetricFamily("celery_tasks", "Tasks that ended", labels=["task", "state"])
        seconds = CounterMetricFamily("celery_task_seconds", "Time that tasks took", labels=["task"])
        for key, value in sorted(found["tasks"].items()):
            task, _separator, state = key.partition(" ")
            if state == "seconds":
                seconds.add_metric([task], float(value))
            else:
                count.add_metric([task, state], float(value))
        yield count
        yield seconds
