"""The registered model: raw daily bars in, probability and position out.

MLflow stores this file and the package with each model and runs them when it is loaded (models from code), so whoever
scores needs neither the features nor the recipe, and a model is always scored with the code it was made by.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import skops.io
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from quantops_strategy.evaluation import Recipe, positions
from quantops_strategy.features import build_features

PIPELINE = "pipeline"
RECIPE = "recipe"
# skops asks about every type beyond its own list; whatever else a file names is refused.
TRUSTED = ("sklearn.", "numpy.")


class StrategyModel(PythonModel):
    """Features, the fitted pipeline and the recipe's rule, as one model."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the fitted pipeline and the recipe."""
        path = Path(context.artifacts[PIPELINE])
        known = [name for name in skops.io.get_untrusted_types(file=path) if name.startswith(TRUSTED)]
        self._pipeline = skops.io.load(path, trusted=known)
        self._recipe = Recipe.from_json(context.model_config[RECIPE])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Score each day at its close.

        Args:
            context: Unused; `load_context` has read it.
            model_input: Daily bars as in `DailyBars.frame`, ascending, n rows.
            params: Unused.

        Returns:
            n rows on the same index: ``probability`` of a rise from the next open to the one after it, and
            ``position`` (-1, 0 or 1) for that span; both NaN while a feature's window is not full.
        """
        features = build_features(model_input)
        result = pd.DataFrame(float("nan"), index=model_input.index, columns=["probability", "position"])
        known = features.notna().all(axis=1)
        if known.any():
            probability = self._pipeline.predict_proba(features[known])[:, 1]
            result.loc[known, "probability"] = probability
            result.loc[known, "position"] = positions(probability, self._recipe)
        return result


set_model(StrategyModel())
