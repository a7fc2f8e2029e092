"""Nothing that this collection installs places, changes or cancels an order, or asks in a way that could.

The reference application's client refuses what is not on its list, whoever calls it (`test_backend_session.py`). This
looks at the text of everything, so that nothing goes another way.
"""

from __future__ import annotations

import re
import subprocess

import pytest
from collection_under_test import REPOSITORY

KINDS = ("*.py", "*.yml", "*.html", "*.js", "*.j2", "*.sh")
# The simulator refuses orders, and the tests try.
APART = re.compile(r"(tests|molecule|apps/[^/]+/tests|apps/gateway_simulator)/")
# Operations of ibind and of IBKR's older clients, and the paths of the Client Portal API.
ORDERS = re.compile(
    r"\b(place|modify|cancel|submit|preview|whatif)_?(oca_)?orders?\b|iserver/[^\s\"']*(order|reply)|\.reply\(|orders/whatif",
    re.IGNORECASE,
)


def test_nothing_names_an_operation_with_orders() -> None:
    words = ["git", "ls-files", "-z", "--", *KINDS]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    paths = [path for path in done.stdout.split("\0") if path and not APART.match(path)]
    assert {"files/dags/daily_strategy_training.py", "apps/backend/ibkr_backend/broker.py"} < set(paths)
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate((REPOSITORY / path).read_text(encoding="utf-8").splitlines(), 1)
        if ORDERS.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "client.place_order(request, answers, account)",
        "client.modify_order(order_id, request, answers)",
        "client.cancel_order(order_id)",
        "ib.placeOrder(contract, order)",
        "client.reply(reply_id, True)",
        'httpx.post(f"{gateway}/v1/api/iserver/account/{account}/orders", json=body)',
        "url: https://localhost:5055/v1/api/iserver/account/U1/order/2",
        'session.post("/v1/api/iserver/reply/abc", json={"confirmed": True})',
    ],
)
def test_an_operation_with_orders_would_be_found(line: str) -> None:
    assert ORDERS.search(line)
