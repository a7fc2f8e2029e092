"""A stand-in for IBKR behind the gateway, and a small HTTP server to put it, or anything else, behind."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

TODAY = date(2026, 11, 20)


def trading_days(first: date, last: date) -> list[date]:
    """Return the weekdays of a range, both ends included."""
    days = (first + timedelta(days=n) for n in range((last - first).days + 1))
    return [day for day in days if day.weekday() < 5]


@dataclass
class FakeIbkr:
    """What the gateway under test knows and how it behaves; ``faults`` answer the next history requests."""

    closes: dict[date, float] = field(default_factory=dict)
    simulated: bool = False
    logged_in: bool = True
    faults: list[tuple[int, str]] = field(default_factory=list)
    hang: threading.Event | None = None
    requests: list[str] = field(default_factory=list)
    page_size: int = 1000
    exchange: str = "NASDAQ"
    other_listings: tuple[tuple[str, str], ...] = ()
    authenticated: bool = True
    reopens: bool = False
    account: str = "DU0000001"
    is_paper: bool | None = True
    positions: list[dict[str, object]] = field(
        default_factory=lambda: [{"contractDesc": "AAPL", "position": 100.0, "mktPrice": 2.0, "mktValue": 200.0}]
    )

    @property
    def history_requests(self) -> list[dict[str, str]]:
        """Return the parameters of each history request."""
        return [
            {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
            for path in self.requests
            if "/history" in path
        ]

    def history(self, query: dict[str, list[str]]) -> tuple[int, object]:
        """Answer as IBKR does: the newest points that begin before ``startTime``."""
        if self.faults:
            status, text = self.faults.pop(0)
            return status, {"error": text}
        anchor = query.get("startTime")
        before = datetime.strptime(anchor[0], "%Y%m%d-%H:%M:%S").date() if anchor else date.max
        number = min(self.page_size, int(query["period"][0].removesuffix("d")))
        days = sorted(day for day in self.closes if day < before)[-number:]
        if not days:
            return 500, {"error": "Chart data unavailable"}
        return 200, {"data": [self.point(day) for day in days]}

    def point(self, day: date) -> dict[str, float]:
        """Make one point of a history answer; US sessions open at 14:30 UTC in winter."""
        close = self.closes[day]
        opened = datetime(day.year, day.month, day.day, 14, 30, tzinfo=UTC)
        values = {"o": close, "h": close + 1, "l": close - 1, "c": close, "v": 1000}
        return values | {"t": int(opened.timestamp() * 1000)}

    def answer(self, path: str) -> tuple[int, object]:
        """Return status and JSON body for a request."""
        self.requests.append(path)
        url = urlsplit(path)
        if url.path == "/":
            return 302, {}
        if self.hang:
            self.hang.wait(10)
        if not self.logged_in:
            return 401, {"error": "not authenticated"}
        if url.path.endswith("/iserver/auth/ssodh/init"):
            self.authenticated = self.authenticated or self.reopens
        status = {"authenticated": self.authenticated, "connected": True, "competing": False}
        if url.path.endswith(("/iserver/auth/status", "/iserver/auth/ssodh/init")):
            return 200, status
        if url.path.endswith("/tickle"):
            return 200, {"session": "x", "iserver": {"authStatus": status}}
        if url.path.endswith("/iserver/accounts"):
            said = {} if self.is_paper is None else {"isPaper": self.is_paper}
            return 200, {"accounts": [self.account], **said}
        if url.path.endswith("/portfolio/accounts"):
            return 200, [{"accountId": self.account, "accountTitle": "A paper account", "currency": "USD"}]
        if url.path.endswith("/summary"):
            return 200, {"netliquidation": {"amount": 1234567.0, "currency": "USD"}}
        if "/positions/" in url.path:
            page = int(url.path.rpartition("/")[2])
            return 200, self.positions[100 * page : 100 * page + 100]
        if url.path.endswith("/iserver/secdef/search"):
            symbol = parse_qs(url.query)["symbol"][0]
            other = {"conid": "1", "symbol": "AAPLX", "sections": [{"secType": "STK"}]}
            stocks = [
                {"conid": conid, "symbol": symbol, "description": exchange, "sections": [{"secType": "STK"}]}
                for conid, exchange in (("265598", self.exchange), *self.other_listings)
            ]
            return 200, [other, *stocks]
        if url.path.endswith("/iserver/marketdata/history"):
            return self.history(parse_qs(url.query))
        return 404, {}


def serve(answer: Callable[[str], tuple[int, object]], headers: Callable[[], dict[str, str]]) -> ThreadingHTTPServer:
    """Serve ``answer(path) -> (status, JSON body)`` on a free port, not started yet."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, body = answer(self.path)
            content = b"" if self.command == "HEAD" else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers().items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server
