"""The model as the backend runs it: bars in, probability and position out. MLflow keeps this file in each version."""

from __future__ import annotations

import pandas as pd
import skops.io
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

# skops refuses other types than these and its own.
TRUSTED = ("sklearn.", "numpy.")


def features(bars: pd.DataFrame) -> pd.DataFrame:
    """What is known at the close of each day; NaN on the first 20, which have no month before them."""
    change = bars["close"].pct_change()
    return pd.DataFrame(
        {
            "day": change,
            "week": bars["close"].pct_change(5),
            "month": bars["close"].pct_change(20),
            "volatility": change.rolling(20).std(),
            "volume": bars["volume"].rolling(5).mean() / bars["volume"].rolling(20).mean(),
        }
    )


def positions(probability: pd.Series) -> pd.Series:
    """Long (1) where a rise is likelier than not, else flat (0); short is -1."""
    return (probability > 0.5).astype(float)


class DeskModel(PythonModel):
    """The features and the fitted classifier, as one model."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the classifier that train.py logged."""
        path = context.artifacts["classifier"]
        trusted = [name for name in skops.io.get_untrusted_types(file=path) if name.startswith(TRUSTED)]
        self.classifier = skops.io.load(path, trusted=trusted)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict | None = None
    ) -> pd.DataFrame:
        """Score bars, indexed by day; returns a table on the same index, NaN where there is no prediction."""
        table = features(model_input).dropna()
        probability = pd.Series(self.classifier.predict_proba(table)[:, 1], index=table.index)
        scored = pd.DataFrame({"probability": probability, "position": positions(probability)})
        return scored.reindex(model_input.index)


set_model(DeskModel())
