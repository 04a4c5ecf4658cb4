"""The words of the formula language: what a formula may call, on numbers and on tensors.

A word's meaning is defined here once. On tensors it is torch's function, on numbers the same in
float64; kernels spell it in their own language and are tested against this meaning.

>>> sqrt(4.0), log(0.0), sign(-3.0), maximum(2.0, math.nan)
(2.0, -inf, -1.0, nan)
>>> x = torch.tensor([-1.0, 4.0])
>>> sqrt(x), where(x > 0, x, 0.5)
(tensor([nan, 2.]), tensor([0.5000, 4.0000]))
"""

import builtins
import math
from collections.abc import Callable

import torch
from torch import Tensor

abs = builtins.abs
Value = Tensor | float


def sqrt(x: Value) -> Value:
    """Return the square root; NaN below zero."""
    if isinstance(x, Tensor):
        return torch.sqrt(x)
    return math.sqrt(x) if x >= 0 else math.nan


def exp(x: Value) -> Value:
    """Return e to the power x; infinity where that overflows."""
    if isinstance(x, Tensor):
        return torch.exp(x)
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def log(x: Value) -> Value:
    """Return the natural logarithm; minus infinity at zero, NaN below."""
    if isinstance(x, Tensor):
        return torch.log(x)
    return math.log(x) if x > 0 else -math.inf if x == 0 else math.nan


def sign(x: Value) -> Value:
    """Return -1, 0 or 1 with the sign of x; 0 for NaN, as torch does."""
    if isinstance(x, Tensor):
        return torch.sign(x)
    return float((x > 0) - (x < 0))


def maximum(a: Value, b: Value) -> Value:
    """Return the larger of two values; NaN when either is NaN."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.maximum(*_same_kind(a, b))
    return a if a > b or a != a else b


def minimum(a: Value, b: Value) -> Value:
    """Return the smaller of two values; NaN when either is NaN."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.minimum(*_same_kind(a, b))
    return a if a < b or a != a else b


def where(condition: Tensor | bool, a: Value, b: Value) -> Value:
    """Return a where the condition holds, else b: the language's choice per element."""
    if not isinstance(condition, Tensor):
        return a if condition else b
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        # exact; cast when p is written
        a = torch.tensor(a, dtype=torch.float64, device=condition.device)
    return torch.where(condition, *_same_kind(a, b))


def _same_kind(a: Value, b: Value) -> tuple[Tensor, Tensor]:
    """Make a number a tensor of the other's dtype: a number never promotes the tensor's dtype."""
    like = a if isinstance(a, Tensor) else b
    assert isinstance(like, Tensor)
    # not `new_tensor`, which refuses where a sign is yet to be turned
    a = a if isinstance(a, Tensor) else torch.tensor(a, dtype=like.dtype, device=like.device)
    b = b if isinstance(b, Tensor) else torch.tensor(b, dtype=like.dtype, device=like.device)
    return a, b


def inverse(x: float) -> float:
    """Return 1/x for a hoisted scalar; signed infinity at zero, as a tensor division gives."""
    return 1.0 / x if x else math.copysign(math.inf, x)


WORDS: dict[str, Callable] = {
    "abs": builtins.abs,
    "exp": exp,
    "log": log,
    "maximum": maximum,
    "minimum": minimum,
    "sign": sign,
    "sqrt": sqrt,
    "where": where,
}
"""Every word by its name; `abs` is Python's own."""

ARITY = {"maximum": 2, "minimum": 2, "where": 3}
"""How many values a word takes, where that is not one."""
