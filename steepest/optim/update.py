"""Update: what one step of an optimizer does, worked out once and checked at every step.

Parameters with a gradient are sorted into launches of the kernels (one per plan and dtype) and
rows of the reference; the result serves until something that it was made from has changed.
"""

import math
from collections.abc import Iterator
from operator import is_
from typing import Any

import torch
from torch import Tensor

from steepest.errors import KernelError
from steepest.formula import Formula, Plan, plan
from steepest.kernels import reference
from steepest.kernels.launch import Launch, Part, lies_within, share_memory
from steepest.kernels.tensors import why_not, why_not_counter


class Update:
    """The launches and reference rows over all param groups, for one pattern of gradients.

    Args:
        formula: the optimizer's formula.
        groups: its param groups.
        state: its state by parameter; states that the plans read are made here.

    Raises:
        KernelError: a group insists on `fused=True` where no kernel can serve.
    """

    def __init__(self, formula: Formula, groups: list[dict[str, Any]], state: Any) -> None:
        self.formula = formula
        self.state = state
        self.groups = groups
        self.seen = [
            (group, list(group["params"]), group.get("fused"), group["differentiable"])
            for group in groups
        ]
        self.idle: list[Tensor] = []
        self.launches: list[Launch] = []
        self.rows: list[tuple[Plan, Tensor, dict[str, Any]]] = []
        self.first: dict[Tensor, list[tuple[str, Tensor]]] = {}
        """States that this step makes, entered once it has run; the next step has another plan."""
        self.numbers: list[tuple[dict[str, Any], dict[str, Any]]] = []
        """Groups with tensors among their hyperparameters, and their copies with numbers."""
        parts: dict[tuple, Part] = {}
        for k, group in enumerate(map(self._numbered, groups)):
            for p in group["params"]:
                if p.grad is None:
                    self.idle.append(p)
                else:
                    self._place(k, group, p, parts)
        self._launch(parts)
        made = any(plan.absent.intersection(plan.writes) for plan in self._plans())
        self.lasting = not made and not self.first
        plain = len(self.launches) == 1 and not self.rows and self.lasting
        self.single: Launch | None = self.launches[0] if plain else None
        self.norm: float | None = None

    # ---- working it out -----------------------------------------------------------------------

    def _place(self, k: int, group: dict[str, Any], p: Tensor, parts: dict[tuple, Part]) -> None:
        """Put a parameter into the part of a kernel, or among the reference's rows."""
        own = self.state.get(p, {})
        step = int(own.get("step", 0))
        absent = frozenset(s for s in self.formula.tested if own.get(s) is None)
        chosen = plan(self.formula, group, step + 1, absent)
        if self.formula.counts or chosen.states:
            own = self.state[p]
        states = self._states(chosen, p, own)
        counter = own["step"] if self.formula.counts else None
        reason = self._refusal(group, p, states, counter)
        if reason is not None:
            self._refer(chosen, p, group, reason)
            return
        part = parts.setdefault((chosen, p.dtype, k, step), Part(group, step))
        part.params.append(p)
        part.states.append(states)
        part.counters.append(counter)

    def _numbered(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return a group to take the hyperparameters from: numbers, even where tensors hold them.

        Scalars are computed in float64, and a tensor's arithmetic costs microseconds.
        """
        numbers = _numbers(group)
        if not numbers or group["differentiable"]:
            return group
        copy = {**group, **numbers}
        self.numbers.append((group, copy))
        return copy

    def _states(self, chosen: Plan, p: Tensor, own: dict[str, Any]) -> tuple[Tensor, ...]:
        """Return the states that a plan touches, made where they are not there yet."""
        if self.formula.counts and not isinstance(own.get("step"), Tensor):
            own["step"] = torch.tensor(own.get("step", 0), dtype=torch.float32, device="cpu")
        for name in chosen.reads:
            if own.get(name) is None:
                own[name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        made = [name for name in chosen.states if own.get(name) is None]
        if made:
            empty = [torch.empty_like(p, memory_format=torch.preserve_format) for _ in made]
            self.first[p] = list(zip(made, empty, strict=True))
        new = dict(self.first.get(p, ()))
        return tuple(new[name] if name in new else own[name] for name in chosen.states)

    def _refusal(
        self,
        group: dict[str, Any],
        p: Tensor,
        states: tuple[Tensor, ...],
        counter: Tensor | None,
    ) -> str | None:
        if group.get("fused") is False:
            return "fused=False asks for the reference"
        if group["differentiable"]:
            return "differentiable=True records the step, which a kernel cannot"
        assert p.grad is not None
        reason = why_not(p, p.grad, *states)
        return why_not_counter(counter) if reason is None and counter is not None else reason

    def _refer(self, chosen: Plan, p: Tensor, group: dict[str, Any], reason: str) -> None:
        if group.get("fused"):
            raise KernelError(
                f"{self.formula.name}: fused=True, but no kernel can serve a parameter of shape "
                f"{tuple(p.shape)}: {reason}; leave fused=None to have the reference update it"
            )
        self.first.pop(p, None)
        self.rows.append((chosen, p, group))

    def _launch(self, parts: dict[tuple, Part]) -> None:
        together: dict[tuple, list[Part]] = {}
        for (chosen, dtype, _, _), part in parts.items():
            together.setdefault((chosen, dtype), []).append(part)
        launches = [Launch(chosen, dtype, parts) for (chosen, dtype), parts in together.items()]
        if not share_memory(launches, self._referred()):
            self.launches = launches
            if self._rows_are_current():
                return
            self.launches = []
        for (chosen, *_), part in parts.items():
            for p in part.params:
                self._refer(chosen, p, part.group, "it shares memory with another tensor")
        order = {p: k for k, p in enumerate(p for g in self.groups for p in g["params"])}
        self.rows.sort(key=lambda row: order[row[1]])

    def _referred(self) -> Iterator[Tensor]:
        """Return the tensors that the reference updates."""
        for _, p, _ in self.rows:
            yield p
            yield from (s for s in self.state.get(p, {}).values() if isinstance(s, Tensor))

    def _plans(self) -> Iterator[Plan]:
        yield from (launch.plan for launch in self.launches)
        yield from (chosen for chosen, _, _ in self.rows)

    # ---- at every step ------------------------------------------------------------------------

    def step(self, groups: list[dict[str, Any]], scale: float, clip_norm: float | None) -> bool:
        """Make one step, all gradients times `scale`; False, and no change, when this is stale.

        With `clip_norm`, `norm` holds the norm of all scaled gradients afterwards.
        """
        if not self._is_current(groups):
            return False
        for group, copy in self.numbers:
            copy.update(group, **_numbers(group))
        if clip_norm is None and self.single is not None:
            return self.single.prepare(scale) and self.single.run_if_fits()
        for launch in self.launches:
            if not launch.fits():
                return False
        if clip_norm is not None:
            self.norm = self._norm() * scale
            factor = clip_norm / (self.norm + 1e-6)
            scale *= 1.0 if factor > 1 else factor  # NaN stays NaN, as in clip_grad_norm_
        if not self._prepare(scale):
            return False
        self._run(scale)
        return True

    def _is_current(self, groups: list[dict[str, Any]]) -> bool:
        """Tell whether groups, parameters and missing gradients are those this was made of."""
        if len(groups) != len(self.seen):
            return False
        for k, (seen, params, fused, differentiable) in enumerate(self.seen):
            group = groups[k]
            if group.get("fused") is not fused or group["differentiable"] is not differentiable:
                return False
            now = group["params"]
            if group is not seen or len(now) != len(params) or not all(map(is_, now, params)):
                return False
        for p in self.idle:
            if p.grad is not None:
                return False
        return self._rows_are_current() if self.rows else True

    def _rows_are_current(self) -> bool:
        """Tell whether the reference's rows have gradients, none in memory that a kernel writes."""
        for _, p, _ in self.rows:
            if p.grad is None or (self.launches and lies_within(self.launches[0], p.grad)):
                return False
        return True

    def _prepare(self, scale: float) -> bool:
        """Compute every launch's scalars; False when a host decision no longer holds."""
        for launch in self.launches:
            if not launch.prepare(scale):
                return False
        return all(chosen.host(group, self._count(p)) is not None for chosen, p, group in self.rows)

    def _run(self, scale: float) -> None:
        for launch in self.launches:
            launch.run()
        for chosen, p, group in self.rows:
            own, step = self.state.get(p, {}), self._count(p)
            signed = -scale if group["maximize"] else scale
            with torch.set_grad_enabled(group["differentiable"]):
                reference.update(chosen, p, own, group, step, signed)
            if self.formula.counts:
                own["step"].fill_(step)
        for p, made in self.first.items():
            self.state[p].update(made)

    def _count(self, p: Tensor) -> int:
        return int(self.state.get(p, {}).get("step", 0)) + 1

    def _norm(self) -> float:
        """Return the Euclidean norm of all gradients together, in float64."""
        total = 0.0
        for launch in self.launches:
            total += launch.job.squares()
        for _, p, _ in self.rows:
            assert p.grad is not None
            g = p.grad.coalesce().values() if p.grad.is_sparse else p.grad
            total += float(torch.linalg.vector_norm(g.detach(), dtype=_WIDE.get(g.dtype))) ** 2
        return math.sqrt(total)


_WIDE = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float32: torch.float64}


def _numbers(group: dict[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters that are tensors, as numbers."""
    found = {}
    for name, value in group.items():
        if name != "params":
            if isinstance(value, Tensor):
                found[name] = value.item()
            elif isinstance(value, tuple) and any(isinstance(x, Tensor) for x in value):
                found[name] = tuple(float(x) for x in value)
    return found
