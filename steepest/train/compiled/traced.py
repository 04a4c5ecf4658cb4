"""Traced: one training step as torch.compile sees it, the optimizer's formula in it.

What changes from step to step comes in one tensor of float64: the scalars that the host computes
from the hyperparameters and the count of steps. So an lr that changes compiles nothing anew.
"""

import ast
import functools
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steepest.errors import RecipeError
from steepest.formula import Plan
from steepest.formula.extras import NORMS
from steepest.formula.whole import WHOLE
from steepest.formula.words import WORDS
from steepest.kernels.reference import COMPUTED_IN

Step = Callable[[list[Tensor], Tensor, Tensor, list[Tensor]], tuple[Tensor, ...]]
"""`(inputs, target, scalars, tensors) -> (loss, norm of the gradients[, sums for the norms])`."""


Update = Callable[..., tuple[Tensor, ...]]
"""`(p, g, *states, *scalars, *objects) -> (p, *states)`"""


class Row(NamedTuple):
    """One parameter of a traced step: what updates it, and the places of what that takes."""

    plan: Plan
    objects: tuple[Any, ...]
    """What torch's words take as it is: compiled in."""
    p: int
    counter: int | None
    states: tuple[int, ...]
    """Places among the tensors of `plan.reads` and `plan.writes`, without repetition, in order."""
    numbers: tuple[int, ...]
    scalars: tuple[int, int]
    """Where the part's numbers and scalars begin and end among the step's."""
    maximize: bool


class Layout(NamedTuple):
    """What a graph is compiled for, besides the batch and the model."""

    rows: tuple[Row, ...]
    idle: tuple[int, ...]
    """Places of trainable parameters that had no gradient so far."""
    clips: bool
    norms: bool
    autocast: torch.dtype | None


def traced(model: Callable, loss_fn: Callable, layout: Layout) -> Step:
    """Return one training step, which updates `tensors` (parameters, states, counts) in place.

    It is for torch.compile; called as it is, it makes the same step by torch's operations.

    Where the loss is not finite, nothing is updated, so that what went wrong can be looked at.
    """
    rows, idle = layout.rows, layout.idle
    updates = [update_of(row.plan) for row in rows]  # here: torch.compile traces what is called
    half = layout.autocast

    def step(
        inputs: list[Tensor], target: Tensor, scalars: Tensor, tensors: list[Tensor]
    ) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", half) if half else nullcontext():
            loss = loss_fn(model(*inputs), target)
        places = [*[row.p for row in rows], *idle]
        grads = torch.autograd.grad(loss, [tensors[k] for k in places], allow_unused=True)
        loss = loss.detach()
        with torch.no_grad():
            if any(g is not None for g in grads[len(rows) :]):
                raise RecipeError(FIRST_GRADIENT)
            total = _norm([g for g in grads if g is not None])
            good = torch.isfinite(loss)
            scale = torch.clamp(scalars[0] / (total + 1e-6), max=1.0) if layout.clips else None
            sums = [
                _update(row, update, g, scale, good, scalars, tensors, layout.norms)
                for row, update, g in zip(rows, updates, grads[: len(rows)], strict=True)
            ]
            found = [x for x in sums if x is not None]
            return (loss, total, torch.stack(found)) if layout.norms else (loss, total)

    return step


FIRST_GRADIENT = (
    "--compile step: a parameter has its first gradient after the first step, when the optimizer "
    "makes no states for it any more; train without --compile step"
)


def _norm(grads: list[Tensor]) -> Tensor:
    """Return the Euclidean norm of all gradients together, in float64."""
    squares = [torch.linalg.vector_norm(g, dtype=torch.float64) ** 2 for g in grads]
    return torch.stack(squares).sum().sqrt()


def _update(
    row: Row, update: Update, g: Tensor | None, scale: Tensor | None, good: Tensor, scalars: Tensor,
    tensors: list[Tensor], norms: bool,
) -> Tensor | None:  # fmt: skip
    """Update one parameter and its states in place; return what is summed for the norms."""
    if g is None:
        return torch.full((len(NORMS),), math.nan, dtype=torch.float64) if norms else None
    p, own = tensors[row.p], scalars[slice(*row.scalars)]
    old, states = _computed(p), [tensors[k] for k in row.states]
    values = own[len(row.numbers) :].to(old.dtype).unbind()
    given = [_given(g, row, scale), *map(_computed, states), *values, *row.objects]
    new = update(old, *given)
    sums = _sums(g, old, new[0]) if norms else None
    numbers = [tensors[k] for k in row.numbers]
    for t, value in zip([p, *states, *numbers], [*new, *own[: len(numbers)]], strict=True):
        _store(t, value, good)
    if row.counter is not None:
        tensors[row.counter].add_(good)
    return sums


def _given(g: Tensor, row: Row, scale: Tensor | None) -> Tensor:
    """Return a gradient as the formula is given it."""
    g = _computed(g)
    g = -g if row.maximize else g
    return g if scale is None else g * scale.to(g.dtype)


def states_of(plan: Plan) -> tuple[str, ...]:
    """Return the states that are tensors which a plan loads or stores."""
    return tuple(dict.fromkeys((*plan.reads, *plan.writes)))


@functools.cache
def update_of(plan: Plan) -> Update:
    """Return a plan as a function of tensors that returns p and the states."""
    lines = [f"{name} = {ast.unparse(value)}" for name, value in plan.lines]
    names = ("p", *states_of(plan))
    new = [ast.unparse(plan.outputs.get(name, ast.Name(name))) for name in names]
    body = "".join(f"    {line}\n" for line in (*lines, f"return {', '.join(new)},"))
    words = {word: whole.function for word, whole in WHOLE.items()}
    scope: dict[str, Any] = {**WORDS, **words}
    arguments = ("p", "g", *states_of(plan), *plan.scalars, *plan.objects)
    text = f"def update({', '.join(arguments)}):\n{body}"
    exec(compile(text, f"<graph of {plan.formula.name}>", "exec"), scope)
    return scope["update"]


def _computed(t: Tensor) -> Tensor:
    return t.to(COMPUTED_IN.get(t.dtype, t.dtype))


def _store(t: Tensor, value: Any, good: Tensor) -> None:
    """Write a new value into a tensor's memory, unless the loss was not finite."""
    value = value.to(t.dtype) if isinstance(value, Tensor) else torch.full_like(t, value)
    if value is not t:
        t.copy_(torch.where(good, value, t))


def _sums(g: Tensor, p: Tensor, new: Tensor) -> Tensor:
    """Return what the norms are made of, in the order of NORMS."""
    sizes = [torch.linalg.vector_norm(x, dtype=torch.float64) for x in (g, new, new - p)]
    return torch.stack([*(x**2 for x in sizes), (~torch.isfinite(g)).sum().double()])
