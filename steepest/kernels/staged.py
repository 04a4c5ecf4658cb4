"""Staged: a launch of several kernels, with sums over tensors and torch's words between them.

A plan whose words kernels sum runs stage by stage over all tensors at once. One in which torch has
a word runs batch by batch: a large tensor alone, small ones of one shape together. What is handed
over then needs memory for the largest tensor alone, and is still in the cache when it is read.
"""

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import steepest.kernels.job as J
from steepest.formula import Plan
from steepest.formula.shapes import COLUMN, FULL, ROW, TORCH
from steepest.formula.stages import Stage, word_of
from steepest.formula.whole import FACTS, WHOLE
from steepest.formula.words import WORDS, inverse, maximum
from steepest.kernels import cpu
from steepest.kernels.batch import Batch, keep, room, stacked

if TYPE_CHECKING:
    from steepest.kernels.launch import Launch


def _at_least(a: Any, b: Any) -> Any:
    """Return `maximum(a, b)`, of a tensor and a number by one call of torch."""
    plain = isinstance(a, Tensor) and not isinstance(b, Tensor)
    return a.clamp(min=b) if plain else maximum(a, b)


SCOPE: dict[str, Any] = {
    **WORDS, **FACTS, "maximum": _at_least,
    **{name: whole.function for name, whole in WHOLE.items()},
    "_inverse": inverse, "__builtins__": {},
}  # fmt: skip
"""What torch's lines may call."""

TOGETHER: dict[str, Any] = {
    **SCOPE,
    "norm": lambda x: torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True),
    "mean": lambda x: x.mean(tuple(range(1, x.ndim)), keepdim=True),
}
"""The same for tensors that are stacked: one number for each of them."""

ROOM = 1 << 18
"""Elements up to which tensors of one shape are stacked: what is handed over stays in the cache."""


def needs_stages(plan: Plan) -> bool:
    """Tell whether one kernel alone does not do."""
    return len(plan.stages) > 1 or bool(plan.stages[0].sums) or plan.stages[0].torch is not None


def why_not_matrix(plan: Plan, p: Tensor) -> str | None:
    """Say why no kernel can meet a tensor's rows and columns; None when it can, or need not."""
    if p.is_contiguous() or all(plan.shapes.get(name, FULL) == FULL for name in plan.arrays):
        return None
    return "its formula has values for rows and columns, and it is not contiguous"


SHORT = 32
"""Elements of a matrix's row below which a loop of its own costs more than it saves."""


