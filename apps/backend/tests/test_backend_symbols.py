"""How stocks are named: the same for the role's preflight, the application and the training DAG."""

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_ibkr import FakeIbkr
from fastapi.testclient import TestClient
from ibkr_backend.api import create_app
from ibkr_backend.gateway import Gateway, GatewayError, Stock
from ibkr_backend.mlflow_api import MODEL_PREFIX, model_name
from ibkr_backend.object_store import chart_key
from ibkr_backend.settings import ApiSettings, SettingsError, WorkerSettings
from ibkr_backend.symbols import SYMBOL_LENGTH, SYMBOL_PATTERN
from sqlalchemy.orm import Session

REPOSITORY = Path(__file__).parents[3]
DAGS = REPOSITORY / "files/dags"
GOOD = (
    "AAPL", "FB", "BRK B", "BRK.B", "BF-B", "BP.", "RDS.A", "7203", "700", "0005", "3M", "SHOP@TSE", "SHOP@195014116",
    "BRK B@NYSE", "7203@TSEJ", "ENI@BVME.ETF", "A", "ABCDEFGHIJKLMNO", "ABCDEFGHIJKLMNO PRABCDE@ABCDEFGHIJKL",
)  # fmt: skip
BAD = (
    "", "aapl", "not a symbol", " AAPL", "AAPL ", "BRK  B", "A B C", "AAPL@", "@NYSE", "AAPL@NYSE@TSE", "AAPL @NYSE",
    "AAPL@ NYSE", "A/B", "A'B", "A,B", "A_B", "AAPL\n", "ABCDEFGHIJKLMNOP", "AAPL@ABCDEFGHIJKLM", ".A", "-A", "ÄB",
)  # fmt: skip


@pytest.fixture(scope="module")
def rules() -> dict[str, Any]:
    """What the role checks before anything is changed."""
    variables = yaml.safe_load((REPOSITORY / "roles/backend/vars/main.yml").read_text())
    return variables["backend_rules"]


@pytest.fixture(scope="module")
def judges(rules: dict[str, Any]) -> dict[str, Callable[[str], bool]]:
    """Each place that says whether a symbol can be one."""
    [in_the_dag] = [
        ast.literal_eval(node.value)
        for node in ast.parse((DAGS / "daily_strategy_training.py").read_text()).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "SYMBOL_PATTERN"
    ]
    return {
        "role": lambda symbol: re.fullmatch(rules["backend_symbols"]["matches"], symbol) is not None,
        # As JSON Schema reads it: `$` is the end, not the place before a last newline.
        "DAG": lambda symbol: re.search(in_the_dag.replace("$", r"\Z"), symbol) is not None,
        "application": lambda symbol: re.search(SYMBOL_PATTERN.replace("$", r"\Z"), symbol) is not None,
    }


@pytest.mark.parametrize(("symbol", "verdict"), [(s, True) for s in GOOD] + [(s, False) for s in BAD])
def test_one_symbol_one_verdict(judges: dict[str, Callable[[str], bool]], symbol: str, verdict: bool) -> None:
    assert {name: judge(symbol) for name, judge in judges.items()} == dict.fromkeys(judges, verdict)


@pytest.mark.parametrize("seconds", [10, 59, 60, 86400])
def test_what_the_role_accepts_as_an_interval_the_application_does(
    rules: dict[str, Any], environment: dict[str, str], seconds: int
) -> None:
    accepted = rules["backend_bars_refresh_seconds"]["from"] <= seconds
    try:
        WorkerSettings.load(environment | {"BARS_REFRESH_SECONDS": str(seconds)})
    except SettingsError:
        assert not accepted
    else:
        assert accepted


def test_settings_take_every_good_symbol(environment: dict[str, str]) -> None:
    settings = WorkerSettings.load(environment | {"BARS_SYMBOLS": ", ".join(GOOD)})
    assert settings.bars_symbols == list(GOOD)
    assert max(map(len, GOOD)) == SYMBOL_LENGTH


def test_models_and_charts_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in the DAG, plain in MLflow's and MinIO's addresses, and no two alike."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(DAGS)])
    from quantops_strategy import tracking

    names = [model_name(symbol) for symbol in GOOD]
    assert names == [tracking.model_name(symbol) for symbol in GOOD]
    assert len(set(names)) == len(GOOD) == len({chart_key(symbol) for symbol in GOOD})
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)
    assert model_name("AAPL") == f"{MODEL_PREFIX}AAPL" and chart_key("AAPL") == "daily/AAPL.svg"
    assert model_name("BRK B@NYSE") == f"{MODEL_PREFIX}BRK_B__NYSE"


@pytest.mark.parametrize(
    ("symbol", "conid", "exchange"),
    [
        ("SHOP", 265598, "NYSE"),
        ("SHOP@NYSE", 265598, "NYSE"),
        ("SHOP@TSE", 195014116, "TSE"),
        ("SHOP@195014116", 195014116, "TSE"),
        ("SHOP@NASDAQ", 3, "NASDAQ.NMS"),
        ("SHOP@NASDAQ.NMS", 3, "NASDAQ.NMS"),
        ("BRK B@TSE", 195014116, "TSE"),
        ("7203", 265598, "NYSE"),
    ],
)
def test_the_listing_that_is_named_is_taken(
    ibkr: FakeIbkr, gateway: Gateway, symbol: str, conid: int, exchange: str
) -> None:
    ibkr.exchange, ibkr.other_listings = "NYSE", (("195014116", "TSE"), ("3", "NASDAQ.NMS"))
    assert gateway.find_stock(symbol) == Stock(conid, exchange, "ibkr")


def test_a_listing_that_is_not_there_is_told_with_those_that_are(ibkr: FakeIbkr, gateway: Gateway) -> None:
    ibkr.exchange, ibkr.other_listings = "NYSE", (("195014116", "TSE"),)
    with pytest.raises(GatewayError) as refused:
        gateway.find_stock("SHOP@LSE")
    assert str(refused.value) == (
        "IBKR knows no stock SHOP@LSE, only SHOP@NYSE (contract 265598), SHOP@TSE (contract 195014116)"
    )


def test_the_api_takes_a_listing(environment: dict[str, str], session: Session) -> None:
    """With a space and `@` in its address, in small letters too."""
    settings = ApiSettings.load(environment | {"BARS_SYMBOLS": "BRK B@NYSE"})
    client = TestClient(
        create_app(settings), headers={"Authorization": f"Bearer {settings.api_token.get_secret_value()}"}
    )
    answer = client.get("/api/v1/bars/brk%20b%40nyse")
    assert answer.status_code == 404 and answer.json()["detail"].startswith("No daily bars of BRK B@NYSE are kept.")
