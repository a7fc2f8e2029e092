"""The simulated gateway's WebSocket over real TLS, message by message."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

AAPL = "265598"
ACCOUNT = "DU0000001"


def open_stream(simulator, cookie: str | None = None) -> ClientConnection:
    """A connection that verifies the certificate."""
    context = ssl.create_default_context(cafile=simulator.tls.cert)
    # In TLS 1.3, tickets make the socket readable while there is nothing to read: the client's thread then waits for
    # what may never come, and closing waits for the thread without an end.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return connect(
        simulator.url.replace("https", "wss") + "/v1/api/ws",
        ssl=context,
        additional_headers={"Cookie": cookie} if cookie else None,
        proxy=None,
        # On a busy machine the handshake may take longer than the 10 s of the client, which then waits for ever.
        open_timeout=60,
    )


def session_id(simulator) -> str:
    with simulator.client() as client:
        return client.post("/v1/api/tickle").json()["session"]


class Talk:
    """A greeted connection."""

    def __init__(self, connection: ClientConnection) -> None:
        """Read the greeting."""
        self.connection = connection
        self.greeting = [self.read() for _ in range(3)]

    def read(self) -> dict[str, Any]:
        """The next message that is no heartbeat."""
        while "hb" in (message := json.loads(self.connection.recv(timeout=10))):
            pass
        return message

    def ask(self, text: str) -> dict[str, Any]:
        """Send, and read the answer."""
        self.connection.send(text)
        return self.read()


@pytest.fixture
def stream(simulator) -> Iterator[Talk]:
    """A connection of the shared simulator, with the session in its cookie as ibind sends it."""
    cookie = "api=" + json.dumps({"session": session_id(simulator)})
    with open_stream(simulator, cookie) as connection:
        yield Talk(connection)


def test_greets_with_system_account_and_status(stream: Talk) -> None:
    system, account, status = stream.greeting
    assert system == {"topic": "system", "success": "SIMULATED", "isFT": False, "isPaper": True}
    assert account["topic"] == "act" and account["args"]["accounts"] == [ACCOUNT]
    assert status["topic"] == "sts" and status["args"]["authenticated"] is True
    assert "SIMULATED" in status["args"]["message"]
    assert stream.connection.response.headers["X-Simulated"] == "true"


def test_waits_for_the_session_where_there_is_no_cookie(simulator) -> None:
    with open_stream(simulator) as connection:
        assert json.loads(connection.recv(timeout=10)) == {"message": "waiting for session"}
        connection.send('{"session": "wrong"}')
        assert json.loads(connection.recv(timeout=10)) == {"message": "waiting for session"}
        connection.send(json.dumps({"session": session_id(simulator)}))
        assert json.loads(connection.recv(timeout=10))["topic"] == "system"


def test_a_cookie_of_another_session_is_not_enough(simulator) -> None:
    with open_stream(simulator, 'api={"session": "wrong"}') as connection:
        assert json.loads(connection.recv(timeout=10)) == {"message": "waiting for session"}


def test_market_data_come_once_and_grow_by_fields(stream: Talk) -> None:
    first = stream.ask(f'smd+{AAPL}+{{"fields":["31","84"]}}')
    assert (first["topic"], first["conid"], first["31"]) == (f"smd+{AAPL}", 265598, "430.47")
    assert "84" not in first and "70" not in first
    more = stream.ask(f'smd+{AAPL}+{{"fields":["70"]}}')
    assert (more["31"], more["70"]) == ("430.47", "438.18")
    stream.connection.send(f"umd+{AAPL}+{{}}")
    again = stream.ask(f'smd+{AAPL}@SMART+{{"fields":["70"]}}')
    assert again["topic"] == f"smd+{AAPL}@SMART" and "31" not in again


def test_history(stream: Talk) -> None:
    answer = stream.ask(f'smh+{AAPL}+{{"period":"3d","bar":"1d","format":"%c/%v"}}')
    assert answer["topic"] == f"smh+{AAPL}" and answer["points"] == 3
    assert answer["data"][-1] == {"c": 430.47, "v": 19_730_300, "t": 1_362_148_200_000}
    full = [stream.ask(f'smh+{AAPL}+{{"period":"1d"}}') for _ in range(5)]
    assert ["error" in message for message in full] == [False] * 4 + [True]
    assert full[-1]["error"] == "Too many requests"
    assert stream.ask(f"umh+{answer['serverId']}") == {"message": f"Unsubscribed {answer['serverId']}"}
    assert "error" not in stream.ask(f'smh+{AAPL}+{{"period":"1d"}}')
    assert stream.ask("umh+7")["error"].startswith("Bad Request: serverId: ")


def test_account_topics_say_what_the_endpoints_say(simulator, stream: Talk) -> None:
    with simulator.client() as client:
        summary = client.get(f"/v1/api/portfolio/{ACCOUNT}/summary").json()
        profit = client.get("/v1/api/iserver/account/pnl/partitioned").json()["upnl"]
    answer = stream.ask(f"ssd+{ACCOUNT}+{{}}")
    rows = {row["key"]: row for row in answer["result"]}
    assert answer["topic"] == f"ssd+{ACCOUNT}" and len(rows) == len(summary)
    assert rows["AccountCode"]["value"] == ACCOUNT
    assert rows["NetLiquidation"]["monetaryValue"] == summary["netliquidation"]["amount"]
    chosen = stream.ask(f'ssd+{ACCOUNT}+{{"keys":["TotalCashValue"],"fields":["currency"]}}')["result"]
    assert chosen == [{"key": "TotalCashValue", "timestamp": rows["AccountCode"]["timestamp"], "currency": "USD"}]
    assert stream.ask(f"usd+{ACCOUNT}+{{}}") == {"result": "unsubscribed from summary"}
    ledger = stream.ask(f"sld+{ACCOUNT}+{{}}")["result"]
    assert [row["key"] for row in ledger] == ["LedgerListUSD", "LedgerListBASE"]
    assert {row["acctCode"] for row in ledger} == {ACCOUNT}
    assert ledger[0]["netLiquidationValue"] == summary["netliquidation"]["amount"]
    assert stream.ask(f"uld+{ACCOUNT}+{{}}") == {"result": "unsubscribed from ledger"}
    assert stream.ask("spl") == {"topic": "spl", "args": profit}
    assert stream.ask("str+{}") == {"topic": "str", "args": []}
    assert "error" in stream.ask("ssd+U999+{}")


def test_tic_is_answered_with_the_session(simulator, stream: Talk) -> None:
    before = time.time() * 1000
    answer = stream.ask("tic")
    assert (answer["topic"], answer["alive"], answer["id"]) == ("tic", True, session_id(simulator))
    assert before - 1 <= answer["lastAccessed"] <= time.time() * 1000


def test_a_heartbeat_comes_every_ten_seconds(stream: Talk) -> None:
    message = json.loads(stream.connection.recv(timeout=15))
    assert message["topic"] == "system" and abs(message["hb"] / 1000 - time.time()) < 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sor+{}", "there are no orders here"),
        ("xyz+1", "Topic unknown"),
        ("smd+1+{}", "conid"),
        (f'smd+{AAPL}+{{"fields":"31"}}', "fields"),
        (f'smh+{AAPL}+{{"period":"1q"}}', "period"),
        (f'smh+{AAPL}+{{"bar":"5min"}}', "Chart data unavailable"),
    ],
)
def test_what_cannot_be_answered_is_said(stream: Talk, text: str, words: str) -> None:
    assert words in stream.ask(text)["error"]
    assert stream.ask("tic")["alive"] is True


def test_a_dropped_session_is_told_and_ends_subscriptions(start_simulator: Callable) -> None:
    with start_simulator(SIMULATOR_CONTROL="true") as simulator, simulator.client() as client:
        cookie = "api=" + json.dumps({"session": session_id(simulator)})
        with open_stream(simulator, cookie) as connection:
            talk = Talk(connection)
            client.post("/simulator/control", json={"session": "dropped"})
            told = talk.read()
            assert told["topic"] == "sts" and told["args"]["authenticated"] is False
            assert talk.ask(f'smd+{AAPL}+{{"fields":["31"]}}') == {"error": "no bridge", "topic": "smd"}
            client.post("/v1/api/iserver/auth/ssodh/init", json={"publish": True, "compete": True})
            assert talk.read()["args"]["authenticated"] is True
            assert talk.ask(f'smd+{AAPL}+{{"fields":["31"]}}')["31"] == "430.47"
            client.post("/simulator/control", json={"session": "logged_out"})
            assert talk.read()["args"]["authenticated"] is False
            assert talk.ask("tic")["alive"] is False
        with pytest.raises(InvalidStatus) as refused, open_stream(simulator, cookie):
            pass
        assert refused.value.response.status_code == 401
        assert refused.value.response.headers["X-Simulated"] == "true"
