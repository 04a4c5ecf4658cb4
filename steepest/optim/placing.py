"""Placing: which kernel serves which parameter, and which of them the reference updates."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from steepest.errors import KernelError
from steepest.formula import Formula, Plan, plan
from steepest.formula.extras import COUNT
from steepest.kernels.launch import Part
from steepest.kernels.staged import why_not_matrix
from steepest.kernels.tensors import why_not, why_not_counter
from steepest.optim.around import Around
from steepest.optim.shards import Shards, is_shard, local, place, why_not_shard


class Row(NamedTuple):
    """One parameter that the reference updates."""

    plan: Plan
    p: Tensor
    group: dict[str, Any]


class Placing:
    """The parameters of an update, each in a part of a launch, a row of the reference, or idle.

    Attributes:
        parts: what kernels serve, by plan, dtype and whatever else a launch or a part shares.
        rows: what the reference updates.
        idle: the parameters without a gradient.
        first: states that this step makes, entered once it has run; the next step has another
            plan.
        numbers: groups with tensors among their hyperparameters, and their copies with numbers.
        shards: the parts here of DTensors; None where there are none.
    """

    def __init__(
        self,
        formulas: list[Formula],
        groups: list[dict[str, Any]],
        state: Any,
        around: Around,
        only: Tensor | None,
    ) -> None:
        self.state = state
        self.around = around
        self.parts: dict[tuple, Part] = {}
        self.rows: list[Row] = []
        self.idle: list[Tensor] = []
        self.first: dict[Tensor, list[tuple[str, Tensor]]] = {}
        self.numbers: list[tuple[dict[str, Any], dict[str, Any]]] = []
        params = [p for group in groups for p in group["params"]] if only is None else [only]
        self.shards = Shards(params) if any(map(is_shard, params)) else None
        for k, group in enumerate(map(self._numbered, groups)):
            for p in group["params"] if only is None else [only]:
                if p.grad is None:
                    self.idle.append(p)
                else:
                    self._place(k, formulas[k], group, p)

    def _place(self, k: int, formula: Formula, group: dict[str, Any], p: Tensor) -> None:
        """Put a parameter into the part of a kernel, or among the reference's rows."""
        entry = self.state.get(p, {})
        step = int(entry.get("step", 0))
        absent = frozenset(s for s in formula.tested if entry.get(s) is None)
        known = (*formula.numbers, COUNT)
        numbers = {s: float(entry[s]) for s in known if entry.get(s) is not None}
        own = {**dict(self.around.given), **numbers, "p": p}
        chosen = plan(formula, group, step + 1, absent, own, self.around.extras)
        if formula.counts or chosen.states or chosen.numbers or chosen.writes:
            entry = self.state[p]
        states = self._states(chosen, p, entry)
        held = self._held(chosen, p, entry)
        counter = entry["step"] if formula.counts else None
        reason = self._refusal(chosen, group, p, states, counter)
        if reason is not None:
            self.refer(chosen, p, group, reason)
            return
        shape = p.shape if chosen.shaped else None
        key = (chosen, p.dtype, place(p), k, step, shape, tuple(map(repr, numbers.items())))
        part = self.parts.setdefault(key, Part(group, step, own))
        if self.shards is not None:
            p, states = self.shards.take(p, states)
        part.params.append(p)
        part.states.append(states)
        part.counters.append(counter)
        part.numbers.append(held)
        part.entries.append(entry)

    def _numbered(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return a group to take the hyperparameters from: numbers, even where tensors hold them.

        Scalars are computed in float64, and a tensor's arithmetic costs microseconds.
        """
        numbers = numbers_of(group)
        if not numbers or group.get("differentiable"):
            return group
        copy = {**group, **numbers}
        self.numbers.append((group, copy))
        return copy

    def _states(self, chosen: Plan, p: Tensor, entry: dict[str, Any]) -> tuple[Tensor, ...]:
        """Return the states that a plan touches, made where they are not there yet."""
        if chosen.formula.counts and not isinstance(entry.get("step"), Tensor):
            entry["step"] = torch.tensor(entry.get("step", 0), dtype=torch.float32, device="cpu")
        for name in chosen.states:
            if name in chosen.reads and entry.get(name) is None:
                entry[name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        made = [name for name in chosen.states if entry.get(name) is None]
        if made:
            empty = [torch.empty_like(p, memory_format=torch.preserve_format) for _ in made]
            self.first[p] = list(zip(made, empty, strict=True))
        new = dict(self.first.get(p, ()))
        return tuple(new[name] if name in new else entry[name] for name in chosen.states)

    def _held(self, chosen: Plan, p: Tensor, entry: dict[str, Any]) -> tuple[Tensor, ...]:
        """Return the tensors of a plan's states of one number, made where they are not there."""
        held = []
        for name in chosen.numbers:
            value = entry.get(name)
            if not isinstance(value, Tensor) or value.dtype is not torch.float64:
                start = 0.0 if value is None else float(value)
                value = torch.tensor(start, dtype=torch.float64, device="cpu")
                if name in chosen.absent:
                    self.first.setdefault(p, []).append((name, value))
                else:
                    entry[name] = value
            held.append(value)
        return tuple(held)

    def _refusal(
        self,
        chosen: Plan,
        group: dict[str, Any],
        p: Tensor,
        states: tuple[Tensor, ...],
        counter: Tensor | None,
    ) -> str | None:
        if group.get("fused") is False:
            return "fused=False asks for the reference"
        if group.get("differentiable"):
            return "differentiable=True records the step, which a kernel cannot"
        assert p.grad is not None
        if chosen.untouched:
            name = min(chosen.untouched)
            return f"its {name!r} has a value for rows or columns that no word computes in a step"
        reason = why_not_shard(chosen, p, states) or why_not_matrix(chosen, p)
        reason = reason or why_not(local(p), *map(local, (p.grad, *states)))
        return why_not_counter(counter) if reason is None and counter is not None else reason

    def refer(self, chosen: Plan, p: Tensor, group: dict[str, Any], reason: str) -> None:
        """Leave a parameter to the reference, or raise where its group insists on a kernel."""
        if group.get("fused"):
            raise KernelError(
                f"{chosen.formula.name}: fused=True, but no kernel can serve a parameter of shape "
                f"{tuple(p.shape)}: {reason}; leave fused=None to have the reference update it"
            )
        self.first.pop(p, None)
        self.rows.append(Row(chosen, p, group))


def numbers_of(group: dict[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters that are tensors, as numbers."""
    found = {}
    for name, value in group.items():
        if name != "params":
            if isinstance(value, Tensor):
                found[name] = value.item()
            elif isinstance(value, tuple) and any(isinstance(x, Tensor) for x in value):
                found[name] = tuple(float(x) for x in value)
    return found
