"""The example of a notebook: who gets in, what it may do, and what an executed one leaves in MLflow.

The tests follow each other.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import requests
from stack_under_test import REPOSITORY, Stack, eventually, run_playbook
from test_applications import TIMEOUT, MLflow, backend
from test_data_services import s3

EXAMPLE = REPOSITORY / "examples" / "notebook"
VARIABLES = REPOSITORY / "molecule" / "notebook" / "vars" / "main.yml"
OTHERS = {
    "postgres", "redis", "minio", "ibkr-gateway", "mlflow-upgrade", "mlflow",
    "backend-migrate", "backend", "celery-worker", "celery-beat", "flower",
}  # fmt: skip
LAB = "http://127.0.0.1:48888"


def play(stack: Stack, playbook: str, **variables: Any) -> str:
    """Run a playbook on the example; returns what it said."""
    options = (f"--extra-vars=@{VARIABLES}", f"--extra-vars={json.dumps(variables)}")
    environment = {
        "MOLECULE_EPHEMERAL_DIRECTORY": str(stack.secrets_dir.parent),
        "ANSIBLE_COLLECTIONS_PATH": os.pathsep.join([str(REPOSITORY / ".collections"), str(EXAMPLE / "collections")]),
    }
    done = run_playbook(playbook, EXAMPLE / "inventory", *options, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lab(stack: Stack, path: str) -> Any:
    """Ask JupyterLab's API with the token."""
    headers = {"Authorization": f"token {stack.secret('jupyterlab_token')}"}
    answer = requests.get(f"{LAB}{path}", headers=headers, timeout=TIMEOUT)
    assert answer.status_code == 200, answer.text
    return answer.json()


def notebook_run(stack: Stack) -> dict[str, Any] | None:
    """The newest run of the notebook's experiment."""
    mlflow = MLflow(stack)
    found = mlflow.post("experiments/search", filter="name = 'notebook'", max_results=1).get("experiments", [])
    if not found:
        return None
    runs = mlflow.post("runs/search", experiment_ids=[found[0]["experiment_id"]], max_results=1).get("runs", [])
    return runs[0] if runs else None


def test_it_runs_beside_what_it_needs(stack: Stack) -> None:
    """Nothing else is there, and every service is healthy."""
    containers = stack.containers()
    assert set(containers) == OTHERS | {"jupyterlab"}
    assert eventually(lambda: stack.well("jupyterlab"), seconds=60)


def test_only_who_has_the_token_gets_in(stack: Stack) -> None:
    """Whose value is generated, and in no log, description or command line. Other hosts do not reach the port."""
    token = stack.secret("jupyterlab_token")
    assert len(token) >= 32
    for path in ("/api/contents", "/api/kernels", "/api/terminals"):
        assert requests.get(f"{LAB}{path}", timeout=TIMEOUT).status_code == 403
        wrong = {"Authorization": f"token {token[:-1]}-"}
        assert requests.get(f"{LAB}{path}", headers=wrong, timeout=TIMEOUT).status_code == 403
    assert "/login" in requests.get(f"{LAB}/lab", timeout=TIMEOUT).url
    assert "train.ipynb" in [each["name"] for each in lab(stack, "/api/contents")["content"]]
    item = stack.containers()["jupyterlab"]
    processes = stack.execute("jupyterlab", "sh", "-c", "cat /proc/[0-9]*/cmdline /proc/1/environ").stdout
    for secret in (token, stack.secret("backend_api_token")):
        assert secret not in json.dumps(item) + stack.log("jupyterlab") + processes
    assert {each["HostIp"] for each in item["NetworkSettings"]["Ports"]["8888/tcp"]} == {"127.0.0.1"}


def test_its_code_has_few_rights(stack: Stack) -> None:
    """No root, no capability, a read-only file system around its home, and no password of the data services."""
    program = (
        "import os, pathlib; print(os.getuid(), sorted(os.listdir('/run/secrets')), os.access('/opt/venv', os.W_OK));"
        "print(*[l for l in open('/proc/self/status') if l.startswith('CapEff')])"
    )
    said = stack.execute("jupyterlab", "python", "-c", program).stdout.split("\n")
    assert said[0] == "10031 ['backend_api_token', 'token'] False"
    assert int(said[1].split()[1], 16) == 0
    host = stack.containers()["jupyterlab"]["HostConfig"]
    assert host["ReadonlyRootfs"] is True and host["Memory"] == 2**30


def test_an_executed_notebook_leaves_a_run_with_its_model(stack: Stack) -> None:
    """From the backend's bars; its figure is an object in MLflow's bucket, and its model predicts elsewhere."""
    assert eventually(lambda: bars_kept(stack), seconds=180)
    before = notebook_run(stack)
    play(stack, "molecule/notebook/execute.yml")
    run = notebook_run(stack)
    assert run is not None and run["info"]["status"] == "FINISHED"
    assert before is None or run["info"]["run_id"] != before["info"]["run_id"]
    parameters = {each["key"]: each["value"] for each in run["data"]["params"]}
    assert parameters == {"symbol": "AAPL", "bars": str(bars_kept(stack))}
    [metric] = run["data"]["metrics"]
    assert metric["key"] == "accuracy" and 0.4 < metric["value"] < 0.7
    prefix = "artifacts/" + run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/").lstrip("/")
    picture = s3(stack, "mlflow").get_object(Bucket="mlflow", Key=f"{prefix}/close.png")["Body"].read()
    assert picture.startswith(b"\x89PNG\r\n")

    cells = lab(stack, "/api/contents/train.ipynb")["content"]["cells"]
    outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code")
    shown = "".join("".join(each["text"]) for each in outputs if each["output_type"] == "stream")
    assert f"http://localhost:45500/#/experiments/{run['info']['experiment_id']}/runs/{run['info']['run_id']}" in shown
    uri = next(line for line in shown.split() if line.startswith("models:/"))
    program = (
        "import mlflow, sys; model = mlflow.sklearn.load_model(sys.argv[1]);"
        "print(model.predict_proba([[0.01, 0.02, 0.015]]).shape)"
    )
    python = REPOSITORY / ".venvs" / "dags" / "bin" / "python"
    environment = {"PATH": os.environ["PATH"], "MLFLOW_TRACKING_URI": stack.url("mlflow")}
    words = [python, "-W", "ignore", "-c", program, uri]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "(1, 2)", done.stderr


def bars_kept(stack: Stack) -> int:
    """How many bars of AAPL the backend has."""
    [symbol] = [each for each in backend(stack, "/api/v1/symbols") if each["symbol"] == "AAPL"]
    return symbol["count"]


def test_notebooks_outlive_the_container(stack: Stack) -> None:
    """A changed setting recreates it; the executed notebook is still there, and `verify` opens the page."""
    before = stack.containers()["jupyterlab"]["Id"]
    override = {"jupyterlab": {"shm_size": "128m"}}
    play(stack, "playbooks/site.yml", jupyterlab_overrides=override)
    assert stack.containers()["jupyterlab"]["Id"] != before
    assert eventually(lambda: stack.well("jupyterlab"), seconds=60)
    cells = lab(stack, "/api/contents/train.ipynb")["content"]["cells"]
    assert any(cell.get("outputs") for cell in cells)
    assert "JupyterLab answers with 200" in play(stack, "playbooks/verify.yml", jupyterlab_overrides=override)
