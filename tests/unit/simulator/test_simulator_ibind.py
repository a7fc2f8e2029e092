"""ibind, a client library for IBKR's API, against the simulated gateway."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest


@pytest.fixture
def ibkr(simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """An ibind client that verifies the certificate and opens no session of its own."""
    monkeypatch.setenv("IBIND_LOG_TO_FILE", "false")
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.chdir(tmp_path)
    from ibind import IbkrClient

    client = IbkrClient(
        url=f"{simulator.url}/v1/api/", cacert=str(simulator.tls.cert), account_id="DU0000001", timeout=5, max_retries=1
    )
    yield client
    client.close()


def test_session(ibkr) -> None:
    assert ibkr.check_health() is True
    assert ibkr.check_auth_status() is True
    assert ibkr.authentication_status().data["authenticated"] is True
    assert ibkr.tickle().data["iserver"]["authStatus"]["connected"] is True
    assert ibkr.validate().data["RESULT"] is True
    assert ibkr.initialize_brokerage_session().data["authenticated"] is True


def test_account(ibkr) -> None:
    assert ibkr.receive_brokerage_accounts().data["accounts"] == ["DU0000001"]
    assert ibkr.portfolio_accounts().data[0]["accountId"] == "DU0000001"
    assert ibkr.portfolio_summary().data["netliquidation"]["currency"] == "USD"
    assert ibkr.get_ledger().data["BASE"]["acctcode"] == "DU0000001"
    assert len(ibkr.positions().data) == 5


def test_contracts(ibkr) -> None:
    assert ibkr.stock_conid_by_symbol("AAPL").data == {"AAPL": 265598}
    assert ibkr.security_stocks_by_symbol(["IBM", "MSFT"]).data["MSFT"][0]["contracts"][0]["conid"] == 272093
    assert ibkr.search_contract_by_symbol("IBM").data[0]["conid"] == "8314"
    assert ibkr.contract_information_by_conid("8314").data["symbol"] == "IBM"


def test_market_data(ibkr) -> None:
    history = ibkr.marketdata_history_by_conid("265598", bar="1d", period="1000d", start_time=datetime(2004, 1, 1)).data
    assert history["startTime"] == "20000301-14:30:00" and history["points"] == 964
    by_symbol = ibkr.marketdata_history_by_symbol("FB", bar="1d", period="1y").data
    assert by_symbol["points"] == 196
    ibkr.live_marketdata_snapshot("265598", "31")
    assert ibkr.live_marketdata_snapshot("265598", "31").data[0]["31"] == "430.47"
