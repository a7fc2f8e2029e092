"""The page at `/`: says that everything here is simulated, and shows what is in it."""

from __future__ import annotations

from html import escape

from .account import Account
from .market import Contract, Market
from .prices import aggregate
from .session import Session, State

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5d6778; --line: #dde2ea; --paper: #fff; --ground: #f4f6f9;
  --mark: #b45309; --mark-ground: #fff4e0; --up: #15803d; --down: #b91c1c; --chart: #2563eb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa4b5; --line: #2c3442; --paper: #181d27;
  --ground: #10141b; --mark: #fbbf24; --mark-ground: #33270d; --up: #4ade80; --down: #f87171; --chart: #60a5fa; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 2rem 1.25rem 3rem; }
section, header { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 1.5rem;
  margin-bottom: 1.25rem; overflow-x: auto; }
header { border: 2px solid var(--mark); background: var(--mark-ground); }
.badge { display: inline-block; background: var(--mark); color: var(--mark-ground); font-weight: 800;
  font-size: 1.75rem; letter-spacing: .12em; padding: .2rem 1rem; border-radius: 8px; }
h1 { font-size: 1.35rem; margin: .9rem 0 .4rem; } h2 { font-size: 1.05rem; margin: 0 0 .8rem; } p { margin: .4rem 0; }
.session { display: flex; gap: 1rem; align-items: center; justify-content: space-between; flex-wrap: wrap; }
.session h2 { margin: 0; } .soft { color: var(--soft); font-size: .9rem; }
button { font: inherit; padding: .45rem 1.1rem; border-radius: 8px; border: 1px solid var(--mark);
  background: transparent; color: var(--ink); cursor: pointer; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 600; font-size: .85rem; }
th, td { padding: .45rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
tr:last-child td { border-bottom: 0; } .number { text-align: right; } .up { color: var(--up); }
.down { color: var(--down); } .date { white-space: nowrap; }
svg { display: block; } polyline { fill: none; stroke: var(--chart); stroke-width: 1.5; }
"""
CHART_WIDTH, CHART_HEIGHT = 120, 34


def sparkline(contract: Contract) -> str:
    """Monthly closes as a small inline chart."""
    closes = [bar.close for bar in aggregate(contract.bars, "m", 1)]
    low, high = min(closes), max(closes)
    points = " ".join(
        f"{index * CHART_WIDTH / (len(closes) - 1):.1f},{2 + (CHART_HEIGHT - 4) * (high - close) / (high - low):.1f}"
        for index, close in enumerate(closes)
    )
    return (
        f'<svg width="{CHART_WIDTH}" height="{CHART_HEIGHT}" role="img" '
        f'aria-label="{escape(contract.symbol)}: monthly closes"><polyline points="{points}"/></svg>'
    )


# State of the session: its name, what it means, what the button does and what it says.
SESSIONS = {
    State.LOGGED_IN: ("Logged in", "The API answers.", "Logout", "Log out"),
    State.DROPPED: (
        "Brokerage session dropped",
        'Everything under /iserver answers "no bridge" until /iserver/auth/ssodh/init opens it again.',
        "Logout",
        "Log out",
    ),
    State.COMPETING: (
        "Taken over",
        'Another session of this user competes; /iserver/auth/ssodh/init with "compete" takes it back.',
        "Logout",
        "Log out",
    ),
    State.LOGGED_OUT: ("Logged out", "Everything under /v1/api answers 401, as before a login.", "Login", "Log in"),
}


def render(market: Market, account: Account, session: Session) -> str:
    """The whole page as HTML."""
    shares = "".join(
        f'<tr><td><b>{escape(contract.symbol)}</b><br><span class="soft">{escape(contract.company)}</span></td>'
        f'<td class="number">{contract.conid}</td><td>{contract.bars[0].day}<br>to {contract.bars[-1].day}</td>'
        f"<td>{'<br>'.join(f'{split.day}, {split.ratio:g}:1' for split in contract.splits) or 'none'}</td>"
        f'<td>{sparkline(contract)}</td><td class="number">{contract.bars[-1].close:,.2f}</td></tr>'
        for contract in market.contracts.values()
    )
    positions = "".join(
        f"<tr><td><b>{escape(row['contractDesc'])}</b></td>"
        f'<td class="number">{row["position"]:,.0f}</td><td class="number">{row["avgCost"]:,.2f}</td>'
        f'<td class="number">{row["mktPrice"]:,.2f}</td><td class="number">{row["mktValue"]:,.2f}</td>'
        f'<td class="number {"up" if row["unrealizedPnl"] >= 0 else "down"}">{row["unrealizedPnl"]:+,.2f}</td></tr>'
        for row in account.positions()
    )
    balance = account.balances()
    state, meaning, action, button = SESSIONS[session.state]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>SIMULATED Client Portal gateway</title><style>{STYLE}</style></head><body><main>
<header><span class="badge">SIMULATED</span>
<h1>This is not Interactive Brokers</h1>
<p>A stand-in for the Client Portal gateway. It speaks the same API and replays
<b>real daily prices that end on <span class="date">{market.today}</span></b>. The account, its cash and its
positions are made up. No order can be placed, and nothing leaves this machine.</p>
<p class="soft">To trade against IBKR's paper or live servers, install the real gateway instead.</p></header>
<section class="session"><div><h2>Session: {state}</h2><p class="soft">{meaning}</p></div>
<form method="post" action="/sso/{action}"><button>{button} (simulated)</button></form></section>
<section><h2>Shares</h2><table><thead><tr><th>Share</th><th class="number">conid</th>
<th>Days</th><th>Splits</th><th>Monthly closes</th><th class="number">Close, USD</th></tr></thead>
<tbody>{shares}</tbody></table></section>
<section><h2>{account.title} {account.id}</h2><table><thead><tr><th>Symbol</th><th class="number">Shares</th>
<th class="number">Paid, USD</th><th class="number">Price, USD</th><th class="number">Value, USD</th>
<th class="number">Unrealized, USD</th></tr></thead><tbody>{positions}</tbody></table>
<p class="soft">Cash {balance["cash"]:,.2f} USD · net liquidation {balance["net"]:,.2f} USD</p></section>
</main></body></html>
"""
