"""RunFolder: the files of one run."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from steepest.errors import CheckpointError, RecipeError, RunError
from steepest.train.files.checkpoint import save_weights
from steepest.train.files.checkpoints import Checkpoints, locked
from steepest.train.files.whole import read_plain, write_text
from steepest.train.kinds import Row
from steepest.train.measured.metrics import MetricsFile, finite, read_metrics
from steepest.train.run import Run
from steepest.train.shown.loggers import Loggers

CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
OPTIONS = "options.json"
RUN = "run.json"
TRANSFORM = "transform.json"
EVALUATION = "evaluation.json"
MODEL = "model.safetensors"
BEST = "best.safetensors"
PICTURE = "loss.png"
TENSORBOARD = "tensorboard"

LARGEST_OPTIONS = 2**20  # bytes

COLUMNS = ("kind", "epoch", "step", "samples", "seconds", "loss", "lr", "gradient_norm")


def read_options(folder: Path) -> dict[str, Any]:
    """Return what a run's folder says that it was made with: `recipe`, `arguments`, `options`.

    Raises:
        RecipeError: there is no such folder, or no such file in it, or that is not whole.
    """
    try:
        kept = json.loads(read_plain(folder / OPTIONS, LARGEST_OPTIONS))
        found = {"arguments": [], "options": {}} | kept
        if not _is_made_so(found["recipe"], found["arguments"], found["options"]):
            raise ValueError("no run was made so")
        return found
    except (ValueError, KeyError, TypeError, RecursionError):
        lacks = f"{folder} has no readable {OPTIONS}"
        raise RecipeError(
            "A run is named by its folder, which says what it was made with: "
            f"{lacks if folder.is_dir() else f'there is no folder {folder}'}; "
            "`steepest runs` lists those under runs/"
        ) from None


def _is_made_so(recipe: Any, arguments: Any, options: Any) -> bool:
    return (
        isinstance(recipe, str)
        and "\0" not in recipe
        and isinstance(arguments, list)
        and all(isinstance(word, str) and word not in ("-h", "--help") for word in arguments)
        and isinstance(options, dict)
    )


@contextmanager
def failing_the_run() -> Iterator[None]:
    """Turn a file that cannot be written into the failure of a run that began well."""
    try:
        yield
    except CheckpointError as error:
        raise RunError(str(error)) from error
    except OSError as error:  # the folder has been deleted, or its disk is gone
        raise RunError(
            f"A file of the run, {error.filename}, cannot be reached any more: {error.strerror}; "
            "begin it in another place"
        ) from error


class RunFolder:
    """The files of a run: opened by one process at a time, written whole or not at all.

    Raises:
        RecipeError: another process trains there, or the folder cannot be written, or a new run
            would write over an earlier one.
    """

    def __init__(self, path: Path, run: Run) -> None:
        self.path = path
        self.run = run
        self._open = ExitStack()
        self._status = "failed"
        self._best: Mapping[str, Any] | None = None  # the weights written last
        if not run.resume and ((path / METRICS).exists() or (path / CHECKPOINTS).exists()):
            raise RecipeError(
                f"A new run has a folder of its own: {path} holds an earlier one; "
                "choose another folder, or resume"
            )
        parts = [path / name for name in (OPTIONS, METRICS, CHECKPOINTS, TENSORBOARD)]
        if run.resume and not any(part.exists() for part in parts):
            raise CheckpointError(
                f"{path} has no run to resume: begin a new one, or name another folder"
            )
        if link := next((part for part in parts if part.is_symlink()), None):
            raise CheckpointError(
                f"A run writes within its folder: {link} is a link; put there what it leads to"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecipeError(
                f"folder is one that can be written: got {path} ({error.strerror})"
            ) from None
        self._open.enter_context(locked(path))
        self.checkpoints = Checkpoints(path / CHECKPOINTS)

    def holds_nothing(self) -> bool:
        """Tell whether the run that is to go on was killed before it had kept anything."""
        results = (self.path / name for name in (BEST, MODEL))
        if self.checkpoints.paths() or any(path.exists() for path in results):
            return False
        metrics = self.path / METRICS
        return not metrics.exists() or metrics.stat().st_size == 0

    def begin(self, rows: int, step: int) -> None:
        """Write what the run was made with and open its metrics, of which so many rows stay."""
        run = self.run
        with self._closing():
            self._write_origin()
            measured = ["loss", *run.metrics] if run.validation is not None else []
            columns = [*COLUMNS, *(f"validation_{name}" for name in measured)]
            self.metrics = MetricsFile(self.path / METRICS, columns, rows)
            self._open.callback(self.metrics.close)
            options = (run.options or {}).get("options", {})
            self._loggers = Loggers(run.log_to, run.name, self.path, step, options)
            self._open.callback(lambda: self._loggers.close(self._status))

    def write(self, row: Row) -> None:
        """Add a row to the metrics; `flush` writes it."""
        self.metrics.write(row)
        self._loggers.write(row)

    def flush(self) -> None:
        """Write the rows of the metrics that wait."""
        with failing_the_run():
            self.metrics.flush()

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, and the best weights if they are others than before."""
        self.metrics.sync()  # a checkpoint claims no row that is not on disk
        self.checkpoints.save(step, state)
        self._save_best(state["kept"]["best"]["weights"])
        if not (self.path / METRICS).exists():
            self._write_origin()
            raise CheckpointError(
                f"{self.path} was deleted while a run wrote there: its checkpoint of step {step:,} "
                "is there again, its metrics are not; resume it"
            )

    def finish(
        self,
        weights: Mapping[str, Any],
        best: Mapping[str, Any] | None,
        evaluation: Mapping[str, Any] | None,
    ) -> None:
        """Write the models, what the best predicts of the validation rows, and the picture."""
        from steepest.train.shown.picture import draw_losses  # matplotlib takes its time

        with failing_the_run():
            save_weights(self.path / MODEL, weights)
            self._save_best(best)
            if evaluation is not None:
                self.write_json(EVALUATION, evaluation)
            draw_losses(self.path / PICTURE, self.rows(), self.run.name)

    def _write_origin(self) -> None:
        """Write what the run was made with."""
        if self.run.options is not None:
            self.write_json(OPTIONS, self.run.options)
        if self.run.transform is not None:
            self.write_text(TRANSFORM, self.run.transform.to_json())

    def _save_best(self, weights: Mapping[str, Any] | None) -> None:
        if weights is not None and weights is not self._best:
            save_weights(self.path / BEST, weights)
            self._best = weights

    def rows(self) -> list[Row]:
        """Return the rows of the metrics so far."""
        with failing_the_run():
            self.metrics.flush()
            return read_metrics(self.path / METRICS)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a file of the folder as JSON; numbers that are not finite become null."""
        text = json.dumps(finite(value), indent=2, default=str, allow_nan=False)
        self.write_text(name, text + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the folder."""
        write_text(self.path / name, text)

    def close(self, status: str = "failed") -> None:
        """Close what is open, tell those whom it is told to how the run ended, let others in."""
        self._status = status
        self._open.close()

    @contextmanager
    def _closing(self) -> Iterator[None]:
        """Close everything if opening fails."""
        try:
            yield
        except BaseException:
            self.close()
            raise
