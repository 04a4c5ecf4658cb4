"""Staged: a launch of several kernels, with sums over tensors and torch's words between them.

A plan whose words are all summed by kernels runs stage by stage over all tensors at once. One in
which torch has a word runs tensor by tensor: what is handed to torch then needs memory for the
largest tensor alone, and is still in the cache when the next kernel reads it.
"""

import ast
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import steepest.kernels.job as J
from steepest.formula import Plan
from steepest.formula.shapes import COLUMN, FULL, ROW, TORCH
from steepest.formula.stages import Stage, word_of
from steepest.formula.whole import FACTS, WHOLE
from steepest.formula.words import WORDS, inverse
from steepest.kernels import cpu

if TYPE_CHECKING:
    from steepest.kernels.launch import Launch

SCOPE: dict[str, Any] = {
    **WORDS, **FACTS, **{name: whole.function for name, whole in WHOLE.items()},
    "_inverse": inverse, "__builtins__": {},
}  # fmt: skip
"""What torch's lines may call."""


def needs_stages(plan: Plan) -> bool:
    """Tell whether one kernel alone does not do."""
    return len(plan.stages) > 1 or bool(plan.stages[0].sums) or plan.stages[0].torch is not None


def why_not_matrix(plan: Plan, p: Tensor) -> str | None:
    """Say why no kernel can meet a tensor's rows and columns; None when it can, or need not."""
    if p.is_contiguous() or all(plan.shapes.get(name, FULL) == FULL for name in plan.arrays):
        return None
    return "its formula has values for rows and columns, and it is not contiguous"


