"""Clipping of gradients, by torch's names.

An optimizer's own `clip_norm=` does the same while it reads the gradients for its update, and is
the cheaper way: it does not write them.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from steepest.kernels.gradients import Gradients


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale gradients in place so that the norm of all of them together is at most `max_norm`.

    Pascanu, Mikolov & Bengio 2013, Algorithm 1, https://arxiv.org/abs/1211.5063

    Args:
        parameters: tensors whose `grad` is clipped; those without one are passed over.
        max_norm: the bound.
        norm_type: the p of the p-norm; kernels serve 2, torch every other, `inf` among them.
        error_if_nonfinite: raise when the norm is NaN or infinite, before anything is changed.
        foreach: torch's choice of implementation, for gradients that no kernel serves.

    Returns:
        The norm before clipping, a tensor of shape ().

    Raises:
        RuntimeError: the norm is not finite and `error_if_nonfinite` is set.
    """
    known = _listed(parameters)
    grads = _grads(known)
    found = Gradients.of(grads) if float(norm_type) == 2.0 else None
    if found is None:
        known = known or parameters  # torch has a word for a generator that is empty
        return torch.nn.utils.clip_grad_norm_(
            known, max_norm, norm_type, error_if_nonfinite, foreach
        )
    norm = found.norm()
    if error_if_nonfinite and not norm < float("inf"):
        raise RuntimeError(
            f"the total norm of order 2 of the gradients is {norm}, so they cannot be clipped; "
            "set error_if_nonfinite=False to scale them by it all the same"
        )
    factor = float(max_norm) / (norm + 1e-6)
    if not factor >= 1:  # NaN scales too, as in torch
        found.scale(grads, factor)
    return torch.tensor(norm, dtype=grads[0].dtype)


def clip_grad_value_(
    parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None
) -> None:
    """Bound every element of the gradients to [-clip_value, clip_value], in place.

    Args:
        parameters: tensors whose `grad` is clipped; those without one are passed over.
        clip_value: the bound of an element's size.
        foreach: torch's choice of implementation, for gradients that no kernel serves.
    """
    known, limit = _listed(parameters), float(clip_value)
    grads = _grads(known)
    found = Gradients.of(grads)
    if found is None or math.isnan(limit):
        torch.nn.utils.clip_grad_value_(known, limit, foreach)
    else:
        found.clamp(grads, limit)


def _listed(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [parameters] if isinstance(parameters, Tensor) else list(parameters)


def _grads(parameters: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]
