"""Finds the training run in MLflow, its artifacts, and its model; loads the model as a client would, and predicts.

Runs in a container of the Airflow image. Prints a line for each thing that holds; any other end is an error.
"""

import io
import os
import sys

import mlflow
import pandas as pd
from mlflow import MlflowClient

run_name = os.environ["VERIFY_RUN"]
client = MlflowClient()
experiments = [experiment.experiment_id for experiment in client.search_experiments()]
runs = client.search_runs(experiments, filter_string=f"attributes.run_name = '{run_name}'")
if len(runs) != 1:
    sys.exit(f"MLflow holds {len(runs)} runs named {run_name!r}, expected one")
run = runs[0]
metrics = run.data.metrics
print(f"MLflow holds the run with {len(run.data.params)} parameters and {len(metrics)} metrics")

found, folders = [], [""]
while folders:
    for item in client.list_artifacts(run.info.run_id, folders.pop()):
        folders.append(item.path) if item.is_dir else found.append(item.path)
pictures = [path for path in found if path.endswith(".png")]
if not pictures:
    sys.exit(f"the run has no picture of the equity curve, only {found}")
print(f"MLflow serves its artifacts, {', '.join(sorted(found))}")

versions = client.search_model_versions(f"run_id = '{run.info.run_id}'")
if len(versions) != 1:
    sys.exit(f"{len(versions)} registered versions of models come from the run, expected one")
version = versions[0]
name = version.name
aliases = client.get_registered_model(name).aliases
print(f"{name} version {version.version} is registered; the champion is version {aliases.get('champion', 'none')}")

model = mlflow.pyfunc.load_model(f"models:/{name}/{version.version}")
example = model.input_example
if example is None:
    sys.exit("the model has no input example to predict from")
frame = example if isinstance(example, pd.DataFrame) else pd.read_json(io.StringIO(str(example)))
prediction = model.predict(frame)
if len(prediction) != len(frame):
    sys.exit(f"{len(frame)} rows gave {len(prediction)} predictions")
last = {name: round(float(value), 4) for name, value in prediction.iloc[-1].items()}
print(f"The model loads by name and scores {len(prediction)} days from raw bars, the last with {last}")
