"""The WebSocket side: `/v1/api/ws`, with the topics of IBKR's stream that do not concern orders.

The simulated market stands still, so a subscription is answered once with all of what was asked, and nothing changes
after that; heartbeats and the state of the session go on.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from .account import Account
from .market import BadRequestError, Market, NoChartDataError
from .session import USER_NAME, Session

HEARTBEAT_SECONDS = 10
CONCURRENT_HISTORY = 5
WAITING = {"message": "waiting for session"}
BAR_FIELDS = {"%o": "o", "%c": "c", "%h": "h", "%l": "l", "%v": "v"}


def now_ms() -> int:
    """Milliseconds since the epoch, by the real clock: heartbeats say that the connection is alive."""
    return int(time.time() * 1000)


class Stream:
    """Serves any number of connections in the one session of the gateway."""

    def __init__(self, market: Market, account: Account, session: Session) -> None:
        """Answer from `market` and `account` in `session`."""
        self.market = market
        self.account = account
        self.session = session

    async def serve(self, socket: WebSocket) -> None:
        """Serve one connection until it ends; before login there is none."""
        if not self.session.sso:
            # uvicorn adds the header that every other answer has to all but this one.
            refusal = JSONResponse({"error": "not authenticated"}, status_code=401, headers={"X-Simulated": "true"})
            await socket.send_denial_response(refusal)
            return
        await socket.accept()
        with suppress(WebSocketDisconnect):
            await Connection(socket, self).run()


class Connection:
    """One connection: first it says which session it belongs to, by a cookie or by a message; then topics follow."""

    def __init__(self, socket: WebSocket, stream: Stream) -> None:
        """Talk over `socket`, which is accepted."""
        self.socket = socket
        self.market = stream.market
        self.account = stream.account
        self.session = stream.session
        self.histories: set[str] = set()
        self.fields: dict[int, list[str]] = {}
        self.next_server_id = 1
        self.topics = {
            "smd": self.market_data,
            "umd": self.no_market_data,
            "smh": self.history,
            "umh": self.no_history,
            "ssd": self.summary,
            "usd": self.no_summary,
            "sld": self.ledger,
            "uld": self.no_ledger,
            "spl": self.profit,
            "upl": self.nothing,
            "str": self.trades,
            "utr": self.nothing,
            "tic": self.tic,
            "sor": self.no_orders,
            "uor": self.nothing,
        }

    async def run(self) -> None:
        """Greet, then answer messages, send heartbeats and tell of changes, until the other side leaves."""
        if not self._belongs(self._cookie_session()):
            await self._send(WAITING)
            while not self._belongs(_json(await self.socket.receive_text()).get("session")):
                await self._send(WAITING)
        await self._send({"topic": "system", "success": USER_NAME, "isFT": False, "isPaper": not self.account.live})
        await self._send({"topic": "act", "args": self.account.brokerage(self.session.id)})
        await self._send(self._status())
        changed = asyncio.Event()
        self.session.listeners.add(changed.set)
        background = [
            asyncio.create_task(self._heartbeats()),
            asyncio.create_task(self._changes(changed)),
        ]
        try:
            while True:
                await self._answer(await self.socket.receive_text())
        finally:
            self.session.listeners.discard(changed.set)
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)

    def _cookie_session(self) -> str | None:
        # The cookie's value is JSON with quotes, which not every parser of cookies takes.
        for cookie in self.socket.headers.get("cookie", "").split(";"):
            name, _, value = cookie.strip().partition("=")
            if name == "api":
                return _json(unquote(value)).get("session")
        return None

    def _belongs(self, session_id: object) -> bool:
        return self.session.sso and session_id == self.session.id

    def _status(self) -> dict[str, Any]:
        return {"topic": "sts", "args": self.session.auth_status()}

    async def _send(self, message: dict[str, Any]) -> None:
        await self.socket.send_text(json.dumps(message))

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self._send({"topic": "system", "hb": now_ms()})

    async def _changes(self, changed: asyncio.Event) -> None:
        while True:
            await changed.wait()
            changed.clear()
            self.fields.clear()
            self.histories.clear()
            await self._send(self._status())

    async def _answer(self, text: str) -> None:
        topic, _, rest = text.strip().partition("+")
        target, _, arguments = rest.partition("+")
        handler = self.topics.get(topic)
        if handler is None:
            await self._send({"error": f"Topic unknown: {text[:100]}", "code": 1})
            return
        self.session.touch()
        if not self.session.brokerage and topic != "tic":
            await self._send({"error": "no bridge", "topic": topic})
            return
        try:
            answer = await handler(target, _json(arguments))
        except BadRequestError as problem:
            answer = {"error": f"Bad Request: {problem}", "topic": text.partition("+{")[0]}
        except NoChartDataError:
            answer = {"error": "Chart data unavailable", "topic": text.partition("+{")[0]}
        if answer is not None:
            await self._send(answer)

    # ---- topics

    async def market_data(self, target: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """`smd+conid+{"fields":["31"]}`; a further request adds fields."""
        contract = self.market.by_conid(target)
        wanted = arguments.get("fields", [])
        if not isinstance(wanted, list):
            raise BadRequestError("fields: not a list")
        fields = self.fields.setdefault(contract.conid, [])
        fields += [str(field) for field in wanted if str(field) not in fields]
        self.session.subscribed.add(contract.conid)
        return {**self.market.snapshot(contract, fields), "topic": f"smd+{target}"}

    async def no_market_data(self, target: str, _: dict[str, Any]) -> None:
        """`umd+conid+{}`, which IBKR does not answer."""
        contract = self.market.by_conid(target)
        self.fields.pop(contract.conid, None)
        self.session.subscribed.discard(contract.conid)

    async def history(self, target: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """`smh+conid+{"period":"1m","bar":"1d"}`; at most five until they are unsubscribed."""
        contract = self.market.by_conid(target)
        if len(self.histories) >= CONCURRENT_HISTORY:
            return {"error": "Too many requests", "code": 429, "topic": f"smh+{target}"}
        found = self.market.history(
            contract, period=str(arguments.get("period", "1w")), bar=str(arguments.get("bar", "1d"))
        )
        chosen = {BAR_FIELDS[part] for part in str(arguments.get("format", "")).split("/") if part in BAR_FIELDS}
        if chosen:
            found["data"] = [{key: bar[key] for key in bar if key in chosen | {"t"}} for bar in found["data"]]
        server_id = f"SIMULATED{self.next_server_id}"
        self.next_server_id += 1
        self.histories.add(server_id)
        return {**found, "serverId": server_id, "topic": f"smh+{target}"}

    async def no_history(self, target: str, _: dict[str, Any]) -> dict[str, Any]:
        """`umh+serverId`."""
        if target not in self.histories:
            raise BadRequestError(f"serverId: {target!r} is not subscribed")
        self.histories.discard(target)
        return {"message": f"Unsubscribed {target}"}

    async def summary(self, target: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """`ssd+accountId+{"keys":[…],"fields":[…]}`."""
        self._check_account(target)
        rows = self.account.streamed_summary(arguments.get("keys", []), arguments.get("fields", []))
        return {"result": rows, "topic": f"ssd+{target}"}

    async def no_summary(self, target: str, _: dict[str, Any]) -> dict[str, Any]:
        """`usd+accountId`."""
        self._check_account(target)
        return {"result": "unsubscribed from summary"}

    async def ledger(self, target: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """`sld+accountId+{"keys":[…],"fields":[…]}`."""
        self._check_account(target)
        rows = self.account.streamed_ledger(arguments.get("keys", []), arguments.get("fields", []))
        return {"result": rows, "topic": f"sld+{target}"}

    async def no_ledger(self, target: str, _: dict[str, Any]) -> dict[str, Any]:
        """`uld+accountId`."""
        self._check_account(target)
        return {"result": "unsubscribed from ledger"}

    async def profit(self, _: str, __: dict[str, Any]) -> dict[str, Any]:
        """`spl`."""
        return {"topic": "spl", "args": self.account.profit()}

    async def trades(self, _: str, __: dict[str, Any]) -> dict[str, Any]:
        """`str+{}`: nothing was traded."""
        return {"topic": "str", "args": []}

    async def tic(self, _: str, __: dict[str, Any]) -> dict[str, Any]:
        """`tic`, which keeps the session as `/tickle` does."""
        return {"topic": "tic", "alive": self.session.sso, "id": self.session.id, "lastAccessed": now_ms()}

    async def no_orders(self, _: str, __: dict[str, Any]) -> dict[str, Any]:
        """`sor+{}`: there are no orders, and so none is streamed."""
        return {"error": "SIMULATED gateway: there are no orders here", "topic": "sor"}

    async def nothing(self, _: str, __: dict[str, Any]) -> None:
        """An unsubscription that IBKR does not answer."""

    def _check_account(self, target: str) -> None:
        if target != self.account.id:
            raise BadRequestError(f"accountId: the only account is {self.account.id}")


def _json(text: str) -> dict[str, Any]:
    """A JSON object, or an empty one where there is none."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
