"""What is kept of a run while it trains: where it is, its losses, its files, its wish to stop."""

import json
import math
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from steepest.data import Batches
from steepest.errors import CheckpointError, RecipeError, RunError
from steepest.train.checkpoint import load_checkpoint, save_checkpoint, save_model, write_whole
from steepest.train.device import moved
from steepest.train.metrics import Mean, MetricsFile, read_metrics, rows_of
from steepest.train.progress import Place, open_progress
from steepest.train.randomness import random_state, seed_all, set_random_state
from steepest.train.resume import restore, state_of
from steepest.train.run import Report, Row, Run, length_of
from steepest.train.stop import Stopped, StopSignals

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
OPTIONS = "options.json"
MODEL = "model.safetensors"
PICTURE = "loss.png"


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


@contextmanager
def failing_the_run() -> Iterator[None]:
    """Turn a file that cannot be written into the failure of a run that began well."""
    try:
        yield
    except CheckpointError as error:
        raise RunError(str(error)) from error


class Record:
    """Keep a run's place, losses, metrics, checkpoints and progress; a context for one training.

    Entering seeds the run, or resumes it. Ctrl-C and SIGTERM wait for the end of the update, so
    that the checkpoint holds whole updates only; a second one stops at once.
    """

    def __init__(self, run: Run, device: torch.device) -> None:
        self.run = run
        self.device = device
        self.place = Place(epochs=run.epochs, batches=length_of(run.batches))
        self.history: list[Row] = []
        self.folder = None if run.folder is None else Path(run.folder)
        self._epoch_loss = Mean()
        self._window = Mean()  # the loss since the last "step" line of the metrics
        self._window_loss = math.nan
        self._seconds_before = 0.0
        self._epoch_random: dict[str, Any] = {}
        self._resumed_random: dict[str, Any] | None = None
        self._metrics: MetricsFile | None = None
        self._signals = StopSignals(self._hurry)

    def __enter__(self) -> "Record":
        if self.run.seed is not None:
            seed_all(self.run.seed)
        if self.folder is not None:
            self._open(self.folder)  # may refuse: nothing of the process has been set yet
        self._threads = torch.get_num_threads()
        if self.run.threads is not None:
            torch.set_num_threads(self.run.threads)
        self._begin = perf_counter()
        self._progress = open_progress(self.run.name, self.place, shown=self.run.progress)
        self._next_draw = self._begin + min(self._progress.seconds, 1e9)
        self._next_save = self._begin + self.run.checkpoint_seconds if self.folder else math.inf
        self._due = min(self._next_draw, self._next_save)
        self._signals.listen()
        return self

    def __exit__(self, *error: object) -> None:
        self._signals.restore()
        torch.set_num_threads(self._threads)
        self._progress.close()
        if self._metrics is not None:
            self._metrics.close()

    def batches(self) -> Iterator[Any]:
        """Hand out this epoch's batches on the device, from where the run is."""
        run, start = self.run, self.place.batch
        if self._resumed_random is None:
            self._epoch_random = random_state(self.device, run.batches)
        else:  # draw the epoch's order as it was drawn, then go on where the run stopped
            set_random_state(self._epoch_random, self.device, run.batches)
        if isinstance(run.batches, Batches):
            source = run.batches.epoch(self.place.epoch, start=start)
        else:
            source = iter(run.batches)
            deque(islice(source, start), maxlen=0)
        if self._resumed_random is not None:
            set_random_state(self._resumed_random, self.device, run.batches)
            self._resumed_random = None
        yield from moved(source, self.device)
        if self.place.batch == 0:
            raise RecipeError(
                f"batches gives at least one batch per epoch: got none in epoch "
                f"{self.place.epoch + 1}; give Batches, a DataLoader or a list"
            )
        self.place.batches = self.place.batch

    def validation_batches(self) -> Iterator[Any]:
        """Hand out the validation batches on the device; a wish to stop is granted between two."""
        for batch in moved(self.run.validation or (), self.device):
            self._stop_if_asked()
            yield batch

    def loss(self, loss: Tensor, target: Any) -> None:
        """Add a batch's loss; refuse one that is not finite before it reaches the parameters."""
        self._window.add(loss, rows_of(target))
        if not math.isfinite(self._window.total):
            self._refuse_loss()

    def step(self) -> None:
        """Count an update; now and then write metrics, draw, save."""
        place = self.place
        place.step += 1
        place.batch += 1
        if place.step % self.run.log_steps == 0:
            self._log_window()
        if perf_counter() >= self._due:
            self._look()

    def epoch(self, validation: Mapping[str, float]) -> Row:
        """Close an epoch with what validation measured; return its row of the history."""
        self._read_window()
        place = self.place
        place.epoch += 1
        place.batch = 0
        row: Row = {"kind": "epoch", "epoch": place.epoch, "step": place.step}
        row["loss"] = self._epoch_loss.read()
        row |= {f"validation_{name}": value for name, value in validation.items()}
        row |= {"lr": self._lr(), "seconds": round(self.seconds, 3)}
        self._epoch_loss, self._window_loss = Mean(), math.nan
        self.history.append(row)
        if self._metrics is not None:
            self._metrics.write(row)
        self._progress.epoch(place, row)
        return row

    def pause(self) -> None:
        """Save or stop between two epochs, if it is time."""
        if perf_counter() >= self._due:
            self._look()

    @property
    def seconds(self) -> float:
        """The time taken so far, in seconds, all parts of a resumed run together."""
        return self._seconds_before + perf_counter() - self._begin

    def finish(self) -> Report:
        """Write checkpoint, model and picture; return what came of the run."""
        seconds = self.seconds
        if self.folder is not None:
            from steepest.train.picture import draw_losses  # matplotlib takes its time

            self._save()
            rows = read_metrics(self.folder / METRICS)
            with failing_the_run():
                save_model(self.folder / MODEL, self.run.model)
                draw_losses(self.folder / PICTURE, rows, self.run.name)
        result = "" if self.run.result is None else self.run.result(self.run.model)
        return Report(
            name=self.run.name,
            folder=self.folder,
            steps=self.place.step,
            history=self.history,
            seconds=seconds,
            result=result,
        )

    def _open(self, folder: Path) -> None:
        if self.run.resume:
            if not (folder / CHECKPOINT).exists():
                raise CheckpointError(
                    f"{folder} has no checkpoint to resume from: begin a new run in another folder"
                )
            self._resume(load_checkpoint(folder / CHECKPOINT))
        elif (folder / METRICS).exists() or (folder / CHECKPOINT).exists():
            raise RecipeError(
                f"A new run has a folder of its own: {folder} holds an earlier one; "
                "choose another folder, or resume"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecipeError(
                f"folder is one that can be written: got {folder} ({error.strerror})"
            ) from None
        if self.run.options is not None:  # only now, as a refused run changes no file
            text = json.dumps(dict(self.run.options), indent=2, default=str) + "\n"
            write_whole(folder / OPTIONS, lambda temporary: _write_text(temporary, text))
        self._metrics = MetricsFile(folder / METRICS, self.place.step)

    def _resume(self, state: dict[str, Any]) -> None:
        kept = restore(self.run, state)
        self.place.epoch, self.place.batch, self.place.step = kept["place"]
        self.history = list(kept["history"])
        self._epoch_loss, self._window = Mean(*kept["epoch_loss"]), Mean(*kept["window"])
        self._seconds_before = kept["seconds"]
        self._epoch_random = kept["epoch_random"]
        set_random_state(kept["random"], self.device, self.run.batches)
        if self.place.batch:
            self._resumed_random = kept["random"]

    def _save(self) -> None:
        assert self.folder is not None
        self._window.read()
        kept = {
            "place": [self.place.epoch, self.place.batch, self.place.step],
            "history": self.history,
            "epoch_loss": [self._epoch_loss.total, self._epoch_loss.rows],
            "window": [self._window.total, self._window.rows],
            "seconds": self.seconds,
            "epoch_random": self._epoch_random,
            "random": random_state(self.device, self.run.batches),
        }
        with failing_the_run():
            save_checkpoint(self.folder / CHECKPOINT, state_of(self.run, kept))

    def _look(self) -> None:
        self._stop_if_asked()
        now = perf_counter()
        if now >= self._next_draw:
            loss = self._window.read() if self._window.rows else self._window_loss
            if not math.isfinite(self._window.total):
                self._refuse_loss()
            self._progress.draw(self.place, loss, self._lr())
            self._next_draw = now + self._progress.seconds
        if now >= self._next_save:
            self._save()
            self._next_save = perf_counter() + self.run.checkpoint_seconds
        self._due = min(self._next_draw, self._next_save)

    def _log_window(self) -> None:
        self._window_loss = self._read_window()
        row = {"kind": "step", "epoch": self.place.epoch + 1, "step": self.place.step}
        if self._metrics is not None:
            self._metrics.write(row | {"loss": self._window_loss, "lr": self._lr()})

    def _read_window(self) -> float:
        mean = self._window.read()
        if not math.isfinite(self._window.total):
            self._refuse_loss()
        self._epoch_loss.total += self._window.total
        self._epoch_loss.rows += self._window.rows
        self._window = Mean()
        return mean

    def _refuse_loss(self) -> None:
        step = self.place.step + 1
        when = f"at step {step}" if self.device.type == "cpu" else f"by step {step}"
        raise RunError(
            f"The loss is a finite number at every step: it was {self._window.total} {when} "
            f"(epoch {self.place.epoch + 1}, lr {self._lr():.3g}); lower lr, clip the gradients "
            "with clip_norm, or look for NaN in the data"
        )

    def _lr(self) -> float:
        return float(self.run.optimizer.param_groups[0]["lr"])

    def _hurry(self) -> None:
        self._due = -math.inf

    def _stop_if_asked(self) -> None:
        if self._signals.asked is None:
            return
        if self.folder is not None:
            self._save()
        raise Stopped(self.place.step, self._signals.asked)
