"""Which tensors a kernel can serve, and where a tensor object keeps what native code reads of it.

Native code looks at tensor objects at every step. It must never take one for plain that is not:
whatever torch knows of a tensor's nature (sparse, elsewhere, its sign yet to be turned, under a
functorch transform, made in inference mode) stands in its dispatch keys, one word in memory.
"""

import ctypes
import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from steepest.kernels import cpu

REALS = (torch.float32, torch.float64)


# ---- what a kernel can serve --------------------------------------------------------------------


def why_not(p: Tensor, *others: Tensor) -> str | None:
    """Say why no kernel can serve a parameter with its gradient and states; None when one can."""
    for t in (p, *others):
        if reason := not_plain(t):
            return reason
        if t.dtype not in REALS:
            return f"its dtype is {t.dtype}"
        if t.dtype is not p.dtype or t.shape != p.shape:
            return f"a {t.dtype} {tuple(t.shape)} belongs to a {p.dtype} {tuple(p.shape)}"
    if not all(t.is_contiguous() for t in (p, *others)):
        if len({_order(t) for t in (p, *others)}) > 1:
            return "its strides differ from those of its gradient or state"
        if not _is_dense(p):
            return "its elements overlap or leave gaps in memory"
    if any(t.untyped_storage().nbytes() < t.nbytes for t in (p, *others)):
        return "its storage is smaller than itself"
    return unfit()


def why_not_counter(step: Tensor) -> str | None:
    """Say why a kernel cannot count in a step tensor; None when it can."""
    if reason := not_plain(step):
        return f"its step cannot be counted natively: {reason}"
    if step.dtype is not torch.float32 or step.numel() != 1:
        return f"its step is a {step.dtype} {tuple(step.shape)}, not one float32"
    return None


def not_plain(t: Tensor) -> str | None:
    """Say what sets a tensor apart from a plain one of any dtype; None for a plain one."""
    if type(t) not in (Tensor, Parameter):
        return f"a {type(t).__name__} is not a plain tensor"
    if t.layout is not torch.strided:
        return f"its layout is {t.layout}"
    if t.device.type != "cpu":
        return f"it is on the device {t.device}"
    if t.is_neg():
        return "its sign is yet to be turned (a view made by torch.imag or conj)"
    if t.is_inference():
        return "it was made in inference mode"
    if not t.is_complex() and _keys(t) != PLAIN:
        return f"torch gives it a treatment of its own ({torch._C._dispatch_keys(t)})"
    return None


def _order(t: Tensor) -> tuple[tuple[int, int], ...]:
    """Return sizes and strides of the dimensions that decide the order in memory."""
    return tuple((n, s) for n, s in zip(t.shape, t.stride(), strict=True) if n != 1)


def _is_dense(t: Tensor) -> bool:
    expected = 1
    for n, stride in sorted(_order(t), key=lambda pair: pair[1]):
        if stride != expected:
            return False
        expected *= n
    return True


# ---- where things stand in memory ---------------------------------------------------------------


class Offsets(NamedTuple):
    """Where native code finds the parts of an object, in bytes from its beginning."""

    handle: int
    """In a tensor object: its C++ tensor."""
    kind: int
    """In any object: its type."""
    items: int
    """In a tuple: its items."""
    keys: int
    """In a C++ tensor: its dispatch keys."""


def _keys(t: Tensor) -> int:
    return torch._C._dispatch_keys(t).raw_repr()


def _find(address: int, value: int, size: int) -> set[int]:
    """Return the offsets from an address at which a word of this value stands."""
    words = (ctypes.c_int64 * (size // 8)).from_address(address)
    return {8 * k for k, word in enumerate(words) if word == value}


def _find_offsets() -> Offsets | None:
    """Look for the parts of objects that are known; None where they are not to be found."""
    negative = _PROBE._neg_view()
    held: tuple[Any, ...] = (_PROBE,)
    keys = [_find(t._cdata, _keys(t), _CPP_TENSOR) for t in (_PROBE, negative)]
    found = [
        _find(id(_PROBE), _PROBE._cdata, Tensor.__basicsize__),
        _find(id(_PROBE), id(Tensor), object.__basicsize__),
        _find(id(held), id(_PROBE), tuple.__basicsize__ + 8),
        keys[0] & keys[1],
    ]
    return Offsets(*map(min, found)) if all(found) else None


_CPP_TENSOR = 192
"""Bytes of a C++ tensor that are searched; it has at least as many."""
with torch.inference_mode(False):
    _PROBE = torch.empty(1, device="cpu", dtype=torch.float32)
PLAIN = _keys(_PROBE)
OFFSETS = _find_offsets()


@functools.cache
def unfit() -> str | None:
    """Say why no kernel can run in this process; None when they can."""
    if OFFSETS is None:
        return "this Python or torch does not keep tensors where the kernels look for them"
    missing = cpu.missing_torch()
    return f"this torch does not export {missing}" if missing else None