class Staged:
    """The kernels of a launch's stages, and the numbers and tensors that pass between them."""

    def __init__(self, launch: "Launch", dtype: torch.dtype) -> None:
        plan, job = launch.plan, launch.job
        self.launch, self.plan, self.job, self.dtype = launch, plan, job, dtype
        self.depth = len(plan.stages)
        self.kernels = self._kernels(spread=False)
        self.by_row = any(stage.torch is not None for stage in plan.stages)
        width = max(len(stage.sums) for stage in plan.stages)
        self.sums = job.point(J.SUMS, np.zeros(job.chunk_count * width))
        self.first = np.flatnonzero(job.arrays[J.CHUNKS][:, 1] == 0)
        self.last = np.append(self.first[1:], job.chunk_count)
        self.lengths = job.sizes // dtype.itemsize
        self.shares = np.array([1 / n if n else np.nan for n in self.lengths.tolist()])
        self.words = {name: word_of(expr) for name, expr in plan.lines}
        self.wholes = job.point(J.WHOLES, np.zeros((len(self.first), len(plan.wholes))))
        job[J.WHOLE_WIDTH] = len(plan.wholes)
        self.summed: dict[str, np.ndarray] = {}
        """The sums over each row by name; those of the last stage are the norms' squares."""
        sides = [(p.shape[-2] if p.ndim > 1 else 1, p.shape[-1] if p.ndim else 1)
                 for p in launch.params]  # fmt: skip
        job.point(J.MATRICES, np.array(sides, np.int64))
        self.names = (*plan.numbers, *plan.scalars, *plan.objects)
        known = ("p", "g", "_g", *plan.states)
        self.by_torch = [[n for n in stage.reads if n not in known] for stage in plan.stages]
        """What each stage reads of torch's."""
        self.kept = [
            (name, ast.unparse(expr))
            for name, expr in plan.outputs.items()
            if plan.formula.shapes.get(name) in TORCH
        ]
        """The states that torch computes, with their new values' names."""
        self.batches = list(self._batches()) if self.by_row else []
        if any(batch.spread for batch in self.batches):
            self.spread = self._kernels(spread=True)

    def _kernels(self, spread: bool) -> list[Any]:
        """Return the kernel of each stage; None where a stage has nothing to sum or to store."""
        return [
            None if stage.idle and k < self.depth - 1
            else cpu.kernel(self.plan, self.dtype, k, spread)
            for k, stage in enumerate(self.plan.stages)
        ]  # fmt: skip

    def _batches(self) -> Iterator[Batch]:
        """Cut the rows into batches, with room for what is handed to torch."""
        given = {name for stage in self.plan.stages[:-1] for name in stage.stores}
        size = max(ROOM, *self.lengths.tolist()) if len(self.lengths) else 0
        rooms = {name: torch.empty(size, dtype=self.dtype) for name in given}
        sided = any(self.plan.shapes.get(n) in (ROW, COLUMN) for n in self.plan.arrays)
        stacks = all(WHOLE[word].stacks for word in self.words.values() if word is not None)
        r = 0
        for part in self.launch.parts:
            k = 0
            while k < len(part.params):
                end = k + (self._alike(part.params[k:]) if stacks else 1)
                params = part.params[k:end]
                batch = Batch(
                    part, params, part.states[k:end], part.entries[k:end],
                    slice(r, r + len(params)), sum(p.numel() for p in params),
                    {name: room(there, params) for name, there in rooms.items()},
                    sided and part.params[k].shape[-1] < SHORT,
                )  # fmt: skip
                for name, view in batch.handed.items():
                    self._set_addresses(batch, name, view)
                yield batch
                r, k = r + len(params), end

    def _alike(self, params: list[Tensor]) -> int:
        """Return how many of the first parameters are of one shape, and small enough together."""
        most = max(1, ROOM // max(params[0].numel(), 1))
        for count, p in enumerate(params[:most]):
            if p.shape != params[0].shape or not p.is_contiguous():
                return max(count, 1)
        return min(len(params), most)

    def _set_addresses(self, batch: Batch, name: str, t: Tensor) -> None:
        """Tell the kernels where each row of a batch finds its part of a tensor."""
        place = J.P + self.plan.arrays.index(name)
        count = len(batch.params)
        if count == 1:
            self.job.arrays[J.ROWS][batch.rows.start, place] = t.data_ptr()
            return
        step = t.numel() // count * t.itemsize
        self.job.arrays[J.ROWS][batch.rows, place] = t.data_ptr() + np.arange(count) * step

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
                done = self._finished(name, values, slice(None))
                self.wholes[:, self.plan.wholes.index(name)] = done
        return {name: float(sums[name].sum()) for name in self.plan.totals if name in sums}

    def run(self) -> None:
        """Run the last stage, which writes; where torch has a word, every stage."""
        if self.by_row:
            with torch.no_grad():
                for batch in self.batches:
                    self._run_batch(batch)
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
        rows = chunks.copy()
        if len(chunks) > len(self.first):
            rows = np.add.reduceat(chunks, self.first, axis=0)
        return {name: rows[:, j] for j, name in enumerate(stage.sums)}

    def _finished(self, name: str, values: Any, rows: slice) -> Any:
        """Make a norm of a sum of squares, a mean of a sum."""
        return np.sqrt(values) if self.words[name] == "norm" else values * self.shares[rows]

    # ---- batch by batch -----------------------------------------------------------------------

    def _run_batch(self, batch: Batch) -> None:
        """Run every stage for the tensors of one batch."""
        values: dict[str, Any] = dict(zip(self.names, batch.part.values, strict=True))
        values |= batch.handed
        met: dict[str, Tensor] = {}  # alive as long as kernels read them
        first, last = int(self.first[batch.rows.start]), int(self.last[batch.rows.stop - 1])
        kernels = self.spread if batch.spread else self.kernels
        for k, stage in enumerate(self.plan.stages):
            if stage.torch is not None:
                self._take(batch, stage.torch.co_names, values)
                exec(stage.torch, SCOPE if len(batch.params) == 1 else TOGETHER, values)
            if kernels[k] is None:
                continue
            for name in self.by_torch[k]:
                if name not in met:
                    met[name] = self._met(name, values[name], batch)
                    self._set_addresses(batch, name, met[name])
            self.job.run_rows(kernels[k], first, last, batch.elements)
            if stage.sums:
                self._sum_batch(stage, batch, first, last, values)
        for name, value in self.kept:
            keep(batch.entries, name, values[value])

    def _take(self, batch: Batch, names: tuple[str, ...], values: dict[str, Any]) -> None:
        """Have the parameters and states ready that torch's lines name."""
        for name in names:
            if name in values or not (name == "p" or name in self.plan.formula.states):
                continue
            if name == "p":
                values[name] = stacked(batch.params)
            elif name in self.plan.states:
                place = self.plan.states.index(name)
                values[name] = stacked([states[place] for states in batch.states])
            else:
                values[name] = stacked([entry[name] for entry in batch.entries])

    def _sum_batch(
        self, stage: Stage, batch: Batch, first: int, last: int, values: dict[str, Any]
    ) -> None:
        """Add up what the chunks of a batch have summed, for each row."""
        rows, count = batch.rows, len(stage.sums)
        chunks = self.sums[first * count : last * count].reshape(-1, count)
        found = chunks  # a chunk for each row, if not more
        if len(chunks) > len(batch.params):
            found = np.add.reduceat(chunks, self.first[rows] - first, axis=0)
        for name, sums in zip(stage.sums, found.T, strict=True):
            if name not in self.words:
                self.summed.setdefault(name, np.zeros(len(self.first)))[rows] = sums
                continue
            done = self._finished(name, sums, rows)
            values[name] = float(done[0])
            if len(done) > 1:
                shape = (len(done), *[1] * batch.params[0].ndim)
                values[name] = torch.from_numpy(done).to(self.dtype).view(shape)
            if name in self.plan.wholes:
                self.wholes[rows, self.plan.wholes.index(name)] = done

    def _met(self, name: str, t: Tensor, batch: Batch) -> Tensor:
        """Return a tensor of torch's as kernels meet it beside p: its dtype, shape and order."""
        p, count = batch.params[0], len(batch.params)
        shape, kind = p.shape, FULL if batch.spread else self.plan.shapes[name]
        if kind == ROW:
            shape = (*shape[:-1], 1)
        elif kind == COLUMN:
            shape = (*shape[:-2], 1, *shape[-1:])
        if count > 1:
            shape = (count, *shape)
        if t.dtype is self.dtype and t.shape == shape:
            if t.is_contiguous() and p.is_contiguous():
                return t
            if kind == FULL and t.stride() == p.stride():
                return t
        t = t.expand(shape)
        if kind == FULL and count == 1:
            return torch.empty_like(p, memory_format=torch.preserve_format).copy_(t)
        return t.to(self.dtype).contiguous()
