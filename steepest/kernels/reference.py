"""The reference: a formula run by torch, tensor by tensor.

It is the meaning of the kernels, and serves what they do not: other dtypes, devices and layouts,
sparse gradients, tensors that share memory, `differentiable=True`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from steepest.formula import Plan
from steepest.kernels import rows

_COMPUTED_IN = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
"""Half precision is computed in float32 and rounded once, when it is stored."""


def update(
    plan: Plan,
    p: Tensor,
    state: dict[str, Any],
    group: Mapping[str, Any],
    step: int,
    scale: float | Tensor,
) -> None:
    """Update one parameter and its states in place by its formula.

    Where autograd records, states are replaced instead: their old values may be needed again.

    Args:
        plan: says which states the formula touches.
        p: the parameter, with a gradient of any layout.
        state: its states by name, made where the plan reads them; new ones are added.
        group: the hyperparameters.
        step: the update being made, 1 for the first.
        scale: multiplies the gradient.
    """
    formula = plan.formula
    assert p.grad is not None
    recording = torch.is_grad_enabled()
    index, g = (None, p.grad) if recording else rows.of_gradient(plan, p.grad)
    g = _computed(g)
    if scale != 1:
        g = g * scale
    old = [
        None if (s := state.get(n)) is None else _computed(_at(s, index)) for n in formula.states
    ]
    hyperparameters = {name: group[name] for name in formula.hyperparameters}
    if formula.counts:
        hyperparameters["step"] = step
    here = _computed(p.clone() if recording else _at(p, index))
    new = formula(here, g, *old, **hyperparameters)
    given = {id(t) for t in (here, *old) if t is not None}
    new_p, *new_states = (
        value.clone() if id(value) in given and value is not mine else value
        for value, mine in zip(new if formula.states else (new,), (here, *old), strict=True)
    )  # a value may be another's old memory, which is about to be written
    for name, value in zip(formula.states, new_states, strict=True):
        if name in plan.writes:
            if state.get(name) is None or recording:
                state[name] = torch.empty_like(p, memory_format=torch.preserve_format)
            _store(state[name], index, value)
    _store(p, index, new_p)


def _at(t: Tensor, index: rows.Index) -> Tensor:
    """Return a tensor's rows, or itself."""
    return t if index is None else t[index]


def _computed(t: Tensor) -> Tensor:
    """Return a tensor as the formula computes with it: dense, real, at least float32."""
    if t.layout is not torch.strided:
        t = t.to_dense()
    if t.is_complex():
        t = torch.view_as_real(t.resolve_conj())
    return t.to(_COMPUTED_IN.get(t.dtype, t.dtype))


def _store(t: Tensor, index: rows.Index, value: Any) -> None:
    """Write a computed value, or one number, into a tensor's own memory."""
    t = torch.view_as_real(t) if t.is_complex() else t
    if index is None:
        t.copy_(value)
    else:
        t[index] = value.to(t.dtype) if isinstance(value, Tensor) else value
