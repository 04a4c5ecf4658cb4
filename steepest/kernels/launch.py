"""Launch: tables of addresses over many tensors, and one run of a kernel over all of them.

A kernel writes through raw addresses, so none is used that was not compared with its tensor in
the same step: `Launch.fits` reads layout and address of every tensor through torch's stable C
interface (some nanoseconds each) and refuses when anything but a gradient has moved.
"""

import os
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

import steepest.kernels.job as J
from steepest.formula import Plan
from steepest.kernels import cpu
from steepest.kernels.staged import Staged, needs_stages
from steepest.kernels.tensors import OFFSETS, PLAIN, not_plain

if TYPE_CHECKING:
    from steepest.kernels.machine import Native

Given = Mapping[str, float] | tuple[tuple[str, float], ...]
"""Numbers by name that the host takes besides."""
CHUNK = 32_768
"""Elements of a chunk: with its states it fits the second-level cache (bench/chunks.py)."""
PARALLEL = 1 << 16
"""Elements from which a second thread pays (bench/chunks.py)."""
LONG = 1 << 22
"""Elements from which a step lets other Python threads run: it takes a millisecond and more."""

ITEMS = 0 if OFFSETS is None else OFFSETS.items
_grad = attrgetter("grad")


def _stay_alone() -> None:
    """Use one thread: the OpenMP pool of the parent is not there, and waiting for it never ends."""
    global PARALLEL
    PARALLEL = sys.maxsize


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_stay_alone)


# ---- jobs ---------------------------------------------------------------------------------------


class Job:
    """The fields that native code reads, and the arrays that they point to."""

    def __init__(self, lengths: Sequence[int], rows: np.ndarray, dtype: torch.dtype) -> None:
        """Lay out rows of tensors; `rows` (n, width) as job.py says, `lengths` elements of each."""
        self.fields = np.zeros(J.LENGTH, np.int64)
        self.address = self.fields.ctypes.data
        self.arrays: dict[int, np.ndarray] = {}
        self.elements = sum(lengths)
        self.sizes = np.array(lengths, np.int64) * dtype.itemsize
        chunks = np.array(list(_chunks(lengths)), np.int64).reshape(-1, J.CHUNK_WIDTH)
        self.chunk_count = len(chunks)
        self[J.CHUNK_COUNT] = len(chunks)
        self[J.ROW_COUNT], self[J.ROW_WIDTH] = rows.shape
        self[J.ITEM_SIZE] = dtype.itemsize
        self.point(J.CHUNKS, chunks)
        self.point(J.ROWS, rows)
        self.point(J.LENGTHS, self.sizes)

    def __setitem__(self, place: int, value: int) -> None:
        self.fields[place] = value

    def point(self, place: int, array: np.ndarray) -> np.ndarray:
        """Have a field point to an array, and keep the array alive."""
        self.arrays[place] = array
        self.fields[place] = array.ctypes.data
        return array

    def run(self, native: "Native", alone: bool = False) -> None:
        """Run native code over all chunks, by torch's threads where that pays."""
        self.run_rows(native, 0, self.chunk_count, 0 if alone else self.elements)

    def run_rows(self, native: "Native", first: int, last: int, elements: int) -> None:
        """Run native code over the chunks of some rows, `first` up to, not including, `last`."""
        self.fields[J.NEXT], self.fields[J.CHUNK_COUNT] = first, last
        try:
            if elements > PARALLEL:
                cpu.parallel_for()(0, last - first, 1, native.address, self.address)
            else:
                native.call(0, 0, self.address)
        finally:
            self.fields[J.CHUNK_COUNT] = self.chunk_count

    def gradients_overlap(self) -> bool:
        """Tell whether two gradients share memory, so that writing one changes the other."""
        return _overlap(self.gradients())

    def gradients(self) -> np.ndarray:
        """Return the memory of the gradients: (first, last + 1) each."""
        first = self.arrays[J.ROWS][:, J.GRAD]
        return np.stack([first, first + self.sizes], axis=1)

    def squares(self) -> float:
        """Return the gradients' sum of squares, in float64, the same for any number of threads."""
        partials = self.arrays.get(J.PARTIALS)
        if partials is None:
            partials = self.point(J.PARTIALS, np.zeros(self.chunk_count))
        self.run(cpu.fixed("squares"))
        return sum(partials.tolist()) if len(partials) < 100 else float(partials.sum())


def _chunks(lengths: Sequence[int]) -> Iterable[tuple[int, int, int]]:
    """Cut rows into chunks (row, first element, elements); an empty row is one empty chunk."""
    for row, length in enumerate(lengths):
        for start in range(0, max(length, 1), CHUNK):
            yield row, start, min(CHUNK, length - start)


