"""SOAP: Adam in the eigenbases of the gradients' products of rows and of columns.

Vyas et al. 2024, Algorithm 3, https://arxiv.org/abs/2409.11321
Bases are refined by their Algorithm 4. The states `left`, `right` are their L and R, `left_basis`,
`right_basis` their Q_L and Q_R.
Differs from Vyas et al., as their code does: the first update only sets up the bases, Adam's bias
is corrected, and the mean of squares has its root before eps is added; weight decay is decoupled,
after the step.
Differs from their code: bases are not sorted anew by their eigenvalues; a tensor of more than two
dimensions counts as the matrix of its first by all the others (theirs: a basis for each dimension,
or some of them merged). A side longer than `max_precondition_dim` keeps its own basis, and so does
all of a vector, which is Adam's then.
"""

from torch import Tensor

from steepest.formula import (
    eigenbasis,
    elements,
    from_columns,
    from_rows,
    gram_of_columns,
    gram_of_rows,
    into_columns,
    into_rows,
    rank,
    refined_basis,
    rows,
    sqrt,
)
from steepest.optim.hyper import LAYOUT
from steepest.optim.optimizer import Optimizer


def soap(
    p, g, exp_avg, exp_avg_sq, left, right, left_basis, right_basis, age,
    *, step, lr=3e-3, betas=(0.95, 0.95), shampoo_beta=None, eps=1e-8, weight_decay=1e-2,
    precondition_frequency=10, max_precondition_dim=10_000,
):  # fmt: skip
    beta1, beta2 = betas
    if step > 1:
        exp_avg = beta1 * exp_avg + (1 - beta1) * g
        turned = g
        direction = exp_avg
        if left_basis is not None:
            turned = into_rows(turned, left_basis)
            direction = into_rows(direction, left_basis)
        if right_basis is not None:
            turned = into_columns(turned, right_basis)
            direction = into_columns(direction, right_basis)
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * turned * turned
        direction = direction / (sqrt(exp_avg_sq) + eps)
        if left_basis is not None:
            direction = from_rows(direction, left_basis)
        if right_basis is not None:
            direction = from_columns(direction, right_basis)
        step_size = lr * sqrt(1 - beta2 ** (step - 1)) / (1 - beta1 ** (step - 1))
        p = (1 - lr * weight_decay) * (p - step_size * direction)
        age = age + 1  # updates since the bases were refined
    else:  # a checkpoint of the first update has every state, too
        exp_avg = 0 * exp_avg
        exp_avg_sq = 0 * exp_avg_sq
    keep = beta2
    if shampoo_beta is not None:
        keep = shampoo_beta
    if rank(p) > 1 and rows(p) <= max_precondition_dim:
        if left is None:
            left = (1 - keep) * gram_of_rows(g)
        else:
            left = keep * left + (1 - keep) * gram_of_rows(g)
        if left_basis is None:
            left_basis = eigenbasis(left)
        elif age >= precondition_frequency:
            left_basis = refined_basis(left, left_basis)
    if rank(p) > 1 and elements(p) <= rows(p) * max_precondition_dim:
        if right is None:
            right = (1 - keep) * gram_of_columns(g)
        else:
            right = keep * right + (1 - keep) * gram_of_columns(g)
        if right_basis is None:
            right_basis = eigenbasis(right)
        elif age >= precondition_frequency:
            right_basis = refined_basis(right, right_basis)
    if age >= precondition_frequency:
        age = 0
    return p, exp_avg, exp_avg_sq, left, right, left_basis, right_basis, age


class SOAP(Optimizer, formula=soap, options=LAYOUT):
    """Adam in the bases in which a matrix's rows and its columns are uncorrelated."""

    @classmethod
    def cannot_serve(cls, p: Tensor) -> str | None:
        """Ask for real parameters."""
        return "a parameter must be real: give others to AdamW" if p.is_complex() else None
