"""Record: what is kept of a run while it trains."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import datetime
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from steepest.errors import RecipeError, SteepestError
from steepest.train.clock import Clock
from steepest.train.device import choose_threads, computing_with
from steepest.train.feed import Feed, Window
from steepest.train.files.folder import METRICS, RUN, RunFolder, failing_the_run
from steepest.train.kinds import Row, Scheduler, length_of
from steepest.train.measured.best import Best
from steepest.train.measured.evaluation import evaluation
from steepest.train.measured.metrics import Mean, rows_of
from steepest.train.measured.nonfinite import finding_lr, not_finite
from steepest.train.measured.validation import Validation
from steepest.train.measured.watch import Watch
from steepest.train.measured.weights import averaged
from steepest.train.precision import Precision
from steepest.train.resumed.randomness import seed_all
from steepest.train.resumed.resume import restore, state_of
from steepest.train.run import Report, Run
from steepest.train.shown.advice import advice
from steepest.train.shown.opening import show_opening
from steepest.train.shown.progress import Place, open_progress
from steepest.train.shown.summary import summary_of
from steepest.train.stop import Stopped, StopSignals


class Record:
    """Keep a run's place, losses, metrics, files and progress; a context for one training.

    Entering seeds the run, or resumes it. Ctrl-C and SIGTERM wait for the end of the update, so
    that the checkpoint holds whole updates only; a second one stops at once.
    """

    def __init__(self, run: Run, device: torch.device, precision: Precision) -> None:
        self.run = run
        self.device = device
        self.precision = precision
        self.threads = choose_threads(run.threads, run.model, run.batches)
        self.place = Place(
            batches=length_of(run.batches), epochs=run.epochs, steps=run.steps, seconds=run.seconds
        )
        self.history: list[Row] = []
        self.best = Best(run)
        self.feed = Feed(run, device)
        self.validation = Validation(run, device, precision, self.feed)
        self.clock = Clock(run, self.place)
        self._windows = self.feed.windows(self.place)
        self.watch = Watch(run.model, run.optimizer)
        self.files: RunFolder | None = None
        self._epoch_loss = Mean()
        self._window = Mean()  # the loss since the last "step" row of the metrics
        self._window_loss = math.nan
        self._saved: tuple[int, ...] | None = None  # the place of the last checkpoint
        self._save_epoch = False
        self._rows_before = 0
        self._started = datetime.now().astimezone().isoformat(timespec="seconds")
        self._signals = StopSignals(self.clock.hurry)
        self._within = ExitStack()

    def __enter__(self) -> "Record":
        try:
            self._start()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def _start(self) -> None:
        run = self.run
        if run.seed is not None:
            seed_all(run.seed)
        notes = self._open(Path(run.folder)) if run.folder is not None else []
        if isinstance(run.schedule, Scheduler):  # which may not say from where it goes
            for group in run.optimizer.param_groups:
                group.setdefault("initial_lr", float(group["lr"]))
        if run.progress:  # before, as it compares with torch's own number of threads
            show_opening(run, summary_of(run, self.device, self.threads), notes)
        self._within.enter_context(computing_with(self.threads, run.deterministic))
        self._progress = open_progress(run.name, self.place, shown=run.progress)
        self._within.callback(self._progress.close)
        self.clock.start(self._progress.seconds)
        self._signals.listen()
        self._within.callback(self._signals.restore)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self._within.close()
        self._windows.close()  # so that a loader's workers end, whoever keeps the error
        del self._signals  # they know the record: model and data are let go without a search
        if self.files is not None:
            status = "finished"
            if error is not None:
                status = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
                with suppress(SteepestError):  # a full disk has been told of already
                    self._describe(status, error=str(error) or type(error).__name__)
            self.files.close(status)

    # ---- what the loop asks and tells --------------------------------------------------------

    def goes_on(self) -> bool:
        """Tell whether the run goes on; draw, save or stop before it does, if it is time.

        That comes after all that belongs to the update before, which no resumed run makes up for.
        """
        if self._save_epoch:
            self._save()
        if self.clock.rings:
            self._look()
        return not self.ended()

    def windows(self) -> Iterator[Window]:
        """Hand out the batches of this epoch's updates, from where the run is."""
        self._windows = self.feed.windows(self.place)
        return self._windows

    def loss(self, loss: Tensor, inputs: Any, target: Any) -> None:
        """Add a batch's loss; refuse one that is not finite before it reaches the parameters."""
        rows = rows_of(target)
        try:
            self._window.add(loss, rows)
        except RuntimeError:
            if loss.numel() == 1:
                raise
            raise RecipeError(
                "loss_fn gives one number, the mean over the batch: got a tensor of shape "
                f"{tuple(loss.shape)}; take its mean"
            ) from None
        if not isfinite(self._window.total):
            self._refuse_loss(inputs, target)
        place = self.place
        place.batch += 1
        place.samples += rows

    def step(self) -> bool:
        """Count an update, and log some of them; tell whether to look at what is due."""
        place = self.place
        place.step += 1
        if place.step < self.clock.next_look:
            return False
        if place.step % self.run.log_steps == 0:
            self._log_window()
        return self.clock.due()

    def validation_due(self) -> bool:
        """Tell whether validation comes every so many updates, and does now."""
        every = self.run.validate_steps
        return every is not None and self.place.step % every == 0

    def ended(self) -> str | None:
        """Return what ends the run here: "epochs", "steps", "seconds" or "patience"; or None."""
        if self.run.seconds is not None:
            self.place.elapsed = self.clock.seconds
        return self.place.ended() or ("patience" if self.best.exhausted else None)

    def validate(self) -> Row:
        """Measure the validation batches within an epoch; return the row."""
        row = self._row("validation", self.place.epoch + 1)
        row |= self.validation.measure(self.place.step)
        self._note(row)
        return row

    def epoch(self) -> Row:
        """Close an epoch, with a validation unless those come by updates; return its row."""
        run = self.run
        measured = self._measured() if run.validate_steps is None else {}
        self.place.epoch += 1
        self.place.batch = 0
        row = self._close(self.place.epoch) | measured
        self.history.append(row)
        self._note(row)
        self._epoch_loss, self._window_loss = Mean(), math.nan
        every = run.checkpoint_epochs
        self._save_epoch = bool(self.files and every and self.place.epoch % every == 0)
        return row

    def finish(self, notes: tuple[str, ...] = ()) -> Report:
        """Measure what is not measured yet, write what the run leaves, return what came of it.

        `notes` are for the report's reader.
        """
        run, seconds, ended = self.run, self.clock.seconds, self.ended() or "epochs"
        if self.files is not None:
            self._save()  # before what a longer, unbroken run would not have
        due = self.validation.step != self.place.step
        measured = self.validation.measure(self.place.step) if due else self.validation.found
        if self.place.batch:
            self.history.append(self._close(self.place.epoch + 1) | measured)
            self._note(self.history[-1])
        else:
            self.history[-1] |= measured
            if due and measured:
                self._note(self._row("validation", self.place.epoch) | measured)
        with averaged(run.optimizer):
            if self.files is not None:
                found = evaluation(run, self.best.weights, self.validation.batches())
                self.files.finish(run.model.state_dict(), self.best.weights, found)
            result = "" if run.result is None else run.result(run.model)
        rows = self.history
        if self.files is not None:
            with failing_the_run():
                rows = self.files.rows()
                self._describe("finished", ended=ended)
        return Report(
            name=run.name,
            folder=None if self.files is None else self.files.path,
            steps=self.place.step,
            history=self.history,
            best=self.best.row or self.history[0],
            seconds=seconds,
            ended=ended,
            result=result,
            notes=(*notes, *filter(None, [advice(rows, finding_lr(run))])),
        )

    # ---- rows --------------------------------------------------------------------------------

    def _row(self, kind: str, epoch: int) -> Row:
        place, seconds = self.place, round(self.clock.seconds, 3)
        row = {"kind": kind, "epoch": epoch, "step": place.step, "samples": place.samples}
        return row | {"seconds": seconds}

    def _close(self, epoch: int) -> Row:
        """Return the row of an epoch, which may have ended early."""
        self._read_window()
        return self._row("epoch", epoch) | {"loss": self._epoch_loss.read(), "lr": self._lr()}

    def _log_window(self) -> None:
        self._window_loss = self._read_window()
        row = self._row("step", self.place.epoch + 1)
        row |= {"loss": self._window_loss, "lr": self._lr()} | self.watch.after()
        if self.files is not None:
            self.files.write(row)

    def _measured(self) -> Row:
        """Return what validation measures; a wish to stop is granted between two of its batches.

        That is so where the epoch's end would measure again.
        """
        try:
            return self.validation.measure(self.place.step, self._raise_if_asked)
        except Stopped:
            if self.files is not None:
                self._save()
            raise

    def _note(self, row: Row) -> None:
        """Write and show a row; look whether it is the best one, if it measures that."""
        if self.best.key in row:
            with averaged(self.run.optimizer):
                self.best.look(row, self.run.model.state_dict)
        if self.files is not None:
            self.files.write(row)
        self._progress.row(self.place, row)

    def _read_window(self) -> float:
        mean = self._mean()
        self._epoch_loss.total += self._window.total
        self._epoch_loss.rows += self._window.rows
        self._window = Mean()
        return mean

    def _mean(self) -> float:
        """Return the window's mean; here the losses of an accelerator are seen first."""
        mean = self._window.read()
        if not isfinite(self._window.total):
            self._refuse_loss((), None)
        return mean

    def _refuse_loss(self, inputs: Any, target: Any) -> None:
        there = self.device.type == "cpu"  # elsewhere the batch is long gone
        batch = (inputs, target) if there and target is not None else None
        with self.precision.forward:
            raise not_finite(self.run, self.place, self._window.total, batch)

    # ---- files -------------------------------------------------------------------------------

    def _open(self, folder: Path) -> list[str]:
        """Open the run's folder, and go on from its checkpoint; return what there is to say."""
        self.files = RunFolder(folder, self.run)
        notes: list[str] = []
        changed: list[str] = []
        try:
            begins = not self.run.resume or self.files.holds_nothing()
            if not begins:
                # Parameters alone: a buffer that is a mask may hold infinity.
                finite = [("model", name) for name in self.watch.names]
                _, state, notes = self.files.checkpoints.newest(finite)
                changed, newer = self._resume(state)
                notes = [*notes, *changed, *newer]
            elif self.run.resume:
                notes = ["the run was killed as it began, before its first checkpoint: it begins"]
            self.files.begin(self._rows_before, self.place.step)
            if (rows := self.files.metrics.rows) < self._rows_before:
                notes.append(
                    f"{METRICS} has {rows:,} of the {self._rows_before:,} rows that it had"
                )
            if changed:
                row = self._row("override", self.place.epoch + 1)
                self.files.write(row | {"changed": changed})
            self._describe("running")
            if begins:  # from here on nothing is lost; a disk that is full is seen before training
                self.files.save(0, state_of(self.run, self.precision, self._kept()))
        except BaseException:
            self.files.close()
            self.files = None
            raise
        return notes

    def _resume(self, state: dict[str, Any]) -> tuple[list[str], list[str]]:
        """Take up a checkpoint; return what was overridden, and notes on the machine."""
        kept, changed, newer = restore(self.run, self.precision, state)
        place = self.place
        place.epoch, place.batch, place.step, place.samples = kept["place"]
        self.history = list(kept["history"])
        self.best.load(kept["best"])
        self._epoch_loss, self._window = Mean(*kept["epoch_loss"]), Mean(*kept["window"])
        self.clock.before = place.elapsed = kept["seconds"]
        self.validation.step, self.validation.found = kept["validated"], kept["found"]
        self._rows_before = kept["rows"]
        self._started = kept["started"]
        self.feed.resume(kept, place)
        return changed, newer

    def _save(self) -> None:
        """Write a checkpoint, unless the last one is of this place."""
        assert self.files is not None
        place = self.place
        here = (place.epoch, place.batch, place.step, place.samples)
        self.clock.next_save = perf_counter() + self.run.checkpoint_seconds
        self._save_epoch = False
        if here == self._saved:
            return
        with failing_the_run():
            self.files.save(place.step, state_of(self.run, self.precision, self._kept()))
        self._saved = here

    def _kept(self) -> dict[str, Any]:
        """Return what a checkpoint holds besides the run's parts."""
        assert self.files is not None
        place = self.place
        self._mean()  # no checkpoint is of parameters that such a loss has reached
        return {
            "place": [place.epoch, place.batch, place.step, place.samples],
            "history": self.history,
            "best": self.best.state(),
            "epoch_loss": [self._epoch_loss.total, self._epoch_loss.rows],
            "window": [self._window.total, self._window.rows],
            "seconds": self.clock.seconds,
            "validated": self.validation.step,
            "found": self.validation.found,
            "rows": self.files.metrics.rows,
            "started": self._started,
            "epoch_random": self.feed.epoch_random,
            "at_end": self.feed.at_end,
            "random": self.feed.random(),
        }

    def _describe(self, status: str, **more: Any) -> None:
        """Write run.json, which `steepest runs` and the report read."""
        assert self.files is not None
        told = {"name": self.run.name, "status": status, "started": self._started}
        told["seconds"] = round(self.clock.seconds, 3)
        best = None
        if self.best.row is not None:
            where = {key: self.best.row[key] for key in ("epoch", "step")}
            best = where | {"value": self.best.row[self.best.key]}
        final = self.history[-1] if self.history else None
        told |= summary_of(self.run, self.device, self.threads)
        self.files.write_json(RUN, told | {"best": best, "final": final} | more)

    # ---- time --------------------------------------------------------------------------------

    def _look(self) -> None:
        clock, now = self.clock, perf_counter()
        self.place.elapsed = clock.seconds
        if now >= clock.next_draw:
            loss = self._mean() if self._window.rows else self._window_loss
            self._progress.draw(self.place, loss, self._lr())
            clock.next_draw = now + self._progress.seconds
            if self.files is not None:
                self.files.flush()
        if now >= clock.next_save:
            self._save()
        clock.set()
        if self._signals.asked is not None and self.files is not None:
            self._save()
        self._raise_if_asked()

    def _lr(self) -> float:
        return float(self.run.optimizer.param_groups[0]["lr"])

    def _raise_if_asked(self) -> None:
        if self._signals.asked is not None:
            raise Stopped(self.place.step, self._signals.asked)
