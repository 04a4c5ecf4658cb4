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
from steepest.errors import HyperparameterError, RunError
from steepest.formula.extras import NORMS
from steepest.optim.around import Around
from steepest.train.graph import Graph
from steepest.train.hosted import Hosted, refuse
from steepest.train.randomness import random_state, set_random_state
from steepest.train.traced import Layout, traced

CHECKED = 64
"""Every so many steps torch looks at everything that the graph was made from."""
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
    the step after `look()`, or within 64 steps.

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
        self._layouts: dict[Layout, dict[Any, Graph]] = {}
        self._hosted: Hosted | None = None
        self._graphs: dict[Any, Graph] = {}
        self._outputs: tuple[Tensor, ...] = ()

    def __call__(self, inputs: Sequence[Tensor], target: Tensor) -> Tensor:
        """Make one step; return the loss of the batch before it, shape ().

        Raises:
            RunError: the model cannot be compiled, or changes what it is compiled from.
            HyperparameterError: a scalar of the formula cannot be computed.
        """
        self._calls += 1
        turn = self._calls % CHECKED
        if turn > 1:
            return self._step([*inputs, target], look=False)
        begin = perf_counter()
        loss = self._step([*inputs, target], look=turn == 0)
        if turn == 1 and self._calls > CHECKED:
            self._times.append(perf_counter() - begin)
        return loss

    @property
    def compile_seconds(self) -> float:
        """What making graphs has taken so far."""
        return sum(g.seconds for graphs in self._layouts.values() for g in graphs.values())

    @property
    def microseconds(self) -> float | None:
        """What a step takes: the median of one in 64; None before the 65th."""
        return statistics.median(self._times) * 1e6 if self._times else None

    def look(self) -> None:
        """Have the next step see what has changed in Python's values that the model reads."""
        self._calls = CHECKED * (self._calls // CHECKED + 1) - 1

    def _step(self, given: list[Tensor], look: bool) -> Tensor:
        optimizer = self.optimizer
        optimizer.check_learning()
        counted = optimizer.scheduled.evaluate(optimizer.param_groups)
        hosted = self._written()
        if hosted is None or not (self.rows is None or given[-1].shape[:1] == (self.rows,)):
            return self.alone(given)
        mode = self.model.training
        key = (mode, *[(t.dtype, t.device, t.shape, t.stride()) for t in given])
        graph = self._graphs.get(key) or self._new_graph(key)
        outputs = graph(given, hosted, look)
        loss, self.gradient_norm = outputs[:2]
        if hosted.around.clip_norm is not None:
            optimizer._norm = float(self.gradient_norm)
        self._outputs = outputs
        for group in counted:
            group["schedule_step"] += 1
        return loss

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
        if optimizer._update is not self:  # the optimizer forgets it when a state is replaced
            optimizer._update = optimizer._last = self  # pyright: ignore[reportAttributeAccessIssue]
        return hosted

    def _prepared(self) -> Hosted:
        """Return what the graph is given, and find the graphs that are for that."""
        hosted = Hosted(refuse(self.model, self.optimizer), self.clip_norm, self.autocast)
        if self._hosted is not None and hosted.like(self._hosted):
            return self._hosted
        self._graphs = self._layouts.setdefault(hosted.layout, {})
        return hosted

    def _new_graph(self, key: Any) -> "Graph":
        if len(self._graphs) == GRAPHS:
            raise RunError(
                f"--compile step makes a graph for each shape of a batch, {GRAPHS} at most: got "
                f"one more, {tuple(key[-1][2])} for the target; make batches of equal shapes, or "
                "train without --compile step"
            )
        assert self._hosted is not None
        layout = self._hosted.layout
        graph = Graph(traced(self.model, self.loss_fn, layout), count=2 + layout.norms)
        self._graphs[key] = graph
        return graph

    def alone(self, given: list[Tensor]) -> Tensor:
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
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()

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
            twin.alone([*inputs, target])
            times.append(perf_counter() - begin)
    finally:
        set_random_state(numbers)
    return statistics.median(times) * 1e6
