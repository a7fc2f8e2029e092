"""Settings of JupyterLab."""

import os
from pathlib import Path

# Notebooks log in at MLflow with it, where the stack has an edge.
if (token := Path("/run/secrets/mlflow_token")).is_file():
    os.environ["MLFLOW_TRACKING_TOKEN"] = token.read_text().strip()

c = get_config()  # noqa: F821
c.ServerApp.ip = "0.0.0.0"
c.ServerApp.port = 8888
c.ServerApp.open_browser = False
c.ServerApp.root_dir = "/home/lab"
c.IdentityProvider.token = Path("/run/secrets/token").read_text().strip()
# Neither asks the internet for news, nor offers to install extensions, which belong in the image.
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
c.LabApp.extension_manager = "readonly"