def describe(job: Job, objects: tuple[Tensor, ...], grads: tuple[Tensor, ...]) -> None:
    """Record what tensors look like, so that `moved` can tell when one is another.

    `objects` must be kept alive as long as the job is used: they are read where they stand.
    """
    assert OFFSETS is not None
    job[J.HANDLE], job[J.KIND], job[J.KEYS] = OFFSETS.handle, OFFSETS.kind, OFFSETS.keys
    job[J.TENSOR], job[J.PARAMETER], job[J.PLAIN] = id(Tensor), id(Parameter), PLAIN
    job[J.OBJECTS], job[J.OBJECT_COUNT] = pointers(objects), len(objects)
    job.point(J.PRINTS, np.zeros((len(objects), 2), np.int64))
    job.point(J.GRAD_PRINTS, np.zeros(len(grads), np.int64))
    job.point(J.SCRATCH, np.zeros(4, np.int64))
    cpu.fixed("learn").call(pointers(grads), 0, job.address)


def pointers(objects: tuple[Any, ...]) -> int:
    """Return the address at which a tuple keeps pointers to its items."""
    return id(objects) + ITEMS


# ---- launches -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Part:
    """Rows of one launch that share a param group, a step and numbers, and so their scalars."""

    group: dict[str, Any]
    step: int
    own: dict[str, Any] = field(default_factory=dict)
    """What the host takes besides: states of one number, totals, `p` for its shape."""
    params: list[Tensor] = field(default_factory=list)
    states: list[tuple[Tensor, ...]] = field(default_factory=list)
    counters: list[Tensor | None] = field(default_factory=list)
    numbers: list[tuple[Tensor, ...]] = field(default_factory=list)
    """For each row, the tensors of the plan's states of one number: float64, of one element."""
    entries: list[dict[str, Any]] = field(default_factory=list)
    """For each row, its states by name, where torch's words keep theirs."""
    values: tuple[Any, ...] = ()
    """What the host returned for the step at hand."""


class Launch:
    """One plan over all tensors of one dtype that it serves.

    Args:
        plan: the plan; its states are the columns of each part's `states`.
        dtype: float32 or float64, of every tensor but the counters (float32) and numbers (float64).
        parts: the rows, for each of which `why_not` said None.
    """

    def __init__(self, plan: Plan, dtype: torch.dtype, parts: list[Part]) -> None:
        self.plan = plan
        self.parts = parts
        self.kernel = cpu.kernel(plan, dtype)
        self.params = [p for part in parts for p in part.params]
        self.objects, rows = self._rows()
        self.job = Job([p.numel() for p in self.params], rows, dtype)
        self.held: tuple[Tensor, ...] = ()
        """The gradients, from `fits` to the end of `run`: another thread may drop its own."""
        describe(self.job, self.objects, tuple(map(_grad, self.params)))
        numbers = len(plan.numbers)
        width = J.FIRST_SCALAR + numbers + len(plan.scalars)
        self.job[J.SCALAR_WIDTH] = width
        scalars = self.job.point(J.SCALARS, np.zeros((len(parts), width)))
        self.job.point(J.STEPS, np.array([part.step for part in parts], np.float32))
        self.job[J.NUMBER_COUNT] = numbers
        held = [[part.own.get(name, 0.0) for name in plan.numbers] for part in parts]
        self.job.point(J.NUMBERS, np.array(held, np.float64))
        self._scalars = scalars.data.cast("B")
        self._stride = width * scalars.itemsize
        self._width = width - J.FIRST_SCALAR
        self._pack = struct.Struct(f"{width}d").pack_into
        self._moved = cpu.fixed("moved").call
        self.job[J.KERNEL] = self.kernel.address
        self.address = self.job.address
        self.staged = Staged(self, dtype) if needs_stages(plan) else None

    def _rows(self) -> tuple[tuple[Tensor, ...], np.ndarray]:
        rows, others = [], []
        between = len(self.plan.arrays) - len(self.plan.states) - 2  # p and g
        for k, part in enumerate(self.parts):
            for p, states, counter, numbers in zip(
                part.params, part.states, part.counters, part.numbers, strict=True
            ):
                place = 0 if counter is None else counter.data_ptr()
                rows.append([k, place, p.data_ptr(), -1, *(s.data_ptr() for s in states)])
                rows[-1] += [0] * between + [n.data_ptr() for n in numbers]
                others += [*states, *numbers] if counter is None else [*states, *numbers, counter]
        return (*self.params, *others), np.array(rows, np.int64)

    def spans(self) -> np.ndarray:
        """Return the memory of every tensor but the gradients: (first, last + 1) each."""
        rows = self.job.arrays[J.ROWS]
        count = len(self.plan.numbers)
        first = np.delete(rows, [0, J.GRAD], axis=1)
        first[:, 2 + len(self.plan.states) : first.shape[1] - count] = 0  # between stages: our own
        last = first + self.job.sizes[:, None]
        last[:, 0] = first[:, 0] + np.float32().itemsize * (first[:, 0] != 0)  # a step counter
        if count:
            last[:, -count:] = first[:, -count:] + np.float64().itemsize
        last[first == 0] = 0
        return np.stack([first, last], axis=-1).reshape(-1, 2)

    def prepare(self, scale: float, given: Given = ()) -> bool:
        """Compute the scalars of this step; False when a host decision no longer holds.

        `scale` multiplies every gradient; a group that maximizes turns its sign. `given` are the
        numbers of the extras, and totals once they are known.
        """
        host, offset = self.plan.host, 0
        for part in self.parts:
            group, step = part.group, part.step + 1
            if given:
                part.own.update(given)
            values = host(group, step, part.own)
            if values is None:
                return False
            part.values = values
            signed = -scale if group.get("maximize") else scale
            scalars = values[: self._width] if self.plan.objects else values
            self._pack(self._scalars, offset, step, signed, *scalars)
            offset += self._stride
        return True

    def fits(self) -> bool:
        """Tell whether every tensor is what and where it was; take the gradients' addresses."""
        self.held = tuple(map(_grad, self.params))
        if self._moved(id(self.held) + ITEMS, 0, self.address):
            return False
        return not (self.plan.extras.zero_grad and self.job.gradients_overlap())

    def run(self) -> None:
        """Update every row, after `prepare` and `fits` have said yes, and every stage before."""
        if self.staged is not None:
            self.staged.run()
            kernel = 0
        elif self.job.elements > PARALLEL:
            self.job.run(self.kernel)
            kernel = 0
        else:
            kernel = self.kernel.address
        cpu.fixed("finish").call(pointers(self.objects), kernel, self.address)
        if self.plan.extras.zero_grad:
            cpu.fixed("finish").call(pointers(self.held), 0, self.address)
        self.held = ()
        self._count()

    def run_if_fits(self) -> bool:
        """Do both at once, by one call into native code unless that takes long."""
        if self.job.elements > LONG or self.staged is not None or self.plan.extras.zero_grad:
            if not self.fits():
                return False
            self.run()
            return True
        kernel = self.kernel if self.job.elements <= PARALLEL else cpu.fixed("in_parallel")
        if self._moved(0, kernel.address, self.address):
            return False
        self._count()
        return True

    def _count(self) -> None:
        numbers = self.plan.numbers
        for part in self.parts:
            part.step += 1
            if numbers:
                part.own.update(zip(numbers, part.values, strict=False))


