"""Loads models and predicts, in an image that has what they are made of.

The arguments are a list of models as JSON, each with ``uris``, and the name of one of these. The last line of the
output is the same list, with what was found there under that name: ``digest`` and ``first`` of the prediction, which
are empty where a model does not say what it takes, or ``error``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import Any

# None of MLflow's words, nor those that a model prints, may come after the answer.
answer_to, sys.stdout = sys.stdout, sys.stderr
os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "OMP_NUM_THREADS": "1"}

import mlflow  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402


def example_of(model: Any) -> Any:
    """Return something that a model takes: the example that was logged with it, or zeros in the form of its signature.

    Args:
        model: As loaded by ``mlflow.pyfunc``.

    Returns:
        Its input; None if it has neither.
    """
    if model.input_example is not None:
        return model.input_example
    schema = model.metadata.get_input_schema()
    if schema is None or not len(schema.inputs):
        return None
    if schema.is_tensor_spec():
        return np.zeros([size if size > 0 else 1 for size in schema.inputs[0].shape], schema.inputs[0].type)
    types = zip(schema.input_names(), schema.pandas_types(), strict=True)
    return pd.DataFrame({name: pd.Series([0]).astype(kind) for name, kind in types})


def predicted(uri: str) -> dict[str, str]:
    """Load a model and predict.

    Args:
        uri: Where it is.

    Returns:
        ``digest`` of all that it predicted, and ``first``, its first row as text.
    """
    model = mlflow.pyfunc.load_model(uri)
    example = example_of(model)
    if example is None:
        return {"digest": "", "first": ""}
    table = pd.DataFrame(model.predict(example))
    text = table.to_json(orient="split", date_format="iso", double_precision=12, default_handler=str)
    first = ", ".join(map(str, table.iloc[0])) if len(table) else "an empty table"
    return {"digest": hashlib.sha256(text.encode()).hexdigest(), "first": first[:80]}


models, place = json.loads(sys.argv[1]), sys.argv[2]
for each in models:
    try:
        each[place] = predicted(each["uris"][place])
    except Exception as error:
        each[place] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]}
print(json.dumps(models), file=answer_to, flush=True)
# Threads of MLflow's client would be waited for.
os._exit(0)
