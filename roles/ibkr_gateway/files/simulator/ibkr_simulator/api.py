"""The HTTP side: the part of IBKR's Client Portal Web API (v1) that the stack uses."""

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
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .market import ACCOUNT_ID, ACCOUNT_TITLE, BadRequestError, Contract, Market, NoChartDataError
from .page import render

API = "/v1/api"
ORDERS = re.compile(rf"{API}/iserver/(account/([^/]+/)?order|reply/)")
CONCURRENT_HISTORY = 5
# A history request that took no time at all could never meet the limit on concurrent ones.
HISTORY_SECONDS = 0.05
LONGEST_POSITIONS_PAGE = 100
USER_ID = 1
GET_POST = ["GET", "POST"]

log = logging.getLogger("ibkr_simulator")


def error(status: int, message: str) -> JSONResponse:
    """An error in the shape of IBKR's."""
    return JSONResponse({"error": message, "statusCode": status}, status_code=status)


class Session:
    """The one brokerage session of a gateway, and the quotes subscribed in it."""

    def __init__(self, logged_in: bool) -> None:
        """Begin logged in or not."""
        self.logged_in = logged_in
        self.subscribed: set[int] = set()

    def log_in(self) -> None:
        """Log in, as a person does in the browser."""
        self.logged_in = True
        log.info("SIMULATED login")

    def log_out(self) -> None:
        """End the session with its subscriptions."""
        self.logged_in = False
        self.subscribed.clear()
        log.info("SIMULATED logout")


