"""Features known at a day's close, and the return that a decision taken then earns."""

from __future__ import annotations

import numpy as np
import pandas as pd

FEATURES = [
    "return_1",
    "return_5",
    "return_20",
    "return_60",
    "gap",
    "range",
    "volatility_20",
    "volatility_ratio",
    "trend_50",
    "rsi_14",
    "volume_z_20",
]
# A decision at the close of day t is filled at the open of t+1 and earns until the open of t+2.
LABEL_SPAN_DAYS = 2


def build_features(bars: pd.DataFrame) -> pd.DataFrame:
    """Compute momentum, volatility, trend, RSI and volume features.

    Every window ends on the row's own day: a row holds nothing that is not known at that day's close.

    Args:
        bars: Daily bars as in `DailyBars.frame`, n rows.

    Returns:
        n x len(FEATURES) table of dimensionless floats on the same index; NaN while a window is not full.
    """
    log_close = np.log(bars["close"])
    log_return = log_close.diff()
    volatility_20 = log_return.rolling(20).std()
    gain = log_return.clip(lower=0).rolling(14).mean()
    loss = (-log_return.clip(upper=0)).rolling(14).mean()
    movement = gain + loss
    log_volume = np.log1p(bars["volume"])
    volume_deviation = log_volume.rolling(20).std()
    features = pd.DataFrame(
        {
            "return_1": log_return,
            "return_5": log_close.diff(5),
            "return_20": log_close.diff(20),
            "return_60": log_close.diff(60),
            "gap": np.log(bars["open"]) - log_close.shift(1),
            "range": np.log(bars["high"]) - np.log(bars["low"]),
            "volatility_20": volatility_20,
            "volatility_ratio": _ratio(volatility_20, log_return.rolling(60).std(), neutral=1.0),
            "trend_50": log_close - log_close.rolling(50).mean(),
            "rsi_14": _ratio(gain, movement, neutral=0.5),
            "volume_z_20": _ratio(log_volume - log_volume.rolling(20).mean(), volume_deviation, neutral=0.0),
        },
        index=bars.index,
    )
    return features[FEATURES]


def build_returns(bars: pd.DataFrame) -> pd.Series:
    """Simple return from the next day's open to the open after it.

    It is what a position decided at the row's close earns, and NaN on the last `LABEL_SPAN_DAYS` rows, whose
    outcome is not known yet.
    """
    opens = bars["open"]
    return (opens.shift(-2) / opens.shift(-1) - 1.0).rename("market_return")


def _ratio(numerator: pd.Series, denominator: pd.Series, neutral: float) -> pd.Series:
    """Divide, with `neutral` where nothing moved in the window."""
    return (numerator / denominator).where(denominator.isna() | (denominator > 1e-12), neutral)
