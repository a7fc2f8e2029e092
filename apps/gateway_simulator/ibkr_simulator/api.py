"""The HTTP side: the part of IBKR's Client Portal Web API (v1) that `ibind` and a trading backend use."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from .account import Account
from .control import Control
from .market import RULES, BadRequestError, Contract, Market, NoChartDataError
from .pacing import Pacing
from .page import render
from .session import USER_NAME, Session, State
from .stream import Stream

API = "/v1/api"
ORDERS = re.compile(r"iserver/(account/([^/]+/)?order|reply(/|$)|notification$)|fa/model/(invest-divest|submit-)")
NO_ORDERS = "SIMULATED gateway: there are no orders here; nothing is placed, changed, cancelled or read"
WITHOUT_BROKERAGE = {"iserver/auth/status", "iserver/auth/ssodh/init", "iserver/reauthenticate"}
CONCURRENT_HISTORY = 5
# A history request that took no time at all could never meet the limit on concurrent ones.
HISTORY_SECONDS = 0.05
LONGEST_POSITIONS_PAGE = 100
USER_ID = 1
LIVE_LOGIN, PAPER_LOGIN = 1, 2
SSO_EXPIRES_MS = 600_000
GET_POST = ["GET", "POST"]

log = logging.getLogger("ibkr_simulator")


def error(status: int, message: str) -> JSONResponse:
    """An error in the shape of IBKR's."""
    return JSONResponse({"error": message, "statusCode": status}, status_code=status)


class Guard:
    """What stands before every endpoint of the API: no orders, faults that a test asked for, login, pacing limits."""

    def __init__(self, app: ASGIApp, session: Session, control: Control, pacing: Pacing | None) -> None:
        """Wrap `app`; without `pacing` there are no limits."""
        self.app = app
        self.session = session
        self.control = control
        self.pacing = pacing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass the request on."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith(f"{API}/"):
            await self.app(scope, receive, send)
            return
        # ibind ends a path with a slash; the real gateway does not mind.
        scope = {**scope, "path": path.rstrip("/")}
        refusal = await self._refusal(scope["method"], scope["path"].removeprefix(f"{API}/"))
        await (refusal or self.app)(scope, receive, send)

    async def _refusal(self, method: str, endpoint: str) -> Response | None:
        if ORDERS.match(endpoint):
            log.warning("refused %s %s: orders do not exist here", method, endpoint)
            return error(403, NO_ORDERS)
        faults = self.control.faults
        if faults.concern(endpoint):
            await asyncio.sleep(faults.delay_seconds)
            if faults.fail_status:
                return error(faults.fail_status, "SIMULATED failure")
        if not self.session.sso:
            return error(401, "not authenticated")
        if self.pacing and not self.pacing.allows(method, endpoint):
            return error(429, "Too many requests")
        self.session.touch()
        needs_brokerage = endpoint.startswith(("iserver/", "hmds/")) and endpoint not in WITHOUT_BROKERAGE
        if needs_brokerage and not self.session.brokerage:
            return error(400, "Bad Request: no bridge")
        return None


