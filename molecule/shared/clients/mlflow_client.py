"""Logs a run with an artifact, registers a model, loads it back by name and predicts; prints a line of JSON."""

import json
import os
import tempfile
from pathlib import Path

import mlflow
import numpy as np
from sklearn.linear_model import LinearRegression

if "CLIENT_TOKEN" in os.environ:
    os.environ["MLFLOW_TRACKING_TOKEN"] = os.environ["CLIENT_TOKEN"]
mlflow.set_tracking_uri(os.environ["CLIENT_URL"])
mlflow.set_registry_uri(os.environ["CLIENT_URL"])
name = os.environ["CLIENT_NAME"]
mlflow.set_experiment(name)
data = np.arange(10.0).reshape(-1, 1)
model = LinearRegression().fit(data, 3 * data[:, 0] + 1)
with mlflow.start_run() as run, tempfile.TemporaryDirectory() as directory:
    mlflow.log_param("slope", 3)
    mlflow.log_metric("score", model.score(data, 3 * data[:, 0] + 1))
    note = Path(directory, "note.txt")
    note.write_text("kept\n")
    mlflow.log_artifact(str(note), "notes")
    mlflow.sklearn.log_model(
        model, name="model", registered_model_name=name, input_example=data[:2], pip_requirements=["scikit-learn"]
    )
back = mlflow.pyfunc.load_model(f"models:/{name}/1")
print(
    json.dumps(
        {
            "artifact_uri": run.info.artifact_uri,
            "note": mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/notes/note.txt"),
            "prediction": float(back.predict(np.array([[100.0]]))[0]),
        }
    )
)