def share_memory(launches: Sequence[Launch], others: Iterable[Tensor]) -> bool:
    """Tell whether two tensors of launches, or of others, share memory: order would matter.

    Each launch learns of the memory of all, in which no gradient may lie.
    """
    far = [_span(t) for t in others if not_plain(t) is None]
    spans = np.concatenate([np.array(far, np.int64).reshape(-1, 2), *(a.spans() for a in launches)])
    spans = _sorted(spans)
    for launch in launches:
        launch.job.point(J.WRITTEN, spans)
        launch.job[J.WRITTEN_COUNT] = len(spans)
    if _overlap(spans):
        return True
    apart = [launch.fits() for launch in launches]
    for launch in launches:
        launch.held = ()
    return not all(apart)


def gradients_meet(launches: Sequence[Launch], others: Iterable[Tensor]) -> bool:
    """Tell whether two gradients, of launches that fit or others, share memory."""
    there = [g for g in others if g.layout is torch.strided and g.device.type == "cpu"]
    far = np.array([_span(g) for g in there], np.int64).reshape(-1, 2)
    return _overlap(np.concatenate([far, *(launch.job.gradients() for launch in launches)]))


def _sorted(spans: np.ndarray) -> np.ndarray:
    """Return ranges of memory (first, last + 1) in order, without the empty ones."""
    spans = spans[spans[:, 0] < spans[:, 1]]
    return np.ascontiguousarray(spans[np.argsort(spans[:, 0])])


def _overlap(spans: np.ndarray) -> bool:
    """Tell whether two ranges of memory have a byte in common."""
    spans = _sorted(spans)
    return bool((spans[1:, 0] < spans[:-1, 1]).any())


def lies_within(launch: Launch, g: Tensor) -> bool:
    """Tell whether a gradient lies in memory that `share_memory` has found to be written."""
    if not_plain(g) is not None:
        return False
    spans = launch.job.arrays[J.WRITTEN]
    first, last = _span(g)
    k = int(np.searchsorted(spans[:, 1], first, side="right"))
    return k < len(spans) and bool(spans[k, 0] < last)


def _span(t: Tensor) -> tuple[int, int]:
    """Return the first address of a tensor's memory and the one behind its last."""
    reach = sum((n - 1) * stride for n, stride in zip(t.shape, t.stride(), strict=True))
    return t.data_ptr(), t.data_ptr() + (reach + 1) * t.itemsize if t.numel() else t.data_ptr()
