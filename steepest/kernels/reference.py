"""The reference: a formula run by torch, tensor by tensor.

It is the meaning of the kernels, and serves what they do not: other dtypes, devices and layouts,
sparse gradients, tensors that share memory, `differentiable=True`.
"""

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from steepest.formula import Formula, Plan, norm
from steepest.formula.extras import AVERAGE, COUNT
from steepest.formula.plan import NOWHERE
from steepest.formula.shapes import TORCH
from steepest.formula.whole import gathered, spread, totals
from steepest.kernels import rows

COMPUTED_IN = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
"""Half precision is computed in float32 and rounded once, when it is stored."""


def update(
    plan: Plan,
    p: Tensor,
    state: dict[str, Any],
    group: Mapping[str, Any],
    step: int,
    scale: float | Tensor,
    own: Mapping[str, Any] = NOWHERE,
) -> dict[str, float]:
    """Update one parameter and its states in place by its formula.

    Where autograd records, states are replaced instead: their old values may be needed again.

    Args:
        plan: says which states the formula touches.
        p: the parameter, with a gradient of any layout.
        state: its states by name, made where the plan reads them; new ones are added.
        group: the hyperparameters.
        step: the update being made, 1 for the first.
        scale: multiplies the gradient.
        own: the numbers of the extras, and the totals, by name.

    Returns:
        What the plan sums for the norms, by name; empty where it does not.
    """
    assert p.grad is not None
    recording = torch.is_grad_enabled()
    index, g = (None, p.grad) if recording else rows.of_gradient(plan, p.grad)
    before = p.detach().clone() if plan.extras.norms else p
    here = _computed(p.clone() if recording else _at(p, index))
    old, new = _applied(plan, here, g, index, state, group, step, scale, own)
    given = {id(t) for t in (here, *old) if isinstance(t, Tensor)}
    new_p, *new_states = (
        value.clone() if id(value) in given and value is not mine else value
        for value, mine in zip(new, (here, *old), strict=True)
    )  # a value may be another's old memory, which is about to be written
    for name, value in zip(plan.formula.states, new_states, strict=True):
        there = state.get(name) is not None and not recording
        if name in plan.numbers:
            value = torch.tensor(float(value), dtype=torch.float64, device="cpu")
        if name in plan.numbers or (name in plan.writes and plan.formula.shapes[name] in TORCH):
            _set(state, name, value, there)
        elif name in plan.writes:
            if not there:
                state[name] = torch.empty_like(p, memory_format=torch.preserve_format)
            _store(state[name], index, value)
    _store(p, index, new_p)
    if plan.extras.average:
        _average(plan, p, state, own)
    return _norms(p, before) if plan.extras.norms else {}


def share(
    plan: Plan,
    p: Tensor,
    state: dict[str, Any],
    group: Mapping[str, Any],
    step: int,
    scale: float | Tensor,
    own: Mapping[str, Any],
    wanted: str,
) -> float:
    """Return one parameter's share of a total, the totals before it being known in `own`."""
    assert p.grad is not None
    found = []
    names = iter(plan.totals)

    def answer(x: Any) -> float:
        name = next(names)
        if name == wanted and isinstance(x, Tensor):
            found.append(float(gathered(x.sum(dtype=torch.float64))))
        elif name == wanted:  # a number, the same for each element
            found.append(float(x) * p.numel())
        return own.get(name, math.nan)

    with totals(answer):
        _run(plan, _computed(p), _computed(p.grad), None, state, group, step, scale, own)
    return found[0]


def _applied(
    plan: Plan, here: Tensor, g: Tensor, index: rows.Index, state: dict[str, Any],
    group: Mapping[str, Any], step: int, scale: float | Tensor, own: Mapping[str, Any],
) -> tuple[list[Any], tuple[Any, ...]]:  # fmt: skip
    """Call the formula; return the states of before and what it returns."""
    names = iter(plan.totals)
    with totals(lambda x: own[next(names)]) if plan.totals else contextlib.nullcontext():
        return _run(plan, here, _computed(g), index, state, group, step, scale, own)


def _run(
    plan: Plan, here: Tensor, g: Tensor, index: rows.Index, state: dict[str, Any],
    group: Mapping[str, Any], step: int, scale: float | Tensor, own: Mapping[str, Any],
) -> tuple[list[Any], tuple[Any, ...]]:  # fmt: skip
    formula = plan.formula
    if scale != 1:
        g = g * scale
    if plan.extras.clip_value:
        g = g.clamp(-own["clip_value"], own["clip_value"])
    old = [_old(formula, name, state.get(name), index) for name in formula.states]
    hyperparameters = {name: group[name] for name in formula.hyperparameters}
    if formula.counts:
        hyperparameters["step"] = step
    new = formula(here, g, *old, **hyperparameters)
    return old, new if formula.states else (new,)


def _old(formula: Formula, name: str, value: Tensor | None, index: rows.Index) -> Any:
    """Return a state as the formula takes it: a number, or as its elements are computed."""
    if name in formula.numbers:
        if value is None:
            return None if name in formula.tested else 0.0
        return float(value)
    return None if value is None else _computed(_at(value, index))


def _set(state: dict[str, Any], name: str, value: Tensor, there: bool) -> None:
    """Store a state of another shape than p's, in its own memory where it has some."""
    if there:
        state[name].copy_(spread(value, like=state[name]))
    else:
        state[name] = value.clone()


def _average(plan: Plan, p: Tensor, state: dict[str, Any], own: Mapping[str, Any]) -> None:
    """Let the new p enter its average."""
    count = float(state[COUNT]) + 1
    weight = 1 / count
    if plan.extras.average == "ema" and count > 1:
        weight = 1 - own["average_decay"]
    with torch.no_grad():
        average = state[AVERAGE]
        average.lerp_(p.detach().to(average.dtype), weight)  # p may have been cast since
        state[COUNT].fill_(count)


def _norms(p: Tensor, before: Tensor) -> dict[str, float]:
    """Return the sums of squares of gradient, parameter and update, and what is not finite.

    Those of a DTensor are of the part that this process has: whoever asks sums them up once.
    """
    assert p.grad is not None
    new, before, g = (getattr(t.detach(), "_local_tensor", t.detach()) for t in (p, before, p.grad))
    g = g.coalesce().values() if g.is_sparse else g
    there = {"gradient": g, "parameter": new, "update": new - before}
    sums = {name: float(norm(_computed(t))) ** 2 for name, t in there.items()}
    return {**sums, "nonfinite": float((~torch.isfinite(g)).sum())}


def _at(t: Tensor, index: rows.Index) -> Tensor:
    """Return a tensor's rows, or itself."""
    return t if index is None else t[index]


def _computed(t: Tensor) -> Tensor:
    """Return a tensor as the formula computes with it: dense, real, at least float32."""
    if t.layout is not torch.strided:
        t = t.to_dense()
    if t.is_complex():
        t = torch.view_as_real(t.resolve_conj())
    return t.to(COMPUTED_IN.get(t.dtype, t.dtype))


def _store(t: Tensor, index: rows.Index, value: Any) -> None:
    """Write a computed value, or one number, into a tensor's own memory."""
    t = torch.view_as_real(t) if t.is_complex() else t
    if index is None:
        t.copy_(spread(value, like=t) if isinstance(value, Tensor) and value.ndim else value)
    else:
        t[index] = value.to(t.dtype) if isinstance(value, Tensor) else value
