"""Where metrics go besides the run's own files: TensorBoard, MLflow, Weights & Biases."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from steepest.errors import RecipeError

Row = Mapping[str, Any]
PLACES = ("kind", "epoch", "step", "samples", "seconds")


class Logger(Protocol):
    """What takes a run's rows: `write` one at a time, `close` at the end."""

    def write(self, row: Row) -> None: ...
    def close(self) -> None: ...


def numbers_of(row: Row) -> Iterator[tuple[str, float]]:
    """Yield names and finite numbers of a row, such as `epoch/loss`, `step/ratios/0.bias`."""
    for name, value in row.items():
        inner = value.items() if isinstance(value, Mapping) else [("", value)]
        for part, number in inner:
            plain = isinstance(number, (int, float)) and math.isfinite(number)
            if name not in PLACES and plain:
                yield "/".join(word for word in (row["kind"], name, part) if word), number


class TensorBoard:
    """Event files in the run's folder; those beyond the step of a resumed run are left out."""

    def __init__(self, name: str, folder: Path, step: int, options: Row) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = step + 1 if step else None
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def write(self, row: Row) -> None:
        """Add a row's numbers."""
        for name, number in numbers_of(row):
            self._writer.add_scalar(name, number, row["step"])

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class MLflow:
    """A run of MLflow, where its own settings say (MLFLOW_TRACKING_URI)."""

    def __init__(self, name: str, folder: Path, step: int, options: Row) -> None:
        import mlflow  # pyright: ignore[reportMissingImports]  (an extra)

        self._client = mlflow.MlflowClient()
        experiment = mlflow.set_experiment(_settings("MLFLOW_EXPERIMENT_NAME", "steepest"))
        tags = {"steepest.folder": str(folder)}
        run = self._client.create_run(experiment.experiment_id, run_name=name, tags=tags)
        self._run_id = run.info.run_id
        for option, value in options.items():
            self._client.log_param(self._run_id, option, value)

    def write(self, row: Row) -> None:
        """Add a row's numbers."""
        for name, number in numbers_of(row):
            self._client.log_metric(self._run_id, name, number, step=row["step"])

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self._run_id)


class WeightsAndBiases:
    """A run of Weights & Biases, where its own settings say (WANDB_MODE, WANDB_PROJECT)."""

    def __init__(self, name: str, folder: Path, step: int, options: Row) -> None:
        import wandb  # pyright: ignore[reportMissingImports]  (an extra)

        project = _settings("WANDB_PROJECT", "steepest")
        self._run = wandb.init(project=project, name=name, dir=folder, config=dict(options))

    def write(self, row: Row) -> None:
        """Add a row's numbers."""
        self._run.log({**dict(numbers_of(row)), "epoch": row["epoch"]}, step=row["step"])

    def close(self) -> None:
        """End the run."""
        self._run.finish()


LOGGERS: dict[str, Callable[[str, Path, int, Row], Logger]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}


def open_loggers(
    names: tuple[str, ...], run: str, folder: Path, step: int, options: Row
) -> list[Logger]:
    """Return the loggers of these names for a run that is at a step.

    Raises:
        RecipeError: a package is not installed.
    """
    found = []
    for name in names:
        try:
            found.append(LOGGERS[name](run, folder, step, options))
        except ImportError as error:
            raise RecipeError(
                f"log_to={name} needs a package that is not installed ({error.name}): "
                f"pip install steepest[{name}]"
            ) from None
    return found


def _settings(variable: str, usual: str) -> str:
    return os.environ.get(variable, usual)
