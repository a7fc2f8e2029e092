"""Walk-forward evaluation of a recipe after transaction costs, and the comparison of two of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from quantops_strategy.features import FEATURES, LABEL_SPAN_DAYS, build_features, build_returns

TRADING_DAYS = 252
SEED = 7
BOOTSTRAP_RESAMPLES = 1000
BOOTSTRAP_BLOCK_DAYS = 20


class NotEnoughBars(ValueError):
    """The data set is too short for the chosen windows."""


@dataclass(frozen=True)
class Recipe:
    """Everything that turns bars into positions, apart from the bars themselves.

    Attributes:
        model: ``logistic`` or ``gradient_boosting``.
        window: ``expanding`` trains on all earlier days, ``rolling`` on the last `train_days`.
        train_days: Days of training before the first test day.
        test_days: Days predicted by one fit before the next fit.
        embargo_days: Days left out between training and test; at least the label's span.
        min_edge: How far the probability of a rise must be from one half to take a position.
        allow_short: Take -1 positions too, not only 0 and 1.
        inverse_regularization: ``C`` of the logistic regression.
        learning_rate: Of gradient boosting.
        max_iter: Trees of gradient boosting.
        max_leaf_nodes: Leaves a tree of gradient boosting.
    """

    model: str = "logistic"
    window: str = "expanding"
    train_days: int = 750
    test_days: int = 126
    embargo_days: int = 5
    min_edge: float = 0.0
    allow_short: bool = False
    inverse_regularization: float = 0.01
    learning_rate: float = 0.05
    max_iter: int = 100
    max_leaf_nodes: int = 8

    def __post_init__(self) -> None:
        """Refuse a recipe that would train on outcomes not known at the time of the test."""
        if self.model not in {"logistic", "gradient_boosting"}:
            raise ValueError(f"unknown model {self.model!r}")
        if self.window not in {"expanding", "rolling"}:
            raise ValueError(f"unknown window {self.window!r}")
        if self.embargo_days < LABEL_SPAN_DAYS:
            raise ValueError(f"embargo_days must be at least {LABEL_SPAN_DAYS}, the span of the label")

    def to_json(self) -> str:
        """The recipe and the features it uses; equal texts mean the same procedure."""
        return json.dumps({**asdict(self), "features": FEATURES}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read what `to_json` wrote.

        Raises:
            ValueError: The recipe was made with other features or settings than this code knows.
        """
        values = json.loads(text)
        if values.pop("features", None) != FEATURES:
            raise ValueError("the recipe uses other features than this code computes")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"the recipe has other settings than this code knows: {error}") from error


def make_classifier(recipe: Recipe) -> Pipeline:
    """Make the unfitted pipeline of a recipe."""
    if recipe.model == "logistic":
        classifier = LogisticRegression(C=recipe.inverse_regularization, max_iter=1000)
    else:
        classifier = HistGradientBoostingClassifier(
            learning_rate=recipe.learning_rate,
            max_iter=recipe.max_iter,
            max_leaf_nodes=recipe.max_leaf_nodes,
            early_stopping=False,
            random_state=SEED,
        )
    return Pipeline([("scaler", StandardScaler()), ("classifier", classifier)])


