"""Hosted: what a compiled step computes on the host, and which tensors its graph is given."""

import math
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import steepest.kernels.job as J
from steepest.errors import RecipeError
from steepest.formula import Plan, plan
from steepest.formula.extras import COUNT
from steepest.formula.shapes import MATRIX
from steepest.optim import Optimizer
from steepest.optim.placing import numbers_of
from steepest.optim.update import Update
from steepest.train.compiled.traced import Layout, Row, states_of


def refuse(model: nn.Module, optimizer: torch.optim.Optimizer) -> Optimizer:
    """Return an optimizer that can be part of a graph.

    Raises:
        RecipeError: its formula, its options, its parameters or the model's buffers cannot be.
    """
    name = type(optimizer).__name__
    if not isinstance(optimizer, Optimizer) or type(optimizer).step is not Optimizer.step:
        raise RecipeError(
            f"--compile step compiles an optimizer's formula, {type(optimizer).__module__}.{name} "
            "has a step of its own instead: take one of steepest.optim that has a formula, or "
            "train without --compile step"
        )
    reason = next(_refusals(optimizer), None) or next(_buffers_lost(model), None)
    if reason is not None:
        raise RecipeError(
            f"--compile step: {reason}; change that, take another optimizer than {name}, or train "
            "without --compile step"
        )
    return optimizer


def _refusals(optimizer: Optimizer) -> Iterator[str]:
    """Tell why an optimizer cannot be part of a graph."""
    if optimizer.around.skip_nonfinite:
        yield "skip_nonfinite=True needs the host between the gradients and the update"
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        yield "the optimizer has hooks on its step, which a graph would not call"
    if optimizer._in_backward is not None:
        yield "the optimizer updates in the backward pass"
    for group in optimizer.param_groups:
        formula = optimizer.rule(group).formula
        if group.get("differentiable"):
            yield "differentiable=True records each step for autograd"
        if MATRIX in formula.shapes.values():
            yield f"{formula.name} needs bases of matrices, which torch.compile cannot trace"
        for p in group["params"]:
            if (reason := _refusal(p)) is not None:
                yield f"a parameter of shape {tuple(p.shape)} {reason}"
            here = {**group, **numbers_of(group)}
            given = {**dict(optimizer.around.given), "p": p}
            if plan(formula, here, 1, formula.tested, given, optimizer.around.extras).totals:
                yield f"{formula.name} sums over all parameters on the host, within a step"


def _refusal(p: Tensor) -> str | None:
    """Tell why a graph cannot update a parameter."""
    if type(p) not in (Tensor, nn.Parameter) or p.device.type != "cpu":
        return f"is a {type(p).__name__} on {p.device}, the graph is for the CPU"
    if not p.is_floating_point() or p.layout is not torch.strided:
        return f"is {p.dtype} and {p.layout}, not real and dense"
    if p._backward_hooks or p._post_accumulate_grad_hooks:
        return "has hooks on its gradient, which a graph would not call"
    return LOST if _is_lost(p) else None


LOST = "is one float64 number without a dimension, whose changes torch.compile loses (torch 2.13)"


def _is_lost(t: Tensor) -> bool:
    return t.ndim == 0 and t.dtype is torch.float64  # Inductor takes it for a number of Python's


def _buffers_lost(model: nn.Module) -> Iterator[str]:
    yield from (f"the buffer {name} {LOST}" for name, t in model.named_buffers() if _is_lost(t))


def caught_up(update: Update) -> Update:
    """Return an optimizer's own update, once it knows of the steps made without it.

    It compares with the counts in the states, to see whether it still holds.
    """
    for launch in update.launches:
        steps, numbers = (launch.job.arrays[place] for place in (J.STEPS, J.NUMBERS))
        for k, part in enumerate(launch.parts):
            if part.counters[0] is not None:
                steps[k] = part.step = int(part.counters[0])
            for j, (name, t) in enumerate(zip(launch.plan.numbers, part.numbers[0], strict=True)):
                numbers[k, j] = part.own[name] = float(t)
    return update


class Part:
    """Rows of one plan, param group and step, which share their scalars.

    Attributes:
        scalars: where its numbers and scalars are among the step's.
        objects: what torch's words take as it is, which is compiled in.
        maximize: whether its gradients are turned, which is compiled in.
    """

    def __init__(
        self, chosen: Plan, group: dict[str, Any], p: Tensor, entry: Mapping[str, Any], first: int
    ) -> None:
        self.plan, self.group, self.entry = chosen, group, entry
        self.counter: Tensor | None = entry["step"] if chosen.formula.counts else None
        self.names = tuple(n for n in (*chosen.formula.numbers, COUNT) if n in entry)
        self.own: dict[str, Any] = {"p": p}
        self.width = len(chosen.numbers) + len(chosen.scalars)
        self.scalars = (first, first + self.width)
        self.maximize = bool(group.get("maximize"))
        self.objects: tuple[Any, ...] = ()
        self._place = first * torch.float64.itemsize
        self._pack = struct.Struct(f"{self.width}d").pack_into

    def values(self, given: tuple[tuple[str, float], ...]) -> tuple[Any, ...] | None:
        """Compute what the host gives for the step to come; None when another plan serves it."""
        own = self.own
        if self.names or given:
            own.update(given)
            own.update((name, self.entry[name].item()) for name in self.names)
        step = 1 if self.counter is None else int(self.counter) + 1
        return self.plan.host(self.group, step, own)

    def write(self, memory: memoryview, given: tuple[tuple[str, float], ...]) -> bool:
        """Write the scalars of the step to come; False when the graph no longer serves it."""
        values = self.values(given)
        if values is None or bool(self.group.get("maximize")) is not self.maximize:
            return False
        if self.plan.objects:
            if _constant(values[self.width :]) != self.objects:
                return False
            values = values[: self.width]
        self._pack(memory, self._place, *values)
        return True


