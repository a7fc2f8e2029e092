"""Loads the first version of a registered model and predicts; prints a line of JSON."""

import json
import os

import mlflow
import numpy as np

mlflow.set_tracking_uri(os.environ["CLIENT_URL"])
mlflow.set_registry_uri(os.environ["CLIENT_URL"])
model = mlflow.pyfunc.load_model(f"models:/{os.environ['CLIENT_NAME']}/1")
print(json.dumps({"prediction": float(model.predict(np.array([[100.0]]))[0])}))
