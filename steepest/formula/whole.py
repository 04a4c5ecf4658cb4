"""Words that see a whole tensor, where an element's word sees one number of it.

They end one kernel and begin the next. Sums run inside a kernel, in float64; torch computes what
needs the tensor's rows and columns. On a plain number each means what it does to a tensor of one.

>>> norm(torch.tensor([3.0, 4.0])), mean(torch.tensor([3.0, 4.0])), norm(-2.0)
(tensor(5.), tensor(3.5000), 2.0)
>>> row_mean(torch.tensor([[1.0, 3.0], [5.0, 7.0]]))
tensor([[2.],
        [6.]])
>>> rank(torch.zeros(2, 3)), rows(torch.zeros(2, 3)), columns(torch.zeros(2, 3))
(2, 2, 3)
"""

import builtins
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from steepest.formula.bases import (
    eigenbasis,
    from_columns,
    from_rows,
    gram_of_columns,
    gram_of_rows,
    into_columns,
    into_rows,
    refined_basis,
)
from steepest.formula.shapes import COLUMN, CORNER, FULL, MATRIX, NUMBER, ROW, TOTAL
from steepest.formula.words import Value

WIDE = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float32: torch.float64}
"""The dtype in which a tensor's elements are summed, where that is not its own."""


# ---- one number for a tensor --------------------------------------------------------------------


def norm(x: Value) -> Value:
    """Return the Euclidean norm of a parameter's elements: the root of the sum of squares."""
    if not isinstance(x, Tensor):
        return builtins.abs(x)
    return gathered(torch.linalg.vector_norm(x, dtype=WIDE.get(x.dtype))).to(x.dtype)


def mean(x: Value) -> Value:
    """Return the mean over a parameter's elements; NaN when it has none."""
    if not isinstance(x, Tensor):
        return x
    return gathered(x.mean(dtype=WIDE.get(x.dtype))).to(x.dtype)


def total(x: Value) -> Value:
    """Return the sum over the elements of all parameters of the optimizer together."""
    if _totals.current is not None:
        return _totals.current(x)
    return float(gathered(x.sum(dtype=torch.float64))) if isinstance(x, Tensor) else x


def gathered(x: Tensor) -> Tensor:
    """Return the whole of a number of which a process holds a part: a DTensor's sum is that."""
    return getattr(x, "full_tensor", lambda: x)()


