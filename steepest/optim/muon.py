"""Muon: a step along the nearest matrix with orthonormal rows or columns to the running mean.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/
Size of the step by shape: "original" is Jordan et al.'s; "match_rms_adamw" is Liu et al. 2025,
equation 4, https://arxiv.org/abs/2502.16982
Differs from Jordan et al., as torch does: momentum is a running mean (1 - momentum of the gradient
enters, not all of it), which the orthogonalization makes the same step, and weight decay is 0.1.
Differs from torch: gradients may be sparse; matrices of equal shape are orthogonalized together, so
a product's last bit in bfloat16 may round the other way.
"""

from torch import Tensor

from steepest.formula import columns, maximum, orthogonalize, rows, sqrt
from steepest.optim.optimizer import Optimizer


def muon(
    p, g, momentum_buffer,
    *, lr=1e-3, weight_decay=0.1, momentum=0.95, nesterov=True,
    ns_coefficients=(3.4445, -4.7750, 2.0315), eps=1e-7, ns_steps=5, adjust_lr_fn=None,
):  # fmt: skip
    momentum_buffer = momentum_buffer + (1 - momentum) * (g - momentum_buffer)
    direction = momentum_buffer
    if nesterov:
        direction = g + momentum * (momentum_buffer - g)
    if adjust_lr_fn == "match_rms_adamw":
        adjusted_lr = lr * 0.2 * sqrt(maximum(rows(p), columns(p)))
    else:
        adjusted_lr = lr * sqrt(maximum(1.0, rows(p) / maximum(columns(p), 1)))
    p = (1 - lr * weight_decay) * p
    p = p - adjusted_lr * orthogonalize(direction, ns_steps, ns_coefficients, eps)
    return p, momentum_buffer


class Muon(Optimizer, formula=muon, options=()):
    """Momentum orthogonalized, for the matrices of a network's hidden layers."""

    @classmethod
    def cannot_serve(cls, p: Tensor) -> str | None:
        """Ask for real matrices."""
        if p.ndim == 2 and not p.is_complex():
            return None
        return (
            "a parameter must be a real matrix, of two dimensions: give others to AdamW, or all to "
            "optim.Mixed (Muon for matrices, AdamW for the rest)"
        )
