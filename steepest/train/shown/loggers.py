"""Where metrics go besides the run's own files: TensorBoard, MLflow, Weights & Biases."""

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from steepest.errors import RecipeError
from steepest.train.files.whole import read_plain, write_text
from steepest.train.kinds import plain

Row = Mapping[str, Any]
PLACES = ("kind", "epoch", "step", "samples", "seconds")
IDS = "logged.json"
ID = re.compile(r"[A-Za-z0-9]{1,64}")
LONGEST = 500  # characters of an option's value


@dataclass(frozen=True)
class Begun:
    """What a logger is told of its run: `run_id` is what it called an earlier part of it."""

    name: str
    folder: Path
    step: int
    options: Row
    run_id: str | None = None


class Logger(Protocol):
    """What takes a run's rows: `write` one at a time, `close` with the run's status at the end.

    Attributes:
        run_id: by which its package knows the run; None where it needs nothing to go on.
    """

    run_id: str | None

    def write(self, row: Row) -> None: ...
    def close(self, status: str) -> None: ...


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

    run_id: str | None = None

    def __init__(self, begun: Begun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = begun.step + 1 if begun.step else None
        self._writer = SummaryWriter(str(begun.folder / "tensorboard"), purge_step=purge)

    def write(self, row: Row) -> None:
        """Add a row's numbers."""
        for name, number in numbers_of(row):
            self._writer.add_scalar(name, number, row["step"])

    def close(self, status: str) -> None:
        """Write what is left."""
        self._writer.close()


class MLflow:
    """A run of MLflow, where its own settings say (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME)."""

    STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}  # noqa: RUF012

    def __init__(self, begun: Begun) -> None:
        import mlflow  # pyright: ignore[reportMissingImports]  (an extra)

        self._client = mlflow.MlflowClient()
        self.run_id: str | None = begun.run_id
        if self.run_id is not None:
            self._client.update_run(self.run_id, status="RUNNING")
            return
        experiment = mlflow.set_experiment(_setting("MLFLOW_EXPERIMENT_NAME", "steepest"))
        run = self._client.create_run(experiment.experiment_id, run_name=begun.name)
        self.run_id = run.info.run_id
        for option, value in begun.options.items():
            self._client.log_param(self.run_id, option, str(value)[:LONGEST])

    def write(self, row: Row) -> None:
        """Add a row's numbers."""
        for name, number in numbers_of(row):
            self._client.log_metric(self.run_id, name, number, step=row["step"])

    def close(self, status: str) -> None:
        """End the run."""
        self._client.set_terminated(self.run_id, status=self.STATUS[status])


class WeightsAndBiases:
    """A run of Weights & Biases, where its own settings say (WANDB_MODE, WANDB_PROJECT)."""

    def __init__(self, begun: Begun) -> None:
        import wandb  # pyright: ignore[reportMissingImports]  (an extra)

        going_on = {} if begun.run_id is None else {"id": begun.run_id, "resume": "allow"}
        self._run = wandb.init(
            project=_setting("WANDB_PROJECT", "steepest"),
            name=begun.name,
            dir=begun.folder,
            config={name: plain(value) for name, value in begun.options.items()},
            **going_on,
        )
        self.run_id: str | None = self._run.id

    def write(self, row: Row) -> None:
        """Add a row's numbers."""
        self._run.log({**dict(numbers_of(row)), "epoch": row["epoch"]}, step=row["step"])

    def close(self, status: str) -> None:
        """End the run."""
        self._run.finish(exit_code=int(status != "finished"))


LOGGERS: dict[str, Callable[[Begun], Logger]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}


class Loggers:
    """The loggers of a run; one that fails is told of and left out, and the run goes on.

    Raises:
        RecipeError: a package is not installed, or cannot begin.
    """

    def __init__(
        self, names: tuple[str, ...], run: str, folder: Path, step: int, options: Row
    ) -> None:
        earlier = _read_ids(folder / IDS) if step else {}
        self._open: dict[str, Logger] = {}
        try:
            for name in names:
                begun = Begun(run, folder, step, options, earlier.get(name))
                self._open[name] = _opened(name, begun)
        except BaseException:
            self.close("failed")
            raise
        ids = {name: logger.run_id for name, logger in self._open.items() if logger.run_id}
        if ids:
            text = json.dumps(ids, indent=2) + "\n"
            write_text(folder / IDS, text)

    def write(self, row: Row) -> None:
        """Add a row."""
        for name in [*self._open]:
            self._try(name, lambda logger: logger.write(row))

    def close(self, status: str) -> None:
        """End them, each with the run's status: "finished", "stopped" or "failed"."""
        for name in [*self._open]:
            self._try(name, lambda logger: logger.close(status))
        self._open.clear()

    def _try(self, name: str, do: Callable[[Logger], None]) -> None:
        try:
            do(self._open[name])
        except Exception as error:  # a server that is gone must not end a training
            del self._open[name]
            print(f"note: log_to={name} is left out from here on: {_line(error)}", file=sys.stderr)


def _opened(name: str, begun: Begun) -> Logger:
    try:
        return LOGGERS[name](begun)
    except ImportError as error:
        raise RecipeError(
            f"log_to={name} needs a package that is not installed ({error.name}): "
            f"pip install steepest[{name}]"
        ) from None
    except Exception as error:
        raise RecipeError(f"log_to={name} cannot begin: {_line(error)}") from error


def _read_ids(path: Path) -> dict[str, str]:
    try:
        kept = json.loads(read_plain(path))
        return {name: kept[name] for name in LOGGERS if ID.fullmatch(kept.get(name, ""))}
    except (ValueError, AttributeError, TypeError, RecursionError):
        return {}


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _setting(variable: str, usual: str) -> str:
    return os.environ.get(variable, usual)
