"""MLflow and Weights & Biases are told what a run tells: read back from what they keep."""

import json
from collections import defaultdict

import pytest
import torch
from torch import nn

from steepest import optim
from steepest.data import Batches
from steepest.train import Run, RunError, read_metrics, train
from steepest.train.shown.loggers import numbers_of

OPTIONS = {"recipe": "mine", "options": {"lr": 0.05, "hidden": (8, 8), "data": None}}


def run_of(folder, data, epochs=2, scale=1.0, **how):
    torch.manual_seed(1)
    model = nn.Linear(5, 1)
    return Run(
        model=model,
        optimizer=optim.SGD(model.parameters(), lr=0.05),
        loss_fn=lambda p, y: scale * nn.functional.mse_loss(p, y),
        batches=Batches(*data, batch_size=8),
        validation=[data],
        epochs=epochs,
        log_steps=2,
        folder=folder,
        name="mine",
        options=OPTIONS,
        progress=False,
        **how,
    )


def told(folder):
    numbers = defaultdict(dict)
    for row in read_metrics(folder / "metrics.jsonl"):
        for name, number in numbers_of(row):
            numbers[name][row["step"]] = pytest.approx(number)
    return numbers


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """MLflow with its store in a folder, which it asks to be allowed."""
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    yield mlflow
    mlflow.set_tracking_uri(None)


def test_mlflow_has_one_run_through_all_parts(mlflow, tmp_path, data):
    folder = tmp_path / "run"
    train(run_of(folder, data, log_to=("mlflow",)))
    with pytest.raises(RunError):
        train(run_of(folder, data, epochs=4, scale=float("nan"), log_to=("mlflow",), resume=True))
    client = mlflow.MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'ours'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    train(run_of(folder, data, epochs=4, log_to=("mlflow",), resume=True))
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")
    assert run.data.params == {"lr": "0.05", "hidden": "(8, 8)", "data": "None"}
    found = {
        name: {m.step: m.value for m in client.get_metric_history(run.info.run_id, name)}
        for name in run.data.metrics
    }
    assert found == told(folder)
    assert set(found["epoch/validation_loss"]) == {4, 8, 12, 16}


def test_mlflow_without_a_store_is_refused_in_a_sentence(mlflow, tmp_path, data, monkeypatch):
    from steepest.errors import RecipeError

    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    mlflow.set_tracking_uri((tmp_path / "other").as_uri())
    with pytest.raises(RecipeError, match=r"^log_to=mlflow cannot begin: [^\n]*$"):
        train(run_of(tmp_path / "run", data, log_to=("mlflow",)))


def test_wandb_has_the_numbers_of_the_rows(tmp_path, data, monkeypatch):
    import wandb
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "run"
    train(run_of(folder, data, log_to=("wandb",)))
    assert wandb.run is None
    (path,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    store = DataStore()
    store.open_for_scan(str(path))
    found, config, run, status = defaultdict(dict), {}, None, None
    while (content := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.HasField("run"):
            run = record.run
            config |= {item.key: json.loads(item.value_json) for item in run.config.update}
        if record.HasField("exit"):
            status = record.exit.exit_code
        if record.HasField("history"):
            items = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            for name, value in items.items():
                if name != "epoch" and not name.startswith("_"):
                    found[name][items["_step"]] = value
    store.close()
    assert found == told(folder)
    assert {name: config[name] for name in OPTIONS["options"]} == {
        "lr": 0.05, "hidden": [8, 8], "data": None,
    }  # fmt: skip
    assert (run.display_name, run.project, status) == ("mine", "ours", 0)
    assert json.loads((folder / "logged.json").read_text()) == {"wandb": run.run_id}