def spread(x: Tensor, like: Tensor | None = None) -> Tensor:
    """Return a DTensor that is no longer a sum over processes, and lies as another does."""
    placements = getattr(like, "placements", getattr(x, "placements", None))
    if placements is None:
        return x
    from torch.distributed.tensor import DTensor, Replicate  # slow, and only DTensors need it

    whole = [Replicate() if place.is_partial() else place for place in placements]
    if not isinstance(x, DTensor):
        assert isinstance(like, DTensor)
        mesh = like.device_mesh
        x = DTensor.from_local(x, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return x.redistribute(placements=whole)


class _Totals(threading.local):
    """Who answers `total` in this thread: the reference asks each tensor for its share before."""

    current: Callable[[Value], float] | None = None


_totals = _Totals()


@contextmanager
def totals(answer: Callable[[Value], float]):
    """Have `total` answered by a function of its argument, within a `with`."""
    before, _totals.current = _totals.current, answer
    try:
        yield
    finally:
        _totals.current = before


# ---- rows, columns and matrices -----------------------------------------------------------------


def row_mean(x: Value) -> Value:
    """Return the mean of each row, (..., n, m) -> (..., n, 1)."""
    if not isinstance(x, Tensor) or x.shape[-1:] == (1,):
        return x
    return spread(x.mean(-1, keepdim=True))


def column_mean(x: Value) -> Value:
    """Return the mean of each column, (..., n, m) -> (..., 1, m)."""
    if not isinstance(x, Tensor) or x.shape[-2:-1] == (1,):
        return x
    return spread(x.mean(-2, keepdim=True))


def orthogonalize(
    x: Tensor,
    steps: int = 5,
    coefficients: Sequence[float] = (3.4445, -4.7750, 2.0315),
    eps: float = 1e-7,
) -> Tensor:
    """Return about the nearest matrix with orthonormal rows or columns, by Newton-Schulz.

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/: `a X + (b A + c A A) X` with
    `A = X X^T`, computed in bfloat16; singular values come to lie between about 0.5 and 1.5.

    Args:
        x: matrices (..., n, m).
        steps: iterations.
        coefficients: a, b, c.
        eps: the least norm that x is divided by.
    """
    a, b, c = coefficients
    given, x = x, gathered(x)
    tall = x.shape[-2] > x.shape[-1]
    y = x.mT if tall else x
    y = y.bfloat16()
    y = y / torch.linalg.matrix_norm(y, keepdim=True).clamp(min=eps)
    multiply = torch.addmm if y.ndim == 2 else torch.baddbmm
    for _ in range(steps):
        gram = y @ y.mT
        y = multiply(y, multiply(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return spread((y.mT if tall else y).to(x.dtype), like=given)


# ---- facts of a parameter -----------------------------------------------------------------------


def rank(p: Value) -> int:
    """Return a parameter's number of dimensions."""
    return p.ndim if isinstance(p, Tensor) else 0


def rows(p: Value) -> int:
    """Return the length of the first dimension; 1 where there is none."""
    return p.shape[0] if isinstance(p, Tensor) and p.ndim else 1


def columns(p: Value) -> int:
    """Return the length of the last dimension; 1 where there is none."""
    return p.shape[-1] if isinstance(p, Tensor) and p.ndim else 1


def elements(p: Value) -> int:
    """Return a parameter's number of elements."""
    return p.numel() if isinstance(p, Tensor) else 1


def epsilon(p: Value) -> float:
    """Return the rounding unit of a parameter's dtype: 1.2e-7 for float32."""
    return torch.finfo(p.dtype if isinstance(p, Tensor) else torch.float64).eps


# ---- the table ----------------------------------------------------------------------------------


class Whole(NamedTuple):
    """A word of a whole tensor: its function, what it makes of what, the numbers it may take."""

    function: Callable
    makes: dict[str, str]
    """The shape of the result, by that of the first argument."""
    tensors: int = 1
    """How many arguments are tensors; the others are the host's."""
    stacks: bool = True
    """Whether tensors of one shape may be given to it stacked, by a first dimension more."""


WHOLE: dict[str, Whole] = {
    "norm": Whole(norm, dict.fromkeys((FULL, ROW, COLUMN, CORNER, MATRIX), NUMBER)),
    "mean": Whole(mean, dict.fromkeys((FULL, ROW, COLUMN, CORNER, MATRIX), NUMBER)),
    "total": Whole(total, {FULL: TOTAL}),
    "row_mean": Whole(row_mean, {FULL: ROW, ROW: ROW, COLUMN: CORNER}),
    "column_mean": Whole(column_mean, {FULL: COLUMN, COLUMN: COLUMN, ROW: CORNER}),
    "orthogonalize": Whole(orthogonalize, {FULL: FULL}),
    "gram_of_rows": Whole(gram_of_rows, {FULL: MATRIX}, stacks=False),
    "gram_of_columns": Whole(gram_of_columns, {FULL: MATRIX}, stacks=False),
    "into_rows": Whole(into_rows, {FULL: FULL}, 2, stacks=False),
    "from_rows": Whole(from_rows, {FULL: FULL}, 2, stacks=False),
    "into_columns": Whole(into_columns, {FULL: FULL}, 2, stacks=False),
    "from_columns": Whole(from_columns, {FULL: FULL}, 2, stacks=False),
    "eigenbasis": Whole(eigenbasis, {MATRIX: MATRIX}, stacks=False),
    "refined_basis": Whole(refined_basis, {MATRIX: MATRIX}, 2, stacks=False),
}
"""Every word of a whole tensor by its name."""

FACTS: dict[str, Callable] = {
    "columns": columns, "elements": elements, "epsilon": epsilon, "rank": rank, "rows": rows,
}  # fmt: skip
"""Words of the host that take `p` and tell of its shape or dtype."""
