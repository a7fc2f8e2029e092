"""The one simulated account: what it holds is declared here, what that is worth follows from the replayed prices."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Any

from .market import Market

DEPOSIT = 250_000.0
# SIMULATED, and nobody's: chosen so that each share of the data set is held, bought on days that all of them traded.
# (symbol, shares, day whose close was paid)
PURCHASES = (
    ("AAPL", 100, date(2011, 1, 3)),
    ("GOOG", 40, date(2011, 1, 3)),
    ("IBM", 150, date(2011, 1, 3)),
    ("MSFT", 1200, date(2012, 1, 3)),
    ("FB", 500, date(2012, 9, 4)),
)
# The ledger's entries that an account of US shares and dollars has nothing in.
EMPTY_LEDGER = (
    "commoditymarketvalue",
    "corporatebondsmarketvalue",
    "dividends",
    "funds",
    "futuremarketvalue",
    "futureoptionmarketvalue",
    "futuresonlypnl",
    "interest",
    "issueroptionsmarketvalue",
    "moneyfunds",
    "realizedpnl",
    "stockoptionmarketvalue",
    "tbillsmarketvalue",
    "tbondsmarketvalue",
    "warrantsmarketvalue",
    "cashbalancefxsegment",
)
# Names in the stream of the summary that are not the summary's own, capitalized.
SUMMARY_KEYS = {
    "accountcode": "AccountCode",
    "accountready": "AccountReady",
    "accounttype": "AccountType",
    "accruedcash": "AccruedCash",
    "availablefunds": "AvailableFunds",
    "buyingpower": "BuyingPower",
    "equitywithloanvalue": "EquityWithLoanValue",
    "excessliquidity": "ExcessLiquidity",
    "grosspositionvalue": "GrossPositionValue",
    "initmarginreq": "InitMarginReq",
    "maintmarginreq": "MaintMarginReq",
    "netliquidation": "NetLiquidation",
    "previousdayequitywithloanvalue": "PreviousDayEquityWithLoanValue",
    "settledcash": "SettledCash",
    "totalcashvalue": "TotalCashValue",
}
LEDGER_KEYS = {
    "acctcode": "acctCode",
    "corporatebondsmarketvalue": "corporateBondsMarketValue",
    "exchangerate": "exchangeRate",
    "netliquidationvalue": "netLiquidationValue",
    "realizedpnl": "realizedPnl",
    "unrealizedpnl": "unrealizedPnl",
    "secondkey": "secondKey",
    "settledcash": "settledCash",
    "stockmarketvalue": "stockMarketValue",
    "moneyfunds": "moneyFunds",
    "tbillsmarketvalue": "tBillsMarketValue",
    "tbondsmarketvalue": "tBondsMarketValue",
    "warrantsmarketvalue": "warrantsMarketValue",
    "stockoptionmarketvalue": "optionMarketValue",
    "issueroptionsmarketvalue": "issueOptionsMarketValue",
}


class Account:
    """A cash account of US shares; a live one differs from a paper one in its id and in what it calls itself."""

    def __init__(self, market: Market, *, live: bool) -> None:
        """Value the positions with the prices of `market`."""
        self.market = market
        self.live = live
        self.id = "U0000001" if live else "DU0000001"
        self.title = f"SIMULATED {'live' if live else 'paper'} account"

    def description(self) -> dict[str, Any]:
        """One account of `/portfolio/accounts`."""
        return {
            "id": self.id,
            "PrepaidCrypto-Z": False,
            "PrepaidCrypto-P": False,
            "brokerageAccess": True,
            "accountId": self.id,
            "accountVan": self.id,
            "accountTitle": self.title,
            "displayName": self.title,
            "accountAlias": None,
            "accountStatus": self.market.now_ms,
            "currency": "USD",
            "type": "INDIVIDUAL" if self.live else "DEMO",
            "tradingType": "STKCASH",
            "businessType": "SIMULATED",
            "ibEntity": "SIMULATED",
            "faclient": False,
            "clearingStatus": "O",
            "covestor": False,
            "noClientTrading": True,
            "trackVirtualFXPortfolio": False,
            "parent": {"mmc": [], "accountId": "", "isMParent": False, "isMChild": False, "isMultiplex": False},
            "desc": f"{self.id} - {self.title}",
        }

    def brokerage(self, session_id: str) -> dict[str, Any]:
        """Answer `/iserver/accounts`, and the stream's message `act`."""
        return {
            "accounts": [self.id],
            "acctProps": {self.id: {"hasChildAccounts": False, "supportsCashQty": False, "supportsFractions": False}},
            "aliases": {self.id: self.title},
            "selectedAccount": self.id,
            "serverInfo": {"serverName": "SIMULATED", "serverVersion": "SIMULATED"},
            "sessionId": session_id,
            "isFT": False,
            "isPaper": not self.live,
        }

    def positions(self) -> list[dict[str, Any]]:
        """All positions, valued at the last close."""
        rows = []
        for symbol, shares, bought in PURCHASES:
            contract = self.market.by_symbol(symbol)
            assert contract is not None
            cost = next(bar.close for bar in contract.bars if bar.day == bought)
            price = contract.bars[-1].close
            rows.append(
                {
                    "acctId": self.id,
                    "contractDesc": symbol,
                    "position": float(shares),
                    "mktPrice": price,
                    "mktValue": round(shares * price, 2),
                    "avgCost": cost,
                    "avgPrice": cost,
                    "realizedPnl": 0.0,
                    "unrealizedPnl": round(shares * (price - cost), 2),
                    "exchs": None,
                    "exerciseStyle": None,
                    "conExchMap": [],
                    "model": "",
                    **contract.details(),
                }
            )
        return rows

    def positions2(self) -> list[dict[str, Any]]:
        """All positions in the shape of `/portfolio2/{accountId}/positions`."""
        return [
            {
                "position": row["position"],
                "conid": str(row["conid"]),
                "avgCost": row["avgCost"],
                "avgPrice": row["avgPrice"],
                "currency": row["currency"],
                "description": row["contractDesc"],
                "isLastToLoq": False,
                "marketPrice": row["mktPrice"],
                "marketValue": row["mktValue"],
                "realizedPnl": row["realizedPnl"],
                "secType": row["assetClass"],
                "timestamp": self.market.now_ms // 1000,
                "unrealizedPnl": row["unrealizedPnl"],
                "assetClass": row["assetClass"],
                "sector": row["sector"],
                "group": row["group"],
                "model": row["model"],
            }
            for row in self.positions()
        ]

    def balances(self) -> dict[str, float]:
        """Cash, value of the shares, net liquidation, unrealized profit and that of the last day, in USD."""
        rows = self.positions()
        cash = DEPOSIT - sum(row["position"] * row["avgCost"] for row in rows)
        stock = sum(row["mktValue"] for row in rows)
        before = sum(row["position"] * self.market.contracts[row["conid"]].bars[-2].close for row in rows)
        return {
            "cash": round(cash, 2),
            "stock": round(stock, 2),
            "net": round(cash + stock, 2),
            "net_before": round(cash + before, 2),
            "unrealized": round(sum(row["unrealizedPnl"] for row in rows), 2),
            "day": round(stock - before, 2),
        }

    def summary(self) -> dict[str, dict[str, Any]]:
        """Answer `/portfolio/{accountId}/summary` for an account without margin."""
        balance = self.balances()
        amounts = {
            "accruedcash": 0.0,
            "availablefunds": balance["cash"],
            "buyingpower": balance["cash"],
            "equitywithloanvalue": balance["net"],
            "excessliquidity": balance["cash"],
            "grosspositionvalue": balance["stock"],
            "initmarginreq": balance["stock"],
            "maintmarginreq": balance["stock"],
            "netliquidation": balance["net"],
            "previousdayequitywithloanvalue": balance["net_before"],
            "settledcash": balance["cash"],
            "totalcashvalue": balance["cash"],
        }
        texts = {"accountcode": self.id, "accountready": "true", "accounttype": "SIMULATED"}
        shared = {"isNull": False, "timestamp": self.market.now_ms, "severity": 0}
        return {key: {"amount": 0.0, "currency": None, "value": value, **shared} for key, value in texts.items()} | {
            key: {"amount": value, "currency": "USD", "value": None, **shared} for key, value in amounts.items()
        }

    def brokerage_summary(self) -> dict[str, Any]:
        """Answer `/iserver/account/{accountId}/summary`."""
        balance = self.balances()
        cash = {"currency": "USD", "balance": balance["cash"], "settledCash": balance["cash"]}
        return {
            "accountType": "SIMULATED",
            "status": "SIMULATED",
            "balance": balance["net"],
            "SMA": 0.0,
            "buyingPower": balance["cash"],
            "availableFunds": balance["cash"],
            "excessLiquidity": balance["cash"],
            "netLiquidationValue": balance["net"],
            "equityWithLoanValue": balance["net"],
            "regTLoan": 0.0,
            "securitiesGVP": balance["stock"],
            "totalCashValue": balance["cash"],
            "accruedInterest": 0.0,
            "regTMargin": 0.0,
            "initialMargin": balance["stock"],
            "maintenanceMargin": balance["stock"],
            "cashBalances": [cash, {**cash, "currency": "Total (in USD)"}],
        }

    def ledger(self) -> dict[str, dict[str, Any]]:
        """Answer `/portfolio/{accountId}/ledger`: the account holds US dollars only."""
        balance = self.balances()
        entry = {
            "acctcode": self.id,
            "cashbalance": balance["cash"],
            "currency": "USD",
            "endofbundle": 1,
            "exchangerate": 1,
            "key": "LedgerList",
            "netliquidationvalue": balance["net"],
            "secondkey": "USD",
            "sessionid": 1,
            "settledcash": balance["cash"],
            "severity": 0,
            "stockmarketvalue": balance["stock"],
            "timestamp": self.market.now_ms // 1000,
            "unrealizedpnl": balance["unrealized"],
            **dict.fromkeys(EMPTY_LEDGER, 0.0),
        }
        return {"USD": entry, "BASE": {**entry, "currency": "BASE", "secondkey": "BASE"}}

    def allocation(self) -> dict[str, dict[str, dict[str, float]]]:
        """Answer `/portfolio/{accountId}/allocation`: USD by asset class, sector and group."""
        rows = self.positions()

        def by(key: str) -> dict[str, dict[str, float]]:
            held: dict[str, float] = {}
            for row in rows:
                held[row[key]] = round(held.get(row[key], 0.0) + row["mktValue"], 2)
            return {"long": held, "short": {}}

        classes = by("assetClass")
        classes["long"]["CASH"] = self.balances()["cash"]
        return {"assetClass": classes, "sector": by("sector"), "group": by("group")}

    def profit(self) -> dict[str, dict[str, float]]:
        """Profit of the last day (`dpl`) and unrealized (`upl`), with net liquidity, excess liquidity and value."""
        balance = self.balances()
        return {
            f"{self.id}.Core": {
                "rowType": 1,
                "dpl": balance["day"],
                "nl": balance["net"],
                "upl": balance["unrealized"],
                "uel": balance["cash"],
                "el": balance["cash"],
                "mv": balance["stock"],
            }
        }

    def streamed_summary(self, keys: Iterable[str], fields: Iterable[str]) -> list[dict[str, Any]]:
        """The summary as the stream's topic `ssd` gives it: all without `keys` or without `fields`."""
        rows = []
        for name, entry in self.summary().items():
            row = {"key": SUMMARY_KEYS[name], "timestamp": entry["timestamp"] // 1000, "severity": entry["severity"]}
            if entry["currency"]:
                row |= {"currency": entry["currency"], "monetaryValue": entry["amount"]}
            else:
                row["value"] = entry["value"]
            rows.append(row)
        return _chosen(rows, keys, fields)

    def streamed_ledger(self, keys: Iterable[str], fields: Iterable[str]) -> list[dict[str, Any]]:
        """The ledger as the stream's topic `sld` gives it: all without `keys` or without `fields`."""
        rows = [
            {LEDGER_KEYS.get(name, name): value for name, value in entry.items()}
            | {"key": f"LedgerList{entry['secondkey']}"}
            for entry in self.ledger().values()
        ]
        return _chosen(rows, keys, fields)


def _chosen(rows: list[dict[str, Any]], keys: Iterable[str], fields: Iterable[str]) -> list[dict[str, Any]]:
    wanted, shown = set(keys), set(fields)
    return [
        {name: value for name, value in row.items() if not shown or name in {"key", "timestamp", *shown}}
        for row in rows
        if not wanted or row["key"] in wanted
    ]
