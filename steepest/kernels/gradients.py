"""Gradients alone: their norm, and scaling or bounding them in place."""

import threading
from collections.abc import Sequence
from typing import Self

import numpy as np
from torch import Tensor

import steepest.kernels.job as J
from steepest.kernels import cpu
from steepest.kernels.launch import Job, describe, pointers
from steepest.kernels.tensors import why_not


class Gradients:
    """A list of gradients of one dtype.

    Keeps no tensor alive: it knows what the list looked like, and is used again for any list that
    looks the same, with the addresses of that moment. The caller keeps the list meanwhile.
    """

    _recent = threading.local()

    @classmethod
    def of(cls, grads: Sequence[Tensor]) -> Self | None:
        """Return the gradients ready to be read and written; None where no kernel serves."""
        known = cls._recent.__dict__
        found: Self | None = known.get(str(len(grads)))
        things = tuple(grads)
        if found is None or not found._take(things):
            if len(known) > 8:
                known.clear()
            if not things or len({g.dtype for g in things}) > 1 or any(map(why_not, things)):
                return None
            found = known[str(len(grads))] = cls(things)
            if not found._take(things):
                return None
        return found

    def __init__(self, grads: tuple[Tensor, ...]) -> None:
        rows = np.full((len(grads), J.GRAD + 1), -1, np.int64)
        rows[:, 1] = 0  # no step counter
        self.job = Job([g.numel() for g in grads], rows, grads[0].dtype)
        self.factor = self.job.point(J.SCALARS, np.zeros(1))
        describe(self.job, (), grads)

    def _take(self, grads: tuple[Tensor, ...]) -> bool:
        return not cpu.fixed("moved").call(pointers(grads), 0, self.job.address)

    def norm(self) -> float:
        """Return the Euclidean norm of all gradients together, in float64."""
        return self.job.squares() ** 0.5

    def scale(self, grads: Sequence[Tensor], factor: float) -> None:
        """Multiply every gradient, in place; `grads` as `of` was given them."""
        self._write("scale", grads, factor)

    def clamp(self, grads: Sequence[Tensor], limit: float) -> None:
        """Bound every gradient's elements to plus and minus a limit, in place; NaN stays."""
        self._write("clamp", grads, limit)

    def _write(self, name: str, grads: Sequence[Tensor], factor: float) -> None:
        self.factor[0] = factor
        # one thread writes gradients that overlap, in order
        self.job.run(cpu.fixed(name), alone=self.job.gradients_overlap())
        things = tuple(grads)
        cpu.fixed("finish").call(pointers(things), 0, self.job.address)