def training_table(bars: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """Features and market returns of the days on which both are known, each of n rows on the same index."""
    features, returns = build_features(bars), build_returns(bars)
    known = features.notna().all(axis=1) & returns.notna()
    return features[known], returns[known]


def fit(recipe: Recipe, features: pd.DataFrame, returns: pd.Series) -> Pipeline:
    """Fit the recipe's classifier to whether the market return is positive."""
    return make_classifier(recipe).fit(features, (returns > 0).astype(int))


def folds(n_days: int, recipe: Recipe) -> list[tuple[slice, slice]]:
    """Row ranges (training, test) in order; test ranges follow each other without gap or overlap.

    Raises:
        NotEnoughBars: There is no room for a single test range.
    """
    first_test = recipe.train_days + recipe.embargo_days
    if n_days < first_test + recipe.test_days:
        raise NotEnoughBars(
            f"{n_days} usable days, but the windows need {first_test + recipe.test_days}: take an earlier start,"
            " or fewer train_days or test_days"
        )
    result = []
    for start in range(first_test, n_days, recipe.test_days):
        train_end = start - recipe.embargo_days
        train_start = train_end - recipe.train_days if recipe.window == "rolling" else 0
        result.append((slice(train_start, train_end), slice(start, min(start + recipe.test_days, n_days))))
    return result


def positions(probability: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Positions (-1, 0 or 1) for probabilities of a rise; same shape."""
    edge = probability - 0.5
    long = (edge > recipe.min_edge).astype(float)
    return long - (edge < -recipe.min_edge).astype(float) if recipe.allow_short else long


def net_returns(position: pd.Series, market_return: pd.Series, cost_bps: float) -> pd.DataFrame:
    """Daily returns of positions, from flat, after costs.

    Args:
        position: Share of capital held each day, in -1 to 1.
        market_return: Simple return of the market on the same days.
        cost_bps: Cost of trading the whole capital once, in basis points (1/10,000).

    Returns:
        Table with ``position``, ``turnover`` (absolute change of position), ``gross`` and ``net`` returns.
    """
    turnover = position.diff().fillna(position.iloc[0]).abs()
    gross = position * market_return
    return pd.DataFrame(
        {"position": position, "turnover": turnover, "gross": gross, "net": gross - turnover * cost_bps / 10_000.0}
    )


def walk_forward(bars: pd.DataFrame, recipe: Recipe, cost_bps: float) -> pd.DataFrame:
    """Predict each test range with a model that was fitted only on what was known before it.

    Args:
        bars: Daily bars as in `DailyBars.frame`.
        recipe: The procedure.
        cost_bps: See `net_returns`.

    Returns:
        One row for each out-of-sample day: the columns of `net_returns`, ``market_return``, ``probability`` of a
        rise, and ``base_rate``, the share of rises in the training range.

    Raises:
        NotEnoughBars: See `folds`.
    """
    features, returns = training_table(bars)
    parts = []
    for train, test in folds(len(features), recipe):
        model = fit(recipe, features.iloc[train], returns.iloc[train])
        parts.append(
            pd.DataFrame(
                {
                    "probability": model.predict_proba(features.iloc[test])[:, 1],
                    "base_rate": float((returns.iloc[train] > 0).mean()),
                    "market_return": returns.iloc[test],
                },
                index=features.index[test],
            )
        )
    predicted = pd.concat(parts)
    position = pd.Series(positions(predicted["probability"].to_numpy(), recipe), index=predicted.index)
    return predicted.join(net_returns(position, predicted["market_return"], cost_bps))


def performance(daily: pd.DataFrame) -> dict[str, float]:
    """Summarise daily results as made by `net_returns`.

    Returns:
        ``annual_return`` (geometric), ``annual_volatility``, ``sharpe`` (no risk-free rate), ``max_drawdown`` (as a
        negative fraction), ``annual_turnover`` (capital traded a year), ``hit_rate`` (share of days with a position
        that gained before costs; 0 without any such day) and ``exposure`` (share of days with a position).
    """
    net = daily["net"]
    equity = (1.0 + net).cumprod()
    held = daily["position"] != 0
    return {
        "annual_return": float(equity.iloc[-1] ** (TRADING_DAYS / len(net)) - 1.0) if (equity > 0).all() else -1.0,
        "annual_volatility": float(net.std() * np.sqrt(TRADING_DAYS)),
        "sharpe": sharpe(net.to_numpy()),
        "max_drawdown": float((equity / equity.cummax().clip(lower=1.0) - 1.0).min()),
        "annual_turnover": float(daily["turnover"].mean() * TRADING_DAYS),
        "hit_rate": float((daily["gross"][held] > 0).mean()) if held.any() else 0.0,
        "exposure": float(held.mean()),
    }


def evaluate(out_of_sample: pd.DataFrame, cost_bps: float) -> dict[str, float]:
    """Metrics of a `walk_forward` result, of buying and holding on the same days, and of its probabilities."""
    rose = (out_of_sample["market_return"] > 0).astype(int)
    hold = net_returns(pd.Series(1.0, index=out_of_sample.index), out_of_sample["market_return"], cost_bps)
    return {
        "oos_days": float(len(out_of_sample)),
        "oos_log_loss": float(log_loss(rose, out_of_sample["probability"], labels=[0, 1])),
        "oos_log_loss_base_rate": float(log_loss(rose, out_of_sample["base_rate"], labels=[0, 1])),
        "oos_auc": float(roc_auc_score(rose, out_of_sample["probability"])) if rose.nunique() == 2 else float("nan"),
        **{f"strategy_{name}": value for name, value in performance(out_of_sample).items()},
        **{f"buy_and_hold_{name}": value for name, value in performance(hold).items()},
    }


def sharpe(net: np.ndarray) -> float:
    """Annualised Sharpe ratio of daily net returns; 0 where nothing varies."""
    deviation = net.std()
    return float(net.mean() / deviation * np.sqrt(TRADING_DAYS)) if deviation > 1e-12 else 0.0


def confidence_of_improvement(candidate: np.ndarray, incumbent: np.ndarray) -> float:
    """Share of resampled histories in which the candidate has the higher Sharpe ratio.

    A circular block bootstrap draws the same days for both, so that what they share cancels out and the
    dependence within a month is kept.

    Args:
        candidate: Daily net returns, n values.
        incumbent: Daily net returns on the same days.

    Returns:
        A number in 0 to 1; 0 when both are the same.
    """
    n_days = len(candidate)
    block = min(BOOTSTRAP_BLOCK_DAYS, n_days)
    n_blocks = -(-n_days // block)
    rng = np.random.default_rng(SEED)
    wins = 0
    for _resample in range(BOOTSTRAP_RESAMPLES):
        starts = rng.integers(0, n_days, size=(n_blocks, 1))
        days = ((starts + np.arange(block)) % n_days).ravel()[:n_days]
        wins += sharpe(candidate[days]) > sharpe(incumbent[days])
    return wins / BOOTSTRAP_RESAMPLES
