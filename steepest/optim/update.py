"""Update: what one step of an optimizer does, worked out once and checked at every step.

Parameters with a gradient are sorted into launches of the kernels (one per plan and dtype) and
rows of the reference; the result serves until something that it was made from has changed.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from operator import is_
from typing import Any

import torch
from torch import Tensor

from steepest.formula import Formula, Plan
from steepest.formula.extras import COUNT
from steepest.formula.whole import WIDE
from steepest.kernels import reference
from steepest.kernels.launch import Launch, Part, gradients_meet, lies_within, share_memory
from steepest.optim import shared
from steepest.optim.around import Around
from steepest.optim.placing import Placing, Row, numbers_of
from steepest.optim.shards import local


class Update:
    """The launches and reference rows over all param groups, for one pattern of gradients.

    Args:
        formulas: the formula of each group.
        groups: the param groups.
        state: the state by parameter; states that the plans read are made here.
        around: what is done besides the formula.
        only: the parameter to update alone; None updates all.

    Raises:
        KernelError: a group insists on `fused=True` where no kernel can serve.
    """

    def __init__(
        self,
        formulas: list[Formula],
        groups: list[dict[str, Any]],
        state: Any,
        around: Around,
        only: Tensor | None = None,
    ) -> None:
        self.state = state
        self.groups = groups
        self.around = around
        self.only = only
        self.formulas = formulas
        shared.begin(formulas, groups, state)
        self.seen = [
            (group, list(group["params"]), group.get("fused"), group.get("differentiable"))
            for group in groups
        ]
        self.launches: list[Launch] = []
        self.placing = placing = Placing(formulas, groups, state, around, only)
        self.rows, self.idle, self.first = placing.rows, placing.idle, placing.first
        self.numbers, self.shards = placing.numbers, placing.shards
        with self.shards.lend() if self.shards is not None else nullcontext():
            self._launch(placing.parts)
        made = any(p.absent.intersection((*p.writes, *p.numbers)) for p in self._plans())
        self.lasting = not made and not self.first
        plain = len(self.launches) == 1 and not self.rows and self.lasting
        self.single: Launch | None = self.launches[0] if plain else None
        self.depth = max((len(plan.stages) for plan in self._plans()), default=0)
        self.norm: float | None = None
        self.skipped = False
        """Whether the last step found a gradient that is not finite, and changed nothing."""
        self.row_sums: list[dict[str, float]] = []
        self.scale = 1.0

    def _launch(self, parts: dict[tuple, Part]) -> None:
        together: dict[tuple, list[Part]] = {}
        for (chosen, dtype, where, *_), part in parts.items():
            together.setdefault((chosen, dtype, where), []).append(part)
        launches = [Launch(chosen, dtype, parts) for (chosen, dtype, _), parts in together.items()]
        if not share_memory(launches, self._referred()):
            self.launches = launches
            if self._rows_are_current() and not self._zeroes_too_early():
                return
            self.launches = []
        for (chosen, *_), part in parts.items():
            for p in part.params:
                whole = p if self.shards is None else self.shards.owner(p)
                self.placing.refer(
                    chosen, whole, part.group, "it shares memory with another tensor"
                )
        if self.shards is not None:
            self.shards.whole.clear()
        order = {p: k for k, p in enumerate(p for g in self.groups for p in g["params"])}
        self.rows.sort(key=lambda row: order[row.p])

    def _referred(self) -> Iterator[Tensor]:
        """Return the tensors that the reference updates."""
        for row in self.rows:
            yield local(row.p)
            states = self.state.get(row.p, {}).values()
            yield from (local(s) for s in states if isinstance(s, Tensor))

    def _plans(self) -> Iterator[Plan]:
        yield from (launch.plan for launch in self.launches)
        yield from (row.plan for row in self.rows)

    # ---- at every step ------------------------------------------------------------------------

    def step(self, groups: list[dict[str, Any]], scale: float, around: Around) -> bool:
        """Make one step, all gradients times `scale`; False, and no change, when this is stale.

        With `clip_norm`, `norm` holds the norm of all scaled gradients afterwards.
        """
        if around is not self.around and around.extras != self.around.extras:
            return False
        if not self._is_current(groups):
            return False
        if self.shards is not None and not self.shards.lent:
            return self._step_on_shards(groups, scale, around)
        for group, copy in self.numbers:
            copy.update(group, **numbers_of(group))
        reads_first = around.clip_norm is not None or around.skip_nonfinite
        if not reads_first and self.single is not None and self.depth == 1:
            self.scale = scale
            return self.single.prepare(scale, around.given) and self.single.run_if_fits()
        for launch in self.launches:
            if not launch.fits():
                return False
        if self._zeroes_too_early():
            return False
        given = dict(around.given)
        wanted = scale
        if reads_first:
            if self.shards is not None and not self._prepare(scale, given):
                return False  # before it meets the other processes, which meet once
            self.norm = self._norm() * scale
            self.skipped = around.skip_nonfinite and not self._all_finite()
            if self.skipped:
                self._let_go()
                return True
            scale = _clipped(scale, self.norm, around.clip_norm)
        if not self._prepare(scale, given):
            return False
        self._run(scale, given)
        self.scale = wanted
        return True

    def _step_on_shards(self, groups: list[dict[str, Any]], scale: float, around: Around) -> bool:
        """Make one step as `step` does, the parts here of all DTensors standing for them."""
        assert self.shards is not None
        with self.shards.lend() as fits:
            if not fits or not self.step(groups, scale, around):
                return False
            if not self.skipped:
                self.shards.written()
                if around.extras.norms:
                    self.shards.sum_up(self._sums_here())
        return True

    def _is_current(self, groups: list[dict[str, Any]]) -> bool:
        """Tell whether groups, parameters and missing gradients are those this was made of."""
        if len(groups) != len(self.seen):
            return False
        for k, (seen, params, fused, differentiable) in enumerate(self.seen):
            group = groups[k]
            if group.get("fused") is not fused or group.get("differentiable") is not differentiable:
                return False
            now = group["params"]
            if group is not seen or (
                self.only is None and (len(now) != len(params) or not all(map(is_, now, params)))
            ):
                return False
        for p in self.idle:
            if p.grad is not None:
                return False
        return self._rows_are_current() if self.rows else True

    def _rows_are_current(self) -> bool:
        """Tell whether the reference's rows have gradients, none in memory that a kernel writes."""
        for row in self.rows:
            g = row.p.grad
            if g is None or (self.launches and lies_within(self.launches[0], local(g))):
                return False
        return True

    def _zeroes_too_early(self) -> bool:
        """Tell whether a launch would set a gradient to zero that another, or a row, is to read."""
        if not self.around.extras.zero_grad or len(self.launches) + len(self.rows) < 2:
            return False
        rows = (local(row.p.grad) for row in self.rows if row.p.grad is not None)
        return bool(self.launches) and gradients_meet(self.launches, rows)

    def _prepare(self, scale: float, given: Mapping[str, float]) -> bool:
        """Compute every launch's scalars; False when a host decision no longer holds."""
        for launch in self.launches:
            if not launch.prepare(scale, given):
                return False
        for row in self.rows:
            own = {**given, **self._own(row)}
            if row.plan.host(row.group, self._count(row.p), own) is None:
                return False
        return True

    def _own(self, row: Row) -> dict[str, Any]:
        """Return what a reference row's host function takes besides."""
        entry = self.state.get(row.p, {})
        known = (*row.plan.formula.numbers, COUNT)
        return {"p": row.p} | {s: float(entry[s]) for s in known if entry.get(s) is not None}

    def _run(self, scale: float, given: dict[str, float]) -> None:
        for k in range(self.depth - 1):
            self._read(k, scale, given)
        for launch in self.launches:
            launch.run()
        self.row_sums = []
        for row in self.rows:
            entry, step = self.state.get(row.p, {}), self._count(row.p)
            signed = -scale if row.group.get("maximize") else scale
            with torch.set_grad_enabled(bool(row.group.get("differentiable"))):
                sums = reference.update(row.plan, row.p, entry, row.group, step, signed, given)
            self.row_sums.append(sums)
            if row.plan.formula.counts:
                entry["step"].fill_(step)
        for row in self.rows:
            if row.plan.extras.zero_grad and row.p.grad is not None:
                row.p.grad.zero_()
        for p, made in self.first.items():
            self.state[p].update(made)
        if self.idle:
            shared.tell(self.formulas, self.groups, self.state)

    def _read(self, k: int, scale: float, given: dict[str, float]) -> None:
        """Run a stage that only reads; make the totals over all parameters known."""
        totals: dict[str, float] = {}
        for launch in self.launches:
            if launch.staged is not None and k < launch.staged.depth - 1:
                for name, value in launch.staged.read(k).items():
                    totals[name] = totals.get(name, 0.0) + value
        for row in self.rows:
            sums = row.plan.stages[k].sums if k < len(row.plan.stages) else {}
            for name in filter(sums.__contains__, row.plan.totals):  # in every process's order
                signed = -scale if row.group.get("maximize") else scale
                with torch.no_grad():
                    share = reference.share(
                        row.plan, row.p, self.state.get(row.p, {}), row.group,
                        self._count(row.p), signed, given, name,
                    )  # fmt: skip
                totals[name] = totals.get(name, 0.0) + share
        if totals:
            for name, value in totals.items():  # groups may sum theirs at different stages
                given[name] = given.get(name, 0.0) + value
            for launch in self.launches:
                launch.prepare(scale, given)

    def sums(self) -> Iterator[tuple[Tensor, Mapping[str, float]]]:
        """Return each parameter with what the last step has summed over it for the norms."""
        yield from self._sums_here() if self.shards is None else self.shards.sums

    def _sums_here(self) -> Iterator[tuple[Tensor, Mapping[str, float]]]:
        for launch in self.launches:
            assert launch.staged is not None
            for r, p in enumerate(launch.params):
                yield p, {name: values[r] for name, values in launch.staged.summed.items()}
        for row, sums in zip(self.rows, self.row_sums, strict=True):
            yield row.p, sums

    def _let_go(self) -> None:
        for launch in self.launches:
            launch.held = ()

    def _count(self, p: Tensor) -> int:
        return int(self.state.get(p, {}).get("step", 0)) + 1

    def _norm(self) -> float:
        """Return the Euclidean norm of all gradients together, in float64."""
        squares = [(launch.params[0], launch.job.squares()) for launch in self.launches]
        squares += [(row.p, _squares(row.p)) for row in self.rows]
        return math.sqrt(self._total(squares))

    def _total(self, shares: list[tuple[Tensor, float]]) -> float:
        """Return the sum of what parameters have, in whichever process their elements are."""
        if self.shards is not None:
            return self.shards.total(shares)
        return sum(share for _, share in shares)

    def _all_finite(self) -> bool:
        """Tell whether every gradient is finite, once their norm is known.

        Squares of float32 do not overflow in float64; those of float64 may, so they are looked at.
        """
        if self.norm is not None and math.isfinite(self.norm):
            return True
        params = [p for launch in self.launches for p in launch.params]
        params += [row.p for row in self.rows]
        return self._total([(p, float(not _is_finite(p))) for p in params]) == 0


def _squares(p: Tensor) -> float:
    """Return the sum of squares of a gradient, of what this process has of it."""
    assert p.grad is not None
    g = _dense(local(p.grad)).detach()
    return float(torch.linalg.vector_norm(g, dtype=WIDE.get(g.dtype))) ** 2


def _is_finite(p: Tensor) -> bool:
    return p.grad is None or bool(torch.isfinite(_dense(local(p.grad))).all())


def _dense(g: Tensor) -> Tensor:
    return g.coalesce().values() if g.is_sparse else g


def _clipped(scale: float, norm: float, bound: float | None) -> float:
    """Return the gradients' scale that bounds their norm; NaN stays NaN, as in clip_grad_norm_."""
    if bound is None:
        return scale
    factor = bound / (norm + 1e-6)
    return scale * (1.0 if factor > 1 else factor)