def _constant(value: Any) -> Any:
    """Return a value with tuples for lists, to be compiled in."""
    return tuple(map(_constant, value)) if isinstance(value, list | tuple) else value


class Hosted:
    """The rows of a graph, the tensors that it is given, and the scalars of each step.

    Attributes:
        layout: what its graphs are compiled for.
        fresh: no parameter has a state yet, which the optimizer's own first step makes.
        tensors: parameters, states, counts.
        scalars: what the host computes: the bound of the norm, then each part's.
    """

    def __init__(
        self, optimizer: Optimizer, clip_norm: float | None, autocast: torch.dtype | None
    ) -> None:
        self.optimizer, self.around = optimizer, optimizer.around
        self.groups, self.trainable = list(optimizer.param_groups), _trainable(optimizer)
        self.tensors: list[Tensor] = []
        self._rows: list[Row] = []
        self._idle: list[int] = []
        self.parts: dict[Any, Part] = {}
        self.numbered: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._width = 1
        for k, group in enumerate(optimizer.param_groups):
            here = self._numbered(group)
            for p in group["params"]:
                if p.requires_grad:
                    self._place(k, here, p)
        self.fresh = bool(self._idle) and not any(optimizer.state.values())
        bounds = [x for x in (clip_norm, self.around.clip_norm) if x is not None]
        norms = self.around.extras.norms
        self.layout = Layout(tuple(self._rows), tuple(self._idle), bool(bounds), norms, autocast)
        self.scalars = torch.zeros(self._width, dtype=torch.float64)
        self.scalars[0] = min(bounds, default=math.inf)
        self._memory = self.scalars.numpy().data.cast("B")

    def _numbered(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return a group to compute with: numbers, where tensors hold them."""
        if not (numbers := numbers_of(group)):
            return group
        self.numbered.append((group, {**group, **numbers}))
        return self.numbered[-1][1]

    def _place(self, k: int, group: dict[str, Any], p: Tensor) -> None:
        formula = self.optimizer.rule(group).formula
        entry = self.optimizer.state.get(p, {})
        absent = frozenset(s for s in formula.tested if entry.get(s) is None)
        numbers = {n: float(entry[n]) for n in (*formula.numbers, COUNT) if n in entry}
        step = int(entry.get("step", 0))
        given = {**dict(self.around.given), **numbers, "p": p}
        chosen = plan(formula, group, step + 1, absent, given, self.around.extras)
        needed = [*states_of(chosen), *chosen.numbers, *(["step"] if formula.counts else [])]
        if any(not isinstance(entry.get(name), Tensor) for name in needed):
            self._idle.append(self._add(p))
            return
        shape = p.shape if chosen.shaped else None
        key = (chosen, k, step, shape, p.dtype if chosen.shaped else None, tuple(numbers.items()))
        if key not in self.parts:
            self.parts[key] = part = Part(chosen, group, p, entry, self._width)
            part.objects = _constant((part.values(self.around.given) or ())[part.width :])
            _, self._width = part.scalars
        part = self.parts[key]
        place = self._add(p)
        counter = self._add(entry["step"]) if formula.counts else None
        states = tuple(self._add(entry[name]) for name in states_of(chosen))
        held = tuple(self._add(entry[name].view(1)) for name in chosen.numbers)  # see LOST
        row = Row(chosen, part.objects, place, counter, states, held, part.scalars, part.maximize)
        self._rows.append(row)

    def _add(self, t: Tensor) -> int:
        self.tensors.append(t)
        return len(self.tensors) - 1

    def like(self, other: "Hosted") -> bool:
        """Tell whether another has the same rows over the same tensors and groups."""
        if self.layout != other.layout or self.around is not other.around:
            return False
        mine, theirs = [*self.tensors, *self.groups], [*other.tensors, *other.groups]
        return len(mine) == len(theirs) and all(map(_is_same, mine, theirs))

    def holds(self) -> bool:
        """Tell whether the optimizer updates the parameters that it did."""
        optimizer = self.optimizer
        return optimizer.around is self.around and _trainable(optimizer) == self.trainable

    def write(self) -> bool:
        """Compute the scalars of the step to come; False when another plan serves it."""
        for group, copy in self.numbered:
            copy.update(group, **numbers_of(group))
        given = self.around.given
        return all(part.write(self._memory, given) for part in self.parts.values())


def _trainable(optimizer: Optimizer) -> list[bool]:
    return [p.requires_grad for group in optimizer.param_groups for p in group["params"]]


def _is_same(a: Any, b: Any) -> bool:
    """Tell whether two are one; the view of a number is made anew each time."""
    views = isinstance(a, Tensor) and isinstance(b, Tensor) and a._base is not None
    return a is b or (views and a._base is b._base)