class Staged:
    """The kernels of a launch's stages, and the numbers and tensors that pass between them."""

    def __init__(self, launch: "Launch", dtype: torch.dtype) -> None:
        plan, job = launch.plan, launch.job
        self.launch, self.plan, self.job, self.dtype = launch, plan, job, dtype
        self.depth = len(plan.stages)
        self.kernels = [
            None if stage.idle and k < self.depth - 1 else cpu.kernel(plan, dtype, k)
            for k, stage in enumerate(plan.stages)
        ]
        self.by_row = any(stage.torch is not None for stage in plan.stages)
        width = max(len(stage.sums) for stage in plan.stages)
        self.sums = job.point(J.SUMS, np.zeros(job.chunk_count * width))
        self.first = np.flatnonzero(job.arrays[J.CHUNKS][:, 1] == 0)
        self.last = np.append(self.first[1:], job.chunk_count)
        self.lengths = job.sizes // dtype.itemsize
        self.words = {name: word_of(expr) for name, expr in plan.lines}
        self.wholes = job.point(J.WHOLES, np.zeros((len(self.first), len(plan.wholes))))
        job[J.WHOLE_WIDTH] = len(plan.wholes)
        self.summed: dict[str, np.ndarray] = {}
        """The sums over each row by name; those of the last stage are the norms' squares."""
        sides = [(p.shape[-2] if p.ndim > 1 else 1, p.shape[-1] if p.ndim else 1)
                 for p in launch.params]  # fmt: skip
        job.point(J.MATRICES, np.array(sides, np.int64))
        self.handed = self._make_room() if self.by_row else []

    def _make_room(self) -> list[dict[str, Tensor]]:
        """Make tensors for what is handed to torch, in the shape of each row's parameter."""
        given = {n for stage in self.plan.stages[:-1] for n in stage.stores}
        size = max(self.lengths, default=0)
        rooms = {name: torch.empty(int(size), dtype=self.dtype) for name in given}
        result = []
        for r, p in enumerate(self.launch.params):
            views = {n: t[: p.numel()].as_strided(p.shape, p.stride()) for n, t in rooms.items()}
            for name, view in views.items():
                self._set_address(r, name, view)
            result.append(views)
        return result

    def _set_address(self, r: int, name: str, t: Tensor) -> None:
        self.job.arrays[J.ROWS][r, J.P + self.plan.arrays.index(name)] = t.data_ptr()

    # ---- all tensors at once ------------------------------------------------------------------

    def read(self, k: int) -> dict[str, float]:
        """Run a stage that only reads; return this launch's share of the totals."""
        kernel, stage = self.kernels[k], self.plan.stages[k]
        if self.by_row or kernel is None:
            return {}
        self.job.run(kernel)
        sums = self._sum_up(stage)
        for name, values in sums.items():
            if name in self.plan.wholes:
                self.wholes[:, self.plan.wholes.index(name)] = self._finished(
                    name, values, self.lengths
                )
        return {name: float(sums[name].sum()) for name in self.plan.totals if name in sums}

    def run(self) -> None:
        """Run the last stage, which writes; where torch has a word, every stage."""
        if self.by_row:
            with torch.no_grad():
                r = itertools.count()
                for part in self.launch.parts:
                    for k in range(len(part.params)):
                        self._run_row(next(r), part, k)
            return
        kernel = self.kernels[-1]
        assert kernel is not None
        self.job.run(kernel)
        if self.plan.stages[-1].sums:
            self.summed = self._sum_up(self.plan.stages[-1])

    def _sum_up(self, stage: Stage) -> dict[str, np.ndarray]:
        """Add up what chunks have summed, in their order, for each row."""
        count = len(stage.sums)
        chunks = self.sums[: self.job.chunk_count * count].reshape(-1, count)
        rows = np.add.reduceat(chunks, self.first, axis=0)
        return {name: rows[:, j] for j, name in enumerate(stage.sums)}

    def _finished(self, name: str, values: Any, lengths: Any) -> Any:
        """Make a norm of a sum of squares, a mean of a sum."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(values) if self.words[name] == "norm" else np.divide(values, lengths)

    # ---- tensor by tensor ---------------------------------------------------------------------

    def _run_row(self, r: int, part: Any, k: int) -> None:
        """Run every stage for one tensor."""
        plan, p, entry = self.plan, part.params[k], part.entries[k]
        names = (*plan.numbers, *plan.scalars, *plan.objects)
        values: dict[str, Any] = dict(zip(names, part.values, strict=True))
        values |= {"p": p, **dict(zip(plan.states, part.states[k], strict=True)), **entry}
        values |= self.handed[r]
        for stage, kernel in zip(plan.stages, self.kernels, strict=True):
            if stage.torch is not None:
                exec(stage.torch, SCOPE, values)
            if kernel is None:
                continue
            for name in stage.reads:
                if name not in ("p", "g", "_g", *plan.states):
                    values[name] = self._met(name, values[name], p)
                    self._set_address(r, name, values[name])
            first, last = int(self.first[r]), int(self.last[r])
            self.job.run_row(kernel, first, last, p.numel())
            self._sum_row(stage, r, first, last, values)
        for name, expr in plan.outputs.items():
            if plan.formula.shapes.get(name) in TORCH:
                _keep(entry, name, values[ast.unparse(expr)])

    def _sum_row(self, stage: Stage, r: int, first: int, last: int, values: dict) -> None:
        count = len(stage.sums)
        if not count:
            return
        sums = self.sums[first * count : last * count].reshape(-1, count).sum(axis=0)
        for name, value in zip(stage.sums, sums, strict=True):
            if name in self.words:
                done = self._finished(name, value, self.lengths[r])
                values[name] = float(done)
                if name in self.plan.wholes:
                    self.wholes[r, self.plan.wholes.index(name)] = done
            else:
                self.summed.setdefault(name, np.zeros(len(self.first)))[r] = value

    def _met(self, name: str, t: Tensor, p: Tensor) -> Tensor:
        """Return a tensor of torch's as a kernel meets it beside p: its dtype, shape and order."""
        shape = p.shape
        if self.plan.shapes[name] == ROW:
            shape = (*shape[:-1], 1)
        elif self.plan.shapes[name] == COLUMN:
            shape = (*shape[:-2], 1, *shape[-1:])
        if t.dtype is self.dtype and t.shape == shape:
            if t.is_contiguous() and p.is_contiguous():
                return t
            if self.plan.shapes[name] == FULL and t.stride() == p.stride():
                return t
        t = t.expand(shape)
        if self.plan.shapes[name] == FULL:
            return torch.empty_like(p, memory_format=torch.preserve_format).copy_(t)
        return t.to(self.dtype).contiguous()


def _keep(entry: dict[str, Any], name: str, value: Tensor) -> None:
    """Store a state that torch has computed, in its own memory where it has some."""
    old = entry.get(name)
    if old is not None and old.shape == value.shape:
        old.copy_(value)
    else:
        entry[name] = value.clone()
