"""Compiled: forward, loss, backward, clip and the optimizer's formula as one graph."""

import copy
import math
import statistics
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from steepest.clip import clip_grad_norm_
from steepest.errors import HyperparameterError, RecipeError, RunError
from steepest.formula.extras import NORMS
from steepest.optim.around import Around
from steepest.optim.update import Update
from steepest.train.compiled.graph import Graph
from steepest.train.compiled.hosted import Hosted, caught_up, refuse
from steepest.train.compiled.traced import Layout, traced
from steepest.train.resumed.randomness import random_state, set_random_state

CHECKED = 256
"""Every so many steps torch looks at everything that the graph was made from."""
TIMED = CHECKED // 2
"""Which of so many steps is timed: far from the one at which torch looks."""
MEASURED = 0.1
"""Seconds to measure steps without a graph."""
GRAPHS = 8
"""The most graphs for batches of different shapes; each costs seconds."""


class CompiledStep:
    """A training step in one graph: `step(inputs, target) -> loss`.

    Parameters, buffers and the optimizer's states are updated in place, so that checkpoints,
    validation and steps of the optimizer's own in between see what they would see without. The
    numbers are those of the loop within rounding, and dropout draws the same. An update whose loss
    is not finite is left out. The first step of a new optimizer is its own, which makes the states.

    What the model reads in Python, such as its attributes, is compiled in; a change is noticed at
    the step after `look()`, or within 256 steps.

    Args:
        model: called with the inputs.
        optimizer: one of `steepest.optim`, or of a formula of your own, on the CPU.
        loss_fn: `(prediction, target) -> loss`, a scalar tensor.
        clip_norm: bound of the norm of all gradients, as by `clip_grad_norm_`.
        autocast: the dtype of mixed precision in forward and loss, as in `torch.autocast`.
        rows: the rows of a full batch; batches of another number, the last of an epoch, are
            trained without compilation. None compiles a graph for each.

    Attributes:
        gradient_norm: the norm of all gradients at the last step, before clipping, shape ().

    Raises:
        RecipeError: the optimizer or its parameters cannot be part of a graph.
    """

    skipped = False
    scale = 1.0

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_fn: Callable[..., Tensor],
        clip_norm: float | None = None,
        *,
        autocast: torch.dtype | None = None,
        rows: int | None = None,
    ) -> None:
        self.optimizer = refuse(model, optimizer)
        self.model, self.loss_fn = model, loss_fn
        self.clip_norm, self.autocast, self.rows = clip_norm, autocast, rows
        self.gradient_norm: Tensor | None = None
        self._calls = 0
        self._times: list[float] = []
        self._hosted: Hosted | None = None
        self._own: Update | None = None
        self._graphs: dict[Any, Graph] = {}
        self._graph: Graph | None = None
        self._outputs: tuple[Tensor, ...] = ()
        self._batch: tuple[Sequence[Tensor], Tensor] | None = None
        """The last one of those that were timed."""

    def __call__(self, inputs: Sequence[Tensor], target: Tensor) -> Tensor:
        """Make one step; return the loss of the batch before it, shape ().

        Raises:
            RunError: the model cannot be compiled, or changes what it is compiled from.
            HyperparameterError: a scalar of the formula cannot be computed.
        """
        self._calls += 1
        turn = self._calls % CHECKED
        if turn != TIMED:
            return self._step((*inputs, target), look=turn == 0)
        begin = perf_counter()
        loss = self._step((*inputs, target), look=False)
        if self._calls > CHECKED and not self._is_odd(target):
            self._times.append(perf_counter() - begin)
            self._batch = inputs, target
        return loss

    @property
    def compile_seconds(self) -> float:
        """What making graphs has taken so far."""
        return sum(graph.seconds for graph in self._graphs.values())

    @property
    def microseconds(self) -> float | None:
        """What a step takes: the median of one in 256; None in a short run."""
        return statistics.median(self._times) * 1e6 if self._times else None

    def told(self) -> tuple[str, ...]:
        """Say after how many steps making the graphs pays; nothing of a short or odd run."""
        if self._batch is None or self.microseconds is None:
            return ()
        try:
            eager, seconds = eager_microseconds(self, *self._batch), self.compile_seconds
        except (RuntimeError, TypeError, copy.Error):  # the model does not let itself be copied
            return ()
        pays = steps_to_pay(seconds, eager, self.microseconds)
        when = f"it pays after {pays:,.0f} steps" if math.isfinite(pays) else "it does not pay"
        return (
            f"compiled in {seconds:.1f} s: a step takes {self.microseconds:.0f} microseconds "
            f"instead of {eager:.0f}, so {when}",
        )

    def look(self) -> None:
        """Have the next step see what has changed in Python's values that the model reads."""
        self._calls = CHECKED * (self._calls // CHECKED + 1) - 1

    def _step(self, given: tuple[Tensor, ...], look: bool) -> Tensor:
        optimizer = self.optimizer
        optimizer.check_learning()
        counted = optimizer.scheduled.evaluate(optimizer.param_groups)
        hosted = self._written()
        if hosted is None or self._is_odd(given[-1]):
            return self.alone(given)
        graph = self._graph
        known = graph is not None and graph.training is self.model.training and not look
        if graph is not None and known and graph.fits(given, hosted):
            outputs = graph.run(given)
        else:
            graph = self._graph = self._graph_for(given, hosted.layout)
            outputs = graph.by_torch(given, hosted)
        self._outputs, self.gradient_norm = outputs, outputs[1]
        if hosted.around.clip_norm is not None:
            optimizer._norm = float(outputs[1])
        for group in counted:
            group["schedule_step"] += 1
        return outputs[0]

    def _is_odd(self, target: Tensor) -> bool:
        """Tell whether a batch has another number of rows than those that are compiled."""
        return self.rows is not None and target.shape[:1] != (self.rows,)

    def _graph_for(self, given: tuple[Tensor, ...], layout: Layout) -> Graph:
        """Return the graph for a batch like this one, the model in its mode."""
        for t in given:
            if not isinstance(t, Tensor) or t.layout is not torch.strided:
                raise RecipeError(
                    "--compile step: a batch is made of dense tensors, got a "
                    f"{type(t).__name__}; train without --compile step"
                )
        mode = self.model.training
        key = (layout, mode, *[(t.dtype, t.device, t.shape, t.stride()) for t in given])
        if key not in self._graphs:
            if sum(layout == known for known, *_ in self._graphs) == GRAPHS:
                raise RunError(
                    f"--compile step makes a graph for each shape of a batch, {GRAPHS} at most: "
                    f"got one more, {tuple(given[-1].shape)} for the target; make batches of equal "
                    "shapes, or train without --compile step"
                )
            step = traced(self.model, self.loss_fn, layout)
            self._graphs[key] = Graph(step, 2 + layout.norms, mode)
        return self._graphs[key]

    def _written(self) -> Hosted | None:
        """Return what the graph is given, with the scalars of this step; None for a first step."""
        optimizer, hosted = self.optimizer, self._hosted
        try:
            own = hosted is not None and optimizer._update is self and hosted.holds()
            if hosted is None or not own or not hosted.write():
                hosted = self._hosted = self._prepared()
                if hosted.fresh:
                    return None
                done = hosted.write()
                assert done, "what was just prepared does not fit"
        except (ArithmeticError, struct.error) as error:
            raise HyperparameterError(
                f"{type(optimizer).__name__}: a scalar of the formula cannot be computed from the "
                f"hyperparameters: {error}; see param_groups"
            ) from error
        # The optimizer forgets it when a state is replaced.
        optimizer._update = optimizer._last = self  # pyright: ignore[reportAttributeAccessIssue]
        return hosted

    def _prepared(self) -> Hosted:
        """Return what the graph is given, and find the graphs that are for that."""
        hosted = Hosted(refuse(self.model, self.optimizer), self.clip_norm, self.autocast)
        if self._hosted is not None and hosted.like(self._hosted):
            return self._hosted
        return hosted

    def alone(self, given: tuple[Tensor, ...]) -> Tensor:
        """Make a step without a graph, over the inputs and, last, the target."""
        optimizer, half = self.optimizer, self.autocast
        optimizer.zero_grad()
        with torch.autocast("cpu", half) if half else nullcontext():
            loss = self.loss_fn(self.model(*given[:-1]), given[-1])
        if math.isfinite(loss.item()):
            loss.backward()
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            bound = math.inf if self.clip_norm is None else self.clip_norm
            self.gradient_norm = clip_grad_norm_(parameters, bound)
            self._step_alone()
            optimizer.zero_grad()
        return loss.detach()

    def _step_alone(self) -> None:
        """Have the optimizer make a step of its own; it prepares that once, not after each epoch.

        Its last update serves again, and so does what the graph is given, if no state was replaced.
        """
        optimizer, hosted = self.optimizer, self._hosted
        same = optimizer._update is self and hosted is not None and not hosted.layout.idle
        if same and self._own is not None:
            optimizer._update = caught_up(self._own)
        optimizer.step()
        self._own = optimizer._update if same else None
        if self._own is not None:
            optimizer._update = self  # pyright: ignore[reportAttributeAccessIssue]

    # ---- what an optimizer asks of the update that it made last --------------------------------

    def step(self, *_: Any) -> bool:
        """Leave an optimizer's own step to itself: this update is no step of its kernels."""
        return False

    @property
    def around(self) -> Around:
        """What the optimizer does around its formula."""
        return self.optimizer.around

    def sums(self) -> Iterator[tuple[Tensor, Mapping[str, float]]]:
        """Return each parameter with what the last step has summed over it for the norms."""
        assert self._hosted is not None
        hosted = self._hosted
        for row, values in zip(hosted.layout.rows, self._outputs[2].tolist(), strict=True):
            if not math.isnan(values[-1]):  # it has had a gradient
                yield hosted.tensors[row.p], dict(zip(NORMS, values, strict=True))


def steps_to_pay(compile_seconds: float, eager: float, compiled: float) -> float:
    """Return after how many steps compiling pays; infinity where it does not.

    Args:
        compile_seconds: what it takes.
        eager: microseconds of a step without, see `eager_microseconds`.
        compiled: microseconds of a step with.
    """
    saved = (eager - compiled) * 1e-6
    return math.ceil(compile_seconds / saved) if saved > 0 else math.inf


def eager_microseconds(step: CompiledStep, inputs: Sequence[Tensor], target: Tensor) -> float:
    """Measure what a step takes without a graph, over copies: nothing of the run changes."""
    model, optimizer, loss_fn = copy.deepcopy((step.model, step.optimizer, step.loss_fn))
    twin = CompiledStep(model, optimizer, loss_fn, step.clip_norm, autocast=step.autocast)
    numbers, times, end = random_state(), [], perf_counter() + MEASURED
    try:
        while len(times) < 3 or perf_counter() < end:
            begin = perf_counter()
            twin.alone((*inputs, target))
            times.append(perf_counter() - begin)
    finally:
        set_random_state(numbers)
    return statistics.median(times) * 1e6
