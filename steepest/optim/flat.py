"""Flat: all parameters of an optimizer as one vector; complex numbers as pairs of real ones."""

import torch
from torch import Tensor

_WIDE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def gradient(params: list[Tensor]) -> Tensor:
    """Return the gradients as one new vector, at least in float32; a missing one is zero."""
    return torch.cat([_gradient(p) for p in params])


def _gradient(p: Tensor) -> Tensor:
    g = torch.zeros_like(p) if p.grad is None else p.grad.detach()
    if g.layout is not torch.strided:
        g = g.to_dense()
    if g.is_complex():
        g = torch.view_as_real(g.resolve_conj())
    return g.reshape(-1).to(_WIDE.get(g.dtype, g.dtype))


def copy(params: list[Tensor]) -> list[Tensor]:
    """Return copies of the parameters, each in its own shape."""
    return [p.detach().clone() for p in params]


def move(params: list[Tensor], origin: list[Tensor], d: Tensor, t: float) -> None:
    """Put the parameters a length of t along the direction d from their origin."""
    offset = 0
    for p, old in zip(params, origin, strict=True):
        p.copy_(old)
        real = torch.view_as_real(p) if p.is_complex() else p
        if t != 0:  # 0 times infinity is not 0
            real.add_(d[offset : offset + real.numel()].view(real.shape), alpha=t)
        offset += real.numel()


def largest(t: Tensor) -> float:
    """Return the largest element, in absolute value."""
    return float(t.abs().max()) if t.numel() else 0.0


def is_finite(t: Tensor) -> bool:
    """Tell whether every element is finite."""
    return bool(t.isfinite().all())
