"""The picture of an evaluation."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure


def equity_chart(out_of_sample: pd.DataFrame, title: str) -> Figure:
    """Draw equity and drawdown of the strategy after costs against buying and holding.

    Args:
        out_of_sample: Result of `evaluation.walk_forward`.
        title: Says what was traded, and whether its prices are simulated.
    """
    strategy = (1.0 + out_of_sample["net"]).cumprod()
    hold = (1.0 + out_of_sample["market_return"]).cumprod()
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    equity, drawdown = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    equity.plot(hold.index, hold, color="0.55", linewidth=1, label="Buy and hold")
    equity.plot(strategy.index, strategy, color="tab:blue", linewidth=1.4, label="Strategy after costs")
    equity.set_yscale("log")
    equity.set_ylabel("Growth of 1 (log scale)")
    equity.set_title(title)
    equity.legend(loc="upper left")
    for curve, color in ((hold, "0.55"), (strategy, "tab:blue")):
        drawdown.plot(curve.index, 100 * (curve / curve.cummax().clip(lower=1.0) - 1.0), color=color, linewidth=1)
    drawdown.set_ylabel("Drawdown (%)")
    for axes in (equity, drawdown):
        axes.grid(alpha=0.3)
    return figure
