"""The simulated gateway over real TLS: what it answers, refuses and says about itself."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from ibkr_simulator.api import create_app
from ibkr_simulator.market import Market

AAPL, FB, GOOG, IBM, MSFT = "265598", "107113386", "208813720", "8314", "272093"
ACCOUNT = "DU0000001"
HISTORY = "iserver/marketdata/history"


def day(bar: dict[str, float]) -> str:
    return datetime.fromtimestamp(bar["t"] / 1000, UTC).strftime("%Y-%m-%d")


def test_every_answer_and_the_page_and_the_log_say_simulated(simulator, client: httpx.Client) -> None:
    for path in ("/", "/v1/api/tickle", "/v1/api/nothing", "/v1/api/iserver/account/DU0000001/orders"):
        assert client.get(simulator.url + path).headers["x-simulated"] == "true", path
    page = client.get(simulator.url + "/")
    assert page.status_code == 200 and '<span class="badge">SIMULATED</span>' in page.text
    assert "SIMULATED Client Portal gateway" in simulator.log.read_text()


def test_session_endpoints(client: httpx.Client) -> None:
    for method in ("GET", "POST"):
        status = client.request(method, "iserver/auth/status").json()
        assert (status["authenticated"], status["connected"], status["competing"]) == (True, True, False)
        assert status["serverInfo"]["serverName"] == "SIMULATED"
        assert client.request(method, "tickle").json()["iserver"]["authStatus"] == status
    assert client.get("sso/validate").json()["RESULT"] is True
    opened = client.post("iserver/auth/ssodh/init", json={"publish": True, "compete": True})
    assert opened.json()["authenticated"] is True
    assert client.post("iserver/reauthenticate").json() == {"message": "triggered"}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"publish": False, "compete": True}, 500, "publish"),
        ({"compete": True}, 400, "publish: "),
        ({"publish": True, "compete": 1}, 400, "compete: "),
    ],
)
def test_a_bad_request_for_a_session_is_named(
    client: httpx.Client, body: dict[str, object], status: int, words: str
) -> None:
    answer = client.post("iserver/auth/ssodh/init", json=body)
    assert answer.status_code == status and words in answer.json()["error"]


def test_the_history_service_starts_with_its_first_request(start_simulator) -> None:
    query = f"/v1/api/hmds/history?conid={AAPL}&period=3d&bar=1d"
    with start_simulator() as simulator, simulator.client() as client:
        assert client.get(query).status_code == 404
        answer = client.get(query).json()
        assert answer["points"] == 3 and answer["data"][-1]["c"] == 430.47
        assert answer["startTimeVal"] == answer["data"][0]["t"]
        assert client.get(query + "&barType=Midpoint").status_code == 500


def test_account_adds_up(client: httpx.Client) -> None:
    account = client.get("iserver/accounts").json()["selectedAccount"]
    (details,) = client.get("portfolio/accounts").json()
    assert details["accountId"] == account and "SIMULATED" in details["accountTitle"]
    assert client.get(f"portfolio/{account}/meta").json() == details
    assert client.get("portfolio/subaccounts").json() == [details]
    assert client.get("portfolio/subaccounts2", params={"page": 0}).json()["subaccounts"] == [details]
    rows = client.get(f"portfolio/{account}/positions/0").json()
    assert [row["contractDesc"] for row in rows] == ["AAPL", "GOOG", "IBM", "MSFT", "FB"]
    assert all(row["mktValue"] == pytest.approx(row["position"] * row["mktPrice"]) for row in rows)
    stock = sum(row["mktValue"] for row in rows)
    summary = client.get(f"portfolio/{account}/summary").json()
    cash = summary["totalcashvalue"]["amount"]
    assert cash == pytest.approx(250_000 - sum(row["position"] * row["avgCost"] for row in rows)) and cash > 0
    assert summary["netliquidation"] | {"amount": 0} == summary["totalcashvalue"] | {"amount": 0}
    assert summary["netliquidation"]["amount"] == pytest.approx(cash + stock)
    short = client.get(f"iserver/account/{account}/summary").json()
    assert (short["netLiquidationValue"], short["securitiesGVP"]) == pytest.approx((cash + stock, stock))
    ledger = client.get(f"portfolio/{account}/ledger").json()
    assert ledger["BASE"]["netliquidationvalue"] == pytest.approx(cash + stock)
    assert ledger["USD"]["stockmarketvalue"] == pytest.approx(stock)
    allocation = client.get(f"portfolio/{account}/allocation").json()
    assert allocation["assetClass"]["long"] == pytest.approx({"STK": stock, "CASH": cash})
    assert sum(allocation["sector"]["long"].values()) == pytest.approx(stock)
    assert sum(allocation["group"]["long"].values()) == pytest.approx(stock)
    assert client.get("portfolio/allocation", params={"acctIds": account}).json() == allocation
    profit = client.get("iserver/account/pnl/partitioned").json()["upnl"][f"{account}.Core"]
    assert profit["upl"] == pytest.approx(sum(row["unrealizedPnl"] for row in rows))
    before = summary["previousdayequitywithloanvalue"]["amount"]
    assert profit["dpl"] == pytest.approx(cash + stock - before) and profit["dpl"] != 0


@pytest.mark.parametrize("what", ["summary", "ledger", "positions/0", "allocation", "meta"])
def test_another_account_is_refused(client: httpx.Client, what: str) -> None:
    assert client.get(f"portfolio/U999/{what}").status_code == 400
    assert client.post("iserver/account", json={"acctId": "U999"}).status_code == 400


def test_positions_are_paged_sorted_and_found_by_contract(client: httpx.Client) -> None:
    base = f"portfolio/{ACCOUNT}"
    rows = client.get(f"{base}/positions/0").json()
    assert client.get(f"{base}/positions/1").json() == []
    largest = client.get(f"{base}/positions/0", params={"sort": "mktValue", "direction": "d"}).json()
    assert [row["mktValue"] for row in largest] == sorted((row["mktValue"] for row in rows), reverse=True)
    assert client.get(f"{base}/positions/0", params={"sort": "nothing"}).status_code == 400
    assert client.get(f"{base}/positions/0", params={"sort": "mktValue", "direction": "x"}).status_code == 400
    ibm = [row for row in rows if row["conid"] == int(IBM)]
    assert client.get(f"{base}/position/{IBM}").json() == ibm
    assert client.get(f"portfolio/positions/{IBM}").json() == {ACCOUNT: ibm}
    assert client.post(f"{base}/positions/invalidate").json() == rows
    again = client.get(f"portfolio2/{ACCOUNT}/positions").json()
    assert [(row["conid"], row["marketValue"]) for row in again] == [(str(r["conid"]), r["mktValue"]) for r in rows]
    assert client.get(f"{base}/combo/positions").json() == client.get("iserver/account/trades/").json() == []


def test_contracts_are_found_by_symbol_and_conid(client: httpx.Client) -> None:
    for symbol, conid in (("AAPL", AAPL), ("fb", FB), ("META", FB), ("GOOG", GOOG), ("IBM", IBM), ("MSFT", MSFT)):
        by_get = client.get("iserver/secdef/search", params={"symbol": symbol}).json()
        assert [row["conid"] for row in by_get] == [conid]
        assert client.post("iserver/secdef/search", json={"symbol": symbol}).json() == by_get
        info = client.get(f"iserver/contract/{conid}/info").json()
        assert (info["con_id"], info["currency"], info["instrument_type"]) == (int(conid), "USD", "STK")
    stocks = client.get("trsrv/stocks", params={"symbols": "IBM,ZZZZ"}).json()
    assert stocks["ZZZZ"] == []
    assert stocks["IBM"][0]["contracts"] == [{"conid": 8314, "exchange": "NYSE", "isUS": True}]
    assert client.get("iserver/secdef/search", params={"symbol": "ZZZZ"}).status_code == 400
    assert client.get("iserver/secdef/search", params={"symbol": "IBM", "secType": "IND"}).status_code == 400
    by_name = client.get("iserver/secdef/search", params={"symbol": "micro", "name": "true"}).json()
    assert [row["symbol"] for row in by_name] == ["MSFT"]
    assert client.post("iserver/secdef/search", content=b"[").status_code == 400
    assert client.post("iserver/secdef/search", content=b"[]").status_code == 400


def test_contract_details(client: httpx.Client) -> None:
    (definition,) = client.get("iserver/secdef/info", params={"conid": AAPL, "sectype": "STK"}).json()
    assert (definition["conid"], definition["listingExchange"], definition["secType"]) == (int(AAPL), "NASDAQ", "STK")
    assert client.get("iserver/secdef/info", params={"conid": AAPL, "sectype": "OPT"}).status_code == 400
    strikes = client.get("iserver/secdef/strikes", params={"conid": AAPL, "sectype": "OPT", "month": "MAR13"})
    assert strikes.json() == {"call": [], "put": []}
    info = client.get(f"iserver/contract/{AAPL}/info").json()
    with_rules = client.get(f"iserver/contract/{AAPL}/info-and-rules", params={"isBuy": "true"}).json()
    rules = with_rules.pop("rules")
    assert with_rules == info and rules["orderTypes"] == rules["canTradeAcctIds"] == []
    assert client.post("iserver/contract/rules", json={"conid": int(AAPL)}).json() == rules
    details = client.get("trsrv/secdef", params={"conids": f"{AAPL},{IBM}"}).json()["secdef"]
    assert [(row["conid"], row["ticker"]) for row in details] == [(int(AAPL), "AAPL"), (int(IBM), "IBM")]
    on_nyse = client.get("trsrv/all-conids", params={"exchange": "NYSE"}).json()
    assert on_nyse == [{"ticker": "IBM", "conid": int(IBM), "exchange": "NYSE"}]
    for path in ("iserver/contract/1/info", "trsrv/secdef?conids=1", "iserver/secdef/info?conid=1"):
        assert client.get(path).status_code == 400, path


def test_history_of_days(client: httpx.Client) -> None:
    answer = client.get(HISTORY, params={"conid": AAPL, "period": "3d", "bar": "1d", "outsideRth": "false"}).json()
    assert [day(bar) for bar in answer["data"]] == ["2013-02-27", "2013-02-28", "2013-03-01"]
    assert answer["data"][-1] == {
        "o": 438.0, "c": 430.47, "h": 438.1799, "l": 429.98, "v": 19_730_300, "t": 1_362_148_200_000
    }  # fmt: skip
    assert (answer["points"], answer["symbol"], answer["timePeriod"], answer["barLength"]) == (3, "AAPL", "3d", 86_400)
    assert answer["startTime"] == "20130227-14:30:00"
    assert answer["low"] == "42998/19730300/2880"


@pytest.mark.parametrize(
    ("period", "bar", "points"),
    [("1y", "1d", 250), ("1y", "1w", 53), ("1y", "1m", 13), ("2w", "1d", 9), ("15y", "1d", 1000), ("15y", "1m", 157)],
)
def test_history_periods_and_bars(client: httpx.Client, period: str, bar: str, points: int) -> None:
    answer = client.get(HISTORY, params={"conid": IBM, "period": period, "bar": bar}).json()
    assert answer["points"] == len(answer["data"]) == points
    times = [bar["t"] for bar in answer["data"]]
    assert times == sorted(set(times))


def test_paging_back_by_start_time_reads_each_day_once(client: httpx.Client) -> None:
    pages, start = [], None
    while True:
        params = {"conid": AAPL, "period": "1000d", "bar": "1d"} | ({"startTime": start} if start else {})
        answer = client.get(HISTORY, params=params)
        if answer.status_code == 500:
            break
        pages.append(answer.json()["data"])
        start = datetime.fromtimestamp(pages[-1][0]["t"] / 1000, UTC).strftime("%Y%m%d-%H:%M:%S")
    bars = [bar for page in reversed(pages) for bar in page]
    assert [len(page) for page in pages] == [1000, 1000, 1000, 270]
    assert len({bar["t"] for bar in bars}) == 3270
    assert (day(bars[0]), day(bars[-1])) == ("2000-03-01", "2013-03-01")


def test_history_forward_from_start_time(client: httpx.Client) -> None:
    params = {"conid": IBM, "period": "2d", "bar": "1d", "startTime": "20000301-00:00:00"}
    assert client.get(HISTORY, params=params).status_code == 500
    forward = client.get(HISTORY, params=params | {"direction": "1"}).json()
    assert [day(bar) for bar in forward["data"]] == ["2000-03-01", "2000-03-02"]
    month = client.get(HISTORY, params=params | {"direction": "1", "period": "1m"}).json()
    assert (day(month["data"][0]), day(month["data"][-1])) == ("2000-03-01", "2000-03-31")


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"conid": ""}, "conid"),
        ({"conid": "1"}, "conid"),
        ({"conid": "x"}, "conid"),
        ({"period": "0d"}, "period"),
        ({"period": "1q"}, "period"),
        ({"period": "1001d"}, "period"),
        ({"period": "16y"}, "period"),
        ({"bar": "1y"}, "bar"),
        ({"bar": "2d"}, "bar"),
        ({"startTime": "2010-01-01"}, "startTime"),
        ({"direction": "0"}, "direction"),
        ({"direction": "1"}, "startTime"),
        ({"outsideRth": "perhaps"}, "outsideRth"),
    ],
)
def test_bad_history_parameters_are_named(client: httpx.Client, parameters: dict[str, str], name: str) -> None:
    answer = client.get(HISTORY, params={"conid": AAPL, "period": "1w", "bar": "1d"} | parameters)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"Bad Request: {name}: ")


@pytest.mark.parametrize("extra", [{"bar": "5min"}, {"period": "2h"}, {"startTime": "19990101-00:00:00"}])
def test_no_chart_data(client: httpx.Client, extra: dict[str, str]) -> None:
    answer = client.get(HISTORY, params={"conid": AAPL, "period": "1w", "bar": "1d"} | extra)
    assert (answer.status_code, answer.json()["error"]) == (500, "Chart data unavailable")


def test_the_sixth_concurrent_history_request_is_refused() -> None:
    """Within one event loop, where requests that are sent together always meet, however busy the machine is."""

    async def ask_together(number: int) -> Counter[int]:
        transport = httpx.ASGITransport(create_app(market, pacing=False))
        async with httpx.AsyncClient(base_url="https://localhost", transport=transport) as connected:
            query = f"/v1/api/{HISTORY}?conid={AAPL}&period=1d&bar=1d"
            answers = await asyncio.gather(*(connected.get(query) for _ in range(number)))
            again = await asyncio.gather(*(connected.get(query) for _ in range(5)))
        assert {answer.status_code for answer in again} == {200}
        return Counter(answer.status_code for answer in answers)

    market = Market()
    assert asyncio.run(ask_together(5)) == {200: 5}
    assert asyncio.run(ask_together(12)) == {200: 5, 429: 7}


def test_snapshot_subscribes_first_then_answers(client: httpx.Client) -> None:
    client.get("iserver/marketdata/unsubscribeall")
    client.get("iserver/accounts")
    parameters = {"conids": f"{AAPL},{IBM}", "fields": "31,55,82,83,7741,84"}
    first = client.get("iserver/marketdata/snapshot", params=parameters).json()
    assert first == [{"conid": 265598, "conidEx": "265598"}, {"conid": 8314, "conidEx": "8314"}]
    apple, ibm = client.get("iserver/marketdata/snapshot", params=parameters).json()
    assert (apple["31"], apple["55"], apple["82"], apple["7741"]) == ("430.47", "AAPL", "-10.93", "441.40")
    assert ibm["31"] == "202.91" and apple["_updated"] == 1_362_171_600_000
    assert "84" not in apple
    assert client.post("iserver/marketdata/unsubscribe", json={"conid": 8314}).json() == {"success": True}
    assert client.post("iserver/marketdata/unsubscribe", json={"conid": 8314}).status_code == 404
    assert "31" not in client.get("iserver/marketdata/snapshot", params={"conids": IBM}).json()[0]
    assert client.get("iserver/marketdata/snapshot", params={"conids": "1"}).status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "iserver/account/DU0000001/orders"),
        ("POST", "iserver/account/DU0000001/order"),
        ("POST", "iserver/account/DU0000001/orders/whatif"),
        ("DELETE", "iserver/account/DU0000001/order/1"),
        ("GET", "iserver/account/orders"),
        ("GET", "iserver/account/orders/"),
        ("GET", "iserver/account/order/status/1"),
        ("POST", "iserver/reply/1"),
        ("POST", "iserver/notification"),
        ("POST", "fa/model/invest-divest"),
        ("POST", "fa/model/submit-transfers"),
    ],
)
def test_orders_are_refused(client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code == 403 and "there are no orders here" in answer.json()["error"]


def test_before_login_the_api_answers_401_and_the_page_200(start_simulator) -> None:
    with start_simulator(SIMULATOR_LOGGED_IN="false") as simulator, simulator.client() as client:
        for path in ("iserver/auth/status", "tickle", "iserver/accounts", "portfolio/accounts", "nothing", HISTORY):
            assert client.get(f"/v1/api/{path}").status_code == 401, path
        assert client.post("/v1/api/iserver/account/DU0000001/orders").status_code == 403
        assert "Logged out" in client.get("/").text
        assert client.post("/sso/Login").headers["location"] == "/"
        assert client.get("/v1/api/iserver/accounts").status_code == 200
        assert "Logged in" in client.get("/").text
        assert client.post("/v1/api/logout").json() == {"status": True}
        assert client.get("/v1/api/iserver/accounts").status_code == 401


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SIMULATOR_PORT", "http"),
        ("SIMULATOR_PORT", "70000"),
        ("SIMULATOR_LOGGED_IN", "maybe"),
        ("SIMULATOR_LIVE", "yes"),
        ("SIMULATOR_IDLE_SECONDS", "-1"),
        ("SIMULATOR_CERT_FILE", ""),
        ("SIMULATOR_CERT_FILE", "/nonexistent/cert.pem"),
        ("SIMULATOR_KEY_FILE", "/nonexistent/key.pem"),
        ("SIMULATOR_KEY_FILE", str(Path(__file__))),
    ],
)
def test_a_bad_setting_is_named_in_one_line(environment: dict[str, str], name: str, value: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "ibkr_simulator"], env=environment | {name: value}, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1 and name in ended.stderr
    assert ended.stdout == ""
