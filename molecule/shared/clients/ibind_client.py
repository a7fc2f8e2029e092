"""Asks the gateway what a trading program asks first; prints a line of JSON."""

import json
import os
from datetime import datetime

os.environ["IBIND_LOG_TO_FILE"] = "false"
from ibind import IbkrClient

client = IbkrClient(
    url=os.environ["CLIENT_URL"],
    cacert=os.environ.get("CLIENT_CA", True),
    account_id="DU0000001",
    timeout=10,
    max_retries=1,
)
client.tickle()
history = client.marketdata_history_by_conid("265598", bar="1d", period="1000d", start_time=datetime(2004, 1, 1)).data
print(
    json.dumps(
        {
            "healthy": client.check_health(),
            "authenticated": client.authentication_status().data["authenticated"],
            "accounts": client.receive_brokerage_accounts().data["accounts"],
            "conid": client.stock_conid_by_symbol("AAPL").data["AAPL"],
            "first_bar": history["startTime"],
            "bars": history["points"],
        }
    )
)