class Api:
    """The endpoints."""

    def __init__(self, market: Market, account: Account, session: Session) -> None:
        """Answer from `market` and `account` in `session`."""
        self.market = market
        self.account = account
        self.session = session
        self.history_slots = 0

    def routes(self) -> list[BaseRoute]:
        """All routes, those of the API under `/v1/api`."""
        api = [
            ("/iserver/auth/status", self.auth_status, GET_POST),
            ("/iserver/auth/ssodh/init", self.open_brokerage, ["POST"]),
            ("/iserver/reauthenticate", self.reauthenticate, GET_POST),
            ("/tickle", self.tickle, GET_POST),
            ("/sso/validate", self.sso_validate, ["GET"]),
            ("/logout", self.logout, GET_POST),
            ("/iserver/accounts", self.iserver_accounts, ["GET"]),
            ("/iserver/account", self.switch_account, ["POST"]),
            ("/iserver/account/{account}/summary", self.brokerage_summary, ["GET"]),
            ("/iserver/account/pnl/partitioned", self.profit, ["GET"]),
            ("/iserver/account/trades", self.trades, ["GET"]),
            ("/portfolio/accounts", self.portfolio_accounts, ["GET"]),
            ("/portfolio/subaccounts", self.portfolio_accounts, ["GET"]),
            ("/portfolio/subaccounts2", self.subaccounts, ["GET"]),
            ("/portfolio/allocation", self.allocations, ["GET"]),
            ("/portfolio/positions/{conid}", self.positions_of_contract, ["GET"]),
            ("/portfolio/{account}/meta", self.meta, ["GET"]),
            ("/portfolio/{account}/summary", self.summary, ["GET"]),
            ("/portfolio/{account}/ledger", self.ledger, ["GET"]),
            ("/portfolio/{account}/allocation", self.allocation, ["GET"]),
            ("/portfolio/{account}/combo/positions", self.combinations, ["GET"]),
            ("/portfolio/{account}/positions/invalidate", self.invalidate_positions, ["POST"]),
            ("/portfolio/{account}/positions/{page:int}", self.positions, ["GET"]),
            ("/portfolio/{account}/position/{conid}", self.position, ["GET"]),
            ("/portfolio2/{account}/positions", self.positions2, ["GET"]),
            ("/iserver/secdef/search", self.search, GET_POST),
            ("/iserver/secdef/info", self.definition, ["GET"]),
            ("/iserver/secdef/strikes", self.strikes, ["GET"]),
            ("/iserver/contract/{conid:int}/info", self.contract_info, ["GET"]),
            ("/iserver/contract/{conid:int}/info-and-rules", self.info_and_rules, ["GET"]),
            ("/iserver/contract/rules", self.rules, ["POST"]),
            ("/trsrv/stocks", self.stocks, ["GET"]),
            ("/trsrv/secdef", self.security_definitions, ["GET"]),
            ("/trsrv/all-conids", self.all_conids, ["GET"]),
            ("/iserver/marketdata/history", self.history, ["GET"]),
            ("/iserver/marketdata/snapshot", self.snapshot, ["GET"]),
            ("/iserver/marketdata/unsubscribe", self.unsubscribe, ["POST"]),
            ("/iserver/marketdata/unsubscribeall", self.unsubscribe_all, ["GET"]),
            ("/hmds/auth/init", self.start_history_service, ["POST"]),
            ("/hmds/history", self.history_service, ["GET"]),
        ]
        return [
            Route("/", self.page),
            Route("/sso/Login", self.page, methods=["GET"]),
            Route("/sso/Login", self.login, methods=["POST"]),
            Route("/sso/Logout", self.leave, methods=["POST"]),
            *(Route(API + path, endpoint, methods=methods) for path, endpoint, methods in api),
        ]

    # ---- the page for people

    async def page(self, _: Request) -> Response:
        """The page for people."""
        policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
        return HTMLResponse(
            render(self.market, self.account, self.session),
            headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"},
        )

    async def login(self, _: Request) -> Response:
        """The page's button: where IBKR asks for user name, password and second factor, nothing is asked here."""
        self.session.enter(State.LOGGED_IN)
        return RedirectResponse("/", status_code=303)

    async def leave(self, _: Request) -> Response:
        """The page's other button."""
        self.session.enter(State.LOGGED_OUT)
        return RedirectResponse("/", status_code=303)

    # ---- session

    async def auth_status(self, _: Request) -> Response:
        """`POST /iserver/auth/status`."""
        return JSONResponse(self.session.auth_status())

    async def open_brokerage(self, request: Request) -> Response:
        """`POST /iserver/auth/ssodh/init`."""
        body = await self._body(request)
        for name in ("publish", "compete"):
            if not isinstance(body.get(name), bool):
                raise BadRequestError(f"{name}: neither true nor false")
        if not body["publish"]:
            return error(500, "publish has to be true")
        self.session.open_brokerage(compete=body["compete"])
        return JSONResponse(self.session.auth_status())

    async def reauthenticate(self, _: Request) -> Response:
        """`POST /iserver/reauthenticate`, which IBKR has deprecated in favour of `/iserver/auth/ssodh/init`."""
        self.session.open_brokerage(compete=False)
        return JSONResponse({"message": "triggered"})

    async def tickle(self, _: Request) -> Response:
        """`POST /tickle`."""
        return JSONResponse(
            {
                "session": self.session.id,
                "ssoExpires": SSO_EXPIRES_MS,
                "collission": False,
                "userId": USER_ID,
                "hmds": {"error": "no bridge"},
                "iserver": {"authStatus": self.session.auth_status()},
            }
        )

    async def sso_validate(self, _: Request) -> Response:
        """`GET /sso/validate`."""
        return JSONResponse(
            {
                "USER_ID": USER_ID,
                "USER_NAME": USER_NAME,
                "RESULT": True,
                "AUTH_TIME": self.market.now_ms,
                "SF_ENABLED": False,
                "IS_FREE_TRIAL": False,
                "CREDENTIAL": USER_NAME,
                "IP": "127.0.0.1",
                "EXPIRES": SSO_EXPIRES_MS,
                "LOGIN_TYPE": LIVE_LOGIN if self.account.live else PAPER_LOGIN,
                "PAPER_USER_NAME": USER_NAME,
            }
        )

    async def logout(self, _: Request) -> Response:
        """`POST /logout`."""
        self.session.enter(State.LOGGED_OUT)
        return JSONResponse({"status": True})

    # ---- account

    async def iserver_accounts(self, _: Request) -> Response:
        """`GET /iserver/accounts`, which IBKR wants before the first snapshot."""
        self.session.accounts_queried = True
        return JSONResponse(self.account.brokerage(self.session.id))

    async def switch_account(self, request: Request) -> Response:
        """`POST /iserver/account`: there is one account only."""
        self._check_account((await self._body(request)).get("acctId"))
        return JSONResponse({"success": "Account already set"})

    async def brokerage_summary(self, request: Request) -> Response:
        """`GET /iserver/account/{accountId}/summary`."""
        self._check_account(request.path_params["account"])
        return JSONResponse(self.account.brokerage_summary())

    async def profit(self, _: Request) -> Response:
        """`GET /iserver/account/pnl/partitioned`."""
        return JSONResponse({"upnl": self.account.profit()})

    async def trades(self, _: Request) -> Response:
        """`GET /iserver/account/trades`: nothing was traded within the days that it covers."""
        return JSONResponse([])

    async def portfolio_accounts(self, _: Request) -> Response:
        """`GET /portfolio/accounts` and `/portfolio/subaccounts`."""
        return JSONResponse([self.account.description()])

    async def subaccounts(self, _: Request) -> Response:
        """`GET /portfolio/subaccounts2`."""
        metadata = {"total": 1, "pageSize": 20, "pageNum": 0}
        return JSONResponse({"metadata": metadata, "subaccounts": [self.account.description()]})

    async def meta(self, request: Request) -> Response:
        """`GET /portfolio/{accountId}/meta`."""
        self._check_account(request.path_params["account"])
        return JSONResponse(self.account.description())

    async def summary(self, request: Request) -> Response:
        """`GET /portfolio/{accountId}/summary`."""
        self._check_account(request.path_params["account"])
        return JSONResponse(self.account.summary())

    async def ledger(self, request: Request) -> Response:
        """`GET /portfolio/{accountId}/ledger`."""
        self._check_account(request.path_params["account"])
        return JSONResponse(self.account.ledger())

    async def allocation(self, request: Request) -> Response:
        """`GET /portfolio/{accountId}/allocation`."""
        self._check_account(request.path_params["account"])
        return JSONResponse(self.account.allocation())

    async def allocations(self, request: Request) -> Response:
        """`GET /portfolio/allocation?acctIds=…`."""
        for account in self._parameter(request, "acctIds").split(","):
            self._check_account(account)
        return JSONResponse(self.account.allocation())

    async def positions(self, request: Request) -> Response:
        """`GET /portfolio/{accountId}/positions/{page}`, 100 positions a page."""
        self._check_account(request.path_params["account"])
        first = request.path_params["page"] * LONGEST_POSITIONS_PAGE
        return JSONResponse(self._sorted(request, self.account.positions())[first : first + LONGEST_POSITIONS_PAGE])

    async def positions2(self, request: Request) -> Response:
        """`GET /portfolio2/{accountId}/positions`."""
        self._check_account(request.path_params["account"])
        return JSONResponse(self._sorted(request, self.account.positions2()))

    async def invalidate_positions(self, request: Request) -> Response:
        """`POST /portfolio/{accountId}/positions/invalidate`, which answers with the first page."""
        self._check_account(request.path_params["account"])
        return JSONResponse(self.account.positions()[:LONGEST_POSITIONS_PAGE])

    async def combinations(self, request: Request) -> Response:
        """`GET /portfolio/{accountId}/combo/positions`: there are shares only."""
        self._check_account(request.path_params["account"])
        return JSONResponse([])

    async def position(self, request: Request) -> Response:
        """`GET /portfolio/{accountId}/position/{conid}`."""
        self._check_account(request.path_params["account"])
        return JSONResponse(self._positions_of(request))

    async def positions_of_contract(self, request: Request) -> Response:
        """`GET /portfolio/positions/{conid}`."""
        return JSONResponse({self.account.id: self._positions_of(request)})

    def _positions_of(self, request: Request) -> list[dict[str, Any]]:
        contract = self.market.by_conid(request.path_params["conid"])
        return [row for row in self.account.positions() if row["conid"] == contract.conid]

    @staticmethod
    def _sorted(request: Request, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        column = request.query_params.get("sort")
        if column is None:
            return rows
        direction = request.query_params.get("direction", "a")
        if column not in rows[0]:
            raise BadRequestError(f"sort: {column!r} is not a column")
        if direction not in {"a", "d"}:
            raise BadRequestError(f"direction: {direction!r} is neither a nor d")
        return sorted(rows, key=lambda row: row[column], reverse=direction == "d")

    # ---- contracts

    async def search(self, request: Request) -> Response:
        """`GET|POST /iserver/secdef/search`."""
        parameters: dict[str, Any] = dict(request.query_params)
        if request.method == "POST":
            parameters |= await self._body(request)
        symbol = parameters.get("symbol")
        if not isinstance(symbol, str) or not symbol:
            raise BadRequestError("symbol: missing")
        by_name = str(parameters.get("name", "false")).lower() == "true"
        found = self.market.search(symbol, by_name=by_name)
        if not found or parameters.get("secType", "STK") != "STK":
            return error(400, "No symbol found")
        return JSONResponse([contract.found() for contract in found])

    async def definition(self, request: Request) -> Response:
        """`GET /iserver/secdef/info`."""
        contract = self._contract(request)
        self._shares_only(request)
        return JSONResponse([contract.definition()])

    async def strikes(self, request: Request) -> Response:
        """`GET /iserver/secdef/strikes`: there are no options."""
        self._contract(request)
        for name in ("sectype", "month"):
            self._parameter(request, name)
        return JSONResponse({"call": [], "put": []})

    async def contract_info(self, request: Request) -> Response:
        """`GET /iserver/contract/{conid}/info`."""
        return JSONResponse(self.market.by_conid(request.path_params["conid"]).info())

    async def info_and_rules(self, request: Request) -> Response:
        """`GET /iserver/contract/{conid}/info-and-rules`."""
        return JSONResponse(self.market.by_conid(request.path_params["conid"]).info() | {"rules": RULES})

    async def rules(self, request: Request) -> Response:
        """`POST /iserver/contract/rules`."""
        self.market.by_conid((await self._body(request)).get("conid"))
        return JSONResponse(RULES)

    async def stocks(self, request: Request) -> Response:
        """`GET /trsrv/stocks?symbols=AAPL,IBM`."""

        def entry(contract: Contract) -> dict[str, Any]:
            listing = {"conid": contract.conid, "exchange": contract.exchange, "isUS": True}
            return {"name": contract.text, "chineseName": None, "assetClass": "STK", "contracts": [listing]}

        symbols = self._parameter(request, "symbols").split(",")
        return JSONResponse(
            {symbol: [entry(c) for c in self.market.search(symbol, by_name=False)] for symbol in symbols}
        )

    async def security_definitions(self, request: Request) -> Response:
        """`GET /trsrv/secdef?conids=265598,8314`."""
        contracts = [self.market.by_conid(conid) for conid in self._parameter(request, "conids").split(",")]
        return JSONResponse({"secdef": [contract.details() for contract in contracts]})

    async def all_conids(self, request: Request) -> Response:
        """`GET /trsrv/all-conids?exchange=NASDAQ`."""
        exchange = self._parameter(request, "exchange")
        listed = [contract for contract in self.market.contracts.values() if contract.exchange == exchange]
        return JSONResponse([{"ticker": c.symbol, "conid": c.conid, "exchange": c.exchange} for c in listed])

    @staticmethod
    def _shares_only(request: Request) -> None:
        kind = request.query_params.get("sectype", request.query_params.get("secType", "STK"))
        if kind != "STK":
            raise BadRequestError(f"sectype: {kind!r} is not in the simulated market, which holds shares only")

    # ---- market data

    async def history(self, request: Request) -> Response:
        """`GET /iserver/marketdata/history`; the sixth request at a time is one too many."""
        if self.history_slots >= CONCURRENT_HISTORY:
            return error(429, "Too many requests")
        self.history_slots += 1
        try:
            await asyncio.sleep(HISTORY_SECONDS)
            return JSONResponse(self._history(request))
        finally:
            self.history_slots -= 1

    def _history(self, request: Request) -> dict[str, Any]:
        contract = self._contract(request)
        query = request.query_params
        if query.get("outsideRth", "false").lower() not in {"true", "false"}:
            raise BadRequestError("outsideRth: neither true nor false")
        return self.market.history(
            contract,
            period=query.get("period", "1w"),
            bar=query.get("bar", "1d"),
            start_time=query.get("startTime"),
            direction=query.get("direction", "-1"),
        )

    async def start_history_service(self, _: Request) -> Response:
        """`POST /hmds/auth/init`."""
        self.session.history_service_started = True
        return JSONResponse({"authenticated": True, "connected": True})

    async def history_service(self, request: Request) -> Response:
        """`GET /hmds/history`; the first request of a session only starts the service and answers 404, as with IBKR."""
        if not self.session.history_service_started:
            self.session.history_service_started = True
            return error(404, "Not Found")
        kind = request.query_params.get("barType", "Last")
        if kind != "Last":
            raise NoChartDataError(f"no {kind}")
        answer = self._history(request)
        first, last = answer["data"][0]["t"], answer["data"][-1]["t"]
        return JSONResponse(
            {"startTimeVal": first, "endTimeVal": last}
            | {key: answer[key] for key in ("startTime", "data", "points", "mktDataDelay")}
        )

    async def snapshot(self, request: Request) -> Response:
        """`GET /iserver/marketdata/snapshot`; the first request for a conid only subscribes, as with IBKR."""
        contracts = [self.market.by_conid(conid) for conid in self._parameter(request, "conids").split(",")]
        if not self.session.accounts_queried:
            return error(500, "Please query /accounts first")
        fields = request.query_params.get("fields", "31").split(",")
        rows = []
        for contract in contracts:
            if contract.conid in self.session.subscribed:
                rows.append(self.market.snapshot(contract, fields))
            else:
                self.session.subscribed.add(contract.conid)
                rows.append({"conid": contract.conid, "conidEx": str(contract.conid)})
        return JSONResponse(rows)

    async def unsubscribe(self, request: Request) -> Response:
        """`POST /iserver/marketdata/unsubscribe`; 404 where nothing is subscribed."""
        contract = self.market.by_conid((await self._body(request)).get("conid"))
        if contract.conid not in self.session.subscribed:
            return error(404, "unknown")
        self.session.subscribed.discard(contract.conid)
        return JSONResponse({"success": True})

    async def unsubscribe_all(self, _: Request) -> Response:
        """`GET /iserver/marketdata/unsubscribeall`."""
        self.session.subscribed.clear()
        return JSONResponse({"unsubscribed": True})

    # ---- parameters

    def _check_account(self, account: object) -> None:
        if account != self.account.id:
            raise BadRequestError(f"accountId: the only account is {self.account.id}")

    @staticmethod
    async def _body(request: Request) -> dict[str, Any]:
        try:
            body = json.loads(await request.body() or b"{}")
        except ValueError:
            raise BadRequestError("the body is not JSON") from None
        if not isinstance(body, dict):
            raise BadRequestError("the body is not a JSON object")
        return body

    @staticmethod
    def _parameter(request: Request, name: str) -> str:
        value = request.query_params.get(name, "")
        if not value:
            raise BadRequestError(f"{name}: missing")
        return value

    def _contract(self, request: Request) -> Contract:
        return self.market.by_conid(self._parameter(request, "conid"))


def control_route(control: Control) -> Route:
    """`/simulator/control`: look, set some of what is shown, or make nothing wrong any more."""

    async def endpoint(request: Request) -> Response:
        if request.method == "POST":
            # A form on a web page cannot send this type to another site without asking first.
            if request.headers.get("content-type", "").partition(";")[0] != "application/json":
                return error(415, "the body has to be application/json")
            control.set(await Api._body(request))
        elif request.method == "DELETE":
            control.reset()
        return JSONResponse(control.shown())

    return Route("/simulator/control", endpoint, methods=["GET", "POST", "DELETE"])


def bad_request(_: Request, exception: Exception) -> Response:
    """400 with the reason."""
    return error(400, f"Bad Request: {exception}")


def no_chart_data(_: Request, __: Exception) -> Response:
    """500, as IBKR answers where there are no bars."""
    return error(500, "Chart data unavailable")


def http_error(_: Request, exception: Exception) -> Response:
    """404 and 405 in the shape of the other errors."""
    assert isinstance(exception, HTTPException)
    return JSONResponse(
        {"error": f"SIMULATED gateway: {exception.detail}", "statusCode": exception.status_code},
        status_code=exception.status_code,
        headers=exception.headers,
    )


def create_app(
    market: Market,
    *,
    logged_in: bool = True,
    live: bool = False,
    pacing: bool = True,
    controlled: bool = False,
    idle_seconds: int = 0,
) -> Starlette:
    """Build the application; `controlled` adds the endpoint by which a test makes things go wrong."""
    session = Session(logged_in=logged_in, idle_seconds=idle_seconds)
    account = Account(market, live=live)
    control = Control(session)
    stream = Stream(market, account, session)
    routes = [*Api(market, account, session).routes(), WebSocketRoute(f"{API}/ws", stream.serve)]
    return Starlette(
        routes=[*routes, control_route(control)] if controlled else routes,
        middleware=[
            Middleware(Guard, session=session, control=control, pacing=Pacing() if pacing else None),
        ],
        exception_handlers={
            BadRequestError: bad_request,
            NoChartDataError: no_chart_data,
            HTTPException: http_error,
        },
    )
