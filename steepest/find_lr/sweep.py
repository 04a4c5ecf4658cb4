"""The learning-rate range test: train on with a larger and larger lr, until the loss diverges.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3,
https://arxiv.org/abs/1506.01186. Differs from the paper: lr grows by a factor instead of a
difference, and what is read is the loss instead of the accuracy.
"""

import math
from collections.abc import Iterator
from contextlib import closing
from time import perf_counter

from torch.nn.parameter import is_lazy

from steepest.errors import RecipeError
from steepest.find_lr.found import Curve, FoundLR
from steepest.find_lr.trial import Trial
from steepest.find_lr.untouched import untouched
from steepest.train import Run, Stopped, choose_device
from steepest.train.device import choose_threads, computing_with
from steepest.train.resumed.randomness import seed_all
from steepest.train.shown.progress import open_progress
from steepest.train.stop import StopSignals

LEAST_STEPS = 20


def find_lr(run: Run, *, start: float = 1e-7, end: float = 10.0, steps: int = 100) -> FoundLR:
    """Train from lr `start` to `end` in equal factors, and say which lr the losses suggest.

    It stops where the loss diverges. Afterwards all is as it was, bit for bit: model, optimizer,
    gradients, random states, batches; no file is written. Several param groups keep their
    proportions. Small data is gone through several times; where an update has fewer than 16 rows,
    several are made with each lr. The run's schedule, or one that the optimizer has for its lr, is
    set aside.

    Raises:
        RecipeError: the bounds are none, or the run's batches, model or optimizer cannot serve.
        Stopped: Ctrl-C or SIGTERM asked for it.
    """
    _check_bounds(start, end, steps)
    _check_run(run)
    device = choose_device(run.device)
    threads = choose_threads(run.threads, run.model, run.batches)
    signals = StopSignals(lambda: None)
    signals.listen()
    try:
        with untouched(run, device), computing_with(threads, run.deterministic):
            if run.seed is not None:
                seed_all(run.seed)
            lrs = [start * (end / start) ** (k / (steps - 1)) for k in range(steps)]
            return _sweep(Trial(run, device), lrs, signals)
    finally:
        signals.restore()


def _sweep(trial: Trial, lrs: list[float], signals: StopSignals) -> FoundLR:
    """Train with one lr after the other, as long as the loss does not diverge."""
    curve, place = Curve(len(lrs)), trial.place
    place.steps = len(lrs)
    progress = open_progress("find-lr", place, shown=trial.run.progress)
    due = perf_counter() + progress.seconds
    with closing(progress), closing(trial):
        for lr in lrs:
            curve.add(lr, trial.loss(lr), trial.connected)
            if curve.rose:
                break
            place.step += 1
            if signals.asked is not None:
                raise Stopped(place.step, signals.asked)
            if perf_counter() >= due:
                progress.draw(place, curve.smoothed[-1], lr)
                due = perf_counter() + progress.seconds
    return curve.found()


def _check_bounds(start: float, end: float, steps: int) -> None:
    for name, lr in {"start": start, "end": end}.items():
        good = isinstance(lr, (int, float)) and not isinstance(lr, bool)
        if not good or not 0 < lr < math.inf:
            raise RecipeError(f"{name} is a learning rate, a number above 0: got {lr!r}")
    if start >= end:
        raise RecipeError(f"start lies below end: got start={start:g} and end={end:g}")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < LEAST_STEPS:
        raise RecipeError(f"steps is a whole number of at least {LEAST_STEPS}: got {steps!r}")


def _check_run(run: Run) -> None:
    if isinstance(run.batches, Iterator):
        raise RecipeError(
            "find_lr reads the batches and leaves them: got an iterator, which can be read only "
            "once; give a list, Batches or a DataLoader"
        )
    if lazy := [name for name, p in run.model.named_parameters() if is_lazy(p)]:
        raise RecipeError(
            f"The parameters have shapes: {lazy[0]} gets its own at the first batch; run the "
            "model on one before"
        )
    if any("lr" not in group for group in run.optimizer.param_groups):
        name = type(run.optimizer).__name__
        raise RecipeError(f"find_lr sets lr in each param group: {name} has one without; add it")