class Guard:
    """Refuses orders always, and everything else under the API before login, as the real gateway does."""

    def __init__(self, app: ASGIApp, session: Session) -> None:
        """Wrap `app`."""
        self.app = app
        self.session = session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 or 401, or pass the request on."""
        path = scope.get("path", "")
        refusal: Response | None = None
        if scope["type"] == "http" and ORDERS.match(path):
            log.warning("refused %s %s: orders do not exist here", scope["method"], path)
            refusal = error(403, "SIMULATED gateway: there are no orders here, neither placed nor read")
        elif scope["type"] == "http" and path.startswith(f"{API}/") and not self.session.logged_in:
            refusal = error(401, "not authenticated")
        await (refusal or self.app)(scope, receive, send)


class Api:
    """The endpoints."""

    def __init__(self, market: Market, session: Session) -> None:
        """Answer from `market` in `session`."""
        self.market = market
        self.session = session
        self.history_slots = 0

    def routes(self) -> list[Route]:
        """All routes, those of the API under `/v1/api`."""
        api = [
            ("/iserver/auth/status", self.auth_status, GET_POST),
            ("/iserver/auth/ssodh/init", self.auth_status, ["POST"]),
            ("/tickle", self.tickle, GET_POST),
            ("/sso/validate", self.sso_validate, ["GET"]),
            ("/logout", self.logout, GET_POST),
            ("/iserver/accounts", self.iserver_accounts, ["GET"]),
            ("/portfolio/accounts", self.portfolio_accounts, ["GET"]),
            ("/portfolio/{account}/summary", self.summary, ["GET"]),
            ("/portfolio/{account}/ledger", self.ledger, ["GET"]),
            ("/portfolio/{account}/positions/{page:int}", self.positions, ["GET"]),
            ("/iserver/secdef/search", self.search, GET_POST),
            ("/iserver/contract/{conid:int}/info", self.contract_info, ["GET"]),
            ("/trsrv/stocks", self.stocks, ["GET"]),
            ("/iserver/marketdata/history", self.history, ["GET"]),
            ("/iserver/marketdata/snapshot", self.snapshot, ["GET"]),
            ("/iserver/marketdata/unsubscribeall", self.unsubscribe_all, ["GET"]),
        ]
        return [
            Route("/", self.page),
            Route("/sso/Login", self.page, methods=["GET"]),
            Route("/sso/Login", self.login, methods=["POST"]),
            Route("/sso/Logout", self.leave, methods=["POST"]),
            *(Route(API + path, endpoint, methods=methods) for path, endpoint, methods in api),
        ]

    async def page(self, _: Request) -> Response:
        """The page for people."""
        policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
        return HTMLResponse(
            render(self.market, self.session.logged_in),
            headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"},
        )

    async def login(self, _: Request) -> Response:
        """The page's button: where IBKR asks for user name, password and second factor, nothing is asked here."""
        self.session.log_in()
        return RedirectResponse("/", status_code=303)

    async def leave(self, _: Request) -> Response:
        """The page's other button."""
        self.session.log_out()
        return RedirectResponse("/", status_code=303)

    async def auth_status(self, _: Request) -> Response:
        """`POST /iserver/auth/status` and `/iserver/auth/ssodh/init`."""
        return JSONResponse(self._auth_status())

    def _auth_status(self) -> dict[str, Any]:
        return {
            "authenticated": True,
            "competing": False,
            "connected": True,
            "established": True,
            "message": "SIMULATED",
            "MAC": "00:00:00:00:00:00",
            "serverInfo": {"serverName": "SIMULATED", "serverVersion": "SIMULATED"},
            "fail": "",
        }

    async def tickle(self, _: Request) -> Response:
        """`POST /tickle`."""
        return JSONResponse(
            {
                "session": "SIMULATED",
                "ssoExpires": 600_000,
                "collission": False,
                "userId": USER_ID,
                "hmds": {"error": "no bridge"},
                "iserver": {"authStatus": self._auth_status()},
            }
        )

    async def sso_validate(self, _: Request) -> Response:
        """`GET /sso/validate`; login type 2 is a paper account."""
        return JSONResponse(
            {
                "USER_ID": USER_ID,
                "USER_NAME": "SIMULATED",
                "RESULT": True,
                "AUTH_TIME": self.market.now_ms,
                "SF_ENABLED": False,
                "IS_FREE_TRIAL": False,
                "CREDENTIAL": "SIMULATED",
                "IP": "127.0.0.1",
                "EXPIRES": 600_000,
                "LOGIN_TYPE": 2,
                "PAPER_USER_NAME": "SIMULATED",
            }
        )

    async def logout(self, _: Request) -> Response:
        """`POST /logout`."""
        self.session.log_out()
        return JSONResponse({"status": True})

    async def iserver_accounts(self, _: Request) -> Response:
        """`GET /iserver/accounts`."""
        return JSONResponse(
            {
                "accounts": [ACCOUNT_ID],
                "acctProps": {ACCOUNT_ID: {"hasChildAccounts": False, "supportsCashQty": False}},
                "aliases": {ACCOUNT_ID: ACCOUNT_TITLE},
                "selectedAccount": ACCOUNT_ID,
                "serverInfo": {"serverName": "SIMULATED", "serverVersion": "SIMULATED"},
                "sessionId": "SIMULATED",
                "isFT": False,
                "isPaper": True,
            }
        )

    async def portfolio_accounts(self, _: Request) -> Response:
        """`GET /portfolio/accounts`."""
        return JSONResponse(
            [
                {
                    "id": ACCOUNT_ID,
                    "PrepaidCrypto-Z": False,
                    "PrepaidCrypto-P": False,
                    "brokerageAccess": True,
                    "accountId": ACCOUNT_ID,
                    "accountVan": ACCOUNT_ID,
                    "accountTitle": ACCOUNT_TITLE,
                    "displayName": ACCOUNT_TITLE,
                    "accountAlias": None,
                    "accountStatus": self.market.now_ms,
                    "currency": "USD",
                    "type": "DEMO",
                    "tradingType": "STKCASH",
                    "businessType": "SIMULATED",
                    "ibEntity": "SIMULATED",
                    "faclient": False,
                    "clearingStatus": "O",
                    "covestor": False,
                    "noClientTrading": True,
                    "trackVirtualFXPortfolio": False,
                    "parent": {
                        "mmc": [],
                        "accountId": "",
                        "isMParent": False,
                        "isMChild": False,
                        "isMultiplex": False,
                    },
                    "desc": f"{ACCOUNT_ID} - {ACCOUNT_TITLE}",
                }
            ]
        )

    async def summary(self, request: Request) -> Response:
        """`GET /portfolio/{accountId}/summary`."""
        self._check_account(request)
        return JSONResponse(self.market.summary())

    async def ledger(self, request: Request) -> Response:
        """`GET /portfolio/{accountId}/ledger`."""
        self._check_account(request)
        return JSONResponse(self.market.ledger())

    async def positions(self, request: Request) -> Response:
        """`GET /portfolio/{accountId}/positions/{page}`, 100 positions a page."""
        self._check_account(request)
        first = request.path_params["page"] * LONGEST_POSITIONS_PAGE
        return JSONResponse(self.market.positions()[first : first + LONGEST_POSITIONS_PAGE])

    async def search(self, request: Request) -> Response:
        """`GET|POST /iserver/secdef/search`."""
        parameters: dict[str, Any] = dict(request.query_params)
        if request.method == "POST":
            try:
                body = json.loads(await request.body() or b"{}")
            except ValueError:
                raise BadRequestError("the body is not JSON") from None
            if not isinstance(body, dict):
                raise BadRequestError("the body is not a JSON object")
            parameters |= body
        symbol = parameters.get("symbol")
        if not isinstance(symbol, str) or not symbol:
            raise BadRequestError("symbol: missing")
        contract = self.market.by_symbol(symbol)
        if contract is None:
            return error(400, "No symbol found")
        return JSONResponse(
            [
                {
                    "conid": str(contract.conid),
                    "companyHeader": f"{contract.text} - {contract.exchange}",
                    "companyName": contract.text,
                    "symbol": contract.symbol,
                    "description": contract.exchange,
                    "restricted": None,
                    "fop": None,
                    "opt": None,
                    "war": None,
                    "sections": [{"secType": "STK"}],
                }
            ]
        )

    async def contract_info(self, request: Request) -> Response:
        """`GET /iserver/contract/{conid}/info`."""
        contract = self._contract(str(request.path_params["conid"]))
        return JSONResponse(
            {
                "cfi_code": "",
                "symbol": contract.symbol,
                "cusip": None,
                "expiry_full": None,
                "con_id": contract.conid,
                "maturity_date": None,
                "industry": contract.industry,
                "instrument_type": "STK",
                "trading_class": contract.symbol,
                "valid_exchanges": f"SMART,{contract.exchange}",
                "allow_sell_long": False,
                "is_zero_commission_security": False,
                "local_symbol": contract.symbol,
                "contract_clarification_type": None,
                "contract_month": None,
                "classifier": None,
                "currency": "USD",
                "text": None,
                "underlying_con_id": 0,
                "r_t_h": True,
                "multiplier": None,
                "underlying_issuer": None,
                "company_name": contract.text,
                "smart_available": True,
                "exchange": "SMART",
                "category": contract.category,
            }
        )

    async def stocks(self, request: Request) -> Response:
        """`GET /trsrv/stocks?symbols=AAPL,IBM`."""
        answer: dict[str, list[dict[str, Any]]] = {}
        for symbol in self._parameter(request, "symbols").split(","):
            contract = self.market.by_symbol(symbol)
            answer[symbol] = (
                []
                if contract is None
                else [
                    {
                        "name": contract.text,
                        "chineseName": None,
                        "assetClass": "STK",
                        "contracts": [{"conid": contract.conid, "exchange": contract.exchange, "isUS": True}],
                    }
                ]
            )
        return JSONResponse(answer)

    async def history(self, request: Request) -> Response:
        """`GET /iserver/marketdata/history`; the sixth request at a time is one too many."""
        if self.history_slots >= CONCURRENT_HISTORY:
            return error(429, "Too many requests")
        self.history_slots += 1
        try:
            await asyncio.sleep(HISTORY_SECONDS)
            contract = self._contract(self._parameter(request, "conid"))
            query = request.query_params
            if query.get("outsideRth", "false").lower() not in {"true", "false"}:
                raise BadRequestError("outsideRth: neither true nor false")
            return JSONResponse(
                self.market.history(
                    contract,
                    period=query.get("period", "1w"),
                    bar=query.get("bar", "1d"),
                    start_time=query.get("startTime"),
                    direction=query.get("direction", "-1"),
                )
            )
        finally:
            self.history_slots -= 1

    async def snapshot(self, request: Request) -> Response:
        """`GET /iserver/marketdata/snapshot`; the first request for a conid only subscribes, as with IBKR."""
        contracts = [self._contract(conid) for conid in self._parameter(request, "conids").split(",")]
        fields = request.query_params.get("fields", "31").split(",")
        rows = []
        for contract in contracts:
            if contract.conid in self.session.subscribed:
                rows.append(self.market.snapshot(contract, fields))
            else:
                self.session.subscribed.add(contract.conid)
                rows.append({"conid": contract.conid, "conidEx": str(contract.conid)})
        return JSONResponse(rows)

    async def unsubscribe_all(self, _: Request) -> Response:
        """`GET /iserver/marketdata/unsubscribeall`."""
        self.session.subscribed.clear()
        return JSONResponse({"unsubscribed": True})

    @staticmethod
    def _check_account(request: Request) -> None:
        if request.path_params["account"] != ACCOUNT_ID:
            raise BadRequestError(f"accountId: the only account is {ACCOUNT_ID}")

    @staticmethod
    def _parameter(request: Request, name: str) -> str:
        value = request.query_params.get(name, "")
        if not value:
            raise BadRequestError(f"{name}: missing")
        return value

    def _contract(self, conid: str) -> Contract:
        contract = self.market.contracts.get(int(conid)) if conid.isascii() and conid.isdigit() else None
        if contract is None:
            raise BadRequestError(f"conid: {conid!r} is not in the simulated market")
        return contract


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


def create_app(market: Market, *, logged_in: bool) -> Starlette:
    """Build the application."""
    session = Session(logged_in)
    return Starlette(
        routes=Api(market, session).routes(),
        middleware=[Middleware(Guard, session=session)],
        exception_handlers={
            BadRequestError: bad_request,
            NoChartDataError: no_chart_data,
            HTTPException: http_error,
        },
    )
